//! What the benches share.
//!
//! A [`Group`] is a set of cases that are compared with each other. They take turns: A B C, B C A, C A B,
//! and so on for some rounds. So what disturbs the machine for a while disturbs all of them, and a ratio is taken
//! within one round. Every round of every case becomes one line in `target/bench-results/<bench>.jsonl`;
//! `scripts/bench_report.py` reads them. Then criterion is shown each case, for its own report.
//!
//! `LEASE_BENCH_ROUNDS=50` is for a quick look: so many rounds of a millisecond, and nothing for criterion.
//!
//! Nothing here asserts a time. Without `--bench` (as under `cargo test`), with `--test`, or with
//! `LEASE_BENCH_SMOKE` set, everything runs once or twice and the numbers mean nothing.

#![allow(dead_code, reason = "each bench uses a part of it")]

pub(crate) mod cores;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode};
use layout_lease::{Barrier, LayoutGuard};

/// The three ways to pay for the barrier, by name.
pub(crate) const MODES: [(&str, Barrier); 3] = [
    ("asymmetric", Barrier::Asymmetric),
    ("fenced", Barrier::Fenced),
    ("adaptive", Barrier::Adaptive),
];

/// A guard without an engine, for the rest of the process.
pub(crate) fn guard(barrier: Barrier) -> &'static LayoutGuard<()> {
    Box::leak(Box::new(LayoutGuard::with_barrier((), barrier)))
}

/// A pin of one page, given back at once.
#[inline(always)]
pub(crate) fn pin_one_page(guard: &LayoutGuard<()>, page: u64) {
    drop(guard.try_pin(page..page + 1));
}

/// The whole break of one page that nobody holds: close, proof, reopen.
#[inline(always)]
pub(crate) fn break_one_page(guard: &LayoutGuard<()>, page: u64) {
    drop(guard.break_layouts(page..page + 1).wait());
}

/// `f`, `iters` times, with a counter that the compiler knows nothing about: the loop that every
/// one-thread case shares with its control.
#[inline(always)]
pub(crate) fn repeat(iters: u64, mut f: impl FnMut(u64)) -> Duration {
    let start = Instant::now();
    for i in 0..iters {
        f(black_box(i));
    }
    start.elapsed()
}

/// Resident bytes of this process, without those of files (its program).
pub(crate) fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("Linux tells them");
    let pages = |n| statm.split_whitespace().nth(n).and_then(|n| n.parse().ok());
    let all: u64 = pages(1).expect("resident pages");
    let of_files: u64 = pages(2).expect("shared pages");
    (all - of_files) * rustix::param::page_size() as u64
}

/// What one run of a case took.
pub(crate) struct Timing {
    /// For all its iterations together.
    pub(crate) elapsed: Duration,
    /// Further numbers of this run, written down as they are.
    pub(crate) also: Vec<(&'static str, f64)>,
}

impl From<Duration> for Timing {
    fn from(elapsed: Duration) -> Self {
        let also = Vec::new();
        Self { elapsed, also }
    }
}

/// One bench program: its file of results, and criterion.
pub(crate) struct Bench {
    name: &'static str,
    smoke: bool,
    /// For a quick look: so many rounds, and nothing for criterion.
    quick: Option<usize>,
    criterion: Criterion,
    out: BufWriter<File>,
}

impl Bench {
    pub(crate) fn start(name: &'static str) -> Self {
        let is_given = |arg: &str| std::env::args().any(|a| a == arg);
        let smoke = std::env::var_os("LEASE_BENCH_SMOKE").is_some()
            || is_given("--test")
            || !is_given("--bench");
        let dir = std::env::var_os("LEASE_BENCH_OUT").map(PathBuf::from);
        let dir = dir.unwrap_or_else(|| {
            let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or("target".into());
            let name = if smoke {
                "bench-smoke"
            } else {
                "bench-results"
            };
            PathBuf::from(target).join(name)
        });
        fs::create_dir_all(&dir).expect("the results need a folder");
        let file =
            File::create(dir.join(format!("{name}.jsonl"))).expect("the results need a file");
        // One-thread cases run on the first core; whatever else runs says where itself.
        cores::pin_to(0);
        Self {
            name,
            smoke,
            quick: std::env::var("LEASE_BENCH_ROUNDS")
                .ok()
                .and_then(|n| n.parse().ok()),
            criterion: Criterion::default()
                .warm_up_time(Duration::from_millis(100))
                .measurement_time(Duration::from_millis(400))
                .sample_size(10)
                .nresamples(2_000)
                .configure_from_args(),
            out: BufWriter::new(file),
        }
    }

    /// Whether only to show that everything runs.
    pub(crate) fn is_smoke(&self) -> bool {
        self.smoke
    }

    /// `full`, or `smoke` where only to show that everything runs.
    pub(crate) fn full_or<T>(&self, full: T, smoke: T) -> T {
        if self.smoke { smoke } else { full }
    }

    /// How many rounds, if `full` of them are right for a full run.
    pub(crate) fn rounds(&self, full: usize) -> usize {
        self.quick.unwrap_or(self.full_or(full, 2))
    }

    fn slice(&self, full: Duration) -> Duration {
        let quick = self.quick.map(|_| Duration::from_millis(1));
        quick.unwrap_or(self.full_or(full, Duration::from_micros(300)))
    }

    pub(crate) fn group<'b, 'c>(&'b mut self, name: impl Into<String>) -> Group<'b, 'c> {
        let rounds = self.rounds(31);
        let slice = self.slice(Duration::from_millis(25));
        Group {
            name: name.into(),
            cases: Vec::new(),
            rounds,
            slice,
            bench: self,
        }
    }

    /// Writes one line of numbers down.
    pub(crate) fn record(&mut self, group: &str, case: &str, numbers: &[(&str, f64)]) {
        let mut line = self.head(group, case);
        for (key, value) in numbers.iter().filter(|(_, value)| value.is_finite()) {
            write!(line, ",{key:?}:{value}").expect("a string takes everything");
        }
        self.write(line);
    }

    /// Writes a remark on a case down, for the report to print.
    pub(crate) fn remark(&mut self, group: &str, case: &str, remark: &str) {
        let mut line = self.head(group, case);
        write!(line, ",\"remark\":{remark:?}").expect("a string takes everything");
        self.write(line);
    }

    fn head(&self, group: &str, case: &str) -> String {
        // Debug output of plain ASCII is JSON.
        format!(
            "{{\"bench\":{:?},\"group\":{group:?},\"case\":{case:?}",
            self.name
        )
    }

    fn write(&mut self, line: String) {
        writeln!(self.out, "{line}}}").expect("the results can be written");
    }

    /// Shows criterion one case; `run` does so many iterations and says what they took. Criterion plans by
    /// what is timed, which may be a small part of what a case does: so `most` iterations at a time, which
    /// stand for as many as it wants.
    pub(crate) fn show_criterion(
        &mut self,
        group: &str,
        case: &str,
        most: u64,
        mut run: impl FnMut(u64) -> Duration,
    ) {
        if self.quick.is_some() {
            return;
        }
        let mut group = self
            .criterion
            .benchmark_group(format!("{}/{group}", self.name));
        group.sampling_mode(SamplingMode::Flat);
        group.bench_function(BenchmarkId::from_parameter(case), |b| {
            b.iter_custom(|iters| {
                // While it warms up it doubles what it wants until 100 ms have passed: too short a call, and the
                // number runs over.
                const LONG_ENOUGH: Duration = Duration::from_millis(5);
                let start = Instant::now();
                let (mut done, mut took) = (0, Duration::ZERO);
                while done < iters && start.elapsed() < LONG_ENOUGH {
                    let some = most.min(iters - done);
                    took += run(some);
                    done += some;
                }
                let each = took.as_secs_f64() / done as f64;
                // Criterion divides by it.
                Duration::from_secs_f64(each * iters as f64).max(Duration::from_nanos(1))
            });
        });
        group.finish();
    }

    /// The end of the program.
    pub(crate) fn finish(mut self) {
        self.out.flush().expect("the results can be written");
        self.criterion.final_summary();
    }
}

type Run<'c> = Box<dyn FnMut(u64) -> Timing + 'c>;

struct Case<'c> {
    name: String,
    run: Run<'c>,
}

/// Cases that are compared with each other.
pub(crate) struct Group<'b, 'c> {
    bench: &'b mut Bench,
    name: String,
    cases: Vec<Case<'c>>,
    rounds: usize,
    /// How long one case runs in one round, about.
    slice: Duration,
}

impl<'c> Group<'_, 'c> {
    /// One more case: `run` does so many iterations and says what they took.
    pub(crate) fn case<T: Into<Timing>>(
        &mut self,
        name: impl Into<String>,
        mut run: impl FnMut(u64) -> T + 'c,
    ) {
        self.cases.push(Case {
            name: name.into(),
            run: Box::new(move |iters| run(iters).into()),
        });
    }

    /// The control: what the loop itself costs.
    pub(crate) fn empty_loop(&mut self) {
        self.case("empty loop", |iters| repeat(iters, |_| ()));
    }

    /// One case for each mode: `iteration` is given the mode's guard and the number of the iteration.
    pub(crate) fn for_each_mode(
        &mut self,
        suffix: &str,
        iteration: impl Fn(&'static LayoutGuard<()>, u64) + Copy + 'c,
    ) {
        for (mode, barrier) in MODES {
            let guard = guard(barrier);
            self.case(format!("{mode}{suffix}"), move |iters| {
                repeat(iters, |i| iteration(guard, i))
            });
        }
    }

    /// Other than the usual number of rounds and length of a turn, for a full run.
    pub(crate) fn effort(&mut self, rounds: usize, slice: Duration) {
        self.rounds = self.bench.rounds(rounds);
        self.slice = self.bench.slice(slice);
    }

    /// Runs all cases, in turns, and then each for criterion.
    pub(crate) fn run(mut self) {
        let slice = self.slice;
        let count = self.cases.len();
        let iters: Vec<u64> = self
            .cases
            .iter_mut()
            .map(|c| calibrate(&mut c.run, slice))
            .collect();
        for round in 0..self.rounds {
            for turn in 0..count {
                let at = (round + turn) % count;
                let case = &mut self.cases[at];
                let timing = (case.run)(iters[at]);
                let ns = timing.elapsed.as_nanos() as f64 / iters[at] as f64;
                let mut numbers = vec![("round", round as f64), ("ns", ns)];
                numbers.extend(timing.also);
                self.bench.record(&self.name, &case.name, &numbers);
            }
        }
        for (case, most) in self.cases.iter_mut().zip(iters) {
            let run = |iters| (case.run)(iters).elapsed;
            self.bench.show_criterion(&self.name, &case.name, most, run);
        }
    }
}

/// How many iterations fill `slice`.
fn calibrate(run: &mut Run<'_>, slice: Duration) -> u64 {
    let mut iters = 1;
    loop {
        let start = Instant::now();
        let timed = run(iters).elapsed;
        // Much of a turn may be no part of what is timed: starting threads, say.
        let enough = 4 * slice.max(Duration::from_millis(10));
        if timed >= slice / 2 || start.elapsed() >= enough || iters >= 1 << 40 {
            return iters;
        }
        let factor = slice.as_secs_f64() / timed.as_secs_f64().max(1e-9);
        iters = (iters as f64 * factor.clamp(1.1, 16.0)).ceil() as u64;
    }
}
