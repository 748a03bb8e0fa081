//! A campaign as a drawing: Mermaid's flowchart, which many tools show.

use std::fmt::Write as _;

use super::{Action, Campaign, Node, NodeCount};
use crate::ids::{CampaignId, TagId, WebhookId};

/// The longest text in a box, in characters.
const MAX_TEXT: usize = 60;

/// Names of what actions name.
pub struct Names<'a> {
    /// A tag's.
    pub tag: &'a dyn Fn(TagId) -> Option<String>,
    /// A webhook's.
    pub webhook: &'a dyn Fn(WebhookId) -> Option<String>,
    /// A campaign's.
    pub campaign: &'a dyn Fn(CampaignId) -> Option<String>,
}

/// Draws a campaign; `count` returns the contacts of a node, where they are to be shown.
#[must_use]
pub fn mermaid(campaign: &Campaign, names: &Names<'_>, count: &dyn Fn(&str) -> Option<NodeCount>) -> String {
    let definition = &campaign.definition;
    let start = definition.start_tag.map_or_else(|| "start".to_owned(), |tag| format!("tag {}", tag_name(names, tag)));
    let mut text = format!("flowchart TD\n    start([\"{}\"])\n", escaped(&start));
    for (index, node) in definition.nodes.iter().enumerate() {
        let (open, close) = match node.action {
            Action::Decision { .. } => ("{", "}"),
            Action::Exit => ("([", "])"),
            Action::Wait(_) | Action::WaitUntil(_) => ("[/", "/]"),
            _ => ("[", "]"),
        };
        let shown = |count: NodeCount| format!("<br/>{} waiting, {} passed", count.waiting, count.passed);
        let counts = count(&node.key).map(shown).unwrap_or_default();
        let label = format!("{}{counts}", escaped(&label(node, names)));
        let _ = writeln!(text, "    n{index}{open}\"{label}\"{close}");
    }
    if definition.entry().is_some() {
        text.push_str("    start --> n0\n");
    }
    for (index, node) in definition.nodes.iter().enumerate() {
        for (name, to) in node.ways() {
            let Some(to) = definition.nodes.iter().position(|node| Some(node.key.as_str()) == to) else { continue };
            let name = if name.is_empty() { String::new() } else { format!("|{name}|") };
            let _ = writeln!(text, "    n{index} -->{name} n{to}");
        }
    }
    text
}

fn tag_name(names: &Names<'_>, tag: TagId) -> String {
    (names.tag)(tag).unwrap_or_else(|| tag.to_string())
}

fn label(node: &Node, names: &Names<'_>) -> String {
    let tags = |tags: &[TagId]| tags.iter().map(|tag| tag_name(names, *tag)).collect::<Vec<_>>().join(", ");
    let campaign = |id: CampaignId| (names.campaign)(id).unwrap_or_else(|| id.to_string());
    let what = match &node.action {
        Action::Webhook(id) => format!("call {}", (names.webhook)(*id).unwrap_or_else(|| id.to_string())),
        Action::AssignTags(ids) => format!("assign {}", tags(ids)),
        Action::RemoveTags(ids) => format!("remove {}", tags(ids)),
        Action::Wait(duration) => format!("wait {}s", duration.as_secs()),
        Action::WaitUntil(key) => format!("wait until {key}"),
        Action::Decision { condition, .. } => condition.clone(),
        Action::SetField { key, value } => format!("set {key} = {value}"),
        Action::GoTo(_) => "go to".to_owned(),
        Action::Exit => "exit".to_owned(),
        Action::StartCampaign(id) => format!("start {}", campaign(*id)),
        Action::StopCampaign(id) => format!("stop {}", campaign(*id)),
    };
    format!("{}: {what}", node.key)
}

/// A text that Mermaid shows as it is, and shortened.
fn escaped(text: &str) -> String {
    let mut shown = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == MAX_TEXT {
            shown.push('…');
            break;
        }
        match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | ' ' | '.' | ',' | ':' | '_' | '-' | '=' | '(' | ')' => {
                shown.push(character);
            }
            other if other.is_control() => shown.push(' '),
            // As Mermaid writes entities.
            other => {
                let _ = write!(shown, "#{};", u32::from(other));
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::domain::campaign::{CampaignState, Definition, Reentry};
    use crate::domain::time::Micros;
    use crate::ids::WorkspaceId;

    #[test]
    fn a_campaign_is_drawn() {
        let node = |key: &str, next: Option<&str>, action| Node {
            key: key.to_owned(),
            next: next.map(ToOwned::to_owned),
            action,
        };
        let ask = Action::Decision {
            condition: "'a\"b' in contact.tags".to_owned(),
            then_node: Some("end".to_owned()),
            else_node: Some("wait".to_owned()),
        };
        let nodes = vec![
            node("ask", None, ask),
            node("wait", Some("ask"), Action::Wait(Duration::from_secs(2))),
            node("end", None, Action::Exit),
        ];
        let campaign = Campaign {
            id: CampaignId(Uuid::nil()),
            workspace_id: WorkspaceId(Uuid::nil()),
            name: "n".to_owned(),
            key: None,
            labels: Default::default(),
            description: String::new(),
            state: CampaignState::Draft,
            definition: Definition { start_tag: Some(TagId(Uuid::nil())), reentry: Reentry::AfterExit, nodes },
            version: 1,
            created: Micros(0),
            updated: Micros(0),
        };
        let names = Names { tag: &|_| Some("Käufer".to_owned()), webhook: &|_| None, campaign: &|_| None };
        let expected = "flowchart TD
    start([\"tag K#228;ufer\"])
    n0{\"ask: #39;a#34;b#39; in contact.tags\"}
    n1[/\"wait: wait 2s<br/>3 waiting, 7 passed\"/]
    n2([\"end: exit\"])
    start --> n0
    n0 -->|yes| n2
    n0 -->|no| n1
    n1 --> n0
";
        let count = NodeCount { waiting: 3, passed: 7 };
        assert_eq!(mermaid(&campaign, &names, &|key| (key == "wait").then_some(count)), expected);
    }
}
