//! Tagging, untagging, and both of many contacts at once.

use serde::{Deserialize, Serialize};

use crate::automation::{Assigned, AssignedTag, Assignment, Origin, refuse_other_kind, unassign};
use crate::domain::tag::{TagKind, TagRef};
use crate::error::{Result, Violations};
use crate::ids::{ContactId, TagId, WorkspaceId};
use crate::pb;
use crate::pb::batch_tag_contacts_response::Result as ItemResult;
use crate::pb::batch_tag_contacts_response::result::Result as ItemAnswer;
use crate::rpc::contact_name::NamesContact;
use crate::rpc::convert::{texts, timestamp};
use crate::rpc::trigger::decisions_to_pb;
use crate::rpc::values::origin_with;
use crate::store::contact::ContactRef;
use crate::store::{self, Tx};

/// The most tags that one request names.
const MAX_TAGS: usize = 20;

/// Reads whom to tag with what.
pub(super) fn read(
    mut request: pb::TagContactRequest,
    (workspace_id, origin): (WorkspaceId, &Origin),
    violations: &mut Violations,
) -> Option<Assignment> {
    let contact = request.take_contact().and_then(|name| name.parse(violations));
    let tags = read_tags(&request.tag_ids, request.tag_names, 1, violations);
    let origin = origin_with(request.values, origin, violations);
    Some(Assignment { workspace_id, contact: contact?, tags, kind: TagKind::Manual, origin })
}

/// Reads the tags that a request names by id and by name; `fewest` is how many it must name.
pub(super) fn read_tags(ids: &[String], names: Vec<String>, fewest: usize, violations: &mut Violations) -> Vec<TagRef> {
    if !(fewest..=MAX_TAGS).contains(&(ids.len() + names.len())) {
        let rule = format!("tag_ids and tag_names must be {fewest} to {MAX_TAGS} together");
        violations.add_if_new("tag_ids", "TAG_COUNT", rule);
    }
    let ids = violations.ids("tag_ids", ids).into_iter().map(TagRef::Id);
    ids.chain(names.into_iter().map(TagRef::Name)).collect()
}

/// What came of an item of BatchTagContacts.
pub(super) fn item_to_pb(result: Result<pb::TagContactResponse>) -> ItemResult {
    let answer = match result {
        Ok(response) => ItemAnswer::Response(response),
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
/// [`crate::error::Error::NotFound`] for the contact or a tag, [`crate::error::Error::TagNotAssignable`]; the database's.
pub(super) async fn untag(tx: &Tx, workspace: WorkspaceId, which: &ContactRef, tags: &[TagRef]) -> Result<Untagged> {
    tx.gate_shared().await?;
    let config = tx.config(workspace).await?;
    let contact = store::contact::get(tx.db(), workspace, which).await?;
    let tags = config.find_tags(tags)?;
    for tag in &tags {
        refuse_other_kind(tag, TagKind::Manual)?;
    }
    let rows: Vec<_> = tags.iter().map(|tag| (workspace, contact.id, tag.id)).collect();
    let removed = unassign(tx, &rows).await?;
    let is_removed = |tag: &TagId| removed.contains(&(contact.id, *tag));
    Ok(Untagged { contact_id: contact.id, removed: tags.iter().map(|tag| tag.id).filter(is_removed).collect() })
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
