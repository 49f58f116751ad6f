// error[E0599]
use layout_lease::LayoutGuard;

/// The first drop of two would reopen the pages under the other.
fn twice(guard: &LayoutGuard<()>) {
    let proof = guard.break_layouts(0..1).wait().unwrap();
    #[cfg(wrong)]
    drop(proof.clone());
    drop(proof);
}
