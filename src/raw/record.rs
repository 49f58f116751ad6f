//! The record of one mapping: its gate, its queue and its mode in one place that lives for ever, and who
//! is in it.
//!
//! Problem: a pin must be able to outlive its guard, and a million guards must be cheap. Idea: records lie
//! in a table that never moves, 192 bytes each, and are recycled when neither a guard nor a pin is left
//! (I9). What happens to a record is told in [`protocol`](crate::raw::protocol).

use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use crate::holders::{Holder, HolderKind};
use crate::range::PageRange;
use crate::raw::adapt::{Barrier, Mode};
use crate::raw::arena::Arena;
use crate::raw::entry::What;
use crate::raw::gate::Gate;
use crate::raw::queue::Queue;
use crate::raw::shelf::Shelf;
use crate::raw::waits::Waits;
use crate::raw::wakes::Wakes;
use crate::raw::{scan, slots};
use crate::sync::{AtomicU32, AtomicU64, MODEL, Mutex, MutexGuard, Ordering, process_static};

/// One mapping: its gate and its queue. Lives for ever and is recycled, so that a pin can outlive its
/// guard (I9).
#[repr(C, align(64))]
pub(crate) struct Record {
    /// What this record's pins carry in their slots; never 0. In the same cache line as the gate's word.
    pub(super) number: u32,
    /// The process that the present guard was made in.
    process: AtomicU32,
    /// Changes whenever somebody is woken: what blocking waiters look at before they sleep. It orders
    /// nothing: who sees it change, takes the lock. Not in the lock's cache line, which each release writes to while
    /// they look.
    rings: AtomicU64,
    pub(super) gate: Gate,
    /// How many breaks of leases are in the queue. Changed under the lock; read without it, it is a hint.
    pub(super) lease_breaks: AtomicU64,
    pub(super) inner: Mutex<Inner>,
}

pub(super) struct Inner {
    pub(super) mode: Mode,
    /// Tickets, names of entries and versions of the gate are all drawn from it. Never set back.
    pub(super) clock: u64,
    pub(super) queue: Queue,
    pub(super) closed: bool,
    pub(super) breaks: u64,
}

// A panic of an engine's code leaves no record half changed: block maps run without its lock, and what a waker's
// panic would leave open, the call that woke it undoes. So users need not assert it where they catch panics.
impl UnwindSafe for Record {}
impl RefUnwindSafe for Record {}

#[cfg(not(any(lease_loom, lease_shuttle)))]
const _: () = {
    assert!(size_of::<Record>() <= 192);
    assert!(std::mem::offset_of!(Record, rings) / 64 < std::mem::offset_of!(Record, inner) / 64);
};

/// The guard is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shut;

/// Counts of one mapping.
pub(crate) struct Counts {
    pub(crate) breaks: u64,
    pub(crate) waited: u64,
    pub(crate) queued: usize,
    pub(crate) pins: usize,
    pub(crate) leases: usize,
    pub(crate) retired_pages: u64,
    pub(crate) retired_failed: u64,
    /// The median, the 99th percentile and the longest of how long breaks have waited that had to.
    pub(crate) waits: [Option<Duration>; 3],
}

type Records = Arena<Record, { if MODEL { 2 } else { 32 } }>;

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
                    number: u32::try_from(index + 1).unwrap_or(u32::MAX),
                    process: AtomicU32::new(0),
                    rings: AtomicU64::new(0),
                    lease_breaks: AtomicU64::new(0),
                    inner: Mutex::new(Inner::new(mode, 0)),
                });
                // Made with the whole chunk, perhaps for a guard with another mode.
                record.inner.lock().mode = mode;
                record
            }
        };
        record.gate.reset(mode.fenced);
        // Orders nothing: it is read by who has the guard, or a pin of it.
        record.process.store(std::process::id(), Ordering::Relaxed);
        record.lease_breaks.store(0, Ordering::Relaxed);
        record
    }

    /// The record with this number, if there is one.
    pub(crate) fn numbered(number: u32) -> Option<&'static Record> {
        let records: &'static Records = &RECORDS;
        records.get((number as usize).checked_sub(1)?)
    }

    /// The place of the mapping in the order in which several are locked.
    pub(crate) fn order(&self) -> u32 {
        self.number
    }

    /// Wakes those who are to be woken. Not under the lock.
    pub(super) fn wake(&self, wakes: Wakes) {
        if !wakes.is_empty() {
            self.note(&wakes);
            wakes.ring();
        }
    }

    /// Tells those who look at [`progress`](Self::progress) that somebody is about to be woken.
    pub(super) fn note(&self, wakes: &Wakes) {
        if !wakes.is_empty() {
            self.rings.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A number that changes whenever somebody is woken.
    #[inline]
    pub(crate) fn progress(&self) -> u64 {
        self.rings.load(Ordering::Relaxed)
    }

    /// Whether this is a forked child of the process in which the guard was made. There the guard's map is
    /// the parent's, and a lock that another thread held at the fork is never released.
    pub(crate) fn is_forked(&self) -> bool {
        self.process.load(Ordering::Relaxed) != std::process::id()
    }

    /// The lock, for what a drop does. `None` in a forked child, where it would perhaps never be had, nor the
    /// locks behind it; whoever waits there is the parent's, and nobody must be woken or granted anything.
    #[inline]
    pub(super) fn lock_to_drop(&self) -> Option<MutexGuard<'_, Inner>> {
        self.locked_to_drop(self.inner.try_lock())
    }

    /// [`lock_to_drop`](Self::lock_to_drop), where the lock has been tried.
    #[inline]
    pub(super) fn locked_to_drop<'a>(
        &'a self,
        tried: Option<MutexGuard<'a, Inner>>,
    ) -> Option<MutexGuard<'a, Inner>> {
        // Asking for the process is a system call: only if it matters.
        match tried {
            Some(inner) if self.gate.is_short() && inner.queue.is_quiet() => Some(inner),
            _ if self.is_forked() => None,
            Some(inner) => Some(inner),
            None => Some(self.inner.lock()),
        }
    }

    /// Lets the gate say what the queue says is closed, and the mode.
    pub(super) fn publish_gate(&self, inner: &mut Inner) {
        let version = inner.tick();
        let fenced = inner.mode.fenced;
        let closed = inner.queue.closed();
        let chunks = inner.queue.shelf().map(Shelf::closed);
        self.gate
            .publish(version, closed.as_slice(), chunks, fenced);
        // Not before: the word may have led readers to chunks that were replaced.
        if let Some(ledger) = inner.queue.ledger_if_any() {
            ledger.shelf.published();
        }
    }

    /// What this record's pins carry in their slots.
    #[cfg(test)]
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Nobody is left: the next guard may have it. What was in it is to be dropped when the lock is
    /// released.
    pub(super) fn recycle(&'static self, inner: &mut Inner) -> Inner {
        let new = Inner::new(inner.mode, inner.clock);
        let old = std::mem::replace(inner, new);
        // Not open before it has an owner again: whoever unpins late sees it one way or the other.
        IDLE.lock().push(self);
        old
    }

    /// Everybody who holds pages of `ranges`.
    pub(crate) fn holders(&'static self, ranges: &[PageRange]) -> Vec<Holder> {
        let inner = self.inner.lock();
        self.list(&inner, ranges)
    }

    pub(super) fn list(&'static self, inner: &Inner, ranges: &[PageRange]) -> Vec<Holder> {
        let mut holders = self.list_leases(inner, ranges);
        let mut pins = Vec::new();
        scan::scan(self.number, ranges, |pin| pins.push(pin));
        let places: Vec<PageRange> = pins.iter().map(|pin| pin.range).collect();
        let awaited = inner.queue.awaited(&places);
        holders.extend(pins.into_iter().zip(awaited).map(|(pin, since)| {
            Holder::new(pin.range, HolderKind::Pin, pin.location, pin.thread, since)
        }));
        holders
    }

    /// Everybody who has a lease of pages of `ranges`.
    pub(crate) fn lease_holders(&'static self, ranges: &[PageRange]) -> Vec<Holder> {
        let inner = self.inner.lock();
        self.list_leases(&inner, ranges)
    }

    /// Everybody who has a lease of pages of `ranges`.
    pub(super) fn list_leases(&'static self, inner: &Inner, ranges: &[PageRange]) -> Vec<Holder> {
        let mut holders = Vec::new();
        if let Some(ledger) = inner.queue.ledger() {
            ledger.leases.list(ranges, &mut holders);
        }
        holders
    }

    /// Aborts the process if a pin or a lease overlaps `ranges`, which are closed and drained: the counterpart of
    /// the kernel's `WARN_ON_ONCE(trunc && page_ref_count(page) > 1)`.
    pub(crate) fn verify(&'static self, ranges: &[PageRange]) {
        if !slots::VERIFY {
            return;
        }
        let inner = self.inner.lock();
        let mut broken = self.list_leases(&inner, ranges).pop();
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
            eprintln!("layout-lease: blocks are about to be freed although held: {holder}");
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
        let ledger = inner.queue.ledger();
        let waits = |f: fn(&Waits) -> Option<Duration>| f(&ledger?.waits);
        let pages = inner.queue.iter().filter_map(|e| match e.what {
            What::Retired(_) => Some(e.ranges.as_slice().iter().map(PageRange::len).sum::<u64>()),
            _ => None,
        });
        let shelved = inner.queue.shelf();
        Counts {
            breaks: inner.breaks,
            waited: ledger.map_or(0, |l| l.waited),
            queued: inner.queue.len(),
            pins: scan::count(self.number, &[PageRange::ALL]),
            leases: ledger.map_or(0, |l| l.leases.len()),
            retired_pages: pages.fold(shelved.map_or(0, Shelf::pages), u64::saturating_add),
            retired_failed: ledger.map_or(0, |l| l.retired_failed),
            waits: [
                waits(|w| w.percentile(50)),
                waits(|w| w.percentile(99)),
                waits(Waits::max),
            ],
        }
    }
}

#[cfg(all(test, not(any(lease_loom, lease_shuttle))))]
mod tests {
    use std::fmt::Debug;
    use std::sync::{Arc, mpsc};
    use std::thread;
    use std::time::Duration;

    use crate::maps::ExtentMap;
    use crate::raw::{barrier, spills};
    use crate::sync::Ordering;
    use crate::{LayoutGuard, PageRange, break_layouts_of};

    /// Whether `work` comes to its end while somebody has these locks.
    fn ends_beside(locks: impl Sized, work: impl FnOnce() + Send) -> bool {
        let (done, ended) = mpsc::channel();
        thread::scope(|s| {
            s.spawn(move || {
                work();
                done.send(()).ok();
            });
            let answer = ended.recv_timeout(Duration::from_secs(120));
            drop(locks);
            answer.is_ok()
        })
    }

    /// Whatever is dropped in the child of a fork, no lock is waited for there that a thread of the parent's may have
    /// had, and the queue stays as it is.
    #[test]
    fn a_forked_child_may_drop_whatever_it_has() {
        const NOW: Duration = Duration::ZERO;
        for locked in [true, false] {
            let (guard, other) = (
                Arc::new(LayoutGuard::new(ExtentMap::new(8))),
                LayoutGuard::new(()),
            );
            let one = |page| PageRange::new(page, page + 1).unwrap();
            let of_both = |page| break_layouts_of(&[(&*guard, one(page)), (&other, one(page))]);
            let (pin, lease) = (
                guard.try_pin(0..1).unwrap(),
                guard.lease(0..1).wait().unwrap(),
            );
            let mut recalled = lease.recalled();
            assert!(recalled.wait_timeout(NOW).is_none());
            let token = guard.try_pin(10..11).unwrap().into_token();
            let halves = guard.try_break_layouts(1..3).unwrap().split_at(2).unwrap();
            let gone = guard.try_break_layouts(3..4).unwrap();
            let proofs = (halves, of_both(5).wait().unwrap());
            let free = guard.break_leases(6..7).wait().unwrap();
            let mut takers = [(); 2].map(|()| (guard.pin(1..2), guard.lease(1..2)));
            takers[1] = (guard.pin(3..4), guard.lease(3..4));
            for (pin, lease) in &mut takers {
                assert!(pin.wait_timeout(NOW).is_none() && lease.wait_timeout(NOW).is_none());
            }
            drop(gone); // the second pair is granted what it waits for
            let mut breaks = (
                guard.break_layouts(0..1),
                guard.break_leases(0..1),
                of_both(0),
                guard.punch_hole(0..1),
                guard.break_layouts_arc(0..1),
            );
            assert!(breaks.0.wait_timeout(NOW).is_none() && breaks.1.wait_timeout(NOW).is_none());
            assert!(breaks.2.wait_timeout(NOW).is_none() && breaks.3.wait_timeout(NOW).is_none());
            let mut later = (
                guard.retire(0..1),
                guard.retire_after(20..21, 1),
                guard.retired_ready(),
                guard.close(),
            );
            assert!(later.0.wait_timeout(NOW).is_none() && later.1.wait_timeout(NOW).is_none());
            assert!(later.2.wait_timeout(NOW).is_none() && later.3.wait_timeout(NOW).is_none());
            let all = [guard.record(), other.record()];
            let queued = guard.stats().queued;
            // As a child sees them.
            for record in all {
                record.process.store(0, Ordering::Relaxed);
            }
            let locks = locked.then(|| all.map(|record| record.inner.lock()));
            let work = move || {
                drop((proofs, free, takers, breaks, later));
                drop((recalled, pin, token.redeem()));
            };
            assert!(ends_beside(locks, work), "locked: {locked}");
            assert_eq!(guard.stats().queued, queued, "locked: {locked}");
            let locks = locked.then(|| all.map(|record| record.inner.lock()));
            let work = move || drop((lease, guard, other));
            assert!(ends_beside(locks, work), "locked: {locked}");
        }
    }

    /// The child of a fork that dropped the only proof of a guard gave back a long table, which the gate still had
    /// from a time when more was closed; and waited for ever, if another thread of the parent had just been
    /// doing the like.
    #[test]
    fn a_forked_child_gives_no_table_back() {
        let guard = Arc::new(LayoutGuard::new(ExtentMap::new(8)));
        let proof = guard.break_layouts(0..1).wait().unwrap();
        drop((guard.retire(2..3), guard.retire(4..5)));
        guard.run_retired();
        let record = guard.record();
        assert!(record.inner.lock().queue.is_quiet() && !record.gate.is_short());
        // As a child sees it.
        record.process.store(0, Ordering::Relaxed);
        assert!(
            ends_beside(spills::hold(), || drop(proof)),
            "it waits for the tables"
        );
        record.process.store(std::process::id(), Ordering::Relaxed);
        assert_eq!(guard.stats().queued, 1, "that is the parent's affair");
    }

    /// A pinner whose pin was the last of a countdown wrote everything that was closed down anew, and for that took
    /// the lock of the long tables, if more than two ranges were closed.
    #[test]
    fn a_pin_elsewhere_waits_for_no_table() {
        let guard = LayoutGuard::new(());
        let close = |page| guard.break_layouts(page..page + 1).wait().unwrap();
        let proofs = [0, 2, 4].map(close);
        assert!(!guard.record().gate.is_short());
        let fenced = || guard.record().inner.lock().mode.fenced;
        assert!(fenced());
        let mut pins = 0;
        let pin = || {
            while fenced() && pins < 100_000 {
                drop(guard.try_pin(5..6).unwrap());
                pins += 1;
            }
        };
        assert!(ends_beside(spills::hold(), pin), "it waits for the tables");
        assert_eq!(fenced(), !barrier::can_reach_everywhere());
        for page in 0..6 {
            let closed = proofs.iter().any(|p| p.ranges()[0].contains(page));
            assert_eq!(guard.try_pin(page..page + 1).is_err(), closed);
        }
    }

    /// Whoever is asked for by a panic handler or a debugger must not wait for a lock.
    #[test]
    fn debug_takes_no_lock() {
        let guard = Arc::new(LayoutGuard::new(ExtentMap::new(8)));
        let pages = PageRange::new(0, 4).unwrap();
        let (pin, lease) = (
            guard.try_pin(0..1).unwrap(),
            guard.lease(0..1).wait().unwrap(),
        );
        let proof = guard.try_break_layouts(10..11).unwrap();
        let free = guard.break_leases(20..21).wait().unwrap();
        let mut waiter = guard.pin(10..11);
        assert!(waiter.wait_timeout(Duration::ZERO).is_none());
        let mut leasing = guard.lease(10..11);
        assert!(leasing.wait_timeout(Duration::ZERO).is_none());
        let apart = PageRange::new(30, 31).unwrap();
        let proofs = break_layouts_of(&[(&*guard, apart)]).wait().unwrap();
        let values: [&(dyn Debug + Sync); 15] = [
            &guard,
            &pin,
            &lease,
            &lease.recalled(),
            &proof,
            &free,
            &waiter,
            &leasing,
            &proofs,
            &guard.break_layouts(pages),
            &guard.break_leases(pages),
            &break_layouts_of(&[(&*guard, pages)]),
            &guard.punch_hole(pages),
            &guard.retire(pages),
            &guard.retired_ready(),
        ];
        let locked = guard.record().inner.lock();
        let (done, ended) = mpsc::channel();
        thread::scope(|s| {
            s.spawn(move || {
                let texts = values.map(|value| format!("{value:?}"));
                done.send(texts.iter().all(|text| text.len() > 5)).ok();
            });
            let answer = ended.recv_timeout(Duration::from_secs(120));
            drop(locked);
            assert_eq!(answer, Ok(true), "something waits for the lock");
        });
    }
}
