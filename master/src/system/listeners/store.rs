//! Which listening sockets lie in the service manager's store, and keeping that as it should be.
//!
//! In the store is every socket of every address in force, so that a master that is started after this one, whatever became
//! of it, has the same sockets with the clients who wait in them. An address that a reload adds comes into the store when it
//! is in force; one that retires, and a slot that is closed, leaves it. A socket that was shut down leaves it by itself: the
//! manager sees the hang-up.
//!
//! At an orderly end nothing is taken out: the manager closes the store itself unless it starts the unit again, and what it
//! does it does not tell. So the file of a unix socket stays, too: it is the way to the stored socket.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use forkgate_shared::settings::Bind;
use nix::sys::stat::fstat;

use super::address::Address;
use super::names::{self, Label};
use super::{Listeners, State};
use crate::supervisor::{MILLISECOND, Ns};
use crate::system::notify::Notifier;

/// When a manager that has not read what was sent is told the rest.
const RETRY: Ns = 100 * MILLISECOND;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// Names in the store, each with the number of its socket.
    pub(super) kept: BTreeMap<String, u64>,
    /// Something may be otherwise than it should.
    pub(super) is_stale: bool,
    retry_at: Option<Ns>,
    /// Everything is closed: the store is left as it is.
    pub(super) is_left: bool,
}

impl Store {
    /// What is known to be in it.
    pub(super) fn with(kept: BTreeMap<String, u64>) -> Store {
        Store { kept, is_stale: true, ..Store::default() }
    }

    /// Tells the manager what differs from `wanted`.
    fn update(&mut self, wanted: &BTreeMap<String, (u64, &OwnedFd)>, manager: &Notifier) -> io::Result<()> {
        let is_wanted = |name: &String, number: &u64| wanted.get(name).is_some_and(|(of, _)| of == number);
        let over: Vec<String> = self
            .kept
            .iter()
            .filter(|(name, number)| !is_wanted(name, number))
            .map(|(name, _)| name.clone())
            .collect();
        for name in over {
            manager.unstore(&name)?;
            self.kept.remove(&name);
        }
        for (name, (number, socket)) in wanted {
            if !self.kept.contains_key(name) {
                manager.store(name, socket)?;
                self.kept.insert(name.clone(), *number);
            }
        }
        Ok(())
    }
}

impl Listeners {
    /// Brings the store up to date, as far as the manager listens.
    pub fn keep_stored(&mut self, manager: &Notifier, now: Ns) {
        let Listeners { clients, admin, store, .. } = self;
        let is_due = store.is_stale && store.retry_at.is_none_or(|at| at <= now);
        if !is_due || store.is_left || !manager.stores() {
            return;
        }
        let wanted = wanted(clients, admin);
        store.is_stale = false;
        store.retry_at = None;
        match store.update(&wanted, manager) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                store.is_stale = true;
                store.retry_at = Some(now + RETRY);
            }
            Err(error) => tracing::warn!(%error, "the service manager cannot be given the listening sockets"),
        }
    }

    /// When [`Listeners::keep_stored`] has something to do again.
    pub fn store_deadline(&self) -> Option<Ns> {
        self.store.retry_at
    }
}

/// The sockets that are to be in the store, by their names.
fn wanted<'a>(clients: &'a [Address], admin: &'a [Address]) -> BTreeMap<String, (u64, &'a OwnedFd)> {
    let in_force = |address: &&Address| address.state == State::InForce;
    let of_clients = clients.iter().filter(in_force).flat_map(|address| {
        let labelled = address.labelled().into_iter();
        labelled.map(move |(label, socket)| (label, &address.bind, socket))
    });
    let of_admin = admin.iter().filter(in_force).flat_map(|address| {
        let socket = address.admin_socket().into_iter();
        socket.map(move |socket| (Label::Admin, &address.bind, socket))
    });
    let named = of_clients
        .chain(of_admin)
        .filter_map(|(label, bind, socket)| Some((name(label, bind)?, (inode(socket), socket))));
    named.collect()
}

fn name(label: Label, bind: &Bind) -> Option<String> {
    let name = names::name(label, bind);
    if name.is_none() {
        tracing::warn!(address = %bind, "this path is too long for a name in the service manager's store: a restart closes it");
    }
    name
}

/// A number that no other socket has while this one lives.
pub(super) fn inode(socket: &impl AsFd) -> u64 {
    fstat(socket).map_or(0, |stat| stat.st_ino)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::IoSliceMut;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::{AsRawFd, FromRawFd, RawFd};
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::path::Path;

    use forkgate_shared::settings::Binds;
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

    use super::*;
    use crate::supervisor::{SECOND, SlotId};
    use crate::system::listeners::Wanted;
    use crate::system::passed::Passed;

    /// Stores as systemd does.
    struct Manager {
        socket: UnixDatagram,
        stored: BTreeMap<String, OwnedFd>,
        heard: usize,
    }

    impl Manager {
        fn at(path: &Path) -> (Manager, Notifier) {
            let socket = UnixDatagram::bind(path).expect("bind");
            let notifier = Notifier::new(Some(path.into()), None).expect("notifier");
            (Manager { socket, stored: BTreeMap::new(), heard: 0 }, notifier)
        }

        /// Reads what was sent; how many words that were.
        fn read(&mut self) -> usize {
            let before = self.heard;
            let mut buffer = [0; 1024];
            let mut space = nix::cmsg_space!([RawFd; 1]);
            loop {
                let mut iov = [IoSliceMut::new(&mut buffer)];
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
                let Ok(message) = recvmsg::<()>(self.socket.as_raw_fd(), &mut iov, Some(&mut space), flags)
                else {
                    return self.heard - before;
                };
                let fds = message.cmsgs().expect("whole").find_map(|message| match message {
                    ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
                    _ => None,
                });
                // SAFETY: just received, nobody else's.
                let fd = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
                let length = message.bytes;
                let text = std::str::from_utf8(&buffer[..length]).expect("text");
                let (word, name) = text.split_once("\nFDNAME=").expect("a word and a name");
                match (word, fd) {
                    ("FDSTORE=1", Some(fd)) => drop(self.stored.insert(name.to_owned(), fd)),
                    ("FDSTOREREMOVE=1", None) => drop(self.stored.remove(name)),
                    other => panic!("{other:?}"),
                }
                self.heard += 1;
            }
        }

        /// What the next master gets.
        fn pass(&self) -> Vec<Passed> {
            let copy = |fd: &OwnedFd| fd.try_clone().expect("a copy");
            self.stored.iter().map(|(name, fd)| Passed { name: name.clone(), fd: copy(fd) }).collect()
        }

        fn names(&self) -> BTreeSet<&str> {
            self.stored.keys().map(String::as_str).collect()
        }
    }

    fn free<const N: usize>() -> [SocketAddr; N] {
        let sockets = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port is free"));
        sockets.map(|socket| socket.local_addr().expect("address"))
    }

    fn wanted(bind: &str, admin_bind: SocketAddr) -> Wanted {
        Wanted { bind: Binds::parse(bind).expect("addresses"), admin_bind, backlog: 16 }
    }

    fn inodes(listeners: &Listeners, slot: u32) -> Vec<u64> {
        listeners.inherited(SlotId(slot)).expect("a slot").clients.into_iter().map(inode).collect()
    }

    #[test]
    fn what_one_master_leaves_the_next_one_has_with_who_waits_in_it() {
        let dir = tempfile::tempdir().expect("dir");
        let (mut manager, notifier) = Manager::at(&dir.path().join("notify"));
        let [address, admin] = free();
        let path = dir.path().join("http.sock");
        let wanted = wanted(&format!("{address},unix:{}", path.display()), admin);
        let mut first = Listeners::open(&wanted, 3, Vec::new()).expect("open");
        first.keep_stored(&notifier, 0);
        assert_eq!(manager.read(), 5, "three slots, the unix socket, the admin port");
        first.keep_stored(&notifier, 0);
        assert_eq!(manager.read(), 0, "all is said");
        let before: Vec<Vec<u64>> = (0..3).map(|slot| inodes(&first, slot)).collect();
        first.close_all();
        drop(first);
        let _waiting = TcpStream::connect(address).expect("systemd has the sockets");
        let _other = UnixStream::connect(&path).expect("and the file of this one is there");

        let mut second = Listeners::open(&wanted, 2, manager.pass()).expect("open");
        assert_eq!(second.slots().len(), 3, "nobody's queue is forgotten");
        assert_eq!((0..3).map(|slot| inodes(&second, slot)).collect::<Vec<_>>(), before);
        let waiting = || (0..3).map(|slot| second.queue_length(SlotId(slot)).expect("a length")).sum::<u32>();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while waiting() != 1 {
            assert!(std::time::Instant::now() < deadline, "{} wait", waiting());
        }
        second.keep_stored(&notifier, 0);
        assert_eq!(manager.read(), 0, "it has them all");
        second.steer(Some(vec![(SlotId(0), 1)]));
        second.close_slot(SlotId(2));
        second.keep_stored(&notifier, 0);
        assert_eq!((manager.read(), manager.stored.len()), (1, 4));
        TcpStream::connect(address).expect("the others are there");
    }

    #[test]
    fn the_store_follows_the_addresses_and_a_slot_that_takes_anothers_index() {
        let dir = tempfile::tempdir().expect("dir");
        let (mut manager, notifier) = Manager::at(&dir.path().join("notify"));
        let [old, new, admin] = free();
        let mut listeners = Listeners::open(&wanted(&old.to_string(), admin), 3, Vec::new()).expect("open");
        listeners.close_slot(SlotId(0));
        listeners.keep_stored(&notifier, 0);
        manager.read();
        let name =
            |slot, index, address: SocketAddr| format!("member#{slot}#{index}#127.0.0.1,{}", address.port());
        let admin_name = format!("admin#127.0.0.1,{}", admin.port());
        assert_eq!(manager.names(), [&*name(2, 0, old), &*name(1, 1, old), &*admin_name].into());
        listeners.propose(&wanted(&new.to_string(), admin)).expect("free");
        listeners.keep_stored(&notifier, 0);
        assert_eq!(manager.read(), 0, "what is only proposed is nobody's yet");
        listeners.commit(SECOND);
        listeners.keep_stored(&notifier, 0);
        manager.read();
        assert_eq!(manager.names(), [&*name(1, 0, new), &*name(2, 1, new), &*admin_name].into());
    }

    #[test]
    fn what_fits_nothing_is_closed_and_leaves_the_store() {
        let dir = tempfile::tempdir().expect("dir");
        let (mut manager, notifier) = Manager::at(&dir.path().join("notify"));
        let [old, new, admin, units] = free();
        let mut first = Listeners::open(&wanted(&old.to_string(), admin), 1, Vec::new()).expect("open");
        first.keep_stored(&notifier, 0);
        manager.read();
        drop(first);
        let mut passed = manager.pass();
        // A socket that says that it is another one, a unit's, and something else.
        let liar = TcpListener::bind("127.0.0.1:0").expect("bind");
        let name = format!("member#0#0#127.0.0.1,{}", new.port());
        passed.push(Passed { name: name.clone(), fd: liar.into() });
        let unit = TcpListener::bind(units).expect("bind");
        passed.push(Passed {
            name: "forkgate.socket".to_owned(),
            fd: unit.try_clone().expect("a copy").into(),
        });
        passed.push(Passed {
            name: "stored".to_owned(),
            fd: std::fs::File::open("/dev/null").expect("open").into(),
        });
        let mut second = Listeners::open(&wanted(&new.to_string(), admin), 1, passed).expect("open");
        assert!(TcpStream::connect(old).is_err(), "nobody waits where nobody serves");
        TcpStream::connect(units).expect("that one is not ours to shut");
        TcpStream::connect(new).expect("a new one");
        for name in [name, "stored".to_owned()] {
            drop(manager.stored.insert(name, UnixDatagram::unbound().expect("socket").into()));
        }
        second.keep_stored(&notifier, 0);
        manager.read();
        assert_eq!(manager.stored.len(), 2, "{:?}", manager.names());
    }

    #[test]
    fn a_units_socket_is_shared_by_all_and_stays_the_units() {
        let [address, admin, other] = free();
        let pass = |at: SocketAddr| {
            let listener = TcpListener::bind(at).expect("bind");
            let copy = listener.try_clone().expect("a copy");
            (Passed { name: "forkgate.socket".to_owned(), fd: copy.into() }, listener)
        };
        let (passed, units) = pass(address);
        let both = wanted(&format!("{address},{other}"), admin);
        let mut listeners = Listeners::open(&both, 2, vec![passed]).expect("open");
        assert_eq!(inodes(&listeners, 0)[0], inodes(&listeners, 1)[0]);
        assert_ne!(inodes(&listeners, 0)[1], inodes(&listeners, 1)[1]);
        let error = listeners.propose(&wanted(&other.to_string(), admin)).expect_err("not ours").to_string();
        assert!(error.contains("a socket unit listens"), "{error}");
        listeners.propose(&wanted(&address.to_string(), admin)).expect("the other one is ours");
        listeners.commit(0);
        listeners.close_all();
        TcpStream::connect(address).expect("the unit listens on");
        drop(units);

        // Two for one address: the kernel would send clients to both.
        let listen = || Passed {
            name: "x".to_owned(),
            fd: super::super::bind::tcp(other, true)
                .map(|socket| {
                    socket.listen(1).expect("listen");
                    socket.into()
                })
                .expect("bind"),
        };
        let [admin] = free();
        let passed = vec![listen(), listen()];
        let error =
            Listeners::open(&wanted(&other.to_string(), admin), 1, passed).expect_err("two").to_string();
        assert!(error.contains("several sockets"), "{error}");
    }

    #[test]
    fn a_manager_that_does_not_read_gets_the_rest_later() {
        let dir = tempfile::tempdir().expect("dir");
        let (mut manager, notifier) = Manager::at(&dir.path().join("notify"));
        let [address, admin] = free();
        let mut listeners =
            Listeners::open(&wanted(&address.to_string(), admin), 1, Vec::new()).expect("open");
        while notifier.unstore("nothing").is_ok() {}
        listeners.keep_stored(&notifier, SECOND);
        assert_eq!(listeners.store_deadline(), Some(SECOND + RETRY));
        let mut buffer = [0; 64];
        manager.socket.set_nonblocking(true).expect("option");
        while manager.socket.recv(&mut buffer).is_ok() {}
        listeners.keep_stored(&notifier, SECOND + RETRY - 1);
        assert_eq!(manager.read(), 0, "not yet");
        listeners.keep_stored(&notifier, SECOND + RETRY);
        assert_eq!((manager.read(), listeners.store_deadline()), (2, None));
    }
}
