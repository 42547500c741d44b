//! Where settings come from, strongest first: flags, env file, environment of the process, TOML file.
//!
//! A process cannot re-read its own environment, so [`Sources`] keeps what it was at the start; the files are read
//! anew by every load.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::{contextforge, env_file, kubernetes, suggest, table, toml_file};

/// Largest file of settings, in bytes; ContextForge's commented example is 100 KiB.
const MAX_FILE: u64 = 1 << 20;

/// Names of the environment that are read besides the settings, to find the state directory.
const DIRECTORIES: [&str; 3] = ["STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"];

/// What to read settings from.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// From the command line: name and value, later ones win.
    pub flags: Vec<(String, String)>,
    /// `--env-file`.
    pub env_file: Option<PathBuf>,
    /// The environment of the process at its start; only the names that matter here.
    pub process_env: Vec<(String, String)>,
    /// `--config`.
    pub config_file: Option<PathBuf>,
}

/// Only names: values may be secrets.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            |pairs: &[(String, String)]| pairs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        f.debug_struct("Sources")
            .field("flags", &names(&self.flags))
            .field("env_file", &self.env_file)
            .field("process_env", &names(&self.process_env))
            .field("config_file", &self.config_file)
            .finish()
    }
}

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On the command line.
    Flag,
    /// In the env file.
    EnvFile {
        /// Which file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// In the environment of the process.
    Environment,
    /// In the TOML file.
    Toml {
        /// Which file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// Nowhere.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag => f.write_str("flag"),
            Origin::EnvFile { path, line } => write!(f, "env file {} line {line}", path.display()),
            Origin::Environment => f.write_str("environment"),
            Origin::Toml { path, line } => write!(f, "TOML file {} line {line}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// One value that somebody gave.
#[derive(Clone)]
pub struct Entry {
    /// Name or alias of a setting, or a name that is none.
    pub name: String,
    /// The name as it was written.
    pub written: String,
    /// The value as it was written.
    pub value: String,
    /// Where it stands.
    pub origin: Origin,
}

/// The strength of a tier is its index: 0 is the strongest.
pub type Tiers = [Vec<Entry>; 4];

/// Lets a binary that was built with the feature `faults` start; known to all builds, so that one env file serves both.
const FAULTS: &str = "GATEWAY_FAULTS";

/// Index of the env file's tier.
const ENV_FILE: usize = 1;
/// Index of the process environment's tier.
const ENVIRONMENT: usize = 2;

impl Sources {
    /// Sources of this process: takes the environment as it is now.
    ///
    /// A pair that the env file holds too is left out of the environment: systemd passes the same file as
    /// `EnvironmentFile=`, and a line that is later deleted from the file must not come back from the memory of the
    /// start.
    pub fn capture(
        flags: Vec<(String, String)>,
        env_file: Option<PathBuf>,
        config_file: Option<PathBuf>,
    ) -> Sources {
        let environment = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into(), value.to_string_lossy().into()));
        Sources::with_environment(flags, env_file, config_file, environment)
    }

    /// [`Sources::capture`] with the environment given.
    fn with_environment(
        flags: Vec<(String, String)>,
        env_file: Option<PathBuf>,
        config_file: Option<PathBuf>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Sources {
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let mut sources = Sources {
            flags,
            env_file: env_file.map(absolute),
            process_env: Vec::new(),
            config_file: config_file.map(absolute),
        };
        let from_file = sources.env_file.as_deref().map(|path| read_env_file(path, &mut Vec::new()));
        let from_file = from_file.unwrap_or_default();
        let matters = |name: &str| {
            table::find(name).is_some()
                || name.starts_with(suggest::PREFIX)
                || contextforge::is_known(name)
                || DIRECTORIES.contains(&name)
        };
        sources.process_env = environment
            .filter(|(name, _)| matters(name))
            .filter(|(name, value)| !from_file.iter().any(|e| e.name == *name && e.value == *value))
            .collect();
        sources
    }

    /// True when `GATEWAY_FAULTS=1` stands in the env file, or in the environment of the process.
    pub fn allow_faults(&self) -> bool {
        let tiers = self.read(&mut Vec::new());
        let given = [ENV_FILE, ENVIRONMENT].into_iter().filter_map(|tier| {
            tiers[tier].iter().rev().find(|entry| entry.name == FAULTS && !entry.value.trim().is_empty())
        });
        given.map(|entry| entry.value.trim() == "1").next().unwrap_or(false)
    }

    /// A name of the environment that is no setting.
    pub(super) fn directory(&self, name: &str) -> Option<&str> {
        let found = self.process_env.iter().find(|(known, value)| known == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    /// Reads everything, and reports what cannot be read.
    pub(super) fn read(&self, problems: &mut Vec<Problem>) -> Tiers {
        let plain = |(name, value): &(String, String), origin: Origin| Entry {
            name: if origin == Origin::Flag { table::canonical(name) } else { name.clone() },
            written: name.clone(),
            value: value.clone(),
            origin,
        };
        [
            self.flags.iter().map(|pair| plain(pair, Origin::Flag)).collect(),
            self.env_file.as_deref().map(|path| read_env_file(path, problems)).unwrap_or_default(),
            self.process_env.iter().map(|pair| plain(pair, Origin::Environment)).collect(),
            self.config_file.as_deref().map(|path| read_toml(path, problems)).unwrap_or_default(),
        ]
    }
}

fn read_env_file(path: &Path, problems: &mut Vec<Problem>) -> Vec<Entry> {
    let Some(text) = read_text(path, problems) else { return Vec::new() };
    let (assignments, bad) = env_file::parse(&text);
    problems.extend(bad.into_iter().map(|bad| Problem::EnvFile { path: path.to_owned(), bad }));
    let entry = |assignment: env_file::Assignment| Entry {
        written: assignment.name.clone(),
        name: assignment.name,
        value: assignment.value,
        origin: Origin::EnvFile { path: path.to_owned(), line: assignment.line },
    };
    assignments.into_iter().map(entry).collect()
}

fn read_toml(path: &Path, problems: &mut Vec<Problem>) -> Vec<Entry> {
    let Some(text) = read_text(path, problems) else { return Vec::new() };
    let (pairs, bad) = toml_file::parse(&text);
    problems.extend(bad.into_iter().map(|bad| Problem::Toml { path: path.to_owned(), bad }));
    let mut entries: Vec<Entry> = Vec::new();
    for pair in pairs {
        let origin = Origin::Toml { path: path.to_owned(), line: pair.line };
        match entries.iter().find(|entry| entry.name == pair.name) {
            Some(other) => {
                problems.push(Problem::Twice { name: pair.written, origin, other: other.written.clone() });
            }
            None => {
                entries.push(Entry { name: pair.name, written: pair.written, value: pair.value, origin });
            }
        }
    }
    entries
}

/// A pipe gives its content once, and these files are read again at every reload.
fn open_regular(path: &Path) -> std::io::Result<std::fs::File> {
    let file = std::fs::File::open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    let why = "it is not a regular file, and settings are read more than once; write them to a file";
    Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, why))
}

fn read_text(path: &Path, problems: &mut Vec<Problem>) -> Option<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = open_regular(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    let text = read.and_then(|_| {
        String::from_utf8(bytes)
            .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "the file is not UTF-8"))
    });
    match text {
        Ok(text) if text.len() as u64 > MAX_FILE => {
            problems.push(Problem::TooLarge { path: path.to_owned(), limit: MAX_FILE });
            None
        }
        Ok(text) => Some(text),
        Err(source) => {
            problems.push(Problem::Unreadable { path: path.to_owned(), source });
            None
        }
    }
}

/// The strongest value under one of `names`, which are ordered too: within one tier an earlier name wins. Gives the
/// tier's index. An empty value is none.
pub fn strongest<'a>(tiers: &'a Tiers, names: &[&str]) -> Option<(usize, &'a Entry)> {
    tiers.iter().enumerate().find_map(|(tier, entries)| {
        let given =
            |name: &&str| entries.iter().rev().find(|e| e.name == *name && !e.value.trim().is_empty());
        names.iter().find_map(given).map(|entry| (tier, entry))
    })
}

/// Reports names that mean nothing: as problems where they can only be ours, as warnings where they may be others'.
pub fn check_names(tiers: &Tiers, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) {
    let mut without_effect = std::collections::BTreeSet::new();
    for (tier, entries) in tiers.iter().enumerate() {
        let shared = tier == ENV_FILE || tier == ENVIRONMENT;
        for entry in entries {
            let name = entry.name.as_str();
            if table::find(name).is_some() || name == FAULTS {
                continue;
            }
            if kubernetes::is_injected_with(name, &entry.value) {
                if name == "GATEWAY_PORT" && entry.value.bytes().all(|byte| byte.is_ascii_digit()) {
                    warnings.push(format!(
                        "{name} ({}) is ignored, Kubernetes injects that name; set GATEWAY_BIND or PORT",
                        entry.origin
                    ));
                }
            } else if contextforge::is_known(name) {
                if tier != ENVIRONMENT || !contextforge::is_everybodys(name) {
                    without_effect.insert(name.to_owned());
                }
            } else if !shared || name.starts_with(suggest::PREFIX) {
                problems.push(Problem::Unknown {
                    name: entry.written.clone(),
                    origin: entry.origin.clone(),
                    suggestion: suggest::nearest(name),
                });
            } else if let Some(meant) = suggest::slip(name) {
                warnings.push(format!("{name} ({}) is no setting, did you mean {meant}?", entry.origin));
            }
        }
    }
    if !without_effect.is_empty() {
        let names: Vec<String> = without_effect.into_iter().collect();
        warnings.push(format!(
            "known from ContextForge, gunicorn or granian, without effect in this version: {}",
            names.join(", ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_deleted_from_the_env_file_does_not_come_back_from_the_environment() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("env");
        std::fs::write(&path, "GATEWAY_WORKERS=2\nGATEWAY_BACKLOG=100\n").expect("write");
        let environment = [
            ("GATEWAY_WORKERS", "2"),
            ("GATEWAY_BACKLOG", "99"),
            ("GATEWAY_LOG", "json"),
            ("HOME", "/h"),
            ("LANG", "C"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let sources =
            Sources::with_environment(Vec::new(), Some(path.clone()), None, environment.into_iter());
        let kept: Vec<_> =
            sources.process_env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(kept, [("GATEWAY_BACKLOG", "99"), ("GATEWAY_LOG", "json"), ("HOME", "/h")]);
        std::fs::write(&path, "").expect("write");
        let tiers = sources.read(&mut Vec::new());
        assert!(strongest(&tiers, &["GATEWAY_WORKERS"]).is_none());
        assert_eq!(strongest(&tiers, &["GATEWAY_BACKLOG"]).map(|(tier, _)| tier), Some(ENVIRONMENT));
    }
}
