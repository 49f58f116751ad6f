//! What the search for holes in the promises has found. Each test tells the story of one.
//!
//! One more was found that no test here can show, since the window is a few instructions wide: in builds
//! that verify, a scan that met a pin between its pinner's look at the gate and the end of `pending` could
//! pass over it (**I2**, **I11**). Models find it at once, with the feature `verify`.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use layout_lease::maps::ExtentMap;
use layout_lease::{BreakError, LayoutGuard, OpError, PagePin, PinToken, TryBreakError};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::support::{
    Ask, Bell, Engine, NOW, OnDrop, alone, assert_clean, bare, is_alone, watched, watched_for,
};

/// Long enough for anything here that does not hang.
const SHORT: Duration = Duration::from_secs(120);

// ---- closing --------------------------------------------------------------------------------------

/// A closing waited for every closing before it, also where nobody was waiting for that one any more: a
/// second `close().wait()` never ended while the first value, long drained, was still about (in the same
/// hand, or forgotten).
#[test]
fn i04_a_closing_that_nobody_waits_for_delays_no_other() {
    let guard = bare();
    let pin = guard.try_pin(0..1).unwrap();
    let mut first = guard.close();
    first.assert_waits();
    let bell = Bell::new();
    let mut second = guard.close();
    assert!(bell.poll(&mut second).is_pending());
    drop(pin);
    assert_eq!(bell.rung(), 1, "the mapping is idle");
    assert!(second.wait_timeout(NOW).is_some());
    assert!(first.wait_timeout(NOW).is_some());
    mem::forget(guard.close());
    assert!(guard.close().wait_timeout(NOW).is_some());
}

/// A closing gave up what waits for the log only if nothing but such was left; a retirement of the same pages
/// that was called later, and waited for the first, kept it from that: `close().wait()` never ended. And
/// what waited for a retirement that is given up has not the log's word either: it is given up with it.
#[test]
fn i05_a_closing_ends_though_a_retirement_waits_for_one_without_its_log() {
    let guard = Arc::new(LayoutGuard::new(ExtentMap::new(16)));
    guard.map().allocate(0..16).unwrap();
    let mut first = guard.retire_after(0..8, 17);
    let mut second = guard.retire(4..12);
    let mut elsewhere = guard.retire(12..16);
    assert!(guard.close().wait_timeout(NOW).is_some());
    for given_up in [&mut first, &mut second] {
        let answer = given_up.now();
        assert!(
            matches!(answer, Err(OpError::Break(BreakError::Closed))),
            "{answer:?}"
        );
    }
    assert_eq!(elsewhere.now().unwrap(), 4);
    assert_eq!(guard.map().free_blocks(), 4);
}

/// It also gave them up while somebody still held pages, whose log record might have been the one that was
/// missing: the end of the write that says so came too late.
#[test]
fn i05_a_closing_gives_nothing_up_while_somebody_is_left() {
    let guard = Arc::new(LayoutGuard::new(ExtentMap::new(8)));
    guard.map().allocate(0..8).unwrap();
    let log_write = guard.try_pin(7..8).unwrap();
    let mut retired = guard.retire_after(0..4, 17);
    let (bell, mut closing) = (Bell::new(), guard.close());
    assert!(bell.poll(&mut closing).is_pending());
    assert_eq!(guard.stats().retired_pages, 4, "given up");
    guard.durable(17);
    assert_eq!(bell.rung(), 1, "it is for the closing to run");
    assert!(bell.poll(&mut closing).is_pending());
    assert_eq!(retired.now().unwrap(), 4);
    drop(log_write);
    assert!(bell.poll(&mut closing).is_ready());
}

/// A closing that waits for nothing but a retirement whose blocks another thread is freeing hears of its end.
#[test]
fn i06_a_closing_hears_of_the_last_retirement() {
    watched_for(SHORT, || {
        let (begun, begin) = mpsc::channel();
        let (go, going) = mpsc::channel::<()>();
        let work = Mutex::new((begun, going));
        let guard = Arc::new(Engine::guard(move |_, _| {
            let (begun, going) = &*work.lock().unwrap();
            begun.send(()).unwrap();
            going.recv().unwrap();
            Ok(4)
        }));
        let mut retired = guard.retire(0..4);
        let runs = thread::spawn({
            let guard = Arc::clone(&guard);
            move || guard.run_retired()
        });
        begin.recv().unwrap();
        let (bell, mut closing) = (Bell::new(), guard.close());
        assert!(bell.poll(&mut closing).is_pending());
        go.send(()).unwrap();
        assert_eq!(runs.join().unwrap(), 4);
        assert_eq!(bell.rung(), 1);
        assert!(bell.poll(&mut closing).is_ready());
        assert_eq!(retired.now().unwrap(), 4);
    });
}

// ---- waking ---------------------------------------------------------------------------------------

/// A waker that lets its task go, or runs it, on the spot, as executors do that have been shut down, or
/// have no queue.
struct Inline {
    task: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    run: bool,
    done: AtomicBool,
}

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        let task = self.task.lock().unwrap().take();
        let Some(mut task) = task else { return };
        if self.run {
            let waker = Waker::from(Arc::clone(&self));
            let answer = task.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(answer.is_ready(), "woken for nothing");
        }
        drop(task);
        self.done.store(true, Ordering::SeqCst);
    }
}

/// Whoever waited for a retirement to be run, when the guard was closed and there was none, or the last one was
/// run or given up by the closing, slept for ever.
#[test]
fn i06_a_reclaimer_is_dismissed_by_the_closing() {
    watched_for(SHORT, || {
        for retired in [0, 1, 2] {
            let guard = Arc::new(LayoutGuard::new(ExtentMap::new(16)));
            guard.map().allocate(0..16).unwrap();
            let pin = guard.try_pin(0..1).unwrap();
            if retired > 0 {
                drop(guard.retire_after(0..4, retired - 1));
            }
            let (bell, mut ready) = (Bell::new(), guard.retired_ready());
            assert!(bell.poll(&mut ready).is_pending());
            thread::scope(|s| {
                let reclaimer = s.spawn(|| {
                    while !guard.is_closed() {
                        guard.retired_ready().wait();
                    }
                    guard.retired_ready().wait();
                });
                let mut closing = guard.close();
                // As long as something is retired there may be work.
                assert_eq!(bell.rung(), usize::from(retired == 0));
                assert_eq!(bell.poll(&mut ready).is_ready(), retired == 0);
                closing.assert_waits();
                drop(pin);
                closing.wait();
                reclaimer.join().unwrap();
            });
            assert!(bell.rung() > 0, "{retired}");
            if retired > 0 {
                assert!(bell.poll(&mut ready).is_ready());
            }
            guard.retired_ready().now();
            assert_eq!((guard.run_retired(), guard.stats().queued), (0, 0));
        }
    });
}

/// The wake came from inside the event's own lock, which the drop of the woken future wants, too: whoever
/// dropped the last pin hung for ever.
#[test]
fn i06_a_task_may_be_dropped_or_run_inside_its_wake() {
    for run in [false, true] {
        watched_for(SHORT, move || {
            let guard = Arc::new(bare());
            let pin = guard.try_pin(0..4).unwrap();
            let breaking = guard.break_layouts_arc(2..8);
            let mut task: Pin<Box<dyn Future<Output = ()> + Send>> =
                Box::pin(async move { drop(breaking.await.unwrap()) });
            let inline = Arc::new(Inline {
                task: Mutex::new(None),
                run,
                done: AtomicBool::new(false),
            });
            let waker = Waker::from(Arc::clone(&inline));
            let answer = task.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(answer.is_pending());
            *inline.task.lock().unwrap() = Some(task);
            drop(pin);
            assert!(inline.done.load(Ordering::SeqCst));
            assert_clean(&guard);
        });
    }
}

/// One look with a timeout of zero took the waker of an earlier poll away: the task that had been told
/// "pending" was never woken.
#[test]
fn i06_a_look_without_waiting_leaves_the_waker() {
    let guard = bare();
    let pin = guard.try_pin(0..1).unwrap();
    let (bells, mut breaking) = ([(); 2].map(|()| Bell::new()), guard.break_layouts(0..1));
    assert!(bells[0].poll(&mut breaking).is_pending());
    assert!(breaking.wait_timeout(NOW).is_none());
    let mut waiter = guard.pin(0..1);
    assert!(bells[1].poll(&mut waiter).is_pending());
    assert!(waiter.wait_timeout(NOW).is_none());
    drop(pin);
    assert_eq!(bells[0].rung(), 1);
    drop(breaking.now().unwrap());
    assert_eq!(bells[1].rung(), 1);
    assert!(matches!(bells[1].poll(&mut waiter), Poll::Ready(Ok(_))));
}

/// A retirement that goes on without its `Retired` kept the waker of the task that had waited for it, and
/// with it the task, until the blocks were freed; and woke it then.
#[test]
fn i08_a_detached_retirement_has_let_go_of_the_waker() {
    let guard = Arc::new(LayoutGuard::new(ExtentMap::new(4)));
    let pin = guard.try_pin(0..1).unwrap();
    let (bell, mut retired) = (Bell::new(), guard.retire(0..4));
    assert!(bell.poll(&mut retired).is_pending());
    assert_eq!(Arc::strong_count(&bell), 2);
    drop(retired);
    assert_eq!(Arc::strong_count(&bell), 1);
    drop(pin);
    assert_eq!((guard.run_retired(), guard.stats().queued), (0, 0));
    assert_eq!(bell.rung(), 0);
}

// ---- naming ---------------------------------------------------------------------------------------

/// A pin that was granted to a waiter was said to be of the thread that had reopened the pages.
#[test]
fn i05_a_granted_pin_is_not_of_the_thread_that_granted_it() {
    let guard = bare();
    let proof = guard.try_break_layouts(0..4).unwrap();
    let mut waiter = guard.pin(0..1);
    waiter.assert_waits();
    let granter = thread::scope(|s| {
        let granter = s.spawn(|| {
            // It has pins of its own, so the granted one is not in the first of its slots.
            let own = [10, 20, 30].map(|page| guard.try_pin(page..=page).unwrap());
            drop(proof);
            // While the granter still lives: afterwards nobody is named anyway.
            let me = Some(thread::current().id());
            assert_ne!(guard.holders(..1)[0].thread(), me);
            assert!(guard.holders(1..).iter().all(|h| h.thread() == me));
            drop(own);
        });
        granter.join()
    });
    granter.unwrap();
    // Nor is a pin that the granter takes itself, later in the same slot, anybody else's.
    drop(waiter.now().unwrap());
    let own = guard.try_pin(0..1).unwrap();
    assert_eq!(guard.holders(..)[0].thread(), Some(thread::current().id()));
    drop(own);
}

/// `try_break_layouts` could be refused because of holders and then name none: the one that it had met was
/// gone, or had stepped back, before it was written down.
#[test]
fn i04_busy_names_somebody() {
    watched(|| {
        let guard = bare();
        let over = AtomicBool::new(false);
        thread::scope(|s| {
            let _stop = OnDrop::new(|| over.store(true, Ordering::Relaxed));
            s.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    drop(guard.try_pin(0..1));
                }
            });
            let (mut busy, mut tries) = (0, 0);
            while tries < 60_000 || busy == 0 {
                tries += 1;
                if let Err(TryBreakError::Busy(who)) = guard.try_break_layouts(0..1) {
                    assert!(!who.is_empty(), "busy, but with nobody");
                    busy += 1;
                }
            }
        });
        assert_clean(&guard);
    });
}

// ---- slots ----------------------------------------------------------------------------------------

/// The slots that pins have been in, by number: what is never given back, and what a scan looks through.
#[derive(Default)]
struct Slots(BTreeSet<u32>);

impl Slots {
    /// Takes note of where the pin is: the lower half of a token is the number of its slot.
    fn note(&mut self, pin: PagePin) -> PagePin {
        let token = pin.into_token().to_u64();
        self.0.insert(token as u32);
        PinToken::from_u64(token).unwrap().redeem().unwrap()
    }
}

/// A thread with a few hundred long pins took a new block of slots for every 63 pins of each burst, though
/// those of the burst before were free: it looked at the next few blocks only, and those were the ones
/// with the long pins. Memory and the cost of every scan grew without end.
#[test]
fn i05_bursts_beside_long_pins_use_the_same_slots() {
    let guard = bare();
    let long: Vec<_> = (0..400).map(|_| guard.try_pin(0..1).unwrap()).collect();
    let mut slots = Slots::default();
    let mut bursts = |n: usize| {
        for _ in 0..n {
            let pins = (0..2_000).map(|_| slots.note(guard.try_pin(1..2).unwrap()));
            drop(pins.collect::<Vec<_>>());
        }
        slots.0.len()
    };
    let before = bursts(3);
    // At first a few more than it needs, so that it need not look at all of them so often.
    assert!((2_000..3_000).contains(&before), "{before} slots");
    let grown = bursts(40) - before;
    assert!(grown < 63, "{grown} slots more for the same pins");
    drop(long);
}

/// The same with threads that come and go, and leave pins behind for a while: the blocks that had become
/// free again lay behind a few that had not.
#[test]
fn i09_blocks_of_threads_that_exited_are_used_again() {
    // Other tests' threads leave blocks behind, too, and each would be used in its turn.
    if !is_alone() {
        let (status, text) = alone("found::i09_blocks_of_threads_that_exited_are_used_again");
        return assert!(status.success(), "{text}");
    }
    let guard = bare();
    let mut slots = Slots::default();
    let mut generation = || {
        let take = || (0..63).map(|_| guard.try_pin(0..1).unwrap()).collect();
        let pins: Vec<_> = thread::scope(|s| s.spawn(take).join().unwrap());
        let pins = pins.into_iter().map(|pin| slots.note(pin));
        (pins.collect::<Vec<_>>(), slots.0.len())
    };
    // Some stay for long, and others go after a while.
    let _long: Vec<_> = (0..6).map(|_| generation()).collect();
    let mut left: VecDeque<_> = (0..8).map(|_| generation()).collect();
    let mut generations = |n: usize| {
        for _ in 0..n {
            left.push_back(generation());
            left.pop_front();
        }
        left[7].1
    };
    let before = generations(50);
    let grown = generations(200) - before;
    assert_eq!(grown, 0, "more slots for the same pins, behind {before}");
}

// ---- fork -----------------------------------------------------------------------------------------

/// The child of a fork dropped a guard while, at the moment of the fork, another thread of the parent had
/// been in the middle of a break: the lock that this thread held is never released in the child.
#[cfg(target_os = "linux")]
#[test]
fn corner_a_forked_child_may_drop_a_guard() {
    use std::os::unix::process::CommandExt;

    const NAME: &str = "found::corner_a_forked_child_may_drop_a_guard";
    if !is_alone() {
        // In a process group of its own, so that a child that hangs can be got rid of.
        let mut parent = Command::new(std::env::current_exe().unwrap())
            .args([NAME, "--exact", "--nocapture", "--test-threads=1"])
            .env("PROMISES_ALONE", "1")
            .process_group(0)
            .spawn()
            .unwrap();
        let group = Pid::from_raw(parent.id() as i32).unwrap();
        let (done, ended) = mpsc::channel();
        let waits = thread::spawn(move || done.send(parent.wait().unwrap().success()));
        let answer = ended.recv_timeout(SHORT);
        if answer == Err(RecvTimeoutError::Timeout) {
            kill_process_group(group, Signal::KILL).unwrap();
        }
        drop(waits.join());
        return assert_eq!(answer, Ok(true), "the child hangs");
    }
    // Holds the guard's lock nearly all the time, for the scan of many pins.
    let guard: &'static _ = Box::leak(Box::new(bare()));
    let _pins: Vec<_> = (0..20_000).map(|_| guard.try_pin(0..1).unwrap()).collect();
    let (begun, begin) = mpsc::channel();
    thread::spawn(move || {
        loop {
            guard.stats();
            begun.send(()).ok();
        }
    });
    begin.recv().unwrap();
    for _ in 0..10 {
        let mut child = Command::new("true");
        // SAFETY: between fork and exec, this runs in a copy of the process in which there is no other
        // thread, and which never uses `guard` again. It allocates nothing.
        unsafe {
            child.pre_exec(move || {
                drop(std::ptr::read(guard));
                Ok(())
            });
        }
        assert!(child.status().unwrap().success());
    }
}

/// The child of a fork dropped a pin for which a break of the parent's waited: it called the waker of the
/// parent's task, in a process where neither the task's executor nor its locks are what they were; and
/// granting the pages to the next would have waited for a lock of a thread that is not there.
#[cfg(target_os = "linux")]
#[test]
fn corner_a_forked_child_wakes_nobody() {
    use std::os::unix::process::CommandExt;

    struct Ours(u32);
    impl Wake for Ours {
        fn wake(self: Arc<Self>) {
            if std::process::id() != self.0 {
                std::process::abort();
            }
        }
    }
    let guard = bare();
    let waker = Waker::from(Arc::new(Ours(std::process::id())));
    let mut cx = Context::from_waker(&waker);
    let (pin, lease) = (
        guard.try_pin(0..1).unwrap(),
        guard.lease(1..2).now().unwrap(),
    );
    let mut of_pin = guard.break_layouts(0..1);
    let mut of_lease = guard.break_leases(1..2);
    let mut behind = guard.break_layouts(0..1);
    let proof = guard.try_break_layouts(3..4).unwrap();
    let mut pins = guard.pin(3..4);
    assert!(Pin::new(&mut of_pin).poll(&mut cx).is_pending());
    assert!(Pin::new(&mut of_lease).poll(&mut cx).is_pending());
    assert!(Pin::new(&mut behind).poll(&mut cx).is_pending());
    assert!(Pin::new(&mut pins).poll(&mut cx).is_pending());
    let held = (&raw const pin, &raw const lease, &raw const proof);
    let [pin_at, lease_at, proof_at] = [
        held.0.expose_provenance(),
        held.1.expose_provenance(),
        held.2.expose_provenance(),
    ];
    let mut child = Command::new("true");
    // SAFETY: between fork and exec, this runs in a copy of the process in which there is no other thread,
    // and which never uses what it drops again.
    unsafe {
        child.pre_exec(move || {
            drop(std::ptr::with_exposed_provenance::<layout_lease::PagePin>(pin_at).read());
            drop(std::ptr::with_exposed_provenance::<layout_lease::LayoutLease>(lease_at).read());
            drop(
                std::ptr::with_exposed_provenance::<layout_lease::Drained<'_, ()>>(proof_at).read(),
            );
            Ok(())
        });
    }
    assert!(child.status().unwrap().success());
    // Here nothing has happened.
    assert!(Pin::new(&mut of_pin).poll(&mut cx).is_pending());
    drop((pin, lease, proof));
    assert!(of_pin.now().is_ok() && of_lease.now().is_ok() && pins.now().is_ok());
}
