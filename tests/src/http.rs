//! A small blocking HTTP/1.1 client that tells apart how a connection ends: refused, reset, closed before an answer,
//! cut in an answer, and between requests whether the close had been announced (`Connection: close`).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

/// Longest head of an answer.
const MAX_HEAD: usize = 64 * 1024;
/// Shortest wait that a socket timeout can express here.
const MIN_WAIT: Duration = Duration::from_millis(1);

/// How an exchange went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nobody listens.
    #[error("refused")]
    Refused,
    /// The peer reset the connection.
    #[error("reset")]
    Reset,
    /// The peer closed the connection before the first byte of the answer.
    #[error("closed before the answer")]
    Closed,
    /// The peer closed the connection within the answer.
    #[error("cut within the answer")]
    Cut,
    /// Nothing came for as long as the caller waits.
    #[error("timed out")]
    TimedOut,
    /// The answer is not HTTP/1.1 as we know it.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The answer is HTTP, but not the right one.
    #[error("wrong: {0}")]
    Wrong(String),
    /// Anything else the system says.
    #[error("{0}")]
    Io(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            ErrorKind::ConnectionRefused => Failure::Refused,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
                Failure::Reset
            }
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Failure::TimedOut,
            _ => Failure::Io(error.to_string()),
        }
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: &'static str,
    /// Path and query.
    pub path: String,
    /// Headers besides `Host` and `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl Request {
    /// A request without headers and body.
    pub fn new(method: &'static str, path: impl Into<String>) -> Request {
        Request { method, path: path.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Request {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Adds the token.
    pub fn token(self, token: &str) -> Request {
        self.header("Authorization", format!("Bearer {token}"))
    }

    /// Sets a JSON body.
    pub fn json(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self.header("Content-Type", "application/json")
    }

    fn to_bytes(&self, peer: &Peer) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            text += &match peer {
                Peer::Tcp(address) => format!("Host: {address}\r\n"),
                Peer::Unix(_) => "Host: localhost\r\n".to_owned(),
            };
        }
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        if self.method == "POST" || !self.body.is_empty() {
            text += &format!("Content-Length: {}\r\n", self.body.len());
        }
        let mut bytes = (text + "\r\n").into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// Status and headers of an answer.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first header of that (lower case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// True when the server said that it will close.
    pub fn announces_close(&self) -> bool {
        self.header("connection").is_some_and(|value| value.to_ascii_lowercase().contains("close"))
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }

    fn parse(text: &[u8]) -> Result<Head, Failure> {
        let malformed = || Failure::Malformed(String::from_utf8_lossy(text).into_owned());
        let text = std::str::from_utf8(text).map_err(|_| malformed())?;
        let mut lines = text.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let headers = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            })
            .collect::<Option<Vec<_>>>();
        Ok(Head { status: status.ok_or_else(malformed)?, headers: headers.ok_or_else(malformed)? })
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status and headers.
    pub head: Head,
    /// Body, with the chunks put together.
    pub body: Vec<u8>,
}

impl Answer {
    /// Status code.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Peer {
        Peer::Tcp(address)
    }
}

impl From<PathBuf> for Peer {
    fn from(path: PathBuf) -> Peer {
        Peer::Unix(path)
    }
}

impl From<&Peer> for Peer {
    fn from(peer: &Peer) -> Peer {
        peer.clone()
    }
}

/// A connection to a server.
pub struct Connection {
    stream: Socket,
    received: Vec<u8>,
    peer: Peer,
    timeout: Duration,
    /// The client's own address; 0.0.0.0:0 for one over a unix socket.
    pub local: SocketAddr,
    /// The last answer said that the server will close.
    pub close_announced: bool,
}

impl Connection {
    /// Connects; every later wait takes at most `timeout`.
    pub fn open(peer: impl Into<Peer>, timeout: Duration) -> Result<Connection, Failure> {
        Self::open_from(Ipv4Addr::LOCALHOST, peer, timeout)
    }

    /// Connects from one of the many addresses of the loopback network: a client that connects anew thousands of times
    /// would else run out of ports, for each is unusable for a minute.
    pub fn open_from(
        source: Ipv4Addr,
        peer: impl Into<Peer>,
        timeout: Duration,
    ) -> Result<Connection, Failure> {
        let peer = peer.into();
        let stream = match &peer {
            Peer::Tcp(address) => {
                let stream = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
                if address.is_ipv4() {
                    stream.bind(&SocketAddr::from((source, 0)).into())?;
                }
                stream.connect_timeout(&(*address).into(), timeout)?;
                stream.set_tcp_nodelay(true)?;
                stream
            }
            Peer::Unix(path) => {
                let stream = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                stream.connect_timeout(&SockAddr::unix(path)?, timeout)?;
                stream
            }
        };
        let none = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let local = stream.local_addr()?.as_socket().unwrap_or(none);
        Ok(Connection { stream, received: Vec::new(), peer, timeout, local, close_announced: false })
    }

    /// Sends a request and reads its whole answer.
    pub fn exchange(&mut self, request: &Request) -> Result<Answer, Failure> {
        self.send(request)?;
        let head = self.head()?;
        let body = self.body(&head)?;
        Ok(Answer { head, body })
    }

    /// Sends a request.
    pub fn send(&mut self, request: &Request) -> Result<(), Failure> {
        self.send_bytes(&request.to_bytes(&self.peer))
    }

    /// Sends bytes as they are.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.set_write_timeout(Some(self.timeout))?;
        Ok(self.stream.write_all(bytes)?)
    }

    /// Reads the head of an answer.
    pub fn head(&mut self) -> Result<Head, Failure> {
        let end = Instant::now() + self.timeout;
        loop {
            if let Some(at) = find(&self.received, b"\r\n\r\n") {
                let text: Vec<u8> = self.received.drain(..at + 4).collect();
                let head = Head::parse(&text[..at])?;
                self.close_announced = head.announces_close();
                return Ok(head);
            }
            if self.received.len() > MAX_HEAD {
                return Err(Failure::Malformed("the head has no end".to_owned()));
            }
            let nothing_yet = self.received.is_empty();
            if !self.receive(end)? {
                return Err(if nothing_yet { Failure::Closed } else { Failure::Cut });
            }
        }
    }

    /// Reads the body that belongs to `head`.
    pub fn body(&mut self, head: &Head) -> Result<Vec<u8>, Failure> {
        if matches!(head.status, 100..=199 | 204 | 304) {
            return Ok(Vec::new());
        }
        if head.is_chunked() {
            let mut body = Vec::new();
            while let Some(chunk) = self.chunk(self.timeout)? {
                body.extend_from_slice(&chunk);
            }
            return Ok(body);
        }
        let length = head.header("content-length").and_then(|value| value.parse::<usize>().ok());
        let length = length.ok_or_else(|| Failure::Malformed("neither a length nor chunks".to_owned()))?;
        let end = Instant::now() + self.timeout;
        while self.received.len() < length {
            if !self.receive(end)? {
                return Err(Failure::Cut);
            }
        }
        Ok(self.received.drain(..length).collect())
    }

    /// Reads the next chunk of a chunked body; none at its clean end. After [`Failure::TimedOut`] it may be called again.
    pub fn chunk(&mut self, timeout: Duration) -> Result<Option<Vec<u8>>, Failure> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(at) = find(&self.received, b"\r\n") {
                let size = std::str::from_utf8(&self.received[..at])
                    .ok()
                    .and_then(|line| usize::from_str_radix(line.split(';').next()?.trim(), 16).ok())
                    .ok_or_else(|| Failure::Malformed("a chunk without a size".to_owned()))?;
                let whole = at + 2 + size + 2;
                if self.received.len() >= whole {
                    let chunk: Vec<u8> = self.received.drain(..whole).collect();
                    return Ok((size > 0).then(|| chunk[at + 2..whole - 2].to_vec()));
                }
            }
            if !self.receive(end)? {
                return Err(Failure::Cut);
            }
        }
    }

    /// True when the server has closed its side, or reset the connection, while nothing was asked.
    pub fn is_closed(&mut self) -> bool {
        let _ = self.stream.set_nonblocking(true);
        let mut byte = [std::mem::MaybeUninit::new(0u8)];
        let peeked = self.stream.peek(&mut byte);
        let _ = self.stream.set_nonblocking(false);
        match peeked {
            Ok(got) => got == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }

    /// Receives more; false at the end of the stream.
    fn receive(&mut self, end: Instant) -> Result<bool, Failure> {
        let left = end.saturating_duration_since(Instant::now());
        self.stream.set_read_timeout(Some(left.max(MIN_WAIT)))?;
        let mut buffer = [0u8; 16 * 1024];
        let got = loop {
            match self.stream.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.received.extend_from_slice(&buffer[..got]);
        Ok(got > 0)
    }
}

/// One exchange over a connection of its own.
pub fn once(peer: impl Into<Peer>, request: &Request, timeout: Duration) -> Result<Answer, Failure> {
    Connection::open(peer, timeout)?.exchange(request)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that answers one connection with these bytes and closes.
    fn server(bytes: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let _ = stream.read(&mut [0u8; 1024]);
            stream.write_all(bytes).expect("write");
        });
        address
    }

    fn ask(bytes: &'static [u8]) -> Result<Answer, Failure> {
        once(server(bytes), &Request::new("GET", "/"), Duration::from_secs(5))
    }

    #[test]
    fn the_ways_a_connection_ends_are_told_apart() {
        let whole =
            ask(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi").expect("an answer");
        assert_eq!(
            (whole.status(), whole.text(), whole.head.announces_close()),
            (200, "hi".to_owned(), true)
        );
        let chunked = ask(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
        assert_eq!(chunked.expect("an answer").text(), "hi");
        assert_eq!(ask(b"").err(), Some(Failure::Closed));
        assert_eq!(ask(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi").err(), Some(Failure::Cut));
        assert_eq!(
            ask(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n").err(),
            Some(Failure::Cut)
        );
        assert!(matches!(ask(b"nonsense\r\n\r\n").err(), Some(Failure::Malformed(_))));
    }

    #[test]
    fn nobody_listening_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        drop(listener);
        assert_eq!(Connection::open(address, Duration::from_secs(1)).err(), Some(Failure::Refused));
    }
}
