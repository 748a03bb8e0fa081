//! SmartLinkService.

use tonic::{Request, Response, Status};

use super::Services;
use super::call::{Call, check_etag, etag_of};
use super::convert::{optional, parse_time, refuse_nul, timestamp};
use super::mask::Update;
use super::page::{Page, Weight};
use super::tag;
use super::write::answer_by_id;
use crate::domain::smart_link::{Clicks, Code, Day, SmartLink, placeholders};
use crate::domain::tag::{Tag, TagKind};
use crate::domain::template::UrlTemplate;
use crate::domain::time::Micros;
use crate::error::{Error, Result, Violations};
use crate::ids::{SmartLinkId, TagId, TypedId, WorkspaceId};
use crate::links::{Expiry, Urls};
use crate::pb;
use crate::store::config::WorkspaceConfig;
use crate::store::smart_link::SmartLinkFilter;
use crate::store::{self, Tx};

/// The days of statistics if nothing else is said, and the most.
const DEFAULT_DAYS: i64 = 30;
const MAX_DAYS: i64 = 366;

#[tonic::async_trait]
impl pb::smart_link_service_server::SmartLinkService for Services {
    async fn create_smart_link(
        &self,
        request: Request<pb::CreateSmartLinkRequest>,
    ) -> Result<Response<pb::SmartLink>, Status> {
        let mut call = Call::open_write(request)?;
        let draft = call.message.smart_link.take().unwrap_or_default();
        call.finish()?;
        let workspace = call.workspace()?;
        let (now, entropy) = (self.store.clock().now(), self.store.entropy());
        let (id, tag_id) = (SmartLinkId::generate(now, entropy), TagId::generate(now, entropy));
        let (draft, code) = (&draft, &Code::of(entropy.bytes()));
        let make = |tx: Tx| async move {
            // No field that the target names is deleted meanwhile.
            tx.gate_shared().await?;
            let Parsed { name, key, target, description } = parse(draft, &*tx.config(workspace).await?)?;
            let (code, created, version) = (code.clone(), tx.now(), 1);
            let link =
                SmartLink { id, tag_id, code, name, key, target, description, version, created, updated: created };
            store::smart_link::insert(&tx, workspace, &link).await?;
            Ok(link)
        };
        Ok(Response::new(to_pb(&call.write(&self.store, make).await?, &self.links)))
    }

    async fn get_smart_link(
        &self,
        request: Request<pb::GetSmartLinkRequest>,
    ) -> Result<Response<pb::SmartLink>, Status> {
        let mut call = Call::open(request)?;
        let id = call.only_id(|request| &request.id)?;
        let link = store::smart_link::get(self.store.read(), call.workspace()?, id).await?;
        Ok(Response::new(to_pb(&link, &self.links)))
    }

    async fn list_smart_links(
        &self,
        request: Request<pb::ListSmartLinksRequest>,
    ) -> Result<Response<pb::ListSmartLinksResponse>, Status> {
        let mut call = Call::open(request)?;
        let pb::ListSmartLinksRequest { page_size, page_token, filter } = std::mem::take(&mut call.message);
        let page =
            Page::<SmartLinkId>::read(page_size, &page_token, "smart_links", filter.as_ref(), &mut call.violations);
        let filter = filter.unwrap_or_default();
        refuse_nul("filter.name_prefix", &filter.name_prefix, &mut call.violations);
        let filter = SmartLinkFilter { name_prefix: filter.name_prefix, keys: filter.keys };
        call.finish()?;
        let (workspace, db) = (call.workspace()?, self.store.read());
        let fetch = |after, limit| store::smart_link::list(db, workspace, &filter, after, limit);
        let show = |link: SmartLink| to_pb(&link, &self.links);
        let (smart_links, next_page_token) = page.collect(Weight::Medium, fetch, |link| link.id, show).await?;
        Ok(Response::new(pb::ListSmartLinksResponse { smart_links, next_page_token }))
    }

    async fn update_smart_link(
        &self,
        request: Request<pb::UpdateSmartLinkRequest>,
    ) -> Result<Response<pb::SmartLink>, Status> {
        let mut call = Call::open_write(request)?;
        let (link, mask) = (call.message.smart_link.take(), call.message.update_mask.take());
        let change = Update::read(link, mask, &mut call.violations)?;
        let id = call.id("smart_link.id", &change.given.id);
        let (id, workspace) = (call.finish_with(id)?, call.workspace()?);
        let (change, urls) = (&change, &self.links);
        let make = |tx: Tx| async move { update(&tx, workspace, id, change, urls).await };
        Ok(Response::new(to_pb(&call.write(&self.store, make).await?, &self.links)))
    }

    async fn delete_smart_link(
        &self,
        request: Request<pb::DeleteSmartLinkRequest>,
    ) -> Result<Response<pb::DeleteSmartLinkResponse>, Status> {
        let mut call = Call::open_write(request)?;
        let id: SmartLinkId = call.only_id(|request| &request.id)?;
        let (workspace, request) = (call.workspace()?, &call.message);
        let make = |tx: Tx| async move {
            tx.gate_exclusive().await?;
            let link = store::smart_link::get(tx.db(), workspace, id).await?;
            check_etag("smart_link", &request.etag, link.version)?;
            tag::delete(&tx, workspace, link.tag_id, "", request.force).await?;
            store::smart_link::delete(&tx, id).await
        };
        call.write(&self.store, make).await?;
        Ok(Response::new(pb::DeleteSmartLinkResponse {}))
    }

    async fn create_tracked_url(
        &self,
        request: Request<pb::CreateTrackedUrlRequest>,
    ) -> Result<Response<pb::CreateTrackedUrlResponse>, Status> {
        let mut call = Call::open(request)?;
        let which = call.contact();
        let pb::CreateTrackedUrlRequest { smart_link_id, expire_time, .. } = std::mem::take(&mut call.message);
        let id: Option<SmartLinkId> = call.id("smart_link_id", &smart_link_id);
        let expires = parse_time("expire_time", expire_time, &mut call.violations);
        let expiry = parse_expiry(expires, self.store.clock().now(), &mut call.violations);
        let (id, which) = call.finish_with(id.zip(which))?;
        let (workspace, db) = (call.workspace()?, self.store.read());
        let link = store::smart_link::get(db, workspace, id).await?;
        let contact = store::contact::get(db, workspace, &which).await?;
        let url = self.links.tracked(link.id, contact.id, expiry).ok_or(NO_ADDRESS)?;
        Ok(Response::new(pb::CreateTrackedUrlResponse { url, expire_time: expiry.time().map(timestamp) }))
    }

    async fn get_smart_link_stats(
        &self,
        request: Request<pb::GetSmartLinkStatsRequest>,
    ) -> Result<Response<pb::SmartLinkStats>, Status> {
        let mut call = Call::open(request)?;
        let pb::GetSmartLinkStatsRequest { id, start_date, end_date } = std::mem::take(&mut call.message);
        let id = call.id("id", &id);
        let today = Day::of(self.store.clock().now());
        let days = parse_days(&start_date, &end_date, today, &mut call.violations);
        let id = call.finish_with(id)?;
        let link = store::smart_link::get(self.store.read(), call.workspace()?, id).await?;
        let clicks = store::smart_link::clicks(self.store.read(), link.id, days).await?;
        let mut total = Clicks::default();
        clicks.values().for_each(|clicks| total += *clicks);
        let day = |(day, clicks): (&Day, &Clicks)| pb::smart_link_stats::Day {
            date: day.to_string(),
            clicks: Some(clicks_to_pb(*clicks)),
        };
        Ok(Response::new(pb::SmartLinkStats {
            start_date: days.0.to_string(),
            end_date: days.1.to_string(),
            total: Some(clicks_to_pb(total)),
            days: clicks.iter().map(day).collect(),
        }))
    }
}

const NO_ADDRESS: Error = Error::WrongState {
    resource: "links",
    state: "OFF",
    hint: "let links.listen or links.base_url say where they are served",
};

/// Refuses to change or delete a link's tag but with the link.
pub(super) fn refuse_tag(tag: &Tag) -> Result<()> {
    let hint = "change or delete the link with SmartLinkService, and its tag goes along";
    let refused = Error::WrongState { resource: "tag", state: "SMART_LINK", hint };
    if tag.kind == TagKind::SmartLink { Err(refused) } else { Ok(()) }
}

answer_by_id!(SmartLink, |tx, workspace, id| store::smart_link::get(tx.db(), workspace, id));

async fn update(
    tx: &Tx,
    workspace: WorkspaceId,
    id: SmartLinkId,
    change: &Update<pb::SmartLink>,
    urls: &Urls,
) -> Result<SmartLink> {
    tx.gate_shared().await?;
    let present = store::smart_link::get(tx.db(), workspace, id).await?;
    check_etag("smart_link", &change.given.etag, present.version)?;
    let merged = change.merge(&to_pb(&present, urls))?;
    let Parsed { name, key, target, description } = parse(&merged, &*tx.config(workspace).await?)?;
    let mut link = SmartLink { name, key, target, description, ..present.clone() };
    if link == present {
        return Ok(present);
    }
    link.version += 1;
    link.updated = tx.now();
    store::smart_link::update(tx, workspace, &link).await?;
    Ok(link)
}

/// What callers say of a link.
struct Parsed {
    name: String,
    key: Option<String>,
    target: UrlTemplate,
    description: String,
}

/// Checks a whole link, new or merged.
fn parse(link: &pb::SmartLink, config: &WorkspaceConfig) -> Result<Parsed> {
    const TARGET: &str = "smart_link.target_url";
    let mut violations = Violations::default();
    violations.check_rules("smart_link", link)?;
    refuse_nul("smart_link.name", &link.name, &mut violations);
    refuse_nul("smart_link.description", &link.description, &mut violations);
    let target = UrlTemplate::parse(&link.target_url, &placeholders(&config.field_keys()));
    if let Err(errors) = &target
        && !violations.names(TARGET)
    {
        errors.iter().for_each(|error| violations.add(TARGET, "URL", error.to_string()));
    }
    violations.finish()?;
    let target = target.map_err(|_| Error::internal("a target was refused without a word"))?;
    Ok(Parsed { name: link.name.clone(), key: optional(&link.key), target, description: link.description.clone() })
}

fn parse_expiry(time: Option<Micros>, now: Micros, violations: &mut Violations) -> Expiry {
    let Some(time) = time else { return Expiry::NEVER };
    let expiry = Expiry::at(time).filter(|expiry| !expiry.has_come(now));
    if expiry.is_none() {
        violations.add_if_new("expire_time", "EXPIRY", "must be in the future, and in the year 2100 at the latest");
    }
    expiry.unwrap_or(Expiry::NEVER)
}

fn parse_days(first: &str, last: &str, today: Day, violations: &mut Violations) -> (Day, Day) {
    let mut read = |field: &str, text: &str| {
        let day = Day::parse(text);
        if day.is_none() && !text.is_empty() {
            violations.add_if_new(field, "DATE", "must be a date in the years 0001 to 9999, as 2026-01-31");
        }
        day
    };
    let first = read("start_date", first);
    let last = read("end_date", last).unwrap_or(today);
    let first = first.unwrap_or(Day(last.0 - DEFAULT_DAYS + 1));
    if violations.is_empty() && !(first..Day(first.0 + MAX_DAYS)).contains(&last) {
        violations.add_if_new("end_date", "WINDOW", "must be start_date or up to 365 days after it");
    }
    (first, last)
}

fn to_pb(link: &SmartLink, urls: &Urls) -> pb::SmartLink {
    pb::SmartLink {
        id: link.id.to_string(),
        name: link.name.clone(),
        key: link.key.clone().unwrap_or_default(),
        target_url: link.target.as_str().to_owned(),
        description: link.description.clone(),
        tag_id: link.tag_id.to_string(),
        short_url: urls.short(&link.code).unwrap_or_default(),
        create_time: Some(timestamp(link.created)),
        update_time: Some(timestamp(link.updated)),
        etag: etag_of(link.version),
    }
}

fn clicks_to_pb(clicks: Clicks) -> pb::smart_link_stats::Clicks {
    pb::smart_link_stats::Clicks {
        click_count: clicks.contacts,
        anonymous_click_count: clicks.anonymous,
        machine_click_count: clicks.machines,
    }
}
