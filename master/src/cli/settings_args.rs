//! The options that say where settings come from; the same for every command that reads them.

use std::path::PathBuf;

use clap::Args;
use forkgate_shared::settings::Sources;

/// Where settings come from.
#[derive(Args)]
pub struct SourceArgs {
    /// TOML file of settings; read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// File of NAME=VALUE lines, as of systemd or ContextForge; read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// One setting, by any of its names; beats files and environment, may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
}

/// The same, and the settings that are given most often.
#[derive(Args)]
pub struct SettingsArgs {
    #[command(flatten)]
    sources: SourceArgs,
    /// Where clients connect: addresses with a port, unix:/path, separated by commas (GATEWAY_BIND)
    #[arg(long, value_name = "ADDRS")]
    bind: Option<String>,
    /// Address of the port of /metrics and /status (GATEWAY_ADMIN_BIND)
    #[arg(long, value_name = "ADDR")]
    admin_bind: Option<String>,
    /// Number of workers (GATEWAY_WORKERS)
    #[arg(long, value_name = "N")]
    workers: Option<String>,
}

impl SourceArgs {
    /// Sources with this process's environment; `flags` beat `--set`.
    pub fn into_sources(self, flags: Vec<(String, String)>) -> Sources {
        let all = self.set.into_iter().chain(flags).collect();
        Sources::capture(all, self.env_file, self.config)
    }
}

impl SettingsArgs {
    /// See [`SourceArgs::into_sources`].
    pub fn into_sources(self) -> Sources {
        let given = [
            ("GATEWAY_BIND", self.bind),
            ("GATEWAY_ADMIN_BIND", self.admin_bind),
            ("GATEWAY_WORKERS", self.workers),
        ];
        let flags = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        self.sources.into_sources(flags)
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
