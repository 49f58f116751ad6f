// error[E0599]
use layout_lease::PagePin;

/// A pin ends once.
fn twice(pin: PagePin) {
    #[cfg(wrong)]
    drop(pin.clone());
    drop(pin);
}
