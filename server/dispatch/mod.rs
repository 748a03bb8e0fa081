//! Sending what is owed.
//!
//! Who is who:
//! - [`Dispatcher`]: the loop. It takes deliveries that arrive already leased with their commit, claims others that are due
//!   ([`claim`]), and hands each with a permit to a task of its own. What endpoints without room keep waiting is taken from
//!   their lanes ([`lanes`]).
//! - [`attempt`]: one attempt: build the request, send it, read what it means.
//! - [`settle`]: writes what came of attempts, many in one transaction. A permit comes back when its attempt is settled, so
//!   that a database that lags stops the claims.
//! - [`replay`]: the steps of replays. [`retention`]: what is old goes.
//! - [`request`]: the bytes of a request. [`send`]: the HTTP client. [`egress`]: where it may connect to.
//!
//! A wake-up carries no data and may be missed: the poll is the truth. The database alone says who sends what.

mod attempt;
mod claim;
pub mod egress;
mod lanes;
pub mod replay;
pub mod request;
pub mod retention;
pub mod send;
mod settle;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::domain::breaker::Signal;
use crate::domain::time::Micros;
use crate::error::{Result, chain};
use crate::store::config::PreparedWebhook;
use crate::store::delivery::queue::{self, Look};
use crate::store::endpoint::Slot;
use crate::store::lease::{Handover, Job, Permit};
use crate::store::{Store, delivery::LeasedDelivery, extra_attempt};
use lanes::Lanes;
use send::Sender;
use settle::Finished;

/// The most deliveries of one claim.
const MAX_CLAIM: usize = 256;
/// How often the queue is looked at without a wake-up: what other servers left behind, and steps of the clock.
const POLL_EVERY: Duration = Duration::from_secs(5);
/// The wait after a claim that failed, so that an absent database isn't hammered.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);
/// Attempts that wait to be settled, beyond those that have permits: none.
const SETTLE_QUEUE: usize = 1_024;

/// Sends deliveries until it is told to stop.
pub struct Dispatcher {
    store: Store,
    sender: Sender,
    handovers: UnboundedReceiver<Handover>,
}

impl Dispatcher {
    /// A dispatcher of the store's local queue.
    #[must_use]
    pub fn new(store: Store, sender: Sender, handovers: UnboundedReceiver<Handover>) -> Self {
        Self { store, sender, handovers }
    }

    /// Runs. After `soft` no more is claimed, attempts in flight are made to their end and settled, then it returns;
    /// after `hard` it returns at once, and what was in flight is sent again by whoever claims it next.
    pub async fn run(mut self, soft: CancellationToken, hard: CancellationToken) {
        let (finished, queue) = mpsc::channel(SETTLE_QUEUE);
        let settler = tokio::spawn(settle::run(self.store.clone(), queue, hard.clone()));
        let attempts = TaskTracker::new();
        let crew =
            Crew { store: self.store.clone(), sender: self.sender.clone(), finished, attempts: attempts.clone() };
        self.work(&crew, &soft).await;

        self.store.local().close();
        self.handovers.close();
        let finish = async {
            while let Some(handover) = self.handovers.recv().await {
                crew.take(handover).await;
            }
            attempts.close();
            attempts.wait().await;
        };
        tokio::select! {
            () = finish => {}
            () = hard.cancelled() => {}
        }
        // The settler ends when nobody can hand it anything any more.
        drop(crew);
        if let Err(error) = settler.await {
            tracing::error!(error = chain(&error), "the settler failed");
        }
    }

    async fn work(&mut self, crew: &Crew, soft: &CancellationToken) {
        let (mut agenda, mut lanes) = (Agenda::new(&self.store), Lanes::default());
        loop {
            tokio::select! {
                biased;
                () = soft.cancelled() => return,
                Some(handover) = self.handovers.recv() => crew.take(handover).await,
                work = next_work(&self.store, &mut agenda, &mut lanes) => {
                    let Some(permit) = first_permit(&self.store, &mut self.handovers, crew, soft).await else { return };
                    match work {
                        Work::Queue(look) => {
                            agenda.next = crew.claim(permit, look).await;
                            if look == Look::Full {
                                lanes.find(&self.store).await;
                            }
                        }
                        Work::Lanes => lanes.claim(crew, permit).await,
                    }
                }
            }
        }
    }
}

/// What to look at.
enum Work {
    /// The common queue.
    Queue(Look),
    /// The lanes that there is room for.
    Lanes,
}

/// Returns when there is something to look at. Neither the queue nor the lanes keep the other one waiting: where it is
/// time for both, chance decides.
async fn next_work(store: &Store, agenda: &mut Agenda, lanes: &mut Lanes) -> Work {
    tokio::select! {
        look = agenda.is_time(store) => Work::Queue(look),
        () = lanes.is_time(store) => Work::Lanes,
    }
}

/// Waits for a permit to claim with; meanwhile deliveries that arrive with their permits are sent.
async fn first_permit(
    store: &Store,
    handovers: &mut UnboundedReceiver<Handover>,
    crew: &Crew,
    soft: &CancellationToken,
) -> Option<Permit> {
    loop {
        tokio::select! {
            biased;
            () = soft.cancelled() => return None,
            Some(handover) = handovers.recv() => crew.take(handover).await,
            permit = store.local().claim() => return permit,
        }
    }
}

/// When the queue is looked at next.
struct Agenda {
    wakes: watch::Receiver<u64>,
    next: NextLook,
    /// When everything is looked at again. Looks in between don't put it off.
    poll: Instant,
}

enum NextLook {
    Now(Look),
    /// When the next delivery is due, if one is, but not later than the poll.
    Due(Option<Micros>),
    /// Whatever happens.
    At(Instant),
}

impl Agenda {
    fn new(store: &Store) -> Self {
        Self { wakes: store.wakes().watch_dispatch(), next: NextLook::Now(Look::Full), poll: Instant::now() }
    }

    /// Returns when it is time to look, and how far back. The wake is armed anew before the look, so that what is committed
    /// during it isn't missed.
    async fn is_time(&mut self, store: &Store) -> Look {
        let look = match &self.next {
            NextLook::Now(look) => at_once(*look, self.poll, Instant::now()),
            NextLook::At(time) => {
                tokio::time::sleep_until(*time).await;
                Look::Full
            }
            NextLook::Due(due) => {
                let due = *due;
                let is_due = async {
                    match due {
                        Some(due) => store.clock().sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    // First, so that neither wakes nor what is due keep it from coming.
                    biased;
                    () = tokio::time::sleep_until(self.poll) => Look::Full,
                    // A clock that has leapt leaves it further behind than a recent look sees.
                    () = is_due => due.map_or(Look::Recent, |due| Look::reaching(due, store.clock().now())),
                    _ = self.wakes.changed() => Look::Recent,
                }
            }
        };
        self.wakes.borrow_and_update();
        if look == Look::Full {
            self.poll = Instant::now() + POLL_EVERY;
        }
        look
    }
}

/// How far back to look without a wait. A queue that never runs dry mustn't keep the poll from coming: what is older than
/// a recent look sees would never be sent.
fn at_once(look: Look, poll: Instant, now: Instant) -> Look {
    if now >= poll { Look::Full } else { look }
}

/// Those who make the attempts.
struct Crew {
    store: Store,
    sender: Sender,
    finished: mpsc::Sender<Finished>,
    attempts: TaskTracker,
}

impl Crew {
    async fn take(&self, handover: Handover) {
        match handover {
            Handover::Job(job) => self.start(*job),
            Handover::LostCommit => {
                self.store.local().look_for_lost();
                // The database knows what became of it.
                if let Err(error) = self.reclaim().await {
                    tracing::debug!(error = chain(&error), "leases of an unknown commit can't be looked for yet");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                    self.store.local().lost_commit();
                }
            }
        }
    }

    /// Makes an attempt in a task of its own.
    fn start(&self, job: Job) {
        let (store, sender, finished) = (self.store.clone(), self.sender.clone(), self.finished.clone());
        self.attempts.spawn(async move {
            let mut job = job;
            if !job.permit.turn().await {
                return claim::give_way(&store, job).await;
            }
            let (settlement, verdict) = attempt::make(&store, &sender, &job).await;
            let Job { delivery, mut permit, webhook } = job;
            permit.report(Signal::of(&settlement.attempt), store.clock().now(), store.entropy().jitter_unit());
            let done = Finished {
                settlement,
                verdict,
                source: delivery.reference.source,
                webhook,
                depth: delivery.causation_depth,
                traceparent: delivery.traceparent,
                _permit: permit,
            };
            // The settler outlives all attempts, but for a hard stop; then the lease ends with this server.
            let _ = finished.send(done).await;
        });
    }

    /// Claims as many deliveries as there are permits, and starts them. Answers with when to look again.
    async fn claim(&self, first: Permit, look: Look) -> NextLook {
        let permits = self.permits(first);
        let next = match claim::claim(&self.store, permits.len(), look).await {
            Ok(claimed) => {
                self.start_all(claimed.ready, permits);
                match claimed.more {
                    Some(look) => Ok(NextLook::Now(look)),
                    None => self.next_due().await,
                }
            }
            Err(error) => Err(error),
        };
        next.unwrap_or_else(|error| {
            tracing::debug!(error = chain(&error), "the queue can't be read");
            NextLook::At(Instant::now() + PAUSE_AFTER_ERROR)
        })
    }

    /// As many permits as claims may take now, up to what one takes.
    fn permits(&self, first: Permit) -> Vec<Permit> {
        let more = std::iter::from_fn(|| self.store.local().try_claim());
        std::iter::once(first).chain(more.take(MAX_CLAIM - 1)).collect()
    }

    fn start_all(&self, ready: Vec<Ready>, permits: impl IntoIterator<Item = Permit>) {
        for (ready, permit) in ready.into_iter().zip(permits) {
            let Ready { delivery, webhook, slot } = ready;
            let permit = permit.hold(&delivery);
            let permit = match slot {
                Some(slot) => permit.at(slot),
                None => permit,
            };
            self.start(Job { permit, delivery, webhook });
        }
    }

    async fn next_due(&self) -> Result<NextLook> {
        let db = self.store.read();
        let scheduled = queue::next_due(db, self.store.clock().now()).await?;
        let extra = extra_attempt::next_due(db).await?;
        Ok(NextLook::Due([scheduled, extra].into_iter().flatten().min()))
    }

    async fn reclaim(&self) -> Result<()> {
        let mut ready = claim::reclaim(&self.store).await?;
        while let Some(permit) = self.store.local().try_permit() {
            let Some(next) = ready.pop() else { return Ok(()) };
            self.start_all(vec![next], [permit]);
        }
        // To wait for a permit here could be for ever: those that are taken may wait for this very loop.
        claim::give_back(&self.store, &ready).await
    }
}

/// A delivery that may be sent.
struct Ready {
    delivery: LeasedDelivery,
    webhook: Arc<PreparedWebhook>,
    /// Its slot at the endpoint; a test has none.
    slot: Option<Slot>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_poll_comes_in_a_queue_that_never_runs_dry() {
        let poll = Instant::now();
        let before = poll.checked_sub(Duration::from_millis(1)).unwrap();
        for look in [Look::Recent, Look::From(Micros(7))] {
            assert_eq!(at_once(look, poll, before), look);
            assert_eq!(at_once(look, poll, poll), Look::Full);
        }
    }
}
