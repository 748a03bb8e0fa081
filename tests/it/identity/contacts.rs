//! External ids of contacts, and which identity decides in an upsert.

use taghook_client::contact::{by_external_id, by_id};
use taghook_client::v1::webhook_event::parameter::Source;
use taghook_client::v1::webhook_event::{Parameter, SystemValue};
use taghook_client::v1::{self, Contact, ErrorReason, UpsertContactResponse};
use taghook_client::{Code, Error};
use tonic::{Response, Status};
use tonic_types::StatusExt;

use crate::support::{Receiver, Taghook, both, check_error, check_invalid, mask};

/// A contact of which only the identities are given.
fn identities(external_id: &str, email: &str, phone: &str) -> Contact {
    Contact { external_id: external_id.into(), email: email.into(), phone: phone.into(), ..Default::default() }
}

async fn create(t: &Taghook, contact: Contact) -> Contact {
    let request = v1::CreateContactRequest { contact: Some(contact), ..Default::default() };
    t.client.contacts().create_contact(request).await.expect("a contact").into_inner()
}

async fn upsert(t: &Taghook, contact: Contact) -> Result<Response<UpsertContactResponse>, Status> {
    let request = v1::UpsertContactRequest { contact: Some(contact), ..Default::default() };
    t.client.contacts().upsert_contact(request).await
}

/// The contact that an upsert found.
async fn found(t: &Taghook, contact: Contact) -> Contact {
    let response = upsert(t, contact).await.expect("an upsert").into_inner();
    assert!(!response.created);
    response.contact.expect("the contact")
}

/// Checks that both contacts are named.
#[track_caller]
fn check_clash<T>(result: Result<Response<T>, Status>, field: &str, contact: &Contact, holder: &Contact) {
    let error: Error = check_error(result, Code::AlreadyExists, ErrorReason::AlreadyExists);
    assert_eq!(error.metadata["field"], field);
    assert_eq!(error.metadata["contact_id"], contact.id);
    assert_eq!(error.metadata["holder_contact_id"], holder.id);
    assert_eq!(error.status.get_details_resource_info().expect("the holder").resource_name, holder.id);
    let message = error.status.message();
    assert!(message.contains(&contact.id) && message.contains(&holder.id), "{message}");
    assert!(!message.contains(&holder.email), "{message}");
}

both! {
    async fn an_external_id_names_its_contact(t: Taghook) {
        let contact = create(&t, identities("CRM/7", "", "")).await;
        assert_eq!((contact.external_id.as_str(), contact.email.as_str()), ("CRM/7", ""));
        let request = v1::LookupContactRequest { contact: by_external_id("CRM/7") };
        assert_eq!(t.client.contacts().lookup_contact(request).await.unwrap().into_inner(), contact);
        let request = v1::LookupContactRequest { contact: by_external_id("crm/7") };
        check_error(t.client.contacts().lookup_contact(request).await, Code::NotFound, ErrorReason::NotFound);

        let tag = t.tag("buyer").await;
        let mut receiver = Receiver::start().await;
        t.webhook(&receiver, &tag, |webhook| {
            let source = Some(Source::SystemValue(SystemValue::ContactExternalId.into()));
            webhook.events[0].parameters = vec![Parameter { name: "crm".into(), source, ..Default::default() }];
        })
        .await;
        let request = v1::TagContactRequest {
            contact: by_external_id("CRM/7"),
            tag_ids: vec![tag.id.clone()],
            ..Default::default()
        };
        let tagged = t.client.contacts().tag_contact(request).await.unwrap().into_inner();
        assert_eq!(tagged.contact_id, contact.id);
        assert_eq!(receiver.recv().await.text(), "email=&crm=CRM%2F7");

        let other = create(&t, identities("crm/7", "", "")).await;
        let filter = v1::list_contacts_request::Filter {
            external_ids: vec!["crm/7".into(), "none".into()],
            ..Default::default()
        };
        let request = v1::ListContactsRequest { filter: Some(filter), ..Default::default() };
        assert_eq!(t.client.contacts().list_contacts(request).await.unwrap().into_inner().contacts, [other]);
    }

    async fn an_external_id_is_set_cleared_and_unique(t: Taghook) {
        let (ada, bob) = (create(&t, identities("7", "ada@example.com", "")).await, t.contact("bob@example.com").await);
        let update = async |contact: Contact| {
            let request = v1::UpdateContactRequest {
                contact: Some(contact),
                update_mask: mask(&["external_id"]),
                ..Default::default()
            };
            t.client.contacts().update_contact(request).await
        };
        check_clash(update(Contact { external_id: "7".into(), ..bob.clone() }).await, "external_id", &bob, &ada);
        let request = v1::CreateContactRequest { contact: Some(identities("7", "", "")), ..Default::default() };
        let refused = t.client.contacts().create_contact(request).await;
        let error = check_error(refused, Code::AlreadyExists, ErrorReason::AlreadyExists);
        assert_eq!(error.metadata["field"], "external_id");

        let cleared = update(Contact { external_id: String::new(), ..ada.clone() }).await.unwrap().into_inner();
        assert_eq!(cleared.external_id, "");
        let set = update(Contact { external_id: "7".into(), ..bob }).await.unwrap().into_inner();
        assert_eq!(set.external_id, "7");
        // The last identity stays.
        check_invalid(update(Contact { external_id: "x\n".into(), ..ada.clone() }).await, &["contact.external_id"]);
        let only = create(&t, identities("8", "", "")).await;
        check_invalid(update(Contact { external_id: String::new(), ..only }).await, &["contact"]);
    }

    async fn the_first_identity_that_is_known_decides_an_upsert(t: Taghook) {
        let ada = create(&t, identities("1", "ada@example.com", "+4930111111")).await;
        let bob = create(&t, identities("2", "bob@example.com", "")).await;

        // The external id before the e-mail, the e-mail before the phone; what is unknown is set.
        let moved = found(&t, identities("1", "ada@new.example", "")).await;
        assert_eq!((moved.id.as_str(), moved.email.as_str()), (ada.id.as_str(), "ada@new.example"));
        let moved = found(&t, identities("3", "bob@example.com", "+4930222222")).await;
        assert_eq!((moved.id.as_str(), moved.external_id.as_str()), (bob.id.as_str(), "3"));
        let moved = found(&t, identities("4", "", "+4930111111")).await;
        assert_eq!((moved.id.as_str(), moved.external_id.as_str()), (ada.id.as_str(), "4"));
        let moved = found(&t, Contact { id: bob.id.clone(), ..identities("5", "", "") }).await;
        assert_eq!((moved.id.as_str(), moved.external_id.as_str()), (bob.id.as_str(), "5"));

        // One identity of each: the error names both contacts.
        check_clash(upsert(&t, identities("4", "bob@example.com", "")).await, "email", &ada, &bob);
        check_clash(upsert(&t, identities("", "bob@example.com", "+4930111111")).await, "phone", &bob, &ada);
        let by_id = Contact { id: ada.id.clone(), ..identities("5", "", "") };
        check_clash(upsert(&t, by_id).await, "external_id", &ada, &bob);

        let created = upsert(&t, identities("6", "eve@example.com", "")).await.unwrap().into_inner();
        assert!(created.created);
        check_invalid(upsert(&t, Contact::default()).await, &["contact"]);
    }

    async fn an_upsert_by_an_unknown_id_finds_nothing(t: Taghook) {
        let ada = t.contact("ada@example.com").await;
        t.delete_contact(&ada).await;
        t.contact("bob@example.com").await;
        let given = Contact { id: ada.id, ..identities("", "bob@example.com", "") };
        check_error(upsert(&t, given).await, Code::NotFound, ErrorReason::NotFound);
        let given = Contact { id: "con_1".into(), ..identities("", "bob@example.com", "") };
        check_invalid(upsert(&t, given).await, &["contact.id"]);
    }

    async fn an_upsert_honours_the_etag(t: Taghook) {
        let ada = t.contact("ada@example.com").await;
        let given = Contact { external_id: "7".into(), ..ada.clone() };
        let changed = found(&t, given.clone()).await;
        assert_ne!(changed.etag, ada.etag);
        check_error(upsert(&t, given).await, Code::Aborted, ErrorReason::EtagMismatch);
        // A contact that doesn't exist has no etag.
        let new = Contact { etag: ada.etag, ..identities("8", "", "") };
        check_error(upsert(&t, new).await, Code::Aborted, ErrorReason::EtagMismatch);
        let request = v1::LookupContactRequest { contact: by_id(&changed.id) };
        assert_eq!(t.client.contacts().lookup_contact(request).await.unwrap().into_inner(), changed);
    }
}
