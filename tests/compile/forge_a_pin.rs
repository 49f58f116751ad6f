// error[E0451]
use layout_lease::{LayoutGuard, PagePin};

/// Only the guard has pins.
fn pin(guard: &LayoutGuard<()>) -> PagePin {
    let pin = guard.try_pin(0..1).unwrap();
    #[cfg(wrong)]
    let pin = PagePin { ..pin };
    pin
}
