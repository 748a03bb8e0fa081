//! The PostgreSQL that the tests run on: one server for a test run, started when it is first asked for.
//!
//! It listens on a Unix socket in its private folder and on nothing else, so that no port can be taken twice. It stops,
//! and its folder goes, when the test process ends, however it ends: a shell waits at a pipe whose other end only the
//! test process holds.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tokio::sync::OnceCell;

/// The account that owns the databases; there is no password, the socket's folder is private.
const SUPERUSER: &str = "postgres";

/// The database that others are copied from.
const TEMPLATE: &str = "template_migrated";

/// When its standard input ends: stops the server and removes its folder ($2). $1 is the folder of the programs. A test
/// process that was killed may leave behind an `initdb` or a start that is still at work, hence the later tries.
const WATCHDOG: &str = r#"
cat
for pause in 0 1 4; do
    sleep $pause
    "$1/pg_ctl" --pgdata "$2/data" --mode immediate stop && break
done
rm -rf "$2"
"#;

/// A running server.
#[derive(Debug)]
pub(crate) struct Postgres {
    /// Holds the data, the socket and the log.
    folder: PathBuf,
    /// Where its programs are.
    programs: PathBuf,
    account: Account,
    databases: AtomicU32,
    template: OnceCell<()>,
    /// Runs [`WATCHDOG`].
    watchdog: Child,
}

impl Postgres {
    /// The server of this test run.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: LazyLock<Postgres> = LazyLock::new(Postgres::start);
        &SHARED
    }

    /// The URL of a new database, a copy of one that `migrate` was given to prepare when this was first called.
    ///
    /// `migrate` gets the URL and must have closed its connections when it returns.
    pub(crate) async fn database(&self, migrate: impl AsyncFnOnce(&str)) -> String {
        self.template
            .get_or_init(async || {
                self.execute(&format!("CREATE DATABASE {TEMPLATE}")).await;
                migrate(&self.url(TEMPLATE)).await;
            })
            .await;
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.execute(&format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}")).await;
        self.url(&name)
    }

    /// Its own folder, which only its account can read.
    #[allow(dead_code, reason = "the crash test mounts a disk in it")]
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Moves a database that nobody uses to a new folder: what is stored, not the log. Once for a server.
    #[allow(dead_code, reason = "the crash test fills the disk of that folder")]
    pub(crate) async fn move_to(&self, folder: &Path, url: &str) {
        fs::create_dir(folder).expect("the new folder");
        self.account.take(folder);
        let options: PgConnectOptions = url.parse().expect("the URL of a database");
        let database = options.get_database().expect("a database");
        self.execute(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", folder.display())).await;
        self.execute(&format!("ALTER DATABASE {database} SET TABLESPACE elsewhere")).await;
    }

    fn url(&self, database: &str) -> String {
        let socket = percent_encoding::utf8_percent_encode(self.socket(), percent_encoding::NON_ALPHANUMERIC);
        format!("postgres://{SUPERUSER}@localhost/{database}?host={socket}")
    }

    fn socket(&self) -> &str {
        self.folder.to_str().expect("a temporary folder with a name in UTF-8")
    }

    async fn execute(&self, statement: &str) {
        let options = PgConnectOptions::new_without_pgpass().socket(&self.folder).username(SUPERUSER);
        let mut connection: PgConnection = options.database("postgres").connect().await.expect("a connection");
        connection.execute(AssertSqlSafe(statement)).await.expect(statement);
        connection.close().await.expect("the end of the connection");
    }

    /// A server of a test's own.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// A server of one's own, with further lines in its configuration.
    pub(crate) fn start_with(further_settings: &str) -> Self {
        let programs = programs();
        let folder = tempfile::Builder::new().prefix("taghook-pg-").tempdir().expect("a temporary folder").keep();
        let account = Account::of(&folder);
        let watchdog = watch(&account, &programs, &folder);

        let data = folder.join("data");
        let mut initdb = account.command(&programs.join("initdb"), &folder);
        initdb.args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username", SUPERUSER]);
        run(initdb.arg("--pgdata").arg(&data));

        // Durability is left on: the tests commit as the product does.
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nmax_connections = 300\n{further_settings}",
            folder.display()
        );
        let conf = OpenOptions::new().append(true).open(data.join("postgresql.conf"));
        conf.and_then(|mut conf| conf.write_all(settings.as_bytes())).expect("the server's settings");

        let (databases, template) = (AtomicU32::new(0), OnceCell::new());
        let server = Self { folder, programs, account, databases, template, watchdog };
        server.begin();
        server
    }

    /// Its first process, whose children the others are.
    #[allow(dead_code, reason = "the benchmarks read what it costs")]
    pub(crate) fn pid(&self) -> Option<u32> {
        let file = fs::read_to_string(self.folder.join("data/postmaster.pid")).ok()?;
        file.lines().next()?.trim().parse().ok()
    }

    /// Starts it; it must have been stopped.
    pub(crate) fn begin(&self) {
        self.control(&["--wait", "start"]);
    }

    /// Stops it as an operator would: connections are ended, what is committed is written back.
    #[allow(dead_code, reason = "the crash test does it")]
    pub(crate) fn stop(&self) {
        self.control(&["--wait", "--mode", "fast", "stop"]);
    }

    /// Stops it at once, as if it had crashed.
    pub(crate) fn crash(&self) {
        self.control(&["--wait", "--mode", "immediate", "stop"]);
    }

    fn control(&self, arguments: &[&str]) {
        let mut pg_ctl = self.account.command(&self.programs.join("pg_ctl"), &self.folder);
        pg_ctl.arg("--pgdata").arg(self.folder.join("data")).arg("--log").arg(self.folder.join("log"));
        run(pg_ctl.args(arguments));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // This closes its input first.
        self.watchdog.wait().expect("the end of the server");
    }
}

/// Whom the server runs as: it refuses to run as root, so then it is the account that Debian makes for it, or nobody.
#[derive(Debug)]
struct Account {
    /// User and group, if they differ from those of this process.
    ids: Option<(u32, u32)>,
}

impl Account {
    /// The account to use, which the folder, made by this process, is handed over to.
    fn of(folder: &Path) -> Self {
        let is_root = fs::metadata(folder).expect("the folder").uid() == 0;
        let ids = is_root.then(|| user("postgres").or_else(|| user("nobody")).expect("an account other than root"));
        let account = Self { ids };
        account.take(folder);
        account
    }

    /// Hands a folder that this process has made over to it.
    fn take(&self, folder: &Path) {
        if let Some((uid, gid)) = self.ids {
            chown(folder, Some(uid), Some(gid)).expect("the folder's new owner");
        }
    }

    fn command(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(folder).stdin(Stdio::null());
        if let Some((uid, gid)) = self.ids {
            command.uid(uid).gid(gid);
        }
        command
    }
}

/// User and group of an account.
fn user(name: &str) -> Option<(u32, u32)> {
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    accounts.lines().find_map(|line| {
        let mut columns = line.split(':');
        let is_it = columns.next() == Some(name);
        let mut number = |skipped| columns.nth(skipped).and_then(|id| id.parse().ok());
        if is_it { Some((number(1)?, number(0)?)) } else { None }
    })
}

/// The folder of the programs: the newest that Debian has installed, or what PATH has.
fn programs() -> PathBuf {
    let version = |folder: &PathBuf| folder.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest =
        installed.map(|entry| entry.path()).filter(|folder| folder.join("bin/initdb").is_file()).max_by_key(version);
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|folder| folder.join("initdb").is_file())
    };
    newest
        .map(|folder| folder.join("bin"))
        .or_else(on_path)
        .expect("PostgreSQL's initdb; `cargo xtask test --install` installs it")
}

/// Starts the shell that stops the server when this process has ended.
fn watch(account: &Account, programs: &Path, folder: &Path) -> Child {
    let mut shell = account.command(Path::new("/bin/sh"), Path::new("/"));
    shell.args(["-c", WATCHDOG, "watchdog"]).arg(programs).arg(folder);
    // In a process group of its own, so that Ctrl-C doesn't end it before its work.
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    shell.spawn().expect("a shell")
}

fn run(command: &mut Command) {
    // pg_ctl leaves a server behind that would hold a pipe open: its output goes to a file, if anything is to be read.
    let log = tempfile::tempfile().expect("a temporary file");
    let status = command
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log.try_clone().expect("a third handle"))
        .status()
        .expect("a program of PostgreSQL");
    if !status.success() {
        panic!("{command:?} ended with {status}: {}", read_back(log));
    }
}

fn read_back(mut file: fs::File) -> String {
    use std::io::{Read, Seek};
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("the output");
    text
}

#[tokio::test]
async fn a_new_database_is_a_copy_of_the_prepared_one() {
    let postgres = Postgres::start();
    for _ in 0..2 {
        let url = postgres
            .database(async |url: &str| {
                let mut connection = PgConnection::connect(url).await.unwrap();
                connection.execute("CREATE TABLE prepared (id BIGINT)").await.unwrap();
                connection.close().await.unwrap();
            })
            .await;
        let mut connection = PgConnection::connect(&url).await.unwrap();
        connection.execute("INSERT INTO prepared VALUES (1)").await.unwrap();
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM prepared").fetch_one(&mut connection).await.unwrap();
        assert_eq!(rows, 1);
    }
}
