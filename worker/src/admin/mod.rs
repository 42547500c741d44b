//! The registry API: JSON with ContextForge's paths and field names.
//!
//! Invariant: a change is answered when it is committed, compiled and published; workers have it by then, or within the
//! promised 100 ms. What this version does not do is refused with a text that says so, never accepted and ignored.

mod fields;
mod gateway_input;
mod gateways;
mod items;
mod paging;
mod reply;
mod server_input;
mod servers;
mod shape;

use std::rc::Rc;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response};

use crate::auth::Principal;
use crate::body::Body;
use crate::gateway::Shared;
use crate::lifecycle::task;
use crate::registry::Registry;
use crate::registry::change::ChangeError;
use crate::registry::publish::{everywhere, publish};
use reply::ApiError;

/// What a path of the API names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiRoute {
    /// The collection.
    pub collection: Collection,
    /// What stands behind the collection, if anything: an id, or the rest of a longer path.
    pub id: Option<String>,
}

impl ApiRoute {
    /// The methods of this path, as the `Allow` header has them.
    pub fn methods(&self) -> &'static str {
        self.collection.methods(self.id.is_some())
    }
}

/// The collections of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collection {
    /// Upstreams.
    Gateways,
    /// Their tools.
    Tools,
    /// Virtual servers.
    Servers,
    /// Their resources.
    Resources,
    /// Their prompts.
    Prompts,
}

impl Collection {
    /// The word in paths.
    pub fn as_str(self) -> &'static str {
        match self {
            Collection::Gateways => "gateways",
            Collection::Tools => "tools",
            Collection::Servers => "servers",
            Collection::Resources => "resources",
            Collection::Prompts => "prompts",
        }
    }

    /// The methods of a path of this collection, as the `Allow` header has them.
    fn methods(self, has_id: bool) -> &'static str {
        match (self, has_id) {
            (Collection::Gateways | Collection::Servers, false) => "GET, HEAD, POST",
            (Collection::Gateways | Collection::Servers, true) => "GET, HEAD, DELETE",
            _ => "GET, HEAD",
        }
    }
}

/// Answers a request of the registry API that the edge has authenticated and found to be allowed.
pub async fn serve(
    gateway: &Shared,
    principal: Rc<Principal>,
    route: ApiRoute,
    head: Parts,
    body: Bytes,
) -> Response<Body> {
    match answer(gateway, &principal, &route, &head, &body).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn answer(
    gateway: &Shared,
    principal: &Principal,
    route: &ApiRoute,
    head: &Parts,
    body: &[u8],
) -> Result<Response<Body>, ApiError> {
    let ApiRoute { collection, id } = route;
    check_path(*collection, id.as_deref(), &head.method)?;
    let page = paging::Query::parse(head.uri.query())?;
    match (collection, &head.method, id) {
        (Collection::Gateways, &Method::POST, _) => gateways::create(gateway, principal, body).await,
        (Collection::Gateways, &Method::DELETE, Some(id)) => gateways::delete(gateway, id).await,
        (Collection::Gateways, _, Some(id)) => gateways::get(gateway, id).await,
        (Collection::Gateways, _, None) => gateways::list(gateway, &page).await,
        (Collection::Servers, &Method::POST, _) => servers::create(gateway, principal, body).await,
        (Collection::Servers, &Method::DELETE, Some(id)) => servers::delete(gateway, id).await,
        (Collection::Servers, _, Some(id)) => servers::get(gateway, id).await,
        (Collection::Servers, _, None) => servers::list(gateway, &page).await,
        (Collection::Resources, _, Some(id)) if id == items::TEMPLATES => items::templates(gateway).await,
        (collection, _, Some(id)) => items::get(gateway, *collection, id).await,
        (collection, _, None) => items::list(gateway, *collection, &page).await,
    }
}

/// Refuses longer paths and methods that do not exist, with what to do instead.
fn check_path(collection: Collection, id: Option<&str>, method: &Method) -> Result<(), ApiError> {
    let name = collection.as_str();
    let template_list = collection == Collection::Resources && id == Some(items::TEMPLATES);
    if let Some(id) = id.filter(|id| id.contains('/') && !template_list) {
        return Err(ApiError::NoSuchPath { collection: name, rest: id.to_owned() });
    }
    let allow = collection.methods(id.is_some());
    if allow.split(", ").any(|allowed| allowed == method.as_str()) {
        return Ok(());
    }
    let hint = match (collection, method) {
        (Collection::Gateways | Collection::Servers, &Method::PUT | &Method::PATCH) => {
            "changing an entry is not in this version: DELETE it and POST it anew"
        }
        (Collection::Tools | Collection::Resources | Collection::Prompts, _) => {
            "these come from upstreams: register one with POST /v1/gateways, remove one with DELETE /v1/gateways/{id}"
        }
        _ => "see the Allow header for what is",
    };
    Err(ApiError::MethodNotAllowed { method: method.clone(), collection: name, allow, hint })
}

/// Makes a change in a task of its own: a client that hangs up neither takes back a commit nor keeps it from the
/// workers. Returns when every worker serves it, or 100 ms later.
async fn apply<F>(gateway: &Shared, change: F) -> Result<(), ApiError>
where
    F: AsyncFnOnce(&Registry, u64) -> Result<crate::catalog::compile::Compiled, ChangeError> + 'static,
{
    let gateway = Rc::clone(gateway);
    let changed = task::spawn("registry change", async move {
        let turn = gateway.registry.turn().await?;
        let served = gateway.catalog.load().generation;
        let compiled = change(&gateway.registry, served).await?;
        if let Err(error) = publish(&gateway, &compiled) {
            tracing::error!(%error, generation = compiled.generation, "a change was committed but not yet published");
        }
        drop(turn);
        if !everywhere(&gateway, compiled.generation).await {
            tracing::info!(
                generation = compiled.generation,
                "a worker serves the change later than within 100 ms"
            );
        }
        Ok::<_, ChangeError>(())
    });
    changed.await.map_err(|_| ApiError::Interrupted)?.map_err(ApiError::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_methods_that_do_not_exist_say_what_does() {
        let status = |collection, id: Option<&str>, method: &str| {
            let method = Method::from_bytes(method.as_bytes()).expect("method");
            check_path(collection, id, &method).err().map(|error| error.into_response().status().as_u16())
        };
        for (collection, id, method, want) in [
            (Collection::Gateways, None, "POST", None),
            (Collection::Gateways, Some("x"), "DELETE", None),
            (Collection::Gateways, Some("x"), "PUT", Some(405)),
            (Collection::Gateways, None, "DELETE", Some(405)),
            (Collection::Gateways, Some("x/state"), "POST", Some(404)),
            (Collection::Tools, None, "POST", Some(405)),
            (Collection::Resources, Some("templates/list"), "GET", None),
            (Collection::Tools, Some("templates/list"), "GET", Some(404)),
            (Collection::Prompts, Some("x"), "HEAD", None),
        ] {
            assert_eq!(status(collection, id, method), want, "{method} {collection:?} {id:?}");
        }
    }
}
