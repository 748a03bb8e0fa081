//! The timeline of a contact, merged from what is there: the contact itself, events, the tags that it holds, its deliveries
//! with their outcomes, and its enrollments. Nothing is written for it, but for the events that say what nothing else says.

use sea_orm::{ConnectionTrait, QueryResult, Statement, TryGetable, Value};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::domain::campaign::EnrollmentState;
use crate::domain::delivery::{Decision, Reason, Source, State};
use crate::domain::event::{
    CAMPAIGN_FINISHED, CAMPAIGN_NOT_STARTED, CAMPAIGN_STARTED, CAMPAIGN_STEP_FAILED, CONTACT_CREATED,
    CONTACT_UNSUBSCRIBED, CONTACT_UPDATED, Event, LINK_CLICKED, TAG_ASSIGNED, TAG_NOT_ASSIGNED, TAG_REMOVED,
    TAG_RULE_FAILED,
};
use crate::domain::outcome::Kind;
use crate::domain::retry::ErrorClass;
use crate::domain::time::Micros;
use crate::domain::timeline::{
    CampaignEnd, DeliveryOutcome, Entry, EntryKind, Fact, HoldReason, StepFailure, Triggered,
};
use crate::error::{Error, Result};
use crate::ids::{CampaignId, ContactId, DeliveryId, EnrollmentId, EventId, TagId, WebhookId};

/// The kinds that the system records as events, by their types.
const RECORDED: [(EntryKind, &str); 9] = [
    (EntryKind::TagAssigned, TAG_ASSIGNED),
    (EntryKind::TagRemoved, TAG_REMOVED),
    (EntryKind::TagRuleFailed, TAG_RULE_FAILED),
    (EntryKind::TagHeldBack, TAG_NOT_ASSIGNED),
    (EntryKind::CampaignStepFailed, CAMPAIGN_STEP_FAILED),
    (EntryKind::CampaignHeldBack, CAMPAIGN_NOT_STARTED),
    (EntryKind::ContactUpdated, CONTACT_UPDATED),
    (EntryKind::ContactUnsubscribed, CONTACT_UNSUBSCRIBED),
    (EntryKind::LinkClicked, LINK_CLICKED),
];
/// Types that earlier versions recorded; their entries come from contacts and enrollments.
const DERIVED: [&str; 3] = [CONTACT_CREATED, CAMPAIGN_STARTED, CAMPAIGN_FINISHED];
/// The outcomes of interest; the others say what the delivery itself says.
const OUTCOMES: [Kind; 4] = [Kind::Delivered, Kind::AttemptFailed, Kind::Exhausted, Kind::Cancelled];

/// Selects entries of a timeline for which all given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct TimelineFilter {
    /// Of these kinds; empty for any.
    pub kinds: Vec<EntryKind>,
    /// Events that callers recorded and whose type starts so; empty for any entry.
    pub event_type_prefix: String,
    /// Of this time or later.
    pub start: Option<Micros>,
    /// Before this time.
    pub end: Option<Micros>,
}

impl TimelineFilter {
    fn wants(&self, kind: EntryKind) -> bool {
        let is_chosen = self.kinds.is_empty() || self.kinds.contains(&kind);
        is_chosen && (self.event_type_prefix.is_empty() || kind == EntryKind::EventRecorded)
    }
}

/// The place of an entry in a timeline; a greater one is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    time: Micros,
    origin: Origin,
    /// The id of the row, whose order decides in the end; the position of an outcome as a number.
    id: Uuid,
}

/// The rows from which entries come. Of entries of one moment, those of a later origin are the newer ones: a tag starts a
/// campaign and triggers a delivery, and that leads to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Origin {
    Contact,
    Events,
    Tags,
    Entered,
    Deliveries,
    Outcomes,
    Ended,
}

/// A condition in SQL, with the values that it binds from $5 on.
type Condition = (String, Vec<Value>);

impl Origin {
    const ALL: [Self; 7] =
        [Self::Contact, Self::Events, Self::Tags, Self::Entered, Self::Deliveries, Self::Outcomes, Self::Ended];

    /// Reads entries of the contact $1 from the time $2 on and before the time $3 or, at that time, the id $4.
    const fn sql(self) -> &'static str {
        match self {
            Self::Contact => {
                "SELECT id, created_us AS time_us FROM contacts \
                 WHERE id = $1 AND created_us >= $2 AND (created_us, id) < ($3, $4) {condition} LIMIT {limit}"
            }
            Self::Events => {
                "SELECT id, type, attributes, tag_id, event_us AS time_us, recorded_us FROM events \
                 WHERE contact_id = $1 AND event_us >= $2 AND (event_us, id) < ($3, $4) {condition} \
                 ORDER BY event_us DESC, id DESC LIMIT {limit}"
            }
            Self::Tags => {
                "SELECT tag_id AS id, assigned_us AS time_us FROM contact_tags \
                 WHERE contact_id = $1 AND assigned_us >= $2 AND (assigned_us, tag_id) < ($3, $4) {condition} \
                 AND EXISTS (SELECT 1 FROM tags t WHERE t.id = contact_tags.tag_id) \
                 ORDER BY assigned_us DESC, tag_id DESC LIMIT {limit}"
            }
            Self::Entered => {
                "SELECT id, campaign_id, created_us AS time_us FROM enrollments \
                 WHERE contact_id = $1 AND created_us >= $2 AND (created_us, id) < ($3, $4) {condition} \
                 AND EXISTS (SELECT 1 FROM campaigns c WHERE c.id = enrollments.campaign_id) \
                 ORDER BY created_us DESC, id DESC LIMIT {limit}"
            }
            Self::Deliveries => {
                "SELECT id, webhook_id, source, state, reason, created_us AS time_us FROM deliveries \
                 WHERE contact_id = $1 AND created_us >= $2 AND (created_us, id) < ($3, $4) {condition} \
                 ORDER BY created_us DESC, id DESC LIMIT {limit}"
            }
            // By way of the deliveries, which have an index by contact.
            Self::Outcomes => {
                "SELECT o.seq, o.delivery_id, o.webhook_id, o.kind, o.reason, o.attempt_number, o.status_code, \
                 o.error_class, o.recorded_us AS time_us FROM deliveries d JOIN outcomes o ON o.delivery_id = d.id \
                 WHERE d.contact_id = $1 AND o.recorded_us >= $2 AND (o.recorded_us, o.seq) < ($3, $4) {condition} \
                 ORDER BY o.recorded_us DESC, o.seq DESC LIMIT {limit}"
            }
            Self::Ended => {
                "SELECT id, campaign_id, state, node, error, ended_us AS time_us FROM enrollments \
                 WHERE contact_id = $1 AND ended_us >= $2 AND (ended_us, id) < ($3, $4) {condition} \
                 AND EXISTS (SELECT 1 FROM campaigns c WHERE c.id = enrollments.campaign_id) \
                 ORDER BY ended_us DESC, id DESC LIMIT {limit}"
            }
        }
    }

    /// What selects the rows that a filter wants; `None` if it wants none of them.
    fn condition(self, filter: &TimelineFilter) -> Option<Condition> {
        let kind = match self {
            Self::Events => return event_condition(filter),
            Self::Outcomes => {
                let kinds = codes(&OUTCOMES.map(Kind::code));
                let condition = (format!("AND o.kind IN ({kinds})"), Vec::new());
                return filter.wants(EntryKind::DeliveryOutcome).then_some(condition);
            }
            Self::Contact => EntryKind::ContactCreated,
            Self::Tags => EntryKind::TagAssigned,
            Self::Entered => EntryKind::CampaignEntered,
            Self::Deliveries => EntryKind::WebhookTriggered,
            Self::Ended => EntryKind::CampaignEnded,
        };
        filter.wants(kind).then(Condition::default)
    }

    /// Where the entries begin that are older than `place`: before a time or, at that time, before an id.
    fn bound(self, place: Option<Place>, end: Micros) -> (i64, Uuid) {
        match place {
            None => (end.0, Uuid::nil()),
            Some(place) if self < place.origin => (place.time.0.saturating_add(1), Uuid::nil()),
            Some(place) if self > place.origin => (place.time.0, Uuid::nil()),
            Some(place) => (place.time.0, place.id),
        }
    }

    fn fact(self, contact: ContactId, row: &QueryResult) -> Result<Fact> {
        match self {
            Self::Contact => Ok(Fact::ContactCreated),
            Self::Events => event_fact(contact, row),
            Self::Tags => Ok(Fact::TagAssigned(TagId(get(row, "id")?))),
            Self::Entered => Ok(Fact::CampaignEntered {
                campaign: CampaignId(get(row, "campaign_id")?),
                enrollment: EnrollmentId(get(row, "id")?),
            }),
            Self::Deliveries => delivery_fact(row),
            Self::Outcomes => outcome_fact(row),
            Self::Ended => Ok(Fact::CampaignEnded(CampaignEnd {
                campaign: CampaignId(get(row, "campaign_id")?),
                enrollment: EnrollmentId(get(row, "id")?),
                state: coded::<EnrollmentState>(row, "state")?,
                node: get(row, "node")?,
                error: get(row, "error")?,
            })),
        }
    }

    fn id(self, row: &QueryResult) -> Result<Uuid> {
        match self {
            Self::Outcomes => Ok(Uuid::from_u128(u128::try_from(get::<i64>(row, "seq")?).unwrap_or(0))),
            _ => get(row, "id"),
        }
    }
}

/// A contact's timeline, the newest first, before a place. A delivery shows as what was decided, and again with each of its
/// outcomes; one that was deferred shows as scheduled once it is due.
///
/// # Errors
///
/// The database's.
pub async fn list(
    db: &impl ConnectionTrait,
    contact: ContactId,
    filter: &TimelineFilter,
    before: Option<Place>,
    limit: u64,
) -> Result<Vec<(Place, Entry)>> {
    let mut entries = Vec::new();
    for origin in Origin::ALL {
        let Some((condition, values)) = origin.condition(filter) else { continue };
        let (time, id) = origin.bound(before, filter.end.unwrap_or(Micros(i64::MAX)));
        let id: Value = match origin {
            Origin::Outcomes => i64::try_from(id.as_u128()).unwrap_or(i64::MAX).into(),
            _ => id.into(),
        };
        let start = filter.start.map_or(i64::MIN, |start| start.0);
        let values: Vec<Value> = [contact.0.into(), start.into(), time.into(), id].into_iter().chain(values).collect();
        let sql = origin.sql().replace("{condition}", &condition).replace("{limit}", &limit.to_string());
        let rows = db.query_all_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, values)).await?;
        for row in &rows {
            let time = Micros(get(row, "time_us")?);
            let place = Place { time, origin, id: origin.id(row)? };
            entries.push((place, Entry { time, fact: origin.fact(contact, row)? }));
        }
    }
    entries.sort_unstable_by(|(one, _), (other, _)| other.cmp(one));
    entries.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(entries)
}

/// What selects events: those that the system recorded by their types, those of callers by being none of them.
fn event_condition(filter: &TimelineFilter) -> Option<Condition> {
    let quoted =
        |types: &mut dyn Iterator<Item = &str>| types.map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    let recorded = RECORDED.iter().map(|(_, name)| *name);
    let mut values: Vec<Value> = Vec::new();
    let mut alternatives = Vec::new();
    let wanted = RECORDED.iter().filter(|(kind, _)| filter.wants(*kind)).map(|(_, name)| *name);
    let wanted = quoted(&mut { wanted });
    if !wanted.is_empty() {
        alternatives.push(format!("type IN ({wanted})"));
    }
    if filter.wants(EntryKind::EventRecorded) {
        let mut callers = format!("type NOT IN ({})", quoted(&mut recorded.chain(DERIVED)));
        let prefix = filter.event_type_prefix.as_str();
        if !prefix.is_empty() {
            // Not a range, since PostgreSQL compares the column by its locale.
            callers.push_str(" AND substr(type, 1, $5) = $6");
            let characters = i32::try_from(prefix.chars().count()).unwrap_or(i32::MAX);
            values = vec![characters.into(), prefix.into()];
        }
        alternatives.push(callers);
    }
    (!alternatives.is_empty()).then(|| (format!("AND ({})", alternatives.join(" OR ")), values))
}

fn codes(codes: &[i16]) -> String {
    codes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn event_fact(contact: ContactId, row: &QueryResult) -> Result<Fact> {
    let event_type: String = get(row, "type")?;
    let attributes: Option<String> = get(row, "attributes")?;
    let attributes: Option<Json> =
        attributes.map(|json| serde_json::from_str(&json)).transpose().map_err(Error::internal)?;
    let facts = Attributes(attributes.as_ref());
    let tag = || Ok::<_, Error>(TagId(get(row, "tag_id")?));
    let kind = RECORDED.iter().find(|(_, name)| *name == event_type).map(|(kind, _)| *kind);
    Ok(match kind {
        Some(EntryKind::TagAssigned) => Fact::TagAssigned(tag()?),
        Some(EntryKind::TagRemoved) => Fact::TagRemoved(tag()?),
        Some(EntryKind::TagRuleFailed) => {
            Fact::TagRuleFailed { tag: tag()?, event_type: facts.text("event_type"), error: facts.text("error") }
        }
        Some(EntryKind::TagHeldBack) => {
            Fact::TagHeldBack { tag: tag()?, event_type: facts.text("event_type"), reason: facts.reason()? }
        }
        Some(EntryKind::CampaignStepFailed) => Fact::CampaignStepFailed(StepFailure {
            campaign: facts.id("campaign_id")?,
            enrollment: facts.id("enrollment_id")?,
            node: facts.text("node"),
            // Earlier versions wrote the node and the error as one text.
            error: facts.text("error") + &facts.text("how"),
        }),
        Some(EntryKind::CampaignHeldBack) => {
            Fact::CampaignHeldBack { campaign: facts.id("campaign_id")?, reason: facts.reason()? }
        }
        Some(EntryKind::ContactUpdated) => Fact::ContactUpdated,
        Some(EntryKind::ContactUnsubscribed) => Fact::ContactUnsubscribed,
        Some(EntryKind::LinkClicked) => Fact::LinkClicked(facts.id("smart_link_id")?),
        _ => Fact::EventRecorded(Event {
            id: Some(EventId(get(row, "id")?)),
            contact_id: contact,
            event_type,
            attributes,
            tag_id: None,
            event_time: Micros(get(row, "time_us")?),
            recorded: Micros(get(row, "recorded_us")?),
        }),
    })
}

/// The attributes of an event that the system recorded.
struct Attributes<'a>(Option<&'a Json>);

impl Attributes<'_> {
    /// A text; empty if it is missing.
    fn text(&self, name: &str) -> String {
        self.0.and_then(|attributes| attributes.get(name)?.as_str()).unwrap_or_default().to_owned()
    }

    fn id<T: std::str::FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<T> {
        self.text(name).parse().map_err(|error| Error::internal(format!("an event's {name}: {error}")))
    }

    fn reason(&self) -> Result<HoldReason> {
        HoldReason::from_name(&self.text("reason")).ok_or_else(|| Error::internal("an event's reason is unknown"))
    }
}

fn delivery_fact(row: &QueryResult) -> Result<Fact> {
    let (decision, reason) = match coded::<State>(row, "state")? {
        State::Deferred => (Decision::Deferred, coded(row, "reason")?),
        State::Suppressed => (Decision::Suppressed, coded(row, "reason")?),
        State::Skipped => (Decision::Skipped, coded(row, "reason")?),
        // The reason of the state, if it has one, is that of its end.
        State::Waiting | State::Sending | State::Delivered | State::Exhausted | State::Cancelled => {
            (Decision::Scheduled, Reason::None)
        }
    };
    Ok(Fact::WebhookTriggered(Triggered {
        delivery: DeliveryId(get(row, "id")?),
        webhook: WebhookId(get(row, "webhook_id")?),
        source: coded::<Source>(row, "source")?,
        decision,
        reason,
    }))
}

fn outcome_fact(row: &QueryResult) -> Result<Fact> {
    let status: i32 = get(row, "status_code")?;
    Ok(Fact::DeliveryOutcome(DeliveryOutcome {
        delivery: DeliveryId(get(row, "delivery_id")?),
        webhook: WebhookId(get(row, "webhook_id")?),
        kind: coded::<Kind>(row, "kind")?,
        reason: coded(row, "reason")?,
        attempt_number: get(row, "attempt_number")?,
        status_code: (status != 0).then_some(status),
        error_class: ErrorClass::from_code(get(row, "error_class")?),
    }))
}

fn get<T: TryGetable>(row: &QueryResult, column: &str) -> Result<T> {
    Ok(row.try_get("", column)?)
}

fn coded<T: TryFrom<i16, Error = String>>(row: &QueryResult, column: &str) -> Result<T> {
    T::try_from(get(row, column)?).map_err(Error::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which rows of an origin are older than the place (time 5, `place`, id 9), as (time, id) to be before.
    #[track_caller]
    fn check_bound(of: Origin, place: Origin, expected: (i64, u128)) {
        let place = Place { time: Micros(5), origin: place, id: Uuid::from_u128(9) };
        assert_eq!(of.bound(Some(place), Micros(100)), (expected.0, Uuid::from_u128(expected.1)), "{of:?} {place:?}");
    }

    #[test]
    fn pages_begin_after_the_last_entry() {
        // Of the same moment, all rows of earlier origins are older, those of later ones newer.
        check_bound(Origin::Events, Origin::Deliveries, (6, 0));
        check_bound(Origin::Deliveries, Origin::Deliveries, (5, 9));
        check_bound(Origin::Outcomes, Origin::Deliveries, (5, 0));
        assert_eq!(Origin::Tags.bound(None, Micros(100)), (100, Uuid::nil()));
    }

    #[track_caller]
    fn check_kinds(kinds: &[EntryKind], prefix: &str, expected: &[(Origin, &str)]) {
        let filter =
            TimelineFilter { kinds: kinds.to_vec(), event_type_prefix: prefix.to_owned(), ..TimelineFilter::default() };
        let read = Origin::ALL.into_iter().filter_map(|origin| Some((origin, origin.condition(&filter)?.0)));
        let read: Vec<(Origin, String)> = read.collect();
        let read: Vec<(Origin, &str)> = read.iter().map(|(origin, condition)| (*origin, condition.as_str())).collect();
        assert_eq!(read, expected, "{kinds:?} {prefix:?}");
    }

    #[test]
    fn only_what_is_wanted_is_read() {
        let callers = "type NOT IN ('tag.assigned', 'tag.removed', 'tag.rule_failed', 'tag.not_assigned', \
                       'campaign.step_failed', 'campaign.not_started', 'contact.updated', 'contact.unsubscribed', \
                       'link.clicked', 'contact.created', 'campaign.started', 'campaign.finished')";
        let recorded = format!("AND ({callers})");
        let prefixed = format!("AND ({callers} AND substr(type, 1, $5) = $6)");
        check_kinds(&[EntryKind::EventRecorded], "", &[(Origin::Events, &recorded)]);
        check_kinds(&[], "form.", &[(Origin::Events, &prefixed)]);
        check_kinds(&[EntryKind::TagAssigned], "form.", &[]);
        check_kinds(
            &[EntryKind::TagAssigned],
            "",
            &[(Origin::Events, "AND (type IN ('tag.assigned'))"), (Origin::Tags, "")],
        );
        let mixed = format!("AND (type IN ('link.clicked') OR {callers})");
        check_kinds(&[EntryKind::LinkClicked, EntryKind::EventRecorded], "", &[(Origin::Events, &mixed)]);
        check_kinds(&[EntryKind::DeliveryOutcome], "", &[(Origin::Outcomes, "AND o.kind IN (1, 2, 3, 7)")]);
    }
}
