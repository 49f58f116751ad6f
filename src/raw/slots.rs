//! Slots: where pins are written down. A pin is one store sequence into a slot of its own thread.
//!
//! Problem: taking and giving back a page reference must cost next to nothing, whatever the length of
//! the range, and a reference must be returnable on any thread, even after its thread and its guard
//! are gone. Idea: every thread owns blocks of slots that live for ever; only the owner fills a slot,
//! anybody who holds the pin clears it with one plain store.
//!
//! | `owner` | meaning | who changes it |
//! | --- | --- | --- |
//! | 0 | free | the block's thread, filling it |
//! | record number | pinned | whoever holds the pin, clearing it |
//! | … \| `SEEN` | pinned, and a breaker of that mapping has looked | the holder, clearing it |
//! | … \| `PENDING` | filled, its pinner has not looked at the gate yet (verifying builds only) | its pinner |
//!
//! ```text
//!   Block (2 KiB)   | used | foreign | thread | - | slot 0 | slot 1 | ... | slot 62 |
//!   Slot (32 B)     | owner | start | end | location |
//! ```
//!
//! - Only the thread that owns a block fills its slots, so finding a free one needs no atomic
//!   read-modify-write. When the thread exits, its blocks go to a pool, pins and all, and another
//!   thread adopts them (I9).
//! - `used` is one more than the highest slot that may be in use. It is raised before the slot is
//!   filled, so a scan that sees the slot also sees the mark (I11).
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

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::Location;
use std::thread::ThreadId;

use crate::range::PageRange;
use crate::raw::arena::Arena;
use crate::sync::{
    AtomicCell, AtomicU64, Mutex, Ordering, process_static, thread_cell, thread_owned,
};

/// Slots in a block: with the header, a block is 2 KiB. Two under the model checker, so that full
/// blocks and growth are the common case.
pub(crate) const SLOTS: usize = if cfg!(lease_loom) { 2 } else { 63 };

/// How many blocks of the pool a thread looks at before it takes a new one.
const POOL_LOOKS: usize = 4;

/// The slot has been looked at by a breaker of its mapping since it was filled.
const SEEN: u64 = 1 << 32;
/// The slot's pinner has not looked at the gate yet.
const PENDING: u64 = 1 << 33;

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
    fn new() -> Self {
        Self {
            owner: AtomicU64::new(0),
            start: AtomicU64::new(0),
            end: AtomicU64::new(0),
            location: AtomicCell::new(None),
        }
    }

    /// Whether nobody holds the slot. Only its block's owner may act on a yes.
    #[inline]
    fn is_free(&self) -> bool {
        // Pairs with the Release store in `clear`: what the previous holder did before its release
        // happens before our fill, and so before what a scan does that meets our fill (I7).
        self.owner.load(FREE_SEEN) == 0
    }

    #[inline]
    fn fill(&self, record: u32, range: PageRange, location: &'static Location<'static>) {
        let owner = u64::from(record) | if VERIFY { PENDING } else { 0 };
        // Pair with the Acquire loads in `snapshot`: see there.
        self.end.store(range.end(), RANGE_STORED);
        self.start.store(range.start(), RANGE_STORED);
        self.location.store(Some(location));
        // Pairs with the Acquire load in `snapshot`: a scan that sees the owner sees the range.
        self.owner.store(owner, FILLED);
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
        let (start, end) = self.bounds(Ordering::Relaxed);
        PageRange::reassembled(start, end)
    }

    /// Where the pin was taken.
    pub(crate) fn location(&self) -> Option<&'static Location<'static>> {
        self.location.load()
    }

    #[inline]
    fn bounds(&self, order: Ordering) -> (u64, u64) {
        (self.start.load(order), self.end.load(order))
    }

    /// Frees the slot. Only who holds the pin may, and no longer holds it then.
    #[inline]
    pub(crate) fn clear(&self) {
        // Pairs with the Acquire loads in `snapshot` (I7: what we did happens before the proof) and in
        // `is_free` (the next pin in this slot comes after it, too).
        if cfg!(lease_loom) {
            // loom keeps no total order of stores: it would let a plain store slip in before an update
            // that has read its predecessor (the mark in `snapshot`), so that a slot which has been
            // cleared is seen taken for ever. An update has its place in the order there, and adds
            // nothing else: whoever clears the slot comes after whoever filled it.
            self.owner.swap(0, CLEARED);
        } else {
            self.owner.store(0, CLEARED);
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
    pub(crate) fn snapshot(
        &self,
        record: u32,
        wanted: impl Fn(PageRange) -> bool,
    ) -> Option<Snapshot> {
        let read = || {
            // Pair with the Release stores in `fill`.
            let (start, end) = self.bounds(RANGE_SEEN);
            PageRange::new(start, end).ok().filter(|r| wanted(*r))
        };
        // Pairs with the Release stores in `fill` (we see its range) and in `clear` (I7).
        let mut owner = self.owner.load(OWNER_SEEN);
        if owner as u32 != record {
            return None;
        }
        read()?;
        // On success as on failure this is a read like the first one. The store part orders nothing:
        // only breakers under the record's lock look at the mark. It fails for a pin that is still there
        // only where its pinner has just confirmed it, which it does once.
        while owner & SEEN == 0 {
            match self
                .owner
                .compare_exchange(owner, owner | SEEN, OWNER_SEEN, OWNER_SEEN)
            {
                Ok(_) => break,
                Err(now) if now as u32 == record => owner = now,
                Err(_) => return None,
            }
        }
        let range = read()?;
        let location = self.location.load();
        // Acquire: if the mark is gone, so is the pin, and its release happens before us (I7).
        let last = self.owner.load(OWNER_SEEN);
        (last as u32 == record && last & SEEN != 0).then_some(Snapshot {
            range,
            location,
            pending: last & PENDING != 0,
        })
    }
}

const FREE_SEEN: Ordering = if cfg!(lease_mutant = "slot_free_relaxed") {
    Ordering::Relaxed
} else {
    Ordering::Acquire
};
const FILLED: Ordering = if cfg!(lease_mutant = "slot_fill_relaxed") {
    Ordering::Relaxed
} else {
    Ordering::Release
};
const CLEARED: Ordering = if cfg!(lease_mutant = "slot_clear_relaxed") {
    Ordering::Relaxed
} else {
    Ordering::Release
};
const OWNER_SEEN: Ordering = if cfg!(lease_mutant = "scan_owner_relaxed") {
    Ordering::Relaxed
} else {
    Ordering::Acquire
};
const RANGE_STORED: Ordering = if cfg!(lease_mutant = "slot_range_relaxed") {
    Ordering::Relaxed
} else {
    Ordering::Release
};
const RANGE_SEEN: Ordering = if cfg!(lease_mutant = "scan_range_relaxed") {
    Ordering::Relaxed
} else {
    Ordering::Acquire
};

/// A block of slots, all filled by one thread.
#[repr(C, align(64))]
pub(crate) struct Block {
    /// One more than the highest slot that may be in use.
    used: AtomicU64,
    /// Bit n: the pin in slot n is not, or not surely, of the block's present thread: it was there when
    /// that adopted the block, or was granted to somebody who waited.
    foreign: AtomicU64,
    thread: AtomicCell<Option<ThreadId>>,
    _room: u64,
    slots: [Slot; SLOTS],
}

impl Block {
    fn new() -> Self {
        Self {
            used: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
            thread: AtomicCell::new(None),
            _room: 0,
            slots: std::array::from_fn(|_| Slot::new()),
        }
    }

    /// The slots that may be in use.
    pub(crate) fn in_use(&self) -> &[Slot] {
        // Pairs with the Release stores in `find_free`: a mark that was lowered was lowered by one who
        // had seen the slots behind it free, so their releases happen before us (I7).
        let used = self.used.load(Ordering::Acquire) as usize;
        &self.slots[..used]
    }

    /// The thread that fills slot `n`, if that can be said: `None` for a pin older than the present
    /// owner's adoption of the block. Asked before and after looking at the slot, two equal answers are
    /// right; anything else is nobody's.
    pub(crate) fn thread_of(&self, n: usize) -> Option<ThreadId> {
        let thread = self.thread.load();
        let own = self.foreign.load(Ordering::Relaxed) & (1 << n) == 0;
        thread.filter(|_| own)
    }

    /// A free slot at or behind `from`, or before it. Only for the block's owner.
    fn find_free(&self, from: usize) -> Option<usize> {
        let n = (from..SLOTS)
            .chain(0..from)
            .find(|&n| self.slots[n].is_free())?;
        let used = self.used.load(Ordering::Relaxed) as usize;
        if used <= n {
            // Before the slot is filled: the scan that sees the one sees the other.
            self.used.store(n as u64 + 1, Ordering::Release);
        } else if n == 0 {
            // Back at the front, usually after a burst: lower the mark as far as slots are free, so
            // that scans need not look there any more.
            let high = (1..used).rev().find(|&n| !self.slots[n].is_free());
            self.used
                .store(high.unwrap_or(0) as u64 + 1, Ordering::Release);
        }
        let foreign = self.foreign.load(Ordering::Relaxed);
        if foreign & (1 << n) != 0 {
            self.foreign.store(foreign & !(1 << n), Ordering::Relaxed);
        }
        Some(n)
    }

    /// Slot `n` holds a pin that is not of the block's thread.
    fn mark_foreign(&self, n: usize) {
        let foreign = self.foreign.load(Ordering::Relaxed);
        self.foreign.store(foreign | 1 << n, Ordering::Relaxed);
    }

    fn adopt(&self) {
        let busy = (0..SLOTS).filter(|&n| !self.slots[n].is_free());
        let foreign = busy.fold(0, |mask, n| mask | 1 << n);
        self.foreign.store(foreign, Ordering::Relaxed);
        self.thread.store(Some(std::thread::current().id()));
    }
}

type Blocks = Arena<Block, { if cfg!(lease_loom) { 1 } else { 8 } }>;

process_static! {
    /// Every block there is.
    static BLOCKS: Blocks = Arena::new();
}

process_static! {
    /// Blocks without a thread. Who holds the lock may fill slots of a block that is in here.
    static POOL: Mutex<VecDeque<&'static Block>> = Mutex::new(VecDeque::new());
}

thread_cell! {
    /// The slot to try first: one of ours, or `None` where the slow way must look.
    static NEXT: Cell<Option<&'static Slot>> = Cell::new(None);
}

thread_owned! {
    static OWNED: RefCell<Owned> = RefCell::new(Owned::NONE);
}

/// The blocks of one thread, and where it last found a free slot.
///
/// When all of them are full, finding that out costs a look at every slot. So a thread that has found it
/// out takes the next few blocks without looking, a quarter as many as it has: then a pin costs a constant
/// number of looks on average, and at most a fifth of a thread's slots are more than it ever needed.
struct Owned {
    blocks: Vec<&'static Block>,
    block: usize,
    slot: usize,
    /// Blocks to take before all are looked through again.
    fresh: usize,
    /// The process in which the first was taken.
    process: u32,
}

impl Owned {
    const NONE: Owned = Owned {
        blocks: Vec::new(),
        block: 0,
        slot: 0,
        fresh: 0,
        process: 0,
    };

    fn find_free(&mut self) -> &'static Slot {
        let own = self.blocks.len();
        let near = if self.fresh > 0 { own.min(2) } else { own };
        for step in 0..near {
            let at = (self.block + step) % own;
            let from = if step == 0 { self.slot } else { 0 };
            if let Some(slot) = self.take(at, from) {
                return slot;
            }
        }
        self.fresh = match self.fresh {
            0 => own / 4,
            left => left - 1,
        };
        if own == 0 {
            self.process = std::process::id();
        }
        // A block that an exited thread left behind, if one has room, or a new one.
        let block = adoptable().unwrap_or_else(|| BLOCKS.push(|_| Block::new()));
        block.adopt();
        self.blocks.push(block);
        match self.take(own, 0) {
            Some(slot) => slot,
            None => unreachable!("the block had room, and only its owner fills it"),
        }
    }

    fn take(&mut self, at: usize, from: usize) -> Option<&'static Slot> {
        let block: &'static Block = self.blocks[at];
        let n = block.find_free(from)?;
        (self.block, self.slot) = (at, n);
        Some(&block.slots[n])
    }
}

/// Takes a block with a free slot out of the pool. Those that are full go to the back, so that the next
/// looks are at others.
fn adoptable() -> Option<&'static Block> {
    let mut pool = POOL.lock();
    for _ in 0..POOL_LOOKS {
        let block = pool.pop_front()?;
        if block.find_free(0).is_some() {
            return Some(block);
        }
        pool.push_back(block);
    }
    None
}

impl Owned {
    /// Gives the blocks to whoever needs some.
    fn leave(&mut self) {
        // Fails only where the cell is gone already.
        NEXT.try_with(|next| next.set(None)).ok();
        if self.blocks.is_empty() {
            return;
        }
        let mut pool = match POOL.try_lock() {
            Some(pool) => pool,
            // In a forked child, whoever had the lock is not there to release it.
            None if self.process != std::process::id() => return,
            None => POOL.lock(),
        };
        for block in self.blocks.drain(..) {
            block.thread.store(None);
            pool.push_back(block);
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What the end of a thread does, for models: loom runs destructors of thread locals when joining the
/// thread has already succeeded, and its statics may be gone by then.
#[cfg(lease_loom)]
pub(crate) fn leave_thread() {
    OWNED.with(|owned| owned.borrow_mut().leave());
}

/// Writes a pin down: the visible part of pinning. The caller then looks at the gate, behind its
/// [`barrier`](crate::raw::barrier).
#[inline]
pub(crate) fn publish(
    record: u32,
    range: PageRange,
    location: &'static Location<'static>,
) -> &'static Slot {
    match NEXT.with(Cell::get) {
        Some(slot) if slot.is_free() => {
            slot.fill(record, range, location);
            slot
        }
        _ => publish_elsewhere(record, range, location),
    }
}

/// The slot at hand is in use: find another.
#[cold]
#[inline(never)]
fn publish_elsewhere(
    record: u32,
    range: PageRange,
    location: &'static Location<'static>,
) -> &'static Slot {
    let own = OWNED.try_with(|owned| {
        let slot = owned.borrow_mut().find_free();
        NEXT.with(|next| next.set(Some(slot)));
        slot.fill(record, range, location);
        slot
    });
    own.unwrap_or_else(|_| publish_in_pool(record, range, location))
}

/// The thread is going, and its thread locals are gone: fill a slot of a block in the pool, under the
/// pool's lock, so that nobody adopts the block meanwhile.
fn publish_in_pool(
    record: u32,
    range: PageRange,
    location: &'static Location<'static>,
) -> &'static Slot {
    let mut pool = POOL.lock();
    let found = pool
        .iter()
        .find_map(|block| Some((*block, block.find_free(0)?)));
    let (block, n) = found.unwrap_or_else(|| {
        let block = BLOCKS.push(|_| Block::new());
        pool.push_back(block);
        block.find_free(0).map_or((block, 0), |n| (block, n))
    });
    let slot = &block.slots[n];
    slot.fill(record, range, location);
    slot
}

/// [`publish`], for somebody who waits: the pin is not this thread's.
pub(crate) fn publish_for_another(
    record: u32,
    range: PageRange,
    location: &'static Location<'static>,
) -> &'static Slot {
    // The thread's own way of finding a slot, and away from it again: before the thread fills the slot
    // for itself, it must come by `find_free`, which takes the mark off.
    NEXT.try_with(|next| next.set(None)).ok();
    let slot = publish_elsewhere(record, range, location);
    NEXT.try_with(|next| next.set(None)).ok();
    OWNED
        .try_with(|owned| {
            let owned = owned.borrow();
            if let Some(block) = owned.blocks.get(owned.block) {
                block.mark_foreign(owned.slot);
            }
        })
        .ok();
    slot
}

/// Every block that may have a pin in it.
pub(crate) fn blocks() -> impl Iterator<Item = &'static Block> {
    let blocks: &'static Blocks = &BLOCKS;
    blocks.iter()
}
