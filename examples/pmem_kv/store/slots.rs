//! Which directory entries are empty: the lowest is taken first, so that the used ones stay together.

use std::collections::BTreeMap;

/// The empty directory entries.
#[derive(Debug)]
pub(crate) struct Slots {
    /// Runs of them: the first, and the one behind the last. A pool has up to 2^32 entries, and any of them may be
    /// used: one by one they would need more memory than there is.
    empty: BTreeMap<u64, u64>,
}

impl Slots {
    /// All `len` but `used`, which is in order.
    pub(crate) fn new(used: &[u64], len: u64) -> Slots {
        let mut empty = BTreeMap::new();
        let mut next = 0;
        for &slot in used.iter().chain([&len]) {
            if next < slot {
                empty.insert(next, slot);
            }
            next = slot + 1;
        }
        Slots { empty }
    }

    /// The lowest empty one. In a sound pool there is always one: the directory has as many as the pool has
    /// pages, and each record has a page at least. Entries that name nothing sound can take them all.
    pub(crate) fn take(&mut self) -> Option<u64> {
        let (slot, end) = self.empty.pop_first()?;
        if slot + 1 < end {
            self.empty.insert(slot + 1, end);
        }
        Some(slot)
    }

    pub(crate) fn give(&mut self, slot: u64) {
        self.empty.insert(slot, slot + 1);
    }
}
