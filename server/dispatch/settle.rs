//! Settling: what came of attempts is written in batches, each in one transaction with its outcomes.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use crate::domain::delivery::{Reason, Source};
use crate::domain::retry::{Next, Verdict};
use crate::error::{Error, Result, chain};
use crate::ids::{WebhookId, WorkspaceId};
use crate::store::delivery::settle::{Settlement, settle};
use crate::store::lease::Permit;
use crate::store::{Store, Tx, webhook};

/// The most attempts of one transaction.
const MAX_BATCH: usize = 256;
/// The waits before a batch that failed is written again; the last one is repeated.
const PAUSES: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(500), LAST_PAUSE];
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// An attempt that was made.
pub(super) struct Finished {
    pub(super) settlement: Settlement,
    pub(super) verdict: Verdict,
    pub(super) source: Source,
    /// Given back when it is settled.
    pub(super) _permit: Permit,
}

/// Settles attempts until nobody can hand in any more, or `hard`.
pub(super) async fn run(store: Store, mut queue: Receiver<Finished>, hard: CancellationToken) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    loop {
        let taken = tokio::select! {
            taken = queue.recv_many(&mut batch, MAX_BATCH) => taken,
            () = hard.cancelled() => return,
        };
        if taken == 0 {
            return;
        }
        tokio::select! {
            () = persist(&store, &batch) => {}
            () = hard.cancelled() => return,
        }
        // With it go the permits.
        batch.clear();
    }
}

/// Writes a batch, however long the database is away: a result that were dropped would be sent again. A batch that the
/// database refuses is written one by one, so that what is wrong with one harms no other.
async fn persist(store: &Store, batch: &[Finished]) {
    match persist_together(store, batch).await {
        Ok(()) => {}
        Err(_) if batch.len() > 1 => {
            for finished in batch {
                if let Err(error) = persist_together(store, std::slice::from_ref(finished)).await {
                    persist_bare(store, finished, &error).await;
                }
            }
        }
        Err(error) => {
            for finished in batch {
                persist_bare(store, finished, &error).await;
            }
        }
    }
}

/// Writes an attempt that the database refuses without the texts that came from outside.
async fn persist_bare(store: &Store, finished: &Finished, error: &Error) {
    tracing::error!(delivery = %finished.settlement.reference.id, error = chain(error), "an attempt can't be recorded whole");
    let mut bare = finished.settlement.clone();
    bare.attempt.url.clear();
    bare.attempt.response_body.clear();
    bare.attempt.response_location.clear();
    bare.attempt.error_detail.clear();
    let bare = std::slice::from_ref(&bare);
    let settled = store.write("settle_bare", |tx| async move { settle(&tx, bare).await }).await;
    if let Err(error) = settled {
        tracing::error!(delivery = %finished.settlement.reference.id, error = chain(&error), "an attempt can't be recorded");
    }
}

/// Writes a batch, as often as it takes while the database is away.
///
/// # Errors
///
/// The database refuses the batch: another try would end the same way.
async fn persist_together(store: &Store, batch: &[Finished]) -> Result<()> {
    let mut pauses = PAUSES.into_iter();
    let mut pause = Duration::ZERO;
    loop {
        let error = match write(store, batch).await {
            Ok(failing) => {
                if batch.iter().any(|finished| finished.settlement.next.due().is_some()) {
                    // The retry may be due before what the dispatcher sleeps until. Other servers find it by their poll.
                    store.wakes().dispatch();
                }
                for (workspace, webhook) in failing {
                    disable(store, workspace, webhook).await;
                }
                return Ok(());
            }
            Err(error @ Error::Internal(_)) => return Err(error),
            Err(error @ Error::Database(_)) if pause >= LAST_PAUSE => return Err(error),
            Err(error) => error,
        };
        tracing::debug!(error = chain(&error), size = batch.len(), "attempts can't be settled yet");
        pause = pauses.next().unwrap_or(pause);
        tokio::time::sleep(pause).await;
    }
}

/// Settles a batch; answers with the webhooks that have been failing for too long.
async fn write(store: &Store, batch: &[Finished]) -> Result<Vec<(WorkspaceId, WebhookId)>> {
    let settlements: Vec<Settlement> = batch.iter().map(|finished| finished.settlement.clone()).collect();
    let gone: HashSet<(WorkspaceId, WebhookId)> = batch
        .iter()
        .filter(|finished| finished.verdict == Verdict::DisableWebhook && finished.source != Source::Test)
        .map(|finished| (finished.settlement.workspace_id, finished.settlement.webhook_id))
        .collect();
    let (settlements, gone) = (&settlements, &gone);
    let (succeeded, failed) = &results(batch);
    store
        .write("settle", |tx| async move {
            if gone.is_empty() {
                tx.gate_shared().await?;
            } else {
                tx.gate_exclusive().await?;
            }
            settle(&tx, settlements).await?;
            for (workspace, webhook) in gone {
                webhook::disable(&tx, *workspace, *webhook, Reason::Gone).await?;
            }
            webhook::note_results(&tx, succeeded, failed).await
        })
        .await
}

/// The webhooks that had a success, and those that had none. Tests say nothing of a webhook's health.
fn results(batch: &[Finished]) -> (Vec<WebhookId>, Vec<WebhookId>) {
    let real = || batch.iter().filter(|finished| finished.source != Source::Test);
    let succeeded: HashSet<WebhookId> = real()
        .filter(|finished| finished.settlement.next == Next::Delivered)
        .map(|finished| finished.settlement.webhook_id)
        .collect();
    let failed: HashSet<WebhookId> =
        real().map(|finished| finished.settlement.webhook_id).filter(|id| !succeeded.contains(id)).collect();
    (succeeded.into_iter().collect(), failed.into_iter().collect())
}

/// Disables a webhook that has been failing for too long. If the database fails here, the next failure comes here again.
async fn disable(store: &Store, workspace: WorkspaceId, webhook: WebhookId) {
    let disabled = store
        .write("disable_webhook", |tx: Tx| async move {
            tx.gate_exclusive().await?;
            webhook::disable(&tx, workspace, webhook, Reason::Failing).await
        })
        .await;
    if let Err(error) = disabled {
        tracing::debug!(error = chain(&error), "a failing webhook can't be disabled yet");
    }
}
