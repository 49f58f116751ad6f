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

#[path = "hostile/clog.rs"]
mod clog;
#[path = "hostile/engine.rs"]
mod engine;
#[path = "hostile/game.rs"]
mod game;
#[path = "hostile/holders.rs"]
mod holders;
#[path = "hostile/players.rs"]
mod players;
#[path = "hostile/settings.rs"]
mod settings;
#[path = "hostile/tally.rs"]
mod tally;

use std::time::Duration;

use layout_lease::Barrier;

use crate::game::Game;
use crate::settings::{CHANGE, CROWD, DUEL, HELD, LONG, SHORT, Setting};

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

/// How long to play.
fn seconds(otherwise: f64) -> Duration {
    let asked = std::env::var("HOSTILE_SECONDS").ok();
    let asked = asked.and_then(|s| s.parse().ok());
    Duration::from_secs_f64(asked.unwrap_or(otherwise))
}

#[cfg(not(lease_mutant = "gate_ignored"))]
mod whole {
    use super::*;

    fn finds_nothing(setting: Setting, long: f64) {
        let (tally, took) = Game::play(&setting, seconds(long), |_, _| false);
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
        finds_nothing(LONG, 2.0);
    }

    #[test]
    fn a_hostile_engine_catches_nobody_with_short_pins() {
        finds_nothing(SHORT, 2.0);
    }

    #[test]
    fn a_hostile_engine_catches_nobody_who_holds_for_long_or_retires() {
        finds_nothing(HELD, 2.0);
    }

    #[test]
    fn a_hostile_engine_catches_nobody_in_a_duel() {
        finds_nothing(DUEL, 1.0);
    }

    #[test]
    fn a_hostile_engine_catches_nobody_in_a_duel_with_fences() {
        finds_nothing(FENCED, 1.0);
    }

    #[test]
    fn a_hostile_engine_catches_nobody_in_an_asymmetric_duel() {
        finds_nothing(ASYMMETRIC, 1.0);
    }

    #[test]
    fn a_hostile_engine_catches_nobody_in_a_crowd_at_the_gate() {
        finds_nothing(CROWD, 1.0);
    }

    #[test]
    fn a_hostile_engine_catches_nobody_while_barriers_change() {
        finds_nothing(CHANGE, 1.0);
    }
}

/// The broken control: a gate that nobody respects must be found out.
#[cfg(lease_mutant = "gate_ignored")]
mod broken {
    use super::*;
    use crate::tally::Tally;
    use std::cell::Cell;
    use std::sync::atomic::Ordering::Relaxed;

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
        let (tally, took) = Game::play(&setting, seconds(20.0), enough);
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
