//! What a run has found, and its JSON form.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{json, Map, Value};

use crate::args::{Args, Era};
use crate::client::Failure;
use crate::procs::{Group, Usage};

struct GroupReport {
    name: String,
    idle: Usage,
    before: Usage,
    after: Usage,
    watch_pct: Vec<f64>,
    watch_last: Option<Usage>,
}

pub struct Report {
    pub ok: u64,
    pub elapsed: Duration,
    pub reconnects: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub streams_opened: u64,
    pub streams_closed_early: u64,
    pub stream_bytes: u64,
    pub aborted: usize,
    pub load_cpu_s: f64,
    /// Errors in the measured window.
    errors: BTreeMap<String, u64>,
    /// Errors before and after it.
    errors_outside: BTreeMap<String, u64>,
    handshake_errors: BTreeMap<String, u64>,
    stream_errors: BTreeMap<String, u64>,
    /// Microseconds.
    latency: Histogram<u64>,
    handshakes: Histogram<u64>,
    groups: Vec<GroupReport>,
}

fn histogram() -> Histogram<u64> {
    // 1 us to 1 hour at 3 significant digits.
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are valid")
}

fn micros(d: Duration) -> u64 {
    (d.as_micros() as u64).max(1)
}

fn round(x: f64, digits: i32) -> f64 {
    let p = 10f64.powi(digits);
    (x * p).round() / p
}

fn percentiles(h: &Histogram<u64>) -> Value {
    let ms = |us: u64| round(us as f64 / 1e3, 3);
    json!({
        "p50": ms(h.value_at_quantile(0.50)),
        "p90": ms(h.value_at_quantile(0.90)),
        "p99": ms(h.value_at_quantile(0.99)),
        "p99_9": ms(h.value_at_quantile(0.999)),
        "max": ms(h.max()),
        "mean": round(h.mean() / 1e3, 3),
    })
}

impl Report {
    pub fn new(_: &Args) -> Self {
        Report {
            ok: 0,
            elapsed: Duration::ZERO,
            reconnects: 0,
            bytes_in: 0,
            bytes_out: 0,
            streams_opened: 0,
            streams_closed_early: 0,
            stream_bytes: 0,
            aborted: 0,
            load_cpu_s: 0.0,
            errors: BTreeMap::new(),
            errors_outside: BTreeMap::new(),
            handshake_errors: BTreeMap::new(),
            stream_errors: BTreeMap::new(),
            latency: histogram(),
            handshakes: histogram(),
            groups: Vec::new(),
        }
    }

    pub fn ok(&mut self, took: Duration) {
        self.ok += 1;
        self.latency.saturating_record(micros(took));
    }

    pub fn error(&mut self, f: Failure, measuring: bool) {
        let map = if measuring { &mut self.errors } else { &mut self.errors_outside };
        *map.entry(f.kind()).or_default() += 1;
    }

    pub fn handshake(&mut self, took: Duration) {
        self.handshakes.saturating_record(micros(took));
    }

    pub fn handshake_failed(&mut self, f: Failure) {
        *self.handshake_errors.entry(f.kind()).or_default() += 1;
    }

    pub fn stream_failed(&mut self, f: Failure) {
        *self.stream_errors.entry(f.kind()).or_default() += 1;
    }

    pub fn group(&mut self, g: &Group, idle: Usage, before: Usage, after: Usage) {
        self.groups.push(GroupReport {
            name: g.name.clone(),
            idle,
            before,
            after,
            watch_pct: Vec::new(),
            watch_last: None,
        });
    }

    pub fn watched(&mut self, i: usize, pct: f64, now: Usage) {
        self.groups[i].watch_pct.push(round(pct, 1));
        self.groups[i].watch_last = Some(now);
    }

    pub fn json(&self, a: &Args) -> Value {
        let s = self.elapsed.as_secs_f64();
        let errors: u64 = self.errors.values().sum();
        let per_1k = |cpu: f64| {
            let done = self.ok + errors;
            if done == 0 {
                Value::Null
            } else {
                json!(round(cpu * 1e3 / done as f64, 4))
            }
        };
        let mut groups = Map::new();
        for g in &self.groups {
            let cpu = g.after.cpu_s - g.before.cpu_s;
            let mut v = json!({
                "cpu_s": round(cpu, 2),
                "cpu_s_per_1k": per_1k(cpu),
                "procs": g.after.procs,
                "threads": g.after.threads,
                "rss_kb_idle": g.idle.rss_kb,
                "pss_kb_idle": g.idle.pss_kb,
                "rss_kb_after": g.after.rss_kb,
                "pss_kb_after": g.after.pss_kb,
                "fds_idle": g.idle.fds,
                "fds_after": g.after.fds,
            });
            if let Some(u) = g.watch_last {
                let mean = g.watch_pct.iter().sum::<f64>() / g.watch_pct.len() as f64;
                v["watch_pct"] = json!(g.watch_pct);
                v["watch_mean_pct"] = json!(round(mean, 1));
                v["watch_end_fds"] = json!(u.fds);
                v["watch_end_rss_kb"] = json!(u.rss_kb);
                v["watch_end_procs"] = json!(u.procs);
            }
            groups.insert(g.name.clone(), v);
        }
        let mut out = json!({
            "label": a.label,
            "url": a.url,
            "era": if a.era == Era::Modern { "2026" } else { "2025" },
            "method": a.method,
            "conns": a.conns,
            "seconds": round(s, 3),
            "requests": self.ok + errors,
            "ok": self.ok,
            "errors": errors,
            "error_kinds": self.errors,
            "rps": if s > 0.0 { round(self.ok as f64 / s, 1) } else { 0.0 },
            "latency_ms": percentiles(&self.latency),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "reconnects": self.reconnects,
            "errors_outside_window": self.errors_outside,
            "handshakes": {
                "ok": self.handshakes.len(),
                "errors": self.handshake_errors,
                "p50_ms": round(self.handshakes.value_at_quantile(0.5) as f64 / 1e3, 3),
                "max_ms": round(self.handshakes.max() as f64 / 1e3, 3),
            },
            "load_cpu_s": round(self.load_cpu_s, 2),
        });
        if a.method == "tools/call" {
            out["tool"] = json!(a.tool);
        }
        if a.streams > 0 {
            out["streams"] = json!({
                "asked": a.streams,
                "opened": self.streams_opened,
                "closed_early": self.streams_closed_early,
                "errors": self.stream_errors,
                "bytes": self.stream_bytes,
            });
        }
        if a.abort {
            out["reset_connections"] = json!(self.aborted);
        }
        out["groups"] = Value::Object(groups);
        out
    }
}
