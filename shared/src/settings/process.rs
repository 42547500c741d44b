//! What the processes themselves are: whose, with which umask, on which CPUs, and where their number is written.

use std::fmt;
use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::{Group, Pid, User};
use serde::{Deserialize, Serialize};

use super::draft::Draft;
use super::parse::{self, Invalid};

/// Most entries of `GATEWAY_CPU_AFFINITY`: one per slot.
const MAX_ENTRIES: usize = super::MAX_WORKERS as usize;
/// The bits of a umask.
const MAX_UMASK: u32 = 0o777;

/// `GATEWAY_CPU_AFFINITY`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuAffinity {
    /// The kernel chooses.
    Off,
    /// One CPU for each slot, in the order of their numbers.
    Auto,
    /// These for the slots in turn, each from the first to the last CPU.
    List(Vec<(u32, u32)>),
}

impl CpuAffinity {
    /// The CPUs of a slot, of those that the process may use at all; none: all of them.
    pub fn of_slot(&self, slot: u32, allowed: &[u32]) -> Option<Vec<u32>> {
        let nth = |count: usize| (count > 0).then(|| slot as usize % count);
        match self {
            CpuAffinity::Off => None,
            CpuAffinity::Auto => Some(vec![allowed[nth(allowed.len())?]]),
            CpuAffinity::List(entries) => {
                let (first, last) = entries[nth(entries.len())?];
                Some(allowed.iter().copied().filter(|cpu| (first..=last).contains(cpu)).collect())
            }
        }
    }

    fn parse(text: &str, allowed: &[u32]) -> Result<CpuAffinity, Invalid> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(CpuAffinity::Off);
        }
        if text.eq_ignore_ascii_case("auto") {
            return Ok(CpuAffinity::Auto);
        }
        let number = |text: &str| Ok(u32::try_from(parse::count(text.trim())?).unwrap_or(u32::MAX));
        let entry = |text: &str| match text.split_once('-') {
            Some((first, last)) => Ok((number(first)?, number(last)?)),
            None => number(text).map(|cpu| (cpu, cpu)),
        };
        let entries = text.split(',').map(entry).collect::<Result<Vec<(u32, u32)>, Invalid>>()?;
        let is_usable = |(first, last): &(u32, u32)| allowed.iter().any(|cpu| (*first..=*last).contains(cpu));
        if entries.len() > MAX_ENTRIES || !entries.iter().all(is_usable) {
            return Err(Invalid::NoSuchCpu);
        }
        Ok(CpuAffinity::List(entries))
    }
}

impl fmt::Display for CpuAffinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = |&(first, last): &(u32, u32)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        };
        match self {
            CpuAffinity::Off => f.write_str("off"),
            CpuAffinity::Auto => f.write_str("auto"),
            CpuAffinity::List(entries) => {
                f.write_str(&entries.iter().map(entry).collect::<Vec<String>>().join(","))
            }
        }
    }
}

/// The CPUs that this process may use.
pub fn allowed_cpus() -> Vec<u32> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu) == Ok(true)).map(|cpu| cpu as u32).collect()
}

pub(super) fn cpu_affinity(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    draft.settings.cpu_affinity = CpuAffinity::parse(text, &allowed_cpus())?;
    Ok(())
}

/// A number is taken as it is, also one that has no name.
pub(super) fn user(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    draft.settings.user = named(text, |name| User::from_name(name).is_ok_and(|user| user.is_some()))?;
    Ok(())
}

pub(super) fn group(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    draft.settings.group = named(text, |name| Group::from_name(name).is_ok_and(|group| group.is_some()))?;
    Ok(())
}

fn named(text: &str, is_known: impl Fn(&str) -> bool) -> Result<Option<String>, Invalid> {
    match text {
        _ if text.eq_ignore_ascii_case("off") => Ok(None),
        _ if text.parse::<u32>().is_ok() || is_known(text) => Ok(Some(text.to_owned())),
        _ => Err(Invalid::Nobody),
    }
}

pub(super) fn umask(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    draft.settings.umask = match text {
        _ if text.eq_ignore_ascii_case("off") => None,
        _ => match u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8) {
            Ok(bits @ 0..=MAX_UMASK) => Some(bits),
            Ok(_) => return Err(Invalid::OutOfRange),
            Err(_) => return Err(Invalid::Number),
        },
    };
    Ok(())
}

pub(super) fn pidfile(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    draft.settings.pidfile = match text {
        _ if text.eq_ignore_ascii_case("off") => None,
        _ => Some(file_in_a_directory(text)?),
    };
    Ok(())
}

fn file_in_a_directory(text: &str) -> Result<PathBuf, Invalid> {
    let path = Path::new(text);
    let has_directory = path.parent().is_some_and(Path::is_dir);
    if !path.is_absolute() || !has_directory || path.is_dir() {
        return Err(Invalid::NotAFile);
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_get_the_cpus_that_are_there_in_turn() {
        let allowed = [1, 2, 5];
        let of = |text: &str| {
            let affinity = CpuAffinity::parse(text, &allowed).expect(text);
            assert_eq!(CpuAffinity::parse(&affinity.to_string(), &allowed), Ok(affinity.clone()), "{text}");
            (0..4).map(|slot| affinity.of_slot(slot, &allowed)).collect::<Vec<_>>()
        };
        assert_eq!(of("off"), [None, None, None, None]);
        assert_eq!(of("auto"), [vec![1], vec![2], vec![5], vec![1]].map(Some));
        assert_eq!(of("5, 0-2"), [vec![5], vec![1, 2], vec![5], vec![1, 2]].map(Some));
        for (text, why) in [
            ("0", Invalid::NoSuchCpu),
            ("1,7-9", Invalid::NoSuchCpu),
            ("2-1", Invalid::NoSuchCpu),
            ("1,", Invalid::Number),
            ("some", Invalid::Number),
        ] {
            assert_eq!(CpuAffinity::parse(text, &allowed), Err(why), "{text}");
        }
        assert_eq!(CpuAffinity::Auto.of_slot(0, &[]), None, "nothing is known: nothing is said");
        assert!(!allowed_cpus().is_empty());
    }
}
