//! Listeners and their connections: HTTP/2 for gRPC, HTTP/1.1 for gRPC-Web and for links.
//!
//! tonic's own server isn't used for this: it answers a deadline that has passed with CANCELLED before the edge can say
//! DEADLINE_EXCEEDED, and it bounds neither the connections nor the wait for the first byte.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::lifecycle::Stop;

/// How long a connection may take to send its first byte.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a connection is asked for a sign of life, and how long it may take to give one.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The flow-control windows: what a connection can make the server hold of unread requests.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// The pause after a failed accept: most often the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What connections may ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How many there may be.
    pub(crate) connections: usize,
    /// The most calls in progress on one of them.
    pub(crate) streams: u32,
    /// The longest header block, in bytes.
    pub(crate) header_bytes: u32,
    /// The buffer of a connection of HTTP/1.1, in bytes, which bounds its header block as well; `None` for the usual one.
    pub(crate) buffer_bytes: Option<usize>,
}

/// Serves connections until the soft stop, then waits until the last of them has ended; the hard stop ends them. Each has
/// the service that `service_for` makes for its peer.
pub(crate) async fn serve<S, B>(
    listener: TcpListener,
    service_for: impl Fn(SocketAddr) -> S,
    limits: Limits,
    stop: Stop,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let places = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    let builder = builder(limits);
    loop {
        let accepted = tokio::select! {
            () = stop.soft.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok(((stream, peer), place)) => {
                let connection = serve_connection(stream, builder.clone(), service_for(peer), stop.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "a connection can't be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // New connections are refused from here on, instead of waiting for nobody.
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Accepts a connection once there is room; until then connections wait in the system's queue.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<((TcpStream, SocketAddr), OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    loop {
        match listener.accept().await {
            Ok(accepted) => return Ok((accepted, place)),
            // The connection failed, not the listener.
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

fn builder(limits: Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.header_bytes)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    // With a timer, hyper ends connections whose headers take over 30 seconds.
    builder.http1().timer(TokioTimer::new());
    if let Some(bytes) = limits.buffer_bytes {
        builder.http1().max_buf_size(bytes);
    }
    builder
}

async fn serve_connection<S, B>(stream: TcpStream, builder: Builder<TokioExecutor>, service: S, stop: Stop)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Small answers go out at once. If the option can't be set the connection is as good as gone.
    let _ = stream.set_nodelay(true);
    let first = async { matches!(timeout(FIRST_BYTE_TIMEOUT, stream.peek(&mut [0])).await, Ok(Ok(1..))) };
    tokio::select! {
        has_begun = first => if !has_begun { return },
        () = stop.soft.cancelled() => return,
    }
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.soft.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection => result,
                () = stop.hard.cancelled() => return,
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(error, "a connection broke");
    }
}
