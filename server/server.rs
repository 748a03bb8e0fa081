//! One server: what is started, in which order, and how it stops.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::automation::{GroupCommit, campaign};
use crate::clock::{Clock, Entropy};
use crate::config::Config;
use crate::dispatch::egress::{Egress, EgressPolicy, PortSetError};
use crate::dispatch::send::{BuildError, Sender, SenderSettings};
use crate::dispatch::{Dispatcher, replay, retention};
use crate::error::{Error, chain};
use crate::first_start::{self, KeyFileError};
use crate::lifecycle::{Forced, Lifecycle, Signals, TaskDied};
use crate::links::{self, Links, Urls};
use crate::outcomes::OutcomeLog;
use crate::rpc::{self, Health, Keys, ServeError, Services};
use crate::secrets::{self, Sealer};
use crate::store::heartbeat::{self, HEARTBEAT_EVERY, Watchman};
use crate::store::lease::Handover;
use crate::store::open::{OpenError, OpenOptions};
use crate::store::{Store, Tx};

/// How long the last words to the database may take at the stop.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a server takes from outside, so that tests can set it.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The clock.
    pub clock: Clock,
    /// The randomness.
    pub entropy: Entropy,
}

impl Environment {
    /// The system's.
    #[must_use]
    pub fn system() -> Self {
        Self { clock: Clock::system(), entropy: Entropy::system() }
    }
}

/// Why a server doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder can't be made.
    #[error("the data folder can't be made or read")]
    DataDir(#[source] io::Error),
    /// The address can't be listened on.
    #[error("{address} can't be listened on")]
    Listen {
        /// The address of the configuration.
        address: SocketAddr,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The database's secrets are sealed with another master key.
    #[error(
        "the database belongs to another master key: use the secret.key of the server that first used it, \
         or set TAGHOOK_SECRET_KEY to what stands in it"
    )]
    WrongMasterKey,
    /// A key file can't be used.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The database can't be opened.
    #[error(transparent)]
    Store(OpenError),
    /// The ports of the egress policy can't be read.
    #[error("egress.ports can't be read")]
    EgressPorts(#[source] PortSetError),
    /// The file of further authorities can't be read.
    #[error("egress.extra_ca_file can't be read")]
    ExtraCaFile(#[source] io::Error),
    /// The HTTP client can't be made.
    #[error(transparent)]
    Sender(#[from] BuildError),
    /// The log of outcomes can't be read.
    #[error("the log of outcomes can't be read")]
    Log(#[source] Error),
    /// The API can't be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// How a server ended, if not well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A part of it died.
    #[error(transparent)]
    Died(#[from] TaskDied),
    /// It was stopped before everything was finished.
    #[error(transparent)]
    Forced(#[from] Forced),
}

/// A running server. Dropped without [`Server::stop`] it ends at once, as if it had crashed.
pub struct Server {
    local_addr: SocketAddr,
    links_addr: Option<SocketAddr>,
    store: Store,
    health: Health,
    lifecycle: Lifecycle,
    grace: Duration,
}

impl Server {
    /// Starts a server. When this returns, calls are answered.
    ///
    /// # Errors
    ///
    /// See [`StartError`]. Nothing is left running.
    pub async fn start(config: &Config, environment: Environment) -> Result<Self, StartError> {
        first_start::make_folder(&config.data_dir).map_err(StartError::DataDir)?;
        // Before anything is written: the most frequent mistake is a second server.
        let (listener, local_addr) = listen_on(config.listen).await?;
        let links_listener = match config.links_listen() {
            Some(address) => Some(listen_on(address).await?),
            None => None,
        };
        let links_addr = links_listener.as_ref().map(|(_, address)| *address);
        let sender = Sender::new(policy(config)?, &sender_settings(config)?)?;
        let (store, handovers) = open_store(config, &environment).await?;
        first_start::api_keys(&store, &config.data_dir).await?;

        let (health, lifecycle) = (Health::starting().await, Lifecycle::default());
        let stop = lifecycle.stop().clone();
        let outcomes = OutcomeLog::open(store.clone(), stop.soft.clone()).await.map_err(StartError::Log)?;
        // They outlive the calls in progress, which wait for them.
        let (assigner, assigning) = GroupCommit::new(store.clone());
        let (recorder, recording) = GroupCommit::new(store.clone());
        let keys = Keys::new(store.clone());
        let services = Services {
            store: store.clone(),
            keys: keys.clone(),
            assigner,
            recorder,
            outcomes: outcomes.clone(),
            links: Urls::new(store.facts(), links_base(config, links_addr)),
            egress: Arc::new(Egress::new(policy(config)?)),
            setup: config.rpc().setup(),
        };
        lifecycle.spawn("rpc", rpc::serve(&services, &health, &config.rpc(), listener, stop.clone())?);
        if let Some((listener, _)) = links_listener {
            let (clicker, clicking) = GroupCommit::new(store.clone());
            let links = Links { store: store.clone(), urls: services.links.clone(), clicker };
            lifecycle.spawn("links", links::serve(links, config.links.settings(), listener, stop.clone()));
            lifecycle.spawn_support("click", clicking.run(stop.last.clone()));
        }
        lifecycle.spawn("outcomes", outcomes.follow());
        let dispatcher = Dispatcher::new(store.clone(), sender, handovers);
        lifecycle.spawn("dispatch", dispatcher.run(stop.soft.clone(), stop.hard.clone()));
        lifecycle.spawn("campaigns", campaign::run(store.clone(), stop.soft.clone()));
        lifecycle.spawn("replay", replay::run(store.clone(), stop.soft.clone()));
        lifecycle.spawn("retention", retention::run(store.clone(), config.retention.settings(), stop.soft.clone()));
        lifecycle.spawn_support("assign", assigning.run(stop.last.clone()));
        lifecycle.spawn_support("record", recording.run(stop.last.clone()));
        lifecycle.spawn_support("listen", listen(store.clone(), config.database_url(), stop.last.clone()));
        lifecycle.spawn_support("write back", write_back(store.clone(), config.database_url(), stop.last.clone()));
        lifecycle.spawn_support("heartbeat", beat(store.clone(), stop.last.clone()));
        lifecycle.spawn_support("keys", keys.follow(stop.last.clone()));
        lifecycle.spawn_support("health", health.clone().follow(store.clone(), stop.last));
        tracing::info!(address = %local_addr, "serving gRPC");
        if let Some(address) = links_addr {
            tracing::info!(%address, "serving links");
        }
        Ok(Self { local_addr, links_addr, store, health, lifecycle, grace: config.shutdown.grace() })
    }

    /// The address that it listens on, with the port that was chosen for port 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The address of the port for SmartLinks; `None` if there is none.
    #[must_use]
    pub fn links_addr(&self) -> Option<SocketAddr> {
        self.links_addr
    }

    /// Its database.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Stops gracefully.
    ///
    /// # Errors
    ///
    /// [`Forced`] if not everything was finished within the grace.
    pub async fn stop(self) -> Result<(), Forced> {
        self.finish(std::future::pending()).await
    }

    /// Runs until one of the signals, then stops gracefully; a second one forces the stop.
    ///
    /// # Errors
    ///
    /// See [`RunError`].
    pub async fn run(self, mut signals: Signals) -> Result<(), RunError> {
        let died = tokio::select! {
            () = signals.next() => None,
            died = self.lifecycle.died() => Some(died),
        };
        let finished = self.finish(signals.next()).await;
        match died {
            Some(died) => Err(died.into()),
            None => Ok(finished?),
        }
    }

    async fn finish(self, force: impl Future<Output = ()>) -> Result<(), Forced> {
        tracing::info!("stopping");
        // First of all, so that no balancer sends more.
        self.health.close().await;
        let finished = self.lifecycle.finish(self.grace, force).await;
        leave(&self.store).await;
        tracing::info!("stopped");
        finished
    }
}

async fn listen_on(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let refuse = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(refuse)?;
    let local_addr = listener.local_addr().map_err(refuse)?;
    Ok((listener, local_addr))
}

/// What links start with; `None` if they are served nowhere.
fn links_base(config: &Config, links_addr: Option<SocketAddr>) -> Option<String> {
    match config.links.base_url.trim_end_matches('/') {
        "" => links_addr.map(|address| format!("http://{address}")),
        base => Some(base.to_owned()),
    }
}

/// The last words to the database, if it listens.
pub(crate) async fn leave(store: &Store) {
    let server = store.local().server();
    let leave = store.write("leave", |tx: Tx| async move { heartbeat::leave(&tx, server).await });
    match tokio::time::timeout(LEAVE_TIMEOUT, leave).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = chain(&error), "the database wasn't told of the stop"),
        Err(_) => tracing::debug!("the database wasn't told of the stop in time"),
    }
}

/// Opens the database with the master key, or with the one that is to replace it: a replacement may have been broken off
/// between the database and the key file.
pub(crate) async fn open_store(
    config: &Config,
    environment: &Environment,
) -> Result<(Store, UnboundedReceiver<Handover>), StartError> {
    let master = first_start::master_key(config, &environment.entropy)?;
    let next = first_start::next_master_key(config)?.map(|key| Sealer::new(&key));
    let present = Sealer::new(&master.key);
    let sealers: Vec<_> = [Some(&present), next.as_ref()].into_iter().flatten().collect();
    let opened = open_store_with(config, environment, &sealers).await;
    let is_present = opened.as_ref().is_ok_and(|(store, _)| store.is_sealed_with(&present));
    if master.is_new && !is_present && !matches!(opened, Err(StartError::Store(_))) {
        first_start::forget_master_key(config);
    }
    if let (false, Ok(_), Some(next)) = (is_present, &opened, &next) {
        first_start::adopt_next_master_key(config, next)?;
        tracing::info!("the database has the new master key");
    }
    opened
}

/// Opens the database with the first of these master keys that is its own.
pub(crate) async fn open_store_with(
    config: &Config,
    environment: &Environment,
    sealers: &[&Sealer],
) -> Result<(Store, UnboundedReceiver<Handover>), StartError> {
    let options = open_options(config, environment.clone());
    for sealer in sealers {
        match Store::open(&options, (*sealer).clone()).await {
            Ok(opened) => return Ok(opened),
            Err(error) if is_wrong_key(&error) => {}
            Err(error) => return Err(StartError::Store(error)),
        }
    }
    Err(StartError::WrongMasterKey)
}

/// How the configuration wants the database opened.
#[must_use]
pub fn open_options(config: &Config, environment: Environment) -> OpenOptions {
    OpenOptions {
        url: config.database_url(),
        connections: config.database.connections,
        migrate: config.migrate,
        senders: config.dispatch.senders,
        clock: environment.clock,
        entropy: environment.entropy,
    }
}

fn is_wrong_key(error: &OpenError) -> bool {
    let OpenError::Start(Error::Internal(source)) = error else {
        return false;
    };
    source.downcast_ref::<secrets::OpenError>() == Some(&secrets::OpenError::WrongKey)
}

fn policy(config: &Config) -> Result<EgressPolicy, StartError> {
    config.egress.policy().map_err(StartError::EgressPorts)
}

fn sender_settings(config: &Config) -> Result<SenderSettings, StartError> {
    let file = &config.egress.extra_ca_file;
    if file.as_os_str().is_empty() {
        return Ok(SenderSettings::default());
    }
    let extra_ca_pem = std::fs::read(file).map_err(StartError::ExtraCaFile)?;
    Ok(SenderSettings { extra_ca_pem, ..SenderSettings::default() })
}

/// Listens to the other servers; on SQLite there are none.
async fn listen(store: Store, url: String, stop: CancellationToken) {
    store.listen(&url, stop.clone()).await;
    stop.cancelled().await;
}

/// Writes the log of an SQLite database back; PostgreSQL does so itself.
async fn write_back(store: Store, url: String, stop: CancellationToken) {
    store.write_back(&url, &stop).await;
    stop.cancelled().await;
}

/// Keeps this server's leases, and frees those of dead servers, until `stop`. On SQLite there are no others: nobody would
/// look, and an idle server needn't wake the disk.
async fn beat(store: Store, stop: CancellationToken) {
    if store.is_sqlite() {
        return stop.cancelled().await;
    }
    let mut watchman = Watchman::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(HEARTBEAT_EVERY) => {}
        }
        if let Err(error) = heartbeat::beat(&store, &mut watchman, Instant::now()).await {
            tracing::debug!(error = chain(&error), "no heartbeat");
        }
    }
}
