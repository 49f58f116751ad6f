//! A store at work, on media that note everything, in one order: what is stored, flushed and fenced, which operations
//! were begun and which acknowledged, by one thread or by several.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::baton::{Baton, me, step};
use crate::power::Logged;
use crate::store::compact::Effort;
use crate::store::error::StoreError;
use crate::store::format::{DIRECTORY, PAGE};
use crate::store::mapping::Dirty;
use crate::store::media::{Event, Media, Syncs, VolatileMedia};
use crate::store::space::SpaceError;
use crate::store::{Access, Store, Value};

/// More than a cache line has entries.
pub(crate) const KEYS: usize = 12;

pub(crate) fn key(number: usize) -> Vec<u8> {
    format!("key{number}").into_bytes()
}

/// What is recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    /// Pages that the pool may have.
    pub(crate) capacity: u64,
    /// One: the thread that asks. Several: they take turns at each flush and fence, and one more reads.
    pub(crate) writers: u64,
    /// Of each writer.
    pub(crate) operations: usize,
    pub(crate) like: Like,
    /// So often the process is killed amid that, or fails to sync the file; the next one goes on.
    pub(crate) ends: u64,
    pub(crate) forgotten: Option<Forgotten>,
}

/// What the media are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Like {
    /// Lines are flushed one by one; a thread's fence waits for what it has flushed itself.
    Pmem,
    /// A sync takes along whatever was stored before it began, whoever did; one serves several.
    File,
}

/// What a store has forgotten to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forgotten {
    RecordFlush,
    RecordFence,
    EntryFlush,
    EntryFence,
    /// A fence is left out if another thread has made one since this one has flushed.
    FenceAfterOthers,
}

thread_local! {
    /// Whether this thread's last flush was of a directory entry.
    static ENTRY: Cell<bool> = const { Cell::new(false) };
    /// How many fences there had been then.
    static SEEN: Cell<u64> = const { Cell::new(0) };
}

/// Media that note what they are told.
#[derive(Debug)]
struct Recorder {
    log: Arc<Mutex<Vec<Logged>>>,
    forgotten: Option<Forgotten>,
    fences: AtomicU64,
    syncs: Option<Syncs>,
    /// At the fence with this number, and at all after it, it is over; and what there is to note of that.
    end: Option<(u64, Logged)>,
}

impl Recorder {
    fn note(&self, logged: Logged) {
        self.log.lock().push(logged);
    }

    fn ends(&self) -> io::Result<()> {
        match &self.end {
            Some((at, what)) if self.fences.load(Ordering::Relaxed) >= *at => {
                if self.fences.fetch_add(1, Ordering::Relaxed) == *at {
                    self.note(what.clone());
                }
                Err(io::Error::other("that was the end"))
            }
            _ => Ok(()),
        }
    }

    fn forgets_the_fence(&self) -> bool {
        match self.forgotten {
            Some(Forgotten::RecordFence) => !ENTRY.get(),
            Some(Forgotten::EntryFence) => ENTRY.get(),
            Some(Forgotten::FenceAfterOthers) => self.fences.load(Ordering::Relaxed) != SEEN.get(),
            _ => false,
        }
    }
}

impl Media for Recorder {
    fn kind(&self) -> &'static str {
        "recorder"
    }

    fn forgets(&self) -> bool {
        self.syncs.is_some()
    }

    fn flush(&self, dirty: &Dirty<'_>) -> io::Result<()> {
        step();
        let bytes = dirty.bytes();
        let entry = (DIRECTORY * PAGE..(DIRECTORY + 1) * PAGE).contains(&bytes.start);
        ENTRY.set(entry);
        SEEN.set(self.fences.load(Ordering::Relaxed));
        let left_out = match self.forgotten {
            Some(Forgotten::RecordFlush) => !entry,
            Some(Forgotten::EntryFlush) => entry,
            _ => false,
        };
        if !left_out && self.syncs.is_none() {
            self.note(Logged::Flush(me(), bytes));
        }
        Ok(())
    }

    fn fence(&self, _: &File) -> io::Result<()> {
        step();
        if self.forgets_the_fence() {
            return Ok(());
        }
        if let Some(syncs) = &self.syncs {
            return syncs.through(|| {
                self.ends()?;
                let number = self.fences.fetch_add(1, Ordering::Relaxed);
                self.note(Logged::Flush(number, 0..u64::MAX));
                step();
                self.note(Logged::Fence(number));
                Ok(())
            });
        }
        self.ends()?;
        self.fences.fetch_add(1, Ordering::Relaxed);
        self.note(Logged::Fence(me()));
        step();
        Ok(())
    }

    fn saw(&self, event: Event<'_>) {
        // No step where the store may have a lock, or the crate.
        let (logged, steps) = match event {
            Event::Store { at, bytes } => (
                Logged::Store {
                    at,
                    bytes: bytes.into(),
                },
                true,
            ),
            Event::Punch { pages } => {
                let bytes = pages.start() * PAGE..pages.end() * PAGE;
                (Logged::Zero(bytes), false)
            }
            Event::Length { pages } => (Logged::Length(pages), false),
        };
        self.note(logged);
        if steps {
            step();
        }
    }
}

/// A pool in memory that can be opened by a path.
pub(crate) fn memory(bytes: &[u8]) -> (File, PathBuf) {
    let file = File::from(memfd_create("pool", MemfdFlags::CLOEXEC).unwrap());
    file.write_all_at(bytes, 0).unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    (file, path.into())
}

/// What a writer did: `None` to no key, when it compacted; `None` as the value when it deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) writer: u64,
    pub(crate) key: Option<usize>,
    pub(crate) value: Option<Vec<u8>>,
    /// There was no space for it, so it has done nothing.
    pub(crate) refused: bool,
}

/// What happened to the pool during random operations.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) empty: Vec<u8>,
    pub(crate) log: Vec<Logged>,
    /// By their numbers in the log.
    pub(crate) operations: Vec<Operation>,
}

pub(crate) fn record(scene: Scene, seed: u64) -> History {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.pool");
    let volatile = || Some(Box::new(VolatileMedia) as Box<dyn Media>);
    let made = Store::create(&path, scene.capacity * PAGE, volatile());
    made.unwrap().close();
    let empty = fs::read(&path).unwrap();
    let (_file, path) = memory(&empty);
    let recording = Recording {
        scene,
        path,
        log: Arc::default(),
        operations: Mutex::default(),
    };
    let mut open = Vec::new();
    for session in 0..=scene.ends {
        open = recording.session(seed ^ session << 40, session < scene.ends, open);
    }
    assert!(open.is_empty(), "the last one has come to its end");
    History {
        empty,
        log: std::mem::take(&mut recording.log.lock()),
        operations: recording.operations.into_inner(),
    }
}

struct Recording {
    scene: Scene,
    path: PathBuf,
    log: Arc<Mutex<Vec<Logged>>>,
    operations: Mutex<Vec<Operation>>,
}

impl Recording {
    fn note(&self, logged: Logged) {
        self.log.lock().push(logged);
    }

    /// One process, from when it opens the pool. It finds operations of the one before that nobody knows the end of,
    /// and may leave some.
    fn session(&self, seed: u64, ends: bool, open: Vec<usize>) -> Vec<usize> {
        let Scene { writers, like, .. } = self.scene;
        let mut rng = SmallRng::seed_from_u64(seed);
        let end = ends.then(|| {
            let failed = like == Like::File && rng.random();
            let what = if failed {
                Logged::Failed
            } else {
                Logged::Killed
            };
            (rng.random_range(2..40), what)
        });
        let recorder = Recorder {
            log: Arc::clone(&self.log),
            forgotten: self.scene.forgotten,
            fences: AtomicU64::new(0),
            syncs: (like == Like::File).then(Syncs::default),
            end,
        };
        let store = &Store::open(&self.path, Access::Write, Some(Box::new(recorder))).unwrap();
        for number in open {
            self.find_out(store, number);
        }
        let mut left = Vec::new();
        if writers == 1 {
            left.extend(self.write(store, 0, &mut SmallRng::seed_from_u64(seed)));
        } else {
            let baton = &Baton::new(writers + 1, seed);
            let rng = |me: u64| SmallRng::seed_from_u64(seed ^ me << 32);
            thread::scope(|scope| {
                let threads: Vec<_> = (1..=writers)
                    .map(|me| {
                        let write = move || self.write(store, me, &mut rng(me));
                        scope.spawn(move || baton.run(me, write))
                    })
                    .collect();
                let steps = self.scene.operations * 6;
                let read = move || read(store, steps, &mut rng(writers + 1));
                scope.spawn(move || baton.run(writers + 1, read));
                left.extend(threads.into_iter().filter_map(|t| t.join().unwrap()));
            });
        }
        if ends {
            self.note(Logged::Killed);
        }
        left
    }

    /// Whether an operation has had an effect: what is found after the pool was opened again is not taken back.
    fn find_out(&self, store: &Store, number: usize) {
        let Operation { key: of, value, .. } = self.operations.lock()[number].clone();
        let found = |of| store.get(&key(of)).unwrap().map(|value| value.to_vec());
        let effective = of.is_some_and(|of| found(of) == value);
        self.note(match effective {
            true => Logged::Acknowledge(number),
            false => Logged::Undone(number),
        });
    }

    /// The operation that it was about when it was over, if it did not come to its end.
    fn write(&self, store: &Store, me: u64, rng: &mut SmallRng) -> Option<usize> {
        let mut there: BTreeSet<_> = store.scan(b"").into_iter().map(|(key, _)| key).collect();
        for _ in 0..self.scene.operations {
            step();
            let (what, operation) = draw(me, rng);
            let number = {
                let mut operations = self.operations.lock();
                operations.push(operation.clone());
                operations.len() - 1
            };
            self.note(Logged::Begin(number));
            let done = match act(store, what, &operation) {
                Err(StoreError::Io { .. } | StoreError::Broken) => return Some(number),
                done => done.unwrap(),
            };
            self.operations.lock()[number].refused = done.is_none();
            if let (1, Some(was_there), Some(of)) = (self.scene.writers, done, operation.key) {
                let key = key(of).into_boxed_slice();
                let expected = match operation.value {
                    Some(_) => !there.insert(key),
                    None => there.remove(&key),
                };
                assert_eq!(was_there, expected);
            }
            self.note(Logged::Acknowledge(number));
        }
        None
    }
}

/// What a writer is to do.
#[derive(Clone, Copy)]
enum What {
    Put,
    Del,
    Compact(Effort),
}

fn draw(writer: u64, rng: &mut SmallRng) -> (What, Operation) {
    let key = rng.random_range(0..KEYS);
    let what = match rng.random_range(0..10) {
        0..6 => What::Put,
        6..8 => What::Del,
        8 => What::Compact(Effort::Fit),
        _ => What::Compact(Effort::Pack),
    };
    let value = || {
        // Around the end of a line, of a page, and more pages.
        let len = [rng.random_range(0..300), rng.random_range(3900..4200), 5000];
        let mut value = vec![0; len[rng.random_range(0..3)]];
        rng.fill(&mut value[..]);
        value
    };
    let value = matches!(what, What::Put).then(value);
    let operation = Operation {
        writer,
        key: (!matches!(what, What::Compact(_))).then_some(key),
        value,
        refused: false,
    };
    (what, operation)
}

/// Whether its key was there before, if it has one; `None` if there was no space for it.
fn act(store: &Store, what: What, operation: &Operation) -> Result<Option<bool>, StoreError> {
    let key = operation.key.map(key).unwrap_or_default();
    match what {
        What::Put => match store.put(&key, operation.value.as_ref().unwrap()) {
            Err(StoreError::Space(SpaceError::Full { .. }) | StoreError::FullOfPinned { .. }) => {
                Ok(None)
            }
            put => put.map(Some),
        },
        What::Del => store.del(&key).map(Some),
        What::Compact(effort) => store.compact(effort, || true).map(|_| Some(false)),
    }
}

/// Holds some values at any time, so that their pages stay for longer than they are named.
fn read(store: &Store, steps: usize, rng: &mut SmallRng) {
    let mut held: BTreeMap<usize, (Value, Vec<u8>)> = BTreeMap::new();
    for _ in 0..steps {
        step();
        let number = rng.random_range(0..KEYS);
        if let Some((value, bytes)) = held.remove(&number) {
            assert!(*value == bytes[..], "a value has changed under its reader");
        } else if held.len() < 3 {
            if let Some(value) = store.get(&key(number)).unwrap() {
                assert_eq!(value.verify(), Ok(()));
                let bytes = value.to_vec();
                held.insert(number, (value, bytes));
            }
        }
    }
}
