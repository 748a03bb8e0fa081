//! What waits in lanes: taken when its endpoint has room, and only as much as that.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::claim::end_orphan;
use super::{Crew, PAUSE_AFTER_ERROR, Ready};
use crate::domain::time::Micros;
use crate::error::{Result, chain};
use crate::ids::{ContactId, TypedId, WebhookEventId, WebhookId, WorkspaceId};
use crate::store::config::PreparedWebhook;
use crate::store::delivery::lane;
use crate::store::endpoint::{Chain, Entry, Found, LaneRef};
use crate::store::lease::Permit;
use crate::store::{Store, Tx};

/// The most lanes of one claim.
const MAX_LANES: usize = 16;
/// How many lanes, and how many chains, are looked for at a time; and how often, at one look at everything. The next one goes
/// on from there.
const PAGE: usize = 500;
const MAX_PAGES: usize = 10;
/// How many deliveries of a webhook that doesn't send are taken out of its lane at a time.
const MAX_PARKED: usize = 1_000;
/// How many deliveries of a webhook that is gone are ended at a time.
const MAX_ENDED: usize = 64;
/// Before all chains.
const FIRST_CHAIN: Chain = (WebhookEventId(uuid::Uuid::nil()), ContactId(uuid::Uuid::nil()));

/// The dispatcher's look at lanes.
pub(super) struct Lanes {
    /// Where the look for lanes in the database goes on.
    found_to: WebhookId,
    /// Where the look for stuck chains goes on.
    chains_to: Chain,
    /// Until when nothing is taken, after an error.
    pause: Option<Instant>,
}

impl Default for Lanes {
    fn default() -> Self {
        Self { found_to: WebhookId::from_uuid(uuid::Uuid::nil()), chains_to: FIRST_CHAIN, pause: None }
    }
}

impl Lanes {
    /// Returns when an endpoint has room for what is in its lane.
    pub(super) async fn is_time(&self, store: &Store) {
        if let Some(pause) = self.pause {
            tokio::time::sleep_until(pause).await;
        }
        let (local, clock) = (store.local(), store.clock());
        loop {
            let now = clock.now();
            // Where no sender is free now, one is waited for as it is for the common queue.
            if local.endpoints().is_any_ready(local.free().max(1), now) {
                return;
            }
            let next = local.endpoints().next_time(now);
            let opens = async {
                match next {
                    Some(time) => clock.sleep_until(time).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = local.endpoints().changed() => {}
                () = opens => {}
            }
        }
    }

    /// Finds lanes with rows and chains that are stuck: those of other servers, and of this one before its start.
    pub(super) async fn find(&mut self, store: &Store) {
        for _ in 0..MAX_PAGES {
            if let Err(error) = self.find_page(store).await {
                tracing::debug!(error = chain(&error), "the lanes can't be looked for");
                return;
            }
            let start = Self::default();
            if (self.found_to, self.chains_to) == (start.found_to, start.chains_to) {
                return;
            }
        }
    }

    async fn find_page(&mut self, store: &Store) -> Result<()> {
        let endpoints = store.local().endpoints();
        let found = lane::find(store.read(), self.found_to, PAGE).await?;
        for (webhook, workspace) in &found {
            endpoints.note_found(*webhook, *workspace);
        }
        let last = found.last().filter(|_| found.len() >= PAGE);
        self.found_to = last.map_or(Self::default().found_to, |(webhook, _)| *webhook);

        let (stuck, next) = lane::find_stuck(store.read(), self.chains_to, PAGE).await?;
        for (webhook, workspace, chain) in stuck {
            endpoints.note_freed(webhook, workspace, chain);
        }
        self.chains_to = next.unwrap_or(FIRST_CHAIN);
        Ok(())
    }

    /// Takes as much from lanes as their endpoints have room for, and starts it.
    pub(super) async fn claim(&mut self, crew: &Crew, first: Permit) {
        let permits = crew.permits(first);
        let (local, now) = (crew.store.local(), crew.store.clock().now());
        // No more than permits: each is to have its part.
        let lanes = local.endpoints().ready(MAX_LANES.min(permits.len()), local.free() + permits.len(), now);
        self.pause = None;
        match take(&crew.store, &lanes, permits.len()).await {
            Ok(Taken { ready, found }) => {
                crew.start_all(ready, permits);
                for (lane, found) in lanes.iter().zip(found) {
                    local.endpoints().looked_at(lane, found);
                }
            }
            Err(error) => {
                tracing::debug!(error = chain(&error), "the lanes can't be read");
                self.pause = Some(Instant::now() + PAUSE_AFTER_ERROR);
            }
        }
    }
}

/// What was taken from lanes.
#[derive(Default)]
struct Taken {
    ready: Vec<Ready>,
    /// Of each lane.
    found: Vec<Found>,
}

/// Leases up to `limit` deliveries from lanes, each lane's fair part.
async fn take(store: &Store, lanes: &[LaneRef], limit: usize) -> Result<Taken> {
    if lanes.is_empty() {
        return Ok(Taken::default());
    }
    store
        .write("claim_lanes", |tx| async move {
            tx.gate_shared().await?;
            let workspaces: HashSet<WorkspaceId> = lanes.iter().map(|lane| lane.workspace_id).collect();
            let configs = tx.configs(&workspaces.into_iter().collect::<Vec<_>>()).await?;
            let webhook = |lane: &LaneRef| configs.get(&lane.workspace_id)?.webhook(lane.webhook_id);
            let is_ordered = |lane: &&LaneRef| {
                !lane.freed.is_empty() || webhook(lane).is_some_and(|webhook| webhook.webhook.definition.ordered)
            };
            let mut ordered: Vec<WebhookId> = lanes.iter().filter(is_ordered).map(|lane| lane.webhook_id).collect();
            ordered.sort_unstable();
            for webhook in ordered {
                lane::lock_chains(&tx, webhook).await?;
            }
            let mut taken = Taken::default();
            for (index, lane) in lanes.iter().enumerate() {
                let left = limit.saturating_sub(taken.ready.len());
                let part = left.div_ceil(lanes.len() - index);
                let found = match webhook(lane) {
                    Some(webhook) => take_from(&tx, lane, webhook, (part, left), &mut taken.ready).await?,
                    None => end_gone(&tx, lane).await?,
                };
                taken.found.push(found);
            }
            Ok(taken)
        })
        .await
}

/// Leases up to `part` deliveries from a lane; `left` is how many senders the caller has.
async fn take_from(
    tx: &Tx,
    lane: &LaneRef,
    webhook: &Arc<PreparedWebhook>,
    (part, left): (usize, usize),
    ready: &mut Vec<Ready>,
) -> Result<Found> {
    lane::go_on(tx, &lane.freed).await?;
    if webhook.webhook.state != crate::domain::webhook::WebhookState::Active {
        let are_all = lane::park(tx, lane.webhook_id, MAX_PARKED).await?;
        return Ok(if are_all { Found::End } else { Found::Rows(None) });
    }
    let local = tx.store().local();
    let enter = |taken| local.endpoints().enter(webhook, Entry::Lane, local.free() + left - taken, tx.now());
    let slots: Vec<_> = (0..part).map_while(enter).collect();
    if slots.is_empty() {
        return Ok(if lane.freed.is_empty() { Found::Nothing } else { Found::Rows(None) });
    }
    let is_ordered = webhook.webhook.definition.ordered;
    let taken = lane::claim(tx, lane.webhook_id, slots.len(), lane.floor, is_ordered).await?;
    let last_due: Option<Micros> = taken.leased.last().map(|delivery| delivery.due).filter(|_| !is_ordered);
    for (delivery, slot) in taken.leased.into_iter().zip(slots) {
        ready.push(Ready { delivery, webhook: Arc::clone(webhook), slot: Some(slot) });
    }
    Ok(if taken.is_empty { Found::End } else { Found::Rows(last_due) })
}

/// The webhook went without its deliveries, as those of a workspace that was deleted.
async fn end_gone(tx: &Tx, lane: &LaneRef) -> Result<Found> {
    let taken = lane::claim(tx, lane.webhook_id, MAX_ENDED, Micros::MIN, false).await?;
    for delivery in &taken.leased {
        end_orphan(tx, delivery).await?;
    }
    Ok(if taken.is_empty { Found::End } else { Found::Rows(None) })
}
