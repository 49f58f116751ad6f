//! The rules for the corners: engines that fail, closing for good, misuse, and what the types say.

use std::cell::Cell;
use std::error::Error;
use std::fmt::Debug;
use std::future::Future;
use std::marker::PhantomPinned;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use layout_lease::maps::ExtentMap;
use layout_lease::{
    BlockOp, BreakError, BreakLayouts, BreakLeases, BreakMany, Close, Drained, DrainedMany,
    DrainedOf, Holder, LayoutGuard, LayoutLease, LeaseFree, LeasePages, OpError, PagePin,
    PageRange, PinError, PinPages, PinToken, Recalled, Retired, RetiredReady, Stats, TryBreakError,
    TryPinError, break_layouts_of,
};

use crate::support::{
    Ask, Bell, Engine, EngineError, assert_clean, bare, is_open, pages, poll, until, watched,
};

// ---- engines that fail ----------------------------------------------------------------------------

fn message(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("")
}

#[test]
fn corner_an_engine_that_panics_reopens_and_poisons_nothing() {
    let guard = Engine::guard(|name, _| match name {
        "punch_hole" => panic!("the free list is broken"),
        _ => Ok(7),
    });
    // On each of the ways into the engine.
    type Way = fn(BlockOp<'_, Engine>);
    let ways: [Way; 3] = [
        |op| drop(op.wait()),
        |mut op| {
            op.wait_timeout(Duration::from_secs(1)).map(Result::unwrap);
        },
        |mut op| drop(poll(&mut op)),
    ];
    for way in ways {
        let mut waiter = guard.pin(0..1);
        let mut behind = guard.zero_range(9..10);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let op = guard.punch_hole(0..4);
            waiter.assert_waits();
            way(op);
        }));
        assert_eq!(message(&*panicked.unwrap_err()), "the free list is broken");
        drop(waiter.now().unwrap());
        assert_eq!(behind.now(), Ok(7));
        drop((waiter, behind));
        assert_clean(&guard);
    }
    // Under a proof in hand: the proof is as good as before.
    let proof = guard.try_break_layouts(..).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| proof.punch_hole(pages(0, 1)))).is_err());
    assert!(!is_open(&guard, pages(0, 1)));
    assert_eq!(proof.zero_range(pages(0, 1)), Ok(7));
    drop(proof);
    assert_clean(&guard);
    // An operation that panicked has no output left to give.
    let mut op = guard.punch_hole(0..1);
    assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut op).is_ready())).is_err());
    let again = catch_unwind(AssertUnwindSafe(|| poll(&mut op).is_ready()));
    assert!(message(&*again.unwrap_err()).contains("polled after its output"));
}

#[test]
fn corner_an_engine_that_fails_reopens() {
    let guard = Engine::guard(|name, _| Err(EngineError(name)));
    type Start = for<'g> fn(&'g LayoutGuard<Engine>) -> BlockOp<'g, Engine>;
    let starts: [(&str, Start); 5] = [
        ("punch_hole", |g| g.punch_hole(0..4)),
        ("zero_range", |g| g.zero_range(0..4)),
        ("truncate", |g| g.truncate(3)),
        ("collapse_range", |g| g.collapse_range(0..4)),
        ("insert_range", |g| g.insert_range(0..4)),
    ];
    for (name, start) in starts {
        let mut op = start(&guard);
        assert!(!is_open(&guard, pages(3, 4)), "closed from the call on");
        let error = op.now().unwrap_err();
        assert_eq!(error, OpError::Map(EngineError(name)));
        let source = error.source().unwrap().downcast_ref::<EngineError>();
        assert_eq!(source, Some(&EngineError(name)));
        // The operation is still there, and the pages are open again.
        assert!(is_open(&guard, pages(0, 8)));
        drop(op);
        assert_clean(&guard);
    }
}

/// While the engine works, the pages are closed; and it may use all others.
#[test]
fn corner_inside_the_engine() {
    let guard = Arc::new_cyclic(|weak: &std::sync::Weak<LayoutGuard<Engine>>| {
        let weak = weak.clone();
        Engine::guard(move |_, proof| {
            let guard = weak.upgrade().unwrap();
            let mine = proof.ranges()[0];
            assert_eq!(guard.try_pin(mine).unwrap_err(), TryPinError::Breaking);
            assert!(matches!(
                guard.try_break_layouts(mine),
                Err(TryBreakError::Breaking)
            ));
            let elsewhere = guard.try_pin(mine.end()..).unwrap();
            assert!(guard.holders(mine).is_empty());
            drop(elsewhere);
            drop(guard.break_layouts(mine.end()..).wait().unwrap());
            Ok(mine.len())
        })
    });
    assert_eq!(guard.punch_hole(2..5).now(), Ok(3));
    assert_clean(&guard);
}

/// Collapse and insert move every later page, also those behind the end; truncate drains them all.
#[test]
fn corner_pins_beyond_the_end_are_drained_too() {
    let guard = LayoutGuard::new(ExtentMap::new(64));
    guard.map().allocate(0..8).unwrap();
    let far = guard.try_pin(1 << 40..(1 << 40) + 1).unwrap();
    let mut ops = [
        guard.collapse_range(2..4),
        guard.insert_range(2..4),
        guard.truncate(4),
        guard.truncate(100),
    ];
    ops.iter_mut().for_each(Ask::assert_waits);
    // Before the first page that moves, nobody is disturbed.
    assert!(is_open(&guard, pages(0, 2)) && !is_open(&guard, pages(2, 3)));
    drop(far);
    let freed: Vec<_> = ops.iter_mut().map(|op| op.now().unwrap()).collect();
    assert_eq!(freed, [2, 0, 4, 0]);
    assert_eq!(guard.map().len(), 100);
    drop(ops);
    assert_clean(&guard);
}

// ---- closing for good -----------------------------------------------------------------------------

#[test]
fn corner_close_refuses_at_once_and_for_good() {
    let guard = Engine::idle();
    let pin = guard.try_pin(0..1).unwrap();
    let mut closing = guard.close();
    let assert_refuses = || {
        assert_eq!(guard.try_pin(5..6).unwrap_err(), TryPinError::Closed);
        assert_eq!(guard.pin(5..6).wait().unwrap_err(), PinError::Closed);
        assert!(matches!(
            guard.try_break_layouts(5..6),
            Err(TryBreakError::Closed)
        ));
        let mut breaking = guard.break_layouts(5..6);
        assert!(!breaking.is_drained());
        assert!(matches!(
            poll(&mut breaking),
            Poll::Ready(Err(BreakError::Closed))
        ));
        assert_eq!(
            guard.punch_hole(5..6).wait(),
            Err(OpError::Break(BreakError::Closed))
        );
    };
    assert_refuses();
    closing.assert_waits();
    assert!(pin.is_breaking());
    drop(closing);
    // Nobody waits for it any more; it is closed all the same.
    assert_refuses();
    let bell = Bell::new();
    let mut closing = guard.close();
    assert!(bell.poll(&mut closing).is_pending());
    assert_eq!(guard.stats().queued, 1);
    drop(pin);
    assert_eq!(bell.rung(), 1);
    closing.now();
    assert_refuses();
    drop(closing);
    assert_refuses();
    guard.close().now();
    assert_eq!(guard.map().calls(), 0);
    assert_eq!((guard.stats().pins, guard.stats().queued), (0, 0));
}

#[test]
fn corner_close_refuses_all_who_wait() {
    let guard = bare();
    let pin = guard.try_pin(0..1).unwrap();
    let bells: [_; 4] = std::array::from_fn(|_| Bell::new());
    let mut draining = guard.break_layouts(0..4);
    let mut waiter = guard.pin(3..5);
    let mut queued = guard.break_layouts(3..8);
    assert!(bells[0].poll(&mut draining).is_pending());
    assert!(bells[1].poll(&mut waiter).is_pending());
    assert!(bells[2].poll(&mut queued).is_pending());
    // Has its proof already, only nobody has fetched it; and one that is out.
    let mut drained = guard.break_layouts(20..24);
    let proof = guard.try_break_layouts(30..34).unwrap();
    let mut closing = guard.close();
    assert!(bells[3].poll(&mut closing).is_pending());
    assert_eq!(bells.each_ref().map(|b| b.rung()), [1, 1, 1, 0]);
    assert!(matches!(draining.now(), Err(BreakError::Closed)));
    assert!(matches!(waiter.now(), Err(PinError::Closed)));
    assert!(matches!(queued.now(), Err(BreakError::Closed)));
    // The proofs are as good as before, and closing waits for them and for the pin.
    let late = drained.now().unwrap();
    assert!(late.covers(pages(20, 24)) && proof.covers(pages(30, 34)));
    let (low, high) = proof.split_at(32).unwrap();
    drop(low);
    closing.assert_waits();
    assert!(bells[3].poll(&mut closing).is_pending());
    drop(pin);
    closing.assert_waits();
    drop((late, drained));
    closing.assert_waits();
    assert!(bells[3].poll(&mut closing).is_pending());
    drop(high);
    assert_eq!(bells[3].rung(), 1);
    closing.now();
    drop((draining, waiter, queued, closing));
    assert_eq!((guard.stats().pins, guard.stats().queued), (0, 0));
}

/// The refused ones are dropped without having been asked again: nothing of them is left.
#[test]
fn corner_refused_waiters_leave_nothing_behind() {
    let guard = bare();
    let pin = guard.try_pin(0..1).unwrap();
    let (mut breaking, mut waiter) = (guard.break_layouts(0..4), guard.pin(2..3));
    breaking.assert_waits();
    waiter.assert_waits();
    let mut closing = guard.close();
    drop((breaking, waiter, pin));
    closing.now();
    assert_eq!((guard.stats().pins, guard.stats().queued), (0, 0));
}

#[test]
fn corner_a_proof_works_on_after_close() {
    let guard = LayoutGuard::new(ExtentMap::new(16));
    guard.map().allocate(0..8).unwrap();
    let proof = guard.try_break_layouts(2..6).unwrap();
    let mut closing = guard.close();
    assert_eq!(proof.punch_hole(pages(3, 5)), Ok(2));
    closing.assert_waits();
    drop(proof);
    closing.now();
    assert_eq!(guard.try_pin(2..3).unwrap_err(), TryPinError::Closed);
}

/// Threads that block in every kind of wait are all let go by a close.
#[test]
fn corner_close_wakes_threads_that_block() {
    watched(|| {
        let guard = bare();
        let proof = guard.try_break_layouts(0..4).unwrap();
        thread::scope(|s| {
            let pins = s.spawn(|| guard.pin(0..1).wait().unwrap_err());
            let breaks = s.spawn(|| guard.break_layouts(2..8).wait().unwrap_err());
            until(|| guard.stats().queued == 3);
            let mut closing = guard.close();
            assert_eq!(pins.join().unwrap(), PinError::Closed);
            assert_eq!(breaks.join().unwrap(), BreakError::Closed);
            closing.assert_waits();
            let waits = s.spawn(move || closing.wait());
            drop(proof);
            waits.join().unwrap();
        });
    });
}

#[test]
fn corner_close_by_several_threads() {
    watched(|| {
        let guard = bare();
        let pin = guard.try_pin(0..1).unwrap();
        thread::scope(|s| {
            let threads: Vec<_> = (0..4).map(|_| s.spawn(|| guard.close().wait())).collect();
            until(|| guard.stats().queued == 4);
            drop(pin);
            threads.into_iter().for_each(|t| t.join().unwrap());
        });
        assert_eq!(guard.stats().queued, 0);
    });
}

// ---- breaks to spawn and to store -----------------------------------------------------------------

#[test]
fn corner_a_break_that_shares_its_guard_can_be_spawned() {
    watched(|| {
        let guard = Arc::new(bare());
        let pin = guard.try_pin(0..1).unwrap();
        let (proofs, proof) = mpsc::channel::<Drained<'static, ()>>();
        let breaking = guard.break_layouts_arc(0..4);
        assert!(!is_open(&guard, pages(3, 4)), "closed before it is spawned");
        let thread = thread::spawn(move || proofs.send(breaking.wait().unwrap()).unwrap());
        until(|| guard.stats().breaks_waited == 1);
        drop(pin);
        let proof = proof.recv().unwrap();
        thread.join().unwrap();
        let (low, high) = proof.split_at(2).unwrap();
        // The proof keeps the guard alive, and gives it up.
        assert!(Arc::strong_count(&guard) >= 3);
        drop(low);
        assert!(is_open(&guard, pages(0, 2)) && !is_open(&guard, pages(2, 3)));
        drop(high);
        assert_eq!(Arc::strong_count(&guard), 1);
        assert_clean(&guard);
        // Cancelled, or with a wrong range: likewise.
        drop(guard.break_layouts_arc(0..4));
        assert!(guard.break_layouts_arc(4..4).wait().is_err());
        assert_eq!(Arc::strong_count(&guard), 1);
        // The last one to hold the guard is the break itself.
        let breaking = Arc::clone(&guard).break_layouts_arc(0..4);
        drop(guard);
        drop(breaking.wait().unwrap());
    });
}

// ---- misuse ---------------------------------------------------------------------------------------

#[test]
fn corner_asked_after_its_output_everything_panics() {
    fn assert_used_up<F: Ask>(mut waitable: F) {
        let name = std::any::type_name::<F>().split(['<', ':']);
        let name = name
            .filter(|s| !s.is_empty())
            .nth(2)
            .unwrap_or("?")
            .to_owned();
        drop(waitable.now());
        for polled in [true, false] {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                if polled {
                    drop(poll(&mut waitable));
                } else {
                    drop(waitable.ask_blocking());
                }
            }));
            let payload = panicked.expect_err("a second output");
            let text = message(&*payload);
            assert!(text.contains("polled after its output"), "{name}: {text}");
        }
    }
    let guard = Arc::new(Engine::idle());
    assert_used_up(guard.pin(0..1));
    assert_used_up(guard.pin(1..1));
    assert_used_up(guard.lease(0..1));
    assert_used_up(guard.lease(1..1));
    assert_used_up(guard.break_leases(0..1));
    assert_used_up(guard.break_leases(1..1));
    assert_used_up(guard.break_all(&[]));
    assert_used_up(break_layouts_of(&[]));
    assert_used_up(break_layouts_of(&[(&*guard, pages(0, 1))]));
    assert_used_up(guard.retire(1..1));
    let mut retired = guard.retire(0..1);
    assert_used_up(guard.retired_ready());
    drop(retired.now());
    assert_used_up(guard.retire(0..1));
    let held = guard.lease(0..1).now().unwrap();
    let breaking = guard.break_leases(0..1);
    assert_used_up(held.recalled());
    drop(held);
    drop(breaking);
    assert_used_up(guard.break_layouts(0..1));
    assert_used_up(guard.break_layouts(1..1));
    assert_used_up(guard.punch_hole(0..1));
    assert_used_up(guard.punch_hole(1..1));
    assert_clean(&guard);
    assert_used_up(guard.close());
    assert_used_up(guard.pin(0..1));
    assert_used_up(guard.break_layouts(0..1));
}

#[test]
fn corner_the_longest_and_the_shortest_timeout() {
    watched(|| {
        let guard = Arc::new(bare());
        let pin = guard.try_pin(0..1).unwrap();
        let mut breaking = guard.break_layouts(0..1);
        assert!(breaking.wait_timeout(Duration::ZERO).is_none());
        assert!(breaking.wait_timeout(Duration::from_nanos(1)).is_none());
        let waiting = Arc::clone(&guard);
        let thread = thread::spawn(move || {
            until(|| waiting.holders(0..1)[0].age().is_some());
            drop(pin);
        });
        assert!(breaking.wait_timeout(Duration::MAX).is_some());
        thread.join().unwrap();
    });
}

// ---- where pins are taken -------------------------------------------------------------------------

#[test]
fn corner_locations_are_the_callers() {
    fn at(holder: &Holder) -> (&str, u32) {
        (holder.location().file(), holder.location().line())
    }
    let guard = bare();
    let (tried, line) = (guard.try_pin(0..1).unwrap(), line!());
    assert_eq!(at(&guard.holders(0..1)[0]), (file!(), line));
    // Where `pin` was called, not where it was waited for.
    let (waiting, line) = (guard.pin(1..2), line!());
    let waited = waiting.wait().unwrap();
    assert_eq!(at(&guard.holders(1..2)[0]), (file!(), line));
    // Nor where it was granted.
    let proof = guard.try_break_layouts(2..3).unwrap();
    let (mut waiting, line) = (guard.pin(2..3), line!());
    waiting.assert_waits();
    drop(proof);
    assert_eq!(at(&guard.holders(2..3)[0]), (file!(), line));
    let granted = waiting.now().unwrap();
    assert_eq!(at(&guard.holders(2..3)[0]), (file!(), line));
    drop((tried, waited, granted));
}

// ---- what the types say ---------------------------------------------------------------------------

/// Compiles, or does not.
#[expect(dead_code, reason = "the compiler's answer is the test")]
mod types {
    use super::*;

    fn everywhere<T: Send + Sync + Unpin + 'static>() {}
    fn sent<T: Send + Sync + Unpin>() {}
    fn waitable<T: Future + Unpin + Send + Debug>() {}

    /// Neither `Unpin` nor anything else that is not asked for.
    struct Map(PhantomPinned);
    struct NotSync(Cell<u8>);

    fn auto_traits() {
        everywhere::<PagePin>();
        everywhere::<PageRange>();
        everywhere::<Holder>();
        everywhere::<Stats>();
        everywhere::<LayoutGuard<()>>();
        everywhere::<BreakLayouts<'static, ()>>();
        everywhere::<Drained<'static, ()>>();
        everywhere::<LayoutLease>();
        everywhere::<PinToken>();
        everywhere::<BreakMany<'static>>();
        everywhere::<DrainedMany<'static>>();
        everywhere::<Recalled<'static>>();
        everywhere::<Retired<Engine>>();
        everywhere::<TryPinError>();
        everywhere::<TryBreakError>();
        everywhere::<OpError<EngineError>>();
        sent::<PinPages<'static, Map>>();
        sent::<BreakLayouts<'static, Map>>();
        sent::<Close<'static, Map>>();
        sent::<Drained<'static, Map>>();
        sent::<BlockOp<'static, Engine>>();
        waitable::<PinPages<'static, Map>>();
        waitable::<BreakLayouts<'static, Map>>();
        waitable::<Close<'static, Map>>();
        waitable::<LeasePages<'static, Map>>();
        waitable::<BreakLeases<'static, Map>>();
        waitable::<BreakMany<'static>>();
        waitable::<Recalled<'static>>();
        waitable::<Retired<Engine>>();
        waitable::<RetiredReady<'static, Map>>();
        waitable::<BlockOp<'static, Engine>>();
        fn debug<T: Debug>() {}
        debug::<PagePin>();
        debug::<LayoutGuard<Map>>();
        debug::<Drained<'static, Map>>();
        debug::<LeaseFree<'static, Map>>();
        debug::<DrainedOf<'static, Map>>();
        fn error<T: Error + Send + Sync + 'static>() {}
        error::<TryPinError>();
        error::<PinError>();
        error::<BreakError>();
        error::<TryBreakError>();
        error::<OpError<EngineError>>();
    }

    /// Does not compile if `$ty` has the trait: then there are two candidates.
    macro_rules! has_not {
        ($ty:ty: $($bound:tt)+) => {
            const _: fn() = || {
                trait Ambiguous<A> {
                    fn method() {}
                }
                impl<T: ?Sized> Ambiguous<()> for T {}
                struct Has;
                impl<T: ?Sized + $($bound)+> Ambiguous<Has> for T {}
                let _ = <$ty as Ambiguous<_>>::method;
            };
        };
    }
    has_not!(PagePin: Clone);
    has_not!(Drained<'static, ()>: Clone);
    has_not!(BreakLayouts<'static, ()>: Clone);
    has_not!(LayoutGuard<()>: Clone);
    has_not!(LayoutLease: Clone);
    has_not!(LeaseFree<'static, ()>: Clone);
    has_not!(DrainedMany<'static>: Clone);
    has_not!(DrainedOf<'static, ()>: Clone);
    // A number must not be redeemed twice by mistake, and a forged one must not unpin.
    has_not!(PinToken: Clone);
    const _: () = assert!(!std::mem::needs_drop::<PinToken>());
    // Who shares a guard shares its map.
    has_not!(LayoutGuard<NotSync>: Sync);
    has_not!(BreakLayouts<'static, NotSync>: Send);
    has_not!(Drained<'static, NotSync>: Send);
    has_not!(Drained<'static, NotSync>: Sync);
    has_not!(PinPages<'static, NotSync>: Send);
    has_not!(LeasePages<'static, NotSync>: Send);
    has_not!(BreakLeases<'static, NotSync>: Send);
    has_not!(LeaseFree<'static, NotSync>: Send);
    has_not!(RetiredReady<'static, NotSync>: Send);
    has_not!(DrainedOf<'static, NotSync>: Send);
    has_not!(Close<'static, NotSync>: Send);

    const _: () = assert!(size_of::<PagePin>() <= 16);
    const _: () = assert!(size_of::<Option<PagePin>>() <= 16);
}

#[test]
fn corner_debug_and_messages() {
    let guard = Engine::idle();
    let pin = guard.try_pin(3..5).unwrap();
    let breaking = guard.break_layouts(3..4);
    let texts = [
        format!("{guard:?}"),
        format!("{pin:?}"),
        format!("{breaking:?}"),
        format!("{:?}", guard.pin(3..4)),
        format!("{:?}", guard.punch_hole(9..10)),
        format!("{:?}", guard.try_break_layouts(20..30).unwrap()),
        format!("{:?}", guard.holders(..)),
        format!("{:?}", guard.stats()),
    ];
    assert!(texts.iter().all(|text| text.len() > 10), "{texts:?}");
    assert!(texts[1].contains("3..5") && texts[2].contains("3..4"));
    let errors: [&dyn Error; 6] = [
        &guard.try_pin(3..4).unwrap_err(),
        &guard.try_pin(4..4).unwrap_err(),
        &guard.try_break_layouts(4..5).unwrap_err(),
        &guard.try_break_layouts(3..4).unwrap_err(),
        &PinError::Closed,
        &OpError::<EngineError>::NotCovered,
    ];
    for error in errors {
        let text = error.to_string();
        assert!(
            !text.ends_with('.') && !text.starts_with(char::is_uppercase),
            "{text}"
        );
    }
    drop((breaking, pin));
    let _closing = guard.close();
    assert!(format!("{_closing:?}").contains("Close"));
}
