//! The scan: which pins overlap some pages, read off the slots of all threads.
//!
//! The answer is exact for pages that are closed, with a barrier behind the closing, and under the
//! record's lock: then no pin of theirs can come into being, and [`Slot::snapshot`] sees through slots
//! that are in transition (I11). Its cost is the number of slots that threads of the process have in
//! use; the lengths of the ranges and of the file do not come into it.
//!
//! [`Slot::snapshot`]: crate::raw::slots::Slot::snapshot

use std::panic::Location;
use std::thread::ThreadId;

use crate::range::PageRange;
use crate::raw::blocks::{self, Block};
use crate::raw::slots::Slot;

/// One pin that a scan found.
pub(crate) struct Found {
    pub(crate) range: PageRange,
    pub(crate) location: Option<&'static Location<'static>>,
    pub(crate) thread: Option<ThreadId>,
    /// Its pinner may still step back.
    pub(crate) pending: bool,
}

/// Calls `found` for every pin of `record` that overlaps one of `ranges`.
pub(crate) fn scan(record: u32, ranges: &[PageRange], mut found: impl FnMut(Found)) {
    let wanted = |range: PageRange| ranges.iter().any(|r| r.overlaps(&range));
    scan_for(record, ranges, |block, n, slot| {
        // Looked at once more: the pin may have gone, and the thread have filled the slot for itself. So the thread is
        // asked for before and after.
        let before = block.thread_of(n);
        let Some(seen) = slot.snapshot(record, wanted) else {
            return;
        };
        found(Found {
            range: seen.range,
            location: seen.location,
            thread: before.filter(|_| block.thread_of(n) == before),
            pending: seen.pending,
        });
    });
}

/// Calls `found` with the block, the number and the place of every slot that has a pin of `record` which overlaps
/// one of `ranges`.
fn scan_for(
    record: u32,
    ranges: &[PageRange],
    mut found: impl FnMut(&'static Block, usize, &'static Slot),
) {
    match ranges {
        [only] => look_through(record, |range| only.overlaps(&range), &mut found),
        _ => look_through(
            record,
            |range| ranges.iter().any(|r| r.overlaps(&range)),
            &mut found,
        ),
    }
}

fn look_through(
    record: u32,
    wanted: impl Fn(PageRange) -> bool,
    found: &mut impl FnMut(&'static Block, usize, &'static Slot),
) {
    blocks::all().for_each(|block| {
        for (n, slot) in block.in_use().iter().enumerate() {
            if slot.snapshot(record, &wanted).is_some() {
                found(block, n, slot);
            }
        }
    });
}

/// How many pins of `record` overlap one of `ranges`.
pub(crate) fn count(record: u32, ranges: &[PageRange]) -> usize {
    let mut n = 0;
    scan_for(record, ranges, |_, _, _| n += 1);
    n
}
