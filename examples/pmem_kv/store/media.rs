//! Media: how stores to the mapping become durable. Three kinds; the one in force is always shown.
//!
//! | kind | is | `flush` | `fence` |
//! | --- | --- | --- | --- |
//! | [`PmemMedia`] | a file on a DAX file system | `clwb`, `clflushopt` or `dc cvap` of each line | `sfence`, `dsb` |
//! | [`FileMedia`] | an ordinary file | nothing: the kernel knows its dirty pages | `fdatasync` |
//! | [`VolatileMedia`] | memory, or asked for | nothing | nothing |
//!
//! `fdatasync` also makes the file's new length and blocks durable. On a DAX file system `MAP_SYNC`
//! does: the first store to a new page returns only when the page's block is the file's on the media.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};

use layout_lease::PageRange;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::fs::{fdatasync, fstatfs};
use rustix::io::retry_on_intr;

use super::mapping::{Dirty, WriteBack, drain_lines};

/// How a range of the mapping becomes durable.
pub(crate) trait Media: fmt::Debug + Send + Sync {
    /// The kind, as `stat` prints it.
    fn kind(&self) -> &'static str;

    /// Whether the file has to be mapped with `MAP_SYNC`, which only a DAX file system grants.
    fn map_sync(&self) -> bool {
        false
    }

    /// Whether a fence that failed may leave stores that no later one takes along, but for those of pages that are
    /// stored to again: the kernel calls pages that it could not write clean.
    fn forgets(&self) -> bool {
        false
    }

    /// Starts writing stored bytes back.
    fn flush(&self, dirty: &Dirty<'_>) -> io::Result<()>;

    /// Waits until everything that this thread has flushed is durable: it survives a crash once this
    /// has returned. Nothing stored later is durable before it.
    fn fence(&self, file: &File) -> io::Result<()>;

    /// Told what has just been done to the file, for media that log it.
    fn saw(&self, _: Event<'_>) {}
}

/// Something done to the pool file.
#[allow(dead_code, reason = "the media that read it are in the tests")]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event<'a> {
    /// Bytes were stored. Those of a directory entry in one piece, others in any order.
    Store { at: u64, bytes: &'a [u8] },
    /// These pages are a hole now: they read as zeroes.
    Punch { pages: PageRange },
    /// The file has so many pages now.
    Length { pages: u64 },
}

// ----------------------------------------------------------------------------------------- pmem

/// Persistent memory, or what is mapped as such: no system call makes a store durable.
#[derive(Debug)]
pub(crate) struct PmemMedia {
    with: WriteBack,
}

impl PmemMedia {
    /// `None`: this processor has no instruction for it.
    pub(crate) fn new() -> Option<PmemMedia> {
        let with = WriteBack::of_this_processor()?;
        Some(PmemMedia { with })
    }
}

impl Media for PmemMedia {
    fn kind(&self) -> &'static str {
        match self.with {
            WriteBack::Clwb => "pmem (MAP_SYNC, clwb, sfence)",
            WriteBack::Clflushopt => "pmem (MAP_SYNC, clflushopt, sfence)",
            WriteBack::DcCvap => "pmem (MAP_SYNC, dc cvap, dsb)",
        }
    }

    fn map_sync(&self) -> bool {
        true
    }

    fn flush(&self, dirty: &Dirty<'_>) -> io::Result<()> {
        dirty.write_back(self.with);
        Ok(())
    }

    fn fence(&self, _: &File) -> io::Result<()> {
        drain_lines();
        Ok(())
    }
}

// ----------------------------------------------------------------------------- file and volatile

/// An ordinary file.
#[derive(Debug, Default)]
pub(crate) struct FileMedia {
    syncs: Syncs,
}

/// Survives the end of the process, not the end of the machine.
#[derive(Debug)]
pub(crate) struct VolatileMedia;

impl Media for FileMedia {
    fn kind(&self) -> &'static str {
        "file (fdatasync)"
    }

    fn forgets(&self) -> bool {
        true
    }

    fn flush(&self, _: &Dirty<'_>) -> io::Result<()> {
        Ok(())
    }

    fn fence(&self, file: &File) -> io::Result<()> {
        self.syncs
            .through(|| Ok(retry_on_intr(|| fdatasync(file))?))
    }
}

impl Media for VolatileMedia {
    fn kind(&self) -> &'static str {
        "volatile (no flushing: a crash of the machine may lose everything)"
    }

    fn flush(&self, _: &Dirty<'_>) -> io::Result<()> {
        Ok(())
    }

    fn fence(&self, _: &File) -> io::Result<()> {
        Ok(())
    }
}

/// One `fdatasync` at a time, for everybody who has come before it began.
///
/// Not for speed alone. The kernel tells of pages that it could not write once for each open file, to whoever asks
/// first. Of two threads in `fdatasync` one is told, the other one hears that all is well, and its pages may be
/// among the lost ones. So whoever comes after one that failed fails, too, and so does whoever came during it.
#[derive(Debug, Default)]
pub(crate) struct Syncs {
    state: Mutex<Rounds>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Rounds {
    /// So many have come, and so many of them have what they came for.
    come: u64,
    served: u64,
    running: bool,
    failed: Option<ErrorKind>,
}

impl Syncs {
    /// Returns when a `sync` that began after this call has ended, by whichever thread.
    pub(crate) fn through(&self, sync: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock();
        state.come += 1;
        let me = state.come;
        loop {
            if let Some(kind) = state.failed {
                return Err(io::Error::new(kind, "a flush of the file has failed"));
            }
            if me <= state.served {
                return Ok(());
            }
            if state.running {
                self.wait(&mut state);
                continue;
            }
            state.running = true;
            let all = state.come;
            let done = MutexGuard::unlocked(&mut state, &sync);
            state.running = false;
            self.ended.notify_all();
            if let Err(e) = done {
                state.failed = Some(e.kind());
                return Err(e);
            }
            state.served = all;
        }
    }

    /// Waits for the end of the one that is running, or for a moment.
    fn wait(&self, state: &mut MutexGuard<'_, Rounds>) {
        #[cfg(test)]
        if let Some(aside) = super::ASIDE.get() {
            return MutexGuard::unlocked(state, aside);
        }
        self.ended.wait(state);
    }

    /// How many have come so far.
    #[cfg(test)]
    pub(crate) fn come(&self) -> u64 {
        self.state.lock().come
    }
}

/// The kind that fits the file system that `file` is on, where that is not DAX.
pub(crate) fn media_of(file: &File) -> io::Result<Box<dyn Media>> {
    const TMPFS: i128 = 0x0102_1994;
    const RAMFS: i128 = 0x8584_58f6;
    let in_memory = [TMPFS, RAMFS].contains(&i128::from(fstatfs(file)?.f_type));
    Ok(if in_memory {
        Box::new(VolatileMedia)
    } else {
        Box::new(FileMedia::default())
    })
}
