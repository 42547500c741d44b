//! What the demo's upstream offers, as a pure function: a request in, a result out. It knows nothing of HTTP or eras.

use std::time::{SystemTime, UNIX_EPOCH};

use forkgate_shared::calendar::rfc3339;
use serde_json::{Value, json};

/// Steps that one countdown may have.
const MAX_STEPS: u64 = 100;
/// The one resource.
const WELCOME: &str = "demo://welcome";
/// What the URIs of the one template start with.
const GREETING: &str = "demo://greeting/";

/// What becomes of a request.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// A result.
    Result(Value),
    /// A result that comes after this many steps, with progress on the way.
    Countdown(u64),
    /// A JSON-RPC error.
    Error(i64, String),
}

const INVALID_PARAMS: i64 = -32602;
const METHOD_NOT_FOUND: i64 = -32601;

fn invalid(text: impl Into<String>) -> Outcome {
    Outcome::Error(INVALID_PARAMS, text.into())
}

/// The `capabilities` object.
pub fn capabilities() -> Value {
    json!({ "tools": {}, "resources": {}, "prompts": {} })
}

/// The `serverInfo` object.
pub fn server_info() -> Value {
    json!({ "name": "forkgate-demo", "title": "forkgate's demo server", "version": env!("CARGO_PKG_VERSION") })
}

/// For the model that uses this server.
pub const INSTRUCTIONS: &str =
    "A demo: echo and add answer at once, countdown takes its time and reports progress.";

/// Answers the methods that both eras have.
pub fn answer(method: &str, params: &Value) -> Outcome {
    match method {
        "tools/list" => Outcome::Result(json!({ "tools": tools() })),
        "tools/call" => call(params),
        "resources/list" => Outcome::Result(json!({ "resources": [{
            "uri": WELCOME, "name": "welcome", "title": "Welcome", "mimeType": "text/plain",
            "description": "A text that says what this server is."
        }] })),
        "resources/templates/list" => Outcome::Result(json!({ "resourceTemplates": [{
            "uriTemplate": format!("{GREETING}{{name}}"), "name": "greeting", "mimeType": "text/plain",
            "description": "A greeting for a name."
        }] })),
        "resources/read" => read(params),
        "prompts/list" => Outcome::Result(json!({ "prompts": [{
            "name": "introduce", "title": "Introduce somebody", "description": "Asks for a short introduction.",
            "arguments": [{ "name": "who", "description": "Whom to introduce", "required": true }]
        }] })),
        "prompts/get" => prompt(params),
        _ => Outcome::Error(METHOD_NOT_FOUND, format!("there is no method {method}")),
    }
}

fn tools() -> Value {
    json!([
        {
            "name": "echo", "title": "Echo", "description": "Answers with the message it was given.",
            "inputSchema": {
                "type": "object", "required": ["message"],
                "properties": { "message": { "type": "string", "description": "What to answer" } }
            },
            "annotations": { "readOnlyHint": true }
        },
        {
            "name": "add", "title": "Add", "description": "Adds two numbers.",
            "inputSchema": {
                "type": "object", "required": ["a", "b"],
                "properties": { "a": { "type": "number" }, "b": { "type": "number" } }
            },
            "outputSchema": { "type": "object", "required": ["sum"], "properties": { "sum": { "type": "number" } } },
            "annotations": { "readOnlyHint": true }
        },
        {
            "name": "countdown", "title": "Countdown",
            "description": "Counts down in steps of 100 ms and reports its progress.",
            "inputSchema": {
                "type": "object", "required": ["from"],
                "properties": { "from": { "type": "integer", "minimum": 0, "maximum": MAX_STEPS } }
            },
            "annotations": { "readOnlyHint": true }
        },
        {
            "name": "now", "title": "Now", "description": "The time of this computer, in UTC.",
            "inputSchema": { "type": "object", "properties": {} },
            "annotations": { "readOnlyHint": true }
        }
    ])
}

/// A tool's result that is one text.
pub fn text(text: impl Into<String>) -> Value {
    json!({ "content": [{ "type": "text", "text": text.into() }] })
}

fn tool_error(text: &str) -> Outcome {
    Outcome::Result(json!({ "content": [{ "type": "text", "text": text }], "isError": true }))
}

fn call(params: &Value) -> Outcome {
    let arguments = &params["arguments"];
    match params["name"].as_str() {
        Some("echo") => match arguments["message"].as_str() {
            Some(message) => Outcome::Result(text(message)),
            None => tool_error("echo needs a message (string)"),
        },
        Some("add") => match (arguments["a"].as_f64(), arguments["b"].as_f64()) {
            (Some(a), Some(b)) => {
                let whole =
                    arguments["a"].as_i64().zip(arguments["b"].as_i64()).and_then(|(a, b)| a.checked_add(b));
                let sum = whole.map_or_else(|| json!(a + b), |sum| json!(sum));
                let mut result = text(sum.to_string());
                result["structuredContent"] = json!({ "sum": sum });
                Outcome::Result(result)
            }
            _ => tool_error("add needs a and b (numbers)"),
        },
        Some("countdown") => match arguments["from"].as_u64().filter(|from| *from <= MAX_STEPS) {
            Some(from) => Outcome::Countdown(from),
            None => tool_error("countdown needs from (integer, 0 to 100)"),
        },
        Some("now") => Outcome::Result(text(now())),
        Some(name) => invalid(format!("there is no tool {name:?}")),
        None => invalid("tools/call needs a name"),
    }
}

fn read(params: &Value) -> Outcome {
    let Some(uri) = params["uri"].as_str() else { return invalid("resources/read needs a uri") };
    let content = match uri.strip_prefix(GREETING) {
        Some(name) if !name.is_empty() && !name.contains('/') => format!("Hello, {name}!"),
        _ if uri == WELCOME => "This is the server that comes with `forkgate demo`.".to_owned(),
        _ => return invalid(format!("there is no resource {uri}")),
    };
    Outcome::Result(json!({ "contents": [{ "uri": uri, "mimeType": "text/plain", "text": content }] }))
}

fn prompt(params: &Value) -> Outcome {
    match (params["name"].as_str(), params["arguments"]["who"].as_str()) {
        (Some("introduce"), Some(who)) => Outcome::Result(json!({
            "description": "Asks for a short introduction.",
            "messages": [{ "role": "user", "content": { "type": "text", "text": format!("Introduce {who} in two sentences.") } }]
        })),
        (Some("introduce"), None) => invalid("the prompt introduce needs the argument who"),
        _ => invalid("there is no such prompt"),
    }
}

fn now() -> String {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_answer() {
        let call = |name: &str, arguments: Value| call(&json!({ "name": name, "arguments": arguments }));
        assert_eq!(call("echo", json!({ "message": "x" })), Outcome::Result(text("x")));
        let Outcome::Result(sum) = call("add", json!({ "a": 9007199254740993i64, "b": 1 })) else {
            panic!("a result")
        };
        assert_eq!(sum["structuredContent"]["sum"], 9007199254740994i64);
        assert_eq!(call("countdown", json!({ "from": 3 })), Outcome::Countdown(3));
        let Outcome::Result(error) = call("countdown", json!({ "from": 101 })) else { panic!("a result") };
        assert_eq!(error["isError"], true);
        assert!(matches!(call("none", json!({})), Outcome::Error(INVALID_PARAMS, _)));
    }

    #[test]
    fn resources_and_prompts_answer() {
        let read = |uri: &str| answer("resources/read", &json!({ "uri": uri }));
        assert!(matches!(read(WELCOME), Outcome::Result(_)));
        let Outcome::Result(greeting) = read("demo://greeting/Ada") else { panic!("a result") };
        assert_eq!(greeting["contents"][0]["text"], "Hello, Ada!");
        assert!(matches!(read("demo://greeting/"), Outcome::Error(INVALID_PARAMS, _)));
        assert!(matches!(
            answer("prompts/get", &json!({ "name": "introduce" })),
            Outcome::Error(INVALID_PARAMS, _)
        ));
        assert!(matches!(answer("tasks/list", &json!({})), Outcome::Error(METHOD_NOT_FOUND, _)));
    }
}
