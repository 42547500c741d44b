//! Looking at an accused worker from outside: what it says of itself against what `/proc` and its row show meanwhile.
//!
//! A first look is taken when the worker is accused, a second one when the verdict has fired; the answer rests on what
//! happened between the two. They are at least [`APART`] apart: an answer that would come earlier waits. After an answer
//! that spares the worker the second look is the first one of the next time.
//!
//! A spin is denied by work that the row shows: a loop that gets it done is none, whatever the worker counts of itself. For
//! a stall no counters are compared: only the loop accepts and answers, so while its heart stands they stand too.
//!
//! The slot's accept queue stands in the report and decides nothing. Listeners belong to slots: the standby that a suspect
//! gets empties the same queue, before the verdict has fired.

use std::collections::BTreeMap;

use forkgate_shared::proc::is_far_over;
use forkgate_shared::rows::{Row, SPIN_FLOOR};
use std::sync::atomic::Ordering::Relaxed;

use super::proc_fs;
use crate::supervisor::{ChildId, Confirmation, Ns, Verdict};

/// The least time between two looks that are compared.
const APART: Ns = 1_000_000_000;
/// A heartbeat that is older is a stuck loop's: the loop beats several times a second.
const HEARTBEAT_OLD: Ns = 1_000_000_000;

/// What is seen of a worker at one moment. The event loop runs on the main thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// When.
    pub at: Ns,
    /// The main thread's time on a CPU.
    pub cpu: Ns,
    /// The main thread's time of waiting for a CPU.
    pub delay: Ns,
    /// The main thread's state.
    pub state: char,
    /// When the event loop last turned, as the row says.
    pub heartbeat_ns: u64,
    /// When the watchdog thread last looked, as the row says.
    pub looked_ns: u64,
    /// Units of work that the row shows. What upstreams send is not in it.
    pub work: u64,
}

/// What is seen at the second look only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// A thread other than the main one may be stopped.
    pub any_thread_stopped: bool,
    /// Private memory in bytes, if it could be read.
    pub private_bytes: Option<u64>,
    /// `GATEWAY_MAX_RSS` of the worker's settings.
    pub max_rss: Option<u64>,
}

impl Look {
    /// Looks now; none when the process is gone.
    pub fn take(pid: i32, row: &Row, now: Ns) -> Option<Look> {
        let times = proc_fs::main_thread_times(pid)?;
        Some(Look {
            at: now,
            cpu: times.cpu,
            delay: times.delay,
            state: proc_fs::main_thread(pid)?.state,
            heartbeat_ns: row.heartbeat_ns.load(Relaxed),
            looked_ns: row.evidence.looked_ns.load(Relaxed),
            work: row.counters.requests.load(Relaxed).saturating_add(row.counters.small_work(0)),
        })
    }

    /// Parts of the time since `first` that the thread was on a CPU and that it waited for one, 0 to 1.
    pub fn shares_since(&self, first: &Look) -> (f64, f64) {
        let span = self.at.saturating_sub(first.at).max(1) as f64;
        let share = |now: Ns, before: Ns| (now.saturating_sub(before) as f64 / span).min(1.0);
        (share(self.cpu, first.cpu), share(self.delay, first.delay))
    }

    /// True when more work was done since `first` than a loop that spins gets done in the time that it ran or wanted to.
    fn has_worked_since(&self, first: &Look) -> bool {
        let (on_cpu, waiting) = self.shares_since(first);
        let wanted_s = (on_cpu + waiting).min(1.0) * self.at.saturating_sub(first.at) as f64 / 1e9;
        self.work.saturating_sub(first.work) as f64 > SPIN_FLOOR as f64 * wanted_s
    }
}

impl Extra {
    /// Reads what this verdict needs beyond a [`Look`].
    pub fn read(verdict: Verdict, pid: i32, look: &Look, max_rss: Option<u64>) -> Extra {
        // Reading the memory of a process that is stuck in the kernel may wait as long as it does.
        let memory = verdict == Verdict::Memory && look.state != 'D';
        Extra {
            any_thread_stopped: verdict == Verdict::Silent && proc_fs::any_thread_stopped(pid),
            private_bytes: memory.then(|| proc_fs::private_bytes(pid)).flatten(),
            max_rss,
        }
    }
}

/// Does what was seen bear the verdict out?
pub fn judge(verdict: Verdict, first: &Look, second: &Look, extra: &Extra) -> Confirmation {
    if proc_fs::is_stopped(second.state) || extra.any_thread_stopped {
        return Confirmation::Stopped;
    }
    let (on_cpu, waiting) = second.shares_since(first);
    let heart_stands = second.heartbeat_ns == first.heartbeat_ns
        || second.at.saturating_sub(second.heartbeat_ns) > HEARTBEAT_OLD;
    let so = match verdict {
        Verdict::Spin => on_cpu + waiting >= 0.5 && !second.has_worked_since(first),
        // Which of them it is, is the worker's to say: what it does may change while it lasts.
        Verdict::StallBlocked | Verdict::StallCpu | Verdict::StallUninterruptible => heart_stands,
        Verdict::Silent => second.looked_ns == first.looked_ns,
        // Nothing is claimed.
        Verdict::Operator => true,
        Verdict::Memory => extra.private_bytes.is_some_and(|bytes| is_far_over(bytes, extra.max_rss)),
    };
    if so { Confirmation::Yes } else { Confirmation::No }
}

/// The first looks, and the answers that are owed.
#[derive(Debug, Default)]
pub struct Looks {
    first: BTreeMap<ChildId, Look>,
    owed: BTreeMap<ChildId, (Verdict, Ns)>,
}

impl Looks {
    /// A first look; none when the worker could not be looked at.
    pub fn accuse(&mut self, id: ChildId, look: Option<Look>) {
        match look {
            Some(look) => drop(self.first.insert(id, look)),
            None => drop(self.first.remove(&id)),
        }
    }

    /// The answer is owed once the first look is old enough; without a first look, this is it.
    pub fn confirm(&mut self, id: ChildId, verdict: Verdict, look: Option<Look>, now: Ns) {
        if let Some(look) = look {
            self.first.entry(id).or_insert(look);
        }
        let due = self.first.get(&id).map_or(now, |first| first.at + APART);
        self.owed.insert(id, (verdict, due));
    }

    /// The answers that are due, each once.
    pub fn take_due(&mut self, now: Ns) -> Vec<(ChildId, Verdict)> {
        let due = self.owed.extract_if(.., |_, (_, due)| *due <= now);
        due.map(|(id, (verdict, _))| (id, verdict)).collect()
    }

    /// When [`Looks::take_due`] has something.
    pub fn next_deadline(&self) -> Option<Ns> {
        self.owed.values().map(|(_, due)| *due).min()
    }

    /// Compares with the first look. A worker that could not be looked at is not confirmed: it is gone, or about to be.
    pub fn answer(
        &mut self,
        id: ChildId,
        verdict: Verdict,
        second: Option<Look>,
        extra: &Extra,
    ) -> Confirmation {
        let (Some(first), Some(second)) = (self.first.get_mut(&id), second) else { return Confirmation::No };
        let answer = judge(verdict, first, &second, extra);
        if answer != Confirmation::Yes {
            *first = second;
        }
        answer
    }

    /// The first look, for the report.
    pub fn first(&self, id: ChildId) -> Option<&Look> {
        self.first.get(&id)
    }

    /// The child is gone.
    pub fn forget(&mut self, id: ChildId) {
        self.first.remove(&id);
        self.owed.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    use forkgate_shared::rows::{BYTES_PER_UNIT, monotonic_ns};

    use super::*;
    use Confirmation::{No, Stopped, Yes};
    use Verdict::{Memory, Silent, Spin, StallBlocked, StallCpu, StallUninterruptible};

    const MS: Ns = 1_000_000;
    const FIRST: Look = Look {
        at: 10_000 * MS,
        cpu: 500 * MS,
        delay: 100 * MS,
        state: 'R',
        heartbeat_ns: 9_990 * MS,
        looked_ns: 9_900 * MS,
        work: 1000,
    };

    /// Two seconds later; `cpu` and `delay` in milliseconds since the first look.
    fn second(state: char, cpu: Ns, delay: Ns) -> Look {
        let (cpu, delay) = (FIRST.cpu + cpu * MS, FIRST.delay + delay * MS);
        Look { at: FIRST.at + 2000 * MS, state, cpu, delay, ..FIRST }
    }

    #[test]
    fn a_verdict_is_borne_out_by_what_it_claims_and_nothing_else() {
        let turning =
            |look: Look| Look { heartbeat_ns: look.at - 50 * MS, looked_ns: look.at - 20 * MS, ..look };
        for (verdict, look, answer) in [
            (Spin, second('R', 1900, 0), Yes),
            (Spin, second('R', 240, 1700), Yes),
            (Spin, second('S', 999, 0), No),
            (Spin, second('t', 2000, 0), Stopped),
            (StallCpu, second('R', 1000, 0), Yes),
            (StallCpu, turning(second('R', 2000, 0)), No),
            (StallBlocked, second('S', 10, 10), Yes),
            (StallBlocked, second('R', 1300, 0), Yes),
            (StallBlocked, turning(second('S', 10, 10)), No),
            (StallBlocked, Look { heartbeat_ns: FIRST.at, ..second('S', 0, 0) }, Yes),
            (StallBlocked, Look { heartbeat_ns: u64::MAX, ..second('S', 0, 0) }, No),
            (StallBlocked, second('T', 0, 0), Stopped),
            (StallUninterruptible, second('D', 0, 0), Yes),
            (StallUninterruptible, second('S', 0, 0), Yes),
            (StallUninterruptible, turning(second('D', 0, 0)), No),
            (Silent, second('S', 0, 0), Yes),
            (Silent, turning(second('S', 0, 0)), No),
            (Silent, second('T', 0, 0), Stopped),
            // Counters that go backwards are no evidence.
            (Spin, Look { cpu: 0, delay: 0, ..second('R', 0, 0) }, No),
            (Spin, Look { at: 0, ..second('R', 0, 0) }, No),
        ] {
            assert_eq!(judge(verdict, &FIRST, &look, &Extra::default()), answer, "{verdict:?} {look:?}");
        }
    }

    #[test]
    fn who_gets_work_done_does_not_spin_whatever_it_says() {
        for (cpu, delay, work, answer) in [
            (2000, 0, 40, Yes),
            (2000, 0, 41, No),
            (1000, 0, 21, No),
            (1000, 500, 30, Yes),
            (1000, 500, 31, No),
            // Both at once for longer than there was time.
            (2000, 2000, 41, No),
        ] {
            let look = Look { work: FIRST.work + work, ..second('R', cpu, delay) };
            assert_eq!(judge(Spin, &FIRST, &look, &Extra::default()), answer, "{look:?}");
            assert_eq!(judge(StallCpu, &FIRST, &look, &Extra::default()), Yes, "{look:?}");
        }
        let backwards = Look { work: 0, ..second('R', 2000, 0) };
        assert_eq!(judge(Spin, &FIRST, &backwards, &Extra::default()), Yes);
    }

    #[test]
    fn work_is_what_the_row_counts_of_requests_answers_and_bytes() {
        let (row, pid) = (Row::default(), std::process::id() as i32);
        let counters = &row.counters;
        let work = || Look::take(pid, &row, 0).expect("it lives").work;
        assert_eq!(work(), 0);
        counters.requests.store(7, Relaxed);
        counters.status[1].store(7 + 100, Relaxed);
        counters.accepted.store(20, Relaxed);
        counters.bytes_in.store(BYTES_PER_UNIT, Relaxed);
        counters.bytes_out.store(2 * BYTES_PER_UNIT, Relaxed);
        assert_eq!(work(), 7 + 10 + 2 + 3);
        for wild in [&counters.requests, &counters.accepted, &counters.bytes_in, &counters.status[0]] {
            wild.store(u64::MAX, Relaxed);
        }
        work();
    }

    #[test]
    fn memory_is_measured_against_the_workers_own_limit() {
        for (bytes, limit, answer) in [
            (Some(126), Some(100), Yes),
            (Some(125), Some(100), No),
            (Some(u64::MAX), Some(u64::MAX), No),
            (Some(126), None, No),
            (None, Some(100), No),
        ] {
            let extra = Extra { private_bytes: bytes, max_rss: limit, ..Extra::default() };
            assert_eq!(judge(Memory, &FIRST, &second('S', 0, 0), &extra), answer, "{bytes:?} of {limit:?}");
        }
    }

    #[test]
    fn one_stopped_thread_excuses_a_silent_worker() {
        let extra = Extra { any_thread_stopped: true, ..Extra::default() };
        assert_eq!(judge(Silent, &FIRST, &second('S', 0, 0), &extra), Stopped);
    }

    #[test]
    fn an_answer_waits_until_the_first_look_is_old_enough() {
        let (mut looks, id) = (Looks::default(), ChildId(7));
        looks.accuse(id, Some(FIRST));
        let now = FIRST.at + 300 * MS;
        looks.confirm(id, Spin, Some(Look { at: now, ..FIRST }), now);
        assert_eq!(looks.next_deadline(), Some(FIRST.at + APART));
        assert!(looks.take_due(FIRST.at + APART - 1).is_empty());
        assert_eq!(looks.take_due(FIRST.at + APART), [(id, Spin)]);
        assert_eq!((looks.next_deadline(), looks.take_due(u64::MAX)), (None, Vec::new()));
        assert_eq!(looks.answer(id, Spin, Some(second('R', 2000, 0)), &Extra::default()), Yes);
        assert_eq!(looks.first(id), Some(&FIRST), "it stays the report's first look");
    }

    #[test]
    fn without_an_accusation_the_first_look_is_taken_when_the_answer_is_asked_for() {
        let (mut looks, id) = (Looks::default(), ChildId(7));
        looks.confirm(id, Memory, Some(FIRST), FIRST.at);
        assert_eq!(looks.next_deadline(), Some(FIRST.at + APART));
        looks.confirm(ChildId(8), Memory, None, FIRST.at);
        assert_eq!(looks.take_due(FIRST.at), [(ChildId(8), Memory)], "nothing to wait for");
        assert_eq!(looks.answer(ChildId(8), Memory, None, &Extra::default()), No);
        looks.forget(id);
        assert_eq!(looks.next_deadline(), None);
    }

    #[test]
    fn a_worker_that_was_spared_is_judged_by_what_it_does_from_then_on() {
        let (mut looks, id) = (Looks::default(), ChildId(7));
        looks.accuse(id, Some(FIRST));
        let idle = second('S', 0, 0);
        assert_eq!(looks.answer(id, Spin, Some(idle), &Extra::default()), No);
        let busy = Look { at: idle.at + APART, cpu: idle.cpu + APART, ..idle };
        assert_eq!(looks.answer(id, Spin, Some(busy), &Extra::default()), Yes);
    }

    /// A process of ours, killed at the end.
    struct Running(Child);

    impl Running {
        fn start(script: &str) -> Running {
            Running(Command::new("/bin/sh").args(["-c", script]).spawn().expect("sh"))
        }

        /// Looks until `verdict` gets `answer`.
        fn until(&self, verdict: Verdict, answer: Confirmation) {
            let (row, pid) = (Row::default(), self.0.id() as i32);
            let look = || Look::take(pid, &row, monotonic_ns()).expect("it runs");
            let deadline = Instant::now() + Duration::from_secs(20);
            let mut first = look();
            loop {
                let second = look();
                if second.at - first.at < 200 * MS {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
                let extra = Extra::read(verdict, pid, &second, Some(0));
                if judge(verdict, &first, &second, &extra) == answer {
                    return;
                }
                assert!(Instant::now() < deadline, "{verdict:?}: {first:?} {second:?} {extra:?}");
                first = second;
            }
        }

        fn signal(&self, signal: nix::sys::signal::Signal) {
            let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
            nix::sys::signal::kill(pid, signal).expect("kill");
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn real_processes_are_told_apart() {
        let busy = Running::start("while :; do :; done");
        busy.until(Spin, Yes);
        busy.signal(nix::sys::signal::Signal::SIGSTOP);
        busy.until(Silent, Stopped);
        busy.until(Spin, Stopped);
        busy.signal(nix::sys::signal::Signal::SIGCONT);
        busy.until(Spin, Yes);
        let idle = Running::start("exec sleep 60");
        idle.until(StallBlocked, Yes);
        idle.until(Spin, No);
        idle.until(Memory, Yes);
    }
}
