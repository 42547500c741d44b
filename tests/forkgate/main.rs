//! The black-box tests: one binary, one file per idea.

mod auth;
mod bytes;
mod claims;
mod cli;
mod clients;
mod crash;
mod demo;
mod eras;
mod harness;
mod lossless;
mod memory;
mod metrics;
mod orphans;
mod recycles;
mod registry;
mod reload;
mod rows;
mod sessions;
mod settings;
mod systemd;
mod watchdog;
mod watchdog_clocks;
mod watchdog_modes;
mod watchdog_parts;
mod watchdog_scene;
mod watchdog_spares;

use std::process::ExitCode;

use forkgate_tests::runner::{self, Test};

fn main() -> ExitCode {
    let all: Vec<Test> = [
        harness::TESTS,
        claims::TESTS,
        settings::TESTS,
        cli::TESTS,
        demo::TESTS,
        auth::TESTS,
        clients::TESTS,
        eras::TESTS,
        bytes::TESTS,
        sessions::TESTS,
        registry::TESTS,
        reload::TESTS,
        lossless::TESTS,
        crash::TESTS,
        orphans::TESTS,
        memory::TESTS,
        rows::TESTS,
        metrics::TESTS,
        recycles::TESTS,
        watchdog::TESTS,
        watchdog_scene::TESTS,
        watchdog_modes::TESTS,
        watchdog_parts::TESTS,
        watchdog_spares::TESTS,
        watchdog_clocks::TESTS,
        systemd::TESTS,
    ]
    .concat();
    runner::main(&all)
}
