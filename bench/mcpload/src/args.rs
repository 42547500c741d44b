//! Command line.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};

use crate::procs::Group;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Era {
    /// `initialize` handshake and session id.
    Legacy,
    /// Stateless 2026-07-28.
    Modern,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verify {
    Echo,
    Ok,
}

#[derive(Clone, Debug)]
pub struct Args {
    pub addr: SocketAddr,
    pub authority: HeaderValue,
    pub path: String,
    pub url: String,
    pub conns: usize,
    pub duration: Duration,
    pub warmup: Duration,
    pub method: String,
    pub tool: String,
    /// The arguments' text, with `{n}` still in it.
    pub tool_args: String,
    pub verify: Verify,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub era: Era,
    pub protocol: String,
    pub think_ms: u64,
    pub timeout: Duration,
    pub connect_rate: u32,
    pub streams: usize,
    /// Where streams are opened by a plain GET, without a handshake (the legacy SSE transport).
    pub stream_path: Option<String>,
    pub abort: bool,
    pub delete: bool,
    pub cpu: Vec<Group>,
    pub watch: Duration,
    pub wait_ok: Option<Duration>,
    pub label: String,
}

fn seconds(v: &str) -> Result<Duration, String> {
    match v.parse::<f64>() {
        Ok(s) if (0.0..=3600.0).contains(&s) => Ok(Duration::from_secs_f64(s)),
        _ => Err(format!("'{v}' is not a number of seconds between 0 and 3600")),
    }
}

fn number<T: std::str::FromStr>(v: &str) -> Result<T, String> {
    v.parse().map_err(|_| format!("'{v}' is not a valid number"))
}

impl Args {
    pub fn parse(mut it: impl Iterator<Item = String>) -> Result<Args, String> {
        let mut url = None;
        let mut verify = "auto".to_string();
        let mut a = Args {
            addr: ([127, 0, 0, 1], 0).into(),
            authority: HeaderValue::from_static(""),
            path: String::new(),
            url: String::new(),
            conns: 32,
            duration: Duration::from_secs(10),
            warmup: Duration::ZERO,
            method: "tools/call".into(),
            tool: "echo".into(),
            tool_args: r#"{"message":"hello {n}"}"#.into(),
            verify: Verify::Ok,
            headers: Vec::new(),
            era: Era::Legacy,
            protocol: "2025-06-18".into(),
            think_ms: 0,
            timeout: Duration::from_secs(30),
            connect_rate: 500,
            streams: 0,
            stream_path: None,
            abort: false,
            delete: true,
            cpu: Vec::new(),
            watch: Duration::ZERO,
            wait_ok: None,
            label: String::new(),
        };
        while let Some(flag) = it.next() {
            let mut value = || it.next().ok_or(format!("{flag} needs a value"));
            match flag.as_str() {
                "--url" => url = Some(value()?),
                "--conns" => a.conns = number(&value()?)?,
                "--duration" => a.duration = seconds(&value()?)?,
                "--warmup" => a.warmup = seconds(&value()?)?,
                "--method" => a.method = value()?,
                "--tool" => a.tool = value()?,
                "--args" => a.tool_args = value()?,
                "--verify" => verify = value()?,
                "--header" => {
                    let h = value()?;
                    let (k, v) = h.split_once(':').ok_or(format!("'{h}' is not 'K: V'"))?;
                    let k = HeaderName::from_bytes(k.trim().as_bytes());
                    let v = HeaderValue::from_str(v.trim());
                    match (k, v) {
                        (Ok(k), Ok(v)) => a.headers.push((k, v)),
                        _ => return Err(format!("'{h}' is not a valid header")),
                    }
                }
                "--era" => {
                    a.era = match value()?.as_str() {
                        "2025" | "legacy" => Era::Legacy,
                        "2026" | "modern" => Era::Modern,
                        v => return Err(format!("--era {v}: neither 2025 nor 2026")),
                    }
                }
                "--protocol" => a.protocol = value()?,
                "--think-ms" => a.think_ms = number(&value()?)?,
                "--timeout-ms" => a.timeout = Duration::from_millis(number(&value()?)?),
                "--connect-rate" => a.connect_rate = number(&value()?)?,
                "--streams" => a.streams = number(&value()?)?,
                "--stream-path" => a.stream_path = Some(value()?),
                "--abort" => a.abort = true,
                "--no-delete" => a.delete = false,
                "--cpu" => a.cpu.push(Group::parse(&value()?)?),
                "--watch" => a.watch = seconds(&value()?)?,
                "--wait-ok" => a.wait_ok = Some(seconds(&value()?)?),
                "--label" => a.label = value()?,
                _ => return Err(format!("unknown option {flag}")),
            }
        }
        let url = url.ok_or("--url is required")?;
        let rest = url.strip_prefix("http://").ok_or("only http:// URLs")?;
        let (host, path) = match rest.find('/') {
            Some(i) => rest.split_at(i),
            None => (rest, "/"),
        };
        let with_port = if host.contains(':') { host.into() } else { format!("{host}:80") };
        a.addr = with_port
            .replace("localhost", "127.0.0.1")
            .parse()
            .map_err(|_| format!("'{host}' is not IP:PORT or localhost:PORT"))?;
        a.authority = HeaderValue::from_str(host).map_err(|_| "bad host")?;
        a.path = path.to_string();
        a.url = url.clone();
        a.verify = match verify.as_str() {
            "echo" => Verify::Echo,
            "ok" => Verify::Ok,
            "auto" if a.method == "tools/call" && a.tool.ends_with("echo") => Verify::Echo,
            "auto" => Verify::Ok,
            v => return Err(format!("--verify {v}: not echo, ok or auto")),
        };
        let probe = a.tool_args.replace("{n}", "0");
        let probe: serde_json::Value = serde_json::from_str(&probe).map_err(|e| format!("--args: {e}"))?;
        if a.verify == Verify::Echo && !probe["message"].is_string() {
            return Err("--verify echo needs a string 'message' in --args".into());
        }
        Ok(a)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(s: &[&str]) -> Result<Args, String> {
        Args::parse(s.iter().map(|s| s.to_string()))
    }

    #[test]
    fn url_is_split() {
        let a = parse(&["--url", "http://localhost:4444/servers/x/mcp"]).unwrap();
        assert_eq!(a.addr.to_string(), "127.0.0.1:4444");
        assert_eq!(a.path, "/servers/x/mcp");
        assert_eq!(a.verify, Verify::Echo);
    }

    #[test]
    fn wrong_usage_is_refused() {
        assert!(parse(&[]).is_err());
        assert!(parse(&["--url", "https://x/"]).is_err());
        assert!(parse(&["--url", "http://127.0.0.1:1/", "--conns", "x"]).is_err());
        assert!(parse(&["--url", "http://127.0.0.1:1/", "--args", "{"]).is_err());
    }

    #[test]
    fn verification_follows_the_tool() {
        let a = parse(&["--url", "http://127.0.0.1:1/", "--tool", "up-add", "--args", "{}"]);
        assert_eq!(a.unwrap().verify, Verify::Ok);
    }
}
