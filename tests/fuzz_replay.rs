//! The fuzz targets over their committed corpus: no fuzzer needed.
//!
//! **What it shows.** Each target of `fuzz/` is a function of bytes, and here are these functions:
//!
//! | target | what the bytes choose | against |
//! | --- | --- | --- |
//! | `lives` | operations on a guard | the naive twin of `tests/twin.rs` |
//! | `tokens` | numbers redeemed as tokens, between real ones | a list of those that are out |
//! | `ranges` | ranges, page sizes | `u128` arithmetic |
//! | `pools` | a pool file, bits flipped in one | what was stored |
//!
//! The corpus (`tests/fuzz_replay/corpus/`) is what `scripts/fuzz.sh` has found, cut down to one input for each
//! piece of code reached; every input that ever failed, by a name of its own; and for `lives` some drawn at random,
//! which are long enough for everything to happen. A target whose folder is empty, or in whose corpus something
//! never happens that can, fails; and each has a control that is broken on purpose, which its corpus must find. (For
//! `lives` that is a twin which has a rule wrong.)
//!
//! This file is also the library of the crate `fuzz/`, so that what is fuzzed and what is replayed is the same.

#[path = "twin/answers.rs"]
mod answers;
#[path = "fuzz_replay/bytes.rs"]
mod bytes;
#[path = "twin/calls.rs"]
mod calls;
#[path = "twin/compare.rs"]
mod compare;
#[path = "twin/driver.rs"]
mod driver;
#[path = "twin/hands.rs"]
mod hands;
#[path = "fuzz_replay/lives.rs"]
mod lives;
#[path = "twin/long.rs"]
mod long;
#[path = "twin/map.rs"]
mod map;
#[path = "twin/model.rs"]
mod model;
#[path = "fuzz_replay/outcome.rs"]
mod outcome;
#[path = "fuzz_replay/pools.rs"]
mod pools;
#[path = "fuzz_replay/ranges.rs"]
mod ranges;
#[cfg(test)]
#[path = "fuzz_replay/replay.rs"]
mod replay;
#[allow(dead_code, reason = "here bytes draw the steps, not proptest")]
#[path = "twin/steps.rs"]
mod steps;
#[allow(dead_code, reason = "the example uses the rest")]
#[path = "../examples/pmem_kv/store/mod.rs"]
mod store;
#[allow(dead_code, reason = "the fuzzer prints no table")]
#[path = "twin/tally.rs"]
mod tally;
#[path = "fuzz_replay/tokens.rs"]
mod tokens;
#[path = "twin/waiter.rs"]
mod waiter;

/// A target: it panics if something is wrong.
#[cfg(not(test))]
pub type Target = fn(&[u8]);

/// The targets, for a fuzzer. Each may be called again and again, from one thread.
#[cfg(not(test))]
pub const TARGETS: [(&str, Target); 4] = [
    ("lives", |data| {
        thread_local! {
            static HANDS: hands::Hands = hands::Hands::new();
        }
        HANDS.with(|hands| lives::run(data, hands));
    }),
    ("tokens", |data| {
        tokens::run(data, tokens::REAL, &mut Vec::new());
    }),
    ("ranges", |data| {
        ranges::run(data, ranges::REAL, &mut Vec::new());
    }),
    ("pools", |data| {
        pools::run(data, pools::REAL, &mut Vec::new());
    }),
];
