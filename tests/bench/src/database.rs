//! The databases that servers are measured on, each new, and what is put into them by hand.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, SqliteConnection};
use tempfile::TempDir;
use tokio::time::{Instant, interval_at};

use crate::Failure;
use crate::disk::Disk;
use crate::postgres::Postgres;
use crate::sink::MARK;

/// How often the database is asked whether something has come about.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How long a statement waits for the server's transactions on SQLite.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The embedded one.
    Sqlite,
    /// A PostgreSQL of the bench's own, with its defaults, fsync among them.
    Postgres,
}

impl Kind {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }
}

/// A new database and a data folder; both go when this is dropped.
pub(crate) struct Database {
    folder: TempDir,
    postgres: Option<Postgres>,
    url: String,
}

/// Statements for either database.
enum Session {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Database {
    /// Makes a database; `settings` are lines of PostgreSQL's configuration beside its defaults.
    pub(crate) async fn new(kind: Kind, settings: &str) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("taghook-bench-").tempdir()?;
        let (postgres, url) = match kind {
            Kind::Sqlite => (None, format!("sqlite:{}", folder.path().join("taghook.db").display())),
            Kind::Postgres => {
                let settings = settings.to_owned();
                let postgres = tokio::task::spawn_blocking(move || Postgres::start_with(&settings)).await?;
                let url = postgres.database(async |_: &str| {}).await;
                (Some(postgres), url)
            }
        };
        Ok(Self { folder, postgres, url })
    }

    /// The folder of the server's data.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How a server is told of it.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The first process of a database that has processes of its own.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.postgres.as_ref().and_then(Postgres::pid)
    }

    /// Ends all connections but the one that says so.
    pub(crate) async fn end_connections(&self) -> Result<(), Failure> {
        let sql = "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        self.number(sql).await?;
        Ok(())
    }

    /// Restarts the database's processes, as an operator would or as if they had crashed.
    pub(crate) fn restart(&self, has_crashed: bool) {
        self.stop(has_crashed);
        self.begin();
    }

    /// Stops the database's processes, as an operator would or as if they had crashed.
    pub(crate) fn stop(&self, has_crashed: bool) {
        let Some(postgres) = &self.postgres else { return };
        // It takes moments, and nothing here waits for anything else meanwhile.
        tokio::task::block_in_place(|| if has_crashed { postgres.crash() } else { postgres.stop() });
    }

    /// Starts them again.
    pub(crate) fn begin(&self) {
        let Some(postgres) = &self.postgres else { return };
        tokio::task::block_in_place(|| postgres.begin());
    }

    /// Gives what is stored a disk of so many MiB, before anything is: on PostgreSQL the tables, while its log is elsewhere.
    /// `None` if this account or machine can't mount one.
    pub(crate) async fn mount(&self, size_mib: u64) -> Result<Option<Disk>, Failure> {
        let Some(postgres) = &self.postgres else { return Disk::mount(self.folder(), size_mib) };
        let folder = postgres.folder().join("disk");
        std::fs::create_dir(&folder)?;
        let disk = Disk::mount(&folder, size_mib)?;
        if disk.is_some() {
            postgres.move_to(&folder.join("tables"), &self.url).await;
        }
        Ok(disk)
    }

    /// Runs statements in one transaction.
    pub(crate) async fn execute(&self, sql: &str) -> Result<(), Failure> {
        match self.session().await? {
            Session::Sqlite(mut db) => {
                db.execute(AssertSqlSafe(format!("BEGIN IMMEDIATE; {sql}; COMMIT"))).await?;
                db.close().await?;
            }
            Session::Postgres(mut db) => {
                db.execute(AssertSqlSafe(sql)).await?;
                db.close().await?;
            }
        }
        Ok(())
    }

    /// The one number that a statement answers with.
    pub(crate) async fn number(&self, sql: &str) -> Result<i64, Failure> {
        Ok(match self.session().await? {
            Session::Sqlite(mut db) => sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut db).await?,
            Session::Postgres(mut db) => sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut db).await?,
        })
    }

    /// The texts that a statement of PostgreSQL answers with.
    pub(crate) async fn lines(&self, sql: &str) -> Result<Vec<String>, Failure> {
        let mut db = PgConnection::connect(&self.url).await?;
        Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut db).await?)
    }

    /// Asks for a number until it is the expected one, but not for ever; answers with the last.
    pub(crate) async fn number_becomes(&self, sql: &str, expected: i64, patience: Duration) -> Result<i64, Failure> {
        let mut ticks = interval_at(Instant::now(), ASK_EVERY);
        let end = Instant::now() + patience;
        loop {
            ticks.tick().await;
            let number = self.number(sql).await?;
            if number == expected || Instant::now() >= end {
                return Ok(number);
            }
        }
    }

    async fn session(&self) -> Result<Session, Failure> {
        if self.postgres.is_some() {
            return Ok(Session::Postgres(PgConnection::connect(&self.url).await?));
        }
        let options = self.url.parse::<SqliteConnectOptions>()?.create_if_missing(true);
        let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
        Ok(Session::Sqlite(options.busy_timeout(BUSY_TIMEOUT).connect().await?))
    }

    /// Contacts `bench-<number>@example.com`, with the values of the contact with the e-mail `pattern`.
    pub(crate) async fn add_contacts(&self, pattern: &str, count: usize) -> Result<(), Failure> {
        let mark = String::from_utf8_lossy(MARK);
        let (series, id) = self.series(count);
        self.execute(&format!(
            "INSERT INTO contacts (id, workspace_id, email, status, field_values, version, created_us, updated_us) \
             SELECT {id}, workspace_id, '{mark}' || n || '@example.com', status, field_values, version, created_us, \
             updated_us FROM contacts, {series} WHERE email = '{pattern}'"
        ))
        .await
    }

    /// A table `s` of the numbers `n` from 0 on, and the expression of a UUIDv7 of each number: as of rows that were made
    /// one a millisecond until now. In any other order they would be scattered over the indexes as real rows never are; older
    /// ones would be looked at as what may be removed.
    pub(crate) fn series(&self, count: usize) -> (String, String) {
        if self.postgres.is_some() {
            let millis = format!("(extract(epoch FROM now()) * 1000)::bigint - {count} + n");
            let id = format!("(lpad(to_hex({millis}), 12, '0') || '7000' || '8' || repeat('0', 15))::uuid");
            return (format!("generate_series(0::bigint, {count} - 1) AS s(n)"), id);
        }
        let series = format!(
            "(WITH RECURSIVE t(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM t WHERE n < {count} - 1) SELECT n FROM t) AS s"
        );
        let id = format!("unhex(printf('%012x', unixepoch() * 1000 - {count} + n) || '70008000000000000000')");
        (series, id)
    }

    /// The expression of the time now, in microseconds, by the database's clock.
    pub(crate) fn now_us(&self) -> &'static str {
        match self.postgres {
            Some(_) => "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
            None => "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
        }
    }

    /// The expression of a number as text.
    pub(crate) fn text_of_number(&self, number: &str) -> String {
        if self.postgres.is_some() { format!("({number})::text") } else { format!("CAST({number} AS TEXT)") }
    }

    /// Lets the database know what is in its tables now, and write back what was put into them, as it would by itself in
    /// time: neither is part of what is measured next.
    pub(crate) async fn settle(&self) -> Result<(), Failure> {
        if self.postgres.is_none() {
            return Ok(());
        }
        self.execute_alone("VACUUM ANALYZE").await?;
        self.execute_alone("CHECKPOINT").await
    }

    /// A session that is idle in a transaction with a snapshot, for as long as this is held.
    pub(crate) async fn hold_snapshot(&self) -> Result<PgConnection, Failure> {
        let mut db = PgConnection::connect(&self.url).await?;
        db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT COUNT(*) FROM deliveries").await?;
        Ok(db)
    }

    async fn execute_alone(&self, sql: &'static str) -> Result<(), Failure> {
        let mut db = PgConnection::connect(&self.url).await?;
        db.execute(sql).await?;
        Ok(db.close().await?)
    }

    /// How many commits of one row this database makes a second, one after the other.
    pub(crate) async fn commits_per_s(&self, count: u32) -> Result<f64, Failure> {
        self.execute("CREATE TABLE bench_commits (n BIGINT)").await?;
        let start = Instant::now();
        let insert = "INSERT INTO bench_commits VALUES (1)";
        match self.session().await? {
            Session::Sqlite(mut db) => {
                for _ in 0..count {
                    db.execute(sqlx::query(insert)).await?;
                }
            }
            Session::Postgres(mut db) => {
                for _ in 0..count {
                    db.execute(sqlx::query(insert)).await?;
                }
            }
        }
        Ok(f64::from(count) / start.elapsed().as_secs_f64())
    }
}
