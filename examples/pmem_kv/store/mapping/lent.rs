//! Bytes of the pool that are lent: [`Pinned`] to read, by a pin; [`Filling`] to change, by a proof.

use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::slice;

use layout_lease::{Drained, PagePin};

use super::Mapped;
use crate::store::media::Event;

/// Bytes of the pool, lent by a proof: nobody else reads or writes them. Dropping it gives up the proof.
#[derive(Debug)]
pub(crate) struct Filling<'g, E> {
    pub(super) base: NonNull<u8>,
    pub(super) bytes: Range<u64>,
    pub(super) proof: Drained<'g, Mapped<E>>,
}

impl<E> Filling<'_, E> {
    /// Starts writing them back, as [`Mapped::flush`].
    pub(crate) fn flush(&self) -> io::Result<()> {
        let map = self.proof.guard().map();
        let (at, bytes) = (self.bytes.start, &**self);
        map.mapping.media.saw(Event::Store { at, bytes });
        map.flush(self.bytes.clone())
    }
}

impl<E> Deref for Filling<'_, E> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let len = (self.bytes.end - self.bytes.start) as usize;
        // SAFETY: as in `deref_mut`, of which this is the half.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), len) }
    }
}

impl<E> DerefMut for Filling<'_, E> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = (self.bytes.end - self.bytes.start) as usize;
        // SAFETY: the bytes are those of pages that `proof` covers (invariant of `Filling`).
        // - They are mapped: the proof borrows the guard, which owns the mapping.
        // - They are in the file: they were, and `shrink` wants a proof of its own for them.
        // - Nobody reads them: while the proof lives no pin overlaps it (I1, I2), so no `Pinned` lends
        //   them; and nobody writes them: no other proof does either (I3), and this one is in here.
        // - What was done with them under pins and proofs before is over, and visible (I7).
        // So they are ours alone for as long as `self` is borrowed, and bytes may have any value.
        unsafe { slice::from_raw_parts_mut(self.base.as_ptr(), len) }
    }
}

/// Bytes of the pool, lent by a pin. They stay what they are until this is dropped; frees, moves and
/// truncations of these pages wait for that.
#[derive(Debug)]
#[must_use = "dropping it gives the pages back"]
pub(crate) struct Pinned {
    pub(super) base: NonNull<u8>,
    pub(super) len: usize,
    pub(super) pin: PagePin,
}

// SAFETY: it is a shared view of bytes that nobody changes (see `deref`), and `PagePin` may be
// dropped on any thread (I9).
unsafe impl Send for Pinned {}
// SAFETY: as above; it lends only `&[u8]`.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// The pin that holds the pages.
    pub(crate) fn pin(&self) -> &PagePin {
        &self.pin
    }
}

impl Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are those of the pages that `pin` holds (invariant of `Pinned::base`).
        // - They are mapped: by I9 the guard's map, which owns the mapping, outlives the pin.
        // - They are in the file: it had them after the pin was granted, and `shrink` wants a proof.
        // - Nobody writes them: `fill` and `punch` want a proof, and by I1 and I2 there is none
        //   while the pin lives. By I7 everything written under an earlier proof is visible.
        // So they are initialised and immutable for as long as `self` is borrowed.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}
