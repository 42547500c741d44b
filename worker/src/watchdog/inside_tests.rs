//! A worker's look at itself, at a loop that is really stuck.

use std::convert::Infallible;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use forkgate_shared::memfd::Bytes as MemfdBytes;
use forkgate_shared::report::{self, Request};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::*;
use crate::lifecycle::boot::ROOT_TASK;
use crate::lifecycle::essential::Duty;
use crate::lifecycle::task;

#[inline(never)]
fn planted_busy_loop(over: &AtomicBool) {
    while !over.load(Relaxed) {
        std::hint::black_box(0);
    }
}

#[inline(never)]
fn planted_sleep(over: &AtomicBool) {
    while !over.load(Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

async fn planted_yielding(over: Arc<AtomicBool>) {
    while !over.load(Relaxed) {
        tokio::task::yield_now().await;
    }
}

async fn planted_waking(over: &AtomicBool) {
    std::future::poll_fn(|cx| {
        if over.load(Relaxed) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

/// Whoever comes to rest is written down, in whichever loop: one that spins at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// An event loop on a thread of its own; ends when this is dropped.
struct Loop {
    over: Arc<AtomicBool>,
    registry: Arc<Registry>,
    tid: i32,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Loop {
    /// Starts a loop with the task that `start` makes, and waits until that task was polled.
    fn with<F: Future<Output = ()> + 'static>(
        name: &'static str,
        start: impl FnOnce(Arc<AtomicBool>) -> F + Send + 'static,
    ) -> Loop {
        stack::prepare().expect("handler");
        let (over, registry) = (Arc::new(AtomicBool::new(false)), Arc::new(Registry::new()));
        let (sender, receiver) = sync_channel(1);
        let (its_over, its_registry) = (Arc::clone(&over), Arc::clone(&registry));
        let thread = std::thread::spawn(move || {
            task::install(its_registry);
            sender.send(nix::unistd::gettid().as_raw()).expect("somebody waits");
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            let run = async move {
                let _ = task::spawn(name, start(its_over)).await;
            };
            tokio::task::LocalSet::new().block_on(&runtime, task::root("root", run));
        });
        let tid = receiver.recv().expect("it starts");
        let begun = Instant::now();
        while !registry.snapshot().iter().any(|task| task.name == name && task.polls > 0) {
            assert!(begun.elapsed() < Duration::from_secs(10), "the task is never polled");
            std::thread::yield_now();
        }
        Loop { over, registry, tid, thread: Some(thread) }
    }

    /// A test machine may be slow; the budget is not what is tested.
    fn report(&self, verdict: Verdict) -> Inside {
        self.report_within(verdict, Duration::from_secs(20))
    }

    fn report_within(&self, verdict: Verdict, budget: Duration) -> Inside {
        let (rows, _fd) = Rows::create(1).expect("rows");
        let context = Context {
            registry: Arc::clone(&self.registry),
            rows: Arc::new(rows),
            row: 0,
            loop_tid: self.tid,
            deadline: Instant::now() + budget,
        };
        let memfd = write(verdict, &context).expect("a report");
        let bytes = MemfdBytes::open(&memfd).expect("sealed");
        serde_json::from_slice(bytes.as_ref()).expect("JSON")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn request_of(task: u64) -> Request {
    Request {
        method: "tools/call".to_owned(),
        object: "everything__x".to_owned(),
        caller: "alice".to_owned(),
        upstream: None,
        since_s: 3.2,
        task,
    }
}

fn first_culprit(inside: &Inside, in_flight: &[Request]) -> report::Culprit {
    let culprits = report::culprits(Some(inside), in_flight);
    let stacks = inside.stacks.iter().map(|stack| (stack.count, &stack.frames));
    let stacks: Vec<_> = stacks.collect();
    culprits.into_iter().next().unwrap_or_else(|| panic!("nobody to blame in {stacks:#?}, {:?}", inside.gaps))
}

#[test]
fn a_runaway_poll_is_blamed_on_its_function_its_task_and_its_request() {
    let stuck = Loop::with("runaway", |over| async move { planted_busy_loop(&over) });
    let inside = stuck.report(Verdict::StallCpu);
    let task = inside.current_task;
    let first = first_culprit(&inside, &[request_of(task + 1), request_of(task)]);
    assert_eq!(first.function, "forkgate_worker::watchdog::inside::tests::planted_busy_loop");
    assert!(first.place.is_some_and(|place| place.starts_with("worker/src/watchdog/inside_tests.rs:")));
    assert!(first.task.is_some_and(|task| task.starts_with("runaway (worker/src/watchdog/")));
    assert_eq!(first.request.as_deref(), Some("tools/call everything__x for alice, since 3.2 s"));
    assert_eq!(first.share, 1.0);
    assert!(inside.stacks.iter().all(|stack| stack.task == task && task != 0), "{:?}", inside.stacks);
}

#[test]
fn a_blocked_poll_is_blamed_on_who_waits_and_not_on_the_system_call() {
    let stuck = Loop::with("sleeper", |over| async move { planted_sleep(&over) });
    let inside = stuck.report(Verdict::StallBlocked);
    let first = first_culprit(&inside, &[]);
    assert!(first.function.ends_with("::planted_sleep") && first.share == 1.0, "{first:?}");
    let frames = &inside.stacks[0].frames;
    assert!(
        frames[0].function.contains("nanosleep"),
        "the innermost frame is what was interrupted: {frames:#?}"
    );
}

#[test]
fn a_callback_of_a_dependency_is_blamed_and_not_the_dependency() {
    let stuck = Loop::with("connection", |over| async move {
        let (client, server) = tokio::io::duplex(1024);
        let answer = service_fn(move |_| {
            let over = Arc::clone(&over);
            async move {
                planted_busy_loop(&over);
                Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::new())))
            }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), answer);
        let ask = async move {
            let mut client = client;
            tokio::io::AsyncWriteExt::write_all(
                &mut client,
                b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            )
            .await
            .map(|()| client)
        };
        let (_client, _served) = tokio::join!(ask, connection);
    });
    let inside = stuck.report(Verdict::StallCpu);
    let first = first_culprit(&inside, &[]);
    assert!(first.function.ends_with("::planted_busy_loop"), "{first:?}");
    let names: Vec<&str> = inside.stacks[0].frames.iter().map(|frame| frame.function.as_str()).collect();
    assert!(names.iter().any(|name| name.contains("hyper::")), "{names:#?}");
}

#[test]
fn a_loop_that_turns_for_nothing_is_blamed_on_the_future_that_makes_it_turn() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let spinning = Loop::with("spinner", planted_yielding);
    let inside = spinning.report(Verdict::Spin);
    let first = first_culprit(&inside, &[]);
    assert!(first.function.contains("::planted_yielding"), "{first:?}");
    assert!(first.task.is_some_and(|task| task.starts_with("spinner (")));
    for stacks in [&inside.stacks, &inside.rests] {
        assert!(stacks.iter().map(|stack| stack.count).sum::<u32>() > 1, "{:?}", inside.gaps);
    }
    // The root is polled whenever anything is; of equals the younger comes first.
    let busiest = &inside.tasks[0];
    assert!(
        busiest.recent_polls > 0 && inside.tasks.iter().any(|task| task.name == "spinner"),
        "{:?}",
        inside.tasks
    );
    for step in ["samples", "tasks", "descriptors", "memory", "symbols"] {
        assert!(inside.steps_ms.contains_key(step), "{step}: {:?}", inside.steps_ms);
    }
    assert!(inside.memory.contains_key("Rss") && !inside.descriptors.is_empty(), "{inside:?}");
}

#[test]
fn a_callback_that_makes_a_dependency_turn_is_blamed() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let spinning = Loop::with("connection", |over| async move {
        let (mut client, server) = tokio::io::duplex(1024);
        let answer = service_fn(async |_| {
            planted_waking(&over).await;
            Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::new())))
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), answer);
        let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client, request).await;
        let _ = connection.await;
    });
    let inside = spinning.report(Verdict::Spin);
    let first = first_culprit(&inside, &[]);
    assert!(first.function.contains("::planted_waking"), "{first:?}");
}

#[test]
fn a_thread_that_does_not_answer_is_a_gap_and_its_task_is_blamed() {
    let mut stuck = Loop::with("nobody there", |over| async move { planted_sleep(&over) });
    stuck.tid = i32::MAX;
    let inside = stuck.report(Verdict::StallBlocked);
    assert!(
        inside.stacks.is_empty() && inside.gaps.iter().any(|gap| gap.starts_with("stacks: ")),
        "{:?}",
        inside.gaps
    );
    assert_eq!(first_culprit(&inside, &[]).function, "task nobody there");
}

#[test]
fn without_time_for_names_the_task_is_blamed_and_addresses_can_be_looked_up_later() {
    let stuck = Loop::with("runaway", |over| async move { planted_busy_loop(&over) });
    let inside = stuck.report_within(Verdict::StallCpu, WRITING);
    for frame in inside.stacks.iter().flat_map(|stack| &stack.frames) {
        assert!(frame.function.contains("+0x") && frame.place.is_none(), "{frame:?}");
    }
    assert_eq!(first_culprit(&inside, &[]).function, "task runaway");
}

#[test]
fn essential_tasks_are_known_as_housekeeping() {
    let duties = [Duty::AcceptMain, Duty::AcceptAdmin, Duty::Heartbeat, Duty::RegistryWatch];
    for name in duties.map(Duty::as_str).into_iter().chain([ROOT_TASK]) {
        assert!(report::HOUSEKEEPING.contains(&name), "{name}");
    }
}

#[test]
fn a_report_that_is_too_large_loses_its_rarest_stacks_first() {
    let frame = report::Frame { function: "f".repeat(300), place: None };
    let stack = Stack { count: 1, frames: vec![frame; 200], task: 0 };
    let inside = Inside { stacks: vec![stack; 20], log: vec!["line".to_owned()], ..Inside::default() };
    let json = bounded_json(inside).expect("JSON");
    assert!(json.len() <= MAX_BYTES);
    let inside: Inside = serde_json::from_slice(&json).expect("JSON");
    assert_eq!((inside.stacks.len(), inside.log.len()), (10, 1));
    assert_eq!(inside.gaps, ["stacks: the rarest were left out"]);
}

#[test]
fn of_many_tasks_those_that_matter_are_listed_and_the_deadline_holds() {
    let task = |id: u64| TaskFacts {
        id,
        name: "test",
        place: std::panic::Location::caller(),
        spawned_ns: 0,
        polls: id * 2,
        last_poll_ns: 0,
        progress_ns: 0,
    };
    let many: Vec<TaskFacts> = (1..=100_000).map(task).collect();
    // The recent polls of a task are its number; of one they are none.
    let before: HashMap<u64, u64> = many.iter().map(|task| (task.id, task.id)).chain([(99_999, 0)]).collect();
    let first = HashSet::from([7, 0, 12]);
    let (chosen, seen) = choose(&many, &before, &first, Instant::now() + Duration::from_secs(600));
    let ids: Vec<u64> = chosen.iter().map(|(_, task)| task.id).collect();
    assert_eq!((ids.len(), seen), (MAX_TASKS, many.len()));
    assert_eq!((&ids[..3], &ids[198..]), (&[99_999, 100_000, 99_998][..], &[12, 7][..]));
    assert_eq!(chosen[1].0, 100_000);
    let (chosen, seen) = choose(&many, &before, &first, Instant::now());
    assert_eq!((chosen.len(), seen), (MAX_TASKS, TASKS_AT_ONCE), "its time was over");
    let (chosen, seen) = choose(&many[..5], &before, &first, Instant::now());
    assert_eq!((chosen.len(), seen), (5, 5));
}
