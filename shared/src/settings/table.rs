//! How the one table of settings is made: what a row says, and how to find it. The rows are in `rows`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::draft::Draft;
use super::parse::{self, Invalid, show_duration, show_size};
use super::rows::SECTIONS;
use super::{Settings, database_url, suggest};

/// One setting.
pub struct Setting {
    /// Its own name.
    pub name: &'static str,
    /// Names it also goes by, in order of strength; an own name beats them within one source.
    pub aliases: &'static [&'static str],
    /// How it is read.
    pub kind: Kind,
    /// What holds when nobody says anything.
    pub default: Default,
    /// What it is, in what unit, and why the default is what it is.
    pub reason: &'static str,
    /// What SIGHUP does with a new value.
    pub reload: Reload,
    /// How much of a value may be shown.
    pub shown: Shown,
    /// The effective value, as [`Kind`] reads it back.
    pub show: fn(&Settings) -> String,
}

/// A named group of settings, for the documentation.
pub struct Section {
    /// Heading.
    pub title: &'static str,
    /// Its settings.
    pub settings: &'static [Setting],
}

/// What holds when nobody says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// This text, read as any other value.
    Text(&'static str),
    /// Found out from the machine or from other settings, in these words.
    Computed(&'static str),
    /// There is none: not setting it is a problem.
    Required,
}

/// What SIGHUP does with a new value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The workers that replace the running ones have it.
    Applies,
    /// It is reported and waits for a restart.
    NeedsRestart,
}

/// How much of a value may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// All of it.
    Plain,
    /// Nothing.
    Secret,
    /// A URL without what follows the scheme, unless it is a file's.
    Url,
}

/// How a value is read, and into what.
pub enum Kind {
    /// A duration within limits.
    Duration(RangeInclusive<Duration>, fn(&mut Draft, Duration)),
    /// The same, or `off`.
    OptionalDuration(RangeInclusive<Duration>, fn(&mut Draft, Option<Duration>)),
    /// A size within limits, in bytes.
    Size(RangeInclusive<u64>, fn(&mut Draft, u64)),
    /// A whole number within limits.
    Count(RangeInclusive<u64>, fn(&mut Draft, u64)),
    /// Yes or no.
    Bool(fn(&mut Draft, bool)),
    /// Anything else.
    Other {
        /// What is allowed, in words.
        allowed: &'static str,
        /// Reads it.
        read: fn(&mut Draft, &str) -> Result<(), Invalid>,
    },
}

impl Kind {
    /// Reads a value into a draft.
    pub fn apply(&self, draft: &mut Draft, text: &str) -> Result<(), Invalid> {
        let text = text.trim();
        match self {
            Kind::Duration(range, set) => set(draft, within(range, parse::duration(text)?)?),
            Kind::OptionalDuration(_, set) if parse::is_off(text) => set(draft, None),
            Kind::OptionalDuration(range, set) => set(draft, Some(within(range, parse::duration(text)?)?)),
            Kind::Size(range, set) => set(draft, within(range, parse::size(text)?)?),
            Kind::Count(range, set) => set(draft, within(range, parse::count(text)?)?),
            Kind::Bool(set) => set(draft, parse::boolean(text)?),
            Kind::Other { read, .. } => read(draft, text)?,
        }
        Ok(())
    }

    /// What is allowed, in words.
    pub fn allowed(&self) -> String {
        let durations = |range: &RangeInclusive<Duration>| {
            format!("{} to {}", show_duration(*range.start()), show_duration(*range.end()))
        };
        match self {
            Kind::Duration(range, _) => format!("{}; a number means seconds", durations(range)),
            Kind::OptionalDuration(range, _) => {
                format!("{}, or off; a number means seconds", durations(range))
            }
            Kind::Size(range, _) => {
                format!("{} to {}; a number means MiB", show_size(*range.start()), show_size(*range.end()))
            }
            Kind::Count(range, _) => format!("a whole number from {} to {}", range.start(), range.end()),
            Kind::Bool(_) => "true or false".to_owned(),
            Kind::Other { allowed, .. } => (*allowed).to_owned(),
        }
    }
}

fn within<T: PartialOrd>(range: &RangeInclusive<T>, value: T) -> Result<T, Invalid> {
    if range.contains(&value) { Ok(value) } else { Err(Invalid::OutOfRange) }
}

impl Setting {
    /// A row with the usual: no alias, applied by a reload, shown.
    pub const fn new(
        name: &'static str,
        default: Default,
        kind: Kind,
        show: fn(&Settings) -> String,
        reason: &'static str,
    ) -> Setting {
        Setting {
            name,
            aliases: &[],
            kind,
            default,
            reason,
            reload: Reload::Applies,
            shown: Shown::Plain,
            show,
        }
    }

    /// The names it also goes by.
    pub const fn or(mut self, aliases: &'static [&'static str]) -> Setting {
        self.aliases = aliases;
        self
    }

    /// A reload cannot apply it.
    pub const fn fixed(mut self) -> Setting {
        self.reload = Reload::NeedsRestart;
        self
    }

    /// Not all of it may be shown.
    pub const fn shown(mut self, shown: Shown) -> Setting {
        self.shown = shown;
        self
    }

    /// A value as far as it may be shown.
    pub fn masked(&self, value: &str) -> String {
        match self.shown {
            Shown::Plain => value.to_owned(),
            Shown::Secret if value.is_empty() => String::new(),
            Shown::Secret => "*****".to_owned(),
            Shown::Url => database_url::masked(value),
        }
    }
}

/// All settings.
pub fn all() -> impl Iterator<Item = &'static Setting> {
    SECTIONS.iter().flat_map(|section| section.settings)
}

/// All names, own ones and aliases.
pub fn names() -> impl Iterator<Item = &'static str> {
    all().flat_map(|setting| std::iter::once(setting.name).chain(setting.aliases.iter().copied()))
}

/// The setting that goes by a name.
pub fn find(name: &str) -> Option<&'static Setting> {
    all().find(|setting| setting.name == name || setting.aliases.contains(&name))
}

/// The name that a key of the TOML file or of `--set` stands for: `max_requests` → `GATEWAY_MAX_REQUESTS`,
/// `database_url` → `DATABASE_URL`; the upper-case key when it stands for none.
pub fn canonical(key: &str) -> String {
    let upper = key.to_ascii_uppercase();
    let prefixed = format!("{}{upper}", suggest::PREFIX);
    let own = |name: &str| all().any(|setting| setting.name == name);
    if !own(&upper) && own(&prefixed) { prefixed } else { upper }
}
