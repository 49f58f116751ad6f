//! The two sides of the handshake between pinners and breakers. All fences of the crate are here.
//!
//! Problem: a pinner stores its slot and then looks at the gate; a breaker closes the gate and then
//! looks at the slots. A processor may let each look before its own store is visible, and then both
//! find the coast clear. Idea: a full barrier between store and look on both sides; and where breaks are
//! rare, the breaker executes the pinners' barriers for them.
//!
//! ```text
//!   pinner:   slot = range                  breaker:   gate = closed
//!             light(), or full() if FENCED             everywhere(), or full() if FENCED
//!             look at the gate                         look at the slots
//! ```
//!
//! | mode | pinner | breaker | cheaper when |
//! | --- | --- | --- | --- |
//! | asymmetric | nothing but the compiler's order | `membarrier`: a barrier on every running thread | breaks are rare |
//! | fenced | a fence | a fence | breaks are frequent |
//!
//! One of the two barriers comes first; the other side's look then sees what was stored before it. The
//! same pair serves unpinning: there the holder stores "free" and looks whether somebody waits.
//!
//! `membarrier` puts a full barrier at *some* point of every thread of the process that is running. If the
//! point comes after a pinner's store, the store is visible to the breaker's look; if it comes before
//! the pinner's look, the look sees the gate closed; there is no third case, for the store comes before
//! the look in the program. (Threads that are not running have passed the scheduler's own barrier.)
//!
//! The source of the idea is Linux's `membarrier(2)`; the kernel's own document of it names this use.

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Instant;

use crate::sync::{AtomicU32, MODEL, Ordering, fence, mutant};

/// The pinner's side where the gate says nothing of fences: breakers execute the barrier.
#[inline(always)]
pub(crate) fn light() {
    // Pairs with `everywhere`:
    // - if the barrier that it executes here comes after our store, the breaker's scan sees the slot;
    // - if it comes before our look, the look sees the gate closed.
    // So the store must come before the look in the machine's program order, which is all that this
    // orders. The model checker has no such barrier; `system` says what stands at its point there.
    #[cfg(any(lease_loom, lease_shuttle))]
    system::reached();
    #[cfg(not(any(lease_loom, lease_shuttle)))]
    crate::sync::compiler_fence(Ordering::SeqCst);
}

/// Either side where the gate says `FENCED`.
#[inline(always)]
pub(crate) fn full() {
    // Pairs with itself on the other side:
    // - if the pinner's comes first, the breaker's scan sees the slot, and the break waits for it;
    // - if the breaker's comes first, the pinner's look sees the gate closed: it steps back.
    if !mutant!("full_missing") {
        fence(Ordering::SeqCst);
    }
}

/// What [`full`] costs behind a store, in picoseconds: measured once in a process, which takes some microseconds. A
/// model has no clock.
pub(crate) fn price_of_full() -> u64 {
    static PRICE: OnceLock<u64> = OnceLock::new();
    const TIMES: u32 = 256;
    let some = || {
        let word = AtomicU32::new(0);
        let start = Instant::now();
        for n in 0..TIMES {
            black_box(&word).store(n, Ordering::Relaxed);
            full();
            black_box(word.load(Ordering::Relaxed));
        }
        start.elapsed().as_nanos() as u64 * 1_000 / u64::from(TIMES)
    };
    // Whatever comes in between makes it longer, never shorter.
    let times = if MODEL { 0 } else { 4 };
    *PRICE.get_or_init(|| (0..times).map(|_| some()).min().unwrap_or(0))
}

/// The breaker's side where pinners have no fence: a full barrier on every thread of the process. `false`:
/// it could not be had, and nothing may be concluded from what the slots say.
pub(crate) fn everywhere() -> bool {
    // Pairs with `light`, see there.
    mutant!("heavy_missing") || system::everywhere()
}

/// Whether [`everywhere`] can be had in this process: decided once, before the first slot is filled.
pub(crate) fn can_reach_everywhere() -> bool {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    *REGISTERED.get_or_init(system::register)
}

#[cfg(all(target_os = "linux", not(any(lease_loom, lease_shuttle))))]
mod system {
    use std::sync::OnceLock;

    use rustix::io::Errno;
    use rustix::thread::{
        CpuSet, MembarrierCommand, membarrier as call, sched_getaffinity, sched_setaffinity,
    };

    use crate::sync::{AtomicU64, Mutex, Ordering, fence};

    /// Asks for expedited barriers; the kernel refuses the barrier itself to who has not asked. The
    /// registration is inherited by a forked child.
    pub(super) fn register() -> bool {
        call(MembarrierCommand::RegisterPrivateExpedited).is_ok()
            && call(MembarrierCommand::PrivateExpedited).is_ok()
    }

    /// Barriers that have been begun.
    static BEGUN: AtomicU64 = AtomicU64::new(0);
    /// Whose turn it is to begin one, and whether the last one was to be had.
    static TURN: Mutex<bool> = Mutex::new(false);

    /// Executes a barrier, or waits for one that somebody else has begun meanwhile.
    ///
    /// Problem: the system executes one barrier after the other, and each interrupts everybody. Idea: a
    /// barrier serves every breaker whose gate was closed before it was *begun*, of whichever mapping. So
    /// breakers look how many have been begun before they queue up, and whoever finds one more when its
    /// turn comes, need not begin another: that one is over. One that had been begun before the
    /// closing would prove nothing.
    pub(super) fn everywhere() -> bool {
        // Between the closing of the gate and the look at the count. Pairs with the barrier: who begins one
        // counts first, so if we do not see that count, it will make our closing visible.
        fence(Ordering::SeqCst);
        let before = BEGUN.load(Ordering::Relaxed);
        let mut had = TURN.lock();
        let begun = BEGUN.load(Ordering::Relaxed);
        if begun == before || !*had {
            BEGUN.store(begun + 1, Ordering::Relaxed);
            *had = membarrier() || visit_every_cpu();
        }
        *had
    }

    fn membarrier() -> bool {
        call(MembarrierCommand::PrivateExpedited).is_ok()
    }

    /// One more than the highest number that a processor of this machine can have, which does not change while
    /// it runs.
    fn possible_cpus() -> usize {
        static POSSIBLE: OnceLock<usize> = OnceLock::new();
        *POSSIBLE.get_or_init(|| {
            let list = std::fs::read_to_string("/sys/devices/system/cpu/possible");
            let last = list.ok().and_then(|list| {
                let last = list.trim().rsplit(['-', ',']).next()?;
                last.parse::<usize>().ok()
            });
            last.map_or(CpuSet::MAX_CPU, |last| last + 1)
        })
    }

    /// The way round a `membarrier` that was granted once and is refused now (a system call filter put in
    /// place since): run on every processor in turn. For this thread to run there, whichever thread was
    /// running there must have passed the scheduler, which is a full barrier; and a thread that moves
    /// behind our back passes it too.
    fn visit_every_cpu() -> bool {
        let Ok(home) = sched_getaffinity(None) else {
            return false;
        };
        if possible_cpus() > CpuSet::MAX_CPU {
            // More than a set can name.
            return false;
        }
        let visit = |cpu| {
            let mut there = CpuSet::new();
            there.set(cpu);
            match sched_setaffinity(None, &there) {
                Ok(()) => Some(1),
                // No such processor, or none that this process may use.
                Err(Errno::INVAL) => Some(0),
                Err(_) => None,
            }
        };
        // All of them, not only ours: other threads may be allowed to run elsewhere.
        let visited: Option<usize> = (0..possible_cpus()).map(visit).sum();
        // Whatever became of it, go back.
        sched_setaffinity(None, &home).is_ok() && visited.is_some_and(|n| n > 0)
    }
}

#[cfg(not(any(target_os = "linux", lease_loom, lease_shuttle)))]
mod system {
    use crate::sync::{Ordering, fence};

    pub(super) fn register() -> bool {
        false
    }

    /// Refused; but a fence, as everywhere.
    pub(super) fn everywhere() -> bool {
        fence(Ordering::SeqCst);
        false
    }
}

/// shuttle sees every access in one order, whatever its ordering.
#[cfg(lease_shuttle)]
mod system {
    pub(super) fn register() -> bool {
        true
    }

    pub(super) fn reached() {}

    pub(super) fn everywhere() -> bool {
        true
    }
}

/// loom has no such barrier: an atomic update of the thread's own word stands for its point.
///
/// Faithful, and if anything weaker than the barrier: between a pinner's store and its look, [`reached`]
/// updates the pinner's word; the breaker updates the words of all threads between its store and its look.
/// Updates of one word are in one order, each with release and acquire:
///
/// - if the pinner's comes first, the breaker acquires what the pinner had stored before it: the scan sees
///   the slot, as when `membarrier` interrupts the pinner behind its store;
/// - if the breaker's comes first, the pinner acquires the closing: the look sees it, as when `membarrier`
///   interrupts it before its look.
///
/// There is no third case, neither here nor there. `membarrier` also orders whatever stands between its point
/// and these two, which the words do not; and nobody who executes a mere fence learns anything from them, nor
/// do two pinners from each other. So a break that trusts fences too early, or a gate that says too late
/// that pins must have one, fails here as it would on the machine.
#[cfg(lease_loom)]
mod system {
    use std::cell::Cell;

    use crate::sync::{AtomicCell, AtomicUsize, Ordering, fence};
    use crate::sync::{mutant, process_static, thread_cell};

    /// More threads than a model can have.
    const THREADS: usize = 5;

    struct Words {
        words: [AtomicUsize; THREADS],
        /// Threads that have one. No atomic of the model's: it orders nothing.
        given: AtomicCell<usize>,
    }

    process_static! {
        static WORDS: Words = Words {
            words: std::array::from_fn(|_| AtomicUsize::new(0)),
            given: AtomicCell::new(0),
        };
    }

    thread_cell! {
        static OWN: Cell<Option<usize>> = Cell::new(None);
    }

    pub(super) fn register() -> bool {
        true
    }

    /// The point of a thread at which a barrier everywhere reaches it.
    pub(super) fn reached() {
        if mutant!("light_missing") {
            return;
        }
        let words: &'static Words = &WORDS;
        let own = OWN.with(|own| {
            let n = own.get().unwrap_or_else(|| words.given.fetch_add(1));
            own.set(Some(n));
            n
        });
        words.words[own].fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn everywhere() -> bool {
        // It is a full barrier of who executes it, too.
        fence(Ordering::SeqCst);
        let words: &'static Words = &WORDS;
        for word in &words.words {
            word.fetch_add(1, Ordering::AcqRel);
        }
        true
    }
}
