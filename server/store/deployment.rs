//! Facts about the deployment, written by the first server that starts on a database.

use sea_orm::{ConnectionTrait, DbBackend, Statement};
use uuid::Uuid;

use super::Tx;
use crate::error::{Error, Result};
use crate::ids::{TypedId, WorkspaceId, uuid_v7};
use crate::secrets::{OpenError, Sealer};

const LOG_EPOCH: &str = "log_epoch";
const DEFAULT_WORKSPACE: &str = "default_workspace";
/// Sealed with the master key, which reading it at each start proves to be the right one.
const CURSOR_KEY: &str = "cursor_key";
/// The position below which retention has removed outcomes.
const LOG_FLOOR: &str = "log_floor";

const CURSOR_KEY_CONTEXT: &[u8] = b"deployment/cursor_key";

/// What is fixed for the deployment.
#[derive(Clone, Copy)]
pub struct Facts {
    /// Names the outcome log; another log's cursors are refused.
    pub log_epoch: Uuid,
    /// What cursors are authenticated with, and what the links' key is derived from.
    pub cursor_key: [u8; 32],
    /// The workspace that the first start made.
    pub default_workspace: WorkspaceId,
}

/// Reads the facts, or writes them if this is the first start.
///
/// # Errors
///
/// The database's, and [`Error::Internal`] if the master key isn't the one that the database's secrets are sealed with.
pub async fn initialise(tx: &Tx, sealer: &Sealer) -> Result<Facts> {
    // One server at a time: two first starts at once would write two sets.
    tx.gate_exclusive().await?;
    if let Some(facts) = read(tx, sealer).await? {
        return Ok(facts);
    }
    let entropy = tx.store().entropy();
    let default_workspace = WorkspaceId::generate(tx.now(), entropy);
    let cursor_key = entropy.bytes();
    let facts = Facts { log_epoch: uuid_v7(tx.now(), entropy), cursor_key, default_workspace };
    let sealed = entropy.with(|rng| sealer.seal(rng, CURSOR_KEY_CONTEXT, &cursor_key));
    put(tx, LOG_EPOCH, &facts.log_epoch.to_string()).await?;
    put(tx, DEFAULT_WORKSPACE, &facts.default_workspace.to_string()).await?;
    put(tx, CURSOR_KEY, &data_encoding::HEXLOWER.encode(&sealed)).await?;
    put(tx, LOG_FLOOR, "0").await?;
    super::workspace::insert(tx, default_workspace, "default").await?;
    Ok(facts)
}

async fn read(tx: &Tx, sealer: &Sealer) -> Result<Option<Facts>> {
    let Some(epoch) = get(tx.db(), LOG_EPOCH).await? else { return Ok(None) };
    let workspace = get(tx.db(), DEFAULT_WORKSPACE).await?.unwrap_or_default();
    let sealed = get(tx.db(), CURSOR_KEY).await?.unwrap_or_default();
    let sealed = data_encoding::HEXLOWER.decode(sealed.as_bytes()).map_err(Error::internal)?;
    let cursor_key = sealer.open(CURSOR_KEY_CONTEXT, &sealed).map_err(Error::internal)?;
    Ok(Some(Facts {
        log_epoch: epoch.parse().map_err(Error::internal)?,
        cursor_key: <[u8; 32]>::try_from(cursor_key.as_slice()).map_err(Error::internal)?,
        default_workspace: workspace.parse().map_err(Error::internal)?,
    }))
}

/// Sees to it that nothing is sealed with a master key that has been replaced, by a server that doesn't know it yet. Take
/// the gate first.
///
/// # Errors
///
/// [`Error::Internal`] if it was replaced; the database's.
pub(super) async fn check_master_key(tx: &Tx) -> Result<()> {
    let sealed = data_encoding::HEXLOWER.decode(get(tx.db(), CURSOR_KEY).await?.unwrap_or_default().as_bytes());
    let is_present = sealed.is_ok_and(|sealed| tx.store().0.sealer.has_sealed(&sealed));
    if is_present { Ok(()) } else { Err(Error::internal(OpenError::WrongKey)) }
}

/// Seals the cursors' key with another master key, by which servers tell which one is the right one.
///
/// # Errors
///
/// The database's.
pub(super) async fn reseal(tx: &Tx, to: &Sealer) -> Result<()> {
    let cursor_key = tx.store().facts().cursor_key;
    let sealed = tx.store().entropy().with(|rng| to.seal(rng, CURSOR_KEY_CONTEXT, &cursor_key));
    put(tx, CURSOR_KEY, &data_encoding::HEXLOWER.encode(&sealed)).await
}

/// The position below which outcomes have been removed.
///
/// # Errors
///
/// The database's.
pub async fn log_floor(db: &impl ConnectionTrait) -> Result<i64> {
    let text = get(db, LOG_FLOOR).await?.unwrap_or_default();
    text.parse().map_err(Error::internal)
}

/// Raises the position below which outcomes have been removed. It never falls: of two servers that remove at the same
/// time, the one that had less to remove may be the last.
///
/// # Errors
///
/// The database's.
pub async fn raise_log_floor(tx: &Tx, floor: i64) -> Result<()> {
    let sql = "UPDATE deployment SET value = $2 WHERE key = $1 AND CAST(value AS BIGINT) < $3";
    let values = [LOG_FLOOR.into(), floor.to_string().into(), floor.into()];
    tx.db().execute_raw(statement(tx.db().get_database_backend(), sql, values)).await?;
    Ok(())
}

async fn get(db: &impl ConnectionTrait, key: &str) -> Result<Option<String>> {
    let sql = "SELECT value FROM deployment WHERE key = $1";
    let row = db.query_one_raw(statement(db.get_database_backend(), sql, [key.into()])).await?;
    Ok(row.map(|row| row.try_get("", "value")).transpose()?)
}

async fn put(tx: &Tx, key: &str, value: &str) -> Result<()> {
    let sql =
        "INSERT INTO deployment (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    let values = [key.into(), value.into()];
    tx.db().execute_raw(statement(tx.db().get_database_backend(), sql, values)).await?;
    Ok(())
}

fn statement<const N: usize>(backend: DbBackend, sql: &str, values: [sea_orm::Value; N]) -> Statement {
    Statement::from_sql_and_values(backend, sql, values)
}
