//! A webhook receiver that does what a test says, on a real socket: right answers, wrong ones, and none.
//!
//! It reads HTTP/1.1 by hand, so that a test sees the request line as it was sent and can answer with any bytes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use taghook_client::webhook;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};

use super::within;

/// A running receiver. It ends when the test does.
#[derive(Debug)]
pub(crate) struct Receiver {
    address: SocketAddr,
    requests: mpsc::UnboundedReceiver<Received>,
    shared: Arc<Shared>,
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: String,
    /// Path and query, byte for byte.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// How a request is answered: 200 and nothing else, unless more is said.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    gate: Option<Gate>,
    act: Act,
}

#[derive(Clone, Debug)]
enum Act {
    /// These bytes, then the next request.
    Write(Bytes),
    /// These bytes, then one more after each pause.
    Drip { head: Bytes, body: Bytes, pause: Duration },
    /// These bytes, then more of them, for ever.
    Flood { head: Bytes },
    /// The connection ends, after these bytes.
    Close(Bytes),
    /// The connection is torn down (RST).
    Reset,
}

/// Holds answers back until it is opened.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<watch::Sender<bool>>);

#[derive(Debug)]
struct Shared {
    /// Each is used once, before `usual`.
    next: Mutex<VecDeque<Answer>>,
    usual: Mutex<Answer>,
    requests: AtomicUsize,
    /// Requests that came and aren't answered yet, and the most there ever were.
    open: AtomicUsize,
    peak: AtomicUsize,
    connections: AtomicUsize,
    sender: mpsc::UnboundedSender<Received>,
}

impl Receiver {
    /// Starts one on a free port of 127.0.0.1.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (sender, requests) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            next: Mutex::default(),
            usual: Mutex::new(Answer::ok()),
            requests: AtomicUsize::default(),
            open: AtomicUsize::default(),
            peak: AtomicUsize::default(),
            connections: AtomicUsize::default(),
            sender,
        });
        let address = listener.local_addr().expect("its address");
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, requests, shared }
    }

    /// The URL of a path here.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How requests are answered from now on.
    pub(crate) fn answer(&self, answer: Answer) {
        *self.shared.usual.lock().unwrap() = answer;
    }

    /// How the next requests are answered, one after the other; those after them get the usual answer.
    pub(crate) fn answer_next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.shared.next.lock().unwrap().extend(answers);
    }

    /// The next request that the test hasn't seen.
    pub(crate) async fn recv(&mut self) -> Received {
        within("a request at the receiver", self.requests.recv()).await.expect("the receiver runs")
    }

    /// The next `count` requests.
    pub(crate) async fn recv_all(&mut self, count: usize) -> Vec<Received> {
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            all.push(self.recv().await);
        }
        all
    }

    /// A request that the test hasn't seen, if there is one now.
    pub(crate) fn try_recv(&mut self) -> Option<Received> {
        self.requests.try_recv().ok()
    }

    /// How many requests have come since the start.
    pub(crate) fn count(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// The most requests that were unanswered at a time.
    pub(crate) fn peak(&self) -> usize {
        self.shared.peak.load(Ordering::SeqCst)
    }

    /// How many connections have come since the start.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Received {
    /// A header's value.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("no header {name} in {self:?}"));
        value.to_str().expect("visible ASCII")
    }

    /// The `webhook-id` header: the delivery's id.
    #[track_caller]
    pub(crate) fn webhook_id(&self) -> &str {
        self.header(webhook::HEADER_ID)
    }

    /// The body as text.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a body in JSON")
    }

    /// The names and values of a form body, or of the query of a GET.
    pub(crate) fn form(&self) -> Vec<(String, String)> {
        form_urlencoded::parse(self.signed()).into_owned().collect()
    }

    /// What is signed: the body, or the query of a GET.
    pub(crate) fn signed(&self) -> &[u8] {
        if self.method == "GET" {
            self.target.split_once('?').map_or(b"", |(_, query)| query.as_bytes())
        } else {
            &self.body
        }
    }

    /// Checks the signature, with the time of the request as the present one: the server's clock may be a test's.
    pub(crate) fn verify(&self, secret: &str) -> Result<(), webhook::VerifyError> {
        let timestamp_s = self.header(webhook::HEADER_TIMESTAMP).parse().expect("seconds");
        let sent = SystemTime::UNIX_EPOCH + Duration::from_secs(timestamp_s);
        webhook::verify(secret, &self.headers, self.signed(), sent, Duration::ZERO)
    }
}

impl Answer {
    /// 200 with no body.
    pub(crate) fn ok() -> Self {
        Self::status(200)
    }

    /// A status with no body.
    pub(crate) fn status(status: u16) -> Self {
        Self::new(status, &[], "")
    }

    /// A status, headers and a body.
    pub(crate) fn new(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut bytes = head(status, headers, Some(body.len())).to_vec();
        bytes.extend_from_slice(body);
        Self::raw(bytes)
    }

    /// Any bytes.
    pub(crate) fn raw(bytes: impl Into<Bytes>) -> Self {
        Self::acting(Act::Write(bytes.into()))
    }

    /// 200 with a body that comes byte by byte.
    pub(crate) fn drip(body: impl Into<Bytes>, pause: Duration) -> Self {
        let body = body.into();
        let head = head(200, &[], Some(body.len()));
        Self::acting(Act::Drip { head, body, pause })
    }

    /// These bytes one by one, from the first of the head on.
    pub(crate) fn drip_raw(bytes: impl Into<Bytes>, pause: Duration) -> Self {
        Self::acting(Act::Drip { head: Bytes::new(), body: bytes.into(), pause })
    }

    /// 200 with a body that has no end.
    pub(crate) fn flood() -> Self {
        let head = head(200, &[], None);
        Self::acting(Act::Flood { head })
    }

    /// These bytes, then the end of the connection.
    pub(crate) fn close_after(bytes: impl Into<Bytes>) -> Self {
        Self::acting(Act::Close(bytes.into()))
    }

    /// No answer: the connection ends.
    pub(crate) fn close() -> Self {
        Self::close_after(Bytes::new())
    }

    /// No answer: the connection is torn down.
    pub(crate) fn reset() -> Self {
        Self::acting(Act::Reset)
    }

    /// The same, once the gate is open.
    pub(crate) fn behind(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    const fn acting(act: Act) -> Self {
        Self { gate: None, act }
    }
}

impl Gate {
    /// A closed gate.
    pub(crate) fn closed() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Lets the answers behind it go.
    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is open.
    pub(crate) async fn passed(&self) {
        // The sender is in this very gate.
        self.0.subscribe().wait_for(|is_open| *is_open).await.expect("the gate");
    }
}

/// A port of 127.0.0.1 that is taken, so that no other test gets it, and where nobody listens.
pub(crate) fn silent_port() -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    socket
}

fn head(status: u16, headers: &[(&str, &str)], length: Option<usize>) -> Bytes {
    let mut text = format!("HTTP/1.1 {status} x\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(length) = length {
        text.push_str(&format!("content-length: {length}\r\n"));
    }
    text.push_str("\r\n");
    text.into()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        shared.connections.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(serve(stream, Arc::clone(&shared)));
    }
}

/// Answers the requests of a connection until one of the two ends it.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut buffer = BytesMut::new();
    while let Some(received) = read(&mut stream, &mut buffer).await {
        let next = shared.next.lock().unwrap().pop_front();
        let answer = next.unwrap_or_else(|| shared.usual.lock().unwrap().clone());
        shared.requests.fetch_add(1, Ordering::SeqCst);
        shared.peak.fetch_max(shared.open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // The test may have ended.
        let _ = shared.sender.send(received);
        if let Some(gate) = &answer.gate {
            gate.passed().await;
        }
        // Before the answer: whoever gets it may send the next request at once.
        shared.open.fetch_sub(1, Ordering::SeqCst);
        if !write(&mut stream, answer).await {
            return;
        }
    }
}

/// Answers. Whether the connection goes on.
async fn write(stream: &mut TcpStream, answer: Answer) -> bool {
    match answer.act {
        Act::Write(bytes) => stream.write_all(&bytes).await.is_ok(),
        Act::Drip { head, body, pause } => {
            let mut is_open = stream.write_all(&head).await.is_ok();
            let mut pace = tokio::time::interval_at(tokio::time::Instant::now() + pause, pause);
            for byte in body {
                pace.tick().await;
                is_open = is_open && stream.write_all(&[byte]).await.is_ok();
            }
            is_open
        }
        Act::Flood { head } => {
            let mut is_open = stream.write_all(&head).await.is_ok();
            while is_open {
                is_open = stream.write_all(&[b'x'; 64 * 1024]).await.is_ok();
            }
            false
        }
        Act::Close(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            false
        }
        Act::Reset => {
            let _ = stream.set_zero_linger();
            false
        }
    }
}

/// Reads a request; `None` at the end of the connection.
async fn read(stream: &mut TcpStream, buffer: &mut BytesMut) -> Option<Received> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer.split_to(end).to_vec()).expect("a head in UTF-8");
    buffer.advance(4);
    let mut lines = head.split("\r\n");
    let mut words = lines.next().expect("a request line").split(' ');
    let (method, target) = (words.next().expect("a method").to_owned(), words.next().expect("a target").to_owned());
    assert_eq!((words.next(), words.next()), (Some("HTTP/1.1"), None), "a request line of HTTP/1.1");
    // Browsers have their own ways.
    let is_ours = !head.contains("Mozilla/");
    let headers: HeaderMap = lines.map(|line| header(line, is_ours)).collect();
    let length = headers.get("content-length").map_or(0, |length| length.to_str().unwrap().parse().unwrap());
    assert!(!headers.contains_key("transfer-encoding"), "bodies have a length: {headers:?}");
    while buffer.len() < length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = buffer.split_to(length).freeze();
    Some(Received { method, target, headers, body })
}

fn header(line: &str, is_ours: bool) -> (HeaderName, HeaderValue) {
    let (name, value) = line.split_once(':').expect("a header");
    assert!(!is_ours || name == name.to_lowercase(), "{name}: headers are sent in lower case");
    (name.parse().expect("a header's name"), value.trim().parse().expect("a header's value"))
}
