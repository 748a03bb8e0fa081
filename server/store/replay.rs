//! Replays: deliveries that are sent again, step by step.
//!
//! A replay's row says all of it: what it selects, how far it has walked, what it has used of its rate, and what became
//! of its attempts. A step is one transaction that moves the cursor and creates the attempts, under the row's lock: after
//! a crash the next step goes on where the last one that was committed has ended, on whichever server, and no delivery
//! gets two attempts. The attempts wait beside the schedule like those of RetryDelivery ([`super::extra_attempt`]), and
//! count for their replay with the commit of whatever ends them.

use std::collections::BTreeMap;
use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Statement, Value};
use uuid::Uuid;

use super::bulk::Bulk;
use super::config::WorkspaceConfig;
use super::extra_attempt::{self, Replayed};
use super::heartbeat::HEARTBEAT_LIMIT;
use super::retention::first_id_of;
use super::{Store, Tx};
use crate::domain::delivery::{Source, State};
use crate::domain::replay::{Candidate, MAX_UNFINISHED, Pace, Replay, ReplayCounts, ReplayFilter, ReplayState};
use crate::domain::time::Micros;
use crate::domain::webhook::WebhookState;
use crate::error::{Error, Result};
use crate::ids::{ContactId, DeliveryId, ReplayId, WebhookEventId, WebhookId, WorkspaceId};

/// The deliveries that one step looks at, at most.
const SCAN: u32 = 1_000;
/// The attempts that one step creates, releases or drops, at most.
const STEP: u32 = 500;
/// While so many seconds' worth of attempts are in the queue, no more are created.
const QUEUED_SECONDS: u32 = 10;
/// The wait while they are.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// The wait after a step that the database refuses.
const DEFECT_PAUSE: Duration = Duration::from_secs(60);

const PENDING: i16 = ReplayState::Pending.code();
const RUNNING: i16 = ReplayState::Running.code();
const COMPLETED: i16 = ReplayState::Completed.code();
const CANCELLED: i16 = ReplayState::Cancelled.code();

const COLUMNS: &str = "id, workspace_id, state, filter, rate, matched_count, skipped_count, attempt_count, delivered_count, \
     failed_count, cancelled_count, created_us, finished_us";

/// How an attempt of a replay has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The endpoint accepted it.
    Delivered,
    /// It failed.
    Failed,
    /// It wasn't made.
    Dropped,
}

/// When there is something to do for replays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Now.
    Now,
    /// Then.
    At(Micros),
    /// Not before one is created or a webhook is resumed.
    Idle,
}

/// Creates a replay. The caller holds the gate.
///
/// # Errors
///
/// [`Error::NotFound`] and [`Error::WebhookNotActive`] for webhooks of the filter, [`Error::LimitReached`]; the
/// database's.
pub async fn insert(tx: &Tx, replay: &Replay) -> Result<()> {
    let config = tx.config(replay.workspace_id).await?;
    for id in &replay.filter.webhook_ids {
        let webhook = config.webhook(*id).ok_or_else(|| Error::not_found(*id))?;
        if webhook.webhook.state != WebhookState::Active {
            return Err(Error::WebhookNotActive { state: webhook.webhook.state.as_str() });
        }
    }
    check_limit(tx, replay.workspace_id).await?;
    let first = replay.filter.created_after.map_or(Uuid::nil(), first_id_of);
    let sql = "INSERT INTO replays (id, workspace_id, state, filter, rate, cursor_id, paid_us, next_us, created_us) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let now = tx.now();
    let values = vec![
        replay.id.0.into(),
        replay.workspace_id.0.into(),
        replay.state.code().into(),
        serde_json::to_string(&replay.filter).map_err(Error::internal)?.into(),
        int(replay.rate).into(),
        first.into(),
        Pace::begin(replay.rate, now).paid().0.into(),
        now.0.into(),
        replay.created.0.into(),
    ];
    execute(tx, sql, values).await?;
    tx.announce_leftovers();
    Ok(())
}

async fn check_limit(tx: &Tx, workspace: WorkspaceId) -> Result<()> {
    if tx.db().get_database_backend() == DbBackend::Postgres {
        // Puts those of one workspace in a row, so that the count holds.
        execute(tx, "SELECT id FROM workspaces WHERE id = $1 FOR UPDATE", vec![workspace.0.into()]).await?;
    }
    let sql = format!(
        "SELECT COUNT(*) AS unfinished FROM replays WHERE workspace_id = $1 AND state IN ({PENDING}, {RUNNING})"
    );
    let row = one(tx.db(), &sql, vec![workspace.0.into()]).await?;
    let unfinished: i64 = row.map(|row| row.try_get("", "unfinished")).transpose()?.unwrap_or(0);
    if u64::try_from(unfinished).unwrap_or(0) < MAX_UNFINISHED {
        return Ok(());
    }
    Err(Error::LimitReached { resource: "replay", limit: MAX_UNFINISHED })
}

/// A replay.
///
/// # Errors
///
/// [`Error::NotFound`] if the workspace has none such; the database's.
pub async fn get(db: &impl ConnectionTrait, workspace: WorkspaceId, id: ReplayId) -> Result<Replay> {
    let sql = format!("SELECT {COLUMNS} FROM replays WHERE id = $1 AND workspace_id = $2");
    let row = one(db, &sql, vec![id.0.into(), workspace.0.into()]).await?;
    row.as_ref().map(replay_of).transpose()?.ok_or_else(|| Error::not_found(id))
}

/// Replays, the newest first, before an id.
///
/// # Errors
///
/// The database's.
pub async fn list(
    db: &impl ConnectionTrait,
    workspace: WorkspaceId,
    before: Option<ReplayId>,
    limit: u64,
) -> Result<Vec<Replay>> {
    let sql = format!("SELECT {COLUMNS} FROM replays WHERE workspace_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3");
    let before = before.map_or(Uuid::max(), |id| id.0);
    let values = vec![workspace.0.into(), before.into(), limit.into()];
    let rows = db.query_all_raw(Statement::from_sql_and_values(db.get_database_backend(), &sql, values)).await?;
    rows.iter().map(replay_of).collect()
}

/// Ends a replay: what of it is in flight ends by itself, and nothing else of it goes out. The caller has taken the gate
/// in exclusive mode.
///
/// # Errors
///
/// [`Error::NotFound`], and [`Error::WrongState`] if it is finished; the database's.
pub async fn cancel(tx: &Tx, workspace: WorkspaceId, id: ReplayId) -> Result<Replay> {
    let replay = get(tx.db(), workspace, id).await?;
    if replay.state.is_final() {
        return Err(Error::WrongState { resource: "replay", state: replay.state.as_str(), hint: "it is finished" });
    }
    // Claims leave its attempts alone from now on; the steps that follow count them.
    let sql = format!("UPDATE replays SET state = {CANCELLED}, finished_us = $2, next_us = $2 WHERE id = $1");
    execute(tx, &sql, vec![id.0.into(), tx.now().0.into()]).await?;
    let dropped = i64::try_from(drop_attempts(tx, id).await?).unwrap_or(i64::MAX);
    tx.announce_leftovers();
    let counts = ReplayCounts { cancelled: replay.counts.cancelled + dropped, ..replay.counts };
    Ok(Replay { state: ReplayState::Cancelled, finished: Some(tx.now()), counts, ..replay })
}

/// Drops a step's worth of what a replay owes. Those in flight end by themselves; but their server may die, so that it is
/// looked again until none is left.
async fn drop_attempts(tx: &Tx, id: ReplayId) -> Result<u64> {
    let dropped = extra_attempt::forget_replay(tx, id, STEP.into()).await?;
    if dropped < STEP.into() {
        let are_in_flight = extra_attempt::count_left(tx, id, 1).await? > 0;
        wait(tx, id, are_in_flight.then(|| tx.now().saturating_add(HEARTBEAT_LIMIT))).await?;
    }
    Ok(dropped)
}

/// Looks after the replays of a webhook's workspace: it was resumed, and they may owe it something.
pub(super) async fn resumed(tx: &Tx, webhook: WebhookId) -> Result<()> {
    let sql = format!(
        "UPDATE replays SET next_us = $2 WHERE state = {RUNNING} AND next_us IS NULL \
         AND workspace_id = (SELECT workspace_id FROM webhooks WHERE id = $1)"
    );
    let values = vec![webhook.0.into(), tx.now().0.into()];
    let statement = Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values);
    if tx.db().execute_raw(statement).await?.rows_affected() > 0 {
        tx.announce_leftovers();
    }
    Ok(())
}

/// Counts attempts that have ended, and completes the replays whose last ones they were.
pub(super) async fn count(db: &impl ConnectionTrait, ended: &[(ReplayId, Ended)], now: Micros) -> Result<(), DbErr> {
    if ended.is_empty() {
        return Ok(());
    }
    // In one order, as all row locks are taken.
    let mut counts: BTreeMap<ReplayId, [i64; 3]> = BTreeMap::new();
    for (replay, ended) in ended {
        let [delivered, failed, dropped] = counts.entry(*replay).or_default();
        *match ended {
            Ended::Delivered => delivered,
            Ended::Failed => failed,
            Ended::Dropped => dropped,
        } += 1;
    }
    let mut bulk = Bulk::new(db)
        .uuid("replay_id", counts.keys().map(|id| id.0))
        .int("delivered", counts.values().map(|[delivered, ..]| *delivered))
        .int("failed", counts.values().map(|[_, failed, _]| *failed))
        .int("dropped", counts.values().map(|[.., dropped]| *dropped));
    let now = bulk.param(now.0);
    let is_last = format!(
        "state = {RUNNING} AND is_walked = TRUE AND attempt_count <= \
         delivered_count + failed_count + cancelled_count + r.delivered + r.failed + r.dropped"
    );
    bulk.execute(db, |rows| {
        format!(
            "UPDATE replays SET delivered_count = delivered_count + r.delivered, failed_count = failed_count + r.failed, \
             cancelled_count = cancelled_count + r.dropped, \
             state = CASE WHEN {is_last} THEN {COMPLETED} ELSE state END, \
             next_us = CASE WHEN {is_last} THEN NULL ELSE next_us END, \
             finished_us = CASE WHEN {is_last} THEN {now} ELSE finished_us END \
             FROM {rows} WHERE replays.id = r.replay_id"
        )
    })
    .await?;
    Ok(())
}

/// Makes one step of the replay that is due first. Answers with when there is something to do again.
///
/// # Errors
///
/// The database's.
pub async fn go_on(store: &Store) -> Result<Next> {
    let sql = "SELECT id, next_us FROM replays WHERE next_us IS NOT NULL ORDER BY next_us LIMIT 1";
    let Some(row) = one(store.read(), sql, Vec::new()).await? else { return Ok(Next::Idle) };
    let (id, next): (Uuid, i64) = (row.try_get("", "id")?, row.try_get("", "next_us")?);
    if next > store.clock().now().0 {
        return Ok(Next::At(Micros(next)));
    }
    let made = store
        .write("replay", |tx| async move {
            tx.gate_shared().await?;
            // If there is none, another server was faster.
            let Some(taken) = take(&tx, ReplayId(id)).await? else { return Ok(()) };
            if taken.replay.state == ReplayState::Cancelled {
                return drop_attempts(&tx, taken.replay.id).await.map(drop);
            }
            let workspace = taken.replay.workspace_id;
            match tx.configs(&[workspace]).await?.remove(&workspace) {
                Some(config) => step(&tx, taken, &config).await,
                // The workspace was deleted, and the replay will be.
                None => wait(&tx, taken.replay.id, None).await,
            }
        })
        .await;
    match made {
        Ok(()) => Ok(Next::Now),
        Err(error) if error.is_passing() => Err(error),
        Err(error) => {
            // It mustn't keep the others from theirs.
            let later = store.clock().now().saturating_add(DEFECT_PAUSE);
            store.write("replay_later", |tx| async move { wait(&tx, ReplayId(id), Some(later)).await }).await?;
            Err(error)
        }
    }
}

/// Sets when there is something to do for a replay.
async fn wait(tx: &Tx, id: ReplayId, until: Option<Micros>) -> Result<()> {
    let values = vec![id.0.into(), until.map(|time| time.0).into()];
    execute(tx, "UPDATE replays SET next_us = $2 WHERE id = $1", values).await
}

/// A replay that is locked for a step.
struct Taken {
    replay: Replay,
    cursor: Uuid,
    is_walked: bool,
    pace: Pace,
}

/// Locks the row until the commit; `None` if there is nothing to do for it now.
async fn take(tx: &Tx, id: ReplayId) -> Result<Option<Taken>> {
    let lock = match tx.db().get_database_backend() {
        DbBackend::Postgres => "FOR UPDATE",
        _ => "",
    };
    let sql =
        format!("SELECT {COLUMNS}, cursor_id, is_walked, paid_us FROM replays WHERE id = $1 AND next_us <= $2 {lock}");
    let Some(row) = one(tx.db(), &sql, vec![id.0.into(), tx.now().0.into()]).await? else { return Ok(None) };
    let replay = replay_of(&row)?;
    Ok(Some(Taken {
        cursor: row.try_get("", "cursor_id")?,
        is_walked: row.try_get("", "is_walked")?,
        pace: Pace::new(replay.rate, Micros(row.try_get("", "paid_us")?)),
        replay,
    }))
}

/// Creates the attempts that the rate allows now, after those that webhooks held which are active again.
async fn step(tx: &Tx, mut taken: Taken, config: &WorkspaceConfig) -> Result<()> {
    let now = tx.now();
    let most = i64::from((taken.replay.rate * QUEUED_SECONDS).max(100));
    let queued = extra_attempt::count_queued(tx, taken.replay.id, most).await?;
    if queued >= most {
        return put_off(tx, &taken, Some(now.saturating_add(FULL_PAUSE))).await;
    }
    let budget = taken.pace.budget(now).min(STEP);
    if budget == 0 {
        return put_off(tx, &taken, Some(taken.pace.next())).await;
    }
    let (id, workspace) = (taken.replay.id, taken.replay.workspace_id);
    let released = extra_attempt::release(tx, workspace, id, budget.into()).await?;
    let mut used = u32::try_from(released).unwrap_or(budget);
    let mut is_held_up = used == budget;
    if !taken.is_walked && !is_held_up {
        let walked = walk(tx, &mut taken, config, budget - used).await?;
        used += walked;
        is_held_up = used == budget;
    }
    taken.pace = taken.pace.pay(used, now);
    let next = match (is_held_up, taken.is_walked) {
        (true, _) => Some(taken.pace.next()),
        (false, false) => Some(now),
        (false, true) => None,
    };
    put_off(tx, &taken, next).await
}

/// Looks at the next deliveries and creates attempts for up to `budget` of them. Answers with how many.
async fn walk(tx: &Tx, taken: &mut Taken, config: &WorkspaceConfig, budget: u32) -> Result<u32> {
    let replay = &mut taken.replay;
    let limit = budget.saturating_mul(4).clamp(100, SCAN);
    let page = page(tx, replay, taken.cursor, limit).await?;
    let is_last_page = page.len() < usize::try_from(limit).unwrap_or(usize::MAX);
    let mut attempts = Vec::new();
    let mut is_whole = true;
    for row in &page {
        if attempts.len() >= usize::try_from(budget).unwrap_or(usize::MAX) {
            is_whole = false;
            break;
        }
        let (id, candidate, has_values) = candidate_of(row)?;
        taken.cursor = id.0;
        if !replay.filter.selects(&candidate, replay.created) {
            continue;
        }
        replay.counts.matched += 1;
        match attempt(config, id, &candidate).filter(|_| has_values) {
            Some(attempt) => attempts.push(attempt),
            None => replay.counts.skipped += 1,
        }
    }
    taken.is_walked = is_last_page && is_whole;
    replay.counts.attempts += i64::try_from(attempts.len()).unwrap_or(0);
    extra_attempt::insert_replayed(tx, replay.workspace_id, replay.id, &attempts).await?;
    Ok(u32::try_from(attempts.len()).unwrap_or(budget))
}

/// The deliveries after the cursor, by the narrowest index that has them all.
async fn page(tx: &Tx, replay: &Replay, cursor: Uuid, limit: u32) -> Result<Vec<QueryResult>> {
    let (column, scope) = match (&replay.filter.contact_ids[..], &replay.filter.webhook_ids[..]) {
        ([contact], _) => ("contact_id", contact.0),
        (_, [webhook]) => ("webhook_id", webhook.0),
        _ => ("workspace_id", replay.workspace_id.0),
    };
    let end = replay.filter.created_before.map_or(replay.created, |before| before.min(replay.created));
    let end = first_id_of(end.saturating_add(Duration::from_millis(1)));
    let sql = format!(
        "SELECT id, webhook_id, webhook_event_id, contact_id, source, state, created_us, finished_us, \
         CASE WHEN snapshot IS NULL THEN 0 ELSE 1 END AS has_values FROM deliveries \
         WHERE {column} = $1 AND workspace_id = $2 AND id > $3 AND id < $4 ORDER BY id LIMIT $5"
    );
    let values = vec![scope.into(), replay.workspace_id.0.into(), cursor.into(), end.into(), i64::from(limit).into()];
    let statement = Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values);
    Ok(tx.db().query_all_raw(statement).await?)
}

fn candidate_of(row: &QueryResult) -> Result<(DeliveryId, Candidate, bool)> {
    let (source, state): (i16, i16) = (row.try_get("", "source")?, row.try_get("", "state")?);
    let finished: Option<i64> = row.try_get("", "finished_us")?;
    let has_values: i32 = row.try_get("", "has_values")?;
    let candidate = Candidate {
        webhook_id: WebhookId(row.try_get("", "webhook_id")?),
        webhook_event_id: WebhookEventId(row.try_get("", "webhook_event_id")?),
        contact_id: ContactId(row.try_get("", "contact_id")?),
        source: Source::try_from(source).map_err(Error::internal)?,
        state: State::try_from(state).map_err(Error::internal)?,
        created: Micros(row.try_get("", "created_us")?),
        finished: finished.map(Micros),
    };
    Ok((DeliveryId(row.try_get("", "id")?), candidate, has_values == 1))
}

/// The attempt for a delivery; `None` if its webhook or its webhook event is gone.
fn attempt(config: &WorkspaceConfig, id: DeliveryId, candidate: &Candidate) -> Option<Replayed> {
    let webhook = &config.webhook(candidate.webhook_id)?.webhook;
    webhook.definition.events.iter().find(|event| event.id == candidate.webhook_event_id)?;
    let is_held = webhook.skips(candidate.source).is_some();
    Some(Replayed { delivery_id: id, webhook_id: candidate.webhook_id, is_held })
}

/// Writes what a step has come to, and when the next one is due. With nothing owed after the last one, it is completed.
async fn put_off(tx: &Tx, taken: &Taken, next: Option<Micros>) -> Result<()> {
    let counts = &taken.replay.counts;
    let is_done = taken.is_walked && counts.pending() == 0;
    let (state, finished) =
        if is_done { (ReplayState::Completed, Some(tx.now())) } else { (ReplayState::Running, None) };
    let sql = "UPDATE replays SET state = $2, cursor_id = $3, is_walked = $4, paid_us = $5, next_us = $6, \
               matched_count = $7, skipped_count = $8, attempt_count = $9, finished_us = $10 WHERE id = $1";
    let values = vec![
        taken.replay.id.0.into(),
        state.code().into(),
        taken.cursor.into(),
        taken.is_walked.into(),
        taken.pace.paid().0.into(),
        next.filter(|_| !is_done).map(|time| time.0).into(),
        counts.matched.into(),
        counts.skipped.into(),
        counts.attempts.into(),
        finished.map(|time| time.0).into(),
    ];
    execute(tx, sql, values).await
}

fn replay_of(row: &QueryResult) -> Result<Replay> {
    let (state, rate): (i16, i32) = (row.try_get("", "state")?, row.try_get("", "rate")?);
    let (filter, finished): (String, Option<i64>) = (row.try_get("", "filter")?, row.try_get("", "finished_us")?);
    Ok(Replay {
        id: ReplayId(row.try_get("", "id")?),
        workspace_id: WorkspaceId(row.try_get("", "workspace_id")?),
        filter: serde_json::from_str::<ReplayFilter>(&filter).map_err(Error::internal)?,
        rate: u32::try_from(rate).unwrap_or(1),
        state: ReplayState::try_from(state).map_err(Error::internal)?,
        counts: ReplayCounts {
            matched: row.try_get("", "matched_count")?,
            skipped: row.try_get("", "skipped_count")?,
            attempts: row.try_get("", "attempt_count")?,
            delivered: row.try_get("", "delivered_count")?,
            failed: row.try_get("", "failed_count")?,
            cancelled: row.try_get("", "cancelled_count")?,
        },
        created: Micros(row.try_get("", "created_us")?),
        finished: finished.map(Micros),
    })
}

fn int(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

async fn one(db: &impl ConnectionTrait, sql: &str, values: Vec<Value>) -> Result<Option<QueryResult>> {
    Ok(db.query_one_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, values)).await?)
}

async fn execute(tx: &Tx, sql: &str, values: Vec<Value>) -> Result<()> {
    tx.db().execute_raw(Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values)).await?;
    Ok(())
}
