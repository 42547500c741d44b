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
    match Status::read_whole(&gateway.rows).map(|status| serde_json::to_vec(&status)) {
        Some(Ok(text)) => answer::json(StatusCode::OK, text),
        Some(Err(error)) => unrenderable(&error),
        None => unreadable(),
    }
}

/// All metrics as Prometheus' text.
pub fn metrics(gateway: &Gateway) -> Response<Body> {
    let catalog = gateway.catalog.load();
    let names = catalog.upstreams().map(|upstream| (upstream.index, upstream.name.as_str()));
    match metrics::render(&gateway.rows, names) {
        Some(Ok(text)) => {
            let mut response = Response::new(Body::full(text));
            let content_type = HeaderValue::from_static(prometheus::TEXT_FORMAT);
            response.headers_mut().insert(CONTENT_TYPE, content_type);
            response
        }
        Some(Err(error)) => unrenderable(&error),
        None => unreadable(),
    }
}

/// The master was stopped while it added up what a dead worker had counted: no answer is better than counters that would go
/// backwards with the next one.
fn unreadable() -> Response<Body> {
    answer::json(
        StatusCode::SERVICE_UNAVAILABLE,
        "{\"detail\":\"the master stands still in the middle of adding up: the numbers cannot be read now\"}",
    )
}

fn unrenderable(error: &dyn std::error::Error) -> Response<Body> {
    tracing::error!(%error, "the numbers cannot be rendered");
    answer::json(
        StatusCode::INTERNAL_SERVER_ERROR,
        "{\"detail\":\"the numbers cannot be rendered; see the log\"}",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_cannot_be_read_now_are_asked_for_again() {
        assert_eq!(unreadable().status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
