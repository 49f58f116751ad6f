//! I1 one step, I3 one queue, I5 bounded both ways.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use layout_lease::{LayoutGuard, PageRange, TryBreakError, TryPinError};

use crate::support::{
    Ask, BARRIERS, Bell, Engine, Log, OnDrop, assert_clean, bare, is_open, pages, until, watched,
};

// ---- I1: one step ---------------------------------------------------------------------------------

#[test]
fn i01_closed_when_the_call_returns_before_the_first_poll() {
    for barrier in BARRIERS {
        let guard = LayoutGuard::with_barrier((), barrier);
        let breaking = guard.break_layouts(2..4);
        for start in 0..6 {
            for end in start + 1..=6 {
                let open = end <= 2 || start >= 4;
                let pin = guard.try_pin(start..end);
                assert_eq!(pin.is_ok(), open, "{start}..{end}");
                assert!(open || pin.unwrap_err() == TryPinError::Breaking);
            }
        }
        // For other threads too, and for those who would wait.
        thread::scope(|s| {
            s.spawn(|| assert_eq!(guard.try_pin(3..9).unwrap_err(), TryPinError::Breaking));
        });
        guard.pin(1..3).assert_waits();
        assert!(matches!(
            guard.try_break_layouts(3..4),
            Err(TryBreakError::Breaking)
        ));
        drop(breaking);
        assert_clean(&guard);
    }
}

#[test]
fn i01_the_gate_does_not_reopen_while_a_break_waits() {
    let guard = bare();
    let (first, second) = (guard.try_pin(0..3).unwrap(), guard.try_pin(2..4).unwrap());
    let mut breaking = guard.break_layouts(1..3);
    let assert_closed = |when: &str| {
        for page in 0..4 {
            let open = page != 1 && page != 2;
            assert_eq!(is_open(&guard, pages(page, page + 1)), open, "{when}");
        }
    };
    assert_closed("before the first poll");
    breaking.assert_waits();
    assert_closed("polled");
    drop(first);
    assert_closed("one holder gone");
    breaking.assert_waits();
    assert_closed("polled again");
    drop(second);
    assert!(breaking.is_drained());
    assert_closed("drained, not yet fetched");
    let proof = breaking.now().unwrap();
    assert_closed("proof out");
    drop(breaking);
    assert_closed("only the proof left");
    drop(proof);
    assert_clean(&guard);
}

/// The hole of 2018: a gate that opens for a moment while the waiter looks again. Threads try the whole
/// time, while holders go one after the other and breaks come and go next to the range.
#[test]
fn i01_nobody_slips_in_while_a_break_waits() {
    watched(|| {
        for barrier in BARRIERS {
            let guard = LayoutGuard::with_barrier((), barrier);
            let (over, tries) = (AtomicBool::new(false), AtomicUsize::new(0));
            let running = Arc::new(());
            let mut holders: Vec<_> = (0..64).map(|_| guard.try_pin(4..6).unwrap()).collect();
            let mut breaking = guard.break_layouts(5..8);
            thread::scope(|s| {
                let _stop = OnDrop::new(|| over.store(true, Ordering::SeqCst));
                for page in [5, 7] {
                    let (guard, over, tries) = (&guard, &over, &tries);
                    let running = Arc::clone(&running);
                    s.spawn(move || {
                        while !over.load(Ordering::SeqCst) {
                            assert!(!is_open(guard, pages(page, page + 1)), "slipped in");
                            tries.fetch_add(1, Ordering::SeqCst);
                        }
                        drop(running);
                    });
                }
                while let Some(pin) = holders.pop() {
                    let before = tries.load(Ordering::SeqCst);
                    breaking.assert_waits();
                    // Others come and go: the gate is published again and again.
                    drop(guard.try_break_layouts(0..1).unwrap());
                    let apart = [guard.break_layouts(9..10), guard.break_layouts(11..12)];
                    until(|| {
                        tries.load(Ordering::SeqCst) > before || Arc::strong_count(&running) < 3
                    });
                    drop(apart);
                    drop(pin);
                }
                let proof = breaking.now().unwrap();
                let before = tries.load(Ordering::SeqCst);
                until(|| tries.load(Ordering::SeqCst) > before + 10);
                over.store(true, Ordering::SeqCst);
                // Only now: the two have stopped, or are about to, and may still find it closed.
                until(|| Arc::strong_count(&running) == 1);
                drop(proof);
            });
            drop(breaking);
            assert_clean(&guard);
        }
    });
}

#[test]
fn i01_an_earlier_waiter_is_granted_though_a_later_break_has_closed_its_pages() {
    let guard = bare();
    let first = guard.try_break_layouts(0..4).unwrap();
    let mut waiter = guard.pin(2..6);
    waiter.assert_waits();
    let mut second = guard.break_layouts(4..8);
    drop(first);
    // By its ticket, into pages that are closed to everybody else.
    let pin = waiter.now().unwrap();
    assert_eq!(pin.range(), pages(2, 6));
    assert!(!is_open(&guard, pages(4, 5)) && is_open(&guard, pages(2, 4)));
    assert!(pin.is_breaking());
    second.assert_waits();
    drop(pin);
    drop(second.now().unwrap());
    drop((waiter, second));
    assert_clean(&guard);
}

// ---- I3: one queue --------------------------------------------------------------------------------

#[test]
fn i03_overlapping_breaks_are_first_come_first_served() {
    let guard = bare();
    // Each overlaps its neighbours only; the fifth overlaps all.
    let mut breaks: Vec<_> = [0..4, 3..7, 6..10, 9..12, 0..12]
        .into_iter()
        .map(|range| guard.break_layouts(range))
        .collect();
    let drained = |breaks: &[layout_lease::BreakLayouts<'_, ()>]| -> Vec<bool> {
        breaks.iter().map(|b| b.is_drained()).collect()
    };
    // Those that wait, wait for a break before them, though nobody holds anything.
    assert_eq!(drained(&breaks), [true, false, false, false, false]);
    drop(breaks.remove(0));
    assert_eq!(drained(&breaks), [true, false, false, false]);
    // The one in the middle gives up: those behind it still wait for those before it.
    drop(breaks.remove(1));
    assert_eq!(drained(&breaks), [true, true, false]);
    drop(breaks.remove(1));
    assert_eq!(drained(&breaks), [true, false]);
    drop(breaks.remove(0));
    drop(breaks.remove(0).now().unwrap());
    assert_clean(&guard);
}

#[test]
fn i03_turns_are_taken_in_ticket_order_by_threads_that_wait() {
    watched(|| {
        let guard = Arc::new(bare());
        let order = Arc::new(Log::new());
        let holder = guard.try_pin(0..1).unwrap();
        // Tickets in this order, taken here; waited for elsewhere, the last first.
        let breaks: Vec<_> = (0..8).map(|_| guard.break_layouts_arc(0..4)).collect();
        let threads: Vec<_> = (0..8)
            .zip(breaks)
            .rev()
            .map(|(ticket, breaking)| {
                let order = Arc::clone(&order);
                thread::spawn(move || {
                    let proof = breaking.wait().unwrap();
                    order.write(ticket);
                    drop(proof);
                })
            })
            .collect();
        drop(holder);
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(order.read(), (0..8).collect::<Vec<_>>());
        assert_clean(&guard);
    });
}

#[test]
fn i03_a_pinner_that_waited_before_a_break_goes_before_it() {
    let guard = bare();
    let first = guard.try_break_layouts(0..4).unwrap();
    let mut waiter = guard.pin(0..2);
    waiter.assert_waits();
    let mut second = guard.break_layouts(0..4);
    second.assert_waits();
    drop(first);
    second.assert_waits();
    let pin = waiter.now().unwrap();
    second.assert_waits();
    drop(pin);
    drop(second.now().unwrap());
}

#[test]
fn i03_a_pinner_takes_its_ticket_when_first_polled_not_when_made() {
    let guard = bare();
    let first = guard.try_break_layouts(0..4).unwrap();
    let mut early = guard.pin(0..2);
    let mut second = guard.break_layouts(0..4);
    early.assert_waits();
    drop(first);
    // Its ticket is younger than the second break's, though it was made before.
    early.assert_waits();
    drop(second.now().unwrap());
    drop(early.now().unwrap());
    drop((early, second));
    assert_clean(&guard);
}

#[test]
fn i03_disjoint_breaks_run_side_by_side() {
    watched(|| {
        let (inside, meet) = mpsc::channel();
        let (leave, left) = mpsc::channel::<()>();
        let left = std::sync::Mutex::new(left);
        // Each of two operations is inside the engine at the same time.
        let guard = Engine::guard(move |_, _| {
            inside.send(()).unwrap();
            left.lock().unwrap().recv().unwrap();
            Ok(1)
        });
        let low = guard.punch_hole(0..4);
        let high = guard.punch_hole(4..8);
        thread::scope(|s| {
            s.spawn(|| low.wait().unwrap());
            s.spawn(|| high.wait().unwrap());
            // One is inside, and the other waits for nobody but the lock of this test.
            meet.recv().unwrap();
            until(|| guard.break_layouts(8..9).is_drained());
            leave.send(()).unwrap();
            meet.recv().unwrap();
            leave.send(()).unwrap();
        });
        assert_eq!(guard.map().calls(), 2);
        assert_clean(&guard);
    });
    let guard = bare();
    let mut breaks: Vec<_> = (0..10)
        .map(|n| guard.break_layouts(n * 2..n * 2 + 2))
        .collect();
    let proofs: Vec<_> = breaks.iter_mut().map(|b| b.now().unwrap()).collect();
    assert_eq!(proofs.len(), 10);
}

#[test]
fn i03_a_waiting_pin_bridges_two_disjoint_breaks() {
    let guard = bare();
    let first = guard.try_break_layouts(0..4).unwrap();
    let mut bridge = guard.pin(2..8);
    bridge.assert_waits();
    // Disjoint from the first break; but the pinner was before it.
    let mut second = guard.break_layouts(6..10);
    second.assert_waits();
    assert!(matches!(
        guard.try_break_layouts(7..8),
        Err(TryBreakError::Breaking)
    ));
    drop(first);
    let pin = bridge.now().unwrap();
    second.assert_waits();
    drop(pin);
    assert!(second.is_drained());

    // And where the bridge gives up, it lets the second one on at once.
    drop(second);
    let first = guard.try_break_layouts(0..4).unwrap();
    let mut bridge = guard.pin(2..8);
    bridge.assert_waits();
    let mut second = guard.break_layouts(6..10);
    second.assert_waits();
    drop(bridge);
    drop(second.now().unwrap());
    drop((first, second));
    assert_clean(&guard);
}

#[test]
fn i03_pins_never_wait_for_pins() {
    let guard = bare();
    let proof = guard.try_break_layouts(0..4).unwrap();
    let mut waiters = [guard.pin(0..6), guard.pin(3..8), guard.pin(0..1)];
    waiters.iter_mut().for_each(Ask::assert_waits);
    // Overlaps the waiters where it is open.
    let pin = guard.try_pin(4..8).unwrap();
    drop(guard.pin(5..6).now().unwrap());
    drop(proof);
    let pins: Vec<_> = waiters.iter_mut().map(|w| w.now().unwrap()).collect();
    assert_eq!(guard.stats().pins, 4);
    drop((pin, pins, waiters));
    assert_clean(&guard);
}

#[test]
fn i03_two_breaks_before_a_pinner_must_both_be_over() {
    let guard = bare();
    let mut proofs = [0..2, 4..6].map(|r| Some(guard.try_break_layouts(r).unwrap()));
    let mut waiter = guard.pin(1..5);
    for proof in &mut proofs {
        waiter.assert_waits();
        *proof = None;
    }
    drop(waiter.now().unwrap());
}

// ---- I5: bounded both ways ------------------------------------------------------------------------

/// However many breaks come behind a pinner, it waits only for the one before it.
#[test]
fn i05_a_stream_of_breaks_starves_no_pinner() {
    let guard = bare();
    let mut ahead = guard.break_layouts(0..4);
    for _ in 0..100 {
        let mut waiter = guard.pin(0..4);
        waiter.assert_waits();
        let behind: Vec<_> = (0..3).map(|_| guard.break_layouts(0..4)).collect();
        drop(ahead.now().unwrap());
        drop(waiter.now().unwrap());
        ahead = behind.into_iter().next().unwrap();
    }
}

#[test]
fn i05_a_stream_of_breaks_by_threads_starves_no_pinner() {
    watched(|| {
        let guard = bare();
        let (over, breaks) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    // Always one ahead: the pages never open for those without a ticket.
                    let mut next = guard.break_layouts(0..4);
                    while !over.load(Ordering::SeqCst) {
                        let after = guard.break_layouts(0..4);
                        drop(next.wait().unwrap());
                        breaks.fetch_add(1, Ordering::SeqCst);
                        next = after;
                    }
                });
            }
            let _stop = OnDrop::new(|| over.store(true, Ordering::SeqCst));
            until(|| breaks.load(Ordering::SeqCst) > 10);
            for _ in 0..300 {
                drop(guard.pin(0..4).wait().unwrap());
            }
            assert!(guard.stats().queued >= 1, "the stream had run dry");
        });
        assert_clean(&guard);
    });
}

#[test]
fn i05_a_stream_of_pins_starves_no_break() {
    watched(|| {
        for barrier in BARRIERS {
            let guard = LayoutGuard::with_barrier((), barrier);
            let (over, pins) = (AtomicBool::new(false), AtomicUsize::new(0));
            thread::scope(|s| {
                let _stop = OnDrop::new(|| over.store(true, Ordering::SeqCst));
                for _ in 0..3 {
                    s.spawn(|| {
                        // Never lets go of one pin before it has asked for the next.
                        let mut held = None;
                        while !over.load(Ordering::SeqCst) {
                            let next = guard.try_pin(0..4).ok();
                            pins.fetch_add(usize::from(next.is_some()), Ordering::SeqCst);
                            drop(std::mem::replace(&mut held, next));
                        }
                    });
                }
                for _ in 0..50 {
                    let before = pins.load(Ordering::SeqCst);
                    until(|| pins.load(Ordering::SeqCst) > before);
                    drop(guard.break_layouts(1..2).wait().unwrap());
                }
            });
            assert_clean(&guard);
        }
    });
}

#[test]
fn i05_granted_by_whoever_reopens_and_named_before_it_is_polled() {
    let guard = bare();
    let proof = guard.try_break_layouts(0..4).unwrap();
    let (mut waiter, line) = (guard.pin(0..2), line!());
    waiter.assert_waits();
    thread::scope(|s| {
        s.spawn(|| drop(proof)).join().unwrap();
    });
    // Not polled since, and a holder like any other.
    let holders = guard.holders(..);
    assert_eq!(holders.len(), 1);
    assert_eq!(holders[0].range(), pages(0, 2));
    assert_eq!(
        (holders[0].location().file(), holders[0].location().line()),
        (file!(), line)
    );
    assert_eq!(guard.stats().pins, 1);
    guard.break_layouts(1..2).assert_waits();
    drop(waiter.now().unwrap());
    drop(waiter);
    assert_clean(&guard);
}

#[test]
fn i05_a_break_ends_with_the_releases_of_those_it_waits_for() {
    let guard = bare();
    let held: Vec<_> = (0..10).map(|n| guard.try_pin(n..n + 2).unwrap()).collect();
    let elsewhere = guard.try_pin(20..PageRange::ALL.end()).unwrap();
    let mut breaking = guard.break_layouts(3..6);
    assert_eq!(breaking.holders().len(), 4);
    for pin in held {
        breaking.assert_waits();
        let last = pin.range() == pages(5, 7);
        drop(pin);
        assert_eq!(breaking.is_drained(), last);
        if last {
            break;
        }
    }
    drop(breaking.now().unwrap());
    drop(elsewhere);
}

/// Wakes come to the one whose turn it is, and only when it is.
#[test]
fn i05_reopening_wakes_those_whose_turn_it_is() {
    let guard = bare();
    let first = guard.try_break_layouts(0..8).unwrap();
    let bells: [_; 4] = std::array::from_fn(|_| Bell::new());
    let mut pin = guard.pin(0..2);
    assert!(bells[0].poll(&mut pin).is_pending());
    let mut second = guard.break_layouts(4..8);
    let mut third = guard.break_layouts(0..4);
    let mut late = guard.pin(4..5);
    // The breaks have their tickets already, so the order of these does not matter.
    assert!(bells[3].poll(&mut late).is_pending());
    assert!(bells[2].poll(&mut third).is_pending());
    assert!(bells[1].poll(&mut second).is_pending());
    let rung = || bells.each_ref().map(|b| b.rung());
    assert_eq!(rung(), [0, 0, 0, 0]);
    drop(first);
    assert_eq!(rung(), [1, 1, 0, 0], "the pinner and the second break");
    drop(pin.now().unwrap());
    assert_eq!(rung(), [1, 1, 1, 0], "the third waited for the pin");
    drop(second.now().unwrap());
    assert_eq!(rung(), [1, 1, 1, 1]);
    drop((pin, second, third, late));
    assert_clean(&guard);
}
