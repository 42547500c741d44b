//! A gateway under test: `forkgate serve` on free ports with a state directory of its own, and what is known of it from
//! outside.
//!
//! All settings go through an env file, as in production; the process environment of the test run does not reach it.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::{self, Answer, Request};
use crate::mcp::Endpoint;
use crate::process::{self, Signal};
pub use crate::status::{Recycles, Status, Worker};
use crate::upstream::{Upstream, free_port, read_tail};
use crate::{mcp, paths, runner, token, wait};

/// How long a start may take on two busy cores.
pub const START_LIMIT: Duration = Duration::from_secs(30);
/// How long one exchange may take; no test asks for anything slower without saying so.
pub const EXCHANGE_LIMIT: Duration = Duration::from_secs(10);
/// How long an orderly end may take.
pub const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Numbers the gateways (and their logs) of one test.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// What to start.
#[derive(Clone, Debug)]
pub struct Setup {
    settings: BTreeMap<String, String>,
    directory: PathBuf,
    binary: PathBuf,
    /// What `serve` is started from, when that is not the binary under test itself.
    installed: Option<PathBuf>,
    wrapper: Vec<String>,
    is_init: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Setup::new()
    }
}

impl Setup {
    /// Two workers, free ports, a state directory within the test's own.
    pub fn new() -> Setup {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let directory = paths::of_test(&runner::current_test()).join(format!("gateway-{number}"));
        std::fs::create_dir_all(&directory).expect("the test's directory is writable");
        let (settings, binary, installed) = (BTreeMap::new(), paths::forkgate(), None);
        let (wrapper, is_init) = (Vec::new(), false);
        let setup = Setup { settings, directory, binary, installed, wrapper, is_init };
        let state = paths::short(number).join("state").display().to_string();
        setup
            .set("GATEWAY_BIND", format!("127.0.0.1:{}", free_port()))
            .set("GATEWAY_ADMIN_BIND", format!("127.0.0.1:{}", free_port()))
            .set("GATEWAY_STATE_DIR", state)
            .set("GATEWAY_WORKERS", "2")
            .set("GATEWAY_JWT_SECRET", token::SECRET)
            .set("SSRF_ALLOW_LOCALHOST", "true")
            // Each replacement waits for streams that long, and tests have many of both.
            .set("GATEWAY_STREAM_DRAIN", "0.5s")
    }

    /// The same with the binary that can be told to harm itself.
    pub fn with_faults() -> Setup {
        let binary = paths::forkgate_faults();
        assert!(
            binary.exists(),
            "{} is missing: cargo build --release -p forkgate --features faults, and copy the binary there",
            binary.display()
        );
        Setup { binary, ..Setup::new() }.set("GATEWAY_FAULTS", "1")
    }

    /// The same, started from a copy of the binary that [`Gateway::install`] may replace.
    pub fn installed(self) -> Setup {
        let binary = self.binary.clone();
        self.installed_from(&binary)
    }

    /// The same, started from a copy of another binary; `ctl` and the other commands are still those under test.
    pub fn installed_from(self, binary: &Path) -> Setup {
        let installed = self.directory.join("forkgate");
        std::fs::copy(binary, &installed).expect("the test's directory is writable");
        Setup { installed: Some(installed), ..self }
    }

    /// The binary that `serve` is started from.
    pub fn installed_binary(&self) -> &Path {
        self.installed.as_ref().unwrap_or(&self.binary)
    }

    /// Starts the gateway through this program, which must become it.
    pub fn through(mut self, words: &[&str]) -> Setup {
        self.wrapper = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Makes it process 1 of a namespace of its own, as in a container; it is started through `words`, which must become it.
    pub fn as_init(self, words: &[&str]) -> Setup {
        let unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
        Setup { is_init: true, ..self.through(&[&unshare, words].concat()) }
    }

    /// Sets a setting.
    pub fn set(mut self, name: &str, value: impl Into<String>) -> Setup {
        self.settings.insert(name.to_owned(), value.into());
        self
    }

    /// Takes a setting away.
    pub fn unset(mut self, name: &str) -> Setup {
        self.settings.remove(name);
        self
    }

    /// The number of workers.
    pub fn workers(self, workers: usize) -> Setup {
        self.set("GATEWAY_WORKERS", workers.to_string())
    }

    /// Where the env file, the logs and the state are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The state directory.
    pub fn state_dir(&self) -> PathBuf {
        PathBuf::from(&self.settings["GATEWAY_STATE_DIR"])
    }

    /// The env file; written when the gateway starts.
    pub fn env_file(&self) -> PathBuf {
        self.directory.join("forkgate.env")
    }

    /// The text of the env file.
    pub fn env_text(&self) -> String {
        self.settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
    }

    /// A command of the binary under test with a bare environment.
    pub fn bare_command(&self) -> Command {
        self.bare(Command::new(&self.binary))
    }

    fn bare(&self, mut command: Command) -> Command {
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.directory);
        command.current_dir(&self.directory).stdin(Stdio::null());
        command
    }

    /// A command that finds the settings in its environment.
    pub fn command(&self) -> Command {
        let mut command = self.bare_command();
        command.envs(&self.settings);
        command
    }

    /// Writes the env file and starts `serve`; waits until every worker serves.
    pub fn start(self) -> Gateway {
        let gateway = self.spawn();
        gateway.wait_ready();
        gateway
    }

    /// Writes the env file and starts `serve`; does not wait.
    pub fn spawn(self) -> Gateway {
        std::fs::write(self.env_file(), self.env_text()).expect("the test's directory is writable");
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let log = self.directory.join(format!("serve-{number}.log"));
        let output = File::create(&log).expect("the test's directory is writable");
        let mut words = self.wrapper.iter().map(AsRef::as_ref).chain([self.installed_binary().as_os_str()]);
        let mut command = Command::new(words.next().expect("the binary at least"));
        command.args(words);
        let mut command = self.bare(command);
        command.args(["serve", "--env-file"]).arg(self.env_file());
        command.stdout(output.try_clone().expect("a descriptor is free")).stderr(output);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let address = |name: &str| {
            let first = self.settings[name].split(',').next().unwrap_or_default();
            first.parse().expect("the tests bind to an address and port first")
        };
        let started = child.id();
        let master = if self.is_init {
            wait::until("the namespace's first process", START_LIMIT, || process::children(started).pop())
        } else {
            started
        };
        Gateway {
            child,
            master,
            log,
            address: address("GATEWAY_BIND"),
            admin: address("GATEWAY_ADMIN_BIND"),
            tokens: Tokens::default(),
            setup: self,
        }
    }
}

/// Only this is read: what an upstream says of itself may hold numbers that no value can.
#[derive(Deserialize)]
struct Created {
    id: String,
}

#[derive(Default)]
struct Tokens {
    user: std::cell::OnceCell<String>,
    admin: std::cell::OnceCell<String>,
}

/// A running gateway.
pub struct Gateway {
    /// What was started: the master, or what started it.
    child: Child,
    master: u32,
    log: PathBuf,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where operators connect.
    pub admin: SocketAddr,
    /// How it was started.
    pub setup: Setup,
    tokens: Tokens,
}

impl Gateway {
    /// The master's process id.
    pub fn pid(&self) -> u32 {
        self.master
    }

    /// The file that it logs to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// What it has logged so far.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until as many workers serve as are meant to.
    pub fn wait_ready(&self) {
        let pid = self.pid();
        wait::until_true("the gateway to be ready", START_LIMIT, || {
            assert!(process::alive(pid), "the gateway ended at its start:\n{}", read_tail(&self.log));
            let answer = http::once(self.address, &Request::new("GET", "/ready"), EXCHANGE_LIMIT);
            answer.is_ok_and(|answer| answer.status() == 200)
        });
        self.wait_settled();
    }

    /// Waits until exactly the workers that are meant to be there are there.
    pub fn wait_settled(&self) -> Status {
        wait::until("the workers to settle", START_LIMIT, || self.try_status().filter(Status::is_settled))
    }

    /// What it says of itself, through `ctl status --json`.
    pub fn status(&self) -> Status {
        self.try_status().unwrap_or_else(|| panic!("ctl status failed:\n{}", read_tail(&self.log)))
    }

    /// The same; none when there is no answer.
    pub fn try_status(&self) -> Option<Status> {
        let mut command = self.setup.command();
        let output = command.args(["ctl", "status", "--json"]).output().expect("the binary starts");
        if !output.status.success() {
            eprintln!("ctl status: {} {}", output.status, String::from_utf8_lossy(&output.stderr));
            return None;
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Some(
            serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("ctl status --json said {error}: {text}")),
        )
    }

    /// Runs `forkgate ctl …` against it.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        self.setup.command().arg("ctl").args(arguments).output().expect("the binary starts")
    }

    /// Runs `forkgate ctl … --json`; whether it was done, and the last line of what it says.
    #[track_caller]
    pub fn ctl_json(&self, arguments: &[&str]) -> (bool, Value) {
        let output = self.ctl(&[arguments, &["--json"]].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().last().unwrap_or_default();
        let answer = serde_json::from_str(line).unwrap_or_else(|error| {
            panic!("ctl {arguments:?} said {error}: {text}{}", String::from_utf8_lossy(&output.stderr))
        });
        (output.status.success(), answer)
    }

    /// Begins `forkgate ctl …` against it.
    pub fn begin_ctl(&self, arguments: &[&str]) -> Child {
        let mut command = self.setup.command();
        command.arg("ctl").args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the binary starts")
    }

    /// Signals the master.
    pub fn signal(&self, signal: Signal) {
        assert!(process::signal(self.pid(), signal), "the master is gone:\n{}", read_tail(&self.log));
    }

    /// Puts another file in the place of the one that [`Setup::installed`] made, as packages do, by renaming it.
    pub fn install(&self, bytes: &[u8], mode: u32) {
        let draft = self.setup.directory.join("forkgate.new");
        std::fs::write(&draft, bytes).expect("the test's directory is writable");
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(mode)).expect("chmod");
        std::fs::rename(draft, self.setup.installed_binary()).expect("rename");
    }

    /// Rewrites the env file with these changes and sends HUP; does not wait.
    pub fn reload_with(&mut self, changes: &[(&str, &str)]) {
        self.rewrite(changes);
        self.signal(Signal::SIGHUP);
    }

    /// Rewrites the env file with these changes, and leaves it at that. In one step: a reload that an earlier HUP asked for
    /// may read it at any moment.
    pub fn rewrite(&mut self, changes: &[(&str, &str)]) {
        for (name, value) in changes {
            self.setup = self.setup.clone().set(name, *value);
        }
        let (file, draft) = (self.setup.env_file(), self.setup.env_file().with_extension("draft"));
        std::fs::write(&draft, self.setup.env_text()).expect("the test's directory is writable");
        std::fs::rename(draft, file).expect("the same directory");
    }

    /// Sends HUP and waits until only workers of the new settings are left.
    pub fn reload(&self) {
        let before = self.status().settings_generation;
        self.signal(Signal::SIGHUP);
        self.wait_settings_after(before);
    }

    /// Waits until only workers with newer settings than `before` are left.
    pub fn wait_settings_after(&self, before: u64) -> Status {
        wait::until("every worker to have the new settings", START_LIMIT, || {
            self.try_status().filter(|status| {
                let new = |worker: &Worker| worker.settings_generation == status.settings_generation;
                status.settings_generation > before && status.is_settled() && status.workers.iter().all(new)
            })
        })
    }

    /// A token for clients.
    pub fn token(&self) -> &str {
        self.tokens.user.get_or_init(|| self.make_token(&["--sub", "tests"]))
    }

    /// A token for administrators.
    pub fn admin_token(&self) -> &str {
        self.tokens.admin.get_or_init(|| self.make_token(&["--sub", "tests-admin", "--admin"]))
    }

    /// Runs `token create`.
    pub fn make_token(&self, arguments: &[&str]) -> String {
        let mut command = self.setup.command();
        let output = command.args(["token", "create"]).args(arguments).output().expect("the binary starts");
        assert!(output.status.success(), "token create: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// `/mcp` with a client's token.
    pub fn federated(&self) -> Endpoint {
        self.endpoint("/mcp")
    }

    /// An endpoint with a client's token.
    pub fn endpoint(&self, path: &str) -> Endpoint {
        Endpoint { path: path.to_owned(), token: self.token().to_owned() }
    }

    /// The URL of a path for real clients.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// One exchange over a connection of its own.
    pub fn exchange(&self, request: &Request) -> Answer {
        http::once(self.address, request, EXCHANGE_LIMIT).unwrap_or_else(|failure| {
            panic!("{} {}: {failure}\n{}", request.method, request.path, read_tail(&self.log))
        })
    }

    /// A call of the registry API.
    pub fn api(&self, method: &'static str, path: &str, body: Option<&Value>) -> Answer {
        let request =
            Request::new(method, path).token(self.admin_token()).header("Accept", "application/json");
        let request = match body {
            Some(body) => request.json(body.to_string()),
            None => request,
        };
        // Registration reads a whole upstream, which may be a Python process that has just started.
        http::once(self.address, &request, START_LIMIT)
            .unwrap_or_else(|failure| panic!("{method} {path}: {failure}\n{}", read_tail(&self.log)))
    }

    /// Registers an upstream; its id.
    #[track_caller]
    pub fn register(&self, name: &str, url: &str) -> String {
        let body = json!({"name": name, "url": url, "transport": "STREAMABLEHTTP"});
        let answer = self.api("POST", "/v1/gateways", Some(&body));
        assert!(
            matches!(answer.status(), 200 | 201),
            "registering {url}: {} {}",
            answer.status(),
            answer.text()
        );
        serde_json::from_slice::<Created>(&answer.body).expect("the API answers in JSON").id
    }

    /// Starts the fast upstream and registers it as `fast`; the name of its echo tool at `/mcp` is `fast__echo`.
    pub fn with_fast_upstream(&self) -> Upstream {
        let upstream = Upstream::fast();
        self.register("fast", &upstream.url());
        self.wait_for_tool("fast__echo");
        upstream
    }

    /// Waits until the federated endpoint lists a tool on ten connections in a row.
    pub fn wait_for_tool(&self, tool: &str) {
        let endpoint = self.federated();
        let lists = || {
            mcp::list(self.address, &endpoint, "tools", EXCHANGE_LIMIT)
                .is_ok_and(|all| all.contains(&tool.to_owned()))
        };
        wait::until_true(&format!("{tool} to be listed"), START_LIMIT, || (0..10).all(|_| lists()));
    }

    /// Ends it the quick way (INT); exit status 0 and no child remains.
    pub fn stop(self) {
        self.end(Signal::SIGINT);
    }

    /// Ends it the orderly way (TERM), which waits for clients; exit status 0 and no child remains.
    pub fn drain(self) {
        self.end(Signal::SIGTERM);
    }

    fn end(mut self, signal: Signal) {
        let family = process::descendants(self.pid());
        self.signal(signal);
        let status = self.wait_exit(STOP_LIMIT);
        assert_eq!(status.code(), Some(0), "after {signal}: {status}\n{}", read_tail(&self.log));
        let left: Vec<u32> = family.into_iter().filter(|&pid| process::alive(pid)).collect();
        assert!(left.is_empty(), "after {signal} these are left: {left:?}\n{}", read_tail(&self.log));
    }

    /// Waits for the master's end.
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let child = &mut self.child;
        wait::within(limit, || child.try_wait().expect("the child is ours")).unwrap_or_else(|| {
            panic!("the gateway has not ended within {limit:?}:\n{}", read_tail(&self.log))
        })
    }

    /// Kills the master alone with -9 and reaps it; its workers, orphaned.
    pub fn kill_master(&mut self) -> Vec<u32> {
        let workers = process::children(self.pid());
        process::signal(self.pid(), Signal::SIGKILL);
        let _ = self.child.wait();
        workers
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.log.display(), read_tail(&self.log));
        }
        if let Ok(None) = self.child.try_wait() {
            for pid in process::descendants(self.child.id()) {
                process::signal(pid, Signal::SIGKILL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
