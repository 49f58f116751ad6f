//! One who is in the queue of a mapping: what it wants, and whom it has to wait for.
//!
//! | entry | waits for earlier entries that overlap it | then | by |
//! | --- | --- | --- | --- |
//! | pin, `Waiting` | breaks | `Pinned`: the slot is filled on its behalf | whoever takes the last of them out |
//! | lease, `Waiting` | breaks, breaks of leases | `Leased` | whoever takes the last of them out |
//! | break or retirement, `Queued` | breaks, waiting pins and leases | `Draining` | whoever takes the last of them out |
//! | break of leases, `Queued` | waiting leases | `Draining` | whoever takes the last of them out |
//! | any break, `Draining` | its holders | `Drained`: the proof | the last of them, or the breaker itself |
//! | any break, `Drained` | – | gone | the proof's drop |
//! | retirement, `Drained` | the log, and somebody who runs it | on the [shelf](crate::raw::shelf), then gone | whoever has run it |
//! | pin, lease or break that is waiting | – | `Refused` | the guard's close |
//!
//! Pins and leases never wait for pins and leases. A break of leases and a break of the same pages get on
//! with each other: both keep leases out. A closing guard and a dropped guard whose holders live on are
//! breaks of everything; but a closing does not wait for what is retired, which whoever waits for it runs.

use std::any::Any;
use std::borrow::Cow;
use std::panic::Location;
use std::sync::Arc;
use std::time::Instant;

use crate::range::PageRange;
use crate::raw::slots::Slot;
use crate::raw::wait::Bell;
use crate::sync::mutant;

/// The ranges of one break: in order, and apart from each other.
#[derive(Clone)]
pub(crate) enum Ranges {
    None,
    One([PageRange; 1]),
    Many(Arc<[PageRange]>),
}

impl Ranges {
    #[inline]
    pub(crate) fn as_slice(&self) -> &[PageRange] {
        match self {
            Ranges::None => &[],
            Ranges::One(one) => one,
            Ranges::Many(many) => many,
        }
    }

    pub(crate) fn overlaps(&self, range: &PageRange) -> bool {
        // The first that ends behind its start is the only one that can be in the way.
        let all = self.as_slice();
        let at = all.partition_point(|r| r.end() <= range.start());
        all.get(at).is_some_and(|r| r.overlaps(range))
    }

    pub(crate) fn overlap(&self, other: &Ranges) -> bool {
        self.as_slice().iter().any(|r| other.overlaps(r))
    }

    /// The smallest range that has all pages in it that are in `range` too.
    pub(crate) fn hull_within(&self, range: &PageRange) -> Option<PageRange> {
        let parts = self.as_slice().iter().filter_map(|r| r.intersection(range));
        parts.reduce(|a, b| PageRange::reassembled(a.start(), b.end()))
    }

    /// Puts ranges in order and joins those that overlap or touch.
    pub(crate) fn normalized(mut ranges: Vec<PageRange>) -> Ranges {
        join(&mut ranges);
        match ranges.as_slice() {
            [] => Ranges::None,
            [one] => Ranges::One([*one]),
            _ => Ranges::Many(ranges.into()),
        }
    }
}

impl From<PageRange> for Ranges {
    fn from(range: PageRange) -> Self {
        Ranges::One([range])
    }
}

pub(super) fn join(ranges: &mut Vec<PageRange>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let touches = next.start() <= last.end();
        if touches {
            *last = PageRange::reassembled(last.start(), last.end().max(next.end()));
        }
        touches
    });
}

/// One who is in the queue.
pub(crate) struct Entry {
    pub(super) id: u64,
    pub(super) ranges: Ranges,
    pub(super) what: What,
    /// Rung once, when the entry has become what it waited to be.
    pub(super) bell: Bell,
    /// When a break found that it had to wait.
    pub(super) since: Option<Instant>,
}

pub(crate) enum What {
    /// Somebody who waits for pages to be open.
    Taker(Box<Taker>),
    Break(BreakState),
    /// A break of leases alone: its ranges are closed to leases, not to pins.
    LeaseBreak(BreakState),
    /// A break without a breaker: once it is drained, somebody frees its blocks.
    Retired(Box<Retired>),
    /// The guard is closing: nobody gets a proof, but whoever closes wants to know when it is idle.
    Close(BreakState),
    /// The guard was dropped under live holders; the last of them takes the map with it.
    Abandoned {
        remaining: usize,
        map: Box<dyn Any + Send>,
    },
}

pub(crate) struct Taker {
    pub(super) range: PageRange,
    pub(super) location: &'static Location<'static>,
    pub(super) wants: Wants,
    pub(super) state: TakerState,
}

pub(crate) enum Wants {
    Pin,
    /// A lease with this name.
    Lease(Option<Cow<'static, str>>),
}

pub(crate) enum TakerState {
    Waiting,
    /// The slot is filled. Whoever takes the entry out **must** hand the slot on or free it.
    Pinned(&'static Slot),
    /// The lease is written down. Whoever takes the entry out **must** hand it on or give it back.
    Leased(u32),
    Refused,
}

/// A retirement.
pub(crate) struct Retired {
    pub(super) state: BreakState,
    /// What must be on media before the blocks are freed.
    pub(super) lsn: u64,
    /// Somebody is giving it up. He **must** take the entry out, whatever becomes of it.
    pub(super) running: bool,
    /// What the guard's layer has to do with it.
    pub(super) job: Arc<dyn Any + Send + Sync>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum BreakState {
    /// Somebody is before it.
    Queued,
    /// Nobody is before it; holders are left.
    Draining {
        remaining: usize,
    },
    /// Nothing is left. Whoever takes the entry out **must** publish the gate and settle the rest.
    Drained,
    Refused,
}

impl What {
    /// Whether it has to wait for an earlier retirement that overlaps it.
    pub(super) fn waits_for_retired(&self) -> bool {
        // A break of leases does not mind it, and who waits for a closing runs it himself.
        !matches!(self, What::LeaseBreak(_) | What::Close(_))
    }
}

impl Entry {
    #[inline]
    pub(super) fn new(id: u64, ranges: Ranges, what: What) -> Self {
        Self {
            id,
            ranges,
            what,
            bell: Bell::default(),
            since: None,
        }
    }

    /// The state of a break, of whichever kind.
    #[inline]
    pub(super) fn state(&self) -> Option<BreakState> {
        match &self.what {
            What::Break(state) | What::LeaseBreak(state) | What::Close(state) => Some(*state),
            What::Retired(retired) => Some(retired.state),
            What::Taker(_) | What::Abandoned { .. } => None,
        }
    }

    #[inline]
    pub(super) fn set_state(&mut self, new: BreakState) {
        match &mut self.what {
            What::Break(state) | What::LeaseBreak(state) | What::Close(state) => *state = new,
            What::Retired(retired) => retired.state = new,
            What::Abandoned { remaining, .. } => {
                *remaining = match new {
                    BreakState::Draining { remaining } => remaining,
                    _ => 0,
                };
            }
            What::Taker(_) => {}
        }
    }

    /// Whether its ranges are closed to pins and leases.
    #[inline]
    pub(super) fn closes(&self) -> bool {
        match self.what {
            What::Taker(_) | What::LeaseBreak(_) => false,
            What::Abandoned { .. } => true,
            _ => self.state() != Some(BreakState::Refused),
        }
    }

    /// Whether its ranges are closed to leases.
    pub(super) fn closes_to_leases(&self) -> bool {
        match self.what {
            What::LeaseBreak(state) => state != BreakState::Refused,
            _ => self.closes(),
        }
    }

    /// Whether a later entry that overlaps it has to wait for it (I3).
    pub(super) fn keeps_waiting(&self, later: &What) -> bool {
        let waits = matches!(&self.what, What::Taker(t) if t.is_waiting());
        let waits = waits && !mutant!("waiting_overtaken");
        match later {
            What::Taker(taker) => match taker.wants {
                Wants::Pin => self.closes(),
                Wants::Lease(_) => self.closes_to_leases(),
            },
            What::LeaseBreak(_) => {
                waits && matches!(&self.what, What::Taker(t) if matches!(t.wants, Wants::Lease(_)))
            }
            // Behind a closing there is nothing but other closings, which want the same. What is retired, who
            // waits for the closing runs himself.
            What::Close(_) => match self.what {
                What::Close(_) | What::Retired(_) => false,
                _ => waits || self.closes_to_leases(),
            },
            _ => match self.what {
                What::LeaseBreak(_) => false,
                _ => waits || self.closes() && !mutant!("turn_not_awaited"),
            },
        }
    }

    /// Whether it waits for pins, and not for leases alone.
    #[inline]
    pub(super) fn waits_for_pins(&self) -> bool {
        !matches!(self.what, What::LeaseBreak(_))
    }

    /// Whether it is a break that waits for nobody any more.
    #[inline]
    pub(super) fn is_drained(&self) -> bool {
        self.state() == Some(BreakState::Drained)
    }

    /// [`draining`](Self::draining), if pins of `range` are among them.
    #[inline]
    pub(super) fn pins_left(&mut self, range: &PageRange) -> Option<&mut usize> {
        let among = self.waits_for_pins() && self.ranges.overlaps(range);
        if among { self.draining() } else { None }
    }

    /// How many holders it still waits for, if it is draining.
    pub(super) fn draining(&mut self) -> Option<&mut usize> {
        let state = match &mut self.what {
            What::Break(state) | What::LeaseBreak(state) | What::Close(state) => state,
            What::Retired(retired) => &mut retired.state,
            What::Abandoned { remaining, .. } => return Some(remaining),
            What::Taker(_) => return None,
        };
        match state {
            BreakState::Draining { remaining } => Some(remaining),
            _ => None,
        }
    }
}

impl Taker {
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, TakerState::Waiting)
    }
}
