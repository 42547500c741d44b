//! Words for the service manager: `sd_notify(3)`, and sockets for its store.
//!
//! Nothing here is waited for and nothing depends on it: a manager that does not read is not a reason to stop serving.
//!
//! The **store** (`sd_pid_notify_with_fds(3)`) keeps descriptors while no master lives and passes them to the next one. It is
//! there when the unit says `FileDescriptorStoreMax=`; systemd says so in `$FDSTORE` since version 254 and not at all before,
//! and closes what it does not want to keep. So sockets are offered unless `$FDSTORE` is 0.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;

use forkgate_shared::rows::monotonic_ns;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

use crate::supervisor::Ns;

/// The variable that names the socket.
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// The variable that says how many descriptors the manager stores.
const FDSTORE: &str = "FDSTORE";

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub struct Notifier {
    to: Option<(UnixDatagram, UnixAddr)>,
    stores: bool,
    status: String,
}

impl Notifier {
    /// Speaks to whom the environment names.
    pub fn from_env() -> io::Result<Notifier> {
        Notifier::new(std::env::var_os(NOTIFY_SOCKET), std::env::var_os(FDSTORE).as_deref())
    }

    /// Speaks to the socket with this name: a path, or an abstract name after `@`. Does nothing without one. `most` is how
    /// many descriptors are stored, where that is known.
    pub fn new(socket: Option<OsString>, most: Option<&OsStr>) -> io::Result<Notifier> {
        let to = match socket.filter(|name| !name.is_empty()) {
            Some(name) => Some((UnixDatagram::unbound()?, address(&name)?)),
            None => None,
        };
        let stores = to.is_some() && most.is_none_or(|most| most != "0");
        Ok(Notifier { to, stores, status: String::new() })
    }

    /// Enough workers are ready, or a reload is over.
    pub fn ready(&self) {
        self.tell(&format!("READY=1\nMAINPID={}", std::process::id()));
    }

    /// A reload begins; [`Notifier::ready`] ends it.
    pub fn reloading(&self) {
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_ns() / 1000));
    }

    /// The end begins.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// The master lives and does its work.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// What is under way may take as much longer, from now on.
    pub fn extend(&self, span: Ns) {
        self.tell(&format!("EXTEND_TIMEOUT_USEC={}", span / 1000));
    }

    /// One sentence for `systemctl status`; the same again is not sent.
    pub fn status(&mut self, sentence: &str) {
        if self.status != sentence {
            self.status = sentence.replace('\n', " ");
            self.tell(&format!("STATUS={}", self.status));
        }
    }

    /// There is somebody who may store descriptors.
    pub fn stores(&self) -> bool {
        self.stores
    }

    /// Gives the store a copy of a descriptor. Fails with `WouldBlock` while the manager has not read what was sent before.
    pub fn store(&self, name: &str, fd: &impl AsFd) -> io::Result<()> {
        self.send(&format!("FDSTORE=1\nFDNAME={name}"), &[fd.as_fd().as_raw_fd()])
    }

    /// The store is to close what it has under this name; fails as [`Notifier::store`].
    pub fn unstore(&self, name: &str) -> io::Result<()> {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])
    }

    fn tell(&self, message: &str) {
        if let Err(error) = self.send(message, &[]) {
            tracing::debug!(%error, "the service manager was not told");
        }
    }

    fn send(&self, message: &str, fds: &[RawFd]) -> io::Result<()> {
        let Some((socket, address)) = &self.to else { return Ok(()) };
        let rights = [ControlMessage::ScmRights(fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        match sendmsg(socket.as_raw_fd(), &[IoSlice::new(message.as_bytes())], rights, flags, Some(address)) {
            Ok(_) => Ok(()),
            // As many descriptors are on their way as a process may have open: it reads some first.
            Err(Errno::ETOOMANYREFS | Errno::ENOBUFS) => Err(io::ErrorKind::WouldBlock.into()),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn address(name: &OsStr) -> io::Result<UnixAddr> {
    Ok(match name.as_bytes() {
        [b'@', abstract_name @ ..] => UnixAddr::new_abstract(abstract_name)?,
        path => UnixAddr::new(path)?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    use super::*;

    fn heard(bound: &SocketAddr, name: OsString) {
        let manager = UnixDatagram::bind_addr(bound).expect("bind");
        let mut notifier = Notifier::new(Some(name), None).expect("notifier");
        let mut buffer = [0; 256];
        let mut next = || {
            let len = manager.recv(&mut buffer).expect("recv");
            String::from_utf8_lossy(&buffer[..len]).into_owned()
        };
        notifier.ready();
        assert_eq!(next(), format!("READY=1\nMAINPID={}", std::process::id()));
        notifier.status("2/2 ready");
        notifier.status("2/2 ready");
        notifier.status("1/2\nready");
        assert_eq!((next(), next()), ("STATUS=2/2 ready".to_owned(), "STATUS=1/2 ready".to_owned()));
        notifier.reloading();
        assert!(next().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        notifier.extend(15_000_000_000);
        assert_eq!(next(), "EXTEND_TIMEOUT_USEC=15000000");
        notifier.alive();
        assert_eq!(next(), "WATCHDOG=1");
        notifier.stopping();
        assert_eq!(next(), "STOPPING=1");
        notifier.store("a socket", &manager).expect("sent");
        assert_eq!(next(), "FDSTORE=1\nFDNAME=a socket");
        notifier.unstore("a socket").expect("sent");
        assert_eq!(next(), "FDSTOREREMOVE=1\nFDNAME=a socket");
        drop(manager);
        notifier.ready();
        assert!(notifier.unstore("a socket").is_err());
    }

    #[test]
    fn a_manager_hears_over_a_path_and_an_abstract_name() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("notify");
        heard(&SocketAddr::from_pathname(&path).expect("address"), path.into());
        let name = format!("forkgate-test-{}", std::process::id());
        heard(&SocketAddr::from_abstract_name(&name).expect("address"), format!("@{name}").into());
        let nobody = Notifier::new(None, None).expect("nobody");
        nobody.ready();
        nobody.unstore("a socket").expect("nobody fails at nothing");
        assert!(!nobody.stores());
    }

    #[test]
    fn a_manager_that_says_that_it_stores_nothing_is_offered_nothing() {
        let stores = |most: Option<&str>| {
            Notifier::new(Some("@nobody".into()), most.map(OsStr::new)).expect("notifier").stores()
        };
        assert!(stores(None) && stores(Some("128")) && !stores(Some("0")));
    }

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bind");
        let notifier = Notifier::new(Some(path.into()), None).expect("notifier");
        let full = (0..100_000).find_map(|_| notifier.store("again", &manager).err()).expect("it fills up");
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }
}
