//! Deferred triggers whose window has ended: they are rendered from the contact as it is now, and open a new window.

use std::collections::HashMap;
use std::sync::Arc;

use super::Origin;
use super::fire::{TagMark, Trigger};
use super::guard::unmet_one;
use super::happen::heard_of;
use super::react::react;
use crate::domain::delivery::{Reason, State};
use crate::error::Result;
use crate::ids::WorkspaceId;
use crate::store::config::{PreparedWebhook, WorkspaceConfig};
use crate::store::contact::ContactRef;
use crate::store::cooldown::{self, Claim};
use crate::store::delivery::end::{self, Which};
use crate::store::delivery::{LeasedDelivery, lane, queue};
use crate::store::{Tx, contact, contact_tag};

/// Turns leased deferrals into deliveries that are sent now. Answers with those; the others have ended: SKIPPED if the
/// webhook doesn't send or its condition isn't met any more, CANCELLED if the contact has gone. Smart tags hear of those that are sent. The caller has taken the
/// gate.
///
/// # Errors
///
/// The database's.
pub async fn promote(
    tx: &Tx,
    deferrals: Vec<(LeasedDelivery, Arc<WorkspaceConfig>, Arc<PreparedWebhook>)>,
) -> Result<Vec<(LeasedDelivery, Arc<PreparedWebhook>)>> {
    let wanted: Vec<(WorkspaceId, ContactRef)> = deferrals
        .iter()
        .map(|(delivery, ..)| (delivery.workspace_id, ContactRef::Id(delivery.reference.contact_id)))
        .collect();
    let contacts = contact::find_many(tx.db(), &wanted).await?;
    let (mut promoted, mut claims, mut heard) = (Vec::new(), HashMap::new(), Vec::new());
    for ((mut delivery, config, webhook), key) in deferrals.into_iter().zip(wanted) {
        let Some(contact) = contacts.get(&key) else {
            finish(tx, &delivery, State::Cancelled, Reason::ContactDeleted).await?;
            continue;
        };
        if let Some(reason) = webhook.webhook.skips(delivery.reference.source) {
            finish(tx, &delivery, State::Skipped, reason).await?;
            continue;
        }
        let Some(event) =
            webhook.webhook.definition.events.iter().find(|event| event.id == delivery.reference.webhook_event_id)
        else {
            finish(tx, &delivery, State::Cancelled, Reason::WebhookEventRemoved).await?;
            continue;
        };
        let trigger = Trigger {
            webhook: Arc::clone(&webhook),
            config: Arc::clone(&config),
            contact: Arc::new(contact.clone()),
            workspace_id: delivery.workspace_id,
            source: delivery.reference.source,
            tags: tag_marks(tx, &delivery, &config).await?,
            only: None,
            campaign: None,
            origin: Origin {
                depth: delivery.causation_depth,
                cause_id: None,
                traceparent: delivery.traceparent.clone(),
                data: delivery.data.take(),
            },
        };
        if let Some(reason) = unmet_one(tx, &trigger).await? {
            finish(tx, &delivery, State::Skipped, reason).await?;
            continue;
        }
        heard.extend(heard_of(tx, &trigger, Some(&delivery.id)));
        // The last trigger has replaced the first one's time, as well as its tags.
        delivery.snapshot = Some(trigger.snapshot(event, delivery.id, delivery.trigger_time).into());
        delivery.state = State::Waiting;
        let window = (delivery.webhook_id, delivery.reference.contact_id);
        let cooldown = webhook.webhook.definition.cooldown;
        claims.insert(window, Claim { key: window, workspace_id: delivery.workspace_id, cooldown });
        promoted.push((delivery, webhook));
    }
    if !claims.is_empty() {
        cooldown::reopen(tx, &claims.into_values().collect::<Vec<_>>()).await?;
    }
    place(tx, &mut promoted).await?;
    let snapshots =
        promoted.iter().filter_map(|(delivery, _)| Some((delivery.id, delivery.snapshot.clone()?, delivery.order)));
    queue::promote(tx, &snapshots.collect::<Vec<_>>()).await?;
    react(tx, heard).await?;
    Ok(promoted)
}

/// Gives deliveries whose order counts their places: a deferral takes its own when its window ends.
async fn place(tx: &Tx, promoted: &mut [(LeasedDelivery, Arc<PreparedWebhook>)]) -> Result<()> {
    let ordered: Vec<_> = promoted.iter_mut().filter(|(_, webhook)| webhook.webhook.definition.ordered).collect();
    let chain = |delivery: &LeasedDelivery| (delivery.reference.webhook_event_id, delivery.reference.contact_id);
    let chains: Vec<_> = ordered.iter().map(|(delivery, _)| chain(delivery)).collect();
    for ((delivery, _), place) in ordered.into_iter().zip(lane::places(tx, &chains).await?) {
        delivery.order = Some(place);
    }
    Ok(())
}

/// The tags of the last trigger; since when the contact holds them, or held them until it was untagged.
async fn tag_marks(tx: &Tx, delivery: &LeasedDelivery, config: &WorkspaceConfig) -> Result<Vec<TagMark>> {
    let held = contact_tag::since(tx.db(), delivery.reference.contact_id, &delivery.reference.tag_ids).await?;
    let marks = delivery.reference.tag_ids.iter().filter_map(|id| {
        let tag = config.tag(*id)?;
        let since = held.get(id).copied().unwrap_or(delivery.trigger_time);
        Some(TagMark { id: *id, name: tag.name.clone(), since })
    });
    Ok(marks.collect())
}

async fn finish(tx: &Tx, delivery: &LeasedDelivery, state: State, reason: Reason) -> Result<()> {
    end::end(tx, delivery.workspace_id, Which::Delivery(delivery.id), state, reason).await?;
    Ok(())
}
