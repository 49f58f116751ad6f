//! The machine: slots, gate, scan, wait. It knows no block map, no lifetimes and no storage.
//!
//! # The promises
//!
//! Numbered once, here, and cited wherever a line keeps one.
//!
//! - **I1 One step.** From the moment `break_layouts` returns, no pin or lease that overlaps the
//!   range is granted, except to those the break already waits for. The gate does not reopen while
//!   it waits.
//! - **I2 Proof.** A proof exists only while nothing overlaps it. Nothing but success of a break makes
//!   one; it cannot be forged or cloned, and what takes one checks that it is of the right mapping
//!   and covers the pages.
//! - **I3 One proof per page; one queue.** Breaks take a ticket when called, waiting pinners when
//!   first polled or waited on. Each waits only for earlier tickets that overlap it (pins never wait
//!   for pins).
//! - **I4 Fail closed.** Forgetting anything can only delay a free. A timeout frees nothing. Nothing
//!   expires by the clock.
//! - **I5 Bounded both ways.** A break ends after the releases of those it waits for; a waiting pinner
//!   is granted as soon as the breaks with earlier tickets are over, by whoever reopens.
//! - **I6 No lost wake**, and one wake from holders per drain: "busy", "sleep" and "wake" are decided
//!   by the same words.
//! - **I7 Ordered.** What the holder did before release happens before what the holder of the proof
//!   does; what happened under the proof happens before the next pin's grant.
//! - **I8 Cancel.** A dropped break or pin leaves the gate, the queue and the counters as if it had
//!   never been. A timed-out one is still what it was.
//! - **I9 Any thread.** Pins may be dropped on any thread, at thread exit, while unwinding, inside a
//!   `Drop`; a pin outlives its thread and its guard. Dropping a guard with live pins never frees the
//!   map under them: the last of them drops it.
//! - **I10 Empty is never "all".** Empty or inverted ranges are typed errors.
//! - **I11 No skipping.** A scan cannot pass over a slot that is in transition.
//! - **I12 Others undisturbed.** Pins outside closed ranges, also those between two closed ranges, take
//!   no lock and no syscall during a break; a break takes no lock of another mapping's.
//!
//! # The machine in one paragraph
//!
//! A pin is an exact range, stored in a *slot* that the pinning thread owns ([`slots`]). The *gate* of a
//! mapping ([`gate`]) is 0 when nothing is closed. Pin ([`protocol`]): fill the slot, [`barrier`], look at
//! the gate. Unpin: clear the slot, barrier, look at the gate. Break: close the gate, barrier, [`scan`]
//! the slots. Whichever comes first is seen by the other, so either the break waits for the
//! pin or the pin steps back. A ticket [`queue`] orders breaks and those who wait for pages ([`entry`]),
//! under the mapping's own lock, which only breaks and those that meet one ever take, and holders of
//! [`leases`], which are in a [`tree`].
//!
//! # Files, from the top
//!
//! | file | what |
//! | --- | --- |
//! | [`together`] | several mappings are broken at once |
//! | [`turns`], [`taking`], [`leasing`], [`retiring`], [`ending`] | break and reopen; wait for pages; give leases back; free later; close and drop |
//! | [`protocol`] | pin and unpin |
//! | [`record`] | one mapping: everything below, in one place |
//! | [`due`], [`queue`], [`entry`] | retirements that can be freed; tickets, and what becomes of them |
//! | [`leases`], [`tree`], [`waits`] | long-lived holds; ranges in order; how long breaks waited |
//! | [`scan`] | which pins overlap some pages |
//! | [`tokens`], [`blocks`], [`slots`] | pins as numbers; who owns which slots; one pin |
//! | [`gate`], [`adapt`], [`barrier`] | what is closed; who pays for the barrier; the barrier |
//! | [`wakes`], [`wait`], [`told`], [`arena`] | whom to wake; futures and blocking calls; events and numbers; a table that never moves |

pub(crate) mod adapt;
pub(crate) mod arena;
pub(crate) mod barrier;
pub(crate) mod blocks;
pub(crate) mod due;
pub(crate) mod ending;
pub(crate) mod entry;
pub(crate) mod gate;
pub(crate) mod leases;
pub(crate) mod leasing;
pub(crate) mod protocol;
pub(crate) mod queue;
pub(crate) mod record;
pub(crate) mod retiring;
pub(crate) mod scan;
pub(crate) mod slots;
pub(crate) mod taking;
pub(crate) mod together;
pub(crate) mod tokens;
pub(crate) mod told;
pub(crate) mod tree;
pub(crate) mod turns;
pub(crate) mod wait;
pub(crate) mod waits;
pub(crate) mod wakes;
