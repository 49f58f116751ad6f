//! The end of a mapping: its guard is closed, or dropped under live holders.

use std::any::Any;

use crate::range::PageRange;
use crate::raw::entry::{BreakState, Entry, What};
use crate::raw::record::{Inner, Record};
use crate::raw::turns::{Turn, Undo};
use crate::raw::wait::{Rope, Via};
use crate::raw::wakes::Wakes;
use crate::raw::{scan, told};
use crate::sync::mutant;

impl Record {
    /// Refuses everybody from now on, and queues behind the proofs that are out.
    pub(crate) fn close(&'static self) -> Turn {
        let mut wakes = Wakes::default();
        let mut inner = self.inner.lock();
        if !inner.closed {
            inner.closed = true;
            inner.queue.refuse(&mut wakes);
            // Retirements may have waited for one who is refused.
            inner.queue.settle(self.number, 0, &mut wakes);
            inner.queue.dismiss_reclaimers(&mut wakes);
            let version = inner.tick();
            self.gate.shut(version);
        }
        inner.queue.recall(&[PageRange::ALL], &mut wakes);
        let turn = self.enter(
            &mut inner,
            PageRange::ALL.into(),
            What::Close(BreakState::Queued),
            &mut wakes,
        );
        drop(inner);
        let (record, id) = (self, turn.id);
        let undo = Undo { record, id };
        self.wake(wakes);
        undo.keep();
        turn
    }

    /// Whether the closing `id` is over: nobody holds anything, no proof is out and nothing is retired; else
    /// leaves a listener.
    pub(crate) fn poll_close(&'static self, id: u64, via: Via<'_>) -> bool {
        let mut rope = Rope::from(via);
        let mut inner = self.inner.lock();
        let over = inner.queue.is_over(id);
        if mutant!("closing_listens_late") {
            drop(inner);
            inner = self.inner.lock();
        }
        if let Some(entry) = inner.queue.get(id).filter(|_| !over) {
            entry.bell.hang(&mut rope);
        }
        // The lock goes before what the rope has in it.
        drop(inner);
        over
    }

    /// The guard is dropped. Recycles the record and says yes if no holder is left; else the last one takes
    /// what `map` yields with it (I9).
    pub(crate) fn abandon(&'static self, map: impl FnOnce() -> Box<dyn Any + Send>) -> bool {
        if self.is_forked() {
            // The map and whatever it names are the parent's.
            std::mem::forget(map());
            return false;
        }
        let forgotten;
        let mut inner = self.inner.lock();
        // Whoever is still in the queue was forgotten, or is a retirement that nobody waits for: the
        // guard's borrow is over.
        forgotten = inner.queue.take();
        // No barrier yet: nobody pins any more, and whoever still unpins is seen by this scan as a
        // holder at worst.
        if self.holders_left(&inner) == 0 {
            // Nothing is closed any more: whoever was refused here need not mind, and long tables are others'.
            self.publish_gate(&mut inner);
            let old = self.recycle(&mut inner);
            drop(inner);
            drop((forgotten, old));
            return true;
        }
        let mut wakes = Wakes::default();
        inner.queue.recall(&[PageRange::ALL], &mut wakes);
        let version = inner.tick();
        self.gate.shut(version);
        let needs = inner.mode.begin_break();
        let reached = mutant!("abandon_unbarriered") || inner.mode.learn(needs.execute());
        let left = if reached {
            self.holders_left(&inner)
        } else {
            usize::MAX
        };
        let mut old = None;
        match left {
            0 => old = Some(self.recycle(&mut inner)),
            remaining => {
                let id = inner.tick();
                let map = map();
                let what = What::Abandoned { remaining, map };
                inner
                    .queue
                    .push(Entry::new(id, PageRange::ALL.into(), what));
            }
        }
        drop(inner);
        self.wake(wakes);
        drop((forgotten, old));
        if left > 0 {
            told::left_behind(left);
        }
        left == 0
    }

    fn holders_left(&'static self, inner: &Inner) -> usize {
        let leases = inner.queue.ledger().map_or(0, |l| l.leases.len());
        scan::count(self.number, &[PageRange::ALL]) + leases
    }
}
