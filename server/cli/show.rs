//! How requests are shown to people.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anstyle::{AnsiColor, Style};
use http::{HeaderMap, Method};
use taghook::domain::time::Micros;
use taghook_client::webhook;

use super::body::{self, Shown};
use super::receiver::Received;

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
pub(crate) const NAME: Style = AnsiColor::Cyan.on_default();

/// Headers that tell nothing.
const DULL: [&str; 3] = ["host", "content-length", "accept"];

/// What became of a request's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Signed with one of the secrets.
    Valid,
    /// Not signed with any of them, or at another time.
    Invalid(webhook::VerifyError),
    /// It wasn't checked, and why.
    Unchecked(&'static str),
}

/// Which headers are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Headers {
    /// All but those that tell nothing.
    All,
    /// Those of Standard Webhooks, and the content type.
    Telling,
}

impl Verdict {
    /// Checks a request against secrets.
    pub(crate) fn of(received: &Received, secrets: &[String]) -> Self {
        let Ok(body) = &received.body else {
            return Self::Unchecked("there is no whole body");
        };
        let is_get = received.method == Method::GET;
        let signed = if is_get { webhook::signed_query(&received.uri) } else { body.as_ref() };
        let mut verdict = Self::Unchecked("no secret was given");
        for secret in secrets {
            match webhook::verify(secret, &received.headers, signed, system_time(received.time), webhook::TOLERANCE) {
                Ok(()) => return Self::Valid,
                // Of several refusals, one that isn't "another secret" tells most.
                Err(webhook::VerifyError::NoMatch) if matches!(verdict, Self::Invalid(_)) => {}
                Err(error) => verdict = Self::Invalid(error),
            }
        }
        verdict
    }
}

/// Writes a request: its line, its headers, its body, and what became of its signature.
///
/// # Errors
///
/// What `out` fails with.
pub(crate) fn request(out: &mut impl Write, received: &Received, headers: Headers, verdict: Verdict) -> io::Result<()> {
    let (method, uri) = (&received.method, received.uri.to_string());
    writeln!(out, "{BOLD}{method} {}{BOLD:#}", body::printable(&uri))?;
    let width = names(&received.headers, headers).map(str::len).max().unwrap_or_default();
    for name in names(&received.headers, headers) {
        for value in received.headers.get_all(name) {
            let value = String::from_utf8_lossy(value.as_bytes());
            writeln!(out, "{NAME}{name:<width$}{NAME:#}  {}", body::printable(&value))?;
        }
    }
    match &received.body {
        Ok(body) if body.is_empty() && received.uri.query().is_some() => {
            write_body(out, &body::pairs(received.uri.query().unwrap_or_default()))?;
        }
        Ok(body) => write_body(out, &body::shown(&received.headers, body))?,
        Err(error) => writeln!(out, "\n{BAD}{error}{BAD:#}")?,
    }
    write_verdict(out, verdict)
}

fn write_body(out: &mut impl Write, body: &Shown) -> io::Result<()> {
    match body {
        Shown::Empty => Ok(()),
        Shown::Pairs(pairs) => {
            writeln!(out)?;
            let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
            pairs.iter().try_for_each(|(name, value)| writeln!(out, "{NAME}{name:<width$}{NAME:#} = {value}"))
        }
        Shown::Text(text) => writeln!(out, "\n{text}"),
        Shown::Binary(length) => writeln!(out, "\n{DIM}{length} bytes that aren't text{DIM:#}"),
    }
}

fn write_verdict(out: &mut impl Write, verdict: Verdict) -> io::Result<()> {
    match verdict {
        Verdict::Valid => writeln!(out, "\n{GOOD}✓ signature valid{GOOD:#}"),
        Verdict::Invalid(error) => writeln!(out, "\n{BAD}✗ signature invalid: {error}{BAD:#}"),
        Verdict::Unchecked(why) => writeln!(out, "\n{DIM}signature not checked: {why}{DIM:#}"),
    }
}

/// The names of the headers to show, those of Standard Webhooks first.
fn names(all: &HeaderMap, which: Headers) -> impl Iterator<Item = &str> {
    let signed = [webhook::HEADER_ID, webhook::HEADER_TIMESTAMP, webhook::HEADER_SIGNATURE];
    let first = signed.into_iter().filter(|name| all.contains_key(*name));
    let others = all.keys().map(http::HeaderName::as_str).filter(move |name| {
        let is_shown = match which {
            Headers::All => !DULL.contains(name),
            Headers::Telling => *name == "content-type",
        };
        is_shown && !signed.contains(name)
    });
    first.chain(others)
}

fn system_time(time: Micros) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(time.0).unwrap_or_default())
}
