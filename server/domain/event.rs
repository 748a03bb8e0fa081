//! What happens to contacts.

use super::time::Micros;
use crate::ids::{ContactId, EventId, TagId};

/// Longest name of an event type, in bytes.
pub const MAX_TYPE_BYTES: usize = 100;
/// Longest attributes of an event, in bytes of JSON.
pub const MAX_ATTRIBUTES_BYTES: usize = 16_384;
/// Longest name of an attribute in a rule or a parameter, in bytes.
pub const MAX_ATTRIBUTE_NAME_BYTES: usize = 100;
/// First parts of the types that the system alone records.
const SYSTEM_FAMILIES: [&str; 5] = ["tag", "contact", "webhook", "campaign", "link"];
const PARTS: std::ops::RangeInclusive<usize> = 2..=8;

/// Type of the timeline's entry for an assigned tag.
pub const TAG_ASSIGNED: &str = "tag.assigned";
/// Type of the timeline's entry for a removed tag.
pub const TAG_REMOVED: &str = "tag.removed";

/// Type of the timeline's entry for a smart tag whose condition can't be told for an event.
pub const TAG_RULE_FAILED: &str = "tag.rule_failed";
/// Type of the timeline's entry for a smart tag that was held back, since what assigns it goes in circles.
pub const TAG_NOT_ASSIGNED: &str = "tag.not_assigned";
/// Type of the timeline's entry for a step of a campaign that came to nothing.
pub const CAMPAIGN_STEP_FAILED: &str = "campaign.step_failed";
/// Type of the timeline's entry for a campaign that wasn't begun, since what begins it goes in circles.
pub const CAMPAIGN_NOT_STARTED: &str = "campaign.not_started";
/// A webhook was triggered and its deliveries scheduled.
pub const WEBHOOK_TRIGGERED: &str = "webhook.triggered";
/// A delivery was accepted by its endpoint.
pub const WEBHOOK_DELIVERED: &str = "webhook.delivered";
/// A delivery was given up.
pub const WEBHOOK_EXHAUSTED: &str = "webhook.exhausted";
/// A contact was created.
pub const CONTACT_CREATED: &str = "contact.created";
/// A contact was changed.
pub const CONTACT_UPDATED: &str = "contact.updated";
/// A contact became unsubscribed.
pub const CONTACT_UNSUBSCRIBED: &str = "contact.unsubscribed";
/// A contact clicked a link.
pub const LINK_CLICKED: &str = "link.clicked";
/// A contact began a campaign.
pub const CAMPAIGN_STARTED: &str = "campaign.started";
/// A contact's way through a campaign ended.
pub const CAMPAIGN_FINISHED: &str = "campaign.finished";

/// An event type that is known by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownType {
    /// The type.
    pub name: &'static str,
    /// What it stands for.
    pub description: &'static str,
    /// The attributes that it usually has; those that the system records always.
    pub attributes: &'static [&'static str],
    /// Whether the system alone records it.
    pub is_systems_own: bool,
}

/// The event types that are known by themselves. Callers may record others.
pub const CATALOGUE: &[KnownType] = &[
    callers("form.subscribed", "subscribed by a form", &["form"]),
    callers("api.subscribed", "subscribed by another system", &[]),
    callers("email.subscribed", "subscribed by writing an e-mail", &[]),
    callers("sms.subscribed", "subscribed by a text message", &["keyword"]),
    callers("email.sent", "was sent an e-mail", &["email"]),
    callers("email.opened", "opened an e-mail", &["email"]),
    callers("email.clicked", "clicked a link of an e-mail", &["email", "url"]),
    callers("email.viewed", "viewed an e-mail in the browser", &["email"]),
    callers("sms.sent", "was sent a text message", &["sms"]),
    callers("sms.clicked", "clicked a link of a text message", &["sms", "url"]),
    callers("payment.bought", "bought", &["product", "amount", "currency"]),
    callers("payment.refunded", "got money back", &["product", "amount", "currency"]),
    callers("payment.charged_back", "charged a payment back", &["product", "amount", "currency"]),
    callers("payment.rebill_cancelled", "cancelled a subscription", &["product"]),
    callers("payment.rebill_resumed", "resumed a subscription", &["product"]),
    callers("payment.rebill_expired", "had a subscription end", &["product"]),
    systems(CONTACT_CREATED, "was created", &[]),
    systems(CONTACT_UPDATED, "was changed", &[]),
    systems(CONTACT_UNSUBSCRIBED, "was unsubscribed", &[]),
    systems(LINK_CLICKED, "clicked a SmartLink", &["smart_link_id", "name"]),
    systems(CAMPAIGN_STARTED, "began a campaign", &["campaign_id", "name"]),
    systems(CAMPAIGN_FINISHED, "came to the end of a campaign", &["campaign_id", "name"]),
    systems(WEBHOOK_TRIGGERED, "set a webhook off", &["webhook_id", "webhook", "source"]),
    systems(
        WEBHOOK_DELIVERED,
        "had a request accepted by its endpoint",
        &["webhook_id", "webhook", "source", "delivery_id", "status_code"],
    ),
    systems(
        WEBHOOK_EXHAUSTED,
        "had a request given up",
        &["webhook_id", "webhook", "source", "delivery_id", "status_code"],
    ),
];

const fn callers(name: &'static str, description: &'static str, attributes: &'static [&'static str]) -> KnownType {
    KnownType { name, description, attributes, is_systems_own: false }
}

const fn systems(name: &'static str, description: &'static str, attributes: &'static [&'static str]) -> KnownType {
    KnownType { name, description, attributes, is_systems_own: true }
}

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
    /// A type of the system's that isn't recorded.
    #[error("there is no such event among those that start with `{0}.`; ListEventTypes shows those that there are")]
    Unheard(&'static str),
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

    /// Reads a type that a smart tag may listen to: one that callers may record, or one of the catalogue.
    ///
    /// # Errors
    ///
    /// The text isn't of the form, or a type of the system's that nobody records.
    pub fn parse_heard(text: &str) -> Result<Self, EventTypeError> {
        match Self::parse(text) {
            Err(EventTypeError::System(_)) if CATALOGUE.iter().any(|known| known.name == text) => {
                Ok(Self(text.to_owned()))
            }
            Err(EventTypeError::System(family)) => Err(EventTypeError::Unheard(family)),
            other => other,
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Something that happened to a contact.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its id; `None` if it isn't recorded, since other rows say that it happened.
    pub id: Option<EventId>,
    /// Its contact.
    pub contact_id: ContactId,
    /// Its dotted type.
    pub event_type: String,
    /// What there is to say of it.
    pub attributes: Option<serde_json::Value>,
    /// The tag that it is about, if the system recorded it.
    pub tag_id: Option<TagId>,
    /// When it happened.
    pub event_time: Micros,
    /// When it was recorded.
    pub recorded: Micros,
}

/// Finds the attribute of this name; if there is none, the one inside others to which the dots of the name lead.
#[must_use]
pub fn find_attribute<'a>(attributes: &'a serde_json::Value, name: &str) -> Option<&'a serde_json::Value> {
    attributes.get(name).or_else(|| name.split('.').try_fold(attributes, |value, part| value.get(part)))
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
