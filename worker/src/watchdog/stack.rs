//! The stack of another thread: a signal interrupts it, and the handler writes down where it was. Or, where the thread's
//! tasks come to rest (see [`rest`]), it writes that down itself.
//!
//! The handler takes no lock and no memory. The unwinder that it uses is not formally safe within a signal handler: it was
//! warmed up before ([`prepare`]), runs only when something is wrong already, and one that never ends costs a report its
//! stacks and nothing else.

use std::ffi::c_void;
use std::io;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::modules;
use crate::lifecycle::task::rest::Moment;
use crate::lifecycle::task::{self, rest};

/// Frames of one sample, the innermost ones.
const FRAMES: usize = 96;
/// How often the watchdog's thread looks whether the handler is done.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// Nobody wants a sample.
const IDLE: u32 = 0;
/// A signal is on its way.
const ASKED: u32 = 1;
/// The handler runs.
const WRITING: u32 = 2;
/// The sample is there.
const DONE: u32 = 3;
/// A sample is there that a better one may replace.
const DRAFT: u32 = 4;

/// What a handler writes down, for the thread that asked for it.
struct Desk {
    state: AtomicU32,
    addresses: [AtomicUsize; FRAMES],
    count: AtomicUsize,
    task: AtomicU64,
}

/// Of the thread that a signal interrupted.
static INTERRUPTED: Desk = Desk::new();
/// Of a task that came to rest.
static AT_REST: Desk = Desk::new();
/// The handler is installed: without it the signal would end the process.
static PREPARED: AtomicBool = AtomicBool::new(false);
/// One sample at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Where a thread was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// Return addresses, the innermost first. The first stands one byte behind the instruction that was interrupted, so
    /// that all of them are looked up alike.
    pub addresses: Vec<usize>,
    /// The task that it polled; 0 = none that is known.
    pub task: u64,
}

/// Why there is no sample.
#[derive(Debug, thiserror::Error)]
pub(super) enum SampleError {
    /// State D, or starved, or the signal is blocked.
    #[error("the event loop's thread did not take the signal within {0:?}")]
    NoAnswer(Duration),
    /// An earlier handler has not come back.
    #[error("the handler of an earlier sample never ended")]
    Stuck,
    /// [`prepare`] was not called, or failed.
    #[error("no handler is installed")]
    NotPrepared,
    /// No such thread.
    #[error("the event loop's thread cannot be signalled: {0}")]
    Signal(#[from] io::Error),
}

/// Installs the handler and warms the unwinder up. Once per process, before anything is wrong.
pub(super) fn prepare() -> io::Result<()> {
    // Its first run loads tables and takes locks.
    walk(None, |_, _| {});
    modules::prepare();
    rest::witnessed_by(|moment| match moment {
        Moment::Here => AT_REST.write(None, DRAFT),
        Moment::Over => AT_REST.settle(),
    });
    // SAFETY: all zeros is a valid sigaction (sigaction(2)): no flags, no mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void) = on_signal;
    action.sa_sigaction = handler as usize;
    // Not on the alternative stack: that one is too small for an unwinder.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: `action` is whole, and its handler lives as long as the program.
    match unsafe { libc::sigaction(signal(), &raw const action, std::ptr::null_mut()) } {
        0 => {
            PREPARED.store(true, Release);
            Ok(())
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes one sample of the thread with the id `tid`. Waits at most for `limit`.
pub(super) fn sample(tid: i32, limit: Duration) -> Result<Sample, SampleError> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    interrupt(tid, limit)
}

/// The same, and the next place where a task comes to rest if one does within `rest_limit` after that. It is asked for
/// before the signal is sent, so that a thread that rarely gets a CPU gives both in one go.
pub(super) fn sample_and_rest(
    tid: i32,
    limit: Duration,
    rest_limit: Duration,
) -> Result<(Sample, Option<Sample>), SampleError> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let asked = AT_REST.ask();
    if asked {
        rest::next();
    }
    let sample = interrupt(tid, limit);
    let rest =
        if asked { AT_REST.wait(if sample.is_ok() { rest_limit } else { Duration::ZERO }) } else { None };
    Ok((sample?, rest))
}

fn interrupt(tid: i32, limit: Duration) -> Result<Sample, SampleError> {
    if !PREPARED.load(Acquire) {
        return Err(SampleError::NotPrepared);
    }
    if !INTERRUPTED.ask() {
        return Err(SampleError::Stuck);
    }
    // SAFETY: tgkill(2) touches no memory.
    if unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal()) } != 0 {
        let error = io::Error::last_os_error();
        INTERRUPTED.wait(Duration::ZERO);
        return Err(error.into());
    }
    INTERRUPTED.wait(limit).ok_or(SampleError::NoAnswer(limit))
}

impl Desk {
    const fn new() -> Desk {
        Desk {
            state: AtomicU32::new(IDLE),
            addresses: [const { AtomicUsize::new(0) }; FRAMES],
            count: AtomicUsize::new(0),
            task: AtomicU64::new(0),
        }
    }

    /// Asks for a sample; false while somebody writes one that nobody waits for any more.
    fn ask(&self) -> bool {
        let free = |state| self.state.compare_exchange(state, ASKED, AcqRel, Relaxed).is_ok();
        free(IDLE) || free(DONE)
    }

    /// Waits for the sample that was asked for.
    fn wait(&self, limit: Duration) -> Option<Sample> {
        let end = Instant::now() + limit;
        while self.state.load(Acquire) != DONE {
            if Instant::now() >= end {
                // One who has begun to write and not ended keeps the state: nobody may read what he writes.
                let _ = self.state.compare_exchange(ASKED, IDLE, AcqRel, Relaxed);
                return None;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let count = self.count.load(Relaxed).min(FRAMES);
        let addresses = self.addresses[..count].iter().map(|address| address.load(Relaxed)).collect();
        let sample = Sample { addresses, task: self.task.load(Relaxed) };
        self.state.store(IDLE, Release);
        Some(sample)
    }

    /// Writes down the calling thread's stack, if somebody waits for that; `then` is [`DONE`] or [`DRAFT`].
    fn write(&self, interrupted: Option<usize>, then: u32) {
        let begin = |state| self.state.compare_exchange(state, WRITING, AcqRel, Relaxed).is_ok();
        if !begin(ASKED) && !begin(DRAFT) {
            return;
        }
        let put = |at: usize, address| self.addresses[at].store(address, Relaxed);
        let mut count = walk(interrupted, put);
        if count == 0 {
            count = walk(None, put);
        }
        self.count.store(count, Relaxed);
        self.task.store(task::current(), Relaxed);
        self.state.store(then, Release);
    }

    /// No better sample will come.
    fn settle(&self) {
        let _ = self.state.compare_exchange(DRAFT, DONE, AcqRel, Relaxed);
    }
}

/// The second real-time signal: the C library keeps the first ones to itself, and nobody else uses this one.
fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 1
}

extern "C" fn on_signal(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the calling thread's own errno, which always exists.
    let errno = unsafe { *libc::__errno_location() };
    INTERRUPTED.write(interrupted(context), DONE);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Gives the calling thread's return addresses, from the one that was interrupted on, to `put` with their index; gives
/// their number.
fn walk(interrupted: Option<usize>, put: impl Fn(usize, usize)) -> usize {
    let mut count = 0;
    let mut begun = interrupted.is_none();
    // SAFETY: the crate's lock guards only its naming of symbols, which is not done here; walking touches nothing but
    // this thread's stack and tables that do not change, as no library is loaded or unloaded at run time.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            let mut address = frame.ip() as usize;
            if !begun && interrupted == Some(address) {
                begun = true;
                address += 1;
            }
            // Where a thread begins, nobody called: that address is 0.
            if begun && address != 0 {
                put(count, address);
                count += 1;
            }
            count < FRAMES
        });
    }
    count
}

/// The address of the instruction that the signal interrupted.
fn interrupted(context: *mut c_void) -> Option<usize> {
    // SAFETY: with SA_SIGINFO the kernel passes a whole ucontext_t (sigaction(2)) that lives while the handler runs.
    let context = unsafe { context.cast::<libc::ucontext_t>().as_ref() }?;
    #[cfg(target_arch = "x86_64")]
    return usize::try_from(context.uc_mcontext.gregs[libc::REG_RIP as usize]).ok();
    #[cfg(target_arch = "aarch64")]
    return usize::try_from(context.uc_mcontext.pc).ok();
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return None;
}
