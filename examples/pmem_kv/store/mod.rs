//! A small key-value store in a memory-mapped pool file, whose every free goes through
//! `break_layouts`.
//!
//! # The map, in flow order
//!
//! ```text
//! put -> allocate -> claim (break) -> write, flush -> publish, flush -> index -> free the old (break)
//! get -> index -> pin -> index again -> Value
//! ```
//!
//! | file | one word of the flow |
//! | --- | --- |
//! | [`mod`](self) | `put`, `get`, `del`, `scan` |
//! | [`open`] | make and open a pool file: lock, superblock, recovery |
//! | [`format`](self::format) | what is on the media, to the byte; why it is crash-consistent |
//! | [`mapping`] | the mapped file: bytes by a pin, changes by a proof; all the `unsafe` |
//! | [`media`] | how stores become durable: pmem, file, volatile |
//! | [`space`] | the free map; the pool's `BlockMap` |
//! | [`slots`] | the empty directory entries |
//! | [`index`] | key to place, in memory |
//! | [`waits`] | breaking, and what it cost |
//! | [`check`] | the walk that recovers and verifies |
//! | [`compact`] | moves records to the front, cuts the file off |
//! | [`error`] | what is refused, and why |
//!
//! # Who waits for whom
//!
//! Readers wait for nobody. `put`, `del` and `compact` wait for the readers of the pages they free, at
//! their very end, and hold no lock then. So a thread that holds a [`Value`] of a key and puts or
//! deletes that same key waits for itself, for ever.

pub(crate) mod check;
pub(crate) mod compact;
pub(crate) mod error;
pub(crate) mod format;
pub(crate) mod index;
pub(crate) mod mapping;
pub(crate) mod media;
pub(crate) mod open;
pub(crate) mod slots;
pub(crate) mod space;
pub(crate) mod waits;

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use layout_lease::{LayoutGuard, PageRange, TryPinError};
use parking_lot::{Mutex, MutexGuard};

use self::error::{Doing, Problem, StoreError};
use self::format::{
    Fault, Geometry, MAX_KEY, bytes_of, decode, entry_bytes, pack, pages_for, tail_of,
};
use self::index::{Entry, Index};
use self::mapping::{NotPinned, Pinned};
use self::slots::Slots;
use self::space::{Pool, Usage};
use self::waits::{WaitSummary, Waits};

pub(crate) use self::open::Access;

/// Writers of one key take turns; so do those of keys that fall on the same turn.
const TURNS: usize = 64;

#[cfg(test)]
type Act = Box<dyn FnOnce()>;

#[cfg(test)]
thread_local! {
    /// What this thread's next reader does between its look-up and its pin: others can be as fast.
    pub(crate) static BETWEEN: std::cell::Cell<Option<Act>> = const { std::cell::Cell::new(None) };
}

/// An open pool. `&self` everywhere: share it between threads.
#[derive(Debug)]
pub(crate) struct Store {
    guard: LayoutGuard<Pool>,
    index: Index,
    geometry: Geometry,
    id: u64,
    turns: [Mutex<()>; TURNS],
    slots: Mutex<Slots>,
    /// The sequence number that was given last.
    seq: AtomicU64,
    /// A flush has failed.
    broken: AtomicBool,
    compacting: Mutex<()>,
    /// Look-ups that were out of date when the pin was granted or refused.
    retries: AtomicU64,
    claims: Waits,
    frees: Waits,
    truncations: Waits,
    problems: Vec<Problem>,
    notes: Vec<String>,
}

/// A value, in place: it is not copied, and stays what it is for as long as this is held, whatever
/// happens to its key meanwhile. It may outlive the [`Store`]; the pool file then stays mapped and
/// locked until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it lets go of the value"]
pub(crate) struct Value {
    record: Pinned,
    len: usize,
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.record[..self.len]
    }
}

impl Value {
    /// Verifies the record's checksum again. `get` does not: the pool was verified when it was opened.
    pub(crate) fn verify(&self) -> Result<(), Fault> {
        decode(&self.record).map(drop).map_err(|(fault, _)| fault)
    }

    /// Whether somebody waits for this value to be dropped.
    pub(crate) fn is_wanted(&self) -> bool {
        self.record.pin().is_breaking()
    }
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    pub(crate) id: u64,
    pub(crate) media: &'static str,
    pub(crate) records: u64,
    /// What was found wrong with records when the pool was opened.
    pub(crate) problems: u64,
    /// Bytes of keys and values.
    pub(crate) logical: u64,
    pub(crate) usage: Usage,
    pub(crate) capacity: u64,
    /// Bytes that the file system has allocated.
    pub(crate) allocated: u64,
    /// Freed pages whose blocks the file system would not take back, since the pool was opened.
    pub(crate) unpunched: u64,
}

/// What the store's breaks have cost so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Breaks {
    /// Of freshly allocated pages, before they are written: waits at most for out-of-date look-ups.
    pub(crate) claims: WaitSummary,
    /// Of replaced, deleted and moved records: waits for their readers.
    pub(crate) frees: WaitSummary,
    /// Of the end of the file.
    pub(crate) truncations: WaitSummary,
    pub(crate) retries: u64,
}

impl Breaks {
    /// Without those that `before` has counted. The times are of all waits so far: subtract only what
    /// had none.
    pub(crate) fn since(mut self, before: &Breaks) -> Breaks {
        self.claims.breaks -= before.claims.breaks;
        self.frees.breaks -= before.frees.breaks;
        self.truncations.breaks -= before.truncations.breaks;
        self.retries -= before.retries;
        self
    }
}

impl Store {
    /// The value of `key`, in place. `None`: there is no such key.
    ///
    /// Never waits: it takes a shard of the index for a look-up, twice, and a pin.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] if the record was found damaged when the pool was opened.
    #[track_caller]
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        loop {
            let Some(entry) = self.index.get(key) else {
                return Ok(None);
            };
            if entry.damaged {
                return Err(self.damaged(entry.slot));
            }
            #[cfg(test)]
            BETWEEN.take().into_iter().for_each(|act| act());
            match Pool::pin(&self.guard, entry.extent) {
                // The look-up was before the pin: the pages may have been freed in between, and be
                // somebody else's by now. If the key is still there now, it stays there.
                Ok(record) if self.index.get(key) == Some(entry) => {
                    let len = entry.value_len as usize;
                    return Ok(Some(Value { record, len }));
                }
                // Only pages that no entry names any more are ever closed or cut off. So being
                // refused, too, means that the look-up is out of date, and the next one is not.
                Ok(_) | Err(NotPinned::Outside | NotPinned::Refused(TryPinError::Breaking)) => {
                    self.retries.fetch_add(1, Ordering::Relaxed);
                    std::hint::spin_loop();
                }
                Err(NotPinned::Refused(e)) => return Err(e.into()),
            }
        }
    }

    /// Sets the value of `key`; whether it had one before. When this returns, the new value is durable
    /// and the pages of the old one are free.
    ///
    /// # Blocking
    ///
    /// The new value is published and durable first; then this waits for the readers of the old one.
    pub(crate) fn put(&self, key: &[u8], value: &[u8]) -> Result<bool, StoreError> {
        self.may_write(key)?;
        let (found, max) = (value.len() as u64, self.geometry.max_value());
        if found > max {
            return Err(StoreError::ValueLength { found, max });
        }
        let turn = self.turn(key);
        let old = self.index.get(key);
        let slot = old.map_or_else(|| self.slots.lock().take(), |old| old.slot);
        let seq = self.seq.fetch_add(1, Ordering::Relaxed) + 1;
        let (tail, crc) = tail_of(key, value, seq, slot);
        let written = self
            .guard
            .map()
            .allocate(pages_for(key.len(), found))
            .map_err(StoreError::from)
            .and_then(|extent| {
                let filled = self.fill(extent, &[value, &tail]);
                self.finish(filled, &[extent], &[(slot, pack(extent, crc))])?;
                Ok(extent)
            });
        let extent = match written {
            Ok(extent) => extent,
            Err(e) => {
                if old.is_none() && !self.broken.load(Ordering::Relaxed) {
                    self.slots.lock().give(slot);
                }
                return Err(e);
            }
        };
        let entry = Entry {
            slot,
            extent,
            value_len: found,
            seq,
            damaged: false,
        };
        self.index.set(key, entry);
        drop(turn);
        if let Some(old) = old {
            self.free(old.extent)?;
        }
        Ok(old.is_some())
    }

    /// Removes `key`; whether it was there. When this returns, that is durable and its pages are free.
    ///
    /// # Blocking
    ///
    /// As [`put`](Self::put).
    pub(crate) fn del(&self, key: &[u8]) -> Result<bool, StoreError> {
        self.may_write(key)?;
        let turn = self.turn(key);
        let Some(old) = self.index.get(key) else {
            return Ok(false);
        };
        self.publish(&[(old.slot, 0)])?;
        self.index.remove(key);
        self.slots.lock().give(old.slot);
        drop(turn);
        self.free(old.extent)?;
        Ok(true)
    }

    /// Every key that starts with `prefix`, in order, with its place. What others put or delete
    /// meanwhile may be seen or not.
    pub(crate) fn scan(&self, prefix: &[u8]) -> Vec<(Box<[u8]>, Entry)> {
        self.index.scan(prefix)
    }

    pub(crate) fn stat(&self) -> Result<Stat, StoreError> {
        let pool = self.guard.map();
        let all = self.index.scan(b"");
        let bytes = |(key, entry): &(Box<[u8]>, Entry)| key.len() as u64 + entry.value_len;
        Ok(Stat {
            id: self.id,
            media: pool.media().kind(),
            records: all.len() as u64,
            problems: self.problems.len() as u64,
            logical: all.iter().map(bytes).sum(),
            usage: pool.engine().usage(),
            capacity: self.geometry.capacity,
            allocated: pool.allocated().doing("asking for the file's blocks")?,
            unpunched: pool.unpunched(),
        })
    }

    #[cfg(test)]
    pub(crate) fn space(&self) -> &space::Space {
        self.guard.map().engine()
    }

    pub(crate) fn breaks(&self) -> Breaks {
        Breaks {
            claims: self.claims.summary(),
            frees: self.frees.summary(),
            truncations: self.truncations.summary(),
            retries: self.retries.load(Ordering::Relaxed),
        }
    }

    /// What was found wrong with records when the pool was opened.
    pub(crate) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What else was odd when the pool was opened.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Waits until no [`Value`] is out any more, then unmaps and unlocks the pool file.
    ///
    /// Everything that was acknowledged is durable already; this is for those who want to be the last.
    pub(crate) fn close(self) {
        self.guard.close().wait();
    }

    // ------------------------------------------------------------------------------ the pieces

    /// Writes `parts`, one behind the other, into freshly allocated pages, and flushes them.
    ///
    /// The proof is what makes them ours to write. Nobody reads them, but somebody with a look-up that
    /// is out of date may have pinned them for a moment.
    fn fill(&self, extent: PageRange, parts: &[&[u8]]) -> Result<(), StoreError> {
        let pool = self.guard.map();
        pool.reserve(extent)
            .doing("reserving space in the file system")?;
        let mut at = bytes_of(extent).start;
        let mut proof = self.claims.drain(&self.guard, extent)?;
        for part in parts {
            pool.write(&mut proof, at, part)
                .doing("writing the record")?;
            at += part.len() as u64;
        }
        self.lasting(pool.flush(bytes_of(extent)), "flushing the record")
    }

    /// Publishes the records in `extents`, if they were `filled`. If not, or if that fails, frees
    /// their pages.
    fn finish(
        &self,
        filled: Result<(), StoreError>,
        extents: &[PageRange],
        words: &[(u64, u64)],
    ) -> Result<(), StoreError> {
        if extents.is_empty() {
            return filled;
        }
        let finished = filled
            .and_then(|()| self.fence("waiting for the record"))
            .and_then(|()| self.publish(words));
        // After a failed flush an entry on the media may name these pages: they stay used.
        if finished.is_err() && !self.broken.load(Ordering::Relaxed) {
            for extent in extents {
                self.free(*extent)?;
            }
        }
        finished
    }

    /// Stores directory entries, each in one piece, and flushes them: from here on that is what the
    /// pool says. What they name has been flushed, and fenced, before.
    fn publish(&self, words: &[(u64, u64)]) -> Result<(), StoreError> {
        let pool = self.guard.map();
        for &(slot, word) in words {
            pool.store(slot, word)
                .doing("storing the directory entry")?;
            let flushed = pool.flush(entry_bytes(slot));
            self.lasting(flushed, "flushing the directory entry")?;
        }
        self.fence("waiting for the directory entry")
    }

    fn fence(&self, what: &'static str) -> Result<(), StoreError> {
        self.lasting(self.guard.map().fence(), what)
    }

    /// Notes that a flush or a fence has failed.
    fn lasting(&self, done: io::Result<()>, what: &'static str) -> Result<(), StoreError> {
        if done.is_err() {
            // The kernel may call the pages clean now, and the next flush a success.
            self.broken.store(true, Ordering::Relaxed);
        }
        done.doing(what)
    }

    /// Frees the pages of a record that no entry names any more: waits for its readers, then returns
    /// the pages to the free map and the file system. Records that have had readers are freed with no
    /// lock held.
    fn free(&self, extent: PageRange) -> Result<(), StoreError> {
        let proof = self.frees.drain(&self.guard, extent)?;
        proof.punch_hole(extent)?;
        Ok(())
    }

    fn turn(&self, key: &[u8]) -> MutexGuard<'_, ()> {
        self.turns[turn_of(key)].lock()
    }

    fn may_write(&self, key: &[u8]) -> Result<(), StoreError> {
        if !(1..=MAX_KEY).contains(&key.len()) {
            return Err(StoreError::KeyLength { found: key.len() });
        }
        if !self.guard.map().writable() {
            return Err(StoreError::ReadOnly);
        }
        if self.broken.load(Ordering::Relaxed) {
            return Err(StoreError::Broken);
        }
        Ok(())
    }

    fn damaged(&self, slot: u64) -> StoreError {
        let problem = self.problems.iter().find(|problem| problem.slot == slot);
        match problem {
            Some(problem) => StoreError::Damaged(problem.clone()),
            None => unreachable!("only the walk marks entries as damaged, and it lists each"),
        }
    }
}

fn turn_of(key: &[u8]) -> usize {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(key) as usize % TURNS
}
