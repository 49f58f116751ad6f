//! The mapped pool file: all the `unsafe` of the example, and so a long file. (The one other `unsafe` is
//! where the demo gives the protection up on purpose.)
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

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use std::arch::asm;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::slice;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use io_uring::{IoUring, Probe, opcode, types};
use layout_lease::{Drained, LayoutGuard, PagePin, PageRange, PinToken, TryPinError};
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate, fstat, ftruncate};
use rustix::io::{Errno, retry_on_intr};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::format::{PAGE, bytes_of, entry_bytes};
use super::media::{Event, Media};

// -------------------------------------------------------------------------------------- mapping

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

// ---------------------------------------------------------------------------------- cache lines

/// A range of the mapping that was stored to.
#[derive(Debug)]
pub(crate) struct Dirty<'a> {
    mapping: &'a Mapping,
    bytes: Range<u64>,
}

impl Dirty<'_> {
    /// Where they are in the file.
    #[allow(dead_code, reason = "the media that ask are in the tests")]
    pub(crate) fn bytes(&self) -> Range<u64> {
        self.bytes.clone()
    }

    /// Starts writing their cache lines back to memory; [`drain_lines`] waits for that.
    pub(crate) fn write_back(&self, with: WriteBack) {
        // No processor that has these instructions has shorter lines.
        const LINE: u64 = 64;
        let lines = self.bytes.start / LINE * LINE..self.bytes.end;
        for at in lines.step_by(LINE as usize) {
            // SAFETY: `Mapped::flush`, which alone makes a `Dirty`, has checked that the bytes lie in
            // the mapping, whose start is a page boundary; so the line's first byte does, too.
            let line = unsafe { self.mapping.base.add(at as usize) }.as_ptr();
            // SAFETY: these change no byte and no register. They may fault like a load: the file has
            // the page, since the bytes were just stored to. A processor without the instruction
            // would end the process, no worse; `of_this_processor` asks first.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                if with == WriteBack::Clwb {
                    asm!("clwb [{}]", in(reg) line, options(nostack, preserves_flags));
                } else {
                    asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags));
                }
            }
            // SAFETY: as above. This is `dc cvap`, for assemblers that do not know it.
            #[cfg(target_arch = "aarch64")]
            unsafe {
                asm!("sys #3, c7, c12, #1, {}", in(reg) line, options(nostack, preserves_flags));
            }
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            unreachable!("{with:?} for {line:p}: `of_this_processor` has found none");
        }
    }
}

/// Waits until the lines that this thread has written back are in memory that outlives a power failure.
pub(crate) fn drain_lines() {
    // SAFETY: it only waits. As it may touch memory for all the compiler knows, no store moves across.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("sfence", options(nostack, preserves_flags));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("dsb sy", options(nostack, preserves_flags));
    }
}

/// The instruction that writes a cache line back.
#[allow(dead_code, reason = "no processor has all of them")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteBack {
    /// x86-64: keeps the line in the cache.
    Clwb,
    /// x86-64: drops it.
    Clflushopt,
    /// AArch64: to the point of persistence.
    DcCvap,
}

impl WriteBack {
    /// The best that this processor has.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn of_this_processor() -> Option<WriteBack> {
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        const LEAF: u32 = 7;
        // SAFETY: every x86-64 processor has this instruction, and the leaf is asked for first.
        #[allow(unused_unsafe, reason = "newer compilers call it safe")]
        let features = unsafe {
            if __cpuid(0).eax < LEAF {
                return None;
            }
            __cpuid_count(LEAF, 0).ebx
        };
        let known = [(24, WriteBack::Clwb), (23, WriteBack::Clflushopt)];
        let has = known.into_iter().find(|(bit, _)| features >> bit & 1 == 1);
        has.map(|(_, with)| with)
    }

    /// The best that this processor has.
    #[cfg(target_arch = "aarch64")]
    pub(crate) fn of_this_processor() -> Option<WriteBack> {
        std::arch::is_aarch64_feature_detected!("dpb").then_some(WriteBack::DcCvap)
    }

    /// The best that this processor has.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub(crate) fn of_this_processor() -> Option<WriteBack> {
        None
    }
}

// -------------------------------------------------------------------------------------- filling

/// Bytes of the pool, lent by a proof: nobody else reads or writes them. Dropping it gives up the proof.
#[derive(Debug)]
pub(crate) struct Filling<'g, E> {
    base: NonNull<u8>,
    bytes: Range<u64>,
    proof: Drained<'g, Mapped<E>>,
}

impl<E> Filling<'_, E> {
    /// Starts writing them back, as [`Mapped::flush`].
    pub(crate) fn flush(&self) -> io::Result<()> {
        let map = self.proof.guard().map();
        let (at, bytes) = (self.bytes.start, &**self);
        map.mapping.media.saw(Event::Store { at, bytes });
        map.flush(self.bytes.clone())
    }
}

impl<E> Deref for Filling<'_, E> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let len = (self.bytes.end - self.bytes.start) as usize;
        // SAFETY: as in `deref_mut`, of which this is the half.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), len) }
    }
}

impl<E> DerefMut for Filling<'_, E> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = (self.bytes.end - self.bytes.start) as usize;
        // SAFETY: the bytes are those of pages that `proof` covers (invariant of `Filling`).
        // - They are mapped: the proof borrows the guard, which owns the mapping.
        // - They are in the file: they were, and `shrink` wants a proof of its own for them.
        // - Nobody reads them: while the proof lives no pin overlaps it (I1, I2), so no `Pinned` lends
        //   them; and nobody writes them: no other proof does either (I3), and this one is in here.
        // - What was done with them under pins and proofs before is over, and visible (I7).
        // So they are ours alone for as long as `self` is borrowed, and bytes may have any value.
        unsafe { slice::from_raw_parts_mut(self.base.as_ptr(), len) }
    }
}

// --------------------------------------------------------------------------------------- pinned

/// Bytes of the pool, lent by a pin. They stay what they are until this is dropped; frees, moves and
/// truncations of these pages wait for that.
#[derive(Debug)]
#[must_use = "dropping it gives the pages back"]
pub(crate) struct Pinned {
    base: NonNull<u8>,
    len: usize,
    pin: PagePin,
}

// SAFETY: it is a shared view of bytes that nobody changes (see `deref`), and `PagePin` may be
// dropped on any thread (I9).
unsafe impl Send for Pinned {}
// SAFETY: as above; it lends only `&[u8]`.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// The pin that holds the pages.
    pub(crate) fn pin(&self) -> &PagePin {
        &self.pin
    }
}

impl Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are those of the pages that `pin` holds (invariant of `Pinned::base`).
        // - They are mapped: by I9 the guard's map, which owns the mapping, outlives the pin.
        // - They are in the file: it had them after the pin was granted, and `shrink` wants a proof.
        // - Nobody writes them: `fill` and `punch` want a proof, and by I1 and I2 there is none
        //   while the pin lives. By I7 everything written under an earlier proof is visible.
        // So they are initialised and immutable for as long as `self` is borrowed.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

// ----------------------------------------------------------------------------------------- ring

/// An io_uring between the mapping and files: the device works on the mapped bytes themselves.
///
/// What a device reads is pinned, and the pin travels with the operation: its token is the operation's
/// `user_data`. What a device writes is covered by a proof, which stays here until it has finished.
pub(crate) struct Ring<'g, E> {
    uring: IoUring,
    guard: &'g LayoutGuard<Mapped<E>>,
    /// By `user_data`: a token, or a number below 2^32, which no token has.
    flights: HashMap<u64, Flight<'g, E>>,
    incoming: u64,
    /// Of the superblock's page, which is never broken. It keeps the mapping from going (I9), even if
    /// this is leaked while a device writes to it.
    alive: Option<PagePin>,
}

/// An operation under way.
struct Flight<'g, E> {
    file: File,
    bytes: Bytes<'g, E>,
}

enum Bytes<'g, E> {
    /// To a file. The pin is in the token.
    Out { base: NonNull<u8>, len: usize },
    /// From a file.
    In(Filling<'g, E>),
}

/// An operation that has ended, and what it was about.
#[derive(Debug)]
pub(crate) struct Landed<'g, E> {
    pub(crate) id: u64,
    pub(crate) bytes: io::Result<usize>,
    pub(crate) file: File,
    pub(crate) lent: Lent<'g, E>,
}

/// What a device has worked on.
#[derive(Debug)]
pub(crate) enum Lent<'g, E> {
    Out(Pinned),
    In(Filling<'g, E>),
}

impl<E> fmt::Debug for Ring<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({} in flight)", self.flights.len())
    }
}

impl<'g, E> Ring<'g, E> {
    /// Refused where io_uring is not allowed, or too old.
    pub(crate) fn new(guard: &'g LayoutGuard<Mapped<E>>, entries: u32) -> io::Result<Ring<'g, E>> {
        let uring = IoUring::new(entries)?;
        let mut probe = Probe::new();
        uring.submitter().register_probe(&mut probe)?;
        let codes = [opcode::Read::CODE, opcode::Write::CODE];
        if !codes.into_iter().all(|code| probe.is_supported(code)) {
            return Err(ErrorKind::Unsupported.into());
        }
        Ok(Ring {
            uring,
            guard,
            flights: HashMap::new(),
            incoming: 0,
            alive: Some(guard.try_pin(0..1).map_err(io::Error::other)?),
        })
    }

    /// Begins to transfer `part` of what is lent, to or from the same place in the file. Its number.
    pub(crate) fn start(
        &mut self,
        lent: Lent<'g, E>,
        part: Range<usize>,
        file: File,
    ) -> io::Result<u64> {
        let fd = types::Fd(file.as_raw_fd());
        // What is written to must be of the mapping that `alive` keeps.
        let (len, ours) = match &lent {
            Lent::Out(pinned) => (pinned.len(), true),
            Lent::In(filling) => (
                filling.len(),
                std::ptr::eq(filling.proof.guard(), self.guard),
            ),
        };
        let size = u32::try_from(part.len()).map_err(io::Error::other)?;
        if part.is_empty() || part.end > len || !ours {
            return Err(ErrorKind::InvalidInput.into());
        }
        let (id, entry, bytes) = match lent {
            Lent::Out(Pinned { base, len, pin }) => {
                let at = base.as_ptr().wrapping_add(part.start);
                let write = opcode::Write::new(fd, at, size).offset(part.start as u64);
                let id = pin.into_token().to_u64();
                (id, write.build(), Bytes::Out { base, len })
            }
            Lent::In(filling) => {
                let at = filling.base.as_ptr().wrapping_add(part.start);
                let read = opcode::Read::new(fd, at, size).offset(part.start as u64);
                self.incoming = (self.incoming + 1) & u64::from(u32::MAX);
                (self.incoming, read.build(), Bytes::In(filling))
            }
        };
        self.flights.insert(id, Flight { file, bytes });
        let entry = entry.user_data(id);
        // SAFETY: until the operation has completed, and `land` has seen that,
        // - the file stays open: it is in `flights`;
        // - the mapping stays: `alive`, or the token's pin, keeps it (I9);
        // - nobody touches what is written to: its proof is in `flights`; should that be leaked with the
        //   ring, the pages stay closed for ever;
        // - what is read is pinned by the token. (Whoever redeems a token that is not theirs has the
        //   device read other bytes; that harms nothing in this process.)
        if unsafe { self.uring.submission().push(&entry) }.is_err() {
            let _ = self.flight(id);
            return Err(io::Error::other("too many operations at a time"));
        }
        // What the kernel does not take now it takes when it is waited for.
        let _ = self.uring.submit();
        Ok(id)
    }

    /// Takes an operation that is not under way any more off the list.
    fn flight(&mut self, id: u64) -> Option<(File, Lent<'g, E>)> {
        let Flight { file, bytes } = self.flights.remove(&id)?;
        let lent = match bytes {
            Bytes::In(filling) => Lent::In(filling),
            Bytes::Out { base, len } => {
                // INVARIANT of Pinned: it is the pin that the token was made of.
                let pin = PinToken::from_u64(id).and_then(PinToken::redeem)?;
                Lent::Out(Pinned { base, len, pin })
            }
        };
        Some((file, lent))
    }

    /// Waits for one operation; `None` if there is none.
    pub(crate) fn land(&mut self) -> io::Result<Option<Landed<'g, E>>> {
        while !self.flights.is_empty() {
            let Some(done) = self.uring.completion().next() else {
                match self.uring.submit_and_wait(1) {
                    Err(e) if e.kind() != ErrorKind::Interrupted => return Err(e),
                    _ => continue,
                }
            };
            let id = done.user_data();
            let Some((file, lent)) = self.flight(id) else {
                continue;
            };
            let bytes = match done.result() {
                n if n < 0 => Err(io::Error::from_raw_os_error(-n)),
                n => Ok(n as usize),
            };
            return Ok(Some(Landed {
                id,
                bytes,
                file,
                lent,
            }));
        }
        Ok(None)
    }
}

impl<E> Drop for Ring<'_, E> {
    fn drop(&mut self) {
        // What cannot be waited for is left as it is, for ever: pinned, closed, mapped.
        while let Ok(Some(_)) = self.land() {}
        if !self.flights.is_empty() {
            std::mem::forget(std::mem::take(&mut self.flights));
            std::mem::forget(self.alive.take());
        }
    }
}
