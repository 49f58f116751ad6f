//! The engine's file, mapped into memory: blocks that a device writes, and that the engine recycles.

use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap};

/// The size of a block, and of a page of the engine's mapping, in bytes.
pub(crate) const BLOCK: usize = 4096;

pub(crate) const WORDS: usize = BLOCK / 8;

/// Blocks of a mapped file. It is never unmapped: a device may be writing to it until the process ends.
#[derive(Debug)]
pub(crate) struct Arena {
    // INVARIANT: the start of a mapping of `blocks` blocks, for ever.
    base: NonNull<u8>,
    blocks: u64,
}

// SAFETY: the mapping is memory of the process and belongs to no thread.
unsafe impl Send for Arena {}
// SAFETY: as above; it lends only atomics, and addresses for a device.
unsafe impl Sync for Arena {}

/// One buffer of a read, as `struct iovec` has it.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Buffer {
    base: *mut u8,
    len: usize,
}

// SAFETY: an address into an arena, which belongs to no thread; only a device follows it.
unsafe impl Send for Buffer {}

impl Arena {
    pub(crate) fn new(file: &File, blocks: u64) -> io::Result<Arena> {
        let len = blocks as usize * BLOCK;
        file.set_len(len as u64)?;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice replaces no other.
        let base = unsafe { mmap(std::ptr::null_mut(), len, prot, flags, file, 0)? };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Arena { base, blocks })
    }

    fn at(&self, block: u64) -> NonNull<u8> {
        assert!(block < self.blocks, "there is no block {block}");
        // SAFETY: the block lies within the mapping.
        unsafe { self.base.add(block as usize * BLOCK) }
    }

    /// Where a device is to put what belongs into this block.
    pub(crate) fn buffer(&self, block: u64) -> Buffer {
        Buffer {
            base: self.at(block).as_ptr(),
            len: BLOCK,
        }
    }

    fn words(&self, block: u64) -> &[AtomicU64] {
        // SAFETY: within the mapping, which is never unmapped, and aligned. The program touches these
        // bytes as atomics only; a device that writes them meanwhile is what this program is about.
        unsafe { slice::from_raw_parts(self.at(block).cast::<AtomicU64>().as_ptr(), WORDS) }
    }

    /// Writes `stamp` to every word of the block.
    pub(crate) fn fill(&self, block: u64, stamp: u64) {
        for word in self.words(block) {
            word.store(stamp, Ordering::Relaxed);
        }
    }

    /// How many bytes of the block are in words that are not as they should be, each at its place.
    pub(crate) fn wrong(&self, block: u64, right: impl Fn(usize, u64) -> bool) -> u64 {
        let words = self.words(block).iter().enumerate();
        let wrong = words.filter(|(n, word)| !right(*n, word.load(Ordering::Relaxed)));
        8 * wrong.count() as u64
    }
}
