//! The players: those who hold pins, and those who take the blocks away.

use std::collections::VecDeque;
use std::hint;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::future;
use layout_lease::{BlockOp, Drained, OpError, PagePin, PageRange, TryBreakError, TryPinError};
use rand::Rng;

use crate::engine::{Engine, PAGES};
use crate::game::{Game, InFlight, Part, Player, Request};
use crate::tally::add;

/// The page that games about one page are about.
const CLOSED: u64 = PAGES / 2;

type Proof<'g> = Drained<'g, Engine>;

impl<'a> Player<'a> {
    /// Does its part once.
    pub(crate) fn turn(&mut self, part: Part) {
        match part {
            Part::Read => self.read(),
            Part::Grow => self.grow(),
            Part::Flit => self.flit(),
            Part::PassBy => self.pass_by(),
            Part::Remove => self.remove(),
            Part::Nibble => self.nibble(),
            Part::Touch => self.touch(),
            Part::Snatch => self.snatch(),
            Part::Knock => self.knock(),
            Part::Juggle => self.juggle(),
            Part::Stream => self.stream(),
            Part::Strike => self.strike(),
            Part::Hold => self.hold(),
            Part::Submit => self.submit(),
            Part::Retire => self.retire(),
            Part::Mix => self.mix(),
        }
    }

    pub(crate) fn range(&mut self, longest: u64) -> PageRange {
        let start = self.rng.random_range(0..PAGES);
        let len = self.rng.random_range(1..=longest);
        PageRange::new(start, start + len).expect("a range")
    }

    pub(crate) fn micros(&mut self, most: u64) -> Duration {
        Duration::from_micros(self.rng.random_range(0..=most))
    }

    // ---- those who hold pins ----------------------------------------------------------------------

    /// A pin, by any of the ways to one; or none.
    pub(crate) fn pin(&mut self, pages: PageRange) -> Option<PagePin> {
        let (guard, tally) = (&self.game.guard, &self.game.tally);
        let way = self.rng.random_range(0..8);
        let pin = match guard.try_pin(pages) {
            Ok(pin) => pin,
            Err(TryPinError::Breaking) => {
                add(&tally.refused, 1);
                let mut waiting = guard.pin(pages);
                let pin = match way {
                    0..=2 => return None,
                    3 => waiting.wait(),
                    4 => future::block_on(waiting),
                    5 => match future::block_on(future::poll_once(&mut waiting)) {
                        Some(pin) => pin,
                        None => waiting.wait(),
                    },
                    _ => {
                        let limit = self.micros(100);
                        let Some(pin) = waiting.wait_timeout(limit) else {
                            add(&tally.pins_cancelled, 1);
                            return None;
                        };
                        pin
                    }
                };
                add(&tally.waited_pins, 1);
                pin.expect("the guard is open")
            }
            Err(error) => panic!("{error}"),
        };
        add(&tally.pins, 1);
        Some(pin)
    }

    /// Uses what a pin is for: looks at every word, and at most gives the pin to the device.
    fn use_pin(&mut self, pin: PagePin) {
        let game = self.game;
        let view = game.guard.map().look_up(pin.range());
        for round in 0..self.rng.random_range(1..6) {
            game.check(&view);
            if round == 1 && self.chance(30) {
                let value = self.rng.random();
                add(&game.tally.written, game.guard.map().write(&view, value));
            }
            if self.chance(4) {
                thread::yield_now();
            }
        }
        if self.chance(10) {
            match self.device.try_send(InFlight(Request::Pin(pin), view)) {
                Ok(()) => add(&game.tally.handed, 1),
                Err(full) => drop(full),
            }
        }
    }

    /// Pins a few pages, or all of them, and stares at them.
    fn read(&mut self) {
        let pages = match self.rng.random_range(0..40) {
            0 => PageRange::ALL,
            _ => self.range(6),
        };
        if self.chance(50) {
            self.clog();
        }
        match self.pin(pages) {
            Some(pin) => self.use_pin(pin),
            None => thread::yield_now(),
        }
    }

    /// Gives holes blocks, under a pin, and writes them.
    fn grow(&mut self) {
        let pages = self.range(12);
        if let Some(pin) = self.pin(pages) {
            self.game.guard.map().allocate(pages);
            self.use_pin(pin);
        }
        if self.chance(30) {
            thread::yield_now();
        }
    }

    /// Many short pins: up to four at once, of pages that the removers want and of others in turn, given
    /// back in any order. Never waits.
    fn flit(&mut self) {
        let game = self.game;
        let mut held = VecDeque::new();
        for _ in 0..64 {
            let pages = self.range(3);
            if self.chance(10) {
                self.clog();
            }
            match game.guard.try_pin(pages) {
                Ok(pin) => {
                    add(&game.tally.pins, 1);
                    let view = game.guard.map().look_up(pages);
                    game.check(&view);
                    held.push_back((pin, view));
                }
                Err(_) => add(&game.tally.refused, 1),
            }
            while held.len() > self.rng.random_range(0..4) {
                let out = match self.chance(50) {
                    true => held.pop_front(),
                    false => held.pop_back(),
                };
                if let Some((pin, view)) = out {
                    game.check(&view);
                    drop(pin);
                }
            }
        }
        // Perhaps with a pin in hand.
        thread::yield_now();
    }

    /// A thread that takes a pin, hands it on and exits: its slots go to the next one, pin and all.
    fn pass_by(&mut self) {
        let (guard, device) = (Arc::clone(&self.game.guard), self.device.clone());
        let pages = self.range(4);
        let passing = thread::spawn(move || {
            let Ok(pin) = guard.try_pin(pages) else {
                return false;
            };
            let view = guard.map().look_up(pages);
            device.send(InFlight(Request::Pin(pin), view)).is_ok()
        });
        let pinned = passing.join().expect("no panic");
        add(&self.game.tally.pins, u64::from(pinned));
        add(&self.game.tally.orphans, u64::from(pinned));
    }

    /// Pins one of two pages for about a microsecond, again and again: one side of a duel.
    fn touch(&mut self) {
        let game = self.game;
        let (mut pins, mut refused) = (0, 0);
        for _ in 0..64 {
            let page = self.rng.random_range(0..2);
            if self.chance(50) {
                self.clog();
            }
            match game.guard.try_pin(page..page + 1) {
                Ok(pin) => {
                    pins += 1;
                    let view = game.guard.map().look_up(pin.range());
                    for _ in 0..self.rng.random_range(1..128) {
                        game.check(&view);
                    }
                    match self.rng.random_range(0..100) {
                        0 => thread::yield_now(),
                        1..50 => self.clog(),
                        _ => {}
                    }
                    drop(pin);
                }
                Err(_) => refused += 1,
            }
            self.pause();
        }
        add(&game.tally.pins, pins);
        add(&game.tally.refused, refused);
    }

    // ---- those who take blocks away ---------------------------------------------------------------

    /// Starts one of the five operations.
    fn operation(&mut self, pages: PageRange) -> BlockOp<'a, Engine> {
        let Game { guard, tally, .. } = self.game;
        // The last three close everything behind: rarer, or there would be nothing else.
        match self.rng.random_range(0..20) {
            0..=9 => {
                add(&tally.punched, 1);
                guard.punch_hole(pages)
            }
            10..=15 => {
                add(&tally.zeroed, 1);
                guard.zero_range(pages)
            }
            16 => {
                add(&tally.truncated, 1);
                guard.truncate(PAGES - 1 - pages.len())
            }
            17 => {
                add(&tally.collapsed, 1);
                guard.collapse_range(pages)
            }
            _ => {
                add(&tally.inserted, 1);
                guard.insert_range(pages)
            }
        }
    }

    fn run(&mut self, pages: PageRange) {
        self.operation(pages).wait().expect("freed");
    }

    /// Operations under a proof in hand, whole or in halves.
    pub(crate) fn under(&mut self, proof: Proof<'_>, pages: PageRange) {
        let tally = &self.game.tally;
        add(&tally.proofs, 1);
        assert!(proof.covers(pages));
        // The engine would panic if it were asked.
        let too_much = proof.punch_hole(PageRange::ALL);
        assert!(matches!(too_much, Err(OpError::NotCovered)), "too small");
        assert!(self.game.guard.try_pin(pages).is_err() || cfg!(lease_mutant = "gate_ignored"));
        let punch = |proof: &Proof<'_>| {
            for pages in proof.ranges() {
                proof.punch_hole(*pages).expect("covered");
            }
        };
        let cut = self.rng.random_range(pages.start()..=pages.end());
        match proof.split_at(cut) {
            Err(whole) => punch(&whole),
            Ok((low, high)) => {
                add(&tally.splits, 1);
                let (first, then) = match self.chance(50) {
                    true => (low, high),
                    false => (high, low),
                };
                punch(&first);
                drop(first);
                thread::yield_now();
                punch(&then);
            }
        }
    }

    /// Several breaks at once, with a limit each: proofs are in hand while others are waited for.
    fn side_by_side(&mut self) {
        let Game { guard, tally, .. } = self.game;
        let gap = self.rng.random_range(2..5);
        let start = self.rng.random_range(0..PAGES / 2);
        let breaks = (0..4).map(|n| guard.break_layouts(start + n * gap..start + n * gap + 1));
        let breaks: Vec<_> = breaks.collect();
        let mut proofs = Vec::new();
        for mut breaking in breaks {
            let limit = self.micros(200);
            match breaking.wait_timeout(limit) {
                Some(proof) => proofs.push(proof.expect("open")),
                None => {
                    add(&tally.timeouts, 1);
                    add(&tally.cancels, 1);
                }
            }
        }
        add(&tally.side_by_side, u64::from(proofs.len() > 1));
        for proof in proofs {
            let pages = proof.ranges()[0];
            self.under(proof, pages);
        }
    }

    /// Takes blocks away, by any of the ways to do so.
    fn remove(&mut self) {
        let Game { guard, tally, .. } = self.game;
        let pages = self.range(6);
        match self.rng.random_range(0..16) {
            0..=4 => self.run(pages),
            5..=6 => {
                add(&tally.awaited, 1);
                future::block_on(self.operation(pages)).expect("freed");
            }
            7..=8 => {
                let mut operation = self.operation(pages);
                let limit = self.micros(60);
                if operation.wait_timeout(limit).is_none() {
                    add(&tally.timeouts, 1);
                    match self.chance(50) {
                        true => add(&tally.late, operation.wait().map(|_| 1).expect("freed")),
                        false => add(&tally.cancels, 1),
                    }
                }
            }
            9 => {
                let mut operation = self.operation(pages);
                if future::block_on(future::poll_once(&mut operation)).is_none() {
                    add(&tally.cancels, 1);
                }
            }
            10 => {
                drop(guard.break_layouts(pages));
                add(&tally.cancels, 1);
            }
            11..=12 => match guard.try_break_layouts(pages) {
                Ok(proof) => self.under(proof, pages),
                Err(TryBreakError::Busy(_) | TryBreakError::Breaking) => add(&tally.busy, 1),
                Err(error) => panic!("{error}"),
            },
            13 => {
                let proof = guard.break_layouts_arc(pages).wait().expect("open");
                self.under(proof, pages);
            }
            14 => self.side_by_side(),
            _ => {
                let proof = guard.break_layouts(pages).wait().expect("open");
                self.under(proof, pages);
            }
        }
        self.rest();
    }

    /// One page after the other, again and again, and back: short breaks of what short pins are at.
    fn nibble(&mut self) {
        let Game { guard, tally, .. } = self.game;
        let pages = self.range(2);
        match self.rng.random_range(0..4) {
            0 => self.run(pages),
            1 => self.side_by_side(),
            2 => {
                let mut breaking = guard.break_layouts(pages);
                match breaking.wait_timeout(Duration::ZERO) {
                    Some(proof) => self.under(proof.expect("open"), pages),
                    None => {
                        add(&tally.timeouts, 1);
                        let proof = breaking.wait().expect("open");
                        self.under(proof, pages);
                    }
                }
            }
            _ => match guard.try_break_layouts(pages) {
                Ok(proof) => self.under(proof, pages),
                Err(_) => add(&tally.busy, 1),
            },
        }
        guard.map().allocate(pages);
        self.rest();
        self.recess();
    }

    /// Breaks one of two pages and puts another block there, twice: the other side of a duel. Either it gets
    /// the page at once, or whoever pins it must wake us.
    fn snatch(&mut self) {
        let Game { guard, tally, .. } = self.game;
        let (mut operations, mut proofs, mut busy) = (0, 0, 0);
        for _ in 0..64 {
            let page = self.rng.random_range(0..2);
            let page = page..page + 1;
            if self.chance(40) {
                guard.zero_range(page).wait().expect("freed");
                operations += 1;
            } else if let Ok(proof) = guard.try_break_layouts(page) {
                proof.zero_range(proof.ranges()[0]).expect("covered");
                self.pause();
                proof.zero_range(proof.ranges()[0]).expect("covered");
                proofs += 1;
            } else {
                busy += 1;
            }
            self.pause();
        }
        add(&tally.zeroed, operations + 2 * proofs);
        add(&tally.proofs, proofs);
        add(&tally.busy, busy);
        self.recess();
    }

    /// Pins a page that is closed nearly all of the time, and two beside it that never are.
    fn knock(&mut self) {
        let game = self.game;
        let (mut pins, mut refused) = (0, 0);
        for _ in 0..64 {
            for page in [CLOSED - 1, CLOSED, CLOSED + 1] {
                match game.guard.try_pin(page..page + 1) {
                    Ok(pin) => {
                        pins += 1;
                        let view = game.guard.map().look_up(pin.range());
                        for _ in 0..self.rng.random_range(1..8) {
                            game.check(&view);
                        }
                    }
                    Err(_) => {
                        assert_eq!(page, CLOSED, "refused, and nobody has closed it");
                        refused += 1;
                    }
                }
            }
        }
        add(&game.tally.pins, pins);
        add(&game.tally.refused, refused);
    }

    /// Keeps one page closed, and puts another block there all the time, while other pages open and close
    /// on both sides: the list of what is closed is never the same for long.
    fn juggle(&mut self) {
        let Game { guard, tally, .. } = self.game;
        let proof = guard.break_layouts(CLOSED..CLOSED + 1).wait();
        let proof = proof.expect("open");
        let mut others = VecDeque::new();
        for _ in 0..256 {
            if others.len() < self.rng.random_range(0..5) {
                let page = match self.chance(50) {
                    true => self.rng.random_range(0..CLOSED / 2),
                    false => self.rng.random_range(CLOSED + 4..PAGES),
                };
                others.push_back(guard.break_layouts(page..page + 1));
            } else if self.chance(50) {
                others.pop_front();
            } else {
                others.pop_back();
            }
            proof.zero_range(proof.ranges()[0]).expect("covered");
        }
        add(&tally.proofs, 1);
        add(&tally.zeroed, 256);
    }

    /// Thousands of pins, mostly of nothing in particular: as many as it takes to make a mapping change its
    /// barrier. One in some tens is of a page that is wanted.
    fn stream(&mut self) {
        let game = self.game;
        let (mut pins, mut refused) = (0, 0);
        for _ in 0..64 {
            for page in 2..258 {
                drop(game.guard.try_pin(page..page + 1));
            }
            pins += 256;
            self.clog();
            match game.guard.try_pin(..2) {
                Ok(pin) => {
                    pins += 1;
                    let view = game.guard.map().look_up(pin.range());
                    for _ in 0..self.rng.random_range(1..128) {
                        game.check(&view);
                    }
                    self.clog();
                    drop(pin);
                }
                Err(_) => refused += 1,
            }
        }
        add(&game.tally.pins, pins);
        add(&game.tally.refused, refused);
    }

    /// A break or two after thousands of pins, so that the first of them changes the barrier.
    fn strike(&mut self) {
        let Game { guard, tally, .. } = self.game;
        // Not asleep: who is woken often runs where the other one ran.
        let (start, pause) = (Instant::now(), self.micros(800));
        while start.elapsed() < pause {
            hint::spin_loop();
        }
        // The first break changes the barrier, and stays closed; those behind it must not be misled.
        let first = self
            .chance(50)
            .then(|| guard.break_layouts(PAGES..PAGES + 1));
        self.pause();
        for _ in 0..self.rng.random_range(1..3) {
            if self.chance(50) {
                guard.zero_range(..2).wait().expect("freed");
                add(&tally.zeroed, 1);
            } else if let Ok(proof) = guard.try_break_layouts(..2) {
                proof.zero_range(proof.ranges()[0]).expect("covered");
                self.pause();
                proof.zero_range(proof.ranges()[0]).expect("covered");
                add(&tally.zeroed, 2);
                add(&tally.proofs, 1);
            } else {
                add(&tally.busy, 1);
            }
        }
        drop(first);
    }

    /// Now and then no break for some thousands of pins: then the mapping changes over to a barrier that
    /// only breakers execute, and back at the next break.
    fn recess(&mut self) {
        if self.chance(2) {
            let time = self.micros(20_000);
            thread::sleep(time);
        }
    }

    /// Some tens of nanoseconds, or some hundreds.
    fn pause(&mut self) {
        for _ in 0..self.rng.random_range(0..100) {
            hint::spin_loop();
        }
    }

    /// Leaves the mapping to the others for a moment.
    pub(crate) fn rest(&mut self) {
        for _ in 0..self.rng.random_range(0..400) {
            hint::spin_loop();
        }
        if self.chance(20) {
            thread::yield_now();
        }
    }
}
