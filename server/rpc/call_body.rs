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
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::Span;

use crate::error::Error;

/// What ends a stream from outside.
#[derive(Default)]
pub(super) struct End {
    /// The caller's deadline.
    pub(super) deadline: Option<Instant>,
    /// The end of the caller's key.
    pub(super) key: Option<BoxFuture<'static, Error>>,
    /// The stop of the server.
    pub(super) stop: Option<CancellationToken>,
}

impl End {
    /// Waits for what cuts a stream off, whatever it still has to say.
    fn cut(deadline: Option<Instant>, key: Option<BoxFuture<'static, Error>>) -> Option<BoxFuture<'static, Error>> {
        let deadline = deadline.map(|deadline| {
            Box::pin(async move {
                tokio::time::sleep_until(deadline).await;
                Error::DeadlineExceeded
            }) as BoxFuture<'_, _>
        });
        match (deadline, key) {
            (Some(deadline), Some(key)) => Some(Box::pin(async move {
                tokio::select! {
                    error = deadline => error,
                    error = key => error,
                }
            })),
            (deadline, key) => deadline.or(key),
        }
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
    /// Ends the stream at once.
    cut: Option<BoxFuture<'static, Error>>,
    /// Ends the stream when it has nothing more to say.
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    is_ended: bool,
    progress: Progress,
    /// The call's place, given back with the body.
    _permit: Option<OwnedSemaphorePermit>,
}

impl CallBody {
    pub(super) fn new(inner: Body, end: End, permit: Option<OwnedSemaphorePermit>, progress: Progress) -> Self {
        let stop = end.stop.map(|stop| Box::pin(stop.cancelled_owned()));
        Self { inner, cut: End::cut(end.deadline, end.key), stop, is_ended: false, progress, _permit: permit }
    }

    /// Ends the stream with an error.
    fn end(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.is_ended = true;
        let mut trailers = HeaderMap::new();
        let written = self.progress.span.in_scope(|| Status::from(error)).add_header(&mut trailers);
        self.progress.see_status(&trailers);
        Poll::Ready(Some(written.map(|()| Frame::trailers(trailers))))
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
        if let Some(cut) = &mut this.cut
            && let Poll::Ready(error) = cut.as_mut().poll(context)
        {
            return this.end(error);
        }
        // Before the stop: the last state of a health watch comes before its end.
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(context) {
            if let Some(Ok(frame)) = &frame
                && let Some(trailers) = frame.trailers_ref()
            {
                this.progress.see_status(trailers);
            }
            return Poll::Ready(frame);
        }
        if let Some(stop) = &mut this.stop
            && stop.as_mut().poll(context).is_ready()
        {
            return this.end(Error::ShuttingDown);
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
