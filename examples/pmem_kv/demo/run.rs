//! The threads of the demo: readers, writers, a compactor, all on one store.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::corpus::Corpus;
use crate::interrupted;
use crate::report::chain;
use crate::store::compact::Effort;
use crate::store::error::StoreError;
use crate::store::format::PAGE;
use crate::store::{Breaks, Store, Value};

/// One of so many keys is hot.
const HOT: usize = 64;
/// A reader holds up to this many values at a time.
pub(super) const HELD: usize = 8;
/// The compactor starts after so many changes, or so long after the last time.
const CHANGES: u64 = 64;
const PATIENCE: Duration = Duration::from_millis(250);

/// What the writers have done to a key: generations, see [`Corpus`].
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Begun at most so far: a reader may see it.
    pub(super) begun: AtomicU64,
    /// Acknowledged: a reader that starts now sees nothing older.
    acked: AtomicU64,
}

impl Progress {
    pub(crate) fn acked(&self) -> u64 {
        self.acked.load(Ordering::Acquire)
    }
}

/// Counts of one run.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) gets: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) read: AtomicU64,
    pub(crate) verified: AtomicU64,
    pub(crate) let_go: AtomicU64,
    pub(crate) scans: AtomicU64,
    pub(crate) puts: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) dels: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) moved: AtomicU64,
    pub(crate) moved_bytes: AtomicU64,
    pub(crate) cut: AtomicU64,
    pub(crate) exports: AtomicU64,
    pub(crate) exported: AtomicU64,
    pub(crate) imports: AtomicU64,
    pub(crate) imported: AtomicU64,
    pub(crate) pinned: AtomicU64,
    pub(crate) wrong_exports: AtomicU64,
    pub(crate) wrong_imports: AtomicU64,
    pub(crate) checksum_failures: AtomicU64,
    pub(crate) wrong_bytes: AtomicU64,
    pub(crate) peak: AtomicU64,
}

impl Counts {
    /// What has come out wrong, of how much.
    pub(crate) fn wrong(&self) -> String {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "{} of {} reads and {} of {} exports came out wrong",
            get(&self.wrong_bytes),
            2 * (get(&self.gets) - get(&self.misses)),
            get(&self.wrong_exports),
            get(&self.exports)
        )
    }
}

pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// What all threads of a run share.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) store: &'a Store,
    pub(crate) corpus: &'a Corpus,
    pub(crate) keys: Vec<Progress>,
    pub(crate) counts: Counts,
    /// One of those who held back the most pages from a compaction.
    pub(crate) holder: Mutex<Option<String>>,
    /// What the exporters have put in again: the key and the generation that each name holds.
    pub(crate) imports: Mutex<BTreeMap<String, (usize, u64)>>,
    /// Whether breaks are in force: then nothing may be wrong, and some of everything must have been.
    pub(crate) protected: bool,
    /// What went wrong, the first few of it.
    pub(crate) faults: Mutex<Vec<String>>,
    stop: AtomicBool,
    /// Changes since the last compaction, and a way to wait for more of them or for the end.
    changes: Mutex<u64>,
    changed: Condvar,
    ended: Condvar,
}

impl<'a> Run<'a> {
    pub(crate) fn new(store: &'a Store, corpus: &'a Corpus, protected: bool) -> Run<'a> {
        Run {
            store,
            corpus,
            keys: (0..corpus.len()).map(|_| Progress::default()).collect(),
            counts: Counts::default(),
            holder: Mutex::default(),
            imports: Mutex::default(),
            protected,
            faults: Mutex::default(),
            stop: AtomicBool::new(false),
            changes: Mutex::default(),
            changed: Condvar::new(),
            ended: Condvar::new(),
        }
    }

    /// Lets everybody go on until `end`, and then for at most `more`, until there has been some of
    /// everything; or until something has gone wrong. Shows it ten times a second.
    pub(crate) fn until(&self, end: Instant, more: Duration, mut show: impl FnMut()) {
        let mut changes = self.changes.lock();
        while !self.stopped() {
            let now = Instant::now();
            let over = now >= end && self.unproved(&self.store.breaks()).is_empty();
            if over || now >= end + more || interrupted() {
                break;
            }
            self.ended
                .wait_until(&mut changes, now + Duration::from_millis(100));
            show();
        }
        drop(changes);
        self.end();
    }

    /// What there has been none of: a run without it proves nothing.
    pub(crate) fn unproved(&self, breaks: &Breaks) -> Vec<&'static str> {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let always = [
            (
                "values read",
                get(&self.counts.gets) - get(&self.counts.misses),
            ),
            ("overwrites", get(&self.counts.puts)),
            ("deletions", get(&self.counts.dels)),
            ("moves", get(&self.counts.moved)),
            ("exports", get(&self.counts.exports)),
            ("imports", get(&self.counts.imports)),
        ];
        let protected = [
            ("old pages that were still read", get(&self.counts.pinned)),
            ("truncations", breaks.truncations.breaks),
            ("pages cut off", get(&self.counts.cut)),
        ];
        // Without breaks it shows what they are for, or nothing.
        let unprotected = [
            ("wrong reads", get(&self.counts.wrong_bytes)),
            ("wrong exports", get(&self.counts.wrong_exports)),
        ];
        let all = always
            .into_iter()
            .chain(protected.into_iter().filter(|_| self.protected))
            .chain(unprotected.into_iter().filter(|_| !self.protected));
        all.filter(|(_, count)| *count == 0)
            .map(|(what, _)| what)
            .collect()
    }

    fn end(&self) {
        // Under the lock, so that nobody tests the flag before and sleeps after.
        let _changes = self.changes.lock();
        self.stop.store(true, Ordering::Relaxed);
        self.changed.notify_all();
        self.ended.notify_all();
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn fault(&self, text: String) {
        let mut faults = self.faults.lock();
        if faults.len() < 20 {
            faults.push(text);
        }
    }

    /// Runs the body of a thread; an error of the store, or a panic, ends the whole run.
    pub(crate) fn thread(&self, body: impl FnOnce(&Self) -> Result<(), StoreError>) {
        struct End<'r, 'a>(&'r Run<'a>);
        impl Drop for End<'_, '_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.fault("a thread has panicked".to_owned());
                    self.0.end();
                }
            }
        }
        let _end = End(self);
        if let Err(e) = body(self) {
            self.fault(chain(&e));
            self.end();
        }
    }

    /// Verifies a value that was read when the generations `from..=to` were to be expected.
    fn verify(&self, key: usize, value: &Value, from: u64, to: u64) {
        add(&self.counts.verified, value.len() as u64);
        if let Err(fault) = value.verify() {
            add(&self.counts.checksum_failures, 1);
            self.fault(format!("{}: {fault}", self.corpus.key(key)));
        }
        let wrong = match self.corpus.verify(key, value) {
            Ok(generation) if (from..=to).contains(&generation) => return,
            Ok(generation) => format!(
                "{}: generation {generation}, expected {from} to {to}",
                self.corpus.key(key)
            ),
            Err(wrong) => wrong,
        };
        add(&self.counts.wrong_bytes, 1);
        self.fault(wrong);
    }

    /// Three of four times one of the hot keys, so that readers, exporters and writers meet.
    pub(super) fn pick(&self, rng: &mut SmallRng) -> usize {
        let any = rng.random_range(0..self.keys.len());
        if rng.random_range(0..4) == 0 {
            any
        } else {
            any / HOT * HOT
        }
    }

    /// Reads values in place and verifies every byte of them: when it gets one, and again when it lets
    /// it go, after having held it for a while.
    pub(crate) fn reader(&self, seed: u64) -> Result<(), StoreError> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut held: VecDeque<(usize, Value, u64, u64)> = VecDeque::new();
        while !self.stopped() {
            let key = self.pick(&mut rng);
            let from = self.keys[key].acked();
            let value = self.store.get(self.corpus.key(key).as_bytes())?;
            let to = self.keys[key].begun.load(Ordering::Acquire);
            add(&self.counts.gets, 1);
            if let Some(value) = value {
                add(&self.counts.read, value.len() as u64);
                self.verify(key, &value, from, to);
                held.push_back((key, value, from, to));
            } else {
                add(&self.counts.misses, 1);
                if !(from..=to).any(|generation| Corpus::is_deletion(key, generation)) {
                    add(&self.counts.wrong_bytes, 1);
                    self.fault(format!("{}: not found", self.corpus.key(key)));
                }
            }
            // Somebody waits for one of ours: let that one go first. Else the oldest.
            let wanted = held.iter().position(|(_, value, ..)| value.is_wanted());
            add(&self.counts.let_go, u64::from(wanted.is_some()));
            let full = (held.len() > HELD).then_some(0);
            if let Some((key, value, from, to)) = wanted.or(full).and_then(|i| held.remove(i)) {
                self.verify(key, &value, from, to);
            }
            if rng.random_range(0..256) == 0 {
                self.scan(&mut rng);
            }
        }
        Ok(())
    }

    /// Lists what is under a prefix, and looks whether it is, and in order.
    fn scan(&self, rng: &mut SmallRng) {
        let key = self.corpus.key(self.pick(rng));
        let prefix = &key.as_bytes()[..=key.find('/').unwrap_or(0)];
        let found = self.store.scan(prefix);
        add(&self.counts.scans, 1);
        let ordered = found.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if !ordered || !found.iter().all(|(key, _)| key.starts_with(prefix)) {
            self.fault(format!(
                "scan of {}: wrong or out of order",
                prefix.escape_ascii()
            ));
        }
    }

    /// Brings keys to their next generation: overwrites them, deletes some, puts those again. Each
    /// writer has keys of its own.
    pub(crate) fn writer(&self, me: usize, writers: usize, seed: u64) -> Result<(), StoreError> {
        let mut rng = SmallRng::seed_from_u64(seed);
        while !self.stopped() {
            let key = self.pick(&mut rng);
            // So many keys in a row belong to one writer: the hot one is the first of them.
            if key / HOT % writers != me {
                continue;
            }
            self.next(key)?;
            let mut changes = self.changes.lock();
            *changes += 1;
            if *changes == CHANGES {
                self.changed.notify_one();
            }
        }
        Ok(())
    }

    /// Brings one key to its next generation.
    fn next(&self, key: usize) -> Result<(), StoreError> {
        let name = self.corpus.key(key).as_bytes();
        let generation = self.keys[key].acked() + 1;
        self.keys[key].begun.store(generation, Ordering::Release);
        if Corpus::is_deletion(key, generation) {
            self.store.del(name)?;
            add(&self.counts.dels, 1);
        } else {
            let value = self.corpus.value(key, generation);
            self.store.put(name, &value)?;
            add(&self.counts.puts, 1);
            add(&self.counts.written, value.len() as u64);
        }
        self.keys[key].acked.store(generation, Ordering::Release);
        Ok(())
    }

    /// Compacts whenever there have been some changes.
    pub(crate) fn compactor(&self) -> Result<(), StoreError> {
        loop {
            let mut changes = self.changes.lock();
            let patience = Instant::now() + PATIENCE;
            while *changes < CHANGES && !self.stopped() {
                // On slow media a few changes must do.
                let late = self.changed.wait_until(&mut changes, patience).timed_out();
                if late && *changes > 0 {
                    break;
                }
            }
            *changes = 0;
            drop(changes);
            let file = self.store.stat()?.usage.file * PAGE;
            self.counts.peak.fetch_max(file, Ordering::Relaxed);
            // Every fourth time it moves whatever is in the way of a packed file. The writers make new
            // holes meanwhile, so it would not come to an end by itself.
            let turn = self.counts.compactions.load(Ordering::Relaxed) % 4;
            let effort = if turn == 3 { Effort::Pack } else { Effort::Fit };
            let enough = Instant::now() + Duration::from_secs(1);
            let go_on = || !self.stopped() && Instant::now() < enough;
            let done = self.store.compact(effort, go_on)?;
            add(&self.counts.compactions, 1);
            add(&self.counts.moved, done.moved);
            add(&self.counts.moved_bytes, done.bytes);
            add(&self.counts.cut, done.cut);
            let pinned = done.pinned;
            if self
                .counts
                .pinned
                .fetch_max(pinned.pages, Ordering::Relaxed)
                < pinned.pages
            {
                *self.holder.lock() = pinned.holders.first().map(ToString::to_string);
            }
            add(&self.counts.checksum_failures, done.skipped);
            if self.stopped() {
                return Ok(());
            }
        }
    }
}
