//! The store of `examples/pmem_kv` when the power fails: at every fence of random sequences of
//! operations, with every prefix of the stores before it, and with any of the lines that were not
//! flushed and fenced. After each such crash the pool must open without a finding and hold everything
//! that was acknowledged, whole, and what was under way wholly or not at all.
//!
//! The controls leave out one flush or fence each, and must be caught.

#[allow(dead_code, reason = "the example uses the rest")]
#[path = "../examples/pmem_kv/store/mod.rs"]
mod store;

#[path = "pmem_kv_crash/power.rs"]
mod power;

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::power::{Forgotten, LINE, Line, Logged, Power, Recorder, Remains};
use crate::store::compact::Effort;
use crate::store::error::StoreError;
use crate::store::format::PAGE;
use crate::store::media::{Media, VolatileMedia};
use crate::store::space::SpaceError;
use crate::store::{Access, Store};

const CAPACITY: u64 = 24;
/// More than a cache line has entries.
const KEYS: usize = 12;
const OPERATIONS: usize = 40;
/// Sequences of operations, enough for so many crash states.
const SEQUENCES: u64 = 72;
const ENOUGH: u64 = 100_000;

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// A pool in memory that can be opened by a path.
fn memory(bytes: &[u8]) -> (File, PathBuf) {
    let file = File::from(memfd_create("pool", MemfdFlags::CLOEXEC).unwrap());
    file.write_all_at(bytes, 0).unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    (file, path.into())
}

fn open(path: &std::path::Path, access: Access, media: Box<dyn Media>) -> Store {
    Store::open(path, access, Some(media)).unwrap()
}

/// What happened to the pool during random operations, and what it held after each of them.
struct History {
    empty: Vec<u8>,
    log: Vec<Logged>,
    contents: Vec<Contents>,
}

fn record(seed: u64, forgotten: Option<Forgotten>) -> History {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.pool");
    let made = Store::create(&path, CAPACITY * PAGE, Some(Box::new(VolatileMedia)));
    made.unwrap().close();
    let empty = fs::read(&path).unwrap();
    let (_file, path) = memory(&empty);
    let log = Arc::new(Mutex::new(Vec::new()));
    let recorder = Recorder {
        log: Arc::clone(&log),
        forgotten,
        entry: Mutex::new(false),
    };
    let store = open(&path, Access::Write, Box::new(recorder));
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut now = Contents::new();
    let mut contents = vec![now.clone()];
    for number in 0..OPERATIONS {
        log.lock().push(Logged::Begin(number));
        let key = format!("key{}", rng.random_range(0..KEYS)).into_bytes();
        match rng.random_range(0..10) {
            0..6 => {
                // Around the end of a line, of a page, and more pages.
                let len = [rng.random_range(0..300), rng.random_range(3900..4200), 5000];
                let mut value = vec![0; len[rng.random_range(0..3)]];
                rng.fill(&mut value[..]);
                match store.put(&key, &value) {
                    Ok(_) => drop(now.insert(key, value)),
                    Err(StoreError::Space(SpaceError::Full { .. })) => {}
                    Err(e) => panic!("{e}"),
                }
            }
            6..8 => assert_eq!(store.del(&key).unwrap(), now.remove(&key).is_some()),
            8 => drop(store.compact(Effort::Fit, || true).unwrap()),
            _ => drop(store.compact(Effort::Pack, || true).unwrap()),
        }
        contents.push(now.clone());
        log.lock().push(Logged::Acknowledge(number));
    }
    drop(store);
    let log = std::mem::take(&mut *log.lock());
    History {
        empty,
        log,
        contents,
    }
}

// ------------------------------------------------------------------------------------- crashes

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    states: u64,
    /// Of them, those with some of the unfenced lines and not all of them.
    partial: u64,
    /// Fences at which there were crashes.
    fences: u64,
    /// Crashes after which the pool was not only read, but used.
    used: u64,
}

/// A pool file as a crash has left it, and what it must hold.
struct Crashes {
    power: Power,
    file: File,
    path: PathBuf,
    /// Hashes of the states seen since the last fence: each counts once.
    seen: HashSet<u64>,
    rng: SmallRng,
    count: Count,
}

impl Crashes {
    fn new(history: &History, seed: u64) -> Crashes {
        let (file, path) = memory(&history.empty);
        Crashes {
            power: Power::new(&history.empty, CAPACITY),
            file,
            path,
            seen: HashSet::new(),
            rng: SmallRng::seed_from_u64(seed),
            count: Count::default(),
        }
    }

    /// Crashes at every fence and every acknowledgement; what is wrong after the first that went wrong.
    fn replay(&mut self, history: &History) -> Result<(), String> {
        let mut allowed = 0..1;
        for (at, logged) in history.log.iter().enumerate() {
            match logged {
                Logged::Begin(number) => allowed = *number..number + 2,
                Logged::Acknowledge(number) => allowed = number + 1..number + 2,
                _ => {}
            }
            let allowed = &history.contents[allowed.clone()];
            let remains = match logged {
                Logged::Fence => {
                    self.count.fences += 1;
                    let all = (0..=self.power.stores()).map(|n| self.power.prefix(n));
                    let mut remains: Vec<_> = all.collect();
                    for likely in [5, 50, 95] {
                        let sampled = (0..9).map(|_| self.power.sample(&mut self.rng, likely));
                        remains.extend(sampled);
                    }
                    remains
                }
                Logged::Acknowledge(_) => [0, 50, 100]
                    .map(|likely| self.power.sample(&mut self.rng, likely))
                    .into(),
                _ => Vec::new(),
            };
            for remains in remains {
                self.crash(&remains, allowed)
                    .map_err(|wrong| format!("at event {at}, {logged:?}: {wrong}"))?;
            }
            let settled = self.power.apply(logged);
            if matches!(logged, Logged::Fence) {
                self.seen.clear();
                self.file.set_len(self.power.pages * PAGE).unwrap();
                self.restore(settled.into_iter());
            }
        }
        Ok(())
    }

    fn crash(&mut self, remains: &Remains, allowed: &[Contents]) -> Result<(), String> {
        if !self.seen.insert(remains.fingerprint()) {
            return Ok(());
        }
        self.count.states += 1;
        self.count.partial += u64::from(remains.partial);
        self.write(remains.lines.iter().map(|(line, bytes)| (*line, bytes)));
        let other_length = remains.pages != self.power.pages;
        if other_length {
            self.file.set_len(remains.pages * PAGE).unwrap();
        }
        let used = self.count.states % 64 == 0;
        self.count.used += u64::from(used);
        let verdict = self.recover(allowed, used);
        if used || other_length {
            self.file.write_all_at(&self.power.media, 0).unwrap();
            self.file.set_len(self.power.pages * PAGE).unwrap();
        } else {
            self.restore(remains.lines.iter().map(|(line, _)| *line));
        }
        verdict
    }

    /// Makes these lines of the file what is on the media for sure.
    fn restore(&self, lines: impl Iterator<Item = u64>) {
        let inside = lines.filter(|line| line * LINE < self.power.pages * PAGE);
        self.write(inside.map(|line| (line, self.power.sure(line))));
    }

    /// Writes lines, which are in order; those near each other at once, with what is between them for sure.
    fn write<'a>(&self, lines: impl Iterator<Item = (u64, &'a Line)>) {
        let (mut first, mut bytes) = (0, Vec::new());
        for (line, content) in lines {
            let (behind, at) = (first + bytes.len() as u64, line * LINE);
            if !bytes.is_empty() && at < behind + PAGE {
                bytes.extend_from_slice(&self.power.media[behind as usize..at as usize]);
            } else {
                self.file.write_all_at(&bytes, first).unwrap();
                first = at;
                bytes.clear();
            }
            bytes.extend_from_slice(content);
        }
        self.file.write_all_at(&bytes, first).unwrap();
    }

    /// Opens what is left, and looks whether it is one of the `allowed` contents; `used`, also that it
    /// can be filled to the last page without touching those.
    fn recover(&self, allowed: &[Contents], used: bool) -> Result<(), String> {
        let access = if used { Access::Write } else { Access::Read };
        let store = Store::open(&self.path, access, Some(Box::new(VolatileMedia)))
            .map_err(|e| e.to_string())?;
        if let Some(problem) = store.problems().first() {
            return Err(problem.to_string());
        }
        let found = |store: &Store| -> Contents {
            let all = store.scan(b"").into_iter();
            all.map(|(key, _)| {
                let value = store.get(&key).unwrap().unwrap().to_vec();
                (key.into_vec(), value)
            })
            .collect()
        };
        let contents = found(&store);
        if !allowed.contains(&contents) {
            let keys: Vec<_> = contents.keys().map(|key| key.escape_ascii()).collect();
            return Err(format!("neither the old nor the new contents: {keys:?}"));
        }
        let extents: Vec<_> = store.scan(b"").iter().map(|(_, e)| e.extent).collect();
        if let Some(free) = extents
            .iter()
            .find(|extent| !store.space().is_used(**extent))
        {
            return Err(format!("pages of {free} are free, and of a live value"));
        }
        let (owned, usage) = (
            extents.iter().map(|e| e.len()).sum::<u64>(),
            store.space().usage(),
        );
        if usage.used != owned {
            return Err(format!(
                "{owned} pages have an owner, {} are used",
                usage.used
            ));
        }
        if used {
            let fill = |i: u32| store.put(format!("fill{i}").as_bytes(), b"in every free page");
            let full = (0..).map(fill).find_map(Result::err).unwrap();
            assert!(matches!(full, StoreError::Space(_)), "{full}");
            let mut after = found(&store);
            after.retain(|key, _| !key.starts_with(b"fill"));
            if after != contents {
                return Err("a live value was overwritten".to_owned());
            }
        }
        Ok(())
    }
}

/// Replays sequences on all processors; the counts, or the first fault.
fn run(sequences: u64, forgotten: Option<Forgotten>) -> Result<Count, String> {
    let threads = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let one = |seed| -> Result<Count, String> {
        let history = record(seed, forgotten);
        let mut crashes = Crashes::new(&history, seed);
        let replayed = crashes.replay(&history);
        replayed.map_err(|wrong| format!("sequence {seed}, {wrong}"))?;
        Ok(crashes.count)
    };
    thread::scope(|scope| {
        let part = |me| move || (me..sequences).step_by(threads as usize).map(one).collect();
        let threads: Vec<_> = (0..threads).map(|me| scope.spawn(part(me))).collect();
        let mut sum = Count::default();
        for thread in threads {
            let counts: Result<Vec<Count>, String> = thread.join().unwrap();
            for count in counts? {
                sum.states += count.states;
                sum.partial += count.partial;
                sum.fences += count.fences;
                sum.used += count.used;
            }
        }
        Ok(sum)
    })
}

#[test]
fn whatever_a_crash_leaves_is_a_sound_pool_with_everything_acknowledged() {
    let start = Instant::now();
    let count = run(SEQUENCES, None).unwrap();
    println!(
        "{} crash states at {} fences, {} of them with some of the unfenced lines, {} used further; \
         all sound; {:.1} s",
        count.states,
        count.fences,
        count.partial,
        count.used,
        start.elapsed().as_secs_f64()
    );
    assert!(
        count.states >= ENOUGH && count.partial >= ENOUGH / 2,
        "{count:?}"
    );
}

/// An entry names a record that is not there, or an acknowledged change is not.
const DAMAGED: &str = "Fence: slot ";
const LOST: &str = "neither the old nor the new contents";

/// The control: the store as it would be without that step must be caught, and for the right reason.
fn caught(forgotten: Forgotten, reason: &str) {
    let wrong = run(4, Some(forgotten)).expect_err("nobody has noticed");
    println!("{forgotten:?} left out: {wrong}");
    assert!(wrong.contains(reason), "{wrong}");
}

#[test]
fn control_without_the_flush_of_the_record() {
    caught(Forgotten::RecordFlush, DAMAGED);
}

#[test]
fn control_without_the_fence_between_record_and_entry() {
    caught(Forgotten::RecordFence, DAMAGED);
}

#[test]
fn control_without_the_flush_of_the_entry() {
    caught(Forgotten::EntryFlush, LOST);
}

#[test]
fn control_without_the_fence_before_the_acknowledgement() {
    caught(Forgotten::EntryFence, LOST);
}
