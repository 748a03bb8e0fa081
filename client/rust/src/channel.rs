//! What every call passes through: the API key, a deadline, and retries where they are safe (AIP-194).

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, poll_fn};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Collected, Full, Limited};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower_service::Service;

use crate::client::MAX_ANSWER_BYTES;
use crate::method::Method;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The wait before the first retry or reconnection; each further one is twice as long.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// The connection to the service, as the stubs use it. Cheap to clone.
#[derive(Clone)]
pub struct Channel {
    inner: tonic::transport::Channel,
    policy: Arc<Policy>,
}

/// What is added to calls.
pub(crate) struct Policy {
    /// The header that carries the API key.
    pub(crate) authorization: Option<HeaderValue>,
    /// How long a call may take, with its retries.
    pub(crate) deadline: Duration,
    /// How often a call is repeated.
    pub(crate) retries: u32,
}

impl Channel {
    pub(crate) const fn new(inner: tonic::transport::Channel, policy: Arc<Policy>) -> Self {
        Self { inner, policy }
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.policy.deadline
    }

    /// Makes one call with its retries.
    async fn unary(mut self, method: Method, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (head, body) = request.into_parts();
        let timeout = head.headers.get(GRPC_TIMEOUT).and_then(read_timeout).unwrap_or(self.policy.deadline);
        let deadline = Instant::now() + timeout;
        let body = body.collect().await?.to_bytes();
        let mut retries = 0;
        loop {
            let mut request = Request::from_parts(head.clone(), Body::new(Full::new(body.clone())));
            request.headers_mut().insert(GRPC_TIMEOUT, write_timeout(deadline - Instant::now()));
            let answer = timeout_at(deadline, exchange(&mut self.inner, request))
                .await
                .unwrap_or_else(|_| Err(deadline_exceeded()));
            let Some(status) = unavailable(&answer) else {
                return Ok(answer?.map(Body::new));
            };
            let delay = backoff(retries, status.get_details_retry_info().and_then(|info| info.retry_delay));
            let in_time = Instant::now() + delay < deadline;
            if retries == self.policy.retries || !in_time || !method.may_repeat(message(&body)) {
                return Ok(answer?.map(Body::new));
            }
            retries += 1;
            sleep(delay).await;
        }
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        // Each try waits for its turn itself.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(authorization) = &self.policy.authorization {
            request.headers_mut().entry(AUTHORIZATION).or_insert_with(|| authorization.clone());
        }
        let mut channel = self.clone();
        match Method::at(request.uri().path()) {
            Method::Other => Box::pin(async move { send(&mut channel.inner, request).await }),
            method => Box::pin(channel.unary(method, request)),
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").finish_non_exhaustive()
    }
}

/// How long to wait after so many failures in a row: what the server asked for, or else twice as long each time, with
/// half of it by chance so that clients don't come back all at once.
pub(crate) fn backoff(failures: u32, retry_after: Option<Duration>) -> Duration {
    let longest = FIRST_DELAY.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST_DELAY);
    longest.mul_f64(0.5 + 0.5 * fastrand::f64()).max(retry_after.unwrap_or_default())
}

/// Sends a request, takes the whole answer.
async fn exchange(
    channel: &mut tonic::transport::Channel,
    request: Request<Body>,
) -> Result<Response<Collected<Bytes>>, Status> {
    let (head, body) = send(channel, request).await?.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(Status::from_error)?;
    Ok(Response::from_parts(head, body))
}

async fn send(channel: &mut tonic::transport::Channel, request: Request<Body>) -> Result<Response<Body>, Status> {
    poll_fn(|context| channel.poll_ready(context)).await.map_err(status)?;
    channel.call(request).await.map_err(status)
}

/// The status of an error of the transport, which watches the deadline too but calls its end a cancellation.
fn status(error: tonic::transport::Error) -> Status {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<tonic::TimeoutExpired>() {
            return deadline_exceeded();
        }
        cause = error.source();
    }
    Status::from_error(error.into())
}

fn deadline_exceeded() -> Status {
    Status::deadline_exceeded("the deadline passed")
}

/// The status of an answer that says UNAVAILABLE: in its headers, its trailers, or by a proxy's HTTP status.
fn unavailable(answer: &Result<Response<Collected<Bytes>>, Status>) -> Option<Status> {
    let status = match answer {
        Err(status) => Some(status.clone()),
        Ok(response) => Status::from_header_map(response.headers())
            .or_else(|| response.body().trailers().and_then(|trailers: &HeaderMap| Status::from_header_map(trailers)))
            .or_else(|| matches!(response.status().as_u16(), 429 | 502..=504).then(|| Status::unavailable(""))),
    };
    status.filter(|status| status.code() == Code::Unavailable)
}

/// The message in the frame of a unary call: a byte that says whether it is compressed, four bytes of length, the
/// message. One that is compressed can't be read here and looks like garbage: it is taken for one without `request_id`.
fn message(frame: &[u8]) -> &[u8] {
    frame.get(5..).unwrap_or_default()
}

/// Reads a `grpc-timeout`: up to eight digits and a unit.
fn read_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Writes a `grpc-timeout`, in milliseconds while eight digits hold them (27 hours), else in seconds.
fn write_timeout(timeout: Duration) -> HeaderValue {
    const LARGEST: u64 = 99_999_999;
    let text = match u64::try_from(timeout.as_millis()) {
        Ok(ms) if ms <= LARGEST => format!("{ms}m"),
        _ => format!("{}S", timeout.as_secs().min(LARGEST)),
    };
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("0m"))
}
