//! What triggers become: each is decided once, and recorded with its deliveries.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::guard::{is_guarded, unmet};
use super::{Origin, TriggerDecision};
use crate::domain::contact::{Contact, Email, ExternalId, Phone};
use crate::domain::delivery::{Decision, MAX_CAUSATION_DEPTH, Reason, Source, State};
use crate::domain::outcome::{DeliveryRef, Kind, Outcome};
use crate::domain::request::{EventDefinition, Snapshot, TriggerContext};
use crate::domain::time::Micros;
use crate::domain::webhook::CooldownPolicy;
use crate::error::Result;
use crate::ids::{ContactId, DeliveryId, EnrollmentId, TagId, TypedId, WebhookEventId, WorkspaceId, derived_uuid_v7};
use crate::store::Tx;
use crate::store::config::{PreparedWebhook, WorkspaceConfig};
use crate::store::cooldown::{self, Claim, WindowKey};
use crate::store::delivery::NewDelivery;
use crate::store::delivery::lane;
use crate::store::delivery::queue::{self, Coalesced, Deferral};
use crate::store::endpoint::Admission;
use crate::store::lease::Job;

/// A webhook that is set off for a contact.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// The webhook.
    pub webhook: Arc<PreparedWebhook>,
    /// The config that it is part of.
    pub config: Arc<WorkspaceConfig>,
    /// The contact.
    pub contact: Arc<Contact>,
    /// Their workspace.
    pub workspace_id: WorkspaceId,
    /// What sets it off.
    pub source: Source,
    /// The activating tags, if tags do.
    pub tags: Vec<TagMark>,
    /// The one webhook event to send, as a test does; `None` for all.
    pub only: Option<WebhookEventId>,
    /// The step of a campaign that sets it off, if one does.
    pub campaign: Option<CampaignStep>,
    /// Where it comes from.
    pub origin: Origin,
}

/// A step of a contact's way through a campaign.
#[derive(Clone, Debug)]
pub struct CampaignStep {
    /// The campaign's name.
    pub name: String,
    /// The way.
    pub enrollment: EnrollmentId,
    /// The step's number.
    pub step: i64,
    /// When it was due.
    pub due: Micros,
}

impl CampaignStep {
    /// The id of the delivery that the step makes of a webhook event: the same however often the step is made.
    fn delivery_id(&self, event: WebhookEventId) -> DeliveryId {
        let parts: [&[u8]; 3] = [self.enrollment.0.as_bytes(), &self.step.to_be_bytes(), event.0.as_bytes()];
        DeliveryId(derived_uuid_v7(self.due, &parts))
    }
}

/// A tag that a contact holds, as requests tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagMark {
    /// The tag.
    pub id: TagId,
    /// Its name.
    pub name: String,
    /// Since when the contact holds it.
    pub since: Micros,
}

/// A trigger that was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Scheduled,
    /// Until the end of the window, by itself or taken in by a deferral that waits.
    Deferred(Micros),
    Suppressed,
    Skipped(Reason),
}

/// Decides triggers and records what follows: deliveries, outcomes, leases. Answers in the order of the triggers. The
/// caller has taken the gate.
///
/// # Errors
///
/// The database's.
pub async fn fire(tx: &Tx, triggers: &[Trigger]) -> Result<Vec<TriggerDecision>> {
    if triggers.is_empty() {
        return Ok(Vec::new());
    }
    let mut firing = Firing { tx, triggers, deferrals: HashMap::new() };
    let verdicts = firing.decide().await?;
    firing.record(&verdicts).await
}

/// Triggers that are being decided.
struct Firing<'a> {
    tx: &'a Tx,
    triggers: &'a [Trigger],
    /// The deferrals that stand, by webhook event and contact.
    deferrals: HashMap<(WebhookEventId, ContactId), Deferral>,
}

impl Firing<'_> {
    async fn decide(&mut self) -> Result<Vec<Verdict>> {
        let mut verdicts: Vec<Verdict> = self.triggers.iter().map(unconditional).collect();
        self.ask_conditions(&mut verdicts).await?;
        // The triggers that ask the cooldown, by window: of several in one batch, the first one asks.
        let mut windows: HashMap<WindowKey, Vec<usize>> = HashMap::new();
        for (index, (trigger, verdict)) in self.triggers.iter().zip(&verdicts).enumerate() {
            if trigger.source == Source::Tag && *verdict == Verdict::Scheduled {
                windows.entry(trigger.window()).or_default().push(index);
            }
        }
        for (key, due) in self.coalesce(&windows).await? {
            for index in windows.remove(&key).unwrap_or_default() {
                set(&mut verdicts, index, Verdict::Deferred(due));
            }
        }
        self.claim(&windows, &mut verdicts).await?;
        Ok(verdicts)
    }

    /// Skips the triggers whose webhook has a condition that isn't met, of those that would be sent.
    async fn ask_conditions(&self, verdicts: &mut [Verdict]) -> Result<()> {
        let asking = self.triggers.iter().zip(verdicts.iter_mut());
        let asking: Vec<_> =
            asking.filter(|(trigger, verdict)| **verdict == Verdict::Scheduled && is_guarded(trigger)).collect();
        let triggers: Vec<&Trigger> = asking.iter().map(|(trigger, _)| *trigger).collect();
        for ((_, verdict), reason) in asking.into_iter().zip(unmet(self.tx, &triggers).await?) {
            *verdict = reason.map_or(Verdict::Scheduled, Verdict::Skipped);
        }
        Ok(())
    }

    /// Lets deferrals that wait take in the triggers of their windows; answers with those windows and their ends.
    async fn coalesce(&mut self, windows: &HashMap<WindowKey, Vec<usize>>) -> Result<Vec<(WindowKey, Micros)>> {
        let mut wanted = Vec::new();
        for indexes in windows.values() {
            let triggers = || indexes.iter().filter_map(|index| self.triggers.get(*index));
            let Some(last) = triggers().next_back() else { continue };
            if last.webhook.webhook.definition.cooldown_policy != CooldownPolicy::Defer {
                continue;
            }
            let deepest = triggers().map(|trigger| trigger.origin.depth).max();
            wanted.extend(last.events().map(|event| Coalesced {
                webhook_event_id: event.id,
                contact_id: last.contact.id,
                tag_ids: last.tag_ids(),
                causation_depth: deepest.unwrap_or_default(),
                cause_id: last.origin.cause_id,
                traceparent: last.origin.traceparent.clone(),
                data: last.origin.data.clone(),
                count: u32::try_from(indexes.len()).unwrap_or(u32::MAX),
            }));
        }
        let taken = queue::coalesce(self.tx, &wanted).await?;
        self.remember(taken);
        let end_of = |indexes: &Vec<usize>| {
            let trigger = self.triggers.get(*indexes.first()?)?;
            trigger
                .events()
                .find_map(|event| self.deferrals.get(&(event.id, trigger.contact.id)))
                .map(|deferral| deferral.due)
        };
        Ok(windows.iter().filter_map(|(key, indexes)| Some((*key, end_of(indexes)?))).collect())
    }

    fn remember(&mut self, deferrals: Vec<Deferral>) {
        let keyed = deferrals.into_iter().map(|deferral| ((deferral.webhook_event_id, deferral.contact_id), deferral));
        self.deferrals.extend(keyed);
    }

    /// Asks the cooldown for each window, and decides its triggers.
    async fn claim(&self, windows: &HashMap<WindowKey, Vec<usize>>, verdicts: &mut [Verdict]) -> Result<()> {
        let claims: Vec<Claim> = windows
            .iter()
            .filter_map(|(key, indexes)| {
                let trigger = self.triggers.get(*indexes.first()?)?;
                let cooldown = trigger.webhook.webhook.definition.cooldown;
                Some(Claim { key: *key, workspace_id: trigger.workspace_id, cooldown })
            })
            .collect();
        if claims.is_empty() {
            return Ok(());
        }
        let accepted = cooldown::claim(self.tx, &claims).await?;
        let refused: Vec<Claim> = claims.iter().filter(|claim| !accepted.contains(&claim.key)).copied().collect();
        let opened = if refused.is_empty() { HashMap::new() } else { cooldown::opened(self.tx, &refused).await? };
        for claim in claims {
            let start = opened.get(&claim.key).copied().unwrap_or(self.tx.now());
            let end = start.saturating_add(claim.cooldown);
            let mut may_send = accepted.contains(&claim.key);
            for index in windows.get(&claim.key).into_iter().flatten() {
                let Some(trigger) = self.triggers.get(*index) else { continue };
                let verdict = match trigger.webhook.webhook.definition.cooldown_policy {
                    _ if may_send => Verdict::Scheduled,
                    CooldownPolicy::Suppress => Verdict::Suppressed,
                    CooldownPolicy::Defer => Verdict::Deferred(end),
                };
                set(verdicts, *index, verdict);
                // The next one of the same moment falls into the window that this one opened.
                may_send &= claim.cooldown.is_zero();
            }
        }
        Ok(())
    }

    async fn record(mut self, verdicts: &[Verdict]) -> Result<Vec<TriggerDecision>> {
        let mut new = Vec::new();
        let mut deferred = Deferred::default();
        for (trigger, verdict) in self.triggers.iter().zip(verdicts) {
            // A deferral that has taken the trigger in needs no row; a webhook event that is newer than it does.
            let is_waiting = |event: &&EventDefinition| self.deferrals.contains_key(&(event.id, trigger.contact.id));
            if let Verdict::Deferred(_) = verdict {
                let missing = trigger.events().filter(|event| !is_waiting(event));
                missing.for_each(|event| deferred.add(self.row(trigger, event, *verdict)));
            } else {
                new.extend(trigger.events().map(|event| self.row(trigger, event, *verdict)));
            }
        }
        self.place(&mut new).await?;
        self.lease(&mut new);
        queue::insert(self.tx, &new).await?;
        if !deferred.rows.is_empty() {
            let stored = queue::insert_deferred(self.tx, &deferred.rows).await?;
            self.remember(stored);
            // Its due time may be the next one that any dispatcher sleeps until.
            self.tx.announce_work();
        }
        let mut new = new.into_iter();
        let triggers = self.triggers;
        Ok(triggers.iter().zip(verdicts).map(|(trigger, verdict)| self.answer(trigger, *verdict, &mut new)).collect())
    }

    fn row(&self, trigger: &Trigger, event: &EventDefinition, verdict: Verdict) -> NewDelivery {
        let id = match &trigger.campaign {
            Some(step) => step.delivery_id(event.id),
            None => DeliveryId::generate(self.tx.now(), self.tx.store().entropy()),
        };
        let (state, reason, due) = match verdict {
            Verdict::Scheduled => (State::Waiting, Reason::None, Some(self.tx.now())),
            Verdict::Deferred(end) => (State::Deferred, Reason::Cooldown, Some(end)),
            Verdict::Suppressed => (State::Suppressed, Reason::Cooldown, None),
            Verdict::Skipped(reason) => (State::Skipped, reason, None),
        };
        NewDelivery {
            reference: DeliveryRef {
                id,
                webhook_event_id: event.id,
                contact_id: trigger.contact.id,
                source: trigger.source,
                tag_ids: trigger.tag_ids(),
            },
            workspace_id: trigger.workspace_id,
            webhook_id: trigger.webhook.webhook.id,
            state,
            reason,
            trigger_time: self.tx.now(),
            due,
            snapshot: (verdict == Verdict::Scheduled).then(|| trigger.snapshot(event, id, self.tx.now()).into()),
            data: trigger.origin.data.clone().filter(|_| state == State::Deferred),
            coalesced_count: 0,
            causation_depth: trigger.origin.depth,
            cause_id: trigger.origin.cause_id,
            traceparent: trigger.origin.traceparent.clone(),
            is_leased: false,
            is_in_lane: false,
            order: None,
        }
    }

    /// Gives deliveries whose order counts their places behind what waits already.
    async fn place(&self, deliveries: &mut [NewDelivery]) -> Result<()> {
        let is_ordered =
            |trigger: &&Trigger| trigger.webhook.webhook.definition.ordered && trigger.source != Source::Test;
        let ordered: HashSet<_> =
            self.triggers.iter().filter(is_ordered).map(|trigger| trigger.webhook.webhook.id).collect();
        if ordered.is_empty() {
            return Ok(());
        }
        let is_placed = |delivery: &&mut NewDelivery| {
            let is_real = delivery.reference.source != Source::Test && delivery.state == State::Waiting;
            is_real && ordered.contains(&delivery.webhook_id)
        };
        let placed: Vec<_> = deliveries.iter_mut().filter(is_placed).collect();
        let chains: Vec<_> = placed.iter().map(|delivery| delivery.key()).collect();
        for (delivery, place) in placed.into_iter().zip(lane::places(self.tx, &chains).await?) {
            delivery.order = Some(place);
        }
        Ok(())
    }

    /// Gives deliveries that are due to the local dispatcher, as far as it and their endpoints have room; others are
    /// claimed, here or on another server.
    fn lease(&self, deliveries: &mut [NewDelivery]) {
        let webhooks: HashMap<_, _> =
            self.triggers.iter().map(|trigger| (trigger.webhook.webhook.id, &trigger.webhook)).collect();
        for delivery in deliveries.iter_mut().filter(|delivery| delivery.state == State::Waiting) {
            let Some(webhook) = webhooks.get(&delivery.webhook_id) else { continue };
            let (source, is_ordered) = (delivery.reference.source, delivery.order.is_some());
            match self.tx.store().local().admit(webhook, source, is_ordered, self.tx.now()) {
                Admission::Leased(permit) => {
                    delivery.is_leased = true;
                    let leased = delivery.leased();
                    let permit = permit.hold(&leased);
                    self.tx.hand_over(Job { permit, delivery: leased, webhook: Arc::clone(webhook) });
                }
                Admission::Lane => {
                    delivery.is_in_lane = true;
                    self.tx.note_lane(delivery.webhook_id, delivery.workspace_id);
                }
                Admission::Queue => self.tx.announce_work(),
            }
        }
    }

    /// The answer to a trigger, and the outcomes of what isn't sent.
    fn answer(
        &self,
        trigger: &Trigger,
        verdict: Verdict,
        new: &mut impl Iterator<Item = NewDelivery>,
    ) -> TriggerDecision {
        let (decision, reason, kind) = match verdict {
            Verdict::Scheduled => (Decision::Scheduled, Reason::None, None),
            Verdict::Deferred(_) => (Decision::Deferred, Reason::Cooldown, Some(Kind::Deferred)),
            Verdict::Suppressed => (Decision::Suppressed, Reason::Cooldown, Some(Kind::Suppressed)),
            Verdict::Skipped(reason) => (Decision::Skipped, reason, Some(Kind::Skipped)),
        };
        let references: Vec<DeliveryRef> = match verdict {
            Verdict::Deferred(_) => trigger.events().filter_map(|event| self.deferral(trigger, event)).collect(),
            Verdict::Scheduled | Verdict::Suppressed | Verdict::Skipped(_) => {
                new.by_ref().take(trigger.events().count()).map(|delivery| delivery.reference).collect()
            }
        };
        let delivery_ids = references.iter().map(|reference| reference.id).collect();
        for reference in references.into_iter().filter(|_| kind.is_some()) {
            self.tx.report(Outcome {
                workspace_id: trigger.workspace_id,
                kind: kind.unwrap_or(Kind::Skipped),
                reason,
                recorded: self.tx.now(),
                webhook_id: trigger.webhook.webhook.id,
                delivery: Some(reference),
                attempt: None,
                next_attempt: match verdict {
                    Verdict::Deferred(end) => Some(end),
                    _ => None,
                },
            });
        }
        TriggerDecision {
            webhook_id: trigger.webhook.webhook.id,
            decision,
            reason,
            activation_tag_ids: trigger.tag_ids(),
            delivery_ids,
        }
    }

    fn deferral(&self, trigger: &Trigger, event: &EventDefinition) -> Option<DeliveryRef> {
        Some(DeliveryRef {
            id: self.deferrals.get(&(event.id, trigger.contact.id))?.id,
            webhook_event_id: event.id,
            contact_id: trigger.contact.id,
            source: trigger.source,
            tag_ids: trigger.tag_ids(),
        })
    }
}

impl Trigger {
    fn window(&self) -> WindowKey {
        (self.webhook.webhook.id, self.contact.id)
    }

    fn events(&self) -> impl Iterator<Item = &EventDefinition> {
        let is_meant = |event: &&EventDefinition| self.only.is_none_or(|only| only == event.id);
        self.webhook.webhook.definition.events.iter().filter(is_meant)
    }

    fn tag_ids(&self) -> Vec<TagId> {
        self.tags.iter().map(|tag| tag.id).collect()
    }

    /// The values to send, from the contact as it is now.
    #[must_use]
    pub fn snapshot(&self, event: &EventDefinition, delivery: DeliveryId, trigger_time: Micros) -> Snapshot {
        let tag = self.tags.first();
        let (contact_id, delivery_id) = (self.contact.id.to_string(), delivery.to_string());
        Snapshot::plan(
            event,
            &TriggerContext {
                contact_id: &contact_id,
                email: self.contact.email.as_ref().map(Email::as_str),
                phone: self.contact.phone.as_ref().map(Phone::as_str),
                external_id: self.contact.external_id.as_ref().map(ExternalId::as_str),
                values: &self.contact.values,
                field_type: &|key| self.config.field_type(key),
                activation_tag: tag.map(|tag| tag.name.as_str()),
                tag_time: tag.map(|tag| tag.since),
                trigger_time,
                delivery_id: &delivery_id,
                webhook_name: &self.webhook.webhook.name,
                campaign_name: self.campaign.as_ref().map(|step| step.name.as_str()),
                data: self.origin.data.as_deref(),
            },
        )
    }
}

/// The verdict before the cooldown is asked.
fn unconditional(trigger: &Trigger) -> Verdict {
    if trigger.origin.depth > MAX_CAUSATION_DEPTH {
        return Verdict::Skipped(Reason::CausationDepth);
    }
    trigger.webhook.webhook.skips(trigger.source).map_or(Verdict::Scheduled, Verdict::Skipped)
}

fn set(verdicts: &mut [Verdict], index: usize, verdict: Verdict) {
    if let Some(slot) = verdicts.get_mut(index) {
        *slot = verdict;
    }
}

/// Deferrals of a batch, those of one window folded into one row: an upsert must not meet a key twice.
#[derive(Default)]
struct Deferred {
    rows: Vec<NewDelivery>,
    places: HashMap<(WebhookEventId, ContactId), usize>,
}

impl Deferred {
    fn add(&mut self, row: NewDelivery) {
        let place = *self.places.entry(row.key()).or_insert(self.rows.len());
        match self.rows.get_mut(place) {
            Some(earlier) => {
                // As a deferral in the database takes in a later trigger.
                earlier.coalesced_count += 1;
                earlier.reference.tag_ids = row.reference.tag_ids;
                earlier.cause_id = row.cause_id;
                earlier.traceparent = row.traceparent;
                earlier.data = row.data;
                earlier.causation_depth = earlier.causation_depth.max(row.causation_depth);
            }
            None => self.rows.push(row),
        }
    }
}
