//! Endpoints with very much that waits, and what becomes of it.

use std::time::Duration;

use sea_orm::ConnectionTrait;
use taghook::ids::WebhookId;
use taghook_client::v1::delivery::State;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::{DeliveryReason, Webhook};
use tokio::time::Instant;

use super::{Healthy, fire, until_in, webhook};
use crate::support::{Answer, Database, Gate, Receiver, Taghook, Watch, both, delays, seconds, silent_port, within};

/// More of a delivery that waits: copies of its row, in the common queue (0) or in its lane (1). No caller could make so
/// many in the time of a test.
pub(super) async fn clone_waiting(t: &Taghook, id: &str, count: usize, lane: i64) {
    let id: taghook::ids::DeliveryId = id.parse().unwrap();
    let (new_id, of) = if t.database().is_postgres() {
        ("gen_random_uuid()", format!("'{}'", id.0))
    } else {
        ("randomblob(16)", format!("x'{}'", id.0.simple()))
    };
    let sql = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
         INSERT INTO deliveries (id, workspace_id, webhook_id, webhook_event_id, contact_id, source, state, reason, tag_ids, \
         trigger_us, due_us, snapshot, causation_depth, created_us, lane, order_no) \
         SELECT {new_id}, workspace_id, webhook_id, webhook_event_id, contact_id, source, 2, 0, tag_ids, trigger_us, \
         trigger_us - 1, snapshot, causation_depth, created_us, {lane}, order_no + i FROM deliveries, n WHERE id = {of}"
    );
    let sql = &sql;
    let insert = |tx: taghook::store::Tx| async move {
        tx.announce_work();
        Ok(tx.db().execute_unprepared(sql).await?.rows_affected())
    };
    assert_eq!(t.store().write("clone", insert).await.unwrap(), u64::try_from(count).unwrap());
}

/// Tells the server of rows in a lane that it didn't make.
pub(super) fn all_know(t: &Taghook, webhook: &Webhook) {
    let id: WebhookId = webhook.id.parse().unwrap();
    t.store().local().endpoints().note_rows(id, t.store().facts().default_workspace);
}

/// Ends a server whose requests hang at a gate, as if it had died, and starts another one. What hangs would keep the
/// database's file.
async fn crash(t: Taghook, gate: &Gate) -> Taghook {
    let (t, ()) = tokio::join!(t.crash(), async { gate.open() });
    t
}

/// Waits until all that waits of a webhook is in its lane.
async fn all_in_lane(t: &Taghook) {
    let sql = "SELECT count(*) AS n FROM deliveries WHERE state = 2 AND lane = 0 AND lease_owner IS NULL";
    let met = async {
        loop {
            let statement = sea_orm::Statement::from_string(t.store().read().get_database_backend(), sql);
            let row = t.store().read().query_one_raw(statement).await.unwrap().unwrap();
            if row.try_get::<i64>("", "n").unwrap() == 0 {
                return;
            }
        }
    };
    crate::support::within("all in lanes", met).await;
}

/// Sends to a healthy endpoint ten times over. The time is a third of that after which an endpoint that never answers lets
/// go of a sender.
async fn is_served_soon(healthy: &mut Healthy, t: &Taghook) {
    let began = Instant::now();
    for _ in 0..10 {
        healthy.is_served(t).await;
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "others were waited for: {took:?}");
}

both! {
    /// A dead endpoint, one that never answers and one with a rate, each with thousands that wait, and few senders: a
    /// healthy one is served at once.
    async fn nobody_waits_for_an_endpoint_that_is_stuck(database: Database) {
        let mut settings = database.settings();
        settings.config.dispatch.senders = 8;
        let t = Taghook::start(database, settings).await;
        let (mut stuck, mut slow) = (Receiver::start().await, Receiver::start().await);
        let gate = Gate::closed();
        stuck.answer(Answer::ok().behind(&gate));
        let nobody = silent_port();
        let contact = t.contact("ada@example.com").await;
        let stuck_webhook = webhook(&t, &stuck, |webhook| webhook.timeout = seconds(30)).await;
        let slow_webhook = webhook(&t, &slow, |webhook| webhook.rate_limit = 0.001).await;
        let tag = t.tag("dead").await;
        let dead_webhook = t
            .webhook(&stuck, &tag, |webhook| webhook.url = format!("http://{}/", nobody.local_addr().unwrap()))
            .await;
        for (webhook, count) in [(&stuck_webhook, 10), (&slow_webhook, 2), (&dead_webhook, 12)] {
            let ids = fire(&t, webhook, &contact, count).await;
            clone_waiting(&t, &ids[count - 1], 3_000, 0).await;
        }
        stuck.recv().await;
        slow.recv().await;
        let mut healthy = Healthy::new(&t).await;
        is_served_soon(&mut healthy, &t).await;
        // Claims have moved what they met, and don't meet it again.
        all_in_lane(&t).await;
        is_served_soon(&mut healthy, &t).await;
        // About half of the senders, and always some for others.
        assert!((1..=6).contains(&stuck.peak()), "{}", stuck.peak());
        assert_eq!(slow.count(), 1);

        // A server that starts finds it so.
        until_in(&t, &healthy.webhook, State::Delivered, 60).await;
        stuck.answer(Answer::ok().behind(&Gate::closed()));
        let t = crash(t, &gate).await;
        is_served_soon(&mut healthy, &t).await;
        assert!(count_in_lanes(&t).await >= 9_000);
    }

    /// What waits in lanes when the server dies is sent by the next one.
    async fn a_restart_loses_nothing_that_waits(database: Database) {
        let settings = database.settings();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        let gate = Gate::closed();
        receiver.answer(Answer::ok().behind(&gate));
        let webhook = webhook(&t, &receiver, |webhook| webhook.max_concurrency = 2).await;
        let contact = t.contact("ada@example.com").await;
        let mut ids = fire(&t, &webhook, &contact, 40).await;
        receiver.recv_all(2).await;
        receiver.answer(Answer::ok());
        let t = crash(t, &gate).await;
        until_in(&t, &webhook, State::Delivered, 40).await;
        let mut sent: Vec<_> = receiver.recv_all(40).await.iter().map(|it| it.webhook_id().to_owned()).collect();
        sent.sort();
        ids.sort();
        assert_eq!(sent, ids);
        assert_eq!(receiver.count(), 42);
    }

    /// What was due at once by a clock that was ahead is due when that is set back, not when it is that time again. A retry
    /// keeps its time.
    async fn a_clock_that_is_set_back_keeps_nothing_waiting(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let contact = t.contact("ada@example.com").await;
        let mut failing = Receiver::start().await;
        failing.answer_next([Answer::status(500)]);
        let retried = webhook(&t, &failing, |webhook| webhook.retry_policy = delays(&[60])).await;
        let mut watch = Watch::now(&t.client).await;
        fire(&t, &retried, &contact, 1).await;
        failing.recv().await;
        watch.expect(Kind::AttemptFailed).await;

        let mut receiver = Receiver::start().await;
        let gate = Gate::closed();
        receiver.answer(Answer::ok().behind(&gate));
        let webhook = webhook(&t, &receiver, |webhook| webhook.max_concurrency = 1).await;
        fire(&t, &webhook, &contact, 4).await;
        receiver.recv().await;
        let all_wait = async {
            while count_in_lanes(&t).await != 3 {
                tokio::task::yield_now().await;
            }
        };
        within("3 deliveries in the lane", all_wait).await;
        clock.set_back(Duration::from_hours(1));
        gate.open();
        receiver.recv_all(3).await;
        until_in(&t, &webhook, State::Delivered, 4).await;
        assert_eq!((receiver.count(), failing.count()), (4, 1));
    }

    async fn a_pause_holds_what_waits_in_a_lane_and_the_resume_sends_it(t: Taghook) {
        let (mut receiver, mut healthy) = (Receiver::start().await, Healthy::new(&t).await);
        let gate = Gate::closed();
        receiver.answer(Answer::ok().behind(&gate));
        let webhook = webhook(&t, &receiver, |webhook| webhook.max_concurrency = 1).await;
        let contact = t.contact("ada@example.com").await;
        fire(&t, &webhook, &contact, 10).await;
        receiver.recv().await;
        t.pause(&webhook).await;
        gate.open();
        until_in(&t, &webhook, State::Delivered, 1).await;
        healthy.is_served(&t).await;
        until_in(&t, &webhook, State::Waiting, 9).await;
        assert_eq!(receiver.count(), 1);
        t.resume(&webhook).await;
        until_in(&t, &webhook, State::Delivered, 10).await;
        assert_eq!((receiver.count(), receiver.peak()), (10, 1));
    }

    async fn what_waits_in_a_lane_can_be_cancelled_and_goes_with_its_webhook(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let gate = Gate::closed();
        receiver.answer(Answer::ok().behind(&gate));
        let webhook = webhook(&t, &receiver, |webhook| webhook.max_concurrency = 1).await;
        let contact = t.contact("ada@example.com").await;
        let ids = fire(&t, &webhook, &contact, 4).await;
        receiver.recv().await;
        until_in(&t, &webhook, State::Waiting, 3).await;
        let cancelled = t.cancel(&ids[1]).await.unwrap().into_inner();
        assert_eq!((cancelled.state(), cancelled.reason()), (State::Cancelled, DeliveryReason::CancelledByCaller));
        gate.open();
        let sent: Vec<_> = receiver.recv_all(2).await.iter().map(|it| it.webhook_id().to_owned()).collect();
        assert_eq!(sent, ids[2..]);
        until_in(&t, &webhook, State::Delivered, 3).await;

        let gate = Gate::closed();
        receiver.answer(Answer::ok().behind(&gate));
        let ids = fire(&t, &webhook, &contact, 4).await;
        receiver.recv().await;
        until_in(&t, &webhook, State::Waiting, 3).await;
        t.delete_webhook(&webhook).await;
        gate.open();
        for id in &ids[1..] {
            let delivery = t.delivery(id).await;
            assert_eq!((delivery.state(), delivery.reason()), (State::Cancelled, DeliveryReason::WebhookDeleted));
        }
        let mut healthy = Healthy::new(&t).await;
        healthy.is_served(&t).await;
        assert_eq!(receiver.count(), 4);
    }
}

async fn count_in_lanes(t: &Taghook) -> i64 {
    let sql = "SELECT count(*) AS n FROM deliveries WHERE state = 2 AND lane = 1";
    let statement = sea_orm::Statement::from_string(t.store().read().get_database_backend(), sql);
    let row = t.store().read().query_one_raw(statement).await.unwrap().unwrap();
    row.try_get("", "n").unwrap()
}
