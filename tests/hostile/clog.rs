//! A clogged store buffer: stores that miss the cache, so that the next ones wait behind them, out of other
//! processors' sight, while loads go ahead. This is where a missing barrier shows.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use rand::Rng;
use rand::rngs::SmallRng;

/// Words of memory to miss: 64 MiB, more than a cache holds.
const WORDS: usize = 1 << 23;

/// Made when it is first asked for, and kept: it takes some tenths of a second.
pub(crate) fn memory() -> &'static [AtomicU64] {
    static MEMORY: OnceLock<Box<[AtomicU64]>> = OnceLock::new();
    MEMORY.get_or_init(|| (0..WORDS).map(|_| AtomicU64::new(0)).collect())
}

/// So many stores. Close behind each other, or the first would be through before the last.
pub(crate) fn clog(rng: &mut SmallRng, stores: u32) {
    let memory = memory();
    let mut at = rng.random::<u64>();
    for _ in 0..stores {
        at = at.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        memory[(at >> (u64::BITS - WORDS.ilog2())) as usize].store(at, Relaxed);
    }
}
