//! Tables of stacks and who is to blame for them.

use super::*;

fn frame(text: &str) -> Frame {
    let (function, place) = match text.split_once(" @ ") {
        Some((function, place)) => (function, Some(place.to_owned())),
        None => (text, None),
    };
    Frame { function: function.to_owned(), place }
}

fn stack(count: u32, task: u64, frames: &[&str]) -> Stack {
    Stack { count, task, frames: frames.iter().map(|text| frame(text)).collect() }
}

fn task(id: u64, name: &str, recent_polls: u64) -> Task {
    Task {
        id,
        name: name.to_owned(),
        place: "worker/src/a.rs:1".to_owned(),
        age_s: 1.0,
        polls: recent_polls,
        recent_polls,
        last_poll_s: None,
        last_progress_s: None,
    }
}

fn request(task: u64, object: &str, since_s: f64) -> Request {
    Request {
        method: "tools/call".to_owned(),
        object: object.to_owned(),
        caller: "alice".to_owned(),
        upstream: None,
        since_s,
        task,
    }
}

const POLL: &str =
    "forkgate_worker::lifecycle::task::poll_task::<x::y::{closure#0}> @ worker/src/lifecycle/task/mod.rs:9";
const WATCHED: &str = "<forkgate_worker::lifecycle::task::Watched as core::future::future::Future>::poll @ worker/src/lifecycle/task/mod.rs:8";
const RUN: &str = "<tokio::task::local::LocalSet>::tick @ tokio-1.54.1/src/task/local.rs:7";
const BOOT: &str = "forkgate_worker::lifecycle::boot::serve @ worker/src/lifecycle/boot.rs:1";

#[test]
fn the_innermost_function_that_is_no_machinery_is_to_blame() {
    for (frames, expected) in [
        // Of ours, under system calls and std.
        (
            vec![
                "clock_nanosleep",
                "std::thread::sleep @ std/src/thread/mod.rs:1",
                "a::b @ worker/src/b.rs:3",
                POLL,
                WATCHED,
            ],
            Some("a::b"),
        ),
        // An address without a name is nobody.
        (vec!["0x55d0c0ffee", "a::b", POLL], Some("a::b")),
        // A trait's method belongs to the type it is implemented for.
        (
            vec!["<forkgate_worker::x::Y as core::future::Future>::poll", "a::b", POLL],
            Some("<forkgate_worker::x::Y as core::future::Future>::poll"),
        ),
        (
            vec![
                "<core::pin::Pin as core::future::Future>::poll",
                "<F as core::ops::FnOnce>::call_once",
                "<&mut a::B as c::D>::e",
                "a::f::{closure#0}",
                POLL,
            ],
            Some("a::f::{closure#0}"),
        ),
        (vec!["<[u8]>::iter", "<str>::parse", "<dyn a::B>::c", POLL], Some("<dyn a::B>::c")),
        // What is inlined from elsewhere belongs to its file, whatever its types are called.
        (
            vec![
                "<a::B as core::iter::Iterator>::next @ core/src/iter/mod.rs:1",
                "a::b @ worker/src/b.rs:3",
                POLL,
            ],
            Some("a::b"),
        ),
        (
            vec!["poll @ hyper-util-0.1.2/src/lib.rs:1", "sqlx_core::x @ sqlx-core-0.9.1/src/x.rs:3", POLL],
            Some("sqlx_core::x"),
        ),
        // A callback of a dependency; what called it is not to blame.
        (
            vec![
                "a::planted @ worker/src/a.rs:1",
                "hyper::proto::h1::dispatch @ hyper-1.12.0/src/a.rs:1",
                "a::connection",
                POLL,
            ],
            Some("a::planted"),
        ),
        // A runtime that the task itself calls is no end of it.
        (
            vec![
                "core::mem::take",
                "tokio::runtime::task::new @ tokio-1.54.1/src/runtime/task/mod.rs:1",
                "a::spawns",
                POLL,
            ],
            Some("a::spawns"),
        ),
        // All inlined: the polled future has a name.
        (
            vec!["tokio::task::yield_now @ tokio-1.54.1/src/task/yield_now.rs:1", POLL, WATCHED, RUN],
            Some("x::y::{closure#0}"),
        ),
        (vec!["core::x", "forkgate_worker::lifecycle::task::poll_task::<core::pin::Pin>"], None),
        // Only the innermost of nested tasks counts.
        (vec!["core::x", POLL, "a::outer", POLL], Some("x::y::{closure#0}")),
        // The runtime between two polls.
        (
            vec![
                "epoll_wait",
                "<mio::Poll>::poll",
                "tokio::runtime::scheduler::park @ tokio-1.54.1/src/runtime/a.rs:1",
                BOOT,
                "main",
            ],
            None,
        ),
        (vec![WATCHED, RUN, BOOT], None),
        // The compiler left `poll_task` out.
        (vec!["core::x", "a::b", WATCHED, RUN, BOOT], Some("a::b")),
        (
            vec![
                "<forkgate_worker::lifecycle::task::registry::Polling as core::Drop>::drop",
                WATCHED,
                RUN,
                BOOT,
            ],
            None,
        ),
        (vec!["<forkgate_worker::watchdog::stack::Desk>::write", "a::b", POLL], Some("a::b")),
        // A poll of a task that nobody knows.
        (vec!["a::b", "core::x", RUN, BOOT], Some("a::b")),
        (vec![], None),
    ] {
        let frames: Vec<Frame> = frames.into_iter().map(frame).collect();
        assert_eq!(to_blame(&frames).map(|(function, _)| function).as_deref(), expected, "{frames:#?}");
    }
}

#[test]
fn the_share_of_samples_decides_the_order() {
    let inside = Inside {
        stacks: vec![
            stack(8, 3, &["epoll_wait", RUN, BOOT]),
            stack(5, 7, &["a::slow @ worker/src/a.rs:1", POLL]),
            stack(4, 9, &["core::x", "a::hot @ worker/src/a.rs:5", POLL]),
            stack(3, 9, &["a::hot @ worker/src/a.rs:6", POLL]),
        ],
        tasks: vec![task(9, "hot task", 100), task(7, "slow task", 5)],
        ..Inside::default()
    };
    let in_flight = [request(9, "young", 1.0), request(9, "old", 2.0), request(8, "other", 9.0)];
    let found = culprits(Some(&inside), &in_flight);
    let brief: Vec<_> =
        found.iter().map(|one| (one.function.as_str(), one.share, one.place.as_deref())).collect();
    assert_eq!(
        brief,
        [("a::hot", 0.35, Some("worker/src/a.rs:5")), ("a::slow", 0.25, Some("worker/src/a.rs:1"))]
    );
    assert_eq!(found[0].task.as_deref(), Some("hot task (worker/src/a.rs:1)"));
    assert_eq!(found[0].request.as_deref(), Some("tools/call old for alice, since 2.0 s"));
    assert_eq!(found[1].request, None);
}

#[test]
fn the_runtimes_own_time_is_charged_to_those_who_make_it_turn() {
    let rests = vec![
        stack(3, 9, &["forkgate_worker::watchdog::stack::x", "tokio::y", "a::spinner", POLL]),
        stack(1, 7, &["tokio::y", "a::other", POLL]),
    ];
    let stacks = vec![stack(8, 0, &["epoll_wait", RUN, BOOT]), stack(2, 7, &["a::other", POLL])];
    let inside = Inside { stacks, rests: rests.clone(), ..Inside::default() };
    let brief = |inside: &Inside| -> Vec<(String, f64)> {
        culprits(Some(inside), &[]).into_iter().map(|one| (one.function, one.share)).collect()
    };
    assert_eq!(brief(&inside), [("a::spinner".to_owned(), 0.6), ("a::other".to_owned(), 0.4)]);
    // A stall has no such samples, whatever else came to rest.
    let stalled =
        Inside { stacks: vec![stack(3, 5, &["a::stuck", POLL])], rests: rests.clone(), ..Inside::default() };
    assert_eq!(brief(&stalled), [("a::stuck".to_owned(), 1.0)]);
    let only_rests = Inside { rests, ..Inside::default() };
    assert_eq!(brief(&only_rests), [("a::spinner".to_owned(), 0.75), ("a::other".to_owned(), 0.25)]);
}

#[test]
fn a_dependencys_time_is_charged_to_the_callback_that_makes_it_turn() {
    const HYPER: &str = "hyper::proto::h1::dispatch::x @ hyper-1.12.0/src/proto/h1/dispatch.rs:1";
    fn serve<'a>(callees: &[&'a str]) -> Vec<&'a str> {
        [callees, &["a::serve", POLL]].concat()
    }
    let stacks = vec![
        stack(16, 9, &serve(&["core::cell::borrow @ core/src/cell.rs:1", HYPER])),
        stack(1, 9, &serve(&["a::callback", HYPER])),
        stack(2, 9, &serve(&["core::str::find @ core/src/str/mod.rs:1"])),
        stack(1, 7, &["a::serve", POLL]),
    ];
    let callback = stack(3, 9, &serve(&["core::task::wake::wake_by_ref", "a::callback", HYPER]));
    let brief = |rests: Vec<Stack>| -> Vec<(String, f64)> {
        let inside = Inside { stacks: stacks.clone(), rests, ..Inside::default() };
        culprits(Some(&inside), &[]).into_iter().map(|one| (one.function, one.share)).collect()
    };
    let (serve_alone, own) = (("a::serve".to_owned(), 0.95), ("a::serve".to_owned(), 0.15));
    assert_eq!(brief(vec![callback]), [("a::callback".to_owned(), 0.85), own]);
    // Nothing rests below it, or only in another task.
    let rested = ("a::callback".to_owned(), 0.05);
    assert_eq!(brief(vec![stack(3, 9, &serve(&[HYPER]))]), [serve_alone.clone(), rested.clone()]);
    let others = stack(3, 8, &serve(&["a::callback", HYPER]));
    assert_eq!(brief(vec![others]), [serve_alone, rested]);
}

#[test]
fn without_a_stack_it_is_the_polled_task_or_the_busiest() {
    let tasks = vec![task(5, "busy", 30), task(6, "idle", 0), task(7, "less", 10)];
    let stalled = Inside { current_task: 6, tasks: vec![task(6, "stuck", 0)], ..Inside::default() };
    let found = culprits(Some(&stalled), &[request(6, "x", 1.0)]);
    assert_eq!((found.len(), found[0].function.as_str(), found[0].share), (1, "task stuck", 1.0));
    assert!(found[0].request.is_some());
    let spinning = Inside { current_task: 7, tasks, ..Inside::default() };
    let found = culprits(Some(&spinning), &[]);
    let brief: Vec<_> = found.iter().map(|one| (one.function.as_str(), one.share)).collect();
    assert_eq!(brief, [("task busy", 0.75), ("task less", 0.25)]);
    assert!(culprits(None, &[]).is_empty() && culprits(Some(&Inside::default()), &[]).is_empty());
}

fn named(id: u64, name: &str, polls: u64) -> Task {
    Task { name: name.to_owned(), ..task(id, name, polls) }
}

#[test]
fn housekeeping_ranks_behind_others_unless_it_is_nearly_all() {
    let beat = stack(10, 1, &["a::heartbeat @ worker/src/a.rs:1", POLL, WATCHED]);
    let leak = stack(7, 2, &["a::leaking @ worker/src/a.rs:2", POLL, WATCHED]);
    let mut inside = Inside {
        stacks: vec![beat, leak],
        tasks: vec![named(1, "heartbeat", 10), named(2, "leak", 9), named(3, "worker", 30)],
        ..Inside::default()
    };
    let functions = |inside: &Inside| {
        let culprits = culprits(Some(inside), &[]);
        culprits.into_iter().map(|culprit| culprit.function).collect::<Vec<_>>()
    };
    assert_eq!(functions(&inside), ["a::leaking", "a::heartbeat"]);
    inside.stacks[0].count = 100;
    assert_eq!(functions(&inside), ["a::heartbeat", "a::leaking"], "it really spins");
    inside.stacks.truncate(1);
    assert_eq!(functions(&inside), ["a::heartbeat"]);
    inside.stacks.clear();
    assert_eq!(functions(&inside), ["task leak"]);
    inside.tasks.remove(1);
    assert_eq!(functions(&inside), ["task worker", "task heartbeat"]);
}

#[test]
fn a_single_frame_with_a_name_among_addresses_is_not_blamed_but_the_task_is() {
    let unclear = |count, task| {
        stack(
            count,
            task,
            &[
                "forkgate+0x1f",
                "forkgate+0x2f",
                "forkgate+0x3f",
                "a::luck @ worker/src/a.rs:1",
                "forkgate+0x4",
            ],
        )
    };
    let clear = |count, task| stack(count, task, &["forkgate+0x1f", "a::known @ worker/src/a.rs:1", POLL]);
    let tasks = vec![named(1, "yield-spin", 40), named(2, "relay", 3)];
    let first = |stacks: Vec<Stack>| {
        let inside = Inside { stacks, tasks: tasks.clone(), ..Inside::default() };
        culprits(Some(&inside), &[]).into_iter().next().map(|culprit| culprit.function)
    };
    assert_eq!(first(vec![unclear(8, 1), clear(2, 2)]).as_deref(), Some("task yield-spin"));
    assert_eq!(first(vec![unclear(2, 1), clear(8, 2)]).as_deref(), Some("a::known"));
    // What has no name in a library is as good as a system call.
    let library = ["libssl.so.3+0x1", "libssl.so.3+0x2", "[vdso]+0x3", "a::calls @ worker/src/a.rs:1", POLL];
    assert_eq!(first(vec![stack(9, 2, &library)]).as_deref(), Some("a::calls"));
    // Of the runtime nobody is to blame, named or not.
    let runtime = stack(19, 0, &["forkgate+0x1", "forkgate+0x2", "forkgate+0x3", BOOT]);
    assert_eq!(first(vec![runtime, clear(1, 2)]).as_deref(), Some("a::known"));
}
