//! The configuration. Later sources win: the defaults, a TOML file, the environment, flags.
//!
//! A field's comment is its reference: unit, bounds, default. In the file a field stands in its section; in the
//! environment its name is `TAGHOOK_`, the section and the field, as `TAGHOOK_DATABASE_URL`, and a list is separated by
//! commas. The master key of the secrets can also be given as `TAGHOOK_SECRET_KEY`, and never stands in the file; one that
//! replaces it is `TAGHOOK_NEW_SECRET_KEY`.

mod check;
mod load;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

pub use load::{ConfigError, Flags, Loaded, Sources, load};

use crate::dispatch::egress::{EgressPolicy, PortSetError};
use crate::dispatch::retention::RetentionSettings;

/// Turns the port for SmartLinks off.
pub(crate) const LINKS_OFF: &str = "off";
/// The port for SmartLinks, if nothing else is said.
const LINKS_PORT: u16 = 50_080;

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The data folder: the embedded database, the key files. Made at start, for its owner alone.
    /// Default: `taghook` in `$XDG_DATA_HOME`, which is `~/.local/share` if it isn't set.
    pub data_dir: PathBuf,
    /// The address and port of gRPC, health, reflection and gRPC-Web. Port 0 takes a free one.
    /// Default: `127.0.0.1:50051`.
    pub listen: SocketAddr,
    /// Whether to run missing migrations at start. Several servers that start at once migrate once. Default: true.
    pub migrate: bool,
    /// The database.
    pub database: Database,
    /// Encryption of secrets at rest.
    pub secrets: Secrets,
    /// Who may call.
    pub auth: Auth,
    /// Browsers.
    pub web: Web,
    /// Bounds.
    pub limits: Limits,
    /// The public port for SmartLinks.
    pub links: Links,
    /// What webhooks may reach.
    pub egress: Egress,
    /// Sending.
    pub dispatch: Dispatch,
    /// How long things are kept.
    pub retention: Retention,
    /// Stopping.
    pub shutdown: Shutdown,
    /// Logs.
    pub log: Log,
}

/// The database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// `sqlite:<path>` or `postgres://<user>:<password>@<host>/<database>`. Default: the SQLite file `taghook.db` in the
    /// data folder.
    pub url: String,
    /// Connections to PostgreSQL, half of them for reads: 2 to 1,000. SQLite ignores it. Default: 20.
    pub connections: u32,
}

/// Encryption of secrets at rest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Secrets {
    /// The file of the master key, base64 of 32 bytes. It is made if it doesn't exist; servers that share a database need
    /// the same key. `TAGHOOK_SECRET_KEY` takes its place. Default: `secret.key` in the data folder.
    pub key_file: PathBuf,
    /// The master key itself, if the environment gives it. It never stands in the file.
    #[serde(skip)]
    pub key: Option<KeyText>,
    /// The master key that is to take its place, if the environment gives it (`TAGHOOK_NEW_SECRET_KEY`). A server starts
    /// with whichever of both the database is sealed with, so that both can be given before and after the replacement.
    #[serde(skip)]
    pub new_key: Option<KeyText>,
}

/// The written form of the master key. It isn't shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyText(pub Zeroizing<String>);

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyText(..)")
    }
}

/// Who may call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Whether reflection needs no API key. Health never needs one. Default: true.
    pub public_reflection: bool,
}

/// Browsers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Web {
    /// The origins whose pages may call by gRPC-Web, as `https://app.example.com`; `*` for any; none for no pages but
    /// those of the same origin. Calls carry no cookies, and a page without an API key reaches health and reflection
    /// alone. Default: `*`.
    pub allowed_origins: Vec<String>,
}

/// Bounds. What goes beyond them is refused, or waits in the system's queue, instead of growing without end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Open connections: 1 to 1,000,000. More wait until one closes. Default: 10,000.
    pub connections: usize,
    /// Unary calls in progress: 1 to 1,000,000. More are refused with UNAVAILABLE. Default: 2,000.
    pub concurrent_calls: usize,
    /// Open streams (outcomes, health, reflection): 1 to 1,000,000. More are refused with UNAVAILABLE.
    /// Default: 10,000.
    pub streams: usize,
    /// The deadline of unary calls, in seconds: 1 to 3,600. Callers can set an earlier one. Default: 30.
    pub call_timeout_seconds: u32,
}

/// The public HTTP port for SmartLinks: `GET /l/..`, and nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Links {
    /// The address and port, or `off`. Port 0 takes a free one. Default: port 50080 at the address of `listen`, and a
    /// free one if that has port 0.
    pub listen: String,
    /// What links start with, as `https://go.example.com`: where a proxy with TLS, or this port, is reached. Default:
    /// `http://` and the port's address.
    pub base_url: String,
    /// Requests per second of one client (an IPv4 address, or the /64 of an IPv6 one): 1 to 1,000,000. More are refused
    /// with 429. Default: 20.
    pub requests_per_second: u32,
    /// How many requests of one client may come at once after a quiet time: 1 to 1,000,000. Default: 200.
    pub burst: u32,
    /// Ranges of the proxies whose `X-Forwarded-For` is believed, in CIDR notation. Default: none; then the client is
    /// whoever connects.
    #[serde(deserialize_with = "ranges")]
    pub trusted_proxies: Vec<IpNet>,
    /// Open connections: 1 to 1,000,000. More wait until one closes. Default: 2,000.
    pub connections: usize,
}

/// What webhooks may reach, beside the public internet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Egress {
    /// Ranges of addresses that are reachable though they aren't public, in CIDR notation, as `10.20.0.0/16`.
    /// Default: none.
    #[serde(deserialize_with = "ranges")]
    pub allow: Vec<IpNet>,
    /// Whether plain http is refused. Default: false.
    pub require_https: bool,
    /// The reachable ports, as `443, 8000-8999`. Default: `1-65535`.
    pub ports: String,
    /// A file of PEM certificates of authorities that are trusted beside the system's. Default: none.
    pub extra_ca_file: PathBuf,
}

/// Sending.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dispatch {
    /// How many requests this server sends at a time: 1 to 10,000. One webhook takes about half of them at most, and less
    /// the more others are busy: so one slow endpoint never takes all. What waits in the queue takes three quarters of them
    /// at most: the rest is for what arrives. Default: 256.
    pub senders: usize,
}

/// How long things are kept, in days.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Attempts and outcomes: 1 to 3,650 days. Default: 30.
    pub attempts_days: u32,
    /// Finished deliveries: `attempts_days` to 3,650 days. Default: 90.
    pub deliveries_days: u32,
    /// When a webhook last fired for a contact: 30 to 3,650 days; the longest cooldown is 30. Default: 30.
    pub cooldowns_days: u32,
    /// Counts for GetDeliveryStats: 1 to 3,650 days. Default: 90.
    pub stats_days: u32,
}

/// Stopping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// How long attempts and calls in progress may take to finish, in seconds: 0 to 3,600. An attempt takes up to 30.
    /// Default: 40.
    pub grace_seconds: u32,
}

/// Logs; they go to standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `text` for people, `json` for programs. Default: `text`.
    pub format: LogFormat,
    /// What is logged, as `info,taghook::rpc=debug`, which adds a line for each call.
    /// Default: `info,sea_orm_migration=warn,sqlx=error`.
    pub filter: String,
}

/// The form of logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

impl Config {
    /// The URL of the database.
    #[must_use]
    pub fn database_url(&self) -> String {
        if self.database.url.is_empty() {
            format!("sqlite:{}", self.data_dir.join("taghook.db").display())
        } else {
            self.database.url.clone()
        }
    }

    /// The file of the master key.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        if self.secrets.key_file.as_os_str().is_empty() {
            self.data_dir.join("secret.key")
        } else {
            self.secrets.key_file.clone()
        }
    }

    /// The address of the port for SmartLinks; `None` if there is none.
    #[must_use]
    pub fn links_listen(&self) -> Option<SocketAddr> {
        match (self.links.listen.as_str(), self.listen.port()) {
            (LINKS_OFF, _) => None,
            ("", 0) => Some(self.listen),
            ("", _) => Some(SocketAddr::new(self.listen.ip(), LINKS_PORT)),
            (text, _) => text.parse().ok(),
        }
    }

    /// How the gRPC port is served.
    #[must_use]
    pub fn rpc(&self) -> crate::rpc::Settings {
        crate::rpc::Settings {
            public_reflection: self.auth.public_reflection,
            allowed_origins: self
                .web
                .allowed_origins
                .iter()
                .filter_map(|text| HeaderValue::from_str(text).ok())
                .collect(),
            connections: self.limits.connections,
            concurrent_calls: self.limits.concurrent_calls,
            streams: self.limits.streams,
            call_timeout: Duration::from_secs(self.limits.call_timeout_seconds.into()),
        }
    }
}

impl Links {
    /// How the port is served.
    #[must_use]
    pub fn settings(&self) -> crate::links::Settings {
        crate::links::Settings {
            requests_per_second: self.requests_per_second,
            burst: self.burst,
            trusted_proxies: self.trusted_proxies.clone(),
            connections: self.connections,
        }
    }
}

impl Egress {
    /// The policy of the egress guard.
    ///
    /// # Errors
    ///
    /// The ports can't be read; [`load()`] has told that already.
    pub fn policy(&self) -> Result<EgressPolicy, PortSetError> {
        Ok(EgressPolicy { allow: self.allow.clone(), require_https: self.require_https, ports: self.ports.parse()? })
    }
}

impl Retention {
    /// How long rows are kept.
    #[must_use]
    pub fn settings(&self) -> RetentionSettings {
        let days = |days: u32| Duration::from_secs(u64::from(days) * 24 * 60 * 60);
        RetentionSettings {
            attempts: days(self.attempts_days),
            deliveries: days(self.deliveries_days),
            cooldowns: days(self.cooldowns_days),
            stats: days(self.stats_days),
        }
    }
}

impl Shutdown {
    /// How long attempts and calls in progress may take to finish.
    #[must_use]
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds.into())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::new(),
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50_051),
            migrate: true,
            database: Database::default(),
            secrets: Secrets::default(),
            auth: Auth::default(),
            web: Web::default(),
            limits: Limits::default(),
            links: Links::default(),
            egress: Egress::default(),
            dispatch: Dispatch::default(),
            retention: Retention::default(),
            shutdown: Shutdown::default(),
            log: Log::default(),
        }
    }
}

impl Default for Database {
    fn default() -> Self {
        Self { url: String::new(), connections: 20 }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self { public_reflection: true }
    }
}

impl Default for Web {
    fn default() -> Self {
        Self { allowed_origins: vec!["*".to_owned()] }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 10_000, concurrent_calls: 2_000, streams: 10_000, call_timeout_seconds: 30 }
    }
}

impl Default for Links {
    fn default() -> Self {
        Self {
            listen: String::new(),
            base_url: String::new(),
            requests_per_second: 20,
            burst: 200,
            trusted_proxies: Vec::new(),
            connections: 2_000,
        }
    }
}

impl Default for Egress {
    fn default() -> Self {
        Self { allow: Vec::new(), require_https: false, ports: "1-65535".to_owned(), extra_ca_file: PathBuf::new() }
    }
}

impl Default for Dispatch {
    fn default() -> Self {
        Self { senders: 256 }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self { attempts_days: 30, deliveries_days: 90, cooldowns_days: 30, stats_days: 90 }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace_seconds: 40 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info,sea_orm_migration=warn,sqlx=error".to_owned() }
    }
}

/// Reads ranges; a single address is a range of its own.
fn ranges<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| range(text).ok_or_else(|| not_a_range(text))).collect()
}

fn range(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn not_a_range<E: serde::de::Error>(text: &str) -> E {
    E::custom(format!("{text:?} is no range of addresses in CIDR notation, as 10.20.0.0/16"))
}
