//! What smart tags make of what happens. A tag that is assigned so may set off more, which smart tags hear of in turn: round
//! by round in one transaction, and up to a depth over all transactions.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::json;

use super::assign::assign_only;
use super::happen::{Happening, note};
use super::{Assignment, Origin};
use crate::domain::condition::{EventFacts, Facts};
use crate::domain::contact::Contact;
use crate::domain::delivery::MAX_CAUSATION_DEPTH;
use crate::domain::event::{TAG_NOT_ASSIGNED, TAG_RULE_FAILED};
use crate::domain::rule::Rule;
use crate::domain::tag::{Tag, TagKind};
use crate::domain::timeline::HoldReason;
use crate::domain::trigger_data::{TriggerData, TriggerEvent};
use crate::error::Result;
use crate::ids::{ContactId, WorkspaceId};
use crate::store::config::WorkspaceConfig;
use crate::store::contact::ContactRef;
use crate::store::{self, Tx};

/// The most smart tags that one transaction assigns to one contact: where rules multiply each other, the depth alone
/// would be no bound.
const MAX_OF_CONTACT: usize = 100;

/// Assigns the smart tags whose rules match what happened, and those whose rules match what follows from that. The caller
/// has taken the gate.
///
/// # Errors
///
/// The database's.
pub(super) async fn react(tx: &Tx, mut happenings: Vec<Happening>) -> Result<()> {
    let mut counts = HashMap::new();
    while !happenings.is_empty() {
        let mut round = Round { tx, counts: &mut counts, assignments: Vec::new(), notes: Vec::new() };
        round.match_all(&happenings).await?;
        let Round { assignments, notes, .. } = round;
        note(tx, &notes).await?;
        happenings = if assignments.is_empty() { Vec::new() } else { assign_only(tx, &assignments).await?.1 };
    }
    Ok(())
}

/// What happened at one depth.
struct Round<'a> {
    tx: &'a Tx,
    counts: &'a mut HashMap<ContactId, usize>,
    assignments: Vec<Assignment>,
    /// What the timeline tells of rules that came to nothing.
    notes: Vec<Happening>,
}

/// A smart tag that may be meant.
struct Candidate<'a> {
    happening: &'a Happening,
    tag: &'a Arc<Tag>,
    rule: &'a Rule,
    config: &'a WorkspaceConfig,
    /// What the tag's own triggers know: the event, and the values of the call behind it.
    data: Arc<TriggerData>,
}

impl Round<'_> {
    async fn match_all(&mut self, happenings: &[Happening]) -> Result<()> {
        let workspaces: HashSet<WorkspaceId> = happenings.iter().map(|happening| happening.workspace_id).collect();
        let configs = self.tx.configs(&workspaces.into_iter().collect::<Vec<_>>()).await?;
        let candidates: Vec<Candidate<'_>> =
            happenings.iter().flat_map(|happening| candidates(happening, &configs)).collect();
        if candidates.is_empty() {
            return Ok(());
        }
        let people = People::of(self.tx, &candidates).await?;
        for candidate in candidates {
            self.decide(&candidate, &people);
        }
        Ok(())
    }

    fn decide(&mut self, candidate: &Candidate<'_>, people: &People) {
        match people.hold(candidate, self.tx) {
            Ok(true) => self.assign(candidate),
            Ok(false) => {}
            Err(error) => self.note(candidate, TAG_RULE_FAILED, "error", &error),
        }
    }

    fn assign(&mut self, candidate: &Candidate<'_>) {
        let Happening { workspace_id, event, origin } = candidate.happening;
        let depth = origin.depth + 1;
        if depth > MAX_CAUSATION_DEPTH {
            return self.note(candidate, TAG_NOT_ASSIGNED, "reason", HoldReason::CausationDepth.as_str());
        }
        let count = self.counts.entry(event.contact_id).or_default();
        *count += 1;
        if *count > MAX_OF_CONTACT {
            return self.note(candidate, TAG_NOT_ASSIGNED, "reason", HoldReason::TooManyAtOnce.as_str());
        }
        self.assignments.push(Assignment {
            workspace_id: *workspace_id,
            contact: ContactRef::Id(event.contact_id),
            tags: vec![candidate.tag.id.into()],
            kind: TagKind::Smart,
            origin: Origin {
                depth,
                cause_id: event.id.map(|id| id.0).or(origin.cause_id),
                traceparent: origin.traceparent.clone(),
                data: Some(Arc::clone(&candidate.data)),
            },
        });
    }

    fn note(&mut self, candidate: &Candidate<'_>, event_type: &str, key: &str, text: &str) {
        let Happening { workspace_id, event, origin } = candidate.happening;
        let attributes = json!({
            "tag": candidate.tag.name,
            "event_type": event.event_type,
            "depth": origin.depth,
            (key): text,
        });
        let contact = (*workspace_id, event.contact_id);
        let mut note = Happening::now(self.tx, contact, event_type, attributes, origin.clone());
        note.event.tag_id = Some(candidate.tag.id);
        self.notes.push(note);
    }
}

/// The smart tags that listen to what happened, and whose attributes match.
fn candidates<'a>(
    happening: &'a Happening,
    configs: &'a HashMap<WorkspaceId, Arc<WorkspaceConfig>>,
) -> Vec<Candidate<'a>> {
    let event = &happening.event;
    let Some(config) = configs.get(&happening.workspace_id) else { return Vec::new() };
    let matching: Vec<(&Arc<Tag>, &Rule)> = config
        .listeners(&event.event_type)
        .iter()
        .filter_map(|tag| Some((tag, tag.rule.as_ref()?)))
        .filter(|(_, rule)| rule.matches(event.attributes.as_ref()))
        .collect();
    if matching.is_empty() {
        return Vec::new();
    }
    let data = Arc::new(data_of(happening));
    let candidate = |(tag, rule)| Candidate { happening, tag, rule, config, data: Arc::clone(&data) };
    matching.into_iter().map(candidate).collect()
}

/// What follows from an event knows the event, and the values of the call that the event follows from.
fn data_of(happening: &Happening) -> TriggerData {
    let event = &happening.event;
    TriggerData {
        values: happening.origin.data.as_ref().map(|data| data.values.clone()).unwrap_or_default(),
        event: Some(TriggerEvent {
            event_type: event.event_type.clone(),
            attributes: event.attributes.clone(),
            time: event.event_time,
        }),
    }
}

/// The contacts that conditions ask about.
#[derive(Default)]
struct People {
    contacts: HashMap<(WorkspaceId, ContactRef), Contact>,
    tags: HashMap<ContactId, Vec<String>>,
}

impl People {
    async fn of(tx: &Tx, candidates: &[Candidate<'_>]) -> Result<Self> {
        let asking = || candidates.iter().filter_map(|candidate| Some((candidate, candidate.rule.condition.as_ref()?)));
        let wanted: HashSet<_> = asking().map(|(candidate, _)| candidate.key()).collect();
        if wanted.is_empty() {
            return Ok(Self::default());
        }
        let contacts = store::contact::find_many(tx.db(), &wanted.into_iter().collect::<Vec<_>>()).await?;
        let tagged: HashSet<ContactId> = asking()
            .filter(|(_, condition)| condition.reads_tags())
            .map(|(candidate, _)| candidate.happening.event.contact_id)
            .collect();
        let tags = store::contact_tag::names(tx.db(), &tagged.into_iter().collect::<Vec<_>>()).await?;
        Ok(Self { contacts, tags })
    }

    /// Whether a candidate's condition holds.
    ///
    /// # Errors
    ///
    /// Why it can't be told, for people.
    fn hold(&self, candidate: &Candidate<'_>, tx: &Tx) -> Result<bool, String> {
        let Some(condition) = &candidate.rule.condition else { return Ok(true) };
        // A contact that has gone is nobody's to tag.
        let Some(contact) = self.contacts.get(&candidate.key()) else { return Ok(false) };
        let event = &candidate.happening.event;
        let facts = Facts {
            event: Some(EventFacts {
                event_type: &event.event_type,
                attributes: event.attributes.as_ref(),
                time: event.event_time,
            }),
            values: None,
            contact,
            field_type: &|key| candidate.config.field_type(key),
            tags: self.tags.get(&contact.id).map_or(&[][..], Vec::as_slice),
            now: tx.now(),
        };
        condition.holds(&facts).map_err(|error| error.to_string())
    }
}

impl Candidate<'_> {
    fn key(&self) -> (WorkspaceId, ContactRef) {
        (self.happening.workspace_id, ContactRef::Id(self.happening.event.contact_id))
    }
}
