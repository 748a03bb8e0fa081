//! The ways of contacts through campaigns.
//!
//! What a step does is a change of this database, and is committed together with the step: no lease is needed for it to be
//! made once, a row lock is enough.

use std::collections::HashSet;
use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, QueryResult, Statement, Value};
use uuid::Uuid;

use super::bulk::Bulk;
use super::{Tx, campaign_node, trigger_data};
use crate::domain::campaign::{Campaign, Enrollment, EnrollmentState, Reentry};
use crate::domain::time::Micros;
use crate::error::{Error, Result};
use crate::ids::{CampaignId, ContactId, EnrollmentId, WorkspaceId};

const COLUMNS: &str = "id, workspace_id, campaign_id, contact_id, state, node, due_us, waiting, steps, failures, error, \
                       causation_depth, traceparent, trigger_data, created_us, ended_us";
/// How far apart what was held is spread: 500 a second.
const SPREAD: Duration = Duration::from_millis(2);

/// Inserts ways that begin, but for contacts that are in their campaign already. Answers with those that were inserted.
/// (Campaign, contact) are distinct.
///
/// # Errors
///
/// The database's.
pub async fn insert(tx: &Tx, new: &[Enrollment]) -> Result<HashSet<EnrollmentId>> {
    if new.is_empty() {
        return Ok(HashSet::new());
    }
    let mut new: Vec<&Enrollment> = new.iter().collect();
    // In one order everywhere, so that two transactions wait for each other instead of locking up.
    new.sort_unstable_by_key(|row| (row.campaign_id, row.contact_id));
    let mut bulk = Bulk::new(tx.db())
        .uuid("id", new.iter().map(|row| row.id.0))
        .uuid("workspace_id", new.iter().map(|row| row.workspace_id.0))
        .uuid("campaign_id", new.iter().map(|row| row.campaign_id.0))
        .uuid("contact_id", new.iter().map(|row| row.contact_id.0))
        .text("node", new.iter().map(|row| row.node.clone()))
        .int("depth", new.iter().map(|row| row.depth.into()))
        .optional_text("traceparent", new.iter().map(|row| row.traceparent.clone()))
        .optional_text("trigger_data", new.iter().map(|row| trigger_data::to_json(row.data.as_deref())));
    let now = bulk.param(tx.now().0);
    let rows = bulk
        .query(tx.db(), |rows| {
            format!(
                "INSERT INTO enrollments (id, workspace_id, campaign_id, contact_id, state, node, due_us, \
                 causation_depth, traceparent, trigger_data, created_us) \
                 SELECT id, workspace_id, campaign_id, contact_id, 1, node, {now}, depth, traceparent, trigger_data, {now} \
                 FROM {rows} \
                 WHERE TRUE ON CONFLICT (campaign_id, contact_id) WHERE state = 1 DO NOTHING RETURNING id"
            )
        })
        .await?;
    tx.announce_enrollments();
    rows.iter().map(|row| Ok(EnrollmentId(row.try_get("", "id")?))).collect()
}

/// Of contacts and campaigns, those that were together once.
///
/// # Errors
///
/// The database's.
pub async fn met(tx: &Tx, pairs: &[(CampaignId, ContactId)]) -> Result<HashSet<(CampaignId, ContactId)>> {
    if pairs.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = Bulk::new(tx.db())
        .uuid("campaign_id", pairs.iter().map(|(campaign, _)| campaign.0))
        .uuid("contact_id", pairs.iter().map(|(_, contact)| contact.0))
        .query(tx.db(), |rows| {
            format!(
                "SELECT DISTINCT e.campaign_id, e.contact_id FROM {rows} JOIN enrollments e \
                 ON e.contact_id = r.contact_id AND e.campaign_id = r.campaign_id"
            )
        })
        .await?;
    let pair = |row: &QueryResult| {
        Ok((CampaignId(row.try_get("", "campaign_id")?), ContactId(row.try_get("", "contact_id")?)))
    };
    rows.iter().map(pair).collect()
}

/// Ways that are due, locked until the commit; those that another server is at are left out.
///
/// # Errors
///
/// The database's.
pub async fn due(tx: &Tx, limit: usize) -> Result<Vec<Enrollment>> {
    let lock = match tx.db().get_database_backend() {
        DbBackend::Postgres => "FOR UPDATE SKIP LOCKED",
        _ => "",
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM enrollments WHERE state = 1 AND parked = FALSE AND due_us <= $1 \
         ORDER BY due_us LIMIT $2 {lock}"
    );
    let rows = all(tx.db(), &sql, vec![tx.now().0.into(), limit_of(limit)]).await?;
    rows.iter().map(from_row).collect()
}

/// One way, locked until the commit, if it is due still.
///
/// # Errors
///
/// The database's.
pub async fn due_one(tx: &Tx, id: EnrollmentId) -> Result<Option<Enrollment>> {
    let lock = match tx.db().get_database_backend() {
        DbBackend::Postgres => "FOR UPDATE SKIP LOCKED",
        _ => "",
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM enrollments WHERE id = $1 AND state = 1 AND parked = FALSE AND due_us <= $2 {lock}"
    );
    let rows = all(tx.db(), &sql, vec![id.0.into(), tx.now().0.into()]).await?;
    rows.first().map(from_row).transpose()
}

/// When the next way is due.
///
/// # Errors
///
/// The database's.
pub async fn next_due(db: &impl ConnectionTrait) -> Result<Option<Micros>> {
    let sql = "SELECT due_us FROM enrollments WHERE state = 1 AND parked = FALSE ORDER BY due_us LIMIT 1";
    let rows = all(db, sql, Vec::new()).await?;
    rows.first().map(|row| Ok(Micros(row.try_get("", "due_us")?))).transpose()
}

/// Writes where ways stand. Those that have ended lose their data.
///
/// # Errors
///
/// The database's.
pub async fn update(tx: &Tx, changed: &[Enrollment]) -> Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let bulk = Bulk::new(tx.db())
        .uuid("changed_id", changed.iter().map(|row| row.id.0))
        .int("new_state", changed.iter().map(|row| row.state.code().into()))
        .text("new_node", changed.iter().map(|row| row.node.clone()))
        .int("is_waiting", changed.iter().map(|row| row.is_waiting.into()))
        .optional_int("new_due_us", changed.iter().map(|row| row.due.map(|due| due.0)))
        .int("new_steps", changed.iter().map(|row| row.steps))
        .int("new_failures", changed.iter().map(|row| row.failures.into()))
        .text("new_error", changed.iter().map(|row| row.error.clone()))
        .optional_int("new_ended_us", changed.iter().map(|row| row.ended.map(|ended| ended.0)));
    bulk.execute(tx.db(), |rows| {
        format!(
            "UPDATE enrollments SET state = r.new_state, node = r.new_node, due_us = r.new_due_us, waiting = r.is_waiting = 1, steps = r.new_steps, \
             failures = r.new_failures, error = r.new_error, ended_us = r.new_ended_us, \
             trigger_data = CASE WHEN r.new_ended_us IS NULL THEN trigger_data END \
             FROM {rows} WHERE enrollments.id = r.changed_id"
        )
    })
    .await?;
    Ok(())
}

/// Takes ways out of the queue: their campaign doesn't run.
///
/// # Errors
///
/// The database's.
pub async fn park(tx: &Tx, ids: &[EnrollmentId]) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let bulk = Bulk::new(tx.db()).uuid("parked_id", ids.iter().map(|id| id.0));
    bulk.execute(tx.db(), |rows| {
        format!("UPDATE enrollments SET parked = TRUE FROM {rows} WHERE enrollments.id = r.parked_id")
    })
    .await?;
    Ok(())
}

/// Puts up to `limit` ways of a campaign that runs again back into the queue, spread over time. Returns whether those were
/// all.
///
/// # Errors
///
/// The database's.
pub async fn unpark(tx: &Tx, campaign: CampaignId, limit: i64) -> Result<bool> {
    Ok(spread(tx, campaign, "parked = TRUE AND state = 1", limit, None).await? < limit)
}

/// Makes up to `limit` ways of a campaign due, one after the other. `which` selects them: $1 is the campaign, $2 the time of
/// the first of them, $5 is `bound`. Returns how many there were.
async fn spread(tx: &Tx, campaign: CampaignId, which: &str, limit: i64, bound: Option<Value>) -> Result<i64> {
    let sql = "SELECT spread_us FROM campaigns WHERE id = $1";
    let rows = all(tx.db(), sql, vec![campaign.0.into()]).await?;
    let Some(row) = rows.first() else { return Ok(0) };
    let from = tx.now().0.max(row.try_get("", "spread_us")?);
    let gap = i64::try_from(SPREAD.as_micros()).unwrap_or(1);
    let sql = format!(
        "UPDATE enrollments SET parked = FALSE, due_us = CAST($2 AS BIGINT) + h.place * CAST($3 AS BIGINT) FROM \
         (SELECT id AS held_id, ROW_NUMBER() OVER (ORDER BY due_us) - 1 AS place FROM enrollments \
         WHERE campaign_id = $1 AND {which} ORDER BY due_us LIMIT $4) h WHERE enrollments.id = h.held_id"
    );
    let values = [campaign.0.into(), from.into(), gap.into(), limit.into()].into_iter().chain(bound).collect();
    let count = i64::try_from(execute(tx, &sql, values).await?).unwrap_or(i64::MAX);
    let until = from.saturating_add(gap.saturating_mul(count));
    execute(tx, "UPDATE campaigns SET spread_us = $2 WHERE id = $1", vec![campaign.0.into(), until.into()]).await?;
    if count > 0 {
        tx.announce_enrollments();
    }
    Ok(count)
}

/// Lets up to `limit` contacts whose node was removed go on now instead of at the end of their wait, spread over time: so they
/// leave. Returns whether those were all.
///
/// # Errors
///
/// The database's.
pub(super) async fn hasten_gone(tx: &Tx, campaign: &Campaign, limit: i64) -> Result<bool> {
    let known = campaign.definition.nodes.iter().map(|node| node.key.as_str()).collect();
    let mut left = limit;
    for node in campaign_node::gone(tx, campaign.id, &known).await? {
        // What is due before the end of the spread leaves by itself, and isn't spread again by the next step.
        left -= spread(
            tx,
            campaign.id,
            "node = $5 AND parked = FALSE AND due_us > CAST($2 AS BIGINT) AND state = 1",
            left,
            Some(node.into()),
        )
        .await?;
        if left <= 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The way that a contact is on, or its last one.
///
/// # Errors
///
/// The database's.
pub async fn last(db: &impl ConnectionTrait, campaign: CampaignId, contact: ContactId) -> Result<Option<Enrollment>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM enrollments WHERE campaign_id = $1 AND contact_id = $2 \
         ORDER BY CASE WHEN state = 1 THEN 0 ELSE 1 END, id DESC LIMIT 1"
    );
    let rows = all(db, &sql, vec![campaign.0.into(), contact.0.into()]).await?;
    rows.first().map(from_row).transpose()
}

/// A way by its id.
///
/// # Errors
///
/// [`Error::NotFound`] if the workspace has none such; the database's.
pub async fn get(db: &impl ConnectionTrait, workspace: WorkspaceId, id: EnrollmentId) -> Result<Enrollment> {
    let sql = format!(
        "SELECT {COLUMNS} FROM enrollments WHERE id = $1 AND workspace_id = $2 \
         AND EXISTS (SELECT 1 FROM campaigns c WHERE c.id = enrollments.campaign_id)"
    );
    let rows = all(db, &sql, vec![id.0.into(), workspace.0.into()]).await?;
    rows.first().map(from_row).transpose()?.ok_or_else(|| Error::not_found(id))
}

/// Ends the ways of contacts through campaigns that go on. Answers with those.
///
/// # Errors
///
/// The database's.
pub async fn stop(tx: &Tx, pairs: &[(CampaignId, ContactId)]) -> Result<Vec<Enrollment>> {
    if pairs.is_empty() {
        return Ok(Vec::new());
    }
    let mut pairs = pairs.to_vec();
    pairs.sort_unstable();
    let mut bulk = Bulk::new(tx.db())
        .uuid("stopped_campaign", pairs.iter().map(|(campaign, _)| campaign.0))
        .uuid("stopped_contact", pairs.iter().map(|(_, contact)| contact.0));
    let now = bulk.param(tx.now().0);
    let exited = EnrollmentState::Exited.code();
    let columns = COLUMNS.split(", ").map(|column| format!("enrollments.{}", column.trim())).collect::<Vec<_>>();
    let columns = columns.join(", ");
    let rows = bulk
        .query(tx.db(), |rows| {
            format!(
                "UPDATE enrollments SET state = {exited}, due_us = NULL, ended_us = {now}, trigger_data = NULL FROM {rows} \
                 WHERE enrollments.campaign_id = r.stopped_campaign AND enrollments.contact_id = r.stopped_contact \
                 AND enrollments.state = 1 RETURNING {columns}"
            )
        })
        .await?;
    rows.iter().map(from_row).collect()
}

/// Whose enrollments are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of a campaign.
    Campaign(CampaignId),
    /// Those of a contact, in all campaigns.
    Contact(ContactId),
    /// Those of a contact in one campaign.
    Both(CampaignId, ContactId),
}

/// Selects enrollments for which all given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct EnrollmentFilter {
    /// In one of these states; empty for any.
    pub states: Vec<EnrollmentState>,
    /// Those at a node; empty for any.
    pub node: String,
}

/// Enrollments in the order in which they began, after one. Those of a campaign that was deleted are left out.
///
/// # Errors
///
/// The database's.
pub async fn list(
    db: &impl ConnectionTrait,
    workspace: WorkspaceId,
    (scope, filter): (Scope, &EnrollmentFilter),
    after: Option<EnrollmentId>,
    limit: u64,
) -> Result<Vec<Enrollment>> {
    let (rows, values) = selection(workspace, scope, filter, after, limit);
    let sql = format!("SELECT {COLUMNS} FROM ({rows}) AS chosen ORDER BY id LIMIT {limit}");
    let rows = all(db, &sql, values).await?;
    rows.iter().map(from_row).collect()
}

/// How many enrollments there are, counted up to `limit`.
///
/// # Errors
///
/// The database's.
pub async fn count(
    db: &impl ConnectionTrait,
    workspace: WorkspaceId,
    (scope, filter): (Scope, &EnrollmentFilter),
    limit: u64,
) -> Result<i64> {
    let (rows, values) = selection(workspace, scope, filter, None, limit);
    let sql = format!("SELECT COUNT(*) AS number FROM (SELECT id FROM ({rows}) AS chosen LIMIT {limit}) AS counted");
    let rows = all(db, &sql, values).await?;
    rows.first().map_or(Ok(0), |row| Ok(row.try_get("", "number")?))
}

/// A query for up to `limit` enrollments, each state of a campaign by itself: so an index has them in their order.
fn selection(
    workspace: WorkspaceId,
    scope: Scope,
    filter: &EnrollmentFilter,
    after: Option<EnrollmentId>,
    limit: u64,
) -> (String, Vec<Value>) {
    let after = after.map_or(Uuid::nil(), |id| id.0);
    let mut values: Vec<Value> = vec![workspace.0.into(), after.into()];
    let mut bind = |value: Value| {
        values.push(value);
        values.len()
    };
    let scoped = match scope {
        Scope::Campaign(campaign) => format!("campaign_id = ${}", bind(campaign.0.into())),
        Scope::Contact(contact) => format!("contact_id = ${}", bind(contact.0.into())),
        Scope::Both(campaign, contact) => {
            format!("campaign_id = ${} AND contact_id = ${}", bind(campaign.0.into()), bind(contact.0.into()))
        }
    };
    let at_node = if filter.node.is_empty() {
        String::new()
    } else {
        format!("AND node = ${}", bind(filter.node.as_str().into()))
    };
    let states = if filter.states.is_empty() { EnrollmentState::ALL } else { filter.states.as_slice() };
    let of_states = |codes: &str| {
        format!(
            "SELECT {COLUMNS} FROM enrollments WHERE workspace_id = $1 AND id > $2 AND {scoped} AND state IN ({codes}) \
             {at_node} AND EXISTS (SELECT 1 FROM campaigns c WHERE c.id = enrollments.campaign_id) \
             ORDER BY id LIMIT {limit}"
        )
    };
    let codes = states.iter().map(|state| state.code().to_string());
    let sql = match scope {
        Scope::Campaign(_) => {
            let parts = codes.map(|code| format!("SELECT * FROM ({}) AS part{code}", of_states(&code)));
            parts.collect::<Vec<_>>().join(" UNION ALL ")
        }
        Scope::Contact(_) | Scope::Both(..) => of_states(&codes.collect::<Vec<_>>().join(", ")),
    };
    (sql, values)
}

/// Removes up to `limit` ways of a campaign that was deleted; answers with how many.
///
/// # Errors
///
/// The database's.
pub async fn forget_campaign(tx: &Tx, campaign: CampaignId, limit: i64) -> Result<u64> {
    let sql = "DELETE FROM enrollments WHERE id IN (SELECT id FROM enrollments WHERE campaign_id = $1 LIMIT $2)";
    execute(tx, sql, vec![campaign.0.into(), limit.into()]).await
}

/// Removes the ways of a contact that is deleted.
///
/// # Errors
///
/// The database's.
pub async fn forget_contact(tx: &Tx, contact: ContactId) -> Result<()> {
    execute(tx, "DELETE FROM enrollments WHERE contact_id = $1", vec![contact.0.into()]).await?;
    Ok(())
}

/// Removes up to `limit` ways that ended before a time, but for those that keep contacts from entering again. Answers with
/// how many.
///
/// # Errors
///
/// The database's.
pub(super) async fn forget_ended(tx: &Tx, before: Micros, limit: i64) -> Result<u64> {
    let sql = format!(
        "DELETE FROM enrollments WHERE id IN (SELECT e.id FROM enrollments e \
         LEFT JOIN campaigns c ON c.id = e.campaign_id \
         WHERE e.ended_us < $1 AND (c.id IS NULL OR c.reentry <> {}) LIMIT $2)",
        Reentry::Never.code()
    );
    execute(tx, &sql, vec![before.0.into(), limit.into()]).await
}

fn from_row(row: &QueryResult) -> Result<Enrollment> {
    let state: i16 = row.try_get("", "state")?;
    let due: Option<i64> = row.try_get("", "due_us")?;
    let ended: Option<i64> = row.try_get("", "ended_us")?;
    Ok(Enrollment {
        id: EnrollmentId(row.try_get("", "id")?),
        workspace_id: WorkspaceId(row.try_get("", "workspace_id")?),
        campaign_id: CampaignId(row.try_get("", "campaign_id")?),
        contact_id: ContactId(row.try_get("", "contact_id")?),
        state: EnrollmentState::try_from(state).map_err(Error::internal)?,
        node: row.try_get("", "node")?,
        due: due.map(Micros),
        is_waiting: row.try_get("", "waiting")?,
        steps: row.try_get("", "steps")?,
        failures: row.try_get("", "failures")?,
        error: row.try_get("", "error")?,
        depth: row.try_get("", "causation_depth")?,
        traceparent: row.try_get("", "traceparent")?,
        data: trigger_data::from_json(row.try_get("", "trigger_data")?)?,
        created: Micros(row.try_get("", "created_us")?),
        ended: ended.map(Micros),
    })
}

fn limit_of(limit: usize) -> Value {
    i64::try_from(limit).unwrap_or(i64::MAX).into()
}

async fn all(db: &impl ConnectionTrait, sql: &str, values: Vec<Value>) -> Result<Vec<QueryResult>> {
    Ok(db.query_all_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, values)).await?)
}

async fn execute(tx: &Tx, sql: &str, values: Vec<Value>) -> Result<u64> {
    let statement = Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values);
    Ok(tx.db().execute_raw(statement).await?.rows_affected())
}
