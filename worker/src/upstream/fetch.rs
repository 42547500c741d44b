//! An upstream's whole catalog: its era, what it says about itself, and every page of every list it advertises.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde_json::value::RawValue;

use super::UpstreamError;
use super::calls::{Upstreams, request_headers};
use super::message::{Message, excerpt};
use super::peer::Peer;
use super::probe::{self, Reply, modern_meta};
use crate::catalog::{MAX_ITEMS, UpstreamEntry, UpstreamEra};
use crate::revision::METHOD_NOT_FOUND;

/// Most pages of one list: with servers' usual page sizes of 10 to 1000 items this is beyond [`MAX_ITEMS`] or a loop.
pub const MAX_PAGES: usize = 1000;
/// Most bytes of all pages of all lists together: a worker holds them until they are in the database, beside everything
/// that it serves. Several times what [`MAX_ITEMS`] tools of the usual 1 to 2 KiB take.
pub const MAX_BYTES: u64 = 64 << 20;
/// Characters of an upstream's own error text that we repeat.
const EXCERPT: usize = 300;

/// Whose catalog is wanted.
#[derive(Clone, Debug)]
pub struct FetchRequest {
    /// Where it is.
    pub url: String,
    /// Headers sent with every request: its credentials.
    pub headers: Vec<(String, String)>,
    /// For everything together.
    pub deadline: Duration,
}

/// A catalog, its items byte for byte as the upstream sent them.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The era it speaks.
    pub era: UpstreamEra,
    /// `serverInfo`.
    pub server_info: Box<RawValue>,
    /// `capabilities`.
    pub capabilities: Box<RawValue>,
    /// `instructions`.
    pub instructions: Option<String>,
    /// Of `tools/list`.
    pub tools: Vec<Box<RawValue>>,
    /// Of `resources/list`.
    pub resources: Vec<Box<RawValue>>,
    /// Of `resources/templates/list`.
    pub templates: Vec<Box<RawValue>>,
    /// Of `prompts/list`.
    pub prompts: Vec<Box<RawValue>>,
}

/// Why there is no catalog.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The upstream could not be spoken to at all.
    #[error("the upstream cannot be used: {0}")]
    Upstream(#[from] UpstreamError),
    /// A list that it advertises could not be read.
    #[error("the upstream advertises {method}, but it failed: {why}")]
    List {
        /// For instance `tools/list`.
        method: &'static str,
        /// What went wrong.
        why: String,
    },
    /// All lists together are larger than [`MAX_BYTES`].
    #[error("the upstream's lists are larger than {} MiB together", MAX_BYTES >> 20)]
    TooLarge,
    /// Everything together took too long.
    #[error("the upstream did not give its catalog within {0:?}")]
    TimedOut(Duration),
}

/// A list: its method, its key in the result, and whether a server that advertises its capability may lack it.
struct List {
    method: &'static str,
    key: &'static str,
    capability: &'static str,
    is_optional: bool,
}

const LISTS: [List; 4] = [
    List { method: "tools/list", key: "tools", capability: "tools", is_optional: false },
    List { method: "resources/list", key: "resources", capability: "resources", is_optional: false },
    // One capability covers both lists; many servers have no templates and do not know the method.
    List {
        method: "resources/templates/list",
        key: "resourceTemplates",
        capability: "resources",
        is_optional: true,
    },
    List { method: "prompts/list", key: "prompts", capability: "prompts", is_optional: false },
];

/// Reads an upstream's catalog.
pub async fn fetch(upstreams: &Upstreams, request: FetchRequest) -> Result<Fetched, FetchError> {
    fetch_within(upstreams, request, MAX_BYTES).await
}

/// As [`fetch`], with another limit of bytes. A page is counted once it is there: one more (`GATEWAY_MAX_ANSWER`) is read.
pub(super) async fn fetch_within(
    upstreams: &Upstreams,
    request: FetchRequest,
    max_bytes: u64,
) -> Result<Fetched, FetchError> {
    let deadline = request.deadline;
    let entry = UpstreamEntry {
        id: String::new(),
        name: String::new(),
        slug: String::new(),
        index: usize::MAX,
        url: request.url,
        headers: request.headers,
        era: UpstreamEra::Modern,
        capabilities: "{}".to_owned(),
        instructions: None,
    };
    let peer = Rc::new(Peer::new(Arc::new(entry))?);
    let fetched = tokio::time::timeout(deadline, read_all(upstreams, &peer, max_bytes)).await;
    upstreams.end_session(&peer).await;
    fetched.map_err(|_| FetchError::TimedOut(deadline))?
}

async fn read_all(upstreams: &Upstreams, peer: &Rc<Peer>, max_bytes: u64) -> Result<Fetched, FetchError> {
    let found = probe::probe(upstreams, peer).await?;
    let advertised: std::collections::HashMap<String, &RawValue> =
        serde_json::from_str(found.capabilities.get())
            .map_err(|_| UpstreamError::Nonsense("its capabilities are no object".to_owned()))?;
    let mut left = max_bytes;
    let mut lists: [Vec<Box<RawValue>>; LISTS.len()] = Default::default();
    for (list, items) in LISTS.iter().zip(&mut lists) {
        if advertised.contains_key(list.capability) {
            *items = read_list(upstreams, peer, &found.era, list, &mut left).await?;
        }
    }
    let [tools, resources, templates, prompts] = lists;
    Ok(Fetched {
        era: found.era,
        server_info: found.server_info,
        capabilities: found.capabilities,
        instructions: found.instructions,
        tools,
        resources,
        templates,
        prompts,
    })
}

async fn read_list(
    upstreams: &Upstreams,
    peer: &Rc<Peer>,
    era: &UpstreamEra,
    list: &List,
    left: &mut u64,
) -> Result<Vec<Box<RawValue>>, FetchError> {
    let failed = |why: String| FetchError::List { method: list.method, why };
    let mut items = Vec::new();
    let mut cursor: Option<Box<RawValue>> = None;
    let mut seen = HashSet::new();
    for page in 0..MAX_PAGES {
        let body = read_page(upstreams, peer, era, list.method, cursor.as_deref())
            .await
            .map_err(|error| failed(error.to_string()))?;
        *left = left.checked_sub(body.len() as u64).ok_or(FetchError::TooLarge)?;
        let message =
            Message::parse(&body).ok_or_else(|| failed("the answer is no JSON-RPC message".to_owned()))?;
        if let Some(error) = message.error {
            if list.is_optional && page == 0 && error.code == METHOD_NOT_FOUND {
                return Ok(items);
            }
            return Err(failed(format!("error {}: {}", error.code, excerpt(&error.message, EXCERPT))));
        }
        let result = message.result.ok_or_else(|| failed("the answer has no result".to_owned()))?;
        let next = take_page(result, list.key, &mut items).map_err(failed)?;
        if items.len() > MAX_ITEMS {
            return Err(failed(format!("it has more than {MAX_ITEMS} items")));
        }
        let Some(next) = next else { return Ok(items) };
        let mut hasher = DefaultHasher::new();
        next.get().hash(&mut hasher);
        if !seen.insert(hasher.finish()) {
            return Err(failed(format!(
                "page {} has a cursor that came before: the list never ends",
                page + 1
            )));
        }
        cursor = Some(next);
    }
    Err(failed(format!("it has more than {MAX_PAGES} pages")))
}

/// Adds a page's items and gives the next cursor, as JSON text.
fn take_page(
    result: &RawValue,
    key: &str,
    items: &mut Vec<Box<RawValue>>,
) -> Result<Option<Box<RawValue>>, String> {
    let members: std::collections::HashMap<String, &RawValue> =
        serde_json::from_str(result.get()).map_err(|_| "the result is no object".to_owned())?;
    let page = members.get(key).ok_or_else(|| format!("the result has no {key:?}"))?;
    let page: Vec<Box<RawValue>> =
        serde_json::from_str(page.get()).map_err(|_| format!("{key:?} is no array"))?;
    items.extend(page);
    match members.get("nextCursor").map(|cursor| cursor.get()) {
        None | Some("null") => Ok(None),
        Some(text) if text.starts_with('"') => Ok(members.get("nextCursor").map(|&cursor| cursor.to_owned())),
        Some(_) => Err("`nextCursor` is no string".to_owned()),
    }
}

async fn read_page(
    upstreams: &Upstreams,
    peer: &Rc<Peer>,
    era: &UpstreamEra,
    method: &'static str,
    cursor: Option<&RawValue>,
) -> Result<bytes::Bytes, UpstreamError> {
    let id = upstreams.next_id();
    let mut params = Vec::new();
    params.extend(cursor.map(|cursor| format!(r#""cursor":{}"#, cursor.get())));
    let mut more = Vec::new();
    if *era == UpstreamEra::Modern {
        params.push(format!(r#""_meta":{{{}}}"#, modern_meta()));
        more.push((HeaderName::from_static("mcp-method"), HeaderValue::from_static(method)));
    }
    let body =
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{}}}}}"#, params.join(","));
    let session = peer.session.current();
    let headers = request_headers(peer, era, session.as_deref(), more);
    match probe::ask(upstreams, peer, headers, body.into(), id).await? {
        Reply::Message(body, _) => Ok(body),
        // Modern errors come with a status of their own.
        Reply::Refused(_, body) if super::message::error_code(&body).is_some() => Ok(body),
        Reply::Refused(status, _) => Err(UpstreamError::Status(status.as_u16())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_keep_their_items_as_they_were() {
        let take = |text: &str| {
            let raw: Box<RawValue> = serde_json::from_str(text).expect("JSON");
            let mut items = Vec::new();
            take_page(&raw, "tools", &mut items).map(|next| {
                let items: Vec<String> = items.iter().map(|item| item.get().to_owned()).collect();
                (items, next.map(|next| next.get().to_owned()))
            })
        };
        assert_eq!(
            take(r#"{"tools":[{"b":1e400, "a":1},{}],"nextCursor":"","x":1}"#),
            Ok((vec![r#"{"b":1e400, "a":1}"#.to_owned(), "{}".to_owned()], Some("\"\"".to_owned())))
        );
        assert_eq!(take(r#"{"tools":[],"nextCursor":null}"#), Ok((vec![], None)));
        for bad in [r#"{}"#, r#"{"tools":{}}"#, r#"{"tools":[],"nextCursor":1}"#, "[]"] {
            assert!(take(bad).is_err(), "{bad}");
        }
    }
}
