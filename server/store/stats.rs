//! Counts of what happened, by webhook and by quarter of an hour: raised with the commit of the outcomes, so that no
//! history is read for them.
//!
//! They are raised under the lock of the log, which orders all servers anyway: the rows are no further place to wait at.
//! A transaction's outcomes are added up first, so that a batch costs one statement for a handful of rows.

use std::collections::BTreeMap;

use sea_orm::{ConnectionTrait, DbErr, Statement, Value};
use uuid::Uuid;

use super::bulk::Bulk;
use super::delivery::{DEFERRED, WAITING};
use crate::domain::outcome::Outcome;
use crate::domain::stats::{Figures, Metric, bucket_of, metrics_of};
use crate::domain::time::Micros;
use crate::error::Result;
use crate::ids::{WebhookId, WorkspaceId, time_of};

/// Where the counting of a backlog ends.
pub const MAX_BACKLOG: i64 = 10_000;

/// Whose figures: one webhook's, or the workspace's.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// The workspace.
    pub workspace_id: WorkspaceId,
    /// The webhook; `None` for the workspace as a whole.
    pub webhook_id: Option<WebhookId>,
}

/// What is owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Due, or being sent.
    pub due: i64,
    /// Due later.
    pub later: i64,
    /// Put aside since the webhook doesn't send.
    pub held: i64,
    /// Whether the counting has ended early: there may be more.
    pub is_capped: bool,
    /// Since when the one that is due longest has been.
    pub oldest_due: Option<Micros>,
}

/// What a transaction's outcomes add.
pub(super) struct Counts(BTreeMap<(Uuid, Uuid, Micros, Metric), i64>);

impl Counts {
    /// Adds outcomes up.
    pub(super) fn of(outcomes: &[Outcome]) -> Self {
        let mut counts = BTreeMap::new();
        for outcome in outcomes {
            // A delivery's id says when it was recorded.
            let recorded = outcome.delivery.as_ref().and_then(|delivery| time_of(delivery.id.0));
            for metric in metrics_of(outcome, recorded) {
                for subject in [Uuid::nil(), outcome.webhook_id.0] {
                    let bucket = bucket_of(outcome.recorded);
                    *counts.entry((outcome.workspace_id.0, subject, bucket, metric)).or_default() += 1;
                }
            }
        }
        Self(counts)
    }

    /// Raises the counts. To be called after the outcomes were appended to the log, whose lock is held.
    pub(super) async fn add(self, db: &impl ConnectionTrait) -> Result<(), DbErr> {
        if self.0.is_empty() {
            return Ok(());
        }
        let keys = || self.0.keys();
        let bulk = Bulk::new(db)
            .uuid("workspace_id", keys().map(|(workspace, ..)| *workspace))
            .uuid("webhook_id", keys().map(|(_, webhook, ..)| *webhook))
            .int("bucket_us", keys().map(|(_, _, bucket, _)| bucket.0))
            .int("metric", keys().map(|(.., metric)| metric.0.into()))
            .int("count", self.0.values().copied());
        bulk.execute(db, |rows| {
            format!(
                "INSERT INTO delivery_stats (workspace_id, webhook_id, bucket_us, metric, count) \
                 SELECT workspace_id, webhook_id, bucket_us, metric, count FROM {rows} WHERE TRUE \
                 ON CONFLICT (workspace_id, webhook_id, bucket_us, metric) \
                 DO UPDATE SET count = delivery_stats.count + excluded.count"
            )
        })
        .await?;
        Ok(())
    }
}

/// The figures of a window, in parts of a width, each by its number from 0 on; those in which nothing happened are
/// missing. Window and width are whole buckets.
///
/// # Errors
///
/// The database's.
pub async fn figures(
    db: &impl ConnectionTrait,
    subject: Subject,
    window: (Micros, Micros),
    width_us: i64,
) -> Result<BTreeMap<i64, Figures>> {
    let sql = "SELECT (bucket_us - $3) / $5 AS part, metric, CAST(SUM(count) AS BIGINT) AS total FROM delivery_stats \
               WHERE workspace_id = $1 AND webhook_id = $2 AND bucket_us >= $3 AND bucket_us < $4 GROUP BY 1, 2";
    let webhook = subject.webhook_id.map_or(Uuid::nil(), |id| id.0);
    let values: Vec<Value> =
        vec![subject.workspace_id.0.into(), webhook.into(), window.0.0.into(), window.1.0.into(), width_us.into()];
    let rows = db.query_all_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, values)).await?;
    let mut parts: BTreeMap<i64, Figures> = BTreeMap::new();
    for row in rows {
        let (part, metric, total): (i64, i16, i64) =
            (row.try_get("", "part")?, row.try_get("", "metric")?, row.try_get("", "total")?);
        parts.entry(part).or_default().add(Metric(metric), u64::try_from(total).unwrap_or(0));
    }
    Ok(parts)
}

/// What is owed now; counting ends at [`MAX_BACKLOG`].
///
/// # Errors
///
/// The database's.
pub async fn backlog(db: &impl ConnectionTrait, subject: Subject, now: Micros) -> Result<Backlog> {
    // Both by the index of what is live: of one webhook, or of one after the other.
    let (from, id) = match subject.webhook_id {
        Some(webhook) => ("deliveries d WHERE d.webhook_id = $1", webhook.0),
        None => {
            ("webhooks w JOIN deliveries d ON d.webhook_id = w.id WHERE w.workspace_id = $1", subject.workspace_id.0)
        }
    };
    let sql = format!(
        "SELECT COUNT(*) AS counted, \
         COUNT(CASE WHEN parked = FALSE AND due_us <= $2 THEN 1 END) AS due, \
         COUNT(CASE WHEN parked = FALSE AND due_us > $2 THEN 1 END) AS later, \
         COUNT(CASE WHEN parked = TRUE THEN 1 END) AS held, \
         MIN(CASE WHEN parked = FALSE AND due_us <= $2 THEN due_us END) AS oldest_us \
         FROM (SELECT d.parked, d.due_us FROM {from} AND d.state IN ({DEFERRED}, {WAITING}) LIMIT $3) AS live"
    );
    let values: Vec<Value> = vec![id.into(), now.0.into(), MAX_BACKLOG.into()];
    let row = db.query_one_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, values)).await?;
    let Some(row) = row else { return Ok(Backlog::default()) };
    let oldest: Option<i64> = row.try_get("", "oldest_us")?;
    Ok(Backlog {
        due: row.try_get("", "due")?,
        later: row.try_get("", "later")?,
        held: row.try_get("", "held")?,
        is_capped: row.try_get::<i64>("", "counted")? >= MAX_BACKLOG,
        oldest_due: oldest.map(Micros),
    })
}
