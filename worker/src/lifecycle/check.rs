//! The check child of a reload: whether the settings, as they are in the files now, can be put into force.
//!
//! It reads them as `serve` does and looks at what they name, listens nowhere and changes nothing. What is found wrong here
//! is refused before a single worker has been replaced; what only shows in a running worker, the first replaced one meets.
//!
//! | looked at | when it is bad |
//! |---|---|
//! | every setting, the files they come from | refused, every problem named |
//! | the session keys, or where they would be minted | refused |
//! | the file of the log, which is made where it is not there | refused |
//! | the database | a warning: the gateway serves without; one of ContextForge's is refused |

use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

use forkgate_shared::control::{self, ControlError, ControlSocket, FromChild};
use forkgate_shared::log;
use forkgate_shared::sealed::KeyRing;
use forkgate_shared::settings::Settings;
use forkgate_shared::settings::check::{Accepted, CheckTask, CheckVerdict};

use super::inherited;
use crate::registry::look::{Look, look};

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error(transparent)]
    System(#[from] io::Error),
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Runs the child; descriptors `CONTROL` and `SETTINGS`.
pub(crate) fn run() -> ExitCode {
    let (control, task) = match inherited::control_and_settings() {
        Ok((control, task)) => (ControlSocket::from_fd(control), task),
        Err(error) => {
            eprintln!(
                "forkgate reload-check is a part of `forkgate serve` and not for use by hand ({error}); use `forkgate check`"
            );
            return ExitCode::from(64);
        }
    };
    let told = CheckTask::from_fd(task).map_err(CheckError::from).and_then(|task| tell(&control, &task));
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forkgate reload-check: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tell(control: &ControlSocket, task: &CheckTask) -> Result<(), CheckError> {
    control.send(&FromChild::Hello { version: control::VERSION }, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let verdict = runtime.block_on(verdict(task));
    control.send(&FromChild::Checked, Some(verdict.to_memfd()?.as_fd()))?;
    Ok(())
}

async fn verdict(task: &CheckTask) -> CheckVerdict {
    let running = &task.running;
    let loaded = match Settings::load_over(running, task.sources.clone()) {
        Ok(loaded) => loaded,
        Err(errors) => return CheckVerdict::Refused(errors.to_string()),
    };
    let settings = loaded.settings.clone().with_fixed_of(running);
    let changes = Settings::reload_changes(running, &loaded.settings, &settings);
    let origins = loaded.origins_in_words();
    let (mut problems, mut warnings) = (Vec::new(), loaded.warnings);
    problems.extend(KeyRing::check(&settings).err().map(|error| error.to_string()));
    if let Some(path) = &settings.log_file
        && let Err(error) = log::try_file(path)
    {
        problems.push(format!("GATEWAY_LOG_FILE {} cannot be opened: {error}", path.display()));
    }
    match look(&settings.database, settings.database != running.database).await {
        Look::Fine => {}
        Look::Warning(warning) => warnings.push(warning),
        Look::Foreign(problem) => problems.push(problem),
    }
    if problems.is_empty() {
        CheckVerdict::Accepted(Box::new(Accepted { settings, changes, warnings, origins }))
    } else {
        CheckVerdict::Refused(problems.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use forkgate_shared::settings::Sources;

    use super::*;

    /// What is found of these settings by a gateway that keeps its state in `dir`.
    fn check(dir: &Path, new: &[(&str, &str)]) -> CheckVerdict {
        let sources = |more: &[(&str, &str)]| {
            let base =
                [("GATEWAY_JWT_SECRET", &*"0123456789abcdef".repeat(4)), ("GATEWAY_STATE_DIR", text(dir))]
                    .map(owned);
            let flags = base.into_iter().chain(more.iter().copied().map(owned)).collect();
            Sources { flags, ..Sources::default() }
        };
        let running = Settings::load(sources(&[])).expect("settings").settings;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(verdict(&CheckTask { running, sources: sources(new) }))
    }

    fn owned((name, value): (&str, &str)) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    fn text(path: &Path) -> &str {
        path.to_str().expect("UTF-8")
    }

    #[test]
    fn good_settings_are_accepted_with_what_they_change_and_nothing_is_written() {
        let dir = tempfile::tempdir().expect("dir");
        let CheckVerdict::Accepted(accepted) =
            check(dir.path(), &[("max_requests", "7"), ("bind", "[::1]:9")])
        else {
            panic!("accepted")
        };
        assert_eq!(
            (accepted.settings.max_requests, accepted.changes.len()),
            (7, 3),
            "{:?}",
            accepted.changes
        );
        assert!(accepted.warnings.iter().any(|warning| warning.contains("cannot be used now")));
        assert_eq!(std::fs::read_dir(dir.path()).expect("dir").count(), 0);
    }

    #[test]
    fn every_problem_of_the_settings_is_named() {
        let dir = tempfile::tempdir().expect("dir");
        let CheckVerdict::Refused(why) =
            check(dir.path(), &[("workers", "many"), ("graceful_timeout", "soon")])
        else {
            panic!("refused")
        };
        assert!(why.lines().count() == 2 && why.contains("many") && why.contains("soon"), "{why}");
    }

    #[test]
    fn keys_that_no_worker_could_use_are_refused() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join("session.keys"), "rubbish").expect("write");
        let CheckVerdict::Refused(why) = check(dir.path(), &[]) else { panic!("refused") };
        assert!(why.contains("session.keys"), "{why}");
    }
}
