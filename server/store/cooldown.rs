//! The cooldown of each webhook and contact: who may send, decided atomically.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sea_orm::{ConnectionTrait, Statement};

use super::Tx;
use super::bulk::Bulk;
use crate::domain::time::Micros;
use crate::error::Result;
use crate::ids::{ContactId, WebhookId, WorkspaceId};

/// What a window belongs to.
pub type WindowKey = (WebhookId, ContactId);

/// A wish to open a window.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Whose window.
    pub key: WindowKey,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// The webhook's present setting.
    pub cooldown: Duration,
}

/// Opens windows at the transaction's time where the last one has passed; answers with those that were opened. Of many
/// transactions that claim one window at the same time, exactly one gets it. Keys are distinct.
///
/// # Errors
///
/// The database's.
pub async fn claim(tx: &Tx, claims: &[Claim]) -> Result<HashSet<WindowKey>> {
    // Without a cooldown there is nothing to wait for, not even for a server whose clock is ahead.
    let condition = "WHERE excluded.cooldown_us = 0 OR cooldowns.last_us <= excluded.last_us - excluded.cooldown_us";
    let rows = write(tx, claims, condition).await?;
    rows.iter()
        .map(|row| Ok((WebhookId(row.try_get("", "webhook_id")?), ContactId(row.try_get("", "contact_id")?))))
        .collect()
}

/// Opens windows at the transaction's time whatever there was before: a deferred trigger that is due.
///
/// # Errors
///
/// The database's.
pub async fn reopen(tx: &Tx, claims: &[Claim]) -> Result<()> {
    write(tx, claims, "").await?;
    Ok(())
}

async fn write(tx: &Tx, claims: &[Claim], condition: &str) -> Result<Vec<sea_orm::QueryResult>> {
    let mut claims = claims.to_vec();
    // In one order everywhere, so that two transactions wait for each other instead of locking up.
    claims.sort_unstable_by_key(|claim| claim.key);
    let mut bulk = keys(tx, &claims)
        .uuid("workspace_id", claims.iter().map(|claim| claim.workspace_id.0))
        .int("cooldown_us", claims.iter().map(|claim| i64::try_from(claim.cooldown.as_micros()).unwrap_or(i64::MAX)));
    let now = bulk.param(tx.now().0);
    let rows = bulk
        .query(tx.db(), |rows| {
            format!(
                "INSERT INTO cooldowns (webhook_id, contact_id, workspace_id, last_us, cooldown_us) \
                 SELECT webhook_id, contact_id, workspace_id, {now}, cooldown_us FROM {rows} WHERE TRUE \
                 ON CONFLICT (webhook_id, contact_id) DO UPDATE \
                 SET last_us = excluded.last_us, cooldown_us = excluded.cooldown_us {condition} \
                 RETURNING webhook_id, contact_id"
            )
        })
        .await?;
    Ok(rows)
}

/// When the windows were opened.
///
/// # Errors
///
/// The database's.
pub async fn opened(tx: &Tx, claims: &[Claim]) -> Result<HashMap<WindowKey, Micros>> {
    let rows = keys(tx, claims)
        .query(tx.db(), |rows| {
            format!(
                "SELECT c.webhook_id, c.contact_id, c.last_us FROM {rows} \
                 JOIN cooldowns c ON c.webhook_id = r.webhook_id AND c.contact_id = r.contact_id"
            )
        })
        .await?;
    rows.iter()
        .map(|row| {
            let key = (WebhookId(row.try_get("", "webhook_id")?), ContactId(row.try_get("", "contact_id")?));
            Ok((key, Micros(row.try_get("", "last_us")?)))
        })
        .collect()
}

/// Forgets the windows of a contact.
///
/// # Errors
///
/// The database's.
pub async fn forget_contact(tx: &Tx, workspace: WorkspaceId, contact: ContactId) -> Result<()> {
    // By the key: an index by contact would be written by every trigger. Those of deleted webhooks go with these.
    let sql = "DELETE FROM cooldowns WHERE contact_id = $2 \
               AND webhook_id IN (SELECT id FROM webhooks WHERE workspace_id = $1)";
    execute(tx, sql, vec![workspace.0.into(), contact.0.into()]).await?;
    Ok(())
}

/// Forgets up to `limit` windows of a webhook; answers with how many there were.
///
/// # Errors
///
/// The database's.
pub async fn forget_webhook(tx: &Tx, webhook: WebhookId, limit: i64) -> Result<u64> {
    let sql = "DELETE FROM cooldowns WHERE webhook_id = $1 AND contact_id IN \
               (SELECT contact_id FROM cooldowns WHERE webhook_id = $1 LIMIT $2)";
    execute(tx, sql, vec![webhook.0.into(), limit.into()]).await
}

async fn execute(tx: &Tx, sql: &str, values: Vec<sea_orm::Value>) -> Result<u64> {
    let statement = Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values);
    Ok(tx.db().execute_raw(statement).await?.rows_affected())
}

fn keys(tx: &Tx, claims: &[Claim]) -> Bulk {
    Bulk::new(tx.db())
        .uuid("webhook_id", claims.iter().map(|claim| claim.key.0.0))
        .uuid("contact_id", claims.iter().map(|claim| claim.key.1.0))
}
