//! Visitors: threads that use two mappings for a moment and go, or go down with what they hold.

use std::future::Future;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use layout_lease::{
    BreakError, LayoutGuard, OpError, PageRange, PinError, TryBreakError, TryPinError,
    break_layouts_of,
};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::engine::{Engine, PAGES};
use crate::lives::Life;
use crate::tally::{Tally, add};

/// What a visitor panics with.
pub(crate) struct Deliberate;

/// The guard has been closed: the visitor goes.
struct Closed;

type Visit<T = ()> = Result<T, Closed>;

impl From<PinError> for Closed {
    fn from(error: PinError) -> Self {
        assert_eq!(error, PinError::Closed);
        Closed
    }
}

impl From<BreakError> for Closed {
    fn from(error: BreakError) -> Self {
        assert_eq!(error, BreakError::Closed);
        Closed
    }
}

impl<E: std::error::Error> From<OpError<E>> for Closed {
    fn from(error: OpError<E>) -> Self {
        let closed = matches!(error, OpError::Break(BreakError::Closed));
        assert!(closed, "{error}");
        Closed
    }
}

struct Visitor<'a> {
    life: &'a Life<'a>,
    rng: SmallRng,
}

/// Some tens of turns, and perhaps a panic.
pub(crate) fn visit(life: &Life<'_>, mut rng: SmallRng) {
    let turns = rng.random_range(5..80);
    let mut visitor = Visitor { life, rng };
    for _ in 0..turns {
        if visitor.turn().is_err() {
            return add(&life.tally.told, 1);
        }
    }
    if visitor.chance(20) && visitor.fall().is_err() {
        add(&life.tally.told, 1);
    }
}

impl Visitor<'_> {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn pages(&mut self) -> PageRange {
        let start = self.rng.random_range(0..PAGES);
        let len = self.rng.random_range(1..6);
        PageRange::new(start, start + len).expect("a range")
    }

    fn turn(&mut self) -> Visit {
        let life = self.life;
        let guard = &life.guards[usize::from(self.chance(50))];
        let pages = self.pages();
        match self.rng.random_range(0..18) {
            0..=3 => self.look(guard, pages)?,
            4 => self.lose(guard, pages)?,
            5 => {
                let pin = self.drive(guard.pin(pages))?;
                self.read(guard, pages);
                drop(pin);
            }
            6 => {
                let proof = self.drive(guard.break_layouts(pages))?;
                proof.zero_range(pages)?;
            }
            7 => {
                drop(self.drive(guard.lease(pages))?);
                drop(self.drive(guard.break_leases(pages))?);
            }
            8 => self.give_up(guard, pages),
            9 => self.give_up(&life.guards[0], pages),
            10 => self.run_out_of_time(guard, pages)?,
            11 => {
                let mut lease = guard.lease(pages).wait()?;
                self.read(guard, pages);
                if lease.recalled().wait_timeout(self.micros()).is_some() {
                    add(&life.tally.recalls, 1);
                }
                lease.shrink_to(..pages.start() + 1).expect("a part");
            }
            12 => {
                let other = self.pages();
                let [a, b] = &life.guards;
                let proofs = break_layouts_of(&[(&**a, pages), (&**b, other)]).wait()?;
                for (guard, pages) in [(a, pages), (b, other)] {
                    let proof = proofs.of(guard).expect("one of the two");
                    proof.zero_range(pages)?;
                }
                add(&life.tally.together, 1);
            }
            13..=14 => self.retire(guard, pages)?,
            15..=16 => self.change_sides(guard, pages)?,
            _ => {
                guard.punch_hole(pages).wait()?;
                guard.map().allocate(pages);
            }
        }
        Ok(())
    }

    /// Leaves it to others to free the pages, perhaps only when the log is on media.
    fn retire(&mut self, guard: &Arc<LayoutGuard<Engine>>, pages: PageRange) -> Visit {
        let retired = match self.chance(50) {
            true => guard.retire(pages),
            false => guard.retire_after(pages, self.life.log.fetch_add(1, Relaxed) + 1),
        };
        add(&self.life.tally.retired, 1);
        if self.chance(50) {
            retired.wait()?;
            add(&self.life.tally.retired_waited, 1);
        }
        Ok(())
    }

    /// Holds, wants more, then breaks what it holds, and reopens that in halves.
    fn change_sides(&mut self, guard: &LayoutGuard<Engine>, pages: PageRange) -> Visit {
        let Ok(pin) = guard.try_pin(pages) else {
            return Ok(());
        };
        self.read(guard, pages);
        let more = self.pages();
        if let Ok(extension) = pin.extend(guard, more) {
            self.read(guard, more);
            drop(extension);
        }
        let breaking = pin.into_break(guard).map_err(|_pin| Closed)?;
        let proof = self.drive(breaking)?;
        add(&self.life.tally.own, 1);
        match proof.split_at(pages.start() + pages.len() / 2) {
            Ok((low, high)) => {
                low.zero_range(low.ranges()[0])?;
                drop(low);
                thread::yield_now();
                high.zero_range(high.ranges()[0])?;
            }
            Err(whole) => drop(whole),
        }
        Ok(())
    }

    fn micros(&mut self) -> Duration {
        Duration::from_micros(self.rng.random_range(0..100))
    }

    /// Looks at pages that somebody has pinned.
    fn read(&mut self, guard: &LayoutGuard<Engine>, pages: PageRange) {
        let view = guard.map().look_up(pages);
        for _ in 0..self.rng.random_range(1..8) {
            let words = guard.map().check(&view, |it| self.life.tally.violation(it));
            add(&self.life.tally.checked, words);
            if self.chance(10) {
                thread::yield_now();
            }
        }
    }

    fn look(&mut self, guard: &LayoutGuard<Engine>, pages: PageRange) -> Visit {
        match guard.try_pin(pages) {
            Ok(pin) => {
                add(&self.life.tally.pins, 1);
                self.read(guard, pages);
                drop(pin);
            }
            Err(TryPinError::Closed) => return Err(Closed),
            Err(_) => add(&self.life.tally.refused, 1),
        }
        Ok(())
    }

    /// A pin whose token somebody else will find.
    fn lose(&mut self, guard: &LayoutGuard<Engine>, pages: PageRange) -> Visit {
        if let Ok(pin) = guard.try_pin(pages) {
            self.life.lost().push(pin.into_token().to_u64());
        }
        if self.chance(30) {
            self.life.tidy();
        }
        Ok(())
    }

    /// A wait with a limit; the break goes on waiting, or is over, or is dropped.
    fn run_out_of_time(&mut self, guard: &LayoutGuard<Engine>, pages: PageRange) -> Visit {
        let mut breaking = guard.break_layouts(pages);
        if let Some(proof) = breaking.wait_timeout(self.micros()) {
            proof?.zero_range(pages)?;
            return Ok(());
        }
        add(&self.life.tally.timeouts, 1);
        if self.chance(50) {
            breaking.wait()?.zero_range(pages)?;
        }
        Ok(())
    }

    /// A task of an executor that counts how often it is woken.
    fn drive<F: Future + Unpin>(&mut self, mut future: F) -> F::Output {
        let task = Arc::new(Task {
            thread: thread::current(),
            woken: AtomicU64::new(0),
        });
        let waker = Waker::from(Arc::clone(&task));
        let mut cx = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(output) = std::pin::Pin::new(&mut future).poll(&mut cx) {
                add(&self.life.tally.polled, 1);
                task.report(self.life.tally);
                return output;
            }
            thread::park();
        }
    }

    /// A task that is cancelled: perhaps before it was woken, perhaps after.
    fn give_up(&mut self, guard: &LayoutGuard<Engine>, pages: PageRange) {
        let task = Arc::new(Task {
            thread: thread::current(),
            woken: AtomicU64::new(0),
        });
        let waker = Waker::from(Arc::clone(&task));
        let naps = self.rng.random_range(0..3);
        match self.rng.random_range(0..3) {
            0 => self.drop_late(guard.pin(pages), &waker, naps),
            1 => self.drop_late(guard.lease(pages), &waker, naps),
            _ => self.drop_late(guard.break_layouts(pages), &waker, naps),
        }
        task.report(self.life.tally);
    }

    fn drop_late<F: Future + Unpin>(&mut self, mut future: F, waker: &Waker, naps: u32) {
        let mut cx = Context::from_waker(waker);
        if std::pin::Pin::new(&mut future).poll(&mut cx).is_ready() {
            return;
        }
        (0..naps).for_each(|_| thread::yield_now());
        drop(future);
        add(&self.life.tally.dropped, 1);
    }

    /// Panics with something in hand: what it holds is given back on the way.
    fn fall(&mut self) -> Visit {
        let guard = &self.life.guards[0];
        let pages = self.pages();
        let _held = match self.rng.random_range(0..5) {
            0 => (Some(guard.pin(pages).wait()?), None, None, None),
            1 => (None, Some(guard.lease(pages).wait()?), None, None),
            2 => (None, None, Some(guard.break_layouts(pages).wait()?), None),
            3 => (None, None, None, Some(guard.break_layouts(pages))),
            _ => match guard.try_break_layouts(pages) {
                Ok(proof) => (None, None, Some(proof), None),
                Err(TryBreakError::Closed) => return Err(Closed),
                Err(_) => (None, None, None, None),
            },
        };
        // Without the hook, which would print it.
        resume_unwind(Box::new(Deliberate))
    }
}

/// Whom a future wakes.
struct Task {
    thread: Thread,
    woken: AtomicU64,
}

impl Task {
    fn report(&self, tally: &Tally) {
        add(&tally.woken, self.woken.load(Relaxed));
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Relaxed);
        self.thread.unpark();
    }
}
