//! What a worker finds out about itself when it is in trouble, in steps of which each has its own limit of time.
//!
//! Runs on the watchdog's thread. Whatever a step may get stuck in (a lock of the kernel, a slow disk under the program's
//! file) it does on a thread of its own, which is left behind when its time is over. What is not found out is named in
//! `gaps`.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use forkgate_shared::report::{Frame, Inside, Stack, Task};
use forkgate_shared::rows::{Rows, monotonic_ns};
use forkgate_shared::verdict::Verdict;
use forkgate_shared::{log, memfd};

use super::stack::{self, Sample, SampleError};
use super::{descriptors, memory, modules, symbols};
use crate::lifecycle::task::{Registry, TaskFacts};

/// Largest report, in bytes of JSON.
const MAX_BYTES: usize = 1 << 20;
/// Tasks that are listed.
const MAX_TASKS: usize = 200;
/// Tasks that are looked at before the time is looked at.
const TASKS_AT_ONCE: usize = 4096;
/// How long one sample is waited for.
const SAMPLE_LIMIT: Duration = Duration::from_secs(1);
/// Samples of a loop that stands, and the time over which they are spread: they show that it stands.
const STALL_SAMPLES: (u32, Duration) = (3, Duration::from_millis(60));
/// Samples of a loop that turns, and the time: enough to tell who takes most of it.
const SPIN_SAMPLES: (u32, Duration) = (20, Duration::from_secs(1));
/// How long is waited for a task to come to rest, after the sample: a loop that spins has thousands of them per second, when
/// it gets a CPU.
const REST_LIMIT: Duration = Duration::from_millis(100);
/// So many times in vain, and none is waited for any more: the loop is in one long poll.
const VAIN: u32 = 3;
/// Part of the time that may go into sampling when the thread hardly gets a CPU.
const SAMPLING_SHARE: f64 = 0.5;
/// Kept for writing the report down after the last step.
const WRITING: Duration = Duration::from_millis(150);

/// What the report is made from.
pub(super) struct Context {
    /// The loop's tasks.
    pub registry: Arc<Registry>,
    /// The row table.
    pub rows: Arc<Rows>,
    /// This worker's row.
    pub row: usize,
    /// The loop's thread.
    pub loop_tid: i32,
    /// When the report must be there.
    pub deadline: Instant,
}

/// Finds out what it can by the deadline; gives it as JSON ([`Inside`]) in a sealed memfd.
pub(super) fn write(verdict: Verdict, context: &Context) -> io::Result<OwnedFd> {
    memfd::immutable("forkgate-report", &bounded_json(collect(verdict, context))?)
}

fn collect(verdict: Verdict, context: &Context) -> Inside {
    let mut inside = Inside::default();
    let current = context.registry.current();
    inside.current_task = current.task;
    if current.since_ns != 0 {
        inside.current_poll_s = seconds(monotonic_ns(), current.since_ns);
    }
    let before = context.registry.snapshot();
    let (samples, rests) = timed(&mut inside, "samples", |inside| sample(verdict, context, inside));
    // Before debug information is read, which takes memory.
    timed(&mut inside, "memory", |inside| {
        inside.memory = aside("memory", memory::LIMIT, memory::summary, inside);
    });
    timed(&mut inside, "tasks", |inside| list_tasks(inside, context, &before, samples.iter().chain(&rests)));
    let (stacks, rests) = (folded(samples), folded(rests));
    // Names take longest: they are found while the other steps run.
    let naming = symbols::begin(
        by_weight(&stacks, &rests),
        context.deadline.checked_sub(WRITING).unwrap_or(context.deadline),
    );
    timed(&mut inside, "descriptors", |inside| {
        inside.descriptors = aside("descriptors", descriptors::LIMIT, descriptors::count, inside);
    });
    match log::last_lines() {
        Some(lines) => inside.log = lines,
        None => inside.gaps.push("log: a thread is just writing a line".to_owned()),
    }
    timed(&mut inside, "symbols", |inside| {
        name_stacks(inside, stacks, rests, naming);
    });
    inside
}

/// Runs a step and writes down how long it took.
fn timed<T>(inside: &mut Inside, step: &str, run: impl FnOnce(&mut Inside) -> T) -> T {
    let begun = Instant::now();
    let result = run(inside);
    inside.steps_ms.insert(step.to_owned(), begun.elapsed().as_millis() as u64);
    result
}

/// Runs a step on a thread of its own for at most `limit`.
fn aside<T: Default + Send + 'static>(
    step: &str,
    limit: Duration,
    run: impl FnOnce() -> io::Result<T> + Send + 'static,
    inside: &mut Inside,
) -> T {
    let (sender, receiver) = sync_channel(1);
    let work = move || drop(sender.send(run()));
    let problem = match std::thread::Builder::new().name("fg-report".to_owned()).spawn(work) {
        Ok(_) => match receiver.recv_timeout(limit) {
            Ok(Ok(result)) => return result,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not done within {} ms", limit.as_millis()),
        },
        Err(error) => error.to_string(),
    };
    inside.gaps.push(format!("{step}: {problem}"));
    T::default()
}

/// Samples of the thread, and of places where its tasks come to rest.
fn sample(verdict: Verdict, context: &Context, inside: &mut Inside) -> (Vec<Sample>, Vec<Sample>) {
    let (count, spread) = if verdict.loop_turns() { SPIN_SAMPLES } else { STALL_SAMPLES };
    let begun = Instant::now();
    let end = begun + context.deadline.saturating_duration_since(begun).mul_f64(SAMPLING_SHARE);
    let (mut samples, mut rests) = (Vec::new(), Vec::new());
    for number in 0..count {
        let limit = end.saturating_duration_since(Instant::now()).min(SAMPLE_LIMIT);
        let wants_rest = verdict.loop_turns() && (number < VAIN || !rests.is_empty());
        let taken = match wants_rest {
            true => stack::sample_and_rest(context.loop_tid, limit, REST_LIMIT.min(limit)),
            false => stack::sample(context.loop_tid, limit).map(|sample| (sample, None)),
        };
        match taken {
            Ok((sample, rest)) => {
                samples.push(sample);
                rests.extend(rest);
            }
            Err(error) => {
                inside.gaps.push(format!("stacks: after {number} of {count} samples: {error}"));
                // A thread that has once not answered does not answer; one that hardly runs may the next time.
                if samples.is_empty() || !matches!(error, SampleError::NoAnswer(_)) {
                    break;
                }
            }
        }
        let next = begun + spread * (number + 1) / count;
        std::thread::sleep(next.min(end).saturating_duration_since(Instant::now()));
        if Instant::now() >= end {
            break;
        }
    }
    (samples, rests)
}

/// Equal samples together, the most frequent first.
fn folded(samples: Vec<Sample>) -> Vec<(u32, Sample)> {
    let mut stacks: Vec<(Vec<usize>, Vec<u64>)> = Vec::new();
    for sample in samples {
        match stacks.iter_mut().find(|(addresses, _)| *addresses == sample.addresses) {
            Some((_, tasks)) => tasks.push(sample.task),
            None => stacks.push((sample.addresses, vec![sample.task])),
        }
    }
    stacks.sort_by_key(|(_, tasks)| Reverse(tasks.len()));
    let stack = |(addresses, tasks): (Vec<usize>, Vec<u64>)| {
        let times = |task: u64| tasks.iter().filter(|other| **other == task).count();
        let task = tasks.iter().copied().max_by_key(|task| times(*task)).unwrap_or(0);
        (tasks.len() as u32, Sample { addresses, task })
    };
    stacks.into_iter().map(stack).collect()
}

/// The stacks in the order in which they are named: those of the runtime last, as nobody is blamed for them.
fn by_weight(stacks: &[(u32, Sample)], rests: &[(u32, Sample)]) -> Vec<Vec<usize>> {
    let sorted = |stacks: &[(u32, Sample)]| {
        let mut stacks = stacks.to_vec();
        stacks.sort_by_key(|(count, _)| Reverse(*count));
        stacks
    };
    let (in_tasks, of_runtime): (Vec<_>, Vec<_>) =
        sorted(stacks).into_iter().partition(|(_, sample)| sample.task != 0);
    let in_order = in_tasks.into_iter().chain(sorted(rests)).chain(of_runtime);
    in_order.map(|(_, sample)| sample.addresses).collect()
}

fn name_stacks(
    inside: &mut Inside,
    stacks: Vec<(u32, Sample)>,
    rests: Vec<(u32, Sample)>,
    naming: symbols::Naming,
) {
    let wanted = naming.wanted();
    let known = naming.finish();
    if known.len() < wanted {
        inside.gaps.push(format!("symbols: time for {} of {wanted} addresses", known.len()));
    }
    inside.stacks = merged(stacks, &known);
    inside.rests = merged(rests, &known);
}

/// Names the frames. Different addresses within the same lines are the same stack for a person.
fn merged(stacks: Vec<(u32, Sample)>, known: &HashMap<usize, Vec<Frame>>) -> Vec<Stack> {
    let mut merged: Vec<Stack> = Vec::new();
    for stack in stacks.into_iter().map(|stack| named(stack, known)) {
        match merged.iter_mut().find(|other| other.frames == stack.frames && other.task == stack.task) {
            Some(same) => same.count += stack.count,
            None => merged.push(stack),
        }
    }
    merged.sort_by_key(|stack| Reverse(stack.count));
    merged
}

fn named((count, sample): (u32, Sample), known: &HashMap<usize, Vec<Frame>>) -> Stack {
    let frames = sample.addresses.iter().flat_map(|address| match known.get(address) {
        Some(frames) => frames.clone(),
        None => vec![modules::unnamed(*address)],
    });
    Stack { count, frames: frames.collect(), task: sample.task }
}

/// The tasks that matter most: the polled one, those of the samples, those that work on requests, then by polls.
fn list_tasks<'a>(
    inside: &mut Inside,
    context: &Context,
    before: &[TaskFacts],
    samples: impl Iterator<Item = &'a Sample>,
) {
    let now = monotonic_ns();
    let before: HashMap<u64, u64> = before.iter().map(|task| (task.id, task.polls)).collect();
    let mut first = HashSet::from([inside.current_task]);
    first.extend(samples.map(|sample| sample.task));
    first.extend(context.rows.row(context.row).in_flight_ring.iter().map(|entry| entry.task.load(Relaxed)));
    let tasks = context.registry.snapshot();
    inside.tasks_total = tasks.len() as u64;
    let (chosen, seen) = choose(&tasks, &before, &first, context.deadline);
    if seen < tasks.len() {
        inside.gaps.push(format!("tasks: time for {seen} of {}", tasks.len()));
    }
    let task = |(recent_polls, task): (u64, &TaskFacts)| Task {
        id: task.id,
        name: task.name.to_owned(),
        place: format!("{}:{}", task.place.file(), task.place.line()),
        age_s: seconds(now, task.spawned_ns),
        polls: task.polls,
        recent_polls,
        last_poll_s: (task.last_poll_ns != 0).then(|| seconds(now, task.last_poll_ns)),
        last_progress_s: (task.progress_ns != 0).then(|| seconds(now, task.progress_ns)),
    };
    inside.tasks = chosen.into_iter().map(task).collect();
}

/// At most [`MAX_TASKS`] tasks with their recent polls, those in `first` in any case, by recent polls; and how many were
/// looked at. There may be a quarter of a million.
fn choose<'t>(
    tasks: &'t [TaskFacts],
    before: &HashMap<u64, u64>,
    first: &HashSet<u64>,
    deadline: Instant,
) -> (Vec<(u64, &'t TaskFacts)>, usize) {
    let mut keyed = Vec::new();
    for some in tasks.chunks(TASKS_AT_ONCE) {
        keyed.extend(some.iter().map(|task| {
            let recent = task.polls.saturating_sub(before.get(&task.id).copied().unwrap_or(0));
            (!first.contains(&task.id), Reverse((recent, task.id)), task)
        }));
        if Instant::now() >= deadline {
            break;
        }
    }
    let seen = keyed.len();
    if seen > MAX_TASKS {
        keyed.select_nth_unstable_by_key(MAX_TASKS, |(rank, polls, _)| (*rank, *polls));
        keyed.truncate(MAX_TASKS);
    }
    keyed.sort_unstable_by_key(|(_, polls, _)| *polls);
    (keyed.into_iter().map(|(_, Reverse((recent, _)), task)| (recent, task)).collect(), seen)
}

fn seconds(now_ns: u64, then_ns: u64) -> f64 {
    // Two places: the coarse clock knows no more.
    (now_ns.saturating_sub(then_ns) as f64 / 1e7).round() / 100.0
}

/// As JSON of at most [`MAX_BYTES`]; what is dearest goes first.
fn bounded_json(mut inside: Inside) -> io::Result<Vec<u8>> {
    loop {
        let json = serde_json::to_vec(&inside)?;
        if json.len() <= MAX_BYTES {
            return Ok(json);
        }
        let gap = if inside.stacks.len().max(inside.rests.len()) > 1 {
            for stacks in [&mut inside.stacks, &mut inside.rests] {
                stacks.truncate(stacks.len().div_ceil(2));
            }
            "stacks: the rarest were left out"
        } else if !inside.log.is_empty() {
            inside.log.clear();
            "log: left out"
        } else {
            inside = Inside { gaps: inside.gaps, ..Inside::default() };
            "everything: too large"
        };
        inside.gaps.push(gap.to_owned());
    }
}

#[cfg(test)]
#[path = "inside_tests.rs"]
mod tests;
