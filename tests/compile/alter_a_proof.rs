// error[E0616]
use layout_lease::{Drained, PageRange};

/// What a proof covers is what was drained, and stays so.
fn alter(proof: &mut Drained<'_, ()>, mut _pages: Vec<PageRange>) {
    _pages.extend_from_slice(proof.ranges());
    #[cfg(wrong)]
    proof.ranges.extend(_pages);
}
