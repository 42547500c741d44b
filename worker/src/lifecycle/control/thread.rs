//! The thread that hears the master and the signals: it is blocked in the kernel and passes on what it hears.
//!
//! It works when the event loop does not: an orphan whose loop is stuck still leaves, by this thread's hand, because a
//! forgotten copy of a listener takes clients away from the next master.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc as mpsc_std;
use std::time::{Duration, Instant};

use forkgate_shared::control::{ControlError, ControlSocket, FromChild, Received, RecycleReason, ToChild};
use forkgate_shared::verdict::Verdict;
use nix::libc;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use tokio::sync::{mpsc, watch};

use super::{NewCatalog, Order, Orders, QUEUE, ReportOrders};
use crate::lifecycle::essential::OnDuty;
use crate::net::accept::Added;

/// How long after the orphan timeout a worker that is still here is taken to be stuck.
const STUCK_AFTER: Duration = Duration::from_secs(2);

/// Blocks the signals that mean something to a worker or to its master, in this thread and in all that it starts; the
/// control thread reads them. To be called before any thread is started. `SIGPIPE` is ignored by Rust's runtime.
pub fn block_signals() -> nix::Result<SigSet> {
    let signals: SigSet = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGWINCH,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
    ]
    .into_iter()
    .collect();
    signals.thread_block()?;
    Ok(signals)
}

const CONTROL: u64 = 0;
const SIGNALS: u64 = 1;

/// The thread's own; see the module.
pub struct Listener {
    socket: Arc<ControlSocket>,
    signals: SignalFd,
    epoll: Epoll,
    orders: Option<mpsc::Sender<Order>>,
    catalogs: watch::Sender<Option<Arc<NewCatalog>>>,
    added: watch::Sender<Added>,
    reports: mpsc_std::SyncSender<Verdict>,
    /// The master gave an order to leave.
    told: bool,
    /// Set once the master is gone.
    leave_by: Option<Instant>,
    orphan_timeout: Duration,
}

impl Listener {
    /// See [`super::Control::listener`].
    pub(super) fn new(
        socket: Arc<ControlSocket>,
        signals: SigSet,
        orphan_timeout: Duration,
    ) -> io::Result<(Listener, Orders, ReportOrders)> {
        let (sender, leave) = mpsc::channel(QUEUE);
        let (catalogs, catalog) = watch::channel(None);
        let (added_sender, added) = watch::channel(Added::Waits);
        let (reports, report_orders) = mpsc_std::sync_channel(1);
        let listener = Listener {
            socket,
            signals: SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            orders: Some(sender),
            catalogs,
            added: added_sender,
            reports,
            told: false,
            leave_by: None,
            orphan_timeout,
        };
        listener.epoll.add(listener.socket.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, CONTROL))?;
        listener.epoll.add(listener.signals.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS))?;
        Ok((listener, Orders { leave, catalog, added }, report_orders))
    }

    /// The signal that ends a worker, if one came while it started. The TERM that comes with the master's death is none:
    /// what waits in this worker's queue has nobody else.
    pub fn ended_while_booting(&self) -> Option<u8> {
        let mut ended = None;
        while let Ok(Some(info)) = self.signals.read_signal() {
            if info.ssi_signo as libc::c_int == libc::SIGUSR1 {
                self.reopen_log();
            }
            if matches!(info.ssi_signo as libc::c_int, libc::SIGTERM | libc::SIGINT | libc::SIGQUIT) {
                ended = u8::try_from(info.ssi_signo).ok();
            }
        }
        ended.filter(|_| !self.master_is_gone())
    }

    /// Starts the thread. To be called after `Ready` was sent: a wish that comes before means nothing to the master.
    pub fn start(self, on_duty: OnDuty) -> io::Result<()> {
        let run = move || {
            let _on_duty = on_duty;
            self.run();
        };
        std::thread::Builder::new().name("fg-control".to_owned()).spawn(run).map(drop)
    }

    fn run(mut self) {
        loop {
            let mut events = [EpollEvent::empty(); 2];
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "the control thread cannot wait");
                    return;
                }
            };
            if self.leave_by.is_some_and(|time| time <= Instant::now()) {
                end_process("still here after the orphan timeout");
            }
            let ready = |token| events[..count].iter().any(|event| event.data() == token);
            // The control socket first: after a master's death its end of file must win over the TERM that comes with it.
            if ready(CONTROL) {
                self.read_control();
            }
            if ready(SIGNALS) {
                self.read_signals();
            }
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let Some(leave_by) = self.leave_by else { return EpollTimeout::NONE };
        let left = leave_by.saturating_duration_since(Instant::now()).as_millis() + 1;
        EpollTimeout::try_from(left.min(60_000) as u32).unwrap_or(EpollTimeout::ZERO)
    }

    fn read_control(&mut self) {
        match self.socket.recv::<ToChild>() {
            Ok(Received::Message(ToChild::Drain, _)) => self.order(Order::Drain),
            Ok(Received::Message(ToChild::Retire, _)) => self.order(Order::Retire),
            Ok(Received::Message(ToChild::StepAside, _)) => self.order(Order::StepAside),
            Ok(Received::Message(ToChild::ReopenLog, _)) => {
                let error = self.reopen_log();
                // A master whose queue is full does not wait for this.
                let _ = self.socket.try_send(&FromChild::LogReopened { error });
            }
            // One that waits already says the same.
            Ok(Received::Message(ToChild::Report { verdict }, _)) => drop(self.reports.try_send(verdict)),
            Ok(Received::Message(ToChild::Catalog { generation }, Some(memfd))) => {
                self.catalogs.send_replace(Some(Arc::new(NewCatalog { generation, memfd })));
            }
            Ok(Received::Message(ToChild::AddedListeners { in_force }, _)) => {
                self.added.send_replace(if in_force { Added::InForce } else { Added::GivenUp });
            }
            Ok(Received::Message(ToChild::Catalog { generation }, None)) => {
                tracing::error!(generation, "a catalog came without its descriptor");
            }
            Ok(Received::Message(ToChild::Heir, Some(line))) => _ = self.pass(Order::Heir(line)),
            Ok(Received::Message(ToChild::Predecessor, Some(line))) => {
                _ = self.pass(Order::Predecessor(line));
            }
            Ok(Received::Message(ToChild::Heir | ToChild::Predecessor, None)) => {
                tracing::error!("a line to another worker came without its descriptor");
            }
            Ok(Received::WouldBlock) => {}
            Err(ControlError::Malformed(error)) => tracing::error!(%error, "the master's message is ignored"),
            Ok(Received::EndOfFile) | Err(_) => self.orphaned(),
        }
    }

    fn read_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match info.ssi_signo as libc::c_int {
                // The TERM of the master's death may come behind its end of file: an orphan empties its queue first.
                libc::SIGTERM if self.leave_by.is_some() => {}
                libc::SIGTERM if self.master_is_gone() => self.orphaned(),
                libc::SIGTERM if self.told => {}
                libc::SIGTERM => self.ask_for_replacement(),
                libc::SIGINT | libc::SIGQUIT => self.order(Order::Quit),
                libc::SIGUSR1 => drop(self.reopen_log()),
                _ => {}
            }
        }
    }

    /// Opens the log file anew; gives what keeps it from that.
    fn reopen_log(&self) -> Option<String> {
        let error = forkgate_shared::log::reopen().err()?;
        tracing::error!(%error, "the log file cannot be opened anew: lines go on to the old one");
        Some(error.to_string())
    }

    /// An operator's TERM. Leaving unasked would leave the slot's queue to nobody until this worker has drained.
    fn ask_for_replacement(&self) {
        tracing::info!("TERM: asking to be replaced");
        let wish = FromChild::WantRecycle { reason: RecycleReason::Operator };
        if let Err(error) = self.socket.try_send(&wish) {
            tracing::warn!(%error, "the master could not be asked");
        }
    }

    /// The master's death closes its end of the socket before it sends us the TERM of `PR_SET_PDEATHSIG`.
    fn master_is_gone(&self) -> bool {
        let mut events = [EpollEvent::empty(); 2];
        let Ok(count) = self.epoll.wait(&mut events, EpollTimeout::ZERO) else { return false };
        events[..count]
            .iter()
            .any(|event| event.data() == CONTROL && event.events().contains(EpollFlags::EPOLLHUP))
    }

    fn orphaned(&mut self) {
        if self.leave_by.is_some() {
            return;
        }
        self.leave_by = Some(Instant::now() + self.orphan_timeout + STUCK_AFTER);
        let _ = self.epoll.delete(self.socket.as_fd());
        // Never wait here: a loop so stuck that the queue is full learns of it by the end of the queue.
        if self.orders.as_ref().is_some_and(|orders| orders.try_send(Order::Orphan).is_err()) {
            self.orders = None;
        }
    }

    fn pass(&self, order: Order) -> bool {
        self.orders.as_ref().is_some_and(|orders| orders.try_send(order).is_ok())
    }

    fn order(&mut self, order: Order) {
        self.told = true;
        let quit = matches!(order, Order::Quit);
        let sent = self.pass(order);
        if quit && !sent {
            end_process("asked to quit while the event loop does not listen");
        }
    }
}

/// Ends this process without the event loop's help.
fn end_process(why: &str) {
    tracing::error!("{why}: leaving at once");
    let _ = kill(Pid::this(), Signal::SIGKILL);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::control::Control;
    use crate::lifecycle::essential::{Duty, Essential};

    fn pair() -> (ControlSocket, Control, Orders) {
        let (master, child) = ControlSocket::pair().expect("pair");
        let control = Control::over(child);
        let (listener, orders, _reports) =
            control.listener(SigSet::empty(), Duration::from_secs(3600)).expect("listener");
        listener.start(Arc::new(Essential::default()).take_up(Duty::Control)).expect("thread");
        (master, control, orders)
    }

    #[tokio::test]
    async fn orders_arrive_in_order_and_the_masters_end_makes_an_orphan() {
        let (master, _control, mut orders) = pair();
        let memfd = forkgate_shared::memfd::immutable("test", b"x").expect("memfd");
        master.send(&ToChild::Catalog { generation: 9 }, Some(memfd.as_fd())).expect("send");
        let first = orders.next().await;
        assert!(matches!(first, Some(Order::Catalog(catalog)) if catalog.generation == 9));
        master.send(&ToChild::Retire, None).expect("send");
        master.send(&ToChild::Drain, None).expect("send");
        drop(master);
        assert!(matches!(orders.next().await, Some(Order::Retire)));
        assert!(matches!(orders.next().await, Some(Order::Drain)));
        assert!(matches!(orders.next().await, Some(Order::Orphan)));
    }

    #[tokio::test]
    async fn a_loop_that_reads_nothing_keeps_nobody_waiting_and_then_finds_the_newest_catalog() {
        let (master, _control, mut orders) = pair();
        let memfd = forkgate_shared::memfd::immutable("test", b"x").expect("memfd");
        let many = 3 * QUEUE as u64;
        for generation in 1..=many {
            let message = ToChild::Catalog { generation };
            while master.send(&message, Some(memfd.as_fd())).is_err() {
                std::thread::yield_now();
            }
        }
        drop(master);
        let orphan = tokio::time::timeout(Duration::from_secs(10), orders.leave.recv()).await;
        assert!(matches!(orphan, Ok(Some(Order::Orphan))), "the end was heard behind all that: {orphan:?}");
        let newest = orders.catalog.borrow_and_update().clone();
        assert_eq!(newest.map(|catalog| catalog.generation), Some(many));
    }

    #[test]
    fn a_worker_becomes_ready_without_its_master() {
        let (master, child) = ControlSocket::pair().expect("pair");
        let control = Control::over(child);
        let (listener, _orders, _reports) =
            control.listener(SigSet::empty(), Duration::from_secs(3600)).expect("listener");
        drop(master);
        assert_eq!(listener.ended_while_booting(), None);
        assert!(control.send(&FromChild::Ready).is_err_and(|error| error.is_gone()));
        control.send_if_alive(&FromChild::Ready).expect("its end makes an orphan, not an error");
    }
}
