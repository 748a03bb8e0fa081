//! What a click does: the tag, the event and the count, in one transaction that concurrent clicks share.
//!
//! Group commit without a timer, as for assignments: a batch is what queued while the last one was committed. A person
//! is led on when it is durable. Whoever goes away before has clicked nothing.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::automation::{Assignment, Happening, Origin, assign, record};
use crate::domain::smart_link::{Clicks, Day, SmartLink};
use crate::domain::tag::TagKind;
use crate::error::{Error, Result, chain};
use crate::ids::{ContactId, SmartLinkId, WorkspaceId};
use crate::store::contact::ContactRef;
use crate::store::{self, Store, Tx};

/// The event of a click.
const LINK_CLICKED: &str = "link.clicked";
/// The most clicks of one transaction: enough to share a commit, few enough to keep its locks short.
const MAX_BATCH: usize = 128;
/// The most clicks that wait for a transaction; further ones wait, within their deadline, to get in.
const MAX_QUEUE: usize = 4_096;

/// Who clicks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visitor {
    /// A contact, on its own URL.
    Contact(ContactId),
    /// Somebody, on the short URL.
    Anonymous,
    /// A program.
    Machine,
}

impl Visitor {
    /// For logs: without whom.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Contact(_) => "contact",
            Self::Anonymous => "anonymous",
            Self::Machine => "machine",
        }
    }

    const fn count(self) -> Clicks {
        let (contacts, anonymous, machines) = match self {
            Self::Contact(_) => (1, 0, 0),
            Self::Anonymous => (0, 1, 0),
            Self::Machine => (0, 0, 1),
        };
        Clicks { contacts, anonymous, machines }
    }
}

/// A click.
#[derive(Clone, Debug)]
pub(super) struct Click {
    pub(super) workspace_id: WorkspaceId,
    pub(super) link: SmartLink,
    pub(super) visitor: Visitor,
}

/// Commits clicks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clicker {
    queue: mpsc::Sender<Wish>,
}

/// A click that somebody waits for.
#[derive(Debug)]
struct Wish {
    click: Click,
    answer: oneshot::Sender<Result<()>>,
}

impl Clicker {
    /// The clicker, and the work that is done for it.
    #[must_use]
    pub fn new(store: Store) -> (Self, ClickerWork) {
        let (queue, wishes) = mpsc::channel(MAX_QUEUE);
        (Self { queue }, ClickerWork { store, wishes })
    }

    /// Does what a click does; durable when it returns.
    pub(super) async fn click(&self, click: Click) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(Wish { click, answer }).await.map_err(|_| Error::ShuttingDown)?;
        answered.await.map_err(|_| Error::ShuttingDown)?
    }
}

/// The other side of a [`Clicker`].
pub struct ClickerWork {
    store: Store,
    wishes: mpsc::Receiver<Wish>,
}

impl ClickerWork {
    /// Commits clicks until `stop`; what has been queued then is still answered.
    pub async fn run(self, stop: CancellationToken) {
        let Self { store, mut wishes } = self;
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            tokio::select! {
                biased;
                taken = wishes.recv_many(&mut batch, MAX_BATCH) => {
                    if taken == 0 {
                        // Nobody can click any more, which is no reason to end before the time.
                        return stop.cancelled().await;
                    }
                    commit(&store, std::mem::take(&mut batch)).await;
                }
                () = stop.cancelled(), if !wishes.is_closed() => wishes.close(),
            }
        }
    }
}

/// Commits a batch and tells each what became of it. If it fails as a whole, each is committed alone, so that one doesn't
/// harm its neighbours.
async fn commit(store: &Store, mut batch: Vec<Wish>) {
    batch.retain(|wish| !wish.answer.is_closed());
    let clicks: Vec<Click> = batch.iter().map(|wish| wish.click.clone()).collect();
    match write(store, &clicks).await {
        Ok(results) => {
            for (wish, result) in batch.into_iter().zip(results) {
                // Whoever has gone away meanwhile has clicked nevertheless.
                let _ = wish.answer.send(result);
            }
        }
        // Alone they wouldn't fare better; and what may have been committed must not be done twice.
        Err(error @ (Error::DatabaseUnavailable(_) | Error::CommitUnknown(_))) => refuse(batch, &error),
        Err(error) if batch.len() == 1 => refuse(batch, &error),
        Err(error) => {
            tracing::debug!(error = chain(&error), size = batch.len(), "a batch of clicks failed, each alone");
            for wish in batch {
                Box::pin(commit(store, vec![wish])).await;
            }
        }
    }
}

fn refuse(batch: Vec<Wish>, error: &Error) {
    for wish in batch {
        let _ = wish.answer.send(Err(error.repeated()));
    }
}

async fn write(store: &Store, clicks: &[Click]) -> Result<Vec<Result<()>>> {
    if clicks.is_empty() {
        return Ok(Vec::new());
    }
    store.write("click", |tx| async move { click_all(&tx, clicks).await }).await
}

/// Assigns, records and counts. A click of a contact or on a link that has been deleted meanwhile has its own error, and
/// does nothing.
async fn click_all(tx: &Tx, clicks: &[Click]) -> Result<Vec<Result<()>>> {
    tx.gate_shared().await?;
    let by_contacts: Vec<(usize, &Click, ContactId)> = clicks
        .iter()
        .enumerate()
        .filter_map(|(index, click)| match click.visitor {
            Visitor::Contact(contact) => Some((index, click, contact)),
            Visitor::Anonymous | Visitor::Machine => None,
        })
        .collect();
    let assignments: Vec<Assignment> =
        by_contacts.iter().map(|(_, click, contact)| assignment(click, *contact)).collect();
    let assigned = assign(tx, &assignments).await?;

    let mut results: Vec<Result<()>> = clicks.iter().map(|_| Ok(())).collect();
    let mut happenings = Vec::with_capacity(by_contacts.len());
    for ((index, click, contact), assigned) in by_contacts.into_iter().zip(assigned) {
        match assigned {
            Ok(_) => happenings.push(happening(tx, click, contact)),
            Err(error) => {
                if let Some(result) = results.get_mut(index) {
                    *result = Err(error);
                }
            }
        }
    }
    record(tx, &happenings).await?;

    let mut counts: BTreeMap<SmartLinkId, Clicks> = BTreeMap::new();
    for (click, _) in clicks.iter().zip(&results).filter(|(_, result)| result.is_ok()) {
        *counts.entry(click.link.id).or_default() += click.visitor.count();
    }
    store::smart_link::count(tx, Day::of(tx.now()), &counts).await?;
    Ok(results)
}

fn assignment(click: &Click, contact: ContactId) -> Assignment {
    Assignment {
        workspace_id: click.workspace_id,
        contact: ContactRef::Id(contact),
        tag_ids: vec![click.link.tag_id],
        kind: TagKind::SmartLink,
        origin: Origin::default(),
    }
}

fn happening(tx: &Tx, click: &Click, contact: ContactId) -> Happening {
    let attributes = serde_json::json!({ "smart_link_id": click.link.id.to_string(), "name": click.link.name });
    Happening::now(tx, (click.workspace_id, contact), LINK_CLICKED, attributes, Origin::default())
}
