//! Which directory entries are empty: the lowest is taken first, so that the used ones stay together.

use std::collections::BTreeSet;

/// The empty directory entries.
#[derive(Debug)]
pub(crate) struct Slots {
    /// Empty ones before `next`.
    empty: BTreeSet<u64>,
    /// Everything from here on is empty.
    next: u64,
}

impl Slots {
    /// All but `used`, which is in order.
    pub(crate) fn new(used: &[u64]) -> Slots {
        let next = used.last().map_or(0, |last| last + 1);
        let mut empty: BTreeSet<u64> = (0..next).collect();
        for slot in used {
            empty.remove(slot);
        }
        Slots { empty, next }
    }

    /// The lowest empty one. There is always one: the directory has as many as the pool has pages,
    /// and each record has a page at least.
    pub(crate) fn take(&mut self) -> u64 {
        self.empty.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    pub(crate) fn give(&mut self, slot: u64) {
        self.empty.insert(slot);
    }
}
