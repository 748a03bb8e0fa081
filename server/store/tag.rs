//! Tags.

use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect,
};

use super::entity::{tag, webhook, webhook_tag};
use super::{Tx, starts_with};
use crate::domain::tag::{Tag, TagKind};
use crate::domain::time::Micros;
use crate::error::{Error, OnUnique, Result};
use crate::ids::{TagId, WebhookId, WorkspaceId};

/// The most tags of a workspace.
pub const MAX_TAGS: u64 = 10_000;

/// Selects tags for which all given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct TagFilter {
    /// Tags whose name starts so.
    pub name_prefix: String,
    /// Tags of these kinds; empty for any.
    pub kinds: Vec<TagKind>,
}

/// A tag.
///
/// # Errors
///
/// [`Error::NotFound`] if the workspace has none such; the database's.
pub async fn get(db: &impl ConnectionTrait, workspace: WorkspaceId, id: TagId) -> Result<Tag> {
    let query = tag::Entity::find().filter(tag::Column::Id.eq(id.0)).filter(tag::Column::WorkspaceId.eq(workspace.0));
    query.one(db).await?.map(from_row).transpose()?.ok_or_else(|| Error::not_found(id))
}

/// Tags in the order of their creation, after an id.
///
/// # Errors
///
/// The database's.
pub async fn list(
    db: &impl ConnectionTrait,
    workspace: WorkspaceId,
    filter: &TagFilter,
    after: Option<TagId>,
    limit: u64,
) -> Result<Vec<Tag>> {
    let mut query = tag::Entity::find().filter(tag::Column::WorkspaceId.eq(workspace.0));
    if let Some(after) = after {
        query = query.filter(tag::Column::Id.gt(after.0));
    }
    if !filter.name_prefix.is_empty() {
        query = query.filter(starts_with(tag::Column::Name, &filter.name_prefix));
    }
    if !filter.kinds.is_empty() {
        query = query.filter(tag::Column::Kind.is_in(filter.kinds.iter().map(|kind| kind.code())));
    }
    let rows = query.order_by_asc(tag::Column::Id).limit(limit).all(db).await?;
    rows.into_iter().map(from_row).collect()
}

/// All tags of a workspace.
///
/// # Errors
///
/// The database's.
pub(super) async fn all(db: &impl ConnectionTrait, workspace: WorkspaceId) -> Result<Vec<Tag>> {
    list(db, workspace, &TagFilter::default(), None, MAX_TAGS).await
}

/// Inserts a tag.
///
/// # Errors
///
/// [`Error::AlreadyExists`] if its name is taken, [`Error::LimitReached`]; the database's.
pub async fn insert(tx: &Tx, workspace: WorkspaceId, tag: &Tag) -> Result<()> {
    refuse_taken(tx, workspace, tag).await?;
    // Its row lock puts inserts of one workspace in a row, so that the count holds.
    tx.config_changed(workspace).await?;
    let count = tag::Entity::find().filter(tag::Column::WorkspaceId.eq(workspace.0)).count(tx.db()).await?;
    if count >= MAX_TAGS {
        return Err(Error::LimitReached { resource: "tag", limit: MAX_TAGS });
    }
    to_row(workspace, tag).into_active_model().reset_all().insert(tx.db()).await.on_unique(|| taken(String::new()))?;
    Ok(())
}

/// Writes a tag that exists, with its version raised by one.
///
/// # Errors
///
/// [`Error::AlreadyExists`] if its name is taken; [`Error::EtagMismatch`] if another transaction was faster; the
/// database's.
pub async fn update(tx: &Tx, workspace: WorkspaceId, tag: &Tag) -> Result<()> {
    refuse_taken(tx, workspace, tag).await?;
    let result = tag::Entity::update_many()
        .set(to_row(workspace, tag).into_active_model().reset_all())
        .filter(tag::Column::Id.eq(tag.id.0))
        .filter(tag::Column::Version.eq(tag.version - 1))
        .exec(tx.db())
        .await
        .on_unique(|| taken(String::new()))?;
    if result.rows_affected == 0 {
        return Err(Error::EtagMismatch { resource: "tag" });
    }
    tx.config_changed(workspace).await
}

/// Deletes a tag's row; what hangs on it is the caller's to end.
///
/// # Errors
///
/// The database's.
pub async fn delete(tx: &Tx, workspace: WorkspaceId, id: TagId) -> Result<()> {
    tag::Entity::delete_many()
        .filter(tag::Column::Id.eq(id.0))
        .filter(tag::Column::WorkspaceId.eq(workspace.0))
        .exec(tx.db())
        .await?;
    tx.config_changed(workspace).await
}

/// The webhooks that a tag activates, with their names, after an id.
///
/// # Errors
///
/// The database's.
pub async fn usages(
    db: &impl ConnectionTrait,
    workspace: WorkspaceId,
    id: TagId,
    after: Option<WebhookId>,
    limit: u64,
) -> Result<Vec<(WebhookId, String)>> {
    let mut query = webhook_tag::Entity::find()
        .filter(webhook_tag::Column::TagId.eq(id.0))
        .filter(webhook_tag::Column::WorkspaceId.eq(workspace.0));
    if let Some(after) = after {
        query = query.filter(webhook_tag::Column::WebhookId.gt(after.0));
    }
    let rows = query
        .find_also_related(webhook::Entity)
        .order_by_asc(webhook_tag::Column::WebhookId)
        .limit(limit)
        .all(db)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(usage, webhook)| (WebhookId(usage.webhook_id), webhook.map(|webhook| webhook.name).unwrap_or_default()))
        .collect())
}

/// A failed statement ends a PostgreSQL transaction, so that uniqueness is asked before it is enforced; the unique
/// index decides between transactions that ask at the same time.
async fn refuse_taken(tx: &Tx, workspace: WorkspaceId, tag: &Tag) -> Result<()> {
    let other = tag::Entity::find()
        .filter(tag::Column::WorkspaceId.eq(workspace.0))
        .filter(tag::Column::Name.eq(tag.name.as_str()))
        .filter(tag::Column::Id.ne(tag.id.0))
        .one(tx.db())
        .await?;
    other.map_or(Ok(()), |other| Err(taken(TagId(other.id).to_string())))
}

fn taken(name: String) -> Error {
    Error::AlreadyExists { resource: "tag", field: "name", name }
}

pub(super) fn from_row(row: tag::Model) -> Result<Tag> {
    Ok(Tag {
        id: TagId(row.id),
        name: row.name,
        kind: TagKind::try_from(row.kind).map_err(Error::internal)?,
        description: row.description,
        version: row.version,
        created: Micros(row.created_us),
        updated: Micros(row.updated_us),
    })
}

fn to_row(workspace: WorkspaceId, tag: &Tag) -> tag::Model {
    tag::Model {
        id: tag.id.0,
        workspace_id: workspace.0,
        name: tag.name.clone(),
        kind: tag.kind.code(),
        description: tag.description.clone(),
        version: tag.version,
        created_us: tag.created.0,
        updated_us: tag.updated.0,
    }
}
