//! A process's private memory: what its end would give back.
//!
//! Resident size is not it: pages shared with other workers count in every one of them. `smaps_rollup` (proc(5)) has
//! the sums; reading it walks the page tables, so it is done off the event loop.

use std::io;

/// Private bytes of this process. Blocks for about a millisecond per GiB mapped.
pub(super) fn private_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    parse(&text).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "/proc/self/smaps_rollup has no Private_* lines")
    })
}

/// The sum of `Private_Clean`, `Private_Dirty` and `Private_Hugetlb`, in bytes.
fn parse(text: &str) -> Option<u64> {
    let kib = |line: &str| -> Option<u64> {
        let (name, value) = line.split_once(':')?;
        let wanted = matches!(name, "Private_Clean" | "Private_Dirty" | "Private_Hugetlb");
        wanted.then(|| value.trim().strip_suffix("kB")?.trim().parse().ok()).flatten()
    };
    let values: Vec<u64> = text.lines().filter_map(kib).collect();
    (!values.is_empty()).then(|| values.iter().sum::<u64>() * 1024)
}

/// Samples over the limit in a row after which a worker asks to be replaced: one peak is no leak.
const CONSECUTIVE: u32 = 3;

/// Counts samples over a limit.
#[derive(Debug, Default)]
pub(super) struct OverLimit {
    in_a_row: u32,
}

impl OverLimit {
    /// Takes a sample; true once [`CONSECUTIVE`] samples in a row were over.
    pub(super) fn sample(&mut self, bytes: u64, limit: Option<u64>) -> bool {
        self.in_a_row = if limit.is_some_and(|limit| bytes > limit) { self.in_a_row + 1 } else { 0 };
        self.in_a_row >= CONSECUTIVE
    }
}

/// True for a sample so far over the limit (a quarter of it) that waiting for further ones, and for a graceful
/// replacement, may end with the kernel's choice of whom to kill.
pub(super) fn is_far_over(bytes: u64, limit: Option<u64>) -> bool {
    limit.is_some_and(|limit| bytes > limit.saturating_add(limit / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_over_the_limit_is_far_over() {
        let limit = Some(1000);
        assert_eq!([1000, 1250, 1251].map(|bytes| is_far_over(bytes, limit)), [false, false, true]);
        assert!(!is_far_over(u64::MAX, None));
    }

    #[test]
    fn private_pages_are_summed_and_shared_ones_are_not() {
        let text = "55d0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:      9000 kB\nShared_Clean:  5000 kB\n\
                    Private_Clean:       12 kB\nPrivate_Dirty:     1000 kB\nPrivate_Hugetlb:      4 kB\n";
        assert_eq!(parse(text), Some(1016 * 1024));
        assert_eq!(parse("Rss: 1 kB\n"), None);
        assert_eq!(parse("Private_Clean: x kB\n"), None);
    }

    #[test]
    fn this_process_has_private_memory() {
        assert!(private_bytes().expect("readable") > 4096);
    }

    #[test]
    fn only_samples_in_a_row_count() {
        let mut over = OverLimit::default();
        let feed = |over: &mut OverLimit, samples: &[u64]| -> Vec<bool> {
            samples.iter().map(|bytes| over.sample(*bytes, Some(10))).collect()
        };
        assert_eq!(
            feed(&mut over, &[11, 11, 10, 11, 11, 11, 9]),
            [false, false, false, false, false, true, false]
        );
        assert!((0..9).all(|_| !over.sample(u64::MAX, None)));
    }
}
