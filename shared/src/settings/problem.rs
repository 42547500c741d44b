//! What can be wrong with settings. Every problem of a run is reported, one line each; no line carries a secret.

use std::fmt;
use std::path::PathBuf;

use super::env_file::BadLine;
use super::parse::Invalid;
use super::secrets::HOW_TO_MAKE;
use super::sources::Origin;
use super::toml_file::BadToml;

/// One thing that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A value that the setting does not take.
    #[error("{name}={value} ({origin}): {why}; allowed: {allowed}")]
    Invalid {
        /// The name as it was written.
        name: String,
        /// The value, masked when it is a secret.
        value: String,
        /// Where it stands.
        origin: Origin,
        /// What is wrong with it.
        why: Invalid,
        /// What the setting takes.
        allowed: String,
    },
    /// A name that nothing is called.
    #[error("{name} ({origin}): there is no such setting{}", meant(.suggestion))]
    Unknown {
        /// The name as it was written.
        name: String,
        /// Where it stands.
        origin: Origin,
        /// What was probably meant.
        suggestion: Option<&'static str>,
    },
    /// The same setting twice in a file whose order means nothing.
    #[error("{name} ({origin}): the same setting is already given as {other}; keep one of them")]
    Twice {
        /// The name as it was written.
        name: String,
        /// Where it stands.
        origin: Origin,
        /// The other spelling.
        other: String,
    },
    /// `serve` needs a secret and makes up none: other gateways and token issuers must know it.
    #[error(
        "GATEWAY_JWT_SECRET (alias JWT_SECRET_KEY) is not set: tokens could not be checked; {HOW_TO_MAKE} and put it into \
         the environment, --env-file or --config"
    )]
    NoJwtSecret,
    /// There is no directory to keep state in.
    #[error(
        "GATEWAY_STATE_DIR is not set and neither is STATE_DIRECTORY, XDG_STATE_HOME or HOME; set it to a directory"
    )]
    NoStateDir,
    /// Both ports at one address.
    #[error(
        "GATEWAY_ADMIN_BIND={admin_bind} is the same port as GATEWAY_BIND={bind}; choose another port for one"
    )]
    SamePort {
        /// The main port.
        bind: String,
        /// The admin port.
        admin_bind: String,
    },
    /// A drain would be cut before its first phase is over.
    #[error(
        "GATEWAY_KEEPALIVE_GRACE={grace} is longer than GATEWAY_GRACEFUL_TIMEOUT={graceful}; the drain would end first: \
         lower the one or raise the other"
    )]
    GraceTooLong {
        /// The grace.
        grace: String,
        /// The timeout.
        graceful: String,
    },
    /// Streams would be cut before they are told to end.
    #[error(
        "GATEWAY_STREAM_DRAIN={drain} is longer than GATEWAY_GRACEFUL_TIMEOUT={graceful}; the drain would end first: lower \
         the one or raise the other"
    )]
    StreamDrainTooLong {
        /// The time for streams.
        drain: String,
        /// The timeout.
        graceful: String,
    },
    /// Root with another group would still be root.
    #[error("GATEWAY_GROUP={0} is given without GATEWAY_USER: name the user whom forkgate is to become, too")]
    GroupWithoutUser(String),
    /// The database would be in a directory that is not there.
    #[error("DATABASE_URL: there is no directory {0}; make it or choose another path")]
    NoDatabaseDirectory(PathBuf),
    /// A line of the env file.
    #[error("env file {path}: {bad}", path = .path.display())]
    EnvFile {
        /// Which file.
        path: PathBuf,
        /// Which line, and what.
        bad: BadLine,
    },
    /// Something in the TOML file.
    #[error("TOML file {path}: {bad}", path = .path.display())]
    Toml {
        /// Which file.
        path: PathBuf,
        /// Which line, and what.
        bad: BadToml,
    },
    /// A file that was asked for cannot be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// A file that cannot be one of settings.
    #[error("{path} is larger than {limit} bytes, that is no file of settings", path = .path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
}

fn meant(suggestion: &Option<&'static str>) -> String {
    match suggestion {
        Some(name) => format!(", did you mean {name}?"),
        None => "; `forkgate check --print` lists all names".to_owned(),
    }
}

/// Everything that is wrong, at least one problem. `Display` gives one line per problem.
#[derive(Debug, thiserror::Error)]
pub struct SettingsErrors {
    /// In the order of the table and the files.
    pub problems: Vec<Problem>,
}

impl fmt::Display for SettingsErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}
