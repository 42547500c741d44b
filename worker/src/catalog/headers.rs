//! `x-mcp-header`: parameters of a tool that a modern client mirrors in `Mcp-Param-*` headers.
//!
//! A client that speaks HTTP must drop a tool whose annotations break the rules (2026-07-28, transports, custom
//! headers): the name is a non-empty token (RFC 9110), unique without regard to case; the parameter is an integer, a
//! string or a boolean; it is reached through `properties` only.

use serde_json::{Map, Value};

/// The annotation's key.
const ANNOTATION: &str = "x-mcp-header";
/// Keywords whose value is a schema or an array of schemas.
const SCHEMAS: [&str; 16] = [
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "oneOf",
    "prefixItems",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Keywords whose value is an object of schemas; `properties` is the one that an annotation may be reached through.
const NAMED_SCHEMAS: [&str; 4] = ["$defs", "definitions", "dependentSchemas", "patternProperties"];

/// A mirrored parameter: the path of properties that leads to it, and the name of its header without `Mcp-Param-`.
pub type HeaderParam = (Vec<String>, String);

/// Why a tool's annotations are not valid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAnnotation {
    /// The input schema is no JSON.
    #[error("the input schema is not a JSON object")]
    Schema,
    /// The value is not a token.
    #[error("{0}: {ANNOTATION} must be a non-empty HTTP token")]
    NotAToken(String),
    /// Two parameters want the same header.
    #[error("{0}: {ANNOTATION} is used twice")]
    Twice(String),
    /// The parameter's type cannot stand in a header.
    #[error("{0}: {ANNOTATION} is only for integer, string and boolean")]
    Type(String),
    /// It stands where no client looks for it.
    #[error("{ANNOTATION} stands outside a chain of properties")]
    Unreachable,
}

/// The parameters that a tool with this input schema mirrors.
pub fn header_params(input_schema: &str) -> Result<Vec<HeaderParam>, InvalidAnnotation> {
    // Nearly no tool has the annotation; an escaped spelling of it has a backslash.
    if !input_schema.contains(ANNOTATION) && !input_schema.contains("\\u") {
        return Ok(Vec::new());
    }
    let schema: Map<String, Value> =
        serde_json::from_str(input_schema).map_err(|_| InvalidAnnotation::Schema)?;
    let mut found = Vec::new();
    if schema.contains_key(ANNOTATION) {
        return Err(InvalidAnnotation::Unreachable);
    }
    children(&schema, &mut Vec::new(), &mut found)?;
    Ok(found)
}

fn children(
    schema: &Map<String, Value>,
    path: &mut Vec<String>,
    found: &mut Vec<HeaderParam>,
) -> Result<(), InvalidAnnotation> {
    if let Some(Value::Object(properties)) = schema.get("properties") {
        for (name, property) in properties {
            let Value::Object(property) = property else { continue };
            path.push(name.clone());
            if let Some(header) = property.get(ANNOTATION) {
                found.push((path.clone(), header_name(header, property, path, found)?));
            }
            children(property, path, found)?;
            path.pop();
        }
    }
    let elsewhere = SCHEMAS.iter().filter_map(|keyword| schema.get(*keyword)).flat_map(|value| match value {
        Value::Array(schemas) => schemas.iter().collect(),
        schema => vec![schema],
    });
    let named =
        NAMED_SCHEMAS.iter().filter_map(|keyword| schema.get(*keyword)?.as_object()).flat_map(Map::values);
    if elsewhere.chain(named).any(annotated) { Err(InvalidAnnotation::Unreachable) } else { Ok(()) }
}

/// True when a schema that is not reached through properties, or one below it, has the annotation.
fn annotated(schema: &Value) -> bool {
    let Value::Object(schema) = schema else { return false };
    schema.contains_key(ANNOTATION)
        || SCHEMAS.iter().filter_map(|keyword| schema.get(*keyword)).any(|value| match value {
            Value::Array(schemas) => schemas.iter().any(annotated),
            schema => annotated(schema),
        })
        || NAMED_SCHEMAS
            .iter()
            .chain(&["properties"])
            .filter_map(|keyword| schema.get(*keyword)?.as_object())
            .any(|named| named.values().any(annotated))
}

fn header_name(
    header: &Value,
    property: &Map<String, Value>,
    path: &[String],
    found: &[HeaderParam],
) -> Result<String, InvalidAnnotation> {
    let at = || path.join(".");
    let name =
        header.as_str().filter(|name| is_token(name)).ok_or_else(|| InvalidAnnotation::NotAToken(at()))?;
    if found.iter().any(|(_, other)| other.eq_ignore_ascii_case(name)) {
        return Err(InvalidAnnotation::Twice(at()));
    }
    match property.get("type").and_then(Value::as_str) {
        Some("integer" | "string" | "boolean") => Ok(name.to_owned()),
        _ => Err(InvalidAnnotation::Type(at())),
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_annotations_are_found_with_their_paths() {
        let schema = r#"{"type":"object","properties":{
            "region":{"type":"string","x-mcp-header":"Region"},
            "opts":{"type":"object","properties":{"dry":{"type":"boolean","x-mcp-header":"Dry-Run"}}},
            "x-mcp-header":{"type":"string","default":{"x-mcp-header":1}}}}"#;
        let want = vec![
            (vec!["opts".to_owned(), "dry".to_owned()], "Dry-Run".to_owned()),
            (vec!["region".to_owned()], "Region".to_owned()),
        ];
        let mut got = header_params(schema).expect("valid");
        got.sort();
        assert_eq!(got, want);
        assert_eq!(header_params(r#"{"type":"object"}"#), Ok(vec![]));
    }

    #[test]
    fn invalid_annotations_are_named() {
        let property = |p: &str| format!(r#"{{"properties":{{"a":{p}}}}}"#);
        let at = || "a".to_owned();
        for (schema, want) in [
            (property(r#"{"type":"string","x-mcp-header":""}"#), InvalidAnnotation::NotAToken(at())),
            (property(r#"{"type":"string","x-mcp-header":"a b"}"#), InvalidAnnotation::NotAToken(at())),
            (property(r#"{"type":"string","x-mcp-header":7}"#), InvalidAnnotation::NotAToken(at())),
            (property(r#"{"type":"number","x-mcp-header":"X"}"#), InvalidAnnotation::Type(at())),
            (property(r#"{"x-mcp-header":"X"}"#), InvalidAnnotation::Type(at())),
            (property(r#"{"items":{"type":"string","x-mcp-header":"X"}}"#), InvalidAnnotation::Unreachable),
            (r#"{"anyOf":[{"properties":{"a":{"x-mcp-header":"X"}}}]}"#.into(), InvalidAnnotation::Unreachable),
            (r#"{"$defs":{"d":{"x\u002dmcp-header":"X"}}}"#.into(), InvalidAnnotation::Unreachable),
            (r#"{"x-mcp-header":"X"}"#.into(), InvalidAnnotation::Unreachable),
            (
                r#"{"properties":{"a":{"type":"string","x-mcp-header":"X"},"b":{"type":"string","x-mcp-header":"x"}}}"#
                    .into(),
                InvalidAnnotation::Twice("b".into()),
            ),
        ] {
            assert_eq!(header_params(&schema), Err(want), "{schema}");
        }
    }
}
