//! Links that tag who clicks them, and the counts of their clicks.
//!
//! A link is a row beside that of its tag, which has its name, description, version and times: there is one truth of
//! each, and whoever changes the one changes the other.

use std::collections::BTreeMap;

use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect, Select, Statement, Value,
};

use super::bulk::Bulk;
use super::entity::{smart_link, tag};
use super::{Tx, key, starts_with};
use crate::domain::effect::Effects;
use crate::domain::labels::Labels;
use crate::domain::smart_link::{Clicks, Code, Day, SmartLink};
use crate::domain::tag::{Tag, TagKind};
use crate::domain::template::UrlTemplate;
use crate::error::{Error, OnUnique, Result};
use crate::ids::{SmartLinkId, TagId, WorkspaceId};

/// The most links of a workspace.
pub const MAX_SMART_LINKS: u64 = 1_000;

/// How a link is found whose workspace isn't known.
#[derive(Clone, Debug)]
pub enum SmartLinkRef {
    /// By its id.
    Id(SmartLinkId),
    /// By what stands in its short URL.
    Code(Code),
}

/// Selects links for which all given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct SmartLinkFilter {
    /// Links whose name starts so.
    pub name_prefix: String,
    /// Links with one of these keys; empty for any.
    pub keys: Vec<String>,
}

/// A link.
///
/// # Errors
///
/// [`Error::NotFound`] if the workspace has none such; the database's.
pub async fn get(db: &impl ConnectionTrait, workspace: WorkspaceId, id: SmartLinkId) -> Result<SmartLink> {
    let found = find(db, &SmartLinkRef::Id(id)).await?;
    found.filter(|(of, _)| *of == workspace).map(|(_, link)| link).ok_or_else(|| Error::not_found(id))
}

/// A link of any workspace, and the workspace.
///
/// # Errors
///
/// The database's.
pub async fn find(db: &impl ConnectionTrait, which: &SmartLinkRef) -> Result<Option<(WorkspaceId, SmartLink)>> {
    let query = match which {
        SmartLinkRef::Id(id) => smart_link::Entity::find().filter(smart_link::Column::Id.eq(id.0)),
        SmartLinkRef::Code(code) => smart_link::Entity::find().filter(smart_link::Column::Code.eq(code.as_str())),
    };
    let row = query.find_also_related(tag::Entity).one(db).await?;
    row.map(|(row, tag)| Ok((WorkspaceId(row.workspace_id), from_row(&row, tag)?))).transpose()
}

/// Links in the order of their creation, after an id.
///
/// # Errors
///
/// The database's.
pub async fn list(
    db: &impl ConnectionTrait,
    workspace: WorkspaceId,
    filter: &SmartLinkFilter,
    after: Option<SmartLinkId>,
    limit: u64,
) -> Result<Vec<SmartLink>> {
    let mut query = of_workspace(workspace).find_also_related(tag::Entity);
    if let Some(after) = after {
        query = query.filter(smart_link::Column::Id.gt(after.0));
    }
    if !filter.name_prefix.is_empty() {
        query = query.filter(starts_with(tag::Column::Name, &filter.name_prefix));
    }
    if !filter.keys.is_empty() {
        query = query.filter(smart_link::Column::Key.is_in(&filter.keys));
    }
    let rows = query.order_by_asc(smart_link::Column::Id).limit(limit).all(db).await?;
    rows.into_iter().map(|(row, tag)| from_row(&row, tag)).collect()
}

/// The links in whose target the placeholder of this name stands.
///
/// # Errors
///
/// The database's.
pub async fn using(db: &impl ConnectionTrait, workspace: WorkspaceId, name: &str) -> Result<Vec<SmartLink>> {
    let mut links = list(db, workspace, &SmartLinkFilter::default(), None, MAX_SMART_LINKS).await?;
    links.retain(|link| link.target.placeholders().any(|placeholder| placeholder == name));
    Ok(links)
}

/// Inserts a link and its tag.
///
/// # Errors
///
/// [`Error::AlreadyExists`] if a tag has its name or a link its key, [`Error::LimitReached`]; the database's.
pub async fn insert(tx: &Tx, workspace: WorkspaceId, link: &SmartLink) -> Result<()> {
    // Its lock on the workspace's row puts inserts in a row, so that the count holds.
    super::tag::insert(tx, workspace, &tag_of(link)).await?;
    key::refuse_taken(tx, "smart_links", workspace, link.key.as_deref(), link.id).await?;
    if of_workspace(workspace).count(tx.db()).await? >= MAX_SMART_LINKS {
        return Err(Error::LimitReached { resource: "smart_link", limit: MAX_SMART_LINKS });
    }
    // A code that is taken is one chance in 2^50 for each link that there is.
    let row = to_row(workspace, link).into_active_model().reset_all();
    row.insert(tx.db()).await.on_unique(|| Error::Overloaded)?;
    Ok(())
}

/// Writes a link that exists, with its version raised by one.
///
/// # Errors
///
/// [`Error::AlreadyExists`] if another tag has its name or another link its key; [`Error::EtagMismatch`] if another
/// transaction was faster; the database's.
pub async fn update(tx: &Tx, workspace: WorkspaceId, link: &SmartLink) -> Result<()> {
    super::tag::update(tx, workspace, &tag_of(link)).await.map_err(|error| match error {
        Error::EtagMismatch { .. } => Error::EtagMismatch { resource: "smart_link" },
        other => other,
    })?;
    key::refuse_taken(tx, "smart_links", workspace, link.key.as_deref(), link.id).await?;
    let row = to_row(workspace, link).into_active_model().reset_all();
    smart_link::Entity::update_many().set(row).filter(smart_link::Column::Id.eq(link.id.0)).exec(tx.db()).await?;
    Ok(())
}

/// Deletes a link's row and its counts; its tag is the caller's to delete. Take the gate in exclusive mode first, so that
/// nobody counts a click meanwhile.
///
/// # Errors
///
/// The database's.
pub async fn delete(tx: &Tx, id: SmartLinkId) -> Result<()> {
    smart_link::Entity::delete_by_id(id.0).exec(tx.db()).await?;
    let sql = "DELETE FROM smart_link_clicks WHERE smart_link_id = $1";
    tx.db().execute_raw(statement(tx.db(), sql, vec![id.0.into()])).await?;
    Ok(())
}

/// Raises the counts of a day. Links that were deleted meanwhile aren't counted. To be called after the gate was taken,
/// as late as can be: the rows are locked until the commit.
///
/// # Errors
///
/// The database's.
pub async fn count(tx: &Tx, day: Day, clicks: &BTreeMap<SmartLinkId, Clicks>) -> Result<()> {
    if clicks.is_empty() {
        return Ok(());
    }
    let mut bulk = Bulk::new(tx.db())
        .uuid("smart_link_id", clicks.keys().map(|id| id.0))
        .int("clicks", clicks.values().map(|clicks| clicks.contacts))
        .int("anonymous_clicks", clicks.values().map(|clicks| clicks.anonymous))
        .int("machine_clicks", clicks.values().map(|clicks| clicks.machines));
    let day = bulk.param(day.0);
    // In one order everywhere, so that two servers wait for each other instead of locking up.
    bulk.execute(tx.db(), |rows| {
        format!(
            "INSERT INTO smart_link_clicks \
             (smart_link_id, day, workspace_id, clicks, anonymous_clicks, machine_clicks) \
             SELECT l.id, {day}, l.workspace_id, r.clicks, r.anonymous_clicks, r.machine_clicks \
             FROM {rows} JOIN smart_links l ON l.id = r.smart_link_id ORDER BY l.id \
             ON CONFLICT (smart_link_id, day) DO UPDATE SET clicks = smart_link_clicks.clicks + excluded.clicks, \
             anonymous_clicks = smart_link_clicks.anonymous_clicks + excluded.anonymous_clicks, \
             machine_clicks = smart_link_clicks.machine_clicks + excluded.machine_clicks"
        )
    })
    .await?;
    Ok(())
}

/// The days from the first to the last on which a link was clicked.
///
/// # Errors
///
/// The database's.
pub async fn clicks(
    db: &impl ConnectionTrait,
    id: SmartLinkId,
    (first, last): (Day, Day),
) -> Result<BTreeMap<Day, Clicks>> {
    let sql = "SELECT day, clicks, anonymous_clicks, machine_clicks FROM smart_link_clicks \
               WHERE smart_link_id = $1 AND day >= $2 AND day <= $3";
    let values: Vec<Value> = vec![id.0.into(), first.0.into(), last.0.into()];
    let rows = db.query_all_raw(statement(db, sql, values)).await?;
    rows.iter()
        .map(|row| {
            let clicks = Clicks {
                contacts: row.try_get("", "clicks")?,
                anonymous: row.try_get("", "anonymous_clicks")?,
                machines: row.try_get("", "machine_clicks")?,
            };
            Ok((Day(row.try_get("", "day")?), clicks))
        })
        .collect()
}

fn of_workspace(workspace: WorkspaceId) -> Select<smart_link::Entity> {
    smart_link::Entity::find().filter(smart_link::Column::WorkspaceId.eq(workspace.0))
}

fn tag_of(link: &SmartLink) -> Tag {
    Tag {
        id: link.tag_id,
        name: link.name.clone(),
        kind: TagKind::SmartLink,
        description: link.description.clone(),
        labels: Labels::new(),
        effects: Effects::default(),
        rule: None,
        version: link.version,
        created: link.created,
        updated: link.updated,
    }
}

fn from_row(row: &smart_link::Model, tag: Option<tag::Model>) -> Result<SmartLink> {
    let id = SmartLinkId(row.id);
    let damaged = |what: &str| Error::internal(format!("the {what} of link {id} is damaged"));
    let tag = super::tag::from_row(tag.ok_or_else(|| damaged("tag"))?)?;
    Ok(SmartLink {
        id,
        tag_id: TagId(row.tag_id),
        code: Code::parse(&row.code).ok_or_else(|| damaged("code"))?,
        name: tag.name,
        key: row.key.clone(),
        target: UrlTemplate::stored(&row.target_url).map_err(|_| damaged("target"))?,
        description: tag.description,
        version: tag.version,
        created: tag.created,
        updated: tag.updated,
    })
}

fn to_row(workspace: WorkspaceId, link: &SmartLink) -> smart_link::Model {
    smart_link::Model {
        id: link.id.0,
        workspace_id: workspace.0,
        tag_id: link.tag_id.0,
        code: link.code.as_str().to_owned(),
        key: link.key.clone(),
        target_url: link.target.as_str().to_owned(),
    }
}

fn statement(db: &impl ConnectionTrait, sql: &str, values: Vec<Value>) -> Statement {
    Statement::from_sql_and_values(db.get_database_backend(), sql, values)
}
