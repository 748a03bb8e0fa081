//! What happens to contacts.

use super::time::Micros;
use crate::ids::{ContactId, DeliveryId, EventId, TagId, WebhookId};

/// Longest name of an event type, in bytes.
pub const MAX_TYPE_BYTES: usize = 100;
/// Longest attributes of an event, in bytes of JSON.
pub const MAX_ATTRIBUTES_BYTES: usize = 16_384;
/// First parts of the types that the system alone records.
const SYSTEM_FAMILIES: [&str; 5] = ["tag", "contact", "webhook", "campaign", "link"];
const PARTS: std::ops::RangeInclusive<usize> = 2..=8;

/// Type of the timeline's entry for an assigned tag.
pub const TAG_ASSIGNED: &str = "tag.assigned";
/// Type of the timeline's entry for a removed tag.
pub const TAG_REMOVED: &str = "tag.removed";

/// A dotted event type that callers may record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventType(String);

/// Why a text is no event type that callers may record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventTypeError {
    /// Not of the form.
    #[error(
        "must be 2 to 8 parts joined by dots, each of a-z, 0-9, `_` and `-`, up to 100 bytes together, as `form.subscribed`"
    )]
    Malformed,
    /// One of the system's own.
    #[error("types that start with `{0}.` are recorded by the system alone")]
    System(&'static str),
}

impl EventType {
    /// Reads a type.
    ///
    /// # Errors
    ///
    /// The text isn't of the form, or one of the system's own types.
    pub fn parse(text: &str) -> Result<Self, EventTypeError> {
        let is_symbol = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
        let parts: Vec<&str> = text.split('.').collect();
        let well_formed = text.len() <= MAX_TYPE_BYTES
            && PARTS.contains(&parts.len())
            && parts.iter().all(|part| !part.is_empty() && part.bytes().all(is_symbol));
        if !well_formed {
            return Err(EventTypeError::Malformed);
        }
        match SYSTEM_FAMILIES.into_iter().find(|family| parts.first() == Some(family)) {
            Some(family) => Err(EventTypeError::System(family)),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An entry of a contact's timeline.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its id; `None` for entries derived from tags and deliveries.
    pub id: Option<EventId>,
    /// Its contact.
    pub contact_id: ContactId,
    /// Its dotted type.
    pub event_type: String,
    /// What there is to say of it.
    pub attributes: Option<serde_json::Value>,
    /// The tag of a tag change.
    pub tag_id: Option<TagId>,
    /// The delivery of a `webhook.*` entry.
    pub delivery_id: Option<DeliveryId>,
    /// The webhook of a `webhook.*` entry.
    pub webhook_id: Option<WebhookId>,
    /// When it happened.
    pub event_time: Micros,
    /// When it was recorded.
    pub recorded: Micros,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "it reads better where it is called")]
    fn check(text: &str, expected: Result<(), EventTypeError>) {
        let actual = EventType::parse(text);
        assert_eq!(actual.map(drop), expected, "{text:?}");
    }

    #[test]
    fn event_types_are_dotted_and_not_the_systems_own() {
        check("form.subscribed", Ok(()));
        check("a.b.c.d.e.f.g.h", Ok(()));
        check("shop-1.order_2.paid", Ok(()));
        check(&format!("a.{}", "b".repeat(98)), Ok(()));
        check(&format!("a.{}", "b".repeat(99)), Err(EventTypeError::Malformed));
        check("a.b.c.d.e.f.g.h.i", Err(EventTypeError::Malformed));
        for malformed in ["", "form", ".", "form.", ".form", "form..x", "Form.x", "form.x y", "form.ü"] {
            check(malformed, Err(EventTypeError::Malformed));
        }
        check("webhook.delivered", Err(EventTypeError::System("webhook")));
        check("tagged.x", Ok(()));
    }
}
