//! What `POST /v1/servers` accepts: ContextForge's `ServerCreate`, bare or in `{"server": …}`.
//!
//! In `associatedTools` and `associatedPrompts` an entry is the item's id, or `{"id": …, "name": …}` where the server's
//! owner chooses the name that its clients see.

use serde_json::Value;

use super::fields::Fields;
use super::gateway_input::only;
use super::reply::ApiError;
use crate::registry::change::{Choice, NewServer, new_id};

const MAX_NAME: usize = 255;
const MAX_DESCRIPTION: usize = 8192;
const MAX_ICON: usize = 2048;
/// Most items of one kind in one server.
const MAX_ITEMS: usize = 1000;
/// Longest name that an owner may choose: MCP's limit for tool names.
const MAX_CHOSEN_NAME: usize = 128;

/// Checks a body; asks no database.
pub fn parse(body: &[u8], created_by: &str) -> Result<NewServer, ApiError> {
    let fields = Fields::parse(body, Some("server"))?;
    for (name, instead) in [
        ("associatedA2aAgents", "there are no A2A agents"),
        ("oauthEnabled", "clients authenticate with tokens of the gateway"),
        ("oauthConfig", "clients authenticate with tokens of the gateway"),
        ("teamId", "there are no teams: what is registered is for every holder of a token"),
        ("ownerEmail", "there are no owners: what is registered is for every holder of a token"),
    ] {
        fields.refuse(name, instead)?;
    }
    only(&fields, "visibility", "public")?;
    Ok(NewServer {
        id: id(&fields)?,
        name: fields.required("name", MAX_NAME)?,
        description: fields.text("description", MAX_DESCRIPTION)?,
        icon: fields.text("icon", MAX_ICON)?,
        tags: fields.tags()?,
        created_by: created_by.to_owned(),
        tools: choices(&fields, "associatedTools", true)?,
        resources: choices(&fields, "associatedResources", false)?,
        prompts: choices(&fields, "associatedPrompts", true)?,
    })
}

/// The id may be chosen, as a UUID in either form; it is kept as ContextForge keeps it, without dashes.
fn id(fields: &Fields) -> Result<String, ApiError> {
    match fields.text("id", 36)? {
        None => Ok(new_id()),
        Some(text) => uuid::Uuid::parse_str(&text)
            .map(|id| id.simple().to_string())
            .map_err(|_| ApiError::field("id", "a UUID is expected; leave it away to get a new one")),
    }
}

fn choices(fields: &Fields, name: &'static str, may_name: bool) -> Result<Vec<Choice>, ApiError> {
    let wrong = |problem: String| ApiError::field(name, problem);
    let items = match fields.get(name) {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) if items.len() <= MAX_ITEMS => items,
        Some(_) => return Err(wrong(format!("an array of at most {MAX_ITEMS} ids is expected"))),
    };
    let mut choices = Vec::with_capacity(items.len());
    for item in items {
        choices.push(match item {
            Value::String(id) => Choice { id: id.clone(), name: None },
            Value::Object(members) if may_name => {
                let id = members.get("id").and_then(Value::as_str);
                let id = id.ok_or_else(|| wrong("an entry has no id".to_owned()))?;
                let chosen = members.get("name").and_then(Value::as_str);
                if let Some(chosen) = chosen
                    && !is_tool_name(chosen)
                {
                    let problem = format!("{chosen:?} is not 1 to {MAX_CHOSEN_NAME} of A-Z a-z 0-9 _ . - /");
                    return Err(wrong(problem));
                }
                Choice { id: id.to_owned(), name: chosen.map(str::to_owned) }
            }
            _ if may_name => {
                return Err(wrong("each entry is an id, or {\"id\": …, \"name\": …}".to_owned()));
            }
            _ => return Err(wrong("each entry is an id".to_owned())),
        });
    }
    Ok(choices)
}

fn is_tool_name(name: &str) -> bool {
    (1..=MAX_CHOSEN_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-/".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read_in_both_spellings() {
        let body = br#"{"server":{"name":"S","associated_tools":["a",{"id":"b","name":"mine"}],
            "associatedResources":["r"],"tags":["x"]},"visibility":"public","team_id":null}"#;
        let server = parse(body, "me").expect("accepted");
        assert_eq!(server.tools[1], Choice { id: "b".into(), name: Some("mine".into()) });
        assert_eq!((server.resources.len(), server.prompts.len(), server.id.len()), (1, 0, 32));
    }

    #[test]
    fn what_is_not_acceptable_is_named() {
        for (body, want) in [
            (r#"{"server":{}}"#, "name: this field is required"),
            (r#"{"name":"s","id":"x"}"#, "id: a UUID is expected"),
            (r#"{"name":"s","associated_tools":"a"}"#, "associatedTools: an array"),
            (r#"{"name":"s","associated_tools":[{"id":"a","name":"b c"}]}"#, "associatedTools: \"b c\""),
            (
                r#"{"name":"s","associated_resources":[{"id":"a"}]}"#,
                "associatedResources: each entry is an id",
            ),
            (r#"{"name":"s","oauth_enabled":true}"#, "oauthEnabled: not supported"),
            (r#"{"server":{"name":"s"},"visibility":"team"}"#, "visibility: \"team\" is not supported"),
        ] {
            let error = parse(body.as_bytes(), "me").expect_err(body).to_string();
            assert!(error.starts_with(want), "{body}: {error}");
        }
    }
}
