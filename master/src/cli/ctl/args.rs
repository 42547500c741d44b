//! What `forkgate ctl` can be asked, and which function answers it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::Scaling;
use crate::cli::settings_args::SourceArgs;
use crate::cli::{top, with_state_dir};

const STATUS_EXAMPLES: &str = "\
Examples:
  forkgate ctl status
  forkgate ctl status --json --set state_dir=/var/lib/forkgate

The master is found by its state directory, so the settings must name the same one.";

const WORKERS_EXAMPLES: &str = "\
Examples:
  forkgate ctl workers                one line per worker process, those that start and that leave too
  forkgate ctl workers --json | jq '.workers[] | select(.phase == \"draining\")'";

const WORKER_EXAMPLES: &str = "\
Examples:
  forkgate ctl worker 2               everything about slot 2: its workers, their requests, their event loops
  forkgate ctl worker 2 recycle       a new worker in its place; loses nothing
  forkgate ctl worker 2 dump          a report of what it does, as for a crash; harms nothing
  forkgate ctl worker 2 kill          a new worker in its place; the old one is reported and killed with what it holds
  forkgate ctl worker 2 pause         as `ctl pause 2`

recycle ends when the new worker serves and the old one drains, kill when the old one is gone. Exit code 1 with the reason when
that did not happen.";

const SCALE_EXAMPLES: &str = "\
Examples:
  forkgate ctl scale 8
  forkgate ctl scale +1               two of these at once are two workers more
  forkgate ctl scale -1

Ends when there are so many, and all are ready. Up to four more than were configured at start; a reload that changes \
GATEWAY_WORKERS sets the number anew. A slot that goes away takes three to four seconds.";

const DRAIN_EXAMPLES: &str = "\
Examples:
  forkgate ctl drain && echo the gateway has ended

Does what TERM does, says each second what is left, and ends when the master has ended. Under systemd use `systemctl stop`.";

const SETTINGS_EXAMPLES: &str = "\
Examples:
  forkgate ctl settings               what the running gateway uses, in the form of an env file
  forkgate ctl settings --diff        what is not as it comes, and what a reload would change now

`forkgate check --print` shows what a new start would use.";

const EVENTS_EXAMPLES: &str = "\
Examples:
  forkgate ctl events                 the last thousand or so
  forkgate ctl events --follow        and what happens from now on; an upgrade does not end it
  forkgate ctl events --follow --json | jq -r 'select(.event == \"killed\")'

A reader that is too slow misses the oldest and is told how many.";

const UPGRADE_EXAMPLES: &str = "\
Examples:
  install -m 755 forkgate /usr/local/bin/forkgate && forkgate ctl upgrade
  forkgate ctl upgrade --binary /opt/forkgate-1.3/forkgate

Exit code 0 when all workers run the new binary, 1 with the reason when none does. It waits up to a minute for a reload or a
recycling that is under way. Nothing is lost either way.";

const RELOAD_EXAMPLES: &str = "\
Examples:
  forkgate ctl reload && echo the new settings rule
  forkgate ctl reload --check-only    would it work? changes nothing
  forkgate ctl reload --json | jq -r .error

Does what HUP does, and waits for its end: exit code 0 when all workers have the new settings, 1 with the reason when the
old ones stay in force. When a reload is under way, the next one begins after it.";

const WHY_EXAMPLES: &str = "\
Examples:
  forkgate ctl why 0                  the last worker of slot 0 that was killed or died
  forkgate ctl why 0 --json | jq .report.culprits";

const PAUSE_EXAMPLES: &str = "\
Examples:
  forkgate ctl pause 2                then look at its worker in peace: strace, a debugger, a profile
  forkgate ctl resume 2

Refused for the last slot that takes new clients. Clients of a unix socket are taken by whichever worker is free, a paused \
one too.";

#[derive(Subcommand)]
pub enum CtlCommand {
    /// Show workers, requests, recycles
    #[command(after_help = STATUS_EXAMPLES)]
    Status(ShowArgs),
    /// Watch the gateway live: slots, rates, memory; recycle, pause and read why with a key
    #[command(after_help = top::EXAMPLES)]
    Top(top::TopArgs),
    /// Show one line per worker: state, age, requests, memory, load, and why it leaves
    #[command(after_help = WORKERS_EXAMPLES)]
    Workers(ShowArgs),
    /// Show everything about one slot, or do something with its worker
    #[command(after_help = WORKER_EXAMPLES)]
    Worker {
        /// Which slot, see `ctl workers`
        slot: u32,
        /// What to do
        action: Option<WorkerAction>,
        /// Kill without asking
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        show: ShowArgs,
    },
    /// Have so many workers
    #[command(after_help = SCALE_EXAMPLES)]
    Scale {
        /// How many, or how many more (+1) or fewer (-1)
        #[arg(value_name = "N|+N|-N", allow_negative_numbers = true, value_parser = scaling)]
        workers: Scaling,
        #[command(flatten)]
        show: ShowArgs,
    },
    /// Put the settings into force as they are in the files now, and say how that went
    #[command(after_help = RELOAD_EXAMPLES)]
    Reload {
        /// Only let the master check them, as it would before a reload
        #[arg(long)]
        check_only: bool,
        #[command(flatten)]
        show: ShowArgs,
    },
    /// Put another binary in the place of the running one: same pid, same sockets; and say how that went
    #[command(after_help = UPGRADE_EXAMPLES)]
    Upgrade {
        /// The binary; without it the one that is now where the running one was started from
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
        #[command(flatten)]
        show: ShowArgs,
    },
    /// Show the settings in force, and where each comes from; secrets masked
    #[command(after_help = SETTINGS_EXAMPLES)]
    Settings {
        /// Only those that differ from their defaults, and how the files differ now from what is in force
        #[arg(long)]
        diff: bool,
        #[command(flatten)]
        show: ShowArgs,
    },
    /// Open the log file anew, in all processes, as after logrotate has moved it
    Reopen(ShowArgs),
    /// Finish what was begun, then end
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain(ShowArgs),
    /// Tell what has happened, and what happens: starts, replacements, kills, reloads, upgrades
    #[command(after_help = EVENTS_EXAMPLES)]
    Events {
        /// Go on with what happens from now on, until the master ends
        #[arg(long)]
        follow: bool,
        #[command(flatten)]
        show: ShowArgs,
    },
    /// Tell why the last worker of a slot was killed or died
    #[command(after_help = WHY_EXAMPLES)]
    Why {
        /// Which slot, see `ctl status`
        slot: u32,
        #[command(flatten)]
        show: ShowArgs,
    },
    /// Send a slot no new clients; its worker goes on with those it has
    #[command(after_help = PAUSE_EXAMPLES)]
    Pause(SlotArgs),
    /// Let a paused slot have new clients again
    Resume(SlotArgs),
}

/// What can be done with a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WorkerAction {
    /// Replace it; loses nothing
    Recycle,
    /// Replace it, report it, kill it
    Kill,
    /// Write a report of what it does
    Dump,
    /// Send its slot no new clients
    Pause,
    /// Let its slot have new clients again
    Resume,
}

/// Which master is meant.
#[derive(Args)]
pub struct MasterArgs {
    /// The master's control socket, when it is not where the settings say
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    sources: SourceArgs,
}

/// Which master, and how it is shown.
#[derive(Args)]
pub struct ShowArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    master: MasterArgs,
}

#[derive(Args)]
pub struct SlotArgs {
    /// Which slot, see `ctl status`
    slot: u32,
    #[command(flatten)]
    show: ShowArgs,
}

/// Asks, and says what came of it.
pub fn run(command: CtlCommand) -> ExitCode {
    match command {
        CtlCommand::Status(show) => with(show, super::status),
        CtlCommand::Top(top::TopArgs { interval, master }) => {
            with_master(master, |sockets| top::run(interval, sockets))
        }
        CtlCommand::Workers(show) => with(show, super::workers),
        CtlCommand::Worker { slot, action, yes, show } => {
            with(show, |json, sockets| worker(slot, action, yes, json, sockets))
        }
        CtlCommand::Scale { workers, show } => {
            with(show, |json, sockets| super::scale(workers, json, sockets))
        }
        CtlCommand::Reload { check_only, show } => {
            with(show, |json, sockets| super::reload(check_only, json, sockets))
        }
        CtlCommand::Upgrade { binary, show } => {
            // The master has another working directory.
            let binary = binary.map(|path| std::path::absolute(&path).unwrap_or(path));
            with(show, |json, sockets| super::upgrade(binary, json, sockets))
        }
        CtlCommand::Settings { diff, show } => {
            with(show, |json, sockets| super::settings(diff, json, sockets))
        }
        CtlCommand::Reopen(show) => with(show, super::reopen),
        CtlCommand::Drain(show) => with(show, super::drain),
        CtlCommand::Events { follow, show } => {
            with(show, |json, sockets| super::events(follow, json, sockets))
        }
        CtlCommand::Why { slot, show } => with(show, |json, sockets| super::why(slot, json, sockets)),
        CtlCommand::Pause(SlotArgs { slot, show }) => {
            with(show, |json, sockets| super::pause(slot, true, json, sockets))
        }
        CtlCommand::Resume(SlotArgs { slot, show }) => {
            with(show, |json, sockets| super::pause(slot, false, json, sockets))
        }
    }
}

fn worker(slot: u32, action: Option<WorkerAction>, yes: bool, json: bool, sockets: &[PathBuf]) -> ExitCode {
    match action {
        None => super::slot(slot, json, sockets),
        Some(WorkerAction::Recycle) => super::recycle(slot, json, sockets),
        Some(WorkerAction::Kill) => super::kill(slot, yes, json, sockets),
        Some(WorkerAction::Dump) => super::dump(slot, json, sockets),
        Some(WorkerAction::Pause) => super::pause(slot, true, json, sockets),
        Some(WorkerAction::Resume) => super::pause(slot, false, json, sockets),
    }
}

/// Runs with where the master's control socket may be.
fn with(show: ShowArgs, run: impl FnOnce(bool, &[PathBuf]) -> ExitCode) -> ExitCode {
    with_master(show.master, |sockets| run(show.json, sockets))
}

fn with_master(
    MasterArgs { socket, sources }: MasterArgs,
    run: impl FnOnce(&[PathBuf]) -> ExitCode,
) -> ExitCode {
    with_state_dir(sources, |directory| run(&super::sockets(socket, directory)))
}

/// `8`, `+1`, `-1`.
fn scaling(text: &str) -> Result<Scaling, String> {
    let wrong = |_| "write a number of workers, or +1, or -1".to_owned();
    match text.chars().next() {
        Some('+' | '-') => text.parse().map(Scaling::By).map_err(wrong),
        _ => text.parse().map(Scaling::To).map_err(wrong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_makes_a_number_of_workers_a_change_of_it() {
        for (text, meant) in [("8", Scaling::To(8)), ("+1", Scaling::By(1)), ("-2", Scaling::By(-2))] {
            assert_eq!(scaling(text), Ok(meant));
        }
        for wrong in ["", "+", "-x", "many", "1.5", "-99999999999"] {
            assert!(scaling(wrong).is_err(), "{wrong}");
        }
    }
}
