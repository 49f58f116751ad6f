//! How long it takes from the last release to the proof in hand, and what the release costs who releases.
//!
//! Two threads, each on a core of its own. The holder pins pages, the waiter breaks them; from the moment the
//! range is closed the holder keeps its pins for the *hold time*, and then drops them one after the other, as a
//! thread does that reaps completions. *Holders* is how many pins there are; only the drop of the last one is timed.
//!
//! ```text
//!   holder   pin ... closed? | hold time | drops, the last at t0 | t1
//!   waiter   close, wait ..................................| proof at t2
//!            latency = t2 - t0          release = t1 - t0
//! ```
//!
//! Two controls do the same with a flag and no pins: a bare futex, and event-listener. All cases of a hold time and
//! a number of holders take turns. Percentiles are of hdrhistogram; criterion shows the mean latency.

mod support;

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use event_listener::{Event, Listener, listener};
use futures_lite::future::block_on;
use hdrhistogram::Histogram;
use layout_lease::{LayoutGuard, PagePin};
use rustix::thread::futex;

use support::cores::pin_to;
use support::{Bench, MODES, guard};

const HOLD_MICROS: [u64; 6] = [0, 1, 3, 10, 50, 1_000];
const HOLDERS: [u64; 3] = [1, 8, 64];

fn main() {
    let mut bench = Bench::start("wait_latency");
    clock(&mut bench);
    let mut cases = vec![
        ("futex".to_owned(), Way::Futex),
        ("event-listener".to_owned(), Way::Event),
    ];
    for (mode, barrier) in MODES {
        let guard = guard(barrier);
        cases.push((format!("{mode} blocking"), Way::Blocking(guard)));
        cases.push((format!("{mode} async"), Way::Async(guard)));
    }
    for hold in HOLD_MICROS {
        for holders in HOLDERS {
            compare(&mut bench, &cases, hold, holders);
        }
    }
    bench.finish();
}

/// What is in every one of these numbers: a look at the clock.
fn clock(bench: &mut Bench) {
    let mut group = bench.group("clock");
    group.case("a look at the clock", |iters| {
        support::repeat(iters, |_| {
            std::hint::black_box(Instant::now());
        })
    });
    group.run();
}

/// How the waiter waits.
#[derive(Clone, Copy)]
enum Way {
    /// A control: for a flag, in the kernel.
    Futex,
    /// A control: for a flag, with the crate that ours sleeps with.
    Event,
    Blocking(&'static LayoutGuard<()>),
    Async(&'static LayoutGuard<()>),
}

/// Cases that take turns.
fn compare(bench: &mut Bench, cases: &[(String, Way)], hold: u64, holders: u64) {
    let group = format!("hold={hold} holders={holders}");
    let hold = Duration::from_micros(hold);
    let rounds = bench.rounds(9);
    let samples = bench.full_or(if hold.as_micros() < 1_000 { 600 } else { 120 }, 3);
    let mut merged: Vec<_> = cases.iter().map(|_| Measured::new()).collect();
    for round in 0..rounds {
        for turn in 0..cases.len() {
            let at = (round + turn) % cases.len();
            let (name, way) = &cases[at];
            let measured = measure(*way, hold, holders, samples);
            bench.record(&group, name, &measured.numbers("round", round as f64));
            merged[at].add(&measured);
        }
    }
    for ((name, way), merged) in cases.iter().zip(merged) {
        bench.record(&group, name, &merged.numbers("rounds", rounds as f64));
        bench.show_criterion(&group, name, samples.div_ceil(4), |iters| {
            measure(*way, hold, holders, iters).total_latency
        });
    }
}

/// Nanoseconds of many cycles.
struct Measured {
    latency: Histogram<u64>,
    release: Histogram<u64>,
    total_latency: Duration,
}

impl Measured {
    fn new() -> Self {
        let histogram = || Histogram::new(3).expect("three digits are allowed");
        Self {
            latency: histogram(),
            release: histogram(),
            total_latency: Duration::ZERO,
        }
    }

    fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("it resizes itself");
        self.release.add(&other.release).expect("it resizes itself");
    }

    fn numbers(&self, key: &'static str, value: f64) -> [(&'static str, f64); 9] {
        let latency = |q| self.latency.value_at_quantile(q) as f64;
        let release = |q| self.release.value_at_quantile(q) as f64;
        [
            (key, value),
            ("samples", self.latency.len() as f64),
            ("p50", latency(0.5)),
            ("p99", latency(0.99)),
            ("p999", latency(0.999)),
            ("max", self.latency.max() as f64),
            ("release_p50", release(0.5)),
            ("release_p99", release(0.99)),
            ("release_p999", release(0.999)),
        ]
    }
}

/// The number of the cycle that one side has come to, for the other to wait for.
#[repr(align(128))]
#[derive(Default)]
struct Signal(AtomicU64);

impl Stage {
    /// The controls' release.
    fn raise_flag(&self, way: Way, cycle: u64) {
        self.flag.store(cycle as u32, Ordering::SeqCst);
        match way {
            Way::Futex => {
                futex::wake(&self.flag, futex::Flags::PRIVATE, 1).ok();
            }
            _ => {
                self.event.notify(1);
            }
        }
    }

    fn is_raised(&self, cycle: u64) -> bool {
        self.flag.load(Ordering::SeqCst) == cycle as u32
    }
}

impl Signal {
    fn set(&self, cycle: u64) {
        self.0.store(cycle, Ordering::Release);
    }

    fn has_come(&self, cycle: u64) -> bool {
        self.0.load(Ordering::Acquire) >= cycle
    }

    fn wait(&self, cycle: u64) {
        let mut spins = 0u32;
        while !self.has_come(cycle) {
            spin_loop();
            spins += 1;
            // Where there is one core only, the other side needs it.
            if spins % (1 << 16) == 0 {
                thread::yield_now();
            }
        }
    }
}

/// What the two sides share.
#[derive(Default)]
struct Stage {
    may_pin: Signal,
    pinned: Signal,
    closed: Signal,
    /// For the controls: the last cycle that is over.
    flag: AtomicU32,
    event: Event,
    released: Signal,
    /// Nanoseconds since the start; written before `released` is set.
    released_at: AtomicU64,
    release_took: AtomicU64,
}

fn measure(way: Way, hold: Duration, holders: u64, cycles: u64) -> Measured {
    let stage = Stage::default();
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            pin_to(1);
            let mut pins = Vec::with_capacity(holders as usize);
            for cycle in 1..=cycles {
                hold_once(way, &stage, &mut pins, cycle, hold, holders, start);
            }
        });
        let mut measured = Measured::new();
        for cycle in 1..=cycles {
            wait_once(way, &stage, &mut measured, cycle, holders, start);
        }
        measured
    })
}

fn hold_once(
    way: Way,
    stage: &Stage,
    pins: &mut Vec<PagePin>,
    cycle: u64,
    hold: Duration,
    holders: u64,
    start: Instant,
) {
    stage.may_pin.wait(cycle);
    if let Way::Blocking(guard) | Way::Async(guard) = way {
        pins.extend((0..holders).map(|page| guard.try_pin(page..page + 1).expect("open")));
    }
    stage.pinned.set(cycle);
    stage.closed.wait(cycle);
    let closed = Instant::now();
    while closed.elapsed() < hold {
        spin_loop();
    }
    pins.truncate(1);
    let last = pins.pop();
    let before = Instant::now();
    match last {
        Some(last) => drop(last),
        None => stage.raise_flag(way, cycle),
    }
    let took = before.elapsed().as_nanos() as u64;
    let at = (before - start).as_nanos() as u64;
    stage.released_at.store(at, Ordering::Relaxed);
    stage.release_took.store(took, Ordering::Relaxed);
    stage.released.set(cycle);
}

fn wait_once(
    way: Way,
    stage: &Stage,
    measured: &mut Measured,
    cycle: u64,
    holders: u64,
    start: Instant,
) {
    stage.may_pin.set(cycle);
    stage.pinned.wait(cycle);
    let proof = match way {
        Way::Futex => {
            stage.closed.set(cycle);
            while !stage.is_raised(cycle) {
                let before = cycle as u32 - 1;
                futex::wait(&stage.flag, futex::Flags::PRIVATE, before, None).ok();
            }
            None
        }
        Way::Event => {
            stage.closed.set(cycle);
            while !stage.is_raised(cycle) {
                listener!(stage.event => listener);
                if !stage.is_raised(cycle) {
                    listener.wait();
                }
            }
            None
        }
        Way::Blocking(guard) => {
            let breaking = guard.break_layouts(0..holders);
            stage.closed.set(cycle);
            breaking.wait().ok()
        }
        Way::Async(guard) => {
            let breaking = guard.break_layouts(0..holders);
            stage.closed.set(cycle);
            block_on(breaking).ok()
        }
    };
    let in_hand = start.elapsed().as_nanos() as u64;
    // What comes now is not part of the latency: the holder may still be in its drop.
    stage.released.wait(cycle);
    drop(proof);
    let released = stage.released_at.load(Ordering::Relaxed);
    let latency = in_hand.saturating_sub(released);
    let release = stage.release_took.load(Ordering::Relaxed);
    // Recording resizes them.
    measured.latency.record(latency).expect("it has room");
    measured.release.record(release).expect("it has room");
    measured.total_latency += Duration::from_nanos(latency);
}
