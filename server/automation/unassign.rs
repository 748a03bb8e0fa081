//! Taking tags off contacts.

use crate::domain::event::{Event, TAG_ASSIGNED, TAG_REMOVED};
use crate::domain::time::Micros;
use crate::error::Result;
use crate::ids::{ContactId, EventId, TagId, TypedId, WorkspaceId};
use crate::store::event::NewEvent;
use crate::store::{self, Tx};

/// Takes tags off contacts; answers with those that were held. The timeline shows since when a contact holds a tag; of a
/// tag that it holds no more, events keep that and the end. Rows are distinct; the caller has taken the gate.
///
/// # Errors
///
/// The database's.
pub async fn unassign(tx: &Tx, rows: &[(WorkspaceId, ContactId, TagId)]) -> Result<Vec<(ContactId, TagId)>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let removed = store::contact_tag::remove(tx, rows).await?;
    let events: Vec<NewEvent> = removed
        .iter()
        .flat_map(|row| {
            let at = |event_type, time| tag_event(tx, (row.workspace_id, row.contact_id, row.tag_id), event_type, time);
            [at(TAG_ASSIGNED, row.since), at(TAG_REMOVED, tx.now())]
        })
        .collect();
    store::event::insert(tx, &events).await?;
    Ok(removed.into_iter().map(|row| (row.contact_id, row.tag_id)).collect())
}

fn tag_event(
    tx: &Tx,
    (workspace_id, contact_id, tag): (WorkspaceId, ContactId, TagId),
    event_type: &str,
    time: Micros,
) -> NewEvent {
    let event = Event {
        id: Some(EventId::generate(tx.now(), tx.store().entropy())),
        contact_id,
        event_type: event_type.to_owned(),
        attributes: None,
        tag_id: Some(tag),
        event_time: time,
        recorded: time,
    };
    NewEvent { workspace_id, event, depth: 0, cause_id: None }
}
