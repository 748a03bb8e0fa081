//! What a tag sets off: which webhooks, how many deliveries, all or nothing.

use std::collections::HashSet;

use taghook_client::Code;
use taghook_client::contact::{by_email, by_id};
use taghook_client::v1::batch_tag_contacts_response::result::Result as Answered;
use taghook_client::v1::contact::Status;
use taghook_client::v1::delivery::{Source, State};
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::trigger_decision::Decision;
use taghook_client::v1::webhook_event::Parameter;
use taghook_client::v1::webhook_event::parameter::Source as ValueSource;
use taghook_client::v1::{
    BatchTagContactsRequest, Contact, DeliveryFilter, DeliveryReason, ErrorReason, LookupContactRequest,
    TagContactRequest, TriggerWebhookRequest, UpsertContactRequest, UpsertContactResponse, WebhookEvent,
};

use crate::support::{Api, Receiver, Taghook, Watch, both, check_error, check_invalid, seconds};

/// An id that is well formed and names nothing.
const NO_TAG: &str = "tag_01jd7z1v5rf5xv0m2yq8t3w9ka";

fn first_name() -> Parameter {
    let source = ValueSource::ContactField("first_name".into());
    Parameter { name: "name".into(), source: Some(source), default_value: None }
}

/// Creates or updates the contact with this e-mail.
async fn upsert(api: &Api, email: &str, first_name: &str, tag_ids: &[&str]) -> UpsertContactResponse {
    let values = [("first_name".to_owned(), first_name.to_owned())].into();
    let contact = Contact { email: email.into(), values, ..Default::default() };
    let tag_ids = tag_ids.iter().map(|id| (*id).to_owned()).collect();
    let request = UpsertContactRequest { contact: Some(contact), tag_ids, ..Default::default() };
    api.client.contacts().upsert_contact(request).await.expect("an upsert").into_inner()
}

both! {
    async fn a_call_makes_one_trigger_per_webhook_and_one_delivery_per_event(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let (one, two, three) = (t.tag("one").await, t.tag("two").await, t.tag("three").await);
        let pair = t
            .webhook(&receiver, &one, |webhook| {
                webhook.activation_tag_ids.push(two.id.clone());
                webhook.url = receiver.url("/pair");
                webhook.events.push(WebhookEvent { email_parameter_name: "mail".into(), ..Default::default() });
            })
            .await;
        let single = t.webhook(&receiver, &two, |webhook| webhook.url = receiver.url("/single")).await;
        let other = t.webhook(&receiver, &three, |_| {}).await;

        let tagged = t.assign_all(&contact, &[&two, &one]).await;
        let assigned: Vec<_> = tagged.assignments.iter().map(|tag| tag.tag_id.as_str()).collect();
        assert_eq!(assigned, [two.id.as_str(), &one.id]);
        let [of_pair, of_single] = &tagged.triggers[..] else { panic!("two triggers: {tagged:#?}") };
        assert_eq!((&of_pair.webhook_id, of_pair.decision()), (&pair.id, Decision::Scheduled));
        assert_eq!((&of_single.webhook_id, of_single.decision()), (&single.id, Decision::Scheduled));
        assert_eq!(of_pair.activation_tag_ids, [two.id.as_str(), &one.id]);
        assert_eq!(of_single.activation_tag_ids, [two.id.as_str()]);
        assert_eq!((of_pair.delivery_ids.len(), of_single.delivery_ids.len()), (2, 1));

        let mut received: Vec<_> = receiver
            .recv_all(3)
            .await
            .iter()
            .map(|received| (received.target.clone(), received.text().to_owned(), received.webhook_id().to_owned()))
            .collect();
        received.sort_unstable();
        let expected = [
            ("/pair".to_owned(), "email=ada%40example.com".to_owned(), of_pair.delivery_ids[0].clone()),
            ("/pair".to_owned(), "mail=ada%40example.com".to_owned(), of_pair.delivery_ids[1].clone()),
            ("/single".to_owned(), "email=ada%40example.com".to_owned(), of_single.delivery_ids[0].clone()),
        ];
        assert_eq!(received, expected);
        let events: Vec<_> = pair.events.iter().map(|event| event.id.clone()).collect();
        for (delivery_id, event_id) in of_pair.delivery_ids.iter().zip(&events) {
            let delivery = t.delivery(delivery_id).await;
            assert_eq!((&delivery.webhook_event_id, delivery.source()), (event_id, Source::Tag));
        }
        let of_other = DeliveryFilter { webhook_ids: vec![other.id], ..Default::default() };
        assert_eq!(t.deliveries(of_other).await, []);
        assert_eq!(t.deliveries(DeliveryFilter::default()).await.len(), 3);
    }

    async fn a_webhook_without_tags_is_set_off_by_calls_alone(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |webhook| webhook.activation_tag_ids.clear()).await;
        assert_eq!(t.assign(&contact, &tag).await.triggers, []);
        let request =
            TriggerWebhookRequest { id: webhook.id.clone(), contact: by_email("ADA@example.com"), ..Default::default() };
        let decision = t.client.webhooks().trigger_webhook(request).await.unwrap().into_inner().trigger.unwrap();
        assert_eq!((decision.decision(), decision.activation_tag_ids.len()), (Decision::Scheduled, 0));
        assert_eq!([receiver.recv().await.webhook_id()], decision.delivery_ids[..]);
        assert_eq!(t.delivery(&decision.delivery_ids[0]).await.source(), Source::Api);
        assert_eq!(receiver.count(), 1);
    }

    async fn the_status_of_a_contact_blocks_no_trigger(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |_| {}).await;
        for (index, status) in [Status::Pending, Status::Unsubscribed, Status::Bounced].into_iter().enumerate() {
            let contact =
                Contact { email: format!("c{index}@example.com"), status: status.into(), ..Default::default() };
            let request = UpsertContactRequest {
                contact: Some(contact),
                tag_ids: vec![tag.id.clone()],
                ..Default::default()
            };
            let answer = t.client.contacts().upsert_contact(request).await.unwrap().into_inner();
            assert_eq!(answer.triggers[0].decision(), Decision::Scheduled, "{status:?}");
            assert_eq!(receiver.recv().await.text(), format!("email=c{index}%40example.com"));
        }
    }

    async fn a_call_that_names_a_tag_that_is_not_there_does_nothing(t: Taghook) {
        let receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |_| {}).await;
        let mut watch = Watch::now(&t.client).await;
        let tag_ids = vec![tag.id.clone(), NO_TAG.to_owned()];
        let request = TagContactRequest { contact: by_id(&contact.id), tag_ids: tag_ids.clone(), ..Default::default() };
        check_error(t.client.contacts().tag_contact(request).await, Code::NotFound, ErrorReason::NotFound);
        let new = Contact { email: "new@example.com".into(), ..Default::default() };
        let request = UpsertContactRequest { contact: Some(new), tag_ids, ..Default::default() };
        check_error(t.client.contacts().upsert_contact(request).await, Code::NotFound, ErrorReason::NotFound);

        assert_eq!(t.held_tags(&contact).await, Vec::<String>::new());
        assert_eq!(t.deliveries(DeliveryFilter::default()).await, []);
        let request = LookupContactRequest { contact: by_email("new@example.com") };
        check_error(t.client.contacts().lookup_contact(request).await, Code::NotFound, ErrorReason::NotFound);
        // The first outcome is that of a trigger which is made now.
        let decision = t.decide(&contact, &tag).await;
        assert_eq!(decision.decision(), Decision::Scheduled);
        assert_eq!(watch.expect(Kind::Delivered).await.delivery_id, decision.delivery_ids[0]);
    }

    async fn assigning_a_held_tag_is_a_trigger_again(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |webhook| webhook.cooldown = seconds(0)).await;
        let first = t.assign(&contact, &tag).await;
        let again = t.assign(&contact, &tag).await;
        assert!(first.assignments[0].newly_assigned && !again.assignments[0].newly_assigned);
        assert_eq!(first.assignments[0].assign_time, again.assignments[0].assign_time);
        assert_eq!(again.triggers[0].decision(), Decision::Scheduled);
        assert_eq!(receiver.recv_all(2).await.len(), 2);
    }

    async fn a_webhook_may_ignore_tags_that_are_held(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |webhook| {
            webhook.cooldown = seconds(0);
            webhook.only_when_newly_assigned = true;
        })
        .await;
        assert_eq!(t.decide(&contact, &tag).await.decision(), Decision::Scheduled);
        let ignored = t.decide(&contact, &tag).await;
        assert_eq!((ignored.decision(), ignored.reason()), (Decision::Skipped, DeliveryReason::AlreadyAssigned));
        assert_eq!((ignored.activation_tag_ids, ignored.delivery_ids), (vec![tag.id.clone()], vec![]));
        assert_eq!(t.deliveries(DeliveryFilter::default()).await.len(), 1);

        t.untag(&contact, &tag).await;
        let again = t.assign(&contact, &tag).await;
        assert!(again.assignments[0].newly_assigned);
        assert_eq!(again.triggers[0].decision(), Decision::Scheduled);
        assert_eq!(receiver.recv_all(2).await.len(), 2);
    }

    async fn an_upsert_sends_what_it_has_written(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |webhook| {
            webhook.cooldown = seconds(0);
            webhook.events[0].parameters = vec![first_name()];
        })
        .await;
        let new = upsert(&t, "ada@example.com", "Ada", &[&tag.id]).await;
        assert!(new.created && new.assignments[0].newly_assigned);
        assert_eq!(new.triggers[0].decision(), Decision::Scheduled);
        let received = receiver.recv().await;
        assert_eq!(received.text(), "email=ada%40example.com&name=Ada");
        assert_eq!(received.webhook_id(), new.triggers[0].delivery_ids[0]);

        let known = upsert(&t, "ADA@example.com", "Augusta", &[&tag.id]).await;
        assert!(!known.created && !known.assignments[0].newly_assigned);
        assert_eq!(known.contact.unwrap().id, new.contact.unwrap().id);
        let received = receiver.recv().await;
        assert_eq!(received.text(), "email=ada%40example.com&name=Augusta");
        assert_eq!(received.webhook_id(), known.triggers[0].delivery_ids[0]);

        let untagged = upsert(&t, "ada@example.com", "A", &[]).await;
        assert_eq!((untagged.assignments.len(), untagged.triggers.len()), (0, 0));
        assert_eq!(receiver.count(), 2);
    }

    async fn a_bad_item_of_a_batch_harms_no_other(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let (ada, bob) = (t.contact("ada@example.com").await, t.contact("bob@example.com").await);
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |_| {}).await;
        let item = |contact_id: &str, email: &str, tag_id: &str| TagContactRequest {
            contact: if email.is_empty() { by_id(contact_id) } else { by_email(email) },
            tag_ids: vec![tag_id.into()],
            ..Default::default()
        };
        let requests = vec![
            item(&ada.id, "", &tag.id),
            item(&ada.id, "", NO_TAG),
            item("", "nobody@example.com", &tag.id),
            item("", "no address", "x"),
            item("", "Bob@example.com", &tag.id),
            // The same contact again: the first one has the window.
            item("", "ada@example.com", &tag.id),
            TagContactRequest::default(),
        ];
        let answer = t.client.contacts().batch_tag_contacts(BatchTagContactsRequest { requests }).await;
        let results: Vec<_> = answer.unwrap().into_inner().results.into_iter().map(|item| item.result).collect();
        let mut delivery_ids = Vec::new();
        for (index, (contact, decision)) in
            [(0, (&ada, Decision::Scheduled)), (4, (&bob, Decision::Scheduled)), (5, (&ada, Decision::Suppressed))]
        {
            let Some(Answered::Response(response)) = &results[index] else { panic!("{index}: {results:#?}") };
            assert_eq!((&response.contact_id, response.triggers[0].decision()), (&contact.id, decision), "{index}");
            delivery_ids.extend(response.triggers[0].delivery_ids.iter().cloned());
        }
        for (index, code) in [(1, Code::NotFound), (2, Code::NotFound), (3, Code::InvalidArgument), (6, Code::InvalidArgument)] {
            let Some(Answered::Error(error)) = &results[index] else { panic!("{index}: {results:#?}") };
            assert_eq!(error.code, code as i32, "{index}: {error:#?}");
            assert!(!error.message.is_empty() && !error.details.is_empty(), "{index}: {error:#?}");
        }
        let received: HashSet<_> =
            receiver.recv_all(2).await.iter().map(|received| received.webhook_id().to_owned()).collect();
        assert_eq!(received, delivery_ids[..2].iter().cloned().collect());
        let states: Vec<_> = [State::Suppressed].map(|state| state as i32).into();
        let suppressed = t.deliveries(DeliveryFilter { states, ..Default::default() }).await;
        assert_eq!(suppressed.iter().map(|delivery| &delivery.id).collect::<Vec<_>>(), [&delivery_ids[2]]);
        assert_eq!(t.held_tags(&ada).await, [tag.id.as_str()]);
    }

    async fn an_item_with_a_request_id_is_made_once(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |webhook| webhook.cooldown = seconds(0)).await;
        let item = TagContactRequest {
            contact: by_id(&contact.id),
            tag_ids: vec![tag.id.clone()],
            request_id: "item-1".into(),
            ..Default::default()
        };
        let batch = || async {
            let requests = vec![item.clone()];
            let answer = t.client.contacts().batch_tag_contacts(BatchTagContactsRequest { requests }).await;
            answer.unwrap().into_inner().results
        };
        let first = batch().await;
        assert_eq!(batch().await, first);
        receiver.recv().await;
        assert_eq!(t.deliveries(DeliveryFilter::default()).await.len(), 1);
    }

    async fn the_size_of_a_batch_is_limited(t: Taghook) {
        for requests in [Vec::new(), vec![TagContactRequest::default(); 1_001]] {
            check_invalid(
                t.client.contacts().batch_tag_contacts(BatchTagContactsRequest { requests }).await,
                &["requests"],
            );
        }
    }
}
