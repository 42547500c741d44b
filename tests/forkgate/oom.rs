//! The kernel kills a worker for memory: the service goes on, and everything that tells of the death says so.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use forkgate_tests::cgroup::Group;
use forkgate_tests::crash_report::{self, Cause};
use forkgate_tests::gateway::{EXCHANGE_LIMIT, START_LIMIT, Setup};
use forkgate_tests::http::{self, Request};
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::wait;

pub const TESTS: &[Test] = &[Test {
    name: "worker_that_the_kernel_kills_for_memory_is_named_so",
    limit: Duration::from_secs(60),
    run: killed_for_memory,
}];

/// For a master and two workers with room to spare.
const ALLOWED: u64 = 320 << 20;
/// More than the group may have, in one request.
const BODY: usize = 512 << 20;

fn killed_for_memory() -> Verdict {
    let group = Group::memory(ALLOWED)?;
    let words = group.starter();
    let gateway = Setup::new()
        .through(&words.each_ref().map(String::as_str))
        .set("GATEWAY_MAX_RSS", "off")
        .set("GATEWAY_MAX_BODY", "1G")
        .start();
    let _upstream = gateway.with_fast_upstream();
    let before = gateway.status();
    // A body is held in memory until it is whole.
    let mut client = TcpStream::connect(gateway.address).expect("a connection");
    let token = gateway.token();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nContent-Length: {BODY}\r\n\r\n"
    );
    client.write_all(head.as_bytes()).expect("sent");
    let part = vec![b' '; 1 << 20];
    let taken = (0..BODY / part.len()).take_while(|_| client.write_all(&part).is_ok()).count();
    assert!(taken < BODY / part.len(), "the worker took all of it");
    let after = wait::until("the death to be counted", START_LIMIT, || {
        Some(gateway.status()).filter(|status| status.oom_kills == 1 && status.is_settled())
    });
    assert_eq!((after.crashes, after.degraded), (1, false), "{after:?}");
    let gone: Vec<u32> = before
        .workers
        .iter()
        .map(|worker| worker.pid)
        .filter(|pid| after.workers.iter().all(|worker| worker.pid != *pid))
        .collect();
    assert_eq!(gone.len(), 1, "one worker was replaced: {before:?} {after:?}");
    let words = "killed by the kernel for memory (oom_kill rose in /";
    let report = crash_report::of(&gateway, gone[0]).pop().expect("a report of the death").report;
    assert!(matches!(&report.cause, Cause::Died { how } if how.starts_with(words)), "{:?}", report.cause);
    assert!(gateway.log_text().contains(&format!("a worker died unasked: worker {}: {words}", report.slot)));
    assert!(crash_report::why(&gateway, report.slot).contains(words));
    let page = http::once(gateway.admin, &Request::new("GET", "/metrics"), EXCHANGE_LIMIT).expect("a page");
    assert!(page.text().lines().any(|line| line == "forkgate_oom_kills_total 1"), "{}", page.text());
    let load = Load::start(Plan::light(gateway.address, gateway.federated(), "fast__echo"));
    load.wait_for(20);
    load.stop().assert_nothing_lost();
    gateway.stop();
    Ok(())
}
