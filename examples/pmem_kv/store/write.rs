//! The way of a record to the media: reserve pages, fill them, flush, publish.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;

use layout_lease::PageRange;

use super::Store;
use super::error::{Doing, StoreError};
use super::format::{entry_bytes, pack, pages_for, tail_of};
use super::index::Entry;
use super::mapping::Filling;
use super::retired::PinnedPages;
use super::space::{Pool, Space, SpaceError};

/// Freshly allocated pages, to be filled. Unless they are published, dropping this frees them.
#[derive(Debug)]
#[must_use = "dropping it frees the pages again"]
pub(crate) struct Fresh<'s> {
    store: &'s Store,
    extent: PageRange,
    /// Until they are flushed.
    pub(super) filling: Option<Filling<'s, Space>>,
    published: bool,
}

impl Fresh<'_> {
    pub(crate) fn extent(&self) -> PageRange {
        self.extent
    }

    /// Starts writing the pages back; they are not changed any more.
    pub(crate) fn flush(&mut self) -> Result<(), StoreError> {
        let flushed = self
            .filling
            .take()
            .map_or(Ok(()), |filling| filling.flush());
        self.store.lasting(flushed, "flushing the record")
    }
}

impl Deref for Fresh<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.filling.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Fresh<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.filling.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        // After a failed flush an entry on the media may name these pages: they stay used.
        if self.published || self.store.broken.load(Ordering::Relaxed) {
            return;
        }
        self.filling = None;
        // Nobody reads them, so this frees them now. Should it fail they stay used, and are told as such.
        let _ = self.store.retire(self.extent, 0);
    }
}

impl Store {
    /// Pages for a value of `len` bytes with a key of `key`, to be filled from the first byte on.
    pub(crate) fn reserve(&self, key: usize, len: u64) -> Result<Fresh<'_>, StoreError> {
        let max = self.geometry.max_value();
        if len > max {
            return Err(StoreError::ValueLength { found: len, max });
        }
        let pages = pages_for(key, len);
        let allocate = || self.guard.map().allocate(pages);
        let extent = match allocate() {
            // Readers may have gone since: then there is more.
            Err(SpaceError::Full { .. }) if self.reclaim()? > 0 => allocate(),
            extent => extent,
        };
        match extent {
            Ok(extent) => self.fresh(extent),
            Err(full @ SpaceError::Full { .. }) => {
                let PinnedPages { pages, holders } = self.pinned()?;
                Err(match holders.split_first() {
                    Some((first, others)) => StoreError::FullOfPinned {
                        full,
                        pages,
                        first: first.to_string(),
                        others: others.len(),
                    },
                    None => full.into(),
                })
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Makes freshly allocated pages ours to write. Nobody reads them, but somebody with a look-up that
    /// is out of date may have pinned them for a moment.
    pub(crate) fn fresh(&self, extent: PageRange) -> Result<Fresh<'_>, StoreError> {
        let mut fresh = Fresh {
            store: self,
            extent,
            filling: None,
            published: false,
        };
        let pool = self.guard.map();
        pool.reserve(extent)
            .doing("reserving space in the file system")?;
        let proof = self.claims.drain(&self.guard, extent)?;
        fresh.filling = Some(Pool::fill(proof, extent).doing("writing the record")?);
        Ok(fresh)
    }

    /// Makes what was filled in the value of `key`: its first `len` bytes. Whether it had one before.
    ///
    /// # Blocking
    ///
    /// Waits for the media, and for other writers of the key; not for readers.
    pub(crate) fn commit(
        &self,
        key: &[u8],
        mut fresh: Fresh<'_>,
        len: u64,
    ) -> Result<bool, StoreError> {
        let turn = self.turn(key);
        let seq = self.next_number()?;
        let old = self.index.get(key);
        let slot = match old {
            Some(old) => old.slot,
            None => self.slots.lock().take().ok_or(StoreError::DirectoryFull)?,
        };
        let (value, rest) = fresh.split_at_mut(len as usize);
        let (tail, crc) = tail_of(key, value, seq, slot);
        rest.copy_from_slice(&tail);
        let extent = fresh.extent();
        // Whatever fails here, nothing more is written: `slot` need not be given back.
        fresh.flush()?;
        let position = self.publish(&mut [fresh], &[(slot, pack(extent, crc))])?;
        let entry = Entry {
            slot,
            extent,
            value_len: len,
            seq,
            damaged: false,
        };
        self.index.set(key, entry);
        drop(turn);
        if let Some(old) = old {
            self.retire(old.extent, position)?;
        }
        Ok(old.is_some())
    }

    /// Waits for the records in `fresh`, which were flushed. Then stores directory entries, each in one
    /// piece, and waits for them: from here on that is what the pool says. The log position of that.
    pub(crate) fn publish(
        &self,
        fresh: &mut [Fresh<'_>],
        words: &[(u64, u64)],
    ) -> Result<u64, StoreError> {
        if !fresh.is_empty() {
            self.fence("waiting for the record")?;
        }
        let pool = self.guard.map();
        let position = self.positions.lock().begin();
        for &(slot, word) in words {
            self.lasting(pool.store(slot, word), "storing the directory entry")?;
            let flushed = pool.flush(entry_bytes(slot));
            self.lasting(flushed, "flushing the directory entry")?;
        }
        self.fence("waiting for the directory entry")?;
        for fresh in fresh {
            fresh.published = true;
        }
        let durable = self.positions.lock().end(position);
        self.guard.durable(durable);
        Ok(position)
    }

    /// A greater sequence number than any record has. A pool file can say that there is none.
    fn next_number(&self) -> Result<u64, StoreError> {
        let next = |last: u64| last.checked_add(1);
        let last = self
            .seq
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        last.map(|last| last + 1)
            .map_err(|_| StoreError::NoNumberLeft)
    }

    /// Empties the entries of older records of `key`, durably, before the newest one goes: else the next
    /// who opens the pool would take the newest of them for the value. Their pages stay used until then.
    pub(crate) fn forget_older(&self, key: &[u8]) -> Result<(), StoreError> {
        let of_key = |(of, slot): &(Box<[u8]>, u64)| (**of == *key).then_some((*slot, 0));
        let words: Vec<_> = self.older.lock().iter().filter_map(of_key).collect();
        if words.is_empty() {
            return Ok(());
        }
        self.publish(&mut [], &words)?;
        self.older.lock().retain(|(of, _)| **of != *key);
        let mut slots = self.slots.lock();
        words.iter().for_each(|(slot, _)| slots.give(*slot));
        Ok(())
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
}
