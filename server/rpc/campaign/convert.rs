//! Campaigns on the wire.

use std::collections::HashMap;

use super::super::call::etag_of;
use super::super::convert::{check_size, code, duration, optional, parse_duration, refuse_nul, texts, timestamp};
use crate::domain::campaign::{
    Action, Campaign, CampaignState, Definition, Enrollment, Node, NodeCount, Problem, Reentry,
};
use crate::domain::condition::{Condition, Scope};
use crate::error::Violations;
use crate::pb;
use crate::pb::campaign_node::Action as PbAction;
use crate::pb::wait_action::Until;

/// The fields that change what the campaign does.
pub(super) const GRAPH: [&str; 3] = ["start_tag_id", "reentry", "nodes"];

/// Reads what a campaign does; the rules of the proto were checked. What can be wrong only when it is activated isn't looked
/// for.
pub(super) fn parse(campaign: &pb::Campaign, violations: &mut Violations) -> Definition {
    check_size("campaign", campaign, violations);
    refuse_nul("campaign.name", &campaign.name, violations);
    refuse_nul("campaign.description", &campaign.description, violations);
    let start_tag = violations.optional_id("campaign.start_tag_id", &campaign.start_tag_id);
    let mut nodes: Vec<Node> = Vec::with_capacity(campaign.nodes.len());
    for (index, node) in campaign.nodes.iter().enumerate() {
        let path = format!("campaign.nodes[{index}]");
        if nodes.iter().any(|earlier| earlier.key == node.key) {
            violations.add_if_new(format!("{path}.key"), "UNIQUE", "must not be the key of another node");
        }
        if let Some(action) = node.action.as_ref().and_then(|action| parse_action(&path, action, violations)) {
            nodes.push(Node { key: node.key.clone(), next: optional(&node.next_key), action });
        }
    }
    let reentry = Reentry::from_code(code(campaign.reentry())).unwrap_or(Reentry::AfterExit);
    Definition { start_tag, reentry, nodes }
}

fn parse_action(path: &str, action: &PbAction, violations: &mut Violations) -> Option<Action> {
    Some(match action {
        PbAction::Webhook(it) => Action::Webhook(violations.id(&format!("{path}.webhook.webhook_id"), &it.webhook_id)?),
        PbAction::AssignTags(it) => {
            Action::AssignTags(violations.ids(&format!("{path}.assign_tags.tag_ids"), &it.tag_ids))
        }
        PbAction::RemoveTags(it) => {
            Action::RemoveTags(violations.ids(&format!("{path}.remove_tags.tag_ids"), &it.tag_ids))
        }
        PbAction::Wait(it) => match it.until.as_ref()? {
            Until::Duration(given) => {
                Action::Wait(parse_duration(&format!("{path}.wait.duration"), Some(*given), violations)?)
            }
            Until::FieldKey(key) => {
                refuse_nul(&format!("{path}.wait.field_key"), key, violations);
                Action::WaitUntil(key.clone())
            }
        },
        PbAction::Decision(it) => {
            let condition = Condition::parse(&it.condition, Scope::Trigger);
            let condition = violations.take(&format!("{path}.decision.condition"), "CONDITION", condition)?;
            Action::Decision {
                condition: condition.source().to_owned(),
                then_node: optional(&it.then_key),
                else_node: optional(&it.else_key),
            }
        }
        PbAction::SetField(it) => {
            refuse_nul(&format!("{path}.set_field.field_key"), &it.field_key, violations);
            refuse_nul(&format!("{path}.set_field.value"), &it.value, violations);
            Action::SetField { key: it.field_key.clone(), value: it.value.clone() }
        }
        PbAction::GoTo(it) => Action::GoTo(optional(&it.node_key)),
        PbAction::Exit(pb::ExitAction {}) => Action::Exit,
        PbAction::StartCampaign(it) => {
            Action::StartCampaign(violations.id(&format!("{path}.start_campaign.campaign_id"), &it.campaign_id)?)
        }
        PbAction::StopCampaign(it) => {
            Action::StopCampaign(violations.id(&format!("{path}.stop_campaign.campaign_id"), &it.campaign_id)?)
        }
    })
}

/// Why a campaign can't be activated, as bad fields.
pub(super) fn to_violations(problems: Vec<Problem>) -> Violations {
    let mut violations = Violations::default();
    for Problem { path, reason, text } in problems {
        violations.add(format!("campaign.{path}"), reason, text);
    }
    violations
}

pub(super) fn to_pb(campaign: &Campaign) -> pb::Campaign {
    pb::Campaign {
        id: campaign.id.to_string(),
        name: campaign.name.clone(),
        key: campaign.key.clone().unwrap_or_default(),
        labels: campaign.labels.clone(),
        description: campaign.description.clone(),
        state: campaign.state.code().into(),
        start_tag_id: campaign.definition.start_tag.map(|tag| tag.to_string()).unwrap_or_default(),
        reentry: campaign.definition.reentry.code().into(),
        nodes: campaign.definition.nodes.iter().map(node_to_pb).collect(),
        create_time: Some(timestamp(campaign.created)),
        update_time: Some(timestamp(campaign.updated)),
        etag: etag_of(campaign.version),
        diagram: String::new(),
        node_counts: Vec::new(),
    }
}

fn node_to_pb(node: &Node) -> pb::CampaignNode {
    pb::CampaignNode {
        key: node.key.clone(),
        next_key: node.next.clone().unwrap_or_default(),
        action: Some(action_to_pb(&node.action)),
    }
}

fn action_to_pb(action: &Action) -> PbAction {
    match action {
        Action::Webhook(id) => PbAction::Webhook(pb::WebhookAction { webhook_id: id.to_string() }),
        Action::AssignTags(tags) => PbAction::AssignTags(pb::AssignTagsAction { tag_ids: texts(tags) }),
        Action::RemoveTags(tags) => PbAction::RemoveTags(pb::RemoveTagsAction { tag_ids: texts(tags) }),
        Action::Wait(time) => PbAction::Wait(pb::WaitAction { until: Some(Until::Duration(duration(*time))) }),
        Action::WaitUntil(key) => PbAction::Wait(pb::WaitAction { until: Some(Until::FieldKey(key.clone())) }),
        Action::Decision { condition, then_node, else_node } => PbAction::Decision(pb::DecisionAction {
            condition: condition.clone(),
            then_key: then_node.clone().unwrap_or_default(),
            else_key: else_node.clone().unwrap_or_default(),
        }),
        Action::SetField { key, value } => {
            PbAction::SetField(pb::SetFieldAction { field_key: key.clone(), value: value.clone() })
        }
        Action::GoTo(to) => PbAction::GoTo(pb::GoToAction { node_key: to.clone().unwrap_or_default() }),
        Action::Exit => PbAction::Exit(pb::ExitAction {}),
        Action::StartCampaign(id) => PbAction::StartCampaign(pb::StartCampaignAction { campaign_id: id.to_string() }),
        Action::StopCampaign(id) => PbAction::StopCampaign(pb::StopCampaignAction { campaign_id: id.to_string() }),
    }
}

pub(super) fn enrollment_to_pb(enrollment: &Enrollment) -> pb::Enrollment {
    pb::Enrollment {
        id: enrollment.id.to_string(),
        campaign_id: enrollment.campaign_id.to_string(),
        contact_id: enrollment.contact_id.to_string(),
        state: enrollment.state.code().into(),
        node_key: enrollment.node.clone(),
        due_time: enrollment.due.map(timestamp),
        step_count: i32::try_from(enrollment.steps).unwrap_or(i32::MAX),
        error: enrollment.error.clone(),
        create_time: Some(timestamp(enrollment.created)),
        end_time: enrollment.ended.map(timestamp),
    }
}

/// The contacts of nodes, in the order of the keys.
pub(super) fn counts_to_pb(counts: HashMap<String, NodeCount>) -> Vec<pb::campaign::NodeCount> {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let count_to_pb = |(node_key, count): (String, NodeCount)| pb::campaign::NodeCount {
        node_key,
        waiting_count: i32::try_from(count.waiting).unwrap_or(i32::MAX),
        passed_count: count.passed,
    };
    counts.into_iter().map(count_to_pb).collect()
}

/// What a campaign that is active refuses to have changed.
pub(super) fn is_graph(paths: &[String]) -> bool {
    paths.iter().any(|path| GRAPH.contains(&path.as_str()))
}

/// Whether a campaign may have what it does changed.
pub(super) fn is_editable(campaign: &Campaign) -> bool {
    campaign.state != CampaignState::Active
}
