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
//!   word ----> table 0 | len, spill | range | range |     spill -> range | range | range | ...
//!       \ - -> table 1 | len, spill | range | range |
//! ```
//!
//! The version never repeats, so a reader that sees the same word before and after reading a table has
//! read that word's ranges and no others. A table holds two ranges in place; more go to a spill table,
//! which comes from a process-wide pool and goes back there when the crowd is over.
//!
//! # Orderings
//!
//! - The word is stored with Release and loaded with Acquire by pinners: what happened under a proof
//!   happens before the reopening, which happens before the grant of any pin that finds its pages open
//!   (I7).
//! - Entries of a table are stored with Release and loaded with Acquire: a reader that meets an entry of
//!   a later filling has synchronised with its writer, which had moved the word away from this table
//!   before; so the second look at the word sees the move, and the reader starts again.

use std::sync::OnceLock;

use crate::range::PageRange;
use crate::raw::arena::Arena;
use crate::sync::Ordering::{self, Acquire, Relaxed, Release};
use crate::sync::{AtomicU64, MODEL, Mutex, process_static};

const FINAL: u64 = 1;
const TABLE: u64 = 2;
const FENCED: u64 = 4;
const VERSION_SHIFT: u32 = 3;

/// Ranges that a table holds in place.
const IN_PLACE: usize = if MODEL { 1 } else { 2 };

const WORD_STORED: Ordering = if cfg!(lease_mutant = "gate_store_relaxed") {
    Relaxed
} else {
    Release
};
const WORD_SEEN: Ordering = if cfg!(lease_mutant = "gate_load_relaxed") {
    Relaxed
} else {
    Acquire
};
const ENTRY_STORED: Ordering = if cfg!(lease_mutant = "table_store_relaxed") {
    Relaxed
} else {
    Release
};
const ENTRY_SEEN: Ordering = if cfg!(lease_mutant = "table_load_relaxed") {
    Relaxed
} else {
    Acquire
};

/// One gate: 88 bytes.
#[repr(C)]
pub(crate) struct Gate {
    word: AtomicU64,
    tables: [Table; 2],
}

#[repr(C)]
struct Pair {
    start: AtomicU64,
    end: AtomicU64,
}

/// Closed ranges, in order and apart from each other.
struct Table {
    /// How many; and, in the upper half, the number of the spill table that they are in, 0 for none.
    shape: AtomicU64,
    in_place: [Pair; IN_PLACE],
}

/// A longer table. Never freed: it goes from gate to gate.
struct Spill {
    /// As many as its first user needed. Made once, and never empty then.
    pairs: OnceLock<Box<[Pair]>>,
    number: usize,
}

impl Spill {
    fn pairs(&self) -> &[Pair] {
        self.pairs.get().map_or(&[], |pairs| pairs)
    }
}

type Spills = Arena<Spill, { if MODEL { 1 } else { 8 } }>;

process_static! {
    /// Every spill table there is.
    static SPILLS: Spills = Arena::new();
}

process_static! {
    /// Spill tables that no gate uses.
    static IDLE: Mutex<Vec<&'static Spill>> = Mutex::new(Vec::new());
}

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
        Look(self.word.load(WORD_SEEN))
    }

    /// Whether everything is closed for good.
    pub(crate) fn is_final(&self) -> bool {
        self.word.load(WORD_SEEN) & FINAL != 0
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
        let mut word = self.word.load(WORD_SEEN);
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
            let again = self.word.load(WORD_SEEN);
            if again == word {
                return hit;
            }
            word = again;
        }
    }

    /// Closes exactly `ranges` (in order and apart), and says whether pinners need a fence. Under the
    /// record's lock; `version` must be new.
    #[inline]
    pub(crate) fn publish(&self, version: u64, ranges: &[PageRange], fenced: bool) {
        let word = self.word.load(Relaxed);
        if word & FINAL != 0 {
            return;
        }
        let mode = if fenced { FENCED } else { 0 };
        if ranges.is_empty() {
            if word != mode {
                // Pairs with the Acquire loads in `look` and `overlaps` (I7).
                self.word.store(mode, WORD_STORED);
                // The word names neither table now.
                self.tables.iter().for_each(Table::give_back);
            }
            return;
        }
        // The table that the word does not name. Nobody who reads it will believe what it says.
        let idle = if word & !FENCED == 0 {
            0
        } else {
            !word & TABLE
        };
        self.tables[usize::from(idle != 0)].fill(ranges);
        // Pairs with the Acquire loads in `look` and `overlaps`: who sees the word sees the table.
        self.word
            .store(version << VERSION_SHIFT | mode | idle, WORD_STORED);
    }

    /// Closes everything for good. Under the record's lock.
    pub(crate) fn shut(&self, version: u64) {
        self.word
            .store(version << VERSION_SHIFT | FINAL, WORD_STORED);
    }

    /// Opens a shut gate for the next guard that uses the record. Nobody else is there.
    pub(crate) fn reset(&self, fenced: bool) {
        self.word
            .store(if fenced { FENCED } else { 0 }, WORD_STORED);
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
    fn fill(&self, ranges: &[PageRange]) {
        let (pairs, number) = if ranges.len() <= IN_PLACE {
            self.give_back();
            (&self.in_place[..], 0)
        } else {
            let spill = self.spill_for(ranges.len());
            (spill.pairs(), spill.number)
        };
        for (pair, range) in pairs.iter().zip(ranges) {
            // Pair with the Acquire loads in `overlaps`.
            pair.start.store(range.start(), ENTRY_STORED);
            pair.end.store(range.end(), ENTRY_STORED);
        }
        self.shape
            .store((number as u64) << 32 | ranges.len() as u64, ENTRY_STORED);
    }

    /// What is read here may be half of one filling and half of another; then `Gate::overlaps` throws the
    /// answer away. It must only not be out of bounds.
    #[inline]
    fn overlaps(&self, range: PageRange) -> bool {
        // Pairs with the Release stores in `fill` and `give_back`: who misses a spill table, because it
        // has been given back, sees that the word has moved away from this table.
        let shape = self.shape.load(ENTRY_SEEN);
        if shape >> 32 != 0 {
            return Self::spilt_overlaps(shape, range);
        }
        let len = (shape as usize).min(IN_PLACE);
        self.in_place[..len].iter().any(|pair| {
            pair.start.load(ENTRY_SEEN) < range.end() && range.start() < pair.end.load(ENTRY_SEEN)
        })
    }

    #[inline(never)]
    fn spilt_overlaps(shape: u64, range: PageRange) -> bool {
        let pairs = spill(shape).map_or(&[][..], Spill::pairs);
        let pairs = &pairs[..(shape as u32 as usize).min(pairs.len())];
        // The first closed range that ends behind our start is the only one that can be in the way.
        let at = pairs.partition_point(|pair| pair.end.load(ENTRY_SEEN) <= range.start());
        pairs
            .get(at)
            .is_some_and(|pair| pair.start.load(ENTRY_SEEN) < range.end())
    }

    /// A spill table for `len` ranges: the one at hand, one that is idle, or a new one.
    fn spill_for(&self, len: usize) -> &'static Spill {
        let held = spill(self.shape.load(Relaxed));
        if let Some(spill) = held.filter(|s| s.pairs().len() >= len) {
            return spill;
        }
        self.give_back();
        let idle = {
            let mut idle = IDLE.lock();
            let fit = idle.iter().position(|spill| spill.pairs().len() >= len);
            fit.map(|at| idle.swap_remove(at))
        };
        idle.unwrap_or_else(|| {
            let spills: &'static Spills = &SPILLS;
            let spill = spills.push(|index| Spill {
                pairs: OnceLock::new(),
                number: index + 1,
            });
            let room = len.next_power_of_two().max(16);
            spill
                .pairs
                .get_or_init(|| (0..room).map(|_| Pair::new()).collect());
            spill
        })
    }

    #[cold]
    fn give_back_spill(&self, spill: &'static Spill) {
        self.shape.store(0, ENTRY_STORED);
        IDLE.lock().push(spill);
    }

    /// Empties the table, and lets others have its spill table.
    #[inline]
    fn give_back(&self) {
        if let Some(spill) = spill(self.shape.load(Relaxed)) {
            self.give_back_spill(spill);
        }
    }
}

#[inline]
fn spill(shape: u64) -> Option<&'static Spill> {
    match shape >> 32 {
        0 => None,
        number => numbered_spill(number as usize),
    }
}

#[cold]
fn numbered_spill(number: usize) -> Option<&'static Spill> {
    let spills: &'static Spills = &SPILLS;
    spills.get(number - 1)
}

impl Pair {
    fn new() -> Self {
        Self {
            start: AtomicU64::new(0),
            end: AtomicU64::new(0),
        }
    }
}
