//! The naive twin: the rules of `DESIGN.md`, section 4, said again over a `Vec` of pins and a `Vec` of
//! tickets. (The pages and their blocks are in `map.rs`.)
//!
//! Nothing is remembered that can be asked: whether a waiter has been granted or a break is drained is
//! worked out from the lists each time. So there is no state to keep up to date, and no update to forget.

use std::ops::Bound;
use std::thread::ThreadId;

use layout_lease::maps::ExtentError;
use layout_lease::{BreakError, OpError, PageRange, PinError, RangeError, TryPinError};

use crate::map::Map;

/// A range as a caller would write it.
pub(crate) type Span = (Bound<u64>, Bound<u64>);

/// Pages from `lo` to before `hi`; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pages {
    pub(crate) lo: u64,
    pub(crate) hi: u64,
}

impl Pages {
    pub(crate) const ALL: Pages = Pages {
        lo: 0,
        hi: u64::MAX,
    };

    /// What `span` names. The page `u64::MAX` cannot be named, not even by an end behind it.
    pub(crate) fn of(span: Span) -> Result<Pages, RangeError> {
        const MAX: u128 = u64::MAX as u128;
        let lo = match span.0 {
            Bound::Included(page) => u128::from(page),
            Bound::Excluded(page) => u128::from(page) + 1,
            Bound::Unbounded => 0,
        };
        let hi = match span.1 {
            Bound::Included(page) => u128::from(page) + 1,
            Bound::Excluded(page) => u128::from(page),
            // Everything from `lo` on; from the last page on, that is the page that cannot be named.
            Bound::Unbounded => MAX.max(lo + 1),
        };
        if lo > MAX || hi > MAX {
            return Err(RangeError::Unaddressable);
        }
        let (start, end) = (lo as u64, hi as u64);
        match start.cmp(&end) {
            std::cmp::Ordering::Less => Ok(Pages { lo: start, hi: end }),
            std::cmp::Ordering::Equal => Err(RangeError::Empty { at: start }),
            std::cmp::Ordering::Greater => Err(RangeError::Inverted { start, end }),
        }
    }

    pub(crate) fn from(page: u64) -> Result<Pages, RangeError> {
        Pages::of((Bound::Included(page), Bound::Unbounded))
    }

    pub(crate) fn one(page: u64) -> Pages {
        Pages {
            lo: page,
            hi: page + 1,
        }
    }

    pub(crate) fn has(self, page: u64) -> bool {
        self.lo <= page && page < self.hi
    }

    pub(crate) fn overlap(self, other: Pages) -> bool {
        self.lo.max(other.lo) < self.hi.min(other.hi)
    }

    pub(crate) fn len(self) -> u64 {
        self.hi - self.lo
    }

    pub(crate) fn real(self) -> PageRange {
        PageRange::new(self.lo, self.hi).expect("not empty")
    }
}

impl PartialEq<PageRange> for Pages {
    fn eq(&self, real: &PageRange) -> bool {
        (self.lo, self.hi) == (real.start(), real.end())
    }
}

/// A block operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Punch(Pages),
    Zero(Pages),
    Truncate(u64),
    Collapse(Pages),
    Insert(Pages),
}

impl Op {
    /// What must be idle: whatever loses its block or moves.
    pub(crate) fn drains(self) -> Result<Pages, RangeError> {
        match self {
            Op::Punch(pages) | Op::Zero(pages) => Ok(pages),
            Op::Truncate(page) => Pages::from(page),
            Op::Collapse(pages) | Op::Insert(pages) => Pages::from(pages.lo),
        }
    }
}

pub(crate) type Id = u64;

/// What somebody waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    Pin,
    Break,
    Op(Op),
    Close,
}

/// One who waits.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub(crate) ask: Ask,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    /// A pin that nobody has polled yet.
    Outside(Result<Pages, RangeError>),
    /// Refused before it had a place.
    Failed(BreakError),
    Queued(Id),
}

/// How a wait ends.
#[derive(Debug)]
pub(crate) enum Answer {
    Pin(Result<Id, PinError>),
    Proof(Result<Id, BreakError>),
    Freed(Result<u64, OpError<ExtentError>>),
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

/// A place in the queue.
#[derive(Clone, Debug)]
struct Entry {
    id: Id,
    pages: Pages,
    kind: Kind,
    /// The guard was closed before it got what it waited for.
    refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Pin,
    Break,
    Close,
}

/// A pin in somebody's hands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) id: Id,
    pub(crate) pages: Pages,
    /// The thread that took it, as far as `holders` can know.
    pub(crate) thread: Option<ThreadId>,
}

/// Counts, as `Stats` has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Counts {
    pub(crate) pins: usize,
    pub(crate) breaks: u64,
    pub(crate) waited: u64,
    pub(crate) queued: usize,
}

#[derive(Debug)]
pub(crate) struct Twin {
    last: Id,
    pins: Vec<Held>,
    /// In ticket order.
    queue: Vec<Entry>,
    closed: bool,
    breaks: u64,
    waited: u64,
    pub(crate) map: Map,
}

impl Twin {
    pub(crate) fn new(blocks: u64) -> Twin {
        Twin {
            last: 0,
            pins: Vec::new(),
            queue: Vec::new(),
            closed: false,
            breaks: 0,
            waited: 0,
            map: Map::new(blocks),
        }
    }

    // ---- the rules --------------------------------------------------------------------------------

    /// A pin that waits is granted when no earlier break overlaps it; pins never wait for pins.
    fn granted(&self, at: usize) -> bool {
        let me = &self.queue[at];
        let earlier = self.queue[..at].iter();
        let mut breaks = earlier.filter(|e| e.kind != Kind::Pin && !e.refused);
        me.kind == Kind::Pin && !me.refused && !breaks.any(|e| e.pages.overlap(me.pages))
    }

    /// Everybody who has pages: pins in hand, and pins granted that nobody has fetched.
    pub(crate) fn holders(&self, of: Pages) -> Vec<Held> {
        let granted = (0..self.queue.len()).filter(|&at| self.granted(at));
        let unfetched = granted.map(|at| Held {
            id: self.queue[at].id,
            pages: self.queue[at].pages,
            thread: None,
        });
        let all = self.pins.iter().copied().chain(unfetched);
        all.filter(|held| held.pages.overlap(of)).collect()
    }

    /// A break is drained when nobody has its pages and nobody earlier wants them.
    fn drained(&self, at: usize) -> bool {
        let me = &self.queue[at];
        let wants = |at: usize| !self.queue[at].refused && !self.granted(at);
        let in_the_way = |at: usize| self.queue[at].pages.overlap(me.pages) && wants(at);
        me.kind == Kind::Break
            && !me.refused
            && self.holders(me.pages).is_empty()
            && !(0..at).any(in_the_way)
    }

    /// Whoever closes waits until no pin is left, and no break that had its proof.
    fn idle(&self) -> bool {
        let proofs = self
            .queue
            .iter()
            .any(|e| e.kind == Kind::Break && !e.refused);
        !proofs && self.holders(Pages::ALL).is_empty()
    }

    /// Whether some break, active or queued, wants one of `pages`.
    pub(crate) fn is_closed(&self, pages: Pages) -> bool {
        let mut breaks = self.queue.iter().filter(|e| e.kind != Kind::Pin);
        self.closed || breaks.any(|e| e.pages.overlap(pages))
    }

    fn at(&self, id: Id) -> usize {
        let found = self.queue.iter().position(|e| e.id == id);
        found.expect("the twin lost a ticket")
    }

    /// Whether the wait would end now. A pin that was never polled does not wait yet.
    pub(crate) fn is_ready(&self, ticket: &Ticket) -> bool {
        match ticket.place {
            Place::Outside(_) => false,
            Place::Failed(_) => true,
            Place::Queued(id) => {
                let at = self.at(id);
                self.queue[at].refused
                    || match ticket.ask {
                        Ask::Pin => self.granted(at),
                        Ask::Break | Ask::Op(_) => self.drained(at),
                        Ask::Close => self.idle(),
                    }
            }
        }
    }

    /// Whether it is a break with its proof to fetch.
    pub(crate) fn is_drained(&self, ticket: &Ticket) -> bool {
        match ticket.place {
            Place::Queued(id) => self.drained(self.at(id)),
            _ => false,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            pins: self.holders(Pages::ALL).len(),
            breaks: self.breaks,
            waited: self.waited,
            // Documented as "active, and waiting": a ticket that nobody has come back for counts too.
            queued: self.queue.len(),
        }
    }

    // ---- what callers do --------------------------------------------------------------------------

    fn next(&mut self) -> Id {
        self.last += 1;
        self.last
    }

    fn join(&mut self, pages: Pages, kind: Kind) -> Id {
        let id = self.next();
        let refused = false;
        self.queue.push(Entry {
            id,
            pages,
            kind,
            refused,
        });
        id
    }

    /// Takes a place for a break, and counts it.
    fn join_break(&mut self, pages: Pages, kind: Kind) -> Id {
        let id = self.join(pages, kind);
        self.breaks += 1;
        let at = self.queue.len() - 1;
        let done = match kind {
            Kind::Close => self.idle(),
            _ => self.drained(at),
        };
        self.waited += u64::from(!done);
        id
    }

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
        Ok(self.hold(pages, thread))
    }

    fn hold(&mut self, pages: Pages, thread: Option<ThreadId>) -> Id {
        let id = self.next();
        self.pins.push(Held { id, pages, thread });
        id
    }

    pub(crate) fn unpin(&mut self, id: Id) {
        self.pins.retain(|held| held.id != id);
    }

    /// A thread is gone: its pins are still there, and nobody knows whose they were. Returns how many.
    pub(crate) fn forget_thread(&mut self, gone: ThreadId) -> u64 {
        let theirs = self
            .pins
            .iter_mut()
            .filter(|held| held.thread == Some(gone));
        theirs.map(|held| held.thread = None).count() as u64
    }

    pub(crate) fn pin(&self, span: Span) -> Ticket {
        Ticket {
            ask: Ask::Pin,
            place: Place::Outside(Pages::of(span)),
        }
    }

    fn start(&mut self, ask: Ask, pages: Result<Pages, RangeError>) -> Ticket {
        let place = match pages {
            Err(error) => Place::Failed(error.into()),
            Ok(_) if self.closed => Place::Failed(BreakError::Closed),
            Ok(pages) => Place::Queued(self.join_break(pages, Kind::Break)),
        };
        Ticket { ask, place }
    }

    pub(crate) fn start_break(&mut self, span: Span) -> Ticket {
        self.start(Ask::Break, Pages::of(span))
    }

    pub(crate) fn start_op(&mut self, op: Op) -> Ticket {
        self.start(Ask::Op(op), op.drains())
    }

    /// An operation whose range was wrong from the start.
    pub(crate) fn start_bad_op(&mut self, error: RangeError) -> Ticket {
        let nothing = Op::Truncate(u64::MAX);
        self.start(Ask::Op(nothing), Err(error))
    }

    /// A break, if it would be drained at once.
    pub(crate) fn try_break(&mut self, span: Span) -> Result<Id, NoBreak> {
        let pages = Pages::of(span).map_err(NoBreak::Range)?;
        if self.closed {
            return Err(NoBreak::Closed);
        }
        let id = self.join(pages, Kind::Break);
        if self.drained(self.queue.len() - 1) {
            self.breaks += 1;
            return Ok(id);
        }
        self.queue.pop();
        let wants = |at: usize| self.queue[at].pages.overlap(pages) && !self.granted(at);
        Err(match (0..self.queue.len()).any(wants) {
            true => NoBreak::Breaking,
            false => NoBreak::Busy,
        })
    }

    /// Refuses everybody who has neither a pin nor a proof.
    pub(crate) fn close(&mut self) -> Ticket {
        if !self.closed {
            let has = |at: usize| self.granted(at) || self.drained(at);
            let refused: Vec<bool> = (0..self.queue.len()).map(|at| !has(at)).collect();
            for (entry, refused) in self.queue.iter_mut().zip(refused) {
                entry.refused = refused;
            }
            self.closed = true;
        }
        Ticket {
            ask: Ask::Close,
            place: Place::Queued(self.join_break(Pages::ALL, Kind::Close)),
        }
    }

    /// Polls: the answer, if there is one. A pin takes its ticket here.
    pub(crate) fn poll(&mut self, ticket: &mut Ticket, thread: ThreadId) -> Option<Answer> {
        let mut thread = Some(thread);
        let id = match &ticket.place {
            Place::Queued(id) => {
                // Whoever reopens grants, so who took the pin cannot be told.
                thread = None;
                *id
            }
            Place::Outside(Err(error)) => return Some(Answer::Pin(Err((*error).into()))),
            Place::Outside(Ok(_)) if self.closed => {
                return Some(Answer::Pin(Err(PinError::Closed)));
            }
            Place::Outside(Ok(pages)) => {
                let id = self.join(*pages, Kind::Pin);
                ticket.place = Place::Queued(id);
                id
            }
            Place::Failed(error) => {
                return Some(match ticket.ask {
                    Ask::Op(_) => Answer::Freed(Err((*error).into())),
                    _ => Answer::Proof(Err(*error)),
                });
            }
        };
        if !self.is_ready(ticket) {
            return None;
        }
        let at = self.at(id);
        let Entry { pages, refused, .. } = self.queue[at];
        if refused {
            self.queue.remove(at);
        }
        Some(match ticket.ask {
            Ask::Pin if refused => Answer::Pin(Err(PinError::Closed)),
            Ask::Break if refused => Answer::Proof(Err(BreakError::Closed)),
            Ask::Op(_) if refused => Answer::Freed(Err(BreakError::Closed.into())),
            Ask::Pin => {
                self.queue.remove(at);
                Answer::Pin(Ok(self.hold(pages, thread)))
            }
            Ask::Break => Answer::Proof(Ok(id)),
            Ask::Op(op) => {
                let freed = self.map.run(op).map_err(OpError::Map);
                self.reopen(id);
                Answer::Freed(freed)
            }
            Ask::Close => {
                self.reopen(id);
                Answer::Closed
            }
        })
    }

    /// One who waited goes away.
    pub(crate) fn cancel(&mut self, ticket: &Ticket) {
        if let Place::Queued(id) = ticket.place {
            self.reopen(id);
        }
    }

    /// A proof is given back.
    pub(crate) fn reopen(&mut self, id: Id) {
        let at = self.at(id);
        self.queue.remove(at);
    }

    pub(crate) fn proof(&self, id: Id) -> Pages {
        self.queue[self.at(id)].pages
    }

    /// A pin in hand.
    pub(crate) fn held(&self, id: Id) -> Held {
        let held = self.pins.iter().find(|held| held.id == id);
        *held.expect("the twin lost a pin")
    }

    /// The pages of one who is in the queue.
    pub(crate) fn pages(&self, ticket: &Ticket) -> Option<Pages> {
        match ticket.place {
            Place::Queued(id) => Some(self.proof(id)),
            _ => None,
        }
    }

    /// Parts a proof. The halves have the same place in the queue: nobody was between.
    pub(crate) fn split(&mut self, id: Id, page: u64) -> Option<(Id, Id)> {
        let at = self.at(id);
        let whole = self.queue[at].clone();
        if page <= whole.pages.lo || whole.pages.hi <= page {
            return None;
        }
        let second = self.next();
        self.queue[at].pages.hi = page;
        let pages = Pages {
            lo: page,
            hi: whole.pages.hi,
        };
        let half = Entry {
            id: second,
            pages,
            ..whole
        };
        self.queue.insert(at + 1, half);
        Some((id, second))
    }

    /// An operation under a proof in hand.
    pub(crate) fn under(&mut self, id: Id, op: Op) -> Result<u64, OpError<ExtentError>> {
        let needs = op.drains().map_err(|e| OpError::Break(e.into()))?;
        let proof = self.proof(id);
        if needs.lo < proof.lo || proof.hi < needs.hi {
            return Err(OpError::NotCovered);
        }
        self.map.run(op).map_err(OpError::Map)
    }
}
