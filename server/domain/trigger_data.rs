//! The data of a trigger beside its contact: the values that a call gave, and the event that set the tag off.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::condition::EventFacts;
use super::event::find_attribute;
use super::time::Micros;

/// The most values of a call.
pub const MAX_VALUES: usize = 500;
/// Longest key of a value, in bytes; the shortest has one.
pub const MAX_KEY_BYTES: usize = 63;
/// The most bytes of a call's keys and values together, and so of one value. An eighth of what a contact may have: a contact
/// is stored once, but these are copied into each deferred delivery and each enrollment that the call makes.
pub const MAX_BYTES: usize = 65_536;

/// The values of a call by their keys.
pub type Values = BTreeMap<String, String>;

/// The data of a trigger beside its contact. Stored as JSON with short keys. `Debug` shows no value.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerData {
    /// The values that the call gave.
    #[serde(rename = "v", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: Values,
    /// The event that set the tag off, or the tag with which the contact entered the campaign.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub event: Option<TriggerEvent>,
}

/// The event of [`TriggerData`]. `Debug` shows no attribute.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerEvent {
    /// Its dotted type.
    #[serde(rename = "t")]
    pub event_type: String,
    /// Its attributes: a JSON object, at most [`super::event::MAX_ATTRIBUTES_BYTES`] long.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Value>,
    /// When it happened.
    #[serde(rename = "u")]
    pub time: Micros,
}

/// Why values can't be given with a call. Never repeats one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValuesError {
    /// More than [`MAX_VALUES`].
    #[error("must have at most {MAX_VALUES} values; has {count}")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// A key that is empty or longer than [`MAX_KEY_BYTES`].
    #[error("a key must be 1 to {MAX_KEY_BYTES} bytes; one has {bytes}")]
    Key {
        /// Its length.
        bytes: usize,
    },
    /// More than [`MAX_BYTES`].
    #[error("must be at most {MAX_BYTES} bytes, all keys and values together; has {bytes}")]
    TooLarge {
        /// How many there are.
        bytes: usize,
    },
    /// A NUL, which a contact's values can't have either.
    #[error("must not have a NUL character")]
    Nul,
}

impl TriggerData {
    /// The data of a call that gave these values; `None` if there are none.
    ///
    /// # Errors
    ///
    /// The first limit that the values break.
    pub fn of_call(values: Values) -> Result<Option<Self>, ValuesError> {
        if values.is_empty() {
            return Ok(None);
        }
        if values.len() > MAX_VALUES {
            return Err(ValuesError::TooMany { count: values.len() });
        }
        if let Some(key) = values.keys().find(|key| !(1..=MAX_KEY_BYTES).contains(&key.len())) {
            return Err(ValuesError::Key { bytes: key.len() });
        }
        let bytes: usize = values.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > MAX_BYTES {
            return Err(ValuesError::TooLarge { bytes });
        }
        if values.iter().any(|(key, value)| key.contains('\0') || value.contains('\0')) {
            return Err(ValuesError::Nul);
        }
        Ok(Some(Self { values, event: None }))
    }

    /// An attribute of the event by its name, with dots for one inside another; `None` if there is none, or no event.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&Value> {
        find_attribute(self.event.as_ref()?.attributes.as_ref()?, name)
    }

    /// The event, as conditions read it.
    #[must_use]
    pub fn event_facts(&self) -> Option<EventFacts<'_>> {
        self.event.as_ref().map(|event| EventFacts {
            event_type: &event.event_type,
            attributes: event.attributes.as_ref(),
            time: event.time,
        })
    }
}

/// Without the values, which may be personal data.
impl fmt::Debug for TriggerData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TriggerData({} values, {:?})", self.values.len(), self.event)
    }
}

/// Without the attributes, which may be personal data.
impl fmt::Debug for TriggerEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TriggerEvent({:?}, {:?})", self.event_type, self.time)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(values: &[(&str, &str)], expected: Result<usize, ValuesError>) {
        let values = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let count = TriggerData::of_call(values).map(|data| data.map_or(0, |data| data.values.len()));
        assert_eq!(count, expected);
    }

    #[test]
    fn values_are_bounded() {
        let (long_key, longer_key) = ("k".repeat(MAX_KEY_BYTES), "k".repeat(MAX_KEY_BYTES + 1));
        let long = "x".repeat(MAX_BYTES - 1);
        check(&[], Ok(0));
        check(&[("coupon", "A"), (&long_key, "")], Ok(2));
        check(&[("a", &long)], Ok(1));
        check(&[("ab", &long)], Err(ValuesError::TooLarge { bytes: MAX_BYTES + 1 }));
        check(&[("", "x")], Err(ValuesError::Key { bytes: 0 }));
        check(&[(&longer_key, "x")], Err(ValuesError::Key { bytes: MAX_KEY_BYTES + 1 }));
        check(&[("a", "\0")], Err(ValuesError::Nul));
        let keys: Vec<String> = (0..=MAX_VALUES).map(|number| number.to_string()).collect();
        let many: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "")).collect();
        check(&many, Err(ValuesError::TooMany { count: MAX_VALUES + 1 }));
        check(many.get(1..).unwrap(), Ok(MAX_VALUES));
    }

    #[test]
    fn data_is_stored_without_what_is_absent_and_shown_without_its_values() {
        let attributes = json!({ "order": { "id": 7 }, "name": "Ada" });
        let event = TriggerEvent { event_type: "shop.paid".to_owned(), attributes: Some(attributes), time: Micros(5) };
        let values = [("coupon".to_owned(), "SECRET".to_owned())].into();
        let data = TriggerData { values, event: Some(event) };
        let stored = serde_json::to_string(&data).unwrap();
        assert_eq!(
            stored,
            r#"{"v":{"coupon":"SECRET"},"e":{"t":"shop.paid","a":{"name":"Ada","order":{"id":7}},"u":5}}"#
        );
        assert_eq!(serde_json::from_str::<TriggerData>(&stored).unwrap(), data);
        assert_eq!(serde_json::to_string(&TriggerData::default()).unwrap(), "{}");
        assert_eq!(data.attribute("order.id"), Some(&json!(7)));
        assert_eq!(data.attribute("order.none"), None);
        let shown = format!("{data:?}");
        assert!(!shown.contains("SECRET") && !shown.contains("Ada"), "{shown}");
    }
}
