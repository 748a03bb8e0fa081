//! RetryDelivery and CancelDelivery.

use std::time::Duration;

use taghook_client::v1::attempt::Cause;
use taghook_client::v1::delivery::State;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::trigger_decision::Decision;
use taghook_client::v1::webhook::CooldownPolicy;
use taghook_client::v1::{Contact, Delivery, DeliveryReason, ErrorReason, RetryDeliveryRequest, Tag, Webhook};
use taghook_client::{Code, Error};
use tokio::task::JoinSet;
use tonic::{Response, Status};

use crate::support::{
    Answer, Database, Fence, Gate, Hand, Receiver, Settings, Taghook, Watch, both, check_error, delays, within,
};

const NO_DELIVERY: &str = "dlv_01jd7z1v5rf5xv0m2yq8t3w9ka";

/// What these tests begin with: a server whose clock stands, and a webhook that a tag activates.
struct Scene {
    t: Taghook,
    clock: Hand,
    receiver: Receiver,
    contact: Contact,
    tag: Tag,
    webhook: Webhook,
    watch: Watch,
}

impl Scene {
    async fn set(database: Database, change: impl FnOnce(&mut Webhook)) -> Self {
        let settings = database.settings();
        Self::set_with(database, settings, change).await
    }

    /// With one sender, so that what is asked for while it is busy waits.
    async fn set_narrow(database: Database) -> Self {
        let mut settings = database.settings();
        settings.config.dispatch.senders = 1;
        Self::set_with(database, settings, |_| {}).await
    }

    async fn set_with(database: Database, settings: Settings, change: impl FnOnce(&mut Webhook)) -> Self {
        let (settings, clock) = settings.with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let receiver = Receiver::start().await;
        let (contact, tag) = (t.contact("ada@example.com").await, t.tag("customer").await);
        let webhook = t.webhook(&receiver, &tag, change).await;
        let watch = Watch::now(&t.client).await;
        Self { t, clock, receiver, contact, tag, webhook, watch }
    }

    /// A delivery whose first request was answered so, and the outcome of that.
    async fn delivery(&mut self, answer: Answer, kind: Kind) -> String {
        self.receiver.answer_next([answer]);
        let id = self.t.trigger(&self.webhook, &self.contact).await.delivery_ids.remove(0);
        assert_eq!(self.receiver.recv().await.webhook_id(), id);
        assert_eq!(self.watch.expect(kind).await.delivery_id, id);
        id
    }

    /// Occupies a sender until the gate is opened.
    async fn occupy(&mut self, gate: &Gate) {
        self.receiver.answer_next([Answer::ok().behind(gate)]);
        let tag = self.t.tag("busy").await;
        let webhook = self.t.webhook(&self.receiver, &tag, |_| {}).await;
        self.t.trigger(&webhook, &self.contact).await;
        self.receiver.recv().await;
    }

    /// Number, cause and status of a delivery's attempts.
    async fn attempts(&self, id: &str) -> Vec<(i32, Cause, i32)> {
        let attempts = self.t.attempts(id).await;
        attempts.iter().map(|attempt| (attempt.number, attempt.cause(), attempt.status_code)).collect()
    }
}

/// Checks that a call was refused since the delivery's state doesn't allow it.
#[track_caller]
fn check_wrong_state(result: Result<Response<Delivery>, Status>, state: &str) {
    let error: Error = check_error(result, Code::FailedPrecondition, ErrorReason::WrongState);
    assert_eq!(error.metadata["state"], state);
}

both! {
    async fn a_delivered_one_is_sent_again_as_often_as_asked(database: Database) {
        let mut s = Scene::set(database, |_| {}).await;
        let id = s.delivery(Answer::ok(), Kind::Delivered).await;
        let first = s.t.attempts(&id).await;
        let finished = s.t.delivery(&id).await.finish_time;
        s.t.set_values(&s.contact, &[("first_name", "Ada")]).await;
        for number in [2, 3] {
            s.clock.advance(Duration::from_mins(1));
            let answer = s.t.retry(&id).await.unwrap().into_inner();
            assert_eq!((answer.id.as_str(), answer.state()), (id.as_str(), State::Delivered));
            let received = s.receiver.recv().await;
            assert_eq!((received.webhook_id(), received.text()), (id.as_str(), "email=ada%40example.com"));
            received.verify(&s.t.secret(&s.webhook).await).unwrap();
            let outcome = s.watch.expect(Kind::Delivered).await;
            let attempt = outcome.attempt.unwrap();
            assert_eq!((attempt.number, attempt.cause()), (number, Cause::Manual));
            let seconds = first[0].start_time.unwrap().seconds + 60 * i64::from(number - 1);
            assert_eq!(received.header("webhook-timestamp"), seconds.to_string());
        }
        let delivery = s.t.delivery(&id).await;
        assert_eq!((delivery.state(), delivery.attempt_count), (State::Delivered, 3));
        assert_eq!(delivery.finish_time, finished);
        let causes = [(1, Cause::Scheduled, 200), (2, Cause::Manual, 200), (3, Cause::Manual, 200)];
        assert_eq!(s.attempts(&id).await, causes);
    }

    async fn a_request_id_makes_it_one_attempt(database: Database) {
        let mut s = Scene::set(database, |_| {}).await;
        let id = s.delivery(Answer::ok(), Kind::Delivered).await;
        for _ in 0..2 {
            let request = RetryDeliveryRequest { id: id.clone(), request_id: "again".into() };
            s.t.client.deliveries().retry_delivery(request).await.unwrap();
        }
        s.receiver.recv().await;
        s.watch.expect(Kind::Delivered).await;
        // One more, under no request_id: what comes next is its.
        s.t.retry(&id).await.unwrap();
        assert_eq!(s.watch.expect(Kind::Delivered).await.attempt.unwrap().number, 3);
        assert_eq!(s.receiver.count(), 3);
    }

    async fn only_a_success_changes_what_is_final(database: Database) {
        let mut s = Scene::set(database, |webhook| webhook.retry_policy = delays(&[])).await;
        let id = s.delivery(Answer::status(500), Kind::Exhausted).await;
        s.receiver.answer_next([Answer::status(500), Answer::ok(), Answer::status(500)]);
        for (kind, state) in [
            (Kind::AttemptFailed, State::Exhausted),
            (Kind::Delivered, State::Delivered),
            (Kind::AttemptFailed, State::Delivered),
        ] {
            s.t.retry(&id).await.unwrap();
            let outcome = s.watch.expect(kind).await;
            assert_eq!((&outcome.delivery_id, outcome.next_attempt_time), (&id, None));
            assert_eq!(s.t.delivery(&id).await.state(), state);
        }
        let statuses: Vec<_> = s.attempts(&id).await.iter().map(|(_, _, status)| *status).collect();
        assert_eq!(statuses, [500, 500, 200, 500]);
        assert_eq!(s.receiver.count(), 4);
    }

    /// A manual attempt is beside the schedule: a failure uses none of it, a success ends it.
    async fn a_waiting_one_keeps_its_schedule(database: Database) {
        let mut s = Scene::set(database, |webhook| webhook.retry_policy = delays(&[30, 30])).await;
        let id = s.delivery(Answer::status(500), Kind::AttemptFailed).await;
        let due = s.t.delivery(&id).await.next_attempt_time;
        s.receiver.answer_next([Answer::status(500), Answer::status(500)]);
        s.t.retry(&id).await.unwrap();
        let failed = s.watch.expect(Kind::AttemptFailed).await;
        assert_eq!((failed.attempt.unwrap().number, s.t.delivery(&id).await.state()), (2, State::Waiting));
        assert_eq!(s.t.delivery(&id).await.next_attempt_time, due);
        s.clock.advance_to(due.unwrap());
        let failed = s.watch.expect(Kind::AttemptFailed).await;
        let due = failed.next_attempt_time;
        assert_eq!(failed.attempt.unwrap().number, 3);
        assert_eq!(s.t.delivery(&id).await.next_attempt_time, due);

        let fence = Fence::raise(&s.t).await;
        s.watch.expect(Kind::AttemptFailed).await;
        s.t.retry(&id).await.unwrap();
        assert_eq!(s.watch.expect(Kind::Delivered).await.delivery_id, id);
        let delivery = s.t.delivery(&id).await;
        assert_eq!((delivery.state(), delivery.next_attempt_time), (State::Delivered, None));
        s.clock.advance(Fence::DELAY);
        fence.passed().await;
        let attempts = [
            (1, Cause::Scheduled, 500),
            (2, Cause::Manual, 500),
            (3, Cause::Scheduled, 500),
            (4, Cause::Manual, 200),
        ];
        assert_eq!(s.attempts(&id).await, attempts);
        assert_eq!(s.receiver.count(), 4);
    }

    /// A manual attempt at the moment of the scheduled one: these two, and no third.
    async fn a_race_with_the_schedule_makes_no_third(database: Database) {
        let mut s = Scene::set(database, |webhook| webhook.retry_policy = delays(&[5, 86_400])).await;
        for round in 0..5 {
            let id = s.delivery(Answer::status(500), Kind::AttemptFailed).await;
            s.receiver.answer_next([Answer::status(500), Answer::status(500)]);
            let due = s.t.delivery(&id).await.next_attempt_time.unwrap();
            let retry = {
                let (api, id) = ((*s.t).clone(), id.clone());
                tokio::spawn(async move { api.retry(&id).await })
            };
            s.clock.advance_to(due);
            within("an answer", retry).await.unwrap().unwrap();
            for _ in 0..2 {
                assert_eq!(s.receiver.recv().await.webhook_id(), id);
                assert_eq!(s.watch.expect(Kind::AttemptFailed).await.delivery_id, id);
            }
            let mut attempts = s.attempts(&id).await;
            attempts.sort_unstable_by_key(|(_, cause, _)| *cause as i32);
            let causes: Vec<_> = attempts.iter().map(|(_, cause, _)| *cause).collect();
            assert_eq!(causes, [Cause::Scheduled, Cause::Scheduled, Cause::Manual], "round {round}");
            let delivery = s.t.delivery(&id).await;
            assert_eq!((delivery.state(), delivery.attempt_count), (State::Waiting, 3));
            s.t.cancel(&id).await.unwrap();
            s.watch.expect(Kind::Cancelled).await;
        }
        assert_eq!(s.receiver.count(), 15);
    }

    /// Two manual attempts beside one that is in flight: all three are made and recorded.
    async fn attempts_may_overlap(database: Database) {
        let mut s = Scene::set(database, |_| {}).await;
        let gate = Gate::closed();
        s.receiver.answer(Answer::ok().behind(&gate));
        let id = s.t.trigger(&s.webhook, &s.contact).await.delivery_ids.remove(0);
        s.receiver.recv().await;
        for _ in 0..2 {
            assert_eq!(s.t.retry(&id).await.unwrap().into_inner().state(), State::Sending);
        }
        s.receiver.recv_all(2).await;
        gate.open();
        let mut numbers = Vec::new();
        for _ in 0..3 {
            numbers.push(s.watch.expect(Kind::Delivered).await.attempt.unwrap().number);
        }
        assert_eq!(numbers, [1, 2, 3]);
        let mut causes: Vec<_> = s.attempts(&id).await.iter().map(|(_, cause, _)| *cause as i32).collect();
        causes.sort_unstable();
        assert_eq!(causes, [Cause::Scheduled as i32, Cause::Manual as i32, Cause::Manual as i32]);
        assert_eq!(s.receiver.count(), 3);
    }

    /// A manual attempt while the scheduled one is in flight: these two, whichever ends first, and a success is the end.
    async fn a_race_with_an_attempt_in_flight_makes_no_third(database: Database) {
        let mut s = Scene::set(database, |webhook| webhook.retry_policy = delays(&[60])).await;
        for is_manual_first in [true, false] {
            let (scheduled, manual) = (Gate::closed(), Gate::closed());
            s.receiver.answer_next([Answer::status(500).behind(&scheduled), Answer::ok().behind(&manual)]);
            let id = s.t.trigger(&s.webhook, &s.contact).await.delivery_ids.remove(0);
            s.receiver.recv().await;
            assert_eq!(s.t.retry(&id).await.unwrap().into_inner().state(), State::Sending);
            assert_eq!(s.receiver.recv().await.webhook_id(), id);
            let ends = [(&manual, Kind::Delivered), (&scheduled, Kind::AttemptFailed)];
            let mut ends = ends.into_iter().collect::<Vec<_>>();
            if !is_manual_first {
                ends.reverse();
            }
            for (gate, kind) in ends {
                gate.open();
                let outcome = s.watch.expect(kind).await;
                // Only what isn't delivered yet is owed another one.
                let is_owed = kind == Kind::AttemptFailed && !is_manual_first;
                assert_eq!((&outcome.delivery_id, outcome.next_attempt_time.is_some()), (&id, is_owed));
            }
            let delivery = s.t.delivery(&id).await;
            assert_eq!((delivery.state(), delivery.attempt_count), (State::Delivered, 2));
            assert_eq!(delivery.next_attempt_time, None);
        }
        let fence = Fence::raise(&s.t).await;
        s.clock.advance(Fence::DELAY);
        fence.passed().await;
        assert_eq!(s.receiver.count(), 4);
    }

    /// Calls at the same moment are as many attempts, while the first one is held by the receiver as well.
    async fn asked_for_twice_at_once_runs_twice(database: Database) {
        let mut s = Scene::set(database, |_| {}).await;
        let gate = Gate::closed();
        s.receiver.answer(Answer::ok().behind(&gate));
        let id = s.t.trigger(&s.webhook, &s.contact).await.delivery_ids.remove(0);
        s.receiver.recv().await;
        let (first, second) = tokio::join!(s.t.retry(&id), s.t.retry(&id));
        assert_eq!((first.is_ok(), second.is_ok()), (true, true));
        assert!(s.receiver.recv_all(2).await.iter().all(|received| received.webhook_id() == id));
        gate.open();
        for _ in 0..3 {
            assert_eq!(s.watch.expect(Kind::Delivered).await.delivery_id, id);
        }
        assert_eq!((s.t.delivery(&id).await.attempt_count, s.receiver.count()), (3, 3));
    }

    /// A cancellation lets what is in flight end, scheduled or manual, and drops what was asked for and waits.
    async fn a_cancellation_drops_what_was_asked_for_and_waits(database: Database) {
        let mut s = Scene::set_narrow(database).await;
        let gate = Gate::closed();
        s.receiver.answer_next([Answer::status(500).behind(&gate)]);
        let id = s.t.trigger(&s.webhook, &s.contact).await.delivery_ids.remove(0);
        s.receiver.recv().await;
        for _ in 0..2 {
            s.t.retry(&id).await.unwrap();
        }
        assert_eq!(s.t.cancel(&id).await.unwrap().into_inner().state(), State::Cancelled);
        s.watch.expect(Kind::Cancelled).await;
        gate.open();
        assert_eq!(s.watch.expect(Kind::AttemptFailed).await.next_attempt_time, None);
        let fence = Fence::raise(&s.t).await;
        s.watch.expect(Kind::AttemptFailed).await;
        s.clock.advance(Fence::DELAY);
        fence.passed().await;
        s.watch.expect(Kind::Delivered).await;
        assert_eq!((s.t.delivery(&id).await.state(), s.receiver.count()), (State::Cancelled, 1));
        // Asked for after the cancellation, it is made; and lets itself be cancelled no more, since it is final.
        let gate = Gate::closed();
        s.receiver.answer_next([Answer::ok().behind(&gate)]);
        s.t.retry(&id).await.unwrap();
        s.receiver.recv().await;
        check_wrong_state(s.t.cancel(&id).await, "CANCELLED");
        gate.open();
        s.watch.expect(Kind::Delivered).await;
        assert_eq!((s.t.delivery(&id).await.state(), s.receiver.count()), (State::Delivered, 2));
    }

    async fn what_has_no_values_is_not_sent(database: Database) {
        let mut s = Scene::set(database, |webhook| webhook.cooldown_policy = CooldownPolicy::Defer.into()).await;
        check_error(s.t.retry(NO_DELIVERY).await, Code::NotFound, ErrorReason::NotFound);
        s.t.decide(&s.contact, &s.tag).await;
        s.watch.expect(Kind::Delivered).await;
        let deferred = s.t.decide(&s.contact, &s.tag).await;
        assert_eq!(deferred.decision(), Decision::Deferred);
        check_wrong_state(s.t.retry(&deferred.delivery_ids[0]).await, "DEFERRED");
        s.t.cancel(&deferred.delivery_ids[0]).await.unwrap();
        check_wrong_state(s.t.retry(&deferred.delivery_ids[0]).await, "CANCELLED");

        s.t.update(&s.webhook, &["cooldown_policy"], |webhook| webhook.cooldown_policy = 0).await;
        let suppressed = s.t.decide(&s.contact, &s.tag).await;
        check_wrong_state(s.t.retry(&suppressed.delivery_ids[0]).await, "SUPPRESSED");
        s.t.pause(&s.webhook).await;
        let skipped = s.t.trigger(&s.webhook, &s.contact).await;
        check_wrong_state(s.t.retry(&skipped.delivery_ids[0]).await, "SKIPPED");
        assert_eq!(s.receiver.count(), 1);
    }

    async fn what_has_no_webhook_is_not_sent(database: Database) {
        let mut s = Scene::set(database, |_| {}).await;
        let id = s.delivery(Answer::ok(), Kind::Delivered).await;
        s.t.pause(&s.webhook).await;
        let error = check_error(s.t.retry(&id).await, Code::FailedPrecondition, ErrorReason::WebhookDisabled);
        assert_eq!(error.metadata["state"], "PAUSED");
        s.t.delete_webhook(&s.webhook).await;
        check_wrong_state(s.t.retry(&id).await, "ORPHANED");
        s.t.delete_contact(&s.contact).await;
        check_wrong_state(s.t.retry(&id).await, "ERASED");
        assert_eq!(s.receiver.count(), 1);
    }

    async fn a_cancelled_one_is_not_sent_unless_asked(database: Database) {
        let mut s = Scene::set(database, |_| {}).await;
        let id = s.delivery(Answer::status(500), Kind::AttemptFailed).await;
        let fence = Fence::raise(&s.t).await;
        s.watch.expect(Kind::AttemptFailed).await;
        let cancelled = s.t.cancel(&id).await.unwrap().into_inner();
        assert_eq!((cancelled.state(), cancelled.reason()), (State::Cancelled, DeliveryReason::CancelledByCaller));
        assert!(cancelled.finish_time.is_some() && cancelled.next_attempt_time.is_none());
        let outcome = s.watch.expect(Kind::Cancelled).await;
        assert_eq!((&outcome.delivery_id, outcome.reason()), (&id, DeliveryReason::CancelledByCaller));
        check_wrong_state(s.t.cancel(&id).await, "CANCELLED");
        s.clock.advance(Fence::DELAY);
        fence.passed().await;
        s.watch.expect(Kind::Delivered).await;
        assert_eq!(s.receiver.count(), 1);

        s.t.retry(&id).await.unwrap();
        assert_eq!(s.receiver.recv().await.webhook_id(), id);
        assert_eq!(s.watch.expect(Kind::Delivered).await.delivery_id, id);
        let delivery = s.t.delivery(&id).await;
        assert_eq!((delivery.state(), delivery.reason()), (State::Delivered, DeliveryReason::Unspecified));
        check_wrong_state(s.t.cancel(&id).await, "DELIVERED");
    }

    async fn a_cancelled_deferral_does_not_fire(database: Database) {
        let mut s = Scene::set(database, |webhook| webhook.cooldown_policy = CooldownPolicy::Defer.into()).await;
        s.t.decide(&s.contact, &s.tag).await;
        s.watch.expect(Kind::Delivered).await;
        let deferred = s.t.decide(&s.contact, &s.tag).await;
        s.watch.expect(Kind::Deferred).await;
        s.t.cancel(&deferred.delivery_ids[0]).await.unwrap();
        s.watch.expect(Kind::Cancelled).await;
        // A later trigger of the same window makes another one, due at the same time.
        let again = s.t.decide(&s.contact, &s.tag).await;
        assert_eq!(again.decision(), Decision::Deferred);
        assert_ne!(again.delivery_ids, deferred.delivery_ids);
        s.watch.expect(Kind::Deferred).await;
        s.clock.advance(Duration::from_hours(6));
        assert_eq!(s.watch.expect(Kind::Delivered).await.delivery_id, again.delivery_ids[0]);
        assert_eq!(s.receiver.count(), 2);
        assert_eq!(s.t.delivery(&deferred.delivery_ids[0]).await.state(), State::Cancelled);
    }

    /// What was sent before the cancellation is recorded: a success is one, a failure isn't followed by another attempt.
    async fn a_cancellation_lets_the_attempt_in_flight_end(database: Database) {
        let mut s = Scene::set(database, |_| {}).await;
        for (status, kind, state) in
            [(200, Kind::Delivered, State::Delivered), (500, Kind::AttemptFailed, State::Cancelled)]
        {
            let gate = Gate::closed();
            s.receiver.answer_next([Answer::status(status).behind(&gate)]);
            let id = s.t.trigger(&s.webhook, &s.contact).await.delivery_ids.remove(0);
            s.receiver.recv().await;
            assert_eq!(s.t.cancel(&id).await.unwrap().into_inner().state(), State::Cancelled);
            s.watch.expect(Kind::Cancelled).await;
            gate.open();
            let outcome = s.watch.expect(kind).await;
            assert_eq!((&outcome.delivery_id, outcome.next_attempt_time), (&id, None), "{status}");
            let delivery = s.t.delivery(&id).await;
            assert_eq!((delivery.state(), delivery.attempt_count), (state, 1), "{status}");
            assert_eq!(delivery.next_attempt_time, None, "{status}");
        }
        let fence = Fence::raise(&s.t).await;
        s.clock.advance(Fence::DELAY);
        fence.passed().await;
        assert_eq!(s.receiver.count(), 2);
    }

    /// Cancelled at the moment of its attempt: it is made or it isn't, and the state says which.
    async fn a_cancellation_at_the_moment_of_the_attempt_is_one_or_the_other(database: Database) {
        let mut s = Scene::set(database, |webhook| webhook.retry_policy = delays(&[5])).await;
        let mut ids = Vec::new();
        for _ in 0..10 {
            ids.push(s.delivery(Answer::status(500), Kind::AttemptFailed).await);
        }
        let fence = Fence::raise(&s.t).await;
        let mut cancels = JoinSet::new();
        for id in ids.clone() {
            let api = (*s.t).clone();
            cancels.spawn(async move { api.cancel(&id).await });
        }
        s.clock.advance(Fence::DELAY);
        let mut refused = 0;
        while let Some(cancelled) = within("an answer", cancels.join_next()).await {
            if let Err(status) = cancelled.unwrap() {
                check_error(Err::<Response<()>, _>(status), Code::FailedPrecondition, ErrorReason::WrongState);
                refused += 1;
            }
        }
        fence.passed().await;
        // The stop waits for those that were in flight at their cancellation.
        s.t = s.t.restart().await;
        let mut delivered = 0;
        for id in &ids {
            let statuses: Vec<_> = s.attempts(id).await.iter().map(|(_, _, status)| *status).collect();
            match s.t.delivery(id).await.state() {
                State::Cancelled => assert_eq!(statuses, [500]),
                State::Delivered => {
                    assert_eq!(statuses, [500, 200]);
                    delivered += 1;
                }
                other => panic!("{other:?} after {statuses:?}"),
            }
        }
        assert!(delivered >= refused, "{delivered} delivered, {refused} refused");
        assert_eq!(s.receiver.count(), 10 + delivered);
    }

    async fn a_pause_holds_what_was_asked_for_as_well(database: Database) {
        let mut s = Scene::set_narrow(database).await;
        let id = s.delivery(Answer::ok(), Kind::Delivered).await;
        let gate = Gate::closed();
        s.occupy(&gate).await;
        s.t.retry(&id).await.unwrap();
        s.t.pause(&s.webhook).await;
        s.watch.expect(Kind::WebhookPaused).await;
        gate.open();
        s.watch.expect(Kind::Delivered).await;
        let fence = Fence::raise(&s.t).await;
        s.watch.expect(Kind::AttemptFailed).await;
        s.clock.advance(Fence::DELAY);
        fence.passed().await;
        s.watch.expect(Kind::Delivered).await;
        assert_eq!(s.attempts(&id).await.len(), 1);

        s.t.resume(&s.webhook).await;
        s.watch.expect(Kind::WebhookResumed).await;
        assert_eq!(s.receiver.recv().await.webhook_id(), id);
        assert_eq!(s.watch.expect(Kind::Delivered).await.delivery_id, id);
        assert_eq!(s.attempts(&id).await, [(1, Cause::Scheduled, 200), (2, Cause::Manual, 200)]);
    }

    async fn what_was_asked_for_ends_with_its_webhook_and_its_contact(database: Database) {
        let mut s = Scene::set_narrow(database).await;
        let of_webhook = s.delivery(Answer::ok(), Kind::Delivered).await;
        let gate = Gate::closed();
        s.occupy(&gate).await;
        let (other, bob) = (s.t.tag("other").await, s.t.contact("bob@example.com").await);
        let kept = s.t.webhook(&s.receiver, &other, |_| {}).await;
        s.t.retry(&of_webhook).await.unwrap();
        s.t.delete_webhook(&s.webhook).await;
        let of_contact = s.t.trigger(&kept, &bob).await.delivery_ids.remove(0);
        s.t.retry(&of_contact).await.unwrap();
        s.t.delete_contact(&bob).await;
        assert_eq!(s.watch.expect(Kind::Cancelled).await.delivery_id, of_contact);
        gate.open();
        s.watch.expect(Kind::Delivered).await;
        // What comes next is what was asked for last.
        let last = s.t.trigger(&kept, &s.contact).await.delivery_ids.remove(0);
        assert_eq!(s.receiver.recv().await.webhook_id(), last);
        assert_eq!(s.watch.expect(Kind::Delivered).await.delivery_id, last);
        s.t.retry(&last).await.unwrap();
        assert_eq!(s.receiver.recv().await.webhook_id(), last);
        assert_eq!((s.attempts(&of_webhook).await.len(), s.attempts(&of_contact).await.len()), (1, 0));
        assert_eq!(s.receiver.count(), 4);
    }
}

/// The same on two servers, each of which is asked for one at the moment of the scheduled attempt: these three.
#[tokio::test]
async fn a_race_on_two_servers_makes_none_too_many() {
    let mut s = Scene::set(Database::postgres().await, |webhook| webhook.retry_policy = delays(&[5, 86_400])).await;
    let other = s.t.another().await;
    for round in 0..5 {
        let id = s.delivery(Answer::status(500), Kind::AttemptFailed).await;
        s.receiver.answer_next([Answer::status(500), Answer::status(500), Answer::status(500)]);
        let due = s.t.delivery(&id).await.next_attempt_time.unwrap();
        let retries = [(*s.t).clone(), (*other).clone()].map(|api| {
            let id = id.clone();
            tokio::spawn(async move { api.retry(&id).await })
        });
        s.clock.advance_to(due);
        for retry in retries {
            within("an answer", retry).await.unwrap().unwrap();
        }
        for _ in 0..3 {
            assert_eq!(s.watch.expect(Kind::AttemptFailed).await.delivery_id, id);
        }
        s.receiver.recv_all(3).await;
        let mut causes: Vec<_> = s.attempts(&id).await.iter().map(|(_, cause, _)| *cause as i32).collect();
        causes.sort_unstable();
        let [scheduled, manual] = [Cause::Scheduled, Cause::Manual].map(|cause| cause as i32);
        assert_eq!(causes, [scheduled, scheduled, manual, manual], "round {round}");
        s.t.cancel(&id).await.unwrap();
        s.watch.expect(Kind::Cancelled).await;
    }
    assert_eq!(s.receiver.count(), 20);
}
