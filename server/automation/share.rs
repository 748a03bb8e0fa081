//! Wishes of several requests in shared transactions: together where they can be, apart where they must.

use std::collections::HashMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::error::{Error, Result, chain};
use crate::store::request::{self, RequestKey};
use crate::store::{Store, Tx};

/// About how many rows one transaction writes at most: its locks are held while it does, and on SQLite nobody else writes.
/// One assignment may go beyond.
const MAX_ROWS: usize = 2_048;
/// How often a transaction is run again whose commit is unknown, or that met the double of one of its requests.
const MAX_TRIES: u32 = 4;

/// What one transaction can do for many requests.
pub trait Shared: Clone + Send + Sync + 'static {
    /// What a request is answered with: the ids from which a repeated request gets the same answer.
    type Answer: Clone + Serialize + DeserializeOwned + Send + 'static;

    /// The name of the transactions, for logs.
    const NAME: &'static str;

    /// About how many rows it writes.
    fn rows(&self, store: &Store) -> usize;

    /// Does it for some in one transaction. Each has its own result: one that can't be done changes nothing and harms no
    /// other.
    ///
    /// # Errors
    ///
    /// The database's; then nothing was done.
    fn run(tx: &Tx, wishes: &[Self]) -> impl Future<Output = Result<Vec<Result<Self::Answer>>>> + Send;
}

/// What is wished for, and what a repetition of its request is known by.
type Wish<'a, W> = (&'a W, Option<&'a RequestKey>);

/// The results of wishes, in their order; `None` for those that are still to be run.
type Answers<A> = Vec<Option<Result<A>>>;

/// Does something for several requests in as few transactions as keep each of them short. If one fails as a whole, each of
/// its wishes that is still wanted is done alone, so that one doesn't harm its neighbours.
///
/// # Errors
///
/// [`Error::DatabaseUnavailable`] and [`Error::CommitUnknown`], if they hold for all of them.
pub async fn run_each<W: Shared>(
    store: &Store,
    wishes: &[Wish<'_, W>],
    is_wanted: impl Fn(usize) -> bool,
) -> Result<Vec<Result<W::Answer>>> {
    let mut answers: Answers<W::Answer> = wishes.iter().map(|_| None).collect();
    loop {
        drop_unwanted(&mut answers, &is_wanted);
        let chosen = next_batch(store, wishes, &answers);
        if chosen.is_empty() {
            break;
        }
        match run(store, wishes, &chosen, &mut answers).await {
            Ok(()) => {}
            // Alone they wouldn't fare better; and what may have been committed must not be done twice.
            Err(error @ (Error::DatabaseUnavailable(_) | Error::CommitUnknown(_))) => {
                if answers.iter().all(Option::is_none) {
                    return Err(error);
                }
                refuse_rest(&mut answers, &error);
            }
            Err(error) => {
                tracing::debug!(error = chain(&error), size = chosen.len(), "a batch failed, each alone");
                run_alone(store, wishes, &chosen, &mut answers, (error, &is_wanted)).await;
            }
        }
    }
    Ok(answers.into_iter().map(|answer| answer.unwrap_or(Err(Error::ShuttingDown))).collect())
}

/// Whoever has gone away, and might call again without a request id, gets nothing behind their back.
fn drop_unwanted<A>(answers: &mut Answers<A>, is_wanted: impl Fn(usize) -> bool) {
    for (index, answer) in answers.iter_mut().enumerate() {
        if answer.is_none() && !is_wanted(index) {
            *answer = Some(Err(Error::DeadlineExceeded));
        }
    }
}

fn refuse_rest<A>(answers: &mut Answers<A>, error: &Error) {
    for answer in answers.iter_mut().filter(|answer| answer.is_none()) {
        *answer = Some(Err(error.clone()));
    }
}

/// The next wishes that share a transaction.
fn next_batch<W: Shared>(store: &Store, wishes: &[Wish<'_, W>], answers: &Answers<W::Answer>) -> Vec<usize> {
    let open = wishes.iter().zip(answers).enumerate().filter(|(_, (_, answer))| answer.is_none());
    let (mut chosen, mut rows) = (Vec::new(), 0);
    for (index, ((wish, _), _)) in open {
        rows += wish.rows(store);
        if rows > MAX_ROWS && !chosen.is_empty() {
            break;
        }
        chosen.push(index);
    }
    chosen
}

/// Runs wishes each in a transaction of its own, after `failed`, the error that they had together.
async fn run_alone<W: Shared>(
    store: &Store,
    wishes: &[Wish<'_, W>],
    chosen: &[usize],
    answers: &mut Answers<W::Answer>,
    (failed, is_wanted): (Error, &impl Fn(usize) -> bool),
) {
    if let [only] = chosen {
        set(answers, *only, Err(failed));
        return;
    }
    for index in chosen.iter().copied() {
        if !is_wanted(index) {
            set(answers, index, Err(Error::DeadlineExceeded));
            continue;
        }
        match run(store, wishes, &[index], answers).await {
            Ok(()) => {}
            // It would be waited for by each of the others as well.
            Err(error @ Error::DatabaseUnavailable(_)) => return refuse_rest(answers, &error),
            Err(error) => set(answers, index, Err(error)),
        }
    }
}

fn set<A>(answers: &mut Answers<A>, index: usize, result: Result<A>) {
    if let Some(slot) = answers.get_mut(index) {
        *slot = Some(result);
    }
}

/// Commits the chosen wishes in one transaction, each with its own result. Repeated requests get the answer that was
/// given.
async fn run<W: Shared>(
    store: &Store,
    wishes: &[Wish<'_, W>],
    chosen: &[usize],
    answers: &mut Answers<W::Answer>,
) -> Result<()> {
    let batch: Vec<Wish<'_, W>> = chosen.iter().filter_map(|index| wishes.get(*index)).copied().collect();
    let batch = batch.as_slice();
    // Without request ids there is no proof of what an unknown commit did, and it can't be run again.
    let is_provable = batch.iter().all(|(_, key)| key.is_some());
    let mut tries = 1;
    let results = loop {
        match store.write(W::NAME, |tx| commit_once(tx, batch)).await {
            Err(Error::MetDouble) if tries < MAX_TRIES => tries += 1,
            Err(Error::CommitUnknown(_)) if is_provable && tries < MAX_TRIES => tries += 1,
            other => break other?,
        }
    };
    for (index, result) in chosen.iter().zip(results) {
        if let Some(result) = result {
            set(answers, *index, result);
        }
    }
    Ok(())
}

/// Answers with `None` for requests that must be run again: the first one with their id had another body, and failed.
async fn commit_once<W: Shared>(tx: Tx, batch: &[Wish<'_, W>]) -> Result<Answers<W::Answer>> {
    let keys: Vec<&RequestKey> = batch.iter().filter_map(|(_, key)| *key).collect();
    let known = request::find(tx.db(), &keys, tx.now()).await?;
    let known: HashMap<&RequestKey, _> =
        keys.iter().copied().zip(known).filter_map(|(key, known)| Some((key, known?))).collect();
    let is_new = |key: Option<&RequestKey>| key.is_none_or(|key| !known.contains_key(key));
    let owners = Owners::of(batch, is_new);

    let owned = owners.indexes.iter().filter_map(|index| batch.get(*index)).map(|(wish, _)| (*wish).clone());
    let results = W::run(&tx, &owned.collect::<Vec<_>>()).await?;
    let results: HashMap<usize, Result<W::Answer>> = owners.indexes.iter().copied().zip(results).collect();
    remember(&tx, batch, &results).await?;
    let answer = |index: usize, key: Option<&RequestKey>| match key.and_then(|key| Some((key, known.get(key)?))) {
        Some((key, remembered)) => {
            Some(key.answer_of(remembered).and_then(|ids| serde_json::from_str(&ids).map_err(Error::internal)))
        }
        None => owners.answer_to_double(index, key, batch, &results),
    };
    let mut answers: Answers<W::Answer> =
        batch.iter().enumerate().map(|(index, (_, key))| answer(index, *key)).collect();
    for (index, result) in results {
        set(&mut answers, index, result);
    }
    Ok(answers)
}

/// Those of a batch that are run: the first of each request id, and all without one.
struct Owners<'a> {
    indexes: Vec<usize>,
    by_id: HashMap<(&'a str, &'a str, Uuid), usize>,
}

impl<'a> Owners<'a> {
    fn of<W>(batch: &[Wish<'a, W>], is_new: impl Fn(Option<&RequestKey>) -> bool) -> Self {
        let mut owners = Self { indexes: Vec::new(), by_id: HashMap::new() };
        for (index, (_, key)) in batch.iter().enumerate() {
            let owner = key.map_or(index, |key| *owners.by_id.entry(id_of(key)).or_insert(index));
            if owner == index && is_new(*key) {
                owners.indexes.push(index);
            }
        }
        owners
    }

    /// The answer to a double of a request in the same batch; `None` for the first one itself, and for one that isn't
    /// refused after all: failures aren't remembered.
    fn answer_to_double<W: Shared>(
        &self,
        index: usize,
        key: Option<&RequestKey>,
        batch: &[Wish<'_, W>],
        results: &HashMap<usize, Result<W::Answer>>,
    ) -> Option<Result<W::Answer>> {
        let key = key?;
        let owner = self.by_id.get(&id_of(key)).copied().filter(|owner| *owner != index)?;
        let is_same = batch.get(owner).is_some_and(|(_, first)| *first == Some(key));
        match results.get(&owner)? {
            Ok(answer) if is_same => Some(Ok(answer.clone())),
            Ok(_) => Some(Err(Error::RequestIdReused)),
            Err(error) if is_same => Some(Err(error.clone())),
            Err(_) => None,
        }
    }
}

/// What must be unique of a request.
fn id_of(key: &RequestKey) -> (&str, &str, Uuid) {
    (key.method, key.request_id.as_str(), key.workspace)
}

async fn remember<W: Shared>(
    tx: &Tx,
    batch: &[Wish<'_, W>],
    results: &HashMap<usize, Result<W::Answer>>,
) -> Result<()> {
    let mut answers = Vec::new();
    for (index, (_, key)) in batch.iter().enumerate() {
        // Failures aren't remembered: the same request may succeed later.
        if let (Some(key), Some(Ok(ids))) = (key, results.get(&index)) {
            answers.push((*key, serde_json::to_string(ids).map_err(Error::internal)?));
        }
    }
    request::remember(tx, &answers).await
}
