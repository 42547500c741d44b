//! What the master did: replacements, kills, crashes, how long starts and drains took.

use std::sync::atomic::Ordering::Relaxed;

use forkgate_shared::control::RecycleReason;
use forkgate_shared::rows::{Base, KillReason};
use forkgate_shared::verdict::Verdict;

use super::page::{Labels, Page};

pub(super) fn render(page: &mut Page, base: &Base) {
    page.counter(
        ("forkgate_recycles_total", "Voluntary replacements of workers.", &["reason"]),
        RecycleReason::ALL
            .map(|reason| ([reason.as_str().to_owned()], base.recycles[reason.index()].load(Relaxed))),
    );
    page.counter(
        (
            "forkgate_upgrades_total",
            "Times that the master became another program, there and back counted twice.",
            &[],
        ),
        [(Labels::new(), base.upgrades.load(Relaxed))],
    );
    page.counter(
        ("forkgate_crashes_total", "Workers that died without being asked to.", &[]),
        [(Labels::new(), base.crashes.load(Relaxed))],
    );
    page.counter(
        ("forkgate_boot_failures_total", "Workers that never were ready.", &[]),
        [(Labels::new(), base.boot_failures.load(Relaxed))],
    );
    page.counter(
        ("forkgate_oom_kills_total", "Processes of the gateway that the kernel killed for memory.", &[]),
        [(Labels::new(), base.oom_kills.load(Relaxed))],
    );
    page.gauge(
        ("forkgate_degraded", "1 while there is a crash loop and one empty slot at a time is tried.", &[]),
        [(Labels::new(), base.degraded.load(Relaxed) as f64)],
    );
    page.counter(
        (
            "forkgate_kills_total",
            "Workers that the master killed, by the watchdog's verdict; boot and drain are timeouts, operator is an order.",
            &["verdict"],
        ),
        KillReason::all()
            .map(|reason| ([reason.as_str().to_owned()], base.killed(reason).load(Relaxed))),
    );
    page.counter(
        (
            "forkgate_verdicts_spared_total",
            "Verdicts that were not carried out: not confirmed from outside, or the watchdog only observes.",
            &["verdict"],
        ),
        Verdict::ALL
            .map(|verdict| ([verdict.as_str().to_owned()], base.spared[verdict.index()].load(Relaxed))),
    );
    page.durations(
        ("forkgate_worker_ready_seconds", "From a worker's start to the moment it serves.", &[]),
        [(Labels::new(), &base.time_to_ready)],
    );
    page.durations(
        ("forkgate_drain_seconds", "From the order to drain to the worker's end.", &[]),
        [(Labels::new(), &base.drain_time)],
    );
    for (name, help, cell) in [
        (
            "forkgate_catalog_generation",
            "Registry generation of the newest catalog.",
            &base.catalog_generation,
        ),
        (
            "forkgate_settings_generation",
            "Version of the settings that new workers get.",
            &base.settings_generation,
        ),
    ] {
        page.gauge((name, help, &[]), [(Labels::new(), cell.load(Relaxed) as f64)]);
    }
}
