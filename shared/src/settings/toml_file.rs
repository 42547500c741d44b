//! The TOML file: flat `name = value` pairs. A name is a setting's in lower case without `GATEWAY_`, or in full.

use std::collections::BTreeMap;

use toml::{Spanned, Value};

use super::table;

/// One pair of the file.
pub struct Pair {
    /// The key as written.
    pub written: String,
    /// The setting's name or alias it stands for; the upper-case key when it stands for none.
    pub name: String,
    /// The value as text.
    pub value: String,
    /// Line of the key, from 1.
    pub line: usize,
}

/// What is wrong with the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToml {
    /// Not TOML at all.
    #[error("line {line}: not TOML: {message}")]
    Syntax {
        /// Which line, from 1.
        line: usize,
        /// The parser's words.
        message: String,
    },
    /// A value that no setting has: a table, a date, a list of something else than texts and numbers.
    #[error("line {line}: {key} is a {kind}; settings are plain `name = value` pairs, without sections")]
    Kind {
        /// Which line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// What TOML calls such a value.
        kind: &'static str,
    },
}

/// All pairs, and everything that is wrong.
pub fn parse(text: &str) -> (Vec<Pair>, Vec<BadToml>) {
    let line_at = |offset: usize| text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
    let table: BTreeMap<Spanned<String>, Value> = match toml::from_str(text) {
        Ok(table) => table,
        Err(error) => {
            let line = line_at(error.span().map_or(0, |span| span.start));
            let message = error.message().replace('\n', " ");
            return (Vec::new(), vec![BadToml::Syntax { line, message }]);
        }
    };
    let (mut pairs, mut bad) = (Vec::new(), Vec::new());
    for (key, value) in &table {
        let line = line_at(key.span().start);
        let written = key.get_ref().clone();
        match scalar(value) {
            Some(value) => pairs.push(Pair { name: table::canonical(&written), written, value, line }),
            None => bad.push(BadToml::Kind { line, key: written, kind: value.type_str() }),
        }
    }
    pairs.sort_by_key(|pair| pair.line);
    (pairs, bad)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(yes) => Some(yes.to_string()),
        Value::Array(items) => Some(items.iter().map(scalar).collect::<Option<Vec<_>>>()?.join(",")),
        Value::Datetime(_) | Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_short_or_full_names_and_values_are_plain() {
        let text = "max_requests = 100\nGATEWAY_WORKERS = 3\ndatabase_url = 'sqlite:///a'\nauth_required = false\n\
                    allowed_hosts = ['a', 'b']\nport = 80\nlog_level = 'warn'\ntool_timeout = 1.5\n";
        let (pairs, bad) = parse(text);
        assert_eq!(bad, []);
        let got: Vec<_> = pairs.iter().map(|p| (p.name.as_str(), p.value.as_str(), p.line)).collect();
        assert_eq!(
            got,
            [
                ("GATEWAY_MAX_REQUESTS", "100", 1),
                ("GATEWAY_WORKERS", "3", 2),
                ("DATABASE_URL", "sqlite:///a", 3),
                ("GATEWAY_AUTH_REQUIRED", "false", 4),
                ("GATEWAY_ALLOWED_HOSTS", "a,b", 5),
                ("PORT", "80", 6),
                ("GATEWAY_LOG_LEVEL", "warn", 7),
                ("GATEWAY_TOOL_TIMEOUT", "1.5", 8),
            ]
        );
    }

    #[test]
    fn what_is_not_a_pair_is_named_with_its_line() {
        let (_, bad) = parse("workers = 1\n[server]\nport = 1\n");
        assert_eq!(
            bad.first().map(ToString::to_string).as_deref(),
            Some("line 2: server is a table; settings are plain `name = value` pairs, without sections")
        );
        let (_, bad) = parse("workers = 1\nbind = \n");
        assert!(matches!(bad.as_slice(), [BadToml::Syntax { line: 2, .. }]), "{bad:?}");
    }
}
