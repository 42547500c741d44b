//! Byte splicing: a JSON text with a few places replaced, everything else as it was.

use std::borrow::Cow;
use std::ops::Range;

use super::envelope::{Object, span};

/// A text and what is to be changed in it. Changes must not overlap.
pub struct Splice<'a> {
    text: &'a str,
    edits: Vec<(Range<usize>, Cow<'a, str>)>,
}

impl<'a> Splice<'a> {
    /// Nothing changed yet.
    pub fn new(text: &'a str) -> Splice<'a> {
        Splice { text, edits: Vec::with_capacity(4) }
    }

    /// Replaces `part`, which is a slice of the text.
    pub fn replace(&mut self, part: &str, with: impl Into<Cow<'a, str>>) {
        self.edits.push((span(self.text, part), with.into()));
    }

    /// Removes the members of `object` (which is part of the text) whose key satisfies `remove`, and puts `add` (members
    /// without the surrounding braces, may be empty) before the ones that stay.
    pub fn edit(&mut self, object: &Object<'_>, remove: impl Fn(&str) -> bool, add: &str) {
        let base = span(self.text, object.text()).start;
        let inside = base + 1;
        // (key's start, value's end, whether it goes)
        let mut start = inside;
        let mut members: Vec<(usize, usize, bool)> = Vec::new();
        for (key, value) in object.members() {
            let end = span(self.text, value.get()).end;
            members.push((start, end, remove(key)));
            start = self.text[end..].find(',').map_or(end, |comma| end + comma + 1);
        }
        let last_kept = members.iter().rposition(|&(_, _, goes)| !goes);
        if !add.is_empty() {
            let comma = if last_kept.is_some() { "," } else { "" };
            self.edits.push((inside..inside, Cow::Owned(format!("{add}{comma}"))));
        }
        for (index, &(start, _, goes)) in members.iter().enumerate() {
            if goes && last_kept.is_some_and(|kept| index < kept) {
                self.edits.push((start..members[index + 1].0, Cow::Borrowed("")));
            }
        }
        let tail = last_kept.map_or(inside, |kept| members[kept].1);
        let end = members.last().map_or(inside, |&(_, end, _)| end);
        if tail < end {
            self.edits.push((tail..end, Cow::Borrowed("")));
        }
    }

    /// The changed text.
    pub fn finish(mut self) -> Vec<u8> {
        self.edits.sort_by_key(|(range, _)| range.start);
        let grown: usize = self.edits.iter().map(|(_, with)| with.len()).sum();
        let mut out = Vec::with_capacity(self.text.len() + grown);
        let mut at = 0;
        for (range, with) in &self.edits {
            out.extend_from_slice(&self.text.as_bytes()[at..range.start]);
            out.extend_from_slice(with.as_bytes());
            at = range.end;
        }
        out.extend_from_slice(&self.text.as_bytes()[at..]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edited(text: &str, remove: &[&str], add: &str) -> String {
        let object = Object::parse(text).expect("object");
        let mut splice = Splice::new(text);
        splice.edit(&object, |key| remove.contains(&key), add);
        String::from_utf8(splice.finish()).expect("UTF-8")
    }

    #[test]
    fn members_come_and_go_and_the_rest_stays() {
        for (text, remove, add, want) in [
            (r#"{"a":1,"b":2,"c":3}"#, &["a"][..], "", r#"{"b":2,"c":3}"#),
            (r#"{"a":1, "b" : 2 ,"c":3}"#, &["b"], "", r#"{"a":1,"c":3}"#),
            (r#"{"a":1,"b":2,"c":3 }"#, &["c"], "", r#"{"a":1,"b":2 }"#),
            (r#"{"a":1,"b":2,"c":3}"#, &["a", "c"], "", r#"{"b":2}"#),
            (r#"{"a":1,"b":2,"c":3}"#, &["b", "c"], r#""z":0"#, r#"{"z":0,"a":1}"#),
            (r#"{"a":1}"#, &["a"], "", "{}"),
            (r#"{"a":1}"#, &["a"], r#""z":0"#, r#"{"z":0}"#),
            ("{}", &[], r#""z":0"#, r#"{"z":0}"#),
            ("{ }", &[], r#""z":0"#, r#"{"z":0 }"#),
            (r#"{"a":",","a":"}"}"#, &["a"], "", "{}"),
            (r#"{"a":1e400,"b":","}"#, &[], r#""z":0"#, r#"{"z":0,"a":1e400,"b":","}"#),
        ] {
            assert_eq!(edited(text, remove, add), want, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_stays_is_what_was_there(members in prop::collection::vec(("[a-d]", r#"[1-9][0-9]{0,30}|"[a-z,{}]{0,5}"|\[1, 2\]|\{"x" : 1e999\}"#, " {0,2}"), 0..8), remove in "[a-d]", add in any::<bool>()) {
            let join = |members: &[&(String, String, String)]| members.iter()
                .map(|(key, value, gap)| format!("{gap}\"{key}\"{gap}:{gap}{value}")).collect::<Vec<_>>();
            let text = format!("{{{}}}", join(&members.iter().collect::<Vec<_>>()).join(","));
            let mut want = join(&members.iter().filter(|(key, _, _)| *key != remove).collect::<Vec<_>>());
            if add { want.insert(0, "\"new\":0".to_owned()); }
            prop_assert_eq!(edited(&text, &[&remove], if add { "\"new\":0" } else { "" }), format!("{{{}}}", want.join(",")));
        }
    }
}
