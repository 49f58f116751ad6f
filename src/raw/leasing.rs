//! What the holder of a lease does with it: give it back, a part of it, or hear that it is recalled.

use crate::holders::HolderKind;
use crate::range::PageRange;
use crate::raw::record::{Inner, Record};
use crate::raw::wait::{Rope, Via};
use crate::raw::wakes::Wakes;
use crate::sync::{Ordering, mutant};

impl Inner {
    /// What is wanted of a lease of `range`. A closed guard wants everything back, also when nobody waits
    /// for that any more.
    fn wanted(&self, range: PageRange) -> Option<PageRange> {
        if self.closed {
            return Some(range);
        }
        self.queue.wanted(&range)
    }
}

impl Record {
    /// A lease of `range` ends.
    pub(crate) fn give_back(&'static self, lease: u32, range: PageRange) {
        let Some(mut inner) = self.lock_to_drop() else {
            return;
        };
        let gone = inner.queue.ledger_mut().leases.give_back(lease);
        self.released(inner, HolderKind::Lease, &range);
        drop(gone);
    }

    /// A lease of `range` becomes one of `kept`, which is a part of it: those who wanted only what is
    /// given back need not wait for it any more.
    pub(crate) fn shrink(&'static self, lease: u32, range: PageRange, kept: PageRange) {
        let mut wakes = Wakes::default();
        let mut inner = self.inner.lock();
        let queue = &mut inner.queue;
        queue.ledger_mut().leases.shrink(lease, kept);
        let kind = HolderKind::Lease;
        queue.released(self.number, kind, &range, Some(&kept), &mut wakes);
        drop(inner);
        self.wake(wakes);
    }

    /// Whether some break wants pages of a lease of `range`. Takes the lock only if there are breaks.
    pub(crate) fn wanted(&'static self, range: PageRange) -> Option<PageRange> {
        if !self.gate.is_closed() && self.lease_breaks.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.inner.lock().wanted(range)
    }

    /// A name for one who wants to hear of something again and again.
    pub(crate) fn caller(&'static self) -> u64 {
        self.inner.lock().tick()
    }

    /// What is wanted of the lease, if anything is; else leaves a listener.
    pub(crate) fn poll_recall(
        &'static self,
        lease: u32,
        range: PageRange,
        caller: u64,
        via: Via<'_>,
    ) -> Option<PageRange> {
        let mut rope = Rope::from(via);
        let mut inner = self.inner.lock();
        let wanted = inner.wanted(range);
        if mutant!("recall_listens_late") {
            drop(inner);
            inner = self.inner.lock();
        }
        if wanted.is_none() {
            if let Some(bell) = inner.queue.ledger_mut().leases.bell(lease, caller) {
                bell.hang(&mut rope);
            }
        }
        // The lock goes before what the rope has in it.
        drop(inner);
        wanted
    }

    /// `caller` does not want to hear of a recall any more.
    pub(crate) fn unhang_recall(&'static self, lease: u32, caller: u64) {
        let Some(mut inner) = self.lock_to_drop() else {
            return;
        };
        let bell = inner.queue.ledger_mut().leases.unhang(lease, caller);
        drop(inner);
        drop(bell);
    }
}
