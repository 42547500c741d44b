//! A unix listener that notices when it is shut down. Accepting does not say so, only that nobody is there; the event loop's
//! readiness does, so the socket is watched by hand.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};

use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// See the module.
#[derive(Debug)]
pub(super) struct UnixDoor(AsyncFd<UnixListener>);

impl UnixDoor {
    /// Watches a non-blocking listener.
    pub(super) fn new(listener: UnixListener) -> io::Result<UnixDoor> {
        // SAFETY: a `UnixListener` owns one descriptor, which is the same one from here until `AsyncFd` lets go of it.
        let watched = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) };
        Ok(UnixDoor(watched?))
    }

    /// The next connection; `EINVAL`, as TCP says it, once the socket was shut down and its queue is empty.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let mut ready = self.0.readable().await?;
            let was_shut = ready.ready().is_read_closed();
            match ready.try_io(|listener| listener.get_ref().accept()) {
                Ok(accepted) => return Ok(accepted?.0),
                Err(_) if was_shut => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
                Err(_) => {}
            }
        }
    }

    /// The listener, watched no more.
    pub(super) fn into_plain(self) -> UnixListener {
        self.0.into_inner()
    }
}
