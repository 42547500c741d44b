//! The rows of the table that are about the processes as the system sees them.

use super::process;
use super::table::Default::Text;
use super::table::Kind::Other;
use super::table::Setting;

/// Whose processes, and with what.
pub const IDENTITY: &[Setting] = &[
    Setting::new(
        "GATEWAY_USER",
        Text("off"),
        Other { allowed: "the name or number of a user, or off", read: process::user },
        |s| s.user.clone().unwrap_or_else(|| "off".to_owned()),
        "Whom a master that root starts becomes before it listens: it and everything that it starts, so that nothing of \
         forkgate is root afterwards. Only the right to bind ports below 1024 stays with it. Off: it stays who it is; under \
         systemd say User= instead.",
    )
    .fixed(),
    Setting::new(
        "GATEWAY_GROUP",
        Text("off"),
        Other { allowed: "the name or number of a group, or off", read: process::group },
        |s| s.group.clone().unwrap_or_else(|| "off".to_owned()),
        "The group that goes with GATEWAY_USER; alone it means nothing. Off: that user's own. The user's further groups are taken, too.",
    )
    .fixed(),
    Setting::new(
        "GATEWAY_UMASK",
        Text("off"),
        Other { allowed: "an octal number from 0 to 777, or off", read: process::umask },
        |s| s.umask.map_or_else(|| "off".to_owned(), |bits| format!("{bits:03o}")),
        "Which permissions the files that forkgate makes do not have. What holds secrets is its owner's alone in any case. \
         Off: as it was when forkgate was started.",
    )
    .fixed(),
    Setting::new(
        "GATEWAY_PIDFILE",
        Text("off"),
        Other {
            allowed: "the absolute path of a file in a directory that exists, or off",
            read: process::pidfile,
        },
        |s| s.pidfile.as_ref().map_or_else(|| "off".to_owned(), |path| path.display().to_string()),
        "Where the master writes its process id, for scripts; locked for as long as it lives, so that one that is left \
         behind is told from one in use, and removed at the end. Off: systemd and the file `lock` of the state directory \
         know it already.",
    )
    .fixed(),
    Setting::new(
        "GATEWAY_CPU_AFFINITY",
        Text("off"),
        Other {
            allowed: "off, auto, or CPUs for the slots in turn, separated by commas, such as 0,2,4-7",
            read: process::cpu_affinity,
        },
        |s| s.cpu_affinity.to_string(),
        "Ties each slot's worker to CPUs; auto: one for each slot, of those that forkgate may use. Off: the kernel moves \
         workers to where there is room, which is better wherever anything else runs.",
    ),
];
