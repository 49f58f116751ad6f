//! `break_layouts()` for your own allocator: close a page range, drain every in-flight user of it, get a
//! proof, then free the blocks.
//!
//! # The map, in flow order
//!
//! ```text
//! pin -> slot -> unpin;   break -> gate -> scan -> wait -> drained -> block map -> reopen
//! ```
//!
//! | file | one word of the flow |
//! | --- | --- |
//! | [`guard`](LayoutGuard) | one per mapping; owns the block map and the record |
//! | `pin` | [`PagePin`], [`PinPages`]: one in-flight use of a range |
//! | `breaking` | [`BreakLayouts`]: close, wait; [`Close`]: for good |
//! | `drained` | [`Drained`]: the evidence; its drop reopens |
//! | `block_map` | [`BlockMap`], [`BlockOp`]: free, under the evidence |
//! | [`maps`] | block maps that ship |
//! | `raw` | the machine: slots, barrier, gate, scan, queue, wait |
//! | `holders`, `range`, `error` | the words they all use |
//! | `sync` | the only door to atomics, locks, fences and events |

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod block_map;
mod breaking;
mod drained;
mod error;
mod guard;
mod holders;
pub mod maps;
mod pin;
mod range;
mod raw;
mod sync;

pub use block_map::{BlockMap, BlockOp};
pub use breaking::{BreakLayouts, Close};
pub use drained::Drained;
pub use error::{BreakError, OpError, PinError, RangeError, TryBreakError, TryPinError};
pub use guard::{LayoutGuard, Stats};
pub use holders::{Holder, HolderKind};
pub use pin::{PagePin, PinPages};
pub use range::PageRange;
pub use raw::adapt::Barrier;

/// For models: what the end of a thread does, at a time when loom's statics are still there.
#[cfg(lease_loom)]
pub fn leave_thread() {
    raw::slots::leave_thread();
}
