//! The watchdog: who makes no progress hangs.
//!
//! Progress is counted, and so is patience: in naps, not by the clock. So a process that is stopped for a
//! while and then goes on has not hung, and what it was stopped for is not counted as time of the run.

use std::process::exit;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use layout_lease::LayoutGuard;

/// How long the watchdog sleeps between two looks.
const NAP: Duration = Duration::from_millis(10);

/// Naps without any progress after which the run hangs: a minute, if nobody stops the process.
const PATIENCE: u32 = 6_000;

/// The exit status of a run that hung.
pub(crate) const HUNG: i32 = 3;

/// Naps that the names of holders may take: their guard's lock may be what hangs.
const LAST_WORDS: u32 = 300;

/// Says who or what a guard is, or who holds its pages, if it still lives.
type Describe = Box<dyn Fn(What) -> Vec<String> + Send>;

#[derive(Clone, Copy)]
enum What {
    /// Never blocks.
    Guard,
    /// Takes its lock.
    Holders,
}

#[derive(Default)]
pub(crate) struct Watch {
    beats: AtomicU64,
    /// Microseconds in which the process was not stopped.
    running: AtomicU64,
    guards: Mutex<Vec<Describe>>,
}

impl Watch {
    /// A watchdog on a thread of its own, for as long as the process lives.
    pub(crate) fn start() -> Arc<Watch> {
        let watch = Arc::new(Watch::default());
        let dog = Arc::clone(&watch);
        thread::spawn(move || dog.run());
        watch
    }

    /// Something got done.
    pub(crate) fn beat(&self) {
        self.beats.fetch_add(1, Relaxed);
    }

    /// For how long the process has been running, without the time it was stopped.
    pub(crate) fn running(&self) -> Duration {
        Duration::from_micros(self.running.load(Relaxed))
    }

    /// Describes this guard, too, if the run hangs.
    pub(crate) fn look_at<M: Send + Sync + 'static>(&self, guard: &Arc<LayoutGuard<M>>) {
        let weak = Arc::downgrade(guard);
        let describe: Describe = Box::new(move |what| match (weak.upgrade(), what) {
            (None, _) => Vec::new(),
            (Some(guard), What::Guard) => vec![format!("{guard:?}")],
            (Some(guard), What::Holders) => {
                let holders = guard.holders(..).into_iter();
                holders.map(|holder| holder.to_string()).collect()
            }
        });
        let mut guards = self.guards();
        // Most live for a moment.
        if guards.len() >= 64 {
            guards.drain(..32);
        }
        guards.push(describe);
    }

    fn guards(&self) -> MutexGuard<'_, Vec<Describe>> {
        self.guards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let (mut last, mut idle) = (0, 0);
        let mut before = Instant::now();
        loop {
            thread::sleep(NAP);
            let now = Instant::now();
            let slept = (now - before).min(100 * NAP);
            before = now;
            self.running.fetch_add(slept.as_micros() as u64, Relaxed);
            let beats = self.beats.load(Relaxed);
            idle = if beats == last { idle + 1 } else { 0 };
            last = beats;
            if idle == PATIENCE {
                self.hang("nothing gets done any more");
            }
        }
    }

    /// Says what hangs, and ends the process: whoever waits cannot be joined.
    pub(crate) fn hang(&self, what: &str) -> ! {
        eprintln!("HANG: {what}");
        let guards = std::mem::take(&mut *self.guards());
        let say = move || {
            for what in [What::Guard, What::Holders] {
                let texts = guards.iter().rev().flat_map(|describe| describe(what));
                texts.for_each(|text| eprintln!("  {text}"));
            }
        };
        let says = thread::spawn(say);
        for _ in 0..LAST_WORDS {
            if says.is_finished() {
                break;
            }
            thread::sleep(NAP);
        }
        exit(HUNG)
    }
}
