//! Wakers that panic: they are the runtime's code, and run inside calls of ours. Found in the search for
//! holes, each with its story.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::panic::{self, AssertUnwindSafe, resume_unwind};
use std::pin::Pin;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, RawWaker, RawWakerVTable, Wake, Waker};

use layout_lease::{AnyGuard, LayoutLease, OpError, PageRange, break_layouts_of};

use crate::support::{Ask, Bell, Engine, EngineError, assert_clean, bare, is_open, lease, pages};

struct Broken;

impl Wake for Broken {
    fn wake(self: Arc<Self>) {
        resume_unwind(Box::new("a broken waker")); // without a message
    }
}

/// Polls with a waker that panics.
fn poll_broken<F: Future + Unpin>(future: &mut F) {
    let broken = Waker::from(Arc::new(Broken));
    let answer = Pin::new(future).poll(&mut Context::from_waker(&broken));
    assert!(answer.is_pending());
}

/// Panics when nobody needs it any more.
struct Fragile;

impl Wake for Fragile {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Fragile {
    fn drop(&mut self) {
        resume_unwind(Box::new("a broken waker"));
    }
}

/// Polls with a waker whose drop panics, and leaves that to whoever takes the waker out again.
fn poll_fragile<F: Future + Unpin>(future: &mut F) {
    let fragile = Waker::from(Arc::new(Fragile));
    let answer = Pin::new(future).poll(&mut Context::from_waker(&fragile));
    assert!(answer.is_pending());
}

thread_local! {
    /// What [`poll_brittle`] does on this thread before it panics.
    static MEANWHILE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// Polls with a waker that nobody needs, whose copy panics when it is dropped. The panic goes on through the poll,
/// whatever the answer is.
fn poll_brittle<F: Future + Unpin>(future: &mut F) {
    static SOUND: RawWakerVTable =
        RawWakerVTable::new(|at| RawWaker::new(at, &BRITTLE), |_| (), |_| (), |_| ());
    static BRITTLE: RawWakerVTable = RawWakerVTable::new(
        |at| RawWaker::new(at, &BRITTLE),
        |_| (),
        |_| (),
        |_| {
            MEANWHILE.take().into_iter().for_each(|work| work());
            resume_unwind(Box::new("a broken waker"))
        },
    );
    // SAFETY: none of these functions looks at the data.
    let waker = unsafe { Waker::from_raw(RawWaker::new(ptr::null(), &SOUND)) };
    panics(|| {
        Pin::new(future)
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
    });
}

/// The panic of a waker goes on through the call that wakes it.
fn panics<T>(call: impl FnOnce() -> T) -> Box<dyn Any + Send> {
    let answer = panic::catch_unwind(AssertUnwindSafe(call));
    answer.err().expect("the panic goes on")
}

/// A waker that panics took the wakes of all the others with it; and two of them the process.
#[test]
fn i06_a_waker_that_panics_keeps_no_wake_from_others() {
    let guard = bare();
    let proof = guard.try_break_layouts(0..4).unwrap();
    let (bell, mut waiters) = (Bell::new(), [(); 4].map(|()| guard.pin(0..1)));
    poll_broken(&mut waiters[0]);
    poll_broken(&mut waiters[2]);
    for n in [1, 3] {
        assert!(bell.poll(&mut waiters[n]).is_pending());
    }
    panics(|| drop(proof));
    assert_eq!(bell.rung(), 2);
    drop(waiters);
    assert_clean(&guard);
}

/// The task that waited for a recall panicked when it was woken, inside `break_layouts`: the pages were closed
/// by then, and the value that would have opened them again was never made. They stayed closed for ever.
#[test]
fn i08_a_recall_that_panics_leaves_nothing_closed() {
    let (guard, other) = (Arc::new(Engine::idle()), bare());
    let shared = Arc::clone(&guard);
    let parts: [(&dyn AnyGuard, PageRange); 2] = [(&*guard, pages(0, 4)), (&other, pages(0, 4))];
    let calls: [(&str, &dyn Fn()); 8] = [
        ("break_layouts", &|| drop(guard.break_layouts(0..4))),
        ("break_layouts_arc", &|| {
            drop(shared.break_layouts_arc(0..4))
        }),
        ("break_all", &|| {
            drop(guard.break_all(&[pages(0, 1), pages(2, 3)]))
        }),
        ("break_leases", &|| drop(guard.break_leases(0..4))),
        ("punch_hole", &|| drop(guard.punch_hole(0..4))),
        ("truncate", &|| drop(guard.truncate(0))),
        ("into_break", &|| {
            let pin = guard.try_pin(0..1).unwrap();
            drop(pin.into_break(&guard));
        }),
        ("break_layouts_of", &|| drop(break_layouts_of(&parts))),
    ];
    for (name, call) in calls {
        let leases: [LayoutLease; 4] = [
            lease(&guard, pages(0, 8)),
            lease(&guard, pages(0, 8)),
            lease(&other, pages(0, 8)),
            lease(&other, pages(0, 8)),
        ];
        let (bell, mut recalls) = (Bell::new(), leases.each_ref().map(LayoutLease::recalled));
        let [first, second, third, fourth] = &mut recalls;
        poll_broken(first);
        poll_broken(third);
        assert!(bell.poll(second).is_pending() && bell.poll(fourth).is_pending());
        panics(call);
        // Everybody else has heard of it, in whichever guard.
        let both = usize::from(name == "break_layouts_of");
        assert_eq!(bell.rung(), 1 + both, "{name}");
        assert!(
            !leases[0].is_recalled() && !leases[2].is_recalled(),
            "{name}"
        );
        drop(recalls);
        drop(leases);
        assert!(is_open(&guard, PageRange::ALL), "{name}: closed");
        assert!(is_open(&other, PageRange::ALL), "{name}: closed");
        assert_clean(&guard);
        assert_clean(&other);
    }
    assert_eq!(guard.map().calls(), 0);
}

/// A retirement stays: somebody may be freeing its blocks already. But nobody waits for it.
#[test]
fn i08_a_recall_that_panics_detaches_a_retirement() {
    let guard = Arc::new(Engine::guard(|_, _| Err(EngineError("no"))));
    let held = lease(&guard, pages(0, 8));
    let mut recalled = held.recalled();
    poll_broken(&mut recalled);
    panics(|| guard.retire(0..4));
    assert_eq!((guard.stats().queued, guard.stats().retired_pages), (1, 4));
    assert!(held.is_recalled());
    drop(recalled);
    drop(held);
    let mut failures = Vec::new();
    guard.run_retired_with(|pages, error| failures.push((pages, error)));
    assert_eq!(failures, [(pages(0, 4), OpError::Map(EngineError("no")))]);
    assert_clean(&guard);
}

/// The guard is closed all the same, and may be closed again.
#[test]
fn i08_a_recall_that_panics_leaves_nobody_in_the_queue_of_a_closed_guard() {
    let guard = bare();
    let held = lease(&guard, pages(0, 8));
    let mut recalled = held.recalled();
    poll_broken(&mut recalled);
    panics(|| guard.close());
    assert!(guard.is_closed());
    assert_eq!(guard.stats().queued, 0);
    drop(recalled);
    drop(held);
    guard.close().now();
}

/// A lease that shrank and woke a task that panicked said that it was as long as before.
#[test]
fn i08_a_wake_that_panics_leaves_a_lease_as_long_as_it_is() {
    let guard = bare();
    let mut held = lease(&guard, pages(0, 8));
    let mut breaking = guard.break_layouts(4..8);
    poll_broken(&mut breaking);
    panics(|| held.shrink_to(..4));
    assert_eq!(held.range(), pages(0, 4));
    drop((breaking.now().unwrap(), breaking));
    let mut breaking = guard.break_layouts(6..8);
    drop(breaking.now().unwrap());
    drop(held);
    assert_clean(&guard);
}

/// A holder that broke what it held, and by letting go woke a task that panicked: its own break was in the queue
/// by then, and nobody had it. The pages stayed closed for ever.
#[test]
fn i08_a_wake_that_panics_in_into_break_leaves_nothing_closed() {
    let guard = bare();
    let pin = guard.try_pin(0..4).unwrap();
    let mut before = guard.break_layouts(0..4);
    poll_broken(&mut before);
    panics(|| pin.into_break(&guard));
    assert_eq!(guard.stats().queued, 1, "that of the other");
    drop((before.now().unwrap(), before));
    assert_clean(&guard);
}

/// Proofs of several guards that woke a task that panicked: those of the guards behind that one were not given
/// back, and their pages stayed closed for ever.
#[test]
fn i08_a_wake_that_panics_leaves_no_other_guard_closed() {
    let guards = [(); 3].map(|()| bare());
    let parts: Vec<(&dyn AnyGuard, PageRange)> = guards
        .iter()
        .map(|guard| (guard as &dyn AnyGuard, pages(0, 4)))
        .collect();
    for drained in [true, false] {
        let held = (!drained).then(|| guards[1].try_pin(0..1).unwrap());
        let mut breaking = break_layouts_of(&parts);
        let (bell, mut broken, mut sound) = (
            Bell::new(),
            guards.each_ref().map(|guard| guard.pin(0..1)),
            guards.each_ref().map(|guard| guard.pin(0..1)),
        );
        broken.iter_mut().for_each(poll_broken);
        for waiter in &mut sound {
            assert!(bell.poll(waiter).is_pending());
        }
        if drained {
            let proofs = breaking.now().unwrap();
            panics(|| drop(proofs));
        } else {
            breaking.assert_waits();
            panics(|| drop(breaking));
        }
        assert_eq!(bell.rung(), 3, "drained: {drained}");
        drop((broken, sound, held));
        for guard in &guards {
            assert!(is_open(guard, PageRange::ALL), "drained: {drained}");
            assert_clean(guard);
        }
    }
}

/// A task whose waker panics when it is dropped, and who gave up its break, took the wakes of those with it who
/// had waited for that.
#[test]
fn i08_a_waker_that_panics_when_it_is_dropped_keeps_no_wake_from_others() {
    let guard = bare();
    let pin = guard.try_pin(0..1).unwrap();
    let mut breaking = guard.break_layouts(0..4);
    poll_fragile(&mut breaking);
    let (bell, mut waiter) = (Bell::new(), guard.pin(2..4));
    assert!(bell.poll(&mut waiter).is_pending());
    panics(|| drop(breaking));
    assert_eq!(bell.rung(), 1);
    drop((waiter, pin));
    assert_clean(&guard);
}

/// A retirement that failed, and whose pages were waited for by a task that panicked when it was woken, was not
/// counted among those that failed.
#[test]
fn i08_a_wake_that_panics_lets_no_failed_retirement_go_uncounted() {
    let guard = Arc::new(Engine::guard(|_, _| Err(EngineError("no"))));
    drop(guard.retire(0..4));
    let mut waiter = guard.pin(0..1);
    poll_broken(&mut waiter);
    panics(|| guard.run_retired());
    assert_eq!(guard.stats().retired_failed, 1);
    drop(waiter);
    assert_clean(&guard);
}

/// A task that gave up its retirement, and whose waker panicked when it was dropped, was still said to wait for it:
/// what became of it was told to nobody.
#[test]
fn i08_a_waker_that_panics_when_it_is_dropped_detaches_a_retirement() {
    let guard = Arc::new(Engine::guard(|_, _| Err(EngineError("no"))));
    let mut retired = guard.retire_after(0..4, 1);
    poll_fragile(&mut retired);
    panics(|| drop(retired));
    guard.durable(1);
    let mut failures = Vec::new();
    guard.run_retired_with(|pages, error| failures.push((pages, error)));
    assert_eq!(failures, [(pages(0, 4), OpError::Map(EngineError("no")))]);
    assert_clean(&guard);
}

/// A task that waited for a lease and was polled with another waker, and whose first waker panicked when it was
/// dropped, was nobody's in the queue: it was granted the lease, and no break of those pages ended any more.
#[test]
fn i08_a_waker_that_panics_when_it_is_replaced_leaves_nobody_in_the_queue() {
    fn replaced<F: Future + Unpin>(mut waiting: F) {
        poll_fragile(&mut waiting);
        panics(|| Bell::new().poll(&mut waiting).is_ready());
    }
    let (guard, other) = (Arc::new(Engine::idle()), bare());
    let held = (
        guard.try_pin(0..1).unwrap(),
        lease(&guard, pages(0, 1)),
        other.try_pin(0..1).unwrap(),
        guard.try_break_layouts(4..5).unwrap(),
    );
    let (first, both) = (pages(0, 1), [pages(0, 1), pages(2, 3)]);
    replaced(guard.pin(4..5));
    replaced(guard.lease(4..5));
    replaced(held.1.recalled());
    replaced(guard.break_layouts(0..1));
    replaced(guard.break_layouts_arc(0..1));
    replaced(guard.break_all(&both));
    replaced(guard.break_leases(0..1));
    replaced(break_layouts_of(&[(&*guard, first), (&other, first)]));
    replaced(guard.punch_hole(0..1));
    replaced(guard.retired_ready());
    drop(held);
    assert_clean(&guard);
    assert_clean(&other);
    // What is retired stays, and a guard that is closed stays so.
    let pin = guard.try_pin(0..1).unwrap();
    replaced(guard.retire(0..1));
    drop(pin);
    assert_eq!(guard.run_retired(), 1);
    assert_clean(&guard);
    let pin = other.try_pin(0..1).unwrap();
    replaced(other.close());
    assert_eq!(other.stats().queued, 0);
    drop(pin);
}

/// The answer was there, and was lost when the waker panicked that had not been needed for it: a pin and a lease
/// that nobody held and no break ever saw the end of, and a retirement that nobody ran.
#[test]
fn i08_a_waker_that_panics_when_it_is_not_needed_loses_no_answer() {
    let guard = Arc::new(Engine::idle());
    let proof = guard.try_break_layouts(0..1).unwrap();
    let (mut pin, mut leasing) = (guard.pin(0..1), guard.lease(0..1));
    pin.assert_waits();
    leasing.assert_waits();
    drop(proof);
    poll_brittle(&mut pin);
    poll_brittle(&mut leasing);
    drop((pin, leasing));
    assert_clean(&guard);

    let pin = guard.try_pin(0..1).unwrap();
    let (mut breaking, mut freeing) = (guard.break_layouts(0..1), guard.break_leases(0..1));
    breaking.assert_waits();
    drop(pin);
    poll_brittle(&mut breaking);
    poll_brittle(&mut freeing);
    drop((breaking.now().unwrap(), freeing.now().unwrap()));
    drop((breaking, freeing));
    assert_clean(&guard);

    let mut retired = guard.retire(0..4);
    let (bell, mut ready) = (Bell::new(), guard.retired_ready());
    poll_brittle(&mut ready);
    ready.now();
    poll_brittle(&mut retired);
    assert!(bell.poll(&mut guard.retired_ready()).is_ready());
    assert_eq!(retired.now(), Ok(1));
    assert_clean(&guard);
    let mut closing = guard.close();
    poll_brittle(&mut closing);
    closing.now();
}

/// Somebody had claimed the only retirement, and lost it to a panic. Whoever asked in between hears that it is there
/// again.
#[test]
fn i06_a_retirement_that_nobody_runs_after_all_is_told_of_again() {
    let guard: &'static Arc<_> = Box::leak(Box::new(Arc::new(Engine::idle())));
    let mut retired = guard.retire(0..4);
    let bells = [Bell::new(), Bell::new()];
    let waiting = Rc::new(RefCell::new((guard.retired_ready(), guard.close())));
    MEANWHILE.set(Some(Box::new({
        let (waiting, [first, second]) = (Rc::clone(&waiting), bells.clone());
        move || {
            let (ready, closing) = &mut *waiting.borrow_mut();
            assert!(first.poll(ready).is_pending() && second.poll(closing).is_pending());
        }
    })));
    poll_brittle(&mut retired);
    assert_eq!(bells.map(|bell| bell.rung()), [1, 1]);
    let (ready, closing) = &mut *waiting.borrow_mut();
    ready.now();
    closing.now();
    assert_eq!(retired.now(), Ok(1));
}
