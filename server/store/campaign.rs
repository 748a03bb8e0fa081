//! Campaigns.

use sea_orm::{
    ActiveModelTrait, ActiveValue, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect,
};

use super::entity::campaign;
use super::{Tx, key, labels};
use crate::domain::campaign::{Campaign, CampaignState};
use crate::domain::labels::Labels;
use crate::domain::time::Micros;
use crate::error::{Error, OnUnique, Result};
use crate::ids::{CampaignId, TypedId, WorkspaceId};

/// The most campaigns of a workspace.
pub const MAX_CAMPAIGNS: u64 = 500;

/// Selects campaigns for which all given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct CampaignFilter {
    /// Campaigns with one of these keys; empty for any.
    pub keys: Vec<String>,
    /// Campaigns with all of these labels.
    pub labels: Labels,
}

/// A campaign.
///
/// # Errors
///
/// [`Error::NotFound`] if the workspace has none such; the database's.
pub async fn get(db: &impl ConnectionTrait, workspace: WorkspaceId, id: CampaignId) -> Result<Campaign> {
    let query = campaign::Entity::find()
        .filter(campaign::Column::Id.eq(id.0))
        .filter(campaign::Column::WorkspaceId.eq(workspace.0));
    query.one(db).await?.map(from_row).transpose()?.ok_or_else(|| Error::not_found(id))
}

/// Campaigns in the order of their creation, after an id.
///
/// # Errors
///
/// The database's.
pub async fn list(
    db: &impl ConnectionTrait,
    workspace: WorkspaceId,
    filter: &CampaignFilter,
    after: Option<CampaignId>,
    limit: u64,
) -> Result<Vec<Campaign>> {
    let mut query = campaign::Entity::find().filter(campaign::Column::WorkspaceId.eq(workspace.0));
    if let Some(after) = after {
        query = query.filter(campaign::Column::Id.gt(after.0));
    }
    if !filter.keys.is_empty() {
        query = query.filter(campaign::Column::Key.is_in(&filter.keys));
    }
    query = query.filter(labels::all_of(campaign::Column::Labels, &filter.labels)?);
    let rows = query.order_by_asc(campaign::Column::Id).limit(limit).all(db).await?;
    rows.into_iter().map(from_row).collect()
}

/// All campaigns of a workspace.
///
/// # Errors
///
/// The database's.
pub(super) async fn all(db: &impl ConnectionTrait, workspace: WorkspaceId) -> Result<Vec<Campaign>> {
    list(db, workspace, &CampaignFilter::default(), None, MAX_CAMPAIGNS).await
}

/// Inserts a campaign.
///
/// # Errors
///
/// [`Error::AlreadyExists`] if its name or its key is taken, [`Error::LimitReached`]; the database's.
pub async fn insert(tx: &Tx, campaign: &Campaign) -> Result<()> {
    let workspace = campaign.workspace_id;
    // Its row lock puts inserts of one workspace in a row, so that the count holds.
    tx.config_changed(workspace).await?;
    refuse_taken(tx, campaign).await?;
    let count = campaign::Entity::find().filter(campaign::Column::WorkspaceId.eq(workspace.0)).count(tx.db()).await?;
    if count >= MAX_CAMPAIGNS {
        return Err(Error::LimitReached { resource: "campaign", limit: MAX_CAMPAIGNS });
    }
    to_row(campaign)?.into_active_model().reset_all().insert(tx.db()).await.on_unique(|| taken(String::new()))?;
    Ok(())
}

/// Writes a campaign that exists, with its version raised by one.
///
/// # Errors
///
/// [`Error::AlreadyExists`] if its name or its key is taken; [`Error::EtagMismatch`] if another transaction was faster; the
/// database's.
pub async fn update(tx: &Tx, campaign: &Campaign) -> Result<()> {
    tx.config_changed(campaign.workspace_id).await?;
    refuse_taken(tx, campaign).await?;
    let mut row = to_row(campaign)?.into_active_model().reset_all();
    // Written by the spreading alone.
    row.spread_us = ActiveValue::NotSet;
    let result = campaign::Entity::update_many()
        .set(row)
        .filter(campaign::Column::Id.eq(campaign.id.0))
        .filter(campaign::Column::Version.eq(campaign.version - 1))
        .exec(tx.db())
        .await
        .on_unique(|| taken(String::new()))?;
    if result.rows_affected == 0 {
        return Err(Error::EtagMismatch { resource: "campaign" });
    }
    Ok(())
}

/// Deletes a campaign's row; its enrollments are the caller's to remove.
///
/// # Errors
///
/// The database's.
pub async fn delete(tx: &Tx, workspace: WorkspaceId, id: CampaignId) -> Result<()> {
    tx.config_changed(workspace).await?;
    campaign::Entity::delete_many()
        .filter(campaign::Column::Id.eq(id.0))
        .filter(campaign::Column::WorkspaceId.eq(workspace.0))
        .exec(tx.db())
        .await?;
    Ok(())
}

/// A failed statement ends a PostgreSQL transaction, so that uniqueness is asked before it is enforced.
async fn refuse_taken(tx: &Tx, campaign: &Campaign) -> Result<()> {
    key::refuse_taken(tx, "campaigns", campaign.workspace_id, campaign.key.as_deref(), campaign.id).await?;
    let other = campaign::Entity::find()
        .filter(campaign::Column::WorkspaceId.eq(campaign.workspace_id.0))
        .filter(campaign::Column::Name.eq(campaign.name.as_str()))
        .filter(campaign::Column::Id.ne(campaign.id.0))
        .one(tx.db())
        .await?;
    other.map_or(Ok(()), |other| Err(taken(CampaignId(other.id).to_string())))
}

fn taken(name: String) -> Error {
    Error::AlreadyExists { resource: CampaignId::RESOURCE, field: "name", name }
}

fn from_row(row: campaign::Model) -> Result<Campaign> {
    Ok(Campaign {
        id: CampaignId(row.id),
        workspace_id: WorkspaceId(row.workspace_id),
        name: row.name,
        key: row.key,
        labels: labels::from_json(&row.labels)?,
        description: row.description,
        state: CampaignState::try_from(row.state).map_err(Error::internal)?,
        definition: serde_json::from_str(&row.definition).map_err(Error::internal)?,
        version: row.version,
        created: Micros(row.created_us),
        updated: Micros(row.updated_us),
    })
}

fn to_row(campaign: &Campaign) -> Result<campaign::Model> {
    Ok(campaign::Model {
        id: campaign.id.0,
        workspace_id: campaign.workspace_id.0,
        name: campaign.name.clone(),
        key: campaign.key.clone(),
        labels: labels::to_json(&campaign.labels)?,
        description: campaign.description.clone(),
        state: campaign.state.code(),
        reentry: campaign.definition.reentry.code(),
        definition: serde_json::to_string(&campaign.definition).map_err(Error::internal)?,
        spread_us: 0,
        version: campaign.version,
        created_us: campaign.created.0,
        updated_us: campaign.updated.0,
    })
}
