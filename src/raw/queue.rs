//! The queue of one mapping: tickets for breaks and waiting pinners, and what becomes of them.
//!
//! Problem: overlapping breaks must have their turn one after the other, a stream of breaks must not
//! starve a pinner, nor a stream of pins a break (I3, I5). Idea: one list in ticket order; everybody
//! waits only for entries before it that overlap it.
//!
//! | entry | waits for | becomes | by |
//! | --- | --- | --- | --- |
//! | pin, `Waiting` | earlier breaks that overlap | `Granted`: the slot is filled on its behalf | whoever takes the last of them out |
//! | break, `Queued` | earlier breaks and waiting pins that overlap | `Draining` | whoever takes the last of them out |
//! | break, `Draining` | pins that overlap | `Drained`: the proof | the last of them, or the breaker itself |
//! | break, `Drained` | – | gone | the proof's drop |
//! | pin or break that is waiting | – | `Refused` | the guard's close |
//!
//! A closing guard and a dropped guard whose pins live on are breaks of everything.
//!
//! A draining break counts the pins that it waits for. Every pin counted takes itself off when it is
//! released, for the scan that counted it came after the closing, so its release sees the gate closed.
//! A pin that the scan just missed may take itself off too; so at 0 the slots are scanned again, and
//! only a clean scan drains (I2, I6). Nothing can be counted too little for ever: that would be a lost
//! wake.

use std::any::Any;
use std::mem;
use std::panic::Location;
use std::sync::Arc;
use std::time::Instant;

use crate::range::PageRange;
use crate::raw::scan;
use crate::raw::slots::{self, Slot};
use crate::raw::wait::Bell;

/// The ranges of one break: in order, and apart from each other.
#[derive(Clone)]
pub(crate) enum Ranges {
    None,
    One([PageRange; 1]),
    Many(Arc<[PageRange]>),
}

impl Ranges {
    pub(crate) fn as_slice(&self) -> &[PageRange] {
        match self {
            Ranges::None => &[],
            Ranges::One(one) => one,
            Ranges::Many(many) => many,
        }
    }

    pub(crate) fn overlaps(&self, range: &PageRange) -> bool {
        self.as_slice().iter().any(|r| r.overlaps(range))
    }

    fn overlap(&self, other: &Ranges) -> bool {
        self.as_slice().iter().any(|r| other.overlaps(r))
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

fn join(ranges: &mut Vec<PageRange>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let touches = next.start() <= last.end();
        if touches {
            let end = last.end().max(next.end());
            *last = PageRange::new(last.start(), end).unwrap_or(*last);
        }
        touches
    });
}

/// One who is in the queue.
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) ranges: Ranges,
    pub(crate) what: What,
    /// Rung once, when the entry has become what it waited to be.
    pub(crate) bell: Bell,
    /// When a break found that it had to wait.
    pub(crate) since: Option<Instant>,
}

pub(crate) enum What {
    Pin {
        range: PageRange,
        location: &'static Location<'static>,
        state: PinState,
    },
    Break(BreakState),
    /// The guard is closing: nobody gets a proof, but whoever closes wants to know when it is idle.
    Close(BreakState),
    /// The guard was dropped under live pins; the last of them takes the map with it.
    Abandoned {
        remaining: usize,
        map: Box<dyn Any + Send>,
    },
}

pub(crate) enum PinState {
    Waiting,
    /// The slot is filled. Whoever takes the entry out **must** hand the slot on or free it.
    Granted(&'static Slot),
    Refused,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum BreakState {
    /// Somebody is before it.
    Queued,
    /// Nobody is before it; pins are left.
    Draining {
        remaining: usize,
    },
    /// Nothing is left. Whoever takes the entry out **must** publish the gate and settle the rest.
    Drained,
    Refused,
}

impl Entry {
    /// Whether it keeps later breaks that overlap it waiting. A closing does not: behind it there is
    /// nothing but other closings, which want the same.
    fn blocks_breaks(&self) -> bool {
        match &self.what {
            What::Pin { state, .. } => matches!(state, PinState::Waiting),
            What::Close(_) => false,
            _ => self.closes(),
        }
    }

    /// Nothing is left that it would have to wait for.
    pub(crate) fn set_drained(&mut self) {
        if let What::Break(state) | What::Close(state) = &mut self.what {
            *state = BreakState::Drained;
        }
    }

    /// Whether its ranges are closed.
    fn closes(&self) -> bool {
        match &self.what {
            What::Pin { .. } => false,
            What::Break(state) | What::Close(state) => *state != BreakState::Refused,
            What::Abandoned { .. } => true,
        }
    }

    /// Whether it is a break that waits for nobody any more.
    pub(crate) fn is_drained(&self) -> bool {
        matches!(
            self.what,
            What::Break(BreakState::Drained) | What::Close(BreakState::Drained)
        )
    }

    /// Closes for good: what it waits for can't be found out.
    pub(crate) fn never_drain(&mut self) {
        if let What::Break(state) | What::Close(state) = &mut self.what {
            let remaining = usize::MAX;
            *state = BreakState::Draining { remaining };
        }
    }

    /// How many pins it still waits for, if it is draining.
    pub(crate) fn draining(&mut self) -> Option<&mut usize> {
        match &mut self.what {
            What::Break(BreakState::Draining { remaining })
            | What::Close(BreakState::Draining { remaining })
            | What::Abandoned { remaining, .. } => Some(remaining),
            _ => None,
        }
    }
}

/// The entries in ticket order.
#[derive(Default)]
pub(crate) struct Queue {
    entries: Vec<Entry>,
}

/// Those to be woken once the lock is released.
#[derive(Default)]
pub(crate) struct Wakes {
    first: Option<Bell>,
    more: Vec<Bell>,
}

impl Wakes {
    fn add(&mut self, bell: Bell) {
        match self.first {
            None => self.first = Some(bell),
            Some(_) => self.more.push(bell),
        }
    }

    pub(crate) fn wake(self) {
        for bell in self.first.into_iter().chain(self.more) {
            bell.ring();
        }
    }
}

impl Queue {
    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(crate) fn get(&mut self, id: u64) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|e| e.id == id)
    }

    /// Takes an entry out, and tells the place from which the rest must be settled. The entry is to be
    /// dropped when the lock is released: it has a waker in it.
    pub(crate) fn remove(&mut self, id: u64) -> Option<(Entry, usize)> {
        let at = self.entries.iter().position(|e| e.id == id)?;
        Some((self.entries.remove(at), at))
    }

    /// Takes everything out, to be dropped when the lock is released.
    pub(crate) fn take(&mut self) -> Vec<Entry> {
        mem::take(&mut self.entries)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Gives `half` of the drained entry `id` an entry of its own with the same place in the queue, and
    /// leaves `rest` to it.
    pub(crate) fn split(&mut self, id: u64, rest: Ranges, half: Entry) {
        if let Some(at) = self.entries.iter().position(|e| e.id == id) {
            self.entries[at].ranges = rest;
            self.entries.insert(at + 1, half);
        }
    }

    /// Whether an active or queued break overlaps `range`.
    pub(crate) fn is_closed(&self, range: &PageRange) -> bool {
        self.entries
            .iter()
            .any(|e| e.closes() && e.ranges.overlaps(range))
    }

    /// Whether a new break of `ranges` would have to wait for somebody in the queue.
    pub(crate) fn is_taken(&self, ranges: &Ranges) -> bool {
        self.entries
            .iter()
            .any(|e| e.blocks_breaks() && e.ranges.overlap(ranges))
    }

    /// All that is closed, in order and apart.
    pub(crate) fn closed(&self) -> Closed {
        let mut closing = self.entries.iter().filter(|e| e.closes());
        let first = closing.next();
        let Some(second) = closing.next() else {
            return Closed::Few(first.map_or(Ranges::None, |e| e.ranges.clone()));
        };
        let two = first.into_iter().chain([second]);
        let all = two.chain(closing).flat_map(|e| e.ranges.as_slice());
        let mut all: Vec<PageRange> = all.copied().collect();
        join(&mut all);
        Closed::Many(all)
    }

    /// Brings everything from place `from` on up to date with what is before it: grants pins and starts
    /// draining where nobody is in the way any more. One pass does, for nobody waits for later ones.
    pub(crate) fn settle(&mut self, record: u32, from: usize, wakes: &mut Wakes) {
        for at in from..self.entries.len() {
            let (before, rest) = self.entries.split_at_mut(at);
            let entry = &mut rest[0];
            match &mut entry.what {
                What::Pin {
                    range,
                    location,
                    state: state @ PinState::Waiting,
                } => {
                    let blocked = before
                        .iter()
                        .any(|e| e.closes() && e.ranges.overlaps(range));
                    if !blocked {
                        // Still under the lock: a break that has to wait for this pin scans later,
                        // and sees it (I5).
                        let slot = slots::publish_for_another(record, *range, location);
                        slot.confirm();
                        *state = PinState::Granted(slot);
                        wakes.add(mem::take(&mut entry.bell));
                    }
                }
                What::Break(BreakState::Queued) | What::Close(BreakState::Queued) => {
                    let blocked = before
                        .iter()
                        .any(|e| e.blocks_breaks() && e.ranges.overlap(&entry.ranges));
                    if !blocked {
                        entry.drain(record, wakes);
                    }
                }
                _ => {}
            }
        }
    }

    /// A pin of `range` is gone: takes it off every break that waits for it.
    pub(crate) fn released(&mut self, record: u32, range: &PageRange, wakes: &mut Wakes) {
        for entry in &mut self.entries {
            if !entry.ranges.overlaps(range) {
                continue;
            }
            if let Some(remaining) = entry.draining() {
                *remaining = remaining.saturating_sub(1);
                if *remaining == 0 {
                    entry.drain(record, wakes);
                }
            }
        }
    }

    /// Refuses everybody who has neither a pin nor a proof yet.
    pub(crate) fn refuse(&mut self, wakes: &mut Wakes) {
        for entry in &mut self.entries {
            let refused = match &mut entry.what {
                What::Pin {
                    state: state @ PinState::Waiting,
                    ..
                } => {
                    *state = PinState::Refused;
                    true
                }
                What::Break(state) if *state != BreakState::Drained => {
                    *state = BreakState::Refused;
                    true
                }
                _ => false,
            };
            if refused {
                wakes.add(mem::take(&mut entry.bell));
            }
        }
    }

    /// The abandoned map, if nothing holds it any more.
    pub(crate) fn take_idle_map(&mut self) -> Option<Box<dyn Any + Send>> {
        let idle = |e: &Entry| matches!(e.what, What::Abandoned { remaining: 0, .. });
        let at = self.entries.iter().position(idle)?;
        match self.entries.remove(at).what {
            What::Abandoned { map, .. } => Some(map),
            _ => None,
        }
    }
}

/// What is closed: one entry's ranges as they are, or the joined ranges of several.
pub(crate) enum Closed {
    Few(Ranges),
    Many(Vec<PageRange>),
}

impl Closed {
    pub(crate) fn as_slice(&self) -> &[PageRange] {
        match self {
            Closed::Few(ranges) => ranges.as_slice(),
            Closed::Many(ranges) => ranges,
        }
    }
}

impl Entry {
    /// Counts the pins that are left, and is drained if there are none.
    fn drain(&mut self, record: u32, wakes: &mut Wakes) {
        let left = scan::count(record, self.ranges.as_slice());
        let next = match left {
            0 => BreakState::Drained,
            remaining => BreakState::Draining { remaining },
        };
        match &mut self.what {
            What::Break(state) | What::Close(state) => *state = next,
            What::Abandoned { remaining, .. } => *remaining = left,
            What::Pin { .. } => return,
        }
        if left == 0 {
            wakes.add(mem::take(&mut self.bell));
        }
    }
}
