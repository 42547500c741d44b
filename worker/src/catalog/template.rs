//! URI templates (RFC 6570), as far as routing needs them: may this template have produced this URI?
//!
//! `{var}` stands for one or more characters except `/`; `{+var}` and `{#var}` for one or more of any; every other
//! operator for any text, also none. A match only chooses the upstream, which then decides whether the resource exists,
//! so matching a little too much is an answer "not found" from somebody else.

/// Longest URI that is matched, in bytes; longer ones belong to no template.
const MAX_URI: usize = 8 * 1024;
/// Most parts a template may have: bounds the work of one match to `MAX_PARTS` × `MAX_URI` steps.
const MAX_PARTS: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// Characters other than `/`, at least one.
    Segment,
    /// Any characters, at least one.
    Some,
    /// Any characters.
    Any,
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UriTemplate(Vec<Part>);

impl UriTemplate {
    /// Parses a template; none when a brace has no partner or there are more than 64 parts.
    pub fn parse(text: &str) -> Option<UriTemplate> {
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if parts.len() >= MAX_PARTS {
                return None;
            }
            let literal = &rest[..rest.find(['{', '}']).unwrap_or(rest.len())];
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
                rest = &rest[literal.len()..];
                continue;
            }
            let expression = &rest[rest.strip_prefix('{').map(|_| 1)?..rest.find('}')?];
            parts.push(match expression.chars().next()? {
                '+' | '#' => Part::Some,
                '/' | '.' | ';' | '?' | '&' => Part::Any,
                _ => Part::Segment,
            });
            rest = &rest[expression.len() + 2..];
        }
        Some(UriTemplate(parts))
    }

    /// True when the template may have produced `uri`.
    pub fn matches(&self, uri: &str) -> bool {
        let uri = uri.as_bytes();
        if uri.len() > MAX_URI {
            return false;
        }
        // reachable[i]: the parts so far can end before byte i.
        let mut reachable = vec![false; uri.len() + 1];
        reachable[0] = true;
        for part in &self.0 {
            let mut next = vec![false; uri.len() + 1];
            match part {
                Part::Literal(literal) => {
                    for start in (0..=uri.len()).filter(|&start| reachable[start]) {
                        if uri[start..].starts_with(literal.as_bytes()) {
                            next[start + literal.len()] = true;
                        }
                    }
                }
                Part::Any => {
                    let first = reachable.iter().position(|&open| open).unwrap_or(uri.len() + 1);
                    next.iter_mut().skip(first).for_each(|open| *open = true);
                }
                Part::Some | Part::Segment => {
                    let mut open = false;
                    for (at, &byte) in uri.iter().enumerate() {
                        open = (open || reachable[at]) && (*part == Part::Some || byte != b'/');
                        next[at + 1] = open;
                    }
                }
            }
            reachable = next;
        }
        reachable[uri.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::UriTemplate;

    #[test]
    fn templates_match_what_they_can_produce() {
        for (template, uri, want) in [
            ("demo://note/{id}", "demo://note/7", true),
            ("demo://note/{id}", "demo://note/", false),
            ("demo://note/{id}", "demo://note/7/8", false),
            ("demo://{a}/x/{b}", "demo://1/x/2", true),
            ("demo://{a}/x/{b}", "demo://1/y/2", false),
            ("demo://{a}-{b}", "demo://1-2-3", true),
            ("file:///{+path}", "file:///a/b/c.txt", true),
            ("file:///{+path}", "file:///", false),
            ("demo://q{?x,y}", "demo://q?x=1&y=2", true),
            ("demo://q{?x,y}", "demo://q", true),
            ("plain://x", "plain://x", true),
            ("plain://x", "plain://xy", false),
            ("u://{v}", "u://ü", true),
        ] {
            let parsed = UriTemplate::parse(template).expect("template");
            assert_eq!(parsed.matches(uri), want, "{template} {uri}");
        }
    }

    #[test]
    fn broken_or_huge_templates_are_none() {
        let huge = "a{b}".repeat(40);
        for template in ["a{b", "a}b", "{}", huge.as_str()] {
            assert_eq!(UriTemplate::parse(template), None, "{template}");
        }
    }

    #[test]
    fn a_long_uri_is_no_match_and_no_long_wait() {
        let template = UriTemplate::parse(&"{a}-".repeat(30)).expect("template");
        assert!(!template.matches(&"-".repeat(9000)));
        assert!(!template.matches(&format!("{}x", "a-".repeat(4000))));
    }
}
