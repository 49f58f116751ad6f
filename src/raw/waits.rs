//! How long breaks have waited: a histogram of constant size.

use std::time::Duration;

/// Steps to each doubling: a percentile is told to within an eighth.
const STEPS: usize = 8;
/// Doublings of a nanosecond: up to about nine minutes.
const DOUBLINGS: usize = 39;

/// How long breaks have waited that had to.
pub(crate) struct Waits {
    counts: [u32; STEPS * DOUBLINGS],
    total: u64,
    max: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            counts: [0; STEPS * DOUBLINGS],
            total: 0,
            max: Duration::ZERO,
        }
    }
}

impl Waits {
    pub(super) fn add(&mut self, waited: Duration) {
        let bucket = bucket(waited).min(self.counts.len() - 1);
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
        self.total += 1;
        self.max = self.max.max(waited);
    }

    pub(super) fn max(&self) -> Option<Duration> {
        (self.total > 0).then_some(self.max)
    }

    /// The least wait that is not exceeded by `percent` of all, rounded up by at most an eighth.
    pub(super) fn percentile(&self, percent: u64) -> Option<Duration> {
        let wanted = (self.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let at = self.counts.iter().position(|n| {
            seen += u64::from(*n);
            seen >= wanted
        })?;
        // The last bucket has no end.
        let end = match at + 1 == self.counts.len() {
            true => self.max,
            false => end(at),
        };
        Some(end.min(self.max))
    }
}

/// The bucket of a duration: its highest bits.
fn bucket(waited: Duration) -> usize {
    let ns = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX).max(1);
    let doubling = ns.ilog2() as usize;
    let within = if doubling >= 3 {
        ns >> (doubling - 3)
    } else {
        ns << (3 - doubling)
    };
    doubling * STEPS + (within as usize - STEPS)
}

/// The longest duration of a bucket.
fn end(bucket: usize) -> Duration {
    let (doubling, within) = (bucket / STEPS, bucket % STEPS);
    let next = ((STEPS + within + 1) as u128) << doubling;
    Duration::from_nanos((next / STEPS as u128) as u64)
}

#[cfg(all(test, not(any(lease_loom, lease_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_ends_at_most_an_eighth_behind_what_is_in_it() {
        for ns in (1..5_000).chain((0..39).map(|n| (1 << n) + (1 << n) / 3)) {
            let waited = Duration::from_nanos(ns);
            let end = end(bucket(waited));
            assert!(end >= waited, "{ns} is in a bucket that ends at {end:?}");
            assert!(
                end.as_nanos() <= u128::from(ns) * 9 / 8 + 1,
                "{ns}: {end:?}"
            );
        }
    }

    /// Holders of an hour were told to be ones of nine minutes.
    #[test]
    fn a_wait_too_long_for_the_buckets_is_told_no_shorter_than_it_was() {
        let (short, long) = (Duration::from_secs(60), Duration::from_secs(3_600));
        let mut waits = Waits::default();
        [short, short, long].into_iter().for_each(|w| waits.add(w));
        assert!(waits.percentile(50) < Some(short * 9 / 8));
        assert_eq!(waits.percentile(99), Some(long));
    }

    #[test]
    fn percentiles_of_a_thousand_waits() {
        let mut waits = Waits::default();
        assert_eq!((waits.percentile(50), waits.max()), (None, None));
        (1..=1_000).for_each(|us| waits.add(Duration::from_micros(us)));
        let near = |percent, us: u128| {
            let found = waits.percentile(percent).unwrap().as_micros();
            assert!((us..=us * 9 / 8).contains(&found), "p{percent}: {found}");
        };
        near(50, 500);
        near(99, 990);
        assert_eq!(waits.percentile(100), Some(Duration::from_millis(1)));
        waits.add(Duration::from_secs(1 << 40));
        assert_eq!(waits.max(), Some(Duration::from_secs(1 << 40)));
    }
}
