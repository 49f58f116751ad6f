//! The ring, and the memory of its buffers: all that is unsafe in this program.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use layout_lease::{Drained, PageRange};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

/// The size of a page, in bytes.
pub(crate) const PAGE: usize = 4096;

pub(crate) const WORDS: usize = PAGE / 8;

/// The pages of a buffer.
pub(crate) const PAGES: u64 = 4;

/// What a completion that belongs to no request carries. No token has these numbers, so none of them
/// can be taken for one.
pub(crate) const CANCEL: u64 = 0;
pub(crate) const BELL: u64 = 1;

/// The pages of the pool. Never unmapped: a device may be writing to them until the process ends.
#[derive(Debug)]
pub(crate) struct Memory {
    // INVARIANT: the start of a mapping of `pages` pages, for ever.
    base: NonNull<u8>,
    pages: u64,
}

// SAFETY: the mapping is memory of the process and belongs to no thread.
unsafe impl Send for Memory {}
// SAFETY: as above; it lends only atomics, and addresses for a device.
unsafe impl Sync for Memory {}

impl Memory {
    pub(crate) fn new(pages: u64) -> io::Result<Memory> {
        let len = pages as usize * PAGE;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice replaces no other.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), len, prot, flags)? };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Memory { base, pages })
    }

    fn at(&self, page: u64) -> NonNull<u8> {
        assert!(page < self.pages, "there is no page {page}");
        // SAFETY: the page lies within the mapping.
        unsafe { self.base.add(page as usize * PAGE) }
    }

    fn words(&self, page: u64) -> &[AtomicU64] {
        // SAFETY: within the mapping, which is never unmapped, and aligned. The program touches these bytes
        // as atomics only; a device that writes them meanwhile is what this program is about.
        unsafe { slice::from_raw_parts(self.at(page).cast::<AtomicU64>().as_ptr(), WORDS) }
    }

    pub(crate) fn fill(&self, page: u64, word: impl Fn(usize) -> u64) {
        for (n, place) in self.words(page).iter().enumerate() {
            place.store(word(n), Ordering::Relaxed);
        }
    }

    pub(crate) fn first(&self, page: u64) -> u64 {
        self.words(page)[0].load(Ordering::Relaxed)
    }

    /// How many bytes of the first `words` words of the page are in words that are not as they should be.
    pub(crate) fn wrong(&self, page: u64, words: usize, word: impl Fn(usize) -> u64) -> u64 {
        let places = self.words(page)[..words].iter().enumerate();
        let wrong = places.filter(|(n, place)| place.load(Ordering::Relaxed) != word(*n));
        8 * wrong.count() as u64
    }

    /// Gives memory back to the system: from now on the pages are zeroes, and other pages than those
    /// that the kernel may still have registered for a ring.
    pub(crate) fn give_back<M>(&self, pages: PageRange, proof: &Drained<'_, M>) -> io::Result<()> {
        assert!(proof.covers(pages), "no proof for {pages}");
        self.at(pages.end() - 1);
        let len = pages.len() as usize * PAGE;
        // SAFETY: within the mapping, of which only the contents change; and they are atomics.
        unsafe {
            madvise(
                self.at(pages.start()).as_ptr().cast(),
                len,
                Advice::LinuxDontNeed,
            )?;
        }
        Ok(())
    }
}

/// An io_uring whose fixed buffer `n` is `PAGES` pages of the memory, from page `n * PAGES` on.
pub(crate) struct Ring {
    ring: IoUring,
    memory: Arc<Memory>,
}

impl Ring {
    pub(crate) fn new(buffers: u32, memory: Arc<Memory>) -> io::Result<Ring> {
        // For each buffer a request and its cancellation, and one for the bell.
        let ring = IoUring::new(2 * buffers + 1)?;
        ring.submitter().register_buffers_sparse(buffers)?;
        // A queue in front of few threads: what is still in it can be cancelled.
        ring.submitter().register_iowq_max_workers(&mut [2, 0])?;
        Ok(Ring { ring, memory })
    }

    /// The first byte of buffer `n`.
    fn buffer(&self, n: usize) -> *mut u8 {
        self.memory.at((n as u64 + 1) * PAGES - 1); // it is there to its end
        self.memory.at(n as u64 * PAGES).as_ptr()
    }

    pub(crate) fn register(&self, n: usize) -> io::Result<()> {
        let iovec = libc::iovec {
            iov_base: self.buffer(n).cast(),
            iov_len: PAGES as usize * PAGE,
        };
        // SAFETY: the buffer is a part of the memory, which is never unmapped.
        unsafe {
            self.ring
                .submitter()
                .register_buffers_update(n as u32, &[iovec], None)
        }
    }

    pub(crate) fn deregister(&self, n: usize) -> io::Result<()> {
        let nothing = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        // SAFETY: it has no bytes.
        unsafe {
            self.ring
                .submitter()
                .register_buffers_update(n as u32, &[nothing], None)
        }
    }

    /// Reads into the first `len` bytes of buffer `n`.
    pub(crate) fn read(
        &mut self,
        (fd, offset): (BorrowedFd<'_>, u64),
        (n, len): (usize, usize),
        flags: squeue::Flags,
        user_data: u64,
    ) -> io::Result<()> {
        assert!(len <= PAGES as usize * PAGE);
        let (fd, len) = (types::Fd(fd.as_raw_fd()), len as u32);
        let entry = opcode::ReadFixed::new(fd, self.buffer(n), len, n as u16).offset(offset);
        self.push(entry.build().flags(flags).user_data(user_data))
    }

    /// Writes all of buffer `n`.
    pub(crate) fn write(
        &mut self,
        (fd, offset): (BorrowedFd<'_>, u64),
        n: usize,
        flags: squeue::Flags,
        user_data: u64,
    ) -> io::Result<()> {
        let (fd, len) = (types::Fd(fd.as_raw_fd()), PAGES as u32 * PAGE as u32);
        let entry = opcode::WriteFixed::new(fd, self.buffer(n), len, n as u16).offset(offset);
        self.push(entry.build().flags(flags).user_data(user_data))
    }

    /// Asks for the request with this `user_data` to be cancelled. The answer is another completion; and
    /// whatever it says, the request has a completion of its own, and until then it is in flight.
    pub(crate) fn cancel(&mut self, user_data: u64) -> io::Result<()> {
        let entry = opcode::AsyncCancel::new(user_data).build();
        self.push(entry.user_data(CANCEL))
    }

    /// Asks for one completion, `BELL`, as soon as there is something to read.
    pub(crate) fn poll(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let entry = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), libc::POLLIN as u32);
        self.push(entry.build().user_data(BELL))
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: the entry comes from one of the methods above. If it has a buffer, that is a part of the
            // memory, which is never unmapped, and whose contents are atomics to everybody here.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    /// Submits what there is, waits for a completion, and takes all there are.
    pub(crate) fn wait(&mut self, done: &mut Vec<(u64, i32)>) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        };
        let completions = self.ring.completion();
        done.extend(completions.map(|c: cqueue::Entry| (c.user_data(), c.result())));
        Ok(())
    }
}
