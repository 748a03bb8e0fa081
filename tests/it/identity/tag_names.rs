//! Tags by name.

use taghook_client::contact::by_id;
use taghook_client::v1::{self, BatchTagContactsRequest, Contact, ErrorReason, TagContactRequest};
use taghook_client::{Code, Error};

use crate::support::{Taghook, both, check_error, check_invalid};

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn tagging(contact: &Contact, ids: &[&str], tag_names: &[&str]) -> TagContactRequest {
    TagContactRequest {
        contact: by_id(&contact.id),
        tag_ids: names(ids),
        tag_names: names(tag_names),
        ..Default::default()
    }
}

both! {
    async fn tags_are_named_by_name_in_every_call(t: Taghook) {
        let (ada, buyer, vip) = (t.contact("ada@example.com").await, t.tag("buyer").await, t.tag("V.I.P.").await);
        let request = tagging(&ada, &[&vip.id], &["buyer", "V.I.P."]);
        let tagged = t.client.contacts().tag_contact(request).await.unwrap().into_inner();
        let assigned: Vec<_> = tagged.assignments.iter().map(|tag| (tag.tag_id.as_str(), tag.newly_assigned)).collect();
        assert_eq!(assigned, [(vip.id.as_str(), true), (buyer.id.as_str(), true)]);

        let request = v1::UntagContactRequest {
            contact: by_id(&ada.id),
            tag_ids: vec![vip.id.clone()],
            tag_names: names(&["V.I.P.", "buyer"]),
            ..Default::default()
        };
        let untagged = t.client.contacts().untag_contact(request).await.unwrap().into_inner();
        assert_eq!(untagged.removed_tag_ids, [vip.id.as_str(), buyer.id.as_str()]);

        let contact = Some(Contact { email: "bob@example.com".into(), ..Default::default() });
        let request = v1::UpsertContactRequest { contact, tag_names: names(&["buyer"]), ..Default::default() };
        let upserted = t.client.contacts().upsert_contact(request).await.unwrap().into_inner();
        assert_eq!(upserted.assignments[0].tag_id, buyer.id);

        let request = BatchTagContactsRequest {
            requests: vec![tagging(&ada, &[], &["nobody"]), tagging(&ada, &[], &["buyer"])],
        };
        let results = t.client.contacts().batch_tag_contacts(request).await.unwrap().into_inner().results;
        let are_done: Vec<bool> = results
            .into_iter()
            .map(|item| matches!(item.result, Some(v1::batch_tag_contacts_response::result::Result::Response(_))))
            .collect();
        assert_eq!(are_done, [false, true]);
        assert_eq!(t.held_tags(&ada).await.len(), 1);
    }

    async fn a_name_that_no_tag_has_is_told(t: Taghook) {
        let ada = t.contact("ada@example.com").await;
        let buyer = t.tag("buyer").await;
        let check = |error: Error| assert!(error.message.contains("Buyer"), "{error:?}");
        let tag = t.client.contacts().tag_contact(tagging(&ada, &[&buyer.id], &["Buyer"])).await;
        check(check_error(tag, Code::NotFound, ErrorReason::NotFound));
        let tag_names = names(&["Buyer"]);
        let request = v1::UntagContactRequest { contact: by_id(&ada.id), tag_names, ..Default::default() };
        check(check_error(t.client.contacts().untag_contact(request).await, Code::NotFound, ErrorReason::NotFound));
        let request = v1::LookupTagRequest { name: "Buyer".into() };
        check(check_error(t.client.tags().lookup_tag(request).await, Code::NotFound, ErrorReason::NotFound));
        assert_eq!(t.held_tags(&ada).await.len(), 0, "all or nothing");
    }

    async fn a_call_names_1_to_20_tags_in_all(t: Taghook) {
        let ada = t.contact("ada@example.com").await;
        let ids: Vec<String> = (10..21).map(|index| format!("tag_000000000000000000000000{index}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let many: Vec<String> = (0..10).map(|index| format!("tag {index}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for request in [tagging(&ada, &[], &[]), tagging(&ada, &ids, &many)] {
            check_invalid(t.client.contacts().tag_contact(request).await, &["tag_ids"]);
        }
        let request = v1::UntagContactRequest { contact: by_id(&ada.id), ..Default::default() };
        check_invalid(t.client.contacts().untag_contact(request).await, &["tag_ids"]);
    }

    async fn a_tag_is_looked_up_by_its_name(t: Taghook) {
        let tag = t.tag("buyer").await;
        let lookup = async |name: &str| t.client.tags().lookup_tag(v1::LookupTagRequest { name: name.into() }).await;
        assert_eq!(lookup("buyer").await.unwrap().into_inner(), tag);
        check_error(lookup("buy").await, Code::NotFound, ErrorReason::NotFound);
        check_error(lookup("a\0b").await, Code::NotFound, ErrorReason::NotFound);
        check_invalid(lookup("").await, &["name"]);
    }
}
