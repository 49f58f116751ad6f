//! The naive twin: the rules of `DESIGN.md`, section 4, said again over a `Vec` of holders and a `Vec` of
//! tickets. (What callers do to them is in `calls.rs`; the pages and their blocks are in `map.rs`.)
//!
//! Nothing is remembered that can be asked: whether a waiter has been granted, a break is drained, a lease
//! is recalled or a retirement can be run is worked out from the lists each time. So there is no state to
//! keep up to date, and no update to forget.

use std::ops::Bound;
use std::sync::OnceLock;
use std::thread::ThreadId;

use layout_lease::maps::ExtentError;
use layout_lease::{BreakError, HolderKind, OpError, PageRange, RangeError};

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

    pub(crate) fn covers(self, other: Pages) -> bool {
        self.lo <= other.lo && other.hi <= self.hi
    }

    pub(crate) fn meet(self, other: Pages) -> Option<Pages> {
        let (lo, hi) = (self.lo.max(other.lo), self.hi.min(other.hi));
        (lo < hi).then_some(Pages { lo, hi })
    }

    pub(crate) fn len(self) -> u64 {
        self.hi - self.lo
    }

    pub(crate) fn span(self) -> Span {
        (Bound::Included(self.lo), Bound::Excluded(self.hi))
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

/// Whether the twin has one rule wrong on purpose: breaks of leases wait for those, too, who want no more than pins.
/// Whoever compares with such a one must find that. (It waits too long, not too short: so nobody waits for ever.)
fn is_mistaken() -> bool {
    static MISTAKEN: OnceLock<bool> = OnceLock::new();
    *MISTAKEN.get_or_init(|| std::env::var_os("TWIN_MISTAKEN").is_some())
}

/// Puts ranges in order and joins those that overlap or touch: page by page it says the same.
pub(crate) fn joined(mut ranges: Vec<Pages>) -> Vec<Pages> {
    ranges.sort_unstable();
    let mut all: Vec<Pages> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if range.lo <= last.hi => last.hi = last.hi.max(range.hi),
            _ => all.push(range),
        }
    }
    all
}

/// What somebody waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    Pin,
    Lease,
    Break,
    LeaseBreak,
    Op(Op),
    /// The outcome of a retirement.
    Retired,
    /// That some retirement can be run.
    Ready,
    /// That the lease is recalled.
    Recall(Id),
    Close,
}

/// One who waits.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub(crate) ask: Ask,
    pub(super) place: Place,
}

#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A pin or a lease that nobody has polled yet.
    Outside(Result<Pages, RangeError>),
    /// Refused before it had a place.
    Failed(BreakError),
    Queued(Id),
    /// Waits for something that needs no place.
    Nowhere,
}

/// A place in the queue.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) id: Id,
    pub(super) ranges: Vec<Pages>,
    pub(super) kind: Kind,
    /// The guard was closed before it got what it waited for.
    pub(super) refused: bool,
    /// What a retirement waits for on media, beside its holders.
    pub(super) lsn: u64,
    /// The name of a lease.
    pub(super) label: Option<&'static str>,
}

impl Entry {
    pub(super) fn overlaps(&self, pages: Pages) -> bool {
        self.ranges.iter().any(|range| range.overlap(pages))
    }

    fn meets(&self, other: &Entry) -> bool {
        self.ranges.iter().any(|range| other.overlaps(*range))
    }

    fn waits_for_pages(&self) -> bool {
        matches!(self.kind, Kind::Pin | Kind::Lease)
    }

    /// Whether it keeps pins out.
    pub(super) fn closes(&self) -> bool {
        matches!(self.kind, Kind::Break | Kind::Retired | Kind::Close) && !self.refused
    }

    /// Whether it keeps leases out.
    pub(super) fn closes_to_leases(&self) -> bool {
        self.closes() || self.kind == Kind::LeaseBreak && !self.refused
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Pin,
    Lease,
    Break,
    LeaseBreak,
    Retired,
    Close,
}

/// A pin or a lease in somebody's hands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) id: Id,
    pub(crate) pages: Pages,
    pub(crate) kind: HolderKind,
    /// The thread that took it, as far as `holders` can know.
    pub(crate) thread: Option<ThreadId>,
    pub(crate) label: Option<&'static str>,
    pub(super) extension: bool,
}

/// Counts, as `Stats` has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Counts {
    pub(crate) pins: usize,
    pub(crate) leases: usize,
    pub(crate) breaks: u64,
    pub(crate) waited: u64,
    pub(crate) queued: usize,
    pub(crate) retired: u64,
}

/// What became of a retirement that somebody waits for.
pub(super) type Outcome = Result<u64, OpError<ExtentError>>;

#[derive(Clone, Debug)]
pub(crate) struct Twin {
    pub(super) last: Id,
    pub(super) held: Vec<Held>,
    /// In ticket order.
    pub(super) queue: Vec<Entry>,
    pub(super) closed: bool,
    pub(super) breaks: u64,
    pub(super) waited: u64,
    /// Everything up to here is on media.
    pub(super) durable: u64,
    pub(super) outcomes: Vec<(Id, Outcome)>,
    /// What closings have run, and what they have given up, since somebody asked.
    pub(super) at_close: (u64, u64),
    pub(crate) map: Map,
}

impl Twin {
    pub(crate) fn new(blocks: u64) -> Twin {
        Twin {
            last: 0,
            held: Vec::new(),
            queue: Vec::new(),
            closed: false,
            breaks: 0,
            waited: 0,
            durable: 0,
            outcomes: Vec::new(),
            at_close: (0, 0),
            map: Map::new(blocks),
        }
    }

    /// Who wants pages is granted them when no earlier break overlaps them, nor for a lease a break of
    /// leases; pins and leases never wait for pins and leases.
    pub(super) fn granted(&self, at: usize) -> bool {
        let me = &self.queue[at];
        let mut earlier = self.queue[..at].iter();
        me.waits_for_pages()
            && !me.refused
            && !earlier.any(|e| match me.kind {
                Kind::Pin => e.closes() && e.meets(me),
                _ => e.closes_to_leases() && e.meets(me),
            })
    }

    /// Everybody who has pages: holders, and those who have been granted and have not fetched it.
    pub(crate) fn holders(&self, of: Pages) -> Vec<Held> {
        let granted = (0..self.queue.len()).filter(|&at| self.granted(at));
        let unfetched = granted.map(|at| {
            let entry = &self.queue[at];
            Held {
                id: entry.id,
                pages: entry.ranges[0],
                kind: match entry.kind {
                    Kind::Pin => HolderKind::Pin,
                    _ => HolderKind::Lease,
                },
                thread: None,
                label: entry.label,
                extension: false,
            }
        });
        let all = self.held.iter().copied().chain(unfetched);
        all.filter(|held| held.pages.overlap(of)).collect()
    }

    /// Whom a break of `ranges` meets.
    pub(crate) fn holders_of(&self, ranges: &[Pages]) -> Vec<Held> {
        let mut all = self.holders(Pages::ALL);
        all.retain(|held| ranges.iter().any(|range| range.overlap(held.pages)));
        all
    }

    /// Those among them who have leases.
    pub(crate) fn lease_holders(&self, ranges: &[Pages]) -> Vec<Held> {
        let mut all = self.holders_of(ranges);
        all.retain(|held| held.kind == HolderKind::Lease);
        all
    }

    /// Whether somebody earlier has pages of a break to come, or wants them. A break of leases minds only
    /// those who want leases, and is minded only by them.
    pub(super) fn has_turn(&self, at: usize) -> bool {
        let me = &self.queue[at];
        !(0..at).any(|n| {
            let e = &self.queue[n];
            let wants = e.waits_for_pages() && !e.refused && !self.granted(n);
            e.meets(me)
                && match me.kind {
                    Kind::LeaseBreak => wants && (e.kind == Kind::Lease || is_mistaken()),
                    _ => wants || e.closes(),
                }
        })
    }

    /// A break is drained when it has its turn and nobody has its pages.
    pub(super) fn drained(&self, at: usize) -> bool {
        let me = &self.queue[at];
        let idle = match me.kind {
            Kind::Break | Kind::Retired => self.holders_of(&me.ranges).is_empty(),
            Kind::LeaseBreak => self.lease_holders(&me.ranges).is_empty(),
            _ => return false,
        };
        idle && !me.refused && self.has_turn(at)
    }

    /// Whoever closes waits until no holder is left, no proof of either kind, and no retirement.
    pub(super) fn idle(&self) -> bool {
        self.idle_but_retired() && !self.queue.iter().any(|e| e.kind == Kind::Retired)
    }

    /// No holder is left, and no proof of either kind.
    pub(super) fn idle_but_retired(&self) -> bool {
        let breaks = [Kind::Break, Kind::LeaseBreak];
        let in_the_way = |e: &Entry| breaks.contains(&e.kind) && !e.refused;
        !self.queue.iter().any(in_the_way) && self.holders(Pages::ALL).is_empty()
    }

    /// Whether some break, active or queued, wants one of `pages`.
    pub(crate) fn is_closed(&self, pages: Pages) -> bool {
        self.closed || self.queue.iter().any(|e| e.closes() && e.overlaps(pages))
    }

    /// The hull of what is wanted of a lease.
    pub(crate) fn wanted(&self, lease: Pages) -> Option<Pages> {
        if self.closed {
            return Some(lease);
        }
        let wanting = self.queue.iter().filter(|e| e.closes_to_leases());
        let parts = wanting.flat_map(|e| e.ranges.iter().filter_map(|r| r.meet(lease)));
        parts.reduce(|a, b| Pages {
            lo: a.lo.min(b.lo),
            hi: a.hi.max(b.hi),
        })
    }

    // ---- retirements ------------------------------------------------------------------------------

    fn is_retired(&self, at: usize) -> bool {
        self.queue[at].kind == Kind::Retired
    }

    fn can_run(&self, at: usize) -> bool {
        self.is_retired(at) && self.drained(at) && self.queue[at].lsn <= self.durable
    }

    /// The first retirement that can be run.
    pub(super) fn first_ready(&self) -> Option<usize> {
        (0..self.queue.len()).find(|&at| self.can_run(at))
    }

    /// Whether a retirement can be run.
    pub(crate) fn has_ready(&self) -> bool {
        self.first_ready().is_some()
    }

    /// Whether whoever waits for work need not any more: there is some, or there never will be.
    pub(super) fn reclaimer_is_told(&self) -> bool {
        self.first_ready().is_some() || self.closed && self.retirements() == 0
    }

    /// How many retirements there are.
    pub(crate) fn retirements(&self) -> u64 {
        self.queue
            .iter()
            .filter(|e| e.kind == Kind::Retired)
            .count() as u64
    }

    /// Whether some retirement waits for the log alone.
    pub(crate) fn is_undurable(&self) -> bool {
        (0..self.queue.len()).any(|at| self.is_retired(at) && self.drained(at) && !self.can_run(at))
    }

    /// What whoever closes gives up: the last retirement, if nothing but such is left, and each waits for the
    /// log or for one before it.
    pub(super) fn last_given_up(&self) -> Option<usize> {
        let all = 0..self.queue.len();
        let ready = |at: usize| self.is_retired(at) && self.can_run(at);
        if !self.idle_but_retired() || all.clone().any(ready) {
            return None;
        }
        all.rev().find(|&at| self.is_retired(at))
    }

    /// Whether the closing could run or give up something now.
    pub(crate) fn has_work(&self, ticket: &Ticket) -> bool {
        match ticket.place {
            Place::Queued(_) => self.first_ready().is_some() || self.last_given_up().is_some(),
            _ => false,
        }
    }

    // ---- questions --------------------------------------------------------------------------------

    pub(super) fn find(&self, id: Id) -> Option<usize> {
        self.queue.iter().position(|e| e.id == id)
    }

    pub(super) fn at(&self, id: Id) -> usize {
        self.find(id).expect("the twin lost a ticket")
    }

    /// Whether the wait would end now. A pin or a lease that was never polled does not wait yet.
    pub(crate) fn is_ready(&self, ticket: &Ticket) -> bool {
        let id = match (&ticket.place, ticket.ask) {
            (Place::Outside(_), _) => return false,
            (Place::Failed(_), _) => return true,
            (_, Ask::Ready) => return self.reclaimer_is_told(),
            (_, Ask::Recall(lease)) => return self.wanted(self.held(lease).pages).is_some(),
            (Place::Queued(id), _) => *id,
            (Place::Nowhere, ask) => unreachable!("{ask:?} has a place"),
        };
        // A retirement that somebody has run.
        let Some(at) = self.find(id) else { return true };
        self.queue[at].refused
            || match ticket.ask {
                Ask::Retired => self.can_run(at),
                Ask::Close => {
                    let mut after = self.clone();
                    after.run_left();
                    after.idle()
                }
                _ => self.granted(at) || self.drained(at),
            }
    }

    /// Whether it is a break with its proof to fetch.
    pub(crate) fn is_drained(&self, ticket: &Ticket) -> bool {
        match ticket.place {
            Place::Queued(id) => self.find(id).is_some_and(|at| self.drained(at)),
            _ => false,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let holders = self.holders(Pages::ALL);
        let leases = holders.iter().filter(|h| h.kind == HolderKind::Lease);
        let leases = leases.count();
        let retired = self.queue.iter().filter(|e| e.kind == Kind::Retired);
        Counts {
            pins: holders.len() - leases,
            leases,
            breaks: self.breaks,
            waited: self.waited,
            // Documented as "active, and waiting": a ticket that nobody has come back for counts too.
            queued: self.queue.len(),
            retired: retired
                .map(|e| e.ranges[0].len())
                .fold(0, u64::saturating_add),
        }
    }

    pub(crate) fn proof(&self, id: Id) -> &[Pages] {
        &self.queue[self.at(id)].ranges
    }

    /// What somebody has in hand.
    pub(crate) fn held(&self, id: Id) -> Held {
        let held = self.held.iter().find(|held| held.id == id);
        *held.expect("the twin lost a holder")
    }

    pub(crate) fn is_extension(&self, id: Id) -> bool {
        self.held(id).extension
    }

    /// The ranges of one who is in the queue.
    pub(crate) fn ranges(&self, ticket: &Ticket) -> Option<&[Pages]> {
        match ticket.place {
            Place::Queued(id) => self.find(id).map(|at| &self.queue[at].ranges[..]),
            _ => None,
        }
    }
}
