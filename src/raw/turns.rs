//! Taking turns: what breakers do, from closing the gate to reopening it.
//!
//! Everything here is under the mapping's lock, for as long as it takes to scan.

use std::time::Instant;

use crate::error::TryBreakError;
use crate::range::PageRange;
use crate::raw::entry::{BreakState, Entry, Ranges, What};
use crate::raw::record::{Inner, Record, Shut};
use crate::raw::scan;
use crate::raw::told;
use crate::raw::wait::{Bell, Rope, Via};
use crate::raw::wakes::Wakes;
use crate::sync::{MutexGuard, Ordering, mutant};

/// Where a break stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) id: u64,
    /// The proof is there already.
    pub(crate) drained: bool,
    /// When it was found that it has to wait.
    pub(crate) since: Option<Instant>,
}

/// Takes an entry out again if a waker panics inside the call that has put it in: then nobody gets the value
/// that would have done so (I8).
#[must_use]
pub(super) struct Undo {
    pub(super) record: &'static Record,
    pub(super) id: u64,
}

impl Undo {
    /// No waker has panicked.
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        self.record.reopen(self.id);
    }
}

impl Record {
    /// Closes `ranges` and takes a ticket, in one step (I1).
    #[inline]
    pub(crate) fn close_ranges(&'static self, ranges: Ranges) -> Result<Turn, Shut> {
        let inner = self.inner.lock();
        match ranges {
            // The common case: nobody is before it, and nobody is to be told.
            Ranges::One([range]) if !inner.closed && inner.queue.is_idle() && !told::LISTENED => {
                Ok(self.break_alone(inner, range))
            }
            ranges => self.start_break_in(inner, ranges, What::Break(BreakState::Queued)),
        }
    }

    /// Closes `range` in an idle queue.
    #[inline]
    fn break_alone(&'static self, mut inner: MutexGuard<'_, Inner>, range: PageRange) -> Turn {
        let id = inner.tick();
        inner.breaks += 1;
        let publish = |inner: &mut Inner| {
            self.gate.publish(id, &[range], None, inner.mode.fenced);
        };
        let reached = self.close_gate(&mut inner, publish);
        if reached && scan::count(self.number, &[range]) == 0 {
            inner.queue.push_drained(id, range);
            return Turn {
                id,
                drained: true,
                since: None,
            };
        }
        let what = What::Break(BreakState::Queued);
        inner.queue.push(Entry::new(id, range.into(), what));
        // Nobody is to be woken: nobody has heard of it yet.
        self.look(&mut inner, id, reached, &mut Wakes::default())
    }

    /// Closes `ranges` to leases and takes a ticket, in one step (I1).
    pub(crate) fn close_to_leases(&'static self, ranges: Ranges) -> Result<Turn, Shut> {
        self.start_break(ranges, What::LeaseBreak(BreakState::Queued))
    }

    pub(super) fn start_break(&'static self, ranges: Ranges, what: What) -> Result<Turn, Shut> {
        self.start_break_in(self.inner.lock(), ranges, what)
    }

    fn start_break_in(
        &'static self,
        mut inner: MutexGuard<'_, Inner>,
        ranges: Ranges,
        what: What,
    ) -> Result<Turn, Shut> {
        let mut wakes = Wakes::default();
        if inner.closed {
            return Err(Shut);
        }
        inner.queue.recall(ranges.as_slice(), &mut wakes);
        let recalled = if told::LISTENED {
            inner.queue.count_leases(ranges.as_slice())
        } else {
            0
        };
        let named = told::LISTENED.then(|| ranges.clone());
        // What is retired stays so: somebody may be freeing its blocks already.
        let stays = matches!(what, What::Retired(_));
        let turn = self.enter(&mut inner, ranges, what, &mut wakes);
        drop(inner);
        let (record, id) = (self, turn.id);
        let undo = (!stays).then(|| Undo { record, id });
        self.wake(wakes);
        if let Some(ranges) = named {
            told::broke(!turn.drained);
            told::recalled(ranges.as_slice(), recalled);
        }
        undo.into_iter().for_each(Undo::keep);
        Ok(turn)
    }

    /// Puts a closing entry into the queue, closes the gate and looks whether anybody is left.
    pub(super) fn enter(
        &'static self,
        inner: &mut Inner,
        ranges: Ranges,
        what: What,
        wakes: &mut Wakes,
    ) -> Turn {
        let id = self.write_down(inner, ranges, what);
        let closes = inner.queue.get(id).is_some_and(|e| e.closes());
        // Those who wait for leases alone need no barrier: leases are taken under the lock.
        let reached = !closes || self.close_gate(inner, |inner| self.publish_gate(inner));
        self.look(inner, id, reached, wakes)
    }

    /// Puts an entry into the queue.
    pub(super) fn write_down(&'static self, inner: &mut Inner, ranges: Ranges, what: What) -> u64 {
        let id = inner.tick();
        inner.breaks += 1;
        if let What::LeaseBreak(_) = what {
            self.lease_breaks.fetch_add(1, Ordering::Relaxed);
        }
        inner.queue.push(Entry::new(id, ranges, what));
        id
    }

    /// Closes the gate as `publish` does, with a barrier behind it. `false`: none was to be had.
    #[inline]
    fn close_gate(&'static self, inner: &mut Inner, publish: impl FnOnce(&mut Inner)) -> bool {
        let needs = inner.mode.begin_break();
        if mutant!("close_after_barrier") {
            let reached = inner.mode.learn(needs.execute());
            publish(inner);
            return reached;
        }
        // The mode goes into the gate together with the closing, before the barrier: who looks later,
        // fences; who looked earlier, did so before its point of the barrier, and its slot is visible to
        // this scan and all later ones.
        let fenced = inner.mode.fenced;
        inner.mode.fenced &= !mutant!("fenced_late");
        publish(inner);
        inner.mode.fenced = fenced;
        inner.mode.learn(needs.execute())
    }

    /// Looks whether anybody is before the last entry of the queue, and whether holders are left.
    pub(super) fn look(
        &'static self,
        inner: &mut Inner,
        id: u64,
        reached: bool,
        wakes: &mut Wakes,
    ) -> Turn {
        if reached {
            inner.queue.settle_last(self.number, wakes);
        } else if let Some(entry) = inner.queue.get(id) {
            // No barrier was to be had, by any means: the slots say nothing, so it never drains (I4).
            let remaining = usize::MAX;
            entry.set_state(BreakState::Draining { remaining });
        }
        let mut turn = Turn {
            id,
            drained: true,
            since: None,
        };
        if let Some(entry) = inner.queue.get(id) {
            turn.drained = entry.is_drained();
            if !turn.drained {
                turn.since = Some(Instant::now());
                entry.since = turn.since;
                inner.queue.ledger_mut().waited += 1;
            }
        }
        turn
    }

    /// Whether the break has its proof or was refused; else leaves a listener.
    pub(crate) fn poll_break(&'static self, id: u64, via: Via<'_>) -> Option<Result<(), Shut>> {
        let mut rope = Rope::from(via);
        let mut inner = self.inner.lock();
        let Some(entry) = inner.queue.get(id) else {
            return Some(Err(Shut));
        };
        match entry.state() {
            Some(BreakState::Drained) => Some(Ok(())),
            Some(BreakState::Refused) => {
                let removed = self.take_out(&mut inner, id);
                drop(inner);
                drop(removed);
                Some(Err(Shut))
            }
            _ => {
                if mutant!("listen_after_look") {
                    drop(inner);
                    inner = self.inner.lock();
                }
                if let Some(entry) = inner.queue.get(id) {
                    entry.bell.hang(&mut rope);
                }
                // The lock goes before what the rope has in it.
                drop(inner);
                None
            }
        }
    }

    /// Whether the break is drained: what [`poll_break`](Self::poll_break) would say.
    pub(crate) fn is_drained(&'static self, id: u64) -> bool {
        let mut inner = self.inner.lock();
        inner.queue.get(id).is_some_and(|e| e.is_drained())
    }

    /// Takes an entry out of the queue. It is to be dropped when the lock is released.
    pub(super) fn take_out(&self, inner: &mut Inner, id: u64) -> Option<(Entry, usize)> {
        let removed = inner.queue.remove(id)?;
        if let What::LeaseBreak(_) = removed.0.what {
            self.lease_breaks.fetch_sub(1, Ordering::Relaxed);
        }
        Some(removed)
    }

    /// Takes a break out of the queue, wherever it stands, and lets on who waited for it (I5, I8).
    pub(crate) fn reopen(&'static self, id: u64) {
        if let Some(mut inner) = self.inner.try_lock() {
            // The common case: nobody waits.
            if self.gate.is_short() && inner.queue.remove_quiet(id) {
                self.gate.open(inner.mode.fenced);
                return;
            }
        }
        self.reopen_contended(id);
    }

    /// [`reopen`](Self::reopen), where others have the lock or are in the queue.
    #[inline(never)]
    fn reopen_contended(&'static self, id: u64) {
        let Some(mut inner) = self.lock_to_drop() else {
            return;
        };
        let mut wakes = Wakes::default();
        let mut shelved = inner.queue.unshelve(id);
        let mut removed = self.take_out(&mut inner, id);
        // First those who waited, then everybody: a pinner with a ticket goes before one without.
        if let Some(shelved) = &mut shelved {
            inner.queue.settle(self.number, 0, &mut wakes);
            self.publish_gate(&mut inner);
            Self::ring_retired(&mut inner, &mut shelved.bell, &mut wakes);
        }
        if let Some((entry, at)) = &mut removed {
            if !mutant!("reopened_unsettled") {
                inner.queue.settle(self.number, *at, &mut wakes);
            }
            if entry.closes() {
                self.publish_gate(&mut inner);
            }
            if let What::Retired(_) = entry.what {
                Self::ring_retired(&mut inner, &mut entry.bell, &mut wakes);
            }
        }
        drop(inner);
        self.wake(wakes);
        // Last, for there are wakers in there, whose drops may panic.
        drop((removed, shelved));
    }

    /// A retirement is over, and somebody else than who has run it may wait for that.
    fn ring_retired(inner: &mut Inner, bell: &mut Bell, wakes: &mut Wakes) {
        wakes.add(std::mem::take(bell));
        inner.queue.tell_closing(wakes);
        if inner.closed {
            inner.queue.dismiss_reclaimers(wakes);
        }
    }

    /// Closes `ranges` if nobody holds or wants them; else leaves everything as it was.
    pub(crate) fn try_close_ranges(&'static self, ranges: Ranges) -> Result<u64, TryBreakError> {
        let mut wakes = Wakes::default();
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(TryBreakError::Closed);
        }
        let what = What::Break(BreakState::Queued);
        if inner.queue.is_taken(&ranges, &what) {
            return Err(TryBreakError::Breaking);
        }
        let turn = self.enter(&mut inner, ranges.clone(), what, &mut wakes);
        let result = if turn.drained {
            Ok(turn.id)
        } else {
            inner.queue.ledger_mut().waited -= 1;
            self.try_again(&mut inner, turn.id, &ranges, &mut wakes)
        };
        drop(inner);
        self.wake(wakes);
        result
    }

    /// A second scan, for the names of those who are in the way.
    fn try_again(
        &'static self,
        inner: &mut Inner,
        id: u64,
        ranges: &Ranges,
        wakes: &mut Wakes,
    ) -> Result<u64, TryBreakError> {
        let holders = self.list(inner, ranges.as_slice());
        let never = |e: &mut Entry| e.draining().is_some_and(|left| *left == usize::MAX);
        if holders.is_empty() && !inner.queue.get(id).is_some_and(never) {
            // Whoever was in the way has gone meanwhile: this second scan is as good as the first.
            if let Some(entry) = inner.queue.get(id) {
                entry.since = None;
            }
            inner.queue.conclude(id, wakes);
            return Ok(id);
        }
        inner.breaks -= 1;
        // Nobody has waited for it: there is no waker in it.
        inner.queue.remove(id);
        self.publish_gate(inner);
        Err(TryBreakError::Busy(holders))
    }

    /// Parts a drained break in two; the second half gets the name that is returned.
    pub(crate) fn split(&'static self, id: u64, first: Ranges, second: Ranges) -> u64 {
        let mut inner = self.inner.lock();
        let new = inner.tick();
        let half = Entry::new(new, second, What::Break(BreakState::Drained));
        inner.queue.split(id, first, half);
        new
    }
}
