//! Workspaces.

use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect,
    Set, Statement,
};

use super::entity::workspace;
use super::{Tx, api_key};
use crate::domain::delivery::Reason;
use crate::domain::time::Micros;
use crate::domain::webhook::WebhookState;
use crate::domain::workspace::Workspace;
use crate::error::{Error, OnUnique, Result};
use crate::ids::WorkspaceId;

/// A workspace that isn't deleted.
///
/// # Errors
///
/// [`Error::NotFound`]; the database's.
pub async fn get(db: &impl ConnectionTrait, id: WorkspaceId) -> Result<Workspace> {
    let query = workspace::Entity::find_by_id(id.0).filter(workspace::Column::DeletedUs.is_null());
    query.one(db).await?.map(from_row).ok_or_else(|| Error::not_found(id))
}

/// Workspaces in the order of their creation, after an id.
///
/// # Errors
///
/// The database's.
pub async fn list(db: &impl ConnectionTrait, after: Option<WorkspaceId>, limit: u64) -> Result<Vec<Workspace>> {
    let mut query = workspace::Entity::find().filter(workspace::Column::DeletedUs.is_null());
    if let Some(after) = after {
        query = query.filter(workspace::Column::Id.gt(after.0));
    }
    let rows = query.order_by_asc(workspace::Column::Id).limit(limit).all(db).await?;
    Ok(rows.into_iter().map(from_row).collect())
}

/// Inserts a workspace.
///
/// # Errors
///
/// [`Error::AlreadyExists`] if its name is taken; the database's.
pub async fn insert(tx: &Tx, id: WorkspaceId, name: &str) -> Result<()> {
    refuse_taken(tx, id, name).await?;
    let row = workspace::Model {
        id: id.0,
        name: name.to_owned(),
        config_version: 1,
        version: 1,
        created_us: tx.now().0,
        updated_us: tx.now().0,
        deleted_us: None,
    };
    row.into_active_model().reset_all().insert(tx.db()).await.on_unique(|| taken(String::new()))?;
    Ok(())
}

/// Writes a workspace that exists, with its version raised by one.
///
/// # Errors
///
/// [`Error::AlreadyExists`] if its name is taken; [`Error::EtagMismatch`] if another transaction was faster; the
/// database's.
pub async fn update(tx: &Tx, workspace: &Workspace) -> Result<()> {
    refuse_taken(tx, workspace.id, &workspace.name).await?;
    // The config's version isn't this file's to write.
    let row = workspace::ActiveModel {
        name: Set(workspace.name.clone()),
        version: Set(workspace.version),
        updated_us: Set(workspace.updated.0),
        ..Default::default()
    };
    let result = workspace::Entity::update_many()
        .set(row)
        .filter(workspace::Column::Id.eq(workspace.id.0))
        .filter(workspace::Column::Version.eq(workspace.version - 1))
        .filter(workspace::Column::DeletedUs.is_null())
        .exec(tx.db())
        .await
        .on_unique(|| taken(String::new()))?;
    if result.rows_affected == 0 { Err(Error::EtagMismatch { resource: "workspace" }) } else { Ok(()) }
}

/// Ends a workspace: its keys are revoked and its webhooks disabled. Its rows stay until retention removes them. The
/// caller holds the gate in exclusive mode, so that nothing is planned or leased for it meanwhile.
///
/// # Errors
///
/// [`Error::NotFound`] if it is deleted already; the database's.
pub async fn delete(tx: &Tx, id: WorkspaceId) -> Result<()> {
    let row =
        workspace::ActiveModel { deleted_us: Set(Some(tx.now().0)), updated_us: Set(tx.now().0), ..Default::default() };
    let result = workspace::Entity::update_many()
        .set(row)
        .filter(workspace::Column::Id.eq(id.0))
        .filter(workspace::Column::DeletedUs.is_null())
        .exec(tx.db())
        .await?;
    if result.rows_affected == 0 {
        return Err(Error::not_found(id));
    }
    api_key::revoke_all(tx, id).await?;
    disable_webhooks(tx, id).await?;
    tx.config_changed(id).await
}

async fn disable_webhooks(tx: &Tx, id: WorkspaceId) -> Result<()> {
    let sql = "UPDATE webhooks SET state = $2, state_reason = $3, state_us = $4, updated_us = $4, version = version + 1 \
               WHERE workspace_id = $1";
    let values =
        [id.0.into(), WebhookState::Disabled.code().into(), Reason::WebhookDeleted.code().into(), tx.now().0.into()];
    tx.db().execute_raw(Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values)).await?;
    Ok(())
}

/// A failed statement ends a PostgreSQL transaction, so that uniqueness is asked before it is enforced; the unique
/// index decides between transactions that ask at the same time.
async fn refuse_taken(tx: &Tx, id: WorkspaceId, name: &str) -> Result<()> {
    let other = workspace::Entity::find()
        .filter(workspace::Column::Name.eq(name))
        .filter(workspace::Column::Id.ne(id.0))
        .filter(workspace::Column::DeletedUs.is_null())
        .one(tx.db())
        .await?;
    other.map_or(Ok(()), |other| Err(taken(WorkspaceId(other.id).to_string())))
}

fn taken(name: String) -> Error {
    Error::AlreadyExists { resource: "workspace", field: "name", name }
}

fn from_row(row: workspace::Model) -> Workspace {
    Workspace {
        id: WorkspaceId(row.id),
        name: row.name,
        version: row.version,
        created: Micros(row.created_us),
        updated: Micros(row.updated_us),
    }
}
