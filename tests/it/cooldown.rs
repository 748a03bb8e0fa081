//! The cooldown: who may send, and what becomes of those who may not.

use std::collections::HashSet;
use std::time::Duration;

use taghook_client::v1::delivery::{Source, State};
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::trigger_decision::Decision;
use taghook_client::v1::webhook::CooldownPolicy;
use taghook_client::v1::webhook_event::parameter::Source as ValueSource;
use taghook_client::v1::webhook_event::{Parameter, SystemValue};
use taghook_client::v1::{Contact, DeliveryFilter, DeliveryReason, Tag, TriggerDecision, Webhook, WebhookEvent};

use crate::support::{
    Answer, Api, Database, FromDatabase, Receiver, Taghook, Watch, both, delays, seconds, since_start_us, within,
};

const HOUR: Duration = Duration::from_hours(1);
const HOUR_US: i64 = 3_600_000_000;
const TICK: Duration = Duration::from_micros(1);

/// A webhook of a tag that defers, and shows the contact's first name and the activating tag.
async fn deferring(t: &Api, receiver: &Receiver, tag: &Tag) -> Webhook {
    t.webhook(receiver, tag, |webhook| {
        webhook.cooldown_policy = CooldownPolicy::Defer.into();
        let parameter = |name: &str, source| Parameter { name: name.into(), source: Some(source), default_value: None };
        webhook.events[0].parameters = vec![
            parameter("name", ValueSource::ContactField("first_name".into())),
            parameter("tag", ValueSource::SystemValue(SystemValue::ActivationTag.into())),
        ];
    })
    .await
}

/// Tags a contact many times at once, through several servers in turn; the decisions of all calls.
async fn tag_at_once(apis: &[&Api], contact: &Contact, tag: &Tag, count: usize) -> Vec<TriggerDecision> {
    let calls: Vec<_> = apis
        .iter()
        .cycle()
        .take(count)
        .map(|api| {
            let (api, contact, tag) = ((*api).clone(), contact.clone(), tag.clone());
            tokio::spawn(async move { api.decide(&contact, &tag).await })
        })
        .collect();
    let mut decisions = Vec::with_capacity(count);
    for call in calls {
        decisions.push(within("an answer", call).await.expect("an answer"));
    }
    decisions
}

/// Of 100 calls at once one is accepted; the others are suppressed and visible, wherever one looks.
async fn check_one_of_100(servers: &[&Taghook]) {
    let apis: Vec<&Api> = servers.iter().map(|server| &***server).collect();
    let (first, last) = (apis[0], apis[apis.len() - 1]);
    let mut receiver = Receiver::start().await;
    let contact = first.contact("ada@example.com").await;
    let tag = first.tag("customer").await;
    first.webhook(&receiver, &tag, |_| {}).await;
    let (mut here, mut there) = (Watch::now(&first.client).await, Watch::now(&last.client).await);

    let decisions = tag_at_once(&apis, &contact, &tag, 100).await;
    let ids = |decision: Decision| -> HashSet<String> {
        let chosen = decisions.iter().filter(|one| one.decision() == decision);
        chosen.flat_map(|one| one.delivery_ids.iter().cloned()).collect()
    };
    let (scheduled, suppressed) = (ids(Decision::Scheduled), ids(Decision::Suppressed));
    assert_eq!((scheduled.len(), suppressed.len()), (1, 99));
    assert!(
        decisions.iter().all(|one| one.decision() == Decision::Scheduled || one.reason() == DeliveryReason::Cooldown)
    );

    for watch in [&mut here, &mut there] {
        let (mut delivered, mut held_back) = (HashSet::new(), HashSet::new());
        for _ in 0..100 {
            let outcome = watch.next().await;
            let set = match outcome.kind() {
                Kind::Delivered => &mut delivered,
                Kind::Suppressed => &mut held_back,
                other => panic!("{other:?}: {outcome:#?}"),
            };
            set.insert(outcome.delivery_id);
        }
        assert_eq!((&delivered, &held_back), (&scheduled, &suppressed));
    }
    for api in apis {
        let of_state = |state: State| DeliveryFilter { states: vec![state.into()], ..Default::default() };
        let listed: HashSet<_> =
            api.deliveries(of_state(State::Suppressed)).await.into_iter().map(|delivery| delivery.id).collect();
        assert_eq!(listed, suppressed);
        let delivered = api.deliveries(of_state(State::Delivered)).await;
        assert_eq!(delivered.into_iter().map(|delivery| delivery.id).collect::<HashSet<_>>(), scheduled);
        assert_eq!(api.deliveries(DeliveryFilter::default()).await.len(), 100);
    }
    assert_eq!(scheduled, HashSet::from([receiver.recv().await.webhook_id().to_owned()]));
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn of_100_calls_at_once_on_two_servers_one_is_accepted() {
    let first = Taghook::on(Database::postgres().await).await;
    let second = first.another().await;
    check_one_of_100(&[&first, &second]).await;
}

#[tokio::test]
async fn without_a_cooldown_all_calls_at_once_on_two_servers_are_accepted() {
    let first = Taghook::on(Database::postgres().await).await;
    let second = first.another().await;
    let mut receiver = Receiver::start().await;
    let contact = first.contact("ada@example.com").await;
    let tag = first.tag("customer").await;
    first.webhook(&receiver, &tag, |webhook| webhook.cooldown = seconds(0)).await;
    let decisions = tag_at_once(&[&first, &second], &contact, &tag, 30).await;
    assert!(decisions.iter().all(|decision| decision.decision() == Decision::Scheduled), "{decisions:#?}");
    let owed: HashSet<_> = decisions.into_iter().flat_map(|decision| decision.delivery_ids).collect();
    let received: HashSet<_> =
        receiver.recv_all(30).await.iter().map(|received| received.webhook_id().to_owned()).collect();
    assert_eq!(received, owed);
}

#[tokio::test]
async fn deferrals_fire_once_on_two_servers() {
    let database = Database::postgres().await;
    let (settings, clock) = database.settings().with_manual_clock();
    let first = Taghook::start(database, settings).await;
    let second = first.another().await;
    let mut receiver = Receiver::start().await;
    let tag = first.tag("customer").await;
    deferring(&first, &receiver, &tag).await;
    let mut deferred = HashSet::new();
    for index in 0..20 {
        let contact = first.contact(&format!("c{index}@example.com")).await;
        first.assign(&contact, &tag).await;
        receiver.recv().await;
        deferred.extend(second.decide(&contact, &tag).await.delivery_ids);
    }
    clock.advance(6 * HOUR);
    let received: Vec<_> =
        receiver.recv_all(20).await.iter().map(|received| received.webhook_id().to_owned()).collect();
    assert_eq!(received.into_iter().collect::<HashSet<_>>(), deferred);
    let mut watch = Watch::beginning(&second.client).await;
    let mut delivered = HashSet::new();
    while !deferred.is_subset(&delivered) {
        assert!(delivered.insert(watch.until(Kind::Delivered).await.delivery_id));
    }
    assert_eq!(receiver.count(), 40);
}

both! {
    async fn of_100_calls_at_once_one_is_accepted(t: Taghook) {
        check_one_of_100(&[&t]).await;
    }

    /// The window rolls from the last trigger that was accepted: those that it holds back don't make it longer.
    async fn the_window_rolls_from_the_last_accepted_trigger(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |webhook| webhook.cooldown = None).await;
        assert_eq!(webhook.cooldown, seconds(6 * 3_600));
        let mut now = Duration::ZERO;
        for (time, expected) in [
            (Duration::ZERO, Decision::Scheduled),
            (3 * HOUR, Decision::Suppressed),
            (6 * HOUR - TICK, Decision::Suppressed),
            (6 * HOUR, Decision::Scheduled),
            (12 * HOUR - TICK, Decision::Suppressed),
            (12 * HOUR, Decision::Scheduled),
        ] {
            clock.advance(time - now);
            now = time;
            assert_eq!(t.decide(&contact, &tag).await.decision(), expected, "{time:?}");
        }
    }

    async fn a_window_is_one_contacts_and_one_webhooks_for_all_tags_and_events(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let (ada, bob) = (t.contact("ada@example.com").await, t.contact("bob@example.com").await);
        let (one, two) = (t.tag("one").await, t.tag("two").await);
        let shared = t
            .webhook(&receiver, &one, |webhook| {
                webhook.activation_tag_ids.push(two.id.clone());
                webhook.events.push(WebhookEvent::default());
            })
            .await;
        assert_eq!(t.decide(&ada, &one).await.decision(), Decision::Scheduled);
        let suppressed = t.decide(&ada, &two).await;
        assert_eq!((suppressed.decision(), suppressed.reason()), (Decision::Suppressed, DeliveryReason::Cooldown));
        assert_eq!(suppressed.activation_tag_ids, [two.id.as_str()]);
        assert_eq!(suppressed.delivery_ids.len(), 2);
        for (id, event) in suppressed.delivery_ids.iter().zip(&shared.events) {
            let delivery = t.delivery(id).await;
            assert_eq!((delivery.state(), delivery.reason()), (State::Suppressed, DeliveryReason::Cooldown));
            assert_eq!((&delivery.webhook_event_id, delivery.source()), (&event.id, Source::Tag));
            assert!(delivery.finish_time.is_some() && delivery.next_attempt_time.is_none());
            assert_eq!((delivery.attempt_count, delivery.parameters.len()), (0, 0));
        }
        assert_eq!(t.decide(&bob, &two).await.decision(), Decision::Scheduled);

        let other = t.webhook(&receiver, &one, |_| {}).await;
        let tagged = t.assign(&ada, &one).await;
        let decisions: Vec<_> =
            tagged.triggers.iter().map(|trigger| (&trigger.webhook_id, trigger.decision())).collect();
        assert_eq!(decisions, [(&shared.id, Decision::Suppressed), (&other.id, Decision::Scheduled)]);
        assert_eq!(receiver.recv_all(5).await.len(), 5);
    }

    async fn the_present_setting_counts(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        let set = async |cooldown_s| {
            t.update(&webhook, &["cooldown"], |webhook| webhook.cooldown = seconds(cooldown_s)).await;
        };
        assert_eq!(t.decide(&contact, &tag).await.decision(), Decision::Scheduled);
        clock.advance(HOUR);
        assert_eq!(t.decide(&contact, &tag).await.decision(), Decision::Suppressed);
        set(3_601).await;
        assert_eq!(t.decide(&contact, &tag).await.decision(), Decision::Suppressed);
        set(3_600).await;
        assert_eq!(t.decide(&contact, &tag).await.decision(), Decision::Scheduled);
        set(30 * 86_400).await;
        clock.advance(30 * 24 * HOUR - TICK);
        assert_eq!(t.decide(&contact, &tag).await.decision(), Decision::Suppressed);
        clock.advance(TICK);
        assert_eq!(t.decide(&contact, &tag).await.decision(), Decision::Scheduled);
        set(0).await;
        assert_eq!(t.decide(&contact, &tag).await.decision(), Decision::Scheduled);
    }

    async fn calls_and_tests_neither_ask_nor_use_it(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        for round in 0..2 {
            let decision = t.trigger(&webhook, &contact).await;
            assert_eq!(decision.decision(), Decision::Scheduled, "round {round}");
            assert_eq!([receiver.recv().await.webhook_id()], decision.delivery_ids[..]);
            let tested = t.test(&webhook, &contact).await;
            let delivery = tested.delivery.unwrap();
            assert_eq!((delivery.state(), delivery.source()), (State::Delivered, Source::Test));
            assert_eq!(receiver.recv().await.webhook_id(), delivery.id);
            // The first round has used no window; the second one comes within that of the tag.
            let tagged = t.decide(&contact, &tag).await;
            let expected = if round == 0 { Decision::Scheduled } else { Decision::Suppressed };
            assert_eq!(tagged.decision(), expected);
            if round == 0 {
                receiver.recv().await;
            }
        }
        assert_eq!(receiver.count(), 5);
    }

    async fn a_trigger_uses_its_window_even_if_it_fails(t: Taghook) {
        let receiver = Receiver::start().await;
        receiver.answer(Answer::status(500));
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |webhook| webhook.retry_policy = delays(&[])).await;
        let mut watch = Watch::now(&t.client).await;
        t.assign(&contact, &tag).await;
        watch.expect(Kind::Exhausted).await;
        assert_eq!(t.decide(&contact, &tag).await.decision(), Decision::Suppressed);
    }

    async fn a_deferred_trigger_fires_once_at_the_end_with_the_newest_data(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        let contact = t.contact_with("ada@example.com", &[("first_name", "Ada")]).await;
        let (one, two) = (t.tag("one").await, t.tag("two").await);
        let webhook = deferring(&t, &receiver, &one).await;
        let webhook = t.update(&webhook, &["activation_tag_ids"], |webhook| {
            webhook.activation_tag_ids.push(two.id.clone());
        });
        let webhook = webhook.await;
        let mut watch = Watch::now(&t.client).await;
        assert_eq!(t.decide(&contact, &one).await.decision(), Decision::Scheduled);
        assert_eq!(receiver.recv().await.text(), "email=ada%40example.com&name=Ada&tag=one");
        watch.expect(Kind::Delivered).await;

        clock.advance(HOUR);
        let first = t.decide(&contact, &one).await;
        assert_eq!((first.decision(), first.reason()), (Decision::Deferred, DeliveryReason::Cooldown));
        let [id] = &first.delivery_ids[..] else { panic!("one delivery: {first:#?}") };
        let delivery = t.delivery(id).await;
        assert_eq!((delivery.state(), delivery.coalesced_count), (State::Deferred, 0));
        assert_eq!((delivery.parameters.len(), delivery.method), (0, 0));
        assert_eq!(since_start_us(delivery.next_attempt_time), 6 * HOUR_US);
        let outcome = watch.expect(Kind::Deferred).await;
        assert_eq!((&outcome.delivery_id, since_start_us(outcome.next_attempt_time)), (id, 6 * HOUR_US));

        for (count, tag) in [(1, &one), (2, &two)] {
            clock.advance(HOUR);
            let again = t.decide(&contact, tag).await;
            assert_eq!((again.decision(), &again.delivery_ids), (Decision::Deferred, &first.delivery_ids));
            watch.expect(Kind::Deferred).await;
            let delivery = t.delivery(id).await;
            assert_eq!((delivery.state(), delivery.coalesced_count), (State::Deferred, count));
            assert_eq!(since_start_us(delivery.next_attempt_time), 6 * HOUR_US);
            assert_eq!(since_start_us(delivery.trigger_time), (1 + i64::from(count)) * HOUR_US);
            assert_eq!(delivery.activation_tag_ids, [tag.id.as_str()]);
        }
        // Untagged meanwhile: it fires anyway.
        t.untag(&contact, &two).await;
        t.set_values(&contact, &[("first_name", "Augusta")]).await;
        assert_eq!(receiver.count(), 1);

        clock.advance(3 * HOUR);
        let received = receiver.recv().await;
        assert_eq!(received.webhook_id(), id);
        assert_eq!(received.text(), "email=ada%40example.com&name=Augusta&tag=two");
        let outcome = watch.expect(Kind::Delivered).await;
        assert_eq!((&outcome.delivery_id, outcome.attempt.unwrap().number), (id, 1));
        let delivery = t.delivery(id).await;
        assert_eq!((delivery.state(), delivery.coalesced_count), (State::Delivered, 2));
        assert_eq!(since_start_us(t.attempts(id).await[0].start_time), 6 * HOUR_US);

        // It has opened a new window, whose deferral is another one.
        clock.advance(5 * HOUR);
        let next = t.decide(&contact, &one).await;
        assert_eq!(next.decision(), Decision::Deferred);
        assert_ne!(next.delivery_ids, first.delivery_ids);
        assert_eq!(since_start_us(t.delivery(&next.delivery_ids[0]).await.next_attempt_time), 12 * HOUR_US);
        clock.advance(HOUR);
        assert_eq!(receiver.recv().await.webhook_id(), next.delivery_ids[0]);
        assert_eq!(receiver.count(), 3);
        assert_eq!(t.current(&webhook).await.cooldown_policy(), CooldownPolicy::Defer);
    }

    /// Calls at once within a window make one deferral of each event, and all name it.
    async fn deferrals_at_once_are_one(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |webhook| {
            webhook.cooldown_policy = CooldownPolicy::Defer.into();
            webhook.events.push(WebhookEvent::default());
        })
        .await;
        t.assign(&contact, &tag).await;
        receiver.recv_all(2).await;
        let decisions = tag_at_once(&[&t], &contact, &tag, 30).await;
        for decision in &decisions {
            assert_eq!((decision.decision(), &decision.delivery_ids), (Decision::Deferred, &decisions[0].delivery_ids));
        }
        let ids: HashSet<_> = decisions[0].delivery_ids.iter().collect();
        assert_eq!(ids.len(), 2);
        for id in ids {
            let delivery = t.delivery(id).await;
            assert_eq!((delivery.state(), delivery.coalesced_count), (State::Deferred, 29));
        }
        assert_eq!(t.deliveries(DeliveryFilter::default()).await.len(), 4);
        assert_eq!(receiver.count(), 2);
    }

    async fn a_deferral_survives_a_crash(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        let contact = t.contact_with("ada@example.com", &[("first_name", "Ada")]).await;
        let tag = t.tag("customer").await;
        deferring(&t, &receiver, &tag).await;
        t.assign(&contact, &tag).await;
        receiver.recv().await;
        let deferred = t.decide(&contact, &tag).await;
        assert_eq!(deferred.decision(), Decision::Deferred);
        let t = t.crash().await;
        clock.advance(6 * HOUR);
        assert_eq!([receiver.recv().await.webhook_id()], deferred.delivery_ids[..]);
        let mut watch = Watch::beginning(&t.client).await;
        while watch.until(Kind::Delivered).await.delivery_id != deferred.delivery_ids[0] {}
    }

    async fn a_deferral_that_finds_its_webhook_paused_is_skipped(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = deferring(&t, &receiver, &tag).await;
        t.assign(&contact, &tag).await;
        receiver.recv().await;
        let deferred = t.decide(&contact, &tag).await;
        t.pause(&webhook).await;
        let mut watch = Watch::now(&t.client).await;
        clock.advance(6 * HOUR);
        let outcome = watch.expect(Kind::Skipped).await;
        assert_eq!((outcome.reason(), [outcome.delivery_id.as_str()]), (
            DeliveryReason::WebhookPaused,
            [deferred.delivery_ids[0].as_str()],
        ));
        let delivery = t.delivery(&deferred.delivery_ids[0]).await;
        assert_eq!((delivery.state(), delivery.reason()), (State::Skipped, DeliveryReason::WebhookPaused));
        // It has used no window.
        t.resume(&webhook).await;
        assert_eq!(t.decide(&contact, &tag).await.decision(), Decision::Scheduled);
        receiver.recv().await;
        assert_eq!(receiver.count(), 2);
    }

    async fn a_deferral_ends_with_its_contact_or_its_webhook(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let (ada, bob) = (t.contact("ada@example.com").await, t.contact("bob@example.com").await);
        let tag = t.tag("customer").await;
        let webhook = deferring(&t, &receiver, &tag).await;
        let mut deferred = Vec::new();
        for contact in [&ada, &bob] {
            t.assign(contact, &tag).await;
            receiver.recv().await;
            deferred.push(t.decide(contact, &tag).await.delivery_ids.remove(0));
        }
        let mut watch = Watch::now(&t.client).await;
        t.delete_contact(&ada).await;
        let outcome = loop {
            // The results of the first requests may come as late as this.
            let outcome = watch.until(Kind::Cancelled).await;
            if outcome.delivery_id == deferred[0] {
                break outcome;
            }
        };
        assert_eq!(outcome.reason(), DeliveryReason::ContactDeleted);
        t.delete_webhook(&webhook).await;
        let outcome = watch.until(Kind::Cancelled).await;
        assert_eq!((&outcome.delivery_id, outcome.reason()), (&deferred[1], DeliveryReason::WebhookDeleted));
        for (id, reason) in deferred.iter().zip([DeliveryReason::ContactDeleted, DeliveryReason::WebhookDeleted]) {
            let delivery = t.delivery(id).await;
            assert_eq!((delivery.state(), delivery.reason()), (State::Cancelled, reason));
            assert!(delivery.next_attempt_time.is_none() && delivery.finish_time.is_some());
        }
        assert_eq!(receiver.count(), 2);
    }
}
