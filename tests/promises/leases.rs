//! Leases: the gate, the queue, recall, partial return, and breaks of leases alone.

use std::cell::Cell;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use layout_lease::{
    BreakError, BreakLayouts, HolderKind, LayoutGuard, LayoutLease, LeasePages, PageRange,
    PinError, RangeError,
};

use crate::support::{
    Ask, BARRIERS, Bell, Dice, Engine, OnDrop, Tombstone, assert_clean, bare, is_open, lease,
    pages, poll, watched,
};

/// Whether a lease of all of `pages` is had at once; it is given back at once.
fn is_open_to_leases<M>(guard: &LayoutGuard<M>, pages: PageRange) -> bool {
    matches!(poll(&mut guard.lease(pages)), Poll::Ready(Ok(_)))
}

// ---- the gate and the queue -----------------------------------------------------------------------

#[test]
fn i01_a_break_of_either_kind_keeps_leases_out_from_the_call_on() {
    for barrier in BARRIERS {
        let guard = LayoutGuard::with_barrier((), barrier);
        let layouts = guard.break_layouts(2..4);
        let leases = guard.break_leases(6..8);
        for start in 0..10 {
            for end in start + 1..=10 {
                let meets = |lo, hi| start < hi && lo < end;
                let open = !meets(2, 4) && !meets(6, 8);
                assert_eq!(
                    is_open_to_leases(&guard, pages(start, end)),
                    open,
                    "{start}..{end}"
                );
                // Pins are kept out by the one, not by the other.
                assert_eq!(is_open(&guard, pages(start, end)), !meets(2, 4));
            }
        }
        drop(layouts);
        assert!(is_open_to_leases(&guard, pages(2, 6)));
        assert!(!is_open_to_leases(&guard, pages(5, 7)));
        drop(leases);
        assert!(is_open_to_leases(&guard, PageRange::ALL));
        assert_clean(&guard);
    }
}

#[test]
fn i01_leases_are_kept_out_as_long_as_the_break_or_its_proof_lives() {
    let guard = bare();
    let (pin, held) = (guard.try_pin(0..1).unwrap(), lease(&guard, pages(0, 4)));
    let mut layouts = guard.break_layouts(0..2);
    let mut leases = guard.break_leases(2..4);
    let kept_out = || (0..4).all(|page| !is_open_to_leases(&guard, pages(page, page + 1)));
    layouts.assert_waits();
    leases.assert_waits();
    assert!(kept_out());
    drop(held);
    let free = leases.now().unwrap();
    layouts.assert_waits();
    assert!(kept_out());
    drop(pin);
    let proof = layouts.now().unwrap();
    drop((layouts, leases));
    assert!(kept_out());
    drop(proof);
    assert!(is_open_to_leases(&guard, pages(0, 2)) && !is_open_to_leases(&guard, pages(2, 3)));
    drop(free);
    assert_clean(&guard);
}

#[test]
fn i03_a_lease_takes_its_ticket_when_first_polled_and_goes_before_later_breaks() {
    let guard = bare();
    let first = guard.break_layouts(0..4);
    let (mut early, mut late) = (guard.lease(3..6), guard.lease(3..6));
    early.assert_waits();
    // Breaks behind it wait for it, also those that want only pages that nobody else wants.
    let mut layouts = guard.break_layouts(5..8);
    let mut leases = guard.break_leases(4..5);
    late.assert_waits();
    layouts.assert_waits();
    leases.assert_waits();
    // Nobody holds anything: what they wait for is a turn.
    assert!(layouts.holders().is_empty() && leases.holders().is_empty());
    drop(first);
    let granted = early.now().unwrap();
    layouts.assert_waits();
    leases.assert_waits();
    assert!(granted.is_recalled(), "wanted before it was granted");
    assert_eq!(granted.recalled().now(), pages(4, 6));
    drop(granted);
    drop(layouts.now().unwrap());
    late.assert_waits();
    drop(leases.now().unwrap());
    drop((late.now().unwrap(), layouts, leases));
    assert_clean(&guard);
}

#[test]
fn i03_leases_and_pins_never_wait_for_each_other() {
    let guard = bare();
    let held = [lease(&guard, pages(0, 8)), lease(&guard, pages(4, 12))];
    let pins = [
        guard.try_pin(0..8).unwrap(),
        guard.pin(4..12).now().unwrap(),
    ];
    let proof = guard.try_break_layouts(20..21).unwrap();
    // Those who wait do not keep others of their kind waiting, nor each other.
    let (mut leasing, mut pinning) = (guard.lease(6..21), guard.pin(6..21));
    leasing.assert_waits();
    pinning.assert_waits();
    drop((lease(&guard, pages(6, 20)), guard.pin(6..20).now().unwrap()));
    drop(proof);
    drop((leasing.now().unwrap(), pinning.now().unwrap()));
    assert_eq!((guard.stats().leases, guard.stats().pins), (2, 2));
    drop((held, pins, leasing, pinning));
    assert_clean(&guard);
}

#[test]
fn i05_a_stream_of_breaks_starves_no_lease() {
    let guard = bare();
    let mut proof = guard.break_layouts(0..4).now().unwrap();
    let mut waiter = guard.lease(1..2);
    waiter.assert_waits();
    let mut next = guard.break_layouts(0..4);
    drop(proof);
    let granted = waiter.now().expect("before the break that came later");
    next.assert_waits();
    drop(granted);
    proof = next.now().unwrap();
    // Of breaks of leases too.
    let mut waiter = guard.lease(2..3);
    waiter.assert_waits();
    let mut next = guard.break_leases(0..4);
    drop(proof);
    next.assert_waits();
    drop(waiter.now().unwrap());
    drop((next.now().unwrap(), waiter));
    drop(next);
    assert_clean(&guard);
}

/// Two threads hold leases, a few more each time than the first, and ask for the next before they let go of what is
/// recalled: so there is always one who holds or wants some. The next must never come before the break that recalls,
/// whenever that has come.
#[test]
fn i05_a_stream_of_leases_starves_no_break() {
    const BREAKS: usize = 400;
    watched(|| {
        let guard = bare();
        thread::scope(|s| {
            // If this thread or one of the others fails, nobody waits on.
            let _stop = OnDrop::new(|| {
                if thread::panicking() {
                    drop(guard.close());
                }
            });
            let takers = [(); 2].map(|()| {
                let (holds, seen) = mpsc::channel();
                let guard = &guard;
                s.spawn(move || {
                    let mut next = lease(guard, pages(0, 4));
                    for _ in 0..BREAKS {
                        let mut held = vec![next];
                        holds.send(()).unwrap();
                        // The break may come before, between or behind these.
                        while held.len() < 3 {
                            let more = guard.lease(0..4).ask_blocking();
                            let Some(more) = more else { break };
                            held.push(more.unwrap());
                        }
                        assert_eq!(held[0].recalled().wait(), pages(1, 2));
                        // It cannot be over: it waits for what we hold.
                        let mut asked = guard.lease(0..4);
                        let early = asked.ask_blocking();
                        assert!(early.is_none(), "a newcomer goes before a break");
                        drop(held);
                        next = asked.wait().unwrap();
                    }
                });
                seen
            });
            for n in 0..BREAKS {
                takers.iter().for_each(|seen| seen.recv().unwrap());
                match n % 2 {
                    0 => drop(guard.break_leases(1..2).wait().unwrap()),
                    _ => drop(guard.break_layouts(1..2).wait().unwrap()),
                }
            }
        });
        assert_eq!(guard.stats().breaks_waited, BREAKS as u64);
        assert_clean(&guard);
    });
}

#[test]
fn i08_a_waiting_lease_dropped_in_any_state() {
    let states: [fn(&mut LeasePages<'_, ()>); 3] = [
        |waiter| waiter.assert_waits(),
        |waiter| assert!(Bell::new().poll(waiter).is_pending()),
        |waiter| assert!(waiter.wait_timeout(Duration::from_millis(1)).is_none()),
    ];
    for state in states {
        let guard = bare();
        drop(guard.lease(0..4));
        let proof = guard.try_break_layouts(0..2).unwrap();
        drop(guard.lease(0..4));
        assert_eq!(guard.stats().queued, 1, "never polled, never in the queue");
        // In the queue: the break behind it may go on.
        let mut waiter = guard.lease(1..4);
        state(&mut waiter);
        let (bell, mut behind) = (Bell::new(), guard.break_layouts(3..6));
        assert!(bell.poll(&mut behind).is_pending());
        drop(waiter);
        assert_eq!(bell.rung(), 1);
        drop((behind.now().unwrap(), behind));
        // Granted and not fetched: a holder, which the break behind it waits for.
        let mut waiter = guard.lease(1..4);
        state(&mut waiter);
        let (bell, mut behind) = (Bell::new(), guard.break_leases(3..6));
        assert!(bell.poll(&mut behind).is_pending());
        drop(proof);
        assert_eq!((guard.stats().leases, bell.rung()), (1, 0));
        assert_eq!(behind.holders()[0].range(), pages(1, 4));
        drop(waiter);
        assert_eq!(bell.rung(), 1);
        drop((behind.now().unwrap(), behind));
        assert_clean(&guard);
    }
}

// ---- breaks of leases alone -----------------------------------------------------------------------

#[test]
fn breaking_leases_leaves_pins_alone() {
    let guard = bare();
    let (held, pin) = (lease(&guard, pages(0, 8)), guard.try_pin(0..8).unwrap());
    let (bell, mut breaking) = (Bell::new(), guard.break_leases(4..6));
    assert_eq!(breaking.ranges(), [pages(4, 6)]);
    assert!(held.is_recalled() && !pin.is_breaking() && !breaking.is_drained());
    // Its holders are the leases.
    let who = breaking.holders();
    assert_eq!((who.len(), who[0].kind()), (1, HolderKind::Lease));
    assert!(bell.poll(&mut breaking).is_pending());
    // Pins come and go as if it were not there, waited for or not.
    let more = [guard.try_pin(4..5).unwrap(), guard.pin(5..6).now().unwrap()];
    drop(more);
    assert_eq!(bell.rung(), 0);
    drop(held);
    assert_eq!(bell.rung(), 1);
    assert!(breaking.is_drained());
    let free = breaking.now().unwrap();
    assert_eq!(free.ranges(), [pages(4, 6)]);
    assert!(free.covers(pages(4, 6)) && free.covers(pages(5, 6)));
    assert!(!free.covers(pages(3, 5)) && !free.covers(pages(5, 7)));
    let later = guard.try_pin(4..6).unwrap();
    // Leases wait, and are let in by its drop.
    let (bell, mut waiter) = (Bell::new(), guard.lease(5..9));
    assert!(bell.poll(&mut waiter).is_pending());
    drop(free);
    assert_eq!(bell.rung(), 1);
    drop((waiter.now().unwrap(), waiter, pin, later, breaking));
    assert_clean(&guard);
}

#[test]
fn breaks_of_leases_and_of_layouts_do_not_wait_for_each_other() {
    for leases_first in [false, true] {
        let guard = bare();
        let (held, pin) = (lease(&guard, pages(0, 8)), guard.try_pin(0..8).unwrap());
        let (mut layouts, mut leases);
        if leases_first {
            leases = guard.break_leases(2..6);
            layouts = guard.break_layouts(4..8);
        } else {
            layouts = guard.break_layouts(4..8);
            leases = guard.break_leases(2..6);
        }
        let mut again = guard.break_leases(5..7);
        layouts.assert_waits();
        leases.assert_waits();
        again.assert_waits();
        drop(held);
        layouts.assert_waits();
        let (free, more) = (leases.now().unwrap(), again.now().unwrap());
        drop(pin);
        let proof = layouts.now().unwrap();
        // Both are there at the same time, and each keeps its own closed.
        assert!(!is_open_to_leases(&guard, pages(2, 3)) && is_open(&guard, pages(2, 4)));
        drop(free);
        assert!(is_open_to_leases(&guard, pages(2, 4)) && !is_open_to_leases(&guard, pages(4, 5)));
        drop(proof);
        assert!(is_open(&guard, pages(0, 8)) && !is_open_to_leases(&guard, pages(6, 7)));
        drop(
            guard
                .try_break_layouts(..)
                .expect("beside a break of leases"),
        );
        drop((more, again, layouts, leases));
        assert_clean(&guard);
    }
}

#[test]
fn i08_a_break_of_leases_dropped_in_any_state() {
    let guard = bare();
    let held = lease(&guard, pages(0, 4));
    for ask in [false, true] {
        // While it waits, with one who waits behind it.
        let mut breaking = guard.break_leases(2..6);
        if ask {
            breaking.assert_waits();
        }
        let (bell, mut waiter) = (Bell::new(), guard.lease(5..6));
        assert!(bell.poll(&mut waiter).is_pending());
        drop(breaking);
        assert_eq!(bell.rung(), 1);
        assert!(!held.is_recalled());
        drop((waiter.now().unwrap(), waiter));
        // Drained, not fetched.
        let breaking = guard.break_leases(4..6);
        assert!(breaking.is_drained());
        drop(breaking);
        assert!(is_open_to_leases(&guard, PageRange::ALL));
    }
    drop(held);
    assert_clean(&guard);
}

// ---- errors and closing ---------------------------------------------------------------------------

#[test]
fn i10_ranges_that_are_none_are_refused() {
    let guard = bare();
    let (start, end) = (4, 3);
    for _ in 0..2 {
        let empty = RangeError::Empty { at: 4 };
        assert_eq!(guard.lease(4..4).now().unwrap_err(), PinError::Range(empty));
        assert_eq!(guard.break_leases(4..4).now().unwrap_err(), empty.into());
        let inverted = RangeError::Inverted { start, end };
        assert_eq!(guard.lease(start..end).now().unwrap_err(), inverted.into());
        let error = guard.break_leases(start..end).now().unwrap_err();
        assert_eq!(error, BreakError::Range(inverted));
        assert!(guard.lease(0..=u64::MAX).now().is_err());
        let bad = guard.break_leases(4..4);
        assert!(bad.ranges().is_empty() && bad.holders().is_empty() && !bad.is_drained());
        // Nothing was closed, nobody is in the queue.
        assert_eq!(guard.stats().queued, 0);
        assert!(is_open_to_leases(&guard, PageRange::ALL));
        drop(bad);
    }
    // A wrong range is told before a closed guard is.
    drop(guard.close());
    assert_eq!(
        guard.lease(4..4).now().unwrap_err(),
        RangeError::Empty { at: 4 }.into()
    );
    assert_eq!(guard.lease(4..5).now().unwrap_err(), PinError::Closed);
    assert_eq!(
        guard.break_leases(4..5).now().unwrap_err(),
        BreakError::Closed
    );
}

#[test]
fn close_recalls_all_leases_and_waits_for_them() {
    let guard = bare();
    let (held, mut second) = (lease(&guard, pages(0, 4)), lease(&guard, pages(8, 12)));
    let bells = [(); 5].map(|()| Bell::new());
    let mut call = held.recalled();
    assert!(bells[0].poll(&mut call).is_pending());
    let free = guard.break_leases(20..30).now().unwrap();
    let mut waiter = guard.lease(20..21);
    assert!(bells[1].poll(&mut waiter).is_pending());
    let mut breaking = guard.break_leases(0..2);
    assert!(bells[2].poll(&mut breaking).is_pending());
    let (drained, idle) = (guard.break_leases(40..41), guard.lease(50..51));
    let mut closing = guard.close();
    assert!(bells[3].poll(&mut closing).is_pending());
    let rung = || bells.each_ref().map(|bell| bell.rung());
    assert_eq!(rung(), [1, 1, 1, 0, 0]);
    assert_eq!(waiter.now().unwrap_err(), PinError::Closed);
    assert_eq!(breaking.now().unwrap_err(), BreakError::Closed);
    let mut idle = idle;
    assert_eq!(idle.now().unwrap_err(), PinError::Closed);
    assert_eq!(call.now(), pages(0, 4));
    assert!(second.is_recalled());
    // One that had its proof already keeps it.
    let mut drained = drained;
    let also = drained.now().unwrap();
    drop(call);
    drop(held);
    second.shrink_to(8..9).unwrap();
    assert_eq!(rung(), [1, 1, 1, 0, 0]);
    drop((free, also));
    assert_eq!(rung(), [1, 1, 1, 0, 0]);
    closing.assert_waits();
    assert!(bells[4].poll(&mut closing).is_pending());
    drop(second);
    assert_eq!(rung(), [1, 1, 1, 0, 1]);
    closing.now();
    assert_eq!((guard.stats().leases, guard.stats().queued), (0, 0));
}

// ---- any thread, any time -------------------------------------------------------------------------

#[test]
fn i09_a_lease_outlives_its_guard_and_keeps_the_map() {
    let drops = Arc::new(AtomicUsize::new(0));
    let gone = || drops.load(Ordering::SeqCst);
    for barrier in BARRIERS {
        drops.store(0, Ordering::SeqCst);
        let map = Tombstone(Arc::clone(&drops));
        let guard = LayoutGuard::with_barrier(map, barrier);
        let mut held = lease(&guard, pages(0, 8));
        let (short, pin) = (lease(&guard, pages(100, 101)), guard.try_pin(4..5).unwrap());
        // Those who wait for a recall are told that the guard is gone: nothing else will ask for it.
        let (bell, mut call) = (Bell::new(), short.recalled());
        assert!(bell.poll(&mut call).is_pending());
        drop(guard);
        assert_eq!(gone(), 0, "dropped under its holders");
        assert_eq!(bell.rung(), 1);
        assert!(held.is_recalled());
        assert_eq!(call.now(), pages(100, 101));
        assert_eq!(held.recalled().now(), pages(0, 8));
        drop(call);
        // It is what it was.
        assert_eq!(
            held.shrink_to(9..10),
            Err(RangeError::Outside { start: 9, end: 10 })
        );
        held.shrink_to(2..4).unwrap();
        drop((pin, short));
        assert_eq!(gone(), 0);
        thread::spawn(move || drop(held)).join().unwrap();
        assert_eq!(gone(), 1);
    }
}

#[test]
fn i09_the_last_of_leases_and_pins_takes_the_map_along_in_any_order() {
    let drops = Arc::new(AtomicUsize::new(0));
    for order in 0..6_usize {
        let before = drops.load(Ordering::SeqCst);
        let guard = LayoutGuard::new(Tombstone(Arc::clone(&drops)));
        let mut holds: Vec<Box<dyn Send>> = vec![
            Box::new(lease(&guard, pages(0, 4))),
            Box::new(guard.try_pin(0..4).unwrap()),
            Box::new(lease(&guard, pages(2, 9))),
        ];
        drop(guard);
        for left in (0..3).rev() {
            assert_eq!(drops.load(Ordering::SeqCst), before);
            drop(holds.remove(order / (left + 1) % (left + 1)));
        }
        assert_eq!(drops.load(Ordering::SeqCst), before + 1);
    }
}

#[test]
fn i09_a_lease_may_be_dropped_anywhere() {
    thread_local! {
        static KEPT: Cell<Option<LayoutLease>> = const { Cell::new(None) };
    }
    let guard = bare();
    let drained = |breaking: &mut BreakLayouts<'_, ()>| breaking.now().map(drop);
    // On another thread, and shared with one.
    let held = lease(&guard, pages(0, 1));
    let mut breaking = guard.break_layouts(0..1);
    thread::scope(|s| {
        s.spawn(|| assert!(held.is_recalled() && held.recalled().wait() == pages(0, 1)));
    });
    thread::spawn(move || drop(held)).join().unwrap();
    drained(&mut breaking).unwrap();
    // By the end of a thread.
    let held = lease(&guard, pages(0, 1));
    let mut breaking = guard.break_layouts(0..1);
    thread::spawn(move || KEPT.set(Some(held))).join().unwrap();
    drained(&mut breaking).unwrap();
    // While unwinding; what waits, too.
    let held = lease(&guard, pages(0, 1));
    let mut breaking = guard.break_leases(0..1);
    let mut waiter = guard.lease(0..1);
    waiter.assert_waits();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _both = (held, waiter);
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    drop(breaking.now().unwrap());
    // Inside a drop.
    let held = lease(&guard, pages(0, 1));
    let breaking = guard.break_layouts(0..1);
    drop(OnDrop::new(move || drop(held)));
    assert!(breaking.is_drained());
    drop(breaking);
    assert_clean(&guard);
}

#[test]
fn i04_a_forgotten_lease_only_delays_and_has_a_name() {
    let guard = Engine::idle();
    let line = line!() + 1;
    let held = guard.lease(3..5).labelled("ring 0").now().unwrap();
    mem::forget(held);
    let mut punch = guard.punch_hole(0..8);
    let mut alone = guard.break_leases(4..5);
    for _ in 0..3 {
        let moment = Duration::from_millis(1);
        assert!(punch.wait_timeout(moment).is_none() && alone.wait_timeout(moment).is_none());
        assert_eq!(guard.map().calls(), 0);
        for who in [punch.breaking().holders(), alone.holders()] {
            assert_eq!((who.len(), who[0].label()), (1, Some("ring 0")));
            assert_eq!(
                (who[0].location().file(), who[0].location().line()),
                (file!(), line)
            );
        }
    }
    drop((punch, alone));
    assert_eq!(guard.punch_hole(5..8).now(), Ok(1));
    // A forgotten question, a forgotten wait and a forgotten proof harm nobody else.
    let held = lease(&guard, pages(10, 11));
    let mut call = held.recalled();
    assert!(Bell::new().poll(&mut call).is_pending());
    mem::forget(call);
    let mut breaking = guard.break_layouts(10..11);
    assert_eq!(held.recalled().now(), pages(10, 11));
    drop(held);
    drop(breaking.now().unwrap());
    mem::forget(guard.break_leases(20..21).now().unwrap());
    assert!(is_open(&guard, pages(20, 21)) && !is_open_to_leases(&guard, pages(20, 21)));
    drop(breaking);
}

// ---- many of them ---------------------------------------------------------------------------------

/// Against a plain list: whom a break finds, among leases that come, go and shrink.
#[test]
fn every_lease_that_overlaps_is_found_and_no_other() {
    let guard = bare();
    let (mut leases, mut dice) = (Vec::new(), Dice::new(11));
    for round in 0..3_000 {
        match dice.roll(5) {
            0 | 1 if round < 2_500 => leases.push(lease(&guard, dice.range(200, 60))),
            2 if !leases.is_empty() => {
                let at = dice.roll(leases.len() as u64) as usize;
                let held: &mut LayoutLease = &mut leases[at];
                let (start, len) = (held.range().start(), held.range().len());
                let from = start + dice.roll(len);
                let to = from + 1 + dice.roll(start + len - from);
                held.shrink_to(from..to).unwrap();
            }
            3 if !leases.is_empty() => {
                drop(leases.swap_remove(dice.roll(leases.len() as u64) as usize));
            }
            _ => {}
        }
        let wanted = dice.range(200, 30);
        let breaking = guard.break_leases(wanted);
        let mut found: Vec<_> = breaking.holders().iter().map(|h| h.range()).collect();
        let mut expected: Vec<_> = leases
            .iter()
            .map(LayoutLease::range)
            .filter(|range| range.overlaps(&wanted))
            .collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert_eq!(breaking.is_drained(), expected.is_empty());
        assert_eq!(guard.stats().leases, leases.len() as u64);
    }
    drop(leases);
    assert_clean(&guard);
}
