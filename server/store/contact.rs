//! Contacts.

use std::collections::{HashMap, HashSet};

use sea_orm::sea_query::{Condition, Expr, ExprTrait, LockType, OnConflict};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QueryResult,
    QuerySelect, Select,
};
use uuid::Uuid;

use super::bulk::Bulk;
use super::entity::{contact, contact_tag, tag};
use super::{Tx, starts_with};
use crate::domain::contact::{Contact, ContactStatus, Email, ExternalId, Phone};
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
    /// By its id in the caller's own system.
    ExternalId(ExternalId),
}

impl ContactRef {
    /// The contact's field that it is about.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Id(_) => "id",
            Self::Email(_) => "email",
            Self::Phone(_) => "phone",
            Self::ExternalId(_) => "external_id",
        }
    }

    /// The error for a contact that isn't there; it doesn't repeat an address, a number or an external id.
    #[must_use]
    pub fn not_found(&self) -> Error {
        match self {
            Self::Id(id) => Error::not_found(*id),
            // Neither an address nor a number nor the caller's own id is repeated.
            Self::Email(_) | Self::Phone(_) | Self::ExternalId(_) => {
                Error::NotFound { resource: "contact", name: String::new() }
            }
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
    /// Contacts with one of these; empty for any.
    pub external_ids: Vec<ExternalId>,
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

/// As [`lock`], for the first of several references that finds a contact.
///
/// # Errors
///
/// The database's.
pub async fn lock_first(tx: &Tx, workspace: WorkspaceId, references: &[ContactRef]) -> Result<Option<Contact>> {
    for which in references {
        if let Some(contact) = lock(tx, workspace, which).await? {
            return Ok(Some(contact));
        }
    }
    Ok(None)
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
        ContactRef::ExternalId(id) => query.filter(contact::Column::ExternalId.eq(id.as_str())),
    }
}

/// Contacts by reference, in one query for each kind of reference. Those that don't exist are missing.
///
/// # Errors
///
/// The database's.
pub async fn find_many(
    db: &impl ConnectionTrait,
    wanted: &[(WorkspaceId, ContactRef)],
) -> Result<HashMap<(WorkspaceId, ContactRef), Contact>> {
    let mut found = HashMap::with_capacity(wanted.len());
    let ids = wanted.iter().filter_map(|(workspace, which)| match which {
        ContactRef::Id(id) => Some((workspace.0, id.0)),
        _ => None,
    });
    let (workspaces, ids): (Vec<Uuid>, Vec<Uuid>) = ids.unzip();
    if !ids.is_empty() {
        let bulk = Bulk::new(db).uuid("wanted_workspace", workspaces).uuid("wanted_id", ids);
        let join = "c.id = r.wanted_id AND c.workspace_id = r.wanted_workspace";
        for (workspace, contact) in query_many(db, bulk, join).await? {
            found.insert((workspace, ContactRef::Id(contact.id)), contact);
        }
    }
    for key in TEXT_KEYS {
        let texts = wanted.iter().filter_map(|(workspace, which)| Some((workspace.0, (key.text)(which)?.to_owned())));
        let (workspaces, texts): (Vec<Uuid>, Vec<String>) = texts.unzip();
        if texts.is_empty() {
            continue;
        }
        let bulk = Bulk::new(db).uuid("wanted_workspace", workspaces).text("wanted_text", texts);
        let join = format!("c.workspace_id = r.wanted_workspace AND c.{} = r.wanted_text", key.column);
        for (workspace, contact) in query_many(db, bulk, &join).await? {
            if let Some(which) = (key.of)(&contact) {
                found.insert((workspace, which), contact);
            }
        }
    }
    Ok(found)
}

/// A unique text of a contact.
struct TextKey {
    column: &'static str,
    /// The text of a reference by this key.
    text: fn(&ContactRef) -> Option<&str>,
    /// The reference to a contact by this key, if the contact has it.
    of: fn(&Contact) -> Option<ContactRef>,
}

const TEXT_KEYS: [TextKey; 3] = [
    TextKey {
        column: "external_id",
        text: |which| if let ContactRef::ExternalId(id) = which { Some(id.as_str()) } else { None },
        of: |contact| contact.external_id.clone().map(ContactRef::ExternalId),
    },
    TextKey {
        column: "email",
        text: |which| if let ContactRef::Email(email) = which { Some(email.as_str()) } else { None },
        of: |contact| contact.email.clone().map(ContactRef::Email),
    },
    TextKey {
        column: "phone",
        text: |which| if let ContactRef::Phone(phone) = which { Some(phone.as_str()) } else { None },
        of: |contact| contact.phone.clone().map(ContactRef::Phone),
    },
];

async fn query_many(db: &impl ConnectionTrait, bulk: Bulk, join: &str) -> Result<Vec<(WorkspaceId, Contact)>> {
    let rows = bulk
        .query(db, |rows| {
            format!(
                "SELECT c.id, c.workspace_id, c.email, c.phone, c.external_id, c.status, c.field_values, c.version, c.created_us, c.updated_us \
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
    if !filter.external_ids.is_empty() {
        condition =
            condition.add(contact::Column::ExternalId.is_in(filter.external_ids.iter().map(ExternalId::as_str)));
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
/// [`Error::AlreadyExists`] if its address, number or external id is taken; the database's.
pub async fn insert(tx: &Tx, workspace: WorkspaceId, contact: &Contact) -> Result<()> {
    if let Some((field, holder)) = holder_of_key(tx, workspace, contact).await? {
        return Err(taken(field, holder.to_string()));
    }
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
/// [`Error::ContactClash`] if another contact has its address, number or external id; [`Error::EtagMismatch`] if another
/// transaction was faster; the database's.
pub async fn update(tx: &Tx, workspace: WorkspaceId, contact: &Contact) -> Result<()> {
    if let Some((field, holder)) = holder_of_key(tx, workspace, contact).await? {
        return Err(Error::ContactClash { field, contact: contact.id.to_string(), holder: holder.to_string() });
    }
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

/// The other contact that has a unique text of this one, and the text's field. A failed statement ends a PostgreSQL
/// transaction, so that uniqueness is asked before it is enforced; the unique indexes decide between transactions that ask
/// at the same time.
async fn holder_of_key(
    tx: &Tx,
    workspace: WorkspaceId,
    contact: &Contact,
) -> Result<Option<(&'static str, ContactId)>> {
    for which in TEXT_KEYS.iter().filter_map(|key| (key.of)(contact)) {
        if let Some(other) = find(tx.db(), workspace, &which).await?.filter(|other| other.id != contact.id) {
            return Ok(Some((which.field(), other.id)));
        }
    }
    Ok(None)
}

/// The error of a write that came too late for an address, a number or an external id, and is to be run again.
#[must_use]
pub fn lost_race(field: &'static str) -> Error {
    taken(field, String::new())
}

/// Whether a write failed since another transaction took the address, the number or the external id while it ran: run again, it sees who
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
        external_id: row.external_id.map(ExternalId::try_from).transpose().map_err(Error::internal)?,
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
        external_id: contact.external_id.clone().map(String::from),
        status: contact.status.code(),
        field_values: serde_json::Value::Object(contact.values.clone()).to_string(),
        version: contact.version,
        created_us: contact.created.0,
        updated_us: contact.updated.0,
    }
}
