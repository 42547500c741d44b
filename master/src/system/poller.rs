//! What the master waits on: one epoll instance, and what each descriptor of it means.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::supervisor::{ChildId, Ns};

/// Events taken per turn; the rest is taken in the next one.
const BATCH: usize = 64;
/// Bits of a key below the kind.
const KIND_SHIFT: u32 = 56;

/// What a descriptor means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A signal arrived.
    Signal,
    /// A client of the control socket.
    Ctl,
    /// A request or room for an answer.
    CtlClient(u64),
    /// A child ended.
    Ended(ChildId),
    /// A child said something.
    Control(ChildId),
    /// The program that is asked whether it can take over has ended.
    UpgradeCheck,
    /// A hook ended.
    HookEnded(u64),
    /// A hook printed something.
    HookOutput(u64),
}

impl Source {
    fn key(self) -> u64 {
        let (kind, id) = match self {
            Source::Signal => (0, 0),
            Source::Ctl => (1, 0),
            Source::CtlClient(id) => (2, id),
            Source::Ended(ChildId(id)) => (3, id),
            Source::Control(ChildId(id)) => (4, id),
            Source::UpgradeCheck => (5, 0),
            Source::HookEnded(id) => (6, id),
            Source::HookOutput(id) => (7, id),
        };
        kind << KIND_SHIFT | id
    }

    fn of(key: u64) -> Source {
        let id = key & ((1 << KIND_SHIFT) - 1);
        match key >> KIND_SHIFT {
            0 => Source::Signal,
            1 => Source::Ctl,
            2 => Source::CtlClient(id),
            3 => Source::Ended(ChildId(id)),
            4 => Source::Control(ChildId(id)),
            5 => Source::UpgradeCheck,
            6 => Source::HookEnded(id),
            _ => Source::HookOutput(id),
        }
    }
}

/// The epoll instance. A descriptor that is closed leaves it by itself, unless a copy lives on elsewhere.
#[derive(Debug)]
pub struct Poller(Epoll);

impl Poller {
    /// An empty one.
    pub fn new() -> io::Result<Poller> {
        Ok(Poller(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Waits for something to read.
    pub fn add(&self, fd: impl AsFd, source: Source) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, source.key()))?)
    }

    /// Waits for room to write too, or no longer.
    pub fn want_write(&self, fd: impl AsFd, source: Source, write: bool) -> io::Result<()> {
        let flags = if write { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        Ok(self.0.modify(fd, &mut EpollEvent::new(flags, source.key()))?)
    }

    /// Waits no more.
    pub fn remove(&self, fd: impl AsFd) {
        let _ = self.0.delete(fd);
    }

    /// What is ready, at the latest after `timeout`; for ever without one.
    pub fn wait(&self, timeout: Option<Ns>) -> io::Result<Vec<Source>> {
        // Rounded up: a turn that comes too early would find nothing due.
        let millis = timeout.map(|ns| i32::try_from(ns.div_ceil(1_000_000)).unwrap_or(i32::MAX));
        let timeout =
            millis.map_or(Ok(EpollTimeout::NONE), EpollTimeout::try_from).unwrap_or(EpollTimeout::MAX);
        let mut events = [EpollEvent::empty(); BATCH];
        let count = match self.0.wait(&mut events, timeout) {
            Err(Errno::EINTR) => 0,
            result => result?,
        };
        Ok(events[..count].iter().map(|event| Source::of(event.data())).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_is_reported_as_what_it_means() {
        let poller = Poller::new().expect("epoll");
        let sources = [Source::Signal, Source::Ctl, Source::CtlClient(7), Source::Ended(ChildId(9))];
        let more = [Source::UpgradeCheck, Source::HookEnded(3), Source::HookOutput(3)];
        for source in sources.into_iter().chain([Source::Control(ChildId(1 << 40))]).chain(more) {
            let (mut near, far) = UnixStream::pair().expect("pair");
            poller.add(&far, source).expect("add");
            assert_eq!(poller.wait(Some(0)).expect("wait"), []);
            near.write_all(b"x").expect("write");
            assert_eq!(poller.wait(None).expect("wait"), [source]);
            poller.remove(&far);
        }
    }
}
