//! Group commit: what concurrent callers wish for in one transaction.

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Shared, run_each};
use crate::error::{Error, Result};
use crate::store::Store;
use crate::store::request::RequestKey;

/// The most wishes of one transaction: enough to share a commit, few enough to keep its locks short.
const MAX_BATCH: usize = 256;
/// The most wishes that wait for a transaction; further callers wait, within their deadline, to get in.
const MAX_QUEUE: usize = 4_096;

/// Commits what concurrent callers wish for. Cheap to clone.
#[derive(Debug)]
pub struct GroupCommit<W: Shared> {
    queue: mpsc::Sender<Wish<W>>,
}

impl<W: Shared> Clone for GroupCommit<W> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

/// What a caller waits for.
struct Wish<W: Shared> {
    wish: W,
    key: Option<RequestKey>,
    answer: oneshot::Sender<Result<W::Answer>>,
}

impl<W: Shared> GroupCommit<W> {
    /// The way in, and the work that is done behind it.
    #[must_use]
    pub fn new(store: Store) -> (Self, GroupCommitWork<W>) {
        let (queue, wishes) = mpsc::channel(MAX_QUEUE);
        (Self { queue }, GroupCommitWork { store, wishes })
    }

    /// Does what is wished for; durable when it returns. A key makes it repeatable. A caller that goes away before its turn
    /// has changed nothing.
    ///
    /// # Errors
    ///
    /// Those of the wish itself; [`Error::RequestIdReused`]; [`Error::ShuttingDown`]; the database's.
    pub async fn commit(&self, wish: W, key: Option<RequestKey>) -> Result<W::Answer> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(Wish { wish, key, answer }).await.map_err(|_| Error::ShuttingDown)?;
        answered.await.map_err(|_| Error::ShuttingDown)?
    }
}

/// The other side of a [`GroupCommit`].
pub struct GroupCommitWork<W: Shared> {
    store: Store,
    wishes: mpsc::Receiver<Wish<W>>,
}

impl<W: Shared> GroupCommitWork<W> {
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
                    batch.retain(|wish: &Wish<W>| !wish.answer.is_closed());
                    commit(&store, std::mem::take(&mut batch)).await;
                }
                () = stop.cancelled(), if !wishes.is_closed() => wishes.close(),
            }
        }
    }
}

/// Commits a batch and tells each caller what became of it.
async fn commit<W: Shared>(store: &Store, batch: Vec<Wish<W>>) {
    let wishes: Vec<_> = batch.iter().map(|wish| (&wish.wish, wish.key.as_ref())).collect();
    // Whoever has gone away, and might call again without a request id, gets nothing behind their back.
    let is_wanted = |index: usize| batch.get(index).is_some_and(|wish| !wish.answer.is_closed());
    let results = match run_each(store, &wishes, is_wanted).await {
        Ok(results) => results,
        Err(error) => wishes.iter().map(|_| Err(error.clone())).collect(),
    };
    for (wish, result) in batch.into_iter().zip(results) {
        // Whoever has gone away meanwhile finds the answer by its request id.
        let _ = wish.answer.send(result);
    }
}
