// error[E0505]
use layout_lease::LayoutGuard;
use std::sync::Arc;

/// One that must stay keeps the guard alive itself: `break_layouts_arc`.
fn keep(guard: Arc<LayoutGuard<()>>) {
    let kept = guard.break_layouts_arc(0..1);
    let breaking = guard.break_layouts(1..2);
    #[cfg(wrong)]
    drop(guard);
    drop(breaking);
    drop(kept);
}
