// error: unused return value of `
use layout_lease::PagePin;

/// Whoever has the number has the pin.
fn submit(pin: PagePin) -> u64 {
    #[cfg(wrong)]
    pin.into_token().to_u64();
    #[cfg(wrong)]
    return 0;
    #[cfg(not(wrong))]
    pin.into_token().to_u64()
}
