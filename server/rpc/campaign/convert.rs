//! Campaigns on the wire.

use super::super::call::etag_of;
use super::super::convert::{code, duration, parse_duration, refuse_nul, texts, timestamp};
use crate::domain::campaign::{Action, Campaign, CampaignState, Definition, Enrollment, Node, Problem, Reentry};
use crate::domain::condition::{Condition, Scope};
use crate::error::Violations;
use crate::pb;
use crate::pb::campaign_node::wait::Until;
use crate::pb::campaign_node::{self as node, Action as PbAction};

/// The fields that an update can name.
pub(super) const UPDATABLE: [&str; 5] = ["name", "description", "start_tag_id", "reentry", "nodes"];
/// Those of them that change what the campaign does.
pub(super) const GRAPH: [&str; 3] = ["start_tag_id", "reentry", "nodes"];

/// Whether an update without a mask changes the field: those that the caller has set.
pub(super) fn is_set(campaign: &pb::Campaign, path: &str) -> bool {
    match path {
        "name" => !campaign.name.is_empty(),
        "description" => !campaign.description.is_empty(),
        "start_tag_id" => !campaign.start_tag_id.is_empty(),
        "reentry" => campaign.reentry != 0,
        _ => !campaign.nodes.is_empty(),
    }
}

/// The campaign with the named fields replaced by those given.
pub(super) fn merge(mut campaign: pb::Campaign, given: &pb::Campaign, paths: &[String]) -> pb::Campaign {
    for path in paths {
        match path.as_str() {
            "name" => campaign.name.clone_from(&given.name),
            "description" => campaign.description.clone_from(&given.description),
            "start_tag_id" => campaign.start_tag_id.clone_from(&given.start_tag_id),
            "reentry" => campaign.reentry = given.reentry,
            "nodes" => campaign.nodes.clone_from(&given.nodes),
            _ => {}
        }
    }
    campaign
}

/// Reads what a campaign does; the rules of the proto were checked. What can be wrong only when it is activated isn't looked
/// for.
pub(super) fn parse(campaign: &pb::Campaign, violations: &mut Violations) -> Definition {
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
            nodes.push(Node { key: node.key.clone(), next: some(&node.next), action });
        }
    }
    let reentry = Reentry::from_code(code(campaign.reentry())).unwrap_or(Reentry::AfterExit);
    Definition { start_tag, reentry, nodes }
}

fn some(text: &str) -> Option<String> {
    Some(text).filter(|text| !text.is_empty()).map(ToOwned::to_owned)
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
            let condition = Condition::parse(&it.condition, Scope::Contact);
            let condition = violations.take(&format!("{path}.decision.condition"), "CONDITION", condition)?;
            Action::Decision {
                condition: condition.source().to_owned(),
                then_node: some(&it.then_node),
                else_node: some(&it.else_node),
            }
        }
        PbAction::SetField(it) => {
            refuse_nul(&format!("{path}.set_field.field_key"), &it.field_key, violations);
            refuse_nul(&format!("{path}.set_field.value"), &it.value, violations);
            Action::SetField { key: it.field_key.clone(), value: it.value.clone() }
        }
        PbAction::GoTo(it) => Action::GoTo(some(&it.node)),
        PbAction::Exit(node::Exit {}) => Action::Exit,
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
        next: node.next.clone().unwrap_or_default(),
        action: Some(action_to_pb(&node.action)),
    }
}

fn action_to_pb(action: &Action) -> PbAction {
    match action {
        Action::Webhook(id) => PbAction::Webhook(node::Webhook { webhook_id: id.to_string() }),
        Action::AssignTags(tags) => PbAction::AssignTags(node::Tags { tag_ids: texts(tags) }),
        Action::RemoveTags(tags) => PbAction::RemoveTags(node::Tags { tag_ids: texts(tags) }),
        Action::Wait(time) => PbAction::Wait(node::Wait { until: Some(Until::Duration(duration(*time))) }),
        Action::WaitUntil(key) => PbAction::Wait(node::Wait { until: Some(Until::FieldKey(key.clone())) }),
        Action::Decision { condition, then_node, else_node } => PbAction::Decision(node::Decision {
            condition: condition.clone(),
            then_node: then_node.clone().unwrap_or_default(),
            else_node: else_node.clone().unwrap_or_default(),
        }),
        Action::SetField { key, value } => {
            PbAction::SetField(node::SetField { field_key: key.clone(), value: value.clone() })
        }
        Action::GoTo(to) => PbAction::GoTo(node::GoTo { node: to.clone().unwrap_or_default() }),
        Action::Exit => PbAction::Exit(node::Exit {}),
        Action::StartCampaign(id) => PbAction::StartCampaign(node::OtherCampaign { campaign_id: id.to_string() }),
        Action::StopCampaign(id) => PbAction::StopCampaign(node::OtherCampaign { campaign_id: id.to_string() }),
    }
}

pub(super) fn enrollment_to_pb(enrollment: &Enrollment) -> pb::Enrollment {
    pb::Enrollment {
        id: enrollment.id.to_string(),
        campaign_id: enrollment.campaign_id.to_string(),
        contact_id: enrollment.contact_id.to_string(),
        state: enrollment.state.code().into(),
        node: enrollment.node.clone(),
        due_time: enrollment.due.map(timestamp),
        step_count: enrollment.steps,
        error: enrollment.error.clone(),
        create_time: Some(timestamp(enrollment.created)),
        end_time: enrollment.ended.map(timestamp),
    }
}

/// What a campaign that is active refuses to have changed.
pub(super) fn is_graph(paths: &[String]) -> bool {
    paths.iter().any(|path| GRAPH.contains(&path.as_str()))
}

/// Whether a campaign may have what it does changed.
pub(super) fn is_editable(campaign: &Campaign) -> bool {
    campaign.state != CampaignState::Active
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field that could be named but not merged, or merged without being named, would be lost.
    #[test]
    fn every_updatable_field_is_merged_and_told_when_set() {
        let given = pb::Campaign {
            name: "New".to_owned(),
            description: "d".to_owned(),
            start_tag_id: "tag_1".to_owned(),
            reentry: pb::campaign::Reentry::Never.into(),
            nodes: vec![pb::CampaignNode::default()],
            ..pb::Campaign::default()
        };
        for path in UPDATABLE {
            assert!(is_set(&given, path) && !is_set(&pb::Campaign::default(), path), "{path}");
            let merged = merge(pb::Campaign::default(), &given, &[path.to_owned()]);
            assert!(UPDATABLE.iter().all(|other| is_set(&merged, other) == (*other == path)), "{path}");
        }
    }
}
