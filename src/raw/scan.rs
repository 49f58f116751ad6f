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
use crate::raw::blocks;

/// One pin that a scan found.
pub(crate) struct Found {
    pub(crate) range: PageRange,
    pub(crate) location: Option<&'static Location<'static>>,
    pub(crate) thread: Option<ThreadId>,
    /// Its pinner may still step back.
    pub(crate) pending: bool,
}

/// Calls `found` for every pin of `record` that overlaps one of `ranges`.
pub(crate) fn scan(record: u32, ranges: &[PageRange], found: impl FnMut(Found)) {
    match ranges {
        [only] => scan_for(record, |range| only.overlaps(&range), found),
        _ => scan_for(
            record,
            |range| ranges.iter().any(|r| r.overlaps(&range)),
            found,
        ),
    }
}

fn scan_for(record: u32, wanted: impl Fn(PageRange) -> bool, mut found: impl FnMut(Found)) {
    blocks::all().for_each(|block| {
        for (n, slot) in block.in_use().iter().enumerate() {
            if let Some(seen) = slot.snapshot(record, &wanted) {
                found(Found {
                    range: seen.range,
                    location: seen.location,
                    thread: block.thread_of(n),
                    pending: seen.pending,
                });
            }
        }
    });
}

/// How many pins of `record` overlap one of `ranges`.
pub(crate) fn count(record: u32, ranges: &[PageRange]) -> usize {
    let mut n = 0;
    scan(record, ranges, |_| n += 1);
    n
}
