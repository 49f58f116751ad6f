//! Breaking, and counting what it cost: the one place where the store waits for anybody's pins.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use layout_lease::{BreakError, Drained, LayoutGuard, PageRange};
use parking_lot::Mutex;

/// Counts of one kind of break, and how long those waited that had to.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    breaks: AtomicU64,
    /// In nanoseconds; none until somebody has waited.
    waits: Mutex<Option<Histogram<u64>>>,
}

/// A copy of the counts, to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WaitSummary {
    pub(crate) breaks: u64,
    /// Those of them that found somebody to wait for.
    pub(crate) waited: u64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

impl Waits {
    /// Closes `pages`, waits until nobody holds any of them, and returns the proof.
    ///
    /// No lock is held while it waits.
    pub(crate) fn drain<'g, M>(
        &self,
        guard: &'g LayoutGuard<M>,
        pages: PageRange,
    ) -> Result<Drained<'g, M>, BreakError> {
        let breaking = guard.break_layouts(pages);
        self.count();
        if breaking.is_drained() {
            return breaking.wait();
        }
        let start = Instant::now();
        let proof = breaking.wait();
        self.waited(start.elapsed());
        proof
    }

    pub(crate) fn count(&self) {
        self.breaks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn waited(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut waits = self.waits.lock();
        let three_digits = || Histogram::new(3).expect("so many digits are valid");
        // It grows to what it is given, so it takes everything.
        let _ = waits.get_or_insert_with(three_digits).record(nanos);
    }

    pub(crate) fn summary(&self) -> WaitSummary {
        let breaks = self.breaks.load(Ordering::Relaxed);
        let waits = self.waits.lock();
        let Some(waits) = waits.as_ref() else {
            return WaitSummary {
                breaks,
                ..WaitSummary::default()
            };
        };
        let at = |quantile| Duration::from_nanos(waits.value_at_quantile(quantile));
        WaitSummary {
            breaks,
            waited: waits.len(),
            p50: at(0.5),
            p99: at(0.99),
            max: Duration::from_nanos(waits.max()),
        }
    }
}
