//! An upstream's URL as others may see it: query values are often keys (`?api_key=…`).
//!
//! Invariant: no answer of the API and no line of the log has a URL's query in any other form than this one.

use std::borrow::Cow;

use url::Url;

/// What stands in place of a secret.
pub const MASK: &str = "*****";
/// Shortest query value, in bytes, that is looked for in an upstream's own words: `1` or `no` would be found everywhere.
const MIN_SOUGHT: usize = 4;

/// The URL with its query values, and words that stand in the query alone, masked.
pub fn masked(url: &str) -> Cow<'_, str> {
    let Some((front, query)) = url.split_once('?') else { return Cow::Borrowed(url) };
    let pair = |pair: &str| match pair.split_once('=') {
        Some((key, _)) => format!("{key}={MASK}"),
        None if pair.is_empty() => String::new(),
        None => MASK.to_owned(),
    };
    let pairs: Vec<String> = query.split('&').map(pair).collect();
    Cow::Owned(format!("{front}?{}", pairs.join("&")))
}

/// An upstream's own words without the query values of its URL, which servers like to repeat.
pub fn without_query_values(url: &str, text: &str) -> String {
    let mut text = text.to_owned();
    let Ok(parsed) = Url::parse(url) else { return text };
    let raw = parsed.query().unwrap_or_default().split('&').map(|pair| match pair.split_once('=') {
        Some((_, value)) => value.to_owned(),
        None => pair.to_owned(),
    });
    let decoded = parsed.query_pairs().map(|(_, value)| value.into_owned());
    for value in raw.chain(decoded).filter(|value| value.len() >= MIN_SOUGHT) {
        text = text.replace(&value, MASK);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_values_are_masked_and_nothing_else() {
        for (url, shown) in [
            ("https://h/mcp", "https://h/mcp"),
            ("https://h:1/mcp?api_key=s3cret", "https://h:1/mcp?api_key=*****"),
            ("https://h/mcp?a=1&b=x%20y&&c=", "https://h/mcp?a=*****&b=*****&&c=*****"),
            ("https://h/mcp?s3cret", "https://h/mcp?*****"),
            ("https://h/?k=a=b", "https://h/?k=*****"),
        ] {
            assert_eq!(masked(url), shown);
        }
    }

    #[test]
    fn a_key_that_an_upstream_repeats_is_masked() {
        let url = "https://h/mcp?api_key=s%C3%A9cret&v=1";
        let text = without_query_values(url, "401: no such key sécret (/mcp?api_key=s%C3%A9cret&v=1)");
        assert_eq!(text, "401: no such key ***** (/mcp?api_key=*****&v=1)");
    }
}
