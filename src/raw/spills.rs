//! Long tables of ranges, which go from gate to gate.
//!
//! Problem: a gate has room for two ranges, and now and then thousands are closed; what holds those is read
//! without a lock, by readers who may come late. Idea: tables are never freed. They lie in a process-wide
//! pool, by size, and whoever reads one that somebody else has got meanwhile finds that out afterwards (see
//! [`gate`](crate::raw::gate)).

use std::sync::OnceLock;

use crate::range::PageRange;
use crate::raw::arena::Arena;
use crate::sync::{AtomicU64, MODEL, Mutex, order, process_static};

/// The shortest table has room for 2^`SHORTEST` ranges.
const SHORTEST: u32 = if MODEL { 1 } else { 4 };

/// A range, as readers find it; or, in an index, the end of the last range of a part and its place.
#[repr(C)]
pub(super) struct Pair {
    pub(super) start: AtomicU64,
    pub(super) end: AtomicU64,
}

impl Pair {
    pub(super) fn new() -> Self {
        Self {
            start: AtomicU64::new(0),
            end: AtomicU64::new(0),
        }
    }

    /// Pairs with the Acquire loads in [`overlaps`]: who meets the entry of a later filling has synchronised with
    /// its writer, who had been given the table after the word of its last gate had moved on.
    #[inline(always)]
    pub(super) fn store(&self, start: u64, end: u64) {
        self.start
            .store(start, order!(Release, "entry_start_relaxed"));
        self.end.store(end, order!(Release, "entry_end_relaxed"));
    }
}

/// A long table. Never freed.
pub(super) struct Spill {
    /// As many as its first user needed. Made once, and never empty then.
    pairs: OnceLock<Box<[Pair]>>,
    number: usize,
}

type Spills = Arena<Spill, { if MODEL { 1 } else { 8 } }>;

process_static! {
    /// Every long table there is.
    static SPILLS: Spills = Arena::new();
}

process_static! {
    /// Those that nobody uses, by size: the shortest first.
    static IDLE: Mutex<Vec<Vec<&'static Spill>>> = Mutex::new(Vec::new());
}

impl Spill {
    pub(super) fn pairs(&self) -> &[Pair] {
        self.pairs.get().map_or(&[], |pairs| pairs)
    }

    /// Where its first `len` ranges are. Never 0.
    pub(super) fn place(&self, len: usize) -> u64 {
        (self.number as u64) << 32 | len as u64
    }

    /// A table with room for `len` ranges: one that is idle, or a new one.
    pub(super) fn take(len: usize) -> &'static Spill {
        let class = class(len);
        let idle = IDLE.lock().get_mut(class).and_then(Vec::pop);
        idle.unwrap_or_else(|| {
            let spills: &'static Spills = &SPILLS;
            let spill = spills.push(|index| Spill {
                pairs: OnceLock::new(),
                number: index + 1,
            });
            let room = 1 << (class as u32 + SHORTEST);
            spill
                .pairs
                .get_or_init(|| (0..room).map(|_| Pair::new()).collect());
            spill
        })
    }

    /// Lets others have it. Its gate's word has moved on.
    pub(super) fn give_back(&'static self) {
        let class = class(self.pairs().len());
        let mut idle = IDLE.lock();
        while idle.len() <= class {
            idle.push(Vec::new());
        }
        idle[class].push(self);
    }
}

/// How many tables of this size there are, used or not.
#[cfg(all(test, not(any(lease_loom, lease_shuttle))))]
pub(super) fn made_with_room(room: usize) -> usize {
    let spills: &'static Spills = &SPILLS;
    spills.iter().filter(|s| s.pairs().len() == room).count()
}

/// While this is there, nobody gets a table and nobody gives one back.
#[cfg(all(test, not(any(lease_loom, lease_shuttle))))]
pub(super) fn hold() -> impl Sized {
    IDLE.lock()
}

/// The size of the shortest table with room for `len` ranges.
fn class(len: usize) -> usize {
    let room = len.next_power_of_two().ilog2();
    room.saturating_sub(SHORTEST) as usize
}

/// The table at `place`, if that is the place of one.
pub(super) fn at(place: u64) -> Option<&'static Spill> {
    let spills: &'static Spills = &SPILLS;
    match place >> 32 {
        0 => None,
        number => spills.get(number as usize - 1),
    }
}

/// The ranges at `place`. What a reader takes for a place may be anything: then it must only not be out of
/// bounds.
pub(super) fn pairs(place: u64) -> &'static [Pair] {
    let pairs = at(place).map_or(&[][..], Spill::pairs);
    &pairs[..(place as u32 as usize).min(pairs.len())]
}

/// Whether one of `pairs`, which are in order and apart, overlaps `range`.
pub(super) fn overlaps(pairs: &[Pair], range: PageRange) -> bool {
    let starts = |pair: &Pair| pair.start.load(order!(Acquire, "spilt_start_seen_relaxed"));
    first_behind(pairs, range.start()).is_some_and(|pair| starts(pair) < range.end())
}

/// The first that ends behind `page`: the only one that can be in the way of a range that starts there.
pub(super) fn first_behind(pairs: &[Pair], page: u64) -> Option<&Pair> {
    let ends = |pair: &Pair| pair.end.load(order!(Acquire, "spilt_end_seen_relaxed"));
    let at = pairs.partition_point(|pair| ends(pair) <= page);
    pairs.get(at)
}
