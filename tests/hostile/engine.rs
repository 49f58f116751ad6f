//! The hostile engine: what it frees is poison at once, and the next block it hands out.
//!
//! ```text
//!   table   page  -> generation | block + 1      0: a hole        read without a lock
//!   words   block -> generation | anything       or POISON        read and written by whoever has a pin
//!   free    the last block freed is the first to be given out, with a new generation
//! ```
//!
//! Words and table are atomics, so that a broken gate shows as poison and not as undefined behaviour.
//! Words are only ever accessed `Relaxed`: that what one holder did is seen by the next is the guard's
//! promise (**I7**), and nothing here helps it along.

use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Weak};

use layout_lease::{BlockMap, Drained, OpError, PageRange};
use parking_lot::Mutex;

/// Pages of the mapping.
pub(crate) const PAGES: u64 = 64;

/// Fewer blocks than pages: whatever is freed is wanted elsewhere.
const BLOCKS: u64 = 48;

/// What is behind a freed block. No generation is ever as great.
const POISON: u64 = 0xDEAD_BEEF_DEAD_BEEF;

/// Generations are kept above the bits that writers may change, and above a block's number.
const SHIFT: u32 = 16;

/// A page's block and its generation; 0 is a hole.
type Entry = u64;

pub(crate) struct Engine {
    words: Box<[AtomicU64]>,
    words_per_block: usize,
    table: Box<[AtomicU64]>,
    space: Mutex<Space>,
    /// Lives as long as the engine does.
    alive: Arc<()>,
    pub(crate) freed: AtomicU64,
    pub(crate) allocated: AtomicU64,
}

struct Space {
    /// Last in, first out.
    free: Vec<u64>,
    generation: u64,
}

/// What somebody who has a pin found.
#[derive(Clone, Copy)]
pub(crate) enum Violation {
    /// A word of a block that was freed.
    Poison { page: u64 },
    /// A word of a block that has been freed and given out again.
    Generation { page: u64, word: u64, own: u64 },
    /// Another block is behind the page than before.
    Moved { page: u64 },
    /// Somebody wrote into a block after it was freed. Found at the end.
    Scribbled { block: u64, word: u64 },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Poison { page } => write!(f, "poison in pinned page {page}"),
            Violation::Generation { page, word, own } => {
                write!(
                    f,
                    "pinned page {page} is of generation {own}, but holds {word:#x}"
                )
            }
            Violation::Moved { page } => write!(f, "pinned page {page} has another block now"),
            Violation::Scribbled { block, word } => {
                write!(
                    f,
                    "{word:#x} was written into block {block} after it was freed"
                )
            }
        }
    }
}

/// The pages that somebody has pinned or leased and looked up.
pub(crate) struct View(Vec<(u64, Entry)>);

impl View {
    /// Only these pages are still held.
    pub(crate) fn keep(&mut self, pages: PageRange) {
        self.0.retain(|(page, _)| pages.contains(*page));
    }
}

impl Engine {
    pub(crate) fn new(words_per_block: usize) -> Self {
        let poison = |_| AtomicU64::new(POISON);
        let words = (0..BLOCKS as usize * words_per_block).map(poison);
        Engine {
            words: words.collect(),
            words_per_block,
            table: (0..PAGES).map(|_| AtomicU64::new(0)).collect(),
            space: Mutex::new(Space {
                free: (0..BLOCKS).collect(),
                generation: 0,
            }),
            alive: Arc::new(()),
            freed: AtomicU64::new(0),
            allocated: AtomicU64::new(0),
        }
    }

    /// Tells whether the engine has been dropped.
    pub(crate) fn alive(&self) -> Weak<()> {
        Arc::downgrade(&self.alive)
    }

    fn block(&self, block: u64) -> &[AtomicU64] {
        let at = block as usize * self.words_per_block;
        &self.words[at..at + self.words_per_block]
    }

    fn block_of(&self, entry: Entry) -> &[AtomicU64] {
        self.block((entry & ((1 << SHIFT) - 1)) - 1)
    }

    fn slots(&self, pages: PageRange) -> &[AtomicU64] {
        let cut = |page: u64| page.min(PAGES) as usize;
        &self.table[cut(pages.start())..cut(pages.end())]
    }

    // ---- with a pin in hand -----------------------------------------------------------------------

    /// The blocks behind `pages`, which the caller has pinned.
    pub(crate) fn look_up(&self, pages: PageRange) -> View {
        let slots = self.slots(pages).iter();
        // Pairs with the store in `allocate`: who sees the block sees its stamps.
        let entries = slots.map(|slot| slot.load(Acquire));
        let pages = pages.start()..;
        View(
            pages
                .zip(entries)
                .filter(|(_, entry)| *entry != 0)
                .collect(),
        )
    }

    /// Reads every word of every block, and returns how many there were.
    pub(crate) fn check(&self, view: &View, mut report: impl FnMut(Violation)) -> u64 {
        for &(page, entry) in &view.0 {
            let own = entry >> SHIFT;
            for word in self.block_of(entry) {
                match word.load(Relaxed) {
                    POISON => report(Violation::Poison { page }),
                    word if word >> SHIFT == own => {}
                    word => report(Violation::Generation { page, word, own }),
                }
            }
            if self.table[page as usize].load(Acquire) != entry {
                report(Violation::Moved { page });
            }
        }
        view.0.len() as u64 * self.words_per_block as u64
    }

    /// Writes every block's words, as a device would, and returns how many there were.
    pub(crate) fn write(&self, view: &View, value: u16) -> u64 {
        for &(_, entry) in &view.0 {
            let stamp = entry >> SHIFT << SHIFT;
            let words = self.block_of(entry).iter();
            words.for_each(|word| word.store(stamp | u64::from(value), Relaxed));
        }
        view.0.len() as u64 * self.words_per_block as u64
    }

    // ---- blocks come and go -----------------------------------------------------------------------

    /// Gives the holes of `pages` blocks, as far as there are any.
    pub(crate) fn allocate(&self, pages: PageRange) {
        let mut space = self.space.lock();
        for slot in self.slots(pages) {
            if slot.load(Relaxed) == 0 {
                // Pairs with the load in `look_up`.
                slot.store(self.fresh(&mut space), Release);
            }
        }
    }

    /// The block that was freed last, stamped anew; 0 if there is none.
    fn fresh(&self, space: &mut Space) -> Entry {
        let Some(block) = space.free.pop() else {
            return 0;
        };
        space.generation += 1;
        let stamp = space.generation << SHIFT;
        self.block(block)
            .iter()
            .for_each(|word| word.store(stamp, Relaxed));
        self.allocated.fetch_add(1, Relaxed);
        stamp | (block + 1)
    }

    /// Makes a page a hole, and its block poison.
    fn free(&self, space: &mut Space, slot: &AtomicU64) -> u64 {
        let entry = slot.swap(0, Relaxed);
        if entry == 0 {
            return 0;
        }
        let words = self.block_of(entry).iter();
        words.for_each(|word| word.store(POISON, Relaxed));
        space.free.push((entry & ((1 << SHIFT) - 1)) - 1);
        self.freed.fetch_add(1, Relaxed);
        1
    }

    fn free_all(&self, space: &mut Space, slots: &[AtomicU64]) -> u64 {
        slots.iter().map(|slot| self.free(space, slot)).sum()
    }

    fn admit(&self, pages: PageRange, proof: &Drained<'_, Self>) {
        assert!(proof.is_of(self), "a proof of another mapping");
        assert!(proof.covers(pages), "{proof:?} does not cover {pages}");
    }

    /// Counts all blocks, and looks whether somebody wrote into one that was free. Nobody has a pin.
    pub(crate) fn audit(&self, mut report: impl FnMut(Violation)) {
        let space = self.space.lock();
        let entries = self.look_up(PageRange::ALL);
        assert_eq!(
            (space.free.len() + entries.0.len()) as u64,
            BLOCKS,
            "blocks are lost"
        );
        self.check(&entries, &mut report);
        for &block in &space.free {
            let words = self.block(block).iter().map(|word| word.load(Relaxed));
            let bad = words.filter(|&word| word != POISON);
            bad.for_each(|word| report(Violation::Scribbled { block, word }));
        }
    }
}

fn from(page: u64) -> PageRange {
    PageRange::new(page, u64::MAX).expect("a page that can be named")
}

type Freed = Result<u64, OpError<Infallible>>;

impl BlockMap for Engine {
    type Error = Infallible;

    fn punch_hole(&self, pages: PageRange, proof: &Drained<'_, Self>) -> Freed {
        self.admit(pages, proof);
        Ok(self.free_all(&mut self.space.lock(), self.slots(pages)))
    }

    /// Puts another block behind each page: the same one, usually, with a new generation.
    fn zero_range(&self, pages: PageRange, proof: &Drained<'_, Self>) -> Freed {
        self.admit(pages, proof);
        let mut space = self.space.lock();
        let mut freed = 0;
        for slot in self.slots(pages) {
            if self.free(&mut space, slot) == 1 {
                freed += 1;
                slot.store(self.fresh(&mut space), Release);
            }
        }
        Ok(freed)
    }

    fn truncate(&self, new_len: u64, proof: &Drained<'_, Self>) -> Freed {
        self.admit(from(new_len), proof);
        Ok(self.free_all(&mut self.space.lock(), self.slots(from(new_len))))
    }

    fn collapse_range(&self, pages: PageRange, proof: &Drained<'_, Self>) -> Freed {
        self.admit(from(pages.start()), proof);
        let mut space = self.space.lock();
        let freed = self.free_all(&mut space, self.slots(pages));
        let moved = self.slots(from(pages.start()));
        let by = self.slots(pages).len();
        for at in by..moved.len() {
            moved[at - by].store(moved[at].swap(0, Relaxed), Release);
        }
        Ok(freed)
    }

    /// What does not fit in the table any more is freed.
    fn insert_range(&self, pages: PageRange, proof: &Drained<'_, Self>) -> Freed {
        self.admit(from(pages.start()), proof);
        let mut space = self.space.lock();
        let moved = self.slots(from(pages.start()));
        let by = self.slots(pages).len();
        let freed = self.free_all(&mut space, &moved[moved.len() - by..]);
        for at in (by..moved.len()).rev() {
            moved[at].store(moved[at - by].swap(0, Relaxed), Release);
        }
        Ok(freed)
    }
}
