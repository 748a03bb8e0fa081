//! The runs of the table: full speed, batches, a steady rate, idleness.

use std::ops::Range;
use std::time::Duration;

use taghook_client::v1::{CreateTagRequest, SmartRule, Tag, tag};
use tokio::time::{Instant, MissedTickBehavior, timeout};

use crate::database::{Database, Kind};
use crate::load::{Answered, Load};
use crate::report::{Row, medians, percentile_ms, print, shown};
use crate::server::{PATTERN, Server, prepare};
use crate::sink::Sink;
use crate::{Failure, Options, limits, meter};

/// Contacts of a batch, and how many batches are called at a time.
const BATCH: usize = 500;
const BATCH_CALLERS: usize = 4;
/// The steady rate, in calls a second, and for how many calls.
const STEADY_PER_S: u32 = 100;
const STEADY_CALLS: usize = 2_000;
/// How long the idle server is watched.
const IDLE: Duration = Duration::from_secs(10);
/// Calls before anything is measured.
const WARM_UP: usize = 2_000;
/// How long the last webhook may take after the last answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Loads PostgreSQL's count of statements.
const COUNT_STATEMENTS: &str = "shared_preload_libraries = 'pg_stat_statements'\n";
/// The run that counts them, and how many of them are told.
const STATEMENTS: &str = "statements at full speed";
const COSTLIEST: usize = 12;

/// Measures and prints.
pub(crate) async fn run(options: &Options) -> Result<(), Failure> {
    let mut rows: Vec<Vec<Row>> = Vec::new();
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        let mut measured = Vec::new();
        if options.only.is_empty() {
            measured.push(shown(limits::sink(options).await?));
            measured.push(shown(limits::noop(options).await?));
        }
        for kind in options.database.kinds() {
            if options.only.is_empty() {
                measured.push(shown(limits::commits(*kind).await?));
            }
            measured.extend(Bench::start(options, *kind, "").await?.measure().await?);
        }
        if STATEMENTS.contains(&options.only) && options.database.kinds().contains(&Kind::Postgres) {
            measured.push(shown(statements(options).await?));
        }
        rows.push(measured);
    }
    let count = rows.first().map_or(0, Vec::len);
    let rows: Vec<Row> = (0..count)
        .map(|index| medians(&rows.iter().filter_map(|round| round.get(index).cloned()).collect::<Vec<_>>()))
        .collect();
    print(&rows, options.json.as_deref())
}

/// SQL statements for each delivery, as PostgreSQL counts them; what each of the costliest takes is told beside the table.
async fn statements(options: &Options) -> Result<Row, Failure> {
    let options = Options { calls: 10_000, ..options.clone() };
    let mut bench = Bench::start(&options, Kind::Postgres, COUNT_STATEMENTS).await?;
    bench.database.execute("CREATE EXTENSION pg_stat_statements; SELECT pg_stat_statements_reset()").await?;
    bench.full_speed("", false).await?;
    let count = "SELECT SUM(calls)::bigint FROM pg_stat_statements WHERE toplevel";
    let statements = bench.database.number(count).await? as f64 / options.calls as f64;
    let costs = format!(
        "SELECT format('%s s/1000, %s calls: %s', round((total_exec_time / {calls})::numeric, 4), calls, \
         left(regexp_replace(query, '[[:space:]]+', ' ', 'g'), 120)) FROM pg_stat_statements WHERE toplevel \
         ORDER BY total_exec_time DESC LIMIT {COSTLIEST}",
        calls = options.calls
    );
    for line in bench.database.lines(&costs).await? {
        eprintln!("{line}");
    }
    Ok(Row {
        database: Kind::Postgres.name().to_owned(),
        what: STATEMENTS.to_owned(),
        statements: Some(statements),
        ..Row::default()
    })
}

/// A server on a database, with its load.
struct Bench<'a> {
    options: &'a Options,
    kind: Kind,
    // In the order in which they end.
    server: Server,
    database: Database,
    sink: Sink,
    load: Load,
    /// The next contact that wasn't tagged yet.
    next: usize,
    idle_mib: f64,
}

impl<'a> Bench<'a> {
    async fn start(options: &'a Options, kind: Kind, settings: &str) -> Result<Self, Failure> {
        let contacts = WARM_UP + 3 * options.calls + STEADY_CALLS;
        let sink = Sink::start(contacts).await?;
        let database = Database::new(kind, settings).await?;
        let server = Server::start(&options.server, &database).await?;
        let (idle_mib, _) = meter::memory_mib(server.pid());
        let tag_id = prepare(&server.client()?, &sink).await?;
        database.add_contacts(PATTERN, contacts).await?;
        let clients = (0..options.connections).map(|_| server.client()).collect::<Result<_, _>>()?;
        let load = Load { clients, tag_id, with_request_id: false };
        let mut bench = Self { options, kind, server, database, sink, load, next: 0, idle_mib };
        let warm_up = bench.take(WARM_UP);
        bench.load.closed(warm_up, options.callers, &bench.sink).await?;
        bench.all_arrived().await?;
        Ok(bench)
    }

    async fn measure(mut self) -> Result<Vec<Row>, Failure> {
        let mut rows = Vec::new();
        let wanted = |what: &str| what.contains(&self.options.only);
        let (plain, repeatable, batches) =
            ("TagContact, 64 callers", "the same with request_id", "BatchTagContacts of 500");
        let (steady, idle) = ("TagContact, 100 a second", "idle for 10 s");
        let (event, events) = ("RecordEvent, 64 callers", "BatchRecordEvents of 500");
        let wanted = [plain, repeatable, batches, steady, idle, event, events].map(wanted);
        if wanted[0] {
            rows.push(shown(self.full_speed(plain, false).await?));
        }
        if wanted[1] {
            rows.push(shown(self.full_speed(repeatable, true).await?));
        }
        if wanted[2] {
            rows.push(shown(self.batches(batches).await?));
        }
        if wanted[3] {
            rows.push(shown(self.steady(steady).await?));
        }
        if wanted[4] {
            rows.push(shown(self.idle(idle).await?));
        }
        if wanted[5] || wanted[6] {
            self.listen().await?;
        }
        if wanted[5] {
            rows.push(shown(self.events(event, (self.options.callers, 1)).await?));
        }
        if wanted[6] {
            rows.push(shown(self.events(events, (BATCH_CALLERS, BATCH)).await?));
        }
        self.server.kill().await?;
        Ok(rows)
    }

    async fn full_speed(&mut self, what: &str, with_request_id: bool) -> Result<Row, Failure> {
        let contacts = self.take(self.options.calls);
        let cost = Cost::now(self);
        self.load.with_request_id = with_request_id;
        let answered = self.load.closed(contacts, self.options.callers, &self.sink).await?;
        self.finish(what, &cost, answered).await
    }

    async fn batches(&mut self, what: &str) -> Result<Row, Failure> {
        let contacts = self.take(self.options.calls);
        let cost = Cost::now(self);
        self.load.with_request_id = false;
        let answered = self.load.batches(contacts, (BATCH_CALLERS, BATCH), &self.sink).await?;
        self.finish(what, &cost, answered).await
    }

    async fn steady(&mut self, what: &str) -> Result<Row, Failure> {
        let contacts = self.take(STEADY_CALLS);
        let cost = Cost::now(self);
        self.load.with_request_id = false;
        let answered = self.load.paced(contacts, STEADY_PER_S, &self.sink).await?;
        self.finish(what, &cost, answered).await
    }

    /// Makes a smart tag whose condition is asked for each event, and never holds.
    async fn listen(&self) -> Result<(), Failure> {
        let rule = SmartRule {
            event_type: "payment.bought".into(),
            condition: "event.attributes.amount > 100.0 && contact.email != ''".into(),
            ..Default::default()
        };
        let tag = Tag { name: "big".into(), kind: tag::Kind::Smart.into(), rule: Some(rule), ..Default::default() };
        let request = CreateTagRequest { tag: Some(tag), ..Default::default() };
        self.server.client()?.tags().create_tag(request).await?;
        Ok(())
    }

    async fn events(&mut self, what: &str, callers: (usize, usize)) -> Result<Row, Failure> {
        let before = Cost::now(self);
        // Of contacts that are there, whoever they are.
        let mut answered = self.load.events(0..self.options.calls, callers, &self.sink).await?;
        let after = Cost::now(self);
        let count = answered.calls.len() as f64;
        Ok(Row {
            database: self.kind.name().to_owned(),
            what: what.to_owned(),
            accepted_per_s: Some(count / answered.took.as_secs_f64()),
            answer_p50_ms: percentile_ms(&mut answered.answers_ns, 50),
            answer_p99_ms: percentile_ms(&mut answered.answers_ns, 99),
            server_cpu_s: Some((after.server_s - before.server_s) / count * 1e3),
            database_cpu_s: self.database.pid().map(|_| (after.database_s - before.database_s) / count * 1e3),
            load_cpu_s: Some((after.load_s - before.load_s) / count * 1e3),
            ..Row::default()
        })
    }

    async fn idle(&mut self, what: &str) -> Result<Row, Failure> {
        let cost = Cost::now(self);
        let mut tick = tokio::time::interval_at(Instant::now() + IDLE, IDLE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        let spent = Cost::now(self);
        let (_, peak) = meter::memory_mib(self.server.pid());
        Ok(Row {
            database: self.kind.name().to_owned(),
            what: format!("{what}: CPU in s, memory before any load"),
            server_cpu_s: Some(spent.server_s - cost.server_s),
            database_cpu_s: Some(spent.database_s - cost.database_s),
            rss_mib: Some(self.idle_mib),
            peak_rss_mib: Some(peak),
            ..Row::default()
        })
    }

    fn take(&mut self, count: usize) -> Range<usize> {
        let first = self.next;
        self.next += count;
        first..self.next
    }

    async fn all_arrived(&self) -> Result<(), Failure> {
        let awaited = timeout(PATIENCE, self.sink.wait_for(self.next)).await;
        let missing = || format!("{} of {} webhooks came", self.sink.arrived(), self.next);
        Ok(awaited.map_err(|_| missing())?)
    }

    async fn finish(&self, what: &str, before: &Cost, mut answered: Answered) -> Result<Row, Failure> {
        self.all_arrived().await?;
        let after = Cost::now(self);
        let first = answered.calls.iter().map(|(_, began)| *began).min().unwrap_or(0);
        let arrivals =
            answered.calls.iter().filter_map(|(contact, began)| Some((*began, self.sink.arrival_ns(*contact)?)));
        let arrivals: Vec<(u64, u64)> = arrivals.collect();
        let last = arrivals.iter().map(|(_, arrival)| *arrival).max().unwrap_or(0);
        let mut latencies: Vec<u64> = arrivals.iter().map(|(began, arrival)| arrival.saturating_sub(*began)).collect();
        let count = answered.calls.len() as f64;
        let (rss, peak) = meter::memory_mib(self.server.pid());
        Ok(Row {
            database: self.kind.name().to_owned(),
            what: what.to_owned(),
            accepted_per_s: Some(count / answered.took.as_secs_f64()),
            delivered_per_s: Some(count / ((last - first) as f64 / 1e9)),
            p50_ms: percentile_ms(&mut latencies, 50),
            p99_ms: percentile_ms(&mut latencies, 99),
            answer_p50_ms: percentile_ms(&mut answered.answers_ns, 50),
            answer_p99_ms: percentile_ms(&mut answered.answers_ns, 99),
            server_cpu_s: Some((after.server_s - before.server_s) / count * 1e3),
            database_cpu_s: self.database.pid().map(|_| (after.database_s - before.database_s) / count * 1e3),
            load_cpu_s: Some((after.load_s - before.load_s) / count * 1e3),
            rss_mib: Some(rss),
            peak_rss_mib: Some(peak),
            ..Row::default()
        })
    }
}

/// Processor time so far, in seconds.
struct Cost {
    server_s: f64,
    database_s: f64,
    load_s: f64,
}

impl Cost {
    fn now(bench: &Bench<'_>) -> Self {
        Self {
            server_s: meter::cpu_s(bench.server.pid()),
            database_s: bench.database.pid().map_or(0.0, meter::cpu_with_children_s),
            load_s: meter::cpu_s(std::process::id()),
        }
    }
}
