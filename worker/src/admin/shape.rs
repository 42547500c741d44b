//! A JSON object in the making: fields in a stated order, parts of an upstream's definition as they are in its text.

use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

/// Fields and their values.
#[derive(Debug, Default)]
pub struct Shape(Vec<(String, Option<Box<RawValue>>)>);

impl Shape {
    /// Adds a field.
    pub fn put(&mut self, name: &'static str, value: impl Serialize) -> &mut Self {
        self.put_dynamic(name, &value)
    }

    /// Adds a field whose name is not known beforehand.
    pub fn put_dynamic(&mut self, name: &str, value: &impl Serialize) -> &mut Self {
        self.0.push((name.to_owned(), to_raw_value(value).ok()));
        self
    }

    /// Adds a field whose value is JSON text; `null` when there is none, or it is not JSON.
    pub fn raw(&mut self, name: &'static str, json: Option<&str>) -> &mut Self {
        self.0.push((name.to_owned(), json.and_then(|json| RawValue::from_string(json.to_owned()).ok())));
        self
    }

    /// Adds fields that this version has no value for; ContextForge's clients expect them to be there.
    pub fn nulls(&mut self, names: &[&'static str]) -> &mut Self {
        self.0.extend(names.iter().map(|name| ((*name).to_owned(), None)));
        self
    }
}

impl Serialize for Shape {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Who made an entry, who changed it, whose it is: the same fields in every kind of entry.
pub const AUDIT: [&str; 12] = [
    "createdFromIp",
    "createdVia",
    "createdUserAgent",
    "modifiedBy",
    "modifiedFromIp",
    "modifiedVia",
    "modifiedUserAgent",
    "importBatchId",
    "federationSource",
    "teamId",
    "team",
    "ownerEmail",
];

#[cfg(test)]
mod tests {
    use super::Shape;

    #[test]
    fn parts_stay_as_they_are() {
        let mut shape = Shape::default();
        shape.put("b", 1).raw("a", Some("{ \"x\":1.0e5 }")).raw("c", Some("{")).nulls(&["d"]);
        let want = r#"{"b":1,"a":{ "x":1.0e5 },"c":null,"d":null}"#;
        assert_eq!(serde_json::to_string(&shape).expect("json"), want);
    }
}
