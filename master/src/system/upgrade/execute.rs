//! Writing everything down and becoming the other program.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use forkgate_shared::memfd;

use super::super::master::Master;
use super::super::signals::Blocked;
use super::kept::{Keeper, Kept, pass_on};
use super::resume::{Handover, STATE_VARIABLE};
use super::saved::{Header, Program, Saved};
use super::{Candidate, Executable};
use crate::supervisor::{Event, Execution};

impl Master {
    /// Becomes the program that the supervisor wants, if it still does when everything is heard that happened before.
    pub(in super::super) fn execute(&mut self) {
        // From here on signals are pending, for whichever program there will be.
        let _blocked = Blocked::all();
        self.take_signals();
        self.decide();
        let Some(execution) = self.supervisor.execution().filter(|_| self.exit.is_none()) else { return };
        let (target, previous) = match execution {
            Execution::Next => (self.upgrade.candidate.take(), None),
            Execution::Previous => (self.upgrade.previous.take(), self.upgrade.why.clone()),
        };
        let Some(target) = target else {
            self.upgrade.why = Some("the program is not held open any more".to_owned());
            self.events.push_back(Event::ExecutionFailed);
            return;
        };
        self.dismiss_operators();
        let program = target.path.display();
        tracing::info!(%program, "executing the program in place");
        let is_back = execution == Execution::Previous;
        let Err(error) = self.become_it(&target, is_back, previous);
        self.upgrade.why = Some(format!("{program} cannot be executed: {error}"));
        self.events.push_back(Event::ExecutionFailed);
    }

    /// Gives an error or does not return.
    fn become_it(
        &self,
        target: &Candidate,
        is_back: bool,
        why: Option<String>,
    ) -> Result<Infallible, io::Error> {
        let own = (!is_back).then_some(&self.executable);
        let (state, saved) = self.save(&target.path, own, why)?;
        let mut kept = saved.descriptors;
        let mut keeper = Keeper::default();
        let handover = Handover {
            state: keeper.keep(&state),
            previous: saved.previous.map(|previous| previous.file),
            is_back,
            refused: None,
        };
        kept.extend(keeper.all());
        execute(target.executable.as_fd(), &handover, &kept)
    }

    /// Writes everything down, for the program at `path`; `own` is the way back from there.
    pub(super) fn save(
        &self,
        path: &Path,
        own: Option<&Executable>,
        why: Option<String>,
    ) -> io::Result<(OwnedFd, Saved)> {
        let mut keeper = Keeper::default();
        let previous =
            own.map(|own| Program { path: self.upgrade.path.clone(), file: keeper.keep(own.as_fd()) });
        let mut saved = Saved {
            header: Header::own(self.upgrade.catalog_layout),
            descriptors: Vec::new(),
            supervisor: self.supervisor.clone(),
            children: self.children.iter().map(|(id, child)| (*id, child.save(&mut keeper))).collect(),
            zombies: self.zombies.save(&mut keeper),
            hooks: self.hooks.save(&mut keeper),
            listeners: self.listeners.save(&mut keeper),
            streams: self.streams.clone(),
            rows: keeper.keep(&self.rows_fd),
            sessions: keeper.keep(&self.sessions),
            state_dir_lock: self.state_dir.save(&mut keeper),
            pidfile: self.pidfile.as_ref().map(|pidfile| pidfile.save(&mut keeper)),
            versions: self.versions.save(&mut keeper),
            ctl: self.ctl.save(&mut keeper),
            history: self.history.clone(),
            stored_separator: self.stored_separator.clone(),
            sources: self.sources.clone(),
            demo: self.demo.clone(),
            started: self.started,
            previous,
            path: path.to_owned(),
            name: nix::sys::prctl::get_name()?.to_string_lossy().into_owned(),
            why,
        };
        saved.descriptors = keeper.all();
        Ok((memfd::immutable("forkgate-state", &serde_json::to_vec(&saved)?)?, saved))
    }
}

/// Executes a program that is held open, with this process's arguments and environment and the handover. Gives an error
/// or does not return; after an error everything is as before.
pub(super) fn execute(
    executable: BorrowedFd<'_>,
    handover: &Handover,
    kept: &[Kept],
) -> Result<Infallible, io::Error> {
    let text = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::from);
    let arguments: Vec<CString> =
        std::env::args_os().map(|argument| text(argument.into_vec())).collect::<Result<_, _>>()?;
    // Numbers of descriptors that were passed at the start mean something else by now.
    let is_over = |name: &OsString| name == STATE_VARIABLE || name.as_bytes().starts_with(b"LISTEN_");
    let inherited = std::env::vars_os().filter(|(name, _)| !is_over(name));
    let pairs = inherited.map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'='));
    let handover = format!("{STATE_VARIABLE}={}", serde_json::to_string(handover)?);
    let environment: Vec<CString> =
        pairs.chain([handover.into_bytes()]).map(text).collect::<Result<_, _>>()?;
    pass_on(kept, true)?;
    let Err(errno) = nix::unistd::fexecve(executable, &arguments, &environment);
    pass_on(kept, false)?;
    Err(errno.into())
}
