//! How a request names a contact: `oneof contact`, the same in every request that has one.

use super::call::Call;
use crate::domain::contact::{Email, ExternalId, Phone};
use crate::error::Violations;
use crate::pb;
use crate::store::contact::ContactRef;

/// The contact that a request names, as it is written.
pub(super) enum ContactName {
    /// By its id.
    Id(String),
    /// By its e-mail address.
    Email(String),
    /// By its phone number.
    Phone(String),
    /// By the caller's own id.
    ExternalId(String),
}

impl ContactName {
    /// Parses the name.
    pub(super) fn parse(&self, violations: &mut Violations) -> Option<ContactRef> {
        match self {
            Self::Id(id) => violations.id("contact_id", id).map(ContactRef::Id),
            Self::Email(email) => violations.take("email", "EMAIL", Email::parse(email)).map(ContactRef::Email),
            Self::Phone(phone) => violations.take("phone", "PHONE", Phone::parse(phone)).map(ContactRef::Phone),
            Self::ExternalId(id) => {
                violations.take("external_id", "EXTERNAL_ID", ExternalId::parse(id)).map(ContactRef::ExternalId)
            }
        }
    }
}

/// The name of a contact's list, which its page tokens belong to. The name is only hashed: it has the contact's data.
pub(super) fn list_of(list: &str, which: Option<&ContactRef>) -> String {
    match which {
        None => list.to_owned(),
        Some(ContactRef::Id(id)) => format!("{list}/id/{id}"),
        Some(ContactRef::Email(email)) => format!("{list}/email/{}", email.as_str()),
        Some(ContactRef::Phone(phone)) => format!("{list}/phone/{}", phone.as_str()),
        Some(ContactRef::ExternalId(id)) => format!("{list}/external_id/{}", id.as_str()),
    }
}

/// A request with a `oneof contact`.
pub(super) trait NamesContact {
    /// Takes the name out of the request. `None` breaks the proto's rule, which the opening of the call has checked.
    fn take_contact(&mut self) -> Option<ContactName>;
}

impl<M: NamesContact> Call<M> {
    /// Parses which contact the request names.
    pub(super) fn contact(&mut self) -> Option<ContactRef> {
        self.message.take_contact()?.parse(&mut self.violations)
    }
}

macro_rules! names_contact {
    ($($request:ident in $module:ident;)*) => {$(
        impl NamesContact for pb::$request {
            fn take_contact(&mut self) -> Option<ContactName> {
                use pb::$module::Contact;
                self.contact.take().map(|contact| match contact {
                    Contact::ContactId(id) => ContactName::Id(id),
                    Contact::Email(email) => ContactName::Email(email),
                    Contact::Phone(phone) => ContactName::Phone(phone),
                    Contact::ExternalId(id) => ContactName::ExternalId(id),
                })
            }
        }
    )*};
}

names_contact! {
    LookupContactRequest in lookup_contact_request;
    TagContactRequest in tag_contact_request;
    UntagContactRequest in untag_contact_request;
    ListContactTagsRequest in list_contact_tags_request;
    RecordEventRequest in record_event_request;
    ListTimelineEntriesRequest in list_timeline_entries_request;
    TriggerWebhookRequest in trigger_webhook_request;
    TestWebhookRequest in test_webhook_request;
    EnrollContactRequest in enroll_contact_request;
    ExitContactRequest in exit_contact_request;
    CreateTrackedUrlRequest in create_tracked_url_request;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_two_contacts_have_different_names() {
        let list = |email: &str| list_of("tags", Some(&ContactRef::Email(Email::parse(email).unwrap())));
        assert_ne!(list("ada@example.com"), list("bob@example.com"));
        assert_eq!(list("ada@example.com"), list("Ada@example.com"));
    }
}
