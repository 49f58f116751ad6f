// error[E0277]
use layout_lease::{Drained, LayoutGuard};

fn made_of_nothing<T: Default>() -> T {
    T::default()
}

/// Only a break that has drained its pages makes a proof.
fn proof(guard: &LayoutGuard<()>) -> Option<Drained<'_, ()>> {
    let _guard: LayoutGuard<()> = made_of_nothing();
    #[cfg(wrong)]
    return Some(made_of_nothing());
    #[cfg(not(wrong))]
    guard.break_layouts(0..1).wait().ok()
}
