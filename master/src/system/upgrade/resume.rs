//! The other side of the exec: this program reads what the one before wrote down and goes on as its master.
//!
//! Until all of it is read nothing is taken over, so that the program before can be executed again when something does
//! not fit after all.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::CString;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use forkgate_shared::log;
use forkgate_shared::rows::{Rows, monotonic_ns};
use forkgate_shared::settings::{LogFormat, Settings};
use serde::{Deserialize, Serialize};

use super::super::crash_dir::CrashDir;
use super::super::ctl::Ctl;
use super::super::hooks::Hooks;
use super::super::master::Master;
use super::super::notify::Notifier;
use super::super::oom::OomKills;
use super::super::operators::awaited::Awaited;
use super::super::outside::Looks;
use super::super::pidfile::{self, Pidfile};
use super::super::poller::Poller;
use super::super::pulse::Pulse;
use super::super::reload::Attempt;
use super::super::reopen::Reopening;
use super::super::report::Reports;
use super::super::signals::{Signals, unblock_all};
use super::super::spawn::Executable;
use super::super::state_dir::StateDir;
use super::super::versions::Versions;
use super::super::watch::Watch;
use super::super::zombies::Zombies;
use super::super::{LOG_ROLE, SetupError, finish};
use super::execute::execute;
use super::kept::{Adopter, Kept};
use super::saved::{self, Saved, StateError};
use super::{Candidate, Upgrade};
use crate::supervisor::Event;

/// The variable of the environment that hands the state over; it is gone before anything is started.
pub const STATE_VARIABLE: &str = "FORKGATE_HANDOVER";

/// What stands in [`STATE_VARIABLE`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Handover {
    pub(super) state: Kept,
    /// The program before, should this one be unable to read the state.
    pub(super) previous: Option<Kept>,
    /// This is the program before, again.
    pub(super) is_back: bool,
    /// Why the other one sent it back at once.
    pub(super) refused: Option<String>,
}

/// What is read before anything is taken.
struct Read {
    saved: Saved,
    settings: Settings,
    rows: Rows,
    adopter: Adopter,
}

/// Runs the master on, until everything has ended; as [`super::super::run`].
pub fn resume(handover: &str, catalog_layout: u64) -> ExitCode {
    log::init(LogFormat::Text, "info", LOG_ROLE);
    // First: it keeps the numbers free that children find their descriptors under.
    let prepared = Executable::own().and_then(|own| Ok((own, serde_json::from_str::<Handover>(handover)?)));
    let (executable, handover) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            tracing::error!("cannot take over from the program before: {error}");
            return ExitCode::FAILURE;
        }
    };
    match read(&handover, catalog_layout) {
        Err(error) => send_back(handover, &error),
        Ok(read) => {
            // A demo's directory goes with its master, whichever program that is in the end.
            let directory = read.saved.demo.is_some().then(|| read.settings.state_dir.clone());
            let master = take_over(read, executable, handover.refused, catalog_layout);
            let first = if handover.is_back { Event::Reverted } else { Event::Upgraded };
            let code = finish(master.map_err(SetupError::from).and_then(|master| {
                let resumed = master.run(first);
                resumed.map_err(|source| SetupError::Io { doing: "wait for events", source })
            }));
            if let Some(directory) = directory {
                let _ = std::fs::remove_dir_all(directory);
            }
            code
        }
    }
}

fn read(handover: &Handover, catalog_layout: u64) -> Result<Read, StateError> {
    // SAFETY: the program before kept the state for this one; what was opened since has other numbers.
    let mut states = unsafe { Adopter::new(&[handover.state]) }?;
    let saved = match saved::read(states.borrow(handover.state)?, catalog_layout) {
        Ok(saved) => saved,
        Err(error) => {
            states.leave();
            return Err(error);
        }
    };
    // SAFETY: likewise; the state says which.
    let read = unsafe { Adopter::new(&saved.descriptors) }.map_err(StateError::from).and_then(|adopter| {
        let read = read_more(&saved, &adopter);
        match read {
            Ok((settings, rows)) => Ok((adopter, settings, rows)),
            Err(error) => {
                adopter.leave();
                Err(error)
            }
        }
    });
    match read {
        Ok((adopter, settings, rows)) => {
            drop(states.adopt(handover.state)?);
            Ok(Read { saved, settings, rows, adopter })
        }
        Err(error) => {
            states.leave();
            Err(error)
        }
    }
}

fn read_more(saved: &Saved, adopter: &Adopter) -> Result<(Settings, Rows), StateError> {
    let settings = saved::read_settings(adopter.borrow(saved.versions.settings)?, &saved.sources)?;
    let rows = Rows::open(&adopter.borrow(saved.rows)?)?;
    Ok((settings, rows))
}

/// Executes the program before again. Nothing was taken: it finds everything as it left it.
fn send_back(handover: Handover, why: &StateError) -> ExitCode {
    tracing::error!("cannot take over from the program before: {why}");
    let Some(previous) = handover.previous else { return ExitCode::FAILURE };
    let back = Handover { previous: None, is_back: true, refused: Some(why.to_string()), ..handover };
    let all = [back.state, previous];
    // SAFETY: kept for this program; nothing has taken them.
    let executed = unsafe { Adopter::new(&all) }.and_then(|held| {
        let result = execute(held.borrow(previous)?, &back, &all);
        held.leave();
        result
    });
    let Err(error) = executed;
    tracing::error!("the program before cannot be executed either: {error}");
    ExitCode::FAILURE
}

fn take_over(
    read: Read,
    mut executable: Executable,
    refused: Option<String>,
    catalog_layout: u64,
) -> io::Result<Master> {
    let Read { saved, settings, rows, mut adopter } = read;
    let _ = CString::new(saved.name).map(|name| nix::sys::prctl::set_name(&name));
    let log_file = log::to_file(settings.log_file.as_deref(), log::Links::Followed);
    log::init(settings.log_format, &settings.log_level, LOG_ROLE);
    if let Err(error) = log_file {
        tracing::error!(%error, "GATEWAY_LOG_FILE cannot be opened: lines go to stderr");
    }
    let now = monotonic_ns();
    // What was pending comes as soon as there is somebody to hear it.
    let signals = Signals::install()?;
    unblock_all()?;
    let crash_dir = CrashDir::of(&settings.state_dir);
    let children = saved.children.into_iter().map(|(id, child)| Ok((id, child.restore(&mut adopter)?)));
    let children = children.collect::<io::Result<BTreeMap<_, _>>>()?;
    let previous = match saved.previous {
        Some(previous) => Some(Candidate {
            path: previous.path,
            executable: Executable::held(adopter.adopt(previous.file)?),
        }),
        None => None,
    };
    let why = refused.or(saved.why);
    let listeners = saved.listeners.restore(&mut adopter)?;
    let ctl = Ctl::restore(saved.ctl, &mut adopter)?;
    let zombies = Zombies::restore(saved.zombies, &mut adopter)?;
    let hooks = Hooks::restore(saved.hooks, &mut adopter)?;
    let versions = Versions::restore(saved.versions, settings.clone(), &mut adopter)?;
    let (rows_fd, sessions) = (adopter.adopt(saved.rows)?, adopter.adopt(saved.sessions)?);
    let state_dir = StateDir::restore(&settings.state_dir, adopter.adopt(saved.state_dir_lock)?)?;
    let pidfile = resume_pidfile(saved.pidfile, settings.pidfile.as_deref(), &mut adopter);
    drop(adopter);
    executable.reserve()?;
    Ok(Master {
        supervisor: saved.supervisor,
        poller: Poller::new()?,
        signals,
        executable,
        listeners,
        streams: saved.streams,
        rows,
        rows_fd,
        sessions,
        versions,
        loaded: None,
        stored_separator: saved.stored_separator,
        sources: saved.sources,
        children,
        deaths: BTreeMap::new(),
        zombies,
        watch: Watch::new(now),
        looks: Looks::default(),
        reports: Reports::default(),
        crash_dir,
        queues_due: now,
        ctl,
        notifier: Notifier::from_env()?,
        pulse: Pulse::from_env(),
        demo: saved.demo,
        attempt: Attempt::default(),
        reload_failure: None,
        last_failure: None,
        oom_kills: OomKills::from_now_on(now),
        hooks,
        awaited: Awaited::default(),
        history: saved.history,
        reopening: Reopening::default(),
        upgrade: Upgrade { previous, why, ..Upgrade::at(saved.path, catalog_layout) },
        events: VecDeque::new(),
        started: saved.started,
        exit: None,
        pidfile,
        state_dir,
    })
}

/// The program before may not have known of it: then it is written now. Nothing else depends on it.
fn resume_pidfile(
    saved: Option<pidfile::Saved>,
    path: Option<&Path>,
    adopter: &mut Adopter,
) -> Option<Pidfile> {
    let restored = saved.and_then(|saved| match Pidfile::restore(saved, adopter) {
        Ok(pidfile) => Some(pidfile),
        Err(error) => {
            tracing::warn!(%error, "the pid file of the program before is given up");
            None
        }
    });
    if restored.is_some() {
        return restored;
    }
    Pidfile::take(path?).inspect_err(|error| tracing::error!("{error}")).ok()
}
