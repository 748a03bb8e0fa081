//! A delivery: one request owed, its states, and the attempts made for it.

use std::time::Duration;

use super::coded::coded;
use super::request::Snapshot;
use super::retry::ErrorClass;
use super::time::Micros;
use crate::ids::{ContactId, DeliveryId, TagId, WebhookEventId, WebhookId, WorkspaceId};

/// The longest chain of causes inside the system; what lies deeper is a loop and isn't followed.
pub const MAX_CAUSATION_DEPTH: i16 = 8;

coded! {
    /// What sets a delivery off.
    pub enum Source {
        /// A tag was assigned; the only source that the cooldown applies to.
        Tag = 1, "TAG";
        /// A campaign action.
        Campaign = 2, "CAMPAIGN";
        /// The contact was deleted.
        ContactDeleted = 3, "CONTACT_DELETED";
        /// A caller asked for it.
        Api = 4, "API";
        /// A caller tried the webhook out.
        Test = 5, "TEST";
    }
}

coded! {
    /// Where a delivery stands, as the database keeps it. SENDING isn't kept: it is WAITING with a lease.
    pub enum State {
        /// Waits, without values, for the end of the cooldown.
        Deferred = 1, "DEFERRED";
        /// Due at its next attempt.
        Waiting = 2, "WAITING";
        /// Leased: an attempt is in flight.
        Sending = 3, "SENDING";
        /// The endpoint accepted it.
        Delivered = 4, "DELIVERED";
        /// Given up.
        Exhausted = 5, "EXHAUSTED";
        /// Within the cooldown, never sent.
        Suppressed = 6, "SUPPRESSED";
        /// The webhook was paused or disabled, or its condition wasn't met; never sent.
        Skipped = 7, "SKIPPED";
        /// Ended before it was delivered.
        Cancelled = 8, "CANCELLED";
    }
}

impl State {
    /// Whether nothing more happens by itself.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Deferred | Self::Waiting | Self::Sending)
    }
}

coded! {
    /// Why a delivery is in its state, or a trigger was decided so.
    pub enum Reason {
        /// No reason is needed.
        None = 0, "UNSPECIFIED";
        /// An earlier trigger uses the window.
        Cooldown = 1, "COOLDOWN";
        /// People paused the webhook.
        WebhookPaused = 2, "WEBHOOK_PAUSED";
        /// The system disabled the webhook.
        WebhookDisabled = 3, "WEBHOOK_DISABLED";
        /// The contact held the tag already.
        AlreadyAssigned = 4, "ALREADY_ASSIGNED";
        /// The webhook was deleted.
        WebhookDeleted = 5, "WEBHOOK_DELETED";
        /// The webhook event was removed.
        WebhookEventRemoved = 6, "WEBHOOK_EVENT_REMOVED";
        /// The contact was deleted.
        ContactDeleted = 7, "CONTACT_DELETED";
        /// A caller cancelled it.
        CancelledByCaller = 8, "CANCELLED_BY_CALLER";
        /// Every attempt failed.
        ScheduleExhausted = 9, "SCHEDULE_EXHAUSTED";
        /// A placeholder has no value.
        Template = 10, "TEMPLATE";
        /// The rendered URL is too long.
        RequestTooLarge = 11, "REQUEST_TOO_LARGE";
        /// A value would make a dot segment.
        UnsafePath = 12, "UNSAFE_PATH";
        /// The endpoint answered 410.
        Gone = 13, "GONE";
        /// Five days without a success.
        Failing = 14, "FAILING";
        /// Held until retention.
        Retention = 15, "RETENTION";
        /// The chain of causes is too long.
        CausationDepth = 16, "CAUSATION_DEPTH";
        /// The request can't be built.
        RequestInvalid = 17, "REQUEST_INVALID";
        /// The webhook's condition isn't met.
        ConditionNotMet = 18, "CONDITION_NOT_MET";
        /// The webhook's condition can't be evaluated for the trigger.
        ConditionFailed = 19, "CONDITION_FAILED";
    }
}

coded! {
    /// What becomes of a trigger.
    pub enum Decision {
        /// Sent at once.
        Scheduled = 1, "SCHEDULED";
        /// Sent at the end of the cooldown.
        Deferred = 2, "DEFERRED";
        /// Recorded, never sent.
        Suppressed = 3, "SUPPRESSED";
        /// The webhook takes no trigger now.
        Skipped = 4, "SKIPPED";
    }
}

coded! {
    /// Why an attempt is made.
    pub enum Cause {
        /// The schedule.
        Scheduled = 1, "SCHEDULED";
        /// RetryDelivery.
        Manual = 2, "MANUAL";
        /// A replay.
        Replay = 3, "REPLAY";
    }
}

/// A delivery as callers see it.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its id, the `webhook-id` header.
    pub id: DeliveryId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Its webhook.
    pub webhook_id: WebhookId,
    /// Its request definition.
    pub webhook_event_id: WebhookEventId,
    /// Its contact.
    pub contact_id: ContactId,
    /// What set it off.
    pub source: Source,
    /// Where it stands; [`State::Sending`] while it is leased.
    pub state: State,
    /// Why it is in its state.
    pub reason: Reason,
    /// The tags that set it off.
    pub tag_ids: Vec<TagId>,
    /// When the trigger was made.
    pub trigger_time: Micros,
    /// When the next attempt is due; `None` when final.
    pub due: Option<Micros>,
    /// The values to send; `None` when there are none or when they were erased.
    pub snapshot: Option<Snapshot>,
    /// Whether the contact's data was erased.
    pub erased: bool,
    /// How many attempts were made.
    pub attempt_count: u32,
    /// How many later triggers a deferral took in.
    pub coalesced_count: u32,
    /// How many causes inside the system lie before it.
    pub causation_depth: i16,
    /// When it was recorded.
    pub created: Micros,
    /// When it became final.
    pub finished: Option<Micros>,
}

/// One HTTP try of a delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Counts the attempts of the delivery from 1.
    pub number: u32,
    /// Why it was made.
    pub cause: Cause,
    /// When it began.
    pub started: Micros,
    /// How long it took.
    pub duration: Duration,
    /// The URL that was called; empty when it couldn't be rendered.
    pub url: String,
    /// The response's status; `None` when there was none.
    pub status_code: Option<u16>,
    /// The first 16 KiB of the response's body.
    pub response_body: Vec<u8>,
    /// Whether there was more.
    pub response_truncated: bool,
    /// The `location` header.
    pub response_location: String,
    /// What the response asked for, capped.
    pub retry_after: Option<Duration>,
    /// What went wrong; `None` on success.
    pub error_class: Option<ErrorClass>,
    /// What went wrong, for people.
    pub error_detail: String,
    /// Whether the delivery had been leased to another server meanwhile.
    pub lease_lost: bool,
}
