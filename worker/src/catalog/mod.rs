//! What may be called: compiled once per registry generation, immutable, mapped by every worker.
//!
//! [`compile`] makes the bytes of a snapshot out of registry rows; [`Catalog::from_snapshot`] reads them in every worker.
//! Lists are finished JSON per endpoint, kind and era, so that answering one costs no more than writing it.

pub mod compile;
pub mod headers;
pub mod slug;
pub mod snapshot;
pub mod source;
pub mod splice;
pub mod template;
mod view;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

pub use snapshot::SnapshotError;
use view::CompiledView;

/// Most items of one kind that one upstream may have; more is a server gone wrong, and every worker would map it.
pub const MAX_ITEMS: usize = 10_000;

/// An endpoint that MCP is served at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `/mcp`: every upstream, names prefixed.
    Federated,
    /// `/servers/{id}/mcp`: a virtual server.
    Server(String),
    /// `/upstreams/{name}/mcp`: one upstream, names as it gave them.
    Upstream(String),
}

/// The kinds of things a catalog lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `tools/list`.
    Tools,
    /// `resources/list`.
    Resources,
    /// `resources/templates/list`.
    Templates,
    /// `prompts/list`.
    Prompts,
}

impl Kind {
    /// All, in the order of their discriminants.
    pub const ALL: [Kind; 4] = [Kind::Tools, Kind::Resources, Kind::Templates, Kind::Prompts];
}

/// The era an upstream was found to speak.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "era", rename_all = "snake_case")]
pub enum UpstreamEra {
    /// 2026-07-28.
    Modern,
    /// `initialize` and the version it negotiated.
    Legacy {
        /// For instance `2025-11-25`.
        version: String,
    },
}

/// An upstream as the hot path needs it. `Debug` shows no header values and no query: they are credentials.
#[derive(Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct UpstreamEntry {
    /// Registry id.
    pub id: String,
    /// Registered name.
    pub name: String,
    /// The prefix of its names: the name made safe for tool names.
    pub slug: String,
    /// Index into the per-upstream counters of shared memory; stable while the upstream is registered.
    pub index: usize,
    /// Where it is.
    pub url: String,
    /// Headers sent with every request: its credentials.
    pub headers: Vec<(String, String)>,
    /// As probed at registration.
    pub era: UpstreamEra,
    /// Its `capabilities` object, as JSON text.
    pub capabilities: String,
    /// Its `instructions`.
    pub instructions: Option<String>,
}

/// Where a name or URI leads.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Who answers.
    pub upstream: Arc<UpstreamEntry>,
    /// The tool's or prompt's name, or the resource's URI, as the upstream knows it.
    pub name: String,
    /// For tools: parameters mirrored in headers, `(path of properties, header name)` (`x-mcp-header`).
    pub header_params: Vec<(Vec<String>, String)>,
}

/// What one endpoint offers.
pub trait View {
    /// The JSON array (`[…]`) of a list, as bytes ready to be written.
    fn list(&self, kind: Kind, era: crate::revision::Era) -> Bytes;
    /// The tool that a caller means by `name`.
    fn tool(&self, name: &str) -> Option<Target>;
    /// The prompt that a caller means by `name`.
    fn prompt(&self, name: &str) -> Option<Target>;
    /// Who reads `uri`: a listed resource, or a template that matches.
    fn resource(&self, uri: &str) -> Option<Target>;
}

impl std::fmt::Debug for UpstreamEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("UpstreamEntry")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("url", &self.url.split('?').next())
            .field("era", &self.era)
            .field("headers", &headers)
            .finish_non_exhaustive()
    }
}

/// An immutable catalog.
pub struct Catalog {
    /// Registry generation it was compiled from.
    pub generation: u64,
    upstreams: Vec<Arc<UpstreamEntry>>,
    federated: CompiledView,
    single: Vec<CompiledView>,
    servers: HashMap<String, CompiledView>,
}

impl Catalog {
    /// A catalog of nothing, older than every compiled one.
    pub fn empty() -> Catalog {
        Catalog {
            generation: 0,
            upstreams: Vec::new(),
            federated: CompiledView::empty(),
            single: Vec::new(),
            servers: HashMap::new(),
        }
    }

    /// Reads a snapshot. Its lists stay slices of `bytes`; nothing in it is trusted.
    pub fn from_snapshot(bytes: Bytes) -> Result<Catalog, SnapshotError> {
        let (generation, index, start) = snapshot::read(&bytes)?;
        let blob = bytes.slice(start..);
        let upstreams: Vec<_> = index.upstreams.into_iter().map(Arc::new).collect();
        let load = |view| CompiledView::load(view, &upstreams, &blob);
        Ok(Catalog {
            generation,
            federated: load(index.federated)?,
            single: index.single.into_iter().map(load).collect::<Result<_, _>>()?,
            servers: index
                .servers
                .into_iter()
                .map(|(id, view)| Ok((id, load(view)?)))
                .collect::<Result<_, SnapshotError>>()?,
            upstreams,
        })
    }

    /// What an endpoint offers; none when there is no such server or upstream. An upstream is found by its name or by
    /// its slug, which is easier to put into a URL.
    pub fn view(&self, endpoint: &Endpoint) -> Option<&dyn View> {
        Some(match endpoint {
            Endpoint::Federated => &self.federated,
            Endpoint::Server(id) => self.servers.get(id)?,
            Endpoint::Upstream(name) => &self.single[self.number(name)?],
        })
    }

    /// All upstreams, in the order of lists.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<UpstreamEntry>> {
        self.upstreams.iter()
    }

    /// Who is behind an endpoint, in the order of lists; none when there is no such server or upstream.
    pub fn upstreams_of(&self, endpoint: &Endpoint) -> Option<&[Arc<UpstreamEntry>]> {
        Some(match endpoint {
            Endpoint::Federated => &self.upstreams,
            Endpoint::Server(id) => self.servers.get(id)?.upstreams(),
            Endpoint::Upstream(name) => std::slice::from_ref(&self.upstreams[self.number(name)?]),
        })
    }

    fn number(&self, name: &str) -> Option<usize> {
        let by = |of: fn(&UpstreamEntry) -> &str| self.upstreams.iter().position(|u| of(u) == name);
        by(|upstream| &upstream.name).or_else(|| by(|upstream| &upstream.slug))
    }
}

#[cfg(test)]
mod tests;
