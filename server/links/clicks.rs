//! What a click does: the tag, the event and the count, in one transaction that concurrent clicks share.
//!
//! A person is led on when it is durable. Whoever goes away before has clicked nothing.

use std::collections::BTreeMap;

use crate::automation::{Assignment, Happening, Origin, Shared, assign, record};
use crate::domain::smart_link::{Clicks, Day, SmartLink};
use crate::domain::tag::TagKind;
use crate::error::Result;
use crate::ids::{ContactId, SmartLinkId, WorkspaceId};
use crate::store::config::WorkspaceConfig;
use crate::store::contact::ContactRef;
use crate::store::{self, Store, Tx};

/// The event of a click.
const LINK_CLICKED: &str = "link.clicked";

/// Who clicks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visitor {
    /// A contact, on its own URL.
    Contact(ContactId),
    /// Somebody, on the short URL.
    Anonymous,
    /// A program.
    Machine,
}

impl Visitor {
    /// For logs: without whom.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Contact(_) => "contact",
            Self::Anonymous => "anonymous",
            Self::Machine => "machine",
        }
    }

    const fn count(self) -> Clicks {
        let (contacts, anonymous, machines) = match self {
            Self::Contact(_) => (1, 0, 0),
            Self::Anonymous => (0, 1, 0),
            Self::Machine => (0, 0, 1),
        };
        Clicks { contacts, anonymous, machines }
    }
}

/// A click on a link.
#[derive(Clone, Debug)]
pub struct Click {
    pub(super) workspace_id: WorkspaceId,
    pub(super) link: SmartLink,
    pub(super) visitor: Visitor,
}

impl Shared for Click {
    type Answer = ();

    const NAME: &'static str = "click";

    /// The tag, the event, the count, and a delivery for each webhook event that the tag sets off.
    fn rows(&self, store: &Store) -> usize {
        let config = store.known_config(self.workspace_id);
        let events = |config: &WorkspaceConfig| -> usize {
            let activated = config.activated_by(self.link.tag_id);
            activated.map(|prepared| prepared.webhook.definition.events.len()).sum()
        };
        3 + config.as_deref().map_or(0, events)
    }

    async fn run(tx: &Tx, clicks: &[Self]) -> Result<Vec<Result<()>>> {
        click_all(tx, clicks).await
    }
}

/// Assigns, records and counts. A click of a contact or on a link that has been deleted meanwhile has its own error, and
/// does nothing.
async fn click_all(tx: &Tx, clicks: &[Click]) -> Result<Vec<Result<()>>> {
    tx.gate_shared().await?;
    let by_contacts: Vec<(usize, &Click, ContactId)> = clicks
        .iter()
        .enumerate()
        .filter_map(|(index, click)| match click.visitor {
            Visitor::Contact(contact) => Some((index, click, contact)),
            Visitor::Anonymous | Visitor::Machine => None,
        })
        .collect();
    let assignments: Vec<Assignment> =
        by_contacts.iter().map(|(_, click, contact)| assignment(click, *contact)).collect();
    let assigned = assign(tx, &assignments).await?;

    let mut results: Vec<Result<()>> = clicks.iter().map(|_| Ok(())).collect();
    let mut happenings = Vec::with_capacity(by_contacts.len());
    for ((index, click, contact), assigned) in by_contacts.into_iter().zip(assigned) {
        match assigned {
            Ok(_) => happenings.push(happening(tx, click, contact)),
            Err(error) => {
                if let Some(result) = results.get_mut(index) {
                    *result = Err(error);
                }
            }
        }
    }
    record(tx, happenings).await?;

    let mut counts: BTreeMap<SmartLinkId, Clicks> = BTreeMap::new();
    for (click, _) in clicks.iter().zip(&results).filter(|(_, result)| result.is_ok()) {
        *counts.entry(click.link.id).or_default() += click.visitor.count();
    }
    store::smart_link::count(tx, Day::of(tx.now()), &counts).await?;
    Ok(results)
}

fn assignment(click: &Click, contact: ContactId) -> Assignment {
    Assignment {
        workspace_id: click.workspace_id,
        contact: ContactRef::Id(contact),
        tags: vec![click.link.tag_id.into()],
        kind: TagKind::SmartLink,
        origin: Origin::default(),
    }
}

fn happening(tx: &Tx, click: &Click, contact: ContactId) -> Happening {
    let attributes = serde_json::json!({ "smart_link_id": click.link.id.to_string(), "name": click.link.name });
    Happening::now(tx, (click.workspace_id, contact), LINK_CLICKED, attributes, Origin::default())
}
