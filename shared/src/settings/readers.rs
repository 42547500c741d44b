//! Readers of the settings that are neither a number, a duration, a size nor a switch.

use std::path::Path;

use super::draft::{Draft, MemoryLimit};
use super::parse::{self, Invalid, MIB};
use super::{Binds, LogFormat, MAX_WORKERS, Secret, Watchdog, database_url, hosts, secrets};

/// Longest name separator, in characters: it is part of every tool name, which has 128.
const MAX_SEPARATOR: usize = 4;
/// Least memory limit: an idle worker has less, a limit below it would replace workers for ever.
const MIN_RSS: u64 = 16 * MIB;
/// Largest memory limit, far above any worker.
const MAX_RSS: u64 = 1024 * 1024 * MIB;

pub(super) fn bind(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    draft.settings.bind = Binds::parse(text)?;
    Ok(())
}

pub(super) fn admin_bind(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    draft.settings.admin_bind = hosts::socket_address(text)?;
    Ok(())
}

pub(super) fn database(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    draft.database = Some(database_url::parse(text)?);
    Ok(())
}

pub(super) fn audience(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    draft.settings.jwt_audience = text.to_owned();
    Ok(())
}

pub(super) fn issuer(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    draft.settings.jwt_issuer = text.to_owned();
    Ok(())
}

pub(super) fn workers(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    draft.workers = match text.eq_ignore_ascii_case("auto") {
        true => None,
        false => match parse::count(text)? {
            count @ 1..=MAX_WORKERS => Some(count as u32),
            _ => return Err(Invalid::OutOfRange),
        },
    };
    Ok(())
}

pub(super) fn max_rss(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    draft.max_rss = match () {
        () if text.eq_ignore_ascii_case("auto") => MemoryLimit::Auto,
        () if parse::is_off(text) => MemoryLimit::Off,
        () => match parse::size(text)? {
            bytes if (MIN_RSS..=MAX_RSS).contains(&bytes) => MemoryLimit::Bytes(bytes),
            _ => return Err(Invalid::OutOfRange),
        },
    };
    Ok(())
}

pub(super) fn state_dir(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    let path = std::path::absolute(Path::new(text)).map_err(|_| Invalid::NotADirectory)?;
    if path.exists() && !path.is_dir() {
        return Err(Invalid::NotADirectory);
    }
    draft.state_dir = Some(path);
    Ok(())
}

pub(super) fn jwt_secret(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    secrets::check_jwt_secret(text)?;
    draft.settings.jwt_secret = Secret::new(text);
    Ok(())
}

pub(super) fn session_keys(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    secrets::session_keys(text)?;
    draft.settings.session_keys = Some(Secret::new(text));
    Ok(())
}

pub(super) fn allowed_hosts(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    draft.allowed_hosts = Some(hosts::allowed_hosts(&parse::list(text))?);
    Ok(())
}

pub(super) fn allowed_origins(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    draft.settings.allowed_origins = hosts::allowed_origins(&parse::list(text))?;
    Ok(())
}

pub(super) fn separator(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    let fits = text.bytes().all(|byte| matches!(byte, b'-' | b'_' | b'.'));
    if text.is_empty() || text.len() > MAX_SEPARATOR || !fits {
        return Err(Invalid::Separator);
    }
    draft.settings.tool_name_separator = text.to_owned();
    Ok(())
}

/// `json`, `json,debug`, `text:info`, or a level alone.
pub(super) fn log(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    let (mut format, mut level) = (None, None);
    for word in text.split([',', ':']).map(str::trim) {
        let known_format = match word.to_ascii_lowercase().as_str() {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        };
        match known_format {
            Some(found) if format.is_none() => format = Some(found),
            None if level.is_none() => level = Some(level_of(word)?),
            _ => return Err(Invalid::Word),
        }
    }
    draft.settings.log_format = format.unwrap_or(draft.settings.log_format);
    if let Some(level) = level {
        draft.settings.log_level = level.to_owned();
        draft.level_beside_format = true;
    }
    Ok(())
}

pub(super) fn log_file(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    draft.settings.log_file = match text {
        _ if text.is_empty() || parse::is_off(text) => None,
        _ => {
            let path = Path::new(text);
            let has_directory = path.parent().is_some_and(Path::is_dir);
            if !path.is_absolute() || !has_directory || path.is_dir() {
                return Err(Invalid::NotAFile);
            }
            Some(path.to_owned())
        }
    };
    Ok(())
}

pub(super) fn watchdog(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    draft.settings.watchdog = match text.to_ascii_lowercase().as_str() {
        "enforce" => Watchdog::Enforce,
        "observe" => Watchdog::Observe,
        "off" => Watchdog::Off,
        _ => return Err(Invalid::Word),
    };
    Ok(())
}

pub(super) fn log_level(draft: &mut Draft, text: &str) -> Result<(), Invalid> {
    draft.settings.log_level = level_of(text)?.to_owned();
    Ok(())
}

/// Python's names of levels are accepted too.
fn level_of(word: &str) -> Result<&'static str, Invalid> {
    match word.to_ascii_lowercase().as_str() {
        "error" | "critical" | "fatal" => Ok("error"),
        "warn" | "warning" => Ok("warn"),
        "info" => Ok("info"),
        "debug" => Ok("debug"),
        "trace" => Ok("trace"),
        _ => Err(Invalid::Word),
    }
}
