//! The resizer: takes parts of the pool away under load, uses the memory for something else, and gives it
//! back to the system; then the pool may have it again.

use std::thread;
use std::time::{Duration, Instant};

use layout_lease::{HolderKind, PageRange};
use rand::Rng;
use rand::rngs::SmallRng;
use std::sync::atomic::Ordering;

use crate::ring::{PAGES, WORDS};
use crate::{Outcome, Scene};

/// The longest of the random sleeps, in microseconds: with the memory, and without.
const NAP: u64 = 500;

/// The most buffers that one break takes.
const MOST: usize = 8;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resizes {
    pub(crate) breaks: u64,
    /// Pins that breaks waited for; among them, those of requests that had been cancelled or dropped.
    pub(crate) pins: u64,
    pub(crate) abandoned: u64,
    /// Leases that were recalled.
    pub(crate) leases: u64,
    pub(crate) longest: Duration,
    /// Pages that went back to the system.
    pub(crate) pages: u64,
    /// Bytes of others that reached memory after a break had taken it.
    pub(crate) hit: u64,
}

/// The word at every place of a page that has been taken away.
fn stamp(page: u64, generation: u64) -> u64 {
    0xffff_0000_0000_0000 | (generation << 16) | page
}

pub(crate) fn run(scene: &Scene, until: Instant, random: &mut SmallRng) -> Outcome<Resizes> {
    let nap = |random: &mut SmallRng| {
        thread::sleep(Duration::from_micros(random.random_range(0..NAP)));
    };
    let mut done = Resizes::default();
    while Instant::now() < until {
        nap(random);
        let first = random.random_range(0..scene.buffers);
        let count = random.random_range(1..=MOST.min(scene.buffers - first));
        let (start, end) = (first as u64 * PAGES, (first + count) as u64 * PAGES);
        let pages = PageRange::new(start, end)?;

        let began = Instant::now();
        let breaking = scene.guard.break_layouts(pages); // recalls the leases
        for holder in breaking.holders() {
            match holder.kind() {
                HolderKind::Lease => done.leases += 1,
                _ => {
                    done.pins += 1;
                    let n = (holder.range().start() / PAGES) as usize;
                    done.abandoned += u64::from(scene.abandoned[n].load(Ordering::Relaxed));
                }
            }
        }
        let proof = breaking.wait()?;
        done.breaks += 1;
        done.longest = done.longest.max(began.elapsed());

        // No request, and no buffer: somebody else's memory.
        for page in start..end {
            scene.memory.fill(page, |_| stamp(page, done.breaks));
        }
        nap(random);
        for page in start..end {
            let wrong = |_| stamp(page, done.breaks);
            done.hit += scene.memory.wrong(page, WORDS, wrong);
        }
        scene.memory.give_back(pages, &proof)?;
        done.pages += pages.len();
        drop(proof);
    }
    Ok(done)
}
