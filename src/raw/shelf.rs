//! The shelf: retirements that nobody holds any more. They wait for the log, or for somebody who runs them.
//!
//! Problem: there may be very many of them, for as long as a flush of the log takes, and meanwhile every other
//! break and every release would have to pass them by in the queue. Idea: what is drained has no business in
//! the queue. Its pages are closed and idle, so those of no two overlap; nobody before it in the queue waits
//! for it, and whoever comes later and wants some of its pages asks the shelf. Coming, going and asking take
//! O(log n).
//!
//! | a retirement is | until |
//! | --- | --- |
//! | `waiting` | its log position is durable |
//! | `ready` | somebody claims it |
//! | running | whoever has claimed it takes it off the shelf |

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use crate::range::PageRange;
use crate::raw::chunks::Chunks;
use crate::raw::entry::{Entry, Ranges, Retired, What};
use crate::raw::wait::Bell;
use crate::raw::wakes::Wakes;

/// A retirement whose blocks are to be freed, by whoever has this.
pub(crate) struct Claim {
    pub(crate) id: u64,
    pub(crate) ranges: Ranges,
    pub(crate) job: Arc<dyn Any + Send + Sync>,
}

/// Drained retirements.
#[derive(Default)]
pub(super) struct Shelf {
    /// By their tickets.
    all: BTreeMap<u64, Shelved>,
    /// Log position and ticket of those that are not durable.
    waiting: BTreeSet<(u64, u64)>,
    ready: BTreeSet<u64>,
    /// Their pages.
    closed: Chunks,
    pages: u64,
}

/// A drained retirement. Its bell is rung once when it is ready, and once when it is over.
pub(super) struct Shelved {
    ranges: Ranges,
    lsn: u64,
    job: Arc<dyn Any + Send + Sync>,
    pub(super) bell: Bell,
}

impl Shelf {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// How many pages are retired here.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// What is closed, for the gate.
    pub(super) fn closed(&self) -> &Chunks {
        &self.closed
    }

    /// The gate has been told.
    pub(super) fn published(&mut self) {
        self.closed.published();
    }

    pub(super) fn overlaps(&self, range: &PageRange) -> bool {
        self.closed.overlaps(range)
    }

    pub(super) fn overlap(&self, ranges: &Ranges) -> bool {
        ranges.as_slice().iter().any(|range| self.overlaps(range))
    }

    /// Takes in a drained retirement from the queue. Whether it is ready.
    pub(super) fn add(&mut self, entry: Entry, durable: u64, wakes: &mut Wakes) -> bool {
        let What::Retired(retired) = entry.what else {
            return false;
        };
        let Retired { lsn, job, .. } = *retired;
        let mut bell = entry.bell;
        let ready = lsn <= durable;
        if ready {
            self.ready.insert(entry.id);
            wakes.add(mem::take(&mut bell));
        } else {
            self.waiting.insert((lsn, entry.id));
        }
        for range in entry.ranges.as_slice() {
            self.closed.insert(*range);
            self.pages += range.len();
        }
        let shelved = Shelved {
            ranges: entry.ranges,
            lsn,
            job,
            bell,
        };
        self.all.insert(entry.id, shelved);
        ready
    }

    /// Takes one off, wherever it stands. It is to be dropped when the lock is released: it has a waker in it.
    pub(super) fn remove(&mut self, id: u64) -> Option<Shelved> {
        let gone = self.all.remove(&id)?;
        self.waiting.remove(&(gone.lsn, id));
        self.ready.remove(&id);
        for range in gone.ranges.as_slice() {
            self.closed.remove(range);
            self.pages -= range.len();
        }
        Some(gone)
    }

    pub(super) fn get(&mut self, id: u64) -> Option<&mut Shelved> {
        self.all.get_mut(&id)
    }

    /// Everything up to `lsn` is on media. Whether some have become ready by that.
    pub(super) fn durable(&mut self, lsn: u64, wakes: &mut Wakes) -> bool {
        let later = match lsn.checked_add(1) {
            Some(next) => self.waiting.split_off(&(next, 0)),
            None => BTreeSet::new(),
        };
        let now = mem::replace(&mut self.waiting, later);
        for (_, id) in &now {
            self.ready.insert(*id);
            if let Some(shelved) = self.all.get_mut(id) {
                wakes.add(mem::take(&mut shelved.bell));
            }
        }
        !now.is_empty()
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Claims one that is ready: the one named, or the first.
    pub(super) fn claim(&mut self, id: Option<u64>) -> Option<Claim> {
        let id = match id {
            Some(id) => self.ready.take(&id)?,
            None => self.ready.pop_first()?,
        };
        self.claimed(id)
    }

    /// Nobody runs the one that was claimed. Whether it is ready now.
    pub(super) fn unclaim(&mut self, id: u64) -> bool {
        self.all.contains_key(&id) && self.ready.insert(id)
    }

    /// Whether all here wait for the log.
    pub(super) fn all_wait(&self) -> bool {
        self.waiting.len() == self.all.len()
    }

    /// The last ticket.
    pub(super) fn last(&self) -> Option<u64> {
        self.all.last_key_value().map(|(id, _)| *id)
    }

    /// Claims one that waits for the log.
    pub(super) fn claim_waiting(&mut self, id: u64) -> Option<Claim> {
        let lsn = self.all.get(&id)?.lsn;
        self.waiting.take(&(lsn, id))?;
        self.claimed(id)
    }

    fn claimed(&self, id: u64) -> Option<Claim> {
        let shelved = self.all.get(&id)?;
        Some(Claim {
            id,
            ranges: shelved.ranges.clone(),
            job: Arc::clone(&shelved.job),
        })
    }
}
