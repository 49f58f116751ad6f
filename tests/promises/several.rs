//! Breaks of several ranges, and of several guards.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier as Meeting, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use layout_lease::maps::ExtentMap;
use layout_lease::{
    AnyGuard, BreakError, BreakMany, HolderKind, LayoutGuard, PageRange, RangeError, TryPinError,
    break_layouts_of,
};

use crate::support::{
    Ask, BARRIERS, Bell, Dice, Engine, Log, NOW, OnDrop, assert_clean, bare, is_open, lease, pages,
    watched,
};

/// Parts of a break: a guard and its pages.
type Part<'g> = (&'g dyn AnyGuard, PageRange);

// ---- several ranges -------------------------------------------------------------------------------

#[test]
fn several_ranges_have_one_proof_and_what_is_between_them_is_open() {
    for barrier in BARRIERS {
        let guard = LayoutGuard::with_barrier((), barrier);
        let ranges = [pages(20, 22), pages(2, 4), pages(10, 12)];
        let between = guard.try_pin(4..10).unwrap();
        let (low, high) = (guard.try_pin(3..4).unwrap(), guard.try_pin(20..30).unwrap());
        let (bell, mut breaking) = (Bell::new(), guard.break_all(&ranges));
        let sorted = [ranges[1], ranges[2], ranges[0]];
        assert_eq!(breaking.ranges(), sorted);
        let exact = || {
            for page in 0..32 {
                let open = !ranges.iter().any(|range| range.contains(page));
                assert_eq!(is_open(&guard, pages(page, page + 1)), open, "page {page}");
            }
            assert!(is_open(&guard, pages(4, 10)) && is_open(&guard, pages(12, 20)));
            assert!(!is_open(&guard, pages(9, 13)) && !is_open(&guard, pages(0, 40)));
        };
        exact();
        assert!(bell.poll(&mut breaking).is_pending());
        let mut held: Vec<_> = breaking.holders().iter().map(|h| h.range()).collect();
        held.sort_unstable();
        assert_eq!(held, [pages(3, 4), pages(20, 30)], "nobody from between");
        assert!(low.is_breaking() && high.is_breaking() && !between.is_breaking());
        drop(low);
        assert_eq!(bell.rung(), 0);
        drop(high);
        assert_eq!(bell.rung(), 1);
        let proof = breaking.now().unwrap();
        assert_eq!(proof.ranges(), sorted);
        assert!(ranges.iter().all(|range| proof.covers(*range)));
        assert!(!proof.covers(pages(2, 12)) && !proof.covers(pages(4, 10)));
        drop(breaking);
        exact();
        // Each half reopens by itself, wherever it is cut.
        let (left, right) = proof.split_at(11).unwrap();
        assert_eq!(left.ranges(), [pages(2, 4), pages(10, 11)]);
        assert_eq!(right.ranges(), [pages(11, 12), pages(20, 22)]);
        drop(left);
        assert!(is_open(&guard, pages(0, 11)) && !is_open(&guard, pages(11, 12)));
        drop((right, between));
        assert_clean(&guard);
    }
}

#[test]
fn several_ranges_are_put_in_order_and_joined() {
    let guard = bare();
    type Ranges = &'static [(u64, u64)];
    let cases: [(Ranges, Ranges); 6] = [
        (&[(5, 6)], &[(5, 6)]),
        (&[(5, 6), (5, 6)], &[(5, 6)]),
        (&[(4, 6), (0, 4)], &[(0, 6)]),
        (&[(4, 9), (0, 5), (6, 7)], &[(0, 9)]),
        (&[(8, 9), (0, 5), (6, 7)], &[(0, 5), (6, 7), (8, 9)]),
        (&[(0, u64::MAX), (3, 4)], &[(0, u64::MAX)]),
    ];
    for (given, joined) in cases {
        let ranges = |all: &[(u64, u64)]| -> Vec<PageRange> {
            all.iter().map(|(start, end)| pages(*start, *end)).collect()
        };
        let mut breaking = guard.break_all(&ranges(given));
        assert_eq!(breaking.ranges(), ranges(joined));
        drop(breaking.now().unwrap());
    }
    assert_clean(&guard);
}

#[test]
fn i10_no_ranges_at_all_are_an_error_and_never_everything() {
    let guard = bare();
    let mut breaking = guard.break_all(&[]);
    assert!(breaking.ranges().is_empty() && is_open(&guard, PageRange::ALL));
    assert!(matches!(
        breaking.now(),
        Err(BreakError::Range(RangeError::Empty { .. }))
    ));
    assert!(matches!(
        break_layouts_of(&[]).now(),
        Err(BreakError::Range(RangeError::Empty { .. }))
    ));
    assert_clean(&guard);
}

/// One who holds pages in several of the ranges is waited for, and counted, once.
#[test]
fn i06_a_holder_that_reaches_over_several_ranges_counts_once() {
    let guard = bare();
    let ranges: Vec<_> = (0..10).map(|n| pages(n * 4, n * 4 + 2)).collect();
    let pins = [(0, 40), (1, 5), (9, 30)].map(|(a, b)| guard.try_pin(a..b).unwrap());
    let leases = [(0, 40), (1, 5), (9, 30)].map(|(a, b)| lease(&guard, pages(a, b)));
    let (bell, mut breaking) = (Bell::new(), guard.break_all(&ranges));
    assert!(bell.poll(&mut breaking).is_pending());
    assert_eq!(breaking.holders().len(), 6);
    drop(pins);
    assert_eq!(bell.rung(), 0);
    let [mut all, low, mut high] = leases;
    drop(low);
    // Out of some of the ranges is not out of all.
    high.shrink_to(10..27).unwrap();
    all.shrink_to(30..).unwrap();
    assert_eq!((bell.rung(), breaking.holders().len()), (0, 2));
    high.shrink_to(10..12).unwrap();
    all.shrink_to(38..).unwrap();
    assert_eq!((bell.rung(), breaking.holders().len()), (1, 0));
    drop((breaking.now().unwrap(), breaking, all, high));
    assert_clean(&guard);
}

#[test]
fn i03_breaks_of_several_ranges_wait_where_they_meet_and_nowhere_else() {
    let guard = bare();
    let proof = guard.try_break_layouts(10..12).unwrap();
    let mut both = guard.break_all(&[pages(0, 2), pages(11, 14)]);
    // Between its ranges, and beside them, nobody waits for it.
    let beside = guard.break_layouts(2..10).now().unwrap();
    let mut behind = guard.break_all(&[pages(1, 2), pages(20, 21)]);
    both.assert_waits();
    behind.assert_waits();
    drop(proof);
    let first = both.now().unwrap();
    behind.assert_waits();
    drop(first);
    drop((behind.now().unwrap(), beside, both, behind));
    assert_clean(&guard);
}

// ---- several guards -------------------------------------------------------------------------------

#[test]
fn several_idle_guards_are_drained_at_once() {
    for barrier in BARRIERS {
        let first = LayoutGuard::with_barrier((), barrier);
        let second = LayoutGuard::with_barrier(ExtentMap::new(8), barrier);
        let breaking = break_layouts_of(&[(&second, pages(0, 2)), (&first, pages(4, 6))]);
        assert!(breaking.is_drained() && breaking.holders().is_empty());
        assert!(!is_open(&first, pages(5, 6)) && !is_open(&second, pages(1, 2)));
        let mut breaking = breaking;
        let proofs = breaking.now().unwrap();
        drop(breaking);
        assert!(!is_open(&first, pages(5, 6)) && !is_open(&second, pages(1, 2)));
        drop(proofs);
        assert_clean(&first);
        assert_clean(&second);
    }
}

#[test]
fn i06_one_wake_for_holders_of_several_guards() {
    let mut dice = Dice::new(5);
    for _ in 0..20 {
        let guards = [(); 4].map(|()| bare());
        // One of the guards is idle, and one has leases alone.
        let mut pins: Vec<_> = (0..20)
            .map(|n| guards[n % 2].try_pin(0..4).unwrap())
            .collect();
        let mut leases: Vec<_> = (0..5).map(|_| lease(&guards[2], pages(0, 4))).collect();
        let parts: Vec<Part<'_>> = guards.iter().map(|g| (g as _, pages(3, 5))).collect();
        let (bell, mut breaking) = (Bell::new(), break_layouts_of(&parts));
        assert!(bell.poll(&mut breaking).is_pending());
        assert_eq!(breaking.holders().len(), 25);
        while pins.len() + leases.len() > 0 {
            assert!(!breaking.is_drained() && bell.rung() == 0);
            let at = dice.roll((pins.len() + leases.len()) as u64) as usize;
            match at.checked_sub(pins.len()) {
                None => drop(pins.swap_remove(at)),
                Some(at) => drop(leases.swap_remove(at)),
            }
        }
        assert!(breaking.is_drained() && bell.rung() == 1);
        assert!(matches!(bell.poll(&mut breaking), Poll::Ready(Ok(_))));
        drop(breaking);
        guards.iter().for_each(assert_clean);
        assert_eq!(bell.rung(), 1);
    }
}

/// Looks when it is woken, on the spot, whether a break of several guards has ended: what that says of itself, and
/// what comes of waiting for it.
struct Looks(Mutex<Option<BreakMany<'static>>>, Log<(bool, bool)>);

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        let many = self.0.lock().unwrap().take();
        let mut many = many.expect("woken once");
        self.1
            .write((many.is_drained(), many.wait_timeout(NOW).is_some()));
    }
}

/// A break of several guards said that it was drained, and was still waited for: its wake came behind that of another
/// task. Had that waited for it there, it would have been for ever.
#[test]
fn several_guards_are_drained_before_anybody_is_told() {
    let guard: &'static LayoutGuard<()> = Box::leak(Box::new(bare()));
    let pin = guard.try_pin(0..10).unwrap();
    let mut first = guard.break_layouts(0..1);
    let many = break_layouts_of(&[(guard, pages(5, 6))]);
    let looks = Arc::new(Looks(Mutex::new(Some(many)), Log::new()));
    let waker = Waker::from(Arc::clone(&looks));
    assert!(
        Pin::new(&mut first)
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    drop(pin);
    assert_eq!(looks.1.read(), [(true, true)]);
    drop(first.now().unwrap());
    drop(first);
    assert_clean(guard);
}

#[test]
fn several_guards_lend_a_proof_each_and_reopen_together() {
    let engine = Engine::guard(|_, proof| Ok(proof.ranges().iter().map(PageRange::len).sum()));
    let extents = LayoutGuard::new(ExtentMap::new(16));
    extents.map().allocate(0..16).unwrap();
    let (plain, stranger) = (bare(), bare());
    // The same guard several times, in any order: its ranges are joined.
    let parts: [Part<'_>; 5] = [
        (&extents, pages(8, 10)),
        (&plain, pages(5, 6)),
        (&engine, pages(1, 2)),
        (&extents, pages(0, 3)),
        (&extents, pages(2, 5)),
    ];
    let proofs = break_layouts_of(&parts).now().unwrap();
    assert!(proofs.of(&stranger).is_none());
    let text = format!("{proofs:?}");
    assert!(text.contains("8..10") && text.contains("0..5"), "{text}");
    {
        let proof = proofs.of(&extents).unwrap();
        assert_eq!(proof.ranges(), [pages(0, 5), pages(8, 10)]);
        assert!(proof.is_of(extents.map()));
        assert_eq!(proof.punch_hole(pages(1, 5)), Ok(4));
        assert!(proof.punch_hole(pages(4, 6)).is_err());
        // Lent twice, it is the same proof; giving it back reopens nothing.
        drop(proofs.of(&extents).unwrap());
        drop(proof);
    }
    assert_eq!(proofs.of(&engine).unwrap().zero_range(pages(1, 2)), Ok(1));
    assert_eq!(proofs.of(&plain).unwrap().ranges(), [pages(5, 6)]);
    assert!(!is_open(&extents, pages(0, 1)) && !is_open(&extents, pages(9, 10)));
    assert!(is_open(&extents, pages(5, 8)) && !is_open(&plain, pages(5, 6)));
    drop(proofs);
    for range in [pages(0, 5), pages(8, 10)] {
        assert!(is_open(&extents, range));
    }
    assert_clean(&extents);
    assert_clean(&engine);
    assert_clean(&plain);
}

#[test]
fn several_guards_one_of_which_is_busy_or_closed_already() {
    let [busy, idle, closed] = [(); 3].map(|()| bare());
    let proof = busy.try_break_layouts(0..4).unwrap();
    let mut waiter = busy.pin(2..6);
    waiter.assert_waits();
    let parts: [Part<'_>; 2] = [(&idle, pages(0, 1)), (&busy, pages(5, 9))];
    let (bell, mut breaking) = (Bell::new(), break_layouts_of(&parts));
    assert!(bell.poll(&mut breaking).is_pending());
    // It has its place in both queues meanwhile.
    assert_eq!(idle.try_pin(0..1).unwrap_err(), TryPinError::Breaking);
    assert!(!breaking.is_drained());
    drop(proof);
    assert_eq!(bell.rung(), 0, "the waiting pin is before it");
    drop(waiter.now().unwrap());
    assert_eq!(bell.rung(), 1);
    drop((breaking.now().unwrap(), breaking, waiter));
    assert_clean(&busy);
    // With a closed one among them nothing is closed at all.
    drop(closed.close());
    let parts: [Part<'_>; 3] = [
        (&idle, pages(0, 1)),
        (&closed, pages(0, 1)),
        (&busy, pages(0, 1)),
    ];
    let mut breaking = break_layouts_of(&parts);
    assert_clean(&idle);
    assert_clean(&busy);
    assert!(!breaking.is_drained() && breaking.holders().is_empty());
    assert_eq!(breaking.now().unwrap_err(), BreakError::Closed);
}

/// Whether it waits in the guard that closes, or is drained there already and waits in another, is all
/// one: a proof that it has not fetched may be refused, if it is refused as a whole.
#[test]
fn several_guards_one_of_which_closes_meanwhile() {
    let [first, second, third] = [(); 3].map(|()| bare());
    let parts: [Part<'_>; 3] = [
        (&first, pages(0, 4)),
        (&second, pages(0, 4)),
        (&third, pages(0, 4)),
    ];
    let pins = [&first, &third].map(|guard| guard.try_pin(0..1).unwrap());
    let (bell, mut breaking) = (Bell::new(), break_layouts_of(&parts));
    assert!(bell.poll(&mut breaking).is_pending());
    // Drained in this one already: closing it changes nothing.
    let mut closing = second.close();
    assert_eq!(bell.rung(), 0);
    closing.assert_waits();
    // But here it waits, and will never have its turn.
    let mut closing_first = first.close();
    assert_eq!(bell.rung(), 1);
    assert_eq!(breaking.now().unwrap_err(), BreakError::Closed);
    // Nothing is left behind, in none of them.
    drop(breaking);
    closing.now();
    closing_first.assert_waits();
    assert!(is_open(&third, pages(0, 4)));
    drop(pins);
    closing_first.now();
    assert_clean(&third);
    // One blocked thread is told, too.
    watched(|| {
        let [first, second] = [(); 2].map(|()| bare());
        let pin = first.try_pin(0..1).unwrap();
        let parts: [Part<'_>; 2] = [(&first, pages(0, 4)), (&second, pages(0, 4))];
        let breaking = break_layouts_of(&parts);
        thread::scope(|s| {
            let thread = s.spawn(|| breaking.wait().map(drop));
            drop(first.close());
            assert_eq!(thread.join().unwrap(), Err(BreakError::Closed));
        });
        drop(pin);
        assert_clean(&second);
    });
}

#[test]
fn i08_a_break_of_several_guards_dropped_in_any_state() {
    let guards = [(); 3].map(|()| bare());
    let parts: Vec<Part<'_>> = guards.iter().map(|g| (g as _, pages(0, 4))).collect();
    let states: [fn(&mut layout_lease::BreakMany<'_>); 3] = [
        |_| {},
        |breaking| breaking.assert_waits(),
        |breaking| assert!(breaking.wait_timeout(Duration::from_millis(1)).is_none()),
    ];
    for state in states {
        // Half-way: one guard is drained, one waits for a pin, one for an earlier break.
        let pin = guards[1].try_pin(0..1).unwrap();
        let proof = guards[2].try_break_layouts(3..5).unwrap();
        let mut breaking = break_layouts_of(&parts);
        state(&mut breaking);
        let (bells, mut waiter) = ([(); 2].map(|()| Bell::new()), guards[0].pin(3..4));
        let mut behind = guards[1].break_layouts(3..6);
        assert!(bells[0].poll(&mut waiter).is_pending());
        assert!(bells[1].poll(&mut behind).is_pending());
        drop(breaking);
        assert_eq!(bells.each_ref().map(|bell| bell.rung()), [1, 1]);
        drop((waiter.now().unwrap(), behind.now().unwrap(), waiter, behind));
        assert!(!pin.is_breaking());
        drop((pin, proof));
        guards.iter().for_each(assert_clean);
        // Drained everywhere, not fetched.
        drop(break_layouts_of(&parts));
        guards.iter().for_each(assert_clean);
    }
    // Forgotten, it keeps everything closed, and frees nothing (I4).
    mem::forget(break_layouts_of(&parts));
    mem::forget(break_layouts_of(&parts));
    assert!(guards.iter().all(|guard| !is_open(guard, pages(0, 1))));
    assert_eq!(guards.each_ref().map(|guard| guard.stats().queued), [2; 3]);
}

/// First come first served in all of them: of two who want the same guards, one is first everywhere.
#[test]
fn i03_breaks_of_several_guards_have_their_turns_in_one_order() {
    let [a, b, c] = [(); 3].map(|()| bare());
    let range = pages(0, 4);
    let pin = a.try_pin(range).unwrap();
    let mut first = break_layouts_of(&[(&a, range), (&b, range)]);
    let mut second = break_layouts_of(&[(&b, range), (&c, range)]);
    let mut third = break_layouts_of(&[(&c, range), (&a, range)]);
    first.assert_waits();
    second.assert_waits();
    third.assert_waits();
    // Nobody else is in the way in a guard that none of them has named, nor beside their pages.
    drop(b.try_break_layouts(4..8).unwrap());
    drop(pin);
    let proofs = first.now().unwrap();
    second.assert_waits();
    third.assert_waits();
    drop(proofs);
    third.assert_waits();
    let proofs = second.now().unwrap();
    third.assert_waits();
    drop(proofs);
    drop(third.now().unwrap());
    drop((first, second, third));
    [a, b, c].iter().for_each(assert_clean);
}

/// For a second, threads that name the same guards in opposite orders, wait in every way there is, give up
/// now and then, and check under their proofs that they are alone: nobody hangs, and nobody starves.
#[test]
fn several_guards_named_in_opposite_orders_do_not_deadlock() {
    watched(|| {
        for barrier in BARRIERS {
            let guards = [(); 3].map(|()| LayoutGuard::with_barrier((), barrier));
            let holders = [const { AtomicUsize::new(0) }; 3];
            let (over, done) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 3]);
            let meeting = Meeting::new(4);
            thread::scope(|s| {
                let _stop = OnDrop::new(|| over.store(true, Ordering::SeqCst));
                for n in 0..3 {
                    let (guards, holders, over, done, meeting) =
                        (&guards, &holders, &over, &done[n], &meeting);
                    s.spawn(move || {
                        let mut dice = Dice::new(n as u64);
                        meeting.wait();
                        while !over.load(Ordering::SeqCst) {
                            let order = match n {
                                0 => [0, 1, 2],
                                1 => [2, 1, 0],
                                _ => [1, 0, 2],
                            };
                            let named = order.map(|at| (at, dice.range(8, 6)));
                            let parts = named.map(|(at, range)| (&guards[at] as _, range));
                            let mut breaking = break_layouts_of(&parts);
                            let proofs = match dice.roll(4) {
                                0 => breaking.wait(),
                                1 => block_on(breaking),
                                2 => loop {
                                    let moment = Duration::from_micros(dice.roll(100));
                                    if let Some(proofs) = breaking.wait_timeout(moment) {
                                        break proofs;
                                    }
                                },
                                _ => {
                                    let moment = Duration::from_micros(dice.roll(20));
                                    drop(breaking.wait_timeout(moment));
                                    continue;
                                }
                            };
                            let proofs = proofs.unwrap();
                            for (at, range) in named {
                                let proof = proofs.of(&guards[at]).unwrap();
                                assert!(proof.covers(range));
                                // Relaxed: what the holder did is seen because of the guard (I7).
                                if range.contains(4) {
                                    assert_eq!(holders[at].load(Ordering::Relaxed), 0);
                                }
                            }
                            done.fetch_add(1, Ordering::SeqCst);
                        }
                    });
                }
                meeting.wait();
                let (start, mut dice) = (Instant::now(), Dice::new(9));
                let all = || done.iter().all(|n| n.load(Ordering::SeqCst) > 50);
                let mut pins = 0;
                while start.elapsed() < Duration::from_millis(300) || !all() || pins == 0 {
                    let at = dice.roll(3) as usize;
                    let pin = match dice.roll(2) {
                        0 => guards[at].try_pin(3..6).ok(),
                        _ => guards[at].pin(3..6).wait().ok(),
                    };
                    let Some(pin) = pin else { continue };
                    holders[at].fetch_add(1, Ordering::Relaxed);
                    (0..dice.roll(300)).for_each(|_| std::hint::spin_loop());
                    holders[at].fetch_sub(1, Ordering::Relaxed);
                    pins += 1;
                    drop(pin);
                }
            });
            guards.iter().for_each(assert_clean);
        }
    });
}

#[test]
fn several_guards_time_out_and_name_their_holders() {
    let [first, second] = [(); 2].map(|()| bare());
    let pin = second.try_pin(0..1).unwrap();
    let held = first.lease(3..9).labelled("arena 3").now().unwrap();
    let parts: [Part<'_>; 2] = [(&first, pages(0, 4)), (&second, pages(0, 4))];
    let mut breaking = break_layouts_of(&parts);
    assert!(held.is_recalled() && pin.is_breaking());
    for _ in 0..3 {
        assert!(breaking.wait_timeout(Duration::from_millis(1)).is_none());
        assert!(breaking.wait_deadline(Instant::now()).is_none());
        let who = breaking.holders();
        let kinds = [HolderKind::Lease, HolderKind::Pin];
        assert!(who.len() == 2 && kinds.iter().all(|k| who.iter().any(|h| h.kind() == *k)));
        assert!(who.iter().any(|h| h.label() == Some("arena 3")));
        assert!(!is_open(&first, pages(3, 4)) && !is_open(&second, pages(3, 4)));
    }
    let text = format!("{breaking:?}");
    assert!(text.contains("0..4"), "{text}");
    drop((pin, held));
    let proofs = breaking.wait_timeout(Duration::from_secs(60)).unwrap();
    drop((proofs, breaking));
    assert_clean(&first);
    assert_clean(&second);
}
