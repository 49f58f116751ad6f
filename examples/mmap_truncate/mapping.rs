//! The mapped file: the only file of the example with `unsafe` in it.

use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The size of a page in bytes, of the file and of the mapping.
pub(crate) const PAGE: usize = 4096;

/// A read-only shared mapping of the first pages of a file, whatever the file's length is.
#[derive(Debug)]
pub(crate) struct Mapping {
    // INVARIANT: the start of a live mapping of `len` bytes, until drop.
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is memory of the process, belongs to no thread, and is only read.
unsafe impl Send for Mapping {}
// SAFETY: as above; it lends only atomics.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(crate) fn new(file: &File, pages: usize) -> io::Result<Mapping> {
        let len = pages * PAGE;
        let (prot, flags) = (ProtFlags::READ, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice replaces no other.
        let base = unsafe { mmap(std::ptr::null_mut(), len, prot, flags, file, 0)? };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Mapping { base, len })
    }

    /// The words of a page. To load one is a SIGBUS if the page lies behind the end of the file: that ends
    /// the process, but breaks no rule of the language.
    pub(crate) fn page(&self, page: usize) -> &[AtomicU64] {
        assert!(page < self.len / PAGE, "page {page} is not mapped");
        // SAFETY: the page lies within the mapping, which lives as long as `self`, and its start is
        // aligned. Its bytes are changed by the kernel only, in whole words; here they are atomics, and
        // relaxed loads, which may be made of read-only memory, are all that is done with them.
        unsafe {
            let words = self.base.add(page * PAGE).cast::<AtomicU64>();
            slice::from_raw_parts(words.as_ptr(), PAGE / 8)
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the whole of what mmap gave; `page` lends nothing beyond the life of `self`.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}
