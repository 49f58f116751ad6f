//! Large scenes of what lasts longer than an operation, under drawn schedules as in `shuttle_breaks`: leases
//! and their recall, retirements, futures that are moved and cancelled, guards that are closed.
#![cfg(lease_shuttle)]

mod shuttle_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use shuttle::sync::mpsc::Sender;
use shuttle_support::disk::{PAGES, range, step};
use shuttle_support::players::{
    break_leases_somehow, break_somehow, break_together, hold_somehow, lease_somehow, pin_somehow,
};
use shuttle_support::tasks::{self, Nerve, Work};
use shuttle_support::world::{
    Closing, Held, Leased, Proof, Token, World, below, device, join, one_in, some_pages,
};
use shuttle_support::{Tally, explore};

/// I1, I2, I6: leases that are asked for, shrunk and given back, against breaks of everything and of leases
/// alone; pins go on beside the latter.
#[test]
fn leases_and_recalls() {
    let must = [
        "leases",
        "leases given up",
        "leases shrunk",
        "recalls",
        "recalls waited for",
        "proofs",
        "proofs of no lease",
        "breaks given up",
        "breaks that wait",
        "pins",
        "timeouts",
    ];
    explore("leases_and_recalls", &must, |tally| {
        let world = World::new(tally);
        // Held until somebody asks for it, and somebody will.
        let first = world.lease(range(0, PAGES), true).unwrap();
        let keeper = world.spawn(move |world| {
            let wanted = first.lease.recalled().wait();
            world.count("recalls waited for");
            assert!(wanted.end() <= PAGES);
            first.work();
        });
        let holder = world.spawn(|world| {
            for _ in 0..2 {
                lease_somehow(world);
            }
        });
        let breaker = world.spawn(|world| {
            if let Some(proof) = world.break_layouts(some_pages(), true) {
                proof.free();
            }
            break_somehow(world);
        });
        let lessor = world.spawn(|world| {
            break_leases_somehow(world);
            pin_somehow(world);
            lease_somehow(world);
        });
        join([keeper, holder, breaker, lessor]);
        world.balanced_and_open();
    });
}

/// The log gets to `1..=up_to` on media, in its own time.
fn log_writer(world: &World, up_to: u64) {
    for lsn in 1..=up_to {
        step();
        world.guard.durable(lsn);
    }
}

/// Retires pages, at once or when the log is there, and waits for that, or a little, or not at all.
fn retire_somehow(world: &World, log: u64) {
    let pages = some_pages();
    let mut retired = match below(2) {
        0 => world.guard.retire(pages),
        _ => world.guard.retire_after(pages, 1 + below(log)),
    };
    let outcome = match below(3) {
        0 => Some(retired.wait()),
        1 => world.wait_a_little(|timeout| retired.wait_timeout(timeout)),
        _ => None,
    };
    match outcome {
        Some(Ok(freed)) => {
            assert_eq!(freed, pages.len());
            world.count("retirements waited for");
        }
        Some(Err(_)) => world.count("retirements given up"),
        None => world.count("retirements detached"),
    }
}

/// I5, I6, I8: retirements that wait for holders, for the log and for each other, and a reclaimer that sleeps
/// until there is work.
#[test]
fn retirements() {
    const LOG: u64 = 2;
    let must = [
        "retirements waited for",
        "retirements detached",
        "pages reclaimed",
        "pins",
        "refusals",
        "breaks that wait",
    ];
    explore("retirements", &must, |tally| {
        let world = World::new(tally);
        let last = Arc::new(AtomicBool::new(false));
        let reclaimer = {
            let last = Arc::clone(&last);
            world.spawn(move |world| {
                loop {
                    world.guard.retired_ready().wait();
                    let freed = world.guard.run_retired();
                    world.tally.count_many("pages reclaimed", freed);
                    if last.load(Relaxed) {
                        return;
                    }
                }
            })
        };
        let retirer = || {
            world.spawn(|world| {
                for _ in 0..2 {
                    retire_somehow(world, LOG);
                }
            })
        };
        let log = world.spawn(|world| log_writer(world, LOG));
        let pinner = world.spawn(|world| {
            for _ in 0..2 {
                pin_somehow(world);
            }
            if let Some(proof) = world.break_layouts(some_pages(), one_in(2)) {
                proof.free();
            }
        });
        join([retirer(), pinner, log, retirer()]);
        // Something is there for the reclaimer to find, and it is the last.
        last.store(true, Relaxed);
        drop(world.guard.retire(0..1));
        reclaimer.join().unwrap();
        world.guard.run_retired();
        world.balanced_and_open();
    });
}

/// I5, I6: a guard that is closed while its pages are held, leased, broken and retired; what the log never
/// allows is given up.
#[test]
fn a_close_in_the_middle() {
    const LOG: u64 = 3;
    let must = [
        "closes given up",
        "pins",
        "pins too late",
        "leases",
        "recalls",
        "breaks too late",
        "retirements waited for",
        "retirements given up",
        "retirements detached",
        "tokens redeemed",
    ];
    explore("a_close_in_the_middle", &must, |tally| {
        let world = World::new(tally);
        let (queue, device) = device(tally);
        let retirer = world.spawn(|world| {
            for _ in 0..2 {
                retire_somehow(world, LOG);
            }
        });
        let holder = world.spawn(move |world| hold_somehow(world, &queue));
        let lessee = world.spawn(lease_somehow);
        let breaker = world.spawn(|world| {
            break_somehow(world);
            pin_somehow(world);
        });
        let log = world.spawn(|world| log_writer(world, below(LOG)));
        let closer = world.spawn(|world| {
            let mut closing = world.guard.close();
            if world
                .wait_a_little(|timeout| closing.wait_timeout(timeout))
                .is_none()
            {
                world.count("closes given up");
                drop(closing);
                assert!(world.guard.try_pin(..).is_err(), "violation: closed");
                world.guard.close().wait();
            }
        });
        join([retirer, holder, lessee, breaker, log, closer]);
        device.join().unwrap();
        world.guard.close().wait();
        world.balanced();
    });
}

/// A future of one of the waitables, which works with what it gets.
fn some_future(world: &World) -> Work {
    let world = world.clone();
    let pages = some_pages();
    match below(4) {
        0 => Box::pin(async move {
            let pin = world.guard.pin(pages).await.unwrap();
            let held = Held::new(pin, &world.blocks);
            shuttle::future::yield_now().await;
            held.work();
        }),
        1 => Box::pin(async move {
            let lease = world.guard.lease(pages).await.unwrap();
            let leased = Leased::new(lease, &world.blocks);
            world.count("leases");
            shuttle::future::yield_now().await;
            leased.work();
        }),
        2 => Box::pin(async move {
            let breaking = world.guard.break_layouts_arc(pages);
            let closing = Closing::new(&world, pages);
            // Told off before the break is dropped, wherever that happens.
            let mut parts = (closing, Some(breaking));
            let proof = match &mut parts.1 {
                Some(breaking) => breaking.await.unwrap(),
                None => return,
            };
            world.count("proofs");
            let proof = Proof::new(proof, parts.0);
            shuttle::future::yield_now().await;
            proof.free();
        }),
        _ => Box::pin(async move {
            let proof = world.guard.break_leases(pages).await.unwrap();
            world.count("proofs of no lease");
            for pages in proof.ranges() {
                world.blocks.free_of_leases(*pages);
            }
            step();
            for pages in proof.ranges() {
                world.blocks.free_for_leases(*pages);
            }
        }),
    }
}

/// I6, I8: futures that are polled by one thread and then another, dropped while they wait, and dropped when
/// they have been woken; tasks that are aborted.
#[test]
fn cancelled_futures() {
    let must = [
        "futures over",
        "futures pending",
        "futures moved",
        "futures dropped",
        "futures dropped when woken",
        "tasks over",
        "tasks aborted",
        "leases",
        "proofs",
        "proofs of no lease",
        "breaks that wait",
    ];
    explore("cancelled_futures", &must, |tally| {
        let world = World::new(tally);
        let by_hand = |nerve| {
            world.spawn(move |world| {
                for _ in 0..2 {
                    tasks::play(&world.tally, some_future(world), nerve);
                }
            })
        };
        let holder = world.spawn(|world| {
            for _ in 0..2 {
                if let Some(held) = world.try_pin(some_pages()) {
                    held.work();
                }
            }
        });
        let aborted = world.spawn(|world| {
            let task = shuttle::future::spawn(some_future(world));
            if one_in(2) {
                task.abort();
            }
            let over = shuttle::future::block_on(task).is_ok();
            world.count(if over { "tasks over" } else { "tasks aborted" });
        });
        join([
            by_hand(Nerve::Steady),
            holder,
            by_hand(Nerve::Weak),
            aborted,
        ]);
        world.balanced_and_open();
    });
}

/// One of everything.
fn anything(world: &World, other: &World, queue: &Sender<Token>) {
    match below(7) {
        0 => pin_somehow(world),
        1 => break_somehow(world),
        2 => lease_somehow(world),
        3 => break_leases_somehow(world),
        4 => break_together([(world, some_pages()), (other, some_pages())], one_in(2)),
        5 => tasks::play(&world.tally, some_future(world), Nerve::Weak),
        _ => hold_somehow(world, queue),
    }
}

/// All promises: everybody does anything with two mappings.
#[test]
fn everything() {
    let must = [
        "pins",
        "pins given up",
        "refusals",
        "leases",
        "recalls",
        "proofs",
        "proofs of no lease",
        "proofs of two mappings",
        "breaks given up",
        "breaks that wait",
        "holders that break",
        "extensions through what is closed",
        "tokens redeemed",
        "futures dropped",
        "timeouts",
    ];
    explore("everything", &must, |tally: &Arc<Tally>| {
        let (a, b) = (World::new(tally), World::new(tally));
        let (queue, device) = device(tally);
        let player = |first: &World, second: &World| {
            let (other, queue) = (second.clone(), queue.clone());
            first.spawn(move |world| {
                for _ in 0..2 {
                    match one_in(2) {
                        true => anything(world, &other, &queue),
                        false => anything(&other, world, &queue),
                    }
                }
            })
        };
        let players = [
            player(&a, &b),
            player(&b, &a),
            player(&a, &b),
            player(&b, &a),
        ];
        drop(queue);
        join(players);
        device.join().unwrap();
        a.balanced_and_open();
        b.balanced_and_open();
    });
}
