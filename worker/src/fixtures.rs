//! What unit tests of this crate share.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use forkgate_shared::control::ControlSocket;
use forkgate_shared::rows::Rows;
use forkgate_shared::sealed::KeyRing;
use forkgate_shared::sessions::{self, Sessions};
use forkgate_shared::settings::{LogFormat, Secret, Settings};

use crate::auth::Authenticator;
use crate::catalog::Catalog;
use crate::gateway::{Gateway, Shared};
use crate::lifecycle::Lifecycle;
use crate::lifecycle::control::Control;
use crate::registry::Registry;
use crate::upstream::Upstreams;

/// Settings of a gateway on loopback.
pub(crate) fn settings() -> Settings {
    Settings {
        bind: SocketAddr::from(([127, 0, 0, 1], 0)).into(),
        admin_bind: "127.0.0.1:0".parse().expect("address"),
        workers: 1,
        backlog: 128,
        state_dir: "/nonexistent".into(),
        database: "/nonexistent/registry.db".into(),
        max_requests: 0,
        max_requests_jitter: 0,
        max_rss: None,
        memory_sample_interval: Duration::from_secs(10),
        worker_lifetime: None,
        recycle_min_interval: Duration::from_secs(2),
        slow_start: None,
        watchdog: forkgate_shared::settings::Watchdog::Off,
        stall_timeout: Duration::from_secs(10),
        spin_window: Duration::from_secs(15),
        kill_interval: Duration::from_secs(30),
        boot_timeout: Duration::from_secs(60),
        graceful_timeout: Duration::from_secs(60),
        orphan_timeout: Duration::from_secs(60),
        keepalive_grace: Duration::from_secs(5),
        stream_drain: Duration::from_secs(1),
        connection_handover: true,
        jwt_secret: Secret::new("a secret of the length that HS256 wants"),
        jwt_audience: "mcpgateway-api".to_owned(),
        jwt_issuer: "mcpgateway".to_owned(),
        auth_required: true,
        session_keys: None,
        allowed_hosts: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
        allowed_origins: Vec::new(),
        ssrf_allow_localhost: false,
        ssrf_allow_private_networks: false,
        tool_name_separator: "__".to_owned(),
        crash_budget: 5,
        give_up: None,
        log_format: LogFormat::Text,
        log_file: None,
        log_level: "info".to_owned(),
        tool_timeout: Duration::from_secs(60),
        connect_timeout: Duration::from_secs(10),
        header_timeout: Duration::from_secs(30),
        max_body: 1024 * 1024,
        max_answer: 16 * 1024 * 1024,
        sse_keepalive_interval: Duration::from_secs(30),
        sse_send_timeout: Some(Duration::from_secs(30)),
        user: None,
        group: None,
        umask: None,
        pidfile: None,
        cpu_affinity: forkgate_shared::settings::CpuAffinity::Off,
        hooks: forkgate_shared::settings::Hooks::default(),
    }
}

/// A worker's parts without its process, the master's end of its control socket, and the directory of its state.
pub(crate) fn gateway(alter: impl Fn(&mut Settings)) -> (Shared, ControlSocket, tempfile::TempDir) {
    let state = tempfile::tempdir().expect("directory");
    let mut settings = settings();
    settings.state_dir = state.path().to_owned();
    alter(&mut settings);
    let settings = Arc::new(settings);
    let rows = Arc::new(Rows::create(1).expect("rows").0);
    let (master, child) = ControlSocket::pair().expect("pair");
    let table = sessions::create_file(&state.path().join("sessions")).expect("table");
    let gateway = Rc::new(Gateway {
        auth: Authenticator::new(&settings),
        sessions: Sessions::open(table.into(), KeyRing::load(&settings).expect("keys")).expect("sessions"),
        upstreams: Upstreams::new(&settings, Arc::clone(&rows), 0).expect("upstreams"),
        registry: Registry::new(&settings),
        catalog: ArcSwap::from_pointee(Catalog::empty()),
        lifecycle: Lifecycle::default(),
        control: Rc::new(Control::over(child)),
        row_index: 0,
        rows,
        settings,
    });
    (gateway, master, state)
}
