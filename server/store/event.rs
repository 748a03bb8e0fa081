//! Events, and the timeline of a contact, which is made of them, of the tags that it holds, and of its deliveries.

use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryResult, Statement, Value};
use serde::{Deserialize, Serialize};
use serde_json::Map;
use uuid::Uuid;

use super::Tx;
use super::bulk::Bulk;
use super::entity::event;
use crate::domain::delivery::{Reason, Source, State};
use crate::domain::event::{Event, TAG_ASSIGNED};
use crate::domain::outcome::Kind;
use crate::domain::retry::ErrorClass;
use crate::domain::time::Micros;
use crate::error::{Error, Result};
use crate::ids::{ContactId, DeliveryId, EventId, TagId, TypedId, WebhookId, WorkspaceId};

/// An event to insert.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// The event.
    pub event: Event,
    /// How many causes inside the system lie before it.
    pub depth: i16,
    /// The last of them.
    pub cause_id: Option<Uuid>,
}

/// Inserts events.
///
/// # Errors
///
/// The database's.
pub async fn insert(tx: &Tx, new: &[NewEvent]) -> Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    let id = |event: &Event| event.id.unwrap_or_else(|| EventId::generate(tx.now(), tx.store().entropy())).0;
    let events: Vec<&Event> = new.iter().map(|new| &new.event).collect();
    let bulk = Bulk::new(tx.db())
        .uuid("id", events.iter().map(|event| id(event)))
        .uuid("workspace_id", new.iter().map(|new| new.workspace_id.0))
        .uuid("contact_id", events.iter().map(|event| event.contact_id.0))
        .text("type", events.iter().map(|event| event.event_type.clone()))
        .optional_text("attributes", events.iter().map(|event| event.attributes.as_ref().map(ToString::to_string)))
        .optional_uuid("tag_id", events.iter().map(|event| event.tag_id.map(|tag| tag.0)))
        .int("event_us", events.iter().map(|event| event.event_time.0))
        .int("recorded_us", events.iter().map(|event| event.recorded.0))
        .int("causation_depth", new.iter().map(|new| new.depth.into()))
        .optional_uuid("cause_id", new.iter().map(|new| new.cause_id));
    bulk.execute(tx.db(), |rows| {
        format!(
            "INSERT INTO events (id, workspace_id, contact_id, type, attributes, tag_id, event_us, recorded_us, \
             causation_depth, cause_id) \
             SELECT id, workspace_id, contact_id, type, attributes, tag_id, event_us, recorded_us, causation_depth, \
             cause_id FROM {rows} WHERE TRUE"
        )
    })
    .await?;
    Ok(())
}

/// Deletes the events of a contact.
///
/// # Errors
///
/// The database's.
pub async fn delete_of_contact(tx: &Tx, contact: ContactId) -> Result<()> {
    event::Entity::delete_many().filter(event::Column::ContactId.eq(contact.0)).exec(tx.db()).await?;
    Ok(())
}

/// Selects entries of a timeline for which all given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct TimelineFilter {
    /// Entries whose type starts so.
    pub type_prefix: String,
    /// Entries of this time or later.
    pub after: Option<Micros>,
    /// Entries before this time.
    pub before: Option<Micros>,
}

/// The place of an entry in a timeline; a greater one is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    time: Micros,
    table: Table,
    /// The id of the row, whose order decides in the end; the position of an outcome as a number.
    id: Uuid,
}

/// Where an entry comes from. Of entries of one moment, those of a later table are the newer ones: a tag sets off a
/// delivery, and that an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Table {
    Events,
    Tags,
    Deliveries,
    Outcomes,
}

impl Table {
    const ALL: [Self; 4] = [Self::Events, Self::Tags, Self::Deliveries, Self::Outcomes];

    /// Reads entries of the contact $1 from the time $2 on and before the time $3 or, at that time, the id $4.
    const fn sql(self) -> &'static str {
        match self {
            Self::Events => {
                "SELECT id, type, attributes, tag_id, event_us AS time_us, recorded_us FROM events \
                 WHERE contact_id = $1 AND event_us >= $2 AND (event_us, id) < ($3, $4) {condition} \
                 ORDER BY event_us DESC, id DESC LIMIT {limit}"
            }
            Self::Tags => {
                "SELECT tag_id AS id, tag_id, assigned_us AS time_us FROM contact_tags \
                 WHERE contact_id = $1 AND assigned_us >= $2 AND (assigned_us, tag_id) < ($3, $4) {condition} \
                 AND EXISTS (SELECT 1 FROM tags t WHERE t.id = contact_tags.tag_id) \
                 ORDER BY assigned_us DESC, tag_id DESC LIMIT {limit}"
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
        }
    }

    /// The condition on the type, with the values that it binds from $5 on; `None` if no entry can have such a type.
    fn condition(self, prefix: &str) -> Option<(String, Vec<Value>)> {
        match self {
            // Not a range, since PostgreSQL compares the column by its locale.
            Self::Events => {
                let characters = i32::try_from(prefix.chars().count()).unwrap_or(i32::MAX);
                Some(("AND substr(type, 1, $5) = $6".to_owned(), vec![characters.into(), prefix.into()]))
            }
            Self::Tags => TAG_ASSIGNED.starts_with(prefix).then(|| (String::new(), Vec::new())),
            Self::Deliveries => codes_of(prefix, State::ALL, |state| Some(delivery_type(*state)), |state| state.code())
                .map(|codes| (format!("AND state IN ({codes})"), Vec::new())),
            Self::Outcomes => codes_of(prefix, Kind::ALL, |kind| outcome_type(*kind), |kind| kind.code())
                .map(|codes| (format!("AND o.kind IN ({codes})"), Vec::new())),
        }
    }

    /// Where this table's entries begin that are older than `place`: before a time or, at that time, before an id.
    fn bound(self, place: Option<Place>, before: Micros) -> (i64, Uuid) {
        match place {
            None => (before.0, Uuid::nil()),
            Some(place) if self < place.table => (place.time.0.saturating_add(1), Uuid::nil()),
            Some(place) if self > place.table => (place.time.0, Uuid::nil()),
            Some(place) => (place.time.0, place.id),
        }
    }

    fn entry(self, contact_id: ContactId, row: &QueryResult) -> Result<(Place, Event)> {
        let event = Event {
            id: None,
            contact_id,
            event_type: String::new(),
            attributes: None,
            tag_id: None,
            delivery_id: None,
            webhook_id: None,
            event_time: Micros(row.try_get("", "time_us")?),
            recorded: Micros(row.try_get("", "time_us")?),
        };
        let time = event.event_time;
        let (id, event) = match self {
            Self::Events => fill_event(event, row)?,
            Self::Tags => {
                let tag: Uuid = row.try_get("", "tag_id")?;
                (tag, Event { event_type: TAG_ASSIGNED.to_owned(), tag_id: Some(TagId(tag)), ..event })
            }
            Self::Deliveries => fill_delivery(event, row)?,
            Self::Outcomes => fill_outcome(event, row)?,
        };
        Ok((Place { time, table: self, id }, event))
    }
}

/// A contact's timeline, the newest first, before a place. A delivery shows as what it was triggered as, and again with
/// each of its outcomes; one that was deferred shows as triggered once it is due.
///
/// # Errors
///
/// The database's.
pub async fn timeline(
    db: &impl ConnectionTrait,
    contact: ContactId,
    filter: &TimelineFilter,
    before: Option<Place>,
    limit: u64,
) -> Result<Vec<(Place, Event)>> {
    let mut entries = Vec::new();
    for table in Table::ALL {
        let Some((condition, values)) = table.condition(&filter.type_prefix) else { continue };
        let (time, id) = table.bound(before, filter.before.unwrap_or(Micros(i64::MAX)));
        let id: Value = match table {
            Table::Outcomes => i64::try_from(id.as_u128()).unwrap_or(i64::MAX).into(),
            Table::Events | Table::Tags | Table::Deliveries => id.into(),
        };
        let from = filter.after.map_or(i64::MIN, |after| after.0);
        let values: Vec<Value> = [contact.0.into(), from.into(), time.into(), id].into_iter().chain(values).collect();
        let sql = table.sql().replace("{condition}", &condition).replace("{limit}", &limit.to_string());
        let rows = db.query_all_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, values)).await?;
        for row in &rows {
            entries.push(table.entry(contact, row)?);
        }
    }
    entries.sort_unstable_by(|(one, _), (other, _)| other.cmp(one));
    entries.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(entries)
}

/// The codes of the values whose type starts with the prefix, for SQL.
fn codes_of<T>(
    prefix: &str,
    values: &[T],
    type_of: impl Fn(&T) -> Option<&'static str>,
    code: impl Fn(&T) -> i16,
) -> Option<String> {
    let chosen = values.iter().filter(|value| type_of(value).is_some_and(|name| name.starts_with(prefix)));
    let codes: Vec<String> = chosen.map(|value| code(value).to_string()).collect();
    (!codes.is_empty()).then(|| codes.join(", "))
}

/// The type of the entry at the creation of a delivery in that state.
const fn delivery_type(state: State) -> &'static str {
    match state {
        State::Deferred => "webhook.deferred",
        State::Suppressed => "webhook.suppressed",
        State::Skipped => "webhook.skipped",
        State::Waiting | State::Sending | State::Delivered | State::Exhausted | State::Cancelled => "webhook.triggered",
    }
}

/// The type of an outcome's entry; none for what its delivery's own entry tells.
const fn outcome_type(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Delivered => Some("webhook.delivered"),
        Kind::AttemptFailed => Some("webhook.attempt_failed"),
        Kind::Exhausted => Some("webhook.exhausted"),
        Kind::Cancelled => Some("webhook.cancelled"),
        Kind::Suppressed
        | Kind::Skipped
        | Kind::Deferred
        | Kind::WebhookPaused
        | Kind::WebhookDisabled
        | Kind::WebhookResumed => None,
    }
}

fn fill_event(mut event: Event, row: &QueryResult) -> Result<(Uuid, Event)> {
    let id: Uuid = row.try_get("", "id")?;
    let attributes: Option<String> = row.try_get("", "attributes")?;
    let tag: Option<Uuid> = row.try_get("", "tag_id")?;
    event.id = Some(EventId(id));
    event.event_type = row.try_get("", "type")?;
    event.attributes = attributes.map(|json| serde_json::from_str(&json)).transpose().map_err(Error::internal)?;
    event.tag_id = tag.map(TagId);
    event.recorded = Micros(row.try_get("", "recorded_us")?);
    Ok((id, event))
}

fn fill_delivery(mut event: Event, row: &QueryResult) -> Result<(Uuid, Event)> {
    let id: Uuid = row.try_get("", "id")?;
    let (state, source): (i16, i16) = (row.try_get("", "state")?, row.try_get("", "source")?);
    let state = State::try_from(state).map_err(Error::internal)?;
    let source = Source::try_from(source).map_err(Error::internal)?;
    let mut attributes = Map::from_iter([("source".to_owned(), source.as_str().into())]);
    if matches!(state, State::Deferred | State::Suppressed | State::Skipped) {
        add_reason(&mut attributes, row)?;
    }
    event.event_type = delivery_type(state).to_owned();
    event.attributes = Some(attributes.into());
    event.delivery_id = Some(DeliveryId(id));
    event.webhook_id = Some(WebhookId(row.try_get("", "webhook_id")?));
    Ok((id, event))
}

fn fill_outcome(mut event: Event, row: &QueryResult) -> Result<(Uuid, Event)> {
    let seq: i64 = row.try_get("", "seq")?;
    let (kind, status, class): (i16, i32, i16) =
        (row.try_get("", "kind")?, row.try_get("", "status_code")?, row.try_get("", "error_class")?);
    let attempt: Option<i32> = row.try_get("", "attempt_number")?;
    let facts = [
        ("attempt_number", attempt.map(Into::into)),
        ("status_code", (status != 0).then(|| status.into())),
        ("error_class", ErrorClass::from_code(class).map(|class| class.as_str().into())),
    ];
    let facts =
        facts.into_iter().filter_map(|(name, fact): (_, Option<serde_json::Value>)| Some((name.to_owned(), fact?)));
    let mut attributes = Map::from_iter(facts);
    add_reason(&mut attributes, row)?;
    let kind = Kind::try_from(kind).map_err(Error::internal)?;
    event.event_type = outcome_type(kind).unwrap_or_default().to_owned();
    event.attributes = Some(attributes.into());
    event.delivery_id = Some(DeliveryId(row.try_get("", "delivery_id")?));
    event.webhook_id = Some(WebhookId(row.try_get("", "webhook_id")?));
    Ok((Uuid::from_u128(u128::try_from(seq).unwrap_or(0)), event))
}

fn add_reason(attributes: &mut Map<String, serde_json::Value>, row: &QueryResult) -> Result<()> {
    let reason: i16 = row.try_get("", "reason")?;
    let reason = Reason::try_from(reason).map_err(Error::internal)?;
    if reason != Reason::None {
        attributes.insert("reason".to_owned(), reason.as_str().into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which rows of a table are older than the place (time 5, `table`, id 9), as (time, id) to be before.
    #[track_caller]
    fn check_bound(of: Table, table: Table, expected: (i64, u128)) {
        let place = Place { time: Micros(5), table, id: Uuid::from_u128(9) };
        assert_eq!(of.bound(Some(place), Micros(100)), (expected.0, Uuid::from_u128(expected.1)), "{of:?} {table:?}");
    }

    #[test]
    fn pages_begin_after_the_last_entry() {
        // Of the same moment, all rows of earlier tables are older, those of later ones newer.
        check_bound(Table::Events, Table::Deliveries, (6, 0));
        check_bound(Table::Deliveries, Table::Deliveries, (5, 9));
        check_bound(Table::Outcomes, Table::Deliveries, (5, 0));
        assert_eq!(Table::Tags.bound(None, Micros(100)), (100, Uuid::nil()));
    }

    #[track_caller]
    fn check_prefix(table: Table, prefix: &str, expected: Option<&str>) {
        assert_eq!(table.condition(prefix).map(|(sql, _)| sql).as_deref(), expected, "{table:?} {prefix:?}");
    }

    #[test]
    fn prefixes_choose_what_is_read() {
        check_prefix(Table::Tags, "tag.", Some(""));
        check_prefix(Table::Tags, "tag.assigned.", None);
        check_prefix(Table::Deliveries, "webhook.s", Some("AND state IN (6, 7)"));
        check_prefix(Table::Deliveries, "webhook.triggered", Some("AND state IN (2, 3, 4, 5, 8)"));
        check_prefix(Table::Deliveries, "form", None);
        check_prefix(Table::Outcomes, "webhook.", Some("AND o.kind IN (1, 2, 3, 7)"));
        check_prefix(Table::Outcomes, "webhook.d", Some("AND o.kind IN (1)"));
        check_prefix(Table::Outcomes, "webhook.suppressed", None);
    }
}
