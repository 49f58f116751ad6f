//! The disk: a block behind every page, overwritten at once under a proof, and what holders and proofs know
//! of each other without asking the crate.
//!
//! All of a schedule runs on one thread of the machine, so plain cells of atomics are enough, and none of
//! them is a point at which another thread may go on: those are [`step`]s, and whatever the crate does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use layout_lease::{BlockMap, Drained, OpError, PageRange};

/// Pages of a mapping in a scene.
pub(crate) const PAGES: u64 = 4;

/// Time passes: others may go on here.
pub(crate) fn step() {
    shuttle::thread::sleep(std::time::Duration::ZERO);
}

pub(crate) fn range(start: u64, end: u64) -> PageRange {
    PageRange::new(start, end).unwrap()
}

/// What is known of a page.
#[derive(Default)]
struct Page {
    /// Changes whenever its block is given to somebody else.
    generation: AtomicU64,
    pins: AtomicU64,
    leases: AtomicU64,
    /// Proofs that cover it.
    proofs: AtomicU64,
    /// Proofs that it has no leases.
    lease_proofs: AtomicU64,
    /// Its block is being overwritten.
    writers: AtomicU64,
}

fn add(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

fn sub(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) - 1, Relaxed);
}

/// The blocks of one mapping; they outlive it, so that late holders can tell.
#[derive(Default)]
pub(crate) struct Blocks {
    pages: [Page; PAGES as usize],
    /// Breaks that have been called, with their numbers, and have not begun to reopen.
    closings: Mutex<Vec<(u64, PageRange)>>,
    called: AtomicU64,
    /// The map has been dropped.
    gone: AtomicBool,
}

/// A kind of hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    Pin,
    Lease,
}

/// The blocks that a holder found behind its pages.
#[derive(Clone)]
pub(crate) struct Stamp(Vec<(u64, u64)>);

impl Blocks {
    fn page(&self, page: u64) -> &Page {
        &self.pages[page as usize]
    }

    fn each(&self, range: PageRange) -> impl Iterator<Item = (u64, &Page)> {
        (range.start()..range.end()).map(|page| (page, self.page(page)))
    }

    /// Somebody holds `range` from now on, and looks its blocks up.
    pub(crate) fn held(&self, range: PageRange, hold: Hold) -> Stamp {
        let stamp = self.each(range).map(|(page, state)| {
            add(match hold {
                Hold::Pin => &state.pins,
                Hold::Lease => &state.leases,
            });
            (page, state.generation.load(Relaxed))
        });
        let stamp = Stamp(stamp.collect());
        self.check(&stamp, hold);
        stamp
    }

    /// The holder's blocks must still be its own.
    pub(crate) fn check(&self, stamp: &Stamp, hold: Hold) {
        assert!(!self.gone.load(Relaxed), "violation: the map has gone");
        for (page, generation) in &stamp.0 {
            let state = self.page(*page);
            let mut enemies = state.proofs.load(Relaxed) + state.writers.load(Relaxed);
            if hold == Hold::Lease {
                enemies += state.lease_proofs.load(Relaxed);
            }
            let now = state.generation.load(Relaxed);
            assert!(
                now == *generation && enemies == 0,
                "violation: page {page} was pulled from under its holder"
            );
        }
    }

    /// `range` of it is not held any more.
    pub(crate) fn let_go(&self, range: PageRange, hold: Hold) {
        for (_, state) in self.each(range) {
            sub(match hold {
                Hold::Pin => &state.pins,
                Hold::Lease => &state.leases,
            });
        }
    }

    /// A break of `range` has returned (I1). Its number, for [`reopens`](Self::reopens).
    pub(crate) fn closed(&self, range: PageRange) -> u64 {
        add(&self.called);
        let number = self.called.load(Relaxed);
        self.closings.lock().unwrap().push((number, range));
        number
    }

    /// It is about to be dropped.
    pub(crate) fn reopens(&self, number: u64) {
        let mut all = self.closings.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(n, _)| *n != number);
    }

    /// The closings of pages of `range` that have returned.
    pub(crate) fn closings_of(&self, range: PageRange) -> Vec<u64> {
        let all = self.closings.lock().unwrap();
        let overlapping = all.iter().filter(|(_, closed)| closed.overlaps(&range));
        overlapping.map(|(number, _)| *number).collect()
    }

    /// Something has been granted to one who came after the closings `before`: none of them may be there
    /// still (I1).
    pub(crate) fn granted_after(&self, before: &[u64]) {
        let all = self.closings.lock().unwrap();
        let there = all.iter().find(|(number, _)| before.contains(number));
        assert!(there.is_none(), "violation: granted through {there:?}");
    }

    /// There is a proof of `range` from now on (I2, I3).
    pub(crate) fn proved(&self, range: PageRange) {
        for (page, state) in self.each(range) {
            let others = state.pins.load(Relaxed) + state.leases.load(Relaxed);
            let proofs = state.proofs.load(Relaxed) + state.writers.load(Relaxed);
            assert!(
                others == 0,
                "violation: proof of page {page}, which is held"
            );
            assert!(proofs == 0, "violation: two proofs of page {page}");
            add(&state.proofs);
        }
    }

    pub(crate) fn unproved(&self, range: PageRange) {
        for (_, state) in self.each(range) {
            sub(&state.proofs);
        }
    }

    /// There is a proof that nobody has a lease of `range`.
    pub(crate) fn free_of_leases(&self, range: PageRange) {
        for (page, state) in self.each(range) {
            let leases = state.leases.load(Relaxed);
            assert!(leases == 0, "violation: page {page} is leased");
            add(&state.lease_proofs);
        }
    }

    pub(crate) fn free_for_leases(&self, range: PageRange) {
        for (_, state) in self.each(range) {
            sub(&state.lease_proofs);
        }
    }

    /// The blocks of `range` go to somebody else, who writes at once.
    pub(crate) fn overwrite(&self, range: PageRange) {
        let alone = |when| {
            for (page, state) in self.each(range) {
                let holders = state.pins.load(Relaxed) + state.leases.load(Relaxed);
                let writers = state.writers.load(Relaxed);
                assert!(
                    holders == 0 && writers <= 1,
                    "violation: page {page} freed {when} its holder"
                );
            }
        };
        for (_, state) in self.each(range) {
            add(&state.writers);
            add(&state.generation);
        }
        alone("under");
        step();
        alone("before");
        for (_, state) in self.each(range) {
            sub(&state.writers);
        }
    }

    /// At the end of a scene: everybody has gone.
    pub(crate) fn balanced(&self) {
        for (page, state) in self.pages.iter().enumerate() {
            let left = [
                &state.pins,
                &state.leases,
                &state.proofs,
                &state.lease_proofs,
                &state.writers,
            ];
            let left = left.map(|counter| counter.load(Relaxed));
            assert_eq!(left, [0; 5], "page {page}");
        }
        assert!(self.closings.lock().unwrap().is_empty());
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }
}

/// The engine's block map.
pub(crate) struct Disk(pub(crate) Arc<Blocks>);

impl Drop for Disk {
    fn drop(&mut self) {
        let held = |state: &Page| state.pins.load(Relaxed) + state.leases.load(Relaxed) > 0;
        if !std::thread::panicking() {
            assert!(
                !self.0.pages.iter().any(held),
                "violation: the map is dropped under holders"
            );
        }
        self.0.gone.store(true, Relaxed);
    }
}

impl BlockMap for Disk {
    type Error = std::convert::Infallible;

    fn punch_hole(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<Self::Error>> {
        if !proof.is_of(self) {
            return Err(OpError::WrongMapping);
        }
        if !proof.covers(pages) {
            return Err(OpError::NotCovered);
        }
        self.0.overwrite(pages);
        Ok(pages.len())
    }
}
