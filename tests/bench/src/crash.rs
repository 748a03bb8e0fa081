//! Load while servers are killed and the database goes away, while the disk is full, or while clocks step; then it is counted
//! at the receiver what was lost, what is stuck, and what came twice. `cargo xtask crash-test` runs this, for a short while or
//! for long.
//!
//! Each call has a request id and is repeated until it is answered, as a careful caller does. So every contact owes exactly
//! one delivery: none missing at the receiver or in the database is "0 lost", none left waiting in the database is "0 stuck", and a delivery
//! that came twice must have been in flight when something was killed. Where no server is killed, a call that fails must say
//! when to come back.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use taghook_client::v1::ErrorReason;
use tokio::time::{Instant, interval_at, timeout};
use tonic::Code;

use crate::absence::Absence;
use crate::callers::{Calls, Load, Refusal};
use crate::database::{Database, Kind};
use crate::disk::Disk;
use crate::fake_clock::FakeClock;
use crate::server::{PATTERN, Server, prepare};
use crate::sink::Sink;
use crate::{Databases, Failure};

/// How many attempts a server makes at a time by default: at most so many are in flight when it is killed.
const SENDERS: usize = 256;
/// How long it may take until everything is delivered after the last harm: leases of dead servers end after ten seconds.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long it may take until each server answers calls again.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take until a step of the clock comes through.
const STEPS_WITHIN: Duration = Duration::from_secs(20);

/// More contacts than are tagged in a second.
const CONTACTS_PER_S: usize = 12_000;
/// How large the disk is that is filled: what is there at the start, and for each second of load. In MiB.
const DISK_MIB: u64 = 64;
const DISK_MIB_PER_S: u64 = 32;
/// How many calls are seen to fail before the full disk is freed, and how long that may take.
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
    /// How long there is load, on each database; longer if it takes longer to do each harm once
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
    /// For how long the database is away, in seconds
    #[arg(long, default_value_t = 60)]
    away_s: u64,
}

impl Options {
    /// How long the load is: each harm comes at least once.
    fn seconds_of_load(&self, kind: Kind) -> u64 {
        let turns = u64::try_from(Harm::of(kind, self.harms).len()).unwrap_or(u64::MAX);
        self.seconds.max(self.every_ms.saturating_mul(turns).div_ceil(1_000))
    }
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Harms {
    /// Servers and database are killed, and connections
    Kills,
    /// The disk is full for a while: that of the data folder, or of PostgreSQL's tables
    Disk,
    /// The database is away for a while; PostgreSQL only
    Away,
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
    /// The database is away for a while.
    StopDatabase,
    /// The first server's clock is set to so many steps ahead.
    StepClock(i64),
}

impl Harm {
    fn of(kind: Kind, harms: Harms) -> &'static [Self] {
        match (harms, kind) {
            (Harms::Disk, _) => &[Self::FillDisk],
            (Harms::Away, _) => &[Self::StopDatabase],
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
            Self::StopDatabase => "times the database away",
            Self::StepClock(_) => "steps of a clock",
        }
    }
}

/// Runs the test on each database, and prints what came of it.
///
/// # Errors
///
/// Something was lost, is stuck, or came twice without having been in flight; or a server did badly without its database.
pub(crate) async fn run(options: &Options) -> Result<(), Failure> {
    println!("| database | harms | calls | arrived | lost | stuck | duplicates | allowed |");
    println!("|---|---|---:|---:|---:|---:|---:|---:|");
    let (mut absences, mut faults) = (Vec::new(), Vec::new());
    for kind in options.database.kinds() {
        match run_on(options, *kind).await? {
            Ran::Whole(summary) => {
                println!("{}", summary.row());
                faults.extend(summary.faults().into_iter().map(|fault| format!("{}: {fault}", kind.name())));
                absences.extend(summary.absences);
            }
            Ran::Skipped(why) => println!("| {} | SKIPPED: {why} | | | | | | |", kind.name()),
        }
    }
    for absence in absences {
        println!("\n{absence}");
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
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
    /// What failed tries were answered with that they shouldn't have been.
    rude: Vec<Refusal>,
    absences: Vec<Absence>,
}

impl Summary {
    fn lost(&self) -> usize {
        self.calls.saturating_sub(self.arrived) + self.repeated_calls + self.forgotten
    }

    fn allowed(&self) -> usize {
        // Whoever loses the database can't settle what was in flight either.
        let servers = if self.kind == Kind::Postgres { 2 } else { 1 };
        let each = |harm: &Harm| match harm {
            Harm::KillServer(_) | Harm::StepClock(_) => 1,
            _ => servers,
        };
        self.harms.iter().map(each).sum::<usize>() * SENDERS
    }

    /// What is wrong.
    fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.absences.iter().flat_map(Absence::faults).collect();
        faults.extend(self.rude.iter().map(|refusal| format!("calls failed with {refusal}")));
        let counts = [
            (self.calls == 0, "no call was answered"),
            (self.lost() > 0 || self.arrived > self.calls, "deliveries were lost, or calls carried out twice"),
            (self.stuck != 0, "deliveries are stuck"),
            (self.duplicates > self.allowed(), "deliveries came twice that can't have been in flight"),
        ];
        faults.extend(counts.iter().filter(|(is_so, _)| *is_so).map(|(_, fault)| (*fault).to_owned()));
        faults
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
            self.lost(),
            self.stuck,
            self.duplicates,
            self.allowed()
        )
    }
}

async fn run_on(options: &Options, kind: Kind) -> Result<Ran, Failure> {
    if options.harms == Harms::Away && kind == Kind::Sqlite {
        return Ok(Ran::Skipped("SQLite is never away"));
    }
    let clock = if options.harms == Harms::Clock { FakeClock::new()? } else { None };
    if options.harms == Harms::Clock && clock.is_none() {
        return Ok(Ran::Skipped("libfaketime isn't installed"));
    }
    let database = Database::new(kind, "").await?;
    let size_mib = DISK_MIB + DISK_MIB_PER_S * options.seconds_of_load(kind);
    let disk = if options.harms == Harms::Disk { database.mount(size_mib).await? } else { None };
    if options.harms == Harms::Disk && disk.is_none() {
        return Ok(Ran::Skipped("mounting needs root"));
    }
    let scene = Scene { options, kind, servers: Vec::new(), clock, disk, database, absences: Vec::new() };
    Ok(Ran::Whole(scene.play().await?))
}

/// What is harmed.
struct Scene<'a> {
    options: &'a Options,
    kind: Kind,
    servers: Vec<Server>,
    /// The clock of the first server.
    clock: Option<FakeClock>,
    /// It goes before the folder does that it is mounted on.
    disk: Option<Disk>,
    database: Database,
    absences: Vec<Absence>,
}

impl Scene<'_> {
    /// Starts everything, harms it under load, and counts what came of it.
    async fn play(mut self) -> Result<Summary, Failure> {
        for number in 0..if self.kind == Kind::Postgres { 2 } else { 1 } {
            self.servers.push(self.start(number).await?);
        }
        let contacts = usize::try_from(self.options.seconds_of_load(self.kind))? * CONTACTS_PER_S;
        let sink = Sink::start_with_ledger(contacts).await?;
        let tag_id = prepare(&self.servers[0].client()?, &sink).await?;
        self.database.add_contacts(PATTERN, contacts).await?;

        let (load, callers) = Load::start(Calls {
            clients: self.servers.iter().map(Server::client).collect::<Result<_, _>>()?,
            tag_id,
            contacts,
            // The others come back at once, which is harder on the servers.
            is_careful: self.options.harms == Harms::Away,
            patience: PATIENCE + Duration::from_secs(self.options.away_s),
        });
        let harms = self.harm_in_turn(&load).await;
        let are_back = load.all_answer(BACK_WITHIN).await;
        // What a caller failed with says more than that it is gone.
        let calls = callers.end(&load).await?;
        let harms = harms?;
        are_back?;
        let rude = self.rude(&load);
        self.count(&sink, calls, harms, rude).await
    }

    /// Waits until nothing is on its way any more, and counts.
    async fn count(
        mut self,
        sink: &Sink,
        calls: usize,
        harms: Vec<Harm>,
        rude: Vec<Refusal>,
    ) -> Result<Summary, Failure> {
        // If not all come, the summary says so.
        let _ = timeout(PATIENCE, sink.wait_for(calls)).await;
        // Those in flight have their time.
        let unfinished = "SELECT COUNT(*) FROM deliveries WHERE state IN (1, 2)";
        let stuck = self.database.number_becomes(unfinished, 0, PATIENCE).await?;
        let stored = self.database.number("SELECT COUNT(*) FROM deliveries").await?;
        for server in &mut self.servers {
            server.kill_at_once().await?;
        }
        let ledger = sink.ledger();
        Ok(Summary {
            kind: self.kind,
            harms,
            calls,
            arrived: sink.arrived(),
            stuck,
            duplicates: ledger.values().map(|receipt| receipt.requests - 1).sum(),
            repeated_calls: ledger.len().saturating_sub(sink.arrived()),
            forgotten: calls.saturating_sub(usize::try_from(stored)?),
            rude,
            absences: self.absences,
        })
    }

    /// Shows what failed tries were answered with; answers with what of it gives callers no advice.
    fn rude(&self, load: &Load) -> Vec<Refusal> {
        let mut refusals: Vec<_> = load.refusals().into_iter().collect();
        refusals.sort_unstable_by_key(|(_, tries)| std::cmp::Reverse(*tries));
        for (refusal, tries) in &refusals {
            eprintln!("{}: {tries} tries failed: {refusal}", self.kind.name());
        }
        let is_rude = |refusal: &Refusal| match self.options.harms {
            // A connection whose server was killed says nothing.
            Harms::Kills => refusal.reason != ErrorReason::Unspecified && !refusal.has_advice,
            Harms::Disk | Harms::Clock => !refusal.has_advice,
            Harms::Away => refusal.code != Code::Unavailable || !refusal.has_advice,
        };
        refusals.into_iter().map(|(refusal, _)| refusal).filter(is_rude).collect()
    }

    async fn start(&self, number: usize) -> Result<Server, Failure> {
        let clock = self.clock.as_ref().filter(|_| number == 0);
        Server::start_with(&self.options.server, &self.database, clock).await
    }

    /// Harms the servers and the database, in turn, as long as the load goes on, and each way once at least.
    async fn harm_in_turn(&mut self, load: &Load) -> Result<Vec<Harm>, Failure> {
        let every = Duration::from_millis(self.options.every_ms);
        let end = Instant::now() + Duration::from_secs(self.options.seconds);
        let mut ticks = interval_at(Instant::now() + every, every);
        let (all, mut harms) = (Harm::of(self.kind, self.options.harms), Vec::new());
        for harm in all.iter().copied().cycle() {
            ticks.tick().await;
            if Instant::now() >= end && harms.len() >= all.len() {
                break;
            }
            self.harm(harm, load).await?;
            eprintln!("{}: {harm:?} after {} calls, {} tries failed", self.kind.name(), load.taken(), load.failed());
            harms.push(harm);
            // However long it took, there is load for as long after it.
            ticks.reset();
        }
        if let Some(clock) = &self.clock {
            clock.set(0)?;
            self.has_stepped(0).await?;
        }
        Ok(harms)
    }

    /// Returns once the first server's clock is as far ahead: what it writes says so.
    async fn has_stepped(&self, ahead_s: i64) -> Result<(), Failure> {
        let now_us = self.database.now_us();
        let ahead_us = ahead_s.saturating_mul(1_000_000);
        // What was written before the last step is older.
        let is_new = format!("ABS(created_us - ({ahead_us}) - {now_us}) < 500000");
        let sql = format!("SELECT COUNT(*) FROM (SELECT 1 FROM deliveries WHERE {is_new} LIMIT 1) AS written");
        match self.database.number_becomes(&sql, 1, STEPS_WITHIN).await? {
            0 => Err("the server's clock doesn't step".into()),
            _ => Ok(()),
        }
    }

    async fn harm(&mut self, harm: Harm, load: &Load) -> Result<(), Failure> {
        match harm {
            Harm::KillServer(number) => {
                self.servers[number].kill_at_once().await?;
                self.servers[number] = self.start(number).await?;
                load.replace(number, self.servers[number].client()?);
            }
            Harm::KillConnections => self.database.end_connections().await?,
            Harm::RestartDatabase => self.database.restart(false),
            Harm::CrashDatabase => self.database.restart(true),
            Harm::FillDisk => {
                let Some(disk) = &self.disk else { return Ok(()) };
                tokio::task::block_in_place(|| disk.fill())?;
                load.fails(FULL_FAILURES, FULL_WITHIN).await?;
                disk.free()?;
                load.all_answer(BACK_WITHIN).await?;
            }
            Harm::StopDatabase => {
                let away = Duration::from_secs(self.options.away_s);
                let absence = Absence::of(&self.database, &self.servers, load, away, BACK_WITHIN).await?;
                self.absences.push(absence);
            }
            Harm::StepClock(steps) => {
                let Some(clock) = &self.clock else { return Ok(()) };
                clock.set(steps * self.options.step_s)?;
                self.has_stepped(steps * self.options.step_s).await?;
            }
        }
        Ok(())
    }
}
