//! Remembered requests: the same request id and body get the same answer, for 24 hours.
//!
//! What is kept is the ids from which the answer is made again, never the answer itself.

use std::time::Duration;

use sea_orm::{ConnectionTrait, Statement};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::bulk::Bulk;
use super::{Store, Tx};
use crate::domain::time::Micros;
use crate::error::{Error, Result};
use crate::ids::WorkspaceId;

/// How long a request id is remembered.
pub const WINDOW: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a request is run again whose commit is unknown, or that met its own double.
const MAX_TRIES: u32 = 4;

/// What a request is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestKey {
    /// The caller's workspace; the nil UUID for the root key.
    pub workspace: Uuid,
    /// The method, as `ContactService/TagContact`.
    pub method: &'static str,
    /// The caller's id.
    pub request_id: String,
    /// SHA-256 of the request without its id.
    pub body_hash: [u8; 32],
}

/// A request that was answered before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    body_hash: Vec<u8>,
    answer: String,
}

impl RequestKey {
    /// The scope of a caller.
    #[must_use]
    pub fn scope(workspace: Option<WorkspaceId>) -> Uuid {
        workspace.map_or(Uuid::nil(), |workspace| workspace.0)
    }

    /// The ids of the answer that was given to the same request.
    ///
    /// # Errors
    ///
    /// [`Error::RequestIdReused`] if the other request had another body.
    pub fn answer_of(&self, remembered: &Remembered) -> Result<String> {
        if remembered.body_hash == self.body_hash { Ok(remembered.answer.clone()) } else { Err(Error::RequestIdReused) }
    }
}

impl Store {
    /// [`Store::write`] for a request that may be repeated: `make` runs once for a request id and returns its answer and
    /// the ids from which `again` makes the same answer. A commit of unknown result is run again, since the remembered
    /// request proves whether it was made.
    ///
    /// # Errors
    ///
    /// Those of `make` and `again`; [`Error::RequestIdReused`].
    pub async fn write_once<T, M, MF, A, AF>(
        &self,
        name: &'static str,
        key: Option<&RequestKey>,
        make: M,
        again: A,
    ) -> Result<T>
    where
        M: Fn(Tx) -> MF,
        MF: Future<Output = Result<(T, String)>>,
        A: Fn(Tx, String) -> AF,
        AF: Future<Output = Result<T>>,
    {
        let Some(key) = key else {
            return self.write(name, async |tx| Ok(make(tx).await?.0)).await;
        };
        let mut tries = 1;
        loop {
            let result = self.write(name, |tx| Self::run_once(tx, key, &make, &again)).await;
            match result {
                Err(Error::CommitUnknown(_) | Error::MetDouble) if tries < MAX_TRIES => tries += 1,
                other => return other,
            }
        }
    }

    async fn run_once<T, M, MF, A, AF>(tx: Tx, key: &RequestKey, make: &M, again: &A) -> Result<T>
    where
        M: Fn(Tx) -> MF,
        MF: Future<Output = Result<(T, String)>>,
        A: Fn(Tx, String) -> AF,
        AF: Future<Output = Result<T>>,
    {
        tx.lock_request(key).await?;
        let keys = [key];
        if let Some(remembered) = find(tx.db(), &keys, tx.now()).await?.into_iter().next().flatten() {
            return again(tx, key.answer_of(&remembered)?).await;
        }
        let (value, answer) = make(tx.share()).await?;
        remember(&tx, &[(key, answer)]).await?;
        Ok(value)
    }
}

impl Tx {
    /// Makes a request wait for its double, whose answer it then finds. SQLite has one writer.
    async fn lock_request(&self, key: &RequestKey) -> Result<()> {
        if self.store().is_sqlite() {
            return Ok(());
        }
        let mut hash = Sha256::new_with_prefix(key.workspace.as_bytes());
        hash.update(key.method);
        hash.update(&key.request_id);
        let digest: [u8; 32] = hash.finalize().into();
        let lock = digest.first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes));
        let sql = "SELECT pg_advisory_xact_lock($1)";
        let statement = Statement::from_sql_and_values(self.db().get_database_backend(), sql, [lock.into()]);
        self.db().execute_raw(statement).await?;
        Ok(())
    }
}

/// What is remembered of each request, in their order.
///
/// # Errors
///
/// The database's.
pub async fn find(db: &impl ConnectionTrait, keys: &[&RequestKey], now: Micros) -> Result<Vec<Option<Remembered>>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut bulk = with_keys(Bulk::new(db), keys).int("n", (0..).take(keys.len()));
    let oldest = bulk.param(now.saturating_sub(WINDOW).0);
    let rows = bulk
        .query(db, |rows| {
            format!(
                "SELECT r.n, q.body_hash, q.answer FROM {rows} JOIN requests q \
                 ON q.workspace_id = r.workspace_id AND q.method = r.method AND q.request_id = r.request_id \
                 AND q.created_us > {oldest}"
            )
        })
        .await?;
    let mut found = vec![None; keys.len()];
    for row in rows {
        let index: i64 = row.try_get("", "n")?;
        let remembered = Remembered { body_hash: row.try_get("", "body_hash")?, answer: row.try_get("", "answer")? };
        if let Some(slot) = usize::try_from(index).ok().and_then(|index| found.get_mut(index)) {
            *slot = Some(remembered);
        }
    }
    Ok(found)
}

/// Remembers requests with the ids of their answers.
///
/// # Errors
///
/// [`Error::MetDouble`] if one of them was committed meanwhile: the transaction must be run again. The database's.
pub async fn remember(tx: &Tx, answers: &[(&RequestKey, String)]) -> Result<()> {
    if answers.is_empty() {
        return Ok(());
    }
    // In one order everywhere, so that two batches with the same ids wait for each other instead of locking up.
    let mut sorted: Vec<_> = answers.iter().collect();
    sorted.sort_by_key(|(key, _)| *key);
    let keys: Vec<&RequestKey> = sorted.iter().map(|(key, _)| *key).collect();
    let mut bulk = with_keys(Bulk::new(tx.db()), &keys)
        .bytes("body_hash", keys.iter().map(|key| key.body_hash.to_vec()))
        .text("answer", sorted.iter().map(|(_, answer)| answer.clone()));
    let now = bulk.param(tx.now().0);
    // One that is beyond the window gives its place to a new one.
    let oldest = bulk.param(tx.now().saturating_sub(WINDOW).0);
    let inserted = bulk
        .execute(tx.db(), |rows| {
            format!(
                "INSERT INTO requests (workspace_id, method, request_id, body_hash, answer, created_us) \
                 SELECT workspace_id, method, request_id, body_hash, answer, {now} FROM {rows} WHERE TRUE \
                 ON CONFLICT (workspace_id, method, request_id) DO UPDATE SET body_hash = excluded.body_hash, \
                 answer = excluded.answer, created_us = excluded.created_us WHERE requests.created_us <= {oldest}"
            )
        })
        .await?;
    if inserted == keys.len() as u64 { Ok(()) } else { Err(Error::MetDouble) }
}

fn with_keys(bulk: Bulk, keys: &[&RequestKey]) -> Bulk {
    bulk.uuid("workspace_id", keys.iter().map(|key| key.workspace))
        .text("method", keys.iter().map(|key| key.method.to_owned()))
        .text("request_id", keys.iter().map(|key| key.request_id.clone()))
}
