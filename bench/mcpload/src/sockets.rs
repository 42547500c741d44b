//! The descriptors of all open connections, to reset them all at once.

use std::cell::RefCell;
use std::os::fd::RawFd;

thread_local! {
    /// Descriptors of all open connections, for [`reset_all`].
    static SOCKETS: RefCell<std::collections::HashSet<RawFd>> = RefCell::default();
}

/// Makes the coming close of every open connection an abrupt one: with SO_LINGER 0 the kernel sends
/// RST at once and throws unsent data away. Returns how many connections there were.
pub fn reset_all() -> usize {
    SOCKETS.with(|s| {
        let s = s.borrow();
        for fd in s.iter() {
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            // SAFETY: the option value is a valid `linger`. The descriptor is open: a connection's
            // socket and its entry in the set go away in the same poll of its task, and this
            // function runs on the same thread, between polls.
            unsafe {
                libc::setsockopt(
                    *fd,
                    libc::SOL_SOCKET,
                    libc::SO_LINGER,
                    (&linger as *const libc::linger).cast(),
                    std::mem::size_of::<libc::linger>() as libc::socklen_t,
                );
            }
        }
        s.len()
    })
}

/// Keeps a descriptor in [`SOCKETS`] for as long as its connection task lives.
pub struct Registered(RawFd);

impl Registered {
    /// Enters a descriptor.
    pub fn new(fd: RawFd) -> Self {
        SOCKETS.with(|s| s.borrow_mut().insert(fd));
        Registered(fd)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        SOCKETS.with(|s| s.borrow_mut().remove(&self.0));
    }
}
