//! The two descriptors that the master leaves open for a child that is not a worker: control and settings.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use forkgate_shared::descriptors;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Takes the control socket and the settings over and marks them close-on-exec. Works once per process and must come
/// before anything opens descriptors; fails when one of them is not open.
pub(crate) fn control_and_settings() -> io::Result<(OwnedFd, OwnedFd)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(io::Error::other("the inherited descriptors were taken before"));
    }
    // SAFETY: the first and only call in this process; the numbers are reserved for what the master passes.
    unsafe { Ok((take(descriptors::CONTROL)?, take(descriptors::SETTINGS)?)) }
}

/// # Safety
/// Nobody else owns `number`.
unsafe fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: borrowed for this call only, which answers EBADF for a number that is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: open (just checked) and, by the caller's promise, owned by nobody.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::take;

    #[test]
    fn an_open_descriptor_is_taken_and_an_unused_number_is_an_error() {
        let number = std::fs::File::open("/dev/null").expect("open").into_raw_fd();
        // SAFETY: the number was given up just now.
        drop(unsafe { take(number) }.expect("it is open"));
        // SAFETY: far above any limit of this process.
        assert!(unsafe { take(i32::MAX - 1) }.is_err());
    }
}
