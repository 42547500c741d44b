//! Which functions addresses belong to. Reads the program's debug information, which takes a while the first time.

use std::collections::{HashMap, HashSet};
use std::ffi::c_void;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use forkgate_shared::report::{Frame, begins_a_task};

use super::{modules, names};

/// Frames that were inlined into each other at one address.
const INLINED: usize = 32;
/// Names on their way: more than a report has addresses.
const ROOM: usize = 4096;

/// Names on their way from the thread that finds them.
pub(super) struct Naming {
    wanted: usize,
    receiver: Option<Receiver<(usize, Vec<Frame>)>>,
    deadline: Instant,
}

/// Begins to name the addresses of the stacks, on a thread of its own: nothing that it may get stuck in holds the caller.
/// What has no name by the deadline is left out, so the stacks that matter most come first; of each the part within a
/// task's poll, and when all of these are done, the rest.
pub(super) fn begin(stacks: Vec<Vec<usize>>, deadline: Instant) -> Naming {
    let wanted = stacks.iter().flatten().collect::<HashSet<_>>().len();
    let (sender, receiver) = sync_channel(ROOM);
    let work = move || {
        let name = |address| {
            let frames = (Instant::now() < deadline).then(|| frames(address))?;
            let is_last = frames.iter().any(begins_a_task);
            sender.send((address, frames)).ok().map(|()| is_last)
        };
        in_order(&stacks, name);
        backtrace::clear_symbol_cache();
    };
    let spawned = std::thread::Builder::new().name("fg-symbols".to_owned()).spawn(work);
    Naming { wanted, receiver: spawned.is_ok().then_some(receiver), deadline }
}

impl Naming {
    /// How many addresses there are.
    pub(super) fn wanted(&self) -> usize {
        self.wanted
    }

    /// Waits for the names: the innermost of inlined frames first.
    pub(super) fn finish(self) -> HashMap<usize, Vec<Frame>> {
        let mut known = HashMap::new();
        let Some(receiver) = self.receiver else { return known };
        while known.len() < self.wanted
            && let Ok((address, frames)) =
                receiver.recv_timeout(self.deadline.saturating_duration_since(Instant::now()))
        {
            known.insert(address, frames);
        }
        known
    }
}

/// Gives each address to `name` once, until that gives none. It tells whether a task's poll ends with the address.
fn in_order(stacks: &[Vec<usize>], mut name: impl FnMut(usize) -> Option<bool>) -> Option<()> {
    let mut seen: HashMap<usize, bool> = HashMap::new();
    for only_in_tasks in [true, false] {
        for stack in stacks {
            for address in stack {
                let is_last = match seen.get(address) {
                    Some(is_last) => *is_last,
                    None => {
                        let is_last = name(*address)?;
                        seen.insert(*address, is_last);
                        is_last
                    }
                };
                if is_last && only_in_tasks {
                    break;
                }
            }
        }
    }
    Some(())
}

fn frames(address: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    backtrace::resolve(address as *mut c_void, |symbol| {
        let Some(name) = symbol.name().filter(|_| frames.len() < INLINED) else { return };
        let place = symbol.filename().map(|file| names::place(file, symbol.lineno()));
        // Without the hashes of crates.
        let function = names::function(&format!("{name:#}"), place.as_deref());
        frames.push(Frame { function, place });
    });
    if frames.is_empty() {
        frames.push(modules::unnamed(address));
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_within_a_tasks_poll_is_named_before_the_runtime() {
        // A task's poll ends with 12 or 22; 90 and more are the runtime's; the last stack has no task.
        let stacks =
            [vec![10, 11, 12, 90, 91], vec![20, 11, 22, 90, 92], vec![10, 30, 12, 90, 91], vec![93, 94]];
        let order = |limit: usize| {
            let mut named = Vec::new();
            in_order(&stacks, |address| {
                let goes_on = named.len() < limit;
                goes_on.then(|| {
                    named.push(address);
                    matches!(address, 12 | 22)
                })
            });
            named
        };
        assert_eq!(order(100), [10, 11, 12, 20, 22, 30, 93, 94, 90, 91, 92]);
        assert_eq!(order(4), [10, 11, 12, 20]);
    }

    #[test]
    fn without_time_there_are_no_names() {
        let stack = vec![without_time_there_are_no_names as fn() as usize];
        let naming = begin(vec![stack.clone(), stack], Instant::now());
        assert_eq!(naming.wanted(), 1);
        assert!(naming.finish().is_empty());
    }
}
