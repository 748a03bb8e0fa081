//! The listener and its connections: HTTP/2 for gRPC, HTTP/1.1 for gRPC-Web.
//!
//! tonic's own server isn't used for this: it answers a deadline that has passed with CANCELLED before the edge can say
//! DEADLINE_EXCEEDED, and it bounds neither the connections nor the wait for the first byte.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tower::{Service, ServiceExt};

use crate::lifecycle::Stop;

/// How long a connection may take to send its first byte.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a connection is asked for a sign of life, and how long it may take to give one.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The most calls in progress on one connection, watchers among them.
const STREAMS_PER_CONNECTION: u32 = 2_000;
/// The longest header block, in bytes.
const MAX_HEADER_BYTES: u32 = 32 * 1024;
/// The flow-control windows: what a connection can make the server hold of unread requests.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// The pause after a failed accept: most often the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves connections until the soft stop, then waits until the last of them has ended; the hard stop ends them.
pub(super) async fn serve<S>(listener: TcpListener, service: S, limit: usize, stop: Stop)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let places = Arc::new(Semaphore::new(limit));
    let connections = TaskTracker::new();
    let builder = builder();
    loop {
        let accepted = tokio::select! {
            () = stop.soft.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let connection = serve_connection(stream, builder.clone(), service.clone(), stop.clone());
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
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Ok((stream, place)),
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

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    // With a timer, hyper ends connections whose headers take over 30 seconds.
    builder.http1().timer(TokioTimer::new());
    builder
}

async fn serve_connection<S>(stream: TcpStream, builder: Builder<TokioExecutor>, service: S, stop: Stop)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    // Small answers go out at once. If the option can't be set the connection is as good as gone.
    let _ = stream.set_nodelay(true);
    let first = async { matches!(timeout(FIRST_BYTE_TIMEOUT, stream.peek(&mut [0])).await, Ok(Ok(1..))) };
    tokio::select! {
        has_begun = first => if !has_begun { return },
        () = stop.soft.cancelled() => return,
    }
    let service = TowerToHyperService::new(service.map_request(|request: Request<Incoming>| request.map(Body::new)));
    let connection = builder.serve_connection(TokioIo::new(stream), service);
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
