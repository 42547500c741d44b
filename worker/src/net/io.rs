//! The IO wrapper of a client connection: a [`ClientStream`] as hyper wants it, which counts bytes, tells the phase, and
//! lingers when it closes.
//!
//! Why linger: a socket that is closed while unread bytes lie in it, or still arrive, answers with a RST, and a RST
//! destroys what the peer has not read yet, the end of our answer included. So after our FIN what comes in is read and
//! discarded until the peer closes too; a bound on bytes is here, the bound on time is the driver's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use forkgate_shared::rows::{Counters, Rows};
use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;
use super::stream::ClientStream;
use crate::lifecycle::task;

/// What is discarded of a peer that goes on sending after our close: more than a body that was refused by its length
/// and was already on its way through usual socket buffers.
const LINGER_BYTES: usize = 1024 * 1024;

/// Where bytes are counted.
#[derive(Clone)]
pub struct ByteCounters {
    rows: Arc<Rows>,
    row: usize,
}

impl ByteCounters {
    /// Counts into this row.
    pub fn new(rows: Arc<Rows>, row: usize) -> ByteCounters {
        ByteCounters { rows, row }
    }

    fn counters(&self) -> &Counters {
        &self.rows.row(self.row).counters
    }
}

/// See the module's documentation.
pub struct ClientIo {
    stream: ClientStream,
    activity: Rc<Activity>,
    /// None on the admin port, whose traffic is not the clients'.
    counters: Option<ByteCounters>,
    /// Bytes that may still be discarded once our side is closed; none before.
    lingering: Option<usize>,
    /// Read before, by whoever served this connection then; they come before what the socket has.
    ahead: Bytes,
}

impl ClientIo {
    /// Wraps an accepted connection.
    pub fn new(
        stream: impl Into<ClientStream>,
        activity: Rc<Activity>,
        counters: Option<ByteCounters>,
    ) -> ClientIo {
        ClientIo { stream: stream.into(), activity, counters, lingering: None, ahead: Bytes::new() }
    }

    /// Puts bytes back that were read and not used.
    pub fn put_back(&mut self, bytes: Bytes) {
        if self.ahead.is_empty() {
            self.ahead = bytes;
        } else if !bytes.is_empty() {
            let mut both = BytesMut::from(&bytes[..]);
            both.extend_from_slice(&self.ahead);
            self.ahead = both.freeze();
        }
    }

    /// What was put back and not read again.
    pub fn ahead(&self) -> &Bytes {
        &self.ahead
    }

    fn written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Pending => self.activity.write_blocked(),
            Poll::Ready(Ok(n)) => {
                self.activity.wrote();
                task::moved();
                if let Some(counters) = &self.counters {
                    Counters::add(&counters.counters().bytes_out, *n as u64);
                }
            }
            Poll::Ready(Err(_)) => {}
        }
        result
    }

    /// Reads and discards until the peer has closed, fails, or has sent too much.
    fn poll_discard(&mut self, cx: &mut Context<'_>, mut left: usize) -> Poll<io::Result<()>> {
        let mut buffer = [0u8; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut buffer);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Pending => {
                    self.lingering = Some(left);
                    return Poll::Pending;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => {
                    let n = buf.filled().len();
                    if n == 0 || n >= left {
                        return Poll::Ready(Ok(()));
                    }
                    left -= n;
                }
            }
        }
    }
}

impl hyper::rt::Read for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            // Counted, and told to `activity`, when it was read first.
            let length = self.ahead.len().min(cursor.remaining());
            let bytes = self.ahead.split_to(length);
            cursor.put_slice(&bytes);
            return Poll::Ready(Ok(()));
        }
        // SAFETY: tokio's `ReadBuf` writes initialised bytes only and never de-initialises any (its contract for
        // `uninit`), so hyper's buffer keeps its own invariant.
        let mut buf = ReadBuf::uninit(unsafe { cursor.as_mut() });
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        let n = buf.filled().len();
        // SAFETY: `poll_read` has initialised exactly the `n` bytes that it reports as filled.
        unsafe { cursor.advance(n) };
        if n > 0 {
            self.activity.received();
            task::moved();
            if let Some(counters) = &self.counters {
                Counters::add(&counters.counters().bytes_in, n as u64);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(result)
    }

    /// hyper calls this whenever its buffer is empty; a socket itself has nothing to flush.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.activity.flushed();
        Poll::Ready(Ok(()))
    }

    /// The lingering close.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let left = match self.lingering {
            Some(left) => left,
            None => {
                ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
                self.activity.closed_write();
                LINGER_BYTES
            }
        };
        self.poll_discard(cx, left)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(result)
    }
}

impl AsFd for ClientIo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Drop for ClientIo {
    fn drop(&mut self) {
        if self.activity.is_given_up() {
            self.stream.reset_on_close();
        }
    }
}
