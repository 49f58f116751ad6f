// error[E0382]
use layout_lease::{PagePin, PinToken};

/// The pin is where its number is: dropped here, it would end under the device.
fn submit(pin: PagePin) -> PinToken {
    let _pages = pin.range();
    let token = pin.into_token();
    #[cfg(wrong)]
    drop(pin);
    token
}
