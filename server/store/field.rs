//! Custom fields. The standard ones are built in.

use std::collections::HashMap;

use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter};

use super::entity::field;
use crate::domain::field::FieldType;
use crate::error::{Error, Result};
use crate::ids::WorkspaceId;

/// The types of a workspace's custom fields by key.
pub(super) async fn types(db: &impl ConnectionTrait, workspace: WorkspaceId) -> Result<HashMap<String, FieldType>> {
    let rows = field::Entity::find().filter(field::Column::WorkspaceId.eq(workspace.0)).all(db).await?;
    rows.into_iter()
        .map(|row| Ok((row.key, FieldType::try_from(row.field_type).map_err(Error::internal)?)))
        .collect()
}
