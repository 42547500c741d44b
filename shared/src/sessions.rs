//! The session table: which sealed legacy sessions still live, shared by every process and kept across restarts.
//!
//! A session id is a sealed token that names a cell of the table and the generation the cell had; everything that never
//! changes (version, principal) is inside the token, so a cell is two words. Rules:
//! - A session lives while its cell is live **and** has the token's generation. Ending one bumps the generation with one
//!   compare-and-swap, which every process sees before the `DELETE` is answered: an end is final everywhere.
//! - No locks. A cell is taken by compare-and-swap; whoever loses looks for another one.
//! - The table is a file of fixed, reserved size in the state directory: it survives the gateway, and so do sessions.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::SeqCst};

use crate::memfd::Mapping;
use crate::sealed::KeyRing;

/// Sessions that can live at once. 65 536 cells are 1 MiB.
pub const CAPACITY: usize = 65_536;
const MAGIC: u64 = u64::from_be_bytes(*b"fgsess\0\0");
/// Version of this layout; part of the header.
pub const VERSION: u64 = 1;
/// The header takes the room of one page, so that cells are aligned and a later version has room.
const HEADER_BYTES: usize = 4096;
const FILE_BYTES: usize = HEADER_BYTES + CAPACITY * size_of::<Cell>();

/// Cells that are tried for a new session before the longest idle of them is evicted.
const SAMPLE: usize = 64;
/// A session that was used within this many seconds is never evicted for a new one.
const IDLE_BEFORE_EVICTION_S: u64 = 600;
/// What the sealed ids are for: a token of another kind is no session.
const PURPOSE: &str = "mcp-session";
/// Longest protocol version that a session id carries, in bytes; ours have 10.
const MAX_VERSION_BYTES: usize = 32;

/// Bit 0 of a cell's word: a session lives here. Bits 8–11: its log level. Bits 32–63: the generation.
const LIVE: u64 = 1;
const LEVEL_SHIFT: u32 = 8;
const LEVEL_MASK: u64 = 0xf << LEVEL_SHIFT;
const GENERATION_SHIFT: u32 = 32;

#[repr(C)]
struct Header {
    magic: AtomicU64,
    version: AtomicU64,
    capacity: AtomicU64,
    /// Random; part of every id, so that the ids of a table that was replaced open no cell of the new one.
    epoch: AtomicU64,
}

#[repr(C)]
struct Cell {
    word: AtomicU64,
    /// Seconds since the epoch (the wall clock: the table outlives a boot).
    last_used_s: AtomicU64,
}

/// What a session was opened with; it never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionFacts {
    /// The negotiated protocol version.
    pub version: String,
    /// Capabilities that the client declared, as bits of the protocol layer's choice.
    pub client_capabilities: u32,
}

/// A session that lives, or did a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// See [`SessionFacts`].
    pub facts: SessionFacts,
    index: usize,
    generation: u32,
}

/// No cell is free and none has been idle for long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {CAPACITY} sessions are in use")]
pub struct Full;

/// No such session: never was, has ended, or belongs to somebody else. Which one is nobody's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such session; open a new one with initialize")]
pub struct Unknown;

/// Sealed legacy sessions, and the table that says which of them still live.
pub struct Sessions {
    map: Mapping,
    keys: KeyRing,
}

/// Opens the table's file, or makes it (0600, its space reserved, so that a full disk cannot kill a writer with
/// `SIGBUS`). A file of another layout is replaced: its sessions are gone, which is logged.
pub fn create_file(path: &Path) -> io::Result<File> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) if is_ours(&file)? => return Ok(file),
        Ok(_) => {
            tracing::warn!(path = %path.display(), "the session table has another layout; starting an empty one, clients must initialize anew");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let draft = path.with_extension(format!("new.{}", std::process::id()));
    let made = make(&draft).and_then(|file| std::fs::rename(&draft, path).map(|()| file));
    if made.is_err() {
        // Best effort: the error that counts is the one above.
        let _ = std::fs::remove_file(&draft);
    }
    made
}

fn is_ours(file: &File) -> io::Result<bool> {
    if file.metadata()?.len() != FILE_BYTES as u64 {
        return Ok(false);
    }
    // A sparse copy (a restored backup) would be a SIGBUS in waiting.
    reserve(file)?;
    Ok(has_our_header(&Mapping::shared(file)?))
}

fn make(path: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
    reserve(&file)?;
    let map = Mapping::shared(&file)?;
    let header = header(&map);
    header.version.store(VERSION, Relaxed);
    header.capacity.store(CAPACITY as u64, Relaxed);
    header.epoch.store(rand::random(), Relaxed);
    header.magic.store(MAGIC, Relaxed);
    Ok(file)
}

fn reserve(file: &File) -> io::Result<()> {
    nix::fcntl::posix_fallocate(file, 0, FILE_BYTES as libc::off_t)?;
    Ok(())
}

fn header(map: &Mapping) -> &Header {
    assert!(map.len() >= HEADER_BYTES);
    // SAFETY: the mapping is page-aligned, at least a page long (checked) and outlives the reference; `Header` is made of
    // atomics only, for which any bytes are valid.
    unsafe { &*map.as_ptr().cast::<Header>() }
}

fn has_our_header(map: &Mapping) -> bool {
    let header = header(map);
    map.len() == FILE_BYTES
        && header.magic.load(Relaxed) == MAGIC
        && header.version.load(Relaxed) == VERSION
        && header.capacity.load(Relaxed) == CAPACITY as u64
}

fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn generation_of(word: u64) -> u32 {
    (word >> GENERATION_SHIFT) as u32
}

/// The word of a free cell of the generation after `word`'s.
fn ended(word: u64) -> u64 {
    u64::from(generation_of(word).wrapping_add(1)) << GENERATION_SHIFT
}

impl Sessions {
    /// Maps the table of [`create_file`]; `InvalidData` when the file is none.
    pub fn open(fd: OwnedFd, keys: KeyRing) -> io::Result<Sessions> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "the session table has another layout");
        let size = nix::sys::stat::fstat(fd.as_fd())?.st_size;
        if size != FILE_BYTES as i64 {
            return Err(invalid());
        }
        let map = Mapping::shared(&fd)?;
        if has_our_header(&map) { Ok(Sessions { map, keys }) } else { Err(invalid()) }
    }

    /// Opens a session for the principal with this fingerprint and gives its sealed id.
    pub fn create(&self, principal: &[u8; 16], facts: &SessionFacts) -> Result<String, Full> {
        let (index, generation) = self.take_cell()?;
        let version = &facts.version.as_bytes()[..facts.version.len().min(MAX_VERSION_BYTES)];
        let mut plain = Vec::with_capacity(36 + version.len());
        plain.extend_from_slice(&self.epoch().to_le_bytes());
        plain.extend_from_slice(&(index as u32).to_le_bytes());
        plain.extend_from_slice(&generation.to_le_bytes());
        plain.extend_from_slice(&facts.client_capabilities.to_le_bytes());
        plain.extend_from_slice(principal);
        plain.extend_from_slice(version);
        Ok(self.keys.seal(PURPOSE, &plain))
    }

    /// The session that `id` names, when it lives and belongs to this principal.
    pub fn resume(&self, id: &str, principal: &[u8; 16]) -> Result<Session, Unknown> {
        let plain = self.keys.open(PURPOSE, id).map_err(|_| Unknown)?;
        let (epoch, rest) = plain.split_first_chunk::<8>().ok_or(Unknown)?;
        let (index, rest) = rest.split_first_chunk::<4>().ok_or(Unknown)?;
        let (generation, rest) = rest.split_first_chunk::<4>().ok_or(Unknown)?;
        let (client_capabilities, rest) = rest.split_first_chunk::<4>().ok_or(Unknown)?;
        let (owner, version) = rest.split_first_chunk::<16>().ok_or(Unknown)?;
        let index = u32::from_le_bytes(*index) as usize;
        if owner != principal || index >= CAPACITY || u64::from_le_bytes(*epoch) != self.epoch() {
            return Err(Unknown);
        }
        let facts = SessionFacts {
            version: std::str::from_utf8(version).map_err(|_| Unknown)?.to_owned(),
            client_capabilities: u32::from_le_bytes(*client_capabilities),
        };
        let session = Session { facts, index, generation: u32::from_le_bytes(*generation) };
        if !self.is_live(&session) {
            return Err(Unknown);
        }
        let cell = self.cell(index);
        let now = now_s();
        // At most one write a second: the cell's cache line is shared by all processes.
        if cell.last_used_s.load(Relaxed) != now {
            cell.last_used_s.store(now, Relaxed);
        }
        Ok(session)
    }

    /// True until the session is ended, by any process.
    pub fn is_live(&self, session: &Session) -> bool {
        let word = self.cell(session.index).word.load(Acquire);
        word & LIVE != 0 && generation_of(word) == session.generation
    }

    /// Ends a session, finally and for every process. Ending it twice is nothing new.
    pub fn terminate(&self, session: &Session) {
        let end =
            |word: u64| (word & LIVE != 0 && generation_of(word) == session.generation).then(|| ended(word));
        // An error means that somebody else has ended it.
        let _ = self.cell(session.index).word.fetch_update(SeqCst, SeqCst, end);
    }

    /// The level that `logging/setLevel` chose, from 1 (debug) to 8 (emergency); 0 = none chosen.
    pub fn log_level(&self, session: &Session) -> u8 {
        ((self.cell(session.index).word.load(Acquire) & LEVEL_MASK) >> LEVEL_SHIFT) as u8
    }

    /// Sets the level of a session that lives.
    pub fn set_log_level(&self, session: &Session, level: u8) {
        let bits = (u64::from(level) << LEVEL_SHIFT) & LEVEL_MASK;
        let set = |word: u64| {
            (word & LIVE != 0 && generation_of(word) == session.generation)
                .then_some(word & !LEVEL_MASK | bits)
        };
        // An error means that the session has ended meanwhile; its level is nobody's concern any more.
        let _ = self.cell(session.index).word.fetch_update(SeqCst, SeqCst, set);
    }

    fn epoch(&self) -> u64 {
        header(&self.map).epoch.load(Relaxed)
    }

    fn cell(&self, index: usize) -> &Cell {
        assert!(index < CAPACITY, "cell {index} of {CAPACITY}");
        // SAFETY: in range (checked) of a mapping of FILE_BYTES (checked in `open`) that lives as long as `self`; the
        // header keeps 16-byte alignment; `Cell` is made of atomics only.
        unsafe { &*self.map.as_ptr().add(HEADER_BYTES).cast::<Cell>().add(index) }
    }

    /// Takes a free cell, else the longest idle of a sample, and gives its index and generation.
    fn take_cell(&self) -> Result<(usize, u32), Full> {
        let now = now_s();
        let mut idlest: Option<(usize, u64, u64)> = None;
        for _ in 0..SAMPLE {
            let index = (rand::random::<u32>() as usize) % CAPACITY;
            let cell = self.cell(index);
            let word = cell.word.load(Acquire);
            if word & LIVE == 0 {
                if let Some(generation) = cell.take(word, word | LIVE, now) {
                    return Ok((index, generation));
                }
                continue;
            }
            let last_used = cell.last_used_s.load(Relaxed);
            if idlest.is_none_or(|(_, _, oldest)| last_used < oldest) {
                idlest = Some((index, word, last_used));
            }
        }
        let (index, word, last_used) = idlest.ok_or(Full)?;
        if now.saturating_sub(last_used) < IDLE_BEFORE_EVICTION_S {
            return Err(Full);
        }
        self.cell(index).take(word, ended(word) | LIVE, now).map(|generation| (index, generation)).ok_or(Full)
    }
}

impl Cell {
    fn take(&self, from: u64, to: u64, now: u64) -> Option<u32> {
        self.word.compare_exchange(from, to, SeqCst, SeqCst).ok()?;
        self.last_used_s.store(now, Relaxed);
        Some(generation_of(to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const ME: [u8; 16] = [1; 16];

    fn facts() -> SessionFacts {
        SessionFacts { version: "2025-11-25".to_owned(), client_capabilities: 5 }
    }

    fn table(path: &Path) -> Sessions {
        let file = create_file(path).expect("file");
        Sessions::open(file.into(), KeyRing::parse(KEY, "test").expect("keys")).expect("open")
    }

    #[test]
    fn a_session_lives_in_every_process_and_across_restarts_until_it_is_ended_once() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("sessions");
        let (one, other) = (table(&path), table(&path));
        let id = one.create(&ME, &facts()).expect("create");
        assert!(id.bytes().all(|byte| (0x21..=0x7e).contains(&byte)), "fit for a header");
        assert_eq!(other.resume(&id, &ME).expect("resume").facts, facts());
        assert_eq!(other.resume(&id, &[2; 16]), Err(Unknown), "somebody else's");
        drop((one, other));
        let (one, other) = (table(&path), table(&path));
        let session = other.resume(&id, &ME).expect("after a restart");
        one.set_log_level(&session, 3);
        assert_eq!(other.log_level(&session), 3);
        other.terminate(&session);
        other.terminate(&session);
        assert!(!one.is_live(&session));
        assert_eq!(one.resume(&id, &ME), Err(Unknown));
    }

    #[test]
    fn a_file_of_another_layout_is_replaced() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("sessions");
        for wrong in [vec![], vec![1u8; 100], vec![0u8; FILE_BYTES]] {
            std::fs::write(&path, wrong).expect("write");
            assert!(table(&path).create(&ME, &facts()).is_ok());
        }
    }

    #[test]
    fn a_full_table_evicts_only_what_was_idle_for_long() {
        let dir = tempfile::tempdir().expect("tempdir");
        let sessions = table(&dir.path().join("sessions"));
        for index in 0..CAPACITY {
            let cell = sessions.cell(index);
            cell.word.store(LIVE, Relaxed);
            cell.last_used_s.store(now_s(), Relaxed);
        }
        assert_eq!(sessions.create(&ME, &facts()), Err(Full));
        for index in 0..CAPACITY {
            sessions.cell(index).last_used_s.store(now_s() - IDLE_BEFORE_EVICTION_S - 1, Relaxed);
        }
        let id = sessions.create(&ME, &facts()).expect("evicts");
        let session = sessions.resume(&id, &ME).expect("resume");
        assert_eq!(session.generation, 1, "the evicted session's id no longer opens the cell");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_lives_is_what_was_created_and_not_ended(ends in prop::collection::vec(any::<(bool, prop::sample::Index)>(), 1..60)) {
            let dir = tempfile::tempdir().expect("tempdir");
            let sessions = table(&dir.path().join("sessions"));
            let mut known: Vec<(String, bool)> = Vec::new();
            for (create, pick) in ends {
                if create || known.is_empty() {
                    known.push((sessions.create(&ME, &facts()).expect("create"), true));
                } else {
                    let (id, live) = pick.get(&known).clone();
                    let resumed = sessions.resume(&id, &ME);
                    prop_assert_eq!(resumed.is_ok(), live);
                    if let Ok(session) = resumed {
                        sessions.terminate(&session);
                    }
                    known.iter_mut().filter(|(other, _)| *other == id).for_each(|(_, live)| *live = false);
                }
            }
            for (id, live) in known {
                prop_assert_eq!(sessions.resume(&id, &ME).is_ok(), live);
            }
        }
    }
}
