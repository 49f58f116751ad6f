//! The store: an append-only log of records in segments of one plain file, and an index in memory.
//!
//! Records are never changed in place. A newer one goes to the end of the log, and the index names it; the old one
//! is garbage until the compactor copies what is alive of its segment to the end and punches the segment out.
//! Then the segment is appended to again: from here on its bytes are somebody else's.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use layout_lease::maps::FileBlocks;
use layout_lease::{LayoutGuard, PagePin, PageRange, TryBreakError, TryPinError};

use crate::record;

pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// In bytes; what is pinned and punched.
const PAGE: u64 = 4096;
/// In bytes.
pub(crate) const SEGMENT: u64 = 16 * PAGE;
/// The file never has more.
const SEGMENTS: u64 = 64;
/// For the compactor alone: it needs room before it makes any.
const SPARE: u64 = 2;
/// A break that takes longer is a hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the newest record of a key is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Place {
    pub(crate) at: u64,
    pub(crate) len: u64,
    pub(crate) version: u64,
}

impl Place {
    fn bytes(self) -> Range<u64> {
        self.at..self.at + self.len
    }
}

/// The end of the log, and the segments that have nothing.
#[derive(Debug)]
struct Log {
    at: u64,
    free: BTreeSet<u64>,
    /// How many segments the file has.
    end: u64,
    over: bool,
}

impl Log {
    fn room(&self) -> u64 {
        self.free.len() as u64 + SEGMENTS - self.end
    }
}

pub(crate) struct Store {
    guard: LayoutGuard<FileBlocks>,
    /// Where the readers of `--no-lease` pin: nobody ever breaks this one.
    elsewhere: Option<LayoutGuard<()>>,
    log: Mutex<Log>,
    /// A segment was begun or freed, or it is over.
    changed: Condvar,
    index: RwLock<HashMap<u64, Place>>,
}

/// A record that stays what and where it is for as long as this lives.
pub(crate) struct View<'a> {
    file: &'a File,
    pub(crate) place: Place,
    _pin: PagePin,
}

impl View<'_> {
    /// Some bytes of the record, from `offset` on.
    pub(crate) fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, self.place.at + offset)
    }
}

/// What one turn of the compactor did.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    pub(crate) copied: u64,
    pub(crate) freed: u64,
    pub(crate) holders: u64,
    pub(crate) cut: u64,
}

impl Store {
    pub(crate) fn new(file: File, lease: bool) -> Outcome<Store> {
        file.set_len(SEGMENT)?;
        Ok(Store {
            guard: LayoutGuard::new(FileBlocks::in_place(file, PAGE)?),
            elsewhere: (!lease).then(LayoutGuard::default),
            log: Mutex::new(Log {
                at: 0,
                free: BTreeSet::new(),
                end: 1,
                over: false,
            }),
            changed: Condvar::new(),
            index: RwLock::default(),
        })
    }

    pub(crate) fn file(&self) -> &File {
        self.guard.map().file()
    }

    pub(crate) fn file_system(&self) -> String {
        self.guard.map().file_system().to_string()
    }

    pub(crate) fn index(&self) -> HashMap<u64, Place> {
        self.index.read().unwrap().clone()
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }

    /// Ends the waiting of [`put`](Self::put) and [`compact`](Self::compact).
    pub(crate) fn stop(&self) {
        self.log().over = true;
        self.changed.notify_all();
    }

    // ------------------------------------------------------------------------------------ readers

    /// The newest record of `key`, and how often it had moved before it could be pinned.
    pub(crate) fn get(&self, key: u64) -> Outcome<Option<(View<'_>, u64)>> {
        let look = || self.index.read().unwrap().get(&key).copied();
        let mut moved = 0;
        loop {
            let Some(place) = look() else { return Ok(None) };
            let pages = PageRange::covering_bytes(place.bytes(), PAGE)?;
            let pin = match &self.elsewhere {
                None => self.guard.try_pin(pages),
                Some(elsewhere) => elsewhere.try_pin(pages),
            };
            match pin {
                // Looked up again under the pin: before it, the segment may have been freed and filled anew.
                Ok(pin) if look() == Some(place) => {
                    let file = self.file();
                    let view = View {
                        file,
                        place,
                        _pin: pin,
                    };
                    return Ok(Some((view, moved)));
                }
                // Being freed, so the index names another place by now; there is nothing to wait for.
                Ok(_) | Err(TryPinError::Breaking) => moved += 1,
                Err(e) => return Err(e.into()),
            }
        }
    }

    // ------------------------------------------------------------------------------------- writer

    /// Appends a record, once there is room. `false`: it is over.
    pub(crate) fn put(&self, key: u64, version: u64, len: u64) -> Outcome<bool> {
        let blocked = |log: &mut Log| log.room() < SPARE && !log.over;
        let log = self.changed.wait_while(self.log(), blocked).unwrap();
        if log.over {
            return Ok(false);
        }
        self.append(log, key, &record::of(key, version, len), version)?;
        Ok(true)
    }

    /// Writes and names a record in one step, so that no sealed segment gets one that the compactor has not seen.
    fn append(
        &self,
        mut log: MutexGuard<'_, Log>,
        key: u64,
        record: &[u8],
        version: u64,
    ) -> Outcome<()> {
        let len = record.len() as u64;
        if log.at / SEGMENT != (log.at + len) / SEGMENT {
            let segment = log.free.pop_first().unwrap_or(log.end);
            log.end = log.end.max(segment + 1);
            log.at = segment * SEGMENT;
            self.changed.notify_all();
        }
        let at = log.at;
        // Never refused: nobody breaks a segment that is not sealed, nor behind the end without this lock.
        let pages = PageRange::covering_bytes(at..at + len, PAGE)?;
        let pin = self.guard.try_pin(pages)?;
        self.file().write_all_at(record, at)?;
        drop(pin);
        log.at += len;
        let place = Place { at, len, version };
        self.index.write().unwrap().insert(key, place);
        Ok(())
    }

    // ---------------------------------------------------------------------------------- compactor

    /// Empties the sealed segment with the most garbage, if one is worth it, and frees it. `None`: it is over.
    pub(crate) fn compact(&self) -> Outcome<Option<Turn>> {
        let mut victim = None;
        let log = self.changed.wait_while(self.log(), |log| {
            victim = self.victim(log);
            victim.is_none() && !log.over
        });
        let over = log.unwrap().over;
        let Some(victim) = victim.filter(|_| !over) else {
            return Ok(None);
        };
        let mut turn = Turn::default();
        let here = victim * SEGMENT..(victim + 1) * SEGMENT;
        for (key, old) in self.index() {
            // Only this thread frees, so the old place needs no pin.
            if here.contains(&old.at) {
                let mut record = vec![0; old.len as usize];
                self.file().read_exact_at(&mut record, old.at)?;
                let log = self.log();
                // Unless the writer was faster.
                let named = self.index.read().unwrap().get(&key) == Some(&old);
                if named {
                    self.append(log, key, &record, old.version)?;
                    turn.copied += 1;
                }
            }
        }
        // The index does not name the segment any more. Those who are in it may stay; nobody gets in.
        let pages = PageRange::covering_bytes(here, PAGE)?;
        let mut punch = self.guard.punch_hole(pages);
        turn.holders = punch.breaking().holders().len() as u64;
        let freed = punch.wait_timeout(PATIENCE);
        let freed = freed.ok_or_else(|| format!("stuck: {:?}", punch.breaking().holders()))?;
        turn.freed = freed?;

        // Open again: now it may be handed out. (Under the proof its new owner would be refused.)
        let mut log = self.log();
        log.free.insert(victim);
        turn.cut = self.cut(&mut log)?;
        self.changed.notify_all();
        Ok(Some(turn))
    }

    /// The sealed segment with the fewest bytes that are alive, if a quarter of it is garbage.
    fn victim(&self, log: &Log) -> Option<u64> {
        let mut alive = vec![0; log.end as usize];
        for place in self.index.read().unwrap().values() {
            alive[(place.at / SEGMENT) as usize] += place.len;
        }
        let sealed = |s: &u64| *s != log.at / SEGMENT && !log.free.contains(s);
        let best = (0..log.end)
            .filter(sealed)
            .min_by_key(|s| alive[*s as usize])?;
        (alive[best as usize] < SEGMENT / 4 * 3).then_some(best)
    }

    /// Gives free segments at the end of the file back to the file system, unless somebody is still there.
    fn cut(&self, log: &mut Log) -> Outcome<u64> {
        let mut end = log.end;
        while end > 1 && log.free.contains(&(end - 1)) {
            end -= 1;
        }
        if end == log.end {
            return Ok(0);
        }
        // The log is locked, so nobody waits here: whoever is waited for might be waiting for the lock.
        let first = end * SEGMENT / PAGE;
        let proof = match self.guard.try_break_layouts(first..) {
            Ok(proof) => proof,
            Err(TryBreakError::Busy(_)) => return Ok(0),
            Err(e) => return Err(e.into()),
        };
        proof.truncate(first)?;
        let cut = log.end - end;
        log.free.retain(|segment| *segment < end);
        log.end = end;
        Ok(cut)
    }
}
