//! I8 cancel: what is dropped leaves the gate, the queue and the counts as if it had never been, and lets
//! on whoever waited for it. What has timed out is still what it was.

use std::sync::Barrier as Meeting;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use layout_lease::{BreakLayouts, LayoutGuard, PinPages};

use crate::support::{
    Ask, BARRIERS, Bell, Dice, Engine, assert_clean, bare, is_open, pages, poll, watched,
};

/// A break in each of the states in which it can be dropped.
#[test]
fn i08_a_break_dropped_in_any_state() {
    // Before anybody has asked; asked both ways; with a waker; with a real timeout.
    let states: [fn(&mut BreakLayouts<'_, ()>); 4] = [
        |_| {},
        |breaking| breaking.assert_waits(),
        |breaking| assert!(Bell::new().poll(breaking).is_pending()),
        |breaking| assert!(breaking.wait_timeout(Duration::from_millis(1)).is_none()),
    ];
    for barrier in BARRIERS {
        for state in states {
            let guard = LayoutGuard::with_barrier((), barrier);
            // While it waits for a holder.
            let pin = guard.try_pin(2..6).unwrap();
            let mut breaking = guard.break_layouts(0..4);
            state(&mut breaking);
            drop(breaking);
            assert!(is_open(&guard, pages(0, 8)));
            assert_eq!((guard.stats().queued, guard.stats().pins), (0, 1));
            assert!(!pin.is_breaking());
            // While it is queued behind a break, which is none the worse for it.
            let mut first = guard.break_layouts(5..7);
            let mut breaking = guard.break_layouts(6..9);
            state(&mut breaking);
            drop(breaking);
            assert!(is_open(&guard, pages(7, 9)) && !is_open(&guard, pages(6, 7)));
            assert_eq!(guard.stats().queued, 1);
            first.assert_waits();
            drop(pin);
            let proof = first.now().unwrap();
            // While it is queued behind a proof.
            let mut breaking = guard.break_layouts(6..9);
            state(&mut breaking);
            drop(breaking);
            assert!(is_open(&guard, pages(7, 9)) && !is_open(&guard, pages(6, 7)));
            drop((first, proof));
            assert_clean(&guard);
        }
        // Drained, and nobody has fetched the proof: at once, and after having waited.
        let guard = LayoutGuard::with_barrier((), barrier);
        let breaking = guard.break_layouts(0..4);
        assert!(breaking.is_drained());
        drop(breaking);
        assert_clean(&guard);
        let pin = guard.try_pin(2..6).unwrap();
        let (bell, mut breaking) = (Bell::new(), guard.break_layouts(0..4));
        assert!(bell.poll(&mut breaking).is_pending());
        drop(pin);
        assert_eq!(bell.rung(), 1);
        drop(breaking);
        assert_clean(&guard);
    }
}

#[test]
fn i08_a_waiting_pin_dropped_in_any_state() {
    let states: [fn(&mut PinPages<'_, ()>); 3] = [
        |waiter| waiter.assert_waits(),
        |waiter| assert!(Bell::new().poll(waiter).is_pending()),
        |waiter| assert!(waiter.wait_timeout(Duration::from_millis(1)).is_none()),
    ];
    for state in states {
        let guard = bare();
        // Never asked.
        drop(guard.pin(0..4));
        let proof = guard.try_break_layouts(0..4).unwrap();
        drop(guard.pin(0..4));
        assert_eq!(guard.stats().queued, 1);
        // Queued.
        let mut waiter = guard.pin(0..4);
        state(&mut waiter);
        assert_eq!(guard.stats().queued, 2);
        drop(waiter);
        assert_eq!((guard.stats().queued, guard.stats().pins), (1, 0));
        // Granted, and not asked since.
        let mut waiter = guard.pin(0..4);
        state(&mut waiter);
        drop(proof);
        assert_eq!(guard.stats().pins, 1);
        drop(waiter);
        assert_clean(&guard);
    }
}

#[test]
fn i08_a_dropped_waiter_lets_on_who_waited_for_it() {
    let guard = bare();
    // In the queue: the break behind it may go on.
    let proof = guard.try_break_layouts(0..2).unwrap();
    let mut waiter = guard.pin(1..4);
    waiter.assert_waits();
    let (bell, mut behind) = (Bell::new(), guard.break_layouts(3..6));
    assert!(bell.poll(&mut behind).is_pending());
    drop(waiter);
    assert_eq!(bell.rung(), 1);
    drop((behind.now().unwrap(), behind));
    // Granted: it was a holder, and the break behind it may go on.
    let mut waiter = guard.pin(1..4);
    waiter.assert_waits();
    let (bell, mut behind) = (Bell::new(), guard.break_layouts(3..6));
    assert!(bell.poll(&mut behind).is_pending());
    drop(proof);
    assert_eq!(bell.rung(), 0);
    behind.assert_waits();
    assert!(bell.poll(&mut behind).is_pending());
    drop(waiter);
    assert_eq!(bell.rung(), 1);
    drop((behind.now().unwrap(), behind));
    assert_clean(&guard);
}

#[test]
fn i08_a_dropped_break_lets_on_who_waited_for_it() {
    let guard = bare();
    let pin = guard.try_pin(0..1).unwrap();
    // Waits for the pin; behind it a pinner, a break that does not want the pin's page, and one that does.
    let first = guard.break_layouts(0..4);
    let (bells, mut waiter) = ([(); 3].map(|()| Bell::new()), guard.pin(3..4));
    let mut second = guard.break_layouts(1..3);
    let mut third = guard.break_layouts(0..2);
    assert!(bells[0].poll(&mut waiter).is_pending());
    assert!(bells[1].poll(&mut second).is_pending());
    assert!(bells[2].poll(&mut third).is_pending());
    drop(first);
    assert_eq!(bells.each_ref().map(|b| b.rung()), [1, 1, 0]);
    drop(waiter.now().unwrap());
    let proof = second.now().unwrap();
    third.assert_waits();
    assert!(bells[2].poll(&mut third).is_pending());
    drop(proof);
    third.assert_waits();
    assert!(bells[2].poll(&mut third).is_pending());
    drop(pin);
    assert_eq!(bells[2].rung(), 1);
    drop(third.now().unwrap());
    drop((waiter, second, third));
    assert_clean(&guard);
}

#[test]
fn i08_a_dropped_operation_frees_nothing() {
    let guard = Engine::idle();
    let pin = guard.try_pin(2..3).unwrap();
    let mut waits = guard.punch_hole(0..4);
    waits.assert_waits();
    let mut queues = guard.truncate(3);
    queues.assert_waits();
    drop((waits, queues));
    assert_eq!(guard.stats().queued, 0);
    drop(pin);
    // Drained already, but never asked.
    drop(guard.punch_hole(0..4));
    drop(guard.collapse_range(0..4));
    assert_eq!(guard.map().calls(), 0);
    assert_clean(&guard);
}

#[test]
fn i08_after_a_timeout_a_value_is_still_what_it_was() {
    watched(|| {
        let guard = bare();
        let pin = guard.try_pin(2..3).unwrap();
        let mut breaking = guard.break_layouts(0..4);
        let mut waiter = guard.pin(0..1);
        for _ in 0..5 {
            assert!(breaking.wait_timeout(Duration::from_micros(200)).is_none());
            assert!(waiter.wait_timeout(Duration::from_micros(200)).is_none());
            assert!(!is_open(&guard, pages(3, 4)));
            assert_eq!(breaking.ranges(), [pages(0, 4)]);
            assert_eq!(breaking.holders().len(), 1);
            // Each still has its own place, once.
            assert_eq!(guard.stats().queued, 2);
        }
        // Its place is before one that comes later.
        let mut later = guard.break_layouts(0..4);
        drop(pin);
        later.assert_waits();
        drop(breaking.wait().unwrap());
        later.assert_waits();
        drop(waiter.wait().unwrap());
        drop(later.wait().unwrap());
        assert_clean(&guard);
    });
}

#[test]
fn i08_a_refused_try_break_leaves_everything_as_it_was() {
    let guard = bare();
    let pin = guard.try_pin(0..2).unwrap();
    let proof = guard.try_break_layouts(4..6).unwrap();
    let before = guard.stats();
    assert!(guard.try_break_layouts(1..3).is_err());
    assert!(guard.try_break_layouts(3..5).is_err());
    assert!(guard.try_break_layouts(1..5).is_err());
    assert_eq!(guard.stats(), before);
    assert!(is_open(&guard, pages(0, 4)) && !is_open(&guard, pages(3, 5)));
    assert!(!pin.is_breaking());
    drop((pin, proof));
    assert_clean(&guard);
}

/// Giving up at the very moment at which it would have been one's turn.
#[test]
fn i08_race_of_giving_up_and_getting() {
    watched(|| {
        for barrier in BARRIERS {
            let guard = LayoutGuard::with_barrier((), barrier);
            let meeting = Meeting::new(2);
            thread::scope(|s| {
                let (guard, meeting) = (&guard, &meeting);
                s.spawn(move || {
                    let mut dice = Dice::new(1);
                    for _ in 0..1_000 {
                        let pin = guard.try_pin(0..2).unwrap();
                        meeting.wait();
                        meeting.wait();
                        (0..dice.roll(60)).for_each(|_| std::hint::spin_loop());
                        drop(pin);
                        meeting.wait();
                        meeting.wait();
                    }
                });
                let mut dice = Dice::new(2);
                for round in 0..1_000 {
                    meeting.wait();
                    let bell = Bell::new();
                    let mut first = guard.break_layouts(1..4);
                    let mut waiter = guard.pin(2..6);
                    assert!(bell.poll(&mut waiter).is_pending());
                    let mut second = guard.break_layouts(3..8);
                    meeting.wait();
                    (0..dice.roll(60)).for_each(|_| std::hint::spin_loop());
                    match round % 4 {
                        0 => {
                            drop(first);
                            drop(waiter.wait().unwrap());
                        }
                        1 => {
                            drop(waiter);
                            drop(first.wait().unwrap());
                        }
                        2 => {
                            if let Poll::Ready(proof) = poll(&mut first) {
                                drop(proof.unwrap());
                            }
                            drop((first, waiter));
                        }
                        _ => {
                            drop(second);
                            second = guard.break_layouts(3..8);
                            drop((first, waiter));
                        }
                    }
                    drop(second.wait().unwrap());
                    meeting.wait();
                    assert_clean(guard);
                    meeting.wait();
                }
            });
        }
    });
}
