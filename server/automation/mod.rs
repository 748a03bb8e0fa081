//! What a tag sets off.
//!
//! Who is who:
//! - [`assign()`]: the only way in which a tag reaches a contact. It takes a slice: one call and a batch are the same.
//! - [`fire()`]: what triggers become: cooldown, decision, deliveries. Every source goes through it.
//! - [`defer`]: deferred triggers whose window has ended.
//! - [`unassign()`]: the only way in which a tag is taken off a contact, but for the deletion of either.
//! - [`record()`]: what happens to contacts.
//! - [`Assigner`]: group commit. It merges the assignments of concurrent callers into one transaction, without a timer: a
//!   batch is what queued while the last one was committed.

mod assign;
mod assigner;
mod batch;
pub mod defer;
mod fire;
mod happen;
mod unassign;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use assign::assign;
pub use assigner::Assigner;
pub use batch::assign_each;
pub use fire::{TagMark, Trigger, fire};
pub use happen::{Happening, record};
pub use unassign::unassign;

use crate::domain::delivery::{Decision, Reason};
use crate::domain::tag::TagKind;
use crate::domain::time::Micros;
use crate::ids::{ContactId, DeliveryId, TagId, WebhookId, WorkspaceId};
use crate::store::contact::ContactRef;

/// Where a trigger comes from. The default is a caller's own call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// How many causes inside the system lie before it.
    pub depth: i16,
    /// The last of them.
    pub cause_id: Option<Uuid>,
    /// The trace that it belongs to, as W3C `traceparent`.
    pub traceparent: Option<String>,
}

/// Tags to assign to a contact. One assignment makes at most one trigger for each webhook.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// Whose contact and tags.
    pub workspace_id: WorkspaceId,
    /// Who is tagged.
    pub contact: ContactRef,
    /// Distinct tags, in the caller's order.
    pub tag_ids: Vec<TagId>,
    /// The kind that all of them must be of, which is who assigns them: callers and campaigns assign manual tags, and the
    /// system the others.
    pub kind: TagKind,
    /// Where it comes from.
    pub origin: Origin,
}

/// What an assignment did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// Who was tagged.
    pub contact_id: ContactId,
    /// The tags in the order of the assignment.
    pub tags: Vec<AssignedTag>,
    /// One decision for each webhook that was touched, in the order of their ids.
    pub triggers: Vec<TriggerDecision>,
}

/// A tag that was assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedTag {
    /// The tag.
    pub tag_id: TagId,
    /// Whether the contact didn't hold it before.
    pub is_new: bool,
    /// Since when it holds it.
    pub since: Micros,
}

/// What became of a trigger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerDecision {
    /// The webhook.
    pub webhook_id: WebhookId,
    /// What becomes of it.
    pub decision: Decision,
    /// Why.
    pub reason: Reason,
    /// The tags that activated the webhook.
    pub activation_tag_ids: Vec<TagId>,
    /// The deliveries, one for each webhook event.
    pub delivery_ids: Vec<DeliveryId>,
}
