//! Workspaces.

use sea_orm::{ActiveModelTrait, IntoActiveModel};

use super::Tx;
use super::entity::workspace;
use crate::error::{Error, OnUnique, Result};
use crate::ids::WorkspaceId;

/// Inserts a workspace.
///
/// # Errors
///
/// [`Error::AlreadyExists`] if its name is taken; the database's.
pub async fn insert(tx: &Tx, id: WorkspaceId, name: &str) -> Result<()> {
    let row = workspace::Model {
        id: id.0,
        name: name.to_owned(),
        config_version: 1,
        version: 1,
        created_us: tx.now().0,
        updated_us: tx.now().0,
        deleted_us: None,
    };
    let taken = || Error::AlreadyExists { resource: "workspace", field: "name", name: String::new() };
    row.into_active_model().reset_all().insert(tx.db()).await.on_unique(taken)?;
    Ok(())
}
