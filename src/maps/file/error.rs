//! What can go wrong with a file.

use core::fmt;
use std::io;

use thiserror::Error;

use super::FileSystem;
use crate::range::{PageRange, RangeError};

/// One of the five block operations, by name.
///
/// # Examples
///
/// ```
/// use layout_lease::maps::FileOp;
/// assert_eq!(FileOp::PunchHole.to_string(), "punch_hole");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileOp {
    /// `fallocate` with `FALLOC_FL_PUNCH_HOLE`.
    PunchHole,
    /// `fallocate` with `FALLOC_FL_ZERO_RANGE`.
    ZeroRange,
    /// `ftruncate`.
    Truncate,
    /// `fallocate` with `FALLOC_FL_COLLAPSE_RANGE`.
    CollapseRange,
    /// `fallocate` with `FALLOC_FL_INSERT_RANGE`.
    InsertRange,
}

impl FileOp {
    pub(super) const ALL: [FileOp; 5] = [
        FileOp::PunchHole,
        FileOp::ZeroRange,
        FileOp::Truncate,
        FileOp::CollapseRange,
        FileOp::InsertRange,
    ];
}

impl fmt::Display for FileOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            FileOp::PunchHole => "punch_hole",
            FileOp::ZeroRange => "zero_range",
            FileOp::Truncate => "truncate",
            FileOp::CollapseRange => "collapse_range",
            FileOp::InsertRange => "insert_range",
        })
    }
}

/// Why a [`FileBlocks`](super::FileBlocks) was not made, or why an operation of one failed.
///
/// Unless it is [`Io`](Self::Io), nothing has changed.
///
/// # Examples
///
/// See [`FileBlocks::new`](super::FileBlocks::new).
#[non_exhaustive]
#[derive(Debug, Error)]
pub enum FileError {
    /// Whole pages would not be whole blocks, so the file system could not take them out or put them in.
    #[error(
        "pages of {page_size} bytes are not whole blocks: {file_system} has blocks of {block_size} bytes"
    )]
    PageSize {
        /// The page size that was given, in bytes.
        page_size: u64,
        /// The size of the file system's blocks, in bytes.
        block_size: u64,
        /// The file system.
        file_system: FileSystem,
    },
    /// It is a folder, a device, a pipe.
    #[error("not a regular file")]
    NotAFile,
    /// The file was opened for reading only.
    #[error("the file is not open for writing")]
    ReadOnly,
    /// A collapse must end before the end of the file, an insert must start before it.
    #[error("{op} of pages {pages} reaches to the end or beyond it: the file has {len} bytes")]
    OutOfRange {
        /// The operation.
        op: FileOp,
        /// The pages that were given.
        pages: PageRange,
        /// The length of the file at the time, in bytes.
        len: u64,
    },
    /// The byte behind the last page, or the new length, would not be a file offset (at most 2^63 - 1).
    #[error("{op} reaches beyond the greatest file offset, with pages of {page_size} bytes")]
    TooLarge {
        /// The operation.
        op: FileOp,
        /// The page size in bytes.
        page_size: u64,
    },
    /// The system call for the operation failed: no space left, an I/O error, a file that is sealed or
    /// in use as swap space, an alignment that only the file system knows of.
    #[error("{op} failed on {file_system}")]
    Io {
        /// The operation.
        op: FileOp,
        /// The file system.
        file_system: FileSystem,
        /// What the system said.
        source: io::Error,
    },
    /// The file could not even be asked about itself.
    #[error("the file cannot be examined")]
    Examine(#[source] io::Error),
    /// The page size is not a power of two.
    #[error(transparent)]
    Range(#[from] RangeError),
}
