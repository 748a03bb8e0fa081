//! Requests go on with the trace of the call that set them off (W3C Trace Context).

use std::time::Duration;

use taghook_client::contact::by_id;
use taghook_client::v1::campaign_node::Action;
use taghook_client::v1::delivery::State;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::webhook::CooldownPolicy;
use taghook_client::v1::{
    ActivateCampaignRequest, BatchRecordEventsRequest, BatchTagContactsRequest, Campaign, CampaignNode, Contact,
    CreateCampaignRequest, CreateContactRequest, CreateReplayRequest, CreateTagRequest, DeleteContactRequest,
    EnrollContactRequest, Event, ExitAction, RecordEventRequest, Replay, ReplayFilter, RetryDeliveryRequest, SmartRule,
    Tag, TagContactRequest, TestWebhookRequest, TriggerWebhookRequest, UpdateContactRequest, UpsertContactRequest,
    Webhook, WebhookAction, tag,
};
use tokio::task::JoinSet;
use tonic::Request;

use crate::support::{Answer, Api, Database, Received, Receiver, Taghook, Watch, both, delays, mask};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// Another trace, of calls that must not lend it to what they don't set off.
const STRANGER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// The cooldown of webhooks that say nothing of it.
const COOLDOWN: Duration = Duration::from_hours(6);

fn traced<T>(message: T, parent: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", parent.parse().expect("a header"));
    request
}

/// Checks that a request belongs to the trace of [`PARENT`]; its own span.
#[track_caller]
fn check_span(received: &Received) -> &str {
    check_span_of(received, PARENT)
}

/// Checks that a request belongs to the trace of a parent; its own span.
#[track_caller]
fn check_span_of<'a>(received: &'a Received, parent: &str) -> &'a str {
    let text = received.header("traceparent");
    let (trace, parent_span) = trace_and_span(parent);
    let (own_trace, span) = trace_and_span(text);
    assert_eq!(own_trace, trace, "{text}");
    let is_hex = span.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    assert!(span.len() == 16 && is_hex && span != "0000000000000000", "{text}");
    assert_ne!(span, parent_span, "the parent's span isn't the request's");
    span
}

fn trace_and_span(text: &str) -> (&str, &str) {
    let ["00", trace, span, "01"] = text.split('-').collect::<Vec<_>>()[..] else { panic!("{text}") };
    (trace, span)
}

fn tagging(contact: &Contact, tag: &Tag) -> TagContactRequest {
    TagContactRequest { contact: by_id(&contact.id), tag_ids: vec![tag.id.clone()], ..Default::default() }
}

/// Tags a contact in a trace.
async fn assign_traced(api: &Api, contact: &Contact, tag: &Tag, parent: &'static str) {
    api.client.contacts().tag_contact(traced(tagging(contact, tag), parent)).await.expect("an assignment");
}

/// A smart tag of an event's type.
async fn smart_tag(api: &Api, event_type: &str) -> Tag {
    let rule = SmartRule { event_type: event_type.into(), ..Default::default() };
    let tag = Tag { name: event_type.into(), kind: tag::Kind::Smart.into(), rule: Some(rule), ..Default::default() };
    let request = CreateTagRequest { tag: Some(tag), ..Default::default() };
    api.client.tags().create_tag(request).await.expect("a smart tag").into_inner()
}

/// An active campaign that calls a webhook, and that a tag starts.
async fn calling(api: &Api, webhook: &Webhook, start: &Tag) -> Campaign {
    let node =
        |key: &str, next: &str, action| CampaignNode { key: key.into(), next_key: next.into(), action: Some(action) };
    let call = Action::Webhook(WebhookAction { webhook_id: webhook.id.clone() });
    let campaign = Campaign {
        name: "calling".into(),
        start_tag_id: start.id.clone(),
        nodes: vec![node("call", "exit", call), node("exit", "", Action::Exit(ExitAction {}))],
        ..Default::default()
    };
    let request = CreateCampaignRequest { campaign: Some(campaign), ..Default::default() };
    let campaign = api.client.campaigns().create_campaign(request).await.expect("a campaign").into_inner();
    let request = ActivateCampaignRequest { id: campaign.id, ..Default::default() };
    api.client.campaigns().activate_campaign(request).await.expect("an active campaign").into_inner()
}

both! {
    async fn every_call_that_sends_hands_on_its_trace(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        receiver.answer_next([Answer::status(500)]);
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |webhook| webhook.retry_policy = delays(&[5])).await;
        let mut watch = Watch::now(&t.client).await;

        let (contact_id, id) = (contact.id.clone(), webhook.id.clone());
        let tagged = TagContactRequest {
            contact: by_id(&contact_id),
            tag_ids: vec![tag.id.clone()],
            ..Default::default()
        };
        t.client.contacts().tag_contact(traced(tagged, PARENT)).await.expect("an assignment");
        let first = receiver.recv().await;
        let failed = watch.expect(Kind::AttemptFailed).await;
        // Another attempt is another span, and the trace has been kept meanwhile.
        clock.advance_to(failed.next_attempt_time.expect("a retry"));
        let second = receiver.recv().await;
        assert_eq!(first.webhook_id(), second.webhook_id());
        watch.expect(Kind::Delivered).await;

        let trigger =
            TriggerWebhookRequest { id: id.clone(), contact: by_id(&contact_id), ..Default::default() };
        t.client.webhooks().trigger_webhook(traced(trigger, PARENT)).await.expect("a trigger");
        let third = receiver.recv().await;
        let test = TestWebhookRequest { id, contact: by_id(contact_id), ..Default::default() };
        t.client.webhooks().test_webhook(traced(test, PARENT)).await.expect("a test");
        let fourth = receiver.recv().await;

        let mut spans: Vec<_> = [&first, &second, &third, &fourth].map(check_span).into();
        spans.sort_unstable();
        spans.dedup();
        assert_eq!(spans.len(), 4, "each has a span of its own");
    }

    /// Section 3.2: a trace context that can't be read is none; nothing is made up in its place.
    async fn a_call_without_a_trace_sends_none(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        t.assign(&contact, &tag).await;
        assert!(!receiver.recv().await.headers.contains_key("traceparent"));
        for parent in [
            "0af7651916cd43dd8448eb211c80319c",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        ] {
            let trigger =
                TriggerWebhookRequest { id: webhook.id.clone(), contact: by_id(&contact.id), ..Default::default() };
            t.client.webhooks().trigger_webhook(traced(trigger, parent)).await.expect("a trigger");
            assert!(!receiver.recv().await.headers.contains_key("traceparent"), "{parent}");
        }
    }

    /// Calls at once share a commit, but not their traces.
    async fn each_of_many_calls_hands_on_its_own_trace(t: Taghook) {
        const EACH: usize = 6;
        let mut receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |_| {}).await;
        let mut contacts = Vec::new();
        for index in 0..4 * EACH {
            contacts.push(t.contact(&format!("c{index}@example.com")).await);
        }
        let (singles, batches) = contacts.split_at(2 * EACH);
        let mut calls = JoinSet::new();
        for (contact, parent) in singles.iter().zip([PARENT, STRANGER].into_iter().cycle()) {
            let (client, request) = (t.client.clone(), traced(tagging(contact, &tag), parent));
            calls.spawn(async move { client.contacts().tag_contact(request).await.map(drop) });
        }
        for (contacts, parent) in batches.chunks(EACH).zip([PARENT, STRANGER]) {
            let requests = contacts.iter().map(|contact| tagging(contact, &tag)).collect();
            let (client, request) = (t.client.clone(), traced(BatchTagContactsRequest { requests }, parent));
            calls.spawn(async move { client.contacts().batch_tag_contacts(request).await.map(drop) });
        }
        calls.join_all().await.into_iter().collect::<Result<Vec<_>, _>>().expect("answers");

        let received = receiver.recv_all(contacts.len()).await;
        for (index, contact) in contacts.iter().enumerate() {
            let own = received.iter().find(|received| received.form()[0].1 == contact.email).expect("its request");
            let is_first = if index < singles.len() { index % 2 == 0 } else { index < singles.len() + EACH };
            let parent = if is_first { PARENT } else { STRANGER };
            check_span_of(own, parent);
        }
    }

    async fn what_a_call_sets_off_inside_belongs_to_its_trace(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        // An upserted contact, by its tag and by the event of its making.
        let (customer, born) = (t.tag("customer").await, smart_tag(&t, "contact.created").await);
        t.webhook(&receiver, &customer, |_| {}).await;
        t.webhook(&receiver, &born, |_| {}).await;
        let request = UpsertContactRequest {
            contact: Some(Contact { email: "bob@example.com".into(), ..Default::default() }),
            tag_ids: vec![customer.id.clone()],
            ..Default::default()
        };
        t.client.contacts().upsert_contact(traced(request, PARENT)).await.expect("a contact");
        for received in receiver.recv_all(2).await {
            check_span(&received);
        }

        // An event, through a smart tag.
        let bought = smart_tag(&t, "payment.bought").await;
        t.webhook(&receiver, &bought, |_| {}).await;
        let event = Event { r#type: "payment.bought".into(), ..Default::default() };
        let request =
            RecordEventRequest { contact: by_id(&contact.id), event: Some(event), ..Default::default() };
        t.client.events().record_event(traced(request, PARENT)).await.expect("an event");
        check_span(&receiver.recv().await);

        // A campaign, entered by its tag and by a call.
        let (begin, never) = (t.tag("begin").await, t.tag("never").await);
        let webhook = t.webhook(&receiver, &never, |_| {}).await;
        let campaign = calling(&t, &webhook, &begin).await;
        assign_traced(&t, &contact, &begin, PARENT).await;
        let by_tag = receiver.recv().await;
        let bea = t.contact("bea@example.com").await;
        // Her birth is another story.
        receiver.recv().await;
        let request = EnrollContactRequest { campaign_id: campaign.id, contact: by_id(bea.id), ..Default::default() };
        t.client.campaigns().enroll_contact(traced(request, PARENT)).await.expect("an enrollment");
        let by_call = receiver.recv().await;
        for received in [&by_tag, &by_call] {
            check_span(received);
            assert_eq!(t.delivery(received.webhook_id()).await.webhook_id, webhook.id);
        }
    }

    /// Each is an event that a smart tag hears of, and the end has webhooks of its own.
    async fn what_becomes_of_a_contact_belongs_to_the_trace_of_the_call(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        for event_type in ["contact.created", "contact.updated", "payment.bought"] {
            t.webhook(&receiver, &smart_tag(&t, event_type).await, |_| {}).await;
        }
        let mut contacts = t.client.contacts();
        let contact = Contact { email: "ada@example.com".into(), ..Default::default() };
        let request = CreateContactRequest { contact: Some(contact), ..Default::default() };
        let contact = contacts.create_contact(traced(request, PARENT)).await.expect("a contact").into_inner();
        check_span(&receiver.recv().await);
        let values = [("first_name".to_owned(), "Ada".to_owned())].into();
        let changed = Contact { id: contact.id.clone(), values, ..Default::default() };
        let request = UpdateContactRequest { contact: Some(changed), update_mask: mask(&["values.first_name"]), ..Default::default() };
        contacts.update_contact(traced(request, PARENT)).await.expect("a change");
        check_span(&receiver.recv().await);
        let event = Event { r#type: "payment.bought".into(), ..Default::default() };
        let request =
            RecordEventRequest { contact: by_id(&contact.id), event: Some(event), ..Default::default() };
        let batch = BatchRecordEventsRequest { requests: vec![request] };
        t.client.events().batch_record_events(traced(batch, PARENT)).await.expect("an event");
        check_span(&receiver.recv().await);

        // What a deletion sends outlives the contact, and keeps its trace until it is delivered.
        t.webhook(&receiver, &t.tag("never").await, |webhook| webhook.on_contact_deleted = true).await;
        let mut watch = Watch::now(&t.client).await;
        receiver.answer_next([Answer::status(500)]);
        let request = DeleteContactRequest { id: contact.id, ..Default::default() };
        contacts.delete_contact(traced(request, PARENT)).await.expect("a deletion");
        let first = receiver.recv().await;
        let failed = watch.until(Kind::AttemptFailed).await;
        clock.advance_to(failed.next_attempt_time.expect("a retry"));
        let second = receiver.recv().await;
        assert_eq!(first.webhook_id(), second.webhook_id());
        assert_ne!(check_span(&first), check_span(&second));
    }

    /// It fires in the trace of the call that made it, whenever that is.
    async fn a_deferred_trigger_keeps_its_trace(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |webhook| webhook.cooldown_policy = CooldownPolicy::Defer.into()).await;
        let mut watch = Watch::now(&t.client).await;
        assign_traced(&t, &contact, &tag, STRANGER).await;
        receiver.recv().await;
        watch.expect(Kind::Delivered).await;
        assign_traced(&t, &contact, &tag, PARENT).await;
        let deferred = watch.expect(Kind::Deferred).await;
        clock.advance_to(deferred.next_attempt_time.expect("the end of the window"));
        let received = receiver.recv().await;
        assert_eq!(received.webhook_id(), deferred.delivery_id);
        check_span(&received);
    }

    /// What takes in several triggers goes on with the trace of the last, as with its tags; without one if that has none.
    async fn a_deferral_has_the_trace_of_the_trigger_whose_tags_it_has(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        let (contact, bob) = (t.contact("ada@example.com").await, t.contact("bob@example.com").await);
        let (ours, strange, idle) = (t.tag("ours").await, t.tag("strange").await, t.tag("idle").await);
        t.webhook(&receiver, &ours, |webhook| {
            webhook.activation_tag_ids.push(strange.id.clone());
            webhook.cooldown_policy = CooldownPolicy::Defer.into();
        })
        .await;
        t.assign(&contact, &ours).await;
        receiver.recv().await;
        assign_traced(&t, &contact, &strange, STRANGER).await;
        assign_traced(&t, &contact, &ours, PARENT).await;
        clock.advance(COOLDOWN);
        check_span(&receiver.recv().await);
        assign_traced(&t, &contact, &ours, PARENT).await;
        t.assign(&contact, &ours).await;
        clock.advance(COOLDOWN);
        assert!(!receiver.recv().await.headers.contains_key("traceparent"));

        // At once, where nothing waits yet and where something does.
        for volleys in [1, 2, 1] {
            for _ in 0..volleys {
                let mut calls = JoinSet::new();
                // What comes while the first one is committed shares the next commit.
                let first = [(&bob, &idle, STRANGER)].into_iter();
                let rest = [(&contact, &ours, PARENT), (&contact, &strange, STRANGER)].into_iter().cycle().take(12);
                for (contact, tag, parent) in first.chain(rest) {
                    let (client, request) = (t.client.clone(), traced(tagging(contact, tag), parent));
                    calls.spawn(async move { client.contacts().tag_contact(request).await.map(drop) });
                }
                calls.join_all().await.into_iter().collect::<Result<Vec<_>, _>>().expect("answers");
            }
            clock.advance(COOLDOWN);
            let received = receiver.recv().await;
            let is_ours = t.delivery(received.webhook_id()).await.activation_tag_ids == [ours.id.as_str()];
            check_span_of(&received, if is_ours { PARENT } else { STRANGER });
        }
    }

    /// An attempt belongs to the trace that set its delivery off, whoever asks for it.
    async fn what_is_sent_again_stays_in_the_trace_of_its_trigger(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |_| {}).await;
        let mut watch = Watch::now(&t.client).await;
        assign_traced(&t, &contact, &tag, PARENT).await;
        let first = receiver.recv().await;
        let id = watch.expect(Kind::Delivered).await.delivery_id;
        // A replay takes what is older than itself.
        clock.advance(Duration::from_secs(1));
        let retry = RetryDeliveryRequest { id, ..Default::default() };
        t.client.deliveries().retry_delivery(traced(retry, STRANGER)).await.expect("an attempt");
        let second = receiver.recv().await;
        watch.expect(Kind::Delivered).await;
        clock.advance(Duration::from_secs(1));
        let filter = ReplayFilter { states: vec![State::Delivered.into()], ..Default::default() };
        let replay = Replay { filter: Some(filter), ..Default::default() };
        let request = CreateReplayRequest { replay: Some(replay), ..Default::default() };
        t.client.deliveries().create_replay(traced(request, STRANGER)).await.expect("a replay");
        let third = receiver.recv().await;

        let all = [&first, &second, &third];
        assert!(all.iter().all(|received| received.webhook_id() == first.webhook_id()));
        let mut spans: Vec<_> = all.map(check_span).into();
        spans.sort_unstable();
        spans.dedup();
        assert_eq!(spans.len(), 3, "each has a span of its own");
    }
}
