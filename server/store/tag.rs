//! Tags.

use std::collections::HashMap;
use std::fmt;

use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect,
};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::entity::{tag, webhook, webhook_tag};
use super::{Tx, campaign, labels, starts_with};
use crate::domain::condition::{Condition, Scope};
use crate::domain::effect::{self, Effects};
use crate::domain::labels::Labels;
use crate::domain::rule::{AttributeMatch, Rule};
use crate::domain::tag::{Tag, TagKind};
use crate::domain::time::Micros;
use crate::error::{Error, OnUnique, Result, Violations};
use crate::ids::{CampaignId, TagId, TypedId, WebhookId, WorkspaceId};

/// The most tags of a workspace.
pub const MAX_TAGS: u64 = 10_000;

/// Selects tags for which all given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct TagFilter {
    /// Tags whose name starts so.
    pub name_prefix: String,
    /// Tags of these kinds; empty for any.
    pub kinds: Vec<TagKind>,
    /// Tags with all of these labels.
    pub labels: Labels,
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

/// The tag with a name.
///
/// # Errors
///
/// [`Error::NotFound`] if the workspace has none such; the database's.
pub async fn lookup(db: &impl ConnectionTrait, workspace: WorkspaceId, name: &str) -> Result<Tag> {
    let not_found = || Error::NotFound { resource: TagId::RESOURCE, name: name.to_owned() };
    // PostgreSQL has no text with a NUL.
    if name.contains('\0') {
        return Err(not_found());
    }
    let query = tag::Entity::find().filter(tag::Column::WorkspaceId.eq(workspace.0)).filter(tag::Column::Name.eq(name));
    query.one(db).await?.map(from_row).transpose()?.ok_or_else(not_found)
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
    query = query.filter(labels::all_of(tag::Column::Labels, &filter.labels)?);
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
/// [`Error::AlreadyExists`] if its name is taken, [`Error::LimitReached`], [`Error::Invalid`] if its effects can't be;
/// the database's.
pub async fn insert(tx: &Tx, workspace: WorkspaceId, tag: &Tag) -> Result<()> {
    // Its row lock puts changes of one workspace in a row, so that the count and the effects hold.
    tx.config_changed(workspace).await?;
    refuse_taken(tx, workspace, tag).await?;
    check_effects(tx, workspace, tag).await?;
    let count = tag::Entity::find().filter(tag::Column::WorkspaceId.eq(workspace.0)).count(tx.db()).await?;
    if count >= MAX_TAGS {
        return Err(Error::LimitReached { resource: "tag", limit: MAX_TAGS });
    }
    to_row(workspace, tag)?.into_active_model().reset_all().insert(tx.db()).await.on_unique(|| taken(String::new()))?;
    Ok(())
}

/// Writes a tag that exists, with its version raised by one.
///
/// # Errors
///
/// [`Error::AlreadyExists`] if its name is taken; [`Error::EtagMismatch`] if another transaction was faster;
/// [`Error::Invalid`] if its effects can't be; the database's.
pub async fn update(tx: &Tx, workspace: WorkspaceId, tag: &Tag) -> Result<()> {
    tx.config_changed(workspace).await?;
    refuse_taken(tx, workspace, tag).await?;
    check_effects(tx, workspace, tag).await?;
    let result = tag::Entity::update_many()
        .set(to_row(workspace, tag)?.into_active_model().reset_all())
        .filter(tag::Column::Id.eq(tag.id.0))
        .filter(tag::Column::Version.eq(tag.version - 1))
        .exec(tx.db())
        .await
        .on_unique(|| taken(String::new()))?;
    if result.rows_affected == 0 {
        return Err(Error::EtagMismatch { resource: "tag" });
    }
    Ok(())
}

/// Deletes a tag's row; what hangs on it is the caller's to end.
///
/// # Errors
///
/// The database's.
pub async fn delete(tx: &Tx, workspace: WorkspaceId, id: TagId) -> Result<()> {
    tx.config_changed(workspace).await?;
    tag::Entity::delete_many()
        .filter(tag::Column::Id.eq(id.0))
        .filter(tag::Column::WorkspaceId.eq(workspace.0))
        .exec(tx.db())
        .await?;
    Ok(())
}

/// Who uses a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TagUser {
    /// A webhook that it activates.
    Webhook(WebhookId),
    /// A tag whose effects name it.
    Tag(TagId),
    /// A campaign that it begins, or of which an action names it.
    Campaign(CampaignId),
}

impl fmt::Display for TagUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Webhook(id) => id.fmt(f),
            Self::Tag(id) => id.fmt(f),
            Self::Campaign(id) => id.fmt(f),
        }
    }
}

/// Who uses a tag, with their names: webhooks, then tags, then campaigns, each in the order of their ids, after one of them.
///
/// # Errors
///
/// The database's.
pub async fn usages(
    db: &impl ConnectionTrait,
    workspace: WorkspaceId,
    id: TagId,
    after: Option<TagUser>,
    limit: u64,
) -> Result<Vec<(TagUser, String)>> {
    let mut usages = match after {
        None => activated_by(db, workspace, id, None, limit).await?,
        Some(TagUser::Webhook(after)) => activated_by(db, workspace, id, Some(after), limit).await?,
        Some(TagUser::Tag(_) | TagUser::Campaign(_)) => Vec::new(),
    };
    let tags = all(db, workspace).await?.into_iter().filter(|tag| tag.effects.names(id));
    let tags = tags.map(|tag| (TagUser::Tag(tag.id), tag.name));
    let campaigns = campaign::all(db, workspace).await?;
    let campaigns = campaigns.into_iter().filter(|campaign| campaign.definition.uses_tag(id));
    let campaigns = campaigns.map(|campaign| (TagUser::Campaign(campaign.id), campaign.name));
    usages.extend(tags.chain(campaigns).filter(|(user, _)| after.is_none_or(|after| *user > after)));
    usages.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(usages)
}

async fn activated_by(
    db: &impl ConnectionTrait,
    workspace: WorkspaceId,
    id: TagId,
    after: Option<WebhookId>,
    limit: u64,
) -> Result<Vec<(TagUser, String)>> {
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
    let usage = |(usage, webhook): (webhook_tag::Model, Option<webhook::Model>)| {
        let name = webhook.map(|webhook| webhook.name).unwrap_or_default();
        (TagUser::Webhook(WebhookId(usage.webhook_id)), name)
    };
    Ok(rows.into_iter().map(usage).collect())
}

/// The effects of all tags of a workspace that have any.
pub(super) fn effects_of(tags: &[Tag]) -> HashMap<TagId, Effects> {
    tags.iter().filter(|tag| !tag.effects.is_empty()).map(|tag| (tag.id, tag.effects.clone())).collect()
}

/// Refuses effects that name what isn't a manual tag, or that can't be together with those of the other tags.
async fn check_effects(tx: &Tx, workspace: WorkspaceId, tag: &Tag) -> Result<()> {
    if tag.effects.is_empty() {
        return Ok(());
    }
    let tags = all(tx.db(), workspace).await?;
    let kinds: HashMap<TagId, TagKind> = tags.iter().map(|tag| (tag.id, tag.kind)).collect();
    let mut violations = Violations::default();
    for (field, ids) in [("assign_tag_ids", &tag.effects.assign), ("remove_tag_ids", &tag.effects.remove)] {
        for (index, id) in ids.iter().enumerate() {
            let field = format!("tag.effects.{field}[{index}]");
            match kinds.get(id) {
                Some(TagKind::Manual) => {}
                None if *id == tag.id => {}
                Some(_) => violations.add(field, "TAG_KIND", "must be a manual tag; the system alone assigns others"),
                None => violations.add(field, "TAG_UNKNOWN", "there is no tag with this id"),
            }
        }
    }
    violations.finish()?;
    let mut effects = effects_of(&tags);
    effects.insert(tag.id, tag.effects.clone());
    match effect::reaches(&effects) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::invalid("tag.effects", "EFFECTS", error.to_string())),
    }
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
        labels: labels::from_json(&row.labels)?,
        effects: from_json(row.effects.as_deref())?.unwrap_or_default(),
        rule: from_json::<StoredRule>(row.rule.as_deref())?.map(StoredRule::read),
        version: row.version,
        created: Micros(row.created_us),
        updated: Micros(row.updated_us),
    })
}

/// A rule as its column keeps it.
#[derive(Serialize, Deserialize)]
struct StoredRule {
    event_type: String,
    #[serde(default)]
    attributes: Vec<AttributeMatch>,
    #[serde(default)]
    condition: Option<String>,
}

impl StoredRule {
    fn of(rule: &Rule) -> Self {
        Self {
            event_type: rule.event_type.clone(),
            attributes: rule.attributes.clone(),
            condition: rule.condition.as_ref().map(|condition| condition.source().to_owned()),
        }
    }

    fn read(self) -> Rule {
        let condition = self.condition.as_deref().map(|source| Condition::stored(source, Scope::Event));
        Rule { event_type: self.event_type, attributes: self.attributes, condition }
    }
}

fn from_json<T: DeserializeOwned>(json: Option<&str>) -> Result<Option<T>> {
    json.map(serde_json::from_str).transpose().map_err(Error::internal)
}

fn to_row(workspace: WorkspaceId, tag: &Tag) -> Result<tag::Model> {
    let to_json = |value: Option<serde_json::Result<String>>| value.transpose().map_err(Error::internal);
    Ok(tag::Model {
        id: tag.id.0,
        workspace_id: workspace.0,
        name: tag.name.clone(),
        kind: tag.kind.code(),
        description: tag.description.clone(),
        labels: labels::to_json(&tag.labels)?,
        effects: to_json((!tag.effects.is_empty()).then(|| serde_json::to_string(&tag.effects)))?,
        rule: to_json(tag.rule.as_ref().map(|rule| serde_json::to_string(&StoredRule::of(rule))))?,
        version: tag.version,
        created_us: tag.created.0,
        updated_us: tag.updated.0,
    })
}
