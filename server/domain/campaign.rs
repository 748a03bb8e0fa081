//! Campaigns: a graph of actions that contacts go through.

mod check;
mod diagram;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use check::{Known, Problem, check};
pub use diagram::{Names, mermaid};

use super::coded::coded;
use super::labels::Labels;
use super::time::Micros;
use super::trigger_data::TriggerData;
use crate::ids::{CampaignId, ContactId, EnrollmentId, TagId, WebhookId, WorkspaceId};

coded! {
    /// Whether contacts enter a campaign and go on.
    pub enum CampaignState {
        /// It was never activated.
        Draft = 1, "DRAFT";
        /// Contacts enter and go on.
        Active = 2, "ACTIVE";
        /// Contacts stay where they are.
        Paused = 3, "PAUSED";
    }
}

coded! {
    /// When a contact may enter a campaign again.
    pub enum Reentry {
        /// Never.
        Never = 1, "NEVER";
        /// When it isn't in the campaign any more.
        AfterExit = 2, "AFTER_EXIT";
    }
}

coded! {
    /// Whether a contact's way through a campaign goes on.
    pub enum EnrollmentState {
        /// The contact is in the campaign.
        Running = 1, "RUNNING";
        /// It came to an exit.
        Finished = 2, "FINISHED";
        /// It was taken out, or its node was gone.
        Exited = 3, "EXITED";
        /// A step failed too often.
        Failed = 4, "FAILED";
    }
}

/// A campaign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Campaign {
    /// Its id.
    pub id: CampaignId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Its name, unique in the workspace.
    pub name: String,
    /// The caller's own name of it, unique in the workspace.
    pub key: Option<String>,
    /// The caller's own marks of it.
    pub labels: Labels,
    /// For people.
    pub description: String,
    /// Whether contacts enter and go on.
    pub state: CampaignState,
    /// What is done.
    pub definition: Definition,
    /// Raised by each change; the etag.
    pub version: i64,
    /// When it was created.
    pub created: Micros,
    /// When it was last changed.
    pub updated: Micros,
}

/// What a campaign does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// The tag with which contacts enter.
    pub start_tag: Option<TagId>,
    /// When they may enter again.
    pub reentry: Reentry,
    /// The actions; contacts begin at the first one.
    pub nodes: Vec<Node>,
}

/// One action of a campaign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name in the campaign.
    pub key: String,
    /// The node that follows; `None` where there is none, or none yet.
    pub next: Option<String>,
    /// What is done.
    pub action: Action,
}

/// What a node does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Calls a webhook.
    Webhook(WebhookId),
    /// Assigns tags.
    AssignTags(Vec<TagId>),
    /// Removes tags.
    RemoveTags(Vec<TagId>),
    /// Waits for a while.
    Wait(Duration),
    /// Waits until the time of a date or datetime field.
    WaitUntil(String),
    /// Asks whether a condition holds.
    Decision {
        /// In CEL.
        condition: String,
        /// What follows if it does.
        then_node: Option<String>,
        /// What follows if it doesn't.
        else_node: Option<String>,
    },
    /// Sets a field, or clears it with an empty value.
    SetField {
        /// The field.
        key: String,
        /// The value as a text of its type.
        value: String,
    },
    /// Goes on at another node.
    GoTo(Option<String>),
    /// Ends the way.
    Exit,
    /// Lets the contact enter another campaign.
    StartCampaign(CampaignId),
    /// Takes the contact out of another campaign.
    StopCampaign(CampaignId),
}

impl Definition {
    /// The node with a key.
    #[must_use]
    pub fn node(&self, key: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.key == key)
    }

    /// Where contacts begin.
    #[must_use]
    pub fn entry(&self) -> Option<&Node> {
        self.nodes.first()
    }

    /// Whether a tag is named: as the start, or by an action.
    #[must_use]
    pub fn uses_tag(&self, tag: TagId) -> bool {
        let by_node = |node: &Node| match &node.action {
            Action::AssignTags(tags) | Action::RemoveTags(tags) => tags.contains(&tag),
            _ => false,
        };
        self.start_tag == Some(tag) || self.nodes.iter().any(by_node)
    }

    /// Drops a tag that is being deleted. An action without tags does nothing.
    pub fn forget_tag(&mut self, tag: TagId) {
        self.start_tag = self.start_tag.filter(|start| *start != tag);
        for node in &mut self.nodes {
            if let Action::AssignTags(tags) | Action::RemoveTags(tags) = &mut node.action {
                tags.retain(|id| *id != tag);
            }
        }
    }
}

impl Node {
    /// The nodes that may follow, with what the way to them is called; those that aren't said yet are `None`.
    #[must_use]
    pub fn ways(&self) -> Vec<(&'static str, Option<&str>)> {
        match &self.action {
            Action::Decision { then_node, else_node, .. } => {
                vec![("yes", then_node.as_deref()), ("no", else_node.as_deref())]
            }
            Action::GoTo(node) => vec![("", node.as_deref())],
            Action::Exit => Vec::new(),
            _ => vec![("", self.next.as_deref())],
        }
    }
}

/// The contacts of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCount {
    /// How many wait there.
    pub waiting: i64,
    /// How often one went on from there, or left the campaign by an exit there.
    pub passed: i64,
}

/// A contact's way through a campaign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrollment {
    /// Its id.
    pub id: EnrollmentId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// The campaign.
    pub campaign_id: CampaignId,
    /// The contact.
    pub contact_id: ContactId,
    /// Whether it goes on.
    pub state: EnrollmentState,
    /// The node that is next, or was the last.
    pub node: String,
    /// When that is due; `None` when the way has ended.
    pub due: Option<Micros>,
    /// Whether the node is a wait that has begun.
    pub is_waiting: bool,
    /// How many actions were done.
    pub steps: i64,
    /// How often in a row the present step failed.
    pub failures: i16,
    /// Why it failed the last time.
    pub error: String,
    /// How many causes inside the system lie before it.
    pub depth: i16,
    /// The trace that its beginning belongs to.
    pub traceparent: Option<String>,
    /// The data of the trigger with which the contact entered; `None` once the way has ended.
    pub data: Option<Arc<TriggerData>>,
    /// When the contact entered.
    pub created: Micros,
    /// When the way ended.
    pub ended: Option<Micros>,
}
