//! The queue of one mapping: tickets for breaks and for those who wait for pages, and what becomes of them.
//!
//! Problem: overlapping breaks must have their turn one after the other, a stream of breaks must not
//! starve a pinner, nor a stream of pins a break (I3, I5). Idea: one list in ticket order; everybody
//! waits only for entries before it that overlap it, see [`entry`](crate::raw::entry).
//!
//! A draining break counts the holders that it waits for. Every pin counted takes itself off when it is
//! released, for the scan that counted it came after the closing, so its release sees the gate closed.
//! A pin that the scan just missed may take itself off too; so at 0 the slots are scanned again, and
//! only a clean scan drains (I2, I6). Nothing can be counted too little for ever: that would be a lost
//! wake. Extensions are not counted for the same reason; leases come and go under the lock.
//!
//! A retirement that is drained goes from the list to the [`shelf`](crate::raw::shelf).

use std::any::Any;
use std::mem;
use std::time::Instant;

use crate::holders::HolderKind;
use crate::range::PageRange;
use crate::raw::entry::{BreakState, Entry, Ranges, TakerState, Wants, What, join};
use crate::raw::leases::Leases;
use crate::raw::shelf::{Shelf, Shelved};
use crate::raw::tree::Tree;
use crate::raw::wait::Bell;
use crate::raw::waits::Waits;
use crate::raw::wakes::Wakes;
use crate::raw::{blocks, scan};
use crate::sync::mutant;

/// The entries in ticket order, and what only few mappings have need of.
#[derive(Default)]
pub(crate) struct Queue {
    pub(super) entries: Vec<Entry>,
    pub(super) ledger: Option<Box<Ledger>>,
}

/// What only mappings with leases, retirements or waiting breaks have need of.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) leases: Leases,
    /// Breaks that found somebody to wait for.
    pub(super) waited: u64,
    /// How long those that have got their proof have waited.
    pub(super) waits: Waits,
    /// Everything up to here is on media.
    pub(super) durable: u64,
    /// Retirements that freed nothing, and nobody waited for them.
    pub(super) retired_failed: u64,
    /// Retirements that are drained.
    pub(super) shelf: Shelf,
    /// Those who want to be told when some retirement is ready.
    pub(super) reclaimers: Vec<(u64, Bell)>,
}

impl Queue {
    #[inline]
    pub(super) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    #[inline]
    pub(super) fn get(&mut self, id: u64) -> Option<&mut Entry> {
        let at = place(&self.entries, id)?;
        self.entries.get_mut(at)
    }

    /// Takes an entry out, and tells the place from which the rest must be settled. The entry is to be
    /// dropped when the lock is released: it has a waker in it.
    #[inline]
    pub(super) fn remove(&mut self, id: u64) -> Option<(Entry, usize)> {
        let at = place(&self.entries, id)?;
        Some((self.entries.remove(at), at))
    }

    /// Whether the queue is empty and there are no leases and no retirements: a break that comes now is alone.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        let idle = |l: &Ledger| l.leases.len() == 0 && l.shelf.is_empty();
        self.entries.is_empty() && self.ledger().is_none_or(idle)
    }

    /// A break of one range that nobody holds, in an idle queue: drained from the start.
    #[inline]
    pub(super) fn push_drained(&mut self, id: u64, range: PageRange) {
        let what = What::Break(BreakState::Drained);
        self.entries.push(Entry::new(id, range.into(), what));
    }

    /// Takes out a break for which nobody waits and which waits for nobody. `false`: it is not such a one.
    #[inline]
    pub(super) fn remove_quiet(&mut self, id: u64) -> bool {
        let quiet = self.is_quiet() && self.entries.first().is_some_and(|e| e.id == id);
        if quiet {
            // Such a one owns nothing. To find that out is most of what its drop does.
            mem::forget(self.entries.pop());
        }
        quiet
    }

    /// Whether nobody is to be told of anything, whatever is done: there is at most one break, and nobody
    /// waits for it.
    #[inline]
    pub(super) fn is_quiet(&self) -> bool {
        match self.entries.as_slice() {
            _ if self.shelf().is_some() => false,
            [] => true,
            [only] => {
                matches!((&only.what, &only.ranges), (What::Break(_), Ranges::One(_)))
                    && only.bell.is_silent()
            }
            _ => false,
        }
    }

    /// Since when somebody waits for each of these pins. It takes O(log n) for each pin and each who waits,
    /// however many there are of both: who has waited longest comes first, and finds pins that nobody has found.
    pub(super) fn awaited(&self, pins: &[PageRange]) -> Vec<Option<Instant>> {
        let mut awaited = vec![None; pins.len()];
        let waits = self.entries.iter().filter(|e| e.waits_for_pins());
        let mut waits: Vec<_> = waits.filter_map(|e| Some((e.since?, &e.ranges))).collect();
        waits.sort_by_key(|(since, _)| *since);
        let mut left = Tree::default();
        if !waits.is_empty() {
            (0..).zip(pins).for_each(|(n, pin)| left.insert(*pin, n));
        }
        let mut found = Vec::new();
        for (since, ranges) in waits {
            for range in ranges.as_slice() {
                left.overlapping(*range, &mut |n| found.push(n));
                for n in found.drain(..) {
                    left.remove(pins[n as usize], n);
                    awaited[n as usize] = Some(since);
                }
            }
        }
        awaited
    }

    /// Takes everything out, to be dropped when the lock is released.
    pub(super) fn take(&mut self) -> (Vec<Entry>, Option<Shelf>) {
        let shelf = self.ledger.as_mut().map(|l| mem::take(&mut l.shelf));
        (mem::take(&mut self.entries), shelf)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() + self.shelf().map_or(0, Shelf::len)
    }

    /// The retirements that are drained, if there are any.
    pub(super) fn shelf(&self) -> Option<&Shelf> {
        let shelf = self.ledger.as_ref().map(|l| &l.shelf);
        shelf.filter(|shelf| !shelf.is_empty())
    }

    /// Whether one who wants some pages of `ranges` has to wait for a drained retirement.
    #[inline]
    fn is_shelved(&self, ranges: &Ranges, what: &What) -> bool {
        what.waits_for_retired() && self.shelf().is_some_and(|shelf| shelf.overlap(ranges))
    }

    /// Where somebody is told that the retirement `id` is over, if it is there.
    pub(super) fn retired_bell(&mut self, id: u64) -> Option<&mut Bell> {
        let shelved = self.ledger.as_mut().and_then(|l| l.shelf.get(id));
        match shelved {
            Some(shelved) => Some(&mut shelved.bell),
            None => {
                let at = place(&self.entries, id)?;
                self.entries.get_mut(at).map(|e| &mut e.bell)
            }
        }
    }

    /// Takes the retirement `id` off the shelf. To be dropped when the lock is released.
    pub(super) fn unshelve(&mut self, id: u64) -> Option<Shelved> {
        self.ledger.as_mut()?.shelf.remove(id)
    }

    pub(super) fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_deref()
    }

    pub(super) fn ledger_if_any(&mut self) -> Option<&mut Ledger> {
        self.ledger.as_deref_mut()
    }

    pub(super) fn ledger_mut(&mut self) -> &mut Ledger {
        self.ledger.get_or_insert_default()
    }

    /// Gives `half` of the drained entry `id` an entry of its own with the same place in the queue, and
    /// leaves `rest` to it.
    pub(super) fn split(&mut self, id: u64, rest: Ranges, half: Entry) {
        if let Some(at) = place(&self.entries, id) {
            self.entries[at].ranges = rest;
            self.entries.insert(at + 1, half);
        }
    }

    /// Whether a new entry of `ranges` would have to wait for somebody in the queue.
    pub(super) fn is_taken(&self, ranges: &Ranges, what: &What) -> bool {
        let blocks = |e: &Entry| e.keeps_waiting(what) && e.ranges.overlap(ranges);
        self.entries.iter().any(blocks) || self.is_shelved(ranges, what)
    }

    /// All that is closed to pins and not on the shelf, in order and apart.
    #[inline]
    pub(super) fn closed(&self) -> Closed<'_> {
        let mut closing = self.entries.iter().filter(|e| e.closes());
        let first = closing.next();
        let Some(second) = closing.next() else {
            return Closed::Few(first.map_or(&[], |e| e.ranges.as_slice()));
        };
        let two = first.into_iter().chain([second]);
        let all = two.chain(closing).flat_map(|e| e.ranges.as_slice());
        let mut all: Vec<PageRange> = all.copied().collect();
        join(&mut all);
        Closed::Many(all)
    }

    /// Whether a range that overlaps `range` is closed to pins.
    pub(super) fn is_closed(&self, range: &PageRange) -> bool {
        let closes = |e: &Entry| e.closes() && e.ranges.overlaps(range);
        self.entries.iter().any(closes) || self.shelf().is_some_and(|s| s.overlaps(range))
    }

    /// The smallest range that has everything in it that is wanted of the lease of `range`.
    pub(super) fn wanted(&self, range: &PageRange) -> Option<PageRange> {
        let wanting = self.entries.iter().filter(|e| e.closes_to_leases());
        wanting
            .filter_map(|e| e.ranges.hull_within(range))
            .reduce(|a, b| PageRange::reassembled(a.start().min(b.start()), a.end().max(b.end())))
    }

    /// [`settle`](Self::settle) from the last entry on, which has just come.
    #[inline]
    pub(super) fn settle_last(&mut self, record: u32, wakes: &mut Wakes) {
        let shelved = self.shelf().is_some();
        match self.entries.as_mut_slice() {
            // The common case: nobody is before it, and nobody has been told to wake it.
            [only] if !shelved && matches!(only.what, What::Break(_)) => {
                let left = left(record, only, self.ledger.as_deref());
                only.set_state(match left {
                    0 => BreakState::Drained,
                    remaining => BreakState::Draining { remaining },
                });
                if left == 0 && !only.bell.is_silent() {
                    wakes.add(mem::take(&mut only.bell));
                }
            }
            entries => {
                let last = entries.len().saturating_sub(1);
                self.settle(record, last, wakes);
            }
        }
    }

    /// Brings everything from place `from` on up to date with what is before it: grants pins and leases
    /// and starts draining where nobody is in the way any more. One pass does, for nobody waits for later
    /// ones; what is on the shelf is before everybody.
    pub(super) fn settle(&mut self, record: u32, from: usize, wakes: &mut Wakes) {
        for at in from..self.entries.len() {
            let (before, rest) = self.entries.split_at(at);
            let entry = &rest[0];
            let waits = match &entry.what {
                What::Taker(taker) => taker.is_waiting(),
                _ => entry.state() == Some(BreakState::Queued),
            };
            let blocked =
                |e: &Entry| e.keeps_waiting(&entry.what) && e.ranges.overlap(&entry.ranges);
            if !waits || before.iter().any(blocked) || self.is_shelved(&entry.ranges, &entry.what) {
                continue;
            }
            match &mut self.entries[at].what {
                What::Taker(taker) => {
                    // Still under the lock: a break that has to wait for this pin scans later, and sees
                    // it (I5).
                    let (range, location) = (taker.range, taker.location);
                    taker.state = match &mut taker.wants {
                        Wants::Pin => {
                            let slot = blocks::publish_for_another(record, range, location);
                            slot.confirm();
                            TakerState::Pinned(slot)
                        }
                        Wants::Lease(label) => {
                            let label = label.take();
                            let leases = &mut self.ledger.get_or_insert_default().leases;
                            TakerState::Leased(leases.take(range, location, label, None))
                        }
                    };
                    wakes.add(mem::take(&mut self.entries[at].bell));
                }
                _ => self.drain(record, at, wakes),
            }
        }
        self.shelve(wakes);
    }

    /// A pin of `range` is gone: takes it off whatever waits for it, if there is nothing more to do. `false`: it is the
    /// last that somebody waits for, and nothing has been done.
    #[inline]
    pub(super) fn take_off(&mut self, range: &PageRange) -> bool {
        let mut counts = self.entries.iter_mut().filter_map(|e| e.pins_left(range));
        if counts.any(|n| *n <= 1) {
            return false;
        }
        let counts = self.entries.iter_mut().filter_map(|e| e.pins_left(range));
        counts.for_each(|n| *n -= 1);
        true
    }

    /// A holder of `range` is gone: takes it off every break that waits for it. A lease that has been
    /// shrunk to `kept` is still there for those who want a part of that.
    pub(super) fn released(
        &mut self,
        record: u32,
        kind: HolderKind,
        range: &PageRange,
        kept: Option<&PageRange>,
        wakes: &mut Wakes,
    ) {
        for at in 0..self.entries.len() {
            let entry = &mut self.entries[at];
            let waits_for_it = kind == HolderKind::Lease || entry.waits_for_pins();
            let kept = kept.is_some_and(|kept| entry.ranges.overlaps(kept));
            if !waits_for_it || kept || !entry.ranges.overlaps(range) {
                continue;
            }
            if let Some(remaining) = entry.draining() {
                *remaining = remaining.saturating_sub(1);
                if *remaining == 0 && mutant!("not_rescanned") {
                    self.set_drained(at, wakes);
                } else if *remaining == 0 {
                    self.drain(record, at, wakes);
                }
            }
        }
        self.shelve(wakes);
    }

    /// Counts the holders that the break at place `at` waits for; it is drained if there are none.
    #[inline]
    fn drain(&mut self, record: u32, at: usize, wakes: &mut Wakes) {
        let entry = &mut self.entries[at];
        match left(record, entry, self.ledger.as_deref()) {
            0 => self.set_drained(at, wakes),
            remaining => entry.set_state(BreakState::Draining { remaining }),
        }
    }

    /// The break at place `at` waits for nobody any more.
    #[inline]
    fn set_drained(&mut self, at: usize, wakes: &mut Wakes) {
        let entry = &mut self.entries[at];
        entry.set_state(BreakState::Drained);
        if let Some(since) = entry.since {
            self.ledger
                .get_or_insert_default()
                .waits
                .add(since.elapsed());
        }
        // Who waits for a retirement waits until it can be run: see `shelve`.
        if !matches!(entry.what, What::Retired(_)) {
            wakes.add(mem::take(&mut entry.bell));
        }
    }

    /// Nobody is left whom the break `id` would have to wait for.
    pub(super) fn conclude(&mut self, id: u64, wakes: &mut Wakes) {
        if let Some(at) = place(&self.entries, id) {
            self.set_drained(at, wakes);
        }
    }

    /// Refuses everybody who has neither a hold nor a proof yet. Retirements stay: nobody waits for them
    /// to be allowed.
    pub(super) fn refuse(&mut self, wakes: &mut Wakes) {
        for entry in &mut self.entries {
            match &mut entry.what {
                What::Taker(taker) if taker.is_waiting() => taker.state = TakerState::Refused,
                What::Break(state) | What::LeaseBreak(state) if *state != BreakState::Drained => {
                    *state = BreakState::Refused;
                }
                _ => continue,
            }
            let mut bell = mem::take(&mut entry.bell);
            bell.spoil();
            wakes.add(bell);
        }
    }

    /// Tells everybody who wants to know that the leases which overlap `ranges` are recalled.
    pub(super) fn recall(&mut self, ranges: &[PageRange], wakes: &mut Wakes) {
        if let Some(ledger) = &mut self.ledger {
            ledger.leases.recall(ranges, wakes);
        }
    }

    /// How many leases overlap `ranges`.
    pub(super) fn count_leases(&self, ranges: &[PageRange]) -> usize {
        let leases = self.ledger.as_ref().map(|l| l.leases.count(ranges));
        leases.unwrap_or(0)
    }

    /// The abandoned map, if nothing holds it any more.
    pub(super) fn take_idle_map(&mut self) -> Option<Box<dyn Any + Send>> {
        let idle = |e: &Entry| matches!(e.what, What::Abandoned { remaining: 0, .. });
        let at = self.entries.iter().position(idle)?;
        match self.entries.remove(at).what {
            What::Abandoned { map, .. } => Some(map),
            _ => None,
        }
    }
}

/// Where the entry with this ticket is. They are in order, but for those of halves that were split off: one that is
/// not where it should be is searched for.
#[inline]
fn place(entries: &[Entry], id: u64) -> Option<usize> {
    match entries {
        [] => None,
        [only] => (only.id == id).then_some(0),
        _ => match entries.binary_search_by_key(&id, |e| e.id) {
            Ok(at) => Some(at),
            Err(_) => entries.iter().position(|e| e.id == id),
        },
    }
}

/// How many holders a break waits for.
#[inline]
fn left(record: u32, entry: &Entry, ledger: Option<&Ledger>) -> usize {
    let ranges = entry.ranges.as_slice();
    let pins = match entry.waits_for_pins() {
        true => scan::count(record, ranges),
        false => 0,
    };
    pins + ledger.map_or(0, |l| l.leases.count(ranges))
}

/// What is closed: one entry's ranges as they are, or the joined ranges of several.
pub(crate) enum Closed<'a> {
    Few(&'a [PageRange]),
    Many(Vec<PageRange>),
}

impl Closed<'_> {
    #[inline]
    pub(crate) fn as_slice(&self) -> &[PageRange] {
        match self {
            Closed::Few(ranges) => ranges,
            Closed::Many(ranges) => ranges,
        }
    }
}

#[cfg(all(test, not(any(lease_loom, lease_shuttle))))]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn range(start: u64, end: u64) -> PageRange {
        PageRange::new(start, end).unwrap()
    }

    fn queue(waits: &[(PageRange, Option<Instant>)]) -> Queue {
        let mut queue = Queue::default();
        for (id, (range, since)) in (1..).zip(waits) {
            let mut entry = Entry::new(id, (*range).into(), What::Break(BreakState::Queued));
            entry.since = *since;
            queue.push(entry);
        }
        queue
    }

    #[test]
    fn each_pin_is_awaited_since_the_first_who_waits_for_it() {
        let first = Instant::now();
        let later = first + Duration::from_secs(1);
        let last = first + Duration::from_secs(2);
        // The longest wait is not that of the first ticket, and one has not begun.
        let waits = [
            (range(0, 10), Some(later)),
            (range(4, 6), Some(first)),
            (range(20, 30), None),
            (range(8, 25), Some(last)),
        ];
        let pins = [
            (0, 1),
            (3, 5),
            (9, 12),
            (5, 22),
            (29, 30),
            (40, 50),
            (0, 60),
        ];
        let pins = pins.map(|(start, end)| range(start, end));
        let expected = [
            Some(later),
            Some(first),
            Some(later),
            Some(first),
            None,
            None,
            Some(first),
        ];
        assert_eq!(queue(&waits).awaited(&pins), expected);
        assert_eq!(queue(&waits[2..3]).awaited(&pins), [None; 7]);
    }

    /// The list of holders looked at everybody who waits for each of them, under the lock: ten thousand old values
    /// that were held, and waited for, took half a second to tell.
    #[cfg(target_os = "linux")]
    #[test]
    fn many_who_wait_for_many_take_not_much_longer_each() {
        // Of this thread alone: the machine may be busy.
        use rustix::time::{ClockId, clock_gettime};
        let nanos = |n: u64| {
            let pages: Vec<_> = (0..n).map(|i| range(2 * i, 2 * i + 1)).collect();
            let now = Some(Instant::now());
            let waits: Vec<_> = pages.iter().map(|pages| (*pages, now)).collect();
            let queue = queue(&waits);
            let took = (0..5).map(|_| {
                let start = clock_gettime(ClockId::ThreadCPUTime);
                assert!(queue.awaited(&pages).iter().all(Option::is_some));
                let took = clock_gettime(ClockId::ThreadCPUTime) - start;
                took.tv_sec * 1_000_000_000 + took.tv_nsec
            });
            took.min().unwrap()
        };
        let (few, many) = (nanos(1_000), nanos(8_000));
        // Some nine times as long, and 64 times if each looked at all.
        assert!(many < few * 24, "{few} to {many} ns");
    }
}
