//! `break_layouts()` for your own allocator: close a page range, drain every in-flight user of it, get a
//! proof, then free the blocks.
//!
//! Pin the pages of each operation while a device or a reader uses them; break a range before its blocks
//! go. From the moment [`break_layouts`](LayoutGuard::break_layouts) returns, no new pin of the range is
//! granted; when the last one is gone there is a [proof](Drained), and only under it does the engine's
//! [block map](BlockMap) free anything.
//!
//! ```
//! use layout_lease::{LayoutGuard, maps::ExtentMap};
//!
//! let guard = LayoutGuard::new(ExtentMap::new(1024)); // one for each mapping
//! guard.map().allocate(0..64)?;
//!
//! let pin = guard.try_pin(8..16)?; // an operation begins; look its blocks up now, not before
//! let device = std::thread::spawn(move || drop(pin)); // ... and ends, on any thread
//!
//! let freed = guard.punch_hole(0..32).wait()?; // closed, drained, freed, open again
//! assert_eq!(freed, 32);
//! # device.join().unwrap();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it does not do: it does not see other processes that truncate the file; pins do not survive a
//! crash, and do not exclude each other; it cannot stop a device that will not let go, only say
//! [who](LayoutGuard::holders) that is; and a thread that breaks pages which it holds itself waits for
//! itself.
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
//! | `token` | [`PinToken`]: a pin as a number, for a completion queue to carry |
//! | `lease` | [`LayoutLease`], [`LeasePages`]: a long-lived use of a range |
//! | `breaking` | [`BreakLayouts`]: close, wait |
//! | `recall` | [`Recalled`]: a lease is wanted; [`BreakLeases`]: leases alone |
//! | `several` | [`break_layouts_of`], [`BreakMany`]: ranges of several guards in one wait |
//! | `drained` | [`Drained`]: the evidence; its drop reopens |
//! | `block_map` | [`BlockMap`]: the engine's side, called under the evidence |
//! | `block_op` | [`BlockOp`]: break, free, reopen |
//! | `retire` | [`Retired`]: free later, when nobody uses it and the log is on media |
//! | `closing` | [`Close`]: for good |
//! | [`maps`] | block maps that ship |
//! | `raw` | the machine: slots and blocks of them, barrier, gate, scan, leases, queue, wait |
//! | `holders`, `range`, `error` | the words they all use |
//! | `sync` | the only door to atomics, locks, fences and events |

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(all(doctest, target_os = "linux"))] // its first example is an io_uring's
#[doc = include_str!("../README.md")]
struct Readme;

mod block_map;
mod block_op;
mod breaking;
mod closing;
mod drained;
mod error;
mod guard;
mod holders;
mod lease;
pub mod maps;
mod pin;
mod range;
mod raw;
mod recall;
mod retire;
mod several;
mod sync;
mod token;

pub use block_map::BlockMap;
pub use block_op::BlockOp;
pub use breaking::BreakLayouts;
pub use closing::Close;
pub use drained::Drained;
pub use error::{BreakError, OpError, PinError, TryBreakError, TryPinError};
pub use guard::{LayoutGuard, Stats};
pub use holders::{Holder, HolderKind};
pub use lease::{LayoutLease, LeasePages};
pub use pin::{PagePin, PinPages};
pub use range::{PageRange, RangeError};
pub use raw::adapt::Barrier;
pub use recall::{BreakLeases, LeaseFree, Recalled};
pub use retire::{Retired, RetiredReady};
pub use several::{AnyGuard, BreakMany, DrainedMany, DrainedOf, break_layouts_of};
pub use token::PinToken;

/// For models: what the end of a thread does, at a time when loom's statics are still there.
#[cfg(lease_loom)]
pub fn leave_thread() {
    raw::blocks::leave_thread();
}
