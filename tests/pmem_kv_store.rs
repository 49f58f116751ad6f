//! The store of `examples/pmem_kv`: what it promises, one test each.

#[path = "pmem_kv_store/doors.rs"]
mod doors;
#[path = "pmem_kv_store/durability.rs"]
mod durability;
#[path = "pmem_kv_store/floor.rs"]
mod floor;
#[path = "pmem_kv_store/readers.rs"]
mod readers;
#[path = "pmem_kv_store/space.rs"]
mod space;
#[path = "pmem_kv_store/transfers.rs"]
mod transfers;

#[allow(dead_code, reason = "the example uses the rest")]
#[path = "../examples/pmem_kv/store/mod.rs"]
mod store;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use layout_lease::{BlockMap, Drained, LayoutGuard, OpError, PageRange};
use parking_lot::Mutex;
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use tempfile::TempDir;

use crate::store::compact::Effort;
use crate::store::error::StoreError;
use crate::store::format::{Geometry, MAX_CAPACITY, MAX_KEY, PAGE, pages_for};
use crate::store::mapping::{Dirty, Mapped, NotPinned, Shape};
use crate::store::media::{Event, FileMedia, Media, PmemMedia, Syncs, VolatileMedia};
use crate::store::slots::Slots;
use crate::store::space::{Pool, Space, SpaceError};
use crate::store::transfer::{Device, Transfers};
use crate::store::{Access, BETWEEN, Store};

/// Long enough that somebody who does not wait has gone on by then.
const A_WHILE: Duration = Duration::from_millis(100);

/// Longer than anything here takes that does not hang.
const HANGS: Duration = Duration::from_secs(120);

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.pool");
    (folder, path)
}

fn volatile() -> Option<Box<dyn Media>> {
    Some(Box::new(VolatileMedia))
}

fn create(path: &Path, pages: u64) -> Store {
    Store::create(path, pages * PAGE, volatile()).unwrap()
}

fn open(path: &Path) -> Store {
    Store::open(path, Access::Write, volatile()).unwrap()
}

fn value(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|i| (i * 31 + seed * 7 + i / 251) as u8)
        .collect()
}

fn range(start: u64, end: u64) -> PageRange {
    PageRange::new(start, end).unwrap()
}

fn keys(store: &Store, prefix: &[u8]) -> Vec<Vec<u8>> {
    store
        .scan(prefix)
        .into_iter()
        .map(|(key, _)| key.into_vec())
        .collect()
}

#[test]
fn put_get_del_scan_and_reopen() {
    let (_folder, path) = folder();
    let store = create(&path, 256);
    assert!(!store.put(b"b/2", b"two").unwrap());
    assert!(!store.put(b"b/1", &value(1, 10_000)).unwrap());
    assert!(!store.put(b"a", b"").unwrap());
    assert!(!store.put(b"b", b"just b").unwrap());
    assert!(!store.put(b"\xff\x00", b"any bytes").unwrap());
    assert!(store.put(b"b/2", b"two again").unwrap());
    assert!(store.del(b"b").unwrap());
    assert!(!store.del(b"b").unwrap());
    store.close();

    let store = open(&path);
    assert_eq!(store.problems(), []);
    assert!(store.notes().is_empty());
    assert_eq!(&*store.get(b"b/1").unwrap().unwrap(), value(1, 10_000));
    assert_eq!(&*store.get(b"b/2").unwrap().unwrap(), b"two again");
    assert_eq!(&*store.get(b"a").unwrap().unwrap(), b"");
    assert!(store.get(b"b").unwrap().is_none());
    assert_eq!(keys(&store, b"b/"), [b"b/1", b"b/2"]);
    assert_eq!(keys(&store, b""), [&b"a"[..], b"b/1", b"b/2", b"\xff\x00"]);
    assert_eq!(keys(&store, b"\xff"), [b"\xff\x00"]);
    assert_eq!(keys(&store, b"nothing"), Vec::<Vec<u8>>::new());
    // A new record is newer than every one before the reopening.
    store.put(b"a", b"new").unwrap();
    let newest = store.scan(b"").iter().map(|(_, entry)| entry.seq).max();
    assert_eq!(store.scan(b"a")[0].1.seq, newest.unwrap());
}

#[derive(Clone, Debug)]
enum Op {
    Put(u8, usize),
    Del(u8),
    Compact(bool),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    // Around every boundary of a page: the footer has 64 bytes, these keys have 5.
    let len = prop_oneof![
        0..3_usize,
        4020..4100_usize,
        8110..8200_usize,
        0..40_000_usize
    ];
    prop_oneof![
        5 => (0..12_u8, len).prop_map(|(key, len)| Op::Put(key, len)),
        3 => (0..12_u8).prop_map(Op::Del),
        1 => any::<bool>().prop_map(Op::Compact),
        1 => Just(Op::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// The naive twin: a map in memory, and the pages that its records need.
    #[test]
    fn it_does_what_a_map_does(ops in prop::collection::vec(op(), 1..60)) {
        let (_folder, path) = folder();
        let mut store = create(&path, 400);
        let mut twin: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for (i, op) in ops.into_iter().enumerate() {
            let name = |key: u8| format!("key{key:02}").into_bytes();
            match op {
                Op::Put(key, len) => {
                    let value = value(i as u64, len);
                    let replaced = store.put(&name(key), &value).unwrap();
                    prop_assert_eq!(replaced, twin.insert(name(key), value).is_some());
                }
                Op::Del(key) => {
                    prop_assert_eq!(store.del(&name(key)).unwrap(), twin.remove(&name(key)).is_some());
                }
                Op::Compact(pack) => {
                    let effort = if pack { Effort::Pack } else { Effort::Fit };
                    let done = store.compact(effort, || true).unwrap();
                    prop_assert_eq!(done.skipped, 0);
                    let usage = store.stat().unwrap().usage;
                    if pack {
                        prop_assert_eq!(usage.free, 0, "there are no holes in a packed file");
                    }
                }
                Op::Reopen => {
                    store.close();
                    store = open(&path);
                    prop_assert_eq!(store.problems(), []);
                }
            }
            // Exact accounting: what is used is what the records need, and the rest is free.
            let stat = store.stat().unwrap();
            let used: u64 = twin.iter().map(|(k, v)| pages_for(k.len(), v.len() as u64)).sum();
            let first = Geometry { capacity: 400 }.first();
            prop_assert_eq!(stat.usage.used, used);
            prop_assert_eq!(stat.usage.file, first + used + stat.usage.free);
            prop_assert_eq!(fs::metadata(&path).unwrap().len(), stat.usage.file * PAGE);
            prop_assert_eq!(stat.records, twin.len() as u64);
            let found = store.scan(b"");
            prop_assert!(found.iter().map(|(key, _)| &**key).eq(twin.keys().map(|key| &key[..])));
            for (key, expected) in &twin {
                let found = store.get(key).unwrap().unwrap();
                prop_assert_eq!(found.verify(), Ok(()));
                prop_assert!(*found == expected[..]);
            }
        }
    }
}
