//! The game: threads, a clock, and a watchdog that turns a lost wake into a failure.

use std::io::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use layout_lease::{LayoutGuard, PagePin, PinToken};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::clog::clog;
use crate::engine::{Engine, PAGES, View};
use crate::settings::Setting;
use crate::tally::Tally;

/// How many milliseconds a wait may take before it counts as lost. Nobody holds anything for more than a
/// few.
const LOST: u32 = 20_000;

/// Games are played one after the other: each wants the cores for itself.
static TABLE: Mutex<()> = Mutex::new(());

/// A pin whose holder has handed it on, as to a device, with what was looked up under it.
pub(crate) struct InFlight(pub(crate) Request, pub(crate) View);

/// What a device brings back when it is done.
pub(crate) enum Request {
    Pin(PagePin),
    /// A token's number.
    Number(u64),
}

/// What all players share.
pub(crate) struct Game {
    pub(crate) guard: Arc<LayoutGuard<Engine>>,
    pub(crate) tally: Tally,
    /// How many leases there are of each page, as far as their holders say.
    pub(crate) leased: [AtomicU64; PAGES as usize],
    /// How far the log has been written.
    pub(crate) log: AtomicU64,
    stop: AtomicBool,
}

/// One thread's place in the game.
pub(crate) struct Player<'a> {
    pub(crate) game: &'a Game,
    pub(crate) rng: SmallRng,
    pub(crate) device: SyncSender<InFlight>,
}

/// What a player does all the time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Read,
    Grow,
    Flit,
    PassBy,
    Remove,
    Nibble,
    Touch,
    Snatch,
    Knock,
    Juggle,
    Stream,
    Strike,
    Hold,
    Submit,
    Retire,
    Mix,
}

impl Player<'_> {
    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// Makes this processor's store buffer busy.
    pub(crate) fn clog(&mut self) {
        clog(&mut self.rng, 32);
    }
}

impl Game {
    /// Plays for `time`, or until `enough`. Returns the tally, and the time it took.
    ///
    /// On a busy machine something that is counted may not have happened by then; so it may take longer
    /// until everything has, but not for ever.
    pub(crate) fn play(
        setting: &Setting,
        time: Duration,
        enough: impl Fn(&Tally, Duration) -> bool,
    ) -> (Tally, Duration) {
        let _alone: MutexGuard<'_, ()> = TABLE.lock().unwrap_or_else(|e| e.into_inner());
        let engine = Engine::new(setting.words_per_block);
        let game = Game {
            guard: Arc::new(LayoutGuard::with_barrier(engine, setting.barrier)),
            tally: Tally::default(),
            leased: [const { AtomicU64::new(0) }; PAGES as usize],
            log: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        };
        game.guard.map().allocate(layout_lease::PageRange::ALL);
        let (device, flights) = sync_channel(32);
        let playing = AtomicUsize::new(setting.parts.len());
        let start = Instant::now();
        thread::scope(|scope| {
            for (part, seed) in setting.parts.iter().zip(setting.seed..) {
                let device = device.clone();
                let (game, playing) = (&game, &playing);
                scope.spawn(move || game.run(*part, seed, device, playing));
            }
            drop(device);
            scope.spawn(|| game.device(flights));
            let retires = |part: &Part| matches!(part, Part::Retire | Part::Mix);
            if setting.parts.iter().any(retires) {
                scope.spawn(|| game.reclaimer(&playing));
            }
            let over = |now| {
                enough(&game.tally, now)
                    || now >= 20 * time
                    || now >= time && game.tallied().never(setting.counts).is_empty()
            };
            while !game.stop.load(Relaxed) && !over(start.elapsed()) {
                thread::sleep(Duration::from_millis(2));
            }
            game.stop.store(true, Relaxed);
            // Counted, not timed: if the whole process is stopped for a while, nothing is lost.
            for _ in 0..LOST {
                if playing.load(Relaxed) == 0 {
                    return;
                }
                thread::sleep(Duration::from_millis(1));
            }
            game.lost();
        });
        let took = start.elapsed();
        game.end(took)
    }

    /// Says who is stuck, past the capture of the test harness, and ends the process: whoever waits
    /// cannot be joined, so there is no other way to fail.
    fn lost(&self) -> ! {
        let say = |text: &str| std::io::stderr().write_all(text.as_bytes()).ok();
        // First what never blocks. The rest takes the guard's lock, which may be what hangs.
        thread::spawn(|| {
            thread::sleep(Duration::from_secs(5));
            std::process::exit(3)
        });
        say(&format!("a wait was lost: {:?}\n", self.guard));
        say(&format!("{:?}\n", self.guard.stats()));
        for holder in self.guard.holders(..) {
            say(&format!("  {holder}\n"));
        }
        std::process::exit(3)
    }

    fn run(&self, part: Part, seed: u64, device: SyncSender<InFlight>, playing: &AtomicUsize) {
        /// Says that a player is gone, also if it panicked.
        struct Gone<'a>(&'a Game, &'a AtomicUsize);
        impl Drop for Gone<'_> {
            fn drop(&mut self) {
                if thread::panicking() {
                    self.0.stop.store(true, Relaxed);
                }
                self.1.fetch_sub(1, Relaxed);
            }
        }
        let _gone = Gone(self, playing);
        let mut player = Player {
            game: self,
            rng: SmallRng::seed_from_u64(seed),
            device,
        };
        while !self.stop.load(Relaxed) {
            player.turn(part);
        }
    }

    /// Completes what is in flight: looks at the pages once more, and drops the pin, far from where it was
    /// taken.
    fn device(&self, flights: Receiver<InFlight>) {
        for InFlight(request, view) in flights {
            self.check(&view);
            match request {
                Request::Pin(pin) => drop(pin),
                Request::Number(number) => {
                    let redeem = || PinToken::from_u64(number).and_then(PinToken::redeem);
                    let pin = redeem().expect("in flight");
                    self.tally.redeemed.fetch_add(1, Relaxed);
                    assert!(redeem().is_none(), "redeemed twice");
                    self.check(&view);
                    drop(pin);
                }
            }
        }
    }

    /// Runs what is retired, and flushes the log, until nobody is left who retires anything.
    fn reclaimer(&self, playing: &AtomicUsize) {
        let mut idle = 0;
        while playing.load(Relaxed) > 0 || self.guard.stats().retired_pages > 0 {
            let mut ready = self.guard.retired_ready();
            match ready.wait_timeout(Duration::from_millis(1)) {
                Some(()) => idle = 0,
                None => idle += 1,
            }
            if idle > LOST {
                self.lost();
            }
            self.guard.durable(self.log.load(Relaxed));
            let freed = self.guard.run_retired();
            self.tally.reclaimed.fetch_add(freed, Relaxed);
        }
    }

    /// Reads all that is behind a pin.
    pub(crate) fn check(&self, view: &View) {
        let words = self.guard.map().check(view, |it| self.tally.violation(it));
        self.tally.checked.fetch_add(words, Relaxed);
    }

    /// The final drain, and the books; last the engine goes with its guard.
    fn end(self, took: Duration) -> (Tally, Duration) {
        let alive = self.guard.map().alive();
        let stats = self.guard.stats();
        let left = (stats.pins, stats.leases, stats.queued, stats.retired_pages);
        assert_eq!(left, (0, 0, 0, 0), "a trace is left");
        self.tallied();
        self.guard.close().wait();
        self.guard.map().audit(|it| self.tally.violation(it));
        drop(self.guard);
        assert_eq!(alive.strong_count(), 0, "the engine outlives its guard");
        (self.tally, took)
    }

    /// The tally, with what the guard and the engine have counted themselves.
    fn tallied(&self) -> &Tally {
        let (stats, engine, tally) = (self.guard.stats(), self.guard.map(), &self.tally);
        tally.breaks.store(stats.breaks, Relaxed);
        tally.breaks_waited.store(stats.breaks_waited, Relaxed);
        tally.freed.store(engine.freed.load(Relaxed), Relaxed);
        tally
            .allocated
            .store(engine.allocated.load(Relaxed), Relaxed);
        tally
    }
}
