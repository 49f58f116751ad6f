// error[E0308]
use layout_lease::maps::ExtentMap;
use layout_lease::{BlockMap, Drained, LayoutGuard, PageRange};

/// A proof of one kind of map is none for another.
fn free(
    map: &ExtentMap,
    pages: PageRange,
    proof: &Drained<'_, ExtentMap>,
    other: &LayoutGuard<()>,
) {
    let other = other.break_layouts(..).wait().unwrap();
    let _ = map.punch_hole(pages, proof);
    #[cfg(wrong)]
    let _ = map.punch_hole(pages, &other);
    drop(other);
}
