//! Real upstreams as processes: the Python server, server-everything from npm, the fast one.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::RngExt;

use crate::skip::{self, Skip};
use crate::{paths, runner, wait};

/// How long an upstream may take to listen: Python on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(40);

/// A process that serves MCP at `/mcp`.
pub struct Upstream {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Upstream {
    /// The server of `fixtures/upstream_py`.
    pub fn python() -> Result<Upstream, Skip> {
        let python = skip::python("py2")?;
        let port = free_port();
        let mut command = Command::new(python);
        command.arg(paths::tests().join("fixtures/upstream_py/server.py")).arg(port.to_string());
        Ok(Upstream::start(command, port, "upstream-python"))
    }

    /// `@modelcontextprotocol/server-everything` over Streamable HTTP.
    pub fn everything() -> Result<Upstream, Skip> {
        let node = skip::node()?;
        let port = free_port();
        let mut command = Command::new("node");
        let script = node.join("node_modules/@modelcontextprotocol/server-everything/dist/index.js");
        command.arg(script).arg("streamableHttp").env("PORT", port.to_string());
        Ok(Upstream::start(command, port, "upstream-everything"))
    }

    /// fastup.
    pub fn fast() -> Upstream {
        Upstream::fast_on(free_port())
    }

    /// fastup on a given port.
    pub fn fast_on(port: u16) -> Upstream {
        let fastup = paths::fastup();
        assert!(fastup.exists(), "{} is missing: cargo build --release -p fastup", fastup.display());
        let mut command = Command::new(fastup);
        command.args(["--listen", &format!("127.0.0.1:{port}")]);
        Upstream::start(command, port, "upstream-fast")
    }

    fn start(mut command: Command, port: u16, name: &str) -> Upstream {
        let log = paths::of_test(&runner::current_test()).join(format!("{name}-{port}.log"));
        let output = File::create(&log).expect("the test's directory is writable");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a descriptor is free"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        wait::until(&format!("{name} to listen on {address}, see {}", log.display()), START_LIMIT, || {
            if let Some(status) = child.try_wait().expect("the child is ours") {
                panic!("{name} ended with {status}: {}", read_tail(&log));
            }
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()
        });
        Upstream { child, address }
    }

    /// The URL to register.
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a log.
pub fn read_tail(path: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// A port that nobody uses, below the range from which clients get theirs, so that it stays free.
pub fn free_port() -> u16 {
    loop {
        let port = rand::rng().random_range(20_000..32_000);
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return port,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => panic!("no port on the loopback address: {error}"),
        }
    }
}
