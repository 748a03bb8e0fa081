//! PostgreSQL keeps plans of statements. Those that were made while a table was empty are used until the next ANALYZE,
//! however many rows come before it.

use sea_orm::{ConnectionTrait, DbBackend, Statement};
use taghook::clock::Clock;
use taghook::domain::retry::Next;
use taghook::error::Result;
use taghook::ids::DeliveryId;
use taghook::store::Tx;
use taghook::store::delivery::queue;
use taghook::store::delivery::settle::{Settlement, settle};
use taghook::store::request::{self, RequestKey};
use uuid::Uuid;

use super::settle::{leased, settlement};
use super::{START, Server, postgres};

/// After so many runs a plan is kept.
const RUNS: usize = 10;

/// How many deliveries are made due by a look at everything.
const LIMIT: usize = 1_000;

/// What each batch, and each look at everything, asks of tables that grow with every call.
async fn ask(tx: &Tx, key: &RequestKey, unknown: &Settlement) -> Result<()> {
    assert_eq!(request::find(tx.db(), &[key], tx.now()).await?, [None]);
    assert!(settle(tx, &[unknown]).await?.is_empty());
    queue::pull_in(tx, LIMIT).await
}

/// How many rows this transaction has read.
async fn rows_read(tx: &Tx) -> Result<i64> {
    let sql = "SELECT SUM(seq_tup_read + COALESCE(idx_tup_fetch, 0))::bigint AS n FROM pg_stat_xact_user_tables \
               WHERE relname IN ('requests', 'deliveries')";
    let row = tx.db().query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await?;
    Ok(row.expect("a row").try_get("", "n")?)
}

#[tokio::test]
async fn a_plan_of_empty_tables_is_good_for_full_ones() {
    let mut server = Server::open(&postgres().await, Clock::manual(START).0).await;
    let mut unknown = settlement(&leased(&mut server).await, Next::Delivered);
    unknown.reference.id = DeliveryId(Uuid::nil());
    let workspace = server.workspace.0;
    let key = RequestKey { workspace, method: "M", request_id: "new".into(), body_hash: [0; 32] };
    let fill = format!(
        "INSERT INTO requests (workspace_id, method, request_id, body_hash, answer, created_us) \
         SELECT '{workspace}', 'M', n::text, '', '', {now} FROM generate_series(1, 2000) AS n; \
         INSERT INTO deliveries (id, workspace_id, webhook_id, webhook_event_id, contact_id, source, state, reason, \
         tag_ids, trigger_us, due_us, causation_depth, created_us, lease_owner, lease_token) \
         SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, workspace_id, webhook_id, webhook_event_id, \
         contact_id, source, state, reason, tag_ids, trigger_us, due_us + 3600000000, causation_depth, created_us, \
         lease_owner, lease_token FROM deliveries, generate_series(1, 2000) AS n",
        now = START.0
    );
    let (key, unknown, fill) = (&key, &unknown, &fill);
    let read = server.store.write("plans", |tx| async move {
        for _ in 0..RUNS {
            ask(&tx, key, unknown).await?;
        }
        tx.db().execute_unprepared(fill).await?;
        let before = rows_read(&tx).await?;
        ask(&tx, key, unknown).await?;
        Ok(rows_read(&tx).await? - before)
    });
    let read = read.await.unwrap();
    assert!(read < 10, "{read} rows were read to find none");
}
