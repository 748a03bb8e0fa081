//! What every call passes through before it reaches a service, in this order: its span, the bound on calls in progress,
//! its deadline, a net for panics, its API key.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::{Instrument, Span, field};

use super::MAX_MESSAGE_BYTES;
use super::auth::{self, Access};
use super::call;
use super::call_body::{CallBody, End, Progress};
use super::keys::{Identity, Keys};
use crate::error::{self, Error, Result};
use crate::ids::uuid_v7;

/// Names a call in the log; callers can give their own (64 visible ASCII characters), and get it back.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID_BYTES: usize = 64;
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// What the edge of the server needs.
pub(super) struct Edge {
    /// Tells keys by their secrets.
    pub(super) keys: Keys,
    /// Whether reflection needs no key.
    pub(super) public_reflection: bool,
    /// One permit for each unary call in progress.
    pub(super) calls: Arc<Semaphore>,
    /// One permit for each stream that is open.
    pub(super) streams: Arc<Semaphore>,
    /// The deadline of unary calls; callers can set an earlier one.
    pub(super) call_timeout: Duration,
    /// Ends the open streams of the standard services; those of the API end themselves.
    pub(super) stop: CancellationToken,
}

/// Puts the edge around the services.
#[derive(Clone)]
pub(super) struct EdgeLayer(pub(super) Arc<Edge>);

impl<S> Layer<S> for EdgeLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { edge: Arc::clone(&self.0), inner }
    }
}

/// The services behind the edge.
#[derive(Clone)]
pub(super) struct Guarded<S> {
    edge: Arc<Edge>,
    inner: S,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The clone that was made ready is the one to call.
        let next = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, next);
        let edge = Arc::clone(&self.edge);
        Box::pin(async move { Ok(edge.handle(inner, request).await) })
    }
}

impl Edge {
    async fn handle<S>(&self, inner: S, mut request: Request<Body>) -> Response<Body>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send + 'static,
        S::Future: Send,
    {
        let target = Target::of(request.uri().path(), self.public_reflection);
        let request_id = self.request_id(request.headers());
        let span = span(&target, &request_id, request.headers());
        let mut progress = Progress::begin(span.clone());
        request.headers_mut().remove(&REQUEST_ID);
        let (mut end, permit, result) = match self.admit(&target, request.headers()) {
            Ok((end, permit)) => {
                let result = self.answer(inner, request, &target, end.deadline).instrument(span).await;
                (end, permit, result)
            }
            Err(error) => (End::default(), None, Err(error)),
        };
        let mut response = match result {
            Ok((response, identity)) => {
                end.key = identity.map(|identity| Box::pin(self.keys.clone().until_lost(identity)) as BoxFuture<'_, _>);
                explain(response, &target)
            }
            Err(error) => progress.span().in_scope(|| Status::from(error).into_http()),
        };
        progress.see_status(response.headers());
        response.headers_mut().insert(REQUEST_ID, request_id);
        let end = if target.is_stream { end } else { End::default() };
        response.map(|body| Body::new(CallBody::new(body, end, permit, progress)))
    }

    /// Lets a call in, if there is room, and reads its deadline.
    fn admit(&self, target: &Target, headers: &HeaderMap) -> Result<(End, Option<OwnedSemaphorePermit>)> {
        let room = if target.is_stream { &self.streams } else { &self.calls };
        let permit = if target.is_probe {
            None
        } else {
            Some(Arc::clone(room).try_acquire_owned().map_err(|_| Error::Overloaded)?)
        };
        let own = (!target.is_stream).then_some(self.call_timeout);
        let timeout = match (grpc_timeout(headers)?, own) {
            (Some(asked), Some(own)) => Some(asked.min(own)),
            (asked, own) => asked.or(own),
        };
        // A time that can't be added to now never comes.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let stop = target.is_standard.then(|| self.stop.clone());
        Ok((End { deadline, stop, key: None }, permit))
    }

    /// Runs the call up to its deadline; past it, its work is dropped.
    async fn answer<S>(
        &self,
        mut inner: S,
        mut request: Request<Body>,
        target: &Target,
        deadline: Option<Instant>,
    ) -> Result<(Response<Body>, Option<Identity>)>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let work = async {
            let mut identity = None;
            if let Some(access) = target.access {
                let known = self.keys.identify(request.headers()).await?;
                access.check(&known.caller)?;
                request.extensions_mut().insert(known.caller);
                identity = target.is_stream.then_some(known);
            }
            let Ok(response) = inner.call(request).await;
            Ok((response, identity))
        };
        // What a panic leaves behind is this call's alone: what is shared is behind locks that recover.
        let work = AssertUnwindSafe(work).catch_unwind();
        let result = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, work).await.map_err(|_| Error::DeadlineExceeded)?,
            None => work.await,
        };
        result.unwrap_or_else(|_| Err(Error::internal("a handler panicked")))
    }

    /// The caller's id of the call, or a new one.
    fn request_id(&self, headers: &HeaderMap) -> HeaderValue {
        let given = headers.get(&REQUEST_ID).filter(|value| {
            let bytes = value.as_bytes();
            (1..=MAX_REQUEST_ID_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
        });
        given.cloned().unwrap_or_else(|| {
            let store = self.keys.store();
            let id = uuid_v7(store.clock().now(), store.entropy());
            HeaderValue::from_str(id.simple().encode_lower(&mut uuid::Uuid::encode_buffer()))
                .unwrap_or_else(|_| HeaderValue::from_static("unknown"))
        })
    }
}

/// What is called.
struct Target {
    /// The path, for logs; those that nobody serves have one name, since callers choose them.
    name: &'static str,
    /// What the caller's key must give; `None` for what needs no key.
    access: Option<Access>,
    /// Whether the answer is a stream that stays open.
    is_stream: bool,
    /// Whether the method is of a standard service (health, reflection), not of the API.
    is_standard: bool,
    /// Whether it is the health check, which is answered under any load.
    is_probe: bool,
}

impl Target {
    fn of(path: &str, public_reflection: bool) -> Self {
        let standard = |name, access| Self { name, access, is_stream: true, is_standard: true, is_probe: false };
        match path {
            "/grpc.health.v1.Health/Check" => Self { is_stream: false, is_probe: true, ..standard("health", None) },
            "/grpc.health.v1.Health/Watch" => standard("health", None),
            path if path.starts_with("/grpc.reflection.") => {
                standard("reflection", (!public_reflection).then_some(Access::AnyKey))
            }
            path => match auth::method(path) {
                Some(method) => Self {
                    name: method.path,
                    access: Some(method.access),
                    is_stream: method.is_stream,
                    is_standard: false,
                    is_probe: false,
                },
                None => Self { name: "unknown", access: None, is_stream: false, is_standard: false, is_probe: false },
            },
        }
    }
}

fn span(target: &Target, request_id: &HeaderValue, headers: &HeaderMap) -> Span {
    let span = tracing::info_span!(
        "call",
        method = target.name,
        request_id = request_id.to_str().unwrap_or_default(),
        traceparent = field::Empty,
    );
    if let Some(trace) = call::traceparent_of(headers) {
        span.record("traceparent", trace);
    }
    span
}

/// Gives a status that the transport made of the call the details that all others have.
fn explain(mut response: Response<Body>, target: &Target) -> Response<Body> {
    let headers = response.headers_mut();
    if target.is_standard || headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        return response;
    }
    let Some(status) = Status::from_header_map(headers).filter(|status| status.code() != tonic::Code::Ok) else {
        return response;
    };
    // It can't fail: both fields that it writes are encoded for headers.
    let _ = error::explain_transport(&status, MAX_MESSAGE_BYTES).add_header(headers);
    response
}

/// The time that the caller gives (gRPC over HTTP2, `Timeout`): up to 8 digits and a unit.
fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else {
        return Ok(None);
    };
    let parsed = value.to_str().ok().and_then(parse_timeout);
    parsed.map(Some).ok_or_else(|| {
        Error::invalid(GRPC_TIMEOUT, "GRPC_TIMEOUT", "must be 1 to 8 digits and one of the units H, M, S, m, u, n")
    })
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 60 * 60),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
