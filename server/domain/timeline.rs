//! What a contact's timeline shows.

use super::campaign::EnrollmentState;
use super::coded::coded;
use super::delivery::{Decision, Reason, Source};
use super::event::Event;
use super::outcome;
use super::retry::ErrorClass;
use super::time::Micros;
use crate::ids::{CampaignId, DeliveryId, EnrollmentId, SmartLinkId, TagId, WebhookId};

coded! {
    /// What an entry of a timeline tells.
    pub enum EntryKind {
        /// A caller recorded an event.
        EventRecorded = 1, "EVENT_RECORDED";
        /// A tag was assigned.
        TagAssigned = 2, "TAG_ASSIGNED";
        /// A tag was removed.
        TagRemoved = 3, "TAG_REMOVED";
        /// The condition of a SmartTag failed for an event.
        TagRuleFailed = 4, "TAG_RULE_FAILED";
        /// A SmartTag was held back.
        TagHeldBack = 5, "TAG_HELD_BACK";
        /// A webhook was triggered.
        WebhookTriggered = 6, "WEBHOOK_TRIGGERED";
        /// An attempt of a delivery was made, or the delivery was ended without one.
        DeliveryOutcome = 7, "DELIVERY_OUTCOME";
        /// The contact entered a campaign.
        CampaignEntered = 8, "CAMPAIGN_ENTERED";
        /// The contact left a campaign.
        CampaignEnded = 9, "CAMPAIGN_ENDED";
        /// A campaign's action came to nothing.
        CampaignStepFailed = 10, "CAMPAIGN_STEP_FAILED";
        /// The contact was held back from a campaign.
        CampaignHeldBack = 11, "CAMPAIGN_HELD_BACK";
        /// The contact was created.
        ContactCreated = 12, "CONTACT_CREATED";
        /// The contact was changed.
        ContactUpdated = 13, "CONTACT_UPDATED";
        /// The contact became unsubscribed.
        ContactUnsubscribed = 14, "CONTACT_UNSUBSCRIBED";
        /// The contact clicked a SmartLink.
        LinkClicked = 15, "LINK_CLICKED";
    }
}

coded! {
    /// Why something automatic was held back.
    pub enum HoldReason {
        /// More than eight automatic causes lie before it.
        CausationDepth = 1, "CAUSATION_DEPTH";
        /// One transaction assigned the contact too many SmartTags.
        TooManyAtOnce = 2, "TOO_MANY_AT_ONCE";
    }
}

impl HoldReason {
    /// The reason with a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == name)
    }
}

/// An entry of a contact's timeline.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it happened.
    pub time: Micros,
    /// What happened.
    pub fact: Fact,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Fact {
    /// A caller recorded an event.
    EventRecorded(Event),
    /// A tag was assigned.
    TagAssigned(TagId),
    /// A tag was removed.
    TagRemoved(TagId),
    /// The condition of a SmartTag failed for an event.
    TagRuleFailed {
        /// The SmartTag.
        tag: TagId,
        /// The event's type.
        event_type: String,
        /// Why, for people.
        error: String,
    },
    /// A SmartTag was held back.
    TagHeldBack {
        /// The SmartTag.
        tag: TagId,
        /// The type of the event that it follows.
        event_type: String,
        /// Why.
        reason: HoldReason,
    },
    /// A webhook was triggered.
    WebhookTriggered(Triggered),
    /// An attempt of a delivery was made, or the delivery was ended without one.
    DeliveryOutcome(DeliveryOutcome),
    /// The contact entered a campaign.
    CampaignEntered {
        /// The campaign.
        campaign: CampaignId,
        /// The contact's enrollment.
        enrollment: EnrollmentId,
    },
    /// The contact left a campaign.
    CampaignEnded(CampaignEnd),
    /// A campaign's action came to nothing.
    CampaignStepFailed(StepFailure),
    /// The contact was held back from a campaign.
    CampaignHeldBack {
        /// The campaign.
        campaign: CampaignId,
        /// Why.
        reason: HoldReason,
    },
    /// The contact was created.
    ContactCreated,
    /// The contact was changed.
    ContactUpdated,
    /// The contact became unsubscribed.
    ContactUnsubscribed,
    /// The contact clicked a SmartLink.
    LinkClicked(SmartLinkId),
}

/// A trigger of a webhook.
#[derive(Clone, Debug)]
pub struct Triggered {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The webhook.
    pub webhook: WebhookId,
    /// What triggered it.
    pub source: Source,
    /// What was decided.
    pub decision: Decision,
    /// Why.
    pub reason: Reason,
}

/// What became of a delivery.
#[derive(Clone, Debug)]
pub struct DeliveryOutcome {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The webhook.
    pub webhook: WebhookId,
    /// What happened.
    pub kind: outcome::Kind,
    /// Why.
    pub reason: Reason,
    /// The attempt's number, from 1; `None` if none was made.
    pub attempt_number: Option<i32>,
    /// The response's status code, if there was a response.
    pub status_code: Option<i32>,
    /// What went wrong.
    pub error_class: Option<ErrorClass>,
}

/// How a contact left a campaign.
#[derive(Clone, Debug)]
pub struct CampaignEnd {
    /// The campaign.
    pub campaign: CampaignId,
    /// The contact's enrollment.
    pub enrollment: EnrollmentId,
    /// How it ended.
    pub state: EnrollmentState,
    /// The key of the last node.
    pub node: String,
    /// Why it was given up, for people; empty if it wasn't.
    pub error: String,
}

/// An action of a campaign that came to nothing.
#[derive(Clone, Debug)]
pub struct StepFailure {
    /// The campaign.
    pub campaign: CampaignId,
    /// The contact's enrollment.
    pub enrollment: EnrollmentId,
    /// The key of the node.
    pub node: String,
    /// Why, for people.
    pub error: String,
}
