//! `ExtentMap`: page-to-block extents and the allocator they come from, in memory.
//!
//! **Problem.** An engine needs to know which block is behind a page, and a block that leaves the
//! mapping must go back to the free space exactly once.
//!
//! **Idea.** One ordered map holds the extents by their first page; `FreeSpace` holds every other
//! block. One lock covers both, so an operation is one step for everybody else.
//!
//! ```text
//! pages   0   4      9  11     15            len = 20 (pages 15..20 are a hole, so are 4..9)
//!         |aaaa|.....|bb|cccc|.....
//! blocks  a: 0..4    b: 8..10   c: 4..8      b and c are neighbours in pages, not in blocks:
//!                                            two extents
//! ```
//!
//! Layers: [`ExtentMap`] asks the proof (**I2**) and takes the lock; `extent/state.rs` does the work
//! and knows neither proofs nor locks; `space.rs` knows no pages. `extent/answers.rs` is what it says.

use core::fmt;
use core::ops::RangeBounds;
use core::panic::RefUnwindSafe;

pub use self::answers::{Extent, ExtentError};
use self::state::State;
use crate::block_map::BlockMap;
use crate::drained::Drained;
use crate::error::OpError;
use crate::range::{PageRange, RangeError};
use crate::sync::Mutex;

/// An in-memory block map: logical pages to blocks, and a free-space allocator over `N` blocks.
///
/// It is the embedded default: for tests, for small engines, and as an example of a
/// [`BlockMap`]. It holds numbers only, never contents: what block 7 is (a page of a file, a slot of
/// an arena) is the engine's affair.
///
/// - **Pages** are logical page indices, `0..u64::MAX`. The map has a length in pages, as a file
///   has; pages without a block are *holes*, and pages beyond the length are never mapped.
/// - **Blocks** are `0..N`. A block is free or belongs to exactly one page:
///   [`free_blocks`](Self::free_blocks) plus [`mapped_blocks`](Self::mapped_blocks) is always `N`.
/// - **Extents** are maximal: pages that are neighbours and whose blocks are neighbours in the same
///   order are one [`Extent`].
///
/// Blocks enter the mapping by [`allocate`](Self::allocate), which needs no proof: a hole has no
/// block that anybody could be using. They leave it only by the operations of
/// [`LayoutGuard`](crate::LayoutGuard) or [`Drained`], so never under a pin.
///
/// Look a page up *after* pinning it, and allocate under a pin too: without one, a collapse or an
/// insert may move the page in between, or a punch may free its block.
///
/// Every call either does all of its work or returns an error and changes nothing.
///
/// # Cost
///
/// Lookup and punch are O(log extents), plus O(log extents + log free ranges) for each extent that
/// a punch removes. Taking one run from the free space is O(log free ranges).
/// `collapse_range` and `insert_range` also take O(log extents) for every extent behind the range,
/// because its first page is its key. All of this happens under one lock.
///
/// # Examples
///
/// ```
/// use layout_lease::LayoutGuard;
/// use layout_lease::maps::ExtentMap;
///
/// let guard = LayoutGuard::new(ExtentMap::new(100));
/// let made = guard.map().allocate(0..8)?;
/// assert_eq!(made.len(), 1); // one contiguous extent
/// assert_eq!(guard.map().lookup(3), Some(made[0].block() + 3));
///
/// // Waits until nobody uses pages 2..4, then frees their blocks.
/// assert_eq!(guard.punch_hole(2..4).wait()?, 2);
/// assert_eq!(guard.map().lookup(3), None);
/// assert_eq!(guard.map().extents().len(), 2);
/// assert_eq!((guard.map().len(), guard.map().free_blocks()), (8, 94));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// *Which* blocks an operation frees can be read under the proof, before it frees them:
///
/// ```
/// use layout_lease::maps::ExtentMap;
/// use layout_lease::{LayoutGuard, PageRange};
///
/// let guard = LayoutGuard::new(ExtentMap::new(100));
/// guard.map().allocate(0..8)?;
///
/// let pages = PageRange::new(2, 4)?;
/// let proof = guard.break_layouts(pages).wait()?;
/// for extent in guard.map().extents_in(pages)? {
///     println!("discard blocks {:?}", extent.blocks());
/// }
/// proof.punch_hole(pages)?; // only now may the blocks be reused
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ExtentMap {
    state: Mutex<State>,
    blocks: u64,
}

// No code but its own runs under its lock, so nobody's panic leaves it half changed.
impl RefUnwindSafe for ExtentMap {}

impl ExtentMap {
    /// A map of length 0 over the blocks `0..blocks`, all of them free.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::maps::ExtentMap;
    /// let map = ExtentMap::new(10);
    /// assert_eq!((map.len(), map.free_blocks()), (0, 10));
    /// ```
    #[must_use]
    pub fn new(blocks: u64) -> Self {
        ExtentMap {
            state: Mutex::new(State::new(blocks)),
            blocks,
        }
    }

    /// Gives every hole in `pages` (half-open, in page indices) a block, and returns the extents
    /// that are new, in page order.
    ///
    /// Pages that have a block keep it. The length grows to cover `pages`. Each hole is filled as
    /// contiguously as the free space allows: first on from the block of the page before the hole,
    /// then from the smallest free range that holds the rest, then piece by piece from the largest
    /// free ranges. A returned extent may have become a part of a larger one in the map.
    ///
    /// The cost is O(log free ranges + log extents) for each new extent, plus O(extents in `pages`).
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::maps::{ExtentError, ExtentMap};
    ///
    /// let map = ExtentMap::new(10);
    /// map.allocate(0..4)?;
    /// let made = map.allocate(2..6)?; // 2..4 have blocks already
    /// assert_eq!((made[0].pages().start(), made[0].pages().end()), (4, 6));
    /// assert_eq!(map.extents().len(), 1); // and it continues the first one
    ///
    /// let full = map.allocate(100..105).unwrap_err();
    /// assert!(matches!(full, ExtentError::OutOfSpace { needed: 5, free: 4, .. }));
    /// assert_eq!((map.len(), map.free_blocks()), (6, 4)); // nothing changed
    /// # Ok::<(), ExtentError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ExtentError::OutOfSpace`] if there are more holes than free blocks, and
    /// [`ExtentError::Range`] for a wrong range. Either way nothing has changed.
    pub fn allocate(&self, pages: impl RangeBounds<u64>) -> Result<Vec<Extent>, ExtentError> {
        let pages = PageRange::from_bounds(pages)?;
        self.state.lock().allocate(pages)
    }

    /// The block behind `page`; `None` for a hole and beyond the length. O(log extents).
    ///
    /// It stays the answer for as long as you hold a pin on `page`, so pin first.
    ///
    /// # Examples
    ///
    /// ```
    /// # use layout_lease::maps::{ExtentError, ExtentMap};
    /// let map = ExtentMap::new(10);
    /// map.allocate(4..6)?;
    /// assert!(map.lookup(5).is_some());
    /// assert!(map.lookup(3).is_none() && map.lookup(6).is_none());
    /// # Ok::<(), ExtentError>(())
    /// ```
    #[must_use]
    pub fn lookup(&self, page: u64) -> Option<u64> {
        self.extent_of(page)?.block_of(page)
    }

    /// The whole extent that `page` belongs to; `None` for a hole. O(log extents).
    ///
    /// # Examples
    ///
    /// ```
    /// # use layout_lease::maps::{ExtentError, ExtentMap};
    /// let map = ExtentMap::new(10);
    /// let made = map.allocate(4..6)?;
    /// assert_eq!(map.extent_of(5), Some(made[0]));
    /// # Ok::<(), ExtentError>(())
    /// ```
    #[must_use]
    pub fn extent_of(&self, page: u64) -> Option<Extent> {
        self.state.lock().extent_of(page)
    }

    /// All extents in page order, as of now. O(extents).
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::maps::ExtentMap;
    /// let map = ExtentMap::new(10);
    /// map.allocate(0..2)?;
    /// map.allocate(5..7)?;
    /// let pages: Vec<_> = map.extents().iter().map(|e| e.pages().start()).collect();
    /// assert_eq!(pages, [0, 5]);
    /// # Ok::<(), layout_lease::maps::ExtentError>(())
    /// ```
    #[must_use]
    pub fn extents(&self) -> Vec<Extent> {
        self.state.lock().extents_in(PageRange::ALL).collect()
    }

    /// The extents in `pages` (half-open, in page indices), in page order, as of now.
    ///
    /// An extent that reaches out of `pages` is cut to the part inside. The cost is O(log extents),
    /// plus the extents returned.
    ///
    /// # Examples
    ///
    /// ```
    /// # use layout_lease::maps::{ExtentError, ExtentMap};
    /// let map = ExtentMap::new(10);
    /// map.allocate(0..6)?;
    /// let cut = map.extents_in(4..)?[0];
    /// assert_eq!((cut.pages().start(), cut.pages().end()), (4, 6));
    /// # Ok::<(), ExtentError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`RangeError`] for a wrong range: an empty one is not "no extents".
    pub fn extents_in(&self, pages: impl RangeBounds<u64>) -> Result<Vec<Extent>, RangeError> {
        let pages = PageRange::from_bounds(pages)?;
        Ok(self.state.lock().extents_in(pages).collect())
    }

    /// The length in pages: every mapped page lies before it.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::maps::ExtentMap;
    /// let map = ExtentMap::new(10);
    /// map.allocate(5..7)?;
    /// assert_eq!(map.len(), 7); // pages 0..5 are a hole
    /// # Ok::<(), layout_lease::maps::ExtentError>(())
    /// ```
    #[must_use]
    pub fn len(&self) -> u64 {
        self.state.lock().len
    }

    /// Whether the length is 0. (A length of only holes is not empty.)
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::maps::ExtentMap;
    /// let map = ExtentMap::new(10);
    /// assert!(map.is_empty());
    /// map.allocate(5..7)?;
    /// assert!(!map.is_empty());
    /// # Ok::<(), layout_lease::maps::ExtentError>(())
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `N`: the number of blocks there are, free and mapped.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::maps::ExtentMap;
    /// let map = ExtentMap::new(10);
    /// map.allocate(0..4)?;
    /// assert_eq!((map.blocks(), map.free_blocks(), map.mapped_blocks()), (10, 6, 4));
    /// # Ok::<(), layout_lease::maps::ExtentError>(())
    /// ```
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The number of blocks that no page has.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::maps::ExtentMap;
    /// let map = ExtentMap::new(10);
    /// map.allocate(0..4)?;
    /// assert_eq!((map.blocks(), map.free_blocks(), map.mapped_blocks()), (10, 6, 4));
    /// # Ok::<(), layout_lease::maps::ExtentError>(())
    /// ```
    #[must_use]
    pub fn free_blocks(&self) -> u64 {
        self.state.lock().space.free()
    }

    /// The number of blocks that some page has: [`blocks`](Self::blocks) less
    /// [`free_blocks`](Self::free_blocks).
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::maps::ExtentMap;
    /// let map = ExtentMap::new(10);
    /// map.allocate(0..4)?;
    /// assert_eq!((map.blocks(), map.free_blocks(), map.mapped_blocks()), (10, 6, 4));
    /// # Ok::<(), layout_lease::maps::ExtentError>(())
    /// ```
    #[must_use]
    pub fn mapped_blocks(&self) -> u64 {
        self.blocks - self.free_blocks()
    }

    /// Refuses a proof that is not of this map or does not cover `pages`; `None` is no page at all.
    fn admit(
        &self,
        proof: &Drained<'_, Self>,
        pages: Option<PageRange>,
    ) -> Result<(), OpError<ExtentError>> {
        if !proof.is_of(self) {
            Err(OpError::WrongMapping)
        } else if pages.is_some_and(|pages| !proof.covers(pages)) {
            Err(OpError::NotCovered)
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for ExtentMap {
    /// The counts. Does not wait for the lock: while it is taken, only [`blocks`](Self::blocks).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("ExtentMap");
        out.field("blocks", &self.blocks);
        let Some(state) = self.state.try_lock() else {
            return out.finish_non_exhaustive();
        };
        out.field("free", &state.space.free())
            .field("len", &state.len)
            .field("extents", &state.extents.len())
            .finish()
    }
}

/// Every operation asks the proof before it looks at anything else.
impl BlockMap for ExtentMap {
    type Error = ExtentError;

    /// Frees the blocks behind `pages`. The length stays; pages beyond it are holes anyway, so a
    /// punch may reach past the end.
    ///
    /// # Errors
    ///
    /// Those of the proof only.
    fn punch_hole(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<ExtentError>> {
        self.admit(proof, Some(pages))?;
        Ok(self.state.lock().punch_hole(pages))
    }

    /// Makes `pages` a hole, which reads as zeroes, and grows the length to cover `pages`.
    ///
    /// So this needs no spare block and cannot run out of space. But the next write to these pages
    /// has to allocate: unlike `FALLOC_FL_ZERO_RANGE`, this does not reserve space. An open range
    /// (`n..`) grows the length to `u64::MAX`.
    ///
    /// # Errors
    ///
    /// Those of the proof only.
    fn zero_range(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<ExtentError>> {
        self.admit(proof, Some(pages))?;
        Ok(self.state.lock().zero_range(pages))
    }

    /// Sets the length to `new_len` pages and frees the blocks of all pages beyond. When it grows, the new
    /// pages are a hole.
    ///
    /// The proof must cover `new_len..`. For a `new_len` of `u64::MAX` that is no page at all, and
    /// any proof of this map will do.
    ///
    /// # Errors
    ///
    /// Those of the proof only.
    fn truncate(
        &self,
        new_len: u64,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<ExtentError>> {
        self.admit(proof, from(new_len))?;
        Ok(self.state.lock().truncate(new_len))
    }

    /// Takes `pages` out and frees their blocks; the pages behind move down, and so does the length.
    ///
    /// The proof must cover `pages.start()..`.
    ///
    /// # Errors
    ///
    /// [`ExtentError::OutOfRange`] unless `pages` ends before the length, as on Linux: to cut the
    /// end off, truncate.
    fn collapse_range(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<ExtentError>> {
        self.admit(proof, from(pages.start()))?;
        let done = self.state.lock().collapse_range(pages);
        done.map_err(OpError::Map)
    }

    /// Makes `pages` a hole; what was at `pages.start()` and behind moves up, and so does the
    /// length. An extent that spans `pages.start()` is split. Frees nothing: the answer is 0.
    ///
    /// The proof must cover `pages.start()..`.
    ///
    /// # Errors
    ///
    /// [`ExtentError::OutOfRange`] unless `pages` starts before the length, as on Linux: to grow at
    /// the end, truncate. [`ExtentError::Overflow`] if the length would exceed `u64::MAX`.
    fn insert_range(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<ExtentError>> {
        self.admit(proof, from(pages.start()))?;
        let done = self.state.lock().insert_range(pages);
        done.map_err(OpError::Map)
    }
}

/// The pages `start..`; `None` if there are none.
fn from(start: u64) -> Option<PageRange> {
    PageRange::new(start, u64::MAX).ok()
}

mod answers;
mod state;
#[cfg(test)]
mod tests;
