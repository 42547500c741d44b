//! The companion of `forkgate demo`: serves the bundled upstream, registers it as anybody would, shows what to do next.
//!
//! Invariants: it uses the gateway only through its ports, and it never outlives the master.

mod client;
mod guide;
mod leave;
mod offer;
mod upstream;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use forkgate_shared::control::ControlSocket;
use forkgate_shared::log;
use forkgate_shared::settings::{Binds, Settings};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::LocalSet;

use crate::auth::{self, AuthError};
use crate::catalog::compile::prefixed;
use crate::lifecycle::inherited;
use crate::lifecycle::task;
use client::{Answer, Client, ClientError, reachable};
use guide::{Guide, example_call, example_headers};

/// The name that the upstream is registered under.
const NAME: &str = "demo";
/// What tells our own earlier registration from somebody's upstream of the same name.
const DESCRIPTION: &str = "The upstream that comes with forkgate demo";
/// Who the token is for.
const SUBJECT: &str = "demo";
/// How long the shown token is valid.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// Between two looks at `/ready`.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why the demo cannot be shown.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error("the demo's companion cannot run: {0}")]
    System(#[from] io::Error),
    #[error("the demo's upstream cannot listen on 127.0.0.1: {0}; is the loopback interface up?")]
    Bind(io::Error),
    #[error("a demo needs an address with a port to show: {0} is none; name one with --bind")]
    NoPort(Binds),
    #[error("no token can be made: {0}")]
    Token(AuthError),
    #[error(
        "the gateway at {url} did not become ready within {within:?}: {last}; the log above says why, and if another \
         program listens there, choose another port with --bind"
    )]
    NotReady { url: String, within: Duration, last: String },
    #[error("{what} failed: {source}")]
    Request { what: &'static str, source: ClientError },
    #[error("{what} failed: the gateway answered {status}: {text}")]
    Refused { what: &'static str, status: StatusCode, text: String },
    #[error(
        "an upstream called \"demo\" that is not the demo's is registered already; remove it (DELETE \
         /v1/gateways/{{id}}) or run the demo with a database of its own"
    )]
    NameTaken,
}

/// Runs until the master ends it, see [`leave`]. Descriptors `CONTROL` and `SETTINGS`.
pub(crate) fn run(json: bool, master_pid: u32) -> ExitCode {
    match start(json, master_pid) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forkgate demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(json: bool, master_pid: u32) -> Result<(), DemoError> {
    let (control, settings) = inherited::control_and_settings()?;
    let control = ControlSocket::from_fd(control);
    let settings = Settings::from_fd(settings)?;
    log::init(settings.log_format, &settings.log_level, "demo");
    let signals = leave::Signals::block()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        tokio::select! {
            left = leave::leave(control, signals) => Ok(left?),
            failed = show(&settings, json, master_pid) => failed,
        }
    })
}

/// Everything up to the guide, then the upstream for as long as it is wanted.
async fn show(settings: &Settings, json: bool, master_pid: u32) -> Result<(), DemoError> {
    let main = settings.bind.first_tcp().ok_or_else(|| DemoError::NoPort(settings.bind.clone()))?;
    let main = reachable(main);
    let (url, listener) = upstream::bind().await.map_err(DemoError::Bind)?;
    let serving = task::spawn("demo upstream", upstream::serve(listener));
    let token = auth::mint(settings, SUBJECT, true, TOKEN_LIFETIME).map_err(DemoError::Token)?;
    let client = Client::new(main, token.clone());
    await_ready(&client, settings, main).await?;
    register(&client, &url).await?;
    let guide = Guide {
        main,
        admin: reachable(settings.admin_bind),
        token,
        tool: prefixed(NAME, &settings.tool_name_separator, "echo"),
        ctl_socket: settings.state_dir.join("ctl.sock"),
        pid: master_pid,
    };
    check(&client, &guide.tool).await?;
    let text = if json { guide.json() + "\n" } else { guide.text() };
    let mut stdout = io::stdout();
    // A reader that has gone does not want the demo to end.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    // It ends with this process only.
    let _ = serving.await;
    Ok(())
}

async fn await_ready(client: &Client, settings: &Settings, main: SocketAddr) -> Result<(), DemoError> {
    let begun = Instant::now();
    let within = settings.boot_timeout;
    loop {
        let last = match client.request(Method::GET, "/ready", &[], None).await {
            Ok(answer) if answer.status == StatusCode::OK => return Ok(()),
            Ok(answer) => format!("it answered {} to /ready: {}", answer.status, answer.text.trim()),
            Err(error) => error.to_string(),
        };
        if begun.elapsed() > within {
            let url = format!("http://{main}");
            return Err(DemoError::NotReady { url, within, last });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Registers the upstream; an entry that an earlier demo left in a database that was kept makes way.
async fn register(client: &Client, url: &str) -> Result<(), DemoError> {
    const WHAT: &str = "registering the demo's upstream";
    let body = json!({ "name": NAME, "url": url, "description": DESCRIPTION, "transport": "STREAMABLEHTTP" });
    let post = || request(client, WHAT, Method::POST, "/v1/gateways", Some(&body));
    let mut answer = post().await?;
    if answer.status == StatusCode::CONFLICT {
        let list = request(client, WHAT, Method::GET, "/v1/gateways", None).await?;
        let ours = |entry: &&Value| entry["name"] == NAME && entry["description"] == DESCRIPTION;
        let old = list.json.as_array().and_then(|entries| entries.iter().find(ours));
        let id = old.and_then(|entry| entry["id"].as_str()).ok_or(DemoError::NameTaken)?;
        request(client, WHAT, Method::DELETE, &format!("/v1/gateways/{id}"), None).await?;
        answer = post().await?;
    }
    if answer.status.is_success() { Ok(()) } else { Err(refused(WHAT, answer)) }
}

/// Calls a tool as the pasteable line does, so that nobody is shown a line that does not work.
async fn check(client: &Client, tool: &str) -> Result<(), DemoError> {
    const WHAT: &str = "calling a tool through the gateway";
    const MESSAGE: &str = "forkgate is ready";
    let call = example_call(tool, MESSAGE);
    let answer = client
        .request(Method::POST, "/mcp", &example_headers(tool), Some(&call))
        .await
        .map_err(|source| DemoError::Request { what: WHAT, source })?;
    if answer.json["result"]["content"][0]["text"] == MESSAGE { Ok(()) } else { Err(refused(WHAT, answer)) }
}

async fn request(
    client: &Client,
    what: &'static str,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Answer, DemoError> {
    client.request(method, path, &[], body).await.map_err(|source| DemoError::Request { what, source })
}

fn refused(what: &'static str, answer: Answer) -> DemoError {
    DemoError::Refused { what, status: answer.status, text: answer.text.trim().to_owned() }
}

#[cfg(test)]
mod tests;
