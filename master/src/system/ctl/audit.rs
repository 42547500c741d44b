//! Who orders what over the control socket, for the log.
//!
//! Every order that changes something leaves a line when it is taken or refused; one that takes its time leaves a second one
//! when it has ended. Fields: `verb`, `arguments`, `uid`, `by_pid`, `command` (the command line of that process, when it can
//! be read), `login_uid` (who logged in, when that is somebody else: `sudo` keeps it) and `outcome`: `done`, `begun`,
//! `refused: …`, `failed: …`.

use std::io;
use std::os::unix::net::UnixStream;

use forkgate_shared::rows::harmless;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};

use super::super::proc_fs;
use super::messages::Request;

/// Characters of a command line that are shown.
const MAX_COMMAND: usize = 200;
/// What `/proc/PID/loginuid` says of a process that nobody logged in for (-1).
const NOBODY: u32 = u32::MAX;

/// Who is at the other end of the socket, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Process id; 0 when it is in a namespace that this process cannot see.
    pub pid: i32,
}

/// An order that changes something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    verb: String,
    arguments: String,
    peer: Peer,
    command: String,
    login_uid: Option<u32>,
}

impl Peer {
    /// Of this connection.
    pub fn of(stream: &UnixStream) -> io::Result<Peer> {
        let peer = getsockopt(stream, PeerCredentials)?;
        Ok(Peer { uid: peer.uid(), pid: peer.pid() })
    }

    /// The master's own user, and root.
    pub fn may_ask(self) -> bool {
        self.uid == 0 || self.uid == nix::unistd::geteuid().as_raw()
    }

    /// What one is told that may not.
    pub fn refusal(self) -> String {
        let own = nix::unistd::geteuid();
        format!(
            "user {} may not talk to this master: run this as user {own}, which forkgate runs as, or as root",
            self.uid
        )
    }
}

impl Ordered {
    /// What this request orders; none when it changes nothing.
    pub fn of(request: &Request, peer: Peer) -> Option<Ordered> {
        let (verb, arguments) = words(request)?;
        let (command, login_uid) = who(peer);
        Some(Ordered { verb: verb.to_owned(), arguments, peer, command, login_uid })
    }

    /// A line in the log.
    pub fn log(&self, outcome: &str) {
        let Ordered { verb, arguments, peer: Peer { uid, pid }, command, login_uid } = self;
        let login_uid = login_uid.filter(|login| login != uid);
        tracing::info!(
            verb,
            arguments,
            uid,
            by_pid = pid,
            command,
            login_uid,
            outcome,
            "ordered over the control socket"
        );
    }

    /// The line of an order that took its time.
    pub fn log_end(&self, failure: Option<&str>) {
        self.log(&failure.map_or_else(|| "done".to_owned(), |why| format!("failed: {why}")));
    }
}

/// A request that was not even looked at.
pub fn log_stranger(peer: Peer) {
    let (command, _) = who(peer);
    tracing::warn!(
        uid = peer.uid,
        by_pid = peer.pid,
        command,
        "a user who may not was refused at the control socket"
    );
}

fn words(request: &Request) -> Option<(&'static str, String)> {
    let of_slot = |slot: &u32| format!("slot={slot}");
    Some(match request {
        Request::Status
        | Request::Workers
        | Request::Worker { .. }
        | Request::Why { .. }
        | Request::Settings
        | Request::Events { .. } => return None,
        Request::Pause { slot } => ("pause", of_slot(slot)),
        Request::Resume { slot } => ("resume", of_slot(slot)),
        Request::Recycle { slot } => ("recycle", of_slot(slot)),
        Request::Kill { slot } => ("kill", of_slot(slot)),
        Request::Dump { slot } => ("dump", of_slot(slot)),
        Request::Scale { workers: Some(workers), .. } => ("scale", format!("workers={workers}")),
        Request::Scale { by, .. } => ("scale", format!("by={:+}", by.unwrap_or(0))),
        Request::Reopen => ("reopen", String::new()),
        Request::Drain => ("drain", String::new()),
        Request::Reload { check_only: false } => ("reload", String::new()),
        Request::Reload { check_only: true } => ("reload", "check_only".to_owned()),
        Request::Upgrade { binary } => {
            let path = binary.as_ref().map(|path| harmless(&path.display().to_string()));
            ("upgrade", path.map(|path| format!("binary={path}")).unwrap_or_default())
        }
    })
}

/// The command line of a process, and who logged in for it.
fn who(peer: Peer) -> (String, Option<u32>) {
    if peer.pid <= 0 {
        return (String::new(), None);
    }
    let words = proc_fs::read(peer.pid, "cmdline").unwrap_or_default();
    let command: String = words.trim_end_matches('\0').replace('\0', " ").chars().take(MAX_COMMAND).collect();
    let login = proc_fs::read(peer.pid, "loginuid").ok().and_then(|text| text.trim().parse().ok());
    (harmless(&command), login.filter(|login| *login != NOBODY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_who_is_there_and_proc_what_it_runs() {
        let (near, _far) = UnixStream::pair().expect("pair");
        let peer = Peer::of(&near).expect("credentials");
        let own = Peer { uid: nix::unistd::getuid().as_raw(), pid: std::process::id() as i32 };
        assert_eq!((peer, peer.may_ask()), (own, true));
        let order = Ordered::of(&Request::Recycle { slot: 3 }, peer).expect("it changes something");
        assert_eq!((order.verb.as_str(), order.arguments.as_str()), ("recycle", "slot=3"));
        let name = std::env::args().next().expect("a name");
        assert!(order.command.starts_with(&name[..name.len().min(100)]), "{order:?}");
    }

    #[test]
    fn only_what_changes_something_is_an_order() {
        let peer = Peer { uid: 1, pid: 0 };
        for request in
            [Request::Status, Request::Workers, Request::Worker { slot: 0 }, Request::Why { slot: 0 }]
        {
            assert_eq!(Ordered::of(&request, peer), None, "{request:?}");
        }
        for (request, arguments) in [
            (Request::Scale { workers: Some(3), by: None }, "workers=3"),
            (Request::Scale { workers: None, by: Some(1) }, "by=+1"),
            (Request::Scale { workers: None, by: Some(-2) }, "by=-2"),
            (Request::Upgrade { binary: Some("/a\nb".into()) }, "binary=/a\u{fffd}b"),
            (Request::Drain, ""),
        ] {
            assert_eq!(Ordered::of(&request, peer).expect("an order").arguments, arguments);
        }
    }

    #[test]
    fn a_stranger_is_told_whom_to_be() {
        let own = nix::unistd::geteuid().as_raw();
        let stranger = Peer { uid: own + 1000, pid: 7 };
        assert!(!stranger.may_ask() && Peer { uid: 0, pid: 7 }.may_ask());
        let words = stranger.refusal();
        assert!(words.contains(&format!("user {} may not", own + 1000)), "{words}");
        assert!(words.contains(&format!("as user {own}")), "{words}");
    }
}
