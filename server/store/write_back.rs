//! SQLite's log is written back into the database's file beside the writer, which would stand still for as long as that
//! takes: tens of milliseconds, again and again under load.

use std::sync::atomic::{AtomicU64, Ordering};

use sea_orm::{ConnectionTrait, Database};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Store, open};
use crate::error::chain;

/// After how many commits the log is written back.
const EVERY: u64 = 64;

/// Counts commits.
#[derive(Debug, Default)]
pub(super) struct Commits {
    count: AtomicU64,
    are_many: Notify,
}

impl Commits {
    /// One more.
    pub(super) fn count(&self) {
        if self.count.fetch_add(1, Ordering::Relaxed) % EVERY == EVERY - 1 {
            self.are_many.notify_one();
        }
    }
}

impl Store {
    /// Writes the log back whenever there were some commits, until `stop`. Returns at once for PostgreSQL. Without it, or if
    /// it fails, the writer does it itself, more seldom.
    pub async fn write_back(&self, url: &str, stop: &CancellationToken) {
        if !self.is_sqlite() {
            return;
        }
        let connection = match Database::connect(open::sqlite_options(url, 1, false)).await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(error = chain(&error), "the writer has to write SQLite's log back itself");
                return;
            }
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.commits.are_many.notified() => {}
            }
            // Passive: it waits for nobody, and nobody for it.
            if let Err(error) = connection.execute_unprepared("PRAGMA wal_checkpoint(PASSIVE)").await {
                tracing::debug!(error = chain(&error), "SQLite's log can't be written back now");
            }
        }
    }
}
