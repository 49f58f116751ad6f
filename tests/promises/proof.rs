//! I2 proof, I7 ordered, I11 no skipping.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use layout_lease::maps::ExtentMap;
use layout_lease::{BlockMap, Drained, LayoutGuard, OpError, PagePin, PageRange, TryBreakError};

use crate::support::{
    Ask, BARRIERS, Dice, Engine, NOW, OnDrop, assert_clean, bare, is_open, pages, until, watched,
};

// ---- I2: proof ------------------------------------------------------------------------------------

#[test]
fn i02_a_proof_covers_its_pages_and_no_others() {
    let guard = bare();
    let proof = guard.try_break_layouts(4..8).unwrap();
    for start in 0..12 {
        for end in start + 1..=12 {
            let inside = start >= 4 && end <= 8;
            assert_eq!(proof.covers(pages(start, end)), inside, "{start}..{end}");
        }
    }
    assert!(!proof.covers(PageRange::ALL));
    let (low, high) = proof.split_at(6).unwrap();
    assert!(low.covers(pages(4, 6)) && !low.covers(pages(5, 7)) && !low.covers(pages(6, 7)));
    assert!(high.covers(pages(6, 8)) && !high.covers(pages(5, 7)) && !high.covers(pages(5, 6)));
}

#[test]
fn i02_a_proof_is_of_its_own_map_and_what_takes_one_asks() {
    let [ours, theirs] = [(), ()].map(|()| LayoutGuard::new(ExtentMap::new(8)));
    for guard in [&ours, &theirs] {
        guard.map().allocate(0..8).unwrap();
    }
    let proof = ours.try_break_layouts(0..4).unwrap();
    assert!(proof.is_of(ours.map()) && !proof.is_of(theirs.map()));
    assert!(std::ptr::eq(proof.guard(), &ours));
    assert!(matches!(
        theirs.map().punch_hole(pages(0, 4), &proof),
        Err(OpError::WrongMapping)
    ));
    assert!(matches!(
        ours.map().punch_hole(pages(3, 5), &proof),
        Err(OpError::NotCovered)
    ));
    assert!(matches!(
        proof.punch_hole(pages(3, 5)),
        Err(OpError::NotCovered)
    ));
    assert!(matches!(proof.truncate(0), Err(OpError::NotCovered)));
    for guard in [&ours, &theirs] {
        assert_eq!(guard.map().free_blocks(), 0);
    }
    assert_eq!(proof.punch_hole(pages(0, 4)), Ok(4));
}

/// Each operation under a proof asks for just the pages that it drains, before the engine is called.
#[test]
fn i02_an_operation_under_a_proof_wants_all_that_it_drains() {
    let guard = Engine::idle();
    let tries = |proof: &Drained<'_, Engine>| {
        [
            proof.punch_hole(pages(4, 8)),
            proof.zero_range(pages(4, 8)),
            proof.truncate(4),
            proof.collapse_range(pages(4, 8)),
            proof.insert_range(pages(4, 8)),
        ]
        .map(|answer| match answer {
            Ok(1) => true,
            Err(OpError::NotCovered) => false,
            other => panic!("{other:?}"),
        })
    };
    let with = |range: PageRange| tries(&guard.try_break_layouts(range).unwrap());
    assert_eq!(with(pages(4, 7)), [false; 5]);
    assert_eq!(with(pages(5, 8)), [false; 5]);
    assert_eq!(with(pages(5, u64::MAX)), [false; 5]);
    assert_eq!(guard.map().calls(), 0);
    assert_eq!(with(pages(4, 8)), [true, true, false, false, false]);
    assert_eq!(
        with(pages(4, u64::MAX - 1)),
        [true, true, false, false, false]
    );
    assert_eq!(with(pages(4, u64::MAX)), [true; 5]);
}

#[test]
fn i02_nothing_gives_a_proof_while_a_pin_overlaps() {
    for barrier in BARRIERS {
        let guard = LayoutGuard::with_barrier((), barrier);
        for held in [pages(0, 1), pages(3, 5), pages(7, 8), PageRange::ALL] {
            let pin = guard.try_pin(held).unwrap();
            for range in [pages(0, 8), held, pages(held.start(), held.start() + 1)] {
                match guard.try_break_layouts(range) {
                    Err(TryBreakError::Busy(who)) => assert_eq!(who[0].range(), held),
                    other => panic!("{other:?}"),
                }
                let mut breaking = guard.break_layouts(range);
                breaking.assert_waits();
                assert!(!breaking.is_drained());
                assert!(breaking.wait_timeout(Duration::from_millis(1)).is_none());
            }
            drop(pin);
            assert_clean(&guard);
        }
    }
    let guard = Engine::idle();
    let pin = guard.try_pin(u64::MAX - 1..).unwrap();
    let mut ops = [
        guard.truncate(7),
        guard.collapse_range(5..6),
        guard.insert_range(5..6),
        guard.punch_hole(6..),
        guard.zero_range(6..),
    ];
    ops.iter_mut().for_each(Ask::assert_waits);
    assert_eq!(guard.map().calls(), 0);
    drop(pin);
    // In their turn, each after the one before it.
    for op in &mut ops {
        assert_eq!(op.now(), Ok(1));
    }
    assert_eq!(guard.map().calls(), 5);
    assert_clean(&guard);
}

/// Users of each page, and whether somebody has a proof of it.
struct Field {
    users: Vec<AtomicU64>,
    owned: Vec<AtomicBool>,
    pins: AtomicUsize,
    refused: AtomicUsize,
    proofs: AtomicUsize,
}

impl Field {
    fn new(pages: u64) -> Self {
        Field {
            users: (0..pages).map(|_| AtomicU64::new(0)).collect(),
            owned: (0..pages).map(|_| AtomicBool::new(false)).collect(),
            pins: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            proofs: AtomicUsize::new(0),
        }
    }

    fn len(&self) -> u64 {
        self.users.len() as u64
    }

    /// Under a pin: nobody owns its pages; from here to [`leave`](Self::leave) nobody may.
    fn enter(&self, pin: &PagePin) {
        self.pins.fetch_add(1, Ordering::Relaxed);
        for page in pin.range().start()..pin.range().end() {
            self.users[page as usize].fetch_add(1, Ordering::Relaxed);
            let owned = self.owned[page as usize].load(Ordering::Relaxed);
            assert!(!owned, "page {page} is pinned under a proof");
        }
    }

    fn leave(&self, pin: PagePin) {
        for page in pin.range().start()..pin.range().end() {
            self.users[page as usize].fetch_sub(1, Ordering::Relaxed);
        }
        drop(pin);
    }

    /// Under a proof: nobody uses its pages, and nobody else owns them, for as long as it lives.
    fn own<M>(&self, proof: Drained<'_, M>, dwell: u64) {
        self.proofs.fetch_add(1, Ordering::Relaxed);
        let all = || {
            let ranges = proof.ranges().iter();
            ranges.flat_map(|r| r.start() as usize..r.end() as usize)
        };
        for page in all() {
            let owned = self.owned[page].swap(true, Ordering::Relaxed);
            assert!(!owned, "two proofs of page {page}");
        }
        for _ in 0..=dwell {
            for page in all() {
                let users = self.users[page].load(Ordering::Relaxed);
                assert_eq!(users, 0, "page {page} is used under a proof");
            }
        }
        for page in all() {
            self.owned[page].store(false, Ordering::Relaxed);
        }
        drop(proof);
    }

    /// Has each of them been seen? A race goes on until then: a thread may well come late to it.
    fn was_lively(&self) -> bool {
        let counts = [&self.pins, &self.refused, &self.proofs];
        counts.iter().all(|c| c.load(Ordering::Relaxed) > 0)
    }
}

/// The oracle at work: threads pin, others break, ranges large and small, with every kind of barrier.
#[test]
fn i02_race_of_pins_and_breaks() {
    watched(|| {
        for barrier in BARRIERS {
            let guard = LayoutGuard::with_barrier((), barrier);
            let field = Field::new(16);
            let over = AtomicBool::new(false);
            thread::scope(|s| {
                let (guard, field, over) = (&guard, &field, &over);
                let _stop = OnDrop::new(|| over.store(true, Ordering::Relaxed));
                for seed in 0..2 {
                    s.spawn(move || {
                        let mut dice = Dice::new(seed);
                        while !over.load(Ordering::Relaxed) {
                            let range = dice.range(field.len(), 4);
                            let pin = match guard.try_pin(range) {
                                Ok(pin) => pin,
                                Err(_) => {
                                    field.refused.fetch_add(1, Ordering::Relaxed);
                                    guard.pin(range).wait().unwrap()
                                }
                            };
                            field.enter(&pin);
                            field.leave(pin);
                        }
                    });
                }
                let breakers: Vec<_> = (10..12)
                    .map(|seed| {
                        s.spawn(move || {
                            let mut dice = Dice::new(seed);
                            let mut breaks = 0;
                            while breaks < 1_500 || !field.was_lively() {
                                breaks += 1;
                                let range = dice.range(field.len(), 8);
                                match guard.try_break_layouts(range) {
                                    Ok(proof) => field.own(proof, 2),
                                    Err(_) => {
                                        field.own(guard.break_layouts(range).wait().unwrap(), 2);
                                    }
                                }
                            }
                        })
                    })
                    .collect();
                breakers.into_iter().for_each(|b| b.join().unwrap());
            });
            assert_clean(&guard);
        }
    });
}

// ---- split ----------------------------------------------------------------------------------------

#[test]
fn i02_halves_of_a_proof_reopen_by_themselves_in_either_order() {
    for low_first in [true, false] {
        let guard = bare();
        let proof = guard.try_break_layouts(2..10).unwrap();
        for nothing in [0, 2, 10, 11, u64::MAX] {
            let proof = guard.try_break_layouts(20..30).unwrap();
            let nowhere = [nothing, 20, 30];
            let proof = nowhere.into_iter().fold(proof, |proof, page| {
                proof.split_at(page).expect_err("one half would be empty")
            });
            assert!(proof.covers(pages(20, 30)));
        }
        let (low, high) = proof.split_at(6).unwrap();
        assert_eq!(
            (low.ranges(), high.ranges()),
            (&[pages(2, 6)][..], &[pages(6, 10)][..])
        );
        // One who waits for each half, one for both.
        let mut waiters = [guard.pin(2..3), guard.pin(9..12), guard.pin(5..7)];
        waiters.iter_mut().for_each(Ask::assert_waits);
        let mut behind = guard.break_layouts(5..7);
        let order = if low_first { [low, high] } else { [high, low] };
        let (first, last) = if low_first { (0, 1) } else { (1, 0) };
        for (n, half) in order.into_iter().enumerate() {
            behind.assert_waits();
            drop(half);
            if n == 0 {
                drop(waiters[first].now().unwrap());
                waiters[last].assert_waits();
                waiters[2].assert_waits();
                let open = if low_first { pages(0, 5) } else { pages(7, 12) };
                assert!(is_open(&guard, open));
            }
        }
        drop(waiters[last].now().unwrap());
        let pin = waiters[2].now().unwrap();
        behind.assert_waits();
        drop(pin);
        drop(behind.now().unwrap());
        drop((waiters, behind));
        assert_clean(&guard);
    }
}

#[test]
fn i02_a_forgotten_half_keeps_its_own_pages_closed() {
    let guard = bare();
    let (low, high) = guard.try_break_layouts(0..8).unwrap().split_at(4).unwrap();
    mem::forget(high);
    drop(low);
    assert!(is_open(&guard, pages(0, 4)) && !is_open(&guard, pages(4, 5)));
    assert_eq!(guard.stats().queued, 1);
}

// ---- I7: ordered ----------------------------------------------------------------------------------

/// Eight words that are only ever written all at once, with no order of their own.
struct Words([AtomicU64; 8]);

impl Words {
    /// Reads all, which must be equal, and counts one up.
    fn count_up(&self) {
        let first = self.0[0].load(Ordering::Relaxed);
        for word in &self.0 {
            assert_eq!(word.load(Ordering::Relaxed), first, "torn");
        }
        for word in self.0.iter().rev() {
            word.store(first + 1, Ordering::Relaxed);
        }
    }
}

/// A holder and a breaker take turns. What each did is what the other finds: holder to breaker through
/// release and proof, breaker to holder through reopening and grant.
#[test]
fn i07_what_one_did_the_next_finds() {
    const TURNS: u64 = 3_000;
    watched(|| {
        for barrier in BARRIERS {
            let guard = LayoutGuard::with_barrier((), barrier);
            let words = Words(std::array::from_fn(|_| AtomicU64::new(0)));
            thread::scope(|s| {
                s.spawn(|| {
                    for turn in 0..TURNS {
                        let pin = match guard.try_pin(3..5) {
                            Ok(pin) if turn % 2 == 0 => pin,
                            other => {
                                drop(other);
                                guard.pin(3..5).wait().unwrap()
                            }
                        };
                        words.count_up();
                        drop(pin);
                    }
                });
                for _ in 0..TURNS {
                    let proof = guard.break_layouts(4..6).wait().unwrap();
                    words.count_up();
                    drop(proof);
                }
            });
            words.count_up();
            assert_eq!(words.0[0].load(Ordering::Relaxed), 2 * TURNS + 1);
        }
    });
}

/// The pin goes to a third thread, which releases it: still in order.
#[test]
fn i07_a_release_on_another_thread_is_ordered_too() {
    const TURNS: u64 = 1_500;
    watched(|| {
        let guard = bare();
        let words = Words(std::array::from_fn(|_| AtomicU64::new(0)));
        let (hand_over, take) = mpsc::channel::<PagePin>();
        thread::scope(|s| {
            let (guard, words) = (&guard, &words);
            s.spawn(move || {
                for pin in take {
                    words.count_up();
                    drop(pin);
                }
            });
            s.spawn(move || {
                for _ in 0..TURNS {
                    let pin = guard.pin(0..1).wait().unwrap();
                    // The next pin may be granted while this one is out; then the device would have two.
                    hand_over.send(pin).unwrap();
                    until(|| guard.holders(0..1).is_empty());
                }
            });
            for _ in 0..TURNS {
                let proof = guard.break_layouts(0..1).wait().unwrap();
                words.count_up();
                drop(proof);
            }
        });
        assert_eq!(words.0[0].load(Ordering::Relaxed), 2 * TURNS);
    });
}

// ---- I11: no skipping -----------------------------------------------------------------------------

/// One slot is emptied and filled again and again, now with pages that are being broken, now with
/// others, for two mappings in turn, released here and elsewhere. No break may be passed over, and none
/// may wait for a pin that is not there.
#[test]
fn i11_churn_in_the_same_slots() {
    watched(|| {
        for barrier in BARRIERS {
            let guards = [(); 2].map(|()| LayoutGuard::with_barrier((), barrier));
            let field = Field::new(8);
            let over = AtomicBool::new(false);
            thread::scope(|s| {
                let (guards, field, over) = (&guards, &field, &over);
                let _stop = OnDrop::new(|| over.store(true, Ordering::Relaxed));
                let (hand_over, take) = mpsc::sync_channel(4);
                // Releases what others took, so that slots come free behind their owners' backs.
                s.spawn(move || {
                    for pin in take {
                        field.leave(pin);
                    }
                });
                for seed in 0..2 {
                    let hand_over = hand_over.clone();
                    s.spawn(move || {
                        let mut dice = Dice::new(seed);
                        let (mut odd, mut kept) = (false, Vec::new());
                        while !over.load(Ordering::Relaxed) {
                            odd = !odd;
                            // The other mapping's pages, and those that nobody breaks, mean nothing.
                            drop(guards[1].try_pin(0..8));
                            let range = if odd { pages(0, 4) } else { pages(4, 8) };
                            match guards[0].try_pin(range) {
                                Ok(pin) => {
                                    field.enter(&pin);
                                    match dice.roll(8) {
                                        0 => hand_over.send(pin).unwrap(),
                                        1 if kept.len() < 3 => kept.push(pin),
                                        _ => field.leave(pin),
                                    }
                                }
                                Err(_) => {
                                    field.refused.fetch_add(1, Ordering::Relaxed);
                                    kept.drain(..).for_each(|pin| field.leave(pin));
                                }
                            }
                        }
                        kept.drain(..).for_each(|pin| field.leave(pin));
                    });
                }
                drop(hand_over);
                let (mut dice, mut breaks) = (Dice::new(7), 0);
                while breaks < 1_000 || !field.was_lively() {
                    breaks += 1;
                    let (start, others) = (dice.roll(2) * 4, dice.roll(3));
                    let range = start + others..start + others + 1;
                    let other = guards[1].break_layouts(range.clone());
                    field.own(guards[0].break_layouts(range).wait().unwrap(), 1);
                    drop(other.wait().unwrap());
                }
            });
            guards.iter().for_each(assert_clean);
        }
    });
}

/// A slot goes from a pin below the pages in question to one above them and back. A scan that believed in
/// the beginning of the one and the end of the other would make the break wait for a pin that never was;
/// and since nobody ever pins these pages, each break must be drained when the call returns.
#[test]
fn i11_no_break_waits_for_a_mixture_of_two_pins() {
    watched(|| {
        for barrier in BARRIERS {
            let guard = LayoutGuard::with_barrier((), barrier);
            let (over, pins) = (AtomicBool::new(false), AtomicUsize::new(0));
            thread::scope(|s| {
                let _stop = OnDrop::new(|| over.store(true, Ordering::Relaxed));
                s.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        drop(guard.try_pin(0..1).unwrap());
                        drop(guard.try_pin(9..10).unwrap());
                        pins.fetch_add(2, Ordering::Relaxed);
                    }
                });
                let mut breaks = 0;
                while breaks < 15_000 || pins.load(Ordering::Relaxed) < 15_000 {
                    breaks += 1;
                    let breaking = guard.break_layouts(4..6);
                    assert!(breaking.is_drained(), "waits for nobody");
                }
            });
            assert_clean(&guard);
        }
    });
}

/// The table of slots grows, and its marks rise and fall, while it is scanned.
#[test]
fn i11_bursts_and_growth_while_breaks_scan() {
    watched(|| {
        let guard = bare();
        let field = Field::new(4);
        let over = AtomicBool::new(false);
        thread::scope(|s| {
            let (guard, field, over) = (&guard, &field, &over);
            let _stop = OnDrop::new(|| over.store(true, Ordering::Relaxed));
            s.spawn(move || {
                let mut dice = Dice::new(3);
                while !over.load(Ordering::Relaxed) {
                    let mut burst = Vec::new();
                    for _ in 0..dice.roll(200) {
                        match guard.try_pin(dice.range(4, 2)) {
                            Ok(pin) => {
                                field.enter(&pin);
                                burst.push(pin);
                            }
                            Err(_) => {
                                field.refused.fetch_add(1, Ordering::Relaxed);
                                break;
                            }
                        }
                    }
                    // From the front, the back, or anywhere: the marks follow.
                    while !burst.is_empty() {
                        let at = dice.roll(burst.len() as u64) as usize;
                        field.leave(burst.swap_remove(at));
                    }
                }
            });
            let mut breaks = 0;
            while breaks < 3_000 || !field.was_lively() {
                breaks += 1;
                let page = breaks % 4;
                field.own(guard.break_layouts(page..page + 1).wait().unwrap(), 1);
            }
        });
        assert_clean(&guard);
    });
}

/// More pins than a block of slots holds, several times over: a scan finds each one of them, and each
/// one alone is enough to keep a break waiting.
#[test]
fn i11_every_one_of_many_pins_is_found() {
    let guard = bare();
    let mut pins: Vec<_> = (0..300)
        .map(|n| Some(guard.try_pin(n..n + 1).unwrap()))
        .collect();
    assert_eq!(guard.stats().pins, 300);
    for n in (0..300).step_by(7) {
        match guard.try_break_layouts(n..n + 1) {
            Err(TryBreakError::Busy(who)) => {
                assert_eq!(who.len(), 1);
                assert_eq!(who[0].range(), pages(n, n + 1));
            }
            other => panic!("page {n}: {other:?}"),
        }
    }
    let mut breaking = guard.break_layouts(..);
    // The last one to go is in the middle of the table.
    for n in (0..300).filter(|n| *n != 150).chain([150]) {
        assert!(breaking.wait_timeout(NOW).is_none(), "{n} is still held");
        pins[n] = None;
    }
    drop(breaking.now().unwrap());
    drop(breaking);
    assert_clean(&guard);
}

/// Pins of different threads, some of which have exited.
#[test]
fn i11_pins_of_all_threads_are_found() {
    let guard = bare();
    let mut pins: Vec<_> = thread::scope(|s| {
        let threads = [0, 1, 2, 3, 4, 5, 6, 7].map(|thread| {
            let pin = |page| guard.try_pin(page..page + 1).unwrap();
            s.spawn(move || (0..70).map(|n| pin(thread * 100 + n)).collect())
        });
        let pins = threads.map(|thread| -> Vec<_> { thread.join().unwrap() });
        pins.into_iter().flatten().collect()
    });
    let mut breaking = guard.break_layouts(..);
    assert_eq!(breaking.holders().len(), 8 * 70);
    let mut held: Vec<_> = breaking.holders().iter().map(|h| h.range()).collect();
    let mut taken: Vec<_> = pins.iter().map(|p| p.range()).collect();
    held.sort();
    taken.sort();
    assert_eq!(held, taken);
    // They go one of each thread in turn.
    pins.sort_by_key(|pin| pin.range().start() % 100);
    while let Some(pin) = pins.pop() {
        assert!(!breaking.is_drained());
        drop(pin);
    }
    drop(breaking.now().unwrap());
}
