//! The fields of a request body: one table of spellings, typed access, errors that name the field.

use serde_json::{Map, Value};

use super::reply::ApiError;

/// camelCase and snake_case spellings of one field; the first is what answers use. Fields of one word have one spelling.
const TWINS: [(&str, &str); 31] = [
    ("associatedA2aAgents", "associated_a2a_agents"),
    ("associatedPrompts", "associated_prompts"),
    ("associatedResources", "associated_resources"),
    ("associatedTools", "associated_tools"),
    ("authHeaderKey", "auth_header_key"),
    ("authHeaderValue", "auth_header_value"),
    ("authHeaders", "auth_headers"),
    ("authPassword", "auth_password"),
    ("authQueryParamKey", "auth_query_param_key"),
    ("authQueryParamValue", "auth_query_param_value"),
    ("authToken", "auth_token"),
    ("authType", "auth_type"),
    ("authUsername", "auth_username"),
    ("authValue", "auth_value"),
    ("caCertificate", "ca_certificate"),
    ("caCertificateSig", "ca_certificate_sig"),
    ("clientCert", "client_cert"),
    ("clientKey", "client_key"),
    ("gatewayMode", "gateway_mode"),
    ("identityPropagation", "identity_propagation"),
    ("includeInactive", "include_inactive"),
    ("includePagination", "include_pagination"),
    ("gatewayId", "gateway_id"),
    ("oauthConfig", "oauth_config"),
    ("oauthEnabled", "oauth_enabled"),
    ("oneTimeAuth", "one_time_auth"),
    ("ownerEmail", "owner_email"),
    ("passthroughHeaders", "passthrough_headers"),
    ("refreshIntervalSeconds", "refresh_interval_seconds"),
    ("signingAlgorithm", "signing_algorithm"),
    ("teamId", "team_id"),
];

/// The spelling that this code uses for a field.
pub fn canonical(name: &str) -> &str {
    TWINS.iter().find(|(_, snake)| *snake == name).map_or(name, |(camel, _)| camel)
}

/// The fields of an object, under their camelCase names; `null` counts as absent.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Parses a body. `wrapper` is a member that may hold the fields (`{"server": {…}, "visibility": …}`); what stands
    /// beside it then counts as if it stood inside.
    pub fn parse(body: &[u8], wrapper: Option<&str>) -> Result<Fields, ApiError> {
        let mut outer: Map<String, Value> = serde_json::from_slice(body)
            .map_err(|error| ApiError::field("body", format!("a JSON object is expected ({error})")))?;
        let inner = match wrapper.and_then(|wrapper| outer.remove(wrapper)) {
            Some(Value::Object(inner)) => inner,
            Some(_) => return Err(ApiError::field(wrapper.unwrap_or("body"), "an object is expected")),
            None => Map::new(),
        };
        let mut fields = Map::new();
        for (name, value) in outer.into_iter().chain(inner).filter(|(_, value)| !value.is_null()) {
            let name = canonical(&name).to_owned();
            if let Some(other) = fields.get(&name)
                && *other != value
            {
                return Err(ApiError::field(name, "given twice with different values"));
            }
            fields.insert(name, value);
        }
        Ok(Fields(fields))
    }

    /// A field as it is.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// A string of at most `max` characters, trimmed; none when absent or empty.
    pub fn text(&self, name: &str, max: usize) -> Result<Option<String>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let Some(text) = value.as_str().map(str::trim) else {
            return Err(ApiError::field(name, "a string is expected"));
        };
        if text.chars().count() > max {
            return Err(ApiError::field(name, format!("longer than {max} characters")));
        }
        if let Some(control) = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            return Err(ApiError::field(
                name,
                format!("contains the control character U+{:04X}", u32::from(control)),
            ));
        }
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    /// As [`Fields::text`], but it must be there.
    pub fn required(&self, name: &str, max: usize) -> Result<String, ApiError> {
        self.text(name, max)?
            .ok_or_else(|| ApiError::field(name, "this field is required and must not be empty"))
    }

    /// Refuses a field that ContextForge has and this version has not, unless its value asks for nothing.
    pub fn refuse(&self, name: &str, instead: &str) -> Result<(), ApiError> {
        match self.get(name) {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(Value::Array(items)) if items.is_empty() => Ok(()),
            Some(Value::Object(members)) if members.is_empty() => Ok(()),
            Some(Value::String(text)) if text.is_empty() => Ok(()),
            Some(_) => Err(ApiError::field(name, format!("not supported by this version; {instead}"))),
        }
    }

    /// Tags, as `[{"id","label"}]` in JSON text; both strings and such objects are accepted.
    pub fn tags(&self) -> Result<String, ApiError> {
        const MOST: usize = 100;
        let Some(tags) = self.get("tags") else { return Ok("[]".to_owned()) };
        let tags = tags.as_array().filter(|tags| tags.len() <= MOST);
        let tags =
            tags.ok_or_else(|| ApiError::field("tags", format!("an array of at most {MOST} is expected")))?;
        let label = |tag: &Value| -> Option<String> {
            let label =
                tag.as_str().or_else(|| tag.get("label")?.as_str()).or_else(|| tag.get("id")?.as_str())?;
            let label = label.trim();
            (!label.is_empty() && label.len() <= 100).then(|| label.to_owned())
        };
        let mut out = Vec::with_capacity(tags.len());
        for tag in tags {
            let label = label(tag).ok_or_else(|| {
                ApiError::field("tags", "each tag is a string of 1 to 100 bytes, or {\"label\": …}")
            })?;
            out.push(serde_json::json!({ "id": label.to_lowercase().replace(' ', "-"), "label": label }));
        }
        Ok(Value::from(out).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_one_field() {
        for body in [r#"{"auth_type":"bearer"}"#, r#"{"authType":" bearer "}"#] {
            let fields = Fields::parse(body.as_bytes(), None).expect("fields");
            assert_eq!(fields.text("authType", 20).expect("text").as_deref(), Some("bearer"));
        }
        let error = Fields::parse(br#"{"auth_type":"a","authType":"b"}"#, None).expect_err("two values");
        assert!(error.to_string().starts_with("authType: given twice"), "{error}");
        assert!(Fields::parse(br#"{"auth_type":"a","authType":"a"}"#, None).is_ok());
    }

    #[test]
    fn every_twin_is_its_partner_in_snake_case() {
        for (camel, snake) in TWINS {
            let made: String = camel
                .chars()
                .flat_map(
                    |c| if c.is_ascii_uppercase() { vec!['_', c.to_ascii_lowercase()] } else { vec![c] },
                )
                .collect();
            assert_eq!(made, snake);
        }
    }

    #[test]
    fn a_wrapped_body_and_a_bare_one_are_the_same() {
        for body in [r#"{"server":{"name":"s"},"team_id":null}"#, r#"{"name":"s"}"#] {
            let fields = Fields::parse(body.as_bytes(), Some("server")).expect("fields");
            assert_eq!(fields.required("name", 9).expect("name"), "s");
        }
        assert!(Fields::parse(br#"{"server":7}"#, Some("server")).is_err());
        assert!(Fields::parse(b"[]", None).is_err());
    }

    #[test]
    fn tags_are_strings_or_objects() {
        let fields = Fields::parse(br#"{"tags":["My Tag",{"id":"x","label":"X"}]}"#, None).expect("fields");
        let want = r#"[{"id":"my-tag","label":"My Tag"},{"id":"x","label":"X"}]"#;
        assert_eq!(fields.tags().expect("tags"), want);
        assert!(Fields::parse(br#"{"tags":[7]}"#, None).expect("fields").tags().is_err());
    }
}
