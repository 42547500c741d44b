//! The prefix that an upstream's names get at the federated endpoint.
//!
//! Invariant: a slug consists of `[a-z0-9_.-]`, neither starts nor ends with `-`, `_` or `.`, and does not contain the
//! separator (unless that is a single `-`), so a prefixed name stays within what MCP allows for tool names.

/// Makes `name` safe for tool names: lower case, every run of other characters becomes one `-`.
///
/// None when nothing usable is left, for instance of a name without any ASCII letter or digit.
pub fn slug(name: &str, separator: &str) -> Option<String> {
    let mut slug = String::with_capacity(name.len());
    for c in name.chars() {
        let safe = match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '_' | '.') => c,
            _ => '-',
        };
        if safe != '-' || !slug.ends_with('-') {
            slug.push(safe);
        }
    }
    if separator.len() > 1 {
        while slug.contains(separator) {
            slug = slug.replace(separator, "-");
        }
    }
    let trimmed = slug.trim_matches(['-', '_', '.']);
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::slug;

    #[test]
    fn names_become_safe_prefixes() {
        for (name, want) in [
            ("demo", Some("demo")),
            ("My Weather  Server!", Some("my-weather-server")),
            ("a__b", Some("a-b")),
            ("a_b.c-d", Some("a_b.c-d")),
            ("_x_", Some("x")),
            ("Ünïcode", Some("n-code")),
            ("天気", None),
            ("--", None),
            ("", None),
        ] {
            assert_eq!(slug(name, "__").as_deref(), want, "{name:?}");
        }
    }

    #[test]
    fn a_dash_as_separator_leaves_dashes_alone() {
        assert_eq!(slug("a b", "-").as_deref(), Some("a-b"));
    }
}
