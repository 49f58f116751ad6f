//! Lives: mappings that come, are used by threads that come and go, and end in every way there is.
//!
//! A life is two guards over a hostile engine each, and for some milliseconds some visitors
//! (`visitors.rs`), who pin, lease and break, panic with what they hold, and lose tokens. In the middle of
//! it the process forks (`forks.rs`). Then the guards end:
//!
//! | end | what must hold |
//! | --- | --- |
//! | closed when everybody has gone | nothing is left, the engine goes with its guard |
//! | closed in the middle | everybody is told, and what they hold is waited for |
//! | dropped under a pin | the engine stays until that pin is gone (I9) |
//! | something is forgotten | nothing is ever freed under it (I4), the rest goes on |
//!
//! Lives run beside the games of the hostile engine, whose slots and threads they share.

use std::mem;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use layout_lease::{Barrier, LayoutGuard, PageRange, PinToken, TryPinError};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::engine::Engine;
use crate::forks;
use crate::tally::{Tally, add};
use crate::visitors::{self, Deliberate};
use crate::watch::Watch;

/// Forgotten things that a run may have at its start. Then there is one more a second, for they stay.
const FORGOTTEN: u64 = 20;

/// Words of each block: a life is short.
const WORDS: usize = 8;

/// How long a drain is waited for that never comes, and how often.
const IN_VAIN: (u32, Duration) = (3, Duration::from_micros(200));

/// Fenced pins after which a mapping has certainly gone back to asymmetric, and breaks after which it is
/// certainly fenced again.
const STUTTER: (u32, u32) = ((1 << 14) + 512, 12);

/// Who makes mappings live and die.
pub(crate) struct Lives<'a> {
    pub(crate) tally: &'a Tally,
    pub(crate) watch: &'a Watch,
    pub(crate) rng: SmallRng,
    /// Each life has one of these.
    pub(crate) barriers: &'static [Barrier],
    /// How many times something has been forgotten, and is never had back.
    pub(crate) forgets: &'a AtomicU64,
}

/// What visitors share.
pub(crate) struct Life<'a> {
    pub(crate) guards: [Arc<LayoutGuard<Engine>>; 2],
    pub(crate) tally: &'a Tally,
    /// Numbers of tokens, for anybody to find.
    pub(crate) lost: Mutex<Vec<u64>>,
    /// How far the log of retirements has been written.
    pub(crate) log: AtomicU64,
}

impl Life<'_> {
    /// Does what visitors leave to others: finds the tokens that they lose, whose pins are dropped here,
    /// far from where they were taken; flushes the log; and frees what they retired.
    pub(crate) fn tidy(&self) {
        let lost = mem::take(&mut *self.lost());
        for number in lost {
            let redeem = || PinToken::from_u64(number).and_then(PinToken::redeem);
            let pin = redeem().expect("a token is redeemed once");
            assert!(redeem().is_none(), "redeemed twice");
            drop(pin);
            add(&self.tally.found, 1);
        }
        // Behind that: a retirement may have waited for one of those pins.
        for guard in &self.guards {
            guard.durable(self.log.load(Relaxed));
            add(&self.tally.reclaimed, guard.run_retired());
        }
    }

    pub(crate) fn lost(&self) -> std::sync::MutexGuard<'_, Vec<u64>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lives<'_> {
    /// One life.
    pub(crate) fn live(&mut self) {
        let barrier = self.barriers[self.rng.random_range(0..self.barriers.len())];
        let guard = || {
            let guard = Arc::new(LayoutGuard::with_barrier(Engine::new(WORDS), barrier));
            guard.map().allocate(PageRange::ALL);
            self.watch.look_at(&guard);
            guard
        };
        let life = Life {
            guards: [guard(), guard()],
            tally: self.tally,
            lost: Mutex::default(),
            log: AtomicU64::new(0),
        };
        let closes = self.rng.random_range(0..4) == 0;
        thread::scope(|scope| {
            let seeds = [(); 3].map(|()| self.rng.random());
            let visitors = seeds.map(|seed| {
                let life = &life;
                scope.spawn(move || visitors::visit(life, SmallRng::seed_from_u64(seed)))
            });
            if self.rng.random_range(0..8) == 0 {
                forks::fork(&life, self.watch);
            }
            if closes {
                self.close(&life);
            }
            while !visitors.iter().all(thread::ScopedJoinHandle::is_finished) {
                // Somebody may be waiting for one of these.
                life.tidy();
                thread::yield_now();
            }
            for visitor in visitors {
                add(&self.tally.visitors, 1);
                if let Err(cause) = visitor.join() {
                    if !cause.is::<Deliberate>() {
                        std::panic::resume_unwind(cause);
                    }
                    add(&self.tally.panicked, 1);
                }
            }
        });
        life.tidy();
        let Life { guards, .. } = life;
        for guard in guards {
            let stats = guard.stats();
            let left = (stats.pins, stats.leases, stats.queued, stats.retired_pages);
            assert_eq!(left, (0, 0, 0, 0), "a trace is left of {guard:?}");
            guard.map().audit(|it| self.tally.violation(it));
            self.end(guard, closes);
            self.watch.beat();
        }
    }

    /// Closes both guards while they are in use.
    fn close(&mut self, life: &Life<'_>) {
        for guard in &life.guards {
            let mut closing = guard.close();
            while closing.wait_timeout(Duration::from_millis(1)).is_none() {
                life.tidy();
            }
            let refused = guard.try_pin(0..1).expect_err("closed for good");
            assert_eq!(refused, TryPinError::Closed);
            assert_eq!(guard.stats().pins, 0, "closed, and somebody holds a pin");
            add(&self.tally.closed_busy, 1);
        }
    }

    /// Nobody else has the guard any more.
    fn end(&mut self, guard: Arc<LayoutGuard<Engine>>, closed: bool) {
        let alive = guard.map().alive();
        if closed {
            drop(guard);
        } else {
            match self.rng.random_range(0..4) {
                0 => {
                    guard.close().wait();
                    add(&self.tally.closed, 1);
                    drop(guard);
                }
                1 => return self.outlive(guard, alive),
                2 if self.may_forget() => return self.forget(guard, alive),
                _ => {
                    self.stutter(&guard);
                    drop(guard);
                }
            }
        }
        assert_eq!(alive.strong_count(), 0, "the engine outlives its guard");
    }

    /// Drops the guard under pins and a lease, which other threads then give back. What was retired and waits
    /// for them goes with the guard: it was nobody's.
    fn outlive(&mut self, guard: Arc<LayoutGuard<Engine>>, alive: Weak<()>) {
        let pins = [0, 0, 7].map(|page| guard.try_pin(page..page + 1).expect("nothing is closed"));
        let lease = guard.lease(20..22).wait().expect("nothing is closed");
        drop(guard.retire(0..30));
        assert_eq!(guard.run_retired(), 0, "freed under pins");
        drop(guard);
        let [first, second, last] = pins;
        let dropping = thread::spawn(move || drop((first, lease, second)));
        dropping.join().expect("no panic");
        assert_eq!(alive.strong_count(), 1, "the engine is gone under a pin");
        let dropping = thread::spawn(move || drop(last));
        dropping.join().expect("no panic");
        assert_eq!(alive.strong_count(), 0, "the engine outlives its last pin");
        add(&self.tally.outlived, 1);
    }

    fn may_forget(&self) -> bool {
        let most = FORGOTTEN + self.watch.running().as_secs();
        self.forgets.fetch_add(1, Relaxed) < most || {
            self.forgets.fetch_sub(1, Relaxed);
            false
        }
    }

    /// Somebody forgets what it holds: that page is never free again, whatever is tried.
    fn forget(&mut self, guard: Arc<LayoutGuard<Engine>>, alive: Weak<()>) {
        let what = self.rng.random_range(0..4);
        match what {
            0 => mem::forget(guard.try_pin(3..5).expect("nothing is closed")),
            1 => mem::forget(guard.lease(3..5).wait().expect("nothing is closed")),
            2 => mem::forget(guard.break_layouts(3..5).wait().expect("nobody is there")),
            _ => {
                let pin = guard.try_pin(3..5).expect("nothing is closed");
                mem::forget(guard.break_layouts(3..5));
                // Drained for who has been forgotten.
                drop(pin);
            }
        }
        let held = what < 2;
        let mut breaking = guard.break_layouts(4..6);
        for _ in 0..IN_VAIN.0 {
            let answer = breaking.wait_timeout(IN_VAIN.1);
            assert!(answer.is_none(), "drained under what was forgotten");
            add(&self.tally.timeouts, 1);
        }
        assert_eq!(breaking.holders().len(), usize::from(held));
        drop(breaking);
        assert!(guard.try_break_layouts(4..5).is_err());
        // What is elsewhere goes on.
        guard.zero_range(10..12).wait().expect("nobody is there");
        let count = match what {
            0 => &self.tally.forgotten,
            1 => &self.tally.forgotten_leases,
            _ => &self.tally.forgotten_breaks,
        };
        add(count, 1);
        drop(guard);
        let kept = if held { 1 } else { 0 };
        assert_eq!(
            alive.strong_count(),
            kept,
            "what is forgotten holds, no more"
        );
    }

    /// Makes the mapping believe that breaks are rare, and then that they are frequent, with somebody
    /// pinning all the while.
    fn stutter(&mut self, guard: &Arc<LayoutGuard<Engine>>) {
        let stream = |n: u32| {
            for _ in 0..n {
                drop(guard.try_pin(10..12));
            }
        };
        thread::scope(|scope| {
            stream(STUTTER.0);
            let other = scope.spawn(|| stream(STUTTER.0 / 4));
            for _ in 0..STUTTER.1 {
                guard.punch_hole(9..11).wait().expect("freed");
            }
            other.join().expect("no panic");
        });
        add(&self.tally.stutters, 1);
    }
}
