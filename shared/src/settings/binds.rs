//! Where the gateway listens: addresses with a port, and paths of unix sockets.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::hosts::{self, HostError};

/// Most entries of `GATEWAY_BIND`. Every worker gets a descriptor for each, and for as many again while a reload changes
/// all of them.
pub const MAX_BINDS: usize = 16;
/// What a path starts with.
const UNIX: &str = "unix:";
/// Longest path of a unix socket: `sun_path` of unix(7) and its final null byte.
const MAX_PATH: usize = 107;

/// One entry of `GATEWAY_BIND`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bind {
    /// An address and a port; port 0 means: any free one.
    Tcp(SocketAddr),
    /// The absolute path of a socket that is made there.
    Unix(PathBuf),
}

/// All entries of `GATEWAY_BIND`: at least one, none twice, none within another. Written and read as one text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Binds(Vec<Bind>);

impl Bind {
    fn parse(text: &str) -> Result<Bind, HostError> {
        let Some(path) = text.strip_prefix(UNIX) else { return hosts::socket_address(text).map(Bind::Tcp) };
        let fits = path.len() <= MAX_PATH && !path.contains('\0');
        if !path.starts_with('/') || path.ends_with('/') || !fits {
            return Err(HostError::SocketPath(MAX_PATH));
        }
        Ok(Bind::Unix(PathBuf::from(path)))
    }

    /// Only programs on this host reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Bind::Tcp(address) => address.ip().is_loopback(),
            Bind::Unix(_) => true,
        }
    }

    /// The address, for one that has a port.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Bind::Tcp(address) => Some(*address),
            Bind::Unix(_) => None,
        }
    }

    /// True when both cannot be listened on.
    pub fn collides(&self, other: &Bind) -> bool {
        match (self, other) {
            (Bind::Tcp(one), Bind::Tcp(other)) => one == other || hosts::collide(*one, *other),
            (one, other) => one == other,
        }
    }
}

impl Binds {
    /// Reads a list that is separated by commas.
    pub fn parse(text: &str) -> Result<Binds, HostError> {
        let items = text.split(',').map(|item| Bind::parse(item.trim()));
        let binds = items.collect::<Result<Vec<Bind>, HostError>>()?;
        if binds.len() > MAX_BINDS {
            return Err(HostError::TooManyBinds(MAX_BINDS));
        }
        for (nth, bind) in binds.iter().enumerate() {
            if let Some(earlier) = binds[..nth].iter().find(|earlier| earlier.collides(bind)) {
                return Err(HostError::SameBind(earlier.to_string(), bind.to_string()));
            }
        }
        Ok(Binds(binds))
    }

    /// In the order in which they are written.
    pub fn iter(&self) -> impl Iterator<Item = &Bind> {
        self.0.iter()
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// True for one of them.
    pub fn contains(&self, bind: &Bind) -> bool {
        self.0.contains(bind)
    }

    /// Only programs on this host reach any of them.
    pub fn are_local(&self) -> bool {
        self.0.iter().all(Bind::is_local)
    }

    /// The first that has a port.
    pub fn first_tcp(&self) -> Option<SocketAddr> {
        self.0.iter().find_map(Bind::tcp)
    }

    /// The paths of the unix sockets.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter_map(|bind| match bind {
            Bind::Unix(path) => Some(path.as_path()),
            Bind::Tcp(_) => None,
        })
    }
}

impl From<SocketAddr> for Binds {
    fn from(address: SocketAddr) -> Binds {
        Binds(vec![Bind::Tcp(address)])
    }
}

impl TryFrom<String> for Binds {
    type Error = HostError;
    fn try_from(text: String) -> Result<Binds, HostError> {
        Binds::parse(&text)
    }
}

impl From<Binds> for String {
    fn from(binds: Binds) -> String {
        binds.to_string()
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Tcp(address) => address.fmt(f),
            Bind::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl fmt::Display for Binds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, bind) in self.0.iter().enumerate() {
            let separator = if nth == 0 { "" } else { "," };
            write!(f, "{separator}{bind}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_written_back() {
        for text in
            ["127.0.0.1:4444", "127.0.0.1:4444,[::1]:4444,unix:/run/forkgate/http.sock", "0.0.0.0:0,[::]:0"]
        {
            let binds = Binds::parse(text).expect(text);
            assert_eq!(binds.to_string(), text);
            let json = serde_json::to_string(&binds).expect("json");
            assert_eq!(
                (json.as_str(), serde_json::from_str(&json).ok()),
                (format!("\"{text}\"").as_str(), Some(binds))
            );
        }
        let spaced = Binds::parse(" localhost:1 , unix:/a b").expect("spaces");
        assert_eq!(spaced.to_string(), "127.0.0.1:1,unix:/a b");
        assert_eq!(spaced.first_tcp().map(|address| address.port()), Some(1));
        assert_eq!(spaced.paths().collect::<Vec<_>>(), [Path::new("/a b")]);
    }

    #[test]
    fn what_cannot_be_listened_on_together_is_refused() {
        for (text, words) in [
            ("127.0.0.1:1,127.0.0.1:1", "127.0.0.1:1 and 127.0.0.1:1"),
            ("127.0.0.1:0,127.0.0.1:0", "127.0.0.1:0 and 127.0.0.1:0"),
            ("0.0.0.0:1,127.0.0.1:1", "0.0.0.0:1 and 127.0.0.1:1"),
            ("unix:/a,unix:/a", "unix:/a and unix:/a"),
            ("unix:a", "an absolute path"),
            ("unix:/a/", "an absolute path"),
            ("unix:", "an absolute path"),
            ("127.0.0.1:1,", "not an IP address with a port"),
            ("", "not an IP address with a port"),
        ] {
            let error = Binds::parse(text).expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert!(Binds::parse(&format!("unix:/{}", "x".repeat(MAX_PATH))).is_err());
        let many: Vec<String> = (1..=MAX_BINDS + 1).map(|port| format!("127.0.0.1:{port}")).collect();
        assert!(Binds::parse(&many.join(",")).expect_err("17").to_string().contains("at most 16"));
        assert_eq!(Binds::parse(&many[1..].join(",")).expect("16").count(), MAX_BINDS);
    }

    #[test]
    fn local_are_loopback_and_unix_sockets() {
        let local = |text| Binds::parse(text).expect("list").are_local();
        assert!(local("127.0.0.1:1,[::1]:1,unix:/x"));
        assert!(!local("127.0.0.1:1,192.0.2.1:1") && !local("[::]:1"));
    }
}
