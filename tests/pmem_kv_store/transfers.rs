//! Values to files and back, by both devices.

use super::*;

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
