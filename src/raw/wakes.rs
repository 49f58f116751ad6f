//! Those to be woken once the lock is released.
//!
//! Whoever changes the queue gathers here whom that concerns, and rings when it has let go of the lock: a
//! waker is other people's code, see [`wait`](crate::raw::wait).

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::raw::wait::Bell;

/// Those to be woken once the lock is released.
#[derive(Default)]
pub(crate) struct Wakes {
    first: Option<Bell>,
    more: Vec<Bell>,
}

impl Wakes {
    #[inline]
    pub(crate) fn add(&mut self, bell: Bell) {
        match self.first {
            None => self.first = Some(bell),
            Some(_) => self.more.push(bell),
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Takes those of `others` in.
    pub(super) fn append(&mut self, others: Wakes) {
        let others = others.first.into_iter().chain(others.more);
        others.for_each(|bell| self.add(bell));
    }

    /// Wakes them all, also if wakers panic: then the first panic goes on when all are woken.
    #[inline]
    pub(crate) fn ring(self) {
        if self.more.is_empty() {
            self.first.into_iter().for_each(Bell::ring);
        } else {
            self.ring_several();
        }
    }

    fn ring_several(self) {
        // A bell is used up; there is nothing that could be half done.
        for_each(self.first.into_iter().chain(self.more), Bell::ring);
    }
}

/// Calls `wake` with each of `all`, also if wakers panic in there: then the first panic goes on when all have had
/// their turn. It must leave nothing half done.
pub(crate) fn for_each<T>(all: impl Iterator<Item = T>, mut wake: impl FnMut(T)) {
    let mut panicked = None;
    for one in all {
        let woken = catch_unwind(AssertUnwindSafe(|| wake(one)));
        panicked = panicked.or(woken.err());
    }
    if let Some(panic) = panicked {
        resume_unwind(panic);
    }
}
