//! DeliveryService. Its replays and its figures have files of their own.

use std::pin::Pin;

use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::Services;
use super::call::Call;
use super::convert::{code, duration, parse_time, texts, timestamp};
use super::page::{Page, Weight};
use super::write::answer_by_id;
use super::{delivery_stats, replay};
use crate::domain::delivery::{Attempt, Cause, Delivery, Reason, Source, State};
use crate::domain::outcome::{Kind, Outcome};
use crate::domain::request::{Method, Parameter};
use crate::domain::time::Micros;
use crate::domain::webhook::WebhookState;
use crate::error::{Error, Result, Violations};
use crate::ids::{DeliveryId, WorkspaceId};
use crate::outcomes::{Message, OutcomeFilter, Start, cursor};
use crate::pb;
use crate::store::delivery::DeliveryFilter;
use crate::store::delivery::end::{self, Which};
use crate::store::deployment::Facts;
use crate::store::{self, Tx};

/// The most bytes of a delivery's values that a response shows.
const MAX_PARAMETER_BYTES: usize = 1024 * 1024;

type OutcomeStream = Pin<Box<dyn Stream<Item = Result<pb::StreamOutcomesResponse, Status>> + Send>>;

#[tonic::async_trait]
impl pb::delivery_service_server::DeliveryService for Services {
    type StreamOutcomesStream = OutcomeStream;

    async fn get_delivery(&self, request: Request<pb::GetDeliveryRequest>) -> Result<Response<pb::Delivery>, Status> {
        let mut call = Call::open(request)?;
        let id = call.only_id(|request| &request.id)?;
        let delivery = store::delivery::get(self.store.read(), call.workspace()?, id).await?;
        Ok(Response::new(to_pb(delivery, self.store.clock().now())))
    }

    async fn list_deliveries(
        &self,
        request: Request<pb::ListDeliveriesRequest>,
    ) -> Result<Response<pb::ListDeliveriesResponse>, Status> {
        let mut call = Call::open(request)?;
        let pb::ListDeliveriesRequest { page_size, page_token, filter } = std::mem::take(&mut call.message);
        let page =
            Page::<DeliveryId>::read(page_size, &page_token, "deliveries", filter.as_ref(), &mut call.violations);
        let filter = parse_filter(&filter.unwrap_or_default(), &mut call.violations);
        call.finish()?;
        let db = self.store.read();
        let workspace = call.workspace()?;
        let fetch = |after, limit| store::delivery::list(db, workspace, &filter, after, limit);
        // Lists don't carry values.
        let now = self.store.clock().now();
        let show = |delivery| pb::Delivery { parameters: Vec::new(), ..to_pb(delivery, now) };
        let (deliveries, next_page_token) = page.collect(Weight::Heavy, fetch, |delivery| delivery.id, show).await?;
        Ok(Response::new(pb::ListDeliveriesResponse { deliveries, next_page_token }))
    }

    async fn list_attempts(
        &self,
        request: Request<pb::ListAttemptsRequest>,
    ) -> Result<Response<pb::ListAttemptsResponse>, Status> {
        let mut call = Call::open(request)?;
        let pb::ListAttemptsRequest { delivery_id, page_size, page_token } = std::mem::take(&mut call.message);
        let list = format!("attempts/{delivery_id}");
        let page = Page::<i64>::read(page_size, &page_token, &list, None::<&()>, &mut call.violations);
        let id: Option<DeliveryId> = call.id("delivery_id", &delivery_id);
        let id = call.finish_with(id)?;
        let (workspace, db) = (call.workspace()?, self.store.read());
        store::delivery::get(db, workspace, id).await?;
        let fetch = |after: Option<i64>, limit| store::outcome::attempts(db, workspace, id, after.unwrap_or(0), limit);
        let show = |(_, attempt)| attempt_to_pb(id, attempt);
        let (attempts, next_page_token) = page.collect(Weight::Medium, fetch, |(position, _)| position.0, show).await?;
        Ok(Response::new(pb::ListAttemptsResponse { attempts, next_page_token }))
    }

    async fn retry_delivery(
        &self,
        request: Request<pb::RetryDeliveryRequest>,
    ) -> Result<Response<pb::Delivery>, Status> {
        let mut call = Call::open_write(request)?;
        let (id, workspace) = (call.only_id(|request| &request.id)?, call.workspace()?);
        let delivery = call.write(&self.store, |tx| async move { retry(&tx, workspace, id).await }).await?;
        Ok(Response::new(to_pb(delivery, self.store.clock().now())))
    }

    async fn cancel_delivery(
        &self,
        request: Request<pb::CancelDeliveryRequest>,
    ) -> Result<Response<pb::Delivery>, Status> {
        let mut call = Call::open_write(request)?;
        let (id, workspace) = (call.only_id(|request| &request.id)?, call.workspace()?);
        let delivery = call.write(&self.store, |tx| async move { cancel(&tx, workspace, id).await }).await?;
        Ok(Response::new(to_pb(delivery, self.store.clock().now())))
    }

    async fn create_replay(&self, request: Request<pb::CreateReplayRequest>) -> Result<Response<pb::Replay>, Status> {
        replay::create(self, request).await
    }

    async fn get_replay(&self, request: Request<pb::GetReplayRequest>) -> Result<Response<pb::Replay>, Status> {
        replay::get(self, request).await
    }

    async fn list_replays(
        &self,
        request: Request<pb::ListReplaysRequest>,
    ) -> Result<Response<pb::ListReplaysResponse>, Status> {
        replay::list(self, request).await
    }

    async fn cancel_replay(&self, request: Request<pb::CancelReplayRequest>) -> Result<Response<pb::Replay>, Status> {
        replay::cancel(self, request).await
    }

    async fn get_delivery_stats(
        &self,
        request: Request<pb::GetDeliveryStatsRequest>,
    ) -> Result<Response<pb::DeliveryStats>, Status> {
        delivery_stats::get(self, request).await
    }

    async fn stream_outcomes(
        &self,
        request: Request<pb::StreamOutcomesRequest>,
    ) -> Result<Response<Self::StreamOutcomesStream>, Status> {
        let mut call = Call::open(request)?;
        let start = parse_start(&call.message);
        let filter = std::mem::take(&mut call.message).filter.unwrap_or_default();
        let filter = OutcomeFilter {
            webhook_ids: call.violations.ids("filter.webhook_ids", &filter.webhook_ids),
            contact_ids: call.violations.ids("filter.contact_ids", &filter.contact_ids),
            kinds: filter.kinds().filter_map(|kind| Kind::from_code(code(kind))).collect(),
            tag_ids: call.violations.ids("filter.tag_ids", &filter.tag_ids),
        };
        call.finish()?;
        let (workspace, facts) = (call.workspace()?, *self.store.facts());
        let messages = self.outcomes.watch(workspace, filter, start).await?;
        let clock = self.store.clock().clone();
        let stream = ReceiverStream::new(messages).map(move |message| match message {
            Ok(message) => Ok(message_to_pb(&facts, workspace, &message, timestamp(clock.now()))),
            Err(error) => Err(error.into()),
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

answer_by_id!(Delivery, |tx, workspace, id| store::delivery::get(tx.db(), workspace, id));

/// Asks for one more attempt.
async fn retry(tx: &Tx, workspace: WorkspaceId, id: DeliveryId) -> Result<Delivery> {
    tx.gate_shared().await?;
    let delivery = store::delivery::get(tx.db(), workspace, id).await?;
    if delivery.snapshot.is_none() {
        let state = if delivery.erased { "ERASED" } else { delivery.state.as_str() };
        return Err(Error::WrongState { resource: "delivery", state, hint: "it has no values to send" });
    }
    let config = tx.config(workspace).await?;
    let gone =
        Error::WrongState { resource: "delivery", state: "ORPHANED", hint: "its webhook or webhook event was deleted" };
    let Some(webhook) = config.webhook(delivery.webhook_id).map(|prepared| &prepared.webhook) else { return Err(gone) };
    if !webhook.definition.events.iter().any(|event| event.id == delivery.webhook_event_id) {
        return Err(gone);
    }
    if webhook.state != WebhookState::Active {
        return Err(Error::WebhookNotActive { state: webhook.state.as_str() });
    }
    store::extra_attempt::insert(tx, workspace, id, delivery.webhook_id, Cause::Manual).await?;
    Ok(delivery)
}

async fn cancel(tx: &Tx, workspace: WorkspaceId, id: DeliveryId) -> Result<Delivery> {
    let ended = end::end(tx, workspace, Which::Delivery(id), State::Cancelled, Reason::CancelledByCaller).await?;
    let delivery = store::delivery::get(tx.db(), workspace, id).await?;
    if ended == 0 {
        return Err(Error::WrongState { resource: "delivery", state: delivery.state.as_str(), hint: "it is final" });
    }
    // Neither the schedule nor what was asked for beside it follows.
    store::extra_attempt::forget_delivery(tx, id).await?;
    Ok(delivery)
}

fn parse_filter(filter: &pb::DeliveryFilter, violations: &mut Violations) -> DeliveryFilter {
    DeliveryFilter {
        webhook_ids: violations.ids("filter.webhook_ids", &filter.webhook_ids),
        contact_ids: violations.ids("filter.contact_ids", &filter.contact_ids),
        states: filter.states().filter_map(|state| State::from_code(code(state))).collect(),
        sources: filter.sources().filter_map(|source| Source::from_code(code(source))).collect(),
        created_after: parse_time("filter.created_after", filter.created_after, violations),
        created_before: parse_time("filter.created_before", filter.created_before, violations),
    }
}

fn parse_start(request: &pb::StreamOutcomesRequest) -> Start {
    use pb::stream_outcomes_request::{Position, Start as Named};
    match &request.position {
        Some(Position::AfterCursor(cursor)) => Start::After(cursor.clone()),
        Some(Position::StartAt(start)) if *start == i32::from(Named::Beginning) => Start::Beginning,
        Some(Position::StartAt(_)) | None => Start::Now,
    }
}

fn message_to_pb(
    facts: &Facts,
    workspace: WorkspaceId,
    message: &Message,
    now: prost_types::Timestamp,
) -> pb::StreamOutcomesResponse {
    use pb::stream_outcomes_response::Entry;
    let (position, entry) = match message {
        Message::Outcome(position, outcome) => (*position, Entry::Outcome(outcome_to_pb(outcome))),
        Message::Checkpoint(position) => (*position, Entry::Checkpoint(pb::OutcomeCheckpoint { time: Some(now) })),
    };
    pb::StreamOutcomesResponse { cursor: cursor::encode(facts, workspace, position), entry: Some(entry) }
}

fn outcome_to_pb(outcome: &Outcome) -> pb::Outcome {
    let delivery = outcome.delivery.as_ref();
    let attempt = delivery.zip(outcome.attempt.clone()).map(|(delivery, attempt)| attempt_to_pb(delivery.id, attempt));
    pb::Outcome {
        kind: outcome.kind.code().into(),
        outcome_time: Some(timestamp(outcome.recorded)),
        webhook_id: outcome.webhook_id.to_string(),
        webhook_event_id: delivery.map(|delivery| delivery.webhook_event_id.to_string()).unwrap_or_default(),
        delivery_id: delivery.map(|delivery| delivery.id.to_string()).unwrap_or_default(),
        contact_id: delivery.map(|delivery| delivery.contact_id.to_string()).unwrap_or_default(),
        activation_tag_ids: delivery.map(|delivery| texts(&delivery.tag_ids)).unwrap_or_default(),
        source: delivery.map_or(0, |delivery| delivery.source.code().into()),
        reason: outcome.reason.code().into(),
        attempt,
        next_attempt_time: outcome.next_attempt.map(timestamp),
    }
}

/// A delivery on the wire. One that is due is about to be sent, or waits for a sender: nobody knows when.
pub(super) fn to_pb(delivery: Delivery, now: Micros) -> pb::Delivery {
    let (method, encoding) = delivery.snapshot.as_ref().map_or((0, 0), |snapshot| match snapshot.method {
        // A GET has no entry to encode.
        Method::Get => (snapshot.method.code(), 0),
        Method::Post => (snapshot.method.code(), snapshot.encoding.code()),
    });
    let parameters = delivery.snapshot.map(|snapshot| snapshot.parameters).unwrap_or_default();
    let (parameters, parameters_truncated) = parameters_to_pb(parameters);
    pb::Delivery {
        id: delivery.id.to_string(),
        webhook_id: delivery.webhook_id.to_string(),
        webhook_event_id: delivery.webhook_event_id.to_string(),
        contact_id: delivery.contact_id.to_string(),
        source: delivery.source.code().into(),
        state: delivery.state.code().into(),
        reason: delivery.reason.code().into(),
        activation_tag_ids: texts(&delivery.tag_ids),
        trigger_time: Some(timestamp(delivery.trigger_time)),
        create_time: Some(timestamp(delivery.created)),
        next_attempt_time: delivery.due.filter(|due| *due > now).map(timestamp),
        finish_time: delivery.finished.map(timestamp),
        attempt_count: i32::try_from(delivery.attempt_count).unwrap_or(i32::MAX),
        coalesced_count: i32::try_from(delivery.coalesced_count).unwrap_or(i32::MAX),
        method: method.into(),
        encoding: encoding.into(),
        parameters,
        parameters_truncated,
        erased: delivery.erased,
        causation_depth: delivery.causation_depth.into(),
    }
}

/// The values of a delivery, as far as they fit into a response; whether some are left out.
fn parameters_to_pb(parameters: Vec<Parameter>) -> (Vec<pb::delivery::Parameter>, bool) {
    let (count, mut bytes) = (parameters.len(), 0);
    let fits = |parameter: &Parameter| {
        bytes += parameter.name.len() + parameter.value.as_ref().map_or(0, String::len);
        bytes <= MAX_PARAMETER_BYTES
    };
    let shown = parameters.into_iter().take_while(fits);
    let shown = shown
        .map(|parameter| pb::delivery::Parameter { name: parameter.name, value: parameter.value.unwrap_or_default() });
    let shown: Vec<_> = shown.collect();
    let truncated = shown.len() < count;
    (shown, truncated)
}

/// An attempt on the wire.
pub(super) fn attempt_to_pb(delivery: DeliveryId, attempt: Attempt) -> pb::Attempt {
    pb::Attempt {
        delivery_id: delivery.to_string(),
        number: i32::try_from(attempt.number).unwrap_or(i32::MAX),
        cause: attempt.cause.code().into(),
        start_time: Some(timestamp(attempt.started)),
        duration: Some(duration(attempt.duration)),
        url: attempt.url,
        status_code: attempt.status_code.map_or(0, Into::into),
        response_body: attempt.response_body.into(),
        response_body_truncated: attempt.response_truncated,
        response_location: attempt.response_location,
        retry_after: attempt.retry_after.map(duration),
        error_class: attempt.error_class.map_or(0, |class| class.code().into()),
        error_detail: attempt.error_detail,
        lease_lost: attempt.lease_lost,
    }
}
