//! Group commit: the assignments of concurrent callers in one transaction.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Assigned, Assignment, assign};
use crate::error::{Error, Result};
use crate::store::request::{self, RequestKey};
use crate::store::{Store, Tx};

/// The most assignments of one transaction: enough to share a commit, few enough to keep its locks short.
const MAX_BATCH: usize = 256;
/// The most assignments that wait for a transaction; further callers wait, within their deadline, to get in.
const MAX_QUEUE: usize = 4_096;
/// How often a batch is run again whose commit is unknown, or that met the double of one of its requests.
const MAX_TRIES: u32 = 4;

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
        Err(error) => wishes.iter().map(|_| Err(repeated(&error))).collect(),
    };
    for (wish, result) in batch.into_iter().zip(results) {
        // Whoever has gone away meanwhile finds the answer by its request id.
        let _ = wish.answer.send(result);
    }
}

/// Assigns tags for several requests in one transaction; if it fails as a whole, each alone that is still wanted, so that
/// one doesn't harm its neighbours.
///
/// # Errors
///
/// [`Error::DatabaseUnavailable`] and [`Error::CommitUnknown`], which hold for all of them.
pub async fn assign_each(
    store: &Store,
    wishes: &[(&Assignment, Option<&RequestKey>)],
    is_wanted: impl Fn(usize) -> bool,
) -> Result<Vec<Result<Assigned>>> {
    if wishes.is_empty() {
        return Ok(Vec::new());
    }
    match commit_together(store, wishes).await {
        // Alone it wouldn't fare better; and what may have been committed must not be done twice.
        Err(error @ (Error::DatabaseUnavailable(_) | Error::CommitUnknown(_))) => Err(error),
        Err(error) if wishes.len() == 1 => Ok(vec![Err(error)]),
        Err(error) => {
            tracing::debug!(error = crate::error::chain(&error), size = wishes.len(), "a batch failed, each alone");
            let mut results = Vec::with_capacity(wishes.len());
            for (index, wish) in wishes.iter().enumerate() {
                if !is_wanted(index) {
                    results.push(Err(Error::DeadlineExceeded));
                    continue;
                }
                let alone = commit_together(store, std::slice::from_ref(wish)).await;
                results.push(alone.and_then(|mut results| results.pop().unwrap_or(Err(Error::ShuttingDown))));
            }
            Ok(results)
        }
        results => results,
    }
}

/// An error that several callers are told.
fn repeated(error: &Error) -> Error {
    match error {
        Error::DatabaseUnavailable(source) => Error::DatabaseUnavailable(source.clone()),
        Error::CommitUnknown(source) => Error::CommitUnknown(source.clone()),
        other => Error::internal(other.to_string()),
    }
}

/// Commits assignments in one transaction, each with its own result. Repeated requests get the answer that was given.
async fn commit_together(
    store: &Store,
    wishes: &[(&Assignment, Option<&RequestKey>)],
) -> Result<Vec<Result<Assigned>>> {
    // Without request ids there is no proof of what an unknown commit did, and it can't be run again.
    let is_provable = wishes.iter().all(|(_, key)| key.is_some());
    let mut tries = 1;
    loop {
        match store.write("assign", |tx| commit_once(tx, wishes)).await {
            Err(Error::MetDouble) if tries < MAX_TRIES => tries += 1,
            Err(Error::CommitUnknown(_)) if is_provable && tries < MAX_TRIES => tries += 1,
            other => return other,
        }
    }
}

async fn commit_once(tx: Tx, wishes: &[(&Assignment, Option<&RequestKey>)]) -> Result<Vec<Result<Assigned>>> {
    let keys: Vec<&RequestKey> = wishes.iter().filter_map(|(_, key)| *key).collect();
    let known = request::find(tx.db(), &keys, tx.now()).await?;
    let known: HashMap<&RequestKey, _> =
        keys.iter().copied().zip(known).filter_map(|(key, known)| Some((key, known?))).collect();

    // The first of each request id is run; its doubles in the batch get its answer.
    let mut first: HashMap<(&str, &str, uuid::Uuid), usize> = HashMap::new();
    let mut fresh: Vec<usize> = Vec::new();
    for (index, (_, key)) in wishes.iter().enumerate() {
        let is_fresh = key.is_none_or(|key| {
            let scope = (key.method, key.request_id.as_str(), key.workspace);
            !known.contains_key(key) && *first.entry(scope).or_insert(index) == index
        });
        if is_fresh {
            fresh.push(index);
        }
    }
    let assignments: Vec<Assignment> =
        fresh.iter().filter_map(|index| wishes.get(*index)).map(|(wish, _)| (*wish).clone()).collect();
    let results: HashMap<usize, Result<Arc<Assigned>>> = fresh
        .into_iter()
        .zip(assign(&tx, &assignments).await?.into_iter().map(|result| result.map(Arc::new)))
        .collect();
    remember(&tx, wishes, &results).await?;
    let mut results = results;
    let mut answers = Vec::with_capacity(wishes.len());
    for (index, (_, key)) in wishes.iter().enumerate() {
        let answer = match key.and_then(|key| Some((key, known.get(key)?))) {
            Some((key, remembered)) => {
                key.answer_of(remembered).and_then(|ids| serde_json::from_str(&ids).map_err(Error::internal))
            }
            None => own_or_doubled(index, *key, wishes, &first, &mut results),
        };
        answers.push(answer);
    }
    Ok(answers)
}

async fn remember(
    tx: &Tx,
    wishes: &[(&Assignment, Option<&RequestKey>)],
    results: &HashMap<usize, Result<Arc<Assigned>>>,
) -> Result<()> {
    let mut answers = Vec::new();
    for (index, (_, key)) in wishes.iter().enumerate() {
        // Failures aren't remembered: the same request may succeed later.
        if let (Some(key), Some(Ok(assigned))) = (key, results.get(&index)) {
            answers.push((*key, serde_json::to_string(assigned.as_ref()).map_err(Error::internal)?));
        }
    }
    request::remember(tx, &answers).await
}

/// The result of a wish that was run, or of the one whose double it is.
fn own_or_doubled(
    index: usize,
    key: Option<&RequestKey>,
    wishes: &[(&Assignment, Option<&RequestKey>)],
    first: &HashMap<(&str, &str, uuid::Uuid), usize>,
    results: &mut HashMap<usize, Result<Arc<Assigned>>>,
) -> Result<Assigned> {
    let owner =
        key.and_then(|key| first.get(&(key.method, key.request_id.as_str(), key.workspace))).copied().unwrap_or(index);
    if owner != index {
        let same_body = wishes.get(owner).and_then(|(_, first)| *first) == key;
        if !same_body {
            return Err(Error::RequestIdReused);
        }
        return match results.get(&owner) {
            Some(Ok(assigned)) => Ok(assigned.as_ref().clone()),
            // The first one failed for a reason that holds for its double; which one is told to its own caller.
            _ => Err(Error::MetDouble),
        };
    }
    match results.get_mut(&index) {
        Some(Ok(assigned)) => Ok(assigned.as_ref().clone()),
        Some(failed) => std::mem::replace(failed, Err(Error::MetDouble)).map(|assigned| assigned.as_ref().clone()),
        None => Err(Error::internal("an assignment got no result")),
    }
}
