//! The stream of outcomes, which resumes by itself where it was.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use tokio::time::{sleep, timeout};
use tonic::{Status, Streaming};

use crate::channel::{Channel, backoff};
use crate::error::Error;
use crate::v1::delivery_service_client::DeliveryServiceClient;
use crate::v1::stream_outcomes_request::Position;
use crate::v1::stream_outcomes_request::{self, Filter};
use crate::v1::stream_outcomes_response::Entry as Reported;
use crate::v1::{Outcome, StreamOutcomesRequest, StreamOutcomesResponse};

/// An open stream that is silent for longer is taken for dead: the service sends a checkpoint every 15 seconds.
const LONGEST_SILENCE: Duration = Duration::from_secs(45);

/// Where the stream begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// After the newest outcome.
    Now,
    /// With the oldest outcome that is kept.
    Beginning,
    /// After the message that had this cursor.
    After(String),
}

/// An entry of the log of outcomes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Entry {
    /// What happened.
    pub outcome: Outcome,
    /// The position after it: give it to [`Start::After`] to go on from here another time.
    pub cursor: String,
}

/// The outcomes, in the order of their commit: a [`Stream`] of entries.
///
/// When the connection is lost or the server ends the stream, it goes on after the last cursor, on whichever server
/// answers, without gap and without repeat, waiting up to 10 seconds between tries and trying for ever. An error comes
/// out only if trying again can't help, and ends the stream: `CursorExpired` and `CursorAhead` (OUT_OF_RANGE),
/// `CursorInvalid`, a key that doesn't work (any longer), a bad filter.
#[must_use = "nothing is called before it is polled"]
pub struct Outcomes {
    messages: BoxStream<'static, Result<StreamOutcomesResponse, Error>>,
    /// An entry that came while the start was awaited.
    held: Option<Result<Entry, Error>>,
    cursor: Option<String>,
    /// Whether a message has come.
    is_started: bool,
}

impl Outcomes {
    pub(crate) fn new(
        service: DeliveryServiceClient<Channel>,
        open_timeout: Duration,
        filter: Filter,
        start: Start,
    ) -> Self {
        let cursor = match &start {
            Start::After(cursor) => Some(cursor.clone()),
            Start::Now | Start::Beginning => None,
        };
        let follower = Follower { service, open_timeout, request: request(filter, start), open: None, failures: 0 };
        Self { messages: follower.into_stream().boxed(), held: None, cursor, is_started: false }
    }

    /// Waits until the server has fixed the start, so that whatever is done after it is seen. While no server can be
    /// reached this waits on.
    ///
    /// # Errors
    ///
    /// The server refused the stream: the stream has ended.
    pub async fn ready(&mut self) -> Result<(), Error> {
        if self.is_started {
            return Ok(());
        }
        match self.messages.next().await {
            Some(Ok(message)) => self.held = self.accept(message).map(Ok),
            Some(Err(error)) => return Err(error),
            None => {}
        }
        Ok(())
    }

    /// The next entry. `None` once an error has ended the stream. Safe to drop before it returns: nothing is lost.
    pub async fn next(&mut self) -> Option<Result<Entry, Error>> {
        StreamExt::next(self).await
    }

    /// The position after all that was returned so far; later than the last entry's cursor if nothing that the filter
    /// selects lies between. `None` before the start is known.
    #[must_use]
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// Notes the position; returns the entry, if it is one.
    fn accept(&mut self, message: StreamOutcomesResponse) -> Option<Entry> {
        self.is_started = true;
        match message.entry {
            Some(Reported::Outcome(outcome)) => Some(Entry { outcome, cursor: message.cursor }),
            // A checkpoint, or something that only a later version knows.
            _ => {
                self.cursor = Some(message.cursor);
                None
            }
        }
    }
}

impl Stream for Outcomes {
    type Item = Result<Entry, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let next = match self.held.take() {
                Some(held) => Some(held),
                None => match ready!(self.messages.poll_next_unpin(context)) {
                    Some(Ok(message)) => match self.accept(message) {
                        Some(entry) => Some(Ok(entry)),
                        None => continue,
                    },
                    Some(Err(error)) => Some(Err(error)),
                    None => None,
                },
            };
            if let Some(Ok(entry)) = &next {
                self.cursor = Some(entry.cursor.clone());
            }
            return Poll::Ready(next);
        }
    }
}

impl fmt::Debug for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcomes").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

fn request(filter: Filter, start: Start) -> StreamOutcomesRequest {
    let position = match start {
        Start::Now => Position::StartAt(stream_outcomes_request::Start::Now.into()),
        Start::Beginning => Position::StartAt(stream_outcomes_request::Start::Beginning.into()),
        Start::After(cursor) => Position::AfterCursor(cursor),
    };
    StreamOutcomesRequest { position: Some(position), filter: Some(filter) }
}

/// Reads one stream after the other.
struct Follower {
    service: DeliveryServiceClient<Channel>,
    open_timeout: Duration,
    /// What the next stream is asked for.
    request: StreamOutcomesRequest,
    open: Option<Streaming<StreamOutcomesResponse>>,
    /// Streams in a row that brought nothing.
    failures: u32,
}

impl Follower {
    fn into_stream(self) -> impl Stream<Item = Result<StreamOutcomesResponse, Error>> + Send {
        stream::unfold(Some(self), |follower| async {
            let mut follower = follower?;
            match follower.next().await {
                Ok(message) => Some((Ok(message), Some(follower))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// The next message, from this stream or a later one.
    async fn next(&mut self) -> Result<StreamOutcomesResponse, Error> {
        loop {
            let retry_after = match self.read().await.map_err(Error::from) {
                Ok(Some(message)) => {
                    self.failures = 0;
                    self.request.position = Some(Position::AfterCursor(message.cursor.clone()));
                    return Ok(message);
                }
                Ok(None) => None,
                Err(error) if error.is_final() => return Err(error),
                Err(error) => error.retry_after,
            };
            self.open = None;
            sleep(backoff(self.failures, retry_after)).await;
            self.failures += 1;
        }
    }

    /// Reads a message of the open stream, or of a new one. `None` when the server has ended the stream.
    async fn read(&mut self) -> Result<Option<StreamOutcomesResponse>, Status> {
        let stream = match &mut self.open {
            Some(stream) => stream,
            None => {
                let open = self.service.stream_outcomes(self.request.clone());
                let opened = timeout(self.open_timeout, open).await.map_err(|_| Status::unavailable("no answer"))??;
                self.open.insert(opened.into_inner())
            }
        };
        timeout(LONGEST_SILENCE, stream.message()).await.map_err(|_| Status::unavailable("the stream is silent"))?
    }
}
