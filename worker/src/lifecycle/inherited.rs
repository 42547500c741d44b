//! The descriptors that the master passes by number, taken over once.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use forkgate_shared::descriptors;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// What a worker is born with.
pub(super) struct Inherited {
    pub(super) control: OwnedFd,
    pub(super) rows: OwnedFd,
    pub(super) settings: OwnedFd,
    pub(super) sessions: OwnedFd,
    pub(super) catalog: OwnedFd,
    /// At least one of each of these two.
    pub(super) listeners: Vec<OwnedFd>,
    pub(super) admin_listeners: Vec<OwnedFd>,
}

/// A descriptor is not there.
#[derive(Debug, thiserror::Error)]
#[error("descriptor {number} ({what}) is not open: this process is started by `forkgate serve`, not by hand")]
pub(super) struct NotInherited {
    number: RawFd,
    what: &'static str,
}

impl Inherited {
    /// Takes ownership and sets close-on-exec. How many listeners there are is told: a number behind them that is open is
    /// somebody else's, of a preloaded library for one.
    ///
    /// # Safety
    /// To be called once in a process, before anything else takes these numbers.
    pub(super) unsafe fn take(listeners: usize, admin_listeners: usize) -> Result<Inherited, NotInherited> {
        // SAFETY: the caller's promise is ours; the numbers differ from each other.
        unsafe {
            Ok(Inherited {
                control: take(descriptors::CONTROL, "control")?,
                rows: take(descriptors::ROWS, "rows")?,
                settings: take(descriptors::SETTINGS, "settings")?,
                sessions: take(descriptors::SESSIONS, "sessions")?,
                catalog: take(descriptors::CATALOG, "catalog")?,
                listeners: take_all(
                    descriptors::LISTENERS,
                    listeners.clamp(1, descriptors::MAX_LISTENERS),
                    "listener",
                )?,
                admin_listeners: take_all(
                    descriptors::ADMIN_LISTENERS,
                    admin_listeners.clamp(1, descriptors::MAX_ADMIN_LISTENERS),
                    "admin listener",
                )?,
            })
        }
    }
}

/// What a child is born with that is no worker: control socket and settings. Works once per process, and must come before
/// anything opens descriptors.
pub(crate) fn control_and_settings() -> io::Result<(OwnedFd, OwnedFd)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(io::Error::other("the inherited descriptors were taken before"));
    }
    // SAFETY: the first and only call in this process; the numbers are reserved for what the master passes.
    let taken = unsafe {
        take(descriptors::CONTROL, "control")
            .and_then(|control| Ok((control, take(descriptors::SETTINGS, "settings")?)))
    };
    taken.map_err(io::Error::other)
}

/// # Safety
/// Nobody else owns `number`.
unsafe fn take(number: RawFd, what: &'static str) -> Result<OwnedFd, NotInherited> {
    // SAFETY: borrowed for this call only; a number that is not open gives EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|_| NotInherited { number, what })?;
    // SAFETY: open (just checked) and, by the caller's promise, owned by nobody.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Takes the `count` descriptors from `first` on.
///
/// # Safety
/// Nobody else owns any of these numbers.
unsafe fn take_all(first: RawFd, count: usize, what: &'static str) -> Result<Vec<OwnedFd>, NotInherited> {
    // SAFETY: the caller's promise.
    (first..).take(count).map(|number| unsafe { take(number, what) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn a_descriptor_is_taken_with_close_on_exec_and_a_missing_one_is_named() {
        let (ours, theirs) = nix::unistd::pipe().expect("pipe");
        let number = theirs.into_raw_fd();
        // SAFETY: the number was released by `into_raw_fd` above.
        let taken = unsafe { take(number, "test") }.expect("taken");
        assert_eq!(taken.as_raw_fd(), number);
        let flags = fcntl(&taken, FcntlArg::F_GETFD).expect("flags");
        assert!(FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC));
        // SAFETY: far above any limit of this process, so nobody's.
        let missing = unsafe { take(RawFd::MAX - 1, "listener") };
        assert!(missing.expect_err("not open").to_string().contains("(listener) is not open"));
        drop(ours);
    }
}
