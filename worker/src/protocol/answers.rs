//! Answers that the gateway gives by itself: what it is, and the lists of the catalog.

use bytes::{BufMut, Bytes, BytesMut};

use crate::catalog::{Kind, UpstreamEntry};
use crate::json::quote;
use crate::revision::{Era, MODERN_VERSIONS};

/// `serverInfo` of the gateway.
pub const SERVER_INFO: &str =
    concat!(r#"{"name":"forkgate","title":"forkgate","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);
/// The member of a modern result's `_meta` that says so.
pub const SERVER_INFO_MEMBER: &str = concat!(
    r#""io.modelcontextprotocol/serverInfo":{"name":"forkgate","title":"forkgate","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}"#
);

/// How long a modern client may keep a list, in milliseconds: not at all, because a change of the registry is live at
/// once, and nothing tells the client yet.
const LIST_TTL_MS: u32 = 0;

/// The response to request `id` whose result has these members.
pub fn result(era: Era, id: &str, members: &str) -> Bytes {
    let common = match era {
        Era::Legacy => String::new(),
        Era::Modern => format!(r#""resultType":"complete","_meta":{{{SERVER_INFO_MEMBER}}}"#),
    };
    let comma = if common.is_empty() || members.is_empty() { "" } else { "," };
    Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{{common}{comma}{members}}}}}"#))
}

/// The kind of list that a method asks for.
pub fn list_kind(method: &str) -> Option<Kind> {
    Some(match method {
        "tools/list" => Kind::Tools,
        "resources/list" => Kind::Resources,
        "resources/templates/list" => Kind::Templates,
        "prompts/list" => Kind::Prompts,
        _ => return None,
    })
}

/// The response with a list, whose items are written as the catalog has them.
pub fn list(era: Era, id: &str, kind: Kind, items: &Bytes) -> Bytes {
    let key = match kind {
        Kind::Tools => "tools",
        Kind::Resources => "resources",
        Kind::Templates => "resourceTemplates",
        Kind::Prompts => "prompts",
    };
    let modern = match era {
        Era::Legacy => String::new(),
        Era::Modern => format!(
            r#""resultType":"complete","ttlMs":{LIST_TTL_MS},"cacheScope":"private","_meta":{{{SERVER_INFO_MEMBER}}},"#
        ),
    };
    let mut out = BytesMut::with_capacity(items.len() + modern.len() + id.len() + 64);
    out.put_slice(br#"{"jsonrpc":"2.0","id":"#);
    out.put_slice(id.as_bytes());
    out.put_slice(br#","result":{"#);
    out.put_slice(modern.as_bytes());
    out.put_slice(format!(r#""{key}":"#).as_bytes());
    out.put_slice(items);
    out.put_slice(b"}}");
    out.freeze()
}

/// What an endpoint can do.
///
/// Lists are always served, empty ones too, so that a tool, resource or prompt registered tomorrow is seen by a session
/// opened today. What depends on upstreams is offered when one of them has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    completions: bool,
    logging: bool,
    /// What the one upstream of the endpoint has to say.
    instructions: Option<String>,
}

impl Offer {
    /// The offer of an endpoint that leads to these upstreams.
    pub fn of<'a>(upstreams: impl Iterator<Item = &'a UpstreamEntry>, is_single: bool) -> Offer {
        let mut offer = Offer::default();
        for upstream in upstreams {
            offer.completions |= has_capability(upstream, "completions");
            offer.logging |= has_capability(upstream, "logging");
            if is_single {
                offer.instructions.clone_from(&upstream.instructions);
            }
        }
        offer
    }

    /// False for a method behind a capability that is not advertised.
    pub fn serves(&self, method: &str) -> bool {
        match method {
            "completion/complete" => self.completions,
            "logging/setLevel" => self.logging,
            _ => true,
        }
    }

    fn capabilities(&self) -> String {
        let completions = if self.completions { r#","completions":{}"# } else { "" };
        let logging = if self.logging { r#","logging":{}"# } else { "" };
        format!(r#"{{"tools":{{}},"resources":{{}},"prompts":{{}}{completions}{logging}}}"#)
    }

    fn instructions(&self) -> String {
        self.instructions
            .as_ref()
            .map_or_else(String::new, |text| format!(r#","instructions":{}"#, quote(text)))
    }

    /// The response to `initialize`.
    pub fn initialize(&self, id: &str, version: &str) -> Bytes {
        let members = format!(
            r#""protocolVersion":"{version}","capabilities":{},"serverInfo":{SERVER_INFO}{}"#,
            self.capabilities(),
            self.instructions()
        );
        result(Era::Legacy, id, &members)
    }

    /// The response to `server/discover`.
    pub fn discover(&self, id: &str) -> Bytes {
        let versions: Vec<String> = MODERN_VERSIONS.iter().map(|version| quote(version)).collect();
        let members = format!(
            r#""supportedVersions":[{}],"capabilities":{},"ttlMs":{LIST_TTL_MS},"cacheScope":"private"{}"#,
            versions.join(","),
            self.capabilities(),
            self.instructions()
        );
        result(Era::Modern, id, &members)
    }
}

fn has_capability(upstream: &UpstreamEntry, name: &str) -> bool {
    super::envelope::Object::parse(&upstream.capabilities).is_ok_and(|object| object.get(name).is_some())
}
