//! Retention: what is old goes, a little at a time.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{Result, chain};
use crate::store::retention::{self, STEP, Walk};
use crate::store::{Store, leftover};

/// How often old rows are looked for.
const EVERY: Duration = Duration::from_secs(60);
/// The wait between two steps of a round, so that others get the writer.
const BREATH: Duration = Duration::from_millis(20);
/// The most steps of one kind in a round.
const MAX_STEPS: usize = 200;

/// How long rows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Attempts and outcomes, from when they were recorded.
    pub attempts: Duration,
    /// Deliveries, from when they became final.
    pub deliveries: Duration,
    /// Cooldowns, from the last trigger.
    pub cooldowns: Duration,
    /// Counts of what happened.
    pub stats: Duration,
}

/// Removes old rows, and does what changes have left, until it is stopped. Any server may do it, several at once too.
pub async fn run(store: Store, settings: RetentionSettings, stop: CancellationToken) {
    let _ = stop.run_until_cancelled(work(&store, settings)).await;
}

async fn work(store: &Store, settings: RetentionSettings) {
    let mut cooldowns = Walk::default();
    let mut wakes = store.wakes().watch_leftovers();
    loop {
        round(store, settings, &mut cooldowns).await;
        let next = Instant::now() + EVERY;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => break,
                _ = wakes.changed() => told(leftovers(store).await),
            }
        }
    }
}

/// Does what changes have left, step by step.
async fn leftovers(store: &Store) -> Result<()> {
    while leftover::go_on(store).await? {
        tokio::time::sleep(BREATH).await;
    }
    Ok(())
}

/// Does each kind by itself: one that fails keeps no other from its turn.
async fn round(store: &Store, settings: RetentionSettings, cooldowns: &mut Walk) {
    let keep = settings.deliveries;
    told(leftovers(store).await);
    told(repeat(|| retention::outcomes(store, settings.attempts)).await);
    told(deliveries(store, keep).await);
    told(repeat(|| retention::held_deliveries(store, keep)).await);
    told(repeat(|| retention::held_attempts(store, keep)).await);
    told(repeat(|| retention::replays(store, keep)).await);
    told(repeat(|| retention::enrollments(store, keep)).await);
    told(repeat(|| retention::contact_updates(store, keep)).await);
    told(repeat(|| retention::stats(store, settings.stats)).await);
    told(repeat(|| retention::requests(store)).await);
    told(repeat(|| retention::secrets(store)).await);
    told(repeat(|| async { Ok(if retention::deleted_workspaces(store).await? > 0 { STEP } else { 0 }) }).await);
    told(retention::cooldowns(store, settings.cooldowns, *cooldowns).await.map(|next| *cooldowns = next));
}

fn told(result: Result<()>) {
    match result {
        Ok(()) => {}
        Err(error) if error.is_passing() => tracing::debug!(error = chain(&error), "old rows can't be removed yet"),
        Err(error) => tracing::warn!(error = chain(&error), "old rows can't be removed"),
    }
}

async fn deliveries(store: &Store, keep: Duration) -> Result<()> {
    let mut walk = Walk::default();
    for _ in 0..MAX_STEPS {
        let (count, next) = retention::deliveries(store, keep, walk).await?;
        walk = next;
        if count < STEP {
            break;
        }
        tokio::time::sleep(BREATH).await;
    }
    Ok(())
}

/// Repeats a step while it finds as many rows as it takes.
async fn repeat<F: Future<Output = Result<usize>>>(step: impl Fn() -> F) -> Result<()> {
    for _ in 0..MAX_STEPS {
        if step().await? < STEP {
            break;
        }
        tokio::time::sleep(BREATH).await;
    }
    Ok(())
}
