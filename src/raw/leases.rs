//! The leases of one mapping: who holds which pages for long.
//!
//! Leases are few per second and many at a time, so they are not in slots, which every break looks
//! through, but in an ordered interval structure under the mapping's lock: a break finds those that
//! overlap it and no others.

use std::borrow::Cow;
use std::panic::Location;
use std::thread::ThreadId;
use std::time::Instant;

use crate::holders::{Holder, HolderKind};
use crate::range::PageRange;
use crate::raw::tree::Tree;
use crate::raw::wait::Bell;
use crate::raw::wakes::Wakes;

/// One lease.
pub(crate) struct Lease {
    range: PageRange,
    location: &'static Location<'static>,
    label: Option<Cow<'static, str>>,
    thread: Option<ThreadId>,
    since: Instant,
    /// Those who want to be told when it is recalled.
    callers: Vec<(u64, Bell)>,
}

/// All leases of a mapping, each known by a number that is its own while it lives.
#[derive(Default)]
pub(super) struct Leases {
    tree: Tree,
    leases: Vec<Option<Lease>>,
    idle: Vec<u32>,
    /// Those who want to be told of a recall, of all leases together.
    callers: usize,
}

impl Leases {
    pub(super) fn len(&self) -> usize {
        self.tree.len()
    }

    pub(super) fn take(
        &mut self,
        range: PageRange,
        location: &'static Location<'static>,
        label: Option<Cow<'static, str>>,
        thread: Option<ThreadId>,
    ) -> u32 {
        let lease = Lease {
            range,
            location,
            label,
            thread,
            since: Instant::now(),
            callers: Vec::new(),
        };
        let number = match self.idle.pop() {
            Some(number) => {
                self.leases[number as usize] = Some(lease);
                number
            }
            None => {
                self.leases.push(Some(lease));
                (self.leases.len() - 1) as u32
            }
        };
        self.tree.insert(range, number);
        number
    }

    /// Takes a lease out. It is to be dropped when the lock is released: it has wakers in it.
    pub(super) fn give_back(&mut self, number: u32) -> Option<Lease> {
        let lease = self.leases.get_mut(number as usize)?.take()?;
        self.callers -= lease.callers.len();
        self.tree.remove(lease.range, number);
        self.idle.push(number);
        if self.tree.len() == 0 {
            // After a burst: nothing is kept.
            *self = Self::default();
        }
        Some(lease)
    }

    /// Makes a lease smaller.
    pub(super) fn shrink(&mut self, number: u32, range: PageRange) {
        if let Some(Some(lease)) = self.leases.get_mut(number as usize) {
            self.tree.remove(lease.range, number);
            lease.range = range;
            self.tree.insert(range, number);
        }
    }

    /// How many leases overlap one of `ranges`, which are in order and apart.
    pub(super) fn count(&self, ranges: &[PageRange]) -> usize {
        let mut n = 0;
        self.overlapping(ranges, |_| n += 1);
        n
    }

    /// Calls `found` once with the number of each lease that overlaps one of `ranges`, which are in order
    /// and apart.
    fn overlapping(&self, ranges: &[PageRange], mut found: impl FnMut(u32)) {
        for (n, range) in ranges.iter().enumerate() {
            self.tree.overlapping(*range, &mut |number| {
                // One that reaches over several ranges counts for the first of them.
                let before = n.checked_sub(1).map(|n| ranges[n]);
                let lease = self.leases[number as usize].as_ref();
                let seen = before.zip(lease).is_some_and(|(b, l)| l.range.overlaps(&b));
                if !seen {
                    found(number);
                }
            });
        }
    }

    /// Tells everybody who wants to know that the leases which overlap `ranges` are recalled.
    pub(super) fn recall(&mut self, ranges: &[PageRange], wakes: &mut Wakes) {
        if self.callers == 0 {
            return;
        }
        let mut called = Vec::new();
        self.overlapping(ranges, |number| {
            if self.leases[number as usize]
                .as_ref()
                .is_some_and(|lease| !lease.callers.is_empty())
            {
                called.push(number);
            }
        });
        for number in called {
            if let Some(lease) = &mut self.leases[number as usize] {
                self.callers -= lease.callers.len();
                let callers = lease.callers.drain(..);
                callers.for_each(|(_, bell)| wakes.add(bell));
            }
        }
    }

    /// Where `caller` is told that the lease is recalled.
    pub(super) fn bell(&mut self, number: u32, caller: u64) -> Option<&mut Bell> {
        let lease = self.leases.get_mut(number as usize)?.as_mut()?;
        let at = match lease.callers.iter().position(|(c, _)| *c == caller) {
            Some(at) => at,
            None => {
                lease.callers.push((caller, Bell::default()));
                self.callers += 1;
                lease.callers.len() - 1
            }
        };
        lease.callers.get_mut(at).map(|(_, bell)| bell)
    }

    /// `caller` need not be told any more. The bell is to be dropped when the lock is released.
    pub(super) fn unhang(&mut self, number: u32, caller: u64) -> Option<Bell> {
        let lease = self.leases.get_mut(number as usize)?.as_mut()?;
        let at = lease.callers.iter().position(|(c, _)| *c == caller)?;
        self.callers -= 1;
        Some(lease.callers.swap_remove(at).1)
    }

    /// The holders among the leases that overlap one of `ranges`.
    pub(super) fn list(&self, ranges: &[PageRange], holders: &mut Vec<Holder>) {
        self.overlapping(ranges, |number| {
            if let Some(lease) = &self.leases[number as usize] {
                let holder = Holder::new(
                    lease.range,
                    HolderKind::Lease,
                    Some(lease.location),
                    lease.thread,
                    Some(lease.since),
                );
                holders.push(holder.labelled(lease.label.clone()));
            }
        });
    }
}
