//! The mapped pool file: all the `unsafe` of the example is in this folder. (The one other `unsafe` is where
//! the demo gives the protection up on purpose.)
//!
//! **Problem.** Bytes of a shared file mapping may be lent out as `&[u8]` only while nobody writes
//! them, and touched only while the file is long enough: behind its end every access is a SIGBUS.
//!
//! **Idea.** The mapping lives *inside* the [`LayoutGuard`] that guards it, and asks for evidence
//! from that guard: a [`PagePin`] to read, a [`Drained`] proof to change. Two values, one rule, as
//! with a read-write lock of page ranges, but without a lock:
//!
//! | what | needs | so that |
//! | --- | --- | --- |
//! | [`Pinned`], which derefs to `[u8]` | a pin of the pages | the bytes stay and stay the same |
//! | [`Filling`], which derefs to `[u8]`, and mutably | a proof that covers the pages, and owns it | nobody else touches them |
//! | [`Ring`], a device that works on the bytes | a pin that it reads under, a proof that it writes under | the same |
//! | [`Mapped::punch`] | a proof that covers the pages | nobody reads them |
//! | [`Mapped::shrink`] | a proof that covers the pages behind the new end | no SIGBUS |
//! | [`Mapped::load`], [`Mapped::store`] (directory) | nothing: atomics, on pages that never go | |
//! | [`Mapped::grow`], [`Mapped::reserve`], [`Mapped::flush`], [`Mapped::fence`] | nothing: they change no byte | |
//!
//! Every function here is safe to call, whatever the rest of the store does. What it rests on:
//!
//! - **I1, I2, I3** of the crate: while a proof lives, no pin and no other proof overlaps it. (A
//!   `Filling` owns its proof, so that nobody else can use it meanwhile.)
//! - **I7**: what was written under a proof is seen by later pins, and reads under a pin end before a
//!   later proof begins.
//! - **I9**: a pin keeps the guard's map, so this mapping, from being dropped.
//! - **I4**: a leaked pin or proof only delays.
//! - No other process changes or truncates the file. The crate cannot promise that. The store locks
//!   the file (`flock`), which holds back everybody who also asks.

mod lent;
mod lines;
mod ring;

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use layout_lease::{Drained, LayoutGuard, PageRange, TryPinError};
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate, fstat, ftruncate};
use rustix::io::{Errno, retry_on_intr};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

pub(crate) use self::lent::{Filling, Pinned};
pub(crate) use self::lines::{Dirty, WriteBack, drain_lines};
pub(crate) use self::ring::{Landed, Lent, Ring};
use super::format::{DIRECTORY, ENTRIES_PER_PAGE, PAGE, bytes_of, entry_bytes};
use super::media::{Event, Media};

/// One shared mapping of the pool file, as long as the pool may ever become. So growing never moves
/// it; what lies behind the end of the file is address space without memory.
struct Mapping {
    // INVARIANT: `base` is the start of a live mapping of `reserved` pages, until drop.
    base: NonNull<u8>,
    reserved: u64,
    // INVARIANT: the file has at least this many pages, and `floor <= pages <= reserved`.
    pages: AtomicU64,
    /// The pages before this one (superblocks, directory) never go, and are no records.
    floor: u64,
    resizing: Mutex<()>,
    file: File,
    media: Box<dyn Media>,
    writable: bool,
    punches: AtomicBool,
    unpunched: AtomicU64,
    reserves: AtomicBool,
}

// SAFETY: the mapping is memory of the process and belongs to no thread. Access to its bytes is
// ruled by pins and proofs (see the head of this file), which may be used from any thread.
unsafe impl Send for Mapping {}
// SAFETY: as above. Every other field is Sync by itself.
unsafe impl Sync for Mapping {}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({} pages)", self.pages.load(Ordering::Relaxed))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `reserved` are what mmap gave. Nobody uses the mapping any more: a
        // `Pinned` holds a pin, and by I9 the guard's map, so this value, outlives every pin.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), (self.reserved * PAGE) as usize) };
    }
}

/// The mapping together with the engine's own state: what a [`LayoutGuard`] of a pool guards.
#[derive(Debug)]
pub(crate) struct Mapped<E> {
    mapping: Mapping,
    engine: E,
    unprotected: OnceLock<Unprotected>,
}

/// What [`Mapped::without_lease`] leaves of the protection.
#[derive(Debug)]
struct Unprotected {
    /// Where readers pin instead: no break ever looks there.
    elsewhere: LayoutGuard<()>,
    shrinks: bool,
}

/// What the file is asked to be when it is mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Pages the file may grow to.
    pub(crate) capacity: u64,
    /// Pages it never goes below.
    pub(crate) floor: u64,
    pub(crate) writable: bool,
}

/// Why there is no [`Pinned`]. Both mean: look the record up again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NotPinned {
    Refused(TryPinError),
    /// The file no longer has, or never had, these pages.
    Outside,
}

impl<E> Mapped<E> {
    /// Maps `file`. The engine's state is made from the number of pages the file has.
    pub(crate) fn new(
        file: File,
        media: Box<dyn Media>,
        shape: Shape,
        engine: impl FnOnce(u64) -> E,
    ) -> io::Result<Mapped<E>> {
        let pages = (file.metadata()?.len() / PAGE).min(shape.capacity);
        if pages < shape.floor {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let len = usize::try_from(shape.capacity * PAGE).map_err(io::Error::other)?;
        let mut prot = ProtFlags::READ;
        prot.set(ProtFlags::WRITE, shape.writable);
        let flags = if media.map_sync() {
            // Without `SHARED_VALIDATE` an old kernel would ignore `SYNC`.
            MapFlags::SHARED_VALIDATE | MapFlags::SYNC
        } else {
            MapFlags::SHARED
        };
        // SAFETY: a new mapping at an address of the kernel's choice replaces no other.
        let base = unsafe { mmap(std::ptr::null_mut(), len, prot, flags, &file, 0)? };
        let mapping = Mapping {
            base: NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?,
            reserved: shape.capacity,
            pages: AtomicU64::new(pages),
            floor: shape.floor,
            resizing: Mutex::new(()),
            file,
            media,
            writable: shape.writable,
            punches: AtomicBool::new(true),
            unpunched: AtomicU64::new(0),
            reserves: AtomicBool::new(true),
        };
        let engine = engine(pages);
        Ok(Mapped {
            mapping,
            engine,
            unprotected: OnceLock::new(),
        })
    }

    /// From now on breaks find nobody to wait for: readers pin the same pages of another guard. So the
    /// same code does the same things, and what it frees may be being read.
    ///
    /// Unless it still `shrinks`, the file is not cut off any more: reading behind its end is a SIGBUS.
    ///
    /// # Safety
    ///
    /// None. Whoever holds a [`Pinned`] sees its bytes change, which no `&[u8]` may, so anything may
    /// follow. Call it in a process whose end is expected, and drop every `Pinned` before the guard.
    pub(crate) unsafe fn without_lease(&self, shrinks: bool) {
        let elsewhere = LayoutGuard::default();
        let _ = self.unprotected.set(Unprotected { elsewhere, shrinks });
    }

    /// Whether the file may be cut off.
    pub(crate) fn shrinks(&self) -> bool {
        self.unprotected.get().is_none_or(|u| u.shrinks)
    }

    pub(crate) fn engine(&self) -> &E {
        &self.engine
    }

    pub(crate) fn media(&self) -> &dyn Media {
        &*self.mapping.media
    }

    pub(crate) fn writable(&self) -> bool {
        self.mapping.writable
    }

    /// Freed pages whose blocks the file system would not take back, so far.
    pub(crate) fn unpunched(&self) -> u64 {
        self.mapping.unpunched.load(Ordering::Relaxed)
    }

    /// Bytes that the file system has allocated to the file: what `du` shows.
    pub(crate) fn allocated(&self) -> io::Result<u64> {
        Ok(fstat(&self.mapping.file)?.st_blocks as u64 * 512)
    }

    /// Whether `other` is the pool file, by whatever name it was opened.
    pub(crate) fn is_of(&self, other: &File) -> io::Result<bool> {
        let (ours, other) = (fstat(&self.mapping.file)?, fstat(other)?);
        Ok((ours.st_dev, ours.st_ino) == (other.st_dev, other.st_ino))
    }

    /// Whether these are pages of records that the file has now.
    fn has(&self, pages: PageRange) -> bool {
        self.mapping.floor <= pages.start()
            && pages.end() <= self.mapping.pages.load(Ordering::Acquire)
    }

    // ------------------------------------------------------------------------- reading, by a pin

    /// Pins `pages` and lends their bytes. Never waits.
    #[track_caller]
    pub(crate) fn pin(guard: &LayoutGuard<Self>, pages: PageRange) -> Result<Pinned, NotPinned> {
        let map = guard.map();
        let pin = match map.unprotected.get() {
            None => guard.try_pin(pages),
            Some(unprotected) => unprotected.elsewhere.try_pin(pages),
        };
        let pin = pin.map_err(NotPinned::Refused)?;
        // Asked after pinning: from here on nobody can cut these pages off.
        if !map.has(pages) {
            return Err(NotPinned::Outside);
        }
        // SAFETY: `has` has just found the pages to lie within the mapping.
        let base = unsafe { map.mapping.base.add((pages.start() * PAGE) as usize) };
        // INVARIANT of Pinned: `pin` is of the guard that owns the mapping that `base` points into
        // (it came from `guard`, and `map` is that guard's), and covers the `len` bytes from there.
        // (Or `without_lease` was called, which is for its caller to answer for.)
        let len = (pages.len() * PAGE) as usize;
        Ok(Pinned { base, len, pin })
    }

    // ---------------------------------------------------------------------- changing, by a proof

    /// Lends the bytes of `pages` to whoever has the proof for them, to be changed.
    pub(crate) fn fill<'g>(
        proof: Drained<'g, Self>,
        pages: PageRange,
    ) -> io::Result<Filling<'g, E>> {
        let map = proof.guard().map();
        map.may_change(pages, &proof)?;
        let bytes = bytes_of(pages);
        // SAFETY: `may_change` has just found the pages to lie within the mapping.
        let base = unsafe { map.mapping.base.add(bytes.start as usize) };
        // INVARIANT of Filling: the pages of `bytes`, which start at `base`, are of the mapping of
        // `proof`'s guard, lie in the file, and are covered by the proof.
        Ok(Filling { base, bytes, proof })
    }

    /// Gives the blocks behind `pages` back to the file system, if that takes them. The error is for
    /// a proof that does not fit; a file system that cannot punch holes is counted, and asked no more.
    pub(crate) fn punch(&self, proof: &Drained<'_, Self>, pages: PageRange) -> io::Result<()> {
        self.may_change(pages, proof)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if !matches!(
            self.fallocate(flags, pages, &self.mapping.punches),
            Ok(true)
        ) {
            self.mapping
                .unpunched
                .fetch_add(pages.len(), Ordering::Relaxed);
        } else {
            self.mapping.media.saw(Event::Punch { pages });
        }
        Ok(())
    }

    /// Cuts the file off behind `pages` pages. The proof covers every page from there on.
    pub(crate) fn shrink(&self, proof: &Drained<'_, Self>, pages: u64) -> io::Result<()> {
        let behind = PageRange::from_bounds(pages..).map_err(io::Error::other)?;
        let _resizing = self.mapping.resizing.lock();
        let now = self.mapping.pages.load(Ordering::Relaxed);
        self.evidence(behind, proof)?;
        if pages < self.mapping.floor || now < pages {
            return Err(ErrorKind::InvalidInput.into());
        }
        // INVARIANT: the length that is promised goes down before the file's does.
        self.mapping.pages.store(pages, Ordering::Release);
        if let Err(e) = retry_on_intr(|| ftruncate(&self.mapping.file, pages * PAGE)) {
            self.mapping.pages.store(now, Ordering::Release);
            return Err(e.into());
        }
        self.mapping.media.saw(Event::Length { pages });
        Ok(())
    }

    fn may_change(&self, pages: PageRange, proof: &Drained<'_, Self>) -> io::Result<()> {
        self.evidence(pages, proof)?;
        if !self.has(pages) {
            return Err(ErrorKind::InvalidInput.into());
        }
        Ok(())
    }

    fn evidence(&self, pages: PageRange, proof: &Drained<'_, Self>) -> io::Result<()> {
        if !self.mapping.writable {
            return Err(ErrorKind::ReadOnlyFilesystem.into());
        }
        if !proof.is_of(self) || !proof.covers(pages) {
            return Err(io::Error::other(format!(
                "no proof that pages {pages} are idle"
            )));
        }
        Ok(())
    }

    // -------------------------------------------------------------- changing no byte of a record

    /// Makes the file at least `pages` pages long.
    pub(crate) fn grow(&self, pages: u64) -> io::Result<()> {
        let _resizing = self.mapping.resizing.lock();
        if pages > self.mapping.reserved || !self.mapping.writable {
            return Err(ErrorKind::InvalidInput.into());
        }
        if self.mapping.pages.load(Ordering::Relaxed) < pages {
            retry_on_intr(|| ftruncate(&self.mapping.file, pages * PAGE))?;
            // INVARIANT: the length that is promised goes up after the file's has.
            self.mapping.pages.store(pages, Ordering::Release);
            self.mapping.media.saw(Event::Length { pages });
        }
        Ok(())
    }

    /// Has the file system allocate the blocks of `pages` now: a store to a page of a sparse file on
    /// a full file system would be a SIGBUS, this is an error.
    pub(crate) fn reserve(&self, pages: PageRange) -> io::Result<()> {
        self.fallocate(FallocateFlags::empty(), pages, &self.mapping.reserves)?;
        Ok(())
    }

    fn fallocate(
        &self,
        flags: FallocateFlags,
        pages: PageRange,
        works: &AtomicBool,
    ) -> io::Result<bool> {
        if !works.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let (at, len) = (pages.start() * PAGE, pages.len() * PAGE);
        match retry_on_intr(|| fallocate(&self.mapping.file, flags, at, len)) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                works.store(false, Ordering::Relaxed);
                Ok(false)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Starts writing these bytes back. They are durable after the next [`fence`](Self::fence) by the
    /// same thread.
    pub(crate) fn flush(&self, bytes: Range<u64>) -> io::Result<()> {
        if bytes.start >= bytes.end || bytes.end > self.mapping.reserved * PAGE {
            return Err(ErrorKind::InvalidInput.into());
        }
        let mapping = &self.mapping;
        mapping.media.flush(&Dirty { mapping, bytes })
    }

    /// Waits until what this thread has flushed is durable.
    pub(crate) fn fence(&self) -> io::Result<()> {
        self.mapping.media.fence(&self.mapping.file)
    }

    // ------------------------------------------------------------------------- the directory

    /// The directory entry `slot`; `None` behind the directory's end.
    pub(crate) fn load(&self, slot: u64) -> Option<u64> {
        Some(u64::from_le(self.word(slot)?.load(Ordering::Relaxed)))
    }

    /// Stores the directory entry `slot` in one piece. What was stored before it is not later.
    pub(crate) fn store(&self, slot: u64, entry: u64) -> io::Result<()> {
        match self.word(slot) {
            Some(word) if self.mapping.writable => word.store(entry.to_le(), Ordering::Release),
            _ => return Err(ErrorKind::InvalidInput.into()),
        }
        let (at, bytes) = (entry_bytes(slot).start, &entry.to_le_bytes());
        self.mapping.media.saw(Event::Store { at, bytes });
        Ok(())
    }

    /// Makes the directory durable as it is seen. Whoever had the pool before may have been killed amid a change, or
    /// have failed to flush it: then an entry is seen that is not on the media.
    pub(crate) fn settle(&self) -> io::Result<()> {
        if self.mapping.media.forgets() {
            for slot in (0..self.mapping.reserved).step_by(ENTRIES_PER_PAGE as usize) {
                if let Some(entry) = self.load(slot) {
                    self.store(slot, entry)?;
                }
            }
        }
        self.flush(DIRECTORY * PAGE..self.mapping.floor * PAGE)?;
        self.fence()
    }

    fn word(&self, slot: u64) -> Option<&AtomicU64> {
        let at = entry_bytes(slot).start;
        if slot >= self.mapping.reserved || at + 8 > self.mapping.floor * PAGE {
            return None;
        }
        // SAFETY: the 8 bytes lie before `floor`, so in the mapping and always in the file; they are
        // aligned, since the mapping starts at a page boundary. Those pages are never lent as bytes
        // nor written to but through such atomics (`has` refuses them). The mapping lives as long as
        // `self`. In a read-only mapping only relaxed loads are made, which may be.
        Some(unsafe {
            self.mapping
                .base
                .add(at as usize)
                .cast::<AtomicU64>()
                .as_ref()
        })
    }
}
