//! Tagging, untagging, and both of many contacts at once.

use serde::{Deserialize, Serialize};

use super::read_contact_ref;
use crate::automation::{Assigned, AssignedTag, Assignment, Origin, refuse_other_kind, run_each, unassign};
use crate::domain::tag::TagKind;
use crate::error::{Error, Result, Violations};
use crate::ids::{ContactId, TagId, WorkspaceId};
use crate::pb;
use crate::pb::batch_tag_contacts_response::Result as ItemResult;
use crate::pb::batch_tag_contacts_response::result::Result as ItemAnswer;
use crate::rpc::auth::Caller;
use crate::rpc::call::request_key;
use crate::rpc::convert::{texts, timestamp};
use crate::rpc::trigger::decisions_to_pb;
use crate::store::contact::ContactRef;
use crate::store::request::RequestKey;
use crate::store::{self, Store, Tx};

/// The most items of a batch.
const MAX_BATCH: usize = 1_000;

/// Reads whom to tag with what.
pub(super) fn read(request: &pb::TagContactRequest, violations: &mut Violations) -> Option<(ContactRef, Vec<TagId>)> {
    let contact = read_contact_ref(&request.contact_id, &request.email, violations);
    let tag_ids = violations.ids("tag_ids", &request.tag_ids);
    contact.map(|contact| (contact, tag_ids))
}

/// Refuses a batch that is empty or too large; the items are left out of the proto's rules, and with them their number.
pub(super) fn check_batch_size(items: usize, violations: &mut Violations) {
    if items == 0 || items > MAX_BATCH {
        violations.add_if_new("requests", "ITEMS", format!("must have 1 to {MAX_BATCH} items; has {items}"));
    }
}

/// Items of BatchTagContacts: those that can be read are run together, each other one keeps its error.
#[derive(Default)]
pub(super) struct Batch {
    /// In the order of the request: why the item was refused, or `None` if it is among the good ones.
    refused: Vec<Option<Error>>,
    good: Vec<(Assignment, Option<RequestKey>)>,
}

impl Batch {
    /// Reads one item.
    pub(super) fn add(
        &mut self,
        caller: &Caller,
        workspace: WorkspaceId,
        origin: &Origin,
        item: pb::TagContactRequest,
    ) {
        match read_item(caller, workspace, origin, item) {
            Ok(good) => {
                self.good.push(good);
                self.refused.push(None);
            }
            Err(error) => self.refused.push(Some(error)),
        }
    }

    /// Runs the good items; answers for all of them.
    ///
    /// # Errors
    ///
    /// The database's, when nothing can be said of any item.
    pub(super) async fn run(self, store: &Store) -> Result<Vec<ItemResult>> {
        let wishes: Vec<_> = self.good.iter().map(|(assignment, key)| (assignment, key.as_ref())).collect();
        let mut results = run_each(store, &wishes, |_| true).await?.into_iter();
        let answers = self.refused.into_iter().map(|refused| match refused {
            Some(error) => Err(error),
            None => results.next().unwrap_or_else(|| Err(Error::internal("an item got no result"))),
        });
        Ok(answers.map(item_to_pb).collect())
    }
}

fn read_item(
    caller: &Caller,
    workspace_id: WorkspaceId,
    origin: &Origin,
    mut item: pb::TagContactRequest,
) -> Result<(Assignment, Option<RequestKey>)> {
    let mut violations = Violations::default();
    violations.check_rules("", &item)?;
    let key = request_key(caller, &mut item, "request_id", &mut violations);
    let read = read(&item, &mut violations);
    violations.finish()?;
    let (contact, tag_ids) = read.ok_or_else(|| Error::internal("a field was refused without a word"))?;
    Ok((Assignment { workspace_id, contact, tag_ids, kind: TagKind::Manual, origin: origin.clone() }, key))
}

fn item_to_pb(result: Result<Assigned>) -> ItemResult {
    let answer = match result {
        Ok(assigned) => ItemAnswer::Response(tagged_to_pb(&assigned)),
        Err(error) => ItemAnswer::Error(error.into_item_status()),
    };
    ItemResult { result: Some(answer) }
}

/// The tags that were taken off a contact.
#[derive(Serialize, Deserialize)]
pub(super) struct Untagged {
    contact_id: ContactId,
    removed: Vec<TagId>,
}

/// Takes tags off a contact.
///
/// # Errors
///
/// [`Error::NotFound`] for the contact or a tag, [`Error::TagNotAssignable`]; the database's.
pub(super) async fn untag(tx: &Tx, workspace: WorkspaceId, which: &ContactRef, tag_ids: &[TagId]) -> Result<Untagged> {
    tx.gate_shared().await?;
    let config = tx.config(workspace).await?;
    let contact = store::contact::get(tx.db(), workspace, which).await?;
    for id in tag_ids {
        let tag = config.tag(*id).ok_or_else(|| Error::not_found(*id))?;
        refuse_other_kind(tag, TagKind::Manual)?;
    }
    let rows: Vec<_> = tag_ids.iter().map(|tag| (workspace, contact.id, *tag)).collect();
    let removed = unassign(tx, &rows).await?;
    let is_removed = |tag: &TagId| removed.contains(&(contact.id, *tag));
    Ok(Untagged { contact_id: contact.id, removed: tag_ids.iter().copied().filter(is_removed).collect() })
}

/// What was assigned and triggered.
pub(super) fn assigned_to_pb(assigned: &Assigned) -> (Vec<pb::TagAssignment>, Vec<pb::TriggerDecision>) {
    let assignment = |tag: &AssignedTag| pb::TagAssignment {
        tag_id: tag.tag_id.to_string(),
        newly_assigned: tag.is_new,
        assign_time: Some(timestamp(tag.since)),
        effect_of_tag_id: tag.effect_of.map(|tag| tag.to_string()).unwrap_or_default(),
    };
    (assigned.tags.iter().map(assignment).collect(), decisions_to_pb(&assigned.triggers))
}

/// The answer of TagContact.
pub(super) fn tagged_to_pb(assigned: &Assigned) -> pb::TagContactResponse {
    let contact_id = assigned.contact_id.to_string();
    let (assignments, triggers) = assigned_to_pb(assigned);
    pb::TagContactResponse { contact_id, assignments, triggers, removed_tag_ids: texts(&assigned.removed) }
}

/// The answer of UntagContact.
pub(super) fn untagged_to_pb(untagged: &Untagged) -> pb::UntagContactResponse {
    pb::UntagContactResponse { contact_id: untagged.contact_id.to_string(), removed_tag_ids: texts(&untagged.removed) }
}
