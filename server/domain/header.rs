//! The custom HTTP headers of a webhook.

use serde::{Deserialize, Serialize};

/// Longest name of a header, in bytes.
pub const MAX_NAME_BYTES: usize = 100;
/// Longest value of a header, in bytes.
pub const MAX_VALUE_BYTES: usize = 4_096;

/// Headers that the sender writes itself, or that belong to one connection (RFC 9110, section 7.6.1).
const RESERVED: [&str; 15] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "http2-settings",
];
/// The signature's own, and those between a client and its proxy.
const RESERVED_PREFIXES: [&str; 2] = ["webhook-", "proxy-"];
/// Headers that carry credentials, whatever the caller says.
const ALWAYS_SENSITIVE: [&str; 2] = ["authorization", "cookie"];

/// A custom header. The value of a sensitive one is kept encrypted, apart from the rest.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The name, in lower case.
    pub name: String,
    /// The value; empty where it isn't known.
    pub value: String,
    /// Whether the value is never shown again.
    #[serde(default)]
    pub sensitive: bool,
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Header").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a header is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The name isn't a token.
    #[error(
        "the name must be 1 to 100 of the characters that RFC 9110 allows in a token: letters, digits and !#$%&'*+-.^_`|~"
    )]
    Name,
    /// The sender writes it.
    #[error("`{0}` is written by the sender or belongs to one connection; it can't be set")]
    Reserved(String),
    /// The value isn't allowed.
    #[error(
        "the value must be up to 4,096 bytes of visible ASCII, spaces and tabs, neither starting nor ending with white space"
    )]
    Value,
}

impl Header {
    /// Makes a header; the name is put in lower case.
    ///
    /// # Errors
    ///
    /// Those of [`Header::parse_name`], then those of [`Header::check_value`].
    pub fn parse(name: &str, value: &str, sensitive: bool) -> Result<Self, HeaderError> {
        let name = Self::parse_name(name)?;
        Self::check_value(value)?;
        let sensitive = sensitive || ALWAYS_SENSITIVE.contains(&name.as_str());
        Ok(Self { name, value: value.to_owned(), sensitive })
    }

    /// A name in lower case.
    ///
    /// # Errors
    ///
    /// It isn't a token, or is reserved.
    pub fn parse_name(name: &str) -> Result<String, HeaderError> {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if !(1..=MAX_NAME_BYTES).contains(&name.len()) || !name.bytes().all(is_token) {
            return Err(HeaderError::Name);
        }
        let name = name.to_ascii_lowercase();
        let is_reserved = |prefix: &str| name.starts_with(prefix);
        if RESERVED.contains(&name.as_str()) || RESERVED_PREFIXES.into_iter().any(is_reserved) {
            return Err(HeaderError::Reserved(name));
        }
        Ok(name)
    }

    /// Checks a value.
    ///
    /// # Errors
    ///
    /// It is too long or has what HTTP forbids, as a line break.
    pub fn check_value(value: &str) -> Result<(), HeaderError> {
        let is_allowed = |byte: u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
        if value.len() > MAX_VALUE_BYTES || !value.bytes().all(is_allowed) || value.trim() != value {
            return Err(HeaderError::Value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, value: &str, expected: &Result<(&str, bool), HeaderError>) {
        let header = Header::parse(name, value, false);
        let actual = header.as_ref().map(|header| (header.name.as_str(), header.sensitive)).map_err(Clone::clone);
        assert_eq!(&actual, expected, "{name:?}: {value:?}");
    }

    #[test]
    fn headers_are_tokens_and_visible_text() {
        check("X-Key", "a b\tc", &Ok(("x-key", false)));
        check("x-empty", "", &Ok(("x-empty", false)));
        check("Authorization", "Bearer x", &Ok(("authorization", true)));
        for name in ["", "a b", "a:b", "ä", "a\r\nb", "a\n", "(x)"] {
            check(name, "v", &Err(HeaderError::Name));
        }
        for value in ["a\r\nx: y", "a\nb", "a\0", "ä", " a", "a\t", "\u{7f}"] {
            check("x", value, &Err(HeaderError::Value));
        }
        check("x", &"v".repeat(4_096), &Ok(("x", false)));
        check("x", &"v".repeat(4_097), &Err(HeaderError::Value));
    }

    #[test]
    fn reserved_headers_are_refused_in_any_case() {
        for name in [
            "Host",
            "CONTENT-LENGTH",
            "transfer-encoding",
            "Connection",
            "webhook-id",
            "Webhook-Anything",
            "TraceParent",
            "Proxy-Authorization",
        ] {
            check(name, "v", &Err(HeaderError::Reserved(name.to_ascii_lowercase())));
        }
    }
}
