//! Real clients through two workers to real upstreams: list, call, resources, prompts, progress.

use std::time::Duration;

use forkgate_tests::clients::Client;
use forkgate_tests::gateway::{Gateway, Setup};
use forkgate_tests::note;
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::upstream::Upstream;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(120);

pub const TESTS: &[Test] = &[
    Test { name: "clients_py2_auto", limit: LIMIT, run: || every_upstream(Client::Python2Auto) },
    Test { name: "clients_py2_legacy", limit: LIMIT, run: || every_upstream(Client::Python2Legacy) },
    Test { name: "clients_py2_modern", limit: LIMIT, run: || every_upstream(Client::Python2Modern) },
    Test { name: "clients_py1", limit: LIMIT, run: || every_upstream(Client::Python1) },
    Test { name: "clients_ts", limit: LIMIT, run: || every_upstream(Client::TypeScript) },
];

/// Connections per client and endpoint: enough that two workers both serve some of them (one of them never: 2^-7).
const ROUNDS: usize = 8;

fn every_upstream(client: Client) -> Verdict {
    let (python, everything) = (Upstream::python()?, Upstream::everything()?);
    let gateway = Setup::new().start();
    gateway.register("py", &python.url());
    gateway.register("every", &everything.url());
    gateway.wait_for_tool("every__echo");
    gateway.wait_for_tool("py__echo");

    let federated = client.run(&gateway.url("/mcp"), gateway.token(), ROUNDS, &python_steps("py__"))?;
    federated.iter().for_each(|seen| check_federated(client, seen));
    let direct = client.run(&gateway.url("/upstreams/py/mcp"), gateway.token(), 2, &python_steps(""))?;
    direct.iter().for_each(|seen| check_python(client, seen, ""));
    let other = client.run(&gateway.url("/upstreams/every/mcp"), gateway.token(), 2, &everything_steps())?;
    other.iter().for_each(check_everything);

    let served = both_workers_served(&gateway);
    note!("{client:?}: {} sessions or connections, requests by worker {served:?}", ROUNDS + 4);
    gateway.stop();
    Ok(())
}

fn both_workers_served(gateway: &Gateway) -> Vec<u64> {
    let requests: Vec<u64> = gateway.status().workers.iter().map(|worker| worker.requests).collect();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|&count| count > 0), "both workers serve: {requests:?}");
    requests
}

fn python_steps(prefix: &str) -> Value {
    json!([
        {"call": format!("{prefix}echo"), "arguments": {"message": "héllo \u{2028} 😀"}},
        {"call": format!("{prefix}add"), "arguments": {"a": 2, "b": 40}},
        {"call": format!("{prefix}progress"), "arguments": {"steps": 4}, "progress": true},
        {"call": format!("{prefix}odd"), "arguments": {"n": 9007199254740991i64}, "meta": {"com.example/seen": {"a": [1]}}},
        {"call": format!("{prefix}structured"), "arguments": {"city": "Bern"}},
        {"call": format!("{prefix}fail")},
        {"call": format!("{prefix}filler-27")},
        {"read": "note://greeting"},
        {"read": "note://blob"},
        {"read": "note://by-name/ada"},
        {"prompt": format!("{prefix}greet"), "arguments": {"who": "Ada"}},
    ])
}

fn names(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().filter_map(Value::as_str).collect()
}

fn check_federated(client: Client, seen: &Value) {
    check_python(client, seen, "py__");
    assert!(
        names(&seen["tools"]).contains(&"every__get-sum"),
        "both upstreams are listed: {}",
        seen["tools"]
    );
    assert!(names(&seen["prompts"]).contains(&"every__simple-prompt"), "{}", seen["prompts"]);
}

fn check_python(client: Client, seen: &Value, prefix: &str) {
    let tools = names(&seen["tools"]);
    let own = tools.iter().filter(|name| name.starts_with(prefix) && !name.starts_with("every__")).count();
    assert_eq!(own, 35, "tools of all four pages: {tools:?}");
    let resources = names(&seen["resources"]);
    assert_eq!(resources.iter().filter(|uri| uri.starts_with("note://")).count(), 13, "{resources:?}");
    assert!(names(&seen["templates"]).contains(&"note://by-name/{name}"), "{}", seen["templates"]);
    assert!(names(&seen["prompts"]).contains(&format!("{prefix}greet").as_str()), "{}", seen["prompts"]);
    if client.is_legacy() {
        assert_eq!(seen["protocol"], "2025-11-25");
        assert_eq!(seen["ping"], true);
    } else {
        assert_eq!(seen["protocol"], "2026-07-28");
    }
    let steps = seen["steps"].as_array().expect("a list");
    let text = |step: usize| steps[step]["result"]["content"][0]["text"].as_str().unwrap_or_default();
    assert_eq!(text(0), "héllo \u{2028} 😀");
    assert_eq!(text(1), "42");
    assert_eq!(text(2), "did 4");
    assert_eq!(steps[2]["progress"].as_array().map(Vec::len), Some(4), "{}", steps[2]);
    assert_eq!(steps[2]["progress"][3][2], "step 4");
    assert_eq!(
        steps[3]["result"]["_meta"]["com.example/odd"]["vendor"],
        json!({"com.example/unknown": [null, true, {"": []}]})
    );
    assert_eq!(
        steps[3]["result"]["_meta"]["com.example/seen"],
        json!({"com.example/seen": {"a": [1]}}),
        "{}",
        steps[3]
    );
    if client != Client::TypeScript {
        // JavaScript itself loses digits of such numbers.
        let big = steps[3]["result"]["structuredContent"]["big"].to_string();
        assert!(big.starts_with("1234567890123456789") || big.starts_with("1.23456789012345"), "{big}");
    }
    assert_eq!(steps[4]["result"]["structuredContent"], json!({"city": "Bern", "celsius": 21.5}));
    assert_eq!(steps[5]["result"]["isError"], true);
    assert_eq!(text(6), "filler-27");
    assert_eq!(steps[7]["result"]["contents"][0]["text"], "text of note://greeting");
    assert_eq!(steps[8]["result"]["contents"][0]["blob"], "AAEC/w==");
    assert_eq!(steps[9]["result"]["contents"][0]["text"], "ada", "a template");
    assert_eq!(steps[10]["result"]["messages"][0]["content"]["text"], "Hello, Ada!");
}

fn everything_steps() -> Value {
    json!([
        {"call": "echo", "arguments": {"message": "hi"}},
        {"call": "get-sum", "arguments": {"a": 2, "b": 3}},
        {"call": "trigger-long-running-operation", "arguments": {"duration": 1, "steps": 3}, "progress": true},
        {"call": "get-structured-content", "arguments": {"location": "New York"}},
        {"call": "get-tiny-image"},
        {"prompt": "args-prompt", "arguments": {"city": "Bern"}},
        {"read": "demo://resource/dynamic/text/1"},
    ])
}

fn check_everything(seen: &Value) {
    assert!(names(&seen["tools"]).contains(&"echo"), "{}", seen["tools"]);
    let steps = seen["steps"].as_array().expect("a list");
    assert_eq!(steps[0]["result"]["content"][0]["text"], "Echo: hi");
    assert!(
        steps[1]["result"]["content"][0]["text"].as_str().is_some_and(|text| text.contains('5')),
        "{}",
        steps[1]
    );
    assert_eq!(steps[2]["progress"].as_array().map(Vec::len), Some(3), "{}", steps[2]);
    assert!(steps[3]["result"]["structuredContent"]["temperature"].is_number(), "{}", steps[3]);
    let image =
        steps[4]["result"]["content"].as_array().expect("a list").iter().any(|part| part["type"] == "image");
    assert!(image, "{}", steps[4]);
    assert!(
        steps[5]["result"]["messages"][0]["content"]["text"]
            .as_str()
            .is_some_and(|text| text.contains("Bern"))
    );
    assert_eq!(steps[6]["result"]["contents"][0]["uri"], "demo://resource/dynamic/text/1");
}
