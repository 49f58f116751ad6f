//! What is due: the retirements in the queue whose blocks can be freed, and who is told.
//!
//! A retirement is a break without a breaker. It is ready when it is drained and what it waits for is on
//! media; then whoever waits for it, whoever reclaims and whoever closes the guard are told, and one of them
//! claims it.

use std::any::Any;
use std::mem;
use std::sync::Arc;

use crate::raw::entry::{Entry, Ranges, Retired, What};
use crate::raw::queue::Queue;
use crate::raw::wait::Bell;
use crate::raw::wakes::Wakes;

impl Queue {
    fn durable(&self) -> u64 {
        self.ledger.as_ref().map_or(0, |l| l.durable)
    }

    /// Whether the blocks of some retirement can be freed.
    pub(super) fn has_ready(&self) -> bool {
        let durable = self.durable();
        self.entries
            .iter()
            .any(|e| matches!(&e.what, What::Retired(r) if r.is_ready(durable)))
    }

    /// Wakes those who wait for a retirement to be ready, if one is.
    pub(super) fn tell_reclaimers(&mut self, wakes: &mut Wakes) {
        let durable = self.durable();
        let mut ready = false;
        for entry in &mut self.entries {
            if matches!(&entry.what, What::Retired(r) if r.is_ready(durable)) {
                ready = true;
                wakes.add(mem::take(&mut entry.bell));
            }
        }
        if let Some(ledger) = self.ledger.as_mut().filter(|_| ready) {
            let reclaimers = ledger.reclaimers.drain(..);
            reclaimers.for_each(|(_, bell)| wakes.add(bell));
        }
        // Also if none is ready: what waits for the log alone now, the closing gives up.
        if self.has_retired() {
            self.tell_closing(wakes);
        }
    }

    fn has_retired(&self) -> bool {
        let retired = |e: &Entry| matches!(e.what, What::Retired(_));
        self.entries.iter().any(retired)
    }

    /// Whoever closes the guard runs the retirements that are left, so it must be told of changes.
    #[inline]
    pub(super) fn tell_closing(&mut self, wakes: &mut Wakes) {
        for entry in self.entries.iter_mut().rev() {
            // Nothing enters behind a closing but closings.
            let What::Close(_) = entry.what else { return };
            wakes.add(mem::take(&mut entry.bell));
        }
    }

    /// Whether the closing `id` has nobody to wait for any more, and nothing that is retired.
    pub(super) fn is_over(&self, id: u64) -> bool {
        let closing = self.entries.iter().find(|e| e.id == id);
        closing.is_none_or(Entry::is_drained) && !self.has_retired()
    }

    /// Where `reclaimer` is told that some retirement is ready.
    pub(super) fn reclaimer_bell(&mut self, reclaimer: u64) -> &mut Bell {
        let all = &mut self.ledger_mut().reclaimers;
        let at = match all.iter().position(|(r, _)| *r == reclaimer) {
            Some(at) => at,
            None => {
                all.push((reclaimer, Bell::default()));
                all.len() - 1
            }
        };
        &mut all[at].1
    }

    /// `reclaimer` need not be told any more. The bell is to be dropped when the lock is released.
    pub(super) fn unhang_reclaimer(&mut self, reclaimer: u64) -> Option<Bell> {
        let all = &mut self.ledger.as_mut()?.reclaimers;
        let at = all.iter().position(|(r, _)| *r == reclaimer)?;
        Some(all.swap_remove(at).1)
    }

    /// Claims a retirement whose blocks can be freed: the one named, or the first.
    pub(super) fn claim(&mut self, id: Option<u64>) -> Option<Claim> {
        let durable = self.durable();
        let ready = |e: &Entry, r: &Retired| r.is_ready(durable) && id.is_none_or(|id| id == e.id);
        let at = self
            .entries
            .iter()
            .position(|e| matches!(&e.what, What::Retired(r) if ready(e, r)))?;
        self.claim_at(at)
    }

    /// Claims a retirement that will not be ready any more, if the closing `id` waits for nothing but such:
    /// for the log, or for one that does. The last of them, so that none gets its turn because another was
    /// given up.
    pub(super) fn claim_undurable_before(&mut self, id: u64) -> Option<Claim> {
        let durable = self.durable();
        let closing = self.entries.iter().find(|e| e.id == id)?;
        // Not if one has become ready meanwhile, or is about to.
        let waits = |e: &Entry| match &e.what {
            What::Retired(r) => r.waits_for_no_holder(durable),
            _ => true,
        };
        if !closing.is_drained() || !self.entries.iter().all(waits) {
            return None;
        }
        let retired = |e: &Entry| matches!(e.what, What::Retired(_));
        let at = self.entries.iter().rposition(retired)?;
        self.claim_at(at)
    }

    fn claim_at(&mut self, at: usize) -> Option<Claim> {
        let entry = &mut self.entries[at];
        let What::Retired(retired) = &mut entry.what else {
            return None;
        };
        retired.running = true;
        Some(Claim {
            id: entry.id,
            ranges: entry.ranges.clone(),
            job: Arc::clone(&retired.job),
        })
    }
}

/// A retirement whose blocks are to be freed, by whoever has this.
pub(crate) struct Claim {
    pub(crate) id: u64,
    pub(crate) ranges: Ranges,
    pub(crate) job: Arc<dyn Any + Send + Sync>,
}
