//! Recall: how the holder of a lease hears that it is wanted, and the break that wants leases alone.

use std::fmt;
use std::ops::RangeBounds;
use std::task::Poll;

use crate::error::BreakError;
use crate::guard::LayoutGuard;
use crate::holders::Holder;
use crate::lease::LayoutLease;
use crate::range::PageRange;
use crate::raw::entry::Ranges;
use crate::raw::told::{self, Waiting};
use crate::raw::turns::Turn;
use crate::raw::wait::{Step, Via, waitable};

impl LayoutLease {
    /// Waits until some break wants part of the range, and tells which part: the smallest range that has
    /// everything in it that is wanted now. Resolves at once if there is such a break already.
    ///
    /// A break that goes away again does not take back what has been told. [`close`](LayoutGuard::close) and the
    /// drop of the guard want all of it.
    ///
    /// # Blocking
    ///
    /// The call itself does nothing. Polling and waiting take the mapping's lock for a moment.
    ///
    /// # Cancel safety
    ///
    /// Dropped at any point, nothing is lost: it may be called again.
    ///
    /// # Examples
    ///
    /// What a holder does that gives back as little as it can:
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, LayoutLease, RangeError};
    ///
    /// /// What is left of the lease once what is wanted has been given back.
    /// fn give_back(mut lease: LayoutLease) -> Result<Option<LayoutLease>, RangeError> {
    ///     let (ours, wanted) = (lease.range(), lease.recalled().wait());
    ///     // ... unregister what goes ...
    ///     if ours.start() < wanted.start() {
    ///         lease.shrink_to(..wanted.start())?; // of two sides the lower one
    ///     } else if wanted.end() < ours.end() {
    ///         lease.shrink_to(wanted.end()..)?;
    ///     } else {
    ///         return Ok(None); // all of it: dropped
    ///     }
    ///     Ok(Some(lease))
    /// }
    ///
    /// let guard = LayoutGuard::<()>::default();
    /// let mut lease = Some(guard.lease(0..64).wait()?);
    /// for (wanted, left) in [(60..80, Some(60)), (0..8, Some(52)), (0..64, None)] {
    ///     let breaking = guard.break_layouts(wanted);
    ///     lease = lease.map(give_back).transpose()?.flatten();
    ///     assert_eq!(lease.as_ref().map(|lease| lease.range().len()), left);
    ///     drop(breaking.wait()?);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, PageRange};
    /// let guard = LayoutGuard::<()>::default();
    /// let lease = guard.lease(0..64).wait()?;
    /// assert!(lease.recalled().wait_timeout(std::time::Duration::ZERO).is_none());
    /// let breaking = guard.break_layouts(60..80);
    /// assert_eq!(lease.recalled().wait(), PageRange::new(60, 64)?);
    /// # drop((breaking, lease));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recalled(&self) -> Recalled<'_> {
        Recalled {
            lease: self,
            state: RecallState::Idle,
        }
    }
}

/// Waits until a lease is recalled: from [`LayoutLease::recalled`]. A future, and a blocking call.
///
/// # Cancel safety
///
/// Dropped at any point, nothing is lost.
///
/// # Panics
///
/// Polled or waited on again after its output.
///
/// # Examples
///
/// See [`LayoutLease::recalled`].
#[must_use = "nothing is waited for until this is awaited or waited on"]
pub struct Recalled<'a> {
    lease: &'a LayoutLease,
    state: RecallState,
}

enum RecallState {
    Idle,
    /// Has a name under which it may have left a listener. Dropped here, it **must** take that away.
    Called(u64),
    Done,
}

impl Step for Recalled<'_> {
    type Output = PageRange;

    fn step(&mut self, via: Via<'_>) -> Poll<PageRange> {
        let (record, number, range) = self.lease.parts();
        let caller = match self.state {
            RecallState::Idle => record.caller(),
            RecallState::Called(caller) => caller,
            RecallState::Done => panic!("`Recalled` polled after its output"),
        };
        self.state = RecallState::Called(caller);
        let Some(wanted) = record.poll_recall(number, range, caller, via) else {
            return Poll::Pending;
        };
        record.unhang_recall(number, caller);
        self.state = RecallState::Done;
        Poll::Ready(wanted)
    }

    fn progress(&self) -> Option<u64> {
        Some(self.lease.parts().0.progress())
    }
}

waitable! {
    impl['a] Recalled<'a> => PageRange;
    panic: "If it has yielded its output before.";
}

impl Drop for Recalled<'_> {
    fn drop(&mut self) {
        if let RecallState::Called(caller) = self.state {
            let (record, number, _) = self.lease.parts();
            record.unhang_recall(number, caller);
        }
    }
}

impl fmt::Debug for Recalled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = matches!(self.state, RecallState::Done);
        f.debug_struct("Recalled")
            .field("lease", self.lease)
            .field("done", &done)
            .finish()
    }
}

impl<M> LayoutGuard<M> {
    /// Recalls the leases of `pages` (page indices, half-open) and waits until they are given back, while
    /// pins go on. From the return of this call on, no lease of them is granted.
    ///
    /// For an engine that writes in place, or moves data whose readers are quick: the counterpart of XFS's
    /// `BREAK_WRITE` beside its `BREAK_UNMAP`. It and [breaks](Self::break_layouts) of the same pages do not
    /// wait for each other, for both keep leases out; but both wait for one who waited for a lease before
    /// them, so do not break the pages of a [`LeaseFree`] while you hold it.
    ///
    /// # Blocking
    ///
    /// The call itself takes the mapping's lock, and looks through its leases. Waiting is up to you.
    ///
    /// # Cancel safety
    ///
    /// Dropping the value at any point lets leases be taken again. What was recalled has been told.
    ///
    /// # Errors
    ///
    /// [`BreakError::Closed`]: the guard is or gets closed. [`BreakError::Range`]: the range is empty, inverted, or
    /// not addressable.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::LayoutGuard;
    /// let guard = LayoutGuard::<()>::default();
    /// let (lease, pin) = (guard.lease(0..8).wait()?, guard.try_pin(0..8)?);
    /// let mut breaking = guard.break_leases(4..6);
    /// assert!(lease.is_recalled() && !pin.is_breaking());
    /// drop(lease);
    /// let free = breaking.wait()?;
    /// assert!(guard.try_pin(4..6).is_ok()); // pins go on
    /// # drop((free, pin));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn break_leases(&self, pages: impl RangeBounds<u64>) -> BreakLeases<'_, M> {
        let ranges = PageRange::from_bounds(pages).map(Ranges::from);
        let (ranges, state) = match ranges {
            Err(error) => (Ranges::None, State::Failed(error.into())),
            Ok(ranges) => match self.record().close_to_leases(ranges.clone()) {
                Ok(turn) => (ranges, State::Queued(turn)),
                Err(_) => (ranges, State::Failed(BreakError::Closed)),
            },
        };
        BreakLeases {
            guard: self,
            ranges,
            state,
        }
    }
}

/// A break of leases: they are recalled already. From [`LayoutGuard::break_leases`]. A future, and a
/// blocking call.
///
/// # Cancel safety
///
/// Dropped at any point, it lets leases be taken again. After a timeout it is still what it was.
///
/// # Panics
///
/// Polled or waited on again after its output.
///
/// # Examples
///
/// See [`LayoutGuard::break_leases`].
#[must_use = "dropping a break of leases lets them be taken again at once"]
pub struct BreakLeases<'g, M> {
    guard: &'g LayoutGuard<M>,
    ranges: Ranges,
    state: State,
}

enum State {
    /// Never in the queue.
    Failed(BreakError),
    /// In the queue. Dropped here, it **must** leave it.
    Queued(Turn),
    Done,
}

impl<M> BreakLeases<'_, M> {
    /// The range whose leases it breaks; none if the range was wrong.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::LayoutGuard;
    /// let guard = LayoutGuard::<()>::default();
    /// let lease = guard.lease(0..8).labelled("ring 0").wait()?;
    /// let breaking = guard.break_leases(4..6);
    /// assert_eq!(breaking.ranges()[0].len(), 2);
    /// # drop((breaking, lease));
    /// # Ok::<(), layout_lease::PinError>(())
    /// ```
    pub fn ranges(&self) -> &[PageRange] {
        self.ranges.as_slice()
    }

    /// Everybody who has a lease of its range now.
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
    /// let lease = guard.lease(0..8).labelled("ring 0").wait()?;
    /// let breaking = guard.break_leases(4..6);
    /// assert_eq!(breaking.holders()[0].label(), Some("ring 0"));
    /// # drop((breaking, lease));
    /// # Ok::<(), layout_lease::PinError>(())
    /// ```
    pub fn holders(&self) -> Vec<Holder> {
        self.guard.record().lease_holders(self.ranges())
    }

    /// Whether waiting would end at once, with a [`LeaseFree`].
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
    /// let lease = guard.lease(0..8).labelled("ring 0").wait()?;
    /// let breaking = guard.break_leases(4..6);
    /// assert!(!breaking.is_drained());
    /// drop(lease);
    /// assert!(breaking.is_drained());
    /// # Ok::<(), layout_lease::PinError>(())
    /// ```
    pub fn is_drained(&self) -> bool {
        match self.state {
            State::Queued(turn) => turn.drained || self.guard.record().is_drained(turn.id),
            State::Failed(_) | State::Done => false,
        }
    }
}

impl<'g, M> Step for BreakLeases<'g, M> {
    type Output = Result<LeaseFree<'g, M>, BreakError>;

    fn step(&mut self, via: Via<'_>) -> Poll<Self::Output> {
        let output = match self.state {
            State::Failed(error) => Err(error),
            State::Queued(Turn { id, .. }) => match self.guard.record().poll_break(id, via) {
                None => return Poll::Pending,
                Some(Ok(())) => Ok(LeaseFree {
                    guard: self.guard,
                    ranges: self.ranges.clone(),
                    id,
                }),
                Some(Err(_)) => Err(BreakError::Closed),
            },
            State::Done => panic!("`BreakLeases` polled after its output"),
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
    impl['g, M] BreakLeases<'g, M> => Result<LeaseFree<'g, M>, BreakError>;
    panic: "If it has yielded its output before.";
}

impl<M> Drop for BreakLeases<'_, M> {
    fn drop(&mut self) {
        if let State::Queued(turn) = self.state {
            self.guard.record().reopen(turn.id);
        }
    }
}

impl<M> fmt::Debug for BreakLeases<'_, M> {
    /// Never blocks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Failed(_) => "failed",
            State::Queued(_) => "queued",
            State::Done => "done",
        };
        f.debug_struct("BreakLeases")
            .field("ranges", &self.ranges())
            .field("state", &state)
            .finish()
    }
}

/// While it lives, nobody has a lease of its range; dropping it lets leases be taken again. From
/// [`LayoutGuard::break_leases`].
///
/// It says nothing about pins, so it is no [`Drained`](crate::Drained), and frees no blocks.
///
/// # Blocking
///
/// Dropping it takes the mapping's lock for a moment, and grants leases to those who waited for them: so the waker of a
/// task may run inside the drop.
///
/// # Examples
///
/// See [`LayoutGuard::break_leases`].
#[must_use = "dropping this lets leases be taken again at once"]
pub struct LeaseFree<'g, M> {
    // INVARIANT: entry `id` of the guard's queue is drained, and this value alone takes it out.
    guard: &'g LayoutGuard<M>,
    ranges: Ranges,
    id: u64,
}

impl<M> LeaseFree<'_, M> {
    /// The range that has no leases.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, PageRange};
    /// let guard = LayoutGuard::<()>::default();
    /// let free = guard.break_leases(4..6).wait()?;
    /// assert_eq!(free.ranges(), [PageRange::new(4, 6)?]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ranges(&self) -> &[PageRange] {
        self.ranges.as_slice()
    }

    /// Whether no page of `pages` has a lease, by this.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, PageRange};
    /// let guard = LayoutGuard::<()>::default();
    /// let free = guard.break_leases(4..6).wait()?;
    /// assert!(free.covers(PageRange::new(4, 5)?) && !free.covers(PageRange::new(4, 7)?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn covers(&self, pages: PageRange) -> bool {
        self.ranges().iter().any(|range| range.covers(&pages))
    }
}

impl<M> Drop for LeaseFree<'_, M> {
    fn drop(&mut self) {
        self.guard.record().reopen(self.id);
    }
}

impl<M> fmt::Debug for LeaseFree<'_, M> {
    /// Never blocks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseFree")
            .field("ranges", &self.ranges())
            .finish_non_exhaustive()
    }
}
