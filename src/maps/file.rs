//! `FileBlocks`: a plain file as the block map, whose blocks go back to its file system.
//!
//! **Problem.** A file that is mapped into memory, or that a device works on, must not be truncated or
//! punched under its users: they would get a SIGBUS, zeroes, or lose what they write.
//!
//! **Idea.** The kernel has the page-to-block map already. Here is the file and what it is like; what is done
//! to it, and only under a proof, is in `operations`.

use core::fmt;
use std::fs::File;

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, fstatfs};
use rustix::io::Errno;

pub use self::error::{FileError, FileOp};
pub use self::system::FileSystem;
use crate::range::RangeError;
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
/// lacks is answered with [`OpError::Unsupported`](crate::OpError::Unsupported) and changes nothing. [`file_system`](Self::file_system)
/// names the file system, and [`lacking`](Self::lacking) the operations it has refused so far.
///
/// # How freed pages are counted
///
/// A page is counted if the file system says (`SEEK_DATA`) that there is data in it, before the
/// operation: two short system calls for each run of data in the range. So a hole does not count. Blocks
/// that were allocated in advance, or zeroed, and never written since, are freed like others, but count
/// only if their page is cached. A file system that cannot tell data from holes counts every page before
/// the end. For [`zero_range`](crate::BlockMap::zero_range) and [`insert_range`](crate::BlockMap::insert_range) the
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
    /// insert are [`OpError::Unsupported`](crate::OpError::Unsupported).
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
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::maps::FileBlocks;
    /// let map = FileBlocks::new(tempfile::tempfile()?, 1 << 16)?;
    /// assert!(map.file().metadata()?.is_file());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The size of a page in bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::maps::FileBlocks;
    /// let map = FileBlocks::new(tempfile::tempfile()?, 1 << 16)?;
    /// assert_eq!(map.page_size(), 65536);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// The size of the file system's blocks in bytes, as `statfs` tells it.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::maps::FileBlocks;
    /// let map = FileBlocks::new(tempfile::tempfile()?, 1 << 16)?;
    /// assert_eq!(map.page_size() % map.block_size(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn block_size(&self) -> u64 {
        self.block_size
    }

    /// The file system that the file is on.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::maps::FileBlocks;
    /// let map = FileBlocks::new(tempfile::tempfile()?, 1 << 16)?;
    /// println!("on {}", map.file_system()); // "on ext4"
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn file_system(&self) -> FileSystem {
        self.file_system
    }

    /// The operations that the file system has refused so far as unknown to it: each time the answer
    /// was [`OpError::Unsupported`](crate::OpError::Unsupported). (What was asked of a map made by [`in_place`](Self::in_place) and
    /// was not even tried does not count.)
    ///
    /// # Examples
    ///
    /// See [`FileBlocks`].
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
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::maps::FileBlocks;
    /// let map = FileBlocks::new(tempfile::tempfile()?, 1 << 16)?;
    /// map.file().set_len(65536 + 1)?;
    /// assert_eq!(map.pages()?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pages(&self) -> Result<u64, FileError> {
        Ok(self.len()?.div_ceil(self.page_size))
    }

    /// In bytes.
    fn len(&self) -> Result<u64, FileError> {
        let metadata = self.file.metadata().map_err(FileError::Examine)?;
        Ok(metadata.len())
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

mod error;
mod operations;
mod system;
