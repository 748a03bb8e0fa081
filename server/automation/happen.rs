//! What happens to contacts: recorded as events.

use serde_json::json;

use super::fire::{Trigger, fire};
use super::react::react;
use super::{Origin, TriggerDecision};
use crate::domain::contact::{Contact, ContactStatus};
use crate::domain::delivery::{Decision, Source};
use crate::domain::event::{CONTACT_CREATED, CONTACT_UNSUBSCRIBED, CONTACT_UPDATED, Event, WEBHOOK_TRIGGERED};
use crate::domain::outcome::DeliveryRef;
use crate::domain::webhook::Webhook;
use crate::error::Result;
use crate::ids::{ContactId, DeliveryId, EventId, TypedId, WorkspaceId};
use crate::store::config::WorkspaceConfig;
use crate::store::event::NewEvent;
use crate::store::{self, Tx};

/// Something that happened to a contact.
#[derive(Clone, Debug)]
pub struct Happening {
    /// Whose contact.
    pub workspace_id: WorkspaceId,
    /// What happened, and to whom.
    pub event: Event,
    /// Where it comes from.
    pub origin: Origin,
}

impl Happening {
    /// Something of a type that happens now.
    #[must_use]
    pub fn now(
        tx: &Tx,
        (workspace_id, contact_id): (WorkspaceId, ContactId),
        event_type: &str,
        attributes: serde_json::Value,
        origin: Origin,
    ) -> Self {
        let event = Event {
            id: Some(EventId::generate(tx.now(), tx.store().entropy())),
            contact_id,
            event_type: event_type.to_owned(),
            attributes: Some(attributes),
            tag_id: None,
            event_time: tx.now(),
            recorded: tx.now(),
        };
        Self { workspace_id, event, origin }
    }

    /// Not to be recorded: other rows say that it happened, and the timeline is made of them too.
    pub(super) fn derived(mut self) -> Self {
        self.event.id = None;
        self
    }
}

/// Records what happened, and what it sets off, in the caller's transaction. The caller has taken the gate.
///
/// # Errors
///
/// The database's; then nothing was recorded.
pub async fn record(tx: &Tx, happenings: Vec<Happening>) -> Result<()> {
    note(tx, &happenings).await?;
    react(tx, happenings).await
}

/// Records what happened, as far as no other rows say it.
pub(super) async fn note(tx: &Tx, happenings: &[Happening]) -> Result<()> {
    let new = happenings.iter().filter(|happening| happening.event.id.is_some()).map(|happening| NewEvent {
        workspace_id: happening.workspace_id,
        event: happening.event.clone(),
        depth: happening.origin.depth,
        cause_id: happening.origin.cause_id,
    });
    store::event::insert(tx, &new.collect::<Vec<_>>()).await
}

/// That webhooks were triggered, where somebody listens. The deliveries tell the timeline.
pub(super) fn triggered(tx: &Tx, triggers: &[Trigger], decisions: &[TriggerDecision]) -> Vec<Happening> {
    let scheduled = triggers.iter().zip(decisions).filter(|(_, decision)| decision.decision == Decision::Scheduled);
    scheduled.filter_map(|(trigger, decision)| heard_of(tx, trigger, decision.delivery_ids.first())).collect()
}

/// That a webhook was triggered, if somebody listens.
pub(super) fn heard_of(tx: &Tx, trigger: &Trigger, delivery: Option<&DeliveryId>) -> Option<Happening> {
    let is_heard = !trigger.config.listeners(WEBHOOK_TRIGGERED).is_empty() && trigger.source != Source::Test;
    let webhook = &trigger.webhook.webhook;
    let attributes = || {
        json!({
            "webhook_id": webhook.id.to_string(),
            "webhook": webhook.name,
            "source": trigger.source.as_str(),
        })
    };
    let origin = || Origin { cause_id: delivery.map(|id| id.0), ..trigger.origin.clone() };
    let contact = (trigger.workspace_id, trigger.contact.id);
    is_heard.then(|| Happening::now(tx, contact, WEBHOOK_TRIGGERED, attributes(), origin()).derived())
}

/// How a contact came to be as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Created,
    /// It was changed, and had this status before.
    Updated(ContactStatus),
}

/// Records that a contact was changed, and what its creation or change sets off. The caller has taken the gate.
///
/// # Errors
///
/// The database's.
pub async fn changed(
    tx: &Tx,
    workspace: WorkspaceId,
    contact: &Contact,
    change: Change,
    origin: &Origin,
) -> Result<()> {
    let changes = changes(tx, workspace, contact, change, origin);
    note(tx, &changes).await?;
    let config = tx.config(workspace).await?;
    react(tx, heard(&config, changes)).await
}

/// What somebody listens to.
pub(super) fn heard(config: &WorkspaceConfig, happenings: Vec<Happening>) -> Vec<Happening> {
    let is_heard = |happening: &Happening| !config.listeners(&happening.event.event_type).is_empty();
    happenings.into_iter().filter(is_heard).collect()
}

/// That a contact was created or changed. The contact itself says when it was created.
pub(super) fn changes(
    tx: &Tx,
    workspace: WorkspaceId,
    contact: &Contact,
    change: Change,
    origin: &Origin,
) -> Vec<Happening> {
    let happening = |event_type| Happening::now(tx, (workspace, contact.id), event_type, json!({}), origin.clone());
    let is_unsubscribed = contact.status == ContactStatus::Unsubscribed;
    match change {
        Change::Created => vec![happening(CONTACT_CREATED).derived()],
        Change::Updated(before) if is_unsubscribed && before != contact.status => {
            vec![happening(CONTACT_UPDATED), happening(CONTACT_UNSUBSCRIBED)]
        }
        Change::Updated(_) => vec![happening(CONTACT_UPDATED)],
    }
}

/// [`fire`], with what smart tags make of it: for triggers that no tag and no campaign sets off. The caller has taken the
/// gate.
///
/// # Errors
///
/// The database's.
pub async fn trigger(tx: &Tx, triggers: &[Trigger]) -> Result<Vec<TriggerDecision>> {
    let decisions = fire(tx, triggers).await?;
    react(tx, triggered(tx, triggers, &decisions)).await?;
    Ok(decisions)
}

/// A delivery that has come to its end.
#[derive(Clone, Debug)]
pub struct EndedDelivery<'a> {
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Its webhook.
    pub webhook: &'a Webhook,
    /// What outcomes say of it.
    pub reference: &'a DeliveryRef,
    /// How it ended: `webhook.delivered` or `webhook.exhausted`.
    pub event_type: &'static str,
    /// The last attempt's status code, if there was one.
    pub status_code: Option<u16>,
    /// How many causes inside the system lie before it.
    pub depth: i16,
    /// The trace that it belongs to.
    pub traceparent: Option<&'a str>,
}

/// What the ends of deliveries set off. The deliveries tell the timeline. The caller has taken the gate.
///
/// # Errors
///
/// The database's.
pub async fn ended(tx: &Tx, deliveries: &[EndedDelivery<'_>]) -> Result<()> {
    let happening = |delivery: &EndedDelivery<'_>| {
        let attributes = json!({
            "webhook_id": delivery.webhook.id.to_string(),
            "webhook": delivery.webhook.name,
            "source": delivery.reference.source.as_str(),
            "delivery_id": delivery.reference.id.to_string(),
            "status_code": delivery.status_code,
        });
        let origin = Origin {
            depth: delivery.depth,
            cause_id: Some(delivery.reference.id.0),
            traceparent: delivery.traceparent.map(ToOwned::to_owned),
            data: None,
        };
        let contact = (delivery.workspace_id, delivery.reference.contact_id);
        Happening::now(tx, contact, delivery.event_type, attributes, origin).derived()
    };
    react(tx, deliveries.iter().map(happening).collect()).await
}
