//! The litmus: the two handshakes of pin and break, each as a race of two threads on a processor each.
//!
//! ```text
//!   pin      holder:  stores that miss the cache; pin               breaker: close; look for pins
//!   unpin    holder:  stores that miss the cache; drop the pin      breaker: close; look for pins
//! ```
//!
//! - *pin*: both keep what they got until both have looked. A pin and a proof at once is forbidden (I2).
//! - *unpin*: when both are done, the break must be drained. If it is not, the breaker saw the pin, and the
//!   holder saw no breaker: nobody would ever wake it (I6).
//!
//! Both outcomes are exact: no clock and no luck decides what is one. What luck decides is how often a missing
//! barrier shows, so the holder first stores to lines that are in no cache: its store to the slot waits
//! behind them, while its look at the gate goes ahead. Both sides begin when a word changes, with no
//! fence and no system call between that and the race, after delays that differ from round to round.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::thread;
use std::time::Duration;

use layout_lease::{Barrier, LayoutGuard, PagePin};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use crate::clog::clog;
use crate::watch::Watch;

/// Stores that miss, at most. A store buffer has some fifty entries.
const MISSES: u32 = 48;

/// The longest delays of the two sides, as powers of two of their turns. A barrier on every thread takes
/// tens of microseconds; to be seen by the look behind it, a holder must stay for as long.
const HOLDERS_LONGEST: [u32; 2] = [10, 17];
const BREAKERS_LONGEST: u32 = 13;

/// Fenced pins after which every mapping has gone back to asymmetric, whatever it has learnt: the longest
/// countdown, and some more for the charge that is under way.
const CALM: u32 = (1 << 14) + 512;

/// Breaks in a row after which every mapping is fenced again, whatever it has learnt.
const HASTE: u64 = 12;

/// The page that it is about, and one that nobody closes.
const PAGE: std::ops::Range<u64> = 0..1;
const ELSEWHERE: std::ops::Range<u64> = 8..9;

/// Which handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Pin,
    Unpin,
}

/// What came of many rounds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcomes {
    pub(crate) rounds: u64,
    /// Rounds that began and ended with the two threads on two processors.
    pub(crate) apart: u64,
    pub(crate) holder_first: u64,
    pub(crate) breaker_first: u64,
    /// Both stepped back.
    pub(crate) neither: u64,
    pub(crate) forbidden: u64,
    /// Times that the mapping was made to change from asymmetric to fenced and back.
    pub(crate) stutters: u64,
}

impl Outcomes {
    pub(crate) fn add(&mut self, more: Outcomes) {
        self.rounds += more.rounds;
        self.apart += more.apart;
        self.holder_first += more.holder_first;
        self.breaker_first += more.breaker_first;
        self.neither += more.neither;
        self.forbidden += more.forbidden;
        self.stutters += more.stutters;
    }
}

/// A word on a line of its own, and away from what is fetched with it.
#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

impl Line {
    fn tell(&self, value: u64) {
        self.0.store(value, Release);
    }

    /// Waits for at least `value`. If that takes long, the other one is not running: then this one sleeps for
    /// less than it looks, so that the two meet again, and who sleeps is soon given a processor.
    fn await_at_least(&self, value: u64) -> u64 {
        loop {
            for _ in 0..8_000 {
                let now = self.0.load(Acquire);
                if now >= value {
                    return now;
                }
                spin_loop();
            }
            thread::sleep(Duration::from_micros(20));
        }
    }
}

/// What the two threads share. Rounds are numbered from 1.
struct Race {
    guard: Arc<LayoutGuard<()>>,
    shape: Shape,
    /// The holder is ready for this round.
    ready: Line,
    /// The round has begun. The greatest value: it was the last one.
    begun: Line,
    /// Twice the round, and one if the holder got its pin.
    held: Line,
    /// The breaker has looked.
    looked: Line,
    /// The holder's processor.
    processor: AtomicU64,
}

const NO_MORE: u64 = u64::MAX;

/// Where the two run: two processors that this process may use.
fn processors() -> Option<[usize; 2]> {
    let ours = sched_getaffinity(None).ok()?;
    let mut each = (0..CpuSet::MAX_CPU).filter(|cpu| ours.is_set(*cpu));
    Some([each.next()?, each.next()?])
}

fn settle_on(cpu: usize) {
    let mut there = CpuSet::new();
    there.set(cpu);
    // Refused: then the two run where they may, and `apart` says how often that was good enough.
    sched_setaffinity(None, &there).ok();
}

/// Turns to delay for: as often a few as thousands.
fn sweep(rng: &mut SmallRng, longest: u32) -> u32 {
    let longest = 1 << rng.random_range(4..=longest);
    rng.random_range(0..longest)
}

/// A turn takes about a nanosecond.
fn delay(turns: u32) {
    for turn in 0..turns {
        black_box(turn);
    }
}

/// Runs rounds until `over`. `None`: there is only one processor.
pub(crate) fn run(
    shape: Shape,
    barrier: Barrier,
    seed: u64,
    watch: &Watch,
    over: impl FnMut(&Outcomes) -> bool + Send,
) -> Option<Outcomes> {
    let [first, second] = processors()?;
    let race = Race {
        guard: Arc::new(LayoutGuard::with_barrier((), barrier)),
        shape,
        ready: Line::default(),
        begun: Line::default(),
        held: Line::default(),
        looked: Line::default(),
        processor: AtomicU64::new(0),
    };
    watch.look_at(&race.guard);
    let stutters = barrier == Barrier::Adaptive;
    thread::scope(|scope| {
        scope.spawn(|| {
            settle_on(first);
            race.hold(SmallRng::seed_from_u64(seed), stutters);
        });
        let race = &race;
        let breaker = scope.spawn(move || {
            settle_on(second);
            let rng = SmallRng::seed_from_u64(seed + 1);
            let outcomes = race.look(rng, stutters, watch, over);
            race.begun.tell(NO_MORE);
            outcomes
        });
        Some(breaker.join().expect("the breaker does not panic"))
    })
}

impl Race {
    /// A pin that nobody is in the way of.
    fn pin(&self) -> PagePin {
        let pin = self.guard.try_pin(PAGE);
        pin.expect("nothing is closed between rounds")
    }

    /// The holder's side.
    fn hold(&self, mut rng: SmallRng, stutters: bool) {
        for round in 1.. {
            if stutters && round % HASTE == 0 {
                // As many pins as it takes for the mapping to believe that breaks are rare.
                for _ in 0..CALM {
                    drop(self.guard.try_pin(ELSEWHERE));
                }
            }
            let mut pin = (self.shape == Shape::Unpin).then(|| self.pin());
            self.processor.store(sched_getcpu() as u64, Relaxed);
            let before = sweep(
                &mut rng,
                HOLDERS_LONGEST[usize::from(self.shape == Shape::Unpin)],
            );
            let misses = rng.random_range(0..=MISSES);
            self.ready.tell(round);
            if self.begun.await_at_least(round) == NO_MORE {
                return;
            }
            delay(before);
            clog(&mut rng, misses);
            match self.shape {
                Shape::Pin => pin = self.guard.try_pin(PAGE).ok(),
                Shape::Unpin => drop(pin.take()),
            }
            self.held.tell(round << 1 | u64::from(pin.is_some()));
            self.looked.await_at_least(round);
            drop(pin);
        }
    }

    /// The breaker's side, and the judge.
    fn look(
        &self,
        mut rng: SmallRng,
        stutters: bool,
        watch: &Watch,
        mut over: impl FnMut(&Outcomes) -> bool + Send,
    ) -> Outcomes {
        let mut seen = Outcomes::default();
        for round in 1.. {
            self.ready.await_at_least(round);
            let apart = sched_getcpu() as u64 != self.processor.load(Relaxed);
            let before = sweep(&mut rng, BREAKERS_LONGEST);
            let queued = self.shape == Shape::Unpin || rng.random();
            self.begun.tell(round);
            delay(before);
            if queued {
                let breaking = self.guard.break_layouts(PAGE);
                let at_once = breaking.is_drained();
                let pinned = self.held.await_at_least(round << 1) & 1 != 0;
                self.judge(pinned, at_once, breaking.is_drained(), &mut seen);
                drop(breaking);
            } else {
                let proof = self.guard.try_break_layouts(PAGE);
                let pinned = self.held.await_at_least(round << 1) & 1 != 0;
                self.judge(pinned, proof.is_ok(), proof.is_ok(), &mut seen);
                drop(proof);
            }
            let apart = apart && sched_getcpu() as u64 != self.processor.load(Relaxed);
            seen.apart += u64::from(apart);
            seen.stutters += u64::from(stutters && round % HASTE == 0);
            self.looked.tell(round);
            // Every round: where others want the processors, one may take a second.
            watch.beat();
            if over(&seen) {
                self.ready.await_at_least(round + 1);
                return seen;
            }
        }
        seen
    }

    /// What may be: both have done what they do, and keep what they have.
    fn judge(&self, pinned: bool, at_once: bool, drained: bool, seen: &mut Outcomes) {
        seen.rounds += 1;
        match self.shape {
            Shape::Pin => {
                seen.forbidden += u64::from(pinned && drained);
                seen.holder_first += u64::from(pinned && !drained);
                seen.breaker_first += u64::from(!pinned && drained);
                seen.neither += u64::from(!pinned && !drained);
            }
            Shape::Unpin => {
                seen.forbidden += u64::from(!drained);
                seen.holder_first += u64::from(at_once);
                seen.breaker_first += u64::from(!at_once && drained);
            }
        }
    }
}
