//! `Close`: the final drain, before the mapping itself goes.

use std::fmt;
use std::task::Poll;
use std::time::Instant;

use crate::guard::LayoutGuard;
use crate::range::PageRange;
use crate::raw::told::{self, Waiting};
use crate::raw::wait::{Step, Via, waitable};

impl<M> LayoutGuard<M> {
    /// Closes the guard for good: the final drain, before the mapping itself goes.
    ///
    /// From the return of this call on, every pin and every break is refused with `Closed`; breaks that
    /// have no proof yet and pinners that wait are told so at once, and every lease is
    /// [recalled](crate::LayoutLease::recalled). Waiting for the value waits until the last pin and the last lease are
    /// gone and the last proof that was out is given back. (So a thread that waits for it with a proof in
    /// hand waits for itself.)
    ///
    /// Waiting also runs what has been [retired](Self::retire) and is not freed yet. Retirements whose log
    /// position is not [durable](Self::durable) when nothing else is left to wait for are given up, with
    /// `Closed`: their blocks are perhaps still named by what is on media, so they are not freed; nor are
    /// those that were retired later with some of the same pages. Make the log durable and say so before you
    /// wait, or at least before you drop the last pin.
    ///
    /// # Blocking
    ///
    /// The call itself takes the mapping's lock for one scan of the slots. Waiting is up to you, and runs retirements,
    /// that is your block map, on the thread that waits.
    ///
    /// # Cancel safety
    ///
    /// Dropping the value stops the waiting; the guard stays closed. `close` may be called again.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, TryPinError};
    /// let guard = LayoutGuard::<()>::default();
    /// let pin = guard.try_pin(0..4)?;
    /// let closing = guard.close();
    /// assert_eq!(guard.try_pin(0..4).unwrap_err(), TryPinError::Closed);
    /// drop(pin);
    /// closing.wait(); // nobody uses the mapping any more
    /// # Ok::<(), TryPinError>(())
    /// ```
    pub fn close(&self) -> Close<'_, M> {
        let turn = self.record().close();
        Close {
            guard: self,
            id: Some(turn.id),
            since: turn.since,
        }
    }
}

/// Waits until nobody uses the mapping any more: from [`LayoutGuard::close`], which has closed it
/// already. A future, and a blocking call.
///
/// # Cancel safety
///
/// Dropped, it stops waiting; the guard stays closed.
///
/// # Panics
///
/// Polled or waited on again after its output. A panic of the block map goes through, in a retirement whose
/// [`Retired`](crate::Retired) has been dropped; the value may be waited on again then.
///
/// # Examples
///
/// See [`LayoutGuard::close`].
#[must_use = "the guard is closed, but its pins may still be in flight until this is waited on"]
pub struct Close<'g, M> {
    guard: &'g LayoutGuard<M>,
    /// The entry in the queue, until the output is out.
    id: Option<u64>,
    /// When it was found that it has to wait.
    since: Option<Instant>,
}

impl<M> Step for Close<'_, M> {
    type Output = ();

    fn step(&mut self, via: Via<'_>) -> Poll<()> {
        let Some(id) = self.id else {
            panic!("`Close` polled after its output");
        };
        let record = self.guard.record();
        let mut over = record.poll_close(id, via);
        // Behind the listener: a retirement that gets ready later wakes us.
        if !over && self.guard.run_left(id) {
            over = record.poll_close(id, Via::Nobody);
        }
        if !over {
            return Poll::Pending;
        }
        if let (true, Some(waiting)) = (told::LISTENED, self.waiting()) {
            told::drained(&waiting);
        }
        record.reopen(id);
        self.id = None;
        Poll::Ready(())
    }

    fn progress(&self) -> Option<u64> {
        Some(self.guard.record().progress())
    }

    fn waiting(&self) -> Option<Waiting<'_>> {
        Some(Waiting {
            ranges: &[PageRange::ALL],
            since: self.since?,
        })
    }
}

waitable! {
    impl['g, M] Close<'g, M> => ();
    panic: "If it has yielded its output before, or if the block map panics in a retirement that nobody waits for.";
}

impl<M> Drop for Close<'_, M> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.guard.record().reopen(id);
        }
    }
}

impl<M> fmt::Debug for Close<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Close")
            .field("done", &self.id.is_none())
            .finish_non_exhaustive()
    }
}
