//! From the program of the commit before to this one, and back: what one writes, the other reads, and nobody notices.
//!
//! Where a layout has got another version on purpose, the change is refused by name instead, and nothing happens.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, START_LIMIT, Setup};
use forkgate_tests::http::{self, Request};
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::process;
use forkgate_tests::runner::Test;
use forkgate_tests::skip::{self, Verdict};
use forkgate_tests::{note, paths, wait};

pub const TESTS: &[Test] = &[Test {
    name: "upgrade_from_the_commit_before_and_back_under_load",
    limit: Duration::from_secs(120),
    run: there_and_back,
}];

const WORKERS: usize = 2;

/// Waits until the master and exactly as many workers as are meant to be there run the program that is installed. Seen in
/// `/proc`: the other program's status may have other fields than this one's.
#[track_caller]
fn wait_for_all_to_run(gateway: &Gateway) {
    let installed = std::fs::metadata(gateway.setup.installed_binary()).expect("it is installed").ino();
    wait::until_true("everybody to run the installed program", START_LIMIT, || {
        let all = process::descendants(gateway.pid());
        let is_installed = |pid| process::program(pid) == Some(installed);
        all.len() == WORKERS && all.into_iter().chain([gateway.pid()]).all(is_installed)
    });
}

/// Installs the program and asks for the upgrade; false where the layouts are of different versions.
fn upgrade(gateway: &Gateway, program: &Path) -> bool {
    let before = process::program(gateway.pid());
    gateway.install(&std::fs::read(program).expect("a program"), 0o755);
    let output = gateway.ctl(&["upgrade"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        wait_for_all_to_run(gateway);
        return true;
    }
    assert!(
        said.contains("it cannot take over in place"),
        "{}: {said}\n{}",
        program.display(),
        gateway.log_text()
    );
    assert_eq!(process::program(gateway.pid()), before, "it runs on as it was");
    note!("{said}");
    false
}

fn there_and_back() -> Verdict {
    let previous = skip::previous()?;
    let gateway = Setup::new().workers(WORKERS).installed_from(&previous).spawn();
    wait::until_true("the program of the commit before to serve", START_LIMIT, || {
        let answer = http::once(gateway.address, &Request::new("GET", "/ready"), EXCHANGE_LIMIT);
        answer.is_ok_and(|answer| answer.status() == 200)
    });
    wait_for_all_to_run(&gateway);
    let _upstream = gateway.with_fast_upstream();
    let load = Load::start(Plan::mixed(gateway.address, gateway.federated(), "fast__echo"));
    load.wait_for(200);
    let understood = upgrade(&gateway, &paths::forkgate());
    load.wait_for(200);
    if understood {
        assert!(upgrade(&gateway, &previous), "the way back is the same one");
        load.wait_for(200);
    }
    let report = load.stop();
    note!("{report}");
    report.assert_nothing_lost();
    gateway.drain();
    Ok(())
}
