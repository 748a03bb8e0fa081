//! The most that an evaluation can do, reckoned before it from the sizes of the values at hand.
//!
//! A step is a look at one value, or at 64 bytes of a string. Each operation is taken to look at all of its operands, and
//! to copy them: that's what comparing, concatenating and the library's error values do at worst. Both sides of `&&`,
//! `||` and `?:` count.

use std::collections::HashMap;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::common::types::{CelBytes, CelList, CelMap, CelMapKey, CelString};
use cel::common::value::Val;

use super::check::path;
use super::input::Inputs;
use super::{EvaluationError, MAX_COST};

const BYTES_PER_STEP: usize = 64;
/// Steps of what is made of a value of fixed size: the text of a double has up to 330 bytes, of a timestamp less.
const CONVERTED: u64 = 8;

/// Steps of finding a function, and of binding the variable of a comprehension.
const CALL: u64 = 2;

/// How large a value can be.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Steps of looking at all of it.
    all: u64,
    /// Elements or entries, if it is a list or map.
    elements: u64,
    /// Steps of its largest element or entry.
    largest: u64,
}

impl Size {
    const ONE: Self = Self { all: 1, elements: 0, largest: 0 };

    fn of_text(bytes: usize) -> Self {
        Self { all: steps(bytes), ..Self::ONE }
    }

    /// Of a value about which no more is known than how large it is.
    fn within(all: u64) -> Self {
        Self { all, elements: all, largest: all }
    }

    fn larger(self, other: Self) -> Self {
        Self {
            all: self.all.max(other.all),
            elements: self.elements.max(other.elements),
            largest: self.largest.max(other.largest),
        }
    }

    fn joined(self, other: Self) -> Self {
        Self {
            all: self.all.saturating_add(other.all),
            elements: self.elements.saturating_add(other.elements),
            largest: self.largest.max(other.largest),
        }
    }
}

/// # Errors
///
/// [`EvaluationError::TooCostly`] if evaluating it could take more than [`MAX_COST`].
pub(super) fn check(expr: &IdedExpr, inputs: &Inputs<'_>) -> Result<(), EvaluationError> {
    let mut reckoning = Reckoning { inputs, measured: HashMap::new(), element: None, spent: inputs.cost };
    reckoning.expr(expr);
    if reckoning.spent > MAX_COST { Err(EvaluationError::TooCostly) } else { Ok(()) }
}

struct Reckoning<'a> {
    inputs: &'a Inputs<'a>,
    measured: HashMap<(&'a str, Vec<&'a str>), Size>,
    /// The variable of the comprehension inside which the walk is.
    element: Option<(&'a str, Size)>,
    spent: u64,
}

impl<'a> Reckoning<'a> {
    fn spend(&mut self, cost: u64) {
        self.spent = self.spent.saturating_add(cost);
    }

    /// Adds what evaluating it takes, and returns how large the result can be.
    fn expr(&mut self, node: &'a IdedExpr) -> Size {
        if let Some((name, keys)) = path(node) {
            return self.named(name, keys);
        }
        self.spend(1);
        match &node.expr {
            Expr::Literal(LiteralValue::String(text)) => Size::of_text(text.inner().len()),
            Expr::Literal(LiteralValue::Bytes(bytes)) => Size::of_text(bytes.inner().len()),
            Expr::Select(select) => {
                let operand = self.expr(&select.operand);
                if select.test { Size::ONE } else { Size::within(operand.largest) }
            }
            Expr::Call(call) => self.call(call),
            Expr::List(list) => self.collection(list.elements.iter().map(|element| (None, element))),
            Expr::Map(map) => self.collection(map.entries.iter().filter_map(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => Some((Some(&entry.key), &entry.value)),
                EntryExpr::StructField(_) => None,
            })),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Literal(_) | Expr::Ident(_) | Expr::Struct(_) | Expr::Unspecified => Size::ONE,
        }
    }

    fn named(&mut self, name: &'a str, keys: Vec<&'a str>) -> Size {
        self.spend(1 + keys.len() as u64);
        match self.element {
            Some((element, size)) if element == name => {
                return if keys.is_empty() { size } else { Size::within(size.largest) };
            }
            // What a comprehension gathers; only its own steps name it.
            _ if name.starts_with('@') => return Size::ONE,
            _ => {}
        }
        let key = (name, keys);
        if let Some(size) = self.measured.get(&key) {
            return *size;
        }
        let size = find(self.inputs, key.0, &key.1).map_or(Size::ONE, measure);
        self.spend(size.all / 8);
        self.measured.insert(key, size);
        size
    }

    fn call(&mut self, call: &'a CallExpr) -> Size {
        let mut operands = Vec::with_capacity(call.args.len() + 1);
        for operand in call.target.as_deref().into_iter().chain(&call.args) {
            operands.push(self.expr(operand));
        }
        let together = operands.iter().copied().fold(Size { all: 0, ..Size::ONE }, Size::joined);
        match call.func_name.as_str() {
            operators::CONDITIONAL => operands.into_iter().skip(1).fold(Size::ONE, Size::larger),
            operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT | operators::NOT_STRICTLY_FALSE => {
                Size::ONE
            }
            operators::EQUALS | operators::NOT_EQUALS | operators::IN => {
                self.spend(together.all);
                Size::ONE
            }
            operators::INDEX => {
                self.spend(together.all);
                Size::within(operands.first().map_or(1, |operand| operand.largest))
            }
            operators::ADD => {
                self.spend(together.all.saturating_mul(2));
                together
            }
            "string" | "bytes" => {
                self.spend(together.all + CONVERTED);
                Size::within(together.all + CONVERTED)
            }
            _ => {
                self.spend(together.all.saturating_mul(2).saturating_add(CALL));
                Size::ONE
            }
        }
    }

    fn collection(&mut self, entries: impl Iterator<Item = (Option<&'a IdedExpr>, &'a IdedExpr)>) -> Size {
        let mut size = Size::ONE;
        for (key, value) in entries {
            let key = key.map_or(0, |key| self.expr(key).all);
            size = grown(size, key.saturating_add(self.expr(value).all));
        }
        self.spend(size.all);
        size
    }

    fn comprehension(&mut self, of: &'a ComprehensionExpr) -> Size {
        let range = self.expr(&of.iter_range);
        self.expr(&of.accu_init);
        let before = std::mem::take(&mut self.spent);
        self.element = Some((&of.iter_var, Size::within(range.largest)));
        self.expr(&of.loop_cond);
        let step = self.expr(&of.loop_step);
        self.element = None;
        let each = self.spent.saturating_add(range.largest).saturating_add(CALL);
        self.spent = before.saturating_add(range.elements.saturating_mul(each));
        self.expr(&of.result);
        // `map` and `filter` start with an empty list; the others with a boolean or a number.
        if !matches!(of.accu_init.expr, Expr::List(_)) {
            return Size::ONE;
        }
        let all = range.elements.saturating_mul(step.all).saturating_add(1);
        self.spend(all);
        Size { all, elements: range.elements.saturating_mul(step.elements.max(1)), largest: step.largest }
    }
}

fn grown(size: Size, entry: u64) -> Size {
    Size { all: size.all.saturating_add(entry), elements: size.elements + 1, largest: size.largest.max(entry) }
}

fn steps(bytes: usize) -> u64 {
    1 + (bytes / BYTES_PER_STEP) as u64
}

fn find<'a>(inputs: &'a Inputs<'a>, name: &str, keys: &[&'a str]) -> Option<&'a dyn Val> {
    keys.iter().try_fold(inputs.get(name)?, |value, key| {
        let found = value.downcast_ref::<CelMap<'a>>()?.inner().get(&CelMapKey::from(*key))?;
        Some(found.as_ref())
    })
}

fn measure(value: &dyn Val) -> Size {
    if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        Size::of_text(text.inner().len())
    } else if let Some(bytes) = value.downcast_ref::<CelBytes<'_>>() {
        Size::of_text(bytes.inner().len())
    } else if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        list.inner().iter().fold(Size::ONE, |size, element| grown(size, measure(element.as_ref()).all))
    } else if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
        map.inner().iter().fold(Size::ONE, |size, (key, value)| {
            grown(size, measure(key.inner()).all.saturating_add(measure(value.as_ref()).all))
        })
    } else {
        Size::ONE
    }
}
