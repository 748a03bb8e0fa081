//! TagService. [`convert`] reads and writes tags.

mod convert;

use tonic::{Request, Response, Status};

use super::Services;
use super::call::{Call, check_etag};
use super::convert::refuse_nul;
use super::mask::Update;
use super::page::{Page, Weight};
use super::smart_link;
use super::write::answer_by_id;
use crate::domain::tag::Tag;
use crate::error::{Error, Result};
use crate::ids::{TagId, TypedId, WorkspaceId};
use crate::pb;
use crate::store::leftover::{self, Leftover};
use crate::store::tag::TagUser;
use crate::store::{self, Tx};
use convert::{kind_of, parse, to_pb};

/// How many users of a tag an error names.
const NAMED_USERS: usize = 20;

#[tonic::async_trait]
impl pb::tag_service_server::TagService for Services {
    async fn create_tag(&self, request: Request<pb::CreateTagRequest>) -> Result<Response<pb::Tag>, Status> {
        let mut call = Call::open_write(request)?;
        let draft = call.message.tag.take().unwrap_or_default();
        if draft.kind() == pb::tag::Kind::SmartLink {
            call.violations.add_if_new("tag.kind", "TAG_KIND", "must be another: CreateSmartLink creates such a tag");
        }
        call.finish()?;
        let (workspace, id) = (call.workspace()?, TagId::generate(self.store.clock().now(), self.store.entropy()));
        let draft = &draft;
        let make = |tx: Tx| async move {
            let tag = Tag { created: tx.now(), ..parse(draft, id, tx.now(), 1)? };
            store::tag::insert(&tx, workspace, &tag).await?;
            Ok(tag)
        };
        Ok(Response::new(to_pb(call.write(&self.store, make).await?)))
    }

    async fn get_tag(&self, request: Request<pb::GetTagRequest>) -> Result<Response<pb::Tag>, Status> {
        let mut call = Call::open(request)?;
        let id = call.only_id(|request| &request.id)?;
        let tag = store::tag::get(self.store.read(), call.workspace()?, id).await?;
        Ok(Response::new(to_pb(tag)))
    }

    async fn lookup_tag(&self, request: Request<pb::LookupTagRequest>) -> Result<Response<pb::Tag>, Status> {
        let mut call = Call::open(request)?;
        call.finish()?;
        let tag = store::tag::lookup(self.store.read(), call.workspace()?, &call.message.name).await?;
        Ok(Response::new(to_pb(tag)))
    }

    async fn list_tags(&self, request: Request<pb::ListTagsRequest>) -> Result<Response<pb::ListTagsResponse>, Status> {
        let mut call = Call::open(request)?;
        let pb::ListTagsRequest { page_size, page_token, filter } = std::mem::take(&mut call.message);
        let page = Page::<TagId>::read(page_size, &page_token, "tags", filter.as_ref(), &mut call.violations);
        let filter = filter.unwrap_or_default();
        refuse_nul("filter.name_prefix", &filter.name_prefix, &mut call.violations);
        let filter = store::tag::TagFilter {
            kinds: filter.kinds().filter_map(kind_of).collect(),
            name_prefix: filter.name_prefix,
            labels: filter.labels,
        };
        call.finish()?;
        let (workspace, db) = (call.workspace()?, self.store.read());
        let fetch = |after, limit| store::tag::list(db, workspace, &filter, after, limit);
        let (tags, next_page_token) = page.collect(Weight::Medium, fetch, |tag| tag.id, to_pb).await?;
        Ok(Response::new(pb::ListTagsResponse { tags, next_page_token }))
    }

    async fn update_tag(&self, request: Request<pb::UpdateTagRequest>) -> Result<Response<pb::Tag>, Status> {
        let mut call = Call::open_write(request)?;
        let (tag, mask) = (call.message.tag.take(), call.message.update_mask.take());
        let change = Update::read(tag, mask, &mut call.violations)?;
        let id = call.id("tag.id", &change.given.id);
        let (id, workspace) = (call.finish_with(id)?, call.workspace()?);
        let change = &change;
        let tag = call.write(&self.store, |tx| async move { update(&tx, workspace, id, change).await }).await?;
        Ok(Response::new(to_pb(tag)))
    }

    async fn delete_tag(
        &self,
        request: Request<pb::DeleteTagRequest>,
    ) -> Result<Response<pb::DeleteTagResponse>, Status> {
        let mut call = Call::open_write(request)?;
        let id: TagId = call.only_id(|request| &request.id)?;
        let (workspace, request) = (call.workspace()?, &call.message);
        let make = |tx: Tx| async move {
            smart_link::refuse_tag(&store::tag::get(tx.db(), workspace, id).await?)?;
            delete(&tx, workspace, id, &request.etag, request.force).await
        };
        call.write(&self.store, make).await?;
        Ok(Response::new(pb::DeleteTagResponse {}))
    }

    async fn list_tag_usages(
        &self,
        request: Request<pb::ListTagUsagesRequest>,
    ) -> Result<Response<pb::ListTagUsagesResponse>, Status> {
        let mut call = Call::open(request)?;
        let pb::ListTagUsagesRequest { id, page_size, page_token } = std::mem::take(&mut call.message);
        let list = format!("tag_usages/{id}");
        let page = Page::<TagUser>::read(page_size, &page_token, &list, None::<&()>, &mut call.violations);
        let id = call.id("id", &id);
        let id = call.finish_with(id)?;
        let (workspace, db) = (call.workspace()?, self.store.read());
        store::tag::get(db, workspace, id).await?;
        let fetch = |after, limit| store::tag::usages(db, workspace, id, after, limit);
        let (usages, next_page_token) =
            page.collect(Weight::Light, fetch, |(user, _)| *user, convert::usage_to_pb).await?;
        Ok(Response::new(pb::ListTagUsagesResponse { usages, next_page_token }))
    }
}

answer_by_id!(Tag, |tx, workspace, id| store::tag::get(tx.db(), workspace, id));

async fn update(tx: &Tx, workspace: WorkspaceId, id: TagId, change: &Update<pb::Tag>) -> Result<Tag> {
    let present = store::tag::get(tx.db(), workspace, id).await?;
    smart_link::refuse_tag(&present)?;
    check_etag("tag", &change.given.etag, present.version)?;
    let parsed = parse(&change.merge(&to_pb(present.clone()))?, id, present.updated, present.version)?;
    let mut tag = Tag { kind: present.kind, created: present.created, ..parsed };
    if tag == present {
        return Ok(present);
    }
    tag.version += 1;
    tag.updated = tx.now();
    store::tag::update(tx, workspace, &tag).await?;
    Ok(tag)
}

/// Deletes a tag, and takes it off the webhooks that it activates if that is forced.
pub(super) async fn delete(tx: &Tx, workspace: WorkspaceId, id: TagId, etag: &str, force: bool) -> Result<()> {
    // Planning must not assign a tag that is being deleted.
    tx.gate_exclusive().await?;
    let tag = store::tag::get(tx.db(), workspace, id).await?;
    check_etag("tag", etag, tag.version)?;
    let users = store::tag::usages(tx.db(), workspace, id, None, u64::MAX >> 1).await?;
    if !users.is_empty() && !force {
        let users = users.into_iter().take(NAMED_USERS).map(|(user, name)| format!("{user} ({name})")).collect();
        return Err(Error::InUse { resource: "tag", users });
    }
    for (user, _) in users {
        forget(tx, workspace, id, user).await?;
    }
    store::tag::delete(tx, workspace, id).await?;
    leftover::begin(tx, workspace, Leftover::DeletedTag(id)).await
}

/// Takes a tag that is being deleted from who uses it.
async fn forget(tx: &Tx, workspace: WorkspaceId, id: TagId, user: TagUser) -> Result<()> {
    match user {
        TagUser::Webhook(webhook) => {
            let mut webhook = store::webhook::get(tx.db(), tx.store(), workspace, webhook).await?;
            webhook.definition.activation_tag_ids.retain(|tag| *tag != id);
            webhook.version += 1;
            webhook.updated = tx.now();
            store::webhook::update(tx, &webhook).await
        }
        TagUser::Tag(user) => {
            let mut tag = store::tag::get(tx.db(), workspace, user).await?;
            tag.effects.forget(id);
            tag.version += 1;
            tag.updated = tx.now();
            store::tag::update(tx, workspace, &tag).await
        }
        TagUser::Campaign(user) => {
            let mut campaign = store::campaign::get(tx.db(), workspace, user).await?;
            campaign.definition.forget_tag(id);
            campaign.version += 1;
            campaign.updated = tx.now();
            store::campaign::update(tx, &campaign).await
        }
    }
}
