//! Recall: how holders of leases hear that they are wanted, and what they give back.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier as Meeting};
use std::thread;

use futures_lite::future::block_on;
use layout_lease::{
    AnyGuard, LayoutGuard, LayoutLease, PagePin, PageRange, RangeError, break_layouts_of,
};

use crate::support::{
    Ask, BARRIERS, Bell, Dice, Engine, OnDrop, assert_clean, bare, lease, pages, until, watched,
};

#[test]
fn recall_at_once_of_every_lease_that_overlaps_and_of_no_other() {
    let guard = bare();
    let all: Vec<_> = (0..10)
        .flat_map(|start| (start + 1..=10).map(move |end| pages(start, end)))
        .collect();
    let leases: Vec<_> = all.iter().map(|range| lease(&guard, *range)).collect();
    let bells: Vec<_> = leases.iter().map(|_| Bell::new()).collect();
    let mut calls: Vec<_> = leases.iter().map(|lease| lease.recalled()).collect();
    for (bell, call) in bells.iter().zip(&mut calls) {
        assert!(bell.poll(call).is_pending());
    }
    let assert_recalled = |wanted: &[PageRange]| {
        for (lease, bell) in leases.iter().zip(&bells) {
            let meets = wanted.iter().any(|range| range.overlaps(&lease.range()));
            assert_eq!(lease.is_recalled(), meets, "{lease:?}");
            assert_eq!(bell.rung(), usize::from(meets), "{lease:?}");
        }
    };
    assert_recalled(&[]);
    let waiting = guard.break_layouts(4..5);
    assert_recalled(&[pages(4, 5)]);
    // It is queued behind the first, and recalls all the same.
    let queued = guard.break_layouts(4..6);
    assert_recalled(&[pages(4, 6)]);
    let alone = guard.break_leases(8..9);
    assert_recalled(&[pages(4, 6), pages(8, 9)]);
    for (lease, call) in leases.iter().zip(&mut calls) {
        let parts = [pages(4, 6), pages(8, 9)];
        let parts: Vec<_> = parts
            .iter()
            .filter_map(|part| part.intersection(&lease.range()))
            .collect();
        match parts.as_slice() {
            [] => call.assert_waits(),
            [first, .., last] => assert_eq!(call.now(), pages(first.start(), last.end())),
            [only] => assert_eq!(call.now(), *only),
        }
    }
    drop((waiting, queued, alone, calls));
    assert!(!leases.iter().any(LayoutLease::is_recalled));
    drop(leases);
    assert_clean(&guard);
}

/// Whatever closes pages asks for the leases of them; what only looks does not.
#[test]
fn recall_by_everything_that_breaks_pages() {
    let (guard, other) = (Arc::new(Engine::idle()), bare());
    let held = lease(&guard, pages(2, 6));
    assert!(guard.try_break_layouts(..).is_err() && !held.is_recalled());
    macro_rules! recalled_by {
        ($wanted:expr, $breaking:expr) => {{
            let (bell, mut call) = (Bell::new(), held.recalled());
            assert!(bell.poll(&mut call).is_pending());
            let breaking = $breaking;
            assert_eq!(bell.rung(), 1);
            assert!(held.is_recalled());
            assert_eq!(call.now(), $wanted);
            assert_eq!(held.recalled().now(), $wanted, "recalled already");
            drop(breaking);
            assert!(!held.is_recalled());
        }};
    }
    let (one, two) = (pages(0, 3), pages(5, 9));
    recalled_by!(pages(4, 6), guard.break_layouts(4..9));
    recalled_by!(pages(2, 6), guard.break_layouts_arc(..));
    recalled_by!(pages(2, 6), guard.break_all(&[two, one]));
    recalled_by!(pages(5, 6), guard.break_leases(5..9));
    recalled_by!(pages(3, 5), guard.try_pin(3..5).unwrap().into_break(&guard));
    recalled_by!(pages(5, 6), guard.truncate(5));
    recalled_by!(pages(3, 4), guard.punch_hole(3..4));
    recalled_by!(pages(3, 6), guard.collapse_range(3..4));
    let parts: [(&dyn AnyGuard, PageRange); 2] = [(&other, PageRange::ALL), (&*guard, one)];
    recalled_by!(pages(2, 3), break_layouts_of(&parts));
    // These cannot be taken back.
    let (bell, mut call) = (Bell::new(), held.recalled());
    assert!(bell.poll(&mut call).is_pending());
    drop(guard.retire(5..7));
    assert_eq!((bell.rung(), call.now()), (1, pages(5, 6)));
    drop(call);
    drop(held);
    assert_eq!(guard.run_retired(), 1);
    assert_clean(&guard);
    drop((lease(&other, pages(0, 1)), other.close()));
}

#[test]
fn recall_resolves_for_all_who_ask_on_whatever_thread() {
    watched(|| {
        let guard = bare();
        let held = lease(&guard, pages(0, 8));
        let (bells, asked) = ([(); 3].map(|()| Bell::new()), AtomicUsize::new(0));
        let (mut first, mut gone, mut last) = (held.recalled(), held.recalled(), held.recalled());
        for (bell, task) in bells.iter().zip([&mut first, &mut gone, &mut last]) {
            assert!(bell.poll(task).is_pending());
        }
        // One goes away: the others are none the worse.
        drop(gone);
        thread::scope(|s| {
            let threads: Vec<_> = (0..4)
                .map(|n| {
                    let (held, asked) = (&held, &asked);
                    s.spawn(move || {
                        let mut call = held.recalled();
                        call.assert_waits();
                        asked.fetch_add(1, Ordering::SeqCst);
                        match n {
                            0 => block_on(call),
                            _ => call.wait(),
                        }
                    })
                })
                .collect();
            until(|| asked.load(Ordering::SeqCst) == 4);
            // On several of them it is asleep by now, or is not; both must be woken.
            thread::yield_now();
            let breaking = guard.break_layouts(3..20);
            for thread in threads {
                assert_eq!(thread.join().unwrap(), pages(3, 8));
            }
            drop(breaking);
        });
        assert_eq!(bells.each_ref().map(|bell| bell.rung()), [1, 0, 1]);
        // The break is gone: nothing is wanted now, and the next one is heard of again.
        assert!(bells[0].poll(&mut first).is_pending());
        assert!(bells[2].poll(&mut last).is_pending());
        let breaking = guard.break_leases(1..2);
        assert_eq!(bells.each_ref().map(|bell| bell.rung()), [2, 0, 2]);
        assert_eq!((first.now(), last.now()), (pages(1, 2), pages(1, 2)));
        drop((breaking, first, last));
        drop(held);
        assert_clean(&guard);
    });
}

/// What is wanted is asked for when the answer is given: all that is wanted then, and nothing else.
#[test]
fn recall_tells_the_hull_of_what_is_wanted_now() {
    let guard = bare();
    let held = lease(&guard, pages(10, 30));
    let hull = || held.recalled().ask_blocking();
    assert_eq!(hull(), None);
    let low = guard.break_layouts(0..12);
    assert_eq!(hull(), Some(pages(10, 12)));
    let high = guard.break_leases(25..26);
    assert_eq!(hull(), Some(pages(10, 26)));
    let beside = guard.break_layouts(30..40);
    assert_eq!(hull(), Some(pages(10, 26)));
    drop(low);
    assert_eq!(hull(), Some(pages(25, 26)));
    let both = guard.break_all(&[pages(14, 15), pages(50, 60), pages(18, 19)]);
    assert_eq!(hull(), Some(pages(14, 26)));
    drop(high);
    assert_eq!(hull(), Some(pages(14, 19)));
    let all = guard.break_layouts(..);
    assert_eq!(hull(), Some(pages(10, 30)));
    drop((both, all));
    assert_eq!(hull(), None);
    drop((beside, held));
    assert_clean(&guard);
}

/// A holder that sleeps in `recalled` and a breaker that sleeps for the lease, as fast as they can: no
/// recall and no release is lost.
#[test]
fn i06_ping_pong_of_recall_and_release() {
    watched(|| {
        for barrier in BARRIERS {
            let guard = LayoutGuard::with_barrier((), barrier);
            let over = AtomicBool::new(false);
            thread::scope(|s| {
                s.spawn(|| {
                    let _over = OnDrop::new(|| over.store(true, Ordering::SeqCst));
                    for n in 0..1_000 {
                        let mut held = guard.lease(0..8).wait().unwrap();
                        let wanted = match n % 2 {
                            0 => held.recalled().wait(),
                            _ => block_on(held.recalled()),
                        };
                        match n % 3 {
                            0 => held.shrink_to(wanted.end()..).unwrap(),
                            _ => drop(held),
                        }
                    }
                });
                let (mut dice, mut n) = (Dice::new(7), 0);
                while !over.load(Ordering::SeqCst) {
                    (0..dice.roll(400)).for_each(|_| std::hint::spin_loop());
                    n += 1;
                    match n % 3 {
                        0 => drop(guard.break_leases(0..4).wait().unwrap()),
                        1 => drop(guard.break_layouts(0..4).wait().unwrap()),
                        _ => drop(block_on(guard.break_layouts(0..4)).unwrap()),
                    }
                }
            });
            assert_clean(&guard);
        }
    });
}

// ---- giving back ----------------------------------------------------------------------------------

#[test]
fn i06_one_wake_for_leases_and_pins_together() {
    for barrier in BARRIERS {
        let guard = LayoutGuard::with_barrier((), barrier);
        let mut dice = Dice::new(3);
        for round in 0..20 {
            enum Hold {
                Pin(PagePin),
                Lease(LayoutLease),
            }
            let mut holds: Vec<Hold> = (0..32)
                .map(|n| match n % 2 {
                    0 => Hold::Pin(guard.try_pin(n..n + 3).unwrap()),
                    _ => Hold::Lease(lease(&guard, pages(n, n + 3))),
                })
                .collect();
            let (bell, mut breaking) = (Bell::new(), guard.break_layouts(0..40));
            let (bell_alone, mut alone) = (Bell::new(), guard.break_leases(0..40));
            assert!(bell.poll(&mut breaking).is_pending());
            assert!(bell_alone.poll(&mut alone).is_pending());
            while !holds.is_empty() {
                let one = holds.swap_remove(dice.roll(holds.len() as u64) as usize);
                match one {
                    Hold::Pin(pin) => drop(pin),
                    // Nothing of it is given back yet that would let anybody go on.
                    Hold::Lease(mut held) if round % 2 == 0 => {
                        let at = held.range().start();
                        held.shrink_to(at + 1..).unwrap();
                    }
                    Hold::Lease(held) => drop(held),
                }
                let leases = holds.iter().any(|hold| matches!(hold, Hold::Lease(_)));
                assert_eq!(bell.rung(), usize::from(holds.is_empty()));
                assert_eq!(bell_alone.rung(), usize::from(!leases));
            }
            drop((breaking.now().unwrap(), alone.now().unwrap()));
            drop((breaking, alone));
            assert_clean(&guard);
        }
    }
}

#[test]
fn shrinking_lets_a_break_end_that_wanted_only_the_rest() {
    let guard = bare();
    let mut held = lease(&guard, pages(10, 30));
    let (bells, mut low) = ([(); 3].map(|()| Bell::new()), guard.break_layouts(0..12));
    let mut both = guard.break_all(&[pages(12, 14), pages(28, 40)]);
    let mut alone = guard.break_leases(13..20);
    assert!(bells[0].poll(&mut low).is_pending());
    assert!(bells[1].poll(&mut both).is_pending());
    assert!(bells[2].poll(&mut alone).is_pending());
    let rung = || bells.each_ref().map(|bell| bell.rung());
    held.shrink_to(11..).unwrap();
    assert_eq!((rung(), held.range()), ([0, 0, 0], pages(11, 30)));
    held.shrink_to(12..).unwrap();
    assert_eq!(rung(), [1, 0, 0]);
    // Out of one of the two ranges, not yet out of the other.
    held.shrink_to(14..).unwrap();
    assert_eq!(rung(), [1, 0, 0]);
    held.shrink_to(..28).unwrap();
    assert_eq!((rung(), held.range()), ([1, 1, 0], pages(14, 28)));
    assert!(held.is_recalled());
    held.shrink_to(20..25).unwrap();
    assert_eq!((rung(), held.range()), ([1, 1, 1], pages(20, 25)));
    assert!(!held.is_recalled());
    assert!(held.recalled().ask_blocking().is_none());
    assert_eq!(guard.holders(..).len(), 1);
    assert_eq!(guard.holders(..)[0].range(), pages(20, 25));
    drop((
        low.now().unwrap(),
        both.now().unwrap(),
        alone.now().unwrap(),
    ));
    drop((low, both, alone));
    // What was given back is open, and free for others.
    drop(guard.try_break_layouts(..20).unwrap());
    drop(guard.try_break_layouts(25..).unwrap());
    assert!(guard.try_break_layouts(24..25).is_err());
    drop(held);
    assert_clean(&guard);
}

/// A lease that has been shrunk out of a break counts for it no more, so neither does its drop.
#[test]
fn shrinking_and_dropping_counts_once() {
    let guard = bare();
    let (mut shrunk, other) = (lease(&guard, pages(0, 8)), lease(&guard, pages(0, 8)));
    let (bell, mut breaking) = (Bell::new(), guard.break_layouts(0..4));
    assert!(bell.poll(&mut breaking).is_pending());
    shrunk.shrink_to(4..).unwrap();
    shrunk.shrink_to(5..).unwrap();
    drop(shrunk);
    assert_eq!(bell.rung(), 0);
    assert!(!breaking.is_drained());
    drop(other);
    assert_eq!(bell.rung(), 1);
    drop((breaking.now().unwrap(), breaking));
    assert_clean(&guard);
}

#[test]
fn shrinking_to_what_is_no_part_changes_nothing() {
    let guard = bare();
    let mut held = lease(&guard, pages(10, 20));
    let outside = |start, end| Err(RangeError::Outside { start, end });
    assert_eq!(held.shrink_to(9..12), outside(9, 12));
    assert_eq!(held.shrink_to(12..21), outside(12, 21));
    assert_eq!(held.shrink_to(0..5), outside(0, 5));
    assert_eq!(held.shrink_to(..21), outside(10, 21));
    assert_eq!(held.shrink_to(12..12), Err(RangeError::Empty { at: 12 }));
    assert_eq!(held.shrink_to(..10), Err(RangeError::Empty { at: 10 }));
    let (start, end) = (14, 13);
    assert_eq!(
        held.shrink_to(start..end),
        Err(RangeError::Inverted { start, end })
    );
    assert!(held.shrink_to(12..=u64::MAX).is_err());
    // All of it is a part of it.
    held.shrink_to(..).unwrap();
    held.shrink_to(10..=19).unwrap();
    held.shrink_to(held.range()).unwrap();
    assert_eq!(held.range(), pages(10, 20));
    assert_eq!(guard.holders(..)[0].range(), pages(10, 20));
    assert!(guard.try_break_layouts(19..20).is_err());
    drop(held);
    let mut all = lease(&guard, PageRange::ALL);
    all.shrink_to(u64::MAX - 1..).unwrap();
    assert_eq!(all.range(), pages(u64::MAX - 1, u64::MAX));
    drop(guard.try_break_layouts(..u64::MAX - 1).unwrap());
    drop(all);
    assert_clean(&guard);
}

/// Who is not asleep in `recalled` when the guard closes finds it out later, too: a closed guard wants
/// everything back, whether or not somebody waits for the closing.
#[test]
fn close_recalls_also_those_who_look_later() {
    let guard = bare();
    let held = lease(&guard, pages(0, 4));
    let (bell, mut call) = (Bell::new(), held.recalled());
    assert!(bell.poll(&mut call).is_pending());
    drop(guard.close());
    assert_eq!(bell.rung(), 1);
    assert!(held.is_recalled());
    assert_eq!(call.now(), pages(0, 4));
    assert_eq!(held.recalled().now(), pages(0, 4));
    drop(call);
    drop(held);
    guard.close().now();
}

/// Holders that give back on recall, on several threads, against breaks of both kinds: nobody has a lease
/// of pages under a proof, and what a holder did is seen by the breaker (I7).
#[test]
fn i02_race_of_leases_and_breaks() {
    const PAGES: u64 = 8;
    watched(|| {
        for barrier in BARRIERS {
            let guard = LayoutGuard::with_barrier((), barrier);
            // How many hold a page. Relaxed: that it is seen is the guard's affair.
            let held: [AtomicU64; PAGES as usize] = Default::default();
            let (count, of) = (Ordering::Relaxed, |range: PageRange| {
                held[range.start() as usize..range.end() as usize].iter()
            });
            let [grants, recalls, proofs]: [AtomicU64; 3] = Default::default();
            let meeting = Meeting::new(4);
            let over = AtomicUsize::new(0);
            thread::scope(|s| {
                for seed in 0..2 {
                    let (guard, meeting, over) = (&guard, &meeting, &over);
                    let (of, grants, recalls) = (&of, &grants, &recalls);
                    s.spawn(move || {
                        let mut dice = Dice::new(seed);
                        meeting.wait();
                        while over.load(Ordering::SeqCst) < 2 {
                            let range = dice.range(PAGES, 4);
                            let mut mine = guard.lease(range).wait().unwrap();
                            of(range).for_each(|n| {
                                n.fetch_add(1, count);
                            });
                            grants.fetch_add(1, count);
                            let until = dice.roll(3_000);
                            let recalled = (0..until).any(|_| {
                                std::hint::spin_loop();
                                mine.is_recalled()
                            });
                            recalls.fetch_add(u64::from(recalled), count);
                            if recalled && range.len() > 1 {
                                let kept = pages(range.start() + 1, range.end());
                                of(pages(range.start(), kept.start())).for_each(|n| {
                                    n.fetch_sub(1, count);
                                });
                                mine.shrink_to(kept).unwrap();
                            }
                            of(mine.range()).for_each(|n| {
                                n.fetch_sub(1, count);
                            });
                            drop(mine);
                        }
                    });
                }
                for seed in 2..4 {
                    let (guard, meeting, over, of) = (&guard, &meeting, &over, &of);
                    let (proofs, recalls) = (&proofs, &recalls);
                    s.spawn(move || {
                        let _over = OnDrop::new(|| {
                            over.fetch_add(1, Ordering::SeqCst);
                        });
                        let mut dice = Dice::new(seed);
                        meeting.wait();
                        // On, until leases have been recalled: on a busy machine the others may come late.
                        for n in 0.. {
                            if n >= 1_500 && recalls.load(count) > 0 {
                                break;
                            }
                            let range = dice.range(PAGES, 4);
                            let idle = || of(range).all(|held| held.load(count) == 0);
                            if n % 2 == 0 {
                                let free = guard.break_leases(range).wait().unwrap();
                                assert!(idle(), "a lease under {free:?}");
                            } else {
                                let proof = guard.break_layouts(range).wait().unwrap();
                                assert!(idle(), "a lease under {proof:?}");
                            }
                            proofs.fetch_add(1, count);
                        }
                    });
                }
            });
            assert_clean(&guard);
            assert!(grants.load(count) > 0 && proofs.load(count) >= 3_000);
        }
    });
}
