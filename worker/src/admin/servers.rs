//! `/v1/servers`: make, list, show and remove virtual servers.

use http::{Response, StatusCode};
use serde_json::json;
use sqlx::SqliteConnection;

use super::apply;
use super::paging::Query;
use super::reply::{ApiError, deleted};
use super::server_input;
use super::shape::{AUDIT, Shape};
use crate::answer::json_of;
use crate::auth::Principal;
use crate::body::Body;
use crate::catalog::Kind;
use crate::catalog::compile::prefixed;
use crate::gateway::Shared;
use crate::registry::change;
use crate::registry::records::{self, AssociationRecord, ServerRecord};

/// Makes a virtual server.
pub async fn create(
    gateway: &Shared,
    principal: &Principal,
    body: &[u8],
) -> Result<Response<Body>, ApiError> {
    let new = server_input::parse(body, &principal.subject)?;
    let id = new.id.clone();
    apply(gateway, async move |registry, served| change::add_server(registry, served, &new).await).await?;
    let mut response = get(gateway, &id).await?;
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

/// Shows one.
pub async fn get(gateway: &Shared, id: &str) -> Result<Response<Body>, ApiError> {
    let mut connection = gateway.registry.pool().await?.acquire().await?;
    let record = records::server(&mut connection, id).await?;
    let record = record.ok_or_else(|| ApiError::NotFound { what: "Server", id: id.to_owned() })?;
    let shape = shape(&mut connection, &record, gateway.registry.separator()).await?;
    Ok(json_of(StatusCode::OK, &shape))
}

/// Lists them.
pub async fn list(gateway: &Shared, query: &Query) -> Result<Response<Body>, ApiError> {
    let mut connection = gateway.registry.pool().await?.acquire().await?;
    let mut rows = Vec::new();
    for record in records::servers(&mut connection, query.page()).await? {
        rows.push((record.seq, shape(&mut connection, &record, gateway.registry.separator()).await?));
    }
    Ok(query.answer("servers", rows))
}

/// Removes one.
pub async fn delete(gateway: &Shared, id: &str) -> Result<Response<Body>, ApiError> {
    let owned = id.to_owned();
    apply(gateway, async move |registry, served| change::remove_server(registry, served, &owned).await)
        .await?;
    Ok(deleted("Server", id))
}

/// ContextForge's `ServerRead`.
async fn shape(
    connection: &mut SqliteConnection,
    record: &ServerRecord,
    separator: &str,
) -> Result<Shape, ApiError> {
    let tools = records::associations(connection, Kind::Tools, &record.id).await?;
    let mut resources = records::associations(connection, Kind::Resources, &record.id).await?;
    resources.extend(records::associations(connection, Kind::Templates, &record.id).await?);
    let prompts = records::associations(connection, Kind::Prompts, &record.id).await?;
    let name = |item: &AssociationRecord| {
        let federated = || prefixed(&item.gateway_slug, separator, &item.item_key);
        item.exposed_name.clone().unwrap_or_else(federated)
    };
    let ids = |items: &[AssociationRecord]| items.iter().map(|item| item.item_id.clone()).collect::<Vec<_>>();
    let mut shape = Shape::default();
    shape
        .put("id", &record.id)
        .put("name", &record.name)
        .put("description", &record.description)
        .put("icon", &record.icon)
        .put("enabled", record.enabled)
        .put("associatedTools", tools.iter().map(name).collect::<Vec<_>>())
        .put("associatedToolIds", ids(&tools))
        .put("associatedResources", ids(&resources))
        .put("associatedPrompts", ids(&prompts))
        .put("associatedA2aAgents", json!([]))
        .raw("tags", Some(&record.tags))
        .put("visibility", &record.visibility)
        .put("version", record.version)
        .put("oauthEnabled", false)
        .put("createdBy", &record.created_by)
        .put("createdAt", &record.created_at)
        .put("updatedAt", &record.updated_at)
        .nulls(&AUDIT)
        .nulls(&["oauthConfig", "metrics"]);
    Ok(shape)
}
