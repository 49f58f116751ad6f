//! Blocks: who owns which slots, and how a thread finds a free one.
//!
//! Problem: finding a free slot must cost next to nothing, whether a thread has one pin in flight or a
//! million, and slots that were freed on other threads must be found again. Idea: every thread owns
//! blocks of slots that only it fills, and tries the slot it filled last, then those behind it, then its
//! other blocks, then the blocks that exited threads have left behind.
//!
//! ```text
//!   Block (2.3 KiB) | used | foreign | thread | - | slot 0 | ... | slot 62 | generation 0 | ... | 62 |
//! ```
//!
//! - Only the thread that owns a block fills its slots, so finding a free one needs no atomic
//!   read-modify-write. When the thread exits, its blocks go to a pool, pins and all, and another
//!   thread adopts them (I9).
//! - `used` is one more than the highest slot that may be in use. It is raised before the slot is
//!   filled, so a scan that sees the slot also sees the mark (I11). It is lowered when the owner tidies.
//! - The generations belong to [`tokens`](crate::raw::tokens).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::Location;
use std::thread::ThreadId;

use crate::range::PageRange;
use crate::raw::arena::Arena;
use crate::raw::slots::{SLOTS, Slot};
use crate::sync::{
    AtomicCell, AtomicU32, AtomicU64, MODEL, Mutex, Ordering, load_own, mutant, order,
    process_static, thread_cell, thread_owned,
};

/// How many blocks of the pool a thread looks at before it takes a new one.
const POOL_LOOKS: usize = 4;

/// How many of its blocks a thread tidies at a time.
const TIDIED: usize = 64;

/// A block of slots, all filled by one thread.
#[repr(C, align(64))]
pub(crate) struct Block {
    /// One more than the highest slot that may be in use.
    used: AtomicU64,
    /// Bit n: the pin in slot n is not, or not surely, of the block's present thread: it was there when
    /// that adopted the block, or was granted to somebody who waited.
    foreign: AtomicU64,
    thread: AtomicCell<Option<ThreadId>>,
    /// The first slot lies in the same cache line as what is above.
    _room: u64,
    slots: [Slot; SLOTS],
    /// How often each slot's pin has been turned into a token and back; odd while it is one.
    generations: [AtomicU32; SLOTS],
    /// A block is an odd number of cache lines long, so that a scan of many blocks does not meet all of
    /// them in the same few places of a cache.
    _odd: [u64; 8],
}

#[cfg(not(any(lease_loom, lease_shuttle)))]
const _: () = assert!(size_of::<Block>() == 37 * 64);

impl Block {
    fn new() -> Self {
        Self {
            used: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
            thread: AtomicCell::new(None),
            _room: 0,
            slots: std::array::from_fn(|_| Slot::new()),
            generations: std::array::from_fn(|_| AtomicU32::new(0)),
            _odd: [0; 8],
        }
    }

    /// The slots that may be in use.
    #[inline]
    pub(crate) fn in_use(&self) -> &[Slot] {
        // Pairs with the Release stores in `prepare` and `tidy`: a mark that was lowered was lowered by one who
        // had seen the slots behind it free, so their releases happen before us (I7).
        let used = self.used.load(order!(Acquire, "used_seen_relaxed")) as usize;
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

    /// A free slot: one that has been in use lately, at or behind `from` or before it, else the next. Only for
    /// the block's owner.
    fn find_free(&self, from: usize) -> Option<usize> {
        let used = load_own!(self.used, Ordering::Relaxed) as usize;
        let free = |n: &usize| self.slots[*n].is_free();
        let n = (from..used)
            .chain(0..from.min(used))
            .find(free)
            .or_else(|| (used..SLOTS).find(free))?;
        self.prepare(n, used);
        Some(n)
    }

    /// Where the slots that have been in use lately go round: the first of them, or if that is taken the next
    /// that has not been, if it is free. Where operations end in the order in which they began, the first is;
    /// and no more slots come into use than there are operations. Only for the block's owner.
    #[inline]
    fn find_round(&self) -> Option<usize> {
        let used = load_own!(self.used, Ordering::Relaxed) as usize;
        let n = if self.slots[0].is_free() {
            0
        } else if used < SLOTS && self.slots[used].is_free() {
            used
        } else {
            return None;
        };
        self.prepare(n, used);
        Some(n)
    }

    /// From slot `n` on, those that have been in use lately, up to one that is foreign. Slot `n` is prepared.
    fn from(&'static self, n: usize) -> &'static [Slot] {
        let used = load_own!(self.used, Ordering::Relaxed) as usize;
        let own = (self.foreign.load(Ordering::Relaxed) >> n).trailing_zeros() as usize;
        &self.slots[n..used.min(n + own)]
    }

    /// Which of its slots has this address.
    fn place_of(&self, address: usize) -> usize {
        (address - std::ptr::from_ref(&self.slots[0]).addr()) / size_of::<Slot>()
    }

    /// Slot `n` is free and about to be filled. Only for the block's owner.
    #[inline]
    fn prepare(&self, n: usize, used: usize) {
        if used <= n && !mutant!("used_not_raised") {
            // Before the slot is filled: the scan that sees the one sees the other.
            self.used
                .store(n as u64 + 1, order!(Release, "used_raised_relaxed"));
        }
        let foreign = self.foreign.load(Ordering::Relaxed);
        if foreign & (1 << n) != 0 {
            self.foreign.store(foreign & !(1 << n), Ordering::Relaxed);
        }
    }

    /// Lowers the mark as far as slots are free, so that scans need not look there any more. Only for the
    /// block's owner, who is filling no slot. `true`: it had been too high.
    fn tidy(&self) -> bool {
        let used = load_own!(self.used, Ordering::Relaxed) as usize;
        let high = (0..used).rev().find(|&n| !self.slots[n].is_free());
        let needed = high.map_or(0, |n| n + 1);
        if needed < used {
            // Release: whoever sees the mark has synchronised with the releases of the slots behind it.
            self.used
                .store(needed as u64, order!(Release, "used_lowered_relaxed"));
        }
        needed < used
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

type Blocks = Arena<Block, { if MODEL { 1 } else { 8 } }>;

process_static! {
    /// Every block there is.
    static BLOCKS: Blocks = Arena::new();
}

process_static! {
    /// Blocks without a thread. Who holds the lock may fill slots of a block that is in here.
    static POOL: Mutex<VecDeque<&'static Block>> = Mutex::new(VecDeque::new());
}

thread_cell! {
    /// The slot at hand, which was filled last; `None` where the slow way must look.
    // INVARIANT: it is of a block of this thread, below its mark `used`, and not foreign.
    static NEXT: Cell<Option<&'static Slot>> = Cell::new(None);
}

thread_cell! {
    /// Those behind the slot at hand that have been in use lately.
    // INVARIANT: as that of `NEXT`, in the same block.
    static BEHIND: Cell<&'static [Slot]> = Cell::new(&[]);
}

/// From now on `near` are the slots to try first.
#[inline]
fn put_at_hand(near: &'static [Slot]) {
    if let Some((first, behind)) = near.split_first() {
        NEXT.with(|next| next.set(Some(first)));
        BEHIND.with(|cell| cell.set(behind));
    }
}

/// The next pin goes the slow way, which begins to look where it would have.
pub(super) fn take_from_hand() {
    let (Some(slot), Some(block)) = (NEXT.with(Cell::take), HERE.with(Cell::get)) else {
        return;
    };
    // The slot stays the first of them: else each pin would come to one more.
    let n = block.place_of(std::ptr::from_ref(slot).addr());
    BEHIND.with(|behind| behind.set(block.from(n)));
}

/// From now on the slow way must look.
fn put_away() {
    // They fail only where the cells are gone already.
    NEXT.try_with(|next| next.set(None)).ok();
    BEHIND.try_with(|behind| behind.set(&[])).ok();
}

thread_cell! {
    /// The block that they are of.
    static HERE: Cell<Option<&'static Block>> = Cell::new(None);
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
    /// The block that was tidied last.
    tidied: usize,
    /// The process in which the first was taken.
    process: u32,
}

impl Owned {
    const NONE: Owned = Owned {
        blocks: Vec::new(),
        block: 0,
        slot: 0,
        fresh: 0,
        tidied: 0,
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
        HERE.with(|here| here.set(Some(block)));
        put_at_hand(block.from(n));
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
        put_away();
        HERE.try_with(|here| here.set(None)).ok();
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
            block.tidy();
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
    match at_hand() {
        Some(slot) => {
            slot.fill(record, range, location);
            slot
        }
        None => publish_elsewhere(record, range, location),
    }
}

/// The slot that this thread filled last, if it is free again, or else the one behind it: for the caller to fill
/// at once.
#[inline(always)]
pub(super) fn at_hand() -> Option<&'static Slot> {
    let slot = NEXT.with(Cell::get)?;
    if slot.is_free() {
        return Some(slot);
    }
    let (slot, behind) = BEHIND.with(Cell::get).split_first()?;
    if !slot.is_free() {
        return None;
    }
    NEXT.with(|next| next.set(Some(slot)));
    BEHIND.with(|cell| cell.set(behind));
    Some(slot)
}

/// [`at_hand`], for when those are in use: the next of the block.
#[inline]
fn next() -> Option<&'static Slot> {
    let behind = BEHIND.with(Cell::get);
    if let Some(n) = behind.iter().position(Slot::is_free) {
        put_at_hand(&behind[n..]);
        return behind.get(n);
    }
    let block = HERE.with(Cell::get)?;
    let n = block.find_round()?;
    put_at_hand(block.from(n));
    Some(&block.slots[n])
}

/// Tidies some of this thread's blocks: after a burst of pins, scans look at what is in use and no more.
/// The slot at hand must come by `find_round` or `find_free` again, which raise the mark.
pub(super) fn tidy() {
    OWNED
        .try_with(|owned| {
            put_away();
            let mut owned = owned.borrow_mut();
            let own = owned.blocks.len();
            for _ in 0..own.min(TIDIED) {
                owned.tidied = (owned.tidied + 1) % own;
                owned.blocks[owned.tidied].tidy();
            }
        })
        .ok();
}

/// [`publish`], where the slots at hand are in use.
#[inline(never)]
pub(super) fn publish_elsewhere(
    record: u32,
    range: PageRange,
    location: &'static Location<'static>,
) -> &'static Slot {
    match next() {
        Some(slot) => {
            slot.fill(record, range, location);
            slot
        }
        None => publish_anywhere(record, range, location),
    }
}

/// The thread has no free slot in the block at hand: look in all others.
#[cold]
#[inline(never)]
fn publish_anywhere(
    record: u32,
    range: PageRange,
    location: &'static Location<'static>,
) -> &'static Slot {
    let own = OWNED.try_with(|owned| {
        let slot = owned.borrow_mut().find_free();
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
    let slot = publish_anywhere(record, range, location);
    // Away from it: before the thread fills the slot for itself, it must come by `find_round` or
    // `find_free`, which take the mark off.
    put_away();
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

/// Gives a thread that has no block yet one that nobody else had before.
#[cfg(all(test, not(any(lease_loom, lease_shuttle))))]
pub(super) fn begin_anew() {
    OWNED.with_borrow_mut(|owned| {
        assert!(owned.blocks.is_empty());
        owned.process = std::process::id();
        let block = BLOCKS.push(|_| Block::new());
        block.adopt();
        owned.blocks.push(block);
    });
}

/// How many slots of the thread's block at hand a scan looks at.
#[cfg(all(test, not(any(lease_loom, lease_shuttle))))]
pub(super) fn in_use_here() -> usize {
    HERE.with(Cell::get).map_or(0, |block| block.in_use().len())
}

/// The slot with this number, and its generation, if there is one.
pub(super) fn numbered(number: usize) -> Option<(&'static Slot, &'static AtomicU32)> {
    let blocks: &'static Blocks = &BLOCKS;
    let block = blocks.get(number / SLOTS)?;
    let n = number % SLOTS;
    Some((&block.slots[n], &block.generations[n]))
}

/// The number of a slot. It is found by the slot's address: looked up, not followed.
pub(super) fn number_of(slot: &'static Slot) -> usize {
    let blocks: &'static Blocks = &BLOCKS;
    let address = std::ptr::from_ref(slot).addr();
    match blocks.position_of(address) {
        Some(at) => at * SLOTS + blocks.get(at).map_or(0, |block| block.place_of(address)),
        None => unreachable!("every slot lies in a block of the table"),
    }
}

/// Every block that may have a pin in it.
#[inline]
pub(crate) fn all() -> impl Iterator<Item = &'static Block> {
    let blocks: &'static Blocks = &BLOCKS;
    blocks.iter()
}
