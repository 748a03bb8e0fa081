//! How cost grows with what is stored and with who watches: `cargo xtask bench -- growth`.
//!
//! What there is much of is inserted by hand: a delivery that waits, or its attempts, copied from one that was made
//! through the API.

mod wake;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use taghook_client::Start;
use taghook_client::v1::{self, OutcomeFilter};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::database::{Database, Kind};
use crate::load::Load;
use crate::report::{Row, percentile_ms, shown, table};
use crate::server::{PATTERN, Server, prepare};
use crate::sink::Sink;
use crate::{Databases, Failure, meter};

/// What to measure, and with how much.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// The built server
    #[arg(long, default_value = "target/release/taghook")]
    server: PathBuf,
    /// On which database
    #[arg(long, value_enum, default_value = "both")]
    database: Databases,
    /// How many deliveries wait in the large queue
    #[arg(long, default_value_t = 1_000_000)]
    waiting: usize,
    /// How many attempts are stored in the large log
    #[arg(long, default_value_t = 10_000_000)]
    attempts: usize,
    /// How many streams watch
    #[arg(long, default_value_t = 1_000)]
    watchers: usize,
    /// Only what has this in its name: queue (in a lane, in the common queue), log, watchers, wake, snapshot
    #[arg(long, default_value = "")]
    only: String,
}

/// The state of a delivery that was delivered, as rows have it.
pub(crate) const DELIVERED: i16 = 4;
/// How many deliveries the small queue has, and of how many the rate is taken.
const SMALL_QUEUE: usize = 10_000;
/// How many attempts the small log has.
const SMALL_LOG: usize = 10_000;
/// Attempts of each delivery in the log.
const ATTEMPTS_EACH: usize = 10;
/// How often each read is measured.
const READS: usize = 300;
/// Calls at full speed.
const CALLS: usize = 20_000;
const CALLERS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(300);

/// Measures and prints, one row as it comes.
///
/// # Errors
///
/// What can't be measured.
pub(crate) async fn run(options: &Options) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for kind in options.database.kinds() {
        let wanted = |what: &str| what.contains(&options.only);
        for place in [Place::Lane, Place::Common] {
            if wanted(&format!("queue {}", place.name())) {
                for waiting in [SMALL_QUEUE, options.waiting] {
                    rows.push(shown(queue(options, *kind, waiting, place).await?));
                }
            }
        }
        if wanted("watchers") {
            for watchers in [0, 1, options.watchers] {
                rows.push(shown(watched(options, *kind, watchers).await?));
            }
        }
        if wanted("wake") {
            for watchers in [1, 10] {
                for row in wake::measure(&options.server, *kind, watchers).await? {
                    rows.push(shown(row));
                }
            }
        }
        if wanted("snapshot") && *kind == Kind::Postgres {
            rows.push(shown(snapshot(options).await?));
        }
        if wanted("log") {
            for attempts in [SMALL_LOG, options.attempts] {
                for row in log(options, *kind, attempts).await? {
                    rows.push(shown(row));
                }
            }
        }
    }
    println!("{}", table(&rows));
    Ok(())
}

/// A server with its tag, webhook and contacts, and one delivery that was delivered.
pub(crate) struct Scene {
    pub(crate) sink: Sink,
    pub(crate) server: Server,
    pub(crate) database: Database,
    pub(crate) load: Load,
    kind: Kind,
}

impl Scene {
    pub(crate) async fn new(program: &Path, kind: Kind, contacts: usize) -> Result<Self, Failure> {
        let sink = Sink::start(contacts).await?;
        let database = Database::new(kind, "").await?;
        let server = Server::start(program, &database).await?;
        let tag_id = prepare(&server.client()?, &sink).await?;
        database.add_contacts(PATTERN, contacts).await?;
        let load = Load { clients: vec![server.client()?], tag_id, with_request_id: false };
        let scene = Self { sink, server, database, load, kind };
        scene.load.closed(0..1, 1, &scene.sink).await?;
        // Others are copied from it once it is settled.
        let settled = format!("SELECT COUNT(*) FROM deliveries WHERE state = {DELIVERED}");
        match scene.database.number_becomes(&settled, 1, PATIENCE).await? {
            1 => Ok(scene),
            other => Err(format!("{other} deliveries instead of the first one").into()),
        }
    }

    pub(crate) async fn arrived(&self, count: usize) -> Result<(), Failure> {
        let awaited = timeout(PATIENCE, self.sink.wait_for(count)).await;
        Ok(awaited.map_err(|_| format!("{} of {count} webhooks came", self.sink.arrived()))?)
    }

    /// Calls at full speed, and what they cost.
    async fn full_speed(&self, what: &str, contacts: Range<usize>) -> Result<Row, Failure> {
        let server_s = meter::cpu_s(self.server.pid());
        let database_s = self.database.pid().map(meter::cpu_with_children_s);
        let (start, count, end) = (Instant::now(), contacts.len() as f64, contacts.end);
        self.load.closed(contacts, CALLERS, &self.sink).await?;
        self.arrived(end).await?;
        Ok(Row {
            database: self.kind.name().to_owned(),
            what: what.to_owned(),
            delivered_per_s: Some(count / start.elapsed().as_secs_f64()),
            server_cpu_s: Some((meter::cpu_s(self.server.pid()) - server_s) / count * 1e3),
            database_cpu_s: self
                .database
                .pid()
                .zip(database_s)
                .map(|(pid, before)| (meter::cpu_with_children_s(pid) - before) / count * 1e3),
            rss_mib: Some(meter::memory_mib(self.server.pid()).0),
            ..Row::default()
        })
    }
}

/// Where deliveries wait.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// In the common queue: retries that are due, or what was never looked at. Those that their endpoint has no room for move
    /// to its lane.
    Common,
    /// In their endpoint's lane, where whatever it has no room for goes at once.
    Lane,
}

impl Place {
    /// As rows have it.
    pub(crate) fn code(self) -> i16 {
        match self {
            Self::Common => 0,
            Self::Lane => 1,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Common => "in the common queue",
            Self::Lane => "in a lane",
        }
    }
}

/// The rate of sending what waits, with so many waiting.
async fn queue(options: &Options, kind: Kind, waiting: usize, place: Place) -> Result<Row, Failure> {
    let mut scene = Scene::new(&options.server, kind, waiting + 1).await?;
    scene.server.kill_at_once().await?;
    let (series, id) = scene.database.series(waiting);
    let (mark, lane) = (scene.database.text_of_number("n + 1"), place.code());
    scene
        .database
        .execute(&format!(
            "INSERT INTO deliveries (id, workspace_id, webhook_id, webhook_event_id, contact_id, source, state, reason, \
             tag_ids, trigger_us, due_us, snapshot, causation_depth, created_us, lane) \
             SELECT {id}, workspace_id, webhook_id, webhook_event_id, contact_id, source, 2, 0, tag_ids, trigger_us, \
             trigger_us + n, replace(snapshot, 'bench-0@', 'bench-' || {mark} || '@'), causation_depth, created_us, {lane} \
             FROM deliveries, {series} WHERE state = {DELIVERED}"
        ))
        .await?;
    scene.database.settle().await?;
    scene.server = Server::start(&options.server, &scene.database).await?;
    // The first of them, while the others still wait.
    let counted = SMALL_QUEUE.min(waiting);
    let before = scene.sink.arrived();
    scene.arrived(before + 1).await?;
    let (start, first) = (Instant::now(), scene.sink.arrived());
    let cpu = meter::cpu_s(scene.server.pid());
    scene.arrived(first + counted - 1_000).await?;
    let count = (scene.sink.arrived() - first) as f64;
    Ok(Row {
        database: kind.name().to_owned(),
        what: format!("claimed and sent, {waiting} waiting {}", place.name()),
        delivered_per_s: Some(count / start.elapsed().as_secs_f64()),
        server_cpu_s: Some((meter::cpu_s(scene.server.pid()) - cpu) / count * 1e3),
        ..Row::default()
    })
}

/// Full speed with streams that watch everything.
async fn watched(options: &Options, kind: Kind, watchers: usize) -> Result<Row, Failure> {
    let scene = Scene::new(&options.server, kind, 1 + CALLS).await?;
    let mut streams = JoinSet::new();
    // A connection has room for 2,000 streams.
    let client = scene.server.client()?;
    for _ in 0..watchers {
        let mut outcomes = client.outcomes(OutcomeFilter::default(), Start::Now);
        outcomes.ready().await?;
        streams.spawn(async move {
            let mut count = 0;
            while count < CALLS {
                match outcomes.next().await {
                    Some(Ok(_)) => count += 1,
                    _ => return false,
                }
            }
            true
        });
    }
    let row = scene.full_speed(&format!("full speed, {watchers} watchers"), 1..1 + CALLS).await?;
    let all = timeout(PATIENCE, streams.join_all()).await.map_err(|_| "a watcher didn't see all outcomes")?;
    if all.contains(&false) {
        return Err("a watcher's stream ended".into());
    }
    Ok(row)
}

/// Full speed while another session holds a snapshot, so that nothing of what is finished can be removed.
async fn snapshot(options: &Options) -> Result<Row, Failure> {
    let scene = Scene::new(&options.server, Kind::Postgres, 1 + 3 * CALLS).await?;
    let holder = scene.database.hold_snapshot().await?;
    // What is measured comes after what it keeps from being removed.
    scene.full_speed("", 1..1 + 2 * CALLS).await?;
    let row = scene.full_speed("full speed, a session idle in its transaction", 1 + 2 * CALLS..1 + 3 * CALLS).await?;
    drop(holder);
    Ok(row)
}

/// Reads with so many attempts stored.
async fn log(options: &Options, kind: Kind, attempts: usize) -> Result<Vec<Row>, Failure> {
    let mut scene = Scene::new(&options.server, kind, 1 + READS).await?;
    let client = scene.server.client()?;
    let request = v1::ListDeliveriesRequest { page_size: 1, ..Default::default() };
    let first = client.deliveries().list_deliveries(request).await?.into_inner().deliveries.remove(0);
    scene.server.kill_at_once().await?;
    let (series, id) = scene.database.series(attempts / ATTEMPTS_EACH);
    scene
        .database
        .execute(&format!(
            "INSERT INTO deliveries (id, workspace_id, webhook_id, webhook_event_id, contact_id, source, state, reason, \
             tag_ids, trigger_us, snapshot, attempt_count, causation_depth, created_us, finished_us) \
             SELECT {id}, workspace_id, webhook_id, webhook_event_id, contact_id, source, state, reason, tag_ids, \
             trigger_us, snapshot, {ATTEMPTS_EACH}, causation_depth, created_us, finished_us \
             FROM deliveries, {series} WHERE state = {DELIVERED}"
        ))
        .await?;
    for number in 1..=ATTEMPTS_EACH {
        eprintln!("{}: attempt {number} of {ATTEMPTS_EACH} of each delivery", kind.name());
        scene
            .database
            .execute(&format!(
                "INSERT INTO outcomes (workspace_id, kind, reason, recorded_us, webhook_id, webhook_event_id, delivery_id, \
                 contact_id, tag_ids, source, attempt_number, cause, started_us, duration_us, url, status_code, \
                 response_body, response_truncated, response_location, error_class, error_detail, lease_lost) \
                 SELECT workspace_id, kind, reason, recorded_us, webhook_id, webhook_event_id, {id}, contact_id, tag_ids, \
                 source, {number}, cause, started_us, duration_us, url, status_code, response_body, response_truncated, \
                 response_location, error_class, error_detail, lease_lost \
                 FROM (SELECT * FROM outcomes ORDER BY seq LIMIT 1) AS o, {series}"
            ))
            .await?;
    }
    scene.database.settle().await?;
    scene.server = Server::start(&options.server, &scene.database).await?;
    scene.load.clients = vec![scene.server.client()?];
    let client = scene.server.client()?;
    let row = |what: &str, mut times: Vec<u64>| Row {
        database: kind.name().to_owned(),
        what: format!("{what}, {attempts} attempts stored"),
        answer_p50_ms: percentile_ms(&mut times, 50),
        answer_p99_ms: percentile_ms(&mut times, 99),
        ..Row::default()
    };
    let (mut lists, mut histories, mut streams) = (Vec::new(), Vec::new(), Vec::new());
    for read in 0..READS {
        let filter = v1::DeliveryFilter { webhook_ids: vec![first.webhook_id.clone()], ..Default::default() };
        let request = v1::ListDeliveriesRequest { page_size: 50, filter: Some(filter), ..Default::default() };
        let start = scene.sink.now_ns();
        client.deliveries().list_deliveries(request).await?;
        lists.push(scene.sink.now_ns() - start);
        let request = v1::ListAttemptsRequest { delivery_id: first.id.clone(), page_size: 50, ..Default::default() };
        let start = scene.sink.now_ns();
        client.deliveries().list_attempts(request).await?;
        histories.push(scene.sink.now_ns() - start);
        // From a tag to its outcome on a stream that was just opened.
        let start = scene.sink.now_ns();
        let mut outcomes = client.outcomes(OutcomeFilter::default(), Start::Now);
        outcomes.ready().await?;
        scene.load.closed(1 + read..2 + read, 1, &scene.sink).await?;
        outcomes.next().await.ok_or("the stream ended")??;
        streams.push(scene.sink.now_ns() - start);
    }
    Ok(vec![
        row("ListDeliveries of a webhook", lists),
        row("ListAttempts", histories),
        row("a stream's start to its outcome", streams),
    ])
}
