//! Events that callers record.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Happening, Origin, Shared, record};
use crate::domain::contact::Contact;
use crate::domain::event::Event;
use crate::domain::time::Micros;
use crate::error::{Error, Result};
use crate::ids::{ContactId, EventId, WorkspaceId};
use crate::store::contact::ContactRef;
use crate::store::{self, Store, Tx};

/// An event to record.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Its id.
    pub id: EventId,
    /// Whose contact.
    pub workspace_id: WorkspaceId,
    /// To whom it happened.
    pub contact: ContactRef,
    /// Its dotted type.
    pub event_type: String,
    /// What there is to say of it.
    pub attributes: Option<Value>,
    /// When it happened; `None` for the time of the recording.
    pub event_time: Option<Micros>,
    /// Where it comes from.
    pub origin: Origin,
}

/// An event that was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Its id.
    pub id: EventId,
    /// To whom it happened.
    pub contact_id: ContactId,
    /// When it happened.
    pub event_time: Micros,
    /// When it was recorded.
    pub recorded: Micros,
}

impl Shared for Recording {
    type Answer = Recorded;

    const NAME: &'static str = "record";

    fn rows(&self, _store: &Store) -> usize {
        1
    }

    async fn run(tx: &Tx, wishes: &[Self]) -> Result<Vec<Result<Recorded>>> {
        // Whoever deletes a contact takes the gate alone.
        tx.gate_shared().await?;
        let wanted: HashSet<_> = wishes.iter().map(|wish| (wish.workspace_id, wish.contact.clone())).collect();
        let contacts = store::contact::find_many(tx.db(), &wanted.into_iter().collect::<Vec<_>>()).await?;
        let (mut happenings, mut results) = (Vec::with_capacity(wishes.len()), Vec::with_capacity(wishes.len()));
        for wish in wishes {
            let happening = wish.resolve(tx, &contacts);
            results.push(happening.as_ref().map(recorded).map_err(Error::clone));
            happenings.extend(happening.ok());
        }
        record(tx, happenings).await?;
        Ok(results)
    }
}

impl Recording {
    fn resolve(&self, tx: &Tx, contacts: &HashMap<(WorkspaceId, ContactRef), Contact>) -> Result<Happening> {
        let contact = contacts.get(&(self.workspace_id, self.contact.clone()));
        let contact_id = contact.map(|contact| contact.id).ok_or_else(|| self.contact.not_found())?;
        let event = Event {
            id: Some(self.id),
            contact_id,
            event_type: self.event_type.clone(),
            attributes: self.attributes.clone(),
            tag_id: None,
            event_time: self.event_time.unwrap_or(tx.now()),
            recorded: tx.now(),
        };
        Ok(Happening { workspace_id: self.workspace_id, event, origin: self.origin.clone() })
    }
}

fn recorded(happening: &Happening) -> Recorded {
    let event = &happening.event;
    let id = event.id.unwrap_or(EventId(uuid::Uuid::nil()));
    Recorded { id, contact_id: event.contact_id, event_time: event.event_time, recorded: event.recorded }
}
