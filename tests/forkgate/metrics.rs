//! Metrics: the page, its rules, its dashboard and its documentation say the same; and its counters add up to what clients
//! counted, exactly, while workers are killed and recycled.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, RwLock};
use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, START_LIMIT, Setup};
use forkgate_tests::http::{self, Answer, Connection, Failure, Request};
use forkgate_tests::mcp::{self, Endpoint};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::{Test, current_test};
use forkgate_tests::skip::{self, Verdict};
use forkgate_tests::{note, paths, wait};
use serde_json::{Value, json};

pub const TESTS: &[Test] = &[
    Test {
        name: "metrics_rules_dashboard_and_documentation_agree",
        limit: Duration::from_secs(60),
        run: all_agree,
    },
    Test { name: "metrics_add_up_over_100_kills_and_recycles", limit: Duration::from_secs(120), run: add_up },
];

/// Workers, all of which are recycled in a round.
const WORKERS: u64 = 4;
/// Rounds, and in how many of them a worker is killed too: a slot whose worker dies again and again is started ever later.
const ROUNDS: u64 = 21;
const KILLS: u64 = 16;
/// Clients, each with its own connection.
const CLIENTS: u64 = 3;

/// What ends the name of a histogram's series.
const SUFFIXES: [&str; 3] = ["_bucket", "_sum", "_count"];

/// A page of metrics.
struct Page {
    text: String,
    /// By name and labels, as they stand there.
    samples: BTreeMap<String, f64>,
    /// Name → `counter`, `gauge` or `histogram`.
    types: BTreeMap<String, String>,
}

impl Page {
    fn read(peer: std::net::SocketAddr) -> Result<Page, Failure> {
        let answer = http::once(peer, &Request::new("GET", "/metrics"), EXCHANGE_LIMIT)?;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        Ok(Page::parse(answer.text()))
    }

    fn parse(text: String) -> Page {
        let mut page = Page { samples: BTreeMap::new(), types: BTreeMap::new(), text };
        for line in page.text.lines() {
            if let Some(about) = line.strip_prefix("# TYPE ") {
                let (name, kind) = about.split_once(' ').expect("a type line has a name and a type");
                page.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
                let value = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
                assert!(page.samples.insert(series.to_owned(), value).is_none(), "twice: {series}");
            }
        }
        page
    }

    /// The sum of a metric's series.
    fn sum(&self, name: &str) -> f64 {
        let of = |series: &str| series.split('{').next() == Some(name);
        self.samples.iter().filter(|(series, _)| of(series)).map(|(_, value)| value).sum()
    }

    fn value(&self, series: &str) -> f64 {
        self.samples.get(series).copied().unwrap_or(0.0)
    }

    /// True for a number that may only grow.
    fn only_grows(&self, series: &str) -> bool {
        let name = series.split('{').next().unwrap_or_default();
        let is = |name: &str, kind| self.types.get(name).is_some_and(|known| known == kind);
        is(name, "counter")
            || SUFFIXES.iter().filter_map(|end| name.strip_suffix(end)).any(|name| is(name, "histogram"))
    }

    /// Nothing that may only grow is smaller than before, or gone.
    fn assert_follows(&self, before: &Page) {
        for (series, value) in before.samples.iter().filter(|(series, _)| before.only_grows(series)) {
            let now = self.samples.get(series);
            assert!(now.is_some_and(|now| now >= value), "{series} was {value} and is {now:?}");
        }
    }
}

/// Every metric that a text names.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("forkgate_")).map(str::to_owned).collect()
}

fn monitoring(file: &str) -> PathBuf {
    paths::root().join("docs/monitoring").join(file)
}

fn read(file: &str) -> String {
    std::fs::read_to_string(monitoring(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Runs promtool where the rules are; it must say that all is well.
fn promtool(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(monitoring("")).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("promtool starts");
    // It may end without having read everything: its verdict says why.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {}\n{said}", output.status);
    said
}

fn all_agree() -> Verdict {
    skip::promtool()?;
    let gateway = Setup::new().start();
    let _upstream = gateway.with_fast_upstream();
    let counts = Mutex::default();
    let client = Client { gateway: gateway.address, endpoint: gateway.federated(), counts: &counts };
    client.turn(1).unwrap_or_else(|failure| panic!("{failure}"));
    let page = Page::read(gateway.admin).expect("a page");
    let complaints = promtool(&["check", "metrics"], &page.text);
    assert_eq!(complaints, "", "promtool check metrics");

    promtool(&["check", "rules", "alerts.yml"], "");
    promtool(&["test", "rules", "alerts.test.yml"], "");
    let known = |name: &String| {
        page.types.contains_key(name)
            || SUFFIXES
                .iter()
                .filter_map(|end| name.strip_suffix(end))
                .any(|name| page.types.contains_key(name))
    };
    for file in ["alerts.yml", "alerts.test.yml", "forkgate-dashboard.json", "README.md"] {
        let unknown: Vec<String> = names(&read(file)).into_iter().filter(|name| !known(name)).collect();
        assert!(unknown.is_empty(), "{file} names what is not there: {unknown:?}");
    }
    let told = names(&read("README.md"));
    let untold: Vec<&String> = page.types.keys().filter(|name| !told.contains(*name)).collect();
    assert!(untold.is_empty(), "README.md does not tell of {untold:?}");

    let dashboard: Value = serde_json::from_str(&read("forkgate-dashboard.json")).expect("JSON");
    let expressions = expressions(&dashboard);
    let rules: Vec<Value> = expressions
        .iter()
        .enumerate()
        .map(|(index, expr)| json!({"record": format!("panel:{index}"), "expr": expr}))
        .collect();
    // JSON is YAML.
    let rules = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    let file = paths::of_test(&current_test()).join("dashboard.yml");
    std::fs::write(&file, rules.to_string()).expect("the test's directory is writable");
    promtool(&["check", "rules", &file.display().to_string()], "");
    note!("{} metrics, {} expressions of the dashboard", page.types.len(), expressions.len());
    gateway.stop();
    Ok(())
}

/// Every expression of a dashboard, with its variables filled in.
fn expressions(dashboard: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![dashboard];
    while let Some(value) = todo.pop() {
        match value {
            Value::Object(members) => {
                let expr = members.get("expr").and_then(Value::as_str);
                found.extend(expr.map(|e| e.replace("$__rate_interval", "5m").replace("$instance", ".*")));
                todo.extend(members.values());
            }
            Value::Array(items) => todo.extend(items),
            _ => {}
        }
    }
    assert!(found.len() > 20, "the dashboard's expressions are found");
    found
}

/// A client that knows what each of its requests is to be counted as.
struct Client<'a> {
    gateway: std::net::SocketAddr,
    endpoint: Endpoint,
    /// By the labels of `forkgate_requests_total`.
    counts: &'a Mutex<BTreeMap<[&'static str; 3], u64>>,
}

impl Client<'_> {
    fn did(&self, era: &'static str, method: &'static str, outcome: &'static str) {
        let mut counts = self.counts.lock().expect("no client panics with the lock");
        *counts.entry([era, method, outcome]).or_default() += 1;
    }

    /// One request of each kind. A connection that the gateway is about to close is replaced by a new one.
    fn turn(&self, id: u64) -> Result<(), Failure> {
        let mut connection = Connection::open(self.gateway, EXCHANGE_LIMIT)?;
        let mut exchange = |request: &Request| -> Result<Answer, Failure> {
            if connection.close_announced {
                connection = Connection::open(self.gateway, EXCHANGE_LIMIT)?;
            }
            connection.exchange(request)
        };
        let message = json!({"message": "m"});
        let hello = exchange(&self.endpoint.initialize())?;
        self.did("legacy", "initialize", "ok");
        let session = hello.head.header("mcp-session-id").expect("a session").to_owned();
        exchange(&self.endpoint.initialized(&session))?;
        self.did("legacy", "notification", "ok");
        mcp::tool_text(&exchange(&self.endpoint.legacy_call(&session, id, "fast__echo", &message))?, id)?;
        self.did("legacy", "tools/call", "ok");
        mcp::tool_text(&exchange(&self.endpoint.call(id, "fast__echo", &message))?, id)?;
        self.did("modern", "tools/call", "ok");
        exchange(&self.endpoint.modern(id, "tools/list", None, "", ""))?;
        self.did("modern", "tools/list", "ok");
        exchange(&self.endpoint.legacy_call(&session, id, "nobody", &message))?;
        self.did("legacy", "tools/call", "rpc_error");
        let stranger = Endpoint { token: "nonsense".to_owned(), ..self.endpoint.clone() };
        assert_eq!(exchange(&stranger.call(id, "fast__echo", &message))?.status(), 401);
        self.did("modern", "other", "refused");
        exchange(&Request::new("GET", "/health"))?;
        assert_eq!(exchange(&self.endpoint.delete(&session))?.status(), 200);
        self.did("legacy", "end_session", "ok");
        Ok(())
    }
}

/// Kills come between requests, recycles at any moment: so clients lose nothing, and know what must have been counted.
fn add_up() -> Verdict {
    let gateway = Setup::new()
        .workers(WORKERS as usize)
        .set("GATEWAY_RECYCLE_MIN_INTERVAL", "0.05")
        .set("GATEWAY_CRASH_BUDGET", "1000")
        .start();
    let _upstream = gateway.with_fast_upstream();
    let before = Page::read(gateway.admin).expect("a page");
    let requests_before = gateway.status().requests;
    let (counts, quiet, over) = (Mutex::default(), RwLock::new(()), AtomicBool::new(false));
    let (turns, pages) = (AtomicU64::new(0), AtomicU64::new(0));
    let (address, admin, endpoint) = (gateway.address, gateway.admin, gateway.federated());
    std::thread::scope(|scope| {
        scope.spawn(|| pages.store(scrape(admin, &over), Relaxed));
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let client = Client { gateway: address, endpoint: endpoint.clone(), counts: &counts };
                while !over.load(Relaxed) {
                    let _no_kill_now = quiet.read().expect("no client panics");
                    client
                        .turn(turns.fetch_add(1, Relaxed) + 1)
                        .unwrap_or_else(|failure| panic!("{failure}"));
                }
            });
        }
        let ended =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| trouble(&gateway, &quiet, &turns)));
        over.store(true, Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let after = Page::read(gateway.admin).expect("a page");
    after.assert_follows(&before);
    let status = gateway.status();
    note!(
        "{} kills and {} recycles, {} turns of clients, {} pages",
        status.crashes,
        status.recycles.operator,
        turns.load(Relaxed),
        pages.load(Relaxed)
    );
    assert!(status.crashes + status.recycles.operator >= 100, "{status:?}");
    assert!(pages.load(Relaxed) >= 100, "{} pages", pages.load(Relaxed));
    let counts = counts.into_inner().expect("no client panicked");
    let grew = |series: &str| after.value(series) - before.value(series);
    for ([era, method, outcome], count) in &counts {
        let series =
            format!("forkgate_requests_total{{era=\"{era}\",method=\"{method}\",outcome=\"{outcome}\"}}");
        assert_eq!(grew(&series), *count as f64, "{series}");
    }
    let all: u64 = counts.values().sum();
    let grown = |name: &str| after.sum(name) - before.sum(name);
    assert_eq!(grown("forkgate_requests_total"), all as f64, "nothing else was counted");
    assert_eq!(status.requests - requests_before, all, "nor by the rows' own total");
    let calls = turns.load(Relaxed) * 2;
    assert_eq!(grown("forkgate_upstream_calls_total"), calls as f64);
    assert_eq!(grew("forkgate_upstream_calls_total{upstream=\"fast\",outcome=\"ok\"}"), calls as f64);
    assert_eq!(grew("forkgate_upstream_seconds_count{upstream=\"fast\"}"), calls as f64);
    assert_eq!(grew("forkgate_request_own_seconds_count"), all as f64);
    assert_eq!(after.sum("forkgate_requests_in_flight"), 0.0);
    gateway.stop();
    Ok(())
}

/// Reads page after page; how many there were. A page whose worker was killed is no page.
fn scrape(admin: std::net::SocketAddr, over: &AtomicBool) -> u64 {
    let (mut pages, mut last) = (0, None::<Page>);
    while !over.load(Relaxed) {
        let Ok(page) = Page::read(admin) else { continue };
        if let Some(last) = &last {
            page.assert_follows(last);
        }
        (pages, last) = (pages + 1, Some(page));
    }
    pages
}

/// Kills workers between two requests, and has all of them replaced while requests come and go.
fn trouble(gateway: &Gateway, quiet: &RwLock<()>, turns: &AtomicU64) {
    for round in 0..ROUNDS {
        if round < KILLS {
            let _no_requests_now = quiet.write().expect("no client panics");
            let victims: Vec<u32> = gateway.status().serving().map(|worker| worker.pid).collect();
            let victim = victims[round as usize % victims.len()];
            process::signal(victim, Signal::SIGKILL);
            wait::until_true("the worker to be dead", START_LIMIT, || !process::alive(victim));
        }
        wait::until_true("the crash to be noticed and mended", START_LIMIT, || {
            let status = gateway.status();
            status.crashes == KILLS.min(round + 1) && status.is_settled()
        });
        let wanted = gateway.status().recycles.operator + WORKERS;
        for worker in gateway.status().serving() {
            process::signal(worker.pid, Signal::SIGTERM);
        }
        wait::until_true("all workers to be replaced", START_LIMIT, || {
            let status = gateway.status();
            status.recycles.operator >= wanted && status.is_settled()
        });
        let seen = turns.load(Relaxed);
        wait::until_true("clients to be served meanwhile", START_LIMIT, || turns.load(Relaxed) > seen);
    }
}
