//! Who holds what.

use std::time::Duration;

use taghook::clock::Clock;
use taghook::dispatch::Dispatcher;
use taghook::dispatch::egress::EgressPolicy;
use taghook::dispatch::send::{Sender, SenderSettings};
use taghook::store::delivery::queue::{self, Look};
use taghook::store::extra_attempt;
use taghook::store::heartbeat::{self, HEARTBEAT_LIMIT, Watchman};
use taghook::store::lease::Handover;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{START, Server, both, options, postgres, until};
use crate::support::lost_commit::LostCommit;

/// A delivery that `server` has leased.
async fn leased(server: &Server) {
    let (contact, tag) = (server.contact("ada").await, server.tag("buyer").await);
    server.webhook(&[tag], |_| {}).await;
    server.assign_one(contact, tag).await;
    assert_eq!(server.number("SELECT count(*) FROM deliveries WHERE lease_owner IS NOT NULL").await, 1);
}

async fn claim(server: &Server) -> usize {
    let claim = |tx: taghook::store::Tx| async move { queue::claim(&tx, 8, Look::Full).await };
    server.store.write("claim", claim).await.unwrap().len()
}

/// Clocks of servers differ; a server lives as long as its heartbeat goes on.
#[tokio::test]
async fn a_server_whose_clock_is_ahead_takes_no_leases_of_the_living() {
    let url = postgres().await;
    let (clock, hand) = Clock::manual(START);
    let server = Server::open(&url, clock).await;
    leased(&server).await;
    hand.advance(Duration::from_millis(1));

    let ahead = START.saturating_add(Duration::from_secs(11));
    let other = Server::open(&url, Clock::manual(ahead).0).await;
    assert_eq!(claim(&other).await, 0);
    let (mut ours, mut theirs) = (Watchman::default(), Watchman::default());
    let begin = Instant::now();
    // The clock of the first one stands still, its heartbeat doesn't.
    for second in (0..=30).step_by(2) {
        let now = begin + Duration::from_secs(second);
        heartbeat::beat(&server.store, &mut ours, now).await.unwrap();
        heartbeat::beat(&other.store, &mut theirs, now).await.unwrap();
        assert_eq!(claim(&other).await, 0);
    }
    assert_eq!(server.number("SELECT count(*) FROM servers").await, 2);
}

#[tokio::test]
async fn leases_of_a_server_that_beats_no_more_are_free_after_ten_seconds() {
    let url = postgres().await;
    let (dead, alive) = (Server::open(&url, Clock::system()).await, Server::open(&url, Clock::system()).await);
    leased(&dead).await;
    let (mut watchman, begin) = (Watchman::default(), Instant::now());
    for second in (0..HEARTBEAT_LIMIT.as_secs()).step_by(2) {
        heartbeat::beat(&alive.store, &mut watchman, begin + Duration::from_secs(second)).await.unwrap();
        assert_eq!(claim(&alive).await, 0);
    }
    heartbeat::beat(&alive.store, &mut watchman, begin + HEARTBEAT_LIMIT).await.unwrap();
    assert_eq!(claim(&alive).await, 1);
}

/// A dispatcher at work, whose guard lets no request out.
pub(super) struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(super) fn start(server: &mut Server) -> Self {
        let sender = Sender::new(EgressPolicy::default(), &SenderSettings::default()).unwrap();
        let (_, nobody) = tokio::sync::mpsc::unbounded_channel();
        let handovers = std::mem::replace(&mut server.handovers, nobody);
        let stop = CancellationToken::new();
        let dispatcher = Dispatcher::new(server.store.clone(), sender, handovers);
        Self { stop: stop.clone(), task: tokio::spawn(dispatcher.run(stop.clone(), stop)) }
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Waits until an attempt was made for each of `count` deliveries; the guard refuses them without a network.
async fn all_are_tried(server: &Server, count: i64) {
    let tried = "SELECT count(*) FROM deliveries WHERE attempt_count > 0";
    until(async || server.number(tried).await == count).await;
}

/// The only permit has gone to a delivery that stands in the queue behind the one to recover.
#[tokio::test]
async fn recovery_needs_no_permit_that_a_waiting_job_holds() {
    let url = postgres().await;
    let (proxy, through) = LostCommit::before(&url).await;
    let mut server =
        Server::open_with(&taghook::store::open::OpenOptions { senders: 1, ..options(&through, Clock::system()) })
            .await;
    let (contact, tag) = (server.contact("ada").await, server.tag("buyer").await);
    server
        .webhook(&[tag], |webhook| {
            webhook.definition.cooldown = Duration::ZERO;
            webhook.definition.url = "http://127.0.0.1:1/".into();
        })
        .await;
    proxy.arm();
    let assignment = &[server.assignment(contact, &[tag])];
    let assign = async |tx| taghook::automation::assign(&{ tx }, assignment).await;
    server.store.write("assign", assign).await.unwrap_err();
    server.assign_one(contact, tag).await;

    let dispatcher = Running::start(&mut server);
    all_are_tried(&server, 2).await;
    dispatcher.stop().await;
}

/// A claim whose commit is unknown leaves no delivery with a lease that nobody knows of.
#[tokio::test]
async fn a_claim_of_unknown_result_strands_nothing() {
    let url = postgres().await;
    let (proxy, through) = LostCommit::before(&url).await;
    let other = Server::open(&url, Clock::system()).await;
    let (contact, tag) = (other.contact("ada").await, other.tag("buyer").await);
    other.webhook(&[tag], |webhook| webhook.definition.url = "http://127.0.0.1:1/".into()).await;
    other.store.local().close();
    other.assign_one(contact, tag).await;

    let mut server = Server::open(&through, Clock::system()).await;
    proxy.arm();
    let dispatcher = Running::start(&mut server);
    all_are_tried(&server, 1).await;
    assert!(!proxy.is_armed());
    dispatcher.stop().await;
}

/// A claim that looks a minute back leaves what is older to the poll; one that goes on from a place skips nothing.
#[tokio::test]
async fn a_claim_looks_as_far_back_as_it_is_told() {
    let (_folder, urls) = both().await;
    for url in urls {
        let (clock, hand) = Clock::manual(START);
        let server = Server::open(&url, clock).await;
        server.store.local().close();
        let tag = server.tag("buyer").await;
        server.webhook(&[tag], |_| {}).await;
        // Due at seconds 0, 30, 60 and 90; it is second 90 then.
        for name in ["ada", "bob", "cyd", "dan"] {
            hand.advance(Duration::from_secs(if name == "ada" { 0 } else { 30 }));
            server.assign_one(server.contact(name).await, tag).await;
        }
        let claim = async |limit: usize, look: Look| {
            let claim = |tx: taghook::store::Tx| async move { queue::claim(&tx, limit, look).await };
            let leased = server.store.write("claim", claim).await.unwrap();
            leased.iter().map(|leased| (leased.due.0 - START.0) / 1_000_000).collect::<Vec<_>>()
        };
        let next = async || queue::next_due(server.store.read(), server.store.clock().now()).await.unwrap();
        let second = |second| START.saturating_add(Duration::from_secs(second));
        assert_eq!(next().await, Some(second(30)));
        assert_eq!(claim(1, Look::Recent).await, [30]);
        assert_eq!(claim(1, Look::From(second(30))).await, [60]);
        assert_eq!(claim(8, Look::From(second(60))).await, [90]);
        assert_eq!(claim(8, Look::Recent).await, [0; 0]);
        assert_eq!(next().await, None);
        assert_eq!(claim(8, Look::From(second(1))).await, [0; 0]);
        assert_eq!(claim(8, Look::From(second(0))).await, [0]);
        hand.advance(Duration::from_secs(3_600));
        assert_eq!(Look::reaching(second(90), server.store.clock().now()), Look::Full);
    }
}

/// What the server knows of stays its own; the rest is leased anew, under a new token.
#[tokio::test]
async fn unknown_leases_are_found() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::manual(START).0).await;
        let (contact, tag) = (server.contact("ada").await, server.tag("buyer").await);
        server.webhook(&[tag], |_| {}).await;
        let delivery = server.assign_one(contact, tag).await.triggers[0].delivery_ids[0];
        for (known, tokens) in [(vec![delivery.0], vec![]), (vec![], vec![2])] {
            let known = &known;
            let reclaimed = server
                .store
                .write("reclaim", |tx| async move {
                    extra_attempt::release_unknown(&tx, known).await?;
                    queue::reclaim(&tx, known).await
                })
                .await
                .unwrap();
            assert_eq!(reclaimed.iter().map(|leased| leased.lease_token).collect::<Vec<_>>(), tokens);
        }
    }
}

/// Whoever sends it is gone in the middle of it, and with it who would settle it.
#[tokio::test]
async fn the_lease_of_an_attempt_that_panics_is_looked_for() {
    let (_folder, [url, _]) = both().await;
    let mut server = Server::open(&url, Clock::system()).await;
    leased(&server).await;
    let Ok(Handover::Job(job)) = server.handovers.try_recv() else { panic!("no job") };
    assert_eq!(server.store.local().in_flight(), [job.delivery.id.0]);
    let attempt = std::thread::spawn(move || {
        let _job = job;
        std::panic::resume_unwind(Box::new("a defect"));
    });
    attempt.join().unwrap_err();
    assert!(server.store.local().in_flight().is_empty());
    assert!(matches!(server.handovers.try_recv(), Ok(Handover::LostCommit)));
}
