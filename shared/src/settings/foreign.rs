//! Settings that another version of this program wrote down, read by this one.
//!
//! What both know is taken as it was written; what only this version knows, or writes differently, comes from where the
//! settings come from.

use std::io;
use std::os::fd::AsFd;

use serde_json::{Map, Value};

use super::{Settings, SettingsErrors, Sources};

/// Why settings cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// They are not there, or no JSON.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// This version needs more, and does not get it.
    #[error("{0}")]
    Sources(#[from] SettingsErrors),
}

impl Settings {
    /// What [`Settings::to_memfd`] of another version wrote; `sources` are read only when that is not enough.
    pub fn from_foreign(fd: impl AsFd, sources: &Sources) -> Result<Settings, ForeignError> {
        let bytes = crate::memfd::Bytes::open(&fd)?;
        if let Ok(settings) = serde_json::from_slice(bytes.as_ref()) {
            return Ok(settings);
        }
        let theirs: Map<String, Value> = serde_json::from_slice(bytes.as_ref()).map_err(io::Error::from)?;
        Ok(Settings::load(sources.clone())?.settings.with_known(theirs)?)
    }

    /// Every field of `theirs` that is one of ours.
    fn with_known(self, theirs: Map<String, Value>) -> io::Result<Settings> {
        let mut settings = self;
        for (name, value) in theirs {
            let mut draft = serde_json::to_value(&settings)?;
            if let Some(field) = draft.get_mut(&name) {
                *field = value;
                if let Ok(better) = serde_json::from_value(draft) {
                    settings = better;
                }
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sources(workers: &str) -> Sources {
        let flag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let secret = "0123456789abcdef".repeat(4);
        let flags = vec![
            flag("GATEWAY_JWT_SECRET", &secret),
            flag("GATEWAY_STATE_DIR", "/tmp"),
            flag("GATEWAY_WORKERS", workers),
        ];
        Sources { flags, ..Sources::default() }
    }

    #[test]
    fn what_both_versions_know_is_as_it_was_and_the_rest_comes_from_the_sources() {
        let running = Settings::load(sources("3")).expect("settings").settings;
        let mut written = serde_json::to_value(&running).expect("json");
        let fields = written.as_object_mut().expect("an object");
        fields.remove("max_body").expect("a setting");
        fields.insert("backlog".to_owned(), json!({"written": "differently"}));
        fields.insert("of_another_version".to_owned(), json!([1]));
        let memfd = crate::memfd::immutable("settings", written.to_string().as_bytes()).expect("memfd");
        let read = Settings::from_foreign(&memfd, &sources("5")).expect("read");
        assert_eq!(read, running, "three workers, and defaults for what is not known");
        let none = Settings::from_foreign(&memfd, &Sources::default()).expect_err("no secret anywhere");
        assert!(matches!(none, ForeignError::Sources(_)), "{none}");
    }

    #[test]
    fn what_is_no_settings_is_an_error() {
        let memfd = crate::memfd::immutable("settings", b"[]").expect("memfd");
        assert!(matches!(Settings::from_foreign(&memfd, &sources("1")), Err(ForeignError::Io(_))));
    }
}
