//! The packets of a line between two workers.
//!
//! To the heir: 12 bytes (version, door, phase, 0, start of the phase in monotonic nanoseconds, little endian), then the
//! bytes that were read and not used, with the descriptor attached. Back: one byte per connection.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recv, recvmsg, send, sendmsg};
use socket2::SockRef;
use tokio::io::unix::AsyncFd;

use crate::net::activity::{Phase, Rest};
use crate::net::connection::MAX_BUFFER;

/// Two workers of different versions may stand in for each other during an upgrade: the heir refuses what it does not
/// know. With 2 who leaves never shuts the side of the line from which it hears.
const VERSION: u8 = 2;
const HEAD: usize = 12;
/// Bytes that can be read and not used: hyper's buffer, and one read into it on top.
const MOST_BYTES: usize = 2 * MAX_BUFFER;
/// Room for the largest packet and what tells that it was larger.
pub const BUFFER: usize = HEAD + MOST_BYTES + 1;

const TAKEN: u8 = b'+';
const REFUSED: u8 = b'-';

/// What goes with a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Which of the worker's listeners the client came in by.
    pub door: u8,
    /// What the connection was doing, and since when.
    pub rest: Rest,
    /// What was read of it and not used.
    pub bytes: Bytes,
}

/// What one look at the line gave the heir.
#[derive(Debug)]
pub enum Arrived {
    /// A connection.
    Connection(OwnedFd, Packet),
    /// Something else, or a descriptor for which this process had no place: to be refused.
    Unusable,
    /// Nothing more will come.
    End,
}

/// What one look at the line gave the one who leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The heir has the connection.
    Taken,
    /// It has closed its copy.
    Refused,
    /// The heir is gone, or wants no more.
    End,
}

impl Packet {
    fn head(&self) -> [u8; HEAD] {
        let phase = match self.rest.phase {
            Phase::Silent => 0,
            Phase::Idle => 1,
            _ => 2,
        };
        let mut head = [0; HEAD];
        head[..3].copy_from_slice(&[VERSION, self.door, phase]);
        head[4..].copy_from_slice(&self.rest.since_ns.to_le_bytes());
        head
    }

    fn parse(packet: &[u8]) -> Option<Packet> {
        let (head, bytes) = packet.split_first_chunk::<HEAD>()?;
        let phase = match head[2] {
            0 => Phase::Silent,
            1 => Phase::Idle,
            2 => Phase::Head,
            _ => return None,
        };
        let since_ns = u64::from_le_bytes(*head[4..].first_chunk()?);
        (head[0] == VERSION && bytes.len() <= MOST_BYTES).then(|| Packet {
            door: head[1],
            rest: Rest { phase, since_ns },
            bytes: Bytes::copy_from_slice(bytes),
        })
    }

    /// Sends it with a descriptor; `WouldBlock` when there is no room.
    pub fn send(&self, line: BorrowedFd<'_>, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let (head, raw) = (self.head(), [descriptor.as_raw_fd()]);
        let parts = [IoSlice::new(&head), IoSlice::new(&self.bytes)];
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        sendmsg::<()>(line.as_raw_fd(), &parts, &[ControlMessage::ScmRights(&raw)], flags, None)?;
        Ok(())
    }
}

/// An end of a line, to be waited for. To be called within the runtime.
pub fn listen(line: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    SockRef::from(&line).set_nonblocking(true)?;
    // SAFETY: an `OwnedFd` is open for as long as it lives, and its number never changes.
    Ok(unsafe { AsyncFd::register(line) }?)
}

/// Looks once, without waiting; `buffer` has [`BUFFER`] bytes.
pub fn receive(line: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Arrived> {
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let (length, descriptor) = {
        let mut parts = [IoSliceMut::new(buffer)];
        let message = loop {
            match recvmsg::<()>(line.as_raw_fd(), &mut parts, Some(&mut space), flags) {
                // Said once when who leaves has died with answers unread; what it sent before is still there.
                Err(Errno::ECONNRESET | Errno::EINTR) => {}
                received => break received?,
            }
        };
        // Cut short: there was no place for the descriptor, and the kernel has dropped it.
        let attached = message.cmsgs().ok().and_then(attached);
        (message.bytes, attached)
    };
    if length == 0 {
        return Ok(Arrived::End);
    }
    Ok(match (descriptor, Packet::parse(&buffer[..length])) {
        (Some(descriptor), Some(packet)) => Arrived::Connection(descriptor, packet),
        _ => Arrived::Unusable,
    })
}

/// The first descriptor of a packet; any further one is closed.
fn attached(cmsgs: impl Iterator<Item = ControlMessageOwned>) -> Option<OwnedFd> {
    let mut first = None;
    for cmsg in cmsgs {
        if let ControlMessageOwned::ScmRights(descriptors) = cmsg {
            for raw in descriptors {
                // SAFETY: the kernel has just installed this descriptor for us; nobody else knows its number.
                let descriptor = unsafe { OwnedFd::from_raw_fd(raw) };
                first.get_or_insert(descriptor);
            }
        }
    }
    first
}

/// The heir's answer to the oldest packet that has none. Who leaves closes its end of the line with its own copies of what
/// is unanswered, so an end that is closed is as good as an answer: nobody else serves the connection.
pub fn answer(line: BorrowedFd<'_>, taken: bool) -> io::Result<()> {
    let word = if taken { TAKEN } else { REFUSED };
    match send(line.as_raw_fd(), &[word], MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
        Ok(_) | Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Looks once for an answer, without waiting.
pub fn read_answer(line: BorrowedFd<'_>) -> io::Result<Answer> {
    let mut word = [0];
    loop {
        return match recv(line.as_raw_fd(), &mut word, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Ok(Answer::End),
            Ok(_) if word[0] == TAKEN => Ok(Answer::Taken),
            Ok(_) => Ok(Answer::Refused),
            // Said once when the heir died with packets unread; answers that it gave before are still there.
            Err(Errno::ECONNRESET | Errno::EINTR) => continue,
            Err(errno) => Err(errno.into()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn line() -> (OwnedFd, OwnedFd) {
        forkgate_shared::control::worker_line().expect("pair")
    }

    fn packet(bytes: &'static [u8]) -> Packet {
        let rest = Rest { phase: Phase::Head, since_ns: 0x0102_0304_0506_0708 };
        Packet { door: 1, rest, bytes: Bytes::from_static(bytes) }
    }

    fn look(line: &OwnedFd) -> Arrived {
        receive(line.as_fd(), &mut vec![0; BUFFER]).expect("received")
    }

    #[test]
    fn a_connection_arrives_with_its_bytes_its_phase_and_its_age() {
        let (leaver, heir) = line();
        let (ours, theirs) = nix::unistd::pipe().expect("pipe");
        for sent in [packet(b"POST /mcp HT"), packet(b"")] {
            sent.send(leaver.as_fd(), theirs.as_fd()).expect("sent");
            let Arrived::Connection(descriptor, got) = look(&heir) else { panic!("a connection") };
            assert_eq!(got, sent);
            nix::unistd::write(&descriptor, b"x").expect("the very pipe");
            assert_eq!(nix::unistd::read(&ours, &mut [0; 8]).expect("read"), 1);
        }
        drop(leaver);
        assert!(matches!(look(&heir), Arrived::End));
    }

    #[test]
    fn the_largest_packet_fits_and_a_strange_one_is_unusable() {
        let (leaver, heir) = line();
        let bytes = Bytes::from(vec![b'x'; MOST_BYTES]);
        let largest = Packet { bytes, ..packet(b"") };
        largest.send(leaver.as_fd(), leaver.as_fd()).expect("sent");
        assert!(matches!(look(&heir), Arrived::Connection(_, got) if got == largest));
        send(leaver.as_raw_fd(), b"\x09nonsense of another version", MsgFlags::empty()).expect("sent");
        assert!(matches!(look(&heir), Arrived::Unusable));
        send(leaver.as_raw_fd(), &packet(b"").head(), MsgFlags::empty()).expect("sent");
        assert!(matches!(look(&heir), Arrived::Unusable), "without a descriptor");
    }

    #[test]
    fn answers_that_were_given_before_the_heir_died_are_heard() {
        let (leaver, heir) = line();
        for _ in 0..3 {
            packet(b"").send(leaver.as_fd(), leaver.as_fd()).expect("sent");
        }
        let hear = || read_answer(leaver.as_fd());
        assert_eq!(hear().expect_err("nothing yet").kind(), io::ErrorKind::WouldBlock);
        for taken in [true, false] {
            assert!(matches!(look(&heir), Arrived::Connection(..)));
            answer(heir.as_fd(), taken).expect("said");
        }
        drop(heir);
        let heard = [(); 3].map(|()| hear().expect("heard"));
        assert_eq!(heard, [Answer::Taken, Answer::Refused, Answer::End]);
    }
}
