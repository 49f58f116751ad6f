//! Models of the gate, explored by loom as in `loom_core`: what a pinner may believe of the tables while breakers
//! switch them, and of the mode while it changes.
#![cfg(lease_loom)]

mod loom_support;

use std::mem;
use std::sync::Arc;

use layout_lease::{Barrier, Drained, PageRange, break_layouts_of};
use loom_support::{
    Disk, Guard, beside, break_if_idle, device, explore, explore_all, free, guard, guard_with,
    pin_if_open, pinner_of, range, thread,
};

/// A pinner of `pages` beside a breaker that does `steps`. Of the pages in question, the block must be freed under
/// a proof, and never while the pinner uses it. Nobody needs a fence: a pin that does is charged for it, which takes
/// the lock, and so would order what the gate must.
fn pin_beside(
    preemptions: usize,
    pages: PageRange,
    steps: impl Fn(&Guard) + Copy + Send + Sync + 'static,
) {
    pin_beside_with(Barrier::Asymmetric, preemptions, pages, steps);
}

fn pin_beside_with(
    barrier: Barrier,
    preemptions: usize,
    pages: PageRange,
    steps: impl Fn(&Guard) + Copy + Send + Sync + 'static,
) {
    explore(preemptions, move || {
        let guard = guard_with(barrier);
        let breaker = beside(&guard, move |guard| steps(guard));
        pin_if_open(&guard, pages);
        breaker.join().unwrap();
    });
}

fn close<'g>(guard: &'g Guard, ranges: &[(u64, u64)]) -> Drained<'g, Disk> {
    let ranges: Vec<_> = ranges
        .iter()
        .map(|(start, end)| range(*start, *end))
        .collect();
    guard.break_all(&ranges).wait().unwrap()
}

/// I1, I7: the table that the pinner reads is filled again, with pages behind its own, when those have been
/// freed: it may believe that they are open only if it has seen why.
#[test]
fn i07_table_filled_again_with_later_pages() {
    pin_beside(2, range(0, 1), |guard| {
        let first = close(guard, &[(0, 1)]);
        free(guard);
        let second = close(guard, &[(4, 5)]);
        drop(first);
        drop(second);
    });
}

/// I1, I7: as before, with pages before its own: here it is the end of the range that says so.
#[test]
fn i07_table_filled_again_with_earlier_pages() {
    pin_beside(2, range(4, 5), |guard| {
        let first = close(guard, &[(4, 5)]);
        free(guard);
        let second = close(guard, &[(0, 1)]);
        drop(first);
        drop(second);
    });
}

/// I1, I7: the table had more ranges than it has room for, and its spill table goes back to the pool.
#[test]
fn i07_table_given_back() {
    pin_beside(0, range(0, 1), |guard| {
        let proof = close(guard, &[(0, 1), (4, 5)]);
        free(guard);
        drop(proof);
    });
}

/// I1, I7: as before, and then it is filled again in place.
#[test]
fn i07_spilt_table_filled_again_in_place() {
    pin_beside(2, range(0, 1), |guard| {
        let first = close(guard, &[(0, 1), (4, 5)]);
        free(guard);
        let second = close(guard, &[(8, 9)]);
        drop(first);
        drop(second);
    });
}

/// I1, I7: the spill table stays, and is filled again with pages behind the pinner's.
#[test]
fn i07_spill_table_filled_again_with_later_pages() {
    pin_beside(2, range(0, 1), |guard| {
        let first = close(guard, &[(0, 1), (4, 5)]);
        free(guard);
        let second = close(guard, &[(20, 21), (24, 25)]);
        drop(first);
        drop(second);
    });
}

/// I1, I7: as before, with pages before its own.
#[test]
fn i07_spill_table_filled_again_with_earlier_pages() {
    pin_beside(2, range(20, 21), |guard| {
        let first = close(guard, &[(20, 21), (24, 25)]);
        free(guard);
        let second = close(guard, &[(0, 1), (4, 5)]);
        drop(first);
        drop(second);
    });
}

/// I1: the pages stay closed while others beside them open: at no moment does the gate say otherwise.
#[test]
fn i01_closed_while_others_open() {
    pin_beside(2, range(0, 1), |guard| {
        let first = close(guard, &[(0, 1)]);
        let second = close(guard, &[(4, 5)]);
        drop(second);
        free(guard);
        drop(first);
    });
}

/// Some ranges have been closed, one after the other, before a breaker has the proofs and does `steps`, beside a pinner
/// that has a slot at hand: then it looks at the gate once. Nobody needs a fence, as in [`pin_beside`]. The pinner
/// forgets its pin: what comes behind a grant is for other models.
fn pin_behind(
    pages: PageRange,
    closed: &'static [u64],
    steps: impl Fn(&Guard, Vec<Drained<'static, Disk>>) + Copy + Send + Sync + 'static,
) {
    explore_all(1, move || {
        let guard = guard_with(Barrier::Asymmetric);
        drop(guard.try_pin(20..21));
        let proofs: Vec<_> = closed
            .iter()
            .map(|page| guard.break_layouts_arc(*page..page + 1).wait().unwrap())
            .collect();
        let breaker = beside(&guard, move |guard| steps(guard, proofs));
        if let Ok(pin) = guard.try_pin(pages) {
            device(&guard);
            mem::forget(pin);
        }
        breaker.join().unwrap();
    });
}

/// I1: as before, while the table that the pinner reads is emptied to be filled again with fewer ranges.
#[test]
fn i01_closed_while_the_table_is_emptied() {
    pin_behind(range(4, 5), &[0, 4, 8], |guard, mut proofs| {
        drop(proofs.remove(0));
        drop(proofs.pop());
        free(guard);
        drop(proofs);
    });
}

/// I1: pages elsewhere are closed and opened, then the pinner's: what it saw before is not what it sees now,
/// however alike.
#[test]
fn i01_closed_elsewhere_before() {
    pin_behind(range(0, 1), &[9], |guard, proofs| {
        drop(proofs);
        // Busy, if the pinner was first: it forgets its pin.
        break_if_idle(guard, 0..1);
    });
}

/// I7: pages are opened while others stay closed, and the table that says so has said the same before. Nobody needs a
/// fence, so that no pin is charged for any: that takes the lock, and would order what the gate must.
#[test]
fn i07_opened_beside_closed_pages() {
    pin_when_told(0, range(0, 1), |guard, begin| {
        let elsewhere = close(guard, &[(4, 5)]);
        let proof = close(guard, &[(0, 1)]);
        begin();
        free(guard);
        drop(proof);
        mem::forget(elsewhere);
    });
}

/// I12: pages before and behind the pinner's are closed in turn, in the same place of the same table: it is not refused,
/// whatever it reads of either.
#[test]
fn i12_pin_between_pages_that_are_closed_in_turn() {
    explore(2, || {
        let guard = guard_with(Barrier::Asymmetric);
        let pinner = beside(&guard, |guard| {
            drop(guard.try_pin(2..3).expect("nobody has closed it"))
        });
        drop(close(&guard, &[(0, 1)]));
        drop(close(&guard, &[(4, 5)]));
        pinner.join().unwrap();
    });
}

/// I7: the pages are reopened while a pinner that has filled its slot looks again; every schedule.
#[test]
fn i07_reopened_between_two_looks() {
    explore(0, || {
        let guard = guard_with(Barrier::Asymmetric);
        let breaker = beside(&guard, |guard| {
            break_if_idle(guard, 0..1);
        });
        pin_if_open(&guard, 0..1);
        breaker.join().unwrap();
    });
}

/// A breaker that does `steps`, in which it calls for a pinner of `pages` when that is to begin. Nobody needs a fence,
/// and a release of others executes no barrier: what is not ordered by the gate itself is not ordered. The
/// pinner forgets its pin: what comes behind a grant is for other models. Those that do not end without a bound have one.
fn pin_when_told(
    preemptions: usize,
    pages: PageRange,
    steps: impl Fn(&Arc<Guard>, &mut dyn FnMut()) + Copy + Send + Sync + 'static,
) {
    explore_all(preemptions, move || told(pages, steps));
}

fn told(pages: PageRange, steps: impl Fn(&Arc<Guard>, &mut dyn FnMut())) {
    let guard = guard_with(Barrier::Asymmetric);
    let mut pinner = None;
    steps(&guard, &mut || {
        pinner = Some(beside(&guard, move |guard| {
            if let Ok(pin) = guard.try_pin(pages) {
                device(guard);
                mem::forget(pin);
            }
        }));
    });
    if let Some(pinner) = pinner {
        pinner.join().unwrap();
    }
    // What waits for the log has the guard, which must be gone before loom's statics.
    guard.durable(u64::MAX);
    guard.run_retired();
}

/// I7: the one place of a table has the pinner's pages, is given up, and says later pages when others are closed: who
/// meets those without the word must see that its pages have been open in between, and why.
#[test]
fn i07_place_filled_again_with_later_pages() {
    pin_when_told(1, range(0, 1), |guard, begin| {
        let proof = close(guard, &[(0, 1)]);
        begin();
        free(guard);
        drop(proof);
        mem::forget(guard.break_layouts(4..5));
    });
}

/// I7: as before, with earlier pages: it is the end that says so.
#[test]
fn i07_place_filled_again_with_earlier_pages() {
    pin_when_told(1, range(4, 5), |guard, begin| {
        let proof = close(guard, &[(4, 5)]);
        begin();
        free(guard);
        drop(proof);
        mem::forget(guard.break_layouts(0..1));
    });
}

/// I7: as before, and the new ranges are too many for the place.
#[test]
fn i07_place_given_up_for_a_spill_table() {
    pin_when_told(1, range(0, 1), |guard, begin| {
        let proof = close(guard, &[(0, 1)]);
        begin();
        free(guard);
        drop(proof);
        mem::forget(guard.break_all(&[range(4, 5), range(8, 9)]));
    });
}

/// I7: the pinner's pages are retired, and freed; then the log is waited for by so many others that their index is in
/// another table.
#[test]
fn i07_index_of_chunks_filled_again() {
    // So much happens in it that it sees what loom shows it, and no more.
    explore(1, || {
        told(range(0, 1), |guard, begin| {
            let lease = guard.lease(20..40).wait().unwrap();
            let first = guard.retire_after(0..1, 1);
            let others = [20, 24, 28, 32, 36].map(|page| guard.retire_after(page..page + 1, 7));
            let elsewhere = close(guard, &[(60, 61)]);
            begin();
            guard.durable(1);
            assert_eq!(guard.run_retired(), 1);
            // They go on the shelf, and with the next change into the gate.
            drop(lease);
            drop(elsewhere);
            drop((first, others));
        });
    });
}

/// I1: while pages stay closed, others before them are closed too, so that they move on in their table.
#[test]
fn i01_closed_while_others_come_before_them() {
    pin_when_told(0, range(4, 5), |guard, begin| {
        let proof = close(guard, &[(4, 5), (8, 9), (12, 13)]);
        begin();
        mem::forget(guard.break_layouts(0..1));
        free(guard);
        mem::forget(proof);
    });
}

/// I1: while pages stay closed, others are closed beside them: the word names the other table when that has them all,
/// not before.
#[test]
fn i01_closed_while_others_are_closed_too() {
    pin_when_told(0, range(0, 1), |guard, begin| {
        let proof = close(guard, &[(0, 1)]);
        begin();
        mem::forget(guard.break_layouts(4..5));
        free(guard);
        mem::forget(proof);
    });
}

/// I1: pages stay closed while those before them open and others behind them close: the same table has them at another
/// place then, and says so under another version.
#[test]
fn i01_closed_while_the_table_comes_round() {
    pin_behind(range(4, 5), &[4, 0], |guard, mut proofs| {
        drop(proofs.pop());
        mem::forget(guard.break_layouts(8..9));
        free(guard);
        mem::forget(proofs);
    });
}

/// I1: the same, where the table has been left and is filled again: a pinner that is in it may find its pages at
/// neither place.
#[test]
fn i01_closed_while_the_table_moves_on() {
    pin_when_told(1, range(4, 5), |guard, begin| {
        begin();
        // Busy, if the pinner was first: it forgets its pin.
        if let Ok(proof) = guard.try_break_layouts(4..5) {
            drop(close(guard, &[(8, 9)]));
            mem::forget(guard.break_layouts(0..1));
            free(guard);
            mem::forget(proof);
        }
    });
}

/// I2: the change from asymmetric to fenced. The first break puts `FENCED` into the gate and executes the
/// barrier, the second trusts fences; a pin that looked before the first is seen by both, one that looks later
/// has its fence.
#[test]
fn i02_change_to_fenced() {
    pin_beside_with(Barrier::Adaptive, 2, range(0, 1), |guard| {
        drop(close(guard, &[(9, 10)]));
        let proof = close(guard, &[(0, 1)]);
        free(guard);
        drop(proof);
    });
}

/// I2: the change from fenced back to asymmetric. One thread's pins are fenced and end the countdown; the other's
/// may be without a fence then; the breaker finds either mode, and must execute what that needs.
#[test]
fn i02_change_back_to_asymmetric() {
    explore(2, || {
        let guard = guard();
        // From here on the gate is fenced; one pin more and the countdown has run out (see `COUNTDOWN`).
        drop(close(&guard, &[(9, 10)]));
        drop(guard.try_pin(4..5));
        let breaker = beside(&guard, |guard| {
            let proof = close(guard, &[(0, 1)]);
            free(guard);
            drop(proof);
        });
        let pinner = pinner_of(&guard, 0..1);
        drop(guard.try_pin(4..5));
        breaker.join().unwrap();
        pinner.join().unwrap();
    });
}

/// I2: one break closes pages of a fenced and of an asymmetric mapping: the barrier is the stronger of the two.
#[test]
fn i02_several_guards_in_different_modes() {
    for fenced_first in [false, true] {
        explore(2, move || {
            let (a, b) = match fenced_first {
                true => (guard_with(Barrier::Fenced), guard_with(Barrier::Asymmetric)),
                false => (guard_with(Barrier::Asymmetric), guard_with(Barrier::Fenced)),
            };
            let breaker = thread::spawn({
                let (a, b) = (Arc::clone(&a), Arc::clone(&b));
                move || {
                    let proofs = break_layouts_of(&[(&*a, range(0, 1)), (&*b, range(0, 1))]);
                    let proofs = proofs.wait().unwrap();
                    free(&a);
                    free(&b);
                    drop(proofs);
                }
            });
            for guard in [&a, &b] {
                if let Ok(pin) = guard.try_pin(0..1) {
                    device(guard);
                    drop(pin);
                }
            }
            breaker.join().unwrap();
        });
    }
}
