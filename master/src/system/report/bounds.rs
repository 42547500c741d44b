//! The most that is taken of each list of a worker's own report: what an honest worker writes, and a little more. What is
//! derived from a report compares stacks with each other; a worker that is broken must not keep the master busy with it.

use std::collections::BTreeMap;

use forkgate_shared::report::Inside;

/// Different stacks, and different places of rest.
const STACKS: usize = 20;
/// Frames of one, the innermost ones. A worker takes 96, each with what is inlined into it.
const FRAMES: usize = 768;
/// Tasks.
const TASKS: usize = 200;
/// Kinds of descriptors, lines about memory, steps: each.
const KINDS: usize = 64;
/// Lines of the log.
const LINES: usize = 200;
/// Things that were not found out.
const GAPS: usize = 50;

/// Cuts what is too long, and says so.
pub fn cut(inside: &mut Inside) {
    inside.gaps.truncate(GAPS);
    let mut longest = false;
    longest |= shorten(&mut inside.stacks, STACKS) | shorten(&mut inside.rests, STACKS);
    for stack in inside.stacks.iter_mut().chain(&mut inside.rests) {
        longest |= shorten(&mut stack.frames, FRAMES);
    }
    longest |= shorten(&mut inside.tasks, TASKS);
    let excess = inside.log.len().saturating_sub(LINES);
    // Of a log the end is what matters.
    longest |= inside.log.drain(..excess).len() > 0;
    for counts in [&mut inside.descriptors, &mut inside.memory, &mut inside.steps_ms] {
        longest |= shorten_map(counts);
    }
    if longest {
        inside.gaps.push("the worker's own report was longer than any should be: it was cut".to_owned());
    }
}

fn shorten<T>(list: &mut Vec<T>, most: usize) -> bool {
    let is_long = list.len() > most;
    list.truncate(most);
    is_long
}

fn shorten_map(counts: &mut BTreeMap<String, u64>) -> bool {
    let Some(first_over) = counts.keys().nth(KINDS).cloned() else { return false };
    counts.split_off(&first_over);
    true
}

#[cfg(test)]
mod tests {
    use forkgate_shared::report::{Frame, Stack, Task};

    use super::*;

    fn stack(name: usize, frames: usize) -> Stack {
        let frame = |depth| Frame { function: format!("f{name}-{depth}"), place: None };
        Stack { count: 1, frames: (0..frames).map(frame).collect(), task: 1 }
    }

    #[test]
    fn every_list_has_an_end_and_the_report_says_that_it_was_cut() {
        let task = Task {
            id: 1,
            name: String::new(),
            place: String::new(),
            age_s: 0.0,
            polls: 0,
            recent_polls: 0,
            last_poll_s: None,
            last_progress_s: None,
        };
        let counts: BTreeMap<_, _> = (0..999).map(|number| (format!("{number:03}"), 1)).collect();
        let mut inside = Inside {
            stacks: (0..999).map(|name| stack(name, 2000)).collect(),
            rests: (0..999).map(|name| stack(name, 2)).collect(),
            tasks: vec![task; 999],
            descriptors: counts.clone(),
            memory: counts.clone(),
            steps_ms: counts,
            log: (0..999).map(|line| line.to_string()).collect(),
            gaps: vec!["x".to_owned(); 999],
            ..Inside::default()
        };
        cut(&mut inside);
        assert_eq!((inside.stacks.len(), inside.rests.len(), inside.tasks.len()), (STACKS, STACKS, TASKS));
        assert!(inside.stacks.iter().all(|stack| stack.frames.len() == FRAMES));
        assert_eq!(inside.stacks[7].frames[5].function, "f7-5", "the first and innermost stay");
        for counts in [&inside.descriptors, &inside.memory, &inside.steps_ms] {
            assert_eq!((counts.len(), counts.contains_key("000")), (KINDS, true));
        }
        assert_eq!((inside.log.len(), inside.log.last().map(String::as_str)), (LINES, Some("998")));
        assert_eq!(inside.gaps.len(), GAPS + 1);
        assert!(inside.gaps[GAPS].contains("cut"), "{:?}", inside.gaps[GAPS]);
    }

    #[test]
    fn what_an_honest_worker_sends_is_taken_as_it_is() {
        let mut inside = Inside {
            stacks: (0..STACKS).map(|name| stack(name, FRAMES)).collect(),
            log: vec![String::new(); LINES],
            descriptors: (0..KINDS as u64).map(|number| (number.to_string(), 1)).collect(),
            gaps: vec![String::new(); GAPS],
            ..Inside::default()
        };
        let before = inside.clone();
        cut(&mut inside);
        assert_eq!(inside, before);
    }
}
