//! Large scenes under drawn schedules: `RUSTFLAGS="--cfg lease_shuttle" cargo test --release --test
//! shuttle_breaks`.
//!
//! The real crate runs in them, over shuttle's atomics, locks, thread locals and statics: four threads and
//! more, each of which draws what it does, in a schedule that is drawn too. A block is overwritten at once
//! under a proof, and holders look whether theirs is the one they found (I2); a lost wake is a deadlock,
//! which shuttle reports (I6); at the end nothing may be left (I8).
//!
//! What shuttle cannot see: every access is sequentially consistent, so orderings and fences are loom's and
//! spin's affair; schedules are drawn, not exhausted.
#![cfg(lease_shuttle)]

mod shuttle_support;

use shuttle_support::disk::step;
use shuttle_support::explore;
use shuttle_support::world::{World, below, one_in, some_pages};

fn pin_somehow(world: &World) {
    let pages = some_pages();
    let held = match below(3) {
        0 => world.pin(pages, true),
        1 => world.pin(pages, false),
        _ => world.try_pin(pages),
    };
    if let Some(held) = held {
        held.work();
    }
}

fn break_somehow(world: &World) {
    let pages = some_pages();
    match below(4) {
        0 => {
            if let Ok(proof) = world.guard.try_break_layouts(pages) {
                world.count("tried breaks");
                proof.punch_hole(pages).unwrap();
            } else {
                world.count("tried breaks refused");
            }
        }
        1 => {
            assert_eq!(world.guard.punch_hole(pages).wait().unwrap(), pages.len());
        }
        n => {
            if let Some(proof) = world.break_layouts(pages, n == 2) {
                proof.free();
                if one_in(2) {
                    let (low, high) = proof.split(world, below(4));
                    drop(low);
                    step();
                    if let Some(high) = high {
                        high.free();
                    }
                }
            }
        }
    }
}

/// I1, I2, I3, I5, I6, I8: pinners that wait, try and give up against breaks that do the same.
#[test]
fn pins_against_breaks() {
    let must = [
        "pins",
        "refusals",
        "pins given up",
        "in time",
        "timeouts",
        "proofs",
        "proofs split",
        "breaks given up",
        "breaks that wait",
        "tried breaks",
        "tried breaks refused",
    ];
    explore("pins_against_breaks", &must, |tally| {
        let world = World::new(tally);
        let pinners = (0..2).map(|_| {
            world.spawn(|world| {
                for _ in 0..3 {
                    pin_somehow(world);
                }
            })
        });
        let breakers = (0..2).map(|_| {
            world.spawn(|world| {
                for _ in 0..2 {
                    break_somehow(world);
                }
            })
        });
        let all: Vec<_> = pinners.chain(breakers).collect();
        for player in all {
            player.join().unwrap();
        }
        world.balanced_and_open();
    });
}
