//! The watchdog's thread: looks, writes the row and the log, serves orders for a report.
//!
//! It shares no lock with the event loop and waits for nothing but its clock and its orders, so it goes on when the loop
//! does not. The row is written before the log: a log that nobody reads may block.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use forkgate_shared::control::{ControlSocket, FromChild, RecycleReason};
use forkgate_shared::rows::{Evidence, Rows, monotonic_ns};
use forkgate_shared::settings::{Settings, Watchdog as Mode};
use forkgate_shared::verdict::{Claim, Stage, Verdict};
use tokio::runtime::RuntimeMetrics;

use super::detector::{Detector, Judgement, Limits, Standing};
use super::inputs::Inputs;
use super::window::{TICK, ns};
use super::{inside, stack};
use crate::lifecycle::boot::ROOT_TASK;
use crate::lifecycle::control::ReportOrders;
use crate::lifecycle::essential::Essential;
use crate::lifecycle::task::{Registry, TaskFacts};
use crate::observe::throttle::Throttle;

/// For all that a worker finds out about itself; the master waits for five seconds.
const REPORT_BUDGET: Duration = Duration::from_millis(3500);

/// Between two lines about slow polls.
const SLOW_POLL_LINES: Duration = Duration::from_secs(10);
/// Between two lines about wake storms.
const STORM_LINES: Duration = Duration::from_secs(60);

/// Between two lines about a master that does not listen.
const UNHEARD_LINES: Duration = Duration::from_secs(10);

/// How long polls are counted for the name of a task that spins.
const CENSUS: Duration = Duration::from_millis(20);

/// What the thread works with.
pub(crate) struct Wiring {
    /// The rows, and which is this worker's.
    pub(crate) rows: (Arc<Rows>, usize),
    /// The loop's tasks.
    pub(crate) registry: Arc<Registry>,
    /// The loop's numbers.
    pub(crate) metrics: RuntimeMetrics,
    /// The loop's thread.
    pub(crate) loop_tid: i32,
    /// Reports that the master asks for.
    pub(crate) orders: ReportOrders,
    /// The line to the master.
    pub(crate) control: Arc<ControlSocket>,
    /// Who must be there.
    pub(crate) essential: Arc<Essential>,
    /// The memory sampler's word.
    pub(crate) over_memory: Arc<AtomicBool>,
}

/// Starts the thread, unless the settings say that there is none. To be called when the worker is ready: what it does
/// while it boots is bounded by `GATEWAY_BOOT_TIMEOUT`.
pub(crate) fn start(settings: &Settings, wiring: Wiring) -> io::Result<()> {
    if settings.watchdog == Mode::Off {
        return Ok(());
    }
    let limits = Limits { stall_timeout: settings.stall_timeout, spin_window: settings.spin_window };
    let run = move || {
        // First of all: whatever this thread gets stuck in from now on, it is known to be silent.
        wiring.rows.0.row(wiring.rows.1).evidence.looked_ns.store(monotonic_ns(), Relaxed);
        Watchdog::new(limits, wiring).run();
    };
    std::thread::Builder::new().name("fg-watchdog".to_owned()).spawn(run).map(drop)
}

struct Watchdog {
    wiring: Wiring,
    inputs: Inputs,
    detector: Detector,
    claim: Option<Claim>,
    starved: bool,
    wish: Wish,
    unheard: Throttle,
    slow_polls: Throttle,
    storms: Throttle,
}

impl Watchdog {
    fn new(limits: Limits, wiring: Wiring) -> Watchdog {
        let inputs = Inputs::open(
            wiring.loop_tid,
            wiring.metrics.clone(),
            Arc::clone(&wiring.registry),
            (Arc::clone(&wiring.rows.0), wiring.rows.1),
            Arc::clone(&wiring.over_memory),
        );
        Watchdog {
            wiring,
            inputs,
            detector: Detector::new(limits),
            claim: None,
            starved: false,
            wish: Wish::default(),
            unheard: Throttle::new(UNHEARD_LINES),
            slow_polls: Throttle::new(SLOW_POLL_LINES),
            storms: Throttle::new(STORM_LINES),
        }
    }

    fn run(mut self) {
        if let Err(error) = stack::prepare() {
            tracing::warn!(%error, "reports will have no stacks");
        }
        let mut planned_ns = monotonic_ns();
        loop {
            #[cfg(feature = "faults")]
            crate::faults::essential::end_watchdog_if_ordered();
            self.look(planned_ns);
            planned_ns = self.wait(planned_ns);
        }
    }

    /// Waits for the next look, serving orders meanwhile; returns when it was planned. Looks keep to one rhythm; one that
    /// came too late begins a new one, and so does a report, which takes its time by intention.
    fn wait(&self, planned_ns: u64) -> u64 {
        let mut next_ns = planned_ns + ns(TICK);
        if next_ns < monotonic_ns() {
            next_ns = monotonic_ns() + ns(TICK);
        }
        loop {
            let left = Duration::from_nanos(next_ns.saturating_sub(monotonic_ns()));
            if left.is_zero() {
                return next_ns;
            }
            match self.wiring.orders.recv_timeout(left) {
                Ok(verdict) => {
                    self.report(verdict);
                    next_ns = monotonic_ns();
                }
                Err(RecvTimeoutError::Timeout) => {}
                // The control thread is gone: nobody asks any more.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(left),
            }
        }
    }

    fn look(&mut self, planned_ns: u64) {
        let sample = self.inputs.sample(planned_ns);
        let judgement = self.detector.tick(&sample);
        self.write(sample.now_ns, sample.poll_since_ns, &judgement);
        self.say(sample.now_ns, &judgement);
        if judgement.degenerate {
            self.want_recycle(RecycleReason::Degenerate, "a unit of work costs far more than it used to");
        }
        if let Some(duty) = self.wiring.essential.missing() {
            self.want_recycle(RecycleReason::EssentialTask, duty.as_str());
        }
        self.ask();
    }

    fn evidence(&self) -> &Evidence {
        &self.wiring.rows.0.row(self.wiring.rows.1).evidence
    }

    fn write(&self, now_ns: u64, poll_since_ns: u64, judgement: &Judgement) {
        let (evidence, registry) = (self.evidence(), &self.wiring.registry);
        let running_ns = if poll_since_ns == 0 { 0 } else { now_ns.saturating_sub(poll_since_ns) };
        evidence.longest_poll_ns.store(registry.longest_poll_ns().max(running_ns), Relaxed);
        evidence.busy_permille.store(judgement.busy_permille, Relaxed);
        evidence.lag_ns.store(judgement.lag_ns, Relaxed);
        evidence.starved.store(judgement.starved.into(), Relaxed);
        evidence.tasks.store(registry.alive(), Relaxed);
        if judgement.storm {
            evidence.wake_storms.fetch_add(1, Relaxed);
        }
        if let Some(reading) = judgement.reading {
            evidence.push(reading);
        }
        // The claim last but one: who sees it finds what it is about.
        evidence.since_ns.store(judgement.standing.map_or(0, |standing| standing.since_ns), Relaxed);
        evidence.claim.store(judgement.standing.map_or(0, |standing| standing.claim.pack()), Relaxed);
        evidence.looked_ns.store(now_ns, Relaxed);
    }

    fn say(&mut self, now_ns: u64, judgement: &Judgement) {
        let claim = judgement.standing.map(|standing| standing.claim);
        if claim != std::mem::replace(&mut self.claim, claim) {
            self.say_claim(now_ns, judgement.standing);
        }
        if judgement.starved != std::mem::replace(&mut self.starved, judgement.starved) {
            let lag_ms = judgement.lag_ns / 1_000_000;
            match judgement.starved {
                true => tracing::warn!(lag_ms, "the event loop is overloaded: MCP requests are turned away"),
                false => tracing::info!(lag_ms, "the event loop keeps up again"),
            }
        }
        if judgement.storm
            && let Some(suppressed) = self.storms.allow()
        {
            tracing::warn!(
                suppressed,
                "a storm of wakes: the event loop is woken again and again for nothing"
            );
        }
        if let Some(poll_ns) = judgement.slow_poll_ns
            && let Some(suppressed) = self.slow_polls.allow()
        {
            let (task, place) = self.polled();
            tracing::warn!(task, place, ms = poll_ns / 1_000_000, suppressed, "a poll takes long");
        }
    }

    fn say_claim(&self, now_ns: u64, standing: Option<Standing>) {
        let Some(Standing { claim, since_ns }) = standing else {
            return tracing::warn!("the event loop is well again");
        };
        let (task, place) = if claim.verdict == Verdict::Spin { self.polled_most() } else { self.polled() };
        let verdict = claim.verdict.as_str();
        let seconds = now_ns.saturating_sub(since_ns) as f64 / 1e9;
        match claim.stage {
            Stage::Suspect => tracing::warn!(verdict, task, place, seconds, "the event loop is suspect"),
            Stage::Fired => tracing::error!(verdict, task, place, seconds, "the event loop has failed"),
        }
    }

    /// Name and place of the task that is polled right now.
    fn polled(&self) -> (&'static str, String) {
        name(self.wiring.registry.find(self.wiring.registry.current().task))
    }

    /// Name and place of the task that is polled most within [`CENSUS`]; the loop's root, which is polled whenever
    /// something else is, only when there is no other.
    fn polled_most(&self) -> (&'static str, String) {
        let registry = &self.wiring.registry;
        let before: HashMap<u64, u64> =
            registry.snapshot().into_iter().map(|facts| (facts.id, facts.polls)).collect();
        std::thread::sleep(CENSUS);
        let polls = |facts: &TaskFacts| {
            let more = facts.polls.saturating_sub(before.get(&facts.id).copied().unwrap_or(0));
            (more > 0 && facts.name != ROOT_TASK, more)
        };
        name(registry.snapshot().into_iter().max_by_key(polls))
    }

    fn want_recycle(&mut self, reason: RecycleReason, why: &str) {
        if self.wish.wants(reason) {
            tracing::error!(reason = reason.as_str(), why, "asking to be replaced");
        }
    }

    /// Asks to be replaced if that is wanted and was not heard yet.
    fn ask(&mut self) {
        let Some(reason) = self.wish.unheard() else { return };
        match self.wiring.control.try_send(&FromChild::WantRecycle { reason }) {
            Ok(()) => self.wish.heard = Some(reason),
            Err(error) => {
                if let Some(suppressed) = self.unheard.allow() {
                    tracing::warn!(%error, suppressed, "the master could not be asked; trying again at the next look");
                }
            }
        }
    }

    /// Finds out what goes on inside and sends it.
    fn report(&self, verdict: Verdict) {
        let context = inside::Context {
            registry: Arc::clone(&self.wiring.registry),
            rows: Arc::clone(&self.wiring.rows.0),
            row: self.wiring.rows.1,
            loop_tid: self.wiring.loop_tid,
            deadline: Instant::now() + REPORT_BUDGET,
        };
        let written = catch_unwind(AssertUnwindSafe(|| inside::write(verdict, &context)))
            .unwrap_or_else(|_| Err(io::Error::other("a panic, see above")));
        let sent = written.map_err(|error| error.to_string()).and_then(|memfd| {
            let sent = self.wiring.control.send(&FromChild::Report, Some(memfd.as_fd()));
            sent.map_err(|error| error.to_string())
        });
        if let Err(error) = sent {
            tracing::error!(verdict = verdict.as_str(), error, "the report from inside cannot be made");
        }
    }
}

/// To be replaced. A worker with two reasons has one, the first; but one that is urgent counts more than one that may wait.
#[derive(Debug, Default)]
struct Wish {
    wanted: Option<RecycleReason>,
    /// What was sent.
    heard: Option<RecycleReason>,
}

impl Wish {
    /// True when this is new.
    fn wants(&mut self, reason: RecycleReason) -> bool {
        let is_new = self.wanted.is_none_or(|known| reason.is_urgent() && !known.is_urgent());
        if is_new {
            self.wanted = Some(reason);
        }
        is_new
    }

    fn unheard(&self) -> Option<RecycleReason> {
        self.wanted.filter(|wanted| self.heard != Some(*wanted))
    }
}

/// What a task is called, and where it was started.
fn name(task: Option<TaskFacts>) -> (&'static str, String) {
    task.map_or(("none", String::new()), |facts| (facts.name, facts.place.to_string()))
}

#[cfg(test)]
mod tests;
