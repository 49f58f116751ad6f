//! The promises, one by one. The number in a test's name is that of the promise in `src/raw/mod.rs`.
//!
//! Where a promise can be shown step by step, it is: a value is asked with `wait_timeout(ZERO)` or polled
//! once, and everything that can be seen is compared. Threads meet at channels, or wait for what
//! [`stats`](layout_lease::LayoutGuard::stats) shows; nothing sleeps. Where only a race can show it, the
//! race is run with every choice of the barrier, and counts what happened: a race in which nothing
//! happened is a failure. A hang is one too, by a watchdog.
//!
//! | file | promises |
//! | --- | --- |
//! | `promises/turns.rs` | I1 one step, I3 one queue, I5 bounded both ways |
//! | `promises/proof.rs` | I2 proof, I7 ordered, I11 no skipping |
//! | `promises/waiting.rs` | I4 fail closed, I6 no lost wake |
//! | `promises/cancel.rs` | I8 cancel |
//! | `promises/threads.rs` | I9 any thread |
//! | `promises/ranges.rs` | I10 empty is never "all", I12 others undisturbed |
//! | `promises/leases.rs` | leases: the gate, the queue, breaks of leases alone |
//! | `promises/recall.rs` | recall, and leases that are given back, in part or as a whole |
//! | `promises/tokens.rs` | tokens, and numbers that are none |
//! | `promises/extend.rs` | extensions, and holders who break what they hold |
//! | `promises/retire.rs` | retirement: who runs it, when, and what becomes of a failure |
//! | `promises/several.rs` | breaks of several ranges, and of several guards |
//! | `promises/names.rs` | who holds what: `holders`, `stats`, `Debug`; failures known from elsewhere |
//! | `promises/corners.rs` | the rules for the corners: engines that fail, closing, types |
//! | `promises/found.rs` | what the search for holes in the promises has found |
//! | `promises/panics.rs` | and that with wakers that panic |
#![cfg(not(any(lease_loom, lease_shuttle)))]
#![expect(
    clippy::reversed_empty_ranges,
    reason = "that they are refused is a promise"
)]

#[path = "promises/cancel.rs"]
mod cancel;
#[path = "promises/corners.rs"]
mod corners;
#[path = "promises/extend.rs"]
mod extend;
#[path = "promises/found.rs"]
mod found;
#[path = "promises/leases.rs"]
mod leases;
#[path = "promises/names.rs"]
mod names;
#[path = "promises/panics.rs"]
mod panics;
#[path = "promises/proof.rs"]
mod proof;
#[path = "promises/ranges.rs"]
mod ranges;
#[path = "promises/recall.rs"]
mod recall;
#[path = "promises/retire.rs"]
mod retire;
#[path = "promises/several.rs"]
mod several;
mod support;
#[path = "promises/threads.rs"]
mod threads;
#[path = "promises/tokens.rs"]
mod tokens;
#[path = "promises/turns.rs"]
mod turns;
#[path = "promises/unnoticed.rs"]
mod unnoticed;
#[path = "promises/waiting.rs"]
mod waiting;
