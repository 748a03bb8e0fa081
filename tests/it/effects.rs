//! Effects of manual tags: what assigning one also assigns and removes.

use prost_types::FieldMask;
use taghook_client::Code;
use taghook_client::contact::by_id;
use taghook_client::v1::tag::Effects;
use taghook_client::v1::tag_usage::User;
use taghook_client::v1::trigger_decision::Decision;
use taghook_client::v1::{
    BatchTagContactsRequest, CreateTagRequest, DeleteTagRequest, ErrorReason, ListTagUsagesRequest, Tag,
    TagContactRequest, TriggerDecision, UpdateTagRequest, UpsertContactRequest,
};

use tonic_types::StatusExt;

use crate::support::{Api, Receiver, Taghook, both, check_error, check_invalid, seconds};

/// A tag with effects.
async fn acting(api: &Api, name: &str, assign: &[&Tag], remove: &[&Tag]) -> Tag {
    let tag = Tag { name: name.into(), effects: Some(effects(assign, remove)), ..Default::default() };
    let request = CreateTagRequest { tag: Some(tag), ..Default::default() };
    api.client.tags().create_tag(request).await.expect("a tag").into_inner()
}

fn effects(assign: &[&Tag], remove: &[&Tag]) -> Effects {
    let ids = |tags: &[&Tag]| tags.iter().map(|tag| tag.id.clone()).collect();
    Effects { assign_tag_ids: ids(assign), remove_tag_ids: ids(remove) }
}

fn change(tag: &Tag, effects: Effects) -> UpdateTagRequest {
    let tag = Tag { id: tag.id.clone(), effects: Some(effects), ..Default::default() };
    let update_mask = Some(FieldMask { paths: vec!["effects".into()] });
    UpdateTagRequest { tag: Some(tag), update_mask, ..Default::default() }
}

both! {
    async fn a_tag_brings_and_takes_others_with_their_webhooks(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let (lead, stale, far) = (t.tag("lead").await, t.tag("stale").await, t.tag("far").await);
        let near = acting(&t, "near", &[&far], &[&lead]).await;
        let buyer = acting(&t, "buyer", &[&near], &[&stale]).await;
        assert_eq!(buyer.effects, Some(effects(&[&near], &[&stale])));
        let webhook = t.webhook(&receiver, &far, |webhook| webhook.cooldown = seconds(0)).await;
        t.assign_all(&contact, &[&lead, &stale]).await;

        let tagged = t.assign(&contact, &buyer).await;
        let assigned: Vec<_> = tagged
            .assignments
            .iter()
            .map(|tag| (tag.tag_id.as_str(), tag.newly_assigned, tag.effect_of_tag_id.as_str()))
            .collect();
        let of_buyer = buyer.id.as_str();
        assert_eq!(assigned, [(of_buyer, true, ""), (&*near.id, true, of_buyer), (&*far.id, true, of_buyer)]);
        assert_eq!(tagged.removed_tag_ids, [stale.id.as_str(), &lead.id]);
        let [trigger] = &tagged.triggers[..] else { panic!("one trigger: {tagged:#?}") };
        assert_eq!((&trigger.webhook_id, trigger.decision()), (&webhook.id, Decision::Scheduled));
        assert_eq!(trigger.activation_tag_ids, [far.id.as_str()]);
        assert_eq!(receiver.recv().await.webhook_id(), trigger.delivery_ids[0]);
        let mut held = t.held_tags(&contact).await;
        held.sort_unstable();
        let mut expected = [buyer.id.clone(), near.id.clone(), far.id.clone()];
        expected.sort_unstable();
        assert_eq!(held, expected);

        // A tag that is held has its effects again.
        t.assign(&contact, &lead).await;
        let again = t.assign(&contact, &buyer).await;
        assert_eq!(again.removed_tag_ids, [lead.id.as_str()]);
        assert!(again.assignments.iter().all(|tag| !tag.newly_assigned), "{again:#?}");
        assert_eq!(again.triggers.len(), 1);
        receiver.recv().await;
    }

    async fn an_upsert_has_the_effects_too(t: Taghook) {
        let gone = t.tag("gone").await;
        let tag = acting(&t, "tag", &[], &[&gone]).await;
        let contact = t.contact("ada@example.com").await;
        t.assign(&contact, &gone).await;
        let upsert = UpsertContactRequest {
            contact: Some(taghook_client::v1::Contact { email: "ada@example.com".into(), ..Default::default() }),
            tag_ids: vec![tag.id.clone()],
            ..Default::default()
        };
        let answer = t.client.contacts().upsert_contact(upsert).await.unwrap().into_inner();
        assert_eq!(answer.removed_tag_ids, [gone.id.as_str()]);
        assert_eq!(t.held_tags(&contact).await, [tag.id.as_str()]);
    }

    async fn a_batch_is_as_good_as_its_items_one_by_one(t: Taghook) {
        let receiver = Receiver::start().await;
        let (cold, contact) = (t.tag("cold").await, t.contact("ada@example.com").await);
        let warm = acting(&t, "warm", &[], &[&cold]).await;
        t.webhook(&receiver, &cold, |webhook| {
            webhook.cooldown = seconds(0);
            webhook.only_when_newly_assigned = true;
        })
        .await;
        let item = |tag: &Tag| TagContactRequest {
            contact: by_id(&contact.id),
            tag_ids: vec![tag.id.clone()],
            ..Default::default()
        };
        let requests = [&cold, &warm, &cold, &warm, &warm, &cold].map(item).to_vec();
        let answer = t.client.contacts().batch_tag_contacts(BatchTagContactsRequest { requests }).await;
        let results = answer.unwrap().into_inner().results;
        let told: Vec<_> = results
            .into_iter()
            .map(|item| match item.result {
                Some(taghook_client::v1::batch_tag_contacts_response::result::Result::Response(response)) => {
                    let is_new = response.assignments[0].newly_assigned;
                    (is_new, response.removed_tag_ids.len(), response.triggers.first().map(TriggerDecision::decision))
                }
                other => panic!("{other:?}"),
            })
            .collect();
        let scheduled = Some(Decision::Scheduled);
        assert_eq!(
            told,
            [
                (true, 0, scheduled),
                (true, 1, None),
                (true, 0, scheduled),
                (false, 1, None),
                (false, 0, None),
                (true, 0, scheduled)
            ]
        );
        let mut held = t.held_tags(&contact).await;
        held.sort_unstable();
        let mut expected = [warm.id.clone(), cold.id.clone()];
        expected.sort_unstable();
        assert_eq!(held, expected);
    }

    async fn circles_contradictions_and_tags_that_are_not_there_are_refused(t: Taghook) {
        let (a, other) = (t.tag("a").await, t.tag("other").await);
        let b = acting(&t, "b", &[&a], &[]).await;
        let c = acting(&t, "c", &[&b], &[]).await;
        let mut tags = t.client.tags();
        let error = check_invalid(tags.update_tag(change(&a, effects(&[&c], &[]))).await, &["tag.effects"]);
        let way = [&a, &c, &b, &a].map(|tag| tag.id.as_str()).join(" -> ");
        assert!(error.status.message().contains(&way) || format!("{error:?}").contains(&way), "{error:?}");
        check_invalid(tags.update_tag(change(&a, effects(&[&a], &[]))).await, &["tag.effects"]);
        check_invalid(tags.update_tag(change(&a, effects(&[], &[&c]))).await, &["tag.effects"]);
        let nobody = Tag { id: "tag_01jd7z1v5rf5xv0m2yq8t3w9ka".into(), ..Default::default() };
        let bad = Tag { id: "x".into(), ..Default::default() };
        check_invalid(
            tags.update_tag(change(&a, effects(&[&other, &nobody], &[&nobody]))).await,
            &["tag.effects.assign_tag_ids[1]", "tag.effects.remove_tag_ids[0]"],
        );
        check_invalid(tags.update_tag(change(&a, effects(&[&bad], &[]))).await, &["tag.effects.assign_tag_ids[0]"]);
        // Nothing of it was kept.
        let contact = t.contact("ada@example.com").await;
        assert_eq!(t.assign(&contact, &a).await.assignments.len(), 1);
        // What excludes each other is no circle.
        tags.update_tag(change(&a, effects(&[], &[&other]))).await.unwrap();
        tags.update_tag(change(&other, effects(&[], &[&a]))).await.unwrap();
        assert_eq!(t.assign(&contact, &other).await.removed_tag_ids, [a.id.as_str()]);
        // An empty one takes all away.
        let plain = tags.update_tag(change(&other, Effects::default())).await.unwrap().into_inner();
        assert_eq!(plain.effects, None);
    }

    async fn circles_are_refused_between_callers_at_the_same_moment(t: Taghook) {
        for round in 0..5 {
            let (a, b) = (t.tag(&format!("a{round}")).await, t.tag(&format!("b{round}")).await);
            let client = || t.client.tags();
            let (mut one, mut other) = (client(), client());
            let (one, other) = tokio::join!(
                one.update_tag(change(&a, effects(&[&b], &[]))),
                other.update_tag(change(&b, effects(&[&a], &[])))
            );
            assert_ne!(one.is_ok(), other.is_ok(), "{one:?} {other:?}");
        }
    }

    async fn a_tag_in_others_effects_is_in_use(t: Taghook) {
        let receiver = Receiver::start().await;
        let tag = t.tag("tag").await;
        let webhook = t.webhook(&receiver, &tag, |webhook| webhook.name = "shop".into()).await;
        let taker = acting(&t, "taker", &[], &[&tag]).await;
        let giver = acting(&t, "giver", &[&tag], &[]).await;
        let list = async |page_size: i32, page_token: String| {
            let request = ListTagUsagesRequest { id: tag.id.clone(), page_size, page_token };
            t.client.tags().list_tag_usages(request).await.unwrap().into_inner()
        };
        let all = list(10, String::new()).await;
        let users: Vec<_> =
            all.usages.iter().map(|usage| (usage.user.clone().unwrap(), usage.display_name.as_str())).collect();
        let expected = [
            (User::WebhookId(webhook.id.clone()), "shop"),
            (User::TagId(taker.id.clone()), "taker"),
            (User::TagId(giver.id.clone()), "giver"),
        ];
        assert_eq!(users, expected);
        let mut paged = Vec::new();
        let mut token = String::new();
        for _ in 0..3 {
            let page = list(1, token).await;
            paged.extend(page.usages);
            token = page.next_page_token;
        }
        assert_eq!((paged, token.as_str()), (all.usages, ""));

        let mut request = DeleteTagRequest { id: tag.id.clone(), ..Default::default() };
        let mut tags = t.client.tags();
        let error = check_error(tags.delete_tag(request.clone()).await, Code::FailedPrecondition, ErrorReason::InUse);
        let users = error.status.get_details_precondition_failure().unwrap().violations;
        assert_eq!(users.len(), 3);
        assert_eq!(users[1].subject, format!("{} (taker)", taker.id));
        request.force = true;
        tags.delete_tag(request).await.unwrap();
        let contact = t.contact("ada@example.com").await;
        assert_eq!(t.assign(&contact, &giver).await.assignments.len(), 1);
    }
}
