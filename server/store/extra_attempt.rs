//! Attempts beside the schedule, as RetryDelivery and replays ask for: a small queue of their own.
//!
//! However one of a replay leaves the queue, the replay counts it: every deletion here says so.

use std::collections::HashMap;
use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, Statement, Value};
use uuid::Uuid;

use super::Tx;
use super::bulk::Bulk;
use super::delivery::LeasedDelivery;
use super::delivery::queue::{held_but_for, leased_of};
use super::replay::Ended;
use crate::domain::delivery::{Cause, Source};
use crate::domain::replay::ReplayState;
use crate::domain::time::Micros;
use crate::domain::webhook::WebhookState;
use crate::error::{Error, Result};
use crate::ids::{ContactId, DeliveryId, ReplayId, WebhookEventId, WebhookId, WorkspaceId, uuid_v7};

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

/// An attempt that a replay asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replayed {
    /// Of what.
    pub(super) delivery_id: DeliveryId,
    /// Its webhook.
    pub(super) webhook_id: WebhookId,
    /// Whether the webhook holds it: it doesn't send.
    pub(super) is_held: bool,
}

/// Asks for attempts of a replay, due now.
pub(super) async fn insert_replayed(
    tx: &Tx,
    workspace: WorkspaceId,
    replay: ReplayId,
    attempts: &[Replayed],
) -> Result<()> {
    if attempts.is_empty() {
        return Ok(());
    }
    let mut bulk = Bulk::new(tx.db())
        .uuid("id", attempts.iter().map(|_| uuid_v7(tx.now(), tx.store().entropy())))
        .uuid("delivery_id", attempts.iter().map(|attempt| attempt.delivery_id.0))
        .uuid("webhook_id", attempts.iter().map(|attempt| attempt.webhook_id.0))
        .int("parked", attempts.iter().map(|attempt| attempt.is_held.into()));
    let (workspace, replay, now) = (bulk.param(workspace.0), bulk.param(replay.0), bulk.param(tx.now().0));
    bulk.execute(tx.db(), |rows| {
        format!(
            "INSERT INTO extra_attempts (id, workspace_id, delivery_id, webhook_id, cause, due_us, parked, replay_id) \
             SELECT id, {workspace}, delivery_id, webhook_id, {}, {now}, parked = 1, {replay} FROM {rows}",
            Cause::Replay.code()
        )
    })
    .await?;
    tx.announce_work();
    Ok(())
}

/// Leases up to `limit` of them to this server, with what their deliveries send. Those whose delivery has no values any
/// more are dropped; those of a replay that was cancelled are left to it.
///
/// # Errors
///
/// The database's.
pub async fn claim(tx: &Tx, limit: usize) -> Result<Vec<LeasedDelivery>> {
    let backend = tx.db().get_database_backend();
    let due = format!(
        "SELECT id FROM extra_attempts WHERE parked = FALSE AND due_us <= $1 AND {} ORDER BY due_us LIMIT $2",
        claimable()
    );
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
    let wanted = rows.iter().map(|row| Ok(row.try_get("", "delivery_id")?)).collect::<Result<Vec<Uuid>>>()?;
    let deliveries = leased_deliveries(tx, wanted).await?;
    let (mut leased, mut empty) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        let (id, cause): (Uuid, i16) = (row.try_get("", "id")?, row.try_get("", "cause")?);
        match deliveries.get(&DeliveryId(row.try_get("", "delivery_id")?)) {
            Some(delivery) => leased.push(LeasedDelivery {
                lease_token: row.try_get("", "lease_token")?,
                cause: Cause::try_from(cause).map_err(Error::internal)?,
                extra_id: Some(id),
                ..delivery.clone()
            }),
            None => empty.push(id),
        }
    }
    for id in empty {
        delete(tx, id).await?;
    }
    Ok(leased)
}

/// The condition of those that nobody holds and whose replay, if they have one, wasn't cancelled.
fn claimable() -> String {
    format!(
        "{FREE} AND (replay_id IS NULL OR NOT EXISTS \
         (SELECT 1 FROM replays r WHERE r.id = extra_attempts.replay_id AND r.state = {}))",
        ReplayState::Cancelled.code()
    )
}

/// What is sent of those that have values.
async fn leased_deliveries(tx: &Tx, wanted: Vec<Uuid>) -> Result<HashMap<DeliveryId, LeasedDelivery>> {
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = Bulk::new(tx.db())
        .uuid("wanted_id", wanted)
        .query(tx.db(), |rows| {
            format!(
                "SELECT id, workspace_id, webhook_id, webhook_event_id, contact_id, source, state, tag_ids, trigger_us, due_us, \
                 snapshot, trigger_data, scheduled_count, causation_depth, traceparent, order_no, lease_token FROM deliveries \
                 WHERE id IN (SELECT wanted_id FROM {rows}) AND snapshot IS NOT NULL"
            )
        })
        .await?;
    rows.iter().map(|row| leased_of(row).map(|delivery| (delivery.id, delivery))).collect()
}

/// Drops an attempt that was asked for.
///
/// # Errors
///
/// The database's.
pub async fn delete(tx: &Tx, id: Uuid) -> Result<()> {
    remove(tx, "id = $1", vec![id.into()], Ended::Dropped).await.map(drop)
}

/// Ends an attempt under its lease, with how that counts for its replay. Answers with whether the lease held.
pub(super) async fn settle(tx: &Tx, id: Uuid, token: i64, ended: Ended) -> Result<bool> {
    let owner = tx.store().local().server();
    let condition = "id = $1 AND lease_owner = $2 AND lease_token = $3";
    Ok(remove(tx, condition, vec![id.into(), owner.into(), token.into()], ended).await? > 0)
}

/// Ends an attempt that was made and can't be recorded.
pub(super) async fn give_up(tx: &Tx, id: Uuid, token: i64) -> Result<()> {
    remove(tx, "id = $1 AND lease_token = $2", vec![id.into(), token.into()], Ended::Failed).await.map(drop)
}

/// Removes attempts; the replays that asked for them count them so. Answers with how many there were.
async fn remove(tx: &Tx, condition: &str, values: Vec<Value>, ended: Ended) -> Result<u64> {
    let sql = format!("DELETE FROM extra_attempts WHERE {condition} RETURNING replay_id");
    let rows =
        tx.db().query_all_raw(Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values)).await?;
    for row in &rows {
        let replay: Option<Uuid> = row.try_get("", "replay_id")?;
        if let Some(replay) = replay {
            tx.count_replayed(ReplayId(replay), ended);
        }
    }
    Ok(u64::try_from(rows.len()).unwrap_or(u64::MAX))
}

/// Drops up to `limit` attempts that a webhook owes; those in flight end by themselves. Answers with how many there were.
///
/// # Errors
///
/// The database's.
pub async fn forget(tx: &Tx, webhook: WebhookId, limit: i64) -> Result<u64> {
    let condition =
        format!("webhook_id = $1 AND id IN (SELECT id FROM extra_attempts WHERE webhook_id = $1 AND {FREE} LIMIT $2)");
    remove(tx, &condition, vec![webhook.0.into(), limit.into()], Ended::Dropped).await
}

/// Drops up to `limit` attempts that a replay owes; those in flight end by themselves. Answers with how many there were.
pub(super) async fn forget_replay(tx: &Tx, replay: ReplayId, limit: i64) -> Result<u64> {
    let condition =
        format!("replay_id = $1 AND id IN (SELECT id FROM extra_attempts WHERE replay_id = $1 AND {FREE} LIMIT $2)");
    remove(tx, &condition, vec![replay.0.into(), limit.into()], Ended::Dropped).await
}

/// Puts up to `limit` attempts of a replay into the queue that webhooks held which are active now. Answers with how many.
pub(super) async fn release(tx: &Tx, workspace: WorkspaceId, replay: ReplayId, limit: i64) -> Result<u64> {
    let held = format!(
        "SELECT e.id FROM webhooks w JOIN extra_attempts e ON e.webhook_id = w.id WHERE w.workspace_id = $2 \
         AND w.state = {} AND e.replay_id = $1 AND e.parked = TRUE LIMIT $3",
        WebhookState::Active.code()
    );
    // Whoever drops one of them waits for the replay's row, which is locked here: waiting for each other has no end.
    let chosen = match tx.db().get_database_backend() {
        DbBackend::Postgres => format!("= ANY (ARRAY({held} FOR UPDATE OF e SKIP LOCKED))"),
        _ => format!("IN ({held})"),
    };
    let sql = format!("UPDATE extra_attempts SET parked = FALSE, due_us = $4 WHERE id {chosen}");
    let values = [replay.0.into(), workspace.0.into(), limit.into(), tx.now().0.into()];
    let statement = Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values);
    let released = tx.db().execute_raw(statement).await?.rows_affected();
    if released > 0 {
        tx.announce_work();
    }
    Ok(released)
}

/// How many attempts of a replay are in the queue, those in flight included; counting ends at `limit`.
pub(super) async fn count_queued(tx: &Tx, replay: ReplayId, limit: i64) -> Result<i64> {
    let sql = "SELECT COUNT(*) AS queued FROM \
               (SELECT 1 FROM extra_attempts WHERE replay_id = $1 AND parked = FALSE LIMIT $2) AS found";
    let values = [replay.0.into(), limit.into()];
    let statement = Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values);
    let row = tx.db().query_one_raw(statement).await?;
    Ok(row.map(|row| row.try_get("", "queued")).transpose()?.unwrap_or(0))
}

/// How many attempts of a replay there are, held ones and those in flight included; counting ends at `limit`.
pub(super) async fn count_left(tx: &Tx, replay: ReplayId, limit: i64) -> Result<i64> {
    let sql = "SELECT COUNT(*) AS counted FROM (SELECT 1 FROM extra_attempts WHERE replay_id = $1 LIMIT $2) AS found";
    let values = [replay.0.into(), limit.into()];
    let statement = Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values);
    let row = tx.db().query_one_raw(statement).await?;
    Ok(row.map(|row| row.try_get("", "counted")).transpose()?.unwrap_or(0))
}

/// Drops the attempts that a webhook event owes; those in flight end by themselves.
///
/// # Errors
///
/// The database's.
pub async fn forget_event(tx: &Tx, webhook: WebhookId, event: WebhookEventId) -> Result<()> {
    let condition = format!(
        "webhook_id = $1 AND {FREE} AND EXISTS \
         (SELECT 1 FROM deliveries d WHERE d.id = extra_attempts.delivery_id AND d.webhook_event_id = $2)"
    );
    remove(tx, &condition, vec![webhook.0.into(), event.0.into()], Ended::Dropped).await.map(drop)
}

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

/// How long an attempt is put off whose endpoint has no room.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(1);

/// Gives leases up for a moment: their endpoints have no room.
///
/// # Errors
///
/// The database's.
pub async fn put_off(tx: &Tx, ids: &[Uuid]) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let mut bulk = Bulk::new(tx.db()).uuid("chosen", ids.iter().copied());
    let (owner, until) =
        (bulk.param(tx.store().local().server()), bulk.param(tx.now().saturating_add(NO_ROOM_PAUSE).0));
    bulk.execute(tx.db(), |rows| {
        format!(
            "UPDATE extra_attempts SET lease_owner = NULL, due_us = {until} FROM {rows} \
             WHERE extra_attempts.id = r.chosen AND extra_attempts.lease_owner = {owner}"
        )
    })
    .await?;
    // Whoever sleeps may sleep for longer than that.
    tx.announce_work();
    Ok(())
}

/// When the next attempt that nobody holds is due; `None` if none is.
///
/// # Errors
///
/// The database's.
pub async fn next_due(db: &impl ConnectionTrait) -> Result<Option<Micros>> {
    let sql =
        format!("SELECT due_us FROM extra_attempts WHERE parked = FALSE AND {} ORDER BY due_us LIMIT 1", claimable());
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await?;
    Ok(row.map(|row| row.try_get("", "due_us")).transpose()?.map(Micros))
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

/// Drops the attempts that wait for a delivery; those in flight end by themselves.
///
/// # Errors
///
/// The database's.
pub async fn forget_delivery(tx: &Tx, delivery: DeliveryId) -> Result<()> {
    remove(tx, &format!("delivery_id = $1 AND {FREE}"), vec![delivery.0.into()], Ended::Dropped).await.map(drop)
}

/// Drops the attempts of a contact's deliveries, but of those that its deletion sets off. One in flight is left to its
/// settlement.
///
/// # Errors
///
/// The database's.
pub async fn drop_of_contact(tx: &Tx, contact: ContactId) -> Result<()> {
    let condition = format!(
        "lease_owner IS NULL AND delivery_id IN (SELECT id FROM deliveries WHERE contact_id = $1 AND source <> {})",
        Source::ContactDeleted.code()
    );
    remove(tx, &condition, vec![contact.0.into()], Ended::Dropped).await.map(drop)
}

/// Drops attempts asked for before `before` that a disabled webhook holds. Answers with how many.
pub(super) async fn forget_held(tx: &Tx, before: Uuid, limit: i64) -> Result<u64> {
    let condition = format!(
        "id IN (SELECT e.id FROM extra_attempts e JOIN webhooks w ON w.id = e.webhook_id \
         WHERE e.id < $1 AND e.parked = TRUE AND e.lease_owner IS NULL AND w.state = {} ORDER BY e.id LIMIT $2)",
        WebhookState::Disabled.code()
    );
    remove(tx, &condition, vec![before.into(), limit.into()], Ended::Dropped).await
}
