//! Retirement: who runs it, when, and what becomes of a failure.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use layout_lease::maps::ExtentMap;
use layout_lease::{BreakError, LayoutGuard, OpError, PageRange, RangeError, Retired, TryPinError};

use crate::support::{
    Ask, BARRIERS, Bell, Dice, Engine, EngineError, OnDrop, assert_clean, is_open, lease, pages,
    until, watched,
};

type Guard = Arc<LayoutGuard<Engine>>;

/// An engine that frees as many pages as its proof has, and writes down which.
fn freeing() -> (Guard, Arc<Mutex<Vec<PageRange>>>) {
    let freed = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&freed);
    let guard = Engine::guard(move |_, proof| {
        let pages = proof.ranges()[0];
        log.lock().unwrap().push(pages);
        Ok(pages.len())
    });
    (Arc::new(guard), freed)
}

fn closed<E>() -> OpError<E> {
    OpError::Break(BreakError::Closed)
}

// ---- when -----------------------------------------------------------------------------------------

#[test]
fn retire_closes_now_and_frees_when_somebody_runs_it() {
    let (guard, freed) = freeing();
    let pin = guard.try_pin(2..6).unwrap();
    let mut retired = guard.retire(4..8);
    assert_eq!(retired.range(), Some(pages(4, 8)));
    assert_eq!(guard.try_pin(7..8).unwrap_err(), TryPinError::Breaking);
    assert!(pin.is_breaking() && is_open(&guard, pages(0, 4)));
    // Nobody frees under a holder, whoever asks.
    retired.assert_waits();
    assert_eq!(guard.run_retired(), 0);
    guard.retired_ready().assert_waits();
    drop(pin);
    // Nor does the drop of the last one: it is ready, and closed.
    assert_eq!((guard.map().calls(), guard.stats().retired_pages), (0, 4));
    assert!(!is_open(&guard, pages(7, 8)));
    guard.retired_ready().now();
    assert_eq!(guard.run_retired(), 4);
    assert_eq!(*freed.lock().unwrap(), [pages(4, 8)]);
    assert_eq!((guard.run_retired(), guard.stats().retired_pages), (0, 0));
    assert_clean(&guard);
    assert_eq!((retired.now(), retired.range()), (Ok(4), None));
    // By whoever waits for it, in each way, where nobody else runs it.
    type Way = fn(Retired<Engine>) -> Result<u64, OpError<EngineError>>;
    let ways: [Way; 4] = [
        Retired::wait,
        |retired| block_on(retired),
        |mut retired| retired.wait_timeout(Duration::from_secs(60)).unwrap(),
        |mut retired| retired.now(),
    ];
    for way in ways {
        assert_eq!(way(guard.retire(0..3)), Ok(3));
        assert_clean(&guard);
    }
    assert_eq!(guard.map().calls(), 5);
}

#[test]
fn retire_waits_for_the_log() {
    let (guard, freed) = freeing();
    guard.durable(3);
    let mut retired: Vec<_> = (0..8).map(|n| guard.retire_after(n..n + 1, n)).collect();
    // What is on media already is no obstacle.
    assert_eq!(guard.run_retired(), 4);
    // The next, and no others; word of it wakes.
    let (bells, mut ready) = ([(); 2].map(|()| Bell::new()), guard.retired_ready());
    assert!(bells[0].poll(&mut ready).is_pending());
    assert!(bells[1].poll(&mut retired[5]).is_pending());
    guard.durable(4);
    assert_eq!((bells[0].rung(), bells[1].rung()), (1, 0));
    ready.now();
    assert_eq!(guard.run_retired(), 1);
    // Less than before says nothing new, and takes nothing back.
    guard.durable(0);
    guard.durable(4);
    assert_eq!((guard.run_retired(), bells[1].rung()), (0, 0));
    guard.durable(6);
    assert_eq!(bells[1].rung(), 1);
    guard.durable(1);
    assert_eq!(guard.run_retired(), 2);
    retired[7].assert_waits();
    assert!(!is_open(&guard, pages(7, 8)));
    guard.durable(u64::MAX);
    assert_eq!(retired.pop().unwrap().wait(), Ok(1));
    assert_eq!(freed.lock().unwrap().len(), 8);
    assert!(retired.iter_mut().all(|retired| retired.now() == Ok(1)));
    assert_eq!(guard.retire_after(0..2, u64::MAX).now(), Ok(2));
    // Durable, but held.
    let pin = guard.try_pin(0..1).unwrap();
    guard.retire_after(0..2, 5).assert_waits();
    assert_eq!(guard.run_retired(), 0);
    drop(pin);
    assert_eq!(guard.run_retired(), 2);
    assert_clean(&guard);
}

#[test]
fn retire_holds_nobody_up_but_those_who_overlap_it() {
    let (guard, freed) = freeing();
    let pin = guard.try_pin(0..2).unwrap();
    let stuck = guard.retire(1..4);
    let undurable = guard.retire_after(10..12, 1);
    let behind = guard.retire(3..6);
    // Neither head of line is in the way of these.
    drop((guard.retire(4..5), guard.retire(6..8), guard.retire(12..14)));
    assert_eq!(guard.run_retired(), 4);
    assert_eq!(*freed.lock().unwrap(), [pages(6, 8), pages(12, 14)]);
    drop(guard.break_layouts(8..10).now().unwrap());
    // Overlapping ones have their turn first come first served.
    let mut breaking = guard.break_layouts(5..6);
    let mut waiter = guard.pin(4..5);
    waiter.assert_waits();
    breaking.assert_waits();
    drop(pin);
    // Only the first is drained by that: what is behind it waits for it to be run.
    guard.retired_ready().now();
    assert_eq!(guard.run_retired(), 3 + 3 + 1);
    drop((breaking.now().unwrap(), waiter.now().unwrap()));
    assert_eq!(
        freed.lock().unwrap()[2..],
        [pages(1, 4), pages(3, 6), pages(4, 5)]
    );
    guard.durable(1);
    assert_eq!(guard.run_retired(), 2);
    drop((stuck, undurable, behind, breaking, waiter));
    assert_clean(&guard);
}

/// It has its turn like a break: behind earlier breaks, proofs and waiting pins and leases.
#[test]
fn i03_retire_waits_for_its_turn() {
    let (guard, _) = freeing();
    let proof = guard.try_break_layouts(0..4).unwrap();
    let (mut pinning, mut leasing) = (guard.pin(2..6), guard.lease(3..8));
    pinning.assert_waits();
    leasing.assert_waits();
    let mut retired = guard.retire(5..9);
    retired.assert_waits();
    drop(proof);
    let held = leasing.now().unwrap();
    assert!(held.is_recalled());
    drop(pinning.now().unwrap());
    retired.assert_waits();
    assert_eq!(guard.run_retired(), 0);
    drop(held);
    assert_eq!(retired.now(), Ok(4));
    drop((pinning, leasing));
    // Cancelled in the queue, an earlier one lets it on.
    let pin = guard.try_pin(0..1).unwrap();
    let breaking = guard.break_layouts(0..4);
    let (bell, mut retired) = (Bell::new(), guard.retire(2..3));
    assert!(bell.poll(&mut retired).is_pending());
    drop(breaking);
    assert_eq!((bell.rung(), retired.now()), (1, Ok(1)));
    drop(pin);
    assert_clean(&guard);
}

// ---- who ------------------------------------------------------------------------------------------

/// The engine's code runs where somebody asks for it, and nowhere else: not in the drop of a pin, a lease,
/// a waiter, a break or a proof, nor in `durable`, whichever of them was the last obstacle.
#[test]
fn retire_runs_no_engine_code_where_nobody_asked_for_it() {
    thread_local! {
        static ASKED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }
    let guard = Arc::new(Engine::guard(|_, _| {
        assert!(ASKED.get(), "the engine was called where nobody asked");
        Ok(1)
    }));
    /// Puts something in the way, and says how it goes.
    type Obstacle = fn(&Guard) -> Box<dyn FnOnce() + '_>;
    let obstacles: [Obstacle; 7] = [
        |guard| {
            let pin = guard.try_pin(0..1).unwrap();
            Box::new(|| drop(pin))
        },
        |guard| {
            let held = lease(guard, pages(0, 4));
            Box::new(|| drop(held))
        },
        |guard| {
            let mut held = lease(guard, pages(0, 4));
            Box::new(move || {
                held.shrink_to(3..).unwrap();
                mem::forget(held);
            })
        },
        |guard| {
            let proof = guard.try_break_layouts(0..1).unwrap();
            Box::new(|| drop(proof))
        },
        |guard| {
            let pin = guard.try_pin(0..9).unwrap();
            let breaking = guard.break_layouts(0..1);
            Box::new(|| {
                drop(pin);
                drop(breaking);
            })
        },
        |guard| {
            let proof = guard.try_break_layouts(0..1).unwrap();
            let mut waiter = guard.pin(0..1);
            waiter.assert_waits();
            Box::new(|| {
                drop(proof);
                drop(waiter);
            })
        },
        |guard| {
            let token = guard.try_pin(0..1).unwrap().into_token();
            Box::new(|| drop(token.redeem().unwrap()))
        },
    ];
    for (n, obstacle) in obstacles.into_iter().enumerate() {
        let obstacle = obstacle(&guard);
        let attached = guard.retire_after(0..2, n as u64);
        drop(guard.retire_after(1..3, n as u64));
        let calls = guard.map().calls();
        let elsewhere = n % 2 == 0;
        obstacle();
        guard.durable(n as u64);
        assert_eq!(guard.map().calls(), calls);
        guard.retired_ready().now();
        // Neither does dropping what nobody has fetched.
        drop(attached);
        drop((guard.retired_ready(), guard.stats(), guard.holders(..)));
        assert_eq!(guard.map().calls(), calls, "obstacle {n}");
        ASKED.set(true);
        let run = || guard.run_retired();
        let freed = match elsewhere {
            true => thread::scope(|s| {
                s.spawn(|| {
                    ASKED.set(true);
                    run()
                })
                .join()
                .unwrap()
            }),
            false => run(),
        };
        ASKED.set(false);
        assert_eq!(freed, 2, "obstacle {n}");
    }
}

#[test]
fn i06_retired_ready_wakes_all_who_wait_once_there_is_work() {
    watched(|| {
        let (guard, _) = freeing();
        let pin = guard.try_pin(0..1).unwrap();
        let bells = [(); 3].map(|()| Bell::new());
        let mut waits = [(); 3].map(|()| guard.retired_ready());
        for (bell, wait) in bells.iter().zip(&mut waits) {
            assert!(bell.poll(wait).is_pending());
        }
        let asked = AtomicUsize::new(0);
        thread::scope(|s| {
            let thread = s.spawn(|| {
                let mut ready = guard.retired_ready();
                ready.assert_waits();
                asked.fetch_add(1, Ordering::SeqCst);
                ready.wait();
            });
            until(|| asked.load(Ordering::SeqCst) == 1);
            let [_, gone, _] = &mut waits;
            mem::forget(mem::replace(gone, guard.retired_ready()));
            drop(guard.retire(0..4));
            drop(guard.retire_after(9..10, 1));
            assert_eq!(bells.each_ref().map(|bell| bell.rung()), [0; 3]);
            drop(pin);
            thread.join().unwrap();
        });
        // The forgotten one is woken, too, which harms nobody.
        assert_eq!(bells.each_ref().map(|bell| bell.rung()), [1; 3]);
        // Somebody else may have run it first: then there is nothing to be had, and the next is heard of.
        assert_eq!(guard.run_retired(), 4);
        let [first, _, last] = &mut waits;
        assert!(bells[0].poll(first).is_pending());
        assert!(bells[2].poll(last).is_pending());
        guard.durable(1);
        assert_eq!(bells.each_ref().map(|bell| bell.rung()), [2, 1, 2]);
        first.now();
        assert_eq!(guard.run_retired(), 1);
        last.assert_waits();
        drop(waits);
        assert_clean(&guard);
    });
}

/// One task that sleeps until there is work, many threads that make it and never wait.
#[test]
fn retire_with_a_reclaimer_thread() {
    const EACH: u64 = 400;
    watched(|| {
        for barrier in BARRIERS {
            let map = ExtentMap::new(64);
            map.allocate(0..64).unwrap();
            let guard = Arc::new(LayoutGuard::with_barrier(map, barrier));
            let (freed, over) = (AtomicU64::new(0), AtomicBool::new(false));
            let log = AtomicU64::new(0);
            thread::scope(|s| {
                let reclaimer = s.spawn(|| {
                    while !over.load(Ordering::SeqCst) {
                        // The timeout is only for the end of the test.
                        let mut ready = guard.retired_ready();
                        if ready.wait_timeout(Duration::from_millis(20)).is_some() {
                            freed.fetch_add(guard.run_retired(), Ordering::SeqCst);
                        }
                    }
                });
                let flusher = s.spawn(|| {
                    while !over.load(Ordering::SeqCst) {
                        guard.durable(log.load(Ordering::SeqCst));
                        thread::yield_now();
                    }
                });
                let writers: Vec<_> = (0..2)
                    .map(|n| {
                        let (guard, log) = (&guard, &log);
                        s.spawn(move || {
                            let mut dice = Dice::new(n);
                            let mut waits = Vec::new();
                            for _ in 0..EACH {
                                let page = n * 32 + dice.roll(32);
                                let pin = guard.pin(page..page + 1).wait().unwrap();
                                let block = guard.map().lookup(page);
                                let lsn = log.fetch_add(1, Ordering::SeqCst) + 1;
                                let retired = guard.retire_after(page..page + 1, lsn);
                                // Still ours.
                                assert_eq!(guard.map().lookup(page), block);
                                drop(pin);
                                match dice.roll(3) {
                                    0 => waits.push(retired),
                                    _ => drop(retired),
                                }
                            }
                            waits.into_iter().map(|r| r.wait().unwrap()).sum::<u64>()
                        })
                    })
                    .collect();
                let _over = OnDrop::new(|| over.store(true, Ordering::SeqCst));
                let attached: u64 = writers.into_iter().map(|w| w.join().unwrap()).sum();
                guard.durable(u64::MAX);
                until(|| guard.stats().retired_pages == 0);
                assert!(attached > 0 && freed.load(Ordering::SeqCst) > 0);
                drop((reclaimer, flusher));
            });
            let gone = (0..64)
                .filter(|page| guard.map().lookup(*page).is_none())
                .count();
            assert_eq!(guard.map().free_blocks(), gone as u64);
            assert!(gone > 40);
            assert_clean(&guard);
        }
    });
}

#[test]
fn retire_ten_thousand_and_run_them_all() {
    const MANY: u64 = 10_000;
    watched(|| {
        let guard = Arc::new(Engine::idle());
        (0..MANY).for_each(|n| drop(guard.retire(n * 2..n * 2 + 1)));
        assert_eq!(guard.stats().retired_pages, MANY);
        // Between them everything is open.
        assert!(is_open(&guard, pages(MANY + 1, MANY + 2)) && !is_open(&guard, pages(0, 2)));
        assert_eq!(guard.run_retired(), MANY);
        assert_eq!(guard.map().calls() as u64, MANY);
        assert_clean(&guard);
    });
}

/// With ten thousand retirements pending one more cost two milliseconds, and so did a break elsewhere: each
/// listed all of them anew.
#[test]
fn retire_costs_no_more_with_ten_thousand_pending() {
    const MANY: u64 = 10_000;
    let cost = |pending: u64| {
        let guard = Arc::new(Engine::idle());
        // In no order: 7,919 is prime.
        let pages = (0..pending).map(|n| 2 * (n * 7_919 % pending));
        pages.for_each(|page| drop(guard.retire_after(page..page + 1, 1)));
        let elsewhere = 2 * MANY..2 * MANY + 1;
        let one = || {
            assert_eq!(guard.retire(elsewhere.clone()).wait(), Ok(1));
            drop(guard.break_layouts(elsewhere.clone()).wait().unwrap());
            drop(guard.try_pin(elsewhere.clone()).unwrap());
        };
        let ten = |_| {
            let began = Instant::now();
            (0..10).for_each(|_| one());
            began.elapsed() / 10
        };
        let least = (0..50).map(ten).min().unwrap();
        assert_eq!(guard.stats().retired_pages, pending);
        guard.durable(1);
        assert_eq!(guard.run_retired(), pending);
        assert_clean(&guard);
        least
    };
    let (few, many) = (cost(10), cost(MANY));
    println!("a retirement, a break and a pin: {few:?} with 10 pending, {many:?} with {MANY}");
    assert!(
        many < few * 20,
        "{few:?} with 10 pending, {many:?} with {MANY}"
    );
}

// ---- what goes wrong ------------------------------------------------------------------------------

#[test]
fn retire_of_what_is_no_range_or_of_a_closed_guard() {
    let guard = Arc::new(Engine::idle());
    let range = RangeError::Empty { at: 4 };
    let mut retired = guard.retire(4..4);
    assert_eq!(retired.range(), None);
    assert_eq!(retired.now(), Err(range.into()));
    assert!(guard.retire_after(0..=u64::MAX, 3).now().is_err());
    assert_eq!(guard.stats().queued, 0);
    assert_clean(&guard);
    drop(guard.close());
    assert_eq!(guard.retire(0..4).now(), Err(closed()));
    assert_eq!(guard.retire(4..4).now(), Err(range.into()));
    assert_eq!((guard.run_retired(), guard.map().calls()), (0, 0));
}

/// An engine whose work on the pages 0.. fails, and on 10.. panics.
fn failing() -> Guard {
    Arc::new(Engine::guard(|_, proof| match proof.ranges()[0].start() {
        0..10 => Err(EngineError("no")),
        10..20 => panic!("on purpose"),
        _ => Ok(1),
    }))
}

#[test]
fn retire_tells_a_failure_to_who_waits_for_it() {
    watched(|| {
        let guard = failing();
        // Whoever runs it hears nothing.
        let bells = [(); 2].map(|()| Bell::new());
        drop((guard.retire(0..1), guard.retire(10..11)));
        assert!(catch_unwind(AssertUnwindSafe(|| guard.run_retired())).is_err());
        // Again, with somebody who waits.
        let pin = guard.try_pin(0..30).unwrap();
        let (mut failed, mut panicked) = (guard.retire(0..1), guard.retire(10..11));
        let ok = guard.retire(20..21);
        assert!(bells[0].poll(&mut failed).is_pending());
        assert!(bells[1].poll(&mut panicked).is_pending());
        drop(pin);
        assert_eq!(
            guard.run_retired_with(|_, _| panic!("told to the wrong one")),
            1
        );
        assert_clean(&guard);
        assert_eq!(bells.each_ref().map(|bell| bell.rung()), [1, 1]);
        assert_eq!(failed.now(), Err(OpError::Map(EngineError("no"))));
        let panic = catch_unwind(AssertUnwindSafe(|| panicked.now())).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
        assert_eq!(ok.wait(), Ok(1));
        // The same for who runs it himself, by waiting; the pages are open all the same.
        assert_eq!(
            guard.retire(0..1).wait(),
            Err(OpError::Map(EngineError("no")))
        );
        for poll in [false, true] {
            let mut retired = guard.retire(10..11);
            let panic = catch_unwind(AssertUnwindSafe(|| match poll {
                true => drop(Bell::new().poll(&mut retired)),
                false => drop(retired.now()),
            }));
            assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"on purpose"));
            assert_clean(&guard);
            assert_eq!(retired.range(), None);
        }
    });
}

#[test]
fn retire_tells_a_detached_failure_to_who_runs_it() {
    let guard = failing();
    drop((guard.retire(0..2), guard.retire(20..21), guard.retire(5..6)));
    let mut failures = Vec::new();
    let freed = guard.run_retired_with(|pages, error| failures.push((pages, error)));
    let error = || OpError::Map(EngineError("no"));
    assert_eq!(
        (freed, failures),
        (1, vec![(pages(0, 2), error()), (pages(5, 6), error())])
    );
    assert_clean(&guard);
    assert_eq!(guard.stats().retired_failed, 2);
    // `run_retired` only counts the error, and goes on.
    drop((guard.retire(0..2), guard.retire(20..21)));
    assert_eq!(guard.run_retired(), 1);
    assert_eq!(guard.stats().retired_failed, 3);
    // One that somebody waits for is told to him.
    assert!(guard.retire(0..2).wait().is_err());
    assert_eq!(guard.stats().retired_failed, 3);
    // A panic goes through, and what is left is run by the next call.
    drop((
        guard.retire(10..12),
        guard.retire(20..21),
        guard.retire(14..15),
    ));
    for left in [1, 0] {
        let panic = catch_unwind(AssertUnwindSafe(|| guard.run_retired())).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
        assert!(guard.stats().retired_pages <= left + 1);
    }
    assert_eq!(guard.run_retired(), 0);
    assert_eq!(guard.stats().retired_failed, 5);
    assert_clean(&guard);
    // Detached at the last moment: while the engine works.
    let (at_work, go_on) = (mpsc::channel::<()>(), mpsc::channel::<()>());
    let channels = Mutex::new((at_work.0, go_on.1));
    let guard = Arc::new(Engine::guard(move |_, _| {
        let channels = channels.lock().unwrap();
        channels.0.send(()).unwrap();
        channels.1.recv().unwrap();
        Err(EngineError("late"))
    }));
    let mut attached = guard.retire(0..1);
    let mut failures = 0;
    thread::scope(|s| {
        let runner = s.spawn(|| {
            let mut told = 0;
            guard.run_retired_with(|_, _| told += 1);
            told
        });
        at_work.1.recv().unwrap();
        // Nobody frees it twice, nor calls it over before it is.
        attached.assert_waits();
        assert_eq!((guard.run_retired(), guard.stats().retired_pages), (0, 1));
        guard.retired_ready().assert_waits();
        assert!(!is_open(&guard, pages(0, 1)));
        drop(attached);
        go_on.0.send(()).unwrap();
        failures += runner.join().unwrap();
    });
    assert_eq!(failures, 1);
    assert_clean(&guard);
}

// ---- the end --------------------------------------------------------------------------------------

#[test]
fn close_runs_what_is_retired() {
    for barrier in BARRIERS {
        let map = ExtentMap::new(16);
        map.allocate(0..16).unwrap();
        let guard = Arc::new(LayoutGuard::with_barrier(map, barrier));
        let pin = guard.try_pin(0..1).unwrap();
        let mut attached = guard.retire(0..2);
        drop((
            guard.retire(1..4),
            guard.retire(8..10),
            guard.retire_after(10..12, 7),
        ));
        let (bell, mut closing) = (Bell::new(), guard.close());
        assert_eq!(guard.map().free_blocks(), 0, "closing alone runs nothing");
        assert!(attached.range().is_some());
        guard.durable(7);
        assert!(bell.poll(&mut closing).is_pending());
        // What could be run, has been; the rest waits for the pin.
        assert_eq!(guard.map().free_blocks(), 4);
        drop(pin);
        assert!(bell.rung() >= 1);
        assert!(bell.poll(&mut closing).is_ready());
        assert_eq!(guard.map().free_blocks(), 8);
        assert_eq!(attached.now(), Ok(2));
        assert_eq!((guard.stats().queued, guard.stats().retired_pages), (0, 0));
    }
}

/// Nothing will say any more that the log is on media: what waits for it is given up, not freed (I4).
#[test]
fn close_gives_up_what_is_not_durable() {
    let (guard, freed) = freeing();
    let mut attached = guard.retire_after(0..2, 1);
    drop((
        guard.retire_after(4..6, 2),
        guard.retire_after(1..5, 3),
        guard.retire(8..9),
    ));
    let late = guard.retire_after(10..12, 9);
    let mut closing = guard.close();
    // Said between the closing and the waiting, it counts.
    guard.durable(1);
    closing.now();
    assert_eq!(*freed.lock().unwrap(), [pages(0, 2), pages(8, 9)]);
    assert_eq!(attached.now(), Ok(2));
    assert_eq!(late.wait(), Err(closed()));
    assert_eq!((guard.stats().queued, guard.stats().retired_pages), (0, 0));
    assert_eq!(
        guard.stats().retired_failed,
        2,
        "and nobody waited for them"
    );
    guard.durable(u64::MAX);
    assert_eq!((guard.run_retired(), guard.map().calls()), (0, 2));
}

/// Nor is anything given up while proofs are out, or other retirements have holders: whoever has them may
/// still write the log.
#[test]
fn close_gives_nothing_up_while_it_waits_for_others() {
    let (guard, freed) = freeing();
    let (proof, pin) = (
        guard.try_break_layouts(20..21).unwrap(),
        guard.try_pin(8..9).unwrap(),
    );
    let (held, undurable) = (guard.retire(8..10), guard.retire_after(0..2, 1));
    let (bell, mut closing) = (Bell::new(), guard.close());
    assert!(bell.poll(&mut closing).is_pending());
    drop(proof);
    assert!(bell.poll(&mut closing).is_pending());
    assert_eq!((guard.stats().retired_pages, guard.map().calls()), (4, 0));
    guard.durable(1);
    assert!(bell.rung() > 0, "there is work for it");
    assert!(bell.poll(&mut closing).is_pending());
    assert_eq!(undurable.wait(), Ok(2));
    // It was rung when that was over, so its task looks again.
    assert!(bell.poll(&mut closing).is_pending());
    let before = bell.rung();
    drop(pin);
    assert!(bell.rung() > before);
    assert!(bell.poll(&mut closing).is_ready());
    assert_eq!((held.wait(), freed.lock().unwrap().len()), (Ok(2), 2));
}

#[test]
fn close_blocks_until_the_last_retirement_is_run() {
    watched(|| {
        for barrier in BARRIERS {
            let map = ExtentMap::new(64);
            map.allocate(0..64).unwrap();
            let guard = Arc::new(LayoutGuard::with_barrier(map, barrier));
            let mut pins: Vec<_> = (0..64).map(|n| guard.try_pin(n..n + 1).unwrap()).collect();
            let mut waits = Vec::new();
            for n in 0..64 {
                let retired = guard.retire_after(n..n + 1, n % 7);
                if n % 2 == 0 {
                    waits.push(retired);
                }
            }
            guard.durable(3);
            let closing = guard.close();
            thread::scope(|s| {
                let closer = s.spawn(|| closing.wait());
                let attached: Vec<_> = waits.into_iter().map(|r| s.spawn(|| r.wait())).collect();
                let mut dice = Dice::new(2);
                while pins.len() > 1 {
                    drop(pins.swap_remove(dice.roll(pins.len() as u64) as usize));
                    if pins.len() == 30 {
                        guard.durable(7);
                    }
                }
                assert!(!closer.is_finished());
                drop(pins);
                closer.join().unwrap();
                assert!(
                    attached
                        .into_iter()
                        .all(|wait| wait.join().unwrap() == Ok(1))
                );
            });
            assert_eq!(guard.map().free_blocks(), 64);
        }
    });
}

#[test]
fn close_runs_on_after_a_panic_of_the_engine() {
    let guard = failing();
    drop((
        guard.retire(0..1),
        guard.retire(10..11),
        guard.retire(20..21),
    ));
    let mut attached = guard.retire(12..13);
    let closing = guard.close();
    let panic = catch_unwind(AssertUnwindSafe(|| closing.wait())).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
    // Once more: what was left is run, and nobody is in the way.
    guard.close().now();
    assert!(catch_unwind(AssertUnwindSafe(|| attached.now())).is_err());
    assert_eq!((guard.stats().queued, guard.map().calls()), (0, 4));
}

/// A guard that goes with retirements that nobody has run frees nothing, and lets its map go.
#[test]
fn i04_a_guard_that_goes_frees_nothing() {
    for with_pin in [false, true] {
        let calls = Arc::new(AtomicUsize::new(0));
        let alive = Arc::new(());
        let (counted, kept) = (Arc::clone(&calls), Arc::clone(&alive));
        let guard = Arc::new(Engine::guard(move |_, _| {
            let _kept = &kept;
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(1)
        }));
        let pin = with_pin.then(|| guard.try_pin(0..1).unwrap());
        drop((
            guard.retire(0..2),
            guard.retire(4..5),
            guard.retire_after(8..9, 3),
        ));
        drop(guard);
        assert_eq!(Arc::strong_count(&alive), 1 + usize::from(with_pin));
        drop(pin);
        assert_eq!(
            (Arc::strong_count(&alive), calls.load(Ordering::SeqCst)),
            (1, 0)
        );
    }
    // One that is attached keeps the guard.
    let guard = Arc::new(Engine::idle());
    let retired = guard.retire(0..2);
    let weak = Arc::downgrade(&guard);
    drop(guard);
    assert_eq!(retired.wait(), Ok(1));
    assert!(weak.upgrade().is_none());
}

/// The engine may use the guard while it frees: retire more, run what is ready, pin elsewhere.
#[test]
fn retire_from_inside_the_engine() {
    watched(|| {
        let slot = Arc::new(Mutex::new(None::<std::sync::Weak<LayoutGuard<Engine>>>));
        let inside = Arc::clone(&slot);
        let guard = Arc::new(Engine::guard(move |_, proof| {
            let guard = inside.lock().unwrap().as_ref().unwrap().upgrade().unwrap();
            let start = proof.ranges()[0].start();
            if start < 5 {
                drop(guard.retire(start + 1..start + 2));
                // The same pages again: behind itself, so not before it is over.
                drop(guard.retire_after(start..start + 1, 1));
                drop(guard.try_pin(20..21).unwrap());
                if start == 3 {
                    assert_eq!(guard.run_retired(), 2);
                }
            }
            Ok(1)
        }));
        *slot.lock().unwrap() = Some(Arc::downgrade(&guard));
        drop(guard.retire(0..1));
        // 3 runs 4 and 5 before it has returned itself.
        assert_eq!(guard.run_retired(), 4);
        assert_eq!((guard.map().calls(), guard.stats().retired_pages), (6, 5));
        drop(guard.close());
        assert_clean_but_closed(&guard);
    });
}

fn assert_clean_but_closed(guard: &Guard) {
    guard.close().now();
    let stats = guard.stats();
    assert_eq!((stats.queued, stats.retired_pages, stats.pins), (0, 0, 0));
}
