//! Hooks: the commands that are run when something has happened.
//!
//! A command is split into words as a shell splits them (quotes, backslashes, comments), and no shell is run: nothing is
//! expanded. What it is told is documented in `docs/hooks.md`.

use std::collections::BTreeMap;
use std::path::Path;

use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};

use super::draft::Draft;
use super::parse::{self, Invalid};

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// The gateway serves; the service manager is told so at the same moment.
    OnReady,
    /// A reload has ended, well or not.
    OnReload,
    /// A worker accepts connections.
    WorkerReady,
    /// A worker has ended, whatever the reason.
    WorkerExit,
    /// The master has killed a worker.
    WorkerKilled,
}

impl Hook {
    /// The word for logs and for the hook itself.
    pub fn as_str(self) -> &'static str {
        match self {
            Hook::OnReady => "on_ready",
            Hook::OnReload => "on_reload",
            Hook::WorkerReady => "worker_ready",
            Hook::WorkerExit => "worker_exit",
            Hook::WorkerKilled => "worker_killed",
        }
    }
}

/// The commands, as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hooks(BTreeMap<Hook, String>);

impl Hooks {
    /// The words of a hook's command; none when nobody wants it.
    pub fn words(&self, hook: Hook) -> Option<Vec<String>> {
        self.0.get(&hook).and_then(|text| shlex::split(text)).filter(|words| !words.is_empty())
    }

    /// The command as it was written, or `off`.
    pub fn show(&self, hook: Hook) -> String {
        self.0.get(&hook).cloned().unwrap_or_else(|| "off".to_owned())
    }

    fn set(&mut self, hook: Hook, text: &str) -> Result<(), Invalid> {
        if parse::is_off(text) {
            self.0.remove(&hook);
            return Ok(());
        }
        let words = shlex::split(text).ok_or(Invalid::Quotes)?;
        let program = Path::new(words.first().ok_or(Invalid::NotAProgram)?);
        let may_run = program.is_file() && access(program, AccessFlags::X_OK).is_ok();
        if !program.is_absolute() || !may_run || text.contains('\0') {
            return Err(Invalid::NotAProgram);
        }
        self.0.insert(hook, text.to_owned());
        Ok(())
    }
}

/// Reads one.
pub(super) fn read(draft: &mut Draft, hook: Hook, text: &str) -> Result<(), Invalid> {
    draft.settings.hooks.set(hook, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_as_a_shell_would_and_checked() {
        let mut hooks = Hooks::default();
        hooks.set(Hook::WorkerExit, r#"/bin/sh -c 'echo "a b" $HOME' x\ y # why"#).expect("a command");
        let words = hooks.words(Hook::WorkerExit).expect("set");
        assert_eq!(words, ["/bin/sh", "-c", r#"echo "a b" $HOME"#, "x y"]);
        assert_eq!(hooks.words(Hook::OnReady), None);
        for (text, why) in [
            ("/bin/sh 'open", Invalid::Quotes),
            ("sh -c true", Invalid::NotAProgram),
            ("# nothing", Invalid::NotAProgram),
            ("/no/such/program", Invalid::NotAProgram),
            ("/etc/passwd", Invalid::NotAProgram),
            ("/tmp", Invalid::NotAProgram),
        ] {
            assert_eq!(hooks.set(Hook::OnReady, text), Err(why), "{text}");
        }
        hooks.set(Hook::WorkerExit, "off").expect("off");
        assert_eq!((hooks.words(Hook::WorkerExit), hooks.show(Hook::WorkerExit)), (None, "off".to_owned()));
    }
}
