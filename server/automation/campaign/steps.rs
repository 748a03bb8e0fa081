//! The steps of many ways in one transaction: round by round, in each the next action of all that are on their way.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Entry, enroll, finished, happening, origin_of, take_out};
use crate::automation::assign::assign_only;
use crate::automation::fire::{CampaignStep, Trigger, fire};
use crate::automation::happen::{Change, Happening, changes, heard, note, triggered};
use crate::automation::react::react;
use crate::automation::{Assignment, Origin, unassign};
use crate::domain::campaign::{Action, Enrollment, EnrollmentState, Node};
use crate::domain::condition::{Condition, Facts};
use crate::domain::contact::{Contact, MAX_VALUES, MAX_VALUES_BYTES};
use crate::domain::delivery::Source;
use crate::domain::event::CAMPAIGN_STEP_FAILED;
use crate::domain::field::FieldValue;
use crate::domain::tag::{TagKind, TagRef};
use crate::domain::time::Micros;
use crate::domain::trigger_data::TriggerData;
use crate::error::Result;
use crate::ids::{CampaignId, ContactId, TagId, WebhookId, WorkspaceId};
use crate::store::campaign_node::{self, Passes};
use crate::store::config::{PreparedCampaign, WorkspaceConfig};
use crate::store::contact::ContactRef;
use crate::store::{self, Tx, enrollment};

/// The most steps of a way in one transaction; then it is others' turn.
const MAX_STEPS: usize = 100;
/// When a way goes on that has had its turn.
const BREATH: Duration = Duration::from_secs(1);

/// Leads ways on until each waits or ends. The caller holds their locks.
///
/// # Errors
///
/// The database's; then nothing was done.
pub(super) async fn lead(tx: &Tx, ways: Vec<Enrollment>) -> Result<()> {
    let workspaces: HashSet<WorkspaceId> = ways.iter().map(|way| way.workspace_id).collect();
    let configs = tx.configs(&workspaces.into_iter().collect::<Vec<_>>()).await?;
    let (mut held, mut leading) = (Vec::new(), Vec::new());
    for enrollment in ways {
        let config = configs.get(&enrollment.workspace_id);
        let campaign = config.and_then(|config| config.campaign(enrollment.campaign_id));
        match (config, campaign) {
            (Some(config), Some(campaign)) if campaign.is_active() => {
                let due = enrollment.due.unwrap_or(tx.now());
                let (config, campaign) = (Arc::clone(config), Arc::clone(campaign));
                leading.push(Way { enrollment, config, campaign, due, is_on: true });
            }
            // Of a campaign that was deleted, what is left is removed in steps.
            _ => held.push(enrollment.id),
        }
    }
    enrollment::park(tx, &held).await?;
    let mut turn = Turn {
        tx,
        ways: leading,
        contacts: HashMap::new(),
        caused: Vec::new(),
        notes: Vec::new(),
        passes: Passes::new(),
    };
    turn.run().await?;
    let Turn { ways, caused, notes, passes, .. } = turn;
    let ways: Vec<Enrollment> = ways.into_iter().map(|way| way.enrollment).collect();
    enrollment::update(tx, &ways).await?;
    note(tx, &notes).await?;
    react(tx, caused).await?;
    campaign_node::add(tx, &passes).await
}

/// A way that is being led.
struct Way {
    enrollment: Enrollment,
    config: Arc<WorkspaceConfig>,
    campaign: Arc<PreparedCampaign>,
    /// When its first step was due.
    due: Micros,
    /// Whether it goes on in this transaction.
    is_on: bool,
}

impl Way {
    fn key(&self) -> (WorkspaceId, ContactRef) {
        (self.enrollment.workspace_id, ContactRef::Id(self.enrollment.contact_id))
    }

    /// Where what its steps do comes from.
    fn origin(&self) -> Origin {
        let origin = origin_of(&self.enrollment);
        Origin { depth: origin.depth + 1, ..origin }
    }

    fn wait(&mut self, until: Micros) {
        self.enrollment.is_waiting = true;
        self.enrollment.due = Some(until);
        self.is_on = false;
    }

    fn end(&mut self, state: EnrollmentState, now: Micros) {
        self.enrollment.state = state;
        self.enrollment.due = None;
        self.enrollment.ended = Some(now);
        self.enrollment.data = None;
        self.is_on = false;
    }
}

/// One transaction.
struct Turn<'a> {
    tx: &'a Tx,
    ways: Vec<Way>,
    contacts: HashMap<ContactId, Arc<Contact>>,
    /// What smart tags are to hear.
    caused: Vec<Happening>,
    /// What is recorded for the timeline: steps that came to nothing, and changes of contacts.
    notes: Vec<Happening>,
    /// How often contacts went on from nodes.
    passes: Passes,
}

/// What the ways do in one round, by kind, so that each kind is a few statements for all of them.
#[derive(Default)]
struct Round {
    webhooks: Vec<(usize, WebhookId)>,
    assignments: Vec<(usize, Vec<TagId>)>,
    removals: Vec<(usize, Vec<TagId>)>,
    decisions: Vec<usize>,
    settings: Vec<(usize, String, String)>,
    starts: Vec<(usize, CampaignId)>,
    stops: Vec<(usize, CampaignId)>,
}

impl Turn<'_> {
    async fn run(&mut self) -> Result<()> {
        for way in &mut self.ways {
            way.enrollment.failures = 0;
            way.enrollment.error.clear();
        }
        for _ in 0..MAX_STEPS {
            if self.ways.iter().all(|way| !way.is_on) {
                return Ok(());
            }
            self.meet().await?;
            let round = self.plan();
            self.call(&round.webhooks).await?;
            self.assign(&round.assignments).await?;
            self.remove(&round.removals).await?;
            self.decide(&round.decisions).await?;
            self.set(round.settings).await?;
            self.start(&round.starts).await?;
            self.stop(&round.stops).await?;
        }
        let later = self.tx.now().saturating_add(BREATH);
        for way in self.ways.iter_mut().filter(|way| way.is_on) {
            way.enrollment.due = Some(later);
        }
        Ok(())
    }

    /// Looks up the contacts that aren't known yet. One that has gone is on no way.
    async fn meet(&mut self) -> Result<()> {
        let is_new = |way: &&Way| way.is_on && !self.contacts.contains_key(&way.enrollment.contact_id);
        let wanted: HashSet<_> = self.ways.iter().filter(is_new).map(Way::key).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let found = store::contact::find_many(self.tx.db(), &wanted.into_iter().collect::<Vec<_>>()).await?;
        self.contacts.extend(found.into_values().map(|contact| (contact.id, Arc::new(contact))));
        for way in self.ways.iter_mut().filter(|way| way.is_on) {
            if !self.contacts.contains_key(&way.enrollment.contact_id) {
                way.end(EnrollmentState::Exited, self.tx.now());
            }
        }
        Ok(())
    }

    /// Sorts the ways by what their nodes do. What needs nothing of the database is done at once.
    fn plan(&mut self) -> Round {
        let mut round = Round::default();
        for index in 0..self.ways.len() {
            let Some(way) = self.ways.get(index).filter(|way| way.is_on) else { continue };
            let campaign = Arc::clone(&way.campaign);
            let Some(node) = campaign.campaign.definition.node(&way.enrollment.node) else {
                self.lose(index);
                continue;
            };
            match &node.action {
                Action::Webhook(id) => round.webhooks.push((index, *id)),
                Action::AssignTags(tags) => round.assignments.push((index, tags.clone())),
                Action::RemoveTags(tags) => round.removals.push((index, tags.clone())),
                Action::Decision { .. } => round.decisions.push(index),
                Action::SetField { key, value } => round.settings.push((index, key.clone(), value.clone())),
                Action::StartCampaign(id) => round.starts.push((index, *id)),
                Action::StopCampaign(id) => round.stops.push((index, *id)),
                Action::Wait(duration) => {
                    let until = self.tx.now().saturating_add(*duration);
                    self.wait(index, node, until);
                }
                Action::WaitUntil(key) => {
                    let until = self.time_of(index, key).unwrap_or(Micros(0));
                    self.wait(index, node, until);
                }
                Action::GoTo(to) => self.go_on(index, to.as_deref()),
                Action::Exit => self.finish(index),
            }
        }
        round
    }

    /// Waits at a node, or goes on where the wait is over.
    fn wait(&mut self, index: usize, node: &Node, until: Micros) {
        let now = self.tx.now();
        match self.ways.get_mut(index) {
            Some(way) if !way.enrollment.is_waiting && until > now => way.wait(until),
            _ => self.go_on(index, node.next.as_deref()),
        }
    }

    /// The time that a field of a way's contact says.
    fn time_of(&self, index: usize, key: &str) -> Option<Micros> {
        let way = self.ways.get(index)?;
        let contact = self.contacts.get(&way.enrollment.contact_id)?;
        let value = FieldValue::from_stored(way.config.field_type(key)?, contact.values.get(key)?)?;
        match value {
            FieldValue::Datetime(time) => Some(time),
            FieldValue::Date(date) => Micros::parse_rfc3339(&format!("{date}T00:00:00Z")),
            _ => None,
        }
    }

    /// Goes on at a node. The graph was checked when the campaign was activated; where it leads nowhere all the same, that
    /// is the end.
    fn go_on(&mut self, index: usize, node: Option<&str>) {
        self.pass(index);
        let Some(way) = self.ways.get_mut(index) else { return };
        way.enrollment.is_waiting = false;
        way.enrollment.steps += 1;
        match node {
            Some(node) => node.clone_into(&mut way.enrollment.node),
            None => self.end(index, EnrollmentState::Exited),
        }
    }

    /// Goes on at the node that follows.
    fn next(&mut self, index: usize) {
        let next = self.ways.get(index).and_then(|way| {
            let node = way.campaign.campaign.definition.node(&way.enrollment.node)?;
            node.next.clone()
        });
        self.go_on(index, next.as_deref());
    }

    /// Counts a contact that goes on from its node.
    fn pass(&mut self, index: usize) {
        let Some(way) = self.ways.get(index) else { return };
        let enrollment = &way.enrollment;
        let key = (enrollment.campaign_id, enrollment.node.clone());
        self.passes.entry(key).or_insert((enrollment.workspace_id, 0)).1 += 1;
    }

    fn end(&mut self, index: usize, state: EnrollmentState) {
        let now = self.tx.now();
        let Some(way) = self.ways.get_mut(index) else { return };
        way.end(state, now);
        self.caused.extend(finished(self.tx, &way.config, &way.enrollment));
    }

    /// Ends a way at an exit.
    fn finish(&mut self, index: usize) {
        self.pass(index);
        if let Some(way) = self.ways.get_mut(index) {
            way.enrollment.steps += 1;
        }
        self.end(index, EnrollmentState::Finished);
    }

    /// Ends a way whose node was removed.
    fn lose(&mut self, index: usize) {
        if let Some(way) = self.ways.get_mut(index) {
            "its node was removed".clone_into(&mut way.enrollment.error);
        }
        self.end(index, EnrollmentState::Exited);
    }

    /// Says in the timeline that a step came to nothing.
    fn fail(&mut self, index: usize, why: &str) {
        let Some(way) = self.ways.get(index) else { return };
        let more = [("node", way.enrollment.node.as_str()), ("error", why)];
        self.notes.push(happening(self.tx, &way.campaign, &way.enrollment, CAMPAIGN_STEP_FAILED, &more));
    }

    async fn call(&mut self, calls: &[(usize, WebhookId)]) -> Result<()> {
        let mut triggers = Vec::with_capacity(calls.len());
        for (index, id) in calls {
            match self.trigger(*index, *id) {
                Some(trigger) => triggers.push(trigger),
                None => self.fail(*index, "its webhook is gone"),
            }
        }
        let decisions = fire(self.tx, &triggers).await?;
        self.caused.extend(triggered(self.tx, &triggers, &decisions));
        calls.iter().for_each(|(index, _)| self.next(*index));
        Ok(())
    }

    fn trigger(&self, index: usize, id: WebhookId) -> Option<Trigger> {
        let way = self.ways.get(index)?;
        Some(Trigger {
            webhook: Arc::clone(way.config.webhook(id)?),
            config: Arc::clone(&way.config),
            contact: Arc::clone(self.contacts.get(&way.enrollment.contact_id)?),
            workspace_id: way.enrollment.workspace_id,
            source: Source::Campaign,
            tags: Vec::new(),
            only: None,
            campaign: Some(CampaignStep {
                name: way.campaign.campaign.name.clone(),
                enrollment: way.enrollment.id,
                step: way.enrollment.steps,
                due: way.due,
            }),
            origin: way.origin(),
        })
    }

    /// The tags of an action that are there still.
    fn present(&mut self, index: usize, tags: &[TagId]) -> Vec<TagId> {
        let Some(way) = self.ways.get(index) else { return Vec::new() };
        let is_there = |tag: &&TagId| way.config.tag(**tag).is_some_and(|tag| tag.kind == TagKind::Manual);
        let present: Vec<TagId> = tags.iter().filter(is_there).copied().collect();
        if present.len() < tags.len() {
            self.fail(index, "a tag is gone");
        }
        present
    }

    async fn assign(&mut self, assignments: &[(usize, Vec<TagId>)]) -> Result<()> {
        let (mut wishes, mut wishers) = (Vec::with_capacity(assignments.len()), Vec::with_capacity(assignments.len()));
        for (index, tags) in assignments {
            let tag_ids = self.present(*index, tags);
            let Some(way) = self.ways.get(*index).filter(|_| !tag_ids.is_empty()) else { continue };
            let (workspace_id, contact) = way.key();
            let tags = tag_ids.into_iter().map(TagRef::Id).collect();
            wishes.push(Assignment { workspace_id, contact, tags, kind: TagKind::Manual, origin: way.origin() });
            wishers.push(*index);
        }
        if !wishes.is_empty() {
            // Boxed, since assigning lets contacts enter campaigns.
            let (results, caused) = Box::pin(assign_only(self.tx, &wishes)).await?;
            self.caused.extend(caused);
            for (index, result) in wishers.into_iter().zip(results) {
                if let Err(error) = result {
                    self.fail(index, &error.to_string());
                }
            }
        }
        assignments.iter().for_each(|(index, _)| self.next(*index));
        Ok(())
    }

    async fn remove(&mut self, removals: &[(usize, Vec<TagId>)]) -> Result<()> {
        let mut rows = HashSet::new();
        for (index, tags) in removals {
            let present = self.present(*index, tags);
            let Some(way) = self.ways.get(*index) else { continue };
            let (workspace, contact) = (way.enrollment.workspace_id, way.enrollment.contact_id);
            rows.extend(present.into_iter().map(|tag| (workspace, contact, tag)));
        }
        unassign(self.tx, &rows.into_iter().collect::<Vec<_>>()).await?;
        removals.iter().for_each(|(index, _)| self.next(*index));
        Ok(())
    }

    async fn decide(&mut self, decisions: &[usize]) -> Result<()> {
        let asks_tags = |way: &&Way| way.campaign.condition(&way.enrollment.node).is_some_and(Condition::reads_tags);
        let asked = decisions.iter().filter_map(|index| self.ways.get(*index)).filter(asks_tags);
        let asked: HashSet<ContactId> = asked.map(|way| way.enrollment.contact_id).collect();
        let tags = store::contact_tag::names(self.tx.db(), &asked.into_iter().collect::<Vec<_>>()).await?;
        for index in decisions.iter().copied() {
            let is_true = self.ask(index, &tags).unwrap_or_else(|why| {
                self.fail(index, &why);
                false
            });
            let to = self.ways.get(index).and_then(|way| {
                let node = way.campaign.campaign.definition.node(&way.enrollment.node)?;
                match &node.action {
                    Action::Decision { then_node, .. } if is_true => then_node.clone(),
                    Action::Decision { else_node, .. } => else_node.clone(),
                    _ => None,
                }
            });
            self.go_on(index, to.as_deref());
        }
        Ok(())
    }

    /// Whether a decision's condition holds.
    fn ask(&self, index: usize, tags: &HashMap<ContactId, Vec<String>>) -> Result<bool, String> {
        let Some(way) = self.ways.get(index) else { return Ok(false) };
        let condition = way.campaign.condition(&way.enrollment.node).ok_or("the node has no condition")?;
        let contact = self.contacts.get(&way.enrollment.contact_id).ok_or("the contact is gone")?;
        let data = way.enrollment.data.as_deref();
        let facts = Facts {
            event: data.and_then(TriggerData::event_facts),
            values: data.map(|data| &data.values),
            contact,
            field_type: &|key| way.config.field_type(key),
            tags: tags.get(&contact.id).map_or(&[][..], Vec::as_slice),
            now: self.tx.now(),
        };
        condition.holds(&facts).map_err(|error| error.to_string())
    }

    /// Together where nobody changes the contacts meanwhile; those that somebody did, and those of whom several ways are
    /// here, have their turn again in the next round.
    async fn set(&mut self, settings: Vec<(usize, String, String)>) -> Result<()> {
        let mut changed: HashMap<ContactId, (usize, Contact)> = HashMap::new();
        let mut again = Vec::new();
        for (index, key, value) in settings {
            match self.with_value(index, &key, &value) {
                Ok(Some(contact)) if !changed.contains_key(&contact.id) => {
                    changed.insert(contact.id, (index, contact));
                }
                Ok(Some(contact)) => again.push(contact.id),
                Ok(None) => self.next(index),
                Err(why) => {
                    self.fail(index, why);
                    self.next(index);
                }
            }
        }
        let contacts: Vec<&Contact> = changed.values().map(|(_, contact)| contact).collect();
        let written = store::contact::update_values(self.tx, &contacts).await?;
        for (id, (index, contact)) in changed {
            if written.contains(&id) {
                self.has_set(index, contact);
            } else {
                // It was changed since it was read: the next round reads it again.
                self.contacts.remove(&id);
            }
        }
        for id in again {
            // It has just been changed for another way.
            self.contacts.remove(&id);
        }
        Ok(())
    }

    /// A way's contact with a value set, its version raised; `None` if it has the value already.
    fn with_value(&self, index: usize, key: &str, value: &str) -> Result<Option<Contact>, &'static str> {
        let Some(way) = self.ways.get(index) else { return Ok(None) };
        let field_type = way.config.field_type(key).ok_or("its field is gone")?;
        let value = FieldValue::parse_or_clear(field_type, value).map_err(|_| "its value doesn't fit the field")?;
        let Some(contact) = self.contacts.get(&way.enrollment.contact_id) else { return Ok(None) };
        let mut changed = Contact::clone(contact);
        match value {
            Some(value) => drop(changed.values.insert(key.to_owned(), value.to_stored())),
            None => drop(changed.values.remove(key)),
        }
        if changed.values == contact.values {
            return Ok(None);
        }
        if changed.values.len() > MAX_VALUES || changed.values_bytes() > MAX_VALUES_BYTES {
            return Err("its contact has no room for the value");
        }
        changed.version += 1;
        changed.updated = self.tx.now();
        Ok(Some(changed))
    }

    fn has_set(&mut self, index: usize, contact: Contact) {
        if let Some(way) = self.ways.get(index) {
            let change = Change::Updated(contact.status);
            let changes = changes(self.tx, way.enrollment.workspace_id, &contact, change, &way.origin());
            self.notes.extend(changes.iter().cloned());
            self.caused.extend(heard(&way.config, changes));
        }
        self.contacts.insert(contact.id, Arc::new(contact));
        self.next(index);
    }

    async fn start(&mut self, starts: &[(usize, CampaignId)]) -> Result<()> {
        let mut entries = Vec::with_capacity(starts.len());
        for (index, id) in starts {
            let entry = self.ways.get(*index).and_then(|way| {
                Some(Entry {
                    config: Arc::clone(&way.config),
                    campaign: way.config.campaign(*id).filter(|campaign| campaign.is_active()).cloned()?,
                    contact_id: way.enrollment.contact_id,
                    origin: way.origin(),
                })
            });
            match entry {
                Some(entry) => entries.push(entry),
                None => self.fail(*index, "the other campaign doesn't run"),
            }
        }
        self.caused.extend(enroll(self.tx, entries).await?.started);
        starts.iter().for_each(|(index, _)| self.next(*index));
        Ok(())
    }

    async fn stop(&mut self, stops: &[(usize, CampaignId)]) -> Result<()> {
        for (index, id) in stops {
            // One that was stopped itself a moment ago stops nobody.
            let Some(way) = self.ways.get(*index).filter(|way| way.is_on) else { continue };
            let (own, contact, config) =
                (way.enrollment.campaign_id, way.enrollment.contact_id, Arc::clone(&way.config));
            if *id == own {
                self.end(*index, EnrollmentState::Exited);
                continue;
            }
            // What the database says of those that are led here isn't so any more.
            let is_meant = |way: &Way| (way.enrollment.campaign_id, way.enrollment.contact_id) == (*id, contact);
            match self.ways.iter().position(is_meant) {
                Some(other) => self.stop_here(other),
                None => self.caused.extend(take_out(self.tx, &config, &[(*id, contact)]).await?.1),
            }
            self.next(*index);
        }
        Ok(())
    }

    /// Ends a way that is led here too, be it on its way or at a wait. It may have ended by itself.
    fn stop_here(&mut self, index: usize) {
        if self.ways.get(index).is_some_and(|way| way.enrollment.state == EnrollmentState::Running) {
            self.end(index, EnrollmentState::Exited);
        }
    }
}

/// What a way says of a step that failed as a whole.
pub(super) fn put_off(mut way: Enrollment, error: &str, now: Micros) -> Enrollment {
    const MAX_FAILURES: i16 = 5;
    const FIRST_PAUSE: Duration = Duration::from_secs(10);
    way.failures += 1;
    way.error = error.chars().take(200).collect();
    if way.failures >= MAX_FAILURES {
        way.state = EnrollmentState::Failed;
        way.due = None;
        way.ended = Some(now);
    } else {
        let pause = FIRST_PAUSE * 4_u32.pow(u32::from(way.failures.unsigned_abs()));
        way.due = Some(now.saturating_add(pause));
    }
    way
}
