//! The newest outcomes in memory: one reader fills the ring, all watchers read it.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use crate::domain::outcome::{Outcome, Position};
use crate::ids::ContactId;
use crate::store::wake::Erasures;

/// How many outcomes are kept.
const CAPACITY: usize = 8_192;

/// An outcome with its position.
pub(super) type Entry = (Position, Arc<Outcome>);

/// The newest outcomes of all workspaces, without a gap between `floor` and `head`.
pub(super) struct Ring(RwLock<Inner>);

struct Inner {
    entries: VecDeque<Entry>,
    /// All outcomes after this position, up to `head`, are in the ring.
    floor: Position,
    head: Position,
}

/// What a watcher finds after its position.
pub(super) enum Found {
    /// The entries, some at most, and the position that is covered by them.
    Entries(Vec<Entry>, Position),
    /// The position is older than the ring: read the database. All up to this head can be read there.
    TooOld(Position),
}

impl Ring {
    pub(super) fn new(start: Position) -> Self {
        Self(RwLock::new(Inner { entries: VecDeque::new(), floor: start, head: start }))
    }

    pub(super) fn head(&self) -> Position {
        self.0.read().unwrap_or_else(PoisonError::into_inner).head
    }

    /// Empties the ring: what comes next follows `start`.
    pub(super) fn restart(&self, start: Position) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *inner = Inner { entries: VecDeque::new(), floor: start, head: start };
    }

    /// Appends what follows the head.
    pub(super) fn extend(&self, outcomes: Vec<(Position, Outcome)>) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (position, outcome) in outcomes {
            inner.head = position;
            inner.entries.push_back((position, Arc::new(outcome)));
        }
        while inner.entries.len() > CAPACITY {
            if let Some((position, _)) = inner.entries.pop_front() {
                inner.floor = position;
            }
        }
    }

    /// Erases what attempts show of contacts that were deleted, as the database has done.
    pub(super) fn erase(&self, erasures: &Erasures) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match erasures {
            Erasures::Of(contacts) if contacts.is_empty() => {}
            Erasures::Of(contacts) => inner.entries.iter_mut().for_each(|(_, outcome)| erase_of(outcome, contacts)),
            // Watchers that aren't at the head read the database.
            Erasures::Any => {
                inner.entries.clear();
                inner.floor = inner.head;
            }
        }
    }

    /// Up to `limit` entries after a position.
    pub(super) fn after(&self, position: Position, limit: usize) -> Found {
        let inner = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if position < inner.floor {
            return Found::TooOld(inner.head);
        }
        let start = inner.entries.partition_point(|(entry, _)| *entry <= position);
        let entries: Vec<Entry> = inner.entries.range(start..).take(limit).cloned().collect();
        let covered =
            if entries.len() < limit { inner.head } else { entries.last().map_or(position, |(last, _)| *last) };
        Found::Entries(entries, covered.max(position))
    }
}

fn erase_of(outcome: &mut Arc<Outcome>, contacts: &[ContactId]) {
    let is_meant = outcome.delivery.as_ref().is_some_and(|delivery| contacts.contains(&delivery.contact_id));
    if is_meant && let Some(attempt) = &mut Arc::make_mut(outcome).attempt {
        attempt.url.clear();
        attempt.response_body.clear();
        attempt.response_location.clear();
        attempt.error_detail.clear();
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::delivery::Reason;
    use crate::domain::outcome::Kind;
    use crate::domain::time::Micros;
    use crate::ids::{WebhookId, WorkspaceId};

    fn outcomes(positions: impl IntoIterator<Item = i64>) -> Vec<(Position, Outcome)> {
        let outcome = Outcome {
            workspace_id: WorkspaceId(Uuid::nil()),
            kind: Kind::Delivered,
            reason: Reason::None,
            recorded: Micros(0),
            webhook_id: WebhookId(Uuid::nil()),
            delivery: None,
            attempt: None,
            next_attempt: None,
        };
        positions.into_iter().map(|position| (Position(position), outcome.clone())).collect()
    }

    #[track_caller]
    fn check(ring: &Ring, after: i64, limit: usize, expected: Option<(&[i64], i64)>) {
        let found = match ring.after(Position(after), limit) {
            Found::TooOld(_) => None,
            Found::Entries(entries, covered) => {
                Some((entries.iter().map(|(position, _)| position.0).collect(), covered.0))
            }
        };
        assert_eq!(found, expected.map(|(positions, covered): (&[i64], i64)| (positions.to_vec(), covered)));
    }

    #[test]
    fn a_watcher_reads_on_from_its_position() {
        let ring = Ring::new(Position(10));
        check(&ring, 9, 5, None);
        check(&ring, 10, 5, Some((&[], 10)));
        // A cursor of a server that has read further.
        check(&ring, 99, 5, Some((&[], 99)));
        ring.extend(outcomes([12, 13, 20]));
        check(&ring, 10, 5, Some((&[12, 13, 20], 20)));
        check(&ring, 12, 1, Some((&[13], 13)));
        check(&ring, 19, 5, Some((&[20], 20)));
        check(&ring, 20, 5, Some((&[], 20)));
    }

    #[test]
    fn what_leaves_the_ring_is_read_from_the_database() {
        let ring = Ring::new(Position(0));
        let capacity = i64::try_from(CAPACITY).unwrap();
        ring.extend(outcomes(1..=capacity + 2));
        check(&ring, 1, 1, None);
        check(&ring, 2, 1, Some((&[3], 3)));
        assert_eq!(ring.head(), Position(capacity + 2));
    }

    #[test]
    fn a_ring_that_starts_anew_knows_nothing_from_before() {
        let ring = Ring::new(Position(0));
        ring.extend(outcomes([1, 2]));
        ring.restart(Position(7));
        check(&ring, 2, 5, None);
        check(&ring, 7, 5, Some((&[], 7)));
        ring.extend(outcomes([8]));
        check(&ring, 7, 5, Some((&[8], 8)));
    }

    #[test]
    fn a_ring_that_may_hold_erased_data_is_emptied() {
        let ring = Ring::new(Position(0));
        ring.extend(outcomes([1, 2]));
        ring.erase(&Erasures::Of(vec![ContactId(Uuid::nil())]));
        check(&ring, 0, 5, Some((&[1, 2], 2)));
        ring.erase(&Erasures::Any);
        check(&ring, 1, 5, None);
        check(&ring, 2, 5, Some((&[], 2)));
        ring.extend(outcomes([3]));
        check(&ring, 2, 5, Some((&[3], 3)));
    }
}
