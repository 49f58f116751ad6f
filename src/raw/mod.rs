//! The machine: slots, gate, scan, wait. It knows no block map, no lifetimes and no storage.
//!
//! # The promises
//!
//! Numbered once, in `docs/promises.md`, and cited by number wherever a line keeps one.
//!
//! # The machine in one paragraph
//!
//! A pin is an exact range, stored in a *slot* that the pinning thread owns ([`slots`]). The *gate* of a
//! mapping ([`gate`]) is 0 when nothing is closed. Pin ([`protocol`]): fill the slot, [`barrier`], look at
//! the gate. Unpin: clear the slot, barrier, look at the gate. Break: close the gate, barrier, [`scan`]
//! the slots. Whichever comes first is seen by the other, so either the break waits for the
//! pin or the pin steps back. A ticket [`queue`] orders breaks and those who wait for pages ([`entry`]),
//! under the mapping's own lock, which only breaks and those that meet one ever take, and holders of
//! [`leases`], which are in a [`tree`]. A slot is found through [`blocks`] of them, a mapping's gate and queue
//! through its [`record`].
//!
//! Its files are on the map in `lib.rs`, and their floors in DESIGN.md.

pub(crate) mod adapt;
pub(crate) mod arena;
pub(crate) mod barrier;
pub(crate) mod blocks;
pub(crate) mod chunks;
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
pub(crate) mod shelf;
pub(crate) mod slots;
pub(crate) mod spills;
pub(crate) mod taking;
pub(crate) mod together;
pub(crate) mod tokens;
pub(crate) mod told;
pub(crate) mod tree;
pub(crate) mod turns;
pub(crate) mod wait;
pub(crate) mod waits;
pub(crate) mod wakes;
