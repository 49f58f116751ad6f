//! The comparison: all that can be seen of the guard, and of its twin.

use std::ops::Bound;

use layout_lease::{Holder, HolderKind};

use crate::driver::Run;
use crate::model::{Held, Pages, Span};
use crate::tally::{Event, count_many};
use crate::waiter::Waiter;

impl Run<'_> {
    /// Compares everything that can be seen.
    pub(crate) fn agree(&self) {
        let (stats, counts) = (self.guard.stats(), self.twin.counts());
        let real = (stats.pins, stats.breaks, stats.breaks_waited, stats.queued);
        let (pins, queued) = (counts.pins as u64, counts.queued as u64);
        assert_eq!(real, (pins, counts.breaks, counts.waited, queued), "stats");

        let holders = self.guard.holders(..);
        same_holders(&holders, self.twin.holders(Pages::ALL));
        for holder in holders.iter().filter(|_| !self.closed) {
            let pages = Pages::of(span_of(holder)).expect("a range");
            assert_eq!(
                holder.age().is_some(),
                self.twin.is_closed(pages),
                "{holder}"
            );
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
        for waiter in &self.waiters {
            self.agree_on(waiter);
        }
        for (id, proof) in &self.proofs {
            let pages = self.twin.proof(*id);
            assert!(
                proof.ranges().len() == 1 && pages == proof.ranges()[0],
                "{proof:?}"
            );
            assert!(proof.is_of(self.guard.map()) && self.twin.holders(pages).is_empty());
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
            assert_eq!(
                waiter.woken(),
                usize::from(ready),
                "wakes of {ask:?}, ready: {ready}"
            );
        }
        if let Some(breaking) = waiter.breaking() {
            let drained = self.twin.is_drained(&waiter.ticket);
            assert_eq!(breaking.is_drained(), drained, "{breaking:?}");
            if let Some(pages) = self.twin.pages(&waiter.ticket) {
                assert!(breaking.ranges().len() == 1 && pages == breaking.ranges()[0]);
                same_holders(&breaking.holders(), self.twin.holders(pages));
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

/// The same holders, in whatever order.
pub(crate) fn same_holders(real: &[Holder], twin: Vec<Held>) {
    let mut twin = twin;
    for holder in real {
        let same = |held: &Held| held.pages == holder.range() && held.thread == holder.thread();
        let Some(at) = twin.iter().position(same) else {
            panic!("{holder}: not one of the twin's {twin:?}");
        };
        twin.swap_remove(at);
        let here = holder.location().file().ends_with("driver.rs");
        assert!(here && holder.kind() == HolderKind::Pin, "{holder}");
    }
    assert!(twin.is_empty(), "not among the holders: {twin:?}");
}
