//! What a reader is lent, and who waits for whom.

use super::*;

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

/// Does something with the store in a thread; what comes of it.
fn meanwhile<T: Send + 'static>(
    store: &Arc<Store>,
    act: impl FnOnce(&Store) -> T + Send + 'static,
) -> Receiver<T> {
    let (tell, told) = channel();
    let store = Arc::clone(store);
    thread::spawn(move || tell.send(act(&store)));
    told
}

/// `wait`s for a break of pages that somebody with an out-of-date look-up has pinned; `get`, `scan` and
/// `stat` go on meanwhile, and it comes to its end when the pin is gone.
fn nobody_waits_for_who_waits(
    store: &Arc<Store>,
    stale: PageRange,
    keys: &[&'static [u8]],
    wait: impl FnOnce(&Store) + Send + 'static,
) {
    // Of free pages, so no entry names them: nobody gets such a pin from `get` for longer than a moment.
    let stale = Pool::pin(store.guard(), stale).unwrap();
    let waited = meanwhile(store, wait);
    while !stale.pin().is_breaking() {
        assert!(waited.try_recv().is_err(), "it has not waited");
        thread::yield_now();
    }
    for key in keys.iter().copied() {
        let got = meanwhile(store, move |store| store.get(key).unwrap().is_some());
        let got = got.recv_timeout(HANGS);
        assert_eq!(got, Ok(true), "{}", key.escape_ascii());
    }
    let seen = meanwhile(store, |store| {
        (store.scan(b"").len(), store.stat().unwrap().records)
    });
    let n = keys.len();
    assert_eq!(seen.recv_timeout(HANGS), Ok((n, n as u64)));
    assert!(waited.try_recv().is_err(), "it has not waited for the pin");
    drop(stale);
    waited.recv_timeout(HANGS).unwrap();
}

#[test]
fn get_goes_on_while_a_writer_waits_for_a_break() {
    let (_folder, path) = folder();
    let store = Arc::new(create(&path, 256));
    for key in [b"gone", b"key1", b"key2"] {
        store.put(key, &value(1, 9000)).unwrap();
    }
    let place = store.scan(b"gone")[0].1.extent;
    store.del(b"gone").unwrap();
    nobody_waits_for_who_waits(&store, place, &[b"key1", b"key2"], |store| {
        store.put(b"key1", &value(2, 9000)).unwrap();
    });
    assert_eq!(store.scan(b"key1")[0].1.extent, place);
    assert_eq!(&*store.get(b"key1").unwrap().unwrap(), value(2, 9000));
}

#[test]
fn get_goes_on_while_a_compaction_waits_for_the_place_it_moves_to() {
    let (_folder, path) = folder();
    let store = Arc::new(create(&path, 256));
    for key in [b"gone", b"key1", b"key2"] {
        store.put(key, &value(1, 9000)).unwrap();
    }
    let place = store.scan(b"gone")[0].1.extent;
    store.del(b"gone").unwrap();
    // It has the turns of the keys that it moves, which writers of these keys wait for.
    nobody_waits_for_who_waits(&store, place, &[b"key1", b"key2"], |store| {
        assert_eq!(store.compact(Effort::Fit, || true).unwrap().moved, 1);
    });
    assert_eq!(store.scan(b"key2")[0].1.extent, place);
}

#[test]
fn get_goes_on_while_a_compaction_waits_for_the_end_of_the_file() {
    let (_folder, path) = folder();
    let store = Arc::new(create(&path, 1024));
    for key in [b"key1", b"key2"] {
        store.put(key, &value(1, 9000)).unwrap();
    }
    let last = store.stat().unwrap().usage.file - 1;
    nobody_waits_for_who_waits(
        &store,
        range(last, last + 1),
        &[b"key1", b"key2"],
        |store| {
            assert!(store.compact(Effort::Fit, || true).unwrap().cut > 0);
        },
    );
    assert_eq!(store.stat().unwrap().usage.free, 0);
}

#[test]
fn who_holds_what_is_told_of_many_old_values_and_of_those_only() {
    let (_folder, path) = folder();
    let store = create(&path, 4096);
    let name = |i: u64| format!("key{i}").into_bytes();
    for i in 0..40 {
        store.put(&name(i), &value(i, 100 * i as usize)).unwrap();
    }
    let extent = |i| store.scan(&name(i))[0].1.extent;
    let old: Vec<_> = (0..40).map(extent).collect();
    let held: Vec<_> = (0..40).map(|i| store.get(&name(i)).unwrap()).collect();
    // A second reader of one of them, and one of a value that is not old.
    let again = store.get(&name(7)).unwrap();
    for i in (0..39).filter(|i| i % 2 == 1) {
        store.put(&name(i), b"new").unwrap();
    }
    let pinned = store.pinned().unwrap();
    let mut pages: Vec<_> = pinned.holders.iter().map(|h| h.range()).collect();
    pages.sort_unstable_by_key(|pages| pages.start());
    let mut expected: Vec<_> = (0..39).filter(|i| i % 2 == 1).map(|i| old[i]).collect();
    let odd: u64 = expected.iter().map(|pages| pages.len()).sum();
    expected.push(old[7]);
    expected.sort_unstable_by_key(|pages| pages.start());
    assert_eq!((pages, pinned.pages), (expected, odd));
    drop((held, again));
    let pinned = store.pinned().unwrap();
    assert_eq!((pinned.pages, pinned.holders.len()), (0, 0));
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
    let was_lively = || reads.load(Ordering::Relaxed) > 0 && store.breaks().frees.waited > 0;
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
                let (store, names, was_lively) = (&store, &names, &was_lively);
                scope.spawn(move || {
                    let mut round = 0_usize;
                    while round < 300 || !was_lively() {
                        // Once more from the middle: a reader may come late.
                        round = if round < 300 { round } else { 200 };
                        let name = &names[me * 4 + round % 4];
                        store
                            .put(name, &vec![round as u8; 4000 + round * 40])
                            .unwrap();
                        round += 1;
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
