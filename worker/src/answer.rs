//! Whole answers: JSON, or a status alone.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::body::Body;

/// An answer of JSON text.
pub fn json(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer of a value, in JSON.
pub fn json_of(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // Only a map with keys other than strings could fail, and nothing that is answered has one.
    json(status, serde_json::to_vec(value).unwrap_or_default())
}

/// A status without a body.
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response
}
