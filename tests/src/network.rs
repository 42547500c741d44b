//! Doing something in another network namespace.

use std::path::Path;

/// Runs `work` on a thread of its own in the namespace that a path such as `/proc/PID/ns/net` names.
pub fn within<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let namespace = std::fs::File::open(namespace).expect("the network namespace exists");
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("root may enter a namespace");
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
