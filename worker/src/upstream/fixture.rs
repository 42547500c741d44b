//! What tests of this layer and the one above start from.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forkgate_shared::settings::{LogFormat, Secret, Settings};

use crate::catalog::{UpstreamEntry, UpstreamEra};

/// Settings with small timeouts that let upstreams be on this machine.
pub(crate) fn settings() -> Settings {
    let second = Duration::from_secs(1);
    Settings {
        bind: SocketAddr::from(([127, 0, 0, 1], 0)).into(),
        admin_bind: SocketAddr::from(([127, 0, 0, 1], 0)),
        workers: 1,
        backlog: 16,
        state_dir: std::env::temp_dir(),
        database: std::env::temp_dir(),
        max_requests: 0,
        max_requests_jitter: 0,
        max_rss: None,
        memory_sample_interval: second,
        worker_lifetime: None,
        recycle_min_interval: second,
        slow_start: None,
        watchdog: forkgate_shared::settings::Watchdog::Off,
        stall_timeout: Duration::from_secs(10),
        spin_window: Duration::from_secs(15),
        kill_interval: Duration::from_secs(30),
        boot_timeout: second,
        graceful_timeout: second,
        orphan_timeout: second,
        keepalive_grace: second,
        stream_drain: second,
        connection_handover: true,
        jwt_secret: Secret::new("not a secret"),
        jwt_audience: String::new(),
        jwt_issuer: String::new(),
        auth_required: false,
        session_keys: None,
        allowed_hosts: Vec::new(),
        allowed_origins: Vec::new(),
        ssrf_allow_localhost: true,
        ssrf_allow_private_networks: false,
        tool_name_separator: "__".to_owned(),
        crash_budget: 5,
        give_up: None,
        log_format: LogFormat::Text,
        log_file: None,
        log_level: "info".to_owned(),
        tool_timeout: 5 * second,
        connect_timeout: second,
        header_timeout: second,
        max_body: 1 << 20,
        max_answer: 1 << 20,
        sse_keepalive_interval: Duration::from_millis(50),
        sse_send_timeout: None,
        user: None,
        group: None,
        umask: None,
        pidfile: None,
        cpu_affinity: forkgate_shared::settings::CpuAffinity::Off,
        hooks: forkgate_shared::settings::Hooks::default(),
    }
}

/// A legacy upstream at `url`.
pub(crate) fn entry(url: &str) -> Arc<UpstreamEntry> {
    Arc::new(UpstreamEntry {
        id: "1".to_owned(),
        name: "up".to_owned(),
        slug: "up".to_owned(),
        index: 0,
        url: url.to_owned(),
        headers: vec![("x-secret".to_owned(), "s3cret".to_owned())],
        era: UpstreamEra::Legacy { version: "2025-11-25".to_owned() },
        capabilities: r#"{"tools":{},"logging":{}}"#.to_owned(),
        instructions: None,
    })
}
