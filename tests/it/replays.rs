//! Replays: what they select, how fast, how they end, and that nothing makes them send twice or not at all.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use taghook::store;
use taghook_client::Code;
use taghook_client::v1::attempt::Cause;
use taghook_client::v1::delivery::{Source, State};
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::replay::State as ReplayState;
use taghook_client::v1::{
    Contact, CreateReplayRequest, ErrorReason, ListReplaysRequest, Replay, ReplayFilter, Webhook, WebhookEvent,
};

use crate::support::{
    Answer, Api, Database, Fence, FromDatabase, Gate, Hand, Process, Receiver, Settings, Taghook, Watch, both,
    check_error, check_invalid, delays, within,
};

const NO_REPLAY: &str = "rpl_01jd7z1v5rf5xv0m2yq8t3w9ka";
const DAY: Duration = Duration::from_hours(24);

/// What these tests begin with: a server whose clock stands, and a webhook that tries once.
struct Scene {
    t: Taghook,
    clock: Hand,
    receiver: Receiver,
    contact: Contact,
    webhook: Webhook,
    watch: Watch,
}

impl Scene {
    async fn set(database: Database) -> Self {
        let settings = database.settings();
        Self::set_with(database, settings).await
    }

    async fn set_with(database: Database, settings: Settings) -> Self {
        let (settings, clock) = settings.with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let webhook = one_attempt(&t, &receiver, 1).await;
        let watch = Watch::now(&t.client).await;
        Self { t, clock, receiver, contact, webhook, watch }
    }

    /// A delivery of the webhook whose only attempt was answered so.
    async fn tried(&mut self, status: u16) -> String {
        self.receiver.answer_next([Answer::status(status)]);
        let id = self.t.trigger(&self.webhook, &self.contact).await.delivery_ids.remove(0);
        self.receiver.recv().await;
        assert_eq!(self.watch.next().await.delivery_id, id);
        // So that the next one's id is greater: replays go by them.
        self.clock.advance(Duration::from_millis(1));
        id
    }

    /// Several that failed.
    async fn exhausted(&mut self, count: usize) -> Vec<String> {
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            ids.push(self.tried(500).await);
        }
        ids
    }

    async fn begin(&self, rate: i32, filter: ReplayFilter) -> Replay {
        self.t.replay(rate, filter).await.expect("a replay").into_inner()
    }

    /// The next requests, which must be for these deliveries, in any order.
    async fn receive(&mut self, ids: &[String]) {
        let received = self.receiver.recv_all(ids.len()).await;
        let mut received: Vec<_> = received.iter().map(|received| received.webhook_id().to_owned()).collect();
        let mut ids = ids.to_vec();
        received.sort_unstable();
        ids.sort_unstable();
        assert_eq!(received, ids);
    }

    async fn completed(&self, replay: &Replay) -> Replay {
        self.t.replay_until(&replay.id, |replay| replay.state() == ReplayState::Completed).await
    }
}

/// A webhook of so many events, without retries.
async fn one_attempt(api: &Api, receiver: &Receiver, events: usize) -> Webhook {
    let tag = api.tag(&format!("events {events}")).await;
    let webhook = api.webhook(receiver, &tag, |webhook| {
        webhook.retry_policy = delays(&[]);
        webhook.events = vec![WebhookEvent::default(); events];
    });
    webhook.await
}

/// Matched, skipped, pending, delivered, failed, cancelled.
fn counts(replay: &Replay) -> [i64; 6] {
    [
        replay.matched_count,
        replay.skipped_count,
        replay.pending_count,
        replay.delivered_count,
        replay.failed_count,
        replay.cancelled_count,
    ]
}

both! {
    async fn a_replay_sends_what_it_selects_once_more(database: Database) {
        let mut s = Scene::set(database).await;
        let ids = s.exhausted(3).await;
        let delivered = s.tried(200).await;
        s.clock.advance(Duration::from_mins(1));
        // One of them fails again.
        s.receiver.answer_next([Answer::status(503)]);
        let begun = s.begin(0, ReplayFilter::default()).await;
        assert_eq!((begun.state(), begun.attempts_per_second, counts(&begun)), (ReplayState::Pending, 50, [0; 6]));
        assert_eq!(begun.filter.as_ref().unwrap().states, [i32::from(State::Exhausted)]);
        assert!(begun.id.starts_with("rpl_") && begun.create_time.is_some() && begun.finish_time.is_none());
        s.receive(&ids).await;
        let (mut succeeded, mut failed) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let outcome = s.watch.next().await;
            let attempt = outcome.attempt.clone().unwrap();
            assert_eq!((attempt.cause(), attempt.number, outcome.next_attempt_time), (Cause::Replay, 2, None));
            match outcome.kind() {
                Kind::Delivered => succeeded.push(outcome.delivery_id),
                Kind::AttemptFailed => failed.push(outcome.delivery_id),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((succeeded.len(), failed.len()), (2, 1));
        // Completed with the commit of the last outcome.
        let replay = s.t.replay_now(&begun.id).await;
        assert_eq!((replay.state(), counts(&replay)), (ReplayState::Completed, [3, 0, 0, 2, 1, 0]));
        assert_eq!(replay.finish_time, replay.create_time);
        assert_eq!(s.t.delivery(&failed[0]).await.state(), State::Exhausted);
        for id in &succeeded {
            let delivery = s.t.delivery(id).await;
            assert_eq!((delivery.state(), delivery.attempt_count), (State::Delivered, 2));
        }
        assert_eq!(s.t.delivery(&delivered).await.attempt_count, 1);
        assert_eq!(s.receiver.count(), 7);
        // What is left of it is one.
        let again = s.begin(0, ReplayFilter::default()).await;
        s.receive(&failed).await;
        assert_eq!(counts(&s.completed(&again).await), [1, 0, 0, 1, 0, 0]);
    }

    async fn a_replay_takes_what_its_filter_says(database: Database) {
        let mut s = Scene::set(database).await;
        let exhausted = s.tried(500).await;
        let delivered = s.tried(200).await;
        let bob = s.t.contact("bob@example.com").await;
        let other = s.t.webhook(&s.receiver, &s.t.tag("other").await, |webhook| webhook.retry_policy = delays(&[60])).await;
        s.clock.advance(Duration::from_secs(10));
        s.receiver.answer_next([Answer::status(500)]);
        let cancelled = s.t.trigger(&other, &bob).await.delivery_ids.remove(0);
        s.receiver.recv().await;
        s.watch.expect(Kind::AttemptFailed).await;
        s.t.cancel(&cancelled).await.unwrap();
        s.watch.expect(Kind::Cancelled).await;
        s.t.test(&s.webhook, &s.contact).await;
        s.receiver.recv().await;
        s.watch.expect(Kind::Delivered).await;
        let later = s.t.delivery(&cancelled).await.create_time;
        s.clock.advance(Duration::from_secs(10));

        let states = |states: &[State]| states.iter().map(|state| i32::from(*state)).collect::<Vec<_>>();
        let all = states(&[State::Delivered, State::Exhausted, State::Cancelled]);
        let any = ReplayFilter { states: all, ..Default::default() };
        let cases: [(ReplayFilter, &[&String]); 9] = [
            (any.clone(), &[&exhausted, &delivered, &cancelled]),
            // It was delivered by the first one.
            (ReplayFilter::default(), &[]),
            (ReplayFilter { states: states(&[State::Cancelled]), ..any.clone() }, &[]),
            (ReplayFilter { webhook_ids: vec![other.id.clone()], ..any.clone() }, &[&cancelled]),
            (
                ReplayFilter { webhook_ids: vec![other.id.clone(), s.webhook.id.clone()], ..any.clone() },
                &[&exhausted, &delivered, &cancelled],
            ),
            (ReplayFilter { contact_ids: vec![s.contact.id.clone()], ..any.clone() }, &[&exhausted, &delivered]),
            (ReplayFilter { created_after: later, ..any.clone() }, &[&cancelled]),
            (ReplayFilter { created_before: later, ..any.clone() }, &[&exhausted, &delivered]),
            (ReplayFilter { sources: vec![Source::Tag.into()], ..any.clone() }, &[]),
        ];
        for (filter, selected) in cases {
            // Time for whatever it selects.
            s.clock.advance(Duration::from_secs(1));
            let replay = s.begin(0, filter.clone()).await;
            let replay = s.completed(&replay).await;
            let ids: Vec<_> = selected.iter().map(|id| (*id).clone()).collect();
            assert_eq!(replay.matched_count, i64::try_from(ids.len()).unwrap(), "{filter:#?}");
            s.receive(&ids).await;
        }
        // A test belongs to it if it is asked for.
        let tests = ReplayFilter { sources: vec![Source::Test.into()], ..any };
        let replay = s.begin(0, tests).await;
        assert_eq!(counts(&s.completed(&replay).await), [1, 0, 0, 1, 0, 0]);
    }

    /// What becomes final later doesn't belong to a replay, even if it comes by it later.
    async fn what_is_not_final_at_its_beginning_is_left_alone(database: Database) {
        let mut s = Scene::set(database).await;
        let ids = s.exhausted(2).await;
        let replay = s.begin(1, ReplayFilter::default()).await;
        s.receive(&ids[..1]).await;
        s.watch.expect(Kind::Delivered).await;
        s.clock.advance(Duration::from_millis(1));
        s.exhausted(2).await;
        s.clock.advance(Duration::from_secs(1));
        s.receive(&ids[1..]).await;
        assert_eq!(counts(&s.completed(&replay).await), [2, 0, 0, 2, 0, 0]);
        assert_eq!(s.receiver.count(), 6);
    }

    async fn the_rate_holds(database: Database) {
        let mut s = Scene::set(database).await;
        let ids = s.exhausted(17).await;
        s.clock.advance(Duration::from_secs(1));
        let begun = s.begin(5, ReplayFilter::default()).await;
        let mut sent = 0;
        // So long after the one before, so many more: what wasn't used can be saved up for a second.
        for (wait_ms, count) in [(0, 1), (200, 1), (400, 2), (1_000, 5), (60_000, 5), (199, 0), (1, 1), (1_000, 2)] {
            s.clock.advance(Duration::from_millis(wait_ms));
            s.receive(&ids[sent..sent + count]).await;
            sent += count;
            let matched = i64::try_from(sent).unwrap();
            let replay = s.t.replay_until(&begun.id, |replay| replay.delivered_count == matched).await;
            assert_eq!((replay.matched_count, s.receiver.count()), (matched, 17 + sent), "after {wait_ms} ms");
        }
        assert_eq!(sent, 17);
        // The next look finds that there are no more.
        s.clock.advance(Duration::from_secs(1));
        assert_eq!(counts(&s.completed(&begun).await), [17, 0, 0, 17, 0, 0]);
    }

    /// After the answer only what is in flight ends; the rest is counted as cancelled.
    async fn a_cancelled_replay_stops(database: Database) {
        let mut settings = database.settings();
        settings.config.dispatch.senders = 1;
        let mut s = Scene::set_with(database, settings).await;
        s.exhausted(8).await;
        let gate = Gate::closed();
        s.receiver.answer(Answer::ok().behind(&gate));
        let begun = s.begin(30, ReplayFilter::default()).await;
        s.receiver.recv().await;
        s.t.replay_until(&begun.id, |replay| replay.pending_count == 6).await;
        let cancelled = s.t.cancel_replay(&begun.id).await.unwrap().into_inner();
        assert_eq!((cancelled.state(), counts(&cancelled)), (ReplayState::Cancelled, [6, 0, 1, 0, 0, 5]));
        assert!(cancelled.finish_time.is_some());
        s.receiver.answer(Answer::ok());
        gate.open();
        s.watch.expect(Kind::Delivered).await;
        assert_eq!(counts(&s.t.replay_now(&begun.id).await), [6, 0, 0, 1, 0, 5]);
        let error = check_error(s.t.cancel_replay(&begun.id).await, Code::FailedPrecondition, ErrorReason::WrongState);
        assert_eq!(error.metadata["state"], "CANCELLED");
        let fence = Fence::raise(&s.t).await;
        s.clock.advance(Fence::DELAY);
        fence.passed().await;
        assert_eq!(s.receiver.count(), 9);
        let replay = s.t.replay_now(&begun.id).await;
        assert_eq!((replay.state(), counts(&replay)), (ReplayState::Cancelled, [6, 0, 0, 1, 0, 5]));
    }

    /// A replay is no way past the limits of an endpoint, and holds no sender that others need.
    async fn a_replay_keeps_to_the_cap_of_its_endpoint(database: Database) {
        let mut settings = database.settings();
        settings.config.dispatch.senders = 8;
        let mut s = Scene::set_with(database, settings).await;
        s.t.update(&s.webhook, &["max_concurrency"], |webhook| webhook.max_concurrency = 2).await;
        let ids = s.exhausted(12).await;
        let (mut other, gate) = (Receiver::start().await, Gate::closed());
        let healthy = one_attempt(&s.t, &other, 2).await;
        s.receiver.answer(Answer::ok().behind(&gate));
        let begun = s.begin(1_000, ReplayFilter::default()).await;
        s.receiver.recv_all(2).await;
        s.t.replay_until(&begun.id, |replay| replay.pending_count == 12).await;
        for _ in 0..5 {
            s.clock.advance(Duration::from_secs(1));
            s.t.trigger(&healthy, &s.contact).await;
            other.recv_all(2).await;
        }
        assert_eq!((s.receiver.count(), s.receiver.peak()), (14, 2));
        gate.open();
        let done = async {
            while s.t.replay_now(&begun.id).await.state() != ReplayState::Completed {
                s.clock.advance(Duration::from_secs(1));
                tokio::task::yield_now().await;
            }
        };
        within("the end of the replay", done).await;
        assert_eq!((s.receiver.count(), s.receiver.peak()), (ids.len() * 2, 2));
    }

    /// A webhook that is paused meanwhile gets its part after the resume, at the replay's rate. Others don't wait for it.
    async fn a_paused_webhook_holds_its_part(database: Database) {
        let mut s = Scene::set(database).await;
        let ids = s.exhausted(6).await;
        let begun = s.begin(1, ReplayFilter::default()).await;
        s.receive(&ids[..1]).await;
        s.watch.expect(Kind::Delivered).await;
        s.t.pause(&s.webhook).await;
        s.watch.expect(Kind::WebhookPaused).await;
        for matched in 2..=6 {
            s.clock.advance(Duration::from_secs(1));
            s.t.replay_until(&begun.id, |replay| replay.matched_count == matched).await;
        }
        s.clock.advance(Duration::from_secs(1));
        let fence = Fence::raise(&s.t).await;
        s.clock.advance(Fence::DELAY);
        fence.passed().await;
        let replay = s.t.replay_now(&begun.id).await;
        assert_eq!((replay.state(), counts(&replay)), (ReplayState::Running, [6, 0, 5, 1, 0, 0]));
        assert_eq!(s.receiver.count(), 7);

        // Nothing of it is lost by a crash.
        s.t = s.t.crash().await;
        s.t.resume(&s.webhook).await;
        let mut held: HashSet<_> = ids.into_iter().skip(1).collect();
        for index in 1..=5 {
            assert!(held.remove(s.receiver.recv().await.webhook_id()));
            let delivered = i64::try_from(index).unwrap() + 1;
            s.t.replay_until(&begun.id, |replay| replay.delivered_count == delivered).await;
            assert_eq!(s.receiver.count(), 7 + index);
            s.clock.advance(Duration::from_secs(1));
        }
        assert_eq!(counts(&s.completed(&begun).await), [6, 0, 0, 6, 0, 0]);
    }

    /// What was held is dropped by a cancellation as well, however much it is.
    async fn a_cancelled_replay_leaves_nothing_held(database: Database) {
        let mut s = Scene::set(database).await;
        let ids = s.exhausted(3).await;
        let begun = s.begin(1, ReplayFilter::default()).await;
        s.receive(&ids[..1]).await;
        s.watch.expect(Kind::Delivered).await;
        s.t.pause(&s.webhook).await;
        for matched in [2, 3] {
            s.clock.advance(Duration::from_secs(1));
            s.t.replay_until(&begun.id, |replay| replay.matched_count == matched).await;
        }
        s.t.cancel_replay(&begun.id).await.unwrap();
        assert_eq!(counts(&s.t.replay_now(&begun.id).await), [3, 0, 0, 1, 0, 2]);
        s.t.resume(&s.webhook).await;
        let fence = Fence::raise(&s.t).await;
        s.clock.advance(Fence::DELAY);
        fence.passed().await;
        assert_eq!(s.receiver.count(), 4);
    }

    async fn what_is_gone_is_counted_and_not_sent(database: Database) {
        let mut s = Scene::set(database).await;
        let mut erased = Vec::new();
        let bob = s.t.contact("bob@example.com").await;
        s.receiver.answer_next([Answer::status(500)]);
        erased.extend(s.t.trigger(&s.webhook, &bob).await.delivery_ids);
        s.receiver.recv().await;
        s.watch.expect(Kind::Exhausted).await;
        s.clock.advance(Duration::from_millis(1));
        s.t.delete_contact(&bob).await;
        let ids = s.exhausted(4).await;
        let begun = s.begin(1, ReplayFilter::default()).await;
        s.receive(&ids[..1]).await;
        s.watch.expect(Kind::Delivered).await;
        let replay = s.t.replay_until(&begun.id, |replay| replay.delivered_count == 1).await;
        assert_eq!(counts(&replay), [2, 1, 0, 1, 0, 0]);
        // One waits for its webhook when that goes; those after it have none any more.
        s.t.pause(&s.webhook).await;
        s.clock.advance(Duration::from_secs(1));
        s.t.replay_until(&begun.id, |replay| replay.pending_count == 1).await;
        s.t.delete_webhook(&s.webhook).await;
        assert_eq!(counts(&s.t.replay_now(&begun.id).await), [3, 1, 0, 1, 0, 1]);
        s.clock.advance(Duration::from_secs(1));
        assert_eq!(counts(&s.completed(&begun).await), [5, 3, 0, 1, 0, 1]);
        assert_eq!(s.receiver.count(), 6);
    }

    /// A contact that is deleted while its attempt waits: it isn't made.
    async fn a_deleted_contact_ends_its_part(database: Database) {
        let mut s = Scene::set(database).await;
        s.exhausted(1).await;
        s.t.pause(&s.webhook).await;
        let begun = s.begin(0, ReplayFilter::default()).await;
        s.t.replay_until(&begun.id, |replay| replay.pending_count == 1).await;
        s.t.delete_contact(&s.contact).await;
        let replay = s.t.replay_now(&begun.id).await;
        assert_eq!(counts(&replay), [1, 0, 0, 0, 0, 1]);
        assert_eq!((s.completed(&begun).await.state(), s.receiver.count()), (ReplayState::Completed, 1));
    }

    /// The numbers outlive what they were counted of.
    async fn progress_survives_retention(database: Database) {
        let mut s = Scene::set(database).await;
        let ids = s.exhausted(3).await;
        let begun = s.begin(0, ReplayFilter::default()).await;
        s.receive(&ids).await;
        let completed = s.completed(&begun).await;
        s.clock.advance(91 * DAY);
        assert_eq!(store::retention::outcomes(s.t.store(), 30 * DAY).await.unwrap(), 6);
        let (removed, _) = store::retention::deliveries(s.t.store(), 90 * DAY, Default::default()).await.unwrap();
        assert_eq!(removed, 3);
        assert_eq!(s.t.replay_now(&begun.id).await, completed);
        let list = s.t.client.deliveries().list_replays(ListReplaysRequest::default()).await.unwrap().into_inner();
        assert_eq!(list.replays, [completed]);
        assert_eq!(store::retention::replays(s.t.store(), 91 * DAY).await.unwrap(), 0);
        assert_eq!(store::retention::replays(s.t.store(), 90 * DAY).await.unwrap(), 1);
        let request = taghook_client::v1::GetReplayRequest { id: begun.id };
        check_error(s.t.client.deliveries().get_replay(request).await, Code::NotFound, ErrorReason::NotFound);
    }

    async fn what_can_not_be_replayed_is_refused(database: Database) {
        let s = Scene::set(database).await;
        for bad in [State::Suppressed, State::Waiting, State::Deferred, State::Skipped, State::Sending] {
            let filter = ReplayFilter { states: vec![bad.into()], ..Default::default() };
            check_invalid(s.t.replay(0, filter).await, &["replay.filter.states[0]"]);
        }
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let filter = ReplayFilter {
            webhook_ids: vec!["wh_1".into()],
            created_after: time(9),
            created_before: time(9),
            ..Default::default()
        };
        check_invalid(
            s.t.replay(-1, filter).await,
            &["replay.filter.webhook_ids[0]", "replay.filter.created_before", "replay.attempts_per_second"],
        );
        check_error(s.t.cancel_replay(NO_REPLAY).await, Code::NotFound, ErrorReason::NotFound);
        let filter = ReplayFilter { webhook_ids: vec![s.webhook.id.clone()], ..Default::default() };
        s.t.pause(&s.webhook).await;
        let refused = s.t.replay(0, filter.clone()).await;
        let error = check_error(refused, Code::FailedPrecondition, ErrorReason::WebhookDisabled);
        assert_eq!(error.metadata["state"], "PAUSED");
        s.t.delete_webhook(&s.webhook).await;
        check_error(s.t.replay(0, filter).await, Code::NotFound, ErrorReason::NotFound);
    }

    /// Ten that aren't finished; a finished one makes room. The same request is the same replay.
    async fn a_workspace_has_ten_replays_at_a_time(database: Database) {
        let mut s = Scene::set(database).await;
        s.exhausted(1).await;
        s.t.pause(&s.webhook).await;
        let mut ids = Vec::new();
        for _ in 0..10 {
            ids.push(s.begin(0, ReplayFilter::default()).await.id);
        }
        let refused = s.t.replay(0, ReplayFilter::default()).await;
        check_error(refused, Code::ResourceExhausted, ErrorReason::LimitReached);
        s.t.cancel_replay(&ids[3]).await.unwrap();
        let replay = Replay { filter: Some(ReplayFilter::default()), ..Default::default() };
        let request = CreateReplayRequest { replay: Some(replay), request_id: "once".into() };
        let first = s.t.client.deliveries().create_replay(request.clone()).await.unwrap().into_inner();
        let second = s.t.client.deliveries().create_replay(request).await.unwrap().into_inner();
        assert_eq!(first.id, second.id);
        ids.push(first.id);
        ids.reverse();
        let mut listed = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListReplaysRequest { page_size: 4, page_token };
            let page = s.t.client.deliveries().list_replays(request).await.unwrap().into_inner();
            listed.extend(page.replays.into_iter().map(|replay| replay.id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(listed.iter().collect::<HashSet<_>>(), ids.iter().collect::<HashSet<_>>());
        assert_eq!(listed.len(), 11);
    }

    /// Killed in the middle of 3,000: each is sent, twice at most what was in flight; the counts are exact.
    async fn a_kill_makes_a_replay_neither_lose_nor_repeat(database: Database) {
        const EVENTS: usize = 10;
        const COUNT: usize = 3_000;
        const SENDERS: usize = 32;
        let mut receiver = Receiver::start().await;
        receiver.answer(Answer::status(500));
        let environment = [("TAGHOOK_DISPATCH_SENDERS", "32")];
        let server = Process::serve_with(&database, &environment).await;
        let contact = server.contact("ada@example.com").await;
        let webhook = one_attempt(&server, &receiver, EVENTS).await;
        let mut watch = Watch::now(&server.client).await;
        let mut owed = HashSet::new();
        for _ in 0..COUNT / EVENTS {
            owed.extend(server.trigger(&webhook, &contact).await.delivery_ids);
        }
        for _ in 0..COUNT {
            watch.expect(Kind::Exhausted).await;
        }
        assert_eq!((owed.len(), receiver.recv_all(COUNT).await.len()), (COUNT, COUNT));
        receiver.answer(Answer::ok());
        let replay = server.replay(1_000, ReplayFilter::default()).await.unwrap().into_inner();
        let before = server.replay_until(&replay.id, |replay| replay.delivered_count > 500).await;
        server.kill().await;

        let server = Process::serve_with(&database, &environment).await;
        let mut last = before;
        while last.state() != ReplayState::Completed {
            let now = server
                .replay_until(&replay.id, |now| {
                    now.delivered_count != last.delivered_count || now.state() == ReplayState::Completed
                })
                .await;
            assert!(
                now.matched_count >= last.matched_count && now.delivered_count >= last.delivered_count,
                "{now:#?} after {last:#?}"
            );
            assert_eq!((now.skipped_count, now.failed_count, now.cancelled_count), (0, 0, 0));
            last = now;
        }
        let total = i64::try_from(COUNT).unwrap();
        assert_eq!(counts(&last), [total, 0, 0, total, 0, 0]);
        let mut times: HashMap<String, usize> = HashMap::new();
        for received in receiver.recv_all(receiver.count() - COUNT).await {
            *times.entry(received.webhook_id().to_owned()).or_default() += 1;
        }
        assert_eq!(times.keys().cloned().collect::<HashSet<_>>(), owed);
        let repeated = times.values().filter(|times| **times > 1).count();
        assert!(repeated <= SENDERS && times.values().all(|times| *times <= 2), "{repeated} came again");
        for id in owed.iter().take(20) {
            let delivery = server.delivery(id).await;
            assert_eq!((delivery.state(), delivery.attempt_count), (State::Delivered, 2));
        }
        server.kill().await;
    }
}

/// Two servers make the steps and the attempts of one replay: each delivery is sent once.
#[tokio::test]
async fn two_servers_share_a_replay() {
    const COUNT: usize = 400;
    let first = Taghook::on(Database::postgres().await).await;
    let second = first.another().await;
    let mut receiver = Receiver::start().await;
    receiver.answer(Answer::status(500));
    let contact = first.contact("ada@example.com").await;
    let webhook = one_attempt(&first, &receiver, 10).await;
    let mut watch = Watch::now(&first.client).await;
    let mut owed = HashSet::new();
    for server in [&first, &second].into_iter().cycle().take(COUNT / 10) {
        owed.extend(server.trigger(&webhook, &contact).await.delivery_ids);
    }
    for _ in 0..COUNT {
        watch.expect(Kind::Exhausted).await;
    }
    receiver.recv_all(COUNT).await;
    receiver.answer(Answer::ok());
    let replay = second.replay(1_000, ReplayFilter::default()).await.unwrap().into_inner();
    let received: HashSet<_> =
        receiver.recv_all(COUNT).await.iter().map(|received| received.webhook_id().to_owned()).collect();
    assert_eq!(received, owed);
    for _ in 0..COUNT {
        within("an outcome", watch.expect(Kind::Delivered)).await;
    }
    let replay = first.replay_now(&replay.id).await;
    let total = i64::try_from(COUNT).unwrap();
    assert_eq!((replay.state(), counts(&replay)), (ReplayState::Completed, [total, 0, 0, total, 0, 0]));
    assert_eq!(receiver.count(), 2 * COUNT);
}
