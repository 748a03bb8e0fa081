//! The engine: whatever is due on contacts' ways is done, by any server.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::steps;
use crate::domain::time::Micros;
use crate::error::{Error, Result, chain};
use crate::ids::EnrollmentId;
use crate::store::{Store, enrollment};

/// The most ways of one transaction.
const MAX_BATCH: usize = 128;
/// How often it is looked for ways that other servers began.
const POLL_EVERY: Duration = Duration::from_secs(5);
/// The wait where what is due is another server's at the moment.
const ELSEWHERE_PAUSE: Duration = Duration::from_millis(100);
/// The wait after an error, so that an absent database isn't hammered.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Leads contacts through campaigns until it is stopped. Several servers may: a step is made once.
pub async fn run(store: Store, stop: CancellationToken) {
    let mut wakes = store.wakes().watch_enrollments();
    loop {
        // Armed before the look, so that what is committed during it isn't missed.
        wakes.borrow_and_update();
        // A step that has begun is finished, since its transaction is short.
        let next = if stop.is_cancelled() { return } else { look(&store).await };
        let wait = async {
            match next {
                Ok(Next::Now) => {}
                Ok(Next::At(time)) => store.clock().sleep_until(time).await,
                Ok(Next::Elsewhere) => tokio::time::sleep(ELSEWHERE_PAUSE).await,
                Ok(Next::Idle) => std::future::pending().await,
                Err(()) => tokio::time::sleep(PAUSE_AFTER_ERROR).await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = wait => {}
            _ = wakes.changed(), if next.is_ok() => {}
            () = tokio::time::sleep(POLL_EVERY) => {}
        }
    }
}

enum Next {
    /// There may be more that is due.
    Now,
    /// The next one is due then.
    At(Micros),
    /// What is due is another server's.
    Elsewhere,
    /// Nobody is on a way.
    Idle,
}

async fn look(store: &Store) -> Result<Next, ()> {
    let next = match lead_due(store).await {
        Ok(0) => next_due(store).await,
        Ok(_) => Ok(Next::Now),
        Err(error) if error.is_passing() => Err(error),
        Err(error) => {
            tracing::debug!(error = chain(&error), "steps failed together, each alone");
            lead_alone(store).await.map(|()| Next::Now)
        }
    };
    next.map_err(|error| {
        if error.is_passing() {
            tracing::debug!(error = chain(&error), "campaigns can't go on yet");
        } else {
            tracing::warn!(error = chain(&error), "campaigns can't go on");
        }
    })
}

async fn lead_due(store: &Store) -> Result<usize> {
    store
        .write("campaigns", |tx| async move {
            tx.gate_shared().await?;
            let ways = enrollment::due(&tx, MAX_BATCH).await?;
            let count = ways.len();
            steps::lead(&tx, ways).await?;
            Ok(count)
        })
        .await
}

/// Leads ways each in a transaction of its own, so that what is wrong with one harms no other.
async fn lead_alone(store: &Store) -> Result<()> {
    let ids = store
        .write("campaigns_due", |tx| async move {
            let ways = enrollment::due(&tx, MAX_BATCH).await?;
            Ok(ways.into_iter().map(|way| way.id).collect::<Vec<EnrollmentId>>())
        })
        .await?;
    for id in ids {
        let led = store
            .write("campaign", |tx| async move {
                tx.gate_shared().await?;
                steps::lead(&tx, enrollment::due_one(&tx, id).await?.into_iter().collect()).await
            })
            .await;
        match led {
            Ok(()) => {}
            Err(error) if error.is_passing() => return Err(error),
            Err(error) => put_off(store, id, &error).await?,
        }
    }
    Ok(())
}

async fn put_off(store: &Store, id: EnrollmentId, error: &Error) -> Result<()> {
    tracing::warn!(enrollment = %id, error = chain(error), "a step of a campaign failed");
    let text = &error.to_string();
    store
        .write("campaign_put_off", |tx| async move {
            let Some(way) = enrollment::due_one(&tx, id).await? else { return Ok(()) };
            enrollment::update(&tx, &[steps::put_off(way, text, tx.now())]).await
        })
        .await
}

async fn next_due(store: &Store) -> Result<Next> {
    let due = enrollment::next_due(store.read()).await?;
    Ok(match due {
        None => Next::Idle,
        Some(due) if due <= store.clock().now() => Next::Elsewhere,
        Some(due) => Next::At(due),
    })
}
