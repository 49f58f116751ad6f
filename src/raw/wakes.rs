//! Those to be woken once the lock is released.
//!
//! Whoever changes the queue gathers here whom that concerns, and rings when it has let go of the lock: a
//! waker is other people's code, see [`wait`](crate::raw::wait).

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

    /// Wakes them all, also if one of the wakers panics.
    #[inline]
    pub(crate) fn ring(self) {
        struct Rest<I: Iterator<Item = Bell>>(I);

        impl<I: Iterator<Item = Bell>> Drop for Rest<I> {
            fn drop(&mut self) {
                self.0.by_ref().for_each(Bell::ring);
            }
        }

        let mut rest = Rest(self.first.into_iter().chain(self.more));
        for bell in rest.0.by_ref() {
            bell.ring();
        }
    }
}
