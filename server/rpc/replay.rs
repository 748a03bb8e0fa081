//! The replays of DeliveryService.

use tonic::{Request, Response, Status};

use super::Services;
use super::call::Call;
use super::convert::{code, parse_time, texts, timestamp};
use super::page::{Page, Weight};
use super::write::answer_by_id;
use crate::domain::delivery::{Source, State};
use crate::domain::replay::{DEFAULT_RATE, DEFAULT_STATES, Replay, ReplayCounts, ReplayFilter, ReplayState, STATES};
use crate::domain::time::Micros;
use crate::error::{Result, Violations};
use crate::ids::{ReplayId, TypedId, WorkspaceId};
use crate::pb;
use crate::store::{self, Tx};

pub(super) async fn create(
    services: &Services,
    request: Request<pb::CreateReplayRequest>,
) -> Result<Response<pb::Replay>, Status> {
    let mut call = Call::open_write(request)?;
    let draft = call.message.replay.take().unwrap_or_default();
    let filter = parse_filter(&draft.filter.unwrap_or_default(), &mut call.violations);
    call.finish()?;
    let (store, workspace) = (&services.store, call.workspace()?);
    let id = ReplayId::generate(store.clock().now(), store.entropy());
    let rate = u32::try_from(draft.attempts_per_second).ok().filter(|rate| *rate > 0).unwrap_or(DEFAULT_RATE);
    let filter = &filter;
    let make = |tx: Tx| async move {
        tx.gate_shared().await?;
        let replay = new(id, workspace, filter.clone(), rate, tx.now());
        store::replay::insert(&tx, &replay).await?;
        Ok(replay)
    };
    Ok(Response::new(to_pb(&call.write(store, make).await?)))
}

pub(super) async fn get(
    services: &Services,
    request: Request<pb::GetReplayRequest>,
) -> Result<Response<pb::Replay>, Status> {
    let mut call = Call::open(request)?;
    let id = call.only_id(|request| &request.id)?;
    let replay = store::replay::get(services.store.read(), call.workspace()?, id).await?;
    Ok(Response::new(to_pb(&replay)))
}

pub(super) async fn list(
    services: &Services,
    request: Request<pb::ListReplaysRequest>,
) -> Result<Response<pb::ListReplaysResponse>, Status> {
    let mut call = Call::open(request)?;
    let pb::ListReplaysRequest { page_size, page_token } = std::mem::take(&mut call.message);
    let page = Page::<ReplayId>::read(page_size, &page_token, "replays", None::<&()>, &mut call.violations);
    call.finish()?;
    let db = services.store.read();
    let workspace = call.workspace()?;
    let fetch = |after, limit| store::replay::list(db, workspace, after, limit);
    let show = |replay: Replay| to_pb(&replay);
    let (replays, next_page_token) = page.collect(Weight::Light, fetch, |replay| replay.id, show).await?;
    Ok(Response::new(pb::ListReplaysResponse { replays, next_page_token }))
}

pub(super) async fn cancel(
    services: &Services,
    request: Request<pb::CancelReplayRequest>,
) -> Result<Response<pb::Replay>, Status> {
    let mut call = Call::open_write(request)?;
    let (id, workspace): (ReplayId, _) = (call.only_id(|request| &request.id)?, call.workspace()?);
    let make = |tx: Tx| async move {
        tx.gate_exclusive().await?;
        store::replay::cancel(&tx, workspace, id).await
    };
    Ok(Response::new(to_pb(&call.write(&services.store, make).await?)))
}

answer_by_id!(Replay, |tx, workspace, id| store::replay::get(tx.db(), workspace, id));

fn new(id: ReplayId, workspace_id: WorkspaceId, filter: ReplayFilter, rate: u32, created: Micros) -> Replay {
    let (state, counts) = (ReplayState::Pending, ReplayCounts::default());
    Replay { id, workspace_id, filter, rate, state, counts, created, finished: None }
}

fn parse_filter(filter: &pb::ReplayFilter, violations: &mut Violations) -> ReplayFilter {
    let parsed = ReplayFilter {
        webhook_ids: violations.ids("replay.filter.webhook_ids", &filter.webhook_ids),
        contact_ids: violations.ids("replay.filter.contact_ids", &filter.contact_ids),
        // The rules of the proto have told what isn't one of these.
        states: filter
            .states()
            .filter_map(|state| State::from_code(code(state)).filter(|state| STATES.contains(state)))
            .collect(),
        sources: filter.sources().filter_map(|source| Source::from_code(code(source))).collect(),
        created_after: parse_time("replay.filter.created_after", filter.created_after, violations),
        created_before: parse_time("replay.filter.created_before", filter.created_before, violations),
    };
    if let (Some(after), Some(before)) = (parsed.created_after, parsed.created_before)
        && before <= after
    {
        violations.add_if_new("replay.filter.created_before", "WINDOW", "must be after created_after");
    }
    parsed
}

/// A replay on the wire; with the states that are selected, also where the caller didn't say.
fn to_pb(replay: &Replay) -> pb::Replay {
    let states: &[State] = if replay.filter.states.is_empty() { &DEFAULT_STATES } else { &replay.filter.states };
    let counts = &replay.counts;
    pb::Replay {
        id: replay.id.to_string(),
        filter: Some(pb::ReplayFilter {
            webhook_ids: texts(&replay.filter.webhook_ids),
            contact_ids: texts(&replay.filter.contact_ids),
            states: states.iter().map(|state| state.code().into()).collect(),
            sources: replay.filter.sources.iter().map(|source| source.code().into()).collect(),
            created_after: replay.filter.created_after.map(timestamp),
            created_before: replay.filter.created_before.map(timestamp),
        }),
        attempts_per_second: i32::try_from(replay.rate).unwrap_or(i32::MAX),
        state: replay.state.code().into(),
        matched_count: counts.matched,
        skipped_count: counts.skipped,
        pending_count: counts.pending(),
        delivered_count: counts.delivered,
        failed_count: counts.failed,
        cancelled_count: counts.cancelled,
        create_time: Some(timestamp(replay.created)),
        finish_time: replay.finished.map(timestamp),
    }
}
