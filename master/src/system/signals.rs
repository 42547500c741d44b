//! Signals as bytes of a socket: a handler may do nothing but write.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigSet, SigmaskHow};
use signal_hook::SigId;
use signal_hook::consts::{
    SIGABRT, SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::low_level::{pipe, unregister};

use crate::supervisor::Order;

/// What a signal means.
#[derive(Clone, Copy, Debug)]
enum Meaning {
    /// For the supervisor.
    Order(Order),
    /// A child may have ended.
    Child,
    /// The log file is opened anew.
    ReopenLogs,
    /// The state is written down.
    Dump,
    /// Nothing, for this reason. Its default may be to end the master.
    Nothing(&'static str, &'static str),
}

/// gunicorn ends the workers of an old master by it; here the same master goes on with another program.
const NO_SECOND_MASTER: &str = "there is never a second master whose workers could go";

/// What the signals mean; the same one twice before it is read counts once or twice, as the kernel likes.
const MEANINGS: [(i32, Meaning); 12] = [
    (SIGCHLD, Meaning::Child),
    (SIGHUP, Meaning::Order(Order::Reload)),
    (SIGTERM, Meaning::Order(Order::Drain)),
    (SIGINT, Meaning::Order(Order::Quick)),
    (SIGQUIT, Meaning::Order(Order::Quick)),
    (SIGTTIN, Meaning::Order(Order::MoreWorkers)),
    (SIGTTOU, Meaning::Order(Order::FewerWorkers)),
    (SIGUSR1, Meaning::ReopenLogs),
    (SIGABRT, Meaning::Dump),
    (SIGUSR2, Meaning::Order(Order::Upgrade { patience: 0 })),
    (SIGWINCH, Meaning::Nothing("WINCH", NO_SECOND_MASTER)),
    (SIGALRM, Meaning::Nothing("ALRM", "it has no meaning here")),
];

/// What signals ask for.
#[derive(Debug, Default)]
pub struct Arrived {
    /// For the supervisor.
    pub orders: Vec<Order>,
    /// A child may have ended.
    pub child: bool,
    /// The log file was moved away.
    pub reopen_logs: bool,
    /// Somebody wants to see the state.
    pub dump: bool,
}

/// The receiving ends, one per signal; the handlers are there as long as this is.
#[derive(Debug)]
pub struct Signals {
    ends: Vec<(UnixStream, Meaning)>,
    handlers: Vec<SigId>,
}

impl Signals {
    /// Installs the handlers.
    pub fn install() -> io::Result<Signals> {
        let mut signals = Signals { ends: Vec::new(), handlers: Vec::new() };
        for (signal, meaning) in MEANINGS {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            signals.handlers.push(pipe::register(signal, write)?);
            signals.ends.push((read, meaning));
        }
        Ok(signals)
    }

    /// What to wait on.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.ends.iter().map(|(end, _)| end.as_fd())
    }

    /// What arrived since the last call.
    pub fn take(&mut self) -> Arrived {
        let mut arrived = Arrived::default();
        // Far more than can arrive between two turns, and a bound.
        let mut bytes = [0u8; 64];
        for (end, meaning) in &mut self.ends {
            let count = end.read(&mut bytes).unwrap_or(0);
            if count == 0 {
                continue;
            }
            match *meaning {
                // Steps are counted; everything else is the same when said twice.
                Meaning::Order(order @ (Order::MoreWorkers | Order::FewerWorkers)) => {
                    arrived.orders.extend(std::iter::repeat_n(order, count));
                }
                Meaning::Order(order) => arrived.orders.push(order),
                Meaning::Child => arrived.child = true,
                Meaning::ReopenLogs => arrived.reopen_logs = true,
                Meaning::Dump => arrived.dump = true,
                Meaning::Nothing(name, why) => tracing::info!(signal = name, "ignored: {why}"),
            }
        }
        arrived
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            unregister(handler);
        }
    }
}

/// All signals, pending for as long as this lives.
#[derive(Debug)]
pub struct Blocked(Option<SigSet>);

impl Blocked {
    /// Blocks them; what was blocked before stays so afterwards.
    pub fn all() -> Blocked {
        Blocked(SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).ok())
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = self.0.map(|before| before.thread_set_mask());
    }
}

/// Lets all signals through, for a program that was executed with them blocked.
pub fn unblock_all() -> io::Result<()> {
    Ok(SigSet::empty().thread_set_mask()?)
}

#[cfg(test)]
mod tests {
    use signal_hook::low_level::raise;

    use super::*;

    #[test]
    fn steps_are_counted_and_other_orders_are_not() {
        let mut signals = Signals::install().expect("install");
        for signal in [SIGTTIN, SIGTTIN, SIGHUP, SIGHUP, SIGTTOU, SIGUSR1, SIGABRT, SIGWINCH] {
            raise(signal).expect("raise");
        }
        let arrived = signals.take();
        let orders = [Order::Reload, Order::MoreWorkers, Order::MoreWorkers, Order::FewerWorkers];
        assert_eq!((arrived.orders.as_slice(), arrived.reopen_logs, arrived.dump), (&orders[..], true, true));
        let nothing = signals.take();
        assert!(nothing.orders.is_empty() && !nothing.reopen_logs && !nothing.dump);
    }

    #[test]
    fn a_signal_that_comes_while_all_are_blocked_is_heard_afterwards() {
        let mut signals = Signals::install().expect("install");
        let blocked = Blocked::all();
        raise(SIGUSR2).expect("raise");
        assert_eq!(signals.take().orders, []);
        drop(blocked);
        assert_eq!(signals.take().orders, [Order::Upgrade { patience: 0 }]);
    }
}
