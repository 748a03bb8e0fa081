//! The bounds of the configuration's fields.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use http::HeaderValue;

use super::{Config, LINKS_OFF};
use crate::dispatch::egress::PortSet;
use crate::{store, telemetry};

/// What is wrong with a field: its key, and what is allowed.
pub(super) type Problem = (&'static str, String);

/// Every field that is out of its bounds.
pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let mut found = Found(Vec::new());
    let Config { database, web, limits, links, egress, dispatch, retention, shutdown, log, .. } = config;
    if !database.url.is_empty() {
        found.refuse("database.url", &store::open::kind(&database.url));
    }
    found.bound("database.connections", database.connections, &(2..=1_000));
    for origin in web.allowed_origins.iter().filter(|origin| !is_origin(origin)) {
        found
            .add("web.allowed_origins", format!("{origin:?} is neither `*` nor an origin, as https://app.example.com"));
    }
    found.bound("limits.connections", limits.connections, &(1..=1_000_000));
    found.bound("limits.concurrent_calls", limits.concurrent_calls, &(1..=1_000_000));
    found.bound("limits.streams", limits.streams, &(1..=1_000_000));
    found.bound("limits.call_timeout_seconds", limits.call_timeout_seconds, &(1..=3_600));
    if !["", LINKS_OFF].contains(&links.listen.as_str()) && links.listen.parse::<SocketAddr>().is_err() {
        found.add("links.listen", "must be an address and a port, as 0.0.0.0:8080, or `off`".to_owned());
    }
    if !links.base_url.is_empty() && !is_base_url(&links.base_url) {
        found.add("links.base_url", "must be an http or https URL without query, as https://go.example.com".to_owned());
    }
    found.bound("links.requests_per_second", links.requests_per_second, &(1..=1_000_000));
    found.bound("links.burst", links.burst, &(1..=1_000_000));
    found.bound("links.connections", links.connections, &(1..=1_000_000));
    found.refuse("egress.ports", &egress.ports.parse::<PortSet>());
    found.bound("dispatch.senders", dispatch.senders, &(1..=10_000));
    found.bound("retention.attempts_days", retention.attempts_days, &(1..=3_650));
    found.bound("retention.deliveries_days", retention.deliveries_days, &(1..=3_650));
    found.bound("retention.cooldowns_days", retention.cooldowns_days, &(30..=3_650));
    found.bound("retention.stats_days", retention.stats_days, &(1..=3_650));
    if retention.deliveries_days < retention.attempts_days {
        found.add("retention.deliveries_days", "must not be less than retention.attempts_days".to_owned());
    }
    found.bound("shutdown.grace_seconds", shutdown.grace_seconds, &(0..=3_600));
    found.refuse("log.filter", &telemetry::parse_filter(&log.filter));
    found.0
}

struct Found(Vec<Problem>);

impl Found {
    fn add(&mut self, key: &'static str, message: String) {
        self.0.push((key, message));
    }

    fn bound<T: PartialOrd + Display + Copy>(&mut self, key: &'static str, value: T, bounds: &RangeInclusive<T>) {
        if !bounds.contains(&value) {
            self.add(key, format!("must be {} to {}", bounds.start(), bounds.end()));
        }
    }

    fn refuse<T>(&mut self, key: &'static str, result: &Result<T, impl Display>) {
        if let Err(error) = result {
            self.add(key, error.to_string());
        }
    }
}

/// Whether links can start so: at most 1,000 visible characters of a URL with host, and without what would stand before
/// or after the path.
fn is_base_url(text: &str) -> bool {
    let is_plain = |url: &url::Url| {
        let has_more = url.query().is_some() || url.fragment().is_some();
        let is_safe = url.username().is_empty() && url.password().is_none();
        ["http", "https"].contains(&url.scheme()) && url.has_host() && is_safe && !has_more
    };
    let is_visible = text.len() <= 1_000 && text.bytes().all(|byte| (b'!'..=b'~').contains(&byte));
    is_visible && url::Url::parse(text).is_ok_and(|url| is_plain(&url))
}

/// Whether a text is `*` or `<scheme>://<host>[:<port>]`, as browsers send it (RFC 6454, section 6.2).
fn is_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let is_url_origin = url::Url::parse(text).is_ok_and(|url| url.origin().ascii_serialization() == text);
    is_url_origin && HeaderValue::from_str(text).is_ok()
}
