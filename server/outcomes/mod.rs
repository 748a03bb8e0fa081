//! The stream of outcomes.
//!
//! Who is who:
//! - [`OutcomeLog`]: one for a server. Its reader follows the log, wakes on commits, and fills the [`ring`]; while nobody
//!   watches it reads nothing.
//! - a *watcher*: a task for each stream. It reads the ring, or pages of the database while it is behind, filters, and puts
//!   messages into a short queue that the stream drains.
//! - [`cursor`]: a place in the log, as callers keep it.
//!
//! Positions are given out in the order of commit and are complete up to the newest that can be seen, so that "after this
//! position" misses nothing and repeats nothing, on whichever server.

pub mod cursor;
mod ring;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::domain::outcome::{Kind, Outcome, Position};
use crate::error::{Error, Result, chain};
use crate::ids::{ContactId, TagId, WebhookId, WorkspaceId};
use crate::store::{Store, deployment, outcome};
use ring::{Entry, Found, Ring};

/// How many rows are read at a time.
const PAGE: u64 = 1_000;
/// How many messages of a stream wait for its watcher to take them.
const QUEUE: usize = 64;
/// How often the log is read without a wake-up.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// After how long without a message a stream gets a checkpoint.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(15);
/// After how long without progress a watcher is given up.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// The age at which a stream ends, so that load moves to new servers; jittered by 10 %.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);

/// Selects outcomes for which all given conditions hold; empty lists select any.
#[derive(Clone, Debug, Default)]
pub struct OutcomeFilter {
    /// Outcomes of these webhooks.
    pub webhook_ids: Vec<WebhookId>,
    /// Outcomes of these contacts.
    pub contact_ids: Vec<ContactId>,
    /// Outcomes of these kinds.
    pub kinds: Vec<Kind>,
    /// Outcomes set off by one of these tags.
    pub tag_ids: Vec<TagId>,
}

/// Where a stream starts.
#[derive(Clone, Debug)]
pub enum Start {
    /// After the newest outcome.
    Now,
    /// With the oldest outcome that is kept.
    Beginning,
    /// After the message with this cursor.
    After(String),
}

/// A message of a stream; its position is that after the message.
#[derive(Clone, Debug)]
pub enum Message {
    /// Something happened.
    Outcome(Position, Arc<Outcome>),
    /// Nothing that the filter selects lies before the position.
    Checkpoint(Position),
}

/// The log of outcomes, as this server's streams read it. Cheap to clone.
#[derive(Clone)]
pub struct OutcomeLog(Arc<Inner>);

struct Inner {
    store: Store,
    ring: Ring,
    head: watch::Sender<Position>,
    /// Told when a watcher comes.
    arrivals: Notify,
    watchers: TaskTracker,
    stop: CancellationToken,
}

impl OutcomeLog {
    /// Opens the log at its present end. After `stop` streams end with a checkpoint.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn open(store: Store, stop: CancellationToken) -> Result<Self> {
        let end = end_of_log(&store).await?;
        let (head, arrivals) = (watch::Sender::new(end), Notify::new());
        Ok(Self(Arc::new(Inner { store, ring: Ring::new(end), head, arrivals, watchers: TaskTracker::new(), stop })))
    }

    /// Follows the log until it is stopped, then waits for the streams to end.
    pub async fn follow(self) {
        let inner = &self.0;
        let mut wakes = inner.store.wakes().watch_outcomes();
        while !inner.stop.is_cancelled() {
            wakes.borrow_and_update();
            let read = if inner.head.receiver_count() == 0 { self.skip().await } else { self.read_on().await };
            match read {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => tracing::debug!(error = chain(&error), "the outcome log can't be read"),
            }
            tokio::select! {
                _ = wakes.changed() => {}
                () = tokio::time::sleep(POLL_EVERY) => {}
                () = inner.stop.cancelled() => {}
            }
        }
        inner.watchers.close();
        inner.watchers.wait().await;
    }

    /// Waits until somebody watches, and starts the ring anew at the end of the log. Answers with whether to read on.
    async fn skip(&self) -> Result<bool> {
        let inner = &self.0;
        // What is erased from now on isn't erased in memory.
        inner.ring.restart(inner.ring.head());
        tokio::select! {
            () = inner.arrivals.notified() => {}
            () = inner.stop.cancelled() => return Ok(false),
        }
        let end = end_of_log(&inner.store).await.inspect_err(|_| inner.arrivals.notify_one())?;
        inner.ring.restart(end);
        // What was erased is in no ring any more.
        drop(inner.store.wakes().take_erasures());
        inner.head.send_replace(end);
        Ok(true)
    }

    /// Reads a page after the head; answers with whether there may be more.
    async fn read_on(&self) -> Result<bool> {
        let inner = &self.0;
        let outcomes = outcome::after(inner.store.read(), inner.ring.head(), PAGE).await?;
        let is_full = outcomes.len() as u64 == PAGE;
        let is_news = !outcomes.is_empty();
        inner.ring.extend(outcomes);
        // After what was read: it may have been read just before it was erased.
        inner.ring.erase(&inner.store.wakes().take_erasures());
        if is_news {
            inner.head.send_replace(inner.ring.head());
        }
        Ok(is_full)
    }

    /// Starts a stream. Its first message, a checkpoint with the start position, is there when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::CursorInvalid`], [`Error::CursorExpired`], [`Error::CursorAhead`], [`Error::ShuttingDown`]; the database's.
    pub async fn watch(
        &self,
        workspace: WorkspaceId,
        filter: OutcomeFilter,
        start: Start,
    ) -> Result<mpsc::Receiver<Result<Message>>> {
        if self.0.stop.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        let position = self.start_position(workspace, start).await?;
        let (queue, messages) = mpsc::channel(QUEUE);
        // Kept for the last message, which must find a place in a full queue.
        let last = queue.clone().reserve_owned().await.map_err(Error::internal)?;
        queue.send(Ok(Message::Checkpoint(position))).await.map_err(Error::internal)?;
        let jitter = 1.0 + 0.1 * self.0.store.entropy().jitter_unit();
        let watcher = Watcher {
            log: self.clone(),
            head: self.0.head.subscribe(),
            workspace,
            filter,
            position,
            queue,
            expires: Instant::now() + MAX_AGE.mul_f64(jitter),
        };
        self.0.watchers.spawn(watcher.run(last));
        self.0.arrivals.notify_one();
        Ok(messages)
    }

    async fn start_position(&self, workspace: WorkspaceId, start: Start) -> Result<Position> {
        let store = &self.0.store;
        let facts = store.facts();
        match start {
            Start::Now => end_of_log(store).await,
            Start::Beginning => Ok(Position(deployment::log_floor(store.read()).await?)),
            Start::After(text) => {
                let position = cursor::decode(facts, workspace, &text)?;
                let floor = Position(deployment::log_floor(store.read()).await?);
                if position < floor {
                    return Err(Error::CursorExpired { oldest_cursor: cursor::encode(facts, workspace, floor) });
                }
                let end = end_of_log(store).await?;
                if position > end {
                    return Err(Error::CursorAhead { newest_cursor: cursor::encode(facts, workspace, end) });
                }
                Ok(position)
            }
        }
    }
}

/// The newest position. Retention may have emptied the log, so that its floor counts as well.
async fn end_of_log(store: &Store) -> Result<Position> {
    let end = outcome::end(store.read()).await?;
    Ok(end.max(Position(deployment::log_floor(store.read()).await?)))
}

/// A stream's reader.
struct Watcher {
    log: OutcomeLog,
    head: watch::Receiver<Position>,
    workspace: WorkspaceId,
    filter: OutcomeFilter,
    position: Position,
    queue: mpsc::Sender<Result<Message>>,
    expires: Instant,
}

/// Why a stream ends.
enum End {
    /// With a checkpoint: the server stops, or the stream is old.
    Checkpoint,
    /// The watcher has gone.
    Gone,
    /// With an error.
    Error(Error),
}

impl Watcher {
    async fn run(mut self, last: OwnedPermit<Result<Message>>) {
        let end = match self.pass_on().await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        match end {
            End::Checkpoint => drop(last.send(Ok(Message::Checkpoint(self.position)))),
            End::Error(error) => drop(last.send(Err(error))),
            End::Gone => {}
        }
    }

    /// Passes outcomes on until there is a reason to end.
    async fn pass_on(&mut self) -> Result<std::convert::Infallible, End> {
        let mut silent_since = Instant::now();
        loop {
            // Armed before the look, so that nothing is missed between the two.
            self.head.borrow_and_update();
            let (entries, covered) = self.next_entries().await?;
            for (position, outcome) in entries {
                if self.selects(&outcome) {
                    self.send(Message::Outcome(position, outcome)).await?;
                    silent_since = Instant::now();
                }
                self.position = position;
            }
            self.position = self.position.max(covered);
            if silent_since.elapsed() >= CHECKPOINT_EVERY {
                self.send(Message::Checkpoint(self.position)).await?;
                silent_since = Instant::now();
            }
            if self.is_behind() {
                continue;
            }
            self.wait(silent_since + CHECKPOINT_EVERY).await?;
        }
    }

    fn is_behind(&self) -> bool {
        self.position < *self.head.borrow()
    }

    /// Waits for news, the next checkpoint, or the end.
    async fn wait(&mut self, checkpoint: Instant) -> Result<(), End> {
        let stop = self.log.0.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(End::Checkpoint),
            () = self.queue.closed() => Err(End::Gone),
            () = tokio::time::sleep_until(self.expires) => Err(End::Checkpoint),
            _ = self.head.changed() => Ok(()),
            () = tokio::time::sleep_until(checkpoint) => Ok(()),
        }
    }

    /// The next entries of the workspace, and the position up to which there are no others.
    async fn next_entries(&self) -> Result<(Vec<Entry>, Position), End> {
        if self.log.0.stop.is_cancelled() || Instant::now() >= self.expires {
            return Err(End::Checkpoint);
        }
        let head = match self.log.0.ring.after(self.position, QUEUE) {
            Found::Entries(mut entries, covered) => {
                entries.retain(|(_, outcome)| outcome.workspace_id == self.workspace);
                return Ok((entries, covered));
            }
            Found::TooOld(head) => head,
        };
        // All up to `head` was committed before this query began.
        let store = &self.log.0.store;
        let page = outcome::after_in(store.read(), self.workspace, self.position, PAGE).await.map_err(End::Error)?;
        // Retention may have overtaken a watcher that is far behind; it raises the floor as it removes.
        let floor = Position(deployment::log_floor(store.read()).await.map_err(End::Error)?);
        if self.position < floor {
            let oldest_cursor = cursor::encode(store.facts(), self.workspace, floor);
            return Err(End::Error(Error::CursorExpired { oldest_cursor }));
        }
        let covered = match page.last() {
            Some((last, _)) if page.len() as u64 == PAGE => *last,
            Some((last, _)) => head.max(*last),
            None => head,
        };
        Ok((page.into_iter().map(|(position, outcome)| (position, Arc::new(outcome))).collect(), covered))
    }

    async fn send(&self, message: Message) -> Result<(), End> {
        let stop = &self.log.0.stop;
        tokio::select! {
            sent = tokio::time::timeout(STALL_LIMIT, self.queue.send(Ok(message))) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(End::Gone),
                Err(_) => {
                    let cursor = cursor::encode(self.log.0.store.facts(), self.workspace, self.position);
                    Err(End::Error(Error::SlowConsumer { cursor }))
                }
            },
            () = stop.cancelled() => Err(End::Checkpoint),
        }
    }

    fn selects(&self, outcome: &Outcome) -> bool {
        let filter = &self.filter;
        let delivery = outcome.delivery.as_ref();
        let is_contact = || delivery.is_some_and(|delivery| filter.contact_ids.contains(&delivery.contact_id));
        let is_tag =
            || delivery.is_some_and(|delivery| delivery.tag_ids.iter().any(|tag| filter.tag_ids.contains(tag)));
        (filter.webhook_ids.is_empty() || filter.webhook_ids.contains(&outcome.webhook_id))
            && (filter.contact_ids.is_empty() || is_contact())
            && (filter.kinds.is_empty() || filter.kinds.contains(&outcome.kind))
            && (filter.tag_ids.is_empty() || is_tag())
    }
}
