//! What must hold at every moment, whatever is done to a gateway, seen from outside: the supervisor's invariants by what
//! `ctl status`, `/proc` and the kernel's socket table say.
//!
//! | | must hold | seen in |
//! |---|---|---|
//! | I1 | a slot's socket goes only when a slot was asked to go, and the master has every one of them | `sock_diag`, `/proc/PID/fd` |
//! | I2, I5 | a slot that served goes on serving, unless its worker was harmed or the slot was asked to go | `ctl status` |
//! | I3 | at most one worker that nobody harmed is being replaced | `ctl status`; the log, for a boot is shorter than a look |
//! | I4 | nobody waits to be reaped, and every child is known to the master | `/proc`, `ctl status` |
//! | I6 | nobody is killed, and nobody dies, but for what was done to him | the counters of `ctl status` |
//!
//! Besides: totals never go backwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::process;
use crate::status::Status;

/// How long what is about to change may look odd: a zombie whose turn comes, a child that has not said Hello.
const ODD_FOR: Duration = Duration::from_secs(5);
/// How long a short-lived child that is no worker may run.
const SHORT_LIFE: Duration = Duration::from_secs(40);
/// Children of the master that are no workers.
const SHORT_LIVED: [&str; 3] = ["migrate", "check", "upgrade-check"];
/// The master kills for these when a worker does not answer it: it may be any harmed one.
const OF_ANY_HARM: [&str; 2] = ["drain", "boot"];

/// Keeps the account of one gateway: what was done to it, and what was seen.
pub struct Invariants {
    master: u32,
    port: u16,
    /// The sockets that listen, when last seen.
    listening: BTreeSet<u64>,
    /// Slots that were asked to go, and sockets that went.
    may_go: u64,
    gone: u64,
    retired: u64,
    /// Slots that served when last seen.
    served: BTreeSet<u32>,
    /// Slots whose worker was harmed, with that worker, until it is gone or well and the slot serves.
    wounds: BTreeMap<u32, u32>,
    /// Deaths that were caused, and kills that may come of what was done.
    may_die: u64,
    may_be_killed: BTreeMap<String, u64>,
    harmed: u64,
    /// Since when something looks odd, by what it is.
    odd: BTreeMap<String, Instant>,
    last: Option<Status>,
    log: Log,
    /// Looks so far.
    pub looks: u64,
}

impl Invariants {
    /// Of a gateway at rest.
    pub fn of(master: u32, port: u16, log: &Path, status: &Status) -> Invariants {
        let listening = process::listening(port);
        assert_eq!(listening.len() as u64, status.target, "a socket per slot");
        Invariants {
            master,
            port,
            listening,
            may_go: 0,
            gone: 0,
            retired: 0,
            served: BTreeSet::new(),
            wounds: BTreeMap::new(),
            may_die: 0,
            may_be_killed: BTreeMap::new(),
            harmed: 0,
            odd: BTreeMap::new(),
            last: None,
            log: Log::of(log),
            looks: 0,
        }
    }

    /// So many slots may go from now on.
    pub fn slots_may_go(&mut self, count: u64) {
        self.may_go += count;
    }

    /// This worker is harmed; these kills may come of it.
    pub fn harm(&mut self, slot: u32, pid: u32, kills: &[&str]) {
        self.wounds.insert(slot, pid);
        self.harmed += 1;
        for kill in kills {
            *self.may_be_killed.entry((*kill).to_owned()).or_default() += 1;
        }
    }

    /// This worker is being killed by somebody else.
    pub fn kill(&mut self, slot: u32, pid: u32) {
        self.wounds.insert(slot, pid);
        self.may_die += 1;
    }

    /// A child that serves nobody yet, or nobody new any more, is being killed by somebody else.
    pub fn kill_idle(&mut self) {
        self.may_die += 1;
    }

    /// This worker is well again.
    pub fn heal(&mut self, pid: u32) {
        self.wounds.retain(|_, wounded| *wounded != pid);
    }

    /// Slots whose worker is in trouble.
    pub fn wounded(&self) -> usize {
        self.wounds.len()
    }

    /// Looks at everything; panics at the first thing that must not be. Not while the master stands still.
    #[track_caller]
    pub fn look(&mut self, status: &Status) {
        self.looks += 1;
        assert!(process::alive(self.master), "the master is gone");
        self.log.read();
        self.sockets();
        self.slots(status);
        self.one_at_a_time(status);
        self.children(status);
        self.causes(status);
        self.last = Some(status.clone());
    }

    /// I1.
    #[track_caller]
    fn sockets(&mut self) {
        let now = process::listening(self.port);
        self.gone += self.listening.difference(&now).count() as u64;
        assert!(self.gone <= self.may_go, "{} sockets went, {} slots were to go", self.gone, self.may_go);
        let held = process::socket_inodes(self.master);
        let strange = now.iter().any(|inode| !held.contains(inode));
        self.oddity("a socket listens that the master does not have".to_owned(), strange, ODD_FOR);
        self.listening = now;
    }

    /// I2 and I5.
    #[track_caller]
    fn slots(&mut self, status: &Status) {
        let serving: BTreeSet<u32> = status.serving().map(|worker| worker.slot).collect();
        // The status may be older than the death: only another worker makes a slot well.
        let others = |slot, pid| status.serving().any(|worker| worker.slot == slot && worker.pid != pid);
        self.wounds.retain(|slot, pid| process::alive(*pid) || !others(*slot, *pid));
        for slot in self.served.difference(&serving).filter(|slot| !self.wounds.contains_key(slot)) {
            // The master says which one it is that goes; how many may is known from what was done.
            let goes = self.log.retiring.remove(slot);
            self.retired += u64::from(goes);
            let may_go = goes && self.retired <= self.may_go;
            assert!(may_go, "slot {slot} served, nobody harmed its worker, it serves no more: {status:#?}");
        }
        self.served = serving;
    }

    /// I3. Who is suspected gets a standby at once: that is no voluntary replacement.
    #[track_caller]
    fn one_at_a_time(&mut self, status: &Status) {
        let mut states: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
        for worker in &status.workers {
            let states = states.entry(worker.slot).or_default();
            states.push(if worker.watchdog.is_empty() { &worker.state } else { "suspected" });
        }
        let replaced = |(slot, states): &(&u32, &Vec<&str>)| {
            let boots = states.contains(&"serving") && states.contains(&"booting");
            boots && !states.contains(&"suspected") && !self.wounds.contains_key(*slot)
        };
        let replaced = states.iter().filter(replaced).count();
        assert!(replaced <= 1, "{replaced} workers are being replaced at once: {status:#?}");
    }

    /// I4.
    #[track_caller]
    fn children(&mut self, status: &Status) {
        let known: BTreeSet<u32> = status.workers.iter().map(|worker| worker.pid).collect();
        let mut now = BTreeMap::new();
        for pid in process::zombies(self.master) {
            now.insert(format!("process {pid} waits to be reaped"), ODD_FOR);
        }
        for pid in process::children(self.master).into_iter().filter(|pid| !known.contains(pid)) {
            let command = process::command_line(pid);
            let is_short = command.split(' ').any(|word| SHORT_LIVED.contains(&word));
            now.insert(
                format!("the status does not know process {pid} ({command})"),
                if is_short { SHORT_LIFE } else { ODD_FOR },
            );
        }
        for pid in known.into_iter().filter(|&pid| pid != 0 && !process::alive(pid)) {
            now.insert(format!("the status shows process {pid}, which is gone"), ODD_FOR);
        }
        let over = |what: &String| what.contains("process ") && !now.contains_key(what);
        self.odd.retain(|what, _| !over(what));
        for (what, limit) in now {
            self.oddity(what, true, limit);
        }
    }

    /// I6, and the totals.
    #[track_caller]
    fn causes(&self, status: &Status) {
        assert!(
            status.crashes <= self.may_die,
            "{} died, {} were killed: {status:#?}",
            status.crashes,
            self.may_die
        );
        for (reason, &count) in &status.kills {
            let most = match reason.as_str() {
                reason if OF_ANY_HARM.contains(&reason) => self.harmed,
                reason => self.may_be_killed.get(reason).copied().unwrap_or(0),
            };
            assert!(count <= most, "{count} killed for {reason}, {most} had a reason: {status:#?}");
        }
        let Some(last) = &self.last else { return };
        let totals =
            |status: &Status| [status.requests, status.accepted, status.crashes, status.settings_generation];
        for (before, now) in totals(last).into_iter().zip(totals(status)) {
            assert!(now >= before, "a total went from {before} back to {now}: {status:#?}");
        }
    }

    /// What may look odd for a while, and no longer.
    #[track_caller]
    fn oddity(&mut self, what: String, is_so: bool, limit: Duration) {
        if !is_so {
            self.odd.remove(&what);
            return;
        }
        let since = *self.odd.entry(what.clone()).or_insert_with(Instant::now);
        assert!(since.elapsed() < limit, "for {:.1} s: {what}", since.elapsed().as_secs_f64());
    }
}

/// What the master says of voluntary replacements and of slots that go, as it says it.
struct Log {
    lines: BufReader<File>,
    /// What was written of the last line so far.
    rest: String,
    /// The slot that is being recycled.
    recycling: Option<String>,
    /// Slots that were told to go.
    retiring: BTreeSet<u32>,
}

impl Log {
    fn of(path: &Path) -> Log {
        let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Log { lines: BufReader::new(file), rest: String::new(), recycling: None, retiring: BTreeSet::new() }
    }

    /// Reads what was written since the last look.
    #[track_caller]
    fn read(&mut self) {
        while self.lines.read_line(&mut self.rest).expect("the log is text") > 0 && self.rest.ends_with('\n')
        {
            let line = std::mem::take(&mut self.rest);
            self.hear(&line);
        }
    }

    /// A replacement is over when the new worker is ready, or when anything went wrong with a worker of the slot.
    #[track_caller]
    fn hear(&mut self, line: &str) {
        if let Some((_, rest)) = line.split_once(" recycling slot ") {
            let slot = rest.split(' ').next().unwrap_or_default().to_owned();
            if let Some(other) = self.recycling.replace(slot) {
                panic!("slot {other} is still being recycled when another begins: {line}");
            }
        } else if let Some((_, rest)) = line.split_once(" retiring slot ") {
            self.retiring.extend(rest.split(':').next().and_then(|slot| slot.parse::<u32>().ok()));
        } else if let Some(slot) = &self.recycling {
            let of_slot =
                line.contains(&format!(" worker {slot} ")) || line.contains(&format!(" slot={slot}\n"));
            if of_slot && [" ready in ", " WARN ", " ERROR "].iter().any(|word| line.contains(word)) {
                self.recycling = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(lines: &[&str]) {
        let mut log = Log::of(Path::new("/dev/null"));
        lines.iter().for_each(|line| log.hear(line));
    }

    const BEGINS: &str = "t INFO  master[1]: recycling slot 0 reason=reload slot=0\n";
    const OTHER: &str = "t INFO  master[1]: recycling slot 1 reason=age slot=1\n";

    #[test]
    fn one_replacement_after_the_other() {
        hear(&[BEGINS, "t INFO  master[1]: worker 0 ready in 3 ms pid=7 slot=0\n", OTHER]);
        hear(&[BEGINS, "t WARN  master[1]: worker 0 ended: signal 9 pid=7\n", OTHER]);
    }

    #[test]
    #[should_panic(expected = "slot 0 is still being recycled")]
    fn two_replacements_at_once_are_seen() {
        hear(&[BEGINS, "t INFO  worker 0[9]: leaving open=0 order=Drain\n", OTHER]);
    }
}
