//! Tags on contacts.

use std::collections::HashMap;

use sea_orm::sea_query::ExprTrait;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Statement};

use super::Tx;
use super::bulk::Bulk;
use super::entity::{contact_tag, tag};
use crate::domain::time::Micros;
use crate::error::{Error, Result};
use crate::ids::{ContactId, TagId, WorkspaceId};

/// A tag on a contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Since when the contact holds it.
    pub since: Micros,
    /// Whether this transaction assigned it.
    pub is_new: bool,
}

/// How often assigning is tried again where another transaction removes the tag at the same moment.
const MAX_TRIES: usize = 5;

/// Assigns tags; what is held already stays as it is. Keys are distinct.
///
/// # Errors
///
/// The database's.
pub async fn assign(
    tx: &Tx,
    rows: &[(WorkspaceId, ContactId, TagId)],
) -> Result<HashMap<(ContactId, TagId), Assigned>> {
    let mut rows = rows.to_vec();
    // In one order everywhere, so that two transactions wait for each other instead of locking up.
    rows.sort_unstable_by_key(|(_, contact, tag)| (*contact, *tag));
    let mut assigned = HashMap::with_capacity(rows.len());
    for _ in 0..MAX_TRIES {
        assigned.extend(assign_once(tx, &rows).await?);
        // What was neither inserted nor found was removed in between.
        rows.retain(|(_, contact, tag)| !assigned.contains_key(&(*contact, *tag)));
        if rows.is_empty() {
            return Ok(assigned);
        }
    }
    Err(Error::internal("tags are removed as fast as they are assigned"))
}

async fn assign_once(
    tx: &Tx,
    rows: &[(WorkspaceId, ContactId, TagId)],
) -> Result<HashMap<(ContactId, TagId), Assigned>> {
    let mut rows = rows.to_vec();
    let mut bulk = keys(tx, &rows).uuid("workspace_id", rows.iter().map(|(workspace, ..)| workspace.0));
    let now = bulk.param(tx.now().0);
    let inserted = bulk
        .query(tx.db(), |rows| {
            format!(
                "INSERT INTO contact_tags (contact_id, tag_id, workspace_id, assigned_us) \
                 SELECT contact_id, tag_id, workspace_id, {now} FROM {rows} WHERE TRUE \
                 ON CONFLICT DO NOTHING RETURNING contact_id, tag_id"
            )
        })
        .await?;
    let mut assigned = HashMap::with_capacity(rows.len());
    for row in inserted {
        let key = (ContactId(row.try_get("", "contact_id")?), TagId(row.try_get("", "tag_id")?));
        assigned.insert(key, Assigned { since: tx.now(), is_new: true });
    }
    rows.retain(|(_, contact, tag)| !assigned.contains_key(&(*contact, *tag)));
    if rows.is_empty() {
        return Ok(assigned);
    }
    let held = keys(tx, &rows)
        .query(tx.db(), |rows| {
            format!(
                "SELECT t.contact_id, t.tag_id, t.assigned_us FROM {rows} \
                 JOIN contact_tags t ON t.contact_id = r.contact_id AND t.tag_id = r.tag_id"
            )
        })
        .await?;
    for row in held {
        let key = (ContactId(row.try_get("", "contact_id")?), TagId(row.try_get("", "tag_id")?));
        assigned.insert(key, Assigned { since: Micros(row.try_get("", "assigned_us")?), is_new: false });
    }
    Ok(assigned)
}

/// Since when a contact holds tags; those that it doesn't hold are missing.
///
/// # Errors
///
/// The database's.
pub async fn since(db: &impl ConnectionTrait, contact: ContactId, tags: &[TagId]) -> Result<HashMap<TagId, Micros>> {
    let rows = contact_tag::Entity::find()
        .filter(contact_tag::Column::ContactId.eq(contact.0))
        .filter(contact_tag::Column::TagId.is_in(tags.iter().map(|tag| tag.0)))
        .all(db)
        .await?;
    Ok(rows.into_iter().map(|row| (TagId(row.tag_id), Micros(row.assigned_us))).collect())
}

/// A tag that was taken off a contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Their workspace.
    pub workspace_id: WorkspaceId,
    /// The contact.
    pub contact_id: ContactId,
    /// The tag.
    pub tag_id: TagId,
    /// Since when the contact held it.
    pub since: Micros,
}

/// Removes tags from contacts; answers with those that were held. Keys are distinct.
///
/// # Errors
///
/// The database's.
pub async fn remove(tx: &Tx, rows: &[(WorkspaceId, ContactId, TagId)]) -> Result<Vec<Removed>> {
    let mut rows = rows.to_vec();
    // In one order everywhere, so that two transactions wait for each other instead of locking up.
    rows.sort_unstable_by_key(|(_, contact, tag)| (*contact, *tag));
    let removed = keys(tx, &rows)
        .query(tx.db(), |rows| {
            format!(
                "DELETE FROM contact_tags WHERE (contact_id, tag_id) IN (SELECT contact_id, tag_id FROM {rows}) \
                 RETURNING workspace_id, contact_id, tag_id, assigned_us"
            )
        })
        .await?;
    removed
        .iter()
        .map(|row| {
            Ok(Removed {
                workspace_id: WorkspaceId(row.try_get("", "workspace_id")?),
                contact_id: ContactId(row.try_get("", "contact_id")?),
                tag_id: TagId(row.try_get("", "tag_id")?),
                since: Micros(row.try_get("", "assigned_us")?),
            })
        })
        .collect()
}

/// The names of the tags that contacts hold, in the order of their assignment.
///
/// # Errors
///
/// The database's.
pub async fn names(db: &impl ConnectionTrait, contacts: &[ContactId]) -> Result<HashMap<ContactId, Vec<String>>> {
    let mut names: HashMap<ContactId, Vec<String>> = HashMap::new();
    if contacts.is_empty() {
        return Ok(names);
    }
    let rows = Bulk::new(db)
        .uuid("contact_id", contacts.iter().map(|contact| contact.0))
        .query(db, |rows| {
            format!(
                "SELECT h.contact_id, t.name FROM {rows} JOIN contact_tags h ON h.contact_id = r.contact_id \
                 JOIN tags t ON t.id = h.tag_id ORDER BY h.contact_id, h.assigned_us, t.id"
            )
        })
        .await?;
    for row in rows {
        names.entry(ContactId(row.try_get("", "contact_id")?)).or_default().push(row.try_get("", "name")?);
    }
    Ok(names)
}

/// Removes all tags of a contact.
///
/// # Errors
///
/// The database's.
pub async fn remove_all(tx: &Tx, contact: ContactId) -> Result<()> {
    contact_tag::Entity::delete_many().filter(contact_tag::Column::ContactId.eq(contact.0)).exec(tx.db()).await?;
    Ok(())
}

/// Takes a tag off up to `limit` contacts; answers with how many there were.
///
/// # Errors
///
/// The database's.
pub async fn remove_tag(tx: &Tx, tag: TagId, limit: i64) -> Result<u64> {
    let sql = "DELETE FROM contact_tags WHERE tag_id = $1 AND contact_id IN \
               (SELECT contact_id FROM contact_tags WHERE tag_id = $1 LIMIT $2)";
    let values = [tag.0.into(), limit.into()];
    let statement = Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values);
    Ok(tx.db().execute_raw(statement).await?.rows_affected())
}

/// A tag that a contact holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldTag {
    /// The tag.
    pub tag_id: TagId,
    /// Its name; `None` if it was deleted and is still to be taken off.
    pub name: Option<String>,
    /// Since when.
    pub since: Micros,
}

/// The tags of a contact in the order of their assignment, after a time and a tag.
///
/// # Errors
///
/// The database's.
pub async fn list(
    db: &impl ConnectionTrait,
    contact: ContactId,
    after: Option<(Micros, TagId)>,
    limit: u64,
) -> Result<Vec<HeldTag>> {
    let mut query = contact_tag::Entity::find().filter(contact_tag::Column::ContactId.eq(contact.0));
    if let Some((since, tag)) = after {
        let same = contact_tag::Column::AssignedUs.eq(since.0).and(contact_tag::Column::TagId.gt(tag.0));
        query = query.filter(contact_tag::Column::AssignedUs.gt(since.0).or(same));
    }
    let rows = query
        .find_also_related(tag::Entity)
        .order_by_asc(contact_tag::Column::AssignedUs)
        .order_by_asc(contact_tag::Column::TagId)
        .limit(limit)
        .all(db)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(held, tag)| HeldTag {
            tag_id: TagId(held.tag_id),
            name: tag.map(|tag| tag.name),
            since: Micros(held.assigned_us),
        })
        .collect())
}

fn keys(tx: &Tx, rows: &[(WorkspaceId, ContactId, TagId)]) -> Bulk {
    Bulk::new(tx.db())
        .uuid("contact_id", rows.iter().map(|(_, contact, _)| contact.0))
        .uuid("tag_id", rows.iter().map(|(.., tag)| tag.0))
}
