//! What ends with a webhook, with one of its events, and with a contact; and that a contact's data is gone then.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use prost_types::{Struct, Value, value};
use taghook_client::Code;
use taghook_client::contact::by_id;
use taghook_client::v1::delivery::{Source, State};
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::trigger_decision::Decision;
use taghook_client::v1::webhook::CooldownPolicy;
use taghook_client::v1::webhook_event::parameter::Source as ValueSource;
use taghook_client::v1::webhook_event::{Method, Parameter};
use taghook_client::v1::{
    self, Contact, DeliveryReason, ErrorReason, Event, GetContactRequest, ListTimelineEntriesRequest,
    RecordEventRequest, UpsertContactRequest, WebhookEvent,
};

use crate::support::{
    Answer, Api, Database, Fence, Gate, Process, Receiver, Taghook, Watch, both, check_error, delays, dump, seconds,
};

/// What only the contact's data have in them, one for each place where it comes from.
const MARKS: [&str; 5] = ["markmail", "marknamevalue", "4930777777", "markattribute", "markresponse"];

/// The marks that the database holds, as text in any case or as bytes in lower case.
async fn marks_in(database: &Database) -> Vec<&'static str> {
    let all = dump(database).await;
    let hex = |mark: &str| mark.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    MARKS.into_iter().filter(|mark| all.contains(mark) || all.contains(&hex(mark))).collect()
}

/// A contact with a mark in each of its parts.
async fn marked_contact(api: &Api) -> Contact {
    let values = [("first_name".to_owned(), "MarkNameValue".to_owned())].into();
    let contact =
        Contact { email: "MarkMail@example.com".into(), phone: "+49 30 777777".into(), values, ..Default::default() };
    let request = UpsertContactRequest { contact: Some(contact), request_id: "a-contact".into(), ..Default::default() };
    let contact = api.client.contacts().upsert_contact(request).await.unwrap().into_inner().contact.unwrap();
    let attribute = Value { kind: Some(value::Kind::StringValue("MarkAttribute".into())) };
    let event = Event {
        r#type: "form.subscribed".into(),
        attributes: Some(Struct { fields: [("form".to_owned(), attribute)].into() }),
        ..Default::default()
    };
    let request = RecordEventRequest { contact: by_id(&contact.id), event: Some(event), request_id: "an-event".into() };
    api.client.events().record_event(request).await.unwrap();
    contact
}

/// A request that carries all that is known of a contact, the name also in its URL.
fn telling(method: Method) -> WebhookEvent {
    let parameter = |name: &str, field: &str| Parameter {
        name: name.into(),
        source: Some(ValueSource::ContactField(field.into())),
        default_value: None,
    };
    WebhookEvent {
        method: method.into(),
        parameters: vec![parameter("name", "first_name"), parameter("phone", "phone")],
        ..Default::default()
    }
}

/// An answer that repeats what it was told, as a body and as a redirect; a body is bytes, hence the lower case.
fn telling_answer(status: u16) -> Answer {
    Answer::new(status, &[("location", "https://example.com/MarkMail")], "thank you, markresponse")
}

both! {
    async fn a_deleted_webhook_ends_what_waits(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        let gate = Gate::closed();
        receiver.answer_next([Answer::status(500), Answer::ok().behind(&gate)]);
        let (ada, bob) = (t.contact("ada@example.com").await, t.contact("bob@example.com").await);
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        let mut watch = Watch::now(&t.client).await;
        let waiting = t.decide(&ada, &tag).await.delivery_ids.remove(0);
        receiver.recv().await;
        watch.expect(Kind::AttemptFailed).await;
        let sending = t.decide(&bob, &tag).await.delivery_ids.remove(0);
        receiver.recv().await;
        let fence = Fence::raise(&t).await;
        watch.expect(Kind::AttemptFailed).await;

        t.delete_webhook(&webhook).await;
        let mut cancelled = HashSet::new();
        for _ in 0..2 {
            let outcome = watch.expect(Kind::Cancelled).await;
            assert_eq!((&outcome.webhook_id, outcome.reason()), (&webhook.id, DeliveryReason::WebhookDeleted));
            cancelled.insert(outcome.delivery_id);
        }
        assert_eq!(cancelled, HashSet::from([waiting.clone(), sending.clone()]));
        let delivery = t.delivery(&waiting).await;
        assert_eq!((delivery.state(), delivery.reason()), (State::Cancelled, DeliveryReason::WebhookDeleted));
        let request = v1::GetWebhookRequest { id: webhook.id.clone() };
        check_error(t.client.webhooks().get_webhook(request).await, Code::NotFound, ErrorReason::NotFound);

        // What was in flight is recorded: it has been delivered.
        gate.open();
        assert_eq!(watch.expect(Kind::Delivered).await.delivery_id, sending);
        assert_eq!(t.delivery(&sending).await.state(), State::Delivered);
        clock.advance(Fence::DELAY);
        fence.passed().await;
        assert_eq!(receiver.count(), 2);
        assert_eq!(t.assign(&ada, &tag).await.triggers, []);
    }

    async fn a_removed_event_ends_what_waits_for_it_alone(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        receiver.answer_next([Answer::status(500), Answer::status(500)]);
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |webhook| webhook.events.push(WebhookEvent::default())).await;
        let mut watch = Watch::now(&t.client).await;
        let ids = t.decide(&contact, &tag).await.delivery_ids;
        receiver.recv_all(2).await;
        watch.expect(Kind::AttemptFailed).await;
        watch.expect(Kind::AttemptFailed).await;
        t.update(&webhook, &["events"], |webhook| drop(webhook.events.remove(0))).await;
        let outcome = watch.expect(Kind::Cancelled).await;
        assert_eq!((&outcome.delivery_id, outcome.reason()), (&ids[0], DeliveryReason::WebhookEventRemoved));
        clock.advance(Duration::from_secs(10));
        assert_eq!(receiver.recv().await.webhook_id(), ids[1]);
        assert_eq!(watch.expect(Kind::Delivered).await.delivery_id, ids[1]);
        let delivery = t.delivery(&ids[0]).await;
        assert_eq!((delivery.state(), delivery.reason()), (State::Cancelled, DeliveryReason::WebhookEventRemoved));
        assert_eq!(receiver.count(), 3);
    }

    /// Deliveries of every kind hold the contact's data; after the deletion no table has any of it, and what waited has
    /// ended. Counts stay.
    async fn a_deleted_contact_leaves_no_data(database: Database) {
        let t = Taghook::start(database.clone(), database.settings()).await;
        let mut receiver = Receiver::start().await;
        let contact = marked_contact(&t).await;
        let tag = t.tag("customer").await;
        // Each answers differently: delivered, waiting for its next attempt, given up.
        let mut ids = Vec::new();
        let mut watch = Watch::now(&t.client).await;
        for (status, kind, method, retry_delays) in [
            (200, Kind::Delivered, Method::Get, &[][..]),
            (302, Kind::AttemptFailed, Method::Post, &[86_400][..]),
            (500, Kind::Exhausted, Method::Post, &[][..]),
        ] {
            receiver.answer_next([telling_answer(status)]);
            let webhook = t
                .webhook(&receiver, &tag, |webhook| {
                    webhook.url = receiver.url("/__name__");
                    webhook.events = vec![telling(method)];
                    webhook.retry_policy = delays(retry_delays);
                    webhook.activation_tag_ids.clear();
                })
                .await;
            ids.push(t.trigger(&webhook, &contact).await.delivery_ids.remove(0));
            receiver.recv().await;
            watch.expect(kind).await;
        }
        let deferring = t
            .webhook(&receiver, &tag, |webhook| webhook.cooldown_policy = CooldownPolicy::Defer.into())
            .await;
        t.decide(&contact, &tag).await;
        receiver.recv().await;
        watch.expect(Kind::Delivered).await;
        let deferred = t.decide(&contact, &tag).await;
        assert_eq!(deferred.decision(), Decision::Deferred);
        watch.expect(Kind::Deferred).await;
        t.pause(&deferring).await;
        watch.expect(Kind::WebhookPaused).await;
        assert_eq!(marks_in(&database).await, MARKS);

        assert_eq!(t.delete_contact(&contact).await, []);
        assert_eq!(marks_in(&database).await, [""; 0]);
        let mut cancelled = HashSet::new();
        for _ in 0..2 {
            let outcome = watch.expect(Kind::Cancelled).await;
            assert_eq!(outcome.reason(), DeliveryReason::ContactDeleted);
            cancelled.insert(outcome.delivery_id);
        }
        assert_eq!(cancelled, HashSet::from([ids[1].clone(), deferred.delivery_ids[0].clone()]));
        for (id, state) in ids.iter().zip([State::Delivered, State::Cancelled, State::Exhausted]) {
            let delivery = t.delivery(id).await;
            assert_eq!((delivery.state(), delivery.erased, delivery.attempt_count), (state, true, 1));
            assert_eq!((delivery.parameters.len(), &delivery.contact_id), (0, &contact.id));
            let [attempt] = &t.attempts(id).await[..] else { panic!("its attempt is still there") };
            assert_eq!((attempt.url.as_str(), attempt.response_body.len()), ("", 0));
            assert_eq!((attempt.response_location.as_str(), attempt.error_detail.as_str()), ("", ""));
        }
        let request = GetContactRequest { id: contact.id.clone() };
        check_error(t.client.contacts().get_contact(request).await, Code::NotFound, ErrorReason::NotFound);
        let request = ListTimelineEntriesRequest { contact: by_id(&contact.id), ..Default::default() };
        check_error(t.client.events().list_timeline_entries(request).await, Code::NotFound, ErrorReason::NotFound);
        // The address is free, and a stranger's: no window, no tags.
        let again = t.contact("markmail@example.com").await;
        assert_ne!(again.id, contact.id);
        t.resume(&deferring).await;
        assert_eq!(t.decide(&again, &tag).await.decision(), Decision::Scheduled);
    }

    /// An attempt that was in flight when its contact was deleted is recorded, without what it says of the contact.
    async fn an_attempt_in_flight_at_the_deletion_leaves_no_data(database: Database) {
        let t = Taghook::start(database.clone(), database.settings()).await;
        let mut receiver = Receiver::start().await;
        let gate = Gate::closed();
        receiver.answer_next([telling_answer(302).behind(&gate), telling_answer(200).behind(&gate)]);
        let contact = marked_contact(&t).await;
        let tag = t.tag("customer").await;
        let webhook = t
            .webhook(&receiver, &tag, |webhook| {
                webhook.url = receiver.url("/__name__");
                webhook.events = vec![telling(Method::Get)];
                webhook.cooldown = seconds(0);
            })
            .await;
        let mut watch = Watch::now(&t.client).await;
        let mut ids = Vec::new();
        for _ in 0..2 {
            ids.push(t.decide(&contact, &tag).await.delivery_ids.remove(0));
            receiver.recv().await;
        }
        t.delete_contact(&contact).await;
        watch.expect(Kind::Cancelled).await;
        watch.expect(Kind::Cancelled).await;
        gate.open();
        let mut kinds = HashMap::new();
        for _ in 0..2 {
            let outcome = watch.next().await;
            kinds.insert(outcome.delivery_id.clone(), outcome.kind());
            let attempt = outcome.attempt.unwrap();
            assert_eq!((attempt.url, attempt.response_location), (String::new(), String::new()));
        }
        assert_eq!((kinds[&ids[0]], kinds[&ids[1]]), (Kind::AttemptFailed, Kind::Delivered));
        assert_eq!(marks_in(&database).await, [""; 0]);
        assert_eq!(t.delivery(&ids[0]).await.state(), State::Cancelled);
        assert_eq!(t.delivery(&ids[1]).await.state(), State::Delivered);
        assert_eq!(t.current(&webhook).await.id, webhook.id);
    }

    /// A webhook that waits for deletions gets the data; when the request is final, that is erased as well.
    async fn a_deletion_webhook_gets_the_data_which_is_erased_then(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database.clone(), settings).await;
        let mut receiver = Receiver::start().await;
        receiver.answer_next([telling_answer(500)]);
        receiver.answer(telling_answer(200));
        let contact = marked_contact(&t).await;
        let tag = t.tag("customer").await;
        let webhook = t
            .webhook(&receiver, &tag, |webhook| {
                webhook.url = receiver.url("/bye/__name__");
                webhook.events = vec![telling(Method::Post)];
                webhook.activation_tag_ids.clear();
                webhook.on_contact_deleted = true;
            })
            .await;
        let mut watch = Watch::now(&t.client).await;
        let [trigger] = &t.delete_contact(&contact).await[..] else { panic!("one trigger") };
        assert_eq!((&trigger.webhook_id, trigger.decision()), (&webhook.id, Decision::Scheduled));
        let [id] = &trigger.delivery_ids[..] else { panic!("one delivery: {trigger:#?}") };
        let failed = watch.expect(Kind::AttemptFailed).await;
        assert_eq!((&failed.delivery_id, failed.source()), (id, Source::ContactDeleted));
        assert_eq!(t.delivery(id).await.parameters.len(), 3);

        clock.advance_to(failed.next_attempt_time.unwrap());
        for received in receiver.recv_all(2).await {
            assert_eq!((received.target.as_str(), received.webhook_id()), ("/bye/MarkNameValue", id.as_str()));
            assert_eq!(received.text(), "email=markmail%40example.com&name=MarkNameValue&phone=%2B4930777777");
        }
        let outcome = watch.expect(Kind::Delivered).await;
        assert_eq!((&outcome.delivery_id, outcome.attempt.unwrap().url.as_str()), (id, ""));
        let delivery = t.delivery(id).await;
        assert_eq!((delivery.state(), delivery.erased, delivery.attempt_count), (State::Delivered, true, 2));
        assert_eq!((delivery.source(), delivery.parameters.len()), (Source::ContactDeleted, 0));
        assert_eq!(marks_in(&database).await, [""; 0]);
        assert_eq!(receiver.count(), 2);
    }

    /// Given up, cancelled, or with its webhook gone: the payload of a deletion goes whatever ends it.
    async fn a_deletions_payload_goes_however_it_ends(database: Database) {
        let t = Taghook::start(database.clone(), database.settings()).await;
        let mut receiver = Receiver::start().await;
        receiver.answer(telling_answer(500));
        let contact = marked_contact(&t).await;
        let tag = t.tag("customer").await;
        let mut webhooks = Vec::new();
        for retry_delays in [&[][..], &[86_400], &[86_400]] {
            let webhook = t.webhook(&receiver, &tag, |webhook| {
                webhook.url = receiver.url("/bye/__name__");
                webhook.events = vec![telling(Method::Post)];
                webhook.activation_tag_ids.clear();
                webhook.on_contact_deleted = true;
                webhook.retry_policy = delays(retry_delays);
            });
            webhooks.push(webhook.await);
        }
        let mut watch = Watch::now(&t.client).await;
        let triggers = t.delete_contact(&contact).await;
        receiver.recv_all(3).await;
        let ids: Vec<_> = triggers.into_iter().flat_map(|trigger| trigger.delivery_ids).collect();
        let mut kinds = Vec::new();
        for _ in 0..3 {
            kinds.push(watch.next().await.kind());
        }
        kinds.sort_unstable();
        assert_eq!(kinds, [Kind::AttemptFailed, Kind::AttemptFailed, Kind::Exhausted]);
        assert!(!marks_in(&database).await.is_empty(), "two still wait");
        t.cancel(&ids[1]).await.unwrap();
        assert!(!marks_in(&database).await.is_empty(), "one still waits");
        t.delete_webhook(&webhooks[2]).await;
        assert_eq!(marks_in(&database).await, [""; 0]);
        for (id, state) in ids.iter().zip([State::Exhausted, State::Cancelled, State::Cancelled]) {
            let delivery = t.delivery(id).await;
            assert_eq!((delivery.state(), delivery.erased), (state, true));
        }
    }

    /// The program's own log tells nothing of contacts, whatever becomes of their requests.
    async fn the_log_of_the_program_has_no_data(database: Database) {
        let mut receiver = Receiver::start().await;
        receiver.answer_next([telling_answer(302), telling_answer(500)]);
        let server = Process::serve(&database).await;
        let contact = marked_contact(&server).await;
        let tag = server.tag("customer").await;
        server
            .webhook(&receiver, &tag, |webhook| {
                webhook.url = receiver.url("/__name__");
                webhook.events = vec![telling(Method::Get), telling(Method::Post)];
                webhook.retry_policy = delays(&[]);
            })
            .await;
        let mut watch = Watch::now(&server.client).await;
        server.assign(&contact, &tag).await;
        receiver.recv_all(2).await;
        watch.expect(Kind::Exhausted).await;
        watch.expect(Kind::Exhausted).await;
        server.delete_contact(&contact).await;
        let (status, log) = server.terminate().await;
        assert!(status.success(), "{status}");
        let log = log.join("\n").to_lowercase();
        assert!(log.contains("stopping"), "{log}");
        assert_eq!(MARKS.into_iter().find(|mark| log.contains(mark)), None, "{log}");
    }
}
