//! The server under test, in this process.

use std::fs::File;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prost_types::Timestamp;
use taghook::clock::{Clock, Entropy, ManualClock};
use taghook::config::Config;
use taghook::domain::time::Micros;
use taghook::links::Urls;
use taghook::store::Store;
use taghook::store::open::{Migration, migrate};
use taghook::{Environment, Server, server};
use taghook_client::{Client, Options};
use tempfile::TempDir;

use super::postgres::Postgres;
use super::{Api, FromDatabase, RawGrpc, within};

/// Where manual clocks begin: 2026-01-01T00:00:00Z.
pub(super) const MANUAL_START: Micros = Micros(1_767_225_600_000_000);
/// Enough for a test; many servers share one PostgreSQL.
const CONNECTIONS: u32 = 8;

/// A database of a test's own, with the data folder of its first server.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    /// Empty for SQLite: the file in the data folder.
    url: String,
    folder: Arc<TempDir>,
}

/// How a server is set up, if not as usual.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
}

/// Moves a server's clock.
#[derive(Clone, Debug)]
pub(crate) struct Hand {
    clock: Clock,
    hand: ManualClock,
}

/// A running server with what a test needs of it. It ends when it is dropped, as if it had crashed.
pub(crate) struct Taghook {
    api: Api,
    /// The root key, for `workspaces()`.
    pub(crate) root: Client,
    server: Server,
    settings: Settings,
    database: Database,
}

impl Database {
    /// SQLite in a data folder.
    pub(crate) fn sqlite() -> Self {
        Self { url: String::new(), folder: Arc::new(folder()) }
    }

    /// A migrated database of the PostgreSQL of this test run.
    pub(crate) async fn postgres() -> Self {
        Self::on_server(Postgres::shared()).await
    }

    /// A migrated database of a PostgreSQL.
    pub(crate) async fn on_server(postgres: &Postgres) -> Self {
        let migrated = async |url: &str| {
            let folder = folder();
            let database = Self { url: url.to_owned(), folder: Arc::new(folder) };
            let options = server::open_options(&database.settings().config, Environment::system());
            migrate(&options, Migration::Up).await.expect("the migrations");
        };
        let url = postgres.database(migrated).await;
        Self { url, folder: Arc::new(folder()) }
    }

    /// Whether it is PostgreSQL, which several servers can share.
    pub(crate) fn is_postgres(&self) -> bool {
        !self.url.is_empty()
    }

    /// The data folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The URL of its configuration; empty for SQLite.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// How a server is usually set up: on a free port, allowed to call this machine.
    pub(crate) fn settings(&self) -> Settings {
        let mut config = Config {
            data_dir: self.folder().to_path_buf(),
            listen: "127.0.0.1:0".parse().expect("an address"),
            ..Config::default()
        };
        config.database.url.clone_from(&self.url);
        config.database.connections = CONNECTIONS;
        config.egress.allow = vec!["127.0.0.0/8".parse().expect("a range")];
        Settings { config, clock: Clock::system() }
    }

    /// Waits until no server uses the SQLite database.
    async fn is_free(&self) {
        let lock = File::open(self.folder().join("taghook.lock")).expect("the lock of a server");
        while lock.try_lock().is_err() {
            tokio::task::yield_now().await;
        }
    }

    /// Reads a key of the data folder: `default.key` or `root.key`.
    pub(crate) fn key(&self, file: &str) -> String {
        let text = std::fs::read_to_string(self.folder().join(file)).expect("a key of the first start");
        text.trim().to_owned()
    }
}

impl FromDatabase for Database {
    async fn on(database: Database) -> Self {
        database
    }
}

impl Settings {
    /// With a clock that stands until the test moves it.
    pub(crate) fn with_manual_clock(mut self) -> (Self, Hand) {
        let (clock, hand) = Clock::manual(MANUAL_START);
        self.clock = clock.clone();
        (self, Hand { clock, hand })
    }

    async fn start(&self) -> Server {
        let environment = Environment { clock: self.clock.clone(), entropy: Entropy::system() };
        Server::start(&self.config, environment).await.expect("a server")
    }
}

impl Hand {
    /// Moves the clock forward.
    pub(crate) fn advance(&self, by: Duration) {
        self.hand.advance(by);
    }

    /// Sets the clock back.
    pub(crate) fn set_back(&self, by: Duration) {
        self.hand.set_back(by);
    }

    /// Moves the clock forward to a time; how far that was.
    pub(crate) fn advance_to(&self, time: Timestamp) -> Duration {
        let by = self.until(time);
        self.advance(by);
        by
    }

    /// How far it is to a time.
    pub(crate) fn until(&self, time: Timestamp) -> Duration {
        let time = Micros::from_unix(time.seconds, time.nanos).expect("a time");
        time.saturating_since(self.clock.now())
    }
}

impl FromDatabase for Taghook {
    async fn on(database: Database) -> Self {
        let settings = database.settings();
        Self::start(database, settings).await
    }
}

impl Taghook {
    /// Starts a server. On PostgreSQL several can run on one database: they share the data folder and so the keys.
    pub(crate) async fn start(database: Database, settings: Settings) -> Self {
        let server = settings.start().await;
        let connect = |key: &str| {
            // Tests want to see the first answer.
            let options = Options::new(format!("http://{}", server.local_addr())).api_key(key).retries(0);
            Client::connect(options.deadline(Duration::from_secs(30))).expect("a client")
        };
        Self {
            api: Api { client: connect(&database.key("default.key")) },
            root: connect(&database.key("root.key")),
            server,
            settings,
            database,
        }
    }

    /// A further server on the same PostgreSQL, with the same clock.
    pub(crate) async fn another(&self) -> Self {
        assert!(self.database.is_postgres(), "SQLite serves one");
        Self::start(self.database.clone(), self.settings()).await
    }

    /// Stops gracefully and starts again, on the same database.
    pub(crate) async fn restart(self) -> Self {
        let (database, settings) = (self.database.clone(), self.settings());
        self.stop().await;
        Self::start(database, settings).await
    }

    /// Ends as if the process had died, and starts again.
    pub(crate) async fn crash(self) -> Self {
        let (database, settings) = (self.database.clone(), self.settings());
        drop(self);
        if !database.is_postgres() {
            within("the end of what the server has left behind", database.is_free()).await;
        }
        Self::start(database, settings).await
    }

    /// Stops gracefully.
    pub(crate) async fn stop(self) {
        within("the graceful stop", self.server.stop()).await.expect("a stop in time");
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> String {
        self.server.local_addr().to_string()
    }

    /// The port for links, if there is one.
    pub(crate) fn links_addr(&self) -> Option<SocketAddr> {
        self.server.links_addr()
    }

    /// What links start with that lead to this server.
    pub(crate) fn links_base(&self) -> String {
        format!("http://{}", self.links_addr().expect("a port for links"))
    }

    /// What makes the tokens of links.
    pub(crate) fn link_urls(&self) -> Urls {
        Urls::new(self.store().facts(), None)
    }

    /// The key of the default workspace.
    pub(crate) fn key(&self) -> String {
        self.database.key("default.key")
    }

    /// A client with another key, or with none.
    pub(crate) fn client_with(&self, key: Option<&str>) -> Client {
        let options = Options::new(format!("http://{}", self.authority())).retries(0);
        let options = match key {
            Some(key) => options.api_key(key),
            None => options,
        };
        Client::connect(options).expect("a client")
    }

    /// A connection for calls that no client makes.
    pub(crate) async fn raw(&self) -> RawGrpc {
        RawGrpc::connect(&self.authority()).await
    }

    /// The server's own hand on the database, for transactions that no caller could make.
    pub(crate) fn store(&self) -> &Store {
        self.server.store()
    }

    /// The database that the server is on.
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// How it was set up.
    fn settings(&self) -> Settings {
        Settings { config: self.settings.config.clone(), clock: self.settings.clock.clone() }
    }
}

impl Deref for Taghook {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("taghook-test-").tempdir().expect("a temporary folder")
}
