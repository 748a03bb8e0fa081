use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::domain::contact::{ContactStatus, Email, ExternalId};

const NOW: Micros = Micros(1_769_848_200_000_000);

fn contact(values: &Value) -> Contact {
    Contact {
        id: ContactId(uuid::Uuid::nil()),
        email: Email::parse("ada@example.com").ok(),
        phone: None,
        external_id: ExternalId::parse("crm-7").ok(),
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
        values: None,
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
    check("contact.external_id == 'crm-7'", true);
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
    check_refused(
        "contact.email ==",
        "1:17: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, \
         NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}",
    );
    check_refused("true &&\n  contcat.email == ''", "2:3: contcat is unknown here; there are event, contact and now");
    check_refused(
        "'Köln' != '' && contact.mail == ''",
        "1:24: contact.mail is unknown here; there are id, email, phone, external_id, status, created, tags and fields",
    );
    check_refused("event.kind == ''", "1:6: event.kind is unknown here; there are type, time and attributes");
    check_refused(
        "size(contact.fields) > 1",
        "1:13: contact.fields can't be used as a whole; name what you want of it, like contact.fields.city",
    );
    check_refused(
        "contact == event",
        "1:1: contact can't be used as a whole; name what you want of it, like contact.email",
    );
    check_refused(
        "contact.fields.City == ''",
        "1:15: City can't be the key of a field, which has only a to z, 0 to 9 and _",
    );
    check_refused("contact.email.matches('a+')", "1:22: matches is no function that a condition can use");
    check_refused("event.attributes.x.startsWith('a', 'b')", "1:30: startsWith is used as x.startsWith('start')");
    check_refused("contact.tags.exists('vip')", "1:20: exists is used as list.exists(x, condition)");
    check_refused(
        "contact.tags.exists(t, contact.tags.exists(u, t == u))",
        "1:43: may have only one of all, exists, exists_one, map and filter",
    );
    check_refused("contact.email", "1:1: must result in true or false; on a sample it resulted in a string");
    check_refused(
        "contact.created > '2026-01-01'",
        "1:1: can't be evaluated on a sample: found no matching overload for '_>_' applied to \
         '(google.protobuf.Timestamp, string)'",
    );
    check_refused(
        "contact.fields.birthday",
        "1:1: must result in true or false; on a sample it resulted in a timestamp",
    );
    check_refused("(true", "1:1: what is opened here isn't closed with )");
    check_refused("true]", "1:5: this ] closes nothing");
    check_refused("'abc", "1:1: the string that starts here isn't closed");
    check_refused("'a\\q' == ''", "1:3: no such escape in a string");
    check_refused(&" ".repeat(2_049), "1:1: must be at most 2048 bytes; has 2049");
    for blank in ["", " ", "\n\t "] {
        check_refused(blank, "1:1: must not be blank");
    }
    check_refused(&["1 == 1"; 60].join(" || "), "1:491: has more than 200 parts; shorten it, or make two of it");
    let error = Condition::parse("payload.type == ''", Scope::Trigger).unwrap_err().to_string();
    assert_eq!(error, "1:1: payload is unknown here; there are contact, event, values and now");
    check_refused("values.coupon == 'A'", "1:1: values is unknown here; there are event, contact and now");
}

#[track_caller]
fn check_trigger(source: &str, expected: Result<bool, &str>) {
    let attributes = json!({ "amount": 120, "order": { "currency": "EUR" } });
    let values = [("coupon", "SPRING"), ("shop id", "7")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let facts = Facts {
        event: Some(EventFacts { event_type: "shop.paid", attributes: Some(&attributes), time: NOW }),
        values: Some(&values),
        contact: &contact(&fields()),
        field_type: &field_type,
        tags: &["vip".to_owned()],
        now: NOW,
    };
    let condition = Condition::parse(source, Scope::Trigger).unwrap_or_else(|error| panic!("{source}: {error}"));
    assert_eq!(condition.holds(&facts).map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{source}");
}

#[test]
fn conditions_of_triggers_read_values_and_event() {
    check_trigger("values.coupon == 'SPRING' && values['shop id'] == '7'", Ok(true));
    check_trigger("'coupon' in values && size(values) == 2 && !has(values.none)", Ok(true));
    check_trigger("values.exists(key, key == 'shop id')", Ok(true));
    check_trigger("int(values['shop id']) > 7", Ok(false));
    check_trigger("values.none == ''", Err("none is not set; ask has(...) before it is read"));
    check_trigger("event.type == 'shop.paid' && event.attributes.order.currency == 'EUR'", Ok(true));
    check_trigger("event.time == now && 'vip' in contact.tags && contact.fields.age == 36", Ok(true));
}

#[test]
fn a_trigger_without_an_event_has_an_empty_one() {
    let facts = Facts {
        event: None,
        values: None,
        contact: &contact(&json!({})),
        field_type: &field_type,
        tags: &[],
        now: NOW,
    };
    let holds = |source| Condition::parse(source, Scope::Trigger).unwrap().holds(&facts);
    assert_eq!(
        holds("event.type == '' && !has(event.time) && size(event.attributes) == 0 && size(values) == 0"),
        Ok(true)
    );
    assert_eq!(holds("has(event.attributes.amount) || has(values.coupon)"), Ok(false));
    assert_eq!(holds("event.time < now"), Err(EvaluationError::Unset { name: "time".to_owned() }));
}

#[test]
fn tells_what_it_reads() {
    let source = "contact.fields.age > 17 && contact.fields['shoe_size'] == 3";
    let condition = Condition::parse(source, Scope::Trigger).unwrap();
    assert!(!condition.reads_tags());
    assert_eq!(condition.field_keys().collect::<Vec<_>>(), ["age", "shoe_size"]);
    assert!(Condition::parse("'vip' in contact.tags", Scope::Trigger).unwrap().reads_tags());
    // A custom field may be a boolean, and an attribute anything.
    for source in
        ["contact.fields.opted_in", "!event.attributes.opted_in", "event.attributes.n > 1 || contact.fields.n"]
    {
        assert!(Condition::parse(source, Scope::Event).is_ok(), "{source}");
    }
}

/// In half of the stack that a thread of the server has. The time is generous, since nothing else may fail on a busy
/// machine: it is for what grows without bound.
#[test]
fn hostile_sources_are_refused_or_cheap() {
    let run = || hostile_sources().iter().map(|source| worst_of(source)).max().unwrap_or_default();
    let worst = std::thread::Builder::new().stack_size(1_024 * 1_024).spawn(run).unwrap().join().unwrap();
    assert!(worst < Duration::from_millis(500), "{worst:?}");
}

#[expect(clippy::disallowed_methods, reason = "the time that passes is what is measured")]
fn clock() -> Instant {
    Instant::now()
}

/// The longest that reading it or evaluating it takes, on attributes of many sizes so that some use the budget up.
fn worst_of(source: &str) -> Duration {
    let started = clock();
    let parsed = Condition::parse(source, Scope::Event);
    let mut worst = started.elapsed();
    let Ok(condition) = parsed else {
        assert_ne!(parsed.unwrap_err().problem, ConditionProblem::Internal, "{source}");
        return worst;
    };
    let contact = contact(&json!({"city": "x".repeat(4_096), "street1": "y".repeat(65_536)}));
    for size in (0..13).map(|power| 1_usize << power) {
        let tags: Vec<_> = (0..size).map(|n| format!("tag {n}")).collect();
        for attributes in hostile_attributes(size) {
            let event = Some(EventFacts { event_type: "order.paid", attributes: Some(&attributes), time: NOW });
            let facts =
                Facts { event, values: None, contact: &contact, field_type: &field_type, tags: &tags, now: NOW };
            let runs = [(); 3].map(|()| {
                let started = clock();
                assert_ne!(condition.holds(&facts), Err(EvaluationError::Internal), "{source}");
                started.elapsed()
            });
            // The shortest: the machine may have done something else in between.
            let took = runs.into_iter().min().unwrap_or_default();
            worst = worst.max(took);
        }
    }
    worst
}

/// About as large as the attributes of an event may be, 16 KiB of JSON.
fn hostile_attributes(size: usize) -> [Value; 5] {
    let nested = (0..size.min(60)).fold(json!(1), |inner, _| json!({"a": inner}));
    let keys: serde_json::Map<_, _> = (0..size.min(1_500)).map(|n| (n.to_string(), json!(n))).collect();
    [
        json!({"a": vec![0; size], "s": "x".repeat(16_000 - size.min(4_000) * 2)}),
        json!({"a": vec!["x".repeat(100); size.min(160)], "s": ""}),
        json!({"a": vec![vec![0; 30]; size.min(100)], "s": "x".repeat(1_000)}),
        json!({"a": keys, "s": ""}),
        json!({"a": nested, "s": "x"}),
    ]
}

fn hostile_sources() -> Vec<String> {
    let odd = ODD.iter().map(|source| (*source).to_owned());
    repeated().into_iter().chain(long()).chain(loops()).chain(odd).collect()
}

fn repeated() -> Vec<String> {
    [
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
    .collect()
}

fn long() -> Vec<String> {
    let wrapped =
        |open: &str, n: usize, inner: &str, close: &str| format!("{}{inner}{}", open.repeat(n), close.repeat(n));
    vec![
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
        format!("contact.fields.street1.contains('{}')", "y".repeat(1_000) + "z"),
        ["now.getDayOfYear('America/New_York') > 999"; 20].join(" || "),
        format!("{} > now", ["now"; 2].join(" + duration('87000000h') + ")),
    ]
}

fn loops() -> Vec<String> {
    vec![
        format!("event.attributes.a.all(x, {} == 1)", ["event.attributes"; 40].join(" == ")),
        format!("event.attributes.a.all(x, {})", ["event.attributes.s != event.attributes.s + 'x'"; 20].join(" && ")),
        format!("event.attributes.a.map(x, [{}]) == []", ["x"; 120].join(", ")),
        format!("event.attributes.a.map(x, {}) == []", ["event.attributes.s"; 40].join(" + ")),
        format!("event.attributes.a.exists(x, {})", ["event.attributes + 1 == 1"; 20].join(" || ")),
        format!("contact.tags.exists(x, {})", ["x.contains('g 9999')"; 30].join(" || ")),
        format!("event.attributes.a.exists(x, {})", ["x < 'a'"; 30].join(" || ")),
        format!("event.attributes.a.exists(x, {})", ["event.attributes < 1"; 14].join(" || ")),
        format!("event.attributes.a.exists(x, {})", ["event.attributes + 1 == 2"; 10].join(" || ")),
        format!("event.attributes.a.exists(x, {})", ["[x][event.attributes] == 1"; 10].join(" || ")),
        format!("event.attributes.a.exists(x, {})", ["event.attributes.a[x] == 'x'"; 12].join(" || ")),
        format!("event.attributes.a.all(x, {})", ["[x, x] != [x]"; 20].join(" && ")),
        format!("event.attributes.a.all(x, {})", ["{x: x} != {}"; 20].join(" && ")),
        "event.attributes.a.map(x, {'a': event.attributes}) == []".to_owned(),
        "event.attributes.a.map(x, 'a' + event.attributes.s) == event.attributes.a".to_owned(),
        "event.attributes.a.filter(x, event.attributes == event.attributes) == []".to_owned(),
        format!("event.attributes.a.exists(x, {})", ["now.getDayOfYear('Asia/Tokyo') == x"; 25].join(" || ")),
        format!("event.attributes.a.exists(x, {})", ["string(now) == 'x'"; 25].join(" || ")),
        format!("event.attributes.a.exists(x, {})", ["string(1e308) == 'x'"; 25].join(" || ")),
        format!("event.attributes.a.exists(x, {})", ["timestamp('2026-01-31T08:30:00Z') == x"; 25].join(" || ")),
        "event.attributes.a.exists(x, event.attributes.s.contains(event.attributes.s + 'y'))".to_owned(),
        "contact.tags.exists(t, t.startsWith('vip'))".to_owned(),
        format!("contact.tags.exists(x, x in {})", "contact.tags"),
        format!("({}).exists(x, x == 1)", ["event.attributes.a"; 40].join(" + ")),
    ]
}

/// Ends of ranges, and what CEL has but conditions don't.
const ODD: [&str; 36] = [
    "now + duration('9223372036s') + duration('9223372036s') > now",
    "timestamp('9999-12-31T23:59:59Z') + duration('2562047h') > now",
    "timestamp('0001-01-01T00:00:00Z').getDayOfYear('-23:59') == 1",
    "timestamp('9999-12-31T23:59:59Z').getFullYear('+23:59') == 1",
    "timestamp(9223372036854775807) > now",
    "duration('99999999999999999999999999h') > duration('1s')",
    "-9223372036854775808 / -1 == 1",
    "-9223372036854775808 % -1 == 1",
    "0u - 1u == 0u",
    "int(1e300) == 1 || uint(-1.0) == 1u || int(0.0/0.0) == 1",
    "9223372036854775807 * 9223372036854775807 == 1",
    "99999999999999999999 == 1",
    "[1][-1] == 1 || [1][9223372036854775807] == 1 || [1][1.5] == 1",
    "string(b'\\xff\\xfe') == ''",
    "'\\ud800' == ''",
    "'\\U00110000' == ''",
    "{'a': 1, 'a': 2} == {}",
    "{[1]: 1} == {}",
    "Foo{a: 1} == 1",
    "event{a: 1} == 1",
    "[?1] == []",
    "contact.?email == ''",
    "[1].map(x, [1].map(y, y)) == []",
    "[1].map(contact, true) == []",
    "[1].exists(x.y, true)",
    "has(1)",
    "has(contact)",
    "'a'.matches('a')",
    "type(1) == int",
    "dyn(1) == 1",
    "optional.of(1).hasValue()",
    ".contact.email == ''",
    "@result == 1",
    "[1].exists(@result, true)",
    "__result__ == 1",
    "[1].all(__result__, __result__ == 1)",
];

#[test]
fn a_stored_condition_is_read_once_and_one_that_is_damaged_harms_only_itself() {
    let source = "contact.fields.city == 'Ulm' && 'vip' in contact.tags";
    let (first, second) = (Condition::stored(source, Scope::Trigger), Condition::stored(source, Scope::Trigger));
    assert!(Arc::ptr_eq(&first.0, &second.0));
    assert!(!Arc::ptr_eq(&first.0, &Condition::stored(source, Scope::Event).0));
    assert_eq!(first, Condition::parse(source, Scope::Trigger).unwrap());
    assert!(first.reads_tags());

    let damaged = Condition::stored("contact.email.matches('a')", Scope::Trigger);
    assert!(!damaged.reads_tags());
    let facts = Facts {
        event: None,
        values: None,
        contact: &contact(&json!({})),
        field_type: &field_type,
        tags: &[],
        now: NOW,
    };
    let error = damaged.holds(&facts).unwrap_err();
    assert_eq!(
        error.to_string(),
        "can't be read any more, write it anew: 1:22: matches is no function that a condition can use"
    );
}
