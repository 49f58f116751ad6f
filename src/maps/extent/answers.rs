//! What an [`ExtentMap`](super::ExtentMap) answers: extents, and why not.

use core::ops::Range;

use thiserror::Error;

use crate::range::{PageRange, RangeError};

/// Pages that are neighbours, and whose blocks are neighbours in the same order.
///
/// A value: it says what was so when the [`ExtentMap`](super::ExtentMap) was asked.
///
/// # Examples
///
/// ```
/// use layout_lease::maps::ExtentMap;
/// let map = ExtentMap::new(10);
/// let extent = map.allocate(4..7)?[0];
/// assert_eq!((extent.pages().len(), extent.block_of(5)), (3, Some(extent.block() + 1)));
/// # Ok::<(), layout_lease::maps::ExtentError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    // INVARIANT: block + pages.len() does not overflow.
    pub(super) pages: PageRange,
    pub(super) block: u64,
}

impl Extent {
    /// The pages, half-open.
    ///
    /// # Examples
    ///
    /// See [`Extent`].
    #[must_use]
    pub fn pages(&self) -> PageRange {
        self.pages
    }

    /// The block behind the first page.
    ///
    /// # Examples
    ///
    /// See [`Extent`].
    #[must_use]
    pub fn block(&self) -> u64 {
        self.block
    }

    /// The blocks, half-open; as many as there are pages.
    ///
    /// # Examples
    ///
    /// ```
    /// # use layout_lease::maps::{ExtentError, ExtentMap};
    /// let extent = ExtentMap::new(10).allocate(70..73)?[0];
    /// assert_eq!(extent.blocks(), 0..3);
    /// # Ok::<(), ExtentError>(())
    /// ```
    #[must_use]
    pub fn blocks(&self) -> Range<u64> {
        self.block..self.block + self.pages.len()
    }

    /// The block behind `page`; `None` if the page is not in this extent.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::maps::ExtentMap;
    /// let map = ExtentMap::new(10);
    /// let extent = map.allocate(4..7)?[0];
    /// assert_eq!((extent.block_of(4), extent.block_of(7)), (Some(extent.block()), None));
    /// # Ok::<(), layout_lease::maps::ExtentError>(())
    /// ```
    #[must_use]
    pub fn block_of(&self, page: u64) -> Option<u64> {
        let at = self.pages.contains(page);
        at.then(|| self.block + (page - self.pages.start()))
    }
}

/// Why an [`ExtentMap`](super::ExtentMap) refused. Whatever the reason, nothing has changed.
///
/// # Examples
///
/// See [`ExtentMap::allocate`](super::ExtentMap::allocate).
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ExtentError {
    /// There are not enough free blocks for all the holes.
    #[error("out of space: {needed} block(s) needed, {free} free")]
    OutOfSpace {
        /// How many blocks were needed.
        needed: u64,
        /// How many were free.
        free: u64,
    },
    /// The range does not lie where the operation needs it: a collapse must end before the length,
    /// an insert must start before it.
    #[error("pages {pages} lie at or beyond the end: the length is {len} page(s)")]
    OutOfRange {
        /// The range that was given.
        pages: PageRange,
        /// The length at the time, in pages.
        len: u64,
    },
    /// The length would exceed `u64::MAX` pages.
    #[error("no room to insert {count} page(s): the length is {len} of u64::MAX")]
    Overflow {
        /// How many pages were to be inserted.
        count: u64,
        /// The length at the time, in pages.
        len: u64,
    },
    /// The range itself is wrong.
    #[error(transparent)]
    Range(#[from] RangeError),
}
