//! The driver's part that waits: tries whether a wait is over, compares the answer, or gives up.

use std::thread;

use layout_lease::{OpError, PinError};

use crate::calls::Answer;
use crate::driver::Run;
use crate::model::{Ask, Pages};
use crate::steps::How;
use crate::tally::{Event, bad_range, count, count_many, failed, op_done, refused};
use crate::waiter::Out;

impl Run<'_> {
    /// Tries whether a wait is over.
    pub(crate) fn attempt(&mut self, at: usize, how: How) {
        let mut waiter = self.waiters.remove(at);
        // Only if something else has shown already that it will not block.
        let sure = waiter.armed() || waiter.breaking().is_some();
        let block = matches!(how, How::Wait) && sure && self.twin.is_ready(&waiter.ticket);
        let before: Vec<u64> = self.twin.map.pages.keys().copied().collect();
        let late = waiter.woken() > 0;
        let own = self.twin.ranges(&waiter.ticket).is_some();
        let answer = {
            let label = waiter.label;
            let (ticket, thread) = (&mut waiter.ticket, thread::current().id());
            self.twin.poll(ticket, thread, label)
        };
        let Some(answer) = answer else {
            let early = waiter.try_once(how);
            assert!(
                early.is_none(),
                "{how:?} has an answer where the twin waits"
            );
            count(match (how, waiter.ticket.ask) {
                (How::Poll, Ask::Pin) => Event::PinWaits,
                (How::Poll, Ask::Lease) => Event::LeaseWaits,
                (_, Ask::Ready) if late => Event::ReadyTooLate,
                (_, Ask::Recall(_)) if late => Event::RecallGone,
                (_, Ask::Ready) => Event::ReadyInVain,
                (How::Poll, _) => Event::PolledInVain,
                _ => Event::TimedOut,
            });
            self.closing_ran(waiter.ticket.ask);
            self.waiters.insert(at, waiter);
            return;
        };
        count_many(Event::Woken, waiter.woken() as u64);
        let (ask, waited) = (waiter.ticket.ask, waiter.waited);
        self.closing_ran(ask);
        let out = match block {
            true => Some(waiter.wait()),
            false => waiter.try_once(how),
        };
        match (out, answer) {
            (Some(Out::Pin(Ok(pin))), Answer::Pin(Ok(id))) => {
                count(if waited {
                    Event::PinGranted
                } else {
                    Event::Pinned
                });
                self.pins.push((id, pin));
            }
            (Some(Out::Pin(Err(real))), Answer::Pin(Err(twin))) => {
                assert_eq!(real, twin);
                match real {
                    PinError::Range(error) => bad_range(error),
                    _ => refused(waited),
                }
            }
            (Some(Out::Proof(Ok(proof))), Answer::Proof(Ok(id))) => {
                count(Event::Proofs);
                count_many(Event::ProofsAfterWait, u64::from(waited));
                self.proofs.push((id, proof));
            }
            (Some(Out::Proof(Err(real))), Answer::Proof(Err(twin))) => {
                assert_eq!(real, twin);
                failed(real, waited);
            }
            (Some(Out::Lease(Ok(lease))), Answer::Lease(Ok(id))) => {
                count(if waited {
                    Event::LeaseGranted
                } else {
                    Event::Leased
                });
                self.leases.push((id, lease));
            }
            (Some(Out::Lease(Err(real))), Answer::Lease(Err(twin))) => {
                assert_eq!(real, twin);
                match real {
                    PinError::Range(error) => bad_range(error),
                    _ => refused(waited),
                }
            }
            (Some(Out::Free(Ok(free))), Answer::Free(Ok(id))) => {
                count(Event::LeaseFree);
                let beside = |pages: &Pages| self.twin.is_closed(*pages) && !self.closed;
                let beside = self.twin.proof(id).iter().any(beside);
                count_many(Event::BesideBreak, u64::from(beside));
                self.frees.push((id, free));
            }
            (Some(Out::Free(Err(real))), Answer::Free(Err(twin))) => {
                assert_eq!(real, twin);
                failed(real, waited);
            }
            (Some(Out::Ready), Answer::Ready) => count(match self.twin.has_ready() {
                true => Event::ReadyHeard,
                false => Event::ReadyNever,
            }),
            (Some(Out::Recalled(lease, real)), Answer::Recalled(twin)) => {
                assert!(twin == real, "wanted: {real}, twin: {twin:?}");
                count(Event::RecallHeard);
                if let Ask::Recall(id) = ask {
                    self.leases.push((id, lease));
                }
            }
            (Some(Out::Freed(real)), Answer::Freed(twin)) if matches!(ask, Ask::Retired) => {
                assert_eq!(real, twin, "{ask:?}");
                match real {
                    Ok(freed) => {
                        count_many(Event::Freed, freed);
                        count(match own {
                            true => Event::RetiredWaited,
                            false => Event::RetiredTold,
                        });
                    }
                    Err(OpError::Break(error)) => failed(error, waited || !own),
                    Err(error) => panic!("{ask:?}: {error}"),
                }
            }
            (Some(Out::Freed(real)), Answer::Freed(twin)) => {
                assert_eq!(real, twin, "{ask:?}");
                if let Err(OpError::Break(error)) = real {
                    failed(error, waited);
                } else if let Ask::Op(op) = ask {
                    op_done(op, &real, &before);
                }
            }
            (Some(Out::Closed), Answer::Closed) => {}
            (Some(_), answer) => panic!("{how:?} of {ask:?}: not {answer:?}"),
            (None, answer) => panic!("{how:?} of {ask:?} waits; twin: {answer:?}"),
        }
    }

    /// Counts what a closing has run and given up.
    fn closing_ran(&mut self, ask: Ask) {
        if let Ask::Close = ask {
            let (run, given_up) = self.twin.take_run_at_close();
            count_many(Event::RetiredAtClose, run);
            count_many(Event::RetiredGivenUp, given_up);
        }
    }

    pub(crate) fn cancel(&mut self, at: usize) {
        let waiter = self.waiters.remove(at);
        let ready = self.twin.is_ready(&waiter.ticket);
        count(match (waiter.ticket.ask, ready) {
            (Ask::Pin, false) => Event::PinCancelled,
            (Ask::Pin, true) => Event::GrantLost,
            (Ask::Break, false) => Event::BreakCancelled,
            (Ask::Break, true) => Event::DrainedCancelled,
            (Ask::Op(_), _) => Event::OpCancelled,
            (Ask::Close, _) => Event::CloseCancelled,
            (Ask::Lease, false) => Event::LeaseCancelled,
            (Ask::Lease, true) => Event::LeaseLost,
            (Ask::LeaseBreak, false) => Event::BreakCancelled,
            (Ask::LeaseBreak, true) => Event::DrainedCancelled,
            (Ask::Retired, _) => Event::RetiredDetached,
            (Ask::Recall(_), _) => Event::LeaseGivenBack,
            (Ask::Ready, _) => Event::PolledInVain,
        });
        self.twin.cancel(&waiter.ticket);
        drop(waiter);
    }
}
