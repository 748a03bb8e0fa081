//! Whether a campaign can be activated.

use std::collections::{HashMap, HashSet};

use super::{Action, Definition, Node};
use crate::domain::field::{FieldType, FieldValue};
use crate::domain::tag::TagKind;
use crate::ids::{CampaignId, TagId, WebhookId};

/// What there is in the workspace.
pub struct Known<'a> {
    /// The kind of a tag.
    pub tag: &'a dyn Fn(TagId) -> Option<TagKind>,
    /// Whether a webhook is there.
    pub webhook: &'a dyn Fn(WebhookId) -> bool,
    /// Whether a campaign is there.
    pub campaign: &'a dyn Fn(CampaignId) -> bool,
    /// The type of a field.
    pub field: &'a dyn Fn(&str) -> Option<FieldType>,
}

/// Why a campaign can't be activated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, as a path of the campaign.
    pub path: String,
    /// What, as a code.
    pub reason: &'static str,
    /// What, for people.
    pub text: String,
}

/// Why a campaign can't be activated; nothing if it can.
#[must_use]
pub fn check(definition: &Definition, known: &Known<'_>) -> Vec<Problem> {
    let mut checker = Checker { definition, known, problems: Vec::new() };
    if definition.nodes.is_empty() {
        checker.add("nodes".to_owned(), "EMPTY", "must have a node".to_owned());
    }
    if definition.start_tag.is_some_and(|tag| (known.tag)(tag).is_none()) {
        checker.add("start_tag_id".to_owned(), "TAG_UNKNOWN", "there is no tag with this id".to_owned());
    }
    for (index, node) in definition.nodes.iter().enumerate() {
        checker.ways(index, node);
        checker.names(index, node);
    }
    checker.reach();
    checker.loops();
    checker.problems
}

struct Checker<'a> {
    definition: &'a Definition,
    known: &'a Known<'a>,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn add(&mut self, path: String, reason: &'static str, text: String) {
        self.problems.push(Problem { path, reason, text });
    }

    fn at(&mut self, index: usize, node: &Node, field: &str, reason: &'static str, text: &str) {
        self.add(format!("nodes[{index}]{field}"), reason, format!("node `{}`: {text}", node.key));
    }

    /// Every way leads to a node.
    fn ways(&mut self, index: usize, node: &Node) {
        for (name, to) in node.ways() {
            let field = match (&node.action, name) {
                (Action::Decision { .. }, "yes") => ".decision.then_key",
                (Action::Decision { .. }, _) => ".decision.else_key",
                (Action::GoTo(_), _) => ".go_to.node_key",
                _ => ".next_key",
            };
            match to {
                None => self.at(index, node, field, "DEAD_END", "must say which node follows; an exit ends the way"),
                Some(to) if self.definition.node(to).is_none() => {
                    self.at(index, node, field, "NODE_UNKNOWN", &format!("there is no node `{to}`"));
                }
                Some(_) => {}
            }
        }
    }

    /// What a node names is there.
    fn names(&mut self, index: usize, node: &Node) {
        match &node.action {
            Action::Webhook(id) if !(self.known.webhook)(*id) => {
                self.at(index, node, ".webhook.webhook_id", "WEBHOOK_UNKNOWN", "there is no webhook with this id");
            }
            Action::AssignTags(tags) => self.tags(index, node, ".assign_tags", tags),
            Action::RemoveTags(tags) => self.tags(index, node, ".remove_tags", tags),
            Action::WaitUntil(key) => match (self.known.field)(key) {
                Some(FieldType::Date | FieldType::Datetime) => {}
                Some(_) => self.at(index, node, ".wait.field_key", "FIELD_TYPE", "must be a date or datetime field"),
                None => self.at(index, node, ".wait.field_key", "FIELD_UNKNOWN", "there is no field with this key"),
            },
            Action::SetField { key, value } => match (self.known.field)(key) {
                Some(field_type) => {
                    if let Err(error) = FieldValue::parse_or_clear(field_type, value) {
                        self.at(index, node, ".set_field.value", "FIELD_VALUE", &error.to_string());
                    }
                }
                None => {
                    self.at(index, node, ".set_field.field_key", "FIELD_UNKNOWN", "there is no field with this key");
                }
            },
            Action::StartCampaign(id) if !(self.known.campaign)(*id) => {
                self.at(index, node, ".start_campaign.campaign_id", "CAMPAIGN_UNKNOWN", "there is no such campaign");
            }
            Action::StopCampaign(id) if !(self.known.campaign)(*id) => {
                self.at(index, node, ".stop_campaign.campaign_id", "CAMPAIGN_UNKNOWN", "there is no such campaign");
            }
            _ => {}
        }
    }

    fn tags(&mut self, index: usize, node: &Node, field: &str, tags: &[TagId]) {
        if tags.is_empty() {
            self.at(index, node, field, "EMPTY", "must name a tag");
        }
        for (place, tag) in tags.iter().enumerate() {
            let field = format!("{field}.tag_ids[{place}]");
            match (self.known.tag)(*tag) {
                Some(TagKind::Manual) => {}
                Some(_) => self.at(index, node, &field, "TAG_KIND", "must be a manual tag"),
                None => self.at(index, node, &field, "TAG_UNKNOWN", "there is no tag with this id"),
            }
        }
    }

    /// Every node can be come to.
    fn reach(&mut self) {
        let mut reached: HashSet<&str> = HashSet::new();
        let mut open: Vec<&str> = self.definition.entry().map(|node| node.key.as_str()).into_iter().collect();
        while let Some(key) = open.pop() {
            if reached.insert(key) {
                let node = self.definition.node(key);
                open.extend(node.into_iter().flat_map(Node::ways).filter_map(|(_, to)| to));
            }
        }
        for (index, node) in self.definition.nodes.iter().enumerate() {
            if !reached.contains(node.key.as_str()) {
                self.at(index, node, "", "UNREACHABLE", "no way leads to it from the first node");
            }
        }
    }

    /// No nodes follow each other endlessly without a wait for a while. A wait until a field's time is none: once that has
    /// passed it doesn't wait.
    fn loops(&mut self) {
        let mut done: HashMap<&str, bool> = HashMap::new();
        for (index, node) in self.definition.nodes.iter().enumerate() {
            if let Some(way) = find_loop(self.definition, &node.key, &mut done) {
                let text = format!("goes round without a wait for a while: {}", way.join(" -> "));
                self.at(index, node, "", "ENDLESS", &text);
            }
        }
    }
}

/// The way from a node back to itself or to a node on the way, if there is one without a wait; told once.
fn find_loop<'a>(definition: &'a Definition, from: &'a str, done: &mut HashMap<&'a str, bool>) -> Option<Vec<&'a str>> {
    let mut path: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut next = Some(from);
    loop {
        if let Some(key) = next.take() {
            match done.get(key) {
                Some(true) => {}
                Some(false) => {
                    let start = path.iter().position(|(on_path, _)| *on_path == key)?;
                    let mut way: Vec<&str> = path.iter().skip(start).map(|(key, _)| *key).collect();
                    way.push(key);
                    done.extend(path.iter().map(|(key, _)| (*key, true)));
                    return Some(way);
                }
                None => {
                    let node = definition.node(key).filter(|node| !matches!(node.action, Action::Wait(_)));
                    let ways = node.map(|node| node.ways().into_iter().filter_map(|(_, to)| to).collect());
                    done.insert(key, false);
                    path.push((key, ways.unwrap_or_default()));
                }
            }
        }
        let (_, ways) = path.last_mut()?;
        next = ways.pop();
        if next.is_none() {
            let (key, _) = path.pop()?;
            done.insert(key, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::domain::campaign::Reentry;

    fn node(key: &str, next: &str, action: Action) -> Node {
        let next = Some(next).filter(|next| !next.is_empty()).map(ToOwned::to_owned);
        Node { key: key.to_owned(), next, action }
    }

    fn exit() -> Node {
        node("exit", "", Action::Exit)
    }

    fn wait(key: &str, next: &str) -> Node {
        node(key, next, Action::Wait(Duration::from_secs(1)))
    }

    fn tag(key: &str, next: &str) -> Node {
        node(key, next, Action::AssignTags(vec![TagId(Uuid::from_u128(1))]))
    }

    fn ask(key: &str, then_node: &str, else_node: &str) -> Node {
        let to = |key: &str| Some(key.to_owned());
        let action =
            Action::Decision { condition: "true".to_owned(), then_node: to(then_node), else_node: to(else_node) };
        node(key, "", action)
    }

    #[track_caller]
    fn check_nodes(nodes: Vec<Node>, expected: &[(&str, &str)]) {
        let definition = Definition { start_tag: None, reentry: Reentry::AfterExit, nodes };
        let field = |key: &str| match key {
            "birthday" => Some(FieldType::Date),
            "score" => Some(FieldType::Integer),
            _ => None,
        };
        let known = Known {
            tag: &|tag| match tag.0.as_u128() {
                1 => Some(TagKind::Manual),
                2 => Some(TagKind::Smart),
                _ => None,
            },
            webhook: &|webhook| webhook.0.as_u128() == 1,
            campaign: &|campaign| campaign.0.as_u128() == 1,
            field: &field,
        };
        let problems = check(&definition, &known);
        let told: Vec<_> = problems.iter().map(|problem| (problem.path.as_str(), problem.reason)).collect();
        assert_eq!(told, expected, "{problems:#?}");
    }

    #[test]
    fn a_whole_graph_can_be_activated() {
        let set = Action::SetField { key: "score".to_owned(), value: "7".to_owned() };
        check_nodes(
            vec![
                tag("tag", "ask"),
                ask("ask", "set", "wait"),
                node("set", "until", set),
                node("until", "exit", Action::WaitUntil("birthday".to_owned())),
                wait("wait", "again"),
                node("again", "", Action::GoTo(Some("tag".to_owned()))),
                exit(),
            ],
            &[],
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_node() {
        check_nodes(vec![], &[("nodes", "EMPTY")]);
        check_nodes(vec![tag("a", "")], &[("nodes[0].next_key", "DEAD_END")]);
        check_nodes(vec![tag("a", "nowhere")], &[("nodes[0].next_key", "NODE_UNKNOWN")]);
        check_nodes(vec![exit(), tag("b", "exit")], &[("nodes[1]", "UNREACHABLE")]);
        check_nodes(vec![ask("a", "nowhere", "exit"), exit()], &[("nodes[0].decision.then_key", "NODE_UNKNOWN")]);
        let id = |number| Uuid::from_u128(number);
        for (action, field, reason) in [
            (Action::Webhook(WebhookId(id(9))), ".webhook.webhook_id", "WEBHOOK_UNKNOWN"),
            (Action::AssignTags(vec![TagId(id(2))]), ".assign_tags.tag_ids[0]", "TAG_KIND"),
            (Action::RemoveTags(vec![TagId(id(1)), TagId(id(3))]), ".remove_tags.tag_ids[1]", "TAG_UNKNOWN"),
            (Action::AssignTags(vec![]), ".assign_tags", "EMPTY"),
            (Action::WaitUntil("score".to_owned()), ".wait.field_key", "FIELD_TYPE"),
            (Action::WaitUntil("none".to_owned()), ".wait.field_key", "FIELD_UNKNOWN"),
            (Action::StartCampaign(CampaignId(id(9))), ".start_campaign.campaign_id", "CAMPAIGN_UNKNOWN"),
            (Action::StopCampaign(CampaignId(id(9))), ".stop_campaign.campaign_id", "CAMPAIGN_UNKNOWN"),
            (Action::SetField { key: "score".to_owned(), value: "many".to_owned() }, ".set_field.value", "FIELD_VALUE"),
        ] {
            check_nodes(vec![node("a", "exit", action), exit()], &[(&format!("nodes[0]{field}"), reason)]);
        }
    }

    #[test]
    fn loops_need_a_wait() {
        check_nodes(vec![tag("a", "a")], &[("nodes[0]", "ENDLESS")]);
        check_nodes(vec![wait("w", "a"), tag("a", "b"), ask("b", "exit", "a"), exit()], &[("nodes[1]", "ENDLESS")]);
        check_nodes(vec![wait("w", "b"), ask("b", "exit", "w"), exit()], &[]);
        let until = node("a", "b", Action::WaitUntil("birthday".to_owned()));
        check_nodes(vec![until, ask("b", "a", "exit"), exit()], &[("nodes[0]", "ENDLESS")]);
        // Two ways to one node are no loop.
        check_nodes(vec![ask("a", "b", "c"), tag("b", "d"), tag("c", "d"), tag("d", "exit"), exit()], &[]);
    }
}
