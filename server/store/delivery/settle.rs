//! What came of attempts: one transaction writes the delivery's new state and the attempt, which is the outcome too.

use std::collections::{HashMap, HashSet};

use sea_orm::{ConnectionTrait, QueryResult, Statement};
use uuid::Uuid;

use super::{IS_WAITING, end};
use crate::domain::delivery::{Attempt, Reason, Source, State};
use crate::domain::outcome::{DeliveryRef, Kind, Outcome};
use crate::domain::retry::Next;
use crate::domain::time::Micros;
use crate::error::Result;
use crate::ids::{DeliveryId, WebhookId, WorkspaceId};
use crate::store::bulk::Bulk;
use crate::store::replay::Ended;
use crate::store::{Tx, extra_attempt};

/// An attempt that was made under a lease, and what is to follow it.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// What outcomes say of the delivery.
    pub reference: DeliveryRef,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Its webhook.
    pub webhook_id: WebhookId,
    /// The token of the lease.
    pub lease_token: i64,
    /// The extra attempt that this was, if it wasn't the schedule's.
    pub extra_id: Option<Uuid>,
    /// The attempt; its number is given by the settlement.
    pub attempt: Attempt,
    /// What follows.
    pub next: Next,
}

/// A row after its settlement.
struct Settled {
    attempt_count: u32,
    is_erased: bool,
}

/// Settles attempts: each counts for its delivery if the lease is still the one it was made under; else it is recorded
/// and counts for nothing, but that a success is a success. Answers with the deliveries that were delivered or given up.
///
/// # Errors
///
/// The database's.
pub async fn settle(tx: &Tx, settlements: &[&Settlement]) -> Result<HashSet<DeliveryId>> {
    let mut ended = HashSet::new();
    let (extra, scheduled): (Vec<&Settlement>, Vec<&Settlement>) =
        settlements.iter().partition(|settlement| settlement.extra_id.is_some());
    let settled = settle_scheduled(tx, &scheduled).await?;
    for settlement in scheduled {
        let kind = match settled.get(&(settlement.reference.id, settlement.lease_token)) {
            Some(row) => Some(report(tx, settlement, settlement.next, row).await?),
            None => settle_missed(tx, settlement).await?,
        };
        note_end(&mut ended, settlement, kind);
    }
    for settlement in extra {
        let kind = settle_extra(tx, settlement).await?;
        note_end(&mut ended, settlement, kind);
    }
    Ok(ended)
}

fn note_end(ended: &mut HashSet<DeliveryId>, settlement: &Settlement, kind: Option<Kind>) {
    if matches!(kind, Some(Kind::Delivered | Kind::Exhausted)) {
        ended.insert(settlement.reference.id);
    }
}

/// Answers with the leases that held: of two attempts of one delivery, a stale one and its successor, one counts.
async fn settle_scheduled(tx: &Tx, settlements: &[&Settlement]) -> Result<HashMap<(DeliveryId, i64), Settled>> {
    if settlements.is_empty() {
        return Ok(HashMap::new());
    }
    let mut sorted = settlements.to_vec();
    sorted.sort_unstable_by_key(|settlement| settlement.reference.id);
    let mut bulk = Bulk::new(tx.db())
        .uuid("settled_id", sorted.iter().map(|settlement| settlement.reference.id.0))
        .int("token", sorted.iter().map(|settlement| settlement.lease_token))
        .int("new_state", sorted.iter().map(|settlement| settlement.next.state().code().into()))
        .int("new_reason", sorted.iter().map(|settlement| settlement.next.reason().code().into()))
        .optional_int("new_due_us", sorted.iter().map(|settlement| settlement.next.due().map(|due| due.0)));
    let owner = bulk.param(tx.store().local().server());
    let now = bulk.param(tx.now().0);
    let contact_deleted = Source::ContactDeleted.code();
    let rows = bulk
        .query(tx.db(), |rows| {
            format!(
                "UPDATE deliveries SET state = r.new_state, reason = r.new_reason, due_us = r.new_due_us, \
                 scheduled_count = scheduled_count + 1, attempt_count = attempt_count + 1, lease_owner = NULL, \
                 lane = 0, finished_us = CASE WHEN r.new_due_us IS NULL THEN {now} END, \
                 snapshot = CASE WHEN r.new_due_us IS NULL AND source = {contact_deleted} THEN NULL ELSE snapshot END, \
                 erased = erased OR (r.new_due_us IS NULL AND source = {contact_deleted}) \
                 FROM {rows} WHERE deliveries.id = r.settled_id AND deliveries.lease_owner = {owner} \
                 AND deliveries.lease_token = r.token AND {IS_WAITING} \
                 RETURNING deliveries.id, deliveries.lease_token, deliveries.attempt_count, deliveries.erased"
            )
        })
        .await?;
    rows.iter()
        .map(|row| {
            let lease = (DeliveryId(row.try_get("", "id")?), row.try_get("", "lease_token")?);
            Ok((lease, settled_of(row)?))
        })
        .collect()
}

/// Gives up the lease of an attempt that can't be recorded: the delivery is due again at `until`, as if it hadn't been
/// made. An attempt beside the schedule is dropped.
///
/// # Errors
///
/// The database's.
pub async fn put_off(tx: &Tx, settlement: &Settlement, until: Micros) -> Result<()> {
    let token = settlement.lease_token;
    if let Some(extra) = settlement.extra_id {
        return extra_attempt::give_up(tx, extra, token).await;
    }
    let sql = "UPDATE deliveries SET lease_owner = NULL, lane = 0, due_us = CASE WHEN due_us IS NULL THEN NULL ELSE $3 END \
               WHERE id = $1 AND lease_token = $2";
    execute(tx, sql, vec![settlement.reference.id.0.into(), token.into(), until.0.into()]).await
}

/// The lease was lost, or the delivery became final while the attempt was in flight. Answers with what was reported.
async fn settle_missed(tx: &Tx, settlement: &Settlement) -> Result<Option<Kind>> {
    if is_recorded(tx, settlement).await? {
        return Ok(None);
    }
    let Some((settled, token)) = count_attempt(tx, settlement).await? else {
        // The delivery's row is gone, and with it whom to tell.
        return Ok(None);
    };
    if token != settlement.lease_token {
        return report_lost(tx, settlement, &settled).await.map(Some);
    }
    // The lease ends with its attempt, also where the state is another's decision.
    let sql = "UPDATE deliveries SET lease_owner = NULL WHERE id = $1 AND lease_token = $2";
    execute(tx, sql, vec![settlement.reference.id.0.into(), token.into()]).await?;
    report_beside(tx, settlement, settled).await.map(Some)
}

/// An attempt beside the schedule: a success makes the delivery DELIVERED, a failure changes nothing. Answers with what
/// was reported.
async fn settle_extra(tx: &Tx, settlement: &Settlement) -> Result<Option<Kind>> {
    let Some(id) = settlement.extra_id else { return Ok(None) };
    let ended = if settlement.next == Next::Delivered { Ended::Delivered } else { Ended::Failed };
    let is_lost = !extra_attempt::settle(tx, id, settlement.lease_token, ended).await?;
    if is_lost && is_recorded(tx, settlement).await? {
        return Ok(None);
    }
    let Some((settled, _)) = count_attempt(tx, settlement).await? else { return Ok(None) };
    if is_lost {
        return report_lost(tx, settlement, &settled).await.map(Some);
    }
    report_beside(tx, settlement, settled).await.map(Some)
}

/// Whether the attempt was written before: by a transaction whose commit was unknown, and is.
async fn is_recorded(tx: &Tx, settlement: &Settlement) -> Result<bool> {
    let sql = "SELECT 1 AS found FROM outcomes WHERE delivery_id = $1 AND started_us = $2 AND cause = $3 AND attempt_number IS NOT NULL";
    let attempt = &settlement.attempt;
    let values = vec![settlement.reference.id.0.into(), attempt.started.0.into(), attempt.cause.code().into()];
    Ok(one(tx, sql, values).await?.is_some())
}

/// Counts an attempt that the schedule doesn't; answers with the lease's token as well.
async fn count_attempt(tx: &Tx, settlement: &Settlement) -> Result<Option<(Settled, i64)>> {
    let sql = "UPDATE deliveries SET attempt_count = attempt_count + 1 WHERE id = $1 \
               RETURNING attempt_count, erased, lease_token";
    let row = one(tx, sql, vec![settlement.reference.id.0.into()]).await?;
    row.map(|row| Ok((settled_of(&row)?, row.try_get("", "lease_token")?))).transpose()
}

/// A request that the endpoint accepted is delivered, whatever was decided meanwhile.
async fn count_success(tx: &Tx, settlement: &Settlement) -> Result<()> {
    let deletion = Source::ContactDeleted.code();
    let sql = format!(
        "UPDATE deliveries SET state = $2, reason = 0, due_us = NULL, parked = FALSE, \
         finished_us = COALESCE(finished_us, $3), \
         snapshot = CASE WHEN source = {deletion} THEN NULL ELSE snapshot END, erased = erased OR source = {deletion} \
         WHERE id = $1"
    );
    let values = vec![settlement.reference.id.0.into(), State::Delivered.code().into(), tx.now().0.into()];
    execute(tx, &sql, values).await
}

async fn report_lost(tx: &Tx, settlement: &Settlement, settled: &Settled) -> Result<Kind> {
    let mut lost = settlement.clone();
    lost.attempt.lease_lost = true;
    report_as(tx, &lost, Kind::AttemptFailed, settled, None).await
}

/// Reports an attempt that the schedule doesn't count.
async fn report_beside(tx: &Tx, settlement: &Settlement, mut settled: Settled) -> Result<Kind> {
    if settlement.next != Next::Delivered {
        return report_as(tx, settlement, Kind::AttemptFailed, &settled, None).await;
    }
    count_success(tx, settlement).await?;
    settled.is_erased |= settlement.reference.source == Source::ContactDeleted;
    report_as(tx, settlement, Kind::Delivered, &settled, None).await
}

async fn report(tx: &Tx, settlement: &Settlement, next: Next, settled: &Settled) -> Result<Kind> {
    report_as(tx, settlement, next.kind(), settled, next.due()).await
}

async fn report_as(
    tx: &Tx,
    settlement: &Settlement,
    kind: Kind,
    settled: &Settled,
    next: Option<Micros>,
) -> Result<Kind> {
    let mut attempt = settlement.attempt.clone();
    attempt.number = settled.attempt_count;
    if settled.is_erased {
        end::erase_attempts(tx, &settlement.reference).await?;
        attempt.url.clear();
        attempt.response_body.clear();
        attempt.response_location.clear();
        attempt.error_detail.clear();
    }
    tx.report(Outcome {
        workspace_id: settlement.workspace_id,
        kind,
        reason: if kind == Kind::Exhausted { settlement.next.reason() } else { Reason::None },
        recorded: tx.now(),
        webhook_id: settlement.webhook_id,
        delivery: Some(settlement.reference.clone()),
        attempt: Some(attempt),
        next_attempt: next,
    });
    Ok(kind)
}

fn settled_of(row: &QueryResult) -> Result<Settled> {
    let attempt_count: i32 = row.try_get("", "attempt_count")?;
    Ok(Settled { attempt_count: u32::try_from(attempt_count).unwrap_or(0), is_erased: row.try_get("", "erased")? })
}

async fn one(tx: &Tx, sql: &str, values: Vec<sea_orm::Value>) -> Result<Option<QueryResult>> {
    let statement = Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values);
    Ok(tx.db().query_one_raw(statement).await?)
}

async fn execute(tx: &Tx, sql: &str, values: Vec<sea_orm::Value>) -> Result<()> {
    tx.db().execute_raw(Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values)).await?;
    Ok(())
}
