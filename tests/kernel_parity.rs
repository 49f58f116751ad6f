//! The races of the kernel's own "DMA against truncate", one scenario for each, named after what went
//! wrong there. Linux has had this mechanism for DAX files since 2018; this is what was found in it since.
//!
//! Each says in a sentence what happened, and where to read on: by the title of the commit, or the
//! subject on the lists. Most of them cannot happen here by construction: then the scenario is the one in
//! which they did, and shows it.
#![cfg(not(any(lease_loom, lease_shuttle)))]
#![expect(
    clippy::reversed_empty_ranges,
    reason = "that they are refused is one of the scenarios"
)]

#[expect(dead_code, reason = "made for the tests of the promises")]
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use layout_lease::maps::ExtentMap;
use layout_lease::{
    AnyGuard, BreakError, LayoutGuard, OpError, PagePin, PageRange, PinError, PinToken, RangeError,
    TryBreakError, TryPinError, break_layouts_of,
};

use crate::support::{
    Ask, BARRIERS, Bell, Engine, OnDrop, Tombstone, assert_clean, bare, is_open, pages, until,
    watched,
};

/// Sixteen pages with a block each.
fn full() -> LayoutGuard<ExtentMap> {
    let guard = LayoutGuard::new(ExtentMap::new(16));
    guard.map().allocate(0..16).unwrap();
    guard
}

// ---- 2018: the mechanism itself -------------------------------------------------------------------

/// A page was taken for idle when its count was seen at 1, but nothing stopped the next reference: "the
/// reference count for a given DAX page going up and down while we are in the middle of a truncate".
///
/// Commit "ext4: handle layout changes to pinned DAX mappings" (430657b6be89), and the threads of its
/// series on linux-ext4. Here the count of those a break waits for goes down only.
#[test]
fn the_count_goes_up_and_down_during_truncate() {
    let guard = full();
    let mut pins: Vec<_> = (8..16)
        .map(|page| guard.try_pin(page..page + 1).unwrap())
        .collect();
    let mut truncate = guard.truncate(8);
    while let Some(pin) = pins.pop() {
        truncate.assert_waits();
        drop(pin);
        // Up again? On the page that was just let go, on one that is still held, and across the edge.
        for range in [pages(15, 16), pages(8, 9), pages(0, 16)] {
            assert_eq!(guard.try_pin(range).unwrap_err(), TryPinError::Breaking);
        }
        assert_eq!(truncate.breaking().holders().len(), pins.len());
        assert_eq!(guard.map().mapped_blocks(), 16, "nothing is freed yet");
    }
    assert_eq!(truncate.now(), Ok(8));
    assert_eq!(guard.map().len(), 8);
    drop(truncate);
    assert_clean(&guard);
}

/// The waiter dropped the lock that keeps faults out while it slept, and looked from the start when it
/// woke: whoever came in between made it sleep again, so a busy file was never truncated.
///
/// Commits "xfs, dax: introduce xfs_break_dax_layouts()" (d6dc57e251a4) and "ext4: close race between
/// direct IO and ext4_break_layouts()" (b1f382178d15), which made ext4 look again, too. Here the break
/// ends with the releases of those who were there when it closed, however many try to follow them.
#[test]
fn the_gate_reopened_while_waiting_starves_the_remover() {
    watched(|| {
        for barrier in BARRIERS {
            let guard = LayoutGuard::with_barrier((), barrier);
            let (over, tries) = (AtomicBool::new(false), AtomicUsize::new(0));
            thread::scope(|s| {
                let _stop = OnDrop::new(|| over.store(true, Ordering::SeqCst));
                let (ready, started) = mpsc::channel();
                for _ in 0..2 {
                    let (guard, over, tries, ready) = (&guard, &over, &tries, ready.clone());
                    s.spawn(move || {
                        // Has the next one before it lets go of the last: without a gate the page is
                        // never idle.
                        let mut held = guard.try_pin(3..5).ok();
                        ready.send(()).unwrap();
                        while !over.load(Ordering::SeqCst) {
                            let next = guard.try_pin(3..5).ok();
                            tries.fetch_add(1, Ordering::SeqCst);
                            held = next;
                        }
                        drop(held);
                    });
                }
                started.recv().unwrap();
                started.recv().unwrap();
                let mut breaks = 0;
                while breaks < 200 || guard.stats().breaks_waited == 0 {
                    breaks += 1;
                    let before = tries.load(Ordering::SeqCst);
                    drop(guard.break_layouts(4..8).wait().unwrap());
                    until(|| tries.load(Ordering::SeqCst) > before);
                }
            });
            assert_clean(&guard);
        }
    });
}

/// A reference could be duplicated by whoever held one, without passing any gate: a page in a pipe is
/// multiplied by `tee`, as often as one likes.
///
/// Commit "fs: prevent page refcount overflow in pipe_buf_get" (15fab63e1e57), which had to limit it. Here
/// a pin cannot be cloned, its holder is refused another like everybody else, and the one way to hold more
/// is counted, and ends there.
#[test]
fn a_reference_is_cloned_by_a_holder() {
    // Ambiguous, so it does not compile, if pins can be cloned.
    trait Cloned<A> {
        fn no() {}
    }
    impl<T> Cloned<()> for T {}
    impl<T: Clone> Cloned<u8> for T {}
    <PagePin as Cloned<_>>::no();

    let guard = bare();
    let pin = guard.try_pin(3..5).unwrap();
    let mut breaking = guard.break_layouts(4..8);
    assert_eq!(guard.try_pin(3..5).unwrap_err(), TryPinError::Breaking);
    assert_eq!(
        guard.try_pin(pin.range()).unwrap_err(),
        TryPinError::Breaking
    );
    // It may be passed on, and is one pin still.
    let pin = thread::scope(|s| s.spawn(move || pin).join().unwrap());
    assert_eq!(breaking.holders().len(), 1);
    let more = pin.extend(&guard, 6..7).unwrap();
    let ever_more = more.extend(&guard, 7..8);
    assert_eq!(ever_more.unwrap_err(), TryPinError::Breaking);
    assert_eq!(breaking.holders().len(), 2);
    drop(pin);
    breaking.assert_waits();
    drop(more);
    drop(breaking.now().unwrap());
    assert_clean(&guard);
}

// ---- what the scan did not see --------------------------------------------------------------------

/// A file that nobody had mapped any more was not scanned at all, although a device went on working on
/// the pages that had been pinned through the mapping.
///
/// Commit "fs/dax: return unmapped busy pages from dax_layout_busy_page_range()" (cee91fa13a8e). Here a
/// pin is a pin, whatever became of the way by which its holder came to the page.
#[cfg(all(target_os = "linux", feature = "file"))]
#[test]
fn pinned_pages_are_missed_because_the_file_was_unmapped() {
    use layout_lease::maps::FileBlocks;
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    use std::os::unix::fs::FileExt;

    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[7; 8 * 4096], 0).unwrap();
    let guard = LayoutGuard::new(FileBlocks::new(file, 4096).unwrap());
    let (prot, flags) = (ProtFlags::READ, MapFlags::SHARED);
    // SAFETY: a new mapping at an address of the kernel's choice replaces no other.
    let base = unsafe {
        let at = std::ptr::null_mut();
        mmap(at, 8 * 4096, prot, flags, guard.map().file(), 0).unwrap()
    };
    let pin = guard.try_pin(3..4).unwrap();
    // SAFETY: the page lies within the mapping and the file, which the pin keeps as it is.
    let byte = unsafe { base.cast::<u8>().add(3 * 4096).read_volatile() };
    assert_eq!(byte, 7);
    // SAFETY: this is the whole mapping, and nobody has a reference into it.
    unsafe { munmap(base, 8 * 4096).unwrap() };

    let mut punch = guard.punch_hole(2..5);
    punch.assert_waits();
    let mut byte = [0];
    guard
        .map()
        .file()
        .read_exact_at(&mut byte, 3 * 4096)
        .unwrap();
    assert_eq!(byte, [7], "punched under a pin");
    drop(pin);
    assert_eq!(punch.now().unwrap(), 3);
    drop(punch);
    assert_clean(&guard);
}

/// When the scan met an entry that was locked, it waited for the *next* one that was not, and went on
/// from there: the locked one was never looked at.
///
/// Commit "fs/dax: don't skip locked entries when scanning entries" (6be3e21d25ca). Here the slots beside
/// the one that counts are in the middle of being filled and emptied all the time.
#[test]
fn entries_are_skipped_while_locked() {
    watched(|| {
        for barrier in BARRIERS {
            let guard = LayoutGuard::with_barrier((), barrier);
            let (over, churned) = (AtomicBool::new(false), AtomicU64::new(0));
            // A thread's pins are neighbours: churn before, between and behind the two that stay.
            let (give, take) = mpsc::channel();
            thread::scope(|s| {
                let _stop = OnDrop::new(|| over.store(true, Ordering::SeqCst));
                s.spawn(|| {
                    let before = guard.try_pin(0..1);
                    give.send(guard.try_pin(40..41).unwrap()).unwrap();
                    let between = guard.try_pin(0..1);
                    give.send(guard.try_pin(60..61).unwrap()).unwrap();
                    drop((before, between));
                    while !over.load(Ordering::SeqCst) {
                        // Refused now and then, when that page is being looked at.
                        let near = [0, 40, 50, 60].map(|page| guard.try_pin(page..page + 1));
                        churned.fetch_add(1, Ordering::Relaxed);
                        drop(near);
                    }
                });
                let held = [take.recv().unwrap(), take.recv().unwrap()];
                for round in 0..4_000 {
                    let Err(TryBreakError::Busy(holders)) = guard.try_break_layouts(40..61) else {
                        panic!("round {round}: two pins were passed over");
                    };
                    for pin in &held {
                        let found = holders.iter().any(|h| h.range() == pin.range());
                        assert!(found, "round {round}: {pin:?} was passed over");
                    }
                }
                let before = churned.load(Ordering::Relaxed);
                until(|| churned.load(Ordering::Relaxed) > before);
                drop(held);
            });
            assert_clean(&guard);
        }
    });
}

/// 0 as the end meant "to the end of the file" to one function and an empty range to the one it called,
/// which therefore looked at nothing, found nothing busy, and the truncate went on.
///
/// Commit "fuse: fix dax truncate/punch_hole fault path" (7851bf649d42). Here an empty range is an error,
/// whoever names it, and "to the end" has a spelling of its own.
#[test]
fn an_empty_range_is_taken_for_to_the_end() {
    let guard = full();
    let pin = guard.try_pin(12..13).unwrap();
    for (at, mut op) in [
        (0, guard.punch_hole(0..0)),
        (4, guard.punch_hole(4..4)),
        (4, guard.zero_range(4..4)),
        (4, guard.collapse_range(4..4)),
        (4, guard.insert_range(4..4)),
    ] {
        let empty = RangeError::Empty { at };
        assert_eq!(op.now(), Err(OpError::Break(BreakError::Range(empty))));
    }
    let inverted = RangeError::Inverted { start: 4, end: 0 };
    let error = guard.punch_hole(4..0).wait().unwrap_err();
    assert_eq!(error, OpError::Break(BreakError::Range(inverted)));
    assert!(PageRange::covering_bytes(4096..4096, 4096).is_err());
    assert_eq!(
        guard.map().mapped_blocks(),
        16,
        "none of them meant anything"
    );
    assert_eq!(guard.stats().breaks, 0, "and none closed anything");
    // To the end, in words; and that one does find the pin.
    let mut punch = guard.punch_hole(4..);
    punch.assert_waits();
    drop(pin);
    assert_eq!(punch.now(), Ok(12));
    drop(punch);
    assert_clean(&guard);
}

// ---- waiting and waking ---------------------------------------------------------------------------

/// The wait can end with an error, by a signal; its caller looked only whether there was one, lost it, and
/// reported success for a wait that had not taken place.
///
/// Found in the review of "fs/dax: create a common implementation to break DAX layouts" (d5b3afea22a5), on
/// linux-fsdevel. Here a wait that did not succeed has no proof to give, and without one there is no way
/// into the block map.
#[test]
fn an_ignored_error_from_the_wait_lets_truncate_go_on() {
    let guard = Engine::idle();
    let pin = guard.try_pin(4..5).unwrap();
    // It times out, and whoever ignores that has freed nothing.
    let mut truncate = guard.truncate(0);
    let _ = truncate.wait_timeout(Duration::from_millis(1));
    let _ = truncate.wait_timeout(Duration::ZERO);
    assert_eq!(guard.map().calls(), 0);
    // It is given up.
    drop(truncate);
    assert_eq!(guard.map().calls(), 0);
    assert!(is_open(&guard, PageRange::ALL));
    // It ends with an error.
    let truncate = guard.truncate(0);
    let mut close = guard.close();
    let answer = truncate.wait();
    assert_eq!(answer, Err(OpError::Break(BreakError::Closed)));
    assert_eq!(guard.map().calls(), 0, "truncated under a pin");
    close.assert_waits();
    drop(pin);
    close.now();
    assert_eq!(guard.map().calls(), 0);
}

/// "Busy" was a count above 1, "wake" a count of exactly 1, written down separately in three file systems
/// and in the release path: a change of one without the others, or a release of two at once, and the
/// waiter slept for ever.
///
/// "[PATCH] ext4/xfs: add page refcount helper" and "fsdax: Wait on @page not @page->_refcount" on
/// linux-fsdevel. Here the wake comes exactly when the break is drained, in whatever order its holders
/// leave.
#[test]
fn the_wake_condition_differs_from_the_busy_condition() {
    let ranges = [pages(0, 4), pages(3, 9), pages(8, 9), pages(20, 21)];
    let in_the_way = |range: &PageRange| range.overlaps(&pages(2, 12));
    let mut orders = 0;
    for code in 0..4 * 4 * 4 * 4 {
        let order = [code % 4, code / 4 % 4, code / 16 % 4, code / 64];
        if (0..4).any(|n| !order.contains(&n)) {
            continue; // not a permutation
        }
        orders += 1;
        let (guard, bell) = (bare(), Bell::new());
        // Two pins of each: they may go one by one, or both at once.
        let mut pins = ranges.map(|range| vec![guard.try_pin(range), guard.try_pin(range)]);
        let mut breaking = guard.break_layouts(2..12);
        assert!(bell.poll(&mut breaking).is_pending());
        let mut left: Vec<_> = ranges.iter().copied().filter(in_the_way).collect();
        for n in order {
            if n % 2 == 0 {
                pins[n].pop();
                assert_eq!(
                    (bell.rung(), breaking.is_drained()),
                    (usize::from(left.is_empty()), left.is_empty())
                );
            }
            pins[n].clear();
            left.retain(|range| *range != ranges[n]);
            let idle = left.is_empty();
            assert_eq!(breaking.holders().len(), 2 * left.len());
            assert_eq!(breaking.is_drained(), idle, "{order:?} after {n}");
            assert_eq!(bell.rung(), usize::from(idle), "{order:?} after {n}");
        }
        assert!(bell.poll(&mut breaking).is_ready());
    }
    assert_eq!(orders, 24);
}

/// The waker sat in one of the ways to give a page back; another way, in batches, did not pass it. On
/// Linux 6.1.192 a punch that waits for such a page hangs, five times in five.
///
/// The waker came with "mm: devmap: refactor 1-based refcounting for ZONE_DEVICE pages" (07d802699528), and
/// the special way went with "fs/dax: properly refcount fs dax pages". Here every way in which a pin can
/// end wakes the one who waits.
#[test]
fn a_release_path_bypasses_the_waker() {
    thread_local! {
        static LAST: std::cell::RefCell<Option<PagePin>> = const { std::cell::RefCell::new(None) };
    }
    type Way = fn(PagePin);
    let ways: [(&str, Way); 11] = [
        ("dropped", drop),
        ("redeemed from a token", |pin| {
            let number = pin.into_token().to_u64();
            let token = PinToken::from_u64(number).unwrap();
            drop(token.redeem().unwrap());
        }),
        ("redeemed by another thread", |pin| {
            let token = pin.into_token();
            let redeem = move || drop(token.redeem().unwrap());
            thread::spawn(redeem).join().unwrap();
        }),
        ("dropped with a batch", |pin| drop(vec![Some(pin), None])),
        ("replaced", |pin| {
            let mut slot = Some(pin);
            let _ = slot.take();
        }),
        ("dropped by another thread", |pin| {
            thread::spawn(move || drop(pin)).join().unwrap();
        }),
        ("dropped by a thread that ends", |pin| {
            thread::spawn(move || LAST.set(Some(pin))).join().unwrap();
        }),
        ("dropped while unwinding", |pin| {
            let unwound = catch_unwind(AssertUnwindSafe(|| {
                let _pin = pin;
                std::panic::resume_unwind(Box::new(()));
            }));
            assert!(unwound.is_err());
        }),
        ("dropped inside a drop", |pin| {
            drop(OnDrop::new(move || drop(pin)));
        }),
        ("left in a queue nobody reads", |pin| {
            let (send, receive) = mpsc::channel();
            send.send(pin).unwrap();
            drop(receive);
        }),
        ("the last of many that share it", |pin| {
            let shared = Arc::new(pin);
            let other = Arc::clone(&shared);
            thread::spawn(move || drop(other)).join().unwrap();
            drop(shared);
        }),
    ];
    watched(move || {
        for barrier in BARRIERS {
            for (name, way) in ways {
                let guard = LayoutGuard::with_barrier((), barrier);
                let (pin, bell) = (guard.try_pin(3..5).unwrap(), Bell::new());
                let mut breaking = guard.break_layouts(4..8);
                assert!(bell.poll(&mut breaking).is_pending());
                way(pin);
                assert_eq!(bell.rung(), 1, "{name}: nobody was woken");
                drop(breaking.now().unwrap());
                assert_clean(&guard);
            }
            // A lease that is given back, and one of which only the part that is wanted is.
            for whole in [true, false] {
                let guard = LayoutGuard::with_barrier((), barrier);
                let (mut lease, bell) = (guard.lease(0..5).wait().unwrap(), Bell::new());
                let mut breaking = guard.break_layouts(4..8);
                assert!(bell.poll(&mut breaking).is_pending());
                lease.shrink_to(if whole { 0..4 } else { 1..3 }).unwrap();
                assert_eq!(bell.rung(), 1, "a lease that shrank: nobody was woken");
                drop((breaking.now().unwrap(), breaking));
                let mut breaking = guard.break_layouts(2..8);
                assert!(bell.poll(&mut breaking).is_pending());
                drop(lease);
                assert_eq!(
                    bell.rung(),
                    2,
                    "a lease that was given back: nobody was woken"
                );
                drop((breaking.now().unwrap(), breaking));
                assert_clean(&guard);
            }
            // A grant that nobody ever fetches is a pin, too.
            let guard = LayoutGuard::with_barrier((), barrier);
            let proof = guard.try_break_layouts(3..5).unwrap();
            let mut waiter = guard.pin(3..5);
            waiter.assert_waits();
            let (mut breaking, bell) = (guard.break_layouts(4..8), Bell::new());
            assert!(bell.poll(&mut breaking).is_pending());
            drop(proof);
            assert_eq!(guard.stats().pins, 1, "granted by whoever reopened");
            drop(waiter);
            assert_eq!(bell.rung(), 1, "an unfetched grant: nobody was woken");
            drop(breaking.now().unwrap());
            assert_clean(&guard);
        }
    });
}

/// After each wake the waiter looked again at the page it had slept on, and only at that one; somebody who
/// touched it in the meantime had put it back into the mapping, so it was never idle again. On Linux
/// 6.18.15 and 7.3.4 touching the page once during the wait hangs the punch, five times in five.
///
/// Commits "fs/dax: refactor wait for dax idle page" (e6fa3963a30d) and "fs/dax: properly refcount fs dax
/// pages", since which a mapped page is not idle. Here touching is refused and leaves no trace, and what
/// counts are all holders, not the one that was found first.
#[test]
fn a_waiter_looks_again_at_the_same_page() {
    watched(|| {
        for found_first_goes_last in [true, false] {
            for _ in 0..5 {
                let guard = Arc::new(full());
                let mut pins = vec![guard.try_pin(3..4).unwrap(), guard.try_pin(5..6).unwrap()];
                if found_first_goes_last {
                    pins.reverse();
                }
                let punch = {
                    let guard = Arc::clone(&guard);
                    thread::spawn(move || guard.punch_hole(2..8).wait())
                };
                until(|| guard.stats().queued == 1);
                let touch = || {
                    for page in 2..8 {
                        assert!(
                            !is_open(&guard, pages(page, page + 1)),
                            "touched page {page}"
                        );
                        assert!(guard.map().lookup(page).is_some());
                    }
                    let mut waiting = guard.pin(3..4);
                    waiting.assert_waits();
                    drop(waiting);
                    assert!(!punch.is_finished());
                };
                touch();
                for pin in pins {
                    touch();
                    drop(pin);
                }
                assert_eq!(punch.join().unwrap(), Ok(6));
                assert_clean(&guard);
            }
        }
    });
}

// ---- more than one object, and the end of one -----------------------------------------------------

/// To break the layouts of two files, the second one was only asked whether it was busy, because waiting
/// would have given up the lock of the first; when it was, both were unlocked and all began again, at once,
/// for as long as the page was held.
///
/// Commit "xfs: add dax dedupe support" (13f9e267fdbb), `xfs_mmaplock_two_inodes_and_break_dax_layout`.
/// Here both are closed in one step, stay closed, and whoever waits sleeps until both are idle: one wake.
#[test]
fn two_objects_and_a_busy_loop() {
    let (first, second) = (bare(), Engine::idle());
    let parts: [(&dyn AnyGuard, PageRange); 2] = [(&first, pages(0, 8)), (&second, pages(0, 8))];
    for busy_goes_first in [true, false] {
        let pins = [first.try_pin(3..4).unwrap(), second.try_pin(3..4).unwrap()];
        let bell = Bell::new();
        let mut both = break_layouts_of(&parts);
        assert!(bell.poll(&mut both).is_pending());
        let mut pins = Vec::from(pins);
        if busy_goes_first {
            pins.reverse();
        }
        while let Some(pin) = pins.pop() {
            // Whatever goes on in either, nobody is woken to look again.
            for _ in 0..100 {
                drop(first.try_pin(8..9).unwrap());
                drop(second.try_break_layouts(9..10).unwrap());
                assert!(!is_open(&first, pages(3, 4)), "unlocked to begin again");
                assert!(!is_open(&second, pages(3, 4)), "unlocked to begin again");
            }
            assert_eq!((bell.rung(), both.is_drained()), (0, false));
            drop(pin);
        }
        assert_eq!(bell.rung(), 1);
        let proofs = both.wait().unwrap();
        assert!(proofs.of(&first).is_some() && proofs.of(&second).is_some());
        drop(proofs);
        assert_clean(&first);
        assert_clean(&second);
    }
    // Two who name them in opposite order, as the two directions of a dedupe do.
    watched(|| {
        let guards = [bare(), bare()];
        thread::scope(|s| {
            for (a, b) in [(0, 1), (1, 0)] {
                let guards = &guards;
                s.spawn(move || {
                    for _ in 0..500 {
                        let parts: [(&dyn AnyGuard, PageRange); 2] =
                            [(&guards[a], pages(0, 8)), (&guards[b], pages(4, 12))];
                        drop(break_layouts_of(&parts).wait().unwrap());
                    }
                });
            }
        });
    });
}

/// The file was closed and its file system unmounted while a device still had pages of it: nobody waited
/// for those, and what the device wrote went to whatever the blocks became.
///
/// Commit "fs/dax: ensure all pages are idle prior to filesystem unmount" (0e2f80afcfa6). Here closing
/// waits for them, and if nobody waits for the closing, the engine stays until they are gone.
#[test]
fn a_pin_outlives_close_and_unmount() {
    let drops = Arc::new(AtomicUsize::new(0));
    let gone = || drops.load(Ordering::SeqCst);
    let guard = LayoutGuard::new(Tombstone(Arc::clone(&drops)));
    let (first, last) = (guard.try_pin(3..4).unwrap(), guard.try_pin(9..10).unwrap());
    let mut close = guard.close();
    assert_eq!(guard.try_pin(0..1).unwrap_err(), TryPinError::Closed);
    assert_eq!(guard.pin(0..1).wait().unwrap_err(), PinError::Closed);
    close.assert_waits();
    drop(first);
    close.assert_waits();
    // An impatient unmount.
    drop(close);
    drop(guard);
    assert_eq!(gone(), 0, "the engine is gone under a pin");
    thread::spawn(move || drop(last)).join().unwrap();
    assert_eq!(gone(), 1);

    // A patient one.
    let guard = LayoutGuard::new(Tombstone(Arc::clone(&drops)));
    let pin = guard.try_pin(3..4).unwrap();
    let bell = Bell::new();
    let mut close = guard.close();
    assert!(bell.poll(&mut close).is_pending());
    drop(pin);
    assert_eq!(bell.rung(), 1);
    close.now();
    drop(close);
    drop(guard);
    assert_eq!(gone(), 2);
}
