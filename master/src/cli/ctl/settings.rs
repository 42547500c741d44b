//! `ctl settings`: what is in force, where it comes from, and what of the files is not.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::connect::{CtlError, ask};
use super::operate::wait_for;
use crate::cli::output;
use crate::system::ctl::{InForce, InForceSetting, Outcome, Request};

/// Widest first column, in characters; longer values push their own comment only.
const MAX_WIDTH: usize = 60;

/// What differs from defaults, and the files from what is in force.
#[derive(Serialize)]
struct Diff {
    #[serde(flatten)]
    in_force: InForce,
    files: Outcome,
}

/// Prints the settings in force; with `diff` only those that are not their defaults, and what a reload would change.
///
/// Exit code 1 when there is no answer, or, with `diff`, when the files are not valid now.
pub fn settings(diff: bool, json: bool, sockets: &[PathBuf]) -> ExitCode {
    let asked = match diff {
        true => difference(sockets),
        false => ask::<InForce>(sockets, &Request::Settings).map(|(_, in_force)| (in_force, None)),
    };
    let (in_force, files) = match asked {
        Ok(answer) => answer,
        Err(error) => {
            output::complain("error", &error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let Some(files) = files else {
        return output::print(&if json { one_line(&in_force) } else { listing(&in_force.settings) });
    };
    let refusal = (!files.ok).then(|| files.error.clone().unwrap_or_default());
    let text = listing(&in_force.settings) + &waiting(&files);
    let printed = output::print(&if json { one_line(&Diff { in_force, files }) } else { text });
    match refusal {
        None => printed,
        Some(why) => {
            if !json {
                output::complain("a reload would be refused", &why);
            }
            ExitCode::FAILURE
        }
    }
}

fn difference(sockets: &[PathBuf]) -> Result<(InForce, Option<Outcome>), CtlError> {
    let (_, mut in_force) = ask::<InForce>(sockets, &Request::Settings)?;
    in_force.settings.retain(|setting| setting.differs);
    let (_, files) = wait_for::<Outcome>(&Request::Reload { check_only: true }, sockets, |_| ())?;
    Ok((in_force, Some(files)))
}

fn one_line(answer: &impl Serialize) -> String {
    // Plain data: what is written here is always JSON.
    serde_json::to_string(answer).unwrap_or_default() + "\n"
}

/// One line per setting, in the form of an env file: `NAME=value  # where from (default …)`.
fn listing(settings: &[InForceSetting]) -> String {
    let left = |setting: &InForceSetting| format!("{}={}", setting.name, setting.value);
    let width =
        settings.iter().map(|setting| left(setting).chars().count()).max().unwrap_or(0).min(MAX_WIDTH);
    let line = |setting: &InForceSetting| {
        let source = setting.source.as_deref().unwrap_or("not known where from");
        let default = setting.default.as_ref().filter(|_| setting.differs);
        let default = default.map(|default| format!(" (default {default})")).unwrap_or_default();
        format!("{:<width$}  # {source}{default}\n", left(setting))
    };
    settings.iter().map(line).collect()
}

/// What a reload would do now.
fn waiting(files: &Outcome) -> String {
    if !files.ok {
        return String::new();
    }
    let warnings: String = files.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
    if files.changes.is_empty() {
        return format!("\na reload would change nothing\n{warnings}");
    }
    let changes: String = files.changes.iter().map(|change| format!("{change}\n")).collect();
    format!("\na reload would change:\n{changes}{warnings}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_a_line_of_an_env_file_with_its_source_and_its_default() {
        let setting = |value: &str, differs: bool| InForceSetting {
            name: "GATEWAY_WORKERS".to_owned(),
            value: value.to_owned(),
            source: differs.then(|| "flag".to_owned()),
            default: Some("2".to_owned()),
            differs,
            needs_restart: false,
        };
        assert_eq!(
            listing(&[setting("4", true), setting("2", false)]),
            "GATEWAY_WORKERS=4  # flag (default 2)\nGATEWAY_WORKERS=2  # not known where from\n"
        );
        assert_eq!(waiting(&Outcome { ok: true, ..Outcome::default() }), "\na reload would change nothing\n");
        assert_eq!(waiting(&Outcome::default()), "");
    }
}
