//! `LayoutGuard`: one per mapping. Owns the engine's block map and the mapping's record.

use std::any::Any;
use std::fmt;
use std::ops::{Deref, RangeBounds};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::holders::Holder;
use crate::range::PageRange;
use crate::raw::adapt::Barrier;
use crate::raw::record::Record;
use crate::raw::shelf::Claim;

/// Tracks who uses the pages of one mapping, and closes ranges of it until nobody does.
///
/// A *mapping* is whatever you number pages in: a file, a segment, an arena, a persistent-memory pool.
/// Give each one guard, and let the guard own the mapping's [`BlockMap`](crate::BlockMap): then no block
/// leaves the mapping but through a break.
///
/// - To use pages: [`try_pin`](Self::try_pin) or [`pin`](Self::pin) them, look up the blocks *after*
///   pinning, and keep the [`PagePin`](crate::PagePin) until the device is done.
/// - To free blocks: [`punch_hole`](Self::punch_hole), [`truncate`](Self::truncate) and their sisters; or
///   [`break_layouts`](Self::break_layouts) for a [`Drained`](crate::Drained) proof in hand.
///
/// `LayoutGuard<()>` is a guard without an engine behind it, for pins and proofs alone.
///
/// Dropping a guard under live pins or leases is safe: the map is kept until the last of them is gone, and is
/// dropped with it, on whichever thread that is (promise **I9**). That is why [`new`](Self::new) asks for
/// `Send + 'static`.
///
/// # Examples
///
/// ```
/// use layout_lease::{LayoutGuard, maps::ExtentMap};
///
/// let guard = LayoutGuard::new(ExtentMap::new(100));
/// guard.map().allocate(0..10)?;
///
/// let pin = guard.try_pin(2..4)?; // a device works on pages 2 and 3
/// let mut punch = guard.punch_hole(3..6); // closed from here on
/// assert!(punch.wait_timeout(std::time::Duration::ZERO).is_none());
/// drop(pin); // the device is done
/// assert_eq!(punch.wait()?, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LayoutGuard<M> {
    // `None` only while it is being dropped.
    map: Option<M>,
    /// How to keep the map beyond the guard: made where `M: Send + 'static` is known.
    keep: fn(M) -> Box<dyn Any + Send>,
    record: &'static Record,
    /// How to free what has been retired: put in where `M: BlockMap` is known.
    pub(crate) freer: OnceLock<Freer<M>>,
}

/// Frees the blocks of a retirement, or gives it up.
pub(crate) type Freer<M> = fn(&LayoutGuard<M>, Claim, Verdict) -> u64;

/// What is to become of a retirement.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Free,
    /// Its blocks stay where they are.
    GiveUp,
}

impl<M: Send + 'static> LayoutGuard<M> {
    /// A guard for one mapping, with the engine's block map in it. Everything is open.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, maps::ExtentMap};
    /// let guard = LayoutGuard::new(ExtentMap::new(1 << 20));
    /// assert_eq!(guard.map().free_blocks(), 1 << 20);
    /// ```
    pub fn new(map: M) -> Self {
        Self::with_barrier(map, Barrier::Adaptive)
    }

    /// [`new`](Self::new), with a fixed choice of who pays for the barrier between pinners and breakers.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{Barrier, LayoutGuard};
    /// let guard = LayoutGuard::with_barrier((), Barrier::Asymmetric);
    /// # drop(guard.try_pin(0..1)?);
    /// # Ok::<(), layout_lease::TryPinError>(())
    /// ```
    pub fn with_barrier(map: M, barrier: Barrier) -> Self {
        Self {
            map: Some(map),
            keep: |map| Box::new(map),
            record: Record::obtain(barrier),
            freer: OnceLock::new(),
        }
    }
}

impl Default for LayoutGuard<()> {
    /// A guard without an engine behind it.
    fn default() -> Self {
        Self::new(())
    }
}

impl<M> LayoutGuard<M> {
    /// The engine's block map.
    ///
    /// Looking blocks up is right only under a pin: what you looked up before pinning may have been freed
    /// before the pin was granted.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, maps::ExtentMap};
    /// let guard = LayoutGuard::new(ExtentMap::new(8));
    /// guard.map().allocate(0..1)?;
    /// let pin = guard.try_pin(0..1)?;
    /// let block = guard.map().lookup(0); // stays ours until the pin is dropped
    /// # assert!(block.is_some());
    /// # drop(pin);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn map(&self) -> &M {
        match &self.map {
            Some(map) => map,
            None => unreachable!("only `drop` takes the map out"),
        }
    }

    /// Whether the guard is [closed](Self::close): nobody gets pages any more, and nothing can be retired.
    ///
    /// # Blocking
    ///
    /// Takes no lock.
    ///
    /// # Examples
    ///
    /// See [`retired_ready`](Self::retired_ready).
    pub fn is_closed(&self) -> bool {
        self.record.is_shut()
    }

    /// Everybody who holds a page of `pages` (page indices, half-open) now, in no particular order. A range that
    /// is empty or inverted is held by nobody.
    ///
    /// # Blocking
    ///
    /// Takes the mapping's lock for one scan of the slots; never waits for holders.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::LayoutGuard;
    /// let guard = LayoutGuard::<()>::default();
    /// let pin = guard.try_pin(0..8)?;
    /// assert_eq!(guard.holders(7..9).len(), 1);
    /// assert_eq!(guard.holders(8..9).len(), 0);
    /// # drop(pin);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn holders(&self, pages: impl RangeBounds<u64>) -> Vec<Holder> {
        PageRange::from_bounds(pages)
            .map(|range| self.record.holders(&[range]))
            .unwrap_or_default()
    }

    /// Counts of this mapping.
    ///
    /// # Blocking
    ///
    /// As [`holders`](Self::holders).
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::LayoutGuard;
    /// let guard = LayoutGuard::<()>::default();
    /// let pin = guard.try_pin(0..8)?;
    /// drop(guard.break_layouts(8..9).wait()?);
    /// let stats = guard.stats();
    /// assert_eq!((stats.pins, stats.breaks, stats.breaks_waited, stats.queued), (1, 1, 0, 0));
    /// # drop(pin);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> Stats {
        let counts = self.record.counts();
        Stats {
            pins: counts.pins as u64,
            breaks: counts.breaks,
            breaks_waited: counts.waited,
            queued: counts.queued as u64,
            leases: counts.leases as u64,
            retired_pages: counts.retired_pages,
            retired_failed: counts.retired_failed,
            wait_p50: counts.waits[0],
            wait_p99: counts.waits[1],
            wait_max: counts.waits[2],
        }
    }

    /// The closing `id` waits: runs the retirements that are left before it, and gives up those that
    /// wait for the log when nobody else is left to wait for. Whether there were any.
    pub(crate) fn run_left(&self, id: u64) -> bool {
        let Some(free) = self.freer.get() else {
            return false;
        };
        let record = self.record;
        let mut any = false;
        loop {
            if let Some(claim) = record.claim_retired() {
                free(self, claim, Verdict::Free);
            } else if let Some(claim) = record.give_up_retired(id) {
                free(self, claim, Verdict::GiveUp);
            } else {
                return any;
            }
            any = true;
        }
    }

    pub(crate) fn record(&self) -> &'static Record {
        self.record
    }
}

impl<M> Drop for LayoutGuard<M> {
    fn drop(&mut self) {
        let (map, keep) = (&mut self.map, self.keep);
        // I9: under live pins the map is kept until the last of them is gone.
        self.record.abandon(|| match map.take() {
            Some(map) => keep(map),
            None => Box::new(()),
        });
    }
}

impl<M> fmt::Debug for LayoutGuard<M> {
    /// Never blocks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("LayoutGuard");
        match self.record.try_counts() {
            Some(counts) => f
                .field("pins", &counts.pins)
                .field("leases", &counts.leases)
                .field("queued", &counts.queued)
                .field("breaks", &counts.breaks)
                .finish(),
            None => f.finish_non_exhaustive(),
        }
    }
}

/// Counts of one mapping, from [`LayoutGuard::stats`].
///
/// # Examples
///
/// See [`LayoutGuard::stats`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Pins that are outstanding now.
    pub pins: u64,
    /// Breaks that have closed a range so far, cancelled ones among them, and those of leases and retirements; a
    /// [`try_break_layouts`](LayoutGuard::try_break_layouts) that was refused does not count.
    pub breaks: u64,
    /// Those of them that found somebody to wait for.
    pub breaks_waited: u64,
    /// Who has closed something now, or waits: breaks with or without their proof, retirements that are not freed
    /// yet, and those who wait for a pin or a lease or have not fetched their grant or refusal yet.
    pub queued: u64,
    /// Leases that are outstanding now.
    pub leases: u64,
    /// Pages that have been [retired](LayoutGuard::retire) and are not freed yet.
    pub retired_pages: u64,
    /// Retirements that came to their end without their blocks being freed, because the block map failed or
    /// the guard was closed, and whose [`Retired`](crate::Retired) had been dropped.
    pub retired_failed: u64,
    /// How long breaks have waited that had to and got their proof: the median, to within an eighth; the longest, if
    /// the median is above eight minutes. `None`: none has.
    pub wait_p50: Option<Duration>,
    /// The 99th percentile of the same.
    pub wait_p99: Option<Duration>,
    /// The longest of the same.
    pub wait_max: Option<Duration>,
}

/// A borrowed or a shared guard: what a break and its proof hold on to.
pub(crate) enum GuardRef<'g, M> {
    Borrowed(&'g LayoutGuard<M>),
    Shared(Arc<LayoutGuard<M>>),
}

impl<M> Clone for GuardRef<'_, M> {
    fn clone(&self) -> Self {
        match self {
            GuardRef::Borrowed(guard) => GuardRef::Borrowed(guard),
            GuardRef::Shared(guard) => GuardRef::Shared(Arc::clone(guard)),
        }
    }
}

impl<M> Deref for GuardRef<'_, M> {
    type Target = LayoutGuard<M>;

    fn deref(&self) -> &LayoutGuard<M> {
        match self {
            GuardRef::Borrowed(guard) => guard,
            GuardRef::Shared(guard) => guard,
        }
    }
}
