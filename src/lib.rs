//! `break_layouts()` for your own allocator: close a page range, drain every in-flight user of it, get a
//! proof, then free the blocks.
//!
//! # The problem
//!
//! A storage engine hands pages of a mapping (a file, a segment, an arena, a persistent-memory pool) to a device
//! or to a zero-copy reader: an io_uring read, an RDMA registration, a GPU copy, a plain `&[u8]`. While they work,
//! somebody truncates, punches a hole, compacts. The blocks go back to the allocator, the allocator hands them out
//! again, and the device reads or writes somebody else's data.
//!
//! Linux has this problem between DMA and truncate, and solves it with `break_layouts()`: wait until nobody has
//! the pages pinned, then change the block map. But the kernel protects only what the *file system* frees. Blocks
//! that an engine recycles inside its own file are invisible to it. This crate is the same step for them, and
//! closes what the kernel's leaves open: from the moment a break begins, no newcomer gets in.
//!
//! # In fifteen lines
//!
//! A read goes to a ring, as with io_uring, and the pages are freed while it is under way. (`submit` and `complete` are
//! the two ends of the ring.)
//!
//! ```
//! # let (submit, complete) = std::sync::mpsc::channel::<(u64, u64)>(); // stands for the ring
//! use layout_lease::{LayoutGuard, PinToken, maps::ExtentMap};
//!
//! let file = LayoutGuard::new(ExtentMap::new(1024)); // one guard for each file; it owns the block map
//! file.map().allocate(0..64)?;
//!
//! // Submit: pin page 8, look its block up *after* that, and let the pin travel with the request.
//! let pin = file.try_pin(8..9)?;
//! let block = file.map().lookup(8).ok_or("a hole")?;
//! submit.send((block, pin.into_token().to_u64()))?; // the u64 is the request's `user_data`
//!
//! // Free pages 0..32: closed from here on. Other pages are not disturbed.
//! let punch = file.punch_hole(0..32);
//! assert!(file.try_pin(8..9).is_err() && file.try_pin(40..41).is_ok());
//!
//! // Complete: here the pin ends, on whichever thread this is; not when some future is dropped.
//! let (_block, user_data) = complete.recv()?;
//! drop(PinToken::from_u64(user_data).and_then(PinToken::redeem));
//!
//! assert_eq!(punch.wait()?, 32); // or `.await`: drained, freed, open again
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Words
//!
//! | word | type | meaning |
//! | --- | --- | --- |
//! | mapping | [`LayoutGuard`] | whatever you number pages in; one guard each |
//! | page | [`PageRange`] | an index, `u64`; what a page is in bytes is your affair |
//! | pin | [`PagePin`], [`PinToken`] | a short use of some pages: one I/O |
//! | lease | [`LayoutLease`] | a long use, which its holder is asked to give back: a registered buffer |
//! | break | [`BreakLayouts`] | closing pages, and waiting until no pin or lease has any of them |
//! | proof | [`Drained`] | the pages are closed and idle; while it lives, both stay true |
//! | block map | [`BlockMap`] | your page-to-block mapping and allocator; called only under a proof |
//!
#![cfg_attr(
    doc,
    doc = "How to use them together is in the [guide](docs::guide): write a block map, a blocking engine, an async
one, registered buffers, a compactor. How it works is in [internals](docs::internals)."
)]
//!
//! # Guarantees
//!
//! - **Closing and refusing is one step.** When `break_layouts` returns, no new pin or lease of the pages is granted.
//! - **A proof before the free.** Only a finished break makes a [`Drained`]; it can be neither forged nor cloned, and
//!   every call into the block map checks it.
//! - **First come, first served**, for breaks that overlap; those that do not, run side by side. Newcomers cannot
//!   starve a break, nor breaks a pinner who waits.
//! - **It fails closed.** A forgotten pin or a lost token delays a free for ever, and never frees anything. A timeout
//!   is not success, and no lease expires by the clock.
//! - **Cancelling leaves no trace.** Drop any future, or any blocking wait that has timed out: the pages are open
//!   again, and nobody's wake is lost.
//! - **Any thread.** Pins are `Send`, and outlive their thread and their guard.
//! - **Others are not disturbed.** Pins of other pages take no lock and make no system call, also between two closed
//!   ranges. (A break may interrupt the process's running threads for a moment; [`Barrier`] chooses.)
//! - **You learn who.** [`LayoutGuard::holders`] names who holds pages: since when, and from which source line.
//! - **No `unsafe`** in this crate, and no runtime behind its futures.
//!
#![cfg_attr(
    doc,
    doc = "The promises are numbered; all of them, in full, are in [internals](docs::internals#the-promises), and
`SAFETY.md` in the repository says for each which test, model and mutant watches it."
)]
//!
//! # Not guaranteed
//!
//! - It does not see **other processes**: one that truncates the file behind your back is not stopped.
//! - **Pins live in memory.** Readers do not survive a crash; what must hold after one is your log's affair.
//! - **Pins do not exclude each other.** Two devices that write the same pages are not put in order.
//! - **It cannot stop a device that will not let go.** It tells you who that is, and waits.
//! - **A thread that breaks pages which it holds itself** waits for itself. [`PagePin::into_break`] is the way.
//!
#![cfg_attr(
    doc,
    doc = "More of this kind is in [limitations](docs::limitations); what it costs is in
[performance](docs::performance)."
)]
//!
//! # Why not …
//!
//! **… a `TaskTracker`, a wait group, a counter of operations?** It drains a whole object, not a range of it; a task
//! that is cancelled is gone for it while its I/O still runs; and while it waits, newcomers come in, unless you put
//! a gate before it, and then the race between the two is yours.
//!
//! **… a `RwLock` for each extent?** Its guard borrows the lock, and most kinds must be released on the thread that
//! took them: neither goes through a completion queue. Every reader writes the lock's own cache line. A request
//! that spans extents takes several locks, in order; an extent that is split or moved takes its lock with it.
//!
//! **… epochs?** A pin there is of everything: one slow I/O holds back every free there is, and nobody can say whom
//! it waits for. They tell you that something may be freed some time later; they cannot close a range and tell
//! you *now* that it is idle, which truncating a file needs.
//!
//! **… a reference count for each page?** That is memory for each page, an atomic update of a shared line for each
//! pin, as many of them as a request has pages, and it still does not refuse newcomers. The kernel does it so,
//! and races in that were found for seven years.
//!
//! # Features
//!
//! All are off by default.
//!
//! | feature | what it adds |
//! | --- | --- |
//! | `file` | `maps::FileBlocks` (Linux): a plain file as the block map, with `fallocate` and `ftruncate` |
//! | `verify` | release builds, too, scan once more before each call into the block map, and abort if anybody holds the pages; debug builds always do |
//! | `tracing` | events on slow paths: long waits, recalls, timeouts, guards dropped under live holders |
//! | `metrics` | numbers of the same |
//!
//! # The map
//!
//! For those who read the source, in the order of the flow:
//!
//! ```text
//! pin -> slot -> unpin;   break -> gate -> scan -> wait -> drained -> block map -> reopen
//! ```
//!
//! | file | one word of the flow |
//! | --- | --- |
//! | `guard` | [`LayoutGuard`]: one per mapping; owns the block map and the record |
//! | `pin`, `token` | [`PagePin`], [`PinPages`]: one in-flight use; [`PinToken`]: the same as a number |
//! | `lease`, `recall` | [`LayoutLease`]: a long-lived use; [`Recalled`], [`BreakLeases`]: it is wanted back |
//! | `raw/protocol` | pin and unpin, and the rules of the handshake with breaks |
//! | `raw/slots`, `raw/blocks`, `raw/tokens` | where one pin is written down; who owns which slots; pins as numbers |
//! | `raw/leases`, `raw/tree` | long-lived holds; ranges in order |
//! | `breaking`, `several` | [`BreakLayouts`]: close, wait; [`BreakMany`]: ranges of several guards in one wait |
//! | `raw/turns`, `raw/together` | break and reopen; the same for several mappings |
//! | `raw/gate` | which pages are closed, readable without a lock |
//! | `raw/chunks`, `raw/spills` | very many of them; the tables for that |
//! | `raw/barrier`, `raw/adapt` | the barrier between a store and a look; who pays for it |
//! | `raw/scan` | which pins overlap some pages |
//! | `raw/queue`, `raw/entry` | tickets; what becomes of each of them |
//! | `raw/taking`, `raw/leasing` | wait for pages; give leases back |
//! | `raw/wait`, `raw/wakes`, `raw/waits` | futures and blocking calls; whom to wake; how long it took |
//! | `drained` | [`Drained`]: the evidence; its drop reopens |
//! | `block_map`, `block_op` | [`BlockMap`]: the engine's side; [`BlockOp`]: break, free, reopen |
//! | `maps/extent`, `maps/space`, `maps/file` | block maps that ship |
//! | `retire`, `raw/retiring`, `raw/due`, `raw/shelf` | [`Retired`]: free later, when nobody uses it and the log is on media |
//! | `closing`, `raw/ending` | [`Close`]: for good; and the end of a mapping |
//! | `raw/record`, `raw/arena` | one mapping's gate and queue in one place; a table that never moves |
//! | `holders`, `error`, `range` | the words they all use |
//! | `raw/told` | events and numbers, for whoever listens |
//! | `sync` | the only door to atomics, locks, fences and events |
//! | `docs/guide`, `docs/internals`, `docs/orderings`, `docs/limitations`, `docs/performance` | documentation alone |

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(all(doctest, target_os = "linux"))] // its first example is an io_uring's
#[doc = include_str!("../README.md")]
struct Readme;

mod block_map;
mod block_op;
mod breaking;
mod closing;
// For rustdoc alone: nobody's build has to read it.
#[cfg(doc)]
pub mod docs;
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
#[doc(hidden)]
pub fn leave_thread() {
    raw::blocks::leave_thread();
}

/// For models: whether those that follow see the loads of who is about to store, see `sync::by_loom`.
#[cfg(lease_loom)]
#[doc(hidden)]
pub fn see_own_loads(all: bool) {
    sync::see_own_loads(all);
}
