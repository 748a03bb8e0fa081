//! What planning and sending need of a workspace (webhooks, tags, field types), cached.
//!
//! A workspace's `config_version` is raised by every change of these. Each transaction that plans reads the version
//! first, so that a stale copy is never used: neither on the server that made the change nor on another.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use sea_orm::ConnectionTrait;

use super::bulk::Bulk;
use super::{Store, Tx, campaign, field, tag, webhook};
use crate::domain::campaign::{Action, Campaign, CampaignState};
use crate::domain::condition::{Condition, Scope};
use crate::domain::effect::{self, Reach};
use crate::domain::event::{WEBHOOK_DELIVERED, WEBHOOK_EXHAUSTED};
use crate::domain::field::{FieldType, STANDARD_FIELDS, standard_field};
use crate::domain::tag::{Tag, TagRef};
use crate::domain::template::UrlTemplate;
use crate::domain::webhook::Webhook;
use crate::error::{Error, Result};
use crate::ids::{CampaignId, TagId, TypedId, WebhookId, WorkspaceId};

/// How many workspaces are kept; beyond that the cache starts anew.
const MAX_WORKSPACES: usize = 10_000;
/// How often a config is read without a gate until no change has come in between.
const MAX_TRIES: u32 = 4;

/// What planning needs of one workspace, at one version.
#[derive(Debug)]
pub struct WorkspaceConfig {
    version: i64,
    tags: HashMap<TagId, Arc<Tag>>,
    tags_by_name: HashMap<String, TagId>,
    webhooks: HashMap<WebhookId, Arc<PreparedWebhook>>,
    activated_by: HashMap<TagId, Vec<WebhookId>>,
    /// What follows from assigning a manual tag; tags without effects are missing.
    reaches: HashMap<TagId, Reach>,
    /// The smart tags by the types of the events that they listen to.
    listeners: HashMap<String, Vec<Arc<Tag>>>,
    campaigns: HashMap<CampaignId, Arc<PreparedCampaign>>,
    /// The active campaigns by the tags with which contacts enter.
    started_by: HashMap<TagId, Vec<CampaignId>>,
    custom_fields: HashMap<String, FieldType>,
}

/// A webhook and what is made of its definition once: the parsed URL and condition.
#[derive(Debug)]
pub struct PreparedWebhook {
    /// The webhook.
    pub webhook: Webhook,
    /// Its URL.
    pub url: UrlTemplate,
    /// What must be true for a trigger to be sent.
    pub condition: Option<Condition>,
    /// Whether a smart tag listens to the ends of deliveries.
    pub is_listened_to: bool,
}

impl PreparedWebhook {
    /// Prepares a webhook.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] if its URL, which was checked when it was written, is not a template any more.
    pub fn new(webhook: Webhook) -> Result<Self> {
        let url = UrlTemplate::stored(&webhook.definition.url)
            .map_err(|_| Error::internal(format!("the URL of webhook {} is damaged", webhook.id)))?;
        let condition = webhook.definition.condition.as_deref();
        let condition = condition.map(|source| Condition::stored(source, Scope::Trigger));
        Ok(Self { webhook, url, condition, is_listened_to: false })
    }
}

/// A campaign, and the conditions of its decisions by the keys of their nodes.
#[derive(Debug)]
pub struct PreparedCampaign {
    /// The campaign.
    pub campaign: Campaign,
    conditions: HashMap<String, Condition>,
}

impl PreparedCampaign {
    fn new(campaign: Campaign) -> Self {
        let nodes = campaign.definition.nodes.iter();
        let conditions = nodes.filter_map(|node| match &node.action {
            Action::Decision { condition, .. } => {
                Some((node.key.clone(), Condition::stored(condition, Scope::Trigger)))
            }
            _ => None,
        });
        let conditions = conditions.collect();
        Self { campaign, conditions }
    }

    /// The condition of a decision.
    #[must_use]
    pub fn condition(&self, node: &str) -> Option<&Condition> {
        self.conditions.get(node)
    }

    /// Whether contacts enter and go on.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.campaign.state == CampaignState::Active
    }
}

impl WorkspaceConfig {
    /// A config of a workspace without webhooks.
    #[cfg(test)]
    pub(crate) fn of(tags: Vec<Tag>, custom_fields: HashMap<String, FieldType>) -> Self {
        let tags: HashMap<TagId, Arc<Tag>> = tags.into_iter().map(|tag| (tag.id, Arc::new(tag))).collect();
        Self {
            version: 1,
            tags_by_name: by_name(&tags),
            tags,
            webhooks: HashMap::new(),
            activated_by: HashMap::new(),
            reaches: HashMap::new(),
            listeners: HashMap::new(),
            campaigns: HashMap::new(),
            started_by: HashMap::new(),
            custom_fields,
        }
    }

    /// A tag of the workspace.
    #[must_use]
    pub fn tag(&self, id: TagId) -> Option<&Arc<Tag>> {
        self.tags.get(&id)
    }

    /// A tag of the workspace, by its id or its name.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the workspace has none such.
    pub fn find_tag(&self, which: &TagRef) -> Result<&Arc<Tag>> {
        match which {
            TagRef::Id(id) => self.tag(*id).ok_or_else(|| Error::not_found(*id)),
            TagRef::Name(name) => {
                let tag = self.tags_by_name.get(name).and_then(|id| self.tag(*id));
                tag.ok_or_else(|| Error::NotFound { resource: TagId::RESOURCE, name: name.clone() })
            }
        }
    }

    /// The tags of the workspace that are meant, each once, in the order in which they are first named.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for the first that the workspace doesn't have.
    pub fn find_tags(&self, which: &[TagRef]) -> Result<Vec<&Arc<Tag>>> {
        let mut tags: Vec<&Arc<Tag>> = Vec::with_capacity(which.len());
        for which in which {
            let tag = self.find_tag(which)?;
            if tags.iter().all(|there| there.id != tag.id) {
                tags.push(tag);
            }
        }
        Ok(tags)
    }

    /// A webhook of the workspace.
    #[must_use]
    pub fn webhook(&self, id: WebhookId) -> Option<&Arc<PreparedWebhook>> {
        self.webhooks.get(&id)
    }

    /// All webhooks, in the order of their ids.
    #[must_use]
    pub fn webhooks(&self) -> Vec<&Arc<PreparedWebhook>> {
        let mut webhooks: Vec<_> = self.webhooks.values().collect();
        webhooks.sort_by_key(|prepared| prepared.webhook.id);
        webhooks
    }

    /// The webhooks that a tag activates, in the order of their ids.
    pub fn activated_by(&self, tag: TagId) -> impl Iterator<Item = &Arc<PreparedWebhook>> {
        self.activated_by.get(&tag).into_iter().flatten().filter_map(|id| self.webhooks.get(id))
    }

    /// What follows from assigning a tag; `None` if nothing does.
    #[must_use]
    pub fn reach(&self, tag: TagId) -> Option<&Reach> {
        self.reaches.get(&tag)
    }

    /// The smart tags that listen to events of a type.
    #[must_use]
    pub fn listeners(&self, event_type: &str) -> &[Arc<Tag>] {
        self.listeners.get(event_type).map_or(&[], Vec::as_slice)
    }

    /// A campaign of the workspace.
    #[must_use]
    pub fn campaign(&self, id: CampaignId) -> Option<&Arc<PreparedCampaign>> {
        self.campaigns.get(&id)
    }

    /// The active campaigns that contacts enter with a tag, in the order of their ids.
    pub fn started_by(&self, tag: TagId) -> impl Iterator<Item = &Arc<PreparedCampaign>> {
        self.started_by.get(&tag).into_iter().flatten().filter_map(|id| self.campaigns.get(id))
    }

    /// The keys of all fields, the standard ones first, then the custom ones in the order of the alphabet.
    #[must_use]
    pub fn field_keys(&self) -> Vec<&str> {
        let mut custom: Vec<&str> = self.custom_fields.keys().map(String::as_str).collect();
        custom.sort_unstable();
        STANDARD_FIELDS.iter().map(|field| field.key).chain(custom).collect()
    }

    /// The type of the field with a key, standard or custom.
    #[must_use]
    pub fn field_type(&self, key: &str) -> Option<FieldType> {
        standard_field(key).map(|field| field.field_type).or_else(|| self.custom_fields.get(key).copied())
    }
}

/// The configs of the workspaces that were used lately.
#[derive(Debug, Default)]
pub struct ConfigCache(RwLock<HashMap<WorkspaceId, Arc<WorkspaceConfig>>>);

impl ConfigCache {
    pub(super) fn forget(&self, workspace: WorkspaceId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&workspace);
    }

    fn get(&self, workspace: WorkspaceId, version: i64) -> Option<Arc<WorkspaceConfig>> {
        let configs = self.0.read().unwrap_or_else(PoisonError::into_inner);
        configs.get(&workspace).filter(|config| config.version == version).cloned()
    }

    fn peek(&self, workspace: WorkspaceId) -> Option<Arc<WorkspaceConfig>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&workspace).cloned()
    }

    fn put(&self, workspace: WorkspaceId, config: &Arc<WorkspaceConfig>) {
        let mut configs = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if configs.len() >= MAX_WORKSPACES {
            configs.clear();
        }
        configs.insert(workspace, Arc::clone(config));
    }
}

impl Store {
    /// The config of a workspace that was used last, if it is at hand: good for estimates alone.
    #[must_use]
    pub fn known_config(&self, workspace: WorkspaceId) -> Option<Arc<WorkspaceConfig>> {
        self.0.configs.peek(workspace)
    }

    /// The config of a workspace as it was a moment ago, for reads.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the workspace is gone; the database's.
    pub async fn config(&self, workspace: WorkspaceId) -> Result<Arc<WorkspaceConfig>> {
        let mut tries = 1;
        let mut version = version_of(self.read(), workspace).await?;
        loop {
            if let Some(config) = self.0.configs.get(workspace, version) {
                return Ok(config);
            }
            let config = Arc::new(load(self.read(), self, workspace, version).await?);
            // Without a gate its parts may be of different versions; if there was none in between they aren't.
            let version_then = std::mem::replace(&mut version, version_of(self.read(), workspace).await?);
            if version == version_then {
                self.0.configs.put(workspace, &config);
                return Ok(config);
            }
            if tries == MAX_TRIES {
                return Ok(config);
            }
            tries += 1;
        }
    }
}

impl Tx {
    /// The present config of a workspace. Take the gate first, so that it stays present until the commit.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the workspace is gone; the database's.
    pub async fn config(&self, workspace: WorkspaceId) -> Result<Arc<WorkspaceConfig>> {
        let mut configs = self.configs(&[workspace]).await?;
        configs.remove(&workspace).ok_or_else(|| Error::not_found(workspace))
    }

    /// The present configs of several workspaces; those that are gone are missing.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn configs(&self, workspaces: &[WorkspaceId]) -> Result<HashMap<WorkspaceId, Arc<WorkspaceConfig>>> {
        let mut configs = HashMap::with_capacity(workspaces.len());
        for (workspace, version) in versions(self.db(), workspaces).await? {
            let cache = &self.store().0.configs;
            let config = match cache.get(workspace, version) {
                Some(config) => config,
                None => {
                    let config = Arc::new(load(self.db(), self.store(), workspace, version).await?);
                    // What this transaction itself has changed isn't committed yet, and mustn't be seen by others.
                    if !self.effects().stale_configs.contains(&workspace) {
                        cache.put(workspace, &config);
                    }
                    config
                }
            };
            configs.insert(workspace, config);
        }
        Ok(configs)
    }

    /// Raises a workspace's config version: planning must see what this transaction changed.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn config_changed(&self, workspace: WorkspaceId) -> Result<()> {
        self.effects().stale_configs.push(workspace);
        let sql = "UPDATE workspaces SET config_version = config_version + 1 WHERE id = $1";
        let statement =
            sea_orm::Statement::from_sql_and_values(self.db().get_database_backend(), sql, [workspace.0.into()]);
        self.db().execute_raw(statement).await?;
        Ok(())
    }
}

async fn version_of(db: &impl ConnectionTrait, workspace: WorkspaceId) -> Result<i64> {
    let versions = versions(db, &[workspace]).await?;
    versions.first().map(|(_, version)| *version).ok_or_else(|| Error::not_found(workspace))
}

async fn versions(db: &impl ConnectionTrait, workspaces: &[WorkspaceId]) -> Result<Vec<(WorkspaceId, i64)>> {
    let rows = Bulk::new(db)
        .uuid("id", workspaces.iter().map(|workspace| workspace.0))
        .query(db, |rows| {
            format!(
                "SELECT w.id, w.config_version FROM {rows} JOIN workspaces w ON w.id = r.id WHERE w.deleted_us IS NULL"
            )
        })
        .await?;
    rows.iter().map(|row| Ok((WorkspaceId(row.try_get("", "id")?), row.try_get("", "config_version")?))).collect()
}

async fn load(
    db: &impl ConnectionTrait,
    store: &Store,
    workspace: WorkspaceId,
    version: i64,
) -> Result<WorkspaceConfig> {
    let tags = tag::all(db, workspace).await?;
    let reaches = effect::reaches(&tag::effects_of(&tags)).map_err(Error::internal)?;
    let tags: HashMap<TagId, Arc<Tag>> = tags.into_iter().map(|tag| (tag.id, Arc::new(tag))).collect();
    let listeners = listeners(&tags);
    let is_listened_to = [WEBHOOK_DELIVERED, WEBHOOK_EXHAUSTED].iter().any(|end| listeners.contains_key(*end));
    let mut webhooks = HashMap::new();
    let mut activated_by: HashMap<TagId, Vec<WebhookId>> = HashMap::new();
    for webhook in webhook::all(db, store, workspace).await? {
        for tag in &webhook.definition.activation_tag_ids {
            activated_by.entry(*tag).or_default().push(webhook.id);
        }
        let prepared = PreparedWebhook { is_listened_to, ..PreparedWebhook::new(webhook)? };
        webhooks.insert(prepared.webhook.id, Arc::new(prepared));
    }
    let mut campaigns = HashMap::new();
    let mut started_by: HashMap<TagId, Vec<CampaignId>> = HashMap::new();
    for campaign in campaign::all(db, workspace).await? {
        let prepared = PreparedCampaign::new(campaign);
        if let (true, Some(tag)) = (prepared.is_active(), prepared.campaign.definition.start_tag) {
            started_by.entry(tag).or_default().push(prepared.campaign.id);
        }
        campaigns.insert(prepared.campaign.id, Arc::new(prepared));
    }
    let custom_fields = field::types(db, workspace).await?;
    Ok(WorkspaceConfig {
        version,
        tags_by_name: by_name(&tags),
        tags,
        webhooks,
        activated_by,
        reaches,
        listeners,
        campaigns,
        started_by,
        custom_fields,
    })
}

fn by_name(tags: &HashMap<TagId, Arc<Tag>>) -> HashMap<String, TagId> {
    tags.values().map(|tag| (tag.name.clone(), tag.id)).collect()
}

/// Smart tags by what they listen to, in the order of their ids.
fn listeners(tags: &HashMap<TagId, Arc<Tag>>) -> HashMap<String, Vec<Arc<Tag>>> {
    let mut listeners: HashMap<String, Vec<Arc<Tag>>> = HashMap::new();
    for tag in tags.values() {
        if let Some(rule) = &tag.rule {
            listeners.entry(rule.event_type.clone()).or_default().push(Arc::clone(tag));
        }
    }
    for tags in listeners.values_mut() {
        tags.sort_unstable_by_key(|tag| tag.id);
    }
    listeners
}
