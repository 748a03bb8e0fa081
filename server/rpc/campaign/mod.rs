//! CampaignService. [`convert`] reads and writes campaigns.

mod convert;

use std::sync::Arc;

use tonic::{Request, Response, Status};

use self::convert::{counts_to_pb, enrollment_to_pb, is_editable, is_graph, parse, to_pb, to_violations};
use super::Services;
use super::call::{Call, check_etag};
use super::convert::{code, optional, refuse_nul};
use super::mask::Update;
use super::page::{MAX_TOTAL_SIZE, Page, Weight};
use super::values::origin_with;
use super::write::{Answer, answer_by_id};
use crate::automation::Origin;
use crate::automation::campaign::{Entry, enroll_one, exit_one};
use crate::domain::campaign::{self as campaigns, Campaign, CampaignState, Enrollment, EnrollmentState, Known, Names};
use crate::error::{Error, Result, Violations};
use crate::ids::{CampaignId, ContactId, EnrollmentId, TypedId, WorkspaceId};
use crate::pb;
use crate::store::campaign::CampaignFilter;
use crate::store::config::WorkspaceConfig;
use crate::store::contact::ContactRef;
use crate::store::enrollment::{EnrollmentFilter, Scope};
use crate::store::leftover::{self, Leftover};
use crate::store::{self, Store, Tx};

#[tonic::async_trait]
impl pb::campaign_service_server::CampaignService for Services {
    async fn create_campaign(
        &self,
        request: Request<pb::CreateCampaignRequest>,
    ) -> Result<Response<pb::Campaign>, Status> {
        let mut call = Call::open_write(request)?;
        let draft = call.message.campaign.take().unwrap_or_default();
        let definition = parse(&draft, &mut call.violations);
        call.finish()?;
        let (workspace, id) = (call.workspace()?, CampaignId::generate(self.store.clock().now(), self.store.entropy()));
        let (draft, definition) = (&draft, &definition);
        let make = |tx: Tx| async move {
            let campaign = Campaign {
                id,
                workspace_id: workspace,
                name: draft.name.clone(),
                key: optional(&draft.key),
                labels: draft.labels.clone(),
                description: draft.description.clone(),
                state: CampaignState::Draft,
                definition: definition.clone(),
                version: 1,
                created: tx.now(),
                updated: tx.now(),
            };
            store::campaign::insert(&tx, &campaign).await?;
            Ok(campaign)
        };
        Ok(Response::new(to_pb(&call.write(&self.store, make).await?)))
    }

    async fn get_campaign(&self, request: Request<pb::GetCampaignRequest>) -> Result<Response<pb::Campaign>, Status> {
        let mut call = Call::open(request)?;
        let pb::GetCampaignRequest { id, with_diagram, with_node_counts } = std::mem::take(&mut call.message);
        let id: Option<CampaignId> = call.id("id", &id);
        let id = call.finish_with(id)?;
        let (workspace, db) = (call.workspace()?, self.store.read());
        let campaign = store::campaign::get(db, workspace, id).await?;
        let mut answer = to_pb(&campaign);
        let counts = if with_node_counts { Some(store::campaign_node::counts(db, id).await?) } else { None };
        if with_diagram {
            let config = self.store.config(workspace).await?;
            let names = Names {
                tag: &|id| Some(config.tag(id)?.name.clone()),
                webhook: &|id| Some(config.webhook(id)?.webhook.name.clone()),
                campaign: &|id| Some(config.campaign(id)?.campaign.name.clone()),
            };
            let count = |node: &str| counts.as_ref().map(|counts| counts.get(node).copied().unwrap_or_default());
            answer.diagram = campaigns::mermaid(&campaign, &names, &count);
        }
        answer.node_counts = counts_to_pb(counts.unwrap_or_default());
        Ok(Response::new(answer))
    }

    async fn list_campaigns(
        &self,
        request: Request<pb::ListCampaignsRequest>,
    ) -> Result<Response<pb::ListCampaignsResponse>, Status> {
        let mut call = Call::open(request)?;
        let pb::ListCampaignsRequest { page_size, page_token, filter } = std::mem::take(&mut call.message);
        let page = Page::<CampaignId>::read(page_size, &page_token, "campaigns", filter.as_ref(), &mut call.violations);
        call.finish()?;
        let filter = filter.map(|filter| CampaignFilter { keys: filter.keys, labels: filter.labels });
        let filter = filter.unwrap_or_default();
        let workspace = call.workspace()?;
        let db = self.store.read();
        let fetch = |after, limit| store::campaign::list(db, workspace, &filter, after, limit);
        let show = |campaign: Campaign| to_pb(&campaign);
        let (campaigns, next_page_token) = page.collect(Weight::Heavy, fetch, |campaign| campaign.id, show).await?;
        Ok(Response::new(pb::ListCampaignsResponse { campaigns, next_page_token }))
    }

    async fn update_campaign(
        &self,
        request: Request<pb::UpdateCampaignRequest>,
    ) -> Result<Response<pb::Campaign>, Status> {
        let mut call = Call::open_write(request)?;
        let (campaign, mask) = (call.message.campaign.take(), call.message.update_mask.take());
        let change = Update::read(campaign, mask, &mut call.violations)?;
        let id = call.id("campaign.id", &change.given.id);
        let (id, workspace) = (call.finish_with(id)?, call.workspace()?);
        let change = &change;
        let campaign = call.write(&self.store, |tx| async move { update(&tx, workspace, id, change).await }).await?;
        Ok(Response::new(to_pb(&campaign)))
    }

    async fn delete_campaign(
        &self,
        request: Request<pb::DeleteCampaignRequest>,
    ) -> Result<Response<pb::DeleteCampaignResponse>, Status> {
        let mut call = Call::open_write(request)?;
        let id: CampaignId = call.only_id(|request| &request.id)?;
        let (workspace, etag) = (call.workspace()?, call.message.etag.as_str());
        let make = |tx: Tx| async move {
            tx.gate_exclusive().await?;
            let campaign = store::campaign::get(tx.db(), workspace, id).await?;
            check_etag("campaign", etag, campaign.version)?;
            store::campaign::delete(&tx, workspace, id).await?;
            leftover::begin(&tx, workspace, Leftover::DeletedCampaign(id)).await
        };
        call.write(&self.store, make).await?;
        Ok(Response::new(pb::DeleteCampaignResponse {}))
    }

    async fn activate_campaign(
        &self,
        request: Request<pb::ActivateCampaignRequest>,
    ) -> Result<Response<pb::Campaign>, Status> {
        let mut call = Call::open_write(request)?;
        let id = call.only_id(|request| &request.id)?;
        let (workspace, etag) = (call.workspace()?, call.message.etag.as_str());
        let campaign = call.write(&self.store, |tx| async move { activate(&tx, workspace, id, etag).await }).await?;
        Ok(Response::new(to_pb(&campaign)))
    }

    async fn pause_campaign(
        &self,
        request: Request<pb::PauseCampaignRequest>,
    ) -> Result<Response<pb::Campaign>, Status> {
        let mut call = Call::open_write(request)?;
        let id = call.only_id(|request| &request.id)?;
        let (workspace, etag) = (call.workspace()?, call.message.etag.as_str());
        let campaign = call.write(&self.store, |tx| async move { pause(&tx, workspace, id, etag).await }).await?;
        Ok(Response::new(to_pb(&campaign)))
    }

    async fn enroll_contact(
        &self,
        request: Request<pb::EnrollContactRequest>,
    ) -> Result<Response<pb::EnrollContactResponse>, Status> {
        let mut call = Call::open_write(request)?;
        let (id, which) = (call.id("campaign_id", &call.message.campaign_id.clone()), call.contact());
        let origin = call.origin();
        let origin = &origin_with(std::mem::take(&mut call.message.values), &origin, &mut call.violations);
        let (id, which) = call.finish_with(id.zip(which))?;
        let (workspace, which) = (call.workspace()?, &which);
        let make = |tx: Tx| async move { enroll(&tx, workspace, id, which, origin).await };
        let Enrolled { enrollment, is_new } = call.write(&self.store, make).await?;
        let enrollment = Some(enrollment_to_pb(&enrollment));
        Ok(Response::new(pb::EnrollContactResponse { enrollment, newly_enrolled: is_new }))
    }

    async fn exit_contact(&self, request: Request<pb::ExitContactRequest>) -> Result<Response<pb::Enrollment>, Status> {
        let mut call = Call::open_write(request)?;
        let (id, which) = (call.id("campaign_id", &call.message.campaign_id.clone()), call.contact());
        let (id, which) = call.finish_with(id.zip(which))?;
        let (workspace, which) = (call.workspace()?, &which);
        let enrollment = call.write(&self.store, |tx| async move { exit(&tx, workspace, id, which).await }).await?;
        Ok(Response::new(enrollment_to_pb(&enrollment)))
    }

    async fn get_enrollment(
        &self,
        request: Request<pb::GetEnrollmentRequest>,
    ) -> Result<Response<pb::Enrollment>, Status> {
        let mut call = Call::open(request)?;
        let id = call.only_id(|request| &request.id)?;
        let enrollment = store::enrollment::get(self.store.read(), call.workspace()?, id).await?;
        Ok(Response::new(enrollment_to_pb(&enrollment)))
    }

    async fn list_enrollments(
        &self,
        request: Request<pb::ListEnrollmentsRequest>,
    ) -> Result<Response<pb::ListEnrollmentsResponse>, Status> {
        let mut call = Call::open(request)?;
        let pb::ListEnrollmentsRequest { campaign_id, page_size, page_token, filter, with_total_size } =
            std::mem::take(&mut call.message);
        let list = format!("enrollments/{campaign_id}");
        let page = Page::<EnrollmentId>::read(page_size, &page_token, &list, filter.as_ref(), &mut call.violations);
        let filter = filter.unwrap_or_default();
        let scope = parse_scope(&campaign_id, &filter.contact_id, &mut call.violations);
        refuse_nul("filter.node_key", &filter.node_key, &mut call.violations);
        let filter = EnrollmentFilter {
            states: filter.states().filter_map(|state| EnrollmentState::from_code(code(state))).collect(),
            node: filter.node_key,
        };
        let scope = call.finish_with(scope)?;
        let (workspace, db) = (call.workspace()?, self.store.read());
        refuse_unknown(&self.store, workspace, scope).await?;
        let which = (scope, &filter);
        let total_size =
            if with_total_size { store::enrollment::count(db, workspace, which, MAX_TOTAL_SIZE).await? } else { 0 };
        let total_size = i32::try_from(total_size).unwrap_or(i32::MAX);
        let fetch = |after, limit| store::enrollment::list(db, workspace, which, after, limit);
        let show = |enrollment: Enrollment| enrollment_to_pb(&enrollment);
        let (enrollments, next_page_token) =
            page.collect(Weight::Light, fetch, |enrollment| enrollment.id, show).await?;
        Ok(Response::new(pb::ListEnrollmentsResponse { enrollments, next_page_token, total_size }))
    }
}

/// Reads whose enrollments a request lists.
fn parse_scope(campaign_id: &str, contact_id: &str, violations: &mut Violations) -> Option<Scope> {
    let campaign: Option<CampaignId> = violations.optional_id("campaign_id", campaign_id);
    let contact: Option<ContactId> = violations.optional_id("filter.contact_id", contact_id);
    if campaign_id.is_empty() && contact_id.is_empty() {
        violations.add_if_new("campaign_id", "REQUIRED", "is needed where filter.contact_id is empty");
    }
    match (campaign, contact) {
        (Some(campaign), Some(contact)) => Some(Scope::Both(campaign, contact)),
        (Some(campaign), None) => Some(Scope::Campaign(campaign)),
        (None, Some(contact)) => Some(Scope::Contact(contact)),
        (None, None) => None,
    }
}

/// Refuses to list the enrollments of what the workspace doesn't have.
async fn refuse_unknown(store: &Store, workspace: WorkspaceId, scope: Scope) -> Result<()> {
    let db = store.read();
    match scope {
        Scope::Campaign(campaign) | Scope::Both(campaign, _) => {
            drop(store::campaign::get(db, workspace, campaign).await?);
        }
        Scope::Contact(contact) => drop(store::contact::get(db, workspace, &ContactRef::Id(contact)).await?),
    }
    Ok(())
}

answer_by_id!(Campaign, |tx, workspace, id| store::campaign::get(tx.db(), workspace, id));
answer_by_id!(Enrollment, |tx, workspace, id| store::enrollment::get(tx.db(), workspace, id));

/// A contact in a campaign, and whether the call let it in.
struct Enrolled {
    enrollment: Enrollment,
    is_new: bool,
}

impl Answer for Enrolled {
    fn remembered(&self) -> Result<String> {
        serde_json::to_string(&(self.enrollment.id, self.is_new)).map_err(Error::internal)
    }

    async fn reload(tx: &Tx, workspace: Option<WorkspaceId>, remembered: &str) -> Result<Self> {
        let (id, is_new): (EnrollmentId, bool) = serde_json::from_str(remembered).map_err(Error::internal)?;
        Ok(Self { enrollment: Enrollment::reload(tx, workspace, &id.to_string()).await?, is_new })
    }
}

async fn update(tx: &Tx, workspace: WorkspaceId, id: CampaignId, change: &Update<pb::Campaign>) -> Result<Campaign> {
    // Nobody may be led by what is being changed.
    tx.gate_exclusive().await?;
    let present = store::campaign::get(tx.db(), workspace, id).await?;
    check_etag("campaign", &change.given.etag, present.version)?;
    let merged = change.merge(&to_pb(&present))?;
    let mut violations = Violations::default();
    violations.check_rules("campaign", &merged)?;
    let definition = parse(&merged, &mut violations);
    violations.finish()?;
    let key = optional(&merged.key);
    let pb::Campaign { name, description, labels, .. } = merged;
    let mut campaign = Campaign { name, key, labels, description, definition, ..present.clone() };
    if campaign == present {
        return Ok(present);
    }
    if is_graph(&change.paths) && !is_editable(&present) {
        return Err(Error::WrongState { resource: "campaign", state: "ACTIVE", hint: "pause it before it is changed" });
    }
    campaign.version += 1;
    campaign.updated = tx.now();
    store::campaign::update(tx, &campaign).await?;
    Ok(campaign)
}

async fn activate(tx: &Tx, workspace: WorkspaceId, id: CampaignId, etag: &str) -> Result<Campaign> {
    tx.gate_exclusive().await?;
    let campaign = store::campaign::get(tx.db(), workspace, id).await?;
    check_etag("campaign", etag, campaign.version)?;
    if campaign.state == CampaignState::Active {
        return Ok(campaign);
    }
    check(&campaign, &*tx.config(workspace).await?)?;
    let campaign = set_state(tx, campaign, CampaignState::Active).await?;
    leftover::begin(tx, workspace, Leftover::ResumedCampaign(id)).await?;
    Ok(campaign)
}

/// Refuses a campaign that would lead contacts nowhere.
fn check(campaign: &Campaign, config: &WorkspaceConfig) -> Result<()> {
    let known = Known {
        tag: &|id| Some(config.tag(id)?.kind),
        webhook: &|id| config.webhook(id).is_some(),
        campaign: &|id| config.campaign(id).is_some(),
        field: &|key| config.field_type(key),
    };
    to_violations(campaigns::check(&campaign.definition, &known)).finish()
}

async fn pause(tx: &Tx, workspace: WorkspaceId, id: CampaignId, etag: &str) -> Result<Campaign> {
    tx.gate_exclusive().await?;
    let campaign = store::campaign::get(tx.db(), workspace, id).await?;
    check_etag("campaign", etag, campaign.version)?;
    match campaign.state {
        CampaignState::Active => set_state(tx, campaign, CampaignState::Paused).await,
        CampaignState::Draft | CampaignState::Paused => Ok(campaign),
    }
}

async fn set_state(tx: &Tx, mut campaign: Campaign, state: CampaignState) -> Result<Campaign> {
    campaign.state = state;
    campaign.version += 1;
    campaign.updated = tx.now();
    store::campaign::update(tx, &campaign).await?;
    Ok(campaign)
}

/// Lets a contact enter a campaign.
async fn enroll(
    tx: &Tx,
    workspace: WorkspaceId,
    id: CampaignId,
    which: &ContactRef,
    origin: &Origin,
) -> Result<Enrolled> {
    tx.gate_shared().await?;
    let config = tx.config(workspace).await?;
    let campaign = config.campaign(id).ok_or_else(|| Error::not_found(id))?;
    let contact = store::contact::get(tx.db(), workspace, which).await?;
    if !campaign.is_active() {
        let state = campaign.campaign.state.as_str();
        return Err(Error::WrongState { resource: "campaign", state, hint: "activate it first" });
    }
    let entry = Entry {
        campaign: Arc::clone(campaign),
        contact_id: contact.id,
        origin: origin.clone(),
        config: Arc::clone(&config),
    };
    if let Some(enrollment) = enroll_one(tx, entry).await? {
        return Ok(Enrolled { enrollment, is_new: true });
    }
    let last = store::enrollment::last(tx.db(), id, contact.id).await?;
    let enrollment = last.ok_or_else(|| Error::internal("a contact isn't let in, and isn't in"))?;
    Ok(Enrolled { enrollment, is_new: false })
}

async fn exit(tx: &Tx, workspace: WorkspaceId, id: CampaignId, which: &ContactRef) -> Result<Enrollment> {
    tx.gate_shared().await?;
    let config = tx.config(workspace).await?;
    config.campaign(id).ok_or_else(|| Error::not_found(id))?;
    let contact = store::contact::get(tx.db(), workspace, which).await?;
    let exited = exit_one(tx, &config, id, contact.id).await?;
    exited.ok_or_else(|| Error::NotFound { resource: "enrollment", name: String::new() })
}
