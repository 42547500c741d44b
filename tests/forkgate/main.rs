//! The black-box tests: one binary, one file per idea.

mod auth;
mod binds;
mod bytes;
mod claims;
mod cli;
mod clients;
mod container;
mod crash;
mod crash_loops;
mod ctl_events;
mod ctl_orders;
mod ctl_peers;
mod ctl_workers;
mod demo;
mod drains;
mod eras;
mod from_gunicorn;
mod groups;
mod handover;
mod handover_clients;
mod harness;
mod held_calls;
mod hooks;
mod install;
mod install_box;
mod lossless;
mod memory;
mod metrics;
mod oom;
mod orphans;
mod posts;
mod processes;
mod recycles;
mod registry;
mod reload;
mod reload_ctl;
mod reload_rolls;
mod rows;
mod schedule;
mod second;
mod sessions;
mod settings;
mod signals;
mod stalled_slot;
mod steering;
mod storm;
mod strays;
mod systemd;
mod top;
mod upgrade;
mod upgrade_ctl;
mod upgrade_previous;
mod watchdog;
mod watchdog_clocks;
mod watchdog_modes;
mod watchdog_parts;
mod watchdog_scene;
mod watchdog_spares;

use std::process::ExitCode;

use forkgate_tests::runner::{self, Test};

/// Tests in which everybody waits, but for a few requests per second.
const WAITING: &[&str] = &[
    "watchdog_finds_a_blocked_poll",
    "watchdog_finds_an_uninterruptible_poll",
    "watchdog_reports_deaths_from_the_row",
    "watchdog_that_is_dead_costs_its_worker_the_life",
    "worker_that_accepts_nobody_is_replaced_without_a_kill",
    "watchdog_bears_a_master_that_was_stopped",
    "watchdog_bears_a_gateway_that_was_suspended",
    "watchdog_leaves_a_stopped_worker_alone",
    "watchdog_leaves_a_worker_under_a_debugger_alone",
    "watchdog_bears_steps_of_the_wall_clock",
    "crash_loop_leaves_the_healthy_alone_and_heals_itself",
    "crash_loop_of_all_is_bounded_and_gives_up",
    "stuck_boot_is_killed_and_the_others_serve",
    "master_that_was_stopped_kills_nobody_who_boots",
    "random_schedule_keeps_the_invariants",
    "second_master_is_refused",
    "check_never_touches_the_live_port",
    "children_that_the_master_did_not_start_are_reaped",
    "process_1_reaps_what_others_leave",
    "term_to_the_group_answers_what_is_held",
    "int_to_the_group_ends_all_at_once",
    "hooks_are_told_what_happened",
    "hooks_that_hang_fail_or_shout_hold_up_nobody",
    "hooks_run_four_at_a_time_and_wait_in_order",
    "ctl_says_that_the_master_is_stopped",
];

fn main() -> ExitCode {
    let all: Vec<Test> = [
        harness::TESTS,
        claims::TESTS,
        settings::TESTS,
        signals::TESTS,
        cli::TESTS,
        demo::TESTS,
        auth::TESTS,
        clients::TESTS,
        eras::TESTS,
        bytes::TESTS,
        sessions::TESTS,
        registry::TESTS,
        reload::TESTS,
        reload_ctl::TESTS,
        binds::TESTS,
        steering::TESTS,
        ctl_workers::TESTS,
        ctl_orders::TESTS,
        ctl_peers::TESTS,
        ctl_events::TESTS,
        upgrade::TESTS,
        reload_rolls::TESTS,
        upgrade_ctl::TESTS,
        upgrade_previous::TESTS,
        lossless::TESTS,
        crash::TESTS,
        schedule::TESTS,
        crash_loops::TESTS,
        orphans::TESTS,
        memory::TESTS,
        rows::TESTS,
        metrics::TESTS,
        oom::TESTS,
        recycles::TESTS,
        posts::TESTS,
        held_calls::TESTS,
        groups::TESTS,
        strays::TESTS,
        hooks::TESTS,
        processes::TESTS,
        from_gunicorn::TESTS,
        second::TESTS,
        storm::TESTS,
        stalled_slot::TESTS,
        drains::TESTS,
        handover::TESTS,
        handover_clients::TESTS,
        watchdog::TESTS,
        watchdog_scene::TESTS,
        watchdog_modes::TESTS,
        watchdog_parts::TESTS,
        watchdog_spares::TESTS,
        watchdog_clocks::TESTS,
        systemd::mission::TESTS,
        systemd::store::TESTS,
        systemd::time::TESTS,
        systemd::activation::TESTS,
        container::TESTS,
        install::TESTS,
        install_box::TESTS,
        top::TESTS,
    ]
    .concat();
    runner::main(&all, WAITING)
}
