//! A view as a worker holds it: lists are slices of the mapping, names are found by hash.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::headers::HeaderParam;
use super::snapshot::{Route, SnapshotError, Span, ViewIndex};
use super::template::UriTemplate;
use super::{Kind, Target, UpstreamEntry, View};
use crate::revision::Era;

struct Leads {
    upstream: Arc<UpstreamEntry>,
    original: Option<Box<str>>,
    header_params: Vec<HeaderParam>,
}

impl Leads {
    fn target(&self, asked: &str) -> Target {
        Target {
            upstream: Arc::clone(&self.upstream),
            name: self.original.as_deref().unwrap_or(asked).to_owned(),
            header_params: self.header_params.clone(),
        }
    }
}

/// What one endpoint offers.
pub struct CompiledView {
    lists: [[Bytes; 2]; 4],
    tools: HashMap<Box<str>, Leads>,
    prompts: HashMap<Box<str>, Leads>,
    resources: HashMap<Box<str>, Leads>,
    templates: Vec<(UriTemplate, Arc<UpstreamEntry>)>,
    /// Who is behind all of these.
    upstreams: Vec<Arc<UpstreamEntry>>,
}

impl CompiledView {
    /// A view of nothing.
    pub(super) fn empty() -> CompiledView {
        let none = || [Bytes::from_static(b"[]"), Bytes::from_static(b"[]")];
        CompiledView {
            lists: [none(), none(), none(), none()],
            tools: HashMap::new(),
            prompts: HashMap::new(),
            resources: HashMap::new(),
            templates: Vec::new(),
            upstreams: Vec::new(),
        }
    }

    /// Takes a view's lists out of the blob; its upstream numbers were checked by [`super::snapshot::read`].
    pub(super) fn load(
        index: ViewIndex,
        upstreams: &[Arc<UpstreamEntry>],
        blob: &Bytes,
    ) -> Result<CompiledView, SnapshotError> {
        let mut lists = CompiledView::empty().lists;
        for (slots, spans) in lists.iter_mut().zip(index.lists) {
            for (slot, span) in slots.iter_mut().zip(spans) {
                *slot = list(blob, span)?;
            }
        }
        let routes = [&index.tools, &index.prompts, &index.resources, &index.templates];
        let numbers: BTreeSet<usize> = routes.into_iter().flatten().map(|route| route.upstream).collect();
        let by_name = |routes: Vec<Route>| -> HashMap<Box<str>, Leads> {
            routes
                .into_iter()
                .map(|route| {
                    let leads = Leads {
                        upstream: Arc::clone(&upstreams[route.upstream]),
                        original: route.original.map(String::into_boxed_str),
                        header_params: route.header_params,
                    };
                    (route.exposed.into_boxed_str(), leads)
                })
                .collect()
        };
        let template = |route: Route| {
            Some((UriTemplate::parse(&route.exposed)?, Arc::clone(&upstreams[route.upstream])))
        };
        Ok(CompiledView {
            lists,
            tools: by_name(index.tools),
            prompts: by_name(index.prompts),
            resources: by_name(index.resources),
            templates: index.templates.into_iter().filter_map(template).collect(),
            upstreams: numbers.into_iter().map(|number| Arc::clone(&upstreams[number])).collect(),
        })
    }

    /// The upstreams that its items lead to, in the order of lists.
    pub(super) fn upstreams(&self) -> &[Arc<UpstreamEntry>] {
        &self.upstreams
    }
}

/// The bytes of a list, which must at least look like an array.
fn list(blob: &Bytes, Span(start, length): Span) -> Result<Bytes, SnapshotError> {
    let end = start
        .checked_add(length)
        .filter(|&end| end <= blob.len())
        .ok_or(SnapshotError::Dangling("a list"))?;
    let bytes = blob.slice(start..end);
    if bytes.len() >= 2 && bytes.starts_with(b"[") && bytes.ends_with(b"]") {
        Ok(bytes)
    } else {
        Err(SnapshotError::Dangling("a list"))
    }
}

impl View for CompiledView {
    fn list(&self, kind: Kind, era: Era) -> Bytes {
        let kind = match kind {
            Kind::Tools => 0,
            Kind::Resources => 1,
            Kind::Templates => 2,
            Kind::Prompts => 3,
        };
        let era = match era {
            Era::Legacy => 0,
            Era::Modern => 1,
        };
        self.lists[kind][era].clone()
    }

    fn tool(&self, name: &str) -> Option<Target> {
        Some(self.tools.get(name)?.target(name))
    }

    fn prompt(&self, name: &str) -> Option<Target> {
        Some(self.prompts.get(name)?.target(name))
    }

    fn resource(&self, uri: &str) -> Option<Target> {
        if let Some(leads) = self.resources.get(uri) {
            return Some(leads.target(uri));
        }
        let (_, upstream) = self.templates.iter().find(|(template, _)| template.matches(uri))?;
        Some(Target { upstream: Arc::clone(upstream), name: uri.to_owned(), header_params: Vec::new() })
    }
}
