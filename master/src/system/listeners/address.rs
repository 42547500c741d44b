//! One address on its way into force and out of it.
//!
//! ```text
//!  ADDED ──commit──► IN FORCE ──removed──► RETIRING ──nobody waits──► gone
//!    └──discard──► gone                        └──wanted again──► IN FORCE
//! ```
//!
//! An added TCP address listens and is deaf: only who listens has an address for himself, for with `SO_REUSEADDR` others can
//! bind it too. Its commit makes it hear, which cannot fail; a reload that fails shuts it down without anybody having come.
//! One that lies within another address in force would keep clients from that one: it is bound, behind the other's back, and
//! listens at the commit. So does a unix socket, whose file is enough to have it, and any address where the kernel wants a
//! right for making it deaf that the master has not got.
//!
//! An address that retires is made deaf and serves whoever had got in; when its queues are empty and a grace for handshakes
//! under way has passed it is shut down, in every process that has a copy. A unix socket has no handshakes: shut down at
//! once, it still gives up its queue to whoever accepts.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use forkgate_shared::settings::Bind;
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::bind::{self, UnixSocket, shut};
use super::found::Before;
use super::group::{self, Group, Shares};
use super::names::Label;
use super::warn_steering;
use crate::supervisor::{MILLISECOND, Ns, SECOND, SlotId};
use crate::system::steering;
use crate::system::upgrade::{Adopter, Keeper, Kept};

/// How often the queues of a retiring address are read.
const POLL: Ns = 50 * MILLISECOND;
/// For handshakes that began before: a lost SYN-ACK is sent again after a second. Whoever began one later, unheard, is told
/// by then that nobody listens.
const GRACE: Ns = SECOND + SECOND / 2;
/// A worker that does not accept keeps a queue from running empty; the address goes all the same.
const PATIENCE: Ns = 60 * SECOND;

/// One address and its sockets.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) bind: Bind,
    pub(super) state: State,
    sockets: Sockets,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    /// Bound; a TCP one listens too and is deaf, see [`Address::reserve`].
    Added,
    /// Listens.
    InForce,
    /// Deaf.
    Retiring(Retiring),
}

/// How far a retiring address is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Retiring {
    since: Ns,
    /// The queues have been empty since.
    empty_since: Option<Ns>,
    pub(super) next_poll: Ns,
}

#[derive(Debug)]
enum Sockets {
    /// One per slot.
    Group(Group),
    /// One for all workers.
    Shared(OwnedFd),
    /// The same, with a file.
    Unix(UnixSocket),
    /// One for all workers, of a socket unit: theirs to configure and to close.
    Activated(OwnedFd),
}

/// What is written down for another program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    bind: Bind,
    state: State,
    sockets: SavedSockets,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum SavedSockets {
    Group(group::Saved),
    Shared(Kept),
    Unix(bind::Saved),
    Activated(Kept),
}

impl Saved {
    /// The address again.
    pub(super) fn restore(self, adopter: &mut Adopter) -> io::Result<Address> {
        let sockets = match self.sockets {
            SavedSockets::Group(group) => Sockets::Group(group.restore(adopter)?),
            SavedSockets::Shared(socket) => Sockets::Shared(adopter.adopt(socket)?),
            SavedSockets::Unix(socket) => Sockets::Unix(socket.restore(adopter)?),
            SavedSockets::Activated(socket) => Sockets::Activated(adopter.adopt(socket)?),
        };
        Ok(Address { bind: self.bind, state: self.state, sockets })
    }
}

impl Address {
    /// Writes it down.
    pub(super) fn save(&self, keeper: &mut Keeper) -> Saved {
        let sockets = match &self.sockets {
            Sockets::Group(group) => SavedSockets::Group(group.save(keeper)),
            Sockets::Shared(socket) => SavedSockets::Shared(keeper.keep(socket)),
            Sockets::Unix(socket) => SavedSockets::Unix(socket.save(keeper)),
            Sockets::Activated(socket) => SavedSockets::Activated(keeper.keep(socket)),
        };
        Saved { bind: self.bind.clone(), state: self.state.clone(), sockets }
    }

    /// An address for clients, bound: a TCP one for each of `slots`.
    pub(super) fn for_clients(bind: &Bind, slots: impl Iterator<Item = SlotId>) -> io::Result<Address> {
        let sockets = match bind {
            Bind::Tcp(address) => Sockets::Group(Group::bind(*address, slots)?),
            Bind::Unix(path) => Sockets::Unix(UnixSocket::bind(path)?),
        };
        Ok(Address { bind: bind.clone(), state: State::Added, sockets })
    }

    /// An address at which something listens already; none when there is nothing.
    pub(super) fn found(bind: &Bind, before: Before) -> io::Result<Option<Address>> {
        let sockets = match before {
            Before::Nothing => return Ok(None),
            Before::Members(members) => Sockets::Group(Group::adopt(members)?),
            Before::Unix(socket) => Sockets::Unix(socket),
            Before::Shared(socket) => Sockets::Shared(socket),
            Before::Activated(socket) => Sockets::Activated(socket),
        };
        Ok(Some(Address { bind: bind.clone(), state: State::Added, sockets }))
    }

    /// Binds the sockets of slots that have none.
    pub(super) fn add_slots(&mut self, mut slots: impl Iterator<Item = SlotId>) -> io::Result<()> {
        match &mut self.sockets {
            Sockets::Group(group) => slots.try_for_each(|slot| group.add(slot)),
            Sockets::Shared(_) | Sockets::Unix(_) | Sockets::Activated(_) => Ok(()),
        }
    }

    /// An address with one socket for all workers, bound.
    pub(super) fn shared(address: SocketAddr) -> io::Result<Address> {
        let socket = bind::tcp(address, false)?;
        Ok(Address { bind: Bind::Tcp(address), state: State::Added, sockets: Sockets::Shared(socket.into()) })
    }

    /// Where it is bound, for people: not port 0.
    pub(super) fn shown(&self) -> String {
        match &self.sockets {
            Sockets::Group(group) => group.address.to_string(),
            Sockets::Shared(socket) => {
                bind::address(socket).map_or_else(|_| self.bind.to_string(), |address| address.to_string())
            }
            Sockets::Unix(_) => self.bind.to_string(),
            Sockets::Activated(_) => format!("{} (of a socket unit)", self.bind),
        }
    }

    /// It is a socket unit's.
    pub(super) fn is_activated(&self) -> bool {
        matches!(self.sockets, Sockets::Activated(_))
    }

    /// The kernel chooses among the slots as it is told.
    pub(super) fn can_steer(&self) -> bool {
        matches!(&self.sockets, Sockets::Group(group) if group.can_steer())
    }

    /// The sockets for clients that are to outlive a master, with what they are.
    pub(super) fn labelled(&self) -> Vec<(Label, &OwnedFd)> {
        match &self.sockets {
            Sockets::Group(group) => {
                let members = group.members();
                members.map(|(slot, index, socket)| (Label::Member { slot, index }, socket)).collect()
            }
            Sockets::Unix(unix) => vec![(Label::Unix(unix.identity.0, unix.identity.1), &unix.socket)],
            Sockets::Shared(_) | Sockets::Activated(_) => Vec::new(),
        }
    }

    /// The socket of an admin port that is to outlive a master.
    pub(super) fn admin_socket(&self) -> Option<&OwnedFd> {
        if let Sockets::Shared(socket) = &self.sockets { Some(socket) } else { None }
    }

    /// The file of a unix socket stays when the address goes.
    pub(super) fn leave_file(&mut self) {
        if let Sockets::Unix(unix) = &mut self.sockets {
            unix.leaves_file = true;
        }
    }

    /// Takes a TCP address for good: listens, deaf. Where it may not be deaf it stays bound only, and listens at the commit.
    pub(super) fn reserve(&mut self, backlog: i32) -> io::Result<()> {
        for socket in self.tcp_sockets() {
            if !steering::deafen(socket)? {
                return Ok(());
            }
        }
        match &mut self.sockets {
            Sockets::Group(group) => group.listen(backlog),
            Sockets::Shared(socket) => SockRef::from(&*socket).listen(backlog),
            Sockets::Unix(_) | Sockets::Activated(_) => Ok(()),
        }
    }

    /// Comes into force, or gets another backlog.
    pub(super) fn listen(&mut self, backlog: i32, shares: Option<&Shares>) -> io::Result<()> {
        match &mut self.sockets {
            Sockets::Group(group) => {
                group.listen(backlog)?;
                warn_steering(group.steer(shares));
            }
            Sockets::Shared(socket) | Sockets::Unix(UnixSocket { socket, .. }) => {
                SockRef::from(&*socket).listen(backlog)?;
            }
            Sockets::Activated(_) => {}
        }
        if self.state != State::InForce {
            self.tcp_sockets().try_for_each(steering::hear)?;
        }
        self.state = State::InForce;
        Ok(())
    }

    /// Takes an address back that never came into force, in every process that has a copy.
    pub(super) fn give_up(&self) {
        self.tcp_sockets().for_each(shut);
    }

    /// Makes the socket of another slot; it listens when the others do, and is deaf when they are.
    pub(super) fn open_slot(&mut self, slot: SlotId, backlog: i32) -> io::Result<()> {
        match &mut self.sockets {
            Sockets::Group(group) => {
                let listens = self.state != State::Added || group.listens();
                group.add(slot)?;
                if let Some(socket) = group.socket(slot)
                    && self.state != State::InForce
                {
                    steering::deafen(socket)?;
                }
                if listens { group.listen(backlog) } else { Ok(()) }
            }
            Sockets::Shared(_) | Sockets::Unix(_) | Sockets::Activated(_) => Ok(()),
        }
    }

    /// Closes the last copy of a slot's socket.
    pub(super) fn close_slot(&mut self, slot: SlotId, shares: Option<&Shares>) -> io::Result<()> {
        match &mut self.sockets {
            Sockets::Group(group) => group.close(slot, shares),
            Sockets::Shared(_) | Sockets::Unix(_) | Sockets::Activated(_) => Ok(()),
        }
    }

    /// Lets the kernel choose among the slots.
    pub(super) fn steer(&self, shares: Option<&Shares>) -> io::Result<()> {
        match &self.sockets {
            Sockets::Group(group) => group.steer(shares),
            Sockets::Shared(_) | Sockets::Unix(_) | Sockets::Activated(_) => Ok(()),
        }
    }

    /// The socket that the worker of a slot gets.
    pub(super) fn socket(&self, slot: SlotId) -> Option<&OwnedFd> {
        match &self.sockets {
            Sockets::Group(group) => group.socket(slot),
            Sockets::Shared(socket)
            | Sockets::Activated(socket)
            | Sockets::Unix(UnixSocket { socket, .. }) => Some(socket),
        }
    }

    /// The accept queue that is the slot's own; 0 where all share one.
    pub(super) fn queue_length(&self, slot: SlotId) -> io::Result<u32> {
        match &self.sockets {
            Sockets::Group(group) => group.socket(slot).map_or(Ok(0), steering::queue_length),
            Sockets::Shared(_) | Sockets::Unix(_) | Sockets::Activated(_) => Ok(0),
        }
    }

    /// Begins to retire.
    pub(super) fn retire(&mut self, now: Ns) {
        for socket in self.tcp_sockets() {
            let why = match steering::deafen(socket) {
                Ok(true) => continue,
                Ok(false) => "this kernel wants CAP_NET_ADMIN for it".to_owned(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(address = %self.bind, why, "cannot be made deaf: clients that connect at its very end may be reset");
        }
        if let Sockets::Unix(socket) = &self.sockets {
            socket.remove_file();
            shut(&socket.socket);
        }
        self.state = State::Retiring(Retiring { since: now, empty_since: None, next_poll: now });
    }

    /// Looks at the queues when that is due; true when it is over, and the address shut down.
    pub(super) fn continue_retiring(&mut self, now: Ns) -> bool {
        if !matches!(&self.state, State::Retiring(retiring) if retiring.next_poll <= now) {
            return false;
        }
        let waiting = self.tcp_sockets().map(|socket| steering::queue_length(socket).unwrap_or(0)).sum();
        let State::Retiring(retiring) = &mut self.state else { return false };
        let is_unix = matches!(self.sockets, Sockets::Unix(_));
        if !is_unix && !retiring.is_over(waiting, now) {
            return false;
        }
        if waiting > 0 {
            tracing::warn!(address = %self.bind, waiting, "an address is given up although clients wait that no worker took");
        }
        self.tcp_sockets().for_each(shut);
        true
    }

    fn tcp_sockets(&self) -> Box<dyn Iterator<Item = &OwnedFd> + '_> {
        match &self.sockets {
            Sockets::Group(group) => Box::new(group.sockets()),
            Sockets::Shared(socket) => Box::new(std::iter::once(socket)),
            Sockets::Unix(_) | Sockets::Activated(_) => Box::new(std::iter::empty()),
        }
    }
}

impl Retiring {
    fn is_over(&mut self, waiting: u32, now: Ns) -> bool {
        self.next_poll = now + POLL;
        if waiting > 0 {
            self.empty_since = None;
            return now >= self.since + PATIENCE;
        }
        now >= *self.empty_since.get_or_insert(now) + GRACE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_when_the_queues_stayed_empty_for_the_grace() {
        let mut retiring = Retiring { since: 0, empty_since: None, next_poll: 0 };
        assert!(!retiring.is_over(0, 0));
        assert_eq!(retiring.next_poll, POLL);
        assert!(!retiring.is_over(3, GRACE - 1), "somebody came late");
        assert!(!retiring.is_over(0, GRACE));
        assert!(!retiring.is_over(0, 2 * GRACE - 1));
        assert!(retiring.is_over(0, 2 * GRACE));
    }

    #[test]
    fn patience_with_a_queue_that_nobody_empties_has_an_end() {
        let mut retiring = Retiring { since: 5, empty_since: None, next_poll: 5 };
        assert!(!retiring.is_over(1, 5 + PATIENCE - 1));
        assert!(retiring.is_over(1, 5 + PATIENCE));
    }
}
