//! The report: what happened, what must have, and the verdict.

use std::collections::BTreeMap;
use std::process::{ExitCode, ExitStatus};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use layout_lease::Barrier;

use crate::litmus::{Outcomes, Shape};
use crate::tally::{Tally, add};
use crate::{Args, Mode, SKIPPED, Scenes};

/// How often a line says how far the run is.
const SAY: Duration = Duration::from_secs(60);

/// What a process without membarrier must have seen in its short time.
const REFUSED: [&str; 6] = [
    "pins",
    "pins refused",
    "breaks",
    "breaks that waited",
    "proofs in hand",
    "blocks freed",
];

/// The count of those.
const WITHOUT: &str = "processes without membarrier";

pub(crate) struct Report {
    began: Instant,
    said: Duration,
    /// Sums that belong to the run.
    named: Vec<&'static str>,
    litmus: BTreeMap<(&'static str, &'static str), Row>,
    /// Other processes that failed, and games that found something.
    failed: Vec<String>,
    /// So short that a litmus need not have gone both ways.
    short: bool,
}

/// All rounds of one litmus.
#[derive(Default)]
struct Row {
    sum: Outcomes,
    /// When the first forbidden outcome was there, in time of the run.
    first: Option<Duration>,
}

impl Report {
    pub(crate) fn new(args: &Args) -> Self {
        let games = args.scenes != Scenes::Litmus && args.mode != Mode::Refused;
        let all = Tally::default();
        let mut named: Vec<_> = all.counts().into_iter().map(|(name, _)| name).collect();
        named.retain(|name| match *name {
            WITHOUT => args.refuse.is_none() && matches!(args.mode, Mode::All | Mode::Refused),
            _ if args.refuse.is_some() => games && REFUSED.contains(name),
            _ => games,
        });
        Report {
            began: Instant::now(),
            said: Duration::ZERO,
            named,
            litmus: BTreeMap::new(),
            failed: Vec::new(),
            short: args.refuse.is_some(),
        }
    }

    /// There must be rounds of this litmus.
    pub(crate) fn expect(&mut self, shape: Shape, barrier: Barrier) {
        self.row(shape, barrier);
    }

    /// Rounds of a litmus are over. `first`: when the first forbidden outcome was there.
    pub(crate) fn litmus(
        &mut self,
        shape: Shape,
        barrier: Barrier,
        outcomes: Option<Outcomes>,
        first: Option<Duration>,
    ) {
        match outcomes {
            Some(outcomes) => {
                let row = self.row(shape, barrier);
                row.sum.add(outcomes);
                row.first = row.first.or(first);
            }
            None if self.litmus.is_empty() => {}
            None => {
                println!("SKIPPED: the litmus wants two processors");
                self.litmus.clear();
            }
        }
    }

    fn row(&mut self, shape: Shape, barrier: Barrier) -> &mut Row {
        let shape = match shape {
            Shape::Pin => "pin",
            Shape::Unpin => "unpin",
        };
        let mode = match barrier {
            Barrier::Asymmetric => "asymmetric",
            Barrier::Fenced => "fenced",
            _ => "changing over",
        };
        self.litmus.entry((shape, mode)).or_default()
    }

    /// A game is over: its counts are the run's, and so is what it found.
    pub(crate) fn game(&mut self, name: &str, game: &Tally, run: &Tally) {
        for ((_, game), (_, run)) in game.counts().into_iter().zip(run.counts()) {
            add(run, game.load(Relaxed));
        }
        for (game, run) in game.found().into_iter().zip(run.found()) {
            add(run, game.load(Relaxed));
        }
        if let Some(first) = game.first.lock().take() {
            self.failed.push(format!("{name}: {first}"));
        }
    }

    /// A process without membarrier is over. How many there have been: none, if there can be none here.
    pub(crate) fn refused(&mut self, when: &str, status: ExitStatus) -> u64 {
        if status.code() == Some(i32::from(SKIPPED)) {
            self.named.retain(|name| *name != WITHOUT);
            return 0;
        }
        if !status.success() {
            self.failed
                .push(format!("without membarrier from {when}: {status}"));
        }
        1
    }

    pub(crate) fn violations(&self, tally: &Tally) -> u64 {
        let litmus = self.litmus.values().map(|row| row.sum.forbidden);
        litmus.sum::<u64>() + tally.violations()
    }

    /// Whether something is broken, and it is not for a litmus to show each of its shapes.
    pub(crate) fn has_found_enough(&self, tally: &Tally) -> bool {
        self.violations(tally) > 0 && !self.named.is_empty()
    }

    /// Whether nothing is left to be shown: it is about the litmus alone, and each has found something.
    pub(crate) fn has_found_everything(&self) -> bool {
        let found = |row: &Row| row.sum.forbidden > 0;
        self.named.is_empty() && !self.litmus.is_empty() && self.litmus.values().all(found)
    }

    /// What belongs to the run and has not happened.
    pub(crate) fn never(&self, tally: &Tally) -> Vec<String> {
        let mut never: Vec<_> = tally
            .never(&self.named)
            .into_iter()
            .map(String::from)
            .collect();
        for ((shape, mode), Row { sum, .. }) in &self.litmus {
            let ways = [
                (sum.holder_first, "rounds that the holder won"),
                (sum.breaker_first, "rounds that the breaker won"),
            ];
            let ways = if self.short { &[][..] } else { &ways };
            let apart = [(sum.apart, "rounds on two processors")];
            let none = apart.iter().chain(ways).filter(|(n, _)| *n == 0);
            never.extend(none.map(|(_, what)| format!("{what} of {shape}, {mode}")));
        }
        never
    }

    /// A line every minute.
    pub(crate) fn progress(&mut self, now: Duration, tally: &Tally) {
        if now < self.said + SAY {
            return;
        }
        self.said = now;
        let rounds: u64 = self.litmus.values().map(|row| row.sum.rounds).sum();
        println!(
            "{:>6.0} s: {rounds} litmus rounds, {} pins, {} breaks, {} violations",
            now.as_secs_f64(),
            tally.pins.load(Relaxed),
            tally.breaks.load(Relaxed),
            self.violations(tally),
        );
    }

    pub(crate) fn verdict(&self, running: Duration, tally: &Tally) -> ExitCode {
        println!(
            "{:<6} {:<14} {:>10} {:>10} {:>10} {:>10} {:>8} {:>9} {:>6}",
            "litmus",
            "mode",
            "rounds",
            "apart",
            "holder",
            "breaker",
            "neither",
            "forbidden",
            "first"
        );
        for ((shape, mode), Row { sum, first }) in &self.litmus {
            let first = first.map_or("-".into(), |first| format!("{:.1} s", first.as_secs_f64()));
            println!(
                "{shape:<6} {mode:<14} {:>10} {:>10} {:>10} {:>10} {:>8} {:>9} {first:>6}",
                sum.rounds,
                sum.apart,
                sum.holder_first,
                sum.breaker_first,
                sum.neither,
                sum.forbidden
            );
        }
        println!(
            "apart: on two processors; holder, breaker: who was first; forbidden: both, or nobody woken"
        );
        tally.report("counts", &self.named);
        let (running, wall) = (running.as_secs_f64(), self.began.elapsed().as_secs_f64());
        let violations = self.violations(tally);
        println!("{running:.1} s running, of {wall:.1} s; {violations} violations");
        if let Some(first) = tally.first.lock().take() {
            println!("FAILED: lives: {first}");
        }
        self.failed
            .iter()
            .for_each(|what| println!("FAILED: {what}"));
        if violations > 0 || !self.failed.is_empty() {
            return ExitCode::from(1);
        }
        let never = self.never(tally);
        if !never.is_empty() {
            println!("NOTHING SHOWN: never happened: {never:?}");
            return ExitCode::from(2);
        }
        println!("nothing went wrong");
        ExitCode::SUCCESS
    }
}
