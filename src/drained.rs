//! `Drained`: the evidence that a range is closed and idle. Its drop reopens.

use std::fmt;

use crate::guard::{GuardRef, LayoutGuard};
use crate::range::PageRange;
use crate::raw::entry::Ranges;

/// The proof: while it lives, its ranges are closed, and no pin or lease overlaps them.
///
/// Only a break that succeeded makes one ([`break_layouts`](LayoutGuard::break_layouts),
/// [`try_break_layouts`](LayoutGuard::try_break_layouts)); it cannot be forged or cloned (promise
/// **I2**). Free the blocks while you hold it, then drop it: that reopens the ranges, and whoever
/// waited for them goes on. Forgetting it (`mem::forget`) leaves them closed for ever (promise **I4**).
///
/// It keeps *others* out. `&Drained` may be shared between threads like any reference, so an engine that
/// writes to the pages under its proof should ask for `&mut Drained`, and then nobody else has it.
///
/// # Blocking
///
/// Dropping it takes the mapping's lock for a moment, grants the pages to those who waited for them, and wakes those: so
/// the waker of a task may run inside the drop.
///
/// # Examples
///
/// ```
/// use layout_lease::{LayoutGuard, PageRange, maps::ExtentMap};
/// let guard = LayoutGuard::new(ExtentMap::new(100));
/// guard.map().allocate(0..10)?;
/// let proof = guard.break_layouts(0..10).wait()?;
/// assert_eq!(proof.punch_hole(PageRange::new(2, 4)?)?, 2);
/// assert_eq!(proof.punch_hole(PageRange::new(8, 10)?)?, 2);
/// drop(proof); // open again
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping the proof reopens the range at once"]
pub struct Drained<'g, M> {
    // INVARIANT: entry `id` of the guard's queue is drained, and this value alone takes it out.
    guard: GuardRef<'g, M>,
    ranges: Ranges,
    id: u64,
    /// Somebody else reopens it.
    lent: bool,
}

impl<'g, M> Drained<'g, M> {
    /// `id` names a drained entry that nobody else will take out.
    pub(crate) fn new(guard: GuardRef<'g, M>, ranges: Ranges, id: u64) -> Self {
        Self {
            guard,
            ranges,
            id,
            lent: false,
        }
    }

    /// The same, for one that is taken out by somebody else, later.
    pub(crate) fn lent(guard: GuardRef<'g, M>, ranges: Ranges, id: u64) -> Self {
        let mut proof = Self::new(guard, ranges, id);
        proof.lent = true;
        proof
    }

    /// The ranges that are closed and idle, in order and apart from each other.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::LayoutGuard;
    /// let guard = LayoutGuard::<()>::default();
    /// let proof = guard.break_layouts(4..8).wait()?;
    /// assert_eq!((proof.ranges().len(), proof.ranges()[0].len()), (1, 4));
    /// # Ok::<(), layout_lease::BreakError>(())
    /// ```
    pub fn ranges(&self) -> &[PageRange] {
        self.ranges.as_slice()
    }

    /// Whether every page of `pages` is closed and idle by this proof.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, PageRange};
    /// let guard = LayoutGuard::<()>::default();
    /// let proof = guard.break_layouts(4..8).wait()?;
    /// assert!(proof.covers(PageRange::new(5, 8)?));
    /// assert!(!proof.covers(PageRange::new(5, 9)?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn covers(&self, pages: PageRange) -> bool {
        // The ranges are apart from each other, so one of them must do it alone.
        self.ranges().iter().any(|range| range.covers(&pages))
    }

    /// Whether this proof was given for the guard that owns `map`: what a
    /// [`BlockMap`](crate::BlockMap) asks before it frees anything.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, maps::ExtentMap};
    /// let (ours, theirs) = (LayoutGuard::new(ExtentMap::new(1)), LayoutGuard::new(ExtentMap::new(1)));
    /// let proof = ours.break_layouts(..).wait()?;
    /// assert!(proof.is_of(ours.map()) && !proof.is_of(theirs.map()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_of(&self, map: &M) -> bool {
        std::ptr::eq(self.guard.map(), map)
    }

    /// The guard that gave the proof.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::LayoutGuard;
    /// let guard = LayoutGuard::<()>::default();
    /// let proof = guard.break_layouts(4..8).wait()?;
    /// assert!(std::ptr::eq(proof.guard(), &guard));
    /// # Ok::<(), layout_lease::BreakError>(())
    /// ```
    pub fn guard(&self) -> &LayoutGuard<M> {
        &self.guard
    }

    /// Parts the proof at `page`: the pages before it, and those from it on. Each half reopens by itself.
    ///
    /// # Blocking
    ///
    /// Takes the mapping's lock for a moment.
    ///
    /// # Errors
    ///
    /// Gives the proof back if either half would have no pages.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::LayoutGuard;
    /// let guard = LayoutGuard::<()>::default();
    /// let proof = guard.break_layouts(0..10).wait()?;
    /// let proof = proof.split_at(10).unwrap_err(); // nothing behind page 10
    /// let (low, high) = proof.split_at(4).unwrap();
    /// drop(low);
    /// assert!(guard.try_pin(0..4).is_ok() && guard.try_pin(4..5).is_err());
    /// # drop(high);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn split_at(mut self, page: u64) -> Result<(Self, Self), Self> {
        let cut = |lo: u64, hi: u64| {
            let half = PageRange::new(lo, hi).ok();
            let parts = self.ranges().iter().filter_map(|r| half?.intersection(r));
            Ranges::normalized(parts.collect())
        };
        let (low, high) = (cut(0, page), cut(page, u64::MAX));
        if low.as_slice().is_empty() || high.as_slice().is_empty() {
            return Err(self);
        }
        let id = self
            .guard
            .record()
            .split(self.id, low.clone(), high.clone());
        self.ranges = low;
        let second = Drained::new(self.guard.clone(), high, id);
        Ok((self, second))
    }

    /// Scans once more, in builds that verify; see [`BlockMap`](crate::BlockMap).
    pub(crate) fn verify(&self) {
        self.guard.record().verify(self.ranges());
    }
}

impl<M> Drop for Drained<'_, M> {
    fn drop(&mut self) {
        if !self.lent {
            self.guard.record().reopen(self.id);
        }
    }
}

impl<M> fmt::Debug for Drained<'_, M> {
    /// Never blocks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drained")
            .field("ranges", &self.ranges())
            .finish_non_exhaustive()
    }
}
