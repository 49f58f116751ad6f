//! What is due: the retirements whose blocks can be freed, and who is told.
//!
//! A retirement is a break without a breaker. When it is drained it goes from the queue to the
//! [`shelf`](crate::raw::shelf), and it is ready when what it waits for is on media, too; then whoever waits for
//! it, whoever reclaims and whoever closes the guard are told, and one of them claims it.

use std::sync::Arc;

use crate::raw::entry::{BreakState, Entry, What};
use crate::raw::queue::Queue;
use crate::raw::shelf::{Claim, Shelf};
use crate::raw::wait::Bell;
use crate::raw::wakes::Wakes;

impl Queue {
    /// Puts the retirements that are drained on the shelf, and tells those who wait for that.
    pub(super) fn shelve(&mut self, wakes: &mut Wakes) {
        // One that is being given up stays where it is.
        let drained = |e: &Entry| matches!(&e.what, What::Retired(r) if r.state == BreakState::Drained && !r.running);
        let Some(first) = self.entries.iter().position(drained) else {
            return;
        };
        let entry = self.entries.remove(first);
        let ledger = self.ledger.get_or_insert_default();
        let mut ready = ledger.shelf.add(entry, ledger.durable, wakes);
        if self.entries[first..].iter().any(drained) {
            // The others in one go: a holder of many pages may have been the last that very many waited for.
            let all = std::mem::take(&mut self.entries);
            let (due, rest): (Vec<Entry>, Vec<Entry>) = all.into_iter().partition(drained);
            self.entries = rest;
            for entry in due {
                ready |= ledger.shelf.add(entry, ledger.durable, wakes);
            }
        }
        if ready {
            self.tell_reclaimers(wakes);
        }
        // Also if none is ready: what waits for the log alone now, the closing gives up.
        self.tell_closing(wakes);
    }

    /// Everything up to `lsn` is on media.
    pub(super) fn set_durable(&mut self, lsn: u64, wakes: &mut Wakes) {
        let ledger = self.ledger_mut();
        if lsn <= ledger.durable {
            return;
        }
        ledger.durable = lsn;
        if ledger.shelf.durable(lsn, wakes) {
            self.tell_reclaimers(wakes);
        }
        if self.has_retired() {
            self.tell_closing(wakes);
        }
    }

    /// Whether the blocks of some retirement can be freed.
    pub(super) fn has_ready(&self) -> bool {
        self.shelf().is_some_and(Shelf::has_ready)
    }

    /// Wakes those who wait for a retirement to be ready: one is, or none will ever be.
    fn tell_reclaimers(&mut self, wakes: &mut Wakes) {
        if let Some(ledger) = &mut self.ledger {
            let reclaimers = ledger.reclaimers.drain(..);
            reclaimers.for_each(|(_, bell)| wakes.add(bell));
        }
    }

    pub(super) fn has_retired(&self) -> bool {
        let retired = |e: &Entry| matches!(e.what, What::Retired(_));
        self.shelf().is_some() || self.entries.iter().any(retired)
    }

    /// Whoever closes the guard runs the retirements that are left, so it must be told of changes.
    #[inline]
    pub(super) fn tell_closing(&mut self, wakes: &mut Wakes) {
        for entry in self.entries.iter_mut().rev() {
            // Nothing enters behind a closing but closings.
            let What::Close(_) = entry.what else { return };
            wakes.add(std::mem::take(&mut entry.bell));
        }
    }

    /// Whether the closing `id` has nobody to wait for any more, and nothing that is retired.
    pub(super) fn is_over(&self, id: u64) -> bool {
        let closing = self.entries.iter().find(|e| e.id == id);
        closing.is_none_or(Entry::is_drained) && !self.has_retired()
    }

    /// The guard is closed: if nothing is retired any more, nobody need wait for work.
    pub(super) fn dismiss_reclaimers(&mut self, wakes: &mut Wakes) {
        if !self.has_retired() {
            self.tell_reclaimers(wakes);
        }
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
        self.ledger.as_mut()?.shelf.claim(id)
    }

    /// Nobody runs the retirement that was claimed: it is ready again.
    pub(super) fn unclaim(&mut self, id: u64, wakes: &mut Wakes) {
        let shelf = self.ledger.as_mut().map(|ledger| &mut ledger.shelf);
        if shelf.is_some_and(|shelf| shelf.unclaim(id)) {
            self.tell_reclaimers(wakes);
            self.tell_closing(wakes);
        }
    }

    /// Claims a retirement that will not be ready any more, if the closing `id` waits for nothing but such:
    /// for the log, or for one that does. The last of them, so that none gets its turn because another was
    /// given up.
    pub(super) fn claim_undurable_before(&mut self, id: u64) -> Option<Claim> {
        let shelf = &mut self.ledger.as_mut()?.shelf;
        let closing = self.entries.iter().find(|e| e.id == id)?;
        // Not if one has become ready meanwhile, or is about to.
        let waits = |e: &Entry| match &e.what {
            What::Retired(r) => r.state == BreakState::Queued && !r.running,
            _ => true,
        };
        if !closing.is_drained() || !shelf.all_wait() || !self.entries.iter().all(waits) {
            return None;
        }
        let retired = |e: &&mut Entry| matches!(e.what, What::Retired(_));
        let queued = self.entries.iter_mut().rev().find(retired);
        match (queued, shelf.last()) {
            (Some(queued), last) if last.is_none_or(|last| last < queued.id) => claim(queued),
            (_, last) => shelf.claim_waiting(last?),
        }
    }
}

/// Claims a retirement in the queue, to be given up.
fn claim(entry: &mut Entry) -> Option<Claim> {
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
