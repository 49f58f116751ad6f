// error[E0277]
use layout_lease::LayoutGuard;
use std::cell::Cell;
use std::sync::Mutex;

fn shared<T: Sync>(_: &T) {}

/// Who shares a guard shares its map.
fn share(_one: &LayoutGuard<Cell<u8>>, any: &LayoutGuard<Mutex<u8>>) {
    #[cfg(wrong)]
    shared(_one);
    shared(any);
}
