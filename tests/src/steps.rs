//! A random schedule: what is done to a running gateway, one step after another, all of it from a seed.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::process::Signal;

/// Longest pause before a step.
const LONGEST_PAUSE_MS: u64 = 1_200;

/// One thing that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A signal to the master.
    Signal(Signal),
    /// A word to `ctl`; it may be refused.
    Ctl(&'static [&'static str]),
    /// `kill -9` of a worker.
    Kill(Pick),
    /// `kill -9` of any child of the master: one that boots, one that drains, one that is no worker.
    KillChild(Pick),
    /// A worker ends by SIGABRT, as one does whose memory is corrupt.
    Abort(Pick),
    /// TERM to a worker, which asks for a replacement.
    Ask(Pick),
    /// A worker stands still for so many milliseconds.
    StopWorker(Pick, u64),
    /// The master does.
    StopMaster(u64),
    /// `/_fault/NAME?QUERY` to whichever worker accepts.
    Fault(&'static Fault),
    /// A setting gets a value, and HUP.
    Edit(&'static str, String),
    /// The env file is broken, HUP, and some time later it is whole again.
    Break(&'static str),
}

/// Chooses one of however many there are then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick(pub u64);

/// What may be ordered, and what may come of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its name.
    pub name: &'static str,
    /// Its parameters.
    pub query: &'static str,
    /// When it is over, if nobody ends it.
    pub seconds: u64,
    /// The kills that it may lead to, as the status names them.
    pub kills: &'static [&'static str],
}

/// With GATEWAY_STALL_TIMEOUT 3 and GATEWAY_SPIN_WINDOW 4. One stall is too short to be killed for.
static FAULTS: [Fault; 9] = [
    Fault { name: "spin", query: "seconds=9", seconds: 9, kills: &["spin"] },
    Fault { name: "pingpong", query: "seconds=9", seconds: 9, kills: &["spin"] },
    Fault { name: "stall", query: "seconds=2", seconds: 2, kills: &[] },
    Fault { name: "stall", query: "seconds=8", seconds: 8, kills: &["stall_blocked"] },
    Fault { name: "stall-cpu", query: "seconds=8", seconds: 8, kills: &["stall_cpu"] },
    Fault { name: "leak", query: "seconds=4&rate=150", seconds: 4, kills: &["memory"] },
    Fault { name: "watchdog-dead", query: "", seconds: 15, kills: &["silent"] },
    Fault { name: "accept-dead", query: "", seconds: 5, kills: &[] },
    Fault { name: "panic", query: "", seconds: 0, kills: &[] },
];

/// Values that are right, by setting.
const RIGHT: [(&str, &[&str]); 4] = [
    ("GATEWAY_WORKERS", &["2", "3", "4"]),
    ("GATEWAY_MAX_REQUESTS", &["0", "30", "60", "120"]),
    ("GATEWAY_KEEPALIVE_GRACE", &["1", "2", "4"]),
    ("GATEWAY_LOG_LEVEL", &["info", "debug"]),
];

/// Lines that make an env file wrong.
const WRONG: [&str; 4] = [
    "GATEWAY_GRACEFUL_TIMEOUT=soonish",
    "GATEWAY_WORKRES=4",
    "GATEWAY_WORKERS=0",
    "GATEWAY_MAX_RSS=1 elephant",
];

/// Words to `ctl`.
const WORDS: [&[&str]; 9] = [
    &["status"],
    &["why", "0"],
    &["reload"],
    &["reload"],
    &["reload", "--json"],
    &["pause", "0"],
    &["pause", "1"],
    &["resume", "0"],
    &["resume", "1"],
];

/// The steps of a seed, each with the pause before it; they never end.
pub struct Steps(StdRng);

impl Steps {
    /// The same seed gives the same steps.
    pub fn of(seed: u64) -> Steps {
        Steps(StdRng::seed_from_u64(seed))
    }

    fn pick(&mut self) -> Pick {
        Pick(self.0.random())
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.0.random_range(0..all.len())]
    }

    fn step(&mut self) -> Step {
        // How often of a hundred.
        match self.0.random_range(0..100) {
            0..12 => Step::Signal(Signal::SIGHUP),
            12..22 => Step::Signal(Signal::SIGTTIN),
            22..32 => Step::Signal(Signal::SIGTTOU),
            32..34 => Step::Signal(Signal::SIGUSR1),
            34..39 => Step::Signal(Signal::SIGUSR2),
            39..46 => Step::Ctl(self.one_of(&WORDS)),
            46..49 => Step::Kill(self.pick()),
            49..51 => Step::Abort(self.pick()),
            51..53 => Step::KillChild(self.pick()),
            53..56 => Step::Ask(self.pick()),
            56..64 => Step::StopWorker(self.pick(), self.0.random_range(50..4_000)),
            64..70 => Step::StopMaster(self.0.random_range(20..3_000)),
            70..82 => Step::Fault(&FAULTS[self.0.random_range(0..FAULTS.len())]),
            82..92 => {
                let (name, values) = self.one_of(&RIGHT);
                Step::Edit(name, self.one_of(values).to_owned())
            }
            _ => Step::Break(self.one_of(&WRONG)),
        }
    }
}

impl Iterator for Steps {
    type Item = (Duration, Step);

    fn next(&mut self) -> Option<(Duration, Step)> {
        // Often none at all: what is done at once meets what has only begun.
        let pause =
            if self.0.random_range(0..4) == 0 { 0 } else { self.0.random_range(10..LONGEST_PAUSE_MS) };
        Some((Duration::from_millis(pause), self.step()))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Signal(signal) => write!(f, "{signal} to the master"),
            Step::Ctl(words) => write!(f, "ctl {}", words.join(" ")),
            Step::Kill(_) => f.write_str("kill -9 of a worker"),
            Step::KillChild(_) => f.write_str("kill -9 of a child"),
            Step::Abort(_) => f.write_str("a worker aborts"),
            Step::Ask(_) => f.write_str("TERM to a worker"),
            Step::StopWorker(_, ms) => write!(f, "a worker stands still for {ms} ms"),
            Step::StopMaster(ms) => write!(f, "the master stands still for {ms} ms"),
            Step::Fault(fault) => write!(f, "fault {}?{}", fault.name, fault.query),
            Step::Edit(name, value) => write!(f, "{name}={value} and HUP"),
            Step::Break(line) => write!(f, "{line:?} in the env file and HUP"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_everything() {
        let steps = |seed| -> Vec<(Duration, Step)> { Steps::of(seed).take(500).collect() };
        assert_eq!(steps(7), steps(7));
        assert_ne!(steps(7), steps(8));
        // Every kind of step comes.
        let mut kinds: Vec<_> = steps(7).iter().map(|(_, step)| std::mem::discriminant(step)).collect();
        kinds.dedup();
        for (_, step) in steps(8) {
            assert!(kinds.contains(&std::mem::discriminant(&step)), "{step}");
        }
    }
}
