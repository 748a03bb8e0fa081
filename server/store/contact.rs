//! Contacts.

use std::collections::HashSet;

use sea_orm::sea_query::{Condition, Expr, ExprTrait, LockType, OnConflict};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QueryResult,
    QuerySelect, Select,
};

use super::bulk::Bulk;
use super::entity::{contact, contact_tag, tag};
use super::{Tx, starts_with};
use crate::domain::contact::{Contact, ContactStatus, Email, Phone};
use crate::domain::time::Micros;
use crate::error::{Error, OnUnique, Result};
use crate::ids::{ContactId, TagId, WorkspaceId};

/// Says which contact is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ContactRef {
    /// By its id.
    Id(ContactId),
    /// By its e-mail address.
    Email(Email),
    /// By its phone number.
    Phone(Phone),
}

impl ContactRef {
    /// The contact's field that it is about.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Id(_) => "id",
            Self::Email(_) => "email",
            Self::Phone(_) => "phone",
        }
    }

    /// The error for a contact that isn't there; it doesn't repeat an address or a number.
    #[must_use]
    pub fn not_found(&self) -> Error {
        match self {
            Self::Id(id) => Error::not_found(*id),
            Self::Email(_) => Error::NotFound { resource: "contact", name: "with this email".into() },
            Self::Phone(_) => Error::NotFound { resource: "contact", name: "with this phone".into() },
        }
    }
}

/// Selects contacts for which all given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct ContactFilter {
    /// Contacts that hold all of these.
    pub tag_ids: Vec<TagId>,
    /// Contacts with one of these; empty for any.
    pub statuses: Vec<ContactStatus>,
    /// Contacts whose address starts so, in lower case.
    pub email_prefix: String,
    /// Contacts created then or later.
    pub created_after: Option<Micros>,
    /// Contacts created before.
    pub created_before: Option<Micros>,
}

/// A contact.
///
/// # Errors
///
/// [`Error::NotFound`] if the workspace has none such; the database's.
pub async fn get(db: &impl ConnectionTrait, workspace: WorkspaceId, which: &ContactRef) -> Result<Contact> {
    find(db, workspace, which).await?.ok_or_else(|| which.not_found())
}

/// A contact, if there is one.
///
/// # Errors
///
/// The database's.
pub async fn find(db: &impl ConnectionTrait, workspace: WorkspaceId, which: &ContactRef) -> Result<Option<Contact>> {
    query_one(workspace, which).one(db).await?.map(from_row).transpose()
}

/// As [`find`]; no other transaction changes or deletes the contact until this one is committed. To be called after the
/// gate, if the transaction takes it.
///
/// # Errors
///
/// The database's.
pub async fn lock(tx: &Tx, workspace: WorkspaceId, which: &ContactRef) -> Result<Option<Contact>> {
    query_one(workspace, which).lock_exclusive().one(tx.db()).await?.map(from_row).transpose()
}

/// As [`get`]; no other transaction deletes the contact until this one is committed. To be called after the gate, if the
/// transaction takes it.
///
/// # Errors
///
/// [`Error::NotFound`] if the workspace has none such; the database's.
pub async fn pin(tx: &Tx, workspace: WorkspaceId, which: &ContactRef) -> Result<Contact> {
    let query = query_one(workspace, which).lock(LockType::KeyShare);
    query.one(tx.db()).await?.map(from_row).transpose()?.ok_or_else(|| which.not_found())
}

fn query_one(workspace: WorkspaceId, which: &ContactRef) -> Select<contact::Entity> {
    let query = contact::Entity::find().filter(contact::Column::WorkspaceId.eq(workspace.0));
    match which {
        ContactRef::Id(id) => query.filter(contact::Column::Id.eq(id.0)),
        ContactRef::Email(email) => query.filter(contact::Column::Email.eq(email.as_str())),
        ContactRef::Phone(phone) => query.filter(contact::Column::Phone.eq(phone.as_str())),
    }
}

/// Contacts by reference, in one query for ids and one for addresses. Those that aren't there are missing. Tagging
/// looks nobody up by phone.
///
/// # Errors
///
/// The database's.
pub async fn find_many(
    db: &impl ConnectionTrait,
    wanted: &[(WorkspaceId, ContactRef)],
) -> Result<std::collections::HashMap<(WorkspaceId, ContactRef), Contact>> {
    let (mut ids, mut emails) = (Vec::new(), Vec::new());
    for (workspace, which) in wanted {
        match which {
            ContactRef::Id(id) => ids.push((*workspace, *id)),
            ContactRef::Email(email) => emails.push((*workspace, email.clone())),
            ContactRef::Phone(_) => {}
        }
    }
    let mut found = std::collections::HashMap::with_capacity(wanted.len());
    if !ids.is_empty() {
        let bulk = Bulk::new(db)
            .uuid("wanted_workspace", ids.iter().map(|(workspace, _)| workspace.0))
            .uuid("wanted_id", ids.iter().map(|(_, id)| id.0));
        let join = "c.id = r.wanted_id AND c.workspace_id = r.wanted_workspace";
        for (workspace, contact) in query_many(db, bulk, join).await? {
            found.insert((workspace, ContactRef::Id(contact.id)), contact);
        }
    }
    if !emails.is_empty() {
        let bulk = Bulk::new(db)
            .uuid("wanted_workspace", emails.iter().map(|(workspace, _)| workspace.0))
            .text("wanted_email", emails.iter().map(|(_, email)| email.as_str().to_owned()));
        let join = "c.workspace_id = r.wanted_workspace AND c.email = r.wanted_email";
        for (workspace, contact) in query_many(db, bulk, join).await? {
            if let Some(email) = contact.email.clone() {
                found.insert((workspace, ContactRef::Email(email)), contact);
            }
        }
    }
    Ok(found)
}

async fn query_many(db: &impl ConnectionTrait, bulk: Bulk, join: &str) -> Result<Vec<(WorkspaceId, Contact)>> {
    let rows = bulk
        .query(db, |rows| {
            format!(
                "SELECT c.id, c.workspace_id, c.email, c.phone, c.status, c.field_values, c.version, c.created_us, c.updated_us \
                 FROM {rows} JOIN contacts c ON {join}"
            )
        })
        .await?;
    rows.iter()
        .map(|row| {
            let model = model_of(row)?;
            Ok((WorkspaceId(model.workspace_id), from_row(model)?))
        })
        .collect()
}

/// Contacts in the order of their creation, after an id.
///
/// # Errors
///
/// The database's.
pub async fn list(
    db: &impl ConnectionTrait,
    workspace: WorkspaceId,
    filter: &ContactFilter,
    after: Option<ContactId>,
    limit: u64,
) -> Result<Vec<Contact>> {
    let mut condition = Condition::all().add(contact::Column::WorkspaceId.eq(workspace.0));
    if let Some(after) = after {
        condition = condition.add(contact::Column::Id.gt(after.0));
    }
    if !filter.statuses.is_empty() {
        condition = condition.add(contact::Column::Status.is_in(filter.statuses.iter().map(|status| status.code())));
    }
    if !filter.email_prefix.is_empty() {
        condition = condition.add(starts_with(contact::Column::Email, &filter.email_prefix));
    }
    if let Some(time) = filter.created_after {
        condition = condition.add(contact::Column::CreatedUs.gte(time.0));
    }
    if let Some(time) = filter.created_before {
        condition = condition.add(contact::Column::CreatedUs.lt(time.0));
    }
    for tag_id in &filter.tag_ids {
        // One that was deleted may not be taken off all its contacts yet.
        let holders = contact_tag::Entity::find()
            .select_only()
            .expr(Expr::val(1))
            .inner_join(tag::Entity)
            .filter(contact_tag::Column::TagId.eq(tag_id.0))
            .filter(
                Expr::col((contact_tag::Entity, contact_tag::Column::ContactId))
                    .equals((contact::Entity, contact::Column::Id)),
            );
        condition = condition.add(Expr::exists(sea_orm::QueryTrait::into_query(holders)));
    }
    let rows = contact::Entity::find().filter(condition).order_by_asc(contact::Column::Id).limit(limit).all(db).await?;
    rows.into_iter().map(from_row).collect()
}

/// Inserts a contact.
///
/// # Errors
///
/// [`Error::AlreadyExists`] if its address or number is taken; the database's.
pub async fn insert(tx: &Tx, workspace: WorkspaceId, contact: &Contact) -> Result<()> {
    refuse_taken(tx, workspace, contact).await?;
    // Not left to fail: PostgreSQL would log the address.
    let inserted = contact::Entity::insert(to_row(workspace, contact).into_active_model().reset_all())
        .on_conflict(OnConflict::new().do_nothing().to_owned())
        .exec_without_returning(tx.db())
        .await?;
    if inserted == 0 { Err(lost_race("email")) } else { Ok(()) }
}

/// Writes a contact that exists. The caller has checked its version in this transaction.
///
/// # Errors
///
/// [`Error::AlreadyExists`] if its address or number is taken; [`Error::EtagMismatch`] if another transaction was faster;
/// the database's.
pub async fn update(tx: &Tx, workspace: WorkspaceId, contact: &Contact) -> Result<()> {
    refuse_taken(tx, workspace, contact).await?;
    let result = contact::Entity::update_many()
        .set(to_row(workspace, contact).into_active_model().reset_all())
        .filter(contact::Column::Id.eq(contact.id.0))
        .filter(contact::Column::Version.eq(contact.version - 1))
        .exec(tx.db())
        .await
        .on_unique(|| lost_race("email"))?;
    if result.rows_affected == 0 { Err(Error::EtagMismatch { resource: "contact" }) } else { Ok(()) }
}

/// Writes the values of contacts that exist, each with its version raised by one. Answers with those that nobody else has
/// changed meanwhile; the others stay as they are.
///
/// # Errors
///
/// The database's.
pub async fn update_values(tx: &Tx, contacts: &[&Contact]) -> Result<HashSet<ContactId>> {
    if contacts.is_empty() {
        return Ok(HashSet::new());
    }
    let mut contacts = contacts.to_vec();
    // In one order everywhere, so that two transactions wait for each other instead of locking up.
    contacts.sort_unstable_by_key(|contact| contact.id);
    let json = |contact: &&Contact| serde_json::to_string(&contact.values).map_err(Error::internal);
    let values: Vec<String> = contacts.iter().map(json).collect::<Result<_>>()?;
    let rows = Bulk::new(tx.db())
        .uuid("changed_id", contacts.iter().map(|contact| contact.id.0))
        .int("new_version", contacts.iter().map(|contact| contact.version))
        .int("new_updated_us", contacts.iter().map(|contact| contact.updated.0))
        .text("new_values", values)
        .query(tx.db(), |rows| {
            format!(
                "UPDATE contacts SET field_values = r.new_values, version = r.new_version, updated_us = r.new_updated_us \
                 FROM {rows} WHERE contacts.id = r.changed_id AND contacts.version = r.new_version - 1 \
                 RETURNING contacts.id"
            )
        })
        .await?;
    rows.iter().map(|row| Ok(ContactId(row.try_get("", "id")?))).collect()
}

/// Deletes a contact's row; what hangs on it is the caller's to erase.
///
/// # Errors
///
/// The database's.
pub async fn delete(tx: &Tx, workspace: WorkspaceId, id: ContactId) -> Result<()> {
    contact::Entity::delete_many()
        .filter(contact::Column::Id.eq(id.0))
        .filter(contact::Column::WorkspaceId.eq(workspace.0))
        .exec(tx.db())
        .await?;
    Ok(())
}

/// A failed statement ends a PostgreSQL transaction, so that uniqueness is asked before it is enforced; the unique
/// indexes decide between transactions that ask at the same time.
async fn refuse_taken(tx: &Tx, workspace: WorkspaceId, contact: &Contact) -> Result<()> {
    let keys = [
        ("email", contact.email.clone().map(ContactRef::Email)),
        ("phone", contact.phone.clone().map(ContactRef::Phone)),
    ];
    for (field, which) in keys {
        let Some(which) = which else { continue };
        if let Some(other) = find(tx.db(), workspace, &which).await?.filter(|other| other.id != contact.id) {
            return Err(taken(field, other.id.to_string()));
        }
    }
    Ok(())
}

/// The error of a write that came too late for an address or a number, and is to be run again.
#[must_use]
pub fn lost_race(field: &'static str) -> Error {
    taken(field, String::new())
}

/// Whether a write failed since another transaction took the address or the number while it ran: run again, it sees who
/// has it.
#[must_use]
pub fn is_lost_race(error: &Error) -> bool {
    matches!(error, Error::AlreadyExists { resource: "contact", name, .. } if name.is_empty())
}

fn taken(field: &'static str, name: String) -> Error {
    Error::AlreadyExists { resource: "contact", field, name }
}

fn model_of(row: &QueryResult) -> Result<contact::Model> {
    Ok(<contact::Model as sea_orm::FromQueryResult>::from_query_result(row, "")?)
}

fn from_row(row: contact::Model) -> Result<Contact> {
    Ok(Contact {
        id: ContactId(row.id),
        email: row.email.map(Email::try_from).transpose().map_err(Error::internal)?,
        phone: row.phone.map(Phone::try_from).transpose().map_err(Error::internal)?,
        status: ContactStatus::try_from(row.status).map_err(Error::internal)?,
        values: serde_json::from_str(&row.field_values).map_err(Error::internal)?,
        version: row.version,
        created: Micros(row.created_us),
        updated: Micros(row.updated_us),
    })
}

fn to_row(workspace: WorkspaceId, contact: &Contact) -> contact::Model {
    contact::Model {
        id: contact.id.0,
        workspace_id: workspace.0,
        email: contact.email.clone().map(String::from),
        phone: contact.phone.clone().map(String::from),
        status: contact.status.code(),
        field_values: serde_json::Value::Object(contact.values.clone()).to_string(),
        version: contact.version,
        created_us: contact.created.0,
        updated_us: contact.updated.0,
    }
}
