//! Models of the machine, explored by loom: `RUSTFLAGS="--cfg lease_loom" cargo test --release --test
//! loom_core`.
//!
//! The real crate runs in them, over loom's atomics, locks and thread locals. The disk block is a
//! `loom::cell::UnsafeCell`: a holder touches it under its pin, the breaker overwrites it under its
//! proof, and loom itself reports any schedule in which the two are not ordered, be it that a block was
//! freed under a pin (I2) or that an ordering is too weak (I7). A lost wake (I6) is a deadlock, which loom
//! reports too.
//!
//! What loom cannot see: store-load reordering is modelled through its fences only; the events are thin
//! twins (the real ones are another crate's); statics and blocks are small (two slots a block).
#![cfg(lease_loom)]

mod loom_support;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use layout_lease::{Barrier, LayoutGuard, PagePin};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom_support::{
    Disk, Guard, beside, break_and_free, break_if_idle, breaker_of, device, explore, free, guard,
    guard_with, holder_of, pin_if_open, pinner_of, thread,
};

/// I1, I2, I7: a pin is granted and waited for, or refused. Both handshakes in one: the slot against the
/// gate when pinning, the slot against the waiter when unpinning.
#[test]
fn i02_pin_against_close() {
    for barrier in [Barrier::Fenced, Barrier::Asymmetric, Barrier::Adaptive] {
        explore(0, move || {
            let guard = guard_with(barrier);
            let pinner = pinner_of(&guard, 0..1);
            break_and_free(&guard, 0..1);
            pinner.join().unwrap();
        });
    }
}

/// I1, I2: as before, where the pinner has a slot at hand: the way that takes no call.
#[test]
fn i02_slot_at_hand_against_close() {
    explore(3, || {
        let guard = guard_with(Barrier::Asymmetric);
        let pinner = beside(&guard, |guard| {
            drop(guard.try_pin(8..9));
            pin_if_open(guard, 0..1);
        });
        break_and_free(&guard, 0..1);
        pinner.join().unwrap();
    });
}

/// I2: a pinner steps back through the unpin path and is counted off, though it was never counted on; the
/// other holder must still be waited for.
#[test]
fn i02_retreat_beside_a_holder() {
    explore(2, || {
        let guard = guard();
        let pin = guard.try_pin(0..1).unwrap();
        let pinner = beside(&guard, |guard| drop(guard.try_pin(0..1)));
        let holder = holder_of(&guard, pin);
        break_and_free(&guard, 0..1);
        pinner.join().unwrap();
        holder.join().unwrap();
    });
}

/// I2, I6: the mode changes in both directions while a pinner and a breaker meet. The first break makes
/// the gate fenced, the pinner's pins count down and make it asymmetric again, the second break finds
/// either.
#[test]
fn i02_change_of_mode_against_pins() {
    explore(2, || {
        let guard = guard();
        let pinner = beside(&guard, |guard| {
            for _ in 0..2 {
                pin_if_open(guard, 0..1);
            }
        });
        for _ in 0..2 {
            break_and_free(&guard, 0..1);
        }
        pinner.join().unwrap();
    });
}

/// I7, the other direction: what happened under the proof happens before the next pin's grant, also of a pin that
/// takes no lock to be charged for its fence.
#[test]
fn i07_reopening_is_seen_by_the_next_pin() {
    explore(0, || {
        let guard = guard_with(Barrier::Asymmetric);
        let breaker = beside(&guard, |guard| break_if_idle(guard, 0..1));
        pin_if_open(&guard, 0..1);
        breaker.join().unwrap();
    });
}

/// I6, I9: the last pin is dropped on another thread while the breaker goes to sleep.
#[test]
fn i06_unpin_against_scan_and_sleep() {
    explore(0, || {
        let guard = guard();
        let pin = guard.try_pin(0..1).unwrap();
        let holder = holder_of(&guard, pin);
        break_and_free(&guard, 0..1);
        holder.join().unwrap();
    });
}

/// I6: of two holders, exactly the last one wakes the breaker: a task that counts, and a thread that sleeps.
#[test]
fn i06_two_holders_one_wake() {
    struct Bell(Arc<Guard>, AtomicUsize);
    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            assert_eq!(self.0.stats().pins, 0, "not the last");
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }
    explore(2, || {
        let guard = guard();
        let holders = [(); 2].map(|()| holder_of(&guard, guard.try_pin(0..1).unwrap()));
        let mut wanted = guard.break_layouts(0..1);
        let bell = Arc::new(Bell(Arc::clone(&guard), AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&bell));
        let polled = Pin::new(&mut wanted).poll(&mut Context::from_waker(&waker));
        for holder in holders {
            holder.join().unwrap();
        }
        assert_eq!(
            bell.1.load(Ordering::Relaxed),
            usize::from(polled.is_pending())
        );
        if polled.is_pending() {
            drop(wanted.wait().unwrap());
        }
    });
    explore(2, || {
        let guard = guard();
        let holders: Vec<_> = (0..2)
            .map(|_| holder_of(&guard, guard.try_pin(0..1).unwrap()))
            .collect();
        break_and_free(&guard, 0..1);
        for holder in holders {
            holder.join().unwrap();
        }
    });
}

/// I7, I11: the slot is cleared and filled again, for other pages, between the release and the scan. The
/// scan meets the second pin and must still come after the first one's release.
#[test]
fn i11_slot_reuse_between_unpin_and_scan() {
    explore(0, || {
        let guard = guard();
        let pinner = beside(&guard, |guard| {
            pin_if_open(guard, 0..1);
            guard.try_pin(5..9).map(std::mem::forget).ok();
        });
        break_and_free(&guard, 0..1);
        pinner.join().unwrap();
    });
}

/// I7: as before, but the first pin is released on another thread than the one that fills the slot again.
/// This is the Release/Acquire pair which x86 hides.
#[test]
fn i07_slot_freed_elsewhere_and_refilled() {
    explore(2, || {
        let guard = guard();
        let (first, second) = (guard.try_pin(0..1).unwrap(), guard.try_pin(7..8).unwrap());
        let releaser = holder_of(&guard, first);
        let breaker = breaker_of(&guard, 0..1);
        // Ours are the slots; the first may or may not be free by now.
        let third = guard.try_pin(8..9).unwrap();
        releaser.join().unwrap();
        breaker.join().unwrap();
        drop((second, third));
    });
}

/// I3: overlapping breaks have their turn one after the other.
#[test]
fn i03_two_breakers_overlapping() {
    explore(3, || {
        let guard = guard();
        let other = breaker_of(&guard, 0..2);
        break_and_free(&guard, 1..3);
        other.join().unwrap();
    });
}

/// I3: disjoint breaks run side by side, each with a pin to wait for: one keeps its proof until the other has got its own.
#[test]
fn i03_two_breakers_disjoint() {
    explore(2, || {
        let guard = guard();
        let pin = guard.try_pin(1..6).unwrap();
        let other = beside(&guard, |guard| {
            let proof = guard.break_layouts(5..6).wait().unwrap();
            drop(proof);
        });
        let holder = thread::spawn(move || drop(pin));
        let proof = guard.break_layouts(1..2).wait().unwrap();
        other.join().unwrap();
        drop(proof);
        holder.join().unwrap();
    });
}

/// I12: a pin between two closed ranges is granted while the gate is switched from table to table.
#[test]
fn i12_pin_between_closed_ranges() {
    explore(2, || {
        let guard = guard();
        let breaker = beside(&guard, |guard| {
            let low = guard.break_layouts(0..1).wait().unwrap();
            let high = guard.break_layouts(9..10).wait().unwrap();
            free(guard);
            drop(low);
            drop(high);
        });
        drop(guard.try_pin(4..6).unwrap());
        pin_if_open(&guard, 9..10);
        breaker.join().unwrap();
    });
}

/// I8: a break that is dropped while it waits leaves the gate open and lets the queued one on.
#[test]
fn i08_break_dropped_while_waiting_and_queued() {
    explore(2, || {
        let guard = guard();
        let pin = guard.try_pin(0..1).unwrap();
        let first = guard.break_layouts(0..1);
        let second = guard.break_layouts_arc(0..1);
        let other = beside(&guard, |guard| {
            let proof = second.wait().unwrap();
            free(guard);
            drop(proof);
        });
        let holder = holder_of(&guard, pin);
        drop(first);
        other.join().unwrap();
        holder.join().unwrap();
        assert!(guard.try_pin(0..1).is_ok());
    });
}

/// I5, I6: reopening grants a waiting pinner, whichever of the two comes first.
#[test]
fn i05_reopen_against_waiting_pinner() {
    explore(0, || {
        let guard = guard();
        let proof = guard.break_layouts(0..1).wait().unwrap();
        let pinner = beside(&guard, |guard| {
            let pin = guard.pin(0..1).wait().unwrap();
            device(guard);
            drop(pin);
        });
        free(&guard);
        drop(proof);
        pinner.join().unwrap();
    });
}

/// I3, I5: a pinner with an earlier ticket goes before a later break, which waits for its pin: also where that break
/// wants only pages that nobody else has closed.
#[test]
fn i05_waiting_pinner_before_later_break() {
    explore(2, || {
        let guard = guard();
        let proof = guard.break_layouts(0..1).wait().unwrap();
        let mut pin = guard.pin(0..2);
        assert!(pin.wait_timeout(std::time::Duration::ZERO).is_none());
        let later = breaker_of(&guard, 1..2);
        free(&guard);
        drop(proof);
        let pin = pin.wait().unwrap();
        device(&guard);
        drop(pin);
        later.join().unwrap();
    });
}

/// I9: the guard is dropped while the last pin goes. The map is dropped once, and not under the pin.
#[test]
fn i09_last_pin_against_dropped_guard() {
    struct Counted(Arc<AtomicUsize>, Arc<Disk>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
            self.1.0.with_mut(|block| {
                // SAFETY: loom checks it.
                unsafe { *block += 1 };
            });
        }
    }
    explore(0, || {
        let drops = Arc::new(AtomicUsize::new(0));
        let disk = Arc::new(Disk(UnsafeCell::new(0)));
        let guard = LayoutGuard::new(Counted(Arc::clone(&drops), Arc::clone(&disk)));
        let pin = guard.try_pin(0..1).unwrap();
        let holder = thread::spawn(move || {
            disk.0.with(|block| {
                // SAFETY: loom checks it.
                let _ = unsafe { *block };
            });
            drop(pin);
        });
        drop(guard);
        holder.join().unwrap();
        assert_eq!(drops.load(Ordering::Relaxed), 1);
    });
}

/// I11: the table of slots grows while the breaker scans.
#[test]
fn i11_growth_during_a_scan() {
    explore(2, || {
        let guard = guard();
        let pinner = beside(&guard, |guard| {
            let elsewhere: Vec<PagePin> =
                (5..7).map(|n| guard.try_pin(n..n + 1).unwrap()).collect();
            // The block is full: this one needs another.
            pin_if_open(guard, 0..1);
            drop(elsewhere);
        });
        break_and_free(&guard, 0..1);
        pinner.join().unwrap();
    });
}

/// I9: a thread exits with a live pin, and another adopts its block, pins beside it and drops both.
#[test]
fn i09_block_of_an_exited_thread_is_adopted() {
    explore(2, || {
        let guard = guard();
        let left = beside(&guard, |guard| guard.try_pin(0..1).unwrap())
            .join()
            .unwrap();
        let heir = beside(&guard, |guard| {
            pin_if_open(guard, 0..2);
            device(guard);
            drop(left);
        });
        break_and_free(&guard, 0..1);
        heir.join().unwrap();
    });
}

/// Closing for good: the last pin goes while the closer waits, and a waiting pinner is told.
#[test]
fn close_against_pin_and_waiting_pinner() {
    explore(2, || {
        let guard = guard();
        let pin = guard.try_pin(0..1).unwrap();
        let holder = holder_of(&guard, pin);
        let pinner = beside(&guard, |guard| {
            if let Ok(pin) = guard.pin(0..1).wait() {
                device(guard);
                drop(pin);
            }
        });
        guard.close().wait();
        free(&guard);
        holder.join().unwrap();
        pinner.join().unwrap();
    });
}
