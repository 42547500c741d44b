//! What `ctl status --json` says.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What `ctl status --json` says; see the product's documentation for the fields.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are the product's")]
pub struct Status {
    pub pid: u32,
    pub upgrades: u64,
    pub target: u64,
    pub ready: u64,
    pub row_capacity: usize,
    pub settings_generation: u64,
    pub catalog_generation: u64,
    pub requests: u64,
    pub accepted: u64,
    pub handed_over: u64,
    pub recycles: Recycles,
    pub kills: BTreeMap<String, u64>,
    pub crashes: u64,
    pub boot_failures: u64,
    pub oom_kills: u64,
    pub degraded: bool,
    pub state: String,
    pub sentence: String,
    #[serde(default)]
    pub addresses: Vec<String>,
    #[serde(default)]
    pub held_back: Vec<HeldBack>,
    pub workers: Vec<Worker>,
}

/// A slot that gets less than its share of new clients.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[expect(missing_docs, reason = "the names are the product's")]
pub struct HeldBack {
    pub slot: u32,
    pub share: f64,
    pub why: String,
}

/// Voluntary replacements by reason.
#[derive(Clone, Copy, Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are the product's")]
pub struct Recycles {
    pub max_requests: u64,
    pub memory: u64,
    pub age: u64,
    pub reload: u64,
    pub operator: u64,
    pub suspect: u64,
    pub essential_task: u64,
    pub upgrade: u64,
}

/// One worker.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are the product's")]
pub struct Worker {
    pub slot: u32,
    pub pid: u32,
    pub generation: u64,
    pub state: String,
    pub requests: u64,
    pub request_limit: u64,
    pub connections: u64,
    pub in_flight: u64,
    pub streams: u64,
    pub leaves_in_s: Option<f64>,
    pub private_bytes: u64,
    pub catalog_generation: u64,
    pub settings_generation: u64,
    pub busy: f64,
    pub watchdog: String,
}

impl Status {
    /// The workers that accept connections.
    pub fn serving(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter().filter(|worker| worker.state == "serving")
    }

    /// True when the workers that are meant to be there are there, and no others.
    pub fn is_settled(&self) -> bool {
        self.ready == self.target && self.workers.len() as u64 == self.target
    }
}
