//! What a database is opened with.

use std::os::unix::fs::PermissionsExt;

use sea_orm::ConnectionTrait;
use taghook::clock::Clock;
use taghook::domain::delivery::Reason;
use taghook::error::Error;
use taghook::store::Tx;
use taghook::store::tag::{self, MAX_TAGS};
use taghook::store::webhook;
use tokio::sync::Notify;

use super::{START, Server, both, postgres, someone_waits};

/// Contacts' data is in it.
#[tokio::test]
async fn a_new_database_is_its_owners_alone() {
    let (folder, [url, _]) = both().await;
    let server = Server::open(&url, Clock::system()).await;
    server.contact("ada").await;
    for file in ["taghook.db", "taghook.db-wal", "taghook.db-shm"] {
        let mode = std::fs::metadata(folder.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

/// The gate needs a snapshot for each statement, whatever the database's default is.
#[tokio::test]
async fn transactions_see_what_was_committed_before_each_statement() {
    let url = postgres().await;
    let admin = sea_orm::Database::connect(&url).await.unwrap();
    let database = url.rsplit_once("?host=").unwrap().0.rsplit_once('/').unwrap().1;
    let sql = format!("ALTER DATABASE \"{database}\" SET default_transaction_isolation = 'repeatable read'");
    admin.execute_unprepared(&sql).await.unwrap();
    let server = Server::open(&url, Clock::system()).await;
    let sql = "SELECT count(*) FROM pg_settings WHERE name = 'transaction_isolation' AND setting = 'read committed'";
    assert_eq!(server.number(sql).await, 1);
}

/// Of two that ask at the same time whether there is room for one more, one is told that there isn't.
#[tokio::test]
async fn the_limit_of_a_workspace_holds_between_transactions() {
    let url = postgres().await;
    let server = Server::open(&url, Clock::manual(START).0).await;
    let workspace = server.workspace;
    let fill = format!(
        "INSERT INTO tags SELECT gen_random_uuid(), id, 't' || n, 1, '', 1, 0, 0 \
         FROM workspaces, generate_series(1, {}) AS n",
        MAX_TAGS - 1
    );
    let fill = &fill;
    let fill = |tx: Tx| async move { Ok(tx.db().execute_unprepared(fill).await?) };
    server.store.write("fill", fill).await.unwrap();
    let (one, other) = (&server.new_tag("one"), &server.new_tag("other"));
    let (inserted, may_end) = (&Notify::new(), &Notify::new());
    let first = server.store.write("first", |tx| async move {
        tag::insert(&tx, workspace, one).await?;
        inserted.notify_one();
        may_end.notified().await;
        Ok(())
    });
    let second = async {
        inserted.notified().await;
        let insert = server.store.write("second", |tx| async move { tag::insert(&tx, workspace, other).await });
        let release = async {
            someone_waits(&server).await;
            may_end.notify_one();
        };
        tokio::join!(insert, release).0
    };
    let (first, second) = tokio::join!(first, second);
    first.unwrap();
    assert!(matches!(second, Err(Error::LimitReached { .. })), "{second:?}");
}

/// It had a success after it was seen to fail.
#[tokio::test]
async fn a_webhook_that_works_again_is_not_disabled_as_failing() {
    let (_folder, urls) = both().await;
    for url in urls {
        let (clock, hand) = Clock::manual(START);
        let server = Server::open(&url, clock).await;
        let (workspace, id) = (server.workspace, server.webhook(&[], |_| {}).await.id);
        let failing = async |succeeded: bool| {
            let note = |tx: Tx| async move {
                let (good, bad): (&[_], &[_]) = if succeeded { (&[id], &[]) } else { (&[], &[id]) };
                webhook::note_results(&tx, good, bad).await
            };
            server.store.write("note", note).await.unwrap()
        };
        let disable = async || {
            let disable = |tx: Tx| async move { webhook::disable(&tx, workspace, id, Reason::Failing).await };
            server.store.write("disable", disable).await.unwrap();
            server.number("SELECT state FROM webhooks").await
        };
        assert_eq!(failing(false).await, []);
        hand.advance(taghook::domain::webhook::MAX_FAILING);
        assert_eq!(failing(false).await, [(workspace, id)]);
        failing(true).await;
        assert_eq!(disable().await, 1);
        failing(false).await;
        hand.advance(taghook::domain::webhook::MAX_FAILING);
        assert_eq!(disable().await, 3);
    }
}

/// A config that is read without a gate is kept, and never used beyond its version.
#[tokio::test]
async fn a_config_that_is_read_is_kept_until_it_changes() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::system()).await;
        let (workspace, tag) = (server.workspace, server.tag("buyer").await);
        let first = server.store.config(workspace).await.unwrap();
        let second = server.store.config(workspace).await.unwrap();
        assert!(std::sync::Arc::ptr_eq(&first, &second) && second.tag(tag).is_some());
        let other = server.tag("seller").await;
        assert!(server.store.config(workspace).await.unwrap().tag(other).is_some());
    }
}
