//! Load while servers are killed and the database goes away; then it is counted at the receiver what was lost, what is
//! stuck, and what came twice. `cargo xtask crash-test` runs this, for a short while or for long.
//!
//! Each call has a request id and is repeated until it is answered, as a careful caller does. So every contact owes exactly
//! one delivery: none missing at the receiver is "0 lost", none left waiting in the database is "0 stuck", and a delivery
//! that came twice must have been in flight when something was killed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use taghook_client::Client;
use taghook_client::v1::TagContactRequest;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, timeout};

use crate::database::{Database, Kind};
use crate::server::{PATTERN, Server, prepare};
use crate::sink::Sink;
use crate::{Databases, Failure};

/// How many callers there are, each with one call at a time.
const CALLERS: usize = 32;
/// How many attempts a server makes at a time by default: at most so many are in flight when it is killed.
const SENDERS: usize = 256;
/// How long it may take until everything is delivered after the last harm: leases of dead servers end after ten seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long, and on what.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// The built server
    #[arg(long, default_value = "target/release/taghook")]
    server: PathBuf,
    /// On which database
    #[arg(long, value_enum, default_value = "both")]
    database: Databases,
    /// How long there is load, on each database
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// The time between two harms, in milliseconds
    #[arg(long, default_value_t = 2_000)]
    every_ms: u64,
}

/// What is done to the servers and the database, in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// SIGKILL of one server, which is started again at once.
    KillServer(usize),
    /// All of the servers' connections are ended by the database.
    KillConnections,
    /// The database restarts as an operator would.
    RestartDatabase,
    /// The database restarts as if it had crashed.
    CrashDatabase,
}

impl Harm {
    fn of(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::Sqlite => &[Self::KillServer(0)],
            Kind::Postgres => &[
                Self::KillServer(0),
                Self::KillConnections,
                Self::KillServer(1),
                Self::RestartDatabase,
                Self::KillServer(0),
                Self::CrashDatabase,
                Self::KillServer(1),
            ],
        }
    }
}

/// Runs the test on each database, and prints what came of it.
///
/// # Errors
///
/// Something was lost, is stuck, or came twice without having been in flight.
pub(crate) async fn run(options: &Options) -> Result<(), Failure> {
    println!("| database | harms | calls | arrived | lost | stuck | duplicates | allowed |");
    println!("|---|---|---:|---:|---:|---:|---:|---:|");
    let mut is_good = true;
    for kind in options.database.kinds() {
        let summary = run_on(options, *kind).await?;
        println!("{}", summary.row());
        is_good &= summary.is_good();
    }
    if is_good { Ok(()) } else { Err("deliveries were lost, are stuck, or came twice without cause".into()) }
}

struct Summary {
    kind: Kind,
    harms: Vec<Harm>,
    calls: usize,
    arrived: usize,
    stuck: i64,
    duplicates: usize,
    /// Contacts with more than one delivery: a call that was carried out twice.
    repeated_calls: usize,
}

impl Summary {
    fn allowed(&self) -> usize {
        // Whoever loses the database can't settle what was in flight either.
        let servers = if self.kind == Kind::Postgres { 2 } else { 1 };
        let each = |harm: &Harm| if matches!(harm, Harm::KillServer(_)) { 1 } else { servers };
        self.harms.iter().map(each).sum::<usize>() * SENDERS
    }

    fn is_good(&self) -> bool {
        self.arrived == self.calls
            && self.stuck == 0
            && self.repeated_calls == 0
            && self.duplicates <= self.allowed()
            && self.calls > 0
    }

    fn row(&self) -> String {
        let count = |wanted: fn(&Harm) -> bool| self.harms.iter().filter(|harm| wanted(harm)).count();
        let kills = count(|harm| matches!(harm, Harm::KillServer(_)));
        let mut harms = format!("{kills} SIGKILL");
        if self.kind == Kind::Postgres {
            harms = format!(
                "{harms}, {} restarts and {} crashes of the database, {} times all connections killed",
                count(|harm| *harm == Harm::RestartDatabase),
                count(|harm| *harm == Harm::CrashDatabase),
                count(|harm| *harm == Harm::KillConnections),
            );
        }
        format!(
            "| {} | {harms} | {} | {} | {} | {} | {} | {} |",
            self.kind.name(),
            self.calls,
            self.arrived,
            self.calls.saturating_sub(self.arrived) + self.repeated_calls,
            self.stuck,
            self.duplicates,
            self.allowed()
        )
    }
}

async fn run_on(options: &Options, kind: Kind) -> Result<Summary, Failure> {
    let contacts = usize::try_from(options.seconds)? * 4_000;
    let sink = Sink::start_with_ledger(contacts).await?;
    let database = Database::new(kind, "").await?;
    let mut servers = Vec::new();
    for _ in 0..if kind == Kind::Postgres { 2 } else { 1 } {
        servers.push(Server::start(&options.server, &database).await?);
    }
    let tag_id = prepare(&servers[0].client()?, &sink).await?;
    database.add_contacts(PATTERN, contacts).await?;

    let clients = servers.iter().map(Server::client).collect::<Result<Vec<_>, _>>()?;
    let load = Arc::new(Load {
        clients: Mutex::new(clients),
        tag_id,
        next: AtomicUsize::new(0),
        contacts,
        is_over: AtomicBool::new(false),
    });
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(Arc::clone(&load).call(caller));
    }
    let harms = harm(options, kind, &database, &mut servers, &load).await?;
    load.is_over.store(true, Ordering::Relaxed);
    let calls: usize = callers.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().sum();

    // If not all come, the summary says so.
    let _ = timeout(PATIENCE, sink.wait_for(calls)).await;
    // Those in flight have their time.
    let unfinished = "SELECT COUNT(*) FROM deliveries WHERE state IN (1, 2)";
    let stuck = database.number_becomes(unfinished, 0, PATIENCE).await?;
    for server in servers {
        server.kill().await?;
    }
    let ledger = sink.ledger();
    Ok(Summary {
        kind,
        harms,
        calls,
        arrived: sink.arrived(),
        stuck,
        duplicates: ledger.values().map(|receipt| receipt.requests - 1).sum(),
        repeated_calls: ledger.len().saturating_sub(sink.arrived()),
    })
}

/// Harms the servers and the database, in turn, as long as the load goes on.
async fn harm(
    options: &Options,
    kind: Kind,
    database: &Database,
    servers: &mut [Server],
    load: &Load,
) -> Result<Vec<Harm>, Failure> {
    let every = Duration::from_millis(options.every_ms);
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let mut ticks = interval_at(Instant::now() + every, every);
    let mut harms = Vec::new();
    for harm in Harm::of(kind).iter().copied().cycle() {
        ticks.tick().await;
        if Instant::now() >= end {
            break;
        }
        match harm {
            Harm::KillServer(number) => {
                restart(&options.server, database, &mut servers[number]).await?;
                load.clients.lock().await[number] = servers[number].client()?;
            }
            Harm::KillConnections => database.end_connections().await?,
            Harm::RestartDatabase => database.restart(false),
            Harm::CrashDatabase => database.restart(true),
        }
        eprintln!("{}: {harm:?} after {} calls", kind.name(), load.next.load(Ordering::Relaxed));
        harms.push(harm);
    }
    Ok(harms)
}

async fn restart(program: &Path, database: &Database, server: &mut Server) -> Result<(), Failure> {
    server.kill_at_once().await?;
    *server = Server::start(program, database).await?;
    Ok(())
}

/// Callers that don't give up.
struct Load {
    clients: Mutex<Vec<Client>>,
    tag_id: String,
    next: AtomicUsize,
    contacts: usize,
    is_over: AtomicBool,
}

impl Load {
    /// Tags one contact after the other; answers with how many.
    async fn call(self: Arc<Self>, caller: usize) -> Result<usize, Failure> {
        let mut count = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            let contact = self.next.fetch_add(1, Ordering::Relaxed);
            if contact >= self.contacts {
                break;
            }
            self.tag(caller, contact).await?;
            count += 1;
        }
        Ok(count)
    }

    async fn tag(&self, caller: usize, contact: usize) -> Result<(), Failure> {
        let request = TagContactRequest {
            email: format!("bench-{contact}@example.com"),
            tag_ids: vec![self.tag_id.clone()],
            request_id: format!("crash-{contact}"),
            ..Default::default()
        };
        let give_up = Instant::now() + PATIENCE;
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        for turn in caller.. {
            let client = {
                let clients = self.clients.lock().await;
                clients[turn % clients.len()].clone()
            };
            match client.contacts().tag_contact(request.clone()).await {
                Ok(_) => return Ok(()),
                Err(status) if Instant::now() >= give_up => return Err(status.into()),
                // Whether it was carried out isn't known; the request id makes the next call the same one.
                Err(_) => drop(pause.tick().await),
            }
        }
        Ok(())
    }
}
