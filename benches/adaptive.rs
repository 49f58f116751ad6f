//! What pins and breaks cost together, over the number of pins per break: each fixed mode, and adaptive.
//!
//! One thread pins and drops so many times, breaks once, and so on; that is a cycle. Another core runs a thread of
//! this process that does nothing but count, so that a `membarrier` has somebody to interrupt; what it loses by that
//! is told from how far it counted (`other_ops`). The reader of these lines takes the ratio of adaptive to the better of
//! the fixed modes.
//!
//! Before the first round each guard sees enough cycles to have learnt. Then two loads that keep changing: phases of
//! frequent and rare breaks, and gaps drawn anew for each break.

mod support;

use std::hint::spin_loop;
use std::time::{Duration, Instant};

use layout_lease::LayoutGuard;

use support::cores::Busy;
use support::{Bench, MODES, break_one_page, guard, pin_one_page, repeat};

/// Pins per break; denser where the better mode changes.
const RATIOS: [u64; 16] = [
    1, 3, 10, 30, 100, 300, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 60_000, 100_000, 300_000,
    1_000_000,
];

fn main() {
    let mut bench = Bench::start("adaptive");
    control(&mut bench);
    for ratio in RATIOS {
        compare(&mut bench, &format!("ratio {ratio}"), &[ratio]);
    }
    compare(&mut bench, "changing: phases", &phases());
    compare(&mut bench, "changing: random", &random());
    bench.finish();
}

/// What is in every one of these numbers once for each pin: the loop, beside a core that nobody interrupts.
fn control(bench: &mut Bench) {
    let mut group = bench.group("control");
    group.case("empty loop", |iters| {
        Busy::start(1, spin_loop).meanwhile(|| repeat(iters, |_| ()))
    });
    group.run();
}

fn cycle(guard: &LayoutGuard<()>, pins: u64) {
    repeat(pins, |i| pin_one_page(guard, 1_000 + (i & 0xff)));
    break_one_page(guard, 0);
}

/// The three modes under the same load: one iteration is a cycle for each of `gaps`.
fn compare(bench: &mut Bench, name: &str, gaps: &[u64]) {
    // Adaptive does not do the same in every cycle: a turn must see enough of them.
    let least = bench.full_or(if gaps.len() == 1 { 27 } else { 4 }, 1);
    let learning = bench.full_or(Duration::from_millis(300), Duration::from_millis(1));
    let mut group = bench.group(name);
    group.effort(11, Duration::from_millis(30));
    for (mode, barrier) in MODES {
        let guard = guard(barrier);
        let once = move || gaps.iter().for_each(|&pins| cycle(guard, pins));
        let other = Busy::start(1, spin_loop);
        let start = Instant::now();
        while start.elapsed() < learning {
            once();
        }
        drop(other);
        group.case(mode, move |iters| {
            let other = Busy::start(1, spin_loop);
            let whole = iters.max(least);
            let mut timing = other.meanwhile(|| repeat(whole, |_| once()));
            timing.elapsed = timing.elapsed.mul_f64(iters as f64 / whole as f64);
            timing
        });
    }
    group.run();
}

/// Breaks are frequent for a while and then rare for a while.
fn phases() -> Vec<u64> {
    let frequent = std::iter::repeat_n(10, 200);
    let rare = std::iter::repeat_n(100_000, 10);
    frequent.chain(rare).collect()
}

/// Gaps from 1 to 10^5 pins, all orders of magnitude equally likely.
fn random() -> Vec<u64> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..200).map(|_| 100_000f64.powf(draw()) as u64).collect()
}
