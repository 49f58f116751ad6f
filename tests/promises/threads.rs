//! I9 any thread: pins may be dropped on any thread, at thread exit, while unwinding, inside a `Drop`; a
//! pin outlives its thread and its guard, and the map goes with the last of them, once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier as Meeting, mpsc};
use std::thread;

use layout_lease::{LayoutGuard, PagePin, TryPinError};

use crate::support::{
    Ask, BARRIERS, OnDrop, Tombstone, assert_clean, bare, is_open, pages, watched,
};

// ---- where a pin is dropped -----------------------------------------------------------------------

#[test]
fn i09_dropped_on_another_thread() {
    watched(|| {
        for barrier in BARRIERS {
            let guard = LayoutGuard::with_barrier((), barrier);
            let pins: Vec<_> = (0..100).map(|_| guard.try_pin(0..4).unwrap()).collect();
            let breaking = guard.break_layouts(2..6);
            thread::scope(|s| {
                for pin in pins {
                    s.spawn(move || drop(pin));
                }
                drop(breaking.wait().unwrap());
            });
            assert_clean(&guard);
        }
    });
}

thread_local! {
    /// Dropped when the thread exits.
    static AT_EXIT: RefCell<Vec<Box<dyn Send>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` on a thread, and then what `f` left for its end.
fn on_a_thread_that_exits(f: impl FnOnce() + Send) {
    thread::scope(|s| {
        // A scope's own end does not wait for thread locals; `join` does.
        s.spawn(f).join().unwrap();
    });
}

fn at_exit(value: impl Send + 'static) {
    AT_EXIT.with_borrow_mut(|values| values.push(Box::new(value)));
}

#[test]
fn i09_dropped_at_thread_exit() {
    watched(|| {
        let guard = Arc::new(bare());
        // The thread local may be older than the thread's first pin, or younger: then it is dropped
        // before or behind what this crate keeps for the thread.
        for older in [true, false] {
            let pinned = &guard;
            on_a_thread_that_exits(move || {
                if older {
                    at_exit(());
                }
                let pins: Vec<_> = (0..70).map(|n| pinned.try_pin(n..n + 2).unwrap()).collect();
                at_exit(pins);
            });
            assert_clean(&guard);
            // One that somebody is waiting for: the end of the thread wakes.
            let (ready, wait) = mpsc::channel();
            let (exit, may_exit) = mpsc::channel::<()>();
            let pinned = Arc::clone(&guard);
            let thread = thread::spawn(move || {
                if older {
                    at_exit(());
                }
                at_exit(pinned.try_pin(0..4).unwrap());
                ready.send(()).unwrap();
                may_exit.recv().unwrap();
            });
            wait.recv().unwrap();
            let mut breaking = guard.break_layouts(3..4);
            breaking.assert_waits();
            exit.send(()).unwrap();
            drop(breaking.wait().unwrap());
            thread.join().unwrap();
            assert_clean(&guard);
        }
    });
}

/// Pins taken when the thread's own table of slots is gone already, or never was; some outlive it.
#[test]
fn i09_pinned_while_the_thread_exits() {
    watched(|| {
        let guard = Arc::new(bare());
        // The thread local is older than the thread's first pin, younger, or there was no pin at all.
        for (before, behind) in [(false, true), (true, false), (false, false)] {
            let (send, pins) = mpsc::channel::<PagePin>();
            let shared = Arc::clone(&guard);
            on_a_thread_that_exits(move || {
                if before {
                    drop(shared.try_pin(0..1).unwrap());
                }
                let again = Arc::clone(&shared);
                at_exit(OnDrop::new(move || {
                    for n in 0..70 {
                        drop(shared.try_pin(n..n + 1).unwrap());
                        send.send(shared.try_pin(n..n + 1).unwrap()).unwrap();
                    }
                    // Waiting works there, too, and so do breaks and grants to others.
                    drop(shared.pin(0..200).wait().unwrap());
                    let proof = shared.break_layouts(100..200).wait().unwrap();
                    let mut waiter = shared.pin(150..160);
                    assert!(
                        waiter
                            .wait_timeout(std::time::Duration::from_millis(1))
                            .is_none()
                    );
                    drop(proof);
                    drop(waiter.now().unwrap());
                }));
                if behind {
                    drop(again.try_pin(0..1).unwrap());
                }
            });
            let mut pins: Vec<_> = pins.iter().collect();
            assert_eq!(pins.len(), 70, "the thread's end was cut short");
            assert_eq!(guard.stats().pins, 70);
            // Others use the slots that are free now, and disturb nobody.
            on_a_thread_that_exits(|| {
                let more: Vec<_> = (0..200).map(|_| guard.try_pin(500..501).unwrap()).collect();
                assert_eq!(guard.stats().pins, 270);
                drop(more);
            });
            let mut breaking = guard.break_layouts(0..70);
            while let Some(pin) = pins.pop() {
                breaking.assert_waits();
                drop(pin);
            }
            drop(breaking.now().unwrap());
            drop(breaking);
            assert_clean(&guard);
        }
    });
}

#[test]
fn i09_dropped_while_unwinding() {
    let guard = bare();
    let pin = guard.try_pin(0..4).unwrap();
    let mut breaking = guard.break_layouts(2..6);
    breaking.assert_waits();
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _pin = pin;
        panic!("the device caught fire");
    }));
    assert!(unwound.is_err());
    let proof = breaking.now().unwrap();
    let mut waiter = guard.pin(2..3);
    waiter.assert_waits();
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _proof = proof;
        let _queued = guard.break_layouts(7..8);
        panic!("so did the allocator");
    }));
    assert!(unwound.is_err());
    drop(waiter.now().unwrap());
    drop((breaking, waiter));
    assert_clean(&guard);
}

#[test]
fn i09_dropped_inside_a_drop() {
    let guard = Arc::new(bare());
    let pin = guard.try_pin(0..4).unwrap();
    let inner = Arc::clone(&guard);
    let value = OnDrop::new(move || {
        // Everything may be done here.
        drop(pin);
        let proof = inner.try_break_layouts(0..4).unwrap();
        assert!(!is_open(&inner, pages(3, 4)));
        drop(proof);
        drop(inner.try_pin(0..4).unwrap());
    });
    let mut breaking = guard.break_layouts(2..3);
    breaking.assert_waits();
    drop(breaking);
    drop(value);
    assert_clean(&guard);
}

// ---- blocks of slots that change hands ------------------------------------------------------------

/// A thread leaves pins behind when it exits; the next ones take over its slots, live pins and all.
#[test]
fn i09_pins_outlive_their_thread_and_those_who_take_over_its_slots() {
    watched(|| {
        let guard = bare();
        let ranges = |pins: &[PagePin]| -> BTreeSet<_> { pins.iter().map(|p| p.range()).collect() };
        let mut left: Vec<PagePin> = Vec::new();
        for generation in 0..6 {
            let (send, pins) = mpsc::channel();
            on_a_thread_that_exits(|| {
                for n in 0..80 {
                    let page = generation * 1_000 + n * 2;
                    send.send(guard.try_pin(page..page + 1).unwrap()).unwrap();
                }
                // Those that it found in the slots that it took over are not its own.
                let (me, before) = (thread::current().id(), generation * 1_000);
                let early = guard.holders(..before.max(1));
                assert!(
                    early
                        .iter()
                        .all(|h| h.range().start() >= before || h.thread() != Some(me))
                );
                assert_eq!(guard.holders(before..)[0].thread(), Some(me));
            });
            left.extend(pins.try_iter());
            // Holes for the next one to fill.
            let mut n = 0;
            left.retain(|_| {
                n += 1;
                n % 3 != 0
            });
            let held: BTreeSet<_> = guard.holders(..).iter().map(|h| h.range()).collect();
            assert_eq!(held, ranges(&left), "generation {generation}");
            assert_eq!(guard.holders(..).len(), left.len());
            // The taker of an abandoned slot is not known any more; better none than the wrong one.
            let me = thread::current().id();
            assert!(guard.holders(..).iter().all(|h| h.thread() != Some(me)));
        }
        let mut breaking = guard.break_layouts(..);
        for pin in left {
            breaking.assert_waits();
            drop(pin);
        }
        drop(breaking.now().unwrap());
    });
}

// ---- pins that outlive their guard ----------------------------------------------------------------

/// A guard whose map counts its drops.
fn buried() -> (LayoutGuard<Tombstone>, impl Fn() -> usize) {
    let drops = Arc::new(AtomicUsize::new(0));
    let guard = LayoutGuard::new(Tombstone(Arc::clone(&drops)));
    (guard, move || drops.load(Ordering::SeqCst))
}

#[test]
fn i09_the_map_goes_with_the_guard_or_with_the_last_pin() {
    let (guard, drops) = buried();
    drop(guard.try_pin(0..1).unwrap());
    drop(guard);
    assert_eq!(drops(), 1);

    for count in [1, 2, 64, 200] {
        let (guard, drops) = buried();
        let mut pins: Vec<_> = (0..count)
            .map(|n| guard.try_pin(n..n + 1).unwrap())
            .collect();
        drop(guard);
        while let Some(pin) = pins.pop() {
            assert_eq!(drops(), 0, "freed under {} pin(s)", pins.len() + 1);
            assert_eq!(pin.range(), pages(pins.len() as u64, pins.len() as u64 + 1));
            assert!(format!("{pin:?}").contains(file!()));
            assert!(pin.is_breaking(), "somebody does wait for it");
            drop(pin);
        }
        assert_eq!(drops(), 1);
    }
}

#[test]
fn i09_the_last_pin_may_go_on_any_thread() {
    watched(|| {
        for barrier in BARRIERS {
            for _ in 0..50 {
                let drops = Arc::new(AtomicUsize::new(0));
                let guard = LayoutGuard::with_barrier(Tombstone(Arc::clone(&drops)), barrier);
                let pins: Vec<_> = (0..4).map(|_| guard.try_pin(0..1).unwrap()).collect();
                drop(guard);
                let meeting = Meeting::new(4);
                thread::scope(|s| {
                    for pin in pins {
                        let (meeting, drops) = (&meeting, &drops);
                        s.spawn(move || {
                            meeting.wait();
                            assert_eq!(drops.load(Ordering::SeqCst), 0);
                            // Nobody lets go before all have looked.
                            meeting.wait();
                            drop(pin);
                        });
                    }
                });
                assert_eq!(drops.load(Ordering::SeqCst), 1);
            }
        }
    });
}

/// The last pin and the guard go at the same moment: whoever is later takes the map along.
#[test]
fn i09_race_of_the_last_pin_and_the_guard() {
    watched(|| {
        let meeting = Meeting::new(2);
        let (hand_over, take) = mpsc::channel::<PagePin>();
        thread::scope(|s| {
            let meeting = &meeting;
            s.spawn(move || {
                for pin in take {
                    meeting.wait();
                    drop(pin);
                    meeting.wait();
                }
            });
            for round in 0..1_500 {
                let drops = Arc::new(AtomicUsize::new(0));
                let barrier = BARRIERS[round % 3];
                let guard = LayoutGuard::with_barrier(Tombstone(Arc::clone(&drops)), barrier);
                hand_over.send(guard.try_pin(0..4).unwrap()).unwrap();
                meeting.wait();
                drop(guard);
                // The record may be in use again while the pin's drop is still under way.
                let next = LayoutGuard::with_barrier((), BARRIERS[round % 2]);
                let mut breaking = next.break_layouts(0..8);
                let proof = breaking.now().unwrap();
                assert!(!is_open(&next, pages(0, 1)));
                meeting.wait();
                assert_eq!(drops.load(Ordering::SeqCst), 1);
                assert!(!is_open(&next, pages(0, 1)), "a straggler reopened it");
                drop(proof);
                assert_clean(&next);
            }
            drop(hand_over);
        });
    });
}

/// The map's own drop uses the crate: it pins, breaks, makes guards, and drops another guard's last pin.
#[test]
fn i09_a_map_whose_drop_uses_the_crate() {
    watched(|| {
        let (other, others_drops) = buried();
        let others_pin = other.try_pin(0..1).unwrap();
        drop(other);
        let bystander = Arc::new(bare());
        let used = Arc::clone(&bystander);
        let guard = LayoutGuard::new(OnDrop::new(move || {
            drop(others_pin);
            let fresh = bare();
            let pin = fresh.try_pin(0..4).unwrap();
            assert!(fresh.try_break_layouts(0..1).is_err());
            drop(fresh);
            drop(pin);
            drop(used.break_layouts(0..4).wait().unwrap());
        }));
        let pins = [guard.try_pin(0..1).unwrap(), guard.try_pin(1..2).unwrap()];
        drop(guard);
        let [first, last] = pins;
        drop(first);
        assert_eq!(others_drops(), 0);
        drop(last);
        assert_eq!(others_drops(), 1);
        assert_clean(&bystander);
    });
}

/// Whatever state a guard was in when it went, the next one that uses its record is as good as new.
#[test]
fn i09_a_recycled_record_is_clean() {
    let ends: [fn(&LayoutGuard<()>); 7] = [
        |_| {},
        |guard| drop(guard.try_break_layouts(0..4).unwrap()),
        |guard| mem::forget(guard.try_break_layouts(0..4).unwrap()),
        |guard| (0..40).for_each(|n| mem::forget(guard.break_layouts(n * 2..n * 2 + 1))),
        |guard| drop(guard.close()),
        |guard| mem::forget(guard.close()),
        |guard| {
            mem::forget(guard.break_layouts(0..4));
            let mut waiter = guard.pin(1..2);
            waiter.assert_waits();
            mem::forget(waiter);
        },
    ];
    for barrier in BARRIERS {
        for end in ends {
            for with_pin in [false, true] {
                let guard = LayoutGuard::with_barrier((), barrier);
                let pin = with_pin.then(|| guard.try_pin(100..101).unwrap());
                end(&guard);
                drop(guard);
                drop(pin);
                // Records are recycled last in, first out; other tests may be at it, too, so take many.
                let fresh: Vec<_> = (0..8).map(|_| bare()).collect();
                for guard in &fresh {
                    let stats = guard.stats();
                    assert_eq!((stats.breaks, stats.breaks_waited), (0, 0));
                    assert_clean(guard);
                    let pin = guard.try_pin(1..2).unwrap();
                    assert!(!pin.is_breaking());
                    guard.break_layouts(1..2).assert_waits();
                    drop(pin);
                    drop(guard.close());
                    assert_eq!(guard.try_pin(1..2).unwrap_err(), TryPinError::Closed);
                }
            }
        }
    }
}
