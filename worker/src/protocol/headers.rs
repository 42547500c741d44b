//! Headers that mirror a modern request's body: checked where they come in, computed anew where they go out.
//!
//! Values that no header can carry travel as `=?base64?…?=`; a plain value that looks like that is encoded too.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::value::RawValue;

use super::envelope::{member, string};
use super::rewrite::Forwarded;
use crate::catalog::Target;
use crate::failure::Failure;

/// Mirrors `method`.
pub const METHOD: &str = "mcp-method";
/// Mirrors the name or URI that the method is about.
pub const NAME: &str = "mcp-name";
const PARAM_PREFIX: &str = "mcp-param-";
const ENCODED_START: &str = "=?base64?";
const ENCODED_END: &str = "?=";

fn mismatch(what: String) -> Failure {
    Failure::HeaderMismatch(what)
}

/// A header's value, decoded; none when it is absent. An error when it appears twice or cannot be read.
fn decoded<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<Cow<'a, str>>, Failure> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(mismatch(format!("the {name} header appears twice")));
    }
    let text =
        value.to_str().map_err(|_| mismatch(format!("the {name} header has characters outside ASCII")))?;
    let text = text.trim_matches([' ', '\t']);
    let Some(inner) = text.strip_prefix(ENCODED_START).and_then(|rest| rest.strip_suffix(ENCODED_END)) else {
        return Ok(Some(Cow::Borrowed(text)));
    };
    STANDARD
        .decode(inner)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(|text| Some(Cow::Owned(text)))
        .ok_or_else(|| mismatch(format!("the {name} header is not valid base64 of UTF-8")))
}

/// Text as a header's value.
pub fn encode(text: &str) -> HeaderValue {
    let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && text.trim() == text
        && !(text.starts_with(ENCODED_START) && text.ends_with(ENCODED_END));
    let value = if is_plain {
        HeaderValue::from_str(text)
    } else {
        HeaderValue::try_from(format!("{ENCODED_START}{}{ENCODED_END}", STANDARD.encode(text)))
    };
    value.expect("visible ASCII is a header value")
}

/// `Mcp-Method` or `Mcp-Name`, which must say what the body says.
pub fn check_mirror(headers: &HeaderMap, header: &str, want: &str) -> Result<(), Failure> {
    match decoded(headers, header)? {
        None => Err(mismatch(format!("the {header} header is missing"))),
        Some(got) if got != want => {
            Err(mismatch(format!("the {header} header says {got:?}, the body {want:?}")))
        }
        Some(_) => Ok(()),
    }
}

/// `Mcp-Param-*` of a tool's call, against its arguments.
pub fn check_params(
    headers: &HeaderMap,
    target: &Target,
    arguments: Option<&RawValue>,
) -> Result<(), Failure> {
    for (path, name) in &target.header_params {
        let header = param_header(name);
        let body = value_at(arguments, path);
        match (decoded(headers, &header)?, body) {
            (None, None) => {}
            (None, Some(_)) => return Err(mismatch(format!("the {header} header is missing"))),
            (Some(_), None) => {
                return Err(mismatch(format!("the {header} header is set, the argument is not")));
            }
            (Some(got), Some(want)) if got == want || is_same_number(&got, &want) => {}
            (Some(got), Some(want)) => {
                return Err(mismatch(format!("the {header} header says {got:?}, the body {want:?}")));
            }
        }
    }
    Ok(())
}

/// The headers of a request to a modern upstream: with the name that the upstream knows.
pub fn outgoing(
    method: Forwarded,
    target: &Target,
    arguments: Option<&RawValue>,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::with_capacity(2 + target.header_params.len());
    headers.push((HeaderName::from_static(METHOD), HeaderValue::from_static(method.method())));
    if method != Forwarded::Complete {
        headers.push((HeaderName::from_static(NAME), encode(&target.name)));
    }
    for (path, name) in &target.header_params {
        if let (Some(value), Ok(header)) =
            (value_at(arguments, path), HeaderName::try_from(param_header(name)))
        {
            headers.push((header, encode(&value)));
        }
    }
    headers
}

fn param_header(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    if name.starts_with(PARAM_PREFIX) { name } else { format!("{PARAM_PREFIX}{name}") }
}

/// The argument at `path` as a header shows it: strings as they are, numbers and booleans as JSON has them. None when it
/// is absent, null, or of another type.
fn value_at<'a>(arguments: Option<&'a RawValue>, path: &[String]) -> Option<Cow<'a, str>> {
    let mut value = arguments?;
    for key in path {
        value = member(value, key)?;
    }
    match value.get().as_bytes().first()? {
        b'"' => string(value),
        b't' | b'f' | b'-' | b'0'..=b'9' => Some(Cow::Borrowed(value.get())),
        _ => None,
    }
}

fn is_same_number(a: &str, b: &str) -> bool {
    // Integers up to 2^53 - 1 are all that may be mirrored, so an f64 tells them apart.
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
    matches!((number(a), number(b)), (Some(a), Some(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::fixture;
    use proptest::prelude::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::try_from(*name).expect("name"), value.parse().expect("value"));
        }
        headers
    }

    #[test]
    fn method_and_name_must_say_what_the_body_says() {
        for (pairs, name, want) in [
            (&[("Mcp-Method", "tools/call"), ("Mcp-Name", " echo ")][..], Some("echo"), true),
            (&[("Mcp-Method", "tools/call"), ("Mcp-Name", "=?base64?ZWNobw==?=")], Some("echo"), true),
            (&[("Mcp-Method", "tools/call"), ("Mcp-Name", "=?base64?ZWNobw?=")], Some("echo"), false),
            (
                &[("Mcp-Method", "tools/call"), ("Mcp-Name", "=?BASE64?ZWNobw==?=")],
                Some("=?BASE64?ZWNobw==?="),
                true,
            ),
            (&[("Mcp-Method", "tools/call"), ("Mcp-Name", "Echo")], Some("echo"), false),
            (&[("Mcp-Method", "tools/call")], Some("echo"), false),
            (&[("Mcp-Method", "tools/call"), ("Mcp-Method", "tools/call")], None, false),
            (&[("Mcp-Method", "Tools/Call")], None, false),
            (&[("Mcp-Method", "tools/call")], None, true),
            (&[], None, false),
        ] {
            let headers = headers(pairs);
            let method = check_mirror(&headers, METHOD, "tools/call").is_ok();
            let name = name.is_none_or(|name| check_mirror(&headers, NAME, name).is_ok());
            assert_eq!(method && name, want, "{pairs:?}");
        }
    }

    #[test]
    fn mirrored_arguments_must_say_what_the_body_says() {
        let target = Target {
            upstream: fixture::entry("http://127.0.0.1:1/"),
            name: "t".into(),
            header_params: vec![
                (vec!["region".into()], "Region".into()),
                (vec!["o".into(), "n".into()], "N".into()),
            ],
        };
        for (pairs, arguments, want) in [
            (&[("mcp-param-region", "eu"), ("mcp-param-n", "5")][..], r#"{"region":"eu","o":{"n":5}}"#, true),
            (&[("mcp-param-region", "eu"), ("mcp-param-n", "5")], r#"{"region":"eu","o":{"n":5.0}}"#, true),
            (&[("mcp-param-region", "us")], r#"{"region":"eu"}"#, false),
            (&[], r#"{"region":"eu"}"#, false),
            (&[("mcp-param-region", "eu")], r#"{"region":null}"#, false),
            (&[("mcp-param-n", "6")], r#"{"o":{"n":5}}"#, false),
            (&[], r#"{"region":null,"x":1}"#, true),
            (&[], "{}", true),
        ] {
            let raw: &RawValue = serde_json::from_str(arguments).expect("JSON");
            assert_eq!(
                check_params(&headers(pairs), &target, Some(raw)).is_ok(),
                want,
                "{pairs:?} {arguments}"
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_is_encoded_is_read_back(text in ".{0,40}") {
            let mut headers = HeaderMap::new();
            headers.insert(NAME, encode(&text));
            prop_assert_eq!(decoded(&headers, NAME).expect("reads").expect("there"), text);
        }
    }
}
