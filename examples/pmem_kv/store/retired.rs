//! Retired pages: what no entry names any more. They are free when nobody reads them any more, and when
//! the entry that does not name them is on the media. Nobody waits for that: whoever writes next, or
//! needs the space, frees what can be freed by then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use layout_lease::{Holder, PageRange, Retired};

use super::Store;
use super::error::StoreError;
use super::space::Pool;

/// Log positions: changes of the directory are counted, and may end in another order than they began.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    last: u64,
    /// Begun, and not on the media yet. After a failed flush one stays here for ever, so nothing that was
    /// retired later is ever freed.
    pending: BTreeSet<u64>,
}

impl Positions {
    pub(crate) fn begin(&mut self) -> u64 {
        self.last += 1;
        self.pending.insert(self.last);
        self.last
    }

    /// Up to which position everything is on the media, now that `position` is.
    pub(crate) fn end(&mut self, position: u64) -> u64 {
        self.pending.remove(&position);
        self.pending.first().map_or(self.last, |first| first - 1)
    }
}

/// Pages that were not free at once.
#[derive(Debug)]
pub(crate) struct Kept {
    since: Instant,
    retired: Retired<Pool>,
}

/// Pages that nobody can free now, and who holds them.
#[derive(Debug, Default)]
pub(crate) struct PinnedPages {
    pub(crate) pages: u64,
    pub(crate) holders: Vec<Holder>,
}

impl Store {
    /// Gives up the pages of a record that the directory no longer names since `position`. Never waits.
    pub(crate) fn retire(&self, extent: PageRange, position: u64) -> Result<(), StoreError> {
        let mut retired = self.guard.retire_after(extent, position);
        match retired.wait_timeout(Duration::ZERO) {
            Some(freed) => drop(freed?),
            None => self.kept.lock().push(Kept {
                since: Instant::now(),
                retired,
            }),
        }
        self.frees.count();
        self.reclaim()?;
        Ok(())
    }

    /// Frees what was retired and is free to go by now; the number of pages. Never waits.
    pub(crate) fn reclaim(&self) -> Result<u64, StoreError> {
        let freed = self.guard.run_retired();
        if freed > 0 {
            self.strike_off()?;
        }
        Ok(freed)
    }

    /// Strikes off what is not kept any more.
    fn strike_off(&self) -> Result<(), StoreError> {
        let mut failed = None;
        self.kept.lock().retain_mut(|kept| {
            let Some(over) = kept.retired.wait_timeout(Duration::ZERO) else {
                return true;
            };
            self.frees.waited(kept.since.elapsed());
            failed = failed.take().or(over.err());
            false
        });
        failed.map_or(Ok(()), |e| Err(e.into()))
    }

    /// What is retired and cannot be freed, since it is held.
    pub(crate) fn pinned(&self) -> Result<PinnedPages, StoreError> {
        self.reclaim()?;
        self.strike_off()?;
        let kept = self.kept.lock();
        let kept = kept.iter().filter_map(|kept| kept.retired.range());
        let kept: BTreeMap<u64, PageRange> = kept.map(|pages| (pages.start(), pages)).collect();
        // One look at all holders, however many pages are kept: each look goes through all pins.
        let mut holders = self.guard.holders(..);
        let mut held = BTreeSet::new();
        // Retired pages are nobody else's, so who holds some of them holds those of one record. What
        // nobody holds waits for the media, not for long.
        holders.retain(|holder| {
            let before = kept.range(..holder.range().end()).next_back();
            let record = before.filter(|(_, pages)| pages.overlaps(&holder.range()));
            held.extend(record.map(|(start, _)| *start));
            record.is_some()
        });
        let pages = held.iter().map(|start| kept[start].len()).sum();
        Ok(PinnedPages { pages, holders })
    }
}
