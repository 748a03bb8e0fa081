use super::*;

#[test]
fn standard_fields_are_stable() {
    let numbers = STANDARD_FIELDS.map(|field| field.number);
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    for field in STANDARD_FIELDS {
        assert_eq!(FieldKey::parse(field.key).unwrap().as_str(), field.key);
        assert_eq!(standard_field(field.key), Some(&field));
    }
    assert_eq!(standard_field("birthday").unwrap().field_type, FieldType::Date);
    assert_eq!(standard_field("lead_value").unwrap().field_type, FieldType::Decimal);
    assert_eq!(standard_field("website").unwrap().field_type, FieldType::Url);
    assert_eq!(standard_field("email"), None);
}

#[track_caller]
fn check_key(text: &str, expected: Result<(), FieldKeyError>) {
    assert_eq!(FieldKey::parse_custom(text).map(|_| ()), expected, "{text}");
}

#[test]
fn checks_keys() {
    check_key("a", Ok(()));
    check_key("shoe_size2", Ok(()));
    check_key("shoe_size_2", Err(FieldKeyError::DigitAfterUnderscore));
    check_key(&"k".repeat(63), Ok(()));
    check_key("", Err(FieldKeyError::Length { bytes: 0 }));
    check_key(&"k".repeat(64), Err(FieldKeyError::Length { bytes: 64 }));
    for bad in ["1a", "_a", "A", "a-b", "a b", "größe", "a.b"] {
        check_key(bad, Err(FieldKeyError::Character));
    }
    check_key("a__b", Err(FieldKeyError::Underscore));
    check_key("a_", Err(FieldKeyError::Underscore));
    check_key("first_name", Err(FieldKeyError::Reserved));
    check_key("email", Err(FieldKeyError::Reserved));
    assert_eq!(FieldKey::parse("first_name").unwrap().as_str(), "first_name");
}

/// The value is read, rendered, stored and read back.
#[track_caller]
fn check(field_type: FieldType, text: &str, rendered: &str, stored: &str) {
    let value = FieldValue::parse(field_type, text).unwrap();
    assert_eq!(value.field_type(), field_type);
    assert_eq!(value.render().text, rendered, "{text:?} rendered");
    let json = value.to_stored();
    assert_eq!(json.to_string(), stored, "{text:?} stored");
    assert_eq!(FieldValue::from_stored(field_type, &json), Some(value.clone()), "{text:?} read back");
    assert_eq!(render_stored(field_type, &json), Some(value.render()), "{text:?} rendered from the store");
}

#[test]
fn reads_and_renders_every_type() {
    check(FieldType::Text, " a & b=c+d% 😀 ", " a & b=c+d% 😀 ", "\" a & b=c+d% 😀 \"");
    check(FieldType::Paragraph, "a\r\n\tb\u{7}", "a\r\n\tb\u{7}", "\"a\\r\\n\\tb\\u0007\"");
    check(FieldType::Html, "<b>\n</b>", "<b>\n</b>", "\"<b>\\n</b>\"");
    check(FieldType::Email, " Ada@Example.COM ", "Ada@Example.COM", "\"Ada@Example.COM\"");
    check(FieldType::Url, " HTTPS://Example.com/ä?x#y ", "HTTPS://Example.com/ä?x#y", "\"HTTPS://Example.com/ä?x#y\"");
    check(FieldType::Integer, "+007", "7", "7");
    check(FieldType::Integer, "-0", "0", "0");
    check(FieldType::Integer, "-9223372036854775808", "-9223372036854775808", "-9223372036854775808");
    check(FieldType::Integer, "9223372036854775807", "9223372036854775807", "9223372036854775807");
    check(FieldType::Decimal, "+01.50", "1.50", "\"1.50\"");
    check(FieldType::Date, "2024-02-29", "2024-02-29", "\"2024-02-29\"");
    check(FieldType::Date, "0001-01-01", "0001-01-01", "\"0001-01-01\"");
    check(FieldType::Date, "9999-12-31", "9999-12-31", "\"9999-12-31\"");
    check(FieldType::Time, "08:05", "08:05:00", "\"08:05:00\"");
    check(FieldType::Time, "23:59:59", "23:59:59", "\"23:59:59\"");
    check(FieldType::Datetime, "2026-01-31T08:30:00+02:00", "2026-01-31T06:30:00Z", "\"2026-01-31T06:30:00Z\"");
    check(FieldType::Datetime, "2026-01-31T08:30:00.25Z", "2026-01-31T08:30:00.250Z", "\"2026-01-31T08:30:00.250Z\"");
    check(FieldType::Boolean, " TRUE ", "true", "true");
    check(FieldType::Boolean, "false", "false", "false");
}

#[test]
fn numbers_and_booleans_are_native_in_json() {
    let native = FieldType::ALL.iter().copied().filter(|field_type| is_json_native(*field_type));
    assert_eq!(native.collect::<Vec<_>>(), [FieldType::Integer, FieldType::Decimal, FieldType::Boolean]);
}

#[track_caller]
fn check_decimal(text: &str, expected: Option<&str>) {
    assert_eq!(Decimal::parse(text).as_ref().map(Decimal::as_str), expected, "{text}");
    if let Some(canonical) = expected {
        assert_eq!(Decimal::parse(canonical).unwrap().as_str(), canonical);
        serde_json::from_str::<serde_json::Number>(canonical).unwrap();
    }
}

#[test]
fn decimals_stay_exact() {
    check_decimal("0", Some("0"));
    check_decimal("-0", Some("0"));
    check_decimal("-0.00", Some("0.00"));
    check_decimal(".5", Some("0.5"));
    check_decimal("-.5", Some("-0.5"));
    check_decimal("0001.10", Some("1.10"));
    check_decimal("0.1", Some("0.1"));
    check_decimal("9999999999999999999999999999", Some("9999999999999999999999999999"));
    check_decimal("-12345678901234.56789012345678", Some("-12345678901234.56789012345678"));
    check_decimal("0.0000000000000000000000000001", Some("0.0000000000000000000000000001"));
    check_decimal("99999999999999999999999999999", None);
    check_decimal("12345678901234.567890123456789", None);
    check_decimal("0.00000000000000000000000000001", None);
    for bad in ["", "-", "+", ".", "5.", "-.", "1e3", "1,5", "1 000", "--1", "+-1", "1.2.3", "NaN", "inf", "٣", "0x1"]
    {
        check_decimal(bad, None);
    }
}

#[track_caller]
fn check_refused(field_type: FieldType, text: &str, message: &str) {
    let error = FieldValue::parse(field_type, text).unwrap_err();
    assert_eq!(error.to_string(), message, "{text:?}");
}

#[test]
fn errors_say_what_is_allowed() {
    check_refused(FieldType::Text, "", "is empty");
    check_refused(FieldType::Date, "  ", "is empty");
    check_refused(FieldType::Text, "a\nb", "must not have the control character U+000A, which stands at byte 1");
    check_refused(FieldType::Text, "ä\u{0}", "must not have the control character U+0000, which stands at byte 2");
    check_refused(FieldType::Text, "\u{85}", "must not have the control character U+0085, which stands at byte 0");
    check_refused(FieldType::Html, "a\0", "must not have the control character U+0000, which stands at byte 1");
    check_refused(FieldType::Boolean, "secret", "must be true or false; the 6 bytes given are not");
    check_refused(FieldType::Email, "secret", "must be local@domain; has no @");
    check_refused(FieldType::Url, "example.com", "must be an absolute http or https URL; the 11 bytes given are not");
}

#[test]
fn limits_lengths() {
    let limits = [(FieldType::Text, 4_096), (FieldType::Paragraph, 65_536), (FieldType::Html, 65_536)];
    for (field_type, limit) in limits {
        assert!(FieldValue::parse(field_type, &"x".repeat(limit)).is_ok());
        let error = FieldValue::parse(field_type, &"x".repeat(limit + 1));
        assert_eq!(error, Err(ValueError::TooLong { limit, bytes: limit + 1 }));
    }
    let url = format!("http://x/{}", "y".repeat(2_048 - 9));
    assert!(FieldValue::parse(FieldType::Url, &url).is_ok());
    assert!(FieldValue::parse(FieldType::Url, &format!("{url}y")).is_err());
}

#[test]
fn refuses_malformed_values() {
    let cases: [(FieldType, &[&str]); 6] = [
        (FieldType::Integer, &["1.0", "1e3", "0x1", "9223372036854775808", "1 000", "--1", "١"]),
        (
            FieldType::Date,
            &[
                "2023-02-29",
                "0000-01-01",
                "2024-1-01",
                "20240101",
                "2024-01-01T00:00:00Z",
                "+2024-01-01",
                "2024-13-01",
                "2024-00-10",
                "2024-01-00",
                "10000-01-01",
                "01.02.2024",
                "-001-01-01",
            ],
        ),
        (FieldType::Time, &["24:00", "12:60", "12:00:60", "1:00", "12", "12:00:00.5", "12:00:00Z", "12:00:00:00"]),
        (FieldType::Datetime, &["2026-01-31", "2026-01-31T08:30:00", "2026-01-31T08:30Z", "yesterday"]),
        (FieldType::Boolean, &["1", "0", "yes", "t"]),
        (
            FieldType::Url,
            &[
                "http:x",
                "//x.org",
                "ftp://x.org",
                "javascript:alert(1)",
                "http://",
                "http://a b",
                "/x",
                "https://x.org/a b",
                "http://[::1",
                "http://x.org:99999",
                "mailto:a@b",
            ],
        ),
    ];
    for (field_type, texts) in cases {
        for text in texts {
            assert!(FieldValue::parse(field_type, text).is_err(), "{text:?}");
        }
    }
}

#[test]
fn an_empty_text_clears() {
    assert_eq!(FieldValue::parse_or_clear(FieldType::Text, ""), Ok(None));
    assert_eq!(FieldValue::parse_or_clear(FieldType::Integer, " \t"), Ok(None));
    let space = FieldValue::parse_or_clear(FieldType::Text, " ");
    assert_eq!(space, Ok(Some(FieldValue::Text(" ".to_owned()))));
    assert!(FieldValue::parse_or_clear(FieldType::Integer, "x").is_err());
}

#[test]
fn stored_values_of_another_type_are_refused() {
    assert_eq!(FieldValue::from_stored(FieldType::Integer, &serde_json::json!("x")), None);
    assert_eq!(FieldValue::from_stored(FieldType::Integer, &serde_json::json!(1.5)), None);
    assert_eq!(FieldValue::from_stored(FieldType::Text, &serde_json::json!(null)), None);
    assert_eq!(render_stored(FieldType::Text, &serde_json::json!({})), None);
    assert_eq!(render_stored(FieldType::Text, &serde_json::json!("")), None);
}

#[test]
fn debug_output_hides_values() {
    let value = FieldValue::parse(FieldType::Text, "secret").unwrap();
    assert_eq!(format!("{value:?}"), "FieldValue(TEXT, 6 bytes)");
    assert_eq!(format!("{:?}", value.render()), "RenderedValue(6 bytes, native: false)");
}
