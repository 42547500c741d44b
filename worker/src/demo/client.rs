//! The companion's own requests to the gateway: one connection each, a deadline on everything.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::lifecycle::task;

/// For one request, a registration included.
const DEADLINE: Duration = Duration::from_secs(40);
/// Largest answer that is read.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("{0}")]
    Connect(#[from] io::Error),
    /// It broke off, or it is no HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The answer is too large, or broke off.
    #[error("the answer cannot be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// Too slow.
    #[error("no answer within {DEADLINE:?}")]
    TimedOut,
    /// A header value that HTTP does not allow; tokens and names here are all ASCII.
    #[error("the request cannot be written: {0}")]
    Request(#[from] http::Error),
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body; the last event's data of a stream; null when it is no JSON.
    pub json: Value,
    /// Its text, for errors.
    pub text: String,
}

/// Calls the gateway at one address.
#[derive(Clone, Debug)]
pub struct Client {
    address: SocketAddr,
    token: String,
}

/// Where a client on this computer reaches a listener: the loopback address for one that listens on all.
pub fn reachable(bind: SocketAddr) -> SocketAddr {
    let ip = match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, bind.port())
}

impl Client {
    /// A client with a token.
    pub fn new(address: SocketAddr, token: String) -> Client {
        Client { address, token }
    }

    /// One request, with headers besides the usual ones.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .header(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body)))?;
        tokio::time::timeout(DEADLINE, self.exchange(request)).await.map_err(|_| ClientError::TimedOut)?
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, ClientError> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = task::spawn("demo request", connection);
        let response = sender.send_request(request).await;
        let answer = match response {
            Ok(response) => {
                let status = response.status();
                let is_stream = response
                    .headers()
                    .get(CONTENT_TYPE)
                    .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
                let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
                let text = body.map_err(ClientError::Body)?.to_bytes();
                let text = String::from_utf8_lossy(&text).into_owned();
                let data = if is_stream { last_event(&text) } else { text.clone() };
                Ok(Answer { status, json: serde_json::from_str(&data).unwrap_or(Value::Null), text })
            }
            Err(error) => Err(error.into()),
        };
        driver.abort();
        answer
    }
}

/// The data of a stream's last event.
fn last_event(stream: &str) -> String {
    let events = stream.split("\n\n").filter(|event| event.contains("data:"));
    let data = |event: &str| -> String {
        event.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start).collect()
    };
    events.last().map(data).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_reached_over_loopback() {
        let reach = |text: &str| reachable(text.parse().expect("address")).to_string();
        assert_eq!(reach("0.0.0.0:4444"), "127.0.0.1:4444");
        assert_eq!(reach("[::]:4444"), "[::1]:4444");
        assert_eq!(reach("192.0.2.7:1"), "192.0.2.7:1");
    }

    #[test]
    fn the_last_event_is_the_answer() {
        assert_eq!(
            last_event(": hi\n\ndata: {\"a\":1}\n\nevent: message\ndata: {\"b\":\ndata: 2}\n\n"),
            "{\"b\":2}"
        );
        assert_eq!(last_event(""), "");
    }
}
