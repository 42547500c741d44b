//! The supervisor's facts as log lines, and its state as one sentence.

use tracing::{error, info, warn};

use crate::supervisor::{ChildId, CrashLoop, Fact, Guard, Kill, Ns, RecycleReason, SECOND, Summary, Verdict};

fn ms(span: Ns) -> u64 {
    span / 1_000_000
}

/// Writes one line. `pid` names a child, `failure` says how the last worker failed.
pub fn log(fact: &Fact, pid: impl Fn(ChildId) -> i32, failure: &str) {
    match fact {
        Fact::Ready(child, slot, took) => {
            info!(slot = slot.0, pid = pid(*child), "worker {} ready in {} ms", slot.0, ms(*took));
        }
        Fact::Recycling(slot, reason) => {
            info!(slot = slot.0, reason = reason.as_str(), "recycling slot {}", slot.0)
        }
        Fact::StandbyFailed(slot, wait) => {
            let retry_ms = ms(*wait);
            warn!(slot = slot.0, retry_ms, "the replacement did not start; the old worker stays: {failure}");
        }
        Fact::BootFailed(slot, wait) => {
            error!(slot = slot.0, retry_ms = ms(*wait), "a worker did not start: {failure}");
        }
        Fact::Crashed(slot, wait) => {
            error!(slot = slot.0, respawn_ms = ms(*wait), "a worker died unasked: {failure}");
        }
        Fact::Degraded(_) | Fact::Recovered | Fact::GivenUp(_) => log_crash_loop(fact, failure),
        Fact::Late(span) => {
            warn!(late_ms = ms(*span), "this process stood still; limits of time begin anew");
        }
        Fact::Killed(child, Kill::Boot) => {
            error!(pid = pid(*child), "killed: not ready within GATEWAY_BOOT_TIMEOUT");
        }
        Fact::CheckKilled(child) => {
            error!(pid = pid(*child), "killed: the check of the new settings did not end in time");
        }
        Fact::Killed(child, Kill::Drain) => {
            warn!(pid = pid(*child), "killed: still busy when its time to drain was over");
        }
        Fact::Killed(_, Kill::Watchdog(_))
        | Fact::KillOrdered(..)
        | Fact::KillWithdrawn(..)
        | Fact::Suspected(..)
        | Fact::Cleared(..)
        | Fact::Fired(..)
        | Fact::Unconfirmed(..)
        | Fact::Stopped(..)
        | Fact::Held(..) => log_verdict(fact, pid),
        Fact::FirstBootFailed(slot) => {
            error!(slot = slot.0, "a worker did not start at all: giving up: {failure}");
        }
        Fact::FirstBootGivenUp(slot) => {
            error!(
                slot = slot.0,
                "workers died again and again before all were ready: giving up; the last failure: {failure}"
            );
        }
        Fact::MigrateFailed => error!("the database could not be brought up to date; see the lines above"),
        Fact::CompanionDied => error!("the demo's companion ended: ending the demo"),
        Fact::RowsFull(slot) => {
            warn!(
                slot = slot.0,
                "no free row of shared memory: this start waits until a worker that drains is gone"
            );
        }
        Fact::NoMoreWorkers(most) => {
            warn!(
                most,
                "TTIN refused: the row table made at start has room for no more workers; set GATEWAY_WORKERS and restart"
            );
        }
        Fact::NoRowForMore => {
            warn!(
                "TTIN refused: all rows of shared memory are taken by workers that drain; try again when they are gone"
            );
        }
        Fact::Scaled(workers) => info!(workers, "the number of workers is meant to be {workers}"),
        Fact::LastWorker => warn!("TTOU refused: one worker stays"),
        Fact::Retiring(slot) => {
            info!(slot = slot.0, "retiring slot {}: new connections go to the others", slot.0)
        }
        Fact::RetiringCancelled(slot) => info!(slot = slot.0, "slot {} stays", slot.0),
        Fact::Retired(slot) => info!(slot = slot.0, "slot {} is gone", slot.0),
        Fact::ListenerFailed(slot) => warn!(slot = slot.0, "no socket for another worker: one fewer"),
        Fact::ReloadQueued => info!("a reload waits for what runs now"),
        Fact::ReloadDone(generation) => info!(generation, "the new settings are in force"),
        Fact::ReloadFailed(slot) => {
            error!(slot = slot.0, "the new settings are given up: the old ones stay in force");
        }
        Fact::AlreadyUpgrading => info!("an upgrade is under way already"),
        Fact::UpgradeFailed(slot) => {
            error!(
                slot = slot.0,
                "a worker did not start with the other program, or died at once: the one before is executed again"
            );
        }
        Fact::ReloadSlotLost(slot) => {
            warn!(
                slot = slot.0,
                "somebody killed a worker that started with the new settings: it is tried again"
            );
        }
        Fact::NamesNotRestored => error!(
            "the registry keeps the names of the settings that were given up; the next reload puts that right"
        ),
        Fact::WorkersCapped(asked, most) => {
            warn!(asked, most, "{}", workers_capped(*asked, *most));
        }
        Fact::Paused(slot) => info!(slot = slot.0, "slot {} is paused: it gets no new clients", slot.0),
        Fact::Resumed(slot) => info!(slot = slot.0, "slot {} is resumed", slot.0),
        Fact::TermIgnored => {
            info!("a second TERM right after the first, or while ending quickly, is ignored")
        }
        Fact::Stopping(quick) => info!(quick, "stopping"),
        Fact::LeftBehind(left) => error!(left, "processes that were killed do not die: ending without them"),
    }
}

/// Also for who asked for the reload.
pub fn workers_capped(asked: u32, most: u32) -> String {
    format!(
        "GATEWAY_WORKERS is {asked}, and the row table made at start has room for {most}: restart to have all"
    )
}

/// The facts of crash loops.
fn log_crash_loop(fact: &Fact, failure: &str) {
    match fact {
        Fact::Degraded(CrashLoop::Many(count)) => {
            error!(
                count,
                "degraded: more workers failed within a minute than GATEWAY_CRASH_BUDGET allows; those that serve go on, \
                 one empty slot at a time is tried; the last failure: {failure}"
            );
        }
        Fact::Degraded(CrashLoop::Alike(count)) => {
            error!(
                count,
                "degraded: workers fail in the same way again and again; those that serve go on, one empty slot at a time \
                 is tried; the last failure: {failure}"
            );
        }
        Fact::Recovered => info!("no longer degraded: workers start again"),
        Fact::GivenUp(limit) => {
            let seconds = limit / SECOND;
            error!(
                "giving up: no worker has been ready for {seconds} s (GATEWAY_GIVE_UP); the last failure: {failure}"
            );
        }
        _ => {}
    }
}

/// The facts of the watchdog.
fn log_verdict(fact: &Fact, pid: impl Fn(ChildId) -> i32) {
    match fact {
        Fact::KillOrdered(child, slot) => {
            info!(
                slot = slot.0,
                pid = pid(*child),
                "an operator wants this worker dead: a standby starts first"
            );
        }
        Fact::KillWithdrawn(child, slot) => {
            warn!(slot = slot.0, pid = pid(*child), "the standby did not start, so the worker is not killed");
        }
        Fact::Killed(child, Kill::Watchdog(Verdict::Operator)) => {
            warn!(pid = pid(*child), "killed by an operator's order");
        }
        Fact::Killed(child, Kill::Watchdog(verdict)) => {
            error!(pid = pid(*child), verdict = verdict.as_str(), "killed by the watchdog");
        }
        Fact::Suspected(child, slot, verdict) => {
            warn!(
                slot = slot.0,
                pid = pid(*child),
                verdict = verdict.as_str(),
                "a worker is suspected: clients go elsewhere, a standby starts"
            );
        }
        Fact::Cleared(child, slot, verdict) => {
            info!(slot = slot.0, pid = pid(*child), verdict = verdict.as_str(), "a suspicion is taken back");
        }
        Fact::Fired(child, slot, verdict, watchdog) => {
            error!(
                slot = slot.0,
                pid = pid(*child),
                verdict = verdict.as_str(),
                watchdog = watchdog.as_str(),
                "a worker's limit has passed: it is looked at from outside, then reported"
            );
        }
        Fact::Unconfirmed(child, slot, verdict, again) => {
            warn!(
                slot = slot.0,
                pid = pid(*child),
                verdict = verdict.as_str(),
                again,
                "the worker's verdict on itself is not confirmed from outside"
            );
        }
        Fact::Stopped(child, slot, verdict) => {
            warn!(
                slot = slot.0,
                pid = pid(*child),
                verdict = verdict.as_str(),
                "somebody stopped or traces this worker: it is left alone until it runs again"
            );
        }
        Fact::Held(child, slot, verdict, guard) => {
            let why = match guard {
                Guard::Interval => "the last such kill is less than GATEWAY_KILL_INTERVAL ago",
                Guard::Majority => "most workers have the same, so the cause is outside",
                Guard::NoStandby => "nobody serves its slot yet",
            };
            warn!(slot = slot.0, pid = pid(*child), verdict = verdict.as_str(), "not killed for now: {why}");
        }
        _ => {}
    }
}

/// One sentence, such as `2/2 ready, settings generation 3, recycling slot 1: max requests`. `reload` says what became of
/// the last reload when that was not done, `failure` how the last worker failed.
pub fn sentence(summary: &Summary, generation: u64, reload: Option<&str>, failure: Option<&str>) -> String {
    let mut text = format!("{}/{} ready, settings generation {generation}", summary.ready, summary.target);
    if summary.state != "serving" {
        text = format!("{}: {text}", summary.state);
    }
    if let Some((slot, reason)) = &summary.replacing {
        let verb = match reason {
            RecycleReason::Reload => "reloading",
            RecycleReason::Upgrade => "upgrading",
            _ => "recycling",
        };
        text += &format!(", {verb} slot {}: {}", slot.0, words(reason.as_str()));
    }
    if let Some(slot) = &summary.retiring {
        text += &format!(", retiring slot {}", slot.0);
    }
    if let Some((slot, verdict)) = &summary.suspect {
        text += &match verdict {
            Verdict::Operator => format!(", killing slot {}'s worker", slot.0),
            verdict => format!(", slot {} suspected: {}", slot.0, words(verdict.as_str())),
        };
    }
    for slot in &summary.paused {
        text += &format!(", slot {} paused", slot.0);
    }
    if let Some(tried) = summary.degraded {
        text += &match tried {
            Some(slot) => format!(", crash loop: trying slot {}", slot.0),
            None => ", crash loop: waiting for the next try".to_owned(),
        };
        text += &failure.map(|failure| format!(", last failure: {failure}")).unwrap_or_default();
    }
    if let Some(reload) = reload {
        text += &format!(", {reload}");
    }
    text
}

/// The name of a reason as a person writes it.
fn words(name: &str) -> String {
    name.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use crate::supervisor::SlotId;

    use super::*;

    #[test]
    fn the_sentence_says_what_is_going_on() {
        let calm = Summary {
            ready: 2,
            target: 2,
            replacing: None,
            retiring: None,
            suspect: None,
            degraded: None,
            paused: Vec::new(),
            state: "serving",
        };
        assert_eq!(sentence(&calm, 3, None, Some("one of long ago")), "2/2 ready, settings generation 3");
        let replacing = Some((SlotId(1), RecycleReason::MaxRequests));
        let retiring = Some(SlotId(2));
        let suspect = Some((SlotId(0), Verdict::Spin));
        let loops = Summary { ready: 1, degraded: Some(Some(SlotId(1))), state: "degraded", ..calm.clone() };
        assert_eq!(
            sentence(&loops, 3, None, Some("worker 1: exit code 3: no")),
            "degraded: 1/2 ready, settings generation 3, crash loop: trying slot 1, last failure: worker 1: exit code 3: no"
        );
        let paused = vec![SlotId(3)];
        let busy = Summary { replacing, retiring, suspect, paused, state: "reloading", ..calm };
        assert_eq!(
            sentence(&busy, 3, Some("reload refused: X"), None),
            "reloading: 2/2 ready, settings generation 3, recycling slot 1: max requests, retiring slot 2, \
             slot 0 suspected: spin, slot 3 paused, reload refused: X"
        );
    }
}
