//! The record of one mapping: its gate, its queue and its mode in one place that lives for ever, and who
//! is in it.
//!
//! Problem: a pin must be able to outlive its guard, and a million guards must be cheap. Idea: records lie
//! in a table that never moves, 192 bytes each, and are recycled when neither a guard nor a pin is left
//! (I9). What happens to a record is told in [`protocol`](crate::raw::protocol).

use crate::holders::{Holder, HolderKind};
use crate::range::PageRange;
use crate::raw::adapt::{Barrier, Mode};
use crate::raw::arena::Arena;
use crate::raw::gate::Gate;
use crate::raw::queue::Queue;
use crate::raw::{scan, slots};
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, process_static};

/// One mapping: its gate and its queue. Lives for ever and is recycled, so that a pin can outlive its
/// guard (I9).
#[repr(C, align(64))]
pub(crate) struct Record {
    pub(super) gate: Gate,
    pub(super) inner: Mutex<Inner>,
    /// What this record's pins carry in their slots; never 0.
    pub(super) number: u32,
    /// The process that the present guard was made in.
    process: AtomicU64,
}

pub(super) struct Inner {
    pub(super) mode: Mode,
    /// Tickets, names of entries and versions of the gate are all drawn from it. Never set back.
    pub(super) clock: u64,
    pub(super) queue: Queue,
    pub(super) closed: bool,
    pub(super) breaks: u64,
    pub(super) waited: u64,
}

#[cfg(not(lease_loom))]
const _: () = assert!(size_of::<Record>() <= 192);

/// Counts of one mapping.
pub(crate) struct Counts {
    pub(crate) breaks: u64,
    pub(crate) waited: u64,
    pub(crate) queued: usize,
    pub(crate) pins: usize,
}

type Records = Arena<Record, { if cfg!(lease_loom) { 2 } else { 32 } }>;

process_static! {
    static RECORDS: Records = Arena::new();
}

process_static! {
    /// Records that no guard uses and no pin points to.
    static IDLE: Mutex<Vec<&'static Record>> = Mutex::new(Vec::new());
}

impl Inner {
    fn new(mode: Mode, clock: u64) -> Self {
        Self {
            mode,
            clock,
            queue: Queue::default(),
            closed: false,
            breaks: 0,
            waited: 0,
        }
    }

    /// Never the same number twice.
    pub(super) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

impl Record {
    /// A record for a new guard.
    pub(crate) fn obtain(barrier: Barrier) -> &'static Record {
        let mode = Mode::new(barrier);
        let idle = IDLE.lock().pop();
        let record: &'static Record = match idle {
            Some(record) => {
                let mut inner = record.inner.lock();
                *inner = Inner::new(mode, inner.clock);
                drop(inner);
                record
            }
            None => {
                let records: &'static Records = &RECORDS;
                let record = records.push(|index| Record {
                    gate: Gate::new(true),
                    inner: Mutex::new(Inner::new(mode, 0)),
                    number: u32::try_from(index + 1).unwrap_or(u32::MAX),
                    process: AtomicU64::new(0),
                });
                // Made with the whole chunk, perhaps for a guard with another mode.
                record.inner.lock().mode = mode;
                record
            }
        };
        record.gate.reset(mode.fenced);
        // Orders nothing: it is read by who has the guard, or a pin of it.
        record
            .process
            .store(u64::from(std::process::id()), Ordering::Relaxed);
        record
    }

    /// Whether this is a forked child of the process in which the guard was made. There the guard's map is
    /// the parent's, and a lock that another thread held at the fork is never released.
    pub(super) fn is_forked(&self) -> bool {
        self.process.load(Ordering::Relaxed) != u64::from(std::process::id())
    }

    /// The lock, for what a drop does; `None` where it would never be had, and nobody would miss it.
    pub(super) fn lock_to_drop(&self) -> Option<MutexGuard<'_, Inner>> {
        // Asking for the process is a system call: only if the lock is taken.
        match self.inner.try_lock() {
            Some(inner) => Some(inner),
            None if self.is_forked() => None,
            None => Some(self.inner.lock()),
        }
    }

    /// What this record's pins carry in their slots.
    #[cfg(test)]
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Nobody is left: the next guard may have it.
    pub(super) fn recycle(&'static self, inner: &mut Inner) {
        *inner = Inner::new(inner.mode, inner.clock);
        // Not open before it has an owner again: whoever unpins late sees it one way or the other.
        IDLE.lock().push(self);
    }

    /// Everybody who holds pages of `ranges`.
    pub(crate) fn holders(&'static self, ranges: &[PageRange]) -> Vec<Holder> {
        let inner = self.inner.lock();
        self.list(&inner, ranges)
    }

    pub(super) fn list(&'static self, inner: &Inner, ranges: &[PageRange]) -> Vec<Holder> {
        let mut holders = Vec::new();
        scan::scan(self.number, ranges, |pin| {
            let waits = inner.queue.iter().filter(|e| e.ranges.overlaps(&pin.range));
            let since = waits.filter_map(|e| e.since).min();
            holders.push(Holder::new(
                pin.range,
                HolderKind::Pin,
                pin.location,
                pin.thread,
                since,
            ));
        });
        holders
    }

    /// Aborts the process if a pin overlaps `ranges`, which are closed and drained: the counterpart of
    /// the kernel's `WARN_ON_ONCE(trunc && page_ref_count(page) > 1)`.
    pub(crate) fn verify(&'static self, ranges: &[PageRange]) {
        if !slots::VERIFY {
            return;
        }
        let inner = self.inner.lock();
        let mut broken = None;
        scan::scan(self.number, ranges, |pin| {
            // A pinner that has not looked at the gate yet holds nothing: it will step back.
            if !pin.pending {
                broken = Some(Holder::new(
                    pin.range,
                    HolderKind::Pin,
                    pin.location,
                    pin.thread,
                    None,
                ));
            }
        });
        drop(inner);
        if let Some(holder) = broken {
            eprintln!("layout-lease: blocks are about to be freed under a pin: {holder}");
            std::process::abort();
        }
    }

    pub(crate) fn counts(&'static self) -> Counts {
        self.count(&self.inner.lock())
    }

    /// [`counts`](Self::counts), unless the lock is taken.
    pub(crate) fn try_counts(&'static self) -> Option<Counts> {
        self.inner.try_lock().map(|inner| self.count(&inner))
    }

    fn count(&'static self, inner: &Inner) -> Counts {
        Counts {
            breaks: inner.breaks,
            waited: inner.waited,
            queued: inner.queue.len(),
            pins: scan::count(self.number, &[PageRange::ALL]),
        }
    }

    /// Whether the break is drained: what [`poll_break`](Self::poll_break) would say.
    pub(crate) fn is_drained(&'static self, id: u64) -> bool {
        let mut inner = self.inner.lock();
        inner.queue.get(id).is_some_and(|e| e.is_drained())
    }
}
