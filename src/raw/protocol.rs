//! The protocol: what pinning, unpinning, breaking and closing do to one mapping's record.
//!
//! Problem: every *taking* of a page reference, not only the first, must be synchronised with the
//! removal of pages; the kernel's series of 2018 left that open. Idea: the one function that grants
//! pins stores the pin and then looks at the gate, and the breaker closes the gate and then looks at
//! the pins.
//!
//! ```text
//!   pin    slot = range; barrier; gate open? -> pinned
//!                                 overlaps?  -> unpin; refused, or into the queue
//!   unpin  slot = free;  barrier; gate open? -> done
//!                                 overlaps?  -> lock; off the draining breaks; the last? -> wake
//!   break  lock; ticket; close the gate; barrier; nobody before it? -> scan; none left? -> drained
//!   reopen lock; out of the queue; those behind it: grant, drain; gate; wake
//! ```
//!
//! The lock is the mapping's own, and only breaks and those that meet one wait for it (I12). Everything
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
//! In [`barrier`], [`gate`](crate::raw::gate) and [`slots`](crate::raw::slots), each where it stands.

use std::cell::Cell;
use std::panic::Location;

use crate::holders::HolderKind;
use crate::range::PageRange;
use crate::raw::gate::Look;
use crate::raw::record::{Inner, Record};
use crate::raw::slots::Slot;
use crate::raw::wakes::Wakes;
use crate::raw::{barrier, blocks};
use crate::sync::{MODEL, MutexGuard, mutant, thread_cell};

/// Why a pin was not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Breaking,
    Closed,
}

/// Fenced pins that a thread takes between two charges. Odd.
const CHARGE: u32 = if MODEL { 1 } else { 127 };

thread_cell! {
    /// Fenced pins of this thread, of any mapping, until it charges one for them.
    static FENCED_PINS: Cell<u32> = Cell::new(CHARGE);
}

/// Pins after which a thread forgets that a guard has refused it which is closed for good.
const FORGETS: u32 = 4_096;

thread_cell! {
    /// Who has refused this thread, until its gate is open again.
    static REFUSED_BY: Cell<Option<&'static Record>> = Cell::new(None);
}

thread_cell! {
    /// Pins until it is forgotten, if its gate does not open again.
    static REMEMBERS: Cell<u32> = Cell::new(0);
}

/// Whether this thread was refused by a gate that is closed still. Such a one has no slot at hand, so that it looks
/// at a gate before it fills a slot. Else those who try again and again could keep a breaker busy with slots
/// that come and go; so each thread steps back at most once for a break, and newcomers do not starve it (I5).
fn is_shy() -> bool {
    let Some(record) = REFUSED_BY.with(Cell::get) else {
        return false;
    };
    // Closed, as far as this thread has seen: who has seen it closed does not see it open before it opens.
    let shy = if record.gate.is_final() {
        let left = REMEMBERS.with(Cell::get);
        REMEMBERS.with(|cell| cell.set(left.saturating_sub(1)));
        left > 0
    } else {
        record.gate.is_closed()
    };
    if !shy {
        REFUSED_BY.with(|cell| cell.set(None));
    }
    shy
}

/// What the slow way of pinning answers. With the record that was asked: whoever goes on with the one that comes back
/// need not keep it across that call, and so saves no register on the fast way.
pub(crate) type Slowly = Result<(&'static Slot, &'static Record), Refusal>;

impl Record {
    /// Pins `range` unless some page of it is closed; [`refusal`](Self::refusal) says why not. Never
    /// waits. `Err`: the fast way was not enough; what came of the slow one.
    #[inline(always)]
    pub(crate) fn try_pin(
        &'static self,
        range: PageRange,
        location: &'static Location<'static>,
    ) -> Result<&'static Slot, Slowly> {
        let Some(slot) = blocks::at_hand() else {
            return Err(self.try_pin_elsewhere(range, location));
        };
        let early = mutant!("look_first").then(|| self.gate.look());
        slot.fill(self.number, range, location);
        barrier::light();
        let look = early.unwrap_or_else(|| self.gate.look());
        if look.is_open() {
            slot.confirm();
            return Ok(slot);
        }
        Err(self.look_again(slot, range, look))
    }

    /// [`try_pin`](Self::try_pin), where no slot is at hand: the thread has many pins, or was refused.
    #[cold]
    #[inline(never)]
    fn try_pin_elsewhere(
        &'static self,
        range: PageRange,
        location: &'static Location<'static>,
    ) -> Slowly {
        if self.refuses(range) {
            self.make_shy();
            return Err(self.refusal());
        }
        let early = mutant!("look_elsewhere_first").then(|| self.gate.look());
        let slot = blocks::publish_elsewhere(self.number, range, location);
        if is_shy() {
            blocks::take_from_hand();
        }
        barrier::light();
        let look = early.unwrap_or_else(|| self.gate.look());
        self.look_again(slot, range, look)
    }

    /// This thread has been refused.
    fn make_shy(&'static self) {
        if !is_shy() {
            REFUSED_BY.with(|cell| cell.set(Some(self)));
            REMEMBERS.with(|cell| cell.set(FORGETS));
        }
        blocks::take_from_hand();
    }

    /// What counts, where `look` came behind the light barrier: that look, or if it says that there must be a
    /// fence, whichever pages are closed, one behind a fence.
    #[inline(always)]
    fn look_that_counts(&self, look: Look) -> Look {
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
        // Breaks are about, and they look through the slots.
        blocks::tidy();
        // Whoever has the lock is a breaker or charges too: nothing is lost by letting this one go.
        let Some(mut inner) = self.inner.try_lock() else {
            return;
        };
        let before = inner.mode;
        if inner.mode.count_down(CHARGE) {
            let version = inner.tick();
            self.gate.lighten(version);
            if mutant!("mode_changed_late") {
                let after = std::mem::replace(&mut inner.mode, before);
                drop(inner);
                self.inner.lock().mode = after;
            }
        }
    }

    /// The slot is filled, and `look` behind the light barrier said that something is closed, somewhere, or that
    /// pins need a fence: may we stay?
    #[cold]
    #[inline(never)]
    fn look_again(&'static self, slot: &'static Slot, range: PageRange, look: Look) -> Slowly {
        let look = self.look_that_counts(look);
        if !look.is_open_to_fenced() && self.refuses(range) {
            // Back out the way a pin goes: a scan may have counted us (I6).
            if mutant!("retreat_silent") {
                slot.clear();
            } else {
                self.unpin(slot);
            }
            self.make_shy();
            return Err(self.refusal());
        }
        slot.confirm();
        if look.is_fenced() {
            self.count_fenced_pin();
        }
        Ok((slot, self))
    }

    /// Whether the gate keeps `range` out.
    fn refuses(&self, range: PageRange) -> bool {
        // The broken control: a gate that nobody respects.
        !mutant!("gate_ignored") && self.gate.overlaps(range)
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
        let mut range = slot.range();
        if mutant!("look_before_clear") && self.gate.look().is_open() {
            return slot.clear();
        }
        slot.clear();
        if mutant!("range_read_late") {
            range = slot.range();
        }
        barrier::light();
        let look = self.gate.look();
        if !look.is_open() {
            self.unpin_watched(range, look);
        }
    }

    /// Something is closed, somewhere, or the gate wants fences.
    #[cold]
    #[inline(never)]
    fn unpin_watched(&'static self, range: PageRange, look: Look) {
        if !self.look_that_counts(look).is_open_to_fenced() {
            self.unpin_contended(range);
        }
    }

    /// Something is closed, somewhere: if a break waits for this pin, it is one fewer now.
    #[cold]
    fn unpin_contended(&'static self, range: PageRange) {
        if !self.gate.overlaps(range) {
            return;
        }
        let mut tried = self.inner.try_lock();
        // Most often others are left, also in a forked child's copy of who waits: nobody is to be woken.
        if tried
            .as_mut()
            .is_some_and(|inner| inner.queue.take_off(&range))
        {
            return;
        }
        let Some(inner) = self.locked_to_drop(tried) else {
            return;
        };
        self.released(inner, HolderKind::Pin, &range);
    }

    /// A holder of `range` has gone.
    pub(super) fn released(
        &'static self,
        mut inner: MutexGuard<'_, Inner>,
        kind: HolderKind,
        range: &PageRange,
    ) {
        let mut wakes = Wakes::default();
        let queue = &mut inner.queue;
        queue.released(self.number, kind, range, None, &mut wakes);
        let map = queue.take_idle_map();
        let old = map.is_some().then(|| self.recycle(&mut inner));
        drop(inner);
        drop(old);
        self.wake(wakes);
        // The abandoned map goes with its last holder (I9); its drop is the engine's code, so behind the
        // lock.
        drop(map);
    }

    /// Whether the guard is closed for good.
    pub(crate) fn is_shut(&self) -> bool {
        self.gate.is_final()
    }

    /// Whether some of these pages are closed.
    pub(crate) fn is_closed(&self, range: PageRange) -> bool {
        self.gate.overlaps(range)
    }
}

#[cfg(all(test, not(any(lease_loom, lease_shuttle))))]
mod tests {
    use std::panic::Location;
    use std::sync::Arc;
    use std::thread;

    use crate::guard::LayoutGuard;
    use crate::maps::ExtentMap;
    use crate::range::PageRange;
    use crate::raw::blocks;

    #[test]
    fn who_was_refused_has_no_slot_at_hand_until_that_gate_is_open() {
        let guards = [(); 2].map(|()| LayoutGuard::<()>::default());
        let pin = |n: usize, page: u64| guards[n].try_pin(page..page + 1).map(drop).is_ok();
        let close = |n: usize| guards[n].break_layouts(0..1).wait().unwrap();
        let proof = close(0);
        assert!(pin(0, 5) && blocks::at_hand().is_some());
        assert!(!pin(0, 0) && blocks::at_hand().is_none());
        // Pins elsewhere pass, and change nothing about it; nor does being refused elsewhere.
        assert!(pin(0, 5) && pin(1, 0) && blocks::at_hand().is_none());
        let other = close(1);
        assert!(!pin(1, 0) && blocks::at_hand().is_none());
        drop(other);
        assert!(pin(1, 0) && blocks::at_hand().is_none());
        drop(proof);
        assert!(pin(1, 0) && blocks::at_hand().is_some());
    }

    #[test]
    fn who_was_refused_and_holds_a_pin_uses_no_more_slots_than_it_has_pins() {
        let guards = [(); 2].map(|()| LayoutGuard::<()>::default());
        let proof = guards[0].break_layouts(0..1).wait().unwrap();
        let hold_and_pin = || {
            // A block of another thread's may have slots in use.
            blocks::begin_anew();
            let held = guards[1].try_pin(0..1).unwrap();
            assert!(guards[0].try_pin(0..1).is_err());
            for page in 0..200 {
                drop(guards[1].try_pin(page..page + 1).unwrap());
                let slots = blocks::in_use_here();
                assert!((2..=3).contains(&slots), "{slots} after {page} pins");
            }
            drop(held);
        };
        thread::scope(|s| s.spawn(hold_and_pin).join().unwrap());
        drop(proof);
    }

    /// A build that scans once more before each free aborts if it finds a holder. A pinner that has filled its slot,
    /// but not looked at the gate yet, is none.
    #[test]
    fn a_pinner_that_has_not_looked_at_the_gate_is_no_holder() {
        let guard = LayoutGuard::<()>::default();
        let proof = guard.break_layouts(0..4).wait().unwrap();
        let slot = blocks::publish(
            guard.record().number,
            PageRange::new(1, 2).unwrap(),
            Location::caller(),
        );
        assert_eq!(guard.holders(1..2).len(), 1);
        proof.verify();
        slot.clear();
        assert!(guard.holders(1..2).is_empty());
    }

    /// A guard that was dropped with retired pages left its gate closed until another guard got its record: a thread
    /// that it had refused stayed off its slot at hand until then.
    #[test]
    fn a_guard_that_went_while_pages_were_closed_is_forgotten() {
        let guard = Arc::new(LayoutGuard::new(ExtentMap::new(8)));
        let other = LayoutGuard::<()>::default();
        drop(guard.retire(0..1));
        assert!(guard.try_pin(0..1).is_err() && blocks::at_hand().is_none());
        drop(guard);
        drop(other.try_pin(0..1).unwrap());
        assert!(blocks::at_hand().is_some());
    }

    #[test]
    fn a_guard_that_is_closed_for_good_is_forgotten_in_the_end() {
        let guards = [(); 2].map(|()| LayoutGuard::<()>::default());
        let pin = |n: usize| guards[n].try_pin(0..1).map(drop).is_ok();
        guards[0].close().wait();
        // However often it tries.
        for _ in 0..2 * super::FORGETS {
            assert!(!pin(0) && blocks::at_hand().is_none());
        }
        let never = (0..=super::FORGETS).all(|_| pin(1) && blocks::at_hand().is_none());
        assert!(!never && blocks::at_hand().is_some());
    }
}
