//! Conditions in CEL, the Common Expression Language: of `SmartTag` rules over an event and its contact, of campaign
//! decisions and webhooks over a contact and the data of the trigger.
//!
//! ## What can be read
//!
//! - `event.type` (string), `event.time` (timestamp), `event.attributes` (map; whole numbers as int, others as double,
//!   null as null). Where no event set the trigger off, the type is empty, there are no attributes and no time.
//! - `values` (map of strings): the values that the call gave. Only of decisions and webhooks.
//! - `contact.id`, `contact.email`, `contact.phone`, `contact.external_id` (string, empty if there is none), `contact.status`
//!   (string: `pending`, `subscribed`, `unsubscribed`, `bounced`), `contact.created` (timestamp), `contact.tags` (list of
//!   names).
//! - `contact.fields.<key>`: text, paragraph, html, email, url and time as string, integer as int, decimal as double,
//!   boolean as bool, datetime as timestamp, date as timestamp (midnight UTC).
//! - `now` (timestamp).
//!
//! `contact`, `event` and `contact.fields` can't be used as a whole, always with what is wanted of them.
//! What isn't set is absent, as CEL has it: reading it ends the evaluation with an error, which is no match, unless
//! `has(contact.fields.city)` or `has(event.attributes.plan)` asked before, or the other side of `||` or `&&` decides.
//!
//! ## What can be done
//!
//! - Operators `! - + * / % == != < <= > >= in && || ?:`, `[index]`, `.member`, lists `[a, b]` and maps `{'a': b}`.
//! - `has(a.b)`; one of `all`, `exists`, `exists_one`, `map`, `filter`, as in `contact.tags.exists(t, t == 'vip')`.
//! - `size(x)`, `x.size()`; of strings `contains`, `startsWith`, `endsWith`.
//! - `bool(x)`, `int(x)`, `uint(x)`, `double(x)`, `string(x)`, `bytes(x)`, `timestamp('2026-01-31T08:30:00Z')`,
//!   `duration('36h')`.
//! - Of timestamps, with an optional time zone such as `'Europe/Berlin'` or `'+01:00'` (UTC unless given):
//!   `getFullYear`, `getMonth` (from 0), `getDayOfMonth` (from 0), `getDate` (from 1), `getDayOfWeek` (0 is Sunday),
//!   `getDayOfYear` (from 0), `getHours`, `getMinutes`, `getSeconds`, `getMilliseconds`; the last four of durations too.
//!
//! There is no `matches`: a regular expression is compiled at each evaluation and may take milliseconds and megabytes.
//!
//! ## What it may cost
//!
//! The CEL library knows no budget. Before parsing, `scan` bounds tokens and nesting; after it, `check` bounds the
//! tree; before each evaluation, `cost` reckons the most that it can do on these values.

mod check;
mod cost;
mod input;
mod scan;
mod shared;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::{Context, Env, ExecutionError, Program, Value};

use self::check::Reads;
use super::contact::Contact;
use super::example;
use super::field::{FieldType, STANDARD_FIELDS, standard_field};
use super::time::Micros;
use super::trigger_data::Values;
use crate::ids::ContactId;

/// Longest source, in bytes.
pub const MAX_SOURCE_BYTES: usize = 2_048;
/// Most tokens of a source.
pub const MAX_TOKENS: usize = 400;
/// Deepest nesting of parentheses, brackets and braces, and the most `? :`.
pub const MAX_NESTING: usize = 16;
/// Most nodes of the expression, those that `exists` and the like are made of included (about eight each).
pub const MAX_NODES: usize = 200;
/// Deepest tree, which is what `a + b + c + ...` makes of a long line.
pub const MAX_DEPTH: usize = 48;
/// Most that an evaluation may do, in steps: looking at a value once, or at 64 bytes of a string.
pub const MAX_COST: u64 = 20_000;
/// Longest name repeated in a message, in characters.
const MAX_NAME_CHARS: usize = 64;
/// 2026-01-31T08:30:00Z.
const SAMPLE_TIME: Micros = Micros(1_769_848_200_000_000);

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// What a condition may speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// `event`, `contact` and `now`: a rule of a smart tag.
    Event,
    /// `contact`, `event`, `values` and `now`: a campaign's decision, or a webhook.
    Trigger,
}

impl Scope {
    /// The variables.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Event => &["event", "contact", "now"],
            Self::Trigger => &["contact", "event", "values", "now"],
        }
    }
}

/// A checked condition. Cheap to clone; two are equal if their source and scope are.
#[derive(Clone)]
pub struct Condition(Arc<Inner>);

struct Inner {
    source: String,
    scope: Scope,
    /// An error only in what is stored.
    checked: Result<Checked, ConditionError>,
}

struct Checked {
    program: Program,
    reads: Reads,
}

/// What a condition is evaluated on.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The event; `None` if there is none.
    pub event: Option<EventFacts<'a>>,
    /// The values of the call, for [`Scope::Trigger`]; `None` if there are none.
    pub values: Option<&'a Values>,
    /// The contact.
    pub contact: &'a Contact,
    /// The type of a field by its key, standard or custom; asked only for the keys that the condition names.
    pub field_type: &'a dyn Fn(&str) -> Option<FieldType>,
    /// The names of the tags that the contact has; may be empty if [`Condition::reads_tags`] is false.
    pub tags: &'a [String],
    /// What `now` is.
    pub now: Micros,
}

/// The event of [`Facts`].
#[derive(Clone, Copy)]
pub struct EventFacts<'a> {
    /// Its dotted type.
    pub event_type: &'a str,
    /// Its attributes; what is no object counts as none.
    pub attributes: Option<&'a serde_json::Value>,
    /// When it happened.
    pub time: Micros,
}

impl Condition {
    /// Reads a condition, checks it, and tries it on a made-up contact and event.
    ///
    /// The trial refuses what can't come right on any contact: a result that is not true or false, or operands of types
    /// that don't go together. The sample has all standard fields, neither custom fields nor attributes, and what the
    /// trial doesn't reach (`event.type == 'x' && ...`) isn't tried.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, and where.
    pub fn parse(source: &str, scope: Scope) -> Result<Self, ConditionError> {
        let checked = Checked::of(source, scope)?;
        let condition = Self(Arc::new(Inner { source: source.to_owned(), scope, checked: Ok(checked) }));
        condition.try_on_sample()?;
        Ok(condition)
    }

    /// A stored condition. It was good when it was written; one that is good no more, as after an update of the CEL library,
    /// is an error at each evaluation, and keeps nothing else from being read. Read once, however many have it.
    #[must_use]
    pub fn stored(source: &str, scope: Scope) -> Self {
        shared::get(source, scope)
    }

    /// The source, as given.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// What it may speak of.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.0.scope
    }

    /// Whether it reads `contact.tags`, so that they must be loaded.
    #[must_use]
    pub fn reads_tags(&self) -> bool {
        self.0.checked.as_ref().is_ok_and(|checked| checked.reads.tags)
    }

    /// The keys of the fields that it reads, so that a caller can refuse those that there aren't.
    pub fn field_keys(&self) -> impl Iterator<Item = &str> {
        self.0.checked.iter().flat_map(|checked| checked.reads.fields.iter().map(String::as_str))
    }

    /// Whether the condition holds.
    ///
    /// # Errors
    ///
    /// If it can't be told. Counts as "no"; the text says why, without any value of the contact or the event.
    pub fn holds(&self, facts: &Facts<'_>) -> Result<bool, EvaluationError> {
        match self.evaluate(facts)? {
            Ok(Value::Bool(result)) => Ok(result),
            Ok(other) => Err(EvaluationError::NotBoolean { found: other.type_of().to_string() }),
            Err(error) => Err(EvaluationError::of(&error, &self.0.source)),
        }
    }

    fn evaluate(&self, facts: &Facts<'_>) -> Result<Result<Value, ExecutionError>, EvaluationError> {
        let Checked { program, reads } = self.0.checked.as_ref().map_err(EvaluationError::damaged)?;
        let inputs = input::Inputs::new(facts, self.0.scope, reads).ok_or(EvaluationError::TooCostly)?;
        cost::check(program.expression(), &inputs)?;
        contained(|| {
            let mut context = Context::with_env(Arc::clone(&ENV));
            for (name, value) in inputs.into_variables() {
                context.add_variable_as_val(name, value);
            }
            program.execute(&context)
        })
        .ok_or(EvaluationError::Internal)
    }

    fn try_on_sample(&self) -> Result<(), ConditionError> {
        let fields = STANDARD_FIELDS.iter().map(|field| (field.key, field.field_type));
        let contact = example::contact(ContactId(uuid::Uuid::nil()), SAMPLE_TIME, fields);
        let facts = Facts {
            event: Some(EventFacts { event_type: "form.subscribed", attributes: None, time: SAMPLE_TIME }),
            values: None,
            contact: &contact,
            field_type: &|key| standard_field(key).map(|field| field.field_type),
            tags: &["vip".to_owned(), "newsletter".to_owned()],
            now: SAMPLE_TIME,
        };
        let problem = match self.evaluate(&facts) {
            Ok(Ok(Value::Bool(_))) => return Ok(()),
            Ok(Ok(other)) => ConditionProblem::NotBoolean { found: other.type_of().to_string() },
            // All else depends on the values, and those of the sample are made up.
            Ok(Err(
                error @ (ExecutionError::NoSuchOverload(_)
                | ExecutionError::UnsupportedBinaryOperator(..)
                | ExecutionError::UnexpectedType { .. }
                | ExecutionError::UndeclaredReference(_)),
            )) => ConditionProblem::NeverRight { error: EvaluationError::of(&error, &self.0.source).to_string() },
            Ok(Err(_)) => return Ok(()),
            Err(error) => ConditionProblem::NeverRight { error: error.to_string() },
        };
        Err(ConditionError::at(&self.0.source, 0, problem))
    }
}

impl Checked {
    fn of(source: &str, scope: Scope) -> Result<Self, ConditionError> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(ConditionError::at(source, 0, ConditionProblem::TooLong { bytes: source.len() }));
        }
        if source.trim().is_empty() {
            return Err(ConditionError::at(source, 0, ConditionProblem::Blank));
        }
        scan::scan(source).map_err(|(offset, problem)| ConditionError::at(source, offset, problem))?;
        let program = contained(|| ENV.compile(source))
            .ok_or_else(|| ConditionError::at(source, 0, ConditionProblem::Internal))?
            .map_err(|errors| ConditionError::of_syntax(&errors))?;
        let reads = check::check(&program, scope).map_err(|(id, problem)| {
            let offset = program.source_info().offset_for(id).map_or(0, |(start, _)| start);
            ConditionError::at(source, usize::try_from(offset).unwrap_or(0), problem)
        })?;
        Ok(Self { program, reads })
    }
}

/// Runs code of the CEL library. None of its panics can be reached by what `check::check` lets through, as far as reading it
/// tells; but it is young, its input comes from users, and a rule that made it panic would do so at each event.
fn contained<T>(run: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(run)).ok()
}

/// Why a text is no condition, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {problem}")]
pub struct ConditionError {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub problem: ConditionProblem,
}

/// What can be wrong with a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConditionProblem {
    /// Empty, or only white space.
    #[error("must not be blank")]
    Blank,
    /// Longer than [`MAX_SOURCE_BYTES`].
    #[error("must be at most {MAX_SOURCE_BYTES} bytes; has {bytes}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// More than [`MAX_TOKENS`].
    #[error("must have at most {MAX_TOKENS} names, literals and operators; shorten it, or make two of it")]
    TooManyTokens,
    /// Deeper than [`MAX_NESTING`] or [`MAX_DEPTH`], or too many `? :`.
    #[error(
        "is nested too deeply: at most {MAX_NESTING} levels of ( [ {{, {MAX_NESTING} ? : and {MAX_DEPTH} levels of \
         operators"
    )]
    TooDeep,
    /// More than [`MAX_NODES`].
    #[error("has more than {MAX_NODES} parts; shorten it, or make two of it")]
    TooManyNodes,
    /// More than one comprehension.
    #[error("may have only one of all, exists, exists_one, map and filter")]
    SecondComprehension,
    /// Not CEL.
    #[error("{0}")]
    Syntax(String),
    /// A name that there isn't.
    #[error("{name} is unknown here; there are {known}")]
    UnknownName {
        /// The name.
        name: String,
        /// What there is.
        known: &'static str,
    },
    /// A variable that has to be used with a member.
    #[error("{name} can't be used as a whole; name what you want of it, like {example}")]
    Whole {
        /// Its name.
        name: &'static str,
        /// How it is used.
        example: &'static str,
    },
    /// No key of a field.
    #[error("{name} can't be the key of a field, which has only a to z, 0 to 9 and _")]
    FieldKey {
        /// What stands in its place.
        name: String,
    },
    /// A function that there isn't.
    #[error("{name} is no function that a condition can use")]
    UnknownFunction {
        /// Its name.
        name: String,
    },
    /// A function used in a wrong way.
    #[error("{name} is used as {usage}")]
    Arguments {
        /// Its name.
        name: &'static str,
        /// How it is used.
        usage: &'static str,
    },
    /// A part of CEL that isn't for conditions.
    #[error("{0} can't be used in a condition")]
    Unsupported(&'static str),
    /// Its result is never true or false.
    #[error("must result in true or false; on a sample it resulted in a {found}")]
    NotBoolean {
        /// The type of the result.
        found: String,
    },
    /// Its types don't go together.
    #[error("can't be evaluated on a sample: {error}")]
    NeverRight {
        /// Why.
        error: String,
    },
    /// The CEL library broke down on it.
    #[error("can't be read; please report it with its text")]
    Internal,
}

impl ConditionError {
    fn at(source: &str, offset: usize, problem: ConditionProblem) -> Self {
        let before = source.get(..offset).unwrap_or(source);
        let line = before.split('\n').count();
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        Self { line, column, problem }
    }

    fn of_syntax(errors: &cel::ParseErrors) -> Self {
        let first = errors.errors.first();
        let (line, column) = first.map_or((1, 1), |error| error.pos);
        let text = first.map_or("isn't CEL", |error| error.msg.as_str());
        let short: String = text.strip_prefix("Syntax error: ").unwrap_or(text).chars().take(200).collect();
        let number = |n: isize| usize::try_from(n).unwrap_or(1).max(1);
        Self { line: number(line), column: number(column), problem: ConditionProblem::Syntax(short) }
    }
}

/// Why it can't be told whether a condition holds. Without any value of the contact or the event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// A field or an attribute that isn't there.
    #[error("{name} is not set; ask has(...) before it is read")]
    Unset {
        /// Its key, as it stands in the source, or what it is.
        name: String,
    },
    /// Would go beyond [`MAX_COST`].
    #[error("would look at too many values of this contact or event")]
    TooCostly,
    /// The result is neither true nor false.
    #[error("resulted in a {found}, not in true or false")]
    NotBoolean {
        /// The type of the result.
        found: String,
    },
    /// Values that don't go together, or that a function doesn't take.
    #[error("{0}")]
    Failed(String),
    /// The condition is stored, and can't be read any more.
    #[error("can't be read any more, write it anew: {0}")]
    Damaged(String),
    /// The CEL library broke down.
    #[error("failed inside")]
    Internal,
}

impl EvaluationError {
    fn damaged(error: &ConditionError) -> Self {
        Self::Damaged(error.to_string())
    }

    /// Leaves out all that may be a value. A key may be one too (`event.attributes[contact.email]`), unless it stands in
    /// the source.
    fn of(error: &ExecutionError, source: &str) -> Self {
        let text = match error {
            ExecutionError::NoSuchKey(key) => {
                let known = source.contains(key.as_str());
                return Self::Unset { name: if known { shortened(key) } else { "a key".to_owned() } };
            }
            ExecutionError::NoSuchOverload(overload) => overload.to_string(),
            ExecutionError::UnexpectedType { got, want } => format!("found a {got} where a {want} is needed"),
            ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
                format!("can't {operator} {} and {}", left.type_of(), right.type_of())
            }
            ExecutionError::FunctionError { function, .. } => format!("{function} can't take the value it is given"),
            ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "divides by zero".to_owned(),
            ExecutionError::Overflow(operator, ..) => {
                format!("{operator} has a result beyond what there are numbers for")
            }
            ExecutionError::IndexOutOfBounds(_) => "reads a list past its end".to_owned(),
            ExecutionError::ValuesNotComparable(..) => "compares values that can't be compared".to_owned(),
            _ => "has values that don't go together".to_owned(),
        };
        Self::Failed(text)
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(MAX_NAME_CHARS).collect()
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.0.scope == other.0.scope && self.0.source == other.0.source
    }
}

impl Eq for Condition {}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.0.source).finish()
    }
}

#[cfg(test)]
mod tests;
