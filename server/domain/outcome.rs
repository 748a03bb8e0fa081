//! Outcomes: the records of the log that watchers follow.

use super::coded::coded;
use super::delivery::{Attempt, Reason, Source};
use super::time::Micros;
use crate::ids::{ContactId, DeliveryId, TagId, WebhookEventId, WebhookId, WorkspaceId};

coded! {
    /// What happened.
    pub enum Kind {
        /// The endpoint accepted a request.
        Delivered = 1, "DELIVERED";
        /// An attempt failed and another one follows.
        AttemptFailed = 2, "ATTEMPT_FAILED";
        /// The last attempt failed.
        Exhausted = 3, "EXHAUSTED";
        /// A trigger fell into the cooldown.
        Suppressed = 4, "SUPPRESSED";
        /// A trigger found the webhook paused or disabled.
        Skipped = 5, "SKIPPED";
        /// A trigger waits for the end of the cooldown.
        Deferred = 6, "DEFERRED";
        /// A delivery was ended.
        Cancelled = 7, "CANCELLED";
        /// People paused the webhook.
        WebhookPaused = 8, "WEBHOOK_PAUSED";
        /// The system disabled the webhook.
        WebhookDisabled = 9, "WEBHOOK_DISABLED";
        /// People resumed the webhook.
        WebhookResumed = 10, "WEBHOOK_RESUMED";
    }
}

/// A place in the log. Positions grow in the order of commit; not every number is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub i64);

/// One change that matters to a watcher. The database gives it its position.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// What happened.
    pub kind: Kind,
    /// Why.
    pub reason: Reason,
    /// When it was recorded.
    pub recorded: Micros,
    /// The webhook.
    pub webhook_id: WebhookId,
    /// The delivery; `None` for changes of a webhook.
    pub delivery: Option<DeliveryRef>,
    /// The attempt, if one was made.
    pub attempt: Option<Attempt>,
    /// When the next attempt is due.
    pub next_attempt: Option<Micros>,
}

/// What an outcome says of its delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRef {
    /// The delivery.
    pub id: DeliveryId,
    /// Its request definition.
    pub webhook_event_id: WebhookEventId,
    /// Its contact.
    pub contact_id: ContactId,
    /// What set it off.
    pub source: Source,
    /// The tags that set it off.
    pub tag_ids: Vec<TagId>,
}
