//! Leases: long-lived, recallable holds of a page range, for registered buffers.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::panic::Location;
use std::task::Poll;

use crate::error::PinError;
use crate::guard::LayoutGuard;
use crate::range::{PageRange, RangeError};
use crate::raw::record::{Record, Shut};
use crate::raw::taking::{Taken, Ticket};
use crate::raw::wait::{Step, Via, waitable};

/// A leased page range: while it lives, no break of any of its pages ends, but its holder is told.
///
/// For what is held over many operations, such as a buffer that is registered with an io_uring or an RDMA
/// card: a break [recalls](Self::recalled) every lease that overlaps it, and waits until the holder has
/// given back what is wanted, by dropping the lease or by [shrinking](Self::shrink_to) it. Nothing
/// expires by the clock (promise **I4**).
///
/// It borrows nothing: it may be dropped on any thread, and outlive its guard (promise **I9**). Forgetting it
/// (`mem::forget`) delays every break of its pages for ever.
///
/// A million leases cost an unrelated pin nothing, and an unrelated break next to nothing; one lease takes some 160
/// bytes.
///
/// # Blocking
///
/// Taking, shrinking and dropping one take the mapping's lock for a moment. The last for which a break waits wakes it,
/// so that the waker of a task may run inside the drop.
///
/// # Examples
///
/// ```
/// use layout_lease::LayoutGuard;
/// let guard = LayoutGuard::<()>::default();
/// let mut lease = guard.lease(0..64).labelled("ring 0, buffer 7").wait()?;
///
/// let mut breaking = guard.break_layouts(48..50);
/// assert!(lease.is_recalled());
/// let wanted = lease.recalled().wait(); // 48..50
/// lease.shrink_to(..wanted.start())?; // deregister the rest first
/// breaking.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping a lease at once lets breaks of its pages go on while they are still in use"]
pub struct LayoutLease {
    // INVARIANT: the record has a lease with this number and range, and this value alone gives it back.
    record: &'static Record,
    number: u32,
    range: PageRange,
}

impl LayoutLease {
    /// The pages that are leased.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::LayoutGuard;
    /// let guard = LayoutGuard::<()>::default();
    /// let lease = guard.lease(0..64).wait()?;
    /// assert_eq!(lease.range().len(), 64);
    /// # Ok::<(), layout_lease::PinError>(())
    /// ```
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// Whether some break wants part of the range now, or the guard is closed or gone.
    ///
    /// # Blocking
    ///
    /// Takes the mapping's lock, for a moment, only if there are breaks.
    ///
    /// # Examples
    ///
    /// See [`LayoutLease`].
    pub fn is_recalled(&self) -> bool {
        self.record.wanted(self.range).is_some()
    }

    /// Gives back everything but `pages` (page indices, half-open), which must be part of the range. Breaks
    /// that wanted only what is given back do not wait for this lease any more.
    ///
    /// # Blocking
    ///
    /// Takes the mapping's lock for a moment; never waits for anybody.
    ///
    /// # Errors
    ///
    /// [`RangeError`]: empty, inverted, or not a part of the range; the lease is what it was. To give back
    /// everything, drop it.
    ///
    /// # Examples
    ///
    /// See [`LayoutLease`].
    pub fn shrink_to(&mut self, pages: impl RangeBounds<u64>) -> Result<(), RangeError> {
        // `..n` and `n..` mean: of what there is.
        let start = match pages.start_bound() {
            Bound::Unbounded => Bound::Included(self.range.start()),
            bound => bound.cloned(),
        };
        let end = match pages.end_bound() {
            Bound::Unbounded => Bound::Excluded(self.range.end()),
            bound => bound.cloned(),
        };
        let kept = PageRange::from_bounds((start, end))?;
        if !self.range.covers(&kept) {
            let (start, end) = (kept.start(), kept.end());
            return Err(RangeError::Outside { start, end });
        }
        if kept != self.range {
            // First ours: a waker may panic.
            let range = std::mem::replace(&mut self.range, kept);
            self.record.shrink(self.number, range, kept);
        }
        Ok(())
    }

    pub(crate) fn parts(&self) -> (&'static Record, u32, PageRange) {
        (self.record, self.number, self.range)
    }
}

impl Drop for LayoutLease {
    fn drop(&mut self) {
        self.record.give_back(self.number, self.range);
    }
}

impl fmt::Debug for LayoutLease {
    /// Never blocks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayoutLease")
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

impl<M> LayoutGuard<M> {
    /// Leases `pages` (page indices, half-open), waiting for breaks of them to be over, also for
    /// [breaks of leases](Self::break_leases).
    ///
    /// The value does nothing until it is first polled or waited on; then it leases at once, or takes a
    /// ticket, like [`pin`](Self::pin). Leases and pins do not exclude each other.
    ///
    /// # Blocking
    ///
    /// The call itself does nothing. Leasing takes the mapping's lock for a moment, also where nothing is closed, and
    /// allocates.
    ///
    /// # Errors
    ///
    /// [`PinError::Closed`]: the guard is or gets closed. [`PinError::Range`]: the range is empty,
    /// inverted, or not addressable.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it yields, it gives up its place in the queue and any grant it has not fetched.
    ///
    /// # Examples
    ///
    /// See [`LayoutLease`].
    #[track_caller]
    pub fn lease(&self, pages: impl RangeBounds<u64>) -> LeasePages<'_, M> {
        LeasePages {
            guard: self,
            location: Location::caller(),
            state: match PageRange::from_bounds(pages) {
                Ok(range) => State::Idle(range, None),
                Err(error) => State::Refused(error),
            },
        }
    }
}

/// Waits for a lease: from [`LayoutGuard::lease`]. A future, and a blocking call.
///
/// # Cancel safety
///
/// Dropped, it gives up its place in the queue; a grant that it has not fetched is given back. After a
/// timeout it still has its place.
///
/// # Panics
///
/// Polled or waited on again after its output.
///
/// # Examples
///
/// See [`LayoutLease`].
#[must_use = "nothing is leased until this is awaited or waited on"]
pub struct LeasePages<'g, M> {
    guard: &'g LayoutGuard<M>,
    location: &'static Location<'static>,
    state: State,
}

enum State {
    /// The range was wrong from the start.
    Refused(RangeError),
    /// Not polled yet: no ticket, no lease. Dropped here, nothing is to be done.
    Idle(PageRange, Option<Cow<'static, str>>),
    /// In the queue. Dropped here, it **must** leave the queue and give back a grant.
    Queued {
        id: u64,
        range: PageRange,
    },
    Done,
}

impl<M> LeasePages<'_, M> {
    /// Names the holder: what [`Holder::label`](crate::Holder::label) says. Without effect once it has been
    /// polled.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::LayoutGuard;
    /// let guard = LayoutGuard::<()>::default();
    /// let lease = guard.lease(0..64).labelled(format!("ring {}", 0)).wait()?;
    /// assert_eq!(guard.holders(..)[0].label(), Some("ring 0"));
    /// # drop(lease);
    /// # Ok::<(), layout_lease::PinError>(())
    /// ```
    pub fn labelled(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        if let State::Idle(_, label) = &mut self.state {
            *label = Some(name.into());
        }
        self
    }
}

impl<M> Step for LeasePages<'_, M> {
    type Output = Result<LayoutLease, PinError>;

    fn step(&mut self, via: Via<'_>) -> Poll<Self::Output> {
        let record = self.guard.record();
        let leased = |number, range| {
            Poll::Ready(Ok(LayoutLease {
                record,
                number,
                range,
            }))
        };
        loop {
            match &mut self.state {
                State::Refused(error) => {
                    let error = *error;
                    self.state = State::Done;
                    return Poll::Ready(Err(error.into()));
                }
                State::Idle(range, label) => {
                    let (range, label) = (*range, label.take());
                    self.state = State::Done;
                    match record.queue_lease(range, self.location, label) {
                        Ok(Ticket::Granted(Taken::Lease(n))) => return leased(n, range),
                        Ok(Ticket::Waiting(id)) => self.state = State::Queued { id, range },
                        Ok(Ticket::Granted(Taken::Pin(_))) | Err(Shut) => {
                            return Poll::Ready(Err(PinError::Closed));
                        }
                    }
                }
                State::Queued { id, range } => {
                    let (id, range) = (*id, *range);
                    // A waker may panic in there: then the place in the queue is still ours.
                    let Some(answer) = record.poll_taker(id, via) else {
                        return Poll::Pending;
                    };
                    self.state = State::Done;
                    return match answer {
                        Ok(Taken::Lease(n)) => leased(n, range),
                        Ok(Taken::Pin(_)) | Err(Shut) => Poll::Ready(Err(PinError::Closed)),
                    };
                }
                State::Done => panic!("`LeasePages` polled after its output"),
            }
        }
    }

    fn progress(&self) -> Option<u64> {
        Some(self.guard.record().progress())
    }
}

waitable! {
    impl['g, M] LeasePages<'g, M> => Result<LayoutLease, PinError>;
    panic: "If it has yielded its output before.";
}

impl<M> Drop for LeasePages<'_, M> {
    fn drop(&mut self) {
        if let State::Queued { id, .. } = self.state {
            self.guard.record().cancel_taker(id);
        }
    }
}

impl<M> fmt::Debug for LeasePages<'_, M> {
    /// Never blocks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, range) = match &self.state {
            State::Refused(_) => ("refused", None),
            State::Idle(range, _) => ("idle", Some(range)),
            State::Queued { range, .. } => ("queued", Some(range)),
            State::Done => ("done", None),
        };
        f.debug_struct("LeasePages")
            .field("state", &state)
            .field("range", &range)
            .finish()
    }
}
