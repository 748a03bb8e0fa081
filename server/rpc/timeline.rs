//! Entries of a contact's timeline on the wire.

use super::convert::{code, parse_time, refuse_nul, timestamp};
use super::event::event_to_pb;
use crate::domain::retry::ErrorClass;
use crate::domain::timeline::{CampaignEnd, DeliveryOutcome, Entry, EntryKind, Fact, Triggered};
use crate::error::Violations;
use crate::pb;
use crate::pb::timeline_entry::Entry as PbEntry;
use crate::store::timeline::TimelineFilter;

/// Reads which entries a request selects; the rules of the proto were checked.
pub(super) fn parse_filter(
    filter: pb::list_timeline_entries_request::Filter,
    violations: &mut Violations,
) -> TimelineFilter {
    refuse_nul("filter.event_type_prefix", &filter.event_type_prefix, violations);
    TimelineFilter {
        kinds: filter.kinds().filter_map(|kind| EntryKind::from_code(code(kind))).collect(),
        start: parse_time("filter.start_time", filter.start_time, violations),
        end: parse_time("filter.end_time", filter.end_time, violations),
        event_type_prefix: filter.event_type_prefix,
    }
}

/// An entry as callers see it.
pub(super) fn to_pb(entry: Entry) -> pb::TimelineEntry {
    pb::TimelineEntry { occur_time: Some(timestamp(entry.time)), entry: Some(fact_to_pb(entry.fact)) }
}

fn fact_to_pb(fact: Fact) -> PbEntry {
    match fact {
        Fact::EventRecorded(event) => PbEntry::EventRecorded(event_to_pb(event)),
        Fact::TagAssigned(tag) => PbEntry::TagAssigned(pb::TagAssignedEntry { tag_id: tag.to_string() }),
        Fact::TagRemoved(tag) => PbEntry::TagRemoved(pb::TagRemovedEntry { tag_id: tag.to_string() }),
        Fact::TagRuleFailed { tag, event_type, error } => {
            PbEntry::TagRuleFailed(pb::TagRuleFailedEntry { tag_id: tag.to_string(), event_type, error })
        }
        Fact::TagHeldBack { tag, event_type, reason } => PbEntry::TagHeldBack(pb::TagHeldBackEntry {
            tag_id: tag.to_string(),
            event_type,
            reason: reason.code().into(),
        }),
        Fact::WebhookTriggered(triggered) => PbEntry::WebhookTriggered(triggered_to_pb(&triggered)),
        Fact::DeliveryOutcome(outcome) => PbEntry::DeliveryOutcome(outcome_to_pb(&outcome)),
        Fact::CampaignEntered { campaign, enrollment } => PbEntry::CampaignEntered(pb::CampaignEnteredEntry {
            campaign_id: campaign.to_string(),
            enrollment_id: enrollment.to_string(),
        }),
        Fact::CampaignEnded(end) => PbEntry::CampaignEnded(end_to_pb(end)),
        Fact::CampaignStepFailed(failure) => PbEntry::CampaignStepFailed(pb::CampaignStepFailedEntry {
            campaign_id: failure.campaign.to_string(),
            enrollment_id: failure.enrollment.to_string(),
            node_key: failure.node,
            error: failure.error,
        }),
        Fact::CampaignHeldBack { campaign, reason } => PbEntry::CampaignHeldBack(pb::CampaignHeldBackEntry {
            campaign_id: campaign.to_string(),
            reason: reason.code().into(),
        }),
        Fact::ContactCreated => PbEntry::ContactCreated(pb::ContactCreatedEntry {}),
        Fact::ContactUpdated => PbEntry::ContactUpdated(pb::ContactUpdatedEntry {}),
        Fact::ContactUnsubscribed => PbEntry::ContactUnsubscribed(pb::ContactUnsubscribedEntry {}),
        Fact::LinkClicked(link) => PbEntry::LinkClicked(pb::LinkClickedEntry { smart_link_id: link.to_string() }),
    }
}

fn triggered_to_pb(triggered: &Triggered) -> pb::WebhookTriggeredEntry {
    pb::WebhookTriggeredEntry {
        delivery_id: triggered.delivery.to_string(),
        webhook_id: triggered.webhook.to_string(),
        source: triggered.source.code().into(),
        decision: triggered.decision.code().into(),
        reason: triggered.reason.code().into(),
    }
}

fn outcome_to_pb(outcome: &DeliveryOutcome) -> pb::DeliveryOutcomeEntry {
    pb::DeliveryOutcomeEntry {
        delivery_id: outcome.delivery.to_string(),
        webhook_id: outcome.webhook.to_string(),
        kind: outcome.kind.code().into(),
        reason: outcome.reason.code().into(),
        attempt_number: outcome.attempt_number.unwrap_or(0),
        status_code: outcome.status_code.unwrap_or(0),
        error_class: outcome.error_class.map_or(0, ErrorClass::code).into(),
    }
}

fn end_to_pb(end: CampaignEnd) -> pb::CampaignEndedEntry {
    pb::CampaignEndedEntry {
        campaign_id: end.campaign.to_string(),
        enrollment_id: end.enrollment.to_string(),
        state: end.state.code().into(),
        node_key: end.node,
        error: end.error,
    }
}
