//! Smart tags: rules over events, what they make of our own outcomes, and where that ends.

use std::time::Duration;

use prost_types::value::Kind;
use prost_types::{FieldMask, Struct, Value};
use taghook_client::Code;
use taghook_client::contact::{self, by_id};
use taghook_client::v1::contact::Status;
use taghook_client::v1::outcome::Kind as OutcomeKind;
use taghook_client::v1::smart_rule::AttributeMatch;
use taghook_client::v1::tag::Kind as TagKind;
use taghook_client::v1::timeline_entry::{Entry, HoldReason, Kind as EntryKind};
use taghook_client::v1::webhook::CooldownPolicy;
use taghook_client::v1::{
    BatchRecordEventsRequest, Contact, CreateTagRequest, ErrorReason, Event, ListEventTypesRequest, RecordEventRequest,
    SmartRule, Tag, TagContactRequest, UntagContactRequest, UpdateContactRequest, UpdateTagRequest,
};

use crate::support::{
    Answer, Api, Database, Gate, Receiver, Taghook, Watch, both, check_error, check_invalid, mask, seconds, within,
};

fn rule(event_type: &str, attributes: &[(&str, &str)], condition: &str) -> SmartRule {
    let attribute = |(name, value): &(&str, &str)| AttributeMatch { name: (*name).into(), value: (*value).into() };
    SmartRule {
        event_type: event_type.into(),
        attributes: attributes.iter().map(attribute).collect(),
        condition: condition.into(),
    }
}

fn smart(name: &str, rule: SmartRule) -> CreateTagRequest {
    let tag = Tag { name: name.into(), kind: TagKind::Smart.into(), rule: Some(rule), ..Default::default() };
    CreateTagRequest { tag: Some(tag), ..Default::default() }
}

async fn smart_tag(api: &Api, name: &str, rule: SmartRule) -> Tag {
    api.client.tags().create_tag(smart(name, rule)).await.expect("a smart tag").into_inner()
}

fn text(value: &str) -> Value {
    Value { kind: Some(Kind::StringValue(value.into())) }
}

fn number(value: f64) -> Value {
    Value { kind: Some(Kind::NumberValue(value)) }
}

fn happened(contact: &Contact, event_type: &str, attributes: &[(&str, Value)]) -> RecordEventRequest {
    let fields = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    RecordEventRequest {
        contact: by_id(&contact.id),
        event: Some(Event { r#type: event_type.into(), attributes: Some(Struct { fields }), ..Default::default() }),
        ..Default::default()
    }
}

async fn record(api: &Api, contact: &Contact, event_type: &str, attributes: &[(&str, Value)]) -> Event {
    let answer = api.client.events().record_event(happened(contact, event_type, attributes)).await;
    answer.expect("a recorded event").into_inner().event.expect("the event")
}

both! {
    async fn an_event_assigns_the_tags_whose_rules_it_matches(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let (ada, bob) = (t.contact("ada@example.com").await, t.contact("bob@example.com").await);
        let product = [("product", "Produkt A"), ("order.currency", "EUR")];
        let bought = smart_tag(&t, "bought A", rule("payment.bought", &product, "")).await;
        let big = smart_tag(&t, "big", rule("payment.bought", &[], "event.attributes.amount >= 100")).await;
        smart_tag(&t, "refunded", rule("payment.refunded", &[], "")).await;
        assert_eq!(bought.kind(), TagKind::Smart);
        let webhook = t.webhook(&receiver, &bought, |_| {}).await;
        let order = Value { kind: Some(Kind::StructValue(Struct { fields: [("currency".into(), text("EUR"))].into() })) };
        let attributes = [("product", text("Produkt A")), ("order", order), ("amount", number(99.5))];

        let event = record(&t, &ada, "payment.bought", &attributes).await;
        assert_eq!(t.held_tags(&ada).await, [bought.id.as_str()]);
        let received = receiver.recv().await;
        let delivery = t.delivery(received.webhook_id()).await;
        assert_eq!((&delivery.webhook_id, delivery.causation_depth), (&webhook.id, 1));
        assert_eq!(delivery.activation_tag_ids, [bought.id.as_str()]);
        assert_eq!(t.recorded(&ada, "payment.").await, [event]);

        record(&t, &bob, "payment.bought", &[("amount", number(100.0)), ("product", text("Produkt B"))]).await;
        assert_eq!(t.held_tags(&bob).await, [big.id.as_str()]);
        record(&t, &bob, "payment.bought", &[]).await;
        let [Entry::TagRuleFailed(failed)] = &t.told(&bob, EntryKind::TagRuleFailed).await[..] else {
            panic!("a failed rule")
        };
        assert_eq!((failed.tag_id.as_str(), failed.event_type.as_str()), (&*big.id, "payment.bought"));
        assert!(failed.error.contains("amount"), "{failed:?}");
    }

    async fn a_condition_sees_the_contact_and_its_tags(t: Taghook) {
        let contact = t.contact_with("ada@example.com", &[("city", "Bonn"), ("lead_value", "7")]).await;
        let customer = t.tag("Kunde").await;
        let condition = "'Kunde' in contact.tags && contact.fields.city == 'Bonn' && contact.fields.lead_value > 6 \
                         && contact.email.endsWith('@example.com')";
        let local = smart_tag(&t, "local", rule("form.subscribed", &[], condition)).await;
        record(&t, &contact, "form.subscribed", &[]).await;
        assert_eq!(t.held_tags(&contact).await, [""; 0]);
        t.assign(&contact, &customer).await;
        record(&t, &contact, "form.subscribed", &[]).await;
        assert!(t.held_tags(&contact).await.contains(&local.id));
        assert_eq!(t.told(&contact, EntryKind::TagRuleFailed).await, []);
    }

    async fn what_contacts_become_is_an_event(t: Taghook) {
        let born = smart_tag(&t, "born", rule("contact.created", &[], "")).await;
        let moved = smart_tag(&t, "moved", rule("contact.updated", &[], "has(contact.fields.city)")).await;
        let left = smart_tag(&t, "left", rule("contact.unsubscribed", &[], "")).await;
        let contact = t.contact("ada@example.com").await;
        assert_eq!(t.held_tags(&contact).await, [born.id.as_str()]);
        t.set_values(&contact, &[("city", "Bonn")]).await;
        assert_eq!(t.held_tags(&contact).await, [born.id.as_str(), &moved.id]);
        let gone = Contact { id: contact.id.clone(), status: Status::Unsubscribed.into(), ..Default::default() };
        let request = UpdateContactRequest { contact: Some(gone), update_mask: mask(&["status"]), ..Default::default() };
        t.client.contacts().update_contact(request).await.unwrap();
        assert_eq!(t.held_tags(&contact).await, [born.id.as_str(), &moved.id, &left.id]);
    }

    async fn deliveries_set_tags_when_they_are_triggered_and_when_they_end(t: Taghook) {
        let mut receiver = Receiver::start().await;
        receiver.answer_next([Answer::status(200), Answer::status(500)]);
        let contact = t.contact("ada@example.com").await;
        let (tag, done) = (t.tag("start").await, t.tag("done").await);
        let webhook = t
            .webhook(&receiver, &tag, |webhook| {
                webhook.cooldown = seconds(0);
                webhook.retry_policy = Some(taghook_client::v1::RetryPolicy::default());
            })
            .await;
        t.webhook(&receiver, &done, |_| {}).await;
        let of_ours = [("webhook_id", webhook.id.as_str())];
        let fired = smart_tag(&t, "fired", rule("webhook.triggered", &of_ours, "")).await;
        let sent = smart_tag(&t, "sent", rule("webhook.delivered", &of_ours, "event.attributes.status_code == 200")).await;
        let lost = smart_tag(&t, "lost", rule("webhook.exhausted", &of_ours, "")).await;

        t.assign(&contact, &tag).await;
        assert!(t.held_tags(&contact).await.contains(&fired.id));
        receiver.recv().await;
        within("the tag of the delivery", async { while !t.held_tags(&contact).await.contains(&sent.id) {} }).await;
        t.assign(&contact, &tag).await;
        receiver.recv().await;
        within("the tag of the end", async { while !t.held_tags(&contact).await.contains(&lost.id) {} }).await;
    }

    async fn a_call_that_fires_a_webhook_is_heard_and_a_test_is_not(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let webhook = t.webhook(&receiver, &t.tag("never").await, |_| {}).await;
        let fired = smart_tag(&t, "fired", rule("webhook.triggered", &[("source", "API")], "")).await;
        smart_tag(&t, "tested", rule("webhook.triggered", &[("source", "TEST")], "")).await;
        smart_tag(&t, "arrived", rule("webhook.delivered", &[("source", "TEST")], "")).await;
        t.test(&webhook, &contact).await;
        assert_eq!(t.held_tags(&contact).await, [""; 0]);
        t.trigger(&webhook, &contact).await;
        assert_eq!(t.held_tags(&contact).await, [fired.id.as_str()]);
        receiver.recv_all(2).await;
    }

    async fn a_deferred_trigger_is_heard_when_it_fires(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let (contact, tag) = (t.contact("ada@example.com").await, t.tag("start").await);
        let webhook = t
            .webhook(&receiver, &tag, |webhook| {
                webhook.cooldown = seconds(1);
                webhook.cooldown_policy = CooldownPolicy::Defer.into();
            })
            .await;
        t.assign(&contact, &tag).await;
        receiver.recv().await;
        let of_ours = [("webhook_id", webhook.id.as_str()), ("source", "TAG")];
        let fired = smart_tag(&t, "fired", rule("webhook.triggered", &of_ours, "")).await;
        t.assign(&contact, &tag).await;
        assert_eq!(t.held_tags(&contact).await, [tag.id.as_str()]);
        receiver.recv().await;
        assert_eq!(t.held_tags(&contact).await, [tag.id.as_str(), &fired.id]);
    }

    async fn a_loop_of_two_webhooks_stops_and_says_so(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let start = t.tag("start").await;
        let hook = async |name: &str, tag: &Tag| {
            let name = name.to_owned();
            t.webhook(&receiver, tag, |webhook| {
                webhook.name = name;
                webhook.cooldown = seconds(0);
            })
            .await
        };
        let ping = hook("ping", &start).await;
        let pinged = smart_tag(&t, "pinged", rule("webhook.delivered", &[("webhook", "ping")], "")).await;
        let pong = hook("pong", &pinged).await;
        let ponged = smart_tag(&t, "ponged", rule("webhook.delivered", &[("webhook", "pong")], "")).await;
        let mut ping = t.update(&ping, &["activation_tag_ids"], |it| it.activation_tag_ids.push(ponged.id.clone())).await;

        t.assign(&contact, &start).await;
        let mut depths = Vec::new();
        for _ in 0..9 {
            depths.push(t.delivery(receiver.recv().await.webhook_id()).await.causation_depth);
        }
        assert_eq!(depths, (0..9).collect::<Vec<_>>());
        let stopped = within("the end", async {
            loop {
                let mut stopped = t.told(&contact, EntryKind::TagHeldBack).await;
                if let Some(Entry::TagHeldBack(stopped)) = stopped.pop() {
                    return stopped;
                }
            }
        })
        .await;
        assert_eq!((stopped.reason(), &stopped.tag_id), (HoldReason::CausationDepth, &pinged.id));
        assert_eq!(receiver.try_recv().map(|received| received.target), None);
        // A new cause begins anew.
        ping.activation_tag_ids.clear();
        t.update(&ping, &["activation_tag_ids"], |it| it.activation_tag_ids = vec![start.id.clone()]).await;
        t.update(&pong, &["activation_tag_ids"], |it| it.activation_tag_ids.clear()).await;
        t.assign(&contact, &start).await;
        assert_eq!(t.delivery(receiver.recv().await.webhook_id()).await.causation_depth, 0);
    }

    /// A webhook that its own success sets off again, once its cooldown has ended. A call joins each deferral, before the
    /// circle comes there or after it.
    async fn a_circle_through_a_deferral_ends_whoever_joins_it(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        let (contact, start) = (t.contact("ada@example.com").await, t.tag("start").await);
        let webhook =
            t.webhook(&receiver, &start, |webhook| webhook.cooldown_policy = CooldownPolicy::Defer.into()).await;
        let sent = smart_tag(&t, "sent", rule("webhook.delivered", &[], "")).await;
        t.update(&webhook, &["activation_tag_ids"], |it| it.activation_tag_ids.push(sent.id.clone())).await;
        let mut watch = Watch::now(&t.client).await;
        let mut gate = Gate::closed();
        receiver.answer(Answer::ok().behind(&gate));
        t.assign(&contact, &start).await;
        for depth in 0..=8 {
            let received = receiver.recv().await;
            assert_eq!(t.delivery(received.webhook_id()).await.causation_depth, depth);
            let is_call_first = depth % 2 == 0;
            if is_call_first {
                t.assign(&contact, &start).await;
            }
            let answered = std::mem::replace(&mut gate, Gate::closed());
            receiver.answer(Answer::ok().behind(&gate));
            answered.open();
            watch.until(OutcomeKind::Delivered).await;
            if !is_call_first {
                t.assign(&contact, &start).await;
            }
            let stopped = t.told(&contact, EntryKind::TagHeldBack).await;
            assert_eq!(stopped.len(), usize::from(depth == 8), "{stopped:#?}");
            clock.advance(Duration::from_hours(6));
        }
        // The call that came to nothing but the end of the circle is a new cause.
        assert_eq!(t.delivery(receiver.recv().await.webhook_id()).await.causation_depth, 0);
        assert_eq!(receiver.count(), 10);
    }

    async fn callers_neither_assign_nor_remove_smart_tags(t: Taghook) {
        let contact = t.contact("ada@example.com").await;
        let tag = smart_tag(&t, "smart", rule("form.subscribed", &[], "")).await;
        let tag_ids = vec![tag.id.clone()];
        let request =
            TagContactRequest { contact: by_id(&contact.id), tag_ids: tag_ids.clone(), ..Default::default() };
        let refused = t.client.contacts().tag_contact(request).await;
        check_error(refused, Code::FailedPrecondition, ErrorReason::TagNotAssignable);
        record(&t, &contact, "form.subscribed", &[]).await;
        let request = UntagContactRequest { contact: by_id(&contact.id), tag_ids, ..Default::default() };
        let refused = t.client.contacts().untag_contact(request).await;
        check_error(refused, Code::FailedPrecondition, ErrorReason::TagNotAssignable);
        assert_eq!(t.held_tags(&contact).await, [tag.id.as_str()]);
    }

    async fn bad_rules_are_refused_where_they_are_written(t: Taghook) {
        let mut tags = t.client.tags();
        for (event_type, condition, field) in [
            ("form", "", "tag.rule.event_type"),
            ("tag.assigned", "", "tag.rule.event_type"),
            ("webhook.nonsense", "", "tag.rule.event_type"),
            ("form.subscribed", "event.", "tag.rule.condition"),
            ("form.subscribed", "nobody.age > 3", "tag.rule.condition"),
            ("form.subscribed", "launch(event)", "tag.rule.condition"),
            ("form.subscribed", "1 + 1", "tag.rule.condition"),
        ] {
            let refused = tags.create_tag(smart("bad", rule(event_type, &[], condition))).await;
            check_invalid(refused, &[field]);
        }
        let mut request = smart("bad", SmartRule::default());
        request.tag.as_mut().unwrap().rule = None;
        check_invalid(tags.create_tag(request.clone()).await, &["tag.rule"]);
        request.tag.as_mut().unwrap().kind = TagKind::SmartLink.into();
        check_invalid(tags.create_tag(request.clone()).await, &["tag.kind"]);
        request.tag.as_mut().unwrap().kind = TagKind::Manual.into();
        request.tag.as_mut().unwrap().rule = Some(rule("form.subscribed", &[], ""));
        check_invalid(tags.create_tag(request).await, &["tag.rule"]);
    }

    async fn a_rule_can_be_changed_and_counts_from_then_on(t: Taghook) {
        let contact = t.contact("ada@example.com").await;
        let tag = smart_tag(&t, "smart", rule("form.subscribed", &[], "")).await;
        let changed = Tag { id: tag.id.clone(), rule: Some(rule("sms.clicked", &[], "")), ..Default::default() };
        let update_mask = Some(FieldMask { paths: vec!["rule".into()] });
        let request = UpdateTagRequest { tag: Some(changed), update_mask, ..Default::default() };
        let changed = t.client.tags().update_tag(request).await.unwrap().into_inner();
        assert_eq!((changed.kind(), changed.rule.unwrap().event_type.as_str()), (TagKind::Smart, "sms.clicked"));
        record(&t, &contact, "form.subscribed", &[]).await;
        assert_eq!(t.held_tags(&contact).await, [""; 0]);
        record(&t, &contact, "sms.clicked", &[]).await;
        assert_eq!(t.held_tags(&contact).await, [tag.id.as_str()]);
    }

    async fn a_batch_of_events_answers_for_each(t: Taghook) {
        use taghook_client::v1::batch_record_events_response::result::Result as Answered;

        let contact = t.contact("ada@example.com").await;
        let tag = smart_tag(&t, "smart", rule("form.subscribed", &[], "")).await;
        let nobody = Contact { id: "con_01jd7z1v5rf5xv0m2yq8t3w9ka".into(), ..Default::default() };
        let mut by_email = happened(&Contact::default(), "sms.sent", &[]);
        by_email.contact = contact::by_email("ADA@example.com");
        let repeated =
            RecordEventRequest { request_id: "once".into(), ..happened(&contact, "form.subscribed", &[("form", text("a"))]) };
        let requests = vec![
            repeated.clone(),
            happened(&nobody, "form.subscribed", &[]),
            happened(&contact, "webhook.delivered", &[]),
            by_email,
            repeated,
        ];
        let answer = t.client.events().batch_record_events(BatchRecordEventsRequest { requests: requests.clone() }).await;
        let results: Vec<_> =
            answer.unwrap().into_inner().results.into_iter().map(|item| item.result.expect("a result")).collect();
        let id = |index: usize| match &results[index] {
            Answered::Response(response) => response.event.as_ref().expect("an event").id.clone(),
            Answered::Error(error) => panic!("{index}: {error:?}"),
        };
        assert_eq!(id(0), id(4));
        assert_ne!(id(0), id(3));
        for (index, code) in [(1, Code::NotFound), (2, Code::InvalidArgument)] {
            let Answered::Error(error) = &results[index] else { panic!("{index}: {results:#?}") };
            assert_eq!(error.code, code as i32, "{error:?}");
        }
        assert_eq!(t.held_tags(&contact).await, [tag.id.as_str()]);
        assert_eq!(t.recorded(&contact, "form.").await.len(), 1);
        // The same answer again, and no second event.
        let again = t.client.events().record_event(requests[0].clone()).await.unwrap().into_inner();
        assert_eq!(again.event.unwrap().id, id(0));
        assert_eq!(t.recorded(&contact, "form.").await.len(), 1);
        for requests in [vec![], vec![RecordEventRequest::default(); 1_001]] {
            let refused = t.client.events().batch_record_events(BatchRecordEventsRequest { requests }).await;
            check_invalid(refused, &["requests"]);
        }
    }

    async fn the_event_types_can_be_listed(t: Taghook) {
        let list = t.client.events().list_event_types(ListEventTypesRequest {}).await.unwrap().into_inner().event_types;
        let own: Vec<_> = list.iter().filter(|known| known.system_recorded).map(|known| known.r#type.as_str()).collect();
        assert!(own.contains(&"webhook.delivered") && own.contains(&"link.clicked"), "{own:?}");
        let contact = t.contact("ada@example.com").await;
        for known in &list {
            let recorded = t.client.events().record_event(happened(&contact, &known.r#type, &[])).await;
            assert_eq!(recorded.is_err(), known.system_recorded, "{}", known.r#type);
            smart_tag(&t, &known.r#type, rule(&known.r#type, &[], "")).await;
        }
    }
}
