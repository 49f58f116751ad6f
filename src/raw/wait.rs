//! Two ways to wait for one thing: a future and a blocking call over the same state machine.
//!
//! Every waitable is a state machine whose [`step`](Step::step) either ends or leaves word with its entry
//! in the queue how its waiter is to be woken, under the lock under which the entry changes. So there is
//! no window between looking and listening (I6). Each entry has an event and a waker of its own: a wake
//! cannot be eaten by another waiter, and dropping one has none to pass on (I8).
//!
//! Wakers are other people's code, which may drop or run the task on the spot, and the task may hold
//! pins and breaks. So nothing of theirs is called or dropped under a lock, neither one of ours nor one of
//! the event's; a task's waker is therefore kept beside the event, not in it.

use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::sync::{Event, EventListener, Listener};

/// How the waiter of a step is to be woken.
pub(crate) enum Via<'a> {
    Task(&'a Waker),
    /// Blocks on the listener that is left here.
    Thread(&'a mut Option<EventListener>),
    /// Only looks. What an earlier step has left stays.
    Nobody,
}

/// A state machine that can be waited for.
pub(crate) trait Step {
    type Output;

    /// Goes as far as it can. `Pending` means that word has been left how to wake the waiter.
    fn step(&mut self, via: Via<'_>) -> Poll<Self::Output>;
}

/// Where an entry of the queue is told how its waiter is to be woken.
#[derive(Default)]
pub(crate) struct Bell {
    event: Event,
    task: Option<Waker>,
}

/// What [`Bell::hang`] needs, made before the lock is taken; dropped when it is released again, with
/// whatever it has replaced.
pub(crate) enum Rope<'a> {
    Task(Option<Waker>),
    Thread(&'a mut Option<EventListener>),
    Nobody,
}

impl<'a> From<Via<'a>> for Rope<'a> {
    fn from(via: Via<'a>) -> Self {
        match via {
            Via::Task(waker) => Rope::Task(Some(waker.clone())),
            Via::Thread(listener) => Rope::Thread(listener),
            Via::Nobody => Rope::Nobody,
        }
    }
}

impl Bell {
    /// Leaves word how to wake the waiter. Under the lock.
    pub(crate) fn hang(&mut self, rope: &mut Rope<'_>) {
        match rope {
            Rope::Task(waker) => std::mem::swap(&mut self.task, waker),
            Rope::Thread(listener) => **listener = Some(self.event.listen()),
            Rope::Nobody => {}
        }
    }

    /// Wakes the waiter. Not under a lock.
    pub(crate) fn ring(self) {
        self.event.notify(usize::MAX);
        if let Some(waker) = self.task {
            waker.wake();
        }
    }
}

pub(crate) fn poll<S: Step>(waitable: &mut S, cx: &mut Context<'_>) -> Poll<S::Output> {
    waitable.step(Via::Task(cx.waker()))
}

pub(crate) fn block<S: Step>(mut waitable: S) -> S::Output {
    loop {
        let mut listener = None;
        if let Poll::Ready(output) = waitable.step(Via::Thread(&mut listener)) {
            return output;
        }
        if let Some(listener) = listener {
            listener.wait();
        }
    }
}

/// `None`: still waiting.
pub(crate) fn block_until<S: Step>(waitable: &mut S, deadline: Instant) -> Option<S::Output> {
    loop {
        let mut listener = None;
        if let Poll::Ready(output) = waitable.step(Via::Thread(&mut listener)) {
            return Some(output);
        }
        if listener?.wait_deadline(deadline).is_none() {
            // A last look: what we waited for may have come just now.
            return match waitable.step(Via::Nobody) {
                Poll::Ready(output) => Some(output),
                Poll::Pending => None,
            };
        }
    }
}

/// The moment `timeout` from now, or one that nobody lives to see.
pub(crate) fn deadline(timeout: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    let now = Instant::now();
    let moment = now.checked_add(timeout).or_else(|| now.checked_add(FAR));
    moment.unwrap_or(now)
}

/// Gives a [`Step`] its future and its blocking calls.
macro_rules! waitable {
    (
        impl [$($generics:tt)*] $ty:ty => $output:ty;
        panic: $panic:literal;
    ) => {
        impl<$($generics)*> Future for $ty {
            type Output = $output;

            fn poll(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Self::Output> {
                $crate::raw::wait::poll(self.get_mut(), cx)
            }
        }

        impl<$($generics)*> $ty {
            /// Blocks the thread until there is an output.
            ///
            /// # Panics
            ///
            #[doc = $panic]
            pub fn wait(self) -> $output {
                $crate::raw::wait::block(self)
            }

            /// Blocks the thread until there is an output or `timeout` has passed. `None`: still
            /// waiting. The value stays usable, and what is closed stays closed.
            ///
            /// A zero timeout looks once and does not block.
            ///
            /// # Panics
            ///
            #[doc = $panic]
            pub fn wait_timeout(&mut self, timeout: std::time::Duration) -> Option<$output> {
                self.wait_deadline($crate::raw::wait::deadline(timeout))
            }

            /// Blocks the thread until there is an output or `deadline` has come. `None`: still
            /// waiting. The value stays usable, and what is closed stays closed.
            ///
            /// # Panics
            ///
            #[doc = $panic]
            pub fn wait_deadline(&mut self, deadline: std::time::Instant) -> Option<$output> {
                $crate::raw::wait::block_until(self, deadline)
            }
        }
    };
}

pub(crate) use waitable;
