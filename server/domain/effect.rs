//! What assigning a manual tag also does: it assigns and removes further tags, whose own effects follow.

use std::collections::{HashMap, HashSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::ids::TagId;

/// The most tags that one tag may assign and remove, with all that follows.
pub const MAX_REACH: usize = 100;

/// What assigning a tag also does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effects {
    /// Tags to assign.
    pub assign: Vec<TagId>,
    /// Tags to remove.
    pub remove: Vec<TagId>,
}

impl Effects {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.assign.is_empty() && self.remove.is_empty()
    }

    /// Whether a tag is assigned or removed.
    #[must_use]
    pub fn names(&self, tag: TagId) -> bool {
        self.assign.contains(&tag) || self.remove.contains(&tag)
    }

    /// Drops a tag.
    pub fn forget(&mut self, tag: TagId) {
        self.assign.retain(|id| *id != tag);
        self.remove.retain(|id| *id != tag);
    }
}

/// All that follows from assigning a tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The tags that are assigned after it, the nearest first.
    pub assign: Vec<TagId>,
    /// The tags that are removed then.
    pub remove: Vec<TagId>,
}

/// Why tags can't have their effects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EffectsError {
    /// Tags assign each other.
    #[error("tags would assign each other in a circle: {}", way(.0))]
    Circle(Vec<TagId>),
    /// A tag both comes and goes.
    #[error("assigning {of} would both assign and remove {tag}")]
    Contradiction {
        /// The tag that is assigned.
        of: TagId,
        /// The one of which it isn't clear what follows.
        tag: TagId,
    },
    /// Too much follows.
    #[error("assigning {0} would assign or remove more than {MAX_REACH} tags")]
    TooFar(TagId),
}

/// What follows from assigning each of the tags with effects.
///
/// # Errors
///
/// See [`EffectsError`]; of several, the first by the tags' ids.
pub fn reaches(effects: &HashMap<TagId, Effects>) -> Result<HashMap<TagId, Reach>, EffectsError> {
    let mut tags: Vec<TagId> = effects.keys().copied().collect();
    tags.sort_unstable();
    tags.into_iter().map(|tag| Ok((tag, reach(tag, effects)?))).collect()
}

fn reach(root: TagId, effects: &HashMap<TagId, Effects>) -> Result<Reach, EffectsError> {
    let mut reach = Reach::default();
    // By which tag each one was reached first.
    let mut reached_by: HashMap<TagId, TagId> = HashMap::new();
    let mut removed = HashSet::new();
    let mut open = VecDeque::from([root]);
    while let Some(tag) = open.pop_front() {
        let Some(effects) = effects.get(&tag) else { continue };
        for next in &effects.assign {
            if *next == root {
                return Err(EffectsError::Circle(circle(root, tag, &reached_by)));
            }
            if reached_by.contains_key(next) {
                continue;
            }
            reached_by.insert(*next, tag);
            reach.assign.push(*next);
            open.push_back(*next);
        }
        reach.remove.extend(effects.remove.iter().filter(|tag| removed.insert(**tag)));
        if reach.assign.len() + reach.remove.len() > MAX_REACH {
            return Err(EffectsError::TooFar(root));
        }
    }
    let is_assigned = |tag: &&TagId| **tag == root || reached_by.contains_key(tag);
    match reach.remove.iter().find(is_assigned) {
        Some(tag) => Err(EffectsError::Contradiction { of: root, tag: *tag }),
        None => Ok(reach),
    }
}

/// The way from the root to `last` and back.
fn circle(root: TagId, last: TagId, reached_by: &HashMap<TagId, TagId>) -> Vec<TagId> {
    let mut way = vec![root];
    let mut tag = last;
    while tag != root {
        way.push(tag);
        tag = reached_by.get(&tag).copied().unwrap_or(root);
    }
    way.push(root);
    way.reverse();
    way
}

fn way(tags: &[TagId]) -> String {
    tags.iter().map(ToString::to_string).collect::<Vec<_>>().join(" -> ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn tag(number: u128) -> TagId {
        TagId(Uuid::from_u128(number))
    }

    fn tags(numbers: &[u128]) -> Vec<TagId> {
        numbers.iter().map(|number| tag(*number)).collect()
    }

    /// Tags with what they assign and remove.
    fn graph(edges: &[(u128, &[u128], &[u128])]) -> HashMap<TagId, Effects> {
        let effects = |assign, remove| Effects { assign: tags(assign), remove: tags(remove) };
        edges.iter().map(|(of, assign, remove)| (tag(*of), effects(assign, remove))).collect()
    }

    #[track_caller]
    fn check(edges: &[(u128, &[u128], &[u128])], of: u128, assign: &[u128], remove: &[u128]) {
        let reaches = reaches(&graph(edges)).unwrap();
        assert_eq!(reaches.get(&tag(of)), Some(&Reach { assign: tags(assign), remove: tags(remove) }));
    }

    #[track_caller]
    fn check_refused(edges: &[(u128, &[u128], &[u128])], expected: &EffectsError) {
        assert_eq!(reaches(&graph(edges)).as_ref(), Err(expected));
    }

    #[test]
    fn what_follows_is_reached_once_and_the_nearest_first() {
        check(&[(1, &[2], &[])], 1, &[2], &[]);
        check(&[(1, &[3, 2], &[9]), (3, &[4], &[8]), (2, &[4], &[9])], 1, &[3, 2, 4], &[9, 8]);
        check(&[(1, &[2], &[]), (2, &[3], &[7])], 2, &[3], &[7]);
        // Tags that exclude each other are no circle.
        check(&[(1, &[], &[2, 3]), (2, &[], &[1, 3]), (3, &[], &[1, 2])], 2, &[], &[1, 3]);
    }

    #[test]
    fn circles_contradictions_and_floods_are_refused() {
        check_refused(&[(1, &[1], &[])], &EffectsError::Circle(tags(&[1, 1])));
        check_refused(&[(1, &[2], &[]), (2, &[5, 3], &[]), (3, &[1], &[])], &EffectsError::Circle(tags(&[1, 2, 3, 1])));
        check_refused(&[(1, &[], &[1])], &EffectsError::Contradiction { of: tag(1), tag: tag(1) });
        check_refused(&[(1, &[2], &[]), (2, &[], &[1])], &EffectsError::Contradiction { of: tag(1), tag: tag(1) });
        check_refused(&[(1, &[2, 3], &[]), (2, &[], &[3])], &EffectsError::Contradiction { of: tag(1), tag: tag(3) });
        let many: Vec<u128> = (2..=102).collect();
        check_refused(&[(1, &many, &[])], &EffectsError::TooFar(tag(1)));
        check(&[(1, &many[..100], &[])], 1, &many[..100], &[]);
        // A circle that the root isn't part of is found at its own tags.
        check_refused(&[(1, &[2], &[]), (2, &[3], &[]), (3, &[2], &[])], &EffectsError::Circle(tags(&[2, 3, 2])));
    }
}
