//! The tally: how much of everything there was. Zero of anything is a failure.

use std::io::Write;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;

use crate::engine::Violation;

macro_rules! counts {
    ($($name:ident: $text:literal,)*) => {
        #[derive(Default)]
        pub(crate) struct Tally {
            $(pub(crate) $name: AtomicU64,)*
            pub(crate) poison: AtomicU64,
            pub(crate) generation: AtomicU64,
            pub(crate) moved: AtomicU64,
            pub(crate) scribbled: AtomicU64,
            pub(crate) first: Mutex<Option<Violation>>,
        }

        impl Tally {
            /// All that is counted, violations aside.
            pub(crate) fn counts(&self) -> Vec<(&'static str, &AtomicU64)> {
                vec![$(($text, &self.$name)),*]
            }
        }
    };
}

counts! {
    pins: "pins",
    waited_pins: "pins that waited",
    refused: "pins refused",
    pins_cancelled: "waiting pins cancelled",
    handed: "pins handed on",
    orphans: "pins of exited threads",
    breaks: "breaks",
    breaks_waited: "breaks that waited",
    proofs: "proofs in hand",
    splits: "proofs split",
    busy: "try_breaks refused",
    timeouts: "timeouts",
    late: "freed after a timeout",
    cancels: "breaks cancelled",
    side_by_side: "breaks side by side",
    awaited: "operations awaited",
    punched: "punch_hole",
    zeroed: "zero_range",
    truncated: "truncate",
    collapsed: "collapse_range",
    inserted: "insert_range",
    freed: "blocks freed",
    allocated: "blocks allocated",
    leases: "leases",
    leases_cancelled: "waiting leases cancelled",
    recalls: "leases recalled",
    slept: "leases recalled asleep",
    shrunk: "leases shrunk",
    lease_breaks: "breaks of leases",
    submitted: "tokens submitted",
    redeemed: "tokens redeemed",
    extended: "pins extended",
    extended_through: "extended through a break",
    own: "holders who break",
    several: "breaks of several ranges",
    retired: "retirements",
    retired_waited: "retirements waited for",
    reclaimed: "pages reclaimed",
    visitors: "threads come and gone",
    panicked: "holders that panicked",
    forgotten: "pins forgotten",
    forgotten_leases: "leases forgotten",
    forgotten_breaks: "breaks and proofs forgotten",
    found: "lost tokens found",
    polled: "futures polled to their end",
    dropped: "waiting futures dropped",
    woken: "wakes of tasks",
    together: "breaks of two guards",
    closed: "guards closed",
    closed_busy: "guards closed in use",
    told: "refused for good",
    outlived: "guards dropped under pins",
    forks: "forks",
    stutters: "changes of barrier forced",
    refused_barriers: "processes without membarrier",
    written: "words written",
    checked: "words checked",
}

impl Tally {
    pub(crate) fn violation(&self, violation: Violation) {
        let count = match violation {
            Violation::Poison { .. } => &self.poison,
            Violation::Generation { .. } => &self.generation,
            Violation::Moved { .. } => &self.moved,
            Violation::Scribbled { .. } => &self.scribbled,
        };
        if count.fetch_add(1, Relaxed) == 0 {
            self.first.lock().get_or_insert(violation);
        }
    }

    pub(crate) fn violations(&self) -> u64 {
        self.found().iter().map(|count| count.load(Relaxed)).sum()
    }

    /// The violations of each kind.
    pub(crate) fn found(&self) -> [&AtomicU64; 4] {
        [&self.poison, &self.generation, &self.moved, &self.scribbled]
    }

    /// What counts: what is named.
    fn counted(&self, named: &[&str]) -> Vec<(&'static str, u64)> {
        let rows = self.counts().into_iter();
        rows.filter(|(text, _)| named.contains(text))
            .map(|(text, count)| (text, count.load(Relaxed)))
            .collect()
    }

    /// What counts and has never happened.
    pub(crate) fn never(&self, named: &[&str]) -> Vec<&'static str> {
        let rows = self.counted(named).into_iter();
        rows.filter(|(_, n)| *n == 0)
            .map(|(text, _)| text)
            .collect()
    }

    /// Prints the table, past the capture of the test harness, and returns what counts and has never
    /// happened.
    pub(crate) fn report(&self, head: &str, named: &[&str]) -> Vec<&'static str> {
        let rows = self.counted(named);
        let mut table = format!("{head}\n");
        for three in rows.chunks(3) {
            for (text, n) in three {
                table += &format!("  {n:>12} {text:<24}");
            }
            table.truncate(table.trim_end().len());
            table.push('\n');
        }
        let [poison, generation, moved, scribbled] = self.found().map(|it| it.load(Relaxed));
        table += &format!(
            "  violations: {poison} words of poison, {generation} of another generation, \
             {moved} pages moved under a pin, {scribbled} words scribbled into freed blocks\n"
        );
        std::io::stderr().write_all(table.as_bytes()).ok();
        self.never(named)
    }
}

pub(crate) fn add(count: &AtomicU64, n: u64) {
    count.fetch_add(n, Relaxed);
}
