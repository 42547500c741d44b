//! Real clients: scripts that drive a gateway with an SDK, take a job and report what they saw as JSON.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::paths;
use crate::skip::{self, Skip};

/// The clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// PyPI `mcp` 2.3, its own choice of era.
    Python2Auto,
    /// PyPI `mcp` 2.3, `initialize`.
    Python2Legacy,
    /// PyPI `mcp` 2.3, stateless only.
    Python2Modern,
    /// PyPI `mcp` 1.30.
    Python1,
    /// npm `@modelcontextprotocol/sdk` 1.32.
    TypeScript,
}

impl Client {
    /// All of them.
    pub const ALL: [Client; 5] = [
        Client::Python2Auto,
        Client::Python2Legacy,
        Client::Python2Modern,
        Client::Python1,
        Client::TypeScript,
    ];

    /// True when it opens sessions.
    pub fn is_legacy(self) -> bool {
        matches!(self, Client::Python2Legacy | Client::Python1 | Client::TypeScript)
    }

    /// Runs a job of `rounds` connections; one report per round.
    pub fn run(self, url: &str, token: &str, rounds: usize, steps: &Value) -> Result<Vec<Value>, Skip> {
        let scripts = paths::tests().join("fixtures/clients");
        let (mut command, mode) = match self {
            Client::Python2Auto => (python("py2", &scripts.join("py2.py"))?, "auto"),
            Client::Python2Legacy => (python("py2", &scripts.join("py2.py"))?, "legacy"),
            Client::Python2Modern => (python("py2", &scripts.join("py2.py"))?, "2026-07-28"),
            Client::Python1 => (python("py1", &scripts.join("py1.py"))?, ""),
            Client::TypeScript => {
                let mut command = Command::new("node");
                command.arg(skip::node()?.join("client.mjs"));
                (command, "")
            }
        };
        let job = json!({"url": url, "token": token, "mode": mode, "rounds": rounds, "steps": steps});
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let written = child.stdin.take().expect("piped").write_all(job.to_string().as_bytes());
        let output = child.wait_with_output().expect("the child is ours");
        assert!(written.is_ok() && output.status.success(), "{self:?} failed ({}), job {job}", output.status);
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{self:?} reported {error}: {text}")))
    }
}

fn python(venv: &str, script: &std::path::Path) -> Result<Command, Skip> {
    let mut command = Command::new(skip::python(venv)?);
    command.args(["-W", "ignore"]).arg(script).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}
