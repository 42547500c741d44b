//! The tasks of one event loop in cells that never move: the loop writes, the watchdog's thread reads at any moment.
//!
//! Writers: the loop's thread only, by plain stores. A reader may see a cell change hands; what it reads is for people.

use std::cell::{Cell as LocalCell, RefCell};
use std::panic::Location;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use nix::time::{ClockId, clock_gettime};

/// Cells per chunk: an idle worker needs one chunk.
const CHUNK: usize = 1024;
/// Chunks: more tasks than connections that a worker may have. The ones past it run unwatched.
const CHUNKS: usize = 256;
/// Places in the code that start tasks.
const SITES: usize = 256;

/// See the module.
pub struct Registry {
    chunks: [OnceLock<Box<[Cell]>>; CHUNKS],
    sites: [OnceLock<Site>; SITES],
    current_task: AtomicU64,
    /// When the poll that runs began; 0 = none runs.
    poll_since_ns: AtomicU64,
    longest_poll_ns: AtomicU64,
    polls: AtomicU64,
    work: AtomicU64,
    received: AtomicU64,
    moves: AtomicU64,
    alive: AtomicU64,
}

/// Name and place of tasks.
struct Site {
    name: &'static str,
    place: &'static Location<'static>,
}

/// One task.
#[derive(Default)]
struct Cell {
    /// 0 = free.
    id: AtomicU64,
    site: AtomicU32,
    spawned_ns: AtomicU64,
    polls: AtomicU64,
    last_poll_ns: AtomicU64,
    progress_ns: AtomicU64,
}

/// What is known of a task. Times are of the monotonic clock in nanoseconds, as exact as the coarse clock (1 to 4 ms);
/// 0 = never.
#[derive(Clone, Copy, Debug)]
pub struct TaskFacts {
    /// Its number, never used again.
    pub id: u64,
    /// What it does.
    pub name: &'static str,
    /// Where it was started.
    pub place: &'static Location<'static>,
    /// When.
    pub spawned_ns: u64,
    /// Polls so far.
    pub polls: u64,
    /// When its last poll began.
    pub last_poll_ns: u64,
    /// When the last poll began in which work was done.
    pub progress_ns: u64,
}

/// What the loop does right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    /// The task that is polled; 0 = none that is known.
    pub task: u64,
    /// When that poll began; 0 = none runs.
    pub since_ns: u64,
}

impl Default for Registry {
    fn default() -> Self {
        Registry::new()
    }
}

impl Registry {
    /// Knows nobody yet; takes memory as tasks come.
    pub fn new() -> Registry {
        Registry {
            chunks: [const { OnceLock::new() }; CHUNKS],
            sites: [const { OnceLock::new() }; SITES],
            current_task: AtomicU64::new(0),
            poll_since_ns: AtomicU64::new(0),
            longest_poll_ns: AtomicU64::new(0),
            polls: AtomicU64::new(0),
            work: AtomicU64::new(0),
            received: AtomicU64::new(0),
            moves: AtomicU64::new(0),
            alive: AtomicU64::new(0),
        }
    }

    /// What the loop does right now.
    pub fn current(&self) -> Current {
        Current { task: self.current_task.load(Relaxed), since_ns: self.poll_since_ns.load(Relaxed) }
    }

    /// The longest poll that has ended.
    pub fn longest_poll_ns(&self) -> u64 {
        self.longest_poll_ns.load(Relaxed)
    }

    /// Polls of all tasks.
    pub fn polls(&self) -> u64 {
        self.polls.load(Relaxed)
    }

    /// Units of work, see [`super::worked`].
    pub fn work(&self) -> u64 {
        self.work.load(Relaxed)
    }

    /// Bytes read from upstreams, see [`super::received`].
    pub fn bytes_received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Reads and writes that moved something, see [`super::moved`].
    pub fn moves(&self) -> u64 {
        self.moves.load(Relaxed)
    }

    /// Tasks alive, those past the capacity excluded.
    pub fn alive(&self) -> u64 {
        self.alive.load(Relaxed)
    }

    /// All tasks that live.
    pub fn snapshot(&self) -> Vec<TaskFacts> {
        let cells = self.chunks.iter().filter_map(OnceLock::get).flat_map(|chunk| chunk.iter());
        cells.filter_map(|cell| self.facts(cell)).collect()
    }

    /// The task with this number, if it lives.
    pub fn find(&self, id: u64) -> Option<TaskFacts> {
        let mut cells = self.chunks.iter().filter_map(OnceLock::get).flat_map(|chunk| chunk.iter());
        cells.find(|cell| id != 0 && cell.id.load(Relaxed) == id).and_then(|cell| self.facts(cell))
    }

    fn facts(&self, cell: &Cell) -> Option<TaskFacts> {
        let id = cell.id.load(Relaxed);
        let site = self.sites.get(cell.site.load(Relaxed) as usize)?.get()?;
        (id != 0).then(|| TaskFacts {
            id,
            name: site.name,
            place: site.place,
            spawned_ns: cell.spawned_ns.load(Relaxed),
            polls: cell.polls.load(Relaxed),
            last_poll_ns: cell.last_poll_ns.load(Relaxed),
            progress_ns: cell.progress_ns.load(Relaxed),
        })
    }

    fn cell(&self, index: usize) -> Option<&Cell> {
        let chunk = self.chunks.get(index / CHUNK)?;
        chunk.get_or_init(|| (0..CHUNK).map(|_| Cell::default()).collect()).get(index % CHUNK)
    }

    fn site(&self, name: &'static str, place: &'static Location<'static>) -> Option<u32> {
        let same = |site: &Site| std::ptr::eq(site.place, place) && std::ptr::eq(site.name, name);
        let known = self.sites.iter().map_while(OnceLock::get).position(same);
        let index = known.or_else(|| {
            let free = self.sites.iter().position(|site| site.get().is_none())?;
            self.sites[free].get_or_init(|| Site { name, place });
            Some(free)
        })?;
        u32::try_from(index).ok()
    }

    pub(super) fn worked(&self, units: u64) {
        self.work.store(self.work.load(Relaxed) + units, Relaxed);
    }

    pub(super) fn received(&self, bytes: u64) {
        self.received.store(self.received.load(Relaxed) + bytes, Relaxed);
        self.moved();
    }

    pub(super) fn moved(&self) {
        self.moves.store(self.moves.load(Relaxed) + 1, Relaxed);
    }
}

/// The loop's own end of the registry.
pub(super) struct Local {
    registry: Arc<Registry>,
    next_id: LocalCell<u64>,
    /// Cells that were used and are free.
    free: RefCell<Vec<usize>>,
    /// Cells that were ever used.
    used: LocalCell<usize>,
}

impl Local {
    pub(super) fn new(registry: Arc<Registry>) -> Local {
        Local { registry, next_id: LocalCell::new(1), free: RefCell::default(), used: LocalCell::new(0) }
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Enters a task; none when all cells or sites are taken.
    pub(super) fn enter(
        local: &Rc<Local>,
        name: &'static str,
        place: &'static Location<'static>,
    ) -> Option<Handle> {
        let site = local.registry.site(name, place)?;
        let index = local.free.borrow_mut().pop().unwrap_or_else(|| local.used.replace(local.used.get() + 1));
        let Some(cell) = local.registry.cell(index) else {
            local.used.set(index);
            return None;
        };
        cell.site.store(site, Relaxed);
        cell.spawned_ns.store(coarse_ns(), Relaxed);
        for value in [&cell.polls, &cell.last_poll_ns, &cell.progress_ns] {
            value.store(0, Relaxed);
        }
        cell.id.store(local.next_id.replace(local.next_id.get() + 1), Relaxed);
        local.registry.alive.store(local.registry.alive() + 1, Relaxed);
        Some(Handle { local: Rc::clone(local), index })
    }
}

/// A task's entry; it is out of the registry when this is dropped.
pub(super) struct Handle {
    local: Rc<Local>,
    index: usize,
}

impl Handle {
    fn cell(&self) -> Option<&Cell> {
        self.local.registry.chunks[self.index / CHUNK].get()?.get(self.index % CHUNK)
    }

    /// The task is polled from now on until what this gives is dropped.
    pub(super) fn poll_begins(&self) -> Option<Polling<'_>> {
        let (registry, cell) = (&*self.local.registry, self.cell()?);
        let began_ns = coarse_ns();
        let outer = registry.current();
        registry.current_task.store(cell.id.load(Relaxed), Relaxed);
        registry.poll_since_ns.store(began_ns, Relaxed);
        registry.polls.store(registry.polls() + 1, Relaxed);
        cell.polls.store(cell.polls.load(Relaxed) + 1, Relaxed);
        cell.last_poll_ns.store(began_ns, Relaxed);
        Some(Polling { registry, cell, began_ns, outer, work_before: registry.work() })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(cell) = self.cell() {
            cell.id.store(0, Relaxed);
        }
        let registry = &self.local.registry;
        registry.alive.store(registry.alive().saturating_sub(1), Relaxed);
        self.local.free.borrow_mut().push(self.index);
    }
}

/// A poll that runs.
pub(super) struct Polling<'a> {
    registry: &'a Registry,
    cell: &'a Cell,
    began_ns: u64,
    /// What was polled when this poll began within it.
    outer: Current,
    work_before: u64,
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        let took = coarse_ns().saturating_sub(self.began_ns);
        if took > self.registry.longest_poll_ns() {
            self.registry.longest_poll_ns.store(took, Relaxed);
        }
        if self.registry.work() != self.work_before {
            self.cell.progress_ns.store(self.began_ns, Relaxed);
        }
        self.registry.current_task.store(self.outer.task, Relaxed);
        self.registry.poll_since_ns.store(self.outer.since_ns, Relaxed);
    }
}

/// `CLOCK_MONOTONIC_COARSE`: a few nanoseconds to read, 1 to 4 ms exact, on the same scale as the monotonic clock.
fn coarse_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)
        .expect("CLOCK_MONOTONIC_COARSE exists on every Linux (clock_gettime(2))");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
