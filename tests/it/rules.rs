//! The rules in the proto files: each of them is broken once through the wire, on every method that it counts for.
//!
//! The descriptors say what there is to break, so that a new rule is tested as soon as it is written; a kind of rule that
//! nobody here knows how to break fails the test.

use std::ops::RangeInclusive;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, MethodDescriptor, Value};
use taghook_client::v1::{self, ErrorReason};
use taghook_client::{Code, Error};

use crate::support::schema::{methods, options, path};
use crate::support::{Receiver, Taghook, both};

/// A number that no enum has.
const UNDEFINED: i32 = 12_345;
/// `google.api.field_behavior`.
const OUTPUT_ONLY: i32 = 3;
const IMMUTABLE: i32 = 5;
const IDENTIFIER: i32 = 8;
/// `buf.validate.Ignore`.
const IGNORE_ALWAYS: i32 = 3;

/// A request that breaks one rule.
struct Case {
    rule: String,
    /// What the answer must name.
    field: String,
    request: DynamicMessage,
}

/// The place of a message in a request: the fields that lead to it. Of lists it is the first element.
type Place = Vec<FieldDescriptor>;

/// What a value of a field breaks: the rule, what follows the field's path, and the value; none leaves the field unset.
type Breach = (&'static str, String, Option<Value>);

/// A method's request, as it is walked.
struct Walk {
    input: MessageDescriptor,
    /// In an update: the field of the resource and its id.
    resource: Option<(FieldDescriptor, String)>,
    cases: Vec<Case>,
}

impl Walk {
    /// All breaches of the rules of a method's request. `id` is that of a resource that an update can name.
    fn of(method: &MethodDescriptor, id: impl Fn(&str) -> String) -> Vec<Case> {
        let input = method.input();
        let mut fields = input.fields();
        let resource = fields.find(|field| method.name() == format!("Update{}", kind_name(field)));
        let resource = resource.map(|field| (field.clone(), id(&kind_name(&field))));
        let mut walk = Self { input: input.clone(), resource, cases: Vec::new() };
        walk.message(&input, &mut Vec::new());
        walk.cases
    }

    fn is_update_of(&self, field: &FieldDescriptor) -> bool {
        self.resource.as_ref().is_some_and(|(resource, _)| resource == field)
    }

    fn message(&mut self, message: &MessageDescriptor, place: &mut Place) {
        for oneof in message.oneofs() {
            let rules = options(&oneof.options(), "buf.validate.oneof");
            if rules
                .is_some_and(|rules| rules.get_field_by_name("required").is_some_and(|it| it.as_bool() == Some(true)))
            {
                let name = oneof.name().to_owned();
                self.add("oneof.required", place, &name, |_| {});
            }
        }
        for field in message.fields() {
            self.field(&field, place);
        }
    }

    fn field(&mut self, field: &FieldDescriptor, place: &mut Place) {
        let behaviors = behaviors(field);
        let in_update = place.first().is_some_and(|first| self.is_update_of(first));
        // What the server assigns is ignored, and what can't be changed can't be named. An etag that is too long is none
        // of a resource that exists.
        let is_assigned = behaviors.contains(&OUTPUT_ONLY) || behaviors.contains(&IDENTIFIER);
        if is_assigned || (in_update && (behaviors.contains(&IMMUTABLE) || field.name() == "etag")) {
            return;
        }
        let rules = options(&field.options(), "buf.validate.field");
        let is_ignored = rules.as_ref().is_some_and(|rules| number(rules, "ignore") == i64::from(IGNORE_ALWAYS));
        if is_ignored && !self.is_update_of(field) {
            // The items of a batch: each has an answer of its own.
            let batches = ["BatchTagContactsRequest", "BatchRecordEventsRequest"];
            let is_batch = batches.iter().any(|batch| field.full_name() == format!("taghook.v1.{batch}.requests"));
            assert!(is_batch, "what checks {} instead?", field.full_name());
            return;
        }
        for (rule, suffix, value) in rules.iter().filter(|_| !is_ignored).flat_map(|rules| breaches(field, rules)) {
            let name = format!("{}{suffix}", field.name());
            self.add(rule, place, &name, |broken| match &value {
                Some(value) => broken.set_field(field, value.clone()),
                None => broken.clear_field(field),
            });
        }
        if let Kind::Message(inner) = field.kind()
            && inner.full_name().starts_with("taghook.")
            && !field.is_map()
        {
            place.push(field.clone());
            self.message(&inner, place);
            place.pop();
        }
    }

    /// A request whose message at `place` is broken by `breach`; `field` is the path from there.
    fn add(&mut self, rule: &str, place: &Place, field: &str, breach: impl FnOnce(&mut DynamicMessage)) {
        let mut at: String =
            place.iter().map(|step| format!("{}{}.", step.name(), if step.is_list() { "[0]" } else { "" })).collect();
        at.push_str(field);
        let mut request = DynamicMessage::new(self.input.clone());
        break_at(&mut request, place, breach);
        if let Some((resource, id)) = &self.resource {
            let top = place.get(1).map_or(field, FieldDescriptor::name);
            name_resource(
                &mut request,
                resource,
                id,
                (!place.is_empty()).then(|| top.split('[').next().unwrap_or(top)),
            );
        }
        self.cases.push(Case { rule: rule.to_owned(), field: at, request });
    }
}

fn break_at(message: &mut DynamicMessage, place: &[FieldDescriptor], breach: impl FnOnce(&mut DynamicMessage)) {
    let Some((step, rest)) = place.split_first() else { return breach(message) };
    let Kind::Message(inner) = step.kind() else { panic!("a place is made of messages") };
    let mut inner = DynamicMessage::new(inner);
    break_at(&mut inner, rest, breach);
    let value = Value::Message(inner);
    message.set_field(step, if step.is_list() { Value::List(vec![value]) } else { value });
}

/// Makes an update of a resource that exists, whose mask names what is broken.
fn name_resource(request: &mut DynamicMessage, resource: &FieldDescriptor, id: &str, path: Option<&str>) {
    let Some(path) = path else { return };
    let mut named = request.get_field(resource).into_owned();
    if let Some(named) = named.as_message_mut() {
        named.set_field_by_name("id", Value::String(id.to_owned()));
    }
    request.set_field(resource, named);
    let mask = broken_field(request, "update_mask");
    let Kind::Message(descriptor) = mask.kind() else { panic!("a mask is a message") };
    let mut value = DynamicMessage::new(descriptor);
    value.set_field_by_name("paths", Value::List(vec![Value::String(path.to_owned())]));
    request.set_field(&mask, Value::Message(value));
}

/// The values that break a field's rules.
fn breaches(field: &FieldDescriptor, rules: &DynamicMessage) -> Vec<Breach> {
    let mut broken = Vec::new();
    for (rule, value) in rules.fields() {
        match (rule.name(), value) {
            ("required", Value::Bool(true)) => broken.push(("required", String::new(), None)),
            ("repeated", Value::Message(rules)) => broken.extend(repeated_breaches(field, rules)),
            ("map", Value::Message(rules)) => broken.extend(map_breaches(rules)),
            (_, Value::Message(rules)) => {
                let values = value_breaches(rule.name(), rules);
                broken.extend(values.into_iter().map(|(rule, value)| (rule, String::new(), Some(value))));
            }
            (name, value) => panic!("{}: how is the rule {name}: {value:?} broken?", field.full_name()),
        }
    }
    broken
}

/// The values that break rules of single values.
fn value_breaches(kind: &str, rules: &DynamicMessage) -> Vec<(&'static str, Value)> {
    let text = |length: i64| Value::String("x".repeat(length.try_into().expect("a length")));
    let breach = |(rule, bound): (FieldDescriptor, &Value)| match (kind, rule.name()) {
        ("string", "max_len") => ("string.max_len", text(as_number(bound) + 1)),
        ("string", "max_bytes") => ("string.max_bytes", text(as_number(bound) + 1)),
        ("string", "min_len") => ("string.min_len", text(as_number(bound) - 1)),
        ("string", "pattern") => ("string.pattern", Value::String("Not good!".to_owned())),
        ("int32", "gte") => ("int32.gte", int(as_number(bound) - 1)),
        ("int32", "lte") => ("int32.lte", int(as_number(bound) + 1)),
        ("double", "gte") => ("double.gte", Value::F64(as_real(bound) - 0.5)),
        ("double", "lte") => ("double.lte", Value::F64(as_real(bound) + 0.5)),
        ("enum", "defined_only") => ("enum.defined_only", Value::EnumNumber(UNDEFINED)),
        ("enum", "not_in") => ("enum.not_in", Value::EnumNumber(0)),
        ("duration", "gte") => ("duration.gte", shifted(bound, -1)),
        ("duration", "lte") => ("duration.lte", shifted(bound, 1)),
        (kind, rule) => panic!("how is {kind}.{rule} broken?"),
    };
    rules.fields().map(breach).collect()
}

fn repeated_breaches(field: &FieldDescriptor, rules: &DynamicMessage) -> Vec<Breach> {
    let many = |count: RangeInclusive<i64>| Some(Value::List(count.map(|index| element(field, index)).collect()));
    let mut broken = Vec::new();
    for (rule, bound) in rules.fields() {
        match rule.name() {
            "min_items" => broken.push(("repeated.min_items", String::new(), many(2..=as_number(bound)))),
            "max_items" => broken.push(("repeated.max_items", String::new(), many(0..=as_number(bound)))),
            "unique" => {
                let same = Value::List(vec![element(field, 1), element(field, 1)]);
                broken.push(("repeated.unique", String::new(), Some(same)));
            }
            "items" => {
                for (rule, value) in inner_breaches(bound) {
                    broken.push((rule, "[0]".to_owned(), Some(Value::List(vec![value]))));
                }
            }
            other => panic!("{}: how is repeated.{other} broken?", field.full_name()),
        }
    }
    broken
}

fn map_breaches(rules: &DynamicMessage) -> Vec<Breach> {
    let text = |text: &str| Value::String(text.to_owned());
    let map = |pairs: Vec<(String, Value)>| {
        Some(Value::Map(pairs.into_iter().map(|(key, value)| (MapKey::String(key), value)).collect()))
    };
    let mut broken = Vec::new();
    for (rule, bound) in rules.fields() {
        match rule.name() {
            "max_pairs" => {
                let pairs = (0..=as_number(bound)).map(|index| (format!("f{index}"), text("x"))).collect();
                broken.push(("map.max_pairs", String::new(), map(pairs)));
            }
            "keys" => {
                for (rule, key) in inner_breaches(bound) {
                    let key = key.as_str().expect("keys are texts").to_owned();
                    broken.push((rule, format!("[\"{key}\"]"), map(vec![(key, text("x"))])));
                }
            }
            "values" => {
                for (rule, value) in inner_breaches(bound) {
                    broken.push((rule, "[\"first_name\"]".to_owned(), map(vec![("first_name".to_owned(), value)])));
                }
            }
            other => panic!("how is map.{other} broken?"),
        }
    }
    broken
}

/// The values that break the rules of the elements of a list, or of a map's keys or values.
fn inner_breaches(rules: &Value) -> Vec<(&'static str, Value)> {
    let rules = rules.as_message().expect("rules");
    let kinds =
        rules.fields().map(|(kind, rules)| (kind.name().to_owned(), rules.as_message().expect("rules").clone()));
    kinds.flat_map(|(kind, rules)| value_breaches(&kind, &rules)).collect()
}

/// An element of a list that isn't wrong by itself.
fn element(field: &FieldDescriptor, index: i64) -> Value {
    match field.kind() {
        Kind::String => Value::String(format!("x{index}")),
        Kind::Enum(_) => Value::EnumNumber(1),
        Kind::Message(inner) => Value::Message(DynamicMessage::new(inner)),
        other => panic!("{}: an element that is {other:?}?", field.full_name()),
    }
}

fn shifted(duration: &Value, seconds: i64) -> Value {
    let mut duration = duration.as_message().expect("a duration").clone();
    let shifted = number(&duration, "seconds") + seconds;
    duration.set_field_by_name("seconds", Value::I64(shifted));
    Value::Message(duration)
}

fn int(value: i64) -> Value {
    Value::I32(value.try_into().expect("32 bits"))
}

fn number(message: &DynamicMessage, field: &str) -> i64 {
    message.get_field_by_name(field).map_or(0, |value| as_number(&value))
}

fn as_number(value: &Value) -> i64 {
    match value {
        Value::I32(value) | Value::EnumNumber(value) => (*value).into(),
        Value::U64(value) => (*value).try_into().expect("63 bits"),
        Value::I64(value) => *value,
        other => panic!("{other:?} is no number"),
    }
}

fn as_real(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value:?} is no real number"))
}

fn behaviors(field: &FieldDescriptor) -> Vec<i32> {
    let extension = field.parent_pool().get_extension_by_name("google.api.field_behavior").expect("the extension");
    let options = field.options();
    let values = options.get_extension(&extension);
    values.as_list().expect("a list").iter().filter_map(Value::as_enum_number).collect()
}

fn kind_name(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Message(message) => message.name().to_owned(),
        _ => String::new(),
    }
}

fn broken_field(message: &DynamicMessage, name: &str) -> FieldDescriptor {
    use prost_reflect::ReflectMessage;
    message.descriptor().get_field_by_name(name).unwrap_or_else(|| panic!("no field {name}"))
}

/// A resource of each kind that can be updated.
struct Resources {
    contact: String,
    tag: String,
    webhook: String,
    field: String,
    workspace: String,
    smart_link: String,
    campaign: String,
    api_key: String,
}

impl Resources {
    async fn make(t: &Taghook) -> Self {
        let receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        let field =
            v1::Field { key: "score".into(), value_type: v1::field::ValueType::Integer.into(), ..Default::default() };
        let field = v1::CreateFieldRequest { field: Some(field), ..Default::default() };
        let workspaces = t.root.workspaces().list_workspaces(v1::ListWorkspacesRequest::default()).await.unwrap();
        let link =
            v1::SmartLink { name: "sale".into(), target_url: "https://example.com/".into(), ..Default::default() };
        let link = v1::CreateSmartLinkRequest { smart_link: Some(link), ..Default::default() };
        let campaign = v1::Campaign { name: "welcome".into(), ..Default::default() };
        let campaign = v1::CreateCampaignRequest { campaign: Some(campaign), ..Default::default() };
        let workspace = workspaces.into_inner().workspaces.remove(0).id;
        let api_key = v1::ApiKey { name: "test".into(), scopes: vec![1], ..Default::default() };
        let api_key = v1::CreateApiKeyRequest { workspace_id: workspace.clone(), api_key: Some(api_key) };
        let api_key = t.root.workspaces().create_api_key(api_key).await.unwrap().into_inner().api_key.unwrap();
        Self {
            api_key: api_key.id,
            campaign: t.client.campaigns().create_campaign(campaign).await.unwrap().into_inner().id,
            smart_link: t.client.smart_links().create_smart_link(link).await.unwrap().into_inner().id,
            contact: t.contact("ada@example.com").await.id,
            webhook: t.webhook(&receiver, &tag, |_| {}).await.id,
            tag: tag.id,
            field: t.client.fields().create_field(field).await.unwrap().into_inner().id,
            workspace,
        }
    }

    fn id(&self, kind: &str) -> String {
        match kind {
            "Contact" => self.contact.clone(),
            "Tag" => self.tag.clone(),
            "Webhook" => self.webhook.clone(),
            "Field" => self.field.clone(),
            "Workspace" => self.workspace.clone(),
            "SmartLink" => self.smart_link.clone(),
            "Campaign" => self.campaign.clone(),
            "ApiKey" => self.api_key.clone(),
            other => panic!("which {other} can be updated? Say so here"),
        }
    }
}

both! {
    async fn every_rule_of_the_proto_is_enforced_and_names_its_field(t: Taghook) {
        let resources = Resources::make(&t).await;
        let (key, root) = (t.key(), t.database().key("root.key"));
        let raw = t.raw().await;
        let mut broken = 0;
        for method in methods() {
            let key = if method.parent_service().name() == "WorkspaceService" { &root } else { &key };
            for case in Walk::of(&method, |kind| resources.id(kind)) {
                let Case { rule, field, request } = case;
                let error: Error = raw.invoke(Some(key), &method, &request).await.status().into();
                let told = format!("{}: {rule} of {field}: {error:?}", path(&method));
                assert_eq!((error.code, error.reason), (Code::InvalidArgument, ErrorReason::InvalidFields), "{told}");
                let violation = error.violations.iter().find(|violation| violation.field == field);
                let violation = violation.unwrap_or_else(|| panic!("the field isn't named: {told}"));
                assert!(!violation.reason.is_empty() && !violation.description.is_empty(), "{told}");
                broken += 1;
            }
        }
        assert!(broken > 300, "only {broken} rules");
    }
}
