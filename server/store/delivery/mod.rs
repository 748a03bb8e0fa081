//! Deliveries. [`queue`] inserts and leases them, [`lane`] holds those whose endpoint has no room, [`settle`] writes what came of an attempt, [`end`] ends them early; this
//! file reads them.

pub mod end;
pub mod lane;
pub mod queue;
pub mod settle;

use sea_orm::{ConnectionTrait, QueryResult, Statement, Value};

pub use queue::{LeasedDelivery, NewDelivery};

use super::outcome::tags_from_json;
use crate::domain::delivery::{Delivery, Reason, Source, State};
use crate::domain::outcome::DeliveryRef;
use crate::domain::request::Snapshot;
use crate::domain::time::Micros;
use crate::domain::webhook::WebhookState;
use crate::error::{Error, Result};
use crate::ids::{ContactId, DeliveryId, WebhookEventId, WebhookId, WorkspaceId};

/// The numbers of the states that this room writes SQL for.
pub(super) const DEFERRED: i16 = State::Deferred.code();
pub(super) const WAITING: i16 = State::Waiting.code();
/// [`WAITING`], of deliveries that are found by their ids: a sum, which is in no partial index. A plan that was made while
/// there were few would go through all that wait.
const IS_WAITING: &str = "deliveries.state + 0 = 2";
const _: () = assert!(WAITING == 2);

/// A delivery and its webhook's state; a webhook that is gone has none.
const SELECT: &str = "SELECT d.id, d.workspace_id, d.webhook_id, d.webhook_event_id, d.contact_id, d.source, d.state, d.reason, \
     d.tag_ids, d.trigger_us, d.due_us, d.snapshot, d.erased, d.attempt_count, d.coalesced_count, d.causation_depth, \
     d.created_us, d.finished_us, d.lane, CASE WHEN d.lease_owner IS NULL THEN 0 ELSE 1 END AS is_leased, w.state AS webhook_state \
     FROM deliveries d LEFT JOIN webhooks w ON w.id = d.webhook_id";

/// Selects deliveries for which all given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    /// Deliveries of these webhooks; empty for any.
    pub webhook_ids: Vec<WebhookId>,
    /// Deliveries of these contacts; empty for any.
    pub contact_ids: Vec<ContactId>,
    /// Deliveries in one of these states; empty for any.
    pub states: Vec<State>,
    /// Deliveries set off so; empty for any.
    pub sources: Vec<Source>,
    /// Deliveries recorded then or later.
    pub created_after: Option<Micros>,
    /// Deliveries recorded before.
    pub created_before: Option<Micros>,
}

/// A delivery.
///
/// # Errors
///
/// [`Error::NotFound`] if the workspace has none such; the database's.
pub async fn get(db: &impl ConnectionTrait, workspace: WorkspaceId, id: DeliveryId) -> Result<Delivery> {
    let sql = format!("{SELECT} WHERE d.id = $1 AND d.workspace_id = $2");
    let values = vec![id.0.into(), workspace.0.into()];
    let row = db.query_one_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, values)).await?;
    row.as_ref().map(delivery_of).transpose()?.ok_or_else(|| Error::not_found(id))
}

/// Deliveries, the newest first, before an id.
///
/// # Errors
///
/// The database's.
pub async fn list(
    db: &impl ConnectionTrait,
    workspace: WorkspaceId,
    filter: &DeliveryFilter,
    before: Option<DeliveryId>,
    limit: u64,
) -> Result<Vec<Delivery>> {
    let mut query = Conditions::new("d.workspace_id = ", workspace.0);
    if let Some(before) = before {
        query.and("d.id < ", before.0);
    }
    query.and_any("d.webhook_id", filter.webhook_ids.iter().map(|id| id.0.into()));
    query.and_any("d.contact_id", filter.contact_ids.iter().map(|id| id.0.into()));
    query.and_any("d.source", filter.sources.iter().map(|source| source.code().into()));
    query.and_states(&filter.states);
    if let Some(time) = filter.created_after {
        query.and("d.created_us >= ", time.0);
    }
    if let Some(time) = filter.created_before {
        query.and("d.created_us < ", time.0);
    }
    let (condition, values) = query.finish();
    let sql = format!("{SELECT} WHERE {condition} ORDER BY d.id DESC LIMIT {limit}");
    let rows = db.query_all_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, values)).await?;
    rows.iter().map(delivery_of).collect()
}

/// Conditions joined by AND, with their values.
struct Conditions {
    sql: String,
    values: Vec<Value>,
}

impl Conditions {
    fn new(condition: &str, value: impl Into<Value>) -> Self {
        Self { sql: format!("{condition}$1"), values: vec![value.into()] }
    }

    fn and(&mut self, condition: &str, value: impl Into<Value>) {
        self.values.push(value.into());
        self.sql.push_str(&format!(" AND {condition}${}", self.values.len()));
    }

    /// Nothing for an empty list.
    fn and_any(&mut self, column: &str, values: impl Iterator<Item = Value>) {
        let from = self.values.len() + 1;
        self.values.extend(values);
        if self.values.len() >= from {
            let list: Vec<String> = (from..=self.values.len()).map(|index| format!("${index}")).collect();
            self.sql.push_str(&format!(" AND {column} IN ({})", list.join(", ")));
        }
    }

    /// SENDING isn't kept: it is WAITING with a lease.
    fn and_states(&mut self, states: &[State]) {
        let alternatives: Vec<String> = states
            .iter()
            .map(|state| match state {
                State::Sending => format!("d.state = {WAITING} AND d.lease_owner IS NOT NULL"),
                State::Waiting => format!("d.state = {WAITING} AND d.lease_owner IS NULL"),
                other => format!("d.state = {}", other.code()),
            })
            .collect();
        if !alternatives.is_empty() {
            self.sql.push_str(&format!(" AND ({})", alternatives.join(" OR ")));
        }
    }

    fn finish(self) -> (String, Vec<Value>) {
        (self.sql, self.values)
    }
}

fn delivery_of(row: &QueryResult) -> Result<Delivery> {
    let reference = reference_of(row)?;
    let state: i16 = row.try_get("", "state")?;
    let reason: i16 = row.try_get("", "reason")?;
    let snapshot: Option<String> = row.try_get("", "snapshot")?;
    let (due, finished): (Option<i64>, Option<i64>) = (row.try_get("", "due_us")?, row.try_get("", "finished_us")?);
    let (attempts, coalesced): (i32, i32) = (row.try_get("", "attempt_count")?, row.try_get("", "coalesced_count")?);
    let is_leased: i32 = row.try_get("", "is_leased")?;
    let webhook_state: Option<i16> = row.try_get("", "webhook_state")?;
    let lane: i16 = row.try_get("", "lane")?;
    // What waits for its endpoint is sent when that has room: nobody knows when.
    let is_held = webhook_state != Some(WebhookState::Active.code()) || i64::from(lane) != lane::COMMON;
    let state = match State::try_from(state).map_err(Error::internal)? {
        State::Waiting if is_leased == 1 => State::Sending,
        other => other,
    };
    Ok(Delivery {
        id: reference.id,
        workspace_id: WorkspaceId(row.try_get("", "workspace_id")?),
        webhook_id: WebhookId(row.try_get("", "webhook_id")?),
        webhook_event_id: reference.webhook_event_id,
        contact_id: reference.contact_id,
        source: reference.source,
        state,
        reason: Reason::try_from(reason).map_err(Error::internal)?,
        tag_ids: reference.tag_ids,
        trigger_time: Micros(row.try_get("", "trigger_us")?),
        due: due.map(Micros).filter(|_| !state.is_final() && !is_held),
        snapshot: snapshot.map(|json| serde_json::from_str::<Snapshot>(&json)).transpose().map_err(Error::internal)?,
        erased: row.try_get("", "erased")?,
        attempt_count: u32::try_from(attempts).unwrap_or(0),
        coalesced_count: u32::try_from(coalesced).unwrap_or(0),
        causation_depth: row.try_get("", "causation_depth")?,
        created: Micros(row.try_get("", "created_us")?),
        finished: finished.map(Micros),
    })
}

/// What outcomes say of a delivery, from a row that has its columns.
pub(super) fn reference_of(row: &QueryResult) -> Result<DeliveryRef> {
    let source: i16 = row.try_get("", "source")?;
    let tags: String = row.try_get("", "tag_ids")?;
    Ok(DeliveryRef {
        id: DeliveryId(row.try_get("", "id")?),
        webhook_event_id: WebhookEventId(row.try_get("", "webhook_event_id")?),
        contact_id: ContactId(row.try_get("", "contact_id")?),
        source: Source::try_from(source).map_err(Error::internal)?,
        tag_ids: tags_from_json(&tags)?,
    })
}
