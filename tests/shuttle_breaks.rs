//! Large scenes under drawn schedules: `scripts/shuttle.sh`, or `RUSTFLAGS="--cfg lease_shuttle" cargo test
//! --release --test shuttle_breaks`.
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

use std::cell::RefCell;
use std::sync::Arc;

use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::sync::mpsc::channel;
use shuttle_support::disk::range;
use shuttle_support::players::{break_somehow, break_together, hold_somehow, pin_somehow};
use shuttle_support::world::{Held, World, below, device, join, one_in, some_pages};
use shuttle_support::{Tally, explore};

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
        "breaks of two ranges",
        "tried breaks",
        "tried breaks refused",
    ];
    explore("pins_against_breaks", &must, |tally| {
        let world = World::new(tally);
        let pinner = || {
            world.spawn(|world| {
                for _ in 0..3 {
                    pin_somehow(world);
                }
            })
        };
        let breaker = || {
            world.spawn(|world| {
                for _ in 0..2 {
                    break_somehow(world);
                }
            })
        };
        join([pinner(), breaker(), pinner(), breaker()]);
        world.balanced_and_open();
    });
}

/// I3, I12: two mappings that are broken together, named in either order, while others break one of them
/// and pin both.
#[test]
fn mappings_in_opposite_orders() {
    let must = [
        "proofs of two mappings",
        "breaks of two mappings given up",
        "proofs",
        "pins",
        "refusals",
        "breaks that wait",
    ];
    explore("mappings_in_opposite_orders", &must, |tally| {
        let (a, b) = (World::new(tally), World::new(tally));
        let together = |turned: bool| {
            let other = b.clone();
            a.spawn(move |a| {
                let parts = [(a, some_pages()), (&other, some_pages())];
                let [first, second] = parts;
                let parts = if turned { [second, first] } else { parts };
                break_together(parts, one_in(2));
            })
        };
        let one_of_them = {
            let other = b.clone();
            a.spawn(move |a| {
                pin_somehow(a);
                break_somehow(if one_in(2) { a } else { &other });
            })
        };
        let pinner = {
            let other = b.clone();
            a.spawn(move |a| {
                // One on each at a time, and never waiting with one in hand.
                let held = [a.try_pin(some_pages()), other.try_pin(some_pages())];
                held.iter().flatten().for_each(Held::work);
                drop(held);
                pin_somehow(&other);
            })
        };
        join([together(false), together(true), one_of_them, pinner]);
        a.balanced_and_open();
        b.balanced_and_open();
    });
}

/// I1, I5, I7, I11: operations that take more pages of a closing range, that break what they hold, and whose
/// pins travel as numbers.
#[test]
fn holders_that_break() {
    let must = [
        "holders that break",
        "extensions",
        "extensions through what is closed",
        "extensions refused",
        "tokens redeemed",
        "proofs",
        "breaks given up",
        "breaks that wait",
    ];
    explore("holders_that_break", &must, |tally| {
        let world = World::new(tally);
        let (queue, device) = device(tally);
        let holder = || {
            let queue = queue.clone();
            world.spawn(move |world| {
                for _ in 0..2 {
                    hold_somehow(world, &queue);
                }
            })
        };
        let breaker = world.spawn(|world| {
            for _ in 0..2 {
                break_somehow(world);
            }
        });
        let players = [holder(), breaker, holder()];
        drop(queue);
        join(players);
        device.join().unwrap();
        world.balanced_and_open();
    });
}

/// A pin that was granted to one who waited is not of the thread that granted it, also when that thread fills the
/// slot anew while somebody looks.
#[test]
fn holders_that_change() {
    let must = ["granted pins", "granted pins that were named"];
    explore("holders_that_change", &must, |tally| {
        let world = World::new(tally);
        let (closed, close) = channel();
        let over = Arc::new(AtomicBool::new(false));
        let granter = world.spawn({
            let over = Arc::clone(&over);
            move |world| {
                let proof = world.guard.break_layouts(0..1).wait().unwrap();
                closed.send(()).unwrap();
                while world.guard.stats().queued < 2 {
                    shuttle::thread::yield_now();
                }
                drop(proof);
                // Asks nobody who may be looking.
                while !over.load(Ordering::SeqCst) {
                    shuttle::thread::yield_now();
                }
                drop(world.guard.try_pin(1..2));
            }
        });
        close.recv().unwrap();
        let waiting = world.guard.pin(0..1);
        let (granted, look) = channel();
        let looker = world.spawn(move |world| {
            look.recv().unwrap();
            for granted in world.guard.holders(0..1) {
                world.count("granted pins that were named");
                assert_eq!(granted.thread(), None, "violation: {granted}");
            }
        });
        let pin = waiting.wait().unwrap();
        granted.send(()).unwrap();
        world.count("granted pins");
        over.store(true, Ordering::SeqCst);
        drop(pin);
        join([granter, looker]);
        world.balanced_and_open();
    });
}

shuttle::thread_local! {
    /// What a thread holds until its very end.
    static KEPT: RefCell<Vec<Held>> = RefCell::new(Vec::new());
}

shuttle::thread_local! {
    static AT_EXIT: RefCell<Option<AtExit>> = RefCell::new(None);
}

/// Pins once more while its thread is going.
struct AtExit(World);

impl Drop for AtExit {
    fn drop(&mut self) {
        if let Some(held) = self.0.try_pin(some_pages()) {
            held.work();
            self.0.count("pins at exit");
        }
    }
}

/// I9: threads come and go, and leave pins to others, to their own locals and to whoever adopts their slots;
/// the guard goes first.
#[test]
fn threads_that_exit() {
    let must = [
        "pins",
        "pins at exit",
        "pins kept to the end",
        "pins left to others",
        "guards dropped under pins",
        "maps dropped by the last holder",
        "breaks that wait",
        "proofs",
    ];
    explore("threads_that_exit", &must, |tally| {
        let (world, late) = (World::new(tally), World::new(tally));
        let (heirs, estate) = channel::<Held>();
        let visitor = || {
            let (late, heirs) = (late.clone(), heirs.clone());
            world.spawn(move |world| {
                let early = one_in(2);
                if early {
                    AT_EXIT.with(|at_exit| *at_exit.borrow_mut() = Some(AtExit(world.clone())));
                }
                // More than its first block has room for.
                for _ in 0..3 {
                    let Some(held) = world.try_pin(some_pages()) else {
                        continue;
                    };
                    if one_in(2) {
                        world.count("pins kept to the end");
                        KEPT.with(|kept| kept.borrow_mut().push(held));
                    } else {
                        world.count("pins left to others");
                        heirs.send(held).unwrap();
                    }
                }
                if !early {
                    AT_EXIT.with(|at_exit| *at_exit.borrow_mut() = Some(AtExit(world.clone())));
                }
                let held = late.pin(some_pages(), true);
                drop(late);
                held.iter().for_each(Held::work);
            })
        };
        let heir = shuttle::thread::spawn(move || {
            while let Ok(held) = estate.recv() {
                held.work();
            }
        });
        let breaker = world.spawn(|world| {
            for _ in 0..2 {
                break_somehow(world);
            }
        });
        let first = visitor();
        let second = visitor();
        if one_in(2) {
            first.join().unwrap();
            join([visitor(), breaker]);
        } else {
            join([first, breaker]);
        }
        drop(heirs);
        go_before_the_holders(late, tally);
        join([second, heir]);
        world.balanced_and_open();
    });
}

/// Drops a guard that others may have pins of, and makes another, which may get its record.
fn go_before_the_holders(late: World, tally: &Arc<Tally>) {
    let World { guard, blocks, .. } = late;
    // Whoever drops the guard last, and whoever the last holder is.
    let held = guard.try_pin(range(0, 1)).ok();
    let held = held.map(|pin| Held::new(pin, &blocks));
    let alone = Arc::strong_count(&guard) == 1;
    drop(guard);
    if alone && held.is_some() {
        assert!(
            !blocks.is_gone(),
            "violation: the map went before its holder"
        );
        tally.count("guards dropped under pins");
    }
    let next = World::new(tally);
    if let Some(proof) = next.break_layouts(range(0, 1 + below(2)), true) {
        proof.free();
    }
    held.iter().for_each(Held::work);
    drop(held);
    if alone && blocks.is_gone() {
        tally.count("maps dropped by the last holder");
    }
    next.balanced_and_open();
}
