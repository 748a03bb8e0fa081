use serde_json::json;

use super::*;
use crate::domain::trigger_data::TriggerEvent;

const TRIGGER_TIME: Micros = Micros(1_767_254_400_123_000); // 2026-01-01T08:00:00.123Z
const TAG_TIME: Micros = Micros(1_767_254_399_000_000);

fn parameter(name: &str, value: Option<&str>) -> Parameter {
    Parameter { name: name.to_owned(), value: value.map(str::to_owned), json_native: false }
}

fn native(name: &str, value: &str) -> Parameter {
    Parameter { json_native: true, ..parameter(name, Some(value)) }
}

fn snapshot(method: Method, encoding: Encoding, parameters: Vec<Parameter>) -> Snapshot {
    Snapshot { method, encoding, event_type: "contact.tagged".to_owned(), parameters }
}

#[track_caller]
fn send(snapshot: &Snapshot, template: &str) -> Result<HttpRequestParts, RenderError> {
    let template = UrlTemplate::stored(template).unwrap();
    let request = snapshot.body_and_url(&template, TRIGGER_TIME)?;
    assert_eq!(url::Url::parse(&request.url).unwrap().as_str(), request.url, "as parsed again");
    Ok(request)
}

#[track_caller]
fn check_get(template: &str, parameters: &[Parameter], url: &str, signed: &str) {
    // The encoding is of no effect.
    for encoding in [Encoding::Form, Encoding::StandardWebhooks] {
        let request = send(&snapshot(Method::Get, encoding, parameters.to_vec()), template).unwrap();
        assert_eq!(request.url, url);
        assert_eq!((request.body.as_slice(), request.content_type), (&b""[..], None));
        assert_eq!(std::str::from_utf8(request.signed_bytes()), Ok(signed));
    }
}

#[test]
fn get_appends_what_is_not_in_the_url() {
    let email = || parameter("email", Some("ada+x@example.com"));
    check_get("https://x.org", &[email()], "https://x.org/?email=ada%2Bx%40example.com", "email=ada%2Bx%40example.com");
    check_get(
        "https://x.org/p?key=1",
        &[email(), parameter("name", Some("Ada L"))],
        "https://x.org/p?key=1&email=ada%2Bx%40example.com&name=Ada+L",
        "key=1&email=ada%2Bx%40example.com&name=Ada+L",
    );
    check_get(
        "https://x.org/__name__?e=__email__",
        &[email(), parameter("name", Some("Ada L")), parameter("z", None)],
        "https://x.org/Ada%20L?e=ada%2Bx%40example.com&z=",
        "e=ada%2Bx%40example.com&z=",
    );
    check_get("https://x.org/__email__", &[parameter("email", None)], "https://x.org/", "");
    check_get("https://x.org/__email__?", &[email()], "https://x.org/ada%2Bx%40example.com?", "");
    check_get("https://x.org?a?b", &[parameter("c?", Some("?"))], "https://x.org/?a?b&c%3F=%3F", "a?b&c%3F=%3F");
    check_get(
        "https://x.org",
        &[native("n", "1.50"), native("b", "true")],
        "https://x.org/?n=1.50&b=true",
        "n=1.50&b=true",
    );
}

#[track_caller]
fn check_post(encoding: Encoding, parameters: Vec<Parameter>, content_type: &str, body: &str) {
    let request = send(&snapshot(Method::Post, encoding, parameters), "https://x.org/__email__?k").unwrap();
    assert_eq!(std::str::from_utf8(&request.body), Ok(body));
    assert_eq!(request.content_type, Some(content_type));
    assert_eq!(request.signed_bytes(), request.body);
    assert_eq!(request.url, "https://x.org/a%40b?k");
    if encoding != Encoding::Form {
        serde_json::from_slice::<Value>(&request.body).unwrap();
    }
}

#[test]
fn post_bodies_have_all_parameters() {
    let all = || {
        vec![
            parameter("email", Some("a@b")),
            parameter("größe & co", Some(" &=+%\r\n\"\\/😀*-._~\u{1}\u{7f}\u{2028}")),
            parameter("empty", None),
            native("integer", "-9223372036854775808"),
            native("decimal", "12345678901234.56789012345678"),
            native("boolean", "false"),
        ]
    };
    let form = "email=a%40b&gr%C3%B6%C3%9Fe+%26+co=+%26%3D%2B%25%0D%0A%22%5C%2F%F0%9F%98%80*-._%7E%01%7F%E2%80%A8&empty=\
                &integer=-9223372036854775808&decimal=12345678901234.56789012345678&boolean=false";
    let json = "{\"email\":\"a@b\",\"größe & co\":\" &=+%\\r\\n\\\"\\\\/😀*-._~\\u0001\u{7f}\u{2028}\",\"empty\":null,\
                \"integer\":-9223372036854775808,\"decimal\":12345678901234.56789012345678,\"boolean\":false}";
    let payload = format!("{{\"type\":\"contact.tagged\",\"timestamp\":\"2026-01-01T08:00:00.123Z\",\"data\":{json}}}");
    check_post(Encoding::Form, all(), "application/x-www-form-urlencoded", form);
    check_post(Encoding::Json, all(), "application/json", json);
    check_post(Encoding::StandardWebhooks, all(), "application/json", &payload);
}

#[test]
fn json_stays_valid_whatever_is_marked_native() {
    let doubtful = vec![parameter("email", Some("a@b")), native("a", "x"), native("b", "01"), native("c", "1e5")];
    check_post(
        Encoding::Json,
        doubtful,
        "application/json",
        "{\"email\":\"a@b\",\"a\":\"x\",\"b\":\"01\",\"c\":\"1e5\"}",
    );
}

#[test]
fn large_values_fit_bodies_but_no_urls() {
    let large = "ä".repeat(32_768);
    let parameters = vec![parameter("a", Some(&large))];
    let request = send(&snapshot(Method::Post, Encoding::Json, parameters.clone()), "https://x.org").unwrap();
    assert_eq!(request.body.len(), 65_536 + r#"{"a":""}"#.len());
    let request = send(&snapshot(Method::Post, Encoding::Form, parameters.clone()), "https://x.org").unwrap();
    assert_eq!(request.body.len(), 3 * 65_536 + "a=".len());
    let get = snapshot(Method::Get, Encoding::Form, parameters);
    assert_eq!(send(&get, "https://x.org"), Err(RenderError::UrlTooLarge));
    assert_eq!(send(&get, "https://x.org/__a__"), Err(RenderError::UrlTooLarge));
}

#[test]
fn limits_url_and_body() {
    let fits = vec![parameter("a", Some(&"x".repeat(8_000 - 14 - 3)))];
    let url = send(&snapshot(Method::Get, Encoding::Form, fits), "https://x.org").unwrap().url;
    assert_eq!(url.len(), 8_000);
    let over = vec![parameter("a", Some(&"x".repeat(8_000 - 14 - 2)))];
    assert_eq!(send(&snapshot(Method::Get, Encoding::Form, over), "https://x.org"), Err(RenderError::UrlTooLarge));
    let fits = vec![parameter("a", Some(&"x".repeat(MAX_BODY_BYTES - 2)))];
    assert!(send(&snapshot(Method::Post, Encoding::Form, fits), "https://x.org").is_ok());
    let over = vec![parameter("a", Some(&"x".repeat(MAX_BODY_BYTES - 1)))];
    assert_eq!(send(&snapshot(Method::Post, Encoding::Form, over), "https://x.org"), Err(RenderError::BodyTooLarge));
}

#[test]
fn a_placeholder_that_the_snapshot_lacks_fails() {
    let snapshot = snapshot(Method::Post, Encoding::Form, vec![parameter("email", None)]);
    let missing = RenderError::MissingValue { name: "gone".to_owned() };
    assert_eq!(send(&snapshot, "https://x.org/__gone__"), Err(missing));
    assert_eq!(send(&snapshot, "https://x.org/.__email__"), Err(RenderError::DotSegment));
}

#[test]
fn snapshots_are_stored_compactly() {
    let parameters = vec![parameter("email", Some("a@b")), parameter("empty", None), native("n", "1")];
    let snapshot = snapshot(Method::Get, Encoding::StandardWebhooks, parameters);
    let stored =
        r#"{"m":2,"e":3,"t":"contact.tagged","p":[{"n":"email","v":"a@b"},{"n":"empty"},{"n":"n","v":"1","j":true}]}"#;
    assert_eq!(serde_json::to_string(&snapshot).unwrap(), stored);
    assert_eq!(serde_json::from_str::<Snapshot>(stored).unwrap(), snapshot);
    assert_eq!(format!("{snapshot:?}"), "Snapshot(Get, StandardWebhooks, 3 parameters)");
}

fn defined(name: &str, source: Source, default: Option<(&str, DefaultMode)>) -> ParameterDefinition {
    let default = default.map(|(value, mode)| ParameterDefault { value: value.to_owned(), mode });
    ParameterDefinition { name: name.to_owned(), source, default }
}

fn field(key: &str) -> Source {
    Source::ContactField(key.to_owned())
}

fn definition(parameters: Vec<ParameterDefinition>) -> EventDefinition {
    EventDefinition {
        id: WebhookEventId(uuid::Uuid::from_u128(1)),
        key: None,
        method: Method::Post,
        encoding: Encoding::Json,
        event_type: "contact.tagged".to_owned(),
        email_parameter_name: "mail".to_owned(),
        parameters,
    }
}

fn field_type(key: &str) -> Option<FieldType> {
    match key {
        "first_name" | "phone" => Some(FieldType::Text),
        "lead_value" => Some(FieldType::Decimal),
        "age" => Some(FieldType::Integer),
        "vip" => Some(FieldType::Boolean),
        "birthday" => Some(FieldType::Date),
        _ => None,
    }
}

#[track_caller]
fn check_plan(source: Source, default: Option<(&str, DefaultMode)>, expected: Parameter) {
    let attributes = json!({
        "product": "Book", "amount": 99, "price": 9.5, "gift": true, "note": null, "empty": "", "tags": ["a", 1],
        "order": {"id": "7"}
    });
    let event = TriggerEvent { event_type: "shop.paid".to_owned(), attributes: Some(attributes), time: TRIGGER_TIME };
    let given = [("coupon".to_owned(), "007".to_owned()), ("blank".to_owned(), String::new())];
    let data = TriggerData { values: given.into(), event: Some(event) };
    let values = json!({"first_name": "Ada", "lead_value": "1.50", "age": 36, "vip": true, "removed": "x"});
    let context = TriggerContext {
        contact_id: "contact_1",
        email: Some("ada@example.com"),
        phone: Some("+4930123456"),
        external_id: Some("crm-7"),
        values: values.as_object().unwrap(),
        field_type: &field_type,
        activation_tag: Some("VIP"),
        tag_time: Some(TAG_TIME),
        trigger_time: TRIGGER_TIME,
        delivery_id: "dlv_1",
        webhook_name: "CRM",
        campaign_name: None,
        data: Some(&data),
    };
    let snapshot = Snapshot::plan(&definition(vec![defined("p", source, default)]), &context);
    assert_eq!(snapshot.event_type, "contact.tagged");
    assert_eq!(snapshot.parameters, [parameter("mail", Some("ada@example.com")), expected]);
}

#[test]
fn plans_values_of_every_source() {
    check_plan(field("first_name"), None, parameter("p", Some("Ada")));
    check_plan(field("lead_value"), None, native("p", "1.50"));
    check_plan(field("age"), None, native("p", "36"));
    check_plan(field("vip"), None, native("p", "true"));
    check_plan(field("birthday"), None, parameter("p", None));
    check_plan(field("removed"), None, parameter("p", None));
    check_plan(field("phone"), None, parameter("p", Some("+4930123456")));
    check_plan(Source::Static("x=1".to_owned()), None, parameter("p", Some("x=1")));
    check_plan(Source::Static(String::new()), None, parameter("p", None));
    for (value, expected) in [
        (SystemValue::ContactId, Some("contact_1")),
        (SystemValue::ActivationTag, Some("VIP")),
        (SystemValue::TagTime, Some("2026-01-01T07:59:59Z")),
        (SystemValue::TriggerTime, Some("2026-01-01T08:00:00.123Z")),
        (SystemValue::DeliveryId, Some("dlv_1")),
        (SystemValue::WebhookName, Some("CRM")),
        (SystemValue::CampaignName, None),
        (SystemValue::ContactExternalId, Some("crm-7")),
    ] {
        check_plan(Source::System(value), None, parameter("p", expected));
    }
}

#[test]
fn plans_default_values() {
    use DefaultMode::{Fallback, Fixed};
    check_plan(field("first_name"), Some(("x", Fallback)), parameter("p", Some("Ada")));
    check_plan(field("first_name"), Some(("x", Fixed)), parameter("p", Some("x")));
    check_plan(field("first_name"), Some(("", Fixed)), parameter("p", None));
    check_plan(field("birthday"), Some(("unknown", Fallback)), parameter("p", Some("unknown")));
    check_plan(field("removed"), Some(("x", Fallback)), parameter("p", Some("x")));
    check_plan(field("age"), Some(("007", Fixed)), native("p", "7"));
    check_plan(field("age"), Some(("n/a", Fixed)), parameter("p", Some("n/a")));
    check_plan(field("lead_value"), Some(("", Fallback)), native("p", "1.50"));
    check_plan(Source::Static(String::new()), Some(("7", Fallback)), parameter("p", Some("7")));
    check_plan(Source::System(SystemValue::CampaignName), Some(("none", Fallback)), parameter("p", Some("none")));
}

#[test]
fn plans_attributes_of_the_event_and_values_of_the_call() {
    use DefaultMode::{Fallback, Fixed};
    let attribute = |name: &str| Source::EventAttribute(name.to_owned());
    let value = |key: &str| Source::TriggerValue(key.to_owned());
    check_plan(attribute("product"), None, parameter("p", Some("Book")));
    check_plan(attribute("amount"), None, native("p", "99"));
    check_plan(attribute("price"), None, native("p", "9.5"));
    check_plan(attribute("gift"), None, native("p", "true"));
    check_plan(attribute("order.id"), None, parameter("p", Some("7")));
    check_plan(attribute("order"), None, parameter("p", Some(r#"{"id":"7"}"#)));
    check_plan(attribute("tags"), None, parameter("p", Some(r#"["a",1]"#)));
    check_plan(value("coupon"), None, parameter("p", Some("007")));
    for absent in [attribute("note"), attribute("empty"), attribute("none"), value("blank"), value("none")] {
        check_plan(absent.clone(), None, parameter("p", None));
        check_plan(absent, Some(("else", Fallback)), parameter("p", Some("else")));
    }
    check_plan(value("coupon"), Some(("else", Fallback)), parameter("p", Some("007")));
    check_plan(attribute("amount"), Some(("1", Fixed)), parameter("p", Some("1")));
}

#[test]
fn the_email_is_there_though_empty() {
    let values = Map::new();
    let context = TriggerContext {
        contact_id: "contact_1",
        email: None,
        phone: Some("+4930123456"),
        external_id: Some("crm-7"),
        values: &values,
        field_type: &field_type,
        activation_tag: None,
        tag_time: None,
        trigger_time: TRIGGER_TIME,
        delivery_id: "dlv_1",
        webhook_name: "CRM",
        campaign_name: None,
        data: None,
    };
    let snapshot = Snapshot::plan(&definition(Vec::new()), &context);
    assert_eq!(snapshot.parameters, [parameter("mail", None)]);
}

#[track_caller]
fn check_problems(parameters: Vec<ParameterDefinition>, expected: &[(Place, DefinitionProblem)]) {
    let errors = definition(parameters).problems(&|key| field_type(key).is_some());
    let found: Vec<_> = errors.into_iter().map(|error| (error.place, error.problem)).collect();
    assert_eq!(found, expected);
}

#[test]
fn reports_all_problems_of_a_definition() {
    use DefinitionProblem as Problem;
    let text = |text: &str| Source::Static(text.to_owned());
    check_problems(
        vec![
            defined(&"n".repeat(255), field("age"), None),
            defined("größe 😀", text("\n"), None),
            defined("a\0\nb", text(&"x".repeat(4_096)), None),
        ],
        &[],
    );
    check_problems(
        vec![
            defined("", field("age"), None),
            defined(&"n".repeat(256), field("gone"), None),
            defined("a", text("\0"), None),
            defined("mail", text(&"x".repeat(4_097)), None),
            defined("Mail", text("x"), Some(("\0", DefaultMode::Fixed))),
            defined("Mail", field("age"), None),
            defined("b", Source::EventAttribute("a".repeat(101)), None),
            defined("c", Source::TriggerValue(String::new()), None),
            defined("d", Source::TriggerValue("k".repeat(63)), None),
        ],
        &[
            (Place::Name(0), Problem::NameLength { bytes: 0 }),
            (Place::Name(1), Problem::NameLength { bytes: 256 }),
            (Place::Source(1), Problem::UnknownField),
            (Place::Source(2), Problem::ValueCharacter),
            (Place::Name(3), Problem::NameTaken),
            (Place::Source(3), Problem::ValueLength { bytes: 4_097 }),
            (Place::Default(4), Problem::ValueCharacter),
            (Place::Name(5), Problem::NameTaken),
            (Place::Source(6), Problem::SourceNameLength { max: 100, bytes: 101 }),
            (Place::Source(7), Problem::SourceNameLength { max: 63, bytes: 0 }),
        ],
    );
    let many = (0..101).map(|index| defined(&index.to_string(), field("age"), None)).collect();
    check_problems(many, &[(Place::Parameters, Problem::TooManyParameters { count: 101 })]);
}

#[test]
fn definitions_are_stored_as_json() {
    let event = definition(vec![defined("p", Source::System(SystemValue::TagTime), Some(("x", DefaultMode::Fixed)))]);
    let stored = json!({
        "id": "00000000-0000-0000-0000-000000000001",
        "method": 1,
        "encoding": 2,
        "event_type": "contact.tagged",
        "email_parameter_name": "mail",
        "parameters": [{"name": "p", "source": {"system": 3}, "default": {"value": "x", "mode": 2}}],
    });
    assert_eq!(serde_json::to_value(&event).unwrap(), stored);
    assert_eq!(serde_json::from_value::<EventDefinition>(stored).unwrap(), event);
    assert_eq!(event.parameter_names().collect::<Vec<_>>(), ["mail", "p"]);
}
