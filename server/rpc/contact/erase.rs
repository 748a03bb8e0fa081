//! Deleting a contact: what its deletion sets off, and the erasure of its data.

use std::sync::Arc;

use crate::automation::{Origin, Trigger, TriggerDecision, fire};
use crate::domain::contact::Contact;
use crate::domain::delivery::{Reason, Source, State};
use crate::error::Result;
use crate::ids::{ContactId, WorkspaceId};
use crate::rpc::call::check_etag;
use crate::store::contact::ContactRef;
use crate::store::delivery::end::{self, Which};
use crate::store::{self, Tx};

/// Deletes a contact and erases its data, but what the deletion itself sends: that is erased when it is sent or given up.
///
/// # Errors
///
/// [`crate::error::Error::NotFound`], [`crate::error::Error::EtagMismatch`]; the database's.
pub(super) async fn delete(
    tx: &Tx,
    workspace: WorkspaceId,
    id: ContactId,
    etag: &str,
    origin: &Origin,
) -> Result<Vec<TriggerDecision>> {
    // Nobody may plan or lease a delivery of the contact meanwhile.
    tx.gate_exclusive().await?;
    let which = ContactRef::Id(id);
    let contact = store::contact::lock(tx, workspace, &which).await?.ok_or_else(|| which.not_found())?;
    check_etag("contact", etag, contact.version)?;
    let decisions = fire_deletion(tx, workspace, contact, origin).await?;
    end::end(tx, workspace, Which::Contact(id), State::Cancelled, Reason::ContactDeleted).await?;
    store::extra_attempt::drop_of_contact(tx, id).await?;
    // The deliveries first: an attempt that is being settled has then either shown its outcome, or sees the erasure.
    end::erase_contact(tx, id).await?;
    store::outcome::erase_contact(tx, id).await?;
    store::event::delete_of_contact(tx, id).await?;
    store::contact_tag::remove_all(tx, id).await?;
    store::enrollment::forget_contact(tx, id).await?;
    store::cooldown::forget_contact(tx, workspace, id).await?;
    store::contact::delete(tx, workspace, id).await?;
    Ok(decisions)
}

async fn fire_deletion(
    tx: &Tx,
    workspace_id: WorkspaceId,
    contact: Contact,
    origin: &Origin,
) -> Result<Vec<TriggerDecision>> {
    let config = tx.config(workspace_id).await?;
    let contact = Arc::new(contact);
    let webhooks = config.webhooks().into_iter().filter(|prepared| prepared.webhook.definition.on_contact_deleted);
    let triggers: Vec<Trigger> = webhooks
        .map(|webhook| Trigger {
            webhook: Arc::clone(webhook),
            config: Arc::clone(&config),
            contact: Arc::clone(&contact),
            workspace_id,
            source: Source::ContactDeleted,
            tags: Vec::new(),
            only: None,
            campaign: None,
            origin: origin.clone(),
        })
        .collect();
    fire(tx, &triggers).await
}
