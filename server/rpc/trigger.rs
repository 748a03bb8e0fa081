//! Decisions about triggers, which the answers of several services carry.

use super::convert::texts;
use crate::automation::TriggerDecision;
use crate::pb;

/// A decision on the wire.
pub(super) fn to_pb(decision: &TriggerDecision) -> pb::TriggerDecision {
    pb::TriggerDecision {
        webhook_id: decision.webhook_id.to_string(),
        decision: decision.decision.code().into(),
        reason: decision.reason.code().into(),
        activation_tag_ids: texts(&decision.activation_tag_ids),
        delivery_ids: texts(&decision.delivery_ids),
    }
}
