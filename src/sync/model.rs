//! The door under a model checker: its types, and thin twins with the shape of the real ones where it has
//! none. loom explores every schedule of small models, shuttle draws schedules of large ones.
//!
//! Statics and thread locals are the checker's, so every execution starts with a fresh process.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

#[cfg(lease_loom)]
pub(crate) use super::by_loom::*;
#[cfg(lease_shuttle)]
pub(crate) use super::by_shuttle::*;

pub(crate) use checker::sync::MutexGuard;
pub(crate) use checker::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
pub(crate) use crossbeam_utils::atomic::AtomicCell;
pub(crate) use std::hint::spin_loop;

/// A lock with the shape of the real one.
#[derive(Default)]
pub(crate) struct Mutex<T>(checker::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(checker::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        match self.0.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok()
    }
}

/// An event with the shape of the real one, as far as it is used: each has one listener at a time, which
/// is registered and notified once. Like the real one it owns nothing until somebody listens, so that it may be
/// forgotten as long as nobody has: a run of millions of schedules would see that grow.
#[derive(Default)]
pub(crate) struct Event(OnceLock<Arc<Bell>>);

#[derive(Default)]
struct Bell {
    rung: checker::sync::Mutex<bool>,
    heard: checker::sync::Condvar,
}

impl Event {
    pub(crate) fn listen(&self) -> EventListener {
        EventListener(Arc::clone(self.0.get_or_init(Arc::default)))
    }

    pub(crate) fn notify(&self, _n: usize) {
        let Some(bell) = self.0.get() else {
            return;
        };
        if let Ok(mut rung) = bell.rung.lock() {
            *rung = true;
        }
        bell.heard.notify_all();
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

    /// There is no clock in a model: the deadline has come when the checker says so, unless the bell has
    /// rung before.
    fn wait_deadline(self, _deadline: Instant) -> Option<()> {
        (0..looks_before_a_deadline()).find_map(|n| {
            if n > 0 {
                let_others_run();
            }
            self.0.rung.lock().ok().filter(|rung| **rung).map(drop)
        })
    }
}

macro_rules! process_static {
    ($(#[$attr:meta])* static $name:ident: $ty:ty = $init:expr;) => {
        $crate::sync::checker::lazy_static! {
            $(#[$attr])*
            static ref $name: $ty = $init;
        }
    };
}

macro_rules! const_new {
    ($(#[$attr:meta])* $vis:vis fn $name:ident() -> Self $body:block) => {
        $(#[$attr])*
        $vis fn $name() -> Self $body
    };
}

/// Which mutant this process is: one build has them all in it.
pub(crate) fn is_mutant(name: &str) -> bool {
    static MUTANT: OnceLock<Option<String>> = OnceLock::new();
    let mutant = MUTANT.get_or_init(|| std::env::var("LEASE_MUTANT").ok());
    mutant.as_deref() == Some(name)
}

macro_rules! mutant {
    ($name:literal) => {
        (cfg!(lease_mutant = $name) || $crate::sync::is_mutant($name))
    };
}

macro_rules! order {
    ($order:ident, $name:literal) => {
        if $crate::sync::mutant!($name) {
            $crate::sync::Ordering::Relaxed
        } else {
            $crate::sync::Ordering::$order
        }
    };
}

pub(crate) use {const_new, mutant, order, process_static};
