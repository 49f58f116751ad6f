//! What `scripts/callgrind.sh` counts the instructions of: no clock, no criterion.
//!
//! ```text
//! instructions WHAT N       does WHAT so often: a mode (asymmetric, fenced, adaptive) and one of
//!                           pin, elsewhere, refused, between, break, awaited, polled; for example
//!                           `fenced-elsewhere`
//! instructions membarrier   says whether the system grants it: else every guard is a fenced one
//! ```
//!
//! | | |
//! | --- | --- |
//! | pin | nothing is closed |
//! | elsewhere | another range is closed |
//! | refused | the same, and it has refused this thread |
//! | between | two others are closed, far apart |
//! | break | of a page that nobody holds; another page is pinned |
//! | awaited | a task waits for the pins to go, one after the other, and for one more |
//! | polled | that task, again and again, while the pin is there |
//!
//! Each operation is a function that is never inlined, for callgrind to tell apart and for objdump to find.

use std::hint::black_box;
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context, Waker};

use layout_lease::{Barrier, BreakLayouts, LayoutGuard, PagePin};
use rustix::thread::{MembarrierCommand, membarrier};

#[inline(never)]
fn pin_only(guard: &LayoutGuard<()>, page: u64) -> Option<PagePin> {
    guard.try_pin(page..page + 1).ok()
}

#[inline(never)]
fn unpin_only(pin: PagePin) {
    drop(pin);
}

#[inline(never)]
fn pin_and_unpin(guard: &LayoutGuard<()>, page: u64) {
    drop(guard.try_pin(page..page + 1));
}

#[inline(never)]
fn break_and_reopen(guard: &LayoutGuard<()>, page: u64) {
    drop(guard.break_layouts(page..page + 1).wait());
}

#[inline(never)]
fn poll_once(breaking: &mut BreakLayouts<'_, ()>) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    Pin::new(breaking).poll(&mut cx).is_ready()
}

fn pins(guard: &LayoutGuard<()>, times: u64) {
    for _ in 0..times {
        if let Some(pin) = pin_only(guard, black_box(1_000)) {
            unpin_only(pin);
        }
        pin_and_unpin(guard, black_box(1_000));
    }
}

fn is_granted() -> bool {
    membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
        && membarrier(MembarrierCommand::PrivateExpedited).is_ok()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args == ["membarrier"] {
        println!("{}", if is_granted() { "granted" } else { "refused" });
        return ExitCode::SUCCESS;
    }
    let [what, times] = args.as_slice() else {
        // As `cargo test` and `cargo bench` call it.
        return ExitCode::SUCCESS;
    };
    let (Some((mode, what)), Ok(times)) = (what.split_once('-'), times.parse::<u64>()) else {
        return ExitCode::FAILURE;
    };
    let guard = LayoutGuard::with_barrier(
        (),
        match mode {
            "asymmetric" => Barrier::Asymmetric,
            "fenced" => Barrier::Fenced,
            "adaptive" => Barrier::Adaptive,
            _ => return ExitCode::FAILURE,
        },
    );
    // Closed as long as the proofs live.
    let close = |page| guard.break_layouts(page..page + 1).wait().ok();
    match what {
        "pin" => pins(&guard, times),
        "elsewhere" => {
            let proof = close(0);
            pins(&guard, times);
            drop(proof);
        }
        "refused" => {
            let proof = close(0);
            if guard.try_pin(0..1).is_ok() {
                return ExitCode::FAILURE;
            }
            pins(&guard, times);
            drop(proof);
        }
        "between" => {
            let proofs = (close(0), close(1 << 40));
            pins(&guard, times);
            drop(proofs);
        }
        "break" => {
            // A slot in use, to be looked at.
            let held = guard.try_pin(1_000..1_001);
            for _ in 0..times {
                break_and_reopen(&guard, black_box(0));
            }
            drop(held);
        }
        "awaited" => {
            let mut held: Vec<_> = (0..=times).map(|_| pin_only(&guard, 0)).collect();
            let mut breaking = guard.break_layouts(0..1);
            if poll_once(&mut breaking) {
                return ExitCode::FAILURE;
            }
            held.drain(1..).flatten().for_each(unpin_only);
            drop(held);
            if !poll_once(&mut breaking) {
                return ExitCode::FAILURE;
            }
        }
        "polled" => {
            let held = pin_only(&guard, 0);
            let mut breaking = guard.break_layouts(0..1);
            if (0..times).any(|_| poll_once(&mut breaking)) {
                return ExitCode::FAILURE;
            }
            drop(held);
        }
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}
