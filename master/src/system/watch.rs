//! Looking at the rows: which worker says that something is wrong with it, and which one has stopped saying anything.
//!
//! Whatever stands in a row is untrusted. What is derived from it is at most a claim, which is checked from outside before
//! anything comes of it. Silence is measured with the master's own looks and clock; when the master itself was late (stopped,
//! suspended, starved) the others may have been too, and all silences begin anew.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use forkgate_shared::rows::Row;

use crate::supervisor::{ChildId, Claim, Event, Ns, Stage, Verdict};

/// From one look to the next.
const PERIOD: Ns = 250_000_000;
/// From one look to the next while there is nothing to see.
const LONG_PERIOD: Ns = 1_000_000_000;
/// A look that is later than this tells nothing about others.
const LATE: Ns = 2 * PERIOD;
/// A watchdog thread looks four times a second; one that did not for so long has stopped.
const SILENT_AFTER: Ns = 5_000_000_000;

/// A worker that is ready and whose settings start a watchdog thread, whether it has looked yet or not.
pub struct Watched<'a> {
    /// Which.
    pub id: ChildId,
    /// Its row.
    pub row: &'a Row,
    /// `GATEWAY_STALL_TIMEOUT` of its settings.
    pub stall_timeout: Ns,
    /// Its watchdog thread writes a report and has no time to look.
    pub reporting: bool,
}

/// What is remembered of a worker.
#[derive(Debug)]
struct Memory {
    /// Its claim as the supervisor knows it.
    claim: Option<Claim>,
    /// When its watchdog thread last looked, as the row says.
    looked_ns: u64,
    /// When that was first seen.
    since: Ns,
}

/// The looks.
#[derive(Debug)]
pub struct Watch {
    due: Ns,
    workers: BTreeMap<ChildId, Memory>,
}

impl Watch {
    /// The first look is due at once.
    pub fn new(now: Ns) -> Watch {
        Watch { due: now, workers: BTreeMap::new() }
    }

    /// When the next look is due.
    pub fn next_deadline(&self) -> Ns {
        self.due
    }

    /// Looks at all workers; gives [`Event::Claimed`] for each whose claim is another one than before.
    pub fn look<'a>(&mut self, workers: impl Iterator<Item = Watched<'a>>, now: Ns) -> Vec<Event> {
        let late = now.saturating_sub(self.due) > LATE;
        let mut before = std::mem::take(&mut self.workers);
        let mut events = Vec::new();
        for worker in workers {
            let known = before.remove(&worker.id);
            let memory = Memory::next(known, &worker, late, now, &mut events);
            self.workers.insert(worker.id, memory);
        }
        self.due = now + if self.workers.is_empty() { LONG_PERIOD } else { PERIOD };
        events
    }

    /// Nobody took note of this worker's claim: the next look tells of it again, if there is one.
    pub fn hear_again(&mut self, id: ChildId) {
        if let Some(memory) = self.workers.get_mut(&id) {
            memory.claim = None;
        }
    }

    /// Since when the worker's watchdog thread has not looked.
    pub fn silent_since(&self, id: ChildId) -> Option<Ns> {
        self.workers.get(&id).map(|memory| memory.since)
    }
}

impl Memory {
    /// One that was silent before its report was asked for is not excused by it.
    fn is_silent(&self) -> bool {
        self.claim.is_some_and(|claim| claim.verdict == Verdict::Silent)
    }

    fn next(
        known: Option<Memory>,
        worker: &Watched<'_>,
        late: bool,
        now: Ns,
        events: &mut Vec<Event>,
    ) -> Memory {
        let looked_ns = worker.row.evidence.looked_ns.load(Relaxed);
        let before = known.as_ref().and_then(|memory| memory.claim);
        let since = match known {
            Some(memory)
                if memory.looked_ns == looked_ns && !late && (!worker.reporting || memory.is_silent()) =>
            {
                memory.since
            }
            _ => now,
        };
        let claim = claim(worker, now.saturating_sub(since));
        if claim != before {
            events.push(Event::Claimed(worker.id, claim));
        }
        Memory { claim, looked_ns, since }
    }
}

/// What the worker claims, or what its silence says. Only a claim that has fired outlives the thread that made it; an
/// older suspicion of a thread that has stopped says less than that it has stopped.
fn claim(worker: &Watched<'_>, silent_for: Ns) -> Option<Claim> {
    // Silence is nothing that a worker could say of itself.
    let own = worker.row.evidence.claim().filter(|claim| claim.verdict != Verdict::Silent);
    if silent_for <= SILENT_AFTER || own.is_some_and(|claim| claim.stage == Stage::Fired) {
        return own;
    }
    let stage = if silent_for > worker.stall_timeout { Stage::Fired } else { Stage::Suspect };
    Some(Claim { verdict: Verdict::Silent, stage })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Ns = 1_000_000_000;
    const ID: ChildId = ChildId(3);

    fn of(verdict: Verdict, stage: Stage) -> Option<Claim> {
        Some(Claim { verdict, stage })
    }

    /// A watch over one worker with a stall timeout of ten seconds, at a time of its own.
    struct Scene {
        watch: Watch,
        row: Row,
        now: Ns,
        reporting: bool,
    }

    impl Scene {
        fn new() -> Scene {
            let now = 1000 * SECOND;
            let row = Row::default();
            row.evidence.looked_ns.store(1, Relaxed);
            Scene { watch: Watch::new(now), row, now, reporting: false }
        }

        fn claims(&self, claim: Option<Claim>) {
            self.row.evidence.claim.store(claim.map_or(0, Claim::pack), Relaxed);
        }

        fn look(&mut self) -> Vec<Event> {
            let (row, reporting) = (&self.row, self.reporting);
            let worker = Watched { id: ID, row, stall_timeout: 10 * SECOND, reporting };
            self.watch.look(std::iter::once(worker), self.now)
        }

        /// Looks on time for so long, while the worker looks too or not; gives the claims with their times in milliseconds.
        fn run(&mut self, span: Ns, looks: bool) -> Vec<(u64, Option<Claim>)> {
            let (start, mut claims) = (self.now, Vec::new());
            while self.now < start + span {
                self.now += PERIOD;
                self.row.evidence.looked_ns.fetch_add(u64::from(looks), Relaxed);
                claims.extend(self.look().into_iter().map(|event| match event {
                    Event::Claimed(ID, claim) => ((self.now - start) / 1_000_000, claim),
                    other => panic!("{other:?}"),
                }));
            }
            claims
        }
    }

    #[test]
    fn a_claim_is_told_when_it_changes_and_only_then() {
        let mut scene = Scene::new();
        assert_eq!(scene.run(SECOND, true), []);
        for claim in [of(Verdict::Spin, Stage::Suspect), of(Verdict::Spin, Stage::Fired), None] {
            scene.claims(claim);
            assert_eq!(scene.run(SECOND, true), [(250, claim)]);
        }
        let claim = of(Verdict::Spin, Stage::Suspect);
        scene.claims(claim);
        assert_eq!(scene.run(SECOND, true), [(250, claim)]);
        scene.watch.hear_again(ID);
        assert_eq!(scene.run(SECOND, true), [(250, claim)], "told again");
        scene.claims(None);
        assert_eq!(scene.run(SECOND, true), [(250, None)]);
        for garbage in [7, u64::MAX, of(Verdict::Silent, Stage::Fired).map_or(0, Claim::pack)] {
            scene.row.evidence.claim.store(garbage, Relaxed);
            assert_eq!(scene.run(SECOND, true), [], "{garbage:x}");
        }
    }

    #[test]
    fn a_worker_that_stops_looking_is_silent_until_it_looks_again() {
        let mut scene = Scene::new();
        scene.run(SECOND, true);
        let (suspect, fired) = (of(Verdict::Silent, Stage::Suspect), of(Verdict::Silent, Stage::Fired));
        assert_eq!(scene.run(12 * SECOND, false), [(5250, suspect), (10_250, fired)]);
        assert_eq!(scene.watch.silent_since(ID), Some(1001 * SECOND));
        assert_eq!(scene.run(SECOND, true), [(250, None)]);
    }

    #[test]
    fn a_thread_that_never_looked_is_silent_as_one_that_stopped() {
        let mut scene = Scene::new();
        scene.row.evidence.looked_ns.store(0, Relaxed);
        let (suspect, fired) = (of(Verdict::Silent, Stage::Suspect), of(Verdict::Silent, Stage::Fired));
        assert_eq!(scene.run(12 * SECOND, false), [(5500, suspect), (10_500, fired)]);
        assert_eq!(scene.run(SECOND, true), [(250, None)]);
    }

    #[test]
    fn one_that_is_silent_is_not_excused_by_the_report_that_is_asked_of_it() {
        let mut scene = Scene::new();
        scene.run(11 * SECOND, false);
        scene.reporting = true;
        assert_eq!(scene.run(6 * SECOND, false), []);
        assert_eq!(scene.watch.workers[&ID].claim, of(Verdict::Silent, Stage::Fired));
    }

    #[test]
    fn a_thread_that_writes_a_report_is_not_silent() {
        let mut scene = Scene::new();
        scene.reporting = true;
        assert_eq!(scene.run(30 * SECOND, false), []);
        scene.reporting = false;
        assert_eq!(scene.run(5 * SECOND, false), [], "its clock begins with the end of the report");
    }

    #[test]
    fn silences_begin_anew_when_the_master_was_late() {
        let mut scene = Scene::new();
        assert_eq!(scene.run(4 * SECOND, false), []);
        scene.now += 60 * SECOND;
        assert_eq!(scene.look(), []);
        assert_eq!(scene.run(5 * SECOND, false), []);
        assert_eq!(scene.run(SECOND, false), [(250, of(Verdict::Silent, Stage::Suspect))]);
        scene.now += 60 * SECOND;
        assert_eq!(scene.look(), [Event::Claimed(ID, None)]);
    }

    #[test]
    fn silence_says_more_than_an_older_suspicion_and_less_than_a_verdict() {
        for (own, silent) in [
            (of(Verdict::StallCpu, Stage::Suspect), of(Verdict::Silent, Stage::Suspect)),
            (of(Verdict::StallCpu, Stage::Fired), of(Verdict::StallCpu, Stage::Fired)),
        ] {
            let mut scene = Scene::new();
            scene.claims(own);
            scene.run(SECOND, true);
            scene.run(6 * SECOND, false);
            assert_eq!(scene.watch.workers[&ID].claim, silent);
        }
    }

    #[test]
    fn a_worker_that_is_gone_is_forgotten_and_an_idle_watch_looks_rarely() {
        let mut scene = Scene::new();
        scene.claims(of(Verdict::Spin, Stage::Suspect));
        assert_eq!(scene.look().len(), 1);
        assert_eq!(scene.watch.next_deadline(), scene.now + PERIOD);
        assert_eq!(scene.watch.look(std::iter::empty(), scene.now), []);
        assert_eq!(scene.watch.next_deadline(), scene.now + LONG_PERIOD);
        assert_eq!((scene.watch.workers.len(), scene.watch.silent_since(ID)), (0, None));
    }
}
