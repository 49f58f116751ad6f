//! The only door to atomics, locks, fences, events, statics and thread locals.
//!
//! Everything that orders one thread against another comes through here, so that one `cfg`
//! (`lease_loom` or `lease_shuttle`) puts the whole crate under a model checker. The door re-exports;
//! where the model checker's types have another shape, a thin twin with the same shape stands in.

/// Whether a model checker takes the place of the hardware: tables are small then, so that what is rare in
/// life (a full block, a table that grows, a countdown that runs out) is the common case.
pub(crate) const MODEL: bool = cfg!(any(lease_loom, lease_shuttle));

#[cfg(not(any(lease_loom, lease_shuttle)))]
mod real {
    pub(crate) use crossbeam_utils::atomic::AtomicCell;
    pub(crate) use event_listener::{Event, EventListener, Listener};
    pub(crate) use parking_lot::{Mutex, MutexGuard};
    pub(crate) use std::hint::spin_loop;
    pub(crate) use std::sync::atomic::{
        AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence, fence,
    };

    /// A process-wide value.
    macro_rules! process_static {
        ($(#[$attr:meta])* static $name:ident: $ty:ty = $init:expr;) => {
            $(#[$attr])*
            static $name: $ty = $init;
        };
    }

    /// A thread-local value without a destructor: reachable for as long as the thread runs.
    macro_rules! thread_cell {
        ($(#[$attr:meta])* static $name:ident: $ty:ty = $init:expr;) => {
            std::thread_local! {
                $(#[$attr])*
                static $name: $ty = const { $init };
            }
        };
    }

    /// A thread-local value whose destructor runs when the thread exits.
    macro_rules! thread_owned {
        ($(#[$attr:meta])* static $name:ident: $ty:ty = $init:expr;) => {
            std::thread_local! {
                $(#[$attr])*
                static $name: $ty = $init;
            }
        };
    }

    /// A constructor that is `const` except under the model checker.
    macro_rules! const_new {
        ($(#[$attr:meta])* $vis:vis fn $name:ident() -> Self $body:block) => {
            $(#[$attr])*
            $vis const fn $name() -> Self $body
        };
    }

    /// A load by the one thread that may store at that time.
    macro_rules! load_own {
        ($word:expr, $order:expr) => {
            $word.load($order)
        };
    }

    /// Whether the crate is to be broken in this one place, to see who notices: see `scripts/mutants.sh`.
    macro_rules! mutant {
        ($name:literal) => {
            cfg!(lease_mutant = $name)
        };
    }

    /// An ordering, and the mutant that takes it away.
    macro_rules! order {
        ($order:ident, $name:literal) => {
            const {
                if $crate::sync::mutant!($name) {
                    $crate::sync::Ordering::Relaxed
                } else {
                    $crate::sync::Ordering::$order
                }
            }
        };
    }

    pub(crate) use {
        const_new, load_own, mutant, order, process_static, thread_cell, thread_owned,
    };
}

#[cfg(not(any(lease_loom, lease_shuttle)))]
pub(crate) use real::*;

#[cfg(lease_loom)]
mod by_loom;
#[cfg(lease_shuttle)]
mod by_shuttle;
#[cfg(any(lease_loom, lease_shuttle))]
mod model;
#[cfg(any(lease_loom, lease_shuttle))]
pub(crate) use model::*;
