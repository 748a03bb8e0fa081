//! The database: one set of SQL for SQLite and PostgreSQL, and the only room that knows of either.
//!
//! Who is who:
//! - [`Store`]: the way in. [`Store::read`] for reads, [`Store::write`] for everything that changes rows.
//! - [`Tx`]: one write transaction. It gathers what must happen with the commit (outcomes, in the log's order) and after
//!   it (wake-ups, deliveries handed to the local dispatcher).
//! - the *gate*: a lock in shared mode by transactions that plan or lease deliveries, in exclusive mode by those that
//!   change what planning must see (a webhook's state, a contact's deletion). It is what makes "after PauseWebhook has
//!   answered, nothing new goes out" true on every server. SQLite, with its one writer, has it by nature.
//! - [`config::ConfigCache`]: what planning needs of a workspace, checked against its version in each transaction.
//! - [`lease::LocalDispatch`]: permits of the dispatcher in this process, so that new deliveries can be inserted already
//!   leased; and what each endpoint can take ([`endpoint::Endpoints`]).
//!
//! Each noun has a file; its functions take any connection for reads and a [`Tx`] for writes.

pub mod api_key;
mod bulk;
pub mod campaign;
pub mod campaign_node;
pub mod config;
pub mod contact;
pub mod contact_tag;
pub mod cooldown;
pub mod delivery;
pub mod deployment;
pub mod endpoint;
pub mod enrollment;
#[allow(
    missing_docs,
    unreachable_pub,
    reason = "the derives want public items; the tables are described in the migrations"
)]
mod entity;
pub mod event;
pub mod extra_attempt;
pub mod field;
pub mod heartbeat;
mod key;
mod labels;
pub mod lease;
pub mod leftover;
pub mod open;
pub mod outcome;
pub mod replay;
pub mod request;
pub mod reseal;
pub mod retention;
pub mod smart_link;
pub mod stats;
pub mod tag;
pub mod timeline;
mod trigger_data;
pub mod wake;
pub mod webhook;
pub mod workspace;
mod write_back;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, RuntimeErr, SqliteTransactionMode,
    Statement, TransactionOptions, TransactionTrait,
};

use crate::clock::{Clock, Entropy};
use crate::domain::outcome::Outcome;
use crate::domain::time::Micros;
use crate::error::{Error, Result};
use crate::ids::{ContactId, ReplayId, WebhookId, WorkspaceId};
use crate::secrets::Sealer;
use config::ConfigCache;
use lease::{LocalDispatch, PendingJobs};
use wake::Wakes;
use write_back::Commits;

/// How often a transaction that lost against others (deadlock, serialization) is run again.
const MAX_TRIES: u32 = 5;
/// The wait before it is, times the number of the try.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Advisory locks of PostgreSQL, all in one class of our own.
const LOCK_CLASS: i32 = 0x7A60;
/// Those of the chains of a webhook, in a class of their own.
const LOCK_CLASS_CHAINS: i32 = 0x7A61;
const LOCK_GATE: i32 = 1;
const LOCK_OUTCOMES: i32 = 2;

/// The database of a deployment. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    reader: DatabaseConnection,
    writer: DatabaseConnection,
    clock: Clock,
    entropy: Entropy,
    sealer: Sealer,
    configs: ConfigCache,
    wakes: Wakes,
    local: LocalDispatch,
    facts: deployment::Facts,
    commits: Commits,
    /// Keeps other servers off the data folder of an SQLite database; released with the store.
    _folder_lock: Option<std::fs::File>,
}

impl Store {
    /// The connections for reads. What they see was committed before the query began.
    #[must_use]
    pub fn read(&self) -> &DatabaseConnection {
        &self.0.reader
    }

    /// The clock that the store was opened with.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The randomness that the store was opened with.
    #[must_use]
    pub fn entropy(&self) -> &Entropy {
        &self.0.entropy
    }

    /// Wake-ups of those who wait for commits.
    #[must_use]
    pub fn wakes(&self) -> &Wakes {
        &self.0.wakes
    }

    /// The permits and the queue of this process's dispatcher.
    #[must_use]
    pub fn local(&self) -> &LocalDispatch {
        &self.0.local
    }

    /// What is fixed for the deployment.
    #[must_use]
    pub fn facts(&self) -> &deployment::Facts {
        &self.0.facts
    }

    /// Whether it was opened with this master key.
    #[must_use]
    pub fn is_sealed_with(&self, sealer: &Sealer) -> bool {
        self.0.sealer.key_id() == sealer.key_id()
    }

    /// Whether the database is the embedded one.
    #[must_use]
    pub fn is_sqlite(&self) -> bool {
        self.0.writer.get_database_backend() == DbBackend::Sqlite
    }

    /// Runs `f` in a transaction and commits it; `name` is for metrics and logs. `f` runs again from its start when the
    /// database asks for it (deadlock, serialization), so that it must have no effect but through its [`Tx`].
    ///
    /// # Errors
    ///
    /// Those of `f`; [`Error::Overloaded`] if others were in the way each time; [`Error::CommitUnknown`] if it isn't known
    /// whether the commit was made.
    pub async fn write<T, F, Fut>(&self, name: &'static str, f: F) -> Result<T>
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let mut tries = 1;
        loop {
            match self.attempt(name, &f).await {
                Err(Failure::Contention(error)) => {
                    tracing::debug!(transaction = name, tries, error = %error, "lost against another transaction");
                    if tries == MAX_TRIES {
                        return Err(Failure::Contention(error).into());
                    }
                    // At random, so that two that met don't meet again.
                    let jitter = 1.0 + 0.5 * self.0.entropy.jitter_unit();
                    tokio::time::sleep((RETRY_PAUSE * tries).mul_f64(jitter)).await;
                    tries += 1;
                }
                Err(failure) => return Err(failure.into()),
                Ok(value) => return Ok(value),
            }
        }
    }

    async fn attempt<T, F, Fut>(&self, name: &'static str, f: &F) -> Result<T, Failure>
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let shared = Arc::new(self.begin().await?);
        match f(Tx(Arc::clone(&shared))).await {
            Ok(value) => {
                let shared = Arc::into_inner(shared)
                    .ok_or_else(|| Error::internal(format!("transaction {name} outlives its closure")))?;
                // In a task of its own: a caller that goes away must not part the commit from what follows it.
                let commit = tokio::spawn(shared.commit());
                commit.await.map_err(|panic| Failure::from(Error::internal(panic)))??;
                Ok(value)
            }
            Err(error) => {
                // Dropping would roll back as well, but later.
                if let Some(shared) = Arc::into_inner(shared) {
                    let _ = shared.db.rollback().await;
                }
                Err(error.into())
            }
        }
    }

    async fn begin(&self) -> Result<TxShared, DbErr> {
        // BEGIN IMMEDIATE: a transaction that turns from reader to writer can't be made to wait by SQLite.
        let mode = self.is_sqlite().then_some(SqliteTransactionMode::Immediate);
        let options = TransactionOptions { sqlite_transaction_mode: mode, ..TransactionOptions::default() };
        let db = self.0.writer.begin_with_options(options).await?;
        let effects = Mutex::new(Effects::default());
        Ok(TxShared { db, store: self.clone(), now: self.0.clock.now(), effects })
    }
}

/// A write transaction; committed by [`Store::write`] when its closure succeeds.
pub struct Tx(Arc<TxShared>);

struct TxShared {
    db: DatabaseTransaction,
    store: Store,
    now: Micros,
    effects: Mutex<Effects>,
}

/// What happens with the commit and after it.
#[derive(Default)]
struct Effects {
    outcomes: Vec<Outcome>,
    replayed: Vec<(ReplayId, replay::Ended)>,
    erased: Vec<ContactId>,
    jobs: PendingJobs,
    is_work_due: bool,
    has_leftovers: bool,
    has_enrollments: bool,
    stale_configs: Vec<WorkspaceId>,
    /// Webhooks whose lanes have got rows.
    lanes: HashSet<(WebhookId, WorkspaceId)>,
    /// Chains of ordered deliveries of which one has ended.
    freed: Vec<(WebhookId, WorkspaceId, endpoint::Chain)>,
}

impl Effects {
    /// Tells the dispatcher what there is to do in lanes.
    fn tell_endpoints(&self, local: &LocalDispatch) {
        for (webhook, workspace) in &self.lanes {
            local.endpoints().note_rows(*webhook, *workspace);
        }
        for (webhook, workspace, chain) in &self.freed {
            local.endpoints().note_freed(*webhook, *workspace, *chain);
        }
        for workspace in &self.stale_configs {
            local.endpoints().note_changed(*workspace);
        }
    }
}

impl Tx {
    /// The connection, for statements of this transaction.
    #[must_use]
    pub fn db(&self) -> &DatabaseTransaction {
        &self.0.db
    }

    /// The one time of everything in this transaction.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.0.now
    }

    /// The store, for what isn't part of the transaction.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Another handle of the same transaction, for a step that takes one. It must not outlive the closure.
    fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    /// Appends an outcome to the log, with the commit.
    pub fn report(&self, outcome: Outcome) {
        self.effects().outcomes.push(outcome);
    }

    /// Counts an attempt of a replay that has ended, with the commit.
    fn count_replayed(&self, replay: ReplayId, ended: replay::Ended) {
        self.effects().replayed.push((replay, ended));
    }

    /// Makes servers forget, after the commit, what they have in memory of a contact's outcomes.
    fn forget_outcomes_of(&self, contact: ContactId) {
        self.effects().erased.push(contact);
    }

    /// Wakes dispatchers after the commit: there is work that isn't leased.
    pub fn announce_work(&self) {
        self.effects().is_work_due = true;
    }

    /// Wakes whoever does what this transaction has left, after the commit.
    fn announce_leftovers(&self) {
        self.effects().has_leftovers = true;
    }

    /// Wakes the engine of campaigns after the commit.
    fn announce_enrollments(&self) {
        self.effects().has_enrollments = true;
    }

    /// Takes the gate in shared mode until the commit: planning and leasing.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn gate_shared(&self) -> Result<()> {
        self.advisory_lock("pg_advisory_xact_lock_shared", LOCK_GATE).await
    }

    /// Takes the gate in exclusive mode until the commit: changing what planning and leasing must see.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn gate_exclusive(&self) -> Result<()> {
        self.advisory_lock("pg_advisory_xact_lock", LOCK_GATE).await
    }

    async fn advisory_lock(&self, function: &str, lock: i32) -> Result<()> {
        self.0.advisory_lock(function, lock).await.map_err(Into::into)
    }

    fn effects(&self) -> MutexGuard<'_, Effects> {
        self.0.effects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TxShared {
    async fn advisory_lock(&self, function: &str, lock: i32) -> Result<(), DbErr> {
        if self.db.get_database_backend() == DbBackend::Postgres {
            let sql = format!("SELECT {function}({LOCK_CLASS}, {lock})");
            self.db.execute_raw(Statement::from_string(DbBackend::Postgres, sql)).await?;
        }
        Ok(())
    }

    /// Appends the outcomes, commits, and does what follows a commit.
    async fn commit(self) -> Result<(), Failure> {
        let Self { db, store, now, effects } = self;
        let mut effects = effects.into_inner().unwrap_or_else(PoisonError::into_inner);
        let outcomes = std::mem::take(&mut effects.outcomes);
        let has_outcomes = !outcomes.is_empty();
        let counts = stats::Counts::of(&outcomes);
        // Last of all statements, after all row locks: the log's lock is held for the commit alone.
        let finished = async {
            replay::count(&db, &effects.replayed, now).await?;
            if has_outcomes {
                outcome::append(&db, outcomes).await?;
                counts.add(&db).await?;
            }
            wake::notify_servers(&db, has_outcomes, effects.is_work_due, &effects.erased).await?;
            Ok::<(), DbErr>(())
        };
        if let Err(error) = finished.await {
            let _ = db.rollback().await;
            return Err(error.into());
        }
        let committed = db.commit().await;
        match committed {
            Ok(()) => {
                store.0.commits.count();
                effects.tell_endpoints(&store.0.local);
                for workspace in effects.stale_configs {
                    store.0.configs.forget(workspace);
                }
                if has_outcomes {
                    store.0.wakes.outcomes();
                }
                store.0.wakes.erase(&effects.erased);
                if effects.is_work_due {
                    store.0.wakes.dispatch();
                }
                if effects.has_leftovers {
                    store.0.wakes.leftovers();
                }
                if effects.has_enrollments {
                    store.0.wakes.enrollments();
                }
                store.0.local.hand_over(effects.jobs);
                Ok(())
            }
            Err(error) if is_contention(&error) => Err(Failure::Contention(error)),
            Err(error) => {
                effects.tell_endpoints(&store.0.local);
                // It may have been committed. Deliveries that were leased by it must not be stranded then.
                drop(effects.jobs);
                store.0.local.lost_commit();
                store.0.wakes.erase(&effects.erased);
                Err(Failure::CommitUnknown(error))
            }
        }
    }
}

/// Why an attempt at a transaction failed.
enum Failure {
    /// Another transaction was in the way; a new attempt may succeed.
    Contention(DbErr),
    /// The connection broke at the commit.
    CommitUnknown(DbErr),
    /// Anything else.
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Database(inner) if is_contention(&inner) => Self::Contention(inner),
            other => Self::Other(other),
        }
    }
}

impl From<DbErr> for Failure {
    fn from(error: DbErr) -> Self {
        Error::from(error).into()
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            // Logged at each try.
            Failure::Contention(_) => Self::Overloaded,
            Failure::CommitUnknown(error) => Self::CommitUnknown(error),
            Failure::Other(error) => error,
        }
    }
}

/// Whether the database gave up this transaction in favour of another: serialization_failure, deadlock_detected and
/// lock_not_available of PostgreSQL, SQLITE_BUSY and its kinds of SQLite.
fn is_contention(error: &DbErr) -> bool {
    const SQLITE_BUSY: i32 = 5;
    let (DbErr::Exec(RuntimeErr::SqlxError(inner)) | DbErr::Query(RuntimeErr::SqlxError(inner))) = error else {
        return false;
    };
    let code = inner.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap_or_default();
    match code.parse::<i32>() {
        // The codes of PostgreSQL have five characters.
        Ok(sqlite) if code.len() < 5 => sqlite & 0xff == SQLITE_BUSY,
        _ => matches!(code.as_ref(), "40001" | "40P01" | "55P03"),
    }
}

/// A condition for texts that start with `prefix`, byte for byte: a range, which an index serves, instead of LIKE, which
/// SQLite reads without regard to case. The columns are compared by bytes on both databases.
fn starts_with(column: impl sea_orm::ColumnTrait, prefix: &str) -> sea_orm::sea_query::Condition {
    let condition = sea_orm::sea_query::Condition::all().add(column.gte(prefix));
    // The first text after all those with the prefix; none if it is the last character repeated.
    match next_prefix(prefix) {
        Some(end) => condition.add(column.lt(end)),
        None => condition,
    }
}

fn next_prefix(prefix: &str) -> Option<String> {
    let mut characters: Vec<char> = prefix.chars().collect();
    while let Some(last) = characters.pop() {
        // Ranges of characters leave out the surrogates.
        if let Some(next) = (last..=char::MAX).nth(1) {
            characters.push(next);
            return Some(characters.into_iter().collect());
        }
    }
    None
}
