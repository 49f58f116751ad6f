//! Documentation alone: nothing here is code that a build contains.
//!
//! - [`guide`]: write a block map in three steps; a blocking engine, an async one, registered buffers, compaction.
//! - [`internals`]: how it works, with the promises, a picture and the states.
//! - [`orderings`]: every memory ordering, what breaks without it, and the model and mutant that show it.
//! - [`limitations`]: what it does not do, and what to do then.
//! - [`performance`]: what a pin and a break cost.
//!
//! Every Rust block in these pages is compiled and run by `cargo test`.

pub mod guide;
pub mod internals;
pub mod limitations;
pub mod orderings;
pub mod performance;
