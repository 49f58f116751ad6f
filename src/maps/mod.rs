//! Block maps that ship with the crate.
//!
//! [`ExtentMap`] keeps its extents and its free blocks in memory. It is the embedded default, for
//! tests and small engines, and an example of how to write a [`BlockMap`](crate::BlockMap).
//! `FileBlocks` (Linux, feature `file`) is a plain file, whose blocks go back to its file system.

mod extent;
#[cfg(all(target_os = "linux", feature = "file"))]
mod file;
mod space;

pub use extent::{Extent, ExtentError, ExtentMap};
#[cfg(all(target_os = "linux", feature = "file"))]
#[cfg_attr(docsrs, doc(cfg(all(target_os = "linux", feature = "file"))))]
pub use file::{FileBlocks, FileError, FileOp, FileSystem};
