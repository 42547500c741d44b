//! Answers of the API, and what its errors are for the table of failures.
//!
//! An error's body has ContextForge's `detail` and `message`; the text names what is wrong, where, and what to do.

use http::header::{ALLOW, RETRY_AFTER};
use http::{HeaderValue, Method, Response, StatusCode};
use serde_json::json;

use crate::answer::json_of;
use crate::body::Body;
use crate::failure::{Cause, Era, Retry, Row};
use crate::registry::RegistryError;
use crate::registry::change::ChangeError;
use crate::upstream::masked::{masked, without_query_values};

/// Why a request of the API is not done.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// A longer path than there is.
    #[error(
        "there is no /v1/{collection}/{rest}; this version has /v1/{collection} and /v1/{collection}/{{id}}"
    )]
    NoSuchPath {
        /// The collection.
        collection: &'static str,
        /// What stood behind it.
        rest: String,
    },
    /// The path is there, the method is not.
    #[error("{method} is not possible on this path of /v1/{collection}: {hint}")]
    MethodNotAllowed {
        /// The method.
        method: Method,
        /// The collection.
        collection: &'static str,
        /// `Allow` header.
        allow: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// A field of the request is not acceptable.
    #[error("{field}: {problem}")]
    Unprocessable {
        /// Its name; `body` for the whole.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A query parameter is not acceptable.
    #[error("{name}: {problem}")]
    Parameter {
        /// Its name.
        name: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// No such entry.
    #[error("{what} not found: {id}")]
    NotFound {
        /// For instance `Tool`.
        what: &'static str,
        /// What was asked for.
        id: String,
    },
    /// The upstream's catalog cannot be read.
    #[error("Failed to initialize gateway at {url}: {cause}")]
    Unreachable {
        /// Where; masked.
        url: String,
        /// Why; without the URL's query values.
        cause: String,
    },
    /// Too many registrations at a time.
    #[error("this worker is still reading the catalogs of other upstreams; try again in a few seconds")]
    Busy,
    /// The task that made the change ended without a result.
    #[error("the change was interrupted; read the registry to see whether it was made")]
    Interrupted,
    /// The database, or a conflict.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        ApiError::Change(ChangeError::Registry(error))
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        RegistryError::from(error).into()
    }
}

impl ApiError {
    /// An unacceptable field.
    pub fn field(field: impl Into<String>, problem: impl Into<String>) -> ApiError {
        ApiError::Unprocessable { field: field.into(), problem: problem.into() }
    }

    /// An upstream that cannot be read, told without the secrets in its URL.
    pub fn unreachable(url: &str, cause: &str) -> ApiError {
        ApiError::Unreachable { url: masked(url).into_owned(), cause: without_query_values(url, cause) }
    }

    /// Why, for the table of failures.
    fn cause(&self) -> Cause {
        match self {
            ApiError::NoSuchPath { .. } | ApiError::NotFound { .. } => Cause::NotFound,
            ApiError::MethodNotAllowed { .. } => Cause::MethodNotAllowed,
            ApiError::Unprocessable { .. } | ApiError::Parameter { .. } => Cause::Unprocessable,
            ApiError::Unreachable { .. } => Cause::BadGateway,
            ApiError::Busy => Cause::Unavailable,
            ApiError::Interrupted => Cause::Internal,
            ApiError::Change(error) => match error {
                ChangeError::Registry(RegistryError::Locked) => Cause::Locked,
                ChangeError::GatewayTaken { .. }
                | ChangeError::ServerTaken(_)
                | ChangeError::Collision { .. } => Cause::Conflict,
                ChangeError::Registry(
                    RegistryError::Away { .. } | RegistryError::Database(_) | RegistryError::NoCompiler(_),
                ) => Cause::Unavailable,
                ChangeError::Registry(
                    RegistryError::Compile(_) | RegistryError::CompilerDied | RegistryError::Damaged(_),
                ) => Cause::Internal,
                ChangeError::NotFound { .. } => Cause::NotFound,
                ChangeError::NoSuchItem { .. } => Cause::Unprocessable,
                ChangeError::TooMany(..) => Cause::BadGateway,
            },
        }
    }

    /// The answer that is this error.
    pub fn into_response(self) -> Response<Body> {
        let Row { status, retry, .. } = self.cause().row(Era::Modern);
        let message = self.to_string();
        // An upstream that does not answer is its administrator's matter.
        if status.is_server_error() && !matches!(self, ApiError::Unreachable { .. }) {
            tracing::warn!(status = status.as_u16(), error = %message, "a registry request failed");
        }
        // FastAPI's form for a field; its clients look for `loc`.
        let in_field =
            |place, field: &str| json!([{ "loc": [place, field], "msg": message, "type": "value_error" }]);
        let detail = match &self {
            ApiError::Unprocessable { field, .. } if field == "body" => {
                json!([{ "loc": ["body"], "msg": message, "type": "value_error" }])
            }
            ApiError::Unprocessable { field, .. } => in_field("body", field),
            ApiError::Parameter { name, .. } => in_field("query", name),
            ApiError::Change(ChangeError::NoSuchItem { field, .. }) => in_field("body", field),
            _ => json!(message),
        };
        let mut response = json_of(status, &json!({ "detail": detail, "message": message }));
        if let ApiError::MethodNotAllowed { allow, .. } = self {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Retry::After(seconds) = retry {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// ContextForge's answer to a deletion.
pub fn deleted(what: &str, id: &str) -> Response<Body> {
    json_of(
        StatusCode::OK,
        &json!({ "status": "success", "message": format!("{what} {id} deleted successfully") }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(error: ApiError) -> serde_json::Value {
        let Body::Full(bytes) = error.into_response().into_body() else { panic!("a body") };
        let body: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        assert!(body["message"].is_string(), "{body}");
        body["detail"].clone()
    }

    #[test]
    fn a_field_is_named_where_clients_look_for_it_and_anything_else_is_a_text() {
        let missing =
            ChangeError::NoSuchItem { field: "associatedTools", collection: "tools", id: "x".into() };
        let parameter = ApiError::Parameter { name: "limit", problem: "a number".to_owned() };
        for (error, loc) in [
            (ApiError::field("name", "too long"), json!(["body", "name"])),
            (ApiError::field("body", "no JSON"), json!(["body"])),
            (missing.into(), json!(["body", "associatedTools"])),
            (parameter, json!(["query", "limit"])),
        ] {
            assert_eq!(detail(error)[0]["loc"], loc);
        }
        assert!(detail(ApiError::Busy).is_string());
    }

    #[test]
    fn a_lock_is_worth_another_try_and_a_taken_name_is_not() {
        let locked = ApiError::from(RegistryError::Locked).into_response();
        assert_eq!((locked.status().as_u16(), &locked.headers()[RETRY_AFTER]), (409, &HeaderValue::from(1)));
        let taken = ApiError::from(ChangeError::ServerTaken("x".to_owned())).into_response();
        assert_eq!((taken.status().as_u16(), taken.headers().get(RETRY_AFTER)), (409, None));
    }
}
