//! Free space: which blocks nobody has.
//!
//! The same free ranges are kept twice: by start, to find the neighbours when blocks come back, and
//! by size, to find the best fit. Taking and giving back a run are O(log free ranges).

use core::ops::Range;
use std::collections::{BTreeMap, BTreeSet};

/// The free blocks of a device of at most `u64::MAX` blocks.
///
/// # Invariants
///
/// - `by_start` and `by_size` hold the same ranges; none is empty.
/// - No two ranges overlap or touch: neighbours are merged.
/// - `free` is the sum of the lengths.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FreeSpace {
    /// First block -> number of blocks.
    by_start: BTreeMap<u64, u64>,
    /// (number of blocks, first block).
    by_size: BTreeSet<(u64, u64)>,
    free: u64,
}

impl FreeSpace {
    /// The blocks `0..blocks`, all of them free.
    pub(super) fn new(blocks: u64) -> Self {
        let mut space = FreeSpace {
            by_start: BTreeMap::new(),
            by_size: BTreeSet::new(),
            free: 0,
        };
        space.give(0..blocks);
        space
    }

    /// The number of free blocks.
    pub(super) fn free(&self) -> u64 {
        self.free
    }

    /// Takes one run of at least one and at most `want` blocks, the longest that can be had.
    ///
    /// In this order: the blocks from `goal` on, should they be free, even if they are too few; the
    /// smallest free range that holds the whole of `want`, the lowest of these; the largest one.
    ///
    /// `None` if `want` is 0 or nothing is free.
    pub(super) fn take(&mut self, want: u64, goal: Option<u64>) -> Option<Range<u64>> {
        if want == 0 {
            return None;
        }
        let (start, len) = self
            .starting_at(goal)
            .or_else(|| self.best_fit(want))
            .or_else(|| self.largest())?;
        let got = len.min(want);
        self.unlink(start, len);
        self.link(start + got, len - got);
        self.free -= got;
        Some(start..start + got)
    }

    /// Takes `blocks` back and merges them with what is free on either side.
    pub(super) fn give(&mut self, blocks: Range<u64>) {
        let Range { mut start, mut end } = blocks;
        self.free += end - start;
        if let Some((&left, &len)) = self.by_start.range(..start).next_back() {
            debug_assert!(left + len <= start, "block {start} is free already");
            if left + len == start {
                self.unlink(left, len);
                start = left;
            }
        }
        if let Some((&right, &len)) = self.by_start.range(start..).next() {
            debug_assert!(end <= right, "block {right} is free already");
            if end == right {
                self.unlink(right, len);
                end = right + len;
            }
        }
        self.link(start, end - start);
    }

    /// The free range that starts at `goal`. The goal lies behind a mapped block, so that no free
    /// range can contain it and start earlier.
    fn starting_at(&self, goal: Option<u64>) -> Option<(u64, u64)> {
        let (&start, &len) = self.by_start.get_key_value(&goal?)?;
        Some((start, len))
    }

    fn best_fit(&self, want: u64) -> Option<(u64, u64)> {
        let &(len, start) = self.by_size.range((want, 0)..).next()?;
        Some((start, len))
    }

    /// The largest free range, the lowest of these.
    fn largest(&self) -> Option<(u64, u64)> {
        let &(len, _) = self.by_size.last()?;
        self.best_fit(len)
    }

    fn link(&mut self, start: u64, len: u64) {
        if len > 0 {
            self.by_start.insert(start, len);
            self.by_size.insert((len, start));
        }
    }

    fn unlink(&mut self, start: u64, len: u64) {
        self.by_start.remove(&start);
        self.by_size.remove(&(len, start));
    }

    /// The free ranges in block order; panics if an invariant is broken.
    #[cfg(test)]
    pub(super) fn check(&self) -> Vec<Range<u64>> {
        let ranges: Vec<_> = self.by_start.iter().map(|(&s, &n)| s..s + n).collect();
        assert!(ranges.iter().all(|r| !r.is_empty()), "empty free range");
        for pair in ranges.windows(2) {
            assert!(pair[0].end < pair[1].start, "not merged: {pair:?}");
        }
        let by_size: BTreeSet<_> = self.by_start.iter().map(|(&s, &n)| (n, s)).collect();
        assert_eq!(by_size, self.by_size, "the two indices differ");
        let sum: u64 = ranges.iter().map(|r| r.end - r.start).sum();
        assert_eq!(sum, self.free, "free blocks are miscounted");
        ranges
    }
}

#[cfg(test)]
#[expect(
    clippy::single_range_in_vec_init,
    reason = "a list of one free range is what is meant"
)]
mod tests {
    use super::*;

    /// 0..100, of which only the given ranges are free.
    fn only(free: &[Range<u64>]) -> FreeSpace {
        let mut space = FreeSpace::new(100);
        assert_eq!(space.take(100, None), Some(0..100));
        for range in free {
            space.give(range.clone());
        }
        assert_eq!(space.check(), free);
        space
    }

    #[test]
    fn neighbours_merge_on_either_side_and_on_both() {
        let mut space = only(&[10..20, 30..40]);
        space.give(40..45);
        assert_eq!(space.check(), [10..20, 30..45]);
        space.give(5..10);
        assert_eq!(space.check(), [5..20, 30..45]);
        space.give(20..30);
        assert_eq!(space.check(), [5..45]);
        assert_eq!(space.free(), 40);
    }

    #[test]
    fn the_goal_goes_before_the_best_fit_even_if_it_is_short() {
        let mut space = only(&[10..12, 30..34, 50..90]);
        assert_eq!(space.take(4, Some(50)), Some(50..54));
        assert_eq!(space.take(4, Some(10)), Some(10..12));
        assert_eq!(space.take(4, Some(12)), Some(30..34), "no free goal");
        assert_eq!(space.check(), [54..90]);
    }

    #[test]
    fn the_smallest_range_that_holds_everything_wins_then_the_lowest() {
        let mut space = only(&[0..50, 60..64, 70..75, 80..84]);
        assert_eq!(space.take(4, None), Some(60..64));
        assert_eq!(space.take(4, None), Some(80..84));
        assert_eq!(space.take(4, None), Some(70..74));
        assert_eq!(space.check(), [0..50, 74..75]);
    }

    #[test]
    fn pieces_come_largest_first_then_lowest_first() {
        let mut space = only(&[0..2, 10..15, 20..25, 30..33]);
        assert_eq!(space.take(12, None), Some(10..15));
        assert_eq!(space.take(7, None), Some(20..25));
        assert_eq!(space.take(2, None), Some(0..2));
        assert_eq!(space.check(), [30..33]);
    }

    #[test]
    fn nothing_wanted_or_nothing_free_is_none() {
        let mut space = only(&[3..4]);
        assert_eq!(space.take(0, Some(3)), None);
        assert_eq!(space.take(9, None), Some(3..4));
        assert_eq!(space.take(1, None), None);
        assert_eq!(space.check(), []);
        assert_eq!(FreeSpace::new(0).take(1, None), None);
    }

    #[test]
    fn the_largest_device_does_not_overflow() {
        let mut space = FreeSpace::new(u64::MAX);
        assert_eq!(space.take(u64::MAX, None), Some(0..u64::MAX));
        space.give(0..u64::MAX);
        assert_eq!(space.take(u64::MAX - 1, None), Some(0..u64::MAX - 1));
        assert_eq!(space.check(), [u64::MAX - 1..u64::MAX]);
        space.give(0..u64::MAX - 1);
        assert_eq!(space.check(), [0..u64::MAX]);
    }
}
