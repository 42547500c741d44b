//! The command line: what can be asked for, and which exit code says how it went.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done, or stopped as asked |
//! | 3 | a worker failed to boot |
//! | 4 | the settings are not valid, or do not work here |
//! | 64 | wrong usage |
//! | 1 | anything else |

mod check;
mod ctl;
mod demo;
mod health;
mod hook;
mod install;
mod output;
mod report;
mod serve;
mod settings_args;
mod token;
mod top;
mod upgrade;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use forkgate_shared::settings::{Settings, docs, parse};

use settings_args::{SettingsArgs, SourceArgs};

/// What `--version` says.
const VERSION: &str = if cfg!(feature = "faults") {
    concat!(env!("CARGO_PKG_VERSION"), "+faults")
} else {
    env!("CARGO_PKG_VERSION")
};
/// Exit code for settings that are not valid.
const SETTINGS_INVALID: u8 = 4;
/// Exit code for wrong usage (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;
/// Longest life of a token, in days: a longer one is a password that nobody changes.
const MAX_TTL_DAYS: u64 = 365;

const EXAMPLES: &str = "\
Try it:
  forkgate demo                       a gateway with a bundled upstream; prints what to paste

Run it:
  export GATEWAY_JWT_SECRET=$(openssl rand -hex 32)
  forkgate check --print              what would be in force, and where it comes from
  forkgate serve                      MCP clients connect to http://127.0.0.1:4444/mcp
  forkgate install --system --now     the same as a service of systemd
  forkgate token create --sub me --admin
  forkgate ctl status                 the whole; `ctl workers`: a line per worker; `ctl worker 0`: all about one
  forkgate ctl top                    the same, live, with keys to recycle, pause and read why
  forkgate ctl reload                 put changed settings into force; says how that went
  forkgate ctl upgrade                put the binary that is installed now in place of the running one
  forkgate ctl why 0                  why the last worker of slot 0 was killed or died
  forkgate ctl pause 0                no new clients for slot 0, until `ctl resume 0`
  forkgate ctl worker 0 recycle       a new worker in slot 0; `kill`, `dump`: see `ctl worker --help`
  forkgate ctl scale +1               one worker more
  forkgate ctl drain                  finish what was begun, end, and say when that is so

Steer it (signals to the master):
  HUP    re-read --env-file and --config, replace the workers one by one, lose nothing
  TTIN   one worker more
  TTOU   one worker less
  USR1   open the log file anew
  USR2   become the program that is installed now, replace the workers one by one, lose nothing
  TERM   finish what was begun, then leave
  INT    leave now

Exit codes: 0 done, 3 a worker failed to boot, 4 settings not valid, 64 wrong usage, 1 anything else.
All settings, with units, defaults and reasons: docs/settings.md";

/// Keeps N workers alive on one port, each a complete MCP gateway; any of them can be replaced at any moment and no
/// client notices.
#[derive(Parser)]
#[command(name = "forkgate", version = VERSION, after_help = EXAMPLES, arg_required_else_help = true, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway in the foreground
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(SettingsArgs),
    /// Run a gateway with a bundled upstream and a ready-made token; Ctrl-C leaves nothing behind
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(DemoArgs),
    /// Check the settings; writes nothing, listens nowhere
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        #[command(flatten)]
        settings: SettingsArgs,
        /// Print every setting in force and where it comes from, secrets masked
        #[arg(long)]
        print: bool,
    },
    /// Make tokens for clients and administrators
    #[command(subcommand)]
    Token(TokenCommand),
    /// Talk to a running master
    #[command(subcommand)]
    Ctl(ctl::CtlCommand),
    /// Tell why a worker was killed or died: shows a crash report
    #[command(after_help = REPORT_EXAMPLES)]
    Report {
        /// The report; without it the newest one of the state directory
        #[arg(value_name = "FILE")]
        file: Option<std::path::PathBuf>,
        /// Print the JSON as it is in the file
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        sources: SourceArgs,
    },
    /// Ask the running gateway whether it is ready; for HEALTHCHECK and scripts
    #[command(after_help = health::EXAMPLES)]
    Health(SourceArgs),
    /// Install the service: units, user, settings with a secret of their own; shows first what it would do
    #[command(after_help = install::INSTALL_EXAMPLES)]
    Install(install::InstallArgs),
    /// Remove what `install` made
    #[command(after_help = install::UNINSTALL_EXAMPLES)]
    Uninstall(install::UninstallArgs),
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        slot: u32,
        #[arg(long)]
        row: usize,
        #[arg(long)]
        generation: u64,
        #[arg(long)]
        listeners: usize,
        #[arg(long)]
        admin_listeners: usize,
    },
    #[command(hide = true)]
    Hook {
        #[arg(last = true, required = true)]
        words: Vec<std::ffi::OsString>,
    },
    #[command(hide = true)]
    Migrate,
    #[command(hide = true)]
    UpgradeCheck,
    #[command(hide = true)]
    ReloadCheck,
    #[command(hide = true)]
    DemoCompanion {
        #[arg(long)]
        json: bool,
        #[arg(long)]
        master: u32,
    },
    /// Print generated documentation
    #[command(subcommand, hide = true)]
    Docs(DocsCommand),
}

const SERVE_EXAMPLES: &str = "\
Examples:
  GATEWAY_JWT_SECRET=$(openssl rand -hex 32) forkgate serve
  forkgate serve --env-file /etc/forkgate/forkgate.env
  forkgate serve --config forkgate.toml --bind 0.0.0.0:4444 --workers 4
  forkgate serve --env-file .env --set max_requests=100000 --set max_requests_jitter=10000

A ContextForge .env works as --env-file.";

const DEMO_EXAMPLES: &str = "\
Examples:
  forkgate demo
  forkgate demo --json                one line: {\"mcp_url\", \"token\", \"admin_url\", \"pid\"}
  forkgate demo --bind 127.0.0.1:8080 --admin-bind 127.0.0.1:8081

The environment is not read. State is kept in a temporary directory that is removed at the end.";

const CHECK_EXAMPLES: &str = "\
Examples:
  forkgate check --env-file /etc/forkgate/forkgate.env && systemctl reload forkgate
  forkgate check --config forkgate.toml --print

Exit code 4, and one line per problem, when the settings are not valid.";

const TOKEN_EXAMPLES: &str = "\
Examples:
  forkgate token create --sub alice
  forkgate token create --sub deploy --admin --ttl 10m --env-file /etc/forkgate/forkgate.env
  curl -H \"Authorization: Bearer $(forkgate token create --sub me --admin)\" http://127.0.0.1:4444/v1/tools

The settings must be the gateway's: the token is signed with its GATEWAY_JWT_SECRET.";

const REPORT_EXAMPLES: &str = "\
Examples:
  forkgate report                     the newest one
  forkgate report /var/lib/forkgate/crash/20261120T130509.120Z-slot1-gen4-spin.json
  forkgate report --json --set state_dir=/var/lib/forkgate | jq .culprits

Reports are kept in the directory crash of the state directory, so the settings must name the same one.";

#[derive(Args)]
struct DemoArgs {
    /// Print one line of JSON instead of instructions
    #[arg(long)]
    json: bool,
    /// Address of the main port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4444")]
    bind: String,
    /// Address of the port of /metrics and /status
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4445")]
    admin_bind: String,
    /// Number of workers
    #[arg(long, value_name = "N", default_value = "2")]
    workers: String,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Print a token, and nothing else, on stdout
    #[command(after_help = TOKEN_EXAMPLES)]
    Create {
        /// Who the token is for
        #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
        sub: String,
        /// May change the registry
        #[arg(long)]
        admin: bool,
        /// How long it is valid: seconds, or 10m, 1h, 30d
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = ttl)]
        ttl: Duration,
        #[command(flatten)]
        settings: SettingsArgs,
    },
}

#[derive(Subcommand)]
enum DocsCommand {
    /// Print docs/settings.md
    Settings,
}

/// Does what the command line asks for.
pub fn run() -> ExitCode {
    if let Some(code) = upgrade::resume() {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap prints help and version to stdout and mistakes to stderr; a reader that went away is no matter.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Serve(settings) => serve::run(settings.into_sources()),
        Command::Demo(args) => demo::run(args),
        Command::Check { settings, print } => check::run(settings.into_sources(), print),
        Command::Token(TokenCommand::Create { sub, admin, ttl, settings }) => {
            token::create(settings.into_sources(), &sub, admin, ttl)
        }
        Command::Ctl(command) => ctl::run(command),
        Command::Report { file: Some(file), json, .. } => report::show(&file, json),
        Command::Report { file: None, json, sources } => {
            with_state_dir(sources, |directory| report::newest(directory, json))
        }
        Command::Health(sources) => health::run(sources.into_sources(Vec::new())),
        Command::Install(args) => install::install(args),
        Command::Uninstall(args) => install::uninstall(args),
        Command::Worker { slot, row, generation, listeners, admin_listeners } => {
            let who = forkgate_worker::Identity { slot, row, generation };
            forkgate_worker::run_worker(who, listeners, admin_listeners)
        }
        Command::Hook { words } => hook::run(&words),
        Command::Migrate => forkgate_worker::run_migrate(),
        Command::UpgradeCheck => upgrade::check(),
        Command::ReloadCheck => forkgate_worker::run_check(),
        Command::DemoCompanion { json, master } => forkgate_worker::run_demo_companion(json, master),
        Command::Docs(DocsCommand::Settings) => output::print(&docs::render()),
    }
}

/// Does something with the state directory that the settings name.
fn with_state_dir(sources: SourceArgs, run: impl FnOnce(&std::path::Path) -> ExitCode) -> ExitCode {
    match Settings::state_dir_of(&sources.into_sources(Vec::new())) {
        Ok(directory) => run(&directory),
        Err(errors) => invalid(&errors),
    }
}

/// Reports settings that are not valid.
fn invalid(errors: &forkgate_shared::settings::SettingsErrors) -> ExitCode {
    output::complain("error", &errors.to_string());
    ExitCode::from(SETTINGS_INVALID)
}

fn ttl(text: &str) -> Result<Duration, String> {
    let longest = Duration::from_secs(MAX_TTL_DAYS * 24 * 3600);
    match parse::duration(text) {
        Ok(ttl) if ttl >= Duration::from_secs(1) && ttl <= longest => Ok(ttl),
        Ok(_) => Err(format!("allowed: 1s to {MAX_TTL_DAYS}d")),
        Err(error) => Err(format!("{error}; write seconds, or 10m, 1h, 30d")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_what_a_user_starts_and_hides_what_the_master_starts() {
        let help = Cli::command().render_long_help().to_string();
        for shown in ["serve", "demo", "check", "token", "ctl", "report", "health", "install", "uninstall"] {
            assert!(help.contains(&format!("\n  {shown} ")), "{shown}: {help}");
        }
        for hidden in ["upgrade-check", "reload-check", "migrate", "demo-companion", "--slot"] {
            assert!(!help.contains(hidden), "{hidden}: {help}");
        }
    }

    #[test]
    fn the_example_of_a_report_has_a_name_that_reports_have() {
        let path = REPORT_EXAMPLES.split_whitespace().find(|word| word.ends_with(".json")).expect("a path");
        let name = path.rsplit('/').next().expect("a name");
        assert_eq!(crate::system::slot_of_report(name), Some(1), "{name}");
    }

    #[test]
    fn a_life_of_a_token_is_bounded() {
        assert_eq!(ttl("1h"), Ok(Duration::from_secs(3600)));
        assert!(ttl("0").is_err() && ttl("400d").is_err() && ttl("soon").is_err());
    }
}
