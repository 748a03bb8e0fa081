//! Assigning tags: their effects, and the webhooks that they activate.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::campaign::{Entry, enroll};
use super::fire::{TagMark, Trigger, fire};
use super::happen::{Happening, triggered};
use super::react::react;
use super::{Assigned, AssignedTag, Assignment, Shared, TriggerDecision, unassign};
use crate::domain::contact::Contact;
use crate::domain::delivery::{Decision, Reason, Source};
use crate::domain::tag::{Tag, TagKind};
use crate::error::{Error, Result};
use crate::ids::{ContactId, TagId, WebhookId, WorkspaceId};
use crate::store::config::{PreparedWebhook, WorkspaceConfig};
use crate::store::contact::ContactRef;
use crate::store::contact_tag::Assigned as Held;
use crate::store::{self, Store, Tx};

/// Assigns tags and records what they set off, in one transaction. Each assignment has its own result: one that names a
/// contact or a tag that isn't there changes nothing and harms no other.
///
/// # Errors
///
/// The database's; then nothing was assigned.
pub async fn assign(tx: &Tx, assignments: &[Assignment]) -> Result<Vec<Result<Assigned>>> {
    let (results, caused) = assign_only(tx, assignments).await?;
    react(tx, caused).await?;
    Ok(results)
}

/// [`assign()`] without what smart tags make of it: that is the caller's to look after, by what is answered with.
pub(super) async fn assign_only(
    tx: &Tx,
    assignments: &[Assignment],
) -> Result<(Vec<Result<Assigned>>, Vec<Happening>)> {
    tx.gate_shared().await?;
    let workspaces: HashSet<WorkspaceId> = assignments.iter().map(|assignment| assignment.workspace_id).collect();
    let configs = tx.configs(&workspaces.into_iter().collect::<Vec<_>>()).await?;
    let wanted: HashSet<(WorkspaceId, ContactRef)> =
        assignments.iter().map(|assignment| (assignment.workspace_id, assignment.contact.clone())).collect();
    let contacts = store::contact::find_many(tx.db(), &wanted.into_iter().collect::<Vec<_>>()).await?;
    let contacts = contacts.into_iter().map(|(key, contact)| (key, Arc::new(contact))).collect();
    let items = assignments.iter().map(|assignment| Item::resolve(assignment, &configs, &contacts));
    let (mut results, mut caused) = (Vec::with_capacity(assignments.len()), Vec::new());
    for wave in waves(items) {
        results.extend(run(tx, wave, &mut caused).await?);
    }
    Ok((results, caused))
}

/// Parts what is to be run one after the other: who was to lose tags may get them back from a later assignment.
fn waves<'a>(items: impl Iterator<Item = Result<Item<'a>>>) -> Vec<Vec<Result<Item<'a>>>> {
    let mut waves = vec![Vec::new()];
    let mut losers = HashSet::new();
    for item in items {
        if let Ok(item) = &item {
            if losers.contains(&item.contact.id) {
                waves.push(Vec::new());
                losers.clear();
            }
            if !item.removals.is_empty() {
                losers.insert(item.contact.id);
            }
        }
        if let Some(wave) = waves.last_mut() {
            wave.push(item);
        }
    }
    waves
}

async fn run(tx: &Tx, items: Vec<Result<Item<'_>>>, caused: &mut Vec<Happening>) -> Result<Vec<Result<Assigned>>> {
    let pairs: HashSet<(WorkspaceId, ContactId, TagId)> = items.iter().flatten().flat_map(Item::pairs).collect();
    let held = if pairs.is_empty() {
        HashMap::new()
    } else {
        store::contact_tag::assign(tx, &pairs.into_iter().collect::<Vec<_>>()).await?
    };
    let removals: HashSet<(WorkspaceId, ContactId, TagId)> = items.iter().flatten().flat_map(Item::losses).collect();
    let removed = unassign(tx, &removals.into_iter().collect::<Vec<_>>()).await?;
    let entries: Vec<Entry> = items.iter().flatten().flat_map(Item::entries).collect();
    let plans = Plan::all(items, &held, &removed.into_iter().collect());
    let triggers: Vec<Trigger> = plans.iter().flatten().flat_map(|plan| plan.triggers.iter().cloned()).collect();
    let decisions = fire(tx, &triggers).await?;
    caused.extend(triggered(tx, &triggers, &decisions));
    caused.extend(enroll(tx, entries).await?.started);
    let mut decisions = decisions.into_iter();
    let answers = plans.into_iter().map(|plan| {
        let plan = plan?;
        let fired = decisions.by_ref().take(plan.triggers.len()).collect();
        Ok(plan.answer(fired))
    });
    Ok(answers.collect())
}

impl Shared for Assignment {
    type Answer = Assigned;

    const NAME: &'static str = "assign";

    /// Its tags and their effects, and a delivery for each webhook event that they set off.
    fn rows(&self, store: &Store) -> usize {
        let Some(config) = store.known_config(self.workspace_id) else { return self.tags.len() };
        let events = |tag: TagId| -> usize {
            config.activated_by(tag).map(|prepared| prepared.webhook.definition.events.len()).sum()
        };
        let rows = |named: TagId| -> usize {
            let reach = config.reach(named);
            let also = reach.into_iter().flat_map(|reach| &reach.assign).map(|tag| 1 + events(*tag));
            1 + events(named) + also.sum::<usize>() + reach.map_or(0, |reach| reach.remove.len())
        };
        self.tags.iter().map(|which| config.find_tag(which).map_or(1, |tag| rows(tag.id))).sum()
    }

    async fn run(tx: &Tx, wishes: &[Self]) -> Result<Vec<Result<Assigned>>> {
        assign(tx, wishes).await
    }
}

/// Refuses to assign or remove a tag of another kind than its assigner's.
///
/// # Errors
///
/// [`Error::TagNotAssignable`].
pub fn refuse_other_kind(tag: &Tag, kind: TagKind) -> Result<()> {
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
    /// The tags that are named, then those that follow from them.
    tags: Vec<ItemTag>,
    /// The tags that effects take off the contact.
    removals: Vec<TagId>,
}

struct ItemTag {
    tag: Arc<Tag>,
    /// The named tag from which it follows.
    effect_of: Option<TagId>,
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
        let mut item = Self { assignment, config, contact, tags: Vec::new(), removals: Vec::new() };
        for tag in config.find_tags(&assignment.tags)? {
            refuse_other_kind(tag, assignment.kind)?;
            item.tags.push(ItemTag { tag: Arc::clone(tag), effect_of: None });
        }
        item.add_effects();
        Ok(item)
    }

    fn add_effects(&mut self) {
        let named: Vec<TagId> = self.tags.iter().map(|named| named.tag.id).collect();
        for named in named {
            let Some(reach) = self.config.reach(named) else { continue };
            for id in &reach.assign {
                let is_there = self.tags.iter().any(|there| there.tag.id == *id);
                if let (Some(tag), false) = (self.config.tag(*id), is_there) {
                    self.tags.push(ItemTag { tag: Arc::clone(tag), effect_of: Some(named) });
                }
            }
            for id in &reach.remove {
                if !self.removals.contains(id) {
                    self.removals.push(*id);
                }
            }
        }
    }

    fn pairs(&self) -> impl Iterator<Item = (WorkspaceId, ContactId, TagId)> + '_ {
        self.tags.iter().map(|named| (self.assignment.workspace_id, self.contact.id, named.tag.id))
    }

    /// The campaigns that the tags begin.
    fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.tags.iter().flat_map(|item_tag| self.config.started_by(item_tag.tag.id)).map(|campaign| Entry {
            config: Arc::clone(self.config),
            campaign: Arc::clone(campaign),
            contact_id: self.contact.id,
            origin: self.assignment.origin.clone(),
        })
    }

    fn losses(&self) -> impl Iterator<Item = (WorkspaceId, ContactId, TagId)> + '_ {
        self.removals.iter().map(|tag| (self.assignment.workspace_id, self.contact.id, *tag))
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
            campaign: None,
            origin: self.assignment.origin.clone(),
        }
    }
}

/// What an assignment will answer and trigger.
struct Plan {
    contact_id: ContactId,
    tags: Vec<AssignedTag>,
    removed: Vec<TagId>,
    triggers: Vec<Trigger>,
    /// Webhooks that take new tags alone, and got none.
    ignored: Vec<TriggerDecision>,
}

impl Plan {
    fn all(
        items: Vec<Result<Item<'_>>>,
        held: &HashMap<(ContactId, TagId), Held>,
        removed: &HashSet<(ContactId, TagId)>,
    ) -> Vec<Result<Self>> {
        // Of several assignments of one tag to one contact in a batch, the first is the one that is new.
        let mut seen = HashSet::new();
        items.into_iter().map(|item| Ok(Self::new(&item?, held, removed, &mut seen))).collect()
    }

    fn new(
        item: &Item<'_>,
        held: &HashMap<(ContactId, TagId), Held>,
        removed: &HashSet<(ContactId, TagId)>,
        seen: &mut HashSet<(ContactId, TagId)>,
    ) -> Self {
        let contact_id = item.contact.id;
        let assigned = item.tags.iter().filter_map(|item_tag| {
            let key = (contact_id, item_tag.tag.id);
            let held = held.get(&key)?;
            Some(AssignedTag {
                tag_id: item_tag.tag.id,
                is_new: seen.insert(key) && held.is_new,
                since: held.since,
                effect_of: item_tag.effect_of,
            })
        });
        let mut plan = Self {
            contact_id,
            tags: assigned.collect(),
            removed: item.removals.iter().copied().filter(|tag| removed.contains(&(contact_id, *tag))).collect(),
            triggers: Vec::new(),
            ignored: Vec::new(),
        };
        for webhook in activated(item) {
            plan.touch(item, webhook);
        }
        plan
    }

    fn touch(&mut self, item: &Item<'_>, prepared: &Arc<PreparedWebhook>) {
        let webhook = &prepared.webhook;
        let definition = &webhook.definition;
        let tags = item.tags.iter().map(|item_tag| &item_tag.tag);
        let activating = tags.zip(&self.tags).filter(|(tag, _)| definition.activation_tag_ids.contains(&tag.id));
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
        Assigned { contact_id: self.contact_id, tags: self.tags, removed: self.removed, triggers }
    }
}

/// The webhooks that an assignment's tags activate, each once, in the order of their ids.
fn activated<'a>(item: &'a Item<'_>) -> Vec<&'a Arc<PreparedWebhook>> {
    let mut webhooks: HashMap<WebhookId, &Arc<PreparedWebhook>> = HashMap::new();
    for item_tag in &item.tags {
        webhooks.extend(item.config.activated_by(item_tag.tag.id).map(|prepared| (prepared.webhook.id, prepared)));
    }
    let mut webhooks: Vec<_> = webhooks.into_values().collect();
    webhooks.sort_by_key(|prepared| prepared.webhook.id);
    webhooks
}
