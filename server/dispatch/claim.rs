//! Claiming what is due: leases and the decision what is done with each are one transaction.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{PAUSE_AFTER_ERROR, Ready};
use crate::automation::defer;
use crate::domain::delivery::{Cause, Reason, Source, State};
use crate::error::{Result, chain};
use crate::ids::WorkspaceId;
use crate::store::config::PreparedWebhook;
use crate::store::delivery::LeasedDelivery;
use crate::store::delivery::end::{self, Which};
use crate::store::delivery::lane;
use crate::store::delivery::queue::{self, Look};
use crate::store::endpoint::Entry;
use crate::store::lease::Job;
use crate::store::{Store, Tx, extra_attempt};

/// From so many blocked deliveries of one webhook in a claim on, or in a claim that was full, more are looked for: they would
/// be met one by one.
const MANY_BLOCKED: usize = 8;
/// How many of them are moved at a time: others wait for the writer meanwhile.
const MAX_MOVED: usize = 250;

/// How many deliveries that a clock has left in the future are made due at a time.
const MAX_PULLED_IN: usize = 1_000;

/// What a claim found.
pub(super) struct Claimed {
    /// What may be sent.
    pub(super) ready: Vec<Ready>,
    /// Where to look on if there may be more; `None` if all that is due was taken.
    pub(super) more: Option<Look>,
}

/// Leases up to `limit` deliveries that are due. Those of webhooks that don't send are put aside.
pub(super) async fn claim(store: &Store, limit: usize, look: Look) -> Result<Claimed> {
    store
        .write("claim", |tx| async move {
            tx.gate_shared().await?;
            if look == Look::Full {
                queue::pull_in(&tx, MAX_PULLED_IN).await?;
            }
            // First, and few: a queue that never runs dry mustn't keep them from their turn.
            let share = extra_share(limit, store.entropy().jitter_unit());
            let mut extra = if share > 0 { extra_attempt::claim(&tx, share).await? } else { Vec::new() };
            let room = limit.saturating_sub(extra.len());
            let mut leased = queue::claim(&tx, room, look).await?;
            // The queue goes by time: of what was due before the last one, nothing is left. If all was taken, only what
            // becomes due from now on can follow.
            let next = leased.last().filter(|_| leased.len() >= room).map_or(Look::Recent, |last| Look::From(last.due));
            let room = room.saturating_sub(leased.len());
            if room > 0 && extra.len() == share {
                extra.extend(extra_attempt::claim(&tx, room).await?);
            }
            leased.extend(extra);
            let more = (leased.len() >= limit).then_some(next);
            Ok(Claimed { ready: sort_out(&tx, leased, limit).await?, more })
        })
        .await
}

/// How many of a claim are attempts beside the schedule if others wait too: an eighth, and of small claims every so many.
/// `unit` is -1.0 to 1.0, by chance.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 7")]
fn extra_share(limit: usize, unit: f64) -> usize {
    let chance = ((unit + 1.0) * 4.0) as usize;
    (limit + chance.min(7)) / 8
}

/// Leases that this server holds without knowing, after a commit of unknown result.
pub(super) async fn reclaim(store: &Store) -> Result<Vec<Ready>> {
    store
        .write("reclaim", |tx| async move {
            // Nobody plans meanwhile: what was leased by a commit before this one is known, or lost.
            tx.gate_exclusive().await?;
            let known = store.local().in_flight();
            let leased = queue::reclaim(&tx, &known).await?;
            extra_attempt::release_unknown(&tx, &known).await?;
            sort_out(&tx, leased, 0).await
        })
        .await
}

/// Gives leases back for which there is no permit; they are claimed like all others.
pub(super) async fn give_back(store: &Store, ready: &[Ready]) -> Result<()> {
    let ids: Vec<_> = ready.iter().map(|ready| ready.delivery.id).collect();
    let ids = &ids;
    store
        .write("give_back", |tx| async move {
            queue::give_back(&tx, ids).await?;
            tx.announce_work();
            Ok(())
        })
        .await
}

/// Decides what is done with each. `permits` is how many senders the caller has for them.
async fn sort_out(tx: &Tx, leased: Vec<LeasedDelivery>, permits: usize) -> Result<Vec<Ready>> {
    let workspaces: HashSet<WorkspaceId> = leased.iter().map(|delivery| delivery.workspace_id).collect();
    let configs = tx.configs(&workspaces.into_iter().collect::<Vec<_>>()).await?;
    let (mut ready, mut deferred) = (Vec::new(), Vec::new());
    let (mut parked, mut parked_extra) = (Vec::new(), Vec::new());
    for delivery in leased {
        let config = configs.get(&delivery.workspace_id);
        let Some((config, webhook)) = config.and_then(|config| Some((config, config.webhook(delivery.webhook_id)?)))
        else {
            end_orphan(tx, &delivery).await?;
            continue;
        };
        if delivery.state == State::Deferred {
            deferred.push((delivery, config.clone(), webhook.clone()));
        } else if webhook.webhook.skips(delivery.reference.source).is_none() {
            ready.push((delivery, webhook.clone()));
        } else if let Some(extra) = delivery.extra_id {
            parked_extra.push(extra);
        } else {
            parked.push(delivery.id);
        }
    }
    queue::park(tx, &parked).await?;
    extra_attempt::park(tx, &parked_extra).await?;
    ready.extend(defer::promote(tx, deferred).await?);
    admit(tx, ready, permits).await
}

/// Puts those into their lanes whose endpoints have no room. Attempts of replays are in no lane: they come back later. What
/// people want now is sent whatever the room.
async fn admit(tx: &Tx, leased: Vec<(LeasedDelivery, Arc<PreparedWebhook>)>, permits: usize) -> Result<Vec<Ready>> {
    let (local, is_full) = (tx.store().local(), leased.len() >= permits);
    let (mut ready, mut blocked, mut counts) = (Vec::new(), Vec::new(), HashMap::<_, usize>::new());
    let mut put_off = Vec::new();
    for (delivery, webhook) in leased {
        let free = local.free() + permits.saturating_sub(ready.len());
        let enter = |entry| local.endpoints().enter(&webhook, entry, free, tx.now());
        let is_test = delivery.reference.source == Source::Test;
        let slot = match (is_test, delivery.cause, delivery.order) {
            (true, ..) => None,
            (_, Cause::Manual, _) => enter(Entry::Forced),
            (_, Cause::Replay, _) => enter(Entry::Lane),
            (.., Some(_)) => None,
            (.., None) => enter(Entry::Common),
        };
        if is_test || slot.is_some() {
            ready.push(Ready { delivery, webhook, slot });
        } else if let Some(extra) = delivery.extra_id {
            put_off.push(extra);
        } else {
            blocked.push(delivery.id);
            *counts.entry((delivery.webhook_id, delivery.workspace_id)).or_default() += 1;
        }
    }
    lane::enter(tx, &blocked).await?;
    extra_attempt::put_off(tx, &put_off).await?;
    for ((webhook, workspace), count) in counts {
        tx.note_lane(webhook, workspace);
        if is_full || count >= MANY_BLOCKED {
            lane::move_due(tx, webhook, MAX_MOVED).await?;
        }
    }
    Ok(ready)
}

/// Gives a lease up whose request's turn hasn't come.
pub(super) async fn give_way(store: &Store, job: Job) {
    let delivery = &job.delivery;
    let written = store
        .write("give_way", |tx| async move {
            if let Some(extra) = delivery.extra_id {
                return extra_attempt::put_off(&tx, &[extra]).await;
            }
            lane::enter(&tx, &[delivery.id]).await?;
            tx.note_lane(delivery.webhook_id, delivery.workspace_id);
            Ok(())
        })
        .await;
    if let Err(error) = written {
        tracing::debug!(error = chain(&error), "a lease can't be given up yet");
        tokio::time::sleep(PAUSE_AFTER_ERROR).await;
        // First it must be known no more.
        drop(job);
        // Whoever looks for leases that nobody knows of will find it.
        store.local().lost_commit();
    }
}

/// The webhook went without its deliveries, as those of a workspace that was deleted.
pub(super) async fn end_orphan(tx: &Tx, delivery: &LeasedDelivery) -> Result<()> {
    if let Some(extra) = delivery.extra_id {
        extra_attempt::delete(tx, extra).await?;
    }
    end::end(tx, delivery.workspace_id, Which::Delivery(delivery.id), State::Cancelled, Reason::WebhookDeleted).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_beside_the_schedule_have_an_eighth_of_the_claims() {
        for unit in [-1.0, 0.0, 0.99, 1.0] {
            assert!((32..=33).contains(&extra_share(256, unit)), "{unit}");
        }
        assert_eq!([-1.0, 0.7, 0.75, 1.0].map(|unit| extra_share(1, unit)), [0, 0, 1, 1]);
        assert_eq!(extra_share(8, -1.0), 1);
    }
}
