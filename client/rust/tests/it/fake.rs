//! A server of gRPC whose answers are a test's, one for each call.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, Response};
use prost::Message;
use taghook_client::{Client, Code, Options};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

/// How long a test waits for what is sure to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server's end of the test: it sees the calls and answers them.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    calls: mpsc::UnboundedReceiver<Call>,
}

/// A call that waits for its answer.
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    /// The request, without its frame.
    pub(crate) message: Bytes,
    respond: SendResponse<Bytes>,
}

/// The rest of an answer that has begun.
pub(crate) struct Open(h2::SendStream<Bytes>);

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, calls) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, sender.clone()));
            }
        });
        Self { address, calls }
    }

    pub(crate) fn options(&self) -> Options {
        Options::new(format!("http://{}", self.address)).api_key("thk_test")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.options()).unwrap()
    }

    /// The next call.
    pub(crate) async fn call(&mut self) -> Call {
        within(self.calls.recv()).await.unwrap()
    }

    /// Whether a call has come that nobody has taken.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }
}

impl Call {
    /// The request.
    pub(crate) fn request<M: Message + Default>(&self) -> M {
        M::decode(self.message.clone()).unwrap()
    }

    /// Answers with one message.
    pub(crate) fn answer(self, message: &impl Message) {
        let mut open = self.open();
        open.send(message);
        open.end(&Status::ok(""));
    }

    /// Refuses in the headers, as servers do that have nothing else to say.
    pub(crate) fn refuse(mut self, status: &Status) {
        let mut headers = response();
        status.add_header(headers.headers_mut()).unwrap();
        self.respond.send_response(headers, true).unwrap();
    }

    /// Refuses in the trailers.
    pub(crate) fn refuse_late(self, status: &Status) {
        self.open().end(status);
    }

    /// Answers like a proxy.
    pub(crate) fn http_status(mut self, status: u16) {
        let response = Response::builder().status(status).body(()).unwrap();
        self.respond.send_response(response, true).unwrap();
    }

    /// Breaks the call.
    pub(crate) fn reset(mut self) {
        self.respond.send_reset(h2::Reason::INTERNAL_ERROR);
    }

    /// Begins an answer.
    pub(crate) fn open(mut self) -> Open {
        Open(self.respond.send_response(response(), false).unwrap())
    }
}

impl Open {
    pub(crate) fn send(&mut self, message: &impl Message) {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(message.encoded_len().try_into().unwrap());
        message.encode(&mut frame).unwrap();
        self.0.send_data(frame.freeze(), false).unwrap();
    }

    pub(crate) fn end(mut self, status: &Status) {
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers).unwrap();
        self.0.send_trailers(trailers).unwrap();
    }

    pub(crate) fn reset(mut self) {
        self.0.send_reset(h2::Reason::CANCEL);
    }
}

/// Waits, but not for ever.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// A refusal of the service.
pub(crate) fn refusal(code: Code, reason: &str, metadata: &[(&str, &str)], retry_after: Option<Duration>) -> Status {
    let metadata: HashMap<_, _> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut details = ErrorDetails::with_error_info(reason, "taghook", metadata);
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    Status::with_error_details(code, reason.to_lowercase(), details)
}

fn response() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

async fn serve(stream: TcpStream, calls: mpsc::UnboundedSender<Call>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let calls = calls.clone();
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let mut frame = BytesMut::new();
            while let Some(Ok(chunk)) = body.data().await {
                frame.put(chunk);
            }
            let message = frame.freeze().slice(5..);
            let call = Call { path: head.uri.path().to_owned(), headers: head.headers, message, respond };
            // The test may have ended.
            let _ = calls.send(call);
        });
    }
}
