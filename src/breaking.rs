//! Breaking: close a range, wait until it is idle, get the proof. And closing for good.

use std::fmt;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::task::Poll;

use crate::drained::Drained;
use crate::error::{BreakError, RangeError, TryBreakError};
use crate::guard::{GuardRef, LayoutGuard};
use crate::holders::Holder;
use crate::range::PageRange;
use crate::raw::queue::Ranges;
use crate::raw::wait::{Step, Via, waitable};

impl<M> LayoutGuard<M> {
    /// Closes `pages` (page indices, half-open) *now*, before anything is polled, and waits until nobody
    /// holds any of them.
    ///
    /// From the return of this call on, no pin of those pages is granted, except to pinners that were
    /// waiting with an earlier ticket; the gate does not reopen while the break waits (promise **I1**).
    /// Overlapping breaks have their turn first come first served; disjoint ones run side by side
    /// (promise **I3**).
    ///
    /// A thread that breaks pages which it holds itself waits for itself, for ever;
    /// [`BreakLayouts::holders`] names it.
    ///
    /// # Blocking
    ///
    /// The call itself takes the mapping's lock for one scan of the slots. Waiting is up to you:
    /// `.await`, [`wait`](BreakLayouts::wait), [`wait_timeout`](BreakLayouts::wait_timeout).
    ///
    /// # Cancel safety
    ///
    /// Dropping the value at any point reopens the pages, as if there had been no break (promise **I8**).
    ///
    /// # Errors
    ///
    /// [`BreakError::Closed`]: the guard is or gets closed. [`BreakError::Range`]: the range is empty,
    /// inverted, or not addressable; then nothing was closed.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::LayoutGuard;
    /// use std::time::Duration;
    /// let guard = LayoutGuard::<()>::default();
    /// let pin = guard.try_pin(0..4)?;
    ///
    /// let mut breaking = guard.break_layouts(2..8);
    /// assert!(breaking.wait_timeout(Duration::from_millis(1)).is_none()); // never success
    /// eprintln!("waiting for {}", breaking.holders()[0]);
    ///
    /// drop(pin);
    /// let proof = breaking.wait()?;
    /// assert!(guard.try_pin(7..8).is_err());
    /// # drop(proof);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn break_layouts(&self, pages: impl RangeBounds<u64>) -> BreakLayouts<'_, M> {
        BreakLayouts::start(GuardRef::Borrowed(self), PageRange::from_bounds(pages))
    }

    /// [`break_layouts`](Self::break_layouts) for a break to spawn or to store: it keeps the guard alive
    /// itself.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::LayoutGuard;
    /// use std::sync::Arc;
    /// let guard = Arc::new(LayoutGuard::<()>::default());
    /// let breaking = guard.break_layouts_arc(0..4);
    /// let thread = std::thread::spawn(move || breaking.wait().map(drop));
    /// thread.join().unwrap()?;
    /// # Ok::<(), layout_lease::BreakError>(())
    /// ```
    pub fn break_layouts_arc(
        self: &Arc<Self>,
        pages: impl RangeBounds<u64>,
    ) -> BreakLayouts<'static, M>
    where
        M: 'static,
    {
        let guard = GuardRef::Shared(Arc::clone(self));
        BreakLayouts::start(guard, PageRange::from_bounds(pages))
    }

    /// The proof for `pages` (page indices, half-open), if nobody holds or wants any of them. Never
    /// waits.
    ///
    /// A `try_pin` of those pages that runs at the same moment may be refused although this is refused
    /// too.
    ///
    /// # Blocking
    ///
    /// Takes the mapping's lock for one scan of the slots.
    ///
    /// # Errors
    ///
    /// [`TryBreakError::Busy`] with everybody who holds one of the pages; [`TryBreakError::Breaking`]:
    /// somebody is before you in the queue; [`TryBreakError::Closed`]; [`TryBreakError::Range`].
    /// Whatever the reason, nothing is closed by this call then.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, TryBreakError};
    /// let guard = LayoutGuard::<()>::default();
    /// let pin = guard.try_pin(0..4)?;
    /// match guard.try_break_layouts(3..4) {
    ///     Err(TryBreakError::Busy(holders)) => assert_eq!(holders.len(), 1),
    ///     other => panic!("{other:?}"),
    /// }
    /// drop(pin);
    /// let proof = guard.try_break_layouts(3..4)?;
    /// # drop(proof);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_break_layouts(
        &self,
        pages: impl RangeBounds<u64>,
    ) -> Result<Drained<'_, M>, TryBreakError> {
        let ranges = Ranges::from(PageRange::from_bounds(pages)?);
        let id = self.record().try_close_ranges(ranges.clone())?;
        Ok(Drained::new(GuardRef::Borrowed(self), ranges, id))
    }

    /// Closes the guard for good: the final drain, before the mapping itself goes.
    ///
    /// From the return of this call on, every pin and every break is refused with `Closed`; breaks that
    /// have no proof yet and pinners that wait are told so at once. Waiting for the value waits until
    /// the last pin is dropped and the last proof that was out is given back. (So a thread that waits
    /// for it with a proof in hand waits for itself.)
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
        Close {
            guard: self,
            id: Some(self.record().close()),
        }
    }
}

/// A break: its range is closed already. From [`LayoutGuard::break_layouts`]. A future, and a blocking
/// call.
///
/// # Cancel safety
///
/// Dropped at any point, it reopens the range and lets on who waited for it. After a timeout it is still
/// what it was, and the range still closed.
///
/// # Panics
///
/// Polled or waited on again after its output.
#[must_use = "dropping a break reopens its range at once"]
pub struct BreakLayouts<'g, M> {
    guard: GuardRef<'g, M>,
    ranges: Ranges,
    state: State,
}

enum State {
    /// Never in the queue; nothing is closed.
    Failed(BreakError),
    /// In the queue, waiting or drained; the range is closed. Dropped here, it **must** leave the queue
    /// and reopen.
    Queued(u64),
    /// The output is out: the proof has taken the entry over, or it is gone.
    Done,
}

impl<'g, M> BreakLayouts<'g, M> {
    fn start(guard: GuardRef<'g, M>, range: Result<PageRange, RangeError>) -> Self {
        let (ranges, state) = match range {
            Err(error) => (Ranges::None, State::Failed(error.into())),
            Ok(range) => {
                let ranges = Ranges::from(range);
                match guard.record().close_ranges(ranges.clone()) {
                    Ok(id) => (ranges, State::Queued(id)),
                    Err(_) => (ranges, State::Failed(BreakError::Closed)),
                }
            }
        };
        Self {
            guard,
            ranges,
            state,
        }
    }

    /// A break that fails with `error`.
    pub(crate) fn failed(guard: &'g LayoutGuard<M>, error: RangeError) -> Self {
        Self::start(GuardRef::Borrowed(guard), Err(error))
    }

    /// The ranges that it closes, in order and apart from each other; none if the range was wrong.
    pub fn ranges(&self) -> &[PageRange] {
        self.ranges.as_slice()
    }

    /// Everybody who holds a page of its ranges now: whom it is waiting for, once it is its turn.
    ///
    /// # Blocking
    ///
    /// Takes the mapping's lock for one scan of the slots.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::LayoutGuard;
    /// let guard = LayoutGuard::<()>::default();
    /// let pin = guard.try_pin(0..4)?;
    /// let breaking = guard.break_layouts(..);
    /// let holder = &breaking.holders()[0];
    /// assert_eq!(holder.location().file(), file!());
    /// assert!(holder.age().is_some());
    /// # drop((breaking, pin));
    /// # Ok::<(), layout_lease::TryPinError>(())
    /// ```
    pub fn holders(&self) -> Vec<Holder> {
        self.guard.record().holders(self.ranges())
    }

    /// Whether waiting would end at once with the proof.
    pub fn is_drained(&self) -> bool {
        match self.state {
            State::Queued(id) => self.guard.record().is_drained(id),
            State::Failed(_) | State::Done => false,
        }
    }
}

impl<'g, M> Step for BreakLayouts<'g, M> {
    type Output = Result<Drained<'g, M>, BreakError>;

    fn step(&mut self, via: Via<'_>) -> Poll<Self::Output> {
        let output = match self.state {
            State::Failed(error) => Err(error),
            State::Queued(id) => match self.guard.record().poll_break(id, via) {
                None => return Poll::Pending,
                Some(Ok(())) => Ok(Drained::new(self.guard.clone(), self.ranges.clone(), id)),
                Some(Err(_)) => Err(BreakError::Closed),
            },
            State::Done => panic!("`BreakLayouts` polled after its output"),
        };
        self.state = State::Done;
        Poll::Ready(output)
    }
}

waitable! {
    impl['g, M] BreakLayouts<'g, M> => Result<Drained<'g, M>, BreakError>;
    panic: "If it has yielded its output before.";
}

impl<M> Drop for BreakLayouts<'_, M> {
    fn drop(&mut self) {
        if let State::Queued(id) = self.state {
            self.guard.record().reopen(id);
        }
    }
}

impl<M> fmt::Debug for BreakLayouts<'_, M> {
    /// Never blocks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Failed(_) => "failed",
            State::Queued(_) => "queued",
            State::Done => "done",
        };
        f.debug_struct("BreakLayouts")
            .field("ranges", &self.ranges())
            .field("state", &state)
            .finish()
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
/// Polled or waited on again after its output.
#[must_use = "the guard is closed, but its pins may still be in flight until this is waited on"]
pub struct Close<'g, M> {
    guard: &'g LayoutGuard<M>,
    /// The entry in the queue, until the output is out.
    id: Option<u64>,
}

impl<M> Step for Close<'_, M> {
    type Output = ();

    fn step(&mut self, via: Via<'_>) -> Poll<()> {
        let Some(id) = self.id else {
            panic!("`Close` polled after its output");
        };
        let record = self.guard.record();
        if record.poll_break(id, via).is_none() {
            return Poll::Pending;
        }
        record.reopen(id);
        self.id = None;
        Poll::Ready(())
    }
}

waitable! {
    impl['g, M] Close<'g, M> => ();
    panic: "If it has yielded its output before.";
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
