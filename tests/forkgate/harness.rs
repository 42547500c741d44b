//! The harness sees what it is there to see: an upstream served directly loses nothing, one that is killed does.

use std::time::Duration;

use forkgate_tests::load::{Kind, Load, Plan};
use forkgate_tests::mcp::Endpoint;
use forkgate_tests::paths;
use forkgate_tests::runner::{Test, current_test};
use forkgate_tests::skip::{self, Verdict};
use forkgate_tests::systemd::Systemd;
use forkgate_tests::upstream::Upstream;
use forkgate_tests::{note, wait};

pub const TESTS: &[Test] = &[
    Test {
        name: "harness_counts_nothing_lost_and_sees_a_kill",
        limit: Duration::from_secs(60),
        run: sees_a_kill,
    },
    Test {
        name: "harness_reaches_into_a_real_systemd",
        limit: Duration::from_secs(60),
        run: reaches_into_systemd,
    },
];

fn endpoint() -> Endpoint {
    Endpoint { path: "/mcp".to_owned(), token: "none".to_owned() }
}

fn sees_a_kill() -> Verdict {
    let mut upstream = Upstream::fast();
    let load = Load::start(Plan::mixed(upstream.address, endpoint(), "echo"));
    load.wait_for(1000);
    assert_eq!(load.lost(), 0, "nothing was lost before the kill");
    upstream.kill();
    wait::until_true("the kill to be seen", Duration::from_secs(10), || load.lost() >= 200);
    let report = load.stop();
    note!("{report}");
    for kind in [Kind::Fresh, Kind::KeepAlive, Kind::Stream] {
        assert!(report.errors.iter().any(|lost| lost.kind == kind), "{kind:?} noticed: {:?}", report.errors);
    }
    Ok(())
}

fn reaches_into_systemd() -> Verdict {
    skip::systemd()?;
    let systemd = Systemd::boot(&Systemd::directory(&current_test()), &[]);
    systemd.copy(&paths::fastup(), "/usr/local/bin/fastup");
    let unit = "[Service]\nExecStart=/usr/local/bin/fastup --listen 127.0.0.1:9100\n";
    systemd.write("/etc/systemd/system/upstream.service", unit);
    systemd.must(&["systemctl", "daemon-reload"]);
    systemd.must(&["systemctl", "start", "upstream.service"]);
    let listening = || systemd.in_network(|| std::net::TcpStream::connect(Systemd::address(9100)).is_ok());
    wait::until_true("the upstream in the box to listen", Duration::from_secs(10), listening);
    let network = Some(systemd.network());
    let load = Load::start(Plan { network, ..Plan::mixed(Systemd::address(9100), endpoint(), "echo") });
    load.wait_for(500);
    load.stop().assert_nothing_lost();
    assert_eq!(systemd.property("upstream.service", "ActiveState"), "active");
    Ok(())
}
