//! `FileBlocks`: a plain file as the block map, whose blocks go back to its file system.
//!
//! **Problem.** A file that is mapped into memory, or that a device works on, must not be truncated or
//! punched under its users: they would get a SIGBUS, zeroes, or lose what they write.
//!
//! **Idea.** The kernel has the page-to-block map already. So each operation asks the proof (**I2**),
//! checks what the kernel would refuse anyway but say less clearly, and makes one system call.
//!
//! | operation | system call | blocks freed |
//! | --- | --- | --- |
//! | punch | `fallocate(PUNCH_HOLE \| KEEP_SIZE)` | those that held data |
//! | zero | `fallocate(ZERO_RANGE)` | none: they stay the file's |
//! | truncate | `ftruncate` | those that held data |
//! | collapse | `fallocate(COLLAPSE_RANGE)` | those that held data |
//! | insert | `fallocate(INSERT_RANGE)` | none: they move |

use core::fmt;
use core::ops::Range;
use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, FileType, OFlags, SeekFrom};
use rustix::fs::{fallocate, fcntl_getfl, fstat, fstatfs, ftruncate, seek};
use rustix::io::{Errno, Result as Answer};

pub use self::error::{FileError, FileOp};
pub use self::system::FileSystem;
use crate::block_map::BlockMap;
use crate::drained::Drained;
use crate::error::{OpError, RangeError};
use crate::range::PageRange;
use crate::sync::{AtomicU64, Ordering};

/// A block map over a plain file (Linux, feature `file`): the operations are `fallocate` and
/// `ftruncate`, and the blocks go back to the file system.
///
/// With its [`LayoutGuard`](crate::LayoutGuard), a file that is mapped into memory can be truncated under
/// its own readers: each pins its page, then asks for the [length](Self::pages), then reads; so no page
/// of the file goes away under a pin, there is no SIGBUS, and nobody reads zeroes for data. It holds for
/// those who pin. Other processes, and writes through the file that take no pin, are not held back.
///
/// Page `n` is the bytes `n * page_size ..` of the file. The last page may be partial; it counts as a
/// page.
///
/// # What the file system lacks
///
/// Not every file system has every operation: tmpfs, for instance, can only punch and truncate. What it
/// lacks is answered with [`OpError::Unsupported`] and changes nothing. [`file_system`](Self::file_system)
/// names the file system, and [`lacking`](Self::lacking) the operations it has refused so far.
///
/// # How freed pages are counted
///
/// A page is counted if the file system says (`SEEK_DATA`) that there is data in it, before the
/// operation: two short system calls for each run of data in the range. So a hole does not count. Blocks
/// that were allocated in advance, or zeroed, and never written since, are freed like others, but count
/// only if their page is cached. A file system that cannot tell data from holes counts every page before
/// the end. For [`zero_range`](BlockMap::zero_range) and [`insert_range`](BlockMap::insert_range) the
/// answer is 0.
///
/// Asking moves the file's offset: use calls that take one (`read_at`, `pwrite`), or the mapping.
///
/// # Examples
///
/// ```
/// use std::os::unix::fs::FileExt;
/// use layout_lease::{LayoutGuard, OpError, maps::FileBlocks};
///
/// let file = tempfile::tempfile()?;
/// file.write_all_at(&[7; 8 * 4096], 0)?;
/// let guard = LayoutGuard::new(FileBlocks::new(file, 4096)?);
///
/// // A reader, or a device: pin first, ask for the length after.
/// let pin = guard.try_pin(2..3)?;
/// assert!(2 < guard.map().pages()?);
/// let mut byte = [0];
/// guard.map().file().read_exact_at(&mut byte, 2 * 4096)?;
/// assert_eq!(byte, [7]);
/// drop(pin);
///
/// // Each waits until nobody has a pin there.
/// assert_eq!(guard.punch_hole(0..2).wait()?, 2);
/// assert_eq!(guard.truncate(5).wait()?, 3);
/// assert_eq!(guard.map().pages()?, 5);
///
/// // Takes the hole out, where the file system can do that.
/// match guard.collapse_range(0..2).wait() {
///     Ok(freed) => assert_eq!((freed, guard.map().pages()?), (0, 3)),
///     Err(OpError::Unsupported) => {
///         for op in guard.map().lacking() {
///             println!("{} has no {op}", guard.map().file_system());
///         }
///     }
///     Err(e) => return Err(e.into()),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct FileBlocks {
    file: File,
    // INVARIANT: a power of two.
    page_size: u64,
    block_size: u64,
    file_system: FileSystem,
    /// Whether whole pages are to be taken out or put in at all.
    moves: bool,
    /// One bit for each operation that the file system has refused.
    refused: AtomicU64,
}

impl FileBlocks {
    /// A map over `file`, which is open for writing, in pages of `page_size` bytes: a power of two, and a
    /// multiple of the file system's [block](Self::block_size), as collapse and insert need it.
    ///
    /// # Errors
    ///
    /// [`FileError::Range`] if `page_size` is no power of two, [`FileError::PageSize`] if it is no
    /// multiple of the block size; [`FileError::NotAFile`]; [`FileError::ReadOnly`];
    /// [`FileError::Examine`].
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{RangeError, maps::{FileBlocks, FileError}};
    ///
    /// let refused = |page_size| FileBlocks::new(tempfile::tempfile().unwrap(), page_size).unwrap_err();
    /// assert!(matches!(refused(3000), FileError::Range(RangeError::PageSize { page_size: 3000 })));
    /// assert!(matches!(refused(1), FileError::PageSize { page_size: 1, .. }));
    /// ```
    pub fn new(file: File, page_size: u64) -> Result<Self, FileError> {
        let map = Self::in_place(file, page_size)?;
        if page_size % map.block_size != 0 {
            return Err(FileError::PageSize {
                page_size,
                block_size: map.block_size,
                file_system: map.file_system,
            });
        }
        Ok(FileBlocks { moves: true, ..map })
    }

    /// A map whose pages stay where they are: `page_size` may be any power of two, and collapse and
    /// insert are [`OpError::Unsupported`].
    ///
    /// Pages smaller than a block become zeroes when they are punched, but only whole blocks are freed
    /// and counted.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), but never [`FileError::PageSize`].
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, OpError, maps::FileBlocks};
    ///
    /// let guard = LayoutGuard::new(FileBlocks::in_place(tempfile::tempfile()?, 64)?);
    /// guard.truncate(100).wait()?;
    /// assert_eq!(guard.map().file().metadata()?.len(), 6400);
    /// assert!(matches!(guard.collapse_range(0..1).wait(), Err(OpError::Unsupported)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn in_place(file: File, page_size: u64) -> Result<Self, FileError> {
        if !page_size.is_power_of_two() {
            return Err(RangeError::PageSize { page_size }.into());
        }
        let examine = |e: Errno| FileError::Examine(e.into());
        let stat = fstat(&file).map_err(examine)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(FileError::NotAFile);
        }
        let access = fcntl_getfl(&file).map_err(examine)? & OFlags::RWMODE;
        if access != OFlags::RDWR && access != OFlags::WRONLY {
            return Err(FileError::ReadOnly);
        }
        let statfs = fstatfs(&file).map_err(examine)?;
        // The types of the fields differ between architectures.
        let (magic, block_size) = (statfs.f_type as u64, statfs.f_bsize as u64);
        Ok(FileBlocks {
            file,
            page_size,
            block_size: block_size.max(1),
            file_system: FileSystem::of_magic(magic),
            moves: false,
            refused: AtomicU64::new(0),
        })
    }

    /// The file. Writing to it, or mapping it, is the engine's affair.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The size of a page in bytes.
    #[must_use]
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// The size of the file system's blocks in bytes, as `statfs` tells it.
    #[must_use]
    pub fn block_size(&self) -> u64 {
        self.block_size
    }

    /// The file system that the file is on.
    #[must_use]
    pub fn file_system(&self) -> FileSystem {
        self.file_system
    }

    /// The operations that the file system has refused so far as unknown to it: each time the answer
    /// was [`OpError::Unsupported`]. (What was asked of a map made by [`in_place`](Self::in_place) and
    /// was not even tried does not count.)
    #[must_use]
    pub fn lacking(&self) -> Vec<FileOp> {
        let refused = self.refused.load(Ordering::Relaxed);
        let lacks = |op: &FileOp| refused & (1 << *op as u64) != 0;
        FileOp::ALL.into_iter().filter(lacks).collect()
    }

    /// The length of the file in pages, as of now; a partial last page counts as one. Under a pin of a
    /// page below it, this page stays below it.
    ///
    /// # Errors
    ///
    /// [`FileError::Examine`].
    pub fn pages(&self) -> Result<u64, FileError> {
        Ok(self.len()?.div_ceil(self.page_size))
    }

    /// In bytes.
    fn len(&self) -> Result<u64, FileError> {
        let metadata = self.file.metadata().map_err(FileError::Examine)?;
        Ok(metadata.len())
    }

    /// Checks the evidence: the proof is of this map and covers `pages` (**I2**).
    fn admit(
        &self,
        proof: &Drained<'_, Self>,
        pages: Option<PageRange>,
    ) -> Result<(), OpError<FileError>> {
        if !proof.is_of(self) {
            return Err(OpError::WrongMapping);
        }
        match pages {
            Some(pages) if !proof.covers(pages) => Err(OpError::NotCovered),
            _ => Ok(()),
        }
    }

    /// The offset of the first byte of `page`.
    fn offset(&self, op: FileOp, page: u64) -> Result<u64, FileError> {
        let offset = page.checked_mul(self.page_size);
        let offset = offset.filter(|&at| i64::try_from(at).is_ok());
        offset.ok_or(FileError::TooLarge {
            op,
            page_size: self.page_size,
        })
    }

    /// The bytes of `pages`; an open range ends with the file's last page. `None`: there are no pages.
    fn bytes(
        &self,
        op: FileOp,
        pages: PageRange,
        len: u64,
    ) -> Result<Option<Range<u64>>, FileError> {
        let end = match pages.end() {
            u64::MAX => len.div_ceil(self.page_size),
            end => end,
        };
        if pages.start() >= end {
            return Ok(None);
        }
        Ok(Some(self.offset(op, pages.start())?..self.offset(op, end)?))
    }

    /// How many pages of `bytes` have data in blocks that can be freed: those that lie within `bytes`,
    /// and the block with the end of the file.
    fn data_pages(&self, op: FileOp, bytes: Range<u64>, len: u64) -> Result<u64, FileError> {
        let block = self.block_size;
        let mut at = bytes.start.div_ceil(block).saturating_mul(block);
        let end = if bytes.end >= len {
            len
        } else {
            bytes.end / block * block
        };
        let (mut count, mut counted) = (0, 0);
        while at < end {
            let data = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) if data < end => data,
                Ok(_) | Err(Errno::NXIO) => break,
                Err(e) => return Err(self.failed(op, e)),
            };
            let hole = match seek(&self.file, SeekFrom::Hole(data)) {
                Ok(hole) => hole.min(end),
                Err(e) => return Err(self.failed(op, e)),
            };
            // Two runs of data may share a page.
            let first = counted.max(data / self.page_size);
            counted = hole.div_ceil(self.page_size);
            count += counted.saturating_sub(first);
            at = hole;
        }
        Ok(count)
    }

    fn failed(&self, op: FileOp, error: Errno) -> FileError {
        FileError::Io {
            op,
            file_system: self.file_system,
            source: io::Error::from(error),
        }
    }

    /// What the answer of a system call means.
    fn judge(&self, op: FileOp, answer: Answer<()>) -> Result<(), OpError<FileError>> {
        match answer {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.refused.fetch_or(1 << op as u64, Ordering::Relaxed);
                Err(OpError::Unsupported)
            }
            Err(e) => Err(OpError::Map(self.failed(op, e))),
        }
    }

    /// Takes `bytes` out or puts them in, once.
    fn shift(
        &self,
        op: FileOp,
        flags: FallocateFlags,
        bytes: &Range<u64>,
        len: u64,
    ) -> Result<(), OpError<FileError>> {
        loop {
            let answer = fallocate(&self.file, flags, bytes.start, bytes.end - bytes.start);
            // A signal. The other operations can be done twice; here only the length tells whether it
            // was done, and nobody else changes that: the proof covers all that lies behind.
            if answer == Err(Errno::INTR) {
                if self.len().map_err(OpError::Map)? == len {
                    continue;
                }
                return Ok(());
            }
            return self.judge(op, answer);
        }
    }
}

impl fmt::Debug for FileBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileBlocks")
            .field("file", &self.file)
            .field("page_size", &self.page_size)
            .field("file_system", &format_args!("{}", self.file_system))
            .field("lacking", &self.lacking())
            .finish()
    }
}

/// Every operation asks the proof before it looks at anything else.
impl BlockMap for FileBlocks {
    type Error = FileError;

    /// Frees the blocks behind `pages`, which read as zeroes then. The length stays, and a punch may reach
    /// past the end.
    ///
    /// # Errors
    ///
    /// Those of the proof, [`OpError::Unsupported`], and as [`OpError::Map`] a [`FileError::Io`].
    fn punch_hole(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<FileError>> {
        const OP: FileOp = FileOp::PunchHole;
        self.admit(proof, Some(pages))?;
        let len = self.len().map_err(OpError::Map)?;
        // There is nothing behind the last page, and offsets there may be too large to be named.
        let end = pages.end().min(len.div_ceil(self.page_size));
        let Ok(pages) = PageRange::new(pages.start(), end) else {
            return Ok(0);
        };
        let Some(bytes) = self.bytes(OP, pages, len).map_err(OpError::Map)? else {
            return Ok(0);
        };
        let freed = self.data_pages(OP, bytes.clone(), len);
        let freed = freed.map_err(OpError::Map)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let answer = again(|| fallocate(&self.file, flags, bytes.start, bytes.end - bytes.start));
        self.judge(OP, answer)?;
        Ok(freed)
    }

    /// Makes `pages` read as zeroes, and grows the file to cover them; an open range (`n..`) ends with the
    /// file. The space stays the file's, so later writes to these pages find room. Frees nothing: the
    /// answer is 0.
    ///
    /// # Errors
    ///
    /// Those of the proof, [`OpError::Unsupported`], and as [`OpError::Map`] a [`FileError::TooLarge`] or
    /// [`FileError::Io`].
    fn zero_range(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<FileError>> {
        const OP: FileOp = FileOp::ZeroRange;
        self.admit(proof, Some(pages))?;
        let len = self.len().map_err(OpError::Map)?;
        let Some(mut bytes) = self.bytes(OP, pages, len).map_err(OpError::Map)? else {
            return Ok(0);
        };
        if pages.end() == u64::MAX {
            bytes.end = len;
        }
        let flags = FallocateFlags::ZERO_RANGE;
        let answer = again(|| fallocate(&self.file, flags, bytes.start, bytes.end - bytes.start));
        self.judge(OP, answer)?;
        Ok(0)
    }

    /// Sets the length to `new_len` whole pages. What is added reads as zeroes.
    ///
    /// The proof must cover `new_len..`.
    ///
    /// # Errors
    ///
    /// Those of the proof, and as [`OpError::Map`] a [`FileError::TooLarge`] or [`FileError::Io`].
    fn truncate(&self, new_len: u64, proof: &Drained<'_, Self>) -> Result<u64, OpError<FileError>> {
        const OP: FileOp = FileOp::Truncate;
        self.admit(proof, from(new_len))?;
        let work = || {
            let end = self.offset(OP, new_len)?;
            let len = self.len()?;
            Ok((end, self.data_pages(OP, end..len, len)?))
        };
        let (end, freed) = work().map_err(OpError::Map)?;
        self.judge(OP, again(|| ftruncate(&self.file, end)))?;
        Ok(freed)
    }

    /// Takes `pages` out: the bytes behind them move down, and the file gets shorter.
    ///
    /// The proof must cover `pages.start()..`.
    ///
    /// # Errors
    ///
    /// Those of the proof, [`OpError::Unsupported`], and as [`OpError::Map`] a [`FileError::OutOfRange`]
    /// unless `pages` ends before the end of the file (to cut the end off, truncate), or a
    /// [`FileError::Io`].
    fn collapse_range(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<FileError>> {
        const OP: FileOp = FileOp::CollapseRange;
        self.admit(proof, from(pages.start()))?;
        if !self.moves {
            return Err(OpError::Unsupported);
        }
        let work = || {
            let len = self.len()?;
            // Pages whose offset cannot be named lie behind the end of every file.
            let end = self.offset(OP, pages.end()).unwrap_or(u64::MAX);
            if end >= len {
                return Err(FileError::OutOfRange { op: OP, pages, len });
            }
            let bytes = self.offset(OP, pages.start())?..end;
            Ok((self.data_pages(OP, bytes.clone(), len)?, bytes, len))
        };
        let (freed, bytes, len) = work().map_err(OpError::Map)?;
        self.shift(OP, FallocateFlags::COLLAPSE_RANGE, &bytes, len)?;
        Ok(freed)
    }

    /// Makes `pages` a hole: the bytes from `pages.start()` on move up, and the file gets longer. Frees
    /// nothing: the answer is 0.
    ///
    /// The proof must cover `pages.start()..`.
    ///
    /// # Errors
    ///
    /// Those of the proof, [`OpError::Unsupported`], and as [`OpError::Map`] a [`FileError::OutOfRange`]
    /// unless `pages` starts before the end of the file (to grow at the end, truncate), a
    /// [`FileError::TooLarge`], or a [`FileError::Io`].
    fn insert_range(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<FileError>> {
        const OP: FileOp = FileOp::InsertRange;
        self.admit(proof, from(pages.start()))?;
        if !self.moves {
            return Err(OpError::Unsupported);
        }
        let work = || {
            let len = self.len()?;
            let start = self.offset(OP, pages.start()).unwrap_or(u64::MAX);
            if start >= len {
                return Err(FileError::OutOfRange { op: OP, pages, len });
            }
            let bytes = start..self.offset(OP, pages.end())?;
            let longer = (bytes.end - bytes.start).saturating_add(len);
            if i64::try_from(longer).is_err() {
                let page_size = self.page_size;
                return Err(FileError::TooLarge { op: OP, page_size });
            }
            Ok((bytes, len))
        };
        let (bytes, len) = work().map_err(OpError::Map)?;
        self.shift(OP, FallocateFlags::INSERT_RANGE, &bytes, len)?;
        Ok(0)
    }
}

/// Until no signal comes in between; what is done twice must do no harm.
fn again(call: impl FnMut() -> Answer<()>) -> Answer<()> {
    rustix::io::retry_on_intr(call)
}

/// The pages `start..`; `None` if there are none.
fn from(start: u64) -> Option<PageRange> {
    PageRange::new(start, u64::MAX).ok()
}

mod error;
mod system;
