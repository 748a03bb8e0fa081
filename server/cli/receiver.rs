//! An HTTP server that takes whatever comes and hands it over.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use taghook::clock::Clock;
use taghook::domain::time::Micros;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// The largest body that is taken.
pub(crate) const MAX_BODY_BYTES: usize = 5 * 1024 * 1024;
const MAX_CONNECTIONS: usize = 256;
/// Requests that wait for whoever reads them; further ones wait for their answer.
const QUEUE: usize = 64;
const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The wait after a connection that couldn't be accepted, as when there are no file handles left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running server. It stops when it is dropped.
#[derive(Debug)]
pub(crate) struct Receiver {
    address: SocketAddr,
    requests: mpsc::Receiver<Received>,
    _server: AbortOnDropHandle<()>,
}

/// A request that came.
#[derive(Debug)]
pub(crate) struct Received {
    /// When its body had come.
    pub(crate) time: Micros,
    /// From where.
    pub(crate) peer: SocketAddr,
    /// The HTTP method.
    pub(crate) method: Method,
    /// Path and query, as the request line has them.
    pub(crate) uri: Uri,
    /// All headers.
    pub(crate) headers: HeaderMap,
    /// The body, or why there is none.
    pub(crate) body: Result<Bytes, BodyError>,
    /// What it was answered with.
    pub(crate) status: StatusCode,
}

/// Why a body wasn't read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// Over [`MAX_BODY_BYTES`].
    #[error("the body is over {} MiB", MAX_BODY_BYTES / (1024 * 1024))]
    TooLarge,
    /// It took too long.
    #[error("the body took over {} s", BODY_TIMEOUT.as_secs())]
    TooSlow,
    /// The connection ended, or its framing is wrong.
    #[error("the body broke off")]
    Broken,
}

impl Receiver {
    /// Starts a server that answers every request with `status`.
    ///
    /// # Errors
    ///
    /// The address can't be listened on.
    pub(crate) async fn start(listen: SocketAddr, status: StatusCode, clock: Clock) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (sender, requests) = mpsc::channel(QUEUE);
        let desk = Arc::new(Desk { status, clock, sender });
        Ok(Self { address, requests, _server: AbortOnDropHandle::new(tokio::spawn(accept(listener, desk))) })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next request.
    ///
    /// # Errors
    ///
    /// The server has ended, which it doesn't by itself.
    pub(crate) async fn next(&mut self) -> io::Result<Received> {
        self.requests.recv().await.ok_or_else(|| io::Error::other("the receiver has ended"))
    }
}

/// What the connections share.
struct Desk {
    status: StatusCode,
    clock: Clock,
    sender: mpsc::Sender<Received>,
}

impl Desk {
    async fn take(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = read(body).await;
        let status = match body {
            Ok(_) => self.status,
            Err(BodyError::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Err(BodyError::TooSlow) => StatusCode::REQUEST_TIMEOUT,
            Err(BodyError::Broken) => StatusCode::BAD_REQUEST,
        };
        let received = Received {
            time: self.clock.now(),
            peer,
            method: head.method,
            uri: head.uri,
            headers: head.headers,
            body,
            status,
        };
        // Whoever reads may have gone; then this server goes too.
        let _ = self.sender.send(received).await;
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        response
    }
}

async fn read(body: Incoming) -> Result<Bytes, BodyError> {
    match timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY_BYTES).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge),
        Ok(Err(_)) => Err(BodyError::Broken),
        Err(_) => Err(BodyError::TooSlow),
    }
}

/// Accepts connections for ever.
async fn accept(listener: TcpListener, desk: Arc<Desk>) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                let desk = Arc::clone(&desk);
                connections.spawn(async move {
                    serve(stream, peer, desk).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, desk: Arc<Desk>) {
    let service = service_fn(|request| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(desk.take(request, peer).await) }
    });
    // A connection that breaks is the caller's business; its requests so far are handed over.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
