//! The thread beside a real event loop.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{SyncSender, sync_channel};

use forkgate_shared::control::Received;
use forkgate_shared::memfd;
use forkgate_shared::report::Inside;
use forkgate_shared::rows::Row;

use super::*;
use crate::lifecycle::essential::Duty;
use crate::lifecycle::task;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A loop with its watchdog, and the master's side of it.
struct World {
    rows: Arc<Rows>,
    essential: Arc<Essential>,
    orders: Option<SyncSender<Verdict>>,
    master: ControlSocket,
    child: Arc<ControlSocket>,
    /// Lets the loop go.
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the loop shows in what the test waits for.
            let _ = thread.join();
        }
    }
}

/// A loop on a thread of its own that runs `trouble` until the world is over.
fn world<F>(mode: Mode, trouble: impl FnOnce(Arc<AtomicBool>) -> F + Send + 'static) -> World
where
    F: Future<Output = ()> + 'static,
{
    let rows = Arc::new(Rows::create(1).expect("rows").0);
    rows.row(0).heartbeat_ns.store(monotonic_ns(), Relaxed);
    let (essential, over) = (Arc::new(Essential::default()), Arc::new(AtomicBool::new(false)));
    let (orders, receiver) = sync_channel(1);
    let (master, child) = ControlSocket::pair().expect("pair");
    let child = Arc::new(child);
    let its_child = Arc::clone(&child);
    let mut settings = crate::fixtures::settings();
    settings.watchdog = mode;
    settings.stall_timeout = Duration::from_secs(2);
    settings.spin_window = Duration::from_secs(3);
    let (its_rows, its_essential, ends) = (Arc::clone(&rows), Arc::clone(&essential), Arc::clone(&over));
    let run = move || {
        let registry = Arc::new(Registry::new());
        task::install(Arc::clone(&registry));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let wiring = Wiring {
            rows: (its_rows, 0),
            registry,
            metrics: runtime.metrics(),
            loop_tid: nix::unistd::gettid().as_raw(),
            orders: receiver,
            control: its_child,
            essential: its_essential,
            over_memory: Arc::default(),
        };
        start(&settings, wiring).expect("thread");
        let root = task::root(ROOT_TASK, async move {
            let troubled = task::spawn("trouble", trouble(ends));
            troubled.await.expect("no panic");
        });
        tokio::task::LocalSet::new().block_on(&runtime, root);
    };
    let thread = Some(std::thread::spawn(run));
    World { rows, essential, orders: Some(orders), master, child, over, thread }
}

impl World {
    fn row(&self) -> &Row {
        self.rows.row(0)
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Evidence) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(&self.row().evidence) {
            assert!(Instant::now() < deadline, "waiting for {what}: {:?}", self.row().evidence);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The next message to the master.
    fn hear(&self) -> (FromChild, Option<std::os::fd::OwnedFd>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Received::Message(message, fd) = self.master.recv().expect("recv") {
                return (message, fd);
            }
            assert!(Instant::now() < deadline, "waiting for a message");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

async fn sleep_in_a_poll(until: Arc<AtomicBool>) {
    while !until.load(Relaxed) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

async fn yield_for_ever(until: Arc<AtomicBool>) {
    while !until.load(Relaxed) {
        tokio::task::yield_now().await;
    }
}

async fn rest(until: Arc<AtomicBool>) {
    while !until.load(Relaxed) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_loop_that_stands_still_is_accused_and_a_report_is_made_meanwhile() {
    let world = world(Mode::Observe, sleep_in_a_poll);
    let claim = |stage| Some(Claim { verdict: Verdict::StallBlocked, stage });
    world.wait("a suspicion", |evidence| evidence.claim() == claim(Stage::Suspect));
    let since_ns = world.row().evidence.since_ns.load(Relaxed);
    assert!(since_ns > 0 && since_ns < monotonic_ns());
    world.wait("the limit", |evidence| evidence.claim() == claim(Stage::Fired));
    world.orders.as_ref().expect("orders").send(Verdict::StallBlocked).expect("the thread listens");
    let (message, fd) = world.hear();
    assert_eq!(message, FromChild::Report);
    let memfd = fd.expect("a descriptor");
    assert!(memfd::is_immutable(&memfd));
    let text = memfd::Bytes::open(&memfd).expect("map");
    serde_json::from_slice::<Inside>(text.as_ref()).expect("the inside of a report");
    assert_eq!(world.row().evidence.claim(), claim(Stage::Fired), "a report does not take it back");
    world.over.store(true, Relaxed);
}

#[test]
fn a_loop_that_spins_is_accused_with_its_history() {
    let world = world(Mode::Enforce, yield_for_ever);
    let spins = Some(Claim { verdict: Verdict::Spin, stage: Stage::Fired });
    world.wait("the limit", |evidence| evidence.claim() == spins);
    let history = world.row().evidence.history();
    assert!(history.iter().any(|second| second.polls > 1000 && second.units == 0), "{history:?}");
}

#[test]
fn a_loop_that_rests_is_left_alone_and_who_is_missing_is_told_once() {
    let mut world = world(Mode::Enforce, rest);
    // Without a control thread the watchdog goes on.
    world.orders = None;
    world.wait("readings", |evidence| evidence.readings.load(Relaxed) >= 2);
    assert_eq!(world.row().evidence.claim(), None);
    drop(world.essential.take_up(Duty::AcceptMain));
    let (message, _) = world.hear();
    assert_eq!(message, FromChild::WantRecycle { reason: RecycleReason::EssentialTask });
    let readings = world.row().evidence.readings.load(Relaxed);
    world.wait("further readings", |evidence| evidence.readings.load(Relaxed) > readings);
    assert!(matches!(world.master.recv::<FromChild>(), Ok(Received::WouldBlock)), "once");
}

#[test]
fn an_urgent_reason_goes_out_over_a_milder_one_and_each_is_told_until_it_was_heard() {
    use RecycleReason::{Degenerate, EssentialTask};
    let mut wish = Wish::default();
    assert_eq!(wish.unheard(), None);
    assert!(wish.wants(Degenerate) && !wish.wants(Degenerate));
    assert_eq!((wish.unheard(), wish.unheard()), (Some(Degenerate), Some(Degenerate)));
    wish.heard = Some(Degenerate);
    assert_eq!(wish.unheard(), None);
    assert!(wish.wants(EssentialTask) && !wish.wants(Degenerate) && !wish.wants(EssentialTask));
    assert_eq!(wish.unheard(), Some(EssentialTask));
    wish.heard = Some(EssentialTask);
    assert_eq!(wish.unheard(), None);
}

#[test]
fn a_master_that_could_not_be_asked_is_asked_again() {
    let world = world(Mode::Enforce, rest);
    let filler = FromChild::Hello { version: 0 };
    while world.child.try_send(&filler).is_ok() {}
    drop(world.essential.take_up(Duty::AcceptMain));
    for _ in 0..3 {
        let looked_ns = world.row().evidence.looked_ns.load(Relaxed);
        world.wait("a look", |evidence| evidence.looked_ns.load(Relaxed) != looked_ns);
    }
    let heard = std::iter::repeat_with(|| world.hear().0).find(|message| *message != filler);
    assert_eq!(heard, Some(FromChild::WantRecycle { reason: RecycleReason::EssentialTask }));
}

#[test]
fn off_means_that_nobody_looks() {
    let world = world(Mode::Off, rest);
    let deadline = Instant::now() + PATIENCE;
    // Its end of the orders is dropped.
    while world.orders.as_ref().is_some_and(|orders| orders.try_send(Verdict::Spin).is_ok())
        || Arc::strong_count(&world.essential) > 1
    {
        assert!(Instant::now() < deadline, "somebody holds the wiring");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(world.row().evidence.looked_ns.load(Relaxed), 0);
}
