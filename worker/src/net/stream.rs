//! What clients connect by: TCP or a unix socket, as one type each for the listener and the connection.
//!
//! Above this file nothing asks which of both it is, except for what only TCP has.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::libc;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::unix::UnixDoor;

/// Unsent bytes that the kernel holds per connection before it says that it is full: enough to fill a fast link
/// between two turns of the event loop, little enough that a reader who stopped is noticed soon.
pub(super) const NOTSENT_LOWAT: u32 = 32 * 1024;

/// When a silent peer is probed (a host that vanished says nothing, and an idle connection has no deadline of ours), how
/// often, and how many unanswered probes end the connection: two minutes in all.
pub(super) const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;

/// An inherited listener: bound, and listening or not yet.
#[derive(Debug)]
pub struct Door {
    fd: OwnedFd,
    /// Only programs on this host reach it.
    is_local: bool,
    is_unix: bool,
}

/// A listener that the event loop watches.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixDoor),
}

/// The listener of [`Listener`], to be asked without the event loop.
pub(super) enum PlainListener {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

/// A client's connection.
#[derive(Debug)]
pub enum ClientStream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
}

impl Door {
    /// Takes over what was inherited. Options of TCP that are set here are inherited by every accepted connection (tcp(7)),
    /// which saves the system calls for each; also by those that wait already when it begins to listen.
    pub fn new(fd: OwnedFd) -> io::Result<Door> {
        let socket = SockRef::from(&fd);
        let address = socket.local_addr()?;
        let is_unix = address.is_unix();
        let is_loopback = address.as_socket().is_some_and(|address| address.ip().is_loopback());
        socket.set_nonblocking(true)?;
        if !is_unix {
            socket.set_tcp_nodelay(true)?;
            socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
            let probes =
                TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
            socket.set_tcp_keepalive(&probes)?;
        }
        Ok(Door { fd, is_local: is_unix || is_loopback, is_unix })
    }

    /// Only programs on this host reach it: a loopback address or a unix socket.
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// False for one that begins to listen when its reload has succeeded.
    pub fn is_listening(&self) -> bool {
        SockRef::from(&self.fd).is_listener().unwrap_or(false)
    }

    /// Gives it to the event loop.
    pub(super) fn open(self) -> io::Result<Listener> {
        Ok(match self.is_unix {
            true => Listener::Unix(UnixDoor::new(UnixListener::from(self.fd))?),
            false => Listener::Tcp(TcpListener::from_std(std::net::TcpListener::from(self.fd))?),
        })
    }
}

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<ClientStream> {
        Ok(match self {
            Listener::Tcp(listener) => ClientStream::Tcp(listener.accept().await?.0),
            Listener::Unix(listener) => ClientStream::of_unix(listener.accept().await?)?,
        })
    }

    /// Takes it out of the event loop.
    pub(super) fn into_plain(self) -> io::Result<PlainListener> {
        Ok(match self {
            Listener::Tcp(listener) => PlainListener::Tcp(listener.into_std()?),
            Listener::Unix(listener) => PlainListener::Unix(listener.into_plain()),
        })
    }
}

impl PlainListener {
    /// What is queued; `WouldBlock` when nothing is.
    pub(super) fn accept(&self) -> io::Result<ClientStream> {
        Ok(match self {
            PlainListener::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                ClientStream::Tcp(TcpStream::from_std(stream)?)
            }
            PlainListener::Unix(listener) => ClientStream::of_unix(listener.accept()?.0)?,
        })
    }
}

impl ClientStream {
    /// A connection that another worker had, as it was there: non-blocking.
    pub fn from_fd(fd: OwnedFd) -> io::Result<ClientStream> {
        let is_unix = SockRef::from(&fd).local_addr()?.is_unix();
        Ok(match is_unix {
            true => ClientStream::Unix(UnixStream::from_std(fd.into())?),
            false => ClientStream::Tcp(TcpStream::from_std(fd.into())?),
        })
    }

    fn of_unix(stream: std::os::unix::net::UnixStream) -> io::Result<ClientStream> {
        stream.set_nonblocking(true)?;
        Ok(ClientStream::Unix(UnixStream::from_std(stream)?))
    }

    /// Makes the close a reset, where there is such a thing: the kernel keeps nothing for a dead peer.
    pub fn reset_on_close(&self) {
        if let ClientStream::Tcp(stream) = self {
            // A failure means that the socket is already gone, which is what is wanted.
            let _ = stream.set_zero_linger();
        }
    }
}

/// True for the error that accepting gives once the listener was shut down by the master: its address is out of force,
/// and nobody waits in it.
pub(super) fn is_shut(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

impl From<TcpStream> for ClientStream {
    fn from(stream: TcpStream) -> ClientStream {
        ClientStream::Tcp(stream)
    }
}

impl AsFd for ClientStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            ClientStream::Tcp(stream) => stream.as_fd(),
            ClientStream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            ClientStream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            ClientStream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    /// A socket has nothing to flush.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            ClientStream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    /// True for both.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            ClientStream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }
}
