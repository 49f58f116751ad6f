// error[E0382]
use layout_lease::PinToken;

/// It redeems its pin once.
fn twice(token: PinToken) {
    #[cfg(wrong)]
    drop(token.redeem());
    drop(token.redeem());
}
