// error[E0061]
use layout_lease::{BlockMap, Drained, PageRange};

/// The map of an engine is called with the evidence in hand.
fn free<M: BlockMap>(map: &M, pages: PageRange, proof: &Drained<'_, M>) {
    #[cfg(wrong)]
    let _ = map.punch_hole(pages);
    let _ = map.punch_hole(pages, proof);
}
