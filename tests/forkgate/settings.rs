//! Settings: every bad value and misspelt name is one clear line and exit code 4; ContextForge's env file starts.

use std::process::Output;
use std::time::Duration;

use forkgate_tests::gateway::Setup;
use forkgate_tests::http::Connection;
use forkgate_tests::mcp::{self, Endpoint};
use forkgate_tests::process;
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::upstream::free_port;
use forkgate_tests::{gateway, note, paths, token};

pub const TESTS: &[Test] = &[
    Test {
        name: "settings_bad_values_are_refused",
        limit: Duration::from_secs(60),
        run: bad_values_are_refused,
    },
    Test {
        name: "settings_misspelt_names_are_refused",
        limit: Duration::from_secs(30),
        run: misspelt_names_are_refused,
    },
    Test {
        name: "settings_missing_or_weak_secret_is_refused",
        limit: Duration::from_secs(30),
        run: missing_or_weak_secret_is_refused,
    },
    Test {
        name: "settings_kubernetes_names_are_ignored",
        limit: Duration::from_secs(30),
        run: kubernetes_names_are_ignored,
    },
    Test {
        name: "settings_contextforge_env_starts",
        limit: Duration::from_secs(60),
        run: contextforge_env_starts,
    },
    Test {
        name: "settings_check_prints_origins_and_touches_nothing",
        limit: Duration::from_secs(30),
        run: check_prints_origins_and_touches_nothing,
    },
];

/// Name and a value that cannot be meant.
const BAD_VALUES: &[(&str, &str)] = &[
    ("GATEWAY_BIND", "nowhere"),
    ("GATEWAY_BIND", "127.0.0.1:70000"),
    ("GATEWAY_ADMIN_BIND", "127.0.0.1"),
    ("GATEWAY_WORKERS", "0"),
    ("GATEWAY_WORKERS", "-1"),
    ("GATEWAY_WORKERS", "two"),
    ("GATEWAY_WORKERS", "1000000"),
    ("GATEWAY_BACKLOG", "0"),
    ("GATEWAY_BACKLOG", "many"),
    ("DATABASE_URL", "mysql://localhost/x"),
    ("DATABASE_URL", "nonsense"),
    ("GATEWAY_MAX_REQUESTS", "-5"),
    ("GATEWAY_MAX_REQUESTS", "1e6x"),
    ("GATEWAY_MAX_REQUESTS_JITTER", "some"),
    ("GATEWAY_MAX_RSS", "lots"),
    ("GATEWAY_MAX_RSS", "-1"),
    ("GATEWAY_MEMORY_SAMPLE_INTERVAL", "0"),
    ("GATEWAY_MEMORY_SAMPLE_INTERVAL", "soon"),
    ("GATEWAY_WORKER_LIFETIME", "1 fortnight"),
    ("GATEWAY_RECYCLE_MIN_INTERVAL", "-2"),
    ("GATEWAY_USER", "nobody-is-called-that"),
    ("GATEWAY_UMASK", "888"),
    ("GATEWAY_PIDFILE", "/no/such/directory/pid"),
    ("GATEWAY_CPU_AFFINITY", "999999"),
    ("GATEWAY_HOOK_ON_READY", "sh -c true"),
    ("GATEWAY_HOOK_ON_RELOAD", "/no/such/program"),
    ("GATEWAY_HOOK_WORKER_EXIT", "/bin/sh 'open"),
    ("GATEWAY_BOOT_TIMEOUT", "0"),
    ("GATEWAY_BOOT_TIMEOUT", "abc"),
    ("GATEWAY_GRACEFUL_TIMEOUT", "abc"),
    ("GATEWAY_ORPHAN_TIMEOUT", "abc"),
    ("GATEWAY_KEEPALIVE_GRACE", "abc"),
    ("GATEWAY_AUTH_REQUIRED", "perhaps"),
    ("GATEWAY_SESSION_KEYS", "short"),
    ("GATEWAY_ALLOWED_HOSTS", "http://host/path"),
    ("SSRF_ALLOW_LOCALHOST", "2"),
    ("SSRF_ALLOW_PRIVATE_NETWORKS", "maybe"),
    ("GATEWAY_TOOL_NAME_SEPARATOR", "/"),
    ("GATEWAY_LOG", "xml"),
    ("GATEWAY_LOG_LEVEL", "shouting"),
    ("GATEWAY_TOOL_TIMEOUT", "0"),
    ("GATEWAY_TOOL_TIMEOUT", "abc"),
    ("GATEWAY_CONNECT_TIMEOUT", "abc"),
    ("GATEWAY_HEADER_TIMEOUT", "abc"),
    ("GATEWAY_MAX_BODY", "0"),
    ("GATEWAY_MAX_BODY", "big"),
    ("GATEWAY_MAX_ANSWER", "big"),
    ("SSE_KEEPALIVE_INTERVAL", "abc"),
    ("SSE_SEND_TIMEOUT", "abc"),
];

/// A misspelt name and the one that a suggestion should name.
const MISSPELT: &[(&str, &str)] = &[
    ("GATEWAY_WORKER", "GATEWAY_WORKERS"),
    ("GATEWAY_MAX_REQUEST", "GATEWAY_MAX_REQUESTS"),
    ("GATEWAY_MAX_REQUESTS_JITER", "GATEWAY_MAX_REQUESTS_JITTER"),
    ("GATEWAY_GRACEFULL_TIMEOUT", "GATEWAY_GRACEFUL_TIMEOUT"),
    ("GATEWAY_JWT_SECRETS", "GATEWAY_JWT_SECRET"),
    ("GATEWAY_STATEDIR", "GATEWAY_STATE_DIR"),
];

fn run(setup: &Setup, words: &[&str]) -> Output {
    std::fs::write(setup.env_file(), setup.env_text()).expect("the test's directory is writable");
    let mut command = setup.bare_command();
    command.args(words).arg("--env-file").arg(setup.env_file()).output().expect("the binary starts")
}

fn error_lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
}

/// The names in a line.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

/// Exit code 4 and exactly one line with `name`, from `check` and from `serve`.
#[track_caller]
fn assert_refused(setup: &Setup, what: &str, name: &str) {
    for verb in ["check", "serve"] {
        let output = run(setup, &[verb]);
        let lines = error_lines(&output);
        assert_eq!(output.status.code(), Some(4), "{verb} with {what}: {} {lines:#?}", output.status);
        let naming = lines.iter().filter(|line| line.contains(name)).count();
        assert_eq!(naming, 1, "{verb} with {what}: one line should name {name}: {lines:#?}");
        assert!(lines.len() <= 3, "{verb} with {what} says more than it has to: {lines:#?}");
    }
}

fn bad_values_are_refused() -> Verdict {
    for (name, value) in BAD_VALUES {
        let setup = Setup::new().set(name, *value);
        assert_refused(&setup, &format!("{name}={value}"), name);
    }
    let two = Setup::new().set("GATEWAY_WORKERS", "two").set("GATEWAY_MAX_BODY", "big");
    let lines = error_lines(&run(&two, &["check"]));
    for name in ["GATEWAY_WORKERS", "GATEWAY_MAX_BODY"] {
        assert!(
            lines.iter().any(|line| line.contains(name)),
            "all mistakes are said at once, {name} is not: {lines:#?}"
        );
    }
    let clash =
        Setup::new().set("GATEWAY_BIND", "127.0.0.1:20001").set("GATEWAY_ADMIN_BIND", "127.0.0.1:20001");
    let output = run(&clash, &["check"]);
    assert_eq!(output.status.code(), Some(4), "both ports the same: {:#?}", error_lines(&output));
    note!("{} bad values refused by check and by serve", BAD_VALUES.len() + 1);
    Ok(())
}

fn misspelt_names_are_refused() -> Verdict {
    for (wrong, right) in MISSPELT {
        let setup = Setup::new().set(wrong, "1");
        assert_refused(&setup, wrong, wrong);
        let lines = error_lines(&run(&setup, &["check"]));
        let suggested = lines.iter().any(|line| words(line).any(|word| word == *right));
        assert!(suggested, "{wrong}: {right} is not suggested: {lines:#?}");
    }
    Ok(())
}

fn missing_or_weak_secret_is_refused() -> Verdict {
    let missing = run(&Setup::new().unset("GATEWAY_JWT_SECRET"), &["serve"]);
    let lines = error_lines(&missing);
    assert_eq!(missing.status.code(), Some(4), "serve without a secret: {lines:#?}");
    let shows_how =
        lines.iter().any(|line| line.contains("GATEWAY_JWT_SECRET") && line.contains("openssl rand"))
            || lines.iter().any(|line| line.contains("GATEWAY_JWT_SECRET=$("));
    assert!(shows_how, "the line shows how to make a secret: {lines:#?}");
    let pipe = Setup::new().bare_command().args(["check", "--env-file", "/dev/stdin"]).output();
    let lines = error_lines(&pipe.expect("the binary starts"));
    assert!(
        lines.len() == 1 && lines[0].contains("not a regular file"),
        "a pipe is read once only: {lines:#?}"
    );
    for weak in ["short", "changeme", "my-test-key"] {
        assert_refused(&Setup::new().set("GATEWAY_JWT_SECRET", weak), weak, "GATEWAY_JWT_SECRET");
    }
    Ok(())
}

fn kubernetes_names_are_ignored() -> Verdict {
    let mut command = Setup::new().command();
    command.args(["check"]).envs([
        ("GATEWAY_PORT", "tcp://10.0.0.1:4444"),
        ("GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("GATEWAY_SERVICE_PORT", "4444"),
        ("GATEWAY_PORT_4444_TCP", "tcp://10.0.0.1:4444"),
        ("GATEWAY_PORT_4444_TCP_ADDR", "10.0.0.1"),
    ]);
    let output = command.output().expect("the binary starts");
    assert!(output.status.success(), "names that Kubernetes injects: {:#?}", error_lines(&output));
    Ok(())
}

/// The env file of a ContextForge installation, as its documentation has people write it, starts as it is.
fn contextforge_env_starts() -> Verdict {
    let setup = Setup::new();
    let port = free_port();
    let text = std::fs::read_to_string(paths::tests().join("fixtures/contextforge.env"))
        .expect("the fixture is there");
    let text = text.replace("PORT=4444", &format!("PORT={port}"));
    let env_file = setup.directory().join("contextforge.env");
    std::fs::write(&env_file, text).expect("the test's directory is writable");
    let mut command = setup.bare_command();
    command
        .args(["serve", "--env-file"])
        .arg(&env_file)
        .env("GATEWAY_STATE_DIR", setup.state_dir())
        .env("GATEWAY_ADMIN_BIND", format!("127.0.0.1:{}", free_port()))
        .env("GATEWAY_WORKERS", "2");
    let mut child = command.spawn().expect("the binary starts");
    let peer = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let secret = "contextforge-fixture-secret-0123456789abcdef0123456789";
    let endpoint =
        Endpoint { path: "/mcp".to_owned(), token: token::sign(&token::claims("admin@example.com"), secret) };
    let listed = forkgate_tests::wait::within(gateway::START_LIMIT, || {
        let ended = child.try_wait().expect("the child is ours");
        assert!(ended.is_none(), "it ended with {ended:?}");
        mcp::list(peer, &endpoint, "tools", gateway::EXCHANGE_LIMIT).ok()
    });
    process::signal(child.id(), process::Signal::SIGTERM);
    let status = child.wait().expect("the child is ours");
    assert_eq!(listed, Some(Vec::new()), "a ContextForge token lists the (no) tools");
    assert_eq!(status.code(), Some(0), "after TERM");
    Ok(())
}

fn check_prints_origins_and_touches_nothing() -> Verdict {
    let setup = Setup::new().set("GATEWAY_MAX_REQUESTS", "777");
    std::fs::write(setup.env_file(), setup.env_text()).expect("the test's directory is writable");
    let mut command = setup.bare_command();
    command.args(["check", "--print", "--env-file"]).arg(setup.env_file()).env("GATEWAY_LOG", "json");
    let output = command.output().expect("the binary starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "check --print: {:#?}", error_lines(&output));
    let line = |name: &str| text.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
    assert!(line("GATEWAY_MAX_REQUESTS").contains("777"), "the effective value: {text}");
    assert!(line("GATEWAY_MAX_REQUESTS").contains("env"), "where it came from: {text}");
    assert!(line("GATEWAY_LOG").contains("json"), "the environment's value: {text}");
    assert!(line("GATEWAY_BOOT_TIMEOUT").contains("default"), "a default says so: {text}");
    assert!(!text.contains(token::SECRET), "the secret is not shown");
    assert!(!setup.state_dir().exists(), "check has made the state directory");
    let port: Option<std::net::SocketAddr> =
        setup.env_text().lines().find_map(|line| line.strip_prefix("GATEWAY_BIND=")?.parse().ok());
    let refused = Connection::open(port.expect("an address"), Duration::from_secs(1)).is_err();
    assert!(refused, "somebody listens on the live port");
    Ok(())
}
