// error[E0596]
use layout_lease::{Drained, DrainedMany, LayoutGuard};

/// Asks for a proof that nobody else has.
fn write(_: &mut Drained<'_, ()>) {}
fn look(_: &Drained<'_, ()>) {}

/// What a proof of several guards lends, it may lend to others as well.
fn several(guard: &LayoutGuard<()>, many: &DrainedMany<'_>) {
    let Some(mut _lent) = many.of(guard) else {
        return;
    };
    look(&_lent);
    #[cfg(wrong)]
    write(&mut _lent);
    write(&mut guard.break_layouts(..).wait().unwrap());
}
