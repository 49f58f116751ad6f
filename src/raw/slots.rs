//! Slots: where pins are written down. A pin is one store sequence into a slot of its own thread.
//!
//! Problem: taking and giving back a page reference must cost next to nothing, whatever the length of
//! the range, and a reference must be returnable on any thread, even after its thread and its guard
//! are gone. Idea: every thread owns slots that live for ever ([`blocks`](crate::raw::blocks)); only the
//! owner fills a slot, anybody who holds the pin clears it with one plain store.
//!
//! | `owner` | meaning | who changes it |
//! | --- | --- | --- |
//! | 0 | free | the block's thread, filling it |
//! | record number | pinned | whoever holds the pin, clearing it |
//! | … \| `SEEN` | pinned, and a breaker of that mapping has looked | the holder, clearing it |
//! | … \| `PENDING` | filled, its pinner has not looked at the gate yet (verifying builds only) | its pinner |
//! | … \| `EXTENSION` | pinned through a closed gate, on the strength of another pin | the holder, clearing it |
//!
//! ```text
//!   Slot (32 B)     | owner | start | end | location |
//! ```
//!
//! # Orderings
//!
//! - A slot is cleared with Release and seen free with Acquire, by a scan (I7: what the holder did
//!   happens before the proof) as well as by the next filler, which then fills with Release: a scan
//!   that meets the *next* pin in the slot has still synchronised with the release of the previous
//!   one.
//! - `start` and `end` are stored with Release too: a scan may read them in the middle of a reuse, and
//!   whoever reads a newer half has synchronised with the release of the older pin, see
//!   [`Slot::snapshot`].

use std::panic::Location;

use crate::range::PageRange;
use crate::sync::{AtomicCell, AtomicU64, MODEL, Ordering, load_own, mutant, order};

/// Slots in a block: with the header, a block is 2 KiB. Two under the model checker, so that full
/// blocks and growth are the common case.
pub(crate) const SLOTS: usize = if MODEL { 2 } else { 63 };

/// The slot has been looked at by a breaker of its mapping since it was filled.
const SEEN: u64 = 1 << 32;
/// The slot's pinner has not looked at the gate yet.
const PENDING: u64 = 1 << 33;
/// The slot's pin was granted as an extension of another.
const EXTENSION: u64 = 1 << 34;

/// Whether every call into a block map scans once more.
pub(crate) const VERIFY: bool = cfg!(any(debug_assertions, feature = "verify"));

/// Where one pin is written down.
pub(crate) struct Slot {
    owner: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
    /// Where the pin was taken: for people only, orders nothing.
    location: AtomicCell<Option<&'static Location<'static>>>,
}

/// What a scan saw in a slot.
pub(crate) struct Snapshot {
    pub(crate) range: PageRange,
    pub(crate) location: Option<&'static Location<'static>>,
    /// Its pinner has not looked at the gate yet, and may still step back.
    pub(crate) pending: bool,
}

impl Slot {
    pub(super) fn new() -> Self {
        Self {
            owner: AtomicU64::new(0),
            start: AtomicU64::new(0),
            end: AtomicU64::new(0),
            location: AtomicCell::new(None),
        }
    }

    /// Whether nobody holds the slot. Only its block's owner may act on a yes.
    #[inline]
    pub(super) fn is_free(&self) -> bool {
        // Pairs with the Release store in `clear`: what the previous holder did before its release
        // happens before our fill, and so before what a scan does that meets our fill (I7).
        load_own!(self.owner, order!(Acquire, "slot_free_relaxed")) == 0
    }

    /// Writes a pin down. Only the block's owner may, when the slot is free.
    #[inline]
    pub(super) fn fill(&self, record: u32, range: PageRange, location: &'static Location<'static>) {
        let owner = u64::from(record) | if VERIFY { PENDING } else { 0 };
        // Pairs with the Acquire load in `snapshot`: a scan that sees the owner sees the range.
        let own = || {
            self.owner
                .store(owner, order!(Release, "slot_fill_relaxed"));
        };
        if mutant!("owner_first") {
            own();
        }
        // Pair with the Acquire loads in `snapshot`: see there.
        let (start, end) = (range.start(), range.end());
        self.end.store(end, order!(Release, "slot_end_relaxed"));
        self.start
            .store(start, order!(Release, "slot_start_relaxed"));
        self.location.store(Some(location));
        if !mutant!("owner_first") {
            own();
        }
    }

    /// Its pinner has looked at the gate and found it open.
    #[inline]
    pub(crate) fn confirm(&self) {
        if VERIFY {
            // An atomic update, for a scan may set `SEEN` at the same time. Orders nothing.
            self.owner.fetch_and(!PENDING, Ordering::Relaxed);
        }
    }

    /// The range. Only who holds the pin may ask.
    #[inline]
    pub(crate) fn range(&self) -> PageRange {
        // The holder filled the slot, or was given the pin by who did: nothing to order.
        let start = load_own!(self.start, Ordering::Relaxed);
        let end = load_own!(self.end, Ordering::Relaxed);
        PageRange::reassembled(start, end)
    }

    /// The pin is an extension. Under the record's lock, before anybody else knows of the pin.
    pub(crate) fn mark_extension(&self) {
        // An atomic update, so that a scan which reads the mark still sees what `fill` released.
        self.owner.fetch_or(EXTENSION, Ordering::Relaxed);
    }

    /// Whether the pin is an extension. Only who holds the pin may ask.
    pub(crate) fn is_extension(&self) -> bool {
        self.owner.load(Ordering::Relaxed) & EXTENSION != 0
    }

    /// The number of the record whose pin this is. Only who holds the pin may ask.
    pub(crate) fn record(&self) -> u32 {
        self.owner.load(Ordering::Relaxed) as u32
    }

    /// Where the pin was taken.
    pub(crate) fn location(&self) -> Option<&'static Location<'static>> {
        self.location.load()
    }

    /// Frees the slot. Only who holds the pin may, and no longer holds it then.
    #[inline]
    pub(crate) fn clear(&self) {
        // Pairs with the Acquire loads in `snapshot` (I7: what we did happens before the proof) and in
        // `is_free` (the next pin in this slot comes after it, too).
        let order = order!(Release, "slot_clear_relaxed");
        if cfg!(lease_loom) {
            // loom keeps no total order of stores: it would let a plain store slip in before an update
            // that has read its predecessor (the mark in `snapshot`), so that a slot which has been
            // cleared is seen taken for ever. An update has its place in the order there, and adds
            // nothing else: whoever clears the slot comes after whoever filled it.
            self.owner.swap(0, order);
        } else {
            self.owner.store(0, order);
        }
    }

    /// What the slot holds, if it is a pin of `record` for which `wanted` is true.
    ///
    /// Call it under that record's lock, with the pages in question closed and the breaker's
    /// [`barrier`](crate::raw::barrier) behind the closing. Then "no" means: whatever pin the slot held
    /// for those pages is over, and its release happens before this call's return.
    ///
    /// The owner and the two ends of the range are three words, and the slot can be cleared and filled
    /// again between the reads (I11). Let X be the pin whose owner word the first read saw.
    ///
    /// - If all three reads are X's, they say what X holds.
    /// - If one is newer, its writer had seen X's slot free; reading it (Acquire, from a Release store)
    ///   orders X's release before us. And the newer pin was not visible to the first read, which
    ///   came behind the barrier; so its pinner looks at the gate behind its own and steps back if it
    ///   touches closed pages. So a "no" from such a mixture is right.
    /// - A "yes" from a mixture would make the break wait for a pin that is not there. So before a yes
    ///   the slot is marked `SEEN`, which only filling it anew can undo, and read again: with the mark
    ///   still there at the end, everything read in between belongs to one pin.
    ///
    /// Most slots are free, another mapping's or of other pages: so much is in line.
    #[inline(always)]
    pub(crate) fn snapshot(
        &self,
        record: u32,
        wanted: impl Fn(PageRange) -> bool,
    ) -> Option<Snapshot> {
        // Pairs with the Release stores in `fill` (we see its range) and in `clear` (I7).
        let owner = self.owner.load(order!(Acquire, "scan_owner_relaxed"));
        if owner as u32 != record {
            return None;
        }
        let first = self.read_range().filter(|r| wanted(*r))?;
        self.look_closer(record, owner, first, wanted)
    }

    /// The range as it is now, perhaps of two pins.
    #[inline(always)]
    fn read_range(&self) -> Option<PageRange> {
        // Pair with the Release stores in `fill`.
        let start = self.start.load(order!(Acquire, "scan_start_relaxed"));
        let end = self.end.load(order!(Acquire, "scan_end_relaxed"));
        PageRange::new(start, end).ok()
    }

    /// [`snapshot`](Self::snapshot), where the first reads said `owner`, which is `record`'s, and `first`, which is
    /// wanted.
    #[inline(never)]
    fn look_closer(
        &self,
        record: u32,
        mut owner: u64,
        first: PageRange,
        wanted: impl Fn(PageRange) -> bool,
    ) -> Option<Snapshot> {
        // On success as on failure this is a read like the first one. The store part orders nothing:
        // only breakers under the record's lock look at the mark. It fails for a pin that is still there
        // only where its pinner has just confirmed it, which it does once.
        let marked = order!(Acquire, "mark_relaxed");
        let gone = order!(Acquire, "mark_failed_relaxed");
        while owner & SEEN == 0 && !mutant!("mark_missing") {
            let mark = owner | SEEN;
            match self.owner.compare_exchange(owner, mark, marked, gone) {
                Ok(_) => break,
                Err(now) if now as u32 == record => owner = now,
                Err(_) => return None,
            }
        }
        let range = if mutant!("range_read_once") {
            first
        } else {
            self.read_range().filter(|r| wanted(*r))?
        };
        let location = self.location.load();
        // Acquire: if the mark is gone, so is the pin, and its release happens before us (I7).
        let last = self.owner.load(order!(Acquire, "scan_last_relaxed"));
        let last = match mutant!("mark_missing") {
            true => last | SEEN,
            false => last,
        };
        let marked = last & SEEN != 0 || mutant!("mark_not_looked_at");
        (last as u32 == record && marked).then_some(Snapshot {
            range,
            location,
            pending: last & PENDING != 0,
        })
    }
}
