//! Breaking: close a range, wait until it is idle, get the proof.

use std::fmt;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::task::Poll;

use crate::drained::Drained;
use crate::error::{BreakError, TryBreakError};
use crate::guard::{GuardRef, LayoutGuard};
use crate::holders::Holder;
use crate::pin::PagePin;
use crate::range::{PageRange, RangeError};
use crate::raw::entry::Ranges;
use crate::raw::told::{self, Waiting};
use crate::raw::turns::Turn;
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
    /// [`BreakLayouts::holders`] names it, and [`PagePin::into_break`] is the way.
    ///
    /// The value borrows the guard. For one to spawn or to store there is
    /// [`break_layouts_arc`](Self::break_layouts_arc).
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
        let ranges = PageRange::from_bounds(pages).map(Ranges::from);
        BreakLayouts::start(GuardRef::Borrowed(self), ranges)
    }

    /// [`break_layouts`](Self::break_layouts) for a break to spawn or to store: it keeps the guard alive
    /// itself. Blocking, cancelling and errors are the same.
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
        BreakLayouts::start(guard, PageRange::from_bounds(pages).map(Ranges::from))
    }

    /// [`break_layouts`](Self::break_layouts) for several ranges: one barrier, one wait, one proof. Ranges
    /// that overlap or touch are joined. Blocking and cancelling are the same.
    ///
    /// # Errors
    ///
    /// As [`break_layouts`](Self::break_layouts). No ranges at all are an error, too: that is
    /// never "everything" (promise **I10**).
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, PageRange};
    /// let guard = LayoutGuard::<()>::default();
    /// let ranges = [PageRange::new(7, 9)?, PageRange::new(0, 2)?];
    /// let proof = guard.break_all(&ranges).wait()?;
    /// assert!(guard.try_pin(8..9).is_err());
    /// assert!(guard.try_pin(2..7).is_ok()); // between them nothing is closed
    /// assert_eq!(proof.ranges(), [ranges[1], ranges[0]]);
    /// # drop(proof);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn break_all(&self, ranges: &[PageRange]) -> BreakLayouts<'_, M> {
        let ranges = match ranges {
            [] => Err(RangeError::Empty { at: 0 }),
            _ => Ok(Ranges::normalized(ranges.to_vec())),
        };
        BreakLayouts::start(GuardRef::Borrowed(self), ranges)
    }

    /// The proof for `pages` (page indices, half-open), if nobody holds or wants any of them. Never
    /// waits.
    ///
    /// A `try_pin` of those pages that runs at the same moment may be refused although no proof comes of this
    /// either.
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
}

/// A break: its range is closed already. From [`LayoutGuard::break_layouts`]. A future, and a blocking
/// call.
///
/// # Cancel safety
///
/// Dropped at any point, it reopens the range, and whoever waited for that goes on. After a timeout it is still
/// what it was, and the range still closed.
///
/// # Panics
///
/// Polled or waited on again after its output.
///
/// # Examples
///
/// See [`LayoutGuard::break_layouts`].
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
    Queued(Turn),
    /// The output is out: the proof has taken the entry over, or it is gone.
    Done,
}

impl<'g, M> BreakLayouts<'g, M> {
    fn start(guard: GuardRef<'g, M>, ranges: Result<Ranges, RangeError>) -> Self {
        let (ranges, state) = match ranges {
            Err(error) => (Ranges::None, State::Failed(error.into())),
            Ok(ranges) => match guard.record().close_ranges(ranges.clone()) {
                Ok(turn) => (ranges, State::Queued(turn)),
                Err(_) => (ranges, State::Failed(BreakError::Closed)),
            },
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
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::LayoutGuard;
    /// let guard = LayoutGuard::<()>::default();
    /// let breaking = guard.break_layouts(2..8);
    /// assert_eq!((breaking.ranges()[0].start(), breaking.ranges()[0].end()), (2, 8));
    /// assert!(guard.break_layouts(8..2).ranges().is_empty()); // inverted: an error when it is waited for
    /// ```
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
    ///
    /// # Blocking
    ///
    /// Takes the mapping's lock for a moment.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::LayoutGuard;
    /// let guard = LayoutGuard::<()>::default();
    /// let pin = guard.try_pin(0..4)?;
    /// let breaking = guard.break_layouts(2..8);
    /// assert!(!breaking.is_drained());
    /// drop(pin);
    /// assert!(breaking.is_drained());
    /// # Ok::<(), layout_lease::TryPinError>(())
    /// ```
    pub fn is_drained(&self) -> bool {
        match self.state {
            State::Queued(turn) => turn.drained || self.guard.record().is_drained(turn.id),
            State::Failed(_) | State::Done => false,
        }
    }
}

impl<'g, M> Step for BreakLayouts<'g, M> {
    type Output = Result<Drained<'g, M>, BreakError>;

    fn step(&mut self, via: Via<'_>) -> Poll<Self::Output> {
        let output = match self.state {
            State::Failed(error) => Err(error),
            State::Queued(Turn { id, drained, .. }) => {
                // Once drained, it stays so: nobody else takes it out.
                let answer = match drained {
                    true => Some(Ok(())),
                    false => self.guard.record().poll_break(id, via),
                };
                match answer {
                    None => return Poll::Pending,
                    Some(Ok(())) => Ok(Drained::new(self.guard.clone(), self.ranges.clone(), id)),
                    Some(Err(_)) => Err(BreakError::Closed),
                }
            }
            State::Done => panic!("`BreakLayouts` polled after its output"),
        };
        if let (true, Some(waiting)) = (told::LISTENED && output.is_ok(), self.waiting()) {
            told::drained(&waiting);
        }
        self.state = State::Done;
        Poll::Ready(output)
    }

    fn progress(&self) -> Option<u64> {
        Some(self.guard.record().progress())
    }

    fn waiting(&self) -> Option<Waiting<'_>> {
        match self.state {
            State::Queued(Turn { since, .. }) => Some(Waiting {
                ranges: self.ranges.as_slice(),
                since: since?,
            }),
            State::Failed(_) | State::Done => None,
        }
    }
}

waitable! {
    impl['g, M] BreakLayouts<'g, M> => Result<Drained<'g, M>, BreakError>;
    panic: "If it has yielded its output before.";
}

impl<M> Drop for BreakLayouts<'_, M> {
    fn drop(&mut self) {
        if let State::Queued(turn) = self.state {
            self.guard.record().reopen(turn.id);
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

impl PagePin {
    /// Breaks the pages of this pin, whose holder wants to free them itself: closes them first, then
    /// unpins, so nobody else's break of them gets in between. Two holders of the same pages who do this to
    /// each other do not deadlock; the one who came first has its turn first.
    ///
    /// # Blocking
    ///
    /// As [`break_layouts`](LayoutGuard::break_layouts): the call itself takes the mapping's lock for one scan.
    ///
    /// # Cancel safety
    ///
    /// Dropping the value reopens the pages. The pin is gone by then.
    ///
    /// # Errors
    ///
    /// Gives the pin back if it is of another guard, or if the guard was closed.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::LayoutGuard;
    /// let guard = LayoutGuard::<()>::default();
    /// let pin = guard.try_pin(0..4)?;
    /// let other = LayoutGuard::<()>::default();
    /// let pin = pin.into_break(&other).unwrap_err();
    /// let proof = pin.into_break(&guard).unwrap().wait()?;
    /// assert!(guard.try_pin(3..4).is_err());
    /// # drop(proof);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_break<M>(self, guard: &LayoutGuard<M>) -> Result<BreakLayouts<'_, M>, PagePin> {
        if !self.is_of(guard) {
            return Err(self);
        }
        let record = guard.record();
        let ranges = Ranges::from(self.range());
        match record.close_ranges(ranges.clone()) {
            Err(_) => Err(self),
            Ok(turn) => {
                let breaking = BreakLayouts {
                    guard: GuardRef::Borrowed(guard),
                    ranges,
                    state: State::Queued(turn),
                };
                // It counts this pin, as does every break before it. Whose waker may panic: then ours is
                // dropped (I8).
                drop(self);
                Ok(breaking)
            }
        }
    }
}
