// error[E0308]
use layout_lease::{BlockMap, LayoutGuard, PageRange};

/// Neither the guard, nor a break that has not ended, is the evidence.
fn free<M: BlockMap>(guard: &LayoutGuard<M>, pages: PageRange) {
    let breaking = guard.break_layouts(pages);
    #[cfg(wrong)]
    let _ = guard.map().punch_hole(pages, &breaking);
    if let Ok(proof) = breaking.wait() {
        let _ = guard.map().punch_hole(pages, &proof);
    }
}
