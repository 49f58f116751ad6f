//! The guard against its naive twin.
//!
//! **What it shows.** Whatever pins, leases, extensions, tokens, breaks of every kind, block operations,
//! retirements, timeouts, cancellations and reopenings come in whatever order, the guard says and does what
//! the rules of `DESIGN.md` say, to the letter: who is granted, refused, recalled, woken, drained, run, in
//! which order (**I1**, **I3**, **I5**), what a cancelled waiter leaves behind (nothing, **I8**), who holds
//! pages, and which block is behind which page.
//!
//! **How.** proptest draws lives of a guard: some tens of steps over a universe of few pages, so that
//! ranges meet, mixed with open, empty, inverted and extreme ranges. Each step is done to a
//! `LayoutGuard<ExtentMap>` and to a twin that says the rules again in the plainest way (`twin/model.rs`:
//! lists, searched from the front; nothing is kept that can be asked). After each step all that can be
//! seen is compared: results, which waiters are ready and whose waker was called (exactly once, and not
//! too early), `holders`, `stats`, `is_breaking`, `is_recalled` and what is wanted, `is_drained`, which pages
//! a `try_pin` gets, the extents, the length and the free blocks.
//!
//! The steps come one after the other, so everything is decided by the rules alone. But pins are taken
//! and dropped on several threads, some of which exit at once, and some pins outlive their guard and
//! lie about in the slots while others live. What really happens at the same time is for
//! `tests/hostile.rs` and the loom models.
//!
//! **How many.** 10,000 lives in release, 500 in debug; `PROPTEST_CASES` overrides. The counts of each
//! kind of event are printed, and one that never came about is a failure.

#[path = "twin/answers.rs"]
mod answers;
#[path = "twin/calls.rs"]
mod calls;
#[path = "twin/compare.rs"]
mod compare;
#[path = "twin/driver.rs"]
mod driver;
#[path = "twin/hands.rs"]
mod hands;
#[path = "twin/long.rs"]
mod long;
#[path = "twin/map.rs"]
mod map;
#[path = "twin/model.rs"]
mod model;
#[path = "twin/steps.rs"]
mod steps;
#[path = "twin/tally.rs"]
mod tally;
#[path = "twin/waiter.rs"]
mod waiter;

use std::panic;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use proptest::test_runner::{Config, TestError, TestRunner};

use crate::hands::Hands;

/// Lives, unless `PROPTEST_CASES` says otherwise.
const LIVES: u32 = if cfg!(debug_assertions) { 500 } else { 10_000 };

/// From so many lives on, every kind of event must have come about.
const ENOUGH: u32 = 4_000;

#[test]
fn the_guard_does_what_its_naive_twin_does() {
    let asked = std::env::var("PROPTEST_CASES").ok();
    let lives = asked.and_then(|n| n.parse().ok()).unwrap_or(LIVES);
    let config = Config {
        cases: lives,
        // A failing life is printed, shrunk, as a list of steps; there is no file to keep up.
        failure_persistence: None,
        ..Config::default()
    };
    let hands = Hands::new();
    let start = Instant::now();
    // Shrinking fails a hundred times over: only the last place counts.
    let place = Arc::new(Mutex::new(String::new()));
    let loud = panic::take_hook();
    let note = Arc::clone(&place);
    panic::set_hook(Box::new(move |info| {
        if let Some(location) = info.location() {
            *note.lock().unwrap() = location.to_string();
        }
    }));
    let outcome = TestRunner::new(config).run(&steps::life(), |life| {
        driver::live(life, &hands);
        Ok(())
    });
    panic::set_hook(loud);
    let seconds = start.elapsed().as_secs_f64();
    let never = tally::report(&format!("twin: {lives} lives in {seconds:.1} s"));
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, life)) => {
            let place = place.lock().unwrap();
            panic!("the guard and its twin differ, at {place}: {why}\nin {life:?}");
        }
        Err(error) => panic!("{error}"),
    }
    assert!(
        lives < ENOUGH || never.is_empty(),
        "never happened: {never:?}"
    );
}
