//! Query parameters of lists: `limit`, `cursor`, `include_pagination`, `gateway_id`.
//!
//! Without any of the first three a list is whole: a client that knows nothing of pages misses nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Response, StatusCode};
use serde_json::json;

use super::fields::canonical;
use super::reply::ApiError;
use super::shape::Shape;
use crate::answer::json_of;
use crate::body::Body;
use crate::registry::records::Page;

/// ContextForge's default page.
const DEFAULT_LIMIT: i64 = 50;
/// ContextForge's largest page.
const MAX_LIMIT: i64 = 500;

/// What was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query {
    limit: Option<i64>,
    after: i64,
    include_pagination: bool,
    /// Only items of this upstream.
    pub gateway_id: Option<String>,
}

impl Query {
    /// Reads a query string; parameters that are not known are none of ours.
    pub fn parse(query: Option<&str>) -> Result<Query, ApiError> {
        let mut parsed = Query::default();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match canonical(&name) {
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (0..=MAX_LIMIT).contains(limit));
                    let problem = || format!("a number from 0 (everything) to {MAX_LIMIT} is expected");
                    parsed.limit =
                        Some(limit.ok_or_else(|| ApiError::Parameter { name: "limit", problem: problem() })?);
                }
                "cursor" if !value.is_empty() => parsed.after = read_cursor(&value)?,
                "includePagination" => {
                    parsed.include_pagination = matches!(&*value, "true" | "True" | "1" | "yes")
                }
                "gatewayId" if !value.is_empty() => parsed.gateway_id = Some(value.into_owned()),
                _ => {}
            }
        }
        Ok(parsed)
    }

    /// The rows to read: one more than the page has, to see whether another page follows.
    pub fn page(&self) -> Page {
        Page { after: self.after, limit: self.size().map_or(i64::MAX, |size| size + 1) }
    }

    fn size(&self) -> Option<i64> {
        match self.limit {
            Some(0) => None,
            Some(limit) => Some(limit),
            None if self.include_pagination || self.after > 0 => Some(DEFAULT_LIMIT),
            None => None,
        }
    }

    /// The answer: an array, or an object with `name` and `nextCursor`. `rows` are as [`Query::page`] asked.
    pub fn answer(&self, name: &str, mut rows: Vec<(i64, Shape)>) -> Response<Body> {
        let size = self.size().and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX);
        let more = rows.len() > size;
        rows.truncate(size);
        let last = rows.last().map(|(seq, _)| *seq).filter(|_| more);
        let shapes: Vec<Shape> = rows.into_iter().map(|(_, shape)| shape).collect();
        if !self.include_pagination {
            return json_of(StatusCode::OK, &shapes);
        }
        let mut answer = Shape::default();
        answer.put_dynamic(name, &shapes);
        answer.put("nextCursor", json!(last.map(write_cursor)));
        json_of(StatusCode::OK, &answer)
    }
}

fn write_cursor(seq: i64) -> String {
    URL_SAFE_NO_PAD.encode(seq.to_be_bytes())
}

fn read_cursor(text: &str) -> Result<i64, ApiError> {
    URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| Some(i64::from_be_bytes(bytes.try_into().ok()?)))
        .filter(|seq| *seq >= 0)
        .ok_or_else(|| {
            let problem = "not a cursor of this list; use nextCursor of the page before".to_owned();
            ApiError::Parameter { name: "cursor", problem }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_asked_for_and_otherwise_whole() {
        let page = |query: &str| {
            Query::parse(Some(query)).map(|query| query.page()).map(|page| (page.after, page.limit))
        };
        assert_eq!(page("").expect("ok"), (0, i64::MAX));
        assert_eq!(page("limit=0&include_pagination=true").expect("ok"), (0, i64::MAX));
        assert_eq!(page("include_pagination=true").expect("ok"), (0, 51));
        assert_eq!(page(&format!("limit=7&cursor={}", write_cursor(40))).expect("ok"), (40, 8));
        for bad in ["limit=501", "limit=-1", "limit=x", "cursor=%20", "cursor=AAAA"] {
            assert!(page(bad).is_err(), "{bad}");
        }
        let query = Query::parse(Some("gateway_id=g&tags=x")).expect("ok");
        assert_eq!(query.gateway_id.as_deref(), Some("g"));
    }
}
