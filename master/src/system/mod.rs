//! The supervisor's shell: the world as events, actions as system calls.
//!
//! One thread and one epoll instance over signals, pidfds, control sockets and the control clients; no client of the gateway is
//! ever read. It must be the main thread: the kernel tells a child of its parent's death when the *thread* that
//! started it ends (prctl(2), `PR_SET_PDEATHSIG`).

mod act;
mod child;
mod crash_dir;
pub mod ctl;
mod dump;
mod facts;
mod failure;
pub mod history;
mod hooks;
mod identity;
mod listeners;
mod master;
mod notify;
mod oom;
mod operators;
mod outside;
mod passed;
mod pidfd;
mod pidfile;
mod poller;
mod proc_fs;
mod pulse;
mod reload;
mod reopen;
mod report;
mod signals;
mod spawn;
mod state_dir;
mod steering;
pub mod upgrade;
mod versions;
mod watch;
mod watchdog;
mod zombies;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use forkgate_shared::rows::{Rows, monotonic_ns};
use forkgate_shared::settings::{Loaded, Settings, Sources};
use serde::{Deserialize, Serialize};

use crate::supervisor::{Config, Event, Ns, Plan, Supervisor};
use crash_dir::CrashDir;
#[cfg(test)]
pub use crash_dir::slot_of as slot_of_report;
use history::History;
use hooks::Hooks;
use identity::{Identity, IdentityError};
use listeners::{ListenError, Listeners, Wanted};
use master::Master;
use oom::OomKills;
use operators::awaited::Awaited;
use outside::Looks;
pub use pidfd::has_ended_within;
use pidfile::{Pidfile, PidfileError};
use pulse::Pulse;
use reopen::Reopening;
use report::Reports;
use state_dir::{StateDir, StateDirError};
use upgrade::Upgrade;
use versions::{Version, Versions};
use watch::Watch;
use zombies::Zombies;

/// The session table's name within the state directory.
const SESSIONS_FILE: &str = "sessions.table";
/// Who writes the master's log lines.
const LOG_ROLE: &str = "master";
/// Version of the settings at start.
const FIRST_VERSION: u64 = 1;

/// What `serve` and `demo` start.
pub struct ServeOptions {
    /// Where the settings come from; read again at SIGHUP.
    pub sources: Sources,
    /// What they are now.
    pub loaded: Loaded,
    /// Runs the demo's companion too.
    pub demo: Option<DemoOptions>,
    /// Version of the catalog's layout, which the worker knows.
    pub catalog_layout: u64,
}

/// How the demo reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DemoOptions {
    /// One JSON line instead of text.
    pub json: bool,
}

/// Why the master does not start.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Pidfile(#[from] PidfileError),
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    #[error("{source}; GATEWAY_USER={user} has to own it: chown -R {user} {path}", path = .path.display())]
    NotTheUsers { user: String, path: PathBuf, source: StateDirError },
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot make the control socket {path}: {source}", path = .path.display())]
    Ctl { path: PathBuf, source: io::Error },
    #[error("cannot open the session table {path}: {source}; remove it to start with no sessions", path = .path.display())]
    Sessions { path: PathBuf, source: io::Error },
    #[error("cannot take over from the program before: {0}")]
    TakeOver(#[from] io::Error),
    #[error("cannot {doing}: {source}")]
    Io { doing: &'static str, source: io::Error },
}

/// Runs the master on the calling thread, which must be the process's main thread, until everything has ended.
///
/// Exit codes: 0 after TERM, INT or QUIT; 3 when a worker could not start at all, and 4 when it blamed the settings; 1
/// otherwise. Logging is begun by the caller.
pub fn run(options: ServeOptions) -> ExitCode {
    finish(set_up(options).and_then(|master| {
        master.run(Event::Start).map_err(|source| SetupError::Io { doing: "wait for events", source })
    }))
}

/// The exit code of a master that has ended, or could not begin.
fn finish(code: Result<u8, SetupError>) -> ExitCode {
    match code {
        Ok(code) => {
            tracing::info!(code, "stopped");
            ExitCode::from(code)
        }
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn set_up(options: ServeOptions) -> Result<Master, SetupError> {
    let doing = |doing| move |source| SetupError::Io { doing, source };
    let started = monotonic_ns();
    let origins = options.loaded.origins_in_words();
    let settings = options.loaded.settings;
    // SAFETY: the first call and the only one; nothing has taken a descriptor over before.
    let passed = unsafe { passed::take() };
    // Next: it keeps the numbers free that children find their descriptors under.
    let executable = spawn::Executable::own().map_err(doing("open the own executable"))?;
    let pidfile = become_who_is_wanted(&settings)?;
    let state_dir = StateDir::lock(&settings.state_dir).map_err(|source| match (&settings.user, source) {
        (Some(user), source @ StateDirError::Io { .. }) => {
            SetupError::NotTheUsers { user: user.clone(), path: settings.state_dir.clone(), source }
        }
        (_, source) => source.into(),
    })?;
    let signals = signals::Signals::install().map_err(doing("install signal handlers"))?;
    let listeners = Listeners::open(&wanted(&settings), settings.workers, passed)?;
    let addresses = listeners.shown().join(", ");
    tracing::info!(addresses, admin = %settings.admin_bind, workers = settings.workers, "listening");
    let slots: Vec<_> = listeners.slots().iter().copied().collect();
    let most = settings.workers.max(slots.len() as u32);
    let (rows, rows_fd) = Rows::create(Rows::capacity_for(most)).map_err(doing("make the row table"))?;
    rows.base().settings_generation.store(FIRST_VERSION, Relaxed);
    let sessions_path = settings.state_dir.join(SESSIONS_FILE);
    let sessions = forkgate_shared::sessions::create_file(&sessions_path)
        .map_err(|source| SetupError::Sessions { path: sessions_path.clone(), source })?;
    let ctl_path = ctl::path(std::env::var("RUNTIME_DIRECTORY").ok().as_deref(), &settings.state_dir);
    let ctl = ctl::Ctl::listen(&ctl_path).map_err(|source| SetupError::Ctl { path: ctl_path, source })?;
    let notifier =
        notify::Notifier::from_env().map_err(doing("reach the service manager named by NOTIFY_SOCKET"))?;
    let supervisor = Supervisor::new(Config {
        plan: plan(&settings),
        rows: rows.capacity(),
        slots,
        version: FIRST_VERSION,
        companion: options.demo.is_some(),
        seed: rand::random(),
    });
    let crash_dir = CrashDir::of(&settings.state_dir);
    let version = Version::new(FIRST_VERSION, settings).map_err(doing("seal the settings"))?.from(origins);
    Ok(Master {
        supervisor,
        poller: poller::Poller::new().map_err(doing("make an epoll instance"))?,
        signals,
        executable,
        listeners,
        rows,
        rows_fd,
        sessions: sessions.into(),
        stored_separator: Some(version.settings.tool_name_separator.clone()),
        versions: Versions::new(version),
        loaded: None,
        sources: options.sources,
        children: BTreeMap::new(),
        deaths: BTreeMap::new(),
        zombies: Zombies::default(),
        watch: Watch::new(started),
        looks: Looks::default(),
        reports: Reports::default(),
        crash_dir,
        queues_due: started,
        streams: BTreeMap::new(),
        ctl,
        notifier,
        pulse: Pulse::from_env(),
        demo: options.demo,
        attempt: reload::Attempt::default(),
        last_failure: None,
        awaited: Awaited::default(),
        history: History::default(),
        reopening: Reopening::default(),
        oom_kills: OomKills::from_now_on(monotonic_ns()),
        hooks: Hooks::default(),
        upgrade: Upgrade::new(options.catalog_layout),
        reload_failure: None,
        events: VecDeque::new(),
        started,
        exit: None,
        pidfile,
        state_dir,
    })
}

/// What a process does, as `/proc` says: `R`, `S`, `D`, `T`, `t`, `Z`; none when there is none.
pub fn state_of(pid: i32) -> Option<char> {
    proc_fs::main_thread(pid).map(|stat| stat.state)
}

/// What only root can do for the user, then becomes that user; the pid file, which may lie where only root can write.
fn become_who_is_wanted(settings: &Settings) -> Result<Option<Pidfile>, SetupError> {
    let identity = Identity::wanted(settings)?;
    let pidfile = settings.pidfile.as_deref().map(Pidfile::take).transpose()?;
    let Some(identity) = identity else { return Ok(pidfile) };
    let runtime = std::env::var("RUNTIME_DIRECTORY").ok();
    let ctl_path = ctl::path(runtime.as_deref(), &settings.state_dir);
    for directory in [Some(settings.state_dir.as_path()), ctl_path.parent()].into_iter().flatten() {
        identity.give_directory(directory)?;
    }
    let files = [settings.log_file.as_deref(), pidfile.as_ref().map(Pidfile::path)];
    for path in files.into_iter().flatten() {
        identity.give_file(path)?;
    }
    identity.assume()?;
    tracing::info!(%identity, "not root any more");
    Ok(pidfile)
}

/// The settings of the listeners.
fn wanted(settings: &Settings) -> Wanted {
    Wanted { bind: settings.bind.clone(), admin_bind: settings.admin_bind, backlog: settings.backlog }
}

/// The settings that decisions depend on.
fn plan(settings: &Settings) -> Plan {
    Plan {
        workers: settings.workers,
        boot_timeout: ns(settings.boot_timeout),
        graceful_timeout: ns(settings.graceful_timeout),
        recycle_min_interval: ns(settings.recycle_min_interval),
        watchdog: settings.watchdog,
        kill_interval: ns(settings.kill_interval),
        crash_budget: settings.crash_budget,
        give_up: settings.give_up.map(ns),
        slow_start: settings.slow_start.map_or(0, ns),
    }
}

/// A span of the settings; far more than anybody waits for is cut to that.
fn ns(duration: Duration) -> Ns {
    Ns::try_from(duration.as_nanos()).unwrap_or(Ns::MAX / 4)
}
