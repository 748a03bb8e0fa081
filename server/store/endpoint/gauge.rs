//! What one endpoint can take, and what is known of its lane.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Chain, Entry};
use crate::domain::breaker::{Breaker, Passage, Ticket};
use crate::domain::rate::{Bucket, Rate};
use crate::domain::time::Micros;
use crate::ids::WorkspaceId;
use crate::store::config::PreparedWebhook;

/// How many deliveries are leased ahead of an endpoint's cap at most, so that a burst needs no lane.
pub(super) const MAX_AHEAD: usize = 96;
/// How long the last of them waits for its turn, by the endpoint's pace, in seconds.
const AHEAD_S: f64 = 0.1;
/// The pace of an endpoint that has kept one waiting for so long, in seconds for a request.
const SLOW_S: f64 = 10.0;
/// The weight of the newest request in the pace.
const NEWEST: f64 = 0.2;
/// How much later than others a delivery may come into a lane that is in turn with them.
pub(super) const LATE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Gauge {
    pub(super) workspace: WorkspaceId,
    pub(super) settings: Settings,
    /// Slots that are out.
    pub(super) admitted: usize,
    /// Those of them whose requests are in flight.
    pub(super) sending: usize,
    /// The others that wait for their turn, the first one first. Not all that are admitted do: some aren't committed yet.
    pub(super) waiting: VecDeque<oneshot::Sender<()>>,
    /// How long requests take lately, in seconds.
    pub(super) pace_s: f64,
    pub(super) bucket: Bucket,
    pub(super) breaker: Breaker,
    pub(super) lane: Lane,
}

/// What the webhook says of its endpoint.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// The webhook's; 0 before it was seen.
    pub(super) version: i64,
    pub(super) origin: String,
    pub(super) max_concurrency: usize,
    pub(super) rate_limit: f64,
    pub(super) is_ordered: bool,
}

/// What is known of a lane.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) has_rows: bool,
    /// Raised whenever rows may have come.
    pub(super) generation: u64,
    /// To be looked at whatever the gauge says: its webhook may have changed.
    pub(super) is_suspect: bool,
    /// Chains whose first delivery may have ended.
    pub(super) freed: Vec<Chain>,
    /// When the last delivery that was taken from it was due.
    pub(super) last_due: Option<Micros>,
}

impl Lane {
    /// Where claims begin. What lies before is gone, but for a few that came late; the look at everything finds these. While
    /// some session of PostgreSQL holds an old snapshot the index entries of what is gone stay, and would all be read.
    pub(super) fn floor(&self) -> Micros {
        let is_whole = self.is_suspect || !self.freed.is_empty();
        self.last_due.filter(|_| !is_whole).map_or(Micros::MIN, |due| due.saturating_sub(LATE))
    }
}

impl Settings {
    pub(super) fn rate(&self, servers: u32) -> Option<Rate> {
        Rate::per_second(self.rate_limit, servers)
    }
}

impl Gauge {
    pub(super) fn new(workspace: WorkspaceId) -> Self {
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
    pub(super) fn learn(&mut self, webhook: &PreparedWebhook) {
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
    pub(super) fn room(&mut self, servers: u32, senders: usize, free: usize, now: Micros) -> usize {
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
    pub(super) fn cap(&self, servers: u32) -> usize {
        (self.settings.max_concurrency / usize::try_from(servers.max(1)).unwrap_or(1)).max(1)
    }

    /// How many more may be leased, as far as they don't wait long: none if the endpoint is slow.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "bounded")]
    pub(super) fn ahead(&self, cap: usize) -> usize {
        if self.settings.is_ordered {
            return 0;
        }
        let soon = cap as f64 * AHEAD_S / self.pace_s.max(0.000_001);
        soon.clamp(0.0, MAX_AHEAD as f64) as usize
    }

    /// A request has ended: the next ones have their turn.
    pub(super) fn end(&mut self, duration: Duration, servers: u32) {
        self.sending = self.sending.saturating_sub(1);
        self.pace_s += NEWEST * (duration.as_secs_f64() - self.pace_s);
        self.grant(servers);
    }

    /// It has kept one waiting for its turn for too long.
    pub(super) const fn is_slow(&mut self) {
        self.pace_s = self.pace_s.max(SLOW_S);
    }

    pub(super) fn grant(&mut self, servers: u32) {
        while self.sending < self.cap(servers) {
            let Some(next) = self.waiting.pop_front() else { return };
            // Whoever has given up doesn't hear it.
            self.sending += usize::from(next.send(()).is_ok());
        }
    }

    /// How many of the free senders it may take: one if it has none, and as many as leave more free than it has. So an
    /// endpoint that is slow leaves half of them, two a third, and a busy server something for each.
    pub(super) fn share(&self, senders: usize, free: usize) -> usize {
        let reserve = senders / 8;
        let balanced = (free.saturating_sub(reserve) + 1).saturating_sub(self.admitted).div_ceil(2);
        balanced.max(usize::from(self.admitted == 0)).min(free)
    }

    /// Whether it is time to look at its lane.
    pub(super) fn has_turn(&mut self, servers: u32, senders: usize, free: usize, now: Micros) -> bool {
        let has_room = self.lane.has_rows && (self.lane.is_suspect || self.room(servers, senders, free, now) > 0);
        has_room || !self.lane.freed.is_empty()
    }

    pub(super) fn enter(&mut self, servers: u32, entry: Entry, now: Micros) -> Option<Ticket> {
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

    pub(super) fn is_idle(&self, now: Micros) -> bool {
        let lane = &self.lane;
        let is_quiet = self.admitted == 0 && !lane.has_rows && lane.freed.is_empty();
        is_quiet && self.breaker.is_fresh() && self.bucket.is_full(now)
    }
}
