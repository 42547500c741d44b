//! Which functions addresses belong to. Reads the program's debug information, which takes a while the first time.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use forkgate_shared::report::Frame;

use super::names;

/// Frames that were inlined into each other at one address.
const INLINED: usize = 32;

/// Names the addresses, the innermost of inlined frames first. What has no name by the deadline is left out, so the ones
/// that matter come first. The work is done on a thread of its own: nothing that it may get stuck in holds the caller.
pub(super) fn resolve(addresses: Vec<usize>, deadline: Instant) -> HashMap<usize, Vec<Frame>> {
    let mut known = HashMap::new();
    let wanted = addresses.len();
    let (sender, receiver) = sync_channel(wanted.max(1));
    let work = move || {
        for address in addresses {
            if Instant::now() >= deadline || sender.send((address, frames(address))).is_err() {
                break;
            }
        }
        backtrace::clear_symbol_cache();
    };
    if std::thread::Builder::new().name("fg-symbols".to_owned()).spawn(work).is_err() {
        return known;
    }
    while known.len() < wanted
        && let Ok((address, frames)) =
            receiver.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        known.insert(address, frames);
    }
    known
}

/// What a frame without a name is called.
pub(super) fn unnamed(address: usize) -> Frame {
    Frame { function: format!("{address:#x}"), place: None }
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
        frames.push(unnamed(address));
    }
    frames
}
