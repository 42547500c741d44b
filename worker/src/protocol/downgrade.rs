//! Content that a client's revision cannot read, told as text.
//!
//! | content | known since | below that |
//! |---|---|---|
//! | `audio` | 2025-03-26 | a note |
//! | `resource_link` | 2025-06-18 | its name and URI |

use serde_json::value::RawValue;

use super::envelope::{Object, member, string};
use super::splice::Splice;
use crate::json::quote;

const FIRST_WITH_AUDIO: &str = "2025-03-26";
const FIRST_WITH_LINKS: &str = "2025-06-18";

/// Rewrites the content of a tool's or prompt's result for a client of `version`.
pub fn downgrade(splice: &mut Splice<'_>, result: &Object<'_>, version: &str) {
    // Versions are dates: their order is the order of their texts.
    if version >= FIRST_WITH_LINKS {
        return;
    }
    let items = |key| result.get(key).map(array).unwrap_or_default();
    let of_prompts = items("messages").into_iter().filter_map(|message| member(message, "content"));
    for item in items("content").into_iter().chain(of_prompts) {
        if let Some(text) = as_text(item, version) {
            splice.replace(item.get(), format!(r#"{{"type":"text","text":{}}}"#, quote(&text)));
        }
    }
}

fn array(raw: &RawValue) -> Vec<&RawValue> {
    serde_json::from_str(raw.get()).unwrap_or_default()
}

fn as_text(item: &RawValue, version: &str) -> Option<String> {
    let text = |key: &str| member(item, key).and_then(string).unwrap_or_default();
    match &*text("type") {
        "resource_link" => Some(format!("{}: {}", text("name"), text("uri"))),
        "audio" if version < FIRST_WITH_AUDIO => {
            Some(format!("[audio ({}) that protocol {version} has no content type for]", text("mimeType")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let text = r#"{"content":[{"type":"text","text":"a"}, {"type":"resource_link","uri":"x:y","name":"n"},{"type":"audio","mimeType":"audio/wav","data":""}],"messages":[{"role":"user","content":{"type":"audio","mimeType":"m"}}]}"#;
        let link = r#"{"type":"resource_link","uri":"x:y","name":"n"}"#;
        let audio =
            [r#"{"type":"audio","mimeType":"audio/wav","data":""}"#, r#"{"type":"audio","mimeType":"m"}"#];
        for (version, has_links, has_audio) in [
            ("2024-11-05", false, false),
            ("2025-03-26", false, true),
            ("2025-06-18", true, true),
            ("2025-11-25", true, true),
        ] {
            let object = Object::parse(text).expect("object");
            let mut splice = Splice::new(text);
            downgrade(&mut splice, &object, version);
            let out = String::from_utf8(splice.finish()).expect("UTF-8");
            serde_json::from_str::<serde_json::Value>(&out).expect("JSON");
            assert_eq!(out.contains(link), has_links, "{version} {out}");
            assert!(audio.iter().all(|audio| out.contains(audio) == has_audio), "{version} {out}");
            assert_eq!(out.contains(r#"{"type":"text","text":"n: x:y"}"#), !has_links, "{version} {out}");
            assert!(out.starts_with(r#"{"content":[{"type":"text","text":"a"}, {"#));
        }
    }
}
