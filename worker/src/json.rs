//! JSON text.

/// Text as a JSON string.
pub fn quote(text: &str) -> String {
    serde_json::to_string(text).expect("a string always serializes")
}
