//! Transactions that are cut off, doubled, or of unknown result.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use sea_orm::ConnectionTrait;
use taghook::automation::GroupCommit;
use taghook::clock::Clock;
use taghook::error::Error;
use taghook::store;
use taghook::store::delivery::queue;
use taghook::store::lease::Handover;
use taghook::store::request::RequestKey;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Server, both, postgres, someone_waits};
use crate::support::lost_commit::LostCommit;

fn key(server: &Server, id: &str) -> RequestKey {
    RequestKey {
        workspace: server.workspace.0,
        method: "TagService/CreateTag",
        request_id: id.into(),
        body_hash: [1; 32],
    }
}

/// A caller that goes away after any number of steps leaves all or nothing, and no transaction open.
#[tokio::test]
async fn a_caller_may_go_away_at_any_step() {
    let (_folder, urls) = both().await;
    for url in urls {
        let mut server = Server::open(&url, Clock::system()).await;
        let tag = server.tag("buyer").await;
        server.webhook(&[tag], |webhook| webhook.definition.cooldown = Duration::ZERO).await;
        let mut ended = 0;
        for steps in 0..60 {
            let contact = server.contact(&format!("ada{steps}")).await;
            {
                let mut call = pin!(server.assign_one(contact, tag));
                let mut left = steps;
                let is_done = poll_fn(|context| {
                    if call.as_mut().poll(context).is_ready() {
                        return Poll::Ready(true);
                    }
                    if left == 0 {
                        return Poll::Ready(false);
                    }
                    left -= 1;
                    Poll::Pending
                });
                ended += usize::from(is_done.await);
            }
            // The next one on the only connection comes after whatever that one did.
            server.assign_one(contact, tag).await;
            let of = format!("WHERE contact_id = {}", server.literal(contact.0));
            let deliveries = server.number(&format!("SELECT count(*) FROM deliveries {of}")).await;
            assert!((1..=2).contains(&deliveries), "{deliveries} after {steps} steps");
            assert_eq!(server.number(&format!("SELECT count(*) FROM contact_tags {of}")).await, 1);
            tokio::task::yield_now().await;
        }
        assert!(ended > 0, "no call came to its end");
        // Whatever was committed leased was handed over.
        tokio::time::timeout(Duration::from_secs(10), async {
            let mut jobs = 0;
            while jobs < server.number("SELECT count(*) FROM deliveries WHERE lease_owner IS NOT NULL").await {
                assert!(matches!(server.handovers.recv().await, Some(Handover::Job(_))));
                jobs += 1;
            }
        })
        .await
        .expect("a lease without its job");
    }
}

/// The double runs into the unique name that the first one has taken, and gets its answer all the same.
#[tokio::test]
async fn a_concurrent_double_gets_the_answer_of_the_first() {
    let url = postgres().await;
    let server = Server::open(&url, Clock::system()).await;
    let (workspace, key) = (server.workspace, &key(&server, "r1"));
    let (goes_first, may_end) = (&AtomicBool::new(true), &Notify::new());
    let create = || {
        let tag = server.new_tag("buyer");
        let make = move |tx: store::Tx| {
            let tag = tag.clone();
            async move {
                let is_first = goes_first.swap(false, Ordering::SeqCst);
                store::tag::insert(&tx, workspace, &tag).await?;
                if is_first {
                    may_end.notified().await;
                }
                Ok((tag.id, tag.id.to_string()))
            }
        };
        server.store.write_once("create", Some(key), make, |_, answer| async move { Ok(answer.parse().unwrap()) })
    };
    let release = async {
        someone_waits(&server).await;
        may_end.notify_one();
    };
    let (first, second, ()) = tokio::join!(create(), create(), release);
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(server.number("SELECT count(*) FROM tags").await, 1);
}

#[tokio::test]
async fn a_request_whose_commit_is_unknown_is_made_once() {
    let url = postgres().await;
    let (proxy, through) = LostCommit::before(&url).await;
    let server = Server::open(&through, Clock::system()).await;
    let (workspace, key, tag) = (server.workspace, &key(&server, "r1"), &server.new_tag("buyer"));
    proxy.arm();
    let make = |tx: store::Tx| async move {
        store::tag::insert(&tx, workspace, tag).await?;
        Ok((tag.id, tag.id.to_string()))
    };
    let again = |_, answer: String| async move { Ok(answer.parse().unwrap()) };
    let made = server.store.write_once("create", Some(key), make, again).await;
    assert!(!proxy.is_armed());
    assert_eq!(made.unwrap(), tag.id);
    assert_eq!(server.number("SELECT count(*) FROM tags").await, 1);
}

/// Without request ids nothing proves what a commit of unknown result did: it must not be run again.
#[tokio::test]
async fn a_batch_whose_commit_is_unknown_is_made_once() {
    let url = postgres().await;
    let (proxy, through) = LostCommit::before(&url).await;
    let server = Server::open(&through, Clock::system()).await;
    let tag = server.tag("buyer").await;
    server.webhook(&[tag], |webhook| webhook.definition.cooldown = Duration::ZERO).await;
    let contacts = [server.contact("ada").await, server.contact("bob").await];
    let stop = CancellationToken::new();
    let (assigner, work) = GroupCommit::new(server.store.clone());
    let calls = contacts.map(|contact| assigner.commit(server.assignment(contact, &[tag]), None));
    proxy.arm();
    let calls = async {
        let results = futures_util::future::join_all(calls).await;
        stop.cancel();
        results
    };
    // The calls queue before the work begins, and are one batch.
    let (results, ()) = tokio::join!(calls, work.run(stop.clone()));
    assert!(!proxy.is_armed());
    assert_eq!(server.number("SELECT count(*) FROM deliveries").await, 2);
    assert!(results.iter().all(|result| matches!(result, Err(Error::CommitUnknown(_)))), "{results:?}");
}

/// Leases that were taken by a commit of unknown result are told to the dispatcher, whoever took them.
#[tokio::test]
async fn leases_of_an_unknown_commit_are_suspect() {
    let url = postgres().await;
    let (proxy, through) = LostCommit::before(&url).await;
    let mut server = Server::open(&through, Clock::system()).await;
    let (contact, tag) = (server.contact("ada").await, server.tag("buyer").await);
    server.webhook(&[tag], |webhook| webhook.definition.cooldown = Duration::ZERO).await;
    proxy.arm();
    let assignment = [server.assignment(contact, &[tag])];
    let assigned =
        server.store.write("assign", |tx| async { taghook::automation::assign(&{ tx }, &assignment).await }).await;
    assert!(matches!(assigned, Err(Error::CommitUnknown(_))));
    assert!(matches!(server.handovers.try_recv(), Ok(Handover::LostCommit)));
    // One look finds what several have left.
    server.store.local().lost_commit();
    assert!(server.handovers.try_recv().is_err());
    server.store.local().look_for_lost();

    let other = Server::open(&url, Clock::system()).await;
    other.store.local().close();
    other.assign_one(contact, tag).await;
    proxy.arm();
    let claimed = server.store.write("claim", |tx| async move { queue::claim(&tx, 8, queue::Look::Full).await }).await;
    assert!(matches!(claimed, Err(Error::CommitUnknown(_))));
    assert!(matches!(server.handovers.try_recv(), Ok(Handover::LostCommit)));
}

/// A full disk makes SQLite roll back by itself, so that the driver's count of transactions is wrong. What is written
/// afterwards is committed all the same. The bound on pages stands for the disk.
#[tokio::test]
async fn what_follows_a_full_disk_is_committed() {
    let (_folder, [url, _]) = both().await;
    let server = Server::open(&url, Clock::system()).await;
    let execute = async |sql: &'static str| {
        server.store.write("sql", |tx| async move { Ok(tx.db().execute_unprepared(sql).await?) }).await
    };
    // Below what there is: no page more. It holds for the connection of the writer.
    execute("PRAGMA max_page_count = 1").await.unwrap();
    let large = "INSERT INTO deployment (key, value) VALUES ('large', hex(zeroblob(1000000)))";
    execute(large).await.expect_err("the disk is full");
    execute("INSERT INTO deployment (key, value) VALUES ('small', '')").await.unwrap();
    execute(large).await.expect("a new connection has no bound");
    assert_eq!(server.number("SELECT count(*) FROM deployment WHERE key IN ('small', 'large')").await, 2);
}
