//! Creating or updating a contact, and tagging it, in one transaction.

use serde::{Deserialize, Serialize};

use super::convert::{Patch, to_pb};
use super::{hold_fields, tagging, update};
use crate::automation::{self, Assigned, Assignment, Change, Origin};
use crate::domain::contact::Contact;
use crate::domain::tag::{TagKind, TagRef};
use crate::error::{Error, Result, Violations};
use crate::ids::{ContactId, WorkspaceId};
use crate::pb;
use crate::rpc::call::check_etag;
use crate::rpc::convert::texts;
use crate::rpc::write::Answer;
use crate::store::Tx;
use crate::store::contact::{self, ContactRef};

/// A contact to create or update, and to tag.
pub(super) struct Upsert {
    pub(super) workspace: WorkspaceId,
    /// How the contact is found: the first that finds one decides. An id stands alone.
    pub(super) identities: Vec<ContactRef>,
    /// The etag that the contact must have; empty for any.
    pub(super) etag: String,
    pub(super) patch: Patch,
    pub(super) tags: Vec<TagRef>,
    /// The contact's id if it is new.
    pub(super) id: ContactId,
    pub(super) origin: Origin,
}

/// What an upsert did.
pub(super) struct Upserted {
    contact: Contact,
    created: bool,
    assigned: Option<Assigned>,
}

/// Reads how the contact of an upsert is found: by its id alone if it is given, else by the identities in `patch`.
pub(super) fn identities(given: &pb::Contact, patch: &Patch, violations: &mut Violations) -> Vec<ContactRef> {
    if given.id.is_empty() {
        return patch.identities(violations);
    }
    violations.id("contact.id", &given.id).map(ContactRef::Id).into_iter().collect()
}

impl Upsert {
    /// Creates or updates the contact, and tags it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for an id or a tag, [`Error::EtagMismatch`], [`Error::ContactClash`], [`Error::Invalid`] if the
    /// contact would break a rule, [`Error::TagNotAssignable`]; one that [`contact::is_lost_race`] if it is to be run
    /// again; the database's.
    pub(super) async fn run(&self, tx: &Tx) -> Result<Upserted> {
        hold_fields(tx, self.workspace, &self.patch).await?;
        let found = contact::lock_first(tx, self.workspace, &self.identities).await?;
        let (contact, created) = match (found, self.identities.first()) {
            (Some(contact), _) => {
                check_etag("contact", &self.etag, contact.version)?;
                (update(tx, self.workspace, contact, &self.patch, &self.origin).await?, false)
            }
            (None, Some(which @ ContactRef::Id(_))) => return Err(which.not_found()),
            (None, _) if !self.etag.is_empty() => return Err(Error::EtagMismatch { resource: "contact" }),
            (None, _) => (self.create(tx).await?, true),
        };
        let assigned = self.tag(tx, contact.id).await?;
        Ok(Upserted { contact, created, assigned })
    }

    async fn create(&self, tx: &Tx) -> Result<Contact> {
        let contact = self.patch.create(self.id, tx.now())?;
        match contact::insert(tx, self.workspace, &contact).await {
            Ok(()) => {
                automation::changed(tx, self.workspace, &contact, Change::Created, &self.origin).await?;
                Ok(contact)
            }
            // A contact with one of the identities was created since: the next run finds and updates it.
            Err(Error::AlreadyExists { field, .. }) => Err(contact::lost_race(field)),
            Err(other) => Err(other),
        }
    }

    async fn tag(&self, tx: &Tx, contact: ContactId) -> Result<Option<Assigned>> {
        if self.tags.is_empty() {
            return Ok(None);
        }
        let assignment = Assignment {
            workspace_id: self.workspace,
            contact: ContactRef::Id(contact),
            tags: self.tags.clone(),
            kind: TagKind::Manual,
            origin: self.origin.clone(),
        };
        automation::assign(tx, &[assignment]).await?.pop().transpose()
    }
}

impl Upserted {
    pub(super) fn into_pb(self) -> pb::UpsertContactResponse {
        let (assignments, triggers) = self.assigned.as_ref().map(tagging::assigned_to_pb).unwrap_or_default();
        pb::UpsertContactResponse {
            contact: Some(to_pb(&self.contact)),
            created: self.created,
            assignments,
            triggers,
            removed_tag_ids: self.assigned.map(|assigned| texts(&assigned.removed)).unwrap_or_default(),
        }
    }
}

impl Answer for Upserted {
    fn remembered(&self) -> Result<String> {
        let remembered =
            RememberedUpsert { contact_id: self.contact.id, created: self.created, assigned: self.assigned.clone() };
        serde_json::to_string(&remembered).map_err(Error::internal)
    }

    async fn reload(tx: &Tx, workspace: Option<WorkspaceId>, remembered: &str) -> Result<Self> {
        let RememberedUpsert { contact_id, created, assigned } =
            serde_json::from_str(remembered).map_err(Error::internal)?;
        Ok(Self { contact: Contact::reload(tx, workspace, &contact_id.to_string()).await?, created, assigned })
    }
}

/// An upsert without the contact's data.
#[derive(Serialize, Deserialize)]
struct RememberedUpsert {
    contact_id: ContactId,
    created: bool,
    assigned: Option<Assigned>,
}
