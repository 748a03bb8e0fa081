//! Rules of smart tags: which events assign them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::condition::Condition;
use super::event::find_attribute;

/// Which events assign a smart tag. All that is given must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The type of the events.
    pub event_type: String,
    /// What attributes must be.
    pub attributes: Vec<AttributeMatch>,
    /// What must be true of the event and its contact.
    pub condition: Option<Condition>,
}

impl Rule {
    /// Whether an event of the rule's type has the attributes.
    #[must_use]
    pub fn matches(&self, attributes: Option<&Value>) -> bool {
        self.attributes.iter().all(|attribute| attribute.holds(attributes))
    }
}

/// What an attribute of an event must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributeMatch {
    /// Its name, with dots for one inside another.
    pub name: String,
    /// Its value: a text as it is, a number or a boolean as JSON writes it.
    pub value: String,
}

impl AttributeMatch {
    /// Whether the attributes of an event have it.
    #[must_use]
    pub fn holds(&self, attributes: Option<&Value>) -> bool {
        match attributes.and_then(|attributes| find_attribute(attributes, &self.name)) {
            Some(Value::String(text)) => *text == self.value,
            Some(Value::Number(number)) => number.to_string() == self.value,
            Some(Value::Bool(boolean)) => self.value == if *boolean { "true" } else { "false" },
            Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(name: &str, value: &str, expected: bool) {
        let attributes = json!({
            "product": "Produkt A", "amount": 99, "price": 9.5, "paid": true, "none": null, "empty": "", "list": [1],
            "order": {"currency": "EUR", "a.b": 1}, "order.id": "7"
        });
        let wanted = AttributeMatch { name: name.to_owned(), value: value.to_owned() };
        assert_eq!(wanted.holds(Some(&attributes)), expected, "{name} = {value}");
        assert!(!wanted.holds(None));
    }

    #[test]
    fn attributes_are_compared_as_they_are_written() {
        check("product", "Produkt A", true);
        check("product", "produkt a", false);
        check("amount", "99", true);
        check("amount", "99.0", false);
        check("price", "9.5", true);
        check("paid", "true", true);
        check("empty", "", true);
        for absent in ["none", "missing", "list", "order"] {
            check(absent, "", false);
        }
        check("order.currency", "EUR", true);
        check("order.id", "7", true);
        check("order.currency.x", "", false);
    }
}
