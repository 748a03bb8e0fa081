//! Ending deliveries before they are delivered, and erasing what they hold of a contact.

use sea_orm::{ConnectionTrait, Statement, Value};

use super::{DEFERRED, WAITING, reference_of};
use crate::domain::delivery::{Reason, Source, State};
use crate::domain::outcome::{DeliveryRef, Kind, Outcome};
use crate::error::Result;
use crate::ids::{ContactId, DeliveryId, WebhookEventId, WebhookId, WorkspaceId};
use crate::store::Tx;

/// Which deliveries to end; those that are final already stay as they are.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    /// One.
    Delivery(DeliveryId),
    /// Up to so many of a webhook.
    Webhook(WebhookId, i64),
    /// All of a webhook event.
    Event(WebhookId, WebhookEventId),
    /// All of a contact, but those that its deletion itself sets off.
    Contact(ContactId),
}

/// Ends deliveries that wait or are deferred in `state`, and reports each. An attempt in flight keeps its lease, so that
/// its result is recorded. Answers with how many there were.
///
/// # Errors
///
/// The database's.
pub async fn end(tx: &Tx, workspace: WorkspaceId, which: Which, state: State, reason: Reason) -> Result<usize> {
    let (column, id) = match which {
        Which::Delivery(id) => ("id", id.0),
        Which::Webhook(id, _) | Which::Event(id, _) => ("webhook_id", id.0),
        Which::Contact(id) => ("contact_id", id.0),
    };
    // The values of a contact that was deleted live as long as the delivery.
    let deletion = Source::ContactDeleted.code();
    let only = match which {
        Which::Contact(_) => format!(" AND source <> {deletion}"),
        Which::Event(..) => " AND webhook_event_id = $6".to_owned(),
        Which::Webhook(..) => format!(
            " AND id IN (SELECT id FROM deliveries WHERE webhook_id = $1 AND state IN ({DEFERRED}, {WAITING}) LIMIT $6)"
        ),
        Which::Delivery(_) => String::new(),
    };
    let sql = format!(
        "UPDATE deliveries SET state = $3, reason = $4, due_us = NULL, parked = FALSE, finished_us = $5, \
         snapshot = CASE WHEN source = {deletion} THEN NULL ELSE snapshot END, trigger_data = NULL, erased = erased OR source = {deletion} \
         WHERE {column} = $1 AND workspace_id = $2 AND state IN ({DEFERRED}, {WAITING}){only} \
         RETURNING id, webhook_id, webhook_event_id, contact_id, source, tag_ids, order_no"
    );
    let mut values: Vec<Value> =
        vec![id.into(), workspace.0.into(), state.code().into(), reason.code().into(), tx.now().0.into()];
    match which {
        Which::Event(_, event) => values.push(event.0.into()),
        Which::Webhook(_, limit) => values.push(limit.into()),
        Which::Delivery(_) | Which::Contact(_) => {}
    }
    let rows =
        tx.db().query_all_raw(Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values)).await?;
    for row in &rows {
        let reference = reference_of(row)?;
        let webhook = WebhookId(row.try_get("", "webhook_id")?);
        if row.try_get::<Option<i64>>("", "order_no")?.is_some() {
            tx.note_freed(webhook, workspace, (reference.webhook_event_id, reference.contact_id));
        }
        if reference.source == Source::ContactDeleted {
            erase_attempts(tx, &reference).await?;
        }
        tx.report(Outcome {
            workspace_id: workspace,
            kind: if state == State::Skipped { Kind::Skipped } else { Kind::Cancelled },
            reason,
            recorded: tx.now(),
            webhook_id: webhook,
            delivery: Some(reference),
            attempt: None,
            next_attempt: None,
        });
    }
    Ok(rows.len())
}

/// Erases the values that a contact's deliveries hold, but of those that its deletion sets off: they lose them when they
/// are final.
///
/// # Errors
///
/// The database's.
pub async fn erase_contact(tx: &Tx, contact: ContactId) -> Result<()> {
    let sql = format!(
        "UPDATE deliveries SET snapshot = NULL, trigger_data = NULL, erased = TRUE WHERE contact_id = $1 AND source <> {}",
        Source::ContactDeleted.code()
    );
    execute(tx, &sql, vec![contact.0.into()]).await
}

/// Erases what earlier attempts of a delivery show of the contact, which was deleted.
///
/// # Errors
///
/// The database's.
pub async fn erase_attempts(tx: &Tx, delivery: &DeliveryRef) -> Result<()> {
    let sql = "UPDATE outcomes SET url = '', response_body = $2, response_location = '', error_detail = '' \
               WHERE delivery_id = $1 AND attempt_number IS NOT NULL";
    tx.forget_outcomes_of(delivery.contact_id);
    execute(tx, sql, vec![delivery.id.0.into(), Vec::<u8>::new().into()]).await
}

async fn execute(tx: &Tx, sql: &str, values: Vec<Value>) -> Result<()> {
    tx.db().execute_raw(Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values)).await?;
    Ok(())
}
