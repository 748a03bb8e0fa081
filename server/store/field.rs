//! Custom fields. The standard ones are built in.

use std::collections::HashMap;

use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect,
};
use uuid::Uuid;

use super::bulk::Bulk;
use super::entity::{contact, field};
use super::{Store, Tx};
use crate::domain::field::{CustomField, FieldKey, FieldType};
use crate::domain::time::Micros;
use crate::error::{Error, OnUnique, Result};
use crate::ids::{FieldId, WorkspaceId};

/// The most custom fields of a workspace.
pub const MAX_CUSTOM_FIELDS: u64 = 500;
/// How many contacts lose the value of a deleted field in one transaction.
const SWEEP_STEP: u64 = 500;

/// Says which field is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldRef {
    /// By its id.
    Id(FieldId),
    /// By its key.
    Key(FieldKey),
}

impl FieldRef {
    /// The error for a field that isn't there.
    #[must_use]
    pub fn not_found(&self) -> Error {
        match self {
            Self::Id(id) => Error::not_found(*id),
            Self::Key(key) => Error::NotFound { resource: "field", name: key.as_str().to_owned() },
        }
    }
}

/// Selects custom fields for which all given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct FieldFilter {
    /// Fields of these types; empty for any.
    pub types: Vec<FieldType>,
}

/// A custom field.
///
/// # Errors
///
/// [`Error::NotFound`] if the workspace has none such; the database's.
pub async fn get(db: &impl ConnectionTrait, workspace: WorkspaceId, which: &FieldRef) -> Result<CustomField> {
    let query = field::Entity::find().filter(field::Column::WorkspaceId.eq(workspace.0));
    let query = match which {
        FieldRef::Id(id) => query.filter(field::Column::Id.eq(id.0)),
        FieldRef::Key(key) => query.filter(field::Column::Key.eq(key.as_str())),
    };
    query.one(db).await?.map(from_row).transpose()?.ok_or_else(|| which.not_found())
}

/// Custom fields in the order of their creation, after an id.
///
/// # Errors
///
/// The database's.
pub async fn list(
    db: &impl ConnectionTrait,
    workspace: WorkspaceId,
    filter: &FieldFilter,
    after: Option<FieldId>,
    limit: u64,
) -> Result<Vec<CustomField>> {
    let mut query = field::Entity::find().filter(field::Column::WorkspaceId.eq(workspace.0));
    if let Some(after) = after {
        query = query.filter(field::Column::Id.gt(after.0));
    }
    if !filter.types.is_empty() {
        query = query.filter(field::Column::FieldType.is_in(filter.types.iter().map(|kind| kind.code())));
    }
    let rows = query.order_by_asc(field::Column::Id).limit(limit).all(db).await?;
    rows.into_iter().map(from_row).collect()
}

/// The types of a workspace's custom fields by key.
///
/// # Errors
///
/// The database's.
pub async fn types(db: &impl ConnectionTrait, workspace: WorkspaceId) -> Result<HashMap<String, FieldType>> {
    let fields = list(db, workspace, &FieldFilter::default(), None, MAX_CUSTOM_FIELDS).await?;
    Ok(fields.into_iter().map(|field| (field.key.into(), field.field_type)).collect())
}

/// Inserts a field. The caller holds the gate alone, so that no sweep of an earlier field with the key goes on.
///
/// # Errors
///
/// [`Error::AlreadyExists`] if its key is taken, [`Error::LimitReached`]; the database's.
pub async fn insert(tx: &Tx, workspace: WorkspaceId, field: &CustomField) -> Result<()> {
    // A failed statement ends a PostgreSQL transaction, so that uniqueness is asked before it is enforced.
    match get(tx.db(), workspace, &FieldRef::Key(field.key.clone())).await {
        Ok(other) => return Err(taken(other.id.to_string())),
        Err(Error::NotFound { .. }) => {}
        Err(other) => return Err(other),
    }
    let count = field::Entity::find().filter(field::Column::WorkspaceId.eq(workspace.0)).count(tx.db()).await?;
    if count >= MAX_CUSTOM_FIELDS {
        return Err(Error::LimitReached { resource: "field", limit: MAX_CUSTOM_FIELDS });
    }
    to_row(workspace, field)
        .into_active_model()
        .reset_all()
        .insert(tx.db())
        .await
        .on_unique(|| taken(String::new()))?;
    tx.config_changed(workspace).await
}

/// Writes a field that exists, with its version raised by one.
///
/// # Errors
///
/// [`Error::EtagMismatch`] if another transaction was faster; the database's.
pub async fn update(tx: &Tx, workspace: WorkspaceId, field: &CustomField) -> Result<()> {
    let result = field::Entity::update_many()
        .set(to_row(workspace, field).into_active_model().reset_all())
        .filter(field::Column::Id.eq(field.id.0))
        .filter(field::Column::Version.eq(field.version - 1))
        .exec(tx.db())
        .await?;
    if result.rows_affected == 0 { Err(Error::EtagMismatch { resource: "field" }) } else { Ok(()) }
}

/// Deletes a field's row; its values are left to [`sweep_values`].
///
/// # Errors
///
/// The database's.
pub async fn delete(tx: &Tx, workspace: WorkspaceId, id: FieldId) -> Result<()> {
    field::Entity::delete_many()
        .filter(field::Column::Id.eq(id.0))
        .filter(field::Column::WorkspaceId.eq(workspace.0))
        .exec(tx.db())
        .await?;
    tx.config_changed(workspace).await
}

/// Takes the values of a field that is no more off all contacts, a few hundred in each transaction. Does nothing while
/// there is a field with the key. May be run again at any time.
///
/// # Errors
///
/// The database's.
pub async fn sweep_values(store: &Store, workspace: WorkspaceId, key: &FieldKey) -> Result<()> {
    if is_there(store.read(), workspace, key).await? {
        return Ok(());
    }
    let mut after = Uuid::nil();
    loop {
        // Found outside of a transaction, since the search may pass many contacts without the value.
        let ids = holders(store.read(), workspace, key, after).await?;
        let Some(last) = ids.last().copied() else { return Ok(()) };
        let ids = &ids;
        let is_swept =
            store.write("sweep_field_values", |tx| async move { sweep_step(&tx, workspace, key, ids).await }).await?;
        if !is_swept {
            return Ok(());
        }
        after = last;
    }
}

/// Contacts that may have a value of the field, after an id.
async fn holders(db: &impl ConnectionTrait, workspace: WorkspaceId, key: &FieldKey, after: Uuid) -> Result<Vec<Uuid>> {
    let ids = contact::Entity::find()
        .select_only()
        .column(contact::Column::Id)
        .filter(contact::Column::WorkspaceId.eq(workspace.0))
        .filter(contact::Column::Id.gt(after))
        // A quote inside a JSON text is escaped, so that this finds no value. An underscore stands for any character
        // here, which finds a few too many.
        .filter(contact::Column::FieldValues.like(format!("%\"{}\":%", key.as_str())))
        .order_by_asc(contact::Column::Id)
        .limit(SWEEP_STEP)
        .into_tuple()
        .all(db)
        .await?;
    Ok(ids)
}

/// Answers with whether there still is no field with the key.
async fn sweep_step(tx: &Tx, workspace: WorkspaceId, key: &FieldKey, ids: &[Uuid]) -> Result<bool> {
    // A new field with the key waits for the gate, so that its values can't be taken for those of the old one.
    tx.gate_shared().await?;
    if is_there(tx.db(), workspace, key).await? {
        return Ok(false);
    }
    let rows = contact::Entity::find()
        .filter(contact::Column::Id.is_in(ids.iter().copied()))
        .order_by_asc(contact::Column::Id)
        .lock_exclusive()
        .all(tx.db())
        .await?;
    let mut swept = Vec::with_capacity(rows.len());
    for row in rows {
        let mut values: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&row.field_values).map_err(Error::internal)?;
        if values.remove(key.as_str()).is_some() {
            swept.push((row.id, serde_json::Value::Object(values).to_string()));
        }
    }
    let mut bulk = Bulk::new(tx.db())
        .uuid("swept_id", swept.iter().map(|(id, _)| *id))
        .text("swept_values", swept.iter().map(|(_, values)| values.clone()));
    let now = bulk.param(tx.now().0);
    bulk.execute(tx.db(), |rows| {
        format!(
            "UPDATE contacts SET field_values = r.swept_values, version = version + 1, updated_us = {now} \
             FROM {rows} WHERE id = r.swept_id"
        )
    })
    .await?;
    Ok(true)
}

async fn is_there(db: &impl ConnectionTrait, workspace: WorkspaceId, key: &FieldKey) -> Result<bool> {
    let query = field::Entity::find()
        .filter(field::Column::WorkspaceId.eq(workspace.0))
        .filter(field::Column::Key.eq(key.as_str()));
    Ok(query.one(db).await?.is_some())
}

fn taken(name: String) -> Error {
    Error::AlreadyExists { resource: "field", field: "key", name }
}

fn from_row(row: field::Model) -> Result<CustomField> {
    Ok(CustomField {
        id: FieldId(row.id),
        key: FieldKey::try_from(row.key).map_err(Error::internal)?,
        display_name: row.display_name,
        field_type: FieldType::try_from(row.field_type).map_err(Error::internal)?,
        version: row.version,
        created: Micros(row.created_us),
        updated: Micros(row.updated_us),
    })
}

fn to_row(workspace: WorkspaceId, field: &CustomField) -> field::Model {
    field::Model {
        id: field.id.0,
        workspace_id: workspace.0,
        key: field.key.as_str().to_owned(),
        display_name: field.display_name.clone(),
        field_type: field.field_type.code(),
        version: field.version,
        created_us: field.created.0,
        updated_us: field.updated.0,
    }
}
