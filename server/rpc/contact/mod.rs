//! ContactService. [`convert`] reads and writes contacts, [`tagging`] does what tags are about, [`upsert`] creates or
//! updates them, [`erase`] deletes them.

mod convert;
mod erase;
mod tagging;
mod upsert;

use std::collections::HashMap;

use prost::Message;
use tonic::{Request, Response, Status};

use self::convert::{Parts, Patch, status_of, to_pb};
use self::upsert::Upsert;
use super::Services;
use super::batch::Batch;
use super::call::{Call, check_etag};
use super::contact_name::list_of;
use super::convert::{parse_time, refuse_nul, timestamp};
use super::mask::Update;
use super::page::{Page, Weight};
use super::repeat::Repeatable;
use super::trigger::decisions_to_pb;
use super::values::origin_with;
use super::write::{Answer, Decided, answer_by_id};
use crate::automation::{self, Change, Origin};
use crate::domain::contact::{Contact, ExternalId};
use crate::domain::field::FieldType;
use crate::domain::time::Micros;
use crate::error::{Result, Violations};
use crate::ids::{ContactId, TagId, TypedId, WorkspaceId};
use crate::pb;
use crate::store::contact::{ContactFilter, ContactRef};
use crate::store::contact_tag::HeldTag;
use crate::store::{self, Tx};

/// How often a write is run again that lost a race for an identity.
const MAX_TRIES: u32 = 4;

#[tonic::async_trait]
impl pb::contact_service_server::ContactService for Services {
    async fn create_contact(
        &self,
        request: Request<pb::CreateContactRequest>,
    ) -> Result<Response<pb::Contact>, Status> {
        let mut call = Call::open_write(request)?;
        let given = call.message.contact.take().unwrap_or_default();
        let workspace = call.workspace()?;
        let patch = self.read_given(workspace, &given, &mut call.violations).await?;
        patch.identities(&mut call.violations);
        call.finish()?;
        let (id, patch, origin) = (self.new_id(), &patch, &call.origin());
        let make = |tx: Tx| async move {
            hold_fields(&tx, workspace, patch).await?;
            let contact = patch.create(id, tx.now())?;
            store::contact::insert(&tx, workspace, &contact).await?;
            automation::changed(&tx, workspace, &contact, Change::Created, origin).await?;
            Ok(contact)
        };
        Ok(Response::new(to_pb(&self.write_contact(&call, make).await?)))
    }

    async fn get_contact(&self, request: Request<pb::GetContactRequest>) -> Result<Response<pb::Contact>, Status> {
        let mut call = Call::open(request)?;
        let which = ContactRef::Id(call.only_id(|request| &request.id)?);
        let contact = store::contact::get(self.store.read(), call.workspace()?, &which).await?;
        Ok(Response::new(to_pb(&contact)))
    }

    async fn lookup_contact(
        &self,
        request: Request<pb::LookupContactRequest>,
    ) -> Result<Response<pb::Contact>, Status> {
        let mut call = Call::open(request)?;
        let which = call.contact();
        let which = call.finish_with(which)?;
        let contact = store::contact::get(self.store.read(), call.workspace()?, &which).await?;
        Ok(Response::new(to_pb(&contact)))
    }

    async fn list_contacts(
        &self,
        request: Request<pb::ListContactsRequest>,
    ) -> Result<Response<pb::ListContactsResponse>, Status> {
        let mut call = Call::open(request)?;
        let pb::ListContactsRequest { page_size, page_token, filter } = std::mem::take(&mut call.message);
        let page = Page::<ContactId>::read(page_size, &page_token, "contacts", filter.as_ref(), &mut call.violations);
        let filter = parse_filter(&filter.unwrap_or_default(), &mut call.violations);
        call.finish()?;
        let workspace = call.workspace()?;
        let db = self.store.read();
        let fetch = |after, limit| store::contact::list(db, workspace, &filter, after, limit);
        let show = |contact: Contact| to_pb(&contact);
        let (contacts, next_page_token) = page.collect(Weight::Heavy, fetch, |contact| contact.id, show).await?;
        Ok(Response::new(pb::ListContactsResponse { contacts, next_page_token }))
    }

    async fn update_contact(
        &self,
        request: Request<pb::UpdateContactRequest>,
    ) -> Result<Response<pb::Contact>, Status> {
        let mut call = Call::open_write(request)?;
        let (contact, mask) = (call.message.contact.take(), call.message.update_mask.take());
        let change = Update::read(contact, mask, &mut call.violations)?;
        let id: Option<ContactId> = call.id("contact.id", &change.given.id);
        let parts = Parts::named(&change);
        let workspace = call.workspace()?;
        let custom = self.custom_fields(workspace, &parts).await?;
        let patch = Patch::read_with_rules(&change.given, &parts, &custom, &mut call.violations)?;
        let which = ContactRef::Id(call.finish_with(id)?);
        let (which, patch, etag, origin) = (&which, &patch, change.given.etag.as_str(), &call.origin());
        let make = |tx: Tx| async move {
            hold_fields(&tx, workspace, patch).await?;
            let contact = store::contact::lock(&tx, workspace, which).await?.ok_or_else(|| which.not_found())?;
            check_etag("contact", etag, contact.version)?;
            update(&tx, workspace, contact, patch, origin).await
        };
        Ok(Response::new(to_pb(&self.write_contact(&call, make).await?)))
    }

    async fn upsert_contact(
        &self,
        request: Request<pb::UpsertContactRequest>,
    ) -> Result<Response<pb::UpsertContactResponse>, Status> {
        let mut call = Call::open_write(request)?;
        let given = call.message.contact.take().unwrap_or_default();
        let (workspace, origin) = (call.workspace()?, call.origin());
        let patch = self.read_given(workspace, &given, &mut call.violations).await?;
        let tag_names = std::mem::take(&mut call.message.tag_names);
        let tags = tagging::read_tags(&call.message.tag_ids, tag_names, 0, &mut call.violations);
        let identities = upsert::identities(&given, &patch, &mut call.violations);
        let origin = origin_with(std::mem::take(&mut call.message.values), &origin, &mut call.violations);
        call.finish()?;
        let id = self.new_id();
        let upsert = &Upsert { workspace, identities, etag: given.etag, patch, tags, id, origin };
        let upserted = self.write_contact(&call, |tx: Tx| async move { upsert.run(&tx).await }).await?;
        Ok(Response::new(upserted.into_pb()))
    }

    async fn delete_contact(
        &self,
        request: Request<pb::DeleteContactRequest>,
    ) -> Result<Response<pb::DeleteContactResponse>, Status> {
        let mut call = Call::open_write(request)?;
        let id: ContactId = call.only_id(|request| &request.id)?;
        let (workspace, origin, etag) = (call.workspace()?, &call.origin(), call.message.etag.as_str());
        let make = |tx: Tx| async move { erase::delete(&tx, workspace, id, etag, origin).await.map(Decided) };
        let Decided(triggers) = call.write(&self.store, make).await?;
        Ok(Response::new(pb::DeleteContactResponse { triggers: decisions_to_pb(&triggers) }))
    }

    async fn tag_contact(
        &self,
        request: Request<pb::TagContactRequest>,
    ) -> Result<Response<pb::TagContactResponse>, Status> {
        let mut call = Call::open_write(request)?;
        let (origin, message) = ((call.workspace()?, &call.origin()), std::mem::take(&mut call.message));
        let assignment = tagging::read(message, origin, &mut call.violations);
        let assignment = call.finish_with(assignment)?;
        let assigned = self.assigner.commit(assignment, call.key).await?;
        Ok(Response::new(tagging::tagged_to_pb(&assigned)))
    }

    async fn untag_contact(
        &self,
        request: Request<pb::UntagContactRequest>,
    ) -> Result<Response<pb::UntagContactResponse>, Status> {
        let mut call = Call::open_write(request)?;
        let which = call.contact();
        let tag_names = std::mem::take(&mut call.message.tag_names);
        let tags = &tagging::read_tags(&call.message.tag_ids, tag_names, 1, &mut call.violations);
        let which = &call.finish_with(which)?;
        let workspace = call.workspace()?;
        let make = |tx: Tx| async move { tagging::untag(&tx, workspace, which, tags).await.map(Decided) };
        let Decided(untagged) = call.write(&self.store, make).await?;
        Ok(Response::new(tagging::untagged_to_pb(&untagged)))
    }

    async fn batch_tag_contacts(
        &self,
        request: Request<pb::BatchTagContactsRequest>,
    ) -> Result<Response<pb::BatchTagContactsResponse>, Status> {
        let mut call = Call::open(request)?;
        let items = std::mem::take(&mut call.message.requests);
        let origin = (call.workspace()?, &call.origin());
        let batch = Batch::read(&mut call, items, |item, violations| tagging::read(item, origin, violations))?;
        let results = batch.run(&self.store, |_, assigned| tagging::tagged_to_pb(&assigned)).await?;
        let results = results.into_iter().map(tagging::item_to_pb).collect();
        Ok(Response::new(pb::BatchTagContactsResponse { results }))
    }

    async fn list_contact_tags(
        &self,
        request: Request<pb::ListContactTagsRequest>,
    ) -> Result<Response<pb::ListContactTagsResponse>, Status> {
        let mut call = Call::open(request)?;
        let which = call.contact();
        let pb::ListContactTagsRequest { page_size, page_token, .. } = std::mem::take(&mut call.message);
        let list = list_of("contact_tags", which.as_ref());
        let page = Page::<(Micros, TagId)>::read(page_size, &page_token, &list, None::<&()>, &mut call.violations);
        let which = call.finish_with(which)?;
        let (workspace, db) = (call.workspace()?, self.store.read());
        let id = store::contact::get(db, workspace, &which).await?.id;
        let fetch = |after, limit| store::contact_tag::list(db, id, after, limit);
        let show = |tag: HeldTag| pb::ContactTag {
            tag_id: tag.tag_id.to_string(),
            tag_name: tag.name.unwrap_or_default(),
            assign_time: Some(timestamp(tag.since)),
        };
        let (mut contact_tags, next_page_token) =
            page.collect(Weight::Light, fetch, |tag| (tag.since, tag.tag_id), show).await?;
        // A tag that is being deleted has no name any more.
        contact_tags.retain(|tag| !tag.tag_name.is_empty());
        Ok(Response::new(pb::ListContactTagsResponse { contact_tags, next_page_token }))
    }
}

impl Services {
    fn new_id(&self) -> ContactId {
        ContactId::generate(self.store.clock().now(), self.store.entropy())
    }

    /// Reads a contact of which counts what is given.
    async fn read_given(
        &self,
        workspace: WorkspaceId,
        given: &pb::Contact,
        violations: &mut Violations,
    ) -> Result<Patch> {
        let parts = Parts::given(given);
        let custom = self.custom_fields(workspace, &parts).await?;
        Patch::read(given, &parts, &custom, violations)
    }

    /// The types of the custom fields, if any is named.
    async fn custom_fields(&self, workspace: WorkspaceId, parts: &Parts) -> Result<HashMap<String, FieldType>> {
        if parts.names_custom_fields() {
            store::field::types(self.store.read(), workspace).await
        } else {
            Ok(HashMap::new())
        }
    }

    /// [`Call::write`] for a write that may lose a race for an identity: the next run sees which contact has it.
    async fn write_contact<M, T, F, Fut>(&self, call: &Call<M>, make: F) -> Result<T>
    where
        M: Repeatable + Message,
        T: Answer,
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let mut tries = 1;
        loop {
            match call.write(&self.store, &make).await {
                Err(error) if tries < MAX_TRIES && store::contact::is_lost_race(&error) => tries += 1,
                other => return other,
            }
        }
    }
}

answer_by_id!(Contact, |tx, workspace, id| async {
    store::contact::get(tx.db(), workspace, &ContactRef::Id(id)).await
});

/// Takes the gate, and so comes before all other locks; makes sure that the custom fields of a change are there until the
/// commit.
async fn hold_fields(tx: &Tx, workspace: WorkspaceId, patch: &Patch) -> Result<()> {
    tx.gate_shared().await?;
    if !patch.has_custom_values() {
        return Ok(());
    }
    patch.check_fields(&store::field::types(tx.db(), workspace).await?)
}

/// Changes a locked contact; one that is as it should be already stays untouched.
async fn update(
    tx: &Tx,
    workspace: WorkspaceId,
    mut contact: Contact,
    patch: &Patch,
    origin: &Origin,
) -> Result<Contact> {
    let before = contact.status;
    if patch.apply(&mut contact)? {
        contact.version += 1;
        contact.updated = tx.now();
        store::contact::update(tx, workspace, &contact).await?;
        automation::changed(tx, workspace, &contact, Change::Updated(before), origin).await?;
    }
    Ok(contact)
}

fn parse_filter(filter: &pb::list_contacts_request::Filter, violations: &mut Violations) -> ContactFilter {
    refuse_nul("filter.email_prefix", &filter.email_prefix, violations);
    let external_ids = filter.external_ids.iter().enumerate().filter_map(|(index, text)| {
        violations.take(&format!("filter.external_ids[{index}]"), "EXTERNAL_ID", ExternalId::parse(text))
    });
    let external_ids: Vec<ExternalId> = external_ids.collect();
    ContactFilter {
        tag_ids: violations.ids("filter.tag_ids", &filter.tag_ids),
        statuses: filter.statuses.iter().filter_map(|status| status_of(*status)).collect(),
        email_prefix: filter.email_prefix.to_lowercase(),
        external_ids,
        created_after: parse_time("filter.create_start_time", filter.create_start_time, violations),
        created_before: parse_time("filter.create_end_time", filter.create_end_time, violations),
    }
}
