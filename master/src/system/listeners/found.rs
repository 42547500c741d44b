//! Sockets that were there before this master: which of them is which address's.
//!
//! They come from the store, where a master before left them under [names](super::names), or from a socket unit, which is
//! known by where it listens. The socket itself is asked in either case: a name alone is believed nothing.
//!
//! What fits no address of the settings is closed. One of our own kind is shut down, so that no copy of it takes clients in
//! whom nobody serves; a socket unit's is only let go, for the unit may not be there for us.

use std::os::fd::OwnedFd;

use forkgate_shared::settings::Bind;
use socket2::{SockRef, Type};

use super::bind::{ListenError, UnixSocket, shut};
use super::names::{self, Label};
use crate::supervisor::SlotId;
use crate::system::passed::Passed;
use crate::system::steering;

/// A slot's socket.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) slot: SlotId,
    /// The kernel's index of it as the name says.
    pub(super) index: u32,
    pub(super) socket: OwnedFd,
}

/// What there was at an address.
#[derive(Debug)]
pub(super) enum Before {
    /// Nothing.
    Nothing,
    /// The sockets of slots; not empty, each slot once.
    Members(Vec<Member>),
    /// A unix socket, with its file.
    Unix(UnixSocket),
    /// The admin port's.
    Shared(OwnedFd),
    /// A socket unit's.
    Activated(OwnedFd),
}

/// What was passed and nobody has taken yet.
#[derive(Debug)]
pub(super) struct Found(Vec<Passed>);

impl Found {
    pub(super) fn new(passed: Vec<Passed>) -> Found {
        Found(passed)
    }

    /// All names, each with the number of its descriptor. Those of socket units are not in the store, which does not matter.
    pub(super) fn stored(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let named = self.0.iter().filter(|passed| !passed.name.is_empty());
        named.map(|passed| (passed.name.clone(), super::store::inode(&passed.fd)))
    }

    /// Takes what listens for clients at this address.
    pub(super) fn for_clients(&mut self, name: &'static str, bind: &Bind) -> Result<Before, ListenError> {
        let mut members: Vec<Member> = Vec::new();
        let mut unix = None;
        for (label, passed) in
            self.take(bind, |label| matches!(label, Label::Member { .. } | Label::Unix(..)))
        {
            let fits = match label {
                Label::Member { slot, .. } => {
                    let is_member = SockRef::from(&passed.fd).reuse_port().unwrap_or(false);
                    is_member && members.iter().all(|member| member.slot != slot)
                }
                _ => unix.is_none(),
            };
            match (label, bind) {
                (Label::Member { slot, index }, Bind::Tcp(_)) if fits => {
                    members.push(Member { slot, index, socket: passed.fd });
                }
                (Label::Unix(device, inode), Bind::Unix(path)) if fits => {
                    // None when the file is gone or another one: nobody can come by this socket any more.
                    unix = UnixSocket::adopt(passed.fd, path, (device, inode));
                }
                _ => self.0.push(passed),
            }
        }
        let before = match unix {
            Some(unix) => Before::Unix(unix),
            None if members.is_empty() => Before::Nothing,
            None => Before::Members(members),
        };
        self.or_activated(name, bind, before)
    }

    /// Takes what listens at the address of the admin port.
    pub(super) fn for_admin(&mut self, name: &'static str, bind: &Bind) -> Result<Before, ListenError> {
        let found = self.take(bind, |label| label == Label::Admin).pop();
        let before = found.map_or(Before::Nothing, |(_, passed)| Before::Shared(passed.fd));
        self.or_activated(name, bind, before)
    }

    /// What was there, or a socket unit's socket. Fails when there is more than one thing: with no more than one of them
    /// served, the kernel would send clients to the others, too.
    fn or_activated(
        &mut self,
        name: &'static str,
        bind: &Bind,
        before: Before,
    ) -> Result<Before, ListenError> {
        let is_units = |passed: &Passed| names::parse(&passed.name).is_none() && is_at(&passed.fd, bind);
        let mut activated: Vec<Passed> = self.0.extract_if(.., |passed| is_units(passed)).collect();
        let one = match (&before, activated.len()) {
            (_, 0) => return Ok(before),
            (Before::Nothing, 1) => activated.pop(),
            _ => None,
        };
        let Some(one) = one else { return Err(ListenError::Crowded { name, address: bind.to_string() }) };
        let nonblocking = SockRef::from(&one.fd).set_nonblocking(true);
        nonblocking.map_err(|error| ListenError::of(name, bind, error))?;
        tracing::info!(address = %bind, unit = one.name, "listening at a socket unit's socket, which all workers share");
        Ok(Before::Activated(one.fd))
    }

    /// Takes our own that are at an address, by its name and in truth.
    fn take(&mut self, bind: &Bind, wanted: impl Fn(Label) -> bool) -> Vec<(Label, Passed)> {
        let address = names::written(bind);
        let label = |passed: &Passed| {
            let (label, written) = names::parse(&passed.name)?;
            (wanted(label) && written == address && is_at(&passed.fd, bind)).then_some(label)
        };
        let taken = self.0.extract_if(.., |passed| label(passed).is_some()).collect::<Vec<Passed>>();
        taken.into_iter().filter_map(|passed| Some((label(&passed)?, passed))).collect()
    }

    /// Closes the rest.
    pub(super) fn close(self) {
        for Passed { name, fd } in self.0 {
            let address = shown(&fd);
            if names::parse(&name).is_some() {
                let waiting = steering::queue_length(&fd).unwrap_or(0);
                tracing::warn!(
                    name,
                    address,
                    waiting,
                    "a stored socket fits no address of the settings: closed"
                );
                shut(&fd);
            } else if is_listener(&fd) {
                tracing::warn!(
                    name,
                    address,
                    "the service manager passed a socket that listens at no address of the settings: closed here; add the \
                     address, or stop its socket unit, for nobody answers there"
                );
            } else {
                tracing::warn!(
                    name,
                    "the service manager passed a descriptor that means nothing here: closed"
                );
            }
        }
    }
}

fn is_listener(fd: &OwnedFd) -> bool {
    let socket = SockRef::from(fd);
    socket.is_listener().unwrap_or(false) && socket.r#type().is_ok_and(|kind| kind == Type::STREAM)
}

/// It listens there; any port is right where the settings leave it to the kernel.
fn is_at(fd: &OwnedFd, bind: &Bind) -> bool {
    let Ok(local) = SockRef::from(fd).local_addr() else { return false };
    is_listener(fd)
        && match bind {
            Bind::Tcp(wanted) => local.as_socket().is_some_and(|there| {
                there.ip() == wanted.ip() && (there.port() == wanted.port() || wanted.port() == 0)
            }),
            Bind::Unix(path) => local.as_pathname() == Some(path.as_path()),
        }
}

/// Where a socket is, for people.
fn shown(fd: &OwnedFd) -> Option<String> {
    let local = SockRef::from(fd).local_addr().ok()?;
    let path = || local.as_pathname().map(|path| format!("unix:{}", path.display()));
    local.as_socket().map(|address| address.to_string()).or_else(path)
}
