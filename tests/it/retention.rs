//! Retention: what is old goes, and nothing that is owed does.

use std::time::Duration;

use taghook::store::retention::{self, Walk};
use taghook_client::v1::StreamOutcomesRequest;
use taghook_client::v1::attempt::Cause;
use taghook_client::v1::delivery::State;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::stream_outcomes_request::Position;
use taghook_client::v1::{Contact, DeliveryReason, ErrorReason, GetDeliveryRequest, ReplayFilter, Webhook};
use taghook_client::{Code, Start};

use crate::support::{Answer, Database, Hand, Receiver, Taghook, Watch, both, check_error, delays};

const DAY: Duration = Duration::from_hours(24);

struct Scene {
    t: Taghook,
    clock: Hand,
    receiver: Receiver,
    contact: Contact,
    webhook: Webhook,
    watch: Watch,
}

impl Scene {
    async fn set(database: Database, delays_s: &[i64]) -> Self {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |webhook| webhook.retry_policy = delays(delays_s)).await;
        let watch = Watch::now(&t.client).await;
        Self { t, clock, receiver, contact, webhook, watch }
    }

    /// A delivery whose first attempt was answered so.
    async fn tried(&mut self, answer: Answer, kind: Kind) -> String {
        self.receiver.answer_next([answer]);
        let id = self.t.trigger(&self.webhook, &self.contact).await.delivery_ids.remove(0);
        self.receiver.recv().await;
        assert_eq!(self.watch.expect(kind).await.delivery_id, id);
        id
    }

    /// All steps for rows that are older than so many days; how many deliveries were removed.
    async fn retain(&self, attempts: u32, deliveries: u32) -> usize {
        let (store, attempts, deliveries) = (self.t.store(), attempts * DAY, deliveries * DAY);
        retention::outcomes(store, attempts).await.unwrap();
        let removed = retention::deliveries(store, deliveries, Walk::default()).await.unwrap().0;
        retention::held_deliveries(store, deliveries).await.unwrap();
        retention::held_attempts(store, deliveries).await.unwrap();
        retention::requests(store).await.unwrap();
        removed
    }

    async fn is_gone(&self, id: &str) {
        let request = GetDeliveryRequest { id: id.into() };
        check_error(self.t.client.deliveries().get_delivery(request).await, Code::NotFound, ErrorReason::NotFound);
    }
}

both! {
    /// However old it is: it is owed, and its attempts of the last 30 days are there.
    async fn a_live_delivery_stays_with_its_attempts(database: Database) {
        let week = 7 * 86_400;
        let mut s = Scene::set(database, &[week; 20]).await;
        let finished = s.tried(Answer::ok(), Kind::Delivered).await;
        let live = s.tried(Answer::status(500), Kind::AttemptFailed).await;
        // Without successes the webhook would be disabled after five days.
        s.tried(Answer::ok(), Kind::Delivered).await;
        s.receiver.answer(Answer::status(500));
        let mut count = 1;
        while count < 15 {
            let due = s.t.delivery(&live).await.next_attempt_time.unwrap();
            s.clock.advance_to(due);
            s.receiver.recv().await;
            s.watch.expect(Kind::AttemptFailed).await;
            s.tried(Answer::ok(), Kind::Delivered).await;
            count += 1;
        }
        // About 14 weeks old.
        assert!(s.retain(30, 90).await > 0);
        s.is_gone(&finished).await;
        let delivery = s.t.delivery(&live).await;
        assert_eq!((delivery.state(), delivery.attempt_count), (State::Waiting, 15));
        assert!(!delivery.parameters.is_empty());
        let numbers: Vec<_> = s.t.attempts(&live).await.iter().map(|attempt| attempt.number).collect();
        assert!((4..=6).contains(&numbers.len()) && numbers.ends_with(&[13, 14, 15]), "{numbers:?}");
        // It goes on as if nothing had been.
        s.receiver.answer(Answer::ok());
        s.clock.advance_to(delivery.next_attempt_time.unwrap());
        assert_eq!(s.receiver.recv().await.webhook_id(), live);
        s.watch.expect(Kind::Delivered).await;
        // 90 days after its end, and not before.
        s.clock.advance(90 * DAY);
        s.retain(30, 90).await;
        assert_eq!(s.t.delivery(&live).await.state(), State::Delivered);
        s.clock.advance(Duration::from_millis(1));
        s.retain(30, 90).await;
        s.is_gone(&live).await;
    }

    /// A delivery that an attempt is owed for, by hand or by a replay, stays until it was made.
    async fn what_is_asked_for_again_stays(database: Database) {
        let mut s = Scene::set(database, &[]).await;
        let by_hand = s.tried(Answer::ok(), Kind::Delivered).await;
        let replayed = s.tried(Answer::status(500), Kind::Exhausted).await;
        s.clock.advance(91 * DAY);
        s.t.pause(&s.webhook).await;
        s.watch.expect(Kind::WebhookPaused).await;
        let begun = s.t.replay(0, ReplayFilter::default()).await.unwrap().into_inner();
        s.t.replay_until(&begun.id, |replay| replay.pending_count == 1).await;
        assert_eq!(s.retain(30, 90).await, 1);
        s.is_gone(&by_hand).await;
        assert_eq!(s.t.delivery(&replayed).await.state(), State::Exhausted);
        s.t.resume(&s.webhook).await;
        s.watch.expect(Kind::WebhookResumed).await;
        assert_eq!(s.receiver.recv().await.webhook_id(), replayed);
        let outcome = s.watch.expect(Kind::Delivered).await;
        assert_eq!(outcome.attempt.unwrap().cause(), Cause::Replay);
        assert_eq!(s.retain(30, 90).await, 1);
        s.is_gone(&replayed).await;
        assert_eq!(s.t.replay_now(&begun.id).await.delivered_count, 1);
    }

    /// What a disabled webhook holds ends at retention; what a paused one holds doesn't: people decide.
    async fn what_a_disabled_webhook_holds_ends(database: Database) {
        let mut s = Scene::set(database, &[60]).await;
        let done = s.tried(Answer::ok(), Kind::Delivered).await;
        let held = s.tried(Answer::status(500), Kind::AttemptFailed).await;
        let paused = s.t.webhook(&s.receiver, &s.t.tag("paused").await, |webhook| webhook.retry_policy = delays(&[60])).await;
        s.receiver.answer_next([Answer::status(500)]);
        let kept = s.t.trigger(&paused, &s.contact).await.delivery_ids.remove(0);
        s.receiver.recv().await;
        s.watch.expect(Kind::AttemptFailed).await;
        s.t.pause(&paused).await;
        s.watch.expect(Kind::WebhookPaused).await;
        // The endpoint goes with what else was asked for.
        let delivered = taghook_client::v1::ReplayFilter {
            webhook_ids: vec![s.webhook.id.clone()],
            states: vec![State::Delivered.into()],
            ..Default::default()
        };
        s.receiver.answer_next([Answer::status(410)]);
        let begun = s.t.replay(1, delivered).await.unwrap().into_inner();
        assert_eq!(s.receiver.recv().await.webhook_id(), done);
        s.watch.expect(Kind::AttemptFailed).await;
        s.watch.expect(Kind::WebhookDisabled).await;
        s.t.replay_until(&begun.id, |replay| replay.failed_count == 1).await;
        let more = s.t.replay(1, ReplayFilter { states: vec![State::Delivered.into()], ..Default::default() }).await;
        let more = more.unwrap().into_inner();
        s.t.replay_until(&more.id, |replay| replay.pending_count == 1).await;
        s.clock.advance(Duration::from_mins(2));
        // Until both are put aside.
        let is_held = async |webhook: &Webhook| {
            let request = taghook_client::v1::GetDeliveryStatsRequest { webhook_id: webhook.id.clone(), ..Default::default() };
            let stats = s.t.client.deliveries().get_delivery_stats(request).await.unwrap().into_inner();
            stats.backlog.unwrap().held_count == 1
        };
        crate::store::until(async || is_held(&s.webhook).await && is_held(&paused).await).await;
        s.clock.advance(89 * DAY);
        s.retain(30, 90).await;
        assert_eq!(s.t.delivery(&held).await.state(), State::Waiting);
        assert_eq!(s.t.replay_now(&more.id).await.pending_count, 1);
        s.clock.advance(2 * DAY);
        s.retain(30, 90).await;
        let ended = s.t.delivery(&held).await;
        assert_eq!((ended.state(), ended.reason()), (State::Cancelled, DeliveryReason::Retention));
        assert_eq!(s.watch.expect(Kind::Cancelled).await.delivery_id, held);
        assert_eq!(s.t.replay_now(&more.id).await.cancelled_count, 1);
        assert_eq!(s.t.delivery(&kept).await.state(), State::Waiting);
    }

    /// The log's beginning moves with what was removed, and never back.
    async fn the_log_begins_where_retention_has_come(database: Database) {
        let mut s = Scene::set(database, &[]).await;
        let mut cursors = Vec::new();
        for _ in 0..4 {
            s.tried(Answer::ok(), Kind::Delivered).await;
            cursors.push(s.watch.cursor().to_owned());
            s.clock.advance(DAY);
        }
        let store = s.t.store();
        assert_eq!(retention::outcomes(store, 2 * DAY).await.unwrap(), 2);
        assert_eq!(retention::outcomes(store, 3 * DAY).await.unwrap(), 0);
        let request = StreamOutcomesRequest { position: Some(Position::AfterCursor(cursors[0].clone())), ..Default::default() };
        let refused = s.t.client.deliveries().stream_outcomes(request).await;
        let Err(status) = refused else { panic!("a cursor below the log") };
        let error = taghook_client::Error::from(status);
        assert_eq!((error.code, error.reason), (Code::OutOfRange, ErrorReason::CursorExpired));
        assert_eq!(error.metadata["oldest_cursor"], cursors[1]);
        let mut watch = Watch::with(&s.t.client, Default::default(), Start::After(cursors[1].clone())).await;
        assert_eq!(watch.entry().await.cursor, cursors[2]);
    }
}
