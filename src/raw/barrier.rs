//! The two sides of the handshake between pinners and breakers. All fences of the crate are here.
//!
//! Problem: a pinner stores its slot and then looks at the gate; a breaker closes the gate and then
//! looks at the slots. A processor may let each look before its own store is visible, and then both
//! find the coast clear. Idea: a full barrier between store and look, on both sides.
//!
//! ```text
//!   pinner:   slot = range          breaker:   gate = closed
//!             light()                          heavy()
//!             look at the gate                 look at the slots
//! ```
//!
//! One of the two barriers comes first in the single order of all of them; the other side's look then
//! sees what was stored before it. The same pair serves unpinning: there the holder stores "free" and
//! looks whether somebody waits.

use crate::sync::{Ordering, fence};

/// The pinner's side, between the store to its slot and its look at the gate.
#[inline(always)]
pub(crate) fn light() {
    // Pairs with `heavy`:
    // - if this fence comes first, the breaker's scan sees the slot, and the break waits for it;
    // - if `heavy` comes first, the look behind this fence sees the gate closed: a pinner steps back,
    //   an unpinner goes and finds out whether it was the last.
    #[cfg(not(lease_mutant = "light_missing"))]
    fence(Ordering::SeqCst);
}

/// The breaker's side, between closing the gate and looking at the slots.
#[inline]
pub(crate) fn heavy() {
    // Pairs with `light`, see there.
    #[cfg(not(lease_mutant = "heavy_missing"))]
    fence(Ordering::SeqCst);
}
