//! The sockets of one TCP address, one per slot, and the kernel's order of them.
//!
//! The kernel numbers the members of a `SO_REUSEPORT` group in the order of `listen()`; when one is closed, **the last takes
//! its index**. A steering program names indexes, so a model that is wrong sends clients to a socket that nobody serves.
//!
//! Sockets that a master before left in the store listen already, and the kernel does not tell their order: their names do.
//! If those make no sense (a master died between closing a socket and saying so), the order is lost until the next start from
//! nothing, and nobody is steered: the kernel chooses among all by hash, as it does without a program.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::bind;
use super::found::Member;
use super::names::UNKNOWN;
use crate::supervisor::SlotId;
use crate::system::steering;
use crate::system::upgrade::{Adopter, Keeper, Kept};

/// Which slots get new clients, and how many parts of them each. A slot that is not named gets none.
pub type Shares = Vec<(SlotId, u32)>;

/// See the module.
#[derive(Debug)]
pub(super) struct Group {
    /// Where it is bound; never port 0 once there is a socket.
    pub(super) address: SocketAddr,
    sockets: BTreeMap<SlotId, OwnedFd>,
    /// Slots whose socket listens, in the kernel's order.
    order: Vec<SlotId>,
    /// The kernel has them in another order, and nobody knows which.
    order_lost: bool,
}

/// What is written down for another program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    address: SocketAddr,
    sockets: Vec<(SlotId, Kept)>,
    order: Vec<SlotId>,
    #[serde(default)]
    order_lost: bool,
}

impl Saved {
    /// The group again.
    pub(super) fn restore(self, adopter: &mut Adopter) -> io::Result<Group> {
        let sockets = self.sockets.into_iter().map(|(slot, socket)| Ok((slot, adopter.adopt(socket)?)));
        let sockets = sockets.collect::<io::Result<_>>()?;
        Ok(Group { address: self.address, sockets, order: self.order, order_lost: self.order_lost })
    }
}

impl Group {
    /// Writes it down.
    pub(super) fn save(&self, keeper: &mut Keeper) -> Saved {
        let sockets = self.sockets.iter().map(|(slot, socket)| (*slot, keeper.keep(socket))).collect();
        Saved { address: self.address, sockets, order: self.order.clone(), order_lost: self.order_lost }
    }

    /// Binds a socket per slot; none listens.
    pub(super) fn bind(address: SocketAddr, slots: impl Iterator<Item = SlotId>) -> io::Result<Group> {
        let mut group = Group { address, sockets: BTreeMap::new(), order: Vec::new(), order_lost: false };
        for slot in slots {
            group.add(slot)?;
        }
        Ok(group)
    }

    /// Sockets of one address that listen already, at least one. A program that is still attached is taken away.
    pub(super) fn adopt(mut members: Vec<Member>) -> io::Result<Group> {
        members.sort_by_key(|member| member.index);
        let order_lost = !members.iter().map(|member| member.index).eq(0..members.len() as u32);
        let order: Vec<SlotId> = members.iter().map(|member| member.slot).collect();
        let sockets: BTreeMap<_, _> =
            members.into_iter().map(|member| (member.slot, member.socket)).collect();
        let first = sockets.values().next().ok_or(io::ErrorKind::NotFound)?;
        let address = bind::address(first)?;
        steering::unsteer(first)?;
        if order_lost {
            tracing::warn!(
                %address,
                "the kernel's order of these sockets is not known: clients are not steered here until the service has been \
                 stopped and started"
            );
        }
        Ok(Group { address, sockets, order, order_lost })
    }

    /// Binds the socket of another slot; nothing new when it is there.
    pub(super) fn add(&mut self, slot: SlotId) -> io::Result<()> {
        if !self.sockets.contains_key(&slot) {
            let socket = OwnedFd::from(bind::tcp(self.address, true)?);
            self.address = bind::address(&socket)?;
            self.sockets.insert(slot, socket);
        }
        Ok(())
    }

    /// Lets every socket listen, in the order of slots; one that listens already gets the new backlog.
    pub(super) fn listen(&mut self, backlog: i32) -> io::Result<()> {
        for (slot, socket) in &self.sockets {
            SockRef::from(socket).listen(backlog)?;
            if !self.order.contains(slot) {
                self.order.push(*slot);
            }
        }
        Ok(())
    }

    /// True when it has begun to listen.
    pub(super) fn listens(&self) -> bool {
        !self.order.is_empty()
    }

    /// The slot's socket.
    pub(super) fn socket(&self, slot: SlotId) -> Option<&OwnedFd> {
        self.sockets.get(&slot)
    }

    /// The sockets that listen, each with the kernel's index of it.
    pub(super) fn members(&self) -> impl Iterator<Item = (SlotId, u32, &OwnedFd)> {
        (0u32..).zip(&self.order).filter_map(|(index, slot)| {
            let index = if self.order_lost { UNKNOWN } else { index };
            Some((*slot, index, self.sockets.get(slot)?))
        })
    }

    /// True when it can be said which slots the kernel chooses.
    pub(super) fn can_steer(&self) -> bool {
        !self.order_lost
    }

    /// All sockets.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &OwnedFd> {
        self.sockets.values()
    }

    /// Lets the kernel choose by these shares, or by hash among all.
    pub(super) fn steer(&self, shares: Option<&Shares>) -> io::Result<()> {
        let Some(member) = self.order.first().and_then(|slot| self.sockets.get(slot)) else { return Ok(()) };
        if self.order_lost {
            return Ok(());
        }
        match shares.map(|shares| self.indexes(shares)).filter(|indexes| !indexes.is_empty()) {
            Some(indexes) => steering::steer(member, &indexes),
            None => steering::unsteer(member),
        }
    }

    /// Closes a slot's socket. It is shut down, so that it leaves the group in this moment whoever else has a copy (the
    /// store). The last member moves to its index then, so the kernel is first pointed at indexes that mean the same before and
    /// after; `shares` are in force again when it is done.
    pub(super) fn close(&mut self, slot: SlotId, shares: Option<&Shares>) -> io::Result<()> {
        let Some(index) = self.order.iter().position(|member| *member == slot) else {
            self.sockets.remove(&slot);
            return Ok(());
        };
        if self.order_lost {
            self.order.remove(index);
            self.sockets.remove(&slot).iter().for_each(bind::shut);
            return Ok(());
        }
        let last = self.order.len() as u32 - 1;
        let all = || self.order.iter().map(|member| (*member, 1)).collect();
        let stable: Vec<(u32, u32)> = self
            .indexes(shares.unwrap_or(&all()))
            .into_iter()
            .filter(|(other, _)| *other != index as u32 && *other < last)
            .collect();
        let steered = match self.sockets.get(&slot) {
            // With none, an index that is out of range after the closing makes the kernel hash over what is left.
            Some(member) if !stable.is_empty() => steering::steer(member, &stable),
            _ => Ok(()),
        };
        self.sockets.remove(&slot).iter().for_each(bind::shut);
        self.order.swap_remove(index);
        steered.and_then(|()| self.steer(shares))
    }

    fn indexes(&self, shares: &Shares) -> Vec<(u32, u32)> {
        let share = |member: &SlotId| shares.iter().find(|(slot, _)| slot == member).map(|(_, share)| *share);
        (0u32..).zip(&self.order).filter_map(|(index, member)| Some((index, share(member)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::{Duration, Instant};

    use super::*;

    const CONNECTIONS: u32 = 40;

    /// A group, its clients, and copies of its sockets as the store has them.
    struct Clients(Group, Vec<TcpStream>, Vec<OwnedFd>);

    impl Clients {
        fn of(text: &str, slots: u32) -> Clients {
            let address = text.parse().expect("address");
            let mut group = Group::bind(address, (0..slots).map(SlotId)).expect("bind");
            group.listen(512).expect("listen");
            let copies = group.sockets().map(|socket| socket.try_clone().expect("a copy")).collect();
            Clients(group, Vec::new(), copies)
        }

        /// The group as the next master finds it; `index` is what the names say.
        fn found_again(self, index: impl Fn(u32) -> u32) -> Clients {
            let members = self.0.members().map(|(slot, at, socket)| Member {
                slot,
                index: index(at),
                socket: socket.try_clone().expect("a copy"),
            });
            let group = Group::adopt(members.collect()).expect("adopt");
            Clients(group, self.1, self.2)
        }

        fn queues(&self) -> BTreeMap<SlotId, u32> {
            let length = |socket| steering::queue_length(socket).expect("length");
            self.0.sockets.iter().map(|(slot, socket)| (*slot, length(socket))).collect()
        }

        /// How many of so many new connections each slot gets.
        fn arrive(&mut self) -> BTreeMap<SlotId, u32> {
            let before = self.queues();
            for _ in 0..CONNECTIONS {
                self.1.push(TcpStream::connect(self.0.address).expect("connect"));
            }
            let deadline = Instant::now() + Duration::from_secs(10);
            loop {
                let new: BTreeMap<SlotId, u32> =
                    self.queues().into_iter().map(|(slot, now)| (slot, now - before[&slot])).collect();
                if new.values().sum::<u32>() == CONNECTIONS {
                    return new;
                }
                assert!(Instant::now() < deadline, "{new:?} of {CONNECTIONS} arrived");
            }
        }
    }

    fn only(slot: u32) -> Shares {
        vec![(SlotId(slot), 4)]
    }

    #[test]
    fn slots_keep_their_clients_when_others_close_and_open() {
        for text in ["127.0.0.1:0", "[::1]:0"] {
            let mut clients = Clients::of(text, 4);
            clients.0.close(SlotId(1), Some(&only(3))).expect("close");
            assert_eq!(clients.0.order, [0, 3, 2].map(SlotId), "the last took its index");
            assert_eq!(clients.arrive()[&SlotId(3)], CONNECTIONS, "still slot 3, at another index");
            clients.0.steer(Some(&only(2))).expect("steer");
            assert_eq!(clients.arrive()[&SlotId(2)], CONNECTIONS);
            clients.0.add(SlotId(1)).expect("a socket");
            clients.0.listen(512).expect("listen");
            clients.0.steer(Some(&only(1))).expect("steer");
            assert_eq!(clients.arrive()[&SlotId(1)], CONNECTIONS);
            clients.0.close(SlotId(0), None).expect("close");
            clients.0.steer(None).expect("unsteer");
            assert!(clients.arrive().values().filter(|new| **new > 0).count() > 1, "chosen by hash again");
        }
    }

    #[test]
    fn the_order_is_known_again_by_the_names() {
        let mut clients = Clients::of("127.0.0.1:0", 4);
        clients.0.close(SlotId(1), None).expect("close");
        clients.0.steer(Some(&only(0))).expect("steer");
        let mut clients = clients.found_again(|index| index);
        assert_eq!(clients.0.order, [0, 3, 2].map(SlotId));
        assert!(clients.arrive().values().filter(|new| **new > 0).count() > 1, "the program before is gone");
        clients.0.steer(Some(&only(3))).expect("steer");
        assert_eq!(clients.arrive()[&SlotId(3)], CONNECTIONS);
        clients.0.add(SlotId(1)).expect("another one");
        clients.0.listen(512).expect("listen");
        clients.0.steer(Some(&only(1))).expect("steer");
        assert_eq!(clients.arrive()[&SlotId(1)], CONNECTIONS, "it comes last");
    }

    #[test]
    fn without_the_order_nobody_is_steered() {
        let mut clients = Clients::of("127.0.0.1:0", 3).found_again(|index| index + index / 2);
        assert!(!clients.0.can_steer());
        assert!(clients.0.members().all(|(_, index, _)| index == UNKNOWN));
        clients.0.steer(Some(&only(0))).expect("it is not tried");
        assert!(clients.arrive().values().filter(|new| **new > 0).count() > 1);
        clients.0.close(SlotId(0), None).expect("close");
        assert_eq!(clients.arrive().len(), 2, "the others have them all");
    }

    #[test]
    fn the_last_but_one_can_be_closed() {
        let mut clients = Clients::of("127.0.0.1:0", 2);
        clients.0.close(SlotId(0), Some(&only(1))).expect("close");
        assert_eq!(clients.arrive()[&SlotId(1)], CONNECTIONS);
    }

    #[test]
    fn a_socket_that_is_bound_and_does_not_listen_refuses() {
        let group =
            Group::bind("127.0.0.1:0".parse().expect("address"), [SlotId(0)].into_iter()).expect("bind");
        assert!(TcpStream::connect(group.address).is_err());
        group.steer(Some(&only(0))).expect("nobody to steer");
    }
}
