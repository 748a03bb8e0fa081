//! Events.

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use uuid::Uuid;

use super::Tx;
use super::bulk::Bulk;
use super::entity::event;
use crate::domain::event::Event;
use crate::error::Result;
use crate::ids::{ContactId, EventId, TypedId, WorkspaceId};

/// An event to insert.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// The event.
    pub event: Event,
    /// How many causes inside the system lie before it.
    pub depth: i16,
    /// The last of them.
    pub cause_id: Option<Uuid>,
}

/// Inserts events.
///
/// # Errors
///
/// The database's.
pub async fn insert(tx: &Tx, new: &[NewEvent]) -> Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    let id = |event: &Event| event.id.unwrap_or_else(|| EventId::generate(tx.now(), tx.store().entropy())).0;
    let events: Vec<&Event> = new.iter().map(|new| &new.event).collect();
    let bulk = Bulk::new(tx.db())
        .uuid("id", events.iter().map(|event| id(event)))
        .uuid("workspace_id", new.iter().map(|new| new.workspace_id.0))
        .uuid("contact_id", events.iter().map(|event| event.contact_id.0))
        .text("type", events.iter().map(|event| event.event_type.clone()))
        .optional_text("attributes", events.iter().map(|event| event.attributes.as_ref().map(ToString::to_string)))
        .optional_uuid("tag_id", events.iter().map(|event| event.tag_id.map(|tag| tag.0)))
        .int("event_us", events.iter().map(|event| event.event_time.0))
        .int("recorded_us", events.iter().map(|event| event.recorded.0))
        .int("causation_depth", new.iter().map(|new| new.depth.into()))
        .optional_uuid("cause_id", new.iter().map(|new| new.cause_id));
    bulk.execute(tx.db(), |rows| {
        format!(
            "INSERT INTO events (id, workspace_id, contact_id, type, attributes, tag_id, event_us, recorded_us, \
             causation_depth, cause_id) \
             SELECT id, workspace_id, contact_id, type, attributes, tag_id, event_us, recorded_us, causation_depth, \
             cause_id FROM {rows} WHERE TRUE"
        )
    })
    .await?;
    Ok(())
}

/// Deletes the events of a contact.
///
/// # Errors
///
/// The database's.
pub async fn delete_of_contact(tx: &Tx, contact: ContactId) -> Result<()> {
    event::Entity::delete_many().filter(event::Column::ContactId.eq(contact.0)).exec(tx.db()).await?;
    Ok(())
}
