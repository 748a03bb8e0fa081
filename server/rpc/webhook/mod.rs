//! WebhookService. [`mod@parse`] reads webhooks, [`convert`] shows them, [`preview`] renders what they send, [`fire`] sends it,
//! [`secret`] says what it is signed with.

mod convert;
mod fire;
mod parse;
mod preview;
mod secret;

use tonic::{Request, Response, Status};

use super::Services;
use super::call::{Call, check_etag};
use super::convert::{code, optional, refuse_nul};
use super::mask::Update;
use super::page::{Page, Weight};
use super::trigger::decision_to_pb;
use super::write::answer_by_id;
use crate::domain::delivery::{Reason, State};
use crate::domain::outcome::Kind;
use crate::domain::time::Micros;
use crate::domain::webhook::{Definition, Webhook, WebhookState};
use crate::error::{Result, Violations};
use crate::ids::{TypedId, WebhookId, WorkspaceId};
use crate::pb;
use crate::store::delivery::end::Which;
use crate::store::leftover::{self, Leftover};
use crate::store::{self, Tx};
use convert::{secret_to_pb, to_pb};
use parse::{Surroundings, parse};
use secret::{Rotation, schemes, sign_by};

#[tonic::async_trait]
impl pb::webhook_service_server::WebhookService for Services {
    async fn create_webhook(
        &self,
        request: Request<pb::CreateWebhookRequest>,
    ) -> Result<Response<pb::Webhook>, Status> {
        let mut call = Call::open_write(request)?;
        let workspace = call.workspace()?;
        if call.message.webhook.is_none() {
            call.finish()?;
        }
        let draft = call.message.webhook.take().unwrap_or_default();
        let id = WebhookId::generate(self.store.clock().now(), self.store.entropy());
        let (draft, violations) = (&draft, &call.violations);
        let make = |tx: Tx| async move {
            tx.gate_exclusive().await?;
            let definition = self.parse(&tx, workspace, draft, None, violations.clone()).await?;
            let mut webhook = new_webhook(tx.now(), workspace, id, draft, definition);
            sign_by(&mut webhook, &schemes(draft), tx.now(), tx.store().entropy())?;
            store::webhook::insert(&tx, &webhook).await?;
            Ok(webhook)
        };
        let webhook = call.write(&self.store, make).await?;
        Ok(Response::new(to_pb(&webhook, self.store.clock().now())))
    }

    async fn get_webhook(&self, request: Request<pb::GetWebhookRequest>) -> Result<Response<pb::Webhook>, Status> {
        let mut call = Call::open(request)?;
        let id = call.only_id(|request| &request.id)?;
        let webhook = store::webhook::get(self.store.read(), &self.store, call.workspace()?, id).await?;
        Ok(Response::new(to_pb(&webhook, self.store.clock().now())))
    }

    async fn list_webhooks(
        &self,
        request: Request<pb::ListWebhooksRequest>,
    ) -> Result<Response<pb::ListWebhooksResponse>, Status> {
        let mut call = Call::open(request)?;
        let pb::ListWebhooksRequest { page_size, page_token, filter } = std::mem::take(&mut call.message);
        let page = Page::<WebhookId>::read(page_size, &page_token, "webhooks", filter.as_ref(), &mut call.violations);
        let filter = filter.unwrap_or_default();
        refuse_nul("filter.name_prefix", &filter.name_prefix, &mut call.violations);
        let filter = store::webhook::WebhookFilter {
            states: filter.states().filter_map(|state| WebhookState::from_code(code(state))).collect(),
            activation_tag: call.violations.optional_id("filter.activation_tag_id", &filter.activation_tag_id),
            name_prefix: filter.name_prefix,
            keys: filter.keys,
            labels: filter.labels,
        };
        call.finish()?;
        let (workspace, db) = (call.workspace()?, self.store.read());
        let fetch = |after, limit| store::webhook::list(db, &self.store, workspace, &filter, after, limit);
        let now = self.store.clock().now();
        let show = |webhook: Webhook| to_pb(&webhook, now);
        let (webhooks, next_page_token) = page.collect(Weight::Heavy, fetch, |webhook| webhook.id, show).await?;
        Ok(Response::new(pb::ListWebhooksResponse { webhooks, next_page_token }))
    }

    async fn update_webhook(
        &self,
        request: Request<pb::UpdateWebhookRequest>,
    ) -> Result<Response<pb::Webhook>, Status> {
        let mut call = Call::open_write(request)?;
        let (webhook, mask) = (call.message.webhook.take(), call.message.update_mask.take());
        let change = Update::read(webhook, mask, &mut call.violations)?;
        let id = call.id("webhook.id", &change.given.id);
        let (id, workspace) = (call.finish_with(id)?, call.workspace()?);
        let change = &change;
        let make = |tx: Tx| async move { self.update(&tx, workspace, id, change).await };
        let webhook = call.write(&self.store, make).await?;
        Ok(Response::new(to_pb(&webhook, self.store.clock().now())))
    }

    async fn delete_webhook(
        &self,
        request: Request<pb::DeleteWebhookRequest>,
    ) -> Result<Response<pb::DeleteWebhookResponse>, Status> {
        let mut call = Call::open_write(request)?;
        let id = call.only_id(|request| &request.id)?;
        let (workspace, etag) = (call.workspace()?, call.message.etag.as_str());
        call.write(&self.store, |tx| async move { delete(&tx, workspace, id, etag).await }).await?;
        Ok(Response::new(pb::DeleteWebhookResponse {}))
    }

    async fn pause_webhook(&self, request: Request<pb::PauseWebhookRequest>) -> Result<Response<pb::Webhook>, Status> {
        let mut call = Call::open_write(request)?;
        let id = call.only_id(|request| &request.id)?;
        let (workspace, etag) = (call.workspace()?, call.message.etag.as_str());
        let webhook = call.write(&self.store, |tx| async move { pause(&tx, workspace, id, etag).await }).await?;
        Ok(Response::new(to_pb(&webhook, self.store.clock().now())))
    }

    async fn resume_webhook(
        &self,
        request: Request<pb::ResumeWebhookRequest>,
    ) -> Result<Response<pb::Webhook>, Status> {
        let mut call = Call::open_write(request)?;
        let id = call.only_id(|request| &request.id)?;
        let (workspace, etag) = (call.workspace()?, call.message.etag.as_str());
        let webhook = call.write(&self.store, |tx| async move { resume(&tx, workspace, id, etag).await }).await?;
        Ok(Response::new(to_pb(&webhook, self.store.clock().now())))
    }

    async fn preview_webhook(
        &self,
        request: Request<pb::PreviewWebhookRequest>,
    ) -> Result<Response<pb::PreviewWebhookResponse>, Status> {
        let requests = preview::preview(self, Call::open(request)?).await?;
        Ok(Response::new(pb::PreviewWebhookResponse { requests }))
    }

    async fn test_webhook(
        &self,
        request: Request<pb::TestWebhookRequest>,
    ) -> Result<Response<pb::TestWebhookResponse>, Status> {
        Ok(Response::new(fire::test(self, Call::open_write(request)?).await?))
    }

    async fn trigger_webhook(
        &self,
        request: Request<pb::TriggerWebhookRequest>,
    ) -> Result<Response<pb::TriggerWebhookResponse>, Status> {
        let decision = fire::trigger(self, Call::open_write(request)?).await?;
        Ok(Response::new(pb::TriggerWebhookResponse { trigger: Some(decision_to_pb(&decision)) }))
    }

    async fn get_webhook_secret(
        &self,
        request: Request<pb::GetWebhookSecretRequest>,
    ) -> Result<Response<pb::WebhookSecret>, Status> {
        let mut call = Call::open(request)?;
        let id = call.only_id(|request| &request.id)?;
        let webhook = store::webhook::get(self.store.read(), &self.store, call.workspace()?, id).await?;
        Ok(Response::new(secret_to_pb(&webhook, self.store.clock().now())))
    }

    async fn rotate_webhook_secret(
        &self,
        request: Request<pb::RotateWebhookSecretRequest>,
    ) -> Result<Response<pb::WebhookSecret>, Status> {
        let mut call = Call::open_write(request)?;
        let rotation = &Rotation::parse(&mut call)?;
        let webhook = call.write(&self.store, |tx| async move { rotation.make(&tx).await }).await?;
        Ok(Response::new(secret_to_pb(&webhook, self.store.clock().now())))
    }
}

impl Services {
    async fn update(
        &self,
        tx: &Tx,
        workspace: WorkspaceId,
        id: WebhookId,
        change: &Update<pb::Webhook>,
    ) -> Result<Webhook> {
        tx.gate_exclusive().await?;
        let present = store::webhook::get(tx.db(), tx.store(), workspace, id).await?;
        check_etag("webhook", &change.given.etag, present.version)?;
        let merged = change.merge(&to_pb(&present, tx.now()))?;
        let mut violations = Violations::default();
        violations.check_rules("webhook", &merged)?;
        let definition = self.parse(tx, workspace, &merged, Some(&present.definition), violations).await?;
        let schemes = schemes(&merged);
        let key = optional(&merged.key);
        let is_same = (&merged.name, &key, &merged.labels) == (&present.name, &present.key, &present.labels);
        if is_same && definition == present.definition && schemes == present.signature_schemes() {
            return Ok(present);
        }
        end_removed_events(tx, &present, &definition).await?;
        let pb::Webhook { name, labels, .. } = merged;
        let (version, updated) = (present.version + 1, tx.now());
        let mut webhook = Webhook { name, key, labels, definition, version, updated, ..present };
        sign_by(&mut webhook, &schemes, tx.now(), tx.store().entropy())?;
        store::webhook::update(tx, &webhook).await?;
        Ok(webhook)
    }

    /// Parses a whole webhook against the workspace as the transaction sees it.
    async fn parse(
        &self,
        tx: &Tx,
        workspace: WorkspaceId,
        webhook: &pb::Webhook,
        current: Option<&Definition>,
        violations: Violations,
    ) -> Result<Definition> {
        let config = tx.config(workspace).await?;
        let around = Surroundings {
            config: &config,
            egress: &self.egress,
            current,
            now: tx.now(),
            entropy: self.store.entropy(),
        };
        parse(webhook, &around, violations)
    }
}

answer_by_id!(Webhook, |tx, workspace, id| store::webhook::get(tx.db(), tx.store(), workspace, id));

/// A webhook that is signed by nothing yet.
fn new_webhook(
    now: Micros,
    workspace: WorkspaceId,
    id: WebhookId,
    draft: &pb::Webhook,
    definition: Definition,
) -> Webhook {
    Webhook {
        id,
        workspace_id: workspace,
        name: draft.name.clone(),
        key: optional(&draft.key),
        labels: draft.labels.clone(),
        state: WebhookState::Active,
        state_reason: Reason::None,
        state_since: now,
        definition,
        secrets: Vec::new(),
        failing_since: None,
        version: 1,
        created: now,
        updated: now,
    }
}

/// Ends the deliveries of the webhook events that the new definition doesn't have.
async fn end_removed_events(tx: &Tx, current: &Webhook, definition: &Definition) -> Result<()> {
    for event in &current.definition.events {
        if definition.events.iter().all(|kept| kept.id != event.id) {
            let reason = Reason::WebhookEventRemoved;
            store::delivery::end::end(
                tx,
                current.workspace_id,
                Which::Event(current.id, event.id),
                State::Cancelled,
                reason,
            )
            .await?;
            store::extra_attempt::forget_event(tx, current.id, event.id).await?;
        }
    }
    Ok(())
}

async fn delete(tx: &Tx, workspace: WorkspaceId, id: WebhookId, etag: &str) -> Result<()> {
    tx.gate_exclusive().await?;
    let webhook = store::webhook::get(tx.db(), tx.store(), workspace, id).await?;
    check_etag("webhook", etag, webhook.version)?;
    store::webhook::delete(tx, workspace, id).await?;
    leftover::begin(tx, workspace, Leftover::DeletedWebhook(id)).await
}

/// A webhook that the system has disabled stays so: it doesn't send, and says why.
async fn pause(tx: &Tx, workspace: WorkspaceId, id: WebhookId, etag: &str) -> Result<Webhook> {
    tx.gate_exclusive().await?;
    let webhook = store::webhook::get(tx.db(), tx.store(), workspace, id).await?;
    check_etag("webhook", etag, webhook.version)?;
    if webhook.state != WebhookState::Active {
        return Ok(webhook);
    }
    set_state(tx, webhook, WebhookState::Paused, Kind::WebhookPaused).await
}

async fn resume(tx: &Tx, workspace: WorkspaceId, id: WebhookId, etag: &str) -> Result<Webhook> {
    tx.gate_exclusive().await?;
    let webhook = store::webhook::get(tx.db(), tx.store(), workspace, id).await?;
    check_etag("webhook", etag, webhook.version)?;
    if webhook.state == WebhookState::Active {
        return Ok(webhook);
    }
    let webhook = set_state(tx, webhook, WebhookState::Active, Kind::WebhookResumed).await?;
    store::webhook::forget_failing(tx, id).await?;
    leftover::begin(tx, workspace, Leftover::ResumedWebhook(id)).await?;
    Ok(webhook)
}

async fn set_state(tx: &Tx, mut webhook: Webhook, state: WebhookState, kind: Kind) -> Result<Webhook> {
    webhook.state = state;
    webhook.state_reason = Reason::None;
    webhook.state_since = tx.now();
    webhook.version += 1;
    webhook.updated = tx.now();
    store::webhook::update(tx, &webhook).await?;
    store::webhook::report_state(tx, webhook.workspace_id, webhook.id, kind, Reason::None);
    Ok(webhook)
}
