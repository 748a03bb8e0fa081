//! The order of the log.

use std::sync::Arc;
use std::time::Duration;

use sea_orm::ConnectionTrait;
use taghook::clock::Clock;
use taghook::domain::delivery::Reason;
use taghook::domain::outcome::{Kind, Outcome, Position};
use taghook::domain::retry::Next;
use taghook::ids::{TypedId, WebhookId};
use taghook::outcomes::{Message, OutcomeFilter, OutcomeLog, Start};
use taghook::store::delivery::end;
use taghook::store::delivery::settle::settle;
use taghook::store::{Store, Tx, deployment, outcome};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::settle::{leased, settlement};
use super::{Server, both, postgres, until};

fn paused(server: &Server) -> Outcome {
    Outcome {
        workspace_id: server.workspace,
        kind: Kind::WebhookPaused,
        reason: Reason::None,
        recorded: server.store.clock().now(),
        webhook_id: WebhookId::generate(server.store.clock().now(), server.store.entropy()),
        delivery: None,
        attempt: None,
        next_attempt: None,
    }
}

/// A transaction that reported first and commits last stands last.
#[tokio::test]
async fn a_slow_transaction_stands_where_it_commits() {
    let url = postgres().await;
    let servers = [Server::open(&url, Clock::system()).await, Server::open(&url, Clock::system()).await];
    let (slow, quick) = (&paused(&servers[0]), &paused(&servers[1]));
    let (reported, may_end) = (&Notify::new(), &Notify::new());
    let first = servers[0].store.write("slow", |tx| async move {
        tx.report(slow.clone());
        reported.notify_one();
        may_end.notified().await;
        Ok(())
    });
    let second = async {
        reported.notified().await;
        servers[1]
            .store
            .write("quick", |tx| async move {
                tx.report(quick.clone());
                Ok(())
            })
            .await
            .unwrap();
        let seen = outcome::after(servers[0].store.read(), Position(0), 10).await.unwrap();
        assert_eq!(seen.len(), 1);
        may_end.notify_one();
    };
    let (slow_ended, ()) = tokio::join!(first, second);
    slow_ended.unwrap();
    let log = outcome::after(servers[1].store.read(), Position(0), 10).await.unwrap();
    let webhooks: Vec<WebhookId> = log.iter().map(|(_, outcome)| outcome.webhook_id).collect();
    assert_eq!(webhooks, [quick.webhook_id, slow.webhook_id]);
}

/// Whoever reads on from the last position it has seen has seen all before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_misses_nothing_that_commits_late() {
    let (_folder, urls) = both().await;
    for url in urls {
        let mut servers = vec![Server::open(&url, Clock::system()).await];
        if !servers[0].store.is_sqlite() {
            servers.push(Server::open(&url, Clock::system()).await);
        }
        let writers = (0..8).map(|index| {
            let server = &servers[index % servers.len()];
            async move {
                for round in 0..25 {
                    let outcomes = &[paused(server), paused(server)];
                    server
                        .store
                        .write("report", |tx| async move {
                            outcomes.iter().cloned().for_each(|outcome| tx.report(outcome));
                            for _ in 0..(index * 7 + round) % 5 {
                                tokio::task::yield_now().await;
                            }
                            Ok(())
                        })
                        .await
                        .unwrap();
                }
            }
        });
        let reader = tokio::spawn(follow(servers[0].store.clone(), 8 * 25 * 2));
        futures_util::future::join_all(writers).await;
        let seen = tokio::time::timeout(Duration::from_secs(30), reader).await.expect("a gap that was passed").unwrap();
        let all = outcome::after(servers[0].store.read(), Position(0), 1_000).await.unwrap();
        assert_eq!(seen, all.into_iter().map(|(position, _)| position).collect::<Vec<_>>());
    }
}

/// Positions that retention has emptied are never given out again.
#[tokio::test]
async fn positions_are_used_once() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::system()).await;
        let outcome = &paused(&server);
        let report = async || {
            server
                .store
                .write("report", |tx| async move {
                    tx.report(outcome.clone());
                    Ok(())
                })
                .await
                .unwrap();
            outcome::after(server.store.read(), Position(0), 1).await.unwrap()[0].0
        };
        let first = report().await;
        server
            .store
            .write("remove", |tx| async move {
                tx.db().execute_unprepared("DELETE FROM outcomes").await?;
                Ok(())
            })
            .await
            .unwrap();
        assert!(report().await > first);
    }
}

/// Of two servers that remove old outcomes, the one that had less to remove may be the last.
#[tokio::test]
async fn the_floor_of_the_log_never_falls() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::system()).await;
        for (raised, floor) in [(9, 9), (10, 10), (9, 10), (123, 123), (20, 123)] {
            let raise = |tx: Tx| async move { deployment::raise_log_floor(&tx, raised).await };
            server.store.write("raise", raise).await.unwrap();
            assert_eq!(deployment::log_floor(server.store.read()).await.unwrap(), floor);
        }
    }
}

/// The log as a server's streams read it, at work.
async fn stream(server: &Server, url: &str) -> (OutcomeLog, CancellationToken) {
    let stop = CancellationToken::new();
    let log = OutcomeLog::open(server.store.clone(), stop.clone()).await.unwrap();
    tokio::spawn(log.clone().follow());
    let (store, url, listening) = (server.store.clone(), url.to_owned(), stop.clone());
    tokio::spawn(async move { store.listen(&url, listening).await });
    (log, stop)
}

/// The first `count` outcomes from the beginning of the log on.
async fn read(log: &OutcomeLog, server: &Server, count: usize) -> Vec<(Position, Arc<Outcome>)> {
    let mut messages = log.watch(server.workspace, OutcomeFilter::default(), Start::Beginning).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < count {
        let message = tokio::time::timeout(Duration::from_secs(20), messages.recv()).await.expect("a message in 20 s");
        if let Message::Outcome(position, outcome) = message.unwrap().unwrap() {
            seen.push((position, outcome));
        }
    }
    seen
}

/// A watcher that begins far behind reads pages, and then the ring that others have filled; more comes meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_passes_from_pages_to_the_ring_without_a_gap() {
    const OLD: usize = 9_000;
    const NEW: usize = 400;
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::system()).await;
        let (log, stop) = stream(&server, &url).await;
        let report = async |count: usize| {
            let outcomes = &(0..count).map(|_| paused(&server)).collect::<Vec<_>>();
            let report = |tx: Tx| async move {
                outcomes.iter().cloned().for_each(|outcome| tx.report(outcome));
                Ok(())
            };
            server.store.write("report", report).await.unwrap();
        };
        report(OLD).await;
        let write = async {
            for _ in 0..NEW {
                report(1).await;
            }
        };
        let (seen, ()) = tokio::join!(read(&log, &server, OLD + NEW), write);
        let mut all = Vec::new();
        while all.len() < OLD + NEW {
            let last = all.last().copied().unwrap_or(Position(0));
            let page = outcome::after(server.store.read(), last, 2_000).await.unwrap();
            all.extend(page.into_iter().map(|(position, _)| position));
        }
        assert!(seen.iter().map(|(position, _)| *position).eq(all));
        stop.cancel();
    }
}

/// What was erased isn't streamed from memory either, on whichever server.
#[tokio::test]
async fn the_ring_forgets_a_deleted_contact() {
    let (_folder, urls) = both().await;
    for url in urls {
        let mut server = Server::open(&url, Clock::system()).await;
        let (log, stop) = stream(&server, &url).await;
        let mut streams = vec![(log, stop)];
        if !server.store.is_sqlite() {
            streams.push(stream(&Server::open(&url, Clock::system()).await, &url).await);
        }
        // While somebody watches: else there is nothing in memory.
        let mut watchers = Vec::new();
        for (log, _) in &streams {
            watchers.push(log.watch(server.workspace, OutcomeFilter::default(), Start::Now).await.unwrap());
        }
        let delivery = leased(&mut server).await;
        let contact = delivery.reference.contact_id;
        let settlements = &[&settlement(&delivery, Next::Delivered)];
        server.store.write("settle", |tx| async move { settle(&tx, settlements).await }).await.unwrap();
        for (log, _) in &streams {
            assert_eq!(first_url(log, &server).await, "https://example.com/");
        }
        let erase = |tx: Tx| async move {
            end::erase_contact(&tx, contact).await?;
            outcome::erase_contact(&tx, contact).await
        };
        server.store.write("erase", erase).await.unwrap();
        for (log, stop) in &streams {
            until(async || first_url(log, &server).await.is_empty()).await;
            stop.cancel();
        }
    }
}

async fn first_url(log: &OutcomeLog, server: &Server) -> String {
    read(log, server, 1).await[0].1.attempt.as_ref().unwrap().url.clone()
}

async fn follow(store: Store, count: usize) -> Vec<Position> {
    let mut seen = vec![Position(0)];
    while seen.len() <= count {
        let after = *seen.last().unwrap();
        let page = outcome::after(store.read(), after, 7).await.unwrap();
        seen.extend(page.into_iter().map(|(position, _)| position));
        tokio::task::yield_now().await;
    }
    seen.split_off(1)
}
