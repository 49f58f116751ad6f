//! Which side pays for the barrier: chosen for each mapping from how many pins it sees per break.
//!
//! Problem: an asymmetric break costs microseconds, a fenced pin some nanoseconds more than one without;
//! neither mode wins everywhere, and what each costs differs from processor to processor. What counts is not time
//! but *pins per break*. Idea: rent, then learn.
//! After an asymmetric break stay fenced, and let the fenced pins count down about as many as one
//! barrier is worth:
//!
//! - a break that comes before the countdown has run out proves that breaks are frequent: stay fenced;
//! - a countdown that runs out proves that they are rare: go back to asymmetric.
//!
//! That alone costs at most twice the better mode (the ski rental problem). When countdowns keep running
//! out, the next few asymmetric breaks do not begin one at all, so that at a steady low rate of breaks
//! next to nothing is rented; the longer they have kept running out, the more breaks go without.
//!
//! | state | a break | a countdown that has run out |
//! | --- | --- | --- |
//! | asymmetric, breaks to go without a countdown | barrier everywhere; one fewer | – |
//! | asymmetric | barrier everywhere; fenced, countdown | – |
//! | fenced, countdown | fence; countdown anew | asymmetric |
//!
//! The rules under which changing over is correct are the protocol's, see
//! [`protocol`](crate::raw::protocol); nothing here decides about correctness.

use std::time::{Duration, Instant};

use crate::raw::barrier;
use crate::sync::{MODEL, mutant};

/// Which side pays for the barrier between pinners and breakers of a mapping.
///
/// Leave it [`Adaptive`](Self::Adaptive) unless you have a reason: it costs little more than the better
/// of the other two, whatever the load.
///
/// # Examples
///
/// ```
/// use layout_lease::{Barrier, LayoutGuard};
/// let guard = LayoutGuard::with_barrier((), Barrier::Fenced);
/// # drop(guard.try_pin(0..1)?);
/// # Ok::<(), layout_lease::TryPinError>(())
/// ```
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Barrier {
    /// Chosen by the number of pins per break, and changed when that changes. What a barrier and a fence cost on
    /// this machine is measured: the barrier when one is executed, the fence once in a process, which takes
    /// one break some microseconds.
    #[default]
    Adaptive,
    /// Always a fence on both sides: two for a pin with its drop, some nanoseconds each. For processes whose
    /// threads must not be interrupted: a break never disturbs a running thread then.
    Fenced,
    /// Always a barrier on every running thread of the process, executed by the breaker: some microseconds for each
    /// break where others run. Pins have no fence. Where the system has no such barrier, as
    /// [`Fenced`](Self::Fenced).
    Asymmetric,
}

/// What a fenced pin and its release cost more than those without fences, beside the two fences, in picoseconds: calls
/// and counting.
const WAY_PS: u64 = 2_000;

/// What a barrier everywhere is worth before the first has been paid, in fenced pins.
const FIRST_WORTH: u32 = 2_800;

/// A barrier interrupts the other running threads of the process; that is about two thirds of what it
/// costs who executes it. Counting that, it costs 5/3 of its price; not counting it, 1. The mean of the two (the
/// geometric one) is never far from the better mode by either account.
const VICTIMS: (u64, u64) = (9, 7);

/// The part of its worth by which a barrier is taken to have become cheaper, at each break for which it might matter.
const FALLS: u32 = 256;

/// The shortest and the longest countdown, in pins.
const COUNTDOWN: (u32, u32) = if MODEL { (2, 2) } else { (128, 1 << 14) };

/// Countdowns that must have run out in a row for each break that goes without.
const PATIENCE: u8 = 4;

/// Breaks that go without a countdown, at most, between two that begin one.
const LONGEST_GO: u8 = 8;

/// The mode of one mapping, and what has been learnt. Under the record's lock.
#[derive(Clone, Copy)]
pub(crate) struct Mode {
    barrier: Barrier,
    pub(crate) fenced: bool,
    /// A barrier everywhere has been executed behind the gate's change to fenced, so that fences suffice.
    trusted: bool,
    /// Countdowns that have run out, with none in between that did not.
    rare: u8,
    /// Asymmetric breaks to come that begin no countdown.
    without: u8,
    /// Fenced pins until the countdown runs out.
    left: u32,
    /// What a barrier everywhere is worth, in fenced pins: about the median of the last ones.
    worth: u32,
}

/// The barrier that a closing needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Needs {
    Fence,
    Everywhere,
    /// The same, and what it costs is to be learnt.
    EverywhereTimed,
}

/// The barrier that was executed.
#[derive(Clone, Copy)]
pub(crate) enum Executed {
    Fence,
    /// On every thread, for what so many fenced pins would have cost if somebody wanted to know.
    Everywhere(Option<u32>),
    /// None was to be had.
    Nothing,
}

impl Needs {
    /// Has a full barrier executed.
    #[inline]
    pub(crate) fn execute(self) -> Executed {
        match self {
            Needs::Fence => {
                barrier::full();
                Executed::Fence
            }
            Needs::Everywhere | Needs::EverywhereTimed => {
                let start = (self == Needs::EverywhereTimed).then(Instant::now);
                match barrier::everywhere() {
                    true => Executed::Everywhere(
                        start.map(|start| worth(start.elapsed(), barrier::price_of_full())),
                    ),
                    false => Executed::Nothing,
                }
            }
        }
    }
}

/// As many fenced pins as a barrier everywhere is worth that took so long, where a fence takes `fence_ps` picoseconds. That
/// differs from processor to processor by a factor of five, so it is measured.
fn worth(took: Duration, fence_ps: u64) -> u32 {
    let price = took.as_nanos().min(100_000) as u64 * VICTIMS.0 / VICTIMS.1;
    (price * 1_000 / (2 * fence_ps + WAY_PS)) as u32
}

impl Mode {
    pub(crate) fn new(barrier: Barrier) -> Self {
        let fenced = barrier == Barrier::Fenced || !barrier::can_reach_everywhere();
        Self {
            barrier,
            fenced,
            // From the first pin on.
            trusted: fenced,
            rare: 0,
            without: 0,
            left: 0,
            worth: FIRST_WORTH,
        }
    }

    /// A break is about to close the gate: says which barrier it needs behind that, by the mode as it
    /// was, and sets the mode to be published with the closing.
    #[inline]
    pub(crate) fn begin_break(&mut self) -> Needs {
        if self.fenced {
            // It came before the countdown ran out. If only just, either mode is as good as the other, and
            // nothing is learnt: forgetting each time would be paying for both.
            if self.left > self.countdown() / 2 {
                self.rare = 0;
            } else {
                // But then all hangs on what a barrier costs, which is not looked at while fences do. So it is taken
                // to be a little cheaper, until a countdown runs out and it is.
                self.worth -= self.worth / FALLS;
            }
            self.without = 0;
            self.left = self.countdown();
            return if self.trusted {
                Needs::Fence
            } else {
                Needs::Everywhere
            };
        }
        if self.barrier != Barrier::Adaptive {
            return Needs::Everywhere;
        }
        if self.without > 0 {
            self.without -= 1;
            return Needs::Everywhere;
        }
        self.fenced = true;
        self.left = self.countdown();
        if mutant!("change_with_fence") {
            self.trusted = true;
            return Needs::Fence;
        }
        Needs::EverywhereTimed
    }

    /// Remembers what the barrier behind the closing has cost, and from when on fences suffice. `false`:
    /// there was no barrier.
    #[inline]
    pub(crate) fn learn(&mut self, executed: Executed) -> bool {
        match executed {
            Executed::Fence => {}
            Executed::Everywhere(paid) => {
                if let Some(paid) = paid {
                    // Follows the median, a sixteenth at a time: one barrier that had to wait for a
                    // processor says nothing about the next.
                    let step = self.worth / 16 + 1;
                    self.worth = if paid > self.worth {
                        (self.worth + step).min(paid)
                    } else {
                        self.worth.saturating_sub(step).max(paid)
                    };
                }
                self.trusted = self.fenced;
            }
            Executed::Nothing => self.trusted = false,
        }
        !matches!(executed, Executed::Nothing)
    }

    /// `pins` fenced pins have been counted. `true`: the countdown has run out, and the gate is to be
    /// published without the fence.
    pub(crate) fn count_down(&mut self, pins: u32) -> bool {
        if !self.fenced || self.barrier != Barrier::Adaptive || !barrier::can_reach_everywhere() {
            return false;
        }
        self.left = self.left.saturating_sub(pins);
        if self.left > 0 {
            return false;
        }
        (self.fenced, self.trusted) = (false, false);
        self.rare = self.rare.saturating_add(1);
        self.without = (self.rare / PATIENCE).min(LONGEST_GO);
        true
    }

    /// As many fenced pins as one barrier everywhere is worth.
    #[inline]
    fn countdown(&self) -> u32 {
        self.worth.clamp(COUNTDOWN.0, COUNTDOWN.1)
    }
}

#[cfg(all(test, not(any(lease_loom, lease_shuttle))))]
mod tests {
    use super::*;

    /// A few dear barriers once kept a mapping fenced for ever, where each break came just before the countdown that they
    /// were worth had run out.
    #[test]
    fn a_price_that_was_too_high_is_found_out() {
        if !barrier::can_reach_everywhere() {
            return;
        }
        let mut mode = Mode::new(Barrier::Adaptive);
        mode.worth = 4_600;
        let gap = mode.countdown() * 3 / 4;
        let mut asymmetric = 0;
        for _ in 0..1_000 {
            let needs = mode.begin_break();
            if needs != Needs::Fence {
                asymmetric += 1;
                mode.learn(Executed::Everywhere(
                    (needs == Needs::EverywhereTimed).then_some(2_300),
                ));
            }
            mode.count_down(gap);
        }
        assert!(asymmetric > 800 && mode.worth < 2_500, "{asymmetric}");
    }

    /// Where the clock had not moved during a barrier, its worth ran over: a panic in builds that look for that, and
    /// in others a barrier that was worth 4 s.
    #[test]
    fn a_barrier_that_took_no_time_is_worth_nothing() {
        assert_eq!(worth(Duration::ZERO, barrier::price_of_full()), 0);
        let mut mode = Mode::new(Barrier::Adaptive);
        let mut before = mode.worth;
        for _ in 0..1_000 {
            assert!(mode.learn(Executed::Everywhere(Some(0))));
            assert!(mode.worth < before || mode.worth == 0);
            before = mode.worth;
        }
        assert_eq!((mode.worth, mode.countdown()), (0, COUNTDOWN.0));
        // And it finds its way back.
        for _ in 0..1_000 {
            assert!(mode.learn(Executed::Everywhere(Some(2_000))));
        }
        assert_eq!(mode.worth, 2_000);
    }

    #[test]
    fn a_barrier_is_worth_more_the_longer_it_takes_and_the_cheaper_fences_are() {
        let micros = Duration::from_micros;
        // 14 µs, and 2/7 of that for the others: 18 µs, of 2 ns and two fences each.
        let prices = [0, 1_500, 8_000].map(|ps| worth(micros(14), ps));
        assert_eq!(prices, [9_000, 3_600, 1_000]);
        assert_eq!(worth(micros(28), 8_000), 2_000);
        // One that had to wait for a processor says no more than one of 100 µs.
        assert_eq!(
            worth(Duration::from_secs(4_000), 8_000),
            worth(micros(100), 8_000)
        );
        // It is measured, and once.
        let full = barrier::price_of_full();
        assert!(full > 0 && full == barrier::price_of_full());
    }
}
