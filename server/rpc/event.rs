//! EventService.

use std::time::Duration;

use prost_types::value::Kind;
use serde_json::{Map, Number, Value};
use tonic::{Request, Response, Status};

use super::Services;
use super::batch::Batch;
use super::call::Call;
use super::contact_name::{NamesContact, list_of};
use super::convert::{parse_time, timestamp};
use super::page::{Page, Weight};
use super::timeline;
use crate::automation::{Origin, Recorded, Recording};
use crate::domain::event::{CATALOGUE, Event, EventType, MAX_ATTRIBUTES_BYTES};
use crate::error::{Result, Violations};
use crate::ids::{EventId, TypedId, WorkspaceId};
use crate::pb;
use crate::pb::batch_record_events_response::Result as ItemResult;
use crate::pb::batch_record_events_response::result::Result as ItemAnswer;
use crate::store::timeline::Place;
use crate::store::{self, Store};

/// How far in the future an event may lie: clocks differ.
const MAX_AHEAD: Duration = Duration::from_secs(5 * 60);
/// How deep attributes may be nested.
const MAX_DEPTH: usize = 20;
/// Up to here a double holds every whole number.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

#[tonic::async_trait]
impl pb::event_service_server::EventService for Services {
    async fn record_event(
        &self,
        request: Request<pb::RecordEventRequest>,
    ) -> Result<Response<pb::RecordEventResponse>, Status> {
        let mut call = Call::open_write(request)?;
        let (origin, message) = ((call.workspace()?, &call.origin()), std::mem::take(&mut call.message));
        let wish = read_recording(&self.store, message, origin, &mut call.violations);
        let wish = call.finish_with(wish)?;
        let recorded = self.recorder.commit(wish.clone(), call.key).await?;
        Ok(Response::new(recorded_to_pb(wish, recorded)))
    }

    async fn batch_record_events(
        &self,
        request: Request<pb::BatchRecordEventsRequest>,
    ) -> Result<Response<pb::BatchRecordEventsResponse>, Status> {
        let mut call = Call::open(request)?;
        let items = std::mem::take(&mut call.message.requests);
        let origin = (call.workspace()?, &call.origin());
        let batch =
            Batch::read(&mut call, items, |item, violations| read_recording(&self.store, item, origin, violations))?;
        let results = batch.run(&self.store, recorded_to_pb).await?;
        Ok(Response::new(pb::BatchRecordEventsResponse { results: results.into_iter().map(item_to_pb).collect() }))
    }

    async fn list_event_types(
        &self,
        request: Request<pb::ListEventTypesRequest>,
    ) -> Result<Response<pb::ListEventTypesResponse>, Status> {
        Call::open(request)?.finish()?;
        let event_types = CATALOGUE.iter().map(|known| pb::EventTypeInfo {
            r#type: known.name.to_owned(),
            description: known.description.to_owned(),
            attribute_names: known.attributes.iter().map(|name| (*name).to_owned()).collect(),
            system_recorded: known.is_systems_own,
        });
        Ok(Response::new(pb::ListEventTypesResponse { event_types: event_types.collect() }))
    }

    async fn list_timeline_entries(
        &self,
        request: Request<pb::ListTimelineEntriesRequest>,
    ) -> Result<Response<pb::ListTimelineEntriesResponse>, Status> {
        let mut call = Call::open(request)?;
        let which = call.contact();
        let pb::ListTimelineEntriesRequest { page_size, page_token, filter, .. } = std::mem::take(&mut call.message);
        let list = list_of("timeline", which.as_ref());
        let page = Page::<Place>::read(page_size, &page_token, &list, filter.as_ref(), &mut call.violations);
        let filter = timeline::parse_filter(filter.unwrap_or_default(), &mut call.violations);
        let which = call.finish_with(which)?;
        let (workspace, db) = (call.workspace()?, self.store.read());
        let id = store::contact::get(db, workspace, &which).await?.id;
        let fetch = |after, limit| store::timeline::list(db, id, &filter, after, limit);
        let show = |(_, entry)| timeline::to_pb(entry);
        let (entries, next_page_token) = page.collect(Weight::Medium, fetch, |(place, _)| *place, show).await?;
        Ok(Response::new(pb::ListTimelineEntriesResponse { entries, next_page_token }))
    }
}

fn item_to_pb(result: Result<pb::RecordEventResponse>) -> ItemResult {
    let answer = match result {
        Ok(response) => ItemAnswer::Response(response),
        Err(error) => ItemAnswer::Error(error.into_item_status()),
    };
    ItemResult { result: Some(answer) }
}

/// Reads an event to record.
fn read_recording(
    store: &Store,
    mut request: pb::RecordEventRequest,
    (workspace_id, origin): (WorkspaceId, &Origin),
    violations: &mut Violations,
) -> Option<Recording> {
    let now = store.clock().now();
    let contact = request.take_contact().and_then(|name| name.parse(violations));
    let given = request.event.unwrap_or_default();
    let event_type = violations.take("event.type", "EVENT_TYPE", EventType::parse(&given.r#type));
    let attributes = given.attributes.map(read_attributes).transpose();
    let attributes = violations.take("event.attributes", "ATTRIBUTES", attributes);
    let event_time = parse_time("event.event_time", given.event_time, violations);
    if event_time.is_some_and(|time| time > now.saturating_add(MAX_AHEAD)) {
        violations.add_if_new("event.event_time", "FUTURE", "must be at most 5 minutes in the future");
    }
    Some(Recording {
        id: EventId::generate(now, store.entropy()),
        workspace_id,
        contact: contact?,
        event_type: event_type?.as_str().to_owned(),
        attributes: attributes?,
        event_time,
        origin: origin.clone(),
    })
}

/// The event as it was recorded, by this call or by an earlier one with its request id.
fn recorded_to_pb(wish: Recording, recorded: Recorded) -> pb::RecordEventResponse {
    let event = Event {
        id: Some(recorded.id),
        contact_id: recorded.contact_id,
        event_type: wish.event_type,
        attributes: wish.attributes,
        tag_id: None,
        event_time: recorded.event_time,
        recorded: recorded.recorded,
    };
    pb::RecordEventResponse { event: Some(event_to_pb(event)) }
}

/// Why attributes can't be kept. Never repeats them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum AttributesError {
    #[error("must be at most {MAX_ATTRIBUTES_BYTES} bytes as JSON; has {bytes}")]
    TooLarge { bytes: usize },
    #[error("must be nested at most {MAX_DEPTH} deep")]
    TooDeep,
    #[error("must have finite numbers; JSON has no others")]
    NotFinite,
    #[error("must not have the character U+0000")]
    Nul,
}

/// Reads attributes as the JSON that is kept.
fn read_attributes(attributes: prost_types::Struct) -> Result<Value, AttributesError> {
    let json = read_struct(attributes, 1)?;
    let bytes = json.to_string().len();
    if bytes > MAX_ATTRIBUTES_BYTES { Err(AttributesError::TooLarge { bytes }) } else { Ok(json) }
}

fn read_struct(given: prost_types::Struct, depth: usize) -> Result<Value, AttributesError> {
    if depth > MAX_DEPTH {
        return Err(AttributesError::TooDeep);
    }
    let fields = given.fields.into_iter().map(|(key, value)| Ok((read_text(key)?, read_value(value, depth)?)));
    Ok(Value::Object(fields.collect::<Result<Map<_, _>, _>>()?))
}

fn read_value(value: prost_types::Value, depth: usize) -> Result<Value, AttributesError> {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Ok(Value::Null),
        Some(Kind::BoolValue(boolean)) => Ok(Value::Bool(boolean)),
        Some(Kind::StringValue(text)) => read_text(text).map(Value::String),
        Some(Kind::NumberValue(number)) => read_number(number).map(Value::Number).ok_or(AttributesError::NotFinite),
        Some(Kind::StructValue(inner)) => read_struct(inner, depth + 1),
        Some(Kind::ListValue(_)) if depth == MAX_DEPTH => Err(AttributesError::TooDeep),
        Some(Kind::ListValue(list)) => {
            let values = list.values.into_iter().map(|value| read_value(value, depth + 1));
            Ok(Value::Array(values.collect::<Result<_, _>>()?))
        }
    }
}

fn read_text(text: String) -> Result<String, AttributesError> {
    if text.contains('\0') { Err(AttributesError::Nul) } else { Ok(text) }
}

/// Whole numbers as such: the wire has doubles alone. `None` for what JSON can't write.
#[expect(clippy::cast_possible_truncation, reason = "whole and within the range of i64")]
fn read_number(number: f64) -> Option<Number> {
    let is_whole = number.fract() == 0.0 && number.abs() <= MAX_EXACT;
    if is_whole { Some(Number::from(number as i64)) } else { Number::from_f64(number) }
}

fn to_struct(attributes: &Value) -> prost_types::Struct {
    let fields = attributes.as_object().into_iter().flatten();
    prost_types::Struct { fields: fields.map(|(key, value)| (key.clone(), to_value(value))).collect() }
}

fn to_value(value: &Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(boolean) => Kind::BoolValue(*boolean),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.iter().map(to_value).collect() })
        }
        Value::Object(_) => Kind::StructValue(to_struct(value)),
    };
    prost_types::Value { kind: Some(kind) }
}

/// An event as callers see it.
pub(super) fn event_to_pb(event: Event) -> pb::Event {
    pb::Event {
        id: event.id.map(|id| id.to_string()).unwrap_or_default(),
        contact_id: event.contact_id.to_string(),
        r#type: event.event_type,
        attributes: event.attributes.as_ref().map(to_struct),
        event_time: Some(timestamp(event.event_time)),
        record_time: Some(timestamp(event.recorded)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn attributes(kind: Kind) -> prost_types::Struct {
        let value = prost_types::Value { kind: Some(kind) };
        prost_types::Struct { fields: [("k".to_owned(), value)].into_iter().collect() }
    }

    #[track_caller]
    fn check(kind: Kind, expected: Result<Value, AttributesError>) {
        let read = read_attributes(attributes(kind));
        assert_eq!(read, expected.map(|value| json!({ "k": value })));
    }

    /// `depth` levels of `wrap` around null, the outermost one included.
    fn nested(depth: usize, wrap: fn(prost_types::Value) -> Kind) -> prost_types::Struct {
        let mut value = prost_types::Value { kind: Some(Kind::NullValue(0)) };
        for _ in 1..depth {
            value = prost_types::Value { kind: Some(wrap(value)) };
        }
        prost_types::Struct { fields: [("k".to_owned(), value)].into_iter().collect() }
    }

    #[test]
    fn attributes_are_kept_as_json() {
        check(Kind::NullValue(0), Ok(json!(null)));
        check(Kind::BoolValue(true), Ok(json!(true)));
        check(Kind::NumberValue(3.0), Ok(json!(3)));
        check(Kind::NumberValue(-2.5), Ok(json!(-2.5)));
        check(Kind::NumberValue(1e300), Ok(json!(1e300)));
        check(Kind::StringValue("é\n".to_owned()), Ok(json!("é\n")));
        check(Kind::NumberValue(f64::INFINITY), Err(AttributesError::NotFinite));
        check(Kind::NumberValue(f64::NAN), Err(AttributesError::NotFinite));
        check(Kind::StringValue("a\0".to_owned()), Err(AttributesError::Nul));
        // `{"k":""}` has 8 bytes.
        check(Kind::StringValue("x".repeat(16_376)), Ok(json!("x".repeat(16_376))));
        check(Kind::StringValue("x".repeat(16_377)), Err(AttributesError::TooLarge { bytes: 16_385 }));
    }

    #[test]
    fn attributes_are_nested_up_to_a_limit() {
        let wraps: [fn(prost_types::Value) -> Kind; 2] = [
            |value| Kind::ListValue(prost_types::ListValue { values: vec![value] }),
            |value| Kind::StructValue(prost_types::Struct { fields: [("k".to_owned(), value)].into_iter().collect() }),
        ];
        for wrap in wraps {
            let fits = nested(20, wrap);
            assert_eq!(read_attributes(fits.clone()).map(|json| to_struct(&json)), Ok(fits));
            assert_eq!(read_attributes(nested(21, wrap)), Err(AttributesError::TooDeep));
        }
    }
}
