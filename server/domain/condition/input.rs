//! The facts as CEL values: only what a condition reads, the texts borrowed.

use std::collections::HashMap;

use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelTimestamp};
use cel::common::value::Val;
use chrono::DateTime;
use jiff::civil::{Date, DateTime as CivilDateTime};
use serde_json::Value;

use super::check::Reads;
use super::{Facts, MAX_COST, Scope};
use crate::domain::field::{FieldType, FieldValue};
use crate::domain::time::Micros;

type Boxed<'a> = Box<dyn Val + 'a>;

/// Deepest nesting of attributes that is looked into.
const MAX_JSON_DEPTH: usize = 64;

/// The variables.
pub(super) struct Inputs<'a> {
    variables: Vec<(&'static str, Boxed<'a>)>,
    /// How many steps it took to make them, and to measure them.
    pub(super) cost: u64,
}

impl<'a> Inputs<'a> {
    /// `None` if there is too much to read.
    pub(super) fn new(facts: &Facts<'a>, scope: Scope, reads: &Reads) -> Option<Self> {
        let mut making = Making { left: MAX_COST };
        let mut variables = vec![
            ("now", timestamp(facts.now)?),
            ("contact", making.contact(facts, reads)?),
            ("event", making.event(facts, reads)?),
        ];
        if scope == Scope::Trigger {
            variables.push(("values", making.values(facts, reads)?));
        }
        Some(Self { variables, cost: MAX_COST - making.left })
    }

    pub(super) fn get(&self, name: &str) -> Option<&(dyn Val + 'a)> {
        self.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_ref())
    }

    pub(super) fn into_variables(self) -> Vec<(&'static str, Boxed<'a>)> {
        self.variables
    }
}

struct Making {
    left: u64,
}

impl Making {
    fn contact<'a>(&mut self, facts: &Facts<'a>, reads: &Reads) -> Option<Boxed<'a>> {
        let contact = facts.contact;
        let mut fields = HashMap::new();
        for key in &reads.fields {
            if let Some((key, stored)) = contact.values.get_key_value(key)
                && let Some(field_type) = (facts.field_type)(key)
                && let Some(value) = field(field_type, stored)
            {
                self.spend(1)?;
                fields.insert(CelMapKey::from(key.as_str()), value);
            }
        }
        let mut tags: Vec<Boxed<'a>> = Vec::new();
        if reads.tags {
            for tag in facts.tags {
                self.spend(1)?;
                tags.push(text(tag));
            }
        }
        let status = CelString::from(contact.status.as_str().to_ascii_lowercase());
        Some(map([
            ("id", Box::new(CelString::from(contact.id.to_string())) as Boxed<'a>),
            ("email", text(contact.email.as_ref().map_or("", |email| email.as_str()))),
            ("phone", text(contact.phone.as_ref().map_or("", |phone| phone.as_str()))),
            ("external_id", text(contact.external_id.as_ref().map_or("", |id| id.as_str()))),
            ("status", Box::new(status)),
            ("created", timestamp(contact.created)?),
            ("tags", Box::new(CelList::from(tags))),
            ("fields", Box::new(CelMap::from(fields))),
        ]))
    }

    fn event<'a>(&mut self, facts: &Facts<'a>, reads: &Reads) -> Option<Boxed<'a>> {
        let event = facts.event.as_ref();
        let mut attributes = HashMap::new();
        if let Some(Value::Object(entries)) = event.and_then(|event| event.attributes) {
            for (key, value) in entries {
                self.spend(1)?;
                if reads.all_attributes || reads.attributes.contains(key) {
                    attributes.insert(CelMapKey::from(key.as_str()), self.json(value, 0)?);
                }
            }
        }
        let (event_type, attributes) = (event.map_or("", |event| event.event_type), CelMap::from(attributes));
        let mut members = vec![("type", text(event_type)), ("attributes", Box::new(attributes) as Boxed<'a>)];
        if let Some(event) = event {
            members.push(("time", timestamp(event.time)?));
        }
        Some(map(members))
    }

    fn values<'a>(&mut self, facts: &Facts<'a>, reads: &Reads) -> Option<Boxed<'a>> {
        let mut values = HashMap::new();
        for (key, value) in facts.values.into_iter().flatten() {
            self.spend(1)?;
            if reads.all_values || reads.values.contains(key) {
                values.insert(CelMapKey::from(key.as_str()), text(value));
            }
        }
        Some(Box::new(CelMap::from(values)))
    }

    fn json<'a>(&mut self, value: &'a Value, depth: usize) -> Option<Boxed<'a>> {
        self.spend(1)?;
        if depth > MAX_JSON_DEPTH {
            return None;
        }
        Some(match value {
            Value::Null => Box::new(CelNull),
            Value::Bool(boolean) => Box::new(CelBool::from(*boolean)),
            Value::Number(number) => match number.as_i64() {
                Some(integer) => Box::new(CelInt::from(integer)),
                None => Box::new(CelDouble::from(number.as_f64()?)),
            },
            Value::String(value) => text(value),
            Value::Array(elements) => {
                let elements: Option<Vec<_>> = elements.iter().map(|element| self.json(element, depth + 1)).collect();
                Box::new(CelList::from(elements?))
            }
            Value::Object(entries) => {
                let mut map = HashMap::with_capacity(entries.len());
                for (key, value) in entries {
                    map.insert(CelMapKey::from(key.as_str()), self.json(value, depth + 1)?);
                }
                Box::new(CelMap::from(map))
            }
        })
    }

    fn spend(&mut self, cost: u64) -> Option<()> {
        self.left = self.left.checked_sub(cost)?;
        Some(())
    }
}

/// A field's value in the type that CEL has for it; `None` if what is stored doesn't fit.
fn field(field_type: FieldType, stored: &Value) -> Option<Boxed<'_>> {
    match field_type {
        FieldType::Text
        | FieldType::Paragraph
        | FieldType::Html
        | FieldType::Email
        | FieldType::Url
        | FieldType::Time => Some(text(stored.as_str()?)),
        _ => match FieldValue::from_stored(field_type, stored)? {
            FieldValue::Integer(number) => Some(Box::new(CelInt::from(number))),
            FieldValue::Decimal(decimal) => Some(Box::new(CelDouble::from(decimal.as_str().parse::<f64>().ok()?))),
            FieldValue::Boolean(boolean) => Some(Box::new(CelBool::from(boolean))),
            FieldValue::Datetime(time) => timestamp(time),
            FieldValue::Date(date) => timestamp(midnight(date)?),
            _ => None,
        },
    }
}

fn midnight(date: Date) -> Option<Micros> {
    let since = CivilDateTime::from(date).duration_since(CivilDateTime::constant(1970, 1, 1, 0, 0, 0, 0));
    Some(Micros(i64::try_from(since.as_micros()).ok()?))
}

fn timestamp<'a>(time: Micros) -> Option<Boxed<'a>> {
    let time = DateTime::from_timestamp_micros(time.0)?;
    Some(Box::new(CelTimestamp::from(time.fixed_offset())))
}

fn text(text: &str) -> Boxed<'_> {
    Box::new(CelString::from(text))
}

fn map<'a>(entries: impl IntoIterator<Item = (&'static str, Boxed<'a>)>) -> Boxed<'a> {
    let entries: HashMap<_, _> = entries.into_iter().map(|(key, value)| (CelMapKey::from(key), value)).collect();
    Box::new(CelMap::from(entries))
}
