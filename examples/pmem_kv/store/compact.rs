//! Compaction: records move to the front, the file gets shorter. Readers go on meanwhile.
//!
//! A move is a `put` of the same record to a lower place: copy, flush, publish, index, retire the old
//! pages; for a batch of records at a time, so that they share the fences. Then the free pages at the end
//! are cut off. Pages that somebody still reads stay, and are reported with their holders.

use super::error::StoreError;
use super::format::{PAGE, decode, pack};
use super::index::Entry;
use super::retired::PinnedPages;
use super::space::Pool;
use super::write::Fresh;
use super::{PageRange, Store, lock, turn_of};

/// So many records are moved at a time.
const BATCH: usize = 64;

/// A key and where it is.
type Located = (Box<[u8]>, Entry);

/// What one batch moves.
#[derive(Default)]
struct Moves<'s> {
    old: Vec<PageRange>,
    new: Vec<Fresh<'s>>,
    words: Vec<(u64, u64)>,
    located: Vec<Located>,
}

/// How hard to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Move what fits into a hole further down.
    Fit,
    /// Then close the holes that are too small for what is behind them: move that to the end, and
    /// from there back down. Twice the writing, and it needs that much room at the end.
    Pack,
}

/// What a compaction has done.
#[derive(Debug, Default)]
pub(crate) struct Compaction {
    /// Records moved, and their bytes in whole pages.
    pub(crate) moved: u64,
    pub(crate) bytes: u64,
    /// Pages by which the file became shorter.
    pub(crate) cut: u64,
    /// Pages that were left, since they are pinned, and who pins them.
    pub(crate) pinned: PinnedPages,
    /// Records that were not moved because their checksum is wrong.
    pub(crate) skipped: u64,
}

impl Store {
    /// Compacts while `go_on` says so; one compaction at a time.
    ///
    /// # Blocking
    ///
    /// Waits for the media and for writers of the keys it moves; not for readers.
    pub(crate) fn compact(
        &self,
        effort: Effort,
        go_on: impl Fn() -> bool,
    ) -> Result<Compaction, StoreError> {
        self.may_write(b"-")?;
        let _alone = lock(&self.compacting);
        let mut done = Compaction::default();
        // Every move goes down, so this ends; the bound is for a writer that keeps making holes.
        for _ in 0..32 {
            let before = done.moved;
            self.fill_holes(&mut done, &go_on)?;
            self.cut_tail(&mut done)?;
            let more = match effort {
                Effort::Pack if done.moved == before => self.close_gap(&mut done, &go_on)?,
                _ => done.moved > before,
            };
            if !more || !go_on() {
                break;
            }
        }
        done.pinned = self.pinned()?;
        self.cut_tail(&mut done)?;
        Ok(done)
    }

    /// From the end of the file: each record that lies behind where a packed file would end, to the
    /// lowest hole that takes it.
    fn fill_holes(
        &self,
        done: &mut Compaction,
        go_on: &impl Fn() -> bool,
    ) -> Result<(), StoreError> {
        let packed = self.geometry.first() + self.guard.map().engine().usage().used;
        let mut behind = self.by_place();
        behind.retain(|(_, entry)| entry.extent.end() > packed);
        behind.reverse();
        for batch in behind.chunks(BATCH) {
            if !go_on() {
                break;
            }
            self.relocate(batch, done, |pool, extent| {
                pool.allocate_below(extent.len(), extent.start())
            })?;
        }
        Ok(())
    }

    /// From the first hole on: the records behind it go to the end, and then, since the hole has grown
    /// by their pages, back to where the hole began.
    fn close_gap(
        &self,
        done: &mut Compaction,
        go_on: &impl Fn() -> bool,
    ) -> Result<bool, StoreError> {
        let start = done.moved;
        let Some(gap) = self.guard.map().engine().first_gap() else {
            return Ok(false);
        };
        let mut behind = self.by_place();
        behind.retain(|(_, entry)| entry.extent.start() >= gap.end());
        for batch in behind.chunks(BATCH) {
            if !go_on() {
                break;
            }
            let high =
                self.relocate(batch, done, |pool, extent| pool.allocate(extent.len()).ok())?;
            self.relocate(&high, done, |pool, extent| {
                pool.allocate_below(extent.len(), extent.start())
            })?;
        }
        Ok(done.moved > start)
    }

    fn by_place(&self) -> Vec<Located> {
        let mut all = self.scan(b"");
        all.sort_unstable_by_key(|(_, entry)| entry.extent.start());
        all
    }

    /// Moves those of the records that were not replaced meanwhile and have a place to go to; two
    /// flushes for all of them. Returns where they are now.
    fn relocate(
        &self,
        records: &[Located],
        done: &mut Compaction,
        mut place: impl FnMut(&Pool, PageRange) -> Option<PageRange>,
    ) -> Result<Vec<Located>, StoreError> {
        self.may_write(b"-")?;
        // Whoever else takes a turn takes one only, so holding several, each once, cannot deadlock.
        let mut turns: Vec<usize> = records.iter().map(|(key, _)| turn_of(key)).collect();
        turns.sort_unstable();
        turns.dedup();
        let turns: Vec<_> = turns.into_iter().map(|i| lock(&self.turns[i])).collect();

        let mut moves = Moves::default();
        for (key, entry) in records {
            if self.index.get(key) != Some(*entry) {
                continue;
            }
            // It is this key's turn, so the record stays where it is: a pin cannot be refused.
            let Ok(record) = Pool::pin(&self.guard, entry.extent) else {
                continue;
            };
            let Ok(crc) = decode(&record).map(|record| record.crc) else {
                done.skipped += 1;
                continue;
            };
            let Some(extent) = place(self.guard.map(), entry.extent) else {
                continue;
            };
            let mut fresh = self.fresh(extent)?;
            fresh.copy_from_slice(&record);
            fresh.flush()?;
            moves.old.push(entry.extent);
            moves.new.push(fresh);
            moves.words.push((entry.slot, pack(extent, crc)));
            moves
                .located
                .push((key.clone(), Entry { extent, ..*entry }));
        }
        if moves.new.is_empty() {
            return Ok(Vec::new());
        }
        let position = self.publish(&mut moves.new, &moves.words)?;
        for (key, entry) in &moves.located {
            self.index.set(key, *entry);
        }
        drop(turns);
        for extent in &moves.old {
            self.retire(*extent, position)?;
            done.moved += 1;
            done.bytes += extent.len() * PAGE;
        }
        Ok(moves.located)
    }

    /// Cuts the free pages at the end of the file off.
    fn cut_tail(&self, done: &mut Compaction) -> Result<(), StoreError> {
        let pool = self.guard.map();
        // From here on nobody gets those pages; from `drain` on nobody pins them.
        let Some(at) = pool.set_tail_aside() else {
            return Ok(());
        };
        let cut = PageRange::from_bounds(at..)
            .map_err(|e| StoreError::Break(e.into()))
            .and_then(|behind| Ok(self.truncations.drain(&self.guard, behind)?))
            .and_then(|proof| Ok(proof.truncate(at)?));
        match cut {
            Ok(pages) => done.cut += pages,
            Err(e) => {
                pool.put_tail_back();
                return Err(e);
            }
        }
        Ok(())
    }
}
