//! The registry API: create, read, delete, live on every worker within 100 ms; and life without the database.

use std::time::{Duration, Instant};

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, Setup};
use forkgate_tests::mcp::{self, Endpoint};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::upstream::{Upstream, free_port};
use forkgate_tests::{note, wait};
use serde_json::{Value, json};

pub const TESTS: &[Test] = &[
    Test { name: "registry_creates_reads_and_deletes", limit: Duration::from_secs(60), run: crud },
    Test { name: "registry_serves_virtual_servers", limit: Duration::from_secs(60), run: virtual_servers },
    Test { name: "registry_refuses_what_it_cannot_read", limit: Duration::from_secs(60), run: refusals },
    Test { name: "registry_masks_query_values", limit: Duration::from_secs(60), run: query_values },
    Test { name: "registry_reads_all_pages", limit: Duration::from_secs(60), run: all_pages },
    Test {
        name: "registry_changes_are_live_within_100_ms",
        limit: Duration::from_secs(90),
        run: live_at_once,
    },
    Test { name: "registry_survives_a_restart", limit: Duration::from_secs(60), run: survives_a_restart },
    Test { name: "database_away_and_mcp_goes_on", limit: Duration::from_secs(120), run: database_away },
];

/// How soon after its answer a change is live everywhere.
const LIVE_WITHIN: Duration = Duration::from_millis(100);
/// How long after a change every connection is watched.
const WATCHED: Duration = Duration::from_millis(600);

fn body(answer: &forkgate_tests::http::Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.text()))
}

fn list(gateway: &Gateway, path: &str) -> Vec<Value> {
    let answer = gateway.api("GET", path, None);
    assert_eq!(answer.status(), 200, "{path}: {}", answer.text());
    body(&answer).as_array().unwrap_or_else(|| panic!("{path} gives a list: {}", answer.text())).clone()
}

fn crud() -> Verdict {
    let gateway = Setup::new().start();
    let upstream = Upstream::fast();
    for base in ["/v1/gateways", "/gateways"] {
        assert!(list(&gateway, base).is_empty());
        let wanted = json!({"name": "My Upstream", "url": upstream.url(), "transport": "STREAMABLEHTTP", "description": "one"});
        let created = gateway.api("POST", base, Some(&wanted));
        assert!(matches!(created.status(), 200 | 201), "{}", created.text());
        let created = body(&created);
        let id = created["id"].as_str().expect("an id").to_owned();
        for (field, value) in [
            ("name", json!("My Upstream")),
            ("enabled", json!(true)),
            ("reachable", json!(true)),
            ("description", json!("one")),
        ] {
            assert_eq!(created[field], value, "{field}: {created}");
        }
        assert_eq!(created["toolCount"], 3, "{created}");
        assert_eq!(created["slug"], "my-upstream", "{created}");
        assert_eq!(body(&gateway.api("GET", &format!("{base}/{id}"), None))["id"], id.as_str());
        assert_eq!(list(&gateway, base).len(), 1);
        let again = gateway.api("POST", base, Some(&wanted));
        assert_eq!(again.status(), 409, "the name is taken: {}", again.text());

        let tools = list(&gateway, &base.replace("gateways", "tools"));
        assert_eq!(tools.len(), 3, "{tools:?}");
        let tool = tools.iter().find(|tool| tool["originalName"] == "echo").expect("echo is listed");
        let path = format!("{}/{}", base.replace("gateways", "tools"), tool["id"].as_str().expect("an id"));
        assert_eq!(body(&gateway.api("GET", &path, None))["name"], "my-upstream__echo");

        let deleted = gateway.api("DELETE", &format!("{base}/{id}"), None);
        assert!(matches!(deleted.status(), 200 | 204), "{}", deleted.text());
        assert_eq!(gateway.api("GET", &format!("{base}/{id}"), None).status(), 404);
        assert_eq!(gateway.api("DELETE", &format!("{base}/{id}"), None).status(), 404);
        assert!(list(&gateway, &base.replace("gateways", "tools")).is_empty(), "its tools are gone with it");
    }
    gateway.stop();
    Ok(())
}

fn virtual_servers() -> Verdict {
    let gateway = Setup::new().start();
    let _upstream = gateway.with_fast_upstream();
    let tools = list(&gateway, "/v1/tools");
    let echo = tools.iter().find(|tool| tool["originalName"] == "echo").expect("echo is listed");
    let wanted = json!({"server": {"name": "only-echo", "associated_tools": [echo["id"]]}});
    let created = gateway.api("POST", "/v1/servers", Some(&wanted));
    assert_eq!(created.status(), 201, "{}", created.text());
    let id = body(&created)["id"].as_str().expect("an id").to_owned();
    let endpoint = gateway.endpoint(&format!("/servers/{id}/mcp"));
    let names = wait::until("the server to be served", EXCHANGE_LIMIT, || {
        mcp::list(gateway.address, &endpoint, "tools", EXCHANGE_LIMIT).ok()
    });
    assert_eq!(names.len(), 1, "{names:?}");
    let answer = gateway.exchange(&endpoint.call(2, &names[0], &json!({"message": "through a server"})));
    assert_eq!(mcp::tool_text(&answer, 2).unwrap_or_else(|failure| panic!("{failure}")), "through a server");
    assert_eq!(list(&gateway, "/v1/servers").len(), 1);
    assert!(matches!(gateway.api("DELETE", &format!("/v1/servers/{id}"), None).status(), 200 | 204));
    let gone = || gateway.exchange(&endpoint.modern(1, "tools/list", None, "", "")).status() == 404;
    wait::until_true("the server to be gone", EXCHANGE_LIMIT, || (0..10).all(|_| gone()));
    gateway.stop();
    Ok(())
}

fn refusals() -> Verdict {
    let gateway = Setup::new().start();
    let nobody = json!({"name": "nobody", "url": format!("http://127.0.0.1:{}/mcp", free_port())});
    let answer = gateway.api("POST", "/v1/gateways", Some(&nobody));
    assert_eq!(answer.status(), 502, "{}", answer.text());
    assert!(
        answer.text().contains("refused") || answer.text().contains("connect"),
        "it says why: {}",
        answer.text()
    );
    for wrong in [
        json!({"url": "http://127.0.0.1:1/mcp"}),
        json!({"name": "x"}),
        json!({"name": "x", "url": "ftp://x/"}),
    ] {
        let answer = gateway.api("POST", "/v1/gateways", Some(&wrong));
        assert_eq!(answer.status(), 422, "{wrong}: {}", answer.text());
    }
    assert!(list(&gateway, "/v1/gateways").is_empty(), "nothing was registered");
    gateway.stop();
    let strict = Setup::new().set("SSRF_ALLOW_LOCALHOST", "false").start();
    let upstream = Upstream::fast();
    let answer = strict.api("POST", "/v1/gateways", Some(&json!({"name": "local", "url": upstream.url()})));
    assert_eq!(answer.status(), 422, "loopback is off by default: {}", answer.text());
    assert!(answer.text().contains("SSRF_ALLOW_LOCALHOST"), "it says what to set: {}", answer.text());
    strict.stop();
    Ok(())
}

/// Every token holder may read the registry, nobody may read a key in it; calls go on with the key.
fn query_values() -> Verdict {
    let gateway = Setup::new().start();
    let upstream = Upstream::fast();
    let url = format!("{}?api_key=s3cret-value", upstream.url());
    gateway.register("keyed", &url);
    gateway.wait_for_tool("keyed__echo");
    let dead = format!("http://127.0.0.1:{}/mcp?api_key=s3cret-value", free_port());
    let refused = gateway.api("POST", "/v1/gateways", Some(&json!({"name": "dead", "url": dead})));
    assert_eq!(refused.status(), 502);
    for answer in [
        gateway.api("GET", "/v1/gateways", None),
        gateway.api("GET", "/v1/tools", None),
        gateway.api("POST", "/v1/gateways", Some(&json!({"name": "keyed", "url": url}))),
        refused,
    ] {
        assert!(!answer.text().contains("s3cret-value"), "{}", answer.text());
    }
    assert!(gateway.api("GET", "/v1/gateways", None).text().contains("?api_key=*****"));
    let log = gateway.log_text();
    assert!(!log.contains("s3cret-value"), "{log}");
    let answer = gateway.exchange(&gateway.federated().call(1, "keyed__echo", &json!({"message": "x"})));
    assert_eq!(mcp::tool_text(&answer, 1).unwrap_or_else(|failure| panic!("{failure}")), "x");
    gateway.stop();
    Ok(())
}

fn all_pages() -> Verdict {
    let upstream = Upstream::python()?;
    let gateway = Setup::new().start();
    gateway.register("py", &upstream.url());
    gateway.wait_for_tool("py__filler-27");
    let endpoint = gateway.federated();
    let count =
        |kind: &str| mcp::list(gateway.address, &endpoint, kind, EXCHANGE_LIMIT).expect("a list").len();
    assert_eq!((count("tools"), count("resources"), count("prompts")), (35, 13, 2));
    assert_eq!(list(&gateway, "/v1/tools").len(), 35);
    gateway.stop();
    Ok(())
}

/// Asks over connection after connection from the moment of the change; when the last one saw the old state was sent.
fn last_stale(
    gateway: &Gateway,
    endpoint: &Endpoint,
    tool: &str,
    listed: bool,
    changed: Instant,
) -> Duration {
    let mut last = Duration::ZERO;
    while changed.elapsed() < WATCHED {
        let sent = changed.elapsed();
        let names = mcp::list(gateway.address, endpoint, "tools", EXCHANGE_LIMIT).expect("a list");
        if names.iter().any(|name| name == tool) != listed {
            last = sent;
        }
    }
    last
}

fn live_at_once() -> Verdict {
    let gateway = Setup::new().workers(4).start();
    let upstream = Upstream::fast();
    let endpoint = gateway.federated();
    gateway.token();
    let mut worst = Duration::ZERO;
    for round in 0..4 {
        let name = format!("round{round}");
        let tool = format!("{name}__echo");
        let id = gateway.register(&name, &upstream.url());
        worst = worst.max(last_stale(&gateway, &endpoint, &tool, true, Instant::now()));
        gateway.api("DELETE", &format!("/v1/gateways/{id}"), None);
        worst = worst.max(last_stale(&gateway, &endpoint, &tool, false, Instant::now()));
    }
    note!(
        "eight changes, four workers: the last stale answer was asked for {worst:?} after the change was confirmed"
    );
    assert!(worst <= LIVE_WITHIN, "{worst:?} after its confirmation a change was not everywhere");
    gateway.stop();
    Ok(())
}

fn survives_a_restart() -> Verdict {
    let gateway = Setup::new().start();
    let _upstream = gateway.with_fast_upstream();
    let setup = gateway.setup.clone();
    gateway.stop();
    let gateway = setup.start();
    let answer =
        gateway.exchange(&gateway.federated().call(1, "fast__echo", &json!({"message": "still here"})));
    assert_eq!(mcp::tool_text(&answer, 1).unwrap_or_else(|failure| panic!("{failure}")), "still here");
    gateway.stop();
    Ok(())
}

/// The database's directory goes away (a lost mount): MCP goes on, workers can be replaced, administration says why it
/// cannot, and comes back with the database.
fn database_away() -> Verdict {
    let setup = Setup::new();
    let (there, away) = (setup.directory().join("database"), setup.directory().join("database.away"));
    std::fs::create_dir_all(&there).expect("the test's directory is writable");
    let gateway = setup.set("DATABASE_URL", format!("sqlite:///{}/forkgate.db", there.display())).start();
    let _upstream = gateway.with_fast_upstream();
    let call = || {
        let answer = gateway.exchange(&gateway.federated().call(1, "fast__echo", &json!({"message": "x"})));
        mcp::tool_text(&answer, 1).unwrap_or_else(|failure| panic!("{failure}"))
    };
    assert!(there.join("forkgate.db").exists(), "the database is where it was told to be");
    std::fs::rename(&there, &away).expect("renamed");
    assert_eq!(call(), "x");
    let killed = gateway.status().workers[0].pid;
    process::signal(killed, Signal::SIGKILL);
    wait::until_true("a replacement without the database", EXCHANGE_LIMIT, || {
        let status = gateway.status();
        status.is_settled() && status.workers.iter().all(|worker| worker.pid != killed)
    });
    gateway.reload();
    for _ in 0..20 {
        assert_eq!(call(), "x", "workers that started without the database serve");
    }
    let answer =
        gateway.api("POST", "/v1/gateways", Some(&json!({"name": "y", "url": "http://127.0.0.1:1/mcp"})));
    assert!((500..600).contains(&answer.status()), "{} {}", answer.status(), answer.text());
    let answer = gateway.api("GET", "/v1/gateways", None);
    assert_eq!(answer.status(), 503, "{}", answer.text());
    assert!(answer.text().contains("database"), "it says why: {}", answer.text());
    std::fs::rename(&away, &there).expect("renamed");
    wait::until_equal("administration", EXCHANGE_LIMIT, 200, || {
        gateway.api("GET", "/v1/gateways", None).status()
    });
    assert_eq!(gateway.status().crashes, 1, "only the killed one");
    gateway.stop();
    Ok(())
}
