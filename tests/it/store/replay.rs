//! Steps of replays, where servers meet and commits are lost; and counts that have an end.

use std::time::Duration;

use sea_orm::ConnectionTrait;
use taghook::clock::{Clock, ManualClock};
use taghook::domain::replay::{Replay, ReplayCounts, ReplayFilter, ReplayState};
use taghook::ids::{ReplayId, TypedId};
use taghook::store::replay::{self, Next};
use taghook::store::stats::{self, MAX_BACKLOG, Subject};
use taghook::store::{Store, Tx, extra_attempt};

use super::{START, Server, both, options, postgres};
use crate::support::lost_commit::LostCommit;

/// One delivery for each of so many events of a webhook, after `sql`.
async fn deliveries(server: &Server, count: usize, sql: &'static str) {
    let tag = server.tag("buyer").await;
    let events = (0..count).map(|_| server.event()).collect();
    server.webhook(&[tag], |webhook| webhook.definition.events = events).await;
    server.store.local().close();
    server.assign_one(server.contact("ada").await, tag).await;
    server.store.write("change", |tx: Tx| async move { Ok(tx.db().execute_unprepared(sql).await?) }).await.unwrap();
}

/// They were given up.
const EXHAUSTED: &str = "UPDATE deliveries SET state = 5, due_us = NULL, finished_us = created_us";

async fn begin(server: &Server, rate: u32) -> ReplayId {
    let id = ReplayId::generate(server.store.clock().now(), server.store.entropy());
    let replay = &Replay {
        id,
        workspace_id: server.workspace,
        filter: ReplayFilter::default(),
        rate,
        state: ReplayState::Pending,
        counts: ReplayCounts::default(),
        created: server.store.clock().now(),
        finished: None,
    };
    server.store.write("begin", |tx| async move { replay::insert(&tx, replay).await }).await.unwrap();
    id
}

/// Makes what steps are due; how many attempts there are then.
async fn steps(server: &Server) -> i64 {
    while replay::go_on(&server.store).await.unwrap() == Next::Now {}
    owed(server).await
}

async fn owed(server: &Server) -> i64 {
    let (all, different) =
        ("SELECT count(*) FROM extra_attempts", "SELECT count(DISTINCT delivery_id) FROM extra_attempts");
    let count = server.number(all).await;
    assert_eq!(server.number(different).await, count);
    count
}

/// Takes what is owed for sent, so that it holds nothing up.
async fn settle_all(store: &Store) {
    let settle = |tx: Tx| async move {
        for leased in extra_attempt::claim(&tx, 10_000).await? {
            extra_attempt::delete(&tx, leased.extra_id.unwrap()).await?;
        }
        Ok(())
    };
    store.write("settle", settle).await.unwrap();
}

#[tokio::test]
async fn a_step_has_a_bound_and_the_queue_too() {
    let (_folder, urls) = both().await;
    for url in urls {
        let (clock, hand): (Clock, ManualClock) = Clock::manual(START);
        let server = Server::open(&url, clock).await;
        deliveries(&server, 1_700, EXHAUSTED).await;
        let id = begin(&server, 20).await;
        // A step's worth; then up to ten seconds' worth, as long as nobody sends them.
        let mut seen = vec![steps(&server).await];
        for _ in 0..20 {
            hand.advance(Duration::from_secs(1));
            seen.push(steps(&server).await);
        }
        assert_eq!(seen[..4], [4, 24, 44, 64]);
        assert!(seen.iter().all(|count| *count <= 200 + 20), "{seen:?}");
        assert_eq!(seen[19], seen[20]);
        settle_all(&server.store).await;
        hand.advance(Duration::from_secs(2));
        assert_eq!(steps(&server).await, 20);
        let replay = replay::get(server.store.read(), server.workspace, id).await.unwrap();
        assert_eq!(
            (replay.state, replay.counts.cancelled, replay.counts.pending()),
            (ReplayState::Running, seen[20], 20)
        );
    }
}

/// What was in flight at a cancellation ends by itself; if its server gives the lease up or dies, it is dropped and not
/// sent, and it doesn't keep its delivery for ever.
#[tokio::test]
async fn what_a_cancelled_replay_left_in_flight_is_dropped() {
    let (_folder, urls) = both().await;
    for url in urls {
        let (clock, hand) = Clock::manual(START);
        let server = Server::open(&url, clock).await;
        deliveries(&server, 4, EXHAUSTED).await;
        let id = begin(&server, 1_000).await;
        assert_eq!(steps(&server).await, 4);
        let claim = |tx: Tx| async move { extra_attempt::claim(&tx, 1).await };
        assert_eq!(server.store.write("claim", claim).await.unwrap().len(), 1);
        let workspace = server.workspace;
        let cancel = |tx: Tx| async move {
            tx.gate_exclusive().await?;
            replay::cancel(&tx, workspace, id).await
        };
        server.store.write("cancel", cancel).await.unwrap();
        assert_eq!(steps(&server).await, 1);
        // Nobody knows of the lease any more.
        let release = |tx: Tx| async move { extra_attempt::release_unknown(&tx, &[]).await };
        server.store.write("release", release).await.unwrap();
        assert!(server.store.write("claim", claim).await.unwrap().is_empty());
        hand.advance(Duration::from_secs(10));
        assert_eq!(steps(&server).await, 0);
        let replay = replay::get(server.store.read(), workspace, id).await.unwrap();
        assert_eq!((replay.counts.cancelled, replay.counts.pending()), (4, 0));
        assert_eq!(replay::go_on(&server.store).await.unwrap(), Next::Idle);
    }
}

/// Whoever makes a step, it is made once, whether two make it at once or its commit was lost.
#[tokio::test]
async fn no_delivery_is_taken_by_two_steps() {
    const COUNT: usize = 1_200;
    let url = postgres().await;
    let (proxy, through) = LostCommit::before(&url).await;
    let (clock, hand) = Clock::manual(START);
    let server = Server::open_with(&options(&through, clock.clone())).await;
    deliveries(&server, COUNT, EXHAUSTED).await;
    let other = Server::open(&url, clock).await;
    let id = begin(&server, 1_000).await;
    proxy.arm();
    replay::go_on(&server.store).await.unwrap_err();
    let mut last = owed(&other).await;
    while last < i64::try_from(COUNT).unwrap() {
        hand.advance(Duration::from_millis(200));
        let (here, there) = tokio::join!(steps(&server), steps(&other));
        assert!(here.max(there) > last && here.max(there) - last <= 200, "{last}, {here}, {there}");
        last = here.max(there);
    }
    hand.advance(Duration::from_secs(1));
    assert_eq!(steps(&server).await, last);
    settle_all(&other.store).await;
    let replay = replay::get(server.store.read(), server.workspace, id).await.unwrap();
    assert_eq!((replay.state, replay.counts.matched, replay.counts.cancelled), (ReplayState::Completed, last, last));
}

/// What doesn't match is passed over in steps that use nothing of the rate.
#[tokio::test]
async fn what_does_not_match_is_passed_over_at_once() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::manual(START).0).await;
        deliveries(&server, 2_300, "UPDATE deliveries SET state = 4, due_us = NULL, finished_us = created_us").await;
        let id = begin(&server, 1).await;
        assert_eq!(steps(&server).await, 0);
        let replay = replay::get(server.store.read(), server.workspace, id).await.unwrap();
        assert_eq!((replay.state, replay.counts), (ReplayState::Completed, ReplayCounts::default()));
        assert_eq!(replay::go_on(&server.store).await.unwrap(), Next::Idle);
    }
}

/// More attempts than one transaction drops: none is claimed after the cancellation, and the counts come to be right.
#[tokio::test]
async fn a_cancellation_of_many_counts_all() {
    let (_folder, urls) = both().await;
    for url in urls {
        let (clock, hand) = Clock::manual(START);
        let server = Server::open(&url, clock).await;
        deliveries(&server, 1_500, EXHAUSTED).await;
        let id = begin(&server, 1_000).await;
        while steps(&server).await < 1_500 {
            hand.advance(Duration::from_millis(500));
        }
        let workspace = server.workspace;
        let cancel = |tx: Tx| async move {
            tx.gate_exclusive().await?;
            replay::cancel(&tx, workspace, id).await
        };
        let cancelled = server.store.write("cancel", cancel).await.unwrap();
        assert_eq!((cancelled.counts.cancelled, cancelled.counts.pending()), (500, 1_000));
        let claim = |tx: Tx| async move { extra_attempt::claim(&tx, 10).await };
        assert!(server.store.write("claim", claim).await.unwrap().is_empty());
        assert_eq!(steps(&server).await, 0);
        let replay = replay::get(server.store.read(), server.workspace, id).await.unwrap();
        assert_eq!(
            (replay.state, replay.counts.cancelled, replay.counts.pending()),
            (ReplayState::Cancelled, 1_500, 0)
        );
        assert_eq!(replay::go_on(&server.store).await.unwrap(), Next::Idle);
    }
}

#[tokio::test]
async fn the_counting_of_a_backlog_has_an_end() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::manual(START).0).await;
        let many = usize::try_from(MAX_BACKLOG).unwrap();
        deliveries(&server, many + 5, "UPDATE deliveries SET due_us = due_us - 7").await;
        let whole = Subject { workspace_id: server.workspace, webhook_id: None };
        let backlog = stats::backlog(server.store.read(), whole, START).await.unwrap();
        assert!(backlog.is_capped && backlog.due == MAX_BACKLOG, "{backlog:?}");
        assert_eq!(backlog.oldest_due, Some(taghook::domain::time::Micros(START.0 - 7)));
    }
}

/// One that can't go on, since its workspace or its row is damaged, keeps no other from its steps.
#[tokio::test]
async fn a_replay_that_can_not_go_on_holds_up_no_other() {
    let (_folder, urls) = both().await;
    for url in urls {
        let (clock, hand) = Clock::manual(START);
        let server = Server::open(&url, clock).await;
        deliveries(&server, 3, EXHAUSTED).await;
        for damage in ["filter = '?'", "workspace_id = id"] {
            let id = server.literal(begin(&server, 50).await.0);
            let sql = &format!("UPDATE replays SET {damage}, next_us = 0 WHERE id = {id}");
            let harm = |tx: Tx| async move { Ok(tx.db().execute_unprepared(sql).await?) };
            server.store.write("harm", harm).await.unwrap();
        }
        let good = begin(&server, 50).await;
        let mut failures = 0;
        while owed(&server).await < 3 {
            failures += i64::from(replay::go_on(&server.store).await.is_err());
        }
        assert_eq!(failures, 1);
        settle_all(&server.store).await;
        let replay = replay::get(server.store.read(), server.workspace, good).await.unwrap();
        assert_eq!(replay.counts.cancelled, 3);
        // The damaged row is looked at again a minute later.
        hand.advance(Duration::from_secs(61));
        replay::go_on(&server.store).await.unwrap_err();
    }
}
