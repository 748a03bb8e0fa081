//! Who holds what.

use std::time::Duration;

use taghook::clock::Clock;
use taghook::dispatch::Dispatcher;
use taghook::dispatch::egress::EgressPolicy;
use taghook::dispatch::send::{Sender, SenderSettings};
use taghook::store::delivery::queue;
use taghook::store::extra_attempt;
use taghook::store::heartbeat::{self, HEARTBEAT_LIMIT, Watchman};
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
    let claim = |tx: taghook::store::Tx| async move { queue::claim(&tx, 8, queue::Look::Full).await };
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

    let sender = Sender::new(EgressPolicy::default(), &SenderSettings::default()).unwrap();
    let (_, nobody) = tokio::sync::mpsc::unbounded_channel();
    let handovers = std::mem::replace(&mut server.handovers, nobody);
    let stop = CancellationToken::new();
    let dispatcher =
        tokio::spawn(Dispatcher::new(server.store.clone(), sender, handovers).run(stop.clone(), stop.clone()));
    all_are_tried(&server, 2).await;
    stop.cancel();
    dispatcher.await.unwrap();
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
    let sender = Sender::new(EgressPolicy::default(), &SenderSettings::default()).unwrap();
    let (_, nobody) = tokio::sync::mpsc::unbounded_channel();
    let handovers = std::mem::replace(&mut server.handovers, nobody);
    let stop = CancellationToken::new();
    proxy.arm();
    let dispatcher =
        tokio::spawn(Dispatcher::new(server.store.clone(), sender, handovers).run(stop.clone(), stop.clone()));
    all_are_tried(&server, 1).await;
    assert!(!proxy.is_armed());
    stop.cancel();
    dispatcher.await.unwrap();
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
