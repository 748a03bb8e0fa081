//! PreviewWebhook: the requests as the sender would build them, sent nowhere.

use std::sync::Arc;

use http::header::USER_AGENT;

use super::new_webhook;
use super::parse::{Surroundings, parse};
use super::secret::{schemes, sign_by};
use crate::automation::{Origin, TagMark, Trigger};
use crate::dispatch::request::build;
use crate::dispatch::send::{self, OutboundRequest};
use crate::domain::contact::Contact;
use crate::domain::delivery::{Reason, Source};
use crate::domain::example;
use crate::domain::request::{self, EventDefinition};
use crate::domain::webhook::Webhook;
use crate::error::{Error, Result};
use crate::ids::{ContactId, DeliveryId, TagId, TypedId, WebhookId, WorkspaceId};
use crate::pb;
use crate::pb::preview_webhook_request::Target;
use crate::rpc::Services;
use crate::rpc::call::Call;
use crate::store;
use crate::store::config::{PreparedWebhook, WorkspaceConfig};
use crate::store::contact::ContactRef;

pub(super) async fn preview(
    services: &Services,
    mut call: Call<pb::PreviewWebhookRequest>,
) -> Result<Vec<pb::RenderedRequest>> {
    let pb::PreviewWebhookRequest { target, contact_id, tag_id } = std::mem::take(&mut call.message);
    let (id, draft) = match target {
        Some(Target::Id(id)) => (call.id::<WebhookId>("id", &id), None),
        Some(Target::Webhook(draft)) => (None, Some(draft)),
        None => (None, None),
    };
    let contact: Option<ContactId> = call.violations.optional_id("contact_id", &contact_id);
    let tag: Option<TagId> = call.violations.optional_id("tag_id", &tag_id);
    let workspace = call.workspace()?;
    let config = services.store.config(workspace).await?;
    let webhook = match &draft {
        Some(draft) => unwritten(services, &config, workspace, draft, &mut call)?,
        None => {
            let id = call.finish_with(id)?;
            store::webhook::get(services.store.read(), &services.store, workspace, id).await?
        }
    };
    let contact = match contact {
        Some(id) => store::contact::get(services.store.read(), workspace, &ContactRef::Id(id)).await?,
        None => example_contact(services, &config, &webhook),
    };
    let trigger = Trigger {
        tags: tag_mark(services, &config, &webhook, tag)?.into_iter().collect(),
        webhook: Arc::new(PreparedWebhook::new(with_made_up_secrets(services, webhook)?)?),
        config,
        contact: Arc::new(contact),
        workspace_id: workspace,
        source: Source::Tag,
        only: None,
        campaign: None,
        origin: Origin { traceparent: call.traceparent, ..Origin::default() },
    };
    let events = trigger.webhook.webhook.definition.events.iter();
    Ok(events
        .map(|event| pb::RenderedRequest {
            webhook_event_id: if draft.is_none() { event.id.to_string() } else { String::new() },
            ..render(services, &trigger, event)
        })
        .collect())
}

fn render(services: &Services, trigger: &Trigger, event: &EventDefinition) -> pb::RenderedRequest {
    let now = services.store.clock().now();
    let id = DeliveryId::generate(now, services.store.entropy());
    let snapshot = trigger.snapshot(event, id, now);
    let method = event.method.code().into();
    match build(&trigger.webhook, &snapshot, id, now, now, trigger.origin.traceparent.as_deref()) {
        Ok(request) => pb::RenderedRequest { method, ..rendered(&request) },
        Err(error) => {
            let reason = error.class().final_reason().unwrap_or(Reason::RequestInvalid);
            pb::RenderedRequest { method, reason: reason.code().into(), ..pb::RenderedRequest::default() }
        }
    }
}

/// The tag that is said to activate the webhook, or else its first one, as if it were assigned now.
fn tag_mark(
    services: &Services,
    config: &WorkspaceConfig,
    webhook: &Webhook,
    tag: Option<TagId>,
) -> Result<Option<TagMark>> {
    let since = services.store.clock().now();
    let found = match tag {
        Some(id) => Some(config.tag(id).ok_or_else(|| Error::not_found(id))?),
        None => webhook.definition.activation_tag_ids.first().and_then(|id| config.tag(*id)),
    };
    Ok(found.map(|tag| TagMark { id: tag.id, name: tag.name.clone(), since }))
}

/// A definition that isn't written, as a webhook.
fn unwritten(
    services: &Services,
    config: &WorkspaceConfig,
    workspace: WorkspaceId,
    draft: &pb::Webhook,
    call: &mut Call<pb::PreviewWebhookRequest>,
) -> Result<Webhook> {
    let now = services.store.clock().now();
    let around =
        Surroundings { config, egress: &services.egress, current: None, now, entropy: services.store.entropy() };
    let definition = parse(draft, &around, std::mem::take(&mut call.violations))?;
    let id = WebhookId::generate(now, services.store.entropy());
    let mut webhook = new_webhook(now, workspace, id, draft, definition);
    sign_by(&mut webhook, &schemes(draft), now, services.store.entropy())?;
    Ok(webhook)
}

/// A request signed with the webhook's own secret would be as good as a delivery to whoever gets hold of it.
fn with_made_up_secrets(services: &Services, mut webhook: Webhook) -> Result<Webhook> {
    let schemes = webhook.signature_schemes();
    webhook.secrets.clear();
    sign_by(&mut webhook, &schemes, services.store.clock().now(), services.store.entropy())?;
    Ok(webhook)
}

/// A contact that has a value for each field that the webhook sends.
fn example_contact(services: &Services, config: &WorkspaceConfig, webhook: &Webhook) -> Contact {
    let now = services.store.clock().now();
    let parameters = webhook.definition.events.iter().flat_map(|event| &event.parameters);
    let fields = parameters.filter_map(|parameter| match &parameter.source {
        request::Source::ContactField(key) => Some((key.as_str(), config.field_type(key)?)),
        request::Source::Static(_)
        | request::Source::System(_)
        | request::Source::EventAttribute(_)
        | request::Source::TriggerValue(_) => None,
    });
    example::contact(ContactId::generate(now, services.store.entropy()), now, fields)
}

fn rendered(request: &OutboundRequest) -> pb::RenderedRequest {
    let headers = request.headers.iter().map(|(name, value)| pb::webhook::Header {
        name: name.to_string(),
        value: if value.is_sensitive() { String::new() } else { value.to_str().unwrap_or_default().to_owned() },
        sensitive: value.is_sensitive(),
    });
    let user_agent =
        pb::webhook::Header { name: USER_AGENT.to_string(), value: send::USER_AGENT.to_owned(), sensitive: false };
    pb::RenderedRequest {
        url: request.url.to_string(),
        headers: headers.chain([user_agent]).collect(),
        body: String::from_utf8_lossy(&request.body).into_owned(),
        ..pb::RenderedRequest::default()
    }
}
