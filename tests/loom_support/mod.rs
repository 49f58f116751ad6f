//! What the models share: the disk block that loom watches, and how schedules are explored.
#![allow(dead_code, reason = "each target uses a part of it")]

use std::ops::{Range, RangeBounds};
use std::sync::Arc;

use layout_lease::{Barrier, BlockMap, Drained, LayoutGuard, OpError, PagePin, PageRange};
use loom::cell::UnsafeCell;

/// `loom::thread`, with the end of a thread inside what `join` waits for.
pub(crate) mod thread {
    pub(crate) fn spawn<T: 'static>(
        f: impl FnOnce() -> T + 'static,
    ) -> loom::thread::JoinHandle<T> {
        loom::thread::spawn(move || {
            let output = f();
            layout_lease::leave_thread();
            output
        })
    }
}

/// Explores every schedule with at most `preemptions` preemptions; 0: every schedule. Of more than one, mutants are
/// given one more, for they are done when the first schedule fails; `LEASE_DEEP` gives one more to the crate as it is.
pub(crate) fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    layout_lease::see_own_loads(false);
    run(preemptions, model);
}

/// As [`explore`], and the model sees the loads of who is about to store: what loom hides otherwise.
pub(crate) fn explore_all(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    layout_lease::see_own_loads(true);
    run(preemptions, model);
}

fn run(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = match preemptions {
        0 => None,
        1 if std::env::var_os("LEASE_MUTANT").is_some() => Some(1),
        n if std::env::var_os("LEASE_MUTANT").is_some() => Some(n + 1),
        n if std::env::var_os("LEASE_DEEP").is_some() => Some(n + 1),
        n => Some(n),
    };
    builder.max_branches = 20_000;
    let model = Arc::new(model);
    let explored = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&explored);
    // In a thread of its own: loom drops the statics before the main thread's locals.
    builder.check(move || {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let model = Arc::clone(&model);
        thread::spawn(move || model()).join().unwrap();
    });
    let name = std::thread::current();
    let name = name.name().unwrap_or("model");
    println!(
        "{name}: {} schedules",
        explored.load(std::sync::atomic::Ordering::Relaxed)
    );
}

/// Whether this process is that mutant: the same question as the crate's `mutant!`.
pub(crate) fn is_mutant(name: &str) -> bool {
    std::env::var("LEASE_MUTANT").is_ok_and(|mutant| mutant == name)
}

pub(crate) fn range(start: u64, end: u64) -> PageRange {
    PageRange::new(start, end).unwrap()
}

/// The block behind a page.
pub(crate) struct Disk(pub(crate) UnsafeCell<u64>);

// SAFETY: every access goes through loom's cell, which reports those that are not ordered.
unsafe impl Sync for Disk {}
// SAFETY: as above.
unsafe impl Send for Disk {}

pub(crate) type Guard = LayoutGuard<Disk>;

pub(crate) fn guard() -> Arc<Guard> {
    guard_with(Barrier::Adaptive)
}

pub(crate) fn guard_with(barrier: Barrier) -> Arc<Guard> {
    Arc::new(LayoutGuard::with_barrier(Disk(UnsafeCell::new(0)), barrier))
}

/// A device works on the block, under a pin.
pub(crate) fn device(guard: &Guard) {
    guard.map().0.with(|block| {
        // SAFETY: loom checks it.
        let _ = unsafe { *block };
    });
}

/// The engine gives the block to somebody else, under a proof.
pub(crate) fn free(guard: &Guard) {
    guard.map().overwrite();
}

/// Somebody on a thread of his own, who has the guard too.
pub(crate) fn beside<M: 'static, T: 'static>(
    guard: &Arc<LayoutGuard<M>>,
    does: impl FnOnce(&Arc<LayoutGuard<M>>) -> T + 'static,
) -> loom::thread::JoinHandle<T> {
    let guard = Arc::clone(guard);
    thread::spawn(move || does(&guard))
}

/// Somebody who has the pin, uses the block and gives the pin back.
pub(crate) fn holder_of(guard: &Arc<Guard>, pin: PagePin) -> loom::thread::JoinHandle<()> {
    beside(guard, |guard| {
        device(guard);
        drop(pin);
    })
}

/// Somebody who does [`pin_if_open`].
pub(crate) fn pinner_of(guard: &Arc<Guard>, pages: Range<u64>) -> loom::thread::JoinHandle<()> {
    beside(guard, |guard| pin_if_open(guard, pages))
}

/// Somebody who does [`break_and_free`].
pub(crate) fn breaker_of(guard: &Arc<Guard>, pages: Range<u64>) -> loom::thread::JoinHandle<()> {
    beside(guard, |guard| break_and_free(guard, pages))
}

/// Uses the block under a pin of `pages`, unless that is refused.
pub(crate) fn pin_if_open(guard: &Guard, pages: impl RangeBounds<u64>) {
    if let Ok(pin) = guard.try_pin(pages) {
        device(guard);
        drop(pin);
    }
}

/// Waits for a proof of `pages`, frees the block under it, and opens the pages again.
pub(crate) fn break_and_free(guard: &Guard, pages: impl RangeBounds<u64>) {
    let proof = guard.break_layouts(pages).wait().unwrap();
    free(guard);
    drop(proof);
}

/// The same, if nobody is to be waited for.
pub(crate) fn break_if_idle(guard: &Guard, pages: impl RangeBounds<u64>) {
    if let Ok(proof) = guard.try_break_layouts(pages) {
        free(guard);
        drop(proof);
    }
}

impl Disk {
    fn overwrite(&self) {
        self.0.with_mut(|block| {
            // SAFETY: loom checks it.
            unsafe { *block += 1 };
        });
    }
}

impl BlockMap for Disk {
    type Error = std::convert::Infallible;

    fn punch_hole(
        &self,
        pages: PageRange,
        _proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<Self::Error>> {
        self.overwrite();
        Ok(pages.len())
    }
}
