//! Two ways to wait for one thing: a future and a blocking call over the same state machine.
//!
//! Every waitable is a state machine whose [`step`](Step::step) either ends or leaves a listener behind,
//! registered under the lock under which the state changes. So there is no window between looking and
//! listening (I6), and each waiter has an event of its own: a wake cannot be eaten by another waiter,
//! and dropping one has none to pass on (I8).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::sync::{EventListener, Listener};

/// A state machine that can be waited for.
pub(crate) trait Step {
    type Output;

    /// Goes as far as it can. `Pending` means that [`listener`](Self::listener) holds a listener that
    /// is notified when it can go further.
    fn step(&mut self) -> Poll<Self::Output>;

    fn listener(&mut self) -> &mut Option<EventListener>;
}

pub(crate) fn poll<S: Step>(waitable: &mut S, cx: &mut Context<'_>) -> Poll<S::Output> {
    loop {
        if let Poll::Ready(output) = waitable.step() {
            *waitable.listener() = None;
            return Poll::Ready(output);
        }
        if let Some(listener) = waitable.listener() {
            if Pin::new(listener).poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        *waitable.listener() = None;
    }
}

pub(crate) fn block<S: Step>(mut waitable: S) -> S::Output {
    loop {
        if let Poll::Ready(output) = waitable.step() {
            return output;
        }
        if let Some(listener) = waitable.listener().take() {
            listener.wait();
        }
    }
}

/// `None`: still waiting.
pub(crate) fn block_until<S: Step>(waitable: &mut S, deadline: Instant) -> Option<S::Output> {
    loop {
        if let Poll::Ready(output) = waitable.step() {
            *waitable.listener() = None;
            return Some(output);
        }
        let listener = waitable.listener().take()?;
        if listener.wait_deadline(deadline).is_none() {
            // A last look: what we waited for may have come just now.
            return match waitable.step() {
                Poll::Ready(output) => {
                    *waitable.listener() = None;
                    Some(output)
                }
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
