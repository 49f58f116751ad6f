//! The door under a model checker: loom's types, and thin twins with the shape of the real ones where
//! loom has none.
//!
//! Statics and thread locals are loom's, so every explored execution starts with a fresh process.

use std::sync::Arc;
use std::time::Instant;

pub(crate) use crossbeam_utils::atomic::AtomicCell;
pub(crate) use loom::sync::MutexGuard;
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::atomic::compiler_fence;

/// A lock with the shape of the real one.
#[derive(Default)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
        match self.0.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    pub(crate) fn try_lock(&self) -> Option<loom::sync::MutexGuard<'_, T>> {
        self.0.try_lock().ok()
    }
}

/// An event with the shape of the real one, as far as it is used: each has one listener at a time, which
/// is registered and notified once.
#[derive(Default)]
pub(crate) struct Event(Arc<Bell>);

#[derive(Default)]
struct Bell {
    rung: loom::sync::Mutex<bool>,
    heard: loom::sync::Condvar,
}

impl Event {
    pub(crate) fn listen(&self) -> EventListener {
        EventListener(Arc::clone(&self.0))
    }

    pub(crate) fn notify(&self, _n: usize) {
        if let Ok(mut rung) = self.0.rung.lock() {
            *rung = true;
        }
        self.0.heard.notify_all();
    }
}

pub(crate) struct EventListener(Arc<Bell>);

/// The blocking half of a listener.
pub(crate) trait Listener {
    fn wait(self);
    fn wait_deadline(self, deadline: Instant) -> Option<()>;
}

impl Listener for EventListener {
    fn wait(self) {
        let Ok(mut rung) = self.0.rung.lock() else {
            return;
        };
        while !*rung {
            match self.0.heard.wait(rung) {
                Ok(again) => rung = again,
                Err(_) => return,
            }
        }
    }

    /// There is no clock in a model: the deadline has always come, unless the bell has rung before.
    fn wait_deadline(self, _deadline: Instant) -> Option<()> {
        self.0.rung.lock().ok().filter(|rung| **rung).map(drop)
    }
}

macro_rules! process_static {
    ($(#[$attr:meta])* static $name:ident: $ty:ty = $init:expr;) => {
        loom::lazy_static! {
            $(#[$attr])*
            static ref $name: $ty = $init;
        }
    };
}

macro_rules! thread_cell {
    ($(#[$attr:meta])* static $name:ident: $ty:ty = $init:expr;) => {
        loom::thread_local! {
            $(#[$attr])*
            static $name: $ty = $init;
        }
    };
}

macro_rules! thread_owned {
    ($($t:tt)*) => {
        $crate::sync::thread_cell! { $($t)* }
    };
}

macro_rules! const_new {
    ($(#[$attr:meta])* $vis:vis fn $name:ident() -> Self $body:block) => {
        $(#[$attr])*
        $vis fn $name() -> Self $body
    };
}

pub(crate) use {const_new, process_static, thread_cell, thread_owned};
