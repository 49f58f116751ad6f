//! `PinToken`: a pin as a number, to travel through a completion queue.

use std::fmt;

use crate::pin::PagePin;
use crate::raw::record::Record;
use crate::raw::tokens;

/// A pin turned into a `u64`, for an io_uring's `user_data` or an RDMA work request's `wr_id`: the pin
/// belongs to the request, and is whole again when the completion comes back.
///
/// The number holds the pin; dropping or losing it leaves the pages pinned for ever (promise **I4**). A
/// number that is no live token (stale, redeemed before, invented) redeems to `None`; it never touches
/// anybody's pin, except that one who guesses a live token's number has that token.
///
/// A token is never below 2^32. So requests of the same ring that have no pin (timeouts, cancellations, syncs) may
/// have numbers below that: they redeem to `None`.
///
/// Of the tokens that a slot has had, the last 2^31 can be told apart. An engine that has a table of its requests
/// anyway keeps the [`PagePin`] there, and needs no token.
///
/// # Examples
///
/// ```
/// use layout_lease::{LayoutGuard, PinToken};
/// let guard = LayoutGuard::<()>::default();
/// let user_data = guard.try_pin(0..4)?.into_token().to_u64(); // submit it with the request
///
/// assert!(guard.try_break_layouts(0..1).is_err()); // in flight
///
/// let pin = PinToken::from_u64(user_data).and_then(PinToken::redeem).unwrap(); // completed
/// assert_eq!(pin.range().len(), 4);
/// assert!(PinToken::from_u64(user_data).and_then(PinToken::redeem).is_none()); // only once
/// # Ok::<(), layout_lease::TryPinError>(())
/// ```
#[must_use = "a token that is not redeemed leaves its pages pinned for ever"]
#[derive(PartialEq, Eq)]
pub struct PinToken(u64);

impl PagePin {
    /// Turns the pin into a number, which holds it.
    ///
    /// Costs a few stores; takes no lock.
    ///
    /// # Examples
    ///
    /// See [`PinToken`].
    pub fn into_token(self) -> PinToken {
        PinToken(tokens::make(self.into_slot()))
    }
}

impl PinToken {
    /// The number; at least 2^32.
    ///
    /// # Examples
    ///
    /// See [`PinToken`].
    #[must_use = "a token whose number is lost leaves its pages pinned for ever"]
    pub fn to_u64(self) -> u64 {
        self.0
    }

    /// The token with this number, if a token can have it. That does not mean that it is out.
    ///
    /// # Examples
    ///
    /// See [`PinToken`].
    pub fn from_u64(token: u64) -> Option<PinToken> {
        tokens::is_plausible(token).then_some(PinToken(token))
    }

    /// The pin, if this is a token that is out. Of several who try with the same number, one gets it.
    ///
    /// Takes no lock, and may be called on any thread.
    ///
    /// # Examples
    ///
    /// See [`PinToken`].
    pub fn redeem(self) -> Option<PagePin> {
        let slot = tokens::redeem(self.0)?;
        // The slot is ours now, and filled: so it names a record.
        let record = Record::numbered(slot.record())?;
        Some(PagePin::new(slot, record))
    }
}

impl fmt::Debug for PinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinToken({:#x})", self.0)
    }
}
