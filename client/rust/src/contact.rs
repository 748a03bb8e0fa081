//! How a request names a contact: `oneof contact`, the same in every request that has one.
//!
//! ```
//! use taghook_client::contact::by_email;
//! use taghook_client::v1::TagContactRequest;
//!
//! let request = TagContactRequest { contact: by_email("ada@example.com"), ..Default::default() };
//! # assert!(request.contact.is_some());
//! ```

use crate::v1;

/// The name of a contact as one request has it.
pub trait ContactName: Sized {
    /// By the contact's id.
    fn of_id(id: String) -> Self;
    /// By the e-mail address.
    fn of_email(email: String) -> Self;
    /// By the phone number.
    fn of_phone(phone: String) -> Self;
    /// By the caller's own id.
    fn of_external_id(external_id: String) -> Self;
}

/// Names a contact by its id.
pub fn by_id<N: ContactName>(id: impl Into<String>) -> Option<N> {
    Some(N::of_id(id.into()))
}

/// Names a contact by its e-mail address, in any case.
pub fn by_email<N: ContactName>(email: impl Into<String>) -> Option<N> {
    Some(N::of_email(email.into()))
}

/// Names a contact by its phone number.
pub fn by_phone<N: ContactName>(phone: impl Into<String>) -> Option<N> {
    Some(N::of_phone(phone.into()))
}

/// Names a contact by the caller's own id of it.
pub fn by_external_id<N: ContactName>(external_id: impl Into<String>) -> Option<N> {
    Some(N::of_external_id(external_id.into()))
}

macro_rules! contact_names {
    ($($module:ident),* $(,)?) => {$(
        impl ContactName for v1::$module::Contact {
            fn of_id(id: String) -> Self {
                Self::ContactId(id)
            }

            fn of_email(email: String) -> Self {
                Self::Email(email)
            }

            fn of_phone(phone: String) -> Self {
                Self::Phone(phone)
            }

            fn of_external_id(external_id: String) -> Self {
                Self::ExternalId(external_id)
            }
        }
    )*};
}

contact_names!(
    lookup_contact_request,
    tag_contact_request,
    untag_contact_request,
    list_contact_tags_request,
    record_event_request,
    list_timeline_entries_request,
    trigger_webhook_request,
    test_webhook_request,
    enroll_contact_request,
    exit_contact_request,
    create_tracked_url_request,
);
