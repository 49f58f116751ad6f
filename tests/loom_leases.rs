//! Models of what lasts longer than an operation, explored by loom as in `loom_core`: leases and their
//! recall, tokens, extensions, retirements, breaks of several guards.
#![cfg(lease_loom)]

mod loom_support;

use std::sync::Arc;

use layout_lease::{PinToken, break_layouts_of};
use loom::sync::atomic::{AtomicU64, Ordering};
use loom_support::{
    beside, break_and_free, device, explore, free, guard, holder_of, pin_if_open, range, thread,
};

/// I6, I7: the holder waits to be recalled and then lets go; the breaker waits for that.
#[test]
fn recall_against_release() {
    explore(0, || {
        let guard = guard();
        let lease = guard.lease(0..2).wait().unwrap();
        let holder = beside(&guard, |guard| {
            device(guard);
            assert_eq!(lease.recalled().wait(), range(1, 2));
            device(guard);
            drop(lease);
        });
        break_and_free(&guard, 1..4);
        holder.join().unwrap();
    });
}

/// I6: a lease is given back while two who were not asked wait for it, and a pin goes too.
#[test]
fn lease_and_pin_against_two_breaks() {
    explore(3, || {
        let guard = guard();
        let lease = guard.lease(0..2).wait().unwrap();
        let pin = guard.try_pin(0..1).unwrap();
        let holder = beside(&guard, |guard| {
            device(guard);
            drop(lease);
            drop(pin);
        });
        let leases = guard.break_leases(0..4);
        break_and_free(&guard, 0..1);
        drop(leases.wait().unwrap());
        holder.join().unwrap();
    });
}

/// I6: the breaker wanted only what is given back.
#[test]
fn shrink_against_wait() {
    explore(0, || {
        let guard = guard();
        let mut lease = guard.lease(0..4).wait().unwrap();
        let holder = beside(&guard, |guard| {
            device(guard);
            lease.shrink_to(0..2).unwrap();
            lease
        });
        break_and_free(&guard, 3..4);
        drop(holder.join().unwrap());
    });
}

/// I5: one who waits for a lease gets it from whoever reopens, and is recalled by the next break.
#[test]
fn reopen_against_waiting_lease() {
    explore(0, || {
        let guard = guard();
        let proof = guard.break_layouts(0..1).wait().unwrap();
        let holder = beside(&guard, |guard| {
            let lease = guard.lease(0..1).wait().unwrap();
            device(guard);
            drop(lease);
        });
        free(&guard);
        drop(proof);
        break_and_free(&guard, 0..1);
        holder.join().unwrap();
    });
}

/// I1, I11: an operation takes a page of a range that is being closed, on the strength of the one it
/// holds; whichever it drops first, the break waits for both.
#[test]
fn extend_against_scan() {
    for first_goes_first in [true, false] {
        explore(3, move || {
            let guard = guard();
            let first = guard.try_pin(0..1).unwrap();
            let holder = beside(&guard, move |guard| {
                // The break closes both pages, or has not come yet.
                let second = first.extend(guard, 1..2).unwrap();
                if first_goes_first {
                    drop(first);
                    device(guard);
                    drop(second);
                } else {
                    drop(second);
                    device(guard);
                    drop(first);
                }
            });
            break_and_free(&guard, 0..2);
            holder.join().unwrap();
        });
    }
}

/// I7: the pin travels as a number that orders nothing itself, and is dropped on another thread.
#[test]
fn token_against_break() {
    explore(0, || {
        let guard = guard();
        let pin = guard.try_pin(0..1).unwrap();
        let queue = Arc::new(AtomicU64::new(0));
        let device_thread = thread::spawn({
            let (guard, queue) = (Arc::clone(&guard), Arc::clone(&queue));
            move || {
                let token = PinToken::from_u64(queue.load(Ordering::Relaxed));
                if let Some(pin) = token.and_then(PinToken::redeem) {
                    device(&guard);
                    // What was done before the token was made is visible, too.
                    guard.map().0.with(|block| {
                        // SAFETY: loom checks it.
                        assert_eq!(unsafe { *block }, 1);
                    });
                    drop(pin);
                    return true;
                }
                false
            }
        });
        // Nobody else has a pin: the holder may write.
        free(&guard);
        let token = pin.into_token().to_u64();
        queue.store(token, Ordering::Relaxed);
        if device_thread.join().unwrap() {
            assert!(
                PinToken::from_u64(token)
                    .and_then(PinToken::redeem)
                    .is_none()
            );
        } else {
            drop(
                PinToken::from_u64(token)
                    .and_then(PinToken::redeem)
                    .unwrap(),
            );
        }
        drop(guard.break_layouts(0..1).wait().unwrap());
    });
}

/// I2, I4: of two who redeem the same number, one gets the pin; and a token that comes back late is not
/// taken for the slot's next pin.
#[test]
fn token_redeemed_twice() {
    explore(0, || {
        let guard = guard();
        let token = guard.try_pin(0..1).unwrap().into_token().to_u64();
        let redeem = move || PinToken::from_u64(token).and_then(PinToken::redeem);
        let other = thread::spawn(move || {
            redeem().is_some_and(|pin| {
                drop(pin);
                true
            })
        });
        let ours = redeem().is_some_and(|pin| {
            drop(pin);
            true
        });
        // The slot again, perhaps before the other has tried.
        let next = guard.try_pin(0..1).unwrap();
        let theirs = other.join().unwrap();
        assert!(ours != theirs, "one of the two");
        assert!(
            guard.try_break_layouts(0..1).is_err(),
            "the next pin is still there"
        );
        drop(next);
    });
}

/// I8: two holders break what they hold; neither waits for the other for ever.
#[test]
fn into_break_of_each_other() {
    explore(3, || {
        let guard = guard();
        let (a, b) = (guard.try_pin(0..2).unwrap(), guard.try_pin(1..3).unwrap());
        let other = beside(&guard, |guard| {
            let proof = b.into_break(guard).unwrap().wait().unwrap();
            free(guard);
            drop(proof);
        });
        let proof = a.into_break(&guard).unwrap().wait().unwrap();
        free(&guard);
        drop(proof);
        other.join().unwrap();
    });
}

/// I6: the reclaimer sleeps until the last holder has gone, and what it frees is not used any more.
#[test]
fn retire_against_release() {
    explore(0, || {
        let guard = guard();
        let pin = guard.try_pin(0..1).unwrap();
        let holder = holder_of(&guard, pin);
        drop(guard.retire(0..1));
        guard.retired_ready().wait();
        assert_eq!(guard.run_retired(), 1);
        holder.join().unwrap();
    });
}

/// I6: one waits for the retirement itself while somebody else runs it.
#[test]
fn retired_against_run_retired() {
    explore(0, || {
        let guard = guard();
        let retired = guard.retire(0..1);
        let reclaimer = beside(&guard, |guard| guard.run_retired());
        assert_eq!(retired.wait().unwrap(), 1);
        reclaimer.join().unwrap();
        let pin = guard.try_pin(0..1).unwrap();
        device(&guard);
        drop(pin);
    });
}

/// I6: the guard closes while a holder of retired pages lets go: whoever closes runs what is left.
#[test]
fn retire_against_close() {
    explore(3, || {
        let guard = guard();
        let pin = guard.try_pin(0..1).unwrap();
        let retired = guard.retire_after(0..1, 7);
        let holder = beside(&guard, |guard| {
            device(guard);
            guard.durable(7);
            drop(pin);
        });
        guard.close().wait();
        free(&guard);
        holder.join().unwrap();
        assert_eq!(retired.wait().unwrap(), 1);
    });
}

/// I6: the last holder lets go of pages whose log never comes, while whoever closes finds that nobody is left:
/// it must hear that there is something to give up.
#[test]
fn retire_against_close_without_the_log() {
    explore(3, || {
        let guard = guard();
        let pin = guard.try_pin(0..1).unwrap();
        let retired = guard.retire_after(0..1, 7);
        let holder = thread::spawn(move || drop(pin));
        guard.close().wait();
        holder.join().unwrap();
        assert!(retired.wait().is_err());
    });
}

/// I5: nothing is given up while somebody holds pages elsewhere, who may be the one that writes the log.
#[test]
fn retire_against_close_with_a_pin_elsewhere() {
    explore(3, || {
        let guard = guard();
        let pin = guard.try_pin(1..2).unwrap();
        let retired = guard.retire_after(0..1, 7);
        let holder = beside(&guard, |guard| {
            guard.durable(7);
            drop(pin);
        });
        guard.close().wait();
        holder.join().unwrap();
        assert_eq!(retired.wait().unwrap(), 1);
    });
}

/// I1, I7, I12: what waits for the log is listed in chunks, and one chunk after the other is replaced: what is
/// closed stays closed meanwhile, and what is between is open.
#[test]
fn retired_chunks_against_pins() {
    explore(2, || {
        let guard = guard();
        // What comes before them in their chunk moves them.
        for page in [1, 3, 5] {
            drop(guard.retire_after(page..page + 1, 1));
        }
        let engine = beside(&guard, |guard| {
            drop(guard.retire(0..1));
            guard.run_retired()
        });
        assert!(guard.try_pin(1..2).is_err(), "open, though it waits");
        drop(guard.try_pin(2..3).unwrap());
        assert!(guard.try_pin(5..6).is_err(), "open, though it waits");
        pin_if_open(&guard, 0..1);
        // Not by the engine, if the pin was in its way.
        let freed = engine.join().unwrap();
        assert_eq!(freed + guard.run_retired(), 1);
    });
}

/// I3: two name two guards in opposite orders; and a pin of one of them is waited for in the same sleep.
#[test]
fn several_guards_in_opposite_orders() {
    explore(3, || {
        let (a, b) = (guard(), guard());
        let other = thread::spawn({
            let (a, b) = (Arc::clone(&a), Arc::clone(&b));
            move || {
                let proofs = break_layouts_of(&[(&*b, range(0, 1)), (&*a, range(0, 1))])
                    .wait()
                    .unwrap();
                free(&a);
                free(&b);
                drop(proofs);
            }
        });
        if let Ok(pin) = b.try_pin(0..1) {
            device(&b);
            drop(pin);
        }
        let proofs = break_layouts_of(&[(&*a, range(0, 1)), (&*b, range(0, 1))])
            .wait()
            .unwrap();
        free(&a);
        free(&b);
        drop(proofs);
        other.join().unwrap();
    });
}

/// I6: holders of two guards let go on two threads while somebody waits for both.
#[test]
fn several_guards_one_sleep() {
    explore(3, || {
        let (a, b) = (guard(), guard());
        let holders: Vec<_> = [&a, &b]
            .map(|guard| holder_of(guard, guard.try_pin(0..1).unwrap()))
            .into();
        let proofs = break_layouts_of(&[(&*a, range(0, 1)), (&*b, range(0, 1))])
            .wait()
            .unwrap();
        free(&a);
        free(&b);
        drop(proofs);
        for holder in holders {
            holder.join().unwrap();
        }
    });
}
