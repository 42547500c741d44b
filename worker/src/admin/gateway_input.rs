//! What `POST /v1/gateways` accepts: ContextForge's `GatewayCreate`, as far as this version goes.

use forkgate_shared::settings::Settings;
use http::{HeaderName, HeaderValue};
use serde_json::Value;
use url::{Host, Url};

use super::fields::Fields;
use super::reply::ApiError;
use crate::catalog::slug::slug;
use crate::registry::change::{NewGateway, new_id};
use crate::registry::credentials::Credentials;
use crate::upstream::address::allowed;
use crate::upstream::masked::MASK;

/// Limits of ContextForge's validation, in characters.
const MAX_NAME: usize = 255;
const MAX_DESCRIPTION: usize = 8192;
const MAX_URL: usize = 2048;
/// Longest token, password or header value: what servers accept in one header field.
const MAX_SECRET: usize = 8192;
/// Longest slug: with a separator and a tool's name it should fit MCP's 128 characters.
const MAX_SLUG: usize = 64;
/// Most headers of one upstream.
const MAX_HEADERS: usize = 32;
/// Headers that the upstream client sets itself.
const OWN_HEADERS: [&str; 10] = [
    "accept",
    "connection",
    "content-length",
    "content-type",
    "host",
    "last-event-id",
    "te",
    "transfer-encoding",
    "upgrade",
    "expect",
];
const AUTH_TYPES: &str = "this version has bearer, basic and authheaders, or leave authType away";

/// Checks a body; asks neither the network nor the database.
pub fn parse(
    body: &[u8],
    settings: &Settings,
    separator: &str,
    created_by: &str,
) -> Result<NewGateway, ApiError> {
    let fields = Fields::parse(body, None)?;
    let name = fields.required("name", MAX_NAME)?;
    if name.contains(char::is_control) {
        return Err(ApiError::field("name", "contains control characters; it stands in logs and metrics"));
    }
    let slug = slug(&name, separator).ok_or_else(|| {
        ApiError::field(
            "name",
            "it needs at least one ASCII letter or digit: it becomes the prefix of tool names",
        )
    })?;
    if slug.len() > MAX_SLUG {
        return Err(ApiError::field(
            "name",
            format!("as a prefix of tool names it is longer than {MAX_SLUG} characters"),
        ));
    }
    let url = url(&fields.required("url", MAX_URL)?, settings)?;
    transport(&fields)?;
    refuse_unsupported(&fields)?;
    Ok(NewGateway {
        id: new_id(),
        slug,
        url: url.into(),
        description: fields.text("description", MAX_DESCRIPTION)?,
        credentials: credentials(&fields)?,
        tags: fields.tags()?,
        created_by: created_by.to_owned(),
        name,
    })
}

/// An address that this gateway may call. Names are resolved later, see [`super::gateways`].
fn url(text: &str, settings: &Settings) -> Result<Url, ApiError> {
    let wrong = |problem: &str| ApiError::field("url", problem);
    // The parser would take tabs and line breaks out without a word (WHATWG URL).
    if text.trim().contains(char::is_control) {
        return Err(wrong("contains control characters"));
    }
    let url = Url::parse(text)
        .map_err(|error| wrong(&format!("not a URL ({error}); for instance https://host/mcp")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("only http and https upstreams can be registered"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(
            "contains credentials; give them as authType basic with authUsername and authPassword",
        ));
    }
    if url.fragment().is_some() {
        return Err(wrong("contains a fragment (#…), which is never sent to a server"));
    }
    if url.query().is_some_and(|query| query.contains(MASK)) {
        return Err(wrong("its query holds the mask that answers show; give the values themselves"));
    }
    let ip = match url.host() {
        None => return Err(wrong("has no host")),
        Some(Host::Ipv4(ip)) => Some(ip.into()),
        Some(Host::Ipv6(ip)) => Some(ip.into()),
        Some(Host::Domain(_)) => None,
    };
    match ip {
        Some(ip) if !allowed(ip, settings) => Err(refused_address(ip, settings)),
        _ => Ok(url),
    }
}

/// The text for an address that the SSRF rule forbids.
pub fn refused_address(ip: std::net::IpAddr, settings: &Settings) -> ApiError {
    let with = |localhost: bool, private: bool| {
        let settings = Settings {
            ssrf_allow_localhost: localhost,
            ssrf_allow_private_networks: private,
            ..settings.clone()
        };
        allowed(ip, &settings)
    };
    let remedy = match (with(true, false), with(false, true)) {
        (true, _) => "SSRF_ALLOW_LOCALHOST=true allows it, where that is intended",
        (_, true) => "SSRF_ALLOW_PRIVATE_NETWORKS=true allows it, where that is intended",
        _ => "no setting allows it: link-local and metadata addresses are never called",
    };
    ApiError::field("url", format!("{ip} is not a public address and not called; {remedy}"))
}

fn transport(fields: &Fields) -> Result<(), ApiError> {
    let transport = fields.text("transport", 40)?.unwrap_or_default().to_ascii_uppercase();
    let problem = match transport.as_str() {
        "" | "STREAMABLEHTTP" | "STREAMABLE_HTTP" | "STREAMABLE-HTTP" => return Ok(()),
        "SSE" => {
            "SSE (HTTP+SSE of 2024-11-05) is not supported by this version; use STREAMABLEHTTP with the URL of the \
             server's Streamable HTTP endpoint, usually …/mcp"
        }
        _ => "STREAMABLEHTTP is the only transport of this version",
    };
    Err(ApiError::field("transport", problem))
}

fn refuse_unsupported(fields: &Fields) -> Result<(), ApiError> {
    for (name, instead) in [
        ("oauthConfig", AUTH_TYPES),
        ("oneTimeAuth", AUTH_TYPES),
        ("authQueryParamKey", AUTH_TYPES),
        ("authQueryParamValue", AUTH_TYPES),
        ("authValue", "give authToken, authUsername and authPassword, or authHeaders"),
        ("passthroughHeaders", "headers of clients are not passed on to upstreams"),
        ("caCertificate", "certificates are checked against the system's authorities"),
        ("caCertificateSig", "certificates are checked against the system's authorities"),
        ("clientCert", "client certificates are not sent"),
        ("clientKey", "client certificates are not sent"),
        ("refreshIntervalSeconds", "DELETE and POST the gateway anew to read its catalog again"),
        ("identityPropagation", "upstreams are called with the gateway's own credentials"),
        ("teamId", "there are no teams: what is registered is for every holder of a token"),
        ("ownerEmail", "there are no owners: what is registered is for every holder of a token"),
    ] {
        fields.refuse(name, instead)?;
    }
    only(fields, "gatewayMode", "cache")?;
    only(fields, "visibility", "public")
}

/// Refuses every value of a field but one.
pub fn only(fields: &Fields, name: &str, value: &str) -> Result<(), ApiError> {
    match fields.text(name, MAX_NAME)? {
        Some(other) if other != value => {
            Err(ApiError::field(name, format!("{other:?} is not supported by this version, only {value:?}")))
        }
        _ => Ok(()),
    }
}

fn credentials(fields: &Fields) -> Result<Credentials, ApiError> {
    let secret = |name: &str| -> Result<String, ApiError> {
        let text = fields.required(name, MAX_SECRET)?;
        if text == MASK {
            return Err(ApiError::field(name, "this is the mask that answers show; give the secret itself"));
        }
        if HeaderValue::from_str(&text).is_err() {
            return Err(ApiError::field(name, "contains characters that cannot stand in an HTTP header"));
        }
        Ok(text)
    };
    let auth_type = fields.text("authType", 40)?.unwrap_or_default().to_ascii_lowercase();
    match auth_type.as_str() {
        "" | "none" => {
            let given = [
                "authToken",
                "authUsername",
                "authPassword",
                "authHeaders",
                "authHeaderKey",
                "authHeaderValue",
            ]
            .into_iter()
            .find(|name| fields.refuse(name, "").is_err());
            match given {
                Some(name) => {
                    Err(ApiError::field("authType", format!("{name} is given without it; {AUTH_TYPES}")))
                }
                None => Ok(Credentials::None),
            }
        }
        "bearer" => Ok(Credentials::Bearer { token: secret("authToken")? }),
        "basic" => {
            let username = fields.required("authUsername", MAX_NAME)?;
            if username.contains(':') {
                return Err(ApiError::field("authUsername", "must not contain a colon (RFC 7617)"));
            }
            let password = fields.required("authPassword", MAX_SECRET)?;
            if password == MASK {
                return Err(ApiError::field(
                    "authPassword",
                    "this is the mask that answers show; give the secret itself",
                ));
            }
            Ok(Credentials::Basic { username, password })
        }
        "authheaders" => Ok(Credentials::AuthHeaders { headers: auth_headers(fields)? }),
        other => Err(ApiError::field("authType", format!("{other:?} is not supported; {AUTH_TYPES}"))),
    }
}

fn auth_headers(fields: &Fields) -> Result<Vec<(String, String)>, ApiError> {
    let wrong = |problem: String| ApiError::field("authHeaders", problem);
    let pairs: Vec<(String, String)> = match fields.get("authHeaders") {
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| {
                Some((item.get("key")?.as_str()?.to_owned(), item.get("value")?.as_str()?.to_owned()))
            })
            .collect::<Option<_>>()
            .ok_or_else(|| wrong("each entry is {\"key\": …, \"value\": …}".to_owned()))?,
        Some(_) => return Err(wrong("an array of {\"key\": …, \"value\": …} is expected".to_owned())),
        None => {
            let key = fields.text("authHeaderKey", MAX_NAME)?;
            let key = key.ok_or_else(|| wrong("authType authheaders needs this field".to_owned()))?;
            vec![(key, fields.required("authHeaderValue", MAX_SECRET)?)]
        }
    };
    if pairs.is_empty() || pairs.len() > MAX_HEADERS {
        return Err(wrong(format!("1 to {MAX_HEADERS} headers are expected")));
    }
    for (key, value) in &pairs {
        let lower = key.to_ascii_lowercase();
        if HeaderName::from_bytes(key.as_bytes()).is_err() {
            return Err(wrong(format!("{key:?} is not a header name")));
        }
        if OWN_HEADERS.contains(&lower.as_str()) || lower.starts_with("mcp-") {
            return Err(wrong(format!("{key:?} is set by the gateway itself")));
        }
        if value == MASK || value.len() > MAX_SECRET || HeaderValue::from_str(value).is_err() {
            return Err(wrong(format!("the value of {key:?} is the mask, too long, or no header value")));
        }
    }
    Ok(pairs.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(localhost: bool) -> Settings {
        Settings { ssrf_allow_localhost: localhost, ..crate::fixtures::settings() }
    }

    #[test]
    fn a_registration_is_read_in_both_spellings() {
        for body in [
            r#"{"name":"My Up","url":"https://example.com/mcp","authType":"bearer","authToken":"t","transport":"STREAMABLEHTTP"}"#,
            r#"{"name":"My Up","url":" https://example.com/mcp ","auth_type":"Bearer","auth_token":"t","oneTimeAuth":false}"#,
        ] {
            let new = parse(body.as_bytes(), &settings(false), "__", "me").expect(body);
            assert_eq!((new.slug.as_str(), new.url.as_str()), ("my-up", "https://example.com/mcp"));
            assert_eq!(new.credentials.headers(), [("authorization".to_owned(), "Bearer t".to_owned())]);
        }
    }

    #[test]
    fn what_is_not_acceptable_is_named() {
        let with = |more: &str| format!(r#"{{"name":"n","url":"https://h/mcp"{more}}}"#);
        let at = |url: &str| format!(r#"{{"name":"n","url":"{url}"}}"#);
        for (body, want) in [
            ("nonsense".to_owned(), "body: a JSON object is expected"),
            (r#"{"url":"https://h"}"#.to_owned(), "name: this field is required"),
            (r#"{"name":"天気","url":"https://h"}"#.to_owned(), "name: it needs at least one ASCII"),
            (r#"{"name":"n\r\nX: 1","url":"https://h"}"#.to_owned(), "name: contains control characters"),
            (at(r"https://h/mcp\r\nX: 1"), "url: contains control characters"),
            (r#"{"name":"n"}"#.to_owned(), "url: this field is required"),
            (r#"{"name":"n","url":7}"#.to_owned(), "url: a string is expected"),
            (at("h/mcp"), "url: not a URL"),
            (at("ftp://h/mcp"), "url: only http and https"),
            (at("https://u:p@h/mcp"), "url: contains credentials"),
            (at("https://h/mcp#x"), "url: contains a fragment"),
            (at("https://h/mcp?k=*****"), "url: its query holds the mask"),
            (at("http://127.0.0.1:9/mcp"), "url: 127.0.0.1 is not a public address"),
            (at("http://[::1]/mcp"), "url: ::1 is not a public address"),
            (at("http://10.1.2.3/mcp"), "url: 10.1.2.3 is not a public address"),
            (with(r#","transport":"SSE""#), "transport: SSE (HTTP+SSE of 2024-11-05) is not supported"),
            (with(r#","transport":"carrier pigeon""#), "transport: STREAMABLEHTTP is the only"),
            (with(r#","authType":"oauth","oauthConfig":{}"#), "authType: \"oauth\" is not supported"),
            (with(r#","auth_type":"query_param""#), "authType: \"query_param\" is not supported"),
            (with(r#","authType":"bearer""#), "authToken: this field is required"),
            (with(r#","authType":"bearer","authToken":"*****""#), "authToken: this is the mask"),
            (with(r#","authType":"bearer","authToken":"a\u00ff\u0100""#), ""),
            (with(r#","authToken":"t""#), "authType: authToken is given without it"),
            (
                with(r#","authType":"basic","authUsername":"a:b","authPassword":"p""#),
                "authUsername: must not",
            ),
            (with(r#","authType":"authheaders""#), "authHeaders: authType authheaders needs this field"),
            (
                with(r#","authType":"authheaders","authHeaders":[{"key":"Host","value":"x"}]"#),
                "authHeaders: \"Host\" is set",
            ),
            (
                with(r#","authType":"authheaders","authHeaders":[{"key":"a b","value":"x"}]"#),
                "authHeaders: \"a b\" is not",
            ),
            (with(r#","oauthConfig":{"x":1}"#), "oauthConfig: not supported by this version"),
            (with(r#","passthroughHeaders":["X"]"#), "passthroughHeaders: not supported"),
            (with(r#","visibility":"private""#), "visibility: \"private\" is not supported"),
            (with(r#","gatewayMode":"direct_proxy""#), "gatewayMode: \"direct_proxy\" is not supported"),
        ] {
            match parse(body.as_bytes(), &settings(false), "__", "me") {
                Err(error) => assert!(error.to_string().starts_with(want), "{body}: {error}"),
                Ok(_) => assert!(want.is_empty(), "{body} was accepted"),
            }
        }
        assert!(parse(at("http://127.0.0.1:9/mcp").as_bytes(), &settings(true), "__", "me").is_ok());
    }

    #[test]
    fn what_asks_for_nothing_is_accepted() {
        let body = r#"{"name":"n","url":"https://h/mcp","oauthConfig":{},"passthroughHeaders":[],"visibility":"public",
            "gatewayMode":"cache","teamId":null,"signingAlgorithm":"ed25519","authType":null,"caCertificate":""}"#;
        assert!(parse(body.as_bytes(), &settings(false), "__", "me").is_ok());
    }
}
