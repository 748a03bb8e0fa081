//! Wake-ups: hints that something was committed. They carry no data and may come too often or, between servers, not at
//! all; whoever waits polls now and then as well.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The channel of PostgreSQL's NOTIFY.
const CHANNEL: &str = "taghook";
/// Payload: there are new outcomes.
const OUTCOMES: char = 'o';
/// Payload: there is work that isn't leased.
const DISPATCH: char = 'd';
/// How long to wait before the listener connects again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// The wake-ups of one server.
#[derive(Debug, Default)]
pub struct Wakes {
    outcomes: watch::Sender<u64>,
    dispatch: watch::Sender<u64>,
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
        if payload.contains(OUTCOMES) {
            self.outcomes();
        }
        if payload.contains(DISPATCH) {
            self.dispatch();
        }
    }
}

/// Tells the other servers, with the commit of this transaction. One NOTIFY for each commit: it takes a lock that all
/// databases of the cluster share.
pub(super) async fn notify_servers(db: &impl ConnectionTrait, outcomes: bool, dispatch: bool) -> Result<(), DbErr> {
    if db.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    let payload: String = [(outcomes, OUTCOMES), (dispatch, DISPATCH)]
        .into_iter()
        .filter_map(|(say, what)| say.then_some(what))
        .collect();
    let sql = "SELECT pg_notify($1, $2)";
    let values = [CHANNEL.into(), payload.into()];
    db.execute_raw(Statement::from_sql_and_values(DbBackend::Postgres, sql, values)).await?;
    Ok(())
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
        let pool = PgPoolOptions::new().max_connections(1).connect(url).await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        // What was said while nobody listened.
        self.0.wakes.take("od");
        while let Some(notification) = listener.try_recv().await? {
            self.0.wakes.take(notification.payload());
        }
        Ok(())
    }
}
