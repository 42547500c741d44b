//! Who is to blame: of each stack the innermost function that is no machinery, within the poll of a task.
//!
//! What lies outside of a task's poll is the runtime: it is on every stack and never to blame. A frame belongs to the
//! package of its file; where the file is not known, to the crate that its name begins with.

use super::{Culprit, Frame, Inside, Request, Stack, Task};

/// Culprits that are named.
const MAX: usize = 5;
/// Tasks of the gateway's own housekeeping, which every loop polls now and then. Among a few samples they may be half, and
/// mean nothing; one that really spins is nearly all of them.
pub const HOUSEKEEPING: [&str; 9] = [
    "worker",
    "accept-main",
    "accept-admin",
    "heartbeat",
    "memory-sampler",
    "age",
    "registry-watch",
    "unused upstreams",
    "idle upstream connections",
];
/// Of housekeeping so many times the samples count as much as one of others.
const HOUSEKEEPING_HANDICAP: f64 = 4.0;
/// The frames where the runtime ends and a task begins; the compiler may leave one of them out.
const BOUNDARIES: [&str; 2] = ["lifecycle::task::poll_task", "<forkgate_worker::lifecycle::task::Watched"];
/// Packages that do what others tell them to.
const MACHINERY: &[&str] = &[
    "alloc",
    "arc_swap",
    "backtrace",
    "bytes",
    "core",
    "futures",
    "futures_channel",
    "futures_core",
    "futures_util",
    "http_body",
    "http_body_util",
    "hashbrown",
    "hyper",
    "hyper_util",
    "itoa",
    "libc",
    "memchr",
    "mimalloc",
    "mio",
    "nix",
    "pin_project",
    "pin_project_lite",
    "rustc_demangle",
    "ryu",
    "serde",
    "serde_core",
    "serde_json",
    "socket2",
    "std",
    "tokio",
    "tokio_rustls",
    "tokio_util",
    "tracing",
    "tracing_core",
    "tracing_subscriber",
];
/// Our own part of it, by name and by file.
const OUR_MACHINERY: [&str; 4] = [
    "forkgate_worker::lifecycle::task::",
    "forkgate_worker::watchdog::stack::",
    "worker/src/lifecycle/task/",
    "worker/src/watchdog/stack.rs",
];
/// Frames of these run tasks that are not known by [`BOUNDARIES`].
const RUNTIME: [&str; 4] =
    ["tokio::runtime::", "tokio::task::local::", "/src/runtime/", "/src/task/local.rs"];

/// The likeliest first.
///
/// The samples that the runtime is in are charged to those who make it turn, by how often their tasks came to rest; so are
/// those of a dependency that was on its way to a callback, to the callback. Without any stack, or when most of them have
/// hardly a name, it is the task that was polled, or the ones that were polled most. The gateway's housekeeping ranks behind
/// others: see [`HOUSEKEEPING`].
pub fn culprits(inside: Option<&Inside>, in_flight: &[Request]) -> Vec<Culprit> {
    let Some(inside) = inside else { return Vec::new() };
    if is_mostly_unclear(inside) {
        return without_stacks(inside, in_flight);
    }
    let (samples, mut blames) = blamed(&inside.stacks, inside);
    pass_on_to_callbacks(&mut blames, inside);
    let (rests, resting) = blamed(&inside.rests, inside);
    let of_runtime = samples - blames.iter().map(|blame| blame.weight).sum::<f64>();
    for rest in resting {
        let share = if samples > 0.0 { of_runtime * rest.weight / rests } else { rest.weight };
        add(&mut blames, Blame { weight: share, ..rest });
    }
    blames.retain(|blame| blame.weight > 0.0);
    if blames.is_empty() {
        return without_stacks(inside, in_flight);
    }
    let is_housekeeping = |blame: &Blame| {
        let task = inside.tasks.iter().find(|task| Some(task.id) == blame.task);
        task.is_some_and(|task| HOUSEKEEPING.contains(&task.name.as_str()))
    };
    let rank =
        |blame: &Blame| blame.weight / if is_housekeeping(blame) { HOUSEKEEPING_HANDICAP } else { 1.0 };
    blames.sort_by(|one, other| rank(other).total_cmp(&rank(one)));
    blames.truncate(MAX);
    let all = if samples > 0.0 { samples } else { rests };
    let culprit = |blame: Blame| Culprit {
        share: blame.weight / all,
        task: blame.task.and_then(|id| inside.tasks.iter().find(|task| task.id == id)).map(in_words),
        request: blame.task.and_then(|id| request_of(id, in_flight)),
        function: blame.function,
        place: blame.place,
    };
    blames.into_iter().map(culprit).collect()
}

struct Blame {
    function: String,
    place: Option<String>,
    /// Samples.
    weight: f64,
    /// Those of them in which the function had called a dependency that had not come back.
    in_dependency: f64,
    task: Option<u64>,
}

/// How many samples there are, and who is to blame for how many of them.
fn blamed(stacks: &[Stack], inside: &Inside) -> (f64, Vec<Blame>) {
    let mut blames = Vec::new();
    for stack in stacks {
        if let Some((function, place)) = to_blame(&stack.frames)
            && !is_unclear(stack)
        {
            let (weight, task) = (f64::from(stack.count), task_of(stack, inside));
            let mut callees = stack.frames.iter().take_while(|frame| is_machinery(frame));
            let in_dependency = if callees.any(is_dependency) { weight } else { 0.0 };
            add(&mut blames, Blame { function, place, weight, in_dependency, task });
        }
    }
    (stacks.iter().map(|stack| f64::from(stack.count)).sum(), blames)
}

fn add(blames: &mut Vec<Blame>, more: Blame) {
    match blames.iter_mut().find(|blame| blame.function == more.function) {
        Some(blame) => {
            blame.weight += more.weight;
            blame.in_dependency += more.in_dependency;
        }
        None => blames.push(more),
    }
}

/// A task that spins in a callback spends most of its time in the dependency that polls it. Where such a task comes to
/// rest below a function, the time that this function spent in dependencies is not its own doing.
fn pass_on_to_callbacks(blames: &mut Vec<Blame>, inside: &Inside) {
    let mut passed_on = Vec::new();
    for blame in blames.iter_mut().filter(|blame| blame.in_dependency > 0.0) {
        let is_below = |rest: &&Stack| {
            let mut frames = rest.frames.iter();
            let is_other =
                frames.find(|frame| !is_machinery(frame)).is_some_and(|own| own.function != blame.function);
            is_other && Some(rest.task) == blame.task && frames.any(|frame| frame.function == blame.function)
        };
        let below: Vec<Stack> = inside.rests.iter().filter(is_below).cloned().collect();
        let (rests, callbacks) = blamed(&below, inside);
        for callback in callbacks {
            let weight = blame.in_dependency * callback.weight / rests;
            passed_on.push(Blame { weight, in_dependency: 0.0, ..callback });
        }
        if rests > 0.0 {
            blame.weight -= blame.in_dependency;
        }
    }
    passed_on.into_iter().for_each(|blame| add(blames, blame));
}

/// True when the function to blame, if there is one, is one of few that have a name: the trouble is as likely in another.
fn is_unclear(stack: &Stack) -> bool {
    let frames = &stack.frames[..end_of_task(&stack.frames)];
    let blamed = frames.iter().position(|frame| !is_machinery(frame));
    let looked_at = &frames[..blamed.map_or(frames.len(), |at| at + 1)];
    looked_at.iter().filter(|frame| frame.is_unnamed_of_program()).count() * 2 > looked_at.len()
}

/// True when this is so for most of what was seen within tasks.
fn is_mostly_unclear(inside: &Inside) -> bool {
    let in_tasks = || inside.stacks.iter().chain(&inside.rests).filter(|stack| stack.task != 0);
    let all: u32 = in_tasks().map(|stack| stack.count).sum();
    let unclear: u32 = in_tasks().filter(|stack| is_unclear(stack)).map(|stack| stack.count).sum();
    u64::from(unclear) * 2 > u64::from(all)
}

fn task_of(stack: &Stack, inside: &Inside) -> Option<u64> {
    [stack.task, inside.current_task].into_iter().find(|id| *id != 0)
}

/// The function, and its place.
fn to_blame(frames: &[Frame]) -> Option<(String, Option<String>)> {
    let boundary = frames.iter().position(begins_a_task);
    if let Some(frame) = frames[..end_of_task(frames)].iter().find(|frame| !is_machinery(frame)) {
        return Some((frame.function.clone(), frame.place.clone()));
    }
    // All of the task was inlined into the poll, or waits within machinery: the task's own future has a name too.
    let future = polled_future(&frames[boundary?].function)?;
    (!is_machinery_by_name(future)).then(|| (future.to_owned(), None))
}

/// How many of the frames are within a task's poll.
fn end_of_task(frames: &[Frame]) -> usize {
    let boundary = frames.iter().position(begins_a_task);
    boundary.or_else(|| frames.iter().position(is_runtime)).unwrap_or(frames.len())
}

/// True for the frame with which the poll of a task begins: what is further out is the runtime, which is never to blame.
pub fn begins_a_task(frame: &Frame) -> bool {
    BOUNDARIES.iter().any(|name| frame.function.contains(name))
}

fn is_runtime(frame: &Frame) -> bool {
    let of_tokio = package(frame.place.as_deref()).is_none_or(|package| package == "tokio");
    of_tokio
        && RUNTIME.iter().any(|part| {
            frame.function.contains(part) || frame.place.as_deref().is_some_and(|place| place.contains(part))
        })
}

/// The type argument of the boundary's frame.
fn polled_future(function: &str) -> Option<&str> {
    let (_, arguments) = function.split_once("poll_task::<").or_else(|| function.split_once("poll_task<"))?;
    // A long name was cut.
    Some(arguments.strip_suffix('>').unwrap_or(arguments))
}

fn is_machinery(frame: &Frame) -> bool {
    let place = frame.place.as_deref();
    match package(place) {
        _ if is_ours(&frame.function) || place.is_some_and(is_ours) => true,
        Some(package) => MACHINERY.contains(&package.as_str()),
        None => is_machinery_by_name(&frame.function),
    }
}

/// True for a name or a file of our own machinery.
fn is_ours(text: &str) -> bool {
    OUR_MACHINERY.iter().any(|part| text.trim_start_matches('<').starts_with(part))
}

/// Machinery that calls back what it is given: not the language's own, which is wherever anything is done.
fn is_dependency(frame: &Frame) -> bool {
    const LANGUAGE: [&str; 4] = ["alloc", "core", "libc", "std"];
    let package = package(frame.place.as_deref());
    let name = package.as_deref().or_else(|| crate_of(&frame.function));
    name.is_some_and(|name| MACHINERY.contains(&name) && !LANGUAGE.contains(&name))
}

/// The package of a file of Rust code: `hyper-util` of `hyper-util-0.1.2/src/a.rs`, written as a crate's name.
fn package(place: Option<&str>) -> Option<String> {
    let (directory, _) = place?.split_once("/src/")?;
    let package = directory.rsplit('/').next()?;
    let name = match package.rsplit_once('-') {
        Some((name, version)) if version.starts_with(|c: char| c.is_ascii_digit()) => name,
        _ => package,
    };
    Some(name.replace('-', "_"))
}

fn is_machinery_by_name(function: &str) -> bool {
    match crate_of(function) {
        Some(name) => MACHINERY.contains(&name) || is_ours(function),
        // A C function, an address, a type without a crate (`<[u8]>::iter`, `<F as …>::call`): somebody's tool.
        None => true,
    }
}

/// The crate that a function's name begins with: of `a::b`, `<a::B>::c`, `<a::B as d::E>::f`, `<dyn a::B>::c`.
fn crate_of(function: &str) -> Option<&str> {
    let start = function.trim_start_matches('<');
    let start = start.strip_prefix("dyn ").unwrap_or(start);
    let (name, _) = start.split_once("::")?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    is_name.then_some(name)
}

fn without_stacks(inside: &Inside, in_flight: &[Request]) -> Vec<Culprit> {
    let polls: u64 = inside.tasks.iter().map(|task| task.recent_polls).sum();
    let culprit = |task: &Task, share: f64| Culprit {
        function: format!("task {}", task.name),
        place: Some(task.place.clone()),
        share,
        task: Some(in_words(task)),
        request: request_of(task.id, in_flight),
    };
    if let Some(current) =
        inside.tasks.iter().find(|task| inside.current_task != 0 && task.id == inside.current_task)
        && polls <= current.recent_polls
    {
        return vec![culprit(current, 1.0)];
    }
    let mut busy: Vec<&Task> = inside.tasks.iter().filter(|task| task.recent_polls > 0).collect();
    let is_housekeeping = |task: &&Task| HOUSEKEEPING.contains(&task.name.as_str());
    if !busy.iter().all(is_housekeeping) {
        busy.retain(|task| !is_housekeeping(task));
    }
    // Of equals the younger first: the loop's root is polled whenever anything is.
    busy.sort_by_key(|task| std::cmp::Reverse((task.recent_polls, task.id)));
    busy.iter().take(MAX).map(|task| culprit(task, task.recent_polls as f64 / polls as f64)).collect()
}

fn in_words(task: &Task) -> String {
    format!("{} ({})", task.name, task.place)
}

/// The oldest request that a task works for.
fn request_of(task: u64, in_flight: &[Request]) -> Option<String> {
    let own = in_flight.iter().filter(|request| request.task == task);
    own.max_by(|one, other| one.since_s.total_cmp(&other.since_s)).map(ToString::to_string)
}

#[cfg(test)]
mod tests;
