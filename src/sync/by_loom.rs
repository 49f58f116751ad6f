//! loom's part of the door: every schedule of small models.

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

pub(crate) use {thread_cell, thread_owned};
