//! The comparison: all that can be seen of the guard, and of its twin.

use std::ops::Bound;
use std::time::Duration;

use layout_lease::{Holder, HolderKind, PageRange};

use crate::driver::Run;
use crate::model::{Ask, Counts, Held, Pages, Span};
use crate::tally::{Event, count_many};
use crate::waiter::{Waiter, What};

impl Run<'_> {
    /// Compares everything that can be seen.
    pub(crate) fn agree(&self) {
        let (stats, counts) = (self.guard.stats(), self.twin.counts());
        let real = Counts {
            pins: stats.pins as usize,
            leases: stats.leases as usize,
            breaks: stats.breaks,
            waited: stats.breaks_waited,
            queued: stats.queued as usize,
            retired: stats.retired_pages,
        };
        assert_eq!(real, counts, "stats");

        let holders = self.guard.holders(..);
        same_holders(&holders, self.twin.holders(Pages::ALL));
        for holder in holders.iter().filter(|_| !self.closed) {
            let pages = Pages::of(span_of(holder)).expect("a range");
            // A lease knows how old it is; a pin, how long it is waited for.
            let aged = holder.kind() == HolderKind::Lease || self.twin.is_closed(pages);
            assert_eq!(holder.age().is_some(), aged, "{holder}");
        }
        for (id, pin) in &self.pins {
            let held = self.twin.held(*id);
            assert!(held.pages == pin.range(), "{pin:?} is not {held:?}");
            assert_eq!(
                pin.is_breaking(),
                self.twin.is_closed(held.pages),
                "{pin:?}"
            );
            count_many(Event::Recalled, u64::from(pin.is_breaking()));
        }
        for (id, lease) in &self.leases {
            let held = self.twin.held(*id);
            assert!(held.pages == lease.range(), "{lease:?} is not {held:?}");
            let wanted = self.twin.wanted(held.pages);
            assert_eq!(lease.is_recalled(), wanted.is_some(), "{lease:?}");
            let real = lease.recalled().wait_timeout(Duration::ZERO);
            assert_eq!(real, wanted.map(Pages::real), "{lease:?}");
            count_many(Event::LeaseWanted, u64::from(wanted.is_some()));
        }
        for waiter in &self.waiters {
            self.agree_on(waiter);
        }
        for (id, proof) in &self.proofs {
            let ranges = self.twin.proof(*id);
            assert!(same_ranges(proof.ranges(), ranges), "{proof:?}: {ranges:?}");
            assert!(proof.is_of(self.guard.map()) && self.twin.holders_of(ranges).is_empty());
        }
        for (id, free) in &self.frees {
            let ranges = self.twin.proof(*id);
            assert!(same_ranges(free.ranges(), ranges), "{free:?}: {ranges:?}");
            assert!(self.twin.lease_holders(ranges).is_empty());
        }
        // What is closed, page by page.
        for page in (0..20).chain([u64::MAX - 2, u64::MAX - 1]) {
            let open = self.guard.try_pin(page..=page).is_ok();
            assert_eq!(open, !self.twin.is_closed(Pages::one(page)), "page {page}");
        }

        let (map, twin) = (self.guard.map(), &self.twin.map);
        let real: Vec<_> = map
            .extents()
            .iter()
            .map(|e| (e.pages(), e.block()))
            .collect();
        let same = |((real, a), (twin, b)): (&_, &_)| *twin == *real && a == b;
        let extents = twin.extents();
        let all = real.len() == extents.len() && real.iter().zip(&extents).all(same);
        assert!(all, "extents {real:?}, twin: {extents:?}");
        let (free, mapped) = (twin.free.len() as u64, twin.pages.len() as u64);
        let real = (map.len(), map.free_blocks(), map.mapped_blocks());
        assert_eq!(real, (twin.len, free, mapped), "length, free, mapped");
    }

    fn agree_on(&self, waiter: &Waiter<'_>) {
        let ready = self.twin.is_ready(&waiter.ticket);
        let ask = waiter.ticket.ask;
        if waiter.armed() {
            let (woken, least) = (waiter.woken(), usize::from(ready));
            let exact = match ask {
                // There was work, or a break, and somebody else did it, or it went away.
                Ask::Ready | Ask::Recall(_) => woken >= least && woken <= 1,
                // It is told of whatever may be work for it.
                Ask::Close if self.retired => {
                    let work = self.twin.has_work(&waiter.ticket);
                    woken >= least.max(usize::from(work))
                }
                _ => woken == least,
            };
            assert!(exact, "{woken} wakes of {ask:?}, ready: {ready}");
        }
        if let Some(breaking) = waiter.breaking() {
            let drained = self.twin.is_drained(&waiter.ticket);
            assert_eq!(breaking.is_drained(), drained, "{breaking:?}");
            if let Some(ranges) = self.twin.ranges(&waiter.ticket) {
                assert!(same_ranges(breaking.ranges(), ranges), "{breaking:?}");
                same_holders(&breaking.holders(), self.twin.holders_of(ranges));
            }
        }
        if let What::LeaseBreak(breaking) = &waiter.what {
            let drained = self.twin.is_drained(&waiter.ticket);
            assert_eq!(breaking.is_drained(), drained, "{breaking:?}");
            if let Some(ranges) = self.twin.ranges(&waiter.ticket) {
                assert!(same_ranges(breaking.ranges(), ranges), "{breaking:?}");
                same_holders(&breaking.holders(), self.twin.lease_holders(ranges));
            }
        }
    }

    /// Looks at a part.
    pub(crate) fn look(&self, span: Span) {
        let holders = self.guard.holders(span);
        let extents = self.guard.map().extents_in(span);
        let Ok(pages) = Pages::of(span) else {
            assert!(holders.is_empty() && extents.is_err(), "{span:?}");
            return;
        };
        same_holders(&holders, self.twin.holders(pages));
        let real = extents.expect("a range").into_iter();
        let real = real.flat_map(|e| (e.pages().start()..e.pages().end()).zip(e.blocks()));
        let twin = self
            .twin
            .map
            .pages
            .iter()
            .map(|(&page, &block)| (page, block));
        assert!(
            real.eq(twin.filter(|(page, _)| pages.has(*page))),
            "{span:?}"
        );
    }
}

fn span_of(holder: &Holder) -> Span {
    let range = holder.range();
    (Bound::Included(range.start()), Bound::Excluded(range.end()))
}

fn same_ranges(real: &[PageRange], twin: &[Pages]) -> bool {
    real.len() == twin.len() && twin.iter().zip(real).all(|(a, b)| a == b)
}

/// The same holders, in whatever order.
pub(crate) fn same_holders(real: &[Holder], twin: Vec<Held>) {
    let mut twin = twin;
    for holder in real {
        let same = |held: &Held| {
            held.pages == holder.range()
                && (held.thread, held.kind) == (holder.thread(), holder.kind())
                && held.label == holder.label()
        };
        let Some(at) = twin.iter().position(same) else {
            panic!("{holder}: not one of the twin's {twin:?}");
        };
        twin.swap_remove(at);
        assert!(holder.location().file().contains("twin"), "{holder}");
    }
    assert!(twin.is_empty(), "not among the holders: {twin:?}");
}
