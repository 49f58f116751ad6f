//! The driver's part that goes beyond pins and breaks of one range: leases, tokens, extensions,
//! retirements.

use std::sync::Arc;
use std::thread;

use layout_lease::{PageRange, PinToken, TryPinError};

use crate::driver::{Run, pick};
use crate::model::{Pages, Span};
use crate::steps::{How, Step, Who};
use crate::tally::{Event, bad_range, count, count_many};
use crate::waiter::{Waiter, What};

const NAME: &str = "a name";

impl<'g> Run<'g> {
    pub(crate) fn long_step(&mut self, step: Step) {
        match step {
            Step::BreakAll(ranges) => self.break_all(&ranges),
            Step::Lease(span, named, poll) => self.lease(span, named, poll),
            Step::DropLease(which, who) => {
                if let Some(at) = pick(which, self.leases.len()) {
                    self.drop_lease(at, who);
                }
            }
            Step::Shrink(which, span, fit) => {
                if let Some(at) = pick(which, self.leases.len()) {
                    let held = self.twin.held(self.leases[at].0).pages;
                    let part = Pages::of(span).ok().and_then(|pages| pages.meet(held));
                    match part.filter(|_| fit) {
                        Some(part) => self.shrink(at, part.span()),
                        None => self.shrink(at, span),
                    }
                }
            }
            Step::Keep(which) => {
                if let Some(at) = pick(which, self.leases.len()) {
                    let (id, lease) = self.leases.swap_remove(at);
                    let ticket = self.twin.recall(id);
                    self.waiters.push(Waiter::new(What::keep(lease), ticket));
                    count(Event::Kept);
                    self.attempt(self.waiters.len() - 1, How::Poll);
                }
            }
            Step::BreakLeases(span) => {
                let ticket = self.twin.start_break_leases(span);
                let what = What::LeaseBreak(self.guard.break_leases(span));
                self.waiters.push(Waiter::new(what, ticket));
                count(Event::LeaseBreaks);
                self.begun(Event::LeaseBreakWaits);
            }
            Step::DropFree(which) => {
                if let Some(at) = pick(which, self.frees.len()) {
                    self.drop_free(at);
                }
            }
            Step::Extend(which, span) => {
                if let Some(at) = pick(which, self.pins.len()) {
                    self.extend(at, span);
                }
            }
            Step::IntoBreak(which) => {
                if let Some(at) = pick(which, self.pins.len()) {
                    self.break_own(at);
                }
            }
            Step::Token(which, who) => {
                if let Some(at) = pick(which, self.pins.len()) {
                    let (id, pin) = self.pins.swap_remove(at);
                    let token = self.hands.run(who, move || pin.into_token().to_u64());
                    self.tokens.push((id, token));
                    count(match who {
                        Who::Me => Event::Tokens,
                        _ => Event::TokensElsewhere,
                    });
                }
            }
            Step::Redeem(which, who) => {
                if let Some(at) = pick(which, self.tokens.len()) {
                    self.redeem(at, who);
                }
            }
            Step::Forge(which, by) => self.forge(which, by),
            Step::Retire(span, lsn) => {
                let ticket = self.twin.retire(span, lsn);
                let retired = match lsn {
                    0 => self.guard.retire(span),
                    lsn => self.guard.retire_after(span, lsn),
                };
                self.waiters
                    .push(Waiter::new(What::Retired(retired), ticket));
                self.retired = true;
                count(Event::Retired);
                self.begun(Event::RetiredWaits);
                let undurable = self.twin.is_undurable();
                count_many(Event::RetiredUndurable, u64::from(undurable));
            }
            Step::Durable(lsn) => {
                self.twin.set_durable(lsn);
                self.guard.durable(lsn);
            }
            Step::Run(who) => self.run_retired(who),
            Step::Ready => {
                let what = What::Ready(self.guard.retired_ready());
                self.waiters.push(Waiter::new(what, self.twin.ready()));
                self.attempt(self.waiters.len() - 1, How::Poll);
            }
            step => unreachable!("{step:?}"),
        }
    }

    fn break_all(&mut self, ranges: &[(u64, u64)]) {
        let pages = ranges.iter().map(|&(lo, hi)| Pages { lo, hi });
        let real: Vec<PageRange> = pages.clone().map(Pages::real).collect();
        let ticket = self.twin.start_break_all(pages.collect());
        let apart = self.twin.ranges(&ticket).is_some_and(|r| r.len() > 1);
        let drained = self.twin.is_drained(&ticket);
        let breaking = self.guard.break_all(&real);
        self.waiters
            .push(Waiter::new(What::Break(breaking), ticket));
        count(Event::BreakAll);
        count_many(Event::ApartProofs, u64::from(apart && drained));
        self.begun(Event::BreakWaits);
    }

    // ---- leases -----------------------------------------------------------------------------------

    fn lease(&mut self, span: Span, named: bool, poll: bool) {
        let ticket = self.twin.lease(span);
        let mut leasing = self.guard.lease(span);
        if named {
            leasing = leasing.labelled(NAME);
        }
        let mut waiter = Waiter::new(What::Lease(leasing), ticket);
        waiter.label = named.then_some(NAME);
        self.waiters.push(waiter);
        if poll {
            self.attempt(self.waiters.len() - 1, How::Poll);
        }
    }

    pub(crate) fn drop_lease(&mut self, at: usize, who: Who) {
        let (id, lease) = self.leases.swap_remove(at);
        count(match who {
            Who::Me => Event::LeaseGivenBack,
            _ => Event::LeaseElsewhere,
        });
        self.hands.run(who, move || drop(lease));
        self.twin.give_back(id);
    }

    fn shrink(&mut self, at: usize, span: Span) {
        let (id, lease) = &mut self.leases[at];
        let wanted = lease.is_recalled();
        let (real, twin) = (lease.shrink_to(span), self.twin.shrink(*id, span));
        assert_eq!(real, twin, "{lease:?} shrunk to {span:?}");
        match real {
            Ok(()) => {
                count(Event::Shrunk);
                let out = wanted && self.twin.wanted(self.twin.held(*id).pages).is_none();
                count_many(Event::ShrunkOut, u64::from(out));
            }
            Err(error) => bad_range(error),
        }
    }

    pub(crate) fn drop_free(&mut self, at: usize) {
        let (id, free) = self.frees.swap_remove(at);
        count(Event::Reopened);
        drop(free);
        self.twin.reopen(id);
    }

    // ---- pins that want more ----------------------------------------------------------------------

    fn extend(&mut self, at: usize, span: Span) {
        let (id, pin) = &self.pins[at];
        let open = Pages::of(span).is_ok_and(|pages| !self.twin.is_closed(pages));
        let was_extension = self.twin.is_extension(*id);
        let real = pin.extend(self.guard, span);
        let twin = self.twin.extend(*id, span, thread::current().id());
        match (real, twin) {
            (Ok(pin), Ok(id)) => {
                count(match open {
                    true => Event::ExtendedOpen,
                    false => Event::ExtendedThrough,
                });
                self.pins.push((id, pin));
            }
            (Err(real), Err(twin)) => {
                assert_eq!(real, twin, "extend({span:?})");
                match real {
                    TryPinError::Breaking if was_extension => count(Event::ExtensionAgain),
                    TryPinError::Breaking => count(Event::Stranger),
                    TryPinError::Closed => count(Event::RefusedClosed),
                    TryPinError::Range(error) => bad_range(error),
                    error => panic!("extend({span:?}): {error}"),
                }
            }
            (real, twin) => panic!("extend({span:?}): {real:?}, twin: {twin:?}"),
        }
    }

    fn break_own(&mut self, at: usize) {
        let (id, pin) = self.pins.swap_remove(at);
        let guard: &'g _ = self.guard;
        match (pin.into_break(guard), self.twin.break_own(id)) {
            (Ok(breaking), Some(ticket)) => {
                count(Event::IntoBreak);
                self.waiters
                    .push(Waiter::new(What::Break(breaking), ticket));
                self.begun(Event::BreakWaits);
            }
            (Err(pin), None) => {
                count(Event::NotIntoBreak);
                self.pins.push((id, pin));
            }
            (real, twin) => panic!("into_break: {real:?}, twin: {twin:?}"),
        }
    }

    // ---- tokens -----------------------------------------------------------------------------------

    pub(crate) fn redeem(&mut self, at: usize, who: Who) {
        let (id, number) = self.tokens.swap_remove(at);
        let pin = self.hands.run(who, move || {
            PinToken::from_u64(number).and_then(PinToken::redeem)
        });
        self.pins.push((id, pin.expect("a token that is out")));
        self.stale.push(number);
        count(match who {
            Who::Me => Event::Redeemed,
            _ => Event::RedeemedElsewhere,
        });
    }

    /// A number that is not out, but was, or is beside one that is.
    fn forge(&mut self, which: usize, by: u64) {
        let known = self.stale.len() + self.tokens.len();
        let Some(at) = pick(which, known) else { return };
        let number = match at.checked_sub(self.stale.len()) {
            None => self.stale[at],
            Some(at) => self.tokens[at].1,
        };
        let forged = number.wrapping_add(by);
        if self.tokens.iter().any(|(_, token)| *token == forged) || crate::driver::is_left(forged) {
            return;
        }
        let pin = PinToken::from_u64(forged).and_then(PinToken::redeem);
        assert!(
            pin.is_none(),
            "{forged:#x} is no token, but redeems to {pin:?}"
        );
        count(Event::Stale);
    }

    // ---- retirements ------------------------------------------------------------------------------

    pub(crate) fn run_retired(&mut self, who: Who) {
        let guard = Arc::clone(self.guard);
        let real = self.hands.run(who, move || {
            guard.run_retired_with(|pages, error| panic!("{pages}: {error}"))
        });
        let before = self.twin.retirements();
        assert_eq!(real, self.twin.run_retired(), "pages freed");
        count_many(Event::Freed, real);
        let run = before - self.twin.retirements();
        count_many(
            match who {
                Who::Me => Event::RetiredRun,
                _ => Event::RetiredRunElsewhere,
            },
            run,
        );
    }
}
