//! Settling: what came of attempts is written in batches, each in one transaction with its outcomes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use crate::automation::{self, EndedDelivery};
use crate::domain::delivery::{Reason, Source};
use crate::domain::event::{WEBHOOK_DELIVERED, WEBHOOK_EXHAUSTED};
use crate::domain::retry::{Next, Verdict};
use crate::error::{Error, Result, chain};
use crate::ids::{DeliveryId, WebhookId, WorkspaceId};
use crate::store::config::PreparedWebhook;
use crate::store::delivery::settle::{Settlement, put_off, settle};
use crate::store::lease::Permit;
use crate::store::{Store, Tx, webhook};

/// The most attempts of one transaction.
const MAX_BATCH: usize = 256;
/// The waits before a batch that failed is written again; the last one is repeated.
const PAUSES: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(1)];
/// The wait before a delivery is sent again whose attempt couldn't be recorded.
const UNRECORDED_PAUSE: Duration = Duration::from_secs(60 * 60);

/// An attempt that was made.
pub(super) struct Finished {
    pub(super) settlement: Settlement,
    pub(super) verdict: Verdict,
    pub(super) source: Source,
    /// As it was when the delivery was leased.
    pub(super) webhook: Arc<PreparedWebhook>,
    /// How many causes inside the system lie before the delivery.
    pub(super) depth: i16,
    /// The trace that the delivery belongs to.
    pub(super) traceparent: Option<String>,
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
    if batch.len() > 1 && persist_together(store, batch).await.is_ok() {
        return;
    }
    for finished in batch {
        if let Err(error) = persist_together(store, std::slice::from_ref(finished)).await {
            persist_bare(store, finished, &error).await;
        }
    }
}

/// Writes a batch, as often as it takes while the database is away or busy.
///
/// # Errors
///
/// The database refuses the batch: another try would end the same way.
async fn persist_together(store: &Store, batch: &[Finished]) -> Result<()> {
    let mut pauses = Pauses::default();
    let failing = loop {
        match write(store, batch).await {
            Ok(failing) => break failing,
            Err(error) => pauses.after(error).await?,
        }
    };
    if batch.iter().any(|finished| finished.settlement.next.due().is_some()) {
        // The retry may be due before what the dispatcher sleeps until. Other servers find it by their poll.
        store.wakes().dispatch();
    }
    for (workspace, webhook) in failing {
        disable(store, workspace, webhook).await;
    }
    Ok(())
}

/// Writes an attempt that the database refuses without the texts that came from outside. If that is refused too, the
/// delivery waits for another attempt: the lease mustn't stay with nobody.
async fn persist_bare(store: &Store, finished: &Finished, error: &Error) {
    let id = finished.settlement.reference.id;
    tracing::error!(delivery = %id, error = chain(error), "an attempt can't be recorded whole");
    let mut bare = finished.settlement.clone();
    bare.attempt.url.clear();
    bare.attempt.response_body.clear();
    bare.attempt.response_location.clear();
    bare.attempt.error_detail.clear();
    let Err(error) = write_bare(store, &bare).await else { return };
    tracing::error!(delivery = %id, error = chain(&error), "an attempt can't be recorded; another is made later");
    if let Err(error) = give_up(store, &bare).await {
        tracing::error!(delivery = %id, error = chain(&error), "the lease can't be given up before this server stops");
    }
}

async fn write_bare(store: &Store, bare: &Settlement) -> Result<()> {
    let mut pauses = Pauses::default();
    loop {
        let written = store
            .write("settle_bare", |tx| async move {
                tx.gate_shared().await?;
                settle(&tx, &[bare]).await.map(drop)
            })
            .await;
        match written {
            Ok(()) => return Ok(()),
            Err(error) => pauses.after(error).await?,
        }
    }
}

async fn give_up(store: &Store, settlement: &Settlement) -> Result<()> {
    let mut pauses = Pauses::default();
    loop {
        let given_up = store
            .write(
                "put_off",
                |tx| async move { put_off(&tx, settlement, tx.now().saturating_add(UNRECORDED_PAUSE)).await },
            )
            .await;
        match given_up {
            Ok(()) => return Ok(()),
            Err(error) => pauses.after(error).await?,
        }
    }
}

/// The waits between the tries of one write.
#[derive(Default)]
struct Pauses {
    tries: usize,
}

impl Pauses {
    /// Waits after an error of the database's absence or of others in the way.
    ///
    /// # Errors
    ///
    /// The error, if another try would end the same way.
    async fn after(&mut self, error: Error) -> Result<()> {
        if !error.is_passing() {
            return Err(error);
        }
        tracing::debug!(error = chain(&error), "attempts can't be settled yet");
        let [.., last] = PAUSES;
        tokio::time::sleep(PAUSES.get(self.tries).copied().unwrap_or(last)).await;
        self.tries += 1;
        Ok(())
    }
}

/// Settles a batch; answers with the webhooks that have been failing for too long.
async fn write(store: &Store, batch: &[Finished]) -> Result<Vec<(WorkspaceId, WebhookId)>> {
    let settlements: Vec<&Settlement> = batch.iter().map(|finished| &finished.settlement).collect();
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
            let ended = settle(&tx, settlements).await?;
            automation::ended(&tx, &heard(batch, &ended)).await?;
            for (workspace, webhook) in gone {
                webhook::disable(&tx, *workspace, *webhook, Reason::Gone).await?;
            }
            webhook::note_results(&tx, succeeded, failed).await
        })
        .await
}

/// The ends of deliveries that smart tags may listen to.
fn heard<'a>(batch: &'a [Finished], ended: &HashSet<DeliveryId>) -> Vec<EndedDelivery<'a>> {
    let is_heard = |finished: &&Finished| {
        let has_ended = ended.contains(&finished.settlement.reference.id);
        has_ended && finished.webhook.is_listened_to && finished.source != Source::Test
    };
    let ended = |finished: &'a Finished| EndedDelivery {
        workspace_id: finished.settlement.workspace_id,
        webhook: &finished.webhook.webhook,
        reference: &finished.settlement.reference,
        event_type: match finished.settlement.next {
            Next::Delivered => WEBHOOK_DELIVERED,
            _ => WEBHOOK_EXHAUSTED,
        },
        status_code: finished.settlement.attempt.status_code,
        depth: finished.depth,
        traceparent: finished.traceparent.as_deref(),
    };
    batch.iter().filter(is_heard).map(ended).collect()
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
