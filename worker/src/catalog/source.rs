//! What a catalog is compiled from: the registry's rows, without anything of the database.

use super::UpstreamEntry;

/// One tool, resource, template or prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Registry id.
    pub id: String,
    /// Its name, URI or URI template, as the upstream gave it.
    pub key: String,
    /// The upstream's JSON, byte for byte.
    pub definition: String,
}

/// One upstream and what it offers, in its order.
#[derive(Clone, Debug)]
pub struct SourceUpstream {
    /// The upstream.
    pub entry: UpstreamEntry,
    /// `tools/list`.
    pub tools: Vec<Item>,
    /// `resources/list`.
    pub resources: Vec<Item>,
    /// `resources/templates/list`.
    pub templates: Vec<Item>,
    /// `prompts/list`.
    pub prompts: Vec<Item>,
}

/// An item that a virtual server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Registry id of the item.
    pub id: String,
    /// The name that the server's owner chose; none = as at the federated endpoint.
    pub name: Option<String>,
}

/// A virtual server.
#[derive(Clone, Debug, Default)]
pub struct SourceServer {
    /// Registry id.
    pub id: String,
    /// Its tools.
    pub tools: Vec<Pick>,
    /// Ids of its resources.
    pub resources: Vec<Pick>,
    /// Ids of its resource templates.
    pub templates: Vec<Pick>,
    /// Its prompts.
    pub prompts: Vec<Pick>,
}

/// Everything the compiler reads.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// Registry generation of these rows.
    pub generation: u64,
    /// Stands between slug and name at the federated endpoint.
    pub separator: String,
    /// Upstreams; the order is the order of lists.
    pub upstreams: Vec<SourceUpstream>,
    /// Virtual servers.
    pub servers: Vec<SourceServer>,
}
