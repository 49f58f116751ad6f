//! Tokens, and numbers that are none.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier as Meeting, mpsc};
use std::thread;

use layout_lease::{LayoutGuard, PagePin, PinToken, TryPinError};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{
    Ask, BARRIERS, Bell, Dice, OnDrop, Tombstone, alone, assert_clean, bare, is_alone, is_open,
    pages, watched,
};

/// What a completion queue would do with the number that it brings back.
fn redeem(number: u64) -> Option<PagePin> {
    PinToken::from_u64(number).and_then(PinToken::redeem)
}

fn number(pin: PagePin) -> u64 {
    pin.into_token().to_u64()
}

#[test]
fn token_holds_the_pin_and_gives_it_back_as_it_was() {
    for barrier in BARRIERS {
        let guard = LayoutGuard::with_barrier((), barrier);
        let (pin, line) = (guard.try_pin(3..7).unwrap(), line!());
        let before = format!("{pin:?}");
        let token = number(pin);
        assert!(token >= 1 << 32, "{token}: an engine's own number may be");
        assert_eq!(PinToken::from_u64(token).map(PinToken::to_u64), Some(token));
        // In flight: a holder like any other.
        assert_eq!(guard.stats().pins, 1);
        let who = &guard.holders(..)[0];
        assert_eq!((who.range(), who.location().line()), (pages(3, 7), line));
        assert_eq!(who.thread(), Some(thread::current().id()));
        let (bell, mut breaking) = (Bell::new(), guard.break_layouts(6..9));
        assert!(bell.poll(&mut breaking).is_pending());
        let pin = redeem(token).expect("in flight");
        assert_eq!((pin.range(), format!("{pin:?}")), (pages(3, 7), before));
        assert!(pin.is_breaking());
        assert_eq!((bell.rung(), guard.stats().pins), (0, 1));
        drop(pin);
        assert_eq!(bell.rung(), 1);
        drop((breaking.now().unwrap(), breaking));
        assert_clean(&guard);
    }
}

#[test]
fn token_is_good_for_one_pin_once() {
    let guard = bare();
    let first = number(guard.try_pin(0..1).unwrap());
    let pin = redeem(first).unwrap();
    assert!(redeem(first).is_none(), "redeemed");
    // The same pin again has another number, and the old one stays stale.
    let second = number(pin);
    assert_ne!(first, second);
    assert!(redeem(first).is_none());
    let pin = redeem(second).unwrap();
    drop(pin);
    assert!(redeem(first).is_none() && redeem(second).is_none());
    // The slot is used again, by a pin and by a token: neither is reached by the old numbers.
    let pin = guard.try_pin(5..6).unwrap();
    assert!(redeem(first).is_none() && redeem(second).is_none());
    assert_eq!(guard.stats().pins, 1);
    let third = number(pin);
    assert!(redeem(first).is_none() && redeem(second).is_none());
    assert_eq!(guard.stats().pins, 1);
    assert_eq!(redeem(third).unwrap().range(), pages(5, 6));
    assert_clean(&guard);
}

/// Every number there is, but for those in flight. Alone in its process: the near misses are other tests'
/// tokens otherwise.
#[test]
fn token_forged_or_stale_is_none_and_touches_nobody() {
    if !is_alone() {
        let (status, text) = alone("tokens::token_forged_or_stale_is_none_and_touches_nobody");
        return assert!(status.success(), "{text}");
    }
    let guard = bare();
    // Slots of three kinds: pinned, in flight, free; some with a past.
    let (mut pins, mut tokens, mut stale) = (Vec::new(), HashSet::new(), Vec::new());
    for n in 0..300 {
        let mut pin = guard.try_pin(n..n + 1).unwrap();
        for _ in 0..n % 4 {
            let token = number(pin);
            pin = redeem(token).unwrap();
            stale.push(token);
        }
        match n % 3 {
            0 => pins.push(pin),
            1 => drop(pin),
            _ => drop(tokens.insert(number(pin))),
        }
    }
    let seen = || {
        let mut all: Vec<_> = guard.holders(..).iter().map(|h| h.range()).collect();
        all.sort_unstable();
        all
    };
    let before = seen();
    assert_eq!(before.len(), pins.len() + tokens.len());
    let refused = |token: u64| {
        if tokens.contains(&token) {
            return;
        }
        assert!(redeem(token).is_none(), "{token:#x} is not in flight");
    };
    stale.iter().copied().for_each(refused);
    // Near misses: another generation of the same slot, another slot with the same generation.
    for token in tokens.iter().chain(&stale) {
        for step in 0..=5 {
            refused(token.wrapping_add(step << 32));
            refused(token.wrapping_sub(step << 32));
            refused(token.wrapping_add(step));
            refused(token.wrapping_sub(step));
        }
        (0..64).for_each(|bit| refused(token ^ 1 << bit));
        refused(token.rotate_left(32));
        refused(!token);
    }
    // Small numbers and great ones; every slot in the first few generations.
    (0..10_000).for_each(refused);
    (0..10_000).for_each(|n| refused(u64::MAX - n));
    for generation in 0..12 {
        (0..2_000).for_each(|slot| refused(generation << 32 | slot));
    }
    assert!(PinToken::from_u64(0).is_none(), "an empty completion");
    // The numbers of an engine's own requests.
    for own in (0..32).map(|bit| u64::from(u32::MAX) >> bit) {
        assert!(PinToken::from_u64(own).is_none(), "{own}");
    }
    let config = Config {
        cases: 20_000,
        failure_persistence: None,
        ..Config::default()
    };
    let near =
        (any::<u64>(), 0_u64..4_000, 0_u64..9).prop_map(|(n, slot, generation)| match n % 3 {
            0 => n << 32 | slot,
            1 => generation << 32 | n >> 32,
            _ => generation << 32 | slot,
        });
    TestRunner::new(config)
        .run(&prop_oneof![any::<u64>(), near], |token| {
            refused(token);
            Ok(())
        })
        .unwrap();
    // Nobody has lost anything, nor got anything.
    assert_eq!(seen(), before);
    for token in tokens {
        assert!(redeem(token).is_some());
    }
    drop(pins);
    assert_clean(&guard);
}

#[test]
fn token_redeemed_on_another_thread() {
    let guard = bare();
    let token = number(guard.try_pin(0..4).unwrap());
    let breaking = guard.break_layouts(0..1);
    let again = thread::spawn(move || {
        let pin = redeem(token).expect("in flight");
        assert_eq!(pin.range(), pages(0, 4));
        number(pin)
    });
    let again = again.join().unwrap();
    assert!(redeem(token).is_none() && !breaking.is_drained());
    drop(redeem(again).unwrap());
    assert!(breaking.is_drained());
    drop(breaking);
    assert_clean(&guard);
}

/// Its thread is gone, and another one has taken its slots over.
#[test]
fn token_outlives_its_thread() {
    let guard = Arc::new(bare());
    let tokens: Vec<_> = {
        let guard = Arc::clone(&guard);
        thread::spawn(move || {
            (0..100)
                .map(|n| number(guard.try_pin(n..n + 1).unwrap()))
                .collect()
        })
    }
    .join()
    .unwrap();
    thread::scope(|s| {
        s.spawn(|| {
            let own: Vec<_> = (0..200).map(|_| guard.try_pin(500..501).unwrap()).collect();
            for (n, token) in (0..).zip(tokens) {
                assert_eq!(redeem(token).unwrap().range(), pages(n, n + 1));
                assert!(redeem(token).is_none());
            }
            assert_eq!(guard.stats().pins, 200);
            drop(own);
        });
    });
    assert_clean(&guard);
}

#[test]
fn i09_a_token_outlives_its_guard_and_keeps_the_map() {
    let drops = Arc::new(AtomicUsize::new(0));
    let guard = LayoutGuard::new(Tombstone(Arc::clone(&drops)));
    let token = number(guard.try_pin(0..4).unwrap());
    drop(guard);
    assert_eq!(drops.load(Ordering::SeqCst), 0, "dropped under a token");
    // Its record is not given to another guard meanwhile.
    let others: Vec<_> = (0..50).map(|_| bare()).collect();
    let pin = redeem(token).unwrap();
    assert_eq!(pin.range(), pages(0, 4));
    assert!(others.iter().all(|guard| guard.stats().pins == 0));
    let pin = pin.into_break(&others[0]).unwrap_err();
    assert_eq!(drops.load(Ordering::SeqCst), 0);
    drop(pin);
    assert_eq!(drops.load(Ordering::SeqCst), 1);
    assert!(redeem(token).is_none());
    others.iter().for_each(assert_clean);
}

#[test]
fn i04_a_lost_token_only_delays() {
    let guard = bare();
    let token = guard.try_pin(0..4).unwrap().into_token();
    let printed = format!("{token:?}");
    assert!(printed.starts_with("PinToken(0x"), "{printed}");
    // Dropped, lost or forgotten is the same: a number has no drop.
    let _ = token;
    let _ = number(guard.try_pin(0..1).unwrap());
    let mut breaking = guard.break_layouts(0..1);
    breaking.assert_waits();
    assert_eq!(breaking.holders().len(), 2);
    drop(breaking);
    assert!(is_open(&guard, pages(0, 9)));
    drop(guard.try_break_layouts(4..9).unwrap());
}

/// What the pin was, it is again: an extension cannot be extended, however it has travelled.
#[test]
fn token_of_an_extension_and_of_a_granted_pin() {
    let guard = bare();
    let first = guard.try_pin(0..1).unwrap();
    let mut breaking = guard.break_layouts(0..4);
    let extension = first.extend(&guard, 1..2).unwrap();
    let extension = redeem(number(extension)).unwrap();
    let error = extension.extend(&guard, 2..3).unwrap_err();
    assert_eq!(error, TryPinError::Breaking);
    let first = redeem(number(first)).unwrap();
    let another = first.extend(&guard, 2..3).unwrap();
    let mut waiter = guard.pin(0..2);
    waiter.assert_waits();
    drop((first, extension, redeem(number(another)).unwrap()));
    drop(breaking.now().unwrap());
    let granted = redeem(number(waiter.now().unwrap())).unwrap();
    let mut next = guard.break_layouts(0..4);
    next.assert_waits();
    drop(granted);
    drop((next.now().unwrap(), next, breaking, waiter));
    assert_clean(&guard);
}

/// Of several who try with the same number at the same time, one gets the pin.
#[test]
fn token_race_of_redeemers() {
    const THREADS: usize = 3;
    watched(|| {
        let guard = bare();
        let (meeting, number_now) = (Meeting::new(THREADS + 1), AtomicU64::new(0));
        let got = AtomicUsize::new(0);
        thread::scope(|s| {
            for _ in 0..THREADS {
                s.spawn(|| {
                    for _ in 0..1_000 {
                        meeting.wait();
                        if let Some(pin) = redeem(number_now.load(Ordering::SeqCst)) {
                            assert_eq!(pin.range(), pages(2, 3));
                            got.fetch_add(1, Ordering::SeqCst);
                            drop(pin);
                        }
                        meeting.wait();
                    }
                });
            }
            for round in 1..=1_000 {
                let token = number(guard.try_pin(2..3).unwrap());
                number_now.store(token, Ordering::SeqCst);
                meeting.wait();
                meeting.wait();
                assert_eq!(got.load(Ordering::SeqCst), round);
                assert_eq!(guard.stats().pins, 0);
            }
        });
        assert_clean(&guard);
    });
}

/// Requests that are submitted by one thread and completed by another, while breaks come and go: no break
/// ends while one is in flight, and none is lost.
#[test]
fn token_in_flight_is_waited_for() {
    watched(|| {
        for barrier in BARRIERS {
            let guard = LayoutGuard::with_barrier((), barrier);
            let (submit, complete) = mpsc::sync_channel::<u64>(8);
            // Relaxed: that it is seen is the guard's affair (I7).
            let [in_flight, waited_for] = [const { AtomicU64::new(0) }; 2];
            let over = AtomicBool::new(false);
            thread::scope(|s| {
                let (guard, in_flight, waited_for, over) = (&guard, &in_flight, &waited_for, &over);
                s.spawn(move || {
                    let mut dice = Dice::new(1);
                    for token in complete {
                        if dice.roll(4) == 0 {
                            thread::yield_now();
                        }
                        let pin = redeem(token).expect("in flight");
                        waited_for.fetch_add(u64::from(pin.is_breaking()), Ordering::Relaxed);
                        in_flight.fetch_sub(1, Ordering::Relaxed);
                    }
                });
                s.spawn(move || {
                    while !over.load(Ordering::SeqCst) {
                        let pin = guard.pin(0..4).wait().unwrap();
                        in_flight.fetch_add(1, Ordering::Relaxed);
                        submit.send(number(pin)).unwrap();
                    }
                });
                let _over = OnDrop::new(|| over.store(true, Ordering::SeqCst));
                let mut rounds = 0;
                while rounds < 500 || waited_for.load(Ordering::Relaxed) < 10 {
                    rounds += 1;
                    let proof = guard.break_layouts(3..5).wait().unwrap();
                    assert_eq!(in_flight.load(Ordering::Relaxed), 0, "{proof:?}");
                }
            });
            assert_clean(&guard);
        }
    });
}
