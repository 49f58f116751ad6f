//! The store of `examples/pmem_kv`: what it promises, one test each.

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
use crate::store::format::{Geometry, MAX_KEY, PAGE, pages_for};
use crate::store::mapping::{Dirty, Mapped, NotPinned, Shape};
use crate::store::media::{FileMedia, Media, PmemMedia, VolatileMedia};
use crate::store::space::{Pool, Space, SpaceError};
use crate::store::transfer::{Device, Transfers};
use crate::store::{Access, BETWEEN, Store};

/// Long enough that somebody who does not wait has gone on by then.
const A_WHILE: Duration = Duration::from_millis(100);

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

fn keys(store: &Store, prefix: &[u8]) -> Vec<Vec<u8>> {
    store
        .scan(prefix)
        .into_iter()
        .map(|(key, _)| key.into_vec())
        .collect()
}

// ----------------------------------------------------------------------------- round trip, oracle

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

// --------------------------------------------------------------------------- what a reader is lent

/// Looks at `held`, whose key was put or deleted meanwhile: it is there, and its pages are nobody else's.
/// Then lets it go, and sees `pages` come back.
fn stays(store: &Store, held: store::Value, expected: &[u8], pages: u64) {
    assert!(held.is_wanted());
    held.verify().unwrap();
    assert_eq!(*held, *expected);
    let pinned = store.pinned().unwrap();
    assert_eq!((pinned.pages, pinned.holders.len()), (pages, 1));
    let here = Location::caller().file();
    assert_eq!(
        pinned.holders[0].location().file(),
        here,
        "where it was got"
    );
    let used = store.stat().unwrap().usage.used;
    drop(held);
    assert_eq!(store.reclaim().unwrap(), pages);
    assert_eq!(store.stat().unwrap().usage.used, used - pages);
    assert_eq!(store.pinned().unwrap().pages, 0);
    let frees = store.breaks().frees;
    assert_eq!(frees.waited, 1, "{frees:?}");
}

#[test]
fn an_overwrite_does_not_wait_for_the_readers_of_the_old_value() {
    let (_folder, path) = folder();
    let store = create(&path, 256);
    store.put(b"key", &value(1, 9000)).unwrap();
    let held = store.get(b"key").unwrap().unwrap();
    assert!(!held.is_wanted());
    // All of it in this thread, which would wait for itself.
    for seed in 2..5 {
        assert!(store.put(b"key", &value(seed, 9000)).unwrap());
        assert_eq!(&*store.get(b"key").unwrap().unwrap(), value(seed, 9000));
    }
    assert_eq!(store.stat().unwrap().usage.used, 3 + 3);
    stays(&store, held, &value(1, 9000), 3);
    assert_eq!(&*store.get(b"key").unwrap().unwrap(), value(4, 9000));
}

#[test]
fn a_deletion_does_not_wait_for_the_readers_either() {
    let (_folder, path) = folder();
    let store = create(&path, 256);
    store.put(b"key", &value(1, 9000)).unwrap();
    let held = store.get(b"key").unwrap().unwrap();
    assert!(store.del(b"key").unwrap());
    assert!(store.get(b"key").unwrap().is_none());
    stays(&store, held, &value(1, 9000), 3);
    assert_eq!(store.stat().unwrap().usage.used, 0);
}

#[test]
fn compaction_leaves_what_is_read_where_it_is_until_it_is_not() {
    let (_folder, path) = folder();
    let store = create(&path, 2048);
    store.put(b"first", &value(1, 300 * 4096)).unwrap();
    store.put(b"last", &value(2, 9000)).unwrap();
    store.del(b"first").unwrap();
    let long = fs::metadata(&path).unwrap().len();
    let held = store.get(b"last").unwrap().unwrap();
    let place = store.scan(b"last")[0].1.extent;
    let done = store.compact(Effort::Fit, || true).unwrap();
    assert_eq!(
        (done.moved, done.bytes, done.pinned.pages),
        (1, 3 * PAGE, 3)
    );
    assert!(store.scan(b"last")[0].1.extent.end() < place.start());
    // The file is cut off behind the pages that are read, no further.
    let cut = fs::metadata(&path).unwrap().len();
    assert_eq!(cut, place.end() * PAGE);
    stays(&store, held, &value(2, 9000), 3);
    let done = store.compact(Effort::Fit, || true).unwrap();
    assert_eq!((done.moved, done.pinned.pages), (0, 0));
    let short = fs::metadata(&path).unwrap().len();
    assert_eq!(short, (Geometry { capacity: 2048 }.first() + 3) * PAGE);
    assert_eq!(done.cut, (cut - short) / PAGE);
    assert!(short < cut && cut < long);
    assert_eq!(store.breaks().truncations.breaks, 2);
    assert_eq!(&*store.get(b"last").unwrap().unwrap(), value(2, 9000));
}

#[test]
fn a_pool_that_is_full_of_what_is_read_says_who_reads_it() {
    let (_folder, path) = folder();
    let store = create(&path, 16);
    store.put(b"key", &value(1, 40_000)).unwrap();
    let held = store.get(b"key").unwrap().unwrap();
    store.del(b"key").unwrap();
    let full = store.put(b"other", &value(2, 40_000)).unwrap_err();
    let StoreError::FullOfPinned {
        pages: 10,
        others: 0,
        ..
    } = &full
    else {
        panic!("{full}");
    };
    assert!(full.to_string().contains(file!()), "{full}");
    drop(held);
    store.put(b"other", &value(2, 40_000)).unwrap();
    assert_eq!(&*store.get(b"other").unwrap().unwrap(), value(2, 40_000));
}

/// After so many more fences one tells that it has begun, and waits for somebody.
type Wait = (u32, Sender<()>, Receiver<()>);

thread_local! {
    /// What the fences of this thread do.
    static SLOW: Cell<Option<Wait>> = const { Cell::new(None) };
}

/// Media on which a fence can take long.
#[derive(Debug)]
struct Slow;

impl Media for Slow {
    fn kind(&self) -> &'static str {
        "slow"
    }

    fn flush(&self, _: &Dirty<'_>) -> io::Result<()> {
        Ok(())
    }

    fn fence(&self, _: &File) -> io::Result<()> {
        match SLOW.take() {
            Some((0, begun, go_on)) => {
                begun.send(()).unwrap();
                go_on.recv().unwrap();
            }
            Some((n, begun, go_on)) => SLOW.set(Some((n - 1, begun, go_on))),
            None => {}
        }
        Ok(())
    }
}

#[test]
fn pages_are_not_free_before_every_earlier_change_is_on_the_media() {
    let (_folder, path) = folder();
    let store = Store::create(&path, 256 * PAGE, Some(Box::new(Slow))).unwrap();
    store.put(b"slow", &value(1, 9000)).unwrap();
    store.put(b"key", &value(2, 9000)).unwrap();
    let (go_on, wait) = channel();
    let (begun, has_begun) = channel();
    let all = &store;
    // It owns `go_on`, so that a failure here lets the thread go.
    thread::scope(move |scope| {
        let store = all;
        scope.spawn(move || {
            // The second fence is that of the directory entry.
            SLOW.set(Some((1, begun, wait)));
            store.put(b"slow", &value(3, 9000)).unwrap();
        });
        has_begun.recv().unwrap();
        // Later in the log, and done before.
        store.put(b"key", &value(4, 9000)).unwrap();
        assert_eq!(store.reclaim().unwrap(), 0);
        assert_eq!(store.stat().unwrap().usage.used, 4 * 3);
        let pinned = store.pinned().unwrap();
        assert_eq!((pinned.pages, pinned.holders.len()), (0, 0));
        go_on.send(()).unwrap();
    });
    store.reclaim().unwrap();
    assert_eq!(store.stat().unwrap().usage.used, 2 * 3);
}

/// Reads `key` of a pool that holds it and `act`s between the look-up and the pin.
fn read_with(store: &Arc<Store>, act: impl FnOnce(&Store) + 'static) -> Option<Vec<u8>> {
    let for_act = Arc::clone(store);
    BETWEEN.set(Some(Box::new(move || act(&for_act))));
    let found = store.get(b"key").unwrap().map(|value| value.to_vec());
    assert_eq!(store.breaks().retries, 1);
    found
}

#[test]
fn a_look_up_whose_pages_are_somebody_elses_by_now_is_made_again() {
    let (_folder, path) = folder();
    let store = Arc::new(create(&path, 256));
    store.put(b"key", &value(1, 9000)).unwrap();
    let found = read_with(&store, |store| {
        let place = store.scan(b"key")[0].1.extent;
        store.put(b"key", &value(2, 9000)).unwrap();
        store.put(b"other", &value(3, 9000)).unwrap();
        assert_eq!(store.scan(b"other")[0].1.extent, place);
    });
    assert_eq!(found.unwrap(), value(2, 9000));
}

#[test]
fn a_look_up_whose_pages_are_cut_off_by_now_is_made_again() {
    let (_folder, path) = folder();
    let store = Arc::new(create(&path, 256));
    store.put(b"key", &value(1, 9000)).unwrap();
    let found = read_with(&store, |store| {
        store.del(b"key").unwrap();
        store.compact(Effort::Fit, || true).unwrap();
        assert_eq!(store.stat().unwrap().usage.free, 0);
    });
    assert_eq!(found, None);
}

#[test]
fn a_look_up_whose_pages_are_closed_by_now_is_made_again_and_does_not_wait() {
    let (_folder, path) = folder();
    let store = Arc::new(create(&path, 256));
    store.put(b"key", &value(1, 9000)).unwrap();
    let held = store.get(b"key").unwrap().unwrap();
    let found = read_with(&store, |store| {
        // The old pages are closed, and stay so while they are read.
        store.put(b"key", &value(2, 9000)).unwrap();
        assert_eq!(store.pinned().unwrap().pages, 3);
    });
    assert_eq!(found.unwrap(), value(2, 9000));
    assert_eq!(&*held, value(1, 9000));
}

#[test]
fn a_value_outlives_its_store_and_keeps_the_pool_locked() {
    let (_folder, path) = folder();
    let store = create(&path, 64);
    store.put(b"key", &value(3, 5000)).unwrap();
    let held = store.get(b"key").unwrap().unwrap();
    drop(store);
    let again = Store::open(&path, Access::Write, None);
    assert!(matches!(again, Err(StoreError::InUse { .. })), "{again:?}");
    let bytes = thread::spawn(move || held.to_vec()).join().unwrap();
    assert_eq!(bytes, value(3, 5000));
    assert_eq!(&*open(&path).get(b"key").unwrap().unwrap(), value(3, 5000));
}

#[test]
fn close_waits_for_the_last_value() {
    let (_folder, path) = folder();
    let store = create(&path, 64);
    store.put(b"key", b"value").unwrap();
    let held = store.get(b"key").unwrap().unwrap();
    let (sender, receiver) = channel();
    let closing = thread::spawn(move || {
        store.close();
        sender.send(()).unwrap();
    });
    assert!(receiver.recv_timeout(A_WHILE).is_err());
    drop(held);
    receiver.recv().unwrap();
    closing.join().unwrap();
    open(&path);
}

#[test]
fn many_threads_see_whole_values_only() {
    let (_folder, path) = folder();
    let store = create(&path, 1024);
    let names: Vec<Vec<u8>> = (0..8).map(|i| format!("key{i}").into_bytes()).collect();
    for name in &names {
        store.put(name, &[0; 6000]).unwrap();
    }
    let (done, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut held = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    for name in &names {
                        let value = store.get(name).unwrap().unwrap();
                        value.verify().unwrap();
                        assert!(value.iter().all(|byte| *byte == value[0]));
                        held.push((value[0], value));
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                    for (byte, value) in held.drain(..) {
                        assert!(value.iter().all(|found| *found == byte));
                    }
                }
            });
        }
        let writers: Vec<_> = (0..2_usize)
            .map(|me| {
                let (store, names) = (&store, &names);
                scope.spawn(move || {
                    for round in 0..300_usize {
                        let name = &names[me * 4 + round % 4];
                        store
                            .put(name, &vec![round as u8; 4000 + round * 40])
                            .unwrap();
                    }
                })
            })
            .collect();
        while !writers.iter().all(|writer| writer.is_finished()) {
            store.compact(Effort::Pack, || true).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    let breaks = store.breaks();
    println!("{} reads, {breaks:?}", reads.load(Ordering::Relaxed));
    assert!(reads.load(Ordering::Relaxed) > 0 && breaks.frees.waited > 0);
    store.compact(Effort::Pack, || true).unwrap();
    let used: u64 = store
        .scan(b"")
        .iter()
        .map(|(_, entry)| entry.extent.len())
        .sum();
    assert_eq!(store.stat().unwrap().usage.used, used);
    // What was moved while it was overwritten is not what was overwritten.
    store.close();
    let store = open(&path);
    assert_eq!(store.problems(), []);
    for (i, name) in names.iter().enumerate() {
        let last = 296 + i % 4;
        assert_eq!(
            &*store.get(name).unwrap().unwrap(),
            vec![last as u8; 4000 + last * 40]
        );
    }
}

// ------------------------------------------------------------------------------------------ space

#[test]
fn freed_pages_go_back_to_the_file_system() {
    let (_folder, path) = folder();
    let store = create(&path, 4096);
    let blocks = || fs::metadata(&path).unwrap().blocks() * 512;
    let empty = blocks();
    store.put(b"hole", &value(1, 4 << 20)).unwrap();
    store.put(b"wall", b"behind it").unwrap();
    assert!(blocks() >= empty + (4 << 20));
    let len = fs::metadata(&path).unwrap().len();
    store.del(b"hole").unwrap();
    if store.stat().unwrap().unpunched > 0 {
        println!(
            "SKIPPED: the file system of {} punches no holes",
            path.display()
        );
        return;
    }
    // The length is the same, the blocks are gone.
    assert_eq!(fs::metadata(&path).unwrap().len(), len);
    assert!(blocks() < empty + (1 << 20), "{} of {empty}", blocks());
    assert_eq!(store.stat().unwrap().allocated, blocks());
    let done = store.compact(Effort::Fit, || true).unwrap();
    assert!(done.cut >= 1024, "{done:?}");
    assert!(fs::metadata(&path).unwrap().len() <= len - (4 << 20));
}

#[test]
fn a_file_system_that_punches_no_holes_is_told_and_the_space_is_used_again() {
    let (_folder, path) = folder();
    let store = create(&path, 64);
    store.put(b"key", b"value").unwrap();
    store.close();
    // A file in memory that may not be written to but through the mapping there is: no holes, then.
    let memory = memfd_create("pool", MemfdFlags::ALLOW_SEALING).unwrap();
    let memory = File::from(memory);
    memory.write_all_at(&fs::read(&path).unwrap(), 0).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd()));
    let store = open(&path);
    fcntl_add_seals(&memory, SealFlags::FUTURE_WRITE).unwrap();
    store.put(b"key", &value(1, 10_000)).unwrap();
    assert_eq!(store.stat().unwrap().unpunched, 1);
    store.del(b"key").unwrap();
    let stat = store.stat().unwrap();
    assert_eq!((stat.unpunched, stat.usage.used), (4, 0));
    store.put(b"again", &value(2, 10_000)).unwrap();
    assert_eq!(&*store.get(b"again").unwrap().unwrap(), value(2, 10_000));
}

#[test]
fn packing_closes_holes_that_are_too_small_for_what_is_behind_them() {
    let (_folder, path) = folder();
    let store = create(&path, 256);
    for i in 0..4 {
        store
            .put(format!("small{i}").as_bytes(), &value(i, 4096 * 2))
            .unwrap();
        store
            .put(format!("large{i}").as_bytes(), &value(i, 4096 * 10))
            .unwrap();
    }
    for i in 0..4 {
        store.del(format!("small{i}").as_bytes()).unwrap();
    }
    let fit = store.compact(Effort::Fit, || true).unwrap();
    assert_eq!(fit.moved, 0, "nothing fits: {fit:?}");
    assert!(store.stat().unwrap().usage.free > 0);
    let pack = store.compact(Effort::Pack, || true).unwrap();
    assert!(pack.moved > 0 && pack.cut > 0, "{pack:?}");
    let usage = store.stat().unwrap().usage;
    assert_eq!((usage.used, usage.free), (4 * 11, 0));
    for i in 0..4 {
        let key = format!("large{i}");
        assert_eq!(
            &*store.get(key.as_bytes()).unwrap().unwrap(),
            value(i, 4096 * 10)
        );
    }
}

#[test]
fn a_full_pool_says_so_and_loses_nothing() {
    let (_folder, path) = folder();
    let store = create(&path, 32);
    let room = 32 - Geometry { capacity: 32 }.first();
    for i in 0..room {
        store
            .put(format!("{i}").as_bytes(), &value(i, 1000))
            .unwrap();
    }
    let before = fs::read(&path).unwrap();
    for key in [&b"new"[..], b"3"] {
        match store.put(key, b"more") {
            Err(StoreError::Space(SpaceError::Full {
                needed: 1,
                free: 0,
                largest: 0,
                capacity: 32,
            })) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(before, fs::read(&path).unwrap());
    for i in 0..room {
        let found = store.get(format!("{i}").as_bytes()).unwrap().unwrap();
        assert_eq!(&*found, value(i, 1000));
    }
    // There is free space, but not in one piece.
    store.del(b"3").unwrap();
    store.del(b"5").unwrap();
    match store.put(b"large", &value(0, 8000)) {
        Err(StoreError::Space(SpaceError::Full {
            needed: 2,
            free: 2,
            largest: 1,
            ..
        })) => {}
        other => panic!("{other:?}"),
    }
    store.compact(Effort::Fit, || true).unwrap();
    store.put(b"large", &value(0, 8000)).unwrap();
    // The directory entry that was taken for what failed was given back: the lowest empty one is the
    // one that `3` had.
    assert_eq!(store.scan(b"large")[0].1.slot, 3);
    store.close();
    let store = open(&path);
    assert_eq!(store.problems(), []);
    assert_eq!(store.scan(b"").len() as u64, room - 1);
    let slots: Vec<u64> = store
        .scan(b"")
        .iter()
        .map(|(_, entry)| entry.slot)
        .collect();
    assert!(slots.iter().all(|slot| *slot < room), "{slots:?}");
}

#[test]
fn keys_and_values_that_are_too_long_are_refused() {
    let (_folder, path) = folder();
    let store = create(&path, 32);
    for found in [0, MAX_KEY + 1] {
        let key = vec![b'k'; found];
        let put = store.put(&key, b"value");
        assert!(
            matches!(put, Err(StoreError::KeyLength { found: f }) if f == found),
            "{put:?}"
        );
        assert!(matches!(store.del(&key), Err(StoreError::KeyLength { .. })));
        assert!(store.get(&key).unwrap().is_none());
    }
    store.put(&[b'k'; MAX_KEY], b"value").unwrap();
    store.del(&[b'k'; MAX_KEY]).unwrap();
    let max = Geometry { capacity: 32 }.max_value();
    let put = store.put(b"k", &vec![1; max as usize + 1]);
    match put {
        Err(StoreError::ValueLength { found, max: m }) => assert_eq!((found, m), (max + 1, max)),
        other => panic!("{other:?}"),
    }
    store.put(b"k", &vec![1; max as usize]).unwrap();
    assert_eq!(store.get(b"k").unwrap().unwrap().len() as u64, max);
    let large = Geometry { capacity: 1 << 30 };
    assert_eq!(large.max_value(), 256 << 20);
}

// ------------------------------------------------------------------------------------------- doors

#[test]
fn a_second_writer_is_refused_and_readers_may_be_several() {
    let (_folder, path) = folder();
    let store = create(&path, 32);
    store.put(b"key", b"value").unwrap();
    for access in [Access::Write, Access::Read] {
        let second = Store::open(&path, access, None);
        assert!(
            matches!(second, Err(StoreError::InUse { .. })),
            "{second:?}"
        );
    }
    let second = Store::create(&path, 32 * PAGE, None);
    assert!(
        matches!(second, Err(StoreError::Exists { .. })),
        "{second:?}"
    );
    store.close();
    let one = Store::open(&path, Access::Read, None).unwrap();
    let two = Store::open(&path, Access::Read, None).unwrap();
    assert_eq!(&*one.get(b"key").unwrap().unwrap(), b"value");
    assert_eq!(&*two.get(b"key").unwrap().unwrap(), b"value");
    let writer = Store::open(&path, Access::Write, None);
    assert!(
        matches!(writer, Err(StoreError::InUse { .. })),
        "{writer:?}"
    );
}

#[test]
fn a_pool_opened_for_reading_is_not_changed() {
    let (_folder, path) = folder();
    let store = create(&path, 64);
    store.put(b"key", b"value").unwrap();
    store.put(b"gone", b"value").unwrap();
    store.del(b"gone").unwrap();
    store.close();
    let before = fs::read(&path).unwrap();
    let store = Store::open(&path, Access::Read, None).unwrap();
    assert!(matches!(store.put(b"key", b"v"), Err(StoreError::ReadOnly)));
    assert!(matches!(store.del(b"key"), Err(StoreError::ReadOnly)));
    let compacted = store.compact(Effort::Pack, || true);
    assert!(matches!(compacted, Err(StoreError::ReadOnly)));
    assert_eq!(&*store.get(b"key").unwrap().unwrap(), b"value");
    store.close();
    assert_eq!(before, fs::read(&path).unwrap());
}

#[test]
fn there_is_no_pool_of_no_pages() {
    let (_folder, path) = folder();
    for bytes in [0, 15 * PAGE, u64::MAX] {
        let made = Store::create(&path, bytes, None);
        assert!(
            matches!(made, Err(StoreError::Capacity { found }) if found == bytes),
            "{made:?}"
        );
    }
    assert!(!path.exists());
    let open = Store::open(&path, Access::Write, None);
    assert!(matches!(open, Err(StoreError::NoPool { .. })), "{open:?}");
}

// --------------------------------------------------------------------------------------- transfers

/// Both devices, if this machine has both.
fn devices(store: &Store, act: impl Fn(Transfers<'_>)) {
    act(Transfers::new(store, Device::Thread).unwrap());
    match Transfers::new(store, Device::Uring) {
        Ok(transfers) => act(transfers),
        Err(e) => println!("SKIPPED: no io_uring: {e}"),
    }
}

#[test]
fn an_export_is_of_the_value_as_it_was_whatever_happens_meanwhile() {
    let (folder, path) = folder();
    let store = create(&path, 4096);
    let file = |i: u64| folder.path().join(format!("file{i}"));
    devices(&store, |mut transfers| {
        let mut values = Vec::new();
        for i in 0..8 {
            values.push(value(i, 100_000 + 511 * i as usize));
            store
                .put(format!("{i}").as_bytes(), &values[i as usize])
                .unwrap();
        }
        for i in 0..8 {
            assert!(
                transfers
                    .export(i, format!("{i}").as_bytes(), &file(i))
                    .unwrap()
            );
            // Its pin is in the operation: while that is under way nobody gets the pages.
            store
                .put(format!("{i}").as_bytes(), &value(99, 200_000))
                .unwrap();
        }
        for i in 0..8 {
            store.del(format!("{i}").as_bytes()).unwrap();
        }
        let pinned = store.pinned().unwrap();
        let expected = if transfers.is_async() { 8 } else { 0 };
        assert_eq!(pinned.holders.len(), expected, "{pinned:?}");
        store.compact(Effort::Pack, || true).unwrap();
        store.put(b"new", &value(98, 300_000)).unwrap();
        while let Some(done) = transfers.next().unwrap() {
            assert_eq!(
                done.outcome.unwrap(),
                values[done.tag as usize].len() as u64
            );
        }
        for i in 0..8 {
            assert!(fs::read(file(i)).unwrap() == values[i as usize], "{i}");
        }
        store.del(b"new").unwrap();
        assert_eq!(store.pinned().unwrap().pages, 0);
        assert_eq!(store.stat().unwrap().usage.used, 0);
        assert!(!transfers.export(0, b"new", &file(0)).unwrap());
    });
    store.close();
}

#[test]
fn an_import_is_there_wholly_or_not_at_all() {
    let (folder, path) = folder();
    let store = create(&path, 256);
    let file = folder.path().join("file");
    devices(&store, |mut transfers| {
        for (i, len) in [0, 1, 4095, 4096, 4097, 60_000].into_iter().enumerate() {
            fs::write(&file, value(7, len)).unwrap();
            let name = format!("import{i}");
            transfers.import(i as u64, &file, name.as_bytes()).unwrap();
            if transfers.is_async() && len > 0 {
                assert!(store.get(name.as_bytes()).unwrap().is_none(), "not yet");
            }
            let done = transfers.next().unwrap().unwrap();
            assert_eq!((done.tag, done.outcome.unwrap()), (i as u64, len as u64));
            let found = store.get(name.as_bytes()).unwrap().unwrap();
            assert_eq!((found.verify(), &*found), (Ok(()), &value(7, len)[..]));
            drop(found);
            store.del(name.as_bytes()).unwrap();
        }
        fs::write(&file, value(7, 2 << 20)).unwrap();
        let large = transfers.import(0, &file, b"large");
        assert!(
            matches!(large, Err(StoreError::ValueLength { .. })),
            "{large:?}"
        );
        // Nobody waits for this one: it is waited for, and not there.
        fs::write(&file, value(7, 100_000)).unwrap();
        transfers.import(0, &file, b"left").unwrap();
        transfers.export(1, b"left", &file).unwrap();
        let ended = !transfers.is_async();
        drop(transfers);
        assert_eq!(store.get(b"left").unwrap().is_some(), ended);
        let _ = store.del(b"left").unwrap();
        assert_eq!(store.stat().unwrap().usage.used, 0);
    });
    store.close();
    let store = open(&path);
    assert_eq!((store.problems(), keys(&store, b"").len()), (&[][..], 0));
}

// -------------------------------------------------------------------------------------- durability

/// Media whose power fails. What was flushed is copied to an image; what was not is lost with it.
#[derive(Debug)]
struct Image {
    image: PathBuf,
    fail: Arc<AtomicBool>,
    flushes: Arc<Mutex<Flushes>>,
}

#[derive(Debug, Default)]
struct Flushes {
    count: u64,
    /// Flushed, and not fenced yet.
    pending: Vec<std::ops::Range<u64>>,
    /// Which of these the image has to be like, at any time.
    allowed: Vec<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Media for Image {
    fn kind(&self) -> &'static str {
        "image"
    }

    fn flush(&self, dirty: &Dirty<'_>) -> io::Result<()> {
        self.flushes.lock().pending.push(dirty.bytes());
        Ok(())
    }

    fn fence(&self, source: &File) -> io::Result<()> {
        if self.fail.load(Ordering::Relaxed) {
            return Err(io::Error::other("the power has failed"));
        }
        let image = fs::OpenOptions::new().write(true).open(&self.image)?;
        image.set_len(source.metadata()?.len())?;
        // Nothing but the bytes that were asked for: a store that was not flushed is not there.
        for bytes in std::mem::take(&mut self.flushes.lock().pending) {
            let mut flushed = vec![0; (bytes.end - bytes.start) as usize];
            source.read_exact_at(&mut flushed, bytes.start)?;
            image.write_all_at(&flushed, bytes.start)?;
        }
        let mut flushes = self.flushes.lock();
        flushes.count += 1;
        let store = Store::open(&self.image, Access::Read, volatile()).unwrap();
        assert_eq!(store.problems(), [], "after {} flushes", flushes.count);
        let mut found = BTreeMap::new();
        for (key, _) in store.scan(b"") {
            let value = store.get(&key).unwrap().unwrap().to_vec();
            found.insert(key.into_vec(), value);
        }
        assert!(
            flushes.allowed.contains(&found),
            "after {} flushes there are {} keys, and neither the old nor the new state",
            flushes.count,
            found.len()
        );
        Ok(())
    }
}

/// After each flush, what has been flushed so far is a sound pool, with everything that was
/// acknowledged, and whatever was not, whole or not at all.
#[test]
fn what_is_flushed_is_always_a_sound_pool() {
    let (folder, path) = folder();
    let image = folder.path().join("image.pool");
    drop(create(&path, 256));
    fs::copy(&path, &image).unwrap();
    let flushes = Arc::new(Mutex::new(Flushes::default()));
    let media = Image {
        image: image.clone(),
        fail: Arc::default(),
        flushes: Arc::clone(&flushes),
    };
    let store = Store::open(&path, Access::Write, Some(Box::new(media))).unwrap();
    let mut now = BTreeMap::new();
    for i in 0..60_u64 {
        let key = format!("key{}", i * 7 % 9).into_bytes();
        let mut next = now.clone();
        if i % 4 == 3 {
            next.remove(&key);
            flushes.lock().allowed = vec![now, next.clone()];
            store.del(&key).unwrap();
        } else {
            let value = value(i, i as usize * 300);
            next.insert(key.clone(), value.clone());
            flushes.lock().allowed = vec![now, next.clone()];
            store.put(&key, &value).unwrap();
        }
        // Acknowledged: from here on nothing else will do.
        flushes.lock().allowed = vec![next.clone()];
        if i % 10 == 9 {
            store.compact(Effort::Pack, || true).unwrap();
        }
        let durable = Store::open(&image, Access::Read, volatile()).unwrap();
        assert_eq!(
            durable.scan(b"").len(),
            next.len(),
            "acknowledged, but not flushed"
        );
        for (key, value) in &next {
            assert_eq!(&*durable.get(key).unwrap().unwrap(), &value[..]);
        }
        now = next;
    }
    let count = flushes.lock().count;
    println!("{count} states of the media were sound");
    assert!(count > 100);
}

/// The processor's part of `pmem` media, on a file that need not be on persistent memory for it.
#[derive(Debug)]
struct Lines(PmemMedia);

impl Media for Lines {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    fn flush(&self, dirty: &Dirty<'_>) -> io::Result<()> {
        self.0.flush(dirty)
    }

    fn fence(&self, file: &File) -> io::Result<()> {
        self.0.fence(file)
    }
}

#[test]
fn pmem_is_refused_without_dax_and_its_instructions_work_anywhere() {
    let (_folder, path) = folder();
    let Some(pmem) = PmemMedia::new() else {
        println!("SKIPPED: this processor has no clwb, clflushopt or dc cvap");
        return;
    };
    let store = Store::create(&path, 256 * PAGE, Some(Box::new(Lines(pmem)))).unwrap();
    assert!(store.stat().unwrap().media.starts_with("pmem (MAP_SYNC, "));
    for i in 0..40 {
        store.put(b"key", &value(i, i as usize * 997)).unwrap();
    }
    store.compact(Effort::Pack, || true).unwrap();
    store.close();
    assert_eq!(
        &*open(&path).get(b"key").unwrap().unwrap(),
        value(39, 39 * 997)
    );
    // In memory, so surely without DAX.
    let memory = File::from(memfd_create("pool", MemfdFlags::empty()).unwrap());
    memory.write_all_at(&fs::read(&path).unwrap(), 0).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd()));
    let pmem = || PmemMedia::new().map(|pmem| Box::new(pmem) as Box<dyn Media>);
    let refused = Store::open(&path, Access::Write, pmem());
    assert!(
        matches!(refused, Err(StoreError::NoDax { .. })),
        "{refused:?}"
    );
    let auto = Store::open(&path, Access::Write, None).unwrap();
    assert!(auto.stat().unwrap().media.starts_with("volatile"));
}

#[test]
fn after_a_failed_flush_nothing_more_is_written() {
    let (folder, path) = folder();
    let image = folder.path().join("image.pool");
    drop(create(&path, 256));
    fs::copy(&path, &image).unwrap();
    let fail = Arc::new(AtomicBool::new(false));
    let flushes = Arc::new(Mutex::new(Flushes::default()));
    let old = BTreeMap::from([(b"key".to_vec(), b"old".to_vec())]);
    flushes.lock().allowed = vec![BTreeMap::new(), old];
    let media = Image {
        image,
        fail: Arc::clone(&fail),
        flushes,
    };
    let store = Store::open(&path, Access::Write, Some(Box::new(media))).unwrap();
    store.put(b"key", b"old").unwrap();
    fail.store(true, Ordering::Relaxed);
    let put = store.put(b"key", b"new");
    assert!(matches!(put, Err(StoreError::Io { .. })), "{put:?}");
    // The flush could succeed now, but nobody knows what the one before has left on the media.
    fail.store(false, Ordering::Relaxed);
    assert!(matches!(store.put(b"key", b"new"), Err(StoreError::Broken)));
    assert!(matches!(store.del(b"key"), Err(StoreError::Broken)));
    let compacted = store.compact(Effort::Fit, || true);
    assert!(
        matches!(compacted, Err(StoreError::Broken)),
        "{compacted:?}"
    );
    assert_eq!(&*store.get(b"key").unwrap().unwrap(), b"old");
    // Either record may be the one that the media names, so the pages of neither are free.
    assert_eq!(store.stat().unwrap().usage.used, 2);
    drop(store);
    assert_eq!(&*open(&path).get(b"key").unwrap().unwrap(), b"old");
}

// ------------------------------------------------------------------- the floor: media and block map

fn pool(path: &Path, pages: u64) -> LayoutGuard<Pool> {
    let geometry = Geometry { capacity: 64 };
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .unwrap();
    file.set_len(pages * PAGE).unwrap();
    let shape = Shape {
        capacity: 64,
        floor: geometry.first(),
        writable: true,
    };
    let media = Box::new(FileMedia);
    LayoutGuard::new(Mapped::new(file, media, shape, |n| Space::new(geometry, n)).unwrap())
}

fn range(start: u64, end: u64) -> PageRange {
    PageRange::new(start, end).unwrap()
}

#[test]
fn the_block_map_asks_the_proof() {
    let (folder, path) = folder();
    let ours = pool(&path, 32);
    let theirs = pool(&folder.path().join("other"), 32);
    let extent = ours.map().allocate(4).unwrap();
    let punch = |proof: &Drained<'_, Pool>| ours.map().punch_hole(extent, proof);

    let other = theirs.break_layouts(..).wait().unwrap();
    assert!(matches!(punch(&other), Err(OpError::WrongMapping)));
    let truncated = ours.map().truncate(32, &other);
    assert!(matches!(truncated, Err(OpError::WrongMapping)));
    let small = ours
        .break_layouts(range(extent.start(), extent.end() - 1))
        .wait()
        .unwrap();
    assert!(matches!(punch(&small), Err(OpError::NotCovered)));
    let truncated = ours.map().truncate(10, &small);
    assert!(matches!(truncated, Err(OpError::NotCovered)));
    drop(small);
    assert_eq!(ours.map().engine().usage().used, 4);
    let enough = ours.break_layouts(extent).wait().unwrap();
    assert_eq!(punch(&enough).unwrap(), 4);
    // A second time they are not in use any more, whoever has allocated them meanwhile.
    let again = punch(&enough);
    assert!(matches!(again, Err(OpError::Map(SpaceError::NotUsed { pages })) if pages == extent));
    assert_eq!(ours.map().engine().usage().free, 32 - 3);
}

#[test]
fn truncation_cuts_off_nothing_that_is_used() {
    let (_folder, path) = folder();
    let guard = pool(&path, 32);
    let low = guard.map().allocate(4).unwrap();
    let high = guard.map().allocate(4).unwrap();
    let cut = guard.truncate(high.end() - 1).wait();
    assert!(
        matches!(cut, Err(OpError::Map(SpaceError::TailUsed { .. }))),
        "{cut:?}"
    );
    assert_eq!(guard.truncate(high.end()).wait().unwrap(), 32 - high.end());
    assert_eq!(fs::metadata(&path).unwrap().len(), high.end() * PAGE);
    for pages in [0, 2, 65] {
        let cut = guard.truncate(pages).wait();
        assert!(
            matches!(cut, Err(OpError::Map(SpaceError::Length { .. }))),
            "{cut:?}"
        );
    }
    // Growing frees nothing, and the new pages can be had.
    assert_eq!(guard.truncate(20).wait().unwrap(), 0);
    assert_eq!(guard.map().engine().usage().free, 20 - high.end());
    // A tail that is set aside is nobody's, until it is cut off or put back.
    guard.punch_hole(low).wait().unwrap();
    let at = guard.map().set_tail_aside().unwrap();
    assert_eq!(at, high.end());
    assert_eq!(guard.map().allocate_below(5, u64::MAX), None);
    // Nor does the file grow meanwhile: the new pages would be part of the tail.
    thread::scope(|scope| {
        let (sender, receiver) = channel();
        let map = guard.map();
        scope.spawn(move || sender.send(map.allocate(20)).unwrap());
        assert!(
            receiver.recv_timeout(A_WHILE).is_err(),
            "it did not wait for the truncation"
        );
        guard.map().put_tail_back();
        assert_eq!(receiver.recv().unwrap().unwrap(), range(at, at + 20));
    });
}

#[test]
fn bytes_are_lent_for_pins_and_changed_for_proofs_only() {
    let (folder, path) = folder();
    let guard = pool(&path, 32);
    let other = pool(&folder.path().join("other"), 32);
    let map = guard.map();
    let fill = |proof, pages| Pool::fill(proof, pages).map(|mut filling| filling.fill(b'a'));
    let proof = |pages| guard.break_layouts(pages).wait().unwrap();
    let mut filling = Pool::fill(proof(range(5, 7)), range(5, 7)).unwrap();
    assert_eq!(filling.len(), 2 * PAGE as usize);
    filling[4090..4103].copy_from_slice(b"across a page");
    assert!(matches!(
        Pool::pin(&guard, range(6, 7)),
        Err(NotPinned::Refused(_))
    ));
    drop(filling);
    for pages in [range(4, 6), range(6, 8), range(8, 9)] {
        assert!(fill(proof(range(5, 7)), pages).is_err(), "{pages}");
    }
    let theirs = other.break_layouts(..).wait().unwrap();
    assert!(map.shrink(&theirs, 10).is_err() && map.punch(&theirs, range(5, 6)).is_err());
    drop(theirs);

    let lent = Pool::pin(&guard, range(5, 7)).unwrap();
    assert_eq!(&lent[4090..4103], b"across a page");
    assert_eq!(lent.len(), 2 * PAGE as usize);
    drop(lent);
    // Superblocks, directory, and what is behind the end of the file are not lent, nor written to.
    for pages in [
        range(0, 1),
        range(2, 4),
        range(31, 33),
        range(64, 65),
        range(1 << 60, 1 << 61),
    ] {
        let lent = Pool::pin(&guard, pages);
        assert!(matches!(lent, Err(NotPinned::Outside)), "{pages}: {lent:?}");
    }
    for pages in [range(0, 1), range(2, 4), range(31, 33), range(64, 65)] {
        let all = guard.break_layouts(..).wait().unwrap();
        assert!(fill(all, pages).is_err(), "{pages}");
    }
    let all = guard.break_layouts(..).wait().unwrap();
    assert!(map.shrink(&all, 2).is_err() && map.shrink(&all, 33).is_err());
    map.shrink(&all, 6).unwrap();
    drop(all);
    assert!(matches!(
        Pool::pin(&guard, range(5, 7)),
        Err(NotPinned::Outside)
    ));
    assert_eq!(&Pool::pin(&guard, range(5, 6)).unwrap()[4090..], b"across");
    assert!(map.load(64).is_none() && map.store(64, 1).is_err());
    assert!(map.grow(65).is_err() && map.flush(0..65 * PAGE).is_err());
}
