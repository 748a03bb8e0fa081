//! The HTTP sender: one request, one deadline, one report.
//!
//! One pooled client serves all webhooks. It follows no redirect, knows no proxy (the environment's neither), repeats
//! nothing, and dials only what the [egress guard](super::egress) vetted.
//!
//! **No hidden re-send.** A request of which a byte may have reached the receiver is never sent again here: reqwest's
//! own retries are off (`retry::never()`, also for HTTP/2's `REFUSED_STREAM`), and a kept-alive connection that dies
//! under a request ends the attempt. One repetition remains inside the connection pool and can't be switched off
//! through reqwest: if an idle connection turns out to be closed *before* any byte of the request was written, the
//! request moves to another connection. The receiver never sees the first one, so its count equals ours.

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use reqwest::{Certificate, Client, Response};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::egress::{Egress, EgressDenied, EgressPolicy, ResolveError};
use crate::domain::retry::ErrorClass;

/// How much of a response's body is read and kept, in bytes.
pub const BODY_KEPT_BYTES: usize = 16 * 1024;

/// The longest deadline of an attempt; a longer one is cut.
pub const MAX_DEADLINE: Duration = Duration::from_secs(30);

/// Longest `location`, `content-type` and `retry-after` values that are kept, in bytes; the rest is cut.
const HEADER_KEPT_BYTES: usize = 8 * 1024;

/// Longest [`TransportError::detail`], in bytes. Certificates can put long lists of names into it.
const DETAIL_BYTES: usize = 300;

/// HTTP/2 flow-control windows. A receiver can push no more than a stream's window before its body is dropped.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Longest header block of an HTTP/2 response. HTTP/1.1's is hyper's: 100 fields, about 400 KiB.
const HTTP2_HEADERS_BYTES: u32 = 64 * 1024;

/// An HTTP/2 connection that answers no ping this long after the last sign of life is dropped, lest it swallows
/// attempt after attempt. Only connections with requests in flight are pinged.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(10);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How requests name their sender.
pub const USER_AGENT: &str = concat!("Taghook/", env!("CARGO_PKG_VERSION"));

/// What the operator may set about sending.
#[derive(Debug, Clone)]
pub struct SenderSettings {
    /// PEM certificates of authorities trusted beside the system's. Default: none.
    pub extra_ca_pem: Vec<u8>,
    /// How long an unused connection is kept. Default: 90 s.
    pub pool_idle_timeout: Duration,
    /// How many unused connections are kept for each origin. Default: 256, as many as are sent at a time by default: a
    /// connection that isn't kept is made anew for the next request.
    pub pool_max_idle_per_origin: usize,
}

impl Default for SenderSettings {
    fn default() -> Self {
        Self { extra_ca_pem: Vec::new(), pool_idle_timeout: Duration::from_secs(90), pool_max_idle_per_origin: 256 }
    }
}

/// One HTTP request to send.
#[derive(Debug, Clone)]
pub struct OutboundRequest {
    /// The method.
    pub method: Method,
    /// The URL. Credentials in it are sent as basic authentication, unless `headers` has an `authorization`.
    pub url: Url,
    /// Headers beside `host`, `content-length` and `user-agent`; a name may come more than once.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body, empty for none.
    pub body: Bytes,
    /// Time for all of it: resolving, connecting, TLS, the response and its body. At most [`MAX_DEADLINE`].
    pub deadline: Duration,
}

/// What became of one request.
#[derive(Debug)]
pub struct SendReport {
    /// The response's head, if the body ended or reached [`BODY_KEPT_BYTES`] before the deadline.
    pub result: Result<ResponseHead, TransportError>,
    /// The start of the response's body, byte for byte; also what had come when the result is an error.
    pub body: Bytes,
    /// Tells that the body was longer than [`BODY_KEPT_BYTES`], as far as is known.
    pub body_truncated: bool,
    /// From the call to the report.
    pub duration: Duration,
}

/// The parts of a response's head that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// `retry-after` as it came.
    pub retry_after: Option<Bytes>,
    /// `location`, with what isn't UTF-8 replaced.
    pub location: Option<String>,
    /// `content-type`, with what isn't UTF-8 replaced.
    pub content_type: Option<String>,
}

/// Why a request has no complete response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct TransportError {
    /// The class: one of those of the wire, [`ErrorClass::Dns`] to [`ErrorClass::EgressDenied`], or
    /// [`ErrorClass::RequestInvalid`] or [`ErrorClass::Other`]. Over HTTP/2 too long a header block is
    /// [`ErrorClass::Protocol`]: its error can't be told apart.
    pub class: ErrorClass,
    /// One line for the webhook's owner: no URL, no address, no secret.
    pub detail: String,
    /// The status that had come before the failure. It decides nothing.
    pub status: Option<StatusCode>,
}

/// Why a sender can't be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The extra certificates aren't PEM certificates.
    #[error("the extra CA certificates are not PEM certificates")]
    ExtraCa(#[source] Option<reqwest::Error>),
    /// The HTTP client can't be set up: most often the system has no CA certificates.
    #[error("the HTTP client cannot be set up; are the system's CA certificates (package ca-certificates) installed?")]
    Client(#[source] reqwest::Error),
}

/// Sends requests. Made once, shared by all who send.
#[derive(Debug, Clone)]
pub struct Sender {
    client: Client,
    egress: Egress,
}

impl Sender {
    /// Makes the sender. If the process has no default TLS provider yet, ring becomes it.
    ///
    /// # Errors
    ///
    /// Unusable CA certificates, of the settings or of the system.
    pub fn new(policy: EgressPolicy, settings: &SenderSettings) -> Result<Self, BuildError> {
        let egress = Egress::new(policy);
        let client = build_client(egress.clone(), settings)?;
        Ok(Self { client, egress })
    }

    /// Sends one request, once. Never takes longer than its deadline.
    pub async fn send(&self, request: OutboundRequest) -> SendReport {
        let started = Instant::now();
        let deadline = started + request.deadline.min(MAX_DEADLINE);
        let mut body = KeptBody::default();
        let result = self.exchange(request, deadline, &mut body).await;
        let duration = started.elapsed();
        SendReport { result, body: body.bytes.freeze(), body_truncated: body.truncated, duration }
    }

    /// Dropping the response when this returns closes its connection (HTTP/1.1) or stream (HTTP/2), unless the body
    /// was read to its end.
    async fn exchange(
        &self,
        request: OutboundRequest,
        deadline: Instant,
        body: &mut KeptBody,
    ) -> Result<ResponseHead, TransportError> {
        // The client asks its resolver about names only, so the URL's own address is vetted here.
        self.egress.check_url(&request.url)?;
        let mut response = timeout_at(deadline, self.start(request))
            .await
            .map_err(|_| TransportError::timeout("no response before the deadline"))?
            .map_err(|error| explain(&error))?;
        let head = ResponseHead::of(&response);
        let ended = timeout_at(deadline, body.read(&mut response)).await;
        let error = match ended {
            Ok(Ok(())) => return Ok(head),
            // The cap was reached; whether there was more remains unknown.
            _ if body.bytes.len() >= BODY_KEPT_BYTES => {
                body.truncated = true;
                return Ok(head);
            }
            Ok(Err(error)) => explain(&error),
            Err(_) => TransportError::timeout("the response's body did not end before the deadline"),
        };
        Err(TransportError { status: Some(head.status), ..error })
    }

    async fn start(&self, request: OutboundRequest) -> reqwest::Result<Response> {
        let mut headers = HeaderMap::with_capacity(request.headers.len());
        for (name, value) in request.headers {
            headers.append(name, value);
        }
        self.client.request(request.method, request.url).headers(headers).body(request.body).send().await
    }
}

fn build_client(egress: Egress, settings: &SenderSettings) -> Result<Client, BuildError> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error means that another thread was faster, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    Client::builder()
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        .dns_resolver(egress)
        .tls_backend_rustls()
        .tls_certs_merge(extra_certificates(&settings.extra_ca_pem)?)
        .tcp_nodelay(true)
        // Attempts end by their deadline. This ends a connection that is still being made for the pool when its
        // request has already gone out on another one.
        .connect_timeout(MAX_DEADLINE)
        .pool_idle_timeout(settings.pool_idle_timeout)
        .pool_max_idle_per_host(settings.pool_max_idle_per_origin)
        .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HTTP2_HEADERS_BYTES)
        .http2_keep_alive_interval(HTTP2_PING_INTERVAL)
        .http2_keep_alive_timeout(HTTP2_PING_TIMEOUT)
        .build()
        .map_err(BuildError::Client)
}

fn extra_certificates(pem: &[u8]) -> Result<Vec<Certificate>, BuildError> {
    let certificates = Certificate::from_pem_bundle(pem).map_err(|error| BuildError::ExtraCa(Some(error)))?;
    if certificates.is_empty() && !pem.is_empty() { Err(BuildError::ExtraCa(None)) } else { Ok(certificates) }
}

impl ResponseHead {
    fn of(response: &Response) -> Self {
        let kept = |name| {
            let value = response.headers().get(name)?.as_bytes();
            Some(value.get(..HEADER_KEPT_BYTES).unwrap_or(value))
        };
        let text = |name| kept(name).map(|value| String::from_utf8_lossy(value).into_owned());
        Self {
            status: response.status(),
            retry_after: kept(RETRY_AFTER).map(Bytes::copy_from_slice),
            location: text(LOCATION),
            content_type: text(CONTENT_TYPE),
        }
    }
}

/// The start of a body.
#[derive(Default)]
struct KeptBody {
    bytes: BytesMut,
    truncated: bool,
}

impl KeptBody {
    /// Reads until the body ends or is known to be longer than what is kept.
    async fn read(&mut self, response: &mut Response) -> reqwest::Result<()> {
        while let Some(chunk) = response.chunk().await? {
            let room = BODY_KEPT_BYTES - self.bytes.len();
            self.bytes.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
            if chunk.len() > room {
                self.truncated = true;
                return Ok(());
            }
        }
        Ok(())
    }
}

impl TransportError {
    fn new(class: ErrorClass, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        detail.truncate(detail.floor_char_boundary(DETAIL_BYTES));
        Self { class, detail, status: None }
    }

    fn timeout(detail: &str) -> Self {
        Self::new(ErrorClass::Timeout, detail)
    }
}

impl From<EgressDenied> for TransportError {
    fn from(denied: EgressDenied) -> Self {
        Self::new(ErrorClass::EgressDenied, denied.to_string())
    }
}

/// Finds the first error of the chain that tells a class. The client's own error is never printed: it has the URL.
fn explain(error: &reqwest::Error) -> TransportError {
    let connecting = error.is_connect();
    if let Some((class, link)) = chain(error).find_map(|link| Some((class_of(link, connecting)?, link))) {
        return TransportError::new(class, text_of(link));
    }
    if error.is_timeout() {
        return TransportError::timeout("the connection timed out");
    }
    if chain(error).filter_map(|link| link.downcast_ref::<hyper::Error>()).any(was_dropped) {
        return TransportError::new(ErrorClass::ConnectionClosed, "the connection was closed");
    }
    if error.is_builder() {
        return TransportError::new(ErrorClass::RequestInvalid, "the request cannot be built from this URL");
    }
    TransportError::new(ErrorClass::Other, "the request failed")
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&link| link.source())
}

fn was_dropped(error: &hyper::Error) -> bool {
    error.is_canceled() || error.is_closed()
}

fn text_of(link: &(dyn Error + 'static)) -> String {
    match link.downcast_ref() {
        Some(ResolveError::Lookup(cause)) => format!("{link}: {cause}"),
        _ => link.to_string(),
    }
}

/// The class that one error of a chain tells by itself. `connecting`: the connection (or TLS) wasn't made yet.
fn class_of(link: &(dyn Error + 'static), connecting: bool) -> Option<ErrorClass> {
    if let Some(error) = link.downcast_ref::<ResolveError>() {
        return Some(match error {
            ResolveError::Denied(_) => ErrorClass::EgressDenied,
            ResolveError::Lookup(_) | ResolveError::NoAddress => ErrorClass::Dns,
        });
    }
    if link.is::<rustls::Error>() {
        return Some(ErrorClass::Tls);
    }
    if let Some(error) = link.downcast_ref::<io::Error>() {
        return class_of_io(error, connecting);
    }
    if let Some(error) = link.downcast_ref::<h2::Error>() {
        return class_of_http2(error, connecting);
    }
    link.downcast_ref::<hyper::Error>().and_then(class_of_hyper)
}

fn class_of_io(error: &io::Error, connecting: bool) -> Option<ErrorClass> {
    // What an io::Error wraps isn't its source, but stands in its place.
    if let Some(wrapped) = error.get_ref()
        && let Some(class) = class_of(wrapped, connecting)
    {
        return Some(class);
    }
    match error.kind() {
        // The system's own error has a number. Without one it is h2's: the connection ended with streams open.
        io::ErrorKind::BrokenPipe if error.raw_os_error().is_none() => Some(ErrorClass::ConnectionClosed),
        io::ErrorKind::ConnectionRefused => Some(ErrorClass::ConnectionRefused),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            Some(ErrorClass::ConnectionReset)
        }
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::AddrNotAvailable
        | io::ErrorKind::PermissionDenied => Some(ErrorClass::Unreachable),
        io::ErrorKind::TimedOut => Some(ErrorClass::Timeout),
        // The only reads while connecting are those of the TLS handshake.
        io::ErrorKind::UnexpectedEof if connecting => Some(ErrorClass::Tls),
        io::ErrorKind::UnexpectedEof => Some(ErrorClass::ConnectionClosed),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Some(ErrorClass::Protocol),
        _ => None,
    }
}

fn class_of_http2(error: &h2::Error, connecting: bool) -> Option<ErrorClass> {
    if let Some(error) = error.get_io() {
        return class_of_io(error, connecting);
    }
    Some(match (error.is_remote(), error.is_reset()) {
        (true, true) => ErrorClass::ConnectionReset,
        (true, false) => ErrorClass::ConnectionClosed,
        (false, _) => ErrorClass::Protocol,
    })
}

/// hyper's errors that say more than what caused them.
fn class_of_hyper(error: &hyper::Error) -> Option<ErrorClass> {
    if error.is_parse_too_large() {
        Some(ErrorClass::HeadersTooLarge)
    } else if error.is_parse() {
        Some(ErrorClass::Protocol)
    } else if error.is_incomplete_message() {
        Some(ErrorClass::ConnectionClosed)
    } else if error.is_timeout() {
        Some(ErrorClass::Timeout)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
