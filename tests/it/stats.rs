//! GetDeliveryStats: what is counted, for whom, and what is owed.

use std::time::Duration;

use prost_types::Timestamp;
use taghook::store;
use taghook_client::Code;
use taghook_client::v1::delivery::State;
use taghook_client::v1::delivery_stats::{Backlog, Figures, Percentiles};
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::webhook::CooldownPolicy;
use taghook_client::v1::{DeliveryStats, ErrorReason, GetDeliveryStatsRequest, Webhook};

use crate::support::{
    Answer, Api, Database, Fence, FromDatabase, Gate, Receiver, Taghook, Watch, both, check_error, check_invalid,
    delays, seconds,
};

const QUARTER: Duration = Duration::from_mins(15);
const DAY: Duration = Duration::from_hours(24);
/// 2026-01-01T00:00:00Z, where manual clocks begin.
const START_S: i64 = 1_767_225_600;

async fn stats(api: &Api, request: GetDeliveryStatsRequest) -> DeliveryStats {
    api.client.deliveries().get_delivery_stats(request).await.expect("stats").into_inner()
}

async fn of(api: &Api, webhook: &Webhook) -> DeliveryStats {
    stats(api, GetDeliveryStatsRequest { webhook_id: webhook.id.clone(), ..Default::default() }).await
}

async fn of_all(api: &Api) -> DeliveryStats {
    stats(api, GetDeliveryStatsRequest::default()).await
}

/// Delivered, failed, exhausted, suppressed, skipped, deferred, cancelled.
fn kinds(figures: &Figures) -> [i64; 7] {
    [
        figures.delivered_count,
        figures.attempt_failed_count,
        figures.exhausted_count,
        figures.suppressed_count,
        figures.skipped_count,
        figures.deferred_count,
        figures.cancelled_count,
    ]
}

fn total(stats: &DeliveryStats) -> &Figures {
    stats.total.as_ref().expect("the total")
}

fn time(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

/// Checks percentiles against seconds, within 10 percent.
#[track_caller]
fn check_percentiles(percentiles: Option<&Percentiles>, count: i64, p50: f64, p99: f64) {
    let percentiles = percentiles.expect("percentiles");
    assert_eq!(percentiles.count, count);
    for (told, expected) in [(&percentiles.p50, p50), (&percentiles.p99, p99)] {
        let told = told.as_ref().expect("a percentile");
        let told = f64::from(i32::try_from(told.seconds).unwrap()) + f64::from(told.nanos) / 1e9;
        assert!((0.9..=1.1).contains(&(told / expected)), "{told} s instead of {expected} s");
    }
}

both! {
    async fn every_outcome_is_counted_for_its_webhook_and_the_workspace(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let receiver = Receiver::start().await;
        let (ada, bob) = (t.contact("ada@example.com").await, t.contact("bob@example.com").await);
        let (tag, other_tag) = (t.tag("customer").await, t.tag("other").await);
        let webhook = t.webhook(&receiver, &tag, |webhook| webhook.retry_policy = delays(&[60])).await;
        let defer = |webhook: &mut Webhook| webhook.cooldown_policy = CooldownPolicy::Defer.into();
        let other = t.webhook(&receiver, &other_tag, defer).await;
        let mut watch = Watch::now(&t.client).await;

        // Fails, and is delivered by the retry a minute later.
        receiver.answer_next([Answer::status(500)]);
        t.decide(&ada, &tag).await;
        let failed = watch.expect(Kind::AttemptFailed).await;
        t.decide(&ada, &tag).await;
        watch.expect(Kind::Suppressed).await;
        // The schedule's delay, with its jitter.
        let retry = failed.next_attempt_time.unwrap();
        let latency_s = f64::from(i32::try_from(retry.seconds - START_S).unwrap()) + f64::from(retry.nanos) / 1e9;
        clock.advance_to(retry);
        watch.expect(Kind::Delivered).await;
        // Fails twice.
        receiver.answer_next([Answer::status(500), Answer::status(500)]);
        let id = t.trigger(&webhook, &bob).await.delivery_ids.remove(0);
        let failed = watch.expect(Kind::AttemptFailed).await;
        clock.advance_to(failed.next_attempt_time.unwrap());
        watch.expect(Kind::Exhausted).await;
        // A retry by hand counts as an attempt, and not in the latency.
        t.retry(&id).await.unwrap();
        watch.expect(Kind::Delivered).await;
        t.pause(&webhook).await;
        watch.expect(Kind::WebhookPaused).await;
        t.trigger(&webhook, &bob).await;
        watch.expect(Kind::Skipped).await;
        // A test says nothing.
        t.test(&webhook, &ada).await;
        watch.expect(Kind::Delivered).await;
        t.decide(&ada, &other_tag).await;
        watch.expect(Kind::Delivered).await;
        let deferred = t.decide(&ada, &other_tag).await;
        watch.expect(Kind::Deferred).await;
        t.cancel(&deferred.delivery_ids[0]).await.unwrap();
        watch.expect(Kind::Cancelled).await;

        let (here, there, all) = (of(&t, &webhook).await, of(&t, &other).await, of_all(&t).await);
        assert_eq!(kinds(total(&here)), [2, 2, 1, 1, 1, 0, 0]);
        assert_eq!(kinds(total(&there)), [1, 0, 0, 0, 0, 1, 1]);
        assert_eq!(kinds(total(&all)), [3, 2, 1, 1, 1, 1, 1]);
        assert_eq!(total(&here).attempt_duration.as_ref().unwrap().count, 5);
        assert_eq!(total(&all).attempt_duration.as_ref().unwrap().count, 6);
        assert!(total(&here).attempt_duration.as_ref().unwrap().p50.is_some());
        check_percentiles(total(&here).delivery_latency.as_ref(), 1, latency_s, latency_s);
        assert_eq!(total(&all).delivery_latency.as_ref().unwrap().count, 2);
        assert!(here.buckets.is_empty());
        // 24 hours that end with the present quarter of an hour.
        assert_eq!((here.start_time, here.end_time), (time(START_S + 900 - 86_400), time(START_S + 900)));

        // It doesn't hang on the server's memory, and a deleted webhook still counts for the workspace.
        let t = t.crash().await;
        assert_eq!(of(&t, &webhook).await, here);
        t.delete_webhook(&other).await;
        let request = GetDeliveryStatsRequest { webhook_id: other.id.clone(), ..Default::default() };
        let refused = t.client.deliveries().get_delivery_stats(request).await;
        check_error(refused, Code::NotFound, ErrorReason::NotFound);
        assert_eq!(kinds(total(&of_all(&t).await)), [3, 2, 1, 1, 1, 1, 1]);
    }

    async fn a_window_has_parts(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let webhook = t.webhook(&receiver, &t.tag("customer").await, |_| {}).await;
        let mut watch = Watch::now(&t.client).await;
        // 1, 2, 0 and 3 in four quarters of an hour.
        for count in [1, 2, 0, 3] {
            for _ in 0..count {
                t.trigger(&webhook, &contact).await;
                watch.expect(Kind::Delivered).await;
            }
            clock.advance(QUARTER);
        }
        let ask = async |start: i64, end: i64, bucket: i64| {
            let request = GetDeliveryStatsRequest {
                webhook_id: webhook.id.clone(),
                start_time: time(START_S + start),
                end_time: time(START_S + end),
                bucket: seconds(bucket),
            };
            let stats = stats(&t, request).await;
            let of = |figures: &Figures| figures.delivered_count;
            let parts: Vec<_> = stats.buckets.iter().map(|bucket| of(bucket.figures.as_ref().unwrap())).collect();
            let starts: Vec<_> = stats.buckets.iter().map(|bucket| bucket.start_time.unwrap().seconds - START_S).collect();
            (of(total(&stats)), parts, starts)
        };
        assert_eq!(ask(0, 3_600, 900).await, (6, vec![1, 2, 0, 3], vec![0, 900, 1_800, 2_700]));
        // Rounded outwards.
        assert_eq!(ask(901, 2_701, 900).await, (5, vec![2, 0, 3], vec![900, 1_800, 2_700]));
        // The last part is shorter.
        assert_eq!(ask(900, 3_600, 1_800).await, (5, vec![2, 3], vec![900, 2_700]));
        assert_eq!(ask(-1_800, 0, 1_800).await, (0, vec![0], vec![-1_800]));
        let day = ask(-86_400, 86_400, 86_400).await;
        assert_eq!(day, (6, vec![0, 6], vec![-86_400, 0]));
    }

    async fn windows_that_are_none_are_refused(t: Taghook) {
        let ask = async |start: i64, end: i64, bucket: Option<i64>| {
            let request = GetDeliveryStatsRequest {
                start_time: time(START_S + start),
                end_time: time(START_S + end),
                bucket: bucket.and_then(seconds),
                ..Default::default()
            };
            t.client.deliveries().get_delivery_stats(request).await
        };
        check_invalid(ask(900, 900, None).await, &["end_time"]);
        check_invalid(ask(900, 0, None).await, &["end_time"]);
        check_invalid(ask(0, 31 * 86_400 + 1, None).await, &["end_time"]);
        check_invalid(ask(0, 86_400, Some(1_000)).await, &["bucket"]);
        check_invalid(ask(0, 86_400, Some(899)).await, &["bucket"]);
        check_invalid(ask(0, 11 * 86_400, Some(900)).await, &["bucket"]);
        check_invalid(ask(0, 86_400, Some(32 * 86_400)).await, &["bucket"]);
        ask(0, 31 * 86_400, Some(3_600)).await.expect("the most");
        let request = GetDeliveryStatsRequest { webhook_id: "wh_1".into(), ..Default::default() };
        check_invalid(t.client.deliveries().get_delivery_stats(request).await, &["webhook_id"]);
    }

    async fn the_backlog_is_what_is_owed_now(database: Database) {
        let mut settings = database.settings();
        settings.config.dispatch.senders = 1;
        let (settings, clock) = settings.with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let webhook = t.webhook(&receiver, &t.tag("customer").await, |webhook| webhook.retry_policy = delays(&[3_600])).await;
        let other = t.webhook(&receiver, &t.tag("other").await, |_| {}).await;
        let mut watch = Watch::now(&t.client).await;
        let nothing = Backlog::default();
        assert_eq!(of(&t, &webhook).await.backlog, Some(nothing));
        receiver.answer_next([Answer::status(500)]);
        t.trigger(&webhook, &contact).await;
        receiver.recv().await;
        watch.expect(Kind::AttemptFailed).await;
        // One is being sent, one waits for the sender.
        let gate = Gate::closed();
        receiver.answer(Answer::ok().behind(&gate));
        clock.advance(Duration::from_secs(5));
        t.trigger(&webhook, &contact).await;
        receiver.recv().await;
        clock.advance(Duration::from_secs(5));
        let waiting = t.trigger(&webhook, &contact).await.delivery_ids.remove(0);
        t.trigger(&other, &contact).await;
        clock.advance(Duration::from_secs(5));
        let delivery = t.delivery(&waiting).await;
        assert_eq!((delivery.state(), delivery.next_attempt_time), (State::Waiting, None));
        let expected = Backlog { due_count: 2, later_count: 1, oldest_due_time: time(START_S + 5), ..nothing };
        assert_eq!(of(&t, &webhook).await.backlog, Some(expected));
        let all = Backlog { due_count: 3, ..expected };
        assert_eq!(of_all(&t).await.backlog, Some(all));
        t.pause(&webhook).await;
        watch.expect(Kind::WebhookPaused).await;
        gate.open();
        for _ in 0..2 {
            watch.expect(Kind::Delivered).await;
        }
        let fence = Fence::raise(&t).await;
        clock.advance(Fence::DELAY);
        fence.passed().await;
        // The one that became due was put aside, the other one will be.
        let expected = Backlog { held_count: 1, later_count: 1, ..nothing };
        assert_eq!(of(&t, &webhook).await.backlog, Some(expected));
        assert_eq!(of(&t, &other).await.backlog, Some(nothing));
    }

    async fn old_counts_go(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let webhook = t.webhook(&receiver, &t.tag("customer").await, |_| {}).await;
        let mut watch = Watch::now(&t.client).await;
        for _ in 0..2 {
            t.trigger(&webhook, &contact).await;
            watch.expect(Kind::Delivered).await;
            clock.advance(10 * DAY);
        }
        let window = GetDeliveryStatsRequest { start_time: time(START_S), ..Default::default() };
        assert_eq!(total(&stats(&t, window.clone()).await).delivered_count, 2);
        assert_eq!(store::retention::stats(t.store(), 20 * DAY).await.unwrap(), 0);
        // The kind, the duration and the latency, for the webhook and for the workspace.
        assert_eq!(store::retention::stats(t.store(), 19 * DAY).await.unwrap(), 6);
        assert_eq!(total(&stats(&t, window).await).delivered_count, 1);
    }
}

/// The counts of all servers are one.
#[tokio::test]
async fn servers_count_together() {
    let first = Taghook::on(Database::postgres().await).await;
    let second = first.another().await;
    let receiver = Receiver::start().await;
    let contact = first.contact("ada@example.com").await;
    let webhook = first.webhook(&receiver, &first.tag("customer").await, |_| {}).await;
    let mut watch = Watch::now(&first.client).await;
    let triggers = (0..100).map(|index| {
        let api = if index % 2 == 0 { &first } else { &second };
        api.trigger(&webhook, &contact)
    });
    futures_util::future::join_all(triggers).await;
    for _ in 0..100 {
        watch.expect(Kind::Delivered).await;
    }
    for server in [&first, &second] {
        assert_eq!(kinds(total(&of(server, &webhook).await)), [100, 0, 0, 0, 0, 0, 0]);
        assert_eq!(total(&of_all(server).await).delivery_latency.as_ref().unwrap().count, 100);
    }
}
