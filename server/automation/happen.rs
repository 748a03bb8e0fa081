//! What happens to contacts: recorded as events.

use super::Origin;
use crate::domain::event::Event;
use crate::error::Result;
use crate::ids::{ContactId, EventId, TypedId, WorkspaceId};
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
            delivery_id: None,
            webhook_id: None,
            event_time: tx.now(),
            recorded: tx.now(),
        };
        Self { workspace_id, event, origin }
    }
}

/// Records what happened, and what it sets off, in the caller's transaction. The caller has taken the gate.
///
/// # Errors
///
/// The database's; then nothing was recorded.
pub async fn record(tx: &Tx, happenings: &[Happening]) -> Result<()> {
    let events: Vec<NewEvent> = happenings
        .iter()
        .map(|happening| NewEvent {
            workspace_id: happening.workspace_id,
            event: happening.event.clone(),
            depth: happening.origin.depth,
            cause_id: happening.origin.cause_id,
        })
        .collect();
    store::event::insert(tx, &events).await
}
