//! The one clock for deadlines: `CLOCK_BOOTTIME`, which counts suspend and which nobody can set.

/// Nanoseconds since the machine booted, suspend included.
pub fn boottime_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid, writable timespec for the whole call.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    assert_eq!(answer, 0, "CLOCK_BOOTTIME exists in every kernel since 2.6.39");
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::boottime_ns;

    #[test]
    fn it_never_runs_backwards() {
        let mut last = 0;
        for _ in 0..1000 {
            let now = boottime_ns();
            assert!(now >= last);
            last = now;
        }
        assert!(last > 0);
    }
}
