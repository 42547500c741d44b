//! What is not named stays as it was, in both directions and all eras; and the table of error codes.

use super::*;
use crate::upstream::fixture;
use proptest::prelude::*;

fn plan(era: Era, method: Forwarded) -> Plan {
    Plan {
        era,
        version: None,
        method,
        id: r#""client-id""#.into(),
        progress_token: Some(r#""token""#.into()),
        log_level: None,
        upstream: fixture::entry("http://127.0.0.1:1/"),
    }
}

fn legacy() -> UpstreamEra {
    UpstreamEra::Legacy { version: "2025-06-18".to_owned() }
}

#[test]
fn a_result_may_have_as_many_members_as_it_likes() {
    let many: Vec<String> = (0..1000).map(|n| format!(r#""k{n}":{n}"#)).collect();
    let many = many.join(",");
    let text = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{{many}}}}}"#);
    let incoming = plan(Era::Modern, Forwarded::ToolsCall).incoming(text.as_bytes(), &legacy(), 1);
    let Ok(Incoming::Response(message, ..)) = incoming else { panic!("{incoming:?}") };
    let message = String::from_utf8(message).expect("UTF-8");
    assert!(message.contains(&many) && message.contains(r#""resultType":"complete""#));
}

/// JSON as nobody would print it twice the same way.
fn odd_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("1e400".to_owned()),
        Just("18446744073709551616".to_owned()),
        Just("-0.0".to_owned()),
        Just(r#""\u0041\ud83d\ude00\/""#.to_owned()),
        Just("null".to_owned()),
        r#"[1-9][0-9]{0,25}(\.[0-9]{1,20})?"#,
        r#""[ -!#-\[\]-~é☃]{0,8}""#,
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|items| format!("[ {} ]", items.join(" ,\n"))),
            prop::collection::vec((r#""[a-c]""#, inner), 0..4).prop_map(|members| {
                let members: Vec<String> = members.iter().map(|(k, v)| format!("{k} :\t{v}")).collect();
                format!("{{{}}}", members.join(", "))
            }),
        ]
    })
}

/// Members with distinct keys that the protocol does not know.
fn vendor(prefix: &'static str) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(odd_json(), 0..4).prop_map(move |values| {
        values.iter().enumerate().map(|(n, value)| format!("\"{prefix}.example/{n}\"  : {value}")).collect()
    })
}

/// The members of an object that `vendor` made, as they stand in its text.
fn vendor_in(object: &Object<'_>, prefix: &str) -> Vec<String> {
    let own = object.members().filter(|(key, _)| key.starts_with(prefix));
    own.map(|(key, value)| format!("{}  : {}", quote(key), value.get())).collect()
}

fn eras() -> impl Strategy<Value = (Era, bool)> {
    (prop_oneof![Just(Era::Legacy), Just(Era::Modern)], any::<bool>())
}

fn joined(parts: &[&[String]]) -> String {
    parts.iter().flat_map(|part| part.iter()).cloned().collect::<Vec<_>>().join(",")
}

proptest! {
    #[test]
    fn a_request_keeps_what_is_not_named((era, to_modern) in eras(), outer in vendor("o"), inner in vendor("p"), meta in vendor("m"), has_meta in any::<bool>(), arguments in odd_json()) {
        let upstream_era = if to_modern { UpstreamEra::Modern } else { legacy() };
        let reserved = [r#""io.modelcontextprotocol/protocolVersion":"x""#.to_owned(), r#""progressToken" :7"#.to_owned(), r#""io.modelcontextprotocol/clientCapabilities":{"extensions":{}}"#.to_owned()];
        let meta_text = format!(r#""_meta":{{{}}}"#, joined(&[&reserved[..1], &meta, &reserved[1..]]));
        let mut params = vec![format!(r#""arguments":{arguments}"#), r#""name" : "up__tool""#.to_owned()];
        params.extend(has_meta.then_some(meta_text));
        let own = [r#""jsonrpc":"2.0""#.to_owned(), r#""id":1e400"#.to_owned(), r#""method":"tools/call""#.to_owned(), format!(r#""params":{{{}}}"#, joined(&[&inner, &params]))];
        let text = format!("{{{}}}", joined(&[&outer, &own]));
        let envelope = Envelope::parse(text.as_bytes()).expect("parses");
        let parsed = Params::of(&envelope).expect("params");
        let out = plan(era, Forwarded::ToolsCall).request(&envelope, parsed.as_ref(), "tool", &upstream_era, 42);
        let out = Envelope::parse(&out).expect("still a message");
        prop_assert_eq!(vendor_in(&out.object, "o.example"), outer);
        prop_assert_eq!(out.object.get("id").expect("id").get(), "42");
        let params = out.object.object("params").expect("params");
        prop_assert_eq!(vendor_in(&params, "p.example"), inner);
        prop_assert_eq!(params.get("arguments").expect("arguments").get(), arguments);
        prop_assert_eq!(params.get("name").expect("name").get(), r#""tool""#);
        let out_meta = params.object("_meta");
        if has_meta {
            let out_meta = out_meta.as_ref().expect("_meta");
            prop_assert_eq!(vendor_in(out_meta, "m.example"), meta);
            prop_assert_eq!(out_meta.get("progressToken").expect("token").get(), "42");
            let version = out_meta.get(MODERN_REQUEST_KEYS[0]).map(|raw| raw.get());
            prop_assert_eq!(version, match (era, to_modern) {
                (_, false) => None,
                (Era::Legacy, true) => Some("\"2026-07-28\""),
                (Era::Modern, true) => Some("\"x\""),
            });
            let capabilities = out_meta.get(MODERN_REQUEST_KEYS[2]).map(|raw| raw.get());
            prop_assert_eq!(capabilities, to_modern.then_some("{}"));
        } else {
            prop_assert_eq!(out_meta.is_some(), era == Era::Legacy && to_modern);
        }
    }

    #[test]
    fn a_result_keeps_what_is_not_named((era, from_modern) in eras(), outer in vendor("o"), inner in vendor("r"), meta in vendor("m"), content in odd_json()) {
        let upstream_era = if from_modern { UpstreamEra::Modern } else { legacy() };
        let mut members = vec![format!(r#""content":{content}"#), format!(r#""_meta":{{{}}}"#, meta.join(","))];
        members.extend(from_modern.then(|| r#""resultType":"complete""#.to_owned()));
        let own = [r#""result" :"#.to_owned() + &format!("{{{}}}", joined(&[&inner, &members])), r#""id":42"#.to_owned(), r#""jsonrpc":"2.0""#.to_owned()];
        let text = format!("{{{}}}", joined(&[&outer, &own]));
        let incoming = plan(era, Forwarded::ToolsCall).incoming(text.as_bytes(), &upstream_era, 42);
        let Ok(Incoming::Response(out, StatusCode::OK, Outcome::Ok)) = incoming else { panic!("{incoming:?}") };
        if era == Era::Legacy && !from_modern {
            prop_assert_eq!(String::from_utf8(out.clone()).expect("UTF-8"), text.replace(r#""id":42"#, r#""id":"client-id""#));
        }
        let out = Envelope::parse(&out).expect("still a message");
        prop_assert_eq!(vendor_in(&out.object, "o.example"), outer);
        prop_assert_eq!(out.object.get("id").expect("id").get(), r#""client-id""#);
        let result = out.object.object("result").expect("result");
        prop_assert_eq!(vendor_in(&result, "r.example"), inner);
        prop_assert_eq!(result.get("content").expect("content").get(), content);
        prop_assert_eq!(vendor_in(&result.object("_meta").expect("_meta"), "m.example"), meta);
        prop_assert_eq!(result.get("resultType").is_some(), era == Era::Modern);
    }
}

#[test]
fn error_codes_by_era() {
    use Era::{Legacy, Modern};
    let read = Forwarded::ResourcesRead;
    let call = Forwarded::ToolsCall;
    for (era, from_modern, method, code, want, status) in [
        (Legacy, true, read, -32602, -32002, 200),
        (Legacy, true, call, -32602, -32602, 200),
        (Legacy, false, read, -32602, -32602, 200),
        (Legacy, true, call, -32021, -32603, 200),
        (Legacy, true, call, -32022, -32603, 200),
        (Legacy, false, call, -32042, -32042, 200),
        (Modern, false, read, -32002, -32602, 200),
        (Modern, false, call, -32042, -32603, 200),
        (Modern, true, call, -32021, -32021, 400),
        (Modern, true, call, -32020, -32603, 200),
        (Modern, true, call, -32601, -32601, 404),
        (Modern, false, call, -32000, -32000, 200),
        (Modern, false, call, 5, 5, 200),
    ] {
        let era_of_upstream = if from_modern { UpstreamEra::Modern } else { legacy() };
        let text = format!(r#"{{"jsonrpc":"2.0","id":null,"error":{{"code": {code} ,"message":"m"}}}}"#);
        let incoming = plan(era, method).incoming(text.as_bytes(), &era_of_upstream, 42);
        let Ok(Incoming::Response(out, got, Outcome::RpcError)) = incoming else { panic!("{incoming:?}") };
        let want =
            format!(r#"{{"jsonrpc":"2.0","id":"client-id","error":{{"code": {want} ,"message":"m"}}}}"#);
        assert_eq!((String::from_utf8(out).expect("UTF-8"), got.as_u16()), (want, status), "{era:?} {code}");
    }
}

#[test]
fn answers_to_other_requests_are_refused() {
    for text in [
        r#"{"jsonrpc":"2.0","id":41,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":42,"result":[]}"#,
        "[]",
        "x",
        "",
    ] {
        let incoming = plan(Era::Legacy, Forwarded::ToolsCall).incoming(text.as_bytes(), &legacy(), 42);
        assert!(matches!(incoming, Err(Failure::Upstream { .. })), "{text}");
    }
}
