// error[E0599]
use layout_lease::LayoutGuard;
use layout_lease::maps::ExtentMap;

/// A guard of nothing has pins and proofs, and no blocks to free.
fn free(bare: &LayoutGuard<()>, guard: &LayoutGuard<ExtentMap>) {
    let _ = bare.break_layouts(0..1).wait();
    #[cfg(wrong)]
    let _ = bare.punch_hole(0..1).wait();
    let _ = guard.punch_hole(0..1).wait();
}
