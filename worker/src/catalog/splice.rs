//! Changes single members of a JSON object in its text and leaves every other byte as it is.

use std::fmt;
use std::ops::Range;

use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

/// The text is not one JSON object.
#[derive(Debug, thiserror::Error)]
#[error("not a JSON object: {0}")]
pub struct NotAnObject(#[from] serde_json::Error);

/// One member of an object: its key, unescaped, and where its value stands in the text.
#[derive(Debug, PartialEq, Eq)]
struct Member {
    key: String,
    value: Range<usize>,
}

/// An object's text and where its members stand.
#[derive(Debug)]
pub struct Object<'a> {
    raw: &'a str,
    members: Vec<Member>,
}

struct Members<'a>(&'a str);

impl<'de> Visitor<'de> for Members<'de> {
    type Value = Vec<Member>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Member>, A::Error> {
        let mut members = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
            // The value borrows from the text, so the difference of the addresses is its position.
            let start = value.get().as_ptr() as usize - self.0.as_ptr() as usize;
            members.push(Member { key, value: start..start + value.get().len() });
        }
        Ok(members)
    }
}

impl<'a> Object<'a> {
    /// Finds the members of an object.
    pub fn parse(raw: &'a str) -> Result<Object<'a>, NotAnObject> {
        let mut deserializer = serde_json::Deserializer::from_str(raw);
        let members = deserializer.deserialize_map(Members(raw))?;
        deserializer.end()?;
        Ok(Object { raw, members })
    }

    /// The text of a member's value; of the last one when the key is there twice, as most parsers take it.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.members.iter().rfind(|member| member.key == key).map(|member| &self.raw[member.value.clone()])
    }

    /// The value of a member that is a string.
    pub fn string(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.get(key)?).ok()
    }

    /// The text with the value of every member called `key` replaced by `value`, which is JSON text.
    pub fn replace(&self, key: &str, value: &str) -> String {
        let mut out = String::with_capacity(self.raw.len() + value.len());
        let mut copied = 0;
        for member in self.members.iter().filter(|member| member.key == key) {
            out.push_str(&self.raw[copied..member.value.start]);
            out.push_str(value);
            copied = member.value.end;
        }
        out.push_str(&self.raw[copied..]);
        out
    }

    /// The text without the members called `key`.
    pub fn remove(&self, key: &str) -> String {
        let open = self.raw.find('{').map_or(0, |brace| brace + 1);
        let mut out = String::with_capacity(self.raw.len());
        out.push_str(&self.raw[..open]);
        let mut kept = false;
        let mut previous = open;
        for (index, member) in self.members.iter().enumerate() {
            let end = member.value.end;
            if member.key != key {
                let text = &self.raw[previous..end];
                // The first one that stays leaves the comma that stood before it.
                let first_after_removed = !kept && index > 0;
                out.push_str(if first_after_removed {
                    text.trim_start().trim_start_matches(',')
                } else {
                    text
                });
                kept = true;
            }
            previous = end;
        }
        out.push_str(&self.raw[previous..]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_value_changes() {
        let raw = "{ \"big\": 12345678901234567890.000, \"na\\u006de\" :\t\"a\\/b\", \"x\":{\"name\":1} }";
        let object = Object::parse(raw).expect("object");
        assert_eq!(object.string("name").as_deref(), Some("a/b"));
        assert_eq!(
            object.replace("name", "\"p__a/b\""),
            "{ \"big\": 12345678901234567890.000, \"na\\u006de\" :\t\"p__a/b\", \"x\":{\"name\":1} }"
        );
    }

    #[test]
    fn members_are_removed_wherever_they_stand() {
        for (raw, want) in [
            (r#"{"k":1,"a":2, "b":3}"#, r#"{"a":2, "b":3}"#),
            (r#"{"a":2, "k":[1,{"k":2}] ,"b":3 }"#, r#"{"a":2 ,"b":3 }"#),
            (r#"{"a":2,"k":null}"#, r#"{"a":2}"#),
            (r#"{"k":1,"a":2,"k":3}"#, r#"{"a":2}"#),
            (r#"{ "k":1 }"#, "{ }"),
            (r#"{ "a":1, "b":2 }"#, r#"{ "a":1, "b":2 }"#),
            (r#"{"a": {"k":1}}"#, r#"{"a": {"k":1}}"#),
        ] {
            assert_eq!(Object::parse(raw).expect("object").remove("k"), want, "{raw}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for raw in ["", "[]", "{\"a\":1} x", "{\"a\"", "null"] {
            assert!(Object::parse(raw).is_err(), "{raw}");
        }
    }

    proptest::proptest! {
        #[test]
        fn removing_agrees_with_a_parser(keys in proptest::collection::vec("[ak\",{ ]{1,3}", 0..6), pad in "[ \n]{0,2}") {
            let mut members: Vec<String> = Vec::new();
            for key in &keys {
                members.push(format!("{pad}{}{pad}:{pad}\"v,{{\"", serde_json::to_string(key).expect("json")));
            }
            let raw = format!("{{{}{pad}}}", members.join(","));
            let object = Object::parse(&raw).expect("object");
            for key in keys.iter().map(String::as_str).chain(["absent"]) {
                let got: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_str(&object.remove(key)).expect("still an object");
                let mut want: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&raw).expect("object");
                want.remove(key);
                proptest::prop_assert_eq!(got, want);
            }
        }
    }
}
