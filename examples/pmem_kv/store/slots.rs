//! Which directory entries are empty: the lowest is taken first, so that the used ones stay together.

use std::collections::BTreeSet;

/// The empty directory entries.
#[derive(Debug)]
pub(crate) struct Slots {
    /// Empty ones before `next`.
    empty: BTreeSet<u64>,
    /// Everything from here on is empty.
    next: u64,
    /// So many entries does the directory have.
    len: u64,
}

impl Slots {
    /// All `len` but `used`, which is in order.
    pub(crate) fn new(used: &[u64], len: u64) -> Slots {
        let next = used.last().map_or(0, |last| last + 1);
        let mut empty: BTreeSet<u64> = (0..next).collect();
        for slot in used {
            empty.remove(slot);
        }
        Slots { empty, next, len }
    }

    /// The lowest empty one. In a sound pool there is always one: the directory has as many as the pool has
    /// pages, and each record has a page at least. Entries that name nothing sound can take them all.
    pub(crate) fn take(&mut self) -> Option<u64> {
        self.empty.pop_first().or_else(|| {
            let next = self.next;
            self.next = (next + 1).min(self.len);
            (next < self.len).then_some(next)
        })
    }

    pub(crate) fn give(&mut self, slot: u64) {
        self.empty.insert(slot);
    }
}
