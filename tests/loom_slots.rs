//! Models of slots and blocks, explored by loom as in `loom_core`: what a scan may believe of a slot that is cleared
//! and filled again while it looks, and of the marks that tell how far it must look.
#![cfg(lease_loom)]

mod loom_support;

use std::ops::Range;

use layout_lease::Barrier;
use loom_support::{
    beside, break_if_idle, breaker_of, device, explore, explore_all, guard, guard_with, holder_of,
    pin_if_open, range,
};

/// The pin of `first` is released on another thread, and the slot filled again with `second` by the thread that
/// owns it, while a breaker of `broken` scans.
fn refilled(first: Range<u64>, second: Range<u64>, broken: Range<u64>) {
    explore(2, move || {
        let guard = guard();
        let same_block = first.contains(&broken.start);
        let first = guard.try_pin(first.clone()).unwrap();
        // The other slot of the block is in use.
        let other = guard.try_pin(40..41).unwrap();
        let releaser = beside(&guard, move |guard| {
            if same_block {
                device(guard);
            }
            drop(first);
        });
        let breaker = breaker_of(&guard, broken.clone());
        let second = guard.try_pin(second.clone()).unwrap();
        releaser.join().unwrap();
        // A break that took the second pin for one of its pages would wait for ever.
        breaker.join().unwrap();
        drop((other, second));
    });
}

/// I7, I11: the scan meets a mixture of two pins. The newer one is of later pages: it is the start that
/// says that the older is over.
#[test]
fn i11_slot_refilled_with_later_pages() {
    refilled(0..1, 8..9, 0..1);
}

/// I7, I11: the newer one is of earlier pages: it is the end that says so.
#[test]
fn i11_slot_refilled_with_earlier_pages() {
    refilled(8..9, 0..1, 8..9);
}

/// I6, I11: a mixture of two pins, neither of them of closed pages, that looks like one: nobody would ever
/// end the wait for it. (The other way round there is none: a slot's end is written before its start, and read behind
/// it.)
#[test]
fn i11_mixture_that_looks_like_a_pin() {
    explore_all(1, || {
        let guard = guard_with(Barrier::Asymmetric);
        let first = guard.try_pin(0..1).unwrap();
        let breaker = beside(&guard, |guard| {
            // Of more than one range, so that there is one scan, and not another if that finds somebody.
            let wanted = guard.break_all(&[range(4, 5), range(30, 31)]);
            drop(wanted.wait().unwrap());
        });
        // The breaker first: that is no preemption.
        loom::thread::yield_now();
        drop(first);
        let second = guard.try_pin(8..9).unwrap();
        breaker.join().unwrap();
        drop(second);
    });
}

/// I6, I11: as before, and when the slot has been marked there is another pin in it, so that there is a mixture again: the
/// mark is gone then.
#[test]
fn i11_mixture_behind_the_mark() {
    explore_all(2, || {
        let guard = guard_with(Barrier::Asymmetric);
        let first = guard.try_pin(0..1).unwrap();
        let breaker = beside(&guard, |guard| {
            let wanted = guard.break_all(&[range(4, 5), range(10, 11)]);
            drop(wanted.wait().unwrap());
        });
        loom::thread::yield_now();
        drop(first);
        let second = guard.try_pin(8..9).unwrap();
        loom::thread::yield_now();
        drop(second);
        let third = guard.try_pin(12..13).unwrap();
        breaker.join().unwrap();
        drop(third);
    });
}

/// I7: the owner of a block sees that a pin in it is over, lowers the mark and raises it again for another. A scan
/// that does not look at the slot any more has still to come after the release.
#[test]
fn i07_mark_lowered_and_raised() {
    explore(2, || {
        let guard = guard_with(Barrier::Fenced);
        let low = guard.try_pin(20..21).unwrap();
        let high = guard.try_pin(0..1).unwrap();
        let releaser = holder_of(&guard, high);
        let breaker = breaker_of(&guard, 0..1);
        drop(low);
        // The block goes to the pool, and comes back from there.
        layout_lease::leave_thread();
        let again = guard.try_pin(20..21).unwrap();
        releaser.join().unwrap();
        breaker.join().unwrap();
        drop(again);
    });
}

/// I7: as before, while the thread stays: its fenced pins tidy its blocks.
#[test]
fn i07_mark_lowered_by_tidying() {
    explore(2, || {
        let guard = guard_with(Barrier::Fenced);
        let low = guard.try_pin(20..21).unwrap();
        let high = guard.try_pin(0..1).unwrap();
        let releaser = holder_of(&guard, high);
        let breaker = breaker_of(&guard, 0..1);
        drop(low);
        drop(guard.try_pin(20..21));
        releaser.join().unwrap();
        breaker.join().unwrap();
    });
}

/// I2, I11: a pin in a slot that was never in use before: the scan must look that far.
#[test]
fn i11_mark_raised_beside_a_scan() {
    explore(0, || {
        let guard = guard_with(Barrier::Asymmetric);
        let pinner = beside(&guard, |guard| {
            let low = guard.try_pin(20..21).unwrap();
            pin_if_open(guard, 0..1);
            drop(low);
        });
        break_if_idle(&guard, 0..1);
        pinner.join().unwrap();
    });
}

/// I6: the slot that a holder clears is filled again at once, for other pages, by the thread that owns it: the
/// holder must still say which pages it has left.
#[test]
fn i06_range_of_a_slot_that_is_taken_again() {
    explore(2, || {
        let guard = guard();
        let pin = guard.try_pin(0..1).unwrap();
        let holder = holder_of(&guard, pin);
        let breaker = breaker_of(&guard, 0..1);
        let other = guard.try_pin(8..9).unwrap();
        holder.join().unwrap();
        breaker.join().unwrap();
        drop(other);
    });
}
