//! Webhooks. The definition is one JSON document; signing secrets and sensitive header values are sealed beside it.

use std::collections::BTreeMap;

use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect, Set, Statement,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::bulk::Bulk;
use super::entity::{webhook, webhook_tag};
use super::{Store, Tx, deployment, key, labels, starts_with};
use crate::domain::delivery::Reason;
use crate::domain::labels::Labels;
use crate::domain::outcome::{Kind, Outcome};
use crate::domain::signature::SigningSecret;
use crate::domain::time::Micros;
use crate::domain::webhook::{Definition, MAX_FAILING, Webhook, WebhookSecret, WebhookState};
use crate::error::{Error, Result};
use crate::ids::{TagId, WebhookId, WorkspaceId};
use crate::secrets::Sealer;

/// The most webhooks of a workspace.
pub const MAX_WEBHOOKS: u64 = 1_000;

/// Selects webhooks for which all given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct WebhookFilter {
    /// Webhooks in one of these states; empty for any.
    pub states: Vec<WebhookState>,
    /// Webhooks that this tag activates.
    pub activation_tag: Option<TagId>,
    /// Webhooks whose name starts so.
    pub name_prefix: String,
    /// Webhooks with one of these keys; empty for any.
    pub keys: Vec<String>,
    /// Webhooks with all of these labels.
    pub labels: Labels,
}

/// What is encrypted of a webhook.
#[derive(Serialize, Deserialize)]
struct Sealed {
    secrets: Vec<SealedSecret>,
    /// Values of sensitive headers, by name.
    headers: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct SealedSecret {
    text: String,
    created_us: i64,
    #[serde(default)]
    expires_us: Option<i64>,
}

/// A webhook.
///
/// # Errors
///
/// [`Error::NotFound`] if the workspace has none such; the database's.
pub async fn get(db: &impl ConnectionTrait, store: &Store, workspace: WorkspaceId, id: WebhookId) -> Result<Webhook> {
    let query = webhook::Entity::find()
        .filter(webhook::Column::Id.eq(id.0))
        .filter(webhook::Column::WorkspaceId.eq(workspace.0));
    query.one(db).await?.map(|row| from_row(store, row)).transpose()?.ok_or_else(|| Error::not_found(id))
}

/// Webhooks in the order of their creation, after an id.
///
/// # Errors
///
/// The database's.
pub async fn list(
    db: &impl ConnectionTrait,
    store: &Store,
    workspace: WorkspaceId,
    filter: &WebhookFilter,
    after: Option<WebhookId>,
    limit: u64,
) -> Result<Vec<Webhook>> {
    let mut query = webhook::Entity::find().filter(webhook::Column::WorkspaceId.eq(workspace.0));
    if let Some(after) = after {
        query = query.filter(webhook::Column::Id.gt(after.0));
    }
    if !filter.states.is_empty() {
        query = query.filter(webhook::Column::State.is_in(filter.states.iter().map(|state| state.code())));
    }
    if !filter.name_prefix.is_empty() {
        query = query.filter(starts_with(webhook::Column::Name, &filter.name_prefix));
    }
    if !filter.keys.is_empty() {
        query = query.filter(webhook::Column::Key.is_in(&filter.keys));
    }
    query = query.filter(labels::all_of(webhook::Column::Labels, &filter.labels)?);
    if let Some(tag) = filter.activation_tag {
        let activated = webhook_tag::Entity::find()
            .select_only()
            .column(webhook_tag::Column::WebhookId)
            .filter(webhook_tag::Column::TagId.eq(tag.0));
        query = query.filter(webhook::Column::Id.in_subquery(sea_orm::QueryTrait::into_query(activated)));
    }
    let rows = query.order_by_asc(webhook::Column::Id).limit(limit).all(db).await?;
    rows.into_iter().map(|row| from_row(store, row)).collect()
}

/// All webhooks of a workspace.
///
/// # Errors
///
/// The database's.
pub(super) async fn all(db: &impl ConnectionTrait, store: &Store, workspace: WorkspaceId) -> Result<Vec<Webhook>> {
    list(db, store, workspace, &WebhookFilter::default(), None, MAX_WEBHOOKS).await
}

/// Inserts a webhook.
///
/// # Errors
///
/// [`Error::AlreadyExists`] if its key is taken, [`Error::LimitReached`]; the database's.
pub async fn insert(tx: &Tx, webhook: &Webhook) -> Result<()> {
    let workspace = webhook.workspace_id;
    // Its row lock puts inserts of one workspace in a row, so that the count holds.
    tx.config_changed(workspace).await?;
    key::refuse_taken(tx, "webhooks", workspace, webhook.key.as_deref(), webhook.id).await?;
    let count = webhook::Entity::find().filter(webhook::Column::WorkspaceId.eq(workspace.0)).count(tx.db()).await?;
    if count >= MAX_WEBHOOKS {
        return Err(Error::LimitReached { resource: "webhook", limit: MAX_WEBHOOKS });
    }
    to_row(tx, webhook).await?.into_active_model().reset_all().insert(tx.db()).await?;
    link_tags(tx, webhook).await?;
    Ok(())
}

/// Writes a webhook that exists, with its version raised by one.
///
/// # Errors
///
/// [`Error::AlreadyExists`] if its key is taken; [`Error::EtagMismatch`] if another transaction was faster; the database's.
pub async fn update(tx: &Tx, webhook: &Webhook) -> Result<()> {
    tx.config_changed(webhook.workspace_id).await?;
    key::refuse_taken(tx, "webhooks", webhook.workspace_id, webhook.key.as_deref(), webhook.id).await?;
    let mut row = to_row(tx, webhook).await?.into_active_model().reset_all();
    // Written by settlements alone.
    row.failing_since_us = sea_orm::ActiveValue::NotSet;
    let result = webhook::Entity::update_many()
        .set(row)
        .filter(webhook::Column::Id.eq(webhook.id.0))
        .filter(webhook::Column::Version.eq(webhook.version - 1))
        .exec(tx.db())
        .await?;
    if result.rows_affected == 0 {
        return Err(Error::EtagMismatch { resource: "webhook" });
    }
    unlink_tags(tx, webhook.id).await?;
    link_tags(tx, webhook).await
}

/// Forgets how long a webhook has been failing: it was resumed, and gets its full time again.
///
/// # Errors
///
/// The database's.
pub async fn forget_failing(tx: &Tx, id: WebhookId) -> Result<()> {
    let row = webhook::ActiveModel { failing_since_us: Set(None), ..Default::default() };
    webhook::Entity::update_many().set(row).filter(webhook::Column::Id.eq(id.0)).exec(tx.db()).await?;
    Ok(())
}

/// Disables a webhook that is active, and reports it; as failing only if it has had no success since that was seen. The
/// caller has taken the gate in exclusive mode.
///
/// # Errors
///
/// The database's.
pub async fn disable(tx: &Tx, workspace: WorkspaceId, id: WebhookId, reason: Reason) -> Result<()> {
    let row = webhook::ActiveModel {
        state: Set(WebhookState::Disabled.code()),
        state_reason: Set(reason.code()),
        state_us: Set(tx.now().0),
        updated_us: Set(tx.now().0),
        ..Default::default()
    };
    let mut update = webhook::Entity::update_many()
        .set(row)
        .col_expr(webhook::Column::Version, Expr::col(webhook::Column::Version).add(1))
        .filter(webhook::Column::Id.eq(id.0))
        .filter(webhook::Column::State.eq(WebhookState::Active.code()));
    if reason == Reason::Failing {
        let limit = tx.now().saturating_sub(MAX_FAILING);
        update = update.filter(webhook::Column::FailingSinceUs.lte(limit.0));
    }
    let result = update.exec(tx.db()).await?;
    if result.rows_affected == 0 {
        return Ok(());
    }
    report_state(tx, workspace, id, Kind::WebhookDisabled, reason);
    tx.config_changed(workspace).await
}

/// Removes secrets that have expired from up to `limit` webhooks; how many webhooks had some.
///
/// # Errors
///
/// The database's.
pub async fn remove_expired_secrets(tx: &Tx, limit: usize) -> Result<usize> {
    // Nobody changes webhooks meanwhile, nor the master key.
    tx.gate_shared().await?;
    let query = webhook::Entity::find()
        .filter(webhook::Column::SecretExpiresUs.lte(tx.now().0))
        .order_by_asc(webhook::Column::SecretExpiresUs)
        .limit(limit as u64);
    let rows = query.all(tx.db()).await?;
    let count = rows.len();
    for row in rows {
        // The etag stays: for whoever reads the webhook, nothing has changed.
        let webhook = from_row(tx.store(), row)?;
        let webhook::Model { sealed, secret_expires_us, .. } = to_row(tx, &webhook).await?;
        let row = webhook::ActiveModel {
            sealed: Set(sealed),
            secret_expires_us: Set(secret_expires_us),
            ..Default::default()
        };
        webhook::Entity::update_many().set(row).filter(webhook::Column::Id.eq(webhook.id.0)).exec(tx.db()).await?;
    }
    Ok(count)
}

/// Seals what is sealed of up to `limit` webhooks after an id with another master key. Answers with their number and the
/// last one's id; `None` if there are no more.
///
/// # Errors
///
/// [`Error::Internal`] if one can't be opened; the database's.
pub(super) async fn reseal(tx: &Tx, to: &Sealer, after: Uuid, limit: usize) -> Result<Option<(usize, Uuid)>> {
    let query = webhook::Entity::find().filter(webhook::Column::Id.gt(after)).order_by_asc(webhook::Column::Id);
    let rows = query.limit(limit as u64).all(tx.db()).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let mut resealed = Vec::with_capacity(rows.len());
    for row in &rows {
        let (id, workspace) = (WebhookId(row.id), WorkspaceId(row.workspace_id));
        let context = context(workspace, id);
        let opened = tx.store().0.sealer.open(&context, &row.sealed);
        let opened = opened.map_err(|error| Error::internal(format!("webhook {id} of {workspace}: {error}")))?;
        resealed.push(tx.store().entropy().with(|rng| to.seal(rng, &context, &opened)));
    }
    let bulk = Bulk::new(tx.db()).uuid("webhook_id", rows.iter().map(|row| row.id)).bytes("resealed", resealed);
    bulk.execute(tx.db(), |rows| {
        format!("UPDATE webhooks SET sealed = r.resealed FROM {rows} WHERE id = r.webhook_id")
    })
    .await?;
    Ok(rows.last().map(|row| (rows.len(), row.id)))
}

/// Reports that a webhook's state has changed.
pub fn report_state(tx: &Tx, workspace: WorkspaceId, id: WebhookId, kind: Kind, reason: Reason) {
    tx.report(Outcome {
        workspace_id: workspace,
        kind,
        reason,
        recorded: tx.now(),
        webhook_id: id,
        delivery: None,
        attempt: None,
        next_attempt: None,
    });
}

/// Deletes a webhook's rows; its deliveries are the caller's to end.
///
/// # Errors
///
/// The database's.
pub async fn delete(tx: &Tx, workspace: WorkspaceId, id: WebhookId) -> Result<()> {
    webhook::Entity::delete_many()
        .filter(webhook::Column::Id.eq(id.0))
        .filter(webhook::Column::WorkspaceId.eq(workspace.0))
        .exec(tx.db())
        .await?;
    unlink_tags(tx, id).await?;
    tx.config_changed(workspace).await
}

/// Notes which webhooks had a success, and which only failed. Answers with those that have failed too long by now and
/// are active still.
///
/// # Errors
///
/// The database's.
pub async fn note_results(
    tx: &Tx,
    succeeded: &[WebhookId],
    failed: &[WebhookId],
) -> Result<Vec<(WorkspaceId, WebhookId)>> {
    set_failing_since(tx, succeeded, "NULL", "IS NOT NULL").await?;
    if failed.is_empty() {
        return Ok(Vec::new());
    }
    set_failing_since(tx, failed, &tx.now().0.to_string(), "IS NULL").await?;
    let mut bulk = Bulk::new(tx.db()).uuid("failed_id", failed.iter().map(|id| id.0));
    let limit = bulk.param(tx.now().saturating_sub(MAX_FAILING).0);
    let rows = bulk
        .query(tx.db(), |rows| {
            format!(
                "SELECT w.workspace_id, w.id FROM {rows} JOIN webhooks w ON w.id = r.failed_id \
                 WHERE w.failing_since_us <= {limit} AND w.state = {}",
                WebhookState::Active.code()
            )
        })
        .await?;
    rows.iter()
        .map(|row| Ok((WorkspaceId(row.try_get("", "workspace_id")?), WebhookId(row.try_get("", "id")?))))
        .collect()
}

/// Changes rows only where there is a change, which is rare: the first failure and the first success after one.
async fn set_failing_since(tx: &Tx, ids: &[WebhookId], value: &str, unless: &str) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    let bulk = Bulk::new(tx.db()).uuid("changed_id", sorted.iter().map(|id| id.0));
    bulk.execute(tx.db(), |rows| {
        format!("UPDATE webhooks SET failing_since_us = {value} FROM {rows} WHERE id = r.changed_id AND failing_since_us {unless}")
    })
    .await?;
    Ok(())
}

async fn link_tags(tx: &Tx, webhook: &Webhook) -> Result<()> {
    let links = webhook.definition.activation_tag_ids.iter().map(|tag| webhook_tag::ActiveModel {
        webhook_id: Set(webhook.id.0),
        tag_id: Set(tag.0),
        workspace_id: Set(webhook.workspace_id.0),
    });
    let links: Vec<_> = links.collect();
    if !links.is_empty() {
        webhook_tag::Entity::insert_many(links).exec_without_returning(tx.db()).await?;
    }
    Ok(())
}

async fn unlink_tags(tx: &Tx, id: WebhookId) -> Result<()> {
    let sql = "DELETE FROM webhook_tags WHERE webhook_id = $1";
    tx.db().execute_raw(Statement::from_sql_and_values(tx.db().get_database_backend(), sql, [id.0.into()])).await?;
    Ok(())
}

fn from_row(store: &Store, row: webhook::Model) -> Result<Webhook> {
    let id = WebhookId(row.id);
    let workspace_id = WorkspaceId(row.workspace_id);
    let mut definition: Definition = serde_json::from_str(&row.definition).map_err(Error::internal)?;
    let opened = store.0.sealer.open(&context(workspace_id, id), &row.sealed).map_err(Error::internal)?;
    let mut sealed: Sealed = serde_json::from_slice(&opened).map_err(Error::internal)?;
    for header in definition.headers.iter_mut().filter(|header| header.sensitive) {
        header.value = sealed.headers.remove(&header.name).unwrap_or_default();
    }
    let secrets = sealed.secrets.into_iter().map(|sealed| {
        let secret = SigningSecret::parse(&sealed.text).map_err(Error::internal)?;
        Ok(WebhookSecret { secret, created: Micros(sealed.created_us), expires: sealed.expires_us.map(Micros) })
    });
    Ok(Webhook {
        id,
        workspace_id,
        name: row.name,
        key: row.key,
        labels: labels::from_json(&row.labels)?,
        state: WebhookState::try_from(row.state).map_err(Error::internal)?,
        state_reason: Reason::try_from(row.state_reason).map_err(Error::internal)?,
        state_since: Micros(row.state_us),
        definition,
        secrets: secrets.collect::<Result<_>>()?,
        failing_since: row.failing_since_us.map(Micros),
        version: row.version,
        created: Micros(row.created_us),
        updated: Micros(row.updated_us),
    })
}

/// A webhook's row, without the secrets whose time is over.
async fn to_row(tx: &Tx, webhook: &Webhook) -> Result<webhook::Model> {
    deployment::check_master_key(tx).await?;
    let mut definition = webhook.definition.clone();
    let mut headers = BTreeMap::new();
    for header in definition.headers.iter_mut().filter(|header| header.sensitive) {
        headers.insert(header.name.clone(), std::mem::take(&mut header.value));
    }
    let secrets = webhook
        .live_secrets(tx.now())
        .map(|live| SealedSecret {
            text: live.secret.expose_text().to_string(),
            created_us: live.created.0,
            expires_us: live.expires.map(|time| time.0),
        })
        .collect();
    let plain = zeroize::Zeroizing::new(serde_json::to_vec(&Sealed { secrets, headers }).map_err(Error::internal)?);
    let context = context(webhook.workspace_id, webhook.id);
    Ok(webhook::Model {
        id: webhook.id.0,
        workspace_id: webhook.workspace_id.0,
        name: webhook.name.clone(),
        key: webhook.key.clone(),
        labels: labels::to_json(&webhook.labels)?,
        state: webhook.state.code(),
        state_reason: webhook.state_reason.code(),
        state_us: webhook.state_since.0,
        definition: serde_json::to_string(&definition).map_err(Error::internal)?,
        sealed: tx.store().entropy().with(|rng| tx.store().0.sealer.seal(rng, &context, &plain)),
        secret_expires_us: webhook.live_secrets(tx.now()).filter_map(|live| live.expires).min().map(|time| time.0),
        failing_since_us: webhook.failing_since.map(|time| time.0),
        version: webhook.version,
        created_us: webhook.created.0,
        updated_us: webhook.updated.0,
    })
}

/// A sealed value opens for its own webhook alone.
fn context(workspace: WorkspaceId, webhook: WebhookId) -> Vec<u8> {
    format!("{workspace}/{webhook}/sealed").into_bytes()
}
