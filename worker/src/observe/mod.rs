//! What operators see: `/status` and `/metrics`. Every worker renders the numbers of all, from shared memory.

mod metrics;
pub mod note;
pub mod throttle;

use forkgate_shared::status::Status;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};

use crate::answer;
use crate::body::Body;
use crate::gateway::Gateway;

/// The row table as JSON.
pub fn status(gateway: &Gateway) -> Response<Body> {
    match serde_json::to_vec(&Status::read(&gateway.rows)) {
        Ok(text) => answer::json(StatusCode::OK, text),
        Err(error) => unrenderable(&error),
    }
}

/// All metrics as Prometheus' text.
pub fn metrics(gateway: &Gateway) -> Response<Body> {
    let catalog = gateway.catalog.load();
    let names = catalog.upstreams().map(|upstream| (upstream.index, upstream.name.as_str()));
    match metrics::render(&gateway.rows, names) {
        Ok(text) => {
            let mut response = Response::new(Body::full(text));
            let content_type = HeaderValue::from_static(prometheus::TEXT_FORMAT);
            response.headers_mut().insert(CONTENT_TYPE, content_type);
            response
        }
        Err(error) => unrenderable(&error),
    }
}

fn unrenderable(error: &dyn std::error::Error) -> Response<Body> {
    tracing::error!(%error, "the numbers cannot be rendered");
    answer::json(
        StatusCode::INTERNAL_SERVER_ERROR,
        "{\"detail\":\"the numbers cannot be rendered; see the log\"}",
    )
}
