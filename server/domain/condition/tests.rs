use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::domain::contact::{ContactStatus, Email};

const NOW: Micros = Micros(1_769_848_200_000_000);

fn contact(values: &Value) -> Contact {
    Contact {
        id: ContactId(uuid::Uuid::nil()),
        email: Email::parse("ada@example.com").ok(),
        phone: None,
        status: ContactStatus::Subscribed,
        values: values.as_object().cloned().unwrap(),
        version: 1,
        created: Micros(NOW.0 - 86_400_000_000),
        updated: NOW,
    }
}

fn field_type(key: &str) -> Option<FieldType> {
    match key {
        "age" => Some(FieldType::Integer),
        "member" => Some(FieldType::Boolean),
        "renewal" => Some(FieldType::Datetime),
        "alarm" => Some(FieldType::Time),
        _ => standard_field(key).map(|field| field.field_type),
    }
}

fn evaluate(source: &str, attributes: &Value, fields: &Value) -> Result<bool, EvaluationError> {
    let condition = Condition::parse(source, Scope::Event).unwrap_or_else(|error| panic!("{source}: {error}"));
    let facts = Facts {
        event: Some(EventFacts { event_type: "order.paid", attributes: Some(attributes), time: NOW }),
        contact: &contact(fields),
        field_type: &field_type,
        tags: &["vip".to_owned(), "EU customer".to_owned()],
        now: NOW,
    };
    condition.holds(&facts)
}

fn attributes() -> Value {
    json!({
        "amount": 120, "rate": 0.5, "plan": "pro", "gift": null, "paid": true, "big": 18_446_744_073_709_551_615_u64,
        "items": [{"sku": "a-1", "count": 2}, {"sku": "b-2", "count": 40}], "ship-to": {"city": "Köln"},
    })
}

fn fields() -> Value {
    json!({
        "city": "Bonn", "birthday": "1990-02-03", "lead_value": "12.50", "age": 36, "member": true,
        "renewal": "2026-02-01T00:00:00Z", "alarm": "07:30:00",
    })
}

#[track_caller]
fn check(source: &str, expected: bool) {
    assert_eq!(evaluate(source, &attributes(), &fields()), Ok(expected), "{source}");
}

#[track_caller]
fn check_fails(source: &str, expected: &str) {
    let error = evaluate(source, &attributes(), &fields()).map_err(|error| error.to_string());
    assert_eq!(error, Err(expected.to_owned()), "{source}");
}

#[track_caller]
fn check_refused(source: &str, expected: &str) {
    let error = Condition::parse(source, Scope::Event).map_err(|error| error.to_string());
    assert_eq!(error, Err(expected.to_owned()), "{source}");
}

#[test]
fn reads_events() {
    check("event.type == 'order.paid'", true);
    check("event.type.startsWith('order.') && event.time == now", true);
    check("event.attributes.amount > 100", true);
    check("event.attributes.amount == 120.0", true);
    check("event.attributes.rate * 2.0 == 1.0", true);
    check("event.attributes.big > 1.0e19", true);
    check("event.attributes.gift == null", true);
    check("event.attributes.paid", true);
    check("event.attributes['ship-to'].city == 'Köln'", true);
    check("event.attributes['pl' + 'an'] == 'pro'", true);
    check("has(event.attributes.coupon) && event.attributes.coupon == 'x'", false);
    check("'plan' in event.attributes && size(event.attributes) == 8", true);
    check("event.attributes.items[1].count == 40", true);
    check("event.attributes.items.exists(i, i.sku.startsWith('b') && i.count > 10)", true);
    check("event.attributes.items.map(i, i.count) == [2, 40]", true);
    check("event.attributes.items.filter(i, i.count > 10).size() == 1", true);
    check("event.attributes.plan in ['pro', 'max'] ? event.attributes.paid : false", true);
}

#[test]
fn reads_contacts() {
    check("contact.email.endsWith('@example.com') && contact.phone == ''", true);
    check("contact.status == 'subscribed'", true);
    check("contact.id.startsWith('cont')", contact_id_starts());
    check("contact.created == now - duration('24h')", true);
    check("'vip' in contact.tags && size(contact.tags) == 2", true);
    check("contact.tags.exists(t, t.contains('EU'))", true);
    check("contact.tags.exists_one(t, t == 'vip')", true);
    check("contact.tags.all(t, t == 'vip')", false);
    check("contact.fields.city == 'Bonn'", true);
    check("contact.fields['city'] == 'Bonn'", true);
    check("contact.fields.birthday.getFullYear() == 1990", true);
    check("contact.fields.birthday == timestamp('1990-02-03T00:00:00Z')", true);
    check("contact.fields.lead_value == 12.5", true);
    check("contact.fields.age >= 18 && contact.fields.member", true);
    check("contact.fields.renewal > now", true);
    check("contact.fields.alarm == '07:30:00'", true);
    check("has(contact.fields.city) && !has(contact.fields.street1)", true);
    check("now.getHours('Europe/Berlin') == 9 && now.getHours() == 8", true);
    check("int('7') + 1 == 8 && string(1) == '1' && double('0.5') == 0.5", true);
}

fn contact_id_starts() -> bool {
    ContactId(uuid::Uuid::nil()).to_string().starts_with("cont")
}

#[test]
fn says_why_it_cannot_be_told() {
    check_fails("contact.fields.street1 == 'x'", "street1 is not set; ask has(...) before it is read");
    check_fails("event.attributes.coupon.code == 'x'", "coupon is not set; ask has(...) before it is read");
    check_fails("event.attributes[contact.email] == 'x'", "a key is not set; ask has(...) before it is read");
    check_fails("event.attributes.plan", "resulted in a string, not in true or false");
    check_fails("event.attributes.amount / 0 == 1", "divides by zero");
    check_fails("event.attributes.items[7] == 1", "reads a list past its end");
    check_fails("int(contact.email) == 1", "int can't take the value it is given");
    check_fails("now.getHours(contact.email) == 1", "timezone can't take the value it is given");
    check_fails("event.attributes.plan > 1", "found no matching overload for '_>_' applied to '(string, int)'");
}

#[test]
fn refuses_what_is_wrong_and_says_where() {
    check_refused("contact.email == ", "");
    check_refused("true &&\n  contcat.email == ''", "");
    check_refused("", "");
}

#[test]
fn hostile_sources_are_refused_or_cheap() {
    for source in hostile_sources() {
        let started = Instant::now();
        let parsed = Condition::parse(&source, Scope::Event);
        let parse = started.elapsed();
        let short: String = source.chars().take(50).collect();
        let Ok(condition) = parsed else {
            println!("{parse:>12?} parse, {:?}: {short}", parsed.unwrap_err().to_string());
            continue;
        };
        let tags: Vec<_> = (0..1_000).map(|n| format!("tag {n}")).collect();
        let mut worst = Duration::ZERO;
        let mut result = Ok(true);
        for attributes in hostile_attributes() {
            let facts = Facts {
                event: Some(EventFacts { event_type: "order.paid", attributes: Some(&attributes), time: NOW }),
                contact: &contact(&json!({"city": "x".repeat(4_096), "street1": "y".repeat(65_536)})),
                field_type: &field_type,
                tags: &tags,
                now: NOW,
            };
            let started = Instant::now();
            let one = condition.holds(&facts);
            if started.elapsed() > worst {
                worst = started.elapsed();
                result = one;
            }
        }
        println!("{parse:>12?} parse, {worst:>12?} evaluate, {result:?}: {short}");
    }
}

fn hostile_attributes() -> Vec<Value> {
    let nested = (0..60).fold(json!(1), |inner, _| json!({"a": inner}));
    vec![
        json!({"a": vec![0; 3_000], "s": "x".repeat(9_000)}),
        json!({"a": vec![0; 120], "s": "x".repeat(16_000)}),
        json!({"a": vec!["x".repeat(100); 150], "s": ""}),
        json!({"a": vec![vec![0; 30]; 100], "s": "x".repeat(1_000)}),
        json!({"a": nested, "s": "x"}),
    ]
}

fn hostile_sources() -> Vec<String> {
    let mut sources: Vec<String> = [
        ("(", 2_000),
        ("[", 2_000),
        ("{", 2_000),
        ("!", 2_000),
        ("-", 2_000),
        ("a.", 1_000),
        ("1?", 1_000),
        ("'", 2_000),
        ("\"", 2_000),
        ("\\", 2_000),
        ("`", 2_000),
        ("((a.b[", 300),
        ("1+", 1_000),
        ("a||", 500),
        ("r'\\", 500),
        ("{1:", 600),
        ("x(", 900),
        ("\u{1f980}", 500),
        ("\0", 2_000),
        (".", 2_000),
        ("a[", 900),
        ("in ", 600),
        ("1 ", 190),
        (")", 2_000),
        ("(", 16),
        ("[", 16),
        ("{1:", 16),
        ("1?", 16),
        ("a.", 190),
        ("!", 390),
        ("- ", 390),
        ("a[", 16),
        ("-(", 16),
        ("?", 16),
    ]
    .iter()
    .map(|(text, times)| text.repeat(*times))
    .collect();
    let wrapped =
        |open: &str, n: usize, inner: &str, close: &str| format!("{}{inner}{}", open.repeat(n), close.repeat(n));
    sources.extend([
        wrapped("(", 16, "true", ")"),
        wrapped("(", 1_000, "true", ")"),
        wrapped("[", 1_000, "", "]"),
        format!("'\\q{}' == ''", "(".repeat(1_900)),
        format!("xr'\\' + {}", "(".repeat(1_900)),
        format!("// {}\ntrue", "(".repeat(1_900)),
        format!("{}true", "!".repeat(380)),
        format!("{}1 == 1", "-".repeat(380)),
        format!("event.attributes{} == 1", ".a".repeat(180)),
        format!("event.attributes.a{} == 1", "[0]".repeat(40)),
        format!("{}event.attributes.s == ''", "event.attributes.s + ".repeat(40)),
        format!("{}contact.fields.street1 == ''", "contact.fields.street1 + ".repeat(40)),
        format!("size([{}]) == 1", "event.attributes, ".repeat(60) + "1"),
        format!("event.attributes.a.all(x, {} == 1)", vec!["event.attributes"; 40].join(" == ")),
        format!(
            "event.attributes.a.all(x, {})",
            vec!["event.attributes.s != event.attributes.s + 'x'"; 20].join(" && ")
        ),
        format!("event.attributes.a.map(x, [{}]) == []", vec!["x"; 120].join(", ")),
        format!("event.attributes.a.map(x, {}) == []", vec!["event.attributes.s"; 40].join(" + ")),
        format!("event.attributes.a.exists(x, {})", vec!["event.attributes + 1 == 1"; 20].join(" || ")),
        format!("contact.tags.exists(x, {})", vec!["x.contains('g 9999')"; 30].join(" || ")),
        format!("contact.tags.exists(x, {})", vec!["x < 1"; 40].join(" || ")),
        format!("contact.tags.exists(x, x in {})", "contact.tags"),
        format!("({}).exists(x, x == 1)", vec!["event.attributes.a"; 40].join(" + ")),
        format!("contact.fields.street1.contains('{}')", "y".repeat(1_000) + "z"),
        format!("{}", vec!["now.getDayOfYear('America/New_York') > 999"; 20].join(" || ")),
        format!("{} > now", vec!["now"; 2].join(" + duration('87000000h') + ")),
        "now + duration('9223372036s') + duration('9223372036s') > now".to_owned(),
        "timestamp('9999-12-31T23:59:59Z') + duration('2562047h') > now".to_owned(),
        "timestamp('0001-01-01T00:00:00Z').getDayOfYear('-23:59') == 1".to_owned(),
        "timestamp('9999-12-31T23:59:59Z').getFullYear('+23:59') == 1".to_owned(),
        "timestamp(9223372036854775807) > now".to_owned(),
        "duration('99999999999999999999999999h') > duration('1s')".to_owned(),
        "-9223372036854775808 / -1 == 1".to_owned(),
        "-9223372036854775808 % -1 == 1".to_owned(),
        "0u - 1u == 0u".to_owned(),
        "int(1e300) == 1 || uint(-1.0) == 1u || int(0.0/0.0) == 1".to_owned(),
        "9223372036854775807 * 9223372036854775807 == 1".to_owned(),
        "99999999999999999999 == 1".to_owned(),
        "[1][-1] == 1 || [1][9223372036854775807] == 1 || [1][1.5] == 1".to_owned(),
        "string(b'\\xff\\xfe') == ''".to_owned(),
        "'\\ud800' == ''".to_owned(),
        "'\\U00110000' == ''".to_owned(),
        "{'a': 1, 'a': 2} == {}".to_owned(),
        "{[1]: 1} == {}".to_owned(),
        "Foo{a: 1} == 1".to_owned(),
        "event{a: 1} == 1".to_owned(),
        "[?1] == []".to_owned(),
        "contact.?email == ''".to_owned(),
        "[1].map(x, [1].map(y, y)) == []".to_owned(),
        "[1].map(contact, true) == []".to_owned(),
        "[1].exists(x.y, true)".to_owned(),
        "has(1)".to_owned(),
        "has(contact)".to_owned(),
        "'a'.matches('a')".to_owned(),
        "type(1) == int".to_owned(),
        "dyn(1) == 1".to_owned(),
        "optional.of(1).hasValue()".to_owned(),
        ".contact.email == ''".to_owned(),
        "@result == 1".to_owned(),
        "[1].exists(@result, true)".to_owned(),
        "__result__ == 1".to_owned(),
        "[1].all(__result__, __result__ == 1)".to_owned(),
    ]);
    sources
}
