//! What a parsed condition may name and use, and what it reads.

use std::collections::BTreeSet;

use cel::Program;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::{ConditionProblem, MAX_DEPTH, MAX_NODES, Scope, shortened};
use crate::domain::field::FieldKey;

const EVENT_NAMES: &str = "event, contact and now";
const TRIGGER_NAMES: &str = "contact, event, values and now";
const EVENT_MEMBERS: &str = "type, time and attributes";
const CONTACT_MEMBERS: &str = "id, email, phone, external_id, status, created, tags and fields";

/// A function: its name, how many arguments it may have if called as `f(x)` and as `x.f()`, and how it is used.
type Function = (&'static str, &'static [usize], &'static [usize], &'static str);

const FUNCTIONS: [Function; 22] = [
    ("size", &[1], &[0], "size(x) or x.size()"),
    ("contains", &[], &[1], "x.contains('part')"),
    ("startsWith", &[], &[1], "x.startsWith('start')"),
    ("endsWith", &[], &[1], "x.endsWith('end')"),
    ("bool", &[1], &[], "bool(x)"),
    ("int", &[1], &[], "int(x)"),
    ("uint", &[1], &[], "uint(x)"),
    ("double", &[1], &[], "double(x)"),
    ("string", &[1], &[], "string(x)"),
    ("bytes", &[1], &[], "bytes(x)"),
    ("timestamp", &[1], &[], "timestamp('2026-01-31T08:30:00Z')"),
    ("duration", &[1], &[], "duration('36h')"),
    ("getFullYear", &[], &[0, 1], "x.getFullYear() or x.getFullYear('Europe/Berlin')"),
    ("getMonth", &[], &[0, 1], "x.getMonth() or x.getMonth('Europe/Berlin')"),
    ("getDayOfYear", &[], &[0, 1], "x.getDayOfYear() or x.getDayOfYear('Europe/Berlin')"),
    ("getDayOfMonth", &[], &[0, 1], "x.getDayOfMonth() or x.getDayOfMonth('Europe/Berlin')"),
    ("getDate", &[], &[0, 1], "x.getDate() or x.getDate('Europe/Berlin')"),
    ("getDayOfWeek", &[], &[0, 1], "x.getDayOfWeek() or x.getDayOfWeek('Europe/Berlin')"),
    ("getHours", &[], &[0, 1], "x.getHours() or x.getHours('Europe/Berlin')"),
    ("getMinutes", &[], &[0, 1], "x.getMinutes() or x.getMinutes('Europe/Berlin')"),
    ("getSeconds", &[], &[0, 1], "x.getSeconds() or x.getSeconds('Europe/Berlin')"),
    ("getMilliseconds", &[], &[0, 1], "x.getMilliseconds() or x.getMilliseconds('Europe/Berlin')"),
];

/// Calls left of these names are macros used with a wrong number of arguments.
const MACROS: [(&str, &str); 6] = [
    ("has", "has(contact.fields.city)"),
    ("all", "list.all(x, condition)"),
    ("exists", "list.exists(x, condition)"),
    ("exists_one", "list.exists_one(x, condition)"),
    ("map", "list.map(x, value)"),
    ("filter", "list.filter(x, condition)"),
];

const OPERATORS: [&str; 18] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
    operators::IN,
];

/// What a condition reads, so that nothing else is copied for it.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// `contact.tags`.
    pub(super) tags: bool,
    /// The keys of `contact.fields`.
    pub(super) fields: BTreeSet<String>,
    /// The keys of `event.attributes`, unless it is used as a whole.
    pub(super) attributes: BTreeSet<String>,
    /// Whether `event.attributes` is used as a whole.
    pub(super) all_attributes: bool,
    /// The keys of `values`, unless it is used as a whole.
    pub(super) values: BTreeSet<String>,
    /// Whether `values` is used as a whole.
    pub(super) all_values: bool,
}

type Found = (u64, ConditionProblem);

/// # Errors
///
/// The first thing that is wrong, and the node where.
pub(super) fn check(program: &Program, scope: Scope) -> Result<Reads, Found> {
    let mut walk = Walk { scope, nodes: 0, loops: Vec::new(), loops_seen: 0, reads: Reads::default() };
    walk.expr(program.expression(), 0)?;
    Ok(walk.reads)
}

/// `a.b['c']` as `a` and `[b, c]`: the name that an expression starts with and the keys that follow. `None` if it isn't
/// made of just these.
pub(super) fn path(expr: &IdedExpr) -> Option<(&str, Vec<&str>)> {
    let mut keys = Vec::new();
    let mut expr = expr;
    loop {
        match &expr.expr {
            Expr::Ident(name) => {
                keys.reverse();
                return Some((name, keys));
            }
            Expr::Select(select) if !select.test => {
                keys.push(select.field.as_str());
                expr = &select.operand;
            }
            Expr::Call(call) if call.func_name == operators::INDEX => {
                let [operand, key] = call.args.as_slice() else { return None };
                let Expr::Literal(LiteralValue::String(key)) = &key.expr else { return None };
                keys.push(key.inner());
                expr = operand;
            }
            _ => return None,
        }
    }
}

struct Walk<'a> {
    scope: Scope,
    nodes: usize,
    /// The variables of the comprehension inside which the walk is.
    loops: Vec<&'a str>,
    loops_seen: usize,
    reads: Reads,
}

impl<'a> Walk<'a> {
    fn expr(&mut self, node: &'a IdedExpr, depth: usize) -> Result<(), Found> {
        let wrong = |problem| Err((node.id, problem));
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return wrong(ConditionProblem::TooManyNodes);
        }
        if depth > MAX_DEPTH {
            return wrong(ConditionProblem::TooDeep);
        }
        if let Some((name, keys)) = path(node)
            && !self.loops.contains(&name)
        {
            // Counted as if walked: a path costs as many look-ups as it has keys.
            self.nodes += keys.len();
            return self.name(name, &keys, false).map_err(|problem| (place(node, &problem), problem));
        }
        match &node.expr {
            Expr::Literal(_) | Expr::Ident(_) => Ok(()),
            Expr::Select(select) => match path(&select.operand) {
                Some((name, mut keys)) if !self.loops.contains(&name) => {
                    keys.push(&select.field);
                    self.nodes += keys.len();
                    self.name(name, &keys, select.test).map_err(|problem| (place(node, &problem), problem))
                }
                _ => self.expr(&select.operand, depth + 1),
            },
            Expr::Call(call) => {
                check_call(call).or_else(wrong)?;
                call.target.as_deref().into_iter().chain(&call.args).try_for_each(|arg| self.expr(arg, depth + 1))
            }
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.expr(element, depth + 1)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.expr(&entry.key, depth + 1)?;
                    self.expr(&entry.value, depth + 1)
                }
                EntryExpr::StructField(_) => wrong(ConditionProblem::Unsupported("a message")),
            }),
            Expr::Comprehension(comprehension) => self.comprehension(node.id, comprehension, depth),
            Expr::Struct(_) => wrong(ConditionProblem::Unsupported("a message")),
            Expr::Unspecified => wrong(ConditionProblem::Internal),
        }
    }

    fn comprehension(&mut self, id: u64, of: &'a ComprehensionExpr, depth: usize) -> Result<(), Found> {
        self.loops_seen += 1;
        if self.loops_seen > 1 {
            return Err((id, ConditionProblem::SecondComprehension));
        }
        self.expr(&of.iter_range, depth + 1)?;
        let names = [Some(&of.iter_var), of.iter_var2.as_ref(), Some(&of.accu_var)];
        let taken = names.into_iter().flatten().find(|name| self.scope.names().contains(&name.as_str()));
        if taken.is_some() {
            return Err((id, ConditionProblem::Unsupported("the name of a variable as that of an element")));
        }
        self.loops.extend(names.into_iter().flatten().map(String::as_str));
        for part in [&of.accu_init, &of.loop_cond, &of.loop_step, &of.result] {
            self.expr(part, depth + 1)?;
        }
        self.loops.clear();
        Ok(())
    }

    /// A variable and the keys that follow; `asked` if it stands in `has`.
    fn name(&mut self, name: &str, keys: &[&str], asked: bool) -> Result<(), ConditionProblem> {
        match (name, keys) {
            ("now", _)
            | ("event", ["type" | "time", ..])
            | ("contact", ["id" | "email" | "phone" | "external_id" | "status" | "created", ..]) => Ok(()),
            ("event", []) => whole("event", "event.type"),
            ("event", ["attributes"]) => {
                self.reads.all_attributes |= !asked;
                Ok(())
            }
            ("event", ["attributes", key, ..]) => {
                self.reads.attributes.insert((*key).to_owned());
                Ok(())
            }
            ("event", [member, ..]) => unknown("event", member, EVENT_MEMBERS),
            ("values", []) if self.scope == Scope::Trigger => {
                self.reads.all_values = true;
                Ok(())
            }
            ("values", [key, ..]) if self.scope == Scope::Trigger => {
                self.reads.values.insert((*key).to_owned());
                Ok(())
            }
            ("contact", []) => whole("contact", "contact.email"),
            ("contact", ["tags", ..]) => {
                self.reads.tags = true;
                Ok(())
            }
            ("contact", ["fields"]) => whole("contact.fields", "contact.fields.city"),
            ("contact", ["fields", key, ..]) => {
                FieldKey::parse(key).map_err(|_| ConditionProblem::FieldKey { name: shortened(key) })?;
                self.reads.fields.insert((*key).to_owned());
                Ok(())
            }
            ("contact", [member, ..]) => unknown("contact", member, CONTACT_MEMBERS),
            (name, _) => {
                let known = match self.scope {
                    Scope::Event => EVENT_NAMES,
                    Scope::Trigger => TRIGGER_NAMES,
                };
                Err(ConditionProblem::UnknownName { name: shortened(name), known })
            }
        }
    }
}

/// An unknown variable stands where the path starts; all else where its last key does.
fn place(node: &IdedExpr, problem: &ConditionProblem) -> u64 {
    let mut at = node;
    if matches!(problem, ConditionProblem::UnknownName { name, .. } if !name.contains('.')) {
        loop {
            match &at.expr {
                Expr::Select(select) => at = &select.operand,
                Expr::Call(CallExpr { args, .. }) => match args.first() {
                    Some(operand) => at = operand,
                    None => break,
                },
                _ => break,
            }
        }
    }
    at.id
}

fn whole(name: &'static str, example: &'static str) -> Result<(), ConditionProblem> {
    Err(ConditionProblem::Whole { name, example })
}

fn unknown(of: &str, member: &str, known: &'static str) -> Result<(), ConditionProblem> {
    Err(ConditionProblem::UnknownName { name: format!("{of}.{}", shortened(member)), known })
}

fn check_call(call: &CallExpr) -> Result<(), ConditionProblem> {
    let name = call.func_name.as_str();
    // The second is what macros are made of; nobody can write an @.
    if OPERATORS.contains(&name) || name == operators::NOT_STRICTLY_FALSE {
        return Ok(());
    }
    if let Some((name, as_function, as_method, usage)) = FUNCTIONS.into_iter().find(|function| function.0 == name) {
        let counts = if call.target.is_some() { as_method } else { as_function };
        let fits = counts.contains(&call.args.len());
        return if fits { Ok(()) } else { Err(ConditionProblem::Arguments { name, usage }) };
    }
    match MACROS.into_iter().find(|known| known.0 == name) {
        Some((name, usage)) => Err(ConditionProblem::Arguments { name, usage }),
        None => Err(ConditionProblem::UnknownFunction { name: shortened(name) }),
    }
}
