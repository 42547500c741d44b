//! A second one beside a running gateway: it is refused, says why, and the first one's clients do not notice. `check` looks
//! at the same settings and touches nothing.

use std::time::Duration;

use forkgate_tests::gateway::{Gateway, START_LIMIT, Setup};
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::process;
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::wait;

pub const TESTS: &[Test] = &[
    Test { name: "second_master_is_refused", limit: Duration::from_secs(90), run: refused },
    Test { name: "check_never_touches_the_live_port", limit: Duration::from_secs(60), run: check },
];

const CHECKS: usize = 20;

fn load(gateway: &Gateway) -> Load {
    Load::start(Plan::light(gateway.address, gateway.federated(), "fast__echo"))
}

fn refused() -> Verdict {
    let first = Setup::new().start();
    let _upstream = first.with_fast_upstream();
    let load = load(&first);
    let (before, port) = (process::children(first.pid()), first.address.port());
    let listening = process::listening(port);
    assert_eq!(listening.len(), 2, "a socket per worker");
    let (state, address) = (first.setup.state_dir().display().to_string(), first.address.to_string());
    let pid = format!("pid {}", first.pid());
    // The same directory; the same port; both.
    let seconds = [
        (Setup::new().set("GATEWAY_STATE_DIR", &state), [&pid, &state]),
        (Setup::new().set("GATEWAY_BIND", &address), [&address, &"GATEWAY_BIND".to_owned()]),
        (Setup::new().set("GATEWAY_STATE_DIR", &state).set("GATEWAY_BIND", &address), [&pid, &state]),
    ]
    .map(|(setup, words)| (setup, words.map(String::clone)));
    for (setup, words) in seconds {
        let mut second = setup.spawn();
        wait::until_true("the second one to end", START_LIMIT, || {
            assert_eq!(process::listening(port), listening, "nobody joins, nobody leaves");
            !process::alive(second.pid())
        });
        let status = second.wait_exit(START_LIMIT);
        let said = second.log_text();
        assert_eq!(status.code(), Some(1), "{said}");
        for word in words {
            assert!(said.contains(&word), "it does not name {word}: {said}");
        }
        load.wait_for(6);
    }
    load.stop().assert_nothing_lost();
    assert_eq!(process::children(first.pid()), before);
    // The lock and the control socket are still the first one's.
    first.reload();
    first.drain();
    Ok(())
}

fn check() -> Verdict {
    let gateway = Setup::new().start();
    let _upstream = gateway.with_fast_upstream();
    let load = load(&gateway);
    let (before, port) = (process::children(gateway.pid()), gateway.address.port());
    let listening = process::listening(port);
    for _ in 0..CHECKS {
        let mut check = gateway.setup.bare_command();
        check.args(["check", "--env-file"]).arg(gateway.setup.env_file());
        let output = check.output().expect("the binary starts");
        assert!(output.status.success(), "check: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(process::listening(port), listening, "nobody joins, nobody leaves");
    }
    load.wait_for(6);
    load.stop().assert_nothing_lost();
    assert_eq!(process::children(gateway.pid()), before);
    gateway.reload();
    gateway.drain();
    Ok(())
}
