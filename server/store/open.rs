//! Opening the database: connections, migrations, and the first start.

use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sea_orm::sqlx::Connection as _;
use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr, Statement, TransactionTrait,
};
use taghook_migrations::Migrator;
use taghook_migrations::MigratorTrait;
use tokio::sync::mpsc::UnboundedReceiver;
use uuid::Uuid;

use super::config::ConfigCache;
use super::deployment::{self, Facts};
use super::heartbeat;
use super::lease::{Handover, LocalDispatch};
use super::wake::Wakes;
use super::write_back::Commits;
use super::{Inner, LOCK_CLASS, Store};
use crate::clock::{Clock, Entropy};
use crate::error::{Error, Result};
use crate::ids::WorkspaceId;
use crate::secrets::Sealer;

/// Keeps two migrations apart.
const LOCK_MIGRATIONS: i32 = 3;
/// Beside the database file.
const LOCK_FILE: &str = "taghook.lock";
const SQLITE_READERS: u32 = 4;
const STATEMENT_CACHE: usize = 300;
const CACHE_KIB: &str = "-65536";
const CHECKPOINT_PAGES: &str = "16000";
/// How long a transaction waits for a connection before the caller is told that the database is away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How to open a database.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// `sqlite:<path>` or `postgres://..`.
    pub url: String,
    /// How many connections to PostgreSQL, half of them for reads: 2 to 1,000.
    pub connections: u32,
    /// Whether to run the migrations that are missing.
    pub migrate: bool,
    /// How many deliveries this server sends at a time.
    pub senders: usize,
    /// The clock.
    pub clock: Clock,
    /// The randomness.
    pub entropy: Entropy,
}

/// Why a database can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another server uses the data folder.
    #[error("the data folder is used by another server; stop it, or choose another with --data-dir")]
    InUse,
    /// The folder can't be locked.
    #[error("the data folder can't be locked")]
    Lock(#[source] std::io::Error),
    /// The database's file can't be made.
    #[error("the database's file can't be made")]
    File(#[source] std::io::Error),
    /// The URL is of no kind that is known.
    #[error("a database URL starts with `sqlite:` or `postgres:`")]
    UnknownScheme,
    /// Migrations are missing and weren't to be run.
    #[error("the database lacks {0} migrations; run `taghook migrate up`, or start without --no-migrate")]
    NotMigrated(usize),
    /// The database can't be reached or used.
    #[error("the database can't be opened")]
    Database(#[from] DbErr),
    /// The first transactions failed.
    #[error("the database can't be used")]
    Start(#[source] Error),
}

impl Store {
    /// Opens the database and announces this server.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub async fn open(options: &OpenOptions, sealer: Sealer) -> Result<(Self, UnboundedReceiver<Handover>), OpenError> {
        let folder_lock = lock_folder(&options.url)?;
        let Connections { reader, writer } = connect(options).await?;
        prepare(&writer, options.migrate).await?;
        let server = super::super::ids::uuid_v7(options.clock.now(), &options.entropy);
        let (local, jobs) = LocalDispatch::new(server, options.senders);
        let facts = Facts { log_epoch: Uuid::nil(), cursor_key: [0; 32], default_workspace: WorkspaceId(Uuid::nil()) };
        let mut inner = Inner {
            reader,
            writer,
            clock: options.clock.clone(),
            entropy: options.entropy.clone(),
            sealer: sealer.clone(),
            configs: ConfigCache::default(),
            wakes: Wakes::default(),
            local,
            facts,
            commits: Commits::default(),
            _folder_lock: folder_lock,
        };
        let store = Self(Arc::new(inner));
        let facts = store
            .write("start", |tx| {
                let sealer = &sealer;
                async move {
                    let facts = deployment::initialise(&tx, sealer).await?;
                    heartbeat::bury_predecessors(&tx, server).await?;
                    heartbeat::join(&tx, server).await?;
                    Ok(facts)
                }
            })
            .await
            .map_err(OpenError::Start)?;
        inner = Arc::into_inner(store.0)
            .ok_or_else(|| OpenError::Start(Error::internal("the store is shared too early")))?;
        inner.facts = facts;
        Ok((Self(Arc::new(inner)), jobs))
    }
}

struct Connections {
    reader: DatabaseConnection,
    writer: DatabaseConnection,
}

async fn connect(options: &OpenOptions) -> Result<Connections, OpenError> {
    match kind(&options.url)? {
        DbBackend::Sqlite => {
            make_private(&sqlite_path(&options.url)).map_err(OpenError::File)?;
            let writer = Database::connect(sqlite_options(&options.url, 1, false)).await?;
            let reader = Database::connect(sqlite_options(&options.url, SQLITE_READERS, true)).await?;
            Ok(Connections { reader, writer })
        }
        _ => {
            let half = (options.connections / 2).max(1);
            let writer = Database::connect(postgres_options(&options.url, half)).await?;
            let reader = Database::connect(postgres_options(&options.url, half)).await?;
            Ok(Connections { reader, writer })
        }
    }
}

/// The kind of database that a URL names.
///
/// # Errors
///
/// [`OpenError::UnknownScheme`].
pub fn kind(url: &str) -> Result<DbBackend, OpenError> {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("sqlite") => Ok(DbBackend::Sqlite),
        Some("postgres" | "postgresql") => Ok(DbBackend::Postgres),
        _ => Err(OpenError::UnknownScheme),
    }
}

fn sqlite_path(url: &str) -> PathBuf {
    let rest = url.strip_prefix("sqlite:").unwrap_or(url);
    PathBuf::from(rest.strip_prefix("//").unwrap_or(rest))
}

/// Makes the file of a new database, which holds contacts' data, for its owner alone. SQLite gives the files beside it the
/// same mode. The mode of one that is there is its owner's to choose.
fn make_private(path: &Path) -> std::io::Result<()> {
    match File::options().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// A full disk makes SQLite roll back by itself. The driver's own rollback then fails, and it counts a transaction that there
/// isn't: the next commits would end savepoints of one that nobody commits. Such a connection is closed.
fn close_broken(options: &mut ConnectOptions) {
    options.map_sqlx_sqlite_pool_opts(|pool| {
        pool.before_acquire(|db, _| {
            Box::pin(async move {
                if !db.is_in_transaction() {
                    return Ok(true);
                }
                // Perhaps its rollback is still on its way.
                db.ping().await?;
                Ok(!db.is_in_transaction())
            })
        })
    });
}

pub(super) fn sqlite_options(url: &str, connections: u32, read_only: bool) -> ConnectOptions {
    let path = sqlite_path(url);
    let mut options = ConnectOptions::new("sqlite::memory:");
    if !read_only {
        close_broken(&mut options);
    }
    options
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None::<Duration>)
        .max_lifetime(None::<Duration>)
        .test_before_acquire(false)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(move |sqlite| {
            let sqlite = sqlite
                .in_memory(false)
                .shared_cache(false)
                .filename(&path)
                .create_if_missing(!read_only)
                .read_only(read_only)
                .journal_mode(SqliteJournalMode::Wal)
                // Every answer is durable: the log is synced at each commit.
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(Duration::from_secs(5))
                .foreign_keys(false)
                .statement_cache_capacity(STATEMENT_CACHE);
            // The hot pages of the tables and their indexes, in KiB. Pages are written back beside the writer
            // ([`Store::write_back`]); at so many it does so itself.
            let sqlite = sqlite.pragma("cache_size", CACHE_KIB).pragma("wal_autocheckpoint", CHECKPOINT_PAGES);
            sqlite.pragma("temp_store", "memory")
        });
    options
}

fn postgres_options(url: &str, connections: u32) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(Duration::from_secs(600))
        .test_before_acquire_if_idle_for(Duration::from_secs(30))
        .sqlx_logging(false)
        .map_sqlx_postgres_opts(session);
    options
}

/// The settings of every session.
pub(super) fn session(postgres: PgConnectOptions) -> PgConnectOptions {
    postgres.application_name("taghook").statement_cache_capacity(STATEMENT_CACHE).options([
        // A server that freezes or vanishes must not hold the locks of the gate and the log.
        ("idle_in_transaction_session_timeout", "10s"),
        ("tcp_user_timeout", "10s"),
        ("statement_timeout", "30s"),
        ("lock_timeout", "10s"),
        // The gate takes its snapshots after the lock; another level would plan with what was before it.
        ("default_transaction_isolation", "read committed"),
        // Plans are kept, and one that was made while a table was empty reads all of it, however it has grown, until the
        // next ANALYZE. Every statement here has an index to go by, row for row. (What is off costs so much where there is
        // no other way that it would be compiled.)
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("jit", "off"),
    ])
}

/// One server at a time for an SQLite database.
fn lock_folder(url: &str) -> Result<Option<File>, OpenError> {
    if kind(url)? != DbBackend::Sqlite {
        return Ok(None);
    }
    let path = sqlite_path(url);
    let folder = path.parent().unwrap_or(Path::new("."));
    let file = File::create(folder.join(LOCK_FILE)).map_err(OpenError::Lock)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse),
        Err(TryLockError::Error(error)) => Err(OpenError::Lock(error)),
    }
}

async fn prepare(writer: &DatabaseConnection, migrate: bool) -> Result<(), OpenError> {
    if migrate {
        return Ok(migrate_up(writer).await?);
    }
    match Migrator::get_pending_migrations(writer).await?.len() {
        0 => Ok(()),
        missing => Err(OpenError::NotMigrated(missing)),
    }
}

/// Runs the migrations that are missing: all in one transaction, and of several servers one at a time.
async fn migrate_up(writer: &DatabaseConnection) -> Result<(), DbErr> {
    let tx = writer.begin().await?;
    lock_migrations(&tx).await?;
    Migrator::up(&tx, None).await?;
    tx.commit().await
}

/// One server at a time, and each for as long as it takes: an index of a large table needs more than a call may, and whoever
/// comes second waits for it.
async fn lock_migrations(db: &impl ConnectionTrait) -> Result<(), DbErr> {
    if db.get_database_backend() == DbBackend::Postgres {
        db.execute_unprepared("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0").await?;
        let sql = format!("SELECT pg_advisory_xact_lock({LOCK_CLASS}, {LOCK_MIGRATIONS})");
        db.execute_raw(Statement::from_string(DbBackend::Postgres, sql)).await?;
    }
    Ok(())
}

/// A step of `taghook migrate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migration {
    /// Runs what is missing.
    Up,
    /// Takes the last migration back, and the data that it made room for.
    Down,
    /// Changes nothing.
    Status,
}

/// Migrates a database by hand; answers with each migration's name and whether it is applied.
///
/// # Errors
///
/// See [`OpenError`].
pub async fn migrate(options: &OpenOptions, step: Migration) -> Result<Vec<(String, bool)>, OpenError> {
    let _lock = lock_folder(&options.url)?;
    let Connections { writer, .. } = connect(options).await?;
    match step {
        Migration::Up => migrate_up(&writer).await?,
        Migration::Down => {
            let tx = writer.begin().await?;
            lock_migrations(&tx).await?;
            Migrator::down(&tx, Some(1)).await?;
            tx.commit().await?;
        }
        Migration::Status => {}
    }
    let all = Migrator::get_migration_with_status(&writer).await?;
    let applied = |status| status == taghook_migrations::MigrationStatus::Applied;
    Ok(all.iter().map(|migration| (migration.name().to_owned(), applied(migration.status()))).collect())
}
