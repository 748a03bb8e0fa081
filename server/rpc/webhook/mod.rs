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
use super::convert::{code, refuse_nul};
use super::mask;
use super::page::Page;
use super::trigger::decision_to_pb;
use crate::domain::delivery::{Reason, State};
use crate::domain::outcome::Kind;
use crate::domain::time::Micros;
use crate::domain::webhook::{Definition, Webhook, WebhookState};
use crate::error::{Error, Result, Violations};
use crate::ids::{TypedId, WebhookId, WorkspaceId};
use crate::pb;
use crate::store::delivery::end::Which;
use crate::store::leftover::{self, Leftover};
use crate::store::{self, Tx};
use convert::{secret_to_pb, to_pb};
use parse::{Surroundings, parse};
use secret::{Rotation, schemes, sign_by};

/// The fields that an update can name.
const UPDATABLE: [&str; 15] = [
    "name",
    "url",
    "activation_tag_ids",
    "on_contact_deleted",
    "only_when_newly_assigned",
    "cooldown",
    "cooldown_policy",
    "events",
    "headers",
    "timeout",
    "retry_policy",
    "signature_schemes",
    "max_concurrency",
    "rate_limit",
    "ordered",
];

#[tonic::async_trait]
impl pb::webhook_service_server::WebhookService for Services {
    async fn create_webhook(
        &self,
        request: Request<pb::CreateWebhookRequest>,
    ) -> Result<Response<pb::Webhook>, Status> {
        let mut call = Call::open(request)?;
        let key = call.request_key();
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
            let mut webhook = new_webhook(tx.now(), workspace, id, draft.name.clone(), definition);
            sign_by(&mut webhook, &schemes(draft), tx.now(), tx.store().entropy())?;
            store::webhook::insert(&tx, &webhook).await?;
            Ok((webhook, id.to_string()))
        };
        let again = |tx, answer| again(tx, workspace, answer);
        let webhook = self.store.write_once("create_webhook", key.as_ref(), make, again).await?;
        Ok(Response::new(to_pb(&webhook, self.store.clock().now())))
    }

    async fn get_webhook(&self, request: Request<pb::GetWebhookRequest>) -> Result<Response<pb::Webhook>, Status> {
        let mut call = Call::open(request)?;
        let id = call.id("id", &call.message.id.clone());
        let id = call.finish_with(id)?;
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
        };
        call.finish()?;
        let (workspace, db) = (call.workspace()?, self.store.read());
        let webhooks =
            store::webhook::list(db, &self.store, workspace, &filter, page.after().copied(), page.limit()).await?;
        let (webhooks, next_page_token) = page.cut(webhooks, |webhook| webhook.id);
        let now = self.store.clock().now();
        let webhooks = webhooks.iter().map(|webhook| to_pb(webhook, now)).collect();
        Ok(Response::new(pb::ListWebhooksResponse { webhooks, next_page_token }))
    }

    async fn update_webhook(
        &self,
        request: Request<pb::UpdateWebhookRequest>,
    ) -> Result<Response<pb::Webhook>, Status> {
        let mut call = Call::open(request)?;
        let key = call.request_key();
        let given = call.message.webhook.take().unwrap_or_default();
        let id = call.id("webhook.id", &given.id);
        let update_mask = call.message.update_mask.take();
        let is_set = |path: &str| is_set(&given, path);
        let paths = mask::paths(update_mask.as_ref(), &UPDATABLE, is_set, |_| false, &mut call.violations);
        let id = call.finish_with(id)?;
        let workspace = call.workspace()?;
        let (given, paths) = (&given, &paths);
        let make = |tx: Tx| async move {
            tx.gate_exclusive().await?;
            let current = store::webhook::get(tx.db(), tx.store(), workspace, id).await?;
            check_etag("webhook", &given.etag, current.version)?;
            let merged = merge(to_pb(&current, tx.now()), given, paths);
            let mut violations = Violations::default();
            violations.check_rules("webhook", &merged)?;
            let definition = self.parse(&tx, workspace, &merged, Some(&current.definition), violations).await?;
            end_removed_events(&tx, &current, &definition).await?;
            let mut webhook = Webhook { definition, version: current.version + 1, updated: tx.now(), ..current };
            sign_by(&mut webhook, &schemes(&merged), tx.now(), tx.store().entropy())?;
            webhook.name = merged.name;
            store::webhook::update(&tx, &webhook).await?;
            Ok((webhook, id.to_string()))
        };
        let again = |tx, answer| again(tx, workspace, answer);
        let webhook = self.store.write_once("update_webhook", key.as_ref(), make, again).await?;
        Ok(Response::new(to_pb(&webhook, self.store.clock().now())))
    }

    async fn delete_webhook(&self, request: Request<pb::DeleteWebhookRequest>) -> Result<Response<()>, Status> {
        let mut call = Call::open(request)?;
        let key = call.request_key();
        let id = call.id("id", &call.message.id.clone());
        let id = call.finish_with(id)?;
        let (workspace, etag) = (call.workspace()?, call.message.etag.as_str());
        let make = |tx: Tx| async move {
            delete(&tx, workspace, id, etag).await?;
            Ok(((), String::new()))
        };
        self.store.write_once("delete_webhook", key.as_ref(), make, |_, _| async { Ok(()) }).await?;
        Ok(Response::new(()))
    }

    async fn pause_webhook(&self, request: Request<pb::PauseWebhookRequest>) -> Result<Response<pb::Webhook>, Status> {
        let mut call = Call::open(request)?;
        let key = call.request_key();
        let id = call.id("id", &call.message.id.clone());
        let id = call.finish_with(id)?;
        let (workspace, etag) = (call.workspace()?, call.message.etag.as_str());
        let make = |tx: Tx| async move { Ok((pause(&tx, workspace, id, etag).await?, id.to_string())) };
        let again = |tx, answer| again(tx, workspace, answer);
        let webhook = self.store.write_once("pause_webhook", key.as_ref(), make, again).await?;
        Ok(Response::new(to_pb(&webhook, self.store.clock().now())))
    }

    async fn resume_webhook(
        &self,
        request: Request<pb::ResumeWebhookRequest>,
    ) -> Result<Response<pb::Webhook>, Status> {
        let mut call = Call::open(request)?;
        let key = call.request_key();
        let id = call.id("id", &call.message.id.clone());
        let id = call.finish_with(id)?;
        let (workspace, etag) = (call.workspace()?, call.message.etag.as_str());
        let make = |tx: Tx| async move { Ok((resume(&tx, workspace, id, etag).await?, id.to_string())) };
        let again = |tx, answer| again(tx, workspace, answer);
        let webhook = self.store.write_once("resume_webhook", key.as_ref(), make, again).await?;
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
        Ok(Response::new(fire::test(self, Call::open(request)?).await?))
    }

    async fn trigger_webhook(
        &self,
        request: Request<pb::TriggerWebhookRequest>,
    ) -> Result<Response<pb::TriggerWebhookResponse>, Status> {
        let decision = fire::trigger(self, Call::open(request)?).await?;
        Ok(Response::new(pb::TriggerWebhookResponse { trigger: Some(decision_to_pb(&decision)) }))
    }

    async fn get_webhook_secret(
        &self,
        request: Request<pb::GetWebhookSecretRequest>,
    ) -> Result<Response<pb::WebhookSecret>, Status> {
        let mut call = Call::open(request)?;
        let id = call.id("id", &call.message.id.clone());
        let id = call.finish_with(id)?;
        let webhook = store::webhook::get(self.store.read(), &self.store, call.workspace()?, id).await?;
        Ok(Response::new(secret_to_pb(&webhook, self.store.clock().now())))
    }

    async fn rotate_webhook_secret(
        &self,
        request: Request<pb::RotateWebhookSecretRequest>,
    ) -> Result<Response<pb::WebhookSecret>, Status> {
        let mut call = Call::open(request)?;
        let key = call.request_key();
        let workspace = call.workspace()?;
        let rotation = &Rotation::parse(&mut call)?;
        let make = |tx: Tx| async move { Ok((rotation.make(&tx).await?, rotation.webhook_id().to_string())) };
        let again = |tx, answer| again(tx, workspace, answer);
        let webhook = self.store.write_once("rotate_webhook_secret", key.as_ref(), make, again).await?;
        Ok(Response::new(secret_to_pb(&webhook, self.store.clock().now())))
    }
}

impl Services {
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

/// The answer to a request that created or changed a webhook before: the webhook as it is now.
async fn again(tx: Tx, workspace: WorkspaceId, answer: String) -> Result<Webhook> {
    let id = answer.parse().map_err(Error::internal)?;
    store::webhook::get(tx.db(), tx.store(), workspace, id).await
}

/// A webhook that is signed by nothing yet.
fn new_webhook(now: Micros, workspace: WorkspaceId, id: WebhookId, name: String, definition: Definition) -> Webhook {
    Webhook {
        id,
        workspace_id: workspace,
        name,
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

/// Whether an update without a mask changes the field: those that the caller has set.
fn is_set(webhook: &pb::Webhook, path: &str) -> bool {
    match path {
        "name" => !webhook.name.is_empty(),
        "url" => !webhook.url.is_empty(),
        "activation_tag_ids" => !webhook.activation_tag_ids.is_empty(),
        "on_contact_deleted" => webhook.on_contact_deleted,
        "only_when_newly_assigned" => webhook.only_when_newly_assigned,
        "cooldown" => webhook.cooldown.is_some(),
        "cooldown_policy" => webhook.cooldown_policy != 0,
        "events" => !webhook.events.is_empty(),
        "headers" => !webhook.headers.is_empty(),
        "timeout" => webhook.timeout.is_some(),
        "signature_schemes" => !webhook.signature_schemes.is_empty(),
        "max_concurrency" => webhook.max_concurrency != 0,
        "rate_limit" => webhook.rate_limit != 0.0,
        "ordered" => webhook.ordered,
        _ => webhook.retry_policy.is_some(),
    }
}

/// The webhook with the named fields replaced by those given.
fn merge(mut webhook: pb::Webhook, given: &pb::Webhook, paths: &[String]) -> pb::Webhook {
    for path in paths {
        match path.as_str() {
            "name" => webhook.name.clone_from(&given.name),
            "url" => webhook.url.clone_from(&given.url),
            "activation_tag_ids" => webhook.activation_tag_ids.clone_from(&given.activation_tag_ids),
            "on_contact_deleted" => webhook.on_contact_deleted = given.on_contact_deleted,
            "only_when_newly_assigned" => webhook.only_when_newly_assigned = given.only_when_newly_assigned,
            "cooldown" => webhook.cooldown = given.cooldown,
            "cooldown_policy" => webhook.cooldown_policy = given.cooldown_policy,
            "events" => webhook.events.clone_from(&given.events),
            "headers" => webhook.headers.clone_from(&given.headers),
            "timeout" => webhook.timeout = given.timeout,
            "retry_policy" => webhook.retry_policy.clone_from(&given.retry_policy),
            "signature_schemes" => webhook.signature_schemes.clone_from(&given.signature_schemes),
            "max_concurrency" => webhook.max_concurrency = given.max_concurrency,
            "rate_limit" => webhook.rate_limit = given.rate_limit,
            "ordered" => webhook.ordered = given.ordered,
            _ => {}
        }
    }
    webhook
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A field that could be named but not merged, or merged without being named, would be lost.
    #[test]
    fn every_updatable_field_is_merged_and_told_when_set() {
        let given = pb::Webhook {
            name: "New".to_owned(),
            url: "https://new.example/".to_owned(),
            activation_tag_ids: vec!["tag_1".to_owned()],
            on_contact_deleted: true,
            only_when_newly_assigned: true,
            cooldown: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            cooldown_policy: pb::webhook::CooldownPolicy::Defer.into(),
            events: vec![pb::WebhookEvent::default()],
            headers: vec![pb::webhook::Header::default()],
            timeout: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
            retry_policy: Some(pb::RetryPolicy::default()),
            signature_schemes: vec![pb::SignatureScheme::V1a.into()],
            max_concurrency: 7,
            rate_limit: 0.5,
            ordered: true,
            ..pb::Webhook::default()
        };
        for path in UPDATABLE {
            assert!(is_set(&given, path) && !is_set(&pb::Webhook::default(), path), "{path}");
            let merged = merge(pb::Webhook::default(), &given, &[path.to_owned()]);
            assert!(UPDATABLE.iter().all(|other| is_set(&merged, other) == (*other == path)), "{path}");
        }
        let paths = UPDATABLE.map(str::to_owned);
        assert_eq!(merge(pb::Webhook::default(), &given, &paths), given);
    }
}
