//! Page ranges: the one unit in which everything here is said.

use core::fmt;
use core::ops::{Bound, Range, RangeBounds};

use thiserror::Error;

/// A half-open range of page indices that is never empty.
///
/// The unit is the *page index*, not the byte: page `n` covers the bytes
/// `n * page_size .. (n + 1) * page_size` of the mapping, and what `page_size` is, is the engine's
/// affair. Bytes are converted with [`covering_bytes`](Self::covering_bytes) (outward) and
/// [`within_bytes`](Self::within_bytes) (inward).
///
/// There is no empty `PageRange`: in a truncate path an empty range has too often been taken for
/// "to the end", so here it is a typed error when the range is made (promise **I10**).
///
/// # Examples
///
/// ```
/// use layout_lease::PageRange;
///
/// let r = PageRange::new(4, 8)?;
/// assert_eq!((r.start(), r.end(), r.len()), (4, 8, 4));
/// assert!(r.contains(7) && !r.contains(8));
/// assert_eq!(r, PageRange::from_bounds(4..=7)?);
/// assert!(PageRange::new(4, 4).is_err());
/// # Ok::<(), layout_lease::RangeError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRange {
    // INVARIANT: start < end.
    start: u64,
    end: u64,
}

impl PageRange {
    /// Every page there can be: `0..u64::MAX`.
    ///
    /// The page `u64::MAX` itself is not addressable, since no half-open `u64` range could name it.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::PageRange;
    /// assert_eq!(PageRange::from_bounds(..)?, PageRange::ALL);
    /// # Ok::<(), layout_lease::RangeError>(())
    /// ```
    pub const ALL: PageRange = PageRange {
        start: 0,
        end: u64::MAX,
    };

    /// The pages `start..end`.
    ///
    /// # Errors
    ///
    /// [`RangeError::Empty`] if `start == end`, [`RangeError::Inverted`] if `start > end`.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{PageRange, RangeError};
    /// assert!(PageRange::new(0, 1).is_ok());
    /// assert!(matches!(PageRange::new(5, 5), Err(RangeError::Empty { at: 5, .. })));
    /// assert!(matches!(PageRange::new(5, 4), Err(RangeError::Inverted { .. })));
    /// ```
    #[inline]
    pub const fn new(start: u64, end: u64) -> Result<PageRange, RangeError> {
        if start < end {
            Ok(PageRange { start, end })
        } else {
            Err(Self::refuse(start, end))
        }
    }

    #[cold]
    const fn refuse(start: u64, end: u64) -> RangeError {
        if start == end {
            RangeError::Empty { at: start }
        } else {
            RangeError::Inverted { start, end }
        }
    }

    /// The pages named by any range expression over page indices; `..` is [`PageRange::ALL`].
    ///
    /// # Errors
    ///
    /// [`RangeError::Empty`] and [`RangeError::Inverted`] as in [`PageRange::new`], and
    /// [`RangeError::Unaddressable`] if the range names the page `u64::MAX`.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{PageRange, RangeError};
    /// assert_eq!(PageRange::from_bounds(..)?, PageRange::ALL);
    /// assert_eq!(PageRange::from_bounds(3..)?, PageRange::new(3, u64::MAX)?);
    /// assert_eq!(PageRange::from_bounds(..=3)?, PageRange::new(0, 4)?);
    /// assert!(matches!(PageRange::from_bounds(0..=u64::MAX), Err(RangeError::Unaddressable)));
    /// # Ok::<(), RangeError>(())
    /// ```
    #[inline]
    pub fn from_bounds(bounds: impl RangeBounds<u64>) -> Result<PageRange, RangeError> {
        let start = match bounds.start_bound() {
            Bound::Included(&s) => s,
            Bound::Excluded(&s) => s.checked_add(1).ok_or(RangeError::Unaddressable)?,
            Bound::Unbounded => 0,
        };
        let end = match bounds.end_bound() {
            Bound::Included(&e) => e.checked_add(1).ok_or(RangeError::Unaddressable)?,
            Bound::Excluded(&e) => e,
            Bound::Unbounded if start == u64::MAX => return Err(RangeError::Unaddressable),
            Bound::Unbounded => u64::MAX,
        };
        PageRange::new(start, end)
    }

    /// The smallest range of pages that covers every byte of `bytes` (rounded outward).
    ///
    /// This is the range to *pin* before touching those bytes.
    ///
    /// # Errors
    ///
    /// [`RangeError::PageSize`] unless `page_size` is a power of two, else as [`PageRange::new`].
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::PageRange;
    /// assert_eq!(PageRange::covering_bytes(4095..4097, 4096)?, PageRange::new(0, 2)?);
    /// # Ok::<(), layout_lease::RangeError>(())
    /// ```
    pub fn covering_bytes(bytes: Range<u64>, page_size: u64) -> Result<PageRange, RangeError> {
        let shift = Self::shift(page_size)?;
        let bytes = PageRange::new(bytes.start, bytes.end)?;
        PageRange::new(bytes.start >> shift, ((bytes.end - 1) >> shift) + 1)
    }

    /// The largest range of pages that lies wholly within `bytes` (rounded inward), or `None` if
    /// there is no whole page in it.
    ///
    /// This is the range to *free* when those bytes go: the partial pages at either end still hold
    /// somebody else's bytes.
    ///
    /// # Errors
    ///
    /// [`RangeError::PageSize`] unless `page_size` is a power of two, else as [`PageRange::new`].
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::PageRange;
    /// assert_eq!(PageRange::within_bytes(1..8192, 4096)?, Some(PageRange::new(1, 2)?));
    /// assert_eq!(PageRange::within_bytes(1..8191, 4096)?, None);
    /// # Ok::<(), layout_lease::RangeError>(())
    /// ```
    pub fn within_bytes(
        bytes: Range<u64>,
        page_size: u64,
    ) -> Result<Option<PageRange>, RangeError> {
        let shift = Self::shift(page_size)?;
        let bytes = PageRange::new(bytes.start, bytes.end)?;
        // Rounds up without overflow: a partial page counts as one more.
        let partial = u64::from(bytes.start & (page_size - 1) != 0);
        let start = (bytes.start >> shift) + partial;
        Ok(PageRange::new(start, bytes.end >> shift).ok())
    }

    fn shift(page_size: u64) -> Result<u32, RangeError> {
        if page_size.is_power_of_two() {
            Ok(page_size.trailing_zeros())
        } else {
            Err(RangeError::PageSize { page_size })
        }
    }

    /// The first page.
    ///
    /// # Examples
    ///
    /// See [`PageRange`].
    #[inline]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// The page behind the last.
    ///
    /// # Examples
    ///
    /// See [`PageRange`].
    #[inline]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// The number of pages; never 0.
    ///
    /// # Examples
    ///
    /// See [`PageRange`].
    #[inline]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a PageRange is never empty: is_empty would be a constant"
    )]
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether `page` is one of the pages.
    ///
    /// # Examples
    ///
    /// See [`PageRange`].
    #[inline]
    pub const fn contains(&self, page: u64) -> bool {
        self.start <= page && page < self.end
    }

    /// Whether the two ranges share a page.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::PageRange;
    /// let r = PageRange::new(4, 8)?;
    /// assert!(r.overlaps(&PageRange::new(7, 9)?));
    /// assert!(!r.overlaps(&PageRange::new(8, 9)?));
    /// # Ok::<(), layout_lease::RangeError>(())
    /// ```
    #[inline]
    pub const fn overlaps(&self, other: &PageRange) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The pages that both ranges share, if any.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::PageRange;
    /// let r = PageRange::new(4, 8)?;
    /// assert_eq!(r.intersection(&PageRange::new(6, 12)?), Some(PageRange::new(6, 8)?));
    /// assert_eq!(r.intersection(&PageRange::new(8, 12)?), None);
    /// # Ok::<(), layout_lease::RangeError>(())
    /// ```
    pub fn intersection(&self, other: &PageRange) -> Option<PageRange> {
        PageRange::new(self.start.max(other.start), self.end.min(other.end)).ok()
    }

    /// The range that was taken apart into `start` and `end`.
    #[inline(always)]
    pub(crate) const fn reassembled(start: u64, end: u64) -> PageRange {
        debug_assert!(start < end);
        PageRange { start, end }
    }

    /// Whether every page of `other` is one of this range's.
    pub(crate) const fn covers(&self, other: &PageRange) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

/// Why a range of pages or bytes was refused.
///
/// An empty or inverted range is never taken for "everything" or "nothing" (promise **I10**).
///
/// # Examples
///
/// ```
/// use layout_lease::{PageRange, RangeError};
/// let error = PageRange::new(5, 4).unwrap_err();
/// assert!(matches!(error, RangeError::Inverted { start: 5, end: 4, .. }));
/// assert_eq!(error.to_string(), "inverted range 5..4: the start must lie before the end");
/// ```
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RangeError {
    /// The range has no pages (or bytes) at all.
    #[error("empty range at {at}: a range needs at least one page")]
    Empty {
        /// Where it starts and ends.
        at: u64,
    },
    /// The range ends before it starts.
    #[error("inverted range {start}..{end}: the start must lie before the end")]
    Inverted {
        /// The start that was given.
        start: u64,
        /// The end that was given.
        end: u64,
    },
    /// The range names the page `u64::MAX`, which is not addressable.
    #[error("page u64::MAX is not addressable: the last page is u64::MAX - 1")]
    Unaddressable,
    /// The pages lie outside of what is held.
    #[error("pages {start}..{end} are not all held: only a part of a lease can be kept")]
    Outside {
        /// The start that was given.
        start: u64,
        /// The end that was given.
        end: u64,
    },
    /// The page size is not a power of two.
    #[error("page size {page_size} is not a power of two")]
    PageSize {
        /// The size that was given, in bytes.
        page_size: u64,
    },
}

impl RangeBounds<u64> for PageRange {
    #[inline]
    fn start_bound(&self) -> Bound<&u64> {
        Bound::Included(&self.start)
    }

    #[inline]
    fn end_bound(&self) -> Bound<&u64> {
        Bound::Excluded(&self.end)
    }
}

impl RangeBounds<u64> for &PageRange {
    #[inline]
    fn start_bound(&self) -> Bound<&u64> {
        Bound::Included(&self.start)
    }

    #[inline]
    fn end_bound(&self) -> Bound<&u64> {
        Bound::Excluded(&self.end)
    }
}

impl Ord for PageRange {
    /// By first page, then by the page behind the last.
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (self.start, self.end).cmp(&(other.start, other.end))
    }
}

impl PartialOrd for PageRange {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            u64::MAX => write!(f, "{}..", self.start),
            end => write!(f, "{}..{}", self.start, end),
        }
    }
}
