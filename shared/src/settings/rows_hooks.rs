//! The rows of the table that are about hooks.

use super::hooks::{self, Hook};
use super::table::Default::Text;
use super::table::Kind::Other;
use super::table::Setting;

/// All of them.
pub const HOOKS: &[Setting] = &[
    hook(
        "GATEWAY_HOOK_ON_READY",
        |d, text| hooks::read(d, Hook::OnReady, text),
        |s| s.hooks.show(Hook::OnReady),
        "Run once when the gateway serves. A hook is told what happened as JSON on its standard input, has 10 s, and what \
         it prints goes to the log: see docs/hooks.md. Off: nobody needs to be told.",
    ),
    hook(
        "GATEWAY_HOOK_ON_RELOAD",
        |d, text| hooks::read(d, Hook::OnReload, text),
        |s| s.hooks.show(Hook::OnReload),
        "Run when a reload has ended, well or not; `ok` says which.",
    ),
    hook(
        "GATEWAY_HOOK_WORKER_READY",
        |d, text| hooks::read(d, Hook::WorkerReady, text),
        |s| s.hooks.show(Hook::WorkerReady),
        "Run when a worker accepts connections.",
    ),
    hook(
        "GATEWAY_HOOK_WORKER_EXIT",
        |d, text| hooks::read(d, Hook::WorkerExit, text),
        |s| s.hooks.show(Hook::WorkerExit),
        "Run when a worker has ended: `asked`, `crash`, `boot_failed` or `killed`.",
    ),
    hook(
        "GATEWAY_HOOK_WORKER_KILLED",
        |d, text| hooks::read(d, Hook::WorkerKilled, text),
        |s| s.hooks.show(Hook::WorkerKilled),
        "Run when the master has killed a worker: at the end of a time limit, or by the watchdog's verdict.",
    ),
];

const fn hook(
    name: &'static str,
    read: fn(&mut super::draft::Draft, &str) -> Result<(), super::parse::Invalid>,
    show: fn(&super::Settings) -> String,
    reason: &'static str,
) -> Setting {
    Setting::new(name, Text("off"), Other { allowed: COMMAND, read }, show, reason)
}

const COMMAND: &str =
    "a command that begins with the absolute path of a program, quoted as for a shell (none is run), or off";
