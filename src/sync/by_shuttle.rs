//! shuttle's part of the door: schedules of large scenes, drawn.

use std::cell::Cell;
use std::mem;

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread::{AccessError, LocalKey};

pub(crate) use shuttle as checker;

/// A deadline comes now, soon or late.
pub(super) fn looks_before_a_deadline() -> usize {
    1 << thread_rng().gen_range(0..4)
}

pub(super) fn let_others_run() {
    shuttle::thread::yield_now();
}

/// shuttle drops every thread local at the end of a thread, and those without a destructor are used by the
/// destructors of others. So there is a twin which after that is what it was in the beginning.
macro_rules! thread_cell {
    ($(#[$attr:meta])* static $name:ident: $ty:ty = $init:expr;) => {
        $(#[$attr])*
        static $name: $crate::sync::ThreadCell<$ty> = $crate::sync::ThreadCell {
            key: {
                shuttle::thread_local! {
                    static KEY: $ty = $init;
                }
                &KEY
            },
            init: || $init,
        };
    };
}

pub(crate) struct ThreadCell<T: 'static> {
    pub(crate) key: &'static LocalKey<T>,
    pub(crate) init: fn() -> T,
}

impl<T: 'static> ThreadCell<T> {
    pub(crate) fn with<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        match self.key.try_with(|_| ()) {
            Ok(()) => self.key.with(f),
            Err(_) => f(&(self.init)()),
        }
    }

    pub(crate) fn try_with<R>(&self, f: impl FnOnce(&T) -> R) -> Result<R, AccessError> {
        Ok(self.with(f))
    }
}

/// After a failure shuttle drops the statics first and then the thread locals of those who were in the middle
/// of something, whose destructors would need the statics. So there is a twin that lets those be.
macro_rules! thread_owned {
    ($(#[$attr:meta])* static $name:ident: $ty:ty = $init:expr;) => {
        $(#[$attr])*
        static $name: $crate::sync::ThreadOwned<$ty> = $crate::sync::ThreadOwned({
            shuttle::thread_local! {
                static KEY: $crate::sync::Belonging<$ty> = $crate::sync::Belonging::new($init);
            }
            &KEY
        });
    };
}

pub(crate) struct ThreadOwned<T: 'static>(pub(crate) &'static LocalKey<Belonging<T>>);

impl<T: 'static> ThreadOwned<T> {
    pub(crate) fn try_with<R>(&self, f: impl FnOnce(&T) -> R) -> Result<R, AccessError> {
        self.0.try_with(|belonging| match &belonging.0 {
            Some(value) => f(value),
            None => unreachable!("only the drop takes it out"),
        })
    }
}

/// Dropped with its thread, but not behind the statics.
pub(crate) struct Belonging<T>(Option<T>);

impl<T> Belonging<T> {
    pub(crate) fn new(value: T) -> Self {
        let _: &Era = &ERA;
        Self(Some(value))
    }
}

impl<T> Drop for Belonging<T> {
    fn drop(&mut self) {
        if !STATICS.with(Cell::get) {
            mem::forget(self.0.take());
        }
    }
}

std::thread_local! {
    /// Whether the statics of the execution that this thread of the machine is at are there.
    static STATICS: Cell<bool> = const { Cell::new(false) };
}

/// There for as long as the statics are.
struct Era;

impl Era {
    fn new() -> Self {
        STATICS.with(|there| there.set(true));
        Self
    }
}

impl Drop for Era {
    fn drop(&mut self) {
        STATICS.with(|there| there.set(false));
    }
}

shuttle::lazy_static! {
    static ref ERA: Era = Era::new();
}

/// A load by the one thread that may store at that time.
macro_rules! load_own {
    ($word:expr, $order:expr) => {
        $word.load($order)
    };
}

pub(crate) use {load_own, thread_cell, thread_owned};
