//! Names of functions and files as a person wants them: without the types of types, and without the build machine's paths.

use std::path::Path;

/// Longest name, in bytes: what is longer says no more.
const MAX: usize = 300;

/// A function's name: generic arguments are left out, except those of the function that polls a task, which say whose
/// future it is.
pub(super) fn function(demangled: &str, place: Option<&str>) -> String {
    let kept = match demangled.find("lifecycle::task::poll_task") {
        Some(at) => demangled[at..].find('<').map(|open| at + open),
        None => None,
    };
    let mut short = without_generics(demangled, kept);
    // Of inlined functions of dependencies only the last part of the name is known; the file says the rest.
    if !short.contains("::")
        && let Some(module) = place.and_then(module)
    {
        short = format!("{module}::{short}");
    }
    short.truncate(short.floor_char_boundary(MAX));
    short
}

/// Leaves out what stands between the angle brackets of generic arguments, but for those that open at `kept`. The brackets
/// of `<Type as Trait>::method` are no arguments.
fn without_generics(name: &str, kept: Option<usize>) -> String {
    let mut short = String::with_capacity(name.len().min(MAX));
    // For each open bracket whether it is one of arguments that are left out.
    let mut open: Vec<bool> = Vec::new();
    let mut before = ' ';
    for (at, c) in name.char_indices() {
        let hidden = open.iter().any(|left_out| *left_out);
        match c {
            '<' => {
                let arguments = before.is_alphanumeric() || matches!(before, ':' | '_' | '}');
                let left_out = arguments && kept != Some(at);
                if left_out && !hidden {
                    // `name::<…>` and `name<…>` alike.
                    let bare = short.trim_end_matches("::").len();
                    short.truncate(bare);
                } else if !hidden {
                    short.push(c);
                }
                open.push(left_out);
            }
            // `fn() -> T` closes nothing.
            '>' if before != '-' => {
                open.pop();
                if !open.iter().any(|left_out| *left_out) && !hidden {
                    short.push(c);
                }
            }
            c if !hidden => short.push(c),
            _ => {}
        }
        before = c;
    }
    short
}

/// The module that a file of a dependency holds: `tokio-1.54.1/src/task/local.rs` → `tokio::task::local`.
fn module(place: &str) -> Option<String> {
    let (package, file) = place.split_once("/src/")?;
    let package = package.rsplit('/').next()?;
    let name = match package.rsplit_once('-') {
        Some((name, version)) if version.starts_with(|c: char| c.is_ascii_digit()) => name,
        _ => package,
    };
    let path = file.split(".rs").next()?;
    let parts = path.split('/').filter(|part| !matches!(*part, "mod" | "lib"));
    let name = name.replace('-', "_");
    Some(std::iter::once(name.as_str()).chain(parts).collect::<Vec<_>>().join("::"))
}

/// A file's name that says which package it is of: `worker/src/net/io.rs`, `hyper-1.12.0/src/proto/h1/io.rs`,
/// `core/src/future/mod.rs`.
pub(super) fn place(file: &Path, line: Option<u32>) -> String {
    let path = file.to_string_lossy();
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).parent().and_then(|root| file.strip_prefix(root).ok());
    let short = if let Some(ours) = ours {
        ours.to_string_lossy().into_owned()
    } else if let Some((_, in_registry)) = path.split_once("/registry/src/") {
        in_registry.split_once('/').map_or(in_registry, |(_, rest)| rest).to_owned()
    } else if let Some((_, in_library)) = path.split_once("/library/") {
        in_library.to_owned()
    } else {
        path.strip_prefix("./").unwrap_or(&path).to_owned()
    };
    match line {
        Some(line) => format!("{short}:{line}"),
        None => short,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generic_arguments_go_and_types_of_methods_stay() {
        for (name, short) in [
            ("a::b::c", "a::b::c"),
            ("a::b::<c::d<e::F>, u8>::g", "a::b::g"),
            ("<a::B<c::D> as e::F<g::H>>::i::<j::K>::{closure#0}", "<a::B as e::F>::i::{closure#0}"),
            ("<a::B<fn() -> c::D>>::e", "<a::B>::e"),
            ("<&mut a::B<c> as d::E>::f", "<&mut a::B as d::E>::f"),
            (
                "<a::f::{closure#0}<x::Y> as core::ops::FnOnce<()>>::call_once",
                "<a::f::{closure#0} as core::ops::FnOnce>::call_once",
            ),
            (
                "forkgate_worker::lifecycle::task::poll_task::<a::b<c::d>::{closure#0}>",
                "forkgate_worker::lifecycle::task::poll_task::<a::b::{closure#0}>",
            ),
        ] {
            assert_eq!(function(name, None), short);
        }
        assert!(function(&"x".repeat(5000), None).len() <= MAX);
    }

    #[test]
    fn a_bare_name_gets_its_module_from_the_file() {
        for (name, place, full) in [
            ("poll<a::B>", "tokio-1.54.1/src/task/local.rs:769", "tokio::task::local::poll"),
            ("{async_fn#0}", "core/src/future/mod.rs:1", "core::future::{async_fn#0}"),
            ("read", "hyper-util-0.1.2/src/lib.rs", "hyper_util::read"),
            ("epoll_wait", "sysdeps/epoll.c:30", "epoll_wait"),
            ("a::b", "tokio-1.54.1/src/x.rs", "a::b"),
        ] {
            assert_eq!(function(name, Some(place)), full);
        }
    }

    #[test]
    fn places_start_with_their_package() {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
        for (path, line, short) in [
            (own.as_path(), Some(7), "worker/src/lib.rs:7"),
            (
                Path::new("/h/.cargo/registry/src/index.crates.io-19/hyper-1.12.0/src/a.rs"),
                None,
                "hyper-1.12.0/src/a.rs",
            ),
            (Path::new("/rustc/59807616/library/core/src/b.rs"), Some(1), "core/src/b.rs:1"),
            (Path::new("./nptl/c.c"), None, "nptl/c.c"),
        ] {
            assert_eq!(place(path, line), short);
        }
    }
}
