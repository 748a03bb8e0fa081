//! Retention: what is old goes, a little at a time.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::{Result, chain};
use crate::store::retention::{self, STEP, Walk};
use crate::store::{Store, contact_tag};

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
}

/// Removes old rows until it is stopped. Any server may do it, several at once too.
pub async fn run(store: Store, settings: RetentionSettings, stop: CancellationToken) {
    let mut cooldowns = Walk::default();
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return,
            result = round(&store, settings, &mut cooldowns) => if let Err(error) = result {
                tracing::debug!(error = chain(&error), "old rows can't be removed yet");
            },
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn round(store: &Store, settings: RetentionSettings, cooldowns: &mut Walk) -> Result<()> {
    repeat(|| retention::outcomes(store, settings.attempts)).await?;
    let mut walk = Walk::default();
    for _ in 0..MAX_STEPS {
        let (count, next) = retention::deliveries(store, settings.deliveries, walk).await?;
        walk = next;
        if count < STEP {
            break;
        }
        tokio::time::sleep(BREATH).await;
    }
    repeat(|| retention::held_deliveries(store, settings.deliveries)).await?;
    repeat(|| retention::requests(store)).await?;
    repeat(|| async { Ok(if contact_tag::remove_deleted(store).await? { STEP } else { 0 }) }).await?;
    repeat(|| async { Ok(if retention::deleted_workspaces(store).await? > 0 { STEP } else { 0 }) }).await?;
    *cooldowns = retention::cooldowns(store, settings.cooldowns, *cooldowns).await?;
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
