//! Clients of other people that keep their connections, over replacements: Python's `http.client`, Node's agent, nginx's
//! upstream connections.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, Setup};
use forkgate_tests::http::{Connection, Request};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::{Skip, Verdict};
use forkgate_tests::upstream::free_port;
use forkgate_tests::{note, paths, wait};
use serde::Deserialize;

const LIMIT: Duration = Duration::from_secs(90);

pub const TESTS: &[Test] = &[
    Test { name: "handover_is_not_seen_by_python", limit: LIMIT, run: || script("python3", "keepalive.py") },
    Test { name: "handover_is_not_seen_by_node", limit: LIMIT, run: || script("node", "keepalive.mjs") },
    Test { name: "handover_is_not_seen_by_nginx", limit: LIMIT, run: nginx },
];

/// Replacements of workers one by one, and reloads.
const RECYCLES: usize = 20;
const RELOADS: usize = 5;

/// What a script saw.
#[derive(Debug, Deserialize)]
struct Seen {
    requests: u64,
    connects: u64,
    errors: Vec<String>,
}

/// Starts a program; what is not installed skips the test.
fn start(command: &mut Command) -> Result<Child, Skip> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let program = command.get_program().to_string_lossy().into_owned();
    command.spawn().map_err(|error| Skip(format!("{program} is not installed: {error}")))
}

fn replace_everybody(gateway: &Gateway, mut between: impl FnMut()) {
    for turn in 0..RECYCLES {
        let old = gateway.wait_settled().workers[turn % 2].pid;
        assert!(process::signal(old, Signal::SIGTERM), "worker {old} is there");
        wait::until_true("the old worker to leave", LIMIT, || {
            between();
            !process::alive(old)
        });
    }
    for _ in 0..RELOADS {
        between();
        gateway.reload();
    }
    assert_eq!(gateway.status().recycles.operator, RECYCLES as u64);
}

fn gateway() -> Gateway {
    Setup::new().set("GATEWAY_KEEPALIVE_GRACE", "50s").start()
}

fn script(program: &str, name: &str) -> Verdict {
    let gateway = gateway();
    let mut command = Command::new(program);
    command.arg(paths::tests().join("fixtures/clients").join(name));
    command.args([
        gateway.address.ip().to_string(),
        gateway.address.port().to_string(),
        "/version".to_owned(),
    ]);
    let mut client = start(&mut command)?;
    wait::until_true("the client to connect", LIMIT, || {
        gateway.status().workers.iter().any(|worker| worker.connections > 0)
    });
    replace_everybody(&gateway, || {});
    let moved = gateway.status().handed_over;
    drop(client.stdin.take());
    let output = client.wait_with_output().expect("the child is ours");
    let seen: Seen = serde_json::from_slice(&output.stdout).expect("a report");
    note!("{program}: {} requests, {} connection(s), {moved} moves", seen.requests, seen.connects);
    assert!(seen.requests > 100 && moved > 0, "{seen:?}");
    assert_eq!((seen.connects, seen.errors), (1, Vec::new()));
    gateway.stop();
    Ok(())
}

/// nginx closes and opens its connections to the gateway as it likes: what it logs is what it saw.
fn nginx() -> Verdict {
    let gateway = gateway();
    let directory = gateway.setup.directory().join("nginx");
    fs::create_dir_all(&directory).expect("the test's directory is writable");
    let port = free_port();
    let config = directory.join("nginx.conf");
    fs::write(&config, config_text(&directory, port, &gateway)).expect("the test's directory is writable");
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&config).arg("-e").arg(directory.join("error.log"));
    command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
    let mut nginx = start(&mut command)?;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    wait::until_true("nginx to listen", LIMIT, || Connection::open(address, EXCHANGE_LIMIT).is_ok());
    let mut client = Connection::open(address, EXCHANGE_LIMIT).expect("a connection");
    let mut asked = 0;
    let mut ask = || {
        let answer = client.exchange(&Request::new("GET", "/version")).expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.text());
        asked += 1;
    };
    (0..10).for_each(|_| ask());
    let before = gateway.status();
    replace_everybody(&gateway, &mut ask);
    let after = gateway.status();
    note!("nginx: {asked} requests, {} moves", after.handed_over);
    assert!(after.handed_over >= before.handed_over + RECYCLES as u64 / 2);
    assert_eq!(after.accepted, before.accepted, "nginx has not connected again");
    assert!(process::signal(nginx.id(), Signal::SIGTERM), "nginx is there");
    nginx.wait().expect("the child is ours");
    let errors = fs::read_to_string(directory.join("error.log")).expect("nginx writes it");
    assert_eq!(errors, "");
    gateway.stop();
    Ok(())
}

fn config_text(directory: &Path, port: u16, gateway: &Gateway) -> String {
    let directory = directory.display();
    format!(
        "daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log warn;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    upstream gateway {{ server {}; keepalive 4; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:{port};
        keepalive_requests 1000000;
        location / {{ proxy_pass http://gateway; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $proxy_host; }}
    }}
}}
",
        gateway.address
    )
}
