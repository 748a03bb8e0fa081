//! A replay: deliveries that are sent again, and the pace at which.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::coded::coded;
use super::delivery::{Source, State};
use super::time::Micros;
use crate::ids::{ContactId, ReplayId, WebhookEventId, WebhookId, WorkspaceId};

/// The attempts per second if nothing else is said.
pub const DEFAULT_RATE: u32 = 50;
/// The states that can be sent again.
pub const STATES: [State; 3] = [State::Delivered, State::Exhausted, State::Cancelled];
/// The states that are sent again if nothing else is said.
pub const DEFAULT_STATES: [State; 1] = [State::Exhausted];
/// The replays of a workspace that aren't finished.
pub const MAX_UNFINISHED: u64 = 10;
/// What a rate can't be saved up beyond: a second's worth.
const BURST: Duration = Duration::from_secs(1);
/// The steps that are made in a second where the rate allows it.
const STEPS_PER_SECOND: u32 = 5;

coded! {
    /// Where a replay stands.
    pub enum ReplayState {
        /// Not begun.
        Pending = 1, "PENDING";
        /// Selecting, sending, or waiting for a webhook to be resumed.
        Running = 2, "RUNNING";
        /// Every attempt has ended.
        Completed = 3, "COMPLETED";
        /// Ended by a caller.
        Cancelled = 4, "CANCELLED";
    }
}

impl ReplayState {
    /// Whether nothing more is begun.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled)
    }
}

/// Selects deliveries for which all conditions hold; an empty list holds for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayFilter {
    /// Deliveries of these webhooks.
    pub webhook_ids: Vec<WebhookId>,
    /// Deliveries of these contacts.
    pub contact_ids: Vec<ContactId>,
    /// Deliveries in one of these states: some of [`STATES`]; none for [`DEFAULT_STATES`].
    pub states: Vec<State>,
    /// Deliveries set off so; none for any but tests.
    pub sources: Vec<Source>,
    /// Deliveries recorded then or later.
    pub created_after: Option<Micros>,
    /// Deliveries recorded before.
    pub created_before: Option<Micros>,
}

/// What a replay looks at of a delivery.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its webhook.
    pub webhook_id: WebhookId,
    /// Its request definition.
    pub webhook_event_id: WebhookEventId,
    /// Its contact.
    pub contact_id: ContactId,
    /// What set it off.
    pub source: Source,
    /// Its state.
    pub state: State,
    /// When it was recorded.
    pub created: Micros,
    /// When it became final.
    pub finished: Option<Micros>,
}

impl ReplayFilter {
    /// Whether a delivery belongs to a replay created at `at`: only those do that were final by then.
    #[must_use]
    pub fn selects(&self, delivery: &Candidate, at: Micros) -> bool {
        let states: &[State] = if self.states.is_empty() { &DEFAULT_STATES } else { &self.states };
        let is_of = |wanted: bool, is_any: bool| wanted || is_any;
        delivery.finished.is_some_and(|finished| finished <= at)
            && states.contains(&delivery.state)
            && is_of(self.webhook_ids.contains(&delivery.webhook_id), self.webhook_ids.is_empty())
            && is_of(self.contact_ids.contains(&delivery.contact_id), self.contact_ids.is_empty())
            && is_of(
                self.sources.contains(&delivery.source),
                self.sources.is_empty() && delivery.source != Source::Test,
            )
            && self.created_after.is_none_or(|time| delivery.created >= time)
            && self.created_before.is_none_or(|time| delivery.created < time)
    }
}

/// A replay as callers see it.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Its id.
    pub id: ReplayId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// What it selects.
    pub filter: ReplayFilter,
    /// Attempts per second: 1 to 1,000.
    pub rate: u32,
    /// Where it stands.
    pub state: ReplayState,
    /// How far it has come.
    pub counts: ReplayCounts,
    /// When it was created.
    pub created: Micros,
    /// When it was completed or cancelled.
    pub finished: Option<Micros>,
}

/// How far a replay has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayCounts {
    /// Deliveries selected so far.
    pub matched: i64,
    /// Those that can't be sent any more.
    pub skipped: i64,
    /// Attempts created for the others.
    pub attempts: i64,
    /// Those that the endpoint accepted.
    pub delivered: i64,
    /// Those that failed.
    pub failed: i64,
    /// Those that were dropped before they were made.
    pub cancelled: i64,
}

impl ReplayCounts {
    /// The attempts that are owed still.
    #[must_use]
    pub const fn pending(&self) -> i64 {
        self.attempts - self.delivered - self.failed - self.cancelled
    }
}

/// The pace of a replay: each attempt pays its share of a second, and what wasn't used can't be saved up beyond one.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    rate: u32,
    paid: Micros,
}

impl Pace {
    /// The pace at a rate, paid up to a time.
    #[must_use]
    pub const fn new(rate: u32, paid: Micros) -> Self {
        Self { rate: if rate == 0 { 1 } else { rate }, paid }
    }

    /// The pace of a replay that begins now: with one step.
    #[must_use]
    pub fn begin(rate: u32, now: Micros) -> Self {
        let pace = Self::new(rate, now);
        Self { paid: now.saturating_sub(pace.cost(pace.step())), ..pace }
    }

    /// Up to when it is paid.
    #[must_use]
    pub const fn paid(&self) -> Micros {
        self.paid
    }

    /// How many attempts may be begun now.
    #[must_use]
    pub fn budget(&self, now: Micros) -> u32 {
        let saved = now.saturating_since(self.paid).min(BURST);
        u32::try_from(saved.as_micros() * u128::from(self.rate) / 1_000_000).unwrap_or(u32::MAX)
    }

    /// Pays for attempts that are begun now.
    #[must_use]
    pub fn pay(&self, attempts: u32, now: Micros) -> Self {
        let from = self.paid.max(now.saturating_sub(BURST));
        Self { paid: from.saturating_add(self.cost(attempts)), ..*self }
    }

    /// When a step's worth may be begun.
    #[must_use]
    pub fn next(&self) -> Micros {
        self.paid.saturating_add(self.cost(self.step()))
    }

    /// The attempts of one step.
    #[must_use]
    pub fn step(&self) -> u32 {
        (self.rate / STEPS_PER_SECOND).max(1)
    }

    /// Rounded up, so that the rate is never exceeded.
    fn cost(&self, attempts: u32) -> Duration {
        Duration::from_micros((u64::from(attempts) * 1_000_000).div_ceil(u64::from(self.rate)))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const NOW: Micros = Micros(1_800_000_000_000_000);

    fn candidate() -> Candidate {
        Candidate {
            webhook_id: WebhookId(Uuid::from_u128(1)),
            webhook_event_id: WebhookEventId(Uuid::from_u128(2)),
            contact_id: ContactId(Uuid::from_u128(3)),
            source: Source::Tag,
            state: State::Exhausted,
            created: NOW,
            finished: Some(NOW),
        }
    }

    #[track_caller]
    fn check(filter: &ReplayFilter, change: impl FnOnce(&mut Candidate), expected: bool) {
        let mut delivery = candidate();
        change(&mut delivery);
        assert_eq!(filter.selects(&delivery, NOW), expected, "{filter:?} {delivery:?}");
    }

    #[test]
    fn selects_what_all_conditions_hold_for() {
        let any = ReplayFilter::default();
        check(&any, |_| {}, true);
        check(&any, |it| it.finished = Some(Micros(NOW.0 + 1)), false);
        check(&any, |it| it.finished = None, false);
        check(&any, |it| it.state = State::Delivered, false);
        check(&any, |it| it.source = Source::Test, false);
        let tests = ReplayFilter { sources: vec![Source::Test], ..any.clone() };
        check(&tests, |it| it.source = Source::Test, true);
        check(&tests, |_| {}, false);
        let delivered = ReplayFilter { states: vec![State::Delivered, State::Cancelled], ..any.clone() };
        check(&delivered, |_| {}, false);
        check(&delivered, |it| it.state = State::Delivered, true);
        let webhook = ReplayFilter { webhook_ids: vec![WebhookId(Uuid::from_u128(1))], ..any.clone() };
        check(&webhook, |_| {}, true);
        check(&webhook, |it| it.webhook_id = WebhookId(Uuid::from_u128(9)), false);
        let contact = ReplayFilter { contact_ids: vec![ContactId(Uuid::from_u128(3))], ..any.clone() };
        check(&contact, |_| {}, true);
        check(&contact, |it| it.contact_id = ContactId(Uuid::from_u128(9)), false);
        let window = ReplayFilter { created_after: Some(NOW), created_before: Some(Micros(NOW.0 + 5)), ..any };
        check(&window, |_| {}, true);
        check(&window, |it| it.created = Micros(NOW.0 - 1), false);
        check(&window, |it| it.created = Micros(NOW.0 + 5), false);
    }

    #[track_caller]
    fn check_pace(rate: u32, looks_us: &[i64], budgets: &[u32]) {
        let mut pace = Pace::begin(rate, NOW);
        let mut taken = Vec::new();
        for look in looks_us {
            let now = Micros(NOW.0 + look);
            let budget = pace.budget(now);
            taken.push(budget);
            if budget > 0 {
                pace = pace.pay(budget, now);
            }
        }
        assert_eq!(taken, budgets, "at {rate} per second");
    }

    #[test]
    fn the_pace_holds_and_saves_up_a_second_at_most() {
        check_pace(50, &[0, 100_000, 200_000, 300_000], &[10, 5, 5, 5]);
        check_pace(1, &[0, 999_999, 1_000_000, 1_500_000, 2_000_000], &[1, 0, 1, 0, 1]);
        check_pace(1_000, &[0, 1, 1_000_000, 60_000_000, 60_000_000], &[200, 0, 1_000, 1_000, 0]);
        // A third of a second is no whole number of microseconds.
        check_pace(3, &[0, 333_333, 333_334, 1_000_002], &[1, 0, 1, 2]);
    }

    #[test]
    fn the_next_step_is_when_there_is_a_budget_for_it() {
        for rate in [1, 3, 7, 50, 999, 1_000] {
            let pace = Pace::begin(rate, NOW).pay(Pace::new(rate, NOW).step(), NOW);
            assert_eq!(pace.paid(), NOW, "{rate}");
            assert_eq!(pace.budget(pace.next()), pace.step(), "{rate}");
            assert!(pace.next() > NOW);
        }
    }
}
