//! From `exec` to the accept loop: takes over what the master passes, builds the [`Gateway`], says ready.
//!
//! Invariant: `Ready` is sent after the accept loops are registered with the kernel, so that a master that drains the
//! predecessor then leaves no moment in which nobody accepts.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use forkgate_shared::control::{FromChild, MAX_MESSAGE, VERSION};
use forkgate_shared::log;
use forkgate_shared::rows::{Counters, RowState, Rows, monotonic_ns};
use forkgate_shared::sealed::{KeyRing, KeyRingError};
use forkgate_shared::sessions::Sessions;
use forkgate_shared::settings::{Settings, allowed_cpus};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;
use tokio::runtime::RuntimeMetrics;
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::calls::MOST_ABANDONED;
use super::control::{self, Control};
use super::drain::{self, Doors};
use super::essential::Duty;
use super::inherited::Inherited;
use super::succession::Succession;
use super::{Lifecycle, recycle, self_probe, task};
use crate::auth::Authenticator;
use crate::edge::client::Client;
use crate::edge::serve::{Edge, Port};
use crate::gateway::{Gateway, Shared};
use crate::net::accept::{self, Accepting, Acceptor, Room};
use crate::net::stream::Door;
use crate::registry::{self, Registry};
use crate::upstream::Upstreams;
use crate::watchdog;

const EXIT_BOOT: u8 = 3;
const EXIT_SETTINGS: u8 = 4;
/// As of any program of Rust's.
const EXIT_PANIC: u8 = 101;

/// The last panic of this process, in one line.
static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);
/// And the number of the signal that ended a worker while it booted, as shells say it.
const EXIT_SIGNAL: u8 = 128;

/// What the event loop's root is called among the tasks.
pub(crate) const ROOT_TASK: &str = "worker";

/// Descriptors kept for what is not a client's connection (upstreams, the database, files), as a part of the limit.
const RESERVED_SHARE: u64 = 4;
/// Connections of the admin port: operators and scrapers, not clients.
const ADMIN_ROOM: usize = 128;
/// Threads for what blocks: memory samples, files.
const BLOCKING_THREADS: usize = 4;

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
enum BootError {
    /// The settings do not arrive or do not work here.
    #[error("settings: {0}")]
    Settings(String),
    /// Everything else: what was being done, and what went wrong.
    #[error("{doing}: {problem}")]
    Failed { doing: &'static str, problem: String },
}

/// Names the step that failed.
trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, BootError>;
}

impl<T, E: std::fmt::Display> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str) -> Result<T, BootError> {
        self.map_err(|error| BootError::Failed { doing, problem: error.to_string() })
    }
}

/// Who this worker is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The slot it serves.
    pub slot: u32,
    /// Its row of shared memory.
    pub row: usize,
    /// Which child of the master it is.
    pub generation: u64,
}

/// A worker's whole life, with so many listeners.
pub(crate) fn run(who: Identity, listeners: usize, admin_listeners: usize) -> ExitCode {
    let slot = who.slot;
    // First of all: a signal that a worker ignores must not end it while it boots, and no thread exists yet.
    let signals = control::block_signals();
    if let Ok(name) = CString::new(format!("fg-worker-{slot}")) {
        // Only what `ps` shows depends on it.
        let _ = nix::sys::prctl::set_name(&name);
    }
    // SAFETY: the first thing this process does with descriptors, and done once.
    let inherited = match unsafe { Inherited::take(listeners, admin_listeners) } {
        Ok(inherited) => inherited,
        Err(error) => {
            eprintln!("forkgate worker {slot}: {error}");
            return ExitCode::from(EXIT_BOOT);
        }
    };
    let Inherited { control, rows, settings, sessions, catalog, listeners, admin_listeners } = inherited;
    let control = Rc::new(Control::new(control));
    let parts = Parts { rows, settings, sessions, catalog, listeners, admin_listeners };
    let life = || serve(who, &control, signals, parts);
    // Nothing of what a panic leaves behind is used again.
    match catch_unwind(AssertUnwindSafe(life)) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            tracing::error!(%error, "the worker cannot start");
            say_why(&control, error.to_string());
            ExitCode::from(if matches!(error, BootError::Settings(_)) { EXIT_SETTINGS } else { EXIT_BOOT })
        }
        Err(_) => {
            let panic = LAST_PANIC.lock().ok().and_then(|mut panic| panic.take());
            say_why(&control, panic.unwrap_or_else(|| "a panic".to_owned()));
            ExitCode::from(EXIT_PANIC)
        }
    }
}

/// Tells the master. It may be gone; the exit code says it too.
fn say_why(control: &Control, mut message: String) {
    message.truncate(message.floor_char_boundary(MAX_MESSAGE / 8));
    let _ = control.send(&FromChild::BootFailed { message });
}

/// What was inherited besides the control socket.
struct Parts {
    rows: OwnedFd,
    settings: OwnedFd,
    sessions: OwnedFd,
    catalog: OwnedFd,
    listeners: Vec<OwnedFd>,
    admin_listeners: Vec<OwnedFd>,
}

fn serve(
    who: Identity,
    control: &Rc<Control>,
    signals: nix::Result<SigSet>,
    parts: Parts,
) -> Result<ExitCode, BootError> {
    control.send_if_alive(&FromChild::Hello { version: VERSION }).doing("greeting the master")?;
    let settings =
        Settings::from_fd(parts.settings).map_err(|error| BootError::Settings(error.to_string()))?;
    let log_file = log::to_file(settings.log_file.as_deref(), log::Links::Followed);
    log::init(settings.log_format, &settings.log_level, &format!("worker {}", who.slot));
    if let Err(error) = log_file {
        tracing::error!(%error, "GATEWAY_LOG_FILE cannot be opened: this worker's lines go to stderr");
    }
    log_panics();
    pin(&settings, who.slot);
    let signals = signals.doing("blocking signals")?;
    let places = raise_descriptor_limit().doing("raising the limit of open files")?;
    let rows = Arc::new(Rows::open(&parts.rows).doing("mapping the row table")?);
    if who.row >= rows.capacity() {
        return Err(BootError::Failed {
            doing: "taking a row",
            problem: format!("there is no row {}", who.row),
        });
    }
    introduce(&rows, who, &settings);
    count_panics(Arc::clone(&rows), who.row);
    let settings = Arc::new(settings);
    let tasks = Arc::new(task::Registry::new());
    task::install(Arc::clone(&tasks));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .doing("starting the event loop")?;
    let metrics = runtime.metrics();
    let local = LocalSet::new();
    let life = task::root(ROOT_TASK, async {
        let gateway = Rc::new(Gateway {
            auth: Authenticator::new(&settings),
            sessions: Sessions::open(parts.sessions, key_ring(&settings)?)
                .doing("opening the session table")?,
            upstreams: Upstreams::new(&settings, Arc::clone(&rows), who.row)
                .doing("preparing upstream connections")?,
            registry: Registry::new(&settings),
            catalog: ArcSwap::from_pointee(drain::read_catalog(&parts.catalog).doing("reading the catalog")?),
            lifecycle: Lifecycle::default(),
            control: Rc::clone(control),
            row_index: who.row,
            rows,
            settings,
        });
        let row = gateway.row();
        row.catalog_generation.store(gateway.catalog.load().generation, Relaxed);
        let doors = [(Port::Main, parts.listeners), (Port::Admin, parts.admin_listeners)];
        let code = open_and_serve(&gateway, signals, places, doors, Loop { tasks, metrics }).await;
        gateway.lifecycle.essential.ends();
        code
    });
    let code = local.block_on(&runtime, life);
    // What still runs is cut off by intention: everything that was to be waited for was waited for.
    drop(local);
    runtime.shutdown_background();
    code
}

/// Keys that are none stay none until somebody changes them; a file that cannot be read may be readable in a minute.
fn key_ring(settings: &Settings) -> Result<KeyRing, BootError> {
    match KeyRing::load(settings) {
        Err(error @ KeyRingError::Keys { .. }) => Err(BootError::Settings(error.to_string())),
        loaded => loaded.doing("reading the session keys"),
    }
}

/// Writes into the row who this is.
fn introduce(rows: &Rows, who: Identity, settings: &Settings) {
    let row = rows.row(who.row);
    row.slot.store(who.slot, Relaxed);
    row.generation.store(who.generation, Relaxed);
    row.pid.store(u64::from(std::process::id()), Relaxed);
    row.started_ns.store(monotonic_ns(), Relaxed);
    row.heartbeat_ns.store(monotonic_ns(), Relaxed);
    row.request_limit.store(recycle::request_limit(settings), Relaxed);
    if row.settings_generation.load(Relaxed) == 0 {
        row.settings_generation.store(rows.base().settings_generation.load(Relaxed), Relaxed);
    }
    row.state.store(RowState::Booting as u32, Relaxed);
}

/// What the watchdog looks at.
struct Loop {
    tasks: Arc<task::Registry>,
    metrics: RuntimeMetrics,
}

async fn open_and_serve(
    gateway: &Shared,
    signals: SigSet,
    places: usize,
    doors: [(Port, Vec<OwnedFd>); 2],
    event_loop: Loop,
) -> Result<ExitCode, BootError> {
    let settings = &gateway.settings;
    let essential = &gateway.lifecycle.essential;
    let (line, orders, report_orders) =
        gateway.control.listener(signals, settings.orphan_timeout).doing("listening to the master")?;
    let row = gateway.row();
    row.connection_limit.store(places as u64, Relaxed);
    row.abandoned_limit.store(MOST_ABANDONED as u64, Relaxed);
    self_probe::run(gateway).await.doing("asking itself")?;
    let (accepting, _) = watch::channel(Accepting::Open);
    let (mut loops, mut ports) = (Vec::new(), Vec::new());
    for (port, fds) in doors {
        let room = Rc::new(Room::new(if port == Port::Main { places } else { ADMIN_ROOM }));
        let edges = [true, false].map(|is_local| Rc::new(Edge::new(gateway, port, is_local)));
        ports.extend(edges.iter().map(|edge| (Rc::clone(edge), Rc::clone(&room))));
        for fd in fds {
            let door = Door::new(fd).doing("taking over a listener")?;
            let edge = Rc::clone(&edges[usize::from(!door.is_local())]);
            let told = accept::Orders { accepting: accepting.subscribe(), added: orders.added() };
            let acceptor = Acceptor::new(door, Rc::clone(&room), told);
            let on_duty = essential.take_up(port.accept_duty());
            loops.push(task::spawn(on_duty.duty().as_str(), async move {
                let run = acceptor.run(|stream, place| Client::accepted(&edge, stream, place).serve());
                #[cfg(feature = "faults")]
                let run = crate::faults::essential::accepting(port, run);
                run.await;
                // It returns when it is told to.
                on_duty.is_relieved();
            }));
        }
    }
    recycle::start(gateway);
    let (watch, on_duty) = (registry::watch(Shared::clone(gateway)), essential.take_up(Duty::RegistryWatch));
    task::spawn(on_duty.duty().as_str(), async move {
        let _on_duty = on_duty;
        watch.await;
    });
    if let Some(signal) = line.ended_while_booting() {
        tracing::info!(signal, "ended while it started");
        return Ok(ExitCode::from(EXIT_SIGNAL + signal));
    }
    gateway.row().state.store(RowState::Serving as u32, Relaxed);
    gateway.control.send_if_alive(&FromChild::Ready).doing("telling the master that the worker is ready")?;
    line.start(essential.take_up(Duty::Control)).doing("listening to the master")?;
    let wiring = watchdog::Wiring {
        rows: (Arc::clone(&gateway.rows), gateway.row_index),
        registry: event_loop.tasks,
        metrics: event_loop.metrics,
        loop_tid: nix::unistd::gettid().as_raw(),
        orders: report_orders,
        control: gateway.control.socket(),
        essential: Arc::clone(essential),
        over_memory: Arc::clone(&gateway.lifecycle.over_memory),
    };
    watchdog::start(settings, wiring).doing("starting the watchdog")?;
    tracing::info!(catalog = gateway.catalog.load().generation, "serving");
    let doors = Doors { orders: accepting, loops, succession: Succession::new(ports) };
    Ok(drain::serve_until_told(gateway, orders, doors).await)
}

/// Ties this process, with all threads that it starts, to the CPUs of its slot. One that is gone since the settings were
/// read is no reason not to serve.
fn pin(settings: &Settings, slot: u32) {
    let Some(cpus) = settings.cpu_affinity.of_slot(slot, &allowed_cpus()) else { return };
    let mut set = CpuSet::new();
    let pinned = cpus
        .iter()
        .try_for_each(|cpu| set.set(*cpu as usize))
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    match pinned {
        Ok(()) => tracing::debug!(slot, ?cpus, "tied to its CPUs"),
        Err(error) => {
            tracing::warn!(slot, ?cpus, %error, "GATEWAY_CPU_AFFINITY cannot be followed: the kernel chooses the CPU");
        }
    }
}

/// Raises the soft limit of open files to the hard one; returns how many connections fit.
fn raise_descriptor_limit() -> nix::Result<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(usize::try_from(hard - hard / RESERVED_SHARE).unwrap_or(usize::MAX))
}

/// A panic ends the task it happens in, not the worker; one line says where.
fn log_panics() {
    std::panic::set_hook(Box::new(log_panic));
}

/// As [`log_panics`], and counts it.
fn count_panics(rows: Arc<Rows>, row: usize) {
    std::panic::set_hook(Box::new(move |info| {
        Counters::add(&rows.row(row).counters.panics, 1);
        log_panic(info);
    }));
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("no message");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    if let Ok(mut last) = LAST_PANIC.lock() {
        *last = Some(format!("panic at {place}: {message}"));
    }
    tracing::error!(message, place, "panic");
}
