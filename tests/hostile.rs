//! The hostile engine.
//!
//! **What it shows.** No block is ever freed while somebody who has a pin can still look at it, and no
//! page changes its block under a pin, with everything happening at the same time (**I1**, **I2**, **I6**,
//! **I7**, **I11**).
//!
//! **How.** A block map overwrites what is freed with poison at once, and gives it out again first, with a
//! new generation (`hostile/engine.rs`). Some threads pin or lease pages, look the blocks up, and then read every
//! word of them several times; what is poison, of another generation, or behind another page than at
//! first, is a violation. Some write under their pins, some hand their pins on to another thread or exit.
//! Others meanwhile run all five block operations, breaks with proofs in hand, timeouts and cancellations
//! (`hostile/players.rs`). At the end all blocks are counted, and freed ones must still be poison: whoever
//! wrote into one, wrote into somebody else's data. All the memory is atomics, so that a broken gate is
//! found and is not undefined behaviour. A wait that does not end is a failure, too.
//!
//! **Does it bite?** Built with `--cfg lease_mutant="gate_ignored"` the gate refuses nobody. There, the
//! same games must find poison, and the test that they do takes the place of the tests that they do not:
//!
//! ```text
//! RUSTFLAGS='--cfg lease_mutant="gate_ignored"' CARGO_TARGET_DIR=target/mutant \
//!     cargo test --release --test hostile
//! ```
//!
//! (In a debug build the scan before each call into the block map would abort the process first.)
//!
//! **How long.** One or two seconds for each game; `HOSTILE_SECONDS` overrides. The counts of everything are printed, and
//! zero of anything is a failure.

#[path = "hostile/engine.rs"]
mod engine;
#[path = "hostile/game.rs"]
mod game;
#[path = "hostile/holders.rs"]
mod holders;
#[path = "hostile/players.rs"]
mod players;
#[path = "hostile/tally.rs"]
mod tally;

use layout_lease::Barrier;

use crate::game::{Game, Part};

struct Setting {
    name: &'static str,
    barrier: Barrier,
    seconds: f64,
    words_per_block: usize,
    parts: &'static [Part],
    /// What must have happened.
    counts: &'static [&'static str],
}

/// Long looks at large blocks.
const LONG: Setting = Setting {
    name: "long pins",
    barrier: Barrier::Adaptive,
    seconds: 2.0,
    words_per_block: 64,
    parts: &[
        Part::Read,
        Part::Read,
        Part::Read,
        Part::Grow,
        Part::PassBy,
        Part::Remove,
        Part::Remove,
    ],
    counts: &[
        "pins",
        "pins that waited",
        "pins refused",
        "waiting pins cancelled",
        "pins handed on",
        "pins of exited threads",
        "breaks",
        "breaks that waited",
        "proofs in hand",
        "proofs split",
        "try_breaks refused",
        "timeouts",
        "freed after a timeout",
        "breaks cancelled",
        "breaks side by side",
        "operations awaited",
        "punch_hole",
        "zero_range",
        "truncate",
        "collapse_range",
        "insert_range",
        "blocks freed",
        "blocks allocated",
        "words written",
        "words checked",
    ],
};

/// Leases whose holders give back what is wanted, pins that travel as numbers or are extended, and pages
/// that are retired and freed by a thread of their own.
const HELD: Setting = Setting {
    name: "leases, tokens, retirements",
    words_per_block: 16,
    parts: &[
        Part::Hold,
        Part::Hold,
        Part::Submit,
        Part::Retire,
        Part::Mix,
        Part::Mix,
    ],
    counts: &[
        "pins",
        "pins that waited",
        "pins refused",
        "breaks",
        "breaks that waited",
        "leases",
        "waiting leases cancelled",
        "leases recalled",
        "leases recalled asleep",
        "leases shrunk",
        "breaks of leases",
        "tokens submitted",
        "tokens redeemed",
        "pins extended",
        "extended through a break",
        "holders who break",
        "breaks of several ranges",
        "retirements",
        "retirements waited for",
        "pages reclaimed",
        "blocks freed",
        "blocks allocated",
        "words checked",
    ],
    ..LONG
};

/// Short pins in the same slots, again and again, and short breaks of single pages.
const SHORT: Setting = Setting {
    name: "short pins",
    barrier: Barrier::Adaptive,
    seconds: 2.0,
    words_per_block: 8,
    parts: &[
        Part::Flit,
        Part::Flit,
        Part::PassBy,
        Part::Nibble,
        Part::Nibble,
    ],
    counts: &[
        "pins",
        "pins refused",
        "pins of exited threads",
        "breaks",
        "breaks that waited",
        "proofs in hand",
        "proofs split",
        "try_breaks refused",
        "timeouts",
        "breaks cancelled",
        "breaks side by side",
        "punch_hole",
        "zero_range",
        "truncate",
        "collapse_range",
        "insert_range",
        "blocks freed",
        "blocks allocated",
        "words checked",
    ],
};

/// One against one, a processor each, over two pages: nothing but pin and break, as close to each other as
/// can be. This is where a missing barrier shows.
const DUEL: Setting = Setting {
    name: "a duel",
    barrier: Barrier::Adaptive,
    seconds: 1.0,
    words_per_block: 8,
    parts: &[Part::Touch, Part::Snatch],
    counts: &[
        "pins",
        "pins refused",
        "breaks",
        "breaks that waited",
        "proofs in hand",
        "try_breaks refused",
        "zero_range",
        "blocks freed",
        "words checked",
    ],
};

const FENCED: Setting = Setting {
    name: "a duel with fences",
    barrier: Barrier::Fenced,
    ..DUEL
};

const ASYMMETRIC: Setting = Setting {
    name: "an asymmetric duel",
    barrier: Barrier::Asymmetric,
    ..DUEL
};

/// One page is closed nearly all of the time, and others open and close about it: whoever reads the gate
/// while it changes must still be refused that page, and no other.
const CROWD: Setting = Setting {
    name: "a crowd at the gate",
    parts: &[Part::Knock, Part::Juggle],
    counts: &[
        "pins",
        "pins refused",
        "breaks",
        "proofs in hand",
        "zero_range",
        "blocks freed",
        "words checked",
    ],
    ..DUEL
};

/// So many pins between breaks that the mapping changes its barrier all the time, there and back.
const CHANGE: Setting = Setting {
    name: "a change of barriers",
    parts: &[Part::Stream, Part::Strike],
    ..DUEL
};

#[cfg(not(lease_mutant = "gate_ignored"))]
mod whole {
    use super::*;

    fn finds_nothing(setting: Setting) {
        let (tally, took) = Game::play(&setting, Game::seconds(setting.seconds), |_, _| false);
        let seconds = took.as_secs_f64();
        let head = format!("hostile, {}: {seconds:.1} s", setting.name);
        let never = tally.report(&head, setting.counts);
        if let Some(first) = tally.first.lock().take() {
            panic!("{} violations; the first: {first}", tally.violations());
        }
        assert!(never.is_empty(), "never happened: {never:?}");
    }

    #[test]
    fn a_hostile_engine_catches_nobody_with_long_pins() {
        finds_nothing(LONG);
    }

    #[test]
    fn a_hostile_engine_catches_nobody_with_short_pins() {
        finds_nothing(SHORT);
    }

    #[test]
    fn a_hostile_engine_catches_nobody_who_holds_for_long_or_retires() {
        finds_nothing(HELD);
    }

    #[test]
    fn a_hostile_engine_catches_nobody_in_a_duel() {
        finds_nothing(DUEL);
    }

    #[test]
    fn a_hostile_engine_catches_nobody_in_a_duel_with_fences() {
        finds_nothing(FENCED);
    }

    #[test]
    fn a_hostile_engine_catches_nobody_in_an_asymmetric_duel() {
        finds_nothing(ASYMMETRIC);
    }

    #[test]
    fn a_hostile_engine_catches_nobody_in_a_crowd_at_the_gate() {
        finds_nothing(CROWD);
    }

    #[test]
    fn a_hostile_engine_catches_nobody_while_barriers_change() {
        finds_nothing(CHANGE);
    }
}

/// The broken control: a gate that nobody respects must be found out.
#[cfg(lease_mutant = "gate_ignored")]
mod broken {
    use std::cell::Cell;
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::Duration;

    use super::*;
    use crate::tally::Tally;

    /// Stops soon after the first poison, but not before something has happened.
    const AT_LEAST: Duration = Duration::from_millis(500);

    fn finds_poison(setting: Setting) {
        let found = Cell::new(None);
        let enough = |tally: &Tally, time| {
            if tally.poison.load(Relaxed) > 0 {
                found.set(found.get().or(Some(time)));
            }
            found.get().is_some() && time > AT_LEAST
        };
        let (tally, took) = Game::play(&setting, Game::seconds(20.0), enough);
        let when = match found.get() {
            Some(time) => format!("poison after {time:.0?}"),
            None => format!("no poison in {took:.0?}"),
        };
        let head = format!("broken gate, {}: {when}", setting.name);
        tally.report(&head, setting.counts);
        let violations = tally.violations();
        assert!(
            found.get().is_some(),
            "nobody noticed that the gate is ignored; {violations} other violations"
        );
        for count in [&tally.pins, &tally.breaks, &tally.breaks_waited] {
            assert_ne!(count.load(Relaxed), 0, "nothing happened");
        }
    }

    #[test]
    fn a_hostile_engine_finds_a_broken_gate_with_long_pins() {
        finds_poison(LONG);
    }

    #[test]
    fn a_hostile_engine_finds_a_broken_gate_with_short_pins() {
        finds_poison(SHORT);
    }

    #[test]
    fn a_hostile_engine_finds_a_broken_gate_in_duels() {
        for setting in [DUEL, FENCED, ASYMMETRIC, CROWD, CHANGE] {
            finds_poison(setting);
        }
    }
}
