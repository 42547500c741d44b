//! Words for the service manager: `sd_notify(3)`.
//!
//! Nothing here is waited for and nothing depends on it: a manager that does not read is not a reason to stop serving.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use forkgate_shared::rows::monotonic_ns;

/// The variable that names the socket.
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    status: String,
}

impl Notifier {
    /// Speaks to the socket with this name: a path, or an abstract name after `@`. Does nothing without one.
    pub fn new(socket: Option<OsString>) -> io::Result<Notifier> {
        let to = match socket.filter(|name| !name.is_empty()) {
            Some(name) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                Some((socket, address(&name)?))
            }
            None => None,
        };
        Ok(Notifier { to, status: String::new() })
    }

    /// All workers are ready.
    pub fn ready(&self) {
        self.send(&format!("READY=1\nMAINPID={}", std::process::id()));
    }

    /// A reload begins; [`Notifier::ready`] ends it.
    pub fn reloading(&self) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_ns() / 1000));
    }

    /// The end begins.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// One sentence for `systemctl status`; the same again is not sent.
    pub fn status(&mut self, sentence: &str) {
        if self.status != sentence {
            self.status = sentence.replace('\n', " ");
            self.send(&format!("STATUS={}", self.status));
        }
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.to
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            tracing::debug!(%error, "the service manager was not told");
        }
    }
}

fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name),
        _ => SocketAddr::from_pathname(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(bound: &SocketAddr, name: OsString) {
        let manager = UnixDatagram::bind_addr(bound).expect("bind");
        let mut notifier = Notifier::new(Some(name)).expect("notifier");
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
        notifier.stopping();
        assert_eq!(next(), "STOPPING=1");
        drop(manager);
        notifier.ready();
    }

    #[test]
    fn a_manager_hears_over_a_path_and_an_abstract_name() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("notify");
        heard(&SocketAddr::from_pathname(&path).expect("address"), path.into());
        let name = format!("forkgate-test-{}", std::process::id());
        heard(&SocketAddr::from_abstract_name(&name).expect("address"), format!("@{name}").into());
        Notifier::new(None).expect("nobody").ready();
    }
}
