//! The queue: new deliveries go in, some of them already leased; due ones are leased by claiming.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, QueryResult, Statement};
use uuid::Uuid;

use super::{DEFERRED, IS_WAITING, WAITING, lane, reference_of};
use crate::domain::delivery::{Cause, Reason, Source, State};
use crate::domain::outcome::DeliveryRef;
use crate::domain::request::Snapshot;
use crate::domain::time::Micros;
use crate::domain::trigger_data::TriggerData;
use crate::error::{Error, Result};
use crate::ids::{ContactId, DeliveryId, TagId, WebhookEventId, WebhookId, WorkspaceId};
use crate::store::bulk::Bulk;
use crate::store::outcome::tags_to_json;
use crate::store::retention::first_id_of;
use crate::store::{Tx, replay, trigger_data};

/// A delivery to insert.
#[derive(Clone, Debug)]
pub struct NewDelivery {
    /// What outcomes say of it: id, webhook event, contact, source, tags.
    pub reference: DeliveryRef,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Its webhook.
    pub webhook_id: WebhookId,
    /// Its first state.
    pub state: State,
    /// Why it is in it.
    pub reason: Reason,
    /// When the trigger was made.
    pub trigger_time: Micros,
    /// When it is due; `None` when it is final from the start.
    pub due: Option<Micros>,
    /// The values to send.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The trigger's own data, for a deferral, which is rendered later.
    pub data: Option<Arc<TriggerData>>,
    /// How many later triggers a deferral has taken in.
    pub coalesced_count: u32,
    /// How many causes inside the system lie before it.
    pub causation_depth: i16,
    /// The last of them.
    pub cause_id: Option<Uuid>,
    /// The trace that the trigger belongs to, as W3C `traceparent`.
    pub traceparent: Option<String>,
    /// Whether this server's dispatcher sends it without a claim.
    pub is_leased: bool,
    /// Whether it waits in the lane of its endpoint.
    pub is_in_lane: bool,
    /// Its place in its chain; `None` where order doesn't count.
    pub order: Option<i64>,
}

/// What a lease gives: all that an attempt needs beside the webhook.
#[derive(Clone, Debug)]
pub struct LeasedDelivery {
    /// Its id, the `webhook-id` header.
    pub id: DeliveryId,
    /// What outcomes say of it.
    pub reference: DeliveryRef,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Its webhook.
    pub webhook_id: WebhookId,
    /// Its state: WAITING, or DEFERRED when a deferral is due.
    pub state: State,
    /// When the trigger was made.
    pub trigger_time: Micros,
    /// When it was due.
    pub due: Micros,
    /// The values to send; `None` for a deferral.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The data of a deferral's last trigger.
    pub data: Option<Arc<TriggerData>>,
    /// Attempts of the schedule made before.
    pub scheduled_count: u32,
    /// How many causes inside the system lie before it.
    pub causation_depth: i16,
    /// The trace that the trigger belongs to.
    pub traceparent: Option<String>,
    /// Its place in its chain; `None` where order doesn't count.
    pub order: Option<i64>,
    /// Guards the settlement.
    pub lease_token: i64,
    /// Why the attempt is made.
    pub cause: Cause,
    /// The extra attempt that this is, if it isn't the schedule's.
    pub extra_id: Option<Uuid>,
}

/// The token of a delivery that is inserted leased.
pub const FIRST_TOKEN: i64 = 1;

/// Inserts deliveries.
///
/// # Errors
///
/// The database's.
pub async fn insert(tx: &Tx, deliveries: &[NewDelivery]) -> Result<()> {
    if deliveries.is_empty() {
        return Ok(());
    }
    let (rows, now) = rows(tx, deliveries);
    rows.execute(tx.db(), |rows| insert_sql(rows, &now, "")).await?;
    Ok(())
}

/// Inserts deferred deliveries. Where there is one already for the webhook event and contact, it takes the trigger in
/// instead: tags, time, data, cause and trace are replaced, the count is raised, the due time stays. Answers with the ids that
/// stand.
///
/// # Errors
///
/// The database's.
pub async fn insert_deferred(tx: &Tx, deliveries: &[NewDelivery]) -> Result<Vec<Deferral>> {
    let mut sorted = deliveries.to_vec();
    sorted.sort_unstable_by_key(NewDelivery::key);
    let (rows, now) = rows(tx, &sorted);
    let stored = rows
        .optional_text("trigger_data", sorted.iter().map(|delivery| trigger_data::to_json(delivery.data.as_deref())))
        .query(tx.db(), |rows| {
            format!(
                "{} ON CONFLICT (webhook_event_id, contact_id) WHERE state = {DEFERRED} DO UPDATE SET \
                 {}, trigger_us = excluded.trigger_us, \
                 coalesced_count = deliveries.coalesced_count + excluded.coalesced_count + 1 \
                 RETURNING webhook_event_id, contact_id, id, due_us",
                insert_sql(rows, &now, ", trigger_data"),
                taking_in("excluded")
            )
        })
        .await?;
    stored.iter().map(deferral_of).collect()
}

/// A later trigger for a deferral.
#[derive(Clone, Debug)]
pub struct Coalesced {
    /// Whose deferral.
    pub webhook_event_id: WebhookEventId,
    /// Whose deferral.
    pub contact_id: ContactId,
    /// The tags of the last trigger.
    pub tag_ids: Vec<TagId>,
    /// How many causes inside the system lie before the deepest of them.
    pub causation_depth: i16,
    /// The cause of the last one.
    pub cause_id: Option<Uuid>,
    /// The trace that the last one belongs to.
    pub traceparent: Option<String>,
    /// The data of the last one.
    pub data: Option<Arc<TriggerData>>,
    /// How many triggers to take in.
    pub count: u32,
}

/// A deferral that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deferral {
    /// Whose it is.
    pub webhook_event_id: WebhookEventId,
    /// Whose it is.
    pub contact_id: ContactId,
    /// Its delivery.
    pub id: DeliveryId,
    /// The end of its window.
    pub due: Micros,
}

/// Lets deferrals that wait take in later triggers; answers with those that did.
///
/// # Errors
///
/// The database's.
pub async fn coalesce(tx: &Tx, triggers: &[Coalesced]) -> Result<Vec<Deferral>> {
    if triggers.is_empty() {
        return Ok(Vec::new());
    }
    let mut triggers = triggers.to_vec();
    triggers.sort_unstable_by_key(|trigger| (trigger.webhook_event_id, trigger.contact_id));
    let mut bulk = Bulk::new(tx.db())
        .uuid("webhook_event_id", triggers.iter().map(|trigger| trigger.webhook_event_id.0))
        .uuid("contact_id", triggers.iter().map(|trigger| trigger.contact_id.0))
        .text("tag_ids", triggers.iter().map(|trigger| tags_to_json(&trigger.tag_ids)))
        .int("causation_depth", triggers.iter().map(|trigger| trigger.causation_depth.into()))
        .optional_uuid("cause_id", triggers.iter().map(|trigger| trigger.cause_id))
        .optional_text("traceparent", triggers.iter().map(|trigger| trigger.traceparent.clone()))
        .optional_text("trigger_data", triggers.iter().map(|trigger| trigger_data::to_json(trigger.data.as_deref())))
        .int("taken_in", triggers.iter().map(|trigger| trigger.count.into()));
    let now = bulk.param(tx.now().0);
    let rows = bulk
        .query(tx.db(), |rows| {
            format!(
                "UPDATE deliveries SET {}, trigger_us = {now}, coalesced_count = coalesced_count + r.taken_in \
                 FROM {rows} WHERE deliveries.webhook_event_id = r.webhook_event_id AND deliveries.contact_id = r.contact_id \
                 AND deliveries.state = {DEFERRED} \
                 RETURNING deliveries.webhook_event_id, deliveries.contact_id, deliveries.id, deliveries.due_us",
                taking_in("r")
            )
        })
        .await?;
    rows.iter().map(deferral_of).collect()
}

/// What a deferral becomes by a later trigger: that one's, but as deep as the deeper of them. What it sets off follows from
/// both. With the depth of the last one, a circle through a deferral would begin anew with every call that joins it there,
/// and never come to its end.
fn taking_in(trigger: &str) -> String {
    format!(
        "tag_ids = {trigger}.tag_ids, cause_id = {trigger}.cause_id, traceparent = {trigger}.traceparent, \
         trigger_data = {trigger}.trigger_data, causation_depth = CASE WHEN {trigger}.causation_depth > deliveries.causation_depth \
         THEN {trigger}.causation_depth ELSE deliveries.causation_depth END"
    )
}

fn deferral_of(row: &QueryResult) -> Result<Deferral> {
    Ok(Deferral {
        webhook_event_id: WebhookEventId(row.try_get("", "webhook_event_id")?),
        contact_id: ContactId(row.try_get("", "contact_id")?),
        id: DeliveryId(row.try_get("", "id")?),
        due: Micros(row.try_get("", "due_us")?),
    })
}

fn rows(tx: &Tx, deliveries: &[NewDelivery]) -> (Bulk, String) {
    let each = || deliveries.iter();
    let owner = tx.store().local().server();
    let snapshot = |delivery: &NewDelivery| {
        // Plain data: it can't fail to serialise.
        delivery.snapshot.as_ref().map(|snapshot| serde_json::to_string(&**snapshot).unwrap_or_default())
    };
    let mut bulk = Bulk::new(tx.db())
        .uuid("id", each().map(|delivery| delivery.reference.id.0))
        .uuid("workspace_id", each().map(|delivery| delivery.workspace_id.0))
        .uuid("webhook_id", each().map(|delivery| delivery.webhook_id.0))
        .uuid("webhook_event_id", each().map(|delivery| delivery.reference.webhook_event_id.0))
        .uuid("contact_id", each().map(|delivery| delivery.reference.contact_id.0))
        .int("source", each().map(|delivery| delivery.reference.source.code().into()))
        .int("state", each().map(|delivery| delivery.state.code().into()))
        .int("reason", each().map(|delivery| delivery.reason.code().into()))
        .text("tag_ids", each().map(|delivery| tags_to_json(&delivery.reference.tag_ids)))
        .int("trigger_us", each().map(|delivery| delivery.trigger_time.0))
        .optional_int("due_us", each().map(|delivery| delivery.due.map(|due| due.0)))
        .optional_text("snapshot", each().map(snapshot))
        .int("coalesced_count", each().map(|delivery| delivery.coalesced_count.into()))
        .int("causation_depth", each().map(|delivery| delivery.causation_depth.into()))
        .optional_uuid("cause_id", each().map(|delivery| delivery.cause_id))
        .optional_text("traceparent", each().map(|delivery| delivery.traceparent.clone()))
        .optional_uuid("lease_owner", each().map(|delivery| delivery.is_leased.then_some(owner)))
        .int("lane", each().map(|delivery| if delivery.is_in_lane { lane::LANE } else { lane::COMMON }))
        .optional_int("order_no", each().map(|delivery| delivery.order));
    let now = bulk.param(tx.now().0);
    (bulk, now)
}

/// `more` names further columns of the rows, each after a comma.
fn insert_sql(rows: &str, now: &str, more: &str) -> String {
    format!(
        "INSERT INTO deliveries (id, workspace_id, webhook_id, webhook_event_id, contact_id, source, state, reason, tag_ids, \
         trigger_us, due_us, snapshot, coalesced_count, causation_depth, cause_id, traceparent, lease_owner, lease_token, \
         created_us, finished_us, lane, order_no{more}) \
         SELECT id, workspace_id, webhook_id, webhook_event_id, contact_id, source, state, reason, tag_ids, trigger_us, due_us, \
         snapshot, coalesced_count, causation_depth, cause_id, traceparent, lease_owner, \
         CASE WHEN lease_owner IS NULL THEN 0 ELSE {FIRST_TOKEN} END, {now}, CASE WHEN due_us IS NULL THEN {now} END, \
         lane, order_no{more} FROM {rows} WHERE TRUE"
    )
}

/// How far back a claim looks. Every delivery passes through the index of what is due, and while some session of
/// PostgreSQL holds an old snapshot the entries of finished ones can't be removed; a claim that starts at the index's
/// beginning would read them all. What is due is mostly due now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The last minute.
    Recent,
    /// From where a claim that took all that it could came to, or the last minute if that is more.
    From(Micros),
    /// Everything: what others left behind, and a backlog.
    Full,
}

impl Look {
    const RECENT: std::time::Duration = std::time::Duration::from_secs(60);

    /// The look that sees what was due at a time.
    #[must_use]
    pub fn reaching(due: Micros, now: Micros) -> Self {
        if due >= Self::Recent.floor(now) { Self::Recent } else { Self::Full }
    }

    fn floor(self, now: Micros) -> Micros {
        let recent = now.saturating_sub(Self::RECENT);
        match self {
            Self::Recent => recent,
            Self::From(place) => place.min(recent),
            Self::Full => Micros::MIN,
        }
    }
}

/// How far ahead of now a delivery may have been made: the clocks of servers differ.
const AHEAD: Duration = Duration::from_secs(5);

/// Makes up to `limit` deliveries due that were due at once by a clock which has been set back since: they would wait until
/// it is that time again. They are found by their ids, beyond those that can be made now. A retry keeps its time.
///
/// # Errors
///
/// The database's.
pub async fn pull_in(tx: &Tx, limit: usize) -> Result<()> {
    let backend = tx.db().get_database_backend();
    let early = format!(
        "SELECT id FROM deliveries WHERE id > $2 AND {IS_WAITING} AND due_us > $1 AND attempt_count = 0 \
         AND (lease_owner IS NULL OR lease_owner NOT IN (SELECT id FROM servers)) ORDER BY id LIMIT $3"
    );
    let chosen = match backend {
        DbBackend::Postgres => format!("= ANY (ARRAY({early} FOR UPDATE SKIP LOCKED))"),
        _ => format!("IN ({early})"),
    };
    let sql = format!("UPDATE deliveries SET due_us = $1 WHERE id {chosen}");
    let first = first_id_of(tx.now().saturating_add(AHEAD));
    let values = [tx.now().0.into(), first.into(), i64::try_from(limit).unwrap_or(i64::MAX).into()];
    tx.db().execute_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
    Ok(())
}

/// The columns that make a [`LeasedDelivery`].
pub(super) const LEASED: &str = "deliveries.id, workspace_id, webhook_id, webhook_event_id, contact_id, source, state, tag_ids, trigger_us, \
     due_us, snapshot, trigger_data, scheduled_count, causation_depth, traceparent, order_no, lease_token";

/// Leases up to `limit` due deliveries to this server: those that nobody holds, and those held by servers that are dead.
/// The caller holds the gate and decides in the same transaction what to do with deliveries of webhooks that don't send.
/// [`Look`] says how far back it looks.
///
/// # Errors
///
/// The database's.
pub async fn claim(tx: &Tx, limit: usize, look: Look) -> Result<Vec<LeasedDelivery>> {
    let backend = tx.db().get_database_backend();
    let due = format!(
        "SELECT id FROM deliveries WHERE state IN ({DEFERRED}, {WAITING}) AND parked = FALSE AND lane = 0 \
         AND due_us <= $1 AND due_us >= $4 AND (lease_owner IS NULL OR lease_owner NOT IN (SELECT id FROM servers)) ORDER BY due_us LIMIT $2"
    );
    // SQLite has one writer and no row locks.
    let chosen = match backend {
        DbBackend::Postgres => format!("= ANY (ARRAY({due} FOR UPDATE SKIP LOCKED))"),
        _ => format!("IN ({due})"),
    };
    let sql = format!(
        "UPDATE deliveries SET lease_owner = $3, lease_token = lease_token + 1 WHERE id {chosen} RETURNING {LEASED}"
    );
    let values = [
        tx.now().0.into(),
        i64::try_from(limit).unwrap_or(i64::MAX).into(),
        tx.store().local().server().into(),
        look.floor(tx.now()).0.into(),
    ];
    let rows = tx.db().query_all_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
    let mut leased = rows.iter().map(leased_of).collect::<Result<Vec<_>>>()?;
    leased.sort_by_key(|delivery| (delivery.due, delivery.id));
    Ok(leased)
}

/// Leases anew what this server holds in the database and doesn't know of: `known` is all that it does. A commit whose
/// result was unknown leaves such leases behind.
///
/// # Errors
///
/// The database's.
pub async fn reclaim(tx: &Tx, known: &[Uuid]) -> Result<Vec<LeasedDelivery>> {
    let sql = format!(
        "SELECT id FROM deliveries WHERE state IN ({DEFERRED}, {WAITING}) AND parked = FALSE AND lease_owner = $1"
    );
    let unknown = held_but_for(tx, &sql, known).await?;
    let bulk = Bulk::new(tx.db()).uuid("unknown_id", unknown);
    let rows = bulk
        .query(tx.db(), |rows| {
            format!(
                "UPDATE deliveries SET lease_token = lease_token + 1 FROM {rows} WHERE deliveries.id = r.unknown_id \
                 RETURNING {LEASED}"
            )
        })
        .await?;
    rows.iter().map(leased_of).collect()
}

/// What this server holds, by a query of its ids, but for what is known.
pub(in crate::store) async fn held_but_for(tx: &Tx, sql: &str, known: &[Uuid]) -> Result<Vec<Uuid>> {
    let owner = tx.store().local().server();
    let statement = Statement::from_sql_and_values(tx.db().get_database_backend(), sql, [owner.into()]);
    let known: HashSet<&Uuid> = known.iter().collect();
    let mut unknown = Vec::new();
    for row in tx.db().query_all_raw(statement).await? {
        let id: Uuid = row.try_get("", "id")?;
        if !known.contains(&id) {
            unknown.push(id);
        }
    }
    Ok(unknown)
}

/// Takes leased deliveries out of the queue, without a lease: their webhook doesn't send. They come back when it does.
///
/// # Errors
///
/// The database's.
pub async fn park(tx: &Tx, ids: &[DeliveryId]) -> Result<()> {
    release(tx, ids, "parked = TRUE").await
}

/// Gives leases back, so that others can claim.
///
/// # Errors
///
/// The database's.
pub async fn give_back(tx: &Tx, ids: &[DeliveryId]) -> Result<()> {
    release(tx, ids, "parked = FALSE").await
}

pub(super) async fn release(tx: &Tx, ids: &[DeliveryId], set: &str) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let mut bulk = Bulk::new(tx.db()).uuid("chosen", ids.iter().map(|id| id.0));
    let owner = bulk.param(tx.store().local().server());
    bulk.execute(tx.db(), |rows| {
        format!(
            "UPDATE deliveries SET {set}, lease_owner = NULL FROM {rows} \
             WHERE deliveries.id = r.chosen AND deliveries.lease_owner = {owner}"
        )
    })
    .await?;
    Ok(())
}

/// Puts up to `limit` deliveries that a webhook held back into the queue, and as many attempts beside the schedule; those
/// of replays are put back at their rate. Answers with whether these are all.
///
/// # Errors
///
/// The database's.
pub async fn unpark(tx: &Tx, workspace: WorkspaceId, webhook: WebhookId, limit: i64) -> Result<bool> {
    let mut are_all = true;
    // Into the lane, since they may be many: others needn't wait until claims have come past them.
    let lane = format!(
        ", lane = CASE WHEN state = {WAITING} AND lane = {COMMON} THEN {LANE} ELSE lane END",
        COMMON = lane::COMMON,
        LANE = lane::LANE
    );
    let live = format!("AND state IN ({DEFERRED}, {WAITING})");
    for (table, live, lane) in
        [("deliveries", live.as_str(), lane.as_str()), ("extra_attempts", "AND replay_id IS NULL", "")]
    {
        // What was due long ago is due now: claims look no further back than a minute, but for the poll's.
        let sql = format!(
            "UPDATE {table} SET parked = FALSE{lane}, due_us = CASE WHEN due_us < $2 THEN $2 ELSE due_us END \
             WHERE id IN (SELECT id FROM {table} WHERE webhook_id = $1 {live} AND parked = TRUE LIMIT $3)"
        );
        let values = [webhook.0.into(), tx.now().0.into(), limit.into()];
        let statement = Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values);
        let unparked = tx.db().execute_raw(statement).await?.rows_affected();
        are_all &= i64::try_from(unparked).unwrap_or(i64::MAX) < limit;
    }
    tx.note_lane(webhook, workspace);
    replay::resumed(tx, webhook).await?;
    tx.announce_work();
    Ok(are_all)
}

/// When the next delivery that nobody holds is due; `None` if none is. It looks back as far as [`Look::Recent`].
///
/// # Errors
///
/// The database's.
pub async fn next_due(db: &impl ConnectionTrait, now: Micros) -> Result<Option<Micros>> {
    let sql = format!(
        "SELECT due_us FROM deliveries WHERE state IN ({DEFERRED}, {WAITING}) AND parked = FALSE AND lane = 0 AND due_us >= $1 \
         AND (lease_owner IS NULL OR lease_owner NOT IN (SELECT id FROM servers)) ORDER BY due_us LIMIT 1"
    );
    let values = [Look::Recent.floor(now).0.into()];
    let row = db.query_one_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, values)).await?;
    Ok(row.map(|row| row.try_get("", "due_us")).transpose()?.map(Micros))
}

/// Turns a deferral that is due and leased into a delivery that waits, with its values.
///
/// # Errors
///
/// The database's.
pub async fn promote(tx: &Tx, promoted: &[(DeliveryId, Arc<Snapshot>, Option<i64>)]) -> Result<()> {
    if promoted.is_empty() {
        return Ok(());
    }
    let snapshots = promoted.iter().map(|(_, snapshot, _)| serde_json::to_string(&**snapshot).unwrap_or_default());
    let bulk = Bulk::new(tx.db())
        .uuid("chosen", promoted.iter().map(|(id, ..)| id.0))
        .text("snapshot", snapshots)
        .optional_int("order_no", promoted.iter().map(|(.., order)| *order));
    bulk.execute(tx.db(), |rows| {
        format!(
            "UPDATE deliveries SET state = {WAITING}, reason = 0, snapshot = r.snapshot, trigger_data = NULL, order_no = r.order_no FROM {rows} \
             WHERE deliveries.id = r.chosen"
        )
    })
    .await?;
    Ok(())
}

pub(in crate::store) fn leased_of(row: &QueryResult) -> Result<LeasedDelivery> {
    let reference = reference_of(row)?;
    let state: i16 = row.try_get("", "state")?;
    let snapshot: Option<String> = row.try_get("", "snapshot")?;
    let data: Option<String> = row.try_get("", "trigger_data")?;
    let scheduled_count: i32 = row.try_get("", "scheduled_count")?;
    let due: Option<i64> = row.try_get("", "due_us")?;
    Ok(LeasedDelivery {
        id: reference.id,
        reference,
        workspace_id: WorkspaceId(row.try_get("", "workspace_id")?),
        webhook_id: WebhookId(row.try_get("", "webhook_id")?),
        state: State::try_from(state).map_err(Error::internal)?,
        trigger_time: Micros(row.try_get("", "trigger_us")?),
        due: Micros(due.unwrap_or(0)),
        snapshot: snapshot.map(|json| serde_json::from_str(&json)).transpose().map_err(Error::internal)?.map(Arc::new),
        data: trigger_data::from_json(data)?,
        scheduled_count: u32::try_from(scheduled_count).unwrap_or(0),
        causation_depth: row.try_get("", "causation_depth")?,
        traceparent: row.try_get("", "traceparent")?,
        order: row.try_get("", "order_no")?,
        lease_token: row.try_get("", "lease_token")?,
        cause: Cause::Scheduled,
        extra_id: None,
    })
}

impl NewDelivery {
    /// Whose deferral it is, if it is one.
    #[must_use]
    pub fn key(&self) -> (WebhookEventId, ContactId) {
        (self.reference.webhook_event_id, self.reference.contact_id)
    }

    /// The lease that a delivery is inserted with.
    #[must_use]
    pub fn leased(&self) -> LeasedDelivery {
        LeasedDelivery {
            id: self.reference.id,
            reference: self.reference.clone(),
            workspace_id: self.workspace_id,
            webhook_id: self.webhook_id,
            state: self.state,
            trigger_time: self.trigger_time,
            due: self.due.unwrap_or(self.trigger_time),
            snapshot: self.snapshot.clone(),
            data: self.data.clone(),
            scheduled_count: 0,
            causation_depth: self.causation_depth,
            traceparent: self.traceparent.clone(),
            order: self.order,
            lease_token: FIRST_TOKEN,
            cause: Cause::Scheduled,
            extra_id: None,
        }
    }
}

/// Whether a delivery of this source may follow a cause at this depth.
#[must_use]
pub fn is_too_deep(depth: i16, source: Source) -> bool {
    source != Source::Test && depth > crate::domain::delivery::MAX_CAUSATION_DEPTH
}
