// error: unused return value of `
use std::time::Duration;

use layout_lease::LayoutGuard;

/// Whether the pages were free in time is in the answer.
fn drained(guard: &LayoutGuard<()>) -> bool {
    let mut breaking = guard.break_layouts(0..4);
    #[cfg(wrong)]
    breaking.wait_timeout(Duration::from_secs(1));
    breaking.wait_timeout(Duration::from_secs(1)).is_some()
}
