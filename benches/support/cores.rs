//! Threads on cores of their own, and whether they really ran at the same time.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use super::Timing;

/// The cores that this process was allowed to use when first asked.
fn allowed() -> &'static [usize] {
    static ALLOWED: std::sync::OnceLock<Vec<usize>> = std::sync::OnceLock::new();
    ALLOWED.get_or_init(|| {
        let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        (0..CpuSet::MAX_CPU).filter(|&n| set.is_set(n)).collect()
    })
}

/// Keeps the calling thread on the process's `nth` core. Where there are fewer, cores are shared, and
/// the cases that need two say that they did not run at the same time.
pub(crate) fn pin_to(nth: usize) {
    let allowed = allowed();
    if let Some(&core) = allowed.get(nth % allowed.len().max(1)) {
        let mut set = CpuSet::new();
        set.set(core);
        sched_setaffinity(None, &set).ok();
    }
}

/// The time for which this thread has really run.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// One thread's part of a case.
struct Part {
    start: Instant,
    end: Instant,
    ran: Duration,
    core: usize,
}

/// `work(iters)` on each of `threads` threads at once, each on a core of its own. The time is the mean of theirs;
/// `ran` is the smallest share of it in which all of them really ran at the same time: 1 is best, 0 if they had to
/// share a core.
pub(crate) fn at_once(threads: usize, iters: u64, work: impl Fn(u64) + Sync) -> Timing {
    let waiting = AtomicUsize::new(threads);
    let part = |nth: usize| {
        pin_to(nth);
        // What a thread's first use costs is not measured.
        work(iters / 64 + 1);
        waiting.fetch_sub(1, Ordering::AcqRel);
        while waiting.load(Ordering::Acquire) > 0 {
            spin_loop();
        }
        let (before, start) = (cpu_time(), Instant::now());
        work(iters);
        let (end, after) = (Instant::now(), cpu_time());
        Part {
            start,
            end,
            ran: after - before,
            core: sched_getcpu(),
        }
    };
    let parts: Vec<Part> = thread::scope(|s| {
        let all: Vec<_> = (0..threads).map(|nth| s.spawn(move || part(nth))).collect();
        all.into_iter().map(|t| t.join().expect("joins")).collect()
    });
    let took = |p: &Part| p.end - p.start;
    let elapsed = parts.iter().map(took).sum::<Duration>() / threads as u32;
    Timing {
        elapsed,
        also: vec![("threads", threads as f64), ("ran", together(&parts))],
    }
}

fn together(parts: &[Part]) -> f64 {
    let mut cores: Vec<usize> = parts.iter().map(|p| p.core).collect();
    cores.sort_unstable();
    cores.dedup();
    let start = parts.iter().map(|p| p.start).max();
    let end = parts.iter().map(|p| p.end).min();
    let (Some(start), Some(end)) = (start, end) else {
        return 0.0;
    };
    if cores.len() < parts.len() {
        return 0.0;
    }
    let shared = end.saturating_duration_since(start).as_secs_f64();
    let share = |p: &Part| {
        let took = (p.end - p.start).as_secs_f64().max(1e-9);
        (shared / took).min(p.ran.as_secs_f64() / took)
    };
    parts.iter().map(share).fold(1.0, f64::min)
}

/// A thread that does the same over and over on a core of its own, until it is dropped.
pub(crate) struct Busy {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// On lines of its own: the busy thread writes here all the time.
#[repr(align(128))]
struct Shared {
    done: AtomicU64,
    stop: AtomicBool,
}

impl Busy {
    /// Returns when it is under way.
    pub(crate) fn start(core: usize, mut work: impl FnMut() + Send + 'static) -> Self {
        let shared = Arc::new(Shared {
            done: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            pin_to(core);
            let mut done = 0;
            while !theirs.stop.load(Ordering::Relaxed) {
                work();
                done += 1;
                theirs.done.store(done, Ordering::Relaxed);
            }
        });
        while shared.done.load(Ordering::Relaxed) < 100 {
            thread::yield_now();
        }
        let thread = Some(thread);
        Self { shared, thread }
    }

    /// How often it has done its work so far.
    pub(crate) fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// Times `f`, and says how much the busy thread got done meanwhile (`other_ops` per microsecond).
    pub(crate) fn meanwhile(&self, f: impl FnOnce() -> Duration) -> Timing {
        let (start, before) = (Instant::now(), self.done());
        let elapsed = f();
        let (took, done) = (start.elapsed(), self.done() - before);
        Timing {
            elapsed,
            also: vec![("other_ops", done as f64 / (took.as_nanos() as f64 / 1e3))],
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
