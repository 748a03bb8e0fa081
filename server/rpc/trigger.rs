//! Decisions about triggers, which the answers of several services carry.

use super::convert::texts;
use crate::automation::TriggerDecision;
use crate::pb;

/// What a call meant for each webhook that it touched.
pub(super) fn decisions_to_pb(decisions: &[TriggerDecision]) -> Vec<pb::TriggerDecision> {
    decisions.iter().map(decision_to_pb).collect()
}

/// What a call meant for one webhook.
pub(super) fn decision_to_pb(decision: &TriggerDecision) -> pb::TriggerDecision {
    pb::TriggerDecision {
        webhook_id: decision.webhook_id.to_string(),
        decision: decision.decision.code().into(),
        reason: decision.reason.code().into(),
        activation_tag_ids: texts(&decision.activation_tag_ids),
        delivery_ids: texts(&decision.delivery_ids),
    }
}
