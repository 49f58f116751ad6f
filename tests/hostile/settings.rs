//! The settings: who plays, for how long, and what must have happened.

use layout_lease::Barrier;

use crate::game::Part;

#[derive(Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) barrier: Barrier,
    pub(crate) words_per_block: usize,
    pub(crate) parts: &'static [Part],
    /// Another one makes other choices.
    pub(crate) seed: u64,
    /// What must have happened.
    pub(crate) counts: &'static [&'static str],
}

/// Long looks at large blocks.
pub(crate) const LONG: Setting = Setting {
    name: "long pins",
    seed: 0,
    barrier: Barrier::Adaptive,
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
pub(crate) const HELD: Setting = Setting {
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
pub(crate) const SHORT: Setting = Setting {
    name: "short pins",
    seed: 0,
    barrier: Barrier::Adaptive,
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
pub(crate) const DUEL: Setting = Setting {
    name: "a duel",
    seed: 0,
    barrier: Barrier::Adaptive,
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

/// One page is closed nearly all of the time, and others open and close about it: whoever reads the gate
/// while it changes must still be refused that page, and no other.
pub(crate) const CROWD: Setting = Setting {
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
pub(crate) const CHANGE: Setting = Setting {
    name: "a change of barriers",
    parts: &[Part::Stream, Part::Strike],
    ..DUEL
};
