//! Settings as a whole: precedence, names, combinations, and that every problem is one clear line.

use std::path::PathBuf;

use super::cgroup::Machine;
use super::parse::MIB;
use super::table::{self, Reload};
use super::*;

const SECRET: &str = "5f1d0c3a9b7e62845f1d0c3a9b7e6284";
const MACHINE: Machine = Machine { cpus: 3, memory_limit: None };

fn pairs(text: &[(&str, &str)]) -> Vec<(String, String)> {
    text.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Sources with a home, a secret in the environment, and these variables.
fn environment(variables: &[(&str, &str)]) -> Sources {
    let mut process_env = pairs(&[("HOME", "/home/somebody"), ("GATEWAY_JWT_SECRET", SECRET)]);
    process_env.extend(pairs(variables));
    Sources { process_env, ..Sources::default() }
}

fn load(sources: &Sources) -> Loaded {
    load_for(sources, &MACHINE).unwrap_or_else(|errors| panic!("{errors}"))
}

fn problems(sources: &Sources) -> Vec<String> {
    match load_for(sources, &MACHINE) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.to_string().lines().map(str::to_owned).collect(),
    }
}

fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("settings");
    std::fs::write(&path, content).expect("write");
    (directory, path)
}

#[test]
fn defaults_are_the_pinned_ones() {
    let loaded = load(&environment(&[]));
    let s = &loaded.settings;
    assert_eq!(
        (s.bind.to_string(), s.admin_bind.to_string()),
        ("127.0.0.1:4444".into(), "127.0.0.1:4445".into())
    );
    assert_eq!((s.workers, s.max_requests, s.max_requests_jitter), (3, 1_000_000, 100_000));
    assert_eq!((s.max_rss, s.worker_lifetime, s.session_keys.clone()), (None, None, None));
    assert_eq!(s.recycle_min_interval, Duration::from_secs(2));
    assert_eq!(
        (s.watchdog, s.stall_timeout, s.spin_window, s.kill_interval),
        (Watchdog::Enforce, Duration::from_secs(10), Duration::from_secs(15), Duration::from_secs(30))
    );
    for timeout in [s.boot_timeout, s.graceful_timeout, s.orphan_timeout, s.tool_timeout] {
        assert_eq!(timeout, Duration::from_secs(60));
    }
    assert_eq!(s.keepalive_grace, Duration::from_secs(5));
    assert_eq!(s.state_dir, PathBuf::from("/home/somebody/.local/state/forkgate"));
    assert_eq!(s.database, s.state_dir.join("forkgate.db"));
    assert_eq!(s.allowed_hosts, ["localhost", "127.0.0.1", "[::1]"]);
    assert_eq!((s.jwt_audience.as_str(), s.jwt_issuer.as_str()), ("mcpgateway-api", "mcpgateway"));
    assert!(s.auth_required && !s.ssrf_allow_localhost && !s.ssrf_allow_private_networks);
    assert_eq!(
        (s.tool_name_separator.as_str(), s.log_format, s.log_level.as_str()),
        ("__", LogFormat::Text, "info")
    );
    assert_eq!((s.max_body, s.max_answer, s.backlog), (16 * MIB, 16 * MIB, 2048));
    assert_eq!(
        (s.sse_keepalive_interval, s.sse_send_timeout),
        (Duration::from_secs(30), Some(Duration::from_secs(30)))
    );
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

#[test]
fn what_depends_on_the_machine_or_the_address_is_worked_out() {
    let limited = Machine { cpus: 200, memory_limit: Some(1000 * MIB) };
    let s = load_for(&environment(&[]), &limited).expect("valid").settings;
    assert_eq!((s.workers, s.max_rss), (64, Some(1000 * MIB / 100 * 80 / 64)));
    let s = load_for(&environment(&[("GATEWAY_WORKERS", "4")]), &limited).expect("valid").settings;
    assert_eq!(s.max_rss, Some(1000 * MIB / 100 * 80 / 4));
    let s = load_for(&environment(&[("GATEWAY_MAX_RSS", "off")]), &limited).expect("valid").settings;
    assert_eq!(s.max_rss, None);
    let s = load(&environment(&[("GATEWAY_BIND", "0.0.0.0:80"), ("GATEWAY_MAX_REQUESTS", "50")])).settings;
    assert_eq!((s.allowed_hosts, s.max_requests_jitter), (Vec::new(), 5));
    let s = load(&environment(&[("GATEWAY_GRACEFUL_TIMEOUT", "2")])).settings;
    assert_eq!(s.keepalive_grace, Duration::from_secs(2));
    let s = load(&environment(&[("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), ("XDG_STATE_HOME", "/x")]))
        .settings;
    assert_eq!(s.state_dir, PathBuf::from("/var/lib/a"));
    let s = load(&environment(&[("XDG_STATE_HOME", "/x")])).settings;
    assert_eq!(s.state_dir, PathBuf::from("/x/forkgate"));
}

#[test]
fn flags_beat_the_env_file_beats_the_environment_beats_toml() {
    let (_keep, env_file) = file("GATEWAY_WORKERS=12\nGATEWAY_BACKLOG=12\n# c\nGATEWAY_MAX_REQUESTS=12\n");
    let (_keep_too, toml) = file("workers = 14\nbacklog = 14\nmax_requests = 14\nmax_requests_jitter = 14\n");
    let mut sources = environment(&[("GATEWAY_MAX_REQUESTS_JITTER", "13"), ("GATEWAY_BACKLOG", "13")]);
    sources.flags = pairs(&[("GATEWAY_WORKERS", "10"), ("workers", "11")]);
    sources.env_file = Some(env_file.clone());
    sources.config_file = Some(toml);
    let loaded = load(&sources);
    let s = &loaded.settings;
    assert_eq!((s.workers, s.backlog, s.max_requests, s.max_requests_jitter), (11, 12, 12, 13));
    let from = |name| loaded.origins.get(name).map(ToString::to_string).unwrap_or_default();
    assert_eq!(from("GATEWAY_WORKERS"), "flag");
    assert_eq!(from("GATEWAY_MAX_REQUESTS"), format!("env file {} line 4", env_file.display()));
    assert_eq!(from("GATEWAY_MAX_REQUESTS_JITTER"), "environment");
    assert_eq!(from("GATEWAY_MAX_RSS"), "default");
}

#[test]
fn an_own_name_beats_an_alias_of_the_same_source_but_not_of_a_stronger_one() {
    let s = load(&environment(&[("GUNICORN_WORKERS", "5"), ("GATEWAY_WORKERS", "6")])).settings;
    assert_eq!(s.workers, 6);
    let mut sources = environment(&[("GATEWAY_WORKERS", "6")]);
    sources.flags = pairs(&[("GUNICORN_WORKERS", "7")]);
    let loaded = load(&sources);
    assert_eq!(loaded.settings.workers, 7);
    assert_eq!(loaded.origins["GATEWAY_WORKERS"].to_string(), "flag, as GUNICORN_WORKERS");
    let s = load(&environment(&[
        ("GATEWAY_WORKERS", "6"),
        ("GUNICORN_WORKERS", "nonsense"),
        ("GATEWAY_BACKLOG", ""),
    ]));
    assert_eq!(
        (s.settings.workers, s.settings.backlog),
        (6, 2048),
        "an alias that does not count is not read"
    );
}

#[test]
fn host_and_port_together_make_the_address() {
    for (variables, bind) in [
        (vec![("HOST", "0.0.0.0"), ("PORT", "80")], "0.0.0.0:80"),
        (vec![("PORT", "80")], "127.0.0.1:80"),
        (vec![("HOST", "::1")], "[::1]:4444"),
        (vec![("HOST", "localhost")], "127.0.0.1:4444"),
        (vec![("HOST", "x"), ("PORT", "80"), ("GATEWAY_BIND", "127.0.0.1:1")], "127.0.0.1:1"),
    ] {
        assert_eq!(load(&environment(&variables)).settings.bind.to_string(), bind, "{variables:?}");
    }
    let found = problems(&environment(&[("HOST", "myhost"), ("PORT", "many")]));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("HOST=myhost (environment): not an IP address"), "{found:?}");
    assert!(found[1].starts_with("PORT=many (environment): not a port"), "{found:?}");
}

#[test]
fn the_log_setting_takes_format_and_level() {
    for (variables, format, level) in [
        (vec![("GATEWAY_LOG", "json,debug")], LogFormat::Json, "debug"),
        (vec![("GATEWAY_LOG", "text:warning")], LogFormat::Text, "warn"),
        (vec![("GATEWAY_LOG", "debug")], LogFormat::Text, "debug"),
        (vec![("LOG_FORMAT", "json"), ("LOG_LEVEL", "ERROR")], LogFormat::Json, "error"),
        (vec![("GATEWAY_LOG", "json,debug"), ("LOG_LEVEL", "ERROR")], LogFormat::Json, "debug"),
        (vec![("GATEWAY_LOG", "json,debug"), ("GATEWAY_LOG_LEVEL", "trace")], LogFormat::Json, "trace"),
    ] {
        let s = load(&environment(&variables)).settings;
        assert_eq!((s.log_format, s.log_level.as_str()), (format, level), "{variables:?}");
    }
    let origins = load(&environment(&[("GATEWAY_LOG", "json,debug"), ("LOG_LEVEL", "ERROR")])).origins;
    assert_eq!(origins["GATEWAY_LOG_LEVEL"].to_string(), "environment, as GATEWAY_LOG");
    let origins = load(&environment(&[("GATEWAY_LOG", "json,debug")])).origins;
    assert_eq!(origins["GATEWAY_LOG_LEVEL"].to_string(), "environment, as GATEWAY_LOG");
    assert_eq!(problems(&environment(&[("GATEWAY_LOG", "xml")])).len(), 1);
    assert_eq!(problems(&environment(&[("GATEWAY_LOG", "json,text")])).len(), 1);
}

#[test]
fn every_bad_value_is_one_line_that_names_it_and_says_what_is_allowed() {
    let bad = [
        ("GATEWAY_BIND", "4444"),
        ("GATEWAY_ADMIN_BIND", "everywhere"),
        ("GATEWAY_WORKERS", "0"),
        ("GATEWAY_WORKERS", "65"),
        ("GATEWAY_WORKERS", "two"),
        ("GATEWAY_BACKLOG", "0"),
        ("GATEWAY_STATE_DIR", "/dev/null"),
        ("DATABASE_URL", "nonsense"),
        ("GATEWAY_MAX_REQUESTS", "-1"),
        ("GATEWAY_MAX_REQUESTS_JITTER", "10%"),
        ("GATEWAY_MAX_RSS", "1M"),
        ("GATEWAY_MAX_RSS", "lots"),
        ("GATEWAY_MEMORY_SAMPLE_INTERVAL", "1ms"),
        ("GATEWAY_WORKER_LIFETIME", "forever"),
        ("GATEWAY_RECYCLE_MIN_INTERVAL", "2 parsecs"),
        ("GATEWAY_BOOT_TIMEOUT", "0"),
        ("GATEWAY_GRACEFUL_TIMEOUT", "soon"),
        ("GATEWAY_ORPHAN_TIMEOUT", "1y"),
        ("GATEWAY_KEEPALIVE_GRACE", "-5"),
        ("GATEWAY_AUTH_REQUIRED", "perhaps"),
        ("GATEWAY_ALLOWED_HOSTS", "http://a/b"),
        ("GATEWAY_ALLOWED_ORIGINS", "*"),
        ("SSRF_ALLOW_LOCALHOST", "2"),
        ("SSRF_ALLOW_PRIVATE_NETWORKS", "si"),
        ("GATEWAY_TOOL_NAME_SEPARATOR", "ab"),
        ("GATEWAY_LOG", "xml"),
        ("GATEWAY_LOG_LEVEL", "loud"),
        ("GATEWAY_TOOL_TIMEOUT", "0"),
        ("GATEWAY_CONNECT_TIMEOUT", "1d"),
        ("GATEWAY_HEADER_TIMEOUT", "never"),
        ("GATEWAY_MAX_BODY", "0"),
        ("GATEWAY_MAX_ANSWER", "1e9"),
        ("SSE_KEEPALIVE_INTERVAL", "0"),
        ("SSE_SEND_TIMEOUT", "1x"),
        ("GATEWAY_USER", "nobody-is-called-that"),
        ("GATEWAY_GROUP", "nobody-is-called-that"),
        ("GATEWAY_UMASK", "9"),
        ("GATEWAY_UMASK", "1000"),
        ("GATEWAY_PIDFILE", "forkgate.pid"),
        ("GATEWAY_CPU_AFFINITY", "most"),
        ("GATEWAY_HOOK_ON_READY", "/bin/sh 'open"),
        ("GATEWAY_HOOK_WORKER_EXIT", "true"),
    ];
    for (name, value) in bad {
        let found = problems(&environment(&[(name, value)]));
        let shown = if name == "DATABASE_URL" { "*****" } else { value };
        let begin = format!("{name}={shown} (environment): ");
        assert!(
            found.len() == 1 && found[0].starts_with(&begin) && found[0].contains("; allowed: "),
            "{found:?}"
        );
    }
    let found = problems(&environment(&[("GATEWAY_WORKERS", "two\nlines")]));
    assert!(found.len() == 1 && found[0].starts_with(r"GATEWAY_WORKERS=two\nlines "), "{found:?}");
    let found = problems(&environment(&[("GATEWAY_WORKERS", "9".repeat(5000).as_str())]));
    assert!(found.len() == 1 && found[0].len() < 300, "{found:?}");
    let all_at_once: Vec<(&str, &str)> =
        bad.iter().copied().filter(|(name, _)| *name != "GATEWAY_WORKERS").collect();
    let distinct: std::collections::HashSet<&str> = all_at_once.iter().map(|(name, _)| *name).collect();
    assert_eq!(problems(&environment(&all_at_once)).len(), distinct.len(), "one run reports everything");
}

#[test]
fn secrets_are_demanded_weighed_and_never_shown() {
    let none = Sources { process_env: pairs(&[("HOME", "/h")]), ..Sources::default() };
    let found = problems(&none);
    assert!(found.len() == 1 && found[0].contains("openssl rand -hex 32"), "{found:?}");
    for weak in ["my-test-key", "changeme", "abc123tooshort", "my-test-key-but-now-longer-than-32-bytes"] {
        let found = problems(&environment(&[("GATEWAY_JWT_SECRET", weak)]));
        assert!(
            found.len() == 1 && found[0].starts_with("GATEWAY_JWT_SECRET=***** (environment): "),
            "{found:?}"
        );
        assert!(!found[0].contains(weak) && found[0].contains("openssl"), "{found:?}");
    }
    let found = problems(&environment(&[("GATEWAY_SESSION_KEYS", "sensitive")]));
    assert!(found.len() == 1 && !found[0].contains("sensitive"), "{found:?}");
    let found = problems(&environment(&[("DATABASE_URL", "postgresql+psycopg://u:sensitive@db/mcp")]));
    assert!(found.len() == 1 && found[0].contains("SQLite") && !found[0].contains("sensitive"), "{found:?}");
    let loaded = load(&environment(&[("JWT_AUDIENCE", "me")]));
    assert!(!format!("{loaded:?}").contains(SECRET));
    assert!(!format!("{:?}", environment(&[])).contains(SECRET));
}

#[test]
fn misspelt_names_are_problems_where_they_can_only_be_ours() {
    let found =
        problems(&environment(&[("GATEWAY_MAX_REQUEST", "5"), ("GATEWAY_THREADS", "5"), ("PATHS", "x")]));
    assert_eq!(
        found,
        [
            "GATEWAY_MAX_REQUEST (environment): there is no such setting, did you mean GATEWAY_MAX_REQUESTS?",
            "GATEWAY_THREADS (environment): there is no such setting; `forkgate check --print` lists all names",
        ]
    );
    let (_keep, toml) = file("worker = 1\n");
    let mut sources = environment(&[]);
    sources.config_file = Some(toml.clone());
    sources.flags = pairs(&[("FOO", "1")]);
    assert_eq!(
        problems(&sources),
        [
            "FOO (flag): there is no such setting; `forkgate check --print` lists all names".to_owned(),
            format!(
                "worker (TOML file {} line 1): there is no such setting, did you mean GATEWAY_WORKERS?",
                toml.display()
            ),
        ]
    );
    let (_keep, env_file) = file("DATABSE_URL=x\nSOMEBODY_ELSES=1\n");
    let warned = load(&Sources { env_file: Some(env_file), ..environment(&[]) }).warnings;
    assert!(warned.len() == 1 && warned[0].contains("did you mean DATABASE_URL?"), "{warned:?}");
}

#[test]
fn names_that_kubernetes_injects_are_ignored() {
    let injected = [
        ("GATEWAY_PORT", "tcp://10.0.0.1:4444"),
        ("GATEWAY_PORT_4444_TCP_ADDR", "10.0.0.1"),
        ("GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("GATEWAY_SERVICE_PORT", "4444"),
        ("GATEWAY_SERVICE_PORT_HTTP", "4444"),
    ];
    let loaded = load(&environment(&injected));
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let warned = load(&environment(&[("GATEWAY_PORT", "80")])).warnings;
    assert!(warned.len() == 1 && warned[0].contains("GATEWAY_BIND"), "{warned:?}");
}

#[test]
fn the_name_that_lets_faults_happen_is_known_and_no_setting() {
    let (_keep, env_file) = file("GATEWAY_FAULTS=1\n");
    for (sources, allowed) in [
        (Sources { env_file: Some(env_file.clone()), ..environment(&[]) }, true),
        (environment(&[("GATEWAY_FAULTS", "1")]), true),
        (environment(&[("GATEWAY_FAULTS", "0")]), false),
        (environment(&[]), false),
        (Sources { env_file: Some(env_file), ..environment(&[("GATEWAY_FAULTS", "0")]) }, true),
    ] {
        assert_eq!((sources.allow_faults(), load(&sources).warnings), (allowed, Vec::<String>::new()));
    }
}

#[test]
fn impossible_combinations_are_refused_and_odd_ones_warned_of() {
    let found =
        problems(&environment(&[("GATEWAY_BIND", "0.0.0.0:80"), ("GATEWAY_ADMIN_BIND", "127.0.0.1:80")]));
    assert!(found.len() == 1 && found[0].contains("same port"), "{found:?}");
    let found =
        problems(&environment(&[("GATEWAY_KEEPALIVE_GRACE", "10"), ("GATEWAY_GRACEFUL_TIMEOUT", "5")]));
    assert!(found.len() == 1 && found[0].contains("longer than"), "{found:?}");
    let found = problems(&environment(&[("GATEWAY_STREAM_DRAIN", "10"), ("GATEWAY_GRACEFUL_TIMEOUT", "5")]));
    assert!(found.len() == 1 && found[0].contains("GATEWAY_STREAM_DRAIN=10s is longer"), "{found:?}");
    let found = problems(&environment(&[("GATEWAY_GROUP", "0")]));
    assert!(found.len() == 1 && found[0].contains("without GATEWAY_USER"), "{found:?}");
    let found = problems(&environment(&[("DATABASE_URL", "sqlite:////no/such/directory/x.db")]));
    assert!(found.len() == 1 && found[0].contains("/no/such/directory"), "{found:?}");
    let found =
        problems(&Sources { process_env: pairs(&[("GATEWAY_JWT_SECRET", SECRET)]), ..Sources::default() });
    assert!(found.len() == 1 && found[0].contains("GATEWAY_STATE_DIR"), "{found:?}");
    load(&environment(&[("GATEWAY_MAX_REQUESTS", "0"), ("GATEWAY_MAX_REQUESTS_JITTER", "5")]));
    let warned = load(&environment(&[("GATEWAY_GRACEFUL_TIMEOUT", "30")])).warnings;
    assert!(warned.len() == 1 && warned[0].contains("cut a call"), "{warned:?}");
    let warned = load(&environment(&[("AUTH_REQUIRED", "false"), ("GATEWAY_BIND", "0.0.0.0:80")])).warnings;
    assert!(warned.len() == 1 && warned[0].contains("everybody"), "{warned:?}");
}

#[test]
fn a_contextforge_env_file_loads_with_one_warning() {
    let (_keep, env_file) = file(
        "# ContextForge\nHOST=0.0.0.0\nPORT=4444\nENVIRONMENT=development\nJWT_SECRET_KEY=\"4Bq7x-fixture-K2m9Wd5sT8vYz1LpQe6RhUn3\"\n\
         JWT_ALGORITHM=HS256\nJWT_AUDIENCE=mcpgateway-api\nAUTH_ENCRYPTION_SECRET=8f-fixture-salt\nAUTH_REQUIRED=true\n\
         BASIC_AUTH_PASSWORD=pw\nDATABASE_URL=sqlite:///./mcp.db\nGUNICORN_WORKERS=4\nGUNICORN_TIMEOUT=600\n\
         GUNICORN_MAX_REQUESTS=100000\nGUNICORN_MAX_REQUESTS_JITTER=100\nMCPGATEWAY_UI_ENABLED=false\nLOG_LEVEL=ERROR\n\
         LOG_FORMAT=json\nSSRF_ALLOW_LOCALHOST=true\nSSRF_ALLOW_PRIVATE_NETWORKS=true\nTOOL_TIMEOUT=60\n\
         TOOL_RATE_LIMIT=100\nSSE_KEEPALIVE_INTERVAL=30\nSSE_SEND_TIMEOUT=30.0\nGATEWAY_TOOL_NAME_SEPARATOR=-\n\
         GATEWAY_HEALTH_CHECK_TIMEOUT=5.0\nMCP_SESSION_POOL_CLEANUP_TIMEOUT=5.0\nSSO_ISSUERS=\n\
         ALLOWED_ORIGINS='[\"http://localhost\", \"http://localhost:4444\"]'\nANYIO_CANCEL_DELIVERY_PATCH_ENABLED=true\n",
    );
    let sources =
        Sources { env_file: Some(env_file), process_env: pairs(&[("HOME", "/h")]), ..Sources::default() };
    let loaded = load(&sources);
    let s = &loaded.settings;
    assert_eq!((s.bind.to_string().as_str(), s.workers, s.max_requests), ("0.0.0.0:4444", 4, 100_000));
    assert_eq!((s.log_level.as_str(), s.log_format, s.max_requests_jitter), ("error", LogFormat::Json, 100));
    assert!(s.ssrf_allow_localhost && s.ssrf_allow_private_networks);
    assert_eq!(s.allowed_origins, ["http://localhost", "http://localhost:4444"]);
    assert_eq!((s.tool_name_separator.as_str(), s.stall_timeout), ("-", Duration::from_secs(600)));
    let [warning] = loaded.warnings.as_slice() else { panic!("one warning: {:?}", loaded.warnings) };
    for name in ["AUTH_ENCRYPTION_SECRET", "GATEWAY_HEALTH_CHECK_TIMEOUT", "TOOL_RATE_LIMIT"] {
        assert!(warning.contains(name), "{warning}");
    }
    assert!(!warning.contains("GUNICORN_WORKERS"), "{warning}");
}

#[test]
fn files_that_cannot_be_read_or_understood_are_named() {
    let mut sources = environment(&[]);
    sources.env_file = Some(PathBuf::from("/no/such/file.env"));
    assert!(problems(&sources)[0].starts_with("cannot read /no/such/file.env: "));
    let (_keep, env_file) = file("GATEWAY_WORKERS 2\nGATEWAY_BACKLOG=${N}\n");
    sources.env_file = Some(env_file.clone());
    let found = problems(&sources);
    assert_eq!(found[0], format!("env file {}: line 1: expected NAME=VALUE", env_file.display()));
    assert!(found.len() == 2 && found[1].contains("variables are not expanded"), "{found:?}");
    let (_keep, toml) = file("workers = 1\nGATEWAY_WORKERS = 2\n[section]\n");
    sources = environment(&[]);
    sources.config_file = Some(toml);
    let found = problems(&sources);
    assert!(
        found.len() == 2 && found[0].contains("is a table") && found[1].contains("already given"),
        "{found:?}"
    );
}

#[test]
fn every_field_belongs_to_a_setting_and_shows_what_it_reads() {
    let changed = [
        ("GATEWAY_BIND", "127.0.0.2:1"),
        ("GATEWAY_ADMIN_BIND", "127.0.0.2:2"),
        ("GATEWAY_WORKERS", "7"),
        ("GATEWAY_BACKLOG", "7"),
        ("GATEWAY_BOOT_TIMEOUT", "7s"),
        ("GATEWAY_CRASH_BUDGET", "7"),
        ("GATEWAY_GIVE_UP", "7s"),
        ("GATEWAY_GRACEFUL_TIMEOUT", "2m"),
        ("GATEWAY_KEEPALIVE_GRACE", "7s"),
        ("GATEWAY_CONNECTION_HANDOVER", "false"),
        ("GATEWAY_STREAM_DRAIN", "7s"),
        ("GATEWAY_ORPHAN_TIMEOUT", "7s"),
        ("GATEWAY_USER", "7"),
        ("GATEWAY_GROUP", "7"),
        ("GATEWAY_UMASK", "077"),
        ("GATEWAY_PIDFILE", "/tmp/seven.pid"),
        ("GATEWAY_CPU_AFFINITY", "auto"),
        ("GATEWAY_MAX_REQUESTS", "7"),
        ("GATEWAY_MAX_REQUESTS_JITTER", "7"),
        ("GATEWAY_MAX_RSS", "77M"),
        ("GATEWAY_MEMORY_SAMPLE_INTERVAL", "7s"),
        ("GATEWAY_WORKER_LIFETIME", "7h"),
        ("GATEWAY_RECYCLE_MIN_INTERVAL", "7s"),
        ("GATEWAY_SLOW_START", "7s"),
        ("GATEWAY_WATCHDOG", "observe"),
        ("GATEWAY_STALL_TIMEOUT", "7s"),
        ("GATEWAY_SPIN_WINDOW", "7s"),
        ("GATEWAY_KILL_INTERVAL", "7s"),
        ("GATEWAY_STATE_DIR", "/tmp"),
        ("DATABASE_URL", "sqlite:////tmp/seven.db"),
        ("GATEWAY_JWT_SECRET", "77777x0c3a9b7e62845f1d0c3a9b7e6284"),
        ("JWT_AUDIENCE", "seven"),
        ("JWT_ISSUER", "seven"),
        ("GATEWAY_AUTH_REQUIRED", "false"),
        ("GATEWAY_SESSION_KEYS", "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"),
        ("GATEWAY_ALLOWED_HOSTS", "seven.example.com"),
        ("GATEWAY_ALLOWED_ORIGINS", "https://seven.example.com"),
        ("GATEWAY_TOOL_TIMEOUT", "7s"),
        ("GATEWAY_CONNECT_TIMEOUT", "7s"),
        ("GATEWAY_MAX_ANSWER", "7M"),
        ("GATEWAY_TOOL_NAME_SEPARATOR", "-"),
        ("SSRF_ALLOW_LOCALHOST", "true"),
        ("SSRF_ALLOW_PRIVATE_NETWORKS", "true"),
        ("GATEWAY_HEADER_TIMEOUT", "7s"),
        ("GATEWAY_MAX_BODY", "7M"),
        ("SSE_KEEPALIVE_INTERVAL", "7s"),
        ("SSE_SEND_TIMEOUT", "off"),
        ("GATEWAY_LOG", "json"),
        ("GATEWAY_LOG_FILE", "/tmp/seven.log"),
        ("GATEWAY_LOG_LEVEL", "trace"),
        ("GATEWAY_HOOK_ON_READY", "/bin/sh -c 'exit 7'"),
        ("GATEWAY_HOOK_ON_RELOAD", "/bin/sh -c 'exit 7'"),
        ("GATEWAY_HOOK_WORKER_READY", "/bin/sh -c 'exit 7'"),
        ("GATEWAY_HOOK_WORKER_EXIT", "/bin/sh -c 'exit 7'"),
        ("GATEWAY_HOOK_WORKER_KILLED", "/bin/sh -c 'exit 7'"),
    ];
    assert_eq!(changed.map(|(name, _)| name).to_vec(), table::all().map(|s| s.name).collect::<Vec<_>>());
    let before = load(&environment(&[])).settings;
    let after = load(&environment(&changed)).settings;
    let fields = |settings: &Settings| match serde_json::to_value(settings) {
        Ok(serde_json::Value::Object(fields)) => fields,
        other => panic!("an object: {other:?}"),
    };
    for (field, value) in fields(&after) {
        assert_ne!(fields(&before).get(&field), Some(&value), "{field} belongs to no setting");
    }
    for (name, value) in changed {
        let setting = table::find(name).expect("in the table");
        assert_eq!((setting.show)(&after), value, "{name}");
    }

    let diff = Settings::diff(&before, &after);
    assert_eq!(diff.len(), changed.len());
    assert!(!format!("{diff:?}").contains(SECRET) && !format!("{diff:?}").contains("77777x"), "{diff:?}");
    let reloaded = after.clone().with_fixed_of(&before);
    let waiting: Vec<_> =
        diff.iter().filter(|change| change.needs_restart).map(|c| c.name.as_str()).collect();
    assert!(Settings::diff(&before, &reloaded).iter().all(|change| !change.needs_restart));
    let fixed = table::all().filter(|s| s.reload == Reload::NeedsRestart).map(|s| s.name);
    assert_eq!(waiting, fixed.collect::<Vec<_>>());
    let told = Settings::reload_changes(&before, &after, &reloaded);
    let told_to_wait = told.iter().filter(|change| change.needs_restart).count();
    assert_eq!((told.len(), told_to_wait), (changed.len(), waiting.len() + 1), "the database too");
    assert_eq!(Settings::diff(&reloaded, &after).len(), told_to_wait);
}

#[test]
fn settings_pass_through_a_memfd() {
    let settings = load(&environment(&[("GATEWAY_WORKER_LIFETIME", "1h30m")])).settings;
    let fd = settings.to_memfd().expect("memfd");
    assert_eq!(Settings::from_fd(&fd).expect("read back"), settings);
    let other = crate::memfd::immutable("test", b"{}").expect("memfd");
    assert!(Settings::from_fd(&other).is_err());
}

#[test]
fn the_state_directory_is_found_without_valid_settings() {
    let broken = environment(&[("GATEWAY_WORKERS", "many"), ("GATEWAY_STATE_DIR", "/srv/state")]);
    assert_eq!(Settings::state_dir_of(&broken).expect("found"), PathBuf::from("/srv/state"));
    assert!(Settings::state_dir_of(&Sources::default()).is_err());
}

proptest::proptest! {
    #[test]
    fn no_file_and_no_value_makes_it_panic(text in "(.|\n|[A-Z_]{1,8}=|\"|'|\\\\|export |#){0,60}", value in ".{0,40}") {
        let (good, bad) = env_file::parse(&text);
        let lines = text.lines().count();
        assert!(good.iter().map(|a| a.line).chain(bad.iter().map(|b| b.line)).all(|line| (1..=lines).contains(&line)));
        toml_file::parse(&text);
        for setting in table::all() {
            for found in problems(&environment(&[(setting.name, &value)])) {
                assert!(!found.is_empty() && !found.contains(SECRET));
            }
        }
    }

    #[test]
    fn what_is_shown_is_read_back(millis in 0u64..400 * 86_400_000, bytes in 0u64..1 << 42) {
        let duration = Duration::from_millis(millis);
        assert_eq!(parse::duration(&parse::show_duration(duration)), Ok(duration));
        assert_eq!(parse::size(&parse::show_size(bytes)), Ok(bytes));
    }

    #[test]
    fn a_quoted_value_is_read_back(value in "[^\u{0}\r]{0,40}") {
        let escaped = value.replace('\\', r"\\").replace('"', r#"\""#);
        let (good, bad) = env_file::parse(&format!("A=\"{escaped}\"\nB=1\n"));
        assert!(bad.is_empty());
        assert_eq!((good[0].value.as_str(), good[1].name.as_str()), (value.as_str(), "B"));
    }
}
