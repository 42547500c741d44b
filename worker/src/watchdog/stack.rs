//! Samples of the event loop's stack.

/// To be called once before the first sample.
pub(super) fn prepare() {}
