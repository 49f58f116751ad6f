// error[E0505]
use layout_lease::LayoutGuard;

/// A proof of a guard that is gone would be one of nothing.
fn keep(guard: LayoutGuard<()>) {
    let proof = guard.break_layouts(0..1).wait().unwrap();
    #[cfg(wrong)]
    drop(guard);
    drop(proof);
}
