//! The watchdog lets live what is alive: load, honest slowness, many idle streams, big payloads; and a machine that others
//! use or stop. The limits are the shortest that leave room for a suspicion, so every test is several windows long.

use std::time::{Duration, Instant};

use forkgate_tests::cgroup::Group;
use forkgate_tests::fault;
use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, START_LIMIT, Setup, Status};
use forkgate_tests::http::{Connection, once};
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::mcp;
use forkgate_tests::neighbour::Neighbour;
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{crash_report, note, paths, process, wait};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

pub const TESTS: &[Test] = &[
    Test { name: "watchdog_spares_full_load", limit: LIMIT, run: full_load },
    Test { name: "watchdog_spares_honest_slow_requests", limit: LIMIT, run: slow },
    Test {
        name: "watchdog_spares_slow_requests_beside_busy_neighbours",
        limit: LIMIT,
        run: slow_beside_neighbours,
    },
    Test { name: "watchdog_spares_2000_idle_streams", limit: LIMIT, run: idle_streams },
    Test { name: "watchdog_spares_big_payloads", limit: LIMIT, run: payloads },
    Test { name: "watchdog_spares_a_loop_that_single_bytes_keep_busy", limit: LIMIT, run: single_bytes },
    Test { name: "watchdog_spares_a_worker_under_a_cpu_quota", limit: LIMIT, run: quota },
];

/// Longer than three of the windows below.
const SEVERAL_WINDOWS: Duration = Duration::from_secs(10);
/// A full minute in the longer form.
const LONG: Duration = Duration::from_secs(60);

/// The windows of all these tests.
pub fn impatient(setup: Setup) -> Setup {
    setup.set("GATEWAY_STALL_TIMEOUT", "3").set("GATEWAY_SPIN_WINDOW", "3")
}

/// The workers, and that nothing happens to them.
pub struct Calm {
    pids: Vec<u32>,
}

impl Calm {
    /// As it is now.
    pub fn of(gateway: &Gateway) -> Calm {
        Calm { pids: gateway.status().workers.iter().map(|worker| worker.pid).collect() }
    }

    /// They live, nobody was killed, replaced or reported.
    #[track_caller]
    pub fn assert_kept(&self, gateway: &Gateway) {
        let status = assert_nobody_killed(gateway);
        let pids: Vec<u32> = status.workers.iter().map(|worker| worker.pid).collect();
        assert_eq!(
            (pids, status.recycles.suspect),
            (self.pids.clone(), 0),
            "somebody was suspected: {status:?}"
        );
    }
}

/// Nobody was killed, nobody reported. A suspicion that is taken back costs a recycle and no request.
#[track_caller]
fn assert_nobody_killed(gateway: &Gateway) -> Status {
    let status = gateway.wait_settled();
    assert!(status.kills.values().all(|&count| count == 0) && status.crashes == 0, "{status:?}");
    assert!(crash_report::all(gateway).is_empty(), "somebody was reported");
    if status.recycles.suspect > 0 {
        note!("{} suspicions were taken back", status.recycles.suspect);
    }
    status
}

/// Lets time pass; sooner over when a client loses something.
pub fn pass(span: Duration, load: &Load) {
    wait::within(span, || (load.lost() > 0).then_some(()));
}

fn full_load() -> Verdict {
    let gateway = impatient(Setup::new()).start();
    let _upstream = gateway.with_fast_upstream();
    let calm = Calm::of(&gateway);
    let load = Load::start(Plan::mixed(gateway.address, gateway.federated(), "fast__echo"));
    pass(if paths::soaking() { LONG } else { SEVERAL_WINDOWS }, &load);
    let report = load.stop();
    note!("{report}");
    report.assert_nothing_lost();
    calm.assert_kept(&gateway);
    gateway.stop();
    Ok(())
}

/// One request per second that costs 0.4 s of CPU and gives way every 10 ms; nothing else gets done.
fn ask_slowly(gateway: &Gateway) {
    let open = || Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
    let mut connection = open();
    let turns = if paths::soaking() { LONG } else { SEVERAL_WINDOWS }.as_secs();
    for _ in 0..turns {
        let begun = Instant::now();
        if connection.close_announced {
            connection = open();
        }
        fault::plant(&mut connection, "slow", "");
        wait::within(Duration::from_secs(1).saturating_sub(begun.elapsed()), || None::<()>);
    }
}

fn slow() -> Verdict {
    let gateway = impatient(Setup::with_faults()).workers(1).start();
    let calm = Calm::of(&gateway);
    ask_slowly(&gateway);
    calm.assert_kept(&gateway);
    gateway.stop();
    Ok(())
}

/// All CPUs but one are somebody else's. Waiting for a CPU makes the loop look busy, so that a suspicion may come and go.
fn slow_beside_neighbours() -> Verdict {
    let gateway = impatient(Setup::with_faults()).workers(1).start();
    let cpus = std::thread::available_parallelism().map_or(1, Into::into);
    let neighbours: Vec<Neighbour> = (1..cpus).map(|_| Neighbour::start()).collect();
    ask_slowly(&gateway);
    drop(neighbours);
    assert_nobody_killed(&gateway);
    gateway.stop();
    Ok(())
}

fn idle_streams() -> Verdict {
    const STREAMS: usize = 2000;
    process::raise_descriptor_limit();
    let gateway = impatient(Setup::new()).set("SSE_KEEPALIVE_INTERVAL", "1").start();
    let calm = Calm::of(&gateway);
    let endpoint = gateway.federated();
    let mut streams: Vec<Connection> = (0..STREAMS)
        .map(|number| {
            let opened = Connection::open(gateway.address, EXCHANGE_LIMIT).and_then(|mut connection| {
                let session = endpoint.open_session(&mut connection)?;
                connection.send(&endpoint.listen(&session))?;
                let head = connection.head()?;
                assert_eq!(head.status, 200, "stream {number}");
                Ok(connection)
            });
            opened.unwrap_or_else(|failure| panic!("stream {number}: {failure}"))
        })
        .collect();
    wait::within(SEVERAL_WINDOWS, || None::<()>);
    let open: u64 = gateway.status().workers.iter().map(|worker| worker.streams).sum();
    assert_eq!(open, STREAMS as u64);
    calm.assert_kept(&gateway);
    let closed = streams.iter_mut().filter_map(|stream| stream.is_closed().then_some(())).count();
    assert_eq!(closed, 0, "streams were closed");
    drop(streams);
    gateway.stop();
    Ok(())
}

/// Both ways: the tool answers what it was sent.
fn payloads() -> Verdict {
    const MB: usize = 1_000_000;
    for (size, limit) in [(15 * MB, None), (100 * MB, Some("128M"))] {
        let setup = impatient(Setup::new());
        let setup = match limit {
            Some(limit) => setup.set("GATEWAY_MAX_BODY", limit).set("GATEWAY_MAX_ANSWER", limit),
            None => setup,
        };
        let gateway = setup.start();
        let _upstream = gateway.with_fast_upstream();
        let sent = "x".repeat(size);
        let call = gateway.federated().call(1, "fast__echo", &json!({"message": sent}));
        for _ in 0..3 {
            let answer =
                once(gateway.address, &call, START_LIMIT).unwrap_or_else(|failure| panic!("{failure}"));
            let text = mcp::tool_text(&answer, 1).unwrap_or_else(|failure| panic!("{failure}"));
            assert!(text == sent, "{size} bytes were sent, {} others came back", text.len());
        }
        assert_nobody_killed(&gateway);
        gateway.stop();
    }
    Ok(())
}

/// All of the gateway gets a tenth of a CPU while clients ask as much as they can. It is started within the group, so that
/// its workers know of the quota. What they waited for a CPU is enough to spare them: the test passes also where they do not
/// see that they were throttled, and so does not prove that this doubles the limits.
fn quota() -> Verdict {
    let quota = Group::cpu_percent(10)?;
    let starter = quota.starter();
    let gateway = impatient(Setup::new().workers(1)).through(&starter.each_ref().map(String::as_str)).start();
    let _upstream = gateway.with_fast_upstream();
    let calm = Calm::of(&gateway);
    let load = Load::start(Plan::mixed(gateway.address, gateway.federated(), "fast__echo"));
    pass(if paths::soaking() { LONG } else { SEVERAL_WINDOWS }, &load);
    let report = load.stop();
    note!("{report}; the quota was used up {} times", quota.throttled());
    report.assert_nothing_lost();
    assert!(quota.throttled() > 10, "the quota did not bite");
    calm.assert_kept(&gateway);
    gateway.stop();
    Ok(())
}

/// Clients that send their heads byte by byte, as fast as they can: the loop is busy with hardly a unit of work by its bytes.
fn single_bytes() -> Verdict {
    const CLIENTS: usize = 200;
    const THREADS: usize = 2;
    let gateway = impatient(Setup::new().workers(1)).set("GATEWAY_HEADER_TIMEOUT", "60").start();
    let calm = Calm::of(&gateway);
    let (address, end) = (gateway.address, Instant::now() + SEVERAL_WINDOWS);
    let busiest = std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(move || drip(address, CLIENTS / THREADS, end));
        }
        let mut busiest = 0.0f64;
        wait::within(SEVERAL_WINDOWS, || {
            busiest = gateway.status().workers.iter().map(|worker| worker.busy).fold(busiest, f64::max);
            None::<()>
        });
        busiest
    });
    note!("the loop was busy up to {:.0} % of a second", busiest * 100.0);
    calm.assert_kept(&gateway);
    gateway.stop();
    Ok(())
}

/// Writes one byte of a head that never ends to each of so many connections in turn.
fn drip(address: std::net::SocketAddr, clients: usize, end: Instant) {
    use std::io::Write as _;
    let open = || {
        let mut stream = std::net::TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("an option of TCP");
        stream.write_all(b"GET / HTTP/1.1\r\nx: ").expect("a new connection takes a line");
        stream
    };
    let mut streams: Vec<_> = (0..clients).map(|_| open()).collect();
    while Instant::now() < end {
        for stream in &mut streams {
            // A head that has become too long is refused; the next one begins.
            if stream.write_all(b"y").is_err() {
                *stream = open();
            }
        }
    }
}
