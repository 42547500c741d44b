//! The settings: one typed struct, one table that describes every field.
//!
//! Order of precedence: flags > `--env-file` > process environment > TOML > default. Within one source a setting's own
//! name beats its aliases. Nothing here writes or listens.

mod binds;
pub mod cgroup;
pub mod check;
mod contextforge;
mod database_url;
pub mod docs;
mod draft;
mod env_file;
mod foreign;
mod hooks;
mod hosts;
mod kubernetes;
mod load;
pub mod parse;
mod problem;
mod process;
mod readers;
mod reload;
mod rows;
mod rows_hooks;
mod rows_process;
pub(crate) mod secrets;
mod sources;
mod suggest;
pub mod table;
#[cfg(test)]
mod tests;
mod toml_file;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use binds::{Bind, Binds, MAX_BINDS};
pub use foreign::ForeignError;
pub use hooks::{Hook, Hooks};
pub use load::{Loaded, Provenance, load_for};
pub use problem::{Problem, SettingsErrors};
pub use process::{CpuAffinity, allowed_cpus};
pub use reload::Change;
pub use sources::{Entry, Origin, Sources};

/// Most workers: the row table and the steering program of the listeners are made for it.
pub const MAX_WORKERS: u64 = 64;

/// A value that is never shown: `Debug` prints stars.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("*****")
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per line.
    Json,
}

/// What the watchdog's verdicts lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Watchdog {
    /// Report, standby, kill.
    Enforce,
    /// Report and log only.
    Observe,
    /// There is none.
    Off,
}

impl Watchdog {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Watchdog::Enforce => "enforce",
            Watchdog::Observe => "observe",
            Watchdog::Off => "off",
        }
    }
}

/// The effective settings of a running gateway. Durations are durations and sizes are bytes here, whatever their
/// spelling was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// `GATEWAY_BIND`: where clients connect.
    pub bind: Binds,
    /// `GATEWAY_ADMIN_BIND`: `/metrics`, `/status` and the admin API.
    pub admin_bind: SocketAddr,
    /// `GATEWAY_WORKERS`.
    pub workers: u32,
    /// `GATEWAY_BACKLOG`: accept queue per slot.
    pub backlog: i32,
    /// `GATEWAY_STATE_DIR`.
    pub state_dir: PathBuf,
    /// `DATABASE_URL`: path of the SQLite file.
    pub database: PathBuf,
    /// `GATEWAY_MAX_REQUESTS`; 0 = off.
    pub max_requests: u64,
    /// `GATEWAY_MAX_REQUESTS_JITTER`.
    pub max_requests_jitter: u64,
    /// `GATEWAY_MAX_RSS`: private memory in bytes; none = off.
    pub max_rss: Option<u64>,
    /// `GATEWAY_MEMORY_SAMPLE_INTERVAL`.
    pub memory_sample_interval: Duration,
    /// `GATEWAY_WORKER_LIFETIME`; none = off.
    pub worker_lifetime: Option<Duration>,
    /// `GATEWAY_RECYCLE_MIN_INTERVAL`.
    pub recycle_min_interval: Duration,
    /// `GATEWAY_SLOW_START`; none = off.
    pub slow_start: Option<Duration>,
    /// `GATEWAY_BOOT_TIMEOUT`.
    pub boot_timeout: Duration,
    /// `GATEWAY_CRASH_BUDGET`: failed workers within a minute that are still no crash loop.
    pub crash_budget: u32,
    /// `GATEWAY_GIVE_UP`: how long no worker may be ready; none = for ever.
    pub give_up: Option<Duration>,
    /// `GATEWAY_GRACEFUL_TIMEOUT`.
    pub graceful_timeout: Duration,
    /// `GATEWAY_ORPHAN_TIMEOUT`.
    pub orphan_timeout: Duration,
    /// `GATEWAY_KEEPALIVE_GRACE`: how long a draining worker answers one more request on idle connections.
    pub keepalive_grace: Duration,
    /// `GATEWAY_STREAM_DRAIN`: over how long the streams of a draining worker end.
    pub stream_drain: Duration,
    /// `GATEWAY_CONNECTION_HANDOVER`: connections at rest move to the worker that replaces theirs.
    pub connection_handover: bool,
    /// `GATEWAY_WATCHDOG`.
    pub watchdog: Watchdog,
    /// `GATEWAY_STALL_TIMEOUT`: how long one poll may take.
    pub stall_timeout: Duration,
    /// `GATEWAY_SPIN_WINDOW`: how long the loop may be busy without getting work done.
    pub spin_window: Duration,
    /// `GATEWAY_KILL_INTERVAL`: least time between two kills that something outside may have caused.
    pub kill_interval: Duration,
    /// `GATEWAY_JWT_SECRET`.
    pub jwt_secret: Secret,
    /// `JWT_AUDIENCE`.
    pub jwt_audience: String,
    /// `JWT_ISSUER`.
    pub jwt_issuer: String,
    /// `GATEWAY_AUTH_REQUIRED`.
    pub auth_required: bool,
    /// `GATEWAY_SESSION_KEYS`: none = minted and kept in the state directory.
    pub session_keys: Option<Secret>,
    /// `GATEWAY_ALLOWED_HOSTS`: accepted `Host` names without port; empty = any.
    pub allowed_hosts: Vec<String>,
    /// `GATEWAY_ALLOWED_ORIGINS`: accepted `Origin`s besides the ones of the allowed hosts.
    pub allowed_origins: Vec<String>,
    /// `SSRF_ALLOW_LOCALHOST`.
    pub ssrf_allow_localhost: bool,
    /// `SSRF_ALLOW_PRIVATE_NETWORKS`.
    pub ssrf_allow_private_networks: bool,
    /// `GATEWAY_TOOL_NAME_SEPARATOR`.
    pub tool_name_separator: String,
    /// `GATEWAY_LOG`: format.
    pub log_format: LogFormat,
    /// `GATEWAY_LOG_FILE`; none = stderr.
    pub log_file: Option<PathBuf>,
    /// `GATEWAY_LOG_LEVEL`.
    pub log_level: String,
    /// `GATEWAY_TOOL_TIMEOUT` (alias `TOOL_TIMEOUT`): the longest a call to an upstream may take.
    pub tool_timeout: Duration,
    /// `GATEWAY_CONNECT_TIMEOUT`: for a connection to an upstream, TLS included.
    pub connect_timeout: Duration,
    /// `GATEWAY_HEADER_TIMEOUT`: from the first byte of a request to the end of its headers.
    pub header_timeout: Duration,
    /// `GATEWAY_MAX_BODY`: largest request body, in bytes.
    pub max_body: u64,
    /// `GATEWAY_MAX_ANSWER`: largest upstream message, in bytes.
    pub max_answer: u64,
    /// `SSE_KEEPALIVE_INTERVAL`: a comment line on silent streams.
    pub sse_keepalive_interval: Duration,
    /// `SSE_SEND_TIMEOUT`: how long a peer may take nothing of what is written; none = for ever.
    pub sse_send_timeout: Option<Duration>,
    /// `GATEWAY_USER`: whom a master that root starts becomes.
    pub user: Option<String>,
    /// `GATEWAY_GROUP`: with which group; none = the user's.
    pub group: Option<String>,
    /// `GATEWAY_UMASK`; none = as it was.
    pub umask: Option<u32>,
    /// `GATEWAY_PIDFILE`; none = nowhere.
    pub pidfile: Option<PathBuf>,
    /// `GATEWAY_CPU_AFFINITY`.
    pub cpu_affinity: CpuAffinity,
    /// `GATEWAY_HOOK_*`: commands to run when something has happened.
    pub hooks: Hooks,
}

impl Settings {
    /// A sealed memfd that holds these settings, for a child. It holds the secrets too: never log it.
    pub fn to_memfd(&self) -> io::Result<OwnedFd> {
        crate::memfd::immutable("forkgate-settings", &serde_json::to_vec(self)?)
    }

    /// What [`Settings::to_memfd`] wrote; `InvalidData` for anything else.
    pub fn from_fd(fd: impl AsFd) -> io::Result<Settings> {
        let bytes = crate::memfd::Bytes::open(&fd)?;
        Ok(serde_json::from_slice(bytes.as_ref())?)
    }
}
