//! Endpoints: what a webhook's URL can take at a time, as this server knows it.
//!
//! An endpoint is a webhook and the origin that it calls. Each has a *gauge*: how many requests are in flight, the tokens
//! of its rate, its breaker. Whoever leases a delivery takes a [`Slot`] of the gauge with it. A delivery whose endpoint has
//! none goes to the endpoint's *lane*, a queue of its own ([`super::delivery::lane`]), where it is in nobody's way: it
//! holds no permit, and no claim of others reads over it. The gauge knows whether the lane may have rows, and the
//! dispatcher takes from it what the gauge has room for.
//!
//! Where an endpoint is quick, some more are leased than may be in flight. They wait for their turn without a permit, and
//! not long; those whose turn hasn't come by then go to the lane, and so do all when the breaker opens.
//!
//! Gauges are memory. After a start they are empty, and the lanes are found in the database. Limits that hold for an
//! endpoint as a whole are divided by the number of servers that live; breakers are each server's own.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::config::PreparedWebhook;
use super::lease::{LocalDispatch, Permit};
use crate::domain::breaker::{Breaker, Passage, Signal, Ticket};
use crate::domain::delivery::Source;
use crate::domain::rate::{Bucket, Rate};
use crate::domain::time::Micros;
use crate::ids::{ContactId, WebhookEventId, WebhookId, WorkspaceId};

/// Gauges that nobody needs are looked for when there are so many.
const SWEEP_FROM: usize = 1_024;
/// How many deliveries are leased ahead of an endpoint's cap at most, so that a burst needs no lane.
const MAX_AHEAD: usize = 96;
/// How long the last of them waits for its turn, by the endpoint's pace, in seconds.
const AHEAD_S: f64 = 0.1;
/// How long one is kept waiting that was leased ahead; then it goes to the lane.
const MAX_WAIT: Duration = Duration::from_millis(300);
/// The pace of an endpoint that has kept one waiting for so long, in seconds for a request.
const SLOW_S: f64 = 10.0;
/// The weight of the newest request in the pace.
const NEWEST: f64 = 0.2;
/// The most chains that are remembered of a lane; the others are found by the look at everything.
const MAX_FREED: usize = 10_000;
/// How much later than others a delivery may come into a lane that is in turn with them.
const LATE: Duration = Duration::from_secs(60);

/// The deliveries of an ordered webhook to one contact, which follow each other.
pub type Chain = (WebhookEventId, ContactId);

/// The endpoints of this process.
#[derive(Debug)]
pub struct Endpoints {
    gauges: Mutex<Gauges>,
    /// How many lanes there is something to do with; to be read without the lock.
    busy_lanes: AtomicUsize,
    changed: Notify,
    /// How many requests this server sends at a time.
    senders: usize,
}

#[derive(Debug)]
struct Gauges {
    by_webhook: HashMap<WebhookId, Gauge>,
    /// The webhooks whose lanes there is something to do with.
    busy: BTreeSet<WebhookId>,
    /// The lane that had its turn last.
    last: Option<WebhookId>,
    servers: u32,
    sweep_at: usize,
}

#[derive(Debug)]
struct Gauge {
    workspace: WorkspaceId,
    settings: Settings,
    /// Slots that are out.
    admitted: usize,
    /// Those of them whose requests are in flight.
    sending: usize,
    /// The others that wait for their turn, the first one first. Not all that are admitted do: some aren't committed yet.
    waiting: VecDeque<oneshot::Sender<()>>,
    /// How long requests take lately, in seconds.
    pace_s: f64,
    bucket: Bucket,
    breaker: Breaker,
    lane: Lane,
}

/// What the webhook says of its endpoint.
#[derive(Debug, Default)]
struct Settings {
    /// The webhook's; 0 before it was seen.
    version: i64,
    origin: String,
    max_concurrency: usize,
    rate_limit: f64,
    is_ordered: bool,
}

/// What is known of a lane.
#[derive(Debug, Default)]
struct Lane {
    has_rows: bool,
    /// Raised whenever rows may have come.
    generation: u64,
    /// To be looked at whatever the gauge says: its webhook may have changed.
    is_suspect: bool,
    /// Chains whose first delivery may have ended.
    freed: Vec<Chain>,
    /// When the last delivery that was taken from it was due.
    last_due: Option<Micros>,
}

impl Lane {
    /// Where claims begin. What lies before is gone, but for a few that came late; the look at everything finds these. While
    /// some session of PostgreSQL holds an old snapshot the index entries of what is gone stay, and would all be read.
    fn floor(&self) -> Micros {
        let is_whole = self.is_suspect || !self.freed.is_empty();
        self.last_due.filter(|_| !is_whole).map_or(Micros::MIN, |due| due.saturating_sub(LATE))
    }
}

/// A lane that it is time to look at.
#[derive(Clone, Debug)]
pub struct LaneRef {
    /// Whose it is.
    pub webhook_id: WebhookId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// What it was when it was chosen.
    generation: u64,
    /// Chains to look at.
    pub freed: Vec<Chain>,
    /// What was due before isn't looked for.
    pub floor: Micros,
}

/// What a look at a lane has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nobody has looked: there was no room.
    Nothing,
    /// There may be more; when the last delivery that was taken was due.
    Rows(Option<Micros>),
    /// Nothing is left.
    End,
}

/// How a delivery comes to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// By a trigger, or by the common queue: behind all that is in the lane.
    Common,
    /// From the lane.
    Lane,
    /// Because people want it now: it is counted, and not kept waiting.
    Forced,
}

/// The right to send one request to an endpoint. Given back unused if it is dropped.
#[derive(Debug)]
pub struct Slot {
    endpoints: Arc<Endpoints>,
    webhook: WebhookId,
    ticket: Ticket,
    entry: Entry,
    /// Since when its request is in flight.
    started: Option<Instant>,
    /// The time that it was taken at.
    taken: Micros,
}

/// Whether a request may be sent now.
enum Turn {
    Now,
    /// When this says so, if it does.
    Later(oneshot::Receiver<()>),
    /// No more: the breaker has opened since.
    Never,
}

impl Slot {
    /// Says what came of the request, and gives the slot back. `jitter_unit` is -1.0 to 1.0.
    pub fn report(&self, signal: Signal, now: Micros, jitter_unit: f64) {
        let mut gauges = self.endpoints.lock();
        let Some(gauge) = gauges.by_webhook.get_mut(&self.webhook) else { return };
        gauge.breaker.record(self.ticket, signal, now, jitter_unit);
        if gauge.breaker.passage(now) != Passage::Free {
            // They go to the lane.
            gauge.waiting.clear();
        }
    }

    /// Waits, a moment at most, until the request may be sent; `idle` is called once it is sure that it has to wait.
    /// Answers with whether it may: if not, its delivery belongs in the lane.
    pub async fn turn(&mut self, idle: impl FnOnce()) -> bool {
        let turn = self.ask();
        if let Turn::Never = turn {
            return false;
        }
        if let Turn::Later(mut granted) = turn {
            idle();
            match tokio::time::timeout(MAX_WAIT, &mut granted).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return false,
                Err(_) => {
                    granted.close();
                    // It may have been granted at that very moment.
                    if granted.try_recv().is_err() {
                        self.endpoints.note_slow(self.webhook);
                        return false;
                    }
                }
            }
        }
        self.started = Some(Instant::now());
        true
    }

    fn ask(&self) -> Turn {
        let mut gauges = self.endpoints.lock();
        let servers = gauges.servers;
        let Some(gauge) = gauges.by_webhook.get_mut(&self.webhook) else { return Turn::Now };
        if self.entry != Entry::Forced && !gauge.breaker.is_valid(self.ticket) {
            return Turn::Never;
        }
        if self.entry == Entry::Forced || gauge.sending < gauge.cap(servers) {
            gauge.sending += 1;
            return Turn::Now;
        }
        let (grant, granted) = oneshot::channel();
        gauge.waiting.push_back(grant);
        Turn::Later(granted)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut gauges = self.endpoints.lock();
        let servers = gauges.servers;
        if let Some(gauge) = gauges.by_webhook.get_mut(&self.webhook) {
            gauge.admitted = gauge.admitted.saturating_sub(1);
            // Nothing, if what came of it was told.
            gauge.breaker.abandon(self.ticket, self.taken);
            match self.started {
                Some(started) => gauge.end(started.elapsed(), servers),
                None => {
                    if let Some(rate) = gauge.settings.rate(servers) {
                        gauge.bucket.give_back(rate);
                    }
                }
            }
        }
        self.endpoints.told(&gauges, self.webhook);
    }
}

impl Settings {
    fn rate(&self, servers: u32) -> Option<Rate> {
        Rate::per_second(self.rate_limit, servers)
    }
}

impl Gauge {
    fn new(workspace: WorkspaceId) -> Self {
        Self {
            workspace,
            settings: Settings::default(),
            admitted: 0,
            sending: 0,
            waiting: VecDeque::new(),
            pace_s: 0.0,
            bucket: Bucket::default(),
            breaker: Breaker::default(),
            lane: Lane::default(),
        }
    }

    /// Takes in what the webhook says now. Another origin is another endpoint, which starts afresh.
    fn learn(&mut self, webhook: &PreparedWebhook) {
        if self.settings.version == webhook.webhook.version {
            return;
        }
        let definition = &webhook.webhook.definition;
        let origin = webhook.url.origin().to_string();
        if self.settings.origin != origin {
            // Requests to the old one say nothing about the new one.
            self.breaker.start_afresh();
            self.bucket = Bucket::default();
        }
        self.settings = Settings {
            version: webhook.webhook.version,
            origin,
            max_concurrency: usize::try_from(definition.max_concurrency).unwrap_or(usize::MAX),
            rate_limit: definition.rate_limit,
            is_ordered: definition.ordered,
        };
    }

    /// How many requests may be sent now, if `free` of the server's senders are.
    fn room(&mut self, servers: u32, senders: usize, free: usize, now: Micros) -> usize {
        let cap = self.cap(servers);
        let (most, cap) = match self.breaker.passage(now) {
            Passage::Free => (usize::MAX, cap + self.ahead(cap)),
            Passage::Probe => (1, cap),
            Passage::ShutUntil(_) | Passage::Probing => return 0,
        };
        let room = most.min(cap.saturating_sub(self.admitted)).min(self.share(senders, free));
        match self.settings.rate(servers) {
            Some(rate) => room.min(self.bucket.available(rate, now)),
            None => room,
        }
    }

    /// How many requests may be in flight.
    fn cap(&self, servers: u32) -> usize {
        (self.settings.max_concurrency / usize::try_from(servers.max(1)).unwrap_or(1)).max(1)
    }

    /// How many more may be leased, as far as they don't wait long: none if the endpoint is slow.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "bounded")]
    fn ahead(&self, cap: usize) -> usize {
        if self.settings.is_ordered {
            return 0;
        }
        let soon = cap as f64 * AHEAD_S / self.pace_s.max(0.000_001);
        soon.clamp(0.0, MAX_AHEAD as f64) as usize
    }

    /// A request has ended: the next ones have their turn.
    fn end(&mut self, duration: Duration, servers: u32) {
        self.sending = self.sending.saturating_sub(1);
        self.pace_s += NEWEST * (duration.as_secs_f64() - self.pace_s);
        self.grant(servers);
    }

    fn grant(&mut self, servers: u32) {
        while self.sending < self.cap(servers) {
            let Some(next) = self.waiting.pop_front() else { return };
            // Whoever has given up doesn't hear it.
            self.sending += usize::from(next.send(()).is_ok());
        }
    }

    /// How many of the free senders it may take: one if it has none, and as many as leave more free than it has. So an
    /// endpoint that is slow leaves half of them, two a third, and a busy server something for each.
    fn share(&self, senders: usize, free: usize) -> usize {
        let reserve = senders / 8;
        let balanced = (free.saturating_sub(reserve) + 1).saturating_sub(self.admitted).div_ceil(2);
        balanced.max(usize::from(self.admitted == 0)).min(free)
    }

    /// Whether it is time to look at its lane.
    fn has_turn(&mut self, servers: u32, senders: usize, free: usize, now: Micros) -> bool {
        let has_room = self.lane.has_rows && (self.lane.is_suspect || self.room(servers, senders, free, now) > 0);
        has_room || !self.lane.freed.is_empty()
    }

    fn enter(&mut self, servers: u32, entry: Entry, now: Micros) -> Option<Ticket> {
        let ticket = match entry {
            Entry::Forced => self.breaker.force(),
            Entry::Common | Entry::Lane => self.breaker.enter(now)?,
        };
        if let Some(rate) = self.settings.rate(servers) {
            self.bucket.force(rate, now);
        }
        self.admitted += 1;
        Some(ticket)
    }

    fn is_idle(&self, now: Micros) -> bool {
        let lane = &self.lane;
        let is_quiet = self.admitted == 0 && !lane.has_rows && lane.freed.is_empty();
        is_quiet && self.breaker.is_fresh() && self.bucket.is_full(now)
    }
}

impl Gauges {
    fn gauge(&mut self, webhook: WebhookId, workspace: WorkspaceId) -> &mut Gauge {
        self.by_webhook.entry(webhook).or_insert_with(|| Gauge::new(workspace))
    }

    /// Forgets gauges that nobody needs, once there are many.
    fn sweep(&mut self, now: Micros) {
        if self.by_webhook.len() >= self.sweep_at {
            self.by_webhook.retain(|_, gauge| !gauge.is_idle(now));
            self.sweep_at = SWEEP_FROM.max(self.by_webhook.len() * 2);
        }
    }
}

impl Endpoints {
    pub(super) fn new(senders: usize) -> Arc<Self> {
        let gauges =
            Gauges { by_webhook: HashMap::new(), busy: BTreeSet::new(), last: None, servers: 1, sweep_at: SWEEP_FROM };
        Arc::new(Self { gauges: Mutex::new(gauges), busy_lanes: AtomicUsize::new(0), changed: Notify::new(), senders })
    }

    /// How many servers share the limits, this one included.
    pub fn set_servers(&self, count: usize) {
        self.lock().servers = u32::try_from(count).unwrap_or(u32::MAX).max(1);
    }

    /// How many servers share the limits.
    #[must_use]
    pub fn servers(&self) -> usize {
        usize::try_from(self.lock().servers).unwrap_or(usize::MAX)
    }

    /// A slot at the webhook's endpoint, if it has room now. `free` is how many senders are, that of the caller included.
    #[must_use]
    pub fn enter(self: &Arc<Self>, webhook: &PreparedWebhook, entry: Entry, free: usize, now: Micros) -> Option<Slot> {
        let id = webhook.webhook.id;
        let mut gauges = self.lock();
        gauges.sweep(now);
        let servers = gauges.servers;
        let gauge = gauges.gauge(id, webhook.webhook.workspace_id);
        gauge.learn(webhook);
        gauge.grant(servers);
        let has_room = match entry {
            Entry::Common => !gauge.lane.has_rows && gauge.room(servers, self.senders, free, now) > 0,
            Entry::Lane => gauge.room(servers, self.senders, free, now) > 0,
            Entry::Forced => true,
        };
        let ticket = has_room.then(|| gauge.enter(servers, entry, now)).flatten()?;
        Some(Slot { endpoints: Arc::clone(self), webhook: id, ticket, entry, started: None, taken: now })
    }

    /// Whether a delivery that finds no permit belongs in its endpoint's lane.
    #[must_use]
    pub fn is_blocked(&self, webhook: &PreparedWebhook, now: Micros) -> bool {
        let mut gauges = self.lock();
        let (servers, senders) = (gauges.servers, self.senders);
        let Some(gauge) = gauges.by_webhook.get_mut(&webhook.webhook.id) else { return false };
        gauge.lane.has_rows || gauge.room(servers, senders, senders, now) == 0
    }

    /// Says that there may be rows in a webhook's lane.
    pub fn note_rows(&self, webhook: WebhookId, workspace: WorkspaceId) {
        self.note(webhook, workspace, |lane| {
            lane.has_rows = true;
            lane.generation += 1;
        });
    }

    /// Says that there are rows in a webhook's lane, as the database says; the gauge may know nothing of its webhook.
    pub fn note_found(&self, webhook: WebhookId, workspace: WorkspaceId) {
        self.note(webhook, workspace, |lane| {
            lane.has_rows = true;
            lane.generation += 1;
            lane.is_suspect = true;
        });
    }

    /// Says that the first delivery of a chain may have ended.
    pub fn note_freed(&self, webhook: WebhookId, workspace: WorkspaceId, chain: Chain) {
        self.note(webhook, workspace, |lane| {
            if lane.freed.len() < MAX_FREED {
                lane.freed.push(chain);
            }
        });
    }

    /// Says that webhooks of a workspace have changed. What waits for its turn goes to the lane and is looked at anew: it
    /// mustn't be sent after a pause.
    pub fn note_changed(&self, workspace: WorkspaceId) {
        let mut gauges = self.lock();
        for gauge in gauges.by_webhook.values_mut().filter(|gauge| gauge.workspace == workspace) {
            gauge.lane.is_suspect = gauge.lane.has_rows;
            gauge.waiting.clear();
        }
        drop(gauges);
        self.changed.notify_one();
    }

    /// Says that an endpoint has kept one waiting for its turn for too long: no more are leased ahead.
    fn note_slow(&self, webhook: WebhookId) {
        if let Some(gauge) = self.lock().by_webhook.get_mut(&webhook) {
            gauge.pace_s = gauge.pace_s.max(SLOW_S);
        }
    }

    /// Says that a sender is free again.
    pub fn note_permit(&self) {
        if self.busy_lanes.load(Ordering::Relaxed) > 0 {
            self.changed.notify_one();
        }
    }

    fn note(&self, webhook: WebhookId, workspace: WorkspaceId, what: impl FnOnce(&mut Lane)) {
        let mut gauges = self.lock();
        what(&mut gauges.gauge(webhook, workspace).lane);
        gauges.busy.insert(webhook);
        self.busy_lanes.store(gauges.busy.len(), Ordering::Relaxed);
        drop(gauges);
        self.changed.notify_one();
    }

    /// Whether it is time to look at a lane, if `free` senders are.
    #[must_use]
    pub fn is_any_ready(&self, free: usize, now: Micros) -> bool {
        if self.busy_lanes.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut gauges = self.lock();
        let (servers, senders) = (gauges.servers, self.senders);
        let Gauges { by_webhook, busy, .. } = &mut *gauges;
        busy.iter().any(|id| by_webhook.get_mut(id).is_some_and(|gauge| gauge.has_turn(servers, senders, free, now)))
    }

    /// Up to `limit` lanes that it is time to look at, if `free` senders are; the one that had no turn for longest is
    /// first.
    #[must_use]
    pub fn ready(&self, limit: usize, free: usize, now: Micros) -> Vec<LaneRef> {
        let mut gauges = self.lock();
        let (servers, senders) = (gauges.servers, self.senders);
        let Gauges { by_webhook, busy, last, .. } = &mut *gauges;
        let start = last.map_or(Bound::Unbounded, Bound::Excluded);
        let end = last.map_or(Bound::Excluded(WebhookId(uuid::Uuid::nil())), Bound::Included);
        let mut ready = Vec::new();
        for id in busy.range((start, Bound::Unbounded)).chain(busy.range((Bound::Unbounded, end))) {
            let Some(gauge) = by_webhook.get_mut(id) else { continue };
            if gauge.has_turn(servers, senders, free, now) {
                ready.push(LaneRef {
                    webhook_id: *id,
                    workspace_id: gauge.workspace,
                    generation: gauge.lane.generation,
                    freed: gauge.lane.freed.clone(),
                    floor: gauge.lane.floor(),
                });
            }
            if ready.len() == limit {
                break;
            }
        }
        if let Some(lane) = ready.last() {
            *last = Some(lane.webhook_id);
        }
        ready
    }

    /// When it is time for the next lane, if time alone brings that about.
    #[must_use]
    pub fn next_time(&self, now: Micros) -> Option<Micros> {
        let mut gauges = self.lock();
        let servers = gauges.servers;
        let Gauges { by_webhook, busy, .. } = &mut *gauges;
        let mut next: Option<Micros> = None;
        for id in busy.iter() {
            let Some(gauge) = by_webhook.get_mut(id).filter(|gauge| gauge.lane.has_rows) else { continue };
            let opens = match gauge.breaker.passage(now) {
                Passage::ShutUntil(time) => Some(time),
                Passage::Probing => None,
                Passage::Free | Passage::Probe => {
                    gauge.settings.rate(servers).map(|rate| gauge.bucket.next(rate, now)).filter(|time| *time > now)
                }
            };
            next = [next, opens].into_iter().flatten().min();
        }
        next
    }

    /// Returns when something was said, at once if it was since the last time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Says that a lane was looked at.
    pub fn looked_at(&self, lane: &LaneRef, found: Found) {
        let mut gauges = self.lock();
        let Gauges { by_webhook, busy, .. } = &mut *gauges;
        let Some(gauge) = by_webhook.get_mut(&lane.webhook_id) else { return };
        gauge.lane.is_suspect = false;
        gauge.lane.freed.drain(..lane.freed.len().min(gauge.lane.freed.len()));
        match found {
            Found::Nothing => {}
            Found::Rows(last_due) => {
                gauge.lane.has_rows = true;
                gauge.lane.last_due = last_due;
            }
            // What came meanwhile may not have been seen.
            Found::End => gauge.lane.has_rows &= gauge.lane.generation != lane.generation,
        }
        if !gauge.lane.has_rows && gauge.lane.freed.is_empty() {
            busy.remove(&lane.webhook_id);
            self.busy_lanes.store(busy.len(), Ordering::Relaxed);
        }
    }

    /// Wakes whoever looks at lanes, if the webhook has one.
    fn told(&self, gauges: &Gauges, webhook: WebhookId) {
        if gauges.busy.contains(&webhook) {
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Gauges> {
        self.gauges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What becomes of a new delivery that is due.
#[derive(Debug)]
pub enum Admission {
    /// It is leased to this server's dispatcher.
    Leased(Box<Permit>),
    /// It goes to its endpoint's lane.
    Lane,
    /// It goes to the common queue: no sender is free.
    Queue,
}

impl LocalDispatch {
    /// What becomes of a new delivery that is due. One whose order counts always goes by the lane; a test asks nobody.
    #[must_use]
    pub fn admit(&self, webhook: &PreparedWebhook, source: Source, is_ordered: bool, now: Micros) -> Admission {
        if source == Source::Test {
            return self.try_permit().map_or(Admission::Queue, |permit| Admission::Leased(Box::new(permit)));
        }
        if is_ordered {
            return Admission::Lane;
        }
        let endpoints = self.endpoints();
        match self.try_permit() {
            Some(permit) => match endpoints.enter(webhook, Entry::Common, self.free() + 1, now) {
                Some(slot) => Admission::Leased(Box::new(permit.at(slot))),
                None => Admission::Lane,
            },
            None if endpoints.is_blocked(webhook, now) => Admission::Lane,
            None => Admission::Queue,
        }
    }
}

impl super::Tx {
    /// Says, after the commit, that there are rows in a webhook's lane.
    pub fn note_lane(&self, webhook: WebhookId, workspace: WorkspaceId) {
        self.effects().lanes.insert((webhook, workspace));
    }

    /// Says, after the commit, that a delivery of a chain has ended.
    pub fn note_freed(&self, webhook: WebhookId, workspace: WorkspaceId, chain: Chain) {
        self.effects().freed.push((webhook, workspace, chain));
    }
}
