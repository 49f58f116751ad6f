//! What the lock of an `ExtentMap` protects, and the work: plain functions that know neither proofs
//! nor locks.
//!
//! Each one that can fail checks everything first, and only then changes something.

use std::collections::BTreeMap;

use super::{Extent, ExtentError, from};
use crate::maps::space::FreeSpace;
use crate::range::PageRange;

/// What the lock protects.
///
/// # Invariants
///
/// - No two extents overlap, in pages or in blocks; none is empty; none touches the next one in
///   both pages and blocks (then they would be one).
/// - Every mapped page lies before `len`.
/// - A block is in `space` or in exactly one extent.
///
/// The last one is why nothing here can overflow: pages end at `len`, blocks at their number.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    /// By first page.
    pub(super) extents: BTreeMap<u64, Run>,
    pub(super) space: FreeSpace,
    pub(super) len: u64,
}

/// The blocks `block..block + len`, behind as many pages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run {
    pub(super) len: u64,
    pub(super) block: u64,
}

impl State {
    pub(super) fn new(blocks: u64) -> Self {
        State {
            extents: BTreeMap::new(),
            space: FreeSpace::new(blocks),
            len: 0,
        }
    }

    pub(super) fn extent_of(&self, page: u64) -> Option<Extent> {
        let (&start, run) = self.extents.range(..=page).next_back()?;
        let extent = run.within(start, PageRange::ALL)?;
        extent.pages.contains(page).then_some(extent)
    }

    /// The extents in `pages` in order, cut to the part inside.
    pub(super) fn extents_in(&self, pages: PageRange) -> impl Iterator<Item = Extent> + '_ {
        // The extent before `pages` may reach into it; if not, `within` drops it.
        let before = self.extents.range(..pages.start()).next_back();
        let inside = self.extents.range(pages);
        let both = before.into_iter().chain(inside);
        both.filter_map(move |(&start, run)| run.within(start, pages))
    }

    fn holes_in(&self, pages: PageRange) -> Vec<PageRange> {
        let mut holes = Vec::new();
        let mut at = pages.start();
        for extent in self.extents_in(pages) {
            holes.extend(PageRange::new(at, extent.pages.start()));
            at = extent.pages.end();
        }
        holes.extend(PageRange::new(at, pages.end()));
        holes
    }

    pub(super) fn allocate(&mut self, pages: PageRange) -> Result<Vec<Extent>, ExtentError> {
        let holes = self.holes_in(pages);
        let (needed, free) = (holes.iter().map(PageRange::len).sum(), self.space.free());
        if needed > free {
            return Err(ExtentError::OutOfSpace { needed, free });
        }
        let mut made = Vec::with_capacity(holes.len());
        for hole in holes {
            let mut at = hole.start();
            // Ends when the hole is full: enough blocks are free, as was just checked.
            while let Some(got) = self.space.take(hole.end() - at, self.goal(at)) {
                let run = Run {
                    len: got.end - got.start,
                    block: got.start,
                };
                made.extend(run.within(at, hole));
                self.link(at, run);
                at += run.len;
            }
            debug_assert_eq!(at, hole.end(), "the free blocks are miscounted");
        }
        self.len = self.len.max(pages.end());
        Ok(made)
    }

    /// The block that would continue the extent which ends right before `page`.
    fn goal(&self, page: u64) -> Option<u64> {
        let last = page.checked_sub(1)?;
        Some(self.extent_of(last)?.blocks().end)
    }

    pub(super) fn punch_hole(&mut self, pages: PageRange) -> u64 {
        // Splits what reaches out on either side, so that whole extents remain to be removed.
        // INVARIANT: the halves touch, but one of the two goes.
        self.split(pages.start());
        self.split(pages.end());
        let mut freed = 0;
        while let Some((&start, &run)) = self.extents.range(pages).next() {
            self.extents.remove(&start);
            self.space.give(run.block..run.block + run.len);
            freed += run.len;
        }
        freed
    }

    pub(super) fn zero_range(&mut self, pages: PageRange) -> u64 {
        self.len = self.len.max(pages.end());
        self.punch_hole(pages)
    }

    pub(super) fn truncate(&mut self, new_len: u64) -> u64 {
        self.len = new_len;
        from(new_len).map_or(0, |tail| self.punch_hole(tail))
    }

    pub(super) fn collapse_range(&mut self, pages: PageRange) -> Result<u64, ExtentError> {
        let len = self.len;
        if pages.end() >= len {
            return Err(ExtentError::OutOfRange { pages, len });
        }
        let freed = self.punch_hole(pages);
        let by = pages.len();
        let behind = self.extents.split_off(&pages.end());
        let mut moved = behind.into_iter().map(|(start, run)| (start - by, run));
        // INVARIANT: only the first can touch what was before `pages`.
        if let Some((start, run)) = moved.next() {
            self.link(start, run);
        }
        self.extents.extend(moved);
        self.len = len - by;
        Ok(freed)
    }

    pub(super) fn insert_range(&mut self, pages: PageRange) -> Result<u64, ExtentError> {
        let (len, count) = (self.len, pages.len());
        if pages.start() >= len {
            return Err(ExtentError::OutOfRange { pages, len });
        }
        let Some(new_len) = len.checked_add(count) else {
            return Err(ExtentError::Overflow { count, len });
        };
        // INVARIANT: the halves touch, but the hole will be between them.
        self.split(pages.start());
        let behind = self.extents.split_off(&pages.start());
        let moved = behind.into_iter().map(|(start, run)| (start + count, run));
        self.extents.extend(moved);
        self.len = new_len;
        Ok(0)
    }

    /// Cuts the extent that spans `page` in two, so that one starts there.
    fn split(&mut self, page: u64) {
        let Some((&start, run)) = self.extents.range_mut(..page).next_back() else {
            return;
        };
        let head = page - start;
        if head < run.len {
            let tail = Run {
                len: run.len - head,
                block: run.block + head,
            };
            run.len = head;
            self.extents.insert(page, tail);
        }
    }

    /// Puts `run` behind the pages from `start` on, which are a hole, and merges it with the extents
    /// it continues or that continue it.
    pub(super) fn link(&mut self, mut start: u64, mut run: Run) {
        let behind = start + run.len;
        if let Some(&right) = self.extents.get(&behind) {
            if run.block + run.len == right.block {
                self.extents.remove(&behind);
                run.len += right.len;
            }
        }
        if let Some((&before, left)) = self.extents.range(..start).next_back() {
            if before + left.len == start && left.block + left.len == run.block {
                run = Run {
                    len: left.len + run.len,
                    block: left.block,
                };
                start = before;
            }
        }
        self.extents.insert(start, run);
    }

    /// Panics if an invariant is broken.
    #[cfg(test)]
    pub(super) fn check(&self, blocks: u64) {
        let mut owned = self.space.check();
        let extents: Vec<_> = self.extents.iter().collect();
        for (_, run) in &extents {
            assert!(run.len > 0, "empty extent");
            owned.push(run.block..run.block + run.len);
        }
        for pair in extents.windows(2) {
            let ((&a, left), (&b, right)) = (pair[0], pair[1]);
            assert!(a + left.len <= b, "pages overlap: {pair:?}");
            let touch = a + left.len == b && left.block + left.len == right.block;
            assert!(!touch, "not merged: {pair:?}");
        }
        if let Some((start, run)) = extents.last() {
            assert!(*start + run.len <= self.len, "mapped beyond the length");
        }
        // Every block once: sorted, the runs follow each other from 0 to the last block.
        owned.sort_by_key(|run| run.start);
        let end = owned.iter().fold(0, |at, run| {
            assert_eq!(at, run.start, "a block is lost or has two owners");
            run.end
        });
        assert_eq!(end, blocks, "blocks are lost at the end");
    }
}

impl Run {
    /// The part of this run, were it to start at page `start`, that is within `pages`.
    fn within(&self, start: u64, pages: PageRange) -> Option<Extent> {
        let whole = PageRange::new(start, start + self.len).ok()?;
        let pages = whole.intersection(&pages)?;
        Some(Extent {
            pages,
            block: self.block + (pages.start() - start),
        })
    }
}
