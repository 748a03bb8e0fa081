//! Tags.

use super::coded::coded;
use super::effect::Effects;
use super::labels::Labels;
use super::rule::Rule;
use super::time::Micros;
use crate::ids::TagId;

coded! {
    /// Who assigns a tag.
    pub enum TagKind {
        /// Callers, and campaigns in their place.
        Manual = 1, "MANUAL";
        /// The system, when an event matches the tag's rule.
        Smart = 2, "SMART";
        /// The system, when the contact clicks the tag's link.
        SmartLink = 3, "SMART_LINK";
    }
}

/// Says which tag is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TagRef {
    /// By its id.
    Id(TagId),
    /// By its name, compared byte for byte.
    Name(String),
}

impl From<TagId> for TagRef {
    fn from(id: TagId) -> Self {
        Self::Id(id)
    }
}

/// A label on contacts.
#[derive(Clone, Debug, PartialEq)]
pub struct Tag {
    /// Its id.
    pub id: TagId,
    /// Its name, unique in the workspace.
    pub name: String,
    /// Who assigns it.
    pub kind: TagKind,
    /// For people.
    pub description: String,
    /// The caller's own marks of it.
    pub labels: Labels,
    /// What assigning a manual tag also does.
    pub effects: Effects,
    /// Which events assign a smart tag.
    pub rule: Option<Rule>,
    /// Raised by each change; the etag.
    pub version: i64,
    /// When it was created.
    pub created: Micros,
    /// When it was last changed.
    pub updated: Micros,
}
