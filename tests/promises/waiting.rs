//! I4 fail closed, I6 no lost wake.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier as Meeting, mpsc};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use layout_lease::{LayoutGuard, TryBreakError, TryPinError};

use crate::support::{
    Ask, BARRIERS, Bell, Dice, Engine, Tombstone, assert_clean, bare, is_open, pages, until,
    watched,
};

// ---- I4: fail closed ------------------------------------------------------------------------------

#[test]
fn i04_a_forgotten_pin_only_delays() {
    let guard = Engine::idle();
    let line = line!() + 1;
    mem::forget(guard.try_pin(3..5).unwrap());
    let mut punch = guard.punch_hole(0..8);
    for n in 0..10 {
        let answer = match n % 3 {
            0 => punch.wait_timeout(Duration::ZERO),
            1 => punch.wait_timeout(Duration::from_millis(1)),
            _ => punch.wait_deadline(Instant::now() + Duration::from_millis(1)),
        };
        assert!(answer.is_none(), "a timeout is never success");
        assert!(!is_open(&guard, pages(7, 8)), "closed stays closed");
        assert_eq!(guard.map().calls(), 0);
    }
    // It has a name.
    let who = punch.breaking().holders();
    assert_eq!(who.len(), 1);
    assert_eq!(who[0].range(), pages(3, 5));
    assert_eq!(
        (who[0].location().file(), who[0].location().line()),
        (file!(), line)
    );
    assert_eq!(who[0].thread(), Some(thread::current().id()));
    assert!(who[0].age().is_some());
    let named = format!("{}", who[0]);
    assert!(named.contains("3..5") && named.contains(file!()), "{named}");
    // Whoever gives up leaves everything as it was.
    drop(punch);
    assert!(is_open(&guard, pages(0, 100)));
    assert_eq!((guard.stats().pins, guard.stats().queued), (1, 0));
    assert!(guard.holders(..)[0].age().is_none());
    // And it delays its own pages only.
    assert_eq!(guard.punch_hole(0..3).now(), Ok(1));
    assert_eq!(guard.punch_hole(5..8).now(), Ok(1));
    assert_eq!(guard.map().calls(), 2);
}

#[test]
fn i04_whatever_else_is_forgotten_keeps_its_range_closed_and_frees_nothing() {
    let guard = Engine::idle();
    let pin = guard.try_pin(12..13).unwrap();
    // A proof, a break that is drained, one that waits, one that queues, and operations likewise.
    mem::forget(guard.try_break_layouts(0..2).unwrap());
    mem::forget(guard.break_layouts(2..4));
    mem::forget(guard.break_layouts(12..14));
    mem::forget(guard.break_layouts(13..16));
    mem::forget(guard.punch_hole(4..6));
    let mut polled = guard.punch_hole(11..13);
    polled.assert_waits();
    mem::forget(polled);
    for page in 0..20 {
        let open = (6..11).contains(&page) || page >= 16;
        assert_eq!(is_open(&guard, pages(page, page + 1)), open, "page {page}");
    }
    drop(pin);
    for page in 0..20 {
        let open = (6..11).contains(&page) || page >= 16;
        assert_eq!(is_open(&guard, pages(page, page + 1)), open, "page {page}");
        let answer = guard.try_break_layouts(page..page + 1);
        assert_eq!(answer.is_ok(), open);
    }
    assert_eq!(guard.map().calls(), 0);
    // The rest of the mapping goes on.
    assert_eq!(guard.punch_hole(6..11).now(), Ok(1));
    assert_eq!(guard.stats().queued, 6);
}

#[test]
fn i04_a_forgotten_waiter_is_granted_and_then_delays() {
    let guard = bare();
    let proof = guard.try_break_layouts(0..4).unwrap();
    let mut waiter = guard.pin(0..2);
    waiter.assert_waits();
    mem::forget(waiter);
    // Never asked, so never in anybody's way.
    mem::forget(guard.pin(2..4));
    let mut behind = guard.break_layouts(1..3);
    drop(proof);
    behind.assert_waits();
    assert_eq!(behind.holders()[0].range(), pages(0, 2));
    drop(behind);
    assert!(guard.try_break_layouts(2..4).is_ok());
    assert!(matches!(
        guard.try_break_layouts(0..1),
        Err(TryBreakError::Busy(_))
    ));
}

/// The guard may go, whatever was forgotten; its map goes unless a pin was.
#[test]
fn i04_forgotten_things_and_the_end_of_the_guard() {
    let drops = Arc::new(AtomicUsize::new(0));
    let guard = LayoutGuard::new(Tombstone(Arc::clone(&drops)));
    mem::forget(guard.try_break_layouts(0..2).unwrap());
    mem::forget(guard.break_layouts(1..4));
    let mut waiter = guard.pin(1..2);
    waiter.assert_waits();
    mem::forget(waiter);
    mem::forget(guard.close());
    drop(guard);
    assert_eq!(drops.load(Ordering::SeqCst), 1);

    let guard = LayoutGuard::new(Tombstone(Arc::clone(&drops)));
    mem::forget(guard.try_pin(0..1).unwrap());
    drop(guard);
    assert_eq!(drops.load(Ordering::SeqCst), 1, "freed under a pin");
}

// ---- I6: no lost wake -----------------------------------------------------------------------------

/// Two threads, each of which waits for the other in every round; sometimes it must sleep, sometimes not.
fn ping_pong(rounds: u64, waits: impl Fn(&LayoutGuard<()>, u64) + Sync) {
    for barrier in BARRIERS {
        let guard = LayoutGuard::with_barrier((), barrier);
        let (serve, pins) = mpsc::sync_channel(0);
        let (answer, back) = mpsc::sync_channel(0);
        thread::scope(|s| {
            let (guard, waits) = (&guard, &waits);
            s.spawn(move || {
                for round in 0..rounds {
                    let pin = guard.try_pin(0..4).unwrap();
                    serve.send(()).unwrap();
                    match round % 3 {
                        // The other one has its ticket, and perhaps sleeps.
                        0 => until(|| guard.stats().queued == 1),
                        1 => thread::yield_now(),
                        _ => {}
                    }
                    drop(pin);
                    back.recv().unwrap();
                }
            });
            for round in 0..rounds {
                pins.recv().unwrap();
                waits(guard, round);
                answer.send(()).unwrap();
            }
        });
        assert_clean(&guard);
        assert_eq!(guard.stats().breaks, rounds + 1);
    }
}

#[test]
fn i06_ping_pong_blocking() {
    watched(|| {
        ping_pong(400, |guard, _| {
            drop(guard.break_layouts(3..9).wait().unwrap())
        })
    });
}

#[test]
fn i06_ping_pong_polled() {
    watched(|| {
        ping_pong(400, |guard, _| {
            drop(block_on(guard.break_layouts(3..9)).unwrap());
        });
    });
}

/// Timeouts that come just when the wake does.
#[test]
fn i06_ping_pong_with_timeouts() {
    watched(|| {
        let timeouts = AtomicUsize::new(0);
        ping_pong(400, |guard, round| {
            let mut dice = Dice::new(round);
            let mut breaking = guard.break_layouts(3..9);
            loop {
                let patience = Duration::from_nanos(dice.roll(30_000));
                match breaking.wait_timeout(patience) {
                    Some(proof) => break drop(proof.unwrap()),
                    None => timeouts.fetch_add(1, Ordering::Relaxed),
                };
                assert!(!is_open(guard, pages(8, 9)), "closed stays closed");
            }
        });
        assert!(timeouts.load(Ordering::Relaxed) > 0, "nothing timed out");
    });
}

/// The other direction: pinners wait for a break.
#[test]
fn i06_pinners_are_woken_by_every_reopening() {
    watched(|| {
        let guard = bare();
        let rounds = 500;
        let meeting = Meeting::new(4);
        thread::scope(|s| {
            for n in 0..3 {
                let (guard, meeting) = (&guard, &meeting);
                s.spawn(move || {
                    for _ in 0..rounds {
                        meeting.wait();
                        let pin = match n {
                            0 => guard.pin(0..1 + n).wait(),
                            _ => block_on(guard.pin(0..1 + n)),
                        };
                        drop(pin.unwrap());
                        meeting.wait();
                    }
                });
            }
            for round in 0..rounds {
                let breaking = guard.break_layouts(0..8);
                meeting.wait();
                if round % 2 == 0 {
                    until(|| guard.stats().queued == 4);
                }
                // The proof, or the break that nobody has waited for.
                match round % 3 {
                    0 => drop(breaking),
                    _ => drop(breaking.wait().unwrap()),
                }
                meeting.wait();
            }
        });
        assert_clean(&guard);
    });
}

/// "Busy", "sleep" and "wake" are decided by the same words: the last of 64 holders rings once, whichever
/// it is, and the others do not ring at all.
#[test]
fn i06_one_wake_for_64_holders() {
    let guard = bare();
    let mut pins: Vec<_> = (0..64).map(|n| guard.try_pin(n..n + 2).unwrap()).collect();
    let bell = Bell::new();
    let mut breaking = guard.break_layouts(0..100);
    assert!(bell.poll(&mut breaking).is_pending());
    while pins.len() > 1 {
        let middle = pins.len() / 2;
        drop(pins.swap_remove(middle));
        assert_eq!(bell.rung(), 0, "woken with {} holders left", pins.len());
    }
    drop(pins);
    assert_eq!(bell.rung(), 1);
    assert!(matches!(bell.poll(&mut breaking), Poll::Ready(Ok(_))));
    assert_eq!(bell.rung(), 1);
}

/// The same with the holders on four threads that let go at the same time, while others try to get in.
#[test]
fn i06_one_wake_for_64_holders_on_four_threads() {
    watched(|| {
        for barrier in BARRIERS {
            let guard = LayoutGuard::with_barrier((), barrier);
            for _ in 0..60 {
                let meeting = Meeting::new(4);
                let bell = Bell::new();
                let parts: Vec<Vec<_>> = (0..4)
                    .map(|_| (0..16).map(|_| guard.try_pin(0..4).unwrap()).collect())
                    .collect();
                let mut breaking = guard.break_layouts(2..8);
                assert!(bell.poll(&mut breaking).is_pending());
                thread::scope(|s| {
                    for part in parts {
                        s.spawn(|| {
                            meeting.wait();
                            for pin in part {
                                drop(pin);
                                assert!(guard.try_pin(0..4).is_err());
                            }
                        });
                    }
                });
                assert_eq!(bell.rung(), 1);
                assert!(breaking.now().is_ok());
            }
            assert_clean(&guard);
        }
    });
}

#[test]
fn i06_one_wake_for_each_waiting_pinner() {
    let guard = bare();
    let proof = guard.try_break_layouts(0..8).unwrap();
    let mut waiters: Vec<_> = (0..8).map(|n| (guard.pin(n..n + 1), Bell::new())).collect();
    for (waiter, bell) in &mut waiters {
        assert!(bell.poll(waiter).is_pending());
        // Polled twice, it still listens once.
        assert!(bell.poll(waiter).is_pending());
    }
    drop(proof);
    for (waiter, bell) in &mut waiters {
        assert_eq!(bell.rung(), 1);
        assert!(matches!(bell.poll(waiter), Poll::Ready(Ok(_))));
        assert_eq!(bell.rung(), 1);
    }
}

/// A task may move: the waker that counts is the last one.
#[test]
fn i06_the_last_waker_is_the_one_that_is_woken() {
    let guard = bare();
    let pin = guard.try_pin(0..1).unwrap();
    let mut breaking = guard.break_layouts(0..1);
    let (first, second) = (Bell::new(), Bell::new());
    assert!(first.poll(&mut breaking).is_pending());
    assert!(breaking.wait_timeout(Duration::from_millis(1)).is_none());
    assert!(second.poll(&mut breaking).is_pending());
    drop(pin);
    assert_eq!((first.rung(), second.rung()), (0, 1));
}

/// What became ready while nobody asked is there at the next question, with no wake needed.
#[test]
fn i06_nothing_is_missed_between_two_questions() {
    let guard = bare();
    let pin = guard.try_pin(0..1).unwrap();
    let mut breaking = guard.break_layouts(0..1);
    breaking.assert_waits();
    drop(pin);
    let mut waiter = guard.pin(0..1);
    waiter.assert_waits();
    drop(breaking.now().unwrap());
    drop(waiter.now().unwrap());
    assert_eq!(guard.try_pin(0..1).map(drop), Ok(()));
    let mut closing = guard.close();
    assert_eq!(guard.try_pin(0..1).unwrap_err(), TryPinError::Closed);
    closing.now();
}
