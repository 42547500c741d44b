//! A poll in state D, as a read from a dead network disk is: the kernel holds a parent that way until its `CLONE_VFORK` child
//! ends.

use std::ffi::{c_int, c_void};
use std::time::Duration;

/// Stack of the child, which only sleeps.
const STACK: usize = 64 * 1024;

/// Waits for a child that sleeps for `span`.
#[inline(never)]
pub(super) fn waiting_for_a_vfork(span: Duration) {
    // In units of 16 bytes: the ABI's alignment of a stack.
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    let mut seconds = (span.as_millis().div_ceil(1000)) as libc::c_uint;
    // SAFETY: without CLONE_VM the child has a copy of the memory, stack and argument included, and calls nothing but
    // async-signal-safe functions; the stack grows down from its end and is longer than they need.
    let child = unsafe {
        let top = stack.as_mut_ptr_range().end.cast::<c_void>();
        libc::clone(sleeping, top, libc::CLONE_VFORK | libc::SIGCHLD, (&raw mut seconds).cast())
    };
    if child > 0 {
        // SAFETY: a child of our own that nobody else waits for.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    }
}

/// The child; it does not outlive its parent.
extern "C" fn sleeping(seconds: *mut c_void) -> c_int {
    // SAFETY: async-signal-safe calls only, and the argument is the parent's, copied.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::sleep(*seconds.cast::<libc::c_uint>());
        libc::_exit(0)
    }
}
