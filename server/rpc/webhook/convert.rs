//! Webhooks to the wire.

use crate::domain::delivery::Reason;
use crate::domain::header::Header;
use crate::domain::request::{EventDefinition, Method, ParameterDefinition, Source};
use crate::domain::time::Micros;
use crate::domain::webhook::{Webhook, WebhookState};
use crate::pb;
use crate::rpc::call::etag_of;
use crate::rpc::convert::{duration, timestamp};

/// A webhook without the values of its sensitive headers, as it is at `now`.
pub(super) fn to_pb(webhook: &Webhook, now: Micros) -> pb::Webhook {
    let definition = &webhook.definition;
    let disable_reason = match webhook.state_reason {
        _ if webhook.state != WebhookState::Disabled => pb::webhook::DisableReason::Unspecified,
        Reason::Gone => pb::webhook::DisableReason::Gone,
        Reason::Failing => pb::webhook::DisableReason::Failing,
        _ => pb::webhook::DisableReason::Unspecified,
    };
    pb::Webhook {
        id: webhook.id.to_string(),
        name: webhook.name.clone(),
        state: webhook.state.code().into(),
        disable_reason: disable_reason.into(),
        state_time: Some(timestamp(webhook.state_since)),
        url: definition.url.clone(),
        activation_tag_ids: definition.activation_tag_ids.iter().map(ToString::to_string).collect(),
        on_contact_deleted: definition.on_contact_deleted,
        only_when_newly_assigned: definition.only_when_newly_assigned,
        cooldown: Some(duration(definition.cooldown)),
        cooldown_policy: definition.cooldown_policy.code().into(),
        events: definition.events.iter().map(event_to_pb).collect(),
        headers: definition.headers.iter().map(header_to_pb).collect(),
        timeout: Some(duration(definition.timeout)),
        retry_policy: Some(pb::RetryPolicy {
            delays: definition.schedule.delays().iter().copied().map(duration).collect(),
        }),
        max_concurrency: i32::try_from(definition.max_concurrency).unwrap_or(i32::MAX),
        rate_limit: definition.rate_limit,
        ordered: definition.ordered,
        condition: definition.condition.clone().unwrap_or_default(),
        create_time: Some(timestamp(webhook.created)),
        update_time: Some(timestamp(webhook.updated)),
        etag: etag_of(webhook.version),
        signature_schemes: webhook.signature_schemes().iter().map(|scheme| scheme.code().into()).collect(),
        key: webhook.key.clone().unwrap_or_default(),
        labels: webhook.labels.clone(),
        public_keys: webhook.live_secrets(now).filter_map(|live| live.secret.public_key()).collect(),
    }
}

/// The secrets of a webhook that are live at `now`, for its owner.
pub(super) fn secret_to_pb(webhook: &Webhook, now: Micros) -> pb::WebhookSecret {
    let secrets = webhook.live_secrets(now).map(|live| pb::webhook_secret::Secret {
        value: live.secret.expose_text().to_string(),
        create_time: Some(timestamp(live.created)),
        expire_time: live.expires.map(timestamp),
        signature_scheme: live.secret.scheme().code().into(),
        public_key: live.secret.public_key().unwrap_or_default(),
    });
    let secrets = secrets.collect();
    pb::WebhookSecret { webhook_id: webhook.id.to_string(), secrets, etag: etag_of(webhook.version) }
}

/// The values of sensitive headers are never shown.
fn header_to_pb(header: &Header) -> pb::webhook::Header {
    pb::webhook::Header {
        name: header.name.clone(),
        value: if header.sensitive { String::new() } else { header.value.clone() },
        sensitive: header.sensitive,
    }
}

fn event_to_pb(event: &EventDefinition) -> pb::WebhookEvent {
    pb::WebhookEvent {
        id: event.id.to_string(),
        key: event.key.clone().unwrap_or_default(),
        method: event.method.code().into(),
        encoding: match event.method {
            Method::Post => event.encoding.code().into(),
            Method::Get => pb::webhook_event::Encoding::Unspecified.into(),
        },
        email_parameter_name: event.email_parameter_name.clone(),
        parameters: event.parameters.iter().map(parameter_to_pb).collect(),
        event_type: event.event_type.clone(),
    }
}

fn parameter_to_pb(parameter: &ParameterDefinition) -> pb::webhook_event::Parameter {
    use pb::webhook_event::parameter::Source as Shown;
    let source = match &parameter.source {
        Source::ContactField(key) => Shown::ContactField(key.clone()),
        Source::Static(text) => Shown::StaticValue(text.clone()),
        Source::System(value) => Shown::SystemValue(value.code().into()),
        Source::EventAttribute(name) => Shown::EventAttribute(name.clone()),
        Source::TriggerValue(key) => Shown::TriggerValue(key.clone()),
    };
    let default_value = parameter.default.as_ref().map(|default| pb::webhook_event::DefaultValue {
        value: default.value.clone(),
        mode: default.mode.code().into(),
    });
    pb::webhook_event::Parameter { name: parameter.name.clone(), source: Some(source), default_value }
}
