//! Bodies as people read them.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde::de::IgnoredAny;

/// What is shown of a long body.
const MAX_SHOWN_BYTES: usize = 16 * 1024;
const INDENT: &str = "  ";

/// A body, ready to be shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Nothing.
    Empty,
    /// Names and values of a form or a query.
    Pairs(Vec<(String, String)>),
    /// Lines, free of control characters.
    Text(String),
    /// So many bytes that aren't text.
    Binary(usize),
}

/// A body as its content type asks for, as far as it holds what it promises.
pub(crate) fn shown(headers: &HeaderMap, body: &[u8]) -> Shown {
    if body.is_empty() {
        return Shown::Empty;
    }
    let Ok(text) = std::str::from_utf8(body) else {
        return Shown::Binary(body.len());
    };
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media_type == "application/x-www-form-urlencoded" {
        return pairs(text);
    }
    let is_json = media_type == "application/json" || media_type.ends_with("+json");
    if is_json && serde_json::from_str::<IgnoredAny>(text).is_ok() {
        return Shown::Text(printable_lines(cut(&indented(text))));
    }
    Shown::Text(printable_lines(cut(text)))
}

/// The names and values of a form body or a query string.
pub(crate) fn pairs(text: &str) -> Shown {
    let pairs: Vec<_> = form_urlencoded::parse(text.as_bytes())
        .map(|(name, value)| (printable(&name).into_owned(), printable(cut(&value)).into_owned()))
        .collect();
    if pairs.is_empty() { Shown::Empty } else { Shown::Pairs(pairs) }
}

/// Text that can do nothing to a terminal: control characters, and those that turn the direction of writing, are
/// written as escapes.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_dangerous) {
        return Cow::Borrowed(text);
    }
    let escape = |character: char| {
        if is_dangerous(character) { character.escape_default().to_string() } else { character.to_string() }
    };
    Cow::Owned(text.chars().map(escape).collect())
}

fn printable_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(printable).collect();
    lines.join("\n")
}

fn is_dangerous(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The first part of a text.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_SHOWN_BYTES)).unwrap_or(text)
}

/// JSON with line breaks and indents. Names, numbers and strings stay as they were written, in their order.
fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut characters = json.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                out.push('"');
                while let Some(inner) = characters.next() {
                    out.push(inner);
                    match inner {
                        '\\' => out.extend(characters.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '{' | '[' => {
                out.push(character);
                while characters.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(close) = characters.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    break_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                break_line(&mut out, depth);
                out.push(character);
            }
            ',' => {
                out.push(',');
                break_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ if character.is_ascii_whitespace() => {}
            _ => out.push(character),
        }
    }
    out
}

fn break_line(out: &mut String, depth: usize) {
    out.push('\n');
    // A document may nest deeper than a line is wide.
    out.extend(std::iter::repeat_n(INDENT, depth.min(32)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(content_type: &str, body: &[u8], expected: &Shown) {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
        assert_eq!(&shown(&headers, body), expected);
    }

    fn text(text: &str) -> Shown {
        Shown::Text(text.into())
    }

    #[test]
    fn bodies() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        check("application/json", b"", &Shown::Empty);
        check("application/json", b"{\"b\":1.10,\"a\":[]}", &text("{\n  \"b\": 1.10,\n  \"a\": []\n}"));
        check(
            "application/cloudevents+json; charset=utf-8",
            br#"{"a":{"b":["x, \"y\": {",null]}}"#,
            &text("{\n  \"a\": {\n    \"b\": [\n      \"x, \\\"y\\\": {\",\n      null\n    ]\n  }\n}"),
        );
        check("application/json", b"{oops", &text("{oops"));
        check(
            "application/x-www-form-urlencoded",
            "email=ada%40example.com&name=Zo%C3%AB+B&empty=".as_bytes(),
            &Shown::Pairs(vec![pair("email", "ada@example.com"), pair("name", "Zoë B"), pair("empty", "")]),
        );
        check("text/plain", b"a\x1b[2J\nb\r\nc\t", &text("a\\u{1b}[2J\nb\nc\\t"));
        check("text/plain", "right\u{202e}left".as_bytes(), &text("right\\u{202e}left"));
        check("text/plain", "🦊 ❤️".as_bytes(), &text("🦊 ❤️"));
        check("image/png", &[0x89, 0x50, 0xff], &Shown::Binary(3));
    }

    #[test]
    fn long_bodies_are_cut_between_characters() {
        let long = "é".repeat(MAX_SHOWN_BYTES);
        check("text/plain", long.as_bytes(), &text(&"é".repeat(MAX_SHOWN_BYTES / 2)));
    }
}
