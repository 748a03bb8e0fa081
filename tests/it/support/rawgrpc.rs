//! Calls of any bytes to any path, for what no stub would send.

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::TcpStream;
use tonic::Status;

use super::within;

/// An HTTP/2 connection to a server.
#[derive(Clone, Debug)]
pub(crate) struct RawGrpc {
    send: SendRequest<Bytes>,
    authority: String,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    /// The HTTP status.
    pub(crate) http_status: u16,
    pub(crate) headers: HeaderMap,
    /// The data as it came, frames of gRPC and all.
    pub(crate) data: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl RawGrpc {
    /// Connects to `host:port`.
    pub(crate) async fn connect(authority: &str) -> Self {
        let stream = TcpStream::connect(authority).await.expect("a connection");
        let (send, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        Self { send, authority: authority.to_owned() }
    }

    /// A call of gRPC: `path` is `/package.Service/Method`, `body` goes as it is (see [`frame`]), `headers` are added to
    /// those that gRPC asks for, or replace them.
    pub(crate) async fn call(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> RawAnswer {
        let mut all = HeaderMap::new();
        for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")].iter().chain(headers) {
            all.insert(name.parse::<http::HeaderName>().expect("a header's name"), value.parse().expect("its value"));
        }
        self.request("POST", path, all, body.into()).await
    }

    /// Any request of HTTP/2.
    pub(crate) async fn request(&self, method: &str, path: &str, headers: HeaderMap, body: Bytes) -> RawAnswer {
        let uri = format!("http://{}{path}", self.authority);
        let mut request = Request::builder().method(method).uri(uri).body(()).expect("a request");
        *request.headers_mut() = headers;
        within("an answer of HTTP/2", self.exchange(request, body)).await.expect("an answer of HTTP/2")
    }

    async fn exchange(&self, request: Request<()>, body: Bytes) -> Result<RawAnswer, h2::Error> {
        let mut send = self.send.clone().ready().await?;
        let (response, mut stream) = send.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            // The server may answer before it has read all; what it thinks of the body is then in its answer.
            let _ = stream.send_data(body, true);
        }
        let (head, mut body) = response.await?.into_parts();
        let mut data = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            data.put(chunk);
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        Ok(RawAnswer { http_status: head.status.as_u16(), headers: head.headers, data: data.freeze(), trailers })
    }
}

impl RawAnswer {
    /// The status of gRPC.
    #[track_caller]
    pub(crate) fn status(&self) -> Status {
        Status::from_header_map(&self.trailers)
            .or_else(|| Status::from_header_map(&self.headers))
            .unwrap_or_else(|| panic!("no grpc-status in {self:?}"))
    }

    /// The error that the status is.
    #[track_caller]
    pub(crate) fn error(&self) -> taghook_client::Error {
        self.status().into()
    }

    /// The message of a unary answer.
    #[track_caller]
    pub(crate) fn message<M: Message + Default>(&self) -> M {
        let frame = self.data.get(5..).unwrap_or_else(|| panic!("no message in {self:?}"));
        M::decode(frame).expect("a message")
    }
}

/// A frame of gRPC around any bytes, not compressed.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.len().try_into().expect("a message of under 4 GiB"));
    frame.put_slice(message);
    frame.freeze()
}
