//! The rule for a loop that turns and turns and gets hardly anything done.
//!
//! In each third of the window the loop hardly rested, and over all of it did fewer units of work than [`FLOOR`] per second
//! without rest. Not zero work: a spinning loop still serves the odd request. Sums, so requests that trickle in reset
//! nothing. Thirds, so that a burst of half the window's length is none. It holds while serving and while draining.

use std::time::Duration;

pub(super) use forkgate_shared::rows::SPIN_FLOOR as FLOOR;
use forkgate_shared::verdict::Stage;

use super::window::{Span, TICK, Window, ns};

/// Parts of a window that must each be without rest.
const PARTS: u64 = 3;

/// Percent of a part on a CPU that make it one without rest.
const ON_CPU: u64 = 50;

/// Percent of a part that a loop which does not get a CPU must want one. A loop that spins wants it always; an honest
/// one rests between its requests, however slowly they run on a crowded machine.
const RUNNABLE: u64 = 90;
/// So often such a loop may have gone to sleep and woken in a part: one that spins always has something to poll, and never does.
const SLEEPS: u64 = 1;

/// Percent of the window that tokio must count as busy: less is a storm of wakes from outside. A loop of `yield_now`, the
/// one that tokio counts least of, has about 50.
const BUSY: u64 = 20;

/// Percent of the last second without rest: what is over is no spin.
const STILL: u64 = 50;

/// What suffices for a suspicion, as a part of the window.
const SUSPECT_AFTER: u64 = 3;

/// How long a suspicion must stand before it fires: from the time that suffices for one to the end of the window, less
/// a look that may have been late.
pub(super) fn stands(limit: Duration) -> Duration {
    (limit - limit / SUSPECT_AFTER as u32).saturating_sub(TICK)
}

/// What the window shows; `limit` is the window of a verdict.
pub(super) fn judge(window: &Window, limit: Duration) -> Option<(Stage, Span)> {
    let still = window.over(ns(Duration::from_secs(1)))?;
    if still.occupied_ns() < still.part(STILL) {
        return None;
    }
    let limit_ns = ns(limit);
    let fired = spins(window, limit_ns).map(|span| (Stage::Fired, span));
    fired.or_else(|| spins(window, limit_ns / SUSPECT_AFTER).map(|span| (Stage::Suspect, span)))
}

/// The last `span_ns` if the loop did nothing but spin; twice as long where a quota takes the CPU away.
fn spins(window: &Window, span_ns: u64) -> Option<Span> {
    let span = window.over(span_ns)?;
    let span_ns = if span.is_throttled() { span_ns.saturating_mul(2) } else { span_ns };
    let span = window.over(span_ns)?;
    let restless = window.parts(span_ns, PARTS)?.all(|part| is_restless(&part));
    let busy = span.busy_ns >= span.part(BUSY);
    let idle_hands = span.units.saturating_mul(1_000_000_000) < FLOOR.saturating_mul(span.occupied_ns());
    (restless && busy && idle_hands).then_some(span)
}

fn is_restless(span: &Span) -> bool {
    let is_crowded_out = span.runnable_ns() >= span.part(RUNNABLE) && span.turns <= 2 * SLEEPS;
    span.cpu_ns >= span.part(ON_CPU) || is_crowded_out
}
