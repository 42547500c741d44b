//! From sources to settings: every problem of a run is found, not only the first.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::cgroup::Machine;
use super::draft::{self, Draft};
use super::parse::Invalid;
use super::problem::{Problem, SettingsErrors};
use super::sources::{Entry, Origin, Sources, Tiers, check_names, strongest};
use super::table::{self, Default, Setting};
use super::{Settings, hosts};

/// The host of `GATEWAY_BIND` when only `PORT` is given.
const DEFAULT_HOST: &str = "127.0.0.1";
/// The port of `GATEWAY_BIND` when only `HOST` is given.
const DEFAULT_PORT: &str = "4444";
/// Most characters of a wrong value that a message repeats: enough to find it by.
const MAX_SHOWN: usize = 80;

/// Valid settings and what is to be said about them.
#[derive(Debug)]
pub struct Loaded {
    /// The effective settings.
    pub settings: Settings,
    /// Where each setting comes from, by its own name.
    pub origins: BTreeMap<&'static str, Provenance>,
    /// One line each: what is valid and may surprise.
    pub warnings: Vec<String>,
}

/// Where the value of a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// Where it stands.
    pub origin: Origin,
    /// The name it was given under, when that is not the setting's own.
    pub alias: Option<String>,
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.origin.fmt(f)?;
        match &self.alias {
            Some(alias) => write!(f, ", as {alias}"),
            None => Ok(()),
        }
    }
}

impl Loaded {
    /// Where each setting comes from, in words, by its own name.
    pub fn origins_in_words(&self) -> BTreeMap<String, String> {
        self.origins.iter().map(|(name, origin)| ((*name).to_owned(), origin.to_string())).collect()
    }
}

impl Settings {
    /// What would be in force on this machine if nobody had said more than what has no default, and where the state is.
    /// None when that would not be valid here.
    pub fn defaults_beside(&self) -> Option<Settings> {
        let flag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let flags = vec![
            flag("GATEWAY_JWT_SECRET", self.jwt_secret.expose()),
            flag("GATEWAY_STATE_DIR", self.state_dir.to_str()?),
        ];
        let sources = Sources { flags, ..Sources::default() };
        load_for(&sources, &Machine::read()).ok().map(|loaded| loaded.settings)
    }

    /// Reads, checks and completes settings for this machine.
    pub fn load(sources: Sources) -> Result<Loaded, SettingsErrors> {
        load_for(&sources, &Machine::read())
    }

    /// The same for a running gateway: a database that it uses already may be away, it serves on without.
    pub fn load_over(running: &Settings, sources: Sources) -> Result<Loaded, SettingsErrors> {
        let (loaded, mut problems) = assemble(&sources, &Machine::read());
        if loaded.settings.database == running.database {
            problems.retain(|problem| !matches!(problem, Problem::NoDatabaseDirectory(_)));
        }
        if problems.is_empty() { Ok(loaded) } else { Err(SettingsErrors { problems }) }
    }

    /// The state directory alone, for commands that talk to a running gateway and need no other setting: problems of
    /// the others are ignored.
    pub fn state_dir_of(sources: &Sources) -> Result<PathBuf, SettingsErrors> {
        let tiers = sources.read(&mut Vec::new());
        let mut problems = Vec::new();
        let mut draft = Draft::from_table();
        if let Some(setting) = table::find("GATEWAY_STATE_DIR") {
            choose(setting, &tiers, &mut draft, &mut problems);
        }
        match draft.state_dir.or_else(|| draft::usual_state_dir(sources)) {
            Some(directory) if problems.is_empty() => Ok(directory),
            Some(_) => Err(SettingsErrors { problems }),
            None if problems.is_empty() => Err(SettingsErrors { problems: vec![Problem::NoStateDir] }),
            None => Err(SettingsErrors { problems }),
        }
    }
}

/// [`Settings::load`] with the machine given.
pub fn load_for(sources: &Sources, machine: &Machine) -> Result<Loaded, SettingsErrors> {
    let (loaded, problems) = assemble(sources, machine);
    if problems.is_empty() { Ok(loaded) } else { Err(SettingsErrors { problems }) }
}

/// What the sources make, and everything that is wrong with it.
fn assemble(sources: &Sources, machine: &Machine) -> (Loaded, Vec<Problem>) {
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let tiers = sources.read(&mut problems);
    check_names(&tiers, &mut problems, &mut warnings);
    let mut draft = Draft::from_table();
    let mut origins = BTreeMap::new();
    let mut failed = HashSet::new();
    let unread = |problem: &Problem| matches!(problem, Problem::Unreadable { .. } | Problem::TooLarge { .. });
    let every_file_was_read = !problems.iter().any(unread);
    for setting in table::all() {
        let before = problems.len();
        let provenance = match setting.name {
            "GATEWAY_BIND" => choose_bind(setting, &tiers, &mut draft, &mut problems),
            "GATEWAY_LOG_LEVEL" => choose_level(setting, &tiers, &mut draft, &mut problems),
            _ => choose(setting, &tiers, &mut draft, &mut problems),
        };
        if problems.len() > before {
            failed.insert(setting.name);
        } else if provenance.is_none() && setting.default == Default::Required && every_file_was_read {
            problems.push(Problem::NoJwtSecret);
        }
        let default = Provenance { origin: Origin::Default, alias: None };
        origins.insert(setting.name, provenance.unwrap_or(default));
    }
    let settings = draft.finish(sources, machine, &failed, &mut problems, &mut warnings);
    (Loaded { settings, origins, warnings }, problems)
}

/// Takes the strongest value of a setting; none when nobody gave one.
fn choose(
    setting: &'static Setting,
    tiers: &Tiers,
    draft: &mut Draft,
    problems: &mut Vec<Problem>,
) -> Option<Provenance> {
    choose_among(&all_names(setting), setting, tiers, draft, problems)
}

fn choose_among(
    names: &[&str],
    setting: &'static Setting,
    tiers: &Tiers,
    draft: &mut Draft,
    problems: &mut Vec<Problem>,
) -> Option<Provenance> {
    let (_, entry) = strongest(tiers, names)?;
    match read(setting, entry, draft) {
        Ok(()) => {
            let alias = (entry.name != setting.name).then(|| entry.name.clone());
            return Some(Provenance { origin: entry.origin.clone(), alias });
        }
        Err(why) => problems.push(invalid(setting, entry, setting.kind.allowed(), why)),
    }
    None
}

/// `GATEWAY_BIND`, or `HOST` and `PORT` together where a stronger source gives one of them.
fn choose_bind(
    setting: &'static Setting,
    tiers: &Tiers,
    draft: &mut Draft,
    problems: &mut Vec<Problem>,
) -> Option<Provenance> {
    let own = strongest(tiers, &[setting.name]).map(|(tier, _)| tier);
    let (host, port) = (strongest(tiers, &["HOST"]), strongest(tiers, &["PORT"]));
    let strongest_part = [host, port].into_iter().flatten().min_by_key(|(tier, _)| *tier);
    let Some((_, part)) = strongest_part.filter(|(tier, _)| own.is_none_or(|own| *tier < own)) else {
        return choose_among(&[setting.name], setting, tiers, draft, problems);
    };
    let ip = hosts::ip(host.map_or(DEFAULT_HOST, |(_, entry)| entry.value.trim()));
    let number = hosts::port(port.map_or(DEFAULT_PORT, |(_, entry)| entry.value.trim()));
    let wrong = |given: Option<(usize, &Entry)>, allowed: &str, why: hosts::HostError| {
        let entry = given.map(|(_, entry)| entry).unwrap_or(part);
        invalid(setting, entry, allowed.to_owned(), why.into())
    };
    match (ip, number) {
        (Ok(ip), Ok(number)) => {
            draft.settings.bind = SocketAddr::from((ip, number)).into();
            let names: Vec<&str> = [host, port].into_iter().flatten().map(|(_, e)| e.name.as_str()).collect();
            return Some(Provenance { origin: part.origin.clone(), alias: Some(names.join(" and ")) });
        }
        (ip, number) => {
            let allowed_host = "an IP address or localhost; GATEWAY_BIND=ADDRESS:PORT beats HOST and PORT";
            problems.extend(ip.err().map(|why| wrong(host, allowed_host, why)));
            problems.extend(number.err().map(|why| wrong(port, "a number from 0 to 65535", why)));
        }
    }
    None
}

/// `GATEWAY_LOG_LEVEL`, or the level beside the format (`GATEWAY_LOG=json,debug`), which an alias of the same source does
/// not beat.
fn choose_level(
    setting: &'static Setting,
    tiers: &Tiers,
    draft: &mut Draft,
    problems: &mut Vec<Problem>,
) -> Option<Provenance> {
    let given = strongest(tiers, &all_names(setting));
    let beside =
        draft.level_beside_format.then(|| strongest(tiers, &["GATEWAY_LOG", "LOG_FORMAT"])).flatten();
    if let Some((log_tier, log)) = beside
        && given
            .is_none_or(|(tier, entry)| log_tier < tier || (log_tier == tier && entry.name != setting.name))
    {
        return Some(Provenance { origin: log.origin.clone(), alias: Some(log.name.clone()) });
    }
    choose(setting, tiers, draft, problems)
}

/// Reads one value. In an env file `${X}` is somebody's hope that it is expanded.
fn read(setting: &Setting, entry: &Entry, draft: &mut Draft) -> Result<(), Invalid> {
    if matches!(entry.origin, Origin::EnvFile { .. }) && entry.value.contains("${") {
        return Err(Invalid::Unexpanded);
    }
    setting.kind.apply(draft, &entry.value)
}

fn invalid(setting: &Setting, entry: &Entry, allowed: String, why: Invalid) -> Problem {
    Problem::Invalid {
        name: entry.written.clone(),
        value: one_line(&setting.masked(&entry.value)),
        origin: entry.origin.clone(),
        why,
        allowed,
    }
}

/// A value as part of a message: no line breaks, not longer than a line.
fn one_line(value: &str) -> String {
    let mut text: String = value.chars().take(MAX_SHOWN).flat_map(visible).collect();
    if value.chars().count() > MAX_SHOWN {
        text.push('…');
    }
    text
}

fn visible(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}

fn all_names(setting: &Setting) -> Vec<&'static str> {
    std::iter::once(setting.name).chain(setting.aliases.iter().copied()).collect()
}
