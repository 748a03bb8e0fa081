//! Batches: what each item is answered.

use taghook_client::contact::by_id;
use taghook_client::v1::tag::Kind;
use taghook_client::v1::{BatchTagContactsRequest, CreateTagRequest, SmartRule, Tag, TagContactRequest};
use taghook_client::{Code, v1};

use crate::support::{Api, Taghook, both};

async fn smart_tag(api: &Api, name: &str, event_type: &str) -> Tag {
    let rule = Some(SmartRule { event_type: event_type.into(), ..Default::default() });
    let tag = Some(Tag { name: name.into(), kind: Kind::Smart.into(), rule, ..Default::default() });
    let request = CreateTagRequest { tag, ..Default::default() };
    api.client.tags().create_tag(request).await.expect("a smart tag").into_inner()
}

both! {
    async fn a_refused_item_is_refused_alike_each_time(t: Taghook) {
        let contact = t.contact("ada@example.com").await;
        let tag = smart_tag(&t, "smart", "form.subscribed").await;
        let item = TagContactRequest {
            contact: by_id(&contact.id),
            tag_ids: vec![tag.id.clone()],
            request_id: "item-1".into(),
            ..Default::default()
        };
        let request = BatchTagContactsRequest { requests: vec![item; 2] };
        let results = t.client.contacts().batch_tag_contacts(request).await.unwrap().into_inner().results;
        for result in results {
            let Some(v1::batch_tag_contacts_response::result::Result::Error(error)) = result.result else {
                panic!("{result:#?}")
            };
            assert_eq!(error.code, Code::FailedPrecondition as i32, "{error:#?}");
            // The metadata of the details has no order.
            assert!(error.message.contains(&tag.id), "{error:#?}");
        }
    }
}
