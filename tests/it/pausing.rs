//! Webhooks that people pause, and those that the system disables.

use std::time::Duration;

use taghook_client::v1::delivery::{Source, State};
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::trigger_decision::Decision;
use taghook_client::v1::webhook::{DisableReason, State as WebhookState};
use taghook_client::v1::{DeliveryFilter, DeliveryReason, ErrorReason, OutcomeFilter, Webhook};
use taghook_client::{Code, Start};

use crate::support::{
    Answer, Api, Database, Fence, Gate, Receiver, Taghook, Watch, both, check_error, delays, seconds, within,
};

const DAY: Duration = Duration::from_hours(24);

/// The outcomes of a webhook from now on.
async fn watch_of(api: &Api, webhook: &Webhook) -> Watch {
    let filter = OutcomeFilter { webhook_ids: vec![webhook.id.clone()], ..Default::default() };
    Watch::with(&api.client, filter, Start::Now).await
}

async fn count_in(api: &Api, webhook: &Webhook, state: State) -> usize {
    let filter =
        DeliveryFilter { webhook_ids: vec![webhook.id.clone()], states: vec![state.into()], ..Default::default() };
    api.deliveries(filter).await.len()
}

both! {
    async fn a_paused_webhook_skips_triggers_and_uses_no_cooldown(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        let mut watch = Watch::now(&t.client).await;
        let paused = t.pause(&webhook).await;
        assert_eq!((paused.state(), paused.disable_reason()), (WebhookState::Paused, DisableReason::Unspecified));
        let outcome = watch.expect(Kind::WebhookPaused).await;
        assert_eq!((outcome.webhook_id, outcome.delivery_id), (webhook.id.clone(), String::new()));
        // A second time changes nothing and reports nothing.
        assert_eq!(t.pause(&webhook).await, paused);

        let by_tag = t.decide(&contact, &tag).await;
        let by_call = t.trigger(&webhook, &contact).await;
        for (decision, source) in [(&by_tag, Source::Tag), (&by_call, Source::Api)] {
            assert_eq!((decision.decision(), decision.reason()), (Decision::Skipped, DeliveryReason::WebhookPaused));
            let [id] = &decision.delivery_ids[..] else { panic!("one delivery: {decision:#?}") };
            let outcome = watch.expect(Kind::Skipped).await;
            assert_eq!((&outcome.delivery_id, outcome.reason()), (id, DeliveryReason::WebhookPaused));
            let delivery = t.delivery(id).await;
            assert_eq!((delivery.state(), delivery.reason()), (State::Skipped, DeliveryReason::WebhookPaused));
            assert_eq!((delivery.source(), delivery.parameters.len()), (source, 0));
        }
        // A test is sent even so.
        let tested = t.test(&webhook, &contact).await.delivery.unwrap();
        assert_eq!(tested.state(), State::Delivered);
        assert_eq!(receiver.recv().await.webhook_id(), tested.id);
        watch.expect(Kind::Delivered).await;

        let resumed = t.resume(&webhook).await;
        assert_eq!(resumed.state(), WebhookState::Active);
        watch.expect(Kind::WebhookResumed).await;
        assert_eq!(t.resume(&webhook).await, resumed);
        let sent = t.decide(&contact, &tag).await;
        assert_eq!(sent.decision(), Decision::Scheduled);
        assert_eq!(receiver.recv().await.webhook_id(), sent.delivery_ids[0]);
        watch.expect(Kind::Delivered).await;
        assert_eq!(receiver.count(), 2);
    }

    async fn a_pause_holds_what_waits_and_the_resume_sends_it(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        receiver.answer_next([Answer::status(500)]);
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        let mut watch = watch_of(&t, &webhook).await;
        let id = t.decide(&contact, &tag).await.delivery_ids.remove(0);
        let first = receiver.recv().await;
        watch.expect(Kind::AttemptFailed).await;
        t.pause(&webhook).await;
        watch.expect(Kind::WebhookPaused).await;
        check_error(t.retry(&id).await, Code::FailedPrecondition, ErrorReason::WebhookDisabled);

        let fence = Fence::raise(&t).await;
        clock.advance(Fence::DELAY);
        fence.passed().await;
        let delivery = t.delivery(&id).await;
        assert_eq!((delivery.state(), delivery.attempt_count), (State::Waiting, 1));
        assert_eq!((delivery.next_attempt_time, receiver.count()), (None, 1));

        t.resume(&webhook).await;
        let second = receiver.recv().await;
        assert_eq!((second.webhook_id(), &second.body), (id.as_str(), &first.body));
        watch.expect(Kind::WebhookResumed).await;
        assert_eq!(watch.expect(Kind::Delivered).await.delivery_id, id);
        assert_eq!(receiver.count(), 2);
    }

    async fn an_attempt_in_flight_at_the_pause_is_recorded(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let gate = Gate::closed();
        receiver.answer(Answer::ok().behind(&gate));
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        let mut watch = Watch::now(&t.client).await;
        let id = t.decide(&contact, &tag).await.delivery_ids.remove(0);
        receiver.recv().await;
        t.pause(&webhook).await;
        assert_eq!(t.delivery(&id).await.state(), State::Sending);
        watch.expect(Kind::WebhookPaused).await;
        gate.open();
        assert_eq!(watch.expect(Kind::Delivered).await.delivery_id, id);
        assert_eq!(t.delivery(&id).await.state(), State::Delivered);
    }

    /// 410: the webhook is disabled; the delivery waits, and goes out after the resume.
    async fn an_endpoint_that_is_gone_disables_its_webhook(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        receiver.answer_next([Answer::status(410)]);
        let (ada, bob) = (t.contact("ada@example.com").await, t.contact("bob@example.com").await);
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        let mut watch = watch_of(&t, &webhook).await;
        let id = t.decide(&ada, &tag).await.delivery_ids.remove(0);
        receiver.recv().await;
        let failed = watch.expect(Kind::AttemptFailed).await;
        assert_eq!((&failed.delivery_id, failed.attempt.unwrap().status_code), (&id, 410));
        assert_eq!(watch.expect(Kind::WebhookDisabled).await.reason(), DeliveryReason::Gone);
        let disabled = t.current(&webhook).await;
        assert_eq!((disabled.state(), disabled.disable_reason()), (WebhookState::Disabled, DisableReason::Gone));
        assert_eq!(t.pause(&webhook).await, disabled);
        check_error(t.retry(&id).await, Code::FailedPrecondition, ErrorReason::WebhookDisabled);
        assert_eq!(t.delivery(&id).await.next_attempt_time, None);

        let skipped = t.decide(&bob, &tag).await;
        assert_eq!((skipped.decision(), skipped.reason()), (Decision::Skipped, DeliveryReason::WebhookDisabled));
        assert_eq!(watch.expect(Kind::Skipped).await.reason(), DeliveryReason::WebhookDisabled);
        let fence = Fence::raise(&t).await;
        clock.advance(Fence::DELAY);
        fence.passed().await;
        assert_eq!((t.delivery(&id).await.state(), receiver.count()), (State::Waiting, 1));

        let resumed = t.resume(&webhook).await;
        assert_eq!((resumed.state(), resumed.disable_reason()), (WebhookState::Active, DisableReason::Unspecified));
        watch.expect(Kind::WebhookResumed).await;
        assert_eq!(receiver.recv().await.webhook_id(), id);
        assert_eq!(watch.expect(Kind::Delivered).await.delivery_id, id);
        assert_eq!(t.decide(&bob, &tag).await.decision(), Decision::Scheduled);
    }

    /// What a test finds says nothing about the webhook.
    async fn a_test_that_finds_nobody_disables_nothing(t: Taghook) {
        let receiver = Receiver::start().await;
        receiver.answer(Answer::status(410));
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        let tested = t.test(&webhook, &contact).await;
        assert_eq!(tested.attempt.unwrap().status_code, 410);
        assert_eq!(tested.delivery.unwrap().state(), State::Exhausted);
        assert_eq!(t.current(&webhook).await.state(), WebhookState::Active);
        assert_eq!(receiver.count(), 1);
    }

    /// A webhook whose every attempt failed for five days is disabled by the next failure; a success begins anew.
    async fn five_days_without_a_success_disable_a_webhook(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let receiver = Receiver::start().await;
        receiver.answer(Answer::status(500));
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |webhook| webhook.retry_policy = delays(&[])).await;
        let mut watch = watch_of(&t, &webhook).await;
        let fail = async |watch: &mut Watch| {
            t.trigger(&webhook, &contact).await;
            watch.expect(Kind::Exhausted).await;
        };
        fail(&mut watch).await;
        clock.advance(4 * DAY);
        receiver.answer_next([Answer::ok()]);
        t.trigger(&webhook, &contact).await;
        watch.expect(Kind::Delivered).await;
        clock.advance(2 * DAY);
        fail(&mut watch).await;
        clock.advance(5 * DAY - Duration::from_micros(1));
        fail(&mut watch).await;
        // A success of a test is none.
        receiver.answer_next([Answer::ok()]);
        assert_eq!(t.test(&webhook, &contact).await.delivery.unwrap().state(), State::Delivered);
        watch.expect(Kind::Delivered).await;
        assert_eq!(t.current(&webhook).await.state(), WebhookState::Active);
        clock.advance(Duration::from_micros(1));
        fail(&mut watch).await;
        assert_eq!(watch.expect(Kind::WebhookDisabled).await.reason(), DeliveryReason::Failing);
        let disabled = t.current(&webhook).await;
        assert_eq!((disabled.state(), disabled.disable_reason()), (WebhookState::Disabled, DisableReason::Failing));
        let skipped = t.trigger(&webhook, &contact).await;
        assert_eq!((skipped.decision(), skipped.reason()), (Decision::Skipped, DeliveryReason::WebhookDisabled));
        watch.expect(Kind::Skipped).await;

        // It gets its full five days again.
        t.resume(&webhook).await;
        watch.expect(Kind::WebhookResumed).await;
        fail(&mut watch).await;
        clock.advance(5 * DAY - Duration::from_micros(1));
        fail(&mut watch).await;
        t.trigger(&webhook, &contact).await;
        watch.expect(Kind::Exhausted).await;
        assert_eq!(t.current(&webhook).await.state(), WebhookState::Active);
    }

    /// How long a webhook has been failing is no matter of the server's memory.
    async fn failing_survives_a_restart(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let mut t = Taghook::start(database, settings).await;
        let receiver = Receiver::start().await;
        receiver.answer(Answer::status(500));
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |webhook| webhook.retry_policy = delays(&[])).await;
        // A failure on each day, each on a server of its own.
        for day in 0..5 {
            let mut watch = watch_of(&t, &webhook).await;
            t.trigger(&webhook, &contact).await;
            watch.expect(Kind::Exhausted).await;
            assert_eq!(t.current(&webhook).await.state(), WebhookState::Active, "day {day}");
            t = if day % 2 == 0 { t.crash().await } else { t.restart().await };
            clock.advance(DAY);
        }
        let mut watch = watch_of(&t, &webhook).await;
        t.trigger(&webhook, &contact).await;
        watch.expect(Kind::Exhausted).await;
        let disabled = watch.expect(Kind::WebhookDisabled).await;
        assert_eq!((disabled.reason(), disabled.delivery_id), (DeliveryReason::Failing, String::new()));
        t = t.crash().await;
        let disabled = t.current(&webhook).await;
        assert_eq!((disabled.state(), disabled.disable_reason()), (WebhookState::Disabled, DisableReason::Failing));
        assert_eq!(t.trigger(&webhook, &contact).await.reason(), DeliveryReason::WebhookDisabled);
    }

    /// Weeks of failures with a success now and then disable nothing; nor do days without any attempt.
    async fn sporadic_failures_disable_nothing(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |webhook| webhook.retry_policy = delays(&[])).await;
        let mut watch = watch_of(&t, &webhook).await;
        for day in 0..20 {
            let is_success = day % 5 == 4;
            receiver.answer_next([Answer::status(if is_success { 200 } else { 500 })]);
            t.trigger(&webhook, &contact).await;
            watch.expect(if is_success { Kind::Delivered } else { Kind::Exhausted }).await;
            clock.advance(DAY);
        }
        // The first failure after a long silence is the first one.
        clock.advance(30 * DAY);
        receiver.answer_next([Answer::status(500)]);
        t.trigger(&webhook, &contact).await;
        watch.expect(Kind::Exhausted).await;
        receiver.answer_next([Answer::ok()]);
        t.trigger(&webhook, &contact).await;
        watch.expect(Kind::Delivered).await;
        assert_eq!(t.current(&webhook).await.state(), WebhookState::Active);
    }

    /// Many failures at the end of the five days: it is disabled once and reported once.
    async fn many_failures_at_once_disable_a_webhook_once(database: Database) {
        const COUNT: usize = 20;
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        receiver.answer_next([Answer::status(500)]);
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |webhook| webhook.retry_policy = delays(&[])).await;
        let mut watch = watch_of(&t, &webhook).await;
        t.trigger(&webhook, &contact).await;
        receiver.recv().await;
        watch.expect(Kind::Exhausted).await;
        clock.advance(5 * DAY);
        let gate = Gate::closed();
        receiver.answer(Answer::status(500).behind(&gate));
        for _ in 0..COUNT {
            assert_eq!(t.trigger(&webhook, &contact).await.decision(), Decision::Scheduled);
        }
        receiver.recv_all(COUNT).await;
        gate.open();
        let mut seen = [0; 2];
        for _ in 0..=COUNT {
            match watch.next().await.kind() {
                Kind::Exhausted => seen[0] += 1,
                Kind::WebhookDisabled => seen[1] += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, [COUNT, 1]);
        t.resume(&webhook).await;
        watch.expect(Kind::WebhookResumed).await;
    }
}

/// Once PauseWebhook has answered, what is in flight ends, and nothing else goes out on any server.
#[tokio::test]
async fn nothing_new_goes_out_after_the_pause_on_any_server() {
    let database = Database::postgres().await;
    let mut settings = database.settings();
    settings.config.dispatch.senders = 2;
    let first = Taghook::start(database, settings).await;
    let second = first.another().await;
    let mut receiver = Receiver::start().await;
    let gate = Gate::closed();
    receiver.answer(Answer::ok().behind(&gate));
    let contact = first.contact("ada@example.com").await;
    let tag = first.tag("customer").await;
    let webhook = first.webhook(&receiver, &tag, |webhook| webhook.cooldown = seconds(0)).await;
    let mut watch = watch_of(&first, &webhook).await;
    for server in [&first, &second].into_iter().cycle().take(20) {
        assert_eq!(server.decide(&contact, &tag).await.decision(), Decision::Scheduled);
    }
    // All that the two servers can send at a time.
    receiver.recv_all(4).await;

    second.pause(&webhook).await;
    gate.open();
    let mut delivered = 0;
    while delivered < 4 {
        match watch.next().await.kind() {
            Kind::Delivered => delivered += 1,
            kind => assert_eq!(kind, Kind::WebhookPaused),
        }
    }
    // Each server has something else to send; it comes after all that is due already.
    let mut elsewhere = Receiver::start().await;
    let other_tag = first.tag("other").await;
    first.webhook(&elsewhere, &other_tag, |webhook| webhook.cooldown = seconds(0)).await;
    for server in [&first, &second].into_iter().cycle().take(20) {
        assert_eq!(server.decide(&contact, &other_tag).await.decision(), Decision::Scheduled);
        assert_eq!(server.decide(&contact, &tag).await.reason(), DeliveryReason::WebhookPaused);
    }
    elsewhere.recv_all(20).await;
    assert_eq!(receiver.count(), 4);
    assert_eq!(count_in(&first, &webhook, State::Waiting).await, 16);
    assert_eq!(count_in(&second, &webhook, State::Skipped).await, 20);

    first.resume(&webhook).await;
    receiver.recv_all(16).await;
    while count_in(&first, &webhook, State::Delivered).await < 20 {
        within("the last outcomes", watch.until(Kind::Delivered)).await;
    }
    assert_eq!(receiver.count(), 20);
}

/// A server learns of a pause that another one has answered before it decides anything.
#[tokio::test]
async fn a_pause_counts_at_once_on_the_other_server() {
    let database = Database::postgres().await;
    let settings = database.settings();
    let first = Taghook::start(database, settings).await;
    let second = first.another().await;
    let receiver = Receiver::start().await;
    let contact = first.contact("ada@example.com").await;
    let tag = first.tag("customer").await;
    let webhook = first.webhook(&receiver, &tag, |webhook| webhook.cooldown = seconds(0)).await;
    for round in 0..5 {
        assert_eq!(second.decide(&contact, &tag).await.decision(), Decision::Scheduled, "round {round}");
        first.pause(&webhook).await;
        assert_eq!(second.decide(&contact, &tag).await.decision(), Decision::Skipped, "round {round}");
        assert_eq!(second.trigger(&webhook, &contact).await.decision(), Decision::Skipped, "round {round}");
        first.resume(&webhook).await;
    }
}
