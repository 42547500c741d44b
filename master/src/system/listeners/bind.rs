//! Making listening sockets, and saying why one cannot be made.

use std::fs;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use forkgate_shared::settings::Bind;
use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::system::upgrade::{Adopter, Keeper, Kept};

/// How long to wait for an address at the start: the orphans of a killed master close their copies within moments.
pub(super) const ADDRESS_PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries.
const ADDRESS_RETRY: Duration = Duration::from_millis(50);
/// What others may do with the file of a unix socket: the group may connect too.
const UNIX_MODE: u32 = 0o660;

/// Why an address is not ours.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else listens there.
    #[error(
        "{name} {address} is in use by another process: stop it (`{command}` shows it) or set {name} to another address"
    )]
    InUse {
        /// The setting.
        name: &'static str,
        /// Its value.
        address: String,
        /// What shows who it is.
        command: String,
    },
    /// The gateway itself still listens there, for something else.
    #[error(
        "{name} {address} is still in use by this gateway as {ours}: change the one, and the other with the next reload"
    )]
    Ours {
        /// The setting.
        name: &'static str,
        /// Its value.
        address: String,
        /// What is there.
        ours: String,
    },
    /// The path is something else.
    #[error("{name} unix:{path}: there is a file that is not a socket; remove it or choose another path", path = .path.display())]
    NotASocket {
        /// The setting.
        name: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The path cannot be.
    #[error("{name} unix:{path}: its directory is not there; make it, or choose another path", path = .path.display())]
    NoDirectory {
        /// The setting.
        name: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// More than one socket was passed for it.
    #[error(
        "{name} {address}: the service manager passes several sockets for it, and clients of those that are not served would \
         wait for ever: let one socket unit name it, in one ListenStream=, or none; after a change stop the service and start it"
    )]
    Crowded {
        /// The setting.
        name: &'static str,
        /// Its value.
        address: String,
    },
    /// It is not ours to give up.
    #[error(
        "{name} no longer has {address}, at which a socket unit listens for this gateway: stop that unit and restart the \
         service, or keep the address"
    )]
    Activated {
        /// The setting.
        name: &'static str,
        /// What is missing in its value.
        address: String,
    },
    /// Earlier reloads have not finished with their addresses.
    #[error(
        "{name} would add more addresses than a worker can hold while removed ones are given up: try again in a minute"
    )]
    TooMany {
        /// The setting.
        name: &'static str,
    },
    /// The system says no.
    #[error("cannot listen on {name} {address}: {source}")]
    Io {
        /// The setting.
        name: &'static str,
        /// Its value.
        address: String,
        /// Why.
        source: io::Error,
    },
}

impl ListenError {
    /// What binding said.
    pub(super) fn of(name: &'static str, bind: &Bind, source: io::Error) -> ListenError {
        let address = bind.to_string();
        match (source.kind(), bind) {
            (io::ErrorKind::AddrInUse, Bind::Tcp(tcp)) => {
                let command = format!("ss -ltnp 'sport = :{}'", tcp.port());
                ListenError::InUse { name, address, command }
            }
            (io::ErrorKind::AddrInUse, Bind::Unix(path)) => {
                ListenError::InUse { name, address, command: format!("ss -lxp src {}", path.display()) }
            }
            (io::ErrorKind::AlreadyExists, Bind::Unix(path)) => {
                ListenError::NotASocket { name, path: path.clone() }
            }
            (io::ErrorKind::NotFound, Bind::Unix(path)) => {
                ListenError::NoDirectory { name, path: path.clone() }
            }
            _ => ListenError::Io { name, address, source },
        }
    }
}

/// A TCP socket, bound, non-blocking, close-on-exec; not listening. `shared`: in the group of its address.
pub(super) fn tcp(address: SocketAddr, shared: bool) -> io::Result<Socket> {
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

/// Where a socket is bound.
pub(super) fn address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    SockRef::from(socket).local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Ends a listener in every process that has a copy.
pub(super) fn shut(socket: &OwnedFd) {
    // It fails only for what does not listen.
    let _ = SockRef::from(socket).shutdown(Shutdown::Both);
}

/// A unix socket and its file, which goes with it.
#[derive(Debug)]
pub(super) struct UnixSocket {
    pub(super) socket: OwnedFd,
    path: PathBuf,
    /// Device and number of the file that was made.
    pub(super) identity: (u64, u64),
    /// The file stays, because the socket lives on elsewhere.
    pub(super) leaves_file: bool,
}

/// What is written down for another program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    socket: Kept,
    path: PathBuf,
    identity: (u64, u64),
}

impl Saved {
    /// The socket again.
    pub(super) fn restore(self, adopter: &mut Adopter) -> io::Result<UnixSocket> {
        let socket = adopter.adopt(self.socket)?;
        Ok(UnixSocket { socket, path: self.path, identity: self.identity, leaves_file: false })
    }
}

impl UnixSocket {
    /// Writes it down.
    pub(super) fn save(&self, keeper: &mut Keeper) -> Saved {
        Saved { socket: keeper.keep(&self.socket), path: self.path.clone(), identity: self.identity }
    }

    /// Bound, not listening. A socket that nobody listens on any more makes way: the caller holds the lock of the state
    /// directory, so it is a dead master's.
    ///
    /// Fails with `AddrInUse` when somebody listens there, `AlreadyExists` for a file that is no socket.
    pub(super) fn bind(path: &Path) -> io::Result<UnixSocket> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(file) if !file.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
            Ok(_) if is_listened_on(path)? => return Err(io::ErrorKind::AddrInUse.into()),
            Ok(_) => fs::remove_file(path)?,
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
        // The master has one thread: nobody else makes a file meanwhile.
        let before = umask(Mode::from_bits_truncate(0o777 & !UNIX_MODE));
        let bound = socket.bind(&SockAddr::unix(path)?);
        umask(before);
        bound?;
        let file = fs::symlink_metadata(path)?;
        let identity = (file.dev(), file.ino());
        Ok(UnixSocket { socket: socket.into(), path: path.to_owned(), identity, leaves_file: false })
    }

    /// One that listens already and was bound as the file with this identity; none when that is not there any more.
    pub(super) fn adopt(socket: OwnedFd, path: &Path, identity: (u64, u64)) -> Option<UnixSocket> {
        let file = fs::symlink_metadata(path).ok()?;
        let is_it = (file.dev(), file.ino()) == identity;
        is_it.then(|| UnixSocket { socket, path: path.to_owned(), identity, leaves_file: false })
    }

    /// Takes the file away, if it is still the one that was made.
    pub(super) fn remove_file(&self) {
        let ours = fs::symlink_metadata(&self.path);
        if ours.is_ok_and(|file| (file.dev(), file.ino()) == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the file of a unix socket is not removed");
        }
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if !self.leaves_file {
            self.remove_file();
        }
    }
}

fn is_listened_on(path: &Path) -> io::Result<bool> {
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        // Its queue is full.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(error),
    }
}

/// Tries until `deadline` while somebody else has the address.
pub(super) fn patiently<T>(
    bind: &Bind,
    deadline: Instant,
    mut make: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let mut told = false;
    loop {
        match make() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                if !std::mem::replace(&mut told, true) {
                    let patience_s = ADDRESS_PATIENCE.as_secs();
                    tracing::info!(address = %bind, patience_s, "the address is in use; trying again for some seconds");
                }
                sleep(ADDRESS_RETRY);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_dead_masters_socket_makes_way_and_nothing_else_does() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("http.sock");
        let bind = Bind::Unix(path.clone());
        let error = |path: &Path| {
            let error = UnixSocket::bind(path).expect_err("not ours");
            ListenError::of("GATEWAY_BIND", &Bind::Unix(path.to_owned()), error).to_string()
        };
        fs::write(&path, "precious").expect("write");
        assert!(error(&path).contains("not a socket"), "{bind}");
        assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");
        fs::remove_file(&path).expect("remove");
        let living = UnixListener::bind(&path).expect("bind");
        assert!(error(&path).contains("in use by another process"), "{bind}");
        drop(living);
        let ours = UnixSocket::bind(&path).expect("nobody listens there any more");
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, UNIX_MODE);
        assert!(UnixStream::connect(&path).is_err(), "bound, not listening");
        drop(ours);
        assert!(!path.exists(), "the file goes with the socket");
        assert!(error(&dir.path().join("no/http.sock")).contains("its directory is not there"));
    }

    #[test]
    fn a_socket_that_lives_on_elsewhere_keeps_its_file_and_is_known_again_by_it() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("http.sock");
        let mut ours = UnixSocket::bind(&path).expect("bind");
        SockRef::from(&ours.socket).listen(1).expect("listen");
        let (stored, identity) = (ours.socket.try_clone().expect("a copy"), ours.identity);
        ours.leaves_file = true;
        drop(ours);
        UnixStream::connect(&path).expect("the copy listens");
        assert!(UnixSocket::adopt(stored.try_clone().expect("a copy"), &path, (0, 0)).is_none());
        let again = UnixSocket::adopt(stored, &path, identity).expect("the same file");
        UnixStream::connect(&path).expect("it listens");
        drop(again);
        assert!(!path.exists());
        let gone = UnixListener::bind(dir.path().join("other")).expect("bind");
        assert!(UnixSocket::adopt(gone.into(), &path, identity).is_none(), "there is no file");
    }

    #[test]
    fn a_file_that_somebody_put_in_our_place_stays() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("http.sock");
        let ours = UnixSocket::bind(&path).expect("bind");
        fs::remove_file(&path).expect("remove");
        fs::write(&path, "theirs").expect("write");
        drop(ours);
        assert!(path.exists());
    }

    #[test]
    fn an_address_in_use_is_waited_for_and_named() {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("address");
        let taken = tcp(any, true).expect("bind");
        taken.listen(1).expect("listen");
        let there = taken.local_addr().expect("address").as_socket().expect("ip");
        let bind = Bind::Tcp(there);
        let soon = Instant::now() + Duration::from_millis(120);
        let error = patiently(&bind, soon, || tcp(there, false)).expect_err("in use");
        let words = ListenError::of("GATEWAY_BIND", &bind, error).to_string();
        assert!(words.contains("GATEWAY_BIND 127.0.0.1:") && words.contains("ss -ltnp"), "{words}");
        drop(taken);
        tcp(there, false).expect("free again");
    }
}
