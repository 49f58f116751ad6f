//! The free map: which pages are free, and the pool's [`BlockMap`].
//!
//! A page of the record region is free or belongs to exactly one extent. Pages become used by
//! [`Space::allocate`]. They become free again in one place only: [`BlockMap::punch_hole`] below,
//! which runs under a proof that nobody reads them. The file gets shorter in one place only:
//! [`BlockMap::truncate`] below.
//!
//! | state of a page | goes to | by |
//! | --- | --- | --- |
//! | behind the end of the file | free | growing, under the lock |
//! | free | used | `allocate`: lowest fit |
//! | used | free | `punch_hole`, under a proof |
//! | free, last in the file | set aside | `set_tail_aside`: nobody can allocate it any more |
//! | set aside | behind the end | `truncate`, under a proof |
//! | set aside | free | `put_tail_back`, if the truncation failed |
//!
//! The tail is set aside *before* the range is closed. So no record is ever published in a range
//! that is closing, and a reader that is refused a pin knows that its look-up is out of date.

use std::collections::BTreeMap;
use std::io;

use layout_lease::{BlockMap, Drained, OpError, PageRange};
use parking_lot::{Condvar, Mutex};
use thiserror::Error;

use super::format::Geometry;
use super::mapping::Mapped;

/// The file grows by at least this many pages (1 MiB), while the capacity lasts.
const STEP: u64 = 256;

/// A pool: the mapped file and its free map. What the store's `LayoutGuard` guards.
pub(crate) type Pool = Mapped<Space>;

/// What the free map refuses.
#[derive(Debug, Error)]
pub(crate) enum SpaceError {
    #[error(
        "the pool is full: {needed} pages are needed in one piece, {free} are free, the largest piece \
         has {largest} (of {capacity} pages altogether)"
    )]
    Full {
        needed: u64,
        free: u64,
        largest: u64,
        capacity: u64,
    },
    #[error("pages {pages} are not all in use, so they cannot be freed")]
    NotUsed { pages: PageRange },
    #[error("the file cannot be cut off at page {at}: a page behind it is in use")]
    TailUsed { at: u64 },
    #[error("the file cannot have {pages} pages: expected {first} to {capacity}")]
    Length {
        pages: u64,
        first: u64,
        capacity: u64,
    },
    #[error("the pool file")]
    Io(#[from] io::Error),
}

/// The numbers that `stat` shows, in pages of the record region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Pages of the whole file.
    pub(crate) file: u64,
    pub(crate) used: u64,
    pub(crate) free: u64,
    /// The largest piece that could be allocated without growing.
    pub(crate) largest: u64,
}

/// The free map.
#[derive(Debug)]
pub(crate) struct Space {
    geometry: Geometry,
    inner: Mutex<Inner>,
    /// The truncation is over.
    tail_settled: Condvar,
}

#[derive(Debug)]
struct Inner {
    /// Pages of the file.
    end: u64,
    /// First page to number of pages. Pieces neither overlap nor touch.
    free: BTreeMap<u64, u64>,
    /// Pages from here on are set aside for a truncation.
    aside: Option<u64>,
}

impl Space {
    /// The free map of a file with `end` pages in which nothing is used yet.
    pub(crate) fn new(geometry: Geometry, end: u64) -> Space {
        let first = geometry.first();
        let free = (first < end).then(|| (first, end - first));
        Space {
            geometry,
            inner: Mutex::new(Inner {
                end,
                free: free.into_iter().collect(),
                aside: None,
            }),
            tail_settled: Condvar::new(),
        }
    }

    /// Takes `extent` out of the free map, when the pool is opened. `false`: part of it is used.
    pub(crate) fn claim(&self, extent: PageRange) -> bool {
        self.inner.lock().take(extent)
    }

    /// Takes what is free of `extent` out of the free map.
    pub(crate) fn claim_the_rest(&self, extent: PageRange) {
        let mut inner = self.inner.lock();
        while let Some((&start, &len)) = inner.free.range(..extent.end()).next_back() {
            let piece = PageRange::new(start, start + len).ok();
            match piece.and_then(|piece| piece.intersection(&extent)) {
                Some(part) => inner.take(part),
                None => break,
            };
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        let inner = self.inner.lock();
        let free = inner.free.values().sum();
        let behind = inner.aside.unwrap_or(inner.end);
        Usage {
            file: inner.end,
            used: behind - self.geometry.first() - free,
            free,
            largest: inner.free.values().copied().max().unwrap_or(0),
        }
    }

    /// Whether no page of `extent` is free.
    #[cfg(test)]
    pub(crate) fn is_used(&self, extent: PageRange) -> bool {
        self.inner.lock().all_used(extent)
    }

    /// The first free piece and the page behind it, if there is one.
    pub(crate) fn first_gap(&self) -> Option<PageRange> {
        let inner = self.inner.lock();
        let (&start, &len) = inner.free.first_key_value()?;
        PageRange::new(start, start + len).ok()
    }

    fn full(&self, inner: &Inner, needed: u64) -> SpaceError {
        SpaceError::Full {
            needed,
            free: inner.free.values().sum::<u64>() + (self.geometry.capacity - inner.end),
            largest: inner.free.values().copied().max().unwrap_or(0),
            capacity: self.geometry.capacity,
        }
    }
}

impl Inner {
    /// The lowest free piece of `pages` pages that ends at or before `below`.
    fn lowest_fit(&self, pages: u64, below: u64) -> Option<PageRange> {
        self.free
            .iter()
            .take_while(|(start, _)| *start + pages <= below)
            .find(|(_, len)| **len >= pages)
            .and_then(|(start, _)| PageRange::new(*start, start + pages).ok())
    }

    /// Takes `extent` out of the free pieces; `false` if it is not wholly free.
    fn take(&mut self, extent: PageRange) -> bool {
        let Some((&start, &len)) = self.free.range(..=extent.start()).next_back() else {
            return false;
        };
        let end = start + len;
        if end < extent.end() {
            return false;
        }
        self.free.remove(&start);
        if start < extent.start() {
            self.free.insert(start, extent.start() - start);
        }
        if extent.end() < end {
            self.free.insert(extent.end(), end - extent.end());
        }
        true
    }

    /// Whether no page of `extent` is free and all of them are in the file.
    fn all_used(&self, extent: PageRange) -> bool {
        let before = self.free.range(..extent.end()).next_back();
        before.is_none_or(|(start, len)| start + len <= extent.start())
            && extent.end() <= self.aside.unwrap_or(self.end)
    }

    /// Adds `extent` to the free pieces, which it does not overlap, and merges it with its neighbours.
    fn give(&mut self, extent: PageRange) {
        let (mut start, mut end) = (extent.start(), extent.end());
        if let Some(len) = self.free.remove(&end) {
            end += len;
        }
        if let Some((&before, &len)) = self.free.range(..start).next_back() {
            if before + len == start {
                start = before;
            }
        }
        self.free.insert(start, end - start);
    }

    /// Where the free piece at the end of the file starts; the end itself if the last page is used.
    fn tail(&self) -> u64 {
        match self.free.last_key_value() {
            Some((&start, &len)) if start + len == self.end => start,
            _ => self.end,
        }
    }
}

impl Pool {
    /// Takes the lowest `pages` free pages in one piece, growing the file when there are none.
    ///
    /// Waits only for a truncation that is under way, when the file has to grow.
    pub(crate) fn allocate(&self, pages: u64) -> Result<PageRange, SpaceError> {
        let space = self.engine();
        let mut inner = space.inner.lock();
        loop {
            if let Some(extent) = inner.lowest_fit(pages, u64::MAX) {
                inner.take(extent);
                return Ok(extent);
            }
            if inner.aside.is_some() {
                space.tail_settled.wait(&mut inner);
                continue;
            }
            let needed = inner.tail() + pages;
            if needed > space.geometry.capacity {
                return Err(space.full(&inner, pages));
            }
            let (old, new) = (
                inner.end,
                needed.max(inner.end + STEP).min(space.geometry.capacity),
            );
            self.grow(new)?;
            inner.end = new;
            inner.give(PageRange::new(old, new).map_err(io::Error::other)?);
        }
    }

    /// Takes the lowest `pages` free pages in one piece that end at or before `below`, if there are.
    pub(crate) fn allocate_below(&self, pages: u64, below: u64) -> Option<PageRange> {
        let mut inner = self.engine().inner.lock();
        let extent = inner.lowest_fit(pages, below)?;
        inner.take(extent).then_some(extent)
    }

    /// Sets the free pages at the end of the file aside, so that they can be cut off: from here on
    /// nobody gets them. The page from which on, or `None` if the last page of the file is used.
    pub(crate) fn set_tail_aside(&self) -> Option<u64> {
        let mut inner = self.engine().inner.lock();
        let at = inner.tail();
        if at == inner.end || inner.aside.is_some() || !self.shrinks() {
            return None;
        }
        inner.free.remove(&at);
        inner.aside = Some(at);
        Some(at)
    }

    /// Gives back what [`set_tail_aside`](Self::set_tail_aside) took, unless it has been cut off.
    pub(crate) fn put_tail_back(&self) {
        let mut inner = self.engine().inner.lock();
        if let Some(at) = inner.aside.take() {
            if let Ok(tail) = PageRange::new(at, inner.end) {
                inner.give(tail);
            }
        }
        self.engine().tail_settled.notify_all();
    }
}

/// Asks the proof before anything is freed.
fn evidence(
    pool: &Pool,
    pages: PageRange,
    proof: &Drained<'_, Pool>,
) -> Result<(), OpError<SpaceError>> {
    if !proof.is_of(pool) {
        return Err(OpError::WrongMapping);
    }
    if !proof.covers(pages) {
        return Err(OpError::NotCovered);
    }
    Ok(())
}

impl BlockMap for Pool {
    type Error = SpaceError;

    /// Makes used pages free, and gives their blocks back to the file system.
    ///
    /// A file system that cannot punch holes, or fails to, changes nothing about the pages being free:
    /// they are used again by the next record. Only `du` does not go down.
    fn punch_hole(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<SpaceError>> {
        evidence(self, pages, proof)?;
        if !self.engine().inner.lock().all_used(pages) {
            return Err(OpError::Map(SpaceError::NotUsed { pages }));
        }
        // First the hole, then the free map: the other way round, the hole could be punched into the
        // next owner's record. The pages stay used in between, since the proof is for us alone.
        self.punch(proof, pages)
            .map_err(|e| OpError::Map(e.into()))?;
        self.engine().inner.lock().give(pages);
        Ok(pages.len())
    }

    /// Sets the length of the file to `new_len` pages. Nothing in use is ever cut off.
    fn truncate(
        &self,
        new_len: u64,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<SpaceError>> {
        let map = |e: SpaceError| OpError::Map(e);
        let behind = PageRange::from_bounds(new_len..).map_err(|e| OpError::Break(e.into()))?;
        evidence(self, behind, proof)?;
        let space = self.engine();
        let mut inner = space.inner.lock();
        let (first, capacity) = (space.geometry.first(), space.geometry.capacity);
        if new_len < first || new_len > capacity {
            return Err(map(SpaceError::Length {
                pages: new_len,
                first,
                capacity,
            }));
        }
        let old = inner.end;
        let used = || map(SpaceError::TailUsed { at: new_len });
        if inner.aside.is_some_and(|at| at != new_len) {
            return Err(used());
        }
        if old <= new_len {
            self.grow(new_len).map_err(|e| map(e.into()))?;
            inner.end = new_len;
            if let Ok(more) = PageRange::new(old, new_len) {
                inner.give(more);
            }
            return Ok(0);
        }
        let cut = PageRange::new(new_len, old).map_err(|e| OpError::Break(e.into()))?;
        if inner.aside.is_none() && !inner.take(cut) {
            return Err(used());
        }
        inner.aside = Some(new_len);
        if let Err(e) = self.shrink(proof, new_len) {
            drop(inner);
            self.put_tail_back();
            return Err(map(e.into()));
        }
        inner.end = new_len;
        inner.aside = None;
        space.tail_settled.notify_all();
        Ok(old - new_len)
    }
}
