//! Bodies of answers: nothing, bytes at once, or a bounded stream of chunks.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

/// Chunks that may wait in a stream for a slow reader; the writer waits when there are more.
const STREAM_DEPTH: usize = 16;

/// The body of an answer.
#[derive(Debug)]
pub enum Body {
    /// No bytes.
    Empty,
    /// All bytes at once.
    Full(Bytes),
    /// Chunks as they come; ends cleanly when the writer is dropped.
    Stream(mpsc::Receiver<Bytes>),
}

/// The writing side of a [`Body::Stream`].
#[derive(Clone, Debug)]
pub struct StreamWriter(mpsc::Sender<Bytes>);

/// The reader of a stream is gone: its client hung up, or was too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client is gone")]
pub struct ReaderGone;

impl Body {
    /// A body of these bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        if bytes.is_empty() { Body::Empty } else { Body::Full(bytes) }
    }

    /// A stream and its writer.
    pub fn stream() -> (StreamWriter, Body) {
        let (sender, receiver) = mpsc::channel(STREAM_DEPTH);
        (StreamWriter(sender), Body::Stream(receiver))
    }
}

impl StreamWriter {
    /// Waits until there is room, then hands over a chunk.
    pub async fn send(&self, chunk: impl Into<Bytes>) -> Result<(), ReaderGone> {
        self.0.send(chunk.into()).await.map_err(|_| ReaderGone)
    }

    /// Resolves when the reader is gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Body::Empty => Poll::Ready(None),
            Body::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Body::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Body::Stream(receiver) => {
                receiver.poll_recv(cx).map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Stream(_) => SizeHint::default(),
        }
    }
}
