//! Registry rows in, snapshot bytes out: a pure function, run once per change.
//!
//! Invariant: in a list an item differs from what its upstream sent in nothing but the value of `name` (where the
//! endpoint prefixes it), and, for legacy clients, in an `outputSchema` left out that they could not read.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::Kind;
use super::headers::{self, HeaderParam};
use super::snapshot::{self, Index, Route, Span, ViewIndex};
use super::source::{Item, Pick, Source, SourceServer, SourceUpstream};
use super::splice::{NotAnObject, Object};

/// A finished snapshot, and what it had to leave out.
#[derive(Debug)]
pub struct Compiled {
    /// Generation of the rows it was made of.
    pub generation: u64,
    /// See [`snapshot`].
    pub bytes: Vec<u8>,
    /// Names that two items want at one endpoint; the first in order has it.
    pub collisions: Vec<Collision>,
}

/// A name that two items want at one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collision {
    /// The name.
    pub name: String,
    /// Registered name of the upstream whose item was left out.
    pub upstream: String,
    /// Id of the virtual server whose names collide; none = the federated endpoint's.
    pub server: Option<String>,
}

/// Why rows cannot be compiled. They were checked when they were registered, so this means a damaged database.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// A definition is not an object.
    #[error("the definition of {key:?} of upstream {upstream:?}: {source}")]
    Definition {
        /// Registered name.
        upstream: String,
        /// Name, URI or template.
        key: String,
        /// What is wrong.
        source: NotAnObject,
    },
    /// The index cannot be written.
    #[error("the catalog's index cannot be written: {0}")]
    Index(#[from] serde_json::Error),
}

/// An item prepared once and used by up to three views.
struct Prepared<'a> {
    item: &'a Item,
    upstream: usize,
    object: Object<'a>,
    prefixed: String,
    header_params: Vec<HeaderParam>,
    for_legacy: Form,
    for_modern: Form,
}

/// How an item appears to the clients of one era.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Whole,
    WithoutOutputSchema,
    LeftOut,
}

/// One upstream's items, by kind.
struct PreparedUpstream<'a> {
    tools: Vec<Prepared<'a>>,
    resources: Vec<Prepared<'a>>,
    templates: Vec<Prepared<'a>>,
    prompts: Vec<Prepared<'a>>,
}

/// The name that an upstream's item has at the federated endpoint.
pub fn prefixed(slug: &str, separator: &str, name: &str) -> String {
    format!("{slug}{separator}{name}")
}

/// Compiles rows into a snapshot.
pub fn compile(source: &Source) -> Result<Compiled, CompileError> {
    let prepared = source
        .upstreams
        .iter()
        .enumerate()
        .map(|(number, upstream)| prepare(number, upstream, &source.separator))
        .collect::<Result<Vec<_>, _>>()?;
    let mut writer = Writer { source, server: None, blob: Vec::new(), collisions: Vec::new() };
    let federated = writer.view(|kind| {
        prepared
            .iter()
            .flat_map(|upstream| kind.of(upstream))
            .map(|item| (item, kind.federated_name(item)))
            .collect()
    });
    let single = prepared
        .iter()
        .map(|upstream| writer.view(|kind| kind.of(upstream).iter().map(|item| (item, None)).collect()))
        .collect();
    let by_id: HashMap<&str, &Prepared<'_>> = prepared
        .iter()
        .flat_map(|upstream| Kind::ALL.iter().flat_map(|kind| kind.of(upstream)))
        .map(|prepared| (prepared.item.id.as_str(), prepared))
        .collect();
    let servers = source
        .servers
        .iter()
        .map(|server| {
            writer.server = Some(server.id.clone());
            let view = writer.view(|kind| {
                let chosen = |pick: &Pick| {
                    let item = *by_id.get(pick.id.as_str())?;
                    Some((item, pick.name.clone().or_else(|| kind.federated_name(item))))
                };
                kind.picked(server).iter().filter_map(chosen).collect()
            });
            (server.id.clone(), view)
        })
        .collect();
    let upstreams = source.upstreams.iter().map(|upstream| upstream.entry.clone()).collect();
    let index = Index { upstreams, federated, single, servers };
    let bytes = snapshot::write(source.generation, &index, &writer.blob)?;
    Ok(Compiled { generation: source.generation, bytes, collisions: writer.collisions })
}

impl Kind {
    fn of<'p, 'a>(self, upstream: &'p PreparedUpstream<'a>) -> &'p [Prepared<'a>] {
        match self {
            Kind::Tools => &upstream.tools,
            Kind::Resources => &upstream.resources,
            Kind::Templates => &upstream.templates,
            Kind::Prompts => &upstream.prompts,
        }
    }

    fn picked(self, server: &SourceServer) -> &[Pick] {
        match self {
            Kind::Tools => &server.tools,
            Kind::Resources => &server.resources,
            Kind::Templates => &server.templates,
            Kind::Prompts => &server.prompts,
        }
    }

    /// The prefixed name of tools and prompts; URIs are not prefixed.
    fn federated_name(self, item: &Prepared<'_>) -> Option<String> {
        matches!(self, Kind::Tools | Kind::Prompts).then(|| item.prefixed.clone())
    }
}

fn prepare<'a>(
    number: usize,
    upstream: &'a SourceUpstream,
    separator: &str,
) -> Result<PreparedUpstream<'a>, CompileError> {
    let all = |items: &'a [Item], is_tool: bool| -> Result<Vec<Prepared<'a>>, CompileError> {
        items.iter().map(|item| prepare_item(number, upstream, item, is_tool, separator)).collect()
    };
    Ok(PreparedUpstream {
        tools: all(&upstream.tools, true)?,
        resources: all(&upstream.resources, false)?,
        templates: all(&upstream.templates, false)?,
        prompts: all(&upstream.prompts, false)?,
    })
}

fn prepare_item<'a>(
    number: usize,
    upstream: &SourceUpstream,
    item: &'a Item,
    is_tool: bool,
    separator: &str,
) -> Result<Prepared<'a>, CompileError> {
    let object = Object::parse(&item.definition).map_err(|source| CompileError::Definition {
        upstream: upstream.entry.name.clone(),
        key: item.key.clone(),
        source,
    })?;
    let mut prepared = Prepared {
        item,
        upstream: number,
        prefixed: prefixed(&upstream.entry.slug, separator, &item.key),
        header_params: Vec::new(),
        for_legacy: Form::Whole,
        for_modern: Form::Whole,
        object,
    };
    if is_tool {
        match headers::header_params(prepared.object.get("inputSchema").unwrap_or("{}")) {
            Ok(params) => prepared.header_params = params,
            Err(error) => {
                tracing::warn!(upstream = %upstream.entry.name, tool = %item.key, %error,
                    "tool is not offered to clients of 2026-07-28: its x-mcp-header annotations are invalid");
                prepared.for_modern = Form::LeftOut;
            }
        }
        if prepared.object.get("outputSchema").is_some_and(|schema| !is_object_schema(schema)) {
            prepared.for_legacy = Form::WithoutOutputSchema;
        }
    }
    Ok(prepared)
}

/// What clients up to 2025-11-25 accept as an output schema: an object whose root type is `object`.
fn is_object_schema(schema: &str) -> bool {
    serde_json::from_str::<Map<String, Value>>(schema)
        .is_ok_and(|schema| schema.get("type").and_then(Value::as_str) == Some("object"))
}

/// Items of a view with the names they get there; none = as the upstream calls them.
type Entries<'p, 'a> = Vec<(&'p Prepared<'a>, Option<String>)>;

struct Writer<'s> {
    source: &'s Source,
    /// The virtual server whose view is being written.
    server: Option<String>,
    blob: Vec<u8>,
    collisions: Vec<Collision>,
}

impl Writer<'_> {
    fn view<'p, 'a: 'p>(&mut self, entries: impl Fn(Kind) -> Entries<'p, 'a>) -> ViewIndex {
        let mut lists = [[Span(0, 0); 2]; 4];
        let [tools, resources, templates, prompts] = Kind::ALL.map(|kind| {
            let entries = self.without_collisions(kind, entries(kind));
            let legacy = self.list(&entries, |item| item.for_legacy);
            let same = entries.iter().all(|(item, _)| item.for_legacy == item.for_modern);
            let modern = if same { legacy } else { self.list(&entries, |item| item.for_modern) };
            lists[kind as usize] = [legacy, modern];
            entries.into_iter().map(|(item, name)| route(item, name)).collect()
        });
        ViewIndex { lists, tools, prompts, resources, templates }
    }

    /// Leaves the first of the items that want the same name. Two upstreams may well have the same URI or template, which is
    /// no collision to report: names are promised to be unique, URIs are not.
    fn without_collisions<'p, 'a>(&mut self, kind: Kind, entries: Entries<'p, 'a>) -> Entries<'p, 'a> {
        let mut seen = HashSet::new();
        let mut kept = Vec::with_capacity(entries.len());
        for (item, name) in entries {
            let exposed = name.as_deref().unwrap_or(&item.item.key).to_owned();
            if seen.insert(exposed.clone()) {
                kept.push((item, name));
            } else if matches!(kind, Kind::Tools | Kind::Prompts) {
                let upstream = self.source.upstreams[item.upstream].entry.name.clone();
                self.collisions.push(Collision { name: exposed, upstream, server: self.server.clone() });
            }
        }
        kept
    }

    fn list(&mut self, entries: &Entries<'_, '_>, form: impl Fn(&Prepared<'_>) -> Form) -> Span {
        let start = self.blob.len();
        self.blob.push(b'[');
        for (item, name) in entries {
            let form = form(item);
            if form == Form::LeftOut {
                continue;
            }
            if self.blob.len() > start + 1 {
                self.blob.push(b',');
            }
            self.blob.extend_from_slice(text(item, name.as_deref(), form).as_bytes());
        }
        self.blob.push(b']');
        Span(start, self.blob.len() - start)
    }
}

/// An item's JSON under a name.
fn text(item: &Prepared<'_>, name: Option<&str>, form: Form) -> String {
    let renamed = match name {
        Some(name) => item.object.replace("name", &Value::from(name).to_string()),
        None => item.item.definition.clone(),
    };
    match form {
        Form::WithoutOutputSchema => {
            Object::parse(&renamed).map(|object| object.remove("outputSchema")).unwrap_or(renamed)
        }
        Form::Whole | Form::LeftOut => renamed,
    }
}

fn route(item: &Prepared<'_>, name: Option<String>) -> Route {
    let original = item.item.key.clone();
    let header_params = item.header_params.clone();
    match name {
        Some(exposed) if exposed != original => {
            Route { exposed, upstream: item.upstream, original: Some(original), header_params }
        }
        _ => Route { exposed: original, upstream: item.upstream, original: None, header_params },
    }
}
