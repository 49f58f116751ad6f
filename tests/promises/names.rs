//! Who holds what: `holders`, `stats`, `Debug`. And the failures that are known from elsewhere, in which
//! nobody could say who it was.

use std::fmt::Debug;
use std::future::Future;
use std::mem;
use std::panic::Location;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use layout_lease::{
    AnyGuard, Holder, HolderKind, LayoutGuard, LayoutLease, PagePin, PageRange, TryBreakError,
    TryPinError, break_layouts_of,
};

use crate::support::{
    Ask, Bell, Engine, OnDrop, assert_clean, bare, is_open, lease, pages, until, watched,
};

const MOMENT: Duration = Duration::from_millis(1);

fn line(holder: &Holder) -> u32 {
    assert_eq!(holder.location().file(), file!());
    holder.location().line()
}

// ---- holders --------------------------------------------------------------------------------------

#[test]
fn holders_say_who_holds_what_and_where_it_was_taken() {
    let guard = bare();
    let (tried, a) = (guard.try_pin(0..2).unwrap(), line!());
    let (waited, b) = (guard.pin(10..12).wait().unwrap(), line!());
    let (leasing, c) = (guard.lease(20..22).labelled("ring"), line!());
    let leased = leasing.wait().unwrap();
    let breaking = guard.break_layouts(0..4);
    let (extended, d) = (tried.extend(&guard, 3..4).unwrap(), line!());
    let mut all = guard.holders(..);
    all.sort_unstable_by_key(Holder::range);
    let ranges: Vec<_> = all.iter().map(Holder::range).collect();
    let expected = [(0, 2), (3, 4), (10, 12), (20, 22)].map(|(start, end)| pages(start, end));
    assert_eq!(ranges, expected);
    assert_eq!(all.iter().map(line).collect::<Vec<_>>(), [a, d, b, c]);
    let kinds = [
        HolderKind::Pin,
        HolderKind::Pin,
        HolderKind::Pin,
        HolderKind::Lease,
    ];
    assert!(all.iter().map(Holder::kind).eq(kinds));
    let labels = [None, None, None, Some("ring")];
    assert!(all.iter().map(Holder::label).eq(labels));
    let here = Some(thread::current().id());
    assert!(all.iter().all(|holder| holder.thread() == here));
    // How long a pin has held its pages nobody has looked; how long it is waited for, somebody has.
    let ages: Vec<_> = all.iter().map(|holder| holder.age().is_some()).collect();
    assert_eq!(ages, [true, true, false, true]);
    // A break of leases waits for no pin.
    let alone = guard.break_leases(10..22);
    assert_eq!(guard.holders(10..12)[0].age(), None);
    drop(alone);
    // Parts, and nothing.
    assert_eq!(guard.holders(1..11).len(), 3);
    assert_eq!(guard.holders(2..3).len() + guard.holders(12..20).len(), 0);
    assert_eq!(guard.holders(5..5).len(), 0);
    assert_eq!(breaking.holders().len(), 2);
    drop((breaking, tried, waited, leased, extended));
    assert_clean(&guard);
}

/// Where a library pins on behalf of its caller, it can say so.
#[test]
fn holders_name_the_caller_of_who_tracks_its_caller() {
    #[track_caller]
    fn read(guard: &LayoutGuard<()>) -> (PagePin, LayoutLease, &'static Location<'static>) {
        let pin = guard.try_pin(0..1).unwrap();
        (pin, guard.lease(0..1).wait().unwrap(), Location::caller())
    }
    let guard = bare();
    let ((pin, held, caller), here) = (read(&guard), line!());
    assert_eq!(caller.line(), here);
    assert!(
        guard
            .holders(..)
            .iter()
            .all(|holder| holder.location() == caller)
    );
    drop((pin, held));
}

#[test]
fn holders_know_a_lease_by_name_thread_and_age() {
    let guard = bare();
    let before = Instant::now();
    let first = guard
        .lease(0..4)
        .labelled(String::from("buffer 7"))
        .wait()
        .unwrap();
    let elsewhere = thread::scope(|s| {
        let thread = s.spawn(|| (lease(&guard, pages(4, 8)), thread::current().id()));
        thread.join().unwrap()
    });
    let who = |page: u64| guard.holders(page..=page).pop().unwrap();
    assert_eq!(who(0).label(), Some("buffer 7"));
    assert_eq!(who(4).label(), None);
    assert_eq!(who(0).thread(), Some(thread::current().id()));
    let age = who(0).age().unwrap();
    assert!(age <= before.elapsed());
    thread::sleep(MOMENT);
    assert!(who(0).age().unwrap() >= age + MOMENT, "time goes by");
    // A break does not make it any younger, nor does giving back a part.
    let mut first = first;
    let breaking = guard.break_layouts(0..8);
    first.shrink_to(0..2).unwrap();
    assert!(who(0).age().unwrap() >= age + MOMENT && who(0).range() == pages(0, 2));
    assert_eq!(who(0).label(), Some("buffer 7"));
    // Granted to a waiter, it is nobody's thread; the name and the place are those of the waiter.
    let (mut waiter, here) = (guard.lease(6..9).labelled("late"), line!());
    waiter.assert_waits();
    drop(elsewhere);
    drop(first);
    thread::scope(|s| drop(s.spawn(|| drop(breaking))));
    assert_eq!((who(8).label(), who(8).thread()), (Some("late"), None));
    assert_eq!(line(&who(8)), here);
    // Too late: it has been asked already.
    let mut waiter = waiter.labelled("too late");
    let granted = waiter.now().unwrap();
    assert_eq!(who(8).label(), Some("late"));
    drop((granted, waiter));
    assert_clean(&guard);
}

#[test]
fn holders_print_what_is_needed_to_find_them() {
    let guard = bare();
    let held = guard.lease(3..5).labelled("ring 0").wait().unwrap();
    let pin = guard.try_pin(7..9).unwrap();
    let breaking = guard.break_layouts(..);
    for holder in breaking.holders() {
        let text = holder.to_string();
        let (kind, range, age) = match holder.kind() {
            HolderKind::Pin => ("pin", "7..9", "awaited for"),
            _ => ("lease", "3..5", "held for"),
        };
        for part in [kind, range, age, file!(), "ThreadId"] {
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        }
        assert_eq!(text.contains("ring 0"), kind == "lease", "{text}");
        assert!(format!("{holder:?}").contains(range));
    }
    match guard.try_break_layouts(20..21) {
        Err(TryBreakError::Breaking) => {}
        other => panic!("{other:?}"),
    }
    drop(breaking);
    match guard.try_break_layouts(4..8) {
        Err(TryBreakError::Busy(who)) => assert_eq!(who.len(), 2),
        other => panic!("{other:?}"),
    }
    drop((held, pin));
}

// ---- stats ----------------------------------------------------------------------------------------

#[test]
fn stats_count_everything() {
    let guard = Arc::new(Engine::idle());
    let zero = guard.stats();
    assert_eq!(
        (zero.pins, zero.leases, zero.queued, zero.retired_pages),
        (0, 0, 0, 0)
    );
    assert_eq!((zero.breaks, zero.breaks_waited), (0, 0));
    assert_eq!(
        (zero.wait_p50, zero.wait_p99, zero.wait_max),
        (None, None, None)
    );
    // Holders, of whichever kind; tokens are pins.
    let (pin, held) = (guard.try_pin(0..2).unwrap(), lease(&guard, pages(0, 2)));
    let token = guard.try_pin(0..2).unwrap().into_token();
    assert_eq!((guard.stats().pins, guard.stats().leases), (2, 1));
    // Breaks that need not wait.
    drop(guard.break_layouts(4..5).now().unwrap());
    drop(guard.break_leases(4..5).now().unwrap());
    drop(guard.break_all(&[pages(4, 5), pages(6, 7)]).now().unwrap());
    drop(guard.try_break_layouts(4..5).unwrap());
    assert!(guard.try_break_layouts(0..1).is_err());
    assert!(guard.break_layouts(5..5).now().is_err());
    let stats = guard.stats();
    assert_eq!((stats.breaks, stats.breaks_waited, stats.queued), (4, 0, 0));
    assert_eq!(stats.wait_max, None);
    // Breaks that wait, for holders and for a turn; those who wait for pages are in the queue, too.
    let breaking = guard.break_layouts(1..4);
    let alone = guard.break_leases(0..1);
    let queued = guard.break_layouts(3..6);
    let (mut pinning, mut leasing) = (guard.pin(5..6), guard.lease(5..6));
    pinning.assert_waits();
    leasing.assert_waits();
    let stats = guard.stats();
    assert_eq!((stats.breaks, stats.breaks_waited, stats.queued), (7, 3, 5));
    // Cancelled ones have waited in vain: they are no example of how long it takes.
    drop(queued);
    drop((pinning.now().unwrap(), leasing.now().unwrap()));
    assert_eq!((guard.stats().queued, guard.stats().wait_max), (2, None));
    thread::sleep(Duration::from_millis(3));
    drop(held);
    let stats = guard.stats();
    let waited = stats.wait_max.expect("one has its proof");
    assert!(waited >= Duration::from_millis(3), "{waited:?}");
    assert_eq!(
        (stats.wait_p50, stats.wait_p99),
        (Some(waited), Some(waited))
    );
    // So that it is the longest by far, whatever kept us until here.
    thread::sleep(waited.max(Duration::from_millis(20)));
    drop((pin, token.redeem().unwrap()));
    let stats = guard.stats();
    let (p50, longest) = (stats.wait_p50.unwrap(), stats.wait_max.unwrap());
    assert!(longest >= Duration::from_millis(23) && stats.wait_p99 == Some(longest));
    assert!(
        p50 >= waited && p50 <= waited * 9 / 8 && p50 < longest,
        "{p50:?} of {waited:?}"
    );
    assert_eq!((stats.pins, stats.leases), (0, 0));
    drop((breaking, alone));
    assert_eq!(guard.stats().wait_max, Some(longest), "what was, stays");
    // Retired pages, until they are freed; retiring is breaking.
    let pin = guard.try_pin(10..11).unwrap();
    drop((guard.retire(10..14), guard.retire_after(20..25, 1)));
    let stats = guard.stats();
    assert_eq!((stats.retired_pages, stats.queued, stats.breaks), (9, 2, 9));
    assert_eq!(stats.breaks_waited, 4);
    guard.durable(1);
    assert_eq!((guard.run_retired(), guard.stats().retired_pages), (1, 4));
    drop(pin);
    assert_eq!((guard.run_retired(), guard.stats().retired_pages), (1, 0));
    assert_clean(&guard);
}

// ---- Debug ----------------------------------------------------------------------------------------

/// Everything can be printed anywhere: inside the engine, inside a waker, and under one's own proof.
#[test]
fn debug_prints_ranges_wherever_it_is_called() {
    /// Prints when it is woken.
    struct Printer(Mutex<Vec<String>>, Arc<LayoutGuard<Engine>>);
    impl Wake for Printer {
        fn wake(self: Arc<Self>) {
            self.0.lock().unwrap().push(format!("{:?}", self.1));
        }
    }
    watched(|| {
        let inside = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&inside);
        let guard = Arc::new(Engine::guard(move |_, proof| {
            let texts = [format!("{:?}", proof.guard()), format!("{proof:?}")];
            log.lock().unwrap().extend(texts);
            Ok(1)
        }));
        let printer = Arc::new(Printer(Mutex::new(Vec::new()), Arc::clone(&guard)));
        let other = bare();
        let (pin, held) = (guard.try_pin(30..33).unwrap(), lease(&guard, pages(40, 44)));
        let free = guard.break_leases(50..55).now().unwrap();
        let proof = guard.try_break_layouts(60..66).unwrap();
        let parts: [(&dyn AnyGuard, PageRange); 2] =
            [(&*guard, pages(70, 77)), (&other, pages(7, 9))];
        let proofs = break_layouts_of(&parts).now().unwrap();
        let (mut waiter, mut leasing) = (guard.pin(62..63), guard.lease(63..64));
        waiter.assert_waits();
        leasing.assert_waits();
        {
            let texts: [(&str, &dyn Debug); 17] = [
                ("30..33", &pin),
                ("40..44", &held),
                ("40..44", &held.recalled()),
                ("50..55", &free),
                ("60..66", &proof),
                ("7..9", &proofs),
                ("70..77", &proofs.of(&guard).unwrap()),
                ("62..63", &waiter),
                ("63..64", &leasing),
                ("1..2", &guard.pin(1..2)),
                ("1..2", &guard.lease(1..2)),
                ("61..88", &guard.break_layouts(61..88)),
                ("41..48", &guard.break_leases(41..48)),
                ("71..72", &break_layouts_of(&[(&*guard, pages(71, 72))])),
                ("61..65", &guard.punch_hole(61..65)),
                ("0..4", &guard.retire(0..4)),
                ("0x", &guard.try_pin(5..6).unwrap().into_token()),
            ];
            for (part, value) in texts {
                let text = format!("{value:?}");
                assert!(text.contains(part), "{text:?} does not say {part:?}");
            }
        }
        let text = format!("{guard:?}");
        for part in ["pins: 2", "leases: 1", "queued: "] {
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        }
        assert!(format!("{:?}", guard.retired_ready()).contains("RetiredReady"));
        assert!(format!("{:?}", guard.stats()).contains("retired_pages: 4"));
        // In a waker, which is called by whoever lets go.
        let mut breaking = guard.break_layouts(30..31);
        let waker = Waker::from(Arc::clone(&printer));
        let poll = Pin::new(&mut breaking).poll(&mut Context::from_waker(&waker));
        assert!(poll.is_pending());
        drop(pin);
        assert!(printer.0.lock().unwrap()[0].contains("pins: 1"));
        // In the engine.
        assert_eq!(guard.run_retired(), 1);
        assert!(inside.lock().unwrap()[0].contains("pins: 1"));
        assert!(inside.lock().unwrap()[1].contains("0..4"));
        drop((breaking, waiter, leasing, proofs, proof, free, held));
        drop(guard.close());
        assert!(format!("{:?}", guard.close()).contains("Close"));
        assert!(format!("{guard:?}").contains("LayoutGuard"));
    });
}

// ---- failures known from elsewhere ----------------------------------------------------------------

/// A waiter that gave up after a while took that for success, and freed the pages: here a timeout is
/// another type than a proof, however often it is asked, and whoever goes on has nothing to go on with.
#[test]
fn elsewhere_a_timeout_was_taken_for_success() {
    let guard = Engine::idle();
    let other = bare();
    let (pin, held) = (guard.try_pin(0..1).unwrap(), lease(&guard, pages(2, 3)));
    let mut punch = guard.punch_hole(0..4);
    let mut alone = guard.break_leases(0..4);
    let mut many = break_layouts_of(&[(&other, pages(0, 1)), (&guard, pages(0, 1))]);
    let mut closing = guard.break_layouts(0..1);
    for n in 0..6 {
        // All ways to give up.
        let (timeout, deadline) = ([Duration::ZERO, MOMENT][n % 2], Instant::now() + MOMENT);
        assert!(punch.wait_timeout(timeout).is_none() && punch.wait_deadline(deadline).is_none());
        assert!(alone.wait_timeout(timeout).is_none() && alone.wait_deadline(deadline).is_none());
        assert!(many.wait_timeout(timeout).is_none() && many.wait_deadline(deadline).is_none());
        assert!(closing.wait_timeout(timeout).is_none());
        // A moment that is long past, too.
        assert!(punch.wait_deadline(Instant::now() - MOMENT).is_none());
        assert_eq!(guard.map().calls(), 0, "freed");
        assert_eq!(guard.try_pin(1..2).unwrap_err(), TryPinError::Breaking);
        assert_eq!(guard.stats().queued, 4);
    }
    drop((pin, held));
    assert_eq!(punch.now(), Ok(1));
    drop(alone.now().unwrap());
    drop(many.now().unwrap());
    drop(closing.now().unwrap());
}

/// Readers that come and go so that there is always one: the count never was zero, and whoever waited for
/// zero waited for ever. Here it waits for those that were there, with pins, leases and extensions.
#[test]
fn elsewhere_a_breaker_starved() {
    let guard = bare();
    // Hand over hand: the next is taken before the last one goes.
    let mut chain = (guard.try_pin(0..4).unwrap(), lease(&guard, pages(0, 4)));
    for _ in 0..10 {
        chain = (guard.try_pin(0..4).unwrap(), lease(&guard, pages(0, 4)));
    }
    let mut breaking = guard.break_layouts(2..3);
    assert!(guard.try_pin(0..4).is_err());
    guard.lease(0..4).assert_waits();
    let extension = chain.0.extend(&guard, 0..4).unwrap();
    drop(chain);
    assert!(
        extension.extend(&guard, 0..4).is_err(),
        "the chain ends here"
    );
    drop(extension);
    drop(breaking.now().unwrap());
    // The same by threads that never leave the page alone, and breaks of each kind.
    watched(|| {
        let guard = Arc::new(Engine::idle());
        let over = AtomicBool::new(false);
        let taken = [const { AtomicUsize::new(0) }; 2];
        thread::scope(|s| {
            let _stop = OnDrop::new(|| over.store(true, Ordering::SeqCst));
            for n in &taken {
                let (guard, over) = (&guard, &over);
                s.spawn(move || {
                    let mut last = None;
                    while !over.load(Ordering::SeqCst) {
                        // Never without, if it can be helped.
                        match guard.try_pin(0..4) {
                            Ok(pin) => last = Some(pin),
                            Err(_) => last = None,
                        }
                        n.fetch_add(usize::from(last.is_some()), Ordering::SeqCst);
                    }
                    drop(last);
                });
            }
            for round in 0..300 {
                let before: Vec<_> = taken.iter().map(|n| n.load(Ordering::SeqCst)).collect();
                until(|| {
                    taken
                        .iter()
                        .zip(&before)
                        .all(|(n, m)| n.load(Ordering::SeqCst) > *m)
                });
                match round % 3 {
                    0 => drop(guard.break_layouts(2..3).wait().unwrap()),
                    1 => assert_eq!(guard.retire(1..2).wait(), Ok(1)),
                    _ => drop(guard.break_all(&[pages(0, 1), pages(2, 3)]).wait().unwrap()),
                }
            }
        });
        assert_clean(&guard);
    });
}

/// A future that was dropped, by a timeout around it or a `select`, left a count behind that nobody would
/// ever take down: every later truncation hung. Here each step of an operation may be the last.
#[test]
fn elsewhere_a_cancelled_future_leaked_its_pin() {
    async fn operation(guard: &LayoutGuard<Engine>, bell: &AtomicUsize) {
        let _pin = guard.pin(0..4).await.unwrap();
        bell.fetch_add(1, Ordering::SeqCst);
        let held = guard.lease(4..8).await.unwrap();
        bell.fetch_add(1, Ordering::SeqCst);
        held.recalled().await;
        bell.fetch_add(1, Ordering::SeqCst);
        drop(held);
        guard.break_leases(0..8).await.map(drop).unwrap();
        drop(guard.break_layouts(10..12).await.unwrap());
        guard.punch_hole(20..21).await.unwrap();
    }
    let steps = AtomicUsize::new(0);
    for polls in 0..8 {
        let guard = Engine::idle();
        // In its way, one after the other.
        let obstacles = [0, 4, 10, 20];
        let mut obstacles: Vec<_> = obstacles
            .iter()
            .map(|n| guard.break_layouts(*n..n + 1).now().unwrap())
            .rev()
            .collect();
        steps.store(0, Ordering::SeqCst);
        {
            let mut future = pin!(operation(&guard, &steps));
            let mut wanted = None;
            for n in 0..polls {
                let _ = future
                    .as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()));
                match n {
                    2 => wanted = Some(guard.break_leases(5..6)),
                    3 => wanted = None,
                    _ => drop(obstacles.pop()),
                }
            }
            drop(wanted);
            // Dropped here: not yet polled, waiting, granted but not polled since, or at work.
        }
        drop(obstacles);
        assert_clean(&guard);
        assert_eq!(guard.truncate(0).now(), Ok(1), "after {polls} polls");
    }
    assert_eq!(steps.load(Ordering::SeqCst), 3, "it did get on");
}

/// A thread that truncated what it had mapped and pinned itself waited for itself, and nobody could tell.
/// Here it does, too; but it can be asked who it is, and there is a way to do it.
#[test]
fn elsewhere_a_holder_waited_for_itself() {
    let guard = Engine::idle();
    let (pin, here) = (guard.try_pin(3..5).unwrap(), line!());
    let held = guard.lease(8..9).labelled("mine").wait().unwrap();
    let mut punch = guard.punch_hole(0..9);
    assert!(punch.wait_timeout(MOMENT).is_none());
    let myself = Some(thread::current().id());
    let who = punch.breaking().holders();
    assert!(who.len() == 2 && who.iter().all(|holder| holder.thread() == myself));
    assert!(
        who.iter()
            .any(|holder| line(holder) == here && holder.age() >= Some(MOMENT))
    );
    assert!(who.iter().any(|holder| holder.label() == Some("mine")));
    drop((punch, held));
    let proof = pin.into_break(&guard).unwrap().now().unwrap();
    assert_eq!(proof.punch_hole(pages(3, 5)), Ok(1));
    drop(proof);
    assert_clean(&guard);
}

/// A holder that never lets go: it is named each time, nothing is freed, others get on, and giving up
/// leaves no trace.
#[test]
fn elsewhere_a_holder_never_let_go() {
    let guard = Engine::idle();
    let (token, here) = (guard.try_pin(4..6).unwrap().into_token(), line!());
    mem::forget(lease(&guard, pages(5, 7)));
    for round in 1..=3 {
        let mut punch = guard.punch_hole(0..8);
        let mut ages = Vec::new();
        for _ in 0..3 {
            assert!(punch.wait_timeout(MOMENT).is_none());
            let who = punch.breaking().holders();
            assert_eq!(who.len(), 2);
            let pin = who.iter().find(|h| h.kind() == HolderKind::Pin).unwrap();
            assert_eq!((pin.range(), line(pin)), (pages(4, 6), here));
            ages.push(pin.age().unwrap());
            assert!(!is_open(&guard, pages(0, 1)) && is_open(&guard, pages(8, 20)));
        }
        assert!(ages.is_sorted() && ages[0] >= MOMENT);
        assert_eq!(guard.map().calls(), round - 1);
        drop(punch);
        let stats = guard.stats();
        assert_eq!((stats.pins, stats.leases, stats.queued), (1, 1, 0));
        assert!(is_open(&guard, PageRange::ALL));
        // The rest of the mapping is none the worse.
        assert_eq!(guard.punch_hole(0..4).now(), Ok(1));
    }
    let (bell, mut breaking) = (Bell::new(), guard.break_layouts(4..5));
    assert!(bell.poll(&mut breaking).is_pending());
    drop(token.redeem());
    assert!(matches!(bell.poll(&mut breaking), Poll::Ready(Ok(_))));
}
