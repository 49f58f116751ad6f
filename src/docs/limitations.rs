//! What it does not do, and what to do then.
//!
//! # It sees only those who ask
//!
//! - **Other processes.** One that truncates or punches the file is not stopped; nor is another process that has the
//!   same file mapped. Lock the file, or keep it in a place that is yours.
//! - **Those who take no pin.** A `&[u8]` into the mapping that was made without a pin, or outlives it, is invisible.
//!   Let your own types carry the pin: `examples/pmem_kv` has a view of a value that does.
//! - **Look-ups before the pin.** The block that was behind a page before you pinned it may have been freed. Look it up
//!   after.
//! - **What comes in.** A break keeps out pins and leases, not your allocator. A writer that maps new blocks into a
//!   range that is being truncated is for you to stop; one that pins the pages first is stopped like any reader.
//!
//! # Pins do not exclude each other
//!
//! Any number of pins may overlap, also of two who write. They keep the blocks where they are, and say nothing about
//! what is in them. For writers in turn take a lock of your own, or a break: its proof is exclusive.
//!
//! # It waits for as long as it takes
//!
//! A device that never completes holds its pages for ever, and a break of them never ends: there is no safe answer
//! but waiting. Use [`wait_timeout`](crate::BreakLayouts::wait_timeout) to hear of it,
//! [`holders`](crate::LayoutGuard::holders) to learn who it is, [`try_break_layouts`](crate::LayoutGuard::try_break_layouts)
//! to skip those pages, and [`retire`](crate::LayoutGuard::retire) not to wait at all. The feature `tracing` warns when
//! a blocking call has waited for a second.
//!
//! # Ways to wait for oneself
//!
//! - A thread that breaks pages which it holds: use [`into_break`](crate::PagePin::into_break).
//! - A thread that holds one pin and waits for another, whose pages are being broken by one who waits for the first: pin
//!   all pages at once, or [extend](crate::PagePin::extend).
//! - A thread that waits for a break or a pin while it has a lock of the engine's, which a holder of the pages needs to
//!   go on: wait without the lock, or take it and [try](crate::LayoutGuard::try_break_layouts).
//! - A block map that pins or breaks pages of its own proof, while it is called.
//! - A break of the pages of a [`LeaseFree`](crate::LeaseFree) that is still held.
//! - A thread that waits for pages which are [retired](crate::LayoutGuard::retire), where it is the one that
//!   [runs retirements](crate::LayoutGuard::run_retired): run them first.
//! - [`close`](crate::LayoutGuard::close), waited for with a proof in hand.
//! - Retired pages that nobody frees: whoever wants them waits until somebody has called
//!   [`run_retired`](crate::LayoutGuard::run_retired).
//!
//! [`holders`](crate::LayoutGuard::holders) names the thread in each case that has a holder.
//!
//! # Crashes, forks and forgotten values
//!
//! - **Pins live in memory.** After a crash nobody holds anything, and a reader that was in the middle is gone with its
//!   process. Blocks that the media still names must not be reused before the log says so:
//!   [`retire_after`](crate::LayoutGuard::retire_after).
//! - **A forgotten pin** (`mem::forget`, a leaked task, a lost token) holds its pages until the process ends. That is
//!   on purpose: the device may still be at work.
//! - **In the child of a fork** the guards are the parent's. They may be dropped there, which frees nothing and waits
//!   for nobody. Make new ones for the child's own work; but a child of a process that had several threads first
//!   executes a program, as POSIX asks of it: another thread may have had a lock of this crate, too.
//! - **A block map that has pins of its own guard** in it outlives that guard for ever: the map goes with the last
//!   holder, and the holder with the map. Drop them first; the feature `tracing` warns of a guard that was dropped
//!   under live holders.
//!
//! # Costs that grow
//!
//! - A break looks at every slot that is in use in the whole process, of whichever mapping: its cost grows with the
//!   number of pins that are out ([`performance`](super::performance)). What is held for long should be a lease.
//! - An asymmetric barrier interrupts the running threads of the process. A process with threads that must not be
//!   interrupted chooses [`Barrier::Fenced`](crate::Barrier::Fenced).
//! - Slots and records are recycled, never given back to the system: memory stays at its highest mark.
//!
//! # Systems
//!
//! It is made for Linux, and tested on x86-64. Elsewhere, or where `membarrier` is refused, every pin has a fence.
//! `maps::FileBlocks` is for Linux alone.
