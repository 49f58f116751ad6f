//! What a player may do, and draws: each thing begins and ends with nothing in hand, and waits with nothing
//! in hand, so that the players themselves cannot bring about a deadlock.

use layout_lease::{PageRange, break_layouts_of};
use shuttle::sync::mpsc::Sender;

use super::disk::{PAGES, range, step};
use super::world::{Closing, Token, World, below, one_in, some_pages};

/// Pins and waits for pins.
pub(crate) fn pin_somehow(world: &World) {
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

/// An operation that takes more pages, hands its pin to the device, or breaks what it holds.
pub(crate) fn hold_somehow(world: &World, device: &Sender<Token>) {
    let Some(held) = world.try_pin(some_pages()) else {
        return;
    };
    held.work();
    if one_in(2) {
        if let Some(more) = held.extend(world, some_pages()) {
            more.work();
            if one_in(2) {
                // The extension goes on without what it hangs on.
                drop(held);
                more.work();
                return;
            }
        }
    }
    match below(3) {
        0 => {
            world.count("tokens");
            device.send(held.into_token()).unwrap();
        }
        1 => {
            if let Some(proof) = held.into_break(world, one_in(2)) {
                proof.free();
            }
        }
        _ => {}
    }
}

/// Breaks, tries, operations; proofs that are split; breaks that are given up.
pub(crate) fn break_somehow(world: &World) {
    let pages = some_pages();
    match below(5) {
        0 => match world.guard.try_break_layouts(pages) {
            Ok(proof) => {
                world.count("tried breaks");
                proof.punch_hole(pages).unwrap();
            }
            Err(_) => world.count("tried breaks refused"),
        },
        1 => match world.guard.punch_hole(pages).wait() {
            Ok(freed) => assert_eq!(freed, pages.len()),
            Err(_) => world.count("breaks too late"),
        },
        2 => break_all(world),
        n => {
            let Some(proof) = world.break_layouts(pages, n == 3) else {
                return;
            };
            proof.free();
            if one_in(2) {
                let (low, high) = proof.split(world, below(PAGES));
                drop(low);
                step();
                if let Some(high) = high {
                    high.free();
                }
            }
        }
    }
}

/// The first and the last page, in one wait: those between are not closed.
fn break_all(world: &World) {
    let ranges = [range(PAGES - 1, PAGES), range(0, 1)];
    let breaking = world.guard.break_all(&ranges);
    let closing = Closing::several(world, &ranges);
    world.count("breaks of two ranges");
    if let Some(proof) = world.wait_for(breaking, closing, one_in(2)) {
        proof.free();
    }
}

/// Breaks ranges of several mappings in one wait, in the order given.
pub(crate) fn break_together(parts: [(&World, PageRange); 2], patient: bool) {
    let [(a, of_a), (b, of_b)] = parts;
    let mut breaking = break_layouts_of(&[(&*a.guard, of_a), (&*b.guard, of_b)]);
    let closings = (Closing::new(a, of_a), Closing::new(b, of_b));
    let answer = if patient {
        Some(breaking.wait())
    } else {
        let answer = a.wait_a_little(|timeout| breaking.wait_timeout(timeout));
        if answer.is_none() {
            drop(closings);
            a.count("breaks of two mappings given up");
            return;
        }
        answer
    };
    match answer {
        Some(Ok(proofs)) => {
            a.count("proofs of two mappings");
            for (world, pages) in parts {
                world.blocks.proved(pages);
                let proof = proofs.of(&world.guard).expect("it is one of them");
                assert_eq!(proof.punch_hole(pages).unwrap(), pages.len());
            }
            for (world, pages) in parts {
                world.blocks.unproved(pages);
            }
            // Told off before they are dropped, which reopens.
            drop(closings);
            drop(proofs);
        }
        _ => a.count("breaks too late"),
    }
}

/// Leases, and gives back what is wanted.
pub(crate) fn lease_somehow(world: &World) {
    if let Some(lease) = world.lease(some_pages(), one_in(2)) {
        lease.use_and_return(world);
    }
}

/// Breaks leases alone; pins go on meanwhile.
pub(crate) fn break_leases_somehow(world: &World) {
    if let Some(free) = world.break_leases(some_pages(), one_in(2)) {
        free.work();
        if let Some(held) = world.try_pin(some_pages()) {
            held.work();
        }
        free.work();
    }
}
