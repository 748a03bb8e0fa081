//! A service that does nothing, in a process of its own: what the gRPC of such a call costs by itself.

use std::convert::Infallible;
use std::path::Path;
use std::process::Stdio;
use std::task::{Context, Poll};

use http::{Request, Response};
use taghook_client::v1::{TagContactRequest, TagContactResponse};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::{Grpc, NamedService, UnaryService};
use tower_service::Service;

use crate::Failure;

/// Answers TagContact with nothing.
#[derive(Clone)]
struct Noop;

impl NamedService for Noop {
    const NAME: &'static str = "taghook.v1.ContactService";
}

impl Service<Request<Body>> for Noop {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async { Ok(Grpc::new(tonic_prost::ProstCodec::default()).unary(Self, request).await) })
    }
}

impl UnaryService<TagContactRequest> for Noop {
    type Response = TagContactResponse;
    type Future = BoxFuture<tonic::Response<TagContactResponse>, tonic::Status>;

    fn call(&mut self, _: tonic::Request<TagContactRequest>) -> Self::Future {
        Box::pin(async { Ok(tonic::Response::new(TagContactResponse::default())) })
    }
}

/// Serves until it is killed; says first where.
pub(crate) async fn serve() -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    Ok(tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(Noop)
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?)
}

/// Such a service; killed when dropped.
pub(crate) struct Process {
    child: Child,
    /// `host:port`.
    pub(crate) authority: String,
}

impl Process {
    /// Starts one.
    pub(crate) async fn start() -> Result<Self, Failure> {
        let this = std::env::current_exe()?;
        let mut child = Command::new::<&Path>(this.as_ref())
            .arg("noop")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or("it says nothing")?;
        let authority = BufReader::new(output).lines().next_line().await?.ok_or("it has ended")?;
        Ok(Self { child, authority })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }
}
