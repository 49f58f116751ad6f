//! The protocol: what pinning, unpinning, breaking and closing do to one mapping's record.
//!
//! Problem: every *taking* of a page reference, not only the first, must be synchronised with the
//! removal of pages; the kernel's series of 2018 left that open. Idea: the one function that grants
//! pins stores the pin and then looks at the gate, and the breaker closes the gate and then looks at
//! the pins.
//!
//! ```text
//!   pin    gate open? -> slot = range; barrier; gate open? -> pinned
//!                                               overlaps?  -> unpin; refused, or into the queue
//!   unpin  slot = free; barrier; gate open? -> done
//!                                overlaps?  -> lock; off the draining breaks; the last? -> wake
//!   break  lock; ticket; close the gate; barrier; nobody before it? -> scan; none left? -> drained
//!   reopen lock; out of the queue; those behind it: grant, drain; gate; wake
//! ```
//!
//! The lock is the mapping's own, and only breaks and those that meet one take it (I12). Everything
//! that decides about "busy" and "drained" is changed under it; the slots and the gate alone are
//! touched without it.
//!
//! # Which barrier
//!
//! A mapping is asymmetric or fenced ([`adapt`](crate::raw::adapt) chooses, [`barrier`] says what that
//! is). The rules that make changing over correct, each of which costs a freed block under a pin, or a
//! hang, if it is left out:
//!
//! 1. `FENCED` enters the gate before the barrier of the change, together with the closed range, never
//!    only at reopening.
//! 2. The test for `FENCED` does not depend on what is closed: with something closed elsewhere, a fence
//!    and another look are needed all the same, in pin and unpin. Without `FENCED` none is.
//! 3. The mode is read and changed under the lock; so is the gate.
//! 4. "Fences suffice" is a flag of its own, set behind the barrier of the change, not before.
//! 5. An unpin that finds its pages closed asks "was I the last?" under the lock. So the later of two
//!    sees that the earlier has gone.
//! 6. Nobody sleeps between looking and listening: the state changes under the lock, and unpin looks at
//!    the gate, which is closed from before the scan until reopening. One barrier for a break is enough.
//! 7. The look for the mode comes after the store to the slot, never before.
//!
//! # Orderings
//!
//! In [`barrier`], [`gate`](crate::raw::gate) and [`slots`], each where it stands.

use std::any::Any;
use std::cell::Cell;
use std::panic::Location;
use std::time::Instant;

use crate::error::TryBreakError;
use crate::range::PageRange;
use crate::raw::gate::Look;
use crate::raw::queue::{BreakState, Entry, PinState, Ranges, Wakes, What};
use crate::raw::record::{Inner, Record};
use crate::raw::slots::{self, Slot};
use crate::raw::wait::{Bell, Rope, Via};
use crate::raw::{barrier, scan};
use crate::sync::thread_cell;

/// Why a pin was not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Breaking,
    Closed,
}

/// The guard is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shut;

/// Where a waiting pin stands.
pub(crate) enum Ticket {
    Granted(&'static Slot),
    Waiting(u64),
}

/// Fenced pins that a thread takes between two charges. Odd.
const CHARGE: u32 = if cfg!(lease_loom) { 1 } else { 127 };

thread_cell! {
    /// Fenced pins of this thread, of any mapping, until it charges one for them.
    static FENCED_PINS: Cell<u32> = Cell::new(CHARGE);
}

impl Record {
    // ---- pin, unpin -------------------------------------------------------------------------------

    /// Pins `range` unless some page of it is closed; [`refusal`](Self::refusal) says why not. Never
    /// waits.
    #[inline]
    pub(crate) fn try_pin(
        &'static self,
        range: PageRange,
        location: &'static Location<'static>,
    ) -> Option<&'static Slot> {
        // Looked at before the slot is filled, so that a refused pinner that tries again and again
        // does not keep the breaker busy with slots that come and go.
        if !self.gate.look().is_open() {
            return self.try_pin_watched(range, location);
        }
        let slot = slots::publish(self.number, range, location);
        barrier::light();
        if self.gate.look().is_open() {
            slot.confirm();
            return Some(slot);
        }
        self.look_again(slot, range)
    }

    /// Something is closed, somewhere, or the gate wants fences.
    #[inline(never)]
    fn try_pin_watched(
        &'static self,
        range: PageRange,
        location: &'static Location<'static>,
    ) -> Option<&'static Slot> {
        if self.refuses(range) {
            return None;
        }
        let slot = slots::publish(self.number, range, location);
        let look = self.look_behind_barrier();
        if !look.is_open_to_fenced() {
            return self.look_again(slot, range);
        }
        slot.confirm();
        if look.is_fenced() {
            self.count_fenced_pin();
        }
        Some(slot)
    }

    /// A look at the gate that counts: behind the store to the slot, and behind a fence if it says that
    /// there must be one, whichever pages are closed.
    #[inline(always)]
    fn look_behind_barrier(&self) -> Look {
        barrier::light();
        let look = self.gate.look();
        if !look.is_fenced() {
            return look;
        }
        barrier::full();
        self.gate.look()
    }

    /// One more fenced pin: every so often a thread charges the mapping at hand for all its fenced pins
    /// since, whichever mappings they were of. (Their number is odd, so that mappings pinned in turn all
    /// get their share.)
    #[inline(always)]
    fn count_fenced_pin(&'static self) {
        let left = FENCED_PINS.with(Cell::get);
        if left > 1 {
            FENCED_PINS.with(|n| n.set(left - 1));
        } else {
            FENCED_PINS.with(|n| n.set(CHARGE));
            self.charge();
        }
    }

    #[cold]
    #[inline(never)]
    fn charge(&'static self) {
        // Whoever has the lock is a breaker or charges too: nothing is lost by letting this one go.
        let Some(mut inner) = self.inner.try_lock() else {
            return;
        };
        if inner.mode.count_down(CHARGE) {
            self.publish_gate(&mut inner);
        }
    }

    /// The slot is filled, and something is closed or the gate wants a fence: may we stay?
    #[cold]
    fn look_again(&'static self, slot: &'static Slot, range: PageRange) -> Option<&'static Slot> {
        let look = self.look_behind_barrier();
        if !look.is_open_to_fenced() && self.refuses(range) {
            // Back out the way a pin goes: a scan may have counted us (I6).
            self.unpin(slot);
            return None;
        }
        slot.confirm();
        Some(slot)
    }

    /// Whether the gate keeps `range` out.
    fn refuses(&self, range: PageRange) -> bool {
        // The broken control: a gate that nobody respects.
        !cfg!(lease_mutant = "gate_ignored") && self.gate.overlaps(range)
    }

    /// Why a pin was refused.
    #[cold]
    pub(crate) fn refusal(&self) -> Refusal {
        if self.gate.is_final() {
            Refusal::Closed
        } else {
            Refusal::Breaking
        }
    }

    /// Gives a pin back.
    #[inline]
    pub(crate) fn unpin(&'static self, slot: &'static Slot) {
        // Read before the slot is cleared: then it is no longer ours.
        let range = slot.range();
        slot.clear();
        barrier::light();
        if !self.gate.look().is_open() {
            self.unpin_watched(range);
        }
    }

    /// Something is closed, somewhere, or the gate wants fences.
    #[inline(never)]
    fn unpin_watched(&'static self, range: PageRange) {
        if !self.look_behind_barrier().is_open_to_fenced() {
            self.unpin_contended(range);
        }
    }

    /// Something is closed, somewhere: if a break waits for this pin, it is one fewer now.
    #[cold]
    fn unpin_contended(&'static self, range: PageRange) {
        if !self.gate.overlaps(range) {
            return;
        }
        let mut wakes = Wakes::default();
        let Some(mut inner) = self.lock_to_drop() else {
            return;
        };
        inner.queue.released(self.number, &range, &mut wakes);
        let map = inner.queue.take_idle_map();
        if map.is_some() {
            self.recycle(&mut inner);
        }
        drop(inner);
        wakes.wake();
        // The abandoned map goes with its last pin (I9); its drop is the engine's code, so behind the
        // lock.
        if !self.is_forked() {
            drop(map);
        } else {
            std::mem::forget(map);
        }
    }

    /// Whether somebody waits for the pages of a pin.
    pub(crate) fn is_closed(&self, range: PageRange) -> bool {
        self.gate.overlaps(range)
    }

    // ---- waiting pinners --------------------------------------------------------------------------

    /// Pins `range`, or takes a ticket for it (I3).
    pub(crate) fn queue_pin(
        &'static self,
        range: PageRange,
        location: &'static Location<'static>,
    ) -> Result<Ticket, Shut> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(Shut);
        }
        if !inner.queue.is_closed(&range) {
            // Under the lock nobody can close: whoever does so later, scans later.
            let slot = slots::publish(self.number, range, location);
            slot.confirm();
            return Ok(Ticket::Granted(slot));
        }
        let id = inner.tick();
        inner.queue.push(Entry {
            id,
            ranges: range.into(),
            what: What::Pin {
                range,
                location,
                state: PinState::Waiting,
            },
            bell: Bell::default(),
            since: None,
        });
        Ok(Ticket::Waiting(id))
    }

    /// Whether the pin has been granted or refused; else leaves a listener. Once it answers, the ticket
    /// is used up.
    pub(crate) fn poll_pin(
        &'static self,
        id: u64,
        via: Via<'_>,
    ) -> Option<Result<&'static Slot, Shut>> {
        let mut rope = Rope::from(via);
        let mut inner = self.inner.lock();
        let Some(entry) = inner.queue.get(id) else {
            return Some(Err(Shut));
        };
        let answer = match &entry.what {
            What::Pin { state, .. } => match state {
                PinState::Granted(slot) => Ok(*slot),
                PinState::Refused => Err(Shut),
                PinState::Waiting => {
                    entry.bell.hang(&mut rope);
                    return None;
                }
            },
            _ => Err(Shut),
        };
        let removed = inner.queue.remove(id);
        drop(inner);
        drop(removed);
        Some(answer)
    }

    /// A waiting pinner goes away: those who waited for it need not any more, and a grant that it has
    /// not fetched is given back (I8).
    pub(crate) fn cancel_pin(&'static self, id: u64) {
        let mut wakes = Wakes::default();
        let Some(mut inner) = self.lock_to_drop() else {
            return;
        };
        let removed = inner.queue.remove(id);
        if let Some((_, at)) = removed {
            inner.queue.settle(self.number, at, &mut wakes);
        }
        drop(inner);
        wakes.wake();
        if let Some((entry, _)) = removed {
            if let What::Pin {
                state: PinState::Granted(slot),
                ..
            } = entry.what
            {
                self.unpin(slot);
            }
        }
    }

    // ---- breaks -----------------------------------------------------------------------------------

    /// Closes `ranges` and takes a ticket, in one step (I1).
    pub(crate) fn close_ranges(&'static self, ranges: Ranges) -> Result<u64, Shut> {
        let mut wakes = Wakes::default();
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(Shut);
        }
        let id = self.enter(
            &mut inner,
            ranges,
            What::Break(BreakState::Queued),
            &mut wakes,
        );
        drop(inner);
        wakes.wake();
        Ok(id)
    }

    /// Puts a closing entry into the queue, closes the gate and looks whether anybody is left.
    fn enter(
        &'static self,
        inner: &mut Inner,
        ranges: Ranges,
        what: What,
        wakes: &mut Wakes,
    ) -> u64 {
        let id = inner.tick();
        inner.breaks += 1;
        inner.queue.push(Entry {
            id,
            ranges,
            what,
            bell: Bell::default(),
            since: None,
        });
        let needs = inner.mode.begin_break();
        // The mode goes into the gate together with the closing, before the barrier: who looks later,
        // fences; who looked earlier, did so before its point of the barrier, and its slot is visible to
        // this scan and all later ones.
        self.publish_gate(inner);
        if inner.mode.execute(needs) {
            let last = inner.queue.len() - 1;
            inner.queue.settle(self.number, last, wakes);
        } else if let Some(entry) = inner.queue.get(id) {
            // No barrier was to be had, by any means: the slots say nothing, so it never drains (I4).
            entry.never_drain();
        }
        if let Some(entry) = inner.queue.get(id) {
            if !entry.is_drained() {
                entry.since = Some(Instant::now());
                inner.waited += 1;
            }
        }
        id
    }

    fn publish_gate(&self, inner: &mut Inner) {
        let version = inner.tick();
        let closed = inner.queue.closed();
        self.gate
            .publish(version, closed.as_slice(), inner.mode.fenced);
    }

    /// Whether the break has its proof or was refused; else leaves a listener.
    pub(crate) fn poll_break(&'static self, id: u64, via: Via<'_>) -> Option<Result<(), Shut>> {
        let mut rope = Rope::from(via);
        let mut inner = self.inner.lock();
        let Some(entry) = inner.queue.get(id) else {
            return Some(Err(Shut));
        };
        match entry.what {
            What::Break(BreakState::Drained) | What::Close(BreakState::Drained) => Some(Ok(())),
            What::Break(BreakState::Refused) => {
                let removed = inner.queue.remove(id);
                drop(inner);
                drop(removed);
                Some(Err(Shut))
            }
            _ => {
                entry.bell.hang(&mut rope);
                None
            }
        }
    }

    /// Takes a break out of the queue, wherever it stands, and lets on who waited for it (I5, I8).
    pub(crate) fn reopen(&'static self, id: u64) {
        let mut wakes = Wakes::default();
        let Some(mut inner) = self.lock_to_drop() else {
            return;
        };
        let removed = inner.queue.remove(id);
        if let Some((_, at)) = removed {
            // First those who waited, then everybody: a pinner with a ticket goes before one without.
            inner.queue.settle(self.number, at, &mut wakes);
            self.publish_gate(&mut inner);
        }
        drop(inner);
        drop(removed);
        wakes.wake();
    }

    /// Closes `ranges` if nobody holds or wants them; else leaves everything as it was.
    pub(crate) fn try_close_ranges(&'static self, ranges: Ranges) -> Result<u64, TryBreakError> {
        let mut wakes = Wakes::default();
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(TryBreakError::Closed);
        }
        if inner.queue.is_taken(&ranges) {
            return Err(TryBreakError::Breaking);
        }
        let id = self.enter(
            &mut inner,
            ranges.clone(),
            What::Break(BreakState::Queued),
            &mut wakes,
        );
        if inner.queue.get(id).is_some_and(|e| e.is_drained()) {
            return Ok(id);
        }
        let holders = self.list(&inner, ranges.as_slice());
        inner.waited -= 1;
        if holders.is_empty() {
            // Whoever was in the way has gone meanwhile: this second scan is as good as the first.
            if let Some(entry) = inner.queue.get(id) {
                entry.set_drained();
            }
            return Ok(id);
        }
        inner.breaks -= 1;
        // Nobody has waited for it: there is no waker in it.
        inner.queue.remove(id);
        self.publish_gate(&mut inner);
        Err(TryBreakError::Busy(holders))
    }

    /// Parts a drained break in two; the second half gets the name that is returned.
    pub(crate) fn split(&'static self, id: u64, first: Ranges, second: Ranges) -> u64 {
        let mut inner = self.inner.lock();
        let new = inner.tick();
        inner.queue.split(
            id,
            first,
            Entry {
                id: new,
                ranges: second,
                what: What::Break(BreakState::Drained),
                bell: Bell::default(),
                since: None,
            },
        );
        new
    }

    // ---- the end ----------------------------------------------------------------------------------

    /// Refuses everybody from now on, and queues behind the proofs that are out.
    pub(crate) fn close(&'static self) -> u64 {
        let mut wakes = Wakes::default();
        let mut inner = self.inner.lock();
        if !inner.closed {
            inner.closed = true;
            inner.queue.refuse(&mut wakes);
            let version = inner.tick();
            self.gate.shut(version);
        }
        let id = self.enter(
            &mut inner,
            PageRange::ALL.into(),
            What::Close(BreakState::Queued),
            &mut wakes,
        );
        drop(inner);
        wakes.wake();
        id
    }

    /// The guard is dropped. Recycles the record and says yes if no pin is left; else the last pin takes
    /// what `map` yields with it (I9).
    pub(crate) fn abandon(&'static self, map: impl FnOnce() -> Box<dyn Any + Send>) -> bool {
        let all = [PageRange::ALL];
        if self.is_forked() {
            // The map and whatever it names are the parent's.
            std::mem::forget(map());
            return false;
        }
        let forgotten;
        let mut inner = self.inner.lock();
        // Whoever is still in the queue was forgotten: the guard's borrow is over.
        forgotten = inner.queue.take();
        // No barrier yet: nobody pins any more, and whoever still unpins is seen by this scan as a
        // holder at worst.
        if scan::count(self.number, &all) == 0 {
            self.recycle(&mut inner);
            return true;
        }
        let version = inner.tick();
        self.gate.shut(version);
        let needs = inner.mode.begin_break();
        let left = if inner.mode.execute(needs) {
            scan::count(self.number, &all)
        } else {
            usize::MAX
        };
        match left {
            0 => {
                self.recycle(&mut inner);
                true
            }
            remaining => {
                let id = inner.tick();
                inner.queue.push(Entry {
                    id,
                    ranges: PageRange::ALL.into(),
                    what: What::Abandoned {
                        remaining,
                        map: map(),
                    },
                    bell: Bell::default(),
                    since: None,
                });
                drop(inner);
                drop(forgotten);
                false
            }
        }
    }
}
