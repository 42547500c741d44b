//! When the companion leaves: told by the master, told by a signal, or the master is gone.
//!
//! Ctrl-C reaches every process of the terminal's group. It is the master that begins to stop then, so the companion
//! gives it a moment; were it the first to go, the master would have to take that for a failure.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use forkgate_shared::control::{ControlSocket, Received, ToChild};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::sync::oneshot;

/// How long after Ctrl-C the companion waits for the master to end it.
const AFTER_CTRL_C: Duration = Duration::from_millis(500);

/// The signals that mean to stop; blocked, so that they arrive here and nowhere else.
pub struct Signals(SignalFd);

impl Signals {
    /// Call it before any thread starts: threads inherit what is blocked. A hang-up of the terminal is the master's matter
    /// and only kept from ending this process.
    pub fn block() -> io::Result<Signals> {
        let mut stop = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
            stop.add(signal);
        }
        let mut blocked = stop;
        blocked.add(Signal::SIGHUP);
        blocked.thread_block()?;
        Ok(Signals(SignalFd::with_flags(&stop, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }
}

/// Resolves when it is time to leave. A thread of its own waits for it.
pub async fn leave(control: ControlSocket, signals: Signals) -> io::Result<()> {
    let (told, tell) = oneshot::channel();
    std::thread::Builder::new().name("leave".to_owned()).spawn(move || {
        // The receiver is gone only when the companion leaves for another reason.
        let _ = told.send(wait(&control, &signals));
    })?;
    tell.await.map_err(|_| io::Error::other("the thread that waits for the master ended"))?
}

/// Blocks until the master says so, is gone, or a signal arrives.
fn wait(control: &ControlSocket, signals: &Signals) -> io::Result<()> {
    loop {
        let mut ready = [
            PollFd::new(control.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.0.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [of_control, of_signals] = ready.map(|fd| fd.any().unwrap_or(true));
        if of_signals && let Some(info) = signals.0.read_signal()? {
            if info.ssi_signo != Signal::SIGTERM as u32 {
                std::thread::sleep(AFTER_CTRL_C);
            }
            return Ok(());
        }
        if of_control
            && !matches!(control.recv::<ToChild>(), Ok(Received::Message(ToChild::Catalog { .. }, _)))
        {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(end: impl FnOnce(ControlSocket)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let (master, child) = ControlSocket::pair().expect("pair");
            master.send(&ToChild::Catalog { generation: 1 }, None).expect("send");
            let signals = Signals::block().expect("signals");
            let mut left = Box::pin(leave(child, signals));
            let early = tokio::time::timeout(Duration::from_millis(20), &mut left).await;
            assert!(early.is_err(), "a catalog is no reason to leave");
            end(master);
            tokio::time::timeout(Duration::from_secs(10), left).await.expect("leaves").expect("no error");
        });
    }

    #[test]
    fn the_end_of_the_master_is_the_end() {
        leaves(drop);
    }

    #[test]
    fn a_master_that_says_so_is_the_end() {
        leaves(|master| {
            master.send(&ToChild::Drain, None).expect("send");
            std::mem::forget(master);
        });
    }
}
