//! Settings in the making: what was given, then what follows from it and from the machine, then what cannot be.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cgroup::Machine;
use super::parse::{show_duration, show_size};
use super::problem::Problem;
use super::sources::Sources;
use super::table::{self, Default};
use super::{CpuAffinity, Hooks, LogFormat, MAX_WORKERS, Secret, Settings, Watchdog, hosts};

/// One part in this many of `GATEWAY_MAX_REQUESTS` is the jitter's default: 10 %.
const JITTER_PARTS: u64 = 10;
/// See `GATEWAY_CRASH_BUDGET`.
const LEAST_CRASH_BUDGET: u32 = 5;
/// See `GATEWAY_KEEPALIVE_GRACE`.
const KEEPALIVE_GRACE: Duration = Duration::from_secs(5);
/// See `GATEWAY_STREAM_DRAIN`.
const STREAM_DRAIN: Duration = Duration::from_secs(5);
/// Percent of the cgroup's memory that workers may have together; the rest is for the master, page cache and peaks.
const MEMORY_SHARE: u64 = 80;
/// The database's file in the state directory.
const DATABASE_FILE: &str = "forkgate.db";

/// `GATEWAY_MAX_RSS` as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLimit {
    /// From the cgroup's limit.
    Auto,
    /// None.
    Off,
    /// This many bytes.
    Bytes(u64),
}

/// See the module.
pub struct Draft {
    /// Everything that follows from nothing else.
    pub settings: Settings,
    /// None = auto.
    pub workers: Option<u32>,
    /// None = a part of the requests.
    pub max_requests_jitter: Option<u64>,
    /// None = by the workers.
    pub crash_budget: Option<u32>,
    /// As given.
    pub max_rss: MemoryLimit,
    /// None = the usual places.
    pub state_dir: Option<PathBuf>,
    /// None = in the state directory.
    pub database: Option<PathBuf>,
    /// None = the default, or less.
    pub keepalive_grace: Option<Duration>,
    /// None = the default, or less.
    pub stream_drain: Option<Duration>,
    /// None = by the address.
    pub allowed_hosts: Option<Vec<String>>,
    /// `GATEWAY_LOG` named a level too.
    pub level_beside_format: bool,
}

impl Draft {
    /// All defaults of the table.
    pub fn from_table() -> Draft {
        let mut draft = Draft {
            settings: blank(),
            workers: None,
            max_requests_jitter: None,
            crash_budget: None,
            max_rss: MemoryLimit::Auto,
            state_dir: None,
            database: None,
            keepalive_grace: None,
            stream_drain: None,
            allowed_hosts: None,
            level_beside_format: false,
        };
        for setting in table::all() {
            if let Default::Text(text) = setting.default {
                // A default that its own row refuses is found by the tests; here the blank stands.
                let _ = setting.kind.apply(&mut draft, text);
            }
        }
        draft
    }

    /// Works out what follows, and reports what cannot be. `failed` names settings with a problem of their own: nothing
    /// is concluded from those.
    pub fn finish(
        mut self,
        sources: &Sources,
        machine: &Machine,
        failed: &HashSet<&'static str>,
        problems: &mut Vec<Problem>,
        warnings: &mut Vec<String>,
    ) -> Settings {
        let fine = |names: &[&str]| !names.iter().any(|name| failed.contains(name));
        let s = &mut self.settings;
        s.workers = self.workers.unwrap_or_else(|| machine.cpus.clamp(1, MAX_WORKERS as u32));
        s.max_requests_jitter = self.max_requests_jitter.unwrap_or(s.max_requests / JITTER_PARTS);
        s.crash_budget = self.crash_budget.unwrap_or_else(|| LEAST_CRASH_BUDGET.max(2 * s.workers));
        s.max_rss = match self.max_rss {
            MemoryLimit::Auto => machine.memory_limit.map(|limit| worker_share(limit, s.workers)),
            MemoryLimit::Off => None,
            MemoryLimit::Bytes(bytes) => Some(bytes),
        };
        match self.state_dir.or_else(|| usual_state_dir(sources)) {
            Some(directory) => s.state_dir = directory,
            None if fine(&["GATEWAY_STATE_DIR"]) => problems.push(Problem::NoStateDir),
            None => {}
        }
        s.database = match self.database {
            Some(path) => {
                check_database(&path, &s.state_dir, problems);
                path
            }
            None => s.state_dir.join(DATABASE_FILE),
        };
        let grace = self.keepalive_grace.unwrap_or(KEEPALIVE_GRACE.min(s.graceful_timeout));
        s.keepalive_grace = grace;
        if grace > s.graceful_timeout && fine(&["GATEWAY_KEEPALIVE_GRACE", "GATEWAY_GRACEFUL_TIMEOUT"]) {
            let graceful = show_duration(s.graceful_timeout);
            problems.push(Problem::GraceTooLong { grace: show_duration(grace), graceful });
        }
        let stream_drain = self.stream_drain.unwrap_or(STREAM_DRAIN.min(s.graceful_timeout));
        s.stream_drain = stream_drain;
        if stream_drain > s.graceful_timeout && fine(&["GATEWAY_STREAM_DRAIN", "GATEWAY_GRACEFUL_TIMEOUT"]) {
            let graceful = show_duration(s.graceful_timeout);
            problems.push(Problem::StreamDrainTooLong { drain: show_duration(stream_drain), graceful });
        }
        let default_hosts = || if s.bind.are_local() { hosts::loopback_names() } else { Vec::new() };
        s.allowed_hosts = self.allowed_hosts.unwrap_or_else(default_hosts);
        let shared =
            s.bind.iter().find(|bind| bind.tcp().is_some_and(|tcp| hosts::collide(tcp, s.admin_bind)));
        if let Some(bind) = shared
            && fine(&["GATEWAY_BIND", "GATEWAY_ADMIN_BIND"])
        {
            let (bind, admin_bind) = (bind.to_string(), s.admin_bind.to_string());
            problems.push(Problem::SamePort { bind, admin_bind });
        }
        if let (None, Some(group)) = (&s.user, &s.group)
            && fine(&["GATEWAY_USER", "GATEWAY_GROUP"])
        {
            problems.push(Problem::GroupWithoutUser(group.clone()));
        }
        warn(s, machine, warnings);
        self.settings
    }
}

/// What can be, and will surprise.
fn warn(s: &Settings, machine: &Machine, warnings: &mut Vec<String>) {
    if s.graceful_timeout < s.tool_timeout {
        warnings.push(format!(
            "GATEWAY_GRACEFUL_TIMEOUT={} is shorter than GATEWAY_TOOL_TIMEOUT={}: replacing a worker can cut a call",
            show_duration(s.graceful_timeout),
            show_duration(s.tool_timeout)
        ));
    }
    if !s.auth_required && !s.bind.are_local() {
        warnings.push(format!(
            "GATEWAY_AUTH_REQUIRED=false at {}: everybody who reaches that address can call every tool",
            s.bind
        ));
    }
    if let (Some(max_rss), Some(limit)) = (s.max_rss, machine.memory_limit)
        && max_rss.saturating_mul(u64::from(s.workers)) > limit
    {
        warnings.push(format!(
            "GATEWAY_MAX_RSS={} times {} workers is more than the cgroup's limit of {}: the kernel may kill first",
            show_size(max_rss),
            s.workers,
            show_size(limit)
        ));
    }
}

/// A worker's part of the memory that workers may have.
fn worker_share(limit: u64, workers: u32) -> u64 {
    limit / 100 * MEMORY_SHARE / u64::from(workers.max(1))
}

/// Where state is kept when nobody says: systemd's directory, else the user's.
pub fn usual_state_dir(sources: &Sources) -> Option<PathBuf> {
    let absolute = |name| sources.directory(name).map(Path::new).filter(|path| path.is_absolute());
    // systemd gives a list when a unit has several; ours is the first.
    let systemd = sources.directory("STATE_DIRECTORY").and_then(|list| list.split(':').next());
    systemd
        .filter(|path| path.starts_with('/'))
        .map(PathBuf::from)
        .or_else(|| absolute("XDG_STATE_HOME").map(|state| state.join("forkgate")))
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state/forkgate")))
}

/// The state directory is made by the master, any other must be there.
fn check_database(path: &Path, state_dir: &Path, problems: &mut Vec<Problem>) {
    let directory = path.parent().unwrap_or(Path::new("/"));
    if directory != state_dir && !directory.is_dir() {
        problems.push(Problem::NoDatabaseDirectory(directory.to_owned()));
    }
}

/// Nothing yet: every field is overwritten by the table's defaults or by [`Draft::finish`] (a test checks).
fn blank() -> Settings {
    Settings {
        bind: SocketAddr::from(([127, 0, 0, 1], 0)).into(),
        admin_bind: SocketAddr::from(([127, 0, 0, 1], 0)),
        workers: 0,
        backlog: 0,
        state_dir: PathBuf::new(),
        database: PathBuf::new(),
        max_requests: 0,
        max_requests_jitter: 0,
        max_rss: None,
        memory_sample_interval: Duration::ZERO,
        worker_lifetime: None,
        recycle_min_interval: Duration::ZERO,
        slow_start: None,
        watchdog: Watchdog::Enforce,
        stall_timeout: Duration::ZERO,
        spin_window: Duration::ZERO,
        kill_interval: Duration::ZERO,
        boot_timeout: Duration::ZERO,
        crash_budget: 0,
        give_up: None,
        graceful_timeout: Duration::ZERO,
        orphan_timeout: Duration::ZERO,
        keepalive_grace: Duration::ZERO,
        stream_drain: Duration::ZERO,
        connection_handover: true,
        jwt_secret: Secret::new(""),
        jwt_audience: String::new(),
        jwt_issuer: String::new(),
        auth_required: true,
        session_keys: None,
        allowed_hosts: Vec::new(),
        allowed_origins: Vec::new(),
        ssrf_allow_localhost: false,
        ssrf_allow_private_networks: false,
        tool_name_separator: String::new(),
        log_format: LogFormat::Text,
        log_file: None,
        log_level: String::new(),
        tool_timeout: Duration::ZERO,
        connect_timeout: Duration::ZERO,
        header_timeout: Duration::ZERO,
        max_body: 0,
        max_answer: 0,
        sse_keepalive_interval: Duration::ZERO,
        sse_send_timeout: None,
        user: None,
        group: None,
        umask: None,
        pidfile: None,
        cpu_affinity: CpuAffinity::Off,
        hooks: Hooks::default(),
    }
}
