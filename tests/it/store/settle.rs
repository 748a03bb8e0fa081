//! What came of attempts, where the database or another attempt is in the way.

use std::time::Duration;

use taghook::clock::Clock;
use taghook::domain::delivery::{Attempt, Cause};
use taghook::domain::outcome::Position;
use taghook::domain::retry::Next;
use taghook::store::delivery::LeasedDelivery;
use taghook::store::delivery::settle::{Settlement, settle};
use taghook::store::lease::Handover;
use taghook::store::{Tx, outcome};

use super::lease::Running;
use super::{START, Server, both, refuse_unless, until};

/// A success or failure of an attempt under the delivery's lease.
pub(super) fn settlement(delivery: &LeasedDelivery, next: Next) -> Settlement {
    Settlement {
        reference: delivery.reference.clone(),
        workspace_id: delivery.workspace_id,
        webhook_id: delivery.webhook_id,
        lease_token: delivery.lease_token,
        extra_id: None,
        attempt: Attempt {
            number: 0,
            cause: Cause::Scheduled,
            started: START.saturating_add(Duration::from_secs(delivery.lease_token.unsigned_abs())),
            duration: Duration::from_millis(5),
            url: "https://example.com/".into(),
            status_code: Some(200),
            response_body: Vec::new(),
            response_truncated: false,
            response_location: String::new(),
            retry_after: None,
            error_class: None,
            error_detail: String::new(),
            lease_lost: false,
        },
        next,
    }
}

/// A result that is written again after an unknown commit is the same attempt.
#[tokio::test]
async fn an_attempt_is_settled_once() {
    let (_folder, urls) = both().await;
    for url in urls {
        let mut server = Server::open(&url, Clock::manual(START).0).await;
        let delivery = leased(&mut server).await;
        let settlements = &[&settlement(&delivery, Next::Delivered)];
        for _ in 0..2 {
            server.store.write("settle", |tx| async move { settle(&tx, settlements).await }).await.unwrap();
        }
        assert_eq!(server.number("SELECT attempt_count FROM deliveries").await, 1);
        assert_eq!(outcome::after(server.store.read(), Position(0), 10).await.unwrap().len(), 1);
    }
}

/// A lease that was lost and taken again by the same server: both attempts end in one batch.
#[tokio::test]
async fn of_two_attempts_of_a_delivery_the_one_with_the_lease_counts() {
    let (_folder, urls) = both().await;
    for url in urls {
        let mut server = Server::open(&url, Clock::manual(START).0).await;
        let stale = leased(&mut server).await;
        let reclaim = |tx: Tx| async move { taghook::store::delivery::queue::reclaim(&tx, &[]).await };
        let present = server.store.write("reclaim", reclaim).await.unwrap().remove(0);
        let retry = Next::RetryAt(START.saturating_add(Duration::from_secs(5)));
        let settlements = &[
            &settlement(&stale, Next::Exhausted(taghook::domain::delivery::Reason::None)),
            &settlement(&present, retry),
        ];
        server.store.write("settle", |tx| async move { settle(&tx, settlements).await }).await.unwrap();
        assert_eq!(server.number("SELECT state FROM deliveries").await, 2);
        assert_eq!(server.number("SELECT scheduled_count FROM deliveries").await, 1);
        assert_eq!(server.number("SELECT attempt_count FROM deliveries").await, 2);
        let log = outcome::after(server.store.read(), Position(0), 10).await.unwrap();
        let lost: Vec<bool> = log.iter().map(|(_, outcome)| outcome.attempt.as_ref().unwrap().lease_lost).collect();
        assert_eq!(lost.iter().filter(|lost| **lost).count(), 1, "{lost:?}");
    }
}

/// A delivery that the server has leased.
pub(super) async fn leased(server: &mut Server) -> LeasedDelivery {
    let (contact, tag) = (server.contact("ada").await, server.tag("buyer").await);
    server.webhook(&[tag], |_| {}).await;
    server.assign_one(contact, tag).await;
    let Some(Handover::Job(job)) = server.handovers.recv().await else { panic!("no job") };
    job.delivery
}

/// Two deliveries to endpoints of different hosts, sent by a dispatcher that the guard stops.
async fn dispatch_two(server: &mut Server) -> Running {
    let contact = server.contact("ada").await;
    for (name, port) in [("a", 1), ("b", 2)] {
        let tag = server.tag(name).await;
        server.webhook(&[tag], |webhook| webhook.definition.url = format!("http://127.0.0.1:{port}/")).await;
        server.assign_one(contact, tag).await;
    }
    Running::start(server)
}

/// A result that the database refuses is recorded without its texts, and stands in nobody's way.
#[tokio::test]
async fn a_result_that_is_refused_harms_no_other() {
    let (_folder, urls) = both().await;
    for url in urls {
        let mut server = Server::open(&url, Clock::system()).await;
        refuse_unless(&server, "outcomes", "url", "<> 'http://127.0.0.1:1/'").await;
        let dispatcher = dispatch_two(&mut server).await;
        until(async || server.number("SELECT count(*) FROM outcomes").await == 2).await;
        assert_eq!(server.number("SELECT count(*) FROM deliveries WHERE attempt_count = 1").await, 2);
        let whole = "SELECT count(*) FROM outcomes WHERE url = 'http://127.0.0.1:2/' AND error_detail <> ''";
        assert_eq!(server.number(whole).await, 1);
        assert_eq!(server.number("SELECT count(*) FROM outcomes WHERE url = '' AND error_detail = ''").await, 1);
        dispatcher.stop().await;
    }
}

/// What can't be recorded at all isn't left with a lease that nobody holds; nor is it sent again and again.
#[tokio::test]
async fn a_result_that_cannot_be_recorded_frees_its_delivery_for_later() {
    let (_folder, urls) = both().await;
    for url in urls {
        let mut server = Server::open(&url, Clock::system()).await;
        refuse_unless(&server, "outcomes", "attempt_number", "IS NULL").await;
        let dispatcher = dispatch_two(&mut server).await;
        let later = "SELECT count(*) FROM deliveries WHERE lease_owner IS NULL AND due_us > trigger_us + 3000000000";
        until(async || server.number(later).await == 2).await;
        until(async || server.store.local().in_flight().is_empty()).await;
        dispatcher.stop().await;
    }
}
