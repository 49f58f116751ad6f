//! I10 empty is never "all", I12 others undisturbed.

use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;

use layout_lease::{
    BreakError, LayoutGuard, OpError, PageRange, PinError, RangeError, TryBreakError, TryPinError,
};

use crate::support::{
    Ask, BARRIERS, Dice, Engine, OnDrop, assert_clean, bare, is_open, pages, until, watched,
};

// ---- I10: empty is never "all" --------------------------------------------------------------------

type Bounds = (Bound<u64>, Bound<u64>);

/// Ranges that are none, and why.
fn bad() -> Vec<(Bounds, RangeError)> {
    use Bound::{Excluded, Included, Unbounded};
    const MAX: u64 = u64::MAX;
    let empty = |at| RangeError::Empty { at };
    let inverted = |start, end| RangeError::Inverted { start, end };
    vec![
        ((Included(0), Excluded(0)), empty(0)),
        ((Included(7), Excluded(7)), empty(7)),
        ((Included(MAX), Excluded(MAX)), empty(MAX)),
        ((Unbounded, Excluded(0)), empty(0)),
        ((Excluded(6), Excluded(7)), empty(7)),
        ((Included(8), Included(7)), empty(8)),
        ((Included(8), Excluded(7)), inverted(8, 7)),
        ((Included(MAX), Excluded(0)), inverted(MAX, 0)),
        ((Included(9), Included(7)), inverted(9, 8)),
        ((Excluded(7), Excluded(7)), inverted(8, 7)),
        ((Included(MAX), Unbounded), RangeError::Unaddressable),
        ((Included(MAX), Included(MAX)), RangeError::Unaddressable),
        ((Included(0), Included(MAX)), RangeError::Unaddressable),
        ((Unbounded, Included(MAX)), RangeError::Unaddressable),
        ((Excluded(MAX), Unbounded), RangeError::Unaddressable),
        ((Excluded(MAX), Excluded(3)), RangeError::Unaddressable),
        ((Excluded(MAX - 1), Unbounded), RangeError::Unaddressable),
    ]
}

#[test]
fn i10_a_range_that_is_none_is_a_typed_error_everywhere() {
    let guard = Engine::idle();
    for (range, why) in bad() {
        let context = format!("{range:?}");
        assert_eq!(PageRange::from_bounds(range), Err(why), "{context}");
        assert_eq!(guard.try_pin(range).unwrap_err(), TryPinError::Range(why));
        let error = guard.pin(range).wait().unwrap_err();
        assert_eq!(error, PinError::Range(why), "{context}");
        match guard.try_break_layouts(range) {
            Err(TryBreakError::Range(error)) => assert_eq!(error, why),
            other => panic!("{context}: {other:?}"),
        }
        let breaking = guard.break_layouts(range);
        assert!(!breaking.is_drained() && breaking.ranges().is_empty());
        assert!(breaking.holders().is_empty());
        let error = breaking.wait().unwrap_err();
        assert_eq!(error, BreakError::Range(why), "{context}");
        for op in [
            guard.punch_hole(range),
            guard.zero_range(range),
            guard.collapse_range(range),
            guard.insert_range(range),
        ] {
            let error = op.wait().unwrap_err();
            assert_eq!(error, OpError::Break(BreakError::Range(why)), "{context}");
            assert_eq!(error.to_string(), why.to_string(), "what is wrong is said");
        }
        assert!(guard.holders(range).is_empty());
        // Nothing was closed, nothing is queued, and no engine was called.
        assert_eq!((guard.stats().breaks, guard.stats().queued), (0, 0));
        assert!(is_open(&guard, PageRange::ALL));
    }
    assert_eq!(guard.map().calls(), 0);
}

#[test]
fn i10_a_bad_operation_closes_nothing_while_it_is_still_there() {
    let guard = Engine::idle();
    let pin = guard.try_pin(..).unwrap();
    let ops = [
        guard.truncate(u64::MAX),
        guard.punch_hole(5..5),
        guard.collapse_range(u64::MAX..),
        guard.insert_range(6..5),
    ];
    let breaks = [guard.break_layouts(3..3), guard.break_layouts(4..3)];
    assert!(is_open(&guard, PageRange::ALL));
    assert!(!pin.is_breaking());
    assert_eq!(guard.stats().queued, 0);
    for mut op in ops {
        assert!(matches!(
            op.now(),
            Err(OpError::Break(BreakError::Range(_)))
        ));
    }
    for mut breaking in breaks {
        assert!(matches!(breaking.now(), Err(BreakError::Range(_))));
    }
    drop(pin);
    assert_eq!(guard.map().calls(), 0);
    // Under a proof in hand, too.
    let proof = guard.try_break_layouts(..).unwrap();
    assert!(matches!(
        proof.truncate(u64::MAX),
        Err(OpError::Break(BreakError::Range(RangeError::Unaddressable)))
    ));
    assert_eq!(guard.map().calls(), 0);
}

#[test]
fn i10_the_ranges_at_the_edge_are_ranges() {
    const LAST: u64 = u64::MAX - 1;
    let guard = Engine::idle();
    let ranges: [&dyn Fn() -> PageRange; 5] = [
        &|| PageRange::from_bounds(..).unwrap(),
        &|| PageRange::from_bounds(LAST..).unwrap(),
        &|| PageRange::from_bounds(LAST..=LAST).unwrap(),
        &|| PageRange::from_bounds(..=0).unwrap(),
        &|| PageRange::from_bounds((Bound::Excluded(LAST - 1), Bound::Unbounded)).unwrap(),
    ];
    for range in ranges.map(|range| range()) {
        let pin = guard.try_pin(range).unwrap();
        assert_eq!(pin.range(), range);
        guard.break_layouts(range).assert_waits();
        // The pages next to it are somebody else's.
        if range.start() > 0 {
            drop(guard.try_break_layouts(..range.start()).unwrap());
        }
        if range.end() < u64::MAX {
            drop(guard.try_break_layouts(range.end()..).unwrap());
        }
        drop(pin);
        drop(guard.try_break_layouts(range).unwrap());
        assert_eq!(range.start_bound(), Bound::Included(&range.start()));
    }
    assert_eq!(guard.truncate(LAST).now(), Ok(1));
    assert_eq!(guard.truncate(0).now(), Ok(1));
    assert_eq!(guard.collapse_range(LAST..).now(), Ok(1));
    assert_clean(&guard);
}

// ---- I12: others undisturbed ----------------------------------------------------------------------

/// What the gate should say, in the plainest way.
fn expect_open(closed: &[PageRange], range: PageRange) -> bool {
    !closed.iter().any(|c| c.overlaps(&range))
}

/// Exact for every page and every small range, also across a closed one and with the ends in the gaps.
fn assert_exact<M>(guard: &LayoutGuard<M>, closed: &[PageRange], all: u64) {
    for start in 0..all {
        for len in [1, 2, 3, 4, 9] {
            let range = pages(start, start + len);
            let open = expect_open(closed, range);
            assert_eq!(is_open(guard, range), open, "{range} with {closed:?}");
        }
    }
    assert_eq!(is_open(guard, PageRange::ALL), closed.is_empty());
    assert_eq!(
        is_open(guard, pages(all, u64::MAX)),
        expect_open(closed, pages(all, u64::MAX))
    );
}

/// 1, 2, 3, 20, 200 closed ranges with gaps between them: in place, spilled, and back again as they
/// reopen in any order.
#[test]
fn i12_exact_for_every_page_among_many_closed_ranges() {
    for count in [1_usize, 2, 3, 20, 200] {
        let guard = bare();
        let mut dice = Dice::new(count as u64);
        let all = count as u64 * 4;
        let mut ranges: Vec<_> = (0..count as u64)
            .map(|n| pages(n * 4 + 1, n * 4 + 3))
            .collect();
        // Closed in any order, too.
        let mut closed = Vec::new();
        let mut breaks = Vec::new();
        while !ranges.is_empty() {
            let range = ranges.swap_remove(dice.roll(ranges.len() as u64) as usize);
            breaks.push(guard.break_layouts(range));
            closed.push(range);
            if breaks.len() <= 4 || ranges.is_empty() {
                assert_exact(&guard, &closed, all);
            }
        }
        assert!(breaks.iter().all(|b| b.is_drained()), "they are disjoint");
        while !breaks.is_empty() {
            let at = dice.roll(breaks.len() as u64) as usize;
            drop(breaks.swap_remove(at));
            closed.swap_remove(at);
            if breaks.len() <= 4 || breaks.len() % 64 == 0 {
                assert_exact(&guard, &closed, all);
            }
        }
        assert_clean(&guard);
    }
}

/// Overlapping and touching ranges, of breaks that are active or queued: the union is closed.
#[test]
fn i12_exact_for_ranges_that_overlap_or_touch() {
    let guard = bare();
    let mut dice = Dice::new(1);
    let mut open = Vec::new();
    for round in 0..400 {
        if open.len() > 9 || (round % 3 == 0 && !open.is_empty()) {
            let at = dice.roll(open.len() as u64) as usize;
            let (_, breaking) = open.swap_remove(at);
            drop(breaking);
        } else {
            let range = dice.range(40, 6);
            open.push((range, guard.break_layouts(range)));
        }
        let closed: Vec<_> = open.iter().map(|(range, _)| *range).collect();
        assert_exact(&guard, &closed, 44);
    }
    drop(open);
    assert_clean(&guard);
}

/// The long tables go from gate to gate: each must go on telling its own mapping's ranges.
#[test]
fn i12_exact_while_long_tables_change_hands() {
    let guards = [(); 3].map(|()| bare());
    let ranges = |shift: u64, count: u64| -> Vec<_> {
        (0..count)
            .map(|n| pages(n * 5 + shift, n * 5 + shift + 2))
            .collect()
    };
    for round in 0..6 {
        let mut closed = Vec::new();
        for (n, guard) in guards.iter().enumerate() {
            let count = [3, 17, 40][(n + round) % 3];
            let ranges = ranges(n as u64, count);
            let breaks: Vec<_> = ranges.iter().map(|r| guard.break_layouts(r)).collect();
            closed.push((ranges, breaks));
        }
        for n in [1, 0, 2] {
            for (guard, (ranges, _)) in guards.iter().zip(&closed) {
                assert_exact(guard, ranges, 60);
            }
            closed[n] = (Vec::new(), Vec::new());
        }
    }
    guards.iter().for_each(assert_clean);
}

/// Some pages stay closed and some stay open for the whole time, while ranges between and around them
/// come and go: no pinner may ever get a wrong answer, whatever it is in the middle of reading.
#[test]
fn i12_exact_while_breaks_come_and_go() {
    watched(|| {
        for barrier in BARRIERS {
            let guard = LayoutGuard::with_barrier((), barrier);
            let (over, checks) = (AtomicBool::new(false), AtomicUsize::new(0));
            // Page 8n+0 is closed for good, 8n+4 open for good; the rest flickers.
            let closed: Vec<_> = (0..5)
                .map(|n| guard.try_break_layouts(8 * n..8 * n + 1).unwrap())
                .collect();
            thread::scope(|s| {
                let _stop = OnDrop::new(|| over.store(true, Ordering::Relaxed));
                s.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        for n in 0..5 {
                            assert!(!is_open(&guard, pages(8 * n, 8 * n + 1)), "{n} is closed");
                            assert!(is_open(&guard, pages(8 * n + 4, 8 * n + 5)), "{n} is open");
                        }
                        checks.fetch_add(1, Ordering::Relaxed);
                    }
                });
                let mut dice = Dice::new(5);
                let mut flicker = Vec::new();
                let mut rounds = 0;
                while rounds < 1_500 || checks.load(Ordering::Relaxed) < 10 {
                    rounds += 1;
                    let page = 8 * dice.roll(5) + 2 + 4 * dice.roll(2);
                    flicker.push(guard.break_layouts(page..page + 1));
                    // From one range to many and back, over the length that fits in place.
                    if flicker.len() as u64 > dice.roll(12) {
                        drop(flicker.swap_remove(0));
                    }
                    if dice.roll(40) == 0 {
                        flicker.clear();
                    }
                }
            });
            drop(closed);
            assert_clean(&guard);
        }
    });
}

/// Pins elsewhere, between two closed ranges too, are granted while one break is in the middle of its
/// call into the engine, another one waits for a holder, and a third is in the queue.
#[test]
fn i12_pins_elsewhere_are_granted_while_breaks_wait_and_work() {
    watched(|| {
        let (inside, entered) = mpsc::channel();
        let (leave, left) = mpsc::channel::<()>();
        let left = Mutex::new(left);
        let guard = Engine::guard(move |_, _| {
            inside.send(()).unwrap();
            left.lock().unwrap().recv().unwrap();
            Ok(1)
        });
        let holder = guard.try_pin(20..22).unwrap();
        thread::scope(|s| {
            let working = s.spawn(|| guard.punch_hole(0..4).wait());
            entered.recv().unwrap();
            let waiting = s.spawn(|| guard.break_layouts(20..24).wait().map(drop));
            until(|| guard.stats().queued == 2);
            let queued = s.spawn(|| guard.break_layouts(2..6).wait().map(drop));
            until(|| guard.stats().queued == 3);
            let exact = || assert_exact(&guard, &[pages(0, 6), pages(20, 24)], 30);
            s.spawn(exact).join().unwrap();
            // Held through, waited for, and given back elsewhere.
            let pins = [
                guard.try_pin(6..20).unwrap(),
                guard.pin(24..).wait().unwrap(),
            ];
            assert!(!pins[0].is_breaking() && !pins[1].is_breaking());
            s.spawn(move || drop(pins)).join().unwrap();
            leave.send(()).unwrap();
            assert_eq!(working.join().unwrap(), Ok(1));
            queued.join().unwrap().unwrap();
            drop(holder);
            waiting.join().unwrap().unwrap();
        });
        assert_clean(&guard);
    });
}

/// Another mapping is not disturbed at all, whatever is closed in this one.
#[test]
fn i12_other_mappings_do_not_notice() {
    watched(|| {
        let guard = bare();
        let pin = guard.try_pin(0..1).unwrap();
        let breaking = guard.break_layouts(..);
        let mut closing = guard.close();
        closing.assert_waits();
        let other = bare();
        let pins = other.try_pin(..).unwrap();
        assert!(!pins.is_breaking());
        drop(pins);
        drop(other.break_layouts(..).wait().unwrap());
        assert_clean(&other);
        drop((pin, breaking));
        closing.wait();
    });
}
