//! Tokens: a pin as a number, for a completion queue to carry.
//!
//! Problem: a request's user data is 64 bits that go through a kernel or a device, and whatever comes back
//! must not be believed: a stale, a doubled or an invented number must never give back a pin that
//! somebody else holds. Idea: the number is the slot's, with a generation that changes whenever the
//! slot's pin becomes a token and whenever the token becomes a pin again; only one who finds the
//! generation still there gets the pin.
//!
//! | generation | meaning |
//! | --- | --- |
//! | even | no token is out for the slot |
//! | odd | a token with this generation is out; it holds the pin |
//!
//! ```text
//!   token   | generation (upper 32 bits) | slot (lower 32 bits) |
//! ```
//!
//! Pinning and unpinning do not touch the generation. It comes round after 2^31 tokens of one slot.
//!
//! # Orderings
//!
//! The generation is made odd with Release by who holds the pin, and even by compare-and-swap with Acquire
//! by who redeems: so the pin's slot, and what was done before the token was made, is visible to the new
//! holder, whichever way the number came (I7).

use crate::raw::blocks;
use crate::raw::slots::Slot;
use crate::sync::{Ordering, load_own, order};

/// Turns the pin in `slot` into a number. Only who holds the pin may, and holds it no longer then.
pub(crate) fn make(slot: &'static Slot) -> u64 {
    let number = blocks::number_of(slot);
    let Some((_, generation)) = blocks::numbered(number) else {
        unreachable!("the number was just found");
    };
    // Only the pin's holder changes an even generation, and whoever held it before released it to us.
    let odd = load_own!(generation, Ordering::Relaxed).wrapping_add(1);
    // Pairs with the Acquire in `redeem`.
    generation.store(odd, order!(Release, "token_made_relaxed"));
    u64::from(odd) << 32 | number as u64
}

/// Whether `token` has the form of a token.
pub(crate) fn is_plausible(token: u64) -> bool {
    token >> 32 & 1 == 1
}

/// The pin behind `token`, if that is a token which is out: then it is the caller's now.
pub(crate) fn redeem(token: u64) -> Option<&'static Slot> {
    if !is_plausible(token) {
        return None;
    }
    let (slot, generation) = blocks::numbered(token as u32 as usize)?;
    let odd = (token >> 32) as u32;
    // Pairs with the Release in `make`. A failure orders nothing: nothing is concluded from it.
    let redeemed = order!(Acquire, "token_redeemed_relaxed");
    generation
        .compare_exchange(odd, odd.wrapping_add(1), redeemed, Ordering::Relaxed)
        .ok()?;
    Some(slot)
}
