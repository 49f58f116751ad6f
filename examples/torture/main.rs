//! `torture`: everything at once, on this machine, for as long as you like; and the litmus of the two
//! handshakes that the rest stands on.
//!
//! ```text
//! cargo run --release --example torture -- --seconds 10
//! scripts/torture.sh --seconds 3600       the same, with its controls
//! ```
//!
//! | scene | what it does | in |
//! | --- | --- | --- |
//! | litmus | one pin against one break, a processor each, round by round, judged exactly | `litmus.rs` |
//! | games | the hostile engine of `tests/hostile.rs`: poison and generations behind every page | `tests/hostile/` |
//! | lives | beside the games: mappings and threads that come and go, panic, forget, fork, close | `lives.rs` |
//! | refused | all of it in a process where the system refuses `membarrier` | `refuse.rs` |
//!
//! Each scene is played in every mode: asymmetric, fenced, and adaptive with loads that make the mapping
//! change over every few milliseconds. Scenes take turns, in an order that the seed decides.
//!
//! **What is shared.** The engine, its players, the clock over a game and the tally are those of
//! `tests/hostile.rs`, the same files: there each game is a test of its own, of a second or two, that must
//! see everything it is for. Here they are played for hours, with other seeds, in other modes, and beside
//! lives. Only what a game with one guard cannot have is here: forgotten holders, ends of guards, forks,
//! panics, several guards; and the litmus, for the games seldom see a missing barrier.
//!
//! **What counts as a failure.** A violation; a sum that is not zero at the end of a guard; a hang
//! (`watch.rs`); and a run in which something that belongs to it has not happened.
//!
//! **Does it bite?** Built without the breaker's barrier (`--cfg lease_mutant="heavy_missing"`) or without the
//! fences (`full_missing`) the litmus finds it within the first thousand rounds; `scripts/torture.sh` shows
//! that each time.

mod forks;
mod litmus;
mod lives;
mod refuse;
mod visitors;
mod watch;

#[path = "../../tests/hostile/clog.rs"]
mod clog;
#[path = "../../tests/hostile/engine.rs"]
mod engine;
#[path = "../../tests/hostile/game.rs"]
mod game;
#[path = "../../tests/hostile/holders.rs"]
mod holders;
#[path = "../../tests/hostile/players.rs"]
mod players;
#[path = "../../tests/hostile/settings.rs"]
mod settings;
#[path = "../../tests/hostile/tally.rs"]
mod tally;

mod report;

use std::process::{Command, ExitCode, exit};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use layout_lease::Barrier;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::game::Game;
use crate::litmus::{Outcomes, Shape};
use crate::lives::Lives;
use crate::refuse::Refuse;
use crate::report::Report;
use crate::settings::{CHANGE, CROWD, DUEL, HELD, LONG, SHORT, Setting};
use crate::tally::{Tally, add};
use crate::watch::Watch;

/// Pins, leases and breaks from everywhere against a block map that poisons what it frees, and a litmus
/// of the handshake between pin and break.
#[derive(Clone, Debug, Parser)]
#[command(name = "torture", version, after_help = AFTER_HELP)]
struct Args {
    /// How long to run; time in which the process is stopped does not count
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Decides the order of the scenes and every choice in them [default: a random one, which is printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Who pays for the barrier between pin and break
    #[arg(long, value_enum, default_value_t = Mode::All)]
    mode: Mode,
    /// Which scenes to play
    #[arg(long, value_enum, default_value_t = Scenes::All)]
    scenes: Scenes,
    /// Refuse membarrier in this process
    #[arg(long, value_enum, hide = true)]
    refuse: Option<Refuse>,
}

const AFTER_HELP: &str = "\
Exit status: 0 nothing went wrong and everything has happened; 1 violations; 2 wrong usage, or something
has not happened; 3 it hung; 101 a check failed, which says what.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    All,
    Asymmetric,
    Fenced,
    /// Changes over every few milliseconds
    Adaptive,
    /// In processes where the system refuses membarrier
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenes {
    All,
    Litmus,
    Games,
}

impl Mode {
    fn barriers(self) -> &'static [Barrier] {
        match self {
            Mode::All => &[Barrier::Asymmetric, Barrier::Fenced, Barrier::Adaptive],
            Mode::Asymmetric => &[Barrier::Asymmetric],
            Mode::Fenced => &[Barrier::Fenced],
            Mode::Adaptive => &[Barrier::Adaptive],
            Mode::Refused => &[],
        }
    }
}

/// What takes its turn.
#[derive(Clone, Copy)]
enum Scene {
    Litmus(Shape, Barrier),
    /// Whether lives go on beside it: not where two threads want a processor each.
    Game(Setting, bool),
    Refused(Refuse),
}

/// How long a turn is, if there is time for all.
const TURN: Duration = Duration::from_secs(5);

/// The exit status of a process in which membarrier was to be refused and could not.
const SKIPPED: u8 = 77;

/// Forbidden outcomes after which a litmus need not go on.
const FOUND: u64 = 100;

/// How long a run may take until everything has happened: so many times what was asked for, or a busy
/// machine's minute.
const LONGEST: (u32, Duration) = (6, Duration::from_secs(60));

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(rand::random);
    // A check that fails ends the run at once: whoever waits for the thread that failed would wait for ever.
    let says = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        says(info);
        exit(101);
    }));
    // Before any guard is made, and any thread started that will use one.
    if let Some(when) = args.refuse {
        if when == Refuse::Later {
            drop(layout_lease::LayoutGuard::<()>::default());
        }
        if let Err(error) = refuse::refuse() {
            println!("SKIPPED: membarrier cannot be refused here: {error}");
            return ExitCode::from(SKIPPED);
        }
    }
    println!("torture: {args:?}, seed {seed}");
    // Not in the time of a turn.
    clog::memory();
    let run = Run {
        watch: Watch::start(),
        tally: Tally::default(),
        forgets: AtomicU64::new(0),
        args,
    };
    run.play(seed)
}

/// What lasts for the whole run.
struct Run {
    args: Args,
    watch: Arc<Watch>,
    tally: Tally,
    forgets: AtomicU64,
}

impl Run {
    fn scenes(&self) -> Vec<Scene> {
        let Args { mode, scenes, .. } = self.args;
        let mut all = Vec::new();
        for &barrier in mode.barriers() {
            let game = |setting| Setting { barrier, ..setting };
            if scenes != Scenes::Games {
                all.extend([Shape::Pin, Shape::Unpin].map(|shape| Scene::Litmus(shape, barrier)));
            }
            if scenes != Scenes::Litmus {
                all.extend([LONG, HELD, SHORT].map(|it| Scene::Game(game(it), true)));
                all.extend([DUEL, CROWD, CHANGE].map(|it| Scene::Game(game(it), false)));
            }
        }
        let refused = self.args.refuse.is_none() && matches!(mode, Mode::All | Mode::Refused);
        if refused {
            all.extend([Refuse::Start, Refuse::Later].map(Scene::Refused));
        }
        all
    }

    /// Turn by turn, until the time is over and everything has happened.
    fn play(&self, seed: u64) -> ExitCode {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut scenes = self.scenes();
        let time = Duration::from_secs(self.args.seconds);
        let longest = (LONGEST.0 * time).max(LONGEST.1);
        let turn = (time / scenes.len() as u32).min(TURN);
        let mut report = Report::new(&self.args);
        for scene in &scenes {
            if let Scene::Litmus(shape, barrier) = scene {
                report.expect(*shape, *barrier);
            }
        }
        loop {
            scenes.shuffle(&mut rng);
            for &scene in &scenes {
                self.turn(scene, turn, rng.random(), &mut report);
                let now = self.watch.running();
                report.progress(now, &self.tally);
                let over = now >= time && report.never(&self.tally).is_empty();
                let broken = now >= time && report.has_found_enough(&self.tally);
                if over || broken || now >= longest || report.has_found_everything() {
                    return report.verdict(now, &self.tally);
                }
            }
        }
    }

    fn turn(&self, scene: Scene, turn: Duration, seed: u64, report: &mut Report) {
        self.watch.beat();
        let end = self.watch.running() + turn;
        match scene {
            Scene::Litmus(shape, barrier) => {
                let mut first = None;
                let over = |seen: &Outcomes| {
                    let now = self.watch.running();
                    if seen.forbidden > 0 {
                        first.get_or_insert(now);
                    }
                    now >= end || seen.forbidden >= FOUND
                };
                let outcomes = litmus::run(shape, barrier, seed, &self.watch, over);
                report.litmus(shape, barrier, outcomes, first);
                add(&self.tally.stutters, outcomes.map_or(0, |it| it.stutters));
            }
            Scene::Game(setting, lives) => {
                let over = AtomicBool::new(!lives);
                let tally = thread::scope(|scope| {
                    scope.spawn(|| self.live_until(&over, seed));
                    let enough = |_: &_, _| self.watch.running() >= end;
                    // Each player's seed is one more.
                    let setting = Setting {
                        seed: seed & !0xFF,
                        ..setting
                    };
                    let (tally, _) = Game::play(&setting, 1_000 * turn, enough);
                    over.store(true, Relaxed);
                    tally
                });
                report.game(setting.name, &tally, &self.tally);
            }
            Scene::Refused(when) => self.refused(when, turn, seed, report),
        }
    }

    fn live_until(&self, over: &AtomicBool, seed: u64) {
        let mut lives = Lives {
            tally: &self.tally,
            watch: &self.watch,
            rng: SmallRng::seed_from_u64(seed),
            barriers: self.args.mode.barriers(),
            forgets: &self.forgets,
        };
        while !over.load(Relaxed) {
            lives.live();
        }
    }

    /// A process of its own: what is refused there is never granted again.
    fn refused(&self, when: Refuse, turn: Duration, seed: u64, report: &mut Report) {
        let seconds = turn.as_secs().max(1).to_string();
        let when = when.to_possible_value();
        let when = when.as_ref().map_or("start", |it| it.get_name());
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .args(["--seconds", &seconds, "--seed", &seed.to_string()])
            .args(["--refuse", when])
            .spawn()
            .expect("this program can be started");
        // It has a watchdog of its own, which ends it.
        let status = loop {
            self.watch.beat();
            if let Some(status) = child.try_wait().expect("it is our child") {
                break status;
            }
            thread::sleep(Duration::from_millis(10));
        };
        add(&self.tally.refused_barriers, report.refused(when, status));
    }
}
