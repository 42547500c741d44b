//! `/v1/tools`, `/v1/resources`, `/v1/prompts`: what upstreams offer, to read.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::Collection;
use super::paging::Query;
use super::reply::ApiError;
use super::shape::{AUDIT, Shape};
use crate::answer::json_of;
use crate::body::Body;
use crate::catalog::Kind;
use crate::catalog::compile::prefixed;
use crate::catalog::slug::slug;
use crate::catalog::splice::Object;
use crate::gateway::Shared;
use crate::registry::RegistryError;
use crate::registry::records::{self, ItemRecord, Page};
use crate::upstream::masked::masked;

/// The rest of the path at which resource templates are listed.
pub const TEMPLATES: &str = "templates/list";

/// Kind of the items of a collection, and the word for one of them.
fn kind(collection: Collection) -> (Kind, &'static str) {
    match collection {
        Collection::Resources => (Kind::Resources, "Resource"),
        Collection::Prompts => (Kind::Prompts, "Prompt"),
        Collection::Tools | Collection::Gateways | Collection::Servers => (Kind::Tools, "Tool"),
    }
}

/// Lists items.
pub async fn list(
    gateway: &Shared,
    collection: Collection,
    query: &Query,
) -> Result<Response<Body>, ApiError> {
    let (kind, _) = kind(collection);
    let mut connection = gateway.registry.pool().await?.acquire().await?;
    let rows = records::items(&mut connection, kind, query.gateway_id.as_deref(), query.page()).await?;
    let separator = gateway.registry.separator();
    let rows = rows
        .iter()
        .map(|row| Ok((row.seq, shape(kind, row, separator)?)))
        .collect::<Result<_, ApiError>>()?;
    Ok(query.answer(collection.as_str(), rows))
}

/// Shows one item.
pub async fn get(gateway: &Shared, collection: Collection, id: &str) -> Result<Response<Body>, ApiError> {
    let (kind, what) = kind(collection);
    let mut connection = gateway.registry.pool().await?.acquire().await?;
    let record = records::item(&mut connection, kind, id).await?;
    let record = record.ok_or_else(|| ApiError::NotFound { what, id: id.to_owned() })?;
    Ok(json_of(StatusCode::OK, &shape(kind, &record, gateway.registry.separator())?))
}

/// Lists resource templates, in MCP's form and with the ids that a virtual server needs.
pub async fn templates(gateway: &Shared) -> Result<Response<Body>, ApiError> {
    let mut connection = gateway.registry.pool().await?.acquire().await?;
    let all = Page { after: 0, limit: i64::MAX };
    let rows = records::items(&mut connection, Kind::Templates, None, all).await?;
    let separator = gateway.registry.separator();
    let shapes = rows
        .iter()
        .map(|row| shape(Kind::Templates, row, separator))
        .collect::<Result<Vec<_>, ApiError>>()?;
    let mut answer = Shape::default();
    answer.put("resourceTemplates", shapes);
    Ok(json_of(StatusCode::OK, &answer))
}

/// ContextForge's `ToolRead`, `ResourceRead` or `PromptRead`.
fn shape(kind: Kind, record: &ItemRecord, separator: &str) -> Result<Shape, ApiError> {
    let definition = Object::parse(&record.definition)
        .map_err(|_| ApiError::from(RegistryError::Damaged("definition")))?;
    let mut shape = Shape::default();
    shape.put("id", &record.id).put("gatewayId", &record.gateway_id).put("gatewaySlug", &record.gateway_slug);
    match kind {
        Kind::Tools => tool(&mut shape, record, &definition, separator),
        Kind::Prompts => prompt(&mut shape, record, &definition, separator),
        Kind::Resources | Kind::Templates => resource(&mut shape, kind, record, &definition),
    }
    shape
        .raw("title", definition.get("title"))
        .raw("description", definition.get("description"))
        .raw("_meta", definition.get("_meta"))
        .put("enabled", true)
        .put("tags", json!([]))
        .put("visibility", "public")
        .put("version", 1)
        .put("createdBy", &record.created_by)
        .put("createdAt", &record.created_at)
        .put("updatedAt", &record.updated_at)
        .nulls(&AUDIT)
        .nulls(&["metrics"]);
    Ok(shape)
}

/// The names of tools and prompts: prefixed, the upstream's, and in letters for people.
fn names(shape: &mut Shape, record: &ItemRecord, definition: &Object<'_>, separator: &str) {
    let original = &record.item_key;
    shape
        .put("name", prefixed(&record.gateway_slug, separator, original))
        .put("originalName", original)
        .put("customName", original)
        .put("customNameSlug", slug(original, separator).unwrap_or_else(|| original.clone()))
        .put("displayName", definition.string("title").unwrap_or_else(|| original.clone()));
}

fn tool(shape: &mut Shape, record: &ItemRecord, definition: &Object<'_>, separator: &str) {
    names(shape, record, definition, separator);
    shape
        .put("url", masked(&record.gateway_url))
        .put("integrationType", "MCP")
        .put("requestType", "STREAMABLEHTTP")
        .raw("originalDescription", definition.get("description"))
        .raw("inputSchema", Some(definition.get("inputSchema").unwrap_or("{}")))
        .raw("outputSchema", definition.get("outputSchema"))
        .raw("annotations", Some(definition.get("annotations").unwrap_or("{}")))
        .put("headers", json!({}))
        .put("jsonpathFilter", "")
        .put("deprecated", false)
        .put("reachable", true)
        .nulls(&["auth", "executionCount", "extensionMetadata", "grpcServiceId", "baseUrl", "pathTemplate"])
        .nulls(&["queryMapping", "headerMapping", "timeoutMs", "exposePassthrough", "allowlist"])
        .nulls(&["pluginChainPre", "pluginChainPost"]);
}

fn prompt(shape: &mut Shape, record: &ItemRecord, definition: &Object<'_>, separator: &str) {
    names(shape, record, definition, separator);
    shape.put("template", "").raw("arguments", Some(definition.get("arguments").unwrap_or("[]")));
}

fn resource(shape: &mut Shape, kind: Kind, record: &ItemRecord, definition: &Object<'_>) {
    let template = kind == Kind::Templates;
    shape
        .put("uri", &record.item_key)
        .put("uriTemplate", template.then_some(&record.item_key))
        .raw("name", Some(definition.get("name").unwrap_or("\"\"")))
        .raw("mimeType", definition.get("mimeType"))
        .raw("size", definition.get("size"))
        .raw("annotations", definition.get("annotations"))
        .put("extensionMetadata", Value::Null);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_has_contextforges_fields_and_its_own_schema_to_the_byte() {
        let record = ItemRecord {
            seq: 1,
            id: "i".into(),
            gateway_id: "g".into(),
            gateway_slug: "up".into(),
            gateway_url: "http://u/".into(),
            created_by: "me".into(),
            item_key: "do it".into(),
            definition: r#"{"name":"do it","inputSchema":{ "max":1.0e400 }}"#.into(),
            created_at: "t".into(),
            updated_at: "t".into(),
        };
        let text = serde_json::to_string(&shape(Kind::Tools, &record, "__").expect("shape")).expect("json");
        assert!(text.contains(r#""inputSchema":{ "max":1.0e400 }"#), "{text}");
        assert!(text.contains(
            r#""name":"up__do it","originalName":"do it","customName":"do it","customNameSlug":"do-it""#
        ));
        let names: Vec<&str> = text.split(r#"":"#).filter_map(|part| part.rsplit('"').next()).collect();
        let required = [
            "url",
            "description",
            "requestType",
            "integrationType",
            "headers",
            "annotations",
            "jsonpathFilter",
            "auth",
            "createdAt",
            "updatedAt",
            "enabled",
            "deprecated",
            "reachable",
            "gatewayId",
        ];
        for field in required {
            assert_eq!(names.iter().filter(|name| **name == field).count(), 1, "{field} in {text}");
        }
    }
}
