//! The driver: does every step to the guard and to the twin, and compares what they answer.

use std::ops::Bound;
use std::sync::{Arc, Mutex};

use layout_lease::maps::ExtentMap;
use layout_lease::{
    BreakError, Drained, LayoutGuard, LayoutLease, LeaseFree, OpError, PagePin, PinToken,
    RangeError, TryBreakError, TryPinError,
};

use crate::calls::NoBreak;
use crate::compare::same_holders;
use crate::hands::Hands;
use crate::model::{Id, Op, Pages, Span, Twin};
use crate::steps::{How, Kind, Life, Step, Who};
use crate::tally::{Event, bad_range, count, count_many, map_failed, op_done};
use crate::waiter::{Waiter, What};

type Guard = LayoutGuard<ExtentMap>;

/// Holders of guards that are gone. They go in later lives, under other guards.
static LEFT_BEHIND: Mutex<Vec<Left>> = Mutex::new(Vec::new());

enum Left {
    Pin(PagePin),
    Lease(LayoutLease),
    Token(u64),
}

/// Whether a number is a token that was left behind.
pub(crate) fn is_left(number: u64) -> bool {
    let behind = LEFT_BEHIND.lock().unwrap_or_else(|e| e.into_inner());
    let same = |left: &Left| matches!(left, Left::Token(token) if *token == number);
    behind.iter().any(same)
}

impl Left {
    /// Lets go.
    fn go(self) {
        match self {
            Left::Pin(pin) => drop(pin),
            Left::Lease(lease) => drop(lease),
            Left::Token(number) => {
                let token = PinToken::from_u64(number).expect("it was one");
                drop(token.redeem().expect("nobody else has it"));
            }
        }
    }
}

/// A guard and its twin, and what has been got from both, in pairs.
pub(crate) struct Run<'g> {
    pub(crate) guard: &'g Arc<Guard>,
    pub(crate) hands: &'g Hands,
    pub(crate) twin: Twin,
    pub(crate) waiters: Vec<Waiter<'g>>,
    pub(crate) pins: Vec<(Id, PagePin)>,
    pub(crate) leases: Vec<(Id, LayoutLease)>,
    /// Pins as numbers.
    pub(crate) tokens: Vec<(Id, u64)>,
    /// Numbers that were tokens once.
    pub(crate) stale: Vec<u64>,
    pub(crate) proofs: Vec<(Id, Drained<'g, ExtentMap>)>,
    pub(crate) frees: Vec<(Id, LeaseFree<'g, ExtentMap>)>,
    pub(crate) closed: bool,
    /// There has been a retirement.
    pub(crate) retired: bool,
}

/// Lives one life, to the end.
pub(crate) fn live(life: Life, hands: &Hands) {
    let map = ExtentMap::new(life.blocks);
    let guard = Arc::new(Guard::with_barrier(map, life.barrier));
    let mut run = Run {
        guard: &guard,
        hands,
        twin: Twin::new(life.blocks),
        waiters: Vec::new(),
        pins: Vec::new(),
        leases: Vec::new(),
        tokens: Vec::new(),
        stale: Vec::new(),
        proofs: Vec::new(),
        frees: Vec::new(),
        closed: false,
        retired: false,
    };
    run.agree();
    for step in life.steps {
        run.step(step);
        run.agree();
    }
    let left = run.end(life.end, life.leave);
    assert_eq!(Arc::strong_count(&guard), 1, "somebody kept the guard");
    drop(guard);
    for one in &left {
        count(match one {
            Left::Pin(_) => Event::LeftBehind,
            Left::Lease(_) => Event::LeaseBehind,
            Left::Token(_) => Event::TokenBehind,
        });
    }
    let mut behind = LEFT_BEHIND.lock().unwrap_or_else(|e| e.into_inner());
    behind.extend(left);
    let keep = behind.len().min(life.end % 24);
    let gone: Vec<Left> = behind.drain(keep..).collect();
    let who = if life.end % 3 == 0 {
        Who::Hand(0)
    } else {
        Who::Me
    };
    hands.run(who, move || gone.into_iter().for_each(Left::go));
}

impl<'g> Run<'g> {
    fn step(&mut self, step: Step) {
        match step {
            Step::TryPin(who, span) => self.try_pin(who, span),
            Step::Pin(span, poll) => {
                let ticket = self.twin.pin(span);
                let what = What::Pin(self.guard.pin(span));
                self.waiters.push(Waiter::new(what, ticket));
                if poll {
                    self.attempt(self.waiters.len() - 1, How::Poll);
                }
            }
            Step::DropPin(which, who) => {
                if let Some(at) = pick(which, self.pins.len()) {
                    self.unpin(at, who);
                }
            }
            Step::Break(span, arc) => self.start_break(span, arc),
            Step::TryBreak(span) => self.try_break(span),
            Step::Op(kind, span) => self.start_op(kind, span),
            Step::Try(which, how) => {
                if let Some(at) = pick(which, self.waiters.len()) {
                    self.attempt(at, how);
                }
            }
            Step::TryAll(how) => {
                for at in (0..self.waiters.len()).rev() {
                    self.attempt(at, how);
                }
            }
            Step::Cancel(which) => {
                if let Some(at) = pick(which, self.waiters.len()) {
                    self.cancel(at);
                }
            }
            Step::DropProof(which) => {
                if let Some(at) = pick(which, self.proofs.len()) {
                    self.reopen(at);
                }
            }
            Step::Split(which, page) => {
                if let Some(at) = pick(which, self.proofs.len()) {
                    self.split(at, page);
                }
            }
            Step::Under(which, kind, span, fit) => {
                if let Some(at) = pick(which, self.proofs.len()) {
                    self.under(at, kind, span, fit);
                }
            }
            Step::Allocate(span) => self.allocate(span),
            Step::Look(span) => self.look(span),
            Step::Replace(which) => {
                let gone = self.hands.replace(which);
                count_many(Event::Orphans, self.twin.forget_thread(gone));
            }
            Step::Close => self.close(),
            step => self.long_step(step),
        }
    }

    // ---- pins -------------------------------------------------------------------------------------

    fn try_pin(&mut self, who: Who, span: Span) {
        let guard = Arc::clone(self.guard);
        let real = self.hands.run(who, move || guard.try_pin(span));
        let twin = self.twin.try_pin(span, self.hands.thread(who));
        match (real, twin) {
            (Ok(pin), Ok(id)) => {
                count(match who {
                    Who::Me => Event::Pinned,
                    Who::Hand(_) => Event::PinnedElsewhere,
                    Who::Passing => Event::PinnedInPassing,
                });
                self.pins.push((id, pin));
            }
            (Err(real), Err(twin)) => {
                assert_eq!(real, twin, "try_pin({span:?})");
                match real {
                    TryPinError::Breaking => count(Event::PinRefused),
                    TryPinError::Closed => count(Event::RefusedClosed),
                    TryPinError::Range(error) => bad_range(error),
                    _ => unreachable!("nothing was extended"),
                }
            }
            (real, twin) => panic!("try_pin({span:?}): {real:?}, twin: {twin:?}"),
        }
    }

    fn unpin(&mut self, at: usize, who: Who) {
        let (id, pin) = self.pins.swap_remove(at);
        count(match who {
            Who::Me => Event::Unpinned,
            _ => Event::UnpinnedElsewhere,
        });
        self.hands.run(who, move || drop(pin));
        self.twin.give_back(id);
    }

    // ---- breaks and operations --------------------------------------------------------------------

    /// Counts how a break began, the twin's part of which is done.
    pub(crate) fn begun(&mut self, waits: Event) {
        let waiter = self.waiters.last().expect("just pushed");
        if !self.twin.is_ready(&waiter.ticket) {
            count(waits);
            if waiter.breaking().is_some_and(|b| b.holders().is_empty()) {
                count(Event::BreakQueued);
            }
        }
    }

    fn start_break(&mut self, span: Span, arc: bool) {
        let ticket = self.twin.start_break(span);
        let breaking = match arc {
            true => self.guard.break_layouts_arc(span),
            false => self.guard.break_layouts(span),
        };
        self.waiters
            .push(Waiter::new(What::Break(breaking), ticket));
        count(Event::Breaks);
        self.begun(Event::BreakWaits);
    }

    fn start_op(&mut self, kind: Kind, span: Span) {
        let ticket = match op(kind, span) {
            Ok(op) => self.twin.start_op(op),
            Err(error) => self.twin.start_bad_op(error),
        };
        let operation = match kind {
            Kind::Punch => self.guard.punch_hole(span),
            Kind::Zero => self.guard.zero_range(span),
            Kind::Truncate => self.guard.truncate(first(span)),
            Kind::Collapse => self.guard.collapse_range(span),
            Kind::Insert => self.guard.insert_range(span),
        };
        self.waiters.push(Waiter::new(What::Op(operation), ticket));
        self.begun(Event::OpWaits);
    }

    fn close(&mut self) {
        let ticket = self.twin.close();
        let what = What::Close(self.guard.close());
        self.waiters.push(Waiter::new(what, ticket));
        self.closed = true;
        count(Event::Closed);
        self.begun(Event::CloseWaits);
    }

    fn try_break(&mut self, span: Span) {
        let real = self.guard.try_break_layouts(span);
        let twin = self.twin.try_break(span);
        match (real, twin) {
            (Ok(proof), Ok(id)) => {
                count(Event::TryBreaks);
                self.proofs.push((id, proof));
            }
            (Err(TryBreakError::Busy(real)), Err(NoBreak::Busy)) => {
                count(Event::TryBusy);
                let pages = Pages::of(span).expect("busy");
                same_holders(&real, self.twin.holders(pages));
            }
            (Err(TryBreakError::Breaking), Err(NoBreak::Breaking)) => count(Event::TryBreaking),
            (Err(TryBreakError::Closed), Err(NoBreak::Closed)) => count(Event::RefusedClosed),
            (Err(TryBreakError::Range(real)), Err(NoBreak::Range(twin))) => {
                assert_eq!(real, twin, "try_break({span:?})");
                bad_range(real);
            }
            (real, twin) => panic!("try_break({span:?}): {real:?}, twin: {twin:?}"),
        }
    }

    // ---- proofs -----------------------------------------------------------------------------------

    fn reopen(&mut self, at: usize) {
        let (id, proof) = self.proofs.swap_remove(at);
        count(Event::Reopened);
        drop(proof);
        self.twin.reopen(id);
    }

    fn split(&mut self, at: usize, page: u64) {
        let (id, proof) = self.proofs.swap_remove(at);
        match (proof.split_at(page), self.twin.split(id, page)) {
            (Ok((low, high)), Some((first, second))) => {
                count(Event::Splits);
                self.proofs.extend([(first, low), (second, high)]);
            }
            (Err(whole), None) => {
                count(Event::NoSplits);
                self.proofs.push((id, whole));
            }
            (real, twin) => panic!("split at {page}: {real:?}, twin: {twin:?}"),
        }
    }

    fn under(&mut self, at: usize, kind: Kind, span: Span, fit: bool) {
        let (id, proof) = &self.proofs[at];
        let Ok(asked) = op(kind, span) else { return };
        let asked = match (fit, asked) {
            (false, asked) => asked,
            (true, Op::Truncate(page)) => Op::Truncate(page.max(self.twin.proof(*id)[0].lo)),
            (true, asked) => {
                let (proof, pages) = (self.twin.proof(*id)[0], Pages::of(span));
                let cut = pages.map(|p| (p.lo.max(proof.lo), p.hi.min(proof.hi)));
                let pages = match cut {
                    Ok((lo, hi)) if lo < hi => Pages { lo, hi },
                    _ => proof,
                };
                match asked {
                    Op::Punch(_) => Op::Punch(pages),
                    Op::Zero(_) => Op::Zero(pages),
                    Op::Collapse(_) => Op::Collapse(pages),
                    _ => Op::Insert(pages),
                }
            }
        };
        let before: Vec<u64> = self.twin.map.pages.keys().copied().collect();
        let real = match asked {
            Op::Punch(pages) => proof.punch_hole(pages.real()),
            Op::Zero(pages) => proof.zero_range(pages.real()),
            Op::Truncate(page) => proof.truncate(page),
            Op::Collapse(pages) => proof.collapse_range(pages.real()),
            Op::Insert(pages) => proof.insert_range(pages.real()),
        };
        let twin = self.twin.under(*id, asked);
        assert_eq!(real, twin, "{asked:?} under a proof");
        match &real {
            Err(OpError::NotCovered) => count(Event::NotCovered),
            Err(OpError::Break(BreakError::Range(error))) => bad_range(*error),
            _ => {
                count(Event::Under);
                op_done(asked, &real, &before);
            }
        }
    }

    // ---- the map ---------------------------------------------------------------------

    fn allocate(&mut self, span: Span) {
        let real = self.guard.map().allocate(span);
        let map = self.guard.map();
        let twin = match Pages::of(span) {
            Ok(pages) => self.twin.map.allocate(pages, |page| map.lookup(page)),
            Err(error) => Err(error.into()),
        };
        match (real, twin) {
            (Ok(made), Ok(pages)) => {
                let made = made.iter().flat_map(|e| e.pages().start()..e.pages().end());
                assert!(made.eq(pages.iter().copied()), "allocate({span:?})");
                count_many(Event::Allocated, pages.len() as u64);
            }
            (Err(real), Err(twin)) => {
                assert_eq!(real, twin, "allocate({span:?})");
                map_failed(real);
            }
            (real, twin) => panic!("allocate({span:?}): {real:?}, twin: {twin:?}"),
        }
    }

    // ---- the end ----------------------------------------------------------------------------------

    /// Gives everything back, in one of several orders, and returns who is left behind.
    fn end(mut self, order: usize, leave: bool) -> Vec<Left> {
        const ORDERS: [[usize; 3]; 6] = [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ];
        // Once more for what the waiters still got: holders and proofs.
        for kind in ORDERS[order % 6].into_iter().chain([1, 2]) {
            loop {
                let proofs = self.proofs.len() + self.frees.len();
                let holders = self.pins.len() + self.leases.len() + self.tokens.len();
                let len = [self.waiters.len(), proofs, holders][kind];
                let Some(at) = pick(order, len) else { break };
                match kind {
                    0 if order % 4 < 3 => {
                        self.attempt(at, How::Timeout);
                        if self.waiters.len() == len {
                            self.cancel(at);
                        }
                    }
                    0 => self.cancel(at),
                    1 if at < self.proofs.len() => self.reopen(at),
                    1 => self.drop_free(at - self.proofs.len()),
                    _ if leave => break,
                    _ if at < self.pins.len() => self.unpin(at, Who::Me),
                    _ if !self.tokens.is_empty() => self.redeem(0, Who::Me),
                    _ => self.drop_lease(0, Who::Me),
                }
                self.agree();
            }
        }
        if !leave {
            self.twin.set_durable(u64::MAX);
            self.guard.durable(u64::MAX);
            self.run_retired(Who::Me);
            self.agree();
            let (stats, closed) = (self.guard.stats(), self.closed);
            let left = (stats.pins, stats.leases, stats.queued, stats.retired_pages);
            assert_eq!(left, (0, 0, 0, 0));
            assert_eq!(self.guard.try_pin(..).is_ok(), !closed, "a trace is left");
            assert_eq!(
                self.guard.try_break_layouts(..).is_ok(),
                !closed,
                "a trace is left"
            );
        }
        let pins = self.pins.drain(..).map(|(_, pin)| Left::Pin(pin));
        let leases = self.leases.drain(..).map(|(_, lease)| Left::Lease(lease));
        let tokens = self.tokens.drain(..).map(|(_, token)| Left::Token(token));
        pins.chain(leases).chain(tokens).collect()
    }
}

// ---- small things ---------------------------------------------------------------------------------

pub(crate) fn pick(which: usize, len: usize) -> Option<usize> {
    which.checked_rem(len)
}

/// The number that a truncate takes from a range.
fn first(span: Span) -> u64 {
    match span.0 {
        Bound::Included(page) | Bound::Excluded(page) => page,
        Bound::Unbounded => 0,
    }
}

fn op(kind: Kind, span: Span) -> Result<Op, RangeError> {
    Ok(match kind {
        Kind::Truncate => Op::Truncate(first(span)),
        Kind::Punch => Op::Punch(Pages::of(span)?),
        Kind::Zero => Op::Zero(Pages::of(span)?),
        Kind::Collapse => Op::Collapse(Pages::of(span)?),
        Kind::Insert => Op::Insert(Pages::of(span)?),
    })
}
