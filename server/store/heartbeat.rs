//! Which servers live. Each raises a number in its row every two seconds; whoever sees one stand still for ten forgets
//! that server, and its leases are free. On SQLite, where the lock on the folder keeps others away, nobody does either.
//!
//! The times of two servers are never compared: the number is taken from a server's own clock, and how long it stands
//! still from the observer's monotonic one. A clock that is wrong, or that steps, buries nobody.

use std::collections::HashMap;
use std::time::Duration;

use sea_orm::{ConnectionTrait, Statement};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Store, Tx};
use crate::error::Result;

/// How often a server says that it lives.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);
/// How long a heartbeat must stand still until the server counts as dead, and its leases as free.
pub const HEARTBEAT_LIMIT: Duration = Duration::from_secs(10);
/// The longest time between two looks. After a longer one the watch begins anew: whoever was away, or had no database,
/// hasn't seen the heartbeats stand still, and the others may have had no database either.
const MAX_GAP: Duration = Duration::from_secs(5);

/// The heartbeat of a server, as it stands in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The server's incarnation.
    pub server: Uuid,
    /// What it raises.
    pub beat: i64,
}

/// The heartbeats of other servers, as this one has seen them.
#[derive(Debug, Default)]
pub struct Watchman {
    /// Each heartbeat, and since when it stands still.
    seen: HashMap<Uuid, (i64, Instant)>,
    last_look: Option<Instant>,
}

impl Watchman {
    /// Takes in what the other servers' heartbeats are at `now`, by the monotonic clock. Answers with those that have
    /// stood still for [`HEARTBEAT_LIMIT`].
    #[must_use]
    pub fn look(&mut self, heartbeats: &[Heartbeat], now: Instant) -> Vec<Heartbeat> {
        let gap = self.last_look.replace(now).map(|last| now.saturating_duration_since(last));
        if gap.is_none_or(|gap| gap > MAX_GAP) {
            self.seen.clear();
        }
        let earlier = std::mem::take(&mut self.seen);
        for Heartbeat { server, beat } in heartbeats.iter().copied() {
            let stood = earlier.get(&server).filter(|(seen, _)| *seen == beat).map(|(_, since)| *since);
            self.seen.insert(server, (beat, stood.unwrap_or(now)));
        }
        let is_dead = |heartbeat: &&Heartbeat| {
            let since = self.seen.get(&heartbeat.server).map_or(now, |(_, since)| *since);
            now.saturating_duration_since(since) >= HEARTBEAT_LIMIT
        };
        heartbeats.iter().filter(is_dead).copied().collect()
    }
}

/// Says that this server lives, looks whether the others do at `now`, and frees the leases of those that don't.
///
/// # Errors
///
/// The database's.
pub async fn beat(store: &Store, watchman: &mut Watchman, now: Instant) -> Result<()> {
    let server = store.local().server();
    store.write("heartbeat", |tx| async move { raise(&tx, server).await }).await?;
    let others = others(store.read(), server).await?;
    store.local().endpoints().set_servers(others.len() + 1);
    let dead = watchman.look(&others, now);
    if dead.is_empty() {
        return Ok(());
    }
    let dead = &dead;
    store.write("bury", |tx| async move { bury(&tx, dead).await }).await
}

/// Announces a server: its leases hold from now on.
///
/// # Errors
///
/// The database's.
pub async fn join(tx: &Tx, server: Uuid) -> Result<()> {
    raise(tx, server).await?;
    tx.store().local().endpoints().set_servers(others(tx.db(), server).await?.len() + 1);
    Ok(())
}

/// Raises a server's heartbeat, also where its clock has stepped back. If others gave it up meanwhile it is announced
/// anew; its old leases may be gone.
async fn raise(tx: &Tx, server: Uuid) -> Result<()> {
    let sql = "INSERT INTO servers (id, started_us, heartbeat_us) VALUES ($1, $2, $2) ON CONFLICT (id) DO UPDATE \
               SET heartbeat_us = CASE WHEN excluded.heartbeat_us > servers.heartbeat_us THEN excluded.heartbeat_us \
               ELSE servers.heartbeat_us + 1 END";
    run(tx, sql, [server.into(), tx.now().0.into()]).await?;
    Ok(())
}

/// Forgets a server that stops; what it still holds is free then.
///
/// # Errors
///
/// The database's.
pub async fn leave(tx: &Tx, server: Uuid) -> Result<()> {
    run(tx, "DELETE FROM servers WHERE id = $1", [server.into()]).await?;
    tx.announce_work();
    Ok(())
}

/// Forgets all other servers of an SQLite database, whose leases are free then: the lock on its folder proves that they
/// are dead. On PostgreSQL a server that starts has watched nobody yet.
///
/// # Errors
///
/// The database's.
pub async fn bury_predecessors(tx: &Tx, server: Uuid) -> Result<()> {
    if tx.store().is_sqlite() {
        run(tx, "DELETE FROM servers WHERE id <> $1", [server.into()]).await?;
    }
    Ok(())
}

/// Waits until no server but this one is left, if the others are dead. Answers with whether that is so; a heartbeat that
/// moves is an answer at once.
///
/// # Errors
///
/// The database's.
pub async fn outlive(store: &Store) -> Result<bool> {
    let (server, mut watchman) = (store.local().server(), Watchman::default());
    let first = others(store.read(), server).await?;
    loop {
        beat(store, &mut watchman, Instant::now()).await?;
        let left = others(store.read(), server).await?;
        if left.is_empty() {
            return Ok(true);
        }
        if left.iter().any(|heartbeat| !first.contains(heartbeat)) {
            return Ok(false);
        }
        tokio::time::sleep(HEARTBEAT_EVERY).await;
    }
}

/// Whether no other server is announced.
pub(super) async fn is_alone(tx: &Tx) -> Result<bool> {
    Ok(others(tx.db(), tx.store().local().server()).await?.is_empty())
}

async fn others(db: &impl ConnectionTrait, server: Uuid) -> Result<Vec<Heartbeat>> {
    let sql = "SELECT id, heartbeat_us FROM servers WHERE id <> $1";
    let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, [server.into()]);
    let rows = db.query_all_raw(statement).await?;
    rows.iter()
        .map(|row| Ok(Heartbeat { server: row.try_get("", "id")?, beat: row.try_get("", "heartbeat_us")? }))
        .collect()
}

/// Forgets servers, unless they have beaten meanwhile.
async fn bury(tx: &Tx, dead: &[Heartbeat]) -> Result<()> {
    for heartbeat in dead {
        let sql = "DELETE FROM servers WHERE id = $1 AND heartbeat_us = $2";
        if run(tx, sql, [heartbeat.server.into(), heartbeat.beat.into()]).await? > 0 {
            tracing::warn!(server = %heartbeat.server, "a server has died; others send what it had leased");
            tx.announce_work();
        }
    }
    Ok(())
}

async fn run<const N: usize>(tx: &Tx, sql: &str, values: [sea_orm::Value; N]) -> Result<u64> {
    let statement = Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values);
    Ok(tx.db().execute_raw(statement).await?.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD: Uuid = Uuid::from_u128(1);
    const ALIVE: Uuid = Uuid::from_u128(2);

    /// Looks at the given seconds; of two servers, one raises its heartbeat with each look. Answers with the seconds at
    /// which the other one counts as dead.
    #[track_caller]
    fn check(looks_s: &[u64], expected_s: &[u64]) {
        let (start, mut watchman) = (Instant::now(), Watchman::default());
        let mut buried_s = Vec::new();
        for (second, beat) in looks_s.iter().zip(100..) {
            let heartbeats = [Heartbeat { server: DEAD, beat: 7 }, Heartbeat { server: ALIVE, beat }];
            let dead = watchman.look(&heartbeats, start + Duration::from_secs(*second));
            assert!(dead.iter().all(|heartbeat| *heartbeat == heartbeats[0]), "the living isn't buried");
            buried_s.extend(dead.iter().map(|_| *second));
        }
        assert_eq!(buried_s, expected_s);
    }

    #[test]
    fn a_heartbeat_that_stands_still_for_ten_seconds_is_dead() {
        check(&[0, 2, 4, 6, 8, 9], &[]);
        check(&[0, 2, 4, 6, 8, 10, 12], &[10, 12]);
        check(&[0, 5, 10], &[10]);
        // The first look says nothing, and neither does one after a time without any.
        check(&[1_000], &[]);
        check(&[0, 6, 12, 18], &[]);
        check(&[0, 2, 4, 6, 8, 60, 62, 64, 66, 68, 70], &[70]);
    }

    #[test]
    fn a_server_that_comes_back_is_watched_anew() {
        let (start, mut watchman) = (Instant::now(), Watchman::default());
        let heartbeat = [Heartbeat { server: DEAD, beat: 7 }];
        for (second, heartbeats) in [(0, &heartbeat[..]), (4, &[]), (8, &heartbeat), (12, &heartbeat)] {
            assert_eq!(watchman.look(heartbeats, start + Duration::from_secs(second)), []);
        }
    }
}
