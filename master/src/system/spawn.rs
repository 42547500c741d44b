//! Starting a child: the master's own executable anew, with descriptors under the numbers of
//! [`forkgate_shared::descriptors`] and nothing else of the master's.
//!
//! Between `fork` and `exec` only async-signal-safe calls are made, on memory prepared before.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use forkgate_shared::descriptors::{CONTROL, LAST};

use super::pidfd::PidFd;

/// Descriptors are first moved up here, so that none is overwritten before it was placed.
const ABOVE: RawFd = 64;
/// Most descriptors that a child gets.
const MAX_DESCRIPTORS: usize = (LAST - CONTROL + 1) as usize;
/// Signals that have a default action to go back to; the real-time ones are nobody's here.
const LAST_SIGNAL: i32 = 31;

/// Names that speak to the master only (sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3)).
const NOT_FOR_CHILDREN: [&str; 7] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "FDSTORE",
];

/// What is executed, held open: a package that is replaced on disk does not change what a respawn starts.
#[derive(Debug)]
pub struct Executable {
    file: OwnedFd,
    reserved: Vec<OwnedFd>,
}

/// How a child is started.
#[derive(Debug, Default)]
pub struct Request<'a> {
    /// Arguments after the program's name.
    pub args: Vec<OsString>,
    /// What it gets under which number, [`CONTROL`]`..=`[`LAST`].
    pub descriptors: Vec<(BorrowedFd<'a>, RawFd)>,
    /// What it is sent when the master dies.
    pub death_signal: i32,
    /// What it reads; nothing without.
    pub input: Option<BorrowedFd<'a>>,
    /// Where it prints to; the master's own places without.
    pub output: Option<BorrowedFd<'a>>,
    /// Its environment; the master's without.
    pub environment: Option<Vec<(OsString, OsString)>>,
    /// A program that it executes may be one that gives rights (set-user-ID, file capabilities).
    pub may_gain_privileges: bool,
}

impl Executable {
    /// The program that runs.
    pub fn own() -> io::Result<Executable> {
        Executable::open(Path::new("/proc/self/exe"))
    }

    /// Another program.
    pub fn open(path: &Path) -> io::Result<Executable> {
        let reserved = reserve()?;
        let file = File::options().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)?;
        // SAFETY: integers only; the new descriptor is nobody else's.
        let file = unsafe {
            OwnedFd::from_raw_fd(check(libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, ABOVE))?)
        };
        Ok(Executable { file, reserved })
    }

    /// A program that is held open already.
    pub fn held(file: OwnedFd) -> Executable {
        Executable { file, reserved: Vec::new() }
    }

    /// Takes the numbers of the plan that have become free.
    pub fn reserve(&mut self) -> io::Result<()> {
        self.reserved.extend(reserve()?);
        Ok(())
    }

    /// Starts a child; fails when it could not be forked or executed.
    pub fn spawn(&self, request: &Request<'_>) -> io::Result<(i32, PidFd)> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let mut command = Command::new(path);
        command.arg0("forkgate").args(&request.args).stdin(Stdio::null());
        if let Some(input) = request.input {
            command.stdin(input.try_clone_to_owned()?);
        }
        if let Some(environment) = &request.environment {
            command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
        }
        if let Some(output) = request.output {
            command.stdout(output.try_clone_to_owned()?).stderr(output.try_clone_to_owned()?);
        }
        for name in NOT_FOR_CHILDREN {
            command.env_remove(name);
        }
        let mut plan = Placement::new(request)?;
        // SAFETY: `prepare` makes system calls from signal-safety(7) only and touches no memory but its own.
        unsafe { command.pre_exec(move || plan.prepare()) };
        let mut child = command.spawn()?;
        let pid = child.id() as i32;
        match PidFd::open(pid) {
            Ok(pidfd) => Ok((pid, pidfd)),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }
}

impl AsFd for Executable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Takes every free number of the plan, so that nothing else of the master's ever gets one: the pipe by which the
/// standard library reports a failed `exec` must not be overwritten.
fn reserve() -> io::Result<Vec<OwnedFd>> {
    let mut reserved = Vec::new();
    loop {
        let null = OwnedFd::from(File::open("/dev/null")?);
        if null.as_raw_fd() > LAST {
            return Ok(reserved);
        }
        reserved.push(null);
    }
}

/// Everything that the child needs between `fork` and `exec`, without allocating.
struct Placement {
    from: [RawFd; MAX_DESCRIPTORS],
    to: [RawFd; MAX_DESCRIPTORS],
    count: usize,
    master: i32,
    death_signal: i32,
    may_gain_privileges: bool,
}

impl Placement {
    fn new(request: &Request<'_>) -> io::Result<Placement> {
        let (mut from, mut to) = ([-1; MAX_DESCRIPTORS], [-1; MAX_DESCRIPTORS]);
        for (nth, (source, number)) in request.descriptors.iter().enumerate() {
            let numbers = CONTROL..=LAST;
            if nth == MAX_DESCRIPTORS || !numbers.contains(number) || to.contains(number) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "a descriptor outside the plan, or two",
                ));
            }
            (from[nth], to[nth]) = (source.as_raw_fd(), *number);
        }
        let master = std::process::id() as i32;
        Ok(Placement {
            from,
            to,
            count: request.descriptors.len(),
            master,
            death_signal: request.death_signal,
            may_gain_privileges: request.may_gain_privileges,
        })
    }

    fn prepare(&mut self) -> io::Result<()> {
        self.place_descriptors()?;
        // SAFETY: integers only, all async-signal-safe; the set is initialised by sigemptyset.
        unsafe {
            check(libc::setpgid(0, 0))?;
            for signal in 1..=LAST_SIGNAL {
                // Fails for SIGKILL and SIGSTOP, which have no other action.
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            check(libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()))?;
            // What a master that was root has kept is not for its children; fails before Linux 4.3, where there is none.
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0, 0, 0);
            if !self.may_gain_privileges {
                check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1 as libc::c_ulong, 0, 0, 0))?;
            }
            check(libc::prctl(libc::PR_SET_PDEATHSIG, self.death_signal as libc::c_ulong, 0, 0, 0))?;
            if libc::getppid() != self.master {
                // The master died before the line above: no signal will come.
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    }

    fn place_descriptors(&mut self) -> io::Result<()> {
        // SAFETY: integers only; `from` are descriptors that the request borrows for the time of the spawn.
        unsafe {
            for from in &mut self.from[..self.count] {
                *from = check(libc::fcntl(*from, libc::F_DUPFD_CLOEXEC, ABOVE))?;
            }
            for number in CONTROL..=LAST {
                match self.to[..self.count].iter().position(|to| *to == number) {
                    Some(nth) => check(libc::dup2(self.from[nth], number))?,
                    // What the master itself inherited; fails where there is nothing.
                    None => libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC),
                };
            }
            // Linux 5.11; before, only what the master inherited open would pass.
            libc::syscall(libc::SYS_close_range, LAST + 1, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        }
        Ok(())
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use forkgate_shared::descriptors::{ADMIN_LISTENERS, CATALOG, ROWS, SETTINGS};
    use forkgate_shared::memfd;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::io::Read;

    use super::super::pidfd::Ending;
    use super::*;

    fn wait(pidfd: &PidFd) -> Ending {
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(10_000u16)).expect("poll"), 1);
        pidfd.reap().expect("reap").expect("ended")
    }

    /// Runs `script` with the descriptors and a pipe under `CONTROL`; gives what it writes there.
    fn output(script: &str, descriptors: Vec<(BorrowedFd<'_>, RawFd)>) -> (Ending, String) {
        let shell = Executable::open(Path::new("/bin/sh")).expect("sh");
        let (mut read, write) = io::pipe().expect("pipe");
        let mut descriptors: Vec<(BorrowedFd<'_>, RawFd)> = descriptors;
        descriptors.push((write.as_fd(), CONTROL));
        let args = vec!["-c".into(), script.into()];
        let request = Request { args, descriptors, death_signal: libc::SIGKILL, ..Request::default() };
        let (_, pidfd) = shell.spawn(&request).expect("spawn");
        drop(request);
        drop(write);
        let mut text = String::new();
        read.read_to_string(&mut text).expect("read");
        (wait(&pidfd), text)
    }

    #[test]
    fn a_child_has_the_planned_descriptors_and_no_others() {
        let (a, b) = (memfd::immutable("aaa", b"A"), memfd::immutable("bbb", b"B"));
        let (a, b) = (a.expect("memfd"), b.expect("memfd"));
        let plan = vec![(a.as_fd(), ROWS), (b.as_fd(), SETTINGS)];
        let (ending, text) = output("exec >&3; exec ls -l /proc/self/fd", plan);
        assert_eq!(ending, Ending::Code(0));
        let mut numbers: Vec<(i32, String)> = text
            .lines()
            .filter_map(|line| line.split_once(" -> "))
            .filter_map(|(left, to)| Some((left.rsplit(' ').next()?.parse().ok()?, to.to_owned())))
            .filter(|(number, to)| *number > 2 && !to.starts_with("/proc/"))
            .collect();
        numbers.sort();
        assert_eq!(
            numbers.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
            [CONTROL, ROWS, SETTINGS],
            "{text}"
        );
        assert!(numbers[1].1.contains("aaa") && numbers[2].1.contains("bbb"), "{text}");
    }

    #[test]
    fn numbers_that_collide_with_the_sources_are_placed_right() {
        // Sources that sit on each other's targets: moved up first, nothing is lost.
        let files: Vec<OwnedFd> =
            (0..4).map(|n| memfd::immutable("m", format!("file{n}").as_bytes()).expect("memfd")).collect();
        let numbers = [ADMIN_LISTENERS, CATALOG, SETTINGS, ROWS];
        let plan = files.iter().map(AsFd::as_fd).zip(numbers).collect();
        let (_, text) = output("for n in 8 7 5 4; do cat /proc/$$/fd/$n >&3; echo >&3; done", plan);
        assert_eq!(text, "file0\nfile1\nfile2\nfile3\n");
    }

    #[test]
    fn a_child_has_its_own_group_default_signals_and_no_word_for_the_service_manager() {
        // The shell blocks signals while it waits for others, so it must become what looks.
        let script = "echo $(ps -o pgid= -p $$) $$ >&3; echo ${NOTIFY_SOCKET-none} >&3; exec >&3; \
                      exec grep -E '^Sig(Blk|Ign)' /proc/self/status";
        let (_, text) = output(script, Vec::new());
        let mut lines = text.lines();
        let ids: Vec<&str> = lines.next().expect("ids").split(' ').collect();
        assert_eq!(ids[0], ids[1]);
        assert_eq!(lines.next(), Some("none"));
        for (line, what) in lines.zip(["SigBlk", "SigIgn"]) {
            let (name, mask) = line.split_once(":\t").expect("a mask");
            // Without 32 and 33, which are glibc's own.
            let mask = u64::from_str_radix(mask, 16).expect("hex") & ((1 << LAST_SIGNAL) - 1);
            assert_eq!((name, mask), (what, 0));
        }
    }

    /// Runs `script` with this request; gives what it prints.
    fn printed(script: &str, request: Request<'_>) -> String {
        let shell = Executable::open(Path::new("/bin/sh")).expect("sh");
        let (mut read, write) = io::pipe().expect("pipe");
        let args = vec!["-c".into(), script.into()];
        let request = Request { args, death_signal: libc::SIGKILL, output: Some(write.as_fd()), ..request };
        let (_, pidfd) = shell.spawn(&request).expect("spawn");
        drop(request);
        drop(write);
        let mut text = String::new();
        read.read_to_string(&mut text).expect("read");
        assert_eq!(wait(&pidfd), Ending::Code(0), "{text}");
        text
    }

    #[test]
    fn a_child_reads_what_it_is_given_and_has_the_environment_that_it_is_given() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), "told\n").expect("write");
        let input = File::open(file.path()).expect("open");
        let environment = Some(vec![("ONE".into(), "1".into())]);
        let request = Request { input: Some(input.as_fd()), environment, ..Request::default() };
        assert_eq!(printed("read told; echo $told $ONE ${HOME-none}", request), "told 1 none\n");
        assert_eq!(printed("read told || echo nothing", Request::default()), "nothing\n");
    }

    #[test]
    fn no_child_gains_rights_unless_it_may() {
        let script = "exec grep ^NoNewPrivs /proc/self/status";
        assert_eq!(printed(script, Request::default()), "NoNewPrivs:\t1\n");
        // Where the test itself may, that is.
        let own = std::fs::read_to_string("/proc/self/status").expect("status");
        let own = own.lines().find(|line| line.starts_with("NoNewPrivs")).expect("Linux 4.10");
        let request = Request { may_gain_privileges: true, ..Request::default() };
        assert_eq!(printed(script, request), format!("{own}\n"));
    }

    #[test]
    fn what_cannot_be_executed_is_an_error_and_not_a_child() {
        let nothing = Executable::open(Path::new("/dev/null")).expect("open");
        let request = Request { death_signal: libc::SIGKILL, ..Request::default() };
        assert_eq!(nothing.spawn(&request).expect_err("exec").raw_os_error(), Some(libc::EACCES));
        let file = memfd::immutable("x", b"x").expect("memfd");
        let descriptors = vec![(file.as_fd(), ROWS), (file.as_fd(), ROWS)];
        let twice = Request { descriptors, death_signal: libc::SIGKILL, ..Request::default() };
        assert_eq!(nothing.spawn(&twice).expect_err("plan").kind(), io::ErrorKind::InvalidInput);
    }
}
