//! What a tag sets off.
//!
//! Who is who:
//! - [`assign()`]: the only way in which a tag reaches a contact. It takes a slice: one call and a batch are the same.
//! - [`fire()`]: what triggers become: cooldown, decision, deliveries. Every source goes through it.
//! - [`guard`]: the conditions of webhooks.
//! - [`defer`]: deferred triggers whose window has ended.
//! - [`unassign()`]: the only way in which a tag is taken off a contact, but for the deletion of either.
//! - [`record()`]: what happens to contacts.
//! - [`react`]: what smart tags make of what happens, and what follows from that, up to a depth.
//! - [`campaign`]: how contacts enter campaigns, and what is done with them there.
//! - [`GroupCommit`]: merges what concurrent callers wish for into one transaction, without a timer: a batch is what queued
//!   while the last one was committed. [`Shared`] is what it can do so: assign tags, record events.

mod assign;
pub mod campaign;
pub mod defer;
mod fire;
mod group;
mod guard;
mod happen;
mod react;
mod recording;
mod share;
mod unassign;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use assign::{assign, refuse_other_kind};
pub use fire::{CampaignStep, TagMark, Trigger, fire};
pub use group::GroupCommit;
pub use happen::{Change, EndedDelivery, Happening, changed, ended, record, trigger};
pub use recording::{Recorded, Recording};
pub use share::{Shared, run_each};
pub use unassign::unassign;

use crate::domain::delivery::{Decision, Reason};
use crate::domain::tag::{TagKind, TagRef};
use crate::domain::time::Micros;
use crate::domain::trigger_data::TriggerData;
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
    /// The values of the call and the event that lie behind it; `None` if there are none.
    pub data: Option<Arc<TriggerData>>,
}

/// Tags to assign to a contact. One assignment makes at most one trigger for each webhook.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// Whose contact and tags.
    pub workspace_id: WorkspaceId,
    /// Who is tagged.
    pub contact: ContactRef,
    /// The tags, in the caller's order; one that is named twice counts once.
    pub tags: Vec<TagRef>,
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
    /// The tags in the order of the assignment, then those that followed from them.
    pub tags: Vec<AssignedTag>,
    /// The tags that effects took off the contact.
    #[serde(default)]
    pub removed: Vec<TagId>,
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
    /// The named tag whose effects assigned it; `None` for a named one.
    #[serde(default)]
    pub effect_of: Option<TagId>,
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
