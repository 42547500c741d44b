//! Logs: one line per event on stderr, in the journal or in a file, for people (text) or for machines (JSON). A line that cannot be
//! written is dropped; logging never fails and never panics.

mod journal;
mod recent;
mod sink;

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, reload};

pub use journal::is_stderr as stderr_is_journal;
pub use recent::last_lines;
pub use sink::{Links, reopen, to_file, try_file};

use crate::calendar::rfc3339;
use crate::rows::misleads;
use crate::settings::LogFormat;

/// Names of our own crates; in text lines a target within them says nothing that the role does not.
const OURS: &str = "forkgate";

/// Whether lines are JSON; may change while running.
static JSON: AtomicBool = AtomicBool::new(false);
/// The level's handle, there once logging was begun.
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// Begins logging, or changes format and level when it was begun before (the role stays).
///
/// `level` is `error`, `warn`, `info`, `debug` or `trace`; anything else means `info`. `role` says who writes: `master`,
/// or `worker slot=0 gen=3`.
pub fn init(format: LogFormat, level: &str, role: &str) {
    JSON.store(format == LogFormat::Json, Relaxed);
    let level = level.parse().unwrap_or(LevelFilter::INFO);
    if let Some(handle) = LEVEL.get() {
        let _ = handle.modify(|current| *current = level);
        return;
    }
    let (filter, handle) = reload::Layer::new(level);
    let lines =
        Lines { role: role.to_owned(), pid: std::process::id(), colour: std::io::stderr().is_terminal() };
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(lines.colour)
        .with_writer(sink::Sink)
        .log_internal_errors(false)
        .event_format(lines);
    let subscriber = tracing_subscriber::registry().with(filter).with(layer);
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        let _ = LEVEL.set(handle);
    }
}

/// How an event becomes a line.
struct Lines {
    role: String,
    pid: u32,
    colour: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let json = JSON.load(Relaxed);
        let line = match json {
            true => self.json(now as u64, level, target, &fields.0),
            false => self.text(now as u64, level, target, &fields.0),
        };
        recent::keep(&line);
        if journal::is_stderr() && !sink::is_file() {
            // Time and level are the entry's own, and need not stand in its text.
            let told =
                if json { line.clone() } else { format!("{}: {}", self.role, told(target, &fields.0)) };
            if journal::send(&journal::entry(&told, level, &self.role, &fields.0)).is_ok() {
                return Ok(());
            }
            write!(writer, "<{}>", journal::priority(level))?;
        }
        writeln!(writer, "{line}")
    }
}

impl Lines {
    fn json(&self, millis: u64, level: Level, target: &str, fields: &Map<String, Value>) -> String {
        let ours: [(&str, Value); 5] = [
            ("time", rfc3339(millis).into()),
            ("level", level.as_str().to_ascii_lowercase().into()),
            ("role", self.role.as_str().into()),
            ("pid", self.pid.into()),
            ("target", target.into()),
        ];
        let mut line = String::from("{");
        for (name, value) in &ours {
            let _ = write!(line, "\"{name}\":{value},");
        }
        for (name, value) in fields {
            // A field that is called like one of ours must not stand for it.
            let taken = ours.iter().any(|(known, _)| known == name);
            let name = Value::from(if taken { format!("{name}_") } else { name.clone() });
            let _ = write!(line, "{name}:{value},");
        }
        line.pop();
        line.push('}');
        escaped(&line)
    }

    fn text(&self, millis: u64, level: Level, target: &str, fields: &Map<String, Value>) -> String {
        let level = match (self.colour && !sink::is_file(), level) {
            (false, level) => format!("{level:<5}"),
            (true, Level::ERROR) => format!("\x1b[31m{level:<5}\x1b[0m"),
            (true, Level::WARN) => format!("\x1b[33m{level:<5}\x1b[0m"),
            (true, level) => format!("\x1b[32m{level:<5}\x1b[0m"),
        };
        format!("{} {level} {}[{}]: {}", rfc3339(millis), self.role, self.pid, told(target, fields))
    }
}

/// What an event says, and its fields.
fn told(target: &str, fields: &Map<String, Value>) -> String {
    let mut line = String::new();
    if !target.starts_with(OURS) {
        let _ = write!(line, "{target}: ");
    }
    if let Some(message) = fields.get("message") {
        line.push_str(&one_line(message.as_str().unwrap_or_default()));
    }
    for (name, value) in fields.iter().filter(|(name, _)| *name != "message") {
        let _ = match value {
            Value::String(text) if is_plain(text) => write!(line, " {name}={text}"),
            value => write!(line, " {name}={}", escaped(&value.to_string())),
        };
    }
    line
}

/// Text that needs no quotes to be told from the next field.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || misleads(c) || c == '"' || c == '=')
}

/// An event is one line whatever its message holds: nobody forges a second one, or colours a terminal.
fn one_line(text: &str) -> String {
    match text.contains(misleads) {
        true => text
            .chars()
            .flat_map(|c| if misleads(c) { c.escape_default().collect() } else { vec![c] })
            .collect(),
        false => text.to_owned(),
    }
}

/// JSON means the same with an escape instead of a character that misleads; such a one is within a string only.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        let _ = match misleads(c) {
            true => write!(text, "\\u{:04x}", u32::from(c)),
            false => text.write_char(c),
        };
    }
    text
}

/// The fields of an event, in alphabetical order.
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let name = field.name();
        self.0.insert(name.strip_prefix("r#").unwrap_or(name).to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(colour: bool) -> Lines {
        Lines { role: "worker slot=0 gen=3".to_owned(), pid: 42, colour }
    }

    fn fields(pairs: &[(&str, Value)]) -> Map<String, Value> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn a_text_line_is_one_line_with_its_fields() {
        let fields = fields(&[
            ("message", "worker\nis \x1b[31mready".into()),
            ("took_ms", 12.into()),
            ("why", "a b".into()),
            ("url", "http://x".into()),
        ]);
        assert_eq!(
            lines(false).text(951_782_400_123, Level::INFO, "forkgate_worker::boot", &fields),
            "2000-02-29T00:00:00.123Z INFO  worker slot=0 gen=3[42]: worker\\nis \\u{1b}[31mready took_ms=12 \
             url=http://x why=\"a b\""
        );
    }

    #[test]
    fn a_json_line_is_one_object_that_a_field_cannot_change() {
        let fields = fields(&[("message", "m".into()), ("pid", 7.into()), ("level", "forged".into())]);
        let line = lines(true).json(0, Level::WARN, "sqlx", &fields);
        let parsed: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(
            parsed,
            serde_json::json!({
                "time": "1970-01-01T00:00:00.000Z", "level": "warn", "role": "worker slot=0 gen=3", "pid": 42,
                "target": "sqlx", "message": "m", "pid_": 7, "level_": "forged"
            })
        );
        assert!(!line.contains('\n'));
    }

    #[test]
    fn nothing_turns_the_direction_of_writing() {
        let hostile = "a\u{202e}b\u{2067}\u{200f}\u{2029}c";
        let fields = fields(&[("message", hostile.into()), ("caller", hostile.into())]);
        let text = lines(false).text(0, Level::INFO, "forkgate", &fields);
        let json = lines(false).json(0, Level::INFO, "forkgate", &fields);
        for line in [&text, &json] {
            assert!(!line.contains(misleads) && line.contains("202e"), "{line}");
        }
        let parsed: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(parsed["caller"], hostile);
    }

    #[test]
    fn a_second_begin_changes_the_level() {
        init(LogFormat::Text, "error", "test");
        assert!(tracing::enabled!(Level::ERROR) && !tracing::enabled!(Level::WARN));
        init(LogFormat::Text, "warn", "test");
        assert!(tracing::enabled!(Level::WARN) && !tracing::enabled!(Level::INFO));
    }
}
