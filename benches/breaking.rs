//! What a break costs where nobody holds a page of it: close, barrier, scan, proof, reopen.
//!
//! | group | question |
//! | --- | --- |
//! | idle | nothing else runs in the process |
//! | other core pinning | breaks back to back, while another core pins another page; against the write lock of a parking_lot `RwLock` that another core read-locks all the time |
//! | frequent | the same, but between two breaks the other core gets at least ten pins or read locks done; only the break is timed. (A write lock taken back to back keeps the lock's cache line to itself, and the readers out.) |
//! | rare | many pins between two breaks, only the break is timed; against a bare `membarrier` timed in between |
//! | range | from 1 page to 2^60 |
//! | idle threads | before, under and after 1,024 parked threads that have pinned once |

mod support;

use std::cell::Cell;
use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use layout_lease::LayoutGuard;
use rustix::thread::{MembarrierCommand, membarrier};

use support::cores::Busy;
use support::{Bench, Group, MODES, break_one_page, guard, pin_one_page, repeat};

fn main() {
    let mut bench = Bench::start("break");
    idle(&mut bench);
    other_core_pinning(&mut bench);
    frequent(&mut bench);
    rare(&mut bench);
    range(&mut bench);
    // Last: the slots of these threads stay behind.
    idle_threads(&mut bench);
    bench.finish();
}

fn expedited() {
    membarrier(MembarrierCommand::PrivateExpedited).ok();
}

fn idle(bench: &mut Bench) {
    let mut group = bench.group("idle");
    group.empty_loop();
    group.for_each_mode("", |guard, _| break_one_page(guard, black_box(0)));
    group.for_each_mode(", try_break_layouts", |guard, _| {
        drop(guard.try_break_layouts(..black_box(1)));
    });
    group.case("membarrier", |iters| repeat(iters, |_| expedited()));
    let lock = parking_lot::RwLock::new(());
    group.case("parking_lot write", move |iters| {
        repeat(iters, |_| drop(lock.write()))
    });
    group.run();
}

/// One case, while another core does `work`.
fn under_load(
    group: &mut Group<'_, '_>,
    name: impl Into<String>,
    work: impl Fn() + Copy + Send + 'static,
    once: impl Fn() + Copy + 'static,
) {
    group.case(name, move |iters| {
        let other = Busy::start(1, work);
        other.meanwhile(|| repeat(iters, |_| once()))
    });
}

fn other_core_pinning(bench: &mut Bench) {
    let mut group = bench.group("other core pinning");
    group.empty_loop();
    for (mode, barrier) in MODES {
        let guard = guard(barrier);
        let pins = move || pin_one_page(guard, 1_000);
        under_load(&mut group, mode, pins, move || break_one_page(guard, 0));
        let try_once = move || drop(guard.try_break_layouts(0..1));
        under_load(
            &mut group,
            format!("{mode}, try_break_layouts"),
            pins,
            try_once,
        );
    }
    let lock: &'static parking_lot::RwLock<()> = Box::leak(Box::default());
    let reads = move || drop(lock.read());
    under_load(&mut group, "parking_lot write", reads, move || {
        drop(lock.write())
    });
    under_load(&mut group, "membarrier", spin_loop, expedited);
    group.run();
}

/// Only the last step of each iteration is timed, and the median of a turn stands for all of them: one step that the
/// machine interrupted would outweigh hundreds.
fn timed_after(iters: u64, before: impl Fn(), timed: &dyn Fn()) -> Duration {
    let [median] = medians_after(iters, before, [timed]);
    median * iters as u32
}

/// The median of each of `timed`, which take turns.
fn medians_after<const N: usize>(
    iters: u64,
    before: impl Fn(),
    timed: [&dyn Fn(); N],
) -> [Duration; N] {
    let mut all = timed.map(|_| Vec::with_capacity(iters as usize));
    for _ in 0..iters {
        for (timed, all) in timed.iter().zip(&mut all) {
            before();
            let start = Instant::now();
            timed();
            all.push(start.elapsed());
        }
    }
    all.map(|mut all| {
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or_default()
    })
}

fn frequent(bench: &mut Bench) {
    const OPS: u64 = 10;
    let mut group = bench.group("frequent");
    let mut case = |name: &str, work: Box<dyn Fn() + Send + Sync>, timed: Box<dyn Fn()>| {
        let work = Arc::new(work);
        group.case(name, move |iters| {
            let theirs = Arc::clone(&work);
            let other = Busy::start(1, move || theirs());
            let before = || {
                let goal = other.done() + OPS;
                while other.done() < goal {
                    spin_loop();
                }
            };
            other.meanwhile(|| timed_after(iters, before, &timed))
        });
    };
    for (mode, barrier) in MODES {
        let guard = guard(barrier);
        case(
            mode,
            Box::new(move || pin_one_page(guard, 1_000)),
            Box::new(move || break_one_page(guard, 0)),
        );
        if mode == "fenced" {
            case(
                "clock",
                Box::new(move || pin_one_page(guard, 1_000)),
                Box::new(|| ()),
            );
        }
    }
    let lock: &'static parking_lot::RwLock<()> = Box::leak(Box::default());
    case(
        "parking_lot write",
        Box::new(|| drop(lock.read())),
        Box::new(|| drop(lock.write())),
    );
    group.run();
}

/// Each turn times a bare `membarrier` and a break one after the other, again and again: the barrier varies by more
/// than what a break adds to it.
fn rare(bench: &mut Bench) {
    /// Far above what any mode needs to see that breaks are rare.
    const PINS: u64 = 100_000;
    let mut group = bench.group("rare");
    group.effort(31, Duration::from_millis(30));
    let mut case = |name: &str, guard: &'static LayoutGuard<()>, timed: Box<dyn Fn()>| {
        let before = move || {
            repeat(PINS, |i| pin_one_page(guard, 1_000 + (i & 0xff)));
        };
        group.case(name, move |iters| {
            let other = Busy::start(1, spin_loop);
            let bare = Cell::new(Duration::ZERO);
            let mut timing = other.meanwhile(|| {
                let [barrier, own] = medians_after(iters, before, [&expedited, &timed]);
                bare.set(barrier);
                own * iters as u32
            });
            timing
                .also
                .push(("membarrier_ns", bare.get().as_nanos() as f64));
            timing
        });
    };
    case("clock", guard(MODES[0].1), Box::new(|| ()));
    case("membarrier", guard(MODES[0].1), Box::new(expedited));
    for (mode, barrier) in MODES {
        let guard = guard(barrier);
        case(mode, guard, Box::new(move || break_one_page(guard, 0)));
    }
    group.run();
}

fn range(bench: &mut Bench) {
    let mut group = bench.group("range");
    for power in [0, 10, 20, 40, 60] {
        group.for_each_mode(&format!(" 2^{power}"), move |guard, _| {
            let start = black_box(0);
            drop(guard.break_layouts(start..start + (1 << power)).wait());
        });
    }
    group.run();
}

/// Not in turns: the blocks of slots that the threads used are there for good.
fn idle_threads(bench: &mut Bench) {
    let count = bench.full_or(1_024, 32);
    let guards = MODES.map(|(mode, barrier)| (mode, guard(barrier)));
    let measure = |bench: &mut Bench, when: &str| {
        let mut group = bench.group("idle threads");
        for (mode, guard) in guards {
            group.case(format!("{mode}, {when}"), move |iters| {
                repeat(iters, |_| break_one_page(guard, black_box(0)))
            });
        }
        group.run();
    };
    measure(bench, "before");
    let stop = Arc::new(parking_lot::RwLock::new(()));
    let stopped = stop.write();
    let ready = Arc::new(std::sync::Barrier::new(count + 1));
    let threads: Vec<_> = (0..count)
        .map(|_| {
            let (stop, ready) = (Arc::clone(&stop), Arc::clone(&ready));
            let guard = guards[0].1;
            let body = move || {
                pin_one_page(guard, 1_000);
                ready.wait();
                drop(stop.read());
            };
            let small = thread::Builder::new().stack_size(64 << 10);
            small.spawn(body).expect("a thread")
        })
        .collect();
    ready.wait();
    measure(bench, "under");
    drop(stopped);
    threads.into_iter().for_each(|t| t.join().expect("joins"));
    measure(bench, "after");
}
