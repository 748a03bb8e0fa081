//! Where the webhooks go: it answers each at once, and notes when which contact's first request came.
//!
//! It is as little of an HTTP server as the senders here need, so that what is measured isn't the sink.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

/// What stands before a contact's number in its e-mail address.
pub(crate) const MARK: &[u8] = b"bench-";

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// What came under a `webhook-id`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receipt {
    /// How many requests.
    pub(crate) requests: usize,
}

/// A receiver of webhooks. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sink(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    start: Instant,
    /// When each contact's first request came, in nanoseconds after the start; zero for those that didn't yet.
    arrivals: Vec<AtomicU64>,
    /// How many contacts had a request.
    arrived: AtomicUsize,
    /// What came under each `webhook-id`, if that is written down.
    ledger: Option<Mutex<HashMap<String, Receipt>>>,
    /// Told once a run's last contact has come.
    awaited: watch::Sender<usize>,
}

impl Sink {
    /// Listens for the requests of contacts 0 to `contacts`.
    pub(crate) async fn start(contacts: usize) -> io::Result<Self> {
        Self::listen(contacts, None).await
    }

    /// The same, and writes down what comes under which `webhook-id`.
    pub(crate) async fn start_with_ledger(contacts: usize) -> io::Result<Self> {
        Self::listen(contacts, Some(Mutex::default())).await
    }

    async fn listen(contacts: usize, ledger: Option<Mutex<HashMap<String, Receipt>>>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let sink = Self(Arc::new(Inner {
            address: listener.local_addr()?,
            start: Instant::now(),
            arrivals: (0..contacts).map(|_| AtomicU64::new(0)).collect(),
            arrived: AtomicUsize::new(0),
            ledger,
            awaited: watch::Sender::new(usize::MAX),
        }));
        let accepting = sink.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let sink = accepting.clone();
                // A connection that breaks is its sender's affair.
                tokio::spawn(async move { sink.serve(stream).await });
            }
        });
        Ok(sink)
    }

    /// A URL that is received.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.0.address)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Nanoseconds since the start.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.0.start.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    /// When a contact's first request came; `None` if none did.
    pub(crate) fn arrival_ns(&self, contact: usize) -> Option<u64> {
        let arrival = self.0.arrivals.get(contact)?.load(Ordering::Relaxed);
        (arrival != 0).then_some(arrival)
    }

    /// How many contacts had a request so far.
    pub(crate) fn arrived(&self) -> usize {
        self.0.arrived.load(Ordering::Relaxed)
    }

    /// What came so far, by `webhook-id`.
    pub(crate) fn ledger(&self) -> HashMap<String, Receipt> {
        let ledger = self.0.ledger.as_ref();
        ledger.map(|ledger| ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap_or_default()
    }

    /// Returns once `count` contacts had a request.
    pub(crate) async fn wait_for(&self, count: usize) {
        let mut awaited = self.0.awaited.subscribe();
        self.0.awaited.send_replace(count);
        while self.arrived() < count {
            if awaited.changed().await.is_err() {
                return;
            }
        }
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut bytes = Vec::with_capacity(4_096);
        loop {
            let Some(length) = request_length(&bytes) else {
                if stream.read_buf(&mut bytes).await? == 0 {
                    return Ok(());
                }
                continue;
            };
            self.note(bytes.get(..length).unwrap_or_default());
            bytes.drain(..length);
            stream.write_all(ANSWER).await?;
        }
    }

    fn note(&self, request: &[u8]) {
        if let Some(ledger) = &self.0.ledger {
            let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.entry(id_of(request)).or_insert(Receipt { requests: 0 }).requests += 1;
        }
        let Some(slot) = contact_of(request).and_then(|contact| self.0.arrivals.get(contact)) else { return };
        if slot.compare_exchange(0, self.now_ns(), Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let arrived = self.0.arrived.fetch_add(1, Ordering::Relaxed) + 1;
        if arrived >= *self.0.awaited.borrow() {
            self.0.awaited.send_modify(|_| {});
        }
    }
}

/// The length of the first request in these bytes, if it is whole.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(bytes.get(..head)?).ok()?;
    let is_length = |line: &&str| line.get(..15).is_some_and(|name| name.eq_ignore_ascii_case("content-length:"));
    let body = text.lines().find(is_length).and_then(|line| line.get(15..)?.trim().parse().ok()).unwrap_or(0);
    (bytes.len() >= head + body).then_some(head + body)
}

/// The `webhook-id` of a request.
fn id_of(request: &[u8]) -> String {
    const NAME: &[u8] = b"webhook-id: ";
    let place =
        request.windows(NAME.len()).position(|window| window == NAME).map_or(request.len(), |it| it + NAME.len());
    let id = request.get(place..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_graphic());
    id.map(|byte| char::from(*byte)).collect()
}

/// The number of the contact that a request is about.
fn contact_of(request: &[u8]) -> Option<usize> {
    let place = request.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let digits = request.get(place..)?.iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0')))
}
