//! Models of those who go through the queue and may turn back, explored by loom as in `loom_core`: breaks and pins
//! that are dropped or time out in every state, extensions, closings.
#![cfg(lease_loom)]

mod loom_support;

use std::sync::Arc;
use std::time::Duration;

use layout_lease::LayoutGuard;
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom_support::{
    Disk, beside, break_and_free, device, explore, free, guard, holder_of, is_mutant, thread,
};

/// I4: a timeout frees nothing and leaves closed what is closed, whether the holder lets go before or behind it.
#[test]
fn i04_timeout_against_release() {
    explore(0, || {
        let guard = guard();
        let pin = guard.try_pin(0..1).unwrap();
        let holder = holder_of(&guard, pin);
        let mut wanted = guard.break_layouts(0..1);
        let proof = match wanted.wait_timeout(Duration::ZERO) {
            Some(proof) => proof.unwrap(),
            None => {
                assert!(guard.try_pin(0..1).is_err(), "closed stays closed");
                wanted.wait().unwrap()
            }
        };
        free(&guard);
        drop(proof);
        holder.join().unwrap();
    });
}

/// I5, I6: whoever reopens grants all who wait, and wakes them: one who has its ticket already, and one who comes.
#[test]
fn i05_reopen_against_two_waiting_pinners() {
    explore(3, || {
        let guard = guard();
        let proof = guard.break_layouts(0..1).wait().unwrap();
        let mut early = guard.pin(0..1);
        assert!(early.wait_timeout(Duration::ZERO).is_none());
        let late = beside(&guard, |guard| {
            let pin = guard.pin(0..1).wait().unwrap();
            device(guard);
            drop(pin);
        });
        free(&guard);
        drop(proof);
        let pin = early.wait().unwrap();
        device(&guard);
        drop(pin);
        late.join().unwrap();
    });
}

/// I8: a break that is dropped while it waits behind another lets on who waits behind it, and them alone.
#[test]
fn i08_break_dropped_while_queued() {
    explore(2, || {
        let guard = guard();
        let pin = guard.try_pin(0..1).unwrap();
        let first = guard.break_layouts(0..1);
        let between = guard.break_layouts(0..3);
        let last = guard.break_layouts_arc(2..3);
        let waiter = thread::spawn(move || drop(last.wait().unwrap()));
        let holder = holder_of(&guard, pin);
        drop(between);
        waiter.join().unwrap();
        let proof = first.wait().unwrap();
        free(&guard);
        drop(proof);
        holder.join().unwrap();
        assert!(guard.try_pin(0..3).is_ok(), "nothing is left of it");
    });
}

/// I8: a break that is dropped when it waits for nobody any more, perhaps just so, and before anybody has
/// fetched its proof.
#[test]
fn i08_break_dropped_while_drained() {
    explore(0, || {
        let guard = guard();
        let pin = guard.try_pin(0..1).unwrap();
        let dropped = guard.break_layouts(0..1);
        let next = guard.break_layouts_arc(0..1);
        let holder = holder_of(&guard, pin);
        // Drained or not, as the holder is quick or slow.
        drop(dropped);
        let proof = next.wait().unwrap();
        free(&guard);
        drop(proof);
        holder.join().unwrap();
        assert!(guard.try_pin(0..1).is_ok(), "nothing is left of it");
    });
}

/// I8: a waiting pinner goes away while somebody grants it its pin: nobody holds that then.
#[test]
fn i08_waiting_pinner_dropped_against_grant() {
    explore(0, || {
        let guard = guard();
        let proof = guard.break_layouts_arc(0..1).wait().unwrap();
        let mut waiting = guard.pin(0..1);
        assert!(waiting.wait_timeout(Duration::ZERO).is_none());
        let breaker = beside(&guard, |guard| {
            free(guard);
            drop(proof);
            break_and_free(guard, 0..1);
        });
        drop(waiting);
        breaker.join().unwrap();
        assert!(guard.try_break_layouts(0..1).is_ok());
    });
}

/// I1, I11: an extension of pages that one break gives up and another closes: granted under the lock, so that the
/// second either sees it or keeps it out.
#[test]
fn i11_extension_between_two_breaks() {
    explore(2, || {
        let guard = guard();
        let held = guard.try_pin(0..1).unwrap();
        let holder = beside(&guard, |guard| {
            if let Ok(second) = held.extend(guard, 1..2) {
                device(guard);
                drop(second);
            }
            drop(held);
        });
        drop(guard.break_layouts(1..2));
        break_and_free(&guard, 1..2);
        holder.join().unwrap();
    });
}

/// I6: the guard closes while the last pin goes, every schedule.
#[test]
fn i06_close_against_the_last_pin() {
    explore(0, || {
        let guard = guard();
        let pin = guard.try_pin(0..1).unwrap();
        let holder = holder_of(&guard, pin);
        guard.close().wait();
        free(&guard);
        assert!(guard.try_pin(0..1).is_err());
        holder.join().unwrap();
    });
}

/// I6: one waits for a retirement whose pages somebody holds.
#[test]
fn i06_retired_against_release() {
    explore(0, || {
        let guard = guard();
        let pin = guard.try_pin(0..1).unwrap();
        let holder = holder_of(&guard, pin);
        assert_eq!(guard.retire(0..1).wait().unwrap(), 1);
        holder.join().unwrap();
    });
}

/// I9: the guard is dropped while somebody on another thread pins no more but has not seen yet that he must say so.
#[test]
fn i09_pin_ends_while_the_guard_is_dropped() {
    struct Map(Arc<Disk>);
    impl Drop for Map {
        fn drop(&mut self) {
            self.0.0.with_mut(|block| {
                // SAFETY: loom checks it.
                unsafe { *block += 1 };
            });
        }
    }
    explore(2, || {
        let disk = Arc::new(Disk(UnsafeCell::new(0)));
        let guard = LayoutGuard::new(Map(Arc::clone(&disk)));
        let holders: Vec<_> = [guard.try_pin(0..1).unwrap(), guard.try_pin(4..5).unwrap()]
            .map(|pin| {
                let disk = Arc::clone(&disk);
                thread::spawn(move || {
                    disk.0.with(|block| {
                        // SAFETY: loom checks it.
                        let _ = unsafe { *block };
                    });
                    drop(pin);
                })
            })
            .into();
        drop(guard);
        for holder in holders {
            holder.join().unwrap();
        }
        disk.0.with(|block| {
            // SAFETY: loom checks it.
            assert_eq!(unsafe { *block }, 1, "dropped, and once");
        });
    });
}

/// I7: the engine moves a page to another block. Whoever looks the block up *after* pinning has the right one. (Its
/// mutant is a mistake of an engine: it looks first.)
#[test]
fn i07_block_looked_up_behind_the_pin() {
    struct Map {
        place: AtomicUsize,
        blocks: [UnsafeCell<u64>; 2],
    }
    // SAFETY: every access to the blocks goes through loom's cell, which reports those that are not ordered.
    unsafe impl Sync for Map {}
    // SAFETY: as above.
    unsafe impl Send for Map {}
    explore(0, || {
        let guard = Arc::new(LayoutGuard::new(Map {
            place: AtomicUsize::new(0),
            blocks: [UnsafeCell::new(0), UnsafeCell::new(0)],
        }));
        let reader = beside(&guard, |guard| {
            let early = guard.map().place.load(Ordering::Relaxed);
            if let Ok(pin) = guard.try_pin(0..1) {
                let place = match is_mutant("looked_up_first") {
                    true => early,
                    false => guard.map().place.load(Ordering::Relaxed),
                };
                guard.map().blocks[place].with(|block| {
                    // SAFETY: loom checks it.
                    assert_eq!(unsafe { *block }, 0, "somebody else's block");
                });
                drop(pin);
            }
        });
        if let Ok(proof) = guard.try_break_layouts(0..1) {
            guard.map().place.store(1, Ordering::Relaxed);
            guard.map().blocks[0].with_mut(|block| {
                // SAFETY: loom checks it.
                unsafe { *block = 7 };
            });
            drop(proof);
        }
        reader.join().unwrap();
    });
}
