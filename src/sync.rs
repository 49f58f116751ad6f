//! The only door to atomics, locks, fences, events, statics and thread locals.
//!
//! Everything that orders one thread against another comes through here, so that one `cfg`
//! (`lease_loom`) puts the whole crate under a model checker. The door re-exports; where the model
//! checker's types have another shape, a thin twin with the same shape stands in.

#[cfg(not(lease_loom))]
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

    pub(crate) use {const_new, process_static, thread_cell, thread_owned};
}

#[cfg(not(lease_loom))]
pub(crate) use real::*;

#[cfg(lease_loom)]
mod model;
#[cfg(lease_loom)]
pub(crate) use model::*;
