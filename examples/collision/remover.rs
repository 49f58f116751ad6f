//! The remover: frees all pages by one of the five operations, hands their blocks to somebody else, and
//! looks whether anything still arrives there.

use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use layout_lease::maps::ExtentMap;
use layout_lease::{BlockOp, LayoutGuard, PageRange};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::{Outcome, PAGES, Scene};

/// The length of the mapping at the beginning of each round, in pages.
const LEN: u64 = 4 * PAGES;

/// The longest of the random sleeps, in both modes: between allocating and freeing, and between handing
/// the blocks over and looking at them.
const NAP: u64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Op {
    Truncate,
    Punch,
    Collapse,
    Insert,
    Zero,
}

impl Op {
    /// The operation on all pages that the device reads into.
    fn start(self, guard: &LayoutGuard<ExtentMap>) -> BlockOp<'_, ExtentMap> {
        match self {
            Op::Truncate => guard.truncate(0),
            Op::Punch => guard.punch_hole(0..PAGES),
            Op::Collapse => guard.collapse_range(0..PAGES),
            Op::Insert => guard.insert_range(0..PAGES),
            Op::Zero => guard.zero_range(0..PAGES),
        }
    }

    /// The pages whose blocks were the device's before: those that get them next. An insert frees
    /// nothing: the blocks go to later pages at once.
    fn heirs(self) -> (u64, u64) {
        match self {
            Op::Insert => (PAGES, 2 * PAGES),
            _ => (2 * PAGES, 3 * PAGES),
        }
    }
}

/// What a remover has done and seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Removals {
    pub(crate) rounds: u64,
    /// Breaks that found somebody in the way.
    pub(crate) breaks: u64,
    /// The pins that were in the way: waited for, or ignored.
    pub(crate) pins: u64,
    pub(crate) longest: Duration,
    /// Bytes that reached a block after it had been freed.
    pub(crate) hit: u64,
}

/// The word at every place of a block that belongs to the heirs.
fn stamp(block: u64, generation: u64) -> u64 {
    0xb10c_0000_0000_0000 | (generation << 16) | block
}

pub(crate) fn run(
    scene: &Scene,
    op: Op,
    until: Instant,
    random: &mut SmallRng,
) -> Outcome<Removals> {
    let mut nap = || thread::sleep(Duration::from_micros(random.random_range(0..NAP)));
    let mut done = Removals::default();
    let (guard, map) = (&scene.guard, scene.guard.map());
    let (start, end) = op.heirs();
    let heirs = PageRange::new(start, end)?;
    while Instant::now() < until {
        // All blocks there are: so the heirs get just those that the device had.
        guard.truncate(LEN).wait()?;
        map.allocate(0..PAGES)?;
        nap();

        let began = Instant::now();
        let freeing = op.start(guard);
        let pins = scene.in_the_way().len() as u64;
        freeing.wait()?;
        if pins > 0 {
            done.breaks += 1;
            done.pins += pins;
            done.longest = done.longest.max(began.elapsed());
        }

        map.allocate(heirs)?;
        let blocks: Vec<u64> = (start..end).filter_map(|page| map.lookup(page)).collect();
        for &block in &blocks {
            scene.arena.fill(block, stamp(block, done.rounds));
        }
        nap();
        for &block in &blocks {
            let stamp = stamp(block, done.rounds);
            done.hit += scene.arena.wrong(block, |_, word| word == stamp);
        }
        guard.punch_hole(heirs).wait()?;
        done.rounds += 1;
    }
    Ok(done)
}
