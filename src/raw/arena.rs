//! A table that only grows and never moves, so that its entries can be borrowed for ever.
//!
//! Problem: slots and records must be reachable from any thread without a reference count and without
//! `unsafe`. Idea: they live in a `static` table and are recycled, never freed.
//!
//! Chunks come in groups of [`PER_GROUP`]; the chunks of one group are equally long and those of the
//! next twice as long. So at most about one eighth of the table is unused, and an index is found with
//! a few shifts.

use std::sync::OnceLock;

use crate::sync::{AtomicUsize, MODEL, Mutex, Ordering, const_new, load_own, order};

const PER_GROUP: usize = 8;
const GROUPS: usize = if MODEL { 2 } else { 20 };
const CHUNKS: usize = PER_GROUP * GROUPS;

/// A growing table of `T`; `FIRST` is the length of its first chunk (a power of two).
pub(crate) struct Arena<T, const FIRST: usize> {
    chunks: [OnceLock<Box<[T]>>; CHUNKS],
    /// How many entries are in use. Grows only.
    len: AtomicUsize,
    growing: Mutex<()>,
}

impl<T, const FIRST: usize> Arena<T, FIRST> {
    const_new! {
        pub(crate) fn new() -> Self {
            Self {
                chunks: [const { OnceLock::new() }; CHUNKS],
                len: AtomicUsize::new(0),
                growing: Mutex::new(()),
            }
        }
    }

    /// Puts one more entry into use; `make` is given the index of each entry that it makes.
    ///
    /// # Panics
    ///
    /// After about `FIRST * 2^23` entries, long after memory has run out.
    pub(crate) fn push(&self, make: impl Fn(usize) -> T) -> &T {
        let _growing = self.growing.lock();
        let index = load_own!(self.len, Ordering::Relaxed);
        let (chunk, offset, len) = Self::locate(index);
        let entry = &self.chunks[chunk]
            .get_or_init(|| (index - offset..index - offset + len).map(make).collect())[offset];
        // Pairs with the Acquire load in `iter`: who counts the entry sees it made.
        self.len
            .store(index + 1, order!(Release, "length_stored_relaxed"));
        entry
    }

    /// The entry with this index, which the caller has from `make`.
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        let (chunk, offset, _) = Self::locate(index);
        self.chunks.get(chunk)?.get()?.get(offset)
    }

    /// The index of the entry that has `address` in it.
    pub(crate) fn position_of(&self, address: usize) -> Option<usize> {
        let mut index = 0;
        for chunk in self.chunks.iter().map_while(OnceLock::get) {
            let within = address.wrapping_sub(chunk.as_ptr().addr()) / size_of::<T>();
            if within < chunk.len() {
                return Some(index + within);
            }
            index += chunk.len();
        }
        None
    }

    /// The entries that are in use now, in the order in which they came into use.
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        // Pairs with the Release store in `push`.
        let mut left = self.len.load(order!(Acquire, "length_seen_relaxed"));
        self.chunks
            .iter()
            .map_while(move |chunk| {
                let chunk = chunk.get().filter(|_| left > 0)?;
                let used = &chunk[..left.min(chunk.len())];
                left -= used.len();
                Some(used)
            })
            .flatten()
    }

    /// The chunk an index lies in, its offset there, and that chunk's length.
    fn locate(index: usize) -> (usize, usize, usize) {
        let group = (index / (PER_GROUP * FIRST) + 1).ilog2() as usize;
        let len = FIRST << group;
        let within = index - PER_GROUP * FIRST * ((1 << group) - 1);
        (PER_GROUP * group + within / len, within % len, len)
    }
}

#[cfg(all(test, not(any(lease_loom, lease_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn every_index_has_its_own_place_and_chunks_fill_in_order() {
        let mut expected = (0, 0);
        for index in 0..10_000 {
            let (chunk, offset, len) = Arena::<u8, 4>::locate(index);
            assert_eq!((chunk, offset), expected, "index {index}");
            expected = if offset + 1 == len {
                (chunk + 1, 0)
            } else {
                (chunk, offset + 1)
            };
        }
    }

    #[test]
    fn entries_stay_where_they_are_while_the_table_grows() {
        let arena = Arena::<usize, 2>::new();
        let first: *const usize = arena.push(|i| i);
        for n in 1..1_000 {
            assert_eq!(*arena.push(|i| i), n);
            assert_eq!(arena.get(n), Some(&n));
            let address = std::ptr::from_ref(arena.get(n).unwrap()).addr();
            assert_eq!(arena.position_of(address), Some(n));
        }
        assert_eq!(arena.position_of(std::ptr::from_ref(&arena).addr()), None);
        let short = Arena::<usize, 2>::new();
        let behind = std::ptr::from_ref(short.push(|i| i)).wrapping_add(2).addr();
        assert_eq!(short.position_of(behind), None);
        assert!(std::ptr::eq(first, arena.iter().next().unwrap()));
        assert!(arena.iter().copied().eq(0..1_000));
    }
}
