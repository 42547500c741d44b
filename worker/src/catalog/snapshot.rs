//! The catalog as bytes that every worker maps: `[magic][version][generation][index length][JSON index][blob]`, numbers
//! as little-endian `u64`.
//!
//! The index names spans of the blob; a span is a finished JSON array. A reader trusts nothing: another magic or version,
//! a length or span that leaves the file, or an upstream number out of range is an error, never a panic.

use serde::{Deserialize, Serialize};

use super::UpstreamEntry;
use super::headers::HeaderParam;

/// First eight bytes.
pub const MAGIC: [u8; 8] = *b"fgcatlg\0";
/// Version of header and index; another one is refused.
pub const VERSION: u64 = 1;
/// Bytes before the index.
pub const HEADER: usize = 32;

/// Position and length in the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span(pub usize, pub usize);

/// Where a name leads; short keys because there is one of these per tool and view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The name, URI or template that callers use.
    #[serde(rename = "n")]
    pub exposed: String,
    /// Number of the upstream in [`Index::upstreams`].
    #[serde(rename = "u")]
    pub upstream: usize,
    /// What the upstream calls it; none = the same.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub original: Option<String>,
    /// Mirrored parameters of a tool.
    #[serde(rename = "h", default, skip_serializing_if = "Vec::is_empty")]
    pub header_params: Vec<HeaderParam>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewIndex {
    /// Lists by kind, then by era: legacy, modern.
    pub lists: [[Span; 2]; 4],
    /// Tools by name.
    pub tools: Vec<Route>,
    /// Prompts by name.
    pub prompts: Vec<Route>,
    /// Resources by URI.
    pub resources: Vec<Route>,
    /// Resource templates, in order of precedence.
    pub templates: Vec<Route>,
}

/// Everything but the lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// All upstreams.
    pub upstreams: Vec<UpstreamEntry>,
    /// The view of every upstream together.
    pub federated: ViewIndex,
    /// The view of each upstream, in the order of `upstreams`.
    pub single: Vec<ViewIndex>,
    /// The view of each virtual server, with its id.
    pub servers: Vec<(String, ViewIndex)>,
}

/// Why bytes are not a catalog.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Not one of ours.
    #[error("these bytes are not a catalog snapshot")]
    Magic,
    /// From another version of this program.
    #[error("the catalog snapshot has version {0}, this program reads {VERSION}")]
    Version(u64),
    /// Cut off, or a length is wrong.
    #[error("the catalog snapshot is shorter than it says")]
    Short,
    /// The index cannot be read.
    #[error("the catalog's index cannot be read: {0}")]
    Index(#[from] serde_json::Error),
    /// The index points outside.
    #[error("the catalog's index points to {0} that is not there")]
    Dangling(&'static str),
}

/// Lays out a snapshot.
pub fn write(generation: u64, index: &Index, blob: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let index = serde_json::to_vec(index)?;
    let mut out = Vec::with_capacity(HEADER + index.len() + blob.len());
    out.extend_from_slice(&MAGIC);
    for number in [VERSION, generation, index.len() as u64] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&index);
    out.extend_from_slice(blob);
    Ok(out)
}

/// Reads a snapshot's header and index: the generation, the index, and where the blob starts.
pub fn read(bytes: &[u8]) -> Result<(u64, Index, usize), SnapshotError> {
    let number = |at: usize| -> Result<u64, SnapshotError> {
        let field =
            bytes.get(at..at + 8).and_then(|field| field.try_into().ok()).ok_or(SnapshotError::Short)?;
        Ok(u64::from_le_bytes(field))
    };
    if bytes.get(..8) != Some(&MAGIC) {
        return Err(SnapshotError::Magic);
    }
    let version = number(8)?;
    if version != VERSION {
        return Err(SnapshotError::Version(version));
    }
    let generation = number(16)?;
    let length = usize::try_from(number(24)?).map_err(|_| SnapshotError::Short)?;
    let blob = HEADER.checked_add(length).ok_or(SnapshotError::Short)?;
    let index: Index = serde_json::from_slice(bytes.get(HEADER..blob).ok_or(SnapshotError::Short)?)?;
    let routes_hold = index.views().all(|view| {
        let routes = [&view.tools, &view.prompts, &view.resources, &view.templates];
        routes.into_iter().flatten().all(|route| route.upstream < index.upstreams.len())
    });
    if !routes_hold || index.single.len() != index.upstreams.len() {
        return Err(SnapshotError::Dangling("an upstream"));
    }
    Ok((generation, index, blob))
}

impl Index {
    fn views(&self) -> impl Iterator<Item = &ViewIndex> {
        std::iter::once(&self.federated).chain(&self.single).chain(self.servers.iter().map(|(_, view)| view))
    }
}
