//! The order of the log.

use std::time::Duration;

use sea_orm::ConnectionTrait;
use taghook::clock::Clock;
use taghook::domain::delivery::Reason;
use taghook::domain::outcome::{Kind, Outcome, Position};
use taghook::ids::{TypedId, WebhookId};
use taghook::store::{Store, outcome};
use tokio::sync::Notify;

use super::{Server, both, postgres};

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
