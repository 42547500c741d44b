//! The image that the Dockerfile describes, made without a registry: forkgate as process 1 of Debian's minimal system.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use forkgate_tests::container::{self, Container};
use forkgate_tests::gateway::{EXCHANGE_LIMIT, START_LIMIT, STOP_LIMIT};
use forkgate_tests::http::{self, Connection, Request};
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::mcp::{self, Endpoint};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::{self, Verdict};
use forkgate_tests::upstream::Upstream;
use forkgate_tests::{dockerfile, network, note, paths, token, wait};
use serde_json::json;

pub const TESTS: &[Test] = &[
    // The first run makes the root file system of packages from a mirror.
    Test {
        name: "container_serves_reaps_and_drains_as_process_1",
        limit: Duration::from_secs(300),
        run: serves,
    },
    Test { name: "container_files_say_what_forkgate_knows", limit: Duration::from_secs(30), run: files },
    Test { name: "container_file_passes_hadolint", limit: Duration::from_secs(60), run: lint },
];

const PORT: u16 = 4444;
const UPSTREAM_PORT: u16 = 9100;
const WORKERS: usize = 2;
/// Leaves a child behind that ends with the code of a worker that cannot start.
const LEAVE: &str = "(sleep 0.2; exit 3) & exit 0";

fn start(root: &Path) -> Container {
    let workers = WORKERS.to_string();
    let env = [
        ("GATEWAY_JWT_SECRET", token::SECRET),
        ("GATEWAY_WORKERS", workers.as_str()),
        ("SSRF_ALLOW_LOCALHOST", "true"),
        ("GATEWAY_STREAM_DRAIN", "0.5s"),
    ];
    Container::run(root, &paths::forkgate(), &env)
}

fn make_token(container: &Container, more: &[&str]) -> String {
    let output = container.exec(&[&["forkgate", "token", "create", "--sub", "tests"], more].concat(), &[]);
    assert!(output.status.success(), "token create: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What the Dockerfile's HEALTHCHECK says.
fn healthy(container: &Container, env: &[(&str, &str)]) -> Result<(), String> {
    let words: Vec<&str> = container.stage.healthcheck.iter().map(String::as_str).collect();
    let output = container.exec(&words, env);
    match output.status.code() {
        Some(0) => Ok(()),
        _ => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn serves() -> Verdict {
    skip::systemd()?;
    let root = container::root()?;
    let mut container = start(&root);
    wait::until_true("the container to be healthy", START_LIMIT, || healthy(&container, &[]).is_ok());
    let elsewhere = healthy(&container, &[("GATEWAY_ADMIN_BIND", "127.0.0.1:4440")]);
    let why = elsewhere.expect_err("nobody listens there");
    assert!(why.contains("nobody answers at 127.0.0.1:4440"), "{why}");

    assert_eq!(inside_pid(container.leader()), Some(1));
    let uid = std::fs::metadata(format!("/proc/{}", container.leader())).map(|file| {
        use std::os::unix::fs::MetadataExt as _;
        (file.uid(), file.gid())
    });
    assert_eq!(uid.expect("process 1 runs"), container.stage.user, "not root");

    let _upstream = network::within(&container.network(), || Upstream::fast_on(UPSTREAM_PORT));
    register(&container);
    let endpoint = Endpoint { path: "/mcp".to_owned(), token: make_token(&container, &[]) };
    let listed = || {
        let all = mcp::list(Container::address(PORT), &endpoint, "tools", EXCHANGE_LIMIT);
        all.is_ok_and(|all| all.contains(&"fast__echo".to_owned()))
    };
    container.in_network(|| {
        wait::until_true("the upstream's tools", START_LIMIT, || (0..10).all(|_| listed()));
    });
    let plan = Plan {
        network: Some(container.network()),
        ..Plan::mixed(Container::address(PORT), endpoint.clone(), "fast__echo")
    };
    let load = Load::start(plan);
    load.wait_for(200);
    strays_are_reaped(&container);
    container.signal(Signal::SIGHUP);
    load.wait_for(500);
    let health = healthy(&container, &[]);
    let report = load.stop();
    note!("{report}");
    report.assert_nothing_lost();
    health.expect("healthy under load");

    drains(&mut container, &endpoint);
    note!("image: {} MB of Debian and the program", megabytes(&root));
    Ok(())
}

fn register(container: &Container) {
    let body = json!({"name": "fast", "url": format!("http://127.0.0.1:{UPSTREAM_PORT}/mcp")}).to_string();
    let request = Request::new("POST", "/v1/gateways").token(&make_token(container, &["--admin"])).json(body);
    let answer = container.in_network(|| http::once(Container::address(PORT), &request, START_LIMIT));
    let answer = answer.expect("an answer");
    assert!(matches!(answer.status(), 200 | 201), "{} {}", answer.status(), answer.text());
}

/// The id that a process has in its own namespace.
fn inside_pid(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().last()?.parse().ok()
}

/// Orphans of the container become children of process 1; whatever their exit code, they are reaped and change nothing.
fn strays_are_reaped(container: &Container) {
    let workers = process::children(container.leader());
    assert_eq!(workers.len(), WORKERS, "{}", container.log());
    for _ in 0..10 {
        assert!(container.exec(&["sh", "-c", LEAVE], &[]).status.success());
    }
    wait::until_true("all strays to be reaped", START_LIMIT, || {
        process::children(container.leader()) == workers && process::zombies(container.leader()).is_empty()
    });
}

/// `docker stop`: TERM to process 1. A call that is under way is answered, and the exit code is 0.
fn drains(container: &mut Container, endpoint: &Endpoint) {
    let call = endpoint.call(1, "fast__sleep", &json!({"ms": 3000}));
    let mut connection = container.in_network(|| {
        let mut connection = Connection::open(Container::address(PORT), START_LIMIT).expect("a connection");
        connection.send(&call).expect("sent");
        connection
    });
    let busy = || {
        let output = container.exec(&["forkgate", "ctl", "status", "--json"], &[]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        status["workers"]
            .as_array()
            .expect("workers")
            .iter()
            .any(|worker| worker["in_flight"].as_u64() > Some(0))
    };
    wait::until_true("the call to be under way", START_LIMIT, busy);
    container.signal(Signal::SIGTERM);
    let head = connection.head().expect("the call under way is answered");
    let body = connection.body(&head).expect("all of the answer");
    assert_eq!(head.status, 200, "{}", String::from_utf8_lossy(&body));
    assert!(String::from_utf8_lossy(&body).contains("\"result\""), "{}", String::from_utf8_lossy(&body));
    let status = container.wait_exit(STOP_LIMIT);
    assert_eq!(status.code(), Some(0), "{status}\n{}", container.log());
}

fn megabytes(root: &Path) -> u64 {
    let output = Command::new("du").args(["--summarize", "--block-size=1M"]).arg(root).output().expect("du");
    String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .next()
        .and_then(|size| size.parse().ok())
        .expect("a size")
}

/// What the Dockerfile and the compose file set are settings, and valid ones.
fn files() -> Verdict {
    let stage = dockerfile::stage();
    assert_ne!(stage.user.0, 0, "not root");
    let compose = std::fs::read_to_string(paths::root().join("compose.yaml")).expect("there");
    let mut env = stage.env;
    let in_environment = compose
        .lines()
        .skip_while(|line| *line != "    environment:")
        .skip(1)
        .take_while(|line| line.starts_with("      "));
    for line in in_environment.map(str::trim).filter(|line| !line.starts_with('#')) {
        let (name, value) = line.split_once(": ").expect("NAME: \"value\"");
        env.push((name.to_owned(), value.trim_matches('"').to_owned()));
    }
    assert!(env.len() > 5, "{env:?}");
    let secret =
        env.iter_mut().find(|(name, _)| name == "GATEWAY_JWT_SECRET").expect("compose asks for a secret");
    assert!(secret.1.starts_with("${GATEWAY_JWT_SECRET:?"), "compose does not start without one");
    secret.1 = token::SECRET.to_owned();
    let output =
        Command::new(paths::forkgate()).arg("check").env_clear().envs(env).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    assert!(compose.contains(&format!("      - state:{}\n", stage.volume)), "compose keeps the state");
    Ok(())
}

fn lint() -> Verdict {
    let hadolint = skip::hadolint()?;
    let file = paths::root().join("Dockerfile");
    let output = Command::new(hadolint).arg(file).output().expect("hadolint starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
