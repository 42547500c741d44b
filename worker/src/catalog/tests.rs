//! From rows to lookups, and what damaged snapshots do.

use proptest::prelude::*;

use super::compile::{Collision, compile};
use super::source::{Item, Pick, Source, SourceServer, SourceUpstream};
use super::*;
use crate::revision::Era;

fn upstream(name: &str, tools: &[&str]) -> SourceUpstream {
    let item = |key: &str, definition: &str| Item {
        id: format!("{name}-{key}"),
        key: key.to_owned(),
        definition: definition.to_owned(),
    };
    let named = |definition: &&str| {
        let value: serde_json::Value = serde_json::from_str(definition).expect("json");
        item(value["name"].as_str().expect("a name"), definition)
    };
    SourceUpstream {
        entry: UpstreamEntry {
            id: format!("id-{name}"),
            name: name.to_owned(),
            slug: slug::slug(name, "__").expect("slug"),
            index: 0,
            url: "http://127.0.0.1:1/mcp?key=hidden".to_owned(),
            headers: vec![("authorization".to_owned(), "Bearer hidden".to_owned())],
            era: UpstreamEra::Modern,
            capabilities: "{}".to_owned(),
            instructions: None,
        },
        tools: tools.iter().map(named).collect(),
        resources: vec![item("demo://note", r#"{"uri":"demo://note","name":"note"}"#)],
        templates: vec![item("demo://n/{id}", r#"{"uriTemplate":"demo://n/{id}","name":"n"}"#)],
        prompts: vec![item("greet", r#"{"name":"greet"}"#)],
    }
}

fn source() -> Source {
    let odd = r#"{ "vendor":1.50e+3, "name" : "odd","inputSchema":{"type":"object"}, "outputSchema":{"type":"array"} }"#;
    let bad = r#"{"name":"bad","inputSchema":{"type":"object","x-mcp-header":"X"}}"#;
    let mirrored =
        r#"{"name":"mirrored","inputSchema":{"properties":{"r":{"type":"string","x-mcp-header":"R"}}}}"#;
    Source {
        generation: 7,
        separator: "__".to_owned(),
        upstreams: vec![upstream("A b", &[odd, bad]), upstream("c", &[mirrored])],
        servers: vec![SourceServer {
            id: "s1".to_owned(),
            tools: vec![
                Pick { id: "A b-odd".to_owned(), name: Some("mine".to_owned()) },
                Pick { id: "c-mirrored".to_owned(), name: None },
                Pick { id: "gone".to_owned(), name: None },
            ],
            prompts: vec![Pick { id: "c-greet".to_owned(), name: None }],
            ..SourceServer::default()
        }],
    }
}

fn catalog() -> Catalog {
    let compiled = compile(&source()).expect("compiles");
    assert_eq!(compiled.collisions, []);
    Catalog::from_snapshot(compiled.bytes.into()).expect("loads")
}

fn text(bytes: Bytes) -> String {
    String::from_utf8(bytes.to_vec()).expect("utf-8")
}

#[test]
fn lists_keep_every_byte_but_the_name() {
    let catalog = catalog();
    assert_eq!(catalog.generation, 7);
    let federated = catalog.view(&Endpoint::Federated).expect("view");
    assert_eq!(
        text(federated.list(Kind::Tools, Era::Modern)),
        concat!(
            r#"[{ "vendor":1.50e+3, "name" : "a-b__odd","inputSchema":{"type":"object"}, "outputSchema":{"type":"array"} },"#,
            r#"{"name":"c__mirrored","inputSchema":{"properties":{"r":{"type":"string","x-mcp-header":"R"}}}}]"#
        ),
        "modern: the tool with the invalid annotation is left out"
    );
    assert!(
        text(federated.list(Kind::Tools, Era::Legacy)).starts_with(
            r#"[{ "vendor":1.50e+3, "name" : "a-b__odd","inputSchema":{"type":"object"} },{"name":"a-b__bad","#
        ),
        "legacy: the output schema that is no object's is left out"
    );
    let single = catalog.view(&Endpoint::Upstream("A b".to_owned())).expect("view");
    assert_eq!(text(single.list(Kind::Prompts, Era::Legacy)), r#"[{"name":"greet"}]"#);
    let server = catalog.view(&Endpoint::Server("s1".to_owned())).expect("view");
    assert_eq!(text(server.list(Kind::Prompts, Era::Modern)), r#"[{"name":"c__greet"}]"#);
    assert!(text(server.list(Kind::Tools, Era::Modern)).contains(r#""name" : "mine""#));
    assert_eq!(text(server.list(Kind::Resources, Era::Modern)), "[]");
}

#[test]
fn names_lead_to_their_upstreams() {
    let catalog = catalog();
    let federated = catalog.view(&Endpoint::Federated).expect("view");
    let target = federated.tool("c__mirrored").expect("tool");
    assert_eq!((target.upstream.name.as_str(), target.name.as_str()), ("c", "mirrored"));
    assert_eq!(target.header_params, [(vec!["r".to_owned()], "R".to_owned())]);
    assert!(federated.tool("mirrored").is_none());
    assert_eq!(federated.prompt("a-b__greet").expect("prompt").name, "greet");
    assert_eq!(federated.resource("demo://note").expect("resource").upstream.name, "A b");
    assert_eq!(federated.resource("demo://n/5").expect("template").name, "demo://n/5");
    assert!(federated.resource("demo://n/5/6").is_none());
    let server = catalog.view(&Endpoint::Server("s1".to_owned())).expect("view");
    assert_eq!(server.tool("mine").expect("tool").name, "odd");
    assert!(server.resource("demo://note").is_none());
    let single = catalog.view(&Endpoint::Upstream("a-b".to_owned())).expect("by slug");
    assert!(single.tool("bad").is_some());
    assert!(catalog.view(&Endpoint::Server("nobody".to_owned())).is_none());
    assert!(catalog.view(&Endpoint::Upstream("nobody".to_owned())).is_none());
}

#[test]
fn behind_a_virtual_server_stand_only_the_upstreams_of_its_items() {
    let mut source = source();
    source.servers.push(SourceServer {
        id: "s2".to_owned(),
        resources: vec![Pick { id: "c-demo://note".to_owned(), name: None }],
        ..SourceServer::default()
    });
    let catalog = Catalog::from_snapshot(compile(&source).expect("compiles").bytes.into()).expect("loads");
    for (endpoint, want) in [
        (Endpoint::Federated, Some(vec!["A b", "c"])),
        (Endpoint::Server("s1".to_owned()), Some(vec!["A b", "c"])),
        (Endpoint::Server("s2".to_owned()), Some(vec!["c"])),
        (Endpoint::Upstream("a-b".to_owned()), Some(vec!["A b"])),
        (Endpoint::Server("s3".to_owned()), None),
    ] {
        let names = catalog.upstreams_of(&endpoint);
        let names = names.map(|all| all.iter().map(|upstream| upstream.name.as_str()).collect::<Vec<_>>());
        assert_eq!(names, want, "{endpoint:?}");
    }
}

#[test]
fn two_items_cannot_have_one_name() {
    let mut source = source();
    source.separator = "-".to_owned();
    source.upstreams =
        vec![upstream("a", &[r#"{"name":"b-c"}"#]), upstream("a-b", &[r#"{"name":"c"}"#, r#"{"name":"d"}"#])];
    let compiled = compile(&source).expect("compiles");
    assert_eq!(
        compiled.collisions,
        [Collision { name: "a-b-c".to_owned(), upstream: "a-b".to_owned(), server: None }]
    );
    let catalog = Catalog::from_snapshot(compiled.bytes.into()).expect("loads");
    let federated = catalog.view(&Endpoint::Federated).expect("view");
    assert_eq!(federated.tool("a-b-c").expect("tool").upstream.name, "a");
}

#[test]
fn credentials_are_not_in_debug_output() {
    let entry = &source().upstreams[0].entry;
    assert!(!format!("{entry:?}").contains("hidden"));
}

#[test]
fn an_empty_catalog_lists_nothing() {
    let empty = Catalog::empty();
    let view = empty.view(&Endpoint::Federated).expect("view");
    assert_eq!(text(view.list(Kind::Templates, Era::Modern)), "[]");
    assert_eq!(empty.upstreams().count(), 0);
}

proptest! {
    #[test]
    fn damaged_snapshots_are_errors_and_never_panics(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<proptest::sample::Index>(),
        shorten in any::<bool>(),
    ) {
        let mut bytes = compile(&source()).expect("compiles").bytes;
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if shorten {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(catalog) = Catalog::from_snapshot(bytes.into()) {
            let view = catalog.view(&Endpoint::Federated).expect("always there");
            let _ = (view.list(Kind::Tools, Era::Modern), view.tool("c__mirrored"), view.resource("demo://n/5"));
        }
    }

    #[test]
    fn spans_and_numbers_out_of_range_are_refused(start: usize, length: usize, number in 2usize..) {
        let compiled = compile(&source()).expect("compiles");
        let (_, index, blob) = snapshot::read(&compiled.bytes).expect("reads");
        let blob = &compiled.bytes[blob..];
        let mut spans = index.clone();
        spans.federated.lists[2][1] = snapshot::Span(start, length);
        if start.checked_add(length).is_none_or(|end| end > blob.len()) {
            let bytes = snapshot::write(7, &spans, blob).expect("writes");
            prop_assert!(Catalog::from_snapshot(bytes.into()).is_err());
        }
        let mut routes = index;
        routes.servers[0].1.tools[0].upstream = number;
        let bytes = snapshot::write(7, &routes, blob).expect("writes");
        prop_assert!(Catalog::from_snapshot(bytes.into()).is_err());
    }
}
