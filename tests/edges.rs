//! One test for each happens-before edge (**I7**), each a single shot.
//!
//! **What it shows.** Two or three threads touch the same plain memory, a "disk block", in a fixed order. What
//! orders them is one edge of the crate and nothing else: the threads tell each other how far they are by
//! relaxed flags, which order nothing. So if the edge were missing, the two accesses would be a data race, and
//! ThreadSanitizer would say so (`scripts/tsan.sh controls` takes it away by the edge's mutant, and each must be
//! reported). As ordinary tests they see what this machine shows, which on x86 is little.
//!
//! **Why single shots.** In a loop the threads order each other by accident, through the mapping's lock or a
//! slot of the round before, and the sanitizer, which follows every release and acquire, is content.
//!
//! | test | edge | mutant |
//! | --- | --- | --- |
//! | `slot_cleared_then_scanned` | slot cleared, seen free by a scan | `slot_clear_relaxed`, `scan_owner_relaxed` |
//! | `slot_cleared_refilled_then_scanned` | slot cleared, refilled by its owner, scanned | `slot_free_relaxed` |
//! | `gate_opened_then_pinned` | gate opened, read by a pin | `opened_relaxed`, `look_relaxed` |
//! | `token_made_then_redeemed` | token made, redeemed | `token_made_relaxed`, `token_redeemed_relaxed` |
//! | the others | through the mapping's lock | (that is parking_lot's) |
#![cfg(not(any(lease_loom, lease_shuttle)))]

use std::cell::UnsafeCell;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use layout_lease::{
    Barrier, BlockMap, Drained, LayoutGuard, LayoutLease, OpError, PagePin, PageRange, PinToken,
};

/// Plain memory that only the edge under test makes safe to touch.
#[derive(Default)]
struct Disk(UnsafeCell<u64>);

// SAFETY: of two accesses one comes before the other by the edge that the test is about. Should that edge
// be missing, it is a race, and for that the tests are there.
unsafe impl Sync for Disk {}

impl Disk {
    #[track_caller]
    fn change(&self, from: u64, to: u64) {
        // SAFETY: see above. The reference does not leave this function.
        let value = unsafe { &mut *self.0.get() };
        assert_eq!(*value, from, "what came before is not seen");
        *value = to;
    }
}

/// Says that something has happened, and orders nothing.
#[derive(Default)]
struct Flag(AtomicBool);

impl Flag {
    fn raise(&self) {
        self.0.store(true, Relaxed);
    }

    fn wait(&self) {
        let start = Instant::now();
        while !self.0.load(Relaxed) {
            let hangs = start.elapsed() > Duration::from_secs(60);
            assert!(!hangs, "the other thread has gone");
            thread::yield_now();
        }
    }
}

/// An engine whose frees touch the disk.
#[derive(Default)]
struct Engine(Disk);

impl BlockMap for Engine {
    type Error = Infallible;

    fn punch_hole(
        &self,
        pages: PageRange,
        _: &Drained<'_, Self>,
    ) -> Result<u64, OpError<Infallible>> {
        self.0.change(1, 2);
        Ok(pages.len())
    }
}

/// Once for each way to pay for the barrier: the edges do not depend on it.
fn each_barrier<M: Default + Send + 'static>(scene: impl Fn(&Arc<LayoutGuard<M>>)) {
    for barrier in [Barrier::Fenced, Barrier::Asymmetric, Barrier::Adaptive] {
        scene(&Arc::new(LayoutGuard::with_barrier(M::default(), barrier)));
    }
}

/// Two threads at the same time, another and this one. Neither goes before both are done: a thread that goes gives
/// its slots away, which orders what it did before whoever looks at them. And they are joined by name: the end of
/// a scope is an edge that the sanitizer does not see.
fn both(one: impl FnOnce() + Send, other: impl FnOnce()) {
    let over = Flag::default();
    thread::scope(|s| {
        let one = s.spawn(|| {
            one();
            over.wait();
        });
        other();
        over.raise();
        one.join().expect("no panic");
    });
}

fn pin<M>(guard: &LayoutGuard<M>, page: u64) -> PagePin {
    guard.try_pin(page..=page).expect("nothing is closed")
}

fn proof<M>(guard: &LayoutGuard<M>, page: u64) -> Drained<'_, M> {
    let proof = guard.try_break_layouts(page..=page);
    proof.expect("nobody holds it")
}

fn lease<M>(guard: &LayoutGuard<M>, pages: std::ops::Range<u64>) -> LayoutLease {
    guard.lease(pages).wait().expect("nothing is closed")
}

// ---------------------------------------------------------------------------------------- slots

#[test]
fn slot_cleared_then_scanned() {
    each_barrier::<()>(|guard| {
        let (disk, gone) = (Disk::default(), Flag::default());
        both(
            || {
                let pin = pin(guard, 0);
                disk.change(0, 1);
                drop(pin);
                gone.raise();
            },
            || {
                gone.wait();
                let proof = proof(guard, 0);
                disk.change(1, 2);
                drop(proof);
            },
        );
    });
}

/// The pin ends on another thread; the owner of the slot fills it again, for other pages; and only that
/// second pin is what the scan meets.
#[test]
fn slot_cleared_refilled_then_scanned() {
    each_barrier::<()>(|guard| {
        let disk = Disk::default();
        let [gone, refilled, scanned] = [const { Flag(AtomicBool::new(false)) }; 3];
        both(
            || {
                let first = pin(guard, 0);
                both(
                    || {
                        disk.change(0, 1);
                        drop(first);
                        gone.raise();
                    },
                    || {
                        gone.wait();
                        let second = pin(guard, 7);
                        refilled.raise();
                        scanned.wait();
                        drop(second);
                    },
                );
            },
            || {
                refilled.wait();
                let proof = proof(guard, 0);
                disk.change(1, 2);
                drop(proof);
                scanned.raise();
            },
        );
    });
}

/// The owner tidies its block, so that the scan does not even look at the slot.
#[test]
fn slot_cleared_mark_lowered_then_scanned() {
    each_barrier::<()>(|guard| {
        let disk = Disk::default();
        let [gone, lowered, scanned] = [const { Flag(AtomicBool::new(false)) }; 3];
        both(
            || {
                // A break makes the gate ask for fences, and every 127th fenced pin is charged: that tidies.
                let elsewhere = || pin(guard, 7);
                let until_charged = || {
                    for _ in 0..126 {
                        drop(elsewhere());
                    }
                    elsewhere()
                };
                drop(proof(guard, 0));
                let [low, pinned, high] = [pin(guard, 7), pin(guard, 0), pin(guard, 7)];
                drop((low, high));
                // What is pinned now is in a slot behind `pinned`, then in one before it.
                drop(until_charged());
                both(
                    || {
                        disk.change(0, 1);
                        drop(pinned);
                        gone.raise();
                    },
                    || {
                        gone.wait();
                        let last = until_charged();
                        lowered.raise();
                        scanned.wait();
                        drop(last);
                    },
                );
            },
            || {
                lowered.wait();
                let proof = proof(guard, 0);
                disk.change(1, 2);
                drop(proof);
                scanned.raise();
            },
        );
    });
}

/// A break that waits: the last pin wakes it.
#[test]
fn slot_cleared_then_woken() {
    each_barrier::<()>(|guard| {
        let (disk, closing) = (Disk::default(), Flag::default());
        let pin = pin(guard, 0);
        both(
            || {
                closing.wait();
                disk.change(0, 1);
                drop(pin);
            },
            || {
                let breaking = guard.break_layouts(0..1);
                closing.raise();
                let proof = breaking.wait().expect("not closed for good");
                disk.change(1, 2);
                drop(proof);
            },
        );
    });
}

// ---------------------------------------------------------------------------------------- gate

#[test]
fn gate_opened_then_pinned() {
    each_barrier::<()>(|guard| {
        let (disk, open) = (Disk::default(), Flag::default());
        both(
            || {
                let proof = proof(guard, 0);
                disk.change(0, 1);
                drop(proof);
                open.raise();
            },
            || {
                open.wait();
                let pin = pin(guard, 0);
                disk.change(1, 2);
                drop(pin);
            },
        );
    });
}

/// Other pages stay closed all the time, so the pin reads the table.
#[test]
fn gate_opened_beside_closed_pages_then_pinned() {
    each_barrier::<()>(|guard| {
        let (disk, open) = (Disk::default(), Flag::default());
        let closed = [proof(guard, 5), proof(guard, 9)];
        both(
            || {
                let proof = proof(guard, 7);
                disk.change(0, 1);
                drop(proof);
                open.raise();
            },
            || {
                open.wait();
                let pin = pin(guard, 7);
                disk.change(1, 2);
                drop(pin);
            },
        );
        drop(closed);
    });
}

/// The pinner waits; whoever reopens fills its slot.
#[test]
fn gate_opened_then_granted() {
    each_barrier::<()>(|guard| {
        let (disk, asked) = (Disk::default(), Flag::default());
        let proof = proof(guard, 0);
        both(
            || {
                asked.wait();
                disk.change(0, 1);
                drop(proof);
            },
            || {
                let mut waiting = guard.pin(0..1);
                assert!(waiting.wait_timeout(Duration::ZERO).is_none());
                asked.raise();
                let pin = waiting.wait().expect("not closed for good");
                disk.change(1, 2);
                drop(pin);
            },
        );
    });
}

// --------------------------------------------------------------------------- leases and tokens

#[test]
fn lease_given_back_then_broken() {
    each_barrier::<()>(|guard| {
        let (disk, gone) = (Disk::default(), Flag::default());
        both(
            || {
                let lease = lease(guard, 0..1);
                disk.change(0, 1);
                drop(lease);
                gone.raise();
            },
            || {
                gone.wait();
                let proof = proof(guard, 0);
                disk.change(1, 2);
                drop(proof);
            },
        );
    });
}

#[test]
fn lease_shrunk_then_broken() {
    each_barrier::<()>(|guard| {
        let [gone, broken] = [const { Flag(AtomicBool::new(false)) }; 2];
        let disk = Disk::default();
        both(
            || {
                let mut lease = lease(guard, 0..2);
                disk.change(0, 1);
                lease.shrink_to(1..).expect("a part of it");
                gone.raise();
                broken.wait();
            },
            || {
                gone.wait();
                let proof = proof(guard, 0);
                disk.change(1, 2);
                drop(proof);
                broken.raise();
            },
        );
    });
}

#[test]
fn token_made_then_redeemed() {
    each_barrier::<()>(|guard| {
        let disk = Disk::default();
        // The completion queue, which orders nothing either.
        let completed = AtomicU64::new(0);
        both(
            || {
                let pin = pin(guard, 0);
                disk.change(0, 1);
                completed.store(pin.into_token().to_u64(), Relaxed);
            },
            || {
                let number = loop {
                    match completed.load(Relaxed) {
                        0 => thread::yield_now(),
                        number => break number,
                    }
                };
                let pin = PinToken::from_u64(number).and_then(PinToken::redeem);
                disk.change(1, 2);
                drop(pin.expect("it is out"));
            },
        );
    });
}

// -------------------------------------------------------------------------- retiring and the end

#[test]
fn pin_dropped_then_retirement_run() {
    each_barrier::<Engine>(|guard| {
        let gone = Flag::default();
        both(
            || {
                let pin = pin(guard, 0);
                drop(guard.retire(0..1));
                guard.map().0.change(0, 1);
                drop(pin);
                gone.raise();
            },
            || {
                gone.wait();
                assert_eq!(guard.run_retired(), 1);
            },
        );
    });
}

/// What the log's writer did before it said that the log is on media.
#[test]
fn made_durable_then_retirement_run() {
    each_barrier::<Engine>(|guard| {
        let durable = Flag::default();
        drop(guard.retire_after(0..1, 5));
        both(
            || {
                guard.map().0.change(0, 1);
                guard.durable(5);
                durable.raise();
            },
            || {
                durable.wait();
                assert_eq!(guard.run_retired(), 1);
            },
        );
    });
}

/// The guard is gone; the last of its pins drops the map.
#[test]
fn pin_dropped_then_map_dropped() {
    #[derive(Default)]
    struct Map(Arc<Disk>);

    impl Drop for Map {
        fn drop(&mut self) {
            self.0.change(1, 2);
        }
    }

    for barrier in [Barrier::Fenced, Barrier::Asymmetric] {
        let disk = Arc::new(Disk::default());
        let guard = LayoutGuard::with_barrier(Map(Arc::clone(&disk)), barrier);
        let [first, last] = [pin(&guard, 0), pin(&guard, 1)];
        drop(guard);
        let gone = &Flag::default();
        let same = &*disk;
        both(
            move || {
                same.change(0, 1);
                drop(first);
                gone.raise();
            },
            move || {
                gone.wait();
                drop(last);
            },
        );
        disk.change(2, 3);
    }
}

// -------------------------------------------------------------------------------- freed memory

/// The block's memory is freed under a proof: whoever got a pin now would read it. With the mutant
/// `gate_ignored` somebody does, and AddressSanitizer should say so (`scripts/asan.sh controls`).
#[test]
fn memory_freed_then_not_pinned() {
    each_barrier::<()>(|guard| {
        let block = Box::into_raw(Box::new(7_u64));
        let reader = pin(guard, 0);
        assert!(guard.try_break_layouts(0..1).is_err());
        // SAFETY: it is pinned, so nobody has freed it.
        assert_eq!(unsafe { block.read() }, 7);
        drop(reader);
        let proof = proof(guard, 0);
        // SAFETY: it came from a box, and by the proof nobody uses it.
        drop(unsafe { Box::from_raw(block) });
        if let Ok(pin) = guard.try_pin(0..1) {
            // SAFETY: none. The crate is broken, and the sanitizer is to see it.
            let read = unsafe { block.read_volatile() };
            panic!("{pin:?} of freed memory, which reads {read}");
        }
        drop(proof);
    });
}

/// The broken control of AddressSanitizer: one byte behind the end.
#[cfg(lease_mutant = "out_of_bounds")]
#[test]
fn control_out_of_bounds() {
    let block = vec![7_u8; std::hint::black_box(4096)];
    // SAFETY: none, on purpose.
    let behind = unsafe { block.as_ptr().add(block.len()).read_volatile() };
    panic!("nobody has noticed that {behind} is not ours");
}
