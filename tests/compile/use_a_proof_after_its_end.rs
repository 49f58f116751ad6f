// error[E0382]
use layout_lease::maps::ExtentMap;
use layout_lease::{Drained, PageRange};

/// What is open again is not free to free.
fn free(proof: Drained<'_, ExtentMap>, pages: PageRange) {
    #[cfg(wrong)]
    drop(proof);
    let _ = proof.punch_hole(pages);
}
