//! Messages between the master and its children over a `SOCK_SEQPACKET` pair: one packet is one JSON message, with at
//! most one descriptor attached.
//!
//! End of file is a message too: for a child it means that the master is gone, for the master that the child is.
//! Messages are small (a descriptor carries what is large), so a send never blocks for long; the master's ends are
//! non-blocking and a child that does not read is the watchdog's business, not a reason for the master to wait.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::verdict::Verdict;

/// Version of these messages; a child says it in [`FromChild::Hello`] and the master refuses one that it does not speak.
pub const VERSION: u32 = 2;

/// The oldest version that this one still speaks. After an upgrade the master talks for a while to children of the program
/// before, so a message that changes its meaning or goes away needs two releases: one that knows both, then the other.
pub const OLDEST: u32 = 2;

/// Largest message, in bytes. An error text is cut to fit.
pub const MAX_MESSAGE: usize = 16 * 1024;

/// Why a worker asks to be replaced, or the master replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecycleReason {
    /// It served `GATEWAY_MAX_REQUESTS` plus its jitter.
    MaxRequests,
    /// Its private memory stayed over `GATEWAY_MAX_RSS`.
    Memory,
    /// It is older than `GATEWAY_WORKER_LIFETIME` plus its jitter.
    Age,
    /// The settings were re-read.
    Reload,
    /// Somebody sent it TERM.
    Operator,
    /// The watchdog suspected it, and took that back; the standby that was started meanwhile serves on.
    Suspect,
    /// A unit of work costs far more than it used to.
    Degenerate,
    /// A task that a worker cannot do without has ended.
    EssentialTask,
    /// The master runs another program.
    Upgrade,
}

impl RecycleReason {
    /// All, in the order of [`RecycleReason::index`].
    pub const ALL: [RecycleReason; 9] = [
        RecycleReason::MaxRequests,
        RecycleReason::Memory,
        RecycleReason::Age,
        RecycleReason::Reload,
        RecycleReason::Operator,
        RecycleReason::Suspect,
        RecycleReason::Degenerate,
        RecycleReason::EssentialTask,
        RecycleReason::Upgrade,
    ];

    /// Index into [`RecycleReason::ALL`] and [`crate::rows::Base::recycles`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// True when the worker does not wait for `GATEWAY_RECYCLE_MIN_INTERVAL`: somebody wants it now, or it lacks something
    /// that it cannot serve without.
    pub fn is_urgent(self) -> bool {
        matches!(self, RecycleReason::Operator | RecycleReason::EssentialTask)
    }

    /// The words for logs, `ctl` and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            RecycleReason::MaxRequests => "max_requests",
            RecycleReason::Memory => "memory",
            RecycleReason::Age => "age",
            RecycleReason::Reload => "reload",
            RecycleReason::Operator => "operator",
            RecycleReason::Suspect => "suspect",
            RecycleReason::Degenerate => "degenerate",
            RecycleReason::EssentialTask => "essential_task",
            RecycleReason::Upgrade => "upgrade",
        }
    }
}

/// What the master tells a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToChild {
    /// Stop accepting, finish what was accepted, leave with exit code 0. Sent to a worker whose slot lives on: the
    /// listener stays open in the master and in the replacement.
    Drain,
    /// The slot is going away and the kernel no longer chooses it: accept what is still queued, then as [`Drain`].
    ///
    /// [`Drain`]: ToChild::Drain
    Retire,
    /// A newer catalog; its sealed memfd is attached.
    Catalog {
        /// Registry generation that the snapshot was compiled from.
        generation: u64,
    },
    /// A suspect whose standby serves its slot: stop accepting, announce the close on every answer, end streams as in a
    /// drain, but stay: the next order decides.
    StepAside,
    /// Another worker leaves and this one is its heir: the line on which its connections come is attached.
    Predecessor,
    /// This worker is about to be told to leave: the line to its heir is attached.
    Heir,
    /// A reload that added addresses is over. Listeners that this worker was given before they listened do so now, or are
    /// to be closed.
    AddedListeners {
        /// The reload has succeeded.
        in_force: bool,
    },
    /// The log file was moved away: open it anew; answered with [`FromChild::LogReopened`].
    ReopenLog,
    /// Write down what is going on inside; answered with [`FromChild::Report`].
    Report {
        /// What the master is about to kill it for.
        verdict: Verdict,
    },
}

/// What a child tells the master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromChild {
    /// First message.
    Hello {
        /// [`VERSION`] of the sender.
        version: u32,
    },
    /// The worker's accept loop is registered; or the `migrate` child is done (its catalog was published before).
    Ready,
    /// The worker asks to be replaced; it goes on serving until it is told to drain.
    WantRecycle {
        /// Why.
        reason: RecycleReason,
    },
    /// A change of the registry was compiled; the sealed memfd is attached. The master passes it on to every worker.
    Catalog {
        /// Registry generation; an older one than the master's is dropped.
        generation: u64,
    },
    /// What the check child of a reload found: a sealed memfd with JSON (`settings::check::CheckVerdict`) is attached.
    Checked,
    /// What it found out about itself: a sealed memfd with JSON (`report::Inside`) is attached.
    Report,
    /// The log file is open anew.
    LogReopened {
        /// Why it is not.
        error: Option<String>,
    },
    /// The child cannot start (exit code 3 or 4 follows), or its event loop has panicked; the text is for the operator.
    BootFailed {
        /// What is wrong, where, and what to do.
        message: String,
    },
}

/// A line between two workers, on which connections move: a `SOCK_SEQPACKET` pair, non-blocking and close-on-exec. The end
/// of the one who leaves, and the heir's.
pub fn worker_line() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// One end of a control connection.
#[derive(Debug)]
pub struct ControlSocket(OwnedFd);

/// What one `recv` gave.
#[derive(Debug)]
pub enum Received<M> {
    /// A message, and the descriptor that came with it.
    Message(M, Option<OwnedFd>),
    /// The other side is gone.
    EndOfFile,
    /// Nothing there (only on a non-blocking end).
    WouldBlock,
}

/// Why a message could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket failed; `EPIPE` and `ECONNRESET` mean that the other side is gone.
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
    /// The other side sent something else than a message of this version.
    #[error("control message not understood: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The message is larger than [`MAX_MESSAGE`].
    #[error("control message of {0} bytes is larger than {MAX_MESSAGE}")]
    TooLarge(usize),
}

impl ControlError {
    /// True when the other side is gone.
    pub fn is_gone(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        matches!(self, ControlError::Io(error) if matches!(error.kind(), BrokenPipe | ConnectionReset))
    }
}

impl From<nix::errno::Errno> for ControlError {
    fn from(errno: nix::errno::Errno) -> Self {
        ControlError::Io(errno.into())
    }
}

impl ControlSocket {
    /// A connected pair: the master's end (non-blocking) and the child's end (blocking), both close-on-exec.
    pub fn pair() -> io::Result<(ControlSocket, ControlSocket)> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        Ok((ControlSocket(ours), ControlSocket(theirs)))
    }

    /// Takes over a descriptor that the master passed by number.
    pub fn from_fd(fd: OwnedFd) -> ControlSocket {
        ControlSocket(fd)
    }

    /// Sends one message with at most one descriptor.
    pub fn send<M: Serialize>(&self, message: &M, fd: Option<BorrowedFd<'_>>) -> Result<(), ControlError> {
        self.send_with(message, fd, MsgFlags::empty())
    }

    /// Sends one message if there is room for it now, also on a blocking end.
    pub fn try_send<M: Serialize>(&self, message: &M) -> Result<(), ControlError> {
        self.send_with(message, None, MsgFlags::MSG_DONTWAIT)
    }

    fn send_with<M: Serialize>(
        &self,
        message: &M,
        fd: Option<BorrowedFd<'_>>,
        flags: MsgFlags,
    ) -> Result<(), ControlError> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MAX_MESSAGE {
            return Err(ControlError::TooLarge(bytes.len()));
        }
        let raw = fd.map(|fd| [fd.as_raw_fd()]);
        let rights = raw.as_ref().map(|raw| ControlMessage::ScmRights(raw));
        let cmsgs: &[ControlMessage<'_>] = rights.as_slice();
        let iov = [IoSlice::new(&bytes)];
        sendmsg::<()>(self.0.as_raw_fd(), &iov, cmsgs, MsgFlags::MSG_NOSIGNAL | flags, None)?;
        Ok(())
    }

    /// Receives one message. Blocks on a blocking end.
    pub fn recv<M: DeserializeOwned>(&self) -> Result<Received<M>, ControlError> {
        let mut buffer = [0u8; MAX_MESSAGE];
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
        let (len, fd) = loop {
            let mut iov = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.0.as_raw_fd(), &mut iov, Some(&mut space), flags) {
                Ok(message) => break (message.bytes, attached(message.cmsgs()?)),
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => return Ok(Received::WouldBlock),
                Err(nix::errno::Errno::ECONNRESET) => return Ok(Received::EndOfFile),
                Err(errno) => return Err(errno.into()),
            }
        };
        if len == 0 {
            return Ok(Received::EndOfFile);
        }
        Ok(Received::Message(serde_json::from_slice(&buffer[..len])?, fd))
    }
}

/// The first descriptor of a packet; any further one is closed.
fn attached(cmsgs: impl Iterator<Item = ControlMessageOwned>) -> Option<OwnedFd> {
    let mut first = None;
    for cmsg in cmsgs {
        if let ControlMessageOwned::ScmRights(fds) = cmsg {
            for raw in fds {
                // SAFETY: the kernel has just installed this descriptor for us; nobody else knows its number.
                let fd = unsafe { OwnedFd::from_raw_fd(raw) };
                first.get_or_insert(fd);
            }
        }
    }
    first
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_with_its_descriptor_and_then_the_end() {
        let (master, child) = ControlSocket::pair().expect("pair");
        let memfd = crate::memfd::immutable("test", b"x").expect("memfd");
        let sent = FromChild::Catalog { generation: 7 };
        child.send(&sent, Some(memfd.as_fd())).expect("send");
        let Received::Message(got, Some(fd)) = master.recv::<FromChild>().expect("recv") else {
            panic!("a message with a descriptor")
        };
        assert_eq!(got, sent);
        assert_eq!(crate::memfd::Bytes::open(&fd).expect("map").as_ref(), b"x");
        assert!(matches!(master.recv::<FromChild>().expect("recv"), Received::WouldBlock));
        drop(child);
        assert!(matches!(master.recv::<FromChild>().expect("recv"), Received::EndOfFile));
    }

    #[test]
    fn garbage_is_an_error_and_not_a_message() {
        let (master, child) = ControlSocket::pair().expect("pair");
        nix::unistd::write(&child, b"{\"type\":\"reboot\"}").expect("write");
        assert!(matches!(master.recv::<FromChild>(), Err(ControlError::Malformed(_))));
    }
}
