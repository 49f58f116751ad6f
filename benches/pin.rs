//! What a pin costs: `try_pin` and the drop of what it yields, in each mode.
//!
//! | group | question |
//! | --- | --- |
//! | one thread | against the empty loop |
//! | range | 1 page against 2^40 pages; per-page counters as the contrast |
//! | two threads | two threads on one page against one, each on a core of its own |
//! | in flight | 32 pins in flight, the oldest replaced each time, against a bare array |
//! | elsewhere | pins of other pages while a break waits: one closed range, and between two far apart |

mod support;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::mem;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use support::cores::at_once;
use support::{Bench, MODES, guard, pin_one_page, repeat};

fn main() {
    let mut bench = Bench::start("pin");
    one_thread(&mut bench);
    range(&mut bench);
    two_threads(&mut bench);
    in_flight(&mut bench);
    elsewhere(&mut bench);
    bench.finish();
}

fn one_thread(bench: &mut Bench) {
    let mut group = bench.group("one thread");
    group.empty_loop();
    group.for_each_mode("", |guard, i| pin_one_page(guard, i & 0xff));
    group.run();
}

fn range(bench: &mut Bench) {
    let mut group = bench.group("range");
    group.empty_loop();
    for power in [0, 10, 20, 30, 40] {
        group.for_each_mode(&format!(" 2^{power}"), move |guard, i| {
            let start = i & 0xff;
            drop(guard.try_pin(start..start + (1 << power)));
        });
    }
    // Counters cost as many updates as there are pages.
    let counters: &'static [AtomicU32] = (0..1 << 17)
        .map(|_| AtomicU32::new(0))
        .collect::<Vec<_>>()
        .leak();
    for power in [0, 4, 8, 12, 16] {
        group.case(format!("per-page AtomicU32 2^{power}"), move |iters| {
            repeat(iters, |i| {
                let start = (i & 0xff) as usize;
                let pages = &counters[start..start + (1 << power)];
                for page in pages {
                    page.fetch_add(1, Ordering::Acquire);
                }
                for page in pages {
                    page.fetch_sub(1, Ordering::Release);
                }
            })
        });
    }
    group.run();
}

fn two_threads(bench: &mut Bench) {
    let mut group = bench.group("two threads");
    for threads in [1, 2] {
        group.case(format!("empty loop, {threads} threads"), move |iters| {
            at_once(threads, iters, |n| {
                repeat(n, |_| ());
            })
        });
        for (mode, barrier) in MODES {
            let guard = guard(barrier);
            group.case(format!("{mode}, {threads} threads"), move |iters| {
                at_once(threads, iters, |n| {
                    repeat(n, |_| pin_one_page(guard, black_box(7)));
                })
            });
        }
    }
    group.run();
}

/// In flight at a time.
const DEPTH: usize = 32;

fn in_flight(bench: &mut Bench) {
    let map = Mutex::new(BTreeMap::new());
    let lock = || map.lock().expect("nobody panics under it");
    let mut group = bench.group("in flight");
    let mut ring = [(0, 1); DEPTH];
    group.case("array replace", move |iters| {
        repeat(iters, |i| {
            let at = i as usize % DEPTH;
            black_box(mem::replace(&mut ring[at], (i, i + 1)));
        })
    });
    for (mode, barrier) in MODES {
        let guard = guard(barrier);
        let mut ring = [const { None }; DEPTH];
        group.case(mode, move |iters| {
            let elapsed = repeat(iters, |i| {
                let at = i as usize % DEPTH;
                drop(mem::replace(&mut ring[at], guard.try_pin(i..i + 1).ok()));
            });
            // Out of the way of the other cases.
            ring.fill_with(|| None);
            elapsed
        });
    }
    group.case("Mutex<BTreeMap>", move |iters| {
        repeat(iters, |i| {
            lock().insert((i, i + 1), ());
            if let Some(old) = i.checked_sub(DEPTH as u64) {
                lock().remove(&(old, old + 1));
            }
        })
    });
    group.run();
}

fn elsewhere(bench: &mut Bench) {
    const FAR: u64 = 1 << 40;
    let mut group = bench.group("elsewhere");
    group.empty_loop();
    group.for_each_mode(", undisturbed", |guard, i| {
        pin_one_page(guard, 1_000 + (i & 0xff))
    });
    for (name, closed) in [
        (", one closed range", &[0][..]),
        (", between two closed ranges", &[0, FAR][..]),
    ] {
        for (mode, barrier) in MODES {
            let guard = guard(barrier);
            // Somebody holds a page of each closed range, so that the breaks wait as long as the case lives.
            let waiting: Vec<_> = closed
                .iter()
                .map(|&page| {
                    let held = guard
                        .try_pin(page..page + 1)
                        .expect("nothing is closed there");
                    (guard.break_layouts(page..page + 1), held)
                })
                .collect();
            group.case(format!("{mode}{name}"), move |iters| {
                assert!(
                    waiting.iter().all(|(b, _)| !b.is_drained()),
                    "a break must wait"
                );
                repeat(iters, |i| pin_one_page(guard, 1_000 + (i & 0xff)))
            });
        }
    }
    group.run();
}
