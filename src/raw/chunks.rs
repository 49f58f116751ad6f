//! Very many closed ranges, of which one comes or goes at a time.
//!
//! Problem: with a hundred thousand retirements waiting for the log, a gate that lists everything anew at each
//! change spends milliseconds on one page. Idea: the ranges lie in *chunks*, in order, and a change replaces
//! one chunk by a changed copy. The gate's table lists the chunks, so that a reader searches twice.
//!
//! ```text
//!   gate's table ----> index | place, last end | place, last end | ...
//!                               |                 \---> range | range | ...
//!                               \---> range | range | range | ...
//! ```
//!
//! A chunk is never changed while a gate's word leads to it: readers who are on their way find all of the old
//! chunk, or see that the word has moved on ([`gate`](crate::raw::gate)). So a chunk that was replaced is kept
//! until the gate has been published; one that was made since then, nobody has been led to.

use crate::sync::Ordering::Relaxed;
use std::mem;

use crate::range::PageRange;
use crate::raw::spills::{Spill, overlaps};
use crate::sync::{MODEL, mutant};

/// Ranges of a chunk, at most.
const MOST: usize = if MODEL { 2 } else { 256 };

/// Ranges, apart from each other.
#[derive(Default)]
pub(super) struct Chunks {
    chunks: Vec<Chunk>,
    /// Chunks that were replaced. Readers may still be led to them.
    old: Vec<&'static Spill>,
    /// How often the gate has been published.
    published: u64,
    /// For the copies.
    scratch: Vec<PageRange>,
}

#[derive(Clone, Copy)]
struct Chunk {
    spill: &'static Spill,
    len: usize,
    /// The end of its last range.
    end: u64,
    /// How often the gate had been published when it was made: nobody is led to it before the next time.
    made: u64,
}

impl Chunk {
    /// A chunk of `ranges`, of which there are some.
    fn new(ranges: &[PageRange], made: u64) -> Self {
        let spill = Spill::take(ranges.len());
        for (pair, range) in spill.pairs().iter().zip(ranges) {
            pair.store(range.start(), range.end());
        }
        Self {
            spill,
            len: ranges.len(),
            end: ranges.last().map_or(0, PageRange::end),
            made,
        }
    }

    /// Under the lock under which they were stored.
    fn ranges(&self) -> impl Iterator<Item = PageRange> {
        let pairs = self.spill.pairs()[..self.len].iter();
        pairs.map(|pair| PageRange::reassembled(pair.start.load(Relaxed), pair.end.load(Relaxed)))
    }
}

impl Chunks {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// How many chunks there are.
    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }

    /// For the gate's table: where each chunk is, and the end of its last range.
    pub(super) fn index(&self) -> impl Iterator<Item = (u64, u64)> {
        let place = |chunk: &Chunk| (chunk.spill.place(chunk.len), chunk.end);
        self.chunks.iter().map(place)
    }

    pub(super) fn overlaps(&self, range: &PageRange) -> bool {
        let chunk = self.chunks.get(self.first_behind(range.start()));
        chunk.is_some_and(|c| overlaps(&c.spill.pairs()[..c.len], *range))
    }

    /// The first chunk with a range that ends behind `page`.
    fn first_behind(&self, page: u64) -> usize {
        self.chunks.partition_point(|chunk| chunk.end <= page)
    }

    /// Puts a range in, which overlaps none that is there.
    pub(super) fn insert(&mut self, range: PageRange) {
        // Behind all others: that is the last chunk's.
        let at = self.first_behind(range.start());
        let at = at.min(self.chunks.len().saturating_sub(1));
        self.change(at, |ranges| {
            let place = ranges.partition_point(|r| r.end() <= range.start());
            ranges.insert(place, range);
        });
    }

    /// Takes a range out.
    pub(super) fn remove(&mut self, range: &PageRange) {
        let at = self.first_behind(range.start());
        self.change(at, |ranges| ranges.retain(|r| r != range));
    }

    /// Replaces chunk `at`, which may not be there yet, by a copy that `change` has changed.
    fn change(&mut self, mut at: usize, change: impl FnOnce(&mut Vec<PageRange>)) {
        let mut ranges = mem::take(&mut self.scratch);
        if at < self.chunks.len() {
            self.take_out(at, &mut ranges, 0);
        }
        let before = ranges.len();
        change(&mut ranges);
        // What has become short joins its neighbours, so that chunks do not outnumber their ranges.
        let fits = |len: usize, chunk: Option<&Chunk>| {
            (1..before).contains(&len) && chunk.is_some_and(|chunk| len + chunk.len <= MOST / 2)
        };
        if fits(ranges.len(), self.chunks.get(at)) {
            let end = ranges.len();
            self.take_out(at, &mut ranges, end);
        }
        if at > 0 && fits(ranges.len(), self.chunks.get(at - 1)) {
            at -= 1;
            self.take_out(at, &mut ranges, 0);
        }
        // Ascending ranges fill chunks to the end: then nothing is left behind half empty.
        let cut = match ranges.len() {
            0..=MOST => ranges.len(),
            len if at == self.chunks.len() => len - 1,
            len => len / 2,
        };
        let (first, second) = ranges.split_at(cut);
        let parts = [first, second].into_iter().filter(|part| !part.is_empty());
        let made = self.published;
        let new = parts.map(|part| Chunk::new(part, made));
        self.chunks.splice(at..at, new);
        ranges.clear();
        self.scratch = ranges;
    }

    /// Takes chunk `at` out, and puts its ranges into `ranges` at `place`.
    fn take_out(&mut self, at: usize, ranges: &mut Vec<PageRange>, place: usize) {
        let chunk = self.chunks.remove(at);
        ranges.splice(place..place, chunk.ranges());
        // Very many may be changed between two publications.
        let unheard_of = chunk.made == self.published;
        if unheard_of || mutant!("chunk_given_back_early") {
            return chunk.spill.give_back();
        }
        self.old.push(chunk.spill);
    }

    /// The gate has been published: nobody who is led to a chunk that was replaced believes what it says.
    pub(super) fn published(&mut self) {
        self.published += 1;
        self.old.drain(..).for_each(Spill::give_back);
    }
}

impl Drop for Chunks {
    /// The gate is shut, or nobody asks it any more.
    fn drop(&mut self) {
        let chunks = self.chunks.drain(..).map(|chunk| chunk.spill);
        chunks.chain(self.old.drain(..)).for_each(Spill::give_back);
    }
}

#[cfg(all(test, not(any(lease_loom, lease_shuttle))))]
mod tests {
    use rand::rngs::SmallRng;
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};

    use super::*;

    impl Chunks {
        /// In order, apart, no chunk empty or too long, no table in use twice.
        fn check(&self, expected: usize) {
            let all: Vec<_> = self.chunks.iter().flat_map(Chunk::ranges).collect();
            assert!(all.windows(2).all(|two| two[0].end() <= two[1].start()));
            assert_eq!(all.len(), expected);
            for chunk in &self.chunks {
                assert!((1..=MOST).contains(&chunk.len));
                assert_eq!(chunk.ranges().last().map(|r| r.end()), Some(chunk.end));
            }
            let used = self.chunks.iter().map(|chunk| chunk.spill.place(0));
            let mut used: Vec<u64> = used.chain(self.old.iter().map(|s| s.place(0))).collect();
            let all = used.len();
            used.sort_unstable();
            used.dedup();
            assert_eq!(used.len(), all, "a table is used twice");
        }
    }

    fn one(page: u64) -> PageRange {
        PageRange::new(3 * page, 3 * page + 2).unwrap()
    }

    /// Two of each three pages, put in and taken out in any order; each page asked for.
    #[test]
    fn finds_what_is_there_and_nothing_else() {
        for (seed, order) in [(1, "up"), (2, "down"), (3, "any"), (4, "any")] {
            const ALL: u64 = 3_000;
            let mut random = SmallRng::seed_from_u64(seed);
            let mut pages: Vec<u64> = (0..ALL).collect();
            match order {
                "up" => {}
                "down" => pages.reverse(),
                _ => pages.shuffle(&mut random),
            }
            let (mut chunks, mut there) = (Chunks::default(), vec![false; ALL as usize]);
            let look = |chunks: &Chunks, there: &[bool], page: u64| {
                let range = PageRange::new(page, page + 1).unwrap();
                let expected = page % 3 < 2 && there[page as usize / 3];
                assert_eq!(chunks.overlaps(&range), expected, "page {page}");
            };
            for coming in [true, false] {
                for (n, &page) in pages.iter().enumerate() {
                    match coming {
                        true => chunks.insert(one(page)),
                        false => chunks.remove(&one(page)),
                    }
                    there[page as usize] = coming;
                    look(&chunks, &there, 3 * page);
                    look(&chunks, &there, random.random_range(0..3 * ALL));
                    if n % 100 == 0 {
                        (0..3 * ALL).for_each(|page| look(&chunks, &there, page));
                        let left = there.iter().filter(|there| **there).count();
                        chunks.check(left);
                        assert!(chunks.len() <= 2 + 4 * left / MOST + ALL as usize / MOST);
                        chunks.published();
                    }
                }
                let full = 3 * ALL as usize / MOST;
                assert!(chunks.len() <= if coming { full } else { 0 });
                pages.shuffle(&mut random);
            }
            chunks.published();
            assert!(chunks.old.is_empty() && chunks.is_empty());
        }
    }

    /// Pins that were let go one after the other, each with a retirement behind it, took a table each, until the
    /// gate was published again: nothing of the kind happens in between.
    #[test]
    fn keeps_what_readers_may_be_led_to_and_no_more() {
        let mut chunks = Chunks::default();
        (0..10).for_each(|page| chunks.insert(one(2 * page)));
        chunks.published();
        let led_to = chunks.chunks[0].spill.place(0);
        for page in 0..10 {
            chunks.insert(one(2 * page + 1));
            let old: Vec<u64> = chunks.old.iter().map(|spill| spill.place(0)).collect();
            assert_eq!(old, [led_to]);
            chunks.check(11 + page as usize);
        }
        chunks.published();
        assert!(chunks.old.is_empty());
    }
}
