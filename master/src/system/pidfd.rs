//! A child by descriptor: signal it and reap it without ever meaning another process that got the same number.
//!
//! `pidfd_open(2)`, `pidfd_send_signal(2)`, `waitid(2)` with `P_PIDFD`; Linux 5.4.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Code(code) => write!(f, "exit code {code}"),
            Ending::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// A child that is not reaped yet; readable when it has ended.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens a child of ours that nobody else reaps.
    pub fn open(pid: i32) -> io::Result<PidFd> {
        // SAFETY: two integers; gives a new descriptor (always close-on-exec) or an error.
        let raw = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        // SAFETY: just made by the kernel for us.
        Ok(PidFd(unsafe { OwnedFd::from_raw_fd(raw as RawFd) }))
    }

    /// One of a child of this very process, opened by the program that it was before.
    pub fn adopt(fd: OwnedFd) -> PidFd {
        PidFd(fd)
    }

    /// Sends a signal; `ESRCH` when the child has been reaped.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: a live descriptor, and no siginfo.
        check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, info, 0) })?;
        Ok(())
    }

    /// How the child ended, if it has; leaves it to be reaped.
    pub fn ending(&self) -> io::Result<Option<Ending>> {
        let fd = self.0.as_raw_fd() as libc::id_t;
        let found = wait(libc::P_PIDFD, fd, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)?;
        Ok(found.map(|(_, ending)| ending))
    }

    /// Reaps the child if it has ended.
    pub fn reap(&self) -> io::Result<Option<Ending>> {
        let fd = self.0.as_raw_fd() as libc::id_t;
        Ok(wait(libc::P_PIDFD, fd, libc::WEXITED | libc::WNOHANG)?.map(|(_, ending)| ending))
    }
}

/// Waits for the end of any process; false when it still runs after `limit`.
pub fn has_ended_within(pid: i32, limit: Duration) -> io::Result<bool> {
    let pidfd = match PidFd::open(pid) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(true),
        pidfd => pidfd?,
    };
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    Ok(poll(&mut fds, limit)? > 0)
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The first child that has ended and is not reaped, if any; leaves it so.
pub fn peek_any() -> io::Result<Option<i32>> {
    match wait(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) {
        Ok(found) => Ok(found.map(|(pid, _)| pid)),
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reaps a child that has no [`PidFd`].
pub fn reap_unknown(pid: i32) -> io::Result<()> {
    wait(libc::P_PID, pid as libc::id_t, libc::WEXITED | libc::WNOHANG).map(|_| ())
}

fn wait(kind: libc::idtype_t, id: libc::id_t, flags: i32) -> io::Result<Option<(i32, Ending)>> {
    // SAFETY: plain integers, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is ours and of the right type.
    check(unsafe { libc::waitid(kind, id, &mut info, flags) }.into())?;
    // SAFETY: filled in by waitid, or still zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let ending = if info.si_code == libc::CLD_EXITED { Ending::Code(status) } else { Ending::Signal(status) };
    Ok((pid != 0).then_some((pid, ending)))
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn ended(command: &str, signal: Option<i32>) -> Ending {
        #[expect(clippy::zombie_processes, reason = "reaped through the pidfd, which is what is tested")]
        let child = Command::new("/bin/sh").args(["-c", command]).spawn().expect("sh");
        let pidfd = PidFd::open(child.id() as i32).expect("pidfd");
        if let Some(signal) = signal {
            assert_eq!(pidfd.reap().expect("reap"), None, "it still runs");
            pidfd.signal(signal).expect("signal");
        }
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(10_000u16)).expect("poll"), 1);
        let ending = pidfd.reap().expect("reap").expect("ended");
        assert!(pidfd.reap().is_err(), "reaped once");
        assert!(pidfd.signal(0).is_err(), "nobody left");
        ending
    }

    #[test]
    fn the_end_of_any_process_is_waited_for() {
        let mut child = Command::new("/bin/sh").args(["-c", "sleep 60"]).spawn().expect("sh");
        let pid = child.id() as i32;
        assert!(!has_ended_within(pid, Duration::ZERO).expect("it runs"));
        child.kill().expect("killed");
        assert!(has_ended_within(pid, Duration::from_secs(10)).expect("it ends"));
        child.wait().expect("reaped");
        assert!(has_ended_within(pid, Duration::ZERO).expect("it is gone"));
    }

    #[test]
    fn a_child_is_reaped_with_its_exit_code_or_its_signal() {
        assert_eq!(ended("exit 3", None), Ending::Code(3));
        assert_eq!(ended("sleep 60", Some(libc::SIGKILL)), Ending::Signal(libc::SIGKILL));
    }
}
