//! What callers do to the twin, one call after the other.

use std::ops::Bound;
use std::thread::ThreadId;

use layout_lease::maps::ExtentError;
use layout_lease::{BreakError, HolderKind, OpError, PinError, RangeError, TryPinError};

use crate::model::{Ask, Entry, Held, Id, Kind, Op, Pages, Place, Span, Ticket, Twin, joined};

/// How a wait ends.
#[derive(Debug)]
pub(crate) enum Answer {
    Pin(Result<Id, PinError>),
    Lease(Result<Id, PinError>),
    Proof(Result<Id, BreakError>),
    Free(Result<Id, BreakError>),
    Freed(Result<u64, OpError<ExtentError>>),
    Ready,
    Recalled(Pages),
    Closed,
}

/// What [`Twin::try_break`] says.
#[derive(Debug)]
pub(crate) enum NoBreak {
    Busy,
    Breaking,
    Closed,
    Range(RangeError),
}

impl Twin {
    fn next(&mut self) -> Id {
        self.last += 1;
        self.last
    }

    fn join(&mut self, ranges: Vec<Pages>, kind: Kind) -> Id {
        let id = self.next();
        self.queue.push(Entry {
            id,
            ranges,
            kind,
            refused: false,
            lsn: 0,
            label: None,
        });
        id
    }

    /// Takes a place for a break, and counts it.
    fn join_break(&mut self, ranges: Vec<Pages>, kind: Kind) -> Id {
        let id = self.join(ranges, kind);
        self.breaks += 1;
        let at = self.queue.len() - 1;
        let done = match kind {
            Kind::Close => self.idle_but_retired(),
            _ => self.drained(at),
        };
        self.waited += u64::from(!done);
        id
    }

    // ---- pins and leases --------------------------------------------------------------------------

    pub(crate) fn try_pin(
        &mut self,
        span: Span,
        thread: Option<ThreadId>,
    ) -> Result<Id, TryPinError> {
        let pages = Pages::of(span)?;
        if self.closed {
            return Err(TryPinError::Closed);
        }
        if self.is_closed(pages) {
            return Err(TryPinError::Breaking);
        }
        Ok(self.hold(pages, HolderKind::Pin, thread))
    }

    fn hold(&mut self, pages: Pages, kind: HolderKind, thread: Option<ThreadId>) -> Id {
        let id = self.next();
        self.held.push(Held {
            id,
            pages,
            kind,
            thread,
            label: None,
            extension: false,
        });
        id
    }

    /// A pin or a lease is given back.
    pub(crate) fn give_back(&mut self, id: Id) {
        self.held.retain(|held| held.id != id);
    }

    /// A thread is gone: its pins are still there, and nobody knows whose they were. Returns how many.
    pub(crate) fn forget_thread(&mut self, gone: ThreadId) -> u64 {
        let theirs = self
            .held
            .iter_mut()
            .filter(|held| held.thread == Some(gone) && held.kind == HolderKind::Pin);
        theirs.map(|held| held.thread = None).count() as u64
    }

    pub(crate) fn pin(&self, span: Span) -> Ticket {
        Ticket {
            ask: Ask::Pin,
            place: Place::Outside(Pages::of(span)),
        }
    }

    pub(crate) fn lease(&self, span: Span) -> Ticket {
        Ticket {
            ask: Ask::Lease,
            place: Place::Outside(Pages::of(span)),
        }
    }

    /// More pages for the operation that holds the pin `id`: all breaks of them must wait for that very
    /// pin, which must not be an extension itself.
    pub(crate) fn extend(
        &mut self,
        id: Id,
        span: Span,
        thread: ThreadId,
    ) -> Result<Id, TryPinError> {
        let pages = Pages::of(span)?;
        if self.closed {
            return Err(TryPinError::Closed);
        }
        let held = self.held(id);
        let mut breaks = self
            .queue
            .iter()
            .filter(|e| e.closes() && e.overlaps(pages));
        let extension = breaks.clone().next().is_some();
        if extension && (held.extension || !breaks.all(|e| e.overlaps(held.pages))) {
            return Err(TryPinError::Breaking);
        }
        let id = self.hold(pages, HolderKind::Pin, Some(thread));
        self.held.last_mut().expect("just pushed").extension = extension;
        Ok(id)
    }

    /// The holder of a pin breaks its pages. `None`: it still has the pin.
    pub(crate) fn break_own(&mut self, id: Id) -> Option<Ticket> {
        if self.closed {
            return None;
        }
        let place = Place::Queued(self.join_break(vec![self.held(id).pages], Kind::Break));
        self.give_back(id);
        Some(Ticket {
            ask: Ask::Break,
            place,
        })
    }

    /// All but `span` of a lease is given back; an end that is not named is that of the lease.
    pub(crate) fn shrink(&mut self, id: Id, span: Span) -> Result<(), RangeError> {
        let held = self.held.iter_mut().find(|held| held.id == id);
        let held = held.expect("the twin lost a lease");
        let lo = match span.0 {
            Bound::Unbounded => Bound::Included(held.pages.lo),
            bound => bound,
        };
        let hi = match span.1 {
            Bound::Unbounded => Bound::Excluded(held.pages.hi),
            bound => bound,
        };
        let kept = Pages::of((lo, hi))?;
        if !held.pages.covers(kept) {
            let (start, end) = (kept.lo, kept.hi);
            return Err(RangeError::Outside { start, end });
        }
        held.pages = kept;
        Ok(())
    }

    // ---- breaks -----------------------------------------------------------------------------------

    fn start(&mut self, ask: Ask, kind: Kind, ranges: Result<Vec<Pages>, RangeError>) -> Ticket {
        let place = match ranges {
            Err(error) => Place::Failed(error.into()),
            Ok(_) if self.closed => Place::Failed(BreakError::Closed),
            Ok(ranges) => Place::Queued(self.join_break(ranges, kind)),
        };
        Ticket { ask, place }
    }

    pub(crate) fn start_break(&mut self, span: Span) -> Ticket {
        self.start(Ask::Break, Kind::Break, Pages::of(span).map(|p| vec![p]))
    }

    pub(crate) fn start_break_all(&mut self, ranges: Vec<Pages>) -> Ticket {
        let ranges = match joined(ranges) {
            none if none.is_empty() => Err(RangeError::Empty { at: 0 }),
            ranges => Ok(ranges),
        };
        self.start(Ask::Break, Kind::Break, ranges)
    }

    pub(crate) fn start_break_leases(&mut self, span: Span) -> Ticket {
        let ranges = Pages::of(span).map(|p| vec![p]);
        self.start(Ask::LeaseBreak, Kind::LeaseBreak, ranges)
    }

    pub(crate) fn start_op(&mut self, op: Op) -> Ticket {
        self.start(Ask::Op(op), Kind::Break, op.drains().map(|p| vec![p]))
    }

    /// An operation whose range was wrong from the start.
    pub(crate) fn start_bad_op(&mut self, error: RangeError) -> Ticket {
        let nothing = Op::Truncate(u64::MAX);
        self.start(Ask::Op(nothing), Kind::Break, Err(error))
    }

    /// A break, if it would be drained at once.
    pub(crate) fn try_break(&mut self, span: Span) -> Result<Id, NoBreak> {
        let pages = Pages::of(span).map_err(NoBreak::Range)?;
        if self.closed {
            return Err(NoBreak::Closed);
        }
        let id = self.join(vec![pages], Kind::Break);
        let at = self.queue.len() - 1;
        if self.drained(at) {
            self.breaks += 1;
            return Ok(id);
        }
        let no = match self.has_turn(at) {
            true => NoBreak::Busy,
            false => NoBreak::Breaking,
        };
        self.queue.pop();
        Err(no)
    }

    /// Refuses everybody who has neither pages nor a proof; retirements stay.
    pub(crate) fn close(&mut self) -> Ticket {
        if !self.closed {
            let has = |at: usize| {
                self.granted(at) || self.drained(at) || self.queue[at].kind == Kind::Retired
            };
            let refused: Vec<bool> = (0..self.queue.len()).map(|at| !has(at)).collect();
            for (entry, refused) in self.queue.iter_mut().zip(refused) {
                entry.refused = refused;
            }
            self.closed = true;
        }
        Ticket {
            ask: Ask::Close,
            place: Place::Queued(self.join_break(vec![Pages::ALL], Kind::Close)),
        }
    }

    // ---- retirements ------------------------------------------------------------------------------

    pub(crate) fn retire(&mut self, span: Span, lsn: u64) -> Ticket {
        let ranges = Pages::of(span).map(|p| vec![p]);
        let ticket = self.start(Ask::Retired, Kind::Retired, ranges);
        if let Place::Queued(id) = ticket.place {
            let at = self.at(id);
            self.queue[at].lsn = lsn;
        }
        ticket
    }

    pub(crate) fn set_durable(&mut self, lsn: u64) {
        self.durable = self.durable.max(lsn);
    }

    /// Runs all that can be run, in ticket order, and tells how many pages were freed.
    pub(crate) fn run_retired(&mut self) -> u64 {
        let mut freed = 0;
        while let Some(at) = self.first_ready() {
            freed += self.run_at(at);
        }
        freed
    }

    fn run_at(&mut self, at: usize) -> u64 {
        let Entry { id, ranges, .. } = self.queue.remove(at);
        let outcome = self.map.run(Op::Punch(ranges[0])).map_err(OpError::Map);
        let freed = *outcome.as_ref().unwrap_or(&0);
        self.outcomes.push((id, outcome));
        freed
    }

    /// What waiting for the closing `id` does.
    pub(super) fn run_left(&mut self) {
        loop {
            if let Some(at) = self.first_ready() {
                self.run_at(at);
                self.at_close.0 += 1;
            } else if let Some(at) = self.last_given_up() {
                let id = self.queue.remove(at).id;
                let given_up = Err(BreakError::Closed.into());
                self.outcomes.push((id, given_up));
                self.at_close.1 += 1;
            } else {
                return;
            }
        }
    }

    /// How many retirements closings have run, and how many they have given up, since this was asked.
    pub(crate) fn take_run_at_close(&mut self) -> (u64, u64) {
        std::mem::take(&mut self.at_close)
    }

    // ---- waiting ----------------------------------------------------------------------------------

    /// Waits for a retirement to run.
    pub(crate) fn ready(&self) -> Ticket {
        Ticket {
            ask: Ask::Ready,
            place: Place::Nowhere,
        }
    }

    /// Waits for a recall of the lease `id`.
    pub(crate) fn recall(&self, id: Id) -> Ticket {
        Ticket {
            ask: Ask::Recall(id),
            place: Place::Nowhere,
        }
    }

    /// Polls: the answer, if there is one. A pin or a lease takes its ticket here.
    pub(crate) fn poll(
        &mut self,
        ticket: &mut Ticket,
        thread: ThreadId,
        label: Option<&'static str>,
    ) -> Option<Answer> {
        let mut thread = Some(thread);
        let taken = |ask: Ask, result: Result<Id, PinError>| match ask {
            Ask::Pin => Answer::Pin(result),
            _ => Answer::Lease(result),
        };
        let ask = ticket.ask;
        let id = match &ticket.place {
            Place::Queued(id) => {
                // Whoever reopens grants, so who took the pages cannot be told.
                thread = None;
                *id
            }
            Place::Outside(Err(error)) => return Some(taken(ask, Err((*error).into()))),
            Place::Outside(Ok(_)) if self.closed => {
                return Some(taken(ask, Err(PinError::Closed)));
            }
            Place::Outside(Ok(pages)) => {
                let kind = match ask {
                    Ask::Pin => Kind::Pin,
                    _ => Kind::Lease,
                };
                let id = self.join(vec![*pages], kind);
                self.queue.last_mut().expect("just pushed").label = label;
                ticket.place = Place::Queued(id);
                id
            }
            Place::Failed(error) => {
                return Some(match ask {
                    Ask::Op(_) | Ask::Retired => Answer::Freed(Err((*error).into())),
                    Ask::LeaseBreak => Answer::Free(Err(*error)),
                    _ => Answer::Proof(Err(*error)),
                });
            }
            Place::Nowhere => {
                return match ask {
                    Ask::Recall(lease) => {
                        let wanted = self.wanted(self.held(lease).pages);
                        wanted.map(Answer::Recalled)
                    }
                    _ => self.reclaimer_is_told().then_some(Answer::Ready),
                };
            }
        };
        if let Ask::Close = ask {
            self.run_left();
        }
        if !self.is_ready(ticket) {
            return None;
        }
        let Some(at) = self.find(id) else {
            return Some(Answer::Freed(self.outcome(id)));
        };
        let refused = self.queue[at].refused;
        let pages = self.queue[at].ranges[0];
        if refused || matches!(ask, Ask::Pin | Ask::Lease) {
            self.queue.remove(at);
        }
        Some(match ask {
            Ask::Pin | Ask::Lease if refused => taken(ask, Err(PinError::Closed)),
            Ask::Break if refused => Answer::Proof(Err(BreakError::Closed)),
            Ask::LeaseBreak if refused => Answer::Free(Err(BreakError::Closed)),
            Ask::Op(_) if refused => Answer::Freed(Err(BreakError::Closed.into())),
            Ask::Pin => taken(ask, Ok(self.hold(pages, HolderKind::Pin, thread))),
            Ask::Lease => {
                let id = self.hold(pages, HolderKind::Lease, thread);
                self.held.last_mut().expect("just pushed").label = label;
                taken(ask, Ok(id))
            }
            Ask::Break => Answer::Proof(Ok(id)),
            Ask::LeaseBreak => Answer::Free(Ok(id)),
            Ask::Op(op) => {
                let freed = self.map.run(op).map_err(OpError::Map);
                self.reopen(id);
                Answer::Freed(freed)
            }
            Ask::Retired => {
                self.run_at(at);
                Answer::Freed(self.outcome(id))
            }
            Ask::Close => {
                self.reopen(id);
                Answer::Closed
            }
            Ask::Ready | Ask::Recall(_) => unreachable!("they have no place"),
        })
    }

    fn outcome(&mut self, id: Id) -> Result<u64, OpError<ExtentError>> {
        let at = self.outcomes.iter().position(|(of, _)| *of == id);
        self.outcomes
            .swap_remove(at.expect("the twin lost an outcome"))
            .1
    }

    /// One who waited goes away. A retirement goes on all the same; with one who waited for its recall
    /// goes the lease.
    pub(crate) fn cancel(&mut self, ticket: &Ticket) {
        match (&ticket.place, ticket.ask) {
            (_, Ask::Retired) => {}
            (_, Ask::Recall(lease)) => self.give_back(lease),
            (Place::Queued(id), _) => self.reopen(*id),
            _ => {}
        }
    }

    // ---- proofs -----------------------------------------------------------------------------------

    /// A proof, of whichever kind, is given back.
    pub(crate) fn reopen(&mut self, id: Id) {
        let at = self.at(id);
        self.queue.remove(at);
    }

    /// Parts a proof. The halves have the same place in the queue: nobody was between.
    pub(crate) fn split(&mut self, id: Id, page: u64) -> Option<(Id, Id)> {
        let at = self.at(id);
        let whole = self.queue[at].clone();
        let cut = |half: Option<Pages>| -> Vec<Pages> {
            let parts = whole.ranges.iter();
            parts.filter_map(|range| range.meet(half?)).collect()
        };
        let half = |lo: u64, hi: u64| (lo < hi).then_some(Pages { lo, hi });
        let (low, high) = (cut(half(0, page)), cut(half(page, u64::MAX)));
        if low.is_empty() || high.is_empty() {
            return None;
        }
        let second = self.next();
        self.queue[at].ranges = low;
        let half = Entry {
            id: second,
            ranges: high,
            ..whole
        };
        self.queue.insert(at + 1, half);
        Some((id, second))
    }

    /// An operation under a proof in hand.
    pub(crate) fn under(&mut self, id: Id, op: Op) -> Result<u64, OpError<ExtentError>> {
        let needs = op.drains().map_err(|e| OpError::Break(e.into()))?;
        if !self.proof(id).iter().any(|range| range.covers(needs)) {
            return Err(OpError::NotCovered);
        }
        self.map.run(op).map_err(OpError::Map)
    }
}
