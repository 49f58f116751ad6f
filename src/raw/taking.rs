//! Taking pages the slow way: those who wait in the queue for pages to be open, and extensions.
//!
//! Everything here is under the mapping's lock. A grant is made by whoever reopens, see
//! [`Queue::settle`](crate::raw::queue::Queue::settle); here are the ticket, the fetching and the giving up.

use std::borrow::Cow;
use std::mem;
use std::panic::Location;

use crate::range::PageRange;
use crate::raw::blocks;
use crate::raw::entry::{Entry, Ranges, Taker, TakerState, Wants, What};
use crate::raw::protocol::Refusal;
use crate::raw::record::{Inner, Record, Shut};
use crate::raw::slots::Slot;
use crate::raw::wait::{Rope, Via};
use crate::raw::wakes::Wakes;
use crate::sync::mutant;

/// Pages that were waited for.
pub(crate) enum Taken {
    Pin(&'static Slot),
    /// The lease with this number.
    Lease(u32),
}

/// Where one who waits for pages stands.
pub(crate) enum Ticket {
    Granted(Taken),
    Waiting(u64),
}

/// One who waited for pages, and has gone from the queue without anybody to get them. Dropped, it gives back what
/// was granted.
struct Lost<'a>(&'static Record, &'a Entry);

impl Drop for Lost<'_> {
    fn drop(&mut self) {
        let Lost(record, entry) = self;
        let What::Taker(taker) = &entry.what else {
            return;
        };
        match taker.state {
            TakerState::Pinned(slot) => record.unpin(slot),
            TakerState::Leased(number) => record.give_back(number, taker.range),
            TakerState::Waiting | TakerState::Refused => {}
        }
    }
}

impl Record {
    /// Pins `range`, or takes a ticket for it (I3).
    pub(crate) fn queue_pin(
        &'static self,
        range: PageRange,
        location: &'static Location<'static>,
    ) -> Result<Ticket, Shut> {
        let mut inner = self.inner.lock();
        let taker = Taker {
            range,
            location,
            wants: Wants::Pin,
            state: TakerState::Waiting,
        };
        self.queue_taker(&mut inner, taker)
    }

    /// Leases `range`, or takes a ticket for it (I3).
    pub(crate) fn queue_lease(
        &'static self,
        range: PageRange,
        location: &'static Location<'static>,
        label: Option<Cow<'static, str>>,
    ) -> Result<Ticket, Shut> {
        let mut inner = self.inner.lock();
        let taker = Taker {
            range,
            location,
            wants: Wants::Lease(label),
            state: TakerState::Waiting,
        };
        self.queue_taker(&mut inner, taker)
    }

    fn queue_taker(&'static self, inner: &mut Inner, taker: Taker) -> Result<Ticket, Shut> {
        if inner.closed {
            return Err(Shut);
        }
        let (range, location) = (taker.range, taker.location);
        let what = What::Taker(Box::new(taker));
        let ranges = Ranges::from(range);
        if inner.queue.is_taken(&ranges, &what) {
            let id = inner.tick();
            inner.queue.push(Entry::new(id, ranges, what));
            return Ok(Ticket::Waiting(id));
        }
        // Under the lock nobody can close: whoever does so later, scans later.
        Ok(Ticket::Granted(match what {
            What::Taker(taker) if matches!(taker.wants, Wants::Lease(_)) => {
                let label = match taker.wants {
                    Wants::Lease(label) => label,
                    Wants::Pin => None,
                };
                let thread = Some(std::thread::current().id());
                let leases = &mut inner.queue.ledger_mut().leases;
                Taken::Lease(leases.take(range, location, label, thread))
            }
            _ => {
                let slot = blocks::publish(self.number, range, location);
                slot.confirm();
                Taken::Pin(slot)
            }
        }))
    }

    /// Whether the pages have been granted or refused; else leaves a listener. Once it answers, the
    /// ticket is used up.
    pub(crate) fn poll_taker(&'static self, id: u64, via: Via<'_>) -> Option<Result<Taken, Shut>> {
        let mut rope = Rope::from(via);
        let mut inner = self.inner.lock();
        let Some(entry) = inner.queue.get(id) else {
            return Some(Err(Shut));
        };
        let answer = match &entry.what {
            What::Taker(taker) => match taker.state {
                TakerState::Pinned(slot) => Ok(Taken::Pin(slot)),
                TakerState::Leased(number) => Ok(Taken::Lease(number)),
                TakerState::Refused => Err(Shut),
                TakerState::Waiting => {
                    if mutant!("taker_listens_late") {
                        drop(inner);
                        inner = self.inner.lock();
                    }
                    if let Some(entry) = inner.queue.get(id) {
                        entry.bell.hang(&mut rope);
                    }
                    // The lock goes before what the rope has in it.
                    drop(inner);
                    return None;
                }
            },
            _ => Err(Shut),
        };
        let removed = inner.queue.remove(id);
        drop(inner);
        // The waker that was not needed may panic: then nobody gets the pages (I8).
        let lost = removed.as_ref().map(|(entry, _)| Lost(self, entry));
        drop(rope);
        mem::forget(lost);
        Some(answer)
    }

    /// One who waits for pages goes away: those who waited for it need not any more, and a grant that it
    /// has not fetched is given back (I8).
    pub(crate) fn cancel_taker(&'static self, id: u64) {
        let mut wakes = Wakes::default();
        let Some(mut inner) = self.lock_to_drop() else {
            return;
        };
        let removed = inner.queue.remove(id);
        if let Some((_, at)) = removed {
            inner.queue.settle(self.number, at, &mut wakes);
        }
        drop(inner);
        if let Some((entry, _)) = &removed {
            drop(Lost(self, entry));
        }
        // Last, for a waker may panic.
        self.wake(wakes);
    }

    /// Pins `range` on the strength of the pin in `held`: through every closed range that already waits
    /// for that pin, if it is no extension itself (I1, I5).
    pub(crate) fn extend(
        &'static self,
        held: &Slot,
        range: PageRange,
        location: &'static Location<'static>,
    ) -> Result<&'static Slot, Refusal> {
        if let Ok(slot) | Err(Ok((slot, _))) = self.try_pin(range, location) {
            return Ok(slot);
        }
        let inner = self.inner.lock();
        if inner.closed {
            return Err(Refusal::Closed);
        }
        let holds = held.range();
        let mut closed = inner.queue.iter().filter(|e| e.closes());
        let stranger = closed.any(|e| e.ranges.overlaps(&range) && !e.ranges.overlaps(&holds));
        drop(closed);
        // What is drained waits for no pin.
        let stranger = stranger || inner.queue.shelf().is_some_and(|s| s.overlaps(&range));
        let again = held.is_extension() && inner.queue.is_closed(&range);
        if stranger || again {
            return Err(Refusal::Breaking);
        }
        // Under the lock, so no scan of this mapping is on its way: the next one sees it (I11). Breaks that
        // drain have counted the pin that this one hangs on, and not this one; but they end with a clean
        // scan, not with a count.
        let inner = (!mutant!("extension_unlocked")).then_some(inner);
        let slot = blocks::publish(self.number, range, location);
        slot.mark_extension();
        slot.confirm();
        drop(inner);
        Ok(slot)
    }
}
