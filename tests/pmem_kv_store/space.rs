//! Space: where it goes, and that it comes back.

use super::*;

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

fn take(slots: &mut Slots, n: usize) -> Vec<u64> {
    (0..n).map_while(|_| slots.take()).collect()
}

#[test]
fn the_lowest_empty_directory_entry_is_taken_first() {
    for used in [&[][..], &[0], &[19], &[0, 1, 5, 18, 19], &[3, 4, 5]] {
        let mut slots = Slots::new(used, 20);
        let empty: Vec<u64> = (0..20).filter(|slot| !used.contains(slot)).collect();
        assert_eq!(take(&mut slots, empty.len() + 1), empty);
        for slot in [7, 19, 8, 0] {
            slots.give(slot);
        }
        assert_eq!(take(&mut slots, 2), [0, 7]);
        slots.give(7);
        assert_eq!(take(&mut slots, 9), [7, 8, 19]);
    }
}

/// The numbers of all empty entries before the last used one were kept: of a pool of 16 TiB with an entry at the end,
/// which a damaged or a hostile file has, some 40 GiB of them.
#[test]
fn a_used_entry_at_the_end_of_the_largest_directory_needs_no_memory() {
    let len = MAX_CAPACITY;
    let mut slots = Slots::new(&[0, len - 1], len);
    assert_eq!(slots.take(), Some(1));
    let mut slots = Slots::new(&[len - 1], len);
    assert_eq!(slots.take(), Some(0));
}
