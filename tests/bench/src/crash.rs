//! Load while servers are killed and the database goes away, while the disk is full, or while clocks step; then it is counted
//! at the receiver what was lost, what is stuck, and what came twice. `cargo xtask crash-test` runs this, for a short while or
//! for long.
//!
//! Each call has a request id and is repeated until it is answered, as a careful caller does. So every contact owes exactly
//! one delivery: none missing at the receiver or in the database is "0 lost", none left waiting in the database is "0 stuck", and a delivery
//! that came twice must have been in flight when something was killed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use taghook_client::Client;
use taghook_client::v1::TagContactRequest;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::database::{Database, Kind};
use crate::disk::Disk;
use crate::fake_clock::FakeClock;
use crate::server::{PATTERN, Server, prepare};
use crate::sink::Sink;
use crate::{Databases, Failure};

/// How many callers there are, each with one call at a time.
const CALLERS: usize = 32;
/// How many attempts a server makes at a time by default: at most so many are in flight when it is killed.
const SENDERS: usize = 256;
/// How long it may take until everything is delivered after the last harm: leases of dead servers end after ten seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// More contacts than are tagged in a second.
const CONTACTS_PER_S: usize = 8_000;
/// How large the disk is that is filled: what is there at the start, and for each second of load. In MiB.
const DISK_MIB: u64 = 64;
const DISK_MIB_PER_S: u64 = 32;
/// How often calls are seen to fail before the full disk is freed, and how long each time may take to come.
const FULL_FAILURES: usize = 100;
const FULL_WITHIN: Duration = Duration::from_secs(60);

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
    /// What is done to them
    #[arg(long, value_enum, default_value = "kills")]
    harms: Harms,
    /// How far clocks step, in seconds
    #[arg(long, default_value_t = 60)]
    step_s: i64,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Harms {
    /// Servers and database are killed, and connections
    Kills,
    /// The disk of the data folder is full for a while; SQLite only
    Disk,
    /// The wall clock of one server steps ahead and back, and back and ahead
    Clock,
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
    /// The disk is full for a while.
    FillDisk,
    /// The first server's clock is set to so many steps ahead.
    StepClock(i64),
}

impl Harm {
    fn of(kind: Kind, harms: Harms) -> &'static [Self] {
        match (harms, kind) {
            (Harms::Disk, _) => &[Self::FillDisk],
            (Harms::Clock, _) => &[Self::StepClock(1), Self::StepClock(0), Self::StepClock(-1), Self::StepClock(0)],
            (Harms::Kills, Kind::Sqlite) => &[Self::KillServer(0)],
            (Harms::Kills, Kind::Postgres) => &[
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

    /// What it is called where harms are counted.
    fn name(self) -> &'static str {
        match self {
            Self::KillServer(_) => "SIGKILL",
            Self::KillConnections => "times all connections killed",
            Self::RestartDatabase => "restarts of the database",
            Self::CrashDatabase => "crashes of the database",
            Self::FillDisk => "times the disk full",
            Self::StepClock(_) => "steps of a clock",
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
        match run_on(options, *kind).await? {
            Ran::Whole(summary) => {
                println!("{}", summary.row());
                is_good &= summary.is_good();
            }
            Ran::Skipped(why) => println!("| {} | SKIPPED: {why} | | | | | | |", kind.name()),
        }
    }
    if is_good { Ok(()) } else { Err("deliveries were lost, are stuck, or came twice without cause".into()) }
}

enum Ran {
    Whole(Summary),
    /// Why it can't be done here.
    Skipped(&'static str),
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
    /// Calls that were answered, and of which the database knows nothing.
    forgotten: usize,
}

impl Summary {
    fn allowed(&self) -> usize {
        // Whoever loses the database can't settle what was in flight either.
        let servers = if self.kind == Kind::Postgres { 2 } else { 1 };
        let each = |harm: &Harm| match harm {
            Harm::KillServer(_) | Harm::StepClock(_) => 1,
            _ => servers,
        };
        self.harms.iter().map(each).sum::<usize>() * SENDERS
    }

    fn is_good(&self) -> bool {
        self.arrived == self.calls
            && self.stuck == 0
            && self.repeated_calls == 0
            && self.forgotten == 0
            && self.duplicates <= self.allowed()
            && self.calls > 0
    }

    fn row(&self) -> String {
        let mut names: Vec<&str> = self.harms.iter().map(|harm| harm.name()).collect();
        names.sort_unstable();
        let counted = names.chunk_by(|one, other| one == other);
        let harms: Vec<String> = counted.map(|same| format!("{} {}", same.len(), same[0])).collect();
        let harms = harms.join(", ");
        format!(
            "| {} | {harms} | {} | {} | {} | {} | {} | {} |",
            self.kind.name(),
            self.calls,
            self.arrived,
            self.calls.saturating_sub(self.arrived) + self.repeated_calls + self.forgotten,
            self.stuck,
            self.duplicates,
            self.allowed()
        )
    }
}

async fn run_on(options: &Options, kind: Kind) -> Result<Ran, Failure> {
    let (is_clock, is_disk) = (options.harms == Harms::Clock, options.harms == Harms::Disk);
    if is_disk && kind == Kind::Postgres {
        return Ok(Ran::Skipped("a full disk is PostgreSQL's affair"));
    }
    let contacts = usize::try_from(options.seconds)? * CONTACTS_PER_S;
    let sink = Sink::start_with_ledger(contacts).await?;
    let database = Database::new(kind, "").await?;
    // It goes before the folder does that it is mounted on.
    let disk =
        if is_disk { Disk::mount(database.folder(), DISK_MIB + DISK_MIB_PER_S * options.seconds)? } else { None };
    let clock = if is_clock { FakeClock::new()? } else { None };
    if is_disk && disk.is_none() {
        return Ok(Ran::Skipped("mounting needs root"));
    }
    if is_clock && clock.is_none() {
        return Ok(Ran::Skipped("libfaketime isn't installed"));
    }
    let mut scene = Scene { options, kind, database, disk, clock, servers: Vec::new() };
    for number in 0..if kind == Kind::Postgres { 2 } else { 1 } {
        scene.servers.push(scene.start(number).await?);
    }
    let tag_id = prepare(&scene.servers[0].client()?, &sink).await?;
    scene.database.add_contacts(PATTERN, contacts).await?;

    let clients = scene.servers.iter().map(Server::client).collect::<Result<Vec<_>, _>>()?;
    let load = Arc::new(Load {
        clients: Mutex::new(clients),
        tag_id,
        next: AtomicUsize::new(0),
        contacts,
        failed: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
    });
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(Arc::clone(&load).call(caller));
    }
    let harms = scene.harm_in_turn(&load).await?;
    load.is_over.store(true, Ordering::Relaxed);
    let calls: usize = callers.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().sum();

    // If not all come, the summary says so.
    let _ = timeout(PATIENCE, sink.wait_for(calls)).await;
    // Those in flight have their time.
    let unfinished = "SELECT COUNT(*) FROM deliveries WHERE state IN (1, 2)";
    let stuck = scene.database.number_becomes(unfinished, 0, PATIENCE).await?;
    scene.has_stepped(&harms).await?;
    let stored = scene.database.number("SELECT COUNT(*) FROM deliveries").await?;
    for server in &mut scene.servers {
        server.kill_at_once().await?;
    }
    let ledger = sink.ledger();
    Ok(Ran::Whole(Summary {
        kind,
        harms,
        calls,
        arrived: sink.arrived(),
        stuck,
        duplicates: ledger.values().map(|receipt| receipt.requests - 1).sum(),
        repeated_calls: ledger.len().saturating_sub(sink.arrived()),
        forgotten: calls.saturating_sub(usize::try_from(stored)?),
    }))
}

/// What is harmed.
struct Scene<'a> {
    options: &'a Options,
    kind: Kind,
    servers: Vec<Server>,
    /// The clock of the first server.
    clock: Option<FakeClock>,
    disk: Option<Disk>,
    database: Database,
}

impl Scene<'_> {
    async fn start(&self, number: usize) -> Result<Server, Failure> {
        let clock = self.clock.as_ref().filter(|_| number == 0);
        Server::start_with(&self.options.server, &self.database, clock).await
    }

    /// Harms the servers and the database, in turn, as long as the load goes on.
    async fn harm_in_turn(&mut self, load: &Load) -> Result<Vec<Harm>, Failure> {
        let every = Duration::from_millis(self.options.every_ms);
        let end = Instant::now() + Duration::from_secs(self.options.seconds);
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut harms = Vec::new();
        for harm in Harm::of(self.kind, self.options.harms).iter().copied().cycle() {
            ticks.tick().await;
            if Instant::now() >= end {
                break;
            }
            self.harm(harm, load).await?;
            let (calls, failed) = (load.next.load(Ordering::Relaxed), load.failed.load(Ordering::Relaxed));
            eprintln!("{}: {harm:?} after {calls} calls, {failed} tries failed", self.kind.name());
            harms.push(harm);
        }
        if let Some(clock) = &self.clock {
            clock.set(0)?;
        }
        Ok(harms)
    }

    /// Whether the steps of the clock have come through: what was written meanwhile says so.
    async fn has_stepped(&self, harms: &[Harm]) -> Result<(), Failure> {
        let newest = "SELECT MAX(created_us) - MIN(created_us) FROM deliveries";
        let is_to = harms.contains(&Harm::StepClock(1));
        if is_to && self.database.number(newest).await? < self.options.step_s.saturating_mul(1_000_000) {
            return Err("the server's clock hasn't stepped".into());
        }
        Ok(())
    }

    async fn harm(&mut self, harm: Harm, load: &Load) -> Result<(), Failure> {
        match harm {
            Harm::KillServer(number) => {
                self.servers[number].kill_at_once().await?;
                self.servers[number] = self.start(number).await?;
                load.clients.lock().await[number] = self.servers[number].client()?;
            }
            Harm::KillConnections => self.database.end_connections().await?,
            Harm::RestartDatabase => self.database.restart(false),
            Harm::CrashDatabase => self.database.restart(true),
            Harm::FillDisk => {
                let Some(disk) = &self.disk else { return Ok(()) };
                tokio::task::block_in_place(|| disk.fill())?;
                for _ in 0..FULL_FAILURES {
                    load.fails_within(FULL_WITHIN).await?;
                }
                disk.free()?;
            }
            Harm::StepClock(steps) => {
                let Some(clock) = &self.clock else { return Ok(()) };
                clock.set(steps * self.options.step_s)?;
            }
        }
        Ok(())
    }
}

/// Callers that don't give up.
struct Load {
    clients: Mutex<Vec<Client>>,
    tag_id: String,
    next: AtomicUsize,
    contacts: usize,
    /// How many tries had no answer, or an error.
    failed: AtomicUsize,
    is_over: AtomicBool,
}

impl Load {
    /// Returns when another try has failed: the harm has come through.
    async fn fails_within(&self, patience: Duration) -> Result<(), Failure> {
        let (before, end) = (self.failed.load(Ordering::Relaxed), Instant::now() + patience);
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        while self.failed.load(Ordering::Relaxed) == before {
            if Instant::now() >= end {
                return Err("no call has noticed the harm".into());
            }
            ticks.tick().await;
        }
        Ok(())
    }

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
                Err(_) => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    pause.tick().await;
                }
            }
        }
        Ok(())
    }
}
