//! TestWebhook and TriggerWebhook: triggers that callers make themselves.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::automation::{self, Origin, Trigger, TriggerDecision};
use crate::domain::delivery::{Attempt, Delivery, Source};
use crate::error::{Error, Result};
use crate::ids::{DeliveryId, WebhookEventId, WebhookId, WorkspaceId};
use crate::pb;
use crate::rpc::Services;
use crate::rpc::call::Call;
use crate::rpc::delivery::{attempt_to_pb, to_pb};
use crate::rpc::values::origin_with;
use crate::rpc::write::Decided;
use crate::store::contact::ContactRef;
use crate::store::{self, Store, Tx};

/// How long the answer to a test is waited for: twice the longest deadline of an attempt. The caller's own deadline is
/// mostly shorter.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a test is looked at without a wake-up.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a caller wants to fire.
struct Wish {
    workspace: WorkspaceId,
    webhook: WebhookId,
    contact: ContactRef,
    source: Source,
    /// The one webhook event to send, the first if it is `Some(None)`; `None` for all.
    only: Option<Option<WebhookEventId>>,
    origin: Origin,
}

/// Sends one request of a webhook. It goes the way of every delivery, and so is sent and recorded even if the caller goes
/// away meanwhile.
pub(super) async fn test(
    services: &Services,
    mut call: Call<pb::TestWebhookRequest>,
) -> Result<pb::TestWebhookResponse> {
    let contact = call.contact();
    let request = std::mem::take(&mut call.message);
    let webhook = call.id("id", &request.id);
    let event = call.violations.optional_id("webhook_event_id", &request.webhook_event_id);
    let (webhook, contact) = call.finish_with(webhook.zip(contact))?;
    let workspace = call.workspace()?;
    let origin = call.origin();
    let wish = &Wish { workspace, webhook, contact, source: Source::Test, only: Some(event), origin };
    let make = |tx: Tx| async move {
        let decision = wish.fire(&tx).await?;
        let id = decision.delivery_ids.first().copied();
        id.map(Decided).ok_or_else(|| Error::internal("a test without a delivery"))
    };
    let Decided(id): Decided<DeliveryId> = call.write(&services.store, make).await?;
    let (delivery, attempt) = result_of(&services.store, workspace, id).await?;
    Ok(pb::TestWebhookResponse {
        attempt: attempt.map(|attempt| attempt_to_pb(id, attempt)),
        delivery: Some(to_pb(delivery, services.store.clock().now())),
    })
}

/// Fires a webhook for a contact, whatever the cooldown says.
pub(super) async fn trigger(services: &Services, mut call: Call<pb::TriggerWebhookRequest>) -> Result<TriggerDecision> {
    let (webhook, contact) = (call.id("id", &call.message.id.clone()), call.contact());
    let origin = call.origin();
    let origin = origin_with(std::mem::take(&mut call.message.values), &origin, &mut call.violations);
    let (webhook, contact) = call.finish_with(webhook.zip(contact))?;
    let workspace = call.workspace()?;
    let wish = &Wish { workspace, webhook, contact, source: Source::Api, only: None, origin };
    let Decided(decision) =
        call.write(&services.store, |tx: Tx| async move { wish.fire(&tx).await.map(Decided) }).await?;
    Ok(decision)
}

impl Wish {
    async fn fire(&self, tx: &Tx) -> Result<TriggerDecision> {
        tx.gate_shared().await?;
        let config = tx.config(self.workspace).await?;
        let webhook = config.webhook(self.webhook).ok_or_else(|| Error::not_found(self.webhook))?;
        let mut events = webhook.webhook.definition.events.iter().map(|event| event.id);
        let only = match self.only {
            None => None,
            Some(None) => events.next(),
            Some(Some(id)) => Some(events.find(|event| *event == id).ok_or_else(|| Error::not_found(id))?),
        };
        let trigger = Trigger {
            webhook: Arc::clone(webhook),
            contact: Arc::new(store::contact::get(tx.db(), self.workspace, &self.contact).await?),
            workspace_id: self.workspace,
            source: self.source,
            tags: Vec::new(),
            only,
            campaign: None,
            origin: self.origin.clone(),
            config,
        };
        let decision = automation::trigger(tx, &[trigger]).await?.pop();
        decision.ok_or_else(|| Error::internal("a trigger without a decision"))
    }
}

/// Waits until a test is final. It has no attempt if somebody ended it before one was made.
async fn result_of(store: &Store, workspace: WorkspaceId, id: DeliveryId) -> Result<(Delivery, Option<Attempt>)> {
    let end = Instant::now() + PATIENCE;
    let mut wakes = store.wakes().watch_outcomes();
    loop {
        wakes.borrow_and_update();
        let delivery = store::delivery::get(store.read(), workspace, id).await?;
        if delivery.state.is_final() {
            let mut attempts = store::outcome::attempts(store.read(), workspace, id, 0, 1).await?;
            return Ok((delivery, attempts.pop().map(|(_, attempt)| attempt)));
        }
        let now = Instant::now();
        if now >= end {
            return Err(Error::DeadlineExceeded);
        }
        // A wake-up, or the time to look again.
        let _ = timeout_at(end.min(now + LOOK_EVERY), wakes.changed()).await;
    }
}
