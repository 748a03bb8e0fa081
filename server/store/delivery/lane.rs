//! Lanes: the queue of an endpoint that has no room, apart from the common one.
//!
//! A delivery is in the common queue, in the lane of its webhook, or behind an earlier one of its *chain*: the deliveries
//! of an ordered webhook event to one contact, which are sent one after the other. A lane is read by its index, from its
//! head, and only as far as the endpoint has room; nobody else reads it. What stands behind another one is in no queue;
//! when the first of a chain ends, the next one enters the lane.

use std::collections::HashMap;

use sea_orm::{ConnectionTrait, DbBackend, Statement, Value};
use uuid::Uuid;

use super::queue::{LEASED, LeasedDelivery, leased_of, release};
use super::{DEFERRED, IS_WAITING, WAITING};
use crate::domain::delivery::Source;
use crate::domain::time::Micros;
use crate::error::Result;
use crate::ids::{ContactId, DeliveryId, WebhookEventId, WebhookId, WorkspaceId};
use crate::store::bulk::Bulk;
use crate::store::endpoint::Chain;
use crate::store::{LOCK_CLASS_CHAINS, Tx};

/// In the common queue.
pub(in crate::store) const COMMON: i64 = 0;
/// In the lane of its webhook.
pub(in crate::store) const LANE: i64 = 1;
/// Behind an earlier one of its chain.
pub(in crate::store) const BEHIND: i64 = 2;

/// How many rows of a lane are read beyond those that there is room for, where some may have to wait for others.
const MAX_BLOCKED: usize = 256;

const FREE: &str = "(lease_owner IS NULL OR lease_owner NOT IN (SELECT id FROM servers))";

/// What was taken from a lane.
#[derive(Debug)]
pub struct Taken {
    /// What may be sent, in the lane's order.
    pub leased: Vec<LeasedDelivery>,
    /// Whether there is nothing more that is due.
    pub is_empty: bool,
}

/// Leases up to `limit` deliveries from a webhook's lane that are due, from `floor` on. Those that must wait for another one
/// of their chain are put behind it, so that no claim reads them again. The caller has taken the gate.
///
/// # Errors
///
/// The database's.
pub async fn claim(tx: &Tx, webhook: WebhookId, limit: usize, floor: Micros, is_ordered: bool) -> Result<Taken> {
    let window = limit + if is_ordered { MAX_BLOCKED } else { 0 };
    let lock = match tx.db().get_database_backend() {
        DbBackend::Postgres => "FOR UPDATE OF d SKIP LOCKED",
        _ => "",
    };
    let sql = format!(
        "SELECT d.id, {} AS is_blocked FROM deliveries d WHERE d.webhook_id = $1 AND d.state = {WAITING} \
         AND d.parked = FALSE AND d.lane = {LANE} AND d.due_us >= $2 AND d.due_us <= $3 AND {FREE} \
         ORDER BY d.due_us, d.id LIMIT $4 {lock}",
        is_blocked()
    );
    let values = vec![webhook.0.into(), floor.0.into(), tx.now().0.into(), size(window)];
    let rows = tx.db().query_all_raw(statement(tx, &sql, values)).await?;
    let is_empty = rows.len() < window;
    let (mut chosen, mut blocked, mut passed_over) = (Vec::new(), Vec::new(), false);
    for row in rows {
        let (id, is_blocked): (Uuid, i32) = (row.try_get("", "id")?, row.try_get("", "is_blocked")?);
        match is_blocked {
            0 if chosen.len() < limit => chosen.push(id),
            0 => passed_over = true,
            _ => blocked.push(id),
        }
    }
    set_lane(tx, &blocked, LANE, BEHIND).await?;
    Ok(Taken { leased: lease(tx, chosen).await?, is_empty: is_empty && !passed_over })
}

/// Whether `d` isn't the first of its chain, or a later one, whose trigger was committed earlier, is in flight. Nothing is
/// asked where order doesn't count.
fn is_blocked() -> String {
    let chain = format!(
        "FROM deliveries e WHERE e.webhook_event_id = d.webhook_event_id AND e.contact_id = d.contact_id \
         AND e.state = {WAITING} AND e.order_no IS NOT NULL ORDER BY e.order_no, e.id"
    );
    format!(
        "CASE WHEN d.order_no IS NULL THEN 0 WHEN d.id <> (SELECT e.id {chain} LIMIT 1) THEN 1 \
         WHEN EXISTS (SELECT 1 FROM (SELECT e.id AS id, e.lease_owner AS lease_owner {chain} LIMIT 8) f \
         WHERE f.id <> d.id AND f.lease_owner IN (SELECT id FROM servers)) THEN 1 ELSE 0 END"
    )
}

async fn lease(tx: &Tx, ids: Vec<Uuid>) -> Result<Vec<LeasedDelivery>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut bulk = Bulk::new(tx.db()).uuid("chosen", ids);
    let owner = bulk.param(tx.store().local().server());
    let rows = bulk
        .query(tx.db(), |rows| {
            format!(
                "UPDATE deliveries SET lease_owner = {owner}, lease_token = lease_token + 1 FROM {rows} \
                 WHERE deliveries.id = r.chosen RETURNING {LEASED}"
            )
        })
        .await?;
    let mut leased = rows.iter().map(leased_of).collect::<Result<Vec<_>>>()?;
    leased.sort_by_key(|delivery| (delivery.due, delivery.id));
    Ok(leased)
}

async fn set_lane(tx: &Tx, ids: &[Uuid], from: i64, to: i64) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let bulk = Bulk::new(tx.db()).uuid("chosen", ids.iter().copied());
    bulk.execute(tx.db(), |rows| {
        format!(
            "UPDATE deliveries SET lane = {to} FROM {rows} \
             WHERE deliveries.id = r.chosen AND {IS_WAITING} AND deliveries.lane = {from}"
        )
    })
    .await?;
    Ok(())
}

/// Puts leased deliveries into the lanes of their webhooks, without a lease: their endpoints have no room.
///
/// # Errors
///
/// The database's.
pub async fn enter(tx: &Tx, ids: &[DeliveryId]) -> Result<()> {
    release(tx, ids, &format!("lane = {LANE}")).await
}

/// Puts up to `limit` further deliveries that are due from the common queue into the lane of their webhook, which has no
/// room: claims needn't come across them one by one.
///
/// # Errors
///
/// The database's.
pub async fn move_due(tx: &Tx, webhook: WebhookId, limit: usize) -> Result<()> {
    let sql = format!(
        "UPDATE deliveries SET lane = {LANE} WHERE id {}",
        chosen(
            tx,
            &format!(
                "SELECT id FROM deliveries WHERE webhook_id = $1 AND state = {WAITING} AND state IN ({DEFERRED}, {WAITING}) \
                 AND parked = FALSE AND lane = {COMMON} AND due_us <= $2 AND {FREE} AND source <> {} LIMIT $3",
                Source::Test.code()
            )
        )
    );
    let values = vec![webhook.0.into(), tx.now().0.into(), size(limit)];
    tx.db().execute_raw(statement(tx, &sql, values)).await?;
    Ok(())
}

/// Takes up to `limit` deliveries out of the lane of a webhook that doesn't send. Answers with whether these are all.
///
/// # Errors
///
/// The database's.
pub async fn park(tx: &Tx, webhook: WebhookId, limit: usize) -> Result<bool> {
    let sql = format!(
        "UPDATE deliveries SET parked = TRUE WHERE id {}",
        chosen(
            tx,
            &format!(
                "SELECT id FROM deliveries WHERE webhook_id = $1 AND state = {WAITING} AND parked = FALSE AND lane = {LANE} \
                 AND {FREE} LIMIT $2"
            )
        )
    );
    let parked = tx.db().execute_raw(statement(tx, &sql, vec![webhook.0.into(), size(limit)])).await?;
    Ok(usize::try_from(parked.rows_affected()).unwrap_or(usize::MAX) < limit)
}

/// SQLite has one writer and no row locks.
fn chosen(tx: &Tx, select: &str) -> String {
    match tx.db().get_database_backend() {
        DbBackend::Postgres => format!("= ANY (ARRAY({select} FOR UPDATE SKIP LOCKED))"),
        _ => format!("IN ({select})"),
    }
}

/// Keeps other servers off the chains of a webhook until the commit, so that none misses what another one is changing. To
/// be taken in the order of the webhooks.
///
/// # Errors
///
/// The database's.
pub async fn lock_chains(tx: &Tx, webhook: WebhookId) -> Result<()> {
    if tx.db().get_database_backend() == DbBackend::Postgres {
        let [.., a, b, c, d] = webhook.0.into_bytes();
        let key = i32::from_be_bytes([a, b, c, d]);
        let sql = "SELECT pg_advisory_xact_lock($1, $2)";
        tx.db().execute_raw(statement(tx, sql, vec![LOCK_CLASS_CHAINS.into(), key.into()])).await?;
    }
    Ok(())
}

/// Lets the first delivery of each chain enter the lane if it stood behind another one, which has ended.
///
/// # Errors
///
/// The database's.
pub async fn go_on(tx: &Tx, chains: &[Chain]) -> Result<()> {
    if chains.is_empty() {
        return Ok(());
    }
    let bulk = Bulk::new(tx.db())
        .uuid("event_id", chains.iter().map(|(event, _)| event.0))
        .uuid("contact_id", chains.iter().map(|(_, contact)| contact.0));
    let rows = bulk
        .query(tx.db(), |rows| {
            format!(
                "SELECT (SELECT e.id FROM deliveries e WHERE e.webhook_event_id = r.event_id \
                 AND e.contact_id = r.contact_id AND e.state = {WAITING} AND e.order_no IS NOT NULL \
                 ORDER BY e.order_no, e.id LIMIT 1) AS id FROM {rows}"
            )
        })
        .await?;
    let firsts = rows.iter().map(|row| Ok(row.try_get::<Option<Uuid>>("", "id")?)).collect::<Result<Vec<_>>>()?;
    let mut firsts: Vec<Uuid> = firsts.into_iter().flatten().collect();
    firsts.sort_unstable();
    firsts.dedup();
    set_lane(tx, &firsts, BEHIND, LANE).await
}

/// Up to `limit` webhooks after one whose lanes have rows, found by steps through the index.
///
/// # Errors
///
/// The database's.
pub async fn find(db: &impl ConnectionTrait, after: WebhookId, limit: usize) -> Result<Vec<(WebhookId, WorkspaceId)>> {
    let is_in_lane = format!("state = {WAITING} AND parked = FALSE AND lane = {LANE}");
    let next = |after: &str| {
        format!(
            "(SELECT webhook_id FROM deliveries WHERE {is_in_lane} AND webhook_id > {after} ORDER BY webhook_id LIMIT 1)"
        )
    };
    let sql = format!(
        "WITH RECURSIVE lanes(webhook_id) AS (SELECT {} UNION ALL SELECT {} FROM lanes WHERE lanes.webhook_id IS NOT NULL) \
         SELECT l.webhook_id, (SELECT d.workspace_id FROM deliveries d WHERE d.state = {WAITING} AND d.parked = FALSE \
         AND d.lane = {LANE} AND d.webhook_id = l.webhook_id LIMIT 1) AS workspace_id \
         FROM lanes l WHERE l.webhook_id IS NOT NULL LIMIT $2",
        next("$1"),
        next("lanes.webhook_id")
    );
    let values = vec![after.0.into(), size(limit)];
    let rows = db.query_all_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, values)).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        // The two are read one after the other.
        if let Some(workspace) = row.try_get::<Option<Uuid>>("", "workspace_id")? {
            found.push((WebhookId(row.try_get("", "webhook_id")?), WorkspaceId(workspace)));
        }
    }
    Ok(found)
}

/// Chains of which the first delivery stands behind none, among the next `limit` after one; and where to look on. Nobody may
/// have seen the end of the delivery before: its server has died.
///
/// # Errors
///
/// The database's.
pub async fn find_stuck(
    db: &impl ConnectionTrait,
    after: Chain,
    limit: usize,
) -> Result<(Vec<(WebhookId, WorkspaceId, Chain)>, Option<Chain>)> {
    let next = |event: &str, contact: &str| {
        format!(
            "SELECT x.id FROM deliveries x WHERE x.state = {WAITING} AND x.lane = {BEHIND} \
             AND (x.webhook_event_id, x.contact_id) > ({event}, {contact}) \
             ORDER BY x.webhook_event_id, x.contact_id LIMIT 1"
        )
    };
    let sql = format!(
        "WITH RECURSIVE chains(event_id, contact_id) AS ( \
         SELECT d.webhook_event_id, d.contact_id FROM deliveries d WHERE d.id = ({}) \
         UNION ALL SELECT d.webhook_event_id, d.contact_id FROM chains JOIN deliveries d ON d.id = ({})) \
         SELECT c.event_id, c.contact_id, f.webhook_id, f.workspace_id, f.lane FROM \
         (SELECT event_id, contact_id, (SELECT e.id FROM deliveries e WHERE e.webhook_event_id = chains.event_id \
         AND e.contact_id = chains.contact_id AND e.state = {WAITING} AND e.order_no IS NOT NULL \
         ORDER BY e.order_no, e.id LIMIT 1) AS first_id FROM chains LIMIT $3) c \
         LEFT JOIN deliveries f ON f.id = c.first_id ORDER BY c.event_id, c.contact_id",
        next("$1", "$2"),
        next("chains.event_id", "chains.contact_id")
    );
    let values: Vec<Value> = vec![after.0.0.into(), after.1.0.into(), size(limit)];
    let rows = db.query_all_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, values)).await?;
    let (mut stuck, mut last) = (Vec::new(), None);
    for row in &rows {
        let chain = (WebhookEventId(row.try_get("", "event_id")?), ContactId(row.try_get("", "contact_id")?));
        last = Some(chain);
        if row.try_get::<Option<i16>>("", "lane")?.map(i64::from) == Some(BEHIND) {
            stuck.push((
                WebhookId(row.try_get("", "webhook_id")?),
                WorkspaceId(row.try_get("", "workspace_id")?),
                chain,
            ));
        }
    }
    Ok((stuck, last.filter(|_| rows.len() >= limit)))
}

/// The places of new deliveries in their chains, in the order given: behind all that wait, whatever the clock says.
///
/// # Errors
///
/// The database's.
pub async fn places(tx: &Tx, chains: &[Chain]) -> Result<Vec<i64>> {
    if chains.is_empty() {
        return Ok(Vec::new());
    }
    let mut wanted = chains.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    let bulk = Bulk::new(tx.db())
        .uuid("event_id", wanted.iter().map(|(event, _)| event.0))
        .uuid("contact_id", wanted.iter().map(|(_, contact)| contact.0));
    let rows = bulk
        .query(tx.db(), |rows| {
            format!(
                "SELECT r.event_id, r.contact_id, (SELECT e.order_no FROM deliveries e \
                 WHERE e.webhook_event_id = r.event_id AND e.contact_id = r.contact_id AND e.state = {WAITING} \
                 AND e.order_no IS NOT NULL ORDER BY e.order_no DESC, e.id DESC LIMIT 1) AS order_no FROM {rows}"
            )
        })
        .await?;
    let mut last: HashMap<Chain, i64> = HashMap::with_capacity(rows.len());
    for row in &rows {
        let chain = (WebhookEventId(row.try_get("", "event_id")?), ContactId(row.try_get("", "contact_id")?));
        if let Some(order_no) = row.try_get::<Option<i64>>("", "order_no")? {
            last.insert(chain, order_no);
        }
    }
    let place = |chain: &Chain| {
        let next = last.get(chain).map_or(tx.now().0, |last| tx.now().0.max(last + 1));
        last.insert(*chain, next);
        next
    };
    Ok(chains.iter().map(place).collect())
}

fn size(count: usize) -> Value {
    i64::try_from(count).unwrap_or(i64::MAX).into()
}

fn statement(tx: &Tx, sql: &str, values: Vec<Value>) -> Statement {
    Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values)
}
