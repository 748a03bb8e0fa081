//! Slots: the right to send one request to an endpoint, and the wait for its turn.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Endpoints, Entry};
use crate::domain::breaker::{Passage, Signal, Ticket};
use crate::domain::time::Micros;
use crate::ids::WebhookId;

/// How long one is kept waiting that was leased ahead; then it goes to the lane.
const MAX_WAIT: Duration = Duration::from_millis(300);

/// The right to send one request to an endpoint. Given back unused if it is dropped.
#[derive(Debug)]
pub struct Slot {
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) webhook: WebhookId,
    pub(super) ticket: Ticket,
    pub(super) entry: Entry,
    /// Since when its request is in flight.
    pub(super) started: Option<Instant>,
    /// The time that it was taken at.
    pub(super) taken: Micros,
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
