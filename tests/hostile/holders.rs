//! More players: those who hold pages for long, pass tokens on, want more than they have, or retire pages
//! and go on.

use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use futures_lite::future;
use layout_lease::{LayoutLease, PageRange};
use rand::Rng;

use crate::engine::{PAGES, View};
use crate::game::{Game, InFlight, Player, Request};
use crate::tally::add;

impl Game {
    /// One lease more, or one fewer, of these pages.
    fn book(&self, pages: PageRange, more: bool) {
        for page in pages.start()..pages.end().min(PAGES) {
            let leased = &self.leased[page as usize];
            // Relaxed: that it is seen is the guard's promise (I7).
            match more {
                true => leased.fetch_add(1, Relaxed),
                false => leased.fetch_sub(1, Relaxed),
            };
        }
    }
}

impl Player<'_> {
    // ---- leases -----------------------------------------------------------------------------------

    /// A lease, by any of the ways to one; or none.
    fn lease(&mut self, pages: PageRange) -> Option<LayoutLease> {
        let Game { guard, tally, .. } = self.game;
        let mut leasing = guard.lease(pages).labelled("a buffer");
        let lease = match self.rng.random_range(0..4) {
            0 => leasing.wait(),
            1 => future::block_on(leasing),
            _ => {
                let limit = self.micros(200);
                let Some(lease) = leasing.wait_timeout(limit) else {
                    add(&tally.leases_cancelled, 1);
                    return None;
                };
                lease
            }
        };
        add(&tally.leases, 1);
        Some(lease.expect("the guard is open"))
    }

    /// Holds a few pages until they are wanted, looks at them all the time, and gives back what is wanted,
    /// or everything.
    pub(crate) fn hold(&mut self) {
        let game = self.game;
        let pages = self.range(10);
        let Some(mut lease) = self.lease(pages) else {
            return;
        };
        game.book(pages, true);
        let mut view = game.guard.map().look_up(pages);
        for _ in 0..self.rng.random_range(1..60) {
            game.check(&view);
            let Some(wanted) = self.listen(&lease) else {
                continue;
            };
            add(&game.tally.recalls, 1);
            game.check(&view);
            let held = lease.range();
            let (low, high) = (held.start()..wanted.start(), wanted.end()..held.end());
            let kept = match self.rng.random_range(0..3) {
                0 => low,
                1 => high,
                _ => break,
            };
            let Ok(kept) = PageRange::new(kept.start, kept.end) else {
                break;
            };
            // What is given back may be gone at once.
            view.keep(kept);
            game.book(held, false);
            game.book(kept, true);
            lease.shrink_to(kept).expect("a part");
            add(&game.tally.shrunk, 1);
        }
        game.check(&view);
        game.book(lease.range(), false);
        drop(lease);
        self.rest();
    }

    /// What is wanted of the lease, by any of the ways to hear of it.
    fn listen(&mut self, lease: &LayoutLease) -> Option<PageRange> {
        match self.rng.random_range(0..8) {
            0 => {
                let limit = self.micros(200);
                let wanted = lease.recalled().wait_timeout(limit)?;
                add(&self.game.tally.slept, 1);
                Some(wanted)
            }
            1 => future::block_on(future::poll_once(lease.recalled())),
            _ if lease.is_recalled() => lease.recalled().wait_timeout(Duration::ZERO),
            _ => None,
        }
    }

    // ---- pins -------------------------------------------------------------------------------------

    /// Requests whose pins travel as numbers.
    pub(crate) fn submit(&mut self) {
        let game = self.game;
        for _ in 0..16 {
            let pages = self.range(4);
            let Some(pin) = self.pin(pages) else { continue };
            let view = game.guard.map().look_up(pages);
            game.check(&view);
            let number = pin.into_token().to_u64();
            add(&game.tally.submitted, 1);
            let request = InFlight(Request::Number(number), view);
            self.device.send(request).expect("the device is there");
        }
        self.rest();
    }

    /// Finds in the middle that it needs other pages, too.
    fn want_more(&mut self) {
        let game = self.game;
        let pages = self.range(4);
        let Some(pin) = self.pin(pages) else { return };
        let view = game.guard.map().look_up(pages);
        self.stare(&view);
        let more = self.range(6);
        let through = pin.is_breaking();
        let Ok(extension) = pin.extend(&game.guard, more) else {
            return;
        };
        add(&game.tally.extended, 1);
        add(&game.tally.extended_through, u64::from(through));
        let wider = game.guard.map().look_up(more);
        self.stare(&wider);
        if self.chance(50) {
            game.check(&view);
            drop(pin);
            self.stare(&wider);
        }
        drop(extension);
    }

    fn stare(&mut self, view: &View) {
        for _ in 0..self.rng.random_range(1..6) {
            self.game.check(view);
            if self.chance(20) {
                thread::yield_now();
            }
        }
    }

    // ---- those who take blocks away ---------------------------------------------------------------

    /// Retires pages that others, and perhaps it itself, still look at, and goes on.
    pub(crate) fn retire(&mut self) {
        let Game { guard, tally, .. } = self.game;
        let pages = self.range(4);
        let Some(pin) = self.pin(pages) else { return };
        guard.map().allocate(pages);
        let view = guard.map().look_up(pages);
        let mut retired = match self.chance(30) {
            true => guard.retire(pages),
            false => guard.retire_after(pages, self.game.log.fetch_add(1, Relaxed) + 1),
        };
        add(&tally.retired, 1);
        self.stare(&view);
        drop(pin);
        match self.rng.random_range(0..4) {
            0 => {
                retired.wait().expect("freed");
                add(&tally.retired_waited, 1);
            }
            1 => {
                let limit = self.micros(100);
                if let Some(freed) = retired.wait_timeout(limit) {
                    freed.expect("freed");
                }
            }
            _ => drop(retired),
        }
        self.rest();
    }

    /// Breaks of the other kinds, and holders who break or extend what they hold.
    pub(crate) fn mix(&mut self) {
        let Game { guard, tally, .. } = self.game;
        let pages = self.range(6);
        match self.rng.random_range(0..5) {
            0 => {
                let free = guard.break_leases(pages).wait().expect("open");
                add(&tally.lease_breaks, 1);
                for page in pages.start()..pages.end().min(PAGES) {
                    let leased = self.game.leased[page as usize].load(Relaxed);
                    assert_eq!(leased, 0, "page {page} is leased under {free:?}");
                }
            }
            1 => {
                let ranges = [pages, self.range(2), self.range(2)];
                let proof = guard.break_all(&ranges).wait().expect("open");
                add(&tally.several, 1);
                for pages in proof.ranges() {
                    proof.punch_hole(*pages).expect("covered");
                }
            }
            2 => {
                let Some(pin) = self.pin(pages) else { return };
                let breaking = pin.into_break(guard).expect("open");
                let proof = breaking.wait().expect("open");
                add(&tally.own, 1);
                self.under(proof, pages);
            }
            3 => self.want_more(),
            _ => {
                guard.punch_hole(pages).wait().expect("freed");
                add(&tally.punched, 1);
            }
        }
        guard.map().allocate(pages);
        self.rest();
    }
}
