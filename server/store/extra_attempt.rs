//! Attempts beside the schedule, as RetryDelivery asks for: a small queue of their own.

use sea_orm::{ConnectionTrait, DbBackend, Statement};
use uuid::Uuid;

use super::Tx;
use super::bulk::Bulk;
use super::delivery::LeasedDelivery;
use super::delivery::queue::{held_but_for, leased_of};
use crate::domain::delivery::{Cause, Source};
use crate::error::{Error, Result};
use crate::ids::{ContactId, DeliveryId, WebhookEventId, WebhookId, WorkspaceId, uuid_v7};

/// Asks for one more attempt of a delivery, due now.
///
/// # Errors
///
/// The database's.
pub async fn insert(
    tx: &Tx,
    workspace: WorkspaceId,
    delivery: DeliveryId,
    webhook: WebhookId,
    cause: Cause,
) -> Result<()> {
    let sql = "INSERT INTO extra_attempts (id, workspace_id, delivery_id, webhook_id, cause, due_us) \
               VALUES ($1, $2, $3, $4, $5, $6)";
    let id = uuid_v7(tx.now(), tx.store().entropy());
    let values =
        [id.into(), workspace.0.into(), delivery.0.into(), webhook.0.into(), cause.code().into(), tx.now().0.into()];
    tx.db().execute_raw(Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values)).await?;
    tx.announce_work();
    Ok(())
}

/// Leases up to `limit` of them to this server, with what their deliveries send. Those whose delivery has no values any
/// more are dropped.
///
/// # Errors
///
/// The database's.
pub async fn claim(tx: &Tx, limit: usize) -> Result<Vec<LeasedDelivery>> {
    let backend = tx.db().get_database_backend();
    let due = "SELECT id FROM extra_attempts WHERE parked = FALSE AND due_us <= $1 \
               AND (lease_owner IS NULL OR lease_owner NOT IN (SELECT id FROM servers)) ORDER BY due_us LIMIT $2";
    let chosen = match backend {
        DbBackend::Postgres => format!("= ANY (ARRAY({due} FOR UPDATE SKIP LOCKED))"),
        _ => format!("IN ({due})"),
    };
    let sql = format!(
        "UPDATE extra_attempts SET lease_owner = $3, lease_token = lease_token + 1 WHERE id {chosen} \
         RETURNING id, delivery_id, cause, lease_token"
    );
    let values =
        [tx.now().0.into(), i64::try_from(limit).unwrap_or(i64::MAX).into(), tx.store().local().server().into()];
    let rows = tx.db().query_all_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
    let mut leased = Vec::with_capacity(rows.len());
    for row in rows {
        let (id, cause): (Uuid, i16) = (row.try_get("", "id")?, row.try_get("", "cause")?);
        let delivery = DeliveryId(row.try_get("", "delivery_id")?);
        match leased_delivery(tx, delivery).await? {
            Some(delivery) => leased.push(LeasedDelivery {
                lease_token: row.try_get("", "lease_token")?,
                cause: Cause::try_from(cause).map_err(Error::internal)?,
                extra_id: Some(id),
                ..delivery
            }),
            None => delete(tx, id).await?,
        }
    }
    Ok(leased)
}

async fn leased_delivery(tx: &Tx, id: DeliveryId) -> Result<Option<LeasedDelivery>> {
    let sql = "SELECT id, workspace_id, webhook_id, webhook_event_id, contact_id, source, state, tag_ids, trigger_us, due_us, \
               snapshot, scheduled_count, causation_depth, traceparent, order_no, lease_token FROM deliveries \
               WHERE id = $1 AND snapshot IS NOT NULL";
    let statement = Statement::from_sql_and_values(tx.db().get_database_backend(), sql, [id.0.into()]);
    tx.db().query_one_raw(statement).await?.as_ref().map(leased_of).transpose()
}

/// Drops an attempt that was asked for.
///
/// # Errors
///
/// The database's.
pub async fn delete(tx: &Tx, id: Uuid) -> Result<()> {
    let statement = Statement::from_sql_and_values(
        tx.db().get_database_backend(),
        "DELETE FROM extra_attempts WHERE id = $1",
        [id.into()],
    );
    tx.db().execute_raw(statement).await?;
    Ok(())
}

/// Drops up to `limit` attempts that a webhook owes; those in flight end by themselves. Answers with how many there were.
///
/// # Errors
///
/// The database's.
pub async fn forget(tx: &Tx, webhook: WebhookId, limit: i64) -> Result<u64> {
    let sql = format!("{FORGET} AND id IN (SELECT id FROM extra_attempts WHERE webhook_id = $1 AND {FREE} LIMIT $2)");
    let statement =
        Statement::from_sql_and_values(tx.db().get_database_backend(), sql, [webhook.0.into(), limit.into()]);
    Ok(tx.db().execute_raw(statement).await?.rows_affected())
}

/// Drops the attempts that a webhook event owes; those in flight end by themselves.
///
/// # Errors
///
/// The database's.
pub async fn forget_event(tx: &Tx, webhook: WebhookId, event: WebhookEventId) -> Result<()> {
    let sql = format!(
        "{FORGET} AND {FREE} AND EXISTS \
         (SELECT 1 FROM deliveries d WHERE d.id = extra_attempts.delivery_id AND d.webhook_event_id = $2)"
    );
    let values = [webhook.0.into(), event.0.into()];
    tx.db().execute_raw(Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values)).await?;
    Ok(())
}

const FORGET: &str = "DELETE FROM extra_attempts WHERE webhook_id = $1";
const FREE: &str = "(lease_owner IS NULL OR lease_owner NOT IN (SELECT id FROM servers))";

/// Gives up the leases that this server holds in the database and doesn't know of; they are claimed again.
///
/// # Errors
///
/// The database's.
pub async fn release_unknown(tx: &Tx, known: &[Uuid]) -> Result<()> {
    let unknown = held_but_for(tx, "SELECT id FROM extra_attempts WHERE lease_owner = $1", known).await?;
    let bulk = Bulk::new(tx.db()).uuid("unknown_id", unknown);
    bulk.execute(tx.db(), |rows| {
        format!(
            "UPDATE extra_attempts SET lease_owner = NULL, lease_token = lease_token + 1 \
             FROM {rows} WHERE extra_attempts.id = r.unknown_id"
        )
    })
    .await?;
    tx.announce_work();
    Ok(())
}

/// Takes leased attempts out of the queue, without a lease: their webhook doesn't send.
///
/// # Errors
///
/// The database's.
pub async fn park(tx: &Tx, ids: &[Uuid]) -> Result<()> {
    for id in ids {
        let sql = "UPDATE extra_attempts SET parked = TRUE, lease_owner = NULL WHERE id = $1 AND lease_owner = $2";
        let values = [(*id).into(), tx.store().local().server().into()];
        tx.db().execute_raw(Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values)).await?;
    }
    Ok(())
}

/// Drops the attempts of a contact's deliveries, but of those that its deletion sets off. One in flight is left to its
/// settlement.
///
/// # Errors
///
/// The database's.
pub async fn drop_of_contact(tx: &Tx, contact: ContactId) -> Result<()> {
    let sql = format!(
        "DELETE FROM extra_attempts WHERE lease_owner IS NULL \
         AND delivery_id IN (SELECT id FROM deliveries WHERE contact_id = $1 AND source <> {})",
        Source::ContactDeleted.code()
    );
    tx.db()
        .execute_raw(Statement::from_sql_and_values(tx.db().get_database_backend(), sql, [contact.0.into()]))
        .await?;
    Ok(())
}
