//! Asking another program whether it could take over: it is started as a child that reads the state and answers.
//!
//! It listens nowhere, changes nothing and has ten seconds. Whatever it says is taken for an answer only when it is one: a
//! program that knows nothing of the question may end with code 0, too.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use forkgate_shared::descriptors::{SETTINGS, STATE};
use forkgate_shared::rows::{harmless, monotonic_ns};
use serde::{Deserialize, Serialize};

use super::super::ctl::Operation;
use super::super::master::Master;
use super::super::pidfd::{Ending, PidFd};
use super::super::poller::Source;
use super::super::spawn::Request;
use super::{Candidate, open, saved};
use crate::supervisor::{Event, Ns};

/// How long the other program may take: it reads some kilobytes.
const LIMIT: Ns = 10_000_000_000;
/// What is read of what it says, in bytes.
const MAX_ANSWER: u64 = 16 * 1024;
/// Most characters of what a foreign program says that are repeated.
const MAX_SHOWN: usize = 200;

/// What the asked program prints, as one line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
enum Answer {
    /// It can take over.
    Ready {
        /// Its version.
        version: String,
    },
    /// It cannot.
    Refused {
        /// Why.
        why: String,
    },
}

/// A program that is being asked.
#[derive(Debug)]
pub struct Check {
    candidate: Candidate,
    pid: i32,
    pidfd: PidFd,
    output: io::PipeReader,
    deadline: Ns,
}

impl Check {
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    pub(super) fn deadline(&self) -> Ns {
        self.deadline
    }

    fn start(candidate: Candidate, state: BorrowedFd<'_>, settings: BorrowedFd<'_>) -> io::Result<Check> {
        let (output, write) = io::pipe()?;
        let descriptors = vec![(state, STATE), (settings, SETTINGS)];
        let (args, death_signal) = (vec![COMMAND.into()], libc::SIGKILL);
        let printed = Some(write.as_fd());
        let request = Request { args, descriptors, death_signal, output: printed, ..Request::default() };
        let (pid, pidfd) = candidate.executable.spawn(&request)?;
        Ok(Check { candidate, pid, pidfd, output, deadline: monotonic_ns() + LIMIT })
    }
}

impl Master {
    /// Starts the check; says what is wrong with the program when that is not possible.
    pub(super) fn begin_check(&mut self, path: &Path) -> Result<(), String> {
        let executable = open(path).map_err(|error| cannot(&error))?;
        let unwritten = |error| format!("the state cannot be written down: {error}");
        let (state, _) = self.save(path, None, None).map_err(unwritten)?;
        let settings = self.versions.current().memfd.as_fd();
        let candidate = Candidate { path: path.to_owned(), executable };
        let check = Check::start(candidate, state.as_fd(), settings).map_err(|error| cannot(&error))?;
        let watched = self.poller.add(&check.pidfd, Source::UpgradeCheck);
        let (program, pid) = (path.display(), check.pid());
        tracing::info!(%program, pid, "upgrade: the program is asked whether it can take over");
        self.upgrade.check = Some(check);
        watched.map_err(|error| {
            self.give_up_check();
            format!("its check cannot be waited for: {error}")
        })
    }

    /// Nobody waits for the answer any more.
    pub(super) fn give_up_check(&mut self) {
        if let Some(Check { pid, pidfd, .. }) = self.upgrade.check.take() {
            self.kill_and_bury(pid, pidfd);
        }
    }

    /// The check has ended, or its time has.
    pub(in super::super) fn continue_check(&mut self, now: Ns) {
        let Some(check) = &self.upgrade.check else { return };
        let ending = match check.pidfd.ending() {
            Ok(None) if now < check.deadline => return,
            Ok(ending) => ending,
            Err(_) => Some(Ending::Code(-1)),
        };
        let Some(Check { candidate, pid, pidfd, mut output, .. }) = self.upgrade.check.take() else { return };
        self.kill_and_bury(pid, pidfd);
        let said = ending.map_or_else(Vec::new, |_| said(&mut output));
        let answer = judge(ending, &said);
        self.events.push_back(Event::UpgradeChecked(answer.is_ok()));
        match answer {
            Ok(version) => {
                let program = candidate.path.display();
                tracing::info!(%program, version, "upgrade: the program can take over");
                self.tell_operators(Operation::Upgrade, "it can, and is executed in place");
                self.upgrade.candidate = Some(candidate);
            }
            Err(why) => self.upgrade.why = Some(format!("{}: {why}", candidate.path.display())),
        }
    }
}

/// The hidden command that a program is asked with.
pub const COMMAND: &str = "upgrade-check";

/// What this program says when it is the one that is asked; true when it can take over. `refuse` has the last word.
pub fn answer(
    state: OwnedFd,
    settings: OwnedFd,
    catalog_layout: u64,
    refuse: impl FnOnce(&saved::Saved) -> Option<String>,
) -> (String, bool) {
    let read = saved::read(state.as_fd(), catalog_layout).and_then(|state| {
        saved::read_settings(settings.as_fd(), &state.sources)?;
        Ok(state)
    });
    let answer = match read.map(|state| refuse(&state)) {
        Ok(None) => Answer::Ready { version: env!("CARGO_PKG_VERSION").to_owned() },
        Ok(Some(why)) => Answer::Refused { why },
        Err(error) => Answer::Refused { why: error.to_string() },
    };
    (serde_json::to_string(&answer).unwrap_or_default(), matches!(answer, Answer::Ready { .. }))
}

/// The version of a program that can take over, or why it cannot. No ending: its time was over.
fn judge(ending: Option<Ending>, said: &[u8]) -> Result<String, String> {
    let Some(ending) = ending else {
        return Err(format!("it did not answer within {} s", LIMIT / 1_000_000_000));
    };
    let lines = said.split(|byte| *byte == b'\n');
    let answer = lines.rev().find_map(|line| serde_json::from_slice::<Answer>(line).ok());
    match (answer, ending) {
        (Some(Answer::Refused { why }), _) => Err(why),
        (Some(Answer::Ready { version }), Ending::Code(0)) => Ok(version),
        (_, ending) => {
            let text = String::from_utf8_lossy(said);
            let first = text.lines().find(|line| !line.trim().is_empty()).map(|line| {
                let shown: String = line.chars().take(MAX_SHOWN).collect();
                format!("; it said: {}", harmless(&shown))
            });
            let first = first.unwrap_or_default();
            Err(format!("it is no forkgate that can take over: asked, it ended with {ending}{first}"))
        }
    }
}

fn said(output: &mut io::PipeReader) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A child of its own may hold the other end open: only what is there is read.
    let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
    if nix::fcntl::fcntl(&*output, flags).is_ok() {
        let _ = output.take(MAX_ANSWER).read_to_end(&mut bytes);
    }
    bytes
}

/// Why a program cannot be started.
fn cannot(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOEXEC) => "this machine cannot execute it".to_owned(),
        Some(libc::EACCES) => {
            format!("{error}: is it executable (`chmod 755`), and not on a file system mounted noexec?")
        }
        Some(libc::ETXTBSY) => {
            format!("{error}: it is still being written; install it by renaming it into place")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use forkgate_shared::memfd;

    use super::*;

    #[test]
    fn only_an_answer_is_an_answer() {
        let good = br#"{"answer":"ready","version":"2.0.0"}"#;
        assert_eq!(judge(Some(Ending::Code(0)), good), Ok("2.0.0".to_owned()));
        let warned = [&b"a warning\n"[..], good, b"\n"].concat();
        assert_eq!(judge(Some(Ending::Code(0)), &warned), Ok("2.0.0".to_owned()));
        for (ending, said, part) in [
            (
                Some(Ending::Code(0)),
                &b""[..],
                "no forkgate that can take over: asked, it ended with exit code 0",
            ),
            (Some(Ending::Signal(11)), good, "it ended with signal 11"),
            (
                Some(Ending::Code(127)),
                b"\nlibx.so: not found\n",
                "exit code 127; it said: libx.so: not found",
            ),
            (Some(Ending::Code(1)), br#"{"answer":"refused","why":"the layout"}"#, "the layout"),
            (Some(Ending::Code(0)), br#"{"answer":"refused","why":"the layout"}"#, "the layout"),
            (None, good, "did not answer within 10 s"),
        ] {
            let why = judge(ending, said).expect_err("refused");
            assert!(why.contains(part), "{why}");
        }
    }

    #[test]
    fn what_a_foreign_program_says_is_cut_and_does_no_harm() {
        let loud = format!("\u{1b}[31m{}", "x".repeat(9000));
        let why = judge(Some(Ending::Code(2)), loud.as_bytes()).expect_err("refused");
        assert!(why.len() < 400 && !why.contains('\u{1b}'), "{why}");
    }

    #[test]
    fn a_program_that_cannot_read_the_state_says_so_itself() {
        let memfd = |bytes: &[u8]| memfd::immutable("test", bytes).expect("memfd");
        let (said, ready) = answer(memfd(b"{}"), memfd(b"{}"), 1, |_| None);
        assert!(!ready);
        let why = judge(Some(Ending::Code(1)), said.as_bytes()).expect_err("refused");
        assert!(why.contains("cannot be read: missing field `header`"), "{why}");
    }
}
