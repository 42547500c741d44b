//! Which file of the program an address is in, so that an address without a name can be looked up later: where the kernel
//! put the files is known to this process only.

use std::sync::OnceLock;

use forkgate_shared::report::Frame;

/// Files that are remembered; the program has some ten.
const MAX: usize = 256;

/// A mapped file.
#[derive(Debug, PartialEq, Eq)]
struct Module {
    name: String,
    start: usize,
    end: usize,
}

/// As of the start: no library is loaded or unloaded at run time.
static MODULES: OnceLock<Vec<Module>> = OnceLock::new();

/// Learns where the program and its libraries are. Once per process, before anything is wrong.
pub(super) fn prepare() {
    MODULES.get_or_init(|| {
        std::fs::read_to_string("/proc/self/maps").map_or_else(|_| Vec::new(), |maps| parse(&maps))
    });
}

/// What a frame without a name is called: `module+0xoffset`, or the address where the module is not known.
pub(super) fn unnamed(address: usize) -> Frame {
    frame(MODULES.get().map_or(&[], Vec::as_slice), address)
}

fn frame(modules: &[Module], address: usize) -> Frame {
    match modules.iter().find(|module| (module.start..module.end).contains(&address)) {
        Some(module) => Frame::unnamed(&module.name, address - module.start),
        None => Frame { function: format!("{address:#x}"), place: None },
    }
}

/// Reads `/proc/PID/maps` (proc_pid_maps(5)): of each file the first to the last of its mappings that follow each other.
fn parse(maps: &str) -> Vec<Module> {
    let mut modules: Vec<Module> = Vec::new();
    for line in maps.lines() {
        let Some((module, is_first)) = parse_line(line) else { continue };
        let goes_on = modules.last_mut().filter(|last| !is_first && last.name == module.name);
        if let Some(last) = goes_on {
            last.end = module.end;
        } else if modules.len() < MAX {
            modules.push(module);
        }
    }
    modules
}

/// One mapping of a file, and whether the file begins with it.
fn parse_line(line: &str) -> Option<(Module, bool)> {
    let mut words = line.split_ascii_whitespace();
    let (range, offset) = (words.next()?, words.nth(1)?);
    let path = line.find(['/', '[']).map(|at| &line[at..])?;
    let (start, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let name = path.rsplit('/').next()?.to_owned();
    Some((Module { name, start: number(start)?, end: number(end)? }, number(offset)? == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d0c0000000-55d0c0100000 r--p 00000000 fd:01 7    /opt/my bin/forkgate (deleted)
55d0c0100000-55d0c0900000 r-xp 00100000 fd:01 7    /opt/my bin/forkgate (deleted)
55d0c0900000-55d0c0a00000 rw-p 00000000 00:00 0
7f0000000000-7f0000028000 r--p 00000000 fd:01 9    /usr/lib/libc.so.6
7f0000028000-7f0000200000 r-xp 00028000 fd:01 9    /usr/lib/libc.so.6
7fff00000000-7fff00002000 r-xp 00000000 00:00 0    [vdso]
nonsense
";

    #[test]
    fn an_address_becomes_its_place_in_a_file() {
        let modules = parse(MAPS);
        for (address, expected) in [
            (0x55d0_c010_1234, "forkgate+0x101234"),
            (0x7f00_0002_8010, "libc.so.6+0x28010"),
            (0x7fff_0000_0010, "[vdso]+0x10"),
            (0x55d0_c090_0000, "0x55d0c0900000"),
            (0x1234, "0x1234"),
        ] {
            assert_eq!(frame(&modules, address).function, expected);
        }
    }

    #[test]
    fn this_program_is_found() {
        prepare();
        let frame = unnamed(this_program_is_found as fn() as usize);
        let name =
            std::env::current_exe().expect("a program").file_name().expect("a name").display().to_string();
        assert!(frame.function.starts_with(&format!("{name}+0x")), "{frame:?}");
    }
}
