//! Leases: who sends a delivery, so that nobody else does.
//!
//! A lease is the server's incarnation and a token in the delivery's row. It holds while the server lives ([`super::heartbeat`]);
//! every settlement is guarded by the token, which each lease raises. Deliveries that this server has permits for are
//! inserted already leased and handed over after the commit, so that the common case needs no claim.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use uuid::Uuid;

use super::config::PreparedWebhook;
use super::delivery::LeasedDelivery;
use super::endpoint::{Chain, Endpoints, Slot};
use crate::domain::breaker::Signal;
use crate::domain::time::Micros;
use crate::ids::{WebhookId, WorkspaceId};

/// One of so many senders is never taken by claims.
const UNCLAIMED: usize = 4;

/// The right to send one delivery. While it lives, what it was given for is known to be in flight here.
#[derive(Debug)]
pub struct Permit {
    /// There but while its request waits for its turn.
    sender: Option<OwnedSemaphorePermit>,
    senders: Arc<Semaphore>,
    /// Its part of what claims may take; none if it came with its commit.
    share: Option<OwnedSemaphorePermit>,
    in_flight: InFlight,
    holds: Option<Uuid>,
    /// What is to be told of the endpoint, and where.
    slot: Option<Slot>,
    endpoints: Arc<Endpoints>,
    /// What may go on when this has ended.
    chain: Option<(WebhookId, WorkspaceId, Chain)>,
    queue: mpsc::WeakUnboundedSender<Handover>,
}

/// The deliveries and extra attempts that this server has leased and knows of. One may be held twice: by an attempt that
/// has lost its lease, and by its successor.
type InFlight = Arc<Mutex<HashMap<Uuid, usize>>>;

impl Permit {
    /// The permit for a delivery, or an extra attempt of one.
    #[must_use]
    pub fn hold(mut self, delivery: &LeasedDelivery) -> Self {
        let id = delivery.extra_id.unwrap_or(delivery.id.0);
        *lock(&self.in_flight).entry(id).or_default() += 1;
        self.holds = Some(id);
        let chain = (delivery.reference.webhook_event_id, delivery.reference.contact_id);
        self.chain = delivery.order.map(|_| (delivery.webhook_id, delivery.workspace_id, chain));
        self
    }

    /// The permit with the slot of its endpoint that it is for.
    #[must_use]
    pub fn at(mut self, slot: Slot) -> Self {
        self.slot = Some(slot);
        self
    }

    /// Waits for the turn of the request at its endpoint, without keeping a sender from others. Answers with whether it has
    /// come; if not, the delivery belongs in its lane.
    pub async fn turn(&mut self) -> bool {
        let Some(slot) = &mut self.slot else { return true };
        let (sender, share, endpoints) = (&mut self.sender, &mut self.share, &self.endpoints);
        let idle = || {
            drop((sender.take(), share.take()));
            endpoints.note_permit();
        };
        if !slot.turn(idle).await {
            return false;
        }
        if self.sender.is_none() {
            self.sender = Arc::clone(&self.senders).acquire_owned().await.ok();
        }
        // None are given out any more when the dispatcher stops.
        self.sender.is_some()
    }

    /// Gives the slot back: the request has been made. `jitter_unit` is -1.0 to 1.0.
    pub fn report(&mut self, signal: Signal, now: Micros, jitter_unit: f64) {
        if let Some(slot) = self.slot.take() {
            slot.report(signal, now, jitter_unit);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Before anybody is told, who would find them taken still.
        drop(self.slot.take());
        drop((self.sender.take(), self.share.take()));
        match self.chain.take() {
            Some((webhook, workspace, chain)) => self.endpoints.note_freed(webhook, workspace, chain),
            None => self.endpoints.note_permit(),
        }
        let Some(id) = self.holds else { return };
        let mut in_flight = lock(&self.in_flight);
        match in_flight.get_mut(&id) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(in_flight.remove(&id)),
        }
        drop(in_flight);
        // Nobody is left to settle what a task that has panicked was sending: its lease is looked for.
        if std::thread::panicking()
            && let Some(queue) = self.queue.upgrade()
        {
            let _ = queue.send(Handover::LostCommit);
        }
    }
}

fn lock(in_flight: &InFlight) -> MutexGuard<'_, HashMap<Uuid, usize>> {
    in_flight.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A delivery to send, and the permit to do so.
#[derive(Debug)]
pub struct Job {
    /// What to send.
    pub delivery: LeasedDelivery,
    /// The webhook as it was when the lease was taken.
    pub webhook: Arc<PreparedWebhook>,
    /// Given back when the job is settled.
    pub permit: Permit,
}

/// What reaches the dispatcher from transactions.
#[derive(Debug)]
pub enum Handover {
    /// A delivery that was committed and leased.
    Job(Box<Job>),
    /// This server may hold leases that it doesn't know of: the connection broke at a commit, or an attempt panicked.
    LostCommit,
}

/// Deliveries leased by a transaction that isn't committed yet.
#[derive(Debug, Default)]
pub struct PendingJobs(Vec<Job>);

/// The senders and the queue of this process's dispatcher.
#[derive(Debug)]
pub struct LocalDispatch {
    server: Uuid,
    senders: Arc<Semaphore>,
    /// What claims may take of them: the rest is for what arrives, which would have to queue behind a backlog otherwise.
    claims: Arc<Semaphore>,
    in_flight: InFlight,
    queue: mpsc::UnboundedSender<Handover>,
    /// Whether a lost commit was told that nobody has looked after yet.
    has_lost: AtomicBool,
    endpoints: Arc<Endpoints>,
}

impl LocalDispatch {
    /// A dispatcher's side and its queue; there are as many permits as senders.
    #[must_use]
    pub fn new(server: Uuid, senders: usize) -> (Self, mpsc::UnboundedReceiver<Handover>) {
        let (queue, receiver) = mpsc::unbounded_channel();
        let endpoints = Endpoints::new(senders);
        (
            Self {
                server,
                senders: Arc::new(Semaphore::new(senders)),
                claims: Arc::new(Semaphore::new(senders - senders / UNCLAIMED)),
                in_flight: InFlight::default(),
                queue,
                has_lost: AtomicBool::new(false),
                endpoints,
            },
            receiver,
        )
    }

    /// This server's incarnation, the owner of its leases.
    #[must_use]
    pub fn server(&self) -> Uuid {
        self.server
    }

    /// What the endpoints can take.
    #[must_use]
    pub fn endpoints(&self) -> &Arc<Endpoints> {
        &self.endpoints
    }

    /// How many senders are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.senders.available_permits()
    }

    /// A permit, if one is free and the dispatcher takes work.
    #[must_use]
    pub fn try_permit(&self) -> Option<Permit> {
        Arc::clone(&self.senders).try_acquire_owned().ok().map(|sender| self.wrap(sender, None))
    }

    /// A permit for a claim, if one is free.
    #[must_use]
    pub fn try_claim(&self) -> Option<Permit> {
        let share = Arc::clone(&self.claims).try_acquire_owned().ok()?;
        let sender = Arc::clone(&self.senders).try_acquire_owned().ok()?;
        Some(self.wrap(sender, Some(share)))
    }

    /// Waits until a permit for a claim is free; `None` when the dispatcher takes no more work.
    pub async fn claim(&self) -> Option<Permit> {
        let share = Arc::clone(&self.claims).acquire_owned().await.ok()?;
        let sender = Arc::clone(&self.senders).acquire_owned().await.ok()?;
        Some(self.wrap(sender, Some(share)))
    }

    fn wrap(&self, sender: OwnedSemaphorePermit, share: Option<OwnedSemaphorePermit>) -> Permit {
        Permit {
            sender: Some(sender),
            senders: Arc::clone(&self.senders),
            share,
            in_flight: Arc::clone(&self.in_flight),
            holds: None,
            slot: None,
            endpoints: Arc::clone(&self.endpoints),
            chain: None,
            queue: self.queue.downgrade(),
        }
    }

    /// The ids of all that is in flight here, and of what transactions that aren't committed yet have leased.
    #[must_use]
    pub fn in_flight(&self) -> Vec<Uuid> {
        lock(&self.in_flight).keys().copied().collect()
    }

    /// Takes no more work: new deliveries are inserted without a lease.
    pub fn close(&self) {
        self.senders.close();
        self.claims.close();
    }

    pub(super) fn hand_over(&self, jobs: PendingJobs) {
        for job in jobs.0 {
            // If the dispatcher has gone, the lease ends with this server's heartbeat.
            let _ = self.queue.send(Handover::Job(Box::new(job)));
        }
    }

    /// Says that a commit's result is unknown. Of several, one look finds what all of them have left.
    pub fn lost_commit(&self) {
        if !self.has_lost.swap(true, Ordering::SeqCst) {
            let _ = self.queue.send(Handover::LostCommit);
        }
    }

    /// Says that what lost commits have left is being looked for.
    pub fn look_for_lost(&self) {
        self.has_lost.store(false, Ordering::SeqCst);
    }
}

impl super::Tx {
    /// Hands a delivery that this transaction inserts with a lease to the local dispatcher, after the commit.
    pub fn hand_over(&self, job: Job) {
        self.effects().jobs.0.push(job);
    }
}
