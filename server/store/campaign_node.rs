//! The nodes of campaigns: how many contacts wait there, and how often a contact went on from there.

use std::collections::{BTreeMap, HashMap, HashSet};

use sea_orm::{ConnectionTrait, QueryResult, Statement, Value};

use super::Tx;
use super::bulk::Bulk;
use crate::domain::campaign::NodeCount;
use crate::error::Result;
use crate::ids::{CampaignId, WorkspaceId};

/// The rows that share the counter of a node. A server writes one of them, so that few servers wait for each other.
const SHARDS: u128 = 16;
/// The most nodes at which contacts of one campaign stand. Updates can remove nodes, so that there are more than a
/// definition has.
const MAX_OCCUPIED: usize = 10_000;

/// How often contacts went on from nodes. Its order is the order in which rows are locked.
pub type Passes = BTreeMap<(CampaignId, String), (WorkspaceId, i64)>;

/// The counts of a campaign's nodes; those without any are missing.
///
/// # Errors
///
/// The database's.
pub async fn counts(db: &impl ConnectionTrait, campaign: CampaignId) -> Result<HashMap<String, NodeCount>> {
    let mut counts: HashMap<String, NodeCount> = HashMap::new();
    let sql = "SELECT node, COUNT(*) AS number FROM enrollments WHERE campaign_id = $1 AND state = 1 GROUP BY node";
    for row in all(db, sql, vec![campaign.0.into()]).await? {
        counts.entry(row.try_get("", "node")?).or_default().waiting = row.try_get("", "number")?;
    }
    // The sum of BIGINT is NUMERIC on PostgreSQL.
    let sql = "SELECT node, CAST(SUM(passed) AS BIGINT) AS number FROM campaign_nodes WHERE campaign_id = $1 \
               GROUP BY node";
    for row in all(db, sql, vec![campaign.0.into()]).await? {
        counts.entry(row.try_get("", "node")?).or_default().passed = row.try_get("", "number")?;
    }
    Ok(counts)
}

/// Counts contacts that went on. To be called late in a transaction: it locks rows until the commit.
///
/// # Errors
///
/// The database's.
pub async fn add(tx: &Tx, passes: &Passes) -> Result<()> {
    if passes.is_empty() {
        return Ok(());
    }
    let shard = tx.store().local().server().as_u128() % SHARDS;
    let bulk = Bulk::new(tx.db())
        .uuid("campaign_id", passes.keys().map(|(campaign, _)| campaign.0))
        .text("node", passes.keys().map(|(_, node)| node.clone()))
        .uuid("workspace_id", passes.values().map(|(workspace, _)| workspace.0))
        .int("passed", passes.values().map(|(_, count)| *count));
    bulk.execute(tx.db(), |rows| {
        format!(
            "INSERT INTO campaign_nodes (campaign_id, node, shard, workspace_id, passed) \
             SELECT campaign_id, node, {shard}, workspace_id, passed FROM {rows} WHERE TRUE \
             ON CONFLICT (campaign_id, node, shard) DO UPDATE SET passed = campaign_nodes.passed + excluded.passed"
        )
    })
    .await?;
    Ok(())
}

/// Removes up to `limit` counters of a campaign that was deleted; returns how many.
///
/// # Errors
///
/// The database's.
pub(super) async fn forget_campaign(tx: &Tx, campaign: CampaignId, limit: i64) -> Result<u64> {
    let sql = "DELETE FROM campaign_nodes WHERE (campaign_id, node, shard) IN \
               (SELECT campaign_id, node, shard FROM campaign_nodes WHERE campaign_id = $1 LIMIT $2)";
    let values = [campaign.0.into(), limit.into()];
    let statement = Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values);
    Ok(tx.db().execute_raw(statement).await?.rows_affected())
}

/// The nodes at which contacts of a campaign stand and that the campaign doesn't have.
///
/// # Errors
///
/// The database's.
pub(super) async fn gone(tx: &Tx, campaign: CampaignId, known: &HashSet<&str>) -> Result<Vec<String>> {
    // From node to node by the index, whatever the number of contacts.
    let sql = format!(
        "WITH RECURSIVE occupied(node) AS ( \
         SELECT MIN(node) FROM enrollments WHERE campaign_id = $1 AND state = 1 \
         UNION ALL SELECT (SELECT MIN(e.node) FROM enrollments e WHERE e.campaign_id = $1 AND e.state = 1 \
         AND e.node > occupied.node) FROM occupied WHERE occupied.node IS NOT NULL) \
         SELECT node FROM occupied WHERE node IS NOT NULL LIMIT {MAX_OCCUPIED}"
    );
    let rows = all(tx.db(), &sql, vec![campaign.0.into()]).await?;
    let nodes: Vec<String> = rows.iter().map(|row| Ok(row.try_get("", "node")?)).collect::<Result<_>>()?;
    Ok(nodes.into_iter().filter(|node| !known.contains(node.as_str())).collect())
}

async fn all(db: &impl ConnectionTrait, sql: &str, values: Vec<Value>) -> Result<Vec<QueryResult>> {
    Ok(db.query_all_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, values)).await?)
}
