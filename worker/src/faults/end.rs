//! The ends of a request, of a process.

/// Exit code of [`exiting`].
const EXIT_CODE: i32 = 7;

/// A bug in a handler.
#[inline(never)]
pub(super) fn panicking() {
    panic!("a panic was ordered");
}

/// A library that thinks it may.
#[inline(never)]
#[expect(clippy::disallowed_methods, reason = "that this happens is the fault")]
pub(super) fn exiting() {
    std::process::exit(EXIT_CODE);
}

/// Memory is corrupt, or an assertion of C code failed.
#[inline(never)]
pub(super) fn aborting() {
    std::process::abort();
}
