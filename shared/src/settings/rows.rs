//! The one table of settings. A limit or default is argued for here, beside its value, and nowhere else.

use std::time::Duration;

use super::parse::{MIB, show_duration, show_size};
use super::table::Default::{Computed, Required, Text};
use super::table::Kind::{Bool, Count, Duration as Span, OptionalDuration, Other, Size};
use super::table::{Section, Setting, Shown};
use super::{LogFormat, database_url, readers, rows_hooks, rows_process};

/// More requests than a worker lives to see; a limit and its jitter can be added without overflow.
const MOST_REQUESTS: u64 = 1_000_000_000_000;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86400);

/// All settings, by what they are about.
pub const SECTIONS: &[Section] = &[
    Section { title: "Processes", settings: PROCESSES },
    Section { title: "Whose processes, and where", settings: rows_process::IDENTITY },
    Section { title: "Replacing workers", settings: REPLACING },
    Section { title: "The watchdog", settings: WATCHDOG },
    Section { title: "Where state is kept", settings: STATE },
    Section { title: "Who may come in", settings: ACCESS },
    Section { title: "Calls to upstreams", settings: UPSTREAMS },
    Section { title: "Requests and streams", settings: REQUESTS },
    Section { title: "Logs", settings: LOGS },
    Section { title: "Hooks", settings: rows_hooks::HOOKS },
];

const PROCESSES: &[Setting] = &[
    Setting::new(
        "GATEWAY_BIND",
        Text("127.0.0.1:4444"),
        Other { allowed: ADDRESSES, read: readers::bind },
        |s| s.bind.to_string(),
        "Where clients connect: one address or several, and paths of unix sockets. Loopback, because a gateway that \
         strangers can reach should be somebody's decision. HOST and PORT together are the alias for one address. A \
         unix socket is made with mode 0660 and removed at the end.",
    )
    .or(&["HOST", "PORT"]),
    Setting::new(
        "GATEWAY_ADMIN_BIND",
        Text("127.0.0.1:4445"),
        Other { allowed: ADDRESS, read: readers::admin_bind },
        |s| s.admin_bind.to_string(),
        "The port of /metrics and /status. A port of its own, so that it need not be open where the main port is.",
    ),
    Setting::new(
        "GATEWAY_WORKERS",
        Computed("the number of CPUs by affinity and cgroup quota, at most 64"),
        Other { allowed: "a whole number from 1 to 64, or auto", read: readers::workers },
        |s| s.workers.to_string(),
        "Worker processes, each with one event loop. One per CPU that may be used: more only take turns. A reload \
         adds at most 4 to the number at start, which is what the table in shared memory was made for.",
    )
    .or(&["GUNICORN_WORKERS", "GRANIAN_WORKERS"]),
    Setting::new(
        "GATEWAY_BACKLOG",
        Text("2048"),
        Count(1..=65535, |d, n| d.settings.backlog = n as i32),
        |s| s.backlog.to_string(),
        "Connections that wait in the accept queue of each worker's slot. As gunicorn's; the kernel caps it at \
         net.core.somaxconn.",
    )
    .or(&["GUNICORN_BACKLOG"]),
    Setting::new(
        "GATEWAY_BOOT_TIMEOUT",
        Text("60s"),
        Span(SECOND..=HOUR, |d, t| d.settings.boot_timeout = t),
        |s| show_duration(s.boot_timeout),
        "From the start of a worker to its report that it accepts; later it is killed. A boot takes well under a \
         second, a minute is for a machine that swaps.",
    ),
    Setting::new(
        "GATEWAY_CRASH_BUDGET",
        Computed("5, or twice GATEWAY_WORKERS where that is more"),
        Count(1..=10_000, |d, n| d.crash_budget = Some(n as u32)),
        |s| s.crash_budget.to_string(),
        "Workers that may die unasked or fail to start within a minute. With one more it is a crash loop: workers that \
         serve go on, one empty slot at a time is tried. Two deaths of every worker may be chance, and five are soon \
         made by hand.",
    ),
    Setting::new(
        "GATEWAY_GIVE_UP",
        Text("60s"),
        OptionalDuration(SECOND..=DAY, |d, t| d.settings.give_up = t),
        |s| s.give_up.map_or_else(|| "off".to_owned(), show_duration),
        "How long no worker at all may be ready before the master says why and ends with code 1: who started it (systemd, \
         Kubernetes) may know more to do. Off: it tries for ever.",
    ),
    Setting::new(
        "GATEWAY_GRACEFUL_TIMEOUT",
        Text("60s"),
        Span(Duration::ZERO..=DAY, |d, t| d.settings.graceful_timeout = t),
        |s| show_duration(s.graceful_timeout),
        "How long a draining worker may finish what it has; later it is killed. No shorter than \
         GATEWAY_TOOL_TIMEOUT, or a recycle cuts calls (you are warned). systemd is asked for the time.",
    )
    .or(&["GUNICORN_GRACEFUL_TIMEOUT"]),
    Setting::new(
        "GATEWAY_KEEPALIVE_GRACE",
        Computed("5s, or GATEWAY_GRACEFUL_TIMEOUT where that is shorter"),
        Span(Duration::ZERO..=HOUR, |d, t| d.keepalive_grace = Some(t)),
        |s| show_duration(s.keepalive_grace),
        "How long a draining worker waits on idle connections for one more request, to answer it with `Connection: \
         close`. A close without that word loses the request that is on its way. 5 s is what uvicorn and Node wait by default.",
    ),
    Setting::new(
        "GATEWAY_CONNECTION_HANDOVER",
        Text("true"),
        Bool(|d, yes| d.settings.connection_handover = yes),
        |s| s.connection_handover.to_string(),
        "Whether open connections move to the new worker when one is replaced: each as soon as it is idle, with what the \
         client has sent of its next request. Nobody is told to come again then, and GATEWAY_KEEPALIVE_GRACE waits for nobody. \
         Off: every connection is closed within that grace, its last answer says so.",
    ),
    Setting::new(
        "GATEWAY_STREAM_DRAIN",
        Computed("5s, or GATEWAY_GRACEFUL_TIMEOUT where that is shorter"),
        Span(Duration::ZERO..=HOUR, |d, t| d.stream_drain = Some(t)),
        |s| show_duration(s.stream_drain),
        "Over how long the standing streams (GET) of a draining worker end, each at a random moment, so that their clients do \
         not come back together: a thousand in 5 s are 200 a second. A replacement waits this long for streams, not longer. \
         Streams of a call in progress wait for the call.",
    ),
    Setting::new(
        "GATEWAY_ORPHAN_TIMEOUT",
        Text("60s"),
        Span(Duration::ZERO..=DAY, |d, t| d.settings.orphan_timeout = t),
        |s| show_duration(s.orphan_timeout),
        "How long workers whose master died may finish what they have. As the graceful timeout: the same calls.",
    ),
];

const REPLACING: &[Setting] = &[
    Setting::new(
        "GATEWAY_MAX_REQUESTS",
        Text("1000000"),
        Count(0..=MOST_REQUESTS, |d, n| d.settings.max_requests = n),
        |s| s.max_requests.to_string(),
        "Requests after which a worker is replaced; 0 = never. Health checks are not counted. High: forkgate's \
         workers have no known leak, and a replacement costs a boot.",
    )
    .or(&["GUNICORN_MAX_REQUESTS"]),
    Setting::new(
        "GATEWAY_MAX_REQUESTS_JITTER",
        Computed("10 % of GATEWAY_MAX_REQUESTS"),
        Count(0..=MOST_REQUESTS, |d, n| d.max_requests_jitter = Some(n)),
        |s| s.max_requests_jitter.to_string(),
        "Each worker adds a random number of requests up to this, so that workers that share the load evenly do not \
         ask for replacement together.",
    )
    .or(&["GUNICORN_MAX_REQUESTS_JITTER"]),
    Setting::new(
        "GATEWAY_MAX_RSS",
        Computed("auto: 80 % of the cgroup's memory limit divided by the workers; off where there is no limit"),
        Other { allowed: "16M to 1024G, auto, or off; a number means MiB", read: readers::max_rss },
        |s| s.max_rss.map_or_else(|| "off".to_owned(), show_size),
        "Private memory (MiB without a unit) above which a worker is replaced, in three samples running. Private \
         means Private_Clean + Private_Dirty of smaps_rollup: pages shared with other processes are not the worker's \
         fault and would not be freed with it.",
    )
    .or(&["GRANIAN_WORKERS_MAX_RSS"]),
    Setting::new(
        "GATEWAY_MEMORY_SAMPLE_INTERVAL",
        Text("10s"),
        Span(MS.saturating_mul(100)..=HOUR, |d, t| d.settings.memory_sample_interval = t),
        |s| show_duration(s.memory_sample_interval),
        "How often a worker measures its private memory. The kernel walks the page tables for a sample, so it is no matter for every request.",
    ),
    Setting::new(
        "GATEWAY_WORKER_LIFETIME",
        Text("off"),
        OptionalDuration(SECOND..=DAY.saturating_mul(365), |d, t| d.settings.worker_lifetime = t),
        |s| s.worker_lifetime.map_or_else(|| "off".to_owned(), show_duration),
        "Age at which a worker is replaced, plus up to 10 %. Off: age alone is no fault.",
    )
    .or(&["GRANIAN_WORKERS_LIFETIME"]),
    Setting::new(
        "GATEWAY_RECYCLE_MIN_INTERVAL",
        Text("2s"),
        Span(Duration::ZERO..=HOUR, |d, t| d.settings.recycle_min_interval = t),
        |s| show_duration(s.recycle_min_interval),
        "Least time between two replacements for requests, memory or age; a reload does not wait. Keeps a limit that \
         is set too low from turning into a boot loop.",
    ),
    Setting::new(
        "GATEWAY_SLOW_START",
        Text("2s"),
        OptionalDuration(MS.saturating_mul(100)..=HOUR, |d, t| d.settings.slow_start = t),
        |s| s.slow_start.map_or_else(|| "off".to_owned(), show_duration),
        "How long a worker that starts where there was none (after a crash, or one more) gets a quarter, a half, three \
         quarters of its share of new clients: its caches and its connections to upstreams are cold. A worker that \
         replaces a running one gets its whole share.",
    ),
];

const WATCHDOG: &[Setting] = &[
    Setting::new(
        "GATEWAY_WATCHDOG",
        Text("enforce"),
        Other { allowed: "enforce, observe or off", read: readers::watchdog },
        |s| s.watchdog.as_str().to_owned(),
        "What happens to a worker whose event loop stalls or spins. enforce: it is reported, replaced and killed; \
         observe: reported and logged, not killed; load is shed and workers ask to be replaced as with enforce; off: \
         nobody looks, so none of that happens: see docs/operations.md.",
    ),
    Setting::new(
        "GATEWAY_STALL_TIMEOUT",
        Text("10s"),
        Span(SECOND..=HOUR, |d, t| d.settings.stall_timeout = t),
        |s| show_duration(s.stall_timeout),
        "How long one poll of a task may keep the event loop. Nothing that a gateway does takes a second; clients are \
         sent elsewhere after one, the worker is killed after this. gunicorn's is 30 s because it sees less.",
    )
    .or(&["GUNICORN_TIMEOUT"]),
    Setting::new(
        "GATEWAY_SPIN_WINDOW",
        Text("15s"),
        Span(SECOND.saturating_mul(3)..=HOUR, |d, t| d.settings.spin_window = t),
        |s| show_duration(s.spin_window),
        "How long the event loop may be busy for half of the time and get less than 20 units of work done per busy \
         second (a unit is a message, 64 KiB moved, or a hundred reads and writes; a probe is a tenth). Honest work costs less \
         than a thousandth of that.",
    ),
    Setting::new(
        "GATEWAY_KILL_INTERVAL",
        Text("30s"),
        Span(Duration::ZERO..=HOUR, |d, t| d.settings.kill_interval = t),
        |s| show_duration(s.kill_interval),
        "Least time between two kills of workers that are blocked or silent: a slow disk or a debugger may have \
         stopped all of them, and killing helps nobody then. A worker that burns CPU is killed without waiting.",
    ),
];

const STATE: &[Setting] = &[
    Setting::new(
        "GATEWAY_STATE_DIR",
        Computed("$STATE_DIRECTORY (systemd), else $XDG_STATE_HOME/forkgate, else ~/.local/state/forkgate"),
        Other { allowed: "a directory, or a path at which one can be made", read: readers::state_dir },
        |s| s.state_dir.display().to_string(),
        "Where the database, the session table and the session keys are kept.",
    )
    .fixed(),
    Setting::new(
        "DATABASE_URL",
        Computed("forkgate.db in the state directory"),
        Other {
            allowed: "sqlite:////absolute/path.db or sqlite:///./relative/path.db",
            read: readers::database,
        },
        |s| database_url::show(&s.database),
        "The registry. SQLAlchemy's spellings work, with or without a driver; this version knows SQLite only.",
    )
    .shown(Shown::Url),
];

const ACCESS: &[Setting] = &[
    Setting::new(
        "GATEWAY_JWT_SECRET",
        Required,
        Other { allowed: "at least 32 characters that cannot be guessed", read: readers::jwt_secret },
        |s| s.jwt_secret.expose().to_owned(),
        "Signs and checks tokens (HS256). There is no default: who knows the secret is an administrator. Make one \
         with `openssl rand -hex 32` or `head -c 32 /dev/urandom | base64`.",
    )
    .or(&["JWT_SECRET_KEY"])
    .shown(Shown::Secret),
    Setting::new(
        "JWT_AUDIENCE",
        Text("mcpgateway-api"),
        Other { allowed: "a text", read: readers::audience },
        |s| s.jwt_audience.clone(),
        "`aud` that a token must have. ContextForge's, so that its tokens work.",
    ),
    Setting::new(
        "JWT_ISSUER",
        Text("mcpgateway"),
        Other { allowed: "a text", read: readers::issuer },
        |s| s.jwt_issuer.clone(),
        "`iss` that a token must have. ContextForge's, so that its tokens work.",
    ),
    Setting::new(
        "GATEWAY_AUTH_REQUIRED",
        Text("true"),
        Bool(|d, yes| d.settings.auth_required = yes),
        |s| s.auth_required.to_string(),
        "Whether a request needs a token. Without it everybody who reaches the port can call every tool.",
    )
    .or(&["AUTH_REQUIRED"]),
    Setting::new(
        "GATEWAY_SESSION_KEYS",
        Computed("minted once and kept in session.keys in the state directory, readable by its owner only"),
        Other { allowed: "1 to 8 keys of 32 bytes in hex or base64, separated by commas", read: readers::session_keys },
        |s| s.session_keys.as_ref().map(|keys| keys.expose().to_owned()).unwrap_or_default(),
        "Seal session ids. The first key seals, all open: to rotate, put a new one in front. Set it when several \
         hosts serve the same clients.",
    )
    .shown(Shown::Secret),
    Setting::new(
        "GATEWAY_ALLOWED_HOSTS",
        Computed("localhost,127.0.0.1,[::1] when GATEWAY_BIND has only loopback addresses and unix sockets; any (`*`) otherwise"),
        Other { allowed: "host names or IP addresses separated by commas, or *", read: readers::allowed_hosts },
        |s| if s.allowed_hosts.is_empty() { "*".to_owned() } else { s.allowed_hosts.join(",") },
        "`Host` names that are answered, without port. On loopback the default stops web pages that point their own \
         name at your machine (DNS rebinding); elsewhere the names are not known, set them.",
    ),
    Setting::new(
        "GATEWAY_ALLOWED_ORIGINS",
        Computed("none"),
        Other { allowed: "origins such as https://app.example.com, separated by commas", read: readers::allowed_origins },
        |s| s.allowed_origins.join(","),
        "`Origin`s of web pages that are answered (CORS), besides pages of the allowed hosts themselves. A page still needs a \
         token.",
    )
    .or(&["ALLOWED_ORIGINS"]),
];

const UPSTREAMS: &[Setting] = &[
    Setting::new(
        "GATEWAY_TOOL_TIMEOUT",
        Text("60s"),
        Span(MS.saturating_mul(100)..=DAY, |d, t| d.settings.tool_timeout = t),
        |s| show_duration(s.tool_timeout),
        "The longest a call to an upstream may take, its retries included. ContextForge's.",
    )
    .or(&["TOOL_TIMEOUT"]),
    Setting::new(
        "GATEWAY_CONNECT_TIMEOUT",
        Text("5s"),
        Span(MS.saturating_mul(50)..=MINUTE.saturating_mul(10), |d, t| d.settings.connect_timeout = t),
        |s| show_duration(s.connect_timeout),
        "For a connection to an upstream, TLS included: three lost SYNs and a slow handshake.",
    )
    .or(&["HTTPX_CONNECT_TIMEOUT"]),
    Setting::new(
        "GATEWAY_MAX_ANSWER",
        Text("16M"),
        Size(1024..=4096 * MIB, |d, n| d.settings.max_answer = n),
        |s| show_size(s.max_answer),
        "Largest message of an upstream. A few at once must fit a worker's memory; a picture or a document does.",
    ),
    Setting::new(
        "GATEWAY_TOOL_NAME_SEPARATOR",
        Text("__"),
        Other { allowed: "1 to 4 of the characters - _ .", read: readers::separator },
        |s| s.tool_name_separator.clone(),
        "Between upstream and tool in the names at the federated endpoint (`github__search`). Two underscores, \
         because names hold single ones.",
    ),
    Setting::new(
        "SSRF_ALLOW_LOCALHOST",
        Text("false"),
        Bool(|d, yes| d.settings.ssrf_allow_localhost = yes),
        |s| s.ssrf_allow_localhost.to_string(),
        "Whether upstreams may be on loopback addresses. Off: there live the admin ports of everything else on the \
         host. `forkgate demo` sets it.",
    ),
    Setting::new(
        "SSRF_ALLOW_PRIVATE_NETWORKS",
        Text("false"),
        Bool(|d, yes| d.settings.ssrf_allow_private_networks = yes),
        |s| s.ssrf_allow_private_networks.to_string(),
        "Whether upstreams may be in private networks (10/8, 172.16/12, 192.168/16, fc00::/7). Set it when yours are.",
    ),
];

const REQUESTS: &[Setting] = &[
    Setting::new(
        "GATEWAY_HEADER_TIMEOUT",
        Text("10s"),
        Span(MS.saturating_mul(100)..=MINUTE.saturating_mul(10), |d, t| d.settings.header_timeout = t),
        |s| show_duration(s.header_timeout),
        "From the first byte of a request to the end of its headers, and from connecting to the first byte. A client \
         that takes longer holds the connection for nothing.",
    ),
    Setting::new(
        "GATEWAY_MAX_BODY",
        Text("16M"),
        Size(1024..=4096 * MIB, |d, n| d.settings.max_body = n),
        |s| show_size(s.max_body),
        "Largest request body; it is held in memory while the call lasts.",
    ),
    Setting::new(
        "SSE_KEEPALIVE_INTERVAL",
        Text("30s"),
        Span(MS.saturating_mul(100)..=HOUR, |d, t| d.settings.sse_keepalive_interval = t),
        |s| show_duration(s.sse_keepalive_interval),
        "A comment line on silent event streams. nginx cuts connections that are silent for 60 s.",
    ),
    Setting::new(
        "SSE_SEND_TIMEOUT",
        Text("30s"),
        OptionalDuration(MS.saturating_mul(100)..=DAY, |d, t| d.settings.sse_send_timeout = t),
        |s| s.sse_send_timeout.map_or_else(|| "off".to_owned(), show_duration),
        "How long a client may take nothing of what is written to it before its connection is closed. A reader that \
         stopped would hold memory for ever.",
    ),
];

const LOGS: &[Setting] = &[
    Setting::new(
        "GATEWAY_LOG",
        Text("text"),
        Other {
            allowed: "text or json, optionally with a level: json,debug or text:info",
            read: readers::log,
        },
        |s| match s.log_format {
            LogFormat::Text => "text".to_owned(),
            LogFormat::Json => "json".to_owned(),
        },
        "How lines on stderr look: readable, or one JSON object per line.",
    )
    .or(&["LOG_FORMAT"]),
    Setting::new(
        "GATEWAY_LOG_FILE",
        Text("off"),
        Other {
            allowed: "the absolute path of a file in a directory that exists, or off",
            read: readers::log_file,
        },
        |s| s.log_file.as_ref().map_or_else(|| "off".to_owned(), |path| path.display().to_string()),
        "Where lines go instead of to stderr: appended, one write per line, mode 0640. USR1 opens it anew after it was \
         moved away (logrotate). Off: whoever starts forkgate (systemd, a container) keeps logs already.",
    ),
    Setting::new(
        "GATEWAY_LOG_LEVEL",
        Text("info"),
        Other { allowed: "error, warn, info, debug or trace", read: readers::log_level },
        |s| s.log_level.clone(),
        "The least important lines that are written. At info nothing is written per request.",
    )
    .or(&["LOG_LEVEL"]),
];

/// What [`ADDRESS`] is to a setting that takes several.
const ADDRESSES: &str = "up to 16 addresses separated by commas: an IP address with a port, such as 127.0.0.1:4444 or [::]:4444, or \
    unix: and an absolute path";
const ADDRESS: &str = "an IP address with a port, such as 127.0.0.1:4444, 0.0.0.0:4444 or [::]:4444";
