//! A crash report: why a worker was killed or died, what it was doing, for whom, since when.
//!
//! Two hands write it. The master knows the row (also after the worker's death) and what `/proc` says; the worker's own
//! watchdog thread, while it can, adds [`Inside`]: stacks, tasks, sockets, memory, log lines. Everything is bounded, and no
//! argument of a request is in it.

mod culprits;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use culprits::{HOUSEKEEPING, begins_a_task, culprits};

use crate::rows::Reading;
use crate::verdict::Verdict;

/// Version of this format.
pub const VERSION: u32 = 1;

/// Why something is no report that can be shown.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Something else.
    #[error("is no crash report: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Of another forkgate.
    #[error(
        "is a crash report of format {0}, and this forkgate reads format {VERSION}: use the forkgate that wrote it"
    )]
    Version(u32),
}

/// The whole report, one file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// When it was begun, RFC 3339.
    pub time: String,
    /// Version of forkgate.
    pub forkgate: String,
    /// Why.
    pub cause: Cause,
    /// Which slot the worker served.
    pub slot: u32,
    /// Which child of the master it was.
    pub generation: u64,
    /// Its process id.
    pub pid: u64,
    /// Seconds since it started.
    pub age_s: f64,
    /// Seconds since what the verdict says began, as the worker saw it; none for a death without a verdict.
    pub since_s: Option<f64>,
    /// Who is to blame, the likeliest first.
    pub culprits: Vec<Culprit>,
    /// The worker's numbers.
    pub worker: WorkerFacts,
    /// The last seconds of its event loop, oldest first.
    pub evidence: Vec<Reading>,
    /// What the master saw from outside; none when the process was gone already.
    pub outside: Option<Outside>,
    /// Requests that it worked on, the oldest first.
    pub in_flight: Vec<Request>,
    /// What it found out about itself; none when it could not any more.
    pub inside: Option<Inside>,
    /// How long the report took, milliseconds.
    pub took_ms: u64,
}

/// Why there is a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Cause {
    /// The watchdog's verdict.
    Verdict {
        /// Which.
        verdict: Verdict,
        /// True when the worker was killed for it; false when the watchdog only watches, or an operator wanted no more than
        /// the report.
        enforced: bool,
    },
    /// It died unasked.
    Died {
        /// `signal SIGSEGV`, `exit code 1`.
        how: String,
    },
}

/// Somebody who may be to blame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Culprit {
    /// The function on the stack that is nearest to the trouble and no machinery.
    pub function: String,
    /// File and line, when known.
    pub place: Option<String>,
    /// Part of the samples that it is in, 0 to 1.
    pub share: f64,
    /// The task it ran in: name and where it was started.
    pub task: Option<String>,
    /// The request it worked for, in words.
    pub request: Option<String>,
}

/// The worker's row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerFacts {
    /// Requests answered.
    pub requests: u64,
    /// Open client connections.
    pub connections: u64,
    /// Requests being worked on.
    pub in_flight: u64,
    /// Open event streams.
    pub streams: u64,
    /// Tasks alive.
    pub tasks: u64,
    /// Private memory in bytes, as of its last sample.
    pub private_bytes: u64,
    /// The longest single poll so far, milliseconds.
    pub longest_poll_ms: u64,
    /// How late the loop's timer was last, milliseconds.
    pub lag_ms: u64,
    /// Version of its settings.
    pub settings_generation: u64,
    /// Registry generation that it served from.
    pub catalog_generation: u64,
}

/// What `/proc` says of the stuck thread, and the kernel of its socket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outside {
    /// State of the event loop's thread: `R`, `S`, `D`, `T`, `t`.
    pub state: String,
    /// Where in the kernel it waits.
    pub wchan: String,
    /// Number of the system call it is in, or `running`.
    pub syscall: String,
    /// The kernel's stack, where it may be read (root).
    pub kernel_stack: Vec<String>,
    /// Part of the time since the suspicion that the thread was on a CPU.
    pub on_cpu: f64,
    /// Part of it that the thread waited for a CPU.
    pub waiting_for_cpu: f64,
    /// Connections in the accept queue of its slot.
    pub accept_queue: u32,
    /// Threads of the process.
    pub threads: u32,
}

/// A request in flight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Method.
    pub method: String,
    /// Tool, prompt, URI or path.
    pub object: String,
    /// The token's subject.
    pub caller: String,
    /// Interned index of the upstream, if one was asked.
    pub upstream: Option<u64>,
    /// Seconds since it began.
    pub since_s: f64,
    /// Its task's number; 0 = not known.
    pub task: u64,
}

/// What a worker finds out about itself, in steps of which each has its own limit of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inside {
    /// Samples of the event loop's stack, equal ones together, the most frequent first.
    pub stacks: Vec<Stack>,
    /// Of a loop that turns: where tasks left their waker before they gave up their poll, equal ones together. It tells who
    /// makes the loop turn when most samples are of the runtime.
    #[serde(default)]
    pub rests: Vec<Stack>,
    /// The task that was polled when the report began; 0 = none.
    pub current_task: u64,
    /// For how long that poll had lasted, seconds.
    pub current_poll_s: f64,
    /// Tasks, the ones that were polled most while the report was made first.
    pub tasks: Vec<Task>,
    /// Tasks in all.
    pub tasks_total: u64,
    /// Open descriptors by kind and state: `tcp ESTABLISHED`, `tcp CLOSE_WAIT`, `unix`, `file`, `pipe`, ….
    pub descriptors: BTreeMap<String, u64>,
    /// Lines of `smaps_rollup` and of the cgroup, in bytes.
    pub memory: BTreeMap<String, u64>,
    /// The last lines of its log.
    pub log: Vec<String>,
    /// What could not be found out, and why.
    pub gaps: Vec<String>,
    /// How long each step took, milliseconds.
    pub steps_ms: BTreeMap<String, u64>,
}

/// Equal samples of a stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stack {
    /// How many.
    pub count: u32,
    /// The innermost frame first.
    pub frames: Vec<Frame>,
    /// The task that was polled in most of them; 0 = none that is known.
    #[serde(default)]
    pub task: u64,
}

/// One frame of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Frame {
    /// The function, demangled.
    pub function: String,
    /// `file:line`, when known.
    pub place: Option<String>,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its number.
    pub id: u64,
    /// What it does.
    pub name: String,
    /// Where it was started: `file:line`.
    pub place: String,
    /// Seconds since then.
    pub age_s: f64,
    /// Polls since then.
    pub polls: u64,
    /// Polls while the report was made.
    pub recent_polls: u64,
    /// Seconds since its last poll began; none if it never was polled.
    pub last_poll_s: Option<f64>,
    /// Seconds since it last got work done; none if it never did.
    pub last_progress_s: Option<f64>,
}

impl Frame {
    /// A frame whose function is not known: `module+0xoffset`, the return address as it is within the module, so that it
    /// can be looked up later (`addr2line -e MODULE 0xOFFSET`).
    pub fn unnamed(module: &str, offset: usize) -> Frame {
        Frame { function: format!("{module}+{offset:#x}"), place: None }
    }

    /// True when the function is not known but is one of the program: what libraries do is nobody's fault, named or not.
    fn is_unnamed_of_program(&self) -> bool {
        let (module, address) = self.function.rsplit_once('+').unwrap_or(("", &self.function));
        let digits = address.strip_prefix("0x").unwrap_or_default();
        let is_address = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_address && self.place.is_none() && !module.contains(".so") && !module.starts_with('[')
    }
}

impl Report {
    /// It was ordered by an operator, and nothing happened to the worker.
    pub fn is_of_one_that_lives(&self) -> bool {
        matches!(self.cause, Cause::Verdict { verdict: Verdict::Operator, enforced: false })
    }

    /// Reads the bytes of a file.
    pub fn parse(bytes: &[u8]) -> Result<Report, ParseError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        match serde_json::from_slice::<Versioned>(bytes)?.version {
            VERSION => Ok(serde_json::from_slice(bytes)?),
            found => Err(ParseError::Version(found)),
        }
    }
}

/// For people: `tools/call everything__x for alice, since 3.2 s`. What a client chose comes without control characters.
impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.method.is_empty() { "a request" } else { &self.method })?;
        if !self.object.is_empty() {
            write!(f, " {}", self.object)?;
        }
        let caller = if self.caller.is_empty() { "somebody" } else { &self.caller };
        write!(f, " for {caller}, since {:.1} s", self.since_s)
    }
}
