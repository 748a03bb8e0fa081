//! Webhooks from the wire: everything that is wrong with one is told at once.

use std::collections::HashSet;
use std::time::Duration;

use url::Url;

use crate::clock::Entropy;
use crate::dispatch::egress::Egress;
use crate::domain::condition::{Condition, Scope};
use crate::domain::header::Header;
use crate::domain::request::{
    DEFAULT_EMAIL_PARAMETER_NAME, DEFAULT_EVENT_TYPE, DefaultMode, DefinitionProblem, Encoding, EventDefinition,
    Method, ParameterDefault, ParameterDefinition, Place, Source, SystemValue,
};
use crate::domain::retry::{MIN_DELAY, Schedule, ScheduleError};
use crate::domain::template::UrlTemplate;
use crate::domain::time::Micros;
use crate::domain::webhook::{
    CooldownPolicy, DEFAULT_COOLDOWN, DEFAULT_MAX_CONCURRENCY, DEFAULT_TIMEOUT, Definition, MIN_RATE_LIMIT,
};
use crate::error::{Result, Violations};
use crate::ids::{TagId, TypedId, WebhookEventId};
use crate::pb;
use crate::rpc::convert::{check_size, code, optional, parse_duration};
use crate::store::config::WorkspaceConfig;

/// What a webhook is checked against.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// The tags and fields that there are.
    pub(super) config: &'a WorkspaceConfig,
    /// What URLs may be called.
    pub(super) egress: &'a Egress,
    /// The webhook as it was: its events are matched by id, and values of sensitive headers are kept. `None` for a new
    /// one.
    pub(super) current: Option<&'a Definition>,
    /// For the ids of new events.
    pub(super) now: Micros,
    /// For the ids of new events.
    pub(super) entropy: &'a Entropy,
}

/// Parses a whole webhook, new or merged, which stands in its request as `webhook`. `violations` has what it breaks of the
/// proto's rules, and what else is wrong with the request.
///
/// # Errors
///
/// [`crate::error::Error::Invalid`] with all that is wrong.
pub(super) fn parse(
    webhook: &pb::Webhook,
    around: &Surroundings<'_>,
    mut violations: Violations,
) -> Result<Definition> {
    let bad = &mut violations;
    check_size("webhook", webhook, bad);
    if webhook.name.contains(char::is_control) {
        bad.add_if_new("webhook.name", "CONTROL_CHARACTER", "must not have control characters");
    }
    let events = parse_events(&webhook.events, around, bad);
    check_url(&webhook.url, &events, around.egress, bad);
    let definition = Definition {
        url: webhook.url.clone(),
        activation_tag_ids: parse_tags(&webhook.activation_tag_ids, around.config, bad),
        on_contact_deleted: webhook.on_contact_deleted,
        condition: parse_condition(&webhook.condition, bad),
        only_when_newly_assigned: webhook.only_when_newly_assigned,
        cooldown: parse_duration("webhook.cooldown", webhook.cooldown, bad).map_or(DEFAULT_COOLDOWN, whole_micros),
        cooldown_policy: CooldownPolicy::from_code(code(webhook.cooldown_policy())).unwrap_or(CooldownPolicy::Suppress),
        events,
        headers: parse_headers(&webhook.headers, around.current, bad),
        timeout: parse_duration("webhook.timeout", webhook.timeout, bad).map_or(DEFAULT_TIMEOUT, whole_micros),
        schedule: parse_schedule(webhook.retry_policy.as_ref(), bad),
        max_concurrency: match u32::try_from(webhook.max_concurrency) {
            Ok(count @ 1..) => count,
            Ok(0) | Err(_) => DEFAULT_MAX_CONCURRENCY,
        },
        rate_limit: parse_rate_limit(webhook.rate_limit, bad),
        ordered: webhook.ordered,
    };
    violations.finish()?;
    Ok(definition)
}

/// The database keeps microseconds.
fn whole_micros(duration: Duration) -> Duration {
    Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

fn check_url(url: &str, events: &[EventDefinition], egress: &Egress, violations: &mut Violations) {
    const FIELD: &str = "webhook.url";
    if violations.names(FIELD) {
        return;
    }
    let template = UrlTemplate::parse(url, &common_names(events)).or_else(|errors| {
        errors.iter().for_each(|error| violations.add(FIELD, "URL", error.to_string()));
        // A placeholder that nothing fills says nothing about the host.
        UrlTemplate::stored(url)
    });
    // Values stand in path and query only, so that they can't change what is checked here.
    let origin = template.ok().and_then(|template| Url::parse(&template.origin().to_string()).ok());
    if let Some(Err(denied)) = origin.map(|origin| egress.check_url(&origin)) {
        violations.add(FIELD, "EGRESS_DENIED", denied.to_string());
    }
}

/// The names of the parameters that all webhook events have, in the order of the first one's.
fn common_names(events: &[EventDefinition]) -> Vec<&str> {
    let Some((first, others)) = events.split_first() else { return Vec::new() };
    let others: Vec<HashSet<&str>> = others.iter().map(|event| event.parameter_names().collect()).collect();
    first.parameter_names().filter(|name| others.iter().all(|names| names.contains(name))).collect()
}

fn parse_tags(ids: &[String], config: &WorkspaceConfig, violations: &mut Violations) -> Vec<TagId> {
    let mut tags = Vec::with_capacity(ids.len());
    for (index, text) in ids.iter().enumerate() {
        let field = format!("webhook.activation_tag_ids[{index}]");
        match violations.id::<TagId>(&field, text) {
            Some(id) if config.tag(id).is_some() => tags.push(id),
            Some(_) => violations.add_if_new(field, "TAG_UNKNOWN", "there is no tag with this id"),
            None => {}
        }
    }
    tags
}

fn parse_events(
    events: &[pb::WebhookEvent],
    around: &Surroundings<'_>,
    violations: &mut Violations,
) -> Vec<EventDefinition> {
    let (mut taken, mut keys) = (HashSet::new(), HashSet::new());
    let named: HashSet<WebhookEventId> = events.iter().filter_map(|event| event.id.parse().ok()).collect();
    let mut parsed = Vec::with_capacity(events.len());
    for (index, event) in events.iter().enumerate() {
        let at = format!("webhook.events[{index}]");
        if !event.key.is_empty() && !keys.insert(event.key.as_str()) {
            violations.add_if_new(format!("{at}.key"), "KEY_TAKEN", "must not be the key of another webhook event");
        }
        let id = match with_key(&event.key, around.current).filter(|id| event.id.is_empty() && !named.contains(id)) {
            Some(id) => id,
            None => event_id(&at, &event.id, around, &mut taken, violations),
        };
        let definition = parse_event(id, &at, event, violations);
        for error in definition.problems(&|key| around.config.field_type(key).is_some()) {
            let field = path_of(&at, error.place, &definition);
            violations.add_if_new(field, reason_of(error.problem), error.to_string());
        }
        parsed.push(definition);
    }
    parsed
}

/// The event that has a key, of those that the webhook has.
fn with_key(key: &str, current: Option<&Definition>) -> Option<WebhookEventId> {
    let mut events = current?.events.iter().filter(|event| event.key.is_some());
    events.find(|event| event.key.as_deref() == Some(key)).map(|event| event.id)
}

/// The id of an event: a new one, or that of the event as it was.
fn event_id(
    at: &str,
    text: &str,
    around: &Surroundings<'_>,
    taken: &mut HashSet<WebhookEventId>,
    violations: &mut Violations,
) -> WebhookEventId {
    let new = || WebhookEventId::generate(around.now, around.entropy);
    let field = format!("{at}.id");
    let Some(current) = around.current.filter(|_| !text.is_empty()) else { return new() };
    let Some(id) = violations.id(&field, text) else { return new() };
    if !current.events.iter().any(|event| event.id == id) {
        violations.add_if_new(
            field,
            "EVENT_UNKNOWN",
            "must be the id of an event of this webhook, or empty for a new one",
        );
    } else if !taken.insert(id) {
        violations.add_if_new(field, "EVENT_REPEATED", "must not be the id of two events");
    }
    id
}

fn parse_event(id: WebhookEventId, at: &str, event: &pb::WebhookEvent, violations: &mut Violations) -> EventDefinition {
    let or_default = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    let method = Method::from_code(code(event.method())).unwrap_or(Method::Post);
    let encoding = Encoding::from_code(code(event.encoding())).filter(|_| method == Method::Post);
    let parameters = event.parameters.iter().enumerate();
    EventDefinition {
        id,
        key: optional(&event.key),
        method,
        encoding: encoding.unwrap_or(Encoding::Form),
        event_type: or_default(&event.event_type, DEFAULT_EVENT_TYPE),
        email_parameter_name: or_default(&event.email_parameter_name, DEFAULT_EMAIL_PARAMETER_NAME),
        parameters: parameters
            .map(|(index, parameter)| parse_parameter(&format!("{at}.parameters[{index}]"), parameter, violations))
            .collect(),
    }
}

fn parse_parameter(
    at: &str,
    parameter: &pb::webhook_event::Parameter,
    violations: &mut Violations,
) -> ParameterDefinition {
    use pb::webhook_event::parameter::Source as Given;
    let source = match &parameter.source {
        Some(Given::ContactField(key)) => Some(Source::ContactField(key.clone())),
        Some(Given::StaticValue(text)) => Some(Source::Static(text.clone())),
        Some(Given::SystemValue(number)) => SystemValue::from_code(code(*number)).map(Source::System),
        Some(Given::EventAttribute(name)) => Some(Source::EventAttribute(name.clone())),
        Some(Given::TriggerValue(key)) => Some(Source::TriggerValue(key.clone())),
        None => None,
    };
    if source.is_none() {
        let (field, description) = match parameter.source {
            Some(_) => ("system_value", "must be one of the defined values"),
            None => (
                "source",
                "one of contact_field, static_value, system_value, event_attribute and trigger_value must be set",
            ),
        };
        violations.add_if_new(format!("{at}.{field}"), "SOURCE", description);
    }
    let default = parameter.default_value.as_ref().map(|default| ParameterDefault {
        value: default.value.clone(),
        mode: DefaultMode::from_code(code(default.mode())).unwrap_or(DefaultMode::Fallback),
    });
    ParameterDefinition {
        name: match &source {
            Some(Source::ContactField(key)) if parameter.name.is_empty() => key.clone(),
            _ => parameter.name.clone(),
        },
        source: source.unwrap_or_else(|| Source::Static(String::new())),
        default,
    }
}

fn path_of(at: &str, place: Place, event: &EventDefinition) -> String {
    match place {
        Place::EmailName => format!("{at}.email_parameter_name"),
        Place::EventType => format!("{at}.event_type"),
        Place::Parameters => format!("{at}.parameters"),
        Place::Name(index) => format!("{at}.parameters[{index}].name"),
        Place::Default(index) => format!("{at}.parameters[{index}].default_value.value"),
        Place::Source(index) => {
            let field = match event.parameters.get(index).map(|parameter| &parameter.source) {
                Some(Source::ContactField(_)) => "contact_field",
                Some(Source::Static(_)) => "static_value",
                Some(Source::EventAttribute(_)) => "event_attribute",
                Some(Source::TriggerValue(_)) => "trigger_value",
                Some(Source::System(_)) | None => "system_value",
            };
            format!("{at}.parameters[{index}].{field}")
        }
    }
}

const fn reason_of(problem: DefinitionProblem) -> &'static str {
    match problem {
        DefinitionProblem::TooManyParameters { .. } => "TOO_MANY",
        DefinitionProblem::NameLength { .. }
        | DefinitionProblem::SourceNameLength { .. }
        | DefinitionProblem::ValueLength { .. } => "LENGTH",
        DefinitionProblem::EventType => "EVENT_TYPE",
        DefinitionProblem::NameTaken => "NAME_TAKEN",
        DefinitionProblem::UnknownField => "FIELD_UNKNOWN",
        DefinitionProblem::ValueCharacter => "CONTROL_CHARACTER",
    }
}

fn parse_condition(source: &str, violations: &mut Violations) -> Option<String> {
    let source = Some(source).filter(|source| !source.is_empty())?;
    let condition = Condition::parse(source, Scope::Trigger);
    violations.take("webhook.condition", "CONDITION", condition).map(|condition| condition.source().to_owned())
}

/// An empty value of a sensitive header means the one that is kept: it can't be read, and so can't be given again.
fn parse_headers(
    headers: &[pb::webhook::Header],
    current: Option<&Definition>,
    violations: &mut Violations,
) -> Vec<Header> {
    let mut taken = HashSet::new();
    let mut parsed = Vec::with_capacity(headers.len());
    for (index, header) in headers.iter().enumerate() {
        let at = format!("webhook.headers[{index}]");
        let name = violations.take(&format!("{at}.name"), "HEADER", Header::parse_name(&header.name));
        let value = violations.take(&format!("{at}.value"), "HEADER", Header::check_value(&header.value));
        if name.is_some_and(|name| !taken.insert(name)) {
            violations.add(
                format!("{at}.name"),
                "HEADER_REPEATED",
                "must not be the name of two headers, whatever its case",
            );
        }
        let Some(Ok(mut header)) = value.map(|()| Header::parse(&header.name, &header.value, header.sensitive)) else {
            continue;
        };
        if header.sensitive && header.value.is_empty() {
            let kept = current.and_then(|current| current.headers.iter().find(|kept| kept.name == header.name));
            header.value = kept.map(|kept| kept.value.clone()).unwrap_or_default();
        }
        parsed.push(header);
    }
    parsed
}

fn parse_schedule(policy: Option<&pb::RetryPolicy>, violations: &mut Violations) -> Schedule {
    const FIELD: &str = "webhook.retry_policy.delays";
    let Some(policy) = policy else { return Schedule::default() };
    let mut delays = Vec::with_capacity(policy.delays.len());
    for (index, delay) in policy.delays.iter().enumerate() {
        let delay = parse_duration(&format!("{FIELD}[{index}]"), Some(*delay), violations);
        delays.push(delay.map_or(MIN_DELAY, whole_micros));
    }
    Schedule::new(delays).unwrap_or_else(|errors| {
        for error in errors {
            let (field, reason) = match error {
                ScheduleError::TooMany { .. } => (FIELD.to_owned(), "TOO_MANY"),
                ScheduleError::Delay { index } => (format!("{FIELD}[{index}]"), "DELAY"),
            };
            violations.add_if_new(field, reason, error.to_string());
        }
        Schedule::default()
    })
}

fn parse_rate_limit(rate_limit: f64, violations: &mut Violations) -> f64 {
    if rate_limit != 0.0 && rate_limit < MIN_RATE_LIMIT {
        violations.add_if_new("webhook.rate_limit", "RATE", "must be 0, for no limit, or 0.001 at least");
    }
    // Zero has a sign as well.
    if rate_limit == 0.0 { 0.0 } else { rate_limit }
}

#[cfg(test)]
mod tests;
