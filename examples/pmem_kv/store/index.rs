//! The index in memory: which key is where. Rebuilt from the directory when the pool is opened.
//!
//! Sharded by the key's hash, so that readers and writers of different keys seldom meet. A shard's
//! lock is held for one look-up or one change, never across I/O and never across a break: that is
//! what lets [`get`](super::Store::get) go on while a writer waits for readers.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use layout_lease::PageRange;
use parking_lot::RwLock;

const SHARDS: usize = 16;

/// Where a record is. Two entries are equal only if they are of the same version of the same record
/// in the same place: that is what a reader compares after pinning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) slot: u64,
    pub(crate) extent: PageRange,
    pub(crate) value_len: u64,
    pub(crate) seq: u64,
    /// The record's checksum was wrong when the pool was opened: it is kept, but not served.
    pub(crate) damaged: bool,
}

type Shard = RwLock<BTreeMap<Box<[u8]>, Entry>>;

/// Key to [`Entry`].
#[derive(Debug, Default)]
pub(crate) struct Index {
    shards: [Shard; SHARDS],
    hasher: RandomState,
}

impl Index {
    fn shard(&self, key: &[u8]) -> &Shard {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Entry> {
        self.shard(key).read().get(key).copied()
    }

    /// Sets the key's entry; returns the one it had.
    pub(crate) fn set(&self, key: &[u8], entry: Entry) -> Option<Entry> {
        let mut shard = self.shard(key).write();
        match shard.get_mut(key) {
            Some(old) => Some(std::mem::replace(old, entry)),
            None => shard.insert(key.into(), entry),
        }
    }

    pub(crate) fn remove(&self, key: &[u8]) -> Option<Entry> {
        self.shard(key).write().remove(key)
    }

    /// Every key that starts with `prefix`, in order. Each shard is seen at one moment, but not all
    /// of them at the same.
    pub(crate) fn scan(&self, prefix: &[u8]) -> Vec<(Box<[u8]>, Entry)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.read();
            let from = (
                std::ops::Bound::Included(prefix),
                std::ops::Bound::Unbounded,
            );
            found.extend(
                shard
                    .range::<[u8], _>(from)
                    .take_while(|(key, _)| key.starts_with(prefix))
                    .map(|(key, entry)| (key.clone(), *entry)),
            );
        }
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        found
    }
}
