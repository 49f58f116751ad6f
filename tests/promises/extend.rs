//! Extensions, and holders who break what they hold.

use std::sync::Barrier as Meeting;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use layout_lease::{LayoutGuard, PageRange, RangeError, TryBreakError, TryPinError};

use crate::support::{
    Ask, BARRIERS, Bell, Dice, Engine, OnDrop, assert_clean, bare, is_open, lease, pages, watched,
};

// ---- extend ---------------------------------------------------------------------------------------

#[test]
fn extend_where_nothing_is_closed_is_a_pin() {
    let guard = bare();
    let first = guard.try_pin(0..1).unwrap();
    let second = first.extend(&guard, 5..6).unwrap();
    // It hangs on nobody: it may outlive the first, and be extended itself.
    drop(first);
    let mut breaking = guard.break_layouts(4..8);
    let third = second.extend(&guard, 6..7).unwrap();
    drop(second);
    breaking.assert_waits();
    drop(third);
    drop((breaking.now().unwrap(), breaking));
    assert_clean(&guard);
}

#[test]
fn extend_through_breaks_that_wait_for_the_pin_and_through_no_others() {
    for barrier in BARRIERS {
        let guard = LayoutGuard::with_barrier((), barrier);
        let pin = guard.try_pin(4..6).unwrap();
        let stranger = guard.try_pin(20..21).unwrap();
        let refused = Some(TryPinError::Breaking);
        let extended = |range: PageRange| pin.extend(&guard, range).err();
        // One that waits for it, one that waits for somebody else, one that has its proof.
        let ours = guard.break_layouts(5..10);
        let theirs = guard.break_layouts(20..24);
        let proof = guard.try_break_layouts(30..34).unwrap();
        for (range, answer) in [
            (pages(9, 10), None),
            (pages(4, 12), None),
            (pages(5, 6), None),
            (pages(20, 21), refused),
            (pages(23, 25), refused),
            (pages(30, 31), refused),
            (pages(33, 40), refused),
            // Part of it is somebody else's.
            (pages(9, 21), refused),
            (pages(0, 40), refused),
            (PageRange::ALL, refused),
            (pages(10, 20), None),
        ] {
            assert_eq!(extended(range), answer, "{range}");
            let try_pin = guard.try_pin(range).err();
            assert_eq!(try_pin.is_none(), range == pages(10, 20));
        }
        // Several of which all wait for it: queued ones will, and those are as good.
        let queued = guard.break_layouts(4..14);
        assert_eq!(extended(pages(9, 14)), None);
        assert_eq!(extended(pages(13, 14)), None);
        // Several of which one does not: it came later, and does not want what the pin holds.
        let behind = guard.break_layouts(8..9);
        assert_eq!(extended(pages(8, 9)), refused);
        assert_eq!(extended(pages(7, 10)), refused);
        assert_eq!(extended(pages(9, 10)), None);
        drop(behind);
        assert_eq!(extended(pages(8, 9)), None);
        // A stranger is refused whatever waits for us.
        assert_eq!(stranger.extend(&guard, 8..9).err(), refused);
        assert_eq!(stranger.extend(&guard, 22..23).err(), None);
        drop((ours, theirs, proof, queued, pin, stranger));
        assert_clean(&guard);
    }
}

#[test]
fn extend_through_several_ranges_retirements_and_breaks_of_leases() {
    let guard = std::sync::Arc::new(Engine::idle());
    let pin = guard.try_pin(4..6).unwrap();
    let both = guard.break_all(&[pages(5, 6), pages(10, 12)]);
    let second = pin.extend(&guard, 11..13).unwrap();
    drop(both);
    // They do not concern pins.
    let alone = guard.break_leases(20..24);
    drop(pin.extend(&guard, 20..24).unwrap());
    drop(alone);
    drop(guard.retire(5..8));
    assert!(pin.extend(&guard, 7..8).is_ok());
    drop(guard.retire(40..41));
    assert_eq!(
        pin.extend(&guard, 40..41).unwrap_err(),
        TryPinError::Breaking
    );
    drop(pin);
    assert_eq!(guard.run_retired(), 2);
    drop(second);
    assert_clean(&guard);
}

/// Also where the break that it went through is long over: no chain of extensions is ever longer than one.
#[test]
fn i05_an_extension_cannot_be_extended_through_a_closed_range() {
    let guard = bare();
    let pin = guard.try_pin(0..1).unwrap();
    let breaking = guard.break_layouts(0..4);
    let extension = pin.extend(&guard, 1..2).unwrap();
    assert_eq!(
        extension.extend(&guard, 1..2).unwrap_err(),
        TryPinError::Breaking
    );
    assert_eq!(
        extension.extend(&guard, 3..9).unwrap_err(),
        TryPinError::Breaking
    );
    // But the pin can, again and again.
    let more = [pin.extend(&guard, 1..2), pin.extend(&guard, 2..4)].map(Result::unwrap);
    // Where nothing is closed, anybody can.
    let elsewhere = extension.extend(&guard, 4..5).unwrap();
    drop(breaking);
    drop(extension.extend(&guard, 3..4).unwrap());
    let next = guard.break_layouts(1..4);
    assert_eq!(
        extension.extend(&guard, 3..4).unwrap_err(),
        TryPinError::Breaking
    );
    drop((next, more, elsewhere, pin, extension));
    assert_clean(&guard);
}

#[test]
fn extend_refuses_wrong_guards_closed_guards_and_ranges_that_are_none() {
    let (guard, other) = (bare(), bare());
    let pin = guard.try_pin(0..4).unwrap();
    let breaking = guard.break_layouts(0..8);
    // The range first, then the guard: also where the other guard is closed or breaking, too.
    assert_eq!(
        pin.extend(&other, 0..1).unwrap_err(),
        TryPinError::WrongGuard
    );
    let error = RangeError::Empty { at: 3 }.into();
    assert_eq!(pin.extend(&other, 3..3).unwrap_err(), error);
    assert_eq!(pin.extend(&guard, 3..3).unwrap_err(), error);
    let (start, end) = (5, 4);
    let error = RangeError::Inverted { start, end }.into();
    assert_eq!(pin.extend(&guard, start..end).unwrap_err(), error);
    assert!(pin.extend(&guard, 0..=u64::MAX).is_err());
    assert_eq!(guard.stats().pins, 1);
    drop(other.close());
    assert_eq!(
        pin.extend(&other, 0..1).unwrap_err(),
        TryPinError::WrongGuard
    );
    drop(guard.close());
    assert_eq!(pin.extend(&guard, 4..8).unwrap_err(), TryPinError::Closed);
    assert_eq!(
        pin.extend(&guard, 100..101).unwrap_err(),
        TryPinError::Closed
    );
    drop((pin, breaking));
}

/// The break waits for both, and wakes once, whoever goes first; so does one that is queued behind it.
#[test]
fn i06_one_wake_for_pins_and_their_extensions_in_any_order() {
    for barrier in BARRIERS {
        let mut dice = Dice::new(17);
        for _ in 0..30 {
            let guard = LayoutGuard::with_barrier((), barrier);
            let mut holds: Vec<_> = (0..4).map(|n| guard.try_pin(n..n + 2).unwrap()).collect();
            let held = lease(&guard, pages(0, 2));
            let (bells, mut first) = ([(); 2].map(|()| Bell::new()), guard.break_layouts(0..8));
            let mut second = guard.break_layouts(0..12);
            assert!(bells[0].poll(&mut first).is_pending());
            assert!(bells[1].poll(&mut second).is_pending());
            for n in 0..4 {
                // Pages of the first break, of the second alone, or of both.
                let range = [pages(6, 7), pages(8, 9), pages(5, 12), pages(0, 1)][n];
                holds.push(holds[n].extend(&guard, range).unwrap());
            }
            assert_eq!(first.holders().len(), 8);
            drop(held);
            while !holds.is_empty() {
                let waits_for_first = holds.iter().any(|h| h.range().start() < 8);
                assert_eq!(bells[0].rung(), usize::from(!waits_for_first));
                assert_eq!(bells[1].rung(), 0);
                assert_eq!(first.is_drained(), !waits_for_first);
                drop(holds.swap_remove(dice.roll(holds.len() as u64) as usize));
            }
            assert_eq!((bells[0].rung(), bells[1].rung()), (1, 0));
            drop(first.now().unwrap());
            assert_eq!(bells[1].rung(), 1);
            drop((second.now().unwrap(), first, second));
            assert_clean(&guard);
        }
    }
}

/// An extension outlives the pin that it hangs on, its thread, and the guard.
#[test]
fn i09_an_extension_lives_by_itself() {
    let guard = bare();
    let pin = guard.try_pin(0..1).unwrap();
    let breaking = guard.break_layouts(0..4);
    let (extension, line) = (pin.extend(&guard, 2..3).unwrap(), line!());
    drop(pin);
    let who = &breaking.holders()[0];
    assert_eq!(
        (who.location().file(), who.location().line()),
        (file!(), line)
    );
    drop(breaking);
    drop(guard);
    assert_eq!(extension.range(), pages(2, 3));
    thread::spawn(move || drop(extension)).join().unwrap();
}

/// Operations that begin with one page and find that they need another, against breaks of both: whoever
/// has a page under a proof has it alone, and nobody waits for himself.
#[test]
fn i11_race_of_extensions_and_breaks() {
    const PAGES: u64 = 6;
    watched(|| {
        for barrier in BARRIERS {
            let guard = LayoutGuard::with_barrier((), barrier);
            // Relaxed: that it is seen is the guard's affair (I7).
            let held: [AtomicU64; PAGES as usize] = Default::default();
            let [extended, through, refused] = [const { AtomicUsize::new(0) }; 3];
            let running = AtomicUsize::new(2);
            let meeting = Meeting::new(4);
            let enter = |range: PageRange| {
                for page in range.start()..range.end() {
                    held[page as usize].fetch_add(1, Ordering::Relaxed);
                }
            };
            let leave = |range: PageRange| {
                for page in range.start()..range.end() {
                    held[page as usize].fetch_sub(1, Ordering::Relaxed);
                }
            };
            thread::scope(|s| {
                let (guard, held, meeting, running) = (&guard, &held, &meeting, &running);
                let (extended, through, refused) = (&extended, &through, &refused);
                for seed in 0..2 {
                    s.spawn(move || {
                        let mut dice = Dice::new(seed);
                        meeting.wait();
                        while running.load(Ordering::SeqCst) > 0 {
                            let range = dice.range(PAGES, 2);
                            let pin = guard.pin(range).wait().unwrap();
                            enter(range);
                            (0..dice.roll(100)).for_each(|_| std::hint::spin_loop());
                            if dice.roll(4) == 0 {
                                thread::yield_now();
                            }
                            let more = dice.range(PAGES, 3);
                            let was_breaking = pin.is_breaking();
                            match pin.extend(guard, more) {
                                Ok(extension) => {
                                    enter(more);
                                    extended.fetch_add(1, Ordering::Relaxed);
                                    through.fetch_add(usize::from(was_breaking), Ordering::Relaxed);
                                    if dice.roll(2) == 0 {
                                        leave(range);
                                        drop(pin);
                                        (0..dice.roll(100)).for_each(|_| std::hint::spin_loop());
                                        leave(more);
                                        drop(extension);
                                    } else {
                                        leave(more);
                                        drop(extension);
                                        leave(range);
                                        drop(pin);
                                    }
                                }
                                Err(_) => {
                                    refused.fetch_add(1, Ordering::Relaxed);
                                    leave(range);
                                }
                            }
                        }
                    });
                }
                for seed in 2..4 {
                    s.spawn(move || {
                        let mut dice = Dice::new(seed);
                        meeting.wait();
                        // Until everything has happened.
                        let never = |n: &AtomicUsize| n.load(Ordering::Relaxed) == 0;
                        let mut rounds = 0;
                        while rounds < 2_000 || [extended, through, refused].into_iter().any(never)
                        {
                            rounds += 1;
                            let range = dice.range(PAGES, PAGES);
                            let proof = guard.break_layouts(range).wait().unwrap();
                            for page in range.start()..range.end() {
                                let others = held[page as usize].load(Ordering::Relaxed);
                                assert_eq!(others, 0, "page {page} under {proof:?}");
                            }
                        }
                        running.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            });
            assert_clean(&guard);
        }
    });
}

// ---- into_break -----------------------------------------------------------------------------------

#[test]
fn into_break_leaves_no_window() {
    for barrier in BARRIERS {
        let guard = LayoutGuard::with_barrier((), barrier);
        // Alone: it has its proof at once.
        let proof = guard
            .try_pin(2..4)
            .unwrap()
            .into_break(&guard)
            .unwrap()
            .now();
        assert_eq!(proof.unwrap().ranges(), [pages(2, 4)]);
        // With others: it waits for them, and whoever comes now is behind it.
        let (pin, other) = (guard.try_pin(2..4).unwrap(), guard.try_pin(3..6).unwrap());
        let (bell, mut own) = (Bell::new(), pin.into_break(&guard).unwrap());
        assert_eq!((own.ranges(), guard.stats().pins), (&[pages(2, 4)][..], 1));
        assert!(!is_open(&guard, pages(2, 3)));
        let mut later = guard.break_layouts(0..8);
        assert!(bell.poll(&mut own).is_pending());
        later.assert_waits();
        drop(other);
        assert_eq!(bell.rung(), 1);
        let proof = own.now().unwrap();
        later.assert_waits();
        drop(proof);
        drop((later.now().unwrap(), own, later));
        assert_clean(&guard);
    }
}

/// Somebody who tries all the time never has the pages between the holder's pin and its proof.
#[test]
fn into_break_race_of_one_who_waits_for_a_window() {
    watched(|| {
        for barrier in BARRIERS {
            let guard = LayoutGuard::with_barrier((), barrier);
            // Relaxed: that it is seen is the guard's affair (I7).
            let (mine, over) = (AtomicUsize::new(0), AtomicBool::new(false));
            let (tries, rounds) = (AtomicUsize::new(0), AtomicUsize::new(0));
            thread::scope(|s| {
                let _over = OnDrop::new(|| over.store(true, Ordering::SeqCst));
                s.spawn(|| {
                    while !over.load(Ordering::SeqCst) {
                        if let Ok(proof) = guard.try_break_layouts(2..3) {
                            assert_eq!(mine.load(Ordering::Relaxed), 0, "{proof:?}");
                            tries.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
                while rounds.fetch_add(1, Ordering::SeqCst) < 5_000
                    || tries.load(Ordering::SeqCst) < 100
                {
                    let pin = guard.pin(0..4).wait().unwrap();
                    mine.store(1, Ordering::Relaxed);
                    let proof = pin.into_break(&guard).unwrap().wait().unwrap();
                    mine.store(0, Ordering::Relaxed);
                    drop(proof);
                }
            });
            assert_clean(&guard);
        }
    });
}

/// One that came before the holder changed its mind is before it: the holder's pin must not keep it.
#[test]
fn into_break_behind_a_break_that_waits_for_the_pin() {
    let guard = bare();
    let pin = guard.try_pin(2..4).unwrap();
    let (bell, mut earlier) = (Bell::new(), guard.break_layouts(0..3));
    let mut queued = guard.break_layouts(3..9);
    assert!(bell.poll(&mut earlier).is_pending());
    queued.assert_waits();
    let mut own = pin.into_break(&guard).unwrap();
    assert_eq!(bell.rung(), 1);
    own.assert_waits();
    drop((earlier.now().unwrap(), earlier));
    own.assert_waits();
    drop((queued.now().unwrap(), queued));
    drop((own.now().unwrap(), own));
    assert_clean(&guard);
}

/// Two holders of the same pages who both want them for themselves: first come first served, with a
/// different page or the same, and with one of them an extension of the other.
#[test]
fn into_break_by_two_holders_of_the_same_pages() {
    let guard = bare();
    for (a, b) in [((0, 4), (0, 4)), ((0, 4), (2, 6)), ((0, 9), (3, 4))] {
        let (first, second) = (
            guard.try_pin(a.0..a.1).unwrap(),
            guard.try_pin(b.0..b.1).unwrap(),
        );
        let mut first = first.into_break(&guard).unwrap();
        first.assert_waits();
        let mut second = second.into_break(&guard).unwrap();
        let proof = first.now().unwrap();
        second.assert_waits();
        drop(proof);
        drop((second.now().unwrap(), first, second));
        assert_clean(&guard);
    }
    let pin = guard.try_pin(0..2).unwrap();
    let mut earlier = guard.break_layouts(0..6);
    let extension = pin.extend(&guard, 4..6).unwrap();
    let mut second = extension.into_break(&guard).unwrap();
    earlier.assert_waits();
    let mut first = pin.into_break(&guard).unwrap();
    drop(earlier.now().unwrap());
    drop((second.now().unwrap(), first.now().unwrap()));
    drop((earlier, first, second));
    assert_clean(&guard);
    // On threads, at the same time, again and again: never a deadlock, and never two at once.
    watched(|| {
        let (guard, meeting) = (bare(), Meeting::new(2));
        let inside = AtomicUsize::new(0);
        thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    for _ in 0..1_000 {
                        let pin = guard.pin(0..4).wait().unwrap();
                        meeting.wait();
                        let breaking = pin.into_break(&guard).unwrap();
                        assert!(guard.try_pin(3..4).is_err());
                        let proof = breaking.wait().unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
                        inside.fetch_sub(1, Ordering::Relaxed);
                        drop(proof);
                        meeting.wait();
                    }
                });
            }
        });
        assert_clean(&guard);
    });
}

#[test]
fn into_break_of_a_wrong_or_closed_guard_gives_the_pin_back() {
    let (guard, other) = (bare(), bare());
    let pin = guard.try_pin(0..4).unwrap();
    let pin = pin.into_break(&other).unwrap_err();
    assert_eq!((pin.range(), guard.stats().pins), (pages(0, 4), 1));
    assert_clean(&other);
    assert!(matches!(
        guard.try_break_layouts(0..1),
        Err(TryBreakError::Busy(_))
    ));
    assert!(is_open(&guard, pages(0, 4)), "nothing was closed");
    let mut closing = guard.close();
    let pin = pin.into_break(&guard).unwrap_err();
    assert_eq!(pin.range(), pages(0, 4));
    closing.assert_waits();
    drop(pin);
    closing.now();
}
