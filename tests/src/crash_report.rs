//! The crash reports of a gateway: the files, and what the commands for people say of them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::gateway::Gateway;

/// A report; only what tests look at.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are the product's")]
pub struct Report {
    pub cause: Cause,
    pub slot: u32,
    pub pid: u32,
    pub worker: Worker,
    pub culprits: Vec<Culprit>,
    pub evidence: Vec<serde_json::Value>,
    pub in_flight: Vec<Request>,
    pub inside: Option<Inside>,
    pub took_ms: u64,
}

impl Report {
    /// How long the event loop waited for a CPU in the seconds that the report shows.
    pub fn waited_for_cpu(&self) -> Duration {
        let waited = self.evidence.iter().filter_map(|second| second["delay_ns"].as_u64());
        Duration::from_nanos(waited.sum())
    }
}

/// Why it was written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the product's")]
pub enum Cause {
    Verdict { verdict: String, enforced: bool },
    Died { how: String },
}

/// Who may be to blame.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are the product's")]
pub struct Culprit {
    pub function: String,
    pub place: Option<String>,
    pub share: f64,
    pub task: Option<String>,
    pub request: Option<String>,
}

/// A request in flight.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are the product's")]
pub struct Request {
    pub method: String,
    pub object: String,
    pub caller: String,
    pub since_s: f64,
}

/// The row of the worker.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are the product's")]
pub struct Worker {
    pub requests: u64,
    pub in_flight: u64,
}

/// What the worker said of itself.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are the product's")]
pub struct Inside {
    pub stacks: Vec<serde_json::Value>,
    pub gaps: Vec<String>,
    pub steps_ms: std::collections::BTreeMap<String, u64>,
}

/// A report as a file.
#[derive(Clone, Debug)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// When it was complete.
    pub written: SystemTime,
    /// What it says.
    pub report: Report,
}

impl File {
    /// When the gateway began to write it: when the verdict was final.
    pub fn begun(&self) -> SystemTime {
        self.written - Duration::from_millis(self.report.took_ms)
    }
}

/// All reports of a gateway, the oldest first.
pub fn all(gateway: &Gateway) -> Vec<File> {
    let Ok(entries) = std::fs::read_dir(gateway.setup.state_dir().join("crash")) else { return Vec::new() };
    let mut files: Vec<File> = entries.flatten().filter_map(|entry| read(&entry.path())).collect();
    files.sort_by_key(|file| file.written);
    files
}

/// The reports of one process.
pub fn of(gateway: &Gateway, pid: u32) -> Vec<File> {
    all(gateway).into_iter().filter(|file| file.report.pid == pid).collect()
}

/// None for what is no finished report, or was just removed as the oldest.
fn read(path: &Path) -> Option<File> {
    if path.extension()? != "json" {
        return None;
    }
    let metadata = std::fs::metadata(path).ok()?;
    let text = std::fs::read(path).ok()?;
    let report = serde_json::from_slice(&text)
        .unwrap_or_else(|error| panic!("{}: {error}: {}", path.display(), String::from_utf8_lossy(&text)));
    Some(File {
        path: path.to_owned(),
        mode: metadata.permissions().mode() & 0o7777,
        size: metadata.len(),
        written: metadata.modified().ok()?,
        report,
    })
}

/// `forkgate report FILE`.
pub fn rendered(gateway: &Gateway, path: &Path) -> String {
    said(gateway, &["report", &path.display().to_string()])
}

/// `forkgate ctl why SLOT`.
pub fn why(gateway: &Gateway, slot: u32) -> String {
    said(gateway, &["ctl", "why", &slot.to_string()])
}

fn said(gateway: &Gateway, words: &[&str]) -> String {
    let output = gateway.setup.command().args(words).output().expect("the binary starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{words:?}: {} {text} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}
