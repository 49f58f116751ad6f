// error[E0277]
use layout_lease::LayoutGuard;
use std::cell::Cell;

fn sent<T: Send>(_: T) {}

/// With the proof its map would get to another thread.
fn send(one: &LayoutGuard<Cell<u8>>, any: &LayoutGuard<u8>) {
    let _proof = one.break_layouts(..).wait().unwrap();
    #[cfg(wrong)]
    sent(_proof);
    sent(any.break_layouts(..).wait().unwrap());
    sent(one.try_pin(0..1)); // pins know nothing of the map
}
