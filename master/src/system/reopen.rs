//! USR1: the log file is opened anew by everybody, after somebody has moved it away.
//!
//! The master goes first, so that the new file is there with its owner and mode when the workers come. They answer; who did
//! not is named. A worker that starts meanwhile opens the new file by itself.

use std::collections::BTreeSet;

use forkgate_shared::control::ToChild;
use forkgate_shared::log;
use forkgate_shared::rows::monotonic_ns;

use super::ctl::Carried;
use super::master::Master;
use crate::supervisor::{ChildId, Ns, Role};

/// A worker's answer comes from a thread of its own, within milliseconds.
const PATIENCE: Ns = 5_000_000_000;

/// Who was told and has not answered yet.
#[derive(Debug, Default)]
pub struct Reopening {
    waiting: BTreeSet<ChildId>,
    /// How many did it.
    done: usize,
    /// Who could not, or did not answer.
    failed: Vec<String>,
    until: Ns,
}

impl Reopening {
    /// When it is looked at who has not answered.
    pub fn next_deadline(&self) -> Option<Ns> {
        (!self.waiting.is_empty()).then_some(self.until)
    }
}

impl Master {
    /// Reopens the own log and tells every worker to.
    pub(super) fn reopen_logs(&mut self) {
        match log::reopen() {
            Ok(true) => {}
            Ok(false) => {
                let why = "lines go to stderr, there is no log file to open anew (GATEWAY_LOG_FILE)";
                tracing::info!("USR1: {why}");
                return self.awaited.reopened(Carried::failure(why));
            }
            Err(error) => {
                let why = "the log file cannot be opened anew: lines go on to the old one";
                tracing::error!(%error, "{why}");
                return self.awaited.reopened(Carried::failure(format!("{why}: {error}")));
            }
        }
        let workers = self.children.iter().filter(|(_, child)| matches!(child.role, Role::Worker { .. }));
        let told = |child: &super::child::Child| {
            child.control.as_ref().is_some_and(|control| control.send(&ToChild::ReopenLog, None).is_ok())
        };
        let waiting: BTreeSet<ChildId> =
            workers.filter(|(_, child)| told(child)).map(|(id, _)| *id).collect();
        self.reopening = Reopening { waiting, done: 0, failed: Vec::new(), until: monotonic_ns() + PATIENCE };
        self.conclude_reopening();
    }

    /// A worker has done it, or could not.
    pub(super) fn log_reopened(&mut self, id: ChildId, error: Option<String>) {
        if !self.reopening.waiting.remove(&id) {
            return;
        }
        match error {
            None => self.reopening.done += 1,
            Some(error) => {
                let pid = self.children.get(&id).map_or(0, |child| child.pid);
                tracing::error!(
                    pid,
                    error,
                    "a worker cannot open the log file anew; its lines go on to the old one"
                );
                self.reopening.failed.push(format!("the worker with pid {pid} cannot open it: {error}"));
            }
        }
        self.conclude_reopening();
    }

    /// A worker that ended has nothing to open.
    pub(super) fn reopens_no_more(&mut self, id: ChildId) {
        if self.reopening.waiting.remove(&id) {
            self.conclude_reopening();
        }
    }

    /// Names those whose time is over.
    pub(super) fn expire_reopening(&mut self, now: Ns) {
        if self.reopening.next_deadline().is_none_or(|until| until > now) {
            return;
        }
        for id in std::mem::take(&mut self.reopening.waiting) {
            let pid = self.children.get(&id).map_or(0, |child| child.pid);
            tracing::warn!(
                pid,
                "a worker has not said that it opened the log file anew: it is stopped or stuck"
            );
            self.reopening.failed.push(format!("the worker with pid {pid} did not answer within 5 s"));
        }
        self.conclude_reopening();
    }

    fn conclude_reopening(&mut self) {
        if !self.reopening.waiting.is_empty() {
            return;
        }
        let workers = self.reopening.done;
        tracing::info!(workers, "log file opened anew");
        let failed = std::mem::take(&mut self.reopening.failed);
        self.awaited.reopened(match failed.as_slice() {
            [] => Carried::done(format!("the log file is open anew, by the master and {workers} workers")),
            some => {
                Carried::failure(format!("not everybody writes to the new log file: {}", some.join("; ")))
            }
        });
    }
}
