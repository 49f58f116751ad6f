//! The players' tools: pins, leases, breaks and proofs that tell the disk of themselves.

use std::sync::Arc;
use std::time::Duration;

use layout_lease::{
    Barrier, BreakLayouts, BreakLeases, Drained, LayoutGuard, LayoutLease, LeaseFree, PagePin,
    PageRange, PinToken, TryPinError,
};
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::mpsc::{Receiver, Sender, channel};
use shuttle::thread::JoinHandle;

use super::Tally;
use super::disk::{Blocks, Disk, Hold, PAGES, Stamp, range, step};

pub(crate) type Guard = LayoutGuard<Disk>;

/// One mapping, and what is known of it.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) guard: Arc<Guard>,
    pub(crate) blocks: Arc<Blocks>,
    pub(crate) tally: Arc<Tally>,
}

/// `true` once in `n` times.
pub(crate) fn one_in(n: u32) -> bool {
    thread_rng().gen_range(0..n) == 0
}

/// A number below `n`.
pub(crate) fn below(n: u64) -> u64 {
    thread_rng().gen_range(0..n)
}

/// One page or two.
pub(crate) fn some_pages() -> PageRange {
    let start = below(PAGES);
    range(start, (start + 1 + below(2)).min(PAGES))
}

impl World {
    pub(crate) fn new(tally: &Arc<Tally>) -> World {
        let barrier = match below(4) {
            0 => Barrier::Fenced,
            1 => Barrier::Asymmetric,
            _ => Barrier::Adaptive,
        };
        let blocks = Arc::new(Blocks::default());
        World {
            guard: Arc::new(LayoutGuard::with_barrier(
                Disk(Arc::clone(&blocks)),
                barrier,
            )),
            blocks,
            tally: Arc::clone(tally),
        }
    }

    pub(crate) fn spawn(&self, play: impl FnOnce(&World) + Send + 'static) -> JoinHandle<()> {
        let world = self.clone();
        shuttle::thread::spawn(move || play(&world))
    }

    pub(crate) fn count(&self, event: &'static str) {
        self.tally.count(event);
    }

    /// Everybody has gone, by what the crate says and by what the disk knows.
    pub(crate) fn balanced(&self) {
        let stats = self.guard.stats();
        let left = (stats.pins, stats.leases, stats.queued, stats.retired_pages);
        assert_eq!(left, (0, 0, 0, 0), "violation: {stats:?}");
        assert!(self.guard.holders(..).is_empty());
        self.blocks.balanced();
        self.tally.count_many("breaks", stats.breaks);
        self.tally
            .count_many("breaks that wait", stats.breaks_waited);
    }

    /// [`balanced`](Self::balanced), and still of use.
    pub(crate) fn balanced_and_open(&self) {
        self.balanced();
        let pin = self.guard.try_pin(..PAGES);
        drop(pin.expect("violation: something is closed still"));
        let proof = self.guard.try_break_layouts(..PAGES);
        drop(proof.expect("violation: something is held still"));
    }

    /// Somebody who came after these closings has got something.
    fn held(&self, pin: PagePin, before: &[u64]) -> Held {
        self.blocks.granted_after(before);
        self.count("pins");
        Held::new(pin, &self.blocks)
    }

    pub(crate) fn try_pin(&self, pages: PageRange) -> Option<Held> {
        let before = self.blocks.closings_of(pages);
        match self.guard.try_pin(pages) {
            Ok(pin) => Some(self.held(pin, &before)),
            Err(TryPinError::Closed) => {
                self.count("pins too late");
                None
            }
            Err(_) => {
                self.count("refusals");
                None
            }
        }
    }

    /// Waits for pages, until it has them or loses patience.
    pub(crate) fn pin(&self, pages: PageRange, patient: bool) -> Option<Held> {
        let before = self.blocks.closings_of(pages);
        let mut pinning = self.guard.pin(pages);
        let answer = if patient {
            Some(pinning.wait())
        } else {
            self.wait_a_little(|timeout| pinning.wait_timeout(timeout))
        };
        match answer {
            Some(Ok(pin)) => Some(self.held(pin, &before)),
            Some(Err(_)) => {
                self.count("pins too late");
                None
            }
            None => {
                self.count("pins given up");
                None
            }
        }
    }

    /// A few times with a deadline.
    pub(crate) fn wait_a_little<T>(
        &self,
        mut wait: impl FnMut(Duration) -> Option<T>,
    ) -> Option<T> {
        for _ in 0..=below(2) {
            if let Some(output) = wait(Duration::from_secs(1)) {
                self.count("in time");
                return Some(output);
            }
            self.count("timeouts");
        }
        None
    }

    pub(crate) fn lease(&self, pages: PageRange, patient: bool) -> Option<Leased> {
        let before = self.blocks.closings_of(pages);
        let mut leasing = self.guard.lease(pages);
        let answer = if patient {
            Some(leasing.wait())
        } else {
            self.wait_a_little(|timeout| leasing.wait_timeout(timeout))
        };
        match answer {
            Some(Ok(lease)) => {
                self.blocks.granted_after(&before);
                self.count("leases");
                Some(Leased::new(lease, &self.blocks))
            }
            Some(Err(_)) => {
                self.count("leases too late");
                None
            }
            None => {
                self.count("leases given up");
                None
            }
        }
    }

    /// Breaks `pages`, and waits for the proof until it has it or loses patience.
    pub(crate) fn break_layouts(&self, pages: PageRange, patient: bool) -> Option<Proof<'_>> {
        let breaking = self.guard.break_layouts(pages);
        let closing = Closing::new(self, pages);
        // Whatever is closed is closed for who has closed it, too.
        assert!(
            self.guard.try_pin(pages).is_err(),
            "violation: a pin through what is closed"
        );
        self.wait_for(breaking, closing, patient)
    }

    pub(crate) fn wait_for<'g>(
        &'g self,
        mut breaking: BreakLayouts<'g, Disk>,
        closing: Closing,
        patient: bool,
    ) -> Option<Proof<'g>> {
        let answer = if patient {
            Some(breaking.wait())
        } else {
            let answer = self.wait_a_little(|timeout| breaking.wait_timeout(timeout));
            if answer.is_none() {
                // Before it is dropped, which reopens.
                drop(closing);
                self.count("breaks given up");
                return None;
            }
            answer
        };
        match answer {
            Some(Ok(proof)) => {
                self.count("proofs");
                Some(Proof::new(proof, closing))
            }
            _ => {
                self.count("breaks too late");
                None
            }
        }
    }

    pub(crate) fn break_leases(&self, pages: PageRange, patient: bool) -> Option<NoLeases<'_>> {
        let mut breaking: BreakLeases<'_, Disk> = self.guard.break_leases(pages);
        let answer = if patient {
            Some(breaking.wait())
        } else {
            self.wait_a_little(|timeout| breaking.wait_timeout(timeout))
        };
        match answer {
            Some(Ok(free)) => {
                self.count("proofs of no lease");
                self.blocks.free_of_leases(pages);
                Some(NoLeases {
                    _free: free,
                    blocks: Arc::clone(&self.blocks),
                    pages,
                })
            }
            Some(Err(_)) => {
                self.count("breaks too late");
                None
            }
            None => {
                self.count("breaks given up");
                None
            }
        }
    }
}

/// A pin, and the blocks that its holder has found.
pub(crate) struct Held {
    pin: Option<PagePin>,
    pages: PageRange,
    stamp: Stamp,
    blocks: Arc<Blocks>,
}

impl Held {
    pub(crate) fn new(pin: PagePin, blocks: &Arc<Blocks>) -> Held {
        let pages = pin.range();
        Held {
            pin: Some(pin),
            pages,
            stamp: blocks.held(pages, Hold::Pin),
            blocks: Arc::clone(blocks),
        }
    }

    /// A device works on the blocks, now and again.
    pub(crate) fn work(&self) {
        for _ in 0..=below(2) {
            step();
            self.blocks.check(&self.stamp, Hold::Pin);
        }
    }

    /// Takes more pages in the middle of the operation.
    pub(crate) fn extend(&self, world: &World, pages: PageRange) -> Option<Held> {
        match self.pin.as_ref()?.extend(&world.guard, pages) {
            Ok(pin) => {
                let through = world.blocks.closings_of(pages).len();
                world.count(if through > 0 {
                    "extensions through what is closed"
                } else {
                    "extensions"
                });
                Some(Held::new(pin, &self.blocks))
            }
            Err(_) => {
                world.count("extensions refused");
                None
            }
        }
    }

    fn let_go(&mut self) -> Option<PagePin> {
        let pin = self.pin.take()?;
        self.blocks.check(&self.stamp, Hold::Pin);
        self.blocks.let_go(self.pages, Hold::Pin);
        Some(pin)
    }

    /// Breaks the pages that it holds.
    pub(crate) fn into_break(mut self, world: &World, patient: bool) -> Option<Proof<'_>> {
        let breaking = match self.let_go()?.into_break(&world.guard) {
            Ok(breaking) => breaking,
            Err(pin) => {
                drop(pin);
                world.count("breaks too late");
                return None;
            }
        };
        let closing = Closing::new(world, self.pages);
        world.count("holders that break");
        world.wait_for(breaking, closing, patient)
    }

    /// The pin as a number, and everything else about it.
    pub(crate) fn into_token(mut self) -> Token {
        let pin = self.pin.take().expect("nobody else takes it out");
        Token {
            number: pin.into_token().to_u64(),
            pages: self.pages,
            stamp: self.stamp.clone(),
            blocks: Arc::clone(&self.blocks),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.let_go());
    }
}

/// A pin that is under way as a number.
pub(crate) struct Token {
    number: u64,
    pages: PageRange,
    stamp: Stamp,
    blocks: Arc<Blocks>,
}

impl Token {
    pub(crate) fn redeem(self) -> Held {
        let redeem = || PinToken::from_u64(self.number).and_then(PinToken::redeem);
        let pin = redeem().expect("violation: nobody else has redeemed it");
        assert!(redeem().is_none(), "violation: redeemed twice");
        self.blocks.check(&self.stamp, Hold::Pin);
        assert_eq!(pin.range(), self.pages, "violation: another pin");
        Held {
            pin: Some(pin),
            pages: self.pages,
            stamp: self.stamp,
            blocks: self.blocks,
        }
    }
}

/// A thread that redeems what is sent to it, until nobody is left to send.
pub(crate) fn device(tally: &Arc<Tally>) -> (Sender<Token>, JoinHandle<()>) {
    let (queue, arrivals): (_, Receiver<Token>) = channel();
    let tally = Arc::clone(tally);
    let device = shuttle::thread::spawn(move || {
        while let Ok(token) = arrivals.recv() {
            let held = token.redeem();
            tally.count("tokens redeemed");
            held.work();
        }
    });
    (queue, device)
}

/// Waits for all of them.
pub(crate) fn join(players: impl IntoIterator<Item = JoinHandle<()>>) {
    // All are there before the first is waited for.
    let players: Vec<_> = players.into_iter().collect();
    for player in players {
        player.join().unwrap();
    }
}

/// A lease, and the blocks that its holder has registered.
pub(crate) struct Leased {
    pub(crate) lease: LayoutLease,
    pages: PageRange,
    stamp: Stamp,
    blocks: Arc<Blocks>,
}

impl Leased {
    pub(crate) fn new(lease: LayoutLease, blocks: &Arc<Blocks>) -> Leased {
        let pages = lease.range();
        Leased {
            lease,
            pages,
            stamp: blocks.held(pages, Hold::Lease),
            blocks: Arc::clone(blocks),
        }
    }

    pub(crate) fn work(&self) {
        step();
        self.blocks.check(&self.stamp, Hold::Lease);
    }

    /// Waits a little to be asked for it, and then gives back what is wanted, or everything.
    pub(crate) fn use_and_return(mut self, world: &World) {
        self.work();
        let wanted = world.wait_a_little(|timeout| self.lease.recalled().wait_timeout(timeout));
        let Some(wanted) = wanted else { return };
        world.count("recalls");
        assert!(self.pages.overlaps(&wanted));
        if wanted.start() > self.pages.start() {
            self.shrink_to(range(self.pages.start(), wanted.start()));
            world.count("leases shrunk");
            self.work();
        }
    }

    pub(crate) fn pages(&self) -> PageRange {
        self.pages
    }

    /// Gives back everything but `kept`: first the buffer is not used there any more.
    pub(crate) fn shrink_to(&mut self, kept: PageRange) {
        self.blocks.check(&self.stamp, Hold::Lease);
        self.blocks.let_go(self.pages, Hold::Lease);
        self.stamp = self.blocks.held(kept, Hold::Lease);
        self.pages = kept;
        self.lease.shrink_to(kept).expect("a part of it");
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.blocks.check(&self.stamp, Hold::Lease);
        self.blocks.let_go(self.pages, Hold::Lease);
    }
}

/// A break that has returned and is not about to reopen.
pub(crate) struct Closing {
    blocks: Arc<Blocks>,
    numbers: Vec<u64>,
}

impl Closing {
    pub(crate) fn new(world: &World, pages: PageRange) -> Closing {
        Self::several(world, &[pages])
    }

    pub(crate) fn several(world: &World, ranges: &[PageRange]) -> Closing {
        Closing {
            numbers: ranges.iter().map(|r| world.blocks.closed(*r)).collect(),
            blocks: Arc::clone(&world.blocks),
        }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        for number in &self.numbers {
            self.blocks.reopens(*number);
        }
    }
}

/// A proof, and what it says to the disk. The closing is told off before the proof reopens.
pub(crate) struct Proof<'g> {
    closing: Option<Closing>,
    proof: Option<Drained<'g, Disk>>,
}

impl<'g> Proof<'g> {
    pub(crate) fn new(proof: Drained<'g, Disk>, closing: Closing) -> Proof<'g> {
        for range in proof.ranges() {
            closing.blocks.proved(*range);
        }
        Proof {
            closing: Some(closing),
            proof: Some(proof),
        }
    }

    pub(crate) fn drained(&self) -> &Drained<'g, Disk> {
        self.proof.as_ref().expect("only the drop takes it out")
    }

    /// Frees all that it covers.
    pub(crate) fn free(&self) {
        let proof = self.drained();
        for pages in proof.ranges() {
            let freed = proof.punch_hole(*pages).expect("it covers them");
            assert_eq!(freed, pages.len());
        }
    }

    /// Two proofs, each of which reopens by itself, if it covers pages on both sides of `page`.
    pub(crate) fn split(mut self, world: &World, page: u64) -> (Proof<'g>, Option<Proof<'g>>) {
        let proof = self.proof.take().expect("only the drop takes it out");
        let whole = self.closing.take().expect("only the drop takes it out");
        let told_off = |proof: &Drained<'g, Disk>| {
            for range in proof.ranges() {
                whole.blocks.unproved(*range);
            }
        };
        told_off(&proof);
        match proof.split_at(page) {
            Ok((low, high)) => {
                world.count("proofs split");
                let [a, b] = [low, high].map(|half| {
                    let closing = Closing::several(world, half.ranges());
                    Proof::new(half, closing)
                });
                (a, Some(b))
            }
            Err(proof) => {
                let closing = Closing::several(world, proof.ranges());
                (Proof::new(proof, closing), None)
            }
        }
    }
}

impl Drop for Proof<'_> {
    fn drop(&mut self) {
        if let (Some(closing), Some(proof)) = (&self.closing, &self.proof) {
            for range in proof.ranges() {
                closing.blocks.unproved(*range);
            }
        }
    }
}

/// A proof that nobody has a lease of some pages.
pub(crate) struct NoLeases<'g> {
    _free: LeaseFree<'g, Disk>,
    blocks: Arc<Blocks>,
    pages: PageRange,
}

impl NoLeases<'_> {
    pub(crate) fn work(&self) {
        step();
    }
}

impl Drop for NoLeases<'_> {
    fn drop(&mut self) {
        self.blocks.free_for_leases(self.pages);
    }
}
