//! Callers that don't give up: each call has a request id and is repeated until it is answered, and what the failed tries
//! were answered with is written down.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use taghook_client::contact::by_email;
use taghook_client::v1::{ErrorReason, TagContactRequest};
use taghook_client::{Client, Error};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, interval_at};
use tonic::Code;

use crate::Failure;

/// How many callers there are, each with one call at a time.
const CALLERS: usize = 32;
/// How soon an impatient caller is back; the shortest wait of a careful one.
const PAUSE: Duration = Duration::from_millis(20);
/// How often what is awaited of the load is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What is called, and how.
pub(crate) struct Calls {
    /// A client of each server.
    pub(crate) clients: Vec<Client>,
    /// What contacts are tagged with.
    pub(crate) tag_id: String,
    /// How many contacts there are.
    pub(crate) contacts: usize,
    /// Whether a caller waits for as long as the error asks it to.
    pub(crate) is_careful: bool,
    /// For how long a call is repeated.
    pub(crate) patience: Duration,
}

/// The load: each contact is tagged once.
pub(crate) struct Load {
    /// Each replaced when its server is.
    clients: Mutex<Vec<Client>>,
    calls: Calls,
    next: AtomicUsize,
    /// How many calls each server has answered.
    answered: Vec<AtomicUsize>,
    /// What the failed tries were answered with, and how many were.
    failed: Mutex<HashMap<Refusal, usize>>,
    is_over: AtomicBool,
}

/// What a failed try was answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    /// `Unspecified` if there was no server that answered.
    pub(crate) reason: ErrorReason,
    /// Whether the caller was told when to come back.
    pub(crate) has_advice: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = if self.has_advice { "with" } else { "without" };
        write!(f, "{:?} {:?} {advice} RetryInfo", self.code, self.reason)
    }
}

/// The callers at work, until they are told to end.
pub(crate) struct Callers(JoinSet<Result<usize, Failure>>);

impl Callers {
    /// Ends them; answers with how many contacts were tagged.
    pub(crate) async fn end(self, load: &Load) -> Result<usize, Failure> {
        load.is_over.store(true, Ordering::Relaxed);
        Ok(self.0.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().sum())
    }
}

impl Load {
    /// Lets the callers begin.
    pub(crate) fn start(mut calls: Calls) -> (Arc<Self>, Callers) {
        let clients = std::mem::take(&mut calls.clients);
        let load = Arc::new(Self {
            answered: clients.iter().map(|_| AtomicUsize::new(0)).collect(),
            clients: Mutex::new(clients),
            calls,
            next: AtomicUsize::new(0),
            failed: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let callers = (0..CALLERS).map(|caller| Arc::clone(&load).call(caller)).collect();
        (load, Callers(callers))
    }

    /// Gives the callers a new client of a server.
    pub(crate) fn replace(&self, server: usize, client: Client) {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)[server] = client;
    }

    /// How many contacts were taken so far.
    pub(crate) fn taken(&self) -> usize {
        self.next.load(Ordering::Relaxed)
    }

    /// How many tries had no answer, or an error.
    pub(crate) fn failed(&self) -> usize {
        self.refusals().into_values().sum()
    }

    /// What they were answered with.
    pub(crate) fn refusals(&self) -> HashMap<Refusal, usize> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns when so many more tries have failed: the harm has come through.
    pub(crate) async fn fails(&self, tries: usize, patience: Duration) -> Result<(), Failure> {
        let before = self.failed();
        until(patience, "the calls don't notice the harm", || self.failed() >= before + tries).await
    }

    /// Returns when each server has answered another call.
    pub(crate) async fn all_answer(&self, patience: Duration) -> Result<(), Failure> {
        let answered = || self.answered.iter().map(|count| count.load(Ordering::Relaxed));
        let before: Vec<usize> = answered().collect();
        let has_answered = || answered().zip(&before).all(|(now, before)| now > *before);
        until(patience, "a server doesn't answer any more", has_answered).await
    }

    /// Tags one contact after the other; answers with how many.
    async fn call(self: Arc<Self>, caller: usize) -> Result<usize, Failure> {
        let mut count = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            let contact = self.next.fetch_add(1, Ordering::Relaxed);
            if contact >= self.calls.contacts {
                return Err("all contacts are tagged: there must be more of them for each second of load".into());
            }
            self.tag(caller, contact).await?;
            count += 1;
        }
        Ok(count)
    }

    async fn tag(&self, caller: usize, contact: usize) -> Result<(), Failure> {
        let request = TagContactRequest {
            contact: by_email(format!("bench-{contact}@example.com")),
            tag_ids: vec![self.calls.tag_id.clone()],
            request_id: format!("crash-{contact}"),
            ..Default::default()
        };
        let give_up = Instant::now() + self.calls.patience;
        for turn in caller.. {
            let (server, client) = self.client(turn);
            let error = match client.contacts().tag_contact(request.clone()).await {
                Ok(_) => {
                    self.answered[server].fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(status) => Error::from(status),
            };
            self.note(&error);
            if Instant::now() >= give_up {
                return Err(error.into());
            }
            // Whether it was carried out isn't known; the request id makes the next call the same one.
            let advice = error.retry_after.filter(|_| self.calls.is_careful);
            let pause = advice.unwrap_or(PAUSE).max(PAUSE);
            interval_at(Instant::now() + pause, pause).tick().await;
        }
        Ok(())
    }

    /// The client of whose turn it is, and the number of its server.
    fn client(&self, turn: usize) -> (usize, Client) {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let server = turn % clients.len();
        (server, clients[server].clone())
    }

    fn note(&self, error: &Error) {
        let refusal = Refusal { code: error.code, reason: error.reason, has_advice: error.retry_after.is_some() };
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner).entry(refusal).or_default() += 1;
    }
}

/// Returns when something is so; fails with `otherwise` if that takes too long.
async fn until(patience: Duration, otherwise: &str, is_so: impl Fn() -> bool) -> Result<(), Failure> {
    let (end, mut looks) = (Instant::now() + patience, interval(LOOK_EVERY));
    while !is_so() {
        if Instant::now() >= end {
            return Err(otherwise.into());
        }
        looks.tick().await;
    }
    Ok(())
}
