//! loom's part of the door: every schedule of small models.

use std::cell::Cell;

pub(crate) use loom as checker;

/// A deadline has always come.
pub(super) fn looks_before_a_deadline() -> usize {
    1
}

pub(super) fn let_others_run() {}

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

std::thread_local! {
    /// What [`see_own_loads`] has said. The threads of a model are all on one thread of the machine.
    static OWN_LOADS: Cell<bool> = const { Cell::new(false) };
}

/// Whether the models that follow on this thread see the loads of who is about to store.
///
/// loom finds out what depends on a store by the last access before it, and tries the two the other way round, too.
/// Where a thread loads what it is about to store, that load is the last, and hides the loads of others before it: then
/// no schedule is tried in which these come behind the store. So such a load can be made an update that changes nothing,
/// which is like a store to loom. It reads what is there, as such a load must, and keeps what stores before it have
/// released. Models are ten times as large by that.
pub(crate) fn see_own_loads(all: bool) {
    OWN_LOADS.with(|own| own.set(all));
}

pub(crate) fn own_loads_are_seen() -> bool {
    OWN_LOADS.with(Cell::get)
}

/// A load by the one thread that may store at that time.
macro_rules! load_own {
    ($word:expr, $order:expr) => {
        if $crate::sync::own_loads_are_seen() {
            $word.fetch_or(0, $order)
        } else {
            $word.load($order)
        }
    };
}

pub(crate) use {load_own, thread_cell, thread_owned};
