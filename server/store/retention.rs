//! Removing what is old, in small steps: each is one short transaction, so that no lock is held for long and the log of
//! the database stays small. Live deliveries are never touched.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, QueryResult, Statement, Value};
use uuid::Uuid;

use super::delivery::end::{self, Which};
use super::delivery::{DEFERRED, WAITING};
use super::{Store, Tx, deployment, enrollment, extra_attempt, request, webhook};
use crate::domain::delivery::{Reason, State};
use crate::domain::event::CONTACT_UPDATED;
use crate::domain::stats::bucket_of;
use crate::domain::time::Micros;
use crate::domain::webhook::WebhookState;
use crate::error::Result;
use crate::ids::{DeliveryId, WorkspaceId};

/// The rows of one step.
pub const STEP: usize = 1_000;

/// The webhooks of one step: each is sealed anew.
const SECRETS_STEP: usize = 100;

/// A place in a table that is walked from its beginning to its end over several steps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Walk {
    first: Uuid,
    second: Uuid,
}

/// Removes outcomes, and the attempts that they are, recorded longer ago than `keep`. Answers with how many.
///
/// # Errors
///
/// The database's.
pub async fn outcomes(store: &Store, keep: Duration) -> Result<usize> {
    store
        .write("retain_outcomes", |tx| async move {
            let limit = tx.now().saturating_sub(keep);
            let oldest = rows(&tx, "SELECT seq, recorded_us FROM outcomes ORDER BY seq LIMIT $1", vec![step()]).await?;
            let mut last = None;
            let mut count = 0;
            for row in oldest {
                let (seq, recorded): (i64, i64) = (row.try_get("", "seq")?, row.try_get("", "recorded_us")?);
                if recorded >= limit.0 {
                    break;
                }
                (last, count) = (Some(seq), count + 1);
            }
            if let Some(last) = last {
                execute(&tx, "DELETE FROM outcomes WHERE seq <= $1", vec![last.into()]).await?;
                deployment::raise_log_floor(&tx, last).await?;
            }
            Ok(count)
        })
        .await
}

/// Removes deliveries that became final longer ago than `keep`. Answers with how many, and where to go on.
///
/// # Errors
///
/// The database's.
pub async fn deliveries(store: &Store, keep: Duration, from: Walk) -> Result<(usize, Walk)> {
    store
        .write("retain_deliveries", |tx| async move {
            let limit = tx.now().saturating_sub(keep);
            // One that an attempt is owed for stays until it was made.
            let sql = "SELECT id FROM deliveries WHERE id > $1 AND id < $2 AND finished_us < $3 AND NOT EXISTS \
                       (SELECT 1 FROM extra_attempts e WHERE e.delivery_id = deliveries.id) ORDER BY id LIMIT $4";
            let values = vec![from.first.into(), first_id_of(limit).into(), limit.0.into(), step()];
            let ids = ids_of(&rows(&tx, sql, values).await?, "id")?;
            for id in &ids {
                execute(&tx, "DELETE FROM deliveries WHERE id = $1", vec![(*id).into()]).await?;
            }
            let first = ids.last().copied().unwrap_or(from.first);
            Ok((ids.len(), Walk { first, second: Uuid::nil() }))
        })
        .await
}

/// Removes ways through campaigns that ended longer ago than `keep`. Answers with how many.
///
/// # Errors
///
/// The database's.
pub async fn enrollments(store: &Store, keep: Duration) -> Result<usize> {
    store
        .write("retain_enrollments", |tx| async move {
            let limit = i64::try_from(STEP).unwrap_or(i64::MAX);
            let count = enrollment::forget_ended(&tx, tx.now().saturating_sub(keep), limit).await?;
            Ok(usize::try_from(count).unwrap_or(usize::MAX))
        })
        .await
}

/// Ends deliveries recorded longer ago than `keep` that a disabled webhook holds. Answers with how many.
///
/// # Errors
///
/// The database's.
pub async fn held_deliveries(store: &Store, keep: Duration) -> Result<usize> {
    store
        .write("retain_held", |tx| async move {
            let limit = tx.now().saturating_sub(keep);
            let sql = format!(
                "SELECT d.id, d.workspace_id FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id \
                 WHERE d.id < $1 AND d.state IN ({DEFERRED}, {WAITING}) AND (d.parked = TRUE OR d.lane = 2) AND w.state = {} \
                 ORDER BY d.id LIMIT $2",
                WebhookState::Disabled.code()
            );
            let held = rows(&tx, &sql, vec![first_id_of(limit).into(), step()]).await?;
            for row in &held {
                let (id, workspace): (Uuid, Uuid) = (row.try_get("", "id")?, row.try_get("", "workspace_id")?);
                let which = Which::Delivery(DeliveryId(id));
                end::end(&tx, WorkspaceId(workspace), which, State::Cancelled, Reason::Retention).await?;
            }
            Ok(held.len())
        })
        .await
}

/// Drops attempts beside the schedule, asked for longer ago than `keep`, that a disabled webhook holds. Answers with how
/// many.
///
/// # Errors
///
/// The database's.
pub async fn held_attempts(store: &Store, keep: Duration) -> Result<usize> {
    store
        .write("retain_held_attempts", |tx| async move {
            let before = first_id_of(tx.now().saturating_sub(keep));
            let dropped = extra_attempt::forget_held(&tx, before, i64::try_from(STEP).unwrap_or(i64::MAX)).await?;
            Ok(usize::try_from(dropped).unwrap_or(usize::MAX))
        })
        .await
}

/// Removes replays that were finished longer ago than `keep`. Answers with how many.
///
/// # Errors
///
/// The database's.
pub async fn replays(store: &Store, keep: Duration) -> Result<usize> {
    store
        .write("retain_replays", |tx| async move {
            let limit = tx.now().saturating_sub(keep);
            // One that was cancelled has something to do until all that it owed is counted.
            let sql = "DELETE FROM replays WHERE id IN (SELECT id FROM replays WHERE id < $1 AND finished_us < $2 \
                       AND next_us IS NULL ORDER BY id LIMIT $3)";
            execute(&tx, sql, vec![first_id_of(limit).into(), limit.0.into(), step()]).await
        })
        .await
}

/// Removes events that say that a contact was changed, recorded longer ago than `keep`: a caller that writes all its contacts
/// every night would fill the database with them. Returns how many.
///
/// # Errors
///
/// The database's.
pub async fn contact_updates(store: &Store, keep: Duration) -> Result<usize> {
    store
        .write("retain_contact_updates", |tx| async move {
            let limit = tx.now().saturating_sub(keep);
            // The type stands in the text, so that the index of these events carries the statement.
            let sql = format!(
                "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE type = '{CONTACT_UPDATED}' \
                 AND recorded_us < $1 ORDER BY recorded_us LIMIT $2)"
            );
            execute(&tx, &sql, vec![limit.0.into(), step()]).await
        })
        .await
}

/// Removes counts of what happened longer ago than `keep`. Answers with how many.
///
/// # Errors
///
/// The database's.
pub async fn stats(store: &Store, keep: Duration) -> Result<usize> {
    store
        .write("retain_stats", |tx| async move {
            let sql = "DELETE FROM delivery_stats WHERE (workspace_id, webhook_id, bucket_us, metric) IN \
                       (SELECT workspace_id, webhook_id, bucket_us, metric FROM delivery_stats WHERE bucket_us < $1 \
                       ORDER BY bucket_us LIMIT $2)";
            // A bucket is old when its end is.
            let limit = bucket_of(tx.now().saturating_sub(keep));
            execute(&tx, sql, vec![limit.0.into(), step()]).await
        })
        .await
}

/// Removes cooldowns whose last trigger was longer ago than `keep`, among the next rows of the table. Answers with
/// where to go on; the beginning once the end was reached.
///
/// # Errors
///
/// The database's.
pub async fn cooldowns(store: &Store, keep: Duration, from: Walk) -> Result<Walk> {
    store
        .write("retain_cooldowns", |tx| async move {
            let limit = tx.now().saturating_sub(keep);
            let sql = "SELECT webhook_id, contact_id, last_us FROM cooldowns WHERE webhook_id > $1 \
                       OR (webhook_id = $1 AND contact_id > $2) ORDER BY webhook_id, contact_id LIMIT $3";
            let page = rows(&tx, sql, vec![from.first.into(), from.second.into(), step()]).await?;
            let mut next = Walk::default();
            for row in &page {
                next = Walk { first: row.try_get("", "webhook_id")?, second: row.try_get("", "contact_id")? };
                if row.try_get::<i64>("", "last_us")? < limit.0 {
                    // The time again: the window may have been used anew.
                    let sql = "DELETE FROM cooldowns WHERE webhook_id = $1 AND contact_id = $2 AND last_us < $3";
                    execute(&tx, sql, vec![next.first.into(), next.second.into(), limit.0.into()]).await?;
                }
            }
            Ok(if page.len() < STEP { Walk::default() } else { next })
        })
        .await
}

/// Removes remembered requests that are older than their window. Answers with how many.
///
/// # Errors
///
/// The database's.
pub async fn requests(store: &Store) -> Result<usize> {
    store
        .write("retain_requests", |tx| async move {
            let limit = tx.now().saturating_sub(request::WINDOW);
            let sql = "DELETE FROM requests WHERE (workspace_id, method, request_id) IN \
                       (SELECT workspace_id, method, request_id FROM requests WHERE created_us < $1 ORDER BY created_us LIMIT $2)";
            execute(&tx, sql, vec![limit.0.into(), step()]).await
        })
        .await
}

/// The tables that hold a workspace's rows, and their keys; those of the most rows first.
const TENANT_TABLES: [(&str, &str); 21] = [
    ("outcomes", "seq"),
    ("delivery_stats", "workspace_id, webhook_id, bucket_us, metric"),
    ("replays", "id"),
    ("extra_attempts", "id"),
    ("deliveries", "id"),
    ("events", "id"),
    ("enrollments", "id"),
    ("campaign_nodes", "campaign_id, node, shard"),
    ("campaigns", "id"),
    ("contact_tags", "contact_id, tag_id"),
    ("cooldowns", "webhook_id, contact_id"),
    ("leftovers", "id"),
    ("contacts", "id"),
    ("webhook_tags", "webhook_id, tag_id"),
    ("webhooks", "id"),
    ("smart_link_clicks", "smart_link_id, day"),
    ("smart_links", "id"),
    ("tags", "id"),
    ("fields", "id"),
    ("requests", "workspace_id, method, request_id"),
    ("api_keys", "id"),
];

/// Removes signing secrets whose time is over. Answers with [`STEP`] if there may be more.
///
/// # Errors
///
/// The database's.
pub async fn secrets(store: &Store) -> Result<usize> {
    let remove = |tx: Tx| async move { webhook::remove_expired_secrets(&tx, SECRETS_STEP).await };
    let count = store.write("retain_secrets", remove).await?;
    Ok(if count < SECRETS_STEP { count } else { STEP })
}

/// Removes rows of workspaces that were deleted, and at last the workspaces. Answers with how many rows.
///
/// # Errors
///
/// The database's.
pub async fn deleted_workspaces(store: &Store) -> Result<usize> {
    let sql = "SELECT id FROM workspaces WHERE deleted_us IS NOT NULL LIMIT 1";
    let statement = Statement::from_string(store.read().get_database_backend(), sql);
    let Some(row) = store.read().query_one_raw(statement).await? else { return Ok(0) };
    let workspace: Uuid = row.try_get("", "id")?;
    store
        .write("retain_workspace", |tx| async move {
            for (table, key) in TENANT_TABLES {
                let key = if key.contains(',') { format!("({key})") } else { key.to_owned() };
                let columns = key.trim_matches(['(', ')']);
                let sql = format!(
                    "DELETE FROM {table} WHERE {key} IN (SELECT {columns} FROM {table} WHERE workspace_id = $1 LIMIT $2)"
                );
                let removed = execute(&tx, &sql, vec![workspace.into(), step()]).await?;
                if removed > 0 {
                    return Ok(removed);
                }
            }
            execute(&tx, "DELETE FROM workspaces WHERE id = $1", vec![workspace.into()]).await
        })
        .await
}

/// The smallest id that could have been made at a time: ids sort by it.
pub(super) fn first_id_of(time: Micros) -> Uuid {
    let ms = u64::try_from(time.0 / 1_000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(ms, &[0; 10]).into_uuid()
}

fn step() -> Value {
    i64::try_from(STEP).unwrap_or(i64::MAX).into()
}

fn ids_of(rows: &[QueryResult], column: &str) -> Result<Vec<Uuid>> {
    rows.iter().map(|row| Ok(row.try_get("", column)?)).collect()
}

fn statement(backend: DbBackend, sql: &str, values: Vec<Value>) -> Statement {
    Statement::from_sql_and_values(backend, sql, values)
}

async fn rows(tx: &Tx, sql: &str, values: Vec<Value>) -> Result<Vec<QueryResult>> {
    Ok(tx.db().query_all_raw(statement(tx.db().get_database_backend(), sql, values)).await?)
}

async fn execute(tx: &Tx, sql: &str, values: Vec<Value>) -> Result<usize> {
    let result = tx.db().execute_raw(statement(tx.db().get_database_backend(), sql, values)).await?;
    Ok(usize::try_from(result.rows_affected()).unwrap_or(usize::MAX))
}
