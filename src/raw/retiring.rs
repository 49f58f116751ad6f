//! Retirements: breaks without a breaker. Whose blocks can be freed, and who is told.
//!
//! A retirement is ready when nobody holds its pages and what it waits for is on media. Whoever claims it
//! then frees the blocks without the lock, and takes it out of the queue, whatever becomes of that.

use std::any::Any;
use std::mem;
use std::sync::Arc;

use crate::raw::entry::{BreakState, Ranges, Retired, What};
use crate::raw::record::{Record, Shut};
use crate::raw::shelf::Claim;
use crate::raw::wait::{Bell, Rope, Via};
use crate::raw::wakes::Wakes;
use crate::sync::mutant;

/// Where a retirement stands.
pub(crate) enum Retirement {
    /// Its blocks are to be freed by the caller.
    Claimed(Claim),
    /// It is out of the queue.
    Over,
    /// Holders, earlier breaks, the log or whoever is freeing its blocks are waited for.
    Waiting,
}

/// A retirement that was claimed, and that nobody will run. Dropped, it makes it ready again.
struct Unclaim(&'static Record, u64);

impl Drop for Unclaim {
    fn drop(&mut self) {
        let Unclaim(record, id) = *self;
        let mut wakes = Wakes::default();
        let mut inner = record.inner.lock();
        inner.queue.unclaim(id, &mut wakes);
        drop(inner);
        record.wake(wakes);
    }
}

impl Record {
    /// Closes `ranges` until their blocks have been freed, once everything up to `lsn` is on media.
    pub(crate) fn retire(
        &'static self,
        ranges: Ranges,
        lsn: u64,
        job: Arc<dyn Any + Send + Sync>,
    ) -> Result<u64, Shut> {
        let retired = Box::new(Retired {
            state: BreakState::Queued,
            lsn,
            running: false,
            job,
        });
        // Whoever waits for work hears of it when it is drained and durable; there must be a place where
        // that is written down.
        self.inner.lock().queue.ledger_mut();
        let turn = self.start_break(ranges, What::Retired(retired))?;
        Ok(turn.id)
    }

    /// Everything up to `lsn` is on media.
    pub(crate) fn set_durable(&'static self, lsn: u64) {
        let mut wakes = Wakes::default();
        let mut inner = self.inner.lock();
        inner.queue.set_durable(lsn, &mut wakes);
        drop(inner);
        self.wake(wakes);
    }

    /// A retirement has come to its end without its blocks being freed, and nobody waits for it.
    pub(crate) fn count_in_vain(&'static self) {
        self.inner.lock().queue.ledger_mut().retired_failed += 1;
    }

    /// A retirement that is ready, to be freed by the caller.
    pub(crate) fn claim_retired(&'static self) -> Option<Claim> {
        self.inner.lock().queue.claim(None)
    }

    /// Whether the retirement is over, or ready: then it is the caller's to be freed. Else leaves a
    /// listener.
    pub(crate) fn poll_retired(&'static self, id: u64, via: Via<'_>) -> Retirement {
        let mut rope = Rope::from(via);
        let mut inner = self.inner.lock();
        if let Some(claim) = inner.queue.claim(Some(id)) {
            drop(inner);
            // The waker that was not needed may panic: then somebody else is to run it (I8).
            let unclaim = Unclaim(self, id);
            drop(rope);
            mem::forget(unclaim);
            return Retirement::Claimed(claim);
        }
        if mutant!("retired_listens_late") {
            drop(inner);
            inner = self.inner.lock();
        }
        let Some(bell) = inner.queue.retired_bell(id) else {
            return Retirement::Over;
        };
        bell.hang(&mut rope);
        // The lock goes before what the rope has in it.
        drop(inner);
        Retirement::Waiting
    }

    /// Whoever waited for the retirement does not any more. What is returned is to be dropped last: it has a waker
    /// in it.
    #[must_use]
    pub(crate) fn unhang_retired(&'static self, id: u64) -> Option<Bell> {
        let mut inner = self.lock_to_drop()?;
        inner.queue.retired_bell(id).map(mem::take)
    }

    /// Whether some retirement is ready, or none is there and the guard closed, so that none will ever be; else
    /// leaves a listener.
    pub(crate) fn poll_ready(&'static self, reclaimer: u64, via: Via<'_>) -> bool {
        let mut rope = Rope::from(via);
        let mut inner = self.inner.lock();
        let none = inner.closed && !inner.queue.has_retired();
        let ready = none || inner.queue.has_ready();
        if mutant!("ready_listens_late") {
            drop(inner);
            inner = self.inner.lock();
        }
        if !ready {
            inner.queue.reclaimer_bell(reclaimer).hang(&mut rope);
        }
        // The lock goes before what the rope has in it.
        drop(inner);
        ready
    }

    /// `reclaimer` does not wait for work any more.
    pub(crate) fn unhang_reclaimer(&'static self, reclaimer: u64) {
        let Some(mut inner) = self.lock_to_drop() else {
            return;
        };
        let bell = inner.queue.unhang_reclaimer(reclaimer);
        drop(inner);
        drop(bell);
    }

    /// The closing `id` has nobody left to wait for, but retirements that wait for the log: one of those, to be
    /// given up. Nothing will say that the log is on media, and blocks that are perhaps still named by what
    /// is there must not be freed (I4); nor those of retirements that wait for one that is given up.
    pub(crate) fn give_up_retired(&'static self, id: u64) -> Option<Claim> {
        self.inner.lock().queue.claim_undurable_before(id)
    }
}
