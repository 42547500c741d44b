//! One child process as the shell knows it, and how it is started.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use forkgate_shared::control::{ControlSocket, ToChild};
use forkgate_shared::descriptors::{ADMIN_LISTENERS, CATALOG, CONTROL, LISTENERS, ROWS, SESSIONS, SETTINGS};
use forkgate_shared::rows::monotonic_ns;
use forkgate_shared::settings::check::CheckTask;
use forkgate_shared::settings::{Settings, Sources, Watchdog};
use serde::{Deserialize, Serialize};

use super::listeners::Inherited;
use super::pidfd::PidFd;
use super::spawn::{Executable, Request};
use super::upgrade::{Adopter, Keeper, Kept};
use super::versions::{Catalog, Version};
use crate::supervisor::{ChildId, Ns, Role};

/// A child that is not reaped yet.
#[derive(Debug)]
pub struct Child {
    /// Process id, for people.
    pub pid: i32,
    /// The process.
    pub pidfd: PidFd,
    /// The master's end; none once the child closed its own.
    pub control: Option<ControlSocket>,
    /// What it is for.
    pub role: Role,
    /// Version of its settings.
    pub version: u64,
    /// The database of its settings: whose catalogs it sends and gets.
    pub database: PathBuf,
    /// The newest catalog did not fit into its socket and is to be sent when there is room.
    pub behind: bool,
    /// An order to leave that did not fit into its socket.
    pub order: Option<ToChild>,
    /// What became of added addresses (in force or not) did not fit into its socket either.
    pub untold: Option<bool>,
    /// It said that it is ready.
    pub ready: bool,
    /// It was sent SIGKILL by the master.
    pub killed: bool,
    /// Why it ends, as it said itself.
    pub last_words: Option<String>,
    /// When it was started.
    pub spawned: Ns,
    /// What its settings say about it.
    pub limits: Limits,
}

/// What the settings that a child runs with say about watching it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// `GATEWAY_WATCHDOG`.
    pub watchdog: Watchdog,
    /// `GATEWAY_STALL_TIMEOUT`.
    pub stall_timeout: Ns,
    /// `GATEWAY_MAX_RSS` in bytes.
    pub max_rss: Option<u64>,
}

impl Limits {
    fn of(settings: &Settings) -> Limits {
        Limits {
            watchdog: settings.watchdog,
            stall_timeout: super::ns(settings.stall_timeout),
            max_rss: settings.max_rss,
        }
    }
}

/// A child as it is written down for another program, which goes on as its master.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    pid: i32,
    pidfd: Kept,
    control: Option<Kept>,
    role: Role,
    #[serde(default)]
    version: u64,
    database: PathBuf,
    behind: bool,
    #[serde(default)]
    order: Option<ToChild>,
    #[serde(default)]
    untold: Option<bool>,
    ready: bool,
    spawned: Ns,
    limits: Limits,
    #[serde(default)]
    killed: bool,
    #[serde(default)]
    last_words: Option<String>,
}

impl Child {
    /// Something that it must hear did not fit into its socket.
    pub fn is_owed(&self) -> bool {
        self.order.is_some() || self.behind || self.untold.is_some()
    }

    /// Writes it down.
    pub fn save(&self, keeper: &mut Keeper) -> Saved {
        Saved {
            pid: self.pid,
            pidfd: keeper.keep(&self.pidfd),
            control: self.control.as_ref().map(|control| keeper.keep(control)),
            role: self.role,
            version: self.version,
            database: self.database.clone(),
            behind: self.behind,
            order: self.order.clone(),
            untold: self.untold,
            ready: self.ready,
            spawned: self.spawned,
            limits: self.limits,
            killed: self.killed,
            last_words: self.last_words.clone(),
        }
    }
}

impl Saved {
    /// The child again.
    pub fn restore(self, adopter: &mut Adopter) -> io::Result<Child> {
        let control = self.control.map(|control| adopter.adopt(control)).transpose()?;
        Ok(Child {
            pid: self.pid,
            pidfd: PidFd::adopt(adopter.adopt(self.pidfd)?),
            control: control.map(ControlSocket::from_fd),
            role: self.role,
            version: self.version,
            database: self.database,
            behind: self.behind,
            order: self.order,
            untold: self.untold,
            ready: self.ready,
            spawned: self.spawned,
            limits: self.limits,
            killed: self.killed,
            last_words: self.last_words,
        })
    }
}

/// What children are given besides what belongs to their version.
pub struct Common<'a> {
    /// The program.
    pub executable: &'a Executable,
    /// Shared rows.
    pub rows: &'a OwnedFd,
    /// Session table.
    pub sessions: &'a OwnedFd,
    /// Where settings come from, for a check.
    pub sources: &'a Sources,
    /// `--json` for the demo's companion.
    pub json: bool,
}

/// Starts a child.
pub fn start(
    common: &Common<'_>,
    id: ChildId,
    role: Role,
    version: &Version,
    catalog: Option<&Catalog>,
    listeners: Option<Inherited<'_>>,
) -> io::Result<Child> {
    let (ours, theirs) = ControlSocket::pair()?;
    let check = (role == Role::Check)
        .then(|| CheckTask { running: version.settings.clone(), sources: common.sources.clone() }.to_memfd())
        .transpose()?;
    let settings = check.as_ref().unwrap_or(&version.memfd);
    let mut descriptors = vec![(theirs.as_fd(), CONTROL), (settings.as_fd(), SETTINGS)];
    let (args, death_signal): (Vec<String>, i32) = match role {
        Role::Worker { slot, row } => {
            let listeners = listeners.ok_or_else(|| io::Error::other("the slot has no socket"))?;
            let catalog = catalog.ok_or_else(|| io::Error::other("there is no catalog"))?;
            descriptors.extend([
                (common.rows.as_fd(), ROWS),
                (common.sessions.as_fd(), SESSIONS),
                (catalog.memfd.as_fd(), CATALOG),
            ]);
            let args = [
                ("--slot", u64::from(slot.0)),
                ("--row", row as u64),
                ("--generation", id.0),
                ("--listeners", listeners.clients.len() as u64),
                ("--admin-listeners", listeners.admin.len() as u64),
            ];
            descriptors.extend(listeners.admin.into_iter().map(AsFd::as_fd).zip(ADMIN_LISTENERS..));
            descriptors.extend(listeners.clients.into_iter().map(AsFd::as_fd).zip(LISTENERS..));
            let flags = args.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_string()]);
            (std::iter::once("worker".to_owned()).chain(flags).collect(), libc::SIGTERM)
        }
        Role::Migrate => {
            descriptors.extend([(common.rows.as_fd(), ROWS), (common.sessions.as_fd(), SESSIONS)]);
            // A half-done migration is rolled back by the database; an orphan that goes on is in nobody's hand.
            (vec!["migrate".to_owned()], libc::SIGKILL)
        }
        Role::Check => (vec!["reload-check".to_owned()], libc::SIGKILL),
        Role::Companion => {
            let json = common.json.then(|| "--json".to_owned());
            let master = ["--master".to_owned(), std::process::id().to_string()];
            (std::iter::once("demo-companion".to_owned()).chain(json).chain(master).collect(), libc::SIGTERM)
        }
    };
    let args = args.into_iter().map(OsString::from).collect();
    let (pid, pidfd) =
        common.executable.spawn(&Request { args, descriptors, death_signal, ..Request::default() })?;
    Ok(Child {
        pid,
        pidfd,
        control: Some(ours),
        role,
        version: version.number,
        database: version.settings.database.clone(),
        behind: false,
        order: None,
        untold: None,
        ready: false,
        killed: false,
        last_words: None,
        spawned: monotonic_ns(),
        limits: Limits::of(&version.settings),
    })
}
