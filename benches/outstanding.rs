//! How much it matters that many pins are outstanding, and what they and guards weigh.
//!
//! For 1, 32, 1,000, 100,000 and 10^6 outstanding pins, in each mode: one more pin and its drop; replacing the
//! oldest pin; a break of a page that nobody holds; and resident bytes for each pin. Before that: 10^6 guards, and
//! breaks among 10^6 leases.
//!
//! The numbers of pins are not in turns: slots, once made, are there for good. Each is compared with a control of
//! its own, and "0 after" shows what the burst leaves behind. Their bytes are those of a process of its own for each
//! number, which takes that many pins and does nothing else.

mod support;

use std::cell::RefCell;
use std::hint::black_box;
use std::process::Command;
use std::time::Duration;

use layout_lease::{LayoutGuard, LayoutLease, PagePin};

use support::{Bench, MODES, break_one_page, guard, pin_one_page, repeat, resident};

/// In the environment of a process that tells what so many pins weigh.
const WEIGH: &str = "LEASE_BENCH_WEIGH";

fn main() {
    if let Some(count) = std::env::var_os(WEIGH) {
        let count = count.to_str().and_then(|n| n.parse().ok());
        println!("{}", weigh(count.expect("a number of pins")));
        return;
    }
    let mut bench = Bench::start("outstanding");
    guards(&mut bench);
    leases(&mut bench);
    pins(&mut bench, 0, "0");
    for count in [1, 32, 1_000, 100_000, 1_000_000] {
        weight(&mut bench, count);
        pins(&mut bench, count, &count.to_string());
    }
    pins(&mut bench, 0, "0 after");
    bench.finish();
}

/// Resident bytes for each of so many pins, from a process of their own.
fn weight(bench: &mut Bench, count: usize) {
    let program = std::env::current_exe().expect("this program has a path");
    let mut child = Command::new(program);
    let output = child.env(WEIGH, count.to_string()).output();
    let output = output.expect("this program can be run once more");
    let said = String::from_utf8_lossy(&output.stdout);
    let bytes: f64 = said.trim().parse().expect("the child tells one number");
    let numbers = [
        ("count", count as f64),
        ("bytes", bytes),
        ("bytes_each", bytes / count as f64),
    ];
    bench.record("memory", &format!("{count} pins"), &numbers);
}

/// Resident bytes that the slots of `count` pins take.
fn weigh(count: usize) -> u64 {
    let guard = guard(MODES[0].1);
    // Made and written to before the pins, to tell its bytes from theirs.
    let mut held: Vec<Option<PagePin>> = (0..count).map(|_| None).collect();
    let before = resident();
    for (page, place) in (1_000..).zip(&mut held) {
        *place = guard.try_pin(page..page + 1).ok();
    }
    let after = resident();
    assert!(
        black_box(&held).iter().all(Option::is_some),
        "nothing is closed"
    );
    after.saturating_sub(before)
}

/// First: a guard's drop looks at every slot there is.
fn guards(bench: &mut Bench) {
    let count = bench.full_or(1_000_000, 10_000);
    let before = resident();
    let guards: Vec<_> = (0..count).map(|_| LayoutGuard::<()>::default()).collect();
    let after = resident();
    drop(black_box(guards));
    let each = (after - before) as f64 / count as f64;
    let of_which_handle = size_of::<LayoutGuard<()>>() as f64;
    let numbers = [
        ("count", count as f64),
        ("bytes_each", each),
        ("handle_bytes", of_which_handle),
    ];
    bench.record("memory", "guard", &numbers);
    bench.record(
        "memory",
        "pin",
        &[("handle_bytes", size_of::<PagePin>() as f64)],
    );
}

/// A lease on every other page, and breaks of the pages in between; against a guard without leases, in turns.
fn leases(bench: &mut Bench) {
    let count = bench.full_or(1_000_000, 1_000);
    let bare = MODES.map(|(mode, barrier)| (format!("{mode}, 0"), guard(barrier), Vec::new()));
    let mut guards = Vec::from(bare);
    for (mode, barrier) in MODES {
        let guard = guard(barrier);
        let before = resident();
        let mut held: Vec<LayoutLease> = Vec::with_capacity(count as usize);
        let lease = |page| guard.lease(page..page + 1).wait();
        held.extend((0..count).filter_map(|n| lease(2 * n).ok()));
        assert_eq!(held.len() as u64, count, "nothing is closed");
        let each = (resident() - before) as f64 / count as f64;
        let numbers = [
            ("count", count as f64),
            ("bytes_each", each),
            ("handle_bytes", size_of::<LayoutLease>() as f64),
        ];
        bench.record("memory", &format!("leases, {mode}"), &numbers);
        guards.push((format!("{mode}, 10^6"), guard, held));
    }
    let mut group = bench.group("leases");
    for (name, guard, held) in &guards {
        group.case(format!("{name}: break elsewhere"), |iters| {
            // Anywhere among them.
            let page = |i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % count * 2 + 1;
            repeat(iters, |i| break_one_page(guard, page(i)))
        });
        group.case(format!("{name}: one more and its drop"), |iters| {
            repeat(iters, |i| drop(guard.lease(2 * i + 1..2 * i + 2).wait()))
        });
        black_box(held);
    }
    group.run();
}

fn pins(bench: &mut Bench, count: usize, name: &str) {
    for (mode, barrier) in MODES {
        let guard = guard(barrier);
        let take = |page| guard.try_pin(page..page + 1).ok();
        let held: Vec<_> = (1_000..).take(count).map(take).collect();
        let held = RefCell::new(held);
        let mut group = bench.group(format!("{name} outstanding, {mode}"));
        group.effort(15, Duration::from_millis(15));
        group.empty_loop();
        group.case("pin and drop", |iters| {
            repeat(iters, |i| pin_one_page(guard, 500 + (i & 0xff)))
        });
        group.case("break elsewhere", |iters| {
            repeat(iters, |_| break_one_page(guard, black_box(0)))
        });
        if count > 0 {
            let mut oldest = 0;
            let held = &held;
            group.case("replace the oldest", move |iters| {
                let mut held = held.borrow_mut();
                repeat(iters, |i| {
                    held[oldest] = guard.try_pin(1_000 + i..1_001 + i).ok();
                    oldest = if oldest + 1 == count { 0 } else { oldest + 1 };
                })
            });
        }
        group.run();
    }
}
