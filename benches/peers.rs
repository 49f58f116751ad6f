//! What a pin costs, against what else could keep a page in use: the same work, taken and given back.
//!
//! | peer | what it cannot do |
//! | --- | --- |
//! | std `RwLock`, parking_lot `RwLock` | no range; the guard is not `Send`; newcomers block |
//! | crossbeam `ShardedLock` | the same; a writer visits every shard |
//! | crossbeam-epoch, seize | no range; the guard is not `Send`; newcomers are not refused |
//! | haphazard | one pointer, no range; newcomers are not refused |
//! | `Arc` clone | no range; newcomers are not refused; nobody is woken |
//! | per-page `AtomicU32` | memory and time for every page; newcomers are not refused; nobody is woken |
//! | `Mutex<BTreeMap>` | could do it all, under one lock for everybody |
//! | range-lock | exclusive only; needs a `Vec` as long as the file; never waits |
//! | tokio `RwLock`, async-lock `RwLock` | no range; newcomers block |
//! | tokio-util `TaskTracker` | no range; newcomers are not refused |
//!
//! Two threads take the same page. What is exclusive tries until it succeeds.

mod support;

use std::collections::BTreeMap;
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crossbeam_utils::sync::ShardedLock;
use haphazard::{AtomicPtr, HazardPointer};
use range_lock::VecRangeLock;
use seize::Collector;
use tokio_util::task::TaskTracker;

use support::cores::at_once;
use support::{Bench, Group, MODES, guard, pin_one_page, repeat};

const PAGE: u64 = 7;
const EXPECT: &str = "nobody panics under it";

fn main() {
    let mut bench = Bench::start("peers");
    for threads in [1, 2] {
        let name = if threads == 1 {
            "one thread"
        } else {
            "two threads"
        };
        let mut group = bench.group(name);
        ours(&mut group, threads);
        let lacks = locks(&mut group, threads)
            .into_iter()
            .chain(reclamation(&mut group, threads))
            .chain(counts(&mut group, threads))
            .chain(asynchronous(&mut group, threads));
        let lacks: Vec<_> = lacks.collect();
        group.run();
        for (peer, lack) in lacks {
            bench.remark(name, peer, lack);
        }
    }
    bench.finish();
}

/// A peer, and what it cannot do.
type Lacks = (&'static str, &'static str);

/// `work` is given how often to take and give back.
fn case(
    group: &mut Group<'_, '_>,
    name: &str,
    threads: usize,
    work: impl Fn(u64) + Sync + 'static,
) {
    group.case(name, move |iters| at_once(threads, iters, &work));
}

fn ours(group: &mut Group<'_, '_>, threads: usize) {
    case(group, "empty loop", threads, |n| {
        repeat(n, |_| ());
    });
    for (mode, barrier) in MODES {
        let guard = guard(barrier);
        case(group, mode, threads, move |n| {
            repeat(n, |_| pin_one_page(guard, black_box(PAGE)));
        });
    }
}

fn locks(group: &mut Group<'_, '_>, threads: usize) -> Vec<Lacks> {
    let lock = RwLock::new(());
    case(group, "std RwLock", threads, move |n| {
        repeat(n, |_| drop(lock.read().expect(EXPECT)));
    });
    let lock = parking_lot::RwLock::new(());
    case(group, "parking_lot RwLock", threads, move |n| {
        repeat(n, |_| drop(lock.read()));
    });
    let lock = ShardedLock::new(());
    case(group, "ShardedLock", threads, move |n| {
        repeat(n, |_| drop(lock.read().expect(EXPECT)));
    });
    let map = Mutex::new(BTreeMap::new());
    let next = AtomicU32::new(0);
    case(group, "Mutex<BTreeMap>", threads, move |n| {
        // Two pins of the same pages are two entries.
        let thread = next.fetch_add(1, Ordering::Relaxed);
        repeat(n, |_| {
            let key = (black_box(PAGE), thread);
            map.lock().expect(EXPECT).insert(key, PAGE + 1);
            map.lock().expect(EXPECT).remove(&key);
        });
    });
    let lock = VecRangeLock::new(vec![0u8; 64]);
    case(group, "range-lock", threads, move |n| {
        let page = PAGE as usize;
        repeat(n, |_| {
            loop {
                match lock.try_lock(black_box(page)..page + 1) {
                    Ok(guard) => break drop(guard),
                    Err(_) => spin_loop(),
                }
            }
        });
    });
    vec![
        ("std RwLock", "no range; guard not `Send`; newcomers block"),
        (
            "parking_lot RwLock",
            "no range; guard not `Send` (without its feature); newcomers block",
        ),
        (
            "ShardedLock",
            "no range; guard not `Send`; newcomers block; a writer visits every shard",
        ),
        (
            "Mutex<BTreeMap>",
            "could do it all, under one lock for everybody",
        ),
        (
            "range-lock",
            "exclusive only; needs a `Vec` as long as the file; never waits",
        ),
    ]
}

fn reclamation(group: &mut Group<'_, '_>, threads: usize) -> Vec<Lacks> {
    case(group, "crossbeam-epoch", threads, |n| {
        repeat(n, |_| drop(crossbeam_epoch::pin()));
    });
    let collector = Collector::new();
    case(group, "seize", threads, move |n| {
        repeat(n, |_| drop(collector.enter()));
    });
    let pointer = AtomicPtr::from(Box::new(PAGE));
    case(group, "haphazard", threads, move |n| {
        // One hazard pointer for each thread, kept: taking a new one each time costs far more.
        let mut hazard = HazardPointer::new();
        repeat(n, |_| {
            black_box(pointer.safe_load(&mut hazard));
            hazard.reset_protection();
        });
    });
    let waits_for_all = "no range, a break waits for whatever is pinned; newcomers are not refused";
    vec![
        ("crossbeam-epoch", waits_for_all),
        ("seize", waits_for_all),
        (
            "haphazard",
            "one pointer, no range; newcomers are not refused; nobody is woken",
        ),
    ]
}

fn counts(group: &mut Group<'_, '_>, threads: usize) -> Vec<Lacks> {
    let shared = Arc::new(());
    case(group, "Arc clone", threads, move |n| {
        repeat(n, |_| drop(black_box(Arc::clone(&shared))));
    });
    let pages: Vec<_> = (0..64).map(|_| AtomicU32::new(0)).collect();
    case(group, "per-page AtomicU32", threads, move |n| {
        repeat(n, |_| {
            let page = &pages[black_box(PAGE as usize)];
            page.fetch_add(1, Ordering::Acquire);
            page.fetch_sub(1, Ordering::Release);
        });
    });
    let tracker = TaskTracker::new();
    case(group, "TaskTracker token", threads, move |n| {
        repeat(n, |_| drop(tracker.token()));
    });
    vec![
        (
            "Arc clone",
            "no range; newcomers are not refused; nobody is woken",
        ),
        (
            "per-page AtomicU32",
            "time and memory for every page; newcomers are not refused; nobody is woken",
        ),
        (
            "TaskTracker token",
            "no range; newcomers are not refused, also after `close`",
        ),
    ]
}

fn asynchronous(group: &mut Group<'_, '_>, threads: usize) -> Vec<Lacks> {
    let lock = tokio::sync::RwLock::new(());
    case(group, "tokio RwLock", threads, move |n| {
        repeat(n, |_| drop(lock.try_read().expect("nobody writes")));
    });
    let lock = async_lock::RwLock::new(());
    case(group, "async-lock RwLock", threads, move |n| {
        repeat(n, |_| drop(lock.try_read().expect("nobody writes")));
    });
    vec![
        ("tokio RwLock", "no range; newcomers wait"),
        ("async-lock RwLock", "no range; newcomers wait"),
    ]
}
