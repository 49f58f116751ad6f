//! The gate of one mapping: which pages are closed, readable without a lock.
//!
//! Problem: a pin must learn from one load that nothing is closed, and while something is closed, pins
//! of other pages, also of pages between two closed ranges, must still pass without a lock (I12). Idea:
//! one word that is 0 exactly when nothing is closed, and otherwise names the one of two tables that
//! lists the closed ranges; breakers fill the idle table and then switch the word.
//!
//! | word | meaning | who pins or unpins |
//! | --- | --- | --- |
//! | 0 | open | needs no fence: breakers execute the [barrier](crate::raw::barrier) for it |
//! | `FENCED` | open | must have a fence before this look |
//! | version, table 0 or 1 | the ranges in that table are closed | looks the range up |
//! | version, table 0 or 1, `FENCED` | the same | must have a fence before this look |
//! | version, `FINAL` | everything is closed for good | is refused, or may be the last |
//!
//! So the test of the mode is free: it is the test whether anything is closed. And it comes after the
//! slot's store, never before, and does not depend on which pages are closed.
//!
//! ```text
//!   word ----> table 0 | len, spill | index | range | range |     spill -> range | range | range | ...
//!       \ - -> table 1 | len, spill | index | range | range |     index -> chunk | chunk | ...
//! ```
//!
//! The version never repeats, so a reader that sees the same word before and after reading a table has
//! read that word's ranges and no others. A table holds two ranges in place; more go to a
//! [spill table](crate::raw::spills), which comes from a process-wide pool and goes back there when the crowd
//! is over. What is retired and waits for the log may be much more, and is listed in
//! [chunks](crate::raw::chunks), which are not copied when something else changes; the two lists may overlap.
//!
//! # Orderings
//!
//! - The word is stored with Release and loaded with Acquire by pinners: what happened under a proof
//!   happens before the reopening, which happens before the grant of any pin that finds its pages open
//!   (I7).
//! - Entries of a table are stored with Release and loaded with Acquire: a reader that meets an entry of
//!   a later filling has synchronised with its writer, which had moved the word away from this table
//!   before; so the second look at the word sees the move, and the reader starts again.

use crate::range::PageRange;
use crate::raw::chunks::Chunks;
use crate::raw::spills::{self, Pair, Spill};
use crate::sync::Ordering::Relaxed;
use crate::sync::{AtomicU64, MODEL, load_own, mutant, order};

const FINAL: u64 = 1;
const TABLE: u64 = 2;
const FENCED: u64 = 4;
const VERSION_SHIFT: u32 = 3;

/// Ranges that a table holds in place.
const IN_PLACE: usize = if MODEL { 1 } else { 2 };

/// One gate: 88 bytes.
#[repr(C)]
pub(crate) struct Gate {
    word: AtomicU64,
    tables: [Table; 2],
}

/// Closed ranges, in order and apart from each other; and chunks of such.
struct Table {
    /// How many ranges, and `INDEXED` if there are chunks; and, in the upper half, the number of the spill table
    /// that the ranges are in, 0 for none.
    shape: AtomicU64,
    /// Ranges. If there are chunks, the first of them says where their index is, instead.
    in_place: [Pair; IN_PLACE],
}

/// In a shape: there are chunks.
const INDEXED: u64 = 1 << 31;

/// What one look at the gate said.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look(u64);

impl Look {
    /// Nothing is closed, and nobody needs a fence.
    #[inline(always)]
    pub(crate) fn is_open(self) -> bool {
        self.0 == 0
    }

    /// Nothing is closed; the look counts if there was a fence before it.
    #[inline(always)]
    pub(crate) fn is_open_to_fenced(self) -> bool {
        self.0 & !FENCED == 0
    }

    /// The look counts only if there was a fence before it.
    #[inline(always)]
    pub(crate) fn is_fenced(self) -> bool {
        self.0 & FENCED != 0
    }
}

impl Gate {
    pub(crate) fn new(fenced: bool) -> Self {
        Self {
            word: AtomicU64::new(if fenced { FENCED } else { 0 }),
            tables: [Table::new(), Table::new()],
        }
    }

    #[inline(always)]
    pub(crate) fn look(&self) -> Look {
        // Pairs with the Release stores in `publish` and `shut`: what happened under a proof happens
        // before the pin that finds its pages open again (I7).
        Look(self.word.load(order!(Acquire, "look_relaxed")))
    }

    /// Whether everything is closed for good.
    pub(crate) fn is_final(&self) -> bool {
        self.word.load(Relaxed) & FINAL != 0
    }

    /// Whether anything is closed.
    pub(crate) fn is_closed(&self) -> bool {
        // A hint: whoever acts on it takes the lock.
        self.word.load(Relaxed) & !FENCED != 0
    }

    /// Whether some page of `range` is closed. Takes no lock; a reader only starts again when a breaker
    /// has got something done meanwhile.
    pub(crate) fn overlaps(&self, range: PageRange) -> bool {
        // Pairs like the load in `look`.
        let mut word = self.word.load(order!(Acquire, "overlaps_relaxed"));
        loop {
            if word & !FENCED == 0 {
                return false;
            }
            if word & FINAL != 0 {
                return true;
            }
            let hit = self.tables[usize::from(word & TABLE != 0)].overlaps(range);
            // Relaxed would not do: `hit` counts only if the word was this one all the time, and if it
            // was not, this is the next first look.
            let again = self.word.load(order!(Acquire, "overlaps_again_relaxed"));
            if again == word || mutant!("overlaps_once") {
                return hit;
            }
            word = again;
        }
    }

    /// Closes exactly `ranges` (in order and apart) and those of `chunks`, and says whether pinners need a fence.
    /// Under the record's lock; `version` must be new.
    #[inline]
    pub(super) fn publish(
        &self,
        version: u64,
        ranges: &[PageRange],
        chunks: Option<&Chunks>,
        fenced: bool,
    ) {
        let word = load_own!(self.word, Relaxed);
        if word & FINAL != 0 {
            return;
        }
        let mode = if fenced { FENCED } else { 0 };
        let chunks = chunks.filter(|chunks| !chunks.is_empty());
        if ranges.is_empty() && chunks.is_none() {
            if word != mode {
                self.say_open(mode);
                // The word names neither table now.
                self.tables.iter().for_each(Table::give_back);
            }
            return;
        }
        // The table that the word does not name. Nobody who reads it will believe what it says.
        let idle = if word & !FENCED == 0 {
            0
        } else if mutant!("table_in_use") {
            word & TABLE
        } else {
            !word & TABLE
        };
        let version = if mutant!("version_repeats") {
            1
        } else {
            version
        };
        let closed = version << VERSION_SHIFT | mode | idle;
        if mutant!("word_before_table") {
            self.say_closed(closed);
        }
        self.tables[usize::from(idle != 0)].fill(ranges, chunks);
        self.say_closed(closed);
    }

    /// Says that pinners need no fence any more: what is closed stays so, in the same table under a new version.
    /// Under the record's lock; by a pinner, so it takes no other, and no longer where more is closed (I12).
    pub(super) fn lighten(&self, version: u64) {
        let word = self.word.load(Relaxed);
        if word & FENCED == 0 {
            return;
        }
        match word & !FENCED {
            0 => self.say_open(0),
            _ => self.say_closed(version << VERSION_SHIFT | word & TABLE),
        }
    }

    #[inline(always)]
    fn say_open(&self, mode: u64) {
        // Pairs with the Acquire loads in `look` and `overlaps` (I7).
        self.word.store(mode, order!(Release, "opened_relaxed"));
    }

    #[inline(always)]
    fn say_closed(&self, word: u64) {
        // Pairs with the Acquire loads in `look` and `overlaps`: who sees the word sees the table.
        self.word.store(word, order!(Release, "closed_relaxed"));
    }

    /// [`publish`](Self::publish), where nothing is closed any more and the gate is [short](Self::is_short).
    #[inline]
    pub(super) fn open(&self, fenced: bool) {
        if self.word.load(Relaxed) & FINAL == 0 {
            self.say_open(if fenced { FENCED } else { 0 });
        }
    }

    /// Whether opening it takes no lock: it has no spill tables to be given back.
    #[inline]
    pub(super) fn is_short(&self) -> bool {
        let [one, other] = &self.tables;
        let shapes = one.shape.load(Relaxed) | other.shape.load(Relaxed);
        shapes & !(INDEXED - 1) == 0
    }

    /// Closes everything for good. Under the record's lock.
    pub(crate) fn shut(&self, version: u64) {
        // Orders nothing: nobody concludes from it that pages are his, and whoever is perhaps the last
        // takes the lock.
        self.word.store(version << VERSION_SHIFT | FINAL, Relaxed);
    }

    /// Opens a shut gate for the next guard that uses the record. Nobody else is there.
    pub(crate) fn reset(&self, fenced: bool) {
        // Orders nothing: the guard is handed on by other means, and whoever unpins late finds the gate
        // shut or open, and nobody who waits for him.
        self.word.store(if fenced { FENCED } else { 0 }, Relaxed);
        self.tables.iter().for_each(Table::give_back);
    }
}

impl Table {
    fn new() -> Self {
        Self {
            shape: AtomicU64::new(0),
            in_place: std::array::from_fn(|_| Pair::new()),
        }
    }

    #[inline]
    fn fill(&self, ranges: &[PageRange], chunks: Option<&Chunks>) {
        let (places, indexed) = match chunks {
            None => {
                if self.index().is_some() {
                    self.give_back_spills();
                }
                (&self.in_place[..], 0)
            }
            Some(chunks) => {
                self.fill_index(chunks);
                (&self.in_place[1..], INDEXED)
            }
        };
        let held = load_own!(self.shape, Relaxed);
        let shape = if ranges.len() <= places.len() {
            give_back(held);
            store(places, ranges);
            ranges.len() as u64
        } else {
            let spill = spill_for(held, ranges.len());
            store(spill.pairs(), ranges);
            spill.place(ranges.len())
        };
        // Pairs, like all that is in a table, with the Acquire loads in `overlaps`.
        self.shape
            .store(shape | indexed, order!(Release, "shape_relaxed"));
    }

    #[cold]
    fn fill_index(&self, chunks: &Chunks) {
        let spill = spill_for(self.index().unwrap_or(0), chunks.len());
        for (pair, (place, end)) in spill.pairs().iter().zip(chunks.index()) {
            pair.store(place, end);
        }
        let place = spill.place(chunks.len());
        self.in_place[0]
            .start
            .store(place, order!(Release, "index_relaxed"));
    }

    /// Where the index is, for the one who fills the table.
    fn index(&self) -> Option<u64> {
        let indexed = load_own!(self.shape, Relaxed) & INDEXED != 0;
        indexed.then(|| load_own!(self.in_place[0].start, Relaxed))
    }

    /// What is read here may be half of one filling and half of another; then `Gate::overlaps` throws the
    /// answer away. It must only not be out of bounds.
    #[inline]
    fn overlaps(&self, range: PageRange) -> bool {
        // Pairs with the Release stores in `fill` and `give_back`: who misses a spill table, because it
        // has been given back, sees that the word has moved away from this table.
        let shape = self.shape.load(order!(Acquire, "shape_seen_relaxed"));
        if shape & !(INDEXED - 1) != 0 {
            return self.long_overlaps(shape, range);
        }
        any_overlaps(&self.in_place[..(shape as usize).min(IN_PLACE)], range)
    }

    #[inline(never)]
    fn long_overlaps(&self, shape: u64, range: PageRange) -> bool {
        let indexed = shape & INDEXED != 0;
        let shape = shape & !INDEXED;
        let few = match shape >> 32 {
            // In place, behind the place of the index.
            0 => any_overlaps(&self.in_place[1..(shape as usize + 1).min(IN_PLACE)], range),
            _ => spills::overlaps(spills::pairs(shape), range),
        };
        few || indexed && self.chunks_overlap(range)
    }

    fn chunks_overlap(&self, range: PageRange) -> bool {
        let place = &self.in_place[0].start;
        let index = spills::pairs(place.load(order!(Acquire, "index_seen_relaxed")));
        // The first chunk that has a range which ends behind our start has the only one that can be in the way.
        let chunk = spills::first_behind(index, range.start());
        chunk.is_some_and(|chunk| {
            let place = chunk.start.load(order!(Acquire, "chunk_seen_relaxed"));
            spills::overlaps(spills::pairs(place), range)
        })
    }

    /// Empties the table, and lets others have its spill tables.
    #[inline]
    fn give_back(&self) {
        if load_own!(self.shape, Relaxed) & !(INDEXED - 1) != 0 {
            self.give_back_spills();
        }
    }

    #[cold]
    fn give_back_spills(&self) {
        let (shape, index) = (load_own!(self.shape, Relaxed), self.index());
        self.shape.store(0, order!(Release, "emptied_relaxed"));
        give_back(shape);
        give_back(index.unwrap_or(0));
    }
}

fn store(pairs: &[Pair], ranges: &[PageRange]) {
    for (pair, range) in pairs.iter().zip(ranges) {
        pair.store(range.start(), range.end());
    }
}

#[inline(always)]
fn any_overlaps(pairs: &[Pair], range: PageRange) -> bool {
    pairs.iter().any(|pair| {
        pair.start.load(order!(Acquire, "entry_start_seen_relaxed")) < range.end()
            && range.start() < pair.end.load(order!(Acquire, "entry_end_seen_relaxed"))
    })
}

/// A spill table for `len` ranges: the one at `place`, or another.
fn spill_for(place: u64, len: usize) -> &'static Spill {
    match spills::at(place) {
        Some(held) if held.pairs().len() >= len => held,
        held => {
            held.into_iter().for_each(Spill::give_back);
            Spill::take(len)
        }
    }
}

/// Lets others have the spill table at `place`, if there is one.
#[inline]
fn give_back(place: u64) {
    if let Some(spill) = spills::at(place) {
        spill.give_back();
    }
}

#[cfg(all(test, not(any(lease_loom, lease_shuttle))))]
mod tests {
    use super::*;

    fn pages(len: u64) -> Vec<PageRange> {
        let one = |n| PageRange::reassembled(2 * n, 2 * n + 1);
        (0..len).map(one).collect()
    }

    /// Whichever version it has: nobody takes a part of that for a mode, and opens it.
    #[test]
    fn a_gate_that_is_shut_stays_so() {
        let gate = Gate::new(true);
        for version in (1..64).chain((6..50).map(|n| (1 << n) - 1)) {
            gate.shut(version);
            gate.lighten(version + 1);
            assert!(
                gate.is_final() && gate.overlaps(PageRange::ALL),
                "{version}"
            );
        }
    }

    /// A long table is given back when its gate's table is filled anew with less, and when the gate opens: else a
    /// mapping that closes many ranges again and again would take more memory each time.
    #[test]
    fn long_tables_are_used_again() {
        // Of these sizes nobody else in this process has any.
        let (many, most) = (pages(3_000), pages(5_000));
        let gate = Gate::new(false);
        for version in 1..40 {
            match version % 4 {
                0 => gate.publish(version, &[], None, false),
                1 => gate.publish(version, &many, None, false),
                2 => gate.publish(version, &most, None, false),
                _ => gate.publish(version, &many[..1], None, false),
            }
            assert_eq!(gate.is_closed(), version % 4 != 0);
        }
        gate.shut(40);
        gate.reset(false);
        let other = Gate::new(false);
        other.publish(1, &most, None, false);
        other.publish(2, &most, None, false);
        let made = [4_096, 8_192].map(spills::made_with_room);
        assert!(made.iter().all(|n| (1..=2).contains(n)), "{made:?}");
    }

    /// The same for the list of chunks, which has a table of its own beside that of the other ranges; and for the
    /// chunks, when they are replaced and when nobody wants them any more.
    #[test]
    fn long_lists_of_chunks_are_used_again() {
        for _ in 0..2 {
            let mut chunks = Chunks::default();
            let mut more = 0;
            while chunks.len() <= 256 {
                chunks.insert(PageRange::reassembled(2 * more, 2 * more + 1));
                chunks.published();
                more += 1;
            }
            let gate = Gate::new(false);
            for version in 1..40 {
                match version % 4 {
                    0 => gate.publish(version, &[], None, false),
                    1 => gate.publish(version, &pages(1), None, false),
                    _ => gate.publish(version, &[], Some(&chunks), false),
                }
            }
            gate.reset(false);
        }
        let made = [256, 512].map(spills::made_with_room);
        // Of the long ones nobody else has any, of the short ones only few.
        assert!((257..400).contains(&made[0]) && made[1] <= 2, "{made:?}");
    }

    /// A table that is too short for more ranges is exchanged for a longer one.
    #[test]
    fn a_long_table_that_is_too_short_is_exchanged() {
        let (few, more) = (pages(20), pages(700));
        let gate = Gate::new(false);
        (1..=2).for_each(|version| gate.publish(version, &few, None, false));
        (3..=4).for_each(|version| gate.publish(version, &more, None, false));
        assert!(more.iter().all(|range| gate.overlaps(*range)));
        // Nor is one behind the end of a filling there from the one before.
        (5..=6).for_each(|version| gate.publish(version, &few, None, false));
        assert!(few.iter().all(|range| gate.overlaps(*range)) && !gate.overlaps(more[20]));
    }

    /// Where a table once had a range in place, a long one without chunks does not look for the list of such.
    #[test]
    fn a_long_table_without_chunks_has_no_list_of_them() {
        let [list, chunk] = [600, 600].map(Spill::take);
        list.pairs()[0].store(chunk.place(1), 1_000);
        chunk.pairs()[0].store(100, 101);
        let gate = Gate::new(false);
        // Two tables take turns.
        let lies = PageRange::reassembled(list.place(1), list.place(1) + 1);
        (1..=2).for_each(|version| gate.publish(version, &[lies], None, false));
        let far: Vec<_> = pages(50)
            .iter()
            .map(|p| PageRange::reassembled(p.start() + 5_000, p.end() + 5_000))
            .collect();
        (3..=4).for_each(|version| gate.publish(version, &far, None, false));
        assert!(gate.overlaps(far[0]) && !gate.overlaps(PageRange::reassembled(100, 101)));
    }
}
