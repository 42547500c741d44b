//! What a worker keeps per upstream: its address taken apart, idle connections, the era it speaks, its session.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::UpstreamError;
use super::connect::{Origin, Sender};
use super::session::SessionSlot;
use super::turns::Turns;
use crate::catalog::{UpstreamEntry, UpstreamEra};

/// An idle connection is closed after this time: below the 5 s after which uvicorn and Node close theirs, so that a
/// request does not meet a connection that is just being closed.
pub const IDLE: Duration = Duration::from_secs(4);
/// Idle connections kept per upstream; more are closed when they become idle.
const MAX_IDLE: usize = 256;

/// An upstream, as this worker sees it.
pub struct Peer {
    entry: RefCell<Arc<UpstreamEntry>>,
    /// Where it is.
    pub origin: Origin,
    /// What is requested there.
    pub path: PathAndQuery,
    /// Headers of every request to it.
    pub headers: HeaderMap,
    /// Its session, when it speaks a legacy era.
    pub session: SessionSlot,
    /// Finding out anew which era it speaks.
    pub(super) probing: Turns<bool, UpstreamError>,
    era: RefCell<UpstreamEra>,
    idle: RefCell<Vec<(Sender, Instant)>>,
    used: Cell<Instant>,
}

impl Peer {
    /// Takes the registered URL and headers apart.
    pub fn new(entry: Arc<UpstreamEntry>) -> Result<Peer, UpstreamError> {
        let bad = |why: &str| UpstreamError::BadUrl(why.to_owned());
        let url = url::Url::parse(&entry.url).map_err(|error| bad(&error.to_string()))?;
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(bad("it must start with http:// or https://")),
        };
        let host = url.host_str().ok_or_else(|| bad("it names no host"))?;
        let port = url.port_or_known_default().ok_or_else(|| bad("it names no port"))?;
        let path = url[url::Position::BeforePath..url::Position::AfterQuery]
            .parse()
            .map_err(|_| bad("its path cannot be sent"))?;
        let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
        let headers = headers(authority, &entry.headers)?;
        let origin = Origin { tls, host: host.trim_matches(['[', ']']).to_owned(), port };
        let era = RefCell::new(entry.era.clone());
        Ok(Peer {
            entry: RefCell::new(entry),
            origin,
            path,
            headers,
            session: SessionSlot::default(),
            probing: Turns::default(),
            era,
            idle: RefCell::default(),
            used: Cell::new(Instant::now()),
        })
    }

    /// True when `entry` is what this peer was made from, as far as talking to it goes. Remembers that it was used.
    pub fn serves(&self, entry: &Arc<UpstreamEntry>) -> bool {
        self.used.set(Instant::now());
        let mut own = self.entry.borrow_mut();
        if Arc::ptr_eq(&own, entry) {
            return true;
        }
        let same = own.url == entry.url && own.headers == entry.headers && own.era == entry.era;
        if same {
            *own = Arc::clone(entry);
        }
        same
    }

    /// Its interned index: where it is counted.
    pub fn index(&self) -> usize {
        self.entry.borrow().index
    }

    /// It is being used.
    pub fn touch(&self) {
        self.used.set(Instant::now());
    }

    /// When it was last asked for.
    pub fn last_used(&self) -> Instant {
        self.used.get()
    }

    /// The era it speaks: as registered, or as found since.
    pub fn era(&self) -> UpstreamEra {
        self.era.borrow().clone()
    }

    /// Another era was found.
    pub fn set_era(&self, era: UpstreamEra) {
        *self.era.borrow_mut() = era;
    }

    /// The connection that became idle last, when one is left that is likely to be alive.
    pub fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        while let Some((sender, since)) = idle.pop() {
            if since.elapsed() >= IDLE {
                // The rest is older.
                idle.clear();
            } else if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub fn put_idle(&self, sender: Sender) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < MAX_IDLE && !sender.is_closed() {
            idle.push((sender, Instant::now()));
        }
    }

    /// Closes what has been idle for too long; true when connections are left.
    pub fn sweep(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|(sender, since)| since.elapsed() < IDLE && !sender.is_closed());
        !idle.is_empty()
    }
}

/// Headers that the HTTP layer or the protocol sets; registering one of them is a mistake.
const RESERVED: [HeaderName; 5] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONTENT_TYPE,
];

fn headers(authority: &str, registered: &[(String, String)]) -> Result<HeaderMap, UpstreamError> {
    let mut headers = HeaderMap::with_capacity(8 + registered.len());
    for (name, value) in registered {
        let bad = || UpstreamError::BadHeader(name.clone());
        let header = HeaderName::try_from(name.as_str()).map_err(|_| bad())?;
        if RESERVED.contains(&header) {
            return Err(bad());
        }
        let mut value = HeaderValue::try_from(value.as_str()).map_err(|_| bad())?;
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    let host = HeaderValue::try_from(authority)
        .map_err(|_| UpstreamError::BadUrl("its host cannot be sent".to_owned()))?;
    headers.insert(header::HOST, host);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    headers
        .entry(header::USER_AGENT)
        .or_insert(HeaderValue::from_static(concat!("forkgate/", env!("CARGO_PKG_VERSION"))));
    Ok(headers)
}
