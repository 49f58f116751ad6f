//! What is flushed, and when.

use super::*;

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
    flushes.lock().allowed = vec![BTreeMap::new()];
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

/// What is done to a pool on media of an ordinary file.
#[derive(Debug, Default)]
struct Watched {
    media: FileMedia,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Media for Watched {
    fn kind(&self) -> &'static str {
        self.media.kind()
    }

    fn forgets(&self) -> bool {
        self.media.forgets()
    }

    fn flush(&self, dirty: &Dirty<'_>) -> io::Result<()> {
        self.seen.lock().push(format!("flush {:?}", dirty.bytes()));
        self.media.flush(dirty)
    }

    fn fence(&self, file: &File) -> io::Result<()> {
        self.seen.lock().push("fence".to_owned());
        self.media.fence(file)
    }

    fn saw(&self, event: Event<'_>) {
        if let Event::Store { at, bytes } = event {
            let entry = u64::from_le_bytes(bytes.try_into().unwrap());
            self.seen.lock().push(format!("store {at}: {entry}"));
        }
    }
}

/// What the process before has stored and not brought to the file goes there before anything else: each page of the
/// directory, since the kernel calls those clean that it failed to write.
#[test]
fn a_pool_that_is_opened_for_writing_has_its_directory_written_first() {
    let (_folder, path) = folder();
    let store = create(&path, 1100);
    store.put(b"key", b"value").unwrap();
    let entry = store.guard().map().load(0).unwrap();
    store.close();
    let watched = Watched::default();
    let seen = Arc::clone(&watched.seen);
    let store = Store::open(&path, Access::Write, Some(Box::new(watched))).unwrap();
    let first = format!("store 8192: {entry}");
    let expected = [
        &first,
        "store 12288: 0",
        "store 16384: 0",
        "flush 8192..20480",
        "fence",
    ];
    assert_eq!(*seen.lock(), expected);
    store.close();
    let watched = Watched::default();
    let seen = Arc::clone(&watched.seen);
    Store::open(&path, Access::Read, Some(Box::new(watched)))
        .unwrap()
        .close();
    assert_eq!(*seen.lock(), [""; 0]);
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

/// Lets somebody through whose sync goes on until so many more have `come`, and ends with `end`; by then it has begun.
fn first(
    syncs: &Arc<Syncs>,
    come: u64,
    end: impl Fn() -> io::Result<()> + Send + 'static,
) -> thread::JoinHandle<io::Result<()>> {
    let (begun, has_begun) = channel();
    let syncs = Arc::clone(syncs);
    let first = thread::spawn(move || {
        syncs.through(|| {
            begun.send(()).unwrap();
            while syncs.come() < 1 + come {
                thread::yield_now();
            }
            end()
        })
    });
    has_begun.recv().unwrap();
    first
}

/// The kernel tells of pages that it could not write once. Of two threads in `fdatasync` one was told, and the other
/// one acknowledged a put whose pages may have been among them.
#[test]
fn a_flush_that_fails_fails_for_everybody_who_came_during_it() {
    let syncs = Arc::new(Syncs::default());
    let first = first(&syncs, 2, || Err(io::Error::from_raw_os_error(5)));
    let during = [(); 2].map(|()| {
        let syncs = Arc::clone(&syncs);
        // By the time that it asks by itself, the kernel has nothing to tell any more.
        thread::spawn(move || syncs.through(|| Ok(())))
    });
    assert_eq!(first.join().unwrap().unwrap_err().raw_os_error(), Some(5));
    for thread in during {
        thread.join().unwrap().unwrap_err();
    }
    syncs.through(|| Ok(())).unwrap_err();
}

#[test]
fn whoever_comes_during_a_flush_is_served_by_one_that_begins_later_and_several_by_one() {
    let syncs = Arc::new(Syncs::default());
    let first = first(&syncs, 3, || Ok(()));
    let later = Arc::new(AtomicU64::new(0));
    let during = [(); 3].map(|()| {
        let (syncs, later) = (Arc::clone(&syncs), Arc::clone(&later));
        thread::spawn(move || {
            syncs.through(|| {
                later.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
        })
    });
    first.join().unwrap().unwrap();
    for thread in during {
        thread.join().unwrap().unwrap();
    }
    assert_eq!(later.load(Ordering::Relaxed), 1);
}
