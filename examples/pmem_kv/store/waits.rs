//! Breaking, and counting what it cost: the one place where the store waits for anybody's pins.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use layout_lease::{BreakError, Drained, LayoutGuard, PageRange};
use parking_lot::Mutex;

/// Counts of one kind of break, and how long those waited that had to.
#[derive(Debug)]
pub(crate) struct Waits {
    breaks: AtomicU64,
    /// In nanoseconds.
    waits: Mutex<Histogram<u64>>,
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
    pub(crate) fn new() -> Waits {
        // Small until there is something in it: three digits.
        let waits = Histogram::new(3).expect("so many digits are valid");
        Waits {
            breaks: AtomicU64::new(0),
            waits: Mutex::new(waits),
        }
    }

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
        // It grows to what it is given, so it takes everything.
        let _ = self.waits.lock().record(nanos);
    }

    pub(crate) fn summary(&self) -> WaitSummary {
        let waits = self.waits.lock();
        let at = |quantile| Duration::from_nanos(waits.value_at_quantile(quantile));
        WaitSummary {
            breaks: self.breaks.load(Ordering::Relaxed),
            waited: waits.len(),
            p50: at(0.5),
            p99: at(0.99),
            max: Duration::from_nanos(waits.max()),
        }
    }
}
