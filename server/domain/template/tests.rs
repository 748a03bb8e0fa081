use super::*;

/// Renders with the given values and checks that the URL parser would send exactly that.
#[track_caller]
fn render(template: &str, values: &[(&str, &str)]) -> Result<String, RenderError> {
    let template = UrlTemplate::stored(template).unwrap();
    let find = |name: &str| values.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let rendered = template.render(&find)?.into_string();
    assert_eq!(Url::parse(&rendered).unwrap().as_str(), rendered, "as parsed again");
    Ok(rendered)
}

#[track_caller]
fn check(template: &str, values: &[(&str, &str)], expected: &str) {
    assert_eq!(render(template, values).as_deref(), Ok(expected), "{template}");
}

#[test]
fn fills_placeholders_in_path_and_query() {
    check("https://x.org/a/__id__", &[("id", "7")], "https://x.org/a/7");
    check("https://x.org/__a____b__?c=__c__", &[("a", "1"), ("b", "2"), ("c", "3")], "https://x.org/12?c=3");
    check("https://x.org/__a__/__a__", &[("a", "1")], "https://x.org/1/1");
    check("https://x.org/?__k__=__v__", &[("k", "a=b"), ("v", "c&d")], "https://x.org/?a%3Db=c%26d");
    check("https://x.org?q=__a__", &[("a", "")], "https://x.org/?q=");
    check("https://x.org/__a__/b", &[("a", "")], "https://x.org//b");
    check("https://x.org/__A-b_9__", &[("A-b_9", "z")], "https://x.org/z");
    check("https://x.org/__a___", &[("a", "1")], "https://x.org/1_");
    check("https://x.org/_a_b_", &[], "https://x.org/_a_b_");
    check("https://x.org/%5F%5Fa%5f%5F", &[], "https://x.org/%5F%5Fa%5f%5F");
    check("https://x.org/%5F__a__%5F", &[("a", "1")], "https://x.org/%5F1%5F");
    check("https://x.org/__a__", &[("a", "__b__")], "https://x.org/__b__");
}

#[test]
fn encodes_all_but_unreserved_characters() {
    check("https://x.org/__a__", &[("a", "AZaz09-._~")], "https://x.org/AZaz09-._~");
    check(
        "https://x.org/?a=__a__",
        &[("a", " &=+%\r\n\t/?#[]@!$'()*,;:|\\^`{}<>\"")],
        "https://x.org/?a=%20%26%3D%2B%25%0D%0A%09%2F%3F%23%5B%5D%40%21%24%27%28%29%2A%2C%3B%3A%7C%5C%5E%60%7B%7D%3C%3E%22",
    );
    check("https://x.org/__a__", &[("a", "ä€😀")], "https://x.org/%C3%A4%E2%82%AC%F0%9F%98%80");
    check("https://x.org/__a__", &[("a", "\u{0}\u{7f}\u{85}")], "https://x.org/%00%7F%C2%85");
    check("https://x.org/__a__", &[("a", "a/b")], "https://x.org/a%2Fb");
}

#[test]
fn literals_are_sent_as_the_url_parser_spells_them() {
    check("HTTPS://EXAMPLE.org:443", &[], "https://example.org/");
    check("http://x.org:80/a", &[], "http://x.org/a");
    check("http://x.org:8080?", &[], "http://x.org:8080/?");
    check("https://müller.example/ä?ö='", &[], "https://xn--mller-kva.example/%C3%A4?%C3%B6=%27");
    check("http://0x7f.1/__a__", &[("a", "1")], "http://127.0.0.1/1");
    check("http://2130706433/", &[], "http://127.0.0.1/");
    check("http://[0:0::1]:81/", &[], "http://[::1]:81/");
    check("https://x.org/{a}\"<b>`|^;,@:!$&'()*+", &[], "https://x.org/%7Ba%7D%22%3Cb%3E%60|^;,@:!$&'()*+");
    check("https://x.org//a//__b__", &[("b", "")], "https://x.org//a//");
    check("https://x.org/a?b?c=/../__d__", &[("d", "..")], "https://x.org/a?b?c=/../..");
}

#[track_caller]
fn check_error(template: &str, values: &[(&str, &str)], expected: RenderError) {
    assert_eq!(render(template, values), Err(expected), "{template} {values:?}");
}

#[test]
fn refuses_values_that_make_dot_segments() {
    for value in [".", "..", "%2e", "%2E", "%2e%2e", ".%2E", "%2e.", "%252e", "%25252e.", "../admin", "a/../b", "..\\a"]
    {
        check_error("https://x.org/a/__v__", &[("v", value)], RenderError::DotSegment);
        check_error("https://x.org/a/__v__/b", &[("v", value)], RenderError::DotSegment);
        check_error("https://x.org/__v__?q=1", &[("v", value)], RenderError::DotSegment);
    }
    check_error("https://x.org/.__v__", &[("v", ".")], RenderError::DotSegment);
    check_error("https://x.org/.__v__", &[("v", "")], RenderError::DotSegment);
    check_error("https://x.org/__v__./b", &[("v", "%2E")], RenderError::DotSegment);
    check_error("https://x.org/%2e__v__", &[("v", ".")], RenderError::DotSegment);
    check_error("https://x.org/%252__v__", &[("v", "e")], RenderError::DotSegment);
    check_error("https://x.org/__a____b__", &[("a", "."), ("b", ".")], RenderError::DotSegment);
    check_error("https://x.org/__a____b__", &[("a", "%"), ("b", "2e")], RenderError::DotSegment);
    check_error("https://x.org/__a____b__", &[("a", "."), ("b", "")], RenderError::DotSegment);
    check_error("https://x.org/a%2F__v__", &[("v", "..")], RenderError::DotSegment);
}

#[test]
fn keeps_dots_that_make_no_segment() {
    check("https://x.org/__v__", &[("v", "...")], "https://x.org/...");
    check("https://x.org/__v__", &[("v", "a.b")], "https://x.org/a.b");
    check("https://x.org/.__v__", &[("v", "well-known")], "https://x.org/.well-known");
    check("https://x.org/__v__", &[("v", ". ")], "https://x.org/.%20");
    check("https://x.org/__v__", &[("v", "100%")], "https://x.org/100%25");
    check("https://x.org/v__v__", &[("v", "..")], "https://x.org/v..");
    check("https://x.org/?v=__v__", &[("v", "..")], "https://x.org/?v=..");
    check("https://x.org?__v__", &[("v", "../..")], "https://x.org/?..%2F..");
}

#[test]
fn refuses_missing_values_and_long_urls() {
    let missing = RenderError::MissingValue { name: "b".to_owned() };
    check_error("https://x.org/__a__/__b__", &[("a", "1")], missing);
    // "https://x.org/" is 14 bytes.
    check("https://x.org/__v__", &[("v", &"x".repeat(7_986))], &format!("https://x.org/{}", "x".repeat(7_986)));
    check_error("https://x.org/__v__", &[("v", &"x".repeat(7_987))], RenderError::UrlTooLarge);
    check_error("https://x.org/__v__", &[("v", &"ä".repeat(1_332))], RenderError::UrlTooLarge);
    check_error("https://x.org/__v__", &[("v", &"x".repeat(65_536))], RenderError::UrlTooLarge);
    // All of it would be decoded again and again if decoding had no bound.
    let nested = format!("%{}", "25".repeat(3_990));
    check("https://x.org/__v__", &[("v", &nested)], &format!("https://x.org/%25{}", "25".repeat(3_990)));
}

#[track_caller]
fn check_append(template: &str, pairs: &str, expected: &str) {
    let mut url = UrlTemplate::stored(template).unwrap().render(&|_| Some("")).unwrap();
    url.append_query(pairs).unwrap();
    assert_eq!(url.as_str(), expected);
}

#[test]
fn appends_to_the_query() {
    check_append("https://x.org", "a=1", "https://x.org/?a=1");
    check_append("https://x.org/b", "", "https://x.org/b");
    check_append("https://x.org/b?", "a=1", "https://x.org/b?a=1");
    check_append("https://x.org/b?c", "a=1", "https://x.org/b?c&a=1");
    check_append("https://x.org/b?c=2&", "a=1", "https://x.org/b?c=2&a=1");
    let mut url = UrlTemplate::stored("https://x.org/").unwrap().render(&|_| None).unwrap();
    assert_eq!(url.append_query(&"x".repeat(7_986)), Err(RenderError::UrlTooLarge));
}

const NAMES: [&str; 6] = ["a", "b", "c", "v", "email", "first_name"];

fn hint(meant: Option<&str>) -> Hint {
    Hint { meant: meant.map(str::to_owned), names: (NAMES.map(str::to_owned).to_vec(), 0) }
}

#[track_caller]
fn check_refused(template: &str, expected: &[(usize, TemplateProblem)]) {
    let errors = UrlTemplate::parse(template, &NAMES).unwrap_err();
    let found: Vec<_> = errors.into_iter().map(|error| (error.offset, error.problem)).collect();
    assert_eq!(found, expected, "{template:?}");
}

fn named(name: &str, meant: Option<&str>) -> TemplateProblem {
    TemplateProblem::Name { name: name.to_owned(), hint: hint(meant) }
}

fn misplaced(name: &str) -> TemplateProblem {
    TemplateProblem::Misplaced { name: name.to_owned() }
}

#[test]
fn refuses_malformed_placeholders() {
    use TemplateProblem::Unterminated;
    let unknown = TemplateProblem::Unknown { name: "nobody".to_owned(), hint: hint(None) };
    check_refused("https://x.org/__nobody__", &[(14, unknown.clone())]);
    check_refused("https://x.org/___a___", &[(14, named("_a", Some("a")))]);
    check_refused("https://x.org/__a__b__", &[(20, Unterminated)]);
    check_refused("https://x.org/__a___b__", &[(21, Unterminated)]);
    check_refused("https://x.org/x___a__", &[(15, named("_a", Some("a")))]);
    check_refused("https://x.org/__a", &[(14, Unterminated)]);
    check_refused("https://x.org/__a_", &[(14, Unterminated)]);
    check_refused("https://x.org/__", &[(14, Unterminated)]);
    check_refused("https://x.org/____", &[(14, named("", None))]);
    check_refused("https://x.org/__-a__", &[(14, named("-a", Some("a")))]);
    check_refused("https://x.org/__a-__", &[(14, named("a-", Some("a")))]);
    check_refused("https://x.org/__a--b__", &[(14, named("a--b", None))]);
    check_refused("https://x.org/__a_-b__", &[(14, named("a_-b", None))]);
    check_refused("https://x.org/__größe__", &[(14, named("größe", None))]);
    check_refused("https://x.org/__a.b__", &[(14, named("a.b", None))]);
    check_refused("https://x.org/__a/b__c__", &[(14, Unterminated)]);
    check_refused("https://x.org/?__a=1&b=__c__", &[(15, Unterminated)]);
    check_refused("https://x.org/__nobody__?__nobody__", &[(14, unknown.clone()), (25, unknown)]);
}

#[track_caller]
fn check_hint(template: &str, names: &[&str], expected: &str) {
    let errors = UrlTemplate::parse(template, names).unwrap_err();
    assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
}

#[test]
fn says_which_placeholder_was_probably_meant() {
    let no_name = "can't be the name of a placeholder, which is letters and digits with single _ or - inside; \
                   a literal _ beside a placeholder is written %5F";
    let names = ["email", "first_name"];
    check_hint(
        "https://x.org/__ email __",
        &names,
        &format!("at byte 14: \" email \" {no_name}; did you mean `__email__`? (there are: email, first_name)"),
    );
    let unknown =
        |name: &str, hint: &str| format!("at byte 14: there is no value called {name:?} to fill the placeholder{hint}");
    let there_are = " (there are: email, first_name)";
    for (name, meant) in
        [("E-Mail", "email"), ("FirstName", "first_name"), ("fist_name", "first_name"), ("emial", "email")]
    {
        let expected = unknown(name, &format!("; did you mean `__{meant}__`?{there_are}"));
        check_hint(&format!("https://x.org/__{name}__"), &names, &expected);
    }
    check_hint("https://x.org/__city__", &names, &unknown("city", there_are));
    check_hint("https://x.org/__city__", &[], &unknown("city", ""));
    // What can't stand in a URL isn't proposed.
    check_hint("https://x.org/__email__", &["e-mail address", "E Mail"], &unknown("email", ""));
}

#[test]
fn tells_few_of_many_names() {
    let names: Vec<String> = (10..110).map(|number| format!("parameter{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let error = UrlTemplate::parse("https://x.org/__nobody__", &names).unwrap_err()[0].to_string();
    assert!(error.ends_with("parameter18, parameter19, and 90 more)"), "{error}");
}

#[test]
fn refuses_hosts_without_a_name() {
    for host in [".", "..", "...", "x..org", ".x.org", "x.org..", "%2e%2E"] {
        let reason = "an empty part between dots".to_owned();
        check_refused(&format!("http://{host}/"), &[(7, TemplateProblem::Host { reason })]);
        // One that was written before is read still.
        assert!(UrlTemplate::stored(&format!("http://{host}/")).is_ok());
    }
    assert!(UrlTemplate::parse("http://x.org./", &[]).is_ok());
}

#[test]
fn refuses_placeholders_outside_path_and_query() {
    use TemplateProblem::{Fragment, Scheme, UserInfo};
    check_refused("__s__://x.org/", &[(0, Scheme), (0, misplaced("s"))]);
    check_refused("__url__", &[(0, Scheme), (0, misplaced("url"))]);
    check_refused("https://__h__/", &[(8, misplaced("h"))]);
    check_refused("https://a.__h__.org?a=1", &[(10, misplaced("h"))]);
    check_refused("https://x.org:__p__/", &[(14, misplaced("p"))]);
    check_refused("https://__u__:pw@x.org/", &[(8, UserInfo), (8, misplaced("u"))]);
    check_refused("https://x.org/#__f__", &[(14, Fragment), (15, misplaced("f"))]);
}

#[test]
fn refuses_what_is_no_plain_http_url() {
    use TemplateProblem::{Character, DotSegment, Fragment, PercentEncoding, Port, Scheme, UserInfo};
    let host = |reason: &str| TemplateProblem::Host { reason: reason.to_owned() };
    for text in [
        "",
        "x.org",
        "ftp://x.org",
        "http:x.org",
        "http:/x.org",
        "//x.org",
        "javascript:a",
        "file:///etc",
        "httpss://x",
    ] {
        check_refused(text, &[(0, Scheme)]);
    }
    check_refused("http://", &[(7, host("empty host"))]);
    check_refused("http:///x.org/a", &[(7, host("empty host"))]);
    check_refused("http://?a", &[(7, host("empty host"))]);
    check_refused("http://[::1", &[(7, host("invalid IPv6 address"))]);
    check_refused("http://1.2.3.256/", &[(7, host("invalid IPv4 address"))]);
    check_refused("http://x.org:65536/", &[(7, host("invalid port number"))]);
    check_refused("http://x.org:0/", &[(7, Port)]);
    check_refused("https://a:b@x.org/", &[(8, UserInfo)]);
    check_refused("https://@x.org/", &[(8, UserInfo)]);
    check_refused("https://x.org/#", &[(14, Fragment)]);
    check_refused("https://x.org\\@evil.org/", &[(13, Character)]);
    check_refused("https://x.org/a b", &[(15, Character)]);
    check_refused("https://x.org/a\n", &[(15, Character)]);
    check_refused("https://x.org/_\t_a__", &[(15, Character), (18, TemplateProblem::Unterminated)]);
    check_refused("https://x.org/%", &[(14, PercentEncoding)]);
    check_refused("https://x.org/%2", &[(14, PercentEncoding)]);
    check_refused("https://x.org/%2__v__", &[(14, PercentEncoding)]);
    check_refused("https://x.org/?a=%zz%20", &[(17, PercentEncoding)]);
    check_refused("https://x.org/a/../b", &[(16, DotSegment)]);
    check_refused("https://x.org/__v__/%2E%2e/b/.", &[(20, DotSegment), (29, DotSegment)]);
    let long = format!("https://x.org/{}", "a".repeat(4_083));
    check_refused(&long, &[(0, TemplateProblem::TooLong { bytes: 4_097 })]);
}

#[test]
fn reports_all_errors_but_not_endlessly() {
    use TemplateProblem::{Fragment, PercentEncoding, UserInfo};
    let unknown = TemplateProblem::Unknown { name: "nobody".to_owned(), hint: hint(None) };
    check_refused(
        "https://a@x.org/%?__nobody__#__",
        &[(8, UserInfo), (16, PercentEncoding), (18, unknown), (28, Fragment), (29, TemplateProblem::Unterminated)],
    );
    let errors = UrlTemplate::stored(&format!("https://x.org/{}", " ".repeat(100))).unwrap_err();
    assert_eq!(errors.len(), 20);
}

#[track_caller]
fn check_origin(template: &str, expected: &str) {
    assert_eq!(UrlTemplate::stored(template).unwrap().origin().to_string(), expected);
}

#[test]
fn tells_the_origin() {
    check_origin("https://X.org/a", "https://x.org:443");
    check_origin("http://x.org", "http://x.org:80");
    check_origin("http://x.org:443", "http://x.org:443");
    check_origin("https://[::1]:8443/", "https://[::1]:8443");
    check_origin("http://0177.0.0.1", "http://127.0.0.1:80");
    check_origin("http://my_host", "http://my_host:80");
    check_origin("http://%78.org/", "http://x.org:80");
}

#[test]
fn lists_its_placeholders_and_source() {
    let template = UrlTemplate::stored("HTTPS://x.org/__b__?__a__&__b__").unwrap();
    assert_eq!(template.placeholders().collect::<Vec<_>>(), ["b", "a", "b"]);
    assert_eq!(template.as_str(), "HTTPS://x.org/__b__?__a__&__b__");
    assert_eq!(format!("{template:?}"), "UrlTemplate(https://x.org:443, 31 bytes)");
}

/// Walks through texts of the characters that matter, so that no combination of them panics, and that whatever is
/// accepted is sent as rendered.
#[test]
fn whatever_is_accepted_is_sent_as_rendered() {
    const ALPHABET: [&str; 12] = ["_", "__", "a", ".", "%2e", "%2F", "/", "?", "&", "=", "ä", "-"];
    let mut seed: u64 = 7;
    let mut next = move |bound: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % bound
    };
    let mut rendered_count = 0;
    for _ in 0..20_000 {
        let len = next(9);
        let tail: String = (0..len).map(|_| ALPHABET[next(ALPHABET.len())]).collect();
        let len = next(4);
        let value: String = (0..len).map(|_| ALPHABET[next(ALPHABET.len())]).collect();
        let Ok(template) = UrlTemplate::stored(&format!("https://x.org/{tail}")) else {
            continue;
        };
        let Ok(url) = template.render(&|_| Some(value.as_str())) else {
            continue;
        };
        assert_eq!(Url::parse(url.as_str()).unwrap().as_str(), url.as_str());
        rendered_count += 1;
    }
    assert!(rendered_count > 1_000, "{rendered_count}");
}
