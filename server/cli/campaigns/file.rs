//! Campaign files.
//!
//! One campaign in YAML. Tags, webhooks and other campaigns are named by their names; an id (`tag_..`, `wh_..`, `cmp_..`) is
//! taken as well, and is needed where several webhooks have one name.
//!
//! ```yaml
//! name: Onboarding              # finds the campaign; required
//! description: The first week   # default: empty
//! start_tag: customer           # default: none
//! reentry: after_exit           # or `never`; default: after_exit
//! nodes:                        # contacts begin at the first
//!   - key: welcome              # 1 to 40 of a-z, 0-9, _ and -; required
//!     webhook: CRM              # then one action
//!   - key: mark
//!     assign_tags: [welcomed]
//!     next: pause               # default: the node that follows in the list; "" for none yet
//!   - key: pause
//!     wait: 2d                  # d, h, m, s, ms, us and ns, also together: 1d12h
//!   - key: renewal
//!     wait_until: renewal_date  # a date or datetime field
//!   - key: ask
//!     decision:
//!       if: "'vip' in contact.tags"
//!       then: thank             # both required, "" for none yet
//!       else: bye
//!   - key: thank
//!     set_field:
//!       field: company
//!       value: VIP              # default: the field is cleared
//!   - key: unmark
//!     remove_tags: [welcomed]
//!   - key: other
//!     start_campaign: Winback
//!   - key: stop
//!     stop_campaign: Leads
//!   - key: again
//!     go_to: pause
//!   - key: bye
//!     exit: true
//! ```
//!
//! Unknown keys, keys given twice, anchors that blow up, and nodes with no action or with several are refused.

use serde::{Deserialize, Serialize};
use serde_saphyr::{Location, Spanned, options};
use taghook_client::v1::campaign::Reentry as PbReentry;
use taghook_client::v1::campaign_node::Action;
use taghook_client::v1::wait_action::Until;
use taghook_client::v1::{
    AssignTagsAction, Campaign, CampaignNode, DecisionAction, ExitAction, GoToAction, RemoveTagsAction, SetFieldAction,
    StartCampaignAction, StopCampaignAction, WaitAction, WebhookAction,
};

use super::duration;

/// The largest file, in bytes; a message to the server has 4 MiB at most.
pub(super) const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// A campaign, as its file has it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) description: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) start_tag: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) reentry: Reentry,
    #[serde(default)]
    pub(super) nodes: Vec<Spanned<Node>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reentry {
    Never,
    #[default]
    AfterExit,
}

/// A node. One of its actions is there.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Node {
    pub(super) key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    assign_tags: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remove_tags: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<Decision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set_field: Option<SetField>,
    #[serde(skip_serializing_if = "Option::is_none")]
    go_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_campaign: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_campaign: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Decision {
    #[serde(rename = "if")]
    condition: String,
    then: String,
    #[serde(rename = "else")]
    otherwise: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SetField {
    field: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    value: String,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Tag,
    Webhook,
    Campaign,
}

impl Kind {
    pub(super) const fn noun(self) -> &'static str {
        match self {
            Self::Tag => "tag",
            Self::Webhook => "webhook",
            Self::Campaign => "campaign",
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Tag => "tag_",
            Self::Webhook => "wh_",
            Self::Campaign => "cmp_",
        }
    }

    /// Whether a text is an id of this kind instead of a name.
    pub(super) fn is_id(self, text: &str) -> bool {
        let is_symbol = |byte: u8| byte.is_ascii_digit() || (byte.is_ascii_lowercase() && !b"ilou".contains(&byte));
        text.strip_prefix(self.prefix()).is_some_and(|id| id.len() == 26 && id.bytes().all(is_symbol))
    }
}

/// Something wrong in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The line, from 1; `None` for the file as a whole.
    pub(super) line: Option<u64>,
    pub(super) text: String,
}

impl File {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Where it isn't YAML, or isn't of the format.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let options = options! { with_snippet: false };
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let line = error.location().map(|location| location.line()).filter(|line| *line > 0);
            Problem { line, text: error.to_string() }
        })
    }

    /// Writes a file.
    ///
    /// # Errors
    ///
    /// The campaign can't be written, which doesn't happen.
    pub(super) fn write(&self) -> Result<String, serde_saphyr::SerializeError> {
        serde_saphyr::to_string(self)
    }

    /// What is named, and at which line.
    pub(super) fn references(&self) -> Vec<(Kind, &str, Option<u64>)> {
        let start = self.start_tag.iter().map(|tag| (Kind::Tag, tag.value.as_str(), line_of(tag)));
        let nodes = self.nodes.iter().flat_map(|node| {
            let it = &node.value;
            let tags = it.assign_tags.iter().chain(&it.remove_tags).flatten().map(|name| (Kind::Tag, name));
            let webhook = it.webhook.iter().map(|name| (Kind::Webhook, name));
            let campaigns = it.start_campaign.iter().chain(&it.stop_campaign).map(|name| (Kind::Campaign, name));
            let all = tags.chain(webhook).chain(campaigns);
            all.map(move |(kind, name)| (kind, name.as_str(), line_of(node)))
        });
        start.chain(nodes).collect()
    }

    /// The campaign that the file means; `id` gives the ids of what it names, which were all found.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with its nodes.
    pub(super) fn to_campaign(&self, id: &dyn Fn(Kind, &str) -> String) -> Result<Campaign, Vec<Problem>> {
        let (mut nodes, mut problems) = (Vec::with_capacity(self.nodes.len()), Vec::new());
        for (index, node) in self.nodes.iter().enumerate() {
            let following = self.nodes.get(index + 1).map_or("", |following| following.value.key.as_str());
            match node.value.to_pb(following, id) {
                Ok(node) => nodes.push(node),
                Err(text) => {
                    let text = format!("node `{}`: {text}", node.value.key);
                    problems.push(Problem { line: line_of(node), text });
                }
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let reentry = match self.reentry {
            Reentry::Never => PbReentry::Never,
            Reentry::AfterExit => PbReentry::AfterExit,
        };
        Ok(Campaign {
            name: self.name.clone(),
            description: self.description.clone(),
            start_tag_id: self.start_tag.as_ref().map(|tag| id(Kind::Tag, &tag.value)).unwrap_or_default(),
            reentry: reentry.into(),
            nodes,
            ..Campaign::default()
        })
    }

    /// A campaign as a file; `name` gives the names of ids, or the ids themselves.
    pub(super) fn of(campaign: &Campaign, name: &dyn Fn(Kind, &str) -> String) -> Self {
        let nodes = campaign.nodes.iter().enumerate().map(|(index, node)| {
            let following = campaign.nodes.get(index + 1).map_or("", |following| following.key.as_str());
            unplaced(Node::of(node, following, name))
        });
        let start = Some(campaign.start_tag_id.as_str()).filter(|id| !id.is_empty());
        Self {
            name: campaign.name.clone(),
            description: campaign.description.clone(),
            start_tag: start.map(|id| unplaced(name(Kind::Tag, id))),
            reentry: if campaign.reentry() == PbReentry::Never { Reentry::Never } else { Reentry::AfterExit },
            nodes: nodes.collect(),
        }
    }
}

impl Node {
    /// # Errors
    ///
    /// What is wrong with it.
    fn to_pb(&self, following: &str, id: &dyn Fn(Kind, &str) -> String) -> Result<CampaignNode, String> {
        let mut actions = self.actions(id)?;
        let action = actions.pop().ok_or_else(|| format!("has no action; give it one of {ACTIONS}"))?;
        if !actions.is_empty() {
            return Err("has several actions; make a node of each".to_owned());
        }
        let has_next = !matches!(action, Action::Decision(_) | Action::GoTo(_) | Action::Exit(_));
        let next_key = match &self.next {
            Some(next) => next.clone(),
            None if has_next => following.to_owned(),
            None => String::new(),
        };
        Ok(CampaignNode { key: self.key.clone(), next_key, action: Some(action) })
    }

    fn actions(&self, id: &dyn Fn(Kind, &str) -> String) -> Result<Vec<Action>, String> {
        let tag_ids = |names: &Vec<String>| names.iter().map(|name| id(Kind::Tag, name)).collect();
        let campaign_id = |name: &String| id(Kind::Campaign, name);
        let until = |until: Until| Action::Wait(WaitAction { until: Some(until) });
        let wait = self.wait.as_deref().map(|text| {
            duration::parse(text).ok_or_else(|| format!("{text:?} is no duration; write it as 2s, 5m, 3h, 2d or 1d12h"))
        });
        if self.exit == Some(false) {
            return Err("`exit` is either true or left out".to_owned());
        }
        let all = [
            self.webhook.as_ref().map(|name| Action::Webhook(WebhookAction { webhook_id: id(Kind::Webhook, name) })),
            self.assign_tags.as_ref().map(|names| Action::AssignTags(AssignTagsAction { tag_ids: tag_ids(names) })),
            self.remove_tags.as_ref().map(|names| Action::RemoveTags(RemoveTagsAction { tag_ids: tag_ids(names) })),
            wait.transpose()?.map(|duration| until(Until::Duration(duration))),
            self.wait_until.clone().map(|key| until(Until::FieldKey(key))),
            self.decision.as_ref().map(|it| {
                Action::Decision(DecisionAction {
                    condition: it.condition.clone(),
                    then_key: it.then.clone(),
                    else_key: it.otherwise.clone(),
                })
            }),
            self.set_field
                .as_ref()
                .map(|it| Action::SetField(SetFieldAction { field_key: it.field.clone(), value: it.value.clone() })),
            self.go_to.clone().map(|node_key| Action::GoTo(GoToAction { node_key })),
            self.exit.map(|_| Action::Exit(ExitAction {})),
            self.start_campaign
                .as_ref()
                .map(|name| Action::StartCampaign(StartCampaignAction { campaign_id: campaign_id(name) })),
            self.stop_campaign
                .as_ref()
                .map(|name| Action::StopCampaign(StopCampaignAction { campaign_id: campaign_id(name) })),
        ];
        Ok(all.into_iter().flatten().collect())
    }

    fn of(node: &CampaignNode, following: &str, name: &dyn Fn(Kind, &str) -> String) -> Self {
        let mut file = Self { key: node.key.clone(), ..Self::default() };
        let tags = |ids: &[String]| Some(ids.iter().map(|id| name(Kind::Tag, id)).collect());
        let has_next = !matches!(&node.action, Some(Action::Decision(_) | Action::GoTo(_) | Action::Exit(_)));
        match &node.action {
            Some(Action::Webhook(it)) => file.webhook = Some(name(Kind::Webhook, &it.webhook_id)),
            Some(Action::AssignTags(it)) => file.assign_tags = tags(&it.tag_ids),
            Some(Action::RemoveTags(it)) => file.remove_tags = tags(&it.tag_ids),
            Some(Action::Wait(it)) => match &it.until {
                Some(Until::Duration(duration)) => file.wait = Some(duration::write(duration)),
                Some(Until::FieldKey(key)) => file.wait_until = Some(key.clone()),
                None => {}
            },
            Some(Action::Decision(it)) => {
                let (condition, then, otherwise) = (it.condition.clone(), it.then_key.clone(), it.else_key.clone());
                file.decision = Some(Decision { condition, then, otherwise });
            }
            Some(Action::SetField(it)) => {
                file.set_field = Some(SetField { field: it.field_key.clone(), value: it.value.clone() });
            }
            Some(Action::GoTo(it)) => file.go_to = Some(it.node_key.clone()),
            Some(Action::Exit(_)) => file.exit = Some(true),
            Some(Action::StartCampaign(it)) => file.start_campaign = Some(name(Kind::Campaign, &it.campaign_id)),
            Some(Action::StopCampaign(it)) => file.stop_campaign = Some(name(Kind::Campaign, &it.campaign_id)),
            None => {}
        }
        let default = if has_next { following } else { "" };
        file.next = Some(node.next_key.clone()).filter(|next| next != default);
        file
    }
}

/// The actions, for people.
const ACTIONS: &str = "webhook, assign_tags, remove_tags, wait, wait_until, decision, set_field, go_to, exit, \
                       start_campaign and stop_campaign";

/// The line of something; `None` if it isn't known.
pub(super) fn line_of<T>(it: &Spanned<T>) -> Option<u64> {
    Some(it.referenced.line()).filter(|line| *line > 0)
}

fn unplaced<T>(value: T) -> Spanned<T> {
    Spanned { value, referenced: Location::UNKNOWN, defined: Location::UNKNOWN }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts that YAML reads as something else where they aren't quoted, or that its layout could break.
    #[test]
    fn every_text_comes_back_as_it_was() {
        let texts = [
            "null",
            "~",
            "yes",
            "true",
            "1.50",
            "0x1F",
            "007",
            "1e3",
            ".nan",
            "2026-01-31",
            "a: b",
            "a #b",
            "- a",
            "[a",
            "{a",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a`",
            "|",
            ">",
            "'",
            "\"",
            "\\",
            " a ",
            "a\nb\n",
            "\n a\n\n",
            "a\r\nb",
            "\ta",
            "<<",
            "=",
            "---",
            "...",
            "ü 😀 日本",
            "a\u{85}b",
            "a\u{2028}b",
            "\u{feff}a",
            "a\u{7f}b",
            "'a' in contact.tags && \"b\" == 'c'",
        ];
        for text in texts {
            let set = SetField { field: "city".into(), value: text.into() };
            let node = Node { key: "a".into(), set_field: Some(set), ..Node::default() };
            let tags = Node { key: "b".into(), assign_tags: Some(vec![text.into()]), ..Node::default() };
            let file = File {
                name: text.into(),
                description: text.into(),
                start_tag: Some(unplaced(text.into())),
                reentry: Reentry::Never,
                nodes: vec![unplaced(node), unplaced(tags)],
            };
            let written = file.write().unwrap();
            let read = File::parse(&written).unwrap_or_else(|problem| panic!("{text:?}: {problem:?}\n{written}"));
            let node = &read.nodes[0].value.set_field.as_ref().unwrap().value;
            let tag = &read.nodes[1].value.assign_tags.as_ref().unwrap()[0];
            let start = &read.start_tag.as_ref().unwrap().value;
            assert_eq!([&read.name, &read.description, start, node, tag], [text; 5], "{written}");
        }
    }

    /// What grows when it is read would take all memory.
    #[test]
    fn anchors_do_not_blow_up() {
        let mut text = String::from("name: X\nstart_tag: &a0 x\nnodes:\n");
        text.push_str("  - key: &n0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let before = level - 1;
            let row = vec![format!("*n{before}"); 10].join(", ");
            text.push_str(&format!("  - key: &n{level} [{row}]\n"));
        }
        File::parse(&text).unwrap_err();
    }

    #[test]
    fn ids_are_told_from_names() {
        assert!(Kind::Tag.is_id("tag_01jz8xw9e4fcvsk2bzn7q3m5ta"));
        for name in [
            "tag_01jz8xw9e4fcvsk2bzn7q3m5t",
            "tag_01JZ8XW9E4FCVSK2BZN7Q3M5TA",
            "wh_01jz8xw9e4fcvsk2bzn7q3m5ta",
            "tag_",
            "tag",
        ] {
            assert!(!Kind::Tag.is_id(name), "{name}");
        }
    }
}
