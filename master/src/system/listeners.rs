//! The sockets that clients connect to: one per slot in one `SO_REUSEPORT` group, and one for the admin port.
//!
//! The master makes them, hands them to workers and never reads from them. A slot's socket stays open as long as the
//! slot exists: what waits in its accept queue would be reset with it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::supervisor::SlotId;

/// How long to wait for an address: the orphans of a killed master close their copies within moments.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries.
const ADDRESS_RETRY: Duration = Duration::from_millis(50);

/// Why a port is not ours.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else listens there.
    #[error(
        "{name} {address} is in use by another process: stop it (`ss -ltnp 'sport = :{port}'` shows it) or set {name} \
         to another address", port = address.port()
    )]
    InUse {
        /// The setting.
        name: &'static str,
        /// Its value.
        address: SocketAddr,
    },
    /// The system says no.
    #[error("cannot listen on {name} {address}: {source}")]
    Io {
        /// The setting.
        name: &'static str,
        /// Its value.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// All listeners of a master.
#[derive(Debug)]
pub struct Listeners {
    /// The main port; never port 0.
    pub address: SocketAddr,
    backlog: i32,
    slots: BTreeMap<SlotId, OwnedFd>,
    /// The admin port's socket.
    pub admin: OwnedFd,
}

impl Listeners {
    /// Makes sure that nobody else has the ports, then listens for `slots` slots and on the admin port.
    pub fn open(
        bind: SocketAddr,
        admin_bind: SocketAddr,
        backlog: i32,
        slots: u32,
    ) -> Result<Self, ListenError> {
        let deadline = Instant::now() + ADDRESS_PATIENCE;
        // A second master of the same user would silently join the group; without SO_REUSEPORT it shows.
        drop(patiently("GATEWAY_BIND", bind, deadline, || bound(bind, false))?);
        let admin = patiently("GATEWAY_ADMIN_BIND", admin_bind, deadline, || {
            let socket = bound(admin_bind, false)?;
            socket.listen(backlog)?;
            Ok(OwnedFd::from(socket))
        })?;
        let failed = |source| ListenError::Io { name: "GATEWAY_BIND", address: bind, source };
        let mut listeners = Listeners { address: bind, backlog, slots: BTreeMap::new(), admin };
        for number in 0..slots {
            listeners.open_slot(SlotId(number)).map_err(failed)?;
            let first = listeners.slots.get(&SlotId(0));
            listeners.address = first.map_or(Ok(bind), address).map_err(failed)?;
        }
        Ok(listeners)
    }

    /// Adds a slot's socket to the group; nothing new when it is there.
    pub fn open_slot(&mut self, id: SlotId) -> io::Result<()> {
        if let std::collections::btree_map::Entry::Vacant(entry) = self.slots.entry(id) {
            entry.insert(slot(self.address, self.backlog)?);
        }
        Ok(())
    }

    /// Closes the master's copy.
    pub fn close_slot(&mut self, id: SlotId) {
        self.slots.remove(&id);
    }

    /// The slot's socket.
    pub fn slot(&self, id: SlotId) -> Option<&OwnedFd> {
        self.slots.get(&id)
    }

    /// Any member of the group: options of the group are set through it.
    pub fn any(&self) -> Option<&OwnedFd> {
        self.slots.values().next()
    }
}

/// A slot's socket: member of the group of its address, listening, non-blocking, close-on-exec.
pub fn slot(address: SocketAddr, backlog: i32) -> io::Result<OwnedFd> {
    let socket = bound(address, true)?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Where a socket is bound.
pub fn address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    SockRef::from(socket).local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

fn bound(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        // The system's default may differ between two starts; members of one group must agree.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn patiently<T>(
    name: &'static str,
    address: SocketAddr,
    deadline: Instant,
    mut bind: impl FnMut() -> io::Result<T>,
) -> Result<T, ListenError> {
    let mut told = false;
    loop {
        match bind() {
            Ok(socket) => return Ok(socket),
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                return Err(ListenError::Io { name, address, source: error });
            }
            Err(_) if Instant::now() >= deadline => return Err(ListenError::InUse { name, address }),
            Err(_) => {
                if !std::mem::replace(&mut told, true) {
                    let patience_s = ADDRESS_PATIENCE.as_secs();
                    tracing::info!(%address, patience_s, "the address is in use; trying again for some seconds");
                }
                sleep(ADDRESS_RETRY);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_share_an_address_that_a_second_master_does_not_get() {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("address");
        let mut listeners = Listeners::open(any, any, 16, 2).expect("open");
        assert_ne!(listeners.address.port(), 0);
        listeners.open_slot(SlotId(2)).expect("a third");
        for id in [0, 1, 2].map(SlotId) {
            assert_eq!(address(listeners.slot(id).expect("slot")).expect("address"), listeners.address);
        }
        let soon = Instant::now() + Duration::from_millis(120);
        let second = patiently("GATEWAY_BIND", listeners.address, soon, || bound(listeners.address, false));
        let error = second.expect_err("in use").to_string();
        assert!(error.contains("GATEWAY_BIND 127.0.0.1:") && error.contains("in use"), "{error}");
        let taken = listeners.address;
        drop(listeners);
        bound(taken, false).expect("free again");
    }

    #[test]
    fn an_address_of_another_host_is_an_error_at_once() {
        let elsewhere: SocketAddr = "192.0.2.1:0".parse().expect("address");
        let error = Listeners::open(elsewhere, elsewhere, 16, 1).expect_err("not ours");
        assert!(matches!(error, ListenError::Io { name: "GATEWAY_BIND", .. }), "{error}");
    }
}
