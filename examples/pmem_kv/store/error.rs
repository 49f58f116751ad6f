//! What the store refuses, and why: each error says what was expected and what was found.

use std::fmt;
use std::io;
use std::path::PathBuf;

use layout_lease::{BreakError, OpError, PageRange, TryPinError};
use thiserror::Error;

use super::format::{Fault, MAX_CAPACITY, MAX_KEY, MIN_CAPACITY, PAGE, SuperblockFault, VERSION};
use super::space::SpaceError;

/// Why the store did not do what it was asked to. Nothing is changed then, unless it says so.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    #[error("there is no pool at {}; `put` makes one", .path.display())]
    NoPool { path: PathBuf },
    #[error("there is already a file at {}", .path.display())]
    Exists { path: PathBuf },
    #[error("the pool {} is in use by somebody else", .path.display())]
    InUse { path: PathBuf },
    #[error(
        "a pool of {found} bytes cannot be made: expected {} to {} bytes",
        MIN_CAPACITY * PAGE, MAX_CAPACITY * PAGE
    )]
    Capacity { found: u64 },
    #[error("the pool is truncated: expected at least {expected} bytes, found {found}")]
    Truncated { expected: u64, found: u64 },
    #[error("this is no pool: {0}")]
    NoPoolFile(SuperblockFault),
    #[error("the pool is of another version: expected version {VERSION}, found version {found}")]
    Version { found: u32 },
    #[error("both copies of the superblock are bad: the first: {first}; the second: {second}")]
    Superblock {
        first: SuperblockFault,
        second: SuperblockFault,
    },
    #[error("the two copies of the superblock are both intact, but differ")]
    SuperblocksDiffer,
    #[error(
        "pmem media need a file system with DAX, and this one refuses MAP_SYNC; use --media file, or \
         --media volatile"
    )]
    NoDax { source: io::Error },
    #[error(
        "pmem media need a processor with clwb, clflushopt or dc cvap; use --media file, or --media \
         volatile"
    )]
    NoWriteBack,
    #[error("a key of {found} bytes: expected 1 to {MAX_KEY}")]
    KeyLength { found: usize },
    #[error("a value of {found} bytes: expected at most {max} in this pool")]
    ValueLength { found: u64, max: u64 },
    #[error("no directory entry is empty: damaged records keep theirs")]
    DirectoryFull,
    #[error("a record has the last sequence number that there is, so nothing can be put behind it")]
    NoNumberLeft,
    #[error("{} is the pool itself: nothing is written to it", .path.display())]
    OntoItself { path: PathBuf },
    #[error("{} is no regular file, so nobody knows how long it is; `put` reads from anything", .path.display())]
    NoRegularFile { path: PathBuf },
    #[error("the record is damaged: {0}")]
    Damaged(Problem),
    #[error("the pool was opened for reading only")]
    ReadOnly,
    #[error(
        "an earlier flush failed, so what is on the media is not known: nothing more is written; \
         open the pool again"
    )]
    Broken,
    #[error(transparent)]
    Space(#[from] SpaceError),
    #[error(
        "{full}; {pages} more will be free when nobody reads them: there is a {first}, and {others} others"
    )]
    FullOfPinned {
        full: SpaceError,
        pages: u64,
        first: String,
        others: usize,
    },
    #[error("the pages could not be freed")]
    Free(#[from] OpError<SpaceError>),
    #[error("the pages could not be drained")]
    Break(#[from] BreakError),
    #[error("the pages could not be pinned")]
    Pin(#[from] TryPinError),
    #[error("{what}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
}

/// Names what was being done when an I/O call failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: &'static str) -> Result<T, StoreError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io { what, source })
    }
}

impl<T> Doing<T> for rustix::io::Result<T> {
    fn doing(self, what: &'static str) -> Result<T, StoreError> {
        self.map_err(io::Error::from).doing(what)
    }
}

/// One thing that is wrong in a pool: where, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The directory entry.
    pub(crate) slot: u64,
    /// The pages it names, if the pool has such pages.
    pub(crate) extent: Option<PageRange>,
    /// What can be read as its key. It is unverified: the damage may be in the key itself.
    pub(crate) key: Option<Box<[u8]>>,
    pub(crate) fault: Fault,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}", self.slot)?;
        if let Some(extent) = self.extent {
            write!(f, ", pages {extent}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ", key \"{}\" (unverified)", key.escape_ascii())?;
        }
        write!(f, ": {}", self.fault)
    }
}
