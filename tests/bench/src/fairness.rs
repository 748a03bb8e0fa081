//! Whether endpoints that can't keep up slow down one that can: `cargo xtask bench -- fairness`.
//!
//! Two databases, one with a backlog at a dead, a dripping and a rate-limited endpoint. Windows on the one and the other take
//! turns, each with a server that was just started, so that noise of the machine falls on both.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use taghook_client::contact::by_email;
use taghook_client::v1::{self, Webhook};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::database::Kind;
use crate::growth::{DELIVERED, Place, Scene};
use crate::report::{Row, medians, percentile_ms, print, shown};
use crate::server::{PATTERN, Server, add_tag, add_webhook};
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
    /// How many deliveries wait at the blocked endpoints, all in all
    #[arg(long, default_value_t = 100_000)]
    waiting: usize,
    /// How many windows of each kind there are; the table has the medians
    #[arg(long, default_value_t = 3)]
    windows: usize,
    /// How long a window is, in seconds
    #[arg(long, default_value_t = 20)]
    seconds: usize,
    /// Where the JSON goes
    #[arg(long)]
    json: Option<PathBuf>,
}

/// The steady rate at the endpoint that keeps up, in calls a second.
const PER_S: u32 = 100;
/// How long a server is under this load before a window, in seconds: until it has found all lanes, and knows the endpoints.
const WARM_UP_S: usize = 8;
/// The bytes of the dripping endpoint's answer; one comes each second.
const DRIPS: usize = 8;
/// How long it is waited for.
const TIMEOUT_S: i64 = 15;
/// The rate of the endpoint that has a limit, in requests a second.
const RATE_LIMIT: f64 = 10.0;
/// What the names of the blocked webhooks begin with.
const BLOCKED: &str = "blocked";

/// Measures and prints.
///
/// # Errors
///
/// What can't be measured.
pub(crate) async fn run(options: &Options) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for kind in options.database.kinds() {
        rows.extend(measure(options, *kind).await?);
    }
    print(&rows, options.json.as_deref())
}

async fn measure(options: &Options, kind: Kind) -> Result<Vec<Row>, Failure> {
    let waiting = options.waiting;
    let mut quiet = Side::new(options, kind).await?;
    let mut busy = Side::new(options, kind).await?;
    busy.block(waiting, Place::Lane).await?;
    let name = format!("beside {waiting} waiting in three blocked lanes");
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..options.windows {
        let before = shown(quiet.window("alone", WARM_UP_S).await?);
        beside.push(shown(busy.window(&name, WARM_UP_S).await?.over(&before)));
        alone.push(before);
    }
    drop(busy);
    // The queue's first look at a backlog, right from the start.
    let before = shown(quiet.window("alone", WARM_UP_S).await?);
    let mut moving = Side::new(options, kind).await?;
    moving.block(waiting, Place::Common).await?;
    let name = format!("while {waiting} move from the common queue to their lanes");
    let moving = shown(moving.window(&name, 0).await?.over(&before));
    Ok(vec![medians(&alone), medians(&beside), moving])
}

/// A database whose server is started for each window.
struct Side<'a> {
    options: &'a Options,
    kind: Kind,
    scene: Scene,
    /// The next contact that wasn't tagged yet.
    next: usize,
}

impl<'a> Side<'a> {
    async fn new(options: &'a Options, kind: Kind) -> Result<Self, Failure> {
        let contacts = (options.windows + 1) * (WARM_UP_S + options.seconds) * PER_S as usize;
        let mut scene = Scene::new(&options.server, kind, 1 + contacts).await?;
        scene.server.kill_at_once().await?;
        Ok(Self { options, kind, scene, next: 1 })
    }

    /// Makes the endpoints that don't keep up, and lets so many deliveries wait at them.
    async fn block(&mut self, waiting: usize, place: Place) -> Result<(), Failure> {
        let Self { scene, .. } = self;
        scene.server = Server::start(&self.options.server, &scene.database).await?;
        let client = scene.server.client()?;
        let tag_id = add_tag(&client, BLOCKED).await?;
        let webhook = |name: &str, url: String| Webhook {
            name: format!("{BLOCKED}: {name}"),
            url,
            activation_tag_ids: vec![tag_id.clone()],
            events: vec![v1::WebhookEvent::default()],
            timeout: Some(prost_types::Duration { seconds: TIMEOUT_S, nanos: 0 }),
            ..Default::default()
        };
        add_webhook(&client, webhook("dead", dead().await?)).await?;
        add_webhook(&client, webhook("dripping", dripping().await?)).await?;
        let limited = Webhook { rate_limit: RATE_LIMIT, ..webhook("limited", scene.sink.url()) };
        add_webhook(&client, limited).await?;
        // One delivery of each; the others are copied from it.
        let email = PATTERN.to_owned();
        let request =
            v1::TagContactRequest { contact: by_email(email), tag_ids: vec![tag_id.clone()], ..Default::default() };
        client.contacts().tag_contact(request).await?;
        scene.server.kill_at_once().await?;

        let (series, id) = scene.database.series(waiting);
        let (mark, lane) = (scene.database.text_of_number("n"), place.code());
        let blocked = format!("webhook_id IN (SELECT id FROM webhooks WHERE name LIKE '{BLOCKED}%')");
        scene
            .database
            .execute(&format!(
                "INSERT INTO deliveries (id, workspace_id, webhook_id, webhook_event_id, contact_id, source, state, reason, \
                 tag_ids, trigger_us, due_us, snapshot, causation_depth, created_us, lane) \
                 SELECT {id}, d.workspace_id, b.webhook_id, b.webhook_event_id, d.contact_id, d.source, 2, 0, d.tag_ids, \
                 d.trigger_us, d.trigger_us + n, replace(d.snapshot, 'bench-0@', 'waits-' || {mark} || '@'), \
                 d.causation_depth, d.created_us, {lane} \
                 FROM (SELECT * FROM deliveries WHERE state = {DELIVERED} AND NOT {blocked} LIMIT 1) d, {series}, \
                 (SELECT webhook_id, webhook_event_id, ROW_NUMBER() OVER (ORDER BY webhook_id) - 1 AS place \
                 FROM deliveries WHERE {blocked}) b WHERE n % 3 = b.place"
            ))
            .await?;
        scene.database.settle().await
    }

    /// Starts a server, and measures the endpoint that keeps up.
    async fn window(&mut self, what: &str, warm_up_s: usize) -> Result<Row, Failure> {
        let (warm_up, calls) = (warm_up_s * PER_S as usize, self.options.seconds * PER_S as usize);
        let measured = self.next + warm_up..self.next + warm_up + calls;
        let scene = &mut self.scene;
        scene.server = Server::start(&self.options.server, &scene.database).await?;
        scene.load.clients = vec![scene.server.client()?];
        scene.load.paced(self.next..measured.start, PER_S, &scene.sink).await?;
        let pid = scene.server.pid();
        let (server_s, database_s) = (meter::cpu_s(pid), scene.database.pid().map(meter::cpu_with_children_s));
        let mut answered = scene.load.paced(measured.clone(), PER_S, &scene.sink).await?;
        scene.arrived(measured.end).await?;
        let thousands = calls as f64 / 1e3;
        let latency = |(contact, began): &(usize, u64)| Some(scene.sink.arrival_ns(*contact)?.saturating_sub(*began));
        let mut latencies: Vec<u64> = answered.calls.iter().filter_map(latency).collect();
        let row = Row {
            database: self.kind.name().to_owned(),
            what: what.to_owned(),
            p50_ms: percentile_ms(&mut latencies, 50),
            p99_ms: percentile_ms(&mut latencies, 99),
            answer_p50_ms: percentile_ms(&mut answered.answers_ns, 50),
            answer_p99_ms: percentile_ms(&mut answered.answers_ns, 99),
            server_cpu_s: Some((meter::cpu_s(pid) - server_s) / thousands),
            database_cpu_s: scene
                .database
                .pid()
                .zip(database_s)
                .map(|(pid, before)| (meter::cpu_with_children_s(pid) - before) / thousands),
            ..Row::default()
        };
        scene.server.kill_at_once().await?;
        self.next = measured.end;
        Ok(row)
    }
}

/// A URL that refuses connections.
async fn dead() -> io::Result<String> {
    let address = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    Ok(format!("http://{address}/dead"))
}

/// A URL that answers a byte a second.
async fn dripping() -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A connection that breaks is its sender's affair.
            tokio::spawn(drip(stream));
        }
    });
    Ok(format!("http://{address}/dripping"))
}

async fn drip(mut stream: TcpStream) -> io::Result<()> {
    let mut request = [0; 4_096];
    while stream.read(&mut request).await? > 0 {
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {DRIPS}\r\n\r\n").as_bytes()).await?;
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        for _ in 0..DRIPS {
            ticks.tick().await;
            stream.write_all(b".").await?;
        }
    }
    Ok(())
}
