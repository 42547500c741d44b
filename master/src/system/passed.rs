//! Descriptors that the service manager passes when it starts the master: `sd_listen_fds(3)`.
//!
//! They are what its store kept for a master before, and the sockets of a socket unit. All are taken, so that none stays open
//! unknown; what becomes of each is decided by what it is (`listeners`).

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use forkgate_shared::descriptors::LAST;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// The number of the first one.
const FIRST: RawFd = 3;
/// Most that are looked for; systemd stores less for one unit unless it is told otherwise.
const MOST: RawFd = 4096;

/// What was passed.
#[derive(Debug)]
pub struct Passed {
    /// `FDNAME=` of the store, or `FileDescriptorName=` of the socket unit.
    pub name: String,
    /// It, close-on-exec, out of the way of the numbers that children get.
    pub fd: OwnedFd,
}

/// What the environment says of it.
#[derive(Debug, Default)]
struct Variables {
    pid: Option<String>,
    count: Option<String>,
    names: Option<String>,
}

/// Takes what was passed to this process; nothing when it was meant for another one.
///
/// # Safety
/// To be called once in a process, by the first that takes descriptors over. What this process opened itself is told by its
/// close-on-exec flag, which nothing has that came through an exec.
pub unsafe fn take() -> Vec<Passed> {
    let variable = |name| std::env::var(name).ok();
    let variables = Variables {
        pid: variable("LISTEN_PID"),
        count: variable("LISTEN_FDS"),
        names: variable("LISTEN_FDNAMES"),
    };
    let names = names(&variables, std::process::id());
    let take = |(number, name)| {
        // SAFETY: the caller's promise.
        let fd = unsafe { own(number) }?;
        Some(Passed { name, fd })
    };
    (FIRST..).zip(names).filter_map(take).collect()
}

/// One name per descriptor.
fn names(variables: &Variables, own_pid: u32) -> Vec<String> {
    let number = |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<u32>().ok());
    if number(&variables.pid) != Some(own_pid) {
        return Vec::new();
    }
    let count = number(&variables.count).unwrap_or(0).min(MOST as u32) as usize;
    let names = variables.names.as_deref().unwrap_or_default();
    names.split(':').map(str::to_owned).chain(std::iter::repeat(String::new())).take(count).collect()
}

/// # Safety
/// Nobody in this process owns `number`, unless it is close-on-exec.
unsafe fn own(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: borrowed for this call only; a number that is not open gives EBADF.
    let flags = fcntl(unsafe { BorrowedFd::borrow_raw(number) }, FcntlArg::F_GETFD).ok()?;
    if FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC) {
        return None;
    }
    // SAFETY: open, and by the caller's promise nobody's: it came through the exec.
    let passed = unsafe { OwnedFd::from_raw_fd(number) };
    let moved = fcntl(&passed, FcntlArg::F_DUPFD_CLOEXEC(LAST + 1)).ok()?;
    // SAFETY: the duplicate was just made for us.
    Some(unsafe { OwnedFd::from_raw_fd(moved) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, IntoRawFd};

    use super::*;

    fn variables(pid: u32, count: &str, names: &str) -> Variables {
        let some = |text: &str| Some(text.to_owned());
        Variables { pid: some(&pid.to_string()), count: some(count), names: some(names) }
    }

    #[test]
    fn what_was_meant_for_another_process_is_left_alone() {
        assert_eq!(names(&variables(7, "2", "a:b"), 7), ["a", "b"]);
        assert_eq!(names(&variables(7, "3", "a:b"), 7), ["a", "b", ""]);
        assert_eq!(names(&variables(7, "1", "a:b"), 7), ["a"]);
        assert!(names(&variables(7, "2", "a:b"), 8).is_empty());
        assert!(names(&variables(7, "many", "a:b"), 7).is_empty());
        assert!(names(&Variables::default(), 7).is_empty());
    }

    #[test]
    fn only_what_came_through_an_exec_is_taken_and_it_moves_away() {
        let (read, write) = nix::unistd::pipe().expect("pipe");
        fcntl(&read, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("flags");
        // SAFETY: it is close-on-exec, so it is not taken.
        assert!(unsafe { own(read.as_raw_fd()) }.is_none());
        let number = write.into_raw_fd();
        // SAFETY: the number was released in the line above.
        let taken = unsafe { own(number) }.expect("it is open");
        assert!(taken.as_raw_fd() > LAST);
        let flags = fcntl(&taken, FcntlArg::F_GETFD).expect("flags");
        assert!(FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC));
        nix::unistd::write(&taken, b"x").expect("the same pipe");
    }
}
