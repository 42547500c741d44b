//! The sockets that clients and operators connect to.
//!
//! The master makes them, hands them to workers and never reads from them. Of a TCP address for clients there is one per
//! slot, in one `SO_REUSEPORT` group; it stays open as long as the slot exists, for what waits in its accept queue would be
//! reset with it. A unix socket and the admin port have one that all workers share.
//!
//! A reload may change the addresses. It **proposes** the new ones, which are taken then or refused; workers that start from
//! then on get the sockets of all addresses, old and new; **commit** puts the new ones into force and retires what is not
//! wanted any more (see [`address`]), **discard** takes the new ones back.
//!
//! The service manager may keep copies of all of them for the next master ([`store`]), which finds its own again ([`found`]).
//! It may also listen itself, for a socket unit: such a socket is one that all workers share, as a unix socket is.

mod address;
mod bind;
mod found;
mod group;
mod names;
mod reload;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use forkgate_shared::settings::{Bind, Binds};
use serde::{Deserialize, Serialize};

use super::upgrade::{Adopter, Keeper};
use crate::supervisor::SlotId;
use crate::system::passed::Passed;
use address::{Address, State};
pub use bind::ListenError;
use bind::{ADDRESS_PATIENCE, patiently};
use found::{Before, Found};
pub use group::Shares;
use store::Store;

/// The setting of the addresses for clients.
const BIND: &str = "GATEWAY_BIND";
/// The setting of the admin port.
const ADMIN_BIND: &str = "GATEWAY_ADMIN_BIND";

/// What listeners are to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `GATEWAY_BIND`.
    pub bind: Binds,
    /// `GATEWAY_ADMIN_BIND`.
    pub admin_bind: SocketAddr,
    /// `GATEWAY_BACKLOG`.
    pub backlog: i32,
}

/// What a worker gets.
#[derive(Debug, Default)]
pub struct Inherited<'a> {
    /// For clients.
    pub clients: Vec<&'a OwnedFd>,
    /// Of the admin port.
    pub admin: Vec<&'a OwnedFd>,
}

/// All listeners of a master.
#[derive(Debug)]
pub struct Listeners {
    backlog: i32,
    clients: Vec<Address>,
    admin: Vec<Address>,
    slots: BTreeSet<SlotId>,
    /// What the kernel is told to choose by; none = all.
    shares: Option<Shares>,
    proposal: Option<Wanted>,
    store: Store,
}

/// What is written down for another program: never a proposal, because nothing is executed during a reload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    backlog: i32,
    clients: Vec<address::Saved>,
    admin: Vec<address::Saved>,
    slots: BTreeSet<SlotId>,
    shares: Option<Shares>,
    /// What lies in the service manager's store.
    #[serde(default)]
    stored: BTreeMap<String, u64>,
}

impl Saved {
    /// The listeners again.
    pub fn restore(self, adopter: &mut Adopter) -> io::Result<Listeners> {
        let Saved { backlog, clients, admin, slots, shares, stored } = self;
        let mut restore = |saved: Vec<address::Saved>| {
            saved.into_iter().map(|saved| saved.restore(adopter)).collect::<io::Result<Vec<Address>>>()
        };
        let (clients, admin) = (restore(clients)?, restore(admin)?);
        let store = Store::with(stored);
        Ok(Listeners { backlog, clients, admin, slots, shares, proposal: None, store })
    }
}

impl Listeners {
    /// Writes them down.
    pub fn save(&self, keeper: &mut Keeper) -> Saved {
        Saved {
            backlog: self.backlog,
            clients: self.clients.iter().map(|address| address.save(keeper)).collect(),
            admin: self.admin.iter().map(|address| address.save(keeper)).collect(),
            slots: self.slots.clone(),
            shares: self.shares.clone(),
            stored: self.store.kept.clone(),
        }
    }

    /// Listens for `slots` slots and on the admin port: with what was passed, and with new sockets where nobody else has the
    /// address. There are more slots when a master before had more. Waits some seconds for an address that is in use.
    pub fn open(wanted: &Wanted, slots: u32, passed: Vec<Passed>) -> Result<Listeners, ListenError> {
        let mut slots: BTreeSet<SlotId> = (0..slots).map(SlotId).collect();
        let deadline = Instant::now() + ADDRESS_PATIENCE;
        let mut found = Found::new(passed);
        let store = Store::with(found.stored().collect());
        let admin_entry = Bind::Tcp(wanted.admin_bind);
        let mut before = Vec::new();
        for entry in wanted.bind.iter() {
            let there = found.for_clients(BIND, entry)?;
            if let Before::Members(members) = &there {
                slots.extend(members.iter().map(|member| member.slot));
            }
            before.push((entry, there));
        }
        let admin_before = found.for_admin(ADMIN_BIND, &admin_entry)?;
        // First: what is over may be in the way of what is new.
        found.close();
        let mut clients = Vec::new();
        for (entry, there) in before {
            let failed = |error| ListenError::of(BIND, entry, error);
            let made = match Address::found(entry, there).map_err(failed)? {
                Some(mut address) => {
                    let added = patiently(entry, deadline, || address.add_slots(slots.iter().copied()));
                    added.map(|()| address)
                }
                None => patiently(entry, deadline, || {
                    probe(entry)?;
                    Address::for_clients(entry, slots.iter().copied())
                }),
            };
            clients.push(made.map_err(failed)?);
        }
        let failed = |error| ListenError::of(ADMIN_BIND, &admin_entry, error);
        let admin = match Address::found(&admin_entry, admin_before).map_err(failed)? {
            Some(address) => address,
            None => {
                patiently(&admin_entry, deadline, || Address::shared(wanted.admin_bind)).map_err(failed)?
            }
        };
        let (backlog, admin) = (wanted.backlog, vec![admin]);
        let mut listeners = Listeners { backlog, clients, admin, slots, shares: None, proposal: None, store };
        for (name, addresses) in [(BIND, &mut listeners.clients), (ADMIN_BIND, &mut listeners.admin)] {
            for address in addresses {
                address.listen(backlog, None).map_err(|error| ListenError::of(name, &address.bind, error))?;
            }
        }
        Ok(listeners)
    }

    /// Slots whose sockets listen.
    pub fn slots(&self) -> &BTreeSet<SlotId> {
        &self.slots
    }

    /// Adds a slot's sockets; nothing new when they are there.
    pub fn open_slot(&mut self, slot: SlotId) -> io::Result<()> {
        self.store.is_stale = true;
        let opened = self.clients.iter_mut().try_for_each(|address| address.open_slot(slot, self.backlog));
        if opened.is_ok() {
            self.slots.insert(slot);
        } else {
            self.close_slot(slot);
        }
        opened
    }

    /// Closes the last copies of a slot's sockets.
    pub fn close_slot(&mut self, slot: SlotId) {
        self.slots.remove(&slot);
        self.store.is_stale = true;
        for address in &mut self.clients {
            warn_steering(address.close_slot(slot, self.shares.as_ref()));
        }
    }

    /// Closes the master's copies of everything for clients: those of workers live on, and those in the store. Files of unix
    /// sockets go, but for those of stored ones.
    pub fn close_all(&mut self) {
        self.proposal = None;
        if !self.store.kept.is_empty() {
            self.clients.iter_mut().for_each(Address::leave_file);
        }
        self.store.is_left = true;
        self.slots.clear();
        self.clients.clear();
    }

    /// What the worker of a slot gets. None when there is no such slot.
    pub fn inherited(&self, slot: SlotId) -> Option<Inherited<'_>> {
        self.slots.contains(&slot).then(|| Inherited {
            clients: self.clients.iter().filter_map(|address| address.socket(slot)).collect(),
            admin: self.admin.iter().filter_map(|address| address.socket(slot)).collect(),
        })
    }

    /// Lets the kernel choose among the slots by these shares, or by hash among all.
    pub fn steer(&mut self, shares: Option<Shares>) {
        self.shares = shares;
        for address in &self.clients {
            warn_steering(address.steer(self.shares.as_ref()));
        }
    }

    /// True when there is an address at which the kernel chooses among the slots.
    pub fn can_steer(&self) -> bool {
        self.clients.iter().any(Address::can_steer)
    }

    /// Connections that wait for the worker of a slot.
    pub fn queue_length(&self, slot: SlotId) -> io::Result<u32> {
        self.clients.iter().map(|address| address.queue_length(slot)).sum()
    }

    /// Where clients connect, for people.
    pub fn shown(&self) -> Vec<String> {
        let shown = |address: &Address| match address.state {
            State::Added => format!("{} (not yet)", address.shown()),
            State::InForce => address.shown(),
            State::Retiring(_) => format!("{} (retiring)", address.shown()),
        };
        self.clients.iter().map(shown).collect()
    }
}

/// A second master of the same user would silently join a group; without `SO_REUSEPORT` it shows.
fn probe(entry: &Bind) -> io::Result<()> {
    entry.tcp().map_or(Ok(()), |address| bind::tcp(address, false).map(drop))
}

fn warn_steering(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "the kernel cannot be told which workers to choose");
    }
}
