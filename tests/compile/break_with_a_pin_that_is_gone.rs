// error[E0382]
use layout_lease::{LayoutGuard, PagePin};

/// `into_break` takes the pin: nobody waits for himself.
fn free(guard: &LayoutGuard<()>, pin: PagePin) {
    #[cfg(wrong)]
    drop(pin);
    let _ = pin.into_break(guard);
}
