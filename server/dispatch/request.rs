//! The HTTP request of an attempt. This is the one place that builds it, for sending, testing and previewing alike.

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};
use sha2::{Digest, Sha256};
use url::Url;

use super::send::OutboundRequest;
use crate::domain::header::Header;
use crate::domain::request::{Method, Snapshot};
use crate::domain::retry::ErrorClass;
use crate::domain::signature::{HEADER_ID, HEADER_SIGNATURE, HEADER_TIMESTAMP, sign};
use crate::domain::template::RenderError;
use crate::domain::time::Micros;
use crate::ids::DeliveryId;
use crate::store::config::PreparedWebhook;

/// Carries the trace on to the endpoint (W3C Trace Context).
pub const HEADER_TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Why no request can be built of a delivery. All are final: another attempt would fail the same way. The text is for
/// the webhook's owner and holds none of the contact's data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The URL or the body can't be rendered.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// The rendered URL isn't one.
    #[error("the URL with its values is not a URL")]
    Url,
    /// HTTP forbids the header.
    #[error("the header `{name}` can't be sent")]
    Header {
        /// Its name.
        name: String,
    },
}

impl RequestError {
    /// What the attempt is recorded with.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Render(error) => error.into(),
            Self::Url | Self::Header { .. } => ErrorClass::RequestInvalid,
        }
    }
}

/// Builds the request that an attempt of a delivery sends now.
///
/// Method, encoding and values are the snapshot's; URL, headers, secrets and deadline are the webhook's present ones.
/// The body is the same on every attempt of a delivery, since `trigger_time` stands in it and not `now`; `now` is the
/// `webhook-timestamp`, which receivers check against replays. `traceparent` is that of the call that set the delivery
/// off; the request gets a span of its own under it.
///
/// # Errors
///
/// The present URL can't be filled from the snapshot, or HTTP forbids what comes out.
pub fn build(
    prepared: &PreparedWebhook,
    snapshot: &Snapshot,
    delivery_id: DeliveryId,
    trigger_time: Micros,
    now: Micros,
    traceparent: Option<&str>,
) -> Result<OutboundRequest, RequestError> {
    let parts = snapshot.body_and_url(&prepared.url, trigger_time)?;
    let url = Url::parse(&parts.url).map_err(|_| RequestError::Url)?;
    let (id, timestamp_s) = (delivery_id.to_string(), now.unix_seconds());
    // By the clock, so that a secret whose time is over signs nothing, whoever has looked at it since.
    let secrets = prepared.webhook.live_secrets(now).map(|live| &live.secret);
    let signature = sign(secrets, &id, timestamp_s, parts.signed_bytes());
    let traceparent = traceparent.and_then(|parent| child_traceparent(parent, &id, now));
    let mut headers = vec![
        (HEADER_ID, value(&HEADER_ID, &id)?),
        (HEADER_TIMESTAMP, timestamp_s.into()),
        (HEADER_SIGNATURE, value(&HEADER_SIGNATURE, &signature)?),
    ];
    headers.extend(parts.content_type.map(|content_type| (CONTENT_TYPE, HeaderValue::from_static(content_type))));
    if let Some(traceparent) = traceparent {
        headers.push((HEADER_TRACEPARENT, value(&HEADER_TRACEPARENT, &traceparent)?));
    }
    for header in &prepared.webhook.definition.headers {
        headers.push(custom(header)?);
    }
    Ok(OutboundRequest {
        method: match parts.method {
            Method::Post => http::Method::POST,
            Method::Get => http::Method::GET,
        },
        url,
        headers,
        body: parts.body.into(),
        deadline: prepared.webhook.definition.timeout,
    })
}

fn custom(header: &Header) -> Result<(HeaderName, HeaderValue), RequestError> {
    let name = HeaderName::from_bytes(header.name.as_bytes())
        .map_err(|_| RequestError::Header { name: header.name.clone() })?;
    let mut value = value(&name, &header.value)?;
    // Keeps it out of `Debug` and out of HTTP/2's compression tables.
    value.set_sensitive(header.sensitive);
    Ok((name, value))
}

fn value(name: &HeaderName, text: &str) -> Result<HeaderValue, RequestError> {
    HeaderValue::from_str(text).map_err(|_| RequestError::Header { name: name.to_string() })
}

/// A span of the same trace under `parent`. Its id is derived from the attempt, so that building asks nobody for
/// randomness; it can't be the id of no span, 0. `None` if the parent isn't a traceparent.
fn child_traceparent(parent: &str, delivery_id: &str, now: Micros) -> Option<String> {
    let (version_and_trace, rest) = parent.split_at_checked(35)?;
    let (_, flags) = rest.split_at_checked(17)?;
    let digest =
        Sha256::new().chain_update(parent).chain_update(delivery_id).chain_update(now.0.to_be_bytes()).finalize();
    let span = digest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)).max(1);
    Some(format!("{version_and_trace}-{span:016x}{flags}"))
}

#[cfg(test)]
mod tests;
