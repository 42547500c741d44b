//! `/v1/gateways`: register, list, show and remove upstreams.

use std::net::IpAddr;
use std::time::Duration;

use http::{Response, StatusCode};
use serde_json::json;
use url::{Host, Url};

use super::apply;
use super::gateway_input;
use super::paging::Query;
use super::reply::{ApiError, deleted};
use super::shape::{AUDIT, Shape};
use crate::answer::json_of;
use crate::auth::Principal;
use crate::body::Body;
use crate::gateway::Shared;
use crate::registry::change::{self, ChangeError, Offer};
use crate::registry::credentials::Credentials;
use crate::registry::records::{self, GatewayRecord};
use crate::upstream::address;
use crate::upstream::fetch::{FetchRequest, Fetched, fetch};
use crate::upstream::masked::{MASK, masked};

/// How long an upstream may take to give its whole catalog; ContextForge's clients wait a minute.
const FETCH_DEADLINE: Duration = Duration::from_secs(30);
/// How long a name server may take.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);

/// Registers an upstream: checks the request, asks the upstream, then changes the registry.
pub async fn create(
    gateway: &Shared,
    principal: &Principal,
    body: &[u8],
) -> Result<Response<Body>, ApiError> {
    let registry = &gateway.registry;
    let new = gateway_input::parse(body, &gateway.settings, registry.separator(), &principal.subject)?;
    // Asked now, so that a taken name does not wait for the upstream, and again in the change.
    if let Some(other) = {
        let mut connection = registry.pool().await?.acquire().await?;
        change::gateway_holder(&mut connection, &new.name, &new.slug).await?
    } {
        return Err(ChangeError::GatewayTaken { name: new.name, slug: new.slug, other }.into());
    }
    let _permit = registry.begin_registration().await.ok_or(ApiError::Busy)?;
    check_address(gateway, &new.url).await?;
    let request =
        FetchRequest { url: new.url.clone(), headers: new.credentials.headers(), deadline: FETCH_DEADLINE };
    let offer = match fetch(&gateway.upstreams, request).await {
        Ok(fetched) => offer(fetched),
        Err(cause) => return Err(ApiError::unreachable(&new.url, &cause.to_string())),
    };
    let id = new.id.clone();
    apply(gateway, async move |registry, served| change::add_gateway(registry, served, &new, &offer).await)
        .await?;
    get(gateway, &id).await
}

fn offer(fetched: Fetched) -> Offer {
    Offer {
        era: fetched.era,
        server_info: fetched.server_info,
        capabilities: fetched.capabilities,
        instructions: fetched.instructions,
        items: [fetched.tools, fetched.resources, fetched.templates, fetched.prompts],
    }
}

/// Resolves the upstream's name and applies the SSRF rule to every address. The client that connects applies it again:
/// a name server may answer differently next time.
async fn check_address(gateway: &Shared, url: &str) -> Result<(), ApiError> {
    let unreachable = |cause: String| ApiError::unreachable(url, &cause);
    let parsed = Url::parse(url).map_err(|error| unreachable(error.to_string()))?;
    let (Some(Host::Domain(host)), Some(port)) = (parsed.host(), parsed.port_or_known_default()) else {
        return Ok(());
    };
    let lookup = tokio::time::timeout(RESOLVE_DEADLINE, tokio::net::lookup_host((host, port))).await;
    let addresses: Vec<IpAddr> = match lookup {
        Err(_) => return Err(unreachable(format!("{host} was not resolved within {RESOLVE_DEADLINE:?}"))),
        Ok(Err(error)) => return Err(unreachable(format!("{host} cannot be resolved: {error}"))),
        Ok(Ok(addresses)) => addresses.map(|address| address.ip()).collect(),
    };
    let allowed = |ip: &IpAddr| address::allowed(*ip, &gateway.settings);
    match addresses.iter().find(|ip| !allowed(ip)) {
        Some(ip) if !addresses.iter().any(allowed) => {
            Err(gateway_input::refused_address(*ip, &gateway.settings))
        }
        _ => Ok(()),
    }
}

/// Shows one upstream.
pub async fn get(gateway: &Shared, id: &str) -> Result<Response<Body>, ApiError> {
    let mut connection = gateway.registry.pool().await?.acquire().await?;
    let record = records::gateway(&mut connection, id).await?;
    let record = record.ok_or_else(|| ApiError::NotFound { what: "Gateway", id: id.to_owned() })?;
    Ok(json_of(StatusCode::OK, &shape(&record)?))
}

/// Lists upstreams.
pub async fn list(gateway: &Shared, query: &Query) -> Result<Response<Body>, ApiError> {
    let mut connection = gateway.registry.pool().await?.acquire().await?;
    let rows = records::gateways(&mut connection, query.page()).await?;
    let rows = rows.iter().map(|row| Ok((row.seq, shape(row)?))).collect::<Result<_, ApiError>>()?;
    Ok(query.answer("gateways", rows))
}

/// Removes an upstream.
pub async fn delete(gateway: &Shared, id: &str) -> Result<Response<Body>, ApiError> {
    let owned = id.to_owned();
    apply(gateway, async move |registry, served| change::remove_gateway(registry, served, &owned).await)
        .await?;
    Ok(deleted("Gateway", id))
}

/// ContextForge's `GatewayRead`.
fn shape(record: &GatewayRecord) -> Result<Shape, ApiError> {
    let mut shape = Shape::default();
    shape
        .put("id", &record.id)
        .put("name", &record.name)
        .put("slug", &record.slug)
        .put("url", masked(&record.url))
        .put("description", &record.description)
        .put("transport", &record.transport)
        .raw("capabilities", Some(&record.capabilities))
        .put("status", "active")
        .put("enabled", record.enabled)
        .put("reachable", record.reachable)
        .put("lastSeen", &record.last_seen)
        .put("lastRefreshAt", &record.updated_at)
        .put("registrationAttempts", 1)
        .put("toolCount", record.tool_count)
        .put("resourceCount", record.resource_count)
        .put("promptCount", record.prompt_count)
        .raw("skippedTools", Some(&record.skipped_tools))
        .put("gatewayMode", "cache")
        .put("visibility", &record.visibility)
        .raw("tags", Some(&record.tags))
        .put("passthroughHeaders", json!([]))
        .put("version", record.version)
        .put("createdBy", &record.created_by)
        .put("createdAt", &record.created_at)
        .put("updatedAt", &record.updated_at);
    credentials(&mut shape, &record.credentials()?);
    shape.nulls(&AUDIT).nulls(&[
        "statusMessage",
        "nextRetryAt",
        "lastError",
        "lifecycleClaimedBy",
        "lifecycleClaimedAt",
        "lifecycleClaimExpiresAt",
        "caCertificate",
        "caCertificateSig",
        "signingAlgorithm",
        "clientCert",
        "clientKey",
        "oauthConfig",
        "authQueryParamKey",
        "authQueryParamValueMasked",
        "refreshIntervalSeconds",
        "identityPropagation",
    ]);
    Ok(shape)
}

/// Says which credentials there are; secrets as stars, and never unmasked.
fn credentials(shape: &mut Shape, credentials: &Credentials) {
    shape.put("authType", credentials.auth_type());
    let masked = credentials.auth_type().map(|_| MASK);
    shape.put("authValue", masked);
    let (mut token, mut username, mut password, mut headers) = (None, None, None, None);
    match credentials {
        Credentials::None => {}
        Credentials::Bearer { .. } => token = masked,
        Credentials::Basic { username: name, .. } => (username, password) = (Some(name), masked),
        Credentials::AuthHeaders { headers: pairs } => headers = Some(pairs),
    }
    let first = headers.and_then(|pairs| pairs.first()).map(|(key, _)| key);
    let pairs = headers
        .map(|pairs| pairs.iter().map(|(key, _)| json!({ "key": key, "value": MASK })).collect::<Vec<_>>());
    shape
        .put("authToken", token)
        .put("authUsername", username)
        .put("authPassword", password)
        .put("authHeaders", pairs)
        .put("authHeaderKey", first)
        .put("authHeaderValue", first.map(|_| MASK))
        .nulls(&[
            "authTokenUnmasked",
            "authPasswordUnmasked",
            "authHeaderValueUnmasked",
            "authHeadersUnmasked",
        ]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        for secret in [
            Credentials::Bearer { token: "s3cret".into() },
            Credentials::Basic { username: "user".into(), password: "s3cret".into() },
            Credentials::AuthHeaders { headers: vec![("x-key".into(), "s3cret".into())] },
        ] {
            let mut shape = Shape::default();
            credentials(&mut shape, &secret);
            let text = serde_json::to_string(&shape).expect("json");
            assert!(!text.contains("s3cret") && text.contains(MASK), "{text}");
        }
    }
}
