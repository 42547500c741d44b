//! Spellings of values: durations, sizes, counts, booleans. Pure; what is in range is the table's business.

use std::time::Duration;

use super::database_url::DatabaseUrlError;
use super::hosts::HostError;
use super::secrets::SecretError;

/// Milliseconds in a second.
const MS_PER_SECOND: u64 = 1000;
/// Bytes in a KiB; sizes are binary, as cgroups and Python servers count them.
const KIB: u64 = 1 << 10;
/// Bytes in a MiB, the unit of a size without one.
pub const MIB: u64 = 1 << 20;

/// Why a value is refused; what would be allowed is said by the table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Neither a number nor a sum like `1h30m`.
    #[error("not a duration")]
    Duration,
    /// Neither a number nor `512M`.
    #[error("not a size")]
    Size,
    /// Not digits only.
    #[error("not a whole number")]
    Number,
    /// None of the words for yes and no.
    #[error("not true or false")]
    Bool,
    /// Well-formed, but too small or too large.
    #[error("out of range")]
    OutOfRange,
    /// Not one of the words that are accepted.
    #[error("not one of the accepted words")]
    Word,
    /// A name separator that could not be told from the names.
    #[error("not a separator")]
    Separator,
    /// A path that exists and is something else than a directory.
    #[error("this path is not a directory")]
    NotADirectory,
    /// A path that cannot be a file's.
    #[error("this is no path of a file in a directory that exists")]
    NotAFile,
    /// A command whose words cannot be told.
    #[error("a quote is not closed, or nothing follows a backslash")]
    Quotes,
    /// A command that nobody could run.
    #[error("it does not begin with the absolute path of a program that may be executed")]
    NotAProgram,
    /// A name that no user or group has.
    #[error("nobody here is called that")]
    Nobody,
    /// A CPU that is not there, or not for us.
    #[error("this process may use no such CPU")]
    NoSuchCpu,
    /// A text that holds a `${…}`; nothing expands it.
    #[error("variables are not expanded here, write the value itself")]
    Unexpanded,
    /// See [`DatabaseUrlError`].
    #[error(transparent)]
    Database(#[from] DatabaseUrlError),
    /// See [`HostError`].
    #[error(transparent)]
    Host(#[from] HostError),
    /// See [`SecretError`].
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// A duration: a number of seconds (`30`, `0.5`), or a sum of parts with units `ms`, `s`, `m`, `h`, `d` (`1h30m`).
/// Exact to the millisecond.
pub fn duration(text: &str) -> Result<Duration, Invalid> {
    if decimal(text).is_some() {
        return part(text, MS_PER_SECOND);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(Invalid::Duration)?;
        let (number, tail) = rest.split_at(unit_at);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let ms_per_unit = match unit.to_ascii_lowercase().as_str() {
            "ms" => 1,
            "s" => MS_PER_SECOND,
            "m" | "min" => 60 * MS_PER_SECOND,
            "h" => 3600 * MS_PER_SECOND,
            "d" => 86400 * MS_PER_SECOND,
            _ => return Err(Invalid::Duration),
        };
        total = total.checked_add(part(number, ms_per_unit)?).ok_or(Invalid::Duration)?;
        rest = next;
    }
    if text.is_empty() { Err(Invalid::Duration) } else { Ok(total) }
}

/// One number of a duration; whole ones are not put through a float.
fn part(number: &str, ms_per_unit: u64) -> Result<Duration, Invalid> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(ms_per_unit).map(Duration::from_millis).ok_or(Invalid::Duration);
    }
    let ms = decimal(number).ok_or(Invalid::Duration)? * ms_per_unit as f64;
    if ms <= u64::MAX as f64 / 2.0 {
        Ok(Duration::from_millis(ms.round() as u64))
    } else {
        Err(Invalid::Duration)
    }
}

/// A size in bytes: a number of MiB (`512`), or a number with `B`, `K`, `M`, `G`, `T` (`2G`, `512MiB`).
pub fn size(text: &str) -> Result<u64, Invalid> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let bytes_per_unit = match unit.to_ascii_lowercase().as_str() {
        "b" => 1,
        "k" | "kb" | "kib" => KIB,
        "" | "m" | "mb" | "mib" => MIB,
        "g" | "gb" | "gib" => MIB << 10,
        "t" | "tb" | "tib" => MIB << 20,
        _ => return Err(Invalid::Size),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(bytes_per_unit).ok_or(Invalid::Size);
    }
    let bytes = decimal(number).ok_or(Invalid::Size)? * bytes_per_unit as f64;
    if bytes <= u64::MAX as f64 / 2.0 { Ok(bytes as u64) } else { Err(Invalid::Size) }
}

/// A whole number; `1_000_000` is one too.
pub fn count(text: &str) -> Result<u64, Invalid> {
    let digits = text.replace('_', "");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Invalid::Number);
    }
    digits.parse().map_err(|_| Invalid::OutOfRange)
}

/// `true`, `yes`, `on`, `1` and their opposites, in any case.
pub fn boolean(text: &str) -> Result<bool, Invalid> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(Invalid::Bool),
    }
}

/// True for the words that switch something off, and for nought in any spelling.
pub fn is_off(text: &str) -> bool {
    text.eq_ignore_ascii_case("off") || duration(text) == Ok(Duration::ZERO) || size(text) == Ok(0)
}

/// A list: comma-separated, or a JSON array of strings (ContextForge writes both).
pub fn list(text: &str) -> Vec<String> {
    if let Ok(items) = serde_json::from_str::<Vec<String>>(text) {
        return items;
    }
    text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

/// The shortest spelling of a duration that [`duration`] reads back.
pub fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() != 0 {
        return format!("{}ms", duration.as_millis());
    }
    let parts = [
        (seconds / 86400, "d"),
        (seconds % 86400 / 3600, "h"),
        (seconds % 3600 / 60, "m"),
        (seconds % 60, "s"),
    ];
    let text: String =
        parts.iter().filter(|(n, _)| *n > 0).map(|(number, unit)| format!("{number}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// The shortest spelling of a size that [`size`] reads back.
pub fn show_size(bytes: u64) -> String {
    for (unit, name) in [(MIB << 10, "G"), (MIB, "M"), (KIB, "K")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    format!("{bytes}B")
}

/// Digits with at most one point: no sign, no exponent, no `nan`.
fn decimal(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = if plain { text.parse().ok()? } else { return None };
    number.is_finite().then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        for (text, millis) in [
            ("0", 0),
            ("30", 30_000),
            ("30.0", 30_000),
            ("0.5", 500),
            ("500ms", 500),
            ("90s", 90_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("1d", 86_400_000),
            ("1H", 3_600_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
            let shown = show_duration(Duration::from_millis(millis));
            assert_eq!(duration(&shown), Ok(Duration::from_millis(millis)), "{text} shown as {shown}");
        }
        for text in
            ["", "-1", "+1", "1x", "h", "1h30", "1e3", "nan", "inf", "1 h", "ten", "1..5", ".", "9e99"]
        {
            assert_eq!(duration(text), Err(Invalid::Duration), "{text}");
        }
        assert_eq!(duration(&"9".repeat(40)), Err(Invalid::Duration), "more than a Duration holds");
    }

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes) in [
            ("512", 512 * MIB),
            ("512M", 512 * MIB),
            ("512mb", 512 * MIB),
            ("2G", 2048 * MIB),
            ("1.5G", 1536 * MIB),
            ("64K", 65536),
            ("100B", 100),
            ("0", 0),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
            assert_eq!(size(&show_size(bytes)), Ok(bytes), "{text} shown as {}", show_size(bytes));
        }
        for text in ["", "M", "-1", "12X", "1e9", "99999999999999999999T", "1 G"] {
            assert_eq!(size(text), Err(Invalid::Size), "{text}");
        }
    }

    #[test]
    fn counts_booleans_and_lists_are_read() {
        assert_eq!(count("1_000_000"), Ok(1_000_000));
        assert_eq!(count("1.5"), Err(Invalid::Number));
        assert_eq!(count("-1"), Err(Invalid::Number));
        assert_eq!(count("99999999999999999999999"), Err(Invalid::OutOfRange));
        assert_eq!((boolean("TRUE"), boolean("off")), (Ok(true), Ok(false)));
        assert_eq!(boolean("maybe"), Err(Invalid::Bool));
        assert_eq!(list("a, b,,c"), ["a", "b", "c"]);
        assert_eq!(list(r#"["a", "b"]"#), ["a", "b"]);
        assert!(is_off("0") && is_off("OFF") && is_off("0s") && !is_off("1"));
    }
}
