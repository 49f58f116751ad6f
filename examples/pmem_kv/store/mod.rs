//! A small key-value store in a memory-mapped pool file, whose every free goes through
//! `break_layouts`.
//!
//! # The map, in flow order
//!
//! ```text
//! put -> allocate -> claim (break) -> fill, flush -> publish, flush -> index -> retire the old
//! get -> index -> pin -> index again -> Value
//! ```
//!
//! | file | one word of the flow |
//! | --- | --- |
//! | [`mod`](self) | `put`, `get`, `del`, `scan` |
//! | [`open`] | make and open a pool file: lock, superblock, recovery |
//! | [`format`](self::format) | what is on the media, to the byte; why it is crash-consistent |
//! | [`mapping`] | the mapped file: bytes by a pin, changes by a proof, cache lines, the ring; all the `unsafe` |
//! | [`media`] | how stores become durable: pmem, file, volatile |
//! | [`space`] | the free map; the pool's `BlockMap` |
//! | [`slots`] | the empty directory entries |
//! | [`index`] | key to place, in memory |
//! | [`write`](self::write) | a record's way to the media |
//! | [`retired`] | pages that nobody names any more, and some may still read |
//! | [`transfer`] | `export` and `import`: a device reads and writes values in place |
//! | [`waits`] | breaking, and what it cost |
//! | [`check`] | the walk that recovers and verifies |
//! | [`compact`] | moves records to the front, cuts the file off |
//! | [`error`] | what is refused, and why |
//!
//! # Who waits for whom
//!
//! Readers wait for nobody, and nobody waits for readers: what they still hold is freed by whoever comes
//! by after they have let go. Writers of one key wait for each other, and all of them for the media.

pub(crate) mod check;
pub(crate) mod compact;
pub(crate) mod error;
pub(crate) mod format;
pub(crate) mod index;
pub(crate) mod mapping;
pub(crate) mod media;
pub(crate) mod open;
pub(crate) mod retired;
pub(crate) mod slots;
pub(crate) mod space;
pub(crate) mod transfer;
pub(crate) mod waits;
pub(crate) mod write;

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use layout_lease::{LayoutGuard, PageRange, TryPinError};
use parking_lot::{Mutex, MutexGuard};

use self::error::{Doing, Problem, StoreError};
use self::format::{Fault, Geometry, MAX_KEY, decode};
use self::index::{Entry, Index};
use self::mapping::{NotPinned, Pinned};
use self::retired::{Kept, Positions};
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
    /// What this thread does instead of sleeping, while others have a lock for as long as the media take.
    pub(crate) static ASIDE: std::cell::Cell<Option<fn()>> = const { std::cell::Cell::new(None) };
}

/// An open pool. `&self` everywhere: share it between threads.
#[derive(Debug)]
pub(crate) struct Store {
    guard: Arc<LayoutGuard<Pool>>,
    index: Index,
    geometry: Geometry,
    id: u64,
    turns: [Mutex<()>; TURNS],
    slots: Mutex<Slots>,
    /// The sequence number that was given last.
    seq: AtomicU64,
    /// A flush has failed.
    broken: AtomicBool,
    positions: Mutex<Positions>,
    /// What was retired and not free at once.
    kept: Mutex<Vec<Kept>>,
    compacting: Mutex<()>,
    /// Keys with more than one sound record, and the entries of those that do not count.
    older: Mutex<Vec<(Box<[u8]>, u64)>>,
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

    /// Sets the value of `key`; whether it had one before. When this returns, the new value is durable,
    /// and the pages of the old one are free as soon as nobody reads them.
    pub(crate) fn put(&self, key: &[u8], value: &[u8]) -> Result<bool, StoreError> {
        self.may_write(key)?;
        let len = value.len() as u64;
        let mut fresh = self.reserve(key.len(), len)?;
        fresh[..value.len()].copy_from_slice(value);
        self.commit(key, fresh, len)
    }

    /// Removes `key`; whether it was there. When this returns, that is durable, and its pages are free as
    /// soon as nobody reads them.
    pub(crate) fn del(&self, key: &[u8]) -> Result<bool, StoreError> {
        self.may_write(key)?;
        let turn = self.turn(key);
        let Some(old) = self.index.get(key) else {
            return Ok(false);
        };
        self.forget_older(key)?;
        let position = self.publish(&mut [], &[(old.slot, 0)])?;
        self.index.remove(key);
        self.slots.lock().give(old.slot);
        drop(turn);
        self.retire(old.extent, position)?;
        Ok(true)
    }

    /// Every key that starts with `prefix`, in order, with its place. What others put or delete
    /// meanwhile may be seen or not.
    pub(crate) fn scan(&self, prefix: &[u8]) -> Vec<(Box<[u8]>, Entry)> {
        self.index.scan(prefix)
    }

    /// The kind of media that is in force.
    pub(crate) fn media(&self) -> &'static str {
        self.guard.map().media().kind()
    }

    pub(crate) fn stat(&self) -> Result<Stat, StoreError> {
        let pool = self.guard.map();
        let all = self.index.scan(b"");
        let bytes = |(key, entry): &(Box<[u8]>, Entry)| key.len() as u64 + entry.value_len;
        Ok(Stat {
            id: self.id,
            media: self.media(),
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
    pub(crate) fn guard(&self) -> &LayoutGuard<Pool> {
        &self.guard
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

    /// Makes every break find nobody to wait for, to show what that leads to.
    ///
    /// # Safety
    ///
    /// See [`Mapped::without_lease`](mapping::Mapped::without_lease): there is none.
    pub(crate) unsafe fn without_lease(&self, shrinks: bool) {
        // SAFETY: none, as the caller was told.
        unsafe { self.guard.map().without_lease(shrinks) };
    }

    /// Waits until no [`Value`] is out any more, then unmaps and unlocks the pool file.
    ///
    /// Everything that was acknowledged is durable already; this is for those who want to be the last.
    pub(crate) fn close(self) {
        self.guard.close().wait();
    }

    fn turn(&self, key: &[u8]) -> MutexGuard<'_, ()> {
        lock(&self.turns[turn_of(key)])
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

/// Takes a lock that others hold while they wait for the media.
fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    #[cfg(test)]
    if let Some(aside) = ASIDE.get() {
        while mutex.is_locked() {
            aside();
        }
    }
    mutex.lock()
}

fn turn_of(key: &[u8]) -> usize {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(key) as usize % TURNS
}
