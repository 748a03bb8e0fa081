//! Assigning tags, and finding the webhooks that they activate.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::fire::{TagMark, Trigger, fire};
use super::{Assigned, AssignedTag, Assignment, TriggerDecision};
use crate::domain::contact::Contact;
use crate::domain::delivery::{Decision, Reason, Source};
use crate::domain::tag::{Tag, TagKind};
use crate::error::{Error, Result};
use crate::ids::{ContactId, TagId, WebhookId, WorkspaceId};
use crate::store::config::{PreparedWebhook, WorkspaceConfig};
use crate::store::contact::ContactRef;
use crate::store::contact_tag::Assigned as Held;
use crate::store::{self, Tx};

/// Assigns tags and records what they set off, in one transaction. Each assignment has its own result: one that names a
/// contact or a tag that isn't there changes nothing and harms no other.
///
/// # Errors
///
/// The database's; then nothing was assigned.
pub async fn assign(tx: &Tx, assignments: &[Assignment]) -> Result<Vec<Result<Assigned>>> {
    tx.gate_shared().await?;
    let workspaces: HashSet<WorkspaceId> = assignments.iter().map(|assignment| assignment.workspace_id).collect();
    let configs = tx.configs(&workspaces.into_iter().collect::<Vec<_>>()).await?;
    let wanted: HashSet<(WorkspaceId, ContactRef)> =
        assignments.iter().map(|assignment| (assignment.workspace_id, assignment.contact.clone())).collect();
    let contacts = store::contact::find_many(tx.db(), &wanted.into_iter().collect::<Vec<_>>()).await?;
    let contacts = contacts.into_iter().map(|(key, contact)| (key, Arc::new(contact))).collect();
    let items: Vec<Result<Item>> =
        assignments.iter().map(|assignment| Item::resolve(assignment, &configs, &contacts)).collect();

    let pairs: HashSet<(WorkspaceId, ContactId, TagId)> = items.iter().flatten().flat_map(Item::pairs).collect();
    let held = if pairs.is_empty() {
        HashMap::new()
    } else {
        store::contact_tag::assign(tx, &pairs.into_iter().collect::<Vec<_>>()).await?
    };
    let plans = Plan::all(items, &held);
    let triggers: Vec<Trigger> = plans.iter().flatten().flat_map(|plan| plan.triggers.iter().cloned()).collect();
    let mut decisions = fire(tx, &triggers).await?.into_iter();
    Ok(plans
        .into_iter()
        .map(|plan| {
            let plan = plan?;
            let fired = decisions.by_ref().take(plan.triggers.len()).collect();
            Ok(plan.answer(fired))
        })
        .collect())
}

/// Refuses to assign or remove a tag of another kind than its assigner's.
pub(super) fn refuse_other_kind(tag: &Tag, kind: TagKind) -> Result<()> {
    if tag.kind == kind {
        return Ok(());
    }
    Err(Error::TagNotAssignable { tag: tag.id.to_string(), kind: tag.kind.as_str() })
}

/// An assignment whose contact and tags are there.
struct Item<'a> {
    assignment: &'a Assignment,
    config: &'a Arc<WorkspaceConfig>,
    contact: Arc<Contact>,
    tags: Vec<Arc<Tag>>,
}

impl<'a> Item<'a> {
    fn resolve(
        assignment: &'a Assignment,
        configs: &'a HashMap<WorkspaceId, Arc<WorkspaceConfig>>,
        contacts: &HashMap<(WorkspaceId, ContactRef), Arc<Contact>>,
    ) -> Result<Self> {
        let workspace = assignment.workspace_id;
        let config = configs.get(&workspace).ok_or_else(|| Error::not_found(workspace))?;
        let contact = contacts.get(&(workspace, assignment.contact.clone())).cloned();
        let contact = contact.ok_or_else(|| assignment.contact.not_found())?;
        let tag = |id: &TagId| {
            let tag = config.tag(*id).ok_or_else(|| Error::not_found(*id))?;
            refuse_other_kind(tag, assignment.kind)?;
            Ok(Arc::clone(tag))
        };
        let tags = assignment.tag_ids.iter().map(tag).collect::<Result<_>>()?;
        Ok(Self { assignment, config, contact, tags })
    }

    fn pairs(&self) -> impl Iterator<Item = (WorkspaceId, ContactId, TagId)> + '_ {
        self.tags.iter().map(|tag| (self.assignment.workspace_id, self.contact.id, tag.id))
    }

    fn trigger(&self, webhook: &Arc<PreparedWebhook>, tags: Vec<TagMark>) -> Trigger {
        Trigger {
            webhook: Arc::clone(webhook),
            config: Arc::clone(self.config),
            contact: Arc::clone(&self.contact),
            workspace_id: self.assignment.workspace_id,
            source: Source::Tag,
            tags,
            only: None,
            origin: self.assignment.origin.clone(),
        }
    }
}

/// What an assignment will answer and trigger.
struct Plan {
    contact_id: ContactId,
    tags: Vec<AssignedTag>,
    triggers: Vec<Trigger>,
    /// Webhooks that take new tags alone, and got none.
    ignored: Vec<TriggerDecision>,
}

impl Plan {
    fn all(items: Vec<Result<Item<'_>>>, held: &HashMap<(ContactId, TagId), Held>) -> Vec<Result<Self>> {
        // Of several assignments of one tag to one contact in a batch, the first is the one that is new.
        let mut seen = HashSet::new();
        items.into_iter().map(|item| Ok(Self::new(&item?, held, &mut seen))).collect()
    }

    fn new(item: &Item<'_>, held: &HashMap<(ContactId, TagId), Held>, seen: &mut HashSet<(ContactId, TagId)>) -> Self {
        let contact_id = item.contact.id;
        let tags: Vec<AssignedTag> = item
            .tags
            .iter()
            .filter_map(|tag| {
                let key = (contact_id, tag.id);
                let held = held.get(&key)?;
                Some(AssignedTag { tag_id: tag.id, is_new: seen.insert(key) && held.is_new, since: held.since })
            })
            .collect();
        let mut plan = Self { contact_id, tags, triggers: Vec::new(), ignored: Vec::new() };
        for webhook in activated(item) {
            plan.touch(item, webhook);
        }
        plan
    }

    fn touch(&mut self, item: &Item<'_>, prepared: &Arc<PreparedWebhook>) {
        let webhook = &prepared.webhook;
        let definition = &webhook.definition;
        let activating =
            item.tags.iter().zip(&self.tags).filter(|(tag, _)| definition.activation_tag_ids.contains(&tag.id));
        let activating: Vec<(&Arc<Tag>, &AssignedTag)> = activating.collect();
        let marks: Vec<TagMark> = activating
            .iter()
            .filter(|(_, assigned)| assigned.is_new || !definition.only_when_newly_assigned)
            .map(|(tag, assigned)| TagMark { id: tag.id, name: tag.name.clone(), since: assigned.since })
            .collect();
        if marks.is_empty() {
            self.ignored.push(TriggerDecision {
                webhook_id: webhook.id,
                decision: Decision::Skipped,
                reason: Reason::AlreadyAssigned,
                activation_tag_ids: activating.iter().map(|(tag, _)| tag.id).collect(),
                delivery_ids: Vec::new(),
            });
        } else {
            self.triggers.push(item.trigger(prepared, marks));
        }
    }

    fn answer(self, fired: Vec<TriggerDecision>) -> Assigned {
        let mut triggers = self.ignored;
        triggers.extend(fired);
        triggers.sort_by_key(|trigger| trigger.webhook_id);
        Assigned { contact_id: self.contact_id, tags: self.tags, triggers }
    }
}

/// The webhooks that an assignment's tags activate, each once, in the order of their ids.
fn activated<'a>(item: &'a Item<'_>) -> Vec<&'a Arc<PreparedWebhook>> {
    let mut webhooks: HashMap<WebhookId, &Arc<PreparedWebhook>> = HashMap::new();
    for tag in &item.tags {
        webhooks.extend(item.config.activated_by(tag.id).map(|prepared| (prepared.webhook.id, prepared)));
    }
    let mut webhooks: Vec<_> = webhooks.into_values().collect();
    webhooks.sort_by_key(|prepared| prepared.webhook.id);
    webhooks
}
