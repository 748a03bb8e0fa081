//! Replays: whatever is due of them is done step by step, by any server.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::store::Store;
use crate::store::replay::{self, Next};

/// How often it is looked for what other servers were asked for.
const POLL_EVERY: Duration = Duration::from_secs(5);
/// The wait between two steps, so that others get the writer.
const BREATH: Duration = Duration::from_millis(5);
/// The wait after an error, so that an absent database isn't hammered.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Makes the steps of replays until it is stopped. Several servers may: a step is made once.
pub async fn run(store: Store, stop: CancellationToken) {
    let _ = stop.run_until_cancelled(work(&store)).await;
}

async fn work(store: &Store) {
    let mut wakes = store.wakes().watch_leftovers();
    loop {
        // Armed before the look, so that what is committed during it isn't missed.
        wakes.borrow_and_update();
        let next = match replay::go_on(store).await {
            Ok(Next::Now) => {
                tokio::time::sleep(BREATH).await;
                continue;
            }
            Ok(Next::At(time)) => Some(time),
            Ok(Next::Idle) => None,
            Err(error) => {
                if error.is_passing() {
                    tracing::debug!(error = chain(&error), "replays can't go on yet");
                } else {
                    tracing::warn!(error = chain(&error), "a replay can't go on");
                }
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                continue;
            }
        };
        let is_due = async {
            match next {
                Some(time) => store.clock().sleep_until(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = is_due => {}
            _ = wakes.changed() => {}
            () = tokio::time::sleep(POLL_EVERY) => {}
        }
    }
}
