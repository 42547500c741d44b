//! Hooks: commands that are run when something has happened, for those who want to know.
//!
//! Nobody waits for them, and nothing depends on them. The master's one thread starts each as a child of its own
//! (`forkgate hook -- COMMAND`, which becomes the command: a program on a disk that does not answer stops that child and not
//! the master), hears its end by a pidfd and what it prints by a pipe.
//!
//! | bound | |
//! |---|---|
//! | at once | [`MOST_RUNNING`] |
//! | waiting, in order | [`MOST_WAITING`]; more are dropped, and counted in the log |
//! | time | [`LIMIT`], then the command's process group is killed |
//! | output | see [`output`] |
//! | at the end of the master | what runs or waits then gets [`LAST_WORDS`] |
//!
//! Another program that takes over in place goes on with all of it.

mod moments;
mod output;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use forkgate_shared::memfd;
use forkgate_shared::rows::monotonic_ns;
use forkgate_shared::settings::{Hook, table};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::master::Master;
use super::pidfd::{Ending, PidFd};
use super::poller::Source;
use super::report::how;
use super::spawn::Request;
use super::upgrade::{Adopter, Keeper, Kept, STATE_VARIABLE};
use crate::supervisor::{ChildId, Ns};
use output::Output;

/// Hooks at once: a storm of workers that die must not become one of processes.
const MOST_RUNNING: usize = 4;
/// Hooks that wait: every worker of the largest gateway may end in the same moment.
const MOST_WAITING: usize = 64;
/// From a hook's start to its kill. It is to tell somebody; what takes longer is somebody else's to do.
const LIMIT: Ns = 10_000_000_000;
/// What hooks get when everything else has ended: less than the time that a next master waits for the lock.
const LAST_WORDS: Ns = 2_000_000_000;
/// Between two looks at what those print who print too much.
const REST: Ns = 100_000_000;
/// The command that becomes another one.
const COMMAND: &str = "hook";

/// A hook that is to be run.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Waiting {
    hook: Hook,
    words: Vec<String>,
    /// What it is told: one line of JSON.
    told: String,
}

/// A hook that runs.
#[derive(Debug)]
struct Run {
    hook: Hook,
    pid: i32,
    pidfd: PidFd,
    output: Output,
    deadline: Ns,
}

/// What runs and what waits.
#[derive(Debug, Default)]
pub struct Hooks {
    runs: BTreeMap<u64, Run>,
    waiting: VecDeque<Waiting>,
    next: u64,
    /// Since the log said so last.
    dropped: u64,
    /// When those who print too much are read again.
    rest_until: Ns,
    /// Workers that the master has killed and that have not ended yet.
    killed: BTreeSet<ChildId>,
    /// Everything else has ended; until then the last ones may run.
    last_words_until: Option<Ns>,
}

/// What is written down for another program.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    runs: Vec<SavedRun>,
    waiting: Vec<Waiting>,
    next: u64,
    killed: BTreeSet<ChildId>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedRun {
    id: u64,
    hook: Hook,
    pid: i32,
    pidfd: Kept,
    output: Kept,
    deadline: Ns,
}

impl Hooks {
    /// Writes them down. A line that is half read is lost.
    pub fn save(&self, keeper: &mut Keeper) -> Saved {
        let run = |(id, run): (&u64, &Run)| SavedRun {
            id: *id,
            hook: run.hook,
            pid: run.pid,
            pidfd: keeper.keep(&run.pidfd),
            output: keeper.keep(run.output.as_fd()),
            deadline: run.deadline,
        };
        let runs = self.runs.iter().map(run).collect();
        let waiting = self.waiting.iter().cloned().collect();
        Saved { runs, waiting, next: self.next, killed: self.killed.clone() }
    }

    /// Them again.
    pub fn restore(saved: Saved, adopter: &mut Adopter) -> io::Result<Hooks> {
        let mut runs = BTreeMap::new();
        let Saved { runs: saved_runs, waiting, next, killed } = saved;
        for SavedRun { id, hook, pid, pidfd, output, deadline } in saved_runs {
            let pidfd = PidFd::adopt(adopter.adopt(pidfd)?);
            let output = Output::of(adopter.adopt(output)?)?;
            runs.insert(id, Run { hook, pid, pidfd, output, deadline });
        }
        Ok(Hooks { runs, waiting: waiting.into(), next, killed, ..Hooks::default() })
    }

    /// True for the process of one that runs.
    pub fn has(&self, pid: i32) -> bool {
        self.runs.values().any(|run| run.pid == pid)
    }

    /// When [`Master::tend_hooks`] has something to do.
    pub fn next_deadline(&self) -> Option<Ns> {
        let limits = self.runs.values().map(|run| run.deadline);
        let rest = self.runs.values().any(|run| run.output.is_loud()).then_some(self.rest_until);
        limits.chain(rest).chain(self.last_words_until).min()
    }

    /// What to wait on, and what it means.
    pub fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Source)> {
        self.runs.iter().flat_map(|(id, run)| {
            [(run.pidfd.as_fd(), Source::HookEnded(*id)), (run.output.as_fd(), Source::HookOutput(*id))]
        })
    }

    fn is_idle(&self) -> bool {
        self.runs.is_empty() && self.waiting.is_empty()
    }

    /// Takes one more that is to be run; says when there are too many.
    fn take(&mut self, waiting: Waiting) {
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push_back(waiting);
            return;
        }
        if self.dropped == 0 {
            tracing::warn!(
                hook = waiting.hook.as_str(),
                "{MOST_RUNNING} hooks run and {MOST_WAITING} wait: further ones are dropped until there is room"
            );
        }
        self.dropped += 1;
    }

    /// The next one, if it may run now.
    fn due(&mut self) -> Option<Waiting> {
        if self.runs.len() >= MOST_RUNNING {
            return None;
        }
        let next = self.waiting.pop_front()?;
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            tracing::warn!(dropped, "hooks were dropped because too many waited");
        }
        Some(next)
    }
}

impl Master {
    /// Something has happened: its hook is run when there is one. `told` makes what it is told.
    fn run_hook(&mut self, hook: Hook, told: impl FnOnce(&Master) -> serde_json::Value) {
        let Some(words) = self.versions.current().settings.hooks.words(hook) else { return };
        let told = self.told(hook, told(self));
        self.hooks.take(Waiting { hook, words, told });
        self.start_hooks();
    }

    fn start_hooks(&mut self) {
        while let Some(waiting) = self.hooks.due() {
            let hook = waiting.hook;
            if let Err(error) = self.start_hook(waiting) {
                tracing::error!(hook = hook.as_str(), %error, "a hook cannot be started");
            }
        }
    }

    fn start_hook(&mut self, waiting: Waiting) -> io::Result<()> {
        let Waiting { hook, words, told } = waiting;
        let told = memfd::immutable("forkgate-hook", told.as_bytes())?;
        // Another open file of it, which is read from its begin and cannot be written.
        let input = File::open(format!("/proc/self/fd/{}", told.as_raw_fd()))?;
        let (read, write) = io::pipe()?;
        let output = Output::of(read.into())?;
        let args = [COMMAND.to_owned(), "--".to_owned()].into_iter().chain(words);
        let request = Request {
            args: args.map(OsString::from).collect(),
            descriptors: Vec::new(),
            death_signal: libc::SIGKILL,
            input: Some(input.as_fd()),
            output: Some(write.as_fd()),
            environment: Some(self.environment_of_hooks(hook)),
            may_gain_privileges: true,
        };
        let (pid, pidfd) = self.executable.spawn(&request)?;
        let id = self.hooks.next;
        self.hooks.next += 1;
        let watched = self
            .poller
            .add(&pidfd, Source::HookEnded(id))
            .and_then(|()| self.poller.add(output.as_fd(), Source::HookOutput(id)));
        if let Err(error) = watched {
            self.kill_and_bury(pid, pidfd);
            return Err(error);
        }
        tracing::debug!(hook = hook.as_str(), pid, "a hook is run");
        self.hooks.runs.insert(id, Run { hook, pid, pidfd, output, deadline: monotonic_ns() + LIMIT });
        Ok(())
    }

    /// As the master's, without the settings (secrets are among them) and what speaks to the master alone; with what
    /// `forkgate ctl` finds the master by.
    fn environment_of_hooks(&self, hook: Hook) -> Vec<(OsString, OsString)> {
        let is_ours =
            |name: &OsString| *name == *STATE_VARIABLE || table::names().any(|setting| *name == *setting);
        let inherited = std::env::vars_os().filter(|(name, _)| !is_ours(name));
        let state_dir = self.versions.current().settings.state_dir.clone().into_os_string();
        let own = [("GATEWAY_STATE_DIR", state_dir), ("FORKGATE_HOOK", hook.as_str().into())];
        inherited.chain(own.map(|(name, value)| (name.into(), value))).collect()
    }

    /// A hook has printed something.
    pub(super) fn hook_said(&mut self, id: u64) {
        let Some(run) = self.hooks.runs.get_mut(&id) else { return };
        let more = run.say();
        if !more {
            self.poller.remove(run.output.as_fd());
        } else if run.output.is_loud() {
            self.poller.remove(run.output.as_fd());
            self.hooks.rest_until = monotonic_ns() + REST;
        }
    }

    /// A hook has ended; it is reaped later.
    pub(super) fn hook_ended(&mut self, id: u64) {
        let Some(run) = self.hooks.runs.get(&id) else { return };
        let ending = match run.pidfd.ending() {
            Ok(Some(ending)) => ending,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(pid = run.pid, %error, "a hook was reaped by somebody else");
                Ending::Code(-1)
            }
        };
        let Some(mut run) = self.hooks.runs.remove(&id) else { return };
        run.say();
        let (hook, pid) = (run.hook.as_str(), run.pid);
        match ending {
            Ending::Code(0) => tracing::debug!(hook, pid, "a hook has ended"),
            ending => tracing::warn!(hook, pid, "hook {hook} ended with {}", how(ending)),
        }
        self.let_go(run);
        self.start_hooks();
    }

    /// Ends those whose time is over; reads those who print too much.
    pub(super) fn tend_hooks(&mut self, now: Ns) {
        let late = self.hooks.runs.iter().filter(|(_, run)| run.deadline <= now);
        for id in late.map(|(id, _)| *id).collect::<Vec<u64>>() {
            let Some(mut run) = self.hooks.runs.remove(&id) else { continue };
            run.say();
            let (hook, pid, limit_s) = (run.hook.as_str(), run.pid, LIMIT / 1_000_000_000);
            tracing::error!(
                hook,
                pid,
                limit_s,
                "hook {hook} had not ended in time: its process group is killed"
            );
            run.kill();
            self.let_go(run);
            self.start_hooks();
        }
        if self.hooks.rest_until <= now {
            self.hooks.rest_until = now + REST;
            for run in self.hooks.runs.values_mut().filter(|run| run.output.is_loud()) {
                run.say();
            }
        }
    }

    /// True when the master may leave: no hook runs or waits, or their last words have taken too long.
    pub(super) fn hooks_are_over(&mut self, now: Ns) -> bool {
        if self.hooks.is_idle() {
            return true;
        }
        let until = *self.hooks.last_words_until.get_or_insert(now + LAST_WORDS);
        if now < until {
            return false;
        }
        let (running, waiting) = (self.hooks.runs.len(), self.hooks.waiting.len());
        tracing::warn!(running, waiting, "hooks are given up: the master ends");
        self.hooks.waiting.clear();
        for (_, run) in std::mem::take(&mut self.hooks.runs) {
            run.kill();
        }
        true
    }

    fn let_go(&mut self, run: Run) {
        self.poller.remove(&run.pidfd);
        self.poller.remove(run.output.as_fd());
        self.zombies.keep(run.pid, run.pidfd, monotonic_ns());
    }
}

impl Run {
    /// Writes what it printed into the log; false when nothing more can come.
    fn say(&mut self) -> bool {
        let (hook, pid) = (self.hook.as_str(), self.pid);
        self.output.read(|line| tracing::info!(hook, pid, "{line}"))
    }

    /// The group is its own for as long as it is not reaped: nobody else can be meant.
    fn kill(&self) {
        let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
        let _ = self.pidfd.signal(libc::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(number: usize) -> Waiting {
        Waiting { hook: Hook::WorkerExit, words: vec!["/bin/true".to_owned()], told: number.to_string() }
    }

    #[test]
    fn those_that_wait_are_bounded_and_come_in_order() {
        let mut hooks = Hooks::default();
        for number in 0..MOST_WAITING + 3 {
            hooks.take(waiting(number));
        }
        assert_eq!((hooks.waiting.len(), hooks.dropped), (MOST_WAITING, 3));
        assert!(!hooks.is_idle());
        let told: Vec<String> = std::iter::from_fn(|| hooks.due()).map(|next| next.told).collect();
        assert_eq!(told, (0..MOST_WAITING).map(|number| number.to_string()).collect::<Vec<_>>());
        assert_eq!((hooks.dropped, hooks.is_idle(), hooks.next_deadline()), (0, true, None));
    }

    #[test]
    fn what_is_written_down_for_another_program_is_read_back() {
        let mut hooks = Hooks { next: 7, ..Hooks::default() };
        hooks.take(waiting(1));
        let text = serde_json::to_string(&hooks.save(&mut Keeper::default())).expect("json");
        let saved: Saved = serde_json::from_str(&text).expect("a state");
        // SAFETY: no descriptor at all.
        let mut adopter = unsafe { Adopter::new(&[]) }.expect("nothing to adopt");
        let mut again = Hooks::restore(saved, &mut adopter).expect("restored");
        assert_eq!((again.next, again.due().map(|next| next.told)), (7, Some("1".to_owned())));
        assert!(serde_json::from_str::<Saved>("{}").is_ok(), "of a program that knows less");
    }
}
