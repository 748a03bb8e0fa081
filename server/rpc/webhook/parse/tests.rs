use std::collections::HashMap;

use tonic::Status;
use tonic_types::StatusExt;

use super::*;
use crate::dispatch::egress::EgressPolicy;
use crate::domain::delivery::Reason;
use crate::domain::field::FieldType;
use crate::domain::tag::{Tag, TagKind};
use crate::domain::webhook::{Webhook, WebhookState};
use crate::ids::{WebhookId, WorkspaceId};
use crate::pb::webhook_event::parameter::Source as Given;
use crate::rpc::webhook::convert::to_pb;

const NOW: Micros = Micros(1_767_254_400_000_000);
const TAG: &str = "tag_01h455vb4pex5vsknk084sn02q";
const OTHER_TAG: &str = "tag_01h455vb4pex5vsknk084sn02r";

fn parameter(name: &str, source: Option<Given>) -> pb::webhook_event::Parameter {
    pb::webhook_event::Parameter { name: name.to_owned(), source, default_value: None }
}

fn field(name: &str, key: &str) -> pb::webhook_event::Parameter {
    parameter(name, Some(Given::ContactField(key.to_owned())))
}

fn text(name: &str, text: &str) -> pb::webhook_event::Parameter {
    parameter(name, Some(Given::StaticValue(text.to_owned())))
}

fn event(parameters: Vec<pb::webhook_event::Parameter>) -> pb::WebhookEvent {
    pb::WebhookEvent { parameters, ..pb::WebhookEvent::default() }
}

fn header(name: &str, value: &str, sensitive: bool) -> pb::webhook::Header {
    pb::webhook::Header { name: name.to_owned(), value: value.to_owned(), sensitive }
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

fn webhook(url: &str, events: Vec<pb::WebhookEvent>) -> pb::Webhook {
    pb::Webhook { name: "Hook".to_owned(), url: url.to_owned(), events, ..pb::Webhook::default() }
}

fn parse_in(webhook: &pb::Webhook, current: Option<&Definition>, policy: EgressPolicy) -> Result<Definition> {
    let tag = Tag {
        id: TAG.parse().unwrap(),
        name: "VIP".to_owned(),
        kind: TagKind::Manual,
        description: String::new(),
        labels: Default::default(),
        effects: Default::default(),
        rule: None,
        version: 1,
        created: NOW,
        updated: NOW,
    };
    let config = WorkspaceConfig::of(vec![tag], HashMap::from([("age".to_owned(), FieldType::Integer)]));
    let (egress, entropy) = (Egress::new(policy), Entropy::system());
    let around = Surroundings { config: &config, egress: &egress, current, now: NOW, entropy: &entropy };
    let mut violations = Violations::default();
    violations.check_rules("webhook", webhook)?;
    parse(webhook, &around, violations)
}

fn accepted(webhook: &pb::Webhook, current: Option<&Definition>) -> Definition {
    parse_in(webhook, current, EgressPolicy::default()).unwrap()
}

fn refusals(
    webhook: &pb::Webhook,
    current: Option<&Definition>,
    policy: EgressPolicy,
) -> Vec<(String, String, String)> {
    let status = Status::from(parse_in(webhook, current, policy).expect_err("it was taken"));
    let bad_request = status.get_details_bad_request().expect("a bad request");
    let violations = bad_request.field_violations.into_iter();
    violations.map(|violation| (violation.field, violation.reason, violation.description)).collect()
}

#[track_caller]
fn check(webhook: &pb::Webhook, current: Option<&Definition>, expected: &[(&str, &str)]) {
    let refused = refusals(webhook, current, EgressPolicy::default());
    let refused: Vec<_> = refused.iter().map(|(field, reason, _)| (field.as_str(), reason.as_str())).collect();
    assert_eq!(refused, expected);
}

#[track_caller]
fn check_url(url: &str, expected: &[&str]) {
    let webhook = webhook(url, vec![event(vec![field("a", "age"), text("b", "")]), event(vec![field("a", "age")])]);
    let refused = refusals(&webhook, None, EgressPolicy::default());
    assert!(refused.iter().all(|(field, _, _)| field == "webhook.url"), "{refused:?}");
    let descriptions: Vec<_> = refused.iter().map(|(_, _, description)| description.as_str()).collect();
    assert_eq!(descriptions, expected);
}

#[test]
fn what_is_unset_gets_its_default() {
    let definition = accepted(&webhook("https://x.example/", vec![event(Vec::new())]), None);
    assert_eq!(definition.cooldown, Duration::from_secs(21_600));
    assert_eq!(definition.cooldown_policy, CooldownPolicy::Suppress);
    assert_eq!(definition.timeout, Duration::from_secs(15));
    assert_eq!(definition.schedule.delays().len(), 9);
    let event = &definition.events[0];
    assert_eq!((event.method, event.encoding), (Method::Post, Encoding::Form));
    assert_eq!((event.email_parameter_name.as_str(), event.event_type.as_str()), ("email", "contact.tagged"));
}

#[test]
fn an_empty_retry_policy_means_one_attempt_and_no_cooldown_is_zero() {
    let draft = pb::Webhook {
        retry_policy: Some(pb::RetryPolicy::default()),
        cooldown: Some(seconds(0)),
        ..webhook("https://x.example/", vec![event(Vec::new())])
    };
    let definition = accepted(&draft, None);
    assert!(definition.schedule.delays().is_empty());
    assert_eq!(definition.cooldown, Duration::ZERO);
}

/// What is read from a webhook can be written to it again.
#[test]
fn a_webhook_survives_the_way_there_and_back() {
    let draft = pb::Webhook {
        activation_tag_ids: vec![TAG.to_owned()],
        on_contact_deleted: true,
        only_when_newly_assigned: true,
        cooldown: Some(prost_types::Duration { seconds: 1, nanos: 5_000 }),
        cooldown_policy: pb::webhook::CooldownPolicy::Defer.into(),
        events: vec![
            pb::WebhookEvent {
                method: pb::webhook_event::Method::Get.into(),
                email_parameter_name: "mail".to_owned(),
                event_type: "contact.tagged".to_owned(),
                ..event(vec![
                    field("a", "age"),
                    pb::webhook_event::Parameter {
                        default_value: Some(pb::webhook_event::DefaultValue { value: "x".to_owned(), mode: 2 }),
                        ..parameter("grüße 🦊\n", Some(Given::SystemValue(3)))
                    },
                ])
            },
            pb::WebhookEvent {
                method: pb::webhook_event::Method::Post.into(),
                encoding: pb::webhook_event::Encoding::StandardWebhooks.into(),
                email_parameter_name: "email".to_owned(),
                event_type: "a.b".to_owned(),
                ..event(vec![text("a", "1")])
            },
        ],
        headers: vec![header("x-key", "v", false), header("authorization", "", true)],
        timeout: Some(seconds(30)),
        retry_policy: Some(pb::RetryPolicy { delays: vec![seconds(1), seconds(604_800)] }),
        ..webhook("https://x.example/__a__", Vec::new())
    };
    let definition = accepted(&draft, None);
    let stored = Webhook {
        id: WebhookId(uuid::Uuid::nil()),
        workspace_id: WorkspaceId(uuid::Uuid::nil()),
        name: "Hook".to_owned(),
        key: None,
        labels: Default::default(),
        state: WebhookState::Active,
        state_reason: Reason::None,
        state_since: NOW,
        definition: definition.clone(),
        secrets: Vec::new(),
        failing_since: None,
        version: 1,
        created: NOW,
        updated: NOW,
    };
    let mut shown = to_pb(&stored, NOW);
    assert_eq!(accepted(&shown, Some(&definition)), definition);
    assert!(shown.events.iter_mut().all(|event| std::mem::take(&mut event.id).starts_with("whe_")));
    assert_eq!(shown.events, draft.events);
    assert_eq!((shown.headers, shown.retry_policy), (draft.headers, draft.retry_policy));
    assert_eq!((shown.cooldown, shown.cooldown_policy), (draft.cooldown, draft.cooldown_policy));
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let draft = pb::Webhook {
        name: "a\nb".to_owned(),
        activation_tag_ids: vec![TAG.to_owned(), OTHER_TAG.to_owned(), "tag_1".to_owned()],
        cooldown: Some(seconds(2_592_001)),
        cooldown_policy: 7,
        headers: vec![
            header("X-Key", "a\r\nb", false),
            header("x-key", "", false),
            header("Host", "\u{e9}", false),
            header("webhook-id", "", false),
        ],
        timeout: Some(seconds(31)),
        retry_policy: Some(pb::RetryPolicy { delays: vec![seconds(1), seconds(0), seconds(604_801), seconds(-1)] }),
        ..webhook(
            "ftp://x.example/",
            vec![
                pb::WebhookEvent { method: 9, event_type: "a\tb".to_owned(), ..event(vec![field("a", "age")]) },
                event(vec![
                    field("email", "age"),
                    field("b", "gone"),
                    parameter("c", None),
                    parameter("d", Some(Given::SystemValue(0))),
                    parameter("e", Some(Given::SystemValue(99))),
                    text("f", "\0"),
                    text("", &"x".repeat(4_097)),
                    pb::webhook_event::Parameter {
                        default_value: Some(pb::webhook_event::DefaultValue { value: "\0".to_owned(), mode: 3 }),
                        ..field("g", "")
                    },
                ]),
            ],
        )
    };
    let mut refused = refusals(&draft, None, EgressPolicy::default());
    refused.sort();
    let fields: Vec<_> = refused.iter().map(|(field, _, _)| field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "webhook.activation_tag_ids[1]",
            "webhook.activation_tag_ids[2]",
            "webhook.cooldown",
            "webhook.cooldown_policy",
            "webhook.events[0].event_type",
            "webhook.events[0].method",
            "webhook.events[1].parameters[0].name",
            "webhook.events[1].parameters[1].contact_field",
            "webhook.events[1].parameters[2].source",
            "webhook.events[1].parameters[3].system_value",
            "webhook.events[1].parameters[4].system_value",
            "webhook.events[1].parameters[5].static_value",
            "webhook.events[1].parameters[6].name",
            "webhook.events[1].parameters[6].static_value",
            "webhook.events[1].parameters[7].contact_field",
            "webhook.events[1].parameters[7].default_value.mode",
            "webhook.events[1].parameters[7].default_value.value",
            "webhook.headers[0].value",
            "webhook.headers[1].name",
            "webhook.headers[2].name",
            "webhook.headers[2].value",
            "webhook.headers[3].name",
            "webhook.name",
            "webhook.retry_policy.delays[1]",
            "webhook.retry_policy.delays[2]",
            "webhook.retry_policy.delays[3]",
            "webhook.timeout",
            "webhook.url",
        ]
    );
    assert!(refused.iter().all(|(_, reason, description)| !reason.is_empty() && !description.is_empty()));
}

#[test]
fn lists_have_their_limits() {
    let many = (0..101).map(|index| text(&format!("p{index}"), "")).collect();
    check(
        &pb::Webhook {
            headers: (0..21).map(|index| header(&format!("x-{index}"), "", false)).collect(),
            retry_policy: Some(pb::RetryPolicy { delays: vec![seconds(1); 21] }),
            ..webhook("https://x.example/", vec![event(many)])
        },
        None,
        &[
            ("webhook.events[0].parameters", "REPEATED_MAX_ITEMS"),
            ("webhook.headers", "REPEATED_MAX_ITEMS"),
            ("webhook.retry_policy.delays", "REPEATED_MAX_ITEMS"),
        ],
    );
    check(&webhook("https://x.example/", Vec::new()), None, &[("webhook.events", "REPEATED_MIN_ITEMS")]);
    let events = vec![event(Vec::new()); 11];
    check(&webhook("https://x.example/", events), None, &[("webhook.events", "REPEATED_MAX_ITEMS")]);
}

#[test]
fn placeholders_must_be_known_in_every_event() {
    let draft = webhook("https://x.example/__a__/__email__", vec![event(vec![field("a", "age")])]);
    assert_eq!(accepted(&draft, None).url, draft.url);
    let unknown =
        |name: &str| format!("there is no value called {name:?} to fill the placeholder (there are: email, a)");
    check_url(
        "https://x.example/__b__?x=__c__",
        &[&format!("at byte 18: {}", unknown("b")), &format!("at byte 26: {}", unknown("c"))],
    );
    check_url(
        "https://__a__.example/__a",
        &[
            "at byte 8: the placeholder \"a\" must not stand outside path and query",
            "at byte 22: the placeholder that starts here has no end; a literal __ is written %5F%5F",
        ],
    );
}

#[test]
fn hosts_that_can_be_judged_are_judged_in_every_spelling() {
    for url in [
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1/__a__",
        "http://127.1:8080/",
        "http://\u{ff11}\u{ff12}\u{ff17}.0.0.1/",
        "https://localhost/",
        "https://api.localhost./",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://100.64.0.1/",
        "http://0.0.0.0/",
    ] {
        let draft = webhook(url, vec![event(vec![field("a", "age")])]);
        check(&draft, None, &[("webhook.url", "EGRESS_DENIED")]);
    }
    let draft = webhook("http://127.0.0.1/__a__", vec![event(Vec::new())]);
    check(&draft, None, &[("webhook.url", "URL"), ("webhook.url", "EGRESS_DENIED")]);
    let loopback = EgressPolicy { allow: vec!["127.0.0.0/8".parse().unwrap()], ..EgressPolicy::default() };
    let draft = webhook("http://127.0.0.1:9/", vec![event(Vec::new())]);
    assert!(parse_in(&draft, None, loopback).is_ok());
    let strict = EgressPolicy { require_https: true, ports: "443".parse().unwrap(), ..EgressPolicy::default() };
    let refused = refusals(&webhook("https://x.example:8443/", vec![event(Vec::new())]), None, strict.clone());
    assert_eq!(refused[0].1, "EGRESS_DENIED");
    assert_eq!(
        refusals(&webhook("http://x.example:443/", vec![event(Vec::new())]), None, strict)[0].1,
        "EGRESS_DENIED"
    );
}

#[test]
fn updates_match_events_by_id() {
    let current = accepted(&webhook("https://x.example/", vec![event(Vec::new()), event(vec![text("b", "1")])]), None);
    let ids: Vec<String> = current.events.iter().map(|event| event.id.to_string()).collect();
    let with_id = |id: &str| pb::WebhookEvent { id: id.to_owned(), ..event(Vec::new()) };
    let update = webhook("https://x.example/", vec![with_id(""), with_id(&ids[1])]);
    let updated = accepted(&update, Some(&current));
    assert_eq!(updated.events[1].id, current.events[1].id);
    assert!(current.events.iter().all(|event| event.id != updated.events[0].id));

    let unknown = "whe_01h455vb4pex5vsknk084sn02q";
    let update =
        webhook("https://x.example/", vec![with_id(&ids[0]), with_id(unknown), with_id("x"), with_id(&ids[0])]);
    check(
        &update,
        Some(&current),
        &[
            ("webhook.events[1].id", "EVENT_UNKNOWN"),
            ("webhook.events[2].id", "ID"),
            ("webhook.events[3].id", "EVENT_REPEATED"),
        ],
    );
    // A new webhook has no events yet, so that there is nothing to name.
    assert_ne!(
        accepted(&webhook("https://x.example/", vec![with_id(unknown)]), None).events[0].id.to_string(),
        unknown
    );
}

#[test]
fn an_empty_sensitive_value_keeps_what_is_stored() {
    let with = |headers| pb::Webhook { headers, ..webhook("https://x.example/", vec![event(Vec::new())]) };
    let current = accepted(&with(vec![header("Authorization", "Bearer t", false), header("x-key", "k", true)]), None);
    let kept = accepted(&with(vec![header("x-key", "", true), header("authorization", "", false)]), Some(&current));
    let values = |definition: &Definition| -> Vec<(String, String, bool)> {
        let headers = definition.headers.iter();
        headers.map(|header| (header.name.clone(), header.value.clone(), header.sensitive)).collect()
    };
    let all = |name: &str, value: &str, sensitive| (name.to_owned(), value.to_owned(), sensitive);
    assert_eq!(values(&kept), [all("x-key", "k", true), all("authorization", "Bearer t", true)]);
    let cleared = accepted(&with(vec![header("x-key", "", false)]), Some(&current));
    assert_eq!(values(&cleared), [all("x-key", "", false)]);
    let replaced = accepted(&with(vec![header("X-Key", "n", true)]), Some(&current));
    assert_eq!(values(&replaced), [all("x-key", "n", true)]);
}
