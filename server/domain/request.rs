//! The HTTP request of a delivery: what a webhook event defines, what of it is fixed when a trigger is accepted (the
//! snapshot), and the bytes that each attempt sends.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use form_urlencoded::byte_serialize;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::coded::coded;
use super::event::MAX_ATTRIBUTE_NAME_BYTES;
use super::field::{Decimal, FieldType, FieldValue, render_stored};
use super::template::{RenderError, UrlTemplate};
use super::time::Micros;
use super::trigger_data::{MAX_KEY_BYTES, TriggerData};
use crate::ids::WebhookEventId;

/// Longest body that is sent, in bytes.
pub const MAX_BODY_BYTES: usize = 4 * 1_048_576;
/// Most parameters of a webhook event beside the e-mail address.
pub const MAX_PARAMETERS: usize = 100;
/// Longest name of a parameter, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// Longest static text and longest default value, in bytes.
pub const MAX_STATIC_BYTES: usize = 4_096;
/// Longest `type` of Standard Webhooks payloads, in bytes.
pub const MAX_EVENT_TYPE_BYTES: usize = 100;
/// What the e-mail address is called unless the webhook event says otherwise.
pub const DEFAULT_EMAIL_PARAMETER_NAME: &str = "email";
/// The `type` of Standard Webhooks payloads unless the webhook event says otherwise.
pub const DEFAULT_EVENT_TYPE: &str = "contact.tagged";

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

coded! {
    /// The request method.
    pub enum Method {
        /// All parameters in the body.
        Post = 1, "POST";
        /// All parameters in the URL.
        Get = 2, "GET";
    }
}

coded! {
    /// How the body of a POST is written. A GET has none: its parameters are form-encoded into the query.
    pub enum Encoding {
        /// `application/x-www-form-urlencoded`.
        Form = 1, "FORM";
        /// One flat JSON object.
        Json = 2, "JSON";
        /// The payload of the Standard Webhooks specification: an object of `type`, `timestamp` and `data`.
        StandardWebhooks = 3, "STANDARD_WEBHOOKS";
    }
}

coded! {
    /// What Taghook knows beside the contact's fields.
    pub enum SystemValue {
        /// The contact's typed id.
        ContactId = 1, "CONTACT_ID";
        /// The name of the tag that activated the webhook, the first of several; empty unless a tag did.
        ActivationTag = 2, "ACTIVATION_TAG";
        /// When that tag was assigned; empty unless a tag activated the webhook.
        TagTime = 3, "TAG_TIME";
        /// When the trigger was accepted.
        TriggerTime = 4, "TRIGGER_TIME";
        /// The delivery's typed id, which is the `webhook-id` header too.
        DeliveryId = 5, "DELIVERY_ID";
        /// The webhook's name.
        WebhookName = 6, "WEBHOOK_NAME";
        /// The name of the campaign whose action fired; empty unless one did.
        CampaignName = 7, "CAMPAIGN_NAME";
        /// The contact's id in the caller's own system; empty if it has none.
        ContactExternalId = 8, "CONTACT_EXTERNAL_ID";
    }
}

coded! {
    /// When a default value is taken.
    pub enum DefaultMode {
        /// If the source gives nothing.
        Fallback = 1, "FALLBACK";
        /// Always.
        Fixed = 2, "FIXED";
    }
}

/// A webhook event: one request definition of a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventDefinition {
    /// Its id.
    pub id: WebhookEventId,
    /// The caller's own name of it, unique in its webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How it's sent.
    pub method: Method,
    /// How its body is written; of no effect on a GET.
    pub encoding: Encoding,
    /// The `type` of Standard Webhooks payloads.
    pub event_type: String,
    /// What the e-mail address is called; it's always sent, and first.
    pub email_parameter_name: String,
    /// In the order in which they are sent.
    pub parameters: Vec<ParameterDefinition>,
}

/// A parameter of a webhook event beside the e-mail address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterDefinition {
    /// What it's called in the request.
    pub name: String,
    /// Where its value comes from.
    pub source: Source,
    /// What fills or replaces the source's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<ParameterDefault>,
}

/// Where a parameter's value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The contact's value of the field with that key.
    ContactField(String),
    /// Always this text.
    Static(String),
    /// What the system knows.
    System(SystemValue),
    /// An attribute of the event that set the tag off, by its name; dots lead to one inside another.
    EventAttribute(String),
    /// The value with that key, of those that the call gave.
    TriggerValue(String),
}

/// A value that stands in for the source's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterDefault {
    /// The text.
    pub value: String,
    /// When it's taken.
    pub mode: DefaultMode,
}

/// What a trigger knows when it's accepted; borrowed from the rows at hand.
#[derive(Clone, Copy)]
pub struct TriggerContext<'a> {
    /// The contact's typed id.
    pub contact_id: &'a str,
    /// The contact's e-mail address.
    pub email: Option<&'a str>,
    /// In E.164 form. Sent as the standard field `phone` if the contact has no value of that field.
    pub phone: Option<&'a str>,
    /// The contact's id in the caller's own system.
    pub external_id: Option<&'a str>,
    /// The contact's JSON object of values by field key.
    pub values: &'a Map<String, Value>,
    /// The type of the field with that key; `None` if there is no such field any more, whose value is then empty.
    pub field_type: &'a dyn Fn(&str) -> Option<FieldType>,
    /// The name of the tag that activated the webhook.
    pub activation_tag: Option<&'a str>,
    /// When it was assigned.
    pub tag_time: Option<Micros>,
    /// When the trigger was accepted.
    pub trigger_time: Micros,
    /// The delivery's typed id.
    pub delivery_id: &'a str,
    /// The webhook's name.
    pub webhook_name: &'a str,
    /// The name of the campaign whose action fired.
    pub campaign_name: Option<&'a str>,
    /// The values of the call and the attributes of the event, if there are any.
    pub data: Option<&'a TriggerData>,
}

/// What a delivery sends on every attempt, whatever becomes of the contact and the webhook meanwhile. Stored as JSON
/// with short keys, since it's the largest part of a delivery's row.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// How it's sent.
    #[serde(rename = "m")]
    pub method: Method,
    /// How its body is written.
    #[serde(rename = "e")]
    pub encoding: Encoding,
    /// The `type` of Standard Webhooks payloads.
    #[serde(rename = "t")]
    pub event_type: String,
    /// In the order in which they are sent, the e-mail address first.
    #[serde(rename = "p")]
    pub parameters: Vec<Parameter>,
}

/// A parameter with its rendered value.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// What it's called.
    #[serde(rename = "n")]
    pub name: String,
    /// `None` if it's empty; never an empty text.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Whether JSON carries the value bare (a number, `true`, `false`) instead of as a string.
    #[serde(rename = "j", default, skip_serializing_if = "is_false")]
    pub json_native: bool,
}

/// What an attempt sends, byte for byte.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpRequestParts {
    /// The method.
    pub method: Method,
    /// The URL, in the URL parser's own spelling.
    pub url: String,
    /// Empty for a GET.
    pub body: Vec<u8>,
    /// `None` for a GET, which has no body.
    pub content_type: Option<&'static str>,
}

/// One thing wrong with a webhook event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct DefinitionError {
    /// Where it is.
    pub place: Place,
    /// What it is.
    pub problem: DefinitionProblem,
}

/// A place in a webhook event; parameters are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// What the e-mail address is called.
    EmailName,
    /// The `type` of Standard Webhooks payloads.
    EventType,
    /// The list of parameters.
    Parameters,
    /// A parameter's name.
    Name(usize),
    /// A parameter's source.
    Source(usize),
    /// A parameter's default.
    Default(usize),
}

/// What can be wrong with a webhook event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionProblem {
    /// More than [`MAX_PARAMETERS`].
    #[error("must have at most {MAX_PARAMETERS} parameters; has {count}")]
    TooManyParameters {
        /// How many there are.
        count: usize,
    },
    /// Empty, or longer than [`MAX_NAME_BYTES`].
    #[error("the name must be 1 to {MAX_NAME_BYTES} bytes; has {bytes}")]
    NameLength {
        /// Its length.
        bytes: usize,
    },
    /// An event type that is empty, longer than [`MAX_EVENT_TYPE_BYTES`] or has control characters.
    #[error("the event type must be 1 to {MAX_EVENT_TYPE_BYTES} bytes without control characters")]
    EventType,
    /// A name that another parameter has.
    #[error("the name must be unique within the webhook event, the e-mail address's included")]
    NameTaken,
    /// A key that no field has.
    #[error("there is no contact field of that key")]
    UnknownField,
    /// The name of an attribute, or the key of a value, that is empty or too long.
    #[error("must be 1 to {max} bytes; has {bytes}")]
    SourceNameLength {
        /// The longest, in bytes.
        max: usize,
        /// Its length.
        bytes: usize,
    },
    /// Longer than [`MAX_STATIC_BYTES`].
    #[error("a static or default value must be at most {MAX_STATIC_BYTES} bytes; has {bytes}")]
    ValueLength {
        /// Its length.
        bytes: usize,
    },
    /// A NUL in a value, which a contact's values can't have either.
    #[error("a static or default value must not have a NUL character")]
    ValueCharacter,
}

impl EventDefinition {
    /// All that is wrong with the definition; nothing if it's good. `is_field` says whether there is a contact field
    /// of that key.
    #[must_use]
    pub fn problems(&self, is_field: &dyn Fn(&str) -> bool) -> Vec<DefinitionError> {
        let mut errors = Vec::new();
        let mut taken = HashSet::new();
        let count = self.parameters.len();
        let mut report = |place, problem: Option<DefinitionProblem>| {
            errors.extend(problem.map(|problem| DefinitionError { place, problem }));
        };
        if count > MAX_PARAMETERS {
            report(Place::Parameters, Some(DefinitionProblem::TooManyParameters { count }));
            return errors;
        }
        report(Place::EmailName, name_problem(&self.email_parameter_name));
        let type_fits = (1..=MAX_EVENT_TYPE_BYTES).contains(&self.event_type.len());
        let type_is_bad = !type_fits || self.event_type.contains(char::is_control);
        report(Place::EventType, type_is_bad.then_some(DefinitionProblem::EventType));
        taken.insert(self.email_parameter_name.as_str());
        for (index, parameter) in self.parameters.iter().enumerate() {
            let is_taken = !taken.insert(parameter.name.as_str());
            let default = parameter.default.as_ref();
            report(Place::Name(index), name_problem(&parameter.name));
            report(Place::Name(index), is_taken.then_some(DefinitionProblem::NameTaken));
            report(Place::Source(index), source_problem(&parameter.source, is_field));
            report(Place::Default(index), default.and_then(|default| value_problem(&default.value)));
        }
        errors
    }

    /// The names of all parameters, the e-mail address's first: what placeholders can name.
    pub fn parameter_names(&self) -> impl Iterator<Item = &str> {
        let email = std::iter::once(self.email_parameter_name.as_str());
        email.chain(self.parameters.iter().map(|parameter| parameter.name.as_str()))
    }
}

impl Snapshot {
    /// Fixes what a delivery sends.
    #[must_use]
    pub fn plan(definition: &EventDefinition, context: &TriggerContext<'_>) -> Self {
        let mut parameters = Vec::with_capacity(definition.parameters.len() + 1);
        let email = context.email.map(|email| (Cow::Borrowed(email), false));
        parameters.push(Parameter::new(&definition.email_parameter_name, email));
        for parameter in &definition.parameters {
            parameters.push(Parameter::new(&parameter.name, context.resolve(parameter)));
        }
        Self {
            method: definition.method,
            encoding: definition.encoding,
            event_type: definition.event_type.clone(),
            parameters,
        }
    }

    /// Writes the request. `trigger_time` is the `timestamp` of Standard Webhooks payloads: the same on every attempt,
    /// so that a receiver gets the same body.
    ///
    /// # Errors
    ///
    /// If the template has a placeholder that the snapshot lacks, a value makes a dot segment in the path, or URL or
    /// body get too long. All are final.
    pub fn body_and_url(&self, template: &UrlTemplate, trigger_time: Micros) -> Result<HttpRequestParts, RenderError> {
        let mut url = template.render(&|name| self.value(name))?;
        if self.method == Method::Get {
            let in_url: HashSet<&str> = template.placeholders().collect();
            let rest = self.parameters.iter().filter(|parameter| !in_url.contains(parameter.name.as_str()));
            url.append_query(&form(rest))?;
            return Ok(HttpRequestParts {
                method: self.method,
                url: url.into_string(),
                body: Vec::new(),
                content_type: None,
            });
        }
        let (body, content_type) = match self.encoding {
            Encoding::Form => (form(&self.parameters), FORM),
            Encoding::Json => (json_object(&self.parameters), JSON),
            Encoding::StandardWebhooks => (self.standard_payload(trigger_time), JSON),
        };
        if body.len() > MAX_BODY_BYTES {
            return Err(RenderError::BodyTooLarge);
        }
        Ok(HttpRequestParts {
            method: self.method,
            url: url.into_string(),
            body: body.into_bytes(),
            content_type: Some(content_type),
        })
    }

    /// The value of the parameter of that name, empty text for an empty one.
    fn value(&self, name: &str) -> Option<&str> {
        let parameter = self.parameters.iter().find(|parameter| parameter.name == name)?;
        Some(parameter.value.as_deref().unwrap_or_default())
    }

    fn standard_payload(&self, trigger_time: Micros) -> String {
        let mut text = String::from("{\"type\":");
        push_json_string(&mut text, &self.event_type);
        text.push_str(",\"timestamp\":");
        push_json_string(&mut text, &trigger_time.to_rfc3339());
        text.push_str(",\"data\":");
        text.push_str(&json_object(&self.parameters));
        text.push('}');
        text
    }
}

impl Parameter {
    fn new(name: &str, value: Option<(Cow<'_, str>, bool)>) -> Self {
        let value = value.filter(|(text, _)| !text.is_empty());
        let json_native = value.as_ref().is_some_and(|(_, native)| *native);
        Self { name: name.to_owned(), value: value.map(|(text, _)| text.into_owned()), json_native }
    }
}

impl HttpRequestParts {
    /// What the signature covers: the body, or for a GET the query string as sent, without its `?`.
    #[must_use]
    pub fn signed_bytes(&self) -> &[u8] {
        match self.method {
            Method::Post => &self.body,
            Method::Get => self.url.split_once('?').map_or(&[], |(_, query)| query.as_bytes()),
        }
    }
}

/// A rendered value and whether it's native in JSON; `None` if there is none.
type Resolved<'a> = Option<(Cow<'a, str>, bool)>;

impl<'a> TriggerContext<'a> {
    fn resolve(&self, parameter: &'a ParameterDefinition) -> Resolved<'a> {
        let default = parameter.default.as_ref();
        let substitute = || default.map(|default| self.default_value(parameter, &default.value));
        if default.is_some_and(|default| default.mode == DefaultMode::Fixed) {
            return substitute();
        }
        let value = self.source_value(&parameter.source);
        value.filter(|(text, _)| !text.is_empty()).or_else(substitute)
    }

    fn source_value(&self, source: &'a Source) -> Resolved<'a> {
        match source {
            Source::ContactField(key) => self.field_value(key),
            Source::Static(text) => Some((Cow::Borrowed(text.as_str()), false)),
            Source::System(value) => self.system_value(*value).map(|text| (text, false)),
            Source::EventAttribute(name) => self.data?.attribute(name).and_then(render_attribute),
            Source::TriggerValue(key) => self.data?.values.get(key).map(|value| (Cow::Borrowed(value.as_str()), false)),
        }
    }

    fn field_value(&self, key: &str) -> Resolved<'a> {
        let field_type = (self.field_type)(key)?;
        let stored = self.values.get(key).and_then(|stored| render_stored(field_type, stored));
        match stored {
            Some(rendered) => Some((rendered.text, rendered.json_native)),
            None if key == "phone" => self.phone.map(|phone| (Cow::Borrowed(phone), false)),
            None => None,
        }
    }

    fn system_value(&self, value: SystemValue) -> Option<Cow<'a, str>> {
        match value {
            SystemValue::ContactId => Some(self.contact_id.into()),
            SystemValue::ActivationTag => self.activation_tag.map(Cow::from),
            SystemValue::TagTime => self.tag_time.map(|time| time.to_rfc3339().into()),
            SystemValue::TriggerTime => Some(self.trigger_time.to_rfc3339().into()),
            SystemValue::DeliveryId => Some(self.delivery_id.into()),
            SystemValue::WebhookName => Some(self.webhook_name.into()),
            SystemValue::CampaignName => self.campaign_name.map(Cow::from),
            SystemValue::ContactExternalId => self.external_id.map(Cow::from),
        }
    }

    /// A default in place of a field's value is rendered as one where it fits the field's type, so that the receiver
    /// finds the same kind of JSON value; else it's sent as the text it is.
    fn default_value(&self, parameter: &ParameterDefinition, default: &'a str) -> (Cow<'a, str>, bool) {
        let text = (Cow::Borrowed(default), false);
        let Source::ContactField(key) = &parameter.source else {
            return text;
        };
        let parsed = (self.field_type)(key).and_then(|field_type| FieldValue::parse(field_type, default).ok());
        parsed.map_or(text, |value| {
            let rendered = value.render();
            (Cow::Owned(rendered.text.into_owned()), rendered.json_native)
        })
    }
}

/// An attribute as a receiver finds it: a text as it is, a number or a boolean native in JSON, a list or an object as JSON
/// text. A null is none.
fn render_attribute(value: &Value) -> Resolved<'_> {
    match value {
        Value::Null => None,
        Value::String(text) => Some((Cow::Borrowed(text), false)),
        Value::Bool(_) | Value::Number(_) => Some((value.to_string().into(), true)),
        Value::Array(_) | Value::Object(_) => Some((value.to_string().into(), false)),
    }
}

fn name_problem(name: &str) -> Option<DefinitionProblem> {
    let fits = (1..=MAX_NAME_BYTES).contains(&name.len());
    (!fits).then_some(DefinitionProblem::NameLength { bytes: name.len() })
}

fn source_problem(source: &Source, is_field: &dyn Fn(&str) -> bool) -> Option<DefinitionProblem> {
    match source {
        Source::ContactField(key) => (!is_field(key)).then_some(DefinitionProblem::UnknownField),
        Source::Static(text) => value_problem(text),
        Source::System(_) => None,
        Source::EventAttribute(name) => source_name_problem(name, MAX_ATTRIBUTE_NAME_BYTES),
        Source::TriggerValue(key) => source_name_problem(key, MAX_KEY_BYTES),
    }
}

fn source_name_problem(name: &str, max: usize) -> Option<DefinitionProblem> {
    let fits = (1..=max).contains(&name.len());
    (!fits).then_some(DefinitionProblem::SourceNameLength { max, bytes: name.len() })
}

fn value_problem(value: &str) -> Option<DefinitionProblem> {
    if value.len() > MAX_STATIC_BYTES {
        return Some(DefinitionProblem::ValueLength { bytes: value.len() });
    }
    value.contains('\0').then_some(DefinitionProblem::ValueCharacter)
}

/// `name=value` pairs in form encoding (URL standard, 5.2): `+` for a space, `name=` for an empty value.
fn form<'a>(parameters: impl IntoIterator<Item = &'a Parameter>) -> String {
    let mut text = String::new();
    for parameter in parameters {
        if !text.is_empty() {
            text.push('&');
        }
        text.extend(byte_serialize(parameter.name.as_bytes()));
        text.push('=');
        text.extend(byte_serialize(parameter.value.as_deref().unwrap_or_default().as_bytes()));
    }
    text
}

/// A flat object in the order of the parameters. Written by hand, so that decimals stay exact: a JSON library would
/// take them through a float.
fn json_object(parameters: &[Parameter]) -> String {
    let mut text = String::from("{");
    for (index, parameter) in parameters.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        push_json_string(&mut text, &parameter.name);
        text.push(':');
        match &parameter.value {
            None => text.push_str("null"),
            Some(value) if parameter.json_native && is_bare_json(value) => text.push_str(value),
            Some(value) => push_json_string(&mut text, value),
        }
    }
    text.push('}');
    text
}

/// Whether the text can stand bare in JSON. Always so for what [`Snapshot::plan`] marked as native, but the rest of the
/// body must not hang on it.
fn is_bare_json(text: &str) -> bool {
    matches!(text, "true" | "false") || Decimal::parse(text).is_some_and(|decimal| decimal.as_str() == text)
}

fn push_json_string(text: &mut String, value: &str) {
    // Display of a JSON value is its compact text, and writing a string can't fail.
    text.push_str(&Value::from(value).to_string());
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde's skip_serializing_if calls")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Without the values, which are personal data.
impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot({:?}, {:?}, {} parameters)", self.method, self.encoding, self.parameters.len())
    }
}

/// Without the value, which is personal data.
impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.value.as_ref().map_or(0, String::len);
        write!(f, "Parameter({:?}, {bytes} bytes, native: {})", self.name, self.json_native)
    }
}

/// Without URL and body, which hold personal data.
impl fmt::Debug for HttpRequestParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (url_bytes, body_bytes) = (self.url.len(), self.body.len());
        write!(f, "HttpRequestParts({:?}, URL of {url_bytes} bytes, body of {body_bytes} bytes)", self.method)
    }
}

#[cfg(test)]
mod tests;
