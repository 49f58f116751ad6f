//! Block maps that ship with the crate.
//!
//! [`ExtentMap`] keeps its extents and its free blocks in memory. It is the embedded default, for
//! tests and small engines, and an example of how to write a [`BlockMap`](crate::BlockMap).

mod extent;
mod space;

pub use extent::{Extent, ExtentError, ExtentMap};
