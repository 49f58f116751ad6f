//! The engine: pages in blocks of one file, and I/O that holds its own pin.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use layout_lease::maps::ExtentMap;
use layout_lease::{Drained, LayoutGuard, PagePin, PageRange};
use tempfile::NamedTempFile;
use tokio::task::spawn_blocking;

use crate::Outcome;

/// The pages of the engine.
pub(crate) const PAGES: u64 = 64;

/// Compactors, and the pages that each gives freed blocks to.
pub(crate) const COMPACTORS: u64 = 2;
pub(crate) const HEIRS: u64 = 4;

/// Just as many as there are pages: whatever is freed is used again at once.
const BLOCKS: u64 = PAGES + COMPACTORS * HEIRS;

const BLOCK: usize = 4096;

/// A block in memory, where a device can put it.
#[repr(C, align(4096))]
struct Buffer([u8; BLOCK]);

impl Buffer {
    fn new() -> Box<Buffer> {
        Box::new(Buffer([0; BLOCK]))
    }

    fn stamp(&mut self, word: impl Fn(u64) -> u64) {
        for (n, bytes) in (0..).zip(self.0.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word(n).to_ne_bytes());
        }
    }

    /// How many bytes are in words that are not as they should be.
    fn wrong(&self, word: impl Fn(u64) -> u64) -> u64 {
        let words = (0..).zip(self.0.chunks_exact(8));
        8 * words.filter(|(n, b)| **b != word(*n).to_ne_bytes()).count() as u64
    }
}

/// The word at place `n` of a page of the engine.
fn word(page: u64, n: u64) -> u64 {
    0xda7a_0000_0000_0000 | page << 16 | n
}

/// The word at place `n` of a block that was freed and given to an heir.
fn heirloom(page: u64, generation: u64, n: u64) -> u64 {
    0xb10c_0000_0000_0000 | generation << 24 | page << 16 | n
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    /// Tasks that were cancelled: while they waited for a pin, while they awaited I/O.
    pub(crate) cancelled_pinning: AtomicU64,
    pub(crate) cancelled_in_io: AtomicU64,
    /// I/O that ended when its task was gone.
    pub(crate) outlived: AtomicU64,
    pub(crate) breaks: AtomicU64,
    /// Holders that breaks found in their way.
    pub(crate) holders: AtomicU64,
    pub(crate) timeouts: AtomicU64,
    pub(crate) kept: AtomicU64,
    pub(crate) given_up: AtomicU64,
    /// Leases that were recalled, and that could keep a part.
    pub(crate) recalled: AtomicU64,
    pub(crate) shrunk: AtomicU64,
    pub(crate) moved: AtomicU64,
    /// Bytes that were not what had been written; bytes that reached a block after it had been freed.
    pub(crate) misread: AtomicU64,
    pub(crate) hit: AtomicU64,
}

pub(crate) fn add(count: &AtomicU64, n: u64) {
    count.fetch_add(n, Ordering::Relaxed);
}

pub(crate) struct Engine {
    pub(crate) guard: Arc<LayoutGuard<ExtentMap>>,
    /// The mistake: the pin is in the task, and not in the operation.
    pin_in_task: bool,
    file: File,
    pub(crate) direct: bool,
    _named: NamedTempFile,
    pub(crate) over: AtomicBool,
    pub(crate) counts: Counts,
}

impl Engine {
    pub(crate) fn new(dir: &Path, pin_in_task: bool) -> Outcome<Arc<Engine>> {
        let named = NamedTempFile::new_in(dir)?;
        named.as_file().set_len(BLOCKS * BLOCK as u64)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let o_direct = rustix::fs::OFlags::DIRECT.bits() as i32;
        let opened = options.clone().custom_flags(o_direct).open(named.path());
        // In memory there is nothing to read from but memory, whatever the flag says.
        const TMPFS: u64 = 0x0102_1994;
        let in_memory = rustix::fs::fstatfs(&named)?.f_type as u64 == TMPFS;
        let (file, direct) = match opened {
            Ok(file) => (file, !in_memory),
            Err(_) => (options.open(named.path())?, false),
        };
        let engine = Engine {
            guard: Arc::new(LayoutGuard::new(ExtentMap::new(BLOCKS))),
            pin_in_task,
            file,
            direct,
            _named: named,
            over: AtomicBool::new(false),
            counts: Counts::default(),
        };
        engine.guard.map().allocate(0..PAGES)?;
        let mut buffer = Buffer::new();
        for page in 0..PAGES {
            buffer.stamp(|n| word(page, n));
            engine.put(&buffer, engine.block(page)?)?;
        }
        Ok(Arc::new(engine))
    }

    fn put(&self, buffer: &Buffer, block: u64) -> io::Result<()> {
        self.file.write_all_at(&buffer.0, block * BLOCK as u64)
    }

    fn get(&self, buffer: &mut Buffer, block: u64) -> io::Result<()> {
        self.file.read_exact_at(&mut buffer.0, block * BLOCK as u64)
    }

    fn block(&self, page: u64) -> Outcome<u64> {
        let block = self.guard.map().lookup(page);
        block.ok_or_else(|| format!("page {page} has no block").into())
    }

    /// Reads or writes the pages that are pinned. Dropped at any point, the I/O goes on: so it has the pin, and
    /// not whoever awaits it.
    pub(crate) async fn io(
        self: &Arc<Self>,
        pin: PagePin,
        write: bool,
        delay: Duration,
    ) -> Outcome<()> {
        let pages = pin.range().start()..pin.range().end();
        // Under the pin: whose blocks they are cannot change any more.
        let blocks: Outcome<Vec<u64>> = pages.clone().map(|page| self.block(page)).collect();
        let blocks = blocks?;
        let (carried, kept) = match self.pin_in_task {
            false => (Some(pin), None),
            true => (None, Some(pin)),
        };
        let task = Arc::new(());
        let (engine, awaited) = (Arc::clone(self), Arc::downgrade(&task));
        let operation = spawn_blocking(move || {
            thread::sleep(delay); // as long as a slow disk takes
            let mut buffer = Buffer::new();
            for (page, block) in pages.zip(blocks) {
                if write {
                    buffer.stamp(|n| word(page, n));
                    engine.put(&buffer, block)?;
                } else {
                    engine.get(&mut buffer, block)?;
                    add(&engine.counts.misread, buffer.wrong(|n| word(page, n)));
                }
            }
            let counts = &engine.counts;
            add(if write { &counts.writes } else { &counts.reads }, 1);
            add(&counts.outlived, u64::from(awaited.strong_count() == 0));
            drop(carried);
            io::Result::Ok(())
        });
        operation.await??;
        drop((task, kept));
        Ok(())
    }

    /// Moves the pages of the proof to other blocks, and gives those they had to `heirs`, who stamp them.
    /// Like any I/O it would go on if nobody awaited it; so it has the proof.
    pub(crate) async fn relocate(
        self: &Arc<Self>,
        proof: Drained<'static, ExtentMap>,
        heirs: PageRange,
        generation: u64,
    ) -> Outcome<u64> {
        let engine = Arc::clone(self);
        let work = spawn_blocking(move || {
            let map = engine.guard.map();
            let Some(&pages) = proof.ranges().first() else {
                return Ok(0);
            };
            let mut saved = Vec::new();
            for page in pages.start()..pages.end() {
                let mut buffer = Buffer::new();
                engine.get(&mut buffer, engine.block(page)?)?;
                saved.push((page, buffer));
            }
            let freed = proof.punch_hole(pages)?;
            let mut stamp = Buffer::new();
            map.allocate(heirs)?;
            for page in heirs.start()..heirs.end() {
                stamp.stamp(|n| heirloom(page, generation, n));
                engine.put(&stamp, engine.block(page)?)?;
            }
            map.allocate(pages)?;
            for (page, buffer) in saved {
                engine.put(&buffer, engine.block(page)?)?;
            }
            drop(proof);
            Outcome::Ok(freed)
        });
        work.await?
    }

    /// Whether the heirs still have what they stamped. How many bytes they have not.
    pub(crate) async fn check(self: &Arc<Self>, heirs: PageRange, generation: u64) -> Outcome<u64> {
        let engine = Arc::clone(self);
        let work = spawn_blocking(move || {
            let mut buffer = Buffer::new();
            let mut wrong = 0;
            for page in heirs.start()..heirs.end() {
                engine.get(&mut buffer, engine.block(page)?)?;
                wrong += buffer.wrong(|n| heirloom(page, generation, n));
            }
            Outcome::Ok(wrong)
        });
        work.await?
    }

    /// Compares all pages. How many bytes are wrong.
    pub(crate) fn check_all(&self) -> Outcome<u64> {
        let (mut buffer, mut wrong) = (Buffer::new(), 0);
        for page in 0..PAGES {
            self.get(&mut buffer, self.block(page)?)?;
            wrong += buffer.wrong(|n| word(page, n));
        }
        Ok(wrong)
    }
}
