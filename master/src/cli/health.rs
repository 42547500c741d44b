//! `forkgate health`: is it ready? One request to the port of `/metrics` and `/status`, answered by a worker: so both the
//! master's listener and somebody behind it are there. For where there is no `curl`: a container's HEALTHCHECK.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use forkgate_shared::settings::{Settings, Sources};

use super::output;

/// What `--help` says at its end.
pub(super) const EXAMPLES: &str = "\
Examples:
  forkgate health --env-file /etc/forkgate/forkgate.env && echo yes
  docker exec gateway forkgate health

Asks for /ready on GATEWAY_ADMIN_BIND, as the settings name it. Exit code 0 when a worker answers that it is ready, 1 with
the reason when not.";

/// For each step; a worker that is well answers within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Longest answer that is read.
const MAX_ANSWER: u64 = 4096;

/// Why it is not ready.
#[derive(Debug, thiserror::Error)]
enum HealthError {
    #[error("GATEWAY_ADMIN_BIND={0} leaves the port to the system: nobody knows where to ask; give it one")]
    AnyPort(SocketAddr),
    #[error("nobody answers at {address}: {source}; does forkgate run, with these settings?")]
    NoAnswer { address: SocketAddr, source: io::Error },
    #[error("not ready: {address} answers {answer:?}")]
    NotReady { address: SocketAddr, answer: String },
}

/// Asks; exit code 0 when it is ready.
pub(super) fn run(sources: Sources) -> ExitCode {
    let settings = match Settings::load(sources) {
        Ok(loaded) => loaded.settings,
        Err(errors) => return super::invalid(&errors),
    };
    match ask(settings.admin_bind, &host(&settings)) {
        Ok(()) => output::print("ready\n"),
        Err(error) => {
            output::complain("error", &error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// A name that the port answers to.
fn host(settings: &Settings) -> String {
    let first = settings.allowed_hosts.first().filter(|_| !settings.admin_bind.ip().is_loopback());
    first.cloned().unwrap_or_else(|| "localhost".to_owned())
}

fn ask(bind: SocketAddr, host: &str) -> Result<(), HealthError> {
    if bind.port() == 0 {
        return Err(HealthError::AnyPort(bind));
    }
    let address = reachable(bind);
    let answer = exchange(address, host).map_err(|source| HealthError::NoAnswer { address, source })?;
    match answer.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(HealthError::NotReady { address, answer: short(&answer) }),
    }
}

/// From this host, an address that stands for all is reached over loopback.
fn reachable(bind: SocketAddr) -> SocketAddr {
    let ip = match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bind.port())
}

fn exchange(address: SocketAddr, host: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream
        .write_all(format!("GET /ready HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The first and the last line: the status and what the body says.
fn short(answer: &str) -> String {
    let mut lines = answer.lines().filter(|line| !line.trim().is_empty());
    let first = lines.next().unwrap_or("nothing").to_owned();
    lines.next_back().map_or(first.clone(), |last| format!("{first}: {}", last.trim()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answered(text: &'static str) -> Result<(), HealthError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            let mut head = [0; 512];
            let length = client.read(&mut head).expect("a request");
            client.write_all(text.as_bytes()).expect("an answer");
            String::from_utf8_lossy(&head[..length]).into_owned()
        });
        let result = ask(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), "example.com");
        let head = server.join().expect("served");
        assert!(head.starts_with("GET /ready HTTP/1.1\r\nHost: example.com\r\n"), "{head}");
        result
    }

    #[test]
    fn only_200_is_ready() {
        answered("HTTP/1.1 200 OK\r\n\r\nready").expect("ready");
        let error =
            answered("HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\noverloaded\n").expect_err("not ready");
        assert!(
            error.to_string().ends_with("answers \"HTTP/1.1 503 Service Unavailable: overloaded\""),
            "{error}"
        );
        assert!(matches!(answered(""), Err(HealthError::NotReady { .. })));
    }

    #[test]
    fn nobody_there_is_said() {
        let free =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback").local_addr().expect("bound");
        assert!(matches!(ask(free, "x"), Err(HealthError::NoAnswer { .. })));
        assert!(matches!(ask(SocketAddr::from(([0, 0, 0, 0], 0)), "x"), Err(HealthError::AnyPort(_))));
    }
}
