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

mod gauge;
mod slot;

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::config::PreparedWebhook;
use super::lease::{LocalDispatch, Permit};
use crate::domain::breaker::Passage;
use crate::domain::delivery::Source;
use crate::domain::time::Micros;
use crate::ids::{ContactId, WebhookEventId, WebhookId, WorkspaceId};
use gauge::{Gauge, Lane};
pub use slot::Slot;

/// Gauges that nobody needs are looked for when there are so many.
const SWEEP_FROM: usize = 1_024;
/// The most chains that are remembered of a lane; the others are found by the look at everything.
const MAX_FREED: usize = 10_000;

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
            gauge.is_slow();
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

#[cfg(test)]
mod tests;
