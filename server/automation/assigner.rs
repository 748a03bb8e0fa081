//! Group commit: the assignments of concurrent callers in one transaction.

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Assigned, Assignment, assign_each};
use crate::error::{Error, Result};
use crate::store::Store;
use crate::store::request::RequestKey;

/// The most assignments of one transaction: enough to share a commit, few enough to keep its locks short.
const MAX_BATCH: usize = 256;
/// The most assignments that wait for a transaction; further callers wait, within their deadline, to get in.
const MAX_QUEUE: usize = 4_096;

/// Assigns tags for concurrent callers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Assigner {
    queue: mpsc::Sender<Wish>,
}

/// An assignment that a caller waits for.
struct Wish {
    assignment: Assignment,
    key: Option<RequestKey>,
    answer: oneshot::Sender<Result<Assigned>>,
}

impl Assigner {
    /// The assigner, and the work that is done for it.
    #[must_use]
    pub fn new(store: Store) -> (Self, AssignerWork) {
        let (queue, wishes) = mpsc::channel(MAX_QUEUE);
        (Self { queue }, AssignerWork { store, wishes })
    }

    /// Assigns tags; durable when it returns. A key makes it repeatable. A caller that goes away before its turn has
    /// changed nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for the contact or a tag; [`Error::RequestIdReused`]; [`Error::ShuttingDown`]; the database's.
    pub async fn assign(&self, assignment: Assignment, key: Option<RequestKey>) -> Result<Assigned> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(Wish { assignment, key, answer }).await.map_err(|_| Error::ShuttingDown)?;
        answered.await.map_err(|_| Error::ShuttingDown)?
    }
}

/// The other side of an [`Assigner`].
pub struct AssignerWork {
    store: Store,
    wishes: mpsc::Receiver<Wish>,
}

impl AssignerWork {
    /// Commits what callers wish for, until `stop`; what has been queued then is still answered.
    pub async fn run(self, stop: CancellationToken) {
        let Self { store, mut wishes } = self;
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            tokio::select! {
                biased;
                taken = wishes.recv_many(&mut batch, MAX_BATCH) => {
                    if taken == 0 {
                        // Nobody can wish any more, which is no reason to end before the time.
                        return stop.cancelled().await;
                    }
                    batch.retain(|wish: &Wish| !wish.answer.is_closed());
                    commit(&store, std::mem::take(&mut batch)).await;
                }
                () = stop.cancelled(), if !wishes.is_closed() => wishes.close(),
            }
        }
    }
}

/// Commits a batch and tells each caller what became of it.
async fn commit(store: &Store, batch: Vec<Wish>) {
    let wishes: Vec<_> = batch.iter().map(|wish| (&wish.assignment, wish.key.as_ref())).collect();
    // Whoever has gone away, and might call again without a request id, gets nothing behind their back.
    let is_wanted = |index: usize| batch.get(index).is_some_and(|wish| !wish.answer.is_closed());
    let results = match assign_each(store, &wishes, is_wanted).await {
        Ok(results) => results,
        Err(error) => wishes.iter().map(|_| Err(error.repeated())).collect(),
    };
    for (wish, result) in batch.into_iter().zip(results) {
        // Whoever has gone away meanwhile finds the answer by its request id.
        let _ = wish.answer.send(result);
    }
}
