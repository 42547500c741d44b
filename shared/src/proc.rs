//! What stands in files of `/proc` (proc(5)) that both the worker reads of itself and the master of a worker: a verdict is
//! confirmed by the same numbers that it was made from.

/// How long a thread ran and how long it waited to run, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTimes {
    /// On a CPU.
    pub cpu: u64,
    /// Ready to run, without a CPU.
    pub delay: u64,
}

/// Reads `schedstat` of a thread.
pub fn schedstat(text: &str) -> Option<RunTimes> {
    let mut fields = text.split_ascii_whitespace().map(|field| field.parse().ok());
    Some(RunTimes { cpu: fields.next()??, delay: fields.next()?? })
}

/// The sum of `Private_Clean`, `Private_Dirty` and `Private_Hugetlb` of `smaps_rollup`, in bytes; none when there is no
/// such line.
pub fn private_bytes(smaps_rollup: &str) -> Option<u64> {
    let kib = |line: &str| -> Option<u64> {
        let (name, value) = line.split_once(':')?;
        let wanted = matches!(name, "Private_Clean" | "Private_Dirty" | "Private_Hugetlb");
        wanted.then(|| value.trim().strip_suffix("kB")?.trim().parse().ok()).flatten()
    };
    let values: Vec<u64> = smaps_rollup.lines().filter_map(kib).collect();
    (!values.is_empty()).then(|| values.into_iter().fold(0, u64::saturating_add).saturating_mul(1024))
}

/// True for private memory so far over `GATEWAY_MAX_RSS` (a quarter of it) that waiting for further samples, and for a
/// graceful replacement, may end with the kernel's choice of whom to kill.
pub fn is_far_over(bytes: u64, limit: Option<u64>) -> bool {
    limit.is_some_and(|limit| bytes > limit.saturating_add(limit / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_the_first_two_numbers() {
        assert_eq!(schedstat("12 34 5\n"), Some(RunTimes { cpu: 12, delay: 34 }));
        for broken in ["", "12", "123", "12 x 5", "-1 2 3"] {
            assert_eq!(schedstat(broken), None, "{broken}");
        }
    }

    #[test]
    fn private_pages_are_summed_whatever_they_say_and_shared_ones_are_not() {
        let text = "55d0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:      9000 kB\nShared_Clean:  5000 kB\n\
                    Private_Clean:       12 kB\nPrivate_Dirty:     1000 kB\nPrivate_Hugetlb:      4 kB\n";
        assert_eq!(private_bytes(text), Some(1016 * 1024));
        assert_eq!(
            private_bytes(&format!("Private_Clean: {0} kB\nPrivate_Dirty: {0} kB\n", u64::MAX)),
            Some(u64::MAX)
        );
        for none in ["Rss: 1 kB\n", "Private_Clean: x kB\n", "Rss: 1 kB\nPrivate_Clean: x kB\n"] {
            assert_eq!(private_bytes(none), None, "{none}");
        }
    }

    #[test]
    fn a_quarter_over_the_limit_is_far_over() {
        let limit = Some(1000);
        assert_eq!([1000, 1250, 1251].map(|bytes| is_far_over(bytes, limit)), [false, false, true]);
        assert!(!is_far_over(u64::MAX, None) && !is_far_over(u64::MAX, Some(u64::MAX)));
    }
}
