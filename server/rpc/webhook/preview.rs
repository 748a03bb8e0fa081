//! PreviewWebhook: the requests as the sender would build them, sent nowhere.

use std::sync::Arc;

use http::header::USER_AGENT;

use super::parse::{Surroundings, parse};
use crate::dispatch::request::build;
use crate::dispatch::send::{self, OutboundRequest};
use crate::domain::contact::Contact;
use crate::domain::delivery::Reason;
use crate::domain::example;
use crate::domain::request::{EventDefinition, Snapshot, Source, TriggerContext};
use crate::domain::signature::SigningSecret;
use crate::domain::tag::Tag;
use crate::domain::webhook::{Webhook, WebhookSecret, WebhookState};
use crate::error::{Error, Result};
use crate::ids::{ContactId, DeliveryId, TagId, TypedId, WebhookId, WorkspaceId};
use crate::pb;
use crate::rpc::Services;
use crate::rpc::call::Call;
use crate::store;
use crate::store::config::{PreparedWebhook, WorkspaceConfig};
use crate::store::contact::ContactRef;

/// What all requests of a preview have in common.
struct Scene {
    config: Arc<WorkspaceConfig>,
    webhook: PreparedWebhook,
    contact: Contact,
    tag: Option<Arc<Tag>>,
    traceparent: Option<String>,
}

pub(super) async fn preview(
    services: &Services,
    mut call: Call<pb::PreviewWebhookRequest>,
) -> Result<Vec<pb::RenderedRequest>> {
    let pb::PreviewWebhookRequest { id, webhook: draft, contact_id, tag_id } = std::mem::take(&mut call.message);
    let id: Option<WebhookId> = call.violations.optional_id("id", &id);
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
    let tag = match tag {
        Some(id) => Some(Arc::clone(config.tag(id).ok_or_else(|| Error::not_found(id))?)),
        None => webhook.definition.activation_tag_ids.first().and_then(|id| config.tag(*id)).cloned(),
    };
    let webhook = PreparedWebhook::new(with_made_up_secret(services, webhook))?;
    let scene = Scene { config, webhook, contact, tag, traceparent: call.traceparent };
    let events = scene.webhook.webhook.definition.events.iter();
    Ok(events
        .map(|event| pb::RenderedRequest {
            webhook_event_id: if draft.is_none() { event.id.to_string() } else { String::new() },
            ..scene.render(services, event)
        })
        .collect())
}

impl Scene {
    fn render(&self, services: &Services, event: &EventDefinition) -> pb::RenderedRequest {
        let now = services.store.clock().now();
        let delivery_id = DeliveryId::generate(now, services.store.entropy());
        let context = TriggerContext {
            contact_id: &self.contact.id.to_string(),
            email: self.contact.email.as_ref().map(|email| email.as_str()),
            phone: self.contact.phone.as_ref().map(|phone| phone.as_str()),
            values: &self.contact.values,
            field_type: &|key| self.config.field_type(key),
            activation_tag: self.tag.as_ref().map(|tag| tag.name.as_str()),
            tag_time: self.tag.as_ref().map(|_| now),
            trigger_time: now,
            delivery_id: &delivery_id.to_string(),
            webhook_name: &self.webhook.webhook.name,
            campaign_name: None,
        };
        let snapshot = Snapshot::plan(event, &context);
        let method = event.method.code().into();
        match build(&self.webhook, &snapshot, delivery_id, now, now, self.traceparent.as_deref()) {
            Ok(request) => pb::RenderedRequest { method, ..rendered(&request) },
            Err(error) => {
                let reason = error.class().final_reason().unwrap_or(Reason::RequestInvalid);
                pb::RenderedRequest { method, reason: reason.code().into(), ..pb::RenderedRequest::default() }
            }
        }
    }
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
    Ok(Webhook {
        id: WebhookId::generate(now, services.store.entropy()),
        workspace_id: workspace,
        name: draft.name.clone(),
        state: WebhookState::Active,
        state_reason: Reason::None,
        state_since: now,
        definition,
        secrets: Vec::new(),
        failing_since: None,
        version: 1,
        created: now,
        updated: now,
    })
}

/// A request signed with the webhook's own secret would be as good as a delivery to whoever gets hold of it.
fn with_made_up_secret(services: &Services, mut webhook: Webhook) -> Webhook {
    let secret = services.store.entropy().with(SigningSecret::generate);
    webhook.secrets = vec![WebhookSecret { secret, created: webhook.created }];
    webhook
}

/// A contact that has a value for each field that the webhook sends.
fn example_contact(services: &Services, config: &WorkspaceConfig, webhook: &Webhook) -> Contact {
    let now = services.store.clock().now();
    let parameters = webhook.definition.events.iter().flat_map(|event| &event.parameters);
    let fields = parameters.filter_map(|parameter| match &parameter.source {
        Source::ContactField(key) => Some((key.as_str(), config.field_type(key)?)),
        Source::Static(_) | Source::System(_) => None,
    });
    example::contact(ContactId::generate(now, services.store.entropy()), now, fields)
}

fn rendered(request: &OutboundRequest) -> pb::RenderedRequest {
    let headers = request.headers.iter().map(|(name, value)| pb::webhook::Header {
        name: name.to_string(),
        value: if value.is_sensitive() { String::new() } else { value.to_str().unwrap_or_default().to_owned() },
        sensitive: value.is_sensitive(),
    });
    let user_agent = pb::webhook::Header {
        name: USER_AGENT.to_string(),
        value: send::USER_AGENT.to_owned(),
        sensitive: false,
    };
    pb::RenderedRequest {
        url: request.url.to_string(),
        headers: headers.chain([user_agent]).collect(),
        body: String::from_utf8_lossy(&request.body).into_owned(),
        ..pb::RenderedRequest::default()
    }
}
