//! What the scenes share: how schedules are drawn, and what must have happened in them.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `LEASE_SCHEDULES` | schedules of each scene, half of them random, half PCT with three changes of priority |
//! | `LEASE_SEED` | where the schedules start; else every run has others, and prints where it started |
//! | `LEASE_REPLAY` | one schedule, as a failure has printed it, or the seed of a random one: only that is run |
#![allow(dead_code, reason = "each target uses a part of it")]

pub(crate) mod disk;
pub(crate) mod players;
pub(crate) mod tasks;
pub(crate) mod world;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use shuttle::scheduler::{
    PctScheduler, RandomScheduler, ReplayScheduler, Scheduler,
    UncontrolledNondeterminismCheckScheduler,
};
use shuttle::{Config, MaxSteps, Runner};

/// Changes of priority in a PCT schedule.
const DEPTH: usize = 3;

/// Schedules that start from one seed.
const ROUND: usize = 20_000;

/// Schedules of a scene where nothing is said.
const FEW: usize = 2_000;

/// Schedules that are played twice, to see the same.
const TWICE: usize = 20;

/// Random schedules that have found something, in the crate or in a control: they are played first.
const KEPT: &str = include_str!("kept");

fn kept(name: &str) -> impl Iterator<Item = u64> {
    let rows = KEPT.lines().filter(|row| !row.starts_with('#'));
    let words = rows.map(str::split_whitespace);
    words.filter_map(move |mut row| (row.next()? == name).then(|| row.next()?.parse().ok())?)
}

/// What has happened in all schedules of a scene: a scene in which something never happens shows nothing
/// about it.
#[derive(Default)]
pub(crate) struct Tally(Mutex<BTreeMap<&'static str, u64>>);

impl Tally {
    pub(crate) fn count(&self, event: &'static str) {
        self.count_many(event, 1);
    }

    pub(crate) fn count_many(&self, event: &'static str, n: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *all.entry(event).or_default() += n;
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().expect("a number"))
}

/// Plays `scene` under many schedules. Afterwards everything in `must` has happened, or the scene fails.
pub(crate) fn explore(
    name: &'static str,
    must: &[&'static str],
    scene: impl Fn(&Arc<Tally>) + Send + Sync + 'static,
) {
    let tally = Arc::new(Tally::default());
    let play: Arc<dyn Fn() + Send + Sync> = Arc::new({
        let tally = Arc::clone(&tally);
        move || scene(&tally)
    });
    if let Ok(schedule) = std::env::var("LEASE_REPLAY") {
        let kind = "replayed";
        match schedule.parse() {
            Ok(seed) => run(&play, name, kind, RandomScheduler::new_from_seed(seed, 1)),
            Err(_) => {
                let replay = ReplayScheduler::new_from_encoded(schedule.trim());
                run(&play, name, kind, replay);
            }
        }
        println!("{name}: one schedule, as asked for");
        return;
    }
    for seed in kept(name) {
        run(&play, name, "kept", RandomScheduler::new_from_seed(seed, 1));
    }
    let seed = number("LEASE_SEED").unwrap_or_else(|| RandomState::new().hash_one(name));
    // Nothing but the seed and the schedule may decide, or nothing could be replayed.
    let again = RandomScheduler::new_from_seed(seed, TWICE);
    let again = UncontrolledNondeterminismCheckScheduler::new(again);
    run(&play, name, "repeated", again);
    let wanted = number("LEASE_SCHEDULES").map_or(FEW, |n| n as usize);
    let start = Instant::now();
    let mut left = [wanted.div_ceil(2), wanted / 2];
    let mut round = seed;
    while left != [0, 0] {
        for (kind, left) in ["random", "PCT"].into_iter().zip(&mut left) {
            let n = (*left).min(ROUND);
            if n == 0 {
                continue;
            }
            match kind {
                "random" => run(&play, name, kind, RandomScheduler::new_from_seed(round, n)),
                _ => run(
                    &play,
                    name,
                    kind,
                    PctScheduler::new_from_seed(round, DEPTH, n),
                ),
            }
            *left -= n;
            round = round.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
        }
    }
    let all = tally.0.lock().unwrap();
    let seconds = start.elapsed().as_secs_f64();
    println!("{name}: {wanted} schedules, {seconds:.1} s, seed {seed}, {all:?}");
    for event in must {
        let happened = all.get(event).copied().unwrap_or(0);
        assert!(
            happened > 0,
            "{name}: not once in {wanted} schedules: {event}"
        );
    }
}

fn run(
    play: &Arc<dyn Fn() + Send + Sync>,
    name: &str,
    kind: &str,
    scheduler: impl Scheduler + 'static,
) {
    let mut config = Config::new();
    // Far more than any scene takes: whoever goes round in circles fails.
    config.max_steps = MaxSteps::FailAfter(100_000);
    config.silence_warnings = true;
    config
        .ungraceful_shutdown_config
        .immediately_return_on_panic = true;
    let play = Arc::clone(play);
    let runner = Runner::new(scheduler, config);
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| runner.run(move || play()))) {
        // A deadlock is told nowhere else.
        let told = panic.downcast_ref::<String>().map(String::as_str);
        let told = told.or(panic.downcast_ref::<&str>().copied()).unwrap_or("");
        eprintln!("{name} failed under a {kind} schedule: {told}");
        resume_unwind(panic);
    }
}
