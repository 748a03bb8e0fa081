use std::time::Duration;

use super::*;
use crate::domain::delivery::Reason;
use crate::domain::request::{Encoding, Parameter};
use crate::domain::retry::Schedule;
use crate::domain::signature::SigningSecret;
use crate::domain::webhook::{CooldownPolicy, Definition, Webhook, WebhookSecret, WebhookState};
use crate::ids::{WebhookId, WorkspaceId};

const ID: &str = "dlv_01h455vb4pex5vsknk084sn02q";
const NOW: Micros = Micros(1_732_406_400_999_999); // 2024-11-24T00:00:00.999999Z
const TRIGGER_TIME: Micros = Micros(1_767_254_400_000_000); // 2026-01-01T08:00:00Z
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const ASCENDING: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const LONGEST: &str = "whsec_paWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpQ==";

fn webhook(url: &str, headers: &[(&str, &str, bool)], secrets: &[&str]) -> PreparedWebhook {
    let header = |(name, value, sensitive): &(&str, &str, bool)| Header {
        name: (*name).to_owned(),
        value: (*value).to_owned(),
        sensitive: *sensitive,
    };
    let secret = |text: &&str| WebhookSecret::new(SigningSecret::parse(text).unwrap(), NOW);
    let definition = Definition {
        url: url.to_owned(),
        activation_tag_ids: Vec::new(),
        on_contact_deleted: false,
        only_when_newly_assigned: false,
        condition: None,
        cooldown: Duration::ZERO,
        cooldown_policy: CooldownPolicy::Suppress,
        events: Vec::new(),
        headers: headers.iter().map(header).collect(),
        timeout: Duration::from_secs(7),
        schedule: Schedule::default(),
        max_concurrency: 32,
        rate_limit: 0.0,
        ordered: false,
    };
    let webhook = Webhook {
        id: WebhookId(uuid::Uuid::nil()),
        workspace_id: WorkspaceId(uuid::Uuid::nil()),
        name: "Hook".to_owned(),
        key: None,
        labels: Default::default(),
        state: WebhookState::Active,
        state_reason: Reason::None,
        state_since: NOW,
        definition,
        secrets: secrets.iter().map(secret).collect(),
        failing_since: None,
        version: 1,
        created: NOW,
        updated: NOW,
    };
    PreparedWebhook::new(webhook).unwrap()
}

fn snapshot(method: Method, encoding: Encoding) -> Snapshot {
    let parameter = |name: &str, value: Option<&str>| Parameter {
        name: name.to_owned(),
        value: value.map(str::to_owned),
        json_native: false,
    };
    Snapshot {
        method,
        encoding,
        event_type: "contact.tagged".to_owned(),
        parameters: vec![
            parameter("email", Some("ada@example.com")),
            parameter("first_name", Some("Zoë L")),
            parameter("note", None),
        ],
    }
}

fn attempt(prepared: &PreparedWebhook, snapshot: &Snapshot, now: Micros, traceparent: Option<&str>) -> OutboundRequest {
    build(prepared, snapshot, ID.parse().unwrap(), TRIGGER_TIME, now, traceparent).unwrap()
}

#[track_caller]
fn check(request: &OutboundRequest, line: &str, headers: &[(&str, &str)], body: &str) {
    assert_eq!(format!("{} {}", request.method, request.url), line);
    let actual: Vec<_> = request.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(actual, headers);
    assert_eq!(std::str::from_utf8(&request.body), Ok(body));
    assert_eq!(request.deadline, Duration::from_secs(7));
}

/// Signatures by Python's `hmac`, span ids by its `hashlib`.
#[test]
fn a_form_is_signed_with_every_secret_and_continues_the_trace() {
    let headers = [("x-key", "abc", false), ("authorization", "Bearer t", true)];
    let prepared = webhook("https://hooks.example/in", &headers, &[ASCENDING, LONGEST]);
    let request = attempt(&prepared, &snapshot(Method::Post, Encoding::Form), NOW, Some(PARENT));
    check(
        &request,
        "POST https://hooks.example/in",
        &[
            ("webhook-id", ID),
            ("webhook-timestamp", "1732406400"),
            (
                "webhook-signature",
                "v1,Gn8/QGUH5dLO+7enRu8MvD59ligwjXhU6kWutJVCazE= v1,OSHHxKNlTcC/EWQ/nNT1B1Odho6YBzbkcoTlDPpQE2g=",
            ),
            ("content-type", "application/x-www-form-urlencoded"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-4756b5393dcfe04f-01"),
            ("x-key", "abc"),
            ("authorization", "Bearer t"),
        ],
        "email=ada%40example.com&first_name=Zo%C3%AB+L&note=",
    );
    let sensitive: Vec<_> = request.headers.iter().filter(|(_, value)| value.is_sensitive()).collect();
    assert_eq!(sensitive.len(), 1);
    assert!(!format!("{request:?}").contains("Bearer t"));
}

#[test]
fn a_get_has_no_body_and_its_query_is_signed() {
    let prepared = webhook("https://hooks.example/in/__first_name__?key=1", &[], &[ASCENDING]);
    check(
        &attempt(&prepared, &snapshot(Method::Get, Encoding::Form), NOW, None),
        "GET https://hooks.example/in/Zo%C3%AB%20L?key=1&email=ada%40example.com&note=",
        &[
            ("webhook-id", ID),
            ("webhook-timestamp", "1732406400"),
            ("webhook-signature", "v1,admeiSv3f7nhx5XoYX93a6sVuWE/T+J5oJ3zCT0UBcs="),
        ],
        "",
    );
}

#[test]
fn json_bodies_are_signed_as_they_are_sent() {
    let prepared = webhook("https://hooks.example/", &[], &[ASCENDING]);
    let check_json = |encoding, signature, body| {
        check(
            &attempt(&prepared, &snapshot(Method::Post, encoding), NOW, None),
            "POST https://hooks.example/",
            &[
                ("webhook-id", ID),
                ("webhook-timestamp", "1732406400"),
                ("webhook-signature", signature),
                ("content-type", "application/json"),
            ],
            body,
        );
    };
    check_json(
        Encoding::Json,
        "v1,V/btQh7QNjYEMKZiN0hQAUImZhv7QAbzqsbU880xh7s=",
        r#"{"email":"ada@example.com","first_name":"Zoë L","note":null}"#,
    );
    check_json(
        Encoding::StandardWebhooks,
        "v1,ySo3ihd30Q3oIGPEnVaproEgf/VN4c2DdHGnn+60tb0=",
        r#"{"type":"contact.tagged","timestamp":"2026-01-01T08:00:00Z","data":{"email":"ada@example.com","first_name":"Zoë L","note":null}}"#,
    );
}

#[test]
fn each_attempt_has_its_own_span_and_what_is_no_trace_is_left_out() {
    let prepared = webhook("https://hooks.example/", &[], &[ASCENDING]);
    let traceparent = |now, parent| {
        let request = attempt(&prepared, &snapshot(Method::Get, Encoding::Form), now, Some(parent));
        let header = request.headers.iter().find(|(name, _)| *name == HEADER_TRACEPARENT);
        header.map(|(_, value)| value.to_str().unwrap().to_owned())
    };
    let next = traceparent(Micros(NOW.0 + 1), PARENT);
    assert_eq!(next.as_deref(), Some("00-0af7651916cd43dd8448eb211c80319c-38ee111ba48f677a-01"));
    for parent in ["", "00", "00-0af7651916cd43dd8448eb211c80319c-b7ad"] {
        assert_eq!(traceparent(NOW, parent), None, "{parent:?}");
    }
}

#[test]
fn what_can_not_be_built_says_why() {
    let cases = [
        ("https://x.example/__city__", "", ErrorClass::Template, "\"city\""),
        ("https://x.example/__email__", "..", ErrorClass::UnsafePath, "segment"),
        ("https://x.example/__email__", &"x".repeat(8_000), ErrorClass::RequestTooLarge, "8000 bytes"),
    ];
    for (url, email, class, text) in cases {
        let mut snapshot = snapshot(Method::Get, Encoding::Form);
        snapshot.parameters[0].value = Some(email.to_owned());
        let error =
            build(&webhook(url, &[], &[ASCENDING]), &snapshot, ID.parse().unwrap(), NOW, NOW, None).unwrap_err();
        assert_eq!(error.class(), class);
        assert!(error.to_string().contains(text), "{error}");
    }
    let prepared = webhook("https://x.example/", &[("x", "a\nb", false)], &[ASCENDING]);
    let error =
        build(&prepared, &snapshot(Method::Get, Encoding::Form), ID.parse().unwrap(), NOW, NOW, None).unwrap_err();
    assert_eq!(
        (error.class(), error.to_string().as_str()),
        (ErrorClass::RequestInvalid, "the header `x` can't be sent")
    );
}
