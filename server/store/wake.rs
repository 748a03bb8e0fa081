//! Wake-ups: hints that something was committed. They carry no data and may come too often or, between servers, not at
//! all; whoever waits polls now and then as well.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::open;
use crate::ids::ContactId;

/// The channel of PostgreSQL's NOTIFY.
const CHANNEL: &str = "taghook";
/// Payload: there are new outcomes.
const OUTCOMES: char = 'o';
/// Payload: there is work that isn't leased.
const DISPATCH: char = 'd';
/// Payload, after the others: the contacts that were erased, by their ids, or any.
const BEFORE_ERASED: char = ';';
const ANY: &str = "*";
/// The most ids of a payload, which may have 8,000 bytes.
const MAX_ERASED: usize = 200;
/// The most ids that are kept until somebody takes them.
const MAX_KEPT: usize = 10_000;
/// How long to wait before the listener connects again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// How long the listener hears nothing before it asks whether the database is there.
const PROBE_EVERY: Duration = Duration::from_secs(30);
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The wake-ups of one server.
#[derive(Debug, Default)]
pub struct Wakes {
    outcomes: watch::Sender<u64>,
    dispatch: watch::Sender<u64>,
    leftovers: watch::Sender<u64>,
    enrollments: watch::Sender<u64>,
    erasures: Mutex<Erasures>,
}

/// Contacts whose outcomes in memory must be erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Erasures {
    /// Those of these.
    Of(Vec<ContactId>),
    /// Those of any: some of them may not have been heard.
    Any,
}

impl Erasures {
    /// Adds contacts. Nobody may take them for long; of too many, all that is in memory is forgotten instead.
    fn add(&mut self, contacts: &[ContactId]) {
        let Self::Of(erased) = self else { return };
        erased.extend_from_slice(contacts);
        if erased.len() > MAX_KEPT {
            *self = Self::Any;
        }
    }
}

impl Default for Erasures {
    fn default() -> Self {
        Self::Of(Vec::new())
    }
}

impl Wakes {
    /// Says that there are new outcomes.
    pub fn outcomes(&self) {
        self.outcomes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Says that there is work that isn't leased.
    pub fn dispatch(&self) {
        self.dispatch.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Says that a change has left something to be done. Other servers aren't told.
    pub(super) fn leftovers(&self) {
        self.leftovers.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Says that ways through campaigns have begun or go on. Other servers aren't told.
    pub(super) fn enrollments(&self) {
        self.enrollments.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Says that contacts were erased, to whoever has outcomes in memory.
    pub(super) fn erase(&self, contacts: &[ContactId]) {
        if contacts.is_empty() {
            return;
        }
        self.lock_erasures().add(contacts);
        self.outcomes();
    }

    /// What is to be erased since the last time. To be asked after outcomes were read into memory, by the one who does.
    #[must_use]
    pub fn take_erasures(&self) -> Erasures {
        std::mem::take(&mut *self.lock_erasures())
    }

    fn lock_erasures(&self) -> MutexGuard<'_, Erasures> {
        self.erasures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Armed from now on: what is said before the next `changed()` isn't missed.
    #[must_use]
    pub fn watch_leftovers(&self) -> watch::Receiver<u64> {
        self.leftovers.subscribe()
    }

    /// Armed from now on: what is said before the next `changed()` isn't missed.
    #[must_use]
    pub fn watch_enrollments(&self) -> watch::Receiver<u64> {
        self.enrollments.subscribe()
    }

    /// Armed from now on: what is said before the next `changed()` isn't missed.
    #[must_use]
    pub fn watch_outcomes(&self) -> watch::Receiver<u64> {
        self.outcomes.subscribe()
    }

    /// Armed from now on: what is said before the next `changed()` isn't missed.
    #[must_use]
    pub fn watch_dispatch(&self) -> watch::Receiver<u64> {
        self.dispatch.subscribe()
    }

    fn take(&self, payload: &str) {
        let (what, erased) = payload.split_once(BEFORE_ERASED).unwrap_or((payload, ""));
        match erased {
            "" => {}
            ANY => {
                *self.lock_erasures() = Erasures::Any;
                self.outcomes();
            }
            ids => self.erase(&ids.split(',').filter_map(|id| id.parse().ok()).map(ContactId).collect::<Vec<_>>()),
        }
        if what.contains(OUTCOMES) {
            self.outcomes();
        }
        if what.contains(DISPATCH) {
            self.dispatch();
        }
    }

    /// What was said while nobody listened can't be known.
    fn take_all(&self) {
        self.take(&format!("{OUTCOMES}{DISPATCH}{BEFORE_ERASED}{ANY}"));
    }
}

/// Tells the other servers, with the commit of this transaction. One NOTIFY for each commit: it takes a lock that all
/// databases of the cluster share.
pub(super) async fn notify_servers(
    db: &impl ConnectionTrait,
    outcomes: bool,
    dispatch: bool,
    erased: &[ContactId],
) -> Result<(), DbErr> {
    let payload = payload(outcomes, dispatch, erased);
    if payload.is_empty() || db.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    let sql = "SELECT pg_notify($1, $2)";
    let values = [CHANNEL.into(), payload.into()];
    db.execute_raw(Statement::from_sql_and_values(DbBackend::Postgres, sql, values)).await?;
    Ok(())
}

fn payload(outcomes: bool, dispatch: bool, erased: &[ContactId]) -> String {
    let said = [(outcomes, OUTCOMES), (dispatch, DISPATCH)].into_iter().filter_map(|(say, what)| say.then_some(what));
    let mut payload: String = said.collect();
    if !erased.is_empty() {
        let ids = || erased.iter().map(|contact| contact.0.simple().to_string()).collect::<Vec<_>>().join(",");
        payload.push(BEFORE_ERASED);
        payload.push_str(&if erased.len() <= MAX_ERASED { ids() } else { ANY.to_owned() });
    }
    payload
}

impl super::Store {
    /// Passes the other servers' wake-ups on until `stop`. Returns at once for SQLite, which has one server.
    pub async fn listen(&self, url: &str, stop: CancellationToken) {
        if self.is_sqlite() {
            return;
        }
        while !stop.is_cancelled() {
            let pause = tokio::select! {
                () = stop.cancelled() => return,
                result = self.listen_once(url) => result,
            };
            if let Err(error) = pause {
                tracing::debug!(error = crate::error::chain(&error), "the listener lost the database");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RECONNECT_PAUSE) => {}
            }
        }
    }

    /// Listens until the connection breaks.
    async fn listen_once(&self, url: &str) -> Result<(), sqlx::Error> {
        let options = open::session(url.parse()?);
        let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        // What was said while nobody listened.
        self.0.wakes.take_all();
        loop {
            match timeout(PROBE_EVERY, listener.try_recv()).await {
                Ok(Ok(Some(notification))) => self.0.wakes.take(notification.payload()),
                Ok(ended) => return ended.map(|_| ()),
                // A host that vanishes doesn't close its connections: silence may mean that nobody is there any more.
                Err(_) => probe(&mut listener).await?,
            }
        }
    }
}

/// Fails if the other side doesn't answer in time.
async fn probe(listener: &mut PgListener) -> Result<(), sqlx::Error> {
    let answered = timeout(PROBE_TIMEOUT, sqlx::query("SELECT 1").execute(listener)).await;
    answered.map_err(|_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))?.map(|_| ())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[track_caller]
    fn check(outcomes: bool, dispatch: bool, erased: &[ContactId], expected: &Erasures) {
        let wakes = Wakes::default();
        let (mut seen_outcomes, mut seen_dispatch) = (wakes.watch_outcomes(), wakes.watch_dispatch());
        wakes.take(&payload(outcomes, dispatch, erased));
        assert_eq!(seen_outcomes.has_changed().unwrap(), outcomes || !erased.is_empty());
        assert_eq!(seen_dispatch.has_changed().unwrap(), dispatch);
        assert_eq!(wakes.take_erasures(), *expected);
        seen_outcomes.mark_unchanged();
        seen_dispatch.mark_unchanged();
        assert_eq!(wakes.take_erasures(), Erasures::default());
    }

    #[test]
    fn what_one_server_says_another_one_hears() {
        // The letters of the other wake-ups are digits of ids.
        let contact = ContactId(Uuid::from_u128(0xdddd_0000_dddd));
        for (outcomes, dispatch) in [(true, false), (false, true), (true, true), (false, false)] {
            check(outcomes, dispatch, &[], &Erasures::default());
            check(outcomes, dispatch, &[contact; 2], &Erasures::Of(vec![contact; 2]));
            check(outcomes, dispatch, &vec![contact; MAX_ERASED + 1], &Erasures::Any);
        }
        assert!(payload(true, true, &vec![contact; MAX_ERASED]).len() < 8_000);
    }

    #[test]
    fn erasures_that_nobody_takes_have_an_end() {
        let (wakes, contact) = (Wakes::default(), ContactId(Uuid::nil()));
        wakes.erase(&vec![contact; MAX_KEPT]);
        wakes.erase(&[contact]);
        assert_eq!(wakes.take_erasures(), Erasures::Any);
        assert_eq!(wakes.take_erasures(), Erasures::default());
    }
}
