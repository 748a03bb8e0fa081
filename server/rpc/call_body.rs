//! The body of an answer: it holds the call's place until its end, ends streams that must end, and notes how the call
//! ended.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::Span;

use crate::error::Error;

/// What ends a stream from outside.
#[derive(Default)]
pub(super) struct End {
    /// The caller's deadline.
    pub(super) deadline: Option<Instant>,
    /// The stop of the server.
    pub(super) stop: Option<CancellationToken>,
}

impl End {
    /// Waits for the end; `None` if there is none to wait for.
    fn wait(self) -> Option<BoxFuture<'static, Error>> {
        if self.deadline.is_none() && self.stop.is_none() {
            return None;
        }
        Some(Box::pin(async move {
            let deadline = async {
                match self.deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let stop = async {
                match &self.stop {
                    Some(stop) => stop.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = deadline => Error::DeadlineExceeded,
                () = stop => Error::ShuttingDown,
            }
        }))
    }
}

/// How far a call has come; logs its end.
pub(super) struct Progress {
    span: Span,
    started: Instant,
    code: Option<Code>,
}

impl Progress {
    pub(super) fn begin(span: Span) -> Self {
        Self { span, started: Instant::now(), code: None }
    }

    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// Notes the status, if it is among these headers or trailers.
    pub(super) fn see_status(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get(Status::GRPC_STATUS) {
            self.code = Some(Code::from_bytes(status.as_bytes()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // Without a status it was the caller, or its connection, that ended the call.
        let duration_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        match self.code {
            Some(code) => tracing::debug!(parent: &self.span, ?code, duration_us, "call ended"),
            None => tracing::debug!(parent: &self.span, duration_us, "call abandoned"),
        }
    }
}

/// The body of an answer.
pub(super) struct CallBody {
    inner: Body,
    end: Option<BoxFuture<'static, Error>>,
    is_ended: bool,
    progress: Progress,
    /// The call's place, given back with the body.
    _permit: Option<OwnedSemaphorePermit>,
}

impl CallBody {
    pub(super) fn new(inner: Body, end: End, permit: Option<OwnedSemaphorePermit>, progress: Progress) -> Self {
        Self { inner, end: end.wait(), is_ended: false, progress, _permit: permit }
    }
}

impl HttpBody for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.is_ended {
            return Poll::Ready(None);
        }
        // First what the stream has to say: the last state of a health watch comes before its end.
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(context) {
            if let Some(Ok(frame)) = &frame
                && let Some(trailers) = frame.trailers_ref()
            {
                this.progress.see_status(trailers);
            }
            return Poll::Ready(frame);
        }
        let Some(end) = &mut this.end else { return Poll::Pending };
        let Poll::Ready(error) = end.as_mut().poll(context) else {
            return Poll::Pending;
        };
        this.is_ended = true;
        let mut trailers = HeaderMap::new();
        Status::from(error).add_header(&mut trailers)?;
        this.progress.see_status(&trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
