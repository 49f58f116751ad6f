//! Pins: one short in-flight use of a page range.

use std::fmt;
use std::ops::RangeBounds;
use std::panic::Location;
use std::task::Poll;

use crate::error::{PinError, TryPinError};
use crate::guard::LayoutGuard;
use crate::range::{PageRange, RangeError};
use crate::raw::protocol::Refusal;
use crate::raw::record::{Record, Shut};
use crate::raw::slots::Slot;
use crate::raw::taking::{Taken, Ticket};
use crate::raw::wait::{Step, Via, waitable};

/// A pinned page range: while it lives, no break of any of its pages ends.
///
/// It belongs to the *operation*, not to a thread or a future: store it next to the request, and drop it
/// when the completion has come, on whichever thread that is. It is two words, borrows nothing, and may
/// outlive its guard (promise **I9**). Forgetting it (`mem::forget`) delays every break of its pages for
/// ever, and never frees anything (promise **I4**).
///
/// # Blocking
///
/// Dropping it waits for nobody. It takes the mapping's lock only if its pages are being broken; the last for which a
/// break waits wakes it, so that the waker of a task may run inside the drop.
///
/// # Ordering
///
/// What you did with the pages before the drop happens before what the holder of a proof for them does;
/// what it did happens before the next pin's grant (promise **I7**).
///
/// # Examples
///
/// ```
/// use layout_lease::{LayoutGuard, PageRange};
/// let guard = LayoutGuard::<()>::default();
/// let pin = guard.try_pin(0..4)?;
/// assert_eq!(pin.range(), PageRange::new(0, 4)?);
/// std::thread::spawn(move || drop(pin)).join().unwrap();
/// assert!(guard.try_break_layouts(..).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping a pin at once lets breaks of its pages go on while they are still in use"]
pub struct PagePin {
    // INVARIANT: the slot is filled for this record, and this value alone may clear it.
    slot: &'static Slot,
    record: &'static Record,
}

impl PagePin {
    /// The slot is filled for the record, and nobody else will clear it.
    #[inline(always)]
    pub(crate) fn new(slot: &'static Slot, record: &'static Record) -> Self {
        Self { slot, record }
    }

    /// Its slot, which the caller has to give back now.
    pub(crate) fn into_slot(self) -> &'static Slot {
        let slot = self.slot;
        std::mem::forget(self);
        slot
    }

    /// Whether it is a pin of this guard.
    pub(crate) fn is_of<M>(&self, guard: &LayoutGuard<M>) -> bool {
        std::ptr::eq(self.record, guard.record())
    }

    /// The pages that are pinned.
    ///
    /// # Examples
    ///
    /// See [`PagePin`].
    pub fn range(&self) -> PageRange {
        self.slot.range()
    }

    /// Whether a break waits for this pin: an invitation to hurry, not an obligation.
    ///
    /// Takes no lock.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::LayoutGuard;
    /// let guard = LayoutGuard::<()>::default();
    /// let pin = guard.try_pin(0..4)?;
    /// assert!(!pin.is_breaking());
    /// let waiting = guard.break_layouts(3..9);
    /// assert!(pin.is_breaking());
    /// drop(waiting); // changed its mind
    /// assert!(!pin.is_breaking());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_breaking(&self) -> bool {
        self.record.is_closed(self.range())
    }

    /// Pins `pages` (page indices, half-open) for the operation that holds this pin: passes also where
    /// `pages` are closed, if every break that closes some of them already waits for this very pin.
    ///
    /// For an operation that finds in the middle that it needs another page: with
    /// [`try_pin`](LayoutGuard::try_pin) it would be refused, and waiting for the page would be waiting for
    /// a break that waits for itself. The breaks then wait for both pins. An extension cannot be extended,
    /// so a break still ends after the releases of those it began with and one generation more (promise
    /// **I5**).
    ///
    /// # Blocking
    ///
    /// Never waits. Takes the mapping's lock if some of the pages are closed.
    ///
    /// # Errors
    ///
    /// [`TryPinError::Breaking`]: a break of some of the pages does not wait for this pin, or this pin is
    /// itself an extension. [`TryPinError::Closed`]: the guard was closed.
    /// [`TryPinError::WrongGuard`]: the pin is of another guard. [`TryPinError::Range`].
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, TryPinError};
    /// let guard = LayoutGuard::<()>::default();
    /// let first = guard.try_pin(1..2)?;
    /// let breaking = guard.break_layouts(0..4);
    /// assert_eq!(guard.try_pin(2..3).unwrap_err(), TryPinError::Breaking);
    /// let second = first.extend(&guard, 2..3)?; // the same operation goes on
    /// assert_eq!(second.extend(&guard, 3..4).unwrap_err(), TryPinError::Breaking);
    /// drop(first);
    /// assert!(!breaking.is_drained());
    /// drop(second);
    /// assert!(breaking.is_drained());
    /// # Ok::<(), TryPinError>(())
    /// ```
    #[track_caller]
    pub fn extend<M>(
        &self,
        guard: &LayoutGuard<M>,
        pages: impl RangeBounds<u64>,
    ) -> Result<PagePin, TryPinError> {
        let range = PageRange::from_bounds(pages)?;
        if !self.is_of(guard) {
            return Err(TryPinError::WrongGuard);
        }
        match self.record.extend(self.slot, range, Location::caller()) {
            Ok(slot) => Ok(PagePin::new(slot, self.record)),
            Err(refusal) => Err(refusal.into()),
        }
    }
}

impl From<Refusal> for TryPinError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Breaking => TryPinError::Breaking,
            Refusal::Closed => TryPinError::Closed,
        }
    }
}

impl Drop for PagePin {
    #[inline]
    fn drop(&mut self) {
        self.record.unpin(self.slot);
    }
}

impl fmt::Debug for PagePin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagePin")
            .field("range", &self.range())
            .field("location", &self.slot.location().map(|l| l.to_string()))
            .finish()
    }
}

impl<M> LayoutGuard<M> {
    /// Pins `pages` (page indices, half-open) if no break is active or queued on any of them. Never
    /// waits.
    ///
    /// Pins do not exclude each other: any number may overlap. Look the blocks up after pinning, not
    /// before.
    ///
    /// # Blocking
    ///
    /// Takes no lock and makes no system call, also while other pages are closed. (A thread's first pin,
    /// and each that finds all of the thread's slots in use, allocates.)
    ///
    /// # Errors
    ///
    /// [`TryPinError::Breaking`]: some page is being broken; [`pin`](Self::pin) would wait for that. An
    /// engine whose writers unpublish first and break then need not wait: a refused reader's look-up is
    /// out of date, so it looks up again.
    /// [`TryPinError::Closed`]: the guard was closed. [`TryPinError::Range`]: the range is empty,
    /// inverted, or not addressable.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, TryPinError};
    /// let guard = LayoutGuard::<()>::default();
    /// let proof = guard.break_layouts(10..20).wait()?;
    /// assert_eq!(guard.try_pin(19..30).unwrap_err(), TryPinError::Breaking);
    /// let elsewhere = guard.try_pin(20..30)?;
    /// drop(proof);
    /// let pin = guard.try_pin(19..30)?;
    /// # drop((pin, elsewhere));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[track_caller]
    pub fn try_pin(&self, pages: impl RangeBounds<u64>) -> Result<PagePin, TryPinError> {
        let range = PageRange::from_bounds(pages)?;
        let record = self.record();
        match record.try_pin(range, Location::caller()) {
            Ok(slot) => Ok(PagePin::new(slot, record)),
            Err(Ok((slot, record))) => Ok(PagePin::new(slot, record)),
            Err(Err(refusal)) => Err(refusal.into()),
        }
    }

    /// Pins `pages` (page indices, half-open), waiting for breaks of them to be over.
    ///
    /// The value does nothing until it is first polled or waited on; then it pins at once, or takes a
    /// ticket: it goes after the breaks that were called before, and before those that are called later
    /// (promises **I3** and **I5**). Once granted, it is a holder, even before it is polled again.
    ///
    /// Waiting for a pin while holding another can deadlock against a break that waits for the one you
    /// hold.
    ///
    /// # Blocking
    ///
    /// The call itself does nothing. Where nothing is closed, pinning is as quick as [`try_pin`](Self::try_pin); else
    /// it takes the mapping's lock, and waiting is up to you.
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
    /// ```
    /// use layout_lease::LayoutGuard;
    /// # futures_lite::future::block_on(async {
    /// let guard = LayoutGuard::<()>::default();
    /// let blocking = guard.pin(0..4).wait()?;
    /// let polled = guard.pin(0..4).await?;
    /// # drop((blocking, polled));
    /// # Ok::<(), layout_lease::PinError>(())
    /// # })?;
    /// # Ok::<(), layout_lease::PinError>(())
    /// ```
    #[track_caller]
    pub fn pin(&self, pages: impl RangeBounds<u64>) -> PinPages<'_, M> {
        PinPages {
            guard: self,
            location: Location::caller(),
            state: match PageRange::from_bounds(pages) {
                Ok(range) => PinState::Idle(range),
                Err(error) => PinState::Refused(error),
            },
        }
    }
}

/// Waits for a pin: from [`LayoutGuard::pin`]. A future, and a blocking call.
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
/// See [`LayoutGuard::pin`].
#[must_use = "nothing is pinned until this is awaited or waited on"]
pub struct PinPages<'g, M> {
    guard: &'g LayoutGuard<M>,
    location: &'static Location<'static>,
    state: PinState,
}

enum PinState {
    /// The range was wrong from the start.
    Refused(RangeError),
    /// Not polled yet: no ticket, no slot. Dropped here, nothing is to be done.
    Idle(PageRange),
    /// In the queue. Dropped here, it **must** leave the queue and give back a grant.
    Queued {
        id: u64,
        range: PageRange,
    },
    Done,
}

impl<M> Step for PinPages<'_, M> {
    type Output = Result<PagePin, PinError>;

    fn step(&mut self, via: Via<'_>) -> Poll<Self::Output> {
        let record = self.guard.record();
        let pinned = |slot| Poll::Ready(Ok(PagePin::new(slot, record)));
        loop {
            match self.state {
                PinState::Refused(error) => {
                    self.state = PinState::Done;
                    return Poll::Ready(Err(error.into()));
                }
                PinState::Idle(range) => {
                    self.state = PinState::Done;
                    if let Ok(slot) | Err(Ok((slot, _))) = record.try_pin(range, self.location) {
                        return pinned(slot);
                    }
                    match record.queue_pin(range, self.location) {
                        Ok(Ticket::Granted(Taken::Pin(slot))) => return pinned(slot),
                        Ok(Ticket::Waiting(id)) => self.state = PinState::Queued { id, range },
                        Ok(Ticket::Granted(Taken::Lease(_))) | Err(Shut) => {
                            return Poll::Ready(Err(PinError::Closed));
                        }
                    }
                }
                PinState::Queued { id, .. } => {
                    let Some(answer) = record.poll_taker(id, via) else {
                        return Poll::Pending;
                    };
                    self.state = PinState::Done;
                    return match answer {
                        Ok(Taken::Pin(slot)) => pinned(slot),
                        Ok(Taken::Lease(_)) | Err(Shut) => Poll::Ready(Err(PinError::Closed)),
                    };
                }
                PinState::Done => panic!("`PinPages` polled after its output"),
            }
        }
    }

    fn progress(&self) -> Option<u64> {
        Some(self.guard.record().progress())
    }
}

waitable! {
    impl['g, M] PinPages<'g, M> => Result<PagePin, PinError>;
    panic: "If it has yielded its output before.";
}

impl<M> Drop for PinPages<'_, M> {
    fn drop(&mut self) {
        if let PinState::Queued { id, .. } = self.state {
            self.guard.record().cancel_taker(id);
        }
    }
}

impl<M> fmt::Debug for PinPages<'_, M> {
    /// Never blocks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, range) = match &self.state {
            PinState::Refused(_) => ("refused", None),
            PinState::Idle(range) => ("idle", Some(range)),
            PinState::Queued { range, .. } => ("queued", Some(range)),
            PinState::Done => ("done", None),
        };
        f.debug_struct("PinPages")
            .field("state", &state)
            .field("range", &range)
            .finish()
    }
}
