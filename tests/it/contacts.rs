//! Contacts and the tags on them.

use taghook_client::Code;
use taghook_client::v1::{Contact, CreateContactRequest, ErrorReason, TagContactRequest};

use crate::support::{Taghook, both, check_error, check_invalid};

both! {
    async fn every_bad_field_is_named_at_once(t: Taghook) {
        let contact = Contact {
            email: "no address".into(),
            phone: "12".into(),
            values: [("no_such_field".into(), "x".into())].into(),
            ..Default::default()
        };
        let request = CreateContactRequest { contact: Some(contact), request_id: "é".into() };
        check_invalid(
            t.client.contacts().create_contact(request).await,
            &["contact.email", "contact.phone", "contact.values[\"no_such_field\"]", "request_id"],
        );
        check_invalid(t.client.contacts().tag_contact(TagContactRequest::default()).await, &["contact", "tag_ids"]);
        let nobody = CreateContactRequest { contact: Some(Contact::default()), ..Default::default() };
        check_invalid(t.client.contacts().create_contact(nobody).await, &["contact"]);
    }

    async fn an_email_is_taken_whatever_its_case(t: Taghook) {
        let contact = t.contact("Ada@Example.com").await;
        assert_eq!(contact.email, "ada@example.com");
        let again = Contact { email: "ADA@example.com".into(), ..Default::default() };
        let request = CreateContactRequest { contact: Some(again), ..Default::default() };
        let error = check_error(
            t.client.contacts().create_contact(request).await,
            Code::AlreadyExists,
            ErrorReason::AlreadyExists,
        );
        assert_eq!(error.metadata["field"], "email");
    }
}
